//! Placement records: what makes one valid, how it proves its descent, and which
//! of two wins.

use echonet_protocol::{
    bytes::{Nonce, RecordHash, ShardHash},
    identity::{Identity, RecordError, Signed, record_hash, sign_body},
    lease::{Grant, Lease, Receipt},
    params,
    placement_record::{
        FirstPlacement, Placement, PlacementRecord, PlacementSignature, Step, Strength,
        receipts_hash,
    },
    segment::SegmentDescriptor,
    time::Epoch,
};

use crate::sample::{
    self, first_placement, holder, identity, network, owner, owners_signature, placement, receipt,
    receipt_by, second_receipts, signatures,
};

fn why(record: &PlacementRecord) -> String {
    let why = record.verify(&network()).unwrap_err().to_string();
    let read = PlacementRecord::decode(&record.encode(), &network());
    assert!(read.is_err(), "a decoder took what {why}");
    why
}

/// Why a version 1 with this change in what it is made of is refused, properly
/// signed by its owner.
fn refused(change: impl FnOnce(&mut FirstPlacement)) -> String {
    let mut first = first_placement();
    change(&mut first);
    why(&PlacementRecord::first(&owner(), first))
}

/// The same with a change in its body.
fn refused_body(change: impl FnOnce(&mut Placement)) -> String {
    let mut record = placement();
    change(&mut record.body);
    record.signatures = vec![owners_signature(&record.body)];
    why(&record)
}

/// A receipt that its holder signed, but for something else.
fn other_receipt(index: u8, change: impl FnOnce(&mut Receipt)) -> Signed<Receipt> {
    let mut body = receipt(index).body;
    change(&mut body);
    Signed::new(&holder(index), body)
}

#[test]
fn the_samples_are_valid_and_follow_each_other() {
    let (first, second) = (placement(), sample::placement_second());
    let third = sample::placement_third();
    for record in [&first, &second, &third] {
        let read = PlacementRecord::decode(&record.encode(), &network()).unwrap();
        assert_eq!(&read, record);
        assert_eq!(record.strength(), Strength::Quorum);
    }
    assert_eq!(second.body.holder(1), Some(sample::node_id(150)));
    assert_eq!((first.body.holder(3), first.body.holder(4)), (None, Some(holder(4).node_id())));
    assert_eq!(third.body.index_of(&sample::node_id(151)), Some(3));
    assert_eq!(second.body.previous, Some(first.hash()));
    // A signer of version 3 was no holder in version 1: both steps are told.
    assert_eq!(third.lineage.iter().map(|s| s.version).collect::<Vec<_>>(), [1, 2]);
    assert!(second.wins_over(&first) && third.wins_over(&second) && third.wins_over(&first));
    assert!(!first.wins_over(&second) && !second.wins_over(&second));
}

#[test]
fn holders_are_one_per_index_in_order() {
    let order = "ascending order of index";
    assert!(refused_body(|p| p.holders.swap(0, 1)).contains(order));
    assert!(refused_body(|p| p.holders[1].0 = 0).contains(order));
    assert!(refused_body(|p| p.holders[3].1 = p.holders[0].1).contains("one holder for two"));
    assert!(refused_body(|p| p.holders.clear()).contains("0 holders"));
    assert!(refused(|p| p.receipts.truncate(1)).contains("1 holders for a 2+3 segment"));
    let mut fewer = placement();
    fewer.receipts.pop();
    assert!(why(&fewer).contains("3 receipts of 4 holders"));
}

#[test]
fn more_holders_than_shards_are_refused() {
    let mut extra = receipt(4).body;
    (extra.index, extra.holder) = (5, sample::node_id(9));
    let extra = Signed::new(&identity(9), extra);
    let receipts = [0, 1, 2, 3].map(receipt).to_vec();
    let with = |last: Vec<Signed<Receipt>>| [receipts.clone(), last].concat();
    let five = with(vec![extra.clone()]);
    assert!(refused(|p| p.receipts = five).contains("shard 5: another shard hash"));
    let six = with(vec![receipt(4), extra]);
    assert!(refused(|p| p.receipts = six).contains("6 holders"));
}

