//! The soft rules of placement: what breaks them, by how much, and in words.
//!
//! Labels are self-declared, so they only ever tighten: a node without a label
//! counts by the prefix it is observed in, a node with one counts by both.

use std::collections::{BTreeMap, BTreeSet};

use super::types::{BrokenRule, Site};
use crate::{
    quiet::{QuietHours, WEEK_HOURS},
    segment::Scheme,
};

/// Holders of one operator, at most.
const OPERATOR_MAX: u32 = 2;
/// Holders in one rack, at most.
const RACK_MAX: u32 = 1;
/// Unvetted holders, at most.
const UNVETTED_MAX: u32 = 2;
/// Datacenters, at least.
const DATACENTERS_MIN: usize = 3;
/// Regions, at least.
const REGIONS_MIN: usize = 2;

/// How badly a set of holders breaks the rules, worst rule first; compared in
/// that order, all zero is best.
pub(super) type Penalty = [u32; RULES];
const RULES: usize = 8;
const OVER_PARITY: usize = 0;
const OPERATOR: usize = 1;
const FEW_DATACENTERS: usize = 2;
const DATACENTER: usize = 3;
const QUIET: usize = 4;
const UNVETTED: usize = 5;
const FEW_REGIONS: usize = 6;
const RACK: usize = 7;

/// The name of an observed prefix.
fn prefix_name(prefix: &[u8; 16]) -> String {
    let ip = std::net::Ipv6Addr::from(*prefix);
    ip.to_ipv4_mapped().map_or_else(|| format!("{ip}/48"), |v4| format!("{v4}/24"))
}

/// The datacenter that a site counts for.
#[must_use]
pub fn datacenter_name(site: &Site) -> String {
    let label = &site.labels.datacenter;
    if label.is_empty() { prefix_name(&site.observed_prefix) } else { label.clone() }
}

/// The groups that one node counts for, as numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    operator: Option<usize>,
    prefix: usize,
    rack: Option<usize>,
    pub(super) datacenter: usize,
    region: usize,
    quiet: QuietHours,
    pub(super) unvetted: bool,
}

/// Names of groups, numbered in order of appearance.
#[derive(Debug, Clone, Default)]
struct Names {
    numbers: BTreeMap<String, usize>,
    names: Vec<String>,
}

impl Names {
    fn number(&mut self, name: String) -> usize {
        let next = self.names.len();
        let number = *self.numbers.entry(name.clone()).or_insert(next);
        if number == next {
            self.names.push(name);
        }
        number
    }
}

/// The rules for one segment, and the groups of everybody in question.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    n: usize,
    parity: u32,
    datacenter_max: u32,
    quiet_max: u32,
    unvetted_max: u32,
    operators: Names,
    prefixes: Names,
    racks: Names,
    datacenters: Names,
    regions: Names,
}

impl Rules {
    pub(super) fn new(scheme: Scheme, development: bool) -> Self {
        let parity = u32::from(scheme.m);
        Self {
            n: scheme.n(),
            parity,
            datacenter_max: parity.saturating_sub(2).max(1),
            quiet_max: parity.saturating_sub(3).max(1),
            unvetted_max: if development { u32::MAX } else { UNVETTED_MAX },
            operators: Names::default(),
            prefixes: Names::default(),
            racks: Names::default(),
            datacenters: Names::default(),
            regions: Names::default(),
        }
    }

    /// The groups of a node at `site`.
    pub(super) fn member(&mut self, site: &Site, quiet: QuietHours, unvetted: bool) -> Member {
        let labels = &site.labels;
        let datacenter = datacenter_name(site);
        let rack = (!labels.rack.is_empty()).then(|| format!("{datacenter}/{}", labels.rack));
        let operator = (!labels.operator.is_empty()).then(|| labels.operator.clone());
        Member {
            operator: operator.map(|name| self.operators.number(name)),
            prefix: self.prefixes.number(prefix_name(&site.observed_prefix)),
            rack: rack.map(|name| self.racks.number(name)),
            datacenter: self.datacenters.number(datacenter),
            region: self.regions.number(labels.region.clone()),
            quiet,
            unvetted,
        }
    }

