//! Rotten bytes, forged records, failing disks: never a wrong byte, and only what was hit is lost.
use crate::fake_disk::Machine;
use crate::support::{key, lease, meta, open, put, shard, small_config};
use echonet_vault::{
    Damage, Disk, IndexState, Outcome, PutRequest, ReadError, RecoveryReport, SyncSite, Vault,
    WriteError,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SHARDS: u64 = 120;
const INDEX: &str = "/data/vault/index.redb";

/// A machine with a closed vault of some volumes.
fn filled(seed: u64) -> (Machine, Arc<dyn Disk>) {
    let machine = Machine::new(seed);
    let disk = machine.mount();
    let (vault, _) = open(&disk, small_config());
    for number in 0..SHARDS {
        put(&vault, number, lease(number, 1, 50), 3).unwrap();
    }
    drop(vault);
    (machine, disk)
}

fn volumes(machine: &Machine) -> Vec<PathBuf> {
    let files = machine.files().into_iter();
    files.filter(|path| path.extension().is_some_and(|end| end == "echovol")).collect()
}

/// Keys whose bytes are served right; fails on a wrong byte.
fn served(vault: &Vault) -> Vec<u64> {
    let right = |number: &u64| match vault.read_verified(key(*number)) {
        Ok(bytes) => {
            assert_eq!(bytes, shard(*number), "wrong bytes of {number}");
            assert_eq!(vault.get(key(*number)).unwrap().unwrap().meta().unwrap(), meta(*number));
            true
        }
        Err(ReadError::NotStored | ReadError::Quarantined) => false,
        Err(error) => panic!("{number}: {error}"),
    };
    (0..SHARDS).filter(right).collect()
}

fn scrub(vault: &Vault) -> Vec<u64> {
    let mut damaged = Vec::new();
    loop {
        let report = vault.scrub_step(100_000).unwrap();
        damaged.extend((0..SHARDS).filter(|number| report.damaged.contains(&key(*number))));
        if report.cycle_done {
            return damaged;
        }
    }
}

#[test]
fn flipped_bytes_cost_only_what_they_hit() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for round in 0..150 {
        let (machine, disk) = filled(round);
        let files = volumes(&machine);
        let path = &files[rng.random_range(0..files.len())];
        let len = machine.read(path).unwrap().len();
        let (at, width) = (rng.random_range(0..len), rng.random_range(1..40));
        machine.tamper(path, |bytes| {
            for byte in bytes.iter_mut().skip(at).take(width) {
                *byte ^= rng.random_range(1..=255);
            }
        });
        let rebuilt = rng.random_bool(0.5);
        if rebuilt {
            machine.delete(INDEX.as_ref());
        }
        let (vault, report) = open(&disk, small_config());
        assert!(report.unreadable_volumes.is_empty());
        let scrubbed = scrub(&vault);
        let lost = SHARDS - served(&vault).len() as u64;
        // Forty bytes in a row touch two records at most.
        assert!(lost <= 2, "round {round}: {lost} lost");
        let reported = report.damaged.len() + scrubbed.len() + usize::from(report.torn_bytes > 0);
        assert!(lost == 0 || reported > 0, "round {round}: {lost} lost and nobody told");
        // Whatever is missing can be put again.
        for number in 0..SHARDS {
            put(&vault, number, lease(number, 1, 50), 3).unwrap();
        }
        assert_eq!(served(&vault).len() as u64, SHARDS);
    }
}

#[test]
fn a_damaged_index_is_never_believed() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for round in 0..40 {
        let (machine, disk) = filled(round);
        machine.tamper(INDEX.as_ref(), |bytes| {
            for _ in 0..rng.random_range(1..200) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
            if round % 8 == 0 {
                bytes.truncate(bytes.len() / 2);
            }
        });
        let (vault, _) = open(&disk, small_config());
        assert_eq!(served(&vault).len() as u64, SHARDS, "round {round}");
    }
}

#[test]
fn an_old_index_is_never_believed() {
    let (machine, disk) = filled(6);
    let old = machine.read(INDEX.as_ref()).unwrap();
    let (vault, _) = open(&disk, small_config());
    for number in (0..SHARDS).filter(|number| number % 4 != 0) {
        vault.end_lease(key(number), lease(number, 1, 0).id).unwrap();
    }
    vault.collect(5).unwrap();
    while vault.compact_step(10).unwrap().is_some() {}
    drop(vault);
    machine.tamper(INDEX.as_ref(), |bytes| *bytes = old);
    let (vault, report) = open(&disk, small_config());
    assert!(matches!(report.index, IndexState::Rebuilt(_)), "{report:?}");
    assert_eq!(served(&vault), (0..SHARDS).step_by(4).collect::<Vec<_>>());
}

