//! Which manifest to believe, when anybody may announce one.
//!
//! At most two are tried at once, the best ranked first; one is believed only
//! after a random MiB of what it leads to verified against the ContentID.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::race_types::{ManifestCandidate, RaceConfig, RaceFailure, RaceInput, RaceOutput, Trust};
use crate::{
    bytes::ManifestHash,
    identity::NodeId,
    machine::{Draws, Machine, Millis},
};

/// Finds a manifest to believe (design 6).
///
/// A bad one costs at most a MiB, and marks those who announced it. A manifest
/// that is believed and later found bad is reported like any other: the race
/// then goes on with the rest.
#[derive(Debug)]
pub struct ManifestRace {
    config: RaceConfig,
    seed: u64,
    known: BTreeMap<ManifestHash, Known>,
    believed: Option<ManifestHash>,
    search_over: bool,
    deadline: Millis,
    found: usize,
    bad: usize,
    /// Words of the best ranked failure.
    reason: Option<(Trust, String)>,
    outputs: VecDeque<RaceOutput>,
    over: bool,
}

#[derive(Debug)]
struct Known {
    trust: Trust,
    announcers: BTreeSet<NodeId>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// How often it made room for others.
    Waiting {
        yielded: u32,
    },
    Trying {
        until: Millis,
        yielded: u32,
    },
    Believed,
    Unavailable,
    Bad,
}

/// Which MiB of a content of `length` bytes is read before `manifest` is
/// believed: unforeseeable for whoever does not know `seed`. Counted from 0; 0
/// for empty content.
#[must_use]
pub fn mib_to_check(seed: u64, length: u64) -> u64 {
    Draws::new(seed).below(length.div_ceil(1 << 20))
}

impl ManifestRace {
    /// A race to which announcements are reported as they are found. `seed` must
    /// not be foreseeable for announcers.
    #[must_use]
    pub const fn new(now: Millis, config: RaceConfig, seed: u64) -> Self {
        Self {
            config,
            seed,
            known: BTreeMap::new(),
            believed: None,
            search_over: false,
            deadline: now.after(config.deadline_ms),
            found: 0,
            bad: 0,
            reason: None,
            outputs: VecDeque::new(),
            over: false,
        }
    }

    /// Who announced a manifest, as far as remembered.
    pub fn announcers(&self, manifest: &ManifestHash) -> impl Iterator<Item = NodeId> {
        self.known.get(manifest).into_iter().flat_map(|k| k.announcers.iter().copied())
    }

    fn found(&mut self, candidate: ManifestCandidate) {
        let ManifestCandidate { manifest, announcer, trust } = candidate;
        if let Some(known) = self.known.get_mut(&manifest) {
            known.trust = known.trust.min(trust);
            if known.announcers.len() < self.config.announcers_max {
                known.announcers.insert(announcer);
            }
            if known.state == State::Bad {
                self.mark(manifest, vec![announcer], "announced a bad manifest".to_owned());
            }
            return;
        }
        self.found += 1;
        // At least one that is not under way can always make room.
        let max = self.config.candidates_max.max(self.config.parallel_max.max(1) + 1);
        if self.known.len() >= max && !self.make_room(trust) {
            return;
        }
        let state = State::Waiting { yielded: 0 };
        let announcers = BTreeSet::from([announcer]);
        self.known.insert(manifest, Known { trust, announcers, state });
    }

    /// Forgets the worst ranked one that is not under way, if it is worse than
    /// `trust`, or over.
    fn make_room(&mut self, trust: Trust) -> bool {
        let idle = self.known.iter().filter(|(_, k)| match k.state {
            State::Waiting { .. } => k.trust > trust,
            State::Unavailable | State::Bad => true,
            State::Trying { .. } | State::Believed => false,
        });
        let worst = idle.map(|(&m, k)| ((k.state != State::Bad, k.trust, m), m)).max();
        let Some((_, manifest)) = worst else { return false };
        self.known.remove(&manifest);
        true
    }

    fn mark(&mut self, manifest: ManifestHash, announcers: Vec<NodeId>, reason: String) {
        self.outputs.push_back(RaceOutput::Mark { manifest, announcers, reason });
    }

    fn verified(&mut self, manifest: ManifestHash) {
        let Some(known) = self.known.get_mut(&manifest) else { return };
        // Also one that was cancelled meanwhile: what verified, verified.
        let can = matches!(known.state, State::Trying { .. } | State::Waiting { .. });
        if !can || self.believed.is_some() {
            return;
        }
        known.state = State::Believed;
        self.believed = Some(manifest);
        self.outputs.push_back(RaceOutput::Believe { manifest });
        let others: Vec<ManifestHash> = self.trying().map(|(_, m)| m).collect();
        others.into_iter().for_each(|m| self.cancel(m));
    }

