//! The task that owns the swarm: commands in, answers out.
//!
//! It never waits for anything but the swarm, its commands and a short tick, so a slow peer delays
//! only the lookups that ask it.

use std::{
    collections::HashMap,
    num::NonZeroU8,
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p_core::{ConnectedPoint, Multiaddr, Transport};
use libp2p_identity::PeerId;
use libp2p_kad::{self as kad, GetClosestPeersError, GetClosestPeersOk, Mode, QueryId};
use libp2p_swarm::{Config as SwarmConfig, DialError, Swarm, SwarmEvent};
use tokio::{
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};
use tracing::debug;

use super::{
    AddressFilter, KadConfig, KadStartError, SharedRegions, Stranger,
    ids::{from_multiaddr, key_point, locate, node_id, peer_id, to_multiaddr},
    known::Known,
    lock, protocol,
    refusing_store::RefusingStore,
    transport::IrohTransport,
};
use crate::net::{
    address::{NodeAddr, NodeId, short},
    endpoint::NodeEndpoint,
    limits::KadLimits,
    regions::{Located, closest},
    routing::{CLOSEST_MAX, RoutingError},
};

/// How late an overdue lookup is noticed, at most, milliseconds.
pub(super) const TICK_MS: u64 = 100;

type LookupResult = Result<Vec<Located>, RoutingError>;

#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) key: [u8; 32],
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<LookupResult>,
}

#[derive(Debug)]
pub(super) enum Command {
    Closest(Lookup),
    Add(NodeId, NodeAddr),
    Remove(NodeId),
    Known(oneshot::Sender<Vec<NodeId>>),
}

struct Running {
    lookup: Lookup,
    overdue: bool,
}

pub(super) struct Task {
    swarm: Swarm<kad::Behaviour<RefusingStore>>,
    endpoint: NodeEndpoint,
    filter: AddressFilter,
    limits: KadLimits,
    regions: SharedRegions,
    known: Known,
    running: HashMap<QueryId, Running>,
    strangers: mpsc::Sender<Stranger>,
}

