//! Telling whether verified ranges of k+1 shards lie on one codeword, and proving
//! it where they do not.

use std::sync::Arc;

use echonet_protocol::{
    data::{LEAF_BYTES, erasure::ErasureCode, rows::Rows, verified::encode_slice},
    inconsistency::{InconsistencyProof, LeafSlice},
    segment::SegmentDescriptor,
};

/// Looks for a row in which k+1 ranges, all starting at byte `start` of their
/// shards, are not on one codeword. None: they are. The inner option is the
/// portable proof, which needs whole shards.
pub fn find(
    descriptor: &SegmentDescriptor,
    start: usize,
    ranges: &[(u8, Arc<Vec<u8>>)],
) -> Option<Option<InconsistencyProof>> {
    let scheme = descriptor.scheme;
    let k = usize::from(scheme.k);
    let (last, first) = ranges.split_last()?;
    if first.len() != k {
        return None;
    }
    let code = ErasureCode::shared(k, scheme.m.into()).ok()?;
    let have: Vec<usize> = first.iter().map(|(index, _)| usize::from(*index)).collect();
    let plan = code.plan(&have, &[usize::from(last.0)]).ok()?;
    let sources: Vec<&[u8]> = first.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    let mut made = vec![vec![0; last.1.len()]];
    plan.rebuild(&sources, &mut made).ok()?;
    let differs = made[0].iter().zip(last.1.iter()).position(|(a, b)| a != b)?;
    Some(prove(descriptor, start, differs, ranges))
}

fn prove(
    descriptor: &SegmentDescriptor,
    start: usize,
    differs: usize,
    ranges: &[(u8, Arc<Vec<u8>>)],
) -> Option<InconsistencyProof> {
    let shard_len = descriptor.shard_len();
    if start != 0 || ranges.iter().any(|(_, bytes)| bytes.len() != shard_len) {
        return None;
    }
    let leaf = differs as u64 / LEAF_BYTES;
    let from = leaf * LEAF_BYTES;
    let to = (from + LEAF_BYTES).min(shard_len as u64);
    let slices = ranges.iter().map(|(index, bytes)| {
        let (slice, _) = encode_slice(bytes, from..to, 0).ok()?;
        Some(LeafSlice { index: *index, slice })
    });
    let slices = slices.collect::<Option<Vec<_>>>()?;
    InconsistencyProof::new(descriptor.clone(), leaf, slices, &Rows).ok()
}