    fn lost(&mut self, now: Millis, manifest: ManifestHash, is_bad: bool, reason: String) {
        let Some(known) = self.known.get_mut(&manifest) else { return };
        if matches!(known.state, State::Bad | State::Unavailable) {
            return;
        }
        known.state = if is_bad { State::Bad } else { State::Unavailable };
        let (trust, announcers) = (known.trust, known.announcers.iter().copied().collect());
        if self.reason.as_ref().is_none_or(|(best, _)| trust < *best) {
            self.reason = Some((trust, reason.clone()));
        }
        if self.believed == Some(manifest) {
            self.believed = None;
            self.deadline = now.after(self.config.deadline_ms);
        }
        if is_bad {
            self.bad += 1;
            self.mark(manifest, announcers, reason);
        }
    }

    /// Those under way: (trust, manifest).
    fn trying(&self) -> impl Iterator<Item = (Trust, ManifestHash)> {
        let trying = self.known.iter().filter(|(_, k)| matches!(k.state, State::Trying { .. }));
        trying.map(|(&manifest, k)| (k.trust, manifest))
    }

    /// The best of those that wait; who made room before comes later.
    fn waiting(&self) -> Option<(u32, Trust, ManifestHash)> {
        let waiting = self.known.iter().filter_map(|(&manifest, k)| match k.state {
            State::Waiting { yielded } => Some((yielded, k.trust, manifest)),
            _ => None,
        });
        waiting.min()
    }

    fn cancel(&mut self, manifest: ManifestHash) {
        if let Some(known) = self.known.get_mut(&manifest)
            && let State::Trying { yielded, .. } = known.state
        {
            known.state = State::Waiting { yielded: yielded + 1 };
            self.outputs.push_back(RaceOutput::Cancel { manifest });
        }
    }

    fn expire(&mut self, now: Millis) {
        let late = self
            .known
            .iter()
            .filter(|(_, k)| matches!(k.state, State::Trying { until, .. } if until <= now));
        let late: Vec<ManifestHash> = late.map(|(&manifest, _)| manifest).collect();
        // A slow one goes on while nobody with a better claim wants its place.
        for manifest in late {
            let State::Trying { yielded, .. } = self.known[&manifest].state else { continue };
            if self.waiting().is_some_and(|(others, ..)| others <= yielded) {
                self.cancel(manifest);
            }
        }
    }

    fn advance(&mut self, now: Millis) {
        if self.over || self.believed.is_some() {
            return;
        }
        if now >= self.deadline {
            return self.fail(true);
        }
        self.expire(now);
        while let Some((yielded, trust, manifest)) = self.waiting() {
            if self.trying().count() >= self.config.parallel_max.max(1) {
                // Strangers do not keep a trusted one waiting that had no chance yet.
                match self.trying().max() {
                    Some((worst, other)) if yielded == 0 && worst > trust => self.cancel(other),
                    _ => break,
                }
            }
            self.start(now, manifest);
        }
        if self.search_over && self.trying().next().is_none() {
            self.fail(false);
        }
    }

    fn start(&mut self, now: Millis, manifest: ManifestHash) {
        let until = now.after(self.config.attempt_timeout_ms);
        let Some(known) = self.known.get_mut(&manifest) else { return };
        let State::Waiting { yielded } = known.state else { return };
        known.state = State::Trying { until, yielded };
        // Each manifest has a place of its own, whenever it is tried.
        let mut first = [0; 8];
        first.copy_from_slice(&manifest.0[..8]);
        let seed = Draws::new(self.seed ^ u64::from_le_bytes(first)).next_u64();
        self.outputs.push_back(RaceOutput::Try { manifest, seed });
    }

    fn fail(&mut self, timed_out: bool) {
        let under_way: Vec<ManifestHash> = self.trying().map(|(_, m)| m).collect();
        under_way.into_iter().for_each(|m| self.cancel(m));
        self.over = true;
        let reason = self.reason.take().map_or_else(String::new, |(_, reason)| reason);
        let (found, bad) = (self.found, self.bad);
        self.outputs.push_back(RaceOutput::Failed(RaceFailure { found, bad, reason, timed_out }));
    }
}

impl Machine for ManifestRace {
    type Input = RaceInput;
    type Output = RaceOutput;

    fn handle(&mut self, now: Millis, input: RaceInput) {
        if self.over {
            return;
        }
        match input {
            RaceInput::Found(candidate) => self.found(candidate),
            RaceInput::SearchOver => self.search_over = true,
            RaceInput::Verified { manifest } => self.verified(manifest),
            RaceInput::Bad { manifest, reason } => self.lost(now, manifest, true, reason),
            RaceInput::Unavailable { manifest, reason } => self.lost(now, manifest, false, reason),
            RaceInput::Tick => {}
        }
        self.advance(now);
    }

    fn poll(&mut self) -> Option<RaceOutput> {
        self.outputs.pop_front()
    }

    fn timeout(&self) -> Option<Millis> {
        if self.over || self.believed.is_some() {
            return None;
        }
        let waiting = self.waiting().map(|(yielded, ..)| yielded);
        let trying = self.known.values().filter_map(|k| match k.state {
            State::Trying { until, yielded } if waiting.is_some_and(|w| w <= yielded) => {
                Some(until)
            }
            _ => None,
        });
        trying.chain([self.deadline]).min()
    }
}
