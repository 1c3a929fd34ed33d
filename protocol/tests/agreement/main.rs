//! Agreement on the next placement: a seeded world of voters and proposers that
//! lose, repeat and reorder messages, crash, and lie; and the rules by which a
//! voter goes along. One binary, because linking costs more than running.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test, as its own lines do")]

mod lies;
mod proposing;
mod safety;
mod sample;
mod voting;
mod weak;
mod world;
