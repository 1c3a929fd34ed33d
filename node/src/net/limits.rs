//! Every bound of the network layer, in one place, with its unit and the reason for its default.
//!
//! It never measures or enforces anything; the modules that own a resource read their bound here.

/// Largest request frame of `/echonet/node/1`, bytes.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// Largest response frame of `/echonet/node/1`, bytes.
pub const RESPONSE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// QUIC transport bounds of the one endpoint.
#[derive(Debug, Clone)]
pub struct TransportLimits {
    /// Flow-control window of one stream, bytes. At 3 MiB and more, connections whose reader
    /// stalls die ("too many gaps in stream buffer", measured); values above
    /// [`STREAM_WINDOW_BYTES_CEILING`] are lowered to it.
    pub stream_window_bytes: u32,
    /// Unread bytes one connection may make us hold over all of its streams.
    pub connection_window_bytes: u32,
    /// Unacknowledged bytes we keep for one connection.
    pub send_window_bytes: u64,
    /// Bidirectional streams a peer may have open on one connection.
    pub streams_per_connection_max: u32,
    /// Silence after which a connection is dead.
    pub idle_ms_max: u32,
    /// Entries of the address book (node ids whose addresses are remembered).
    pub address_book_max: usize,
    /// Addresses kept per node id.
    pub addresses_per_node_max: usize,
}

/// The largest stream window that survived a stalled reader in measurements, bytes.
pub const STREAM_WINDOW_BYTES_CEILING: u32 = 2 * 1024 * 1024;

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            stream_window_bytes: STREAM_WINDOW_BYTES_CEILING,
            connection_window_bytes: 8 * 1024 * 1024,
            send_window_bytes: 8 * 1024 * 1024,
            streams_per_connection_max: 128,
            idle_ms_max: 20_000,
            address_book_max: 16_384,
            addresses_per_node_max: 8,
        }
    }
}

/// Bounds on accepted connections of one protocol.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Live connections over all peers.
    pub total_max: usize,
    /// Live connections of one node id.
    pub per_peer_max: usize,
    /// Live connections of one observed prefix (/24 or /48): node ids are free, addresses less so.
    pub per_prefix_max: usize,
}

/// Bounds applied before a handshake is paid for.
#[derive(Debug, Clone)]
pub struct HandshakeLimits {
    /// Handshakes a second over all sources.
    pub total_per_s_max: u32,
    /// Handshakes a second from one observed prefix.
    pub per_prefix_per_s_max: u32,
    /// Prefixes whose rate is remembered; beyond it the idle ones are forgotten.
    pub prefixes_max: usize,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self { total_per_s_max: 500, per_prefix_per_s_max: 100, prefixes_max: 8_192 }
    }
}

/// Bounds of the server side of `/echonet/node/1`.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Accepted connections.
    pub connections: ConnectionLimits,
    /// Requests served at once, over all peers.
    pub streams_total_max: usize,
    /// Requests of one peer served at once, over all of its connections.
    pub streams_per_peer_max: usize,
    /// Requests a second of one peer, sustained; the burst is the same number.
    pub requests_per_s_max: u32,
    /// Refusals in a row after which the connection is closed.
    pub refusals_in_a_row_max: u32,
    /// Longest time one request may take, bulk bytes included.
    pub request_ms_max: u64,
    /// Longest time a connection may stay without an open request.
    pub connection_idle_ms_max: u64,
    /// Peers whose rate is remembered; beyond it the idle ones are forgotten.
    pub peers_remembered_max: usize,
    /// Patience on each stream.
    pub stream: StreamLimits,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: ConnectionLimits {
                total_max: 1_024,
                per_peer_max: 8,
                per_prefix_max: 128,
            },
            streams_total_max: 2_048,
            streams_per_peer_max: 64,
            requests_per_s_max: 2_000,
            refusals_in_a_row_max: 64,
            request_ms_max: 15 * 60 * 1_000,
            connection_idle_ms_max: 60_000,
            peers_remembered_max: 4_096,
            stream: StreamLimits::default(),
        }
    }
}

/// Patience with a peer on one stream: what a slow-loris may cost.
#[derive(Debug, Clone, Copy)]
pub struct StreamLimits {
    /// Longest wait for one whole frame, however it drips in.
    pub frame_ms_max: u64,
    /// Longest wait for the next byte of bulk data, in either direction.
    pub idle_ms_max: u64,
    /// After [`Self::bulk_grace_ms`], bulk data slower than this on average ends the stream.
    pub bulk_bytes_per_s_min: u64,
    /// How long bulk data may be slow before the average counts.
    pub bulk_grace_ms: u64,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            frame_ms_max: 15_000,
            idle_ms_max: 10_000,
            bulk_bytes_per_s_min: 1_024,
            bulk_grace_ms: 10_000,
        }
    }
}

/// Bounds of the client's connection pool.
#[derive(Debug, Clone)]
pub struct PoolLimits {
    /// Connections kept open; beyond it the least recently used is let go.
    pub connections_max: usize,
    /// Unused time after which a connection is let go.
    pub idle_ms_max: u64,
    /// Longest wait for a connection.
    pub dial_ms_max: u64,
    /// Dials running at once.
    pub dials_max: usize,
    /// Patience on each stream.
    pub stream: StreamLimits,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            connections_max: 512,
            idle_ms_max: 30_000,
            dial_ms_max: 2_000,
            dials_max: 64,
            stream: StreamLimits::default(),
        }
    }
}

