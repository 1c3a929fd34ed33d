//! Choosing n holders that break the soft rules as little as the network allows.
//!
//! First greedily in the order of preference; where that breaks a rule, by
//! swapping; where a rule is still broken and might not have to be, by a search
//! that is exact for small networks and bounded for large ones.

use std::collections::{BTreeSet, VecDeque};

use super::rules::{Member, Penalty, Rules, Tally};

/// Exchanges of one holder for another, at most.
const EXCHANGES_MAX: u32 = 100;
/// The last of this many that were exchanged, in or out, stay as they are, so
/// that exchanges lead away from a set that no single one makes better.
const SETTLED_MAX: usize = 10;
/// Steps of the exact search, at most.
const SEARCH_STEPS_MAX: u32 = 20_000;

/// A problem: pick `picks` of `order` beside `fixed`.
pub(super) struct Choice<'a> {
    pub(super) rules: &'a Rules,
    pub(super) members: &'a [Member],
    /// Chosen in any case; positions in `members`.
    pub(super) fixed: &'a [usize],
    /// May be chosen, by falling preference; positions in `members`.
    pub(super) order: &'a [usize],
    pub(super) picks: usize,
}

/// What was chosen, by falling preference, and how it stands to the rules.
pub(super) struct Chosen {
    pub(super) picked: Vec<usize>,
    pub(super) penalty: Penalty,
}

impl Choice<'_> {
    pub(super) fn solve(&self) -> Chosen {
        let mut tally = Tally::new(self.rules);
        self.fixed.iter().for_each(|&at| tally.add(&self.members[at]));
        let picked = self.greedy(&mut tally);
        let least = self.least();
        let (penalty, picked) = self.exchange(&mut tally, picked, least);
        let mut best = Chosen { picked: picked.into_iter().collect(), penalty };
        if penalty > least {
            self.search(least, &mut best);
        }
        best.picked.sort_unstable();
        best.picked = best.picked.iter().map(|&rank| self.order[rank]).collect();
        best
    }

    fn member(&self, rank: usize) -> &Member {
        &self.members[self.order[rank]]
    }

    fn least(&self) -> Penalty {
        let of =
            |positions: &[usize]| positions.iter().map(|&at| &self.members[at]).collect::<Vec<_>>();
        self.rules.least(&of(self.fixed), &of(self.order))
    }

    /// Ranks in `order`: first all that break nothing, then what breaks least.
    fn greedy(&self, tally: &mut Tally<'_>) -> BTreeSet<usize> {
        let mut picked = BTreeSet::new();
        for rank in 0..self.order.len() {
            if picked.len() == self.picks {
                return picked;
            }
            let before = tally.caps();
            tally.add(self.member(rank));
            if tally.caps() > before {
                tally.remove(self.member(rank));
            } else {
                picked.insert(rank);
            }
        }
        while picked.len() < self.picks {
            let free = (0..self.order.len()).filter(|rank| !picked.contains(rank));
            let Some(rank) = free.min_by_key(|&rank| (self.with(tally, rank), rank)) else { break };
            tally.add(self.member(rank));
            picked.insert(rank);
        }
        picked
    }

    fn with(&self, tally: &mut Tally<'_>, rank: usize) -> Penalty {
        tally.add(self.member(rank));
        let penalty = tally.penalty();
        tally.remove(self.member(rank));
        penalty
    }

    /// Exchanges one for another, always the best that was not just exchanged,
    /// even where that is worse for now; gives the best set met.
    fn exchange(
        &self,
        tally: &mut Tally<'_>,
        mut picked: BTreeSet<usize>,
        least: Penalty,
    ) -> (Penalty, BTreeSet<usize>) {
        let mut best = (tally.penalty(), picked.clone());
        let mut settled = VecDeque::new();
        for _ in 0..EXCHANGES_MAX {
            if best.0 == least {
                break;
            }
            let Some((out, rank)) = self.best_exchange(tally, &picked, &settled) else { break };
            tally.remove(self.member(out));
            tally.add(self.member(rank));
            picked.remove(&out);
            picked.insert(rank);
            settled.extend([out, rank]);
            settled.drain(..settled.len().saturating_sub(SETTLED_MAX));
            if tally.penalty() < best.0 {
                best = (tally.penalty(), picked.clone());
            }
        }
        best
    }

    /// Which to take out and which to take in: of equally good ones the least
    /// preferred out, the most preferred in.
    fn best_exchange(
        &self,
        tally: &mut Tally<'_>,
        picked: &BTreeSet<usize>,
        settled: &VecDeque<usize>,
    ) -> Option<(usize, usize)> {
        let mut best: Option<(Penalty, (usize, usize))> = None;
        for &out in picked.iter().rev().filter(|rank| !settled.contains(rank)) {
            tally.remove(self.member(out));
            let free = (0..self.order.len()).filter(|r| !picked.contains(r));
            for rank in free.filter(|rank| !settled.contains(rank)) {
                let penalty = self.with(tally, rank);
                if best.is_none_or(|(least, _)| penalty < least) {
                    best = Some((penalty, (out, rank)));
                }
            }
            tally.add(self.member(out));
        }
        best.map(|(_, exchange)| exchange)
    }

    /// Branch and bound over all choices, in order of preference.
    fn search(&self, least: Penalty, best: &mut Chosen) {
        let mut tally = Tally::new(self.rules);
        self.fixed.iter().for_each(|&at| tally.add(&self.members[at]));
        let mut search = Search {
            choice: self,
            least,
            best,
            tally,
            picked: Vec::new(),
            skipped: BTreeSet::new(),
            steps: 0,
        };
        search.from(0);
    }
}

struct Search<'a, 'b> {
    choice: &'a Choice<'a>,
    least: Penalty,
    best: &'b mut Chosen,
    tally: Tally<'a>,
    picked: Vec<usize>,
    /// Kinds of nodes of which a more preferred one was left out: taking another
    /// of the same kind instead would change nothing but preference.
    skipped: BTreeSet<&'a Member>,
    steps: u32,
}

impl Search<'_, '_> {
    /// Tries all completions from `rank` on. The depth is at most the pool's
    /// length.
    fn from(&mut self, rank: usize) {
        let choice = self.choice;
        if self.best.penalty == self.least
            || self.steps == SEARCH_STEPS_MAX
            || self.tally.caps() >= self.best.penalty
        {
            return;
        }
        self.steps += 1;
        if self.picked.len() == choice.picks {
            let penalty = self.tally.penalty();
            if penalty < self.best.penalty {
                *self.best = Chosen { picked: self.picked.clone(), penalty };
            }
            return;
        }
        if choice.order.len() - rank < choice.picks - self.picked.len() {
            return;
        }
        let member = choice.member(rank);
        if self.skipped.contains(member) {
            return self.from(rank + 1);
        }
        self.tally.add(member);
        self.picked.push(rank);
        self.from(rank + 1);
        self.picked.pop();
        self.tally.remove(member);
        self.skipped.insert(member);
        self.from(rank + 1);
        self.skipped.remove(member);
    }
}
