//! Sending a verified slice: from bytes in memory without any outboard, or streaming from a large
//! file with its pre-order outboard. The streaming form never verifies what it reads: the
//! receiver does.

use std::ops::Range;

use blake3::hazmat::left_subtree_len;
use thiserror::Error;

use super::tree::{Cv, ShapeError, Step, Walk, group_bytes, parent_hash, subtree_hash};
use crate::data::{LEAF_BYTES, PAIR_BYTES, SLICE_GROUP_LOG_MAX};

/// Bytes that can be read at any offset, for [`SliceEncoder`].
pub trait ReadAt {
    /// Why reading failed.
    type Error;

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When they cannot all be read.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Self::Error>;
}

/// A read that passes the end of a slice in memory.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("read of {len} bytes at {offset} passes the end")]
pub struct PastEnd {
    /// Where the read started.
    pub offset: u64,
    /// How many bytes were wanted.
    pub len: usize,
}

impl ReadAt for [u8] {
    type Error = PastEnd;

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PastEnd> {
        let refused = PastEnd { offset, len: buffer.len() };
        let start = usize::try_from(offset).map_err(|_| refused)?;
        let end = start.checked_add(buffer.len()).ok_or(refused)?;
        buffer.copy_from_slice(self.get(start..end).ok_or(refused)?);
        Ok(())
    }
}

/// Streaming a slice failed: the local file or its outboard could not be read.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum EncodeError<D, O> {
    /// The data.
    #[error("could not read {len} bytes at {offset} of the data: {source}")]
    Data {
        /// Where the read started.
        offset: u64,
        /// How many bytes were wanted.
        len: u64,
        /// Why.
        source: D,
    },
    /// The outboard.
    #[error("could not read node {index} of the outboard: {source}")]
    Outboard {
        /// Which node, in pre-order.
        index: u64,
        /// Why.
        source: O,
    },
}

/// A pre-order outboard, as in bao-tree and iroh-blobs' `obao` files: every inner node above the
/// groups, a parent before its left and then its right subtree, without a length prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outboard {
    /// The BLAKE3 hash of the bytes.
    pub root: [u8; 32],
    /// 64 bytes for every group but one.
    pub nodes: Vec<u8>,
}

/// Computes the outboard of `data` at groups of 2^`group_log` leaves.
///
/// # Errors
/// [`ShapeError::GroupLog`] above [`SLICE_GROUP_LOG_MAX`].
pub fn outboard(data: &[u8], group_log: u8) -> Result<Outboard, ShapeError> {
    if group_log > SLICE_GROUP_LOG_MAX {
        return Err(ShapeError::GroupLog(group_log));
    }
    let groups = (data.len() as u64).div_ceil(group_bytes(group_log)).max(1);
    let mut nodes = Vec::with_capacity((groups as usize - 1) * PAIR_BYTES);
    let root = outboard_node(data, 0, group_bytes(group_log), true, &mut nodes);
    Ok(Outboard { root, nodes })
}

fn outboard_node(data: &[u8], start: u64, group: u64, is_root: bool, out: &mut Vec<u8>) -> Cv {
    let len = data.len() as u64;
    if len <= group {
        return subtree_hash(start, data, is_root);
    }
    let (left, right) = data.split_at(left_subtree_len(len) as usize);
    with_pair(out, is_root, |out| {
        let left_cv = outboard_node(left, start, group, false, out);
        let right_cv = outboard_node(right, start + left.len() as u64, group, false, out);
        (left_cv, right_cv)
    })
}

/// Leaves room for a node, lets `children` write and hash its subtrees, then fills it in.
fn with_pair(
    out: &mut Vec<u8>,
    is_root: bool,
    children: impl FnOnce(&mut Vec<u8>) -> (Cv, Cv),
) -> Cv {
    let at = out.len();
    out.resize(at + PAIR_BYTES, 0);
    let (left, right) = children(out);
    out[at..at + 32].copy_from_slice(&left);
    out[at + 32..at + PAIR_BYTES].copy_from_slice(&right);
    parent_hash(&left, &right, is_root)
}

/// Encodes bytes `range` of `data` at groups of 2^`group_log` leaves, hashing all of `data` once.
/// Returns the encoding and the hash of `data`: a sender that knows what the hash must be learns
/// here that its own bytes have rotted, before it sends them.
///
/// A leaf proof is the slice of one leaf; its bytes do not depend on `group_log`.
///
/// # Errors
/// [`ShapeError`] when there is no such slice.
pub fn encode_slice(
    data: &[u8],
    range: Range<u64>,
    group_log: u8,
) -> Result<(Vec<u8>, [u8; 32]), ShapeError> {
    let walk = Walk::new(data.len() as u64, range.clone(), group_log, None)?;
    let mut out = Vec::with_capacity(walk.encoded_len() as usize);
    let wanted = Wanted::new(range, data.len() as u64, group_log);
    let root = encode_node(data, 0, &wanted, true, &mut out);
    Ok((out, root))
}

