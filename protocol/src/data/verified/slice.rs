//! Receiving a verified slice: the length it must have, a one-shot decoder, a streaming one, and
//! the check of a single leaf. No byte is handed out before its hash verified.

use std::ops::Range;

use thiserror::Error;

use super::tree::{Cv, ShapeError, Step, Walk, parent_hash, split_pair, subtree_hash};
use crate::data::{LEAF_BYTES, PAIR_BYTES};

/// A slice does not verify.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum SliceError {
    /// No such slice exists.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// An inner node's hashes do not give the hash that its parent promised.
    #[error("the sender's hash tree is wrong at byte {encoded_offset} of the slice: distrust it")]
    Parent {
        /// Where in the encoding the node starts.
        encoded_offset: u64,
    },
    /// Bytes do not have the promised hash.
    #[error("wrong data from the sender: bytes {start}..{end} do not verify: distrust it")]
    Data {
        /// First byte, in the whole.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// More or fewer bytes than this slice has.
    #[error("slice of {found} bytes where exactly {expected} are needed: distrust the sender")]
    Length {
        /// Bytes that the slice must have.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
}

/// Exact number of bytes of the encoding of `range` of `total_len` bytes. Costs less than a
/// microsecond, whatever the lengths.
///
/// # Errors
/// [`ShapeError`] when there is no such slice.
pub fn slice_len(total_len: u64, range: Range<u64>, group_log: u8) -> Result<u64, ShapeError> {
    Ok(Walk::new(total_len, range, group_log, None)?.encoded_len())
}

/// The bytes `range` of a whole of `total_len` bytes with the given root, from its encoding at
/// groups of 2^`group_log` leaves.
///
/// # Errors
/// [`SliceError`]; a wrong length is refused before anything is allocated.
pub fn decode_slice(
    root: &[u8; 32],
    total_len: u64,
    range: Range<u64>,
    group_log: u8,
    encoded: &[u8],
) -> Result<Vec<u8>, SliceError> {
    let mut decoder = SliceDecoder::new(root, total_len, range.clone(), group_log)?;
    let expected = decoder.walk.encoded_len();
    let found = encoded.len() as u64;
    if expected != found {
        return Err(SliceError::Length { expected, found });
    }
    // No longer than the encoding, which the caller already holds.
    let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
    decoder.push(encoded, |_, verified| bytes.extend_from_slice(verified))?;
    decoder.finish()?;
    Ok(bytes)
}

/// Verifies a proof of one leaf (the encoding of just that leaf) and returns the leaf, which is
/// 1,024 bytes long except at the very end of the whole.
///
/// # Errors
/// [`SliceError`].
pub fn verify_leaf<'a>(
    root: &[u8; 32],
    total_len: u64,
    leaf: u64,
    proof: &'a [u8],
) -> Result<&'a [u8], SliceError> {
    let start = leaf.saturating_mul(LEAF_BYTES);
    let end = start.saturating_add(LEAF_BYTES).min(total_len);
    let mut decoder = SliceDecoder::new(root, total_len, start..end, 0)?;
    let expected = decoder.walk.encoded_len();
    let found = proof.len() as u64;
    if expected != found {
        return Err(SliceError::Length { expected, found });
    }
    decoder.push(proof, |_, _| {})?;
    decoder.finish()?;
    // A single leaf's encoding ends with the leaf.
    Ok(&proof[proof.len() - (end - start) as usize..])
}

/// Decodes a slice as it arrives, in pieces of any size. Holds at most one group.
///
/// Fastest use: read exactly [`SliceDecoder::next_len`] bytes into one reused buffer and push
/// them; then nothing is copied and large runs are hashed at once.
#[derive(Debug, Clone)]
pub struct SliceDecoder {
    walk: Walk,
    /// The wanted bytes, exactly.
    range: Range<u64>,
    /// Expected hashes of the walk's stack, the next one last.
    hashes: Vec<Cv>,
    /// The beginning of a step whose end has not arrived.
    carry: Vec<u8>,
    consumed: u64,
    failed: Option<SliceError>,
}

impl SliceDecoder {
    /// A decoder for the bytes `range` of the `total_len` bytes with hash `root`, sent in groups
    /// of 2^`group_log` leaves.
    ///
    /// # Errors
    /// [`SliceError::Shape`] when there is no such slice.
    pub fn new(
        root: &[u8; 32],
        total_len: u64,
        range: Range<u64>,
        group_log: u8,
    ) -> Result<Self, SliceError> {
        Ok(Self {
            walk: Walk::new(total_len, range.clone(), group_log, None)?,
            range,
            hashes: vec![*root],
            carry: Vec::new(),
            consumed: 0,
            failed: None,
        })
    }

