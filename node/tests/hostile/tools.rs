//! What an attacker needs and an honest node does not have: segments, manifests
//! and records made by hand, and a holder that lies.

use std::{future::Future, net::SocketAddr, time::Duration};

use bytes::Bytes;
use echonet_node::{
    client::{Client, LeaseClaim},
    clock,
    config::NodeConfig,
    flow::discover,
    net::{
        address::NodeAddr,
        endpoint::{EndpointConfig, NodeEndpoint},
        limits::PoolLimits,
        node_protocol::{frame::read_frame, pool::ConnectionPool},
    },
    node::Node,
    service::{Fetched, GetRequest, Progress, Service, ServiceResult},
};
use echonet_protocol::{
    announcement::{Announcement, Location, RecordKind},
    bytes::{ManifestHash, Nonce, ShardHash},
    content_id::ContentId,
    data::{
        GROUP_BYTES,
        erasure::{ErasureCode, data_shard},
        verified::{ContentOutboardBuilder, ContentShape, group_cv},
    },
    identity::{Identity, NodeId, Signed},
    lease::{Grant, Lease},
    manifest::{Extent, ManifestBody, ManifestPage, ManifestRoot, PageRef},
    message::{self, Envelope, Request, Response},
    network::NetworkId,
    params,
    placement_record::{FirstPlacement, PlacementRecord},
    segment::{Scheme, SegmentDescriptor, SegmentId},
    time::{Epoch, UnixSeconds},
};

use crate::support::{Net, secret};

/// A key of nobody in particular.
pub(crate) fn stranger(label: &str) -> Identity {
    Identity::from_secret(&secret(label))
}

/// A segment with its shards.
pub(crate) struct Coded {
    pub(crate) descriptor: SegmentDescriptor,
    pub(crate) shards: Vec<Bytes>,
}

impl Coded {
    pub(crate) fn segment(&self) -> SegmentId {
        self.descriptor.segment_id()
    }
}

/// Codes a segment; `spoil` may change the shards before they are committed to.
pub(crate) fn code(bytes: &[u8], scheme: Scheme, spoil: impl FnOnce(&mut [Vec<u8>])) -> Coded {
    let (k, m) = (usize::from(scheme.k), usize::from(scheme.m));
    let mut parity = vec![vec![0; scheme.shard_len(bytes.len())]; m];
    ErasureCode::shared(k, m).unwrap().encode(bytes, &mut parity).unwrap();
    let mut shards: Vec<Vec<u8>> =
        (0..k).map(|i| data_shard(bytes, k, i).into_owned()).chain(parity).collect();
    spoil(&mut shards);
    let hash = |shard: &Vec<u8>| ShardHash(*blake3::hash(shard).as_bytes());
    let descriptor = SegmentDescriptor {
        v: params::FORMAT_VERSION,
        scheme,
        length: u32::try_from(bytes.len()).unwrap(),
        shards: shards.iter().map(hash).collect(),
    };
    Coded { descriptor, shards: shards.into_iter().map(Bytes::from).collect() }
}

/// Somebody who publishes by hand, over the connections of a node.
pub(crate) struct ByHand<'a> {
    pub(crate) over: &'a Node,
    pub(crate) owner: Identity,
    pub(crate) grant: Option<Signed<Grant>>,
}

impl<'a> ByHand<'a> {
    /// Without a grant: from the free pools.
    pub(crate) fn ungranted(over: &'a Node, owner: Identity) -> Self {
        Self { over, owner, grant: None }
    }

    /// As the node itself, with a grant from an issuer.
    pub(crate) async fn granted(over: &'a Node, net: &Net) -> Self {
        let issuer = net.nodes[0].node_id();
        let until = Epoch(over.core().epoch().0 + 1_000);
        let grant = over.core().client.request_grant(&issuer, 1 << 50, until).await.unwrap();
        Self {
            over,
            owner: Identity::from_secret(&over.core().identity.secret()),
            grant: Some(grant),
        }
    }

    pub(crate) fn lease(&self, segment: SegmentId) -> Signed<Lease> {
        let epoch = self.over.core().epoch();
        let body = Lease {
            v: params::FORMAT_VERSION,
            network: self.over.network_id(),
            segment,
            owner: self.owner.node_id(),
            from: epoch,
            until: Epoch(epoch.0 + 100),
            grant: self.grant.as_ref().map(Signed::hash),
            nonce: Nonce(clock::random()),
            standing: false,
        };
        Signed::new(&self.owner, body)
    }

