//! Finding and putting records: announcements by ContentID, placement records
//! by SegmentID.
//!
//! kad says who is close to a record's keys; records themselves travel in
//! batches over the node protocol. Nothing that is found is believed before it
//! verified.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use echonet_protocol::{
    announcement::{Announcement, RecordKind, record_keys},
    content_id::ContentId,
    identity::{NodeId, Signed},
    node_descriptor::Roles,
    params,
    placement_record::PlacementRecord,
    segment::SegmentId,
};
use futures::{StreamExt, stream};

use crate::{
    client::CallError,
    clock,
    core::Core,
    flow::votes::Votes,
    members::Reach,
    net::{address::ObservedPrefix, routing::ContentRouting as _},
    serve,
};

/// Nodes asked for each of a record's keys: twice as many as keep it, because
/// some will be gone.
const ASKED_PER_KEY: usize = 2 * params::RECORD_REPLICAS;
/// Longest wait for the nodes close to a key.
const ROUTE_MS_MAX: u64 = 3_000;
/// Nodes asked at once.
const ASK_PARALLEL: usize = 32;
/// Longest wait for one node's records.
const ASK_MS_MAX: u64 = 2_500;
/// Once every id has a record, at most so long for records of others.
const GRACE_MS_MAX: u64 = 200;
/// The same where nodes gave different records for one id, which may be somebody's flood: what most
/// nodes gave has to be heard from most.
const GRACE_MS_CONTESTED: u64 = 1_000;
/// Valid placement records of one segment that are looked at.
const PLACEMENTS_MAX: usize = 16;
/// Valid announcements of one content that are looked at.
const ANNOUNCEMENTS_MAX: usize = 64;

type Id = [u8; 32];
/// Which nodes are asked for which ids.
type Asked = BTreeMap<NodeId, Vec<Id>>;

/// The known nodes closest to each of a record's keys, without asking anybody.
/// In a network whose members are all known these are the closest there are.
fn known(core: &Core, kind: RecordKind, id: &Id, count: usize) -> BTreeSet<NodeId> {
    let members = core.members.all();
    let able = members
        .iter()
        .filter(|m| m.reach != Reach::Unreachable && m.descriptor.body.roles.has(Roles::STORAGE));
    let able: Vec<NodeId> = able.map(|m| m.descriptor.body.node).collect();
    let mut chosen = BTreeSet::new();
    for key in record_keys(&core.network, kind, id) {
        let distance = |node: &NodeId| Some((core.routing.distance(&key.0, &node.0).ok()?, *node));
        let mut ranked: Vec<_> = able.iter().filter_map(distance).collect();
        ranked.sort_unstable();
        chosen.extend(ranked.into_iter().take(count).map(|(_, node)| node));
    }
    chosen
}

/// The nodes closest to each of a record's keys, as the router finds them.
async fn routed(core: &Core, kind: RecordKind, id: &Id, count: usize) -> BTreeSet<NodeId> {
    let keys = record_keys(&core.network, kind, id);
    let patience = Duration::from_millis(ROUTE_MS_MAX);
    let lookups = keys.iter().map(|key| core.routing.closest(key.0, count, patience));
    let found = futures::future::join_all(lookups).await;
    let failed = |e| tracing::debug!("a lookup failed: {e}");
    let nodes = found.into_iter().filter_map(|nodes| nodes.map_err(failed).ok());
    nodes.flatten().map(NodeId).collect()
}

/// Asks one node for the records of some ids; raw bytes, unverified.
async fn ask_node(core: &Core, kind: RecordKind, node: NodeId, ids: Vec<Id>) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = &ids[..];
    while !rest.is_empty() {
        let batch = rest[..rest.len().min(params::BATCH_ITEMS_MAX)].to_vec();
        let sent = batch.len();
        let call = core.client.get_records(&node, kind, batch);
        match tokio::time::timeout(Duration::from_millis(ASK_MS_MAX), call).await {
            Ok(Ok((records, looked_at))) if (1..=sent).contains(&looked_at) => {
                found.extend(records);
                rest = &rest[looked_at..];
            }
            Ok(Err(CallError::Unreachable { .. })) => {
                core.members.failed(&node, clock::now());
                break;
            }
            _ => break,
        }
    }
    found
}

/// Collects answers until every wanted id has a valid record and a short grace
/// has passed, or everybody has answered.
async fn ask(core: &Core, kind: RecordKind, asked: Asked, search: &mut Search) {
    let mut waiting: BTreeSet<NodeId> = asked.keys().copied().collect();
    let mut asked: Vec<(NodeId, Vec<Id>)> = asked.into_iter().collect();
    asked.sort_by_key(|(node, _)| core.client.is_silent(node));
    let answers = stream::iter(asked)
        .map(|(node, ids)| async move { (node, ask_node(core, kind, node, ids).await) });
    let mut answers = answers.buffer_unordered(ASK_PARALLEL);
    let mut grace = std::pin::pin!(tokio::time::sleep(Duration::MAX));
    let mut closing_ms = 0;
    loop {
        let is_contested = search.wants_most();
        let are_silent = || waiting.iter().all(|node| core.client.is_silent(node));
        if search.is_complete() && !is_contested && are_silent() {
            return;
        }
        // Long enough for everybody who answers as others do.
        let short_ms = core.client.patience_ms().min(GRACE_MS_MAX);
        let grace_ms = if is_contested { GRACE_MS_CONTESTED } else { short_ms };
        if search.is_complete() && (closing_ms == 0 || is_contested && closing_ms < grace_ms) {
            closing_ms = grace_ms;
            grace.set(tokio::time::sleep(Duration::from_millis(grace_ms)));
        }
        tokio::select! {
            // Answers that are here are heard, however long the ones before took to verify.
            biased;
            answer = answers.next() => match answer {
                Some((node, records)) => {
                    waiting.remove(&node);
                    search.take(core, kind, records);
                }
                None => return,
            },
            () = &mut grace, if closing_ms > 0 => return,
        }
    }
}

