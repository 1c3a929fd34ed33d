//! A network's constitution: its genesis, its NetworkID, and how to be pointed
//! to it.
//!
//! The genesis never changes; its hash is in every signed record, every hello
//! and every record key.

use std::{net::SocketAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    bytes::{BeaconKey, fixed_bytes},
    codec::{self, DecodeError},
    identity::{NodeId, ensure},
    params,
    time::{Epoch, UnixSeconds},
};

fixed_bytes! {
    /// BLAKE3 hash of the genesis file's bytes.
    NetworkId, 32
}

/// How fast the network suspects, waits and repairs (design 8). Seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Between two probes of a member.
    pub probe_s: u64,
    /// Unreachable for this long: suspected, then a hint to probe directly.
    pub suspect_s: u64,
    /// Unreachable for this long: its shards count as lost.
    pub grace_s: u64,
    /// Delay before an urgent repair.
    pub urgent_s: u64,
    /// A segment below n is topped up within this time.
    pub top_up_s: u64,
}

impl Timing {
    /// What networks that are meant to last use.
    ///
    /// A probe every 2 s and a suspicion of 6 s have 300 nodes agree on a death
    /// within half a minute, for one question a period and node. Moving shards
    /// costs far more than asking, and most absences are short (restarts,
    /// updates, a night): so a day passes before a shard counts as lost, and a
    /// quarter of an hour before a segment that is nearly lost is repaired. What
    /// is merely below n may wait a week, in which most holders come back.
    pub const PRODUCTION: Self =
        Self { probe_s: 2, suspect_s: 6, grace_s: 86_400, urgent_s: 900, top_up_s: 604_800 };
    /// What development networks use, so that everything can be watched in a
    /// minute: a death is agreed on within the grace, three failed probes fit
    /// into probe and suspicion, and several into the urgent delay.
    pub const DEVELOPMENT: Self =
        Self { probe_s: 1, suspect_s: 2, grace_s: 10, urgent_s: 5, top_up_s: 20 };

    /// Whether each period fits into the next longer one, and none is absurd.
    fn check(&self) -> Result<(), String> {
        let Self { probe_s, suspect_s, grace_s, urgent_s, top_up_s } = *self;
        let all = [probe_s, suspect_s, grace_s, urgent_s, top_up_s];
        ensure(all.iter().all(|s| (1..=params::TIMING_S_MAX).contains(s)), || {
            format!("a timing not in 1..={} seconds", params::TIMING_S_MAX)
        })?;
        ensure(probe_s <= suspect_s, || "suspect_s is shorter than probe_s".into())?;
        ensure(suspect_s <= grace_s, || "grace_s is shorter than suspect_s".into())?;
        ensure(urgent_s <= grace_s, || "urgent_s is longer than grace_s".into())
    }
}

/// Chain hash of drand's quicknet, the one drand chain that is known here.
pub const QUICKNET_CHAIN: &str = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971";

/// Parameters of the witnesses (SPEC_WITNESS.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessParams {
    /// The first witness set, ascending; later sets are signed by a quorum of the one before.
    pub set: Vec<NodeId>,
    /// Most members of an audit committee, at least 1.
    pub committee_max: u8,
    /// drand chain hash, hex: [`QUICKNET_CHAIN`]; empty: the witness set's own threshold beacon.
    pub drand_chain: String,
    /// Public key of the beacon, 96 bytes; empty: there is no beacon, and so are no audits.
    #[serde(with = "serde_bytes")]
    pub beacon_key: Vec<u8>,
    /// Public keys of the shares of a threshold beacon's key, in the order of `set`; empty where
    /// the beacon is drand's or there is none.
    pub beacon_shares: Vec<BeaconKey>,
    /// How many of 10,000 segments are due in an epoch, 1..=10000.
    pub audit_permyriad: u16,
}

impl WitnessParams {
    /// No witnesses and no audits; the other numbers are those of production.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            set: Vec::new(),
            committee_max: 13,
            drand_chain: String::new(),
            beacon_key: Vec::new(),
            beacon_shares: Vec::new(),
            audit_permyriad: 100,
        }
    }

    fn check(&self) -> Result<(), String> {
        ensure(self.set.len() <= params::WITNESSES_MAX, || {
            format!("{} witnesses, at most {}", self.set.len(), params::WITNESSES_MAX)
        })?;
        ensure(self.set.windows(2).all(|p| p[0] < p[1]), || {
            "witnesses not in ascending order, each once".into()
        })?;
        ensure(self.committee_max >= 1, || "committee_max is 0".into())?;
        ensure((1..=10_000).contains(&self.audit_permyriad), || {
            format!("audit_permyriad {} not in 1..=10000", self.audit_permyriad)
        })?;
        let (has_key, has_drand) = (!self.beacon_key.is_empty(), !self.drand_chain.is_empty());
        ensure(!has_key || self.beacon_key.len() == BeaconKey::LEN, || {
            format!("beacon_key of {} bytes, not {}", self.beacon_key.len(), BeaconKey::LEN)
        })?;
        ensure(!has_drand || self.drand_chain == QUICKNET_CHAIN, || {
            format!("a drand_chain other than quicknet's, {QUICKNET_CHAIN}")
        })?;
        ensure(has_key || !has_drand, || "a drand_chain without its beacon_key".into())?;
        ensure(!has_key || !self.set.is_empty(), || "a beacon_key without witnesses".into())?;
        let shares = if has_key && !has_drand { self.set.len() } else { 0 };
        ensure(self.beacon_shares.len() == shares, || {
            format!("{} beacon_shares where {shares} belong", self.beacon_shares.len())
        })
    }
}

