//! Ending this owner's leases at those who hold shards under them now: repair may have moved
//! shards since they were first placed.
//!
//! Who is to be told is written down before anybody is; who was away is told again later, until the
//! lease would have ended anyway. It ends nobody else's lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use echonet_protocol::{
    identity::{NodeId, Signed},
    lease::{Grant, Lease, LeaseEnd},
    params,
    segment::SegmentId,
};
use futures::{StreamExt, stream};

use super::{discover, fetch::segment::Located};
use crate::{
    clock,
    core::Core,
    owner::{
        CatalogError,
        rows::{EndingRow, SegmentRow},
    },
};

/// Holders told at once.
const PARALLEL: usize = 16;
/// Longest that taking leases on a work takes, seconds.
const TAKING_S_MAX: u64 = 3600;

/// How many nodes were told that leases are over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// They said that they know.
    pub told: usize,
    /// They did not answer. They are told later; else their copies stay as long as the grant.
    pub unreached: usize,
}

fn ending(core: &Core, lease: &Signed<Lease>, grant: Option<&Signed<Grant>>) -> EndingRow {
    let body = LeaseEnd {
        v: params::FORMAT_VERSION,
        network: core.network,
        lease: lease.hash(),
        segment: lease.body.segment,
        owner: core.node_id(),
    };
    let ends = lease.body.ends_at_latest(grant);
    EndingRow { end: Signed::new(&core.identity, body), ends, from_unix_s: 0 }
}

/// The leases of these rows, at those who gave receipts under them.
fn of_rows(core: &Core, rows: &[SegmentRow]) -> Vec<(NodeId, EndingRow)> {
    let endings = rows.iter().flat_map(|row| {
        let ending = ending(core, &row.lease, row.grant.as_ref());
        row.receipts.iter().map(move |r| (r.body.holder, ending.clone()))
    });
    endings.collect()
}

/// Ends the leases on these segments at their holders, those of the first receipts and those that
/// placement records in the network name.
///
/// # Errors
/// The catalog's; nobody was told then.
pub async fn end(core: &Arc<Core>, segments: &[SegmentId]) -> Result<Told, CatalogError> {
    let mut rows = Vec::new();
    for batch in segments.chunks(params::BATCH_ITEMS_MAX) {
        let placed = discover::placements(core, batch, discover::Patience::Long).await;
        for segment in batch {
            let Some(row) = core.catalog.segment(segment)? else { continue };
            let ending = ending(core, &row.lease, row.grant.as_ref());
            let mut holders: BTreeSet<NodeId> =
                row.receipts.iter().map(|r| r.body.holder).collect();
            let records = placed.get(segment).map(Vec::as_slice).unwrap_or_default();
            let own: Vec<_> =
                records.iter().filter(|r| r.body.owner == core.node_id()).cloned().collect();
            let located = Located::from_records(*segment, &own);
            holders.extend(located.iter().flat_map(|l| l.holders.values().flatten()));
            rows.extend(holders.into_iter().map(|node| (node, ending.clone())));
        }
    }
    core.catalog.put_endings(&rows)?;
    tell(core, rows).await
}

/// Notes that leases were replaced by others on the same segments: they end when holders are told
/// next.
///
/// # Errors
/// The catalog's.
pub fn replaced(core: &Core, rows: &[SegmentRow]) -> Result<(), CatalogError> {
    core.catalog.put_endings(&of_rows(core, rows))
}

/// Notes leases that are being taken, so that they are ended if this process does not get to
/// remember what they are for.
///
/// # Errors
/// The catalog's.
pub fn intend(core: &Core, rows: &[SegmentRow]) -> Result<Intent, CatalogError> {
    let mut endings = of_rows(core, rows);
    let from_unix_s = clock::now().0 + TAKING_S_MAX;
    endings.iter_mut().for_each(|(_, row)| row.from_unix_s = from_unix_s);
    core.catalog.put_endings(&endings)?;
    Ok(Intent(endings))
}

/// Leases that are being taken.
#[derive(Debug)]
#[must_use]
pub struct Intent(Vec<(NodeId, EndingRow)>);

impl Intent {
    /// They are wanted, and remembered.
    ///
    /// # Errors
    /// The catalog's.
    pub fn done(self, core: &Core) -> Result<(), CatalogError> {
        core.catalog.drop_endings(&self.0)
    }

    /// They are not wanted.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn give_up(mut self, core: &Arc<Core>) -> Result<(), CatalogError> {
        self.0.iter_mut().for_each(|(_, row)| row.from_unix_s = 0);
        core.catalog.put_endings(&self.0)?;
        tell(core, self.0).await.map(drop)
    }
}

/// Tells again who could not be told; forgets what has ended by itself.
///
/// # Errors
/// The catalog's.
pub async fn retry(core: &Arc<Core>) -> Result<Told, CatalogError> {
    let epoch = core.epoch();
    let (mut open, over): (Vec<_>, Vec<_>) =
        core.catalog.endings()?.into_iter().partition(|(_, row)| row.ends > epoch);
    core.catalog.drop_endings(&over)?;
    let now = clock::now().0;
    open.retain(|(_, row)| row.from_unix_s <= now);
    tell(core, open).await
}

async fn tell(core: &Arc<Core>, rows: Vec<(NodeId, EndingRow)>) -> Result<Told, CatalogError> {
    let mut per_node: BTreeMap<NodeId, Vec<EndingRow>> = BTreeMap::new();
    for (node, row) in rows {
        per_node.entry(node).or_default().push(row);
    }
    let told = stream::iter(per_node).map(|(node, rows)| async move {
        let mut known = Vec::new();
        for batch in rows.chunks(params::BATCH_ITEMS_MAX) {
            let ends = batch.iter().map(|row| row.end.clone()).collect();
            match core.client.end_leases(&node, ends).await {
                // Those that it had not were over there already.
                Ok(_) => known.extend(batch.iter().map(|row| (node, row.clone()))),
                Err(e) => {
                    tracing::warn!("a holder was not told that leases are over: {e}");
                    break;
                }
            }
        }
        (known.len() == rows.len(), known)
    });
    let answers: Vec<_> = told.buffer_unordered(PARALLEL).collect().await;
    let mut count = Told::default();
    for (is_told, known) in answers {
        core.catalog.drop_endings(&known)?;
        count.told += usize::from(is_told);
        count.unreached += usize::from(!is_told);
    }
    Ok(count)
}
