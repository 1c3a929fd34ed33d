//! Getting one byte range of one segment from its holders.

use std::collections::{BTreeSet, VecDeque};

use super::{
    doubt::{Doubt, Step},
    sources::{Answer, Candidate, Sources},
    types::{
        DecodeResult, Evidence, FailureCause, Fault, FetchConfig, FetchInput, FetchOutput,
        FetchRequest,
    },
};
use crate::{
    identity::NodeId,
    machine::{Machine, Millis},
};

/// Fetches the same byte range of some data shards of one segment, from them or
/// from any k others (design 6).
///
/// The data shards under the range are asked first. One that is lacking or slow
/// makes it ask others, until the wanted ones or any k are there.
#[derive(Debug)]
pub struct SegmentFetch {
    config: FetchConfig,
    k: usize,
    want: BTreeSet<u8>,
    seed: u64,
    sources: Sources,
    /// The set that the driver makes the ranges from, while it does.
    decoding: Option<Vec<u8>>,
    /// Whether the driver compares k+1 ranges.
    proving: bool,
    doubt: Option<Doubt>,
    now: Millis,
    /// Without any verified byte until then, it fails.
    deadline: Millis,
    /// Whatever comes until then.
    last_deadline: Millis,
    /// Set once k can no longer be had: until when answers under way are counted.
    settle_until: Option<Millis>,
    outputs: VecDeque<FetchOutput>,
    over: bool,
}

impl SegmentFetch {
    /// Starts fetching. Wanted indices that are not data shards of the scheme
    /// are ignored; with none wanted it is complete at once.
    #[must_use]
    pub fn new(now: Millis, config: FetchConfig, request: &FetchRequest) -> Self {
        let k = request.scheme.k;
        let mut fetch = Self {
            config,
            k: k as usize,
            want: request.want.iter().copied().filter(|&i| i < k).collect(),
            seed: request.seed,
            sources: Sources::new(config, request),
            decoding: None,
            proving: false,
            doubt: None,
            now,
            deadline: now.after(config.deadline_ms),
            last_deadline: now.after(config.total_max_ms),
            settle_until: None,
            outputs: VecDeque::new(),
            over: false,
        };
        if fetch.want.is_empty() {
            fetch.over = true;
            fetch.outputs.push_back(FetchOutput::Complete);
        }
        fetch.advance();
        fetch
    }

    fn advance(&mut self) {
        // What the driver computes it answers for certain: the ranges are there,
        // and no time that this takes is a reason to throw them away.
        if self.over || self.decoding.is_some() || self.proving {
            return;
        }
        if self.now >= self.deadline() {
            let cause =
                if self.doubt.is_some() { FailureCause::Mismatch } else { FailureCause::Deadline };
            return self.fail(cause);
        }
        self.expire();
        if self.doubt.is_some() { self.investigate() } else { self.gather() }
    }

    fn deadline(&self) -> Millis {
        self.deadline.min(self.last_deadline)
    }

    fn expire(&mut self) {
        for (index, node) in self.sources.late(self.now) {
            self.sources.answered(self.now, index, node, Answer::TimedOut);
            self.outputs.push_back(FetchOutput::Cancel { index, node });
        }
    }

    /// Gets the wanted ranges, or k of any.
    fn gather(&mut self) {
        if let Some(have) = self.enough() {
            return self.decode(have);
        }
        let can_all = self.want.iter().all(|&index| self.sources.alive(index));
        let can_k = self.sources.alive_count() >= self.k;
        if !can_all && !can_k {
            return self.settle();
        }
        self.settle_until = None;
        self.ask_wanted(can_k);
        if can_k {
            self.ask_others();
        }
    }

