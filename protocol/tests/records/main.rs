//! Tests of the records and messages through their public interface: golden vectors, every decoder
//! against damage, and the rules that bytes alone do not show. One binary, because linking costs
//! more than running.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test, as its own lines do")]

mod audit;
mod content;
mod decoders;
mod manifest;
mod messages;
mod placement;
mod plain;
mod rules;
mod sample;
mod vectors;
