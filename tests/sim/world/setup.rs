//! What a world begins with: who there is and where, what is kept, by whom, and
//! the first record of each placement. Drawn from the seed, then never changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use echonet_archive::keeper::{KeeperConfig, Key, Placed};
use echonet_protocol::{
    bytes::{Nonce, ShardHash},
    identity::{Identity, NodeId, Signed},
    lease::{Lease, Receipt},
    machine::Draws,
    network::{NetworkId, Timing},
    node_descriptor::Labels,
    params,
    placement::{Candidate, PlacementRequest, Site, Standing, place},
    placement_record::{FirstPlacement, PlacementRecord},
    quiet::QuietHours,
    segment::{Scheme, SegmentDescriptor, SegmentId},
    time::Epoch,
};

/// The epoch in which everything happens.
pub(super) const EPOCH: Epoch = Epoch(10);
/// The first epoch after all leases.
const LEASED_UNTIL: Epoch = Epoch(1_000);

/// A segment of some work.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) descriptor: SegmentDescriptor,
    pub(super) scheme: Scheme,
    pub(super) shard_bytes: u32,
}

/// One owner's placement of a segment.
#[derive(Debug)]
pub(super) struct Placement {
    pub(super) key: Key,
    pub(super) segment: usize,
    owner: Identity,
    lease: Signed<Lease>,
}

/// A version of a placement.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) placement: usize,
    pub(super) version: u64,
    /// Grows with every record that takes another's place.
    pub(super) sequence: u64,
    /// Who holds which shard, by ascending index.
    pub(super) holders: Vec<(u8, usize)>,
    /// The record itself, where the agreement's own machines run; it was verified where it was
    /// made, and nobody in these worlds forges one.
    pub(super) proof: Option<Box<PlacementRecord>>,
}

impl Record {
    pub(super) fn index_of(&self, node: usize) -> Option<u8> {
        self.holders.iter().find(|(_, holder)| *holder == node).map(|(index, _)| *index)
    }

    /// Whether this takes the other's place.
    pub(super) fn wins_over(&self, other: &Self) -> bool {
        match (&self.proof, &other.proof) {
            (Some(own), Some(others)) => own.wins_over(others),
            _ => self.sequence > other.sequence,
        }
    }

    /// Whether both say the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.placement, self.version, &self.holders)
            == (other.placement, other.version, &other.holders)
            && self.proof.as_ref().map(|p| p.hash()) == other.proof.as_ref().map(|p| p.hash())
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
    /// Whether holders agree by the agreement's own machines, which sign and verify; else a
    /// model stands for them.
    pub(super) has_voters: bool,
    /// Whether nodes probe each other by the prober; else a model stands for it.
    pub(super) has_probers: bool,
}

