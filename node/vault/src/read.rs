//! Finding and reading what is stored. Reads run beside writes and compaction: a located shard
//! keeps its volume's file open, so it can be read to the end even if the volume is removed.
use crate::core::Core;
use crate::error::ReadError;
use crate::format::{RECORD_LEN, RecordHead, encode_grant_used};
use crate::kv::View;
use crate::locked::locked;
use crate::rows::{Entry, GrantRow, PlacementRow};
use crate::types::{Key, PlacementKey, StoredLease};
use crate::volume::VolumeFile;
use bytes::Bytes;
use std::sync::Arc;

/// A stored shard, found and ready to be read.
#[derive(Debug, Clone)]
pub struct Located {
    key: Key,
    volume: Arc<VolumeFile>,
    entry: Entry,
}

impl Located {
    /// Which shard.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }

    /// The shard's length in bytes.
    #[must_use]
    pub fn shard_len(&self) -> u32 {
        self.entry.shard_len
    }

    /// The shard's BLAKE3 hash, computed when it was put.
    #[must_use]
    pub fn shard_hash(&self) -> [u8; 32] {
        self.entry.shard_hash
    }

    /// The leases, ended ones included, at the time of finding.
    #[must_use]
    pub fn leases(&self) -> &[StoredLease] {
        &self.entry.state.leases
    }

    /// Reads a range as it is on the disk; the caller checks it against the shard's hash.
    ///
    /// # Errors
    /// A range past the shard's end; the disk's errors.
    pub fn read_range(&self, offset: u64, len: usize) -> Result<Bytes, ReadError> {
        let shard_len = u64::from(self.entry.shard_len);
        let range = || ReadError::Range { offset, len: len as u64, shard_len };
        let end = offset.checked_add(len as u64).ok_or_else(range)?;
        if end > shard_len {
            return Err(range());
        }
        let mut out = vec![0; len];
        self.volume.file.read_at(shard_at(&self.entry) + offset, &mut out)?;
        Ok(out.into())
    }

    /// Reads the whole shard; `None` if its bytes do not match its hash.
    ///
    /// # Errors
    /// The disk's errors.
    pub(crate) fn read_checked(&self) -> Result<Option<Bytes>, ReadError> {
        let bytes = self.read_range(0, self.entry.shard_len as usize)?;
        let whole = *blake3::hash(&bytes).as_bytes() == self.entry.shard_hash;
        Ok(whole.then_some(bytes))
    }

    /// The meta bytes that were put with the shard, checked against the record's hash.
    ///
    /// # Errors
    /// [`ReadError::Quarantined`] if they do not match; the disk's errors.
    pub fn meta(&self) -> Result<Bytes, ReadError> {
        entry_meta(&self.volume, &self.entry)?.ok_or(ReadError::Quarantined)
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }
}

fn shard_at(entry: &Entry) -> u64 {
    entry.at.offset + RECORD_LEN as u64 + u64::from(entry.state_len) + u64::from(entry.meta_len)
}

/// Reads a record's header and what its `aux_hash` covers; `None` if they do not hold.
fn read_aux(
    volume: &VolumeFile,
    at: crate::types::Position,
    aux_len: usize,
) -> std::io::Result<Option<(RecordHead, Bytes)>> {
    let mut bytes = vec![0; RECORD_LEN + aux_len];
    volume.file.read_at(at.offset, &mut bytes)?;
    let Some(head) = RecordHead::decode(&bytes, &volume.header.secret, at) else {
        return Ok(None);
    };
    let aux = Bytes::from(bytes).slice(RECORD_LEN..);
    let holds = head.aux_len() == aux_len && *blake3::hash(&aux).as_bytes() == head.aux_hash;
    Ok(holds.then_some((head, aux)))
}

/// An entry's meta; `None` if it does not match its hash.
pub(crate) fn entry_meta(volume: &VolumeFile, entry: &Entry) -> std::io::Result<Option<Bytes>> {
    let aux_len = entry.state_len as usize + entry.meta_len as usize;
    let aux = read_aux(volume, entry.at, aux_len)?;
    Ok(aux.map(|(_, aux)| aux.slice(entry.state_len as usize..)))
}

/// A placement's opaque bytes; `None` if they do not match their hash.
pub(crate) fn placement_bytes(
    volume: &VolumeFile,
    row: &PlacementRow,
) -> std::io::Result<Option<Bytes>> {
    let aux = read_aux(volume, row.at, row.state_len as usize + row.meta_len as usize)?;
    Ok(aux.map(|(_, aux)| aux.slice(row.state_len as usize..)))
}

/// Whether the record of a grant's use says what the index knows.
pub(crate) fn grant_record_holds(volume: &VolumeFile, row: &GrantRow) -> bool {
    let state = encode_grant_used(row.used, row.until_epoch);
    matches!(read_aux(volume, row.at, state.len()), Ok(Some((_, aux))) if aux == state)
}

/// Bytes of a shard that a check reads at once.
const CHECK_STEP_BYTES: usize = 128 * 1024;

/// Reads everything of an entry's record and checks it.
pub(crate) fn check_entry(volume: &Arc<VolumeFile>, entry: &Entry) -> bool {
    let meta_holds = matches!(entry_meta(volume, entry), Ok(Some(_)));
    if entry.lost || !meta_holds {
        return meta_holds;
    }
    matches!(shard_hash(volume, entry), Ok(hash) if hash == entry.shard_hash)
}

/// Hashes a shard as it lies on the disk, in steps: nobody wants all of it in memory.
fn shard_hash(volume: &VolumeFile, entry: &Entry) -> std::io::Result<[u8; 32]> {
    let (start, len) = (shard_at(entry), u64::from(entry.shard_len));
    let mut hasher = blake3::Hasher::new();
    let mut step = vec![0; CHECK_STEP_BYTES.min(entry.shard_len as usize)];
    let mut done = 0;
    while done < len {
        let now = (len - done).min(step.len() as u64);
        // At most a step.
        let part = &mut step[..now as usize];
        volume.file.read_at(start + done, part)?;
        hasher.update(part);
        done += now;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Finds a shard, quarantined or not.
pub(crate) fn locate(core: &Core, key: Key) -> Result<Option<Located>, ReadError> {
    // Under the index's lock: compaction cannot remove the volume between the two look-ups.
    let index = locked(&core.index);
    let Some(entry) = index.entry(View::Durable, key)? else { return Ok(None) };
    let volume = core.volumes.get(entry.at.volume)?;
    Ok(Some(Located { key, volume, entry }))
}

/// A placement record: sequence and bytes.
pub(crate) fn placement(
    core: &Core,
    key: &PlacementKey,
) -> Result<Option<(u64, Bytes)>, ReadError> {
    let index = locked(&core.index);
    let Some(row) = index.placement(View::Durable, key)? else { return Ok(None) };
    let volume = core.volumes.get(row.at.volume)?;
    drop(index);
    match placement_bytes(&volume, &row)? {
        Some(bytes) => Ok(Some((row.sequence, bytes))),
        None => Err(ReadError::Quarantined),
    }
}
