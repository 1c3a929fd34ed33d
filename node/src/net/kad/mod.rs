//! libp2p-kad over the node's iroh endpoint, as a router and nothing else.
//!
//! It finds nodes close to a key. It never stores a record or provider, never dials an address
//! that the filter refuses, and puts nobody into the routing table who did not describe itself
//! ([`ContentRouting::add_peer`]): kad's own habit of believing whoever connects is off.

pub mod ids;
mod known;
mod muxer;
#[cfg(test)]
mod refusal_tests;
mod refusing_store;
mod task;
mod transport;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use iroh::TransportAddr;
use libp2p_swarm::StreamProtocol;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

pub use self::transport::KadHandler;
use self::{
    ids::{key_point, locate},
    task::{Command, Lookup},
    transport::IrohTransport,
};
use super::{
    address::{AddressRules, InvalidNodeId, NodeAddr, NodeId, endpoint_id},
    endpoint::NodeEndpoint,
    gate::ConnectionGate,
    limits::KadLimits,
    regions::{RegionCache, closest, distance},
    routing::{AddPeerError, CLOSEST_MAX, ContentRouting, RoutingError},
};

/// The ALPN of kad's connections.
pub const ALPN: &[u8] = b"/echonet/kad/1";

/// Decides whether an address of a node may be dialled and kept.
pub type AddressFilter = Arc<dyn Fn(&NodeId, &TransportAddr) -> bool + Send + Sync>;

/// A filter that follows address rules.
pub fn rules_filter(rules: AddressRules) -> AddressFilter {
    Arc::new(move |_, addr| rules.accepts(addr))
}

/// What the router needs to know.
#[derive(Clone)]
pub struct KadConfig {
    /// Nodes of other networks are not spoken to.
    pub network_id: [u8; 32],
    /// True answers other nodes' lookups; reachable nodes should, laptops should not.
    pub serve: bool,
    /// Which addresses may be dialled.
    pub filter: AddressFilter,
    /// Bounds.
    pub limits: KadLimits,
}

/// A node that was met and has not described itself: ask it for its descriptor, verify it, and
/// call [`ContentRouting::add_peer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// Who.
    pub node: NodeId,
    /// Where it answered; empty when it connected to us.
    pub addr: NodeAddr,
}

