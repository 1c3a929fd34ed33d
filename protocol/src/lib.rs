//! What two EchoNet nodes must agree on, byte for byte.
//!
//! Formats are drawn in `SPEC.md`; the modules follow its sections. This crate
//! never opens a socket or a file, never reads a clock, never draws a random
//! number: all of these are passed in, so that the simulator and the node run
//! the very same decisions.

pub mod agreement;
pub mod announcement;
pub mod audit;
pub mod bytes;
pub mod codec;
pub mod content_id;
pub mod data;
pub mod fetch;
pub mod identity;
pub mod inconsistency;
pub mod lease;
mod list;
pub mod machine;
pub mod manifest;
pub mod membership;
pub mod message;
pub mod network;
pub mod node_descriptor;
pub mod params;
pub mod placement;
pub mod placement_record;
pub mod publish;
pub mod quiet;
pub mod segment;
pub mod time;
