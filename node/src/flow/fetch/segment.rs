//! Fetching part of one segment: what [`SegmentFetch`] decides, carried out.
//!
//! Every shard range is verified on arrival. What was rebuilt is checked against
//! the descriptor, or by the caller's own check where only parts of shards were
//! fetched.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use echonet_protocol::{
    bytes::RecordHash,
    data::erasure::ErasureCode,
    fetch::{
        DecodeResult, Evidence, Fault, FetchConfig, FetchFailure, FetchInput, FetchOutput,
        FetchRequest, Holder, SegmentFetch,
    },
    identity::NodeId,
    inconsistency::InconsistencyProof,
    machine::Machine,
    message::{Refusal, RefusalCode, SliceSpec},
    placement_record::PlacementRecord,
    segment::{SegmentDescriptor, SegmentId},
};

use echonet_vault::{Key, ReadError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::proof;
use crate::{
    client::{CallError, SliceWanted},
    clock,
    core::Core,
    flow::driver::{Attempts, Stopwatch},
    members::Reach,
};

/// Ranges shorter than a shard are rounded out to this, the group they are
/// proven in.
const GROUP_BYTES: usize = 16 * 1024;
/// log2 of that group's leaves.
const GROUP_LOG: u8 = 4;
/// Expected latency of a holder that did not answer last time.
const DOWN_LATENCY_MS: u32 = 60_000;
/// What each place further down the ranking of records counts as, in latency.
const PLACE_MS: u32 = 1_000;
/// Expected latency of one never talked to.
const UNKNOWN_LATENCY_MS: u32 = 200;

/// A segment and who is said to hold its shards.
#[derive(Debug, Clone)]
pub struct Located {
    /// Its name.
    pub segment: SegmentId,
    /// What it is.
    pub descriptor: SegmentDescriptor,
    /// NodeIDs by index, from all valid placement records.
    pub holders: BTreeMap<u8, Vec<NodeId>>,
    /// What these records are: owner, version, and the hash of what each says.
    pub records: Vec<(NodeId, u64, RecordHash)>,
}

impl Located {
    /// From a segment's placement records; none without any.
    #[must_use]
    pub fn from_records(segment: SegmentId, records: &[PlacementRecord]) -> Option<Self> {
        let descriptor = records.first()?.descriptor.clone();
        let mut holders: BTreeMap<u8, Vec<NodeId>> = BTreeMap::new();
        for (index, holder) in records.iter().flat_map(PlacementRecord::holders_to_ask) {
            let at = holders.entry(index).or_default();
            if !at.contains(&holder) {
                at.push(holder);
            }
        }
        let named = |r: &PlacementRecord| (r.body.owner, r.body.version, r.hash());
        let records = records.iter().map(named).collect();
        Some(Self { segment, descriptor, holders, records })
    }
}

/// Somebody caught at fault, with the proof where there is a portable one.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Who.
    pub fault: Fault,
    /// In which segment.
    pub segment: SegmentId,
    /// k+1 slices of one row, where the publisher is at fault.
    pub proof: Option<Box<InconsistencyProof>>,
}

/// Why part of a segment was not had.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The machine gave up.
    #[error("segment {segment}: {failure}")]
    Failed {
        /// Which.
        segment: SegmentId,
        /// Its account.
        failure: FetchFailure,
    },
    /// No valid placement record was found.
    #[error("segment {segment}: no placement record was found")]
    NotPlaced {
        /// Which.
        segment: SegmentId,
    },
}

/// Data shards of a segment, whole or the same range of each.
#[derive(Debug, Clone)]
pub struct SegmentBytes {
    shard_len: usize,
    /// The range of each shard that is here.
    range: Range<usize>,
    shards: BTreeMap<u8, Arc<Vec<u8>>>,
}

