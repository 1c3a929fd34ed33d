//! What goes into and comes out of [`super::Membership`].

use super::{
    claim::{DiskHealth, Life},
    messages::{Answer, Ask},
    pace::Pace,
};
use crate::{
    identity::{Identity, NodeId},
    machine::Millis,
    network::NetworkId,
    time::UnixSeconds,
};

/// On what a view rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Nothing yet: it was only named.
    Named,
    /// Others say so.
    Hearsay,
    /// Its own signed word.
    Word,
    /// This node's own asking, or traffic with it.
    Own,
}

/// What this node makes of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Whether it lives. `Down` rests on own probes only.
    pub life: Life,
    /// On what that rests.
    pub evidence: Evidence,
    /// Since when.
    pub since: Millis,
    /// What it says about its disk.
    pub disk: Option<DiskHealth>,
    /// Its latest word; 0: none is known.
    pub incarnation: u64,
    /// Own probes that failed since it was last heard.
    pub failures: u32,
}

/// How a member begins.
#[derive(Debug, Clone)]
pub struct MembershipStart {
    /// Signs this node's claims.
    pub identity: Identity,
    /// The network.
    pub network: NetworkId,
    /// Members that are known already; this node itself does not count.
    pub group: Vec<NodeId>,
    /// Periods and bounds.
    pub pace: Pace,
    /// The clock. The first incarnation is this, so that what was said about an
    /// earlier run is older.
    pub unix: UnixSeconds,
    /// Health of this node's own disk.
    pub disk: DiskHealth,
    /// Of the order in which members are asked; not to be foreseen.
    pub seed: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipInput {
    /// A node of the group was learned of, with a descriptor that verifies.
    Learned(NodeId),
    /// A node is of the group no more.
    Forgot(NodeId),
    /// A node asks; answered by [`MembershipOutput::Reply`] with this number.
    Asked {
        /// Who, as the connection proves.
        from: NodeId,
        /// The driver's number of the question.
        id: u64,
        /// What.
        ask: Ask,
    },
    /// The answer to [`MembershipOutput::Ask`].
    Answered {
        /// Who was asked, as the connection proves.
        to: NodeId,
        /// The number of the question.
        id: u64,
        /// What it says.
        answer: Answer,
    },
    /// No answer came. After a refusal, `Observed` is to be said first.
    Failed {
        /// Who was asked.
        to: NodeId,
        /// The number of the question.
        id: u64,
    },
    /// Other traffic proves that this node is there.
    Observed(NodeId),
    /// This node's own disk.
    Disk(DiskHealth),
    /// The clock, about once a second and after every jump.
    Clock(UnixSeconds),
    /// This node is about to stop for good.
    Leave,
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipOutput {
    /// Ask this; report `Answered` or `Failed` with the number.
    Ask {
        /// Whom.
        to: NodeId,
        /// The question's number.
        id: u64,
        /// What.
        ask: Ask,
    },
    /// Answer a question.
    Reply {
        /// Who asked.
        to: NodeId,
        /// The driver's number of the question.
        id: u64,
        /// What to say.
        answer: Answer,
    },
    /// A member's life, its disk, or what a suspicion rests on, is another now.
    Changed {
        /// Which.
        node: NodeId,
        /// What is made of it now.
        view: View,
    },
    /// Probe this node yourself, if you care: something was said about it.
    Hint(NodeId),
}

/// How many of each bounded thing there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Members.
    pub members: usize,
    /// Claims kept, words and others'.
    pub claims: usize,
    /// News being passed on.
    pub news: usize,
    /// Probes under way.
    pub probes: usize,
    /// Probes under way for others.
    pub errands: usize,
    /// Questions remembered.
    pub asks: usize,
    /// Members waiting to be asked again.
    pub waiting: usize,
}
