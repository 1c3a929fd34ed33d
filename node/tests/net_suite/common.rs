//! Nodes for tests: endpoint, router, and the pieces that a test asks for.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use echonet_node::net::{
    address::{AddressRules, NodeAddr, NodeId},
    endpoint::{EndpointConfig, NodeEndpoint},
    gate::{ConnectionGate, PeerInfo, Refusal},
    guard::Guarded,
    kad::{self, KadConfig, KadRouting, Stranger, rules_filter},
    limits::{KadLimits, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, ServerLimits},
    node_protocol::{
        self,
        server::{NodeServer, RequestHandler},
        stream::NodeStream,
    },
    routing::ContentRouting,
};
use iroh::protocol::Router;
use tokio::sync::mpsc;

pub(crate) const NETWORK: [u8; 32] = [9; 32];

/// Waits until `condition` holds; panics with `what` when it does not within 10 s.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn config(net: u8, n: u8) -> EndpointConfig {
    let bind = SocketAddr::from((Ipv4Addr::new(127, net, n, 1), 0));
    let mut secret = [n; 32];
    secret[0] = net;
    EndpointConfig::offline(secret, bind)
}

pub(crate) async fn endpoint(net: u8, n: u8) -> NodeEndpoint {
    NodeEndpoint::bind(config(net, n)).await.expect("loopback address can be bound")
}

/// Binds an address that a stopped endpoint is about to give back.
pub(crate) async fn rebind(config: EndpointConfig) -> NodeEndpoint {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match NodeEndpoint::bind(config.clone()).await {
            Ok(endpoint) => return endpoint,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The address that was bound.
pub(crate) fn bound(endpoint: &NodeEndpoint) -> NodeAddr {
    NodeAddr::direct(endpoint.bound()[0])
}

/// A node that routes.
pub(crate) struct KadNode {
    pub(crate) id: NodeId,
    pub(crate) addr: NodeAddr,
    pub(crate) routing: KadRouting,
    pub(crate) strangers: mpsc::Receiver<Stranger>,
    pub(crate) router: Router,
    pub(crate) gate: Arc<ConnectionGate>,
}

pub(crate) fn kad_config(network_id: [u8; 32], limits: KadLimits) -> KadConfig {
    let filter = rules_filter(AddressRules::development());
    KadConfig { network_id, serve: true, filter, limits }
}

pub(crate) async fn kad_node_with(net: u8, n: u8, config: KadConfig) -> KadNode {
    let endpoint = endpoint(net, n).await;
    let (routing, handler, strangers) =
        KadRouting::start(endpoint.clone(), config).expect("kad starts");
    let gate = Arc::clone(handler.gate());
    let router =
        Router::builder(endpoint.iroh().clone()).accept(kad::ALPN, Guarded(handler)).spawn();
    let addr = bound(&endpoint);
    KadNode { id: endpoint.node_id(), addr, routing, strangers, router, gate }
}

pub(crate) async fn kad_node(net: u8, n: u8) -> KadNode {
    kad_node_with(net, n, kad_config(NETWORK, KadLimits::default())).await
}

/// Tells `a` about `b`, as a verified descriptor would.
pub(crate) fn introduce(a: &KadNode, b: &KadNode) {
    a.routing.add_peer(b.id, b.addr.clone()).expect("peer is added");
}

/// Answers by the first byte of the request: `e` echoes, `p` panics, `h` hangs, `b` sends bulk.
#[derive(Debug, Default)]
pub(crate) struct TestHandler;

impl RequestHandler for TestHandler {
    async fn handle(&self, peer: PeerInfo, mut stream: NodeStream) {
        let Ok(request) = stream.read_frame(REQUEST_BYTES_MAX).await else { return };
        match request.first() {
            Some(b'p') => panic!("a handler panics, as the test asked"),
            Some(b'h') => std::future::pending().await,
            Some(b'i') => {
                let mut answer = peer.node_id.to_vec();
                answer.extend(peer.prefix);
                let _ = stream.write_frame(&answer, RESPONSE_BYTES_MAX).await;
                stream.finish();
            }
            Some(b'b') => {
                let _ = stream.write_frame(b"bulk", RESPONSE_BYTES_MAX).await;
                let _ = stream.write_all(vec![7; 8 << 20].into()).await;
                stream.finish();
            }
            Some(b'c') => {
                let _ = stream.write_frame(b"cut", RESPONSE_BYTES_MAX).await;
                let _ = stream.write_all(vec![7; 1000].into()).await;
                panic!("a handler panics in the middle of its answer, as the test asked");
            }
            _ => {
                let _ = stream.write_frame(&request, RESPONSE_BYTES_MAX).await;
                stream.finish();
            }
        }
    }

    fn refusal(&self, refusal: Refusal) -> Option<Vec<u8>> {
        Some(format!("refused: {refusal}").into_bytes())
    }
}

/// A node that serves `/echonet/node/1` with [`TestHandler`].
pub(crate) struct ServerNode {
    pub(crate) id: NodeId,
    pub(crate) addr: NodeAddr,
    pub(crate) server: NodeServer<TestHandler>,
    pub(crate) router: Router,
}

pub(crate) async fn serve_on(endpoint: NodeEndpoint, limits: ServerLimits) -> ServerNode {
    let server = NodeServer::new(TestHandler, limits);
    let gates = vec![Arc::clone(server.gate())];
    let handshakes = echonet_node::net::limits::HandshakeLimits::default();
    let router = Router::builder(endpoint.iroh().clone())
        .incoming_filter(echonet_node::net::gate::incoming_filter(gates, &handshakes))
        .accept(node_protocol::ALPN, Guarded(server.clone()))
        .spawn();
    let addr = bound(&endpoint);
    ServerNode { id: endpoint.node_id(), addr, server, router }
}

pub(crate) async fn server_node(net: u8, n: u8, limits: ServerLimits) -> ServerNode {
    serve_on(endpoint(net, n).await, limits).await
}
