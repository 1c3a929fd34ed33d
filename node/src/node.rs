//! A running node: its parts put together in the order in which they need each
//! other, and taken apart in the reverse order.
//!
//! It decides nothing: see `flow` and `serve`.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use echonet_protocol::{
    content_id::ContentId,
    data::cpu_supported,
    identity::{Identity, NodeId},
    network::{Genesis, NetworkId},
    node_descriptor::Roles,
    time::Epoch,
};
use echonet_vault::{RealDisk, Vault, VaultConfig};
use futures::future::BoxFuture;
use iroh::protocol::Router;
use iroh_blobs::{
    BlobsProtocol,
    provider::events::{AbortReason, EventMask, EventSender, ProviderMessage, ThrottleMode},
};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    audit::{self, Audit},
    client::Client,
    clock,
    config::NodeConfig,
    core::Core,
    flow::{adopt, fetch, join, maintain, publish, status, unpublish},
    keep,
    members::Members,
    net::{
        address::AddressRules,
        bandwidth::{Bandwidth, Way},
        endpoint::{EndpointConfig, NodeEndpoint},
        gate::incoming_filter,
        guard::Guarded,
        kad::{self, KadConfig, KadHandler, KadRouting, Stranger, rules_filter},
        limits::{HandshakeLimits, KadLimits, PoolLimits, RecordLimits, ServerLimits},
        node_protocol::{self, pool::ConnectionPool, server::NodeServer},
        records::store::RecordStore,
    },
    origin::Origin,
    owner::Catalog,
    serve::{self, Handler, bulk::Bulk, trees::Trees},
    service::{
        Drained, Fetched, GetRequest, Kept, LimitsStatus, NodeStatus, Peer, ProgressSender,
        PublishRequest, Published, Replayed, Service, ServiceError, ServiceResult, Sink,
        Unpublished, VaultStatus, VerdictInfo, Work, WorkStatus,
    },
};

/// Live checks carried out at once on behalf of others.
const LIVE_CHECKS_MAX: usize = 2;
/// Longest wait for peers to confirm that connections are closed, milliseconds.
const CLOSE_MS_MAX: u64 = 3_000;
/// The same for a client.
const CLOSE_MS_MAX_CLIENT: u64 = 100;
/// Reads of full copies by iroh-blobs clients that may wait for the cap.
const THROTTLED_MAX: usize = 64;
/// Longest wait of one of them before it is told to come back later.
const THROTTLE_MS_MAX: u64 = 8_000;
/// Roles whose nodes answer lookups: reachable ones.
const ROUTING_ROLES: [Roles; 3] = [Roles::STORAGE, Roles::ARCHIVE, Roles::WITNESS];

/// A running node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Node {
    core: Arc<Core>,
    router: Router,
    tasks: Arc<std::sync::Mutex<Vec<AbortOnDropHandle<()>>>>,
}

fn failed(kind: &'static str) -> impl Fn(&dyn std::fmt::Display) -> ServiceError {
    move |e| ServiceError::new(kind, e)
}

impl Node {
    /// Starts a node: binds its socket, learns its network, opens what it keeps,
    /// serves, and enters the network.
    ///
    /// # Errors
    /// `network` when the socket or the network cannot be had, `io` when what
    /// it keeps cannot be opened, `invalid` for a processor it cannot run on.
    pub async fn start(config: NodeConfig, identity: Identity) -> ServiceResult<Self> {
        cpu_supported().map_err(|e| failed("invalid")(&e))?;
        let endpoint = bind(&config, &identity).await?;
        let pool = ConnectionPool::new(endpoint.clone(), PoolLimits::default());
        let genesis = match &config.genesis {
            Some(genesis) => genesis.clone(),
            None => join::fetch_genesis(&endpoint, &pool, &config.bootstrap).await?,
        };
        let network = genesis.network_id();
        let (routing, kad_handler, strangers) = start_kad(&endpoint, &config, &genesis)?;
        let core = Arc::new(Core {
            client: Client::new(pool, network),
            routing: Arc::new(routing),
            records: open_records(&config.data, &identity)?,
            members: Members::default(),
            vault: open_vault(&config, &genesis).await?,
            catalog: Catalog::open(&config.data.join("catalog.redb"))?,
            origin: Origin::new(config.data.join("origin")),
            bandwidth: Bandwidth::new(config.caps),
            bulk: Bulk::default(),
            said: std::sync::Mutex::default(),
            trees: Trees::default(),
            keep: keep::Keep::default(),
            swim: keep::Swim::default(),
            votes: keep::Votes::default(),
            outbox: keep::Outbox::default(),
            audit: Audit::open(&config.data, &genesis, &identity, config.beacon_share.as_ref())?,
            live_checks: Arc::new(Semaphore::new(LIVE_CHECKS_MAX)),
            joined: joined(&config.data, &genesis)?,
            identity,
            genesis,
            network,
            config,
            endpoint,
        });
        let router = serve_all(&core, kad_handler).await?;
        let answered = join::join(&core).await;
        if answered == 0 && !core.config.bootstrap.is_empty() && !core.serves() {
            close(&core, &router).await;
            let reason = "no bootstrap node answers; check the address and that it is running";
            return Err(ServiceError::new("network", reason));
        }
        let tasks = background(&core, strangers);
        Ok(Self { core, router, tasks: Arc::new(std::sync::Mutex::new(tasks)) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.core.endpoint.bound()
    }

    /// Its key's public half.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.core.node_id()
    }

    /// Its network.
    #[must_use]
    pub fn network_id(&self) -> NetworkId {
        self.core.network
    }

    /// Its network's genesis.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.core.genesis
    }

