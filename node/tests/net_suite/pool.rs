//! The connection pool: one dial for many callers, reconnecting, letting go.

use std::time::{Duration, Instant};

use echonet_node::net::{
    address::NodeAddr,
    endpoint::{DialError, EndpointConfig},
    limits::{PoolLimits, RESPONSE_BYTES_MAX, ServerLimits, StreamLimits},
    node_protocol::pool::ConnectionPool,
};
use futures::future::join_all;

use crate::common::{bound, config, endpoint, rebind, serve_on, server_node, until};

async fn echo(pool: &ConnectionPool, to: &[u8; 32], addr: &NodeAddr) -> bool {
    let outcome = pool.request(to, addr, b"echo", RESPONSE_BYTES_MAX).await;
    outcome.is_ok_and(|(response, _)| response == b"echo")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_share_one_connection() {
    let server = server_node(40, 1, ServerLimits::default()).await;
    let pool = ConnectionPool::new(endpoint(40, 2).await, PoolLimits::default());
    let all = join_all((0..50).map(|_| echo(&pool, &server.id, &server.addr))).await;
    assert!(all.iter().all(|ok| *ok));
    assert_eq!((pool.len(), server.server.gate().live()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_uses_addresses_that_were_learnt() {
    let server = server_node(41, 1, ServerLimits::default()).await;
    let client = endpoint(41, 2).await;
    client.learn(&server.id, &server.addr).unwrap();
    let pool = ConnectionPool::new(client, PoolLimits::default());
    assert!(echo(&pool, &server.id, &NodeAddr::default()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_peer_costs_its_timeout_once() {
    let dead = endpoint(42, 1).await;
    let (id, addr) = (dead.node_id(), bound(&dead));
    dead.close().await;
    let limits = PoolLimits { dial_ms_max: 500, ..Default::default() };
    let pool = ConnectionPool::new(endpoint(42, 2).await, limits);
    let start = Instant::now();
    let all = join_all((0..20).map(|_| pool.get(&id, &addr))).await;
    assert!(start.elapsed() < Duration::from_millis(1_500), "{:?}", start.elapsed());
    let timeouts = all.iter().filter(|r| matches!(r, Err(DialError::Timeout { .. }))).count();
    let recent = all.iter().filter(|r| matches!(r, Err(DialError::FailedRecently { .. }))).count();
    assert_eq!((timeouts, recent), (1, 19));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_goes_on_without_its_caller_and_is_remembered() {
    let dead = endpoint(46, 1).await;
    let (id, addr) = (dead.node_id(), bound(&dead));
    dead.close().await;
    let limits = PoolLimits { dial_ms_max: 700, ..Default::default() };
    let pool = ConnectionPool::new(endpoint(46, 2).await, limits);
    // Given up long before the dial's own time is over.
    let given_up = tokio::time::timeout(Duration::from_millis(50), pool.get(&id, &addr)).await;
    assert!(given_up.is_err() && pool.endpoint().dials().in_a_row(&id) == 0);
    until("it is silent", || async { pool.silence().is_silent(&id, Instant::now()) }).await;
    until("the dial has failed", || async { pool.endpoint().dials().in_a_row(&id) == 1 }).await;
    assert!(pool.silence().is_silent(&id, Instant::now()));
    let again = pool.get(&id, &addr).await;
    assert!(matches!(again, Err(DialError::FailedRecently { .. })), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_opened_ahead_is_the_one_that_is_used() {
    let server = server_node(47, 1, ServerLimits::default()).await;
    let client = endpoint(47, 2).await;
    client.learn(&server.id, &server.addr).unwrap();
    let pool = ConnectionPool::new(client, PoolLimits::default());
    (0..5).for_each(|_| pool.warm(&server.id));
    until("connected", || async { pool.is_connected(&server.id) }).await;
    assert!(!pool.silence().is_silent(&server.id, Instant::now()));
    assert!(echo(&pool, &server.id, &NodeAddr::default()).await);
    assert_eq!((pool.len(), server.server.gate().live()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_reconnects_after_a_restart_on_the_same_address() {
    let server = server_node(43, 1, ServerLimits::default()).await;
    let pool = ConnectionPool::new(endpoint(43, 2).await, PoolLimits::default());
    assert!(echo(&pool, &server.id, &server.addr).await);
    let (id, addr) = (server.id, server.addr.clone());
    server.router.shutdown().await.unwrap();
    drop(server);
    let again = rebind(EndpointConfig { bind: addr.direct[0], ..config(43, 1) }).await;
    let again = serve_on(again, ServerLimits::default()).await;
    assert_eq!(again.id, id);
    until("it answers again", || echo(&pool, &id, &addr)).await;
}

/// A server that dies without a word: its runtime, sockets and all, is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_recovers_from_a_server_that_was_killed() {
    let doomed =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let started = doomed.spawn(server_node(44, 1, ServerLimits::default()));
    let server = started.await.unwrap();
    let (id, addr) = (server.id, server.addr.clone());
    let stream = StreamLimits { frame_ms_max: 1_000, ..Default::default() };
    let limits = PoolLimits { stream, ..Default::default() };
    let pool = ConnectionPool::new(endpoint(44, 2).await, limits);
    assert!(echo(&pool, &id, &addr).await);
    doomed.shutdown_background();
    let again = EndpointConfig { bind: addr.direct[0], ..config(44, 1) };
    drop(server);
    let again = rebind(again).await;
    let _again = serve_on(again, ServerLimits::default()).await;
    let start = Instant::now();
    until("it answers again", || echo(&pool, &id, &addr)).await;
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_and_unused_ones_are_let_go() {
    let limits = PoolLimits { connections_max: 2, idle_ms_max: 400, ..Default::default() };
    let pool = ConnectionPool::new(endpoint(45, 9).await, limits);
    let mut servers = Vec::new();
    for n in 0..4 {
        let server = server_node(45, n, ServerLimits::default()).await;
        assert!(echo(&pool, &server.id, &server.addr).await);
        assert!(pool.len() <= 2);
        servers.push(server);
    }
    until("all are let go", || async {
        pool.is_empty() && servers.iter().all(|s| s.server.gate().live() == 0)
    })
    .await;
}
