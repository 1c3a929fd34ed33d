//! The plan for one segment: holders by index, and who steps in for whom.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    choose::{Choice, Chosen},
    rank::{CAPACITY_CLASS_MAX, rank},
    rules::{Member, Rules, Tally},
    types::{BrokenRule, Candidate, PlacementRequest, Site, Standing},
};
use crate::{identity::NodeId, segment::Scheme};

/// The criteria choose among this many times n candidates.
const POOL_FACTOR: usize = 3;
/// Where those cannot keep the rules, among up to this many times n.
const POOL_FACTOR_MAX: usize = 24;
/// Weights of the publisher's criteria; they add up to 1000.
const LOAD_WEIGHT: u64 = 300;
const RELIABILITY_WEIGHT: u64 = 400;
const LATENCY_WEIGHT: u64 = 200;
const CAPACITY_WEIGHT: u64 = 100;
/// The round trip that is worth half of none.
const LATENCY_HALF_MS: u64 = 100;

/// Who is to hold which shard of a segment, and who else could.
#[derive(Debug, Clone)]
pub struct PlacementPlan {
    scheme: Scheme,
    holders: BTreeMap<u8, NodeId>,
    spares: Vec<NodeId>,
    rules: Rules,
    members: BTreeMap<NodeId, Member>,
}

/// The publisher's score of a candidate; higher is better (design 5).
#[must_use]
pub fn score(candidate: &Candidate) -> u64 {
    let permille = |value: u16| u64::from(value).min(1000);
    let latency = 1000 * LATENCY_HALF_MS / (LATENCY_HALF_MS + u64::from(candidate.latency_ms));
    let class = u64::from(candidate.capacity_class.min(CAPACITY_CLASS_MAX));
    LOAD_WEIGHT * (1000 - permille(candidate.load_permille))
        + RELIABILITY_WEIGHT * permille(candidate.reliability_permille)
        + LATENCY_WEIGHT * latency
        + CAPACITY_WEIGHT * (class * 1000 / u64::from(CAPACITY_CLASS_MAX))
}

/// Whether the loss of any one datacenter leaves k of these holders.
pub fn survives_datacenter<'a>(
    scheme: Scheme,
    holders: impl IntoIterator<Item = &'a Site>,
) -> bool {
    let mut counts = BTreeMap::<String, usize>::new();
    holders
        .into_iter()
        .for_each(|s| *counts.entry(super::rules::datacenter_name(s)).or_default() += 1);
    let live: usize = counts.values().sum();
    live - counts.values().max().copied().unwrap_or(0) >= scheme.k as usize
}

/// Places a segment on a membership snapshot (design 5, "Placement").
///
/// The same request on the same snapshot gives the same plan, in whatever order
/// the snapshot comes. Fewer than n holders are planned only where there are
/// fewer nodes that may be chosen.
#[must_use]
pub fn place(request: &PlacementRequest, snapshot: &[Candidate]) -> PlacementPlan {
    Placing::new(request, snapshot).plan()
}

struct Placing<'a> {
    request: &'a PlacementRequest,
    rules: Rules,
    /// `fixed` first, then those that may be chosen, in rendezvous order.
    nodes: Vec<NodeId>,
    members: Vec<Member>,
    scores: Vec<u64>,
    fixed: Vec<usize>,
    preferred: Vec<usize>,
}

impl<'a> Placing<'a> {
    fn new(request: &'a PlacementRequest, snapshot: &[Candidate]) -> Self {
        let mut placing = Self {
            request,
            rules: Rules::new(request.scheme, request.development),
            nodes: Vec::new(),
            members: Vec::new(),
            scores: Vec::new(),
            fixed: Vec::new(),
            preferred: Vec::new(),
        };
        let known: BTreeMap<NodeId, &Candidate> = snapshot.iter().map(|c| (c.node, c)).collect();
        let staying: BTreeSet<NodeId> = request.already.values().copied().collect();
        for node in &staying {
            placing.fixed.push(placing.nodes.len());
            placing.push(*node, known.get(node).copied());
        }
        let eligible: Vec<Candidate> = known
            .values()
            .filter(|c| !staying.contains(&c.node) && placing.may_choose(c))
            .map(|c| (*c).clone())
            .collect();
        for at in rank(&request.network, &request.segment, &eligible) {
            let candidate = &eligible[at];
            if request.prefer.contains_key(&candidate.node) {
                placing.preferred.push(placing.nodes.len());
            }
            placing.push(candidate.node, Some(candidate));
        }
        placing
    }

    fn may_choose(&self, candidate: &Candidate) -> bool {
        let request = self.request;
        let takes = candidate.accepts && candidate.load_permille < 1000;
        candidate.standing != Standing::Out
            && !request.exclude.contains(&candidate.node)
            && (takes || request.prefer.contains_key(&candidate.node))
    }

    fn push(&mut self, node: NodeId, candidate: Option<&Candidate>) {
        // Of a holder that is not in the snapshot nothing is known: it counts
        // as unlabelled, and as vetted, for it is there.
        let unknown = Site::default();
        let site = candidate.map_or(&unknown, |c| &c.site);
        let unvetted = candidate.is_some_and(|c| c.standing == Standing::Vetting);
        let quiet = candidate.map(|c| c.quiet).unwrap_or_default();
        let member = self.rules.member(site, quiet, unvetted);
        self.nodes.push(node);
        self.members.push(member);
        self.scores.push(candidate.map_or(0, score));
    }

