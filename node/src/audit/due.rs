//! Which of the placements that this node keeps records of are due, for witnesses who ask.
//!
//! An epoch's list is made once, whoever asks first.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use echonet_protocol::{
    announcement::{RecordKey, RecordKind},
    audit::Answer,
    bytes::BeaconSignature,
    identity::NodeId,
    message::{Refusal, RefusalCode},
    params,
    placement_record::PlacementRecord,
    time::Epoch,
};
use echonet_witness::{
    beacon::Beacon,
    draw::{Draw, Rates},
};
use serde_bytes::ByteBuf;

use super::{beacon, locked};
use crate::{core::Core, keep, serve::refuse};

/// Encoded records by the key under which they are kept.
type List = BTreeMap<[u8; 32], Vec<Vec<u8>>>;

#[derive(Debug)]
struct Listed {
    epoch: Epoch,
    inventory: Vec<NodeId>,
    list: Arc<List>,
}

/// The list of the epoch that was asked about last.
#[derive(Debug, Default)]
pub(super) struct DueHere(Mutex<Option<Listed>>);

pub(super) async fn answer(
    core: &Arc<Core>,
    epoch: Epoch,
    signature: BeaconSignature,
    mut inventory: Vec<NodeId>,
    after: Option<RecordKey>,
) -> Result<Answer, Refusal> {
    if epoch.0.abs_diff(core.epoch().0) > 1 {
        return Err(refuse(RefusalCode::Invalid, "an epoch that is not now"));
    }
    if core.audit.beacon(epoch).is_none() {
        beacon::check(core, epoch, signature).await;
    }
    let known = core.audit.beacon(epoch).filter(|beacon| *beacon.signature() == signature);
    let Some(beacon) = known else {
        return Err(refuse(RefusalCode::Invalid, "not the beacon of that epoch"));
    };
    inventory.sort_unstable();
    let list = match core.audit.due.known(epoch, &inventory) {
        Some(list) => list,
        None => make(core, &beacon, inventory).await?,
    };
    Ok(page(&list, after))
}

impl DueHere {
    fn known(&self, epoch: Epoch, inventory: &[NodeId]) -> Option<Arc<List>> {
        let listed = locked(&self.0);
        let same = listed.as_ref().filter(|l| l.epoch == epoch && l.inventory == inventory);
        same.map(|listed| Arc::clone(&listed.list))
    }
}

async fn make(
    core: &Arc<Core>,
    beacon: &Beacon,
    inventory: Vec<NodeId>,
) -> Result<Arc<List>, Refusal> {
    let kept = core.records.all();
    let (rates, beacon, named) = (core.audit.rates, *beacon, inventory.clone());
    let own = keep::all_records(core).await;
    let made = tokio::task::spawn_blocking(move || {
        let kind = RecordKind::Placement.number();
        let of_others = kept.iter().filter(|record| record.kind == kind);
        let of_others = of_others
            .filter_map(|r| Some((PlacementRecord::decode_own(&r.bytes).ok()?, r.bytes.clone())));
        let of_own = own.into_iter().map(|record| {
            let bytes = record.encode();
            (record, bytes)
        });
        let mut list = List::new();
        for (record, bytes) in of_others.chain(of_own) {
            if is_due(&rates, &beacon, &named, &record) {
                let same_key = list.entry(record.body.segment.0).or_default();
                if !same_key.contains(&bytes) {
                    same_key.push(bytes);
                }
            }
        }
        list
    });
    let list = Arc::new(made.await.map_err(|e| refuse(RefusalCode::Internal, e))?);
    let listed = Listed { epoch: beacon.epoch(), inventory, list: Arc::clone(&list) };
    *locked(&core.audit.due.0) = Some(listed);
    Ok(list)
}

fn is_due(rates: &Rates, beacon: &Beacon, inventory: &[NodeId], record: &PlacementRecord) -> bool {
    let length = record.descriptor.shard_len() as u64;
    let is_named = |(_, holder): &(u8, NodeId)| inventory.binary_search(holder).is_ok();
    Draw::new(beacon, &record.body.segment).is_due(rates, length)
        || record.body.holders.iter().any(is_named)
}

/// The records after a key, as many as one answer takes; those of one key stay together.
fn page(list: &List, after: Option<RecordKey>) -> Answer {
    use std::ops::Bound;
    let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.0));
    let (mut placements, mut bytes, mut last) = (Vec::new(), 0, None);
    for (key, records) in list.range((from, Bound::Unbounded)) {
        let size: usize = records.iter().map(Vec::len).sum();
        let is_full = bytes + size > params::BATCH_BYTES_MAX
            || placements.len() + records.len() > params::LIST_ITEMS_MAX;
        if last.is_some() && is_full {
            return Answer::Due { placements, next: last };
        }
        (bytes, last) = (bytes + size, Some(RecordKey(*key)));
        placements.extend(records.iter().cloned().map(ByteBuf::from));
    }
    Answer::Due { placements, next: None }
}