/// What all nodes of a world share.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) network: NetworkId,
    pub(super) timing: Timing,
    pub(super) keeper: KeeperConfig,
    pub(super) has_voters: bool,
    pub(super) has_probers: bool,
    pub(super) identities: Vec<Identity>,
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
        let identities: Vec<Identity> =
            (0..all).map(|_| Identity::from_secret(&bytes(&mut draws))).collect();
        let ids: Vec<NodeId> = identities.iter().map(Identity::node_id).collect();
        let centers = 1 + draws.below(8);
        let datacenters: Vec<u64> = (0..all).map(|_| draws.below(centers)).collect();
        let sites = datacenters.iter().enumerate().map(|(n, center)| site(n, *center));
        let candidates = ids.iter().zip(sites).map(|(id, site)| candidate(*id, site, &mut draws));
        let candidates: Vec<Candidate> = candidates.collect();
        let mut setup = Self {
            network: NetworkId(bytes(&mut draws)),
            keeper: KeeperConfig::of(&timing),
            timing,
            has_voters: size.has_voters,
            has_probers: size.has_probers,
            identities,
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
        let scheme = self.scheme(nodes, draws);
        let shard_bytes = if scheme.k == 1 { 16 << 10 } else { 1 << 20 };
        let copy = ShardHash(bytes(draws));
        let hash = |_| if scheme.k == 1 { copy } else { ShardHash(bytes(draws)) };
        let shards = (0..scheme.n()).map(hash).collect();
        let (v, length) = (params::FORMAT_VERSION, shard_bytes * u32::from(scheme.k));
        let descriptor = SegmentDescriptor { v, scheme, length, shards };
        let (segment, id) = (self.segments.len(), descriptor.segment_id());
        self.segments.push(Segment { id, descriptor, scheme, shard_bytes });
        self.by_segment.insert(id, segment);
        self.of_segment.push(Vec::new());
        let owners = if draws.below(8) == 0 { 2 } else { 1 };
        for _ in 0..owners {
            self.add_placement(segment, nodes, draws);
        }
    }

    /// Signatures take their time: where they are real, most segments have few holders.
    fn scheme(&self, nodes: usize, draws: &mut Draws) -> Scheme {
        let middle = Scheme { k: 4, m: 3, ..Scheme::DEFAULT };
        match (self.has_voters, draws.below(10)) {
            (true, 0) | (false, 3..) => Scheme::DEFAULT,
            (true, 1..=3) | (false, 0) => Scheme::SMALL,
            (false, 1) if nodes >= 30 => Scheme { k: 10, m: 14, ..Scheme::DEFAULT },
            _ => middle,
        }
    }

    fn add_placement(&mut self, segment: usize, nodes: usize, draws: &mut Draws) {
        let owner = Identity::from_secret(&bytes(draws));
        let id = self.segments[segment].id;
        let key = Key { segment: id, owner: owner.node_id() };
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&draws.next_u64().to_be_bytes());
        let lease = Lease {
            v: params::FORMAT_VERSION,
            network: self.network,
            segment: id,
            owner: key.owner,
            from: Epoch(1),
            until: LEASED_UNTIL,
            grant: None,
            nonce: Nonce(nonce),
            standing: false,
        };
        let placement = self.placements.len();
        let lease = Signed::new(&owner, lease);
        self.placements.push(Placement { key, segment, owner, lease });
        self.by_key.insert(key, placement);
        self.of_segment[segment].push(placement);
        let first = self.first_record(placement, nodes, draws);
        self.first.push(Rc::new(first));
    }

    /// A holder's word that a shard is durable with it.
    pub(super) fn receipt(
        &self,
        placement: usize,
        index: u8,
        holder: usize,
        placement_version: u64,
    ) -> Signed<Receipt> {
        let Placement { lease, segment, .. } = &self.placements[placement];
        let Segment { id, descriptor, shard_bytes, .. } = &self.segments[*segment];
        let body = Receipt {
            v: params::FORMAT_VERSION,
            network: self.network,
            lease: lease.hash(),
            segment: *id,
            index,
            shard: descriptor.shards[usize::from(index)],
            length: *shard_bytes,
            holder: self.ids[holder],
            from: lease.body.from,
            until: lease.body.until,
            placement_version,
        };
        Signed::new(&self.identities[holder], body)
    }

    /// What the agreement's machines made, by the numbers of this world.
    pub(super) fn record_of(&self, proof: PlacementRecord) -> Option<Record> {
        let key = Key { segment: proof.body.segment, owner: proof.body.owner };
        let number = |(index, id): &(u8, NodeId)| Some((*index, *self.numbers.get(id)?));
        let holders: Option<Vec<(u8, usize)>> = proof.body.holders.iter().map(number).collect();
        Some(Record {
            placement: *self.by_key.get(&key)?,
            version: proof.body.version,
            sequence: proof.sequence(),
            holders: holders?,
            proof: Some(Box::new(proof)),
        })
    }

    /// Where the publisher put it: now and then on no more than the write quorum.
    fn first_record(&self, placement: usize, nodes: usize, draws: &mut Draws) -> Record {
        let Segment { id, scheme, .. } = *self.segment_of(placement);
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
        if !self.has_voters {
            return Record { placement, version: 1, sequence: 1, holders, proof: None };
        }
        let Placement { owner, lease, segment, .. } = &self.placements[placement];
        let receipts = holders.iter().map(|(i, n)| self.receipt(placement, *i, *n, 1)).collect();
        let descriptor = self.segments[*segment].descriptor.clone();
        let first = FirstPlacement { descriptor, lease: lease.clone(), grant: None, receipts };
        let proof = Box::new(PlacementRecord::first(owner, first));
        let sequence = proof.sequence();
        Record { placement, version: 1, sequence, holders, proof: Some(proof) }
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
            sequence: record.sequence,
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
        quiet: QuietHours::NONE,
    }
}
