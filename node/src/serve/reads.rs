//! Handing out ranges of shards and of full copies, as verified slices.
//!
//! The reader verifies; this node checks what it read from disk only where it
//! hashes it anyway.

use std::sync::Arc;

use bytes::Bytes;
use echonet_protocol::{
    content_id::ContentId,
    data::verified,
    message::{RefusalCode, Response, SliceSpec},
    params,
    segment::SegmentId,
};
use echonet_vault::{Key, ReadError};
use tokio::sync::OwnedSemaphorePermit;

use super::{ServeResult, refuse, say};
use crate::{core::Core, net::node_protocol::stream::NodeStream, owner::rows::WorkState};

/// Bytes written to the stream at once.
const STEP_BYTES: usize = 256 * 1024;
/// Bytes of a full copy that one request may ask for.
const CONTENT_SLICE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Waits until so many bulk bytes may be in memory.
pub(super) async fn reserve_bulk(core: &Core, bytes: usize) -> ServeResult<OwnedSemaphorePermit> {
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    let permit = Arc::clone(&core.bulk).acquire_many_owned(kib).await;
    Ok(permit.map_err(|_| refuse(RefusalCode::Busy, "this node is stopping"))?)
}

pub(super) async fn shard(
    core: &Arc<Core>,
    segment: SegmentId,
    index: u8,
    slice: SliceSpec,
    stream: &mut NodeStream,
) -> ServeResult<()> {
    let Some(vault) = core.vault.clone() else {
        return Err(refuse(RefusalCode::NotMyRole, "this node holds no shards").into());
    };
    let _permit =
        reserve_bulk(core, params::SHARD_BYTES_MAX.min(STEP_BYTES.max(slice.length as usize)))
            .await?;
    let key = Key { segment: segment.0, index };
    let read = tokio::task::spawn_blocking(move || {
        let located = vault.get(key)?.ok_or(ReadError::NotStored)?;
        located.read_range(0, located.shard_len() as usize)
    });
    let bytes = match read.await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(ReadError::NotStored)) => {
            let reason = format!("shard {index} of {} is not here", segment.short());
            return Err(refuse(RefusalCode::NotFound, reason).into());
        }
        Ok(Err(e)) => return Err(refuse(RefusalCode::Internal, e).into()),
        Err(e) => return Err(refuse(RefusalCode::Internal, e).into()),
    };
    let total = bytes.len() as u64;
    let encoded = encode(bytes, slice)?;
    say(stream, &Response::Slice { total, encoded: encoded.len() as u64 }).await?;
    for part in encoded.chunks(STEP_BYTES) {
        stream.write_all(part).await?;
    }
    stream.finish();
    Ok(())
}

fn encode(bytes: Bytes, slice: SliceSpec) -> ServeResult<Bytes> {
    let total = bytes.len() as u64;
    let end =
        slice.offset.checked_add(slice.length).filter(|end| *end <= total && slice.length > 0);
    let Some(end) = end else {
        let reason = format!("{}+{} of {total} bytes", slice.offset, slice.length);
        return Err(refuse(RefusalCode::Invalid, reason).into());
    };
    if slice.group_log == SliceSpec::WHOLE {
        if slice.length != total {
            return Err(refuse(RefusalCode::Invalid, "a part without a tree proves nothing").into());
        }
        return Ok(bytes);
    }
    let encoded = verified::encode_slice(&bytes, slice.offset..end, slice.group_log);
    Ok(encoded.map_err(|e| refuse(RefusalCode::Invalid, e))?.0.into())
}

pub(super) async fn content(
    core: &Arc<Core>,
    content: ContentId,
    slice: SliceSpec,
    stream: &mut NodeStream,
) -> ServeResult<()> {
    if slice.length > CONTENT_SLICE_BYTES_MAX {
        let reason = format!("{} bytes; ask for at most {CONTENT_SLICE_BYTES_MAX}", slice.length);
        return Err(refuse(RefusalCode::Invalid, reason).into());
    }
    let _permit = reserve_bulk(core, 2 * STEP_BYTES).await?;
    let row = core.catalog.work(&content).map_err(|e| refuse(RefusalCode::Internal, e))?;
    let Some(row) = row.filter(|row| row.state == WorkState::Published) else {
        let reason = format!("no full copy of {content} is here");
        return Err(refuse(RefusalCode::NotFound, reason).into());
    };
    let mut copy = core.origin.slice(&content, &row.path, row.size, slice)?;
    let (total, encoded) = (copy.total(), copy.encoded_len());
    say(stream, &Response::Slice { total, encoded }).await?;
    while let Some(part) = copy.next_part().await? {
        stream.write_all(&part).await?;
    }
    stream.finish();
    Ok(())
}
