//! What a vault does when nothing goes wrong.
use crate::fake_disk::Machine;
use crate::support::{key, lease, meta, open, put, shard, small_config};
use echonet_vault::{
    IndexState, Outcome, PLACEMENT_LEN_MAX, ReadError, Vault, VaultConfig, WriteError,
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
    vault.put_placement(key(8).segment, 4, b"placed"[..].into()).unwrap();
    let before = vault.stats().unwrap();
    drop(vault);
    machine.delete("/data/vault/index.redb".as_ref());
    let (vault, report) = open(&disk, small_config());
    assert!(matches!(report.index, IndexState::Rebuilt(_)), "{report:?}");
    assert!(report.damaged.is_empty() && report.unsealed_volumes.is_empty(), "{report:?}");
    let after = vault.stats().unwrap();
    assert_eq!((before.shards, before.live_bytes), (after.shards, after.live_bytes));
    assert_eq!(vault.placement(&key(8).segment).unwrap(), Some((4, b"placed"[..].into())));
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
    vault.put_placement(key(0).segment, 1, b"p"[..].into()).unwrap();
    assert_eq!(vault.collect(13).unwrap().dropped, 0);
    assert_eq!(vault.leases(key(0)).unwrap().len(), 1);
    vault.end_lease(key(0), lease(0, 2, 20).id).unwrap();
    assert!(matches!(put(&vault, 0, lease(0, 2, 20), 0), Err(WriteError::LeaseEnded)));
    assert_eq!(vault.collect(1).unwrap().dropped, 0, "the grace counts from the put too");
    let report = vault.collect(2).unwrap();
    assert_eq!((report.dropped, report.placements_dropped), (1, 1));
    assert!(vault.get(key(0)).unwrap().is_none());
    assert!(vault.placement(&key(0).segment).unwrap().is_none());
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
            let to = key(segment * 4).segment;
            vault.put_placement(to, version, record(version, longest)).unwrap();
        }
    }
    let refused = vault.put_placement(key(0).segment, 9, record(9, longest + 1));
    assert!(matches!(refused, Err(WriteError::TooLong { .. })));
    while vault.compact_step(20).unwrap().is_some() {}
    let live = vault.stats().unwrap().live_bytes;
    drop(vault);
    machine.delete("/data/vault/index.redb".as_ref());
    let (vault, report) = open(&disk, config);
    assert!(report.damaged.is_empty(), "{report:?}");
    assert_eq!(vault.stats().unwrap().live_bytes, live);
    for segment in 0..4 {
        let found = vault.placement(&key(segment * 4).segment).unwrap();
        assert_eq!(found, Some((3, record(3, longest))));
    }
    let short = VaultConfig { placement_len_max: PLACEMENT_LEN_MAX, ..small_config() };
    assert!(Vault::open(Machine::new(7).mount(), "/data/vault".as_ref(), short).is_err());
}
