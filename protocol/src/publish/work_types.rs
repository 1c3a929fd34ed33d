//! What goes into and comes out of [`super::Publish`].

use std::{collections::BTreeMap, fmt};

use crate::{
    identity::NodeId,
    segment::{Scheme, SegmentId},
};

/// Limits of the steps after storing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishConfig {
    /// Placement records in one seal, at most.
    pub seal_batch_max: usize,
    /// Seals under way at once, at most; one a node.
    pub seal_parallel_max: usize,
    /// A seal without an answer for this long has failed.
    pub seal_timeout_ms: u64,
    /// Further attempts of a seal, a record put or an announcement, at most.
    pub retries_max: u32,
    /// Pause before the first retry; doubles with each further one.
    pub backoff_ms: u64,
    /// Once all segments have their quorum of seals, this long for the rest.
    pub seal_extra_ms: u64,
    /// Placement records in one put, at most.
    pub record_batch_max: usize,
    /// Nodes that must keep a record (or announcement), at least.
    pub record_copies_min: usize,
    /// A put or an announcement without an answer for this long has failed.
    pub record_timeout_ms: u64,
    /// The live check may take this long.
    pub live_timeout_ms: u64,
}

impl Default for PublishConfig {
    fn default() -> Self {
        Self {
            seal_batch_max: 16,
            seal_parallel_max: 16,
            seal_timeout_ms: 15_000,
            retries_max: 3,
            backoff_ms: 500,
            seal_extra_ms: 3_000,
            record_batch_max: 32,
            record_copies_min: 2,
            record_timeout_ms: 20_000,
            live_timeout_ms: 600_000,
        }
    }
}

/// A segment with its receipts: newly stored, or leased again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSegment {
    /// Which.
    pub segment: SegmentId,
    /// Its scheme.
    pub scheme: Scheme,
    /// Whose verified receipt is at hand, per index.
    pub holders: BTreeMap<u8, NodeId>,
    /// Whether any one datacenter may be lost.
    pub survives_datacenter: bool,
    /// What a person should know: soft rules broken, shards missing.
    pub notes: Vec<String>,
}

/// What happened to a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishInput {
    /// A segment has its receipts.
    SegmentStored(StoredSegment),
    /// A segment could not get them.
    SegmentFailed {
        /// Which.
        segment: SegmentId,
        /// [`super::NotStored`] in words.
        reason: String,
    },
    /// All content segments were reported.
    ContentStored {
        /// How many distinct ones there are; 0 for inline content.
        segments: usize,
    },
    /// All segments of the manifest were reported, too.
    ManifestStored {
        /// How many distinct ones there are, content segments not counted.
        segments: usize,
    },
    /// A node answered the seal under way to it: how many of the records took
    /// effect durably.
    Sealed {
        /// Who.
        node: NodeId,
        /// How many.
        durable: usize,
    },
    /// A seal failed or was refused.
    SealFailed {
        /// Whose.
        node: NodeId,
        /// In words.
        reason: String,
    },
    /// So many nodes keep this segment's placement record.
    RecordPut {
        /// Which segment.
        segment: SegmentId,
        /// How many nodes.
        kept: usize,
    },
    /// So many nodes keep the announcement.
    Announced {
        /// How many.
        kept: usize,
    },
    /// Nodes that took no part fetched and checked the work.
    Live,
    /// They could not, or there are none.
    NotLive {
        /// In words.
        reason: String,
    },
    /// The publish must end: the file changed, the user stopped it.
    Abort {
        /// In words.
        reason: String,
    },
    /// Time went by.
    Tick,
}

/// What to do next for a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishOutput {
    /// All content is held: make the manifest and store its segments.
    StoreManifest,
    /// Hand these placement records to a holder.
    Seal {
        /// Whom.
        node: NodeId,
        /// Which, each naming `node`.
        segments: Vec<SegmentId>,
    },
    /// Stop waiting for the seal under way to a node.
    CancelSeal {
        /// Whom.
        node: NodeId,
    },
    /// Hand these placement records to record nodes.
    PutRecords {
        /// Which.
        segments: Vec<SegmentId>,
    },
    /// Announce the work: never before everything above is done.
    Announce,
    /// Have the work checked by nodes that took no part.
    CheckLive,
    /// The end: published.
    Done(PublishOutcome),
    /// The end: not announced.
    Failed(PublishFailure),
}

/// A publish that was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishOutcome {
    /// Distinct segments, the manifest's included.
    pub segments: usize,
    /// n of every segment, added up.
    pub receipts_want: usize,
    /// Receipts of every segment, added up.
    pub receipts_have: usize,
    /// Whether every segment survives the loss of any one datacenter.
    pub survives_datacenter: bool,
    /// Whether the live check held.
    pub live: bool,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// How far a publish came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PublishStage {
    /// Content segments are being stored.
    Content,
    /// The manifest's segments are being stored.
    Manifest,
    /// Holders are being told what they hold for good.
    Seal,
    /// Placement records are being put.
    Records,
    /// The announcement is being put.
    Announce,
    /// Others are checking.
    Live,
}

/// A publish that ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {}", next(*announced))]
pub struct PublishFailure {
    /// How far it came.
    pub stage: PublishStage,
    /// What happened, to what.
    pub reason: String,
    /// Whether some node may have the announcement already.
    pub announced: bool,
}

const fn next(announced: bool) -> &'static str {
    if announced {
        "run the same publish again to resume; too few nodes keep the announcement"
    } else {
        "run the same publish again to resume; nothing was announced"
    }
}

impl fmt::Display for PublishStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Content => "storing content",
            Self::Manifest => "storing the manifest",
            Self::Seal => "sealing",
            Self::Records => "putting placement records",
            Self::Announce => "announcing",
            Self::Live => "checking",
        })
    }
}
