//! Whom the demo kills: as many holders of every segment as its code is meant
//! to survive, never more.
//!
//! One set of nodes is killed, and segments overlap on them, so not every
//! segment can lose exactly its limit; the set with the most that do is found
//! by looking at all sets, which 20 nodes allow.

use std::collections::BTreeMap;

/// Most nodes: 2^22 sets are looked at in a moment.
pub(super) const NODES_MAX: usize = 22;

/// One segment, seen by who may be killed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    /// Bit per node that holds a live shard of it.
    pub(super) holders: u32,
    /// Shards that it needs.
    pub(super) needed: u32,
    /// Live shards held by nobody who may be killed.
    pub(super) elsewhere: u32,
}

impl Segment {
    /// Live shards.
    pub(super) const fn alive(&self) -> u32 {
        self.holders.count_ones() + self.elsewhere
    }

    /// Most shards it can lose; none when it lacks some already.
    fn limit(&self) -> Option<u32> {
        self.alive().checked_sub(self.needed)
    }
}

/// A set of nodes to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    /// Bit per node.
    pub(super) nodes: u32,
    /// Segments that lose exactly what they can.
    pub(super) at_limit: usize,
}

/// The set that brings most segments to their limit and none below; among
/// those, the one that costs most shards in all. At least one node survives.
/// None when some segment lacks shards already, or nothing can be killed.
pub(super) fn choose(segments: &[Segment], nodes: usize) -> Option<Choice> {
    let nodes = nodes.min(NODES_MAX);
    let mut distinct: BTreeMap<&Segment, usize> = BTreeMap::new();
    for segment in segments {
        *distinct.entry(segment).or_default() += 1;
    }
    let limits: Option<Vec<(u32, u32, usize)>> =
        distinct.iter().map(|(s, count)| Some((s.holders, s.limit()?, *count))).collect();
    let limits = limits?;
    let all = (1u32 << nodes) - 1;
    let mut best: Option<(usize, usize, u32)> = None;
    for set in 1..all {
        let Some((at_limit, lost)) = weigh(&limits, set) else { continue };
        if best.is_none_or(|(b_limit, b_lost, _)| (at_limit, lost) > (b_limit, b_lost)) {
            best = Some((at_limit, lost, set));
        }
    }
    best.map(|(at_limit, _, nodes)| Choice { nodes, at_limit })
}

/// Segments at their limit and shards lost when `set` is killed; none when a
/// segment loses too much.
fn weigh(limits: &[(u32, u32, usize)], set: u32) -> Option<(usize, usize)> {
    let (mut at_limit, mut all_lost) = (0, 0);
    for (holders, limit, count) in limits {
        let lost = (holders & set).count_ones();
        if lost > *limit {
            return None;
        }
        if lost == *limit {
            at_limit += count;
        }
        all_lost += lost as usize * count;
    }
    Some((at_limit, all_lost))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(holders: u32, needed: u32) -> Segment {
        Segment { holders, needed, elsewhere: 0 }
    }

    #[test]
    fn one_segment_loses_exactly_six() {
        let choice = choose(&[segment(0xffff, 10)], 20).unwrap();
        assert_eq!((choice.nodes & 0xffff).count_ones(), 6);
        assert_eq!(choice.at_limit, 1);
    }

    #[test]
    fn copies_and_coded_segments_both_reach_their_limit() {
        // Seven copies on nodes 10 to 16, sixteen shards on nodes 0 to 15.
        let copies = segment(0x7f << 10, 1);
        let coded = segment(0xffff, 10);
        let choice = choose(&[coded.clone(), copies.clone()], 20).unwrap();
        assert_eq!((choice.nodes & coded.holders).count_ones(), 6);
        assert_eq!((choice.nodes & copies.holders).count_ones(), 6);
        assert_eq!(choice.at_limit, 2);
    }

    #[test]
    fn no_segment_ever_falls_below_what_it_needs() {
        // A cheap deterministic stream of 16-of-20 sets.
        let mut state = 12345u64;
        let mut segments = Vec::new();
        while segments.len() < 40 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mask = (state >> 20) as u32 & 0xf_ffff;
            if mask.count_ones() >= 14 {
                segments.push(segment(mask, 10));
            }
        }
        let choice = choose(&segments, 20).unwrap();
        for s in &segments {
            assert!((s.holders & !choice.nodes).count_ones() >= s.needed);
        }
        assert!(choice.at_limit >= 1);
    }

    #[test]
    fn a_segment_that_lacks_shards_already_stops_the_show() {
        assert_eq!(choose(&[segment(0xff, 10)], 20), None);
        assert_eq!(choose(&[segment(0x3ff, 10)], 10), None);
    }

    #[test]
    fn somebody_survives() {
        // Seven copies on seven nodes: six may go.
        let choice = choose(&[segment(0x7f, 1)], 7).unwrap();
        assert_eq!(choice.nodes.count_ones(), 6);
    }
}
