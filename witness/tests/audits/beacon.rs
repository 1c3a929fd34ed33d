//! Beacons: drand's own vector, parts and their sum, and everything that is none.

use std::collections::BTreeMap;

use echonet_protocol::{
    bytes::BeaconSignature,
    network::{QUICKNET_CHAIN, WitnessParams},
    time::{Epoch, UnixSeconds},
};
use echonet_witness::beacon::{BeaconError, Beacons, deal};

use crate::rig;

/// Quicknet's public key.
pub(crate) const KEY: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a";
/// Its signature of round 657,413.
pub(crate) const SIGNATURE: &str = "b713718a38ae728dfd477991af2822e08d2f305e47718cef9f7848ce4050e7be41076862b98fad56e91a6b85b89cd97b";
const ROUND: u64 = 657_413;
const FIRST_ROUND_AT: u64 = 1_692_803_367;

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().map(|c| (c as char).to_digit(16).unwrap() as u8).collect();
    digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect()
}

pub(crate) fn signature() -> BeaconSignature {
    BeaconSignature(unhex(SIGNATURE).try_into().unwrap())
}

/// A network on drand's beacon whose epoch 0 begins then.
fn drand(created: u64) -> Beacons {
    let witness = WitnessParams {
        drand_chain: QUICKNET_CHAIN.into(),
        beacon_key: unhex(KEY),
        ..WitnessParams::none()
    };
    let mut genesis = rig::genesis(100, witness);
    genesis.created = UnixSeconds(created);
    Beacons::new(&genesis).unwrap()
}

#[test]
fn the_round_of_quicknet_verifies_and_nothing_near_it() {
    let beacons = drand(FIRST_ROUND_AT + 3 * (ROUND - 1));
    assert_eq!(beacons.round(Epoch(0)), Some(ROUND));
    let beacon = beacons.verify(Epoch(0), &signature()).unwrap();
    assert_eq!(*beacon.signature(), signature());
    assert_eq!(beacons.verify(Epoch(1), &signature()), Err(BeaconError::Signature(1)));
    for bit in 0..48 * 8 {
        let mut bytes = signature();
        bytes.0[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(beacons.verify(Epoch(0), &bytes), Err(BeaconError::Signature(0)), "bit {bit}");
    }
    let mut infinity = BeaconSignature([0; 48]);
    infinity.0[0] = 0xc0;
    assert!(beacons.verify(Epoch(0), &infinity).is_err());
}

#[test]
fn the_round_is_the_first_not_before_the_epoch() {
    let round = |created| drand(created).round(Epoch(0));
    assert_eq!(round(FIRST_ROUND_AT), Some(1));
    assert_eq!(round(FIRST_ROUND_AT + 1), Some(2));
    assert_eq!(round(FIRST_ROUND_AT + 3), Some(2));
    assert_eq!(round(FIRST_ROUND_AT + 4), Some(3));
    assert_eq!(round(FIRST_ROUND_AT - 1), None);
    let early = drand(FIRST_ROUND_AT - 1);
    assert_eq!(early.verify(Epoch(0), &signature()), Err(BeaconError::TooEarly(0)));
    assert_eq!(early.round(Epoch(1)), Some(1 + 3599_u64.div_ceil(3)));
}

#[test]
fn any_quorum_of_parts_gives_the_one_beacon() {
    let world = rig::world();
    let expected = world.beacon(9);
    let parts: BTreeMap<u8, BeaconSignature> = (0..7)
        .map(|i| (i, world.shares[usize::from(i)].part(&world.beacons, Epoch(9)).unwrap()))
        .collect();
    for (index, part) in &parts {
        world.beacons.verify_part(Epoch(9), *index, part).unwrap();
    }
    // All 21 ways to leave two out.
    for first in 0..7_u8 {
        for second in 0..first {
            let some = parts.iter().filter(|(i, _)| ![first, second].contains(*i));
            let some = some.map(|(i, part)| (*i, *part)).collect();
            assert_eq!(world.beacons.recover(Epoch(9), &some), Ok(expected));
        }
    }
    assert_eq!(world.beacons.recover(Epoch(9), &parts), Ok(expected), "with more than needed");
    let few = parts.iter().take(4).map(|(i, part)| (*i, *part)).collect();
    let error = BeaconError::TooFew { epoch: 9, found: 4, needed: 5 };
    assert_eq!(world.beacons.recover(Epoch(9), &few), Err(error));
    assert_ne!(expected.value(), world.beacon(10).value());
}

#[test]
fn a_wrong_part_is_seen_before_it_is_used() {
    let world = rig::world();
    let part = |i: usize, epoch| world.shares[i].part(&world.beacons, Epoch(epoch)).unwrap();
    let check = |index, part| world.beacons.verify_part(Epoch(9), index, &part);
    assert!(check(3, part(3, 9)).is_ok());
    let wrong = |index| Err(BeaconError::Part { index, epoch: 9 });
    assert_eq!(check(2, part(3, 9)), wrong(2), "another member's");
    assert_eq!(check(3, part(3, 8)), wrong(3), "another epoch's");
    assert_eq!(check(7, part(3, 9)), wrong(7), "nobody's");
    assert_eq!(check(3, *world.beacon(9).signature()), wrong(3), "the whole");
    // Whoever does not check learns that something was wrong, and no beacon.
    let mut parts: BTreeMap<_, _> = (0..5).map(|i| (i, part(usize::from(i), 9))).collect();
    parts.insert(2, part(3, 9));
    assert_eq!(world.beacons.recover(Epoch(9), &parts), Err(BeaconError::Signature(9)));
}

#[test]
fn keys_that_are_none_are_refused() {
    let mut genesis = rig::world().genesis.clone();
    genesis.witness.beacon_shares[6].0[95] ^= 1;
    assert!(matches!(Beacons::new(&genesis), Err(BeaconError::Key(_))));
    genesis = rig::world().genesis.clone();
    genesis.witness.beacon_key = vec![0; 96];
    assert!(matches!(Beacons::new(&genesis), Err(BeaconError::Key(_))));
    let none = Beacons::new(&rig::genesis(100, WitnessParams::none())).unwrap();
    assert_eq!(none.verify(Epoch(0), &signature()), Err(BeaconError::None));
    let share = &rig::world().shares[0];
    assert_eq!(share.part(&none, Epoch(0)), Err(BeaconError::NotShared));
    assert_eq!(share.part(&drand(FIRST_ROUND_AT), Epoch(0)), Err(BeaconError::NotShared));
}

#[test]
fn a_key_is_dealt_by_its_seed_alone() {
    let (one, same, other) =
        (deal(4, &[1; 32]).unwrap(), deal(4, &[1; 32]).unwrap(), deal(4, &[2; 32]).unwrap());
    assert_eq!(one.key, same.key);
    assert_ne!(one.key, other.key);
    assert_eq!(one.shares.len(), 4);
    // A single witness holds the whole key.
    let alone = deal(1, &[1; 32]).unwrap();
    assert_eq!(alone.key, alone.shares[0].public());
}
