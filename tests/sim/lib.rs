//! What the scenarios share: real EchoNet processes started, watched, damaged and
//! killed from outside, through the command line and the files that anyone has.
//!
//! Those know the CLI's contract and nothing of the code behind it. [`durability`]
//! is the opposite: years of a large network, played through the node's own
//! decisions, without any process.

pub mod durability;
#[path = "../support/mod.rs"]
pub mod support;
pub mod world;
