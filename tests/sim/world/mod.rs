//! The simulator: the node's own machines in a seeded world with virtual time.
//!
//! The engine gives clocks that run wrong, a network that delays, loses, doubles,
//! reorders and falls apart, disks that keep what was synced and lose what faults
//! take, and nodes that lie. Judges look at every event; once the faults are over,
//! everything has to become whole again. One seed gives one run, always the same.
//! No decision that a machine of the node takes is taken here.

mod agreement;
mod defect;
mod detection;
mod detector;
mod disk;
mod engine;
mod judge;
mod links;
mod message;
mod node;
mod plan;
mod report;
mod scene;
mod setup;
mod task;
mod trials;

pub use self::{
    defect::Defect,
    detection::{Detection, DetectionOptions, detect, measure_detection},
    report::{Options, Played, play_seed, simulate},
    trials::{Talk, noticed, talk},
};
