//! The vault against a faulty disk, a reference model, and real kills.
mod basic;
mod damage;
mod fake_disk;
mod kill;
mod limits;
mod model;
mod model_test;
mod support;
