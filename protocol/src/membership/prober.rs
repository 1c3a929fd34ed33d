//! Watches the nodes that this node's own segments depend on, by its own probes.
//!
//! It believes nobody: a hint only brings a probe forward. It never says that
//! somebody is lost while it may be this node that slept or is cut off.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    pace::Pace,
    prober_types::{Health, ProbeResult, ProberInput, ProberOutput, ProberSizes},
    watched::Watched,
};
use crate::{
    identity::NodeId,
    machine::{Draws, Machine, Millis},
    time::UnixSeconds,
};

/// Probes for hints before one whose time has come.
const HINTS_IN_A_ROW: u32 = 3;

/// See the module.
#[derive(Debug)]
pub struct Prober {
    pace: Pace,
    draws: Draws,
    watched: BTreeMap<NodeId, Watched>,
    /// By when their next probe is due; those under way are not in it.
    schedule: BTreeSet<(Millis, NodeId)>,
    hints: VecDeque<NodeId>,
    hints_in_a_row: u32,
    /// Until when a result is awaited.
    running: BTreeMap<NodeId, Millis>,
    /// Probes that may begin now, and when one was last added.
    tokens: u64,
    refilled: Millis,
    /// How many answer, and who is silent since when.
    answering: usize,
    silent: BTreeSet<(Millis, NodeId)>,
    told_isolated: bool,
    refused: u64,
    clock: Option<(Millis, UnixSeconds)>,
    last_input: Millis,
    outputs: VecDeque<ProberOutput>,
}

impl Prober {
    /// Watches nobody yet.
    #[must_use]
    pub const fn new(now: Millis, pace: Pace, seed: u64) -> Self {
        Self {
            pace,
            draws: Draws::new(seed),
            watched: BTreeMap::new(),
            schedule: BTreeSet::new(),
            hints: VecDeque::new(),
            hints_in_a_row: 0,
            running: BTreeMap::new(),
            tokens: pace.watch_rate,
            refilled: now,
            answering: 0,
            silent: BTreeSet::new(),
            told_isolated: false,
            refused: 0,
            clock: None,
            last_input: now,
            outputs: VecDeque::new(),
        }
    }

    /// What own probes say of a node; `Unknown` too where it is not watched.
    #[must_use]
    pub fn health(&self, node: &NodeId) -> Health {
        self.watched.get(node).map_or(Health::Unknown, |w| w.health)
    }

    /// Since when a node is silent; none: it is not, as far as is known.
    #[must_use]
    pub fn silent_since(&self, node: &NodeId) -> Option<Millis> {
        self.watched.get(node).filter(|w| w.health.is_silent()).map(|w| w.since)
    }

    /// Whether a node answered none of several own probes during all of
    /// `grace_ms` up to now. Never while this node seems to be cut off.
    #[must_use]
    pub fn lost(&self, node: &NodeId, now: Millis, grace_ms: u64) -> bool {
        let gap_ms = self.gap_ms();
        !self.is_isolated(now)
            && self.watched.get(node).is_some_and(|w| w.is_lost(now, grace_ms, gap_ms))
    }

    /// Whether this node, rather than all others, seems to be cut off: nobody
    /// that it watches answers, or more have fallen silent within
    /// [`Pace::watch_memory_ms`] than answer.
    #[must_use]
    pub fn is_isolated(&self, now: Millis) -> bool {
        if self.answering == 0 {
            return !self.silent.is_empty();
        }
        let from = Millis(now.0.saturating_sub(self.pace.watch_memory_ms));
        let recent = self.silent.range((from, NodeId([0; 32]))..);
        recent.take(self.answering + 1).count() > self.answering
    }

    /// How much is kept.
    #[must_use]
    pub fn sizes(&self) -> ProberSizes {
        ProberSizes {
            watched: self.watched.len(),
            refused: self.refused,
            running: self.running.len(),
            hints: self.hints.len(),
        }
    }

    /// Probes of one node that lie further apart than this say nothing about the
    /// time in between: a few periods, or rounds where the rate bounds those.
    fn gap_ms(&self) -> u64 {
        let round_ms =
            (self.watched.len() as u64).saturating_mul(1000) / self.pace.watch_rate.max(1);
        (self.pace.watch_failing_ms.saturating_mul(4))
            .max(round_ms.saturating_mul(3))
            .max(self.pace.asleep_ms)
            .saturating_add(self.pace.watch_answer_ms)
    }