    /// A penalty that no choice of n from `fixed` and `free` can be below.
    pub(super) fn least(&self, fixed: &[&Member], free: &[&Member]) -> Penalty {
        let picks = self.n.saturating_sub(fixed.len()).min(free.len());
        let excess = |group: fn(&Member) -> Option<usize>, max: u32| {
            least_excess(fixed, free, picks, group, max)
        };
        let all = || fixed.iter().chain(free);
        let size = fixed.len() + picks;
        let few = |distinct: usize, min: usize| clamp(min.min(size).saturating_sub(distinct));
        let datacenters = all().map(|m| m.datacenter).collect::<BTreeSet<_>>().len();
        let regions = all().map(|m| m.region).collect::<BTreeSet<_>>().len();
        let mut least = [0; RULES];
        least[OVER_PARITY] = excess(|m| Some(m.datacenter), self.parity);
        least[OPERATOR] =
            excess(|m| m.operator, OPERATOR_MAX) + excess(|m| Some(m.prefix), OPERATOR_MAX);
        least[FEW_DATACENTERS] = few(datacenters, DATACENTERS_MIN);
        least[DATACENTER] = excess(|m| Some(m.datacenter), self.datacenter_max);
        least[QUIET] = least_quiet_excess(fixed, free, picks, self.quiet_max);
        least[UNVETTED] = excess(|m| m.unvetted.then_some(0), self.unvetted_max);
        least[FEW_REGIONS] = few(regions, REGIONS_MIN);
        least[RACK] = excess(|m| m.rack, RACK_MAX);
        least
    }
}

fn clamp(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The least sum of excesses over `max` in the groups of one kind.
fn least_excess(
    fixed: &[&Member],
    free: &[&Member],
    picks: usize,
    group: fn(&Member) -> Option<usize>,
    max: u32,
) -> u32 {
    let count = |members: &[&Member]| {
        let mut counts = BTreeMap::<usize, u32>::new();
        members.iter().filter_map(|m| group(m)).for_each(|g| *counts.entry(g).or_default() += 1);
        counts
    };
    let (taken, available) = (count(fixed), count(free));
    let over: u32 = taken.values().map(|&c| c.saturating_sub(max)).sum();
    let ungrouped = free.iter().filter(|m| group(m).is_none()).count();
    let room = available
        .iter()
        .map(|(g, &count)| count.min(max.saturating_sub(taken.get(g).copied().unwrap_or(0))));
    let room = ungrouped + room.map(|r| r as usize).sum::<usize>();
    over + clamp(picks.saturating_sub(room))
}

/// The least sum over the hours of the week of what is quiet at once over `max`.
fn least_quiet_excess(fixed: &[&Member], free: &[&Member], picks: usize, max: u32) -> u32 {
    if fixed.iter().chain(free).all(|m| m.quiet.is_empty()) {
        return 0;
    }
    let excess = |hour: u8| {
        let taken = fixed.iter().filter(|m| m.quiet.has(hour)).count();
        let awake = free.iter().filter(|m| !m.quiet.has(hour)).count();
        clamp(taken + picks.saturating_sub(awake)).saturating_sub(max)
    };
    (0..WEEK_HOURS).map(excess).sum()
}

/// Running counts of a set of holders.
#[derive(Debug, Clone)]
pub(super) struct Tally<'a> {
    rules: &'a Rules,
    size: usize,
    operators: Vec<u32>,
    prefixes: Vec<u32>,
    racks: Vec<u32>,
    datacenters: Vec<u32>,
    regions: Vec<u32>,
    /// Holders quiet in each hour of the week.
    quiet: Vec<u32>,
    unvetted: u32,
    caps: Penalty,
}

/// Counts one in or out; returns by how much the excess over each of `maxima`
/// changes (0 or 1).
fn step<const N: usize>(count: &mut u32, add: bool, maxima: [u32; N]) -> [u32; N] {
    let higher = if add { *count + 1 } else { *count };
    *count = if add { *count + 1 } else { *count - 1 };
    maxima.map(|max| u32::from(higher > max))
}

impl<'a> Tally<'a> {
    pub(super) fn new(rules: &'a Rules) -> Self {
        Self {
            rules,
            size: 0,
            operators: vec![0; rules.operators.names.len()],
            prefixes: vec![0; rules.prefixes.names.len()],
            racks: vec![0; rules.racks.names.len()],
            datacenters: vec![0; rules.datacenters.names.len()],
            regions: vec![0; rules.regions.names.len()],
            quiet: vec![0; usize::from(WEEK_HOURS)],
            unvetted: 0,
            caps: [0; RULES],
        }
    }

    pub(super) fn add(&mut self, member: &Member) {
        self.size += 1;
        self.count(member, true);
    }

    pub(super) fn remove(&mut self, member: &Member) {
        self.size -= 1;
        self.count(member, false);
    }

