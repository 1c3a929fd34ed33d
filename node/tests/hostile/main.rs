//! What strangers, holders, publishers and readers may do to a network, done to
//! real nodes in this process: never a wrong byte, bounded costs, and every
//! refusal says why.

#[cfg(test)]
mod absent;
#[cfg(test)]
mod blobs_client;
#[cfg(test)]
mod caps;
#[cfg(test)]
mod deaths;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod forged;
#[cfg(test)]
mod holders;
#[cfg(test)]
mod lies;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod publishers;
#[cfg(test)]
mod restarts;
#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;
#[cfg(test)]
mod tools;
