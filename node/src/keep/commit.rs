//! A new placement that was agreed on is put where it is found: into this node's
//! own vault, to all its holders, to those whom it replaces, and to the nodes
//! that keep records.
//!
//! In this order: a new holder's shard is unsealed until it has the record, and
//! readers need the record least of all, for the holders of the version before
//! are still there.

use std::{collections::BTreeSet, sync::Arc};

use echonet_protocol::{identity::NodeId, placement_record::PlacementRecord};
use futures::{StreamExt as _, stream};

use crate::{core::Core, serve};

/// Holders told at once.
const PARALLEL: usize = 16;

/// A record that was agreed on and did not get far enough; its holders agree on it again.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    /// This node's own vault did not take it.
    #[error("its own vault does not take the new placement: {0}")]
    Own(String),
    /// A new holder did not take it: its shard would not be kept.
    #[error("a new holder did not take the new placement")]
    NotSealed,
}

/// See the module's documentation.
pub(super) async fn commit(
    core: &Arc<Core>,
    before: &PlacementRecord,
    next: &PlacementRecord,
) -> Result<(), CommitError> {
    let bytes = next.encode();
    let kept = serve::holder::keep_record(core, next.clone(), bytes.clone()).await;
    kept.map_err(|refusal| CommitError::Own(refusal.to_string()))?;
    let holders = |record: &PlacementRecord| -> BTreeSet<NodeId> {
        record.body.holders.iter().map(|(_, node)| *node).collect()
    };
    let (old, new) = (holders(before), holders(next));
    let mut told: BTreeSet<NodeId> = old.union(&new).copied().collect();
    told.remove(&core.node_id());
    let seals = stream::iter(told).map(|node| {
        let bytes = bytes.clone();
        async move { (node, core.client.seal(&node, vec![bytes]).await) }
    });
    let answers: Vec<_> = seals.buffer_unordered(PARALLEL).collect().await;
    let mut all_new_sealed = true;
    for (node, answer) in answers {
        if new.contains(&node) && !old.contains(&node) && !matches!(answer, Ok(1)) {
            tracing::warn!("{node} did not seal the shard that it took: {answer:?}");
            all_new_sealed = false;
        }
    }
    core.outbox.put(next.body.segment, bytes).await;
    if all_new_sealed { Ok(()) } else { Err(CommitError::NotSealed) }
}
