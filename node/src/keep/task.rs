//! One task of the keeper from beginning to end: the holders are asked whether
//! it may be done, it is done, they agree on what came of it, and that is put
//! where it is found.

use std::sync::Arc;

use echonet_archive::keeper::{Key as PlacementName, Outcome, Task};
use echonet_protocol::{
    identity::{NodeId, Signed},
    lease::Receipt,
    placement::Site,
    placement_record::PlacementRecord,
};

use super::{
    agree::{self, AgreeError},
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
        Err(TaskError::Agree(AgreeError::Overtaken | AgreeError::Busy)) => Outcome::Yielded,
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
    // First whether the others would go along: a minority that is cut off moves nothing.
    let claim = match agree::claim(core, record).await {
        Ok(claim) => claim,
        Err(e) => return (Placed::default(), Err(e.into())),
    };
    // Somebody began and did not finish: what he brought about is finished first.
    if let Some(next) = claim.unfinished() {
        let outcome = agree_and_commit(core, record, claim, next).await;
        return (Placed::default(), outcome.and(Err(AgreeError::Overtaken.into())));
    }
    let placed = match task {
        Task::Repair { lost, .. } => repair(core, record, lost).await,
        Task::HandOver { index, to } => hand_over(core, record, *index, *to).await,
    };
    let placed = match placed {
        Ok(placed) => placed,
        Err(e) => return (Placed::default(), Err(e.into())),
    };
    let receipts = merged(record, &placed.receipts);
    let outcome = agree_and_commit(core, record, claim, receipts).await;
    (placed, outcome)
}

/// The record's receipts with new ones in the place of those of the same index.
fn merged(record: &PlacementRecord, new: &[Signed<Receipt>]) -> Vec<Signed<Receipt>> {
    let is_replaced = |index: u8| new.iter().any(|receipt| receipt.body.index == index);
    let kept = record.receipts.iter().filter(|receipt| !is_replaced(receipt.body.index));
    let mut receipts: Vec<_> = kept.chain(new).cloned().collect();
    receipts.sort_by_key(|receipt| receipt.body.index);
    receipts
}

async fn agree_and_commit(
    core: &Arc<Core>,
    record: &PlacementRecord,
    claim: agree::Claim,
    receipts: Vec<Signed<Receipt>>,
) -> Result<(), TaskError> {
    let next = claim.propose(core, record, receipts).await?;
    commit::commit(core, record, &next).await?;
    Ok(())
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
