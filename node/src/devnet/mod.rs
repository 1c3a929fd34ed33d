//! A development network: N real node processes on this machine with a genesis
//! of their own.
//!
//! It never pretends: the nodes are the same executable that runs anywhere,
//! each with its own key, address, directory and process.

mod child;
pub mod genesis;
pub mod plan;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use echonet_protocol::{
    identity::Identity,
    network::{Genesis, WitnessParams},
    node_descriptor::Roles,
    time::UnixSeconds,
};
use serde::Serialize;

pub(crate) use self::child::{NodeProcess, NodeReady};
use self::{
    genesis::DevelopmentNetwork,
    plan::{NODES_MAX, Place, WITNESSES_MAX},
};
use crate::{
    api::client::ApiClient,
    datadir::{DataDir, DataDirError, Lock, random_bytes, read_small},
    service::{Service as _, ServiceError},
    settings::{Role, Settings},
    units::ByteSize,
};

/// Nodes that others enter the network by, and that sign grants.
const ENTRY_NODES: usize = 3;
/// Tries to start a node whose port somebody else took meanwhile.
const START_TRIES: usize = 4;
/// Nodes that are started at once.
const STARTS_AT_ONCE: usize = 4;
/// How long nodes may take until all know each other, besides 1 s per node.
const MEET_TIMEOUT: Duration = Duration::from_secs(60);
/// The witnesses' secret shares of the beacon, hex, one a line.
const SHARES_FILE: &str = "beacon.shares";
/// The issuer's secret key, hex.
const ISSUER_FILE: &str = "issuer.key";

/// Why a development network does not run.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// A number out of bounds.
    #[error("a development network has 1 to {NODES_MAX} nodes, not {0}: choose with --nodes")]
    Nodes(usize),
    /// A number out of bounds.
    #[error(
        "a development network has at most {WITNESSES_MAX} witnesses, not {0}: choose with \
         --witnesses"
    )]
    Witnesses(usize),
    /// The directory holds something else.
    #[error(
        "{path} is not empty and holds no development network: choose an empty directory with \
         --data DIR", path = path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The parameters make no valid genesis.
    #[error("these parameters make no network: {0}")]
    Genesis(String),
    /// A directory or small file could not be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file operation failed.
    #[error("cannot prepare {path}: {source}", path = path.display())]
    Io {
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A process could not be started.
    #[error("cannot start {name}: {source}")]
    Spawn {
        /// The node.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// A node did not become ready.
    #[error("{name} {what}; the end of its log:\n{log}")]
    Node {
        /// The node.
        name: String,
        /// What happened.
        what: &'static str,
        /// The end of its log.
        log: String,
    },
    /// Nodes did not find each other.
    #[error(
        "{name} knows {known} of {wanted} other nodes after {seconds} s; the end of its log:\n{log}"
    )]
    NotMet {
        /// The node.
        name: String,
        /// Nodes it knows.
        known: u64,
        /// Nodes it should know.
        wanted: u64,
        /// How long it had.
        seconds: u64,
        /// The end of its log.
        log: String,
    },
}

