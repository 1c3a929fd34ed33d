//! Placement records: what makes one valid, and who may write the next.

use echonet_protocol::{
    bytes::{RecordHash, ShardHash},
    identity::{RecordError, Signed, record_hash},
    lease::Receipt,
    placement_record::{Placement, PlacementRecord, PlacementSignature},
};

use crate::sample::{
    self, holder, identity, network, owner, placement, receipt, receipt_by, second_body, signed_by,
};

/// Why a version 1 with this change is refused, properly signed by its owner.
fn refused(change: impl FnOnce(&mut Placement)) -> String {
    let mut body = placement().body;
    change(&mut body);
    let record = signed_by(body, &[owner()]);
    PlacementRecord::decode(&record.encode(), &network()).unwrap_err().to_string()
}

/// A receipt that its holder signed, but for something else.
fn other_receipt(index: u8, change: impl FnOnce(&mut Receipt)) -> Signed<Receipt> {
    let mut body = receipt(index).body;
    change(&mut body);
    Signed::new(&holder(index), body)
}

#[test]
fn both_samples_are_valid_and_the_second_follows_the_first() {
    let (first, second) = (placement(), sample::placement_second());
    first.verify(&network()).unwrap();
    second.verify(&network()).unwrap();
    second.verify_successor(&first).unwrap();
    assert_eq!(second.body.holder(1), Some(sample::node_id(150)));
    assert_eq!((first.body.holder(3), first.body.holder(4)), (None, Some(holder(4).node_id())));
}

#[test]
fn receipts_are_one_per_index_and_holder_in_order() {
    let order = "ascending order of index";
    assert!(refused(|p| p.receipts.swap(0, 1)).contains(order));
    assert!(refused(|p| p.receipts[1] = p.receipts[0].clone()).contains(order));
    let again = receipt_by(&holder(0), 4, 1);
    assert!(refused(|p| p.receipts[3] = again).contains("one holder for two shards"));
    assert!(refused(|p| p.receipts.truncate(1)).contains("1 receipts for a 2+3 segment"));
    assert!(refused(|p| p.receipts.clear()).contains("0 receipts"));
}

#[test]
fn more_receipts_than_shards_are_refused() {
    let mut extra = receipt(4).body;
    extra.index = 5;
    let extra = Signed::new(&holder(4), extra);
    let all = [0, 1, 2, 3].map(receipt).to_vec();
    let with = |last: Vec<Signed<Receipt>>| [all.clone(), last].concat();
    let five = with(vec![extra.clone()]);
    assert!(refused(|p| p.receipts = five).contains("shard 5: another shard hash"));
    let six = with(vec![
        receipt(4),
        Signed::new(&identity(9), Receipt { holder: sample::node_id(9), ..extra.body }),
    ]);
    assert!(refused(|p| p.receipts = six).contains("6 receipts"));
}

