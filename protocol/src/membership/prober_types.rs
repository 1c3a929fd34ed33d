//! What goes into and comes out of [`super::Prober`].

use crate::{identity::NodeId, machine::Millis, time::UnixSeconds};

/// What a probe found, in three layers: the machine is reached, it answers
/// requests in time, its disk works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    /// It answers, and says that its disk works.
    Healthy,
    /// It answers, and says that its disk fails.
    DiskSick,
    /// A connection came about, but no answer.
    Mute,
    /// No connection came about.
    Unreachable,
}

/// What this node's own probes say of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nothing yet.
    Unknown,
    /// It answers, and says nothing against its disk.
    Healthy,
    /// It answers, and says that its disk fails.
    DiskSick,
    /// It is reached and does not answer.
    Mute,
    /// It is not reached.
    Unreachable,
}

impl Health {
    /// Whether it answers requests.
    #[must_use]
    pub const fn answers(self) -> bool {
        matches!(self, Self::Healthy | Self::DiskSick)
    }

    /// Whether its silence was established.
    #[must_use]
    pub const fn is_silent(self) -> bool {
        matches!(self, Self::Mute | Self::Unreachable)
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProberInput {
    /// Probe this node from now on.
    Watch(NodeId),
    /// It is of no interest any more.
    Unwatch(NodeId),
    /// Something was said about it: probe it soon.
    Hint(NodeId),
    /// A probe ended.
    Probed {
        /// Of which node.
        node: NodeId,
        /// What it found.
        result: ProbeResult,
    },
    /// It answered something else.
    Observed(NodeId),
    /// The clock, about once a second and after every jump: a monotonic clock
    /// does not show that the machine slept.
    Clock(UnixSeconds),
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProberOutput {
    /// Probe this node; report `Probed`, within [`super::Pace::watch_answer_ms`].
    Probe(NodeId),
    /// Its health, or since when it is silent, is another now.
    Changed {
        /// Which node.
        node: NodeId,
        /// Its health.
        health: Health,
        /// Since when; of silence, since the first probe that failed, or since
        /// this node could tell again.
        since: Millis,
    },
    /// Whether this node seems to be the one that is cut off.
    Isolated(bool),
}

/// How many of each bounded thing there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProberSizes {
    /// Nodes watched.
    pub watched: usize,
    /// Nodes that are not watched because there are too many. They are never
    /// found silent, so whoever asked for it has to know.
    pub refused: u64,
    /// Probes under way.
    pub running: usize,
    /// Hints waiting.
    pub hints: usize,
}
