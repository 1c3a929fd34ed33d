//! What a vault does when nothing goes wrong.
use crate::fake_disk::Machine;
use crate::support::{key, lease, meta, open, owner, placement_key, put, shard, small_config};
use echonet_vault::{
    IndexState, LeaseMeta, Outcome, PLACEMENT_LEN_MAX, PLACEMENTS_PER_SEGMENT_MAX, ReadError,
    Vault, VaultConfig, WriteError,
};

#[test]
fn what_is_put_is_found_again_after_reopening() {
    let machine = Machine::new(1);
    let disk = machine.mount();
    let (vault, report) = open(&disk, small_config());
    assert_eq!(report.index, IndexState::New);
    for number in 0..100 {
        assert_eq!(put(&vault, number, lease(number, 1, 50), 3).unwrap(), Outcome::Written);
    }
    for number in 0..100 {
        assert_eq!(put(&vault, number, lease(number, 1, 50), 3).unwrap(), Outcome::Already);
    }
    let stats = vault.stats().unwrap();
    assert_eq!(stats.shards, 100);
    drop(vault);
    let (vault, report) = open(&disk, small_config());
    assert_eq!((report.index, report.replayed_records), (IndexState::Used, 0));
    for number in 0..100 {
        assert_eq!(vault.read_verified(key(number)).unwrap(), shard(number));
        let located = vault.get(key(number)).unwrap().unwrap();
        assert_eq!(located.meta().unwrap(), meta(number));
        assert_eq!(vault.read_range(key(number), 10, 20).unwrap(), shard(number)[10..30]);
    }
    assert!(matches!(vault.read_range(key(0), 90, 11), Err(ReadError::Range { .. })));
    assert!(matches!(vault.read_verified(key(100)), Err(ReadError::NotStored)));
    assert_eq!(vault.segments(None, 1_000).unwrap().len(), 25);
    assert_eq!(vault.keys(Some(key(97)), 10).unwrap(), vec![key(98), key(99)]);
}

#[test]
fn a_lost_index_is_made_again() {
    let machine = Machine::new(2);
    let disk = machine.mount();
    let (vault, _) = open(&disk, small_config());
    for number in 0..200 {
        put(&vault, number, lease(number, 1, 50), 3).unwrap();
    }
    let placed = placement_key(2, 1);
    vault.put_placement(placed.segment, placed.owner, 4, b"placed"[..].into()).unwrap();
    let before = vault.stats().unwrap();
    drop(vault);
    machine.delete("/data/vault/index.redb".as_ref());
    let (vault, report) = open(&disk, small_config());
    assert!(matches!(report.index, IndexState::Rebuilt(_)), "{report:?}");
    assert!(report.damaged.is_empty() && report.unsealed_volumes.is_empty(), "{report:?}");
    let after = vault.stats().unwrap();
    assert_eq!((before.shards, before.live_bytes), (after.shards, after.live_bytes));
    assert_eq!(vault.placement(&placed).unwrap(), Some((4, b"placed"[..].into())));
    for number in 0..200 {
        assert_eq!(vault.read_verified(key(number)).unwrap(), shard(number));
    }
}

#[test]
fn leases_end_and_shards_go_after_the_grace() {
    let machine = Machine::new(3);
    let disk = machine.mount();
    let (vault, _) = open(&disk, small_config());
    put(&vault, 0, lease(0, 1, 10), 0).unwrap();
    put(&vault, 0, lease(0, 2, 20), 0).unwrap();
    let (one, two) = (placement_key(0, 1), placement_key(0, 2));
    for placed in [one, two] {
        vault.put_placement(placed.segment, placed.owner, 1, b"p"[..].into()).unwrap();
    }
    let report = vault.collect(11).unwrap();
    assert_eq!((report.pruned, report.placements_dropped), (0, 0), "the grace counts for both");
    let report = vault.collect(13).unwrap();
    assert_eq!((report.dropped, report.pruned, report.placements_dropped), (0, 1, 1));
    assert_eq!(vault.leases(key(0)).unwrap().len(), 1);
    assert!(vault.placement(&one).unwrap().is_none(), "its owner's lease is over");
    assert!(vault.placement(&two).unwrap().is_some(), "the other owner's is not");
    vault.end_lease(key(0), lease(0, 2, 20).id).unwrap();
    assert!(matches!(put(&vault, 0, lease(0, 2, 20), 0), Err(WriteError::LeaseEnded)));
    let report = vault.collect(1).unwrap();
    assert_eq!(report.dropped, 0, "the grace counts from the put too");
    assert_eq!(report.placements_dropped, 1, "an ended lease keeps no record");
    assert_eq!(vault.collect(2).unwrap().dropped, 1);
    assert!(vault.get(key(0)).unwrap().is_none());
    assert!(vault.placement(&two).unwrap().is_none());
}

