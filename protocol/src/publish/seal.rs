//! Sealing: every holder gets the placement records that name it, durably.
//!
//! A shard that is not sealed is thrown away after a while, so a work is not
//! announced before the write quorum of every segment acknowledged.

use std::collections::{BTreeMap, VecDeque};

use super::work_types::{PublishConfig, PublishOutput, StoredSegment};
use crate::{identity::NodeId, machine::Millis, segment::SegmentId};

/// The seals of one publish.
#[derive(Debug)]
pub(super) struct Sealing {
    config: PublishConfig,
    nodes: BTreeMap<NodeId, Holder>,
    /// Seals still needed, and holders that may still give one.
    segments: BTreeMap<SegmentId, Progress>,
    /// Set once every segment has its quorum.
    extra_until: Option<Millis>,
    last_reason: String,
}

#[derive(Debug)]
struct Progress {
    have: usize,
    want: usize,
    total: usize,
    pending: usize,
}

/// What one holder is still to be told.
#[derive(Debug)]
struct Holder {
    /// In batches; a batch that took effect in part is split.
    batches: VecDeque<Vec<SegmentId>>,
    under_way: bool,
    /// Failures in a row.
    failures: u32,
    /// Under way: until when. Otherwise: not before.
    at: Millis,
}

impl Sealing {
    pub(super) fn new<'a>(
        now: Millis,
        config: PublishConfig,
        segments: impl Iterator<Item = &'a StoredSegment>,
    ) -> Self {
        let mut named = BTreeMap::<NodeId, Vec<SegmentId>>::new();
        let mut progress = BTreeMap::new();
        for stored in segments {
            let (want, total) = (stored.scheme.write_quorum(), stored.holders.len());
            progress.insert(stored.segment, Progress { have: 0, want, total, pending: total });
            for node in stored.holders.values() {
                named.entry(*node).or_default().push(stored.segment);
            }
        }
        let size = config.seal_batch_max.max(1);
        let holder = |segments: Vec<SegmentId>| Holder {
            batches: segments.chunks(size).map(<[_]>::to_vec).collect(),
            under_way: false,
            failures: 0,
            at: now,
        };
        let nodes = named.into_iter().map(|(node, segments)| (node, holder(segments))).collect();
        Self { config, nodes, segments: progress, extra_until: None, last_reason: String::new() }
    }

    /// A node answered for its batch under way.
    pub(super) fn sealed(&mut self, now: Millis, node: NodeId, durable: usize) {
        let Some(holder) = self.nodes.get_mut(&node).filter(|h| h.under_way) else { return };
        let Some(batch) = holder.batches.pop_front() else { return };
        holder.under_way = false;
        holder.at = now;
        if durable >= batch.len() {
            holder.failures = 0;
            for segment in batch {
                if let Some(progress) = self.segments.get_mut(&segment) {
                    progress.have += 1;
                    progress.pending -= 1;
                }
            }
        } else if batch.len() > 1 {
            // Which ones took effect is not said: halves find out. Sealing a
            // record again changes nothing.
            let (left, right) = batch.split_at(batch.len() / 2);
            holder.batches.push_front(right.to_vec());
            holder.batches.push_front(left.to_vec());
        } else {
            self.last_reason = format!("{} does not hold what it signed for", node.short());
            self.give_up(&batch);
        }
        self.forget_done(node);
    }

    /// A node's batch under way failed.
    pub(super) fn failed(&mut self, now: Millis, node: NodeId, reason: String) {
        let Some(holder) = self.nodes.get_mut(&node).filter(|h| h.under_way) else { return };
        self.last_reason = reason;
        let doublings = holder.failures.min(16);
        holder.failures += 1;
        holder.under_way = false;
        holder.at = now.after(self.config.backoff_ms.saturating_mul(1 << doublings));
        if holder.failures > self.config.retries_max {
            let lost: Vec<SegmentId> = holder.batches.drain(..).flatten().collect();
            self.give_up(&lost);
        }
        self.forget_done(node);
    }

    fn give_up(&mut self, segments: &[SegmentId]) {
        for segment in segments {
            if let Some(progress) = self.segments.get_mut(segment) {
                progress.pending -= 1;
            }
        }
    }

    fn forget_done(&mut self, node: NodeId) {
        if self.nodes.get(&node).is_some_and(|h| h.batches.is_empty()) {
            self.nodes.remove(&node);
        }
    }

    /// Does all that can be done at `now`. At the end: notes, or why not.
    pub(super) fn advance(
        &mut self,
        now: Millis,
        outputs: &mut VecDeque<PublishOutput>,
    ) -> Option<Result<Vec<String>, String>> {
        self.expire(now, outputs);
        if let Some(reason) = self.hopeless() {
            self.cancel_all(outputs);
            return Some(Err(reason));
        }
        if self.extra_until.is_none() && self.segments.values().all(|p| p.have >= p.want) {
            self.extra_until = Some(now.after(self.config.seal_extra_ms));
        }
        let late = self.extra_until.is_some_and(|until| now >= until);
        if late || self.nodes.is_empty() {
            self.cancel_all(outputs);
            return Some(Ok(self.notes()));
        }
        self.start(now, outputs);
        None
    }

    fn expire(&mut self, now: Millis, outputs: &mut VecDeque<PublishOutput>) {
        let late = self.nodes.iter().filter(|(_, h)| h.under_way && h.at <= now);
        let late: Vec<NodeId> = late.map(|(node, _)| *node).collect();
        for node in late {
            outputs.push_back(PublishOutput::CancelSeal { node });
            self.failed(now, node, format!("{} did not answer a seal", node.short()));
        }
    }

    /// Why some segment cannot be sealed by its quorum any more.
    fn hopeless(&self) -> Option<String> {
        let lost = |(_, p): &(&SegmentId, &Progress)| p.have + p.pending < p.want;
        let (segment, Progress { have, want, .. }) = self.segments.iter().find(lost)?;
        let (segment, last) = (segment.short(), &self.last_reason);
        Some(format!("segment {segment} was sealed by {have} of {want} needed holders: {last}"))
    }

    fn notes(&self) -> Vec<String> {
        let short = self.segments.values().filter(|p| p.have < p.total).count();
        let note = || {
            let last = if self.last_reason.is_empty() { "slow" } else { &self.last_reason };
            format!("{short} segments were not sealed by all their holders: {last}")
        };
        (short > 0).then(note).into_iter().collect()
    }

    fn start(&mut self, now: Millis, outputs: &mut VecDeque<PublishOutput>) {
        let under_way = self.nodes.values().filter(|h| h.under_way).count();
        let room = self.config.seal_parallel_max.max(1).saturating_sub(under_way);
        let until = now.after(self.config.seal_timeout_ms);
        let ready = self.nodes.iter_mut().filter(|(_, h)| !h.under_way && h.at <= now);
        for (node, holder) in ready.take(room) {
            let Some(batch) = holder.batches.front() else { continue };
            outputs.push_back(PublishOutput::Seal { node: *node, segments: batch.clone() });
            holder.under_way = true;
            holder.at = until;
        }
    }

    fn cancel_all(&self, outputs: &mut VecDeque<PublishOutput>) {
        let under_way = self.nodes.iter().filter(|(_, h)| h.under_way);
        outputs.extend(under_way.map(|(&node, _)| PublishOutput::CancelSeal { node }));
    }

    pub(super) fn timeout(&self) -> Option<Millis> {
        let under_way = self.nodes.values().filter(|h| h.under_way).count();
        let room = under_way < self.config.seal_parallel_max.max(1);
        let waits = self.nodes.values().filter(|h| h.under_way || room).map(|h| h.at);
        waits.chain(self.extra_until).min()
    }
}
