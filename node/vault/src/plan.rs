//! From a request to the one record it needs, or to none: decided by what the index holds at that
//! moment, on the committer's thread, so that no two requests can decide on the same past.
use crate::config::VaultConfig;
use crate::error::WriteError;
use crate::format::{
    FREE_LEASES_PER_KEY_MAX, Kind, LEASES_PER_KEY_MAX, META_LEN_MAX, PLACEMENTS_PER_SEGMENT_MAX,
    decode_placement_state, encode_grant_used, encode_lease, encode_placement_state, encode_state,
    whole_key,
};
use crate::index::Index;
use crate::kv::{IndexError, View};
use crate::rows::{self, Entry};
use crate::types::{
    EntryState, Key, LeaseMeta, PlacementKey, Pool, Position, SegmentId, StoredLease,
};
use bytes::Bytes;

/// A shard with its lease, ready to be written; its hash was computed by whoever asks.
#[derive(Debug, Clone)]
pub(crate) struct PutOp {
    pub(crate) key: Key,
    pub(crate) shard: Bytes,
    pub(crate) shard_hash: [u8; 32],
    pub(crate) meta: Bytes,
    pub(crate) lease: Option<LeaseMeta>,
    pub(crate) epoch: u64,
}

/// What the committer can be asked for.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Put(PutOp),
    AddLease {
        key: Key,
        lease: LeaseMeta,
        epoch: u64,
    },
    /// Extends a lease that is here.
    Renew {
        key: Key,
        lease: LeaseMeta,
        epoch: u64,
    },
    EndLease {
        key: Key,
        lease: [u8; 32],
    },
    Seal {
        key: Key,
        lease: [u8; 32],
    },
    Placement {
        key: PlacementKey,
        sequence: u64,
        record: Bytes,
    },
    Quarantine {
        key: Key,
        at: Position,
    },
    /// Collection: the whole entry if nothing keeps it at this epoch, else leases that are over.
    Collect {
        key: Key,
        epoch: u64,
    },
    /// Drops an entry that only the free pool keeps.
    Evict {
        key: Key,
        epoch: u64,
    },
    /// Drops a placement record whose owner has no lease here any more.
    DropPlacement {
        key: PlacementKey,
    },
    /// Compaction and repair: the same entry, at a new place.
    Move {
        key: Key,
        from: Position,
        meta: Bytes,
        shard: Bytes,
    },
    Lost {
        key: Key,
        from: Position,
        meta: Bytes,
    },
    MovePlacement {
        key: PlacementKey,
        from: Position,
        record: Bytes,
    },
    /// The placement record there is damaged and its volume is to go.
    LosePlacement {
        key: PlacementKey,
        from: Position,
    },
    /// The full state again, because the record at this position still counts and is to go.
    Snapshot {
        key: Key,
        from: Position,
    },
    /// How much of a grant was used, because the record at this position says so and is to go.
    GrantAgain {
        grant: [u8; 32],
        from: Position,
    },
    TombstoneAgain {
        key: Key,
        state: Vec<u8>,
    },
    PlacementDropAgain {
        segment: SegmentId,
        state: Vec<u8>,
    },
}

/// Which part of the quota a record may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// What is left for new things.
    Put,
    /// Also the reserve for records that say what may go.
    End,
    /// Also half of the volume kept free for compaction: what says that something is gone gives
    /// back far more than it takes.
    Collect,
    /// All of the volume kept free for compaction.
    Compaction,
}

impl Op {
    pub(crate) fn room(&self) -> Room {
        match self {
            Self::Put(_) | Self::AddLease { .. } | Self::Placement { .. } => Room::Put,
            Self::EndLease { .. }
            | Self::Seal { .. }
            | Self::Quarantine { .. }
            // A full vault, which is how a vault should be, keeps its promises too.
            | Self::Renew { .. } => Room::End,
            Self::Collect { .. } | Self::Evict { .. } | Self::DropPlacement { .. } => Room::Collect,
            _ => Room::Compaction,
        }
    }

    /// Bytes that waiting costs.
    pub(crate) fn bytes(&self) -> usize {
        512 + match self {
            Self::Put(put) => put.shard.len() + put.meta.len(),
            Self::Move { meta, shard, .. } => meta.len() + shard.len(),
            Self::Lost { meta: bytes, .. }
            | Self::Placement { record: bytes, .. }
            | Self::MovePlacement { record: bytes, .. } => bytes.len(),
            _ => 0,
        }
    }
}