    /// How many bytes to read and push next: as many whole steps as fit into `bytes_max`, at
    /// least one; 0 at the end.
    #[must_use]
    pub fn next_len(&self, bytes_max: usize) -> usize {
        let mut walk = self.walk.clone();
        let mut sum = 0;
        while let Some(step) = walk.advance() {
            let next = sum + step.encoded_len();
            if sum > 0 && next > bytes_max as u64 {
                break;
            }
            sum = next;
        }
        sum as usize - self.carry.len()
    }

    /// True once every byte of the slice has arrived and verified.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.failed.is_none() && self.walk.peek().is_none()
    }

    /// Takes the next bytes of the encoding and hands what verified to `sink`: the offset in the
    /// whole, and the bytes, in order, only those of the wanted range.
    ///
    /// # Errors
    /// [`SliceError`]; what `sink` got before is good. The decoder stays failed.
    pub fn push(
        &mut self,
        mut input: &[u8],
        mut sink: impl FnMut(u64, &[u8]),
    ) -> Result<(), SliceError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.push_steps(&mut input, &mut sink);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    /// Checks that the slice is complete.
    ///
    /// # Errors
    /// [`SliceError::Length`] when bytes are missing, or the error that `push` gave.
    pub fn finish(mut self) -> Result<(), SliceError> {
        // The empty whole has one step of no bytes, which still has a hash to check.
        self.push(&[], |_, _| {})?;
        let missing = self.walk.encoded_len();
        if missing > 0 {
            let found = self.consumed + self.carry.len() as u64;
            return Err(SliceError::Length { expected: self.consumed + missing, found });
        }
        Ok(())
    }

    fn push_steps(
        &mut self,
        input: &mut &[u8],
        sink: &mut impl FnMut(u64, &[u8]),
    ) -> Result<(), SliceError> {
        while let Some(step) = self.walk.peek() {
            let len = step.encoded_len() as usize;
            if self.carry.is_empty() && input.len() >= len {
                let (bytes, rest) = input.split_at(len);
                *input = rest;
                self.take_step(bytes, sink)?;
                continue;
            }
            let (bytes, rest) = input.split_at((len - self.carry.len()).min(input.len()));
            *input = rest;
            self.carry.extend_from_slice(bytes);
            if self.carry.len() < len {
                return Ok(());
            }
            let carried = std::mem::take(&mut self.carry);
            self.take_step(&carried, sink)?;
            self.carry = carried;
            self.carry.clear();
        }
        if input.is_empty() {
            return Ok(());
        }
        let found = self.consumed + input.len() as u64;
        Err(SliceError::Length { expected: self.consumed, found })
    }

    fn take_step(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(u64, &[u8]),
    ) -> Result<(), SliceError> {
        let encoded_offset = self.consumed;
        let (Some(step), Some(expected)) = (self.walk.advance(), self.hashes.pop()) else {
            return Err(SliceError::Parent { encoded_offset });
        };
        match step {
            Step::Parent { is_root, left, right, .. } => {
                let pair = bytes.try_into().map_err(|_| SliceError::Parent { encoded_offset })?;
                self.take_parent(pair, &expected, is_root, (left, right))?;
            }
            Step::Data { start, len, is_root } | Step::Inner { start, len, is_root } => {
                if subtree_hash(start, bytes, is_root) != expected {
                    return Err(SliceError::Data { start, end: start + len });
                }
                let from = self.range.start.clamp(start, start + len);
                let to = self.range.end.clamp(from, start + len);
                if from < to {
                    sink(from, &bytes[(from - start) as usize..(to - start) as usize]);
                }
            }
        }
        self.consumed += bytes.len() as u64;
        Ok(())
    }

    fn take_parent(
        &mut self,
        pair: &[u8; PAIR_BYTES],
        expected: &Cv,
        is_root: bool,
        (left, right): (bool, bool),
    ) -> Result<(), SliceError> {
        let (left_cv, right_cv) = split_pair(pair);
        if parent_hash(&left_cv, &right_cv, is_root) != *expected {
            return Err(SliceError::Parent { encoded_offset: self.consumed });
        }
        if right {
            self.hashes.push(right_cv);
        }
        if left {
            self.hashes.push(left_cv);
        }
        Ok(())
    }
}
