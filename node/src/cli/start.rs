//! The one place where this program starts a node.

use std::sync::Arc;

use echonet_protocol::{
    identity::{Identity, NodeId},
    network::{BootstrapAddr, NetworkId},
};

use crate::{
    config::NodeConfig,
    datadir::DataDir,
    node::Node,
    service::{Service, ServiceResult},
    settings,
};

/// A node in this process.
#[derive(Clone)]
pub(super) struct OwnNode(Node);

impl OwnNode {
    /// Starts it and remembers how it entered the network.
    pub(super) async fn start(dir: &DataDir, config: NodeConfig) -> ServiceResult<Self> {
        let identity: Identity = dir.identity()?;
        let bootstrap = config.bootstrap.clone();
        let node = Self(Node::start(config, identity).await?);
        if let Err(error) = settings::remember(dir, node.0.genesis(), &bootstrap) {
            node.shutdown().await;
            return Err(error.into());
        }
        Ok(node)
    }

    pub(super) fn service(&self) -> Arc<dyn Service> {
        Arc::new(self.0.clone())
    }

    pub(super) async fn shutdown(&self) {
        self.0.shutdown().await;
    }

    pub(super) fn node_id(&self) -> NodeId {
        self.0.node_id()
    }

    /// What `--bootstrap` takes to enter the network here.
    pub(super) fn bootstrap(&self) -> Option<BootstrapAddr> {
        bootstrap_addr(self.0.network_id(), self.node_id(), self.0.addrs())
    }
}

/// The bootstrap address of a node that listens on `addrs`: the first that
/// others can use, one that is not loopback if there is one.
pub(super) fn bootstrap_addr(
    network: NetworkId,
    node: NodeId,
    addrs: Vec<std::net::SocketAddr>,
) -> Option<BootstrapAddr> {
    let usable = |a: &std::net::SocketAddr| !a.ip().is_unspecified() && a.port() != 0;
    let mut addrs: Vec<_> = addrs.into_iter().filter(usable).collect();
    addrs.sort_by_key(|a| a.ip().is_loopback());
    addrs.first().map(|addr| BootstrapAddr { network, node, addr: *addr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_nobody_can_dial_is_not_handed_out() {
        let addr = |addrs: &[&str]| {
            let addrs = addrs.iter().map(|a| a.parse().unwrap()).collect();
            bootstrap_addr(NetworkId([1; 32]), NodeId([2; 32]), addrs).map(|b| b.addr.to_string())
        };
        assert_eq!(addr(&["0.0.0.0:4700"]), None);
        assert_eq!(addr(&["0.0.0.0:1", "127.0.0.1:2", "10.0.0.1:3"]), Some("10.0.0.1:3".into()));
        assert_eq!(addr(&["127.1.2.3:2"]), Some("127.1.2.3:2".into()));
    }
}