#[test]
fn an_unsealed_lease_lasts_its_short_term_and_a_sealed_one_all_of_it() {
    let machine = Machine::new(4);
    let disk = machine.mount();
    let (vault, _) = open(&disk, small_config());
    for number in [0, 1] {
        let open = echonet_vault::LeaseMeta { sealed: false, ..lease(number, 1, 100) };
        put(&vault, number, open, 5).unwrap();
    }
    vault.seal(key(1), lease(1, 1, 0).id).unwrap();
    assert_eq!(vault.collect(5 + 4 + 2 - 1).unwrap().dropped, 0);
    assert_eq!(vault.collect(5 + 4 + 2).unwrap().dropped, 1);
    assert!(vault.get(key(0)).unwrap().is_none());
    assert!(vault.get(key(1)).unwrap().is_some());
    assert!(matches!(vault.seal(key(0), [0; 32]), Err(WriteError::NotStored)));
}

#[test]
fn compaction_gives_space_back_and_keeps_what_counts() {
    let machine = Machine::new(5);
    let disk = machine.mount();
    let (vault, _) = open(&disk, small_config());
    for number in 0..300 {
        let until = if number % 3 == 0 { 100 } else { 10 };
        put(&vault, number, lease(number, 1, until), 0).unwrap();
        if number % 9 == 0 {
            put(&vault, number, lease(number, 2, 200), 0).unwrap();
        }
    }
    let held = vault.get(key(1)).unwrap().unwrap();
    assert_eq!(vault.collect(12).unwrap().dropped, 200);
    let before = vault.stats().unwrap();
    while vault.compact_step(20).unwrap().is_some() {}
    let after = vault.stats().unwrap();
    assert!(after.garbage_bytes < before.garbage_bytes / 10, "{before:?} {after:?}");
    assert!(after.used_bytes < before.used_bytes, "{before:?} {after:?}");
    assert_eq!(held.read_range(0, 50).unwrap(), shard(1)[..50], "a held handle still reads");
    drop(held);
    drop(vault);
    machine.delete("/data/vault/index.redb".as_ref());
    let (vault, _) = open(&disk, small_config());
    for number in 0..300 {
        let found = vault.get(key(number)).unwrap().is_some();
        assert_eq!(found, number % 3 == 0, "{number}");
        if found {
            assert_eq!(vault.read_verified(key(number)).unwrap(), shard(number));
            let leases = if number % 9 == 0 { 2 } else { 1 };
            assert_eq!(vault.leases(key(number)).unwrap().len(), leases);
        }
    }
}

