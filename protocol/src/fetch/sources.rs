//! Who is asked for which shard of a segment, and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use super::types::{FailureCause, FetchConfig, FetchFailure, FetchRequest};
use crate::{identity::NodeId, machine::Millis};

/// Holders remembered for one index, at most: those with the least latency.
const HOLDERS_PER_INDEX_MAX: usize = 8;

/// One (index, node) pair.
#[derive(Debug, Clone, Copy)]
struct Source {
    node: NodeId,
    latency_ms: u32,
    /// Not counted on, until it is heard.
    silent: bool,
    attempts: u32,
    /// Retries used up: one by a failed attempt, two by one that hung.
    strikes: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Never asked, or asked and given up by us.
    Fresh,
    /// Asked at `since`; last heard of at `heard`, if it `spoke` at all.
    Active {
        since: Millis,
        heard: Millis,
        spoke: bool,
    },
    /// Did not answer; not again before.
    Failed {
        ready: Millis,
    },
    Missing,
    Corrupt,
}

/// A source that may be asked; the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// Attempts so far.
    pub(super) attempts: u32,
    pub(super) silent: bool,
    pub(super) latency_ms: u32,
    pub(super) node: NodeId,
}

/// What a source answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Corrupt,
    Missing,
    Unreachable,
    TimedOut,
}

/// All sources of one fetch.
#[derive(Debug)]
pub(super) struct Sources {
    config: FetchConfig,
    n: usize,
    by_index: BTreeMap<u8, Vec<Source>>,
    had: BTreeSet<u8>,
    /// Indices in the order of their arrival.
    arrivals: Vec<u8>,
}

impl Sources {
    pub(super) fn new(config: FetchConfig, request: &FetchRequest) -> Self {
        let n = request.scheme.n();
        let mut by_index = BTreeMap::new();
        for (&index, holders) in request.holders.iter().filter(|(i, _)| (**i as usize) < n) {
            let mut seen = BTreeSet::new();
            let mut sources: Vec<Source> = holders
                .iter()
                .filter(|h| seen.insert(h.node))
                .map(|h| Source {
                    node: h.node,
                    latency_ms: h.latency_ms,
                    silent: h.is_silent,
                    attempts: 0,
                    strikes: 0,
                    state: State::Fresh,
                })
                .collect();
            sources.sort_by_key(|s| (s.silent, s.latency_ms, s.node));
            sources.truncate(HOLDERS_PER_INDEX_MAX);
            by_index.insert(index, sources);
        }
        Self { config, n, by_index, had: BTreeSet::new(), arrivals: Vec::new() }
    }

    pub(super) const fn had(&self) -> &BTreeSet<u8> {
        &self.had
    }

    /// Indices whose range is there, in the order of their arrival.
    pub(super) fn arrivals(&self) -> &[u8] {
        &self.arrivals
    }

    fn of(&self, index: u8) -> &[Source] {
        self.by_index.get(&index).map_or(&[], Vec::as_slice)
    }

    fn find(&mut self, index: u8, node: NodeId) -> Option<&mut Source> {
        self.by_index.get_mut(&index)?.iter_mut().find(|s| s.node == node)
    }

    /// Takes note of a range, also one that was given up. False: nobody asked.
    pub(super) fn got(&mut self, index: u8, node: NodeId) -> bool {
        let Some(source) = self.find(index, node).filter(|s| s.attempts > 0) else { return false };
        source.state = State::Fresh;
        if self.had.insert(index) {
            self.arrivals.push(index);
        }
        true
    }

    /// Takes note of another answer. False: nobody asked, or it was given up.
    pub(super) fn answered(
        &mut self,
        now: Millis,
        index: u8,
        node: NodeId,
        answer: Answer,
    ) -> bool {
        let backoff_ms = self.config.backoff_ms;
        let Some(source) = self.find(index, node) else { return false };
        if !matches!(source.state, State::Active { .. }) {
            return false;
        }
        let doublings = source.attempts.saturating_sub(1).min(16);
        source.state = match answer {
            Answer::Corrupt => State::Corrupt,
            Answer::Missing => State::Missing,
            Answer::Unreachable | Answer::TimedOut => {
                source.strikes += if answer == Answer::TimedOut { 2 } else { 1 };
                State::Failed { ready: now.after(backoff_ms.saturating_mul(1 << doublings)) }
            }
        };
        true
    }

    /// Asks.
    pub(super) fn start(&mut self, now: Millis, index: u8, node: NodeId) {
        if let Some(source) = self.find(index, node) {
            source.attempts += 1;
            source.state = State::Active { since: now, heard: now, spoke: false };
        }
    }

    /// Takes note of a sign of life. False: nobody asked.
    pub(super) fn heard(&mut self, now: Millis, index: u8, node: NodeId) -> bool {
        let Some(source) = self.find(index, node) else { return false };
        let State::Active { heard, spoke, .. } = &mut source.state else { return false };
        (*heard, *spoke, source.silent) = (now, true, false);
        true
    }

    /// Gives up what is under way, without blame; returns what that was.
    pub(super) fn give_up(&mut self, only: impl Fn(u8) -> bool) -> Vec<(u8, NodeId)> {
        let mut given_up = Vec::new();
        for (&index, sources) in self.by_index.iter_mut().filter(|(i, _)| only(**i)) {
            for source in sources {
                if matches!(source.state, State::Active { .. }) {
                    source.state = State::Fresh;
                    given_up.push((index, source.node));
                }
            }
        }
        given_up
    }

    fn each(&self) -> impl Iterator<Item = (u8, &Source)> {
        self.by_index.iter().flat_map(|(&index, sources)| sources.iter().map(move |s| (index, s)))
    }

