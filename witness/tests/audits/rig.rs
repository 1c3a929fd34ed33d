//! A small world for audits: a network of seven witnesses who share a beacon's key, holders, real
//! coded segments with their placement records, and the chains of what witnesses say.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex},
};

use echonet_protocol::{
    audit::{
        AuditAnswer, AuditChallenge, AuditDigest, AuditResult, AuditVerdict, Outcome, WitnessSets,
    },
    bytes::{Nonce, RecordHash, ShardHash, SliceHash},
    data::{
        erasure::{ErasureCode, data_shard},
        verified::encode_slice,
    },
    identity::{Identity, NodeId, Signed},
    inconsistency::LeafSlice,
    lease::{Lease, Receipt},
    network::{Genesis, NetworkId, Timing, WitnessParams},
    placement_record::{FirstPlacement, PlacementRecord},
    segment::{Scheme, SegmentDescriptor, SegmentId},
    time::{Epoch, UnixSeconds},
};
use echonet_witness::{
    beacon::{Beacon, BeaconShare, Beacons, deal},
    draw::{self, Draw, Rates},
    score::SealedSet,
    verdicts::{Chain, Finding},
    verify::slice_hash,
};

/// Members of the witness set.
pub(crate) const WITNESSES: usize = 7;

/// The key whose 32 secret bytes are all `n`.
pub(crate) fn identity(n: u8) -> Identity {
    Identity::from_secret(&[n; 32])
}

/// Who holds things, by number.
pub(crate) fn holder(n: usize) -> Identity {
    let mut secret = [7; 32];
    secret[..8].copy_from_slice(&(n as u64).to_le_bytes());
    Identity::from_secret(&secret)
}

/// The same, by NodeID.
pub(crate) fn holder_of(id: &NodeId) -> Identity {
    static HOLDERS: LazyLock<BTreeMap<NodeId, usize>> =
        LazyLock::new(|| (0..3_000).map(|n| (holder(n).node_id(), n)).collect());
    holder(HOLDERS[id])
}

/// The witnesses, by ascending NodeID.
pub(crate) fn witnesses() -> Vec<Identity> {
    let mut witnesses: Vec<Identity> = (200..200 + WITNESSES as u8).map(identity).collect();
    witnesses.sort_by_key(Identity::node_id);
    witnesses
}

/// A network, its witnesses' shares and what follows from its genesis.
pub(crate) struct World {
    pub(crate) genesis: Genesis,
    pub(crate) network: NetworkId,
    pub(crate) witnesses: Vec<Identity>,
    pub(crate) shares: Vec<BeaconShare>,
    pub(crate) beacons: Beacons,
    pub(crate) sets: WitnessSets,
    pub(crate) rates: Rates,
    known: Mutex<BTreeMap<u64, Beacon>>,
}

/// The world in which every second segment and more is due.
pub(crate) fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::new(10_000));
    &WORLD
}

/// The one with production's rate.
pub(crate) fn slow_world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::new(100));
    &WORLD
}

pub(crate) fn genesis(permyriad: u16, witness: WitnessParams) -> Genesis {
    Genesis {
        v: 1,
        name: "audits".into(),
        created: UnixSeconds(1_767_225_600),
        salt: (0..16).collect(),
        development: true,
        epoch_s: 3600,
        segment_bytes: 32 << 20,
        volume_bytes: 64 << 20,
        unsealed_epochs: 24,
        collect_grace_epochs: 24,
        lease_epochs_max: 8760,
        free_lease_epochs_max: 168,
        issuers: vec![identity(1).node_id()],
        timing: Timing::DEVELOPMENT,
        witness: WitnessParams { audit_permyriad: permyriad, ..witness },
    }
}

impl World {
    fn new(permyriad: u16) -> Self {
        let witnesses = witnesses();
        let dealt = deal(WITNESSES, &[5; 32]).unwrap();
        let params = WitnessParams {
            set: witnesses.iter().map(Identity::node_id).collect(),
            beacon_key: dealt.key.0.to_vec(),
            beacon_shares: dealt.shares.iter().map(BeaconShare::public).collect(),
            ..WitnessParams::none()
        };
        let genesis = genesis(permyriad, params);
        Self {
            network: genesis.network_id(),
            beacons: Beacons::new(&genesis).unwrap(),
            sets: WitnessSets::new(&genesis),
            rates: Rates::new(&genesis),
            witnesses,
            shares: dealt.shares,
            genesis,
            known: Mutex::new(BTreeMap::new()),
        }
    }

    /// An epoch's beacon, by the first five members.
    pub(crate) fn beacon(&self, epoch: u64) -> Beacon {
        let mut known = self.known.lock().unwrap();
        *known.entry(epoch).or_insert_with(|| {
            let part = |index: u8| {
                let share = &self.shares[usize::from(index)];
                (index, share.part(&self.beacons, Epoch(epoch)).unwrap())
            };
            self.beacons.recover(Epoch(epoch), &(0..5).map(part).collect()).unwrap()
        })
    }