impl SegmentBytes {
    /// Bytes `offset..offset+len` of the segment; none where a part is not here.
    #[must_use]
    pub fn get(&self, offset: usize, len: usize) -> Option<Cow<'_, [u8]>> {
        let first = self.part(offset, len)?;
        if first.len() == len {
            return Some(Cow::Borrowed(first));
        }
        let mut bytes = first.to_vec();
        while bytes.len() < len {
            let part = self.part(offset + bytes.len(), len - bytes.len())?;
            bytes.extend_from_slice(part);
        }
        Some(Cow::Owned(bytes))
    }

    /// Bytes `offset..offset+len` of the segment where they lie, in order; none where a part is
    /// not here.
    #[must_use]
    pub fn parts(&self, offset: usize, len: usize) -> Option<Vec<&[u8]>> {
        let (mut parts, mut have) = (Vec::new(), 0);
        while have < len {
            let part = self.part(offset + have, len - have)?;
            have += part.len();
            parts.push(part);
        }
        Some(parts)
    }

    /// What is here of a data shard.
    #[must_use]
    pub fn shard(&self, index: u8) -> Option<&[u8]> {
        self.shards.get(&index).map(|bytes| bytes.as_slice())
    }

    /// The longest part of `offset..offset+len` within one shard.
    fn part(&self, offset: usize, len: usize) -> Option<&[u8]> {
        let index = u8::try_from(offset / self.shard_len).ok()?;
        let within = offset % self.shard_len;
        let end = (within + len).min(self.shard_len);
        let start = within.checked_sub(self.range.start)?;
        self.shards.get(&index)?.get(start..end - self.range.start)
    }
}

/// What the caller expects of a part of a segment: it checks the bytes that
/// were put together, where no shard hash covers them.
pub type Check<'a> = &'a (dyn Fn(&SegmentBytes) -> bool + Send + Sync);

/// What is fetched of one segment.
#[derive(Clone)]
pub struct PartWanted<'a> {
    /// The segment.
    pub located: &'a Located,
    /// The bytes of it that are wanted.
    pub range: Range<usize>,
    /// The caller's check.
    pub check: Check<'a>,
    /// Limits.
    pub config: FetchConfig,
    /// Orders subsets.
    pub seed: u64,
}

/// The same range of some data shards of one segment.
#[derive(Clone)]
pub struct RowsWanted<'a> {
    /// The segment.
    pub located: &'a Located,
    /// Which data shards.
    pub indices: BTreeSet<u8>,
    /// The range of each, whole groups of 16 KiB unless it ends with the shard.
    pub range: Range<usize>,
    /// The caller's check.
    pub check: Check<'a>,
    /// Limits.
    pub config: FetchConfig,
    /// Orders subsets.
    pub seed: u64,
}

/// What came of a fetch: who sent bytes, and who was caught.
#[derive(Debug, Default)]
pub struct Account {
    /// Whose bytes were used.
    pub sources: BTreeSet<NodeId>,
    /// Bytes of shards that came from other nodes, used or not.
    pub read_bytes: u64,
    /// Who is at fault.
    pub findings: Vec<Finding>,
    /// Who announced manifests that turned out wrong.
    pub liars: Vec<Liar>,
}

/// An announcer of a manifest that is wrong.
#[derive(Debug, Clone)]
pub struct Liar {
    /// Who.
    pub announcer: NodeId,
    /// What is wrong with it.
    pub reason: String,
}

struct Run<'a> {
    core: &'a Arc<Core>,
    wanted: RowsWanted<'a>,
    machine: SegmentFetch,
    watch: Stopwatch,
    attempts: Attempts<(u8, NodeId), Result<Vec<u8>, CallError>>,
    /// Who began to answer; at most one message for each attempt.
    heard: UnboundedReceiver<(u8, NodeId)>,
    tell_heard: UnboundedSender<(u8, NodeId)>,
    got: BTreeMap<u8, (NodeId, Arc<Vec<u8>>)>,
    made: Option<SegmentBytes>,
    account: &'a mut Account,
}

