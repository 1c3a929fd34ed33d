//! The record store on disk: restarts, damage, and files that are in use.

use std::{
    fs, io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use echonet_node::net::{
    limits::RecordLimits,
    records::{
        policy::PutError,
        record::{RecordKey, StoredRecord},
        store::{Delivery, OpenError, OpenReport, RecordStore},
    },
};

const OWN: [u8; 32] = [0xee; 32];
const NOW: u64 = 1_000;

fn record(n: u8) -> StoredRecord {
    StoredRecord {
        key: RecordKey([n % 10; 32]),
        kind: 1,
        publisher: [n; 32],
        sequence: 1,
        expires_unix_s: NOW + 1_000 + u64::from(n),
        prefix: [n % 7; 16],
        bytes: vec![n; 100],
    }
}

fn open_with(path: &Path, limits: RecordLimits, now: u64) -> (RecordStore, OpenReport) {
    RecordStore::open(path, OWN, [3; 16], limits, now).expect("store opens")
}

fn open(path: &Path) -> (RecordStore, OpenReport) {
    open_with(path, RecordLimits::default(), NOW)
}

fn put(store: &RecordStore, record: StoredRecord, pinned: bool) -> Result<(), PutError> {
    let answers = store.put(vec![Delivery { record, pinned }], NOW).expect("disk works");
    answers.into_iter().next().expect("one answer")
}

static IS_FULL: AtomicBool = AtomicBool::new(false);

fn room(_: &Path) -> io::Result<()> {
    if IS_FULL.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}

#[test]
fn what_a_full_disk_refused_is_written_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.redb");
    let store = open(&path).0.with_room(room);
    put(&store, record(1), false).unwrap();
    put(&store, record(2), false).unwrap();
    IS_FULL.store(true, Ordering::Relaxed);
    let delivery = Delivery { record: record(3), pinned: true };
    assert!(store.put(vec![delivery], NOW).is_err(), "said to be on disk and is not");
    assert!(store.remove(&record(1).id()).is_err());
    assert!(store.sweep(NOW).is_err(), "a sweep keeps quiet about it");
    assert_eq!(store.len(), 2, "memory has both changes");
    IS_FULL.store(false, Ordering::Relaxed);
    assert_eq!(store.sweep(NOW).unwrap(), 0);
    drop(store);
    let (store, report) = open(&path);
    assert_eq!(report, OpenReport { loaded: 2, ..OpenReport::default() });
    assert_eq!(store.all().iter().map(|r| r.publisher[0]).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(store.pinned().len(), 1);
}

#[test]
fn a_restart_keeps_records_versions_pins_and_removals() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.redb");
    let (store, report) = open(&path);
    assert_eq!(report, OpenReport::default());
    let batch: Vec<Delivery> =
        (0..50).map(|n| Delivery { record: record(n), pinned: n == 7 }).collect();
    assert!(store.put(batch, NOW).unwrap().iter().all(Result::is_ok));
    let newer = StoredRecord { sequence: 9, bytes: vec![1; 5], ..record(3) };
    put(&store, newer.clone(), false).unwrap();
    assert!(store.remove(&record(4).id()).unwrap());
    assert!(store.pin(&record(5).id()).unwrap());
    assert!(store.unpin(&record(7).id()).unwrap());
    drop(store);

    let (store, report) = open(&path);
    assert_eq!(report, OpenReport { loaded: 49, ..OpenReport::default() });
    let under = |n: u8| store.get(&RecordKey([n; 32]), NOW);
    assert!(under(3).iter().any(|r| **r == newer));
    assert!(under(4).iter().all(|r| r.publisher != [4; 32]));
    let pinned: Vec<_> = store.pinned().iter().map(|r| r.publisher).collect();
    assert_eq!(pinned, [[5; 32]]);
    assert_eq!(put(&store, record(3), false), Err(PutError::Stale { sequence: 1, stored: 9 }));
}

