//! Getting the shards of one segment to distinct holders.
//!
//! A node is asked for one index of the segment only, ever: an attempt that
//! seemed to fail may have stored its shard, and no node may hold two.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::store_types::{
    MissingShard, NotStored, StoreConfig, StoreInput, StoreOutput, Stored, Trouble, Troubles,
};
use crate::{
    identity::NodeId,
    machine::{Machine, Millis},
    placement::PlacementPlan,
};

/// Stores n shards of one segment (design 5, *store*).
///
/// A holder that refuses for good is replaced by a spare at once; one that is
/// busy is asked again after a pause; one that does not answer is replaced, and
/// asked again only when there are no spares left.
#[derive(Debug)]
pub struct SegmentStore<R> {
    config: StoreConfig,
    plan: PlacementPlan,
    held: BTreeMap<u8, (NodeId, R)>,
    active: BTreeMap<u8, Active>,
    asked: BTreeMap<NodeId, Asked>,
    /// The last trouble of each index.
    last: BTreeMap<u8, (Trouble, String)>,
    last_reason: String,
    /// The time of the last input.
    now: Millis,
    deadline: Millis,
    /// Set with the quorum: when to stop waiting for the rest.
    extra_until: Option<Millis>,
    outputs: VecDeque<StoreOutput<R>>,
    over: bool,
}

#[derive(Debug, Clone, Copy)]
struct Active {
    node: NodeId,
    /// Without progress until then, it has failed.
    until: Millis,
}

/// A node that was asked, and for which index.
#[derive(Debug, Clone, Copy)]
struct Asked {
    index: u8,
    attempts: u32,
    /// Not again before.
    ready: Millis,
    trouble: Option<Trouble>,
}

/// Who may be asked for an index next.
enum Next {
    Now(NodeId),
    Later,
    Nobody,
}

impl<R> SegmentStore<R> {
    /// Starts storing by `plan`. `already` are receipts from an earlier attempt,
    /// verified like any other; the plan was made with the same ones.
    #[must_use]
    pub fn new(
        now: Millis,
        config: StoreConfig,
        plan: PlacementPlan,
        already: BTreeMap<u8, (NodeId, R)>,
    ) -> Self {
        let mut store = Self {
            config,
            plan,
            held: BTreeMap::new(),
            active: BTreeMap::new(),
            asked: BTreeMap::new(),
            last: BTreeMap::new(),
            last_reason: String::new(),
            now,
            deadline: now.after(config.deadline_ms),
            extra_until: None,
            outputs: VecDeque::new(),
            over: false,
        };
        for (index, (node, receipt)) in already {
            // One node, one shard, whatever the caller remembers.
            if (index as usize) < store.n() && !store.asked.contains_key(&node) {
                store.asked.insert(node, Asked { index, attempts: 1, ready: now, trouble: None });
                store.held.insert(index, (node, receipt));
            }
        }
        store.advance(now);
        store
    }

    /// Holder and receipt per index so far.
    #[must_use]
    pub const fn held(&self) -> &BTreeMap<u8, (NodeId, R)> {
        &self.held
    }

    const fn n(&self) -> usize {
        self.plan.scheme().n()
    }

    const fn quorum(&self) -> usize {
        self.plan.scheme().write_quorum()
    }

    fn receive(&mut self, index: u8, node: NodeId, receipt: R) {
        // Late ones are welcome, from whoever was asked for this index.
        let asked = self.asked.get(&node).is_some_and(|a| a.index == index);
        if !asked || self.held.contains_key(&index) {
            return;
        }
        if let Some(active) = self.active.remove(&index)
            && active.node != node
        {
            self.outputs.push_back(StoreOutput::Cancel { index, node: active.node });
        }
        self.held.insert(index, (node, receipt));
    }

