//! The server side of `/echonet/node/1` against peers that misbehave.

use std::time::{Duration, Instant};

use echonet_node::net::{
    address::prefix_of_ip,
    endpoint::NodeEndpoint,
    gate::Refusal,
    guard::Guarded,
    limits::{ConnectionLimits, PoolLimits, RESPONSE_BYTES_MAX, ServerLimits, StreamLimits},
    node_protocol::{
        ALPN,
        frame::FrameError,
        pool::{ConnectionPool, RequestError},
        stream::StreamError,
    },
};
use iroh::{
    endpoint::{Connection, ConnectionError},
    protocol::{AcceptError, ProtocolHandler, Router},
};

use crate::common::{ServerNode, endpoint, server_node, until};

const PATIENCE: Duration = Duration::from_secs(5);

async fn dial(from: &NodeEndpoint, to: &ServerNode) -> Connection {
    from.dial(&to.id, &to.addr, ALPN, PATIENCE).await.expect("server is dialled")
}

async fn ask(pool: &ConnectionPool, to: &ServerNode, request: &[u8]) -> Result<Vec<u8>, String> {
    let outcome = pool.request(&to.id, &to.addr, request, RESPONSE_BYTES_MAX).await;
    outcome.map(|(response, _)| response).map_err(|error| error.to_string())
}

fn closed_with(reason: &ConnectionError) -> Option<(u64, String)> {
    match reason {
        ConnectionError::ApplicationClosed(close) => {
            let text = String::from_utf8_lossy(&close.reason).into_owned();
            Some((close.error_code.into_inner(), text))
        }
        _ => None,
    }
}

