//! kad over iroh: exact answers, dead peers, refusals, networks apart.

use std::time::{Duration, Instant};

use echonet_node::net::{
    address::{AddressRules, InvalidNodeId, NodeAddr, NodeId},
    kad,
    limits::KadLimits,
    routing::{AddPeerError, ContentRouting, RoutingError},
};
use futures::future::join_all;

use crate::common::{
    KadNode, NETWORK, endpoint, introduce, kad_config, kad_node, kad_node_with, until,
};

const PATIENCE: Duration = Duration::from_secs(10);

async fn table(node: &KadNode) -> Vec<NodeId> {
    node.routing.known_peers().await.expect("router runs")
}

/// `count` nodes that know node 0, and node 0 knows them.
async fn star(net: u8, count: u8) -> Vec<KadNode> {
    let nodes: Vec<KadNode> = join_all((0..count).map(|n| kad_node(net, n))).await;
    for node in &nodes[1..] {
        introduce(node, &nodes[0]);
        introduce(&nodes[0], node);
    }
    let all = nodes.len() - 1;
    until("node 0 knows everybody", || async { table(&nodes[0]).await.len() == all }).await;
    nodes
}

fn brute_force(nodes: &[KadNode], asking: usize, key: &[u8; 32], count: usize) -> Vec<NodeId> {
    let others = nodes.iter().enumerate().filter(|(i, _)| *i != asking);
    let mut ids: Vec<NodeId> = others.map(|(_, node)| node.id).collect();
    ids.sort_by_key(|id| nodes[asking].routing.distance(key, id).expect("a valid id"));
    ids.truncate(count);
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closest_equals_brute_force_from_every_node() {
    let nodes = star(10, 12).await;
    for asking in 0..nodes.len() {
        for seed in 0..3u8 {
            let key = [seed * 50 + u8::try_from(asking).unwrap(); 32];
            let got = nodes[asking].routing.closest(key, 8, PATIENCE).await.unwrap();
            assert_eq!(got, brute_force(&nodes, asking, &key, 8), "node {asking}, key {seed}");
        }
        assert_eq!(nodes[asking].routing.regions_len(), 1, "a small network is one region");
    }
    // More than there are: everybody.
    let all = nodes[3].routing.closest([1; 32], 20, PATIENCE).await.unwrap();
    assert_eq!(all.len(), 11);
    let too_many = nodes[3].routing.closest([1; 32], 21, PATIENCE).await;
    assert_eq!(too_many, Err(RoutingError::TooMany { asked: 21 }));
}

// More nodes than one lookup returns, so that regions are real balls of the keyspace: what the
// cache answers must still be exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_of_a_larger_network_answer_exactly_and_save_lookups() {
    let limits = KadLimits { region_ttl_ms: 600_000, ..Default::default() };
    let nodes: Vec<KadNode> =
        join_all((0..40).map(|n| kad_node_with(19, n, kad_config(NETWORK, limits.clone())))).await;
    // Everybody is described to everybody, as after some time of gossip.
    for a in &nodes {
        for b in &nodes {
            if a.id != b.id {
                introduce(a, b);
            }
        }
    }
    let asking = 5;
    let routing = &nodes[asking].routing;
    until("most are known", || async { table(&nodes[asking]).await.len() > 30 }).await;
    let mut before = 0;
    let mut cached = 0;
    for seed in 0..60u8 {
        let key = [seed.wrapping_mul(37); 32];
        let regions = routing.regions_len();
        let got = routing.closest(key, 6, PATIENCE).await.unwrap();
        assert_eq!(got, brute_force(&nodes, asking, &key, 6), "key {seed}");
        cached += usize::from(routing.regions_len() == regions && seed > 0);
        before = before.max(regions);
    }
    assert!(before > 1, "regions, not the whole network");
    assert!(cached > 20, "{cached} of 60 lookups were saved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_close_on_both_sides() {
    let limits = KadLimits { connection_idle_ms_max: 200, ..Default::default() };
    let a = kad_node_with(31, 1, kad_config(NETWORK, limits.clone())).await;
    let b = kad_node_with(31, 2, kad_config(NETWORK, limits)).await;
    introduce(&a, &b);
    a.routing.closest([1; 32], 3, PATIENCE).await.unwrap();
    assert!(a.gate.live() + b.gate.live() > 0);
    until("both are idle", || async { a.gate.live() == 0 && b.gate.live() == 0 }).await;
    assert_eq!(a.routing.endpoint().addr(), a.addr, "the address to announce is the bound one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_kad_connections_is_bounded_and_others_are_answered() {
    let mut limits = KadLimits::default();
    limits.connections.per_peer_max = 2;
    let node = kad_node_with(32, 1, kad_config(NETWORK, limits)).await;
    let flooder = endpoint(32, 66).await;
    let mut held = Vec::new();
    for _ in 0..12 {
        let dialled = flooder.dial(&node.id, &node.addr, kad::ALPN, PATIENCE).await;
        held.push(dialled.expect("the handshake works"));
    }
    until("ten of twelve are closed", || async {
        held.iter().filter(|connection| connection.close_reason().is_some()).count() == 10
    })
    .await;
    assert!(node.gate.live() <= 2);
    let other = kad_node(32, 2).await;
    introduce(&other, &node);
    assert_eq!(other.routing.closest([1; 32], 3, PATIENCE).await.unwrap(), [node.id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_teaches_addresses_and_reports_strangers() {
    let mut nodes = star(11, 4).await;
    let far = nodes[2].id;
    nodes[1].routing.closest([5; 32], 8, PATIENCE).await.unwrap();
    let known = nodes[1].routing.endpoint().known_addr(&far).expect("it answered, so it is known");
    assert_eq!(known.direct, nodes[2].addr.direct);
    // Node 1 met nodes 2 and 3 without their descriptors: strangers, not in its table.
    let mut met = Vec::new();
    while met.len() < 2 {
        let stranger = tokio::time::timeout(PATIENCE, nodes[1].strangers.recv());
        met.push(stranger.await.unwrap().unwrap());
    }
    assert!(met.iter().any(|s| s.node == far && s.addr.direct == nodes[2].addr.direct));
    assert_eq!(table(&nodes[1]).await, [nodes[0].id]);
    // And node 2 met node 1, which connected to it.
    let seen = tokio::time::timeout(PATIENCE, nodes[2].strangers.recv()).await.unwrap().unwrap();
    assert_eq!(seen.addr, NodeAddr::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_peer_delays_a_lookup_by_less_than_4_s_and_then_not_at_all() {
    let nodes = star(12, 6).await;
    let dead = endpoint(12, 200).await;
    let (dead_id, dead_addr) = (dead.node_id(), crate::common::bound(&dead));
    dead.close().await;
    nodes[1].routing.add_peer(dead_id, dead_addr).unwrap();
    until("the dead peer is in the table", || async { table(&nodes[1]).await.contains(&dead_id) })
        .await;
    // The dead peer's own point is the key, so that the lookup must ask it.
    let start = Instant::now();
    let got = nodes[1].routing.closest([1; 32], 5, PATIENCE).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(got, brute_force(&nodes, 1, &[1; 32], 5), "the dead peer is not an answer");

    // A failure is remembered: a fresh lookup (the region was dropped) does not wait again.
    nodes[1].routing.remove_peer(&got[0]).unwrap();
    let start = Instant::now();
    nodes[1].routing.closest([2; 32], 3, PATIENCE).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(1_500), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stays_dead_leaves_the_table_and_returns_when_it_connects() {
    let mut limits = KadLimits { failures_in_a_row_max: 1, ..Default::default() };
    limits.dial_ms_max = 300;
    let a = kad_node_with(13, 1, kad_config(NETWORK, limits)).await;
    let b = kad_node(13, 2).await;
    introduce(&a, &b);
    let (b_id, b_addr) = (b.id, b.addr.clone());
    b.router.shutdown().await.unwrap();
    drop(b);
    assert_eq!(a.routing.closest([1; 32], 3, PATIENCE).await, Err(RoutingError::NoAnswer));
    until("the dead peer has left the table", || async { table(&a).await.is_empty() }).await;

    // The same key on the same address again, as after a restart.
    let mut config = crate::common::config(13, 2);
    config.bind = b_addr.direct[0];
    let again = crate::common::rebind(config).await;
    let started = kad::KadRouting::start(again, kad_config(NETWORK, KadLimits::default()));
    let (routing, _handler, _strangers) = started.unwrap();
    routing.add_peer(a.id, a.addr.clone()).unwrap();
    assert_eq!(routing.closest([1; 32], 3, PATIENCE).await.unwrap(), [a.id]);
    until("it is back", || async { table(&a).await == [b_id] }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_with_different_ids_do_not_mix() {
    let a = kad_node(14, 1).await;
    let other = kad_node_with(14, 2, kad_config([8; 32], KadLimits::default())).await;
    introduce(&a, &other);
    introduce(&other, &a);
    for node in [&a, &other] {
        let got = node.routing.closest([1; 32], 3, PATIENCE).await;
        assert_eq!(got, Err(RoutingError::NoAnswer));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_hold_and_an_empty_table_is_said_so() {
    let a = kad_node(15, 1).await;
    assert_eq!(a.routing.closest([1; 32], 3, PATIENCE).await, Err(RoutingError::NoPeers));
    let dead = endpoint(15, 2).await;
    let (id, addr) = (dead.node_id(), crate::common::bound(&dead));
    dead.close().await;
    a.routing.add_peer(id, addr).unwrap();
    let start = Instant::now();
    let got = a.routing.closest([1; 32], 3, Duration::from_millis(300)).await;
    assert_eq!(got, Err(RoutingError::Deadline { found: Vec::new() }));
    assert!(start.elapsed() < Duration::from_millis(1_500), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_that_runs_out_of_time_says_what_it_found() {
    let nodes = star(33, 4).await;
    let dead = endpoint(33, 200).await;
    let (id, addr) = (dead.node_id(), crate::common::bound(&dead));
    dead.close().await;
    nodes[0].routing.add_peer(id, addr).unwrap();
    let got = nodes[0].routing.closest([1; 32], 5, Duration::from_millis(800)).await;
    let Err(RoutingError::Deadline { found }) = got else { panic!("{got:?}") };
    assert_eq!(found, brute_force(&nodes, 0, &[1; 32], 5), "the three that live");
    assert_eq!(nodes[0].routing.regions_len(), 0, "what is incomplete is not remembered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_the_filter_refuses_are_neither_kept_nor_dialled() {
    let nodes = star(16, 3).await;
    // This one may not dial loopback addresses, except of node 0.
    let friend = nodes[0].id;
    let strict = AddressRules::default();
    let mut config = kad_config(NETWORK, KadLimits::default());
    config.filter = std::sync::Arc::new(move |node, addr| *node == friend || strict.accepts(addr));
    let careful = kad_node_with(16, 100, config).await;
    introduce(&careful, &nodes[0]);
    introduce(&careful, &nodes[1]);
    let got = careful.routing.closest([1; 32], 5, PATIENCE).await.unwrap();
    assert_eq!(got, [friend], "the others were reported by node 0 and not dialled");
    assert_eq!(table(&careful).await, [friend]);

    let nowhere = careful.routing.add_peer(nodes[2].id, NodeAddr::default());
    assert_eq!(nowhere, Err(AddPeerError::NoUsableAddress(nodes[2].id)));
    let no_key = [2; 32];
    let refused = careful.routing.add_peer(no_key, nodes[2].addr.clone());
    assert_eq!(refused, Err(AddPeerError::InvalidNodeId(InvalidNodeId(no_key))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_answered_and_does_not_answer() {
    let nodes = star(17, 3).await;
    let mut config = kad_config(NETWORK, KadLimits::default());
    config.serve = false;
    let client = kad_node_with(17, 50, config).await;
    introduce(&client, &nodes[0]);
    let got = client.routing.closest([1; 32], 5, PATIENCE).await.unwrap();
    assert_eq!(got.len(), 3);
    // Somebody who believes that the client serves learns otherwise.
    let fooled = kad_node(17, 51).await;
    introduce(&fooled, &client);
    assert_eq!(fooled.routing.closest([1; 32], 5, PATIENCE).await, Err(RoutingError::NoAnswer));
}
