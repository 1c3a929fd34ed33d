//! Checking somebody else's work: starting from its ContentID alone, rows of
//! segments and MiBs of content are read from its holders.
//!
//! Nothing is signed that was not seen.

use std::{collections::BTreeMap, sync::Arc};

use echonet_protocol::{
    announcement::LiveCheck,
    content_id::ContentId,
    data::{GROUP_BYTES, erasure::ErasureCode},
    identity::Signed,
    machine::Draws,
    manifest::ManifestBody,
    message::{Refusal, RefusalCode, Response, SliceSpec},
    params,
    segment::SegmentId,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{ServeResult, reads::PATIENCE, refuse, reply, say};
use crate::{
    client::SliceWanted,
    clock,
    core::Core,
    flow::fetch::{
        fetch_config,
        manifest::{Locator, Manifest, Reader},
        race,
        segment::{Account, Located},
        stream::{Delivery, stream_pages},
    },
    net::{bandwidth::Way, gate::PeerInfo, node_protocol::stream::NodeStream},
};

/// Rows read of each segment.
const ROWS: u64 = 8;
/// MiB read for one request at most.
const MIB_MAX: u32 = 64;
/// Segments looked at at once.
const SEGMENTS_AT_ONCE: usize = 2;
/// Rows of a segment read at once.
const ROWS_AT_ONCE: usize = 4;
/// Leaves of a row asked for at once.
const PARALLEL: usize = 32;
/// Bytes of a leaf.
const LEAF_BYTES: u64 = 1024;
/// What the rows of a segment are counted as, bytes: 8 rows of 16 shards, with their proofs.
const ROWS_BYTES: usize = 8 * 16 * 2_200;

pub(super) async fn check(
    core: &Arc<Core>,
    peer: &PeerInfo,
    content: ContentId,
    segments: Vec<SegmentId>,
    mib: u32,
    stream: &mut NodeStream,
) -> ServeResult<()> {
    if segments.len() > params::BATCH_ITEMS_MAX || mib > MIB_MAX {
        return Err(refuse(RefusalCode::Invalid, "too much for one live check").into());
    }
    let Ok(_permit) = core.live_checks.try_acquire() else {
        return Err(refuse(RefusalCode::Busy, "this node is checking another work").into());
    };
    if core.bandwidth.is_quiet() {
        let reason = "these are this node's quiet hours; ask another one";
        return Err(refuse(RefusalCode::Busy, reason).into());
    }
    let bytes = ((mib as usize) << 20) + segments.len() * ROWS_BYTES;
    let passed = core.bandwidth.pass(Way::Down, peer.prefix, bytes, PATIENCE).await;
    passed.map_err(|e| refuse(RefusalCode::Busy, e))?;
    say(stream, &Response::Ready).await?;
    let check = look(core, content, segments, mib).await?;
    reply(stream, &Response::Live(check)).await
}

async fn look(
    core: &Arc<Core>,
    content: ContentId,
    segments: Vec<SegmentId>,
    mib: u32,
) -> Result<Signed<LiveCheck>, Refusal> {
    let not_there = |e: &dyn std::fmt::Display| refuse(RefusalCode::NotFound, e);
    let found = race::find(core, content).await.map_err(|e| not_there(&e))?;
    let locator = Locator::default();
    let reader = Reader { core, locator: &locator, config: fetch_config(0) };
    let mut account = Account::default();
    let manifest = race::believe(&reader, &found, &mut account).await.map_err(|e| not_there(&e))?;
    locator.prefetch(core, &segments).await;
    let look = |segment: SegmentId| {
        let locator = &locator;
        async move {
            let located = locator.locate(core, segment).await.map_err(|e| not_there(&e))?;
            check_rows(core, &located).await
        }
    };
    let checks = stream::iter(segments.clone()).map(look);
    let rows: Vec<u32> = checks.buffered(SEGMENTS_AT_ONCE).try_collect().await?;
    let rows = rows.into_iter().sum();
    let read = read_mibs(core, &manifest, mib).await?;
    let body = LiveCheck {
        v: params::FORMAT_VERSION,
        network: core.network,
        content,
        manifest: manifest.hash,
        checker: core.node_id(),
        at: clock::now(),
        segments,
        rows,
        mib: read,
    };
    Ok(Signed::new(&core.identity, body))
}

fn draws() -> Draws {
    Draws::new(u64::from_le_bytes(clock::random()))
}

/// Reads random leaf rows of a segment over all its shards; how many.
async fn check_rows(core: &Arc<Core>, located: &Located) -> Result<u32, Refusal> {
    if located.holders.values().flatten().any(|holder| *holder == core.node_id()) {
        let reason = format!("this node holds a part of segment {}", located.segment);
        return Err(refuse(RefusalCode::NotMyRole, reason));
    }
    let shard_len = located.descriptor.shard_len() as u64;
    let leaves = shard_len.div_ceil(LEAF_BYTES);
    let mut draws = draws();
    let rows = ROWS.min(leaves);
    let starts: Vec<u64> = (0..rows).map(|_| draws.below(leaves) * LEAF_BYTES).collect();
    let rows = starts.into_iter().map(|start| async move {
        let length = LEAF_BYTES.min(shard_len - start);
        judge_row(located, &read_row(core, located, start, length).await)
    });
    let judged: Vec<()> = stream::iter(rows).buffered(ROWS_AT_ONCE).try_collect().await?;
    Ok(judged.len() as u32)
}

/// The same leaf of every shard that can be had.
async fn read_row(
    core: &Arc<Core>,
    located: &Located,
    start: u64,
    length: u64,
) -> BTreeMap<u8, Vec<u8>> {
    let spec = SliceSpec { offset: start, length, group_log: 0 };
    let total = located.descriptor.shard_len() as u64;
    let holders: Vec<_> = located.holders.iter().map(|(i, h)| (*i, h.clone())).collect();
    let leaves = stream::iter(holders).map(|(index, holders)| async move {
        let root = located.descriptor.shards[usize::from(index)].0;
        for holder in holders {
            let mut leaf = vec![0; spec.length as usize];
            let wanted = SliceWanted { root, total, spec };
            let shard = (located.segment, index);
            match core.client.get_shard(&holder, shard, wanted, &mut leaf, || {}).await {
                Ok(()) => return Some((index, leaf)),
                Err(e) => tracing::debug!("a leaf is missing: {e}"),
            }
        }
        None
    });
    let leaves: Vec<_> = leaves.buffer_unordered(PARALLEL).collect().await;
    leaves.into_iter().flatten().collect()
}

/// Enough leaves, and all of them on one codeword.
fn judge_row(located: &Located, row: &BTreeMap<u8, Vec<u8>>) -> Result<(), Refusal> {
    let (segment, scheme) = (located.segment, located.descriptor.scheme);
    let quorum = scheme.write_quorum();
    if row.len() < quorum {
        let reason = format!("segment {segment}: {} of {quorum} needed shards answered", row.len());
        return Err(refuse(RefusalCode::NotFound, reason));
    }
    let internal = |e: &dyn std::fmt::Display| refuse(RefusalCode::Internal, e);
    let k = usize::from(scheme.k);
    let have: Vec<usize> = row.keys().take(k).map(|i| usize::from(*i)).collect();
    let rest: Vec<usize> = row.keys().skip(k).map(|i| usize::from(*i)).collect();
    let code = ErasureCode::shared(k, scheme.m.into()).map_err(|e| internal(&e))?;
    let plan = code.plan(&have, &rest).map_err(|e| internal(&e))?;
    let sources: Vec<&[u8]> = row.values().take(k).map(Vec::as_slice).collect();
    let mut made = vec![vec![0; sources[0].len()]; rest.len()];
    plan.rebuild(&sources, &mut made).map_err(|e| internal(&e))?;
    if made.iter().zip(row.values().skip(k)).all(|(made, read)| made == read) {
        return Ok(());
    }
    Err(refuse(RefusalCode::Inconsistent, format!("segment {segment} is not a codeword")))
}

/// Reads random MiBs through random k-subsets with at least one parity shard.
async fn read_mibs(core: &Arc<Core>, manifest: &Manifest, mib: u32) -> Result<u32, Refusal> {
    if matches!(manifest.root.body, ManifestBody::Inline(_)) {
        return Ok(0);
    }
    let length = manifest.root.length;
    let groups = length.div_ceil(GROUP_BYTES);
    let mut draws = draws();
    let mib = mib.min(u32::try_from(groups).unwrap_or(MIB_MAX));
    for _ in 0..mib {
        let locator = Locator::subsets(draws.next_u64());
        let reader = Reader { core, locator: &locator, config: fetch_config(SEGMENT_BYTES) };
        let start = draws.below(groups) * GROUP_BYTES;
        let wanted = start..(start + GROUP_BYTES).min(length);
        let (mut sink, mut account) = (tokio::io::sink(), Account::default());
        let mut on_progress = |_| {};
        let mut delivery = Delivery { sink: &mut sink, wanted, on_progress: &mut on_progress };
        stream_pages(&reader, manifest, &mut delivery, &mut account)
            .await
            .map_err(|e| refuse(RefusalCode::NotFound, e))?;
    }
    Ok(mib)
}

/// Sets the patience for fetches of whole shards.
const SEGMENT_BYTES: u64 = params::SEGMENT_BYTES_MAX as u64;
