//! A stored record, its identity, and its row in the database.
//!
//! The signed bytes are opaque here and never interpreted.

use crate::net::address::ObservedPrefix;

/// Under which key a record is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey(pub [u8; 32]);

/// What makes a record replace another: one per key, kind and publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// The key.
    pub key: RecordKey,
    /// The kind of record; its meaning is the caller's.
    pub kind: u8,
    /// Who signed it: the raw ed25519 public key.
    pub publisher: [u8; 32],
}

/// A verified, signed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Under which key it is found.
    pub key: RecordKey,
    /// The kind of record.
    pub kind: u8,
    /// Who signed it.
    pub publisher: [u8; 32],
    /// Counts up with each new version; the higher one replaces.
    pub sequence: u64,
    /// When it ends, seconds since 1970.
    pub expires_unix_s: u64,
    /// Observed prefix of whoever delivered it.
    pub prefix: ObservedPrefix,
    /// The signed bytes.
    pub bytes: Vec<u8>,
}

impl StoredRecord {
    /// The record's identity.
    pub fn id(&self) -> RecordId {
        RecordId { key: self.key, kind: self.kind, publisher: self.publisher }
    }
}

/// Length of a row's key: record key, kind, publisher.
pub(super) const ROW_KEY_BYTES: usize = 65;
const ROW_VERSION: u8 = 1;
/// Version, pinned flag, sequence, expiry, prefix.
const ROW_HEADER_BYTES: usize = 34;

pub(super) fn row_key(id: &RecordId) -> [u8; ROW_KEY_BYTES] {
    let mut row = [0; ROW_KEY_BYTES];
    row[..32].copy_from_slice(&id.key.0);
    row[32] = id.kind;
    row[33..].copy_from_slice(&id.publisher);
    row
}

pub(super) fn row_value(record: &StoredRecord, pinned: bool) -> Vec<u8> {
    let mut row = Vec::with_capacity(ROW_HEADER_BYTES + record.bytes.len());
    row.extend([ROW_VERSION, u8::from(pinned)]);
    row.extend(record.sequence.to_le_bytes());
    row.extend(record.expires_unix_s.to_le_bytes());
    row.extend(record.prefix);
    row.extend(&record.bytes);
    row
}

/// Reads a row back; `None` when it is malformed. The second value says whether it was pinned.
pub(super) fn from_row(key: &[u8], value: &[u8]) -> Option<(StoredRecord, bool)> {
    let (record_key, rest) = key.split_first_chunk::<32>()?;
    let ([kind], rest) = rest.split_first_chunk::<1>()?;
    let publisher: [u8; 32] = rest.try_into().ok()?;
    let ([version, pinned], rest) = value.split_first_chunk::<2>()?;
    if *version != ROW_VERSION || *pinned > 1 {
        return None;
    }
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (expires, rest) = rest.split_first_chunk::<8>()?;
    let (prefix, bytes) = rest.split_first_chunk::<16>()?;
    let record = StoredRecord {
        key: RecordKey(*record_key),
        kind: *kind,
        publisher,
        sequence: u64::from_le_bytes(*sequence),
        expires_unix_s: u64::from_le_bytes(*expires),
        prefix: *prefix,
        bytes: bytes.to_vec(),
    };
    Some((record, *pinned == 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_round_trip(
            key in any::<[u8; 32]>(), kind in any::<u8>(), publisher in any::<[u8; 32]>(),
            sequence in any::<u64>(), expires_unix_s in any::<u64>(), prefix in any::<[u8; 16]>(),
            bytes in prop::collection::vec(any::<u8>(), 0..100), pinned in any::<bool>(),
        ) {
            let key = RecordKey(key);
            let record =
                StoredRecord { key, kind, publisher, sequence, expires_unix_s, prefix, bytes };
            let (row, value) = (row_key(&record.id()), row_value(&record, pinned));
            prop_assert_eq!(from_row(&row, &value), Some((record, pinned)));
            prop_assert_eq!(from_row(&row[..64], &value), None);
            prop_assert_eq!(from_row(&row, &value[..33]), None);
        }

        #[test]
        fn any_row_is_a_record_or_nothing(
            key in prop::collection::vec(any::<u8>(), 0..70),
            value in prop::collection::vec(any::<u8>(), 0..70),
        ) {
            let _ = from_row(&key, &value);
        }
    }
}
