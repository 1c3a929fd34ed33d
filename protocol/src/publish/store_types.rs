//! What goes into and comes out of [`super::SegmentStore`].

use std::{collections::BTreeMap, fmt};

use crate::{
    identity::NodeId,
    message::{Refusal, RefusalCode},
    placement::BrokenRule,
};

/// Limits of storing one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreConfig {
    /// Shards under way at once, at most.
    pub parallel_max: usize,
    /// An attempt without progress for this long has failed.
    pub attempt_timeout_ms: u64,
    /// Further attempts at one holder after a passing trouble, at most.
    pub retries_max: u32,
    /// Pause before the first retry at one holder; doubles with each further.
    pub backoff_ms: u64,
    /// After the write quorum, this long for the other shards.
    pub extra_ms: u64,
    /// For everything.
    pub deadline_ms: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            parallel_max: 10,
            attempt_timeout_ms: 20_000,
            retries_max: 3,
            backoff_ms: 500,
            extra_ms: 5_000,
            deadline_ms: 600_000,
        }
    }
}

/// Why a holder does not hold; for counting and for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trouble {
    /// No space.
    Full,
    /// No grant that it honours.
    NotGranted,
    /// It does not store.
    NotMyRole,
    /// It refused for another reason.
    Refused,
    /// It answered with a receipt that is not the one wanted.
    BadReceipt,
    /// Too much at once, even after retries.
    Busy,
    /// An error of its own.
    Internal,
    /// It did not answer.
    Unreachable,
    /// It answered, but too slowly.
    TooSlow,
}

impl Trouble {
    /// The trouble behind a refusal.
    #[must_use]
    pub const fn of(code: RefusalCode) -> Self {
        match code {
            RefusalCode::Full => Self::Full,
            RefusalCode::NotGranted => Self::NotGranted,
            RefusalCode::NotMyRole => Self::NotMyRole,
            RefusalCode::Busy => Self::Busy,
            RefusalCode::Internal => Self::Internal,
            _ => Self::Refused,
        }
    }

    /// Whether another attempt at the same holder may help.
    #[must_use]
    pub const fn passes(self) -> bool {
        matches!(self, Self::Busy | Self::Internal | Self::Unreachable | Self::TooSlow)
    }

    /// As in "3 holders full".
    const fn words(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::NotGranted => "without a grant that they honour",
            Self::NotMyRole => "not storing",
            Self::Refused => "refusing",
            Self::BadReceipt => "with a receipt that is not valid",
            Self::Busy => "busy",
            Self::Internal => "failing",
            Self::Unreachable => "unreachable",
            Self::TooSlow => "too slow",
        }
    }
}

/// How often which trouble was met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Troubles(pub BTreeMap<Trouble, u32>);

impl fmt::Display for Troubles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (trouble, count)) in self.0.iter().enumerate() {
            let noun = match (position, count) {
                (0, 1) => " holder",
                (0, _) => " holders",
                _ => "",
            };
            let comma = if position == 0 { "" } else { ", " };
            write!(f, "{comma}{count}{noun} {}", trouble.words())?;
        }
        Ok(())
    }
}

/// What happened to one segment's shards. `R` is what the driver keeps as a
/// receipt (a `Signed<Receipt>` in the node).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreInput<R> {
    /// A receipt that was verified to be the one wanted
    /// ([`crate::lease::ReceiptWanted::check`]).
    Receipt {
        /// Which shard.
        index: u8,
        /// Who signed.
        node: NodeId,
        /// The receipt.
        receipt: R,
    },
    /// The holder refused.
    Refused {
        /// Which shard.
        index: u8,
        /// Who.
        node: NodeId,
        /// Its code and words.
        refusal: Refusal,
    },
    /// The attempt failed without a refusal: [`Trouble::Unreachable`],
    /// [`Trouble::BadReceipt`] or [`Trouble::Internal`].
    Failed {
        /// Which shard.
        index: u8,
        /// Who.
        node: NodeId,
        /// What kind.
        trouble: Trouble,
        /// In words.
        reason: String,
    },
    /// Bytes of the shard went out: the attempt lives.
    Progress {
        /// Which shard.
        index: u8,
        /// To whom.
        node: NodeId,
    },
    /// Time went by.
    Tick,
}

/// What to do for one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOutput<R> {
    /// Send shard `index` to `node`.
    Store {
        /// Which shard.
        index: u8,
        /// To whom.
        node: NodeId,
    },
    /// Give up what is under way. A receipt that arrives all the same may be
    /// reported.
    Cancel {
        /// Which shard.
        index: u8,
        /// To whom.
        node: NodeId,
    },
    /// The write quorum is reached; the rest goes on behind. At most once, and
    /// never after an end.
    Quorum,
    /// The end: stored.
    Done(Stored<R>),
    /// The end: not stored.
    Failed(NotStored<R>),
}

/// A segment that has its write quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<R> {
    /// Holder and receipt per index; at least the write quorum, holders distinct.
    pub held: BTreeMap<u8, (NodeId, R)>,
    /// Indices without a holder, and the last trouble met with each.
    pub missing: Vec<MissingShard>,
    /// Soft rules of placement that these holders break.
    pub broken: Vec<BrokenRule>,
    /// Whether any one datacenter may be lost.
    pub survives_datacenter: bool,
}

/// A shard that nobody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingShard {
    /// Which.
    pub index: u8,
    /// The last trouble; none when it was never tried.
    pub trouble: Option<Trouble>,
    /// Its words.
    pub reason: String,
}

/// A segment that did not get its write quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotStored<R> {
    /// What it has: kept for resuming.
    pub held: BTreeMap<u8, (NodeId, R)>,
    /// Receipts needed: the write quorum.
    pub want: usize,
    /// Nodes that could be asked at all.
    pub candidates: usize,
    /// How many holders had which trouble, each counted once, by its last.
    pub troubles: Troubles,
    /// Words of the trouble met last.
    pub last_reason: String,
}

impl<R> fmt::Display for NotStored<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} needed receipts", self.held.len(), self.want)?;
        if self.candidates < self.want {
            write!(f, "; only {} nodes can be asked", self.candidates)?;
        }
        if !self.troubles.0.is_empty() {
            write!(f, ": {}", self.troubles)?;
        }
        if !self.last_reason.is_empty() {
            write!(f, " (last: {})", self.last_reason)?;
        }
        Ok(())
    }
}