/// What an acknowledged request did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A record was written and is durable.
    Written,
    /// It was so already, durably.
    Already,
    /// A damaged shard was replaced.
    Healed,
    /// The entry was dropped.
    Dropped,
}

/// A record but for its place.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) kind: Kind,
    pub(crate) key: Key,
    pub(crate) state: Vec<u8>,
    pub(crate) meta: Bytes,
    pub(crate) shard: Bytes,
    pub(crate) shard_hash: [u8; 32],
}

type Planned = Result<(Option<Draft>, Outcome), WriteError>;

const NOTHING: Planned = Ok((None, Outcome::Already));

fn small(kind: Kind, key: Key, state: Vec<u8>) -> Draft {
    Draft { kind, key, state, meta: Bytes::new(), shard: Bytes::new(), shard_hash: [0; 32] }
}

fn write(draft: Draft) -> Planned {
    Ok((Some(draft), Outcome::Written))
}

/// Decides what a request needs.
pub(crate) fn plan(index: &Index, config: &VaultConfig, op: &Op) -> Planned {
    match op {
        Op::Put(put) => plan_put(index, config, put),
        Op::AddLease { key, lease, epoch } => {
            let entry = index.entry(View::Staged, *key)?.ok_or(WriteError::NotStored)?;
            if entry.state.quarantined {
                return Err(WriteError::Quarantined);
            }
            plan_lease(index, *key, &entry, lease, *epoch)
        }
        Op::Renew { key, lease, epoch } => match index.entry(View::Staged, *key)? {
            Some(entry) if entry.state.lease(&lease.id).is_some() => {
                let mut state = entry.state.clone();
                add_lease(&mut state, index, lease, *epoch, entry.shard_len.into())?;
                // The whole state: the one before is garbage then, and compaction never writes
                // more than it finds.
                write(small(Kind::Snapshot, *key, encode_state(&state)))
            }
            _ => Err(WriteError::NoSuchLease),
        },
        Op::EndLease { key, lease } => match index.entry(View::Staged, *key)? {
            Some(entry) if entry.state.lease(lease).is_some_and(|lease| !lease.ended) => {
                write(small(Kind::LeaseEnded, *key, lease.to_vec()))
            }
            _ => NOTHING,
        },
        Op::Seal { key, lease } => plan_seal(index, *key, lease),
        Op::Placement { key, sequence, record } => {
            plan_placement(index, config, *key, *sequence, record)
        }
        Op::Quarantine { key, at } => match index.entry(View::Staged, *key)? {
            Some(entry) if entry.at == *at && !entry.state.quarantined => {
                write(small(Kind::Quarantine, *key, position_state(*at)))
            }
            _ => NOTHING,
        },
        Op::Collect { key, epoch } => plan_collect(index, *key, *epoch),
        Op::Evict { key, epoch } => match index.entry(View::Staged, *key)? {
            Some(entry) if entry.state.only_free() => drop_entry(*key, *epoch),
            _ => NOTHING,
        },
        Op::DropPlacement { key } => match index.placement(View::Staged, key)? {
            Some(row) if !index.has_owner(View::Staged, key)? => write(dropped(key, row.sequence)),
            _ => NOTHING,
        },
        _ => plan_compaction(index, op),
    }
}

fn position_state(at: Position) -> Vec<u8> {
    let mut state = Vec::with_capacity(16);
    rows::put_position(&mut state, at);
    state
}

fn drop_entry(key: Key, epoch: u64) -> Planned {
    let draft = small(Kind::Tombstone, key, epoch.to_le_bytes().to_vec());
    Ok((Some(draft), Outcome::Dropped))
}

fn bounded(what: &'static str, len: usize, len_max: u32) -> Result<(), WriteError> {
    if len as u64 > u64::from(len_max) {
        return Err(WriteError::TooLong { what, len: len as u64, len_max: len_max.into() });
    }
    Ok(())
}

fn plan_put(index: &Index, config: &VaultConfig, put: &PutOp) -> Planned {
    bounded("a shard", put.shard.len(), config.shard_len_max)?;
    bounded("a shard's meta", put.meta.len(), META_LEN_MAX)?;
    let (mut state, outcome) = match index.entry(View::Staged, put.key)? {
        None => {
            (EntryState { created_epoch: put.epoch, ..EntryState::default() }, Outcome::Written)
        }
        Some(entry) if entry.shard_hash != put.shard_hash => return Err(WriteError::Conflict),
        Some(entry) if entry.state.quarantined => (entry.state, Outcome::Healed),
        Some(entry) => {
            return match &put.lease {
                Some(lease) => plan_lease(index, put.key, &entry, lease, put.epoch),
                None => NOTHING,
            };
        }
    };
    state.quarantined = false;
    if let Some(lease) = &put.lease {
        add_lease(&mut state, index, lease, put.epoch, put.shard.len() as u64)?;
    }
    let draft = Draft {
        kind: Kind::Put,
        key: put.key,
        state: encode_state(&state),
        meta: put.meta.clone(),
        shard: put.shard.clone(),
        shard_hash: put.shard_hash,
    };
    Ok((Some(draft), outcome))
}

