//! The rows of the index: their keys and values as bytes. The layout is the index's own business
//! and may change freely: an index of another layout is rebuilt from the volumes.
use crate::bytes_io::Reader;
use crate::format::{decode_state, encode_state, total_len};
use crate::types::{EntryState, Key, PlacementKey, Position};

/// One entry: what the vault knows of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The record that holds bytes and meta (or `lost`: meta only).
    pub(crate) at: Position,
    pub(crate) state_len: u32,
    pub(crate) meta_len: u32,
    pub(crate) shard_len: u32,
    pub(crate) shard_hash: [u8; 32],
    /// No bytes anywhere.
    pub(crate) lost: bool,
    /// The newest record with the full state; lease records before it are void.
    pub(crate) snap: Position,
    /// Bytes of that record if it is not the one at `at`, else 0.
    pub(crate) snap_len: u64,
    pub(crate) state: EntryState,
}

impl Entry {
    /// Bytes on disk of the record at `at`.
    pub(crate) fn record_len(&self) -> u64 {
        let shard_len = if self.lost { 0 } else { self.shard_len };
        total_len(self.state_len, self.meta_len, shard_len)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        put_position(&mut out, self.at);
        for len in [self.state_len, self.meta_len, self.shard_len, u32::from(self.lost)] {
            out.extend_from_slice(&len.to_le_bytes());
        }
        out.extend_from_slice(&self.shard_hash);
        put_position(&mut out, self.snap);
        out.extend_from_slice(&self.snap_len.to_le_bytes());
        out.extend_from_slice(&encode_state(&self.state));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(Self {
            at: position(&mut reader)?,
            state_len: reader.u32()?,
            meta_len: reader.u32()?,
            shard_len: reader.u32()?,
            lost: reader.u32()? != 0,
            shard_hash: reader.array()?,
            snap: position(&mut reader)?,
            snap_len: reader.u64()?,
            state: decode_state(reader.0)?,
        })
    }
}

/// Where the current placement record of one owner and segment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlacementRow {
    pub(crate) sequence: u64,
    pub(crate) at: Position,
    pub(crate) state_len: u32,
    pub(crate) meta_len: u32,
}

impl PlacementRow {
    pub(crate) fn record_len(&self) -> u64 {
        total_len(self.state_len, self.meta_len, 0)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.sequence.to_le_bytes().to_vec();
        put_position(&mut out, self.at);
        out.extend_from_slice(&self.state_len.to_le_bytes());
        out.extend_from_slice(&self.meta_len.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(Self {
            sequence: reader.u64()?,
            at: position(&mut reader)?,
            state_len: reader.u32()?,
            meta_len: reader.u32()?,
        })
    }
}

/// How much of a grant was used, and which record says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GrantRow {
    /// Byte-epochs of all leases ever admitted.
    pub(crate) used: u128,
    pub(crate) until_epoch: u64,
    /// The newest record with this number: that of a lease, or one of its own.
    pub(crate) at: Position,
    /// Bytes of that record if it is one of its own, else 0.
    pub(crate) own_len: u64,
}

impl GrantRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = crate::format::encode_grant_used(self.used, self.until_epoch);
        put_position(&mut out, self.at);
        out.extend_from_slice(&self.own_len.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(Self {
            used: reader.u128()?,
            until_epoch: reader.u64()?,
            at: position(&mut reader)?,
            own_len: reader.u64()?,
        })
    }
}

/// What the index knows of one volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct VolumeRow {
    /// Bytes that count, headers and footer included.
    pub(crate) len: u64,
    /// Of these, bytes of records that are still needed.
    pub(crate) live: u64,
    /// Bytes of tombstones: needed as long as an older volume exists.
    pub(crate) tombs: u64,
    /// No more records go into it.
    pub(crate) closed: bool,
    /// Everything that counts was moved out; the file may be removed.
    pub(crate) leaving: bool,
    /// The poisoned volume that its header cuts, or 0.
    pub(crate) cuts: u64,
}

impl VolumeRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(34);
        for field in [self.len, self.live, self.tombs, self.cuts] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&[u8::from(self.closed), u8::from(self.leaving)]);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (len, live) = (reader.u64()?, reader.u64()?);
        let (tombs, cuts) = (reader.u64()?, reader.u64()?);
        let (closed, leaving) = (reader.u8()? != 0, reader.u8()? != 0);
        Some(Self { len, live, tombs, closed, leaving, cuts })
    }
}

/// Sums over all entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) keys: u64,
    pub(crate) shard_bytes: u64,
    pub(crate) quarantined: u64,
    pub(crate) placements: u64,
    /// Shard bytes under leases of the free pool, one count for each lease.
    pub(crate) free_bytes: u64,
    /// Standing leases that were not ended (count).
    pub(crate) standing: u64,
}

impl Totals {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let sums = [self.keys, self.shard_bytes, self.quarantined, self.placements];
        let fields = sums.into_iter().chain([self.free_bytes, self.standing]);
        fields.flat_map(|field| field.to_le_bytes()).collect()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(Self {
            keys: reader.u64()?,
            shard_bytes: reader.u64()?,
            quarantined: reader.u64()?,
            placements: reader.u64()?,
            free_bytes: reader.u64()?,
            standing: reader.u64()?,
        })
    }
}

