//! Node descriptors: what a node says about itself. Labels are self-declared,
//! so they only ever tighten what others do with it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    identity::{NodeId, ensure, record},
    list,
    network::NetworkId,
    params,
    quiet::QuietHours,
    time::Epoch,
};

/// What a node does, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Roles(pub u16);

impl Roles {
    /// Publishes, and serves its own works in full.
    pub const ORIGIN: Self = Self(1);
    /// Holds shards.
    pub const STORAGE: Self = Self(2);
    /// Holds shards for years.
    pub const ARCHIVE: Self = Self(4);
    /// Caches and serves.
    pub const EDGE: Self = Self(8);
    /// Audits.
    pub const WITNESS: Self = Self(16);
    /// Every role with its name on the command line.
    pub const ALL: [(&'static str, Self); 5] = [
        ("origin", Self::ORIGIN),
        ("storage", Self::STORAGE),
        ("archive", Self::ARCHIVE),
        ("edge", Self::EDGE),
        ("witness", Self::WITNESS),
    ];

    /// Whether all roles of `other` are among these.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The names, in a fixed order.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        Self::ALL.iter().filter(|(_, role)| self.has(*role)).map(|(name, _)| *name).collect()
    }
}

/// Where a node says it is. Empty: it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// Continent, country or the like.
    pub region: String,
    /// Building.
    pub datacenter: String,
    /// Rack in it.
    pub rack: String,
    /// Who runs it.
    pub operator: String,
}

/// What a node says about itself (SPEC.md, "Node descriptor").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeDescriptor {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// Who.
    pub node: NodeId,
    /// A later descriptor replaces an earlier one: seconds since 1970 when made,
    /// or more where that would not be later.
    pub sequence: u64,
    /// What it does.
    pub roles: Roles,
    /// Where it says it is.
    pub labels: Labels,
    /// Quantised capacity: floor(log2(quota in GiB)) + 1; 0 for less than 1 GiB.
    pub capacity_class: u8,
    /// Socket addresses, at most 8; encoded as text.
    #[serde(with = "addr_text")]
    pub addrs: Vec<SocketAddr>,
    /// Relay URLs, at most 2.
    #[serde(deserialize_with = "list::bounded::<{ params::NODE_RELAYS_MAX }, _, _>")]
    pub relays: Vec<String>,
    /// The epoch it joined in; placement hashes the beacon of the one after.
    pub joined: Epoch,
    /// Whether it signs grants for who asks.
    pub issues_grants: bool,
    /// Whether it takes new shards.
    pub accepts: bool,
    /// When it caps its bandwidth.
    pub quiet: QuietHours,
}

record!(
    NodeDescriptor,
    "node descriptor",
    params::RECORD_BYTES_MAX,
    signer: node,
    check: NodeDescriptor::check_shape
);

impl NodeDescriptor {
    fn check_shape(&self) -> Result<(), String> {
        let Labels { region, datacenter, rack, operator } = &self.labels;
        for (name, label) in
            [("region", region), ("datacenter", datacenter), ("rack", rack), ("operator", operator)]
        {
            ensure(label.len() <= params::LABEL_BYTES_MAX, || format!("{name} is too long"))?;
            ensure(!label.chars().any(char::is_control), || format!("{name} is not plain text"))?;
        }
        ensure(self.addrs.len() <= params::NODE_ADDRS_MAX, || "too many addresses".into())?;
        let unusable =
            |a: &&SocketAddr| a.port() == 0 || a.ip().is_unspecified() || a.ip().is_multicast();
        ensure(!self.addrs.iter().any(|a| unusable(&a)), || "an unusable address".into())?;
        ensure(self.relays.len() <= params::NODE_RELAYS_MAX, || "too many relays".into())?;
        ensure(self.relays.iter().all(|r| r.len() <= params::RELAY_URL_BYTES_MAX), || {
            "a relay URL is too long".into()
        })?;
        ensure(self.capacity_class <= 40, || "a capacity beyond all disks".into())
    }

    /// The class of a quota in bytes.
    #[must_use]
    pub fn class_of(quota_bytes: u64) -> u8 {
        let gib = quota_bytes >> 30;
        u8::try_from(u64::BITS - gib.leading_zeros()).unwrap_or(u8::MAX)
    }
}

/// Socket addresses as text, in the one form that Rust and RFC 5952 write.
mod addr_text {
    use std::net::SocketAddr;

    use serde::{Deserializer, Serializer, de::Error};

    use crate::{list, params};

    pub(super) fn serialize<S: Serializer>(addrs: &[SocketAddr], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(addrs.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Vec<SocketAddr>, D::Error> {
        let texts: Vec<String> = list::bounded::<{ params::NODE_ADDRS_MAX }, _, _>(d)?;
        texts.iter().map(|t| t.parse().map_err(D::Error::custom)).collect()
    }
}