/// When a node that was asked counts as silent: it is ranked after others, and hedged around.
#[derive(Debug, Clone)]
pub struct SilenceLimits {
    /// Shortest time that a node has to begin its answer: what a busy machine takes.
    pub patience_ms_min: u64,
    /// Longest time, and the one as long as nobody has answered.
    pub patience_ms_max: u64,
    /// Answers whose times are remembered.
    pub answers_max: usize,
    /// How long silence is remembered once nothing is asked any more.
    pub forget_ms: u64,
    /// Nodes remembered, as long as fewer are being asked.
    pub nodes_max: usize,
}

impl Default for SilenceLimits {
    fn default() -> Self {
        Self {
            patience_ms_min: 50,
            patience_ms_max: 500,
            answers_max: 64,
            forget_ms: 15_000,
            nodes_max: 4_096,
        }
    }
}

/// How long a failed dial is remembered.
#[derive(Debug, Clone)]
pub struct DialMemoryLimits {
    /// After the first failure; doubled by each further one.
    pub first_ms: u64,
    /// Longest time.
    pub longest_ms: u64,
    /// Node ids remembered; beyond it the oldest failure is forgotten.
    pub nodes_max: usize,
}

impl Default for DialMemoryLimits {
    fn default() -> Self {
        Self { first_ms: 2_000, longest_ms: 15_000, nodes_max: 4_096 }
    }
}

/// Bounds of the DHT router.
#[derive(Debug, Clone)]
pub struct KadLimits {
    /// Connections of the kad protocol, both directions for the total, accepted for the others.
    pub connections: ConnectionLimits,
    /// Accepted connections waiting for the swarm; beyond it they are closed.
    pub inbox_max: usize,
    /// Commands waiting for the swarm.
    pub commands_max: usize,
    /// Lookups running at once; more of them wait within their deadline.
    pub lookups_max: usize,
    /// Longest life of one lookup inside kad, whatever deadline the caller has.
    pub lookup_ms_max: u64,
    /// Longest wait for a connection.
    pub dial_ms_max: u64,
    /// Longest wait for an answer on a substream (kad's own default stalls a query for 10 s).
    pub substream_ms_max: u64,
    /// Unused time after which a kad connection closes: iroh sends heartbeats every 5 s on each.
    pub connection_idle_ms_max: u64,
    /// Described nodes remembered, in and out of the routing table.
    pub known_peers_max: usize,
    /// Strangers waiting to be asked for their descriptor.
    pub strangers_max: usize,
    /// Dial failures in a row after which a peer leaves the routing table.
    pub failures_in_a_row_max: u32,
    /// Time between refreshes of the routing table.
    pub refresh_ms: u64,
    /// Keyspace regions remembered.
    pub regions_max: usize,
    /// Life of a remembered region.
    pub region_ttl_ms: u64,
    /// Life of a region that is the whole network (fewer peers than one bucket answered).
    pub region_whole_ttl_ms: u64,
}

impl Default for KadLimits {
    fn default() -> Self {
        Self {
            connections: ConnectionLimits { total_max: 512, per_peer_max: 4, per_prefix_max: 64 },
            inbox_max: 64,
            commands_max: 4_096,
            lookups_max: 64,
            lookup_ms_max: 30_000,
            dial_ms_max: 2_000,
            substream_ms_max: 3_000,
            connection_idle_ms_max: 10_000,
            known_peers_max: 4_096,
            strangers_max: 256,
            failures_in_a_row_max: 3,
            refresh_ms: 5 * 60 * 1_000,
            regions_max: 1_024,
            region_ttl_ms: 60_000,
            region_whole_ttl_ms: 10_000,
        }
    }
}

/// Bounds of the record store.
#[derive(Debug, Clone)]
pub struct RecordLimits {
    /// Largest record, bytes.
    pub record_bytes_max: usize,
    /// Bytes charged for each record besides its own: indexes and map entries.
    pub record_overhead_bytes: usize,
    /// Records kept under one key.
    pub per_key_max: usize,
    /// Records of one publisher.
    pub per_publisher_max: usize,
    /// Charged bytes of one publisher.
    pub per_publisher_bytes_max: usize,
    /// Charged bytes delivered from one observed prefix.
    pub per_prefix_bytes_max: usize,
    /// Charged bytes of all records.
    pub total_bytes_max: usize,
    /// Charged bytes of pinned records, the node's own included.
    pub pinned_bytes_max: usize,
    /// Longest time from now to a record's expiry.
    pub lifetime_s_max: u64,
    /// Cache of the database, bytes (redb's own default is 1 GiB).
    pub database_cache_bytes: usize,
}

impl Default for RecordLimits {
    fn default() -> Self {
        let mib = 1024 * 1024;
        Self {
            record_bytes_max: 64 * 1024,
            record_overhead_bytes: 512,
            per_key_max: 16,
            per_publisher_max: 4_096,
            per_publisher_bytes_max: 8 * mib,
            per_prefix_bytes_max: 16 * mib,
            total_bytes_max: 64 * mib,
            pinned_bytes_max: 32 * mib,
            lifetime_s_max: 30 * 24 * 3_600,
            database_cache_bytes: 2 * mib,
        }
    }
}
