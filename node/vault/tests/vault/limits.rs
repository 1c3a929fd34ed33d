//! Quota, grants, the free pool, and what concurrent puts may take of them together.
use crate::fake_disk::Machine;
use crate::support::{key, lease, meta, open, put, shard, small_config};
use echonet_vault::admission::Refusal;
use echonet_vault::{
    AdmitError, LeaseMeta, Outcome, Pool, PutRequest, Reservation, Standing, SyncSite, Vault,
    VaultConfig, WriteError,
};

fn free(number: u64, prefix: u8) -> LeaseMeta {
    let pool = Pool::Free { prefix: [prefix; 16] };
    LeaseMeta { pool, ..lease(number, 1, 5) }
}

fn request(number: u64, reservation: Reservation) -> PutRequest {
    let shard = shard(number).into();
    PutRequest { key: key(number), shard, meta: meta(number).into(), epoch: 0, reservation }
}

fn put_free(vault: &Vault, number: u64, prefix: u8) -> Result<Outcome, AdmitError> {
    let len = shard(number).len() as u64;
    let reservation = vault.reserve(key(number), len, &free(number, prefix), 0)?;
    Ok(vault.put(request(number, reservation)).unwrap())
}

#[test]
fn reservations_count_together_against_a_grant() {
    let machine = Machine::new(1);
    let (vault, _) = open(&machine.mount(), small_config());
    // 1,000 bytes for 10 epochs, eight times over is what the grant must have for one.
    let grant = 8 * 1_000 * 10 * 3;
    let reserve = |number| vault.reserve(key(number), 1_000, &lease(number, 1, 10), grant);
    let held: Vec<_> = (0..3).map(|number| reserve(number).unwrap()).collect();
    assert!(matches!(reserve(3), Err(AdmitError::Refused(Refusal::Grant { .. }))));
    drop(held);
    assert!(reserve(3).is_ok(), "given up, the room is there again");
}

#[test]
fn what_is_stored_counts_after_a_restart() {
    let machine = Machine::new(2);
    let disk = machine.mount();
    let (vault, _) = open(&disk, small_config());
    let byte_epochs = lease(5, 1, 10).byte_epochs(shard(5).len() as u64);
    put(&vault, 5, lease(5, 1, 10), 0).unwrap();
    drop(vault);
    machine.delete("/data/vault/index.redb".as_ref());
    let (vault, _) = open(&disk, small_config());
    let other = lease(6, 1, 10);
    let more = |room: u128| vault.reserve(key(6), 100, &other, 8 * (byte_epochs + room));
    assert!(matches!(more(999), Err(AdmitError::Refused(Refusal::Grant { .. }))));
    assert!(more(1_000).is_ok());
    // Sending the same shard under the same lease again costs nothing of the grant.
    let again = vault.reserve(key(5), shard(5).len() as u64, &lease(5, 1, 10), 8 * byte_epochs);
    assert_eq!(vault.put(request(5, again.unwrap())).unwrap(), Outcome::Already);
}

#[test]
fn many_threads_cannot_pass_the_free_pool_together() {
    let machine = Machine::new(3);
    let (vault, _) = open(&machine.mount(), small_config());
    let threads = (0..8_u64).map(|thread| {
        let vault = vault.clone();
        std::thread::spawn(move || {
            let puts =
                (0..120).map(|turn| put_free(&vault, thread * 1_000 + turn, (turn % 9) as u8));
            puts.filter(Result::is_ok).count()
        })
    });
    let threads: Vec<_> = threads.collect();
    let stored: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    let quota = small_config().quota_bytes;
    let used = vault.stats().unwrap().free_pool_bytes;
    assert!(used <= quota / 20 && used > quota / 25, "{used} of {quota}");
    assert!(stored > 100);
    let long = LeaseMeta { until_epoch: 8, ..free(1, 1) };
    let refused = vault.reserve(key(1), 1, &long, 0);
    assert!(matches!(refused, Err(AdmitError::Refused(Refusal::FreeTerm { .. }))));
}

