//! Keeping things for years: repair planning, tiers, two-dimensional coding,
//! endowments.
//!
//! [`health`] says how endangered a segment is and when it has to be repaired,
//! [`queue`] which repair comes next and whether there is room for it, and
//! [`keeper`] does so for everything that one node holds.
//!
//! It never opens a socket or a file, never reads a clock, never draws a random
//! number, never plans a repair from gossip alone, and never counts a shard as
//! kept without a receipt or a proof for it. Membership, probes and time are
//! passed in.

mod bucket;
pub mod health;
pub mod keeper;
pub mod queue;
