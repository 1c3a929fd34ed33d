//! The network: one iroh endpoint, kad over it as a router, our own record store, and the
//! plumbing of `/echonet/node/1`.
//!
//! It moves opaque bytes between authenticated peers and bounds what each of them may cost. It
//! never decides what the bytes mean: signatures, records and requests are the caller's, and a
//! record handed to [`records`] must have been verified already.

pub mod address;
pub mod bandwidth;
pub mod dial_memory;
pub mod endpoint;
pub mod gate;
pub mod guard;
pub mod kad;
pub mod limits;
pub mod node_protocol;
pub mod records;
pub mod regions;
pub mod routing;
pub mod silence;
