//! The records of audits (SPEC_WITNESS.md): who the witnesses are, what they ask, what holders
//! answer, and what comes of it.
//!
//! Forms, bounds and signatures only. What is due, whether an answer is right, and what a verdict
//! is worth are decided elsewhere (`echonet-witness`).

mod challenge;
mod digest;
mod maintenance;
mod messages;
mod set;
mod verdict;

pub use self::{
    challenge::{AuditAnswer, AuditChallenge},
    digest::AuditDigest,
    maintenance::Maintenance,
    messages::{Answer, Ask},
    set::{SetSignature, WitnessSet, WitnessSetBody, WitnessSetError, WitnessSets},
    verdict::{AuditResult, AuditVerdict, Outcome, VerdictChallenge},
};