#[test]
fn what_was_evicted_or_expired_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.redb");
    let limits = RecordLimits {
        record_overhead_bytes: 0,
        total_bytes_max: 1_000,
        per_prefix_bytes_max: 1_000,
        ..RecordLimits::default()
    };
    let (store, _) = open_with(&path, limits.clone(), NOW);
    // One batch in which later records evict earlier ones.
    let of = |n: u8, prefix: u8| StoredRecord { prefix: [prefix; 16], ..record(n) };
    let batch = (0..14u8).map(|n| Delivery { record: of(n, n / 10), pinned: false }).collect();
    store.put(batch, NOW).unwrap();
    assert_eq!((store.len(), store.total_bytes()), (10, 1_000));
    let mut held: Vec<_> = (0..10).flat_map(|k| store.get(&RecordKey([k; 32]), NOW)).collect();
    held.sort_by_key(|r| r.publisher);
    drop(store);
    let (store, report) = open_with(&path, limits.clone(), NOW);
    assert_eq!(report, OpenReport { loaded: 10, ..OpenReport::default() });
    let mut again: Vec<_> = (0..10).flat_map(|k| store.get(&RecordKey([k; 32]), NOW)).collect();
    again.sort_by_key(|r| r.publisher);
    assert_eq!(again, held);
    assert_eq!(
        store.sweep(NOW + 1_002).unwrap(),
        held.iter().filter(|r| r.publisher[0] <= 2).count()
    );
    let left = store.len();
    drop(store);
    let (store, report) = open_with(&path, limits.clone(), NOW);
    assert_eq!(report, OpenReport { loaded: left, ..OpenReport::default() });
    drop(store);
    // Expired while the node was off, and bounds that were lowered.
    let smaller = RecordLimits { total_bytes_max: 300, ..limits };
    let (_, report) = open_with(&path, smaller.clone(), NOW + 1_004);
    assert!(report.loaded <= 3 && report.loaded + report.dropped == left, "{report:?}");
    let (_, again) = open_with(&path, smaller, NOW + 1_004);
    assert_eq!(again, OpenReport { loaded: report.loaded, ..OpenReport::default() });
}

#[test]
fn a_damaged_database_is_set_aside_and_the_store_starts_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.redb");
    let aside = dir.path().join("records.redb.damaged");
    let (store, _) = open(&path);
    let batch = (0..200).map(|n| Delivery { record: record(n), pinned: false }).collect();
    store.put(batch, NOW).unwrap();
    drop(store);
    let good = fs::read(&path).unwrap();

    let damages: [(&str, Vec<u8>); 4] = [
        ("not a database", b"this is no database, and it is longer than a header".repeat(100)),
        ("magic number", {
            let mut b = good.clone();
            b[0] ^= 1;
            b
        }),
        ("all pages but the first", {
            let mut b = good.clone();
            b[4096..].fill(0xa5);
            b
        }),
        ("cut off", good[..good.len() / 3].to_vec()),
    ];
    for (what, bytes) in damages {
        fs::write(&path, &bytes).unwrap();
        let (store, report) = open(&path);
        assert_eq!(report.set_aside.as_deref(), Some(aside.as_path()), "{what}");
        assert_eq!(store.len(), 0, "{what}");
        assert_eq!(fs::read(&aside).unwrap().len(), bytes.len(), "{what}: kept for a look");
        put(&store, record(1), false).unwrap();
        drop(store);
        assert_eq!(open(&path).1.loaded, 1, "{what}");
    }
}

#[test]
fn single_damaged_bytes_never_stop_the_store_from_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.redb");
    let (store, _) = open(&path);
    let batch = (0..100).map(|n| Delivery { record: record(n), pinned: false }).collect();
    store.put(batch, NOW).unwrap();
    drop(store);
    let good = fs::read(&path).unwrap();
    let step = good.len() / 60 + 1;
    for at in (0..good.len()).step_by(step) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        fs::write(&path, &bytes).unwrap();
        let (store, _) = open(&path);
        assert!(store.len() <= 100);
        put(&store, StoredRecord { sequence: 2, ..record(200) }, false).unwrap();
    }
}

#[test]
fn a_database_in_use_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.redb");
    let (store, _) = open(&path);
    put(&store, record(1), false).unwrap();
    let second = RecordStore::open(&path, OWN, [3; 16], RecordLimits::default(), NOW);
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    let nowhere = dir.path().join("missing").join("records.redb");
    let third = RecordStore::open(&nowhere, OWN, [3; 16], RecordLimits::default(), NOW);
    assert!(matches!(third, Err(OpenError::Io { .. })));
    assert_eq!(store.len(), 1);
}

#[test]
fn damage_under_a_running_store_is_healed_from_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("records.redb");
    let limits = RecordLimits { database_cache_bytes: 0, ..RecordLimits::default() };
    let (store, _) = open_with(&path, limits.clone(), NOW);
    let batch = (0..100).map(|n| Delivery { record: record(n), pinned: false }).collect();
    store.put(batch, NOW).unwrap();
    let len = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xa5; len - 4096], 4096).unwrap();
    for n in 100..150u8 {
        put(&store, record(n), false).unwrap();
    }
    assert_eq!(store.len(), 150);
    assert!(dir.path().join("records.redb.damaged").exists());
    drop(store);
    let (_, report) = open_with(&path, limits, NOW);
    assert_eq!(report, OpenReport { loaded: 150, ..OpenReport::default() });
}