    /// Exactly the wanted indices, or exactly k with as many wanted as are there.
    fn enough(&self) -> Option<Vec<u8>> {
        let had = self.sources.had();
        if self.want.is_subset(had) {
            return Some(self.want.iter().copied().collect());
        }
        if had.len() < self.k {
            return None;
        }
        let arrivals = || self.sources.arrivals().iter().copied();
        let wanted = arrivals().filter(|i| self.want.contains(i));
        let others = arrivals().filter(|i| !self.want.contains(i));
        let mut have: Vec<u8> = wanted.chain(others).take(self.k).collect();
        have.sort_unstable();
        Some(have)
    }

    fn decode(&mut self, have: Vec<u8>) {
        self.cancel(|_| true);
        let want = self.want.iter().copied().collect();
        self.outputs.push_back(FetchOutput::Decode { have: have.clone(), want });
        self.decoding = Some(have);
    }

    fn cancel(&mut self, only: impl Fn(u8) -> bool) {
        let given_up = self.sources.give_up(only).into_iter();
        self.outputs.extend(given_up.map(|(index, node)| FetchOutput::Cancel { index, node }));
    }

    fn room(&self) -> bool {
        let max = self.config.parallel_max.max(1);
        // Late ones take no place, or a few that hang would keep the others from being asked.
        self.sources.promising(self.now) < max && self.sources.active() < 2 * max
    }

    fn ask(&mut self, index: u8, node: NodeId) {
        self.sources.start(self.now, index, node);
        self.outputs.push_back(FetchOutput::Get { index, node });
    }

    /// Asks for wanted shards that nobody is asked for. A second attempt at the
    /// same holder, or one at a silent holder, is worth it here only when others
    /// cannot stand in.
    fn ask_wanted(&mut self, others_can: bool) {
        let vocal_can = self.sources.vocal_count() >= self.k;
        for index in self.want.clone() {
            if self.sources.had().contains(&index) || self.sources.asking(index) {
                continue;
            }
            match self.sources.best(index, self.now) {
                Some(Candidate { attempts, silent, node, .. })
                    if (attempts == 0 || !others_can) && !(silent && vocal_can) && self.room() =>
                {
                    self.ask(index, node);
                }
                _ => {}
            }
        }
    }

    /// Where a wanted shard is lacking or slow: asks on until k are expected.
    fn ask_others(&mut self) {
        let now = self.now;
        if self.want.iter().all(|&index| self.sources.expected(index, now)) {
            return;
        }
        while self.room() {
            let indices = self.sources.indices();
            let (expected, others): (Vec<u8>, Vec<u8>) =
                indices.partition(|&index| self.sources.expected(index, now));
            if expected.len() >= self.k {
                return;
            }
            // Least tried first, then those that were not silent, then the wanted themselves, then
            // the nearest.
            let candidates = others.into_iter().filter_map(|index| {
                let best = self.sources.best(index, now)?;
                let unwanted = !self.want.contains(&index);
                Some((best.attempts, best.silent, unwanted, best.latency_ms, index, best.node))
            });
            let Some((.., index, node)) = candidates.min() else { return };
            self.ask(index, node);
        }
    }

    /// k cannot be had: what is under way may still be counted, then it ends.
    fn settle(&mut self) {
        let soon = self.now.after(self.config.hedge_after_ms.saturating_mul(2));
        let until = *self.settle_until.get_or_insert(soon);
        if self.sources.active() == 0 || self.now >= until {
            self.fail(FailureCause::TooFew);
        }
    }

    /// The bytes were wrong: finds out why, and tries what may still be right.
    fn investigate(&mut self) {
        let Some(doubt) = &mut self.doubt else { return };
        match doubt.step(self.sources.had()) {
            Step::Prove(indices) => {
                self.proving = true;
                self.outputs.push_back(FetchOutput::ProveInconsistent { indices });
            }
            Step::Decode(have) => self.decode(have),
            Step::Exhausted => self.fail(FailureCause::Mismatch),
            Step::MoreShards => {
                self.ask_all();
                let more = |i: u8| !self.sources.had().contains(&i) && self.sources.alive(i);
                if !self.sources.indices().any(more) {
                    if self.doubt.as_ref().is_some_and(Doubt::blames_manifest) {
                        self.outputs.push_back(FetchOutput::Fault(Fault::Manifest));
                    }
                    self.fail(FailureCause::Mismatch);
                }
            }
        }
    }

