//! From a file's outboard at small groups to the hashes of its MiBs: what a publisher's second
//! pass checks each MiB against.
//!
//! It believes no node that does not hash to what its parent says.

use blake3::hazmat::left_subtree_len;
use thiserror::Error;

use super::{
    encode::ReadAt,
    tree::{Cv, ShapeError, group_bytes, parent_hash, split_pair},
};
use crate::data::{CONTENT_BYTES_MAX, GROUP_BYTES, GROUP_LOG, PAIR_BYTES};

/// The MiB hashes could not be had from an outboard.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum MibCvsError<E> {
    /// No such tree.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The outboard could not be read.
    #[error("could not read node {node} of the outboard: {source}")]
    Read {
        /// Which node, in pre-order.
        node: u64,
        /// Why.
        source: E,
    },
    /// A node is not what its parent says.
    #[error("node {node} of the outboard does not hash to what the node above says")]
    Node {
        /// Which node, in pre-order.
        node: u64,
    },
}

/// The hash of each MiB of a content of `total_len` bytes with hash `root`, from its pre-order
/// outboard at groups of 2^`outboard_log` leaves: 32 bytes per MiB, in order.
///
/// # Errors
/// [`MibCvsError`].
pub fn mib_cvs<O: ReadAt + ?Sized>(
    root: [u8; 32],
    total_len: u64,
    outboard: &O,
    outboard_log: u8,
) -> Result<Vec<[u8; 32]>, MibCvsError<O::Error>> {
    if total_len > CONTENT_BYTES_MAX {
        return Err(ShapeError::TooLong(total_len).into());
    }
    if outboard_log > GROUP_LOG {
        return Err(ShapeError::GroupLog(outboard_log).into());
    }
    let mut cvs = Vec::new();
    // Subtrees still to be visited, rightmost first: (node, bytes, hash).
    let mut rest: Vec<(u64, u64, Cv)> = vec![(0, total_len, root)];
    while let Some((node, len, cv)) = rest.pop() {
        if len <= GROUP_BYTES {
            cvs.push(cv);
            continue;
        }
        let mut pair = [0; PAIR_BYTES];
        outboard
            .read_exact_at(node * PAIR_BYTES as u64, &mut pair)
            .map_err(|source| MibCvsError::Read { node, source })?;
        let (left, right) = split_pair(&pair);
        if parent_hash(&left, &right, node == 0) != cv {
            return Err(MibCvsError::Node { node });
        }
        let left_len = left_subtree_len(len);
        // A left subtree is a whole number of groups, each but one of which has a node above it.
        let left_nodes = left_len / group_bytes(outboard_log) - 1;
        rest.push((node + 1 + left_nodes, len - left_len, right));
        rest.push((node + 1, left_len, left));
    }
    Ok(cvs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::verified::{group_cv, outboard};

    fn bytes(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"mib").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn they_are_the_hashes_of_the_mibs() {
        const MIB: usize = 1 << 20;
        for len in [0, 1, 5000, MIB, MIB + 1, 2 * MIB, 5 * MIB + 77, 8 * MIB] {
            let data = bytes(len);
            let groups = len.div_ceil(MIB).max(1);
            let slow: Vec<_> = (0..groups)
                .map(|g| &data[g * MIB..len.min((g + 1) * MIB)])
                .enumerate()
                .map(|(g, part)| group_cv(part, g as u64, groups == 1).unwrap())
                .collect();
            for log in [0, 4, 10] {
                let tree = outboard(&data, log).unwrap();
                let fast = mib_cvs(tree.root, len as u64, &tree.nodes[..], log).unwrap();
                assert_eq!(fast, slow, "{len} bytes at 2^{log}");
            }
        }
    }

    #[test]
    fn a_changed_node_is_told() {
        let data = bytes(5 << 20);
        let mut tree = outboard(&data, 4).unwrap();
        tree.nodes[3] ^= 1;
        let error = mib_cvs(tree.root, data.len() as u64, &tree.nodes[..], 4).unwrap_err();
        assert_eq!(error, MibCvsError::Node { node: 0 });
        let short = mib_cvs(tree.root, data.len() as u64, &tree.nodes[..10], 4);
        assert!(matches!(short, Err(MibCvsError::Read { .. })));
    }
}