/// Fetches the bytes of a segment that `wanted` names.
///
/// # Errors
/// [`SegmentError`].
pub async fn fetch_part(
    core: &Arc<Core>,
    wanted: PartWanted<'_>,
    account: &mut Account,
) -> Result<SegmentBytes, SegmentError> {
    let PartWanted { located, range, check, config, seed } = wanted;
    let shard_len = located.descriptor.shard_len();
    let (first, last) = (range.start / shard_len, (range.end - 1) / shard_len);
    // The same range of each shard: exact where one shard covers it, else all of them.
    let of_each = if first == last {
        let start = range.start % shard_len / GROUP_BYTES * GROUP_BYTES;
        let end = ((range.end - 1) % shard_len + 1).next_multiple_of(GROUP_BYTES);
        start..end.min(shard_len)
    } else {
        0..shard_len
    };
    let indices = (first..=last).filter_map(|i| u8::try_from(i).ok()).collect();
    let rows = RowsWanted { located, indices, range: of_each, check, config, seed };
    fetch_rows(core, rows, account).await
}

/// Fetches the same range of some data shards, from them or from k others.
///
/// # Errors
/// [`SegmentError`].
pub async fn fetch_rows(
    core: &Arc<Core>,
    wanted: RowsWanted<'_>,
    account: &mut Account,
) -> Result<SegmentBytes, SegmentError> {
    let located = wanted.located;
    let request = FetchRequest {
        scheme: located.descriptor.scheme,
        holders: ranked(core, located),
        want: wanted.indices.clone(),
        seed: wanted.seed,
    };
    let watch = Stopwatch::start();
    // Who was late before is ranked last; one that is late now costs bytes, so it gets more time.
    let first_word_ms = 2 * core.client.patience_ms();
    let config = FetchConfig { first_word_ms, ..wanted.config };
    let machine = SegmentFetch::new(watch.now(), config, &request);
    let (tell_heard, heard) = unbounded_channel();
    let run = Run {
        core,
        wanted,
        machine,
        watch,
        attempts: Attempts::default(),
        heard,
        tell_heard,
        got: BTreeMap::new(),
        made: None,
        account,
    };
    let outcome = run.drive().await;
    tracing::debug!("segment {}: {} ms", located.segment, watch.now().0);
    outcome
}

/// Holders with the latency that they last showed. Of several for one shard, those named by the
/// record that most nodes gave come first, whatever the others' latency: anybody can make records
/// that name holders who answer fast, or whose NodeIDs sort first, and have nothing.
fn ranked(core: &Core, located: &Located) -> BTreeMap<u8, Vec<Holder>> {
    let now = clock::now();
    let holder = |(place, node): (usize, &NodeId)| {
        let member = core.members.get(node);
        let is_quiet = member.as_ref().is_some_and(|m| m.descriptor.body.quiet.is_quiet(now));
        let latency_ms = match member {
            // From its own vault.
            _ if *node == core.node_id() => 0,
            Some(m) if m.reach == Reach::Unreachable => DOWN_LATENCY_MS,
            Some(m) if m.reach == Reach::Reachable => m.latency_ms,
            Some(_) => UNKNOWN_LATENCY_MS,
            // No address of it is known.
            None => DOWN_LATENCY_MS,
        };
        let behind_ms = u32::try_from(place).unwrap_or(u32::MAX).saturating_mul(PLACE_MS);
        let latency_ms = latency_ms.saturating_add(behind_ms);
        Holder { node: *node, latency_ms, is_silent: is_quiet || core.client.is_silent(node) }
    };
    let by_index = located.holders.iter();
    by_index
        .map(|(index, nodes)| (*index, nodes.iter().enumerate().map(holder).collect()))
        .collect()
}

