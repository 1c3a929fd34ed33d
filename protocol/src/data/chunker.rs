//! Content-defined chunking: FastCDC (2020 variant, normalisation level 2), and a cut at every
//! multiple of [`PAGE_BYTES`] so that no chunk straddles two manifest pages.
//!
//! A cut depends only on the bytes since the cut before it and on that cut's offset, so work may
//! restart at any cut. It never looks further back, and never keeps more than
//! [`CARRY_BYTES_MAX`]. Source: SPEC_DATA.md section 1; Wen Xia et al., "The Design of Fast
//! Content-Defined Chunking for Data Deduplication Based Storage Systems", IEEE TPDS 2020.

use super::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNK_BYTES_TARGET, PAGE_BYTES};

/// The stricter mask, used before the target length: 22 bits, a cut every 4 MiB of random bytes.
pub const MASK_STRICT: u64 = 0x0000_d937_6753_7000;

/// The looser mask, used after the target length: 18 bits, a cut every 256 KiB of random bytes.
pub const MASK_LOOSE: u64 = 0x0000_d907_0753_7000;

/// A [`Chunker`] never holds more bytes than this.
pub const CARRY_BYTES_MAX: usize = 2 * CHUNK_BYTES_MAX;

/// One chunk of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Where the chunk starts in the content.
    pub offset: u64,
    /// Its bytes, 1 to [`CHUNK_BYTES_MAX`].
    pub bytes: &'a [u8],
}

/// The most bytes that a chunk starting at `offset` can have: what must be seen before its end
/// can be decided, unless the content ends sooner.
#[must_use]
pub fn window_len(offset: u64) -> usize {
    let page_rest = PAGE_BYTES - offset % PAGE_BYTES;
    usize::try_from(page_rest).map_or(CHUNK_BYTES_MAX, |rest| rest.min(CHUNK_BYTES_MAX))
}

/// The length of the chunk that starts at content offset `offset`, where `bytes` is what is known
/// of the content from there. `None` when more bytes (up to [`window_len`]) are needed; with
/// `is_last` (the content ends with `bytes`), `None` only when `bytes` is empty.
///
/// This is the zero-copy form, for callers who already hold the content in large buffers.
#[must_use]
pub fn next_cut(bytes: &[u8], offset: u64, is_last: bool) -> Option<usize> {
    let window_bytes = window_len(offset);
    if bytes.is_empty() || (bytes.len() < window_bytes && !is_last) {
        return None;
    }
    let window = &bytes[..bytes.len().min(window_bytes)];
    let (_, cut) = fastcdc::v2020::cut(
        window,
        CHUNK_BYTES_MIN,
        CHUNK_BYTES_TARGET,
        CHUNK_BYTES_MAX,
        MASK_STRICT,
        MASK_LOOSE,
        MASK_STRICT << 1,
        MASK_LOOSE << 1,
    );
    Some(cut)
}

/// Cuts a stream that arrives in buffers of any size. Bytes are copied only where a chunk's
/// window crosses from one buffer into the next.
#[derive(Debug)]
pub struct Chunker {
    /// Content offset of the first byte not yet part of a chunk.
    offset: u64,
    /// Bytes of earlier buffers; those before `used` belong to chunks already handed out.
    carry: Vec<u8>,
    used: usize,
}

impl Chunker {
    /// Starts at `start_offset` of the content, which must be 0 or the end of an earlier chunk.
    #[must_use]
    pub fn new(start_offset: u64) -> Self {
        Self { offset: start_offset, carry: Vec::new(), used: 0 }
    }

    /// Content offset of the first byte that is not yet part of a chunk: where to restart.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next bytes of the content and hands every chunk that is now complete to `sink`.
    pub fn feed(&mut self, mut input: &[u8], mut sink: impl FnMut(Chunk<'_>)) {
        while !self.pending().is_empty() && !input.is_empty() {
            let before = self.pending().len();
            let missing = window_len(self.offset).saturating_sub(before);
            let take = missing.min(input.len());
            self.append(&input[..take]);
            let Some(cut) = next_cut(self.pending(), self.offset, false) else {
                return;
            };
            self.emit_pending(cut, &mut sink);
            if cut >= before {
                // Every carried byte is gone: what is left over of `take` is read from the input.
                self.clear();
                input = &input[cut - before..];
            } else {
                input = &input[take..];
            }
        }
        // The carry may still hold whole windows when the input ran out exactly.
        while let Some(cut) = next_cut(self.pending(), self.offset, false) {
            self.emit_pending(cut, &mut sink);
        }
        if !self.pending().is_empty() {
            return;
        }
        while let Some(cut) = next_cut(input, self.offset, false) {
            sink(Chunk { offset: self.offset, bytes: &input[..cut] });
            self.offset += cut as u64;
            input = &input[cut..];
        }
        self.append(input);
    }

    /// The content has ended: hands out what is left and returns the content's length.
    pub fn finish(mut self, mut sink: impl FnMut(Chunk<'_>)) -> u64 {
        while let Some(cut) = next_cut(self.pending(), self.offset, true) {
            self.emit_pending(cut, &mut sink);
        }
        self.offset
    }

    fn pending(&self) -> &[u8] {
        &self.carry[self.used..]
    }

    fn clear(&mut self) {
        self.carry.clear();
        self.used = 0;
    }

    fn emit_pending(&mut self, cut: usize, sink: &mut impl FnMut(Chunk<'_>)) {
        sink(Chunk { offset: self.offset, bytes: &self.carry[self.used..self.used + cut] });
        self.offset += cut as u64;
        self.used += cut;
    }

    /// Appends, moving the pending bytes to the front first when they would pass the bound.
    fn append(&mut self, bytes: &[u8]) {
        if self.carry.len() + bytes.len() > CARRY_BYTES_MAX {
            self.carry.drain(..self.used);
            self.used = 0;
        }
        if self.carry.capacity() == 0 && !bytes.is_empty() {
            self.carry.reserve_exact(CARRY_BYTES_MAX);
        }
        self.carry.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_carry_stays_within_its_bound() {
        // Random bytes are cut long before the window's end, so used bytes pile up.
        let mut data = vec![0; 64 << 20];
        blake3::Hasher::new().update(b"carry").finalize_xof().fill(&mut data);
        for piece in [10_000, 1_000_000, CHUNK_BYTES_MAX - 1, 9_000_000] {
            let mut chunker = Chunker::new(0);
            for input in data.chunks(piece) {
                chunker.feed(input, |_| {});
                assert!(chunker.carry.capacity() <= CARRY_BYTES_MAX, "fed {piece} at a time");
            }
        }
    }
}