#[test]
fn the_longest_placement_record_survives_a_rebuild_and_compaction_and_no_longer_one_is_taken() {
    let machine = Machine::new(6);
    let disk = machine.mount();
    let longest = PLACEMENT_LEN_MAX as usize;
    let volume_len =
        VaultConfig { placement_len_max: PLACEMENT_LEN_MAX, ..small_config() }.volume_len_min();
    let config = VaultConfig { placement_len_max: PLACEMENT_LEN_MAX, volume_len, ..small_config() };
    let (vault, _) = open(&disk, config);
    let record = |version: u64, len: usize| bytes::Bytes::from(vec![version as u8; len]);
    for segment in 0..4 {
        put(&vault, segment * 4, lease(segment * 4, 1, 50), 3).unwrap();
        for version in 1..4 {
            let to = placement_key(segment, 1);
            let record = record(version, longest);
            vault.put_placement(to.segment, to.owner, version, record).unwrap();
        }
    }
    let refused = vault.put_placement(key(0).segment, owner(1), 9, record(9, longest + 1));
    assert!(matches!(refused, Err(WriteError::TooLong { .. })));
    while vault.compact_step(20).unwrap().is_some() {}
    let live = vault.stats().unwrap().live_bytes;
    drop(vault);
    machine.delete("/data/vault/index.redb".as_ref());
    let (vault, report) = open(&disk, config);
    assert!(report.damaged.is_empty(), "{report:?}");
    assert_eq!(vault.stats().unwrap().live_bytes, live);
    for segment in 0..4 {
        let found = vault.placement(&placement_key(segment, 1)).unwrap();
        assert_eq!(found, Some((3, record(3, longest))));
    }
    let short = VaultConfig { placement_len_max: PLACEMENT_LEN_MAX, ..small_config() };
    assert!(Vault::open(Machine::new(7).mount(), "/data/vault".as_ref(), short).is_err());
}

#[test]
fn each_owner_keeps_a_placement_record_of_its_own_and_all_are_found() {
    let machine = Machine::new(8);
    let disk = machine.mount();
    let (vault, _) = open(&disk, small_config());
    for number in [0, 4, 8] {
        put(&vault, number, lease(number, 1, 50), 0).unwrap();
    }
    put(&vault, 4, lease(4, 2, 50), 0).unwrap();
    let place = |segment: u64, id: u64, sequence: u64, text: &'static str| {
        let key = placement_key(segment, id);
        vault.put_placement(key.segment, key.owner, sequence, text.into())
    };
    assert!(matches!(place(9, 1, 1, "no shard"), Err(WriteError::NotStored)));
    assert!(matches!(place(0, 2, 1, "no lease"), Err(WriteError::NoSuchLease)));
    place(1, 1, 7, "first").unwrap();
    // A stranger's high sequence hides nothing of the first owner's.
    place(1, 2, 900, "second").unwrap();
    place(1, 1, 8, "first again").unwrap();
    for stale in [7, 8] {
        let refused = place(1, 1, stale, "stale");
        assert!(matches!(refused, Err(WriteError::StalePlacement { have: 8 })), "{refused:?}");
    }
    place(2, 1, 1, "third").unwrap();
    let found = vault.placements(&key(4).segment).unwrap();
    let found: Vec<_> = found.iter().map(|p| (p.owner, p.sequence, &p.record[..])).collect();
    // By owner, and that of even ids sorts first.
    let wanted: [([u8; 32], u64, &[u8]); 2] =
        [(owner(2), 900, b"second"), (owner(1), 8, b"first again")];
    assert_eq!(found, wanted);
    let (mut walked, mut after) = (Vec::new(), None);
    while let Some((key, sequence)) = vault.placement_keys(after, 1).unwrap().first().copied() {
        walked.push((key, sequence));
        after = Some(key);
    }
    let wanted = [(placement_key(1, 2), 900), (placement_key(1, 1), 8), (placement_key(2, 1), 1)];
    assert_eq!(walked, wanted);
}

#[test]
fn as_many_owners_as_have_places_keep_placement_records_and_no_more() {
    let machine = Machine::new(9);
    let disk = machine.mount();
    let (vault, _) = open(&disk, small_config());
    let most = PLACEMENTS_PER_SEGMENT_MAX as u64;
    for id in 0..=most {
        // Two shards of the segment, so that leases are not what bounds it.
        let number = id % 2;
        let mine = LeaseMeta { owner: [id as u8; 32], ..lease(number, id, 50) };
        put(&vault, number, mine, 0).unwrap();
        let placed = vault.put_placement(key(0).segment, mine.owner, 1, b"p"[..].into());
        match id == most {
            false => assert!(placed.is_ok(), "{id}: {placed:?}"),
            true => assert!(matches!(placed, Err(WriteError::TooManyPlacements)), "{placed:?}"),
        }
    }
    vault.put_placement(key(0).segment, [0; 32], 2, b"q"[..].into()).unwrap();
    assert_eq!(vault.placements(&key(0).segment).unwrap().len() as u64, most);
}
