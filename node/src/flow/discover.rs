//! Finding and putting records: announcements by ContentID, placement records
//! by SegmentID.
//!
//! kad says who is close to a record's keys; records themselves travel in
//! batches over the node protocol. Nothing that is found is believed before it
//! verified.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use echonet_protocol::{
    announcement::{Announcement, RecordKind, record_keys},
    content_id::ContentId,
    identity::{NodeId, Signed},
    params,
    placement_record::PlacementRecord,
    segment::SegmentId,
};
use futures::{StreamExt, stream};

use crate::{
    clock,
    core::Core,
    net::{address::ObservedPrefix, routing::ContentRouting as _},
    serve,
};

/// Nodes asked for each of a record's keys: twice as many as keep it, because
/// some will be gone.
const ASKED_PER_KEY: usize = 2 * params::RECORD_REPLICAS;
/// Longest wait for the nodes close to a key.
const ROUTE_MS_MAX: u64 = 4_000;
/// Nodes asked at once.
const ASK_PARALLEL: usize = 32;
/// Longest wait for one node's records.
const ASK_MS_MAX: u64 = 3_000;
/// Valid placement records of one segment that are looked at.
const PLACEMENTS_MAX: usize = 16;
/// Valid announcements of one content that are looked at.
const ANNOUNCEMENTS_MAX: usize = 64;

/// The nodes closest to each of a record's keys, this one included where it
/// serves.
async fn responsible(
    core: &Core,
    kind: RecordKind,
    id: &[u8; 32],
    count: usize,
) -> BTreeSet<NodeId> {
    let keys = record_keys(&core.network, kind, id);
    let patience = Duration::from_millis(ROUTE_MS_MAX);
    let lookups = keys.iter().map(|key| core.routing.closest(key.0, count, patience));
    let found = futures::future::join_all(lookups).await;
    let mut nodes: BTreeSet<NodeId> = found
        .into_iter()
        .filter_map(|nodes| nodes.map_err(|e| tracing::debug!("a lookup failed: {e}")).ok())
        .flatten()
        .map(NodeId)
        .collect();
    if nodes.is_empty() {
        // No router yet, or it fails: whoever is known will do, and refuses nothing.
        nodes.extend(core.members.all().iter().take(3 * count).map(|m| m.descriptor.body.node));
    }
    nodes
}

/// Asks nodes for the records of some ids; raw bytes, unverified.
async fn ask(
    core: &Core,
    kind: RecordKind,
    asked: BTreeMap<NodeId, Vec<[u8; 32]>>,
) -> Vec<Vec<u8>> {
    let answers = stream::iter(asked).map(|(node, ids)| async move {
        let mut found = Vec::new();
        let mut rest = &ids[..];
        while !rest.is_empty() {
            let batch = rest[..rest.len().min(params::BATCH_ITEMS_MAX)].to_vec();
            let sent = batch.len();
            let call = core.client.get_records(&node, kind, batch);
            let answer = tokio::time::timeout(Duration::from_millis(ASK_MS_MAX), call).await;
            match answer {
                Ok(Ok((records, looked_at))) if (1..=sent).contains(&looked_at) => {
                    found.extend(records);
                    rest = &rest[looked_at..];
                }
                Ok(Ok(_)) => break,
                Ok(Err(e)) => {
                    tracing::debug!("no records: {e}");
                    break;
                }
                Err(_) => break,
            }
        }
        found
    });
    let own = answers.buffer_unordered(ASK_PARALLEL);
    own.collect::<Vec<_>>().await.into_iter().flatten().collect()
}

/// Every valid announcement of a content that can be found, newest of each
/// publisher.
pub async fn announcements(core: &Core, content: &ContentId) -> Vec<Signed<Announcement>> {
    let kind = RecordKind::Announcement;
    let id = content.as_bytes();
    let nodes = responsible(core, kind, id, ASKED_PER_KEY).await;
    let asked = nodes.into_iter().map(|node| (node, vec![*id])).collect();
    let mut raw = serve::records::local(core, kind, id);
    raw.extend(ask(core, kind, asked).await);
    let now = clock::now();
    let mut newest: BTreeMap<NodeId, Signed<Announcement>> = BTreeMap::new();
    for bytes in raw {
        let Ok(signed) = Signed::<Announcement>::decode(&bytes, &core.network) else { continue };
        let body = &signed.body;
        if body.content != *content || body.expires <= now {
            continue;
        }
        let is_newer =
            newest.get(&body.publisher).is_none_or(|old| old.body.sequence < body.sequence);
        if is_newer && (newest.len() < ANNOUNCEMENTS_MAX || newest.contains_key(&body.publisher)) {
            newest.insert(body.publisher, signed);
        }
    }
    newest.into_values().filter(|a| !a.body.withdrawn).collect()
}

