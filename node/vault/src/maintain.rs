//! Upkeep that the caller paces: collecting what no lease keeps, making room, scrubbing, counting.
//! Epochs and rates are passed in; nothing here looks at a clock.
use crate::error::{MaintainError, WriteError};
use crate::kv::View;
use crate::locked::locked;
use crate::plan::{Op, Outcome};
use crate::queue::Work;
use crate::read::{check_entry, grant_record_holds, placement_bytes};
use crate::renew::RenewReport;
use crate::reserve::{AdmitError, Reservation};
use crate::rows::{self, Live};
use crate::types::{Key, LeaseMeta, PlacementKey, Pool, Position};
use crate::vault::Vault;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// Rows handled at once.
const PAGE_ROWS: usize = 256;
/// Garbage share, in percent, from which a volume is compacted to make room.
const ROOM_GARBAGE_PERCENT: u64 = 10;

/// What a collection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CollectReport {
    /// Standing leases that were renewed, before anything was dropped.
    pub renewal: RenewReport,
    /// Shards dropped.
    pub dropped: u64,
    /// Shards of which leases that are over were forgotten.
    pub pruned: u64,
    /// Placement records dropped with the last lease of their owner.
    pub placements_dropped: u64,
}

/// Where the scrubber is in its cycle.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    after: Option<Vec<u8>>,
}

/// What a scrub step found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubReport {
    /// Bytes read and checked.
    pub bytes: u64,
    /// Shards found damaged; quarantined now.
    pub damaged: Vec<Key>,
    /// Placement records found damaged.
    pub damaged_placements: Vec<PlacementKey>,
    /// The whole vault has been read once since the last cycle ended.
    pub cycle_done: bool,
}

/// Numbers about a vault, in bytes where not said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VaultStats {
    /// Shards stored, quarantined ones included (count).
    pub shards: u64,
    /// Their bytes.
    pub shard_bytes: u64,
    /// Damaged shards (count).
    pub quarantined: u64,
    /// Placement records (count).
    pub placements: u64,
    /// Volumes (count).
    pub volumes: u64,
    /// Bytes of volumes that still count.
    pub live_bytes: u64,
    /// Bytes of volumes that do not.
    pub garbage_bytes: u64,
    /// Real bytes used: volumes, the next footer, the index.
    pub used_bytes: u64,
    /// The quota.
    pub quota_bytes: u64,
    /// Shard bytes under leases of the free pool.
    pub free_pool_bytes: u64,
    /// Volumes poisoned by a failed sync since the vault was opened (count).
    pub poisoned: u64,
}

