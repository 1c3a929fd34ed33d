//! What to do when ranges that verify do not give the promised bytes (design 6).
//!
//! Either the shards are no codeword, then k+1 of them prove it and another
//! subset may give the bytes; or they are one, then no subset ever will, and the
//! manifest is wrong.

use std::collections::BTreeSet;

use crate::machine::Draws;

/// Draws for an untried subset, at most.
const SUBSET_DRAWS_MAX: u32 = 256;

/// What the driver is asked next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Compare these k+1.
    Prove(Vec<u8>),
    /// Make the wanted ranges from these.
    Decode(Vec<u8>),
    /// Nothing can be done with what is there; more shards may help.
    MoreShards,
    /// More shards would not help either.
    Exhausted,
}

/// The state of an investigation.
#[derive(Debug)]
pub(super) struct Doubt {
    k: usize,
    want: Vec<u8>,
    subsets_max: u32,
    draws: Draws,
    /// Sets that gave wrong bytes.
    tried: BTreeSet<Vec<u8>>,
    /// k indices that others are compared with.
    base: Vec<u8>,
    /// Indices that lie on one codeword with `base`.
    consistent: BTreeSet<u8>,
    inconsistent: bool,
    /// The index being compared.
    comparing: Option<u8>,
    subsets: u32,
}

impl Doubt {
    pub(super) fn new(k: usize, want: &BTreeSet<u8>, subsets_max: u32, seed: u64) -> Self {
        Self {
            k,
            want: want.iter().copied().collect(),
            subsets_max,
            draws: Draws::new(seed),
            tried: BTreeSet::new(),
            base: Vec::new(),
            consistent: BTreeSet::new(),
            inconsistent: false,
            comparing: None,
            subsets: 0,
        }
    }

    /// These gave wrong bytes.
    pub(super) fn wrong(&mut self, have: Vec<u8>) {
        if self.base.is_empty() {
            self.base.clone_from(&have);
        }
        self.tried.insert(have);
    }

    /// The comparison asked for is done. True: inconsistency is news.
    pub(super) fn compared(&mut self, consistent: bool) -> bool {
        let Some(index) = self.comparing.take() else { return false };
        if consistent {
            self.consistent.insert(index);
        }
        let news = !consistent && !self.inconsistent;
        self.inconsistent |= !consistent;
        news
    }

    pub(super) const fn is_inconsistent(&self) -> bool {
        self.inconsistent
    }

    /// Whether the manifest alone is wrong: the wanted data shards themselves gave
    /// wrong bytes, and they lie on one codeword with at least k others. Short of
    /// that the publisher may be the one, and nobody is blamed.
    pub(super) fn blames_manifest(&self) -> bool {
        !self.inconsistent && self.tried.contains(&self.want) && !self.consistent.is_empty()
    }

    /// What next, with the ranges of `had`.
    pub(super) fn step(&mut self, had: &BTreeSet<u8>) -> Step {
        if !self.inconsistent
            && let Some(indices) = self.next_comparison(had)
        {
            return Step::Prove(indices);
        }
        if self.want.iter().all(|i| had.contains(i)) && !self.tried.contains(&self.want) {
            return Step::Decode(self.want.clone());
        }
        if !self.inconsistent {
            return Step::MoreShards;
        }
        if self.subsets >= self.subsets_max {
            return Step::Exhausted;
        }
        let Some(subset) = self.next_subset(had) else { return Step::MoreShards };
        self.subsets += 1;
        Step::Decode(subset)
    }

    /// k+1 indices of which the last was not compared yet.
    fn next_comparison(&mut self, had: &BTreeSet<u8>) -> Option<Vec<u8>> {
        if had.len() <= self.k {
            return None;
        }
        // Fewer than k where the wanted shards came directly.
        let others: Vec<u8> = had.iter().copied().filter(|i| !self.base.contains(i)).collect();
        let lacking = self.k.saturating_sub(self.base.len());
        self.base.extend(others.iter().take(lacking));
        let is_new = |i: &&u8| !self.consistent.contains(i) && !self.base.contains(i);
        let index = *others.iter().find(is_new)?;
        self.comparing = Some(index);
        let mut indices = self.base.clone();
        indices.push(index);
        indices.sort_unstable();
        Some(indices)
    }

    fn next_subset(&mut self, had: &BTreeSet<u8>) -> Option<Vec<u8>> {
        if had.len() < self.k {
            return None;
        }
        let mut all: Vec<u8> = had.iter().copied().collect();
        for _ in 0..SUBSET_DRAWS_MAX {
            self.draws.shuffle(&mut all);
            let mut subset = all[..self.k].to_vec();
            subset.sort_unstable();
            if !self.tried.contains(&subset) {
                return Some(subset);
            }
        }
        None
    }
}
