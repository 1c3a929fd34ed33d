//! Handing out ranges of shards and of full copies, as verified slices.
//!
//! The reader verifies; this node checks what it read from disk only where it
//! hashes it anyway.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use echonet_protocol::{
    content_id::ContentId,
    message::{Refusal, RefusalCode, Response, SliceSpec},
    segment::SegmentId,
};
use echonet_vault::{Key, ReadError};

use super::{
    ServeResult,
    bulk::{BulkPermit, BulkUse},
    refuse, say,
    trees::PartWanted,
};
use crate::{
    core::Core,
    keep::Event,
    net::{
        bandwidth::Way,
        gate::PeerInfo,
        node_protocol::stream::{ABORTED, NodeStream, StreamError},
    },
    owner::rows::WorkState,
};

/// Bytes written to the stream at once.
const STEP_BYTES: usize = 256 * 1024;
/// Bytes of a leaf.
const LEAF_BYTES: u64 = 1024;
/// Longest wait for the cap before an answer begins.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);
/// Longest wait in the midst of one: readers give up what stalls for 10 s.
const STEP_PATIENCE: Duration = Duration::from_secs(8);
/// Bytes of a full copy that one request may ask for.
const CONTENT_SLICE_BYTES_MAX: u64 = 64 * 1024 * 1024;

pub(super) async fn shard(
    core: &Arc<Core>,
    peer: &PeerInfo,
    segment: SegmentId,
    index: u8,
    slice: SliceSpec,
    stream: &mut NodeStream,
) -> ServeResult<()> {
    let Some(vault) = core.vault.clone() else {
        return Err(refuse(RefusalCode::NotMyRole, "this node holds no shards").into());
    };
    let internal = |e: &dyn std::fmt::Display| refuse(RefusalCode::Internal, e);
    let key = Key { segment: segment.0, index };
    let located = tokio::task::spawn_blocking(move || vault.get(key)).await;
    let Some(located) = located.map_err(|e| internal(&e))?.map_err(|e| internal(&e))? else {
        return Err(not_here(segment, index).into());
    };
    if slice.offset == 0 {
        // What is read is repaired first. Once for each reader of the shard, not for each part.
        core.keep.hint(Event::Read(segment));
    }
    let length = located.shard_len() as usize;
    let range = checked(slice, length as u64)?;
    if !is_one_leaf(slice) {
        let bytes = if slice.group_log == SliceSpec::WHOLE { length as u64 } else { slice.length };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let passed = core.bandwidth.pass(Way::Up, peer.prefix, bytes, PATIENCE).await;
        passed.map_err(|e| refuse(RefusalCode::Busy, e))?;
    }
    if slice.group_log == SliceSpec::WHOLE {
        let permit = core.bulk.reserve(BulkUse::Read, peer.prefix, length).await?;
        let read = tokio::task::spawn_blocking(move || located.read_range(0, length));
        let bytes = match read.await.map_err(|e| internal(&e))? {
            Ok(bytes) => bytes,
            Err(ReadError::NotStored) => return Err(not_here(segment, index).into()),
            Err(e) => return Err(internal(&e).into()),
        };
        return send(length as u64, in_memory(bytes, permit), stream).await;
    }
    let (group_log, prefix) = (slice.group_log, peer.prefix);
    let wanted = PartWanted { located, range, group_log, prefix };
    let (encoded, permit) = core.trees.slice(&core.bulk, wanted).await?;
    send(length as u64, in_memory(encoded.into(), permit), stream).await
}

/// One leaf is always answered, whatever else is capped: audits ask for no more.
const fn is_one_leaf(slice: SliceSpec) -> bool {
    slice.group_log == 0 && slice.length <= LEAF_BYTES
}

/// Bytes that keep their place in memory until the last of them was acknowledged.
fn in_memory(bytes: Bytes, permit: BulkPermit) -> Bytes {
    struct Placed(Bytes, #[expect(dead_code, reason = "held, not used")] BulkPermit);
    impl AsRef<[u8]> for Placed {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Placed(bytes, permit))
}

async fn send(total: u64, encoded: Bytes, stream: &mut NodeStream) -> ServeResult<()> {
    say(stream, &Response::Slice { total, encoded: encoded.len() as u64 }).await?;
    stream.write_all(encoded).await?;
    stream.finish();
    Ok(())
}

fn not_here(segment: SegmentId, index: u8) -> Refusal {
    refuse(RefusalCode::NotFound, format!("shard {index} of {} is not here", segment.short()))
}

/// The bytes that a slice is of, within a shard of `total` bytes.
fn checked(slice: SliceSpec, total: u64) -> Result<Range<u64>, Refusal> {
    let end =
        slice.offset.checked_add(slice.length).filter(|end| *end <= total && slice.length > 0);
    let Some(end) = end else {
        let reason = format!("{}+{} of {total} bytes", slice.offset, slice.length);
        return Err(refuse(RefusalCode::Invalid, reason));
    };
    if slice.group_log == SliceSpec::WHOLE && slice.length != total {
        return Err(refuse(RefusalCode::Invalid, "a part without a tree proves nothing"));
    }
    Ok(slice.offset..end)
}

/// Writes bulk bytes as fast as the cap allows. A refusal in their midst would look like a lie, so
/// a stream whose turn does not come is given up.
async fn capped(
    core: &Core,
    peer: &PeerInfo,
    mut bytes: Bytes,
    stream: &mut NodeStream,
) -> ServeResult<()> {
    while !bytes.is_empty() {
        let step = core.bandwidth.step(Way::Up, bytes.len());
        let passed = core.bandwidth.pass(Way::Up, peer.prefix, step, STEP_PATIENCE).await;
        if let Err(e) = passed {
            stream.abort(ABORTED);
            return Err(StreamError::Failed(e.to_string()).into());
        }
        stream.write_all(bytes.split_to(step)).await?;
    }
    Ok(())
}

pub(super) async fn content(
    core: &Arc<Core>,
    peer: &PeerInfo,
    content: ContentId,
    slice: SliceSpec,
    stream: &mut NodeStream,
) -> ServeResult<()> {
    if slice.length > CONTENT_SLICE_BYTES_MAX {
        let reason = format!("{} bytes; ask for at most {CONTENT_SLICE_BYTES_MAX}", slice.length);
        return Err(refuse(RefusalCode::Invalid, reason).into());
    }
    let _permit = core.bulk.reserve(BulkUse::Read, peer.prefix, 2 * STEP_BYTES).await?;
    let row = core.catalog.work(&content).map_err(|e| refuse(RefusalCode::Internal, e))?;
    let Some(row) = row.filter(|row| row.state == WorkState::Published) else {
        let reason = format!("no full copy of {content} is here");
        return Err(refuse(RefusalCode::NotFound, reason).into());
    };
    let mut copy = core.origin.slice(&content, &row.path, row.size, slice)?;
    let (total, encoded) = (copy.total(), copy.encoded_len());
    say(stream, &Response::Slice { total, encoded }).await?;
    while let Some(part) = copy.next_part().await? {
        match is_one_leaf(slice) {
            true => stream.write_all(part.into()).await?,
            false => capped(core, peer, part.into(), stream).await?,
        }
    }
    stream.finish();
    Ok(())
}
