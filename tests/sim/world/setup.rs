//! What a world begins with: who there is and where, what is kept, by whom, and
//! the first record of each placement. Drawn from the seed, then never changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use echonet_archive::keeper::{KeeperConfig, Key, Placed};
use echonet_protocol::{
    identity::NodeId,
    machine::Draws,
    network::{NetworkId, Timing},
    node_descriptor::Labels,
    placement::{Candidate, PlacementRequest, Site, Standing, place},
    quiet::QuietHours,
    segment::{Scheme, SegmentId},
    time::Epoch,
};

/// A segment of some work.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) scheme: Scheme,
    pub(super) shard_bytes: u32,
}

/// One owner's placement of a segment.
#[derive(Debug)]
pub(super) struct Placement {
    pub(super) key: Key,
    pub(super) segment: usize,
}

/// A version of a placement.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) placement: usize,
    pub(super) version: u64,
    /// Who holds which shard, by ascending index.
    pub(super) holders: Vec<(u8, usize)>,
}

impl Record {
    pub(super) fn index_of(&self, node: usize) -> Option<u8> {
        self.holders.iter().find(|(_, holder)| *holder == node).map(|(index, _)| *index)
    }

    pub(super) fn names(&self, node: usize) -> bool {
        self.index_of(node).is_some()
    }
}

/// How large a world is.
#[derive(Debug, Clone)]
pub(super) struct Size {
    /// Nodes at the beginning.
    pub(super) nodes: usize,
    /// Nodes that may join later.
    pub(super) joiners: usize,
    /// Segments.
    pub(super) segments: usize,
}

/// What all nodes of a world share.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) network: NetworkId,
    pub(super) timing: Timing,
    pub(super) keeper: KeeperConfig,
    pub(super) ids: Vec<NodeId>,
    pub(super) numbers: BTreeMap<NodeId, usize>,
    pub(super) candidates: Vec<Candidate>,
    /// A number for each datacenter.
    pub(super) datacenters: Vec<u64>,
    pub(super) quota_bytes: Vec<u64>,
    pub(super) segments: Vec<Segment>,
    pub(super) by_segment: BTreeMap<SegmentId, usize>,
    pub(super) placements: Vec<Placement>,
    pub(super) by_key: BTreeMap<Key, usize>,
    /// Placements of each segment.
    pub(super) of_segment: Vec<Vec<usize>>,
    /// Version 1 of each placement.
    pub(super) first: Vec<Rc<Record>>,
}

impl Setup {
    pub(super) fn new(seed: u64, size: &Size, timing: Timing) -> Self {
        let mut draws = Draws::new(seed);
        let all = size.nodes + size.joiners;
        let ids: Vec<NodeId> = (0..all).map(|_| NodeId(bytes(&mut draws))).collect();
        let centers = 1 + draws.below(8);
        let datacenters: Vec<u64> = (0..all).map(|_| draws.below(centers)).collect();
        let sites = datacenters.iter().enumerate().map(|(n, center)| site(n, *center));
        let candidates = ids.iter().zip(sites).map(|(id, site)| candidate(*id, site, &mut draws));
        let candidates: Vec<Candidate> = candidates.collect();
        let mut setup = Self {
            network: NetworkId(bytes(&mut draws)),
            keeper: KeeperConfig::of(&timing),
            timing,
            numbers: ids.iter().copied().zip(0..).collect(),
            ids,
            candidates,
            datacenters,
            quota_bytes: Vec::new(),
            segments: Vec::new(),
            by_segment: BTreeMap::new(),
            placements: Vec::new(),
            by_key: BTreeMap::new(),
            of_segment: Vec::new(),
            first: Vec::new(),
        };
        (0..size.segments).for_each(|_| setup.add_segment(size.nodes, &mut draws));
        setup.set_quotas(size, &mut draws);
        setup
    }

