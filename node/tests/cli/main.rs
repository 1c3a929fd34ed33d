//! Transcripts of the command line. Wording is pinned on purpose: people read
//! it in trouble, and programs read the field names.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;
mod daemon;
mod errors;
mod fake;
mod help;