#[test]
fn one_prefix_gets_its_share_only() {
    let machine = Machine::new(4);
    let (vault, _) = open(&machine.mount(), small_config());
    let refused = (0..200).find_map(|number| put_free(&vault, number, 1).err());
    assert!(matches!(refused, Some(AdmitError::Refused(Refusal::FreePrefix { .. }))));
    assert!(vault.stats().unwrap().free_pool_bytes <= small_config().quota_bytes / 100);
    assert!(put_free(&vault, 300, 2).is_ok(), "another network is not affected");
    // The lease of a shard that is here costs the free pool, too.
    let number = 301;
    put(&vault, number, lease(number, 2, 9), 0).unwrap();
    let len = shard(number).len() as u64;
    let full = vault.reserve(key(number), len.max(4_000), &free(number, 1), 0);
    assert!(matches!(full, Err(AdmitError::Refused(Refusal::FreePrefix { .. }))));
}

/// A quota of few volumes, so that it is soon used up.
fn tight() -> VaultConfig {
    VaultConfig { quota_bytes: 3 << 20, ..small_config() }
}

#[test]
fn the_quota_is_never_passed_and_free_shards_make_room_for_granted_ones() {
    let machine = Machine::new(5);
    let (vault, _) = open(&machine.mount(), tight());
    let free_stored: Vec<u64> =
        (0..60).filter(|number| put_free(&vault, *number, (*number % 20) as u8).is_ok()).collect();
    assert!(free_stored.len() > 20);
    let mut number = 1_000;
    while put(&vault, number, lease(number, 1, 50), 0).is_ok() {
        number += 1;
        assert!(machine.used() <= tight().quota_bytes);
    }
    let held = |numbers: &[u64]| {
        numbers.iter().filter(|number| vault.get(key(**number)).unwrap().is_some()).count()
    };
    assert_eq!(held(&free_stored), free_stored.len());
    let len = shard(number).len() as u64;
    let granted = lease(number, 1, 50);
    assert!(matches!(
        vault.reserve(key(number), len, &granted, u128::MAX),
        Err(AdmitError::NoSpace { .. })
    ));
    let reservation = vault.reserve_evicting(key(number), len, &granted, u128::MAX, 0).unwrap();
    assert_eq!(vault.put(request(number, reservation)).unwrap(), Outcome::Written);
    assert!(held(&free_stored) < free_stored.len());
    let granted_ones: Vec<u64> = (1_000..=number).collect();
    assert_eq!(held(&granted_ones), granted_ones.len(), "nothing granted was evicted");
    assert!(machine.used() <= tight().quota_bytes);
}

