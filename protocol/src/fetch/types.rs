//! What goes into and comes out of [`super::SegmentFetch`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{identity::NodeId, segment::Scheme};

/// Limits of fetching one range of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchConfig {
    /// Shard ranges under way at once, at most. Those that are late take no
    /// place, up to twice as many in all.
    pub parallel_max: usize,
    /// An attempt of which nothing is heard for this long has failed.
    pub attempt_timeout_ms: u64,
    /// An attempt that is not done after this long gets a competitor: the time
    /// in which the range should arrive, and some.
    pub hedge_after_ms: u64,
    /// An attempt of which nothing at all was heard gets a competitor after this
    /// long already: the time in which others usually answer, and some.
    pub first_word_ms: u64,
    /// The fetch fails when no verified byte arrives for this long.
    pub deadline_ms: u64,
    /// The fetch fails after this long in any case.
    pub total_max_ms: u64,
    /// Further attempts at one holder after a passing trouble, at most; an
    /// attempt that hung counts twice.
    pub retries_max: u32,
    /// Pause before the first retry at one holder; doubles with each further.
    pub backoff_ms: u64,
    /// Subsets of k shards that are tried, at most, where a segment is proven
    /// inconsistent.
    pub subsets_max: u32,
    /// Whether to find out who is at fault when verified ranges do not give the
    /// expected bytes; without it the fetch fails at once (a race between
    /// manifests should not pay for it).
    pub investigate: bool,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            parallel_max: 10,
            attempt_timeout_ms: 2_500,
            hedge_after_ms: 500,
            first_word_ms: 500,
            deadline_ms: 8_000,
            total_max_ms: 600_000,
            retries_max: 3,
            backoff_ms: 200,
            subsets_max: 32,
            investigate: true,
        }
    }
}

/// Somebody who is said to hold a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub node: NodeId,
    /// Expected time to the first byte; a large number for one that seems down.
    pub latency_ms: u32,
    /// Whether it was asked something lately, by whomever, and said nothing, or
    /// is in its quiet hours. It is not counted on, and asked only where the
    /// others are not enough.
    pub is_silent: bool,
}

/// What to fetch: one byte range, the same in each shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRequest {
    /// The segment's scheme.
    pub scheme: Scheme,
    /// Who is said to hold which index, from all placement records known.
    /// Indices beyond the scheme are ignored.
    pub holders: BTreeMap<u8, Vec<Holder>>,
    /// The data shards whose range is wanted, each under k.
    pub want: BTreeSet<u8>,
    /// Orders the subsets that are tried of an inconsistent segment.
    pub seed: u64,
}

/// What came of the bytes that [`FetchOutput::Decode`] named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeResult {
    /// They are what the descriptor and the manifest promise.
    Ok,
    /// A rebuilt shard is not the descriptor's, or a chunk or MiB hash fails.
    Mismatch,
}

/// Whether k+1 verified ranges lie on one codeword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// They do.
    Consistent,
    /// They do not: the driver found a row that proves it.
    Inconsistent,
}

/// What happened to a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchInput {
    /// The range arrived and verified against the shard's hash.
    Got {
        /// Which shard.
        index: u8,
        /// From whom.
        node: NodeId,
    },
    /// The node began to answer: it is there, whatever it will send.
    Heard {
        /// Which shard.
        index: u8,
        /// Who.
        node: NodeId,
    },
    /// A part of the range arrived and verified: the attempt lives.
    Progress {
        /// Which shard.
        index: u8,
        /// From whom.
        node: NodeId,
    },
    /// The range arrived and did not verify.
    Corrupt {
        /// Which shard.
        index: u8,
        /// From whom.
        node: NodeId,
    },
    /// The node answered that it does not have it, or will not serve it.
    Missing {
        /// Which shard.
        index: u8,
        /// Who.
        node: NodeId,
    },
    /// The node did not answer, broke off, or is busy.
    Unreachable {
        /// Which shard.
        index: u8,
        /// Who.
        node: NodeId,
    },
    /// Answer to [`FetchOutput::Decode`].
    Decoded(DecodeResult),
    /// Answer to [`FetchOutput::ProveInconsistent`].
    Proven(Evidence),
    /// Time went by.
    Tick,
}

/// What to do for a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchOutput {
    /// Ask `node` for the range of shard `index`.
    Get {
        /// Which shard.
        index: u8,
        /// Whom.
        node: NodeId,
    },
    /// Give up what is under way.
    Cancel {
        /// Which shard.
        index: u8,
        /// Whom.
        node: NodeId,
    },
    /// Make the wanted ranges from what is had, check them, and answer with
    /// [`FetchInput::Decoded`]. `have` is either exactly the wanted indices
    /// (nothing to rebuild) or exactly k indices.
    Decode {
        /// Ranges to use, ascending.
        have: Vec<u8>,
        /// Ranges to make, ascending.
        want: Vec<u8>,
    },
    /// Find a leaf row within the range in which these k+1 ranges are not a
    /// codeword; answer with [`FetchInput::Proven`], and keep the proof
    /// ([`crate::inconsistency`]) for whoever asks.
    ProveInconsistent {
        /// k+1 indices that were got, ascending.
        indices: Vec<u8>,
    },
    /// Somebody is at fault; the fetch goes on.
    Fault(Fault),
    /// The end: the bytes of the last [`FetchOutput::Decode`] are the ones.
    Complete,
    /// The end.
    Failed(FetchFailure),
}

/// Who is at fault (design 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A holder sent a range that does not verify against its shard's hash.
    Holder {
        /// Which shard.
        index: u8,
        /// Who.
        node: NodeId,
    },
    /// Verified shards are not a codeword: whoever made the descriptor.
    Publisher,
    /// Verified shards are a codeword, and not what the manifest says.
    Manifest,
}

/// Why a fetch ended without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCause {
    /// Fewer than k shards can be had.
    TooFew,
    /// The time is over.
    Deadline,
    /// The verified bytes are not what was promised.
    Mismatch,
}

/// A fetch that ended without its bytes. The counts are of shard indices and
/// add up to n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchFailure {
    /// Why.
    pub cause: FailureCause,
    /// Shards needed: k.
    pub needed: usize,
    /// Shards whose range arrived and verified.
    pub answered: usize,
    /// Shards of which at least one holder did not answer and none sent it.
    pub unreachable: usize,
    /// Shards that all known holders lack.
    pub missing: usize,
    /// Shards of which a holder sent wrong bytes and none right ones.
    pub corrupt: usize,
    /// Shards that were not asked for, or whose answer was not waited for.
    pub unasked: usize,
    /// Shards for which no holder is known.
    pub unknown: usize,
    /// Whether the segment was proven inconsistent.
    pub inconsistent: bool,
}

impl fmt::Display for FetchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cause == FailureCause::Mismatch {
            return f.write_str(if self.inconsistent {
                "the segment is inconsistent: its shards are not a codeword, and no subset tried \
                 gave the promised bytes; its publisher is at fault"
            } else {
                "the shards verify but are not what the manifest promises"
            });
        }
        write!(f, "{} of {} needed shards answered", self.answered, self.needed)?;
        let counts = [
            (self.unreachable, "unreachable"),
            (self.missing, "missing"),
            (self.corrupt, "corrupt"),
            (self.unasked, "not waited for"),
            (self.unknown, "without a known holder"),
        ];
        let mut separator = ": ";
        for (count, word) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {word}")?;
            separator = ", ";
        }
        if self.cause == FailureCause::Deadline {
            f.write_str("; the time was over")?;
        }
        Ok(())
    }
}

impl std::error::Error for FetchFailure {}