async fn refused_with(connection: &Connection, refusal: Refusal) {
    let reason = tokio::time::timeout(PATIENCE, connection.closed()).await.expect("it is closed");
    let expected = (u64::from(refusal.code()), refusal.to_string());
    assert_eq!(closed_with(&reason), Some(expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_answered_and_the_peer_is_identified() {
    let server = server_node(20, 1, ServerLimits::default()).await;
    let client = endpoint(20, 77).await;
    let pool = ConnectionPool::new(client.clone(), PoolLimits::default());
    assert_eq!(ask(&pool, &server, b"echo").await.unwrap(), b"echo");
    let who = ask(&pool, &server, b"i").await.unwrap();
    assert_eq!(who[..32], client.node_id());
    assert_eq!(who[32..], prefix_of_ip("127.20.77.9".parse().unwrap()), "the observed /24");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panicking_handler_costs_one_request() {
    let server = server_node(21, 1, ServerLimits::default()).await;
    let pool = ConnectionPool::new(endpoint(21, 2).await, PoolLimits::default());
    for _ in 0..20 {
        assert!(ask(&pool, &server, b"panic").await.is_err());
    }
    assert_eq!(ask(&pool, &server, b"echo").await.unwrap(), b"echo");
    assert!(!server.router.is_shutdown());
    let other = ConnectionPool::new(endpoint(21, 3).await, PoolLimits::default());
    assert_eq!(ask(&other, &server, b"echo").await.unwrap(), b"echo");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_cut_short_by_a_panic_does_not_look_complete() {
    let server = server_node(22, 1, ServerLimits::default()).await;
    let pool = ConnectionPool::new(endpoint(22, 2).await, PoolLimits::default());
    let request = pool.request(&server.id, &server.addr, b"cut", RESPONSE_BYTES_MAX);
    let mut got = 0;
    let error = match request.await {
        Err(error) => error.to_string(),
        Ok((_, mut stream)) => loop {
            let mut buf = [0; 4096];
            match stream.read(&mut buf).await {
                Ok(Some(n)) => got += n,
                Ok(None) => panic!("a clean end after {got} bytes of an unfinished answer"),
                Err(error) => break error.to_string(),
            }
        },
    };
    assert!(error.contains("reset"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversize_frame_is_refused_on_both_sides() {
    let server = server_node(23, 1, ServerLimits::default()).await;
    let client = endpoint(23, 2).await;
    let pool = ConnectionPool::new(client.clone(), PoolLimits::default());
    // The client does not send one.
    let outcome = pool.request(&server.id, &server.addr, &vec![0; 300 * 1024], 10).await;
    let error = outcome.expect_err("too large to send");
    let too_large = |e: &RequestError| {
        matches!(e, RequestError::Stream(StreamError::Frame(FrameError::TooLarge { .. })))
    };
    assert!(too_large(&error), "{error}");
    // Nor accepts one.
    let outcome = pool.request(&server.id, &server.addr, b"echo this", 4).await;
    assert!(too_large(&outcome.expect_err("too large to read")));
    // Nor does the server, whoever sends it: 4 GiB are announced, the stream is reset at once.
    let connection = dial(&client, &server).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, recv.read_to_end(100)).await;
    assert!(answer.expect("at once, not after a timeout").is_err());
    assert_eq!(ask(&pool, &server, b"echo").await.unwrap(), b"echo");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_loris_is_dropped_and_gives_its_place_back() {
    let stream = StreamLimits { frame_ms_max: 400, ..Default::default() };
    let limits = ServerLimits { streams_per_peer_max: 4, stream, ..Default::default() };
    let server = server_node(24, 1, limits).await;
    let client = endpoint(24, 2).await;
    let connection = dial(&client, &server).await;
    let mut dripping = Vec::new();
    for _ in 0..4 {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(&1000u32.to_le_bytes()).await.unwrap();
        dripping.push((send, recv));
    }
    let start = Instant::now();
    let drip = async {
        loop {
            for (send, _) in &mut dripping {
                if send.write_all(b"x").await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // A byte every 50 ms is never idle, and still it ends.
    tokio::time::timeout(PATIENCE, drip).await.expect("the server gave up on the stream");
    assert!(start.elapsed() >= Duration::from_millis(300));
    let pool = ConnectionPool::new(client, PoolLimits::default());
    until("the places are free again", || async {
        ask(&pool, &server, b"echo").await == Ok(b"echo".to_vec())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stalls_is_dropped() {
    let stream = StreamLimits { idle_ms_max: 300, ..Default::default() };
    let limits = ServerLimits { streams_per_peer_max: 1, stream, ..Default::default() };
    let server = server_node(25, 1, limits).await;
    let pool = ConnectionPool::new(endpoint(25, 2).await, PoolLimits::default());
    // Eight MiB are on their way, the windows are full, and nobody reads.
    let request = pool.request(&server.id, &server.addr, b"bulk", RESPONSE_BYTES_MAX);
    let (frame, stalled) = request.await.unwrap();
    assert_eq!(frame, b"bulk");
    until("its place is free again", || async {
        ask(&pool, &server, b"echo").await == Ok(b"echo".to_vec())
    })
    .await;
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_bytes_follow_the_frame() {
    let server = server_node(26, 1, ServerLimits::default()).await;
    let pool = ConnectionPool::new(endpoint(26, 2).await, PoolLimits::default());
    let request = pool.request(&server.id, &server.addr, b"bulk", RESPONSE_BYTES_MAX);
    let (_, mut stream) = request.await.unwrap();
    let mut bulk = vec![0; 8 << 20];
    stream.read_exact(&mut bulk).await.unwrap();
    assert!(bulk.iter().all(|byte| *byte == 7));
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), None, "and then it ends cleanly");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_from_one_peer_is_bounded_and_others_are_served() {
    let connections = ConnectionLimits { total_max: 64, per_peer_max: 3, per_prefix_max: 5 };
    let limits = ServerLimits { connections, ..Default::default() };
    let server = server_node(27, 1, limits).await;
    let flooder = endpoint(27, 66).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(dial(&flooder, &server).await);
    }
    until("three are in", || async { server.server.gate().live() == 3 }).await;
    for _ in 0..10 {
        refused_with(&dial(&flooder, &server).await, Refusal::TooManyFromPeer).await;
    }
    // Fresh keys on the same network are free, and still bounded.
    let mut config = crate::common::config(27, 66);
    let mut sybils = Vec::new();
    for key in 0..6u8 {
        config.secret_key = [100 + key; 32];
        let sybil = NodeEndpoint::bind(config.clone()).await.unwrap();
        let connection = dial(&sybil, &server).await;
        if key < 2 {
            until("it is in", || async { server.server.gate().live() == 4 + usize::from(key) })
                .await;
            held.push(connection);
        } else {
            refused_with(&connection, Refusal::TooManyFromPrefix).await;
        }
        sybils.push(sybil);
    }
    let honest = ConnectionPool::new(endpoint(27, 2).await, PoolLimits::default());
    assert_eq!(ask(&honest, &server, b"echo").await.unwrap(), b"echo");
    for connection in held.drain(..) {
        connection.close(0u32.into(), b"");
    }
    until("places come back", || async { server.server.gate().live() == 1 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_refuses_before_the_handshake() {
    let connections = ConnectionLimits { total_max: 2, per_peer_max: 2, per_prefix_max: 2 };
    let server = server_node(28, 1, ServerLimits { connections, ..Default::default() }).await;
    let (a, b) = (endpoint(28, 2).await, endpoint(28, 3).await);
    let _first = dial(&a, &server).await;
    let _second = dial(&b, &server).await;
    until("two are in", || async { server.server.gate().live() == 2 }).await;
    let c = endpoint(28, 4).await;
    let refused = c.dial(&server.id, &server.addr, ALPN, PATIENCE).await;
    let error = refused.expect_err("no room").to_string();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_and_too_fast_requests_are_told_why() {
    let limits = ServerLimits {
        streams_per_peer_max: 2,
        requests_per_s_max: 20,
        refusals_in_a_row_max: 50,
        ..Default::default()
    };
    let server = server_node(29, 1, limits).await;
    let client = endpoint(29, 2).await;
    let pool = ConnectionPool::new(client.clone(), PoolLimits::default());
    let mut hanging = Vec::new();
    for _ in 0..2 {
        let mut stream = pool.open(&server.id, &server.addr).await.unwrap();
        stream.write_frame(b"hang", 100).await.unwrap();
        hanging.push(stream);
    }
    until("both hang", || async {
        let answer = ask(&pool, &server, b"echo").await.unwrap();
        answer == format!("refused: {}", Refusal::TooManyRequests).into_bytes()
    })
    .await;
    drop(hanging);
    // Asking on and on: told to slow down, then closed.
    let mut told = false;
    let connection = pool.get(&server.id, &server.addr).await.unwrap();
    let closed = loop {
        match ask(&pool, &server, b"echo").await {
            Ok(answer) if answer.starts_with(b"refused") => {
                told |= answer == format!("refused: {}", Refusal::TooFast).into_bytes();
            }
            Ok(_) => {}
            Err(_) => break connection.closed().await,
        }
    };
    assert!(told, "a refusal says why");
    assert_eq!(closed_with(&closed).map(|c| c.0), Some(u64::from(Refusal::Ignored.code())));
    // The rate is the peer's, not the connection's, and it recovers.
    until("the peer is served again", || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ask(&pool, &server, b"echo").await == Ok(b"echo".to_vec())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_with_a_reason() {
    let limits = ServerLimits { connection_idle_ms_max: 200, ..Default::default() };
    let server = server_node(30, 1, limits).await;
    let client = endpoint(30, 2).await;
    refused_with(&dial(&client, &server).await, Refusal::Idle).await;
}

/// Any protocol's handler, iroh-blobs' for example, with a bug.
#[derive(Debug, Clone)]
struct Panicking;

impl ProtocolHandler for Panicking {
    async fn accept(&self, _: Connection) -> Result<(), AcceptError> {
        panic!("a protocol handler panics, as the test asked")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panicking_protocol_does_not_end_the_router() {
    let host = endpoint(34, 1).await;
    let router =
        Router::builder(host.iroh().clone()).accept(b"/panics", Guarded(Panicking)).spawn();
    let client = endpoint(34, 2).await;
    for _ in 0..5 {
        let addr = crate::common::bound(&host);
        let connection = client.dial(&host.node_id(), &addr, b"/panics", PATIENCE).await;
        let connection = connection.expect("the router still accepts");
        tokio::time::timeout(PATIENCE, connection.closed()).await.expect("it is dropped");
    }
    assert!(!router.is_shutdown());
}
