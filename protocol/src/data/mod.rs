//! The data plane: cutting content into chunks, compressing them, coding segments into shards and
//! proving ranges of bytes against a BLAKE3 root. Plain functions over byte slices.
//!
//! It never reads a file, a socket, a clock or randomness, never starts a thread, and never
//! allocates by a length that a stranger wrote before checking it against a bound named here.

pub mod chunker;
pub mod compression;
pub mod erasure;
pub mod rows;
pub mod verified;

pub use chunker::{Chunk, Chunker, next_cut};
pub use compression::{Compressor, Stored, StoredCodec, compress, decompress, decompress_into};
pub use erasure::{ErasureCode, RebuildPlan, UnsupportedCpu, cpu_supported};

/// BLAKE3's own chunk, called a leaf here: the smallest unit that can be proven.
pub const LEAF_BYTES: u64 = 1024;

/// log2 of [`LEAF_BYTES`].
pub const LEAF_LOG: u32 = 10;

/// A chunk of content is at least this long, unless the content or its page ends sooner.
pub const CHUNK_BYTES_MIN: usize = 256 * 1024;

/// The length that chunks are normalised towards.
pub const CHUNK_BYTES_TARGET: usize = 1024 * 1024;

/// A chunk of content is never longer than this.
pub const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A segment, the unit of coding, is at least one byte and never longer than this.
pub const SEGMENT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A shard is never longer than this: a whole segment, in the copies schemes (k = 1).
pub const SHARD_BYTES_MAX: usize = SEGMENT_BYTES_MAX;

/// k + m of a scheme is never more than this: the number of elements of GF(2^8).
pub const SHARDS_MAX: usize = 256;

/// One group of a content's outboard: the unit that a reader checks against the ContentID.
pub const GROUP_BYTES: u64 = 1024 * 1024;

/// log2 of the leaves in one group of a content's outboard.
pub const GROUP_LOG: u8 = 10;

/// Content is cut at every multiple of this: one manifest page covers one of these.
pub const PAGE_BYTES: u64 = 1024 * 1024 * 1024;

/// Groups in a full page.
pub const PAGE_GROUPS: u64 = PAGE_BYTES / GROUP_BYTES;

/// Content is never longer than this (4 TiB), so the root part of an outboard stays within
/// 256 KiB and fits into a root page beside the references to 4,096 pages.
pub const CONTENT_BYTES_MAX: u64 = 1 << 42;

/// The largest group size (as log2 of leaves) of a slice: 1 MiB.
pub const SLICE_GROUP_LOG_MAX: u8 = 10;

/// Bytes of one inner node: the hashes of its two children.
pub const PAIR_BYTES: usize = 64;

const _: () = {
    assert!(LEAF_BYTES == 1 << LEAF_LOG);
    assert!(CHUNK_BYTES_MIN < CHUNK_BYTES_TARGET && CHUNK_BYTES_TARGET < CHUNK_BYTES_MAX);
    // fastcdc tests positions in pairs: odd sizes would shift a cut by one byte.
    assert!(CHUNK_BYTES_MIN.is_multiple_of(2) && CHUNK_BYTES_TARGET.is_multiple_of(2));
    assert!(CHUNK_BYTES_MAX.is_multiple_of(2));
    assert!(SEGMENT_BYTES_MAX >= CHUNK_BYTES_MAX);
    assert!(GROUP_BYTES == LEAF_BYTES << GROUP_LOG);
    assert!(PAGE_BYTES.is_multiple_of(GROUP_BYTES) && PAGE_GROUPS.is_power_of_two());
    assert!(GROUP_LOG <= SLICE_GROUP_LOG_MAX);
    assert!(CONTENT_BYTES_MAX.is_multiple_of(PAGE_BYTES));
    assert!((CONTENT_BYTES_MAX / PAGE_BYTES) * (PAIR_BYTES as u64) <= 256 * 1024);
    assert!(CONTENT_BYTES_MAX == crate::params::CONTENT_BYTES_MAX);
};
