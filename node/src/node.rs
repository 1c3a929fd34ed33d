//! Placeholder: no node yet. It never starts.

use std::net::SocketAddr;

use echonet_protocol::{
    content_id::ContentId,
    identity::{Identity, NodeId},
    network::{Genesis, NetworkId},
};
use futures::future::{BoxFuture, ready};

use crate::{config::NodeConfig, service::*};

/// A running node.
#[derive(Debug, Clone)]
pub struct Node {
    node_id: NodeId,
    genesis: Genesis,
}

fn none<T: Send + 'static>() -> BoxFuture<'static, ServiceResult<T>> {
    Box::pin(ready(Err(ServiceError::new("internal", "this build has no node in it"))))
}

impl Node {
    /// Starts a node.
    ///
    /// # Errors
    /// Always, until there is one.
    pub async fn start(_: NodeConfig, _: Identity) -> Result<Self, ServiceError> {
        none().await
    }

    /// Where it listens.
    #[must_use]
    pub fn addrs(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    /// Its key's public half.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// Its network.
    #[must_use]
    pub fn network_id(&self) -> NetworkId {
        self.genesis.network_id()
    }

    /// Its network's genesis.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Ends it.
    pub async fn shutdown(&self) {}
}

impl Service for Node {
    fn publish(
        &self,
        _: PublishRequest,
        _: ProgressSender,
    ) -> BoxFuture<'_, ServiceResult<Published>> {
        none()
    }

    fn get<'a>(
        &'a self,
        _: GetRequest,
        _: Sink<'a>,
        _: ProgressSender,
    ) -> BoxFuture<'a, ServiceResult<Fetched>> {
        none()
    }

    fn unpublish(&self, _: ContentId) -> BoxFuture<'_, ServiceResult<Work>> {
        none()
    }

    fn work_status(&self, _: ContentId) -> BoxFuture<'_, ServiceResult<WorkStatus>> {
        none()
    }

    fn node_status(&self) -> BoxFuture<'_, ServiceResult<NodeStatus>> {
        none()
    }

    fn works(&self) -> BoxFuture<'_, ServiceResult<Vec<Work>>> {
        none()
    }

    fn peers(&self) -> BoxFuture<'_, ServiceResult<Vec<Peer>>> {
        none()
    }
}