#[test]
fn receipts_are_for_this_lease_segment_and_shard() {
    let other = sample::descriptor(2, 3, 5001).segment_id();
    let with = |change: fn(&mut Receipt)| {
        let foreign = other_receipt(2, change);
        refused(|p| p.receipts[2] = foreign)
    };
    let foreign = other_receipt(2, |r| r.segment = other);
    assert!(refused(|p| p.receipts[2] = foreign).contains("another segment"));
    assert!(with(|r| r.lease.0[0] ^= 1).contains("another lease"));
    assert!(with(|r| r.until.0 -= 1).contains("another term"));
    assert!(with(|r| r.from.0 += 1).contains("another term"));
    assert!(with(|r| r.shard = ShardHash([0; 32])).contains("another shard hash"));
    assert!(with(|r| r.length += 1).contains("another length"));
    assert!(with(|r| r.placement_version = 2).contains("a later placement version"));
    // The whole descriptor exchanged under honest receipts.
    let descriptor = sample::descriptor(2, 3, 5001);
    assert!(refused(|p| p.descriptor = descriptor).contains("another segment's"));
}

#[test]
fn receipts_are_those_of_the_body() {
    assert!(refused_body(|p| p.receipts.0[3] ^= 4).contains("other receipts"));
    // A valid receipt of the same holder and shard, but not the one that was signed for.
    let mut record = sample::placement_second();
    record.receipts[1] = receipt_by(&identity(150), 1, 1);
    assert!(why(&record).contains("other receipts"));
    let mut record = placement();
    record.receipts.swap(0, 1);
    assert!(why(&record).contains("shard 0: another's"));
}

#[test]
fn lease_and_grant_are_those_the_body_names() {
    let lease = first_placement().lease;
    let again = Signed::new(&owner(), Lease { nonce: Nonce([1; 16]), ..lease.body.clone() });
    let mut record = placement();
    record.lease = again;
    assert!(why(&record).contains("another lease than the body's"));
    let mut record = placement();
    record.grant = None;
    assert!(why(&record).contains("another grant"));
    let stolen = Grant { owner: holder(0).node_id(), ..sample::grant().body };
    let stolen = Signed::new(&sample::issuer(), stolen);
    let body = Lease { grant: Some(stolen.hash()), ..lease.body.clone() };
    assert!(under(body, Some(stolen)).contains("a grant of another owner"));
    let unsigned = Signed { sig: lease.sig, ..sample::grant() };
    let mut record = placement();
    record.grant = Some(unsigned);
    assert!(why(&record).contains("grant: the signature"));
    let mut record = placement();
    record.lease.sig.0[5] ^= 1;
    assert!(why(&record).contains("lease: the signature"));
    let endless = Lease { until: Epoch(1 << 32), ..lease.body };
    assert!(under(endless, Some(sample::grant())).contains("a lease until epoch"));
}

/// Why a placement under another lease is refused, its receipts being for it.
fn under(lease: Lease, grant: Option<Signed<Grant>>) -> String {
    let lease = Signed::new(&owner(), lease);
    let receipts = first_placement().receipts.into_iter().map(|r| {
        let of = holder(r.body.index);
        let (from, until) = (lease.body.from, lease.body.until);
        Signed::new(&of, Receipt { lease: lease.hash(), from, until, ..r.body })
    });
    let receipts = receipts.collect();
    let descriptor = sample::placed();
    why(&PlacementRecord::first(&owner(), FirstPlacement { descriptor, lease, grant, receipts }))
}

#[test]
fn a_forged_receipt_is_refused_though_the_owner_signed() {
    let forged = |r: &mut Signed<Receipt>| r.sig = receipt(1).sig;
    assert!(refused(|p| forged(&mut p.receipts[0])).contains("does not verify"));
    // Signed by the owner in the holder's name.
    let by_owner = Signed::new(&owner(), Receipt { holder: owner().node_id(), ..receipt(0).body });
    let in_its_name = Signed { body: receipt(0).body, sig: by_owner.sig };
    assert!(refused(|p| p.receipts[0] = in_its_name).contains("receipt: the signature"));
}

#[test]
fn nothing_of_another_network_is_taken() {
    let mut genesis = sample::genesis();
    genesis.salt[0] ^= 1;
    let foreign = other_receipt(0, |r| r.network = genesis.network_id());
    assert!(refused(|p| p.receipts[0] = foreign).contains("belongs to network"));
    let error = placement().verify(&genesis.network_id()).unwrap_err();
    assert!(matches!(error, RecordError::WrongNetwork { .. }));
}

