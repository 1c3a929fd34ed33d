//! What goes into and comes out of [`super::Proposer`].

use crate::{
    agreement::types::{Answer, Ask},
    identity::{NodeId, Signed},
    lease::Receipt,
    placement_record::PlacementRecord,
};

/// Limits and periods of a proposer, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProposerConfig {
    /// How long a round of questions takes at most.
    pub round_ms: u64,
    /// How often the claim is renewed while shards are moved: well under the voters'
    /// `hold_ms`.
    pub renew_ms: u64,
    /// How long more signatures than needed are waited for: they keep lineages short.
    pub linger_ms: u64,
    /// Pause before a higher ballot, at most; drawn anew each time.
    pub pause_ms: u64,
    /// Ballots, at most.
    pub ballots_max: u32,
}

impl Default for ProposerConfig {
    fn default() -> Self {
        Self { round_ms: 10_000, renew_ms: 3_000, linger_ms: 500, pause_ms: 2_000, ballots_max: 16 }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposerInput {
    /// A node answered.
    Answer {
        /// Who, as the connection says.
        node: NodeId,
        /// What.
        answer: Box<Answer>,
    },
    /// A node could not be asked.
    Unreachable {
        /// Who.
        node: NodeId,
    },
    /// After [`ProposerOutput::Claimed`]: the receipts, by ascending index, that the
    /// next version is to have.
    Propose {
        /// Old and new ones.
        receipts: Vec<Signed<Receipt>>,
    },
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposerOutput {
    /// Ask a holder; this node's own voter too. What was asked of it before, and was
    /// not answered, need not be answered any more.
    Ask {
        /// Whom.
        to: NodeId,
        /// What.
        ask: Box<Ask>,
    },
    /// Enough holders go along: move the shards, then [`ProposerInput::Propose`].
    Claimed,
    /// The next version is agreed on.
    Committed {
        /// Its record.
        record: Box<PlacementRecord>,
        /// Whether it says what was proposed here; else another's change was finished,
        /// and there is nothing left to propose.
        is_ours: bool,
    },
    /// A newer record, verified, is there already.
    Overtaken {
        /// It.
        record: Box<PlacementRecord>,
    },
    /// It came to nothing.
    Failed(ProposeFailure),
}

/// Why a proposal came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeFailure {
    /// Another proposer has its turn, or was always ahead.
    #[error("another holder is at it")]
    Busy,
    /// Too few holders answered.
    #[error("{heard} of {needed} needed holders answered")]
    NoQuorum {
        /// So many went along.
        heard: usize,
        /// So many are needed.
        needed: usize,
    },
    /// Holders do not see it so.
    #[error("refused by too many holders; one said: {reason}")]
    Refused {
        /// One of them.
        reason: String,
    },
    /// What was to be proposed is no next version.
    #[error("not a next version: {0}")]
    Invalid(String),
}
