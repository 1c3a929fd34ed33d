//! One segment: who holds which shard, what that looks like from outside, and
//! what is true.

use std::collections::{BTreeMap, VecDeque};

use echonet_archive::health::{Policy, Shard, View, Watch};
use echonet_protocol::{machine::Millis, segment::SegmentId};

use super::nodes::{DATACENTERS, Nodes};

/// What is known about a segment's repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is planned.
    Quiet,
    /// It will be due then.
    Planned(Millis),
    /// In the queue, or refused by it.
    Waiting,
    /// Being repaired.
    Running,
}

/// A segment of the sample.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    /// Holder by index, as the placement record has it.
    pub(super) holders: Vec<u32>,
    /// Former holders that may still have what they held.
    spares: VecDeque<(u8, u32)>,
    pub(super) watch: Watch,
    pub(super) phase: Phase,
    /// Changes whenever what was planned before is void.
    pub(super) stamp: u32,
    /// When it became due.
    pub(super) due_since: Millis,
}

impl Segment {
    pub(super) fn new(id: SegmentId, holders: Vec<u32>) -> Self {
        Self {
            id,
            holders,
            spares: VecDeque::new(),
            watch: Watch::new(),
            phase: Phase::Quiet,
            stamp: 0,
            due_since: Millis(0),
        }
    }

    pub(super) fn refers_to(&self, node: u32) -> bool {
        self.holders.contains(&node) || self.spares.iter().any(|(_, spare)| *spare == node)
    }

    /// A shard got a new holder; the former one may come back as a spare.
    pub(super) fn replace(&mut self, index: u8, node: u32, spares_max: usize) {
        let former = std::mem::replace(&mut self.holders[index as usize], node);
        if self.spares.len() >= spares_max {
            self.spares.pop_front();
        }
        self.spares.push_back((index, former));
    }

    /// What probes of all who have the shard of an index show: the best of them.
    pub(super) fn shard(&self, index: u8, nodes: &Nodes) -> Shard {
        let spares = self.spares.iter().filter(|(of, _)| *of == index).map(|(_, node)| *node);
        let mut since = None;
        for node in std::iter::once(self.holders[index as usize]).chain(spares) {
            let node = nodes.get(node);
            if node.up {
                return Shard::Reachable;
            }
            since = since.max(Some(node.off_since));
        }
        since.map_or(Shard::Lost, |since| Shard::Unreachable { since })
    }

    /// What its holders know of it.
    pub(super) fn view(&self, policy: &Policy, nodes: &Nodes, now: Millis) -> View {
        let shards = self.indices().map(|index| self.shard(index, nodes));
        let mut view = View::of(shards, now, policy.grace_ms, true);
        if view.kept < policy.scheme.n() {
            let most = self.most_in_one_datacenter(policy, nodes, now);
            view.datacenter_safe = view.kept.saturating_sub(most) >= policy.scheme.k as usize;
        }
        view
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.holders.len() as u8
    }

    /// Holders of kept shards in the datacenter that has most of them.
    pub(super) fn most_in_one_datacenter(
        &self,
        policy: &Policy,
        nodes: &Nodes,
        now: Millis,
    ) -> usize {
        let mut counts = [0_usize; DATACENTERS as usize];
        let mut most = 0;
        for index in self.indices() {
            if self.shard(index, nodes).is_kept(now, policy.grace_ms) {
                let home = 1;
                let datacenter = nodes.get(self.holders[index as usize]).datacenter;
                let count = datacenter.map_or(home, |d| {
                    counts[d as usize] += 1;
                    counts[d as usize]
                });
                most = most.max(count);
            }
        }
        most
    }

    /// Shards that exist somewhere, whether anybody knows or not.
    pub(super) fn alive(&self, nodes: &Nodes) -> usize {
        let exists = |node: u32| !nodes.get(node).gone;
        let indices = self.indices().filter(|&index| {
            exists(self.holders[index as usize])
                || self.spares.iter().any(|&(of, node)| of == index && exists(node))
        });
        indices.count()
    }

    /// Spares that exist.
    pub(super) fn spares_alive(&self, nodes: &Nodes) -> usize {
        self.spares.iter().filter(|(_, node)| !nodes.get(*node).gone).count()
    }

    /// Nodes that may have a spare.
    pub(super) fn spare_nodes(&self) -> Vec<u32> {
        self.spares.iter().map(|(_, node)| *node).collect()
    }

    /// Holders by index, without these indices.
    pub(super) fn without(&self, indices: &[u8]) -> BTreeMap<u8, u32> {
        let all = self.indices().zip(self.holders.iter().copied());
        all.filter(|(index, _)| !indices.contains(index)).collect()
    }
}
