//! Cases: what a witness found against a holder, given to the segment's other holders, who check
//! it themselves and repair.

use std::sync::Arc;

use echonet_protocol::{
    audit::{Answer, Ask},
    bytes::RecordHash,
    data::rows::Rows,
    identity::NodeId,
    message::{Refusal, RefusalCode},
    placement_record::PlacementRecord,
};
use echonet_witness::evidence::{Case, Fault};
use futures::{StreamExt as _, stream};

use crate::{core::Core, keep::Event, serve::refuse};

/// Holders told at once.
const PARALLEL: usize = 16;

/// Tells the holders that a case does not convict.
pub(super) async fn tell(core: &Arc<Core>, case: Case) {
    let Ok(record) = PlacementRecord::decode_own(&case.placement) else { return };
    let bytes = case.encode();
    let convicted: Vec<NodeId> = case
        .verdict
        .body
        .results
        .iter()
        .filter(|result| result.outcome.is_against())
        .map(|result| result.holder)
        .collect();
    let others = record.body.holders.iter().map(|(_, node)| *node);
    let others: Vec<NodeId> = others.filter(|node| !convicted.contains(node)).collect();
    let told = stream::iter(others).map(|node| {
        let (core, case) = (Arc::clone(core), bytes.clone().into());
        // Who is not reached is told by another holder's proposal.
        async move { drop(core.client.witness(&node, Ask::PutCase { case }).await) }
    });
    told.buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
}

/// Takes a case from anybody: what holds is shown by itself.
pub(super) async fn take(core: &Arc<Core>, bytes: Vec<u8>) -> Result<(), Refusal> {
    let network = core.network;
    let checked = tokio::task::spawn_blocking(move || Case::decode(&bytes, &network, &Rows)).await;
    let checked = checked.map_err(|e| refuse(RefusalCode::Internal, e))?;
    let checked = checked.map_err(|e| refuse(RefusalCode::Invalid, e))?;
    let body = &checked.verdict.body;
    if !core.audit.sets.at(body.challenge.epoch).contains(&body.witness) {
        return Err(refuse(RefusalCode::Invalid, "a case of a node that is no witness"));
    }
    for fault in checked.faults {
        match fault {
            Fault::Holder { holder, segment, index, .. } => {
                if core.keep.convict(segment, index, holder) {
                    tracing::info!(%holder, index, "by its own signature a shard of {segment} is lost");
                    core.keep.tell(Event::Convicted { holder, segment, index }).await;
                }
            }
            fault => tracing::warn!("a case against somebody else: {fault:?}"),
        }
    }
    Ok(())
}

/// Hands out a case that is kept here.
pub(super) async fn answer(core: &Arc<Core>, verdict: RecordHash) -> Result<Answer, Refusal> {
    let core = Arc::clone(core);
    let read = tokio::task::spawn_blocking(move || core.audit.ledger.case(&verdict)).await;
    let read = read.map_err(|e| refuse(RefusalCode::Internal, e))?;
    let case = read.map_err(|e| refuse(RefusalCode::Internal, e))?;
    Ok(Answer::Case(case.map(Into::into)))
}
