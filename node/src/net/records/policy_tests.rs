//! The policy under random operations and floods.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    policy::{PutError, RecordPolicy},
    record::{RecordId, RecordKey, StoredRecord},
};
use crate::net::{address::ObservedPrefix, limits::RecordLimits};

const OWN: [u8; 32] = [0xee; 32];
const NOW: u64 = 1_000;
const OVERHEAD: usize = 10;

fn limits() -> RecordLimits {
    RecordLimits {
        record_bytes_max: 100,
        record_overhead_bytes: OVERHEAD,
        per_key_max: 4,
        per_publisher_max: 10,
        per_publisher_bytes_max: 600,
        per_prefix_bytes_max: 1_000,
        total_bytes_max: 2_000,
        pinned_bytes_max: 500,
        lifetime_s_max: 1_000,
        database_cache_bytes: 0,
    }
}

fn policy() -> RecordPolicy {
    RecordPolicy::new(OWN, [1; 16], limits())
}

fn wide<const N: usize>(n: u32) -> [u8; N] {
    let mut out = [0; N];
    out[..4].copy_from_slice(&n.to_be_bytes());
    out
}

fn record(key: u32, publisher: u32, prefix: u32, len: usize) -> StoredRecord {
    StoredRecord {
        key: RecordKey(wide(key)),
        kind: 0,
        publisher: wide(publisher),
        sequence: 1,
        expires_unix_s: NOW + 100,
        prefix: wide(prefix),
        bytes: vec![7; len],
    }
}

/// Counts everything anew and compares; checks every bound.
fn check(policy: &RecordPolicy) {
    let limits = limits();
    let cost = |r: &StoredRecord| r.bytes.len() + OVERHEAD;
    let (mut total, mut pinned) = (0, 0);
    let mut publishers: BTreeMap<[u8; 32], (usize, usize)> = BTreeMap::new();
    let mut keys: BTreeMap<RecordKey, usize> = BTreeMap::new();
    let mut expiries = BTreeSet::new();
    for (id, held) in &policy.records {
        assert_eq!(*id, held.record.id());
        total += cost(&held.record);
        expiries.insert((held.record.expires_unix_s, *id));
        if held.pinned {
            pinned += cost(&held.record);
            continue;
        }
        *keys.entry(id.key).or_default() += 1;
        let used = publishers.entry(id.publisher).or_default();
        used.0 += 1;
        used.1 += cost(&held.record);
    }
    assert_eq!((total, pinned), (policy.total_bytes, policy.pinned_bytes));
    assert_eq!(expiries, policy.by_expiry);
    assert!(total <= limits.total_bytes_max, "{total} bytes in total");
    assert!(pinned <= limits.pinned_bytes_max, "{pinned} bytes pinned");
    assert!(keys.values().all(|n| *n <= limits.per_key_max));
    for (records, bytes) in publishers.values() {
        assert!(*records <= limits.per_publisher_max);
        assert!(*bytes <= limits.per_publisher_bytes_max);
    }
    let mut by_prefix: BTreeMap<ObservedPrefix, usize> = BTreeMap::new();
    let mut by_publisher: BTreeMap<[u8; 32], (usize, usize)> = BTreeMap::new();
    for ((prefix, publisher), (bytes, records)) in policy.shares.totals() {
        *by_prefix.entry(prefix).or_default() += bytes;
        let used = by_publisher.entry(publisher).or_default();
        used.0 += records;
        used.1 += bytes;
    }
    assert_eq!(by_publisher, publishers);
    assert!(by_prefix.values().all(|bytes| *bytes <= limits.per_prefix_bytes_max));
}

fn snapshot(policy: &RecordPolicy) -> Vec<(StoredRecord, bool)> {
    policy.records.values().map(|held| ((*held.record).clone(), held.pinned)).collect()
}