#[test]
fn versions_and_previous_ones_belong_together() {
    assert!(refused_body(|p| p.version = 0).contains("version 0"));
    assert!(refused_body(|p| p.version = 2).contains("only version 1 has no previous"));
    assert!(refused_body(|p| p.previous = Some(RecordHash([1; 32]))).contains("only version 1"));
    assert!(refused_body(|p| p.v = 2).contains("version 2 is not known here"));
    let late = params::PLACEMENT_VERSION_MAX + 1;
    assert!(refused_body(|p| p.version = late).contains("out of bounds"));
    let second = |p: &mut Placement| (p.version, p.previous) = (2, Some(RecordHash([1; 32])));
    assert!(refused_body(second).contains("proves its descent"));
}

#[test]
fn version_one_is_its_owners_alone() {
    for signers in [vec![], vec![holder(0)], vec![owner(), holder(0)]] {
        let mut record = placement();
        let sign = |signer: &Identity| PlacementSignature {
            signer: signer.node_id(),
            sig: sign_body(signer, &record.body),
        };
        record.signatures = signers.iter().map(sign).collect();
        record.signatures.sort_by_key(|s| s.signer);
        assert!(record.verify(&network()).is_err(), "{} signers", signers.len());
    }
    let mut record = placement();
    record.body.owner = holder(0).node_id();
    assert!(record.verify(&network()).is_err());
    // Signed as later versions are.
    let mut record = placement();
    record.signatures = signatures(&record.body, None, &[owner()]);
    assert!(record.verify(&network()).is_err());
    let mut record = placement();
    record.ballot = Some(0);
    assert!(why(&record).contains("its owner alone"));
}

#[test]
fn signatures_are_ordered_distinct_and_of_holders() {
    let good = sample::placement_second();
    let mut swapped = good.clone();
    swapped.signatures.swap(0, 1);
    assert!(why(&swapped).contains("out of order"));
    let mut twice = good.clone();
    twice.signatures.insert(0, twice.signatures[0].clone());
    assert!(why(&twice).contains("out of order"));
    let mut forged = good.clone();
    forged.signatures[2].sig = forged.signatures[1].sig;
    assert!(matches!(forged.verify(&network()), Err(RecordError::Signature { .. })));
    // The owner, a stranger, the new holder, and whoever would hold shard 3.
    for stranger in [owner(), identity(9), identity(150), holder(3)] {
        let mut more = good.clone();
        more.signatures.extend(signatures(&good.body, good.ballot, &[stranger]));
        more.signatures.sort_by_key(|s| s.signer);
        assert!(why(&more).contains("by others than the holders before"));
    }
    let mut none = good;
    none.signatures.clear();
    assert!(why(&none).contains("signatures missing"));
}

/// A second version by these signers.
fn by(signers: &[Identity]) -> Result<PlacementRecord, RecordError> {
    let (first, receipts) = (placement(), second_receipts());
    let body = first.next_body(&receipts);
    // Agreed on where a quorum signs, else weak.
    let ballot = (signers.len() > 2).then_some(64);
    let signatures = signatures(&body, ballot, signers);
    first.succeeded(body, receipts, ballot, signatures)
}

#[test]
fn a_quorum_makes_it_final_and_fewer_weak() {
    // 2+3: max(2, floor(5/2)+1) = 3 of the four holders; k = 2 will do for a weak one.
    assert_eq!(by(&[0, 1, 2].map(holder)).unwrap().strength(), Strength::Quorum);
    assert_eq!(by(&[0, 1, 2, 4].map(holder)).unwrap().strength(), Strength::Quorum);
    let weak = by(&[0, 4].map(holder)).unwrap();
    assert_eq!((weak.strength(), weak.final_version()), (Strength::Weak(2), 1));
    assert!(by(&[holder(0)]).unwrap_err().to_string().contains("1 of 2 needed"));
    // Strangers are left out, and who signs twice counts once.
    let crowd = [holder(0), holder(0), owner(), identity(9), identity(150), holder(3)];
    assert!(by(&crowd).unwrap_err().to_string().contains("1 of 3 needed"));
    let good = by(&[holder(4), holder(0), holder(2), owner()]).unwrap();
    assert_eq!(good.signatures.len(), 3);
    // Nor does one become the other: what was signed says which it was.
    let mut as_weak = good.clone();
    as_weak.ballot = None;
    assert!(matches!(as_weak.verify(&network()), Err(RecordError::Signature { .. })));
    let mut as_agreed = weak;
    as_agreed.ballot = Some(64);
    assert!(why(&as_agreed).contains("2 of 3 needed"));
    let mut other_ballot = good.clone();
    other_ballot.ballot = Some(128);
    assert!(matches!(other_ballot.verify(&network()), Err(RecordError::Signature { .. })));
    let mut fewer = good;
    fewer.signatures.pop();
    assert!(why(&fewer).contains("2 of 3 needed"));
}

