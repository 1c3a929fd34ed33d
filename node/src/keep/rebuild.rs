//! Making lost shards again from k others, row by row.
//!
//! Every range is verified on arrival and every rebuilt shard against the
//! descriptor before anybody is sent a byte of it. At most one row of k shards
//! is in memory besides the lost shards themselves.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use echonet_protocol::{
    data::erasure::ErasureCode,
    segment::{Scheme, SegmentId},
};

use crate::{
    core::Core,
    flow::fetch::{
        fetch_config,
        segment::{Account, Located, RowsWanted, SegmentBytes, SegmentError, fetch_rows},
    },
    net::{
        address::ObservedPrefix,
        bandwidth::{CapUsedUp, Way},
    },
};

/// How long a row or a shard waits for its turn under this node's caps.
const CAP_PATIENCE: Duration = Duration::from_secs(600);
/// In whose place this node's own traffic queues: nobody's.
const OWN: ObservedPrefix = [0; 16];
/// Bytes of each shard in one row; whole groups of the proofs that ranges come with.
const ROW_BYTES: usize = 512 * 1024;

/// Shards that were made again.
#[derive(Debug)]
pub(super) struct Rebuilt {
    /// By index; each has the hash that the descriptor names.
    pub(super) shards: BTreeMap<u8, Bytes>,
    /// Bytes that came over the network for it.
    pub(super) read_bytes: u64,
}

/// Why shards were not made again.
#[derive(Debug, thiserror::Error)]
pub(super) enum RebuildError {
    /// Fewer than k others were had.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// k verified shards give others than the descriptor names: its publisher's fault.
    #[error(
        "segment {segment}: its shards are not of one code word; its publisher made it so, and no \
         repair can help"
    )]
    Inconsistent {
        /// Which.
        segment: SegmentId,
    },
    /// This node's owner allows no more for now.
    #[error(transparent)]
    Cap(#[from] CapUsedUp),
    /// A fault of this program or machine.
    #[error("segment {segment}: {reason}")]
    Internal {
        /// Which.
        segment: SegmentId,
        /// What happened.
        reason: String,
    },
}

/// Makes the shards `lost` again.
pub(super) async fn rebuild(
    core: &Arc<Core>,
    located: &Located,
    lost: &[u8],
) -> Result<Rebuilt, RebuildError> {
    let shard_len = located.descriptor.shard_len();
    let mut account = Account::default();
    let mut shards: BTreeMap<u8, Vec<u8>> =
        lost.iter().map(|index| (*index, Vec::with_capacity(shard_len))).collect();
    for start in (0..shard_len).step_by(ROW_BYTES) {
        let range = start..(start + ROW_BYTES).min(shard_len);
        pass(core, Way::Down, range.len() * usize::from(located.descriptor.scheme.k)).await?;
        let row = fetch_row(core, located, range, &mut account).await?;
        for (index, bytes) in code(located, row, lost.to_vec()).await? {
            shards.entry(index).or_default().extend_from_slice(&bytes);
        }
    }
    let shards = verified(located, shards).await?;
    Ok(Rebuilt { shards, read_bytes: account.read_bytes })
}

/// Waits until this node's caps let it move bytes for a repair.
pub(super) async fn pass(core: &Core, way: Way, bytes: usize) -> Result<(), CapUsedUp> {
    core.bandwidth.pass(way, OWN, bytes, CAP_PATIENCE).await
}

/// The same range of all data shards, from them or from others.
async fn fetch_row(
    core: &Arc<Core>,
    located: &Located,
    range: Range<usize>,
    account: &mut Account,
) -> Result<SegmentBytes, SegmentError> {
    let wanted = RowsWanted {
        located,
        indices: (0..located.descriptor.scheme.k).collect(),
        config: fetch_config(range.len() as u64),
        range,
        // Parts are proven by the hash of the whole shard at the end.
        check: &|_| true,
        seed: rand::random(),
    };
    fetch_rows(core, wanted, account).await
}

fn internal(segment: SegmentId, e: &dyn std::fmt::Display) -> RebuildError {
    RebuildError::Internal { segment, reason: e.to_string() }
}

/// The rows of the lost shards, from those of the data shards.
async fn code(
    located: &Located,
    row: SegmentBytes,
    lost: Vec<u8>,
) -> Result<Vec<(u8, Vec<u8>)>, RebuildError> {
    let (segment, scheme) = (located.segment, located.descriptor.scheme);
    let work = move || code_row(scheme, &row, &lost);
    let coded = tokio::task::spawn_blocking(work).await.map_err(|e| internal(segment, &e))?;
    coded.map_err(|e| internal(segment, &e))
}

fn code_row(scheme: Scheme, row: &SegmentBytes, lost: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, String> {
    let data: Vec<&[u8]> = (0..scheme.k)
        .map(|index| row.shard(index).ok_or_else(|| format!("data shard {index} is lacking")))
        .collect::<Result<_, _>>()?;
    let len = data.first().map_or(0, |shard| shard.len());
    let (kept, made): (Vec<u8>, Vec<u8>) = lost.iter().partition(|index| **index < scheme.k);
    let mut rows: Vec<(u8, Vec<u8>)> =
        kept.iter().map(|index| (*index, data[usize::from(*index)].to_vec())).collect();
    if !made.is_empty() {
        let code = ErasureCode::shared(scheme.k.into(), scheme.m.into());
        let have: Vec<usize> = (0..usize::from(scheme.k)).collect();
        let want: Vec<usize> = made.iter().map(|index| usize::from(*index)).collect();
        let plan = code.map_err(|e| e.to_string())?.plan(&have, &want);
        let mut out = vec![vec![0; len]; made.len()];
        plan.map_err(|e| e.to_string())?.rebuild(&data, &mut out).map_err(|e| e.to_string())?;
        rows.extend(made.into_iter().zip(out));
    }
    Ok(rows)
}

/// The shards, if they are what the descriptor says.
async fn verified(
    located: &Located,
    shards: BTreeMap<u8, Vec<u8>>,
) -> Result<BTreeMap<u8, Bytes>, RebuildError> {
    let (segment, hashes) = (located.segment, located.descriptor.shards.clone());
    let work = move || {
        let is_right = |(index, bytes): (&u8, &Vec<u8>)| {
            let wanted = hashes.get(usize::from(*index)).map(|hash| hash.0);
            wanted.as_ref() == Some(blake3::hash(bytes).as_bytes())
        };
        shards.iter().all(is_right).then_some(shards)
    };
    let checked = tokio::task::spawn_blocking(work).await.map_err(|e| internal(segment, &e))?;
    let shards = checked.ok_or(RebuildError::Inconsistent { segment })?;
    Ok(shards.into_iter().map(|(index, bytes)| (index, bytes.into())).collect())
}
