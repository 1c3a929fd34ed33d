//! The data plane as inconsistency proofs need it: verifying one leaf, decoding
//! one row.

use super::{erasure::ErasureCode, verified::verify_leaf};
use crate::{bytes::ShardHash, inconsistency::LeafRows, segment::Scheme};

/// Leaf rows under the codes and trees of this version.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rows;

impl LeafRows for Rows {
    fn verify<'a>(
        &self,
        shard: &ShardHash,
        shard_len: u64,
        leaf: u64,
        slice: &'a [u8],
    ) -> Option<&'a [u8]> {
        verify_leaf(&shard.0, shard_len, leaf, slice).ok()
    }

    fn rebuild(&self, scheme: Scheme, have: &[(u8, &[u8])], want: u8) -> Option<Vec<u8>> {
        let code = ErasureCode::shared(scheme.k.into(), scheme.m.into()).ok()?;
        let indices: Vec<usize> = have.iter().map(|(index, _)| usize::from(*index)).collect();
        let leaves: Vec<&[u8]> = have.iter().map(|(_, leaf)| *leaf).collect();
        let plan = code.plan(&indices, &[usize::from(want)]).ok()?;
        let mut made = [vec![0; leaves.first()?.len()]];
        plan.rebuild(&leaves, &mut made).ok()?;
        let [made] = made;
        Some(made)
    }
}