pub(crate) fn put_position(out: &mut Vec<u8>, at: Position) {
    out.extend_from_slice(&at.volume.to_le_bytes());
    out.extend_from_slice(&at.offset.to_le_bytes());
}

pub(crate) fn position(reader: &mut Reader<'_>) -> Option<Position> {
    Some(Position { volume: reader.u64()?, offset: reader.u64()? })
}

/// Row of the position up to which the index holds.
pub(crate) const POSITION: &[u8] = b"P";
/// Row of the parameters that other rows depend on.
pub(crate) const PARAMETERS: &[u8] = b"Q";
/// Row of the totals.
pub(crate) const TOTALS: &[u8] = b"T";
/// Prefix of entries, then segment and index.
pub(crate) const ENTRY: &[u8] = b"e";
/// Prefix of placements, then segment and owner.
pub(crate) const PLACEMENT: &[u8] = b"p";
/// Prefix of entries by due epoch.
pub(crate) const DUE: &[u8] = b"d";
/// Prefix of entries that only the free pool keeps, by due epoch.
pub(crate) const FREE: &[u8] = b"f";
/// Prefix of volumes.
pub(crate) const VOLUME: &[u8] = b"v";
/// Prefix of grants.
pub(crate) const GRANT: &[u8] = b"g";
/// Prefix of grants by the epoch at which they may be forgotten.
pub(crate) const GRANT_DUE: &[u8] = b"h";
/// Prefix of live records by position.
pub(crate) const LIVE: &[u8] = b"l";

fn key_with(prefix: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut out = prefix.to_vec();
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// The beginning of all keys of rows of one segment.
pub(crate) fn whole_prefix(prefix: &[u8], segment: &[u8; 32]) -> Vec<u8> {
    key_with(prefix, &[segment])
}

pub(crate) fn entry_key(key: Key) -> Vec<u8> {
    key_with(ENTRY, &[&key.segment, &[key.index]])
}

pub(crate) fn placement_row_key(key: &PlacementKey) -> Vec<u8> {
    key_with(PLACEMENT, &[&key.segment, &key.owner])
}

/// Segment and owner at the end of a placement row's key.
pub(crate) fn tail_placement(row_key: &[u8]) -> Option<PlacementKey> {
    let (_, tail) = row_key.split_at_checked(row_key.len().checked_sub(64)?)?;
    let (segment, owner) = tail.split_at(32);
    Some(PlacementKey { segment: segment.try_into().ok()?, owner: owner.try_into().ok()? })
}

/// Epochs are big-endian in keys, so that rows sort by them.
pub(crate) fn due_key(prefix: &[u8], epoch: u64, key: Key) -> Vec<u8> {
    key_with(prefix, &[&epoch.to_be_bytes(), &key.segment, &[key.index]])
}

pub(crate) fn volume_key(number: u64) -> Vec<u8> {
    key_with(VOLUME, &[&number.to_be_bytes()])
}

pub(crate) fn live_prefix(volume: u64) -> Vec<u8> {
    key_with(LIVE, &[&volume.to_be_bytes()])
}

pub(crate) fn live_key(at: Position) -> Vec<u8> {
    key_with(LIVE, &[&at.volume.to_be_bytes(), &at.offset.to_be_bytes()])
}

pub(crate) fn grant_key(grant: &[u8; 32]) -> Vec<u8> {
    key_with(GRANT, &[grant])
}

pub(crate) fn grant_due_key(epoch: u64, grant: &[u8; 32]) -> Vec<u8> {
    key_with(GRANT_DUE, &[&epoch.to_be_bytes(), grant])
}

/// The 32 bytes at the end of a row's key: a grant.
pub(crate) fn tail_grant(row_key: &[u8]) -> Option<[u8; 32]> {
    row_key.last_chunk().copied()
}

pub(crate) fn prefix_key(prefix: &[u8; 16]) -> Vec<u8> {
    key_with(b"x", &[prefix])
}

/// The segment and index at the end of a row's key.
pub(crate) fn tail_key(row_key: &[u8]) -> Option<Key> {
    let (_, tail) = row_key.split_at_checked(row_key.len().checked_sub(33)?)?;
    let (segment, index) = tail.split_at(32);
    Some(Key { segment: segment.try_into().ok()?, index: *index.first()? })
}

/// The big-endian number after a one-byte prefix.
pub(crate) fn number_after_prefix(row_key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(row_key.get(1..9)?.try_into().ok()?))
}

/// What a live record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Live {
    Entry(Key),
    Placement(PlacementKey),
    Grant([u8; 32]),
}

impl Live {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Entry(key) => key_with(b"e", &[&key.segment, &[key.index]]),
            Self::Placement(key) => key_with(b"p", &[&key.segment, &key.owner]),
            Self::Grant(grant) => key_with(b"g", &[&grant]),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let live = match reader.u8()? {
            b'e' => Self::Entry(Key { segment: reader.array()?, index: reader.u8()? }),
            b'p' => {
                Self::Placement(PlacementKey { segment: reader.array()?, owner: reader.array()? })
            }
            b'g' => Self::Grant(reader.array()?),
            _ => return None,
        };
        reader.end()?;
        Some(live)
    }
}

/// The offset at the end of a live row's key.
pub(crate) fn live_offset(row_key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(row_key.get(9..17)?.try_into().ok()?))
}