/// The attacker's shard: perfect records of another key, but for the tag.
fn forged(machine: &Machine) -> Vec<u8> {
    let volume = machine.read(&volumes(machine)[0]).unwrap();
    let start = 8192;
    let mut bytes = vec![0; 3_000];
    // A genuine record, header and all, copied to every place where a search would look.
    for at in (0..bytes.len() - 400).step_by(400) {
        let at = at / 8 * 8;
        bytes[at..at + 400].copy_from_slice(&volume[start..start + 400]);
    }
    bytes
}

#[test]
fn records_forged_inside_a_shard_do_not_parse() {
    let (machine, disk) = filled(7);
    let bytes = forged(&machine);
    let (vault, _) = open(&disk, small_config());
    let number = 1_000;
    let reservation =
        vault.reserve(key(number), bytes.len() as u64, &lease(number, 1, 50), u128::MAX).unwrap();
    let shard = bytes.clone().into();
    let request =
        PutRequest { key: key(number), shard, meta: meta(0).into(), epoch: 3, reservation };
    vault.put(request).unwrap();
    put(&vault, 1_001, lease(1_001, 1, 50), 3).unwrap();
    drop(vault);
    // Damage the header in front of the forged records: the search runs right through them.
    let last = volumes(&machine).pop().unwrap();
    let volume = machine.read(&last).unwrap();
    let at = volume.windows(bytes.len()).position(|window| window == bytes).unwrap();
    machine.tamper(&last, |volume| volume[at - 250..at - 1].fill(0xff));
    machine.delete(INDEX.as_ref());
    let (vault, report) = open(&disk, small_config());
    assert_eq!(report.damaged.len(), 1, "{report:?}");
    assert!(vault.get(key(number)).unwrap().is_none());
    assert_eq!(vault.read_verified(key(1_001)).unwrap(), crate::support::shard(1_001));
    assert_eq!(vault.stats().unwrap().shards, SHARDS + 1);
    assert_eq!(served(&vault).len() as u64, SHARDS);
}

#[test]
fn a_volume_survives_the_loss_of_one_header_and_only_it_goes_with_both() {
    let (machine, disk) = filled(8);
    let first = volumes(&machine)[0].clone();
    machine.tamper(&first, |bytes| bytes[..4096].fill(0));
    machine.delete(INDEX.as_ref());
    let (vault, report) = open(&disk, small_config());
    assert!(report.unreadable_volumes.is_empty() && report.damaged.is_empty());
    assert_eq!(served(&vault).len() as u64, SHARDS);
    drop(vault);
    machine.tamper(&first, |bytes| bytes[4096..8192].fill(0));
    let (vault, report) = open(&disk, small_config());
    assert_eq!(report.unreadable_volumes, [1]);
    let left = served(&vault).len();
    assert!(left > 0 && left < SHARDS as usize);
    assert!(machine.read(&first).is_some(), "what cannot be read is left alone");
}