    /// Asks for every shard that may be had, the wanted first.
    fn ask_all(&mut self) {
        let mut indices: Vec<u8> = self.sources.indices().collect();
        indices.sort_by_key(|index| !self.want.contains(index));
        for index in indices {
            if self.sources.had().contains(&index) || self.sources.asking(index) {
                continue;
            }
            if let Some(best) = self.sources.best(index, self.now).filter(|_| self.room()) {
                self.ask(index, best.node);
            }
        }
    }

    fn decoded(&mut self, result: DecodeResult) {
        let Some(have) = self.decoding.take() else { return };
        if result == DecodeResult::Ok {
            self.over = true;
            self.outputs.push_back(FetchOutput::Complete);
            return;
        }
        if !self.config.investigate {
            return self.fail(FailureCause::Mismatch);
        }
        if self.k == 1 {
            // Copies have one hash, so they are what the descriptor says.
            self.outputs.push_back(FetchOutput::Fault(Fault::Manifest));
            return self.fail(FailureCause::Mismatch);
        }
        let (k, config) = (self.k, self.config);
        let fresh = || Doubt::new(k, &self.want, config.subsets_max, self.seed);
        self.doubt.get_or_insert_with(fresh).wrong(have);
    }

    fn proven(&mut self, evidence: Evidence) {
        if !std::mem::take(&mut self.proving) {
            return;
        }
        let consistent = evidence == Evidence::Consistent;
        if self.doubt.as_mut().is_some_and(|doubt| doubt.compared(consistent)) {
            self.outputs.push_back(FetchOutput::Fault(Fault::Publisher));
        }
    }

    fn fail(&mut self, cause: FailureCause) {
        let inconsistent = self.doubt.as_ref().is_some_and(Doubt::is_inconsistent);
        let failure = self.sources.failure(self.now, cause, self.k, inconsistent);
        self.cancel(|_| true);
        self.over = true;
        self.outputs.push_back(FetchOutput::Failed(failure));
    }

    fn got(&mut self, index: u8, node: NodeId) {
        if self.sources.got(index, node) {
            self.deadline = self.now.after(self.config.deadline_ms);
            // Nobody else needs to send it.
            self.cancel(|other| other == index);
        }
    }
}

impl Machine for SegmentFetch {
    type Input = FetchInput;
    type Output = FetchOutput;

    fn handle(&mut self, now: Millis, input: FetchInput) {
        if self.over {
            return;
        }
        self.now = now;
        match input {
            FetchInput::Got { index, node } => self.got(index, node),
            FetchInput::Heard { index, node } => {
                self.sources.heard(now, index, node);
            }
            FetchInput::Progress { index, node } => {
                if self.sources.heard(now, index, node) {
                    self.deadline = now.after(self.config.deadline_ms);
                }
            }
            FetchInput::Corrupt { index, node } => {
                if self.sources.answered(now, index, node, Answer::Corrupt) {
                    self.outputs.push_back(FetchOutput::Fault(Fault::Holder { index, node }));
                }
            }
            FetchInput::Missing { index, node } => {
                self.sources.answered(now, index, node, Answer::Missing);
            }
            FetchInput::Unreachable { index, node } => {
                self.sources.answered(now, index, node, Answer::Unreachable);
            }
            FetchInput::Decoded(result) => self.decoded(result),
            FetchInput::Proven(evidence) => self.proven(evidence),
            FetchInput::Tick => {}
        }
        self.advance();
    }

    fn poll(&mut self) -> Option<FetchOutput> {
        self.outputs.pop_front()
    }

    fn timeout(&self) -> Option<Millis> {
        if self.over || self.decoding.is_some() || self.proving {
            return None;
        }
        let change = self.sources.next_change(self.now);
        change.into_iter().chain(self.settle_until).chain([self.deadline()]).min()
    }
}