    fn count(&mut self, member: &Member, add: bool) {
        let rules = self.rules;
        let mut change = [0; RULES];
        if let Some(operator) = member.operator {
            change[OPERATOR] += step(&mut self.operators[operator], add, [OPERATOR_MAX])[0];
        }
        change[OPERATOR] += step(&mut self.prefixes[member.prefix], add, [OPERATOR_MAX])[0];
        if let Some(rack) = member.rack {
            [change[RACK]] = step(&mut self.racks[rack], add, [RACK_MAX]);
        }
        let maxima = [rules.parity, rules.datacenter_max];
        [change[OVER_PARITY], change[DATACENTER]] =
            step(&mut self.datacenters[member.datacenter], add, maxima);
        self.regions[member.region] =
            if add { self.regions[member.region] + 1 } else { self.regions[member.region] - 1 };
        if !member.quiet.is_empty() {
            for hour in member.quiet.hours() {
                let count = &mut self.quiet[usize::from(hour)];
                change[QUIET] += step(count, add, [rules.quiet_max])[0];
            }
        }
        if member.unvetted {
            [change[UNVETTED]] = step(&mut self.unvetted, add, [rules.unvetted_max]);
        }
        for (sum, change) in self.caps.iter_mut().zip(change) {
            *sum = if add { *sum + change } else { *sum - change };
        }
    }

    /// Of the rules that only get worse with more holders.
    pub(super) const fn caps(&self) -> Penalty {
        self.caps
    }

    /// Of all rules.
    pub(super) fn penalty(&self) -> Penalty {
        let few = |counts: &[u32], min: usize| {
            let distinct = counts.iter().filter(|&&c| c > 0).count();
            clamp(min.min(self.size).saturating_sub(distinct))
        };
        let mut penalty = self.caps;
        penalty[FEW_DATACENTERS] = few(&self.datacenters, DATACENTERS_MIN);
        penalty[FEW_REGIONS] = few(&self.regions, REGIONS_MIN);
        penalty
    }

    /// Of all rules, in words, worst first.
    pub(super) fn broken(&self) -> Vec<BrokenRule> {
        let rules = self.rules;
        let over = |counts: &[u32], names: &Names, max: u32| {
            let pairs = counts.iter().zip(&names.names).filter(move |(count, _)| **count > max);
            pairs.map(|(&count, name)| (name.clone(), count as usize)).collect::<Vec<_>>()
        };
        let mut broken = Vec::new();
        for (datacenter, count) in over(&self.datacenters, &rules.datacenters, rules.datacenter_max)
        {
            let parity = rules.parity as usize;
            let limit = rules.datacenter_max as usize;
            broken.push(if count > parity {
                BrokenRule::DatacenterOverParity { datacenter, count, limit: parity }
            } else {
                BrokenRule::Datacenter { datacenter, count, limit }
            });
        }
        let operators = over(&self.operators, &rules.operators, OPERATOR_MAX);
        let prefixes = over(&self.prefixes, &rules.prefixes, OPERATOR_MAX);
        for (operator, count) in operators.into_iter().chain(prefixes) {
            broken.push(BrokenRule::Operator { operator, count });
        }
        for (rack, count) in over(&self.racks, &rules.racks, RACK_MAX) {
            broken.push(BrokenRule::Rack { rack, count });
        }
        let penalty = self.penalty();
        let distinct = |counts: &[u32]| counts.iter().filter(|&&c| c > 0).count();
        if penalty[FEW_DATACENTERS] > 0 {
            broken.push(BrokenRule::FewDatacenters { count: distinct(&self.datacenters) });
        }
        if penalty[QUIET] > 0 {
            let over = self.quiet.iter().filter(|&&count| count > rules.quiet_max);
            let most = self.quiet.iter().max().map_or(0, |&count| count as usize);
            let limit = rules.quiet_max as usize;
            broken.push(BrokenRule::Quiet { hours: over.count(), count: most, limit });
        }
        if penalty[UNVETTED] > 0 {
            broken.push(BrokenRule::Unvetted { count: self.unvetted as usize });
        }
        if penalty[FEW_REGIONS] > 0 {
            broken.push(BrokenRule::FewRegions { count: distinct(&self.regions) });
        }
        broken.sort_unstable();
        broken
    }

    /// Holders counted.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// Holders in the fullest datacenter.
    pub(super) fn most_in_one_datacenter(&self) -> usize {
        self.datacenters.iter().max().map_or(0, |&count| count as usize)
    }
}