#[derive(Debug, Clone)]
enum Op {
    Put { record: StoredRecord, pinned: bool },
    Pin { nth: usize, pinned: bool },
    Remove { nth: usize },
    Sweep { now: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let put = (0u32..6, 0u32..12, 0u32..5, 0usize..120, 0u64..4, 0u64..300, any::<u8>());
    let put = put.prop_map(|(key, publisher, prefix, len, sequence, life, dice)| {
        let mut record = record(key, publisher, prefix, len);
        record.sequence = sequence;
        record.expires_unix_s = NOW + life;
        if dice < 20 {
            record.publisher = OWN;
        }
        Op::Put { record, pinned: dice > 240 }
    });
    prop_oneof![
        20 => put,
        1 => (0usize..50, any::<bool>()).prop_map(|(nth, pinned)| Op::Pin { nth, pinned }),
        1 => (0usize..50).prop_map(|nth| Op::Remove { nth }),
        1 => (0u64..300).prop_map(|past| Op::Sweep { now: NOW + past }),
    ]
}

fn nth(policy: &RecordPolicy, nth: usize) -> Option<RecordId> {
    policy.records.keys().nth(nth % policy.len().max(1)).copied()
}

fn apply(policy: &mut RecordPolicy, op: Op) {
    match op {
        Op::Put { record, pinned } => {
            let before = snapshot(policy);
            let id = record.id();
            match policy.put(record.clone(), pinned, NOW) {
                Ok(evicted) => {
                    assert_eq!(*policy.records[&id].record, record);
                    for gone in evicted {
                        assert!(!policy.records.contains_key(&gone) && gone.publisher != OWN);
                        let was = before.iter().find(|(r, _)| r.id() == gone);
                        assert!(was.is_some_and(|(_, pinned)| !pinned), "a pinned one was evicted");
                    }
                }
                Err(_) => assert_eq!(snapshot(policy), before, "a refusal changed something"),
            }
        }
        Op::Pin { nth: n, pinned } => {
            let Some(id) = nth(policy, n) else { return };
            if pinned {
                let fits = policy.pin(&id).is_ok();
                assert_eq!(policy.is_pinned(&id), fits);
            } else if let Some(evicted) = policy.unpin(&id) {
                assert!(!policy.is_pinned(&id));
                assert!(evicted.iter().all(|gone| !policy.records.contains_key(gone)));
            }
        }
        Op::Remove { nth: n } => {
            if let Some(id) = nth(policy, n) {
                assert!(policy.remove(&id));
            }
        }
        Op::Sweep { now } => {
            policy.sweep(now);
            assert!(policy.records.values().all(|held| held.record.expires_unix_s > now));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_operation_breaks_a_bound_or_an_index(ops in prop::collection::vec(op(), 1..150)) {
        let mut policy = policy();
        for op in ops {
            apply(&mut policy, op);
            check(&policy);
        }
    }

    // Networks that use no more than their fair part of the store lose nothing, whatever one
    // other network throws at it: fresh publishers, fresh keys, any sizes.
    #[test]
    fn a_flood_from_one_network_evicts_nobody_else(
        honest in prop::collection::vec((0u32..8, 1u32..4, 0usize..40), 1..20),
        flood in prop::collection::vec((any::<u32>(), 100u32.., 0usize..=100), 200..600),
        before in any::<bool>(),
    ) {
        let fair = limits().total_bytes_max / 5;
        let mut policy = policy();
        let (early, late) = flood.split_at(if before { flood.len() / 2 } else { 0 });
        let throw = |policy: &mut RecordPolicy, part: &[(u32, u32, usize)]| {
            for (key, publisher, len) in part {
                // Half of them aim at the keys of honest records.
                let key = if key % 2 == 0 { key % 8 } else { *key };
                let _ = policy.put(record(key, *publisher, 0, *len), false, NOW);
            }
        };
        throw(&mut policy, early);
        let mut kept = Vec::new();
        let mut used: BTreeMap<u32, usize> = BTreeMap::new();
        for (key, prefix, len) in honest {
            // One publisher per network and key: an honest re-announcement would be a new version.
            let bytes = used.entry(prefix).or_default();
            let new = record(key, prefix, prefix, len);
            if *bytes + len + OVERHEAD <= fair.min(600) && !kept.contains(&new.id()) && kept.len() < 40 {
                *bytes += len + OVERHEAD;
                let id = new.id();
                let outcome = policy.put(new, false, NOW);
                prop_assert!(outcome.is_ok(), "{outcome:?}: a flood kept an honest record out");
                kept.push(id);
            }
        }
        throw(&mut policy, late);
        check(&policy);
        for id in kept {
            prop_assert!(policy.records.contains_key(&id), "{id:?} was evicted by a flood");
        }
    }
}

#[test]
fn a_thousand_publishers_of_one_network_evict_nobody() {
    let mut policy = policy();
    let honest: Vec<RecordId> = (1..5)
        .map(|n| {
            let new = record(n, n, n, 100);
            let id = new.id();
            policy.put(new, false, NOW).unwrap();
            id
        })
        .collect();
    let own = StoredRecord { publisher: OWN, ..record(9, 0, 0, 100) };
    policy.put(own.clone(), false, NOW).unwrap();
    for n in 0..1_000 {
        let _ = policy.put(record(100 + n, 1_000 + n, 77, 50), false, NOW);
    }
    check(&policy);
    assert!(honest.iter().all(|id| policy.records.contains_key(id)));
    assert!(policy.records.contains_key(&own.id()));
    let refused = policy.put(record(5_000, 5_000, 77, 50), false, NOW);
    assert_eq!(refused, Err(PutError::PrefixFull));
}

#[test]
fn of_networks_with_equal_shares_none_evicts_another() {
    let mut policy = policy();
    for n in 0..12 {
        for network in 1..4 {
            policy.put(record(n, n * 10 + network, network, 45), false, NOW).unwrap();
        }
    }
    // 1,980 of 2,000 bytes, 660 each: the next of any of them would have the biggest share.
    let before = snapshot(&policy);
    for network in 1..4 {
        let refused = policy.put(record(50, 500 + network, network, 45), false, NOW);
        assert_eq!(refused, Err(PutError::StoreFull));
    }
    assert_eq!(snapshot(&policy), before);
    // A fourth network has a smaller share, and gets in.
    let evicted = policy.put(record(60, 600, 4, 45), false, NOW).unwrap();
    assert_eq!(evicted.len(), 1);
    check(&policy);
}

#[test]
fn a_refusal_brings_back_what_was_evicted_on_the_way() {
    let mut policy = policy();
    for publisher in 0..4 {
        policy.put(record(1, publisher, 1, 5), false, NOW).unwrap();
    }
    for n in 0..50 {
        policy.put(record(100 + n, 100 + n, 2, 10), false, NOW).unwrap();
    }
    let before = snapshot(&policy);
    // The key has room for a second network, and that network has no room for the newcomer.
    let refused = policy.put(record(1, 900, 2, 10), false, NOW);
    assert_eq!(refused, Err(PutError::PrefixFull));
    assert_eq!(snapshot(&policy), before);
    check(&policy);
}

#[test]
fn a_publisher_cannot_exceed_its_bound_from_anywhere() {
    let mut policy = policy();
    let stored = (0..50).filter(|n| policy.put(record(*n, 1, *n, 0), false, NOW).is_ok()).count();
    assert_eq!(stored, limits().per_publisher_max);
    let full = PutError::PublisherFull { publisher: wide(1) };
    assert_eq!(policy.put(record(99, 1, 99, 0), false, NOW), Err(full));
    // A new version of what it has is welcome.
    let newer = StoredRecord { sequence: 2, ..record(3, 1, 3, 5) };
    assert_eq!(policy.put(newer, false, NOW), Ok(Vec::new()));
}

#[test]
fn versions_replace_and_equal_or_lower_ones_are_stale() {
    let mut policy = policy();
    let version = |sequence| StoredRecord { sequence, ..record(1, 1, 1, 5) };
    policy.put(version(5), false, NOW).unwrap();
    for sequence in [4, 5] {
        let stale = PutError::Stale { sequence, stored: 5 };
        assert_eq!(policy.put(version(sequence), true, NOW), Err(stale));
    }
    policy.put(version(6), false, NOW).unwrap();
    let got = policy.get(&RecordKey(wide(1)), NOW);
    assert_eq!((got.len(), got[0].sequence), (1, 6));
    assert_eq!(policy.get(&RecordKey(wide(1)), NOW + 100), [], "expired, not yet swept");
}

#[test]
fn under_a_key_many_networks_win_over_many_publishers_of_one() {
    let mut policy = policy();
    for publisher in 0..4 {
        policy.put(record(1, publisher, 1, 5), false, NOW).unwrap();
    }
    // The key is full of one network; others come late and get in, up to one of the first.
    for network in 2..5 {
        policy.put(record(1, 10 + network, network, 5), false, NOW).unwrap();
    }
    check(&policy);
    let prefixes: BTreeSet<ObservedPrefix> =
        policy.get(&RecordKey(wide(1)), NOW).iter().map(|r| r.prefix).collect();
    assert_eq!(prefixes.len(), 4);
    assert_eq!(policy.put(record(1, 50, 2, 5), false, NOW), Err(PutError::KeyFull { max: 4 }));
    // Between networks with one record each, publishers do not matter: who lost once, loses
    // again with any fresh key.
    let mut losers = 0;
    for network in 10..40 {
        let first = policy.put(record(1, 100 + network, network, 5), false, NOW).is_ok();
        let again = policy.put(record(1, 200 + network, network, 5), false, NOW).is_ok();
        if !first {
            losers += 1;
            assert!(!again, "a fresh publisher got network {network} in");
        }
    }
    assert!(losers > 10, "{losers}: an order, not the latest");
}

#[test]
fn a_record_counts_against_the_least_crowded_network_that_delivered_it() {
    let mut policy = policy();
    for n in 0..5 {
        policy.put(record(10 + n, 10 + n, 66, 50), false, NOW).unwrap();
    }
    // Delivered first from a crowded network, then from its own.
    let mut new = record(1, 1, 66, 20);
    policy.put(new.clone(), false, NOW).unwrap();
    new.prefix = wide(1);
    assert!(matches!(policy.put(new.clone(), false, NOW), Err(PutError::Stale { .. })));
    assert_eq!(policy.shares.of_prefix(&wide(1)), 20 + OVERHEAD);
    // And a newer version delivered from the crowded one does not move it back.
    new.prefix = wide(66);
    new.sequence = 2;
    policy.put(new, false, NOW).unwrap();
    assert_eq!(policy.shares.of_prefix(&wide(1)), 20 + OVERHEAD);
    check(&policy);
}

#[test]
fn sizes_and_times_are_bounded() {
    let mut policy = policy();
    let error = |policy: &mut RecordPolicy, r| policy.put(r, true, NOW).unwrap_err();
    let large = record(1, 1, 1, 101);
    assert_eq!(error(&mut policy, large), PutError::TooLarge { bytes: 101, max: 100 });
    let over = StoredRecord { expires_unix_s: NOW, ..record(1, 1, 1, 1) };
    assert_eq!(error(&mut policy, over), PutError::Expired { expires_unix_s: NOW });
    let long = StoredRecord { expires_unix_s: u64::MAX, ..record(1, 1, 1, 1) };
    assert!(matches!(error(&mut policy, long), PutError::TooLong { .. }));
    for n in 0..4 {
        policy.put(record(n, n, n, 100), true, NOW).unwrap();
    }
    assert_eq!(error(&mut policy, record(9, 9, 9, 100)), PutError::PinnedFull { max: 500 });
    assert!(!policy.is_empty() && policy.pinned().len() == 4);
}
