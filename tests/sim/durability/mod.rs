//! How long works last: a coarse simulation of years of a large network under
//! churn, and a Markov model that is held against it and then carried to rates
//! that no simulation can see.
//!
//! Nothing here is a node: no bytes are moved, nobody lies, and clocks agree.

mod churn;
mod markov;
mod nodes;
mod segments;
mod world;

pub use churn::{Churn, Tail, YEAR_H};
pub use markov::Model;
pub use world::{Outcome, Scenario, play};