    fn fail(&mut self, now: Millis, index: u8, node: NodeId, trouble: Trouble, reason: String) {
        if self.active.get(&index).is_none_or(|a| a.node != node) {
            return;
        }
        self.active.remove(&index);
        if let Some(asked) = self.asked.get_mut(&node) {
            let doublings = asked.attempts.saturating_sub(1).min(16);
            asked.ready = now.after(self.config.backoff_ms.saturating_mul(1 << doublings));
            asked.trouble = Some(trouble);
        }
        self.last_reason.clone_from(&reason);
        self.last.insert(index, (trouble, reason));
    }

    fn expire(&mut self, now: Millis) {
        let late = self.active.iter().filter(|(_, a)| a.until <= now);
        let late: Vec<_> = late.map(|(&index, a)| (index, a.node)).collect();
        for (index, node) in late {
            self.outputs.push_back(StoreOutput::Cancel { index, node });
            let reason = format!("no progress within {} ms", self.config.attempt_timeout_ms);
            self.fail(now, index, node, Trouble::TooSlow, reason);
        }
    }

    /// Does all that can be done at `now`.
    fn advance(&mut self, now: Millis) {
        if self.over {
            return;
        }
        if self.held.len() >= self.quorum() && self.extra_until.is_none() {
            self.extra_until = Some(now.after(self.config.extra_ms));
            self.outputs.push_back(StoreOutput::Quorum);
        }
        let late = now >= self.deadline || self.extra_until.is_some_and(|until| now >= until);
        if late || self.held.len() == self.n() || self.possible() < self.quorum() {
            return self.end();
        }
        let waits = self.start(now);
        if self.active.is_empty() && !waits {
            self.end();
        }
    }

    /// Starts what is ready and fits; says whether something waits for its time.
    fn start(&mut self, now: Millis) -> bool {
        let mut waits = false;
        for index in self.idle() {
            if self.active.len() >= self.config.parallel_max.max(1) {
                return true;
            }
            match self.next_for(index, now) {
                Next::Now(node) => self.ask(now, index, node),
                Next::Later => waits = true,
                Next::Nobody => {}
            }
        }
        waits
    }

    fn ask(&mut self, now: Millis, index: u8, node: NodeId) {
        let fresh = Asked { index, attempts: 0, ready: now, trouble: None };
        self.asked.entry(node).or_insert(fresh).attempts += 1;
        let until = now.after(self.config.attempt_timeout_ms);
        self.active.insert(index, Active { node, until });
        self.outputs.push_back(StoreOutput::Store { index, node });
    }

    /// Indices that nobody holds and nobody is asked for.
    fn idle(&self) -> Vec<u8> {
        let all = (0..=u8::MAX).take(self.n());
        all.filter(|i| !self.held.contains_key(i) && !self.active.contains_key(i)).collect()
    }

    /// The planned holder of an index, unless it was asked before.
    fn planned(&self, index: u8) -> Option<NodeId> {
        let node = self.plan.holders().get(&index)?;
        (!self.asked.contains_key(node)).then_some(*node)
    }

    /// Nodes asked for `index` whose trouble may pass, and when to ask again.
    fn retries(&self, index: u8) -> impl Iterator<Item = (Millis, NodeId, Trouble)> {
        let of_index = self.asked.iter().filter(move |(_, a)| a.index == index);
        of_index.filter_map(|(&node, asked)| {
            let trouble = asked.trouble.filter(|t| t.passes())?;
            (asked.attempts <= self.config.retries_max).then_some((asked.ready, node, trouble))
        })
    }

    fn next_for(&self, index: u8, now: Millis) -> Next {
        if let Some(node) = self.planned(index) {
            return Next::Now(node);
        }
        let when = |(ready, node, _)| if ready <= now { Next::Now(node) } else { Next::Later };
        let busy = self.retries(index).filter(|(_, _, trouble)| *trouble == Trouble::Busy).min();
        if let Some(retry) = busy {
            return when(retry);
        }
        let asked: BTreeSet<NodeId> = self.asked.keys().copied().collect();
        if let Some(node) = self.plan.replacement(self.intended(), &asked) {
            return Next::Now(node);
        }
        self.retries(index).min().map_or(Next::Nobody, when)
    }

