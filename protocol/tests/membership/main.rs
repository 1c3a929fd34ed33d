//! Membership and probing in a world of virtual time: how fast a network agrees that a node is
//! gone, that nobody alive is ever found gone, what liars can do, and that nothing grows without
//! bound.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test, as its own lines do")]

mod agreement;
mod bounds;
mod claims;
mod prober;
mod rig;
mod rumours;
mod world;
