//! The first stage of a publish: from the source to packed segments and a list
//! of extents. Chunks that are stored already, in this publish or under a lease
//! of an earlier one, are referred to, not stored again.
//!
//! It runs on a blocking thread and holds one segment and a few chunks in
//! memory.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use echonet_protocol::{bytes::ChunkHash, segment::SegmentId};
use tokio::{runtime::Handle, sync::mpsc};

use super::{
    PublishError,
    again::lease_again,
    pack::{Packed, Packer, Place, PlannedExtent},
    source::Source,
    store::{Held, Terms},
};
use crate::{core::Core, owner::rows::ChunkRow};

/// What the packing thread hands on.
pub(super) enum PackEvent {
    /// A full segment.
    Packed(Packed),
    /// An earlier segment that was leased again.
    Leased(Box<Held>),
    /// So many bytes of content have been dealt with.
    Progress(u64),
}

/// What a source became.
#[derive(Debug)]
pub(super) struct Outline {
    /// The chunks, in the order of the content.
    pub(super) extents: Vec<PlannedExtent>,
    /// Content bytes that were found stored in earlier works.
    pub(super) deduplicated_bytes: u64,
}

/// The packing thread's state.
pub(super) struct Packing {
    core: Arc<Core>,
    terms: Terms,
    handle: Handle,
    events: mpsc::Sender<PackEvent>,
    packer: Packer,
    /// Chunks of this publish: stored by an earlier attempt, or packed by now.
    own: HashMap<ChunkHash, PlannedExtent>,
    /// Earlier segments: whether they could be leased again.
    leased: BTreeMap<SegmentId, Option<u32>>,
    segment_bytes: usize,
    outline: Outline,
}

impl Packing {
    /// To be run on a blocking thread of the runtime behind `handle`. `own` are
    /// the chunks that an earlier attempt of this publish stored.
    ///
    /// # Errors
    /// [`PublishError::Internal`] when memory ran out.
    pub(super) fn new(
        core: Arc<Core>,
        terms: Terms,
        handle: Handle,
        events: mpsc::Sender<PackEvent>,
        own: HashMap<ChunkHash, PlannedExtent>,
    ) -> Result<Self, PublishError> {
        let segment_bytes = terms.scheme.segment_bytes_max(core.genesis.segment_bytes as usize);
        Ok(Self {
            core,
            terms,
            handle,
            events,
            packer: Packer::new(segment_bytes)?,
            own,
            leased: BTreeMap::new(),
            segment_bytes,
            outline: Outline { extents: Vec::new(), deduplicated_bytes: 0 },
        })
    }

    /// Packs a whole source.
    ///
    /// # Errors
    /// [`PublishError`]: the file changed, the catalog failed, or the publish
    /// ended while it was being packed.
    pub(super) fn run(mut self, source: &Source) -> Result<Outline, PublishError> {
        source.for_each_chunk(|offset, chunk| {
            // Networks with short segments split long chunks.
            let mut at = offset;
            for piece in chunk.chunks(self.segment_bytes) {
                self.chunk(at, piece)?;
                at += piece.len() as u64;
            }
            self.tell(PackEvent::Progress(at))
        })?;
        self.store_sparse_again(source)?;
        if let Some(packed) = self.packer.flush() {
            self.tell(PackEvent::Packed(packed))?;
        }
        Ok(self.outline)
    }

    fn tell(&self, event: PackEvent) -> Result<(), PublishError> {
        self.events.blocking_send(event).map_err(|_| PublishError::Stopped)
    }

    fn chunk(&mut self, offset: u64, plain: &[u8]) -> Result<(), PublishError> {
        let hash = ChunkHash(*blake3::hash(plain).as_bytes());
        let extent = match self.find(&hash, plain.len())? {
            Some(found) => PlannedExtent { content_offset: offset, ..found },
            None => self.pack(offset, plain, hash)?,
        };
        self.outline.extents.push(extent);
        Ok(())
    }

    fn pack(
        &mut self,
        offset: u64,
        plain: &[u8],
        hash: ChunkHash,
    ) -> Result<PlannedExtent, PublishError> {
        let (extent, full) = self.packer.add(offset, plain, hash)?;
        self.own.insert(hash, extent);
        if let Some(packed) = full {
            self.tell(PackEvent::Packed(packed))?;
        }
        Ok(extent)
    }