    /// Who holds, is asked or will be asked first, over all indices.
    fn intended(&self) -> Vec<NodeId> {
        let held = self.held.values().map(|(node, _)| *node);
        let active = self.active.values().map(|a| a.node);
        held.chain(active).chain(self.idle().into_iter().filter_map(|i| self.planned(i))).collect()
    }

    /// How many shards may still be held in the end, at best.
    fn possible(&self) -> usize {
        let idle = self.idle();
        let hopeful = |i: &&u8| self.planned(**i).is_some() || self.retries(**i).next().is_some();
        let own = idle.iter().filter(hopeful).count();
        let spares = self.plan.spares().iter().filter(|s| !self.asked.contains_key(s)).count();
        self.held.len() + self.active.len() + own + spares.min(idle.len() - own)
    }

    fn end(&mut self) {
        self.over = true;
        for (index, Active { node, .. }) in std::mem::take(&mut self.active) {
            self.outputs.push_back(StoreOutput::Cancel { index, node });
            self.last.entry(index).or_insert((Trouble::TooSlow, "not waited for".to_owned()));
        }
        let output = if self.held.len() >= self.quorum() {
            StoreOutput::Done(self.stored())
        } else {
            StoreOutput::Failed(self.not_stored())
        };
        self.outputs.push_back(output);
    }

    fn stored(&mut self) -> Stored<R> {
        let missing = self.idle().into_iter().map(|index| {
            let (trouble, reason) = self.last.remove(&index).unzip();
            MissingShard { index, trouble, reason: reason.unwrap_or_default() }
        });
        let missing = missing.collect();
        let held = std::mem::take(&mut self.held);
        let nodes = || held.values().map(|(node, _)| *node);
        let broken = self.plan.broken_by(nodes());
        let survives_datacenter = self.plan.survives_datacenter(nodes());
        Stored { held, missing, broken, survives_datacenter }
    }

    fn not_stored(&mut self) -> NotStored<R> {
        let mut troubles = Troubles::default();
        for trouble in self.asked.values().filter_map(|a| a.trouble) {
            *troubles.0.entry(trouble).or_default() += 1;
        }
        NotStored {
            held: std::mem::take(&mut self.held),
            want: self.quorum(),
            candidates: self.plan.holders().len() + self.plan.spares().len(),
            troubles,
            last_reason: std::mem::take(&mut self.last_reason),
        }
    }
}

impl<R> Machine for SegmentStore<R> {
    type Input = StoreInput<R>;
    type Output = StoreOutput<R>;

    fn handle(&mut self, now: Millis, input: StoreInput<R>) {
        if self.over {
            return;
        }
        self.now = now;
        match input {
            StoreInput::Receipt { index, node, receipt } => self.receive(index, node, receipt),
            StoreInput::Refused { index, node, refusal } => {
                self.fail(now, index, node, Trouble::of(refusal.code), refusal.reason);
            }
            StoreInput::Failed { index, node, trouble, reason } => {
                self.fail(now, index, node, trouble, reason);
            }
            StoreInput::Progress { index, node } => {
                let until = now.after(self.config.attempt_timeout_ms);
                if let Some(active) = self.active.get_mut(&index).filter(|a| a.node == node) {
                    active.until = until;
                }
            }
            StoreInput::Tick => {}
        }
        self.expire(now);
        self.advance(now);
    }

    fn poll(&mut self) -> Option<StoreOutput<R>> {
        self.outputs.pop_front()
    }

    fn timeout(&self) -> Option<Millis> {
        if self.over {
            return None;
        }
        let active = self.active.values().map(|a| a.until);
        let retries = self.idle().into_iter().flat_map(|i| self.retries(i).map(|(at, ..)| at));
        // What is ready and was not started waits for an input, not for time.
        let retries = retries.filter(|&at| at > self.now);
        active.chain(retries).chain(self.extra_until).chain([self.deadline]).min()
    }
}
