//! What the keeper decided about one segment, carried out: lost shards are made
//! again and stored, or this node's own shard is copied to another.
//!
//! It changes no record: what comes back are receipts, which the keeper has the
//! holders agree on. A shard that was stored and never agreed on is unsealed at
//! its new holder and ends by itself.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use echonet_protocol::{
    identity::{NodeId, Signed},
    lease::Receipt,
    placement_record::PlacementRecord,
};
use echonet_vault::Key;

use super::{
    place::Placing,
    rebuild::{RebuildError, rebuild},
};
use crate::{core::Core, flow::fetch::segment::Located};

/// Receipts for shards at new holders, and what it took.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// One for each shard that was stored.
    pub(super) receipts: Vec<Signed<Receipt>>,
    /// Bytes that came over the network.
    pub(super) read_bytes: u64,
    /// Bytes of shards that were sent and receipted.
    pub(super) written_bytes: u64,
}

/// Why nothing was placed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    /// See there.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// This node does not have what it should hand over.
    #[error("shard {index} cannot be handed over: {reason}")]
    Own {
        /// Which.
        index: u8,
        /// What happened.
        reason: String,
    },
    /// Nobody took a shard.
    #[error("nobody took a shard: {0}")]
    NotStored(String),
}

/// Makes lost shards again and has them stored; those that a former holder still has are
/// adopted.
pub(super) async fn repair(
    core: &Arc<Core>,
    record: &PlacementRecord,
    lost: &[u8],
) -> Result<Placed, PlaceError> {
    let placing = Placing::new(core, record, lost);
    let spares = placing.spares(lost).await;
    let mut placed = Placed::default();
    let mut reasons = Vec::new();
    for (index, node) in &spares {
        match placing.adopt(*index, *node).await {
            Ok(receipt) => placed.receipts.push(receipt),
            Err(reason) => reasons.push(reason),
        }
    }
    let adopted: Vec<u8> = placed.receipts.iter().map(|r| r.body.index).collect();
    let missing: Vec<u8> = lost.iter().copied().filter(|i| !adopted.contains(i)).collect();
    if !missing.is_empty() {
        let located = staying(record, lost);
        let rebuilt = rebuild(core, &located, &missing).await?;
        placed.read_bytes += rebuilt.read_bytes;
        let taken = spares.into_iter().filter(|(index, _)| adopted.contains(index)).collect();
        let plan = placing.plan(&taken);
        let (receipts, why_not) = placing.store_all(&plan, rebuilt.shards).await;
        placed.written_bytes += receipts.iter().map(|r| u64::from(r.body.length)).sum::<u64>();
        placed.receipts.extend(receipts);
        reasons.extend(why_not);
    }
    finished(placed, &reasons)
}

fn finished(mut placed: Placed, reasons: &[String]) -> Result<Placed, PlaceError> {
    if placed.receipts.is_empty() {
        return Err(PlaceError::NotStored(reasons.join("; ")));
    }
    for reason in reasons {
        tracing::debug!("on the way to a new holder: {reason}");
    }
    placed.receipts.sort_by_key(|receipt| receipt.body.index);
    Ok(placed)
}

/// The segment with the holders that stay: nobody is asked for what is lost.
fn staying(record: &PlacementRecord, lost: &[u8]) -> Located {
    let holders = record.body.holders.iter().filter(|(index, _)| !lost.contains(index));
    Located {
        segment: record.body.segment,
        descriptor: record.descriptor.clone(),
        holders: holders.map(|(index, node)| (*index, vec![*node])).collect(),
        records: Vec::new(),
    }
}

/// Copies this node's own shard to another node: `to`, or one that the rules of placement choose.
pub(super) async fn hand_over(
    core: &Arc<Core>,
    record: &PlacementRecord,
    index: u8,
    to: Option<NodeId>,
) -> Result<Placed, PlaceError> {
    let placing = Placing::new(core, record, &[index]);
    if to.is_none()
        && let Some(node) = placing.spares(&[index]).await.get(&index)
        && let Ok(receipt) = placing.adopt(index, *node).await
    {
        return Ok(Placed { receipts: vec![receipt], ..Placed::default() });
    }
    let shard = own_shard(core, record, index).await?;
    let written_bytes = shard.len() as u64;
    let (receipts, reasons) = match to {
        Some(node) => match placing.store_at(index, node, shard).await {
            Ok(receipt) => (vec![receipt], Vec::new()),
            Err(reason) => (Vec::new(), vec![reason]),
        },
        None => {
            let plan = placing.plan(&BTreeMap::new());
            placing.store_all(&plan, BTreeMap::from([(index, shard)])).await
        }
    };
    finished(Placed { receipts, read_bytes: 0, written_bytes }, &reasons)
}

/// A shard of this node's own, verified.
async fn own_shard(
    core: &Arc<Core>,
    record: &PlacementRecord,
    index: u8,
) -> Result<Bytes, PlaceError> {
    let failed =
        |reason: &dyn std::fmt::Display| PlaceError::Own { index, reason: reason.to_string() };
    let Some(vault) = core.vault.clone() else { return Err(failed(&"this node holds no shards")) };
    let key = Key { segment: record.body.segment.0, index };
    let read = tokio::task::spawn_blocking(move || vault.read_verified(key)).await;
    read.map_err(|e| failed(&e))?.map_err(|e| failed(&e))
}