impl Run<'_> {
    async fn drive(mut self) -> Result<SegmentBytes, SegmentError> {
        loop {
            while let Some(output) = self.machine.poll() {
                match output {
                    FetchOutput::Get { index, node } => self.get(index, node),
                    FetchOutput::Cancel { index, node } => self.attempts.cancel(&(index, node)),
                    FetchOutput::Decode { have, want } => {
                        let result = self.decode(&have, &want).await;
                        self.machine.handle(self.watch.now(), FetchInput::Decoded(result));
                    }
                    FetchOutput::ProveInconsistent { indices } => {
                        let evidence = self.prove(&indices);
                        self.machine.handle(self.watch.now(), FetchInput::Proven(evidence));
                    }
                    FetchOutput::Fault(fault) => self.note(fault),
                    FetchOutput::Complete => return self.complete(),
                    FetchOutput::Failed(failure) => {
                        let segment = self.wanted.located.segment;
                        return Err(SegmentError::Failed { segment, failure });
                    }
                }
            }
            let input = tokio::select! {
                biased;
                Some((index, node)) = self.heard.recv() => FetchInput::Heard { index, node },
                next = self.attempts.next(&self.watch, self.machine.timeout()) => match next {
                    Some(((index, node), result)) => self.arrived(index, node, result),
                    None => FetchInput::Tick,
                },
            };
            self.machine.handle(self.watch.now(), input);
        }
    }

    fn get(&mut self, index: u8, node: NodeId) {
        let (core, range) = (Arc::clone(self.core), self.wanted.range.clone());
        let tell_heard = self.tell_heard.clone();
        let located = self.wanted.located;
        let (segment, total) = (located.segment, located.descriptor.shard_len());
        let Some(root) = located.descriptor.shards.get(usize::from(index)).map(|hash| hash.0)
        else {
            return;
        };
        let whole = range == (0..total);
        let spec = SliceSpec {
            offset: range.start as u64,
            length: range.len() as u64,
            group_log: if whole { SliceSpec::WHOLE } else { GROUP_LOG },
        };
        let wanted = SliceWanted { root, total: total as u64, spec };
        tracing::debug!("shard {index} of segment {segment} is asked of {node}");
        if node == core.node_id() {
            let shard = (segment, index);
            self.attempts.begin((index, node), async move { own_range(&core, shard, range).await });
            return;
        }
        self.attempts.begin((index, node), async move {
            let mut bytes = vec![0; range.len()];
            let on_answer = || {
                // Nobody may be left to hear it.
                let _ = tell_heard.send((index, node));
            };
            core.client.get_shard(&node, (segment, index), wanted, &mut bytes, on_answer).await?;
            Ok(bytes)
        });
    }

    fn arrived(
        &mut self,
        index: u8,
        node: NodeId,
        result: Result<Vec<u8>, CallError>,
    ) -> FetchInput {
        let now = crate::clock::now();
        match result {
            Ok(bytes) => {
                if node != self.core.node_id() {
                    self.account.read_bytes += bytes.len() as u64;
                }
                self.got.insert(index, (node, Arc::new(bytes)));
                FetchInput::Got { index, node }
            }
            Err(CallError::Corrupt { node, reason }) => {
                tracing::warn!("shard {index} from {node}: {reason}");
                FetchInput::Corrupt { index, node }
            }
            Err(e) => {
                tracing::debug!("shard {index}: {e}");
                match e.refusal().map(|refusal| refusal.code) {
                    Some(RefusalCode::Busy) => FetchInput::Unreachable { index, node },
                    Some(_) => FetchInput::Missing { index, node },
                    None => {
                        self.core.members.failed(&node, now);
                        FetchInput::Unreachable { index, node }
                    }
                }
            }
        }
    }

    /// Puts the wanted ranges together from those named, and checks them.
    async fn decode(&mut self, have: &[u8], want: &[u8]) -> DecodeResult {
        let shard_len = self.wanted.located.descriptor.shard_len();
        let direct: BTreeMap<u8, Arc<Vec<u8>>> = want
            .iter()
            .filter(|index| have.contains(index))
            .filter_map(|index| Some((*index, Arc::clone(&self.got.get(index)?.1))))
            .collect();
        let lost: Vec<u8> = want.iter().copied().filter(|i| !direct.contains_key(i)).collect();
        let mut shards = direct;
        if !lost.is_empty() {
            let Some(rebuilt) = self.rebuild(have, &lost).await else {
                return DecodeResult::Mismatch;
            };
            shards.extend(rebuilt);
        }
        for index in have {
            if let Some((node, _)) = self.got.get(index) {
                self.account.sources.insert(*node);
            }
        }
        let made = SegmentBytes { shard_len, range: self.wanted.range.clone(), shards };
        let is_good = (self.wanted.check)(&made);
        self.made = Some(made);
        if is_good { DecodeResult::Ok } else { DecodeResult::Mismatch }
    }

    /// Rebuilds ranges; none when a whole shard is not what the descriptor says.
    async fn rebuild(&self, have: &[u8], lost: &[u8]) -> Option<BTreeMap<u8, Arc<Vec<u8>>>> {
        let descriptor = &self.wanted.located.descriptor;
        let scheme = descriptor.scheme;
        let sources: Vec<Arc<Vec<u8>>> = have
            .iter()
            .map(|i| self.got.get(i).map(|(_, b)| Arc::clone(b)))
            .collect::<Option<_>>()?;
        let is_whole = self.wanted.range == (0..descriptor.shard_len());
        let hashes: Vec<_> = lost.iter().map(|i| descriptor.shards[usize::from(*i)]).collect();
        let (have, lost, len) = (to_usize(have), lost.to_vec(), self.wanted.range.len());
        let work = move || {
            let code = ErasureCode::shared(scheme.k.into(), scheme.m.into()).ok()?;
            let plan = code.plan(&have, &to_usize(&lost)).ok()?;
            let mut out = vec![vec![0; len]; lost.len()];
            let sources: Vec<&[u8]> = sources.iter().map(|s| s.as_slice()).collect();
            plan.rebuild(&sources, &mut out).ok()?;
            let is_right = |(bytes, hash): (&Vec<u8>, &echonet_protocol::bytes::ShardHash)| {
                blake3::hash(bytes).as_bytes() == &hash.0
            };
            if is_whole && !out.iter().zip(&hashes).all(is_right) {
                return None;
            }
            Some(lost.into_iter().zip(out.into_iter().map(Arc::new)).collect())
        };
        tokio::task::spawn_blocking(work).await.ok().flatten()
    }

    fn prove(&mut self, indices: &[u8]) -> Evidence {
        let ranges: Vec<_> =
            indices.iter().filter_map(|i| Some((*i, Arc::clone(&self.got.get(i)?.1)))).collect();
        let located = self.wanted.located;
        match proof::find(&located.descriptor, self.wanted.range.start, &ranges) {
            Some(row) => {
                self.account.findings.push(Finding {
                    fault: Fault::Publisher,
                    segment: located.segment,
                    proof: row.map(Box::new),
                });
                Evidence::Inconsistent
            }
            None => Evidence::Consistent,
        }
    }

    fn note(&mut self, fault: Fault) {
        let segment = self.wanted.located.segment;
        let is_known =
            self.account.findings.iter().any(|f| f.fault == fault && f.segment == segment);
        if !is_known {
            self.account.findings.push(Finding { fault, segment, proof: None });
        }
    }

    fn complete(self) -> Result<SegmentBytes, SegmentError> {
        let segment = self.wanted.located.segment;
        self.made.ok_or(SegmentError::NotPlaced { segment })
    }
}

