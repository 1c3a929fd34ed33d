//! The one iroh endpoint of a node, and its bounded address book.
//!
//! Offline by default: no relay, no lookup service, no public DNS, no port mapping. It never
//! contacts anyone that the configuration or a signed descriptor did not name.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use iroh::{
    Endpoint, EndpointAddr, RelayMode, RelayUrl, SecretKey, TransportAddr,
    address_lookup::memory::MemoryLookup,
    dns::{DnsResolver, FallbackMode},
    endpoint::{
        ConnectError, ConnectingError, Connection, ConnectionError, IdleTimeout, PortmapperConfig,
        QuicTransportConfig, TransportErrorCode, VarInt, presets,
    },
};

use super::{
    address::{InvalidNodeId, NodeAddr, NodeId, endpoint_id, short},
    dial_memory::DialMemory,
    limits::{DialMemoryLimits, STREAM_WINDOW_BYTES_CEILING, TransportLimits},
};

/// What an endpoint needs to know.
#[derive(Clone)]
pub struct EndpointConfig {
    /// The node's ed25519 secret key.
    pub secret_key: [u8; 32],
    /// The one address to bind; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// Relays to use; empty means none.
    pub relays: Vec<RelayUrl>,
    /// True lets iroh ask the router for a port mapping and fall back to public DNS resolvers.
    pub online: bool,
    /// Bounds.
    pub limits: TransportLimits,
    /// How long failed dials are remembered.
    pub dial_memory: DialMemoryLimits,
}

// Written by hand: a derived Debug would print the secret key.
impl std::fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointConfig")
            .field("bind", &self.bind)
            .field("relays", &self.relays)
            .field("online", &self.online)
            .finish_non_exhaustive()
    }
}

impl EndpointConfig {
    /// An offline endpoint on `bind` with default bounds.
    pub fn offline(secret_key: [u8; 32], bind: SocketAddr) -> Self {
        Self {
            secret_key,
            bind,
            relays: Vec::new(),
            online: false,
            limits: TransportLimits::default(),
            dial_memory: DialMemoryLimits::default(),
        }
    }
}

/// Why no endpoint could be built.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("cannot bind {bind}: {reason}; choose another address or stop the other process")]
    Address {
        /// What was asked for.
        bind: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// A limit does not fit QUIC's integers.
    #[error("limit {name} is out of range for QUIC; lower it")]
    Limit {
        /// The field of [`TransportLimits`].
        name: &'static str,
    },
}

/// Why a node was not reached.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// Its id is not a key.
    #[error(transparent)]
    InvalidNodeId(#[from] InvalidNodeId),
    /// A dial failed a moment ago.
    #[error("node {} did not answer {ago_ms} ms ago; it is tried again in some seconds", short(.node))]
    FailedRecently {
        /// Who.
        node: NodeId,
        /// When.
        ago_ms: u64,
    },
    /// No answer in time.
    #[error("node {} did not answer within {waited_ms} ms; it may be down", short(.node))]
    Timeout {
        /// Who.
        node: NodeId,
        /// How long.
        waited_ms: u64,
    },
    /// The connection failed otherwise.
    #[error("node {} cannot be connected to: {reason}", short(.node))]
    Failed {
        /// Who.
        node: NodeId,
        /// What iroh said.
        reason: String,
    },
    /// This node has too many connections or dials of its own.
    #[error("too many connections ({max}) are open already; try again later")]
    TooMany {
        /// The bound.
        max: usize,
    },
}

/// The endpoint with its address book and its memory of failed dials; cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeEndpoint {
    endpoint: Endpoint,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lookup: MemoryLookup,
    book: Mutex<HashMap<NodeId, Instant>>,
    dials: DialMemory,
    limits: TransportLimits,
}