impl From<DevnetError> for ServiceError {
    fn from(error: DevnetError) -> Self {
        Self::new(
            if matches!(error, DevnetError::Nodes(_) | DevnetError::Witnesses(_)) {
                "usage"
            } else {
                "io"
            },
            error,
        )
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct DevnetConfig {
    /// How many nodes that hold works.
    pub nodes: usize,
    /// How many witnesses besides.
    pub witnesses: usize,
    /// Where everything is kept.
    pub data: PathBuf,
    /// Each node's quota, bytes.
    pub quota_bytes: u64,
    /// What each node does.
    pub roles: Vec<Role>,
    /// The network's parameters.
    pub network: DevelopmentNetwork,
}

/// A running development network. Dropping it kills its nodes.
#[derive(Debug)]
pub struct Devnet {
    pub(crate) nodes: Vec<NodeProcess>,
    witnesses: Vec<NodeProcess>,
    /// What `--bootstrap` takes.
    pub(crate) bootstrap: String,
    _lock: Lock,
}

/// The ready line of a development network.
#[derive(Debug, Serialize)]
pub struct DevnetReady {
    /// What `--bootstrap` takes.
    pub bootstrap: String,
    /// Its nodes that hold works.
    pub nodes: Vec<DevnetNode>,
    /// Its witnesses.
    pub witnesses: Vec<DevnetNode>,
}

/// One node of the ready line.
#[derive(Debug, Serialize)]
pub struct DevnetNode {
    /// Such as `node-01`.
    pub name: String,
    /// Its NodeID.
    pub node_id: String,
    /// Its process.
    pub pid: u32,
    /// Where other nodes reach it.
    pub addr: String,
    /// Its local API; the token is in `api.json` in its directory.
    pub api: String,
    /// Its directory.
    pub data: PathBuf,
}

impl Devnet {
    /// Starts all nodes and waits until they know each other. `tell` hears how
    /// many are ready.
    ///
    /// # Errors
    /// [`DevnetError`]; whatever ran is ended then.
    pub async fn start(
        config: &DevnetConfig,
        mut tell: impl FnMut(usize),
    ) -> Result<Self, DevnetError> {
        if !(1..=NODES_MAX).contains(&config.nodes) {
            return Err(DevnetError::Nodes(config.nodes));
        }
        if config.witnesses > WITNESSES_MAX {
            return Err(DevnetError::Witnesses(config.witnesses));
        }
        let (dir, lock) = prepare(&config.data)?;
        let made = load_or_make(&dir, config)?;
        let Made { genesis, issuer, shares } = &made;
        let mut devnet = Self {
            nodes: Vec::new(),
            witnesses: Vec::new(),
            bootstrap: String::new(),
            _lock: lock,
        };
        let places = plan::places(config.nodes);
        let (entry, rest) = places.split_at(ENTRY_NODES.min(places.len()));
        let mut entries = Vec::new();
        for place in entry {
            let plan = NodePlan { dir: &dir, genesis, bootstrap: &entries, config };
            let node = plan.start(place, &Secrets::issuer(issuer)).await?;
            entries.push(node.ready.bootstrap.clone());
            devnet.nodes.push(node);
            tell(devnet.nodes.len());
        }
        devnet.bootstrap = entries.join(",");
        devnet.introduce_entries(&dir, genesis, entry, issuer, config)?;
        let plan = NodePlan { dir: &dir, genesis, bootstrap: &entries, config };
        for places in rest.chunks(STARTS_AT_ONCE) {
            let starts = places.iter().map(|place| plan.start(place, &Secrets::NONE));
            for node in futures::future::join_all(starts).await {
                devnet.nodes.push(node?);
            }
            tell(devnet.nodes.len());
        }
        for (place, share) in plan::witnesses(config.witnesses).iter().zip(shares) {
            devnet.witnesses.push(plan.start(place, &Secrets::share(share)).await?);
            tell(devnet.nodes.len() + devnet.witnesses.len());
        }
        devnet.meet().await?;
        Ok(devnet)
    }

    /// Tells each entry node of the others, for when it is started again.
    fn introduce_entries(
        &self,
        dir: &DataDir,
        genesis: &Genesis,
        places: &[Place],
        issuer: &str,
        config: &DevnetConfig,
    ) -> Result<(), DevnetError> {
        for (place, node) in places.iter().zip(&self.nodes) {
            let others = self.nodes.iter().filter(|other| other.pid != node.pid);
            let others: Vec<_> = others.map(|other| other.ready.bootstrap.clone()).collect();
            let plan = NodePlan { dir, genesis, bootstrap: &others, config };
            plan.configure(place, &Secrets::issuer(issuer), node.ready.addr.parse().ok())?;
        }
        Ok(())
    }

    /// The ready line's content.
    #[must_use]
    pub fn ready(&self) -> DevnetReady {
        let node = |n: &NodeProcess| DevnetNode {
            name: n.name.clone(),
            node_id: n.ready.node_id.clone(),
            pid: n.pid,
            addr: n.ready.addr.clone(),
            api: n.ready.api.clone(),
            data: n.data.clone(),
        };
        DevnetReady {
            bootstrap: self.bootstrap.clone(),
            nodes: self.nodes.iter().map(node).collect(),
            witnesses: self.witnesses.iter().map(node).collect(),
        }
    }

    /// Waits until every node knows every other.
    async fn meet(&mut self) -> Result<(), DevnetError> {
        let wanted = (self.nodes.len() + self.witnesses.len()) as u64 - 1;
        let timeout = MEET_TIMEOUT + Duration::from_secs(wanted);
        let deadline = Instant::now() + timeout;
        for node in self.nodes.iter_mut().chain(&mut self.witnesses) {
            loop {
                let known = known_peers(&node.data).await;
                if known >= wanted {
                    break;
                }
                let log = || child::log_tail(&node.data.join(child::LOG_FILE));
                if Instant::now() >= deadline {
                    let (name, log) = (node.name.clone(), log());
                    let seconds = timeout.as_secs();
                    return Err(DevnetError::NotMet { name, known, wanted, seconds, log });
                }
                let log = log();
                if node.has_ended() {
                    let name = node.name.clone();
                    return Err(DevnetError::Node { name, what: "ended unexpectedly", log });
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// Ends all nodes, gently at first.
    pub async fn stop(mut self) {
        for node in self.nodes.iter_mut().chain(&mut self.witnesses) {
            node.ask_to_stop();
        }
        for node in self.nodes.iter_mut().chain(&mut self.witnesses) {
            node.wait().await;
        }
    }

    /// Waits until one more node ended, killed or by itself; its name.
    pub async fn next_to_end(&mut self) -> String {
        loop {
            let mut all = self.nodes.iter_mut().chain(&mut self.witnesses);
            if let Some(name) = all.find_map(NodeProcess::newly_ended) {
                return name;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// How many nodes a node knows; 0 when it does not answer.
async fn known_peers(data: &Path) -> u64 {
    let ask = async {
        let api = DataDir::open(data).ok()?.api_file().ok()??;
        ApiClient::new(&api).ok()?.node_status().await.ok()
    };
    ask.await.map_or(0, |status| status.peers)
}

/// Opens the network's directory: an empty one, or one that held a network.
fn prepare(data: &Path) -> Result<(DataDir, Lock), DevnetError> {
    let dir = DataDir::open(data)?;
    let mut entries = fs::read_dir(dir.path())
        .map_err(|source| DevnetError::Io { path: dir.path().to_owned(), source })?;
    let known = dir.genesis_file().exists() && dir.path().join(ISSUER_FILE).exists();
    if !known && entries.any(|e| e.is_ok_and(|e| e.file_name() != "lock")) {
        return Err(DevnetError::NotEmpty { path: dir.path().to_owned() });
    }
    let lock = dir.lock("devnet")?;
    Ok((dir, lock))
}

/// What a network is made of, besides its nodes.
struct Made {
    genesis: Genesis,
    /// The issuer's secret key, hex.
    issuer: String,
    /// The witnesses' secret shares of the beacon, hex, in the order of their places.
    shares: Vec<String>,
}

/// The genesis and the secrets, from the directory or new.
fn load_or_make(dir: &DataDir, config: &DevnetConfig) -> Result<Made, DevnetError> {
    let genesis = read_small(&dir.genesis_file())?;
    let issuer = read_small(&dir.path().join(ISSUER_FILE))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    if let (Some(genesis), Some(issuer)) = (genesis, issuer) {
        let genesis = Genesis::decode(&genesis).map_err(|e| DevnetError::Genesis(e.to_string()))?;
        let shares = read_small(&dir.path().join(SHARES_FILE))?.map(text).unwrap_or_default();
        let shares: Vec<String> = shares.lines().map(str::to_owned).collect();
        if shares.len() != config.witnesses {
            let reason = format!("this network was made with {} witnesses", shares.len());
            return Err(DevnetError::Genesis(reason));
        }
        return Ok(Made { genesis, issuer: text(issuer), shares });
    }
    make(dir, config)
}

fn make(dir: &DataDir, config: &DevnetConfig) -> Result<Made, DevnetError> {
    let random = |source| DevnetError::Io { path: dir.genesis_file(), source };
    let secret = random_bytes::<32>().map_err(random)?;
    let salt = random_bytes::<16>().map_err(random)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let issuers = vec![Identity::from_secret(&secret).node_id()];
    let (witness, shares) = make_witnesses(dir, config)?;
    let genesis = genesis::development(&config.network, salt, UnixSeconds(now), issuers, witness);
    let bytes = genesis.encode();
    Genesis::decode(&bytes).map_err(|error| DevnetError::Genesis(error.to_string()))?;
    let issuer = data_encoding::HEXLOWER.encode(&secret);
    // The genesis last: it marks the directory as complete.
    dir.write_private(ISSUER_FILE, issuer.as_bytes())?;
    dir.write_private(SHARES_FILE, shares.join("\n").as_bytes())?;
    dir.write_private("genesis", &bytes)?;
    Ok(Made { genesis, issuer, shares })
}

/// The witness set with a beacon of its own, and the shares in the order of the places.
fn make_witnesses(
    dir: &DataDir,
    config: &DevnetConfig,
) -> Result<(WitnessParams, Vec<String>), DevnetError> {
    if config.witnesses == 0 {
        return Ok((WitnessParams::none(), Vec::new()));
    }
    let mut members = Vec::new();
    for (at, place) in plan::witnesses(config.witnesses).iter().enumerate() {
        let identity = DataDir::open(&dir.path().join(&place.name))?.identity()?;
        members.push((identity.node_id(), at));
    }
    members.sort_unstable();
    let set: Vec<_> = members.iter().map(|(member, _)| *member).collect();
    let random = |source| DevnetError::Io { path: dir.genesis_file(), source };
    let seed = random_bytes::<32>().map_err(random)?;
    let dealt = genesis::witnesses(&config.network, &set, &seed).map_err(DevnetError::Genesis)?;
    let mut shares = vec![String::new(); config.witnesses];
    for ((_, at), share) in members.iter().zip(dealt.1) {
        shares[*at] = data_encoding::HEXLOWER.encode(&share.secret());
    }
    Ok((dealt.0, shares))
}

/// What a node knows and others do not.
#[derive(Debug, Clone, Copy)]
struct Secrets<'a> {
    issuer: Option<&'a str>,
    share: Option<&'a str>,
}

impl<'a> Secrets<'a> {
    const NONE: Secrets<'static> = Secrets { issuer: None, share: None };

    const fn issuer(issuer: &'a str) -> Self {
        Self { issuer: Some(issuer), share: None }
    }

    const fn share(share: &'a str) -> Self {
        Self { issuer: None, share: Some(share) }
    }
}

/// What all nodes that are started now have in common.
struct NodePlan<'a> {
    dir: &'a DataDir,
    genesis: &'a Genesis,
    bootstrap: &'a [String],
    config: &'a DevnetConfig,
}

impl NodePlan<'_> {
    /// Writes a node's configuration and starts it; on another port when the
    /// one it was given is taken meanwhile.
    async fn start(
        &self,
        place: &Place,
        secrets: &Secrets<'_>,
    ) -> Result<NodeProcess, DevnetError> {
        let mut tries = 1;
        loop {
            let dir = self.configure(place, secrets, None)?;
            match NodeProcess::start(&place.name, dir.path()).await {
                Err(error @ DevnetError::Node { .. }) if tries < START_TRIES => {
                    let text = error.to_string();
                    if !text.contains("in use") {
                        return Err(error);
                    }
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// A node's directory with all it needs, so that `echonet node --data DIR`
    /// alone starts it again; on a free port unless it has an address.
    fn configure(
        &self,
        place: &Place,
        secrets: &Secrets<'_>,
        bind: Option<SocketAddr>,
    ) -> Result<DataDir, DevnetError> {
        let dir = DataDir::open(&self.dir.path().join(&place.name))?;
        let io = |source| DevnetError::Io { path: dir.config_file(), source };
        let bind = match bind {
            Some(addr) => addr,
            None => child::free_addr(place.ip.into()).map_err(io)?,
        };
        let bootstrap: Result<Vec<_>, _> = self.bootstrap.iter().map(|b| b.parse()).collect();
        let settings = Settings {
            bind: Some(bind),
            bootstrap: bootstrap.map_err(|e| io(io::Error::other(e)))?,
            role: if secrets.share.is_some() {
                vec![Role(Roles::WITNESS)]
            } else {
                self.config.roles.clone()
            },
            quota: Some(ByteSize(self.config.quota_bytes)),
            region: Some(place.region.clone()),
            datacenter: Some(place.datacenter.clone()),
            rack: Some(place.rack.clone()),
            operator: Some(place.operator.clone()),
            ..Settings::default()
        };
        let mut text = toml::to_string(&settings).map_err(|e| io(io::Error::other(e)))?;
        let named = [("issuer_secret", secrets.issuer), ("beacon_share", secrets.share)];
        for (name, secret) in named {
            text = secret.map_or(text.clone(), |secret| format!("{name} = \"{secret}\"\n{text}"));
        }
        dir.write_private("genesis", &self.genesis.encode())?;
        dir.write_private("echonet.toml", text.as_bytes())?;
        Ok(dir)
    }
}
