//! Taking a content from a node that has a full copy: the origin.
//!
//! Its word on the length counts only once the last leaf verified against the
//! ContentID.

use std::{sync::Arc, time::Duration};

use echonet_protocol::{
    announcement::Announcement,
    content_id::ContentId,
    identity::{NodeId, Signed},
    message::SliceSpec,
    params,
};
use futures::{StreamExt, stream};

use super::{FetchError, stream::Delivery};
use crate::{
    client::{CallError, SliceWanted},
    core::Core,
    members::Reach,
};

/// Bytes asked for at once.
const PIECE_BYTES: u64 = 8 * 1024 * 1024;
/// Pieces under way at once: one arrives while the next is asked for.
const PIECES_AHEAD: usize = 2;
/// log2 of the leaves of a group: 256 KiB.
const GROUP_LOG: u8 = 8;
/// Longest search for a full copy.
const FIND_MS_MAX: u64 = 1_500;
/// Announcers asked for a full copy at most.
const ASKED_MAX: usize = 4;
/// A piece that takes longer is given up, and the holders are asked.
const PIECE_MS_MAX: u64 = 30_000;

/// A full copy that was proven to be of this length.
#[derive(Debug, Clone, Copy)]
pub struct FullCopy {
    /// Where.
    pub node: NodeId,
    /// Of what.
    pub content: ContentId,
    /// Bytes.
    pub total: u64,
}

/// A full copy at one of the announcers, if any of them is there.
pub async fn find(core: &Arc<Core>, announcements: &[Signed<Announcement>]) -> Option<FullCopy> {
    let may_be_there = |node: &NodeId| {
        *node != core.node_id()
            && core.members.get(node).is_some_and(|m| m.reach != Reach::Unreachable)
    };
    let askable = announcements.iter().map(|a| (a.body.publisher, a.body.content));
    let askable: Vec<_> = askable.filter(|(node, _)| may_be_there(node)).take(ASKED_MAX).collect();
    let proofs = stream::iter(askable).map(|(node, content)| async move {
        let proof = prove_length(core, node, content);
        tokio::time::timeout(Duration::from_millis(FIND_MS_MAX), proof).await.ok()?.ok()
    });
    let mut proofs = proofs.buffer_unordered(ASKED_MAX);
    while let Some(proof) = proofs.next().await {
        if proof.is_some() {
            return proof;
        }
    }
    None
}

async fn prove_length(
    core: &Arc<Core>,
    node: NodeId,
    content: ContentId,
) -> Result<FullCopy, CallError> {
    let total = core.client.content_length_claim(&node, content).await?;
    if total == 0 || total > params::CONTENT_BYTES_MAX {
        return Err(CallError::Senseless { node, reason: format!("a content of {total} bytes") });
    }
    let spec = SliceSpec { offset: total - 1, length: 1, group_log: 0 };
    let last_leaf = SliceWanted { root: *content.as_bytes(), total, spec };
    core.client.get_content(&node, content, last_leaf, &mut [0]).await?;
    Ok(FullCopy { node, content, total })
}

/// Streams the wanted bytes from a full copy.
///
/// # Errors
/// [`FetchError`]; what was delivered before is right, and the delivery knows
/// what is left.
pub async fn stream(
    core: &Arc<Core>,
    copy: &FullCopy,
    delivery: &mut Delivery<'_>,
) -> Result<(), FetchError> {
    let FullCopy { node, content, total } = *copy;
    let wanted = delivery.wanted.clone();
    let starts = (wanted.start..wanted.end).step_by(PIECE_BYTES as usize);
    let pieces = stream::iter(starts).map(|start| {
        let core = Arc::clone(core);
        let length = PIECE_BYTES.min(wanted.end - start);
        tokio::spawn(async move {
            let spec = SliceSpec { offset: start, length, group_log: GROUP_LOG };
            let slice = SliceWanted { root: *content.as_bytes(), total, spec };
            let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
            let call = core.client.get_content(&node, content, slice, &mut piece);
            let patience = Duration::from_millis(PIECE_MS_MAX);
            tokio::time::timeout(patience, call)
                .await
                .map_err(|_| "too slow".to_owned())?
                .map_err(|e| e.to_string())?;
            Ok::<_, String>((start, piece))
        })
    });
    let mut arriving = pieces.buffered(PIECES_AHEAD);
    while let Some(piece) = arriving.next().await {
        let piece = piece.map_err(|e| FetchError::Internal(e.to_string()))?;
        let (start, bytes) = piece.map_err(FetchError::NoManifest)?;
        delivery.deliver(start, &bytes).await?;
    }
    Ok(())
}