/// Why the router did not start.
#[derive(Debug, thiserror::Error)]
pub enum KadStartError {
    /// The endpoint's own key has no PeerId.
    #[error(transparent)]
    OwnId(#[from] InvalidNodeId),
    /// libp2p refused its configuration.
    #[error("the DHT router cannot start: {0}")]
    Swarm(String),
}

/// The protocol name: networks with different ids do not understand each other.
fn protocol(network_id: &[u8; 32]) -> Result<StreamProtocol, KadStartError> {
    let network = data_encoding::HEXLOWER.encode(&network_id[..8]);
    StreamProtocol::try_from_owned(format!("/echonet/kad/1/{network}"))
        .map_err(|e| KadStartError::Swarm(e.to_string()))
}

/// The running router. Dropping it stops it.
#[derive(Debug)]
pub struct KadRouting {
    endpoint: NodeEndpoint,
    commands: mpsc::Sender<Command>,
    lookups: Semaphore,
    regions: SharedRegions,
    _task: AbortOnDropHandle<()>,
}

/// Shared by callers and the swarm's task.
type SharedRegions = Arc<Mutex<RegionCache>>;

fn lock(regions: &SharedRegions) -> MutexGuard<'_, RegionCache> {
    // A cache is usable, at worst incomplete, whatever happened while it was locked.
    regions.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KadRouting {
    /// Starts the router on an endpoint. Register the handler with the endpoint's `Router` under
    /// [`ALPN`], and read the strangers.
    ///
    /// # Errors
    /// [`KadStartError`].
    pub fn start(
        endpoint: NodeEndpoint,
        config: KadConfig,
    ) -> Result<(Self, KadHandler, mpsc::Receiver<Stranger>), KadStartError> {
        let limits = config.limits.clone();
        let gate = ConnectionGate::new(limits.connections.clone());
        let (handler, accepted) = KadHandler::new(Arc::clone(&gate), limits.inbox_max);
        let transport = IrohTransport::new(
            endpoint.clone(),
            gate,
            accepted,
            Arc::clone(&config.filter),
            Duration::from_millis(limits.dial_ms_max),
        );
        let regions = Arc::new(Mutex::new(RegionCache::new(
            limits.regions_max,
            Duration::from_millis(limits.region_ttl_ms),
            Duration::from_millis(limits.region_whole_ttl_ms),
        )));
        let (commands, inbox) = mpsc::channel(limits.commands_max.max(1));
        let (strangers_in, strangers) = mpsc::channel(limits.strangers_max.max(1));
        let lookups = Semaphore::new(limits.lookups_max);
        let shared = Arc::clone(&regions);
        let task = task::Task::new(endpoint.clone(), config, transport, shared, strangers_in)?;
        let task = AbortOnDropHandle::new(tokio::spawn(task.run(inbox)));
        let routing = Self { endpoint, commands, lookups, regions, _task: task };
        Ok((routing, handler, strangers))
    }

    /// Keyspace regions remembered now.
    pub fn regions_len(&self) -> usize {
        lock(&self.regions).len()
    }

    fn send(&self, command: Command) -> Result<(), AddPeerError> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AddPeerError::Busy,
            mpsc::error::TrySendError::Closed(_) => AddPeerError::Stopped,
        })
    }

    async fn look_up(
        &self,
        key: [u8; 32],
        count: usize,
        patience: Duration,
    ) -> Result<Vec<NodeId>, RoutingError> {
        if count > CLOSEST_MAX {
            return Err(RoutingError::TooMany { asked: count });
        }
        let deadline = Instant::now() + patience;
        let late = || RoutingError::Deadline { found: Vec::new() };
        let point = key_point(&key);
        if let Some(answer) = lock(&self.regions).get(&point, count, Instant::now()) {
            return Ok(answer);
        }
        let permit = tokio::time::timeout_at(deadline.into(), self.lookups.acquire()).await;
        let _permit = permit.map_err(|_| late())?.map_err(|_| RoutingError::Stopped)?;
        // Whoever ran meanwhile may have answered this one as well.
        if let Some(answer) = lock(&self.regions).get(&point, count, Instant::now()) {
            return Ok(answer);
        }
        let (reply, answer) = oneshot::channel();
        let lookup = Lookup { key, deadline, reply };
        self.send(Command::Closest(lookup)).map_err(|error| match error {
            AddPeerError::Busy => RoutingError::Busy,
            _ => RoutingError::Stopped,
        })?;
        // The task ends overdue lookups itself, so that it can say what it found; the second
        // timeout only guards against a stuck task.
        let guard = deadline + Duration::from_millis(2 * task::TICK_MS);
        let answer = tokio::time::timeout_at(guard.into(), answer).await.map_err(|_| late())?;
        let peers = answer.map_err(|_| RoutingError::Stopped)??;
        Ok(closest(peers, &point, count))
    }
}

impl ContentRouting for KadRouting {
    fn closest(
        &self,
        key: [u8; 32],
        count: usize,
        patience: Duration,
    ) -> BoxFuture<'_, Result<Vec<NodeId>, RoutingError>> {
        self.look_up(key, count, patience).boxed()
    }

    fn add_peer(&self, node: NodeId, addr: NodeAddr) -> Result<(), AddPeerError> {
        endpoint_id(&node)?;
        if addr.is_empty() {
            return Err(AddPeerError::NoUsableAddress(node));
        }
        self.send(Command::Add(node, addr))
    }

    fn remove_peer(&self, node: &NodeId) -> Result<(), AddPeerError> {
        lock(&self.regions).peer_failed(node);
        self.send(Command::Remove(*node))
    }

    fn known_peers(&self) -> BoxFuture<'_, Result<Vec<NodeId>, RoutingError>> {
        async move {
            let (reply, answer) = oneshot::channel();
            let sent = self.commands.send(Command::Known(reply)).await;
            sent.map_err(|_| RoutingError::Stopped)?;
            answer.await.map_err(|_| RoutingError::Stopped)
        }
        .boxed()
    }

    fn distance(&self, key: &[u8; 32], node: &NodeId) -> Result<[u8; 32], InvalidNodeId> {
        Ok(distance(&key_point(key), &locate(node)?.point))
    }
}

impl KadRouting {
    /// The endpoint that the router runs on.
    pub fn endpoint(&self) -> &NodeEndpoint {
        &self.endpoint
    }
}
