//! Placement records: one per segment and owner, opaque bytes under a sequence that only rises.
//! What a record says, and who may replace it, is decided before; nothing is verified here.
use crate::error::{ReadError, WriteError};
use crate::format::PLACEMENTS_PER_SEGMENT_MAX;
use crate::kv::{IndexError, View};
use crate::locked::locked;
use crate::plan::{Op, Outcome};
use crate::read;
use crate::rows::{self, PlacementRow};
use crate::types::{PlacementKey, SegmentId};
use crate::vault::Vault;
use bytes::Bytes;

/// A stored placement record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPlacement {
    /// Whose record it is.
    pub owner: [u8; 32],
    /// Its sequence.
    pub sequence: u64,
    /// Its bytes, as they were put.
    pub record: Bytes,
}

impl Vault {
    /// Stores an owner's newer placement record (at most 64 KiB) of a segment on which that owner
    /// has a lease here. The one with the highest `sequence` is kept. It goes by collection, when
    /// no lease of the owner on the segment is left.
    ///
    /// # Errors
    /// No shard of the segment here, no lease of the owner, this or a higher sequence is stored,
    /// too many owners ([`PLACEMENTS_PER_SEGMENT_MAX`]).
    pub fn put_placement(
        &self,
        segment: SegmentId,
        owner: [u8; 32],
        sequence: u64,
        record: Bytes,
    ) -> Result<Outcome, WriteError> {
        let key = PlacementKey { segment, owner };
        self.record(Op::Placement { key, sequence, record })
    }

    /// One owner's placement record of a segment: sequence and bytes.
    ///
    /// # Errors
    /// Damaged; the disk's.
    pub fn placement(&self, key: &PlacementKey) -> Result<Option<(u64, Bytes)>, ReadError> {
        read::placement(&self.0.core, key)
    }

    /// The placement records of a segment, by owner, at most [`PLACEMENTS_PER_SEGMENT_MAX`]. One
    /// that is damaged is left out and logged: it does not hide the others.
    ///
    /// # Errors
    /// The index's.
    pub fn placements(&self, segment: &SegmentId) -> Result<Vec<StoredPlacement>, IndexError> {
        let most = PLACEMENTS_PER_SEGMENT_MAX;
        let rows = locked(&self.0.core.index).placements(View::Durable, segment, most)?;
        let mut found = Vec::with_capacity(rows.len());
        for (key, _) in rows {
            match self.placement(&key) {
                Ok(Some((sequence, record))) => {
                    found.push(StoredPlacement { owner: key.owner, sequence, record });
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%error, ?key, "a placement record cannot be read"),
            }
        }
        Ok(found)
    }

    /// Up to `limit` placement records after `after`, by segment and owner, with their sequences:
    /// a walk over all of them.
    ///
    /// # Errors
    /// The index's.
    pub fn placement_keys(
        &self,
        after: Option<PlacementKey>,
        limit: usize,
    ) -> Result<Vec<(PlacementKey, u64)>, IndexError> {
        let after = after.map(|key| rows::placement_row_key(&key));
        let index = locked(&self.0.core.index);
        let page = index.kv.page(View::Durable, rows::PLACEMENT, after.as_deref(), limit.max(1))?;
        let decoded = page.iter().filter_map(|(key, row)| {
            Some((rows::tail_placement(key)?, PlacementRow::decode(row)?.sequence))
        });
        Ok(decoded.collect())
    }
}