    /// Its shared parts: for tests and tools that go around the services.
    #[must_use]
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Ends it: nothing is accepted any more, then connections are closed. What
    /// was acknowledged is durable already.
    pub async fn shutdown(&self) {
        let tasks = self.tasks.lock().map(|mut tasks| std::mem::take(&mut *tasks));
        drop(tasks);
        close(&self.core, &self.router).await;
        if let Some(vault) = self.core.vault.clone() {
            // Saves the next start some replaying; the volumes have everything.
            let checkpoint = tokio::task::spawn_blocking(move || vault.checkpoint());
            if let Ok(Err(e)) = checkpoint.await {
                tracing::warn!("no checkpoint at the end: {e}");
            }
        }
    }
}

/// Ends what is served and closes all connections. Peers that are gone never confirm; a person
/// who waits for a command should not wait for them. Closing goes on when nobody waits any more:
/// an endpoint that is dropped earlier sends nothing, and its peers wait in vain.
async fn close(core: &Core, router: &Router) {
    let (router, endpoint) = (router.clone(), core.endpoint.clone());
    let closing = tokio::spawn(async move {
        // It closes the endpoint as well.
        if let Err(e) = router.shutdown().await {
            tracing::warn!("the router did not end cleanly: {e}");
        }
        endpoint.close().await;
    });
    let patience_ms = if core.serves() { CLOSE_MS_MAX } else { CLOSE_MS_MAX_CLIENT };
    if tokio::time::timeout(Duration::from_millis(patience_ms), closing).await.is_err() {
        tracing::debug!("some peers did not confirm the end of their connections");
    }
}

async fn bind(config: &NodeConfig, identity: &Identity) -> ServiceResult<NodeEndpoint> {
    let relays: Result<Vec<_>, _> = config.relays.iter().map(|url| url.parse()).collect();
    let relays = relays.map_err(|e| ServiceError::new("invalid", format!("a relay's URL: {e}")))?;
    let online = !relays.is_empty();
    let settings = EndpointConfig {
        relays,
        online,
        ..EndpointConfig::offline(identity.secret(), config.bind)
    };
    NodeEndpoint::bind(settings).await.map_err(|e| failed("network")(&e))
}

/// The epoch in which a data directory was first used; written down then.
fn joined(data: &Path, genesis: &Genesis) -> ServiceResult<Epoch> {
    let path = data.join("joined");
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Ok(epoch) = text.trim().parse()
    {
        return Ok(Epoch(epoch));
    }
    // Losing it costs nothing but a changed rank: a plain write will do.
    let epoch = genesis.epoch_at(clock::now());
    std::fs::write(&path, format!("{}\n", epoch.0)).map_err(|e| failed("io")(&e))?;
    Ok(epoch)
}

fn start_kad(
    endpoint: &NodeEndpoint,
    config: &NodeConfig,
    genesis: &Genesis,
) -> ServiceResult<(KadRouting, KadHandler, tokio::sync::mpsc::Receiver<Stranger>)> {
    let relays = config.relays.iter().filter_map(|url| url.parse().ok()).collect();
    let development = genesis.development;
    let rules = AddressRules { loopback: development, private: development, relays };
    let settings = KadConfig {
        network_id: genesis.network_id().0,
        serve: ROUTING_ROLES.iter().any(|role| config.roles.has(*role)),
        filter: rules_filter(rules),
        limits: KadLimits::default(),
    };
    KadRouting::start(endpoint.clone(), settings).map_err(|e| failed("network")(&e))
}

