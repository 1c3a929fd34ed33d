//! Content routing: which nodes are close to a key. A trait, so that kad can be replaced.
//!
//! It answers with node ids only and never with content: whatever those nodes say is verified by
//! whoever asked. An answer is a hint that a Sybil near the key can bend.

use std::time::Duration;

use futures::future::BoxFuture;

use super::address::{InvalidNodeId, NodeAddr, NodeId, short};

/// The most peers one lookup returns (kad's bucket size).
pub const CLOSEST_MAX: usize = 20;

/// Why a lookup gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoutingError {
    /// The routing table is empty.
    #[error("no peer is known yet; give a bootstrap address or wait until one connects")]
    NoPeers,
    /// Peers are known and none of them answered.
    #[error("none of the known peers answered; check this machine's network")]
    NoAnswer,
    /// Out of time.
    #[error("the lookup ran out of time with {} peers found; ask again with more time", .found.len())]
    Deadline {
        /// Peers that answered so far, closest first; not necessarily the closest there are.
        found: Vec<NodeId>,
    },
    /// More than one lookup can return was asked for.
    #[error("{asked} closest peers were asked for, a lookup returns at most {CLOSEST_MAX}")]
    TooMany {
        /// What was asked for.
        asked: usize,
    },
    /// Too many lookups wait already.
    #[error("the router has too many commands waiting; try again later")]
    Busy,
    /// The router has stopped.
    #[error("the router has stopped; restart the node")]
    Stopped,
}

/// Why a peer was not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddPeerError {
    /// Its id is not a key.
    #[error(transparent)]
    InvalidNodeId(#[from] InvalidNodeId),
    /// All of its addresses are of a kind that this node does not dial.
    #[error("node {} has no address that this node may dial; check its descriptor", short(.0))]
    NoUsableAddress(NodeId),
    /// Too many commands wait already.
    #[error("the router has too many commands waiting; try again later")]
    Busy,
    /// The router has stopped.
    #[error("the router has stopped; restart the node")]
    Stopped,
}

/// Finds the nodes that are responsible for keys.
pub trait ContentRouting: Send + Sync + 'static {
    /// The `count` nodes closest to `key` that answer, closest first, never this node itself.
    /// Fewer when the network has fewer. `patience` bounds the whole call.
    ///
    /// # Errors
    /// [`RoutingError`].
    fn closest(
        &self,
        key: [u8; 32],
        count: usize,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Vec<NodeId>, RoutingError>>;

    /// Adds a node that described itself, with the addresses of its signed descriptor. Only nodes
    /// that serve the DHT belong here.
    ///
    /// # Errors
    /// [`AddPeerError`].
    fn add_peer(&self, node: NodeId, addr: NodeAddr) -> Result<(), AddPeerError>;

    /// Removes a node, for example one that failed or said that it leaves.
    ///
    /// # Errors
    /// [`AddPeerError::Busy`] or [`AddPeerError::Stopped`].
    fn remove_peer(&self, node: &NodeId) -> Result<(), AddPeerError>;

    /// The nodes in the routing table.
    fn known_peers(&self) -> BoxFuture<'_, Result<Vec<NodeId>, RoutingError>>;

    /// Where `node` lies from `key`: smaller is closer. For ranking, with this node included.
    fn distance(&self, key: &[u8; 32], node: &NodeId) -> Result<[u8; 32], InvalidNodeId>;
}
