//! One task of the keeper from beginning to end: the holders are asked whether
//! it may be done, it is done, they agree on what came of it, and that is put
//! where it is found.

use std::sync::Arc;

use echonet_archive::keeper::{Key as PlacementName, Outcome, Task};
use echonet_protocol::{
    agreement::ProposeFailure,
    identity::{NodeId, Signed},
    lease::Receipt,
    placement::Site,
    placement_record::PlacementRecord,
};

use super::{
    agree::{AgreeError, Proposal},
    commit, own_record,
    rebuild::RebuildError,
    repair::{PlaceError, Placed, hand_over, repair},
};
use crate::core::Core;

/// Where a node is, as far as it is known.
pub(super) fn site_of(core: &Core, node: &NodeId) -> Option<Site> {
    let member = core.members.get(node)?;
    let observed_prefix = member.prefix();
    Some(Site { labels: member.descriptor.body.labels, observed_prefix })
}

/// Carries a task out; how it ended, and the bytes that were moved for it.
pub(super) async fn carry_out(
    core: &Arc<Core>,
    key: PlacementName,
    version: u64,
    task: Task,
) -> (Outcome, u64) {
    let Some(record) = own_record(core, key).await else { return (Outcome::Failed, 0) };
    if record.body.version != version {
        return (Outcome::Yielded, 0);
    }
    let (placed, outcome) = attempt(core, &record, &task).await;
    let moved = placed.read_bytes + placed.written_bytes;
    if let Err(e) = &outcome {
        tracing::debug!("{task:?} of segment {} version {version}: {e}", key.segment);
    }
    let outcome = match outcome {
        Ok(()) => {
            count(core, &task, &placed);
            Outcome::Committed
        }
        Err(TaskError::Agree(AgreeError::Overtaken | AgreeError::Failed(ProposeFailure::Busy))) => {
            Outcome::Yielded
        }
        Err(TaskError::Place(PlaceError::Rebuild(RebuildError::Inconsistent { .. }))) => {
            Outcome::Inconsistent
        }
        Err(_) => {
            core.keep.count(|status| status.failed += 1);
            Outcome::Failed
        }
    };
    (outcome, moved)
}

#[derive(Debug, thiserror::Error)]
enum TaskError {
    #[error(transparent)]
    Agree(#[from] AgreeError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Commit(#[from] commit::CommitError),
}

async fn attempt(
    core: &Arc<Core>,
    record: &PlacementRecord,
    task: &Task,
) -> (Placed, Result<(), TaskError>) {
    let indices = match task {
        Task::Repair { lost, .. } => lost.clone(),
        Task::HandOver { index, .. } => vec![*index],
    };
    let mut placed = Placed::default();
    let outcome = changed(core, record, task, &indices, &mut placed).await;
    (placed, outcome)
}

async fn changed(
    core: &Arc<Core>,
    record: &PlacementRecord,
    task: &Task,
    indices: &[u8],
    placed: &mut Placed,
) -> Result<(), TaskError> {
    let mut proposal = Proposal::begin(core, record, indices)?;
    // First whether the others would go along: a minority that is cut off moves nothing.
    if let Some(finished) = proposal.claimed().await? {
        // Somebody began and did not finish: that is finished first.
        commit::commit(core, record, &finished).await?;
        return Err(AgreeError::Overtaken.into());
    }
    let work = async {
        match task {
            Task::Repair { lost, .. } => repair(core, record, lost).await,
            Task::HandOver { index, to } => hand_over(core, record, *index, *to).await,
        }
    };
    *placed = proposal.meanwhile(work).await?;
    let receipts = merged(proposal.record(), &placed.receipts);
    let (next, is_ours) = proposal.propose(receipts).await?;
    commit::commit(core, record, &next).await?;
    if is_ours { Ok(()) } else { Err(AgreeError::Overtaken.into()) }
}

/// The record's receipts with new ones in the place of those of the same index.
fn merged(record: &PlacementRecord, new: &[Signed<Receipt>]) -> Vec<Signed<Receipt>> {
    let is_replaced = |index: u8| new.iter().any(|receipt| receipt.body.index == index);
    let kept = record.receipts.iter().filter(|receipt| !is_replaced(receipt.body.index));
    let mut receipts: Vec<_> = kept.chain(new).cloned().collect();
    receipts.sort_by_key(|receipt| receipt.body.index);
    receipts
}

fn count(core: &Core, task: &Task, placed: &Placed) {
    core.keep.count(|status| {
        status.committed += 1;
        status.read_bytes += placed.read_bytes;
        let shards = placed.receipts.len() as u64;
        match task {
            Task::Repair { .. } => {
                status.repaired_shards += shards;
                status.written_bytes += placed.written_bytes;
            }
            Task::HandOver { .. } => {
                status.handed_over_shards += shards;
                status.handed_over_bytes += placed.written_bytes;
            }
        }
    });
}