    /// Where a chunk is stored already, under a lease that lasts.
    fn find(
        &mut self,
        hash: &ChunkHash,
        len: usize,
    ) -> Result<Option<PlannedExtent>, PublishError> {
        if let Some(extent) = self.own.get(hash).filter(|e| e.plain as usize == len) {
            return Ok(Some(*extent));
        }
        let row = self.core.catalog.chunk(hash)?;
        let Some(row) = row.filter(|row| row.plain as usize == len) else { return Ok(None) };
        if self.lease(row.segment)?.is_none() {
            return Ok(None);
        }
        self.outline.deduplicated_bytes += len as u64;
        Ok(Some(known(*hash, &row)))
    }

    /// Leases an earlier segment again, once; its length if that worked.
    fn lease(&mut self, segment: SegmentId) -> Result<Option<u32>, PublishError> {
        if let Some(leased) = self.leased.get(&segment) {
            return Ok(*leased);
        }
        let held = self.handle.block_on(lease_again(&self.core, &self.terms, segment))?;
        let length = held.as_ref().map(|held| held.descriptor.length);
        self.leased.insert(segment, length);
        if let Some(held) = held {
            self.tell(PackEvent::Leased(Box::new(held)))?;
        }
        Ok(length)
    }

    /// Chunks in earlier segments of which this owner uses less than half are
    /// stored again, so that nobody pays for segments that are mostly dead.
    /// They are read once more: which segments these are is known at the end.
    fn store_sparse_again(&mut self, source: &Source) -> Result<(), PublishError> {
        let sparse = self.sparse()?;
        for i in 0..self.outline.extents.len() {
            let extent = self.outline.extents[i];
            let Place::Known { segment, .. } = extent.place else { continue };
            if !sparse.contains(&segment) {
                continue;
            }
            self.outline.deduplicated_bytes -= u64::from(extent.plain);
            let placed = match self.own.get(&extent.chunk).copied() {
                Some(packed) => PlannedExtent { content_offset: extent.content_offset, ..packed },
                None => {
                    let len = extent.plain as usize;
                    let plain = source.read_chunk(extent.content_offset, len, &extent.chunk)?;
                    self.pack(extent.content_offset, &plain, extent.chunk)?
                }
            };
            self.outline.extents[i] = placed;
        }
        Ok(())
    }

    /// Earlier segments of which neither this publish nor another work of this
    /// owner uses half.
    fn sparse(&self) -> Result<Vec<SegmentId>, PublishError> {
        let mut used: BTreeMap<SegmentId, BTreeMap<u32, u32>> = BTreeMap::new();
        for extent in &self.outline.extents {
            if let Place::Known { segment, offset } = extent.place
                && self.leased.contains_key(&segment)
            {
                used.entry(segment).or_default().insert(offset, extent.stored);
            }
        }
        let mut by_others: BTreeMap<SegmentId, u32> = BTreeMap::new();
        for (content, work) in self.core.catalog.works()? {
            if content == self.terms.content
                || work.state != crate::owner::rows::WorkState::Published
            {
                continue;
            }
            for (segment, bytes) in work.segments {
                let most = by_others.entry(segment).or_default();
                *most = (*most).max(bytes);
            }
        }
        let is_sparse = |(segment, chunks): (&SegmentId, &BTreeMap<u32, u32>)| {
            let length = self.leased.get(segment).copied().flatten().unwrap_or(0);
            let bytes: u32 = chunks.values().sum();
            let bytes = bytes.max(by_others.get(segment).copied().unwrap_or(0));
            (u64::from(bytes) * 2 < u64::from(length)).then_some(*segment)
        };
        Ok(used.iter().filter_map(is_sparse).collect())
    }
}

/// The extent of a chunk that is stored already.
#[must_use]
pub(super) fn known(chunk: ChunkHash, row: &ChunkRow) -> PlannedExtent {
    PlannedExtent {
        content_offset: 0,
        plain: row.plain,
        stored: row.stored,
        codec: row.codec,
        chunk,
        place: Place::Known { segment: row.segment, offset: row.offset },
    }
}