    fn add_segment(&mut self, nodes: usize, draws: &mut Draws) {
        let scheme = match draws.below(10) {
            0 | 1 => Scheme::SMALL,
            2 => Scheme { k: 4, m: 3, ..Scheme::DEFAULT },
            3 if nodes >= 30 => Scheme { k: 10, m: 14, ..Scheme::DEFAULT },
            _ => Scheme::DEFAULT,
        };
        let shard_bytes = if scheme.k == 1 { 16 << 10 } else { 1 << 20 };
        let (segment, id) = (self.segments.len(), SegmentId(bytes(draws)));
        self.segments.push(Segment { id, scheme, shard_bytes });
        self.by_segment.insert(id, segment);
        self.of_segment.push(Vec::new());
        let owners = if draws.below(8) == 0 { 2 } else { 1 };
        for _ in 0..owners {
            let key = Key { segment: id, owner: NodeId(bytes(draws)) };
            let placement = self.placements.len();
            self.placements.push(Placement { key, segment });
            self.by_key.insert(key, placement);
            self.of_segment[segment].push(placement);
            let first = self.first_record(placement, nodes, draws);
            self.first.push(Rc::new(first));
        }
    }

    /// Where the publisher put it: now and then on no more than the write quorum.
    fn first_record(&self, placement: usize, nodes: usize, draws: &mut Draws) -> Record {
        let Segment { id, scheme, .. } = self.segments[self.placements[placement].segment];
        let request = PlacementRequest {
            network: self.network,
            segment: id,
            scheme,
            development: true,
            already: BTreeMap::new(),
            prefer: BTreeMap::new(),
            exclude: BTreeSet::new(),
        };
        let plan = place(&request, &self.candidates[..nodes]);
        let mut holders: Vec<(u8, usize)> =
            plan.holders().iter().map(|(index, id)| (*index, self.numbers[id])).collect();
        if draws.below(5) == 0 {
            let away = holders.len().saturating_sub(scheme.write_quorum()) as u64;
            for _ in 0..draws.below(away + 1) {
                let at = draws.below(holders.len() as u64) as usize;
                holders.remove(at);
            }
        }
        Record { placement, version: 1, holders }
    }

    /// Room for what each holds, and for about half as much again.
    fn set_quotas(&mut self, size: &Size, draws: &mut Draws) {
        let mut used = vec![0_u64; self.ids.len()];
        for record in &self.first {
            let shard_bytes = self.segments[self.placements[record.placement].segment].shard_bytes;
            record.holders.iter().for_each(|(_, n)| used[*n] += u64::from(shard_bytes));
        }
        let average = used.iter().sum::<u64>() / size.nodes.max(1) as u64;
        let quota = |used| used + average / 2 + draws.below(average + 1) + (4 << 20);
        self.quota_bytes = used.into_iter().map(quota).collect();
    }

    pub(super) fn segment_of(&self, placement: usize) -> &Segment {
        &self.segments[self.placements[placement].segment]
    }

    /// What a keeper is told of a record.
    pub(super) fn placed(&self, record: &Record) -> Placed {
        let Segment { scheme, shard_bytes, .. } = *self.segment_of(record.placement);
        Placed {
            key: self.placements[record.placement].key,
            version: record.version,
            sequence: record.version,
            scheme,
            shard_bytes,
            holders: record.holders.iter().map(|(i, n)| (*i, self.ids[*n])).collect(),
        }
    }
}

pub(super) fn bytes(draws: &mut Draws) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.chunks_mut(8).for_each(|c| c.copy_from_slice(&draws.next_u64().to_be_bytes()));
    bytes
}

fn site(number: usize, datacenter: u64) -> Site {
    let mut observed_prefix = [0; 16];
    observed_prefix[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    let labels = Labels {
        datacenter: format!("dc{datacenter}"),
        region: format!("r{}", datacenter % 3),
        rack: format!("rack{number}"),
        operator: format!("op{number}"),
    };
    Site { labels, observed_prefix }
}

fn candidate(node: NodeId, site: Site, draws: &mut Draws) -> Candidate {
    Candidate {
        node,
        site,
        capacity_class: 4 + draws.below(3) as u8,
        joined: Epoch(0),
        beacon: [7; 32],
        accepts: true,
        standing: Standing::Full,
        load_permille: draws.below(500) as u16,
        reliability_permille: 900 + draws.below(100) as u16,
        latency_ms: 5 + draws.below(60) as u32,
        quiet: QuietHours::default(),
    }
}
