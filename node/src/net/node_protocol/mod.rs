//! `/echonet/node/1`: each request is one bidirectional stream.
//!
//! A frame is a little-endian u32 length and that many bytes; bulk bytes may follow on the same
//! stream. This module carries frames and bounds their cost; it never looks inside them.

pub mod frame;
mod peers;
pub mod pool;
pub mod server;
pub mod stream;

/// The ALPN of these connections.
pub const ALPN: &[u8] = b"/echonet/node/1";