#[test]
fn signatures_of_two_ballots_do_not_add_up() {
    let (first, receipts) = (placement(), second_receipts());
    let body = first.next_body(&receipts);
    let mut mixed = signatures(&body, Some(64), &[0, 1].map(holder));
    mixed.extend(signatures(&body, Some(128), &[holder(2)]));
    for ballot in [Some(64), Some(128), None] {
        let made = first.succeeded(body.clone(), receipts.clone(), ballot, mixed.clone());
        assert!(matches!(made, Err(RecordError::Signature { .. })), "{ballot:?}");
    }
}

/// A segment of k+m shards: who holds what is decided by number.
struct World {
    descriptor: SegmentDescriptor,
    lease: Signed<Lease>,
}

impl World {
    fn new(k: u8, m: u8, until: u64) -> Self {
        let descriptor = sample::descriptor(k, m, 5000);
        let (segment, grant) = (descriptor.segment_id(), None);
        let of = sample::lease(None).body;
        let lease = Lease { segment, grant, until: Epoch(until), ..of };
        Self { descriptor, lease: Signed::new(&owner(), lease) }
    }

    fn receipt(&self, index: u8, holder: &Identity, version: u64) -> Signed<Receipt> {
        let (lease, of) = (&self.lease, &self.descriptor);
        let body = Receipt {
            v: 1,
            network: network(),
            lease: lease.hash(),
            segment: of.segment_id(),
            index,
            shard: of.shards[usize::from(index)],
            length: u32::try_from(of.shard_len()).unwrap(),
            holder: holder.node_id(),
            from: lease.body.from,
            until: lease.body.until,
            placement_version: version,
        };
        Signed::new(holder, body)
    }

    /// Version 1: shard i at the i-th holder.
    fn first(&self) -> PlacementRecord {
        let n = u8::try_from(self.descriptor.scheme.n()).unwrap();
        let receipts = (0..n).map(|i| self.receipt(i, &identity(i + 1), 1)).collect();
        let (descriptor, lease) = (self.descriptor.clone(), self.lease.clone());
        let first = FirstPlacement { descriptor, lease, grant: None, receipts };
        PlacementRecord::first(&owner(), first)
    }

    /// The next version: a shard moved to another holder, signed by some.
    fn next(
        &self,
        before: &PlacementRecord,
        (index, to): (u8, u8),
        signers: impl IntoIterator<Item = u8>,
    ) -> Result<PlacementRecord, RecordError> {
        let mut receipts = before.receipts.clone();
        receipts[usize::from(index)] = self.receipt(index, &identity(to), before.body.version + 1);
        let body = before.next_body(&receipts);
        let signers: Vec<Identity> = signers.into_iter().map(identity).collect();
        let quorum = self.descriptor.scheme.change_quorum();
        let ballot = (signers.len() >= quorum).then_some(1);
        let signatures = signatures(&body, ballot, &signers);
        before.succeeded(body, receipts, ballot, signatures)
    }
}

#[test]
fn quorums_are_those_of_the_design() {
    for (k, m, quorum, weak) in
        [(10, 6, 10, None), (1, 6, 4, Some(1)), (10, 14, 13, Some(10)), (2, 1, 2, None)]
    {
        let world = World::new(k, m, 268);
        let first = world.first();
        first.verify(&network()).unwrap();
        let scheme = world.descriptor.scheme;
        assert_eq!((scheme.change_quorum(), scheme.weak_quorum()), (quorum, weak.map(usize::from)));
        let by = |count: u8| world.next(&first, (0, 200), 1..=count);
        let quorum = u8::try_from(quorum).unwrap();
        assert_eq!(by(quorum).unwrap().strength(), Strength::Quorum, "{k}+{m}");
        for fewer in 1..quorum {
            let strength = by(fewer).ok().map(|r| r.strength());
            let expected = weak.filter(|w| fewer >= *w).map(|_| Strength::Weak(fewer));
            assert_eq!(strength, expected, "{k}+{m} by {fewer}");
        }
    }
}

