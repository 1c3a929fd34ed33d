//! Which of the nodes that hold shards beside this one answer, found out by
//! asking each of them directly, again and again. Pure: the driver asks.
//!
//! Nobody's word about another counts; a hint only makes this node ask sooner.
//! A node that did not run for a while (suspended, stopped, starved) knows
//! nothing about others' absence meanwhile: every grace begins anew.

use std::collections::BTreeMap;

use echonet_archive::keeper::Presence;
use echonet_protocol::{identity::NodeId, machine::Millis};

/// Failures in a row from which a node counts as unreachable.
const FAILURES_MIN: u32 = 2;
/// Fewer watched nodes than this say nothing about being cut off.
const ISOLATION_MIN: usize = 4;
/// Nodes asked at once, at most.
const ASKED_MAX: usize = 16;

#[derive(Debug)]
struct Watched {
    /// When it answered last, or was first watched.
    heard: Millis,
    /// When it is asked next.
    ask_at: Millis,
    failures: u32,
    is_asked: bool,
}

impl Watched {
    const fn presence(&self) -> Presence {
        if self.failures < FAILURES_MIN {
            Presence::Reachable
        } else {
            Presence::Unreachable { since: self.heard }
        }
    }
}

/// What is known of each watched node.
#[derive(Debug)]
pub(super) struct Presences {
    nodes: BTreeMap<NodeId, Watched>,
    period_ms: u64,
    /// When this was driven last.
    driven: Millis,
    under_way: usize,
}

impl Presences {
    /// Every watched node is asked once in `period_ms`.
    pub(super) const fn new(now: Millis, period_ms: u64) -> Self {
        Self { nodes: BTreeMap::new(), period_ms, driven: now, under_way: 0 }
    }

    /// From now on this node is asked; the first time within a period, not all at once.
    pub(super) fn watch(&mut self, node: NodeId, now: Millis) {
        let spread = u64::from(node.0[31]) * self.period_ms / 256;
        let watched =
            Watched { heard: now, ask_at: now.after(spread), failures: 0, is_asked: false };
        self.nodes.entry(node).or_insert(watched);
    }

    /// It is asked no more.
    pub(super) fn unwatch(&mut self, node: &NodeId) {
        if self.nodes.remove(node).is_some_and(|watched| watched.is_asked) {
            self.under_way -= 1;
        }
    }

    /// Somebody says that it is gone: it is asked next.
    pub(super) fn hint(&mut self, node: &NodeId, now: Millis) {
        if let Some(watched) = self.nodes.get_mut(node) {
            watched.ask_at = watched.ask_at.min(now);
        }
    }

    /// Which nodes are to be asked now. Begins every grace anew where this node itself did not
    /// run; then gives what is to be told of everybody.
    pub(super) fn due(&mut self, now: Millis) -> (Vec<NodeId>, Vec<(NodeId, Presence)>) {
        let mut told = Vec::new();
        // Twice the period, and the same again for a machine that is merely busy.
        if now.since(self.driven) > 4 * self.period_ms {
            for (node, watched) in &mut self.nodes {
                if watched.failures >= FAILURES_MIN {
                    told.push((*node, Presence::Reachable));
                }
                watched.heard = now;
                watched.failures = 0;
                watched.ask_at = now;
            }
        }
        self.driven = now;
        let room = ASKED_MAX.saturating_sub(self.under_way);
        let mut due: Vec<(Millis, NodeId)> = self
            .nodes
            .iter()
            .filter(|(_, w)| !w.is_asked && w.ask_at <= now)
            .map(|(node, w)| (w.ask_at, *node))
            .collect();
        due.sort_unstable();
        due.truncate(room);
        for (_, node) in &due {
            if let Some(watched) = self.nodes.get_mut(node) {
                watched.is_asked = true;
                self.under_way += 1;
            }
        }
        (due.into_iter().map(|(_, node)| node).collect(), told)
    }

