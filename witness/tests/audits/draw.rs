//! Draws: against numbers computed by hand from the text of the specification, and against what
//! chance allows.

use echonet_protocol::{bytes::RecordHash, segment::SegmentId};
use echonet_witness::draw::{self, Draw, Rates};

use crate::rig::{self, FULL, made_up, slow_world, world};

/// A draw's hash, as the text has it.
fn derive(context: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    *hasher.finalize().as_bytes()
}

fn number(hash: &[u8; 32], which: usize) -> u64 {
    u64::from_le_bytes(hash[which * 8..which * 8 + 8].try_into().unwrap())
}

#[test]
fn numbers_are_those_of_the_text() {
    let world = slow_world();
    let signature = world.beacon(3);
    let value = derive(
        "EchoNet 2026 witness beacon value v1",
        &[&world.network.0, &3_u64.to_le_bytes(), &signature.signature().0],
    );
    assert_eq!(value, *signature.value());
    // T = floor((2^64 - 1) * 100 / 20000), L0 = ceil(33554432 / 10), by hand.
    let threshold = 92_233_720_368_547_758_u64;
    assert_eq!(world.rates.full_shard, 3_355_444);
    for n in 0..2_000 {
        let segment = made_up(n);
        let hash = derive("EchoNet 2026 audit draw v1", &[&value, &segment.0]);
        let draw = Draw::new(&signature, &segment);
        let numbers = [0, 1, 2].map(|which| number(&hash, which));
        assert_eq!([draw.by_segment, draw.by_byte, draw.moment], numbers);
        assert_eq!(draw.asks_after_ms(&world.rates), numbers[2] % 1_800_000);
        for length in [1, 1_000_000, 3_355_444, 4_194_304_u64] {
            let by_byte = u128::from(threshold) * u128::from(length.min(3_355_444)) / 3_355_444;
            let expected = numbers[0] < threshold || u128::from(numbers[1]) < by_byte;
            assert_eq!(draw.is_due(&world.rates, length), expected);
        }
    }
}

#[test]
fn a_committee_is_the_lowest_by_hash() {
    let world = world();
    let (beacon, segment) = (world.beacon(3), made_up(1));
    let mut ranked: Vec<_> = world
        .members()
        .iter()
        .map(|member| {
            let context = "EchoNet 2026 audit committee v1";
            (derive(context, &[beacon.value(), &segment.0, &member.0]), *member)
        })
        .collect();
    ranked.sort_unstable();
    let expected: Vec<_> = ranked.into_iter().map(|(_, member)| member).collect();
    assert_eq!(draw::committee(&beacon, &segment, world.members(), &world.rates), expected);
    let small = Rates { committee_max: 4, ..world.rates };
    assert_eq!(draw::committee(&beacon, &segment, world.members(), &small), expected[..4]);
    let mut reversed = world.members().to_vec();
    reversed.reverse();
    assert_eq!(draw::committee(&beacon, &segment, &reversed, &world.rates), expected);
    assert!(draw::committee(&beacon, &segment, &[], &world.rates).is_empty());
}

#[test]
fn a_leaf_follows_from_the_signed_challenge() {
    let world = world();
    let challenge = world.challenge(0, 3, made_up(1), None);
    let parts: [&[u8]; 2] = [&challenge.hash().0, &challenge.sig.0];
    let drawn = number(&derive("EchoNet 2026 audit leaf v1", &parts), 0);
    assert_eq!(draw::leaf(&challenge, u64::from(FULL)), drawn % 3277);
    assert_eq!(draw::leaf(&challenge, 1025), drawn % 2);
    assert_eq!(draw::leaf(&challenge, 1024), 0);
    assert_eq!(draw::leaf(&challenge, 1), 0);
    let other = world.challenge(1, 3, made_up(1), None);
    assert_ne!(draw::leaf(&challenge, 4 << 20), draw::leaf(&other, 4 << 20));
}

#[test]
fn one_verdict_of_sixteen_is_looked_at_again() {
    let beacon = world().beacon(4);
    let hash = |n: u64| RecordHash(*blake3::hash(&n.to_le_bytes()).as_bytes());
    let hits = (0..16_000).filter(|n| draw::is_reaudited(&beacon, &hash(*n))).count();
    // 1000 expected, standard deviation 31.
    assert!((850..1150).contains(&hits), "{hits}");
    let drawn = derive("EchoNet 2026 re-audit v1", &[beacon.value(), &hash(1).0]);
    assert_eq!(draw::is_reaudited(&beacon, &hash(1)), number(&drawn, 0).is_multiple_of(16));
}

/// How many of 40,000 segments of a length are due in an epoch.
fn hits(rates: &Rates, epoch: u64, length: u64) -> usize {
    let beacon = slow_world().beacon(epoch);
    let is_due = |n| Draw::new(&beacon, &made_up(n)).is_due(rates, length);
    (0..40_000).filter(|n| is_due(*n)).count()
}

#[test]
fn the_rate_is_the_genesis_by_segment_and_by_byte() {
    let rates = Rates { audit_permyriad: 1000, ..slow_world().rates };
    for epoch in [1, 2] {
        // Half by segment: 5 %, so 2000; half by byte, of which the tiny ones have nothing.
        // Standard deviations are 44 to 60.
        let tiny = hits(&rates, epoch, 1);
        assert!((1780..2220).contains(&tiny), "{tiny} of 1 byte");
        // 1 - 0.95 * 0.975 = 7.4 %.
        let half = hits(&rates, epoch, 1_677_722);
        assert!((2690..3260).contains(&half), "{half} of half a shard");
        // 1 - 0.95 * 0.95 = 9.75 %.
        let full = hits(&rates, epoch, 3_355_444);
        assert!((3600..4200).contains(&full), "{full} of a full shard");
        assert_eq!(
            hits(&rates, epoch, 4_194_304),
            full,
            "no shard counts for more than a full one"
        );
    }
}

#[test]
fn every_member_asks_about_as_often() {
    let world = world();
    let mut turns = [0; rig::WITNESSES];
    for n in 0..7_000 {
        turns[world.asker(5, &made_up(n))] += 1;
    }
    // 1000 expected, standard deviation 29.
    assert!(turns.iter().all(|turns| (860..1140).contains(turns)), "{turns:?}");
}

#[test]
fn no_region_of_the_segments_is_favoured() {
    let (world, rates) = (slow_world(), Rates { audit_permyriad: 1000, ..slow_world().rates });
    let beacon = world.beacon(7);
    for high in [0, 0x55, 0xff] {
        let due = (0..20_000_u64).filter(|n| {
            let mut id = [high; 32];
            id[24..].copy_from_slice(&n.to_le_bytes());
            Draw::new(&beacon, &SegmentId(id)).is_due(&rates, 1)
        });
        let due = due.count();
        assert!((840..1160).contains(&due), "{due} at {high:#x}");
    }
}

#[test]
fn deadlines_and_budgets_are_those_of_the_table() {
    let rates = |epoch_s| Rates { epoch_s, ..world().rates };
    let deadline = |epoch_s| rates(epoch_s).deadline_ms();
    assert_eq!(
        [1, 8, 9, 40, 80, 81, 3600].map(deadline),
        [2_000, 2_000, 2_250, 10_000, 20_000, 20_000, 20_000]
    );
    let budget = |bytes| rates(3600).budget_leaves(bytes);
    // 1 TB: 0.1 % a day is 976,562 leaves, an hour of it 40,690.
    assert_eq!([0, 1 << 30, 1_000_000_000_000].map(budget), [32, 43, 40_690]);
    assert!(rates(86_400).budget_leaves(u64::MAX) > 1 << 43);
}
