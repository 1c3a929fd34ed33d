//! The rows of an owner's catalog, as stored (postcard in redb).

use std::path::PathBuf;

use echonet_protocol::{
    announcement::Location,
    bytes::{ChunkHash, ManifestHash},
    content_id::ContentId,
    identity::{NodeId, Signed},
    lease::{Grant, Lease, LeaseEnd, Receipt},
    segment::{Scheme, SegmentDescriptor, SegmentId},
    time::Epoch,
};
use serde::{Deserialize, Serialize};

/// How far a work has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkState {
    /// A publish began and can be resumed.
    Publishing,
    /// Announced.
    Published,
    /// Taken down by its owner.
    Withdrawn,
    /// Somebody else's, leased by this owner.
    Kept,
}

impl WorkState {
    /// Its name for people and programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::Published => "published",
            Self::Withdrawn => "withdrawn",
            Self::Kept => "kept",
        }
    }
}

/// A work of this owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkRow {
    /// Bytes of content.
    pub size: u64,
    /// The source's state when it was hashed: length, modification time in
    /// nanoseconds, inode. A source in the same state is not hashed again when a
    /// publish is resumed.
    pub stamp: (u64, i128, u64),
    /// The source file: the full copy that the origin serves.
    pub path: PathBuf,
    /// Whether the file is the node's own (standard input was spooled to it).
    pub spooled: bool,
    /// How far it has come.
    pub state: WorkState,
    /// The scheme that was asked for.
    pub scheme: Scheme,
    /// When it was published, seconds since 1970.
    pub published_unix_s: u64,
    /// The manifest and where its root page lies, once known.
    pub manifest: Option<(ManifestHash, Location)>,
    /// Sequence of the last announcement.
    pub sequence: u64,
    /// Segments referenced, manifest's included, with the stored bytes used.
    pub segments: Vec<(SegmentId, u32)>,
    /// The grant that its leases name.
    pub grant: Option<Signed<Grant>>,
}

/// A segment that this owner leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRow {
    /// What it is.
    pub descriptor: SegmentDescriptor,
    /// The lease on it.
    pub lease: Signed<Lease>,
    /// The grant that the lease names.
    pub grant: Option<Signed<Grant>>,
    /// Receipts under that lease, by ascending index.
    pub receipts: Vec<Signed<Receipt>>,
    /// Whether its holders were given a placement record.
    pub sealed: bool,
}

/// A lease that a holder has to be told is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndingRow {
    /// The owner's word.
    pub end: Signed<LeaseEnd>,
    /// The epoch from which nobody needs to be told.
    pub ends: Epoch,
    /// Not to be told before, seconds since 1970: what is being taken may still be wanted.
    pub from_unix_s: u64,
}

/// Where a chunk lies that this owner stored before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRow {
    /// The segment.
    pub segment: SegmentId,
    /// First stored byte in it.
    pub offset: u32,
    /// Stored bytes.
    pub stored: u32,
    /// Plain bytes.
    pub plain: u32,
    /// 0 raw, 1 zstd.
    pub codec: u8,
}

/// One chunk of a segment's recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeChunk {
    /// First byte in the content.
    pub content_offset: u64,
    /// Plain bytes.
    pub plain: u32,
    /// Stored bytes.
    pub stored: u32,
    /// 0 raw, 1 zstd.
    pub codec: u8,
    /// BLAKE3 of the plain bytes.
    pub chunk: ChunkHash,
}

/// How to make a segment again: written before its first shard is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeRow {
    /// The chunks in the order of the segment.
    pub chunks: Vec<RecipeChunk>,
    /// What must come out.
    pub descriptor: SegmentDescriptor,
    /// The lease under which its shards are sent.
    pub lease: Signed<Lease>,
    /// Who was planned to hold which shard: asked first when resuming, so that
    /// nobody stores a shard for nothing.
    pub planned: Vec<(u8, NodeId)>,
    /// Receipts, once the write quorum is reached.
    pub receipts: Vec<Signed<Receipt>>,
    /// Whether the write quorum was reached.
    pub stored: bool,
}

/// Key of a journal row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalKey {
    /// The content whose publish it belongs to.
    pub content: ContentId,
    /// The segment.
    pub segment: SegmentId,
}

impl JournalKey {
    /// 64 bytes: content, then segment, so that a content's rows stand together.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(self.content.as_bytes());
        bytes[32..].copy_from_slice(&self.segment.0);
        bytes
    }
}