    /// How many are under way.
    pub(super) fn active(&self) -> usize {
        self.each().filter(|(_, s)| matches!(s.state, State::Active { .. })).count()
    }

    /// How many are under way and counted on.
    pub(super) fn promising(&self, now: Millis) -> usize {
        self.each().filter(|(_, s)| self.is_promising(s, now)).count()
    }

    /// Whether a source is asked, neither late nor one that failed before or was silent: all that
    /// are left of those are asked at once, not one after the other.
    fn is_promising(&self, source: &Source, now: Millis) -> bool {
        let State::Active { spoke, since, .. } = source.state else { return false };
        let patience_ms = if spoke { self.config.hedge_after_ms } else { self.first_word_ms() };
        source.strikes == 0 && !source.silent && since.after(patience_ms) > now
    }

    fn first_word_ms(&self) -> u64 {
        self.config.first_word_ms.min(self.config.hedge_after_ms)
    }

    /// Those whose attempt took too long by `now`.
    pub(super) fn late(&self, now: Millis) -> Vec<(u8, NodeId)> {
        let timeout_ms = self.config.attempt_timeout_ms;
        let late = self.each().filter(|(_, s)| match s.state {
            State::Active { heard, .. } => heard.after(timeout_ms) <= now,
            _ => false,
        });
        late.map(|(index, source)| (index, source.node)).collect()
    }

    fn may_be_asked(&self, source: &Source) -> bool {
        match source.state {
            State::Fresh => true,
            State::Failed { .. } => source.strikes <= self.config.retries_max,
            State::Active { .. } | State::Missing | State::Corrupt => false,
        }
    }

    /// Whether an index is there or may still come.
    pub(super) fn alive(&self, index: u8) -> bool {
        let alive = |s: &Source| matches!(s.state, State::Active { .. }) || self.may_be_asked(s);
        self.had.contains(&index) || self.of(index).iter().any(alive)
    }

    /// How many indices are there, or may come from who is not known to be silent.
    pub(super) fn vocal_count(&self) -> usize {
        let vocal = |s: &Source| {
            !s.silent && (matches!(s.state, State::Active { .. }) || self.may_be_asked(s))
        };
        let there = |&index: &u8| self.had.contains(&index) || self.of(index).iter().any(vocal);
        self.indices().filter(there).count()
    }

    pub(super) fn alive_count(&self) -> usize {
        self.indices().filter(|&index| self.alive(index)).count()
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = u8> + use<> {
        (0..=u8::MAX).take(self.n)
    }

    /// Whether an index is there, or expected soon: asked for and not slow.
    pub(super) fn expected(&self, index: u8, now: Millis) -> bool {
        self.had.contains(&index) || self.of(index).iter().any(|s| self.is_promising(s, now))
    }

    /// Whether somebody is asked for an index, slow or not.
    pub(super) fn asking(&self, index: u8) -> bool {
        self.of(index).iter().any(|s| matches!(s.state, State::Active { .. }))
    }

    /// The best source to ask for an index now.
    pub(super) fn best(&self, index: u8, now: Millis) -> Option<Candidate> {
        let ready = |s: &&Source| match s.state {
            State::Failed { ready } => ready <= now,
            _ => true,
        };
        let may = self.of(index).iter().filter(|s| self.may_be_asked(s)).filter(ready);
        let candidate = |s: &Source| Candidate {
            attempts: s.attempts,
            silent: s.silent,
            latency_ms: s.latency_ms,
            node: s.node,
        };
        may.map(candidate).min()
    }

    /// When something changes by itself after `now`.
    pub(super) fn next_change(&self, now: Millis) -> Option<Millis> {
        let config = self.config;
        let times = self.each().flat_map(|(_, source)| match source.state {
            State::Active { since, heard, spoke } => [
                Some(since.after(config.hedge_after_ms)),
                Some(heard.after(config.attempt_timeout_ms)),
                (!spoke).then(|| since.after(self.first_word_ms())),
            ],
            State::Failed { ready } if self.may_be_asked(source) => [Some(ready), None, None],
            _ => [None, None, None],
        });
        times.flatten().filter(|&at| at > now).min()
    }

    /// Counts what became of every index.
    pub(super) fn failure(
        &self,
        now: Millis,
        cause: FailureCause,
        needed: usize,
        inconsistent: bool,
    ) -> FetchFailure {
        let mut failure = FetchFailure {
            cause,
            needed,
            answered: 0,
            unreachable: 0,
            missing: 0,
            corrupt: 0,
            unasked: 0,
            unknown: 0,
            inconsistent,
        };
        for index in self.indices() {
            *self.count_of(index, now, &mut failure) += 1;
        }
        failure
    }

    fn count_of<'a>(&self, index: u8, now: Millis, to: &'a mut FetchFailure) -> &'a mut usize {
        let sources = self.of(index);
        let any = |state: fn(&State) -> bool| sources.iter().any(|s| state(&s.state));
        let silent = |s: &Source| match s.state {
            State::Active { since, .. } => {
                s.strikes > 0 || since.after(self.config.hedge_after_ms) <= now
            }
            State::Fresh | State::Failed { .. } => s.strikes > 0,
            State::Missing | State::Corrupt => false,
        };
        if self.had.contains(&index) {
            &mut to.answered
        } else if sources.is_empty() {
            &mut to.unknown
        } else if sources.iter().any(silent) {
            &mut to.unreachable
        } else if any(|s| matches!(s, State::Fresh | State::Active { .. })) {
            &mut to.unasked
        } else if any(|s| *s == State::Corrupt) {
            &mut to.corrupt
        } else {
            &mut to.missing
        }
    }
}
