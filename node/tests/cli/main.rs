//! Transcripts of the command line. Wording is pinned on purpose: people read
//! it in trouble, and programs read the field names.

mod common;
mod daemon;
mod errors;
mod fake;
mod help;