/// A range of a shard of this node's own, after all of it verified.
async fn own_range(
    core: &Arc<Core>,
    (segment, index): (SegmentId, u8),
    range: Range<usize>,
) -> Result<Vec<u8>, CallError> {
    let node = core.node_id();
    let refused = |code, reason: &dyn std::fmt::Display| CallError::Refused {
        node,
        refusal: Refusal::new(code, reason),
    };
    let Some(vault) = core.vault.clone() else {
        return Err(refused(RefusalCode::NotMyRole, &"this node holds no shards"));
    };
    let key = Key { segment: segment.0, index };
    let read = tokio::task::spawn_blocking(move || vault.read_verified(key)).await;
    match read.map_err(|e| refused(RefusalCode::Internal, &e))? {
        Ok(shard) if range.end <= shard.len() => Ok(shard[range].to_vec()),
        Ok(shard) => {
            Err(CallError::Corrupt { node, reason: format!("a shard of {} bytes", shard.len()) })
        }
        Err(ReadError::NotStored) => Err(refused(RefusalCode::NotFound, &"not stored here")),
        Err(e) => Err(CallError::Corrupt { node, reason: e.to_string() }),
    }
}

fn to_usize(indices: &[u8]) -> Vec<usize> {
    indices.iter().map(|i| usize::from(*i)).collect()
}
