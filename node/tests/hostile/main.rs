//! What strangers, holders, publishers and readers may do to a network, done to
//! real nodes in this process: never a wrong byte, bounded costs, and every
//! refusal says why.

mod absent;
mod blobs_client;
mod floods;
mod forged;
mod holders;
mod lies;
mod messages;
mod publishers;
mod restarts;
#[path = "../support/mod.rs"]
mod support;
mod tools;
