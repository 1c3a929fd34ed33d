//! Which shards a node that joined attracts: those of segments in whose
//! rendezvous order it is among the first n (design 8, "Joining nodes").
//!
//! Every holder finds by itself whether it is the one that gives way, and to
//! whom; all come to the same answer on the same snapshot. Nothing is moved here,
//! and no placement is changed to please the order alone: only nodes that joined
//! after it was made attract anything.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    rank::Straw,
    rules::{Penalty, Rules, Tally},
    types::{Candidate, Standing},
};
use crate::{
    identity::NodeId,
    network::NetworkId,
    segment::{Scheme, SegmentId},
    time::Epoch,
};

/// A placement, as far as attraction is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Attracting<'a> {
    /// Of which segment.
    pub segment: SegmentId,
    /// Its scheme.
    pub scheme: Scheme,
    /// Who placed it; never a holder of it.
    pub owner: NodeId,
    /// The epoch its lease begins in: who joined in it or before could have been chosen then.
    pub made: Epoch,
    /// Who holds which shard.
    pub holders: &'a [(u8, NodeId)],
}

/// A membership snapshot, and those in it that joined lately.
#[derive(Debug, Clone)]
pub struct Attraction {
    network: NetworkId,
    development: bool,
    members: BTreeMap<NodeId, Candidate>,
    joiners: Vec<NodeId>,
}

impl Attraction {
    /// Of the members of `snapshot`, those that joined after epoch `after` and before epoch
    /// `now`: the beacon that draws their straws is known from the epoch after they joined.
    #[must_use]
    pub fn new(
        network: NetworkId,
        development: bool,
        snapshot: Vec<Candidate>,
        after: Epoch,
        now: Epoch,
    ) -> Self {
        let is_joiner = |c: &&Candidate| {
            c.joined > after && c.joined < now && c.accepts && c.standing != Standing::Out
        };
        let joiners = snapshot.iter().filter(is_joiner).map(|c| c.node).collect();
        let members = snapshot.into_iter().map(|c| (c.node, c)).collect();
        Self { network, development, members, joiners }
    }

    /// Whether nobody joined: then no placement needs to be looked at.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.joiners.is_empty()
    }

    /// Who should take the place of the holder `own`; none: it stays.
    ///
    /// The joiner with the shortest straw relieves the holder with the longest, the second the
    /// second, and so on; each only where its straw is at least a tenth shorter and no rule of
    /// placement is broken worse than before.
    #[must_use]
    pub fn relief(&self, placement: &Attracting<'_>, own: NodeId) -> Option<NodeId> {
        let joiners = self.among_first(placement);
        if joiners.is_empty() {
            return None;
        }
        let known = |(_, node): &(u8, NodeId)| self.members.get(node);
        let mut holders: Vec<Straw> = placement
            .holders
            .iter()
            .filter_map(known)
            .map(|holder| self.straw(placement, holder))
            .collect();
        holders.sort_unstable_by(|a, b| b.cmp(a));
        let (holder, joiner) =
            holders.iter().zip(&joiners).find(|(holder, _)| holder.node() == own)?;
        let is_better = joiner.is_tenth_shorter(holder);
        (is_better && self.keeps_rules(placement, own, joiner.node())).then(|| joiner.node())
    }

    /// The joiners among the first n of all, by ascending straw; none that hold a shard already.
    fn among_first(&self, placement: &Attracting<'_>) -> Vec<Straw> {
        let is_holder = |node: &NodeId| placement.holders.iter().any(|(_, holder)| holder == node);
        let may_take = |node: &&NodeId| !is_holder(node) && **node != placement.owner;
        let joiners = self.joiners.iter().filter(may_take).filter_map(|node| {
            let joiner = self.members.get(node).filter(|joiner| joiner.joined > placement.made)?;
            let straw = self.straw(placement, joiner);
            // Stops counting at n: that is a small part of a large network.
            let others = self.members.values().filter(|other| {
                (other.accepts || is_holder(&other.node)) && self.straw(placement, other) < straw
            });
            (others.take(placement.scheme.n()).count() < placement.scheme.n()).then_some(straw)
        });
        let mut joiners: Vec<Straw> = joiners.collect();
        joiners.sort_unstable();
        joiners
    }

    fn straw(&self, placement: &Attracting<'_>, member: &Candidate) -> Straw {
        let Candidate { node, beacon, capacity_class, .. } = member;
        Straw::draw(&self.network, &placement.segment, *node, beacon, *capacity_class)
    }

    fn keeps_rules(&self, placement: &Attracting<'_>, own: NodeId, joiner: NodeId) -> bool {
        let before: BTreeSet<NodeId> = placement.holders.iter().map(|(_, node)| *node).collect();
        let mut after = before.clone();
        after.remove(&own);
        after.insert(joiner);
        self.penalty(placement.scheme, &after) <= self.penalty(placement.scheme, &before)
    }

    fn penalty(&self, scheme: Scheme, holders: &BTreeSet<NodeId>) -> Penalty {
        let mut rules = Rules::new(scheme, self.development);
        let known = holders.iter().filter_map(|node| self.members.get(node));
        let members: Vec<_> = known
            .map(|c| rules.member(&c.site, c.quiet, c.standing == Standing::Vetting))
            .collect();
        let mut tally = Tally::new(&rules);
        members.iter().for_each(|member| tally.add(member));
        tally.penalty()
    }
}
