//! A development network in this process: real nodes on 127.D.O.N addresses, each
//! with a directory of its own.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use echonet_node::{
    config::NodeConfig,
    net::bandwidth::Caps,
    node::Node,
    service::{Fetched, GetRequest, Kept, PublishRequest, Published, Service, ServiceResult},
};
use echonet_protocol::{
    identity::Identity,
    network::{BootstrapAddr, Genesis, Timing, WitnessParams},
    node_descriptor::{Labels, Roles},
    time::UnixSeconds,
};
use tempfile::TempDir;

/// A network of storage nodes.
pub(crate) struct Net {
    /// Its nodes.
    pub(crate) nodes: Vec<Node>,
    /// Its genesis.
    pub(crate) genesis: Genesis,
    /// Its directories; gone with it.
    pub(crate) dir: TempDir,
    issuer: [u8; 32],
}

/// A secret key from a label.
pub(crate) fn secret(label: &str) -> [u8; 32] {
    *blake3::hash(label.as_bytes()).as_bytes()
}

/// Bytes that nothing compresses, from a label.
pub(crate) fn noise(label: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(label.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn genesis(issuer: &Identity, epoch_s: u64) -> Genesis {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Genesis {
        v: 1,
        name: "test".into(),
        created: UnixSeconds(now.as_secs()),
        salt: now.as_nanos().to_le_bytes().to_vec(),
        development: true,
        epoch_s,
        segment_bytes: 32 << 20,
        volume_bytes: 64 << 20,
        unsealed_epochs: 86_400 / epoch_s,
        collect_grace_epochs: 1,
        lease_epochs_max: 10_000,
        free_lease_epochs_max: 1_000,
        issuers: vec![issuer.node_id()],
        timing: Timing { probe_s: 2, suspect_s: 2, grace_s: 10, urgent_s: 5, top_up_s: 20 },
        witness: WitnessParams::none(),
    }
}

impl Net {
    /// Starts `count` storage nodes under loopback network `net` (127.net.…).
    pub(crate) async fn start(net: u8, count: usize, epoch_s: u64) -> Self {
        Self::start_with(net, count, epoch_s, |_| {}).await
    }

    /// The same, with a genesis that differs.
    pub(crate) async fn start_with(
        net: u8,
        count: usize,
        epoch_s: u64,
        change: impl FnOnce(&mut Genesis),
    ) -> Self {
        let issuer = secret(&format!("issuer {net}"));
        let mut genesis = genesis(&Identity::from_secret(&issuer), epoch_s);
        change(&mut genesis);
        let dir = tempfile::tempdir().unwrap();
        let mut this = Self { nodes: Vec::new(), genesis, dir, issuer };
        for i in 0..count {
            let config = this.config(net, i);
            let identity = Identity::from_secret(&secret(&format!("node {net} {i}")));
            this.nodes.push(Node::start(config, identity).await.unwrap());
        }
        this.until_all_know_each_other().await;
        this
    }

    fn config(&self, net: u8, i: usize) -> NodeConfig {
        let (datacenter, operator) = (i % 5, i / 2);
        let data = self.dir.path().join(format!("node-{i:02}"));
        std::fs::create_dir_all(&data).unwrap();
        NodeConfig {
            data,
            bind: format!("127.{net}.{operator}.{}:0", 1 + i % 2).parse().unwrap(),
            bootstrap: self.bootstrap(),
            genesis: Some(self.genesis.clone()),
            roles: Roles::STORAGE,
            labels: Labels {
                region: format!("region-{}", datacenter % 2),
                datacenter: format!("dc-{datacenter}"),
                rack: String::new(),
                operator: format!("operator-{operator}"),
            },
            quota_bytes: 2 << 30,
            caps: Caps::default(),
            relays: vec![],
            issuer_secret: (i < 3).then_some(self.issuer),
            beacon_share: None,
        }
    }

    /// Where to enter it: its first living nodes.
    pub(crate) fn bootstrap(&self) -> Vec<BootstrapAddr> {
        let network = self.genesis.network_id();
        let entry =
            |node: &Node| BootstrapAddr { network, node: node.node_id(), addr: node.addrs()[0] };
        self.nodes.iter().take(3).map(entry).collect()
    }

    async fn until_all_know_each_other(&self) {
        let everybody = self.nodes.len() - 1;
        eventually("all nodes know each other", || async {
            self.nodes.iter().all(|node| node.core().members.len() == everybody)
        })
        .await;
    }

    /// A client or origin, which fetches the genesis through the bootstrap nodes.
    pub(crate) async fn client(&self, name: &str, roles: Roles) -> Node {
        let data = self.dir.path().join(name);
        std::fs::create_dir_all(&data).unwrap();
        let config = NodeConfig {
            data,
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            bootstrap: self.bootstrap(),
            genesis: None,
            roles,
            labels: Labels::default(),
            quota_bytes: 0,
            caps: Caps::default(),
            relays: vec![],
            issuer_secret: None,
            beacon_share: None,
        };
        Node::start(config, Identity::from_secret(&secret(name))).await.unwrap()
    }

    /// Ends nodes without a word.
    pub(crate) async fn kill(&mut self, victims: &[echonet_protocol::identity::NodeId]) {
        let (dead, alive): (Vec<_>, Vec<_>) =
            self.nodes.drain(..).partition(|node| victims.contains(&node.node_id()));
        self.nodes = alive;
        futures::future::join_all(dead.iter().map(Node::shutdown)).await;
    }

    /// Writes a file.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// Waits for a condition, at most 30 s.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    for _ in 0..300 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: not within 30 s");
}

/// Keeps a work of somebody else's.
#[allow(dead_code, reason = "not every test keeps works")]
pub(crate) async fn keep(node: &Node, content: &str) -> ServiceResult<Kept> {
    let (progress, mut events) = tokio::sync::mpsc::channel(64);
    let drain = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let kept = node.keep(content.parse().unwrap(), progress).await;
    drain.await.unwrap();
    kept
}

/// Publishes a file.
pub(crate) async fn publish(node: &Node, path: PathBuf) -> ServiceResult<Published> {
    let (progress, mut events) = tokio::sync::mpsc::channel(64);
    let drain = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let request = PublishRequest { path, scheme: None, media_type: String::new(), spooled: false };
    let published = node.publish(request, progress).await;
    drain.await.unwrap();
    published
}

/// Fetches a content into memory.
pub(crate) async fn get(node: &Node, content: &str) -> (Vec<u8>, ServiceResult<Fetched>) {
    get_range(node, content, None).await
}

/// Fetches part of a content into memory.
pub(crate) async fn get_range(
    node: &Node,
    content: &str,
    range: Option<(u64, u64)>,
) -> (Vec<u8>, ServiceResult<Fetched>) {
    let (progress, mut events) = tokio::sync::mpsc::channel(64);
    let drain = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let mut bytes = Vec::new();
    let request = GetRequest { content_id: content.to_owned(), range };
    let fetched = node.get(request, Box::new(&mut bytes), progress).await;
    drain.await.unwrap();
    (bytes, fetched)
}
