//! A stranger with a stock kad behaviour tries to store things at a node of ours.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::StreamExt;
use iroh::protocol::Router;
use libp2p_core::{Multiaddr, Transport, multiaddr::Protocol};
use libp2p_kad::{
    self as kad, Event, Mode, PutRecordError, QueryResult, Quorum, Record, RecordKey,
    store::MemoryStore,
};
use libp2p_swarm::{Config, Swarm, SwarmEvent};
use tokio::sync::mpsc;

use super::{
    ALPN, KadConfig, KadRouting,
    ids::{peer_id, to_multiaddr},
    protocol, rules_filter,
    transport::IrohTransport,
};
use crate::net::{
    address::AddressRules,
    endpoint::{EndpointConfig, NodeEndpoint},
    gate::ConnectionGate,
    guard::Guarded,
    limits::KadLimits,
    regions::Located,
};

const NETWORK: [u8; 32] = [4; 32];

async fn endpoint(n: u8) -> NodeEndpoint {
    let bind = SocketAddr::from(([127, 18, n, 1], 0));
    NodeEndpoint::bind(EndpointConfig::offline([n; 32], bind)).await.unwrap()
}

/// A libp2p node with the stock store, over our transport.
async fn stranger(target: &NodeEndpoint) -> Swarm<kad::Behaviour<MemoryStore>> {
    let endpoint = endpoint(2).await;
    let own = peer_id(&endpoint.node_id()).unwrap();
    let limits = KadLimits::default();
    let (_, accepted) = mpsc::channel(1);
    let transport = IrohTransport::new(
        endpoint,
        ConnectionGate::new(limits.connections),
        accepted,
        rules_filter(AddressRules::development()),
        Duration::from_secs(2),
    );
    let mut config = kad::Config::new(protocol(&NETWORK).unwrap());
    // A refused put is noticed when it times out: kad closes the stream without an answer.
    config.set_substreams_timeout(Duration::from_secs(1));
    let mut behaviour = kad::Behaviour::with_config(own, MemoryStore::new(own), config);
    behaviour.set_mode(Some(Mode::Client));
    let mut swarm = Swarm::new(transport.boxed(), behaviour, own, Config::with_tokio_executor());
    let peer = peer_id(&target.node_id()).unwrap();
    let addr = to_multiaddr(&iroh::TransportAddr::Ip(target.bound()[0])).unwrap();
    let addr: Multiaddr = addr.with(Protocol::P2p(peer));
    swarm.behaviour_mut().add_address(&peer, addr);
    swarm
}

async fn result(swarm: &mut Swarm<kad::Behaviour<MemoryStore>>) -> QueryResult {
    let next = async {
        loop {
            let event = swarm.select_next_some().await;
            if let SwarmEvent::Behaviour(Event::OutboundQueryProgressed { result, step, .. }) =
                event
                && step.last
                && !matches!(result, QueryResult::Bootstrap(_))
            {
                return result;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), next).await.expect("the query ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn put_value_is_refused_and_the_sender_knows_and_providers_are_not_kept() {
    let ours = endpoint(1).await;
    let config = KadConfig {
        network_id: NETWORK,
        serve: true,
        filter: rules_filter(AddressRules::development()),
        limits: KadLimits::default(),
    };
    let (routing, handler, _strangers) = KadRouting::start(ours.clone(), config).unwrap();
    let gate = Arc::clone(handler.gate());
    let router = Router::builder(ours.iroh().clone()).accept(ALPN, Guarded(handler)).spawn();
    let mut stranger = stranger(&ours).await;

    let key = RecordKey::new(&[7; 32]);
    let record = Record::new(key.clone(), b"planted".to_vec());
    stranger.behaviour_mut().put_record(record, Quorum::One).unwrap();
    match result(&mut stranger).await {
        QueryResult::PutRecord(Err(PutRecordError::QuorumFailed { success, .. })) => {
            assert!(success.is_empty(), "the node acknowledged a record that it does not keep");
        }
        other => panic!("{other:?}"),
    }

    stranger.behaviour_mut().start_providing(key.clone()).unwrap();
    assert!(matches!(result(&mut stranger).await, QueryResult::StartProviding(_)));
    stranger.behaviour_mut().stop_providing(&key);
    stranger.behaviour_mut().get_providers(key);
    match result(&mut stranger).await {
        QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders {
            providers, ..
        })) => {
            assert!(providers.is_empty(), "{providers:?}");
        }
        QueryResult::GetProviders(Ok(_)) => {}
        other => panic!("{other:?}"),
    }
    // The refusals cost neither the router nor the stranger's lookups anything.
    assert!(!router.is_shutdown() && gate.live() >= 1 && routing.regions_len() == 0);
    stranger.behaviour_mut().get_closest_peers(vec![1; 32]);
    let QueryResult::GetClosestPeers(Ok(found)) = result(&mut stranger).await else {
        panic!("a lookup fails after a refusal");
    };
    let located: Vec<Located> = found
        .peers
        .iter()
        .filter_map(|p| super::locate(&super::ids::node_id(&p.peer_id)?).ok())
        .collect();
    assert_eq!(located.iter().map(|l| l.node).collect::<Vec<_>>(), [ours.node_id()]);
}