#[test]
fn receipts_are_for_this_segment_and_shard() {
    let other = sample::descriptor(2, 3, 5001).segment_id();
    let foreign = other_receipt(2, |r| r.segment = other);
    assert!(refused(|p| p.receipts[2] = foreign).contains("another segment"));
    let foreign = other_receipt(2, |r| r.shard = ShardHash([0; 32]));
    assert!(refused(|p| p.receipts[2] = foreign).contains("another shard hash"));
    let foreign = other_receipt(2, |r| r.length += 1);
    assert!(refused(|p| p.receipts[2] = foreign).contains("another length"));
    let later = other_receipt(2, |r| r.placement_version = 2);
    assert!(refused(|p| p.receipts[2] = later).contains("a later placement version"));
    // The whole descriptor exchanged under honest receipts.
    assert!(refused(|p| p.descriptor = sample::descriptor(2, 3, 5001)).contains("another segment"));
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
fn a_receipt_of_another_network_is_refused() {
    let mut genesis = sample::genesis();
    genesis.salt[0] ^= 1;
    let foreign = other_receipt(0, |r| r.network = genesis.network_id());
    assert!(refused(|p| p.receipts[0] = foreign).contains("belongs to network"));
    let other = genesis.network_id();
    let error = placement().verify(&other).unwrap_err();
    assert!(matches!(error, RecordError::WrongNetwork { .. }));
}

#[test]
fn versions_and_previous_ones_belong_together() {
    assert!(refused(|p| p.version = 0).contains("version 0"));
    assert!(refused(|p| p.version = 2).contains("only version 1 has no previous"));
    assert!(refused(|p| p.previous = Some(RecordHash([1; 32]))).contains("only version 1"));
    assert!(refused(|p| p.v = 2).contains("version 2 is not known here"));
}

#[test]
fn version_one_is_its_owners_alone() {
    let body = placement().body;
    for signers in [vec![], vec![holder(0)], vec![owner(), holder(0)]] {
        let record = signed_by(body.clone(), &signers);
        assert!(record.verify(&network()).is_err(), "{} signers", signers.len());
    }
    let record = signed_by(Placement { owner: holder(0).node_id(), ..body }, &[owner()]);
    assert!(record.verify(&network()).is_err());
}

#[test]
fn signatures_are_ordered_distinct_and_bounded() {
    let good = sample::placement_second();
    let mut swapped = good.clone();
    swapped.signatures.swap(0, 1);
    assert!(swapped.verify(&network()).unwrap_err().to_string().contains("out of order"));
    let mut twice = good.clone();
    twice.signatures.insert(0, twice.signatures[0].clone());
    assert!(twice.verify(&network()).is_err());
    let many: Vec<_> = (1..=65).map(identity).collect();
    assert!(signed_by(second_body(), &many[..64]).verify(&network()).is_ok());
    assert!(signed_by(second_body(), &many).verify(&network()).is_err());
    let mut forged = good;
    forged.signatures[2].sig = forged.signatures[1].sig;
    assert!(matches!(forged.verify(&network()), Err(RecordError::Signature { .. })));
}

#[test]
fn a_quorum_of_the_holders_before_is_needed() {
    let first = placement();
    let by = |signers: &[_]| signed_by(second_body(), signers).verify_successor(&first);
    // max(2, floor(5/2)+1) = 3 of the four holders.
    by(&[0, 1, 2].map(holder)).unwrap();
    by(&[0, 1, 2, 4].map(holder)).unwrap();
    assert!(by(&[0, 1].map(holder)).unwrap_err().contains("2 of 3"));
    // The owner, a stranger, the new holder, and whoever would hold shard 3 do not count.
    for stranger in [owner(), identity(9), identity(150), holder(3)] {
        let error = by(&[holder(0), holder(1), stranger]).unwrap_err();
        assert!(error.contains("2 of 3"), "{error}");
    }
    let mut doubled = signed_by(second_body(), &[0, 1].map(holder));
    let again: Vec<PlacementSignature> = doubled.signatures.clone();
    doubled.signatures.extend(again);
    assert!(doubled.verify_successor(&first).is_err(), "a signer counts once");
}

#[test]
fn where_k_is_more_than_half_k_sign() {
    // 10+6: max(10, 9); 1+6: max(1, 4).
    for (k, m, quorum) in [(10, 6, 10), (1, 6, 4), (2, 1, 2), (1, 1, 2)] {
        let descriptor = sample::descriptor(k, m, 5000);
        let receipts = (0..k + m).map(|index| {
            let mut body = receipt(0).body;
            body.segment = descriptor.segment_id();
            (body.index, body.shard) = (index, descriptor.shards[usize::from(index)]);
            body.length = u32::try_from(descriptor.shard_len()).unwrap();
            body.holder = holder(index).node_id();
            Signed::new(&holder(index), body)
        });
        let receipts = receipts.collect();
        let body = Placement { descriptor: descriptor.clone(), receipts, ..placement().body };
        let first = PlacementRecord::first(&owner(), body.clone());
        first.verify(&network()).unwrap();
        let previous = Some(record_hash(&body));
        let next = Placement { version: 2, previous, ..body };
        let by = |count: u8| {
            let signers: Vec<_> = (0..count).map(holder).collect();
            signed_by(next.clone(), &signers).verify_successor(&first)
        };
        assert!(by(quorum).is_ok() && by(quorum - 1).is_err(), "{k}+{m}");
    }
}

#[test]
fn only_the_very_next_version_of_the_same_placement_follows() {
    let first = placement();
    let why = |change: fn(&mut Placement)| {
        let mut body = second_body();
        change(&mut body);
        let record = signed_by(body, &[0, 1, 2].map(holder));
        record.verify_successor(&first).unwrap_err()
    };
    assert!(why(|p| p.previous = Some(RecordHash([1; 32]))).contains("another previous"));
    assert!(why(|p| p.previous = None).contains("another previous"));
    assert!(why(|p| p.version = 3).contains("not the next version"));
    assert!(why(|p| p.version = 1).contains("not the next version"));
    assert!(why(|p| p.owner = sample::node_id(3)).contains("another segment or owner"));
    assert!(why(|p| p.descriptor = sample::descriptor(2, 3, 5001)).contains("another segment"));
    let second = sample::placement_second();
    assert!(second.verify_successor(&second).is_err());
    assert!(first.verify_successor(&second).is_err());
}

#[test]
fn the_last_of_all_versions_has_no_next() {
    let last = Placement { version: u64::MAX, ..second_body() };
    let previous = Some(record_hash(&last));
    let before = signed_by(last, &[0, 1, 2].map(holder));
    before.verify(&network()).unwrap();
    for version in [0, 1, u64::MAX] {
        let body = Placement { version, previous, ..second_body() };
        let record = signed_by(body, &[0, 1, 2].map(holder));
        assert!(record.verify_successor(&before).unwrap_err().contains("not the next"));
    }
}
