//! What the records mean: applies one record after the other to the index's rows. The same code
//! runs when a record is first written and when it is read again after a crash, so the two cannot
//! come to different ends. It reads no volume and decides nothing that is not in the record.
use crate::format::{
    Kind, RecordHead, decode_grant_used, decode_lease, decode_placement_state, decode_state,
};
use crate::kv::{IndexError, Kv, View};
use crate::rows::{self, Entry, GrantRow, Live, PlacementRow, Totals, VolumeRow};
use crate::types::{Key, PlacementKey, Pool, Position, SegmentId, StoredLease};

/// The epochs that the due rows were computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) unsealed_ttl_epochs: u64,
    pub(crate) grace_epochs: u64,
}

impl Terms {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = self.unsealed_ttl_epochs.to_le_bytes().to_vec();
        out.extend_from_slice(&self.grace_epochs.to_le_bytes());
        out
    }

    /// The first epoch at which the entry may be collected.
    pub(crate) fn collect_epoch(self, entry: &Entry) -> u64 {
        entry.state.end_epoch(self.unsealed_ttl_epochs).saturating_add(self.grace_epochs)
    }

    /// The first epoch at which nothing of this lease needs to be remembered. The mark of an ended
    /// one stays until it would have ended anyway.
    pub(crate) fn forget_epoch(self, lease: &StoredLease) -> u64 {
        let end = match lease.ended {
            true => lease.meta.until_epoch,
            false => lease.end_epoch(self.unsealed_ttl_epochs),
        };
        end.saturating_add(self.grace_epochs)
    }

    /// The first epoch at which the use of a grant may be forgotten: nothing is admitted under it
    /// any more.
    pub(crate) fn grant_epoch(self, grant: &GrantRow) -> u64 {
        grant.until_epoch.saturating_add(self.grace_epochs)
    }

    /// The first epoch at which renewal or collection has something to do here: the whole entry or
    /// one lease.
    pub(crate) fn due_epoch(self, entry: &Entry) -> u64 {
        let due = entry.state.leases.iter().map(|lease| {
            let renew = lease.renew_epoch(self.unsealed_ttl_epochs);
            renew.unwrap_or(u64::MAX).min(self.forget_epoch(lease))
        });
        due.min().unwrap_or(u64::MAX).min(self.collect_epoch(entry))
    }
}

/// The typed index over its rows.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) kv: Kv,
    pub(crate) terms: Terms,
}

impl Index {
    pub(crate) fn entry(&self, view: View, key: Key) -> Result<Option<Entry>, IndexError> {
        self.decoded(view, &rows::entry_key(key), Entry::decode)
    }

    pub(crate) fn placement(
        &self,
        view: View,
        key: &PlacementKey,
    ) -> Result<Option<PlacementRow>, IndexError> {
        self.decoded(view, &rows::placement_row_key(key), PlacementRow::decode)
    }

    /// The owners that have a placement record of the segment, with its row; at most `limit`.
    pub(crate) fn placements(
        &self,
        view: View,
        segment: &SegmentId,
        limit: usize,
    ) -> Result<Vec<(PlacementKey, PlacementRow)>, IndexError> {
        let prefix = rows::whole_prefix(rows::PLACEMENT, segment);
        let page = self.kv.page(view, &prefix, None, limit)?;
        let decoded = page.iter().filter_map(|(key, row)| {
            Some((rows::tail_placement(key)?, PlacementRow::decode(row)?))
        });
        Ok(decoded.collect())
    }

    pub(crate) fn volume(&self, view: View, number: u64) -> Result<VolumeRow, IndexError> {
        let row = self.decoded(view, &rows::volume_key(number), VolumeRow::decode)?;
        Ok(row.unwrap_or_default())
    }

    pub(crate) fn totals(&self, view: View) -> Result<Totals, IndexError> {
        Ok(self.decoded(view, rows::TOTALS, Totals::decode)?.unwrap_or_default())
    }

    pub(crate) fn grant(
        &self,
        view: View,
        grant: &[u8; 32],
    ) -> Result<Option<GrantRow>, IndexError> {
        self.decoded(view, &rows::grant_key(grant), GrantRow::decode)
    }

    /// Byte-epochs of a grant used by all leases ever admitted.
    pub(crate) fn grant_used(&self, view: View, grant: &[u8; 32]) -> Result<u128, IndexError> {
        Ok(self.grant(view, grant)?.map_or(0, |row| row.used))
    }

    pub(crate) fn prefix_bytes(&self, view: View, prefix: &[u8; 16]) -> Result<u64, IndexError> {
        let read = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
        Ok(self.decoded(view, &rows::prefix_key(prefix), read)?.unwrap_or(0))
    }