/// Every valid placement record of some segments that can be found, earlier
/// versions first. A later version whose predecessors are not at hand proves
/// little, so it only adds holders to ask, and displaces none.
pub async fn placements(
    core: &Core,
    segments: &[SegmentId],
) -> BTreeMap<SegmentId, Vec<PlacementRecord>> {
    let kind = RecordKind::Placement;
    let mut asked: BTreeMap<NodeId, Vec<[u8; 32]>> = BTreeMap::new();
    let mut raw = Vec::new();
    let routes = stream::iter(segments.to_vec()).map(|segment| async move {
        (segment, responsible(core, kind, &segment.0, ASKED_PER_KEY).await)
    });
    for (segment, nodes) in routes.buffer_unordered(8).collect::<Vec<_>>().await {
        raw.extend(serve::records::local(core, kind, &segment.0));
        for node in nodes {
            asked.entry(node).or_default().push(segment.0);
        }
    }
    raw.extend(ask(core, kind, asked).await);
    valid_placements(core, segments, raw)
}

fn valid_placements(
    core: &Core,
    segments: &[SegmentId],
    mut raw: Vec<Vec<u8>>,
) -> BTreeMap<SegmentId, Vec<PlacementRecord>> {
    // Many nodes keep the same bytes: verify each once.
    raw.sort_unstable();
    raw.dedup();
    let mut found: BTreeMap<SegmentId, Vec<PlacementRecord>> = BTreeMap::new();
    for bytes in raw {
        let Ok(record) = PlacementRecord::decode(&bytes, &core.network) else { continue };
        let segment = record.body.segment_id();
        if segments.contains(&segment) {
            found.entry(segment).or_default().push(record);
        }
    }
    for records in found.values_mut() {
        records.sort_by_key(|record| record.body.version);
        records.truncate(PLACEMENTS_MAX);
    }
    found
}

/// The id under which an encoded record is found; none if it does not verify.
#[must_use]
pub fn record_id(core: &Core, kind: RecordKind, bytes: &[u8]) -> Option<[u8; 32]> {
    match kind {
        RecordKind::Announcement => {
            let signed = Signed::<Announcement>::decode(bytes, &core.network).ok()?;
            Some(*signed.body.content.as_bytes())
        }
        RecordKind::Placement => {
            Some(PlacementRecord::decode(bytes, &core.network).ok()?.body.segment_id().0)
        }
    }
}

/// Has records kept by the nodes responsible for them; returns for each how
/// many nodes keep it.
pub async fn put(core: &Arc<Core>, records: Vec<(RecordKind, [u8; 32], Vec<u8>)>) -> Vec<usize> {
    let mut kept = vec![0; records.len()];
    let mut per_node: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    let wanted: Vec<_> = records.iter().map(|(kind, id, _)| (*kind, *id)).enumerate().collect();
    let routes = stream::iter(wanted).map(|(i, (kind, id))| async move {
        (i, responsible(core, kind, &id, params::RECORD_REPLICAS).await)
    });
    for (i, nodes) in routes.buffer_unordered(8).collect::<Vec<_>>().await {
        let (kind, _, bytes) = &records[i];
        if core.serves() && serve::records::keep(core, own_prefix(), *kind, bytes.clone()).is_ok() {
            kept[i] += 1;
        }
        for node in nodes {
            per_node.entry(node).or_default().push(i);
        }
    }
    let records = &records;
    let puts = stream::iter(per_node).map(|(node, wanted)| async move {
        let mut done = Vec::new();
        for batch in batches(records, &wanted) {
            let bytes = batch.iter().map(|i| (records[*i].0, records[*i].2.clone())).collect();
            match core.client.put_records(&node, bytes).await {
                Ok(outcomes) => {
                    let ok = batch.iter().zip(outcomes).filter(|(_, why_not)| why_not.is_none());
                    done.extend(ok.map(|(i, _)| *i));
                }
                Err(e) => tracing::debug!("records not put: {e}"),
            }
        }
        done
    });
    for i in puts.buffer_unordered(ASK_PARALLEL).collect::<Vec<_>>().await.into_iter().flatten() {
        kept[i] += 1;
    }
    kept
}

/// Splits a node's records into messages within the bounds of one.
fn batches(records: &[(RecordKind, [u8; 32], Vec<u8>)], wanted: &[usize]) -> Vec<Vec<usize>> {
    let room = params::REQUEST_BYTES_MAX - 4096;
    let (mut batches, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for i in wanted {
        let len = records[*i].2.len() + 16;
        if !batch.is_empty() && (batch.len() == params::BATCH_ITEMS_MAX || bytes + len > room) {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        batch.push(*i);
        bytes += len;
    }
    batches.extend((!batch.is_empty()).then_some(batch));
    batches
}

/// The prefix under which a node keeps its own records.
const fn own_prefix() -> ObservedPrefix {
    [0xff; 16]
}