    pub(crate) fn members(&self) -> &[NodeId] {
        self.sets.at(Epoch(0))
    }

    /// The committee of a segment, as places in the witness set, the asker first.
    pub(crate) fn committee(&self, epoch: u64, segment: &SegmentId) -> Vec<usize> {
        let committee = draw::committee(&self.beacon(epoch), segment, self.members(), &self.rates);
        let place = |member: &NodeId| self.members().binary_search(member).unwrap();
        committee.iter().map(place).collect()
    }

    pub(crate) fn asker(&self, epoch: u64, segment: &SegmentId) -> usize {
        self.committee(epoch, segment)[0]
    }

    pub(crate) fn is_due(&self, epoch: u64, segment: &SegmentId, shard_len: u64) -> bool {
        Draw::new(&self.beacon(epoch), segment).is_due(&self.rates, shard_len)
    }

    /// The challenge that a witness signs in an epoch.
    pub(crate) fn challenge(
        &self,
        witness: usize,
        epoch: u64,
        segment: SegmentId,
        inventory: Option<NodeId>,
    ) -> Signed<AuditChallenge> {
        let witness = &self.witnesses[witness];
        let body = AuditChallenge {
            v: 1,
            network: self.network,
            witness: witness.node_id(),
            epoch: Epoch(epoch),
            segment,
            beacon: *self.beacon(epoch).signature(),
            inventory,
        };
        Signed::new(witness, body)
    }

    /// What a holder signs.
    pub(crate) fn answer(
        &self,
        by: &Identity,
        challenge: &Signed<AuditChallenge>,
        index: u8,
        slice: Option<SliceHash>,
    ) -> Signed<AuditAnswer> {
        let body = AuditAnswer {
            v: 1,
            network: self.network,
            holder: by.node_id(),
            challenge: challenge.hash(),
            segment: challenge.body.segment,
            index,
            slice,
        };
        Signed::new(by, body)
    }

    /// A segment with its shards, placed with a node for each.
    pub(crate) fn placed(&self, name: &str, holders: &[Identity]) -> Placed {
        let (scheme, length) = (Scheme::new(2, 3).unwrap(), 5000);
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
        let mut parity = vec![vec![0; scheme.shard_len(length)]; 3];
        ErasureCode::new(2, 3).unwrap().encode(&bytes, &mut parity).unwrap();
        let shards: Vec<Vec<u8>> =
            (0..2).map(|i| data_shard(&bytes, 2, i).into_owned()).chain(parity).collect();
        self.place(shards, holders)
    }

    /// Any five shards as a 2+3 segment.
    pub(crate) fn place(&self, shards: Vec<Vec<u8>>, holders: &[Identity]) -> Placed {
        let hash = |shard: &Vec<u8>| ShardHash(*blake3::hash(shard).as_bytes());
        let scheme = Scheme::new(2, 3).unwrap();
        let shard_hashes = shards.iter().map(hash).collect();
        let descriptor = SegmentDescriptor { v: 1, scheme, length: 5000, shards: shard_hashes };
        let (owner, segment) = (identity(2), descriptor.segment_id());
        let lease = Lease {
            v: 1,
            network: self.network,
            segment,
            owner: owner.node_id(),
            from: Epoch(0),
            until: Epoch(168),
            grant: None,
            nonce: Nonce([9; 16]),
            standing: false,
        };
        let lease = Signed::new(&owner, lease);
        let receipts = holders.iter().zip(0..).map(|(holder, index)| {
            let body = Receipt {
                v: 1,
                network: self.network,
                lease: lease.hash(),
                segment,
                index,
                shard: descriptor.shards[usize::from(index)],
                length: 2500,
                holder: holder.node_id(),
                from: Epoch(0),
                until: Epoch(168),
                placement_version: 1,
            };
            Signed::new(holder, body)
        });
        let receipts = receipts.collect();
        let first = FirstPlacement { descriptor, lease, grant: None, receipts };
        let record = PlacementRecord::first(&owner, first);
        record.verify(&self.network).unwrap();
        Placed { shards, record }
    }
}

/// A placed segment.
pub(crate) struct Placed {
    pub(crate) shards: Vec<Vec<u8>>,
    pub(crate) record: PlacementRecord,
}

impl Placed {
    pub(crate) fn segment(&self) -> SegmentId {
        self.record.body.segment
    }

    /// The proof of a leaf.
    pub(crate) fn slice(&self, index: u8, leaf: u64) -> Vec<u8> {
        let shard = &self.shards[usize::from(index)];
        let end = (leaf * 1024 + 1024).min(shard.len() as u64);
        encode_slice(shard, leaf * 1024..end, 0).unwrap().0
    }
}

/// What a witness says about one segment in one epoch.
#[derive(Clone)]
pub(crate) struct Report {
    /// Place in the witness set.
    pub(crate) witness: usize,
    pub(crate) segment: SegmentId,
    /// Index, number of the holder, outcome.
    pub(crate) results: Vec<(u8, usize, Outcome)>,
    pub(crate) inventory: Option<usize>,
}

