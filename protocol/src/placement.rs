//! Placement: which nodes hold the shards of a segment (design 5).
//!
//! Weighted rendezvous in integers over quantised capacity proposes, rules about
//! operators, racks, datacenters and regions dispose. The result is recorded
//! and never recomputed. Nothing here contacts a node or trusts a label to
//! loosen anything.

mod attract;
mod choose;
mod plan;
mod rank;
mod rules;
mod types;

pub use attract::{Attracting, Attraction};
pub use plan::{PlacementPlan, place, score, survives_datacenter};
pub use rank::{CAPACITY_CLASS_MAX, Straw, genesis_beacon, neg_log2, rank, weight};
pub use rules::datacenter_name;
pub use types::{BrokenRule, Candidate, PlacementRequest, Site, Standing, observed_prefix};
