//! The vault against a faulty disk, a reference model, and real kills.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers too")]
mod basic;
mod damage;
mod fake_disk;
mod kill;
mod limits;
mod model;
mod model_test;
mod support;