    /// Stores every shard that has a holder, seals, and has the placement record kept.
    pub(crate) async fn place(&self, coded: &Coded, holders: &[NodeId]) -> PlacementRecord {
        let core = self.over.core();
        let lease = self.lease(coded.segment());
        let claim = LeaseClaim { lease, grant: self.grant.clone() };
        let mut receipts = Vec::new();
        for (index, (holder, shard)) in holders.iter().zip(&coded.shards).enumerate() {
            let index = u8::try_from(index).unwrap();
            let stored =
                core.client.store_shard(holder, &claim, &coded.descriptor, index, 1, shard.clone());
            receipts.push(stored.await.unwrap());
        }
        let LeaseClaim { lease, grant } = claim;
        let descriptor = coded.descriptor.clone();
        let first = FirstPlacement { descriptor, lease, grant, receipts };
        let record = PlacementRecord::first(&self.owner, first);
        for holder in holders {
            assert_eq!(core.client.seal(holder, vec![record.encode()]).await.unwrap(), 1);
        }
        self.put(RecordKind::Placement, coded.segment().0, record.encode()).await;
        record
    }

    /// Stores bytes as a segment in the default way.
    pub(crate) async fn segment(&self, net: &Net, bytes: &[u8]) -> SegmentId {
        let scheme = Scheme::for_segment(Scheme::DEFAULT, bytes.len());
        let coded = code(bytes, scheme, |_| {});
        let holders: Vec<NodeId> = net.nodes.iter().take(scheme.n()).map(Node::node_id).collect();
        self.place(&coded, &holders).await;
        coded.segment()
    }

    pub(crate) async fn put(&self, kind: RecordKind, id: [u8; 32], bytes: Vec<u8>) {
        let kept = discover::put(self.over.core(), vec![(kind, id, bytes)]).await;
        assert!(kept[0] > 0, "nobody keeps the record");
    }

    pub(crate) fn announcement(
        &self,
        content: ContentId,
        manifest: ManifestHash,
        location: Location,
    ) -> Signed<Announcement> {
        let body = Announcement {
            v: params::FORMAT_VERSION,
            network: self.over.network_id(),
            content,
            manifest,
            location,
            publisher: self.owner.node_id(),
            sequence: clock::now().0,
            expires: UnixSeconds(clock::now().0 + 3600),
            withdrawn: false,
        };
        Signed::new(&self.owner, body)
    }

    /// Stores a root page and announces it for `content`.
    pub(crate) async fn announce(&self, net: &Net, root: &ManifestRoot) {
        let bytes = root.encode();
        let segment = self.segment(net, &bytes).await;
        let length = u32::try_from(bytes.len()).unwrap();
        let location = Location { segment, offset: 0, length };
        let hash = ManifestHash(*blake3::hash(&bytes).as_bytes());
        let announcement = self.announcement(root.content, hash, location);
        let kind = RecordKind::Announcement;
        self.put(kind, *root.content.as_bytes(), announcement.encode()).await;
    }

    /// Stores a page; what a root says about it.
    pub(crate) async fn page(&self, net: &Net, page: &ManifestPage) -> PageRef {
        let bytes = page.encode();
        let segment = self.segment(net, &bytes).await;
        let length = u32::try_from(bytes.len()).unwrap();
        let location = Location { segment, offset: 0, length };
        PageRef { hash: ManifestHash(*blake3::hash(&bytes).as_bytes()), location }
    }
}

/// The hash tree of a content of one page.
pub(crate) struct Tree {
    /// What the root page has of it.
    pub(crate) root_part: Vec<u8>,
    /// What the page has of it.
    pub(crate) page: Vec<u8>,
}

/// The hash tree of a content of less than 1 GiB.
pub(crate) fn tree(content: &[u8]) -> Tree {
    let shape = ContentShape::new(content.len() as u64).unwrap();
    let mut builder = ContentOutboardBuilder::new(shape);
    let mut parts = Vec::new();
    for (i, group) in content.chunks(GROUP_BYTES as usize).enumerate() {
        let cv = group_cv(group, i as u64, content.len() as u64 <= GROUP_BYTES).unwrap();
        parts.extend(builder.push(cv).unwrap());
    }
    Tree { root_part: builder.finish().unwrap().root_part, page: parts.remove(0).nodes }
}

/// The page that leads to `stored` bytes in one segment, one raw chunk a MiB,
/// and claims that they are `content`.
pub(crate) fn page_of(content: &[u8], segment: SegmentId, stored: &[u8]) -> ManifestPage {
    let mib = GROUP_BYTES as usize;
    let extents = stored.chunks(mib).enumerate().map(|(i, chunk)| Extent {
        segment: 0,
        offset: u32::try_from(i * mib).unwrap(),
        stored: u32::try_from(chunk.len()).unwrap(),
        plain: u32::try_from(chunk.len()).unwrap(),
        codec: 0,
        chunk: echonet_protocol::bytes::ChunkHash(*blake3::hash(chunk).as_bytes()),
    });
    ManifestPage {
        v: params::FORMAT_VERSION,
        content: ContentId::of(content),
        index: 0,
        length: u32::try_from(content.len()).unwrap(),
        segments: vec![segment],
        extents: extents.collect(),
        outboard: tree(content).page,
    }
}

