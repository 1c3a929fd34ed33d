//! Gathers the placements that are due in an epoch from all nodes that keep records. Each record
//! lies on several, so who leaves one out hides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use echonet_protocol::{
    audit::{Answer, Ask},
    bytes::RecordHash,
    identity::NodeId,
    node_descriptor::Roles,
    placement_record::PlacementRecord,
    segment::SegmentId,
};
use echonet_witness::{auditor::DuePlacement, beacon::Beacon};
use futures::{StreamExt as _, stream};

use crate::core::Core;

/// Nodes asked at once.
const PARALLEL: usize = 32;
/// Pages taken of one node: 64 MiB of records.
const PAGES_MAX: usize = 64;
/// Roles whose nodes keep records.
const KEEPERS: [Roles; 3] = [Roles::STORAGE, Roles::ARCHIVE, Roles::WITNESS];

/// What is due, verified.
pub(super) struct Gathered {
    pub(super) beacon: Beacon,
    pub(super) due: Vec<DuePlacement>,
    pub(super) placements: BTreeMap<RecordHash, Arc<[u8]>>,
    pub(super) inventories: Vec<NodeId>,
}

pub(super) async fn gather(core: &Arc<Core>, beacon: Beacon, inventories: Vec<NodeId>) -> Gathered {
    let keeps = |roles: &Roles| KEEPERS.iter().any(|role| roles.has(*role));
    let members = core.members.all().into_iter().filter(|m| m.may_answer());
    let keepers = members.filter(|m| keeps(&m.descriptor.body.roles));
    let keepers: Vec<NodeId> = keepers.map(|m| m.descriptor.body.node).collect();
    let lists = stream::iter(keepers).map(|node| {
        let (core, inventories) = (Arc::clone(core), inventories.clone());
        async move { list(&core, node, &beacon, inventories).await }
    });
    let lists: Vec<Vec<Vec<u8>>> = lists.buffer_unordered(PARALLEL).collect().await;
    let encoded: BTreeSet<Vec<u8>> = lists.into_iter().flatten().collect();
    let (network, rates) = (core.network, core.audit.rates);
    let verified = tokio::task::spawn_blocking(move || {
        let records = encoded.into_iter().filter_map(|bytes| {
            let record = PlacementRecord::decode(&bytes, &network).ok()?;
            Some((record, Arc::<[u8]>::from(bytes)))
        });
        newest(records)
    });
    let newest = verified.await.unwrap_or_default();
    let (mut due, mut placements) = (Vec::new(), BTreeMap::new());
    for (record, bytes) in newest.into_values() {
        let plain = DuePlacement::new(&record, None);
        let draw = echonet_witness::draw::Draw::new(&beacon, &plain.segment);
        let is_due = draw.is_due(&rates, plain.shard_len());
        let named = |node: &NodeId| record.body.index_of(node).is_some();
        let of_inventory = inventories.iter().copied().filter(named);
        due.extend(of_inventory.map(|node| DuePlacement::new(&record, Some(node))));
        placements.insert(plain.placement, bytes);
        due.extend(is_due.then_some(plain));
    }
    Gathered { beacon, due, placements, inventories }
}

type Newest = BTreeMap<(SegmentId, NodeId), (PlacementRecord, Arc<[u8]>)>;

/// Of each owner's placement of a segment the record that wins.
fn newest(records: impl Iterator<Item = (PlacementRecord, Arc<[u8]>)>) -> Newest {
    let mut newest = Newest::new();
    for (record, bytes) in records {
        let name = (record.body.segment, record.body.owner);
        let rank = |r: &PlacementRecord| (r.sequence(), std::cmp::Reverse(r.hash()));
        if newest.get(&name).is_none_or(|(known, _)| rank(&record) > rank(known)) {
            newest.insert(name, (record, bytes));
        }
    }
    newest
}

/// Everything that one node lists.
async fn list(core: &Core, node: NodeId, beacon: &Beacon, inventory: Vec<NodeId>) -> Vec<Vec<u8>> {
    let (mut listed, mut after) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let (epoch, signature) = (beacon.epoch(), *beacon.signature());
        let inventory = inventory.clone();
        let ask = Ask::Due { epoch, beacon: signature, inventory, after };
        match core.client.witness(&node, ask).await {
            Ok(Answer::Due { placements, next }) => {
                listed.extend(placements.into_iter().map(serde_bytes::ByteBuf::into_vec));
                after = next;
            }
            Ok(_) => break,
            Err(e) => {
                tracing::debug!("what is due was not listed: {e}");
                break;
            }
        }
        if after.is_none() {
            break;
        }
    }
    listed
}