fn open_records(data: &Path, identity: &Identity) -> ServiceResult<RecordStore> {
    // The salt must be secret and stay the same: derived from the secret key.
    let salt = blake3::derive_key("EchoNet 2026 record store salt", &identity.secret());
    let mut half = [0; 16];
    half.copy_from_slice(&salt[..16]);
    let limits =
        RecordLimits { lifetime_s_max: serve::records::EXPIRY_S_MAX, ..RecordLimits::default() };
    let path = data.join("records.redb");
    let opened = RecordStore::open(&path, identity.node_id().0, half, limits, clock::now().0);
    let (records, report) = opened.map_err(|e| failed("io")(&e))?;
    tracing::debug!("{report:?}");
    Ok(records)
}

async fn open_vault(config: &NodeConfig, genesis: &Genesis) -> ServiceResult<Option<Vault>> {
    let dir = config.data.join("vault");
    if !config.roles.has(Roles::STORAGE) {
        // A command passes; a node that stays would let others wait for what it promised.
        let stays = config.roles.0 != 0;
        return if stays && holds_shards(&dir) { Err(holder_without_role(&dir)) } else { Ok(None) };
    }
    let settings = vault_config(config.quota_bytes, genesis);
    let open = move || Vault::open(Arc::new(RealDisk), &dir, settings);
    let opened = tokio::task::spawn_blocking(open).await.map_err(|e| failed("internal")(&e))?;
    let (vault, report) = opened.map_err(|e| failed("io")(&e))?;
    tracing::info!("vault opened: {report:?}");
    Ok(Some(vault))
}

fn vault_config(quota_bytes: u64, genesis: &Genesis) -> VaultConfig {
    VaultConfig {
        quota_bytes,
        volume_len: genesis.volume_bytes,
        shard_len_max: genesis.shard_bytes_max(),
        unsealed_ttl_epochs: genesis.unsealed_epochs,
        grace_epochs: genesis.collect_grace_epochs,
        free_term_epochs_max: genesis.free_lease_epochs_max,
        ..VaultConfig::default()
    }
}

/// Bytes of a volume without a record.
const EMPTY_VOLUME_BYTES: u64 = 8192;

/// Whether volumes with records are in a vault's directory.
fn holds_shards(dir: &Path) -> bool {
    let volumes = std::fs::read_dir(dir.join("volumes")).into_iter().flatten().flatten();
    let lengths = volumes.filter_map(|entry| Some(entry.metadata().ok()?.len()));
    lengths.into_iter().any(|len| len > EMPTY_VOLUME_BYTES)
}

fn holder_without_role(dir: &Path) -> ServiceError {
    ServiceError::new(
        "invalid",
        format!(
            "{} holds shards for others, and this start has not the storage role: others would \
             take them for lost. Start with --role storage (and the --quota it had), or write both \
             into the configuration file; to give it up, run `echonet node drain` first, then \
             delete {}",
            dir.display(),
            dir.display()
        ),
    )
}

/// Registers every protocol that this node serves.
async fn serve_all(core: &Arc<Core>, kad_handler: KadHandler) -> ServiceResult<Router> {
    let server = NodeServer::new(Handler::new(Arc::clone(core)), ServerLimits::default());
    let gates = vec![Arc::clone(server.gate()), Arc::clone(kad_handler.gate())];
    let mut builder = Router::builder(core.endpoint.iroh().clone())
        .incoming_filter(incoming_filter(gates, &HandshakeLimits::default()))
        .accept(kad::ALPN, Guarded(kad_handler));
    if core.serves() {
        builder = builder.accept(node_protocol::ALPN, Guarded(server));
    }
    if core.config.roles.has(Roles::ORIGIN) {
        let store = core.origin.store().await.map_err(|e| failed("io")(&e))?;
        let throttle = throttle(core);
        builder = builder.accept(iroh_blobs::ALPN, Guarded(BlobsProtocol::new(store, throttle)));
    }
    Ok(builder.spawn())
}

