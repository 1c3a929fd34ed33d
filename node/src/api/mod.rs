//! The local HTTP API: how a command reaches the running daemon of its data
//! directory.
//!
//! It listens on loopback only and answers only to whoever can read the data
//! directory (a random token in `api.json`). It is never reachable from a web
//! page: foreign hosts and origins are refused, CORS is never granted.
//!
//! A publish or a fetch answers with a stream of frames ([`frame`]), so that
//! progress, content and result travel together, in bounded memory.

pub mod client;
pub mod frame;
mod guard;
pub mod progress;
pub mod server;

/// Most bytes of a request's body: a path and a few fields.
pub(crate) const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of an unframed answer: the status of a work of 8 TiB has some
/// four million shards, which is beyond what a command prints.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Requests carried out at once; more are told to come back.
pub(crate) const REQUESTS_MAX: usize = 64;
/// Frames that wait between a node and the socket.
pub(crate) const FRAMES_QUEUED_MAX: usize = 8;
/// Most content bytes in one frame.
pub(crate) const CONTENT_FRAME_BYTES: usize = 256 * 1024;
/// Progress events that wait for a slow listener.
pub const PROGRESS_QUEUED_MAX: usize = 256;

/// The routes; the version changes when one does.
pub(crate) mod route {
    pub(crate) const PUBLISH: &str = "/v1/publish";
    pub(crate) const GET: &str = "/v1/get";
    pub(crate) const UNPUBLISH: &str = "/v1/unpublish";
    pub(crate) const KEEP: &str = "/v1/keep";
    pub(crate) const WORK_STATUS: &str = "/v1/work_status";
    pub(crate) const NODE_STATUS: &str = "/v1/node_status";
    pub(crate) const WORKS: &str = "/v1/works";
    pub(crate) const DRAIN: &str = "/v1/drain";
    pub(crate) const PEERS: &str = "/v1/peers";
    pub(crate) const VERDICTS: &str = "/v1/verdicts";
    pub(crate) const REPLAY: &str = "/v1/replay";
}

/// The body of requests about one work.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct WorkRequest {
    /// The work, as text.
    pub(crate) content_id: String,
}

/// The body of requests for verdicts.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct VerdictsRequest {
    /// At most so many, newest first.
    pub(crate) count_max: usize,
}

/// The body of requests about one verdict.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct VerdictRequest {
    /// Its record hash, hex.
    pub(crate) verdict: String,
}

#[cfg(test)]
mod tests;