impl NodeEndpoint {
    /// Binds the endpoint.
    ///
    /// # Errors
    /// [`BindError`] when the address is taken or a limit is out of range.
    pub async fn bind(config: EndpointConfig) -> Result<Self, BindError> {
        let failed =
            |reason: String| BindError::Address { bind: config.bind, reason: reason.clone() };
        let lookup = MemoryLookup::new();
        let relays = match config.relays.is_empty() {
            true => RelayMode::Disabled,
            false => RelayMode::custom(config.relays.clone()),
        };
        let fallback = if config.online { FallbackMode::Deferred } else { FallbackMode::Never };
        let dns =
            DnsResolver::builder().with_system_defaults().with_fallback_mode(fallback).build();
        let mut builder = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(&config.secret_key))
            .relay_mode(relays)
            .address_lookup(lookup.clone())
            .dns_resolver(dns)
            .transport_config(transport_config(&config.limits)?)
            // Without this, iroh also listens on every interface of the other address family.
            .clear_ip_transports()
            .bind_addr(config.bind)
            .map_err(|e| failed(e.to_string()))?;
        if !config.online {
            builder = builder.portmapper_config(PortmapperConfig::Disabled);
        }
        let endpoint = builder.bind().await.map_err(|e| failed(format!("{e:#}")))?;
        let shared = Shared {
            lookup,
            book: Mutex::default(),
            dials: DialMemory::new(config.dial_memory),
            limits: config.limits,
        };
        Ok(Self { endpoint, shared: Arc::new(shared) })
    }

    /// iroh's own handle, for a `Router` and for iroh-blobs.
    pub fn iroh(&self) -> &Endpoint {
        &self.endpoint
    }

    /// This node's id.
    pub fn node_id(&self) -> NodeId {
        *self.endpoint.id().as_bytes()
    }

    /// Where this node can be reached, as far as it knows by now.
    pub fn addr(&self) -> NodeAddr {
        NodeAddr::from_transports(&self.endpoint.addr().addrs)
    }

    /// The addresses that were bound, with the port the system chose.
    pub fn bound(&self) -> Vec<SocketAddr> {
        self.endpoint.bound_sockets()
    }

    /// The memory of failed dials that everything on this endpoint shares.
    pub fn dials(&self) -> &DialMemory {
        &self.shared.dials
    }

    fn book(&self) -> MutexGuard<'_, HashMap<NodeId, Instant>> {
        // The map stays consistent: nothing panics while the lock is held.
        self.shared.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers where a node may be reached. The newest addresses come on top of known ones, up
    /// to a bound per node; beyond the book's bound the node learnt longest ago is forgotten. The
    /// caller filters the addresses first (see [`super::address::AddressRules`]).
    ///
    /// # Errors
    /// [`InvalidNodeId`] when `node` is not a key.
    pub fn learn(&self, node: &NodeId, addr: &NodeAddr) -> Result<(), InvalidNodeId> {
        let id = endpoint_id(node)?;
        if addr.is_empty() || *node == self.node_id() {
            return Ok(());
        }
        let max = self.shared.limits.addresses_per_node_max;
        let mut book = self.book();
        let mut addrs: BTreeSet<TransportAddr> = addr.transports().into_iter().take(max).collect();
        if let Some(old) = self.shared.lookup.get_endpoint_info(id) {
            let room = max.saturating_sub(addrs.len());
            addrs.extend(old.data.addrs().take(room).cloned());
        }
        if book.len() >= self.shared.limits.address_book_max && !book.contains_key(node) {
            let oldest = book.iter().min_by_key(|(_, learnt)| **learnt).map(|(node, _)| *node);
            if let Some(oldest) = oldest {
                self.forget_locked(&mut book, &oldest);
            }
        }
        book.insert(*node, Instant::now());
        self.shared.lookup.set_endpoint_info(EndpointAddr::from_parts(id, addrs));
        Ok(())
    }

    fn forget_locked(&self, book: &mut HashMap<NodeId, Instant>, node: &NodeId) {
        book.remove(node);
        if let Ok(id) = endpoint_id(node) {
            self.shared.lookup.remove_endpoint_info(id);
        }
    }

    /// Forgets a node's addresses.
    pub fn forget(&self, node: &NodeId) {
        self.forget_locked(&mut self.book(), node);
    }

    /// What the address book holds for a node.
    pub fn known_addr(&self, node: &NodeId) -> Option<NodeAddr> {
        let info = self.shared.lookup.get_endpoint_info(endpoint_id(node).ok()?)?;
        Some(NodeAddr::from_transports(info.data.addrs()))
    }

    /// Nodes in the address book.
    pub fn known_len(&self) -> usize {
        self.book().len()
    }

    /// Connects, within `patience`, using `hint` and the address book. Failures are remembered;
    /// while one is fresh, further dials fail at once.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(
        &self,
        node: &NodeId,
        hint: &NodeAddr,
        alpn: &[u8],
        patience: Duration,
    ) -> Result<Connection, DialError> {
        let to = hint.to_endpoint_addr(node)?;
        if let Some(ago) = self.shared.dials.too_early(node, Instant::now()) {
            let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
            return Err(DialError::FailedRecently { node: *node, ago_ms });
        }
        let outcome = tokio::time::timeout(patience, self.endpoint.connect(to, alpn)).await;
        let error = match outcome {
            Ok(Ok(connection)) => {
                self.shared.dials.forget(node);
                return Ok(connection);
            }
            Ok(Err(error)) => {
                let reason = format!("{error:#}");
                if lacks_protocol(&error) {
                    return Err(DialError::Failed { node: *node, reason });
                }
                DialError::Failed { node: *node, reason }
            }
            Err(_) => {
                let waited_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
                DialError::Timeout { node: *node, waited_ms }
            }
        };
        self.shared.dials.failed(node, Instant::now());
        Err(error)
    }

    /// Closes every connection and the socket.
    pub async fn close(&self) {
        self.endpoint.close().await;
    }
}

/// Whether the node is there and only does not speak this protocol: nothing to remember against
/// the others that it speaks.
fn lacks_protocol(error: &ConnectError) -> bool {
    /// TLS alert 120, no_application_protocol (RFC 7301).
    const NO_APPLICATION_PROTOCOL: u8 = 120;
    let cause = match error {
        ConnectError::Connection { source, .. } => source,
        ConnectError::Connecting {
            source: ConnectingError::ConnectionError { source, .. },
            ..
        } => source,
        _ => return false,
    };
    let alert = TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL);
    matches!(cause, ConnectionError::ConnectionClosed(close) if close.error_code == alert)
}

fn transport_config(limits: &TransportLimits) -> Result<QuicTransportConfig, BindError> {
    let window = limits.stream_window_bytes.min(STREAM_WINDOW_BYTES_CEILING);
    let idle = IdleTimeout::try_from(Duration::from_millis(u64::from(limits.idle_ms_max)))
        .map_err(|_| BindError::Limit { name: "idle_ms_max" })?;
    // Heartbeats stay at iroh's 5 s: its path handling counts on them.
    Ok(QuicTransportConfig::builder()
        .stream_receive_window(VarInt::from_u32(window))
        .receive_window(VarInt::from_u32(limits.connection_window_bytes))
        .send_window(limits.send_window_bytes)
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.streams_per_connection_max))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(idle))
        .datagram_receive_buffer_size(None)
        .build())
}