#[test]
fn a_quarantined_shard_survives_compaction_as_lost_and_is_healed_by_a_put() {
    let (machine, disk) = filled(9);
    let first = volumes(&machine)[0].clone();
    let bytes = machine.read(&first).unwrap();
    let at = bytes.windows(50).position(|window| window == &shard(2)[..50]).unwrap();
    machine.tamper(&first, |bytes| bytes[at] ^= 1);
    let (vault, _) = open(&disk, small_config());
    assert!(matches!(vault.read_verified(key(2)), Err(ReadError::Quarantined)));
    assert!(vault.get(key(2)).unwrap().is_none());
    // Garbage, so that the volume is worth compacting.
    for number in (0..SHARDS).filter(|number| number % 2 == 1) {
        vault.end_lease(key(number), lease(number, 1, 0).id).unwrap();
    }
    vault.collect(5).unwrap();
    while vault.compact_step(10).unwrap().is_some() {}
    drop(vault);
    assert!(machine.read(&first).is_none(), "the volume is gone");
    machine.delete(INDEX.as_ref());
    let (vault, _) = open(&disk, small_config());
    assert_eq!(vault.stats().unwrap().quarantined, 1);
    assert!(matches!(vault.read_verified(key(2)), Err(ReadError::Quarantined)));
    assert_eq!(vault.leases(key(2)).unwrap().len(), 1, "its lease is known");
    assert_eq!(put(&vault, 2, lease(2, 1, 50), 4).unwrap(), Outcome::Healed);
    assert_eq!(vault.read_verified(key(2)).unwrap(), shard(2));
    assert_eq!(vault.stats().unwrap().quarantined, 0);
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_poisons_the_volume() {
    let (machine, disk) = filled(10);
    let (vault, _) = open(&disk, small_config());
    let before = vault.stats().unwrap().volumes;
    machine.fail_syncs(SyncSite::Group, 1);
    assert!(matches!(put(&vault, 500, lease(500, 1, 50), 3), Err(WriteError::Poisoned(_))));
    assert!(vault.get(key(500)).unwrap().is_none(), "not even to be read");
    assert_eq!(put(&vault, 501, lease(501, 1, 50), 3).unwrap(), Outcome::Written);
    let stats = vault.stats().unwrap();
    assert_eq!((stats.poisoned, stats.volumes), (1, before + 1));
    assert_eq!(served(&vault).len() as u64, SHARDS);
    machine.crash();
    drop(vault);
    machine.delete(INDEX.as_ref());
    let disk = machine.mount();
    let (vault, report) = open(&disk, small_config());
    let RecoveryReport { damaged, .. } = report;
    assert_eq!(damaged, Vec::<Damage>::new());
    assert!(vault.get(key(500)).unwrap().is_none(), "the cut holds after a crash");
    assert_eq!(vault.read_verified(key(501)).unwrap(), shard(501));
    assert_eq!(served(&vault).len() as u64, SHARDS);
}

#[test]
fn a_full_disk_refuses_clearly_and_loses_nothing() {
    for tells_free in [true, false] {
        let (machine, disk) = filled(11);
        let (vault, _) = open(&disk, small_config());
        machine.set_capacity(machine.used() + 9_000, tells_free);
        let mut refused = 0;
        for number in 500..520 {
            match put(&vault, number, lease(number, 1, 50), 3) {
                Ok(_) => assert_eq!(vault.read_verified(key(number)).unwrap(), shard(number)),
                Err(WriteError::DiskFull { .. } | WriteError::Refused(_)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(refused > 10);
        assert_eq!(served(&vault).len() as u64, SHARDS);
        machine.set_capacity(u64::MAX, true);
        put(&vault, 600, lease(600, 1, 50), 3).unwrap();
        machine.crash();
        drop(vault);
        let disk = machine.mount();
        let (vault, _) = open(&disk, small_config());
        assert_eq!(vault.read_verified(key(600)).unwrap(), shard(600));
        assert_eq!(served(&vault).len() as u64, SHARDS);
    }
}

#[test]
fn one_directory_is_open_once() {
    let machine = Machine::new(12);
    let disk = machine.mount();
    let (vault, _) = open(&disk, small_config());
    let again = Vault::open(Arc::clone(&disk), Path::new("/data/vault"), small_config());
    assert!(again.is_err());
    drop(vault);
    open(&disk, small_config());
}

#[test]
fn a_vault_whose_files_are_deleted_stops_and_comes_back_with_the_rest() {
    let (machine, disk) = filled(31);
    let (vault, _) = open(&disk, small_config());
    let before = served(&vault);
    assert_eq!(before.len() as u64, SHARDS);
    assert!(!vault.check_files().unwrap());
    machine.delete(&volumes(&machine)[0]);
    assert!(vault.check_files().unwrap() && vault.stopped());
    let refused = put(&vault, SHARDS + 1, lease(1, 1, 50), 3);
    assert!(matches!(refused, Err(WriteError::Stopped(_))), "{refused:?}");
    drop(vault);
    let (vault, _) = open(&disk, small_config());
    assert!(!vault.check_files().unwrap(), "it counts on what is there");
    let after = served(&vault);
    assert!(after.len() < before.len() && !after.is_empty(), "{} are left", after.len());
    put(&vault, SHARDS + 1, lease(1, 1, 50), 3).unwrap();
}
