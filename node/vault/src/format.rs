//! The bytes of a volume (VOLUME_FORMAT.md sections 2 to 5): headers, record headers, states,
//! trailers. Pure functions over byte slices; bounded before anything is allocated; no disk.
use crate::bytes_io::{Reader, align};
use crate::types::{EntryState, Key, LeaseMeta, Pool, Position, SegmentId, Standing, StoredLease};

/// Length of one copy of the volume header.
pub(crate) const HEADER_LEN: usize = 512;
/// Where the second copy stands.
pub(crate) const HEADER_COPY_AT: u64 = 4096;
/// Where the first record stands.
pub(crate) const FIRST_RECORD_AT: u64 = 8192;
/// Length of a record's header.
pub(crate) const RECORD_LEN: usize = 168;
/// Length of the trailer that closes a sealed volume.
pub(crate) const TRAILER_LEN: usize = 32;
/// Longest state of any record but a footer.
pub(crate) const STATE_LEN_MAX: u32 = 65_536;
/// Longest list in a footer.
pub(crate) const FOOTER_LEN_MAX: u32 = 8 << 20;
/// Longest meta of a shard: a segment descriptor.
pub const META_LEN_MAX: u32 = 8_192;
/// Most placement records of one segment: one for each owner with a lease on it.
pub const PLACEMENTS_PER_SEGMENT_MAX: usize = 64;
/// Length of the state of a placement: sequence and owner.
pub(crate) const PLACEMENT_STATE_LEN: usize = 40;
/// Longest placement record; one that lists the moves of a wide segment is some 11 KiB.
pub const PLACEMENT_LEN_MAX: u32 = 65_536;
/// Longest shard.
pub const SHARD_LEN_MAX: u32 = 4 << 20;
/// Most leases on one key, ended ones included.
pub const LEASES_PER_KEY_MAX: usize = 64;
/// Most of them that are without a grant.
pub(crate) const FREE_LEASES_PER_KEY_MAX: usize = LEASES_PER_KEY_MAX / 2;
/// Length of one encoded lease.
pub(crate) const LEASE_LEN: usize = 168;

const VOLUME_MAGIC: [u8; 8] = *b"ECHOVOL3";
pub(crate) const RECORD_MAGIC: [u8; 4] = *b"EREC";
const TRAILER_MAGIC: [u8; 8] = *b"ECHOFOOT";

/// What a record does (section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Put = 1,
    Move = 2,
    LeaseAdded = 3,
    LeaseEnded = 4,
    Sealed = 5,
    Tombstone = 6,
    Quarantine = 7,
    Placement = 8,
    Snapshot = 9,
    Lost = 10,
    Footer = 11,
    PlacementDropped = 12,
    GrantUsed = 13,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Put,
        Self::Move,
        Self::LeaseAdded,
        Self::LeaseEnded,
        Self::Sealed,
        Self::Tombstone,
        Self::Quarantine,
        Self::Placement,
        Self::Snapshot,
        Self::Lost,
        Self::Footer,
        Self::PlacementDropped,
        Self::GrantUsed,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A volume's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VolumeHeader {
    pub(crate) number: u64,
    pub(crate) len_max: u64,
    /// The volume whose unsynced tail this header voids, and the length that counts.
    pub(crate) cut: Option<Position>,
    pub(crate) secret: [u8; 32],
}

impl VolumeHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let cut = self.cut.unwrap_or_default();
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(&VOLUME_MAGIC);
        for field in [self.number, self.len_max, cut.volume, cut.offset] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.secret);
        out.resize(HEADER_LEN - 32, 0);
        let hash = blake3::hash(&out);
        out.extend_from_slice(hash.as_bytes());
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(&out);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let (body, hash) = bytes.split_at(HEADER_LEN - 32);
        if blake3::hash(body).as_bytes() != hash {
            return None;
        }
        let mut reader = Reader(body);
        if reader.array()? != VOLUME_MAGIC {
            return None;
        }
        let (number, len_max) = (reader.u64()?, reader.u64()?);
        let cut = Position { volume: reader.u64()?, offset: reader.u64()? };
        let secret = reader.array()?;
        reader.zeros(408)?;
        Some(Self { number, len_max, cut: (cut.volume != 0).then_some(cut), secret })
    }
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) kind: Kind,
    pub(crate) key: Key,
    pub(crate) at: Position,
    pub(crate) state_len: u32,
    pub(crate) meta_len: u32,
    pub(crate) shard_len: u32,
    pub(crate) aux_hash: [u8; 32],
    pub(crate) shard_hash: [u8; 32],
}

impl RecordHead {
    /// Bytes on disk, padding included.
    pub(crate) fn total_len(&self) -> u64 {
        total_len(self.state_len, self.meta_len, self.shard_len)
    }

