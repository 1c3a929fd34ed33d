//! What a node does for its owner: one interface, carried out in this process
//! or by the running daemon of the data directory.
//!
//! These types are what `--json` prints and what the local API speaks.

use std::path::PathBuf;

use echonet_protocol::{content_id::ContentId, segment::Scheme};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWrite, sync::mpsc};

/// Something that happens on the way; printed as progress or as a JSON line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// The source is being hashed.
    Hashing {
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The ContentID is known.
    Identified {
        /// The content.
        content_id: ContentIdText,
        /// Its bytes.
        size: u64,
    },
    /// Segments are being stored.
    Storing {
        /// Bytes of content dealt with so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A stage was reached: sealed, announced, live check, resumed and so on.
    Stage {
        /// Its name.
        stage: String,
        /// In words.
        detail: String,
    },
    /// Content arrives.
    Fetching {
        /// Bytes so far.
        done: u64,
        /// Bytes in all, once it may be believed.
        total: u64,
    },
    /// Shards are handed over to other nodes.
    Draining {
        /// Shards of this node that others do not answer for yet.
        left: u64,
        /// Shards handed over so far.
        done: u64,
    },
    /// Somebody was caught at fault: a holder, a publisher, a manifest's author.
    Fault {
        /// Who, as far as known.
        node_id: String,
        /// What was found.
        detail: String,
        /// A portable proof in hex, where there is one.
        proof: Option<String>,
    },
}

/// A ContentID in its text form.
pub type ContentIdText = String;

/// Where progress goes. Bounded; a slow listener loses progress, never results.
pub type ProgressSender = mpsc::Sender<Progress>;

/// How to publish.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublishRequest {
    /// The file, absolute.
    pub path: PathBuf,
    /// None: the default of the design.
    pub scheme: Option<Scheme>,
    /// RFC 6838 media type, or empty.
    pub media_type: String,
    /// Whether `path` is a spool that the node should own and keep as its full
    /// copy (standard input), not a file of the user's.
    pub spooled: bool,
}

/// What a publish came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The work.
    pub content_id: ContentIdText,
    /// Bytes of content.
    pub size: u64,
    /// Segments referenced, the manifest's included.
    pub segments: u64,
    /// Shard bytes newly stored on holders.
    pub stored_bytes: u64,
    /// Content bytes that were already stored in earlier segments.
    pub deduplicated_bytes: u64,
    /// Receipts over all segments.
    pub receipts: ReceiptCount,
    /// Whether every segment survives the loss of any one datacenter.
    pub survives_datacenter: bool,
    /// Whether nodes that took no part fetched and checked it.
    pub live: bool,
    /// Why not, when not live, and soft rules of placement that were broken.
    pub notes: Vec<String>,
}

/// Receipts wanted and had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptCount {
    /// n of every segment, added up.
    pub want: u64,
    /// Verified receipts.
    pub have: u64,
}

/// What to fetch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetRequest {
    /// The work.
    pub content_id: ContentIdText,
    /// First byte and one past the last; none: all. An end behind the content's
    /// is cut to it (a resumed fetch asks up to `u64::MAX`); a start behind it
    /// is `invalid`.
    pub range: Option<(u64, u64)>,
}

/// What a fetch came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fetched {
    /// The work.
    pub content_id: ContentIdText,
    /// Bytes handed out.
    pub size: u64,
    /// Seconds from request to last byte.
    pub seconds: f64,
    /// NodeIDs that bytes came from.
    pub sources: Vec<String>,
}

/// The state of a work in the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkStatus {
    /// The work.
    pub content_id: ContentIdText,
    /// Its segments, the manifest's included.
    pub segments: Vec<SegmentStatus>,
}

/// The state of a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentStatus {
    /// The segment.
    pub segment_id: String,
    /// Data+parity.
    pub scheme: String,
    /// Bytes of each shard; 0 where unknown.
    pub shard_bytes: u64,
    /// The placement records found, newest first: version, and the hash of what it says. Two
    /// hashes of one version and owner would be a fork.
    pub placements: Vec<PlacementStatus>,
    /// By ascending index.
    pub shards: Vec<ShardStatus>,
}

/// A placement record that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementStatus {
    /// Who placed the segment first.
    pub owner: String,
    /// 1 when placed, one more with each change.
    pub version: u64,
    /// Hash of its body.
    pub hash: String,
}