impl Report {
    pub(crate) fn new(
        witness: usize,
        segment: SegmentId,
        results: Vec<(u8, usize, Outcome)>,
    ) -> Self {
        Self { witness, segment, results, inventory: None }
    }
}

/// Bytes of the shards of made-up segments: full ones.
pub(crate) const FULL: u32 = 3_355_444;

/// A segment that was never made; enough for whoever looks at verdicts alone.
pub(crate) fn made_up(n: u64) -> SegmentId {
    SegmentId(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

/// The first segments of a series that are due in an epoch.
pub(crate) fn due(world: &World, epoch: u64, series: u64, count: usize) -> Vec<SegmentId> {
    let all = (0..).map(|n| made_up(series << 32 | n));
    all.filter(|segment| world.is_due(epoch, segment, u64::from(FULL))).take(count).collect()
}

/// A result as its holder signed it.
pub(crate) fn result(
    world: &World,
    challenge: &Signed<AuditChallenge>,
    (index, number, outcome): (u8, usize, Outcome),
) -> AuditResult {
    let by = holder(number);
    let has_slice = matches!(outcome, Outcome::Pass | Outcome::Wrong);
    let slice = has_slice.then_some(SliceHash([index; 32]));
    let sig = outcome.is_signed().then(|| world.answer(&by, challenge, index, slice).sig);
    AuditResult { index, holder: by.node_id(), outcome, slice, sig }
}

/// The verdict of a report.
pub(crate) fn say(
    world: &World,
    chain: &mut Chain,
    epoch: u64,
    report: &Report,
) -> Signed<AuditVerdict> {
    let inventory = report.inventory.map(|number| holder(number).node_id());
    let challenge = world.challenge(report.witness, epoch, report.segment, inventory);
    let results = report.results.iter().map(|r| result(world, &challenge, *r)).collect();
    let placement = RecordHash([1; 32]);
    chain.push(Finding { challenge, placement, length: FULL, results })
}

/// The witnesses' chains.
pub(crate) fn chains(world: &World) -> Vec<Chain> {
    world.witnesses.iter().map(|w| Chain::new(w.clone(), world.network)).collect()
}

/// A witness's digest of an epoch with its verdicts.
pub(crate) type Said = (Signed<AuditDigest>, Vec<Signed<AuditVerdict>>);

/// What all witnesses say in an epoch: a digest of each.
pub(crate) fn said(
    world: &World,
    chains: &mut [Chain],
    epoch: u64,
    reports: &[Report],
) -> Vec<Said> {
    let mut all = Vec::new();
    for (witness, chain) in chains.iter_mut().enumerate() {
        let mine = reports.iter().filter(|report| report.witness == witness);
        let verdicts: Vec<_> = mine.map(|report| say(world, chain, epoch, report)).collect();
        all.push((chain.close(Epoch(epoch)), verdicts));
    }
    all
}

/// The sealed set of what was said.
pub(crate) fn seal(world: &World, epoch: u64, said: &[Said]) -> SealedSet {
    let mut set = SealedSet::new(world.network, Epoch(epoch), Some(world.beacon(epoch)));
    for (digest, verdicts) in said {
        set.add(digest, verdicts.clone(), &[]).unwrap();
    }
    set
}

/// A verdict about a placed segment by its asker: `give` says what each holder sends, or nothing.
pub(crate) fn audit(
    world: &World,
    chain: &mut Chain,
    (witness, epoch): (usize, u64),
    placed: &Placed,
    give: impl Fn(u8, u64) -> Option<Vec<u8>>,
    call: impl Fn(u8, bool) -> Outcome,
) -> (Signed<AuditVerdict>, Vec<LeafSlice>) {
    let challenge = world.challenge(witness, epoch, placed.segment(), None);
    let leaf = draw::leaf(&challenge, 2500);
    let (mut results, mut slices) = (Vec::new(), Vec::new());
    for (index, id) in placed.record.body.holders.clone() {
        let by = holder_of(&id);
        let given = give(index, leaf);
        let slice = given.as_deref().map(slice_hash);
        let answer = world.answer(&by, &challenge, index, slice);
        let is_right = given.as_ref() == Some(&placed.slice(index, leaf));
        let outcome = if given.is_none() { Outcome::Absent } else { call(index, is_right) };
        let sig = Some(answer.sig);
        results.push(AuditResult { index, holder: id, outcome, slice, sig });
        slices.extend(given.map(|slice| LeafSlice { index, slice }));
    }
    let placement = placed.record.hash();
    (chain.push(Finding { challenge, placement, length: 2500, results }), slices)
}

/// What an honest witness calls what came.
pub(crate) fn honest(_: u8, is_right: bool) -> Outcome {
    if is_right { Outcome::Pass } else { Outcome::Wrong }
}
