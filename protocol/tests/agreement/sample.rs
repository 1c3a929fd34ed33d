//! A placement of k+m shards, its holders, and nodes that may take their place.

use std::{collections::BTreeSet, sync::LazyLock};

use echonet_protocol::{
    agreement::{Answer, Ask, Change},
    agreement::{Asked, Facts, Voter, VoterConfig, VoterOutput},
    bytes::{Nonce, ShardHash},
    identity::{Identity, NodeId, Signed},
    lease::{Lease, Receipt},
    machine::Millis,
    network::NetworkId,
    node_descriptor::Labels,
    placement::Site,
    placement_record::{FirstPlacement, PlacementRecord},
    segment::{Scheme, SegmentDescriptor, SegmentId},
    time::Epoch,
};

pub(crate) const NETWORK: NetworkId = NetworkId([3; 32]);

static NODES: LazyLock<Vec<(Identity, NodeId)>> = LazyLock::new(|| {
    let nodes = (0..=254).map(|n| Identity::from_secret(&[n; 32]));
    nodes.map(|identity| (identity.clone(), identity.node_id())).collect()
});

/// The node of a number, from 1.
pub(crate) fn node(n: u8) -> Identity {
    NODES[usize::from(n)].0.clone()
}

pub(crate) fn id(n: u8) -> NodeId {
    NODES[usize::from(n)].1
}

/// The number of a node.
pub(crate) fn number(node: &NodeId) -> u8 {
    u8::try_from(NODES.iter().position(|(_, id)| id == node).unwrap()).unwrap()
}

fn owner() -> Identity {
    Identity::from_secret(&[255; 32])
}

/// One placed segment: shard i is at node i+1.
pub(crate) struct Placed {
    pub(crate) descriptor: SegmentDescriptor,
    pub(crate) lease: Signed<Lease>,
    pub(crate) first: PlacementRecord,
}

impl Placed {
    pub(crate) fn new(k: u8, m: u8) -> Self {
        let scheme = Scheme::new(k, m).unwrap();
        let shards = (0..k + m).map(|i| ShardHash([if k == 1 { 0 } else { i }; 32])).collect();
        let descriptor = SegmentDescriptor { v: 1, scheme, length: 5000, shards };
        let body = Lease {
            v: 1,
            network: NETWORK,
            segment: descriptor.segment_id(),
            owner: owner().node_id(),
            from: Epoch(1),
            until: Epoch(1000),
            grant: None,
            nonce: Nonce([k; 16]),
            standing: false,
        };
        let lease = Signed::new(&owner(), body);
        let receipts =
            (0..k + m).map(|i| receipt(&descriptor, &lease, (i, &node(i + 1)), 1)).collect();
        let first = FirstPlacement {
            descriptor: descriptor.clone(),
            lease: lease.clone(),
            grant: None,
            receipts,
        };
        let first = PlacementRecord::first(&owner(), first);
        first.verify(&NETWORK).unwrap();
        Self { descriptor, lease, first }
    }

    /// The receipts of the next version when shards move to other nodes.
    pub(crate) fn moved(
        &self,
        record: &PlacementRecord,
        moves: &[(u8, u8)],
    ) -> Vec<Signed<Receipt>> {
        let mut receipts = record.receipts.clone();
        for (index, to) in moves {
            let version = record.body.version + 1;
            let fresh = receipt(&self.descriptor, &self.lease, (*index, &node(*to)), version);
            match receipts.iter().position(|r| r.body.index == *index) {
                Some(at) => receipts[at] = fresh,
                None => receipts.push(fresh),
            }
        }
        receipts.sort_by_key(|r| r.body.index);
        receipts
    }

    /// The change when shards move to other nodes.
    pub(crate) fn change(&self, record: &PlacementRecord, moves: &[(u8, u8)]) -> Change {
        Change::to(record, &self.moved(record, moves))
    }
}

fn receipt(
    descriptor: &SegmentDescriptor,
    lease: &Signed<Lease>,
    (index, holder): (u8, &Identity),
    placement_version: u64,
) -> Signed<Receipt> {
    let body = Receipt {
        v: 1,
        network: NETWORK,
        lease: lease.hash(),
        segment: descriptor.segment_id(),
        index,
        shard: descriptor.shards[usize::from(index)],
        length: u32::try_from(descriptor.shard_len()).unwrap(),
        holder: holder.node_id(),
        from: lease.body.from,
        until: lease.body.until,
        placement_version,
    };
    Signed::new(holder, body)
}

