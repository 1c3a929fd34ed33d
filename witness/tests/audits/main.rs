//! Tests of the witness's decisions through their public interface. One binary, because linking
//! costs more than running.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test, as its own lines do")]

mod answering;
mod auditing;
mod beacon;
mod cases;
mod certificates;
mod chains;
mod draw;
mod hostile;
mod rig;
mod score;
mod vectors;