/// Has what iroh-blobs hands out count against the cap, where there is one: it asks before every
/// 16 KiB, which costs.
fn throttle(core: &Arc<Core>) -> Option<EventSender> {
    if !core.bandwidth.is_capped(Way::Up) {
        return None;
    }
    let mask = EventMask { throttle: ThrottleMode::Intercept, ..EventMask::DEFAULT };
    let (events, mut asked) = EventSender::channel(THROTTLED_MAX, mask);
    let core = Arc::clone(core);
    // Ends with the protocol, which holds the other end.
    tokio::spawn(async move {
        while let Some(message) = asked.recv().await {
            let ProviderMessage::Throttle(ask) = message else { continue };
            let bytes = usize::try_from(ask.inner.size).unwrap_or(usize::MAX);
            let patience = Duration::from_millis(THROTTLE_MS_MAX);
            let passed = core.bandwidth.pass(Way::Up, [0; 16], bytes, patience).await;
            // Who asked and is gone needs no answer.
            let _ = ask.tx.send(passed.map_err(|_| AbortReason::RateLimited)).await;
        }
    });
    Some(events)
}

fn background(
    core: &Arc<Core>,
    strangers: tokio::sync::mpsc::Receiver<Stranger>,
) -> Vec<AbortOnDropHandle<()>> {
    let mut tasks = vec![tokio::spawn(meet(Arc::clone(core), strangers))];
    if core.serves() {
        tasks.push(tokio::spawn(join::keep_in_touch(Arc::clone(core))));
        tasks.push(tokio::spawn(maintain::maintain(Arc::clone(core))));
        tasks.push(tokio::spawn(keep::run(Arc::clone(core))));
        tasks.push(tokio::spawn(keep::take_part(Arc::clone(core))));
        tasks.push(tokio::spawn(keep::vote(Arc::clone(core))));
        tasks.push(tokio::spawn(keep::put_out(Arc::clone(core))));
        tasks.push(tokio::spawn(keep::rebalance(Arc::clone(core))));
        tasks.push(tokio::spawn(audit::have_beacons(Arc::clone(core))));
        tasks.push(tokio::spawn(audit::ask(Arc::clone(core))));
        tasks.push(tokio::spawn(audit::exchange(Arc::clone(core))));
    }
    tasks.into_iter().map(AbortOnDropHandle::new).collect()
}

/// Nodes that the router met and that have not described themselves are asked to.
async fn meet(core: Arc<Core>, mut strangers: tokio::sync::mpsc::Receiver<Stranger>) {
    while let Some(Stranger { node, addr }) = strangers.recv().await {
        let node_id = NodeId(node);
        if core.members.get(&node_id).is_some() || addr.is_empty() {
            continue;
        }
        if core.endpoint.learn(&node, &addr).is_ok() {
            join::greet(&core, &node_id).await;
        }
    }
}

impl Service for Node {
    fn publish(
        &self,
        request: PublishRequest,
        progress: ProgressSender,
    ) -> BoxFuture<'_, ServiceResult<Published>> {
        Box::pin(publish::publish(&self.core, request, progress))
    }

    fn get<'a>(
        &'a self,
        request: GetRequest,
        sink: Sink<'a>,
        progress: ProgressSender,
    ) -> BoxFuture<'a, ServiceResult<Fetched>> {
        Box::pin(fetch::get(&self.core, request, sink, progress))
    }

    fn unpublish(&self, content: ContentId) -> BoxFuture<'_, ServiceResult<Unpublished>> {
        Box::pin(unpublish::unpublish(&self.core, content))
    }

    fn keep(
        &self,
        content: ContentId,
        progress: ProgressSender,
    ) -> BoxFuture<'_, ServiceResult<Kept>> {
        Box::pin(adopt::keep(&self.core, content, progress))
    }

    fn work_status(&self, content: ContentId) -> BoxFuture<'_, ServiceResult<WorkStatus>> {
        Box::pin(status::work_status(&self.core, content))
    }

    fn node_status(&self) -> BoxFuture<'_, ServiceResult<NodeStatus>> {
        Box::pin(async { self.status() })
    }

    fn works(&self) -> BoxFuture<'_, ServiceResult<Vec<Work>>> {
        Box::pin(async {
            let works = self.core.catalog.works()?;
            Ok(works.iter().map(|(content, row)| unpublish::work(content, row)).collect())
        })
    }

    fn drain(&self, progress: ProgressSender) -> BoxFuture<'_, ServiceResult<Drained>> {
        Box::pin(keep::drain(&self.core, progress))
    }

    fn peers(&self) -> BoxFuture<'_, ServiceResult<Vec<Peer>>> {
        Box::pin(async {
            Ok(self.core.members.all().into_iter().map(|m| peer(&self.core, m)).collect())
        })
    }

    fn verdicts(&self, count_max: usize) -> BoxFuture<'_, ServiceResult<Vec<VerdictInfo>>> {
        Box::pin(audit::report::verdicts(&self.core, count_max))
    }

    fn replay(&self, verdict: String) -> BoxFuture<'_, ServiceResult<Replayed>> {
        Box::pin(audit::report::replay(&self.core, verdict))
    }
}

