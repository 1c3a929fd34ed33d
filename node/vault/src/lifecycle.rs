//! The committer's rarer work: beginning, sealing, poisoning and removing volumes, and writing the
//! index file. Every step is safe to be killed in (VOLUME_FORMAT.md section 6).
use crate::config::VaultConfig;
use crate::crash::crash_point;
use crate::disk::SyncSite;
use crate::error::WriteError;
use crate::format::{FIRST_RECORD_AT, Kind, RECORD_LEN, encode_trailer};
use crate::kv::{IndexError, View, write_layer};
use crate::locked::locked;
use crate::plan::{Draft, Op, Outcome};
use crate::queue::{Job, Work};
use crate::read::check_entry;
use crate::rows::{GRANT_DUE, Live, VolumeRow, live_prefix, number_after_prefix, tail_grant};
use crate::types::{Key, Position};
use crate::walk::footer_list;
use crate::writer::{Active, Writer, head_of};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Index bytes that one changed row may need in the file.
const INDEX_BYTES_PER_ROW: u64 = 1_024;
/// Rows read from the index at once.
const PAGE_ROWS: usize = 1_024;

impl Writer {
    /// Creates the next volume and makes it the active one.
    pub(crate) fn begin_volume(&mut self) -> Result<(), WriteError> {
        let config = self.core.config;
        let left = config.quota_bytes.saturating_sub(self.core.used_bytes()?);
        if FIRST_RECORD_AT > left {
            return Err(WriteError::QuotaFull { need: FIRST_RECORD_AT, left });
        }
        self.check_disk(FIRST_RECORD_AT)?;
        let number = self.next_number;
        self.next_number += 1;
        let volume = match self.core.volumes.create(number, config.volume_len, self.cut) {
            Ok(volume) => volume,
            Err(error) => {
                // What is left of the file holds no record; recovery knows such files too.
                let _ = self.core.volumes.remove(number);
                let why = error.to_string();
                if self.cut.is_some() {
                    self.stop(why.clone());
                    return Err(WriteError::Stopped(why));
                }
                return Err(WriteError::Refused(why));
            }
        };
        let row = VolumeRow {
            len: FIRST_RECORD_AT,
            cuts: self.cut.map_or(0, |cut| cut.volume),
            ..VolumeRow::default()
        };
        let mut index = locked(&self.core.index);
        index.set_volume(number, &row);
        index.set_position(Position { volume: number, offset: FIRST_RECORD_AT });
        index.kv.commit_staged();
        drop(index);
        self.core.volume_bytes.fetch_add(FIRST_RECORD_AT, Ordering::AcqRel);
        self.cut = None;
        self.active = Some(Active { volume, synced: FIRST_RECORD_AT, damaged: false });
        Ok(())
    }

    /// Seals the active volume and begins the next.
    pub(crate) fn rotate(&mut self) -> Result<(), WriteError> {
        let Some(active) = &self.active else { return self.begin_volume() };
        let (volume, start) = (Arc::clone(&active.volume), active.synced);
        let header = volume.header;
        let list_max = VaultConfig::footer_list_max(header.len_max) as usize;
        let list = match active.damaged {
            true => Vec::new(),
            false => footer_list(&volume, FIRST_RECORD_AT, start, list_max),
        };
        let draft = Draft {
            kind: Kind::Footer,
            key: Key { segment: [0; 32], index: 0 },
            state: list,
            meta: Bytes::new(),
            shard: Bytes::new(),
            shard_hash: [0; 32],
        };
        let head = head_of(&draft, Position { volume: header.number, offset: start });
        let padding = vec![0; head.total_len() as usize - RECORD_LEN - draft.state.len()];
        let trailer = encode_trailer(&header.secret, start);
        let parts: [&[u8]; 4] = [&head.encode(&header.secret), &draft.state, &padding, &trailer];
        let bytes = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        self.check_disk(bytes)?;
        if let Err(error) = volume.file.write_at(start, &parts) {
            return Err(self.roll_back(&volume, start, &error));
        }
        if let Err(error) = volume.file.sync_data(SyncSite::VolumeSealed) {
            self.poison();
            return Err(WriteError::Poisoned(error.to_string()));
        }
        crash_point("vault.volume.sealed");
        self.core.volume_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.active = None;
        let mut index = locked(&self.core.index);
        let mut row = index.volume(View::Staged, header.number)?;
        row.len = start + bytes;
        row.closed = true;
        index.set_volume(header.number, &row);
        // In one step with the new volume's row: a position names the newest volume.
        drop(index);
        self.begin_volume()
    }

    /// Gives up the active volume after a failed sync: it ends where it was last synced. What it
    /// holds is checked through a fresh handle; the next volume's header voids the rest.
    pub(crate) fn poison(&mut self) {
        let Some(active) = self.active.take() else { return };
        let number = active.number();
        self.core.poisoned.fetch_add(1, Ordering::AcqRel);
        self.cut = Some(Position { volume: number, offset: active.synced });
        tracing::error!(volume = number, synced = active.synced, "a sync failed: volume poisoned");
        if let Err(error) = self.close_poisoned(number, active.synced) {
            self.stop(error.to_string());
        }
    }