    /// What came of asking; what is to be told, where that changed.
    pub(super) fn asked(&mut self, node: NodeId, now: Millis, answered: bool) -> Option<Presence> {
        let watched = self.nodes.get_mut(&node)?;
        if std::mem::take(&mut watched.is_asked) {
            self.under_way -= 1;
        }
        let before = watched.presence();
        if answered {
            (watched.heard, watched.failures) = (now, 0);
        } else {
            watched.failures = watched.failures.saturating_add(1);
        }
        // One that failed once is asked again soon, so that one lost packet decides nothing.
        let is_doubtful = watched.failures > 0 && watched.failures < FAILURES_MIN;
        let wait_ms = if is_doubtful { self.period_ms / 4 } else { self.period_ms };
        watched.ask_at = now.after(wait_ms.max(1));
        let after = watched.presence();
        (before != after).then_some(after)
    }

    /// What this node knows of another; none: nothing.
    pub(super) fn of(&self, node: &NodeId) -> Option<Presence> {
        self.nodes.get(node).map(Watched::presence)
    }

    /// Whether fewer than half of the watched nodes answer: then it is more likely that this node
    /// is cut off than that they are gone.
    pub(super) fn is_isolated(&self) -> bool {
        let gone = self.nodes.values().filter(|w| w.failures >= FAILURES_MIN).count();
        self.nodes.len() >= ISOLATION_MIN && 2 * gone > self.nodes.len()
    }

    /// When to ask somebody next.
    pub(super) fn timeout(&self) -> Option<Millis> {
        if self.under_way >= ASKED_MAX {
            return None;
        }
        self.nodes.values().filter(|w| !w.is_asked).map(|w| w.ask_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([0; 32]);

    fn step(presences: &mut Presences, now: Millis, answered: bool) -> Option<Presence> {
        let (due, _) = presences.due(now);
        assert_eq!(due, [NODE], "asked at {now:?}");
        presences.asked(NODE, now, answered)
    }

    #[test]
    fn one_failure_is_none_and_the_second_counts_from_the_last_word() {
        let mut presences = Presences::new(Millis(0), 1000);
        presences.watch(NODE, Millis(0));
        assert_eq!(step(&mut presences, Millis(0), true), None);
        assert_eq!(step(&mut presences, Millis(1000), false), None);
        let since = Presence::Unreachable { since: Millis(0) };
        assert_eq!(step(&mut presences, Millis(1250), false), Some(since));
        assert_eq!(presences.of(&NODE), Some(since));
        assert_eq!(step(&mut presences, Millis(2250), true), Some(Presence::Reachable));
    }

    #[test]
    fn after_a_sleep_of_its_own_every_grace_begins_anew() {
        let mut presences = Presences::new(Millis(0), 1000);
        presences.watch(NODE, Millis(0));
        for at in [0, 250] {
            step(&mut presences, Millis(at), false);
        }
        let (due, told) = presences.due(Millis(100_000));
        assert_eq!((due, told), (vec![NODE], vec![(NODE, Presence::Reachable)]));
        assert_eq!(presences.asked(NODE, Millis(100_000), false), None);
        let since = Presence::Unreachable { since: Millis(100_000) };
        assert_eq!(step(&mut presences, Millis(100_250), false), Some(since));
    }

    #[test]
    fn who_hears_nobody_is_cut_off() {
        let mut presences = Presences::new(Millis(0), 1000);
        for i in 0..6 {
            presences.watch(NodeId([i; 32]), Millis(0));
        }
        for (round, at) in [0, 1000, 1250].into_iter().enumerate() {
            presences.due(Millis(at));
            for i in 0..6 {
                presences.asked(NodeId([i; 32]), Millis(at), i < 2 && round > 0);
            }
        }
        assert!(presences.is_isolated());
        presences.due(Millis(3000));
        for i in 0..6 {
            presences.asked(NodeId([i; 32]), Millis(3000), i < 3);
        }
        assert!(!presences.is_isolated(), "half of them answer");
    }
}
