//! What placement is given and what it answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use crate::{
    identity::NodeId,
    network::NetworkId,
    node_descriptor::Labels,
    quiet::QuietHours,
    segment::{Scheme, SegmentId},
    time::Epoch,
};

/// Where a node is: by its own word, and as others see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// Its own word.
    pub labels: Labels,
    /// The /24 or /48 that it is observed in ([`observed_prefix`]).
    pub observed_prefix: [u8; 16],
}

/// The /24 (IPv4) or /48 (IPv6) of an address, as an IPv6 address with zeroes
/// behind; IPv4 is mapped into ::ffff:0:0/96.
#[must_use]
pub fn observed_prefix(ip: IpAddr) -> [u8; 16] {
    let (mut octets, keep) = match ip {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), 15),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => (v6.octets(), 15),
        IpAddr::V6(v6) => (v6.octets(), 6),
    };
    octets[keep..].fill(0);
    octets
}

/// What a node's word is worth so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Gets nothing new.
    Out,
    /// Not yet audited enough: at most two such holders a segment.
    Vetting,
    /// Without limits.
    Full,
}

/// A member of the network that may become a holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub node: NodeId,
    /// Where.
    pub site: Site,
    /// Quantised capacity ([`crate::node_descriptor::NodeDescriptor::class_of`]).
    pub capacity_class: u8,
    /// The epoch it joined in.
    pub joined: Epoch,
    /// Beacon value of the epoch after `joined` ([`super::genesis_beacon`]
    /// where no witness exists).
    pub beacon: [u8; 32],
    /// Whether it takes new shards.
    pub accepts: bool,
    /// What its word is worth.
    pub standing: Standing,
    /// Part of its capacity in use; 1000 is full.
    pub load_permille: u16,
    /// How often it was there and right, as far as the publisher knows.
    pub reliability_permille: u16,
    /// Round trip as the publisher sees it.
    pub latency_ms: u32,
    /// When it caps its bandwidth.
    pub quiet: QuietHours,
}

/// What is to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementRequest {
    /// The network.
    pub network: NetworkId,
    /// The segment.
    pub segment: SegmentId,
    /// Its scheme: n holders are wanted.
    pub scheme: Scheme,
    /// Whether the network is a development one: unvetted holders without limit.
    pub development: bool,
    /// Holders that stay (resume, repair): they keep their index and count for
    /// every rule.
    pub already: BTreeMap<u8, NodeId>,
    /// Nodes that may have a shard already, and which: chosen first, for that
    /// index.
    pub prefer: BTreeMap<NodeId, u8>,
    /// Nodes that must not be chosen.
    pub exclude: BTreeSet<NodeId>,
}

/// A soft rule that a placement breaks because the network forces it to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum BrokenRule {
    /// More than m holders in one datacenter: losing it may lose the segment.
    DatacenterOverParity {
        /// Its label, or the observed prefix in hex.
        datacenter: String,
        /// Holders in it.
        count: usize,
        /// m.
        limit: usize,
    },
    /// More than two holders of one operator, or in one observed prefix.
    Operator {
        /// Its label, or the observed prefix in hex.
        operator: String,
        /// Holders.
        count: usize,
    },
    /// Fewer than three datacenters.
    FewDatacenters {
        /// How many.
        count: usize,
    },
    /// More than m-2 (at least 1), but not more than m, holders in one datacenter.
    Datacenter {
        /// Its label, or the observed prefix in hex.
        datacenter: String,
        /// Holders in it.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// More than m-3 (at least 1) holders quiet at once.
    Quiet {
        /// Hours of the week in which it is so.
        hours: usize,
        /// Holders quiet at once, in the worst of them.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// More than two unvetted holders.
    Unvetted {
        /// How many.
        count: usize,
    },
    /// Fewer than two regions.
    FewRegions {
        /// How many.
        count: usize,
    },
    /// More than one holder in one rack.
    Rack {
        /// Datacenter and rack.
        rack: String,
        /// Holders in it.
        count: usize,
    },
}

impl fmt::Display for BrokenRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DatacenterOverParity { datacenter, count, limit } => write!(
                f,
                "{count} holders in datacenter {datacenter}, more than the {limit} that may be lost"
            ),
            Self::Operator { operator, count } => {
                write!(f, "{count} holders of operator {operator}, more than 2")
            }
            Self::FewDatacenters { count } => write!(f, "only {count} datacenters of 3"),
            Self::Datacenter { datacenter, count, limit } => {
                write!(f, "{count} holders in datacenter {datacenter}, more than {limit}")
            }
            Self::Quiet { hours, count, limit } => write!(
                f,
                "up to {count} holders have quiet hours at once, more than {limit}, \
                 in {hours} hours of the week"
            ),
            Self::Unvetted { count } => write!(f, "{count} unvetted holders, more than 2"),
            Self::FewRegions { count } => write!(f, "only {count} regions of 2"),
            Self::Rack { rack, count } => write!(f, "{count} holders in rack {rack}, more than 1"),
        }
    }
}