#[test]
fn needless_steps_are_dropped_and_needed_ones_are_not() {
    let world = World::new(10, 6, 268);
    let mut record = world.first();
    // Shards 0 to 5 move, one a version; all that is left of version 1 sign each.
    for version in 2..=7_u8 {
        let index = version - 2;
        let left = (index + 2)..=16;
        record = world.next(&record, (index, 100 + index), left).unwrap();
        assert_eq!(record.lineage.len(), 1, "version {version}");
        assert_eq!(record.signatures.len(), usize::from(16 - index - 1));
    }
    // One more is gone: nine of version 1 are left, so some version between is told.
    let signers = [8, 9, 10, 11, 12, 13, 14, 15, 16, 100, 101, 102];
    let record = world.next(&record, (6, 106), signers).unwrap();
    assert_eq!(record.lineage.iter().map(|s| s.version).collect::<Vec<_>>(), [1, 7]);
    let mut cut = record.clone();
    cut.lineage.pop();
    assert!(why(&cut).contains("by others than the holders before"));
    cut.signatures.retain(|s| cut.lineage[0].holders.iter().any(|h| h.1 == s.signer));
    assert!(why(&cut).contains("9 of 10 needed"));
}

#[test]
fn steps_belong_to_the_record_and_to_each_other() {
    let good = sample::placement_third();
    let with = |change: fn(&mut Vec<Step>)| {
        let mut record = good.clone();
        change(&mut record.lineage);
        why(&record)
    };
    assert!(with(Vec::clear).contains("proves its descent"));
    assert!(with(|l| drop(l.remove(0))).contains("does not begin with version 1"));
    assert!(with(|l| l.swap(0, 1)).contains("does not begin with version 1"));
    assert!(with(|l| l.push(l[1].clone())).contains("ascending order of version"));
    assert!(with(|l| l[1].version = 3).contains("ascending order of version"));
    assert!(with(|l| l[1].holders.swap(0, 1)).contains("ascending order of index"));
    assert!(with(|l| l[0].holders[0].0 = 3).contains("order of index"));
    assert!(with(|l| l[0].receipts.0[0] ^= 1).contains("follows another"));
    assert!(with(|l| l[1].receipts.0[0] ^= 1).contains("follows another"));
    assert!(with(|l| l[1].previous = None).contains("ascending order of version"));
    assert!(with(|l| l[1].signatures[0].sig.0[0] ^= 1).contains("does not verify"));
    let many = with(|l| l.resize(params::LINEAGE_STEPS_MAX + 1, l[0].clone()));
    assert!(many.contains("65 steps"));
    // Another first version of the same owner: no holder signed what follows it.
    let mut other = good.clone();
    other.lineage[0].holders.pop();
    let first = other.lineage[0].body(&other.body);
    other.lineage[0].signatures = vec![owners_signature(&first)];
    assert!(why(&other).contains("follows another"));
}

#[test]
fn a_skipped_quorum_does_not_bend_what_is_told() {
    // Version 3 by holders of version 1, without version 2: what it says of version 2 is its own.
    let world = World::new(10, 6, 268);
    let first = world.first();
    let second = world.next(&first, (0, 100), 2..=16).unwrap();
    let third = world.next(&second, (1, 101), 3..=16).unwrap();
    assert_eq!(third.lineage.len(), 1);
    third.verify(&network()).unwrap();
    let mut lied = third;
    lied.body.previous = Some(RecordHash([7; 32]));
    assert!(why(&lied).contains("does not verify"));
}

#[test]
fn a_weak_step_stands_behind_the_version_it_follows() {
    let world = World::new(1, 6, 268);
    let first = world.first();
    let second = world.next(&first, (0, 100), 2..=7).unwrap();
    let weak = world.next(&second, (1, 101), [6, 7]).unwrap();
    assert_eq!((weak.strength(), weak.final_version()), (Strength::Weak(2), 2));
    assert_eq!(weak.lineage.iter().map(|s| s.version).collect::<Vec<_>>(), [1, 2]);
    let mut skipped = weak.clone();
    skipped.lineage.pop();
    assert!(why(&skipped).contains("nobody agreed on it"));
    // A quorum of the last final version signs a later one: the weak step is not needed.
    let healed = world.next(&weak, (2, 102), 3..=7).unwrap();
    assert_eq!((healed.strength(), healed.final_version()), (Strength::Quorum, 4));
    // Signed by the weak version's holders only, it stays.
    let later = world.next(&weak, (2, 102), [101, 100, 6, 7]).unwrap();
    assert_eq!((later.strength(), later.final_version()), (Strength::Weak(2), 2));
    let asked = later.holders_to_ask();
    for hidden in [2, 3, 101, 102] {
        assert!(asked.iter().any(|(_, node)| *node == sample::node_id(hidden)), "{hidden}");
    }
    assert_eq!(second.holders_to_ask(), second.body.holders);
}