    // --- who is watched ---

    fn watch(&mut self, now: Millis, node: NodeId) {
        if self.watched.contains_key(&node) {
            return;
        }
        if self.watched.len() >= self.pace.watched_max {
            self.refused += 1;
            return;
        }
        self.watched.insert(node, Watched::new(now));
        self.schedule.insert((now, node));
    }

    fn unwatch(&mut self, node: NodeId) {
        let Some(watched) = self.watched.remove(&node) else { return };
        self.count(node, watched.health, watched.since, false);
        self.schedule.remove(&(watched.due, node));
        self.running.remove(&node);
        self.hints.retain(|n| *n != node);
    }

    fn hint(&mut self, now: Millis, node: NodeId) {
        let rest_ms = self.pace.probe_fails_ms;
        let is_running = self.running.contains_key(&node);
        let Some(watched) = self.watched.get_mut(&node) else { return };
        let is_fresh = watched.heard.is_some_and(|heard| now.since(heard) < rest_ms);
        if !watched.is_hinted && !is_running && !is_fresh {
            watched.is_hinted = true;
            self.hints.push_back(node);
        }
    }

    // --- results ---

    /// Keeps the counts of who answers and who does not.
    fn count(&mut self, node: NodeId, health: Health, since: Millis, is_there: bool) {
        if health.answers() {
            self.answering = self.answering.saturating_add_signed(if is_there { 1 } else { -1 });
        } else if health.is_silent() && is_there {
            self.silent.insert((since, node));
        } else if health.is_silent() {
            self.silent.remove(&(since, node));
        }
    }

    /// Changes a watched node by what was found; tells it where that changes anything.
    fn update(&mut self, node: NodeId, change: impl FnOnce(&mut Watched) -> bool) {
        let Some(watched) = self.watched.get_mut(&node) else { return };
        let (health, since) = (watched.health, watched.since);
        let is_changed = change(watched);
        let (health_now, since_now) = (watched.health, watched.since);
        if is_changed {
            self.count(node, health, since, false);
            self.count(node, health_now, since_now, true);
            let (health, since) = (health_now, since_now);
            self.outputs.push_back(ProberOutput::Changed { node, health, since });
        }
    }

    fn probed(&mut self, now: Millis, node: NodeId, result: ProbeResult) {
        if self.running.remove(&node).is_none() {
            return;
        }
        let (pace, gap_ms) = (self.pace, self.gap_ms());
        self.update(node, |watched| match result {
            ProbeResult::Healthy => watched.answers(now, Health::Healthy),
            ProbeResult::DiskSick => watched.answers(now, Health::DiskSick),
            ProbeResult::Mute | ProbeResult::Unreachable => {
                watched.fails(now, result, &pace, gap_ms)
            }
        });
        let Some(watched) = self.watched.get(&node) else { return };
        let pause_ms = match (&watched.silence, watched.health.is_silent()) {
            (None, _) => pace.watch_ms,
            // Not yet sure: soon again.
            (Some(_), false) => pace.probe_ms,
            (Some(_), true) => pace.watch_failing_ms,
        };
        // Up to an eighth earlier, so that nodes do not stay in step.
        let earlier_ms = self.draws.below(pause_ms / 8 + 1);
        self.plan(node, now.after(pause_ms - earlier_ms));
    }

    fn observed(&mut self, now: Millis, node: NodeId) {
        self.update(node, |watched| {
            // Its disk is not seen from its traffic.
            let is_sick = watched.health == Health::DiskSick;
            watched.answers(now, if is_sick { Health::DiskSick } else { Health::Healthy })
        });
    }

    fn plan(&mut self, node: NodeId, due: Millis) {
        if let Some(watched) = self.watched.get_mut(&node) {
            self.schedule.remove(&(watched.due, node));
            watched.due = due;
            self.schedule.insert((due, node));
        }
    }

    /// This node slept, or was cut off: all silence begins anew.
    fn begin_anew(&mut self, now: Millis) {
        let nodes: Vec<NodeId> = self.watched.keys().copied().collect();
        for node in nodes {
            self.update(node, |watched| watched.begin_anew(now));
        }
    }

    /// Probes that were under way while this node slept say nothing.
    fn awake(&mut self, now: Millis) {
        let running: Vec<NodeId> = std::mem::take(&mut self.running).into_keys().collect();
        for node in running {
            self.plan(node, now);
        }
        self.begin_anew(now);
    }