fn behaviour(
    own: PeerId,
    config: &KadConfig,
) -> Result<kad::Behaviour<RefusingStore>, KadStartError> {
    let limits = &config.limits;
    let mut kad_config = kad::Config::new(protocol(&config.network_id)?);
    kad_config
        .set_query_timeout(Duration::from_millis(limits.lookup_ms_max))
        .set_substreams_timeout(Duration::from_millis(limits.substream_ms_max))
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        // Unfiltered hands every record to the store, which refuses it and thereby resets the
        // sender's stream; the filter would acknowledge what is dropped.
        .set_record_filtering(kad::StoreInserts::Unfiltered)
        .set_caching(kad::Caching::Disabled)
        .set_record_ttl(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_periodic_bootstrap_interval(Some(Duration::from_millis(limits.refresh_ms)))
        .disjoint_query_paths(true);
    let mut behaviour = kad::Behaviour::with_config(own, RefusingStore, kad_config);
    behaviour.set_mode(Some(if config.serve { Mode::Server } else { Mode::Client }));
    Ok(behaviour)
}

impl Task {
    pub(super) fn new(
        endpoint: NodeEndpoint,
        config: KadConfig,
        transport: IrohTransport,
        regions: SharedRegions,
        strangers: mpsc::Sender<Stranger>,
    ) -> Result<Self, KadStartError> {
        let own = peer_id(&endpoint.node_id())?;
        let idle = Duration::from_millis(config.limits.connection_idle_ms_max);
        // iroh races paths itself, so libp2p need not race addresses.
        let swarm_config = SwarmConfig::with_tokio_executor()
            .with_dial_concurrency_factor(NonZeroU8::MIN)
            .with_idle_connection_timeout(idle);
        let mut swarm = Swarm::new(transport.boxed(), behaviour(own, &config)?, own, swarm_config);
        swarm
            .listen_on(Multiaddr::empty())
            .map_err(|error| KadStartError::Swarm(error.to_string()))?;
        Ok(Self {
            swarm,
            endpoint,
            known: Known::new(config.limits.known_peers_max),
            filter: config.filter,
            limits: config.limits,
            regions,
            running: HashMap::new(),
            strangers,
        })
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.on_event(event),
                _ = tick.tick(), if !self.running.is_empty() => self.end_overdue(),
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Closest(lookup) => self.start(lookup),
            Command::Add(node, addr) => self.add(node, &addr),
            Command::Remove(node) => {
                self.known.remove(&node);
                self.remove_from_table(&node);
            }
            Command::Known(reply) => {
                // Whoever asked may have gone; nothing is lost then.
                let _ = reply.send(self.table());
            }
        }
    }

    fn table(&mut self) -> Vec<NodeId> {
        let buckets = self.swarm.behaviour_mut().kbuckets();
        let peers = buckets.flat_map(|bucket| {
            bucket.iter().map(|entry| *entry.node.key.preimage()).collect::<Vec<_>>()
        });
        peers.filter_map(|peer| node_id(&peer)).collect()
    }

    fn start(&mut self, lookup: Lookup) {
        if self.table().is_empty() {
            // Everybody failed for a while, for example because this machine was offline.
            for node in self.known.newest(CLOSEST_MAX) {
                self.put_into_table(&node);
            }
            if self.table().is_empty() {
                let _ = lookup.reply.send(Err(RoutingError::NoPeers));
                return;
            }
        }
        let id = self.swarm.behaviour_mut().get_closest_peers(lookup.key.to_vec());
        self.running.insert(id, Running { lookup, overdue: false });
    }

    /// Ends lookups that ran out of time or whose caller has gone. kad then reports what it has.
    fn end_overdue(&mut self) {
        let now = Instant::now();
        for (id, running) in &mut self.running {
            if running.lookup.deadline <= now || running.lookup.reply.is_closed() {
                running.overdue = true;
                if let Some(mut query) = self.swarm.behaviour_mut().query_mut(id) {
                    query.finish();
                }
            }
        }
    }

    fn add(&mut self, node: NodeId, addr: &NodeAddr) {
        if node == self.endpoint.node_id() {
            return;
        }
        let mut usable = addr.transports();
        usable.retain(|addr| (self.filter)(&node, addr));
        let addrs: Vec<Multiaddr> = usable.iter().filter_map(to_multiaddr).collect();
        if addrs.is_empty() {
            debug!(peer = %short(&node), "no usable address; not added");
            return;
        }
        // The id was checked by the caller; a descriptor is news, so old failures do not count.
        let _ = self.endpoint.learn(&node, &NodeAddr::from_transports(&usable));
        self.endpoint.dials().forget(&node);
        self.known.insert(node, addrs);
        self.put_into_table(&node);
    }

    fn put_into_table(&mut self, node: &NodeId) {
        let (Some(addrs), Ok(peer)) = (self.known.addrs(node), peer_id(node)) else { return };
        for addr in addrs {
            self.swarm.behaviour_mut().add_address(&peer, addr.clone());
        }
        if let Ok(located) = locate(node) {
            lock(&self.regions).peer_added(&located);
        }
    }

    fn remove_from_table(&mut self, node: &NodeId) {
        if let Ok(peer) = peer_id(node) {
            self.swarm.behaviour_mut().remove_peer(&peer);
        }
        lock(&self.regions).peer_failed(node);
    }

    fn on_event(&mut self, event: SwarmEvent<kad::Event>) {
        match event {
            SwarmEvent::Behaviour(kad::Event::OutboundQueryProgressed {
                id,
                result: kad::QueryResult::GetClosestPeers(result),
                step,
                ..
            }) if step.last => self.on_result(id, result),
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                self.on_connected(&peer_id, &endpoint);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                self.on_dial_failed(&peer, &error);
            }
            _ => {}
        }
    }

    fn on_result(&mut self, id: QueryId, result: kad::GetClosestPeersResult) {
        let Some(Running { lookup, overdue }) = self.running.remove(&id) else { return };
        let (peers, complete) = match result {
            Ok(GetClosestPeersOk { peers, .. }) => (peers, !overdue),
            Err(GetClosestPeersError::Timeout { peers, .. }) => (peers, false),
        };
        let nodes = peers.iter().filter_map(|peer| node_id(&peer.peer_id));
        let located: Vec<Located> = nodes.filter_map(|node| locate(&node).ok()).collect();
        let point = key_point(&lookup.key);
        let answer = if !complete {
            Err(RoutingError::Deadline { found: closest(located, &point, CLOSEST_MAX) })
        } else if located.is_empty() {
            Err(RoutingError::NoAnswer)
        } else {
            lock(&self.regions).insert(point, &located, CLOSEST_MAX, Instant::now());
            Ok(located)
        };
        // Whoever asked may have gone; the region stays remembered.
        let _ = lookup.reply.send(answer);
    }

    fn on_connected(&mut self, peer: &PeerId, endpoint: &ConnectedPoint) {
        let Some(node) = node_id(peer) else { return };
        if self.known.addrs(&node).is_some() {
            // It may have been removed while it was down.
            self.put_into_table(&node);
            return;
        }
        let addr = match endpoint {
            ConnectedPoint::Dialer { address, .. } => {
                let place = from_multiaddr(address).and_then(|target| target.addr);
                place.map(|addr| NodeAddr::from_transports([&addr])).unwrap_or_default()
            }
            ConnectedPoint::Listener { .. } => NodeAddr::default(),
        };
        // When nobody keeps up with strangers, they are met again later.
        let _ = self.strangers.try_send(Stranger { node, addr });
    }

    fn on_dial_failed(&mut self, peer: &PeerId, error: &DialError) {
        let Some(node) = node_id(peer) else { return };
        if matches!(error, DialError::DialPeerConditionFalse(_) | DialError::Aborted) {
            return;
        }
        debug!(peer = %short(&node), %error, "dial failed");
        lock(&self.regions).peer_failed(&node);
        if self.endpoint.dials().in_a_row(&node) >= self.limits.failures_in_a_row_max {
            // It stays known, and comes back when it connects or describes itself again.
            self.remove_from_table(&node);
        }
    }
}

// kad's bucket size is what a lookup returns; the regions' arithmetic depends on it.
const _: () = assert!(CLOSEST_MAX == kad::K_VALUE.get());