#[test]
fn of_two_records_the_later_lease_then_the_stronger_wins() {
    let world = World::new(1, 6, 268);
    let first = world.first();
    let strong = world.next(&first, (0, 100), 1..=4).unwrap();
    let weak_two = world.next(&first, (0, 101), [6, 7]).unwrap();
    let weak_three = world.next(&first, (0, 102), [5, 6, 7]).unwrap();
    let mut captured = world.next(&first, (0, 103), [7]).unwrap();
    for _ in 0..5 {
        // Whoever wrote a weak version alone cannot outrun a quorum by counting on.
        let index = u8::try_from(captured.body.version).unwrap();
        captured = world.next(&captured, (index, 110 + index), [103, 7]).unwrap();
    }
    let renewed = World::new(1, 6, 269).first();
    let order = [&first, &captured, &weak_two, &weak_three, &strong, &renewed];
    for (i, low) in order.iter().enumerate() {
        for high in &order[i + 1..] {
            assert!(high.wins_over(low) && !low.wins_over(high), "{:?}", high.strength());
            assert!(high.sequence() > low.sequence());
        }
    }
    // Equal in all that counts: the lower hash.
    let twin = world.next(&first, (0, 104), 1..=4).unwrap();
    assert_eq!(twin.sequence(), strong.sequence());
    assert_eq!(twin.wins_over(&strong), twin.hash() < strong.hash());
    assert_eq!(strong.wins_over(&twin), strong.hash() < twin.hash());
}

#[test]
fn when_there_is_no_room_for_another_step_nothing_follows() {
    let world = World::new(10, 6, 268);
    let mut record = world.first();
    let signer = |record: &PlacementRecord| -> Vec<u8> {
        let known = (1..=250).map(|n| (n, sample::node_id(n)));
        let held = known.filter(|(_, id)| record.body.index_of(id).is_some());
        held.map(|(n, _)| n).collect()
    };
    // The worst for room: the whole set moves on, ten new ones of sixteen each time.
    let mut next = 17_u8;
    let full = loop {
        let mut receipts = record.receipts.clone();
        let version = record.body.version + 1;
        for place in 0..7_usize {
            let index = (usize::try_from(version).unwrap() * 7 + place) % 16;
            next = if next == 250 { 17 } else { next + 1 };
            if record.body.index_of(&sample::node_id(next)).is_some() {
                continue;
            }
            let index8 = u8::try_from(index).unwrap();
            receipts[index] = world.receipt(index8, &identity(next), version);
        }
        let signers: Vec<Identity> = signer(&record).into_iter().map(identity).collect();
        let body = record.next_body(&receipts);
        let signatures = signatures(&body, Some(1), &signers);
        match record.succeeded(body, receipts, Some(1), signatures) {
            Ok(next) => record = next,
            Err(error) => break error.to_string(),
        }
    };
    assert!(full.contains("no room for another step"), "{full}");
    let (steps, bytes) = (record.lineage.len(), record.encode().len());
    println!("10+6: {steps} steps in {bytes} bytes at version {}", record.body.version);
    assert!(steps >= 24 && bytes <= params::PLACEMENT_RECORD_BYTES_MAX, "{steps} in {bytes}");
    PlacementRecord::decode(&record.encode(), &network()).unwrap();
}

#[test]
fn what_is_hashed_is_every_receipt_in_order() {
    let receipts = placement().receipts;
    let mut swapped = receipts.clone();
    swapped.swap(0, 1);
    assert_ne!(receipts_hash(&receipts), receipts_hash(&swapped));
    assert_ne!(receipts_hash(&receipts), receipts_hash(&receipts[1..]));
    let body = placement().body;
    assert_eq!(owners_signature(&body), placement().signatures[0]);
    assert_eq!(record_hash(&body), placement().hash());
}
