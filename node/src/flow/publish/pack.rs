//! Packing: chunks that are not stored yet are compressed where it pays and
//! packed into segments, in the order of the content.
//!
//! It never decides what is stored already: that is asked of its caller.

use echonet_protocol::{
    bytes::ChunkHash,
    data::compression::{CompressError, Compressor},
    segment::SegmentId,
};

use crate::owner::rows::RecipeChunk;

/// A full segment's bytes and how they came about.
#[derive(Debug)]
pub(super) struct Packed {
    /// Number of the segment in this publish, from 0.
    pub(super) number: usize,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// Its chunks, in order.
    pub(super) chunks: Vec<RecipeChunk>,
}

/// Where a chunk of the content will be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a segment of this publish, by number.
    New {
        /// The segment's number.
        number: usize,
        /// First stored byte in it.
        offset: u32,
    },
    /// In a segment that has a name already.
    Known {
        /// The segment.
        segment: SegmentId,
        /// First stored byte in it.
        offset: u32,
    },
}

/// A chunk of the content, placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedExtent {
    /// First byte in the content.
    pub(super) content_offset: u64,
    /// Plain bytes.
    pub(super) plain: u32,
    /// Stored bytes.
    pub(super) stored: u32,
    /// 0 raw, 1 zstd.
    pub(super) codec: u8,
    /// BLAKE3 of the plain bytes.
    pub(super) chunk: ChunkHash,
    /// Where it is.
    pub(super) place: Place,
}

/// Fills segments one after the other.
pub(super) struct Packer {
    segment_bytes: usize,
    compressor: Compressor,
    number: usize,
    bytes: Vec<u8>,
    chunks: Vec<RecipeChunk>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Packer {
    /// A packer for segments of at most `segment_bytes`.
    ///
    /// # Errors
    /// [`CompressError`] when memory ran out.
    pub(super) fn new(segment_bytes: usize) -> Result<Self, CompressError> {
        Ok(Self {
            segment_bytes,
            compressor: Compressor::new()?,
            number: 0,
            bytes: Vec::new(),
            chunks: Vec::new(),
        })
    }

    /// Adds a chunk; returns where it will be, and a segment that became full.
    ///
    /// # Errors
    /// [`CompressError`].
    pub(super) fn add(
        &mut self,
        content_offset: u64,
        plain: &[u8],
        chunk: ChunkHash,
    ) -> Result<(PlannedExtent, Option<Packed>), CompressError> {
        let stored = self.compressor.compress(plain)?;
        let (codec, len) = (stored.codec as u8, stored.bytes.len());
        let is_full = !self.bytes.is_empty() && self.bytes.len() + len > self.segment_bytes;
        let full =
            if is_full { cut(&mut self.number, &mut self.bytes, &mut self.chunks) } else { None };
        if self.bytes.capacity() == 0 {
            // One allocation per segment: growing by doubling would touch twice the memory.
            self.bytes.reserve_exact(self.segment_bytes.max(len));
        }
        // Lengths are bounded by the longest chunk and the longest segment: both fit into 32 bits.
        let extent = PlannedExtent {
            content_offset,
            plain: plain.len() as u32,
            stored: len as u32,
            codec,
            chunk,
            place: Place::New { number: self.number, offset: self.bytes.len() as u32 },
        };
        self.bytes.extend_from_slice(&stored.bytes);
        self.chunks.push(RecipeChunk {
            content_offset,
            plain: extent.plain,
            stored: extent.stored,
            codec,
            chunk,
        });
        Ok((extent, full))
    }

    /// The last segment, if it has bytes.
    pub(super) fn flush(&mut self) -> Option<Packed> {
        cut(&mut self.number, &mut self.bytes, &mut self.chunks)
    }
}

fn cut(number: &mut usize, bytes: &mut Vec<u8>, chunks: &mut Vec<RecipeChunk>) -> Option<Packed> {
    if bytes.is_empty() {
        return None;
    }
    let packed =
        Packed { number: *number, bytes: std::mem::take(bytes), chunks: std::mem::take(chunks) };
    *number += 1;
    Some(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_hold_what_the_extents_say() {
        let mut packer = Packer::new(300_000).unwrap();
        let (mut extents, mut segments) = (Vec::new(), Vec::new());
        for i in 0..20u8 {
            let mut plain = vec![i; 50_000 + usize::from(i) * 1000];
            if i % 2 == 0 {
                blake3::Hasher::new().update(&[i]).finalize_xof().fill(&mut plain);
            }
            let hash = ChunkHash(*blake3::hash(&plain).as_bytes());
            let (extent, full) = packer.add(u64::from(i), &plain, hash).unwrap();
            segments.extend(full);
            extents.push((extent, plain));
        }
        segments.extend(packer.flush());
        assert!(segments.len() > 1 && segments.iter().all(|s| s.bytes.len() <= 300_000));
        for (extent, plain) in extents {
            let Place::New { number, offset } = extent.place else { panic!("not packed") };
            let stored = &segments[number].bytes[offset as usize..][..extent.stored as usize];
            let codec = echonet_protocol::data::StoredCodec::try_from(extent.codec).unwrap();
            let back = echonet_protocol::data::decompress(codec, stored, plain.len()).unwrap();
            assert!(back == plain);
        }
    }
}