/// The state of a shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its index.
    pub index: u8,
    /// NodeID of the holder; empty where nobody is known to hold it.
    pub holder: String,
    /// Whether the holder answered that it has the shard.
    pub alive: bool,
}

/// The state of this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its NodeID.
    pub node_id: String,
    /// Its network.
    pub network_id: String,
    /// What it does.
    pub roles: Vec<String>,
    /// Where it listens.
    pub addrs: Vec<String>,
    /// Nodes it knows.
    pub peers: u64,
    /// The network's epoch by this node's clock.
    pub epoch: u64,
    /// What others may cost it.
    pub limits: LimitsStatus,
    /// Its vault, where it has one.
    pub vault: Option<VaultStatus>,
    /// Repair, where it has a vault.
    pub repair: Option<RepairStatus>,
    /// Works it published.
    pub works: u64,
}

/// Caps on what others cost. Bytes per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitsStatus {
    /// Most handed out; none: no cap.
    pub upload_cap: Option<u64>,
    /// Most taken in; none: no cap.
    pub download_cap: Option<u64>,
    /// Most of either in quiet hours.
    pub quiet_cap: u64,
    /// Quiet hours of a week.
    pub quiet_hours: u64,
    /// Whether it is quiet now.
    pub quiet_now: bool,
}

/// The state of a vault. Bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VaultStatus {
    /// Shards held.
    pub shards: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Bytes on disk, garbage and index included.
    pub used_bytes: u64,
    /// Never passed.
    pub quota_bytes: u64,
    /// Bytes held without a grant.
    pub free_pool_bytes: u64,
    /// Shards found damaged and set aside.
    pub quarantined: u64,
    /// Volumes.
    pub volumes: u64,
}

/// What the node did to keep what it and others hold. Counts since it started; bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairStatus {
    /// Placement records that name this node.
    pub segments: u64,
    /// Of these, as this node sees them: every shard has a holder that is there.
    pub whole: u64,
    /// Repairs that wait or run.
    pub waiting: u64,
    /// Shards that this node made again and had others store.
    pub repaired_shards: u64,
    /// Bytes read over the network for these.
    pub read_bytes: u64,
    /// Bytes of these shards that others stored.
    pub written_bytes: u64,
    /// Damaged shards of its own that it made again in place.
    pub healed_shards: u64,
    /// Damaged shards found by its scrubber.
    pub damaged_shards: u64,
    /// Shards handed over to others by copy.
    pub handed_over_shards: u64,
    /// Their bytes.
    pub handed_over_bytes: u64,
    /// Attempts that failed and were, or will be, made again.
    pub failed: u64,
    /// New placement versions that this node brought about.
    pub committed: u64,
}

/// What draining a node came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Shards that were handed over.
    pub shards: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A work that this node published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The work.
    pub content_id: ContentIdText,
    /// Bytes of content.
    pub size: u64,
    /// The source file, where the full copy is.
    pub path: PathBuf,
    /// `published`, `publishing` (can be resumed), `withdrawn`, or `kept` (somebody else's).
    pub state: String,
    /// Segments referenced.
    pub segments: u64,
    /// When it was published, seconds since 1970.
    pub published_unix_s: u64,
}

/// A work that was taken down, or is no longer kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unpublished {
    /// The work.
    #[serde(flatten)]
    pub work: Work,
    /// Holders that know now that the leases are over.
    pub holders_told: u64,
    /// Holders that did not answer; they are told when they do, while this node runs.
    pub holders_unreached: u64,
}

/// A work of somebody else's that this node's owner leases now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The work.
    pub content_id: ContentIdText,
    /// Bytes of content.
    pub size: u64,
    /// Segments leased, the manifest's included.
    pub segments: u64,
    /// Receipts over all segments.
    pub receipts: ReceiptCount,
    /// Whether every segment survives the loss of any one datacenter.
    pub survives_datacenter: bool,
    /// To when holders renew the leases, seconds since 1970.
    pub until_unix_s: u64,
}

/// A node that this node knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its NodeID.
    pub node_id: String,
    /// Its first address.
    pub addr: String,
    /// Of nodes that keep things: `reachable`, `disk-sick` (it answers and says that its disk
    /// fails), `suspect`, `down` or `left`; of others `reachable`, `unreachable` or `unknown`.
    pub state: String,
    /// Since when, seconds since 1970.
    pub since: u64,
    /// What it does.
    pub roles: Vec<String>,
    /// Where it says it is.
    pub region: String,
    /// Where it says it is.
    pub datacenter: String,
    /// Who it says runs it.
    pub operator: String,
}

