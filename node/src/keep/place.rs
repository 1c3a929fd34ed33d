//! Finding somebody to hold a shard, and having it stored there.
//!
//! It never counts a shard as stored without a verified receipt for exactly this
//! lease, holder and index.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use echonet_protocol::{
    identity::{NodeId, Signed},
    lease::{Receipt, ReceiptWanted},
    placement::{PlacementPlan, PlacementRequest, place},
    placement_record::PlacementRecord,
};
use futures::{StreamExt, stream};

use super::rebuild::pass;
use crate::{
    client::{CallError, LeaseClaim},
    clock,
    core::Core,
    flow::publish::store::snapshot,
    net::bandwidth::Way,
};

/// Nodes that are asked to take one shard, at most.
const TARGETS_MAX: usize = 5;
/// Nodes asked at once whether they still have a shard.
const ASKED_AT_ONCE: usize = 16;
/// Former holders that are asked, at most.
const FORMER_MAX: usize = 64;

/// A segment that shards are placed for: its record, and who stays.
#[derive(Debug)]
pub(super) struct Placing<'a> {
    core: &'a Arc<Core>,
    record: &'a PlacementRecord,
    /// Holders that stay, by index.
    staying: BTreeMap<u8, NodeId>,
    /// Nodes that must not be chosen.
    exclude: BTreeSet<NodeId>,
}

impl<'a> Placing<'a> {
    /// All holders stay but those of the indices `moving`, none of whom is chosen again.
    pub(super) fn new(core: &'a Arc<Core>, record: &'a PlacementRecord, moving: &[u8]) -> Self {
        let (gone, staying): (Vec<_>, Vec<_>) =
            record.body.holders.iter().partition(|(index, _)| moving.contains(index));
        let mut exclude: BTreeSet<NodeId> = gone.into_iter().map(|(_, node)| node).collect();
        exclude.insert(core.node_id());
        exclude.insert(record.body.owner);
        Self { core, record, staying: staying.into_iter().collect(), exclude }
    }

    /// Former holders that still have one of these shards, by index: nothing has to be moved to
    /// them.
    pub(super) async fn spares(&self, indices: &[u8]) -> BTreeMap<u8, NodeId> {
        let segment = self.record.body.segment;
        let current: BTreeSet<NodeId> = self.staying.values().copied().collect();
        let mut former: BTreeSet<(u8, NodeId)> = BTreeSet::new();
        for step in self.record.lineage.iter().rev() {
            former.extend(step.holders.iter().filter(|(index, node)| {
                indices.contains(index)
                    && !current.contains(node)
                    && !self.exclude.contains(node)
                    && self.core.members.get(node).is_some_and(|m| m.may_answer())
            }));
        }
        let asked = former.into_iter().take(FORMER_MAX).map(|(index, node)| async move {
            let has = self.core.client.has_shards(&node, vec![(segment, index)]).await;
            (index, node, has.is_ok_and(|has| has == [true]))
        });
        let answers: Vec<_> =
            stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect::<Vec<_>>().await;
        let mut taken = BTreeSet::new();
        let mut spares = BTreeMap::new();
        for (index, node, has) in answers {
            if has && !spares.contains_key(&index) && taken.insert(node) {
                spares.insert(index, node);
            }
        }
        spares
    }

    /// A plan that keeps the rules as well as the network allows.
    pub(super) fn plan(&self, prefer: &BTreeMap<u8, NodeId>) -> PlacementPlan {
        let request = PlacementRequest {
            network: self.core.network,
            segment: self.record.body.segment,
            scheme: self.record.descriptor.scheme,
            development: self.core.genesis.development,
            already: self.staying.clone(),
            prefer: prefer.iter().map(|(index, node)| (*node, *index)).collect(),
            exclude: self.exclude.clone(),
        };
        place(&request, &snapshot(self.core))
    }

    fn claim(&self) -> LeaseClaim {
        LeaseClaim { lease: self.record.lease.clone(), grant: self.record.grant.clone() }
    }

    fn checked(
        &self,
        index: u8,
        node: NodeId,
        answer: Result<Signed<Receipt>, CallError>,
    ) -> Result<Signed<Receipt>, String> {
        let receipt = answer.map_err(|e| {
            if matches!(e, CallError::Unreachable { .. }) {
                self.core.members.failed(&node, clock::now());
            }
            e.to_string()
        })?;
        let descriptor = &self.record.descriptor;
        let shard = descriptor.shards.get(usize::from(index)).ok_or("no such shard")?;
        let wanted = ReceiptWanted {
            lease: &self.record.lease,
            index,
            shard: *shard,
            // Bounded by the descriptor's check.
            length: descriptor.shard_len() as u32,
            holder: node,
            placement_version: self.record.body.version + 1,
        };
        wanted.check(&receipt)?;
        Ok(receipt)
    }

    /// A receipt of a node that has the shard already.
    pub(super) async fn adopt(&self, index: u8, node: NodeId) -> Result<Signed<Receipt>, String> {
        let (claim, version) = (self.claim(), self.record.body.version + 1);
        let answer = self.core.client.add_lease(&node, &claim, index, version).await;
        self.checked(index, node, answer)
    }

    /// Has one node store a shard.
    pub(super) async fn store_at(
        &self,
        index: u8,
        node: NodeId,
        shard: Bytes,
    ) -> Result<Signed<Receipt>, String> {
        pass(self.core, Way::Up, shard.len()).await.map_err(|e| e.to_string())?;
        let (claim, version) = (self.claim(), self.record.body.version + 1);
        let descriptor = &self.record.descriptor;
        let client = &self.core.client;
        let answer = client.store_shard(&node, &claim, descriptor, index, version, shard).await;
        self.checked(index, node, answer)
    }

    /// Has shards stored where the plan says; for one that a node does not take, somebody else
    /// is asked.
    pub(super) async fn store_all(
        &self,
        plan: &PlacementPlan,
        shards: BTreeMap<u8, Bytes>,
    ) -> (Vec<Signed<Receipt>>, Vec<String>) {
        let mut holders: BTreeMap<u8, NodeId> = plan.holders().clone();
        let mut tried: BTreeSet<NodeId> = BTreeSet::new();
        let (mut receipts, mut reasons) = (Vec::new(), Vec::new());
        for (index, shard) in shards {
            for _ in 0..TARGETS_MAX {
                let Some(node) = holders.get(&index).copied() else {
                    reasons.push(format!("no node is left that may hold shard {index}"));
                    break;
                };
                match self.store_at(index, node, shard.clone()).await {
                    Ok(receipt) => {
                        receipts.push(receipt);
                        break;
                    }
                    Err(reason) => reasons.push(reason),
                }
                tried.insert(node);
                holders.remove(&index);
                let others = holders.values().copied();
                if let Some(next) = plan.replacement(others, &tried) {
                    holders.insert(index, next);
                }
            }
        }
        (receipts, reasons)
    }
}