/// Whether the lease may be added; makes room by forgetting leases that are over. Returns whether
/// it had to.
fn check_lease(
    state: &mut EntryState,
    index: &Index,
    lease: &StoredLease,
    epoch: u64,
) -> Result<bool, WriteError> {
    match state.lease(&lease.meta.id) {
        Some(old) if old.ended => return Err(WriteError::LeaseEnded),
        Some(_) => return Ok(false),
        None if has_room(state, lease) => return Ok(false),
        None => {}
    }
    state.leases.retain(|old| index.terms.forget_epoch(old) > epoch);
    if has_room(state, lease) { Ok(true) } else { Err(WriteError::TooManyLeases) }
}

/// Whether a key has a place for one more lease. Half of the places are for granted ones: else
/// strangers could take them all, for the price of a small shard, and keep its owner from renewing.
fn has_room(state: &EntryState, lease: &StoredLease) -> bool {
    let is_free = |lease: &StoredLease| matches!(lease.meta.pool, Pool::Free { .. });
    let free = state.leases.iter().filter(|old| is_free(old)).count();
    state.leases.len() < LEASES_PER_KEY_MAX && (!is_free(lease) || free < FREE_LEASES_PER_KEY_MAX)
}

/// Adds a lease to the state, or extends it, and charges its grant for what is new of it. Returns
/// whether leases had to be forgotten for it.
fn add_lease(
    state: &mut EntryState,
    index: &Index,
    meta: &LeaseMeta,
    epoch: u64,
    shard_bytes: u64,
) -> Result<bool, WriteError> {
    let new = StoredLease { meta: *meta, added_epoch: epoch, ended: false, grant_used: 0 };
    let made_room = check_lease(state, index, &new, epoch)?;
    let had = state.lease(&meta.id).map_or(0, |old| old.meta.byte_epochs(shard_bytes));
    state.upsert(new);
    if let Some(lease) = state.lease_mut(&meta.id) {
        charge_grant(lease, index, had, shard_bytes)?;
    }
    Ok(made_room)
}

/// What a lease promises is charged when it is promised, and never given back.
fn charge_grant(
    lease: &mut StoredLease,
    index: &Index,
    had: u128,
    shard_bytes: u64,
) -> Result<(), IndexError> {
    let more = lease.meta.byte_epochs(shard_bytes).saturating_sub(had);
    if let Pool::Granted { grant, .. } = lease.meta.pool
        && more > 0
    {
        lease.grant_used = index.grant_used(View::Staged, &grant)?.saturating_add(more);
    }
    Ok(())
}

fn plan_lease(index: &Index, key: Key, entry: &Entry, lease: &LeaseMeta, epoch: u64) -> Planned {
    let mut state = entry.state.clone();
    let made_room = add_lease(&mut state, index, lease, epoch, entry.shard_len.into())?;
    if state == entry.state {
        return NOTHING;
    }
    if made_room {
        return write(small(Kind::Snapshot, key, encode_state(&state)));
    }
    let mut bytes = Vec::new();
    if let Some(lease) = state.lease(&lease.id) {
        encode_lease(lease, &mut bytes);
    }
    write(small(Kind::LeaseAdded, key, bytes))
}

fn plan_seal(index: &Index, key: Key, lease: &[u8; 32]) -> Planned {
    let entry = index.entry(View::Staged, key)?.ok_or(WriteError::NotStored)?;
    match entry.state.lease(lease) {
        None => Err(WriteError::NoSuchLease),
        Some(lease) if lease.ended => Err(WriteError::LeaseEnded),
        Some(lease) if lease.meta.sealed => NOTHING,
        Some(_) => write(small(Kind::Sealed, key, lease.to_vec())),
    }
}

fn placement_draft(key: &PlacementKey, sequence: u64, record: &Bytes) -> Draft {
    let state = encode_placement_state(&key.owner, sequence);
    Draft { meta: record.clone(), ..small(Kind::Placement, whole_key(key.segment), state) }
}