    fn plan(self) -> PlacementPlan {
        let n = self.request.scheme.n();
        let picks = n.saturating_sub(self.fixed.len());
        let mut factor = POOL_FACTOR;
        let chosen = loop {
            let chosen = self.choose(picks, factor * n);
            let all = self.nodes.len() - self.fixed.len() <= factor * n;
            if all || factor >= POOL_FACTOR_MAX || chosen.penalty.iter().all(|&p| p == 0) {
                break chosen;
            }
            factor *= 2;
        };
        let picked: BTreeSet<usize> = chosen.picked.iter().copied().collect();
        let last = self.fixed.len() + factor * n;
        let spares = (self.fixed.len()..self.nodes.len().min(last))
            .filter(|at| !picked.contains(at))
            .map(|at| self.nodes[at])
            .collect();
        let holders = self.assign(&picked);
        let members = self.nodes.into_iter().zip(self.members).collect();
        PlacementPlan { scheme: self.request.scheme, holders, spares, rules: self.rules, members }
    }

    /// Chooses among the first `pool` in rendezvous order and the preferred.
    fn choose(&self, picks: usize, pool: usize) -> Chosen {
        let first = self.fixed.len();
        let pool = first..self.nodes.len().min(first + pool);
        let mut order = self.preferred.clone();
        let preferred: BTreeSet<usize> = order.iter().copied().collect();
        let rendezvous: Vec<usize> = pool.filter(|at| !preferred.contains(at)).collect();
        let by_rank = self.first_admitted(&order, &rendezvous, picks.div_ceil(2));
        let mut by_score: Vec<usize> =
            rendezvous.into_iter().filter(|at| !by_rank.contains(at)).collect();
        by_score.sort_by_key(|&at| (std::cmp::Reverse(self.scores[at]), at));
        order.extend(by_rank);
        order.extend(by_score);
        let (rules, members) = (&self.rules, &self.members[..]);
        let picks = picks.min(order.len());
        Choice { rules, members, fixed: &self.fixed, order: &order, picks }.solve()
    }

    /// The first of `rendezvous` that break no rule beside those before them, so
    /// that with the preferred ones they are at least `wanted`.
    fn first_admitted(
        &self,
        preferred: &[usize],
        rendezvous: &[usize],
        wanted: usize,
    ) -> Vec<usize> {
        let mut tally = Tally::new(&self.rules);
        self.fixed.iter().chain(preferred).for_each(|&at| tally.add(&self.members[at]));
        let mut admitted = Vec::new();
        for &at in rendezvous {
            if admitted.len() + preferred.len() >= wanted {
                break;
            }
            let before = tally.caps();
            tally.add(&self.members[at]);
            if tally.caps() > before {
                tally.remove(&self.members[at]);
            } else {
                admitted.push(at);
            }
        }
        admitted
    }

    /// Gives each picked node an index: first those that may have a shard, then
    /// the others in rendezvous order, data shards first.
    fn assign(&self, picked: &BTreeSet<usize>) -> BTreeMap<u8, NodeId> {
        let request = self.request;
        let mut holders = request.already.clone();
        let n = request.scheme.n();
        let mut rest = Vec::new();
        for &at in picked {
            let node = self.nodes[at];
            match request.prefer.get(&node) {
                Some(&index) if (index as usize) < n && !holders.contains_key(&index) => {
                    holders.insert(index, node);
                }
                _ => rest.push(node),
            }
        }
        let indices = (0..=u8::MAX).take(n).filter(|i| !holders.contains_key(i));
        let pairs: Vec<_> = indices.zip(rest).collect();
        holders.extend(pairs);
        holders
    }
}

impl PlacementPlan {
    /// The scheme that was placed.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Holder by index, those that stay included; distinct. Fewer than n where
    /// the network has too few nodes.
    #[must_use]
    pub const fn holders(&self) -> &BTreeMap<u8, NodeId> {
        &self.holders
    }

    /// Other candidates, in rendezvous order.
    #[must_use]
    pub fn spares(&self) -> &[NodeId] {
        &self.spares
    }

    /// Rules that the planned holders break because the network forces it.
    #[must_use]
    pub fn broken(&self) -> Vec<BrokenRule> {
        self.broken_by(self.holders.values().copied())
    }

    /// Rules that these nodes, taken from the plan, break.
    #[must_use]
    pub fn broken_by(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<BrokenRule> {
        self.tally(nodes).broken()
    }

    /// Whether the loss of any one datacenter leaves k of these nodes.
    #[must_use]
    pub fn survives_datacenter(&self, nodes: impl IntoIterator<Item = NodeId>) -> bool {
        let tally = self.tally(nodes);
        tally.size() - tally.most_in_one_datacenter() >= self.scheme.k as usize
    }

    /// The spare that breaks the least beside `holders`, the first such in
    /// rendezvous order; none in `tried`.
    #[must_use]
    pub fn replacement(
        &self,
        holders: impl IntoIterator<Item = NodeId>,
        tried: &BTreeSet<NodeId>,
    ) -> Option<NodeId> {
        let holders: BTreeSet<NodeId> = holders.into_iter().collect();
        let mut tally = self.tally(holders.iter().copied());
        let free =
            self.spares.iter().filter(|node| !tried.contains(node) && !holders.contains(node));
        let penalty = |node: &&NodeId| {
            let member = &self.members[*node];
            tally.add(member);
            let penalty = tally.penalty();
            tally.remove(member);
            penalty
        };
        free.min_by_key(penalty).copied()
    }

    fn tally(&self, nodes: impl IntoIterator<Item = NodeId>) -> Tally<'_> {
        let mut tally = Tally::new(&self.rules);
        let members = nodes.into_iter().filter_map(|node| self.members.get(&node));
        members.for_each(|member| tally.add(member));
        tally
    }
}