/// A network's parameters (SPEC.md, "Genesis").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Format version.
    pub v: u8,
    /// For people; no uniqueness is promised.
    pub name: String,
    /// Start of epoch 0.
    pub created: UnixSeconds,
    /// Makes networks of equal parameters distinct.
    #[serde(with = "serde_bytes")]
    pub salt: Vec<u8>,
    /// Whether the rules for development networks hold: an issuer grants any
    /// key that asks, unvetted holders are not limited.
    pub development: bool,
    /// Length of an epoch, seconds.
    pub epoch_s: u64,
    /// Most bytes of a segment.
    pub segment_bytes: u32,
    /// Length of a volume, bytes.
    pub volume_bytes: u64,
    /// Epochs that an unsealed shard is kept.
    pub unsealed_epochs: u64,
    /// Epochs between the last lease's end and collection.
    pub collect_grace_epochs: u64,
    /// Most epochs of a lease.
    pub lease_epochs_max: u64,
    /// Most epochs of a lease on the free pool.
    pub free_lease_epochs_max: u64,
    /// Who may sign grants.
    pub issuers: Vec<NodeId>,
    /// Failure detection and repair.
    pub timing: Timing,
    /// Audits.
    pub witness: WitnessParams,
}

impl Genesis {
    /// Deterministic bytes: the genesis file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The network's name.
    #[must_use]
    pub fn network_id(&self) -> NetworkId {
        NetworkId(*blake3::hash(&self.encode()).as_bytes())
    }

    /// Reads a genesis file.
    ///
    /// # Errors
    /// [`DecodeError`] when malformed or when a parameter is out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const KIND: &str = "genesis";
        let genesis: Self = codec::decode(KIND, bytes, params::GENESIS_BYTES_MAX)?;
        let malformed = |reason| DecodeError::Malformed { kind: KIND, reason };
        genesis.check().map_err(malformed)?;
        Ok(genesis)
    }

    fn check(&self) -> Result<(), String> {
        ensure(self.v == params::FORMAT_VERSION, || format!("version {} unknown", self.v))?;
        ensure(self.name.len() <= params::LABEL_BYTES_MAX, || "name too long".into())?;
        ensure(self.salt.len() == 16, || "salt is not 16 bytes".into())?;
        ensure((1..=86_400).contains(&self.epoch_s), || "epoch_s not in 1..=86400".into())?;
        let segment = self.segment_bytes as usize;
        ensure((4096..=params::SEGMENT_BYTES_MAX).contains(&segment), || {
            format!("segment_bytes {segment} not in 4096..={}", params::SEGMENT_BYTES_MAX)
        })?;
        let least = self.volume_bytes_min();
        ensure(self.volume_bytes >= least, || {
            format!("volume_bytes {} under {least}", self.volume_bytes)
        })?;
        ensure(self.volume_bytes <= 1 << 32, || "volume_bytes over 4 GiB".into())?;
        ensure(self.unsealed_epochs >= 1, || "unsealed_epochs is 0".into())?;
        ensure(self.lease_epochs_max >= 1, || "lease_epochs_max is 0".into())?;
        ensure(self.issuers.len() <= 64, || "too many issuers".into())?;
        self.timing.check()?;
        self.witness.check()
    }

    /// The longest shard of this network, bytes: a copy of a whole segment, or of a manifest page.
    #[must_use]
    pub fn shard_bytes_max(&self) -> u32 {
        const PAGE: u32 = params::MANIFEST_PAGE_BYTES_MAX as u32;
        const MOST: u32 = params::SHARD_BYTES_MAX as u32;
        self.segment_bytes.clamp(PAGE, MOST)
    }

    /// The shortest volume, bytes: two segments, and four of the longest shards with what a holder
    /// writes around them.
    #[must_use]
    pub fn volume_bytes_min(&self) -> u64 {
        let shards = 4 * u64::from(self.shard_bytes_max()) + params::VOLUME_HEADS_BYTES;
        shards.max(2 * u64::from(self.segment_bytes))
    }

    /// The epoch at a time; epoch 0 before the start.
    #[must_use]
    pub fn epoch_at(&self, now: UnixSeconds) -> Epoch {
        Epoch(now.0.saturating_sub(self.created.0) / self.epoch_s)
    }

    /// When an epoch begins.
    #[must_use]
    pub fn epoch_start(&self, epoch: Epoch) -> UnixSeconds {
        UnixSeconds(self.created.0.saturating_add(epoch.0.saturating_mul(self.epoch_s)))
    }
}

/// Where to enter a network: `<NetworkID>.<NodeID>@<ip>:<port>`, hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootstrapAddr {
    /// The network; whoever answers must prove to be in it.
    pub network: NetworkId,
    /// Who answers there.
    pub node: NodeId,
    /// Where.
    pub addr: SocketAddr,
}

/// Text that is not a bootstrap address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a bootstrap address: it looks like <64 hex>.<64 hex>@127.0.0.1:4700")]
pub struct ParseBootstrapError(String);

impl std::fmt::Display for BootstrapAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}@{}", self.network, self.node, self.addr)
    }
}

impl FromStr for BootstrapAddr {
    type Err = ParseBootstrapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (network, rest) = text.split_once('.')?;
            let (node, addr) = rest.split_once('@')?;
            Some(Self {
                network: network.parse().ok()?,
                node: node.parse().ok()?,
                addr: addr.parse().ok()?,
            })
        };
        parse().ok_or_else(|| ParseBootstrapError(text.chars().take(200).collect()))
    }
}

impl Serialize for BootstrapAddr {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BootstrapAddr {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}
