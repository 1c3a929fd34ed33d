//! The nodes: on, off or gone, each at its place, and as candidates for the
//! placement code.

use std::collections::BTreeMap;

use echonet_protocol::{
    identity::NodeId,
    machine::{Draws, Millis},
    network::NetworkId,
    node_descriptor::Labels,
    placement::{self, Candidate, PlacementRequest, Site, Standing},
    quiet::QuietHours,
    segment::{Scheme, SegmentId},
    time::Epoch,
};

use super::churn::uniform;

/// The network that is played.
const NETWORK: NetworkId = NetworkId([0xD0; 32]);
/// Datacenters, falling in size like 1/rank.
pub(super) const DATACENTERS: u32 = 40;
/// Part of all nodes that are in one of them; the others are at home.
const IN_DATACENTERS: f64 = 0.4;
/// Regions of the world.
const REGIONS: u32 = 5;
/// Candidates that a placement sees, times n: a random sample of the membership
/// of 10,000, in which rendezvous order is as random as in the whole.
const SAMPLE_FACTOR: usize = 3;

/// A node that joined at some time.
#[derive(Debug)]
pub(super) struct Node {
    /// Answers.
    pub(super) up: bool,
    /// Left for ever, with everything it held.
    pub(super) gone: bool,
    /// Since when it has not answered, if it does not.
    pub(super) off_since: Millis,
    /// Counts its sessions, so that what was planned for an earlier one is void.
    pub(super) session: u32,
    /// Its datacenter; none at home.
    pub(super) datacenter: Option<u32>,
    region: u32,
    joined: Millis,
    /// Where it is in the list of the living.
    living_at: usize,
    /// Segments that it holds or once held a shard of.
    pub(super) segments: Vec<u32>,
}

/// All nodes that ever were.
#[derive(Debug)]
pub(super) struct Nodes {
    all: Vec<Node>,
    living: Vec<u32>,
    /// Not vetted before this age, milliseconds.
    vetting_ms: u64,
    /// Shards per node on average, to know what load is.
    mean_load: usize,
    destroyed: Option<u32>,
}

impl Nodes {
    pub(super) fn new(vetting_ms: u64, mean_load: usize) -> Self {
        Self { all: Vec::new(), living: Vec::new(), vetting_ms, mean_load, destroyed: None }
    }

    pub(super) fn get(&self, node: u32) -> &Node {
        &self.all[node as usize]
    }

    pub(super) fn get_mut(&mut self, node: u32) -> &mut Node {
        &mut self.all[node as usize]
    }

    /// A new node somewhere; `joined` may be long ago.
    pub(super) fn join(&mut self, up: bool, joined: Millis, now: Millis, draws: &mut Draws) -> u32 {
        let number = self.all.len() as u32;
        let datacenter = random_datacenter(draws).filter(|d| Some(*d) != self.destroyed);
        let region =
            datacenter.map_or_else(|| draws.below(u64::from(REGIONS)) as u32, |d| d % REGIONS);
        let living_at = self.living.len();
        self.living.push(number);
        let segments = Vec::new();
        let off_since = now;
        self.all.push(Node {
            up,
            gone: false,
            off_since,
            session: 0,
            datacenter,
            region,
            joined,
            living_at,
            segments,
        });
        number
    }

    /// A node leaves for ever.
    pub(super) fn leave(&mut self, node: u32) {
        let at = self.get(node).living_at;
        self.living.swap_remove(at);
        if let Some(&moved) = self.living.get(at) {
            self.get_mut(moved).living_at = at;
        }
        self.get_mut(node).gone = true;
    }

    /// Destroys the largest datacenter: who was in it, for the caller to end.
    pub(super) fn destroy_datacenter(&mut self) -> Vec<u32> {
        self.destroyed = Some(0);
        self.living.iter().copied().filter(|&node| self.get(node).datacenter == Some(0)).collect()
    }

    /// Places a segment with the network's own code: holders for all indices that
    /// `already` has none for. Only nodes that are on are asked.
    pub(super) fn place(
        &self,
        segment: SegmentId,
        scheme: Scheme,
        already: &BTreeMap<u8, u32>,
        exclude: &[u32],
        now: Millis,
        draws: &mut Draws,
    ) -> BTreeMap<u8, u32> {
        let mut snapshot: Vec<Candidate> =
            already.values().map(|&node| self.candidate(node, now)).collect();
        let wanted = SAMPLE_FACTOR * scheme.n();
        for _ in 0..4 * wanted {
            let node = self.living[draws.below(self.living.len() as u64) as usize];
            if self.get(node).up {
                snapshot.push(self.candidate(node, now));
            }
            if snapshot.len() == already.len() + wanted {
                break;
            }
        }
        let request = PlacementRequest {
            network: NETWORK,
            segment,
            scheme,
            development: false,
            already: already.iter().map(|(&index, &node)| (index, id(node))).collect(),
            prefer: BTreeMap::new(),
            exclude: exclude.iter().map(|&node| id(node)).collect(),
        };
        let plan = placement::place(&request, &snapshot);
        let fresh = plan.holders().iter().filter(|(index, _)| !already.contains_key(index));
        fresh.map(|(&index, node)| (index, number(*node))).collect()
    }

    fn candidate(&self, node: u32, now: Millis) -> Candidate {
        let it = self.get(node);
        let labels = Labels {
            region: format!("r{}", it.region),
            datacenter: it.datacenter.map(|d| format!("dc{d}")).unwrap_or_default(),
            rack: String::new(),
            operator: String::new(),
        };
        let mut observed_prefix = [0; 16];
        observed_prefix[..4].copy_from_slice(&node.to_be_bytes());
        let load = it.segments.len() * 500 / self.mean_load.max(1);
        let vetted = now.since(it.joined) >= self.vetting_ms;
        Candidate {
            node: id(node),
            site: Site { labels, observed_prefix },
            capacity_class: if it.datacenter.is_some() { 12 } else { 11 },
            joined: Epoch(0),
            beacon: placement_beacon(node),
            accepts: true,
            standing: if vetted { Standing::Full } else { Standing::Vetting },
            load_permille: load.min(999) as u16,
            reliability_permille: 950,
            latency_ms: 20 + 40 * it.region,
            quiet: QuietHours::default(),
        }
    }
}

fn placement_beacon(node: u32) -> [u8; 32] {
    let mut beacon = [7; 32];
    beacon[..4].copy_from_slice(&node.to_be_bytes());
    beacon
}

fn id(node: u32) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&node.to_be_bytes());
    NodeId(bytes)
}

fn number(node: NodeId) -> u32 {
    let [a, b, c, d, ..] = node.0;
    u32::from_be_bytes([a, b, c, d])
}

fn random_datacenter(draws: &mut Draws) -> Option<u32> {
    if uniform(draws) >= IN_DATACENTERS {
        return None;
    }
    let total: f64 = (1..=DATACENTERS).map(|rank| 1.0 / f64::from(rank)).sum();
    let mut left = uniform(draws) * total;
    (0..DATACENTERS).find(|d| {
        left -= 1.0 / f64::from(d + 1);
        left < 0.0
    })
}
