//! Holders that lie: six of sixteen serve other bytes than they signed for.

use std::collections::BTreeMap;

use echonet_node::{
    net::{
        endpoint::{EndpointConfig, NodeEndpoint},
        gate::{self, PeerInfo},
        guard::Guarded,
        limits::ServerLimits,
        node_protocol::{
            self,
            server::{NodeServer, RequestHandler},
            stream::NodeStream,
        },
    },
    node::Node,
    service::Service as _,
};
use echonet_protocol::{
    data::verified::encode_slice,
    identity::NodeId,
    message::{self, Refusal, RefusalCode, Request, Response, SliceSpec},
    node_descriptor::Roles,
    params,
};
use echonet_vault::{Key, Vault};
use iroh::protocol::Router;

use crate::{
    support::{Net, noise, publish},
    tools::{get_and_catch, take_down, until_ok},
};

/// Serves what a stopped holder has, with one bit of each shard flipped.
struct Liar {
    truth: Vault,
}

impl Liar {
    fn shard(&self, key: Key) -> Option<Vec<u8>> {
        let located = self.truth.get(key).ok()??;
        let mut bytes = located.read_range(0, located.shard_len() as usize).ok()?.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        Some(bytes)
    }

    fn answer(&self, request: &Request) -> (Response, Vec<u8>) {
        match request {
            Request::GetShard { segment, index, slice } => {
                let key = Key { segment: segment.0, index: *index };
                let Some(bytes) = self.shard(key) else { return (refusal(), Vec::new()) };
                let total = bytes.len() as u64;
                let bulk = if slice.group_log == SliceSpec::WHOLE {
                    bytes
                } else {
                    let range = slice.offset..slice.offset + slice.length;
                    encode_slice(&bytes, range, slice.group_log).unwrap().0
                };
                (Response::Slice { total, encoded: bulk.len() as u64 }, bulk)
            }
            Request::Hello { epoch, .. } => {
                let now = echonet_node::clock::now();
                (Response::Hello { epoch: *epoch, now, descriptor: None }, Vec::new())
            }
            Request::HasShards { shards } => (Response::Has(vec![true; shards.len()]), Vec::new()),
            _ => (refusal(), Vec::new()),
        }
    }
}

fn refusal() -> Response {
    Response::Refused(Refusal::new(RefusalCode::NotFound, "not here"))
}

impl RequestHandler for Liar {
    async fn handle(&self, _: PeerInfo, mut stream: NodeStream) {
        let Ok(frame) = stream.read_frame(params::REQUEST_BYTES_MAX).await else { return };
        let Ok(envelope) = message::decode_request(&frame) else { return };
        let (response, bulk) = self.answer(&envelope.request);
        let frame = message::encode(&response);
        if stream.write_frame(&frame, params::RESPONSE_BYTES_MAX).await.is_ok()
            && stream.write_all(bulk.into()).await.is_ok()
        {
            stream.finish();
        }
    }

    fn refusal(&self, _: gate::Refusal) -> Option<Vec<u8>> {
        None
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_of_sixteen_holders_that_lie_are_named_and_change_no_byte() {
    let mut net = Net::start(52, 16, 3600).await;
    let publisher = net.client("publisher", Roles::default()).await;
    let bytes = noise("a work", 3 << 20);
    let published = publish(&publisher, net.file("work", &bytes)).await.unwrap();
    publisher.shutdown().await;
    println!("{published:?}");

    // With sixteen nodes each holds one shard of each 10+6 segment. Data shards are read first.
    let content = published.content_id.parse().unwrap();
    let status = net.nodes[0].work_status(content).await.unwrap();
    let content_segment = status.segments.iter().find(|s| s.scheme == "10+6").unwrap();
    let by_index: BTreeMap<u8, String> = content_segment
        .shards
        .iter()
        .filter(|s| s.alive)
        .map(|s| (s.index, s.holder.clone()))
        .collect();
    let liars: Vec<String> = by_index.into_values().take(6).collect();

    let mut routers = Vec::new();
    let is_liar = |node: &NodeId| liars.contains(&node.to_string());
    let victims: Vec<NodeId> = net.nodes.iter().map(Node::node_id).filter(is_liar).collect();
    for (node, config) in take_down(&mut net, &victims).await {
        let truth = node.core().vault.clone().unwrap();
        let settings = EndpointConfig::offline(node.core().identity.secret(), config.bind);
        // With it go the last handles of its socket.
        drop(node);
        let endpoint =
            until_ok("the liar's address", || NodeEndpoint::bind(settings.clone())).await;
        let server = NodeServer::new(Liar { truth }, ServerLimits::default());
        let router = Router::builder(endpoint.iroh().clone())
            .accept(node_protocol::ALPN, Guarded(server))
            .spawn();
        routers.push(router);
    }

    let reader = net.client("reader", Roles::default()).await;
    let (fetched, outcome, caught) = get_and_catch(&reader, &published.content_id).await;
    let outcome = outcome.unwrap();
    assert!(fetched == bytes, "wrong bytes");
    let named: Vec<&String> =
        liars.iter().filter(|liar| caught.iter().any(|c| c.node_id == **liar)).collect();
    assert_eq!(named.len(), liars.len(), "{caught:?}");
    assert!(caught.iter().all(|c| liars.contains(&c.node_id)), "{caught:?}");
    assert!(caught.iter().all(|c| c.detail.contains("damaged")), "{caught:?}");
    assert!(outcome.sources.iter().all(|source| !liars.contains(source)), "{outcome:?}");
    reader.shutdown().await;
    for router in routers {
        router.shutdown().await.unwrap();
    }
}
