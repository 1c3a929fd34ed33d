//! The node's own store of signed records: bounded, persistent, and hard to flood.
//!
//! [`policy`] decides what stays, in memory and without a clock; [`store`] writes it through to
//! redb. Neither verifies a signature: a record handed in was verified by the caller, so that
//! `publisher` is who signed it. Neither ever evicts a pinned record or one of the node's own.

pub mod policy;
#[cfg(test)]
mod policy_tests;
pub mod record;
mod shares;
pub mod store;
