//! What a node's word is worth: a fold over sealed sets of verdicts (SPEC_WITNESS.md, section 9).
//!
//! Same sets, same score, to the bit: integers only, an order that follows from hashes, and
//! nothing read but the sets. Every change comes out as an event that names its verdict.

mod account;
mod checkpoint;
mod fold;
mod sealed;

pub use self::{
    account::{Standing, Word},
    checkpoint::CheckpointError,
    fold::{Fold, FoldError, Reason, Rules, ScoreEvent, Source},
    sealed::{SealError, SealedSet},
};