impl Node {
    fn status(&self) -> ServiceResult<NodeStatus> {
        let core = &self.core;
        let vault = core.vault.as_ref().map(vault_status).transpose()?;
        Ok(NodeStatus {
            node_id: core.node_id().to_string(),
            network_id: core.network.to_string(),
            roles: core.config.roles.names().into_iter().map(str::to_owned).collect(),
            addrs: self.addrs().iter().map(ToString::to_string).collect(),
            peers: core.members.len() as u64,
            epoch: core.epoch().0,
            repair: vault.as_ref().map(|_| core.keep.status()),
            limits: limits(&core.bandwidth),
            vault,
            works: core.catalog.works()?.len() as u64,
        })
    }
}

fn limits(bandwidth: &Bandwidth) -> LimitsStatus {
    let caps = bandwidth.caps();
    LimitsStatus {
        upload_cap: caps.upload,
        download_cap: caps.download,
        quiet_cap: caps.quiet_bytes_per_s(),
        quiet_hours: caps.quiet_hours.hours().count() as u64,
        quiet_now: bandwidth.is_quiet(),
    }
}

fn vault_status(vault: &Vault) -> ServiceResult<VaultStatus> {
    let stats = vault.stats().map_err(|e| failed("io")(&e))?;
    Ok(VaultStatus {
        shards: stats.shards,
        live_bytes: stats.shard_bytes,
        used_bytes: stats.used_bytes,
        quota_bytes: stats.quota_bytes,
        free_pool_bytes: stats.free_pool_bytes,
        quarantined: stats.quarantined,
        volumes: stats.volumes,
    })
}

fn peer(core: &Core, member: crate::members::Member) -> Peer {
    let body = member.descriptor.body;
    let (state, since) = match core.swim.state(&body.node) {
        Some(state) => (state.name(), state.since),
        None => (member.reach.name(), member.since),
    };
    Peer {
        node_id: body.node.to_string(),
        addr: body.addrs.first().map(ToString::to_string).unwrap_or_default(),
        state: state.to_owned(),
        since: since.0,
        roles: body.roles.names().into_iter().map(str::to_owned).collect(),
        region: body.labels.region,
        datacenter: body.labels.datacenter,
        operator: body.labels.operator,
    }
}

#[cfg(test)]
mod tests {
    use echonet_protocol::{network::WitnessParams, time::UnixSeconds};

    use super::*;
    use crate::devnet::genesis::{DevelopmentNetwork, development};

    #[test]
    fn a_vault_that_holds_something_is_seen_before_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!holds_shards(dir.path()), "there is none");
        std::fs::create_dir(dir.path().join("volumes")).unwrap();
        let volume = dir.path().join("volumes/vol-0000000001.echovol");
        std::fs::write(&volume, [0; EMPTY_VOLUME_BYTES as usize]).unwrap();
        assert!(!holds_shards(dir.path()), "headers only");
        std::fs::write(&volume, [0; EMPTY_VOLUME_BYTES as usize + 1]).unwrap();
        assert!(holds_shards(dir.path()));
        assert!(holder_without_role(dir.path()).message.contains("--role storage"));
    }

    #[test]
    fn a_vault_takes_the_shortest_volume_of_any_genesis() {
        let network = DevelopmentNetwork::default();
        let mut genesis =
            development(&network, [1; 16], UnixSeconds(1), vec![], WitnessParams::none());
        for segment_bytes in [4096, 1 << 20, 3 << 20, 4 << 20, 8 << 20, 32 << 20] {
            genesis.segment_bytes = segment_bytes;
            let least = vault_config(1 << 30, &genesis).volume_len_min();
            assert!(genesis.volume_bytes_min() >= least, "{segment_bytes}: {least}");
        }
    }
}
