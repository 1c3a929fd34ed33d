//! The bounded table of members, and the order in which they are asked.
//!
//! Who ever answered and is not known to be gone is displaced by nobody.

use std::collections::BTreeMap;

use super::{claim::Life, member::Member, pace::Pace};
use crate::{
    identity::NodeId,
    machine::{Draws, Millis},
};

#[derive(Debug)]
pub(super) struct Members {
    table: BTreeMap<NodeId, Member>,
    /// A shuffled order of those who are asked in turn; some may be gone.
    order: Vec<NodeId>,
    next: usize,
    /// The last one among those who are down that was asked.
    last_down: Option<NodeId>,
    draws: Draws,
}

impl Members {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            table: BTreeMap::new(),
            order: Vec::new(),
            next: 0,
            last_down: None,
            draws: Draws::new(seed),
        }
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Member> {
        self.table.get(node)
    }

    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Member> {
        self.table.get_mut(node)
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.table.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&NodeId, &mut Member)> {
        self.table.iter_mut()
    }

    /// Takes a node in; who had to go for it. It is not taken where all others
    /// are worth more.
    pub(super) fn add(&mut self, now: Millis, node: NodeId, pace: &Pace) -> Option<NodeId> {
        if self.table.contains_key(&node) {
            return None;
        }
        let displaced = if self.table.len() >= pace.members_max {
            let displaced = self.displaceable()?;
            self.table.remove(&displaced);
            Some(displaced)
        } else {
            None
        };
        self.table.insert(node, Member::new(now, pace));
        // At a random place of what is left of this round robin: soon, but not all at once.
        let left = (self.order.len() - self.next) as u64;
        let at = self.next + usize::try_from(self.draws.below(left + 1)).unwrap_or(0);
        self.order.insert(at, node);
        // Names of those who are gone go with the next shuffle; a flood of joins comes faster.
        if self.order.len() > 2 * pace.members_max {
            self.shuffle();
        }
        displaced
    }

    /// Who left first, else who is down longest, else any of those who never answered.
    fn displaceable(&mut self) -> Option<NodeId> {
        let longest = |life: Life| {
            let of_life = self.table.iter().filter(|(_, m)| m.view.life == life);
            of_life.min_by_key(|(_, m)| m.view.since).map(|(node, _)| *node)
        };
        if let Some(gone) = longest(Life::Left).or_else(|| longest(Life::Down)) {
            return Some(gone);
        }
        let silent: Vec<NodeId> =
            self.table.iter().filter(|(_, m)| m.heard.is_none()).map(|(node, _)| *node).collect();
        let at = usize::try_from(self.draws.below(silent.len() as u64)).unwrap_or(0);
        silent.get(at).copied()
    }

    pub(super) fn remove(&mut self, node: &NodeId) -> bool {
        self.table.remove(node).is_some()
    }

    fn shuffle(&mut self) {
        let asked = self.table.iter().filter(|(_, m)| m.is_asked()).map(|(node, _)| *node);
        self.order = asked.collect();
        self.draws.shuffle(&mut self.order);
        self.next = 0;
    }

    /// The next in turn for which `may` holds: everyone once, then in a new order.
    pub(super) fn next(&mut self, may: impl Fn(&NodeId) -> bool) -> Option<NodeId> {
        for _ in 0..2 {
            while let Some(node) = self.order.get(self.next).copied() {
                self.next += 1;
                if self.table.get(&node).is_some_and(Member::is_asked) && may(&node) {
                    return Some(node);
                }
            }
            self.shuffle();
        }
        None
    }

    /// The next among those who are down.
    pub(super) fn next_down(&mut self, may: impl Fn(&NodeId) -> bool) -> Option<NodeId> {
        let is_down = |(node, m): &(&NodeId, &Member)| m.view.life == Life::Down && may(node);
        let after = |last: NodeId| {
            use std::ops::Bound::{Excluded, Unbounded};
            self.table.range((Excluded(last), Unbounded)).find(is_down)
        };
        let found = self.last_down.and_then(after).or_else(|| self.table.iter().find(is_down));
        self.last_down = found.map(|(node, _)| *node);
        self.last_down
    }

    /// Up to `count` distinct members that live, as far as is known, at random.
    pub(super) fn some_alive(&mut self, count: usize, but: &NodeId) -> Vec<NodeId> {
        let mut found: Vec<NodeId> = Vec::new();
        // A few draws each: where most are gone, fewer are found, which does no harm.
        for _ in 0..count * 8 {
            let at = usize::try_from(self.draws.below(self.order.len() as u64)).unwrap_or(0);
            let Some(node) = self.order.get(at).copied() else { break };
            let is_alive = self.table.get(&node).is_some_and(|m| m.view.life == Life::Alive);
            if is_alive && node != *but && !found.contains(&node) {
                found.push(node);
            }
            if found.len() == count {
                break;
            }
        }
        found
    }

    /// A number under `bound`.
    pub(super) fn draw(&mut self, bound: u64) -> u64 {
        self.draws.below(bound)
    }
}
