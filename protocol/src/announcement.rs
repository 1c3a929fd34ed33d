//! What is said about a work so that strangers find it: announcements, the keys
//! they are kept under, and the word of a node that checked it.

use serde::{Deserialize, Serialize};

use crate::{
    bytes::{ManifestHash, fixed_bytes},
    content_id::ContentId,
    identity::{NodeId, ensure, record},
    network::NetworkId,
    params,
    segment::SegmentId,
    time::UnixSeconds,
};

fixed_bytes! {
    /// Where a record is kept: the 32 bytes that nodes are compared with.
    RecordKey, 32
}

/// The kinds of records that nodes keep for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecordKind {
    /// An [`Announcement`], found by ContentID.
    Announcement,
    /// A placement record, found by SegmentID.
    Placement,
}

impl RecordKind {
    /// Its number in record keys and stores.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Announcement => 1,
            Self::Placement => 2,
        }
    }
}

/// The keys H(NetworkID, kind, id, i) of a record (SPEC.md, "Record keys").
#[must_use]
pub fn record_keys(network: &NetworkId, kind: RecordKind, id: &[u8; 32]) -> Vec<RecordKey> {
    let key = |i: u8| {
        let mut hasher = blake3::Hasher::new_derive_key(params::RECORD_KEY_CONTEXT);
        hasher.update(&network.0).update(&[kind.number()]).update(id).update(&[i]);
        RecordKey(*hasher.finalize().as_bytes())
    };
    (0..params::RECORD_KEYS).map(key).collect()
}

/// Where in the network a manifest page lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// The segment.
    pub segment: SegmentId,
    /// First byte in it.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

impl Location {
    /// A page must lie within a segment and within a page's bounds.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self) -> Result<(), String> {
        let end = u64::from(self.offset) + u64::from(self.length);
        ensure(
            (1..=params::MANIFEST_PAGE_BYTES_MAX).contains(&(self.length as usize))
                && end <= params::SEGMENT_BYTES_MAX as u64,
            || format!("page at {}+{} is out of bounds", self.offset, self.length),
        )
    }
}

/// A publisher's word that a content can be had, and where its manifest lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announcement {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// The content.
    pub content: ContentId,
    /// Its manifest: BLAKE3 of the root page.
    pub manifest: ManifestHash,
    /// Where the root page lies.
    pub location: Location,
    /// Who says so; the origin, if it is online, has a full copy.
    pub publisher: NodeId,
    /// Later announcements of one publisher and content replace earlier ones.
    pub sequence: u64,
    /// When it is no longer worth keeping.
    pub expires: UnixSeconds,
    /// The work is taken down by its publisher: found, but no longer offered.
    pub withdrawn: bool,
}

record!(
    Announcement,
    "announcement",
    params::RECORD_BYTES_MAX,
    signer: publisher,
    check: |a| a.location.check()
);

/// A node's word that it took no part in publishing these segments of a
/// content, and checked them (design 5, *live*).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveCheck {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// The content.
    pub content: ContentId,
    /// The manifest that was found and read.
    pub manifest: ManifestHash,
    /// Who checked.
    pub checker: NodeId,
    /// When.
    pub at: UnixSeconds,
    /// The segments that were checked.
    pub segments: Vec<SegmentId>,
    /// Leaf rows that were read across all shards and matched the code.
    pub rows: u32,
    /// MiB of the content that were read through random k-subsets.
    pub mib: u32,
}

record!(LiveCheck, "live check", 8 * 1024, signer: checker, check: |c| {
    ensure(c.segments.len() <= params::BATCH_ITEMS_MAX, || "too many segments".into())
});