fn dropped(key: &PlacementKey, sequence: u64) -> Draft {
    let state = encode_placement_state(&key.owner, sequence);
    small(Kind::PlacementDropped, whole_key(key.segment), state)
}

fn plan_placement(
    index: &Index,
    config: &VaultConfig,
    key: PlacementKey,
    sequence: u64,
    record: &Bytes,
) -> Planned {
    bounded("a placement record", record.len(), config.placement_len_max)?;
    if !index.has_segment(View::Staged, &key.segment)? {
        return Err(WriteError::NotStored);
    }
    // Collection would drop it at once.
    if !index.has_owner(View::Staged, &key)? {
        return Err(WriteError::NoSuchLease);
    }
    let most = PLACEMENTS_PER_SEGMENT_MAX;
    match index.placement(View::Staged, &key)? {
        Some(row) if row.sequence >= sequence => {
            Err(WriteError::StalePlacement { have: row.sequence })
        }
        None if index.placements(View::Staged, &key.segment, most)?.len() >= most => {
            Err(WriteError::TooManyPlacements)
        }
        _ => write(placement_draft(&key, sequence, record)),
    }
}

fn plan_collect(index: &Index, key: Key, epoch: u64) -> Planned {
    let Some(entry) = index.entry(View::Staged, key)? else { return NOTHING };
    if index.terms.collect_epoch(&entry) <= epoch {
        return drop_entry(key, epoch);
    }
    let mut state = entry.state.clone();
    state.leases.retain(|lease| index.terms.forget_epoch(lease) > epoch);
    if state == entry.state {
        return NOTHING;
    }
    write(small(Kind::Snapshot, key, encode_state(&state)))
}

fn plan_compaction(index: &Index, op: &Op) -> Planned {
    match op {
        Op::Move { key, from, meta, shard } => match index.entry(View::Staged, *key)? {
            Some(entry) if entry.at == *from && !entry.state.quarantined => write(Draft {
                kind: Kind::Move,
                key: *key,
                state: encode_state(&entry.state),
                meta: meta.clone(),
                shard: shard.clone(),
                shard_hash: entry.shard_hash,
            }),
            _ => NOTHING,
        },
        Op::Lost { key, from, meta } => match index.entry(View::Staged, *key)? {
            Some(entry) if entry.at == *from && entry.state.quarantined => {
                let mut state = u64::from(entry.shard_len).to_le_bytes().to_vec();
                state.extend_from_slice(&encode_state(&entry.state));
                let draft = small(Kind::Lost, *key, state);
                write(Draft { meta: meta.clone(), shard_hash: entry.shard_hash, ..draft })
            }
            _ => NOTHING,
        },
        Op::MovePlacement { key, from, record } => match index.placement(View::Staged, key)? {
            Some(row) if row.at == *from => write(placement_draft(key, row.sequence, record)),
            _ => NOTHING,
        },
        Op::LosePlacement { key, from } => match index.placement(View::Staged, key)? {
            Some(row) if row.at == *from => write(dropped(key, row.sequence)),
            _ => NOTHING,
        },
        Op::Snapshot { key, from } => match index.entry(View::Staged, *key)? {
            // Records before the last full state are void.
            Some(entry) if *from >= entry.snap => {
                write(small(Kind::Snapshot, *key, encode_state(&entry.state)))
            }
            _ => NOTHING,
        },
        Op::GrantAgain { grant, from } => match index.grant(View::Staged, grant)? {
            Some(row) if row.at == *from => {
                let state = encode_grant_used(row.used, row.until_epoch);
                write(small(Kind::GrantUsed, whole_key(*grant), state))
            }
            _ => NOTHING,
        },
        _ => plan_ends_again(index, op),
    }
}

/// Records that say that something is gone: kept while what they end may still
/// stand in an older volume.
fn plan_ends_again(index: &Index, op: &Op) -> Planned {
    match op {
        Op::TombstoneAgain { key, state } => match index.entry(View::Staged, *key)? {
            Some(_) => NOTHING,
            None => write(small(Kind::Tombstone, *key, state.clone())),
        },
        Op::PlacementDropAgain { segment, state } => {
            let Some((owner, sequence)) = decode_placement_state(state) else { return NOTHING };
            let key = PlacementKey { segment: *segment, owner };
            match index.placement(View::Staged, &key)? {
                Some(_) => NOTHING,
                None => write(dropped(&key, sequence)),
            }
        }
        _ => NOTHING,
    }
}
