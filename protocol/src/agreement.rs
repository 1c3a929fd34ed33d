//! How the holders of a placement agree on the next version of it (SPEC.md,
//! section 18).
//!
//! One decision per version, decided once whatever is lost, delayed or lied
//! about, as long as any two quorums share an honest holder. Each holder is a
//! [`Voter`]; whoever wants a change drives a [`Proposer`]. Both are machines:
//! they neither send nor store, and a voter's word leaves only after its driver
//! said that what it stands for is durable.
//!
//! Nothing here finds out who is alive: a voter asks its driver's [`Facts`],
//! which are that node's own observations, never anybody's hearsay.

mod proposer;
mod rules;
mod types;
mod voter;

pub use self::{
    proposer::{ProposeFailure, Proposer, ProposerConfig, ProposerInput, ProposerOutput},
    rules::{Facts, may_follow, room_elsewhere},
    types::{Answer, Ask, At, Certificate, Change, Locked, Promise},
    voter::{Asked, Voter, VoterConfig, VoterError, VoterOutput},
};
