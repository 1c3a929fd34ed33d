//! What an owner remembers: works, segments under lease, the deduplication
//! index, and the journal of publishes under way.
//!
//! It never decides what to publish and never talks to the network. Losing it
//! loses no work: works are found and fetched without it.

pub mod catalog;
pub mod journal;
pub mod rows;

pub use catalog::{Catalog, CatalogError};