/// What a node knows in a test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) epoch: u64,
    pub(crate) unreachable: BTreeSet<NodeId>,
    pub(crate) lost: BTreeSet<NodeId>,
    pub(crate) is_urgent: bool,
    /// Holders that said themselves that they go by another record.
    pub(crate) gone_over: BTreeSet<NodeId>,
    /// Nodes in the datacenter `one`.
    pub(crate) in_one: BTreeSet<NodeId>,
}

impl Known {
    pub(crate) fn lost(lost: impl IntoIterator<Item = u8>) -> Self {
        Self { lost: lost.into_iter().map(id).collect(), ..Self::default() }
    }

    pub(crate) fn unreachable(mut self, unreachable: impl IntoIterator<Item = u8>) -> Self {
        self.unreachable.extend(unreachable.into_iter().map(id));
        self
    }
}

impl Facts for Known {
    fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    fn is_reachable(&self, node: &NodeId) -> bool {
        !self.unreachable.contains(node)
    }

    fn is_lost(&self, _segment: &SegmentId, _index: u8, holder: &NodeId) -> bool {
        self.lost.contains(holder)
    }

    fn is_urgent(&self, _record: &PlacementRecord) -> bool {
        self.is_urgent
    }

    fn has_gone_over(&self, _record: &PlacementRecord, holder: &NodeId) -> bool {
        self.gone_over.contains(holder)
    }

    fn site(&self, node: &NodeId) -> Option<Site> {
        let datacenter = if self.in_one.contains(node) { "one".to_owned() } else { node.to_hex() };
        Some(Site { labels: Labels { datacenter, ..Labels::default() }, observed_prefix: [0; 16] })
    }
}

/// A voter without a disk of its own: every row is durable at once.
pub(crate) struct Sure {
    pub(crate) voter: Voter,
    pub(crate) own: Identity,
    pub(crate) record: Option<PlacementRecord>,
    pub(crate) facts: Known,
    pub(crate) rows: std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
    ticket: u64,
}

impl Sure {
    pub(crate) fn new(n: u8, record: Option<&PlacementRecord>, facts: Known) -> Self {
        Self::with(n, record, facts, VoterConfig::default())
    }

    pub(crate) fn with(
        n: u8,
        record: Option<&PlacementRecord>,
        facts: Known,
        config: VoterConfig,
    ) -> Self {
        let own = node(n);
        let voter = Voter::new(own.clone(), NETWORK, config, []).unwrap();
        let rows = std::collections::BTreeMap::new();
        Self { voter, own, record: record.cloned(), facts, rows, ticket: 0 }
    }

    /// The same node after a restart: it has its rows and its record.
    pub(crate) fn restarted(self) -> Self {
        let (own, config) = (self.own.clone(), VoterConfig::default());
        let voter = Voter::new(own, NETWORK, config, self.rows.clone()).unwrap();
        Self { voter, ..self }
    }

    pub(crate) fn ask(&mut self, now_ms: u64, from: u8, ask: Ask) -> Answer {
        self.ticket += 1;
        let asked = Asked { ticket: self.ticket, from: id(from), ask };
        self.voter.ask(Millis(now_ms), asked, self.record.as_ref(), &self.facts);
        self.drain().expect("every question is answered")
    }

    /// Carries out what the voter wants; the last answer.
    pub(crate) fn drain(&mut self) -> Option<Answer> {
        let mut last = None;
        while let Some(output) = self.voter.poll() {
            match output {
                VoterOutput::Persist { ticket, key, row, adopt } => {
                    self.record = adopt.map(|record| *record).or(self.record.take());
                    self.rows.insert(key.to_vec(), row);
                    self.voter.persisted(ticket);
                }
                VoterOutput::Forget { key } => drop(self.rows.remove(&key[..])),
                VoterOutput::Answer { answer, .. } => last = Some(*answer),
            }
        }
        last
    }
}

/// The question that opens a ballot.
pub(crate) fn ask_promise(record: &PlacementRecord, ballot: u64, lost: &[u8]) -> Ask {
    Ask::Promise { record: record.encode().into(), ballot, lost: lost.to_vec() }
}