    fn close_poisoned(&mut self, number: u64, synced: u64) -> Result<(), IndexError> {
        let volume = match self.core.volumes.reopen(number) {
            Ok(volume) => volume,
            Err(error) => {
                self.stop(error.to_string());
                return Ok(());
            }
        };
        let tail = volume.file.size().unwrap_or(synced).saturating_sub(synced);
        self.core.volume_bytes.fetch_add(tail, Ordering::AcqRel);
        let mut index = locked(&self.core.index);
        let mut row = index.volume(View::Staged, number)?;
        row.closed = true;
        index.set_volume(number, &row);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let prefix = live_prefix(number);
            let page = index.kv.page(View::Durable, &prefix, after.as_deref(), PAGE_ROWS)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (_, live) in &page {
                let Some(Live::Entry(key)) = Live::decode(live) else { continue };
                let Some(entry) = index.entry(View::Durable, key)? else { continue };
                if !entry.state.quarantined && !check_entry(&volume, &entry) {
                    self.repairs.push(Op::Quarantine { key, at: entry.at });
                }
            }
        }
        index.kv.commit_staged();
        Ok(())
    }

    /// What damage did, as records to be written.
    pub(crate) fn repair_jobs(&mut self) -> Vec<Job> {
        let job = |op| Job {
            work: Work::Record(Box::new(op)),
            done: Box::new(|_| {}),
            reservation: None,
        };
        std::mem::take(&mut self.repairs).into_iter().map(job).collect()
    }

    /// Removes a volume that holds nothing that counts. Its leaving is in the index file before the
    /// file goes, and the removal is durable before a later tombstone may be dropped.
    pub(crate) fn retire(&mut self, number: u64) -> Result<Outcome, WriteError> {
        let is_active = self.active.as_ref().is_some_and(|active| active.number() == number);
        let mut index = locked(&self.core.index);
        let mut row = index.volume(View::Durable, number)?;
        if is_active || row.live > 0 {
            return Ok(Outcome::Already);
        }
        row.leaving = true;
        index.set_volume(number, &row);
        index.kv.commit_staged();
        drop(index);
        self.checkpoint()?;
        crash_point("vault.compact.leaving");
        let refused = |error: std::io::Error| WriteError::Refused(error.to_string());
        let size = match self.core.volumes.get(number) {
            Ok(volume) => volume.file.size().map_err(refused)?,
            Err(_) => 0,
        };
        self.core.volumes.remove(number).map_err(refused)?;
        crash_point("vault.compact.removed");
        self.core.volumes.sync_removed().map_err(refused)?;
        let mut index = locked(&self.core.index);
        index.drop_volume(number);
        index.kv.commit_staged();
        drop(index);
        self.core.volume_bytes.fetch_sub(size, Ordering::AcqRel);
        crash_point("vault.compact.done");
        Ok(Outcome::Dropped)
    }

    /// Forgets the use of grants that are over. Only the index forgets: made again from the
    /// volumes it may know them once more, until the next collection.
    pub(crate) fn forget_grants(&mut self, epoch: u64) -> Result<Outcome, WriteError> {
        let mut index = locked(&self.core.index);
        let mut outcome = Outcome::Already;
        loop {
            let page = index.kv.page(View::Durable, GRANT_DUE, None, PAGE_ROWS)?;
            let due = page.iter().map_while(|(row, _)| {
                number_after_prefix(row).filter(|due| *due <= epoch).and(tail_grant(row))
            });
            let due: Vec<[u8; 32]> = due.collect();
            for grant in &due {
                if let Some(row) = index.grant(View::Staged, grant)? {
                    index.forget_grant(grant, &row)?;
                }
            }
            index.kv.commit_staged();
            if due.is_empty() {
                return Ok(outcome);
            }
            outcome = Outcome::Dropped;
        }
    }

    pub(crate) fn checkpoint_if_due(&mut self) {
        let rows = locked(&self.core.index).kv.dirty_rows();
        if rows >= self.core.config.checkpoint_rows
            && let Err(error) = self.checkpoint()
        {
            tracing::warn!(%error, rows, "the index could not be written; the volumes hold all");
        }
    }

    /// Writes changed rows, with the position up to which they hold, to the index file.
    pub(crate) fn checkpoint(&mut self) -> Result<Outcome, WriteError> {
        let quota = self.core.config.quota_bytes;
        let left = quota.saturating_sub(self.core.volume_bytes());
        self.core.index_size.bytes_max.store(left, Ordering::Release);
        let mut index = locked(&self.core.index);
        let rows = index.kv.dirty_rows() as u64;
        if rows == 0 {
            return Ok(Outcome::Already);
        }
        // Asked before redb begins: a redb that could not write does not read any more either.
        let need = rows.saturating_mul(INDEX_BYTES_PER_ROW) + (1 << 20);
        self.check_disk(need)?;
        let Some((db, layer)) = index.kv.freeze() else { return Ok(Outcome::Already) };
        drop(index);
        crash_point("vault.index.checkpointing");
        let written = write_layer(&db, &layer);
        locked(&self.core.index).kv.thaw(written.is_ok());
        written?;
        crash_point("vault.index.checkpointed");
        Ok(Outcome::Written)
    }
}
