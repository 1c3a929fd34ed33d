//! Compaction: what still counts in a volume is written again at the end of the log, durable,
//! before the volume is removed. A crash at any step leaves two copies, never none.
use crate::crash::crash_point;
use crate::error::MaintainError;
use crate::format::{FIRST_RECORD_AT, Kind, RecordHead};
use crate::kv::View;
use crate::locked::locked;
use crate::plan::{Op, Outcome};
use crate::queue::Work;
use crate::read::{locate, placement_bytes};
use crate::rows::{self, GrantRow, Live, VolumeRow};
use crate::types::{Key, PlacementKey, Position};
use crate::vault::Vault;
use crate::volume::VolumeFile;
use crate::walk::{Found, Walker};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Requests handed in at once.
const BATCH_OPS: usize = 256;
/// Bytes of shards handed in at once.
const BATCH_BYTES: usize = 16 << 20;

/// What compacting one volume did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompactReport {
    /// The volume that is gone.
    pub volume: u64,
    /// Bytes that it had.
    pub bytes: u64,
    /// Records written again.
    pub moved: u64,
    /// Shards found damaged on the way; quarantined now.
    pub damaged: Vec<Key>,
    /// Placement records found damaged; gone now.
    pub damaged_placements: Vec<PlacementKey>,
}

impl Vault {
    /// Compacts the volume with the largest share of garbage, if that is at least
    /// `garbage_percent_min`; `None` if there is no such volume.
    ///
    /// # Errors
    /// See [`MaintainError`]; nothing is lost, the next call starts again.
    pub fn compact_step(
        &self,
        garbage_percent_min: u64,
    ) -> Result<Option<CompactReport>, MaintainError> {
        let _one_at_a_time = locked(&self.0.compacting);
        let Some((number, row)) = self.worst_volume(garbage_percent_min)? else { return Ok(None) };
        if !row.closed {
            self.ask(Work::Rotate, None)?;
        }
        let row = locked(&self.0.core.index).volume(View::Durable, number)?;
        let mut report =
            CompactReport { volume: number, bytes: row.len, ..CompactReport::default() };
        self.move_live(number, &mut report)?;
        self.move_log(number, row.len, &mut report)?;
        self.move_grants(number, &mut report)?;
        crash_point("vault.compact.moved");
        match self.ask(Work::Retire(number), None)? {
            Outcome::Dropped => Ok(Some(report)),
            // Something in it counts and could not be moved; it stays.
            _ => Ok(None),
        }
    }

    fn worst_volume(&self, percent_min: u64) -> Result<Option<(u64, VolumeRow)>, MaintainError> {
        let existing = self.volume_numbers()?;
        let volumes = locked(&self.0.core.index).volumes(View::Durable)?;
        let share = |number: u64, row: &VolumeRow| {
            let older = existing.first().is_some_and(|first| *first < number);
            let tombs = if older { row.tombs } else { 0 };
            let needed = row.live.saturating_add(tombs).saturating_add(FIRST_RECORD_AT);
            row.len.saturating_sub(needed).saturating_mul(100) / row.len.max(1)
        };
        let candidates = volumes.into_iter().filter(|(number, row)| {
            // A header that cuts a poisoned volume is needed as long as that one exists.
            !existing.contains(&row.cuts) && share(*number, row) >= percent_min.max(1)
        });
        Ok(candidates.max_by_key(|(number, row)| share(*number, row)))
    }

