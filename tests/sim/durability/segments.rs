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

    /// What probes of all who have a shard show, by index: the best of them.
    ///
    /// One pass over holders and one over spares: this is where the time goes.
    pub(super) fn shards(&self, nodes: &Nodes) -> Vec<Shard> {
        let seen = |node: u32| {
            let node = nodes.get(node);
            if node.up { Shard::Reachable } else { Shard::Unreachable { since: node.off_since } }
        };
        let mut shards: Vec<Shard> = self.holders.iter().map(|&node| seen(node)).collect();
        for &(index, node) in &self.spares {
            let best = &mut shards[index as usize];
            *best = match (*best, seen(node)) {
                (Shard::Unreachable { since: one }, Shard::Unreachable { since: other }) => {
                    Shard::Unreachable { since: one.max(other) }
                }
                (Shard::Reachable, _) => continue,
                (_, spare) => spare,
            };
        }
        shards
    }

    /// What its holders know of it.
    pub(super) fn view(&self, policy: &Policy, nodes: &Nodes, now: Millis) -> View {
        let shards = self.shards(nodes);
        let mut view = View::of(shards.iter().copied(), now, policy.grace_ms, true);
        if view.kept < policy.scheme.n() {
            let kept = shards.iter().map(|shard| shard.is_kept(now, policy.grace_ms));
            let most = self.most_in_one_datacenter(kept, nodes);
            view.datacenter_safe = view.kept.saturating_sub(most) >= policy.scheme.k as usize;
        }
        view
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.holders.len() as u8
    }

    /// Holders of kept shards in the datacenter that has most of them.
    fn most_in_one_datacenter(&self, kept: impl Iterator<Item = bool>, nodes: &Nodes) -> usize {
        let mut counts = [0_usize; DATACENTERS as usize];
        let mut most = 0;
        for (&holder, _) in self.holders.iter().zip(kept).filter(|(_, kept)| *kept) {
            let home = 1;
            let count = nodes.get(holder).datacenter.map_or(home, |d| {
                counts[d as usize] += 1;
                counts[d as usize]
            });
            most = most.max(count);
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
