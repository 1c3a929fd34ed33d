//! The shape of BLAKE3's tree over some bytes, and the walk over the part of it that a range
//! needs. It never touches the bytes themselves beyond hashing what it is given.

use std::ops::Range;

use blake3::hazmat::{
    HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use thiserror::Error;

use crate::data::{CONTENT_BYTES_MAX, LEAF_BYTES, PAIR_BYTES, SLICE_GROUP_LOG_MAX};

/// A hash of a subtree: its chaining value, or the root hash where the subtree is everything.
pub(super) type Cv = [u8; 32];

/// A range or a size that no tree has.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ShapeError {
    /// More than [`CONTENT_BYTES_MAX`].
    #[error("{0} bytes are more than the {CONTENT_BYTES_MAX} that a content can have")]
    TooLong(u64),
    /// Groups of more than 1 MiB.
    #[error("group size 2^{0} leaves: at most 2^{SLICE_GROUP_LOG_MAX}")]
    GroupLog(u8),
    /// The range is empty (of bytes that are not), reversed, or passes the end.
    #[error("bytes {start}..{end} of {total}: the range is empty or passes the end")]
    Range {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// Length of the whole.
        total: u64,
    },
}

/// The hash of the leaves `bytes`, which start at `start` of the whole. They must be a subtree,
/// and only the whole (`is_root`) may be empty.
pub(super) fn subtree_hash(start: u64, bytes: &[u8], is_root: bool) -> Cv {
    if is_root {
        return blake3::hash(bytes).into();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// The hash of an inner node.
pub(super) fn parent_hash(left: &Cv, right: &Cv, is_root: bool) -> Cv {
    if is_root {
        return merge_subtrees_root(left, right, Mode::Hash).into();
    }
    merge_subtrees_non_root(left, right, Mode::Hash)
}

/// The two hashes of an inner node's bytes.
pub(super) fn split_pair(pair: &[u8; PAIR_BYTES]) -> (Cv, Cv) {
    let mut halves = ([0; 32], [0; 32]);
    halves.0.copy_from_slice(&pair[..32]);
    halves.1.copy_from_slice(&pair[32..]);
    halves
}

/// Bytes of a group of 2^`log` leaves.
pub(super) fn group_bytes(log: u8) -> u64 {
    LEAF_BYTES << log
}

/// What comes next in the pre-order walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// An inner node: 64 bytes. `index` is its place in a pre-order outboard; `left` and `right`
    /// say which children follow.
    Parent { index: u64, is_root: bool, left: bool, right: bool },
    /// Bytes sent as they are: one group, or a smaller subtree within the range, or one leaf.
    Data { start: u64, len: u64, is_root: bool },
    /// A subtree below the outboard's groups, of which only a part is in the range.
    Inner { start: u64, len: u64, is_root: bool },
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    start: u64,
    len: u64,
    index: u64,
}

/// The walk over what a byte range needs, in pre-order.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    total: u64,
    /// The wanted bytes, rounded out to leaves.
    range: Range<u64>,
    group: u64,
    /// Bytes of the outboard's groups; 0 where there is no outboard.
    outboard_group: u64,
    /// At most one frame per level of the tree, and one.
    stack: Vec<Frame>,
}

impl Walk {
    /// The walk for `range` of `total` bytes in groups of 2^`group_log` leaves; with
    /// `outboard_log`, subtrees within that outboard's groups are left to the caller.
    pub(super) fn new(
        total: u64,
        range: Range<u64>,
        group_log: u8,
        outboard_log: Option<u8>,
    ) -> Result<Self, ShapeError> {
        if total > CONTENT_BYTES_MAX {
            return Err(ShapeError::TooLong(total));
        }
        for log in [group_log, outboard_log.unwrap_or(0)] {
            if log > SLICE_GROUP_LOG_MAX {
                return Err(ShapeError::GroupLog(log));
            }
        }
        let is_empty = range.start >= range.end && !(total == 0 && range.start == range.end);
        if is_empty || range.end > total {
            return Err(ShapeError::Range { start: range.start, end: range.end, total });
        }
        let start = range.start - range.start % LEAF_BYTES;
        let end = range.end.next_multiple_of(LEAF_BYTES).min(total);
        Ok(Self {
            total,
            range: start..end,
            group: group_bytes(group_log),
            outboard_group: outboard_log.map_or(0, group_bytes),
            stack: vec![Frame { start: 0, len: total, index: 0 }],
        })
    }

    fn is_wanted(&self, start: u64, len: u64) -> bool {
        start < self.range.end && self.range.start < start + len
    }

    fn step(&self, frame: Frame) -> Step {
        let Frame { start, len, index } = frame;
        let is_root = start == 0 && len == self.total;
        let is_covered = self.range.start <= start && start + len <= self.range.end;
        if len <= LEAF_BYTES || (is_covered && len <= self.group) {
            return Step::Data { start, len, is_root };
        }
        if len <= self.outboard_group {
            return Step::Inner { start, len, is_root };
        }
        let left_len = left_subtree_len(len);
        let left = self.is_wanted(start, left_len);
        let right = self.is_wanted(start + left_len, len - left_len);
        Step::Parent { index, is_root, left, right }
    }

    /// Bytes that the rest of the walk has in an encoding. Takes steps only along the range's two
    /// edges (some 90 of them at most), so a stranger's huge length costs nothing.
    pub(super) fn encoded_len(&self) -> u64 {
        self.stack.iter().map(|frame| self.encoded_len_of(frame.start, frame.len)).sum()
    }

    fn encoded_len_of(&self, start: u64, len: u64) -> u64 {
        if self.range.start <= start && start + len <= self.range.end {
            let groups = len.div_ceil(self.group).max(1);
            return len + (groups - 1) * PAIR_BYTES as u64;
        }
        if !self.is_wanted(start, len) {
            return 0;
        }
        if len <= LEAF_BYTES {
            return len;
        }
        let left_len = left_subtree_len(len);
        let left = self.encoded_len_of(start, left_len);
        PAIR_BYTES as u64 + left + self.encoded_len_of(start + left_len, len - left_len)
    }

    /// The next step, without taking it.
    pub(super) fn peek(&self) -> Option<Step> {
        self.stack.last().map(|&frame| self.step(frame))
    }

    /// Takes the next step.
    pub(super) fn advance(&mut self) -> Option<Step> {
        let frame = self.stack.pop()?;
        let step = self.step(frame);
        if let Step::Parent { left, right, .. } = step {
            let Frame { start, len, index } = frame;
            let left_len = left_subtree_len(len);
            let groups_left = left_len.div_ceil(self.outboard_group.max(LEAF_BYTES));
            if right {
                let index = index + groups_left;
                self.stack.push(Frame { start: start + left_len, len: len - left_len, index });
            }
            if left {
                self.stack.push(Frame { start, len: left_len, index: index + 1 });
            }
        }
        Some(step)
    }
}

impl Step {
    /// Bytes of this step in the encoding of a walk without outboard.
    pub(super) fn encoded_len(self) -> u64 {
        match self {
            Self::Parent { .. } => PAIR_BYTES as u64,
            Self::Data { len, .. } | Self::Inner { len, .. } => len,
        }
    }
}
