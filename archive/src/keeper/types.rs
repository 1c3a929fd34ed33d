//! What goes into and comes out of [`super::Keeper`].

use echonet_protocol::{
    agreement::VoterConfig,
    identity::NodeId,
    machine::Millis,
    network::Timing,
    segment::{Scheme, SegmentId},
};

use crate::queue::Limits;

/// One owner's placement of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The segment.
    pub segment: SegmentId,
    /// Who placed it first.
    pub owner: NodeId,
}

/// What the keeper needs to know of a placement record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Which.
    pub key: Key,
    /// Its version.
    pub version: u64,
    /// Grows with every record that takes another's place. Of a scheme in which fewer than a
    /// quorum may go on, one of an earlier version may.
    pub sequence: u64,
    /// Its scheme.
    pub scheme: Scheme,
    /// Bytes of each shard.
    pub shard_bytes: u32,
    /// Who holds which shard, by ascending index.
    pub holders: Vec<(u8, NodeId)>,
}

/// Whether a node can be reached, by this node's own probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It answers.
    Reachable,
    /// It has not answered since then.
    Unreachable {
        /// When it answered last, or was first asked in vain.
        since: Millis,
    },
}

/// What is done about a placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// These shards are made again and given to new holders.
    Repair {
        /// Their indices, ascending.
        lost: Vec<u8>,
        /// Whether it is urgent: holders within their grace are replaced too.
        is_urgent: bool,
    },
    /// This node's own shard is copied to another node, which takes its place.
    HandOver {
        /// Which.
        index: u8,
        /// To whom; none: whom the rules of placement choose.
        to: Option<NodeId>,
    },
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The next version is agreed on. It is told as [`KeeperInput::Held`] or
    /// [`KeeperInput::Dropped`] besides.
    Committed,
    /// Somebody else is at it, or was.
    Yielded,
    /// It did not work; it is tried again later.
    Failed,
    /// The segment's shards are of no code word: no repair can help.
    Inconsistent,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeeperInput {
    /// A record names this node; one of a higher sequence replaces what is known.
    Held(Placed),
    /// This node holds nothing under this placement any more.
    Dropped(Key),
    /// What this node's own probes say of another.
    Peer {
        /// Who.
        node: NodeId,
        /// What they say.
        presence: Presence,
    },
    /// A node may have lost something, such as one that says that its disk fails: it is asked
    /// about all that it should have, at once.
    Doubt(NodeId),
    /// Where a node is: nodes of one datacenter have one number.
    Site {
        /// Who.
        node: NodeId,
        /// Its datacenter's number.
        datacenter: u64,
    },
    /// Whether this node seems to be cut off from most others: then it starts nothing.
    Isolated(bool),
    /// Whether its owner wants this node quiet now: then it begins what is urgent only, and
    /// leaves the rest to the others.
    Quiet(bool),
    /// A holder's own word about a shard; also this node's about its own.
    Says {
        /// Who.
        node: NodeId,
        /// Of which segment.
        segment: SegmentId,
        /// Which shard.
        index: u8,
        /// Whether it has it.
        has: bool,
    },
    /// It is shown by its holder's own signature that a shard is not there: whatever the holder
    /// says from now on, until somebody else holds it.
    Convicted {
        /// The holder.
        node: NodeId,
        /// Of which segment.
        segment: SegmentId,
        /// Which shard.
        index: u8,
    },
    /// A segment was read.
    Read(SegmentId),
    /// A task ended.
    Done {
        /// Of which placement.
        key: Key,
        /// How.
        outcome: Outcome,
        /// Bytes read and written for it.
        bytes: u64,
    },
    /// Hand over everything, from now on.
    Drain,
    /// A node joined that may be better placed for what this node holds.
    Joined {
        /// Who.
        node: NodeId,
        /// The placements in which it should take this node's place.
        keys: Vec<Key>,
    },
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeeperOutput {
    /// Probe this node from now on.
    Watch(NodeId),
    /// It is of no interest any more.
    Unwatch(NodeId),
    /// Ask a node which of these shards it has, at most [`KeeperConfig::asked_max`], and report
    /// its word for each.
    AskHas {
        /// Whom.
        node: NodeId,
        /// Which shards.
        shards: Vec<(SegmentId, u8)>,
    },
    /// Carry out a task on a placement; answered by [`KeeperInput::Done`].
    Start {
        /// Which.
        key: Key,
        /// The version that is to be followed by the next.
        version: u64,
        /// What.
        task: Task,
    },
}

/// What each holder gives to nodes that joined: 15 GB an hour.
pub const JOINERS_BYTES_PER_S: u64 = 4 << 20;

/// Limits and periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeeperConfig {
    /// The network's times.
    pub grace_ms: u64,
    /// See [`Timing`].
    pub timing: KeeperTiming,
    /// Repairs waiting, running, and their bytes.
    pub repairs: Limits,
    /// Hand-overs under way at once, at most.
    pub hand_overs_max: usize,
    /// Hand-overs that wait, at most.
    pub hand_overs_waiting_max: usize,
    /// Bytes per second that nodes which joined are given, over any longer time.
    pub joiners_bytes_per_s: u64,
    /// Placements that are kept an eye on, at most; further ones are refused, and counted.
    pub placements_max: usize,
    /// Shards in one question, at most.
    pub asked_max: usize,
    /// Placements looked at in one go.
    pub scan_max: usize,
}

/// Periods, milliseconds, and the network's own timing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeeperTiming {
    /// Between two looks at all placements, while something changes.
    pub scan_ms: u64,
    /// Every holder is asked about every shard once in this time.
    pub ask_ms: u64,
    /// The holder of rank r acts r of these later than that of rank 0.
    pub step_ms: u64,
    /// The holder of rank r comes back r + 1 of these after it yielded: by then what it asked of
    /// the others, and did not get, keeps nobody out any more.
    pub yield_ms: u64,
    /// Before the first retry; doubles with each further, up to 64 times.
    pub retry_ms: u64,
}

impl KeeperConfig {
    /// For a network with these timings.
    #[must_use]
    pub fn of(timing: &Timing) -> Self {
        let grace_ms = timing.grace_s.saturating_mul(1000);
        let probe_ms = timing.probe_s.saturating_mul(1000);
        // Longer than a repair takes that nothing disturbs.
        let step_ms = (grace_ms / 3).clamp(2_000, 600_000);
        let hold_ms = VoterConfig::default().hold_ms;
        Self {
            grace_ms,
            timing: KeeperTiming {
                scan_ms: probe_ms.clamp(250, 10_000) / 2,
                ask_ms: grace_ms.max(1000),
                step_ms,
                yield_ms: step_ms.max(hold_ms + hold_ms / 5),
                retry_ms: (grace_ms / 5).clamp(1_000, 300_000),
            },
            repairs: Limits {
                waiting_max: 10_000,
                running_max: 4,
                bytes_per_s: 64 << 20,
                burst_bytes: 256 << 20,
            },
            hand_overs_max: 32,
            hand_overs_waiting_max: 10_000,
            joiners_bytes_per_s: JOINERS_BYTES_PER_S,
            placements_max: 4_000_000,
            asked_max: 64,
            scan_max: 20_000,
        }
    }
}

/// Numbers for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Placements that name this node.
    pub placements: u64,
    /// Of these, at the last look: all shards kept.
    pub whole: u64,
    /// Repairs and hand-overs that wait or run.
    pub waiting: u64,
    /// Placements that were not taken because there were too many.
    pub refused: u64,
}
