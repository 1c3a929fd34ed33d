//! Network-wide constants and every bound on what is accepted, in one place.
//!
//! Parameters that may differ between networks (epoch length, terms, timings)
//! are in the genesis (`network`), not here. Changing a value here changes the
//! protocol.

/// Version of every format in SPEC.md.
pub const FORMAT_VERSION: u8 = 1;
/// Version of the node protocol that this software speaks at most.
pub const NODE_PROTOCOL_VERSION: u16 = 1;
/// BLAKE3 key-derivation context of record digests.
pub const RECORD_CONTEXT: &str = "EchoNet 2026 signed record v1";
/// BLAKE3 key-derivation context of the keys under which records are found.
pub const RECORD_KEY_CONTEXT: &str = "EchoNet 2026 record key v1";

/// Keys under which each record is kept (design 4).
pub const RECORD_KEYS: u8 = 3;
/// Nodes that keep a record under each of its keys.
pub const RECORD_REPLICAS: usize = 4;

/// Most bytes of a signed record, unless its kind says otherwise.
pub const RECORD_BYTES_MAX: usize = 4 * 1024;
/// BLAKE3 key-derivation context of the hash of a placement's receipts.
pub const RECEIPTS_CONTEXT: &str = "EchoNet 2026 placement receipts v1";
/// Most bytes of a placement record: 64 holders with their receipts, or 16 with
/// theirs and some thirty steps of descent.
pub const PLACEMENT_RECORD_BYTES_MAX: usize = 64 * 1024;
/// Steps of descent in a placement record at most; its bytes bound them sooner.
pub const LINEAGE_STEPS_MAX: usize = 64;
/// The highest version of a placement under one lease.
pub const PLACEMENT_VERSION_MAX: u64 = u16::MAX as u64;
/// Versions since the last one that a quorum signed, at most.
pub const WEAK_VERSIONS_MAX: u64 = 1023;
/// Most bytes of a genesis file.
pub const GENESIS_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a segment descriptor: 64 shard hashes and a few numbers.
pub const DESCRIPTOR_BYTES_MAX: usize = 4 * 1024;
/// Most bytes of one manifest page, the root page too.
pub const MANIFEST_PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Content up to this length rides inside its manifest.
pub const INLINE_BYTES_MAX: usize = 16 * 1024;
/// Content bytes that one manifest page describes at most.
pub const PAGE_CONTENT_BYTES: u64 = 1 << 30;
/// Content length that a manifest may claim at most: 4 TiB, 4096 pages. Each takes
/// 180 bytes of the root page (its reference and a node of the tree above).
pub const CONTENT_BYTES_MAX: u64 = 4 << 40;

/// Most bytes of a segment.
pub const SEGMENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Segments shorter than this are kept as copies by default (design 2).
pub const SMALL_SEGMENT_BYTES: usize = 16 * 1024;
/// Most shards (data and parity) of a segment.
pub const SHARDS_MAX: usize = 64;
/// Most bytes of one shard. Schemes with few data shards have shorter segments.
pub const SHARD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of the shortest volume beside its four longest shards: heads, leases, a footer.
pub const VOLUME_HEADS_BYTES: u64 = 1 << 20;

/// Plain bytes of a chunk at most; compressed ones never exceed it.
pub const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// No period of a network's timing is longer, seconds: a year.
pub const TIMING_S_MAX: u64 = 365 * 86_400;

/// Addresses in a node descriptor at most.
pub const NODE_ADDRS_MAX: usize = 8;
/// Bytes of a label (region, datacenter, operator, rack) at most.
pub const LABEL_BYTES_MAX: usize = 64;
/// Relays in a node descriptor at most.
pub const NODE_RELAYS_MAX: usize = 2;
/// Bytes of a relay URL at most.
pub const RELAY_URL_BYTES_MAX: usize = 256;

/// Bytes of a request frame at most.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a response frame at most.
pub const RESPONSE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of a membership claim with its signature at most.
pub const CLAIM_BYTES_MAX: usize = 512;
/// Membership claims in one message at most.
pub const CLAIMS_MAX: usize = 16;
/// Items (keys, records, shards, descriptors) in one request at most, and in the
/// answer that lists them in the same order.
pub const BATCH_ITEMS_MAX: usize = 64;
/// Items of any list in a message, beyond which it is not read at all: what a
/// receiver may be made to allocate. Only `Records` needs more than a batch
/// (several publishers per id).
pub const LIST_ITEMS_MAX: usize = 4096;
/// Bytes of records in one response at most; the rest is asked for again.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of an explanation at most.
pub const REASON_BYTES_MAX: usize = 512;

/// Members of a witness set at most.
pub const WITNESSES_MAX: usize = 256;
/// Most bytes of a witness set with its signatures.
pub const WITNESS_SET_BYTES_MAX: usize = 64 * 1024;
/// The highest number of a witness set.
pub const WITNESS_SET_NUMBER_MAX: u64 = 4096;
/// Most bytes of an audit verdict: 64 results and their head.
pub const VERDICT_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of a case: what fits into a request with its head.
pub const CASE_BYTES_MAX: usize = 255 * 1024;
/// Most bytes of a certificate.
pub const CERTIFICATE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most epochs of a maintenance.
pub const MAINTENANCE_EPOCHS_MAX: u64 = 24;
/// Holders that one question for due segments may name for their inventory at most.
pub const INVENTORIES_MAX: usize = 16;

/// One holder honours at most this part (a divisor) of one grant.
pub const GRANT_SHARE_DIVISOR: u64 = 8;

const _: () = {
    assert!(RESPONSE_BYTES_MAX >= BATCH_BYTES_MAX + PLACEMENT_RECORD_BYTES_MAX);
    assert!(MANIFEST_PAGE_BYTES_MAX <= SEGMENT_BYTES_MAX);
    assert!(INLINE_BYTES_MAX < MANIFEST_PAGE_BYTES_MAX);
    assert!(CONTENT_BYTES_MAX / PAGE_CONTENT_BYTES == 4096);
    assert!(180 * 4096 + INLINE_BYTES_MAX < MANIFEST_PAGE_BYTES_MAX);
};
