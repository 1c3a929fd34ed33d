//! The EchoNet node: the only place that touches network, disk, clock and
//! randomness.
//!
//! Decisions are made by the pure crates; this one carries them out. It never
//! decides by itself what is valid, enough, or at fault.

pub mod api;
pub(crate) mod audit;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod core;
pub mod crash_points;
pub mod datadir;
mod demo;
pub mod devnet;
pub(crate) mod disk_room;
pub mod flow;
pub(crate) mod keep;
pub mod members;
pub mod net;
pub mod node;
pub mod origin;
pub mod owner;
pub mod quiet;
pub mod serve;
pub mod service;
pub mod settings;
pub mod units;
