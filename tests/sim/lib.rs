//! What the scenarios share: real EchoNet processes started, watched, damaged and
//! killed from outside, through the command line and the files that anyone has.
//!
//! It knows the CLI's contract and nothing of the code behind it.

#[path = "../support/mod.rs"]
pub mod support;