    fn clock(&mut self, now: Millis, unix: UnixSeconds) {
        let before = self.clock.replace((now, unix));
        let Some((then, unix_then)) = before else { return };
        let passed_ms = unix.0.saturating_sub(unix_then.0).saturating_mul(1000);
        if passed_ms > now.since(then).saturating_add(self.pace.asleep_ms) {
            self.awake(now);
        }
    }

    // --- probing ---

    fn token_ms(&self) -> u64 {
        1000_u64.div_ceil(self.pace.watch_rate.max(1))
    }

    fn refill(&mut self, now: Millis) {
        let token_ms = self.token_ms();
        let gained = now.since(self.refilled) / token_ms;
        self.tokens = self.tokens.saturating_add(gained).min(self.pace.watch_rate);
        self.refilled = self.refilled.after(gained * token_ms);
    }

    /// Begins what is due, hints first, as far as rate and number allow.
    fn begin(&mut self, now: Millis) {
        self.refill(now);
        while self.tokens > 0 && self.running.len() < self.pace.watch_running_max {
            let due = self.schedule.first().filter(|(due, _)| *due <= now).map(|(_, node)| *node);
            let hint_waits = self.hints_in_a_row >= HINTS_IN_A_ROW && due.is_some();
            let hint = if hint_waits { None } else { self.hints.pop_front() };
            self.hints_in_a_row = if hint.is_some() { self.hints_in_a_row + 1 } else { 0 };
            let Some(node) = hint.or(due) else { return };
            let Some(watched) = self.watched.get_mut(&node) else { return };
            if hint.is_some() {
                watched.is_hinted = false;
                if self.running.contains_key(&node) {
                    continue;
                }
            }
            self.schedule.remove(&(watched.due, node));
            self.running.insert(node, now.after(self.pace.watch_answer_ms));
            self.tokens -= 1;
            self.outputs.push_back(ProberOutput::Probe(node));
        }
    }

    /// Probes of which nothing was reported: the driver's fault, nobody else's.
    fn give_up(&mut self, now: Millis) {
        let over = self.running.iter().filter(|(_, until)| **until <= now).map(|(node, _)| *node);
        for node in over.collect::<Vec<_>>() {
            self.running.remove(&node);
            self.plan(node, now);
        }
    }
}

impl Machine for Prober {
    type Input = ProberInput;
    type Output = ProberOutput;

    fn handle(&mut self, now: Millis, input: ProberInput) {
        // It was to be called by then.
        if self.timeout().is_some_and(|at| now.since(at) > self.pace.asleep_ms) {
            self.awake(now);
        }
        self.last_input = now;
        let was_isolated = self.is_isolated(now);
        match input {
            ProberInput::Watch(node) => self.watch(now, node),
            ProberInput::Unwatch(node) => self.unwatch(node),
            ProberInput::Hint(node) => self.hint(now, node),
            ProberInput::Probed { node, result } => self.probed(now, node, result),
            ProberInput::Observed(node) => self.observed(now, node),
            ProberInput::Clock(unix) => self.clock(now, unix),
            ProberInput::Tick => {}
        }
        self.give_up(now);
        if was_isolated && !self.is_isolated(now) {
            // Others may have come back unseen, as this node did. Where most are still silent, that
            // begins now, and this node is still cut off.
            self.begin_anew(now);
        }
        let is_isolated = self.is_isolated(now);
        if is_isolated != self.told_isolated {
            self.told_isolated = is_isolated;
            self.outputs.push_back(ProberOutput::Isolated(is_isolated));
        }
        self.begin(now);
    }

    fn poll(&mut self) -> Option<ProberOutput> {
        self.outputs.pop_front()
    }

    fn timeout(&self) -> Option<Millis> {
        let running = self.running.values().min().copied();
        let can_begin = self.running.len() < self.pace.watch_running_max;
        let due = self.schedule.first().map(|(due, _)| *due);
        let due = if self.hints.is_empty() { due } else { Some(self.last_input) };
        let token_at =
            if self.tokens > 0 { self.last_input } else { self.refilled.after(self.token_ms()) };
        let begins = due.filter(|_| can_begin).map(|due| due.max(token_at));
        running.into_iter().chain(begins).min()
    }
}
