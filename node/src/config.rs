//! What a node is told when it starts, after file, environment and flags were
//! merged and checked. It never reads any of them itself.

use std::{net::SocketAddr, path::PathBuf};

use echonet_protocol::{
    network::{BootstrapAddr, Genesis},
    node_descriptor::{Labels, Roles},
};

use crate::net::bandwidth::Caps;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The data directory; exists, is locked by this process.
    pub data: PathBuf,
    /// Where to listen. Port 0: any free port.
    pub bind: SocketAddr,
    /// Where to enter the network. May be empty for the first node.
    pub bootstrap: Vec<BootstrapAddr>,
    /// The genesis, when it is at hand; else it is fetched from a bootstrap
    /// node and checked against the NetworkID of its address.
    pub genesis: Option<Genesis>,
    /// What the node does. None: a client only.
    pub roles: Roles,
    /// Where it says it is.
    pub labels: Labels,
    /// Most bytes on disk for other people's shards.
    pub quota_bytes: u64,
    /// Bytes per second that others may cost, and when they cost less.
    pub caps: Caps,
    /// Relays to use; empty: none.
    pub relays: Vec<String>,
    /// Secret key of a grant issuer, when this node signs grants.
    pub issuer_secret: Option<[u8; 32]>,
    /// A witness's secret share of the network's threshold beacon.
    pub beacon_share: Option<[u8; 32]>,
}