impl Vault {
    /// Renews what is due (see [`Vault::renew`]), then drops every shard whose last lease ended `grace_epochs` before `epoch`, leases that are
    /// over, placement records of owners without a lease on the segment here, and the use of grants
    /// that are over as long. Durable on return; the space comes back by compaction.
    ///
    /// # Errors
    /// See [`MaintainError`]; what was dropped before stays dropped.
    pub fn collect(&self, epoch: u64) -> Result<CollectReport, MaintainError> {
        let renewal = self.renew(epoch)?;
        let mut report = CollectReport { renewal, ..CollectReport::default() };
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = {
                let index = locked(&self.0.core.index);
                index.kv.page(View::Durable, rows::DUE, after.as_deref(), PAGE_ROWS)?
            };
            let due: Vec<Key> = page
                .iter()
                .take_while(|(row, _)| {
                    rows::number_after_prefix(row).is_some_and(|due| due <= epoch)
                })
                .filter_map(|(row, _)| rows::tail_key(row))
                .collect();
            let ops = due.iter().map(|key| Op::Collect { key: *key, epoch }).collect();
            let outcomes = match self.record_all(ops) {
                // A full vault: what is dropped so far makes room for dropping more.
                Err(WriteError::QuotaFull { .. }) if self.compact_step(1)?.is_some() => continue,
                outcomes => outcomes?,
            };
            for outcome in outcomes {
                report.dropped += u64::from(outcome == Outcome::Dropped);
                report.pruned += u64::from(outcome == Outcome::Written);
            }
            if due.len() < PAGE_ROWS {
                break;
            }
            after = page.last().map(|(row, _)| row.clone());
        }
        report.placements_dropped = self.drop_orphans()?;
        self.ask(Work::ForgetGrants(epoch), None)?;
        Ok(report)
    }

    /// Drops placement records whose owner has no lease on the segment. All are looked at: a crash
    /// may have come between a segment's last tombstone and the end of its placement.
    fn drop_orphans(&self) -> Result<u64, MaintainError> {
        let (mut dropped, mut after) = (0, None::<Vec<u8>>);
        loop {
            let index = locked(&self.0.core.index);
            let page =
                index.kv.page(View::Durable, rows::PLACEMENT, after.as_deref(), PAGE_ROWS)?;
            let Some((last, _)) = page.last() else { return Ok(dropped) };
            after = Some(last.clone());
            let mut ops = Vec::new();
            for key in page.iter().filter_map(|(row, _)| rows::tail_placement(row)) {
                if !index.has_owner(View::Durable, &key)? {
                    ops.push(Op::DropPlacement { key });
                }
            }
            drop(index);
            dropped += self.written(ops)?;
        }
    }

    /// Like [`Vault::reserve`]; if a granted lease finds no room, shards that only the free pool
    /// keeps are dropped for it and volumes compacted. May take as long as rewriting a volume.
    ///
    /// # Errors
    /// As [`Vault::reserve`].
    pub fn reserve_evicting(
        &self,
        key: Key,
        shard_bytes: u64,
        lease: &LeaseMeta,
        grant_byte_epochs: u128,
        epoch: u64,
    ) -> Result<Reservation, AdmitError> {
        let first = self.reserve(key, shard_bytes, lease, grant_byte_epochs);
        let Err(AdmitError::NoSpace { need, .. }) = first else { return first };
        if matches!(lease.pool, Pool::Free { .. }) {
            return first;
        }
        if let Err(error) = self.make_room(need, epoch) {
            tracing::warn!(%error, need, "no room could be made");
        }
        self.reserve(key, shard_bytes, lease, grant_byte_epochs)
    }

    fn room_bytes(&self) -> Result<u64, MaintainError> {
        let core = &self.0.core;
        let used = core.used_bytes()?.saturating_add(locked(&core.promises).space);
        Ok(core.put_ceiling_bytes()?.saturating_sub(used))
    }

    /// Compacts, then drops free-pool shards and compacts again, until `bytes` fit.
    fn make_room(&self, bytes: u64, epoch: u64) -> Result<(), MaintainError> {
        loop {
            while self.room_bytes()? < bytes {
                if self.compact_step(ROOM_GARBAGE_PERCENT)?.is_none() {
                    break;
                }
            }
            let left = self.room_bytes()?;
            if left >= bytes || self.evict_free(bytes - left, epoch)? == 0 {
                return Ok(());
            }
        }
    }

    /// Drops free-pool shards, those that end first, until `bytes` of them are gone.
    fn evict_free(&self, bytes: u64, epoch: u64) -> Result<u64, MaintainError> {
        let mut ops = Vec::new();
        let mut freed = 0;
        let index = locked(&self.0.core.index);
        for (row, _) in index.kv.page(View::Durable, rows::FREE, None, PAGE_ROWS)? {
            if freed >= bytes {
                break;
            }
            let Some(key) = rows::tail_key(&row) else { continue };
            if let Some(entry) = index.entry(View::Durable, key)? {
                freed += entry.record_len();
                ops.push(Op::Evict { key, epoch });
            }
        }
        drop(index);
        self.record_all(ops)?;
        Ok(freed)
    }

    /// Reads on where the last step stopped, about `bytes_max` bytes, and checks everything that
    /// still counts; what is damaged is quarantined.
    ///
    /// # Errors
    /// See [`MaintainError`]; the next step goes on.
    pub fn scrub_step(&self, bytes_max: u64) -> Result<ScrubReport, MaintainError> {
        let mut scrub = locked(&self.0.scrub);
        let mut report = ScrubReport::default();
        while report.bytes < bytes_max {
            let page = {
                let index = locked(&self.0.core.index);
                index.kv.page(View::Durable, rows::LIVE, scrub.after.as_deref(), 1)?
            };
            let Some((row, live)) = page.into_iter().next() else {
                scrub.after = None;
                report.cycle_done = true;
                break;
            };
            match Live::decode(&live) {
                Some(Live::Entry(key)) => self.scrub_entry(key, &row, &mut report)?,
                Some(Live::Grant(grant)) => self.scrub_grant(grant, &mut report)?,
                Some(Live::Placement(key)) => self.scrub_placement(key, &mut report)?,
                None => {}
            }
            scrub.after = Some(row);
        }
        Ok(report)
    }

    fn scrub_entry(
        &self,
        key: Key,
        row: &[u8],
        report: &mut ScrubReport,
    ) -> Result<(), MaintainError> {
        let index = locked(&self.0.core.index);
        let Some(entry) = index.entry(View::Durable, key)? else { return Ok(()) };
        // Moved meanwhile: it will be met again, further on.
        let moved = rows::live_key(entry.at) != row;
        if moved || entry.state.quarantined {
            return Ok(());
        }
        let volume = self.0.core.volumes.get(entry.at.volume)?;
        drop(index);
        report.bytes += entry.record_len();
        if !check_entry(&volume, &entry) {
            self.record(Op::Quarantine { key, at: entry.at })?;
            report.damaged.push(key);
        }
        Ok(())
    }

    fn scrub_placement(
        &self,
        key: PlacementKey,
        report: &mut ScrubReport,
    ) -> Result<(), MaintainError> {
        let index = locked(&self.0.core.index);
        let Some(row) = index.placement(View::Durable, &key)? else { return Ok(()) };
        let volume = self.0.core.volumes.get(row.at.volume)?;
        drop(index);
        report.bytes += row.record_len();
        if !matches!(placement_bytes(&volume, &row), Ok(Some(_))) {
            report.damaged_placements.push(key);
        }
        Ok(())
    }

    /// The index knows what a damaged record of a grant's use said: it is written again.
    fn scrub_grant(&self, grant: [u8; 32], report: &mut ScrubReport) -> Result<(), MaintainError> {
        let index = locked(&self.0.core.index);
        let Some(row) = index.grant(View::Durable, &grant)?.filter(|row| row.own_len > 0) else {
            return Ok(());
        };
        let volume = self.0.core.volumes.get(row.at.volume)?;
        drop(index);
        report.bytes += row.own_len;
        if !grant_record_holds(&volume, &row) {
            self.record(Op::GrantAgain { grant, from: row.at })?;
        }
        Ok(())
    }

    /// Counts and sizes.
    ///
    /// # Errors
    /// The index's.
    pub fn stats(&self) -> Result<VaultStats, MaintainError> {
        let core = &self.0.core;
        let used_bytes = core.used_bytes()?;
        let index = locked(&core.index);
        let totals = index.totals(View::Durable)?;
        let volumes = index.volumes(View::Durable)?;
        let live_bytes = volumes.iter().map(|(_, row)| row.live).sum();
        let len: u64 = volumes.iter().map(|(_, row)| row.len).sum();
        Ok(VaultStats {
            shards: totals.keys,
            shard_bytes: totals.shard_bytes,
            quarantined: totals.quarantined,
            placements: totals.placements,
            volumes: volumes.len() as u64,
            live_bytes,
            garbage_bytes: len.saturating_sub(live_bytes),
            used_bytes,
            quota_bytes: core.config.quota_bytes,
            free_pool_bytes: totals.free_bytes,
            poisoned: core.poisoned.load(Ordering::Acquire),
        })
    }

    /// The keys among those live in a volume, with their places; a page of them.
    pub(crate) fn live_page(
        &self,
        volume: u64,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Live, Position)>, MaintainError> {
        let index = locked(&self.0.core.index);
        let page = index.kv.page(View::Durable, &rows::live_prefix(volume), after, limit)?;
        let decoded = page.into_iter().filter_map(|(row, live)| {
            let at = Position { volume, offset: rows::live_offset(&row)? };
            Some((row, Live::decode(&live)?, at))
        });
        Ok(decoded.collect())
    }

    /// Volumes in the index, ascending.
    pub(crate) fn volume_numbers(&self) -> Result<BTreeSet<u64>, MaintainError> {
        let headers = self.0.core.volumes.headers();
        Ok(headers.iter().map(|header| header.number).collect())
    }
}