    /// The position up to which the index holds.
    pub(crate) fn position(&self) -> Result<Option<Position>, IndexError> {
        let read = |bytes: &[u8]| rows::position(&mut crate::bytes_io::Reader(bytes));
        self.decoded(View::Durable, rows::POSITION, read)
    }

    fn decoded<T>(
        &self,
        view: View,
        key: &[u8],
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, IndexError> {
        let Some(bytes) = self.kv.get(view, key)? else { return Ok(None) };
        match decode(&bytes) {
            Some(row) => Ok(Some(row)),
            None => Err(IndexError("a row that does not decode".to_owned())),
        }
    }

    /// Every volume of the index, in order.
    pub(crate) fn volumes(&self, view: View) -> Result<Vec<(u64, VolumeRow)>, IndexError> {
        let rows = self.kv.page(view, rows::VOLUME, None, usize::MAX)?;
        let decoded = rows.iter().filter_map(|(key, row)| {
            Some((rows::number_after_prefix(key)?, VolumeRow::decode(row)?))
        });
        Ok(decoded.collect())
    }

    /// Whether any shard of the segment has an entry.
    pub(crate) fn has_segment(&self, view: View, segment: &SegmentId) -> Result<bool, IndexError> {
        let prefix = rows::whole_prefix(rows::ENTRY, segment);
        Ok(!self.kv.page(view, &prefix, None, 1)?.is_empty())
    }

    /// Whether the owner has a lease on a shard of the segment that was neither ended nor forgotten.
    pub(crate) fn has_owner(&self, view: View, key: &PlacementKey) -> Result<bool, IndexError> {
        let prefix = rows::whole_prefix(rows::ENTRY, &key.segment);
        // An index has 8 bits: all of a segment's shards fit into one page.
        let page = self.kv.page(view, &prefix, None, 1 << 8)?;
        let entries = page.iter().filter_map(|(_, row)| Entry::decode(row));
        Ok(entries
            .flat_map(|entry| entry.state.leases)
            .any(|lease| !lease.ended && lease.meta.owner == key.owner))
    }

    pub(crate) fn set_position(&mut self, at: Position) {
        let mut row = Vec::with_capacity(16);
        rows::put_position(&mut row, at);
        self.kv.stage(rows::POSITION.to_vec(), Some(row));
    }

    pub(crate) fn set_volume(&mut self, number: u64, row: &VolumeRow) {
        self.kv.stage(rows::volume_key(number), Some(row.encode()));
    }

    pub(crate) fn drop_volume(&mut self, number: u64) {
        self.kv.stage(rows::volume_key(number), None);
    }

    fn change_volume(
        &mut self,
        number: u64,
        change: impl FnOnce(&mut VolumeRow),
    ) -> Result<(), IndexError> {
        let mut row = self.volume(View::Staged, number)?;
        change(&mut row);
        self.set_volume(number, &row);
        Ok(())
    }

    /// Applies one valid record. `whole` says that its shard's hash held (or was not checked).
    pub(crate) fn apply(
        &mut self,
        head: &RecordHead,
        state: &[u8],
        whole: bool,
    ) -> Result<(), IndexError> {
        let end = head.next_at();
        self.change_volume(head.at.volume, |row| row.len = row.len.max(end))?;
        match head.kind {
            Kind::Put | Kind::Move | Kind::Lost => self.apply_bytes(head, state, whole),
            Kind::Tombstone => {
                self.change_volume(head.at.volume, |row| row.tombs += head.total_len())?;
                self.replace_entry(head.key, None)
            }
            Kind::Placement | Kind::PlacementDropped => self.apply_placement(head, state),
            Kind::GrantUsed => match decode_grant_used(state) {
                Some((used, until_epoch)) => {
                    let own_len = head.total_len();
                    let row = GrantRow { used, until_epoch, at: head.at, own_len };
                    self.raise_grant(&head.key.segment, row)
                }
                None => Ok(()),
            },
            Kind::Footer => Ok(()),
            Kind::LeaseAdded
            | Kind::LeaseEnded
            | Kind::Sealed
            | Kind::Quarantine
            | Kind::Snapshot => self.apply_change(head, state),
        }
    }

    fn apply_bytes(
        &mut self,
        head: &RecordHead,
        state: &[u8],
        whole: bool,
    ) -> Result<(), IndexError> {
        let lost = head.kind == Kind::Lost;
        let (claimed_len, state_bytes) = match lost {
            true => match state.split_at_checked(8) {
                Some((len, rest)) => (crate::bytes_io::Reader(len).u32().unwrap_or(0), rest),
                None => return Ok(()),
            },
            false => (head.shard_len, state),
        };
        let Some(mut state) = decode_state(state_bytes) else { return Ok(()) };
        self.raise_grants(&state.leases, head.at)?;
        state.quarantined |= !whole || lost;
        let entry = Entry {
            at: head.at,
            state_len: head.state_len,
            meta_len: head.meta_len,
            shard_len: claimed_len,
            shard_hash: head.shard_hash,
            lost,
            snap: head.at,
            snap_len: 0,
            state,
        };
        self.replace_entry(head.key, Some(entry))
    }

    /// Records that change an entry that must exist.
    fn apply_change(&mut self, head: &RecordHead, state: &[u8]) -> Result<(), IndexError> {
        // Use of a grant counts even if the shard is gone.
        match head.kind {
            Kind::LeaseAdded => self.raise_grants(decode_lease(state).as_slice(), head.at)?,
            Kind::Snapshot => {
                let leases = decode_state(state).unwrap_or_default().leases;
                self.raise_grants(&leases, head.at)?;
            }
            _ => {}
        }
        let Some(mut entry) = self.entry(View::Staged, head.key)? else { return Ok(()) };
        let changed = match head.kind {
            Kind::LeaseAdded => decode_lease(state).map(|lease| entry.state.upsert(lease)),
            Kind::LeaseEnded => lease_of(&mut entry, state).map(|lease| lease.ended = true),
            Kind::Sealed => lease_of(&mut entry, state).map(|lease| lease.meta.sealed = true),
            Kind::Quarantine => rows::position(&mut crate::bytes_io::Reader(state))
                .filter(|at| *at == entry.at)
                .map(|_| entry.state.quarantined = true),
            _ => decode_state(state).map(|state| {
                entry.state = state;
                entry.snap = head.at;
                entry.snap_len = head.total_len();
            }),
        };
        match changed {
            Some(()) => self.replace_entry(head.key, Some(entry)),
            None => Ok(()),
        }
    }

    fn apply_placement(&mut self, head: &RecordHead, state: &[u8]) -> Result<(), IndexError> {
        let Some((owner, sequence)) = decode_placement_state(state) else { return Ok(()) };
        let key = PlacementKey { segment: head.key.segment, owner };
        let old = self.placement(View::Staged, &key)?;
        let dropped = head.kind == Kind::PlacementDropped;
        if dropped {
            self.change_volume(head.at.volume, |row| row.tombs += head.total_len())?;
        }
        let applies = match (old, dropped) {
            (Some(old), true) => sequence >= old.sequence,
            (None, true) => false,
            // Compaction writes the same sequence again, at a new place.
            (Some(old), false) => sequence >= old.sequence,
            (None, false) => true,
        };
        if !applies {
            return Ok(());
        }
        if let Some(old) = old {
            self.forget_live(old.at, old.record_len())?;
        }
        let new = (!dropped).then_some(PlacementRow {
            sequence,
            at: head.at,
            state_len: head.state_len,
            meta_len: head.meta_len,
        });
        if let Some(new) = new {
            self.remember_live(new.at, new.record_len(), Live::Placement(key))?;
        }
        let mut totals = self.totals(View::Staged)?;
        totals.placements += u64::from(new.is_some());
        totals.placements = totals.placements.saturating_sub(u64::from(old.is_some()));
        self.kv.stage(rows::TOTALS.to_vec(), Some(totals.encode()));
        self.kv.stage(rows::placement_row_key(&key), new.map(|new| new.encode()));
        Ok(())
    }

    fn remember_live(&mut self, at: Position, len: u64, live: Live) -> Result<(), IndexError> {
        self.kv.stage(rows::live_key(at), Some(live.encode()));
        self.change_volume(at.volume, |row| row.live += len)
    }

    fn forget_live(&mut self, at: Position, len: u64) -> Result<(), IndexError> {
        self.kv.stage(rows::live_key(at), None);
        self.change_volume(at.volume, |row| row.live = row.live.saturating_sub(len))
    }

    /// Puts a new state of an entry in place of the old one, and everything that follows from it.
    pub(crate) fn replace_entry(&mut self, key: Key, new: Option<Entry>) -> Result<(), IndexError> {
        let old = self.entry(View::Staged, key)?;
        let mut totals = self.totals(View::Staged)?;
        if let Some(old) = &old {
            self.forget_entry(key, old, &mut totals)?;
        }
        if let Some(new) = &new {
            self.remember_entry(key, new, &mut totals)?;
        }
        self.kv.stage(rows::TOTALS.to_vec(), Some(totals.encode()));
        self.kv.stage(rows::entry_key(key), new.map(|new| new.encode()));
        Ok(())
    }

    fn forget_entry(
        &mut self,
        key: Key,
        old: &Entry,
        totals: &mut Totals,
    ) -> Result<(), IndexError> {
        self.forget_live(old.at, old.record_len())?;
        if old.snap_len > 0 {
            self.change_volume(old.snap.volume, |row| {
                row.live = row.live.saturating_sub(old.snap_len);
            })?;
        }
        let due = self.terms.due_epoch(old);
        self.kv.stage(rows::due_key(rows::DUE, due, key), None);
        if old.state.only_free() {
            self.kv.stage(rows::due_key(rows::FREE, due, key), None);
        }
        totals.keys = totals.keys.saturating_sub(1);
        totals.shard_bytes = totals.shard_bytes.saturating_sub(u64::from(old.shard_len));
        totals.quarantined = totals.quarantined.saturating_sub(u64::from(old.state.quarantined));
        totals.standing = totals.standing.saturating_sub(old.state.standing());
        self.charge(old, totals, false)
    }

    fn remember_entry(
        &mut self,
        key: Key,
        new: &Entry,
        totals: &mut Totals,
    ) -> Result<(), IndexError> {
        self.remember_live(new.at, new.record_len(), Live::Entry(key))?;
        if new.snap_len > 0 {
            self.change_volume(new.snap.volume, |row| row.live += new.snap_len)?;
        }
        let due = self.terms.due_epoch(new);
        self.kv.stage(rows::due_key(rows::DUE, due, key), Some(Vec::new()));
        if new.state.only_free() {
            self.kv.stage(rows::due_key(rows::FREE, due, key), Some(Vec::new()));
        }
        totals.keys += 1;
        totals.shard_bytes += u64::from(new.shard_len);
        totals.quarantined += u64::from(new.state.quarantined);
        totals.standing += new.state.standing();
        self.charge(new, totals, true)
    }

    /// The record at `at` holds these leases, with what was used of their grants.
    pub(crate) fn raise_grants(
        &mut self,
        leases: &[StoredLease],
        at: Position,
    ) -> Result<(), IndexError> {
        for lease in leases {
            if let Pool::Granted { grant, until_epoch } = lease.meta.pool {
                let row = GrantRow { used: lease.grant_used, until_epoch, at, own_len: 0 };
                self.raise_grant(&grant, row)?;
            }
        }
        Ok(())
    }

    /// The use of a grant never goes down: the greatest number that any record holds counts, and
    /// of records with the same number the last, for compaction goes from the first to the last.
    fn raise_grant(&mut self, grant: &[u8; 32], mut new: GrantRow) -> Result<(), IndexError> {
        if let Some(old) = self.grant(View::Staged, grant)? {
            if (new.used, new.at) <= (old.used, old.at) {
                return Ok(());
            }
            new.until_epoch = new.until_epoch.max(old.until_epoch);
            self.forget_grant(grant, &old)?;
        }
        if new.own_len > 0 {
            self.remember_live(new.at, new.own_len, Live::Grant(*grant))?;
        }
        let due = self.terms.grant_epoch(&new);
        self.kv.stage(rows::grant_due_key(due, grant), Some(Vec::new()));
        self.kv.stage(rows::grant_key(grant), Some(new.encode()));
        Ok(())
    }

    pub(crate) fn forget_grant(
        &mut self,
        grant: &[u8; 32],
        old: &GrantRow,
    ) -> Result<(), IndexError> {
        if old.own_len > 0 {
            self.forget_live(old.at, old.own_len)?;
        }
        self.kv.stage(rows::grant_due_key(self.terms.grant_epoch(old), grant), None);
        self.kv.stage(rows::grant_key(grant), None);
        Ok(())
    }

    /// Adds (or takes back) what an entry's leases take of the free pool.
    fn charge(&mut self, entry: &Entry, totals: &mut Totals, add: bool) -> Result<(), IndexError> {
        let bytes = u64::from(entry.shard_len);
        for lease in entry.state.leases.iter().filter(|lease| !lease.ended) {
            let Pool::Free { prefix } = lease.meta.pool else { continue };
            let change = |sum: u64| {
                if add { sum.saturating_add(bytes) } else { sum.saturating_sub(bytes) }
            };
            totals.free_bytes = change(totals.free_bytes);
            let sum = change(self.prefix_bytes(View::Staged, &prefix)?);
            let row = (sum > 0).then(|| sum.to_le_bytes().to_vec());
            self.kv.stage(rows::prefix_key(&prefix), row);
        }
        Ok(())
    }
}

fn lease_of<'a>(entry: &'a mut Entry, state: &[u8]) -> Option<&'a mut crate::types::StoredLease> {
    entry.state.lease_mut(state.try_into().ok()?)
}