/// The root page of a content with one page.
pub(crate) fn root_of(content: &[u8], page: PageRef) -> ManifestRoot {
    ManifestRoot {
        v: params::FORMAT_VERSION,
        content: ContentId::of(content),
        length: content.len() as u64,
        media_type: String::new(),
        body: ManifestBody::Paged { outboard: tree(content).root_part, pages: vec![page] },
    }
}

/// Somebody who was caught.
#[derive(Debug, Clone)]
pub(crate) struct Caught {
    pub(crate) node_id: String,
    pub(crate) detail: String,
    pub(crate) proof: Option<String>,
}

/// Fetches a content and collects who was caught on the way.
pub(crate) async fn get_and_catch(
    node: &Node,
    content: &str,
) -> (Vec<u8>, ServiceResult<Fetched>, Vec<Caught>) {
    let (progress, mut events) = tokio::sync::mpsc::channel(64);
    let listen = tokio::spawn(async move {
        let mut caught = Vec::new();
        while let Some(event) = events.recv().await {
            if let Progress::Fault { node_id, detail, proof } = event {
                caught.push(Caught { node_id, detail, proof });
            }
        }
        caught
    });
    let mut bytes = Vec::new();
    let request = GetRequest { content_id: content.to_owned(), range: None };
    let fetched = node.get(request, Box::new(&mut bytes), progress).await;
    (bytes, fetched, listen.await.unwrap())
}

/// Takes nodes out of the network; their configurations, to bring them or
/// something else up at the same addresses.
pub(crate) async fn take_down(net: &mut Net, victims: &[NodeId]) -> Vec<(Node, NodeConfig)> {
    let (down, rest): (Vec<Node>, Vec<Node>) =
        net.nodes.drain(..).partition(|node| victims.contains(&node.node_id()));
    net.nodes = rest;
    let config = |node: &Node| {
        let bind: SocketAddr = node.addrs()[0];
        NodeConfig { bind, ..node.core().config.clone() }
    };
    let configs: Vec<NodeConfig> = down.iter().map(config).collect();
    futures::future::join_all(down.iter().map(Node::shutdown)).await;
    down.into_iter().zip(configs).collect()
}

/// Tries until it works, at most 10 s: an address is given back a moment after
/// its socket was closed.
pub(crate) async fn until_ok<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    attempt: impl Fn() -> F,
) -> T {
    let mut last = String::new();
    for _ in 0..100 {
        match attempt().await {
            Ok(done) => return done,
            Err(e) => last = e.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: {last}");
}

/// Somebody with an address and a key, and no node.
pub(crate) struct Attacker {
    pub(crate) pool: ConnectionPool,
    pub(crate) client: Client,
    pub(crate) network: NetworkId,
}

impl Attacker {
    /// At 127.net.place.200: `place` is what the nodes observe as its prefix.
    pub(crate) async fn at(net: &Net, (number, place): (u8, u8), label: &str) -> Self {
        let bind = SocketAddr::from(([127, number, place, 200], 0));
        let key = secret(&format!("attacker {place} {label}"));
        let endpoint = NodeEndpoint::bind(EndpointConfig::offline(key, bind)).await.unwrap();
        for node in &net.nodes {
            let addr = NodeAddr::direct(node.addrs()[0]);
            endpoint.learn(&node.node_id().0, &addr).unwrap();
        }
        let pool = ConnectionPool::new(endpoint.clone(), PoolLimits::default());
        let network = net.genesis.network_id();
        let client = Client::new(pool.clone(), network);
        Self { pool, client, network }
    }

    /// A request as a frame, under any network and version.
    pub(crate) fn frame(&self, request: Request) -> Vec<u8> {
        let version = params::NODE_PROTOCOL_VERSION;
        message::encode(&Envelope { network: self.network, version, request })
    }

    /// Sends raw bytes on a stream of its own and ends it; what came back.
    pub(crate) async fn raw(&self, node: &Node, bytes: &[u8]) -> Result<Response, String> {
        let addr = NodeAddr::direct(node.addrs()[0]);
        let connection =
            self.pool.get(&node.node_id().0, &addr).await.map_err(|e| e.to_string())?;
        let (mut send, mut recv) = connection.open_bi().await.map_err(|e| e.to_string())?;
        // The node may have heard enough before everything was sent.
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        let frame = tokio::time::timeout(
            Duration::from_secs(20),
            read_frame(&mut recv, params::RESPONSE_BYTES_MAX),
        );
        let frame = frame.await.map_err(|_| "no answer in 20 s".to_owned())?;
        let frame = frame.map_err(|e| format!("no frame: {e}"))?;
        message::decode_response(&frame).map_err(|e| e.to_string())
    }

    /// Sends one request frame and ends the stream.
    pub(crate) async fn ask(&self, node: &Node, request: Request) -> Result<Response, String> {
        self.raw(node, &framed(&self.frame(request))).await
    }
}

/// A frame as it goes over the wire.
pub(crate) fn framed(bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).unwrap();
    [&len.to_le_bytes(), bytes].concat()
}