#[test]
fn a_full_vault_can_still_end_leases_collect_and_compact() {
    let machine = Machine::new(6);
    let (vault, _) = open(&machine.mount(), tight());
    let mut stored = Vec::new();
    for number in 0.. {
        match put(&vault, number, lease(number, 1, 50), 0) {
            Ok(_) => stored.push(number),
            Err(WriteError::QuotaFull { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    for number in stored.iter().filter(|number| *number % 2 == 0) {
        let end = || vault.end_lease(key(*number), lease(*number, 1, 50).id);
        if let Err(WriteError::QuotaFull { .. }) = end() {
            // The reserve for such records is used up: what was ended so far makes room.
            vault.collect(2).unwrap();
            while vault.compact_step(1).unwrap().is_some() {}
            end().unwrap();
        }
    }
    vault.collect(2).unwrap();
    assert_eq!(vault.stats().unwrap().shards, stored.len() as u64 / 2);
    while vault.compact_step(10).unwrap().is_some() {
        assert!(machine.used() <= tight().quota_bytes);
    }
    for number in stored.iter().filter(|number| *number % 2 == 1) {
        assert_eq!(vault.read_verified(key(*number)).unwrap(), shard(*number));
    }
    put(&vault, 9_000, lease(9_000, 1, 50), 3).unwrap();
}

#[test]
fn many_writers_share_a_sync() {
    let machine = Machine::new(7);
    let (vault, _) = open(&machine.mount(), small_config());
    let before = machine.syncs(SyncSite::Group);
    let reserved = |number| {
        let len = shard(number).len() as u64;
        request(number, vault.reserve(key(number), len, &lease(number, 1, 9), u128::MAX).unwrap())
    };
    let results = vault.put_many((0..30).map(reserved).collect());
    assert!(results.iter().all(|result| matches!(result, Ok(Outcome::Written))));
    let syncs = machine.syncs(SyncSite::Group) - before;
    assert!(syncs <= 2, "{syncs} syncs for 30 puts");
}

#[test]
fn a_reservation_is_for_one_key_and_length() {
    let machine = Machine::new(8);
    let (vault, _) = open(&machine.mount(), small_config());
    let other = vault.reserve(key(1), 4_000, &lease(1, 1, 9), u128::MAX).unwrap();
    assert!(matches!(vault.put(request(2, other)), Err(WriteError::NotReserved)));
    let short = vault.reserve(key(2), 10, &lease(2, 1, 9), u128::MAX).unwrap();
    assert!(matches!(vault.put(request(2, short)), Err(WriteError::NotReserved)));
    let empty = LeaseMeta { from_epoch: 9, until_epoch: 9, ..lease(2, 1, 9) };
    let refused = vault.reserve(key(2), 10, &empty, u128::MAX);
    assert!(matches!(refused, Err(AdmitError::Refused(Refusal::EmptyTerm))));
}

#[test]
fn other_bytes_under_a_key_are_refused() {
    let machine = Machine::new(9);
    let (vault, _) = open(&machine.mount(), small_config());
    put(&vault, 1, lease(1, 1, 9), 0).unwrap();
    let reservation = vault.reserve(key(1), 3, &lease(1, 1, 9), u128::MAX).unwrap();
    let wrong = PutRequest { shard: b"abc"[..].into(), ..request(1, reservation) };
    assert!(matches!(vault.put(wrong), Err(WriteError::Conflict)));
    assert_eq!(vault.read_verified(key(1)).unwrap(), shard(1));
}

/// Leases of one epoch each, one after the other, under one grant that lasts long.
#[test]
fn a_chain_of_short_leases_uses_a_grant_up_whatever_is_collected_compacted_or_rebuilt() {
    let machine = Machine::new(10);
    let disk = machine.mount();
    let (mut vault, _) = open(&disk, small_config());
    let pool = Pool::Granted { grant: [9; 32], until_epoch: 500 };
    let len = shard(3).len() as u64;
    let part = 20;
    let grant = 8 * u128::from(len) * part;
    for turn in 0..part {
        let epoch = 10 * turn as u64;
        let meta = LeaseMeta { pool, from_epoch: epoch, ..lease(3, turn as u64, epoch + 1) };
        let reservation = vault.reserve(key(3), len, &meta, grant).unwrap();
        let put = vault.put(PutRequest { epoch, ..request(3, reservation) });
        assert_eq!(put.unwrap(), Outcome::Written);
        if turn % 3 == 0 {
            vault.end_lease(key(3), meta.id).unwrap();
        }
        assert_eq!(vault.collect(epoch + 9).unwrap().dropped, 1);
        if turn % 2 == 0 {
            while vault.compact_step(1).unwrap().is_some() {}
        }
        if turn % 5 == 0 {
            drop(vault);
            machine.delete("/data/vault/index.redb".as_ref());
            (vault, _) = open(&disk, small_config());
        }
        assert_eq!(vault.grant_used(&[9; 32]).unwrap(), u128::from(len) * (turn + 1));
    }
    let one_more = LeaseMeta { pool, from_epoch: 300, ..lease(3, 100, 301) };
    let refused = vault.reserve(key(3), len, &one_more, grant);
    assert!(matches!(refused, Err(AdmitError::Refused(Refusal::Grant { .. }))));
    // Once the grant is over, nothing of it is carried along.
    vault.collect(500 + 1).unwrap();
    assert!(vault.grant_used(&[9; 32]).unwrap() > 0, "the grace is not over");
    vault.collect(500 + 2).unwrap();
    assert_eq!(vault.grant_used(&[9; 32]).unwrap(), 0);
    while vault.compact_step(1).unwrap().is_some() {}
    assert_eq!(vault.stats().unwrap().live_bytes, 0);
    drop(vault);
    machine.delete("/data/vault/index.redb".as_ref());
    let (vault, _) = open(&disk, small_config());
    assert_eq!(vault.grant_used(&[9; 32]).unwrap(), 0);
}

#[test]
fn a_renewed_lease_costs_its_grant_only_what_is_new() {
    let machine = Machine::new(11);
    let (vault, _) = open(&machine.mount(), small_config());
    let used = || vault.grant_used(&[1; 32]).unwrap() / shard(3).len() as u128;
    put(&vault, 3, lease(3, 1, 10), 0).unwrap();
    assert_eq!(used(), 10);
    put(&vault, 3, lease(3, 1, 25), 0).unwrap();
    assert_eq!(used(), 25);
    put(&vault, 3, lease(3, 1, 15), 0).unwrap();
    assert_eq!(used(), 25, "nothing is shortened");
    vault.end_lease(key(3), lease(3, 1, 0).id).unwrap();
    assert_eq!(used(), 25, "what was promised is charged");
}

/// A sealed lease from epoch 0 to `until` that renews itself by 10 epochs under grant `id`.
fn standing(number: u64, id: u64, until: u64, grant_byte_epochs: u64) -> LeaseMeta {
    let standing = Some(Standing { term_epochs: 10, grant_byte_epochs });
    let pool = Pool::Granted { grant: [id as u8; 32], until_epoch: 35 };
    LeaseMeta { standing, pool, ..lease(number, id, until) }
}

fn until(vault: &Vault, number: u64) -> Option<u64> {
    vault.leases(key(number)).unwrap().first().map(|lease| lease.meta.until_epoch)
}

#[test]
fn a_standing_lease_lasts_as_long_as_its_grant_and_is_collected_a_grace_later() {
    let machine = Machine::new(20);
    let disk = machine.mount();
    let (mut vault, _) = open(&disk, small_config());
    put(&vault, 0, standing(0, 1, 10, u64::MAX), 0).unwrap();
    put(&vault, 1, LeaseMeta { standing: None, ..standing(1, 1, 10, 0) }, 0).unwrap();
    put(&vault, 2, LeaseMeta { sealed: false, ..standing(2, 1, 10, u64::MAX) }, 0).unwrap();
    // Four epochs before its end, as an unsealed one would need.
    assert_eq!((vault.collect(5).unwrap().renewal.renewed, until(&vault, 0)), (0, Some(10)));
    assert_eq!((vault.collect(6).unwrap().renewal.renewed, until(&vault, 0)), (1, Some(20)));
    assert_eq!(vault.collect(6).unwrap().renewal.renewed, 0, "once a term");
    drop(vault);
    machine.crash();
    machine.delete("/data/vault/index.redb".as_ref());
    (vault, _) = open(&machine.mount(), small_config());
    assert_eq!(until(&vault, 0), Some(20), "durable");
    // Away for a term and a half: it is still here, so it is taken up again.
    let report = vault.collect(34).unwrap();
    assert_eq!((report.renewal.renewed, until(&vault, 0)), (1, Some(35)), "to the grant's end");
    assert!(vault.get(key(1)).unwrap().is_none() && vault.get(key(2)).unwrap().is_none());
    let bytes = shard(0).len() as u128 * 35;
    let others = (shard(1).len() + shard(2).len()) as u128 * 10;
    assert_eq!(vault.grant_used(&[1; 32]).unwrap(), bytes + others);
    assert_eq!(vault.collect(36).unwrap().dropped, 0);
    assert_eq!(vault.collect(37).unwrap().dropped, 1, "a grace after the grant");
}

#[test]
fn a_standing_lease_is_renewed_as_far_as_its_grant_pays_and_then_told_as_ending() {
    let machine = Machine::new(21);
    let disk = machine.mount();
    let (vault, _) = open(&disk, small_config());
    let bytes = shard(0).len() as u64;
    // An eighth is honoured here: the first term, the second, and four epochs of the third.
    let grant = 8 * bytes * 24;
    put(&vault, 0, standing(0, 1, 10, grant), 0).unwrap();
    put(&vault, 5, lease(5, 2, 100), 0).unwrap();
    let mut ended = standing(4, 3, 10, u64::MAX);
    ended.standing = None;
    put(&vault, 4, ended, 0).unwrap();
    let ending = |epoch: u64, within: u64| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = vault.ending_leases(epoch, within, after.as_ref(), 1).unwrap();
            found.extend(page.iter().map(|e| (e.key, e.lease.meta.until_epoch)));
            match next {
                Some(next) => after = Some(next),
                None => return found,
            }
        }
    };
    assert_eq!(ending(0, 9), []);
    let mut both = ending(0, 10);
    both.sort_unstable();
    assert_eq!(both, [(key(0), 10), (key(4), 10)]);
    assert_eq!(vault.collect(6).unwrap().renewal.renewed, 1);
    assert_eq!(ending(6, 10), [(key(4), 10)], "renewed");
    assert_eq!(vault.collect(16).unwrap().renewal.renewed, 1);
    assert_eq!(until(&vault, 0), Some(24));
    let report = vault.collect(21).unwrap();
    assert_eq!((report.renewal.renewed, report.renewal.unpaid), (0, 1));
    assert_eq!(ending(21, 4), [(key(0), 24)]);
    assert_eq!(ending(24, 4), [], "that is over, not ending");
    assert_eq!(vault.grant_used(&[1; 32]).unwrap(), u128::from(grant) / 8);
    assert_eq!(vault.collect(26).unwrap().dropped, 1);
}

#[test]
fn a_full_vault_renews() {
    let machine = Machine::new(22);
    let disk = machine.mount();
    let config = VaultConfig { quota_bytes: 16 << 20, ..small_config() };
    let (vault, _) = open(&disk, config);
    let mut stored = Vec::new();
    for number in 0..10_000 {
        if put(&vault, number, standing(number, 1, 10, u64::MAX), 0).is_err() {
            break;
        }
        stored.push(number);
    }
    assert!(put(&vault, 20_000, lease(20_000, 1, 9), 0).is_err(), "full");
    for epoch in [6, 16, 26] {
        let renewed = vault.collect(epoch).unwrap().renewal.renewed;
        assert_eq!(renewed, stored.len() as u64, "epoch {epoch}");
        while vault.compact_step(20).unwrap().is_some() {}
    }
    assert!(stored.iter().all(|number| until(&vault, *number) == Some(35)));
    assert!(machine.used() <= config.quota_bytes, "{}", machine.used());
}

/// Owners who put, extend, place and end at once, a holder that renews and collects meanwhile: the
/// files never take more than the quota.
#[test]
fn the_quota_holds_while_many_owners_put_and_shards_are_renewed_and_moved() {
    let machine = Machine::new(23);
    let disk = machine.mount();
    let config = VaultConfig { quota_bytes: 4 << 20, checkpoint_rows: 300, ..small_config() };
    let (vault, _) = open(&disk, config);
    let over = std::sync::atomic::AtomicBool::new(false);
    let watch = || {
        if machine.used() > config.quota_bytes {
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let refused = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for owner in 0..6_u8 {
            let (vault, watch, refused) = (&vault, &watch, &refused);
            scope.spawn(move || {
                for turn in 0..250_u64 {
                    let number = turn * 6 + u64::from(owner);
                    let pool = Pool::Granted { grant: [owner; 32], until_epoch: 1_000 };
                    let mine =
                        LeaseMeta { owner: [owner; 32], pool, ..standing(number, 1, 9, u64::MAX) };
                    if put(vault, number, mine, 0).is_err() {
                        refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                    let placed = vec![owner; 900].into();
                    let _ = vault.put_placement(key(number).segment, [owner; 32], turn + 1, placed);
                    if turn % 3 == 0 {
                        let _ = vault.end_lease(key(number), mine.id);
                    }
                    watch();
                }
            });
        }
        scope.spawn(|| {
            for epoch in 0..40 {
                let _ = vault.collect(epoch);
                while matches!(vault.compact_step(30), Ok(Some(_))) {
                    watch();
                }
                watch();
            }
        });
    });
    assert!(refused.load(std::sync::atomic::Ordering::Relaxed) > 0, "it was never full");
    assert!(!over.load(std::sync::atomic::Ordering::Relaxed), "more than the quota was taken");
    assert!(machine.used() <= config.quota_bytes, "{}", machine.used());
    assert!(!vault.stopped());
}
