//! The vault against a faulty disk, a reference model, and real kills.
mod basic;
mod fake_disk;
mod model;
mod model_test;
mod support;