/// What a slice covers: the range, rounded out to leaves, and the group size in bytes.
struct Wanted {
    range: Range<u64>,
    group: u64,
}

impl Wanted {
    fn new(range: Range<u64>, total: u64, group_log: u8) -> Self {
        let start = range.start - range.start % LEAF_BYTES;
        let end = range.end.next_multiple_of(LEAF_BYTES).min(total);
        Self { range: start..end, group: group_bytes(group_log) }
    }
}

/// Appends the encoding of one subtree, which starts at `start` of the whole; returns its hash.
fn encode_node(data: &[u8], start: u64, wanted: &Wanted, is_root: bool, out: &mut Vec<u8>) -> Cv {
    let len = data.len() as u64;
    let Range { start: from, end: to } = wanted.range;
    if start >= to || start + len <= from {
        return subtree_hash(start, data, is_root);
    }
    let is_covered = from <= start && start + len <= to;
    if len <= LEAF_BYTES || (is_covered && len <= wanted.group) {
        out.extend_from_slice(data);
        return subtree_hash(start, data, is_root);
    }
    let (left, right) = data.split_at(left_subtree_len(len) as usize);
    with_pair(out, is_root, |out| {
        let left_cv = encode_node(left, start, wanted, false, out);
        let right_cv = encode_node(right, start + left.len() as u64, wanted, false, out);
        (left_cv, right_cv)
    })
}

/// Encodes a slice of a file of any size, piece by piece, from the file and its outboard.
#[derive(Debug, Clone)]
pub struct SliceEncoder {
    walk: Walk,
    wanted_range: Range<u64>,
    total_len: u64,
    group_log: u8,
}

impl SliceEncoder {
    /// An encoder for bytes `range` of `total_len` bytes, sent in groups of 2^`group_log` leaves,
    /// from an outboard at groups of 2^`outboard_log` leaves.
    ///
    /// # Errors
    /// [`ShapeError`] when there is no such slice.
    pub fn new(
        total_len: u64,
        range: Range<u64>,
        group_log: u8,
        outboard_log: u8,
    ) -> Result<Self, ShapeError> {
        let walk = Walk::new(total_len, range.clone(), group_log, Some(outboard_log))?;
        Ok(Self { walk, wanted_range: range, total_len, group_log })
    }

    /// Appends the next part of the encoding to `out`: whole steps while less than `bytes_max`
    /// were appended, so at most one group of the larger group size, with its inner nodes, more
    /// than that. Returns false once all was appended.
    ///
    /// # Errors
    /// [`EncodeError`] from the readers; the encoder must not be used further.
    pub fn fill<D: ReadAt + ?Sized, O: ReadAt + ?Sized>(
        &mut self,
        data: &D,
        outboard: &O,
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<bool, EncodeError<D::Error, O::Error>> {
        let before = out.len();
        while out.len() - before < bytes_max.max(1) {
            let Some(step) = self.walk.advance() else {
                return Ok(false);
            };
            match step {
                Step::Parent { index, .. } => {
                    let node = grow(out, PAIR_BYTES);
                    outboard
                        .read_exact_at(index * PAIR_BYTES as u64, node)
                        .map_err(|source| EncodeError::Outboard { index, source })?;
                }
                Step::Data { start, len, .. } => read_data(data, start, grow(out, len as usize))?,
                Step::Inner { start, len, is_root } => {
                    let mut group = vec![0; len as usize];
                    read_data(data, start, &mut group)?;
                    let range = self.wanted_range.clone();
                    let wanted = Wanted::new(range, self.total_len, self.group_log);
                    encode_node(&group, start, &wanted, is_root, out);
                }
            }
        }
        Ok(self.walk.peek().is_some())
    }
}

fn grow(out: &mut Vec<u8>, len: usize) -> &mut [u8] {
    let at = out.len();
    out.resize(at + len, 0);
    &mut out[at..]
}

fn read_data<D: ReadAt + ?Sized, O>(
    data: &D,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), EncodeError<D::Error, O>> {
    let len = buffer.len() as u64;
    data.read_exact_at(offset, buffer).map_err(|source| EncodeError::Data { offset, len, source })
}