/// How long a search that has found something waits for what others have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Patience {
    /// Not longer than everybody who answers needs, unless records contradict each other.
    #[default]
    Short,
    /// As if they did: what was found before was of no use.
    Long,
}

/// What a search has found so far.
#[derive(Debug, Default)]
struct Search {
    patience: Patience,
    wanted: BTreeSet<Id>,
    found: BTreeSet<Id>,
    records: Votes,
}

impl Search {
    fn new(ids: impl IntoIterator<Item = Id>, patience: Patience) -> Self {
        Self { wanted: ids.into_iter().collect(), patience, ..Self::default() }
    }

    /// Keeps what verifies and was asked for. Many nodes keep the same bytes: each is verified once.
    fn take(&mut self, core: &Core, kind: RecordKind, records: Vec<Vec<u8>>) {
        let Self { wanted, found, records: votes, .. } = self;
        votes.take(records, |bytes| {
            let id = record_id(core, kind, bytes).filter(|id| wanted.contains(id));
            id.map(|id| found.insert(id)).is_some()
        });
    }

    fn is_complete(&self) -> bool {
        self.found.len() == self.wanted.len()
    }

    /// Whether most of those asked have to be heard: where there are several records for an id,
    /// or what was found before was of no use.
    fn wants_most(&self) -> bool {
        self.patience == Patience::Long || self.records.distinct() > self.found.len()
    }

    fn missing(&self) -> Vec<Id> {
        self.wanted.difference(&self.found).copied().collect()
    }
}

/// Searches for the records of some ids, those that most nodes gave first: among the known nodes, then, for
/// what these do not have, where the router leads.
async fn search(core: &Core, kind: RecordKind, ids: Vec<Id>, patience: Patience) -> Vec<Vec<u8>> {
    let mut search = Search::new(ids, patience);
    let own = search.missing();
    search.take(
        core,
        kind,
        own.iter().flat_map(|id| serve::records::local(core, kind, id)).collect(),
    );
    let mut asked = Asked::new();
    for id in &search.wanted {
        for node in known(core, kind, id, ASKED_PER_KEY) {
            asked.entry(node).or_default().push(*id);
        }
    }
    let before: BTreeSet<NodeId> = asked.keys().copied().collect();
    let begun = Instant::now();
    ask(core, kind, asked, &mut search).await;
    tracing::debug!(
        "{kind:?} of {} ids: {} found in {} ms from {} nodes",
        search.wanted.len(),
        search.found.len(),
        begun.elapsed().as_millis(),
        before.len()
    );
    let routes = stream::iter(search.missing())
        .map(|id| async move { (id, routed(core, kind, &id, ASKED_PER_KEY).await) });
    let mut asked = Asked::new();
    for (id, nodes) in routes.buffer_unordered(8).collect::<Vec<_>>().await {
        for node in nodes.difference(&before) {
            asked.entry(*node).or_default().push(id);
        }
    }
    ask(core, kind, asked, &mut search).await;
    search.records.ranked()
}

/// Every valid announcement of a content that can be found, newest of each
/// publisher.
pub async fn announcements(core: &Core, content: &ContentId) -> Vec<Signed<Announcement>> {
    let found =
        search(core, RecordKind::Announcement, vec![*content.as_bytes()], Patience::Short).await;
    let now = clock::now();
    let mut newest: BTreeMap<NodeId, Signed<Announcement>> = BTreeMap::new();
    for bytes in found {
        let Ok(signed) = Signed::<Announcement>::decode(&bytes, &core.network) else { continue };
        let body = &signed.body;
        if body.expires <= now {
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

/// The placement records of some segments that can be found: of each owner the
/// one that wins. Every record proves its descent from its owner's first, so an
/// older one of the same owner adds nothing.
pub async fn placements(
    core: &Core,
    segments: &[SegmentId],
    patience: Patience,
) -> BTreeMap<SegmentId, Vec<PlacementRecord>> {
    let ids = segments.iter().map(|segment| segment.0).collect();
    let mut found: BTreeMap<SegmentId, Vec<PlacementRecord>> = BTreeMap::new();
    for bytes in search(core, RecordKind::Placement, ids, patience).await {
        let Ok(record) = PlacementRecord::decode(&bytes, &core.network) else { continue };
        let records = found.entry(record.body.segment).or_default();
        match records.iter_mut().find(|known| known.body.owner == record.body.owner) {
            Some(known) if record.wins_over(known) => *known = record,
            Some(_) => {}
            None => records.push(record),
        }
    }
    for records in found.values_mut() {
        records.truncate(PLACEMENTS_MAX);
    }
    found
}

/// The id under which an encoded record is found; none if it does not verify.
#[must_use]
pub fn record_id(core: &Core, kind: RecordKind, bytes: &[u8]) -> Option<Id> {
    match kind {
        RecordKind::Announcement => {
            let signed = Signed::<Announcement>::decode(bytes, &core.network).ok()?;
            Some(*signed.body.content.as_bytes())
        }
        RecordKind::Placement => {
            Some(PlacementRecord::decode(bytes, &core.network).ok()?.body.segment.0)
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
        let mut nodes = known(core, kind, &id, params::RECORD_REPLICAS);
        nodes.extend(routed(core, kind, &id, params::RECORD_REPLICAS).await);
        (i, nodes)
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