    /// Where the next record starts.
    pub(crate) fn next_at(&self) -> u64 {
        self.at.offset.saturating_add(self.total_len())
    }

    /// State and meta together: what `aux_hash` covers.
    pub(crate) fn aux_len(&self) -> usize {
        self.state_len as usize + self.meta_len as usize
    }

    /// Offset of the shard's bytes in the volume.
    pub(crate) fn shard_at(&self) -> u64 {
        self.at.offset + RECORD_LEN as u64 + self.aux_len() as u64
    }

    pub(crate) fn encode(&self, secret: &[u8; 32]) -> [u8; RECORD_LEN] {
        let mut out = Vec::with_capacity(RECORD_LEN);
        out.extend_from_slice(&RECORD_MAGIC);
        out.extend_from_slice(&[self.kind as u8, self.key.index, 0, 0]);
        out.extend_from_slice(&self.at.volume.to_le_bytes());
        out.extend_from_slice(&self.at.offset.to_le_bytes());
        for len in [self.state_len, self.meta_len, self.shard_len, 0] {
            out.extend_from_slice(&len.to_le_bytes());
        }
        out.extend_from_slice(&self.key.segment);
        out.extend_from_slice(&self.aux_hash);
        out.extend_from_slice(&self.shard_hash);
        let tag = blake3::keyed_hash(secret, &out);
        out.extend_from_slice(tag.as_bytes());
        let mut bytes = [0; RECORD_LEN];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// `None` unless tag, position and bounds hold.
    pub(crate) fn decode(bytes: &[u8], secret: &[u8; 32], at: Position) -> Option<Self> {
        let bytes = bytes.get(..RECORD_LEN)?;
        let (body, tag) = bytes.split_at(RECORD_LEN - 32);
        if body.get(..4)? != RECORD_MAGIC {
            return None;
        }
        // blake3's Hash compares in constant time; nobody can time this, it is merely free.
        let tag: [u8; 32] = tag.try_into().ok()?;
        if blake3::keyed_hash(secret, body) != blake3::Hash::from(tag) {
            return None;
        }
        let mut reader = Reader(body.get(4..)?);
        let kind = Kind::from_byte(reader.u8()?)?;
        let index = reader.u8()?;
        reader.zeros(2)?;
        let found = Position { volume: reader.u64()?, offset: reader.u64()? };
        let (state_len, meta_len, shard_len) = (reader.u32()?, reader.u32()?, reader.u32()?);
        reader.zeros(4)?;
        let key = Key { segment: reader.array()?, index };
        let (aux_hash, shard_hash) = (reader.array()?, reader.array()?);
        reader.end()?;
        let state_max = if kind == Kind::Footer { FOOTER_LEN_MAX } else { STATE_LEN_MAX };
        let meta_max = if kind == Kind::Placement { PLACEMENT_LEN_MAX } else { META_LEN_MAX };
        let bounded = state_len <= state_max && meta_len <= meta_max && shard_len <= SHARD_LEN_MAX;
        (bounded && found == at).then_some(Self {
            kind,
            key,
            at,
            state_len,
            meta_len,
            shard_len,
            aux_hash,
            shard_hash,
        })
    }
}

/// Bytes on disk of a record with these parts.
pub(crate) fn total_len(state_len: u32, meta_len: u32, shard_len: u32) -> u64 {
    align(RECORD_LEN as u64 + u64::from(state_len) + u64::from(meta_len) + u64::from(shard_len))
}

pub(crate) fn encode_lease(lease: &StoredLease, out: &mut Vec<u8>) {
    let (pool, pool_id, grant_until) = match lease.meta.pool {
        Pool::Granted { grant, until_epoch } => (0, grant, until_epoch),
        Pool::Free { prefix } => {
            let mut id = [0; 32];
            id[..16].copy_from_slice(&prefix);
            (1, id, 0)
        }
    };
    let standing = lease.meta.standing;
    let flags = u8::from(lease.meta.sealed)
        | u8::from(lease.ended) << 1
        | u8::from(standing.is_some()) << 2;
    out.extend_from_slice(&lease.meta.id);
    out.extend_from_slice(&lease.meta.owner);
    out.extend_from_slice(&[pool, flags, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&pool_id);
    let epochs = [lease.meta.from_epoch, lease.meta.until_epoch, lease.added_epoch, grant_until];
    for epoch in epochs {
        out.extend_from_slice(&epoch.to_le_bytes());
    }
    out.extend_from_slice(&lease.grant_used.to_le_bytes());
    for field in standing.map_or([0; 2], |s| [s.term_epochs, s.grant_byte_epochs]) {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

pub(crate) fn decode_lease(bytes: &[u8]) -> Option<StoredLease> {
    let mut reader = Reader(bytes);
    let (id, owner) = (reader.array()?, reader.array()?);
    let (pool, flags) = (reader.u8()?, reader.u8()?);
    reader.zeros(6)?;
    let mut pool_id = Reader(reader.take(32)?);
    let (from_epoch, until_epoch) = (reader.u64()?, reader.u64()?);
    let (added_epoch, grant_until) = (reader.u64()?, reader.u64()?);
    let grant_used = reader.u128()?;
    let (term_epochs, grant_byte_epochs) = (reader.u64()?, reader.u64()?);
    reader.end()?;
    let standing = match (flags & 4 != 0, term_epochs, grant_byte_epochs) {
        (true, ..) => Some(Standing { term_epochs, grant_byte_epochs }),
        (false, 0, 0) => None,
        (false, ..) => return None,
    };
    let pool = match (pool, grant_until, grant_used) {
        (0, until_epoch, _) => Pool::Granted { grant: pool_id.array()?, until_epoch },
        (1, 0, 0) => {
            let prefix = pool_id.array()?;
            pool_id.zeros(16)?;
            Pool::Free { prefix }
        }
        _ => return None,
    };
    let sealed = flags & 1 != 0;
    let meta = LeaseMeta { id, owner, pool, from_epoch, until_epoch, sealed, standing };
    let ended = flags & 2 != 0;
    (flags < 8).then_some(StoredLease { meta, added_epoch, ended, grant_used })
}

pub(crate) fn encode_state(state: &EntryState) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + LEASE_LEN * state.leases.len());
    out.extend_from_slice(&state.created_epoch.to_le_bytes());
    out.extend_from_slice(&u32::from(state.quarantined).to_le_bytes());
    out.extend_from_slice(&(state.leases.len() as u32).to_le_bytes());
    for lease in &state.leases {
        encode_lease(lease, &mut out);
    }
    out
}

pub(crate) fn decode_state(bytes: &[u8]) -> Option<EntryState> {
    let mut reader = Reader(bytes);
    let created_epoch = reader.u64()?;
    let (flags, count) = (reader.u32()?, reader.u32()? as usize);
    if flags > 1 || count > LEASES_PER_KEY_MAX || reader.0.len() != count * LEASE_LEN {
        return None;
    }
    let leases: Option<Vec<_>> = reader.0.chunks_exact(LEASE_LEN).map(decode_lease).collect();
    Some(EntryState { created_epoch, quarantined: flags == 1, leases: leases? })
}

/// The state of a record that says how much of a grant was used: byte-epochs, the grant's end.
pub(crate) fn encode_grant_used(used: u128, until_epoch: u64) -> Vec<u8> {
    let mut out = used.to_le_bytes().to_vec();
    out.extend_from_slice(&until_epoch.to_le_bytes());
    out
}

pub(crate) fn decode_grant_used(state: &[u8]) -> Option<(u128, u64)> {
    let mut reader = Reader(state);
    let decoded = (reader.u128()?, reader.u64()?);
    reader.end()?;
    Some(decoded)
}

/// The key of a record about a segment (or grant) as a whole: its 32 bytes, index 0.
pub(crate) fn whole_key(segment: SegmentId) -> Key {
    Key { segment, index: 0 }
}

/// The state of a placement, and of one dropped: sequence, owner.
pub(crate) fn encode_placement_state(owner: &[u8; 32], sequence: u64) -> Vec<u8> {
    let mut out = sequence.to_le_bytes().to_vec();
    out.extend_from_slice(owner);
    out
}

/// Owner and sequence.
pub(crate) fn decode_placement_state(state: &[u8]) -> Option<([u8; 32], u64)> {
    let mut reader = Reader(state);
    let (sequence, owner) = (reader.u64()?, reader.array()?);
    reader.end()?;
    Some((owner, sequence))
}

pub(crate) fn encode_trailer(secret: &[u8; 32], footer_at: u64) -> [u8; TRAILER_LEN] {
    let mut out = [0; TRAILER_LEN];
    out[..8].copy_from_slice(&TRAILER_MAGIC);
    out[8..16].copy_from_slice(&footer_at.to_le_bytes());
    let tag = blake3::keyed_hash(secret, &out[..16]);
    out[16..].copy_from_slice(&tag.as_bytes()[..16]);
    out
}

/// The offset of the footer record, if this is a trailer of this volume.
pub(crate) fn decode_trailer(bytes: &[u8; TRAILER_LEN], secret: &[u8; 32]) -> Option<u64> {
    let mut reader = Reader(bytes);
    if reader.array()? != TRAILER_MAGIC {
        return None;
    }
    let footer_at = reader.u64()?;
    let tag = blake3::keyed_hash(secret, &bytes[..16]);
    (reader.0 == &tag.as_bytes()[..16]).then_some(footer_at)
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