/// What came of asking one holder for its leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditFound {
    /// Which shard of the segment.
    pub index: u8,
    /// Who was asked.
    pub holder: String,
    /// `pass`, `wrong`, `absent` or `silent`.
    pub outcome: String,
}

/// A verdict of a witness that is kept here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictInfo {
    /// Its name: the record hash, hex.
    pub verdict: String,
    /// Who says it.
    pub witness: String,
    /// Its place in that witness's chain.
    pub sequence: u64,
    /// In which epoch was asked.
    pub epoch: u64,
    /// About which segment.
    pub segment_id: String,
    /// Which leaf of each shard.
    pub leaf: u64,
    /// Whose inventory it was part of.
    pub inventory: Option<String>,
    /// By ascending index.
    pub results: Vec<AuditFound>,
}

/// A verdict, checked again from what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// What it says.
    #[serde(flatten)]
    pub verdict: VerdictInfo,
    /// Shards whose passes were verified again, from the proofs that are kept.
    pub proven: Vec<u8>,
    /// Shards that passed and whose proofs are not kept any more: their holders' signatures hold.
    pub signed_only: Vec<u8>,
    /// Whom it convicts, in words.
    pub faults: Vec<String>,
}

/// A failure with words for a person and a kind for a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ServiceError {
    /// One of `not_found`, `unavailable`, `not_enough_holders`, `file_changed`,
    /// `invalid`, `io`, `network`, `internal`.
    pub kind: String,
    /// What happened, to what, and what to do next.
    pub message: String,
}

impl ServiceError {
    /// An error of a kind.
    #[must_use]
    pub fn new(kind: &str, message: impl std::fmt::Display) -> Self {
        Self { kind: kind.to_owned(), message: message.to_string() }
    }
}

/// Result of a service.
pub type ServiceResult<T> = Result<T, ServiceError>;

/// Where fetched bytes go, in order.
pub type Sink<'a> = Box<dyn AsyncWrite + Send + Unpin + 'a>;

/// What a node does for its owner.
pub trait Service: Send + Sync {
    /// Publishes a file, or resumes a publish of it that was cut off.
    fn publish(
        &self,
        request: PublishRequest,
        progress: ProgressSender,
    ) -> BoxFuture<'_, ServiceResult<Published>>;

    /// Fetches verified bytes, in order, into `sink`. On an error some verified
    /// bytes may have been written; never a wrong one.
    fn get<'a>(
        &'a self,
        request: GetRequest,
        sink: Sink<'a>,
        progress: ProgressSender,
    ) -> BoxFuture<'a, ServiceResult<Fetched>>;

    /// Takes down this owner's leases and announcement of a work, or the leases
    /// on one that is only kept.
    fn unpublish(&self, content: ContentId) -> BoxFuture<'_, ServiceResult<Unpublished>>;

    /// Takes own leases on a work of somebody else's, so that it stays up
    /// whatever its publisher does.
    fn keep(
        &self,
        content: ContentId,
        progress: ProgressSender,
    ) -> BoxFuture<'_, ServiceResult<Kept>>;

    /// The state of a work, asked of the network.
    fn work_status(&self, content: ContentId) -> BoxFuture<'_, ServiceResult<WorkStatus>>;

    /// The state of this node.
    fn node_status(&self) -> BoxFuture<'_, ServiceResult<NodeStatus>>;

    /// Works published from here.
    fn works(&self) -> BoxFuture<'_, ServiceResult<Vec<Work>>>;

    /// Hands every shard over to other nodes and takes no new ones; returns when it is safe to
    /// end this node for good.
    fn drain(&self, progress: ProgressSender) -> BoxFuture<'_, ServiceResult<Drained>>;

    /// Nodes known here.
    fn peers(&self) -> BoxFuture<'_, ServiceResult<Vec<Peer>>>;

    /// The newest verdicts that are kept here, at most `count_max`, newest first.
    fn verdicts(&self, count_max: usize) -> BoxFuture<'_, ServiceResult<Vec<VerdictInfo>>>;

    /// Checks a verdict again from what is kept of it here, by its record hash, hex.
    fn replay(&self, verdict: String) -> BoxFuture<'_, ServiceResult<Replayed>>;
}
