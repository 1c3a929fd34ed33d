//! How long works last: a coarse simulation of years of a large network under
//! churn, and a Markov model that is held against it and then carried to rates
//! that no simulation can see.
//!
//! Nothing here is a node: no bytes are moved, nobody lies, and clocks agree.

mod cases;
mod churn;
mod markov;
mod nodes;
mod plot;
mod policies;
mod report;
mod saved;
mod segments;
pub mod stats;
mod study;
mod svg;
mod world;

pub use cases::{
    Case, SEED, STRESSED_REPAIR_H, Size, disaster_cases, published_cases, stressed_cases,
};
pub use churn::{Churn, Tail, YEAR_H};
pub use markov::Model;
pub use policies::{STORJ, STORJ_PAPER, TIMING, Thresholds};
pub use report::tables;
pub use study::{FACTOR_MAX, Played, Study, run, run_and_write};
pub use world::{Outcome, Scenario, play};