    /// Entries and placements whose current record stands in the volume.
    fn move_live(&self, number: u64, report: &mut CompactReport) -> Result<(), MaintainError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.live_page(number, after.as_deref(), BATCH_OPS)?;
            let Some((last, ..)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let (mut ops, mut bytes) = (Vec::new(), 0);
            for (_, live, at) in page {
                let op = match live {
                    Live::Entry(key) => self.move_entry(key, at, report)?,
                    Live::Placement(key) => self.move_placement(key, at, report)?,
                    // With all other grants, when what was moved has said it again for most.
                    Live::Grant(_) => None,
                };
                bytes += op.as_ref().map_or(0, Op::bytes);
                ops.extend(op);
                if bytes >= BATCH_BYTES {
                    report.moved += self.record_all(std::mem::take(&mut ops))?.len() as u64;
                    bytes = 0;
                }
            }
            report.moved += self.record_all(ops)?.len() as u64;
        }
    }

    fn move_entry(
        &self,
        key: Key,
        from: Position,
        report: &mut CompactReport,
    ) -> Result<Option<Op>, MaintainError> {
        let unreadable = |error| match error {
            crate::error::ReadError::Io(error) => MaintainError::Io(error),
            crate::error::ReadError::Index(error) => MaintainError::Index(error),
            other => MaintainError::Io(std::io::Error::other(other.to_string())),
        };
        let located = locate(&self.0.core, key).map_err(unreadable)?;
        let Some(located) = located.filter(|located| located.entry().at == from) else {
            return Ok(None);
        };
        let meta = located.meta().ok();
        if !located.entry().state.quarantined {
            // A sector that cannot be read is damage like any other.
            let shard = located.read_checked().ok().flatten();
            if let (Some(shard), Some(meta)) = (shard, meta.clone()) {
                return Ok(Some(Op::Move { key, from, meta, shard }));
            }
            self.record(Op::Quarantine { key, at: from })?;
            report.damaged.push(key);
        }
        Ok(Some(Op::Lost { key, from, meta: meta.unwrap_or_default() }))
    }

    fn move_placement(
        &self,
        key: PlacementKey,
        from: Position,
        report: &mut CompactReport,
    ) -> Result<Option<Op>, MaintainError> {
        let index = locked(&self.0.core.index);
        let row = index.placement(View::Durable, &key)?;
        let Some(row) = row.filter(|row| row.at == from) else { return Ok(None) };
        let volume = self.0.core.volumes.get(from.volume)?;
        drop(index);
        let record: Option<Bytes> = placement_bytes(&volume, &row).ok().flatten();
        Ok(Some(match record {
            Some(record) => Op::MovePlacement { key, from, record },
            None => {
                report.damaged_placements.push(key);
                Op::LosePlacement { key, from }
            }
        }))
    }

    /// Records that are no entry's own and may still count: changes to leases, tombstones.
    fn move_log(
        &self,
        number: u64,
        end: u64,
        report: &mut CompactReport,
    ) -> Result<(), MaintainError> {
        let volume: Arc<VolumeFile> = self.0.core.volumes.get(number)?;
        let older = older_than(&self.volume_numbers()?, number);
        let mut walker = Walker::new(volume, FIRST_RECORD_AT, end);
        let mut ops = Vec::new();
        while let Some(found) = walker.step() {
            let Found::Record(head, state) = found else { continue };
            ops.extend(log_op(&head, state, older));
            if ops.len() >= BATCH_OPS {
                report.moved += self.written(std::mem::take(&mut ops))?;
            }
        }
        report.moved += self.written(ops)?;
        Ok(())
    }

    /// The use of grants that only records of the volume tell: of leases on shards that are gone.
    fn move_grants(&self, number: u64, report: &mut CompactReport) -> Result<(), MaintainError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = {
                let index = locked(&self.0.core.index);
                index.kv.page(View::Durable, rows::GRANT, after.as_deref(), BATCH_OPS)?
            };
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let again = page.iter().filter_map(|(key, row)| {
                let (grant, row) = (rows::tail_grant(key)?, GrantRow::decode(row)?);
                (row.at.volume == number).then_some(Op::GrantAgain { grant, from: row.at })
            });
            report.moved += self.written(again.collect())?;
        }
    }

    pub(crate) fn written(&self, ops: Vec<Op>) -> Result<u64, MaintainError> {
        let outcomes = self.record_all(ops)?;
        Ok(outcomes.iter().filter(|outcome| **outcome == Outcome::Written).count() as u64)
    }
}

fn older_than(existing: &BTreeSet<u64>, number: u64) -> bool {
    existing.first().is_some_and(|first| *first < number)
}

fn log_op(head: &RecordHead, state: Vec<u8>, older_volumes: bool) -> Option<Op> {
    match head.kind {
        Kind::LeaseAdded | Kind::LeaseEnded | Kind::Sealed | Kind::Quarantine | Kind::Snapshot => {
            Some(Op::Snapshot { key: head.key, from: head.at })
        }
        Kind::Tombstone if older_volumes => Some(Op::TombstoneAgain { key: head.key, state }),
        Kind::PlacementDropped if older_volumes => {
            Some(Op::PlacementDropAgain { segment: head.key.segment, state })
        }
        _ => None,
    }
}
