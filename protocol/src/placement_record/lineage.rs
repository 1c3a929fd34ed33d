//! Descent: how a placement record proves that it comes from its owner's
//! version 1, and which of two records wins.
//!
//! Each step is signed by holders of the step before it *in the list*. Versions
//! between two steps may be missing: a holder signs a version only when it knows
//! the one before as committed, so what a quorum of version a signed as version
//! b needs nothing of what lay between.

use std::{cmp::Reverse, collections::BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Placement, PlacementRecord, PlacementSignature, check_holders, invalid};
use crate::{
    bytes::RecordHash,
    identity::{NodeId, Record, RecordError, ensure, record_hash, verify_digest},
    params,
    segment::Scheme,
};

/// An earlier version, as much of it as its signatures need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its version.
    pub version: u64,
    /// The body before it; none for version 1.
    pub previous: Option<RecordHash>,
    /// Its holders, by ascending index.
    pub holders: Vec<(u8, NodeId)>,
    /// What its receipts hashed to.
    pub receipts: RecordHash,
    /// In which ballot it was agreed on; none for version 1 and weak ones.
    pub ballot: Option<u64>,
    /// Signatures by the owner (version 1) or by holders of the step before, by
    /// ascending NodeID.
    pub signatures: Vec<PlacementSignature>,
}

impl Step {
    /// What is left of a record when a later one takes its place.
    #[must_use]
    pub fn of(record: &PlacementRecord) -> Self {
        let body = record.body.clone();
        Self {
            version: body.version,
            previous: body.previous,
            holders: body.holders,
            receipts: body.receipts,
            ballot: record.ballot,
            signatures: record.signatures.clone(),
        }
    }

    /// The whole body of the step, given a later one's.
    #[must_use]
    pub fn body(&self, later: &Placement) -> Placement {
        Placement {
            version: self.version,
            previous: self.previous,
            holders: self.holders.clone(),
            receipts: self.receipts,
            ..later.clone()
        }
    }

    fn holds(&self, node: &NodeId) -> bool {
        self.holders.iter().any(|(_, holder)| holder == node)
    }

    /// Whether it follows another without its holders' agreement.
    const fn is_weak(&self) -> bool {
        self.ballot.is_none() && self.version > 1
    }

    fn count(&self, signatures: &[PlacementSignature]) -> usize {
        signatures.iter().filter(|s| self.holds(&s.signer)).count()
    }
}

/// By how many a record's weakest step was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// Every step by a quorum: final.
    Quorum,
    /// Some step by fewer, which a scheme allows whose k is under half of n: the
    /// signatures of the first such step. It yields to any record that has more,
    /// or a quorum, in that place.
    Weak(u8),
}

impl Scheme {
    /// Holders of a version whose signatures make the next: max(k, floor(n/2)+1).
    /// Any two such sets of one version's holders share a node.
    #[must_use]
    pub const fn change_quorum(&self) -> usize {
        let (k, majority) = (self.k as usize, self.n() / 2 + 1);
        if k > majority { k } else { majority }
    }

    /// The fewest signatures that make a weak version; none for a scheme in which
    /// fewer than a quorum of holders could not rebuild a shard anyway.
    #[must_use]
    pub const fn weak_quorum(&self) -> Option<usize> {
        let k = self.k as usize;
        if k < self.change_quorum() { Some(k) } else { None }
    }
}

impl PlacementRecord {
    /// By how many the weakest step was signed.
    #[must_use]
    pub fn strength(&self) -> Strength {
        match self.first_weak() {
            None => Strength::Quorum,
            // At most 64 signatures are ever in a step.
            Some((_, signatures)) => Strength::Weak(signatures as u8),
        }
    }

    /// Version and signatures of the first weak step.
    fn first_weak(&self) -> Option<(u64, usize)> {
        let weak = self.lineage.iter().find(|s| s.is_weak());
        let weak = weak.map(|s| (s.version, s.signatures.len()));
        let is_last_weak = self.ballot.is_none() && self.body.version > 1;
        weak.or_else(|| is_last_weak.then_some((self.body.version, self.signatures.len())))
    }

    /// The newest version on the way that is final: version 1, or one that was
    /// reached by quorums alone.
    #[must_use]
    pub fn final_version(&self) -> u64 {
        self.first_weak().map_or(self.body.version, |(version, _)| version - 1)
    }

    /// Everybody to ask for shards: the holders, and where the record is weak also
    /// those of its last final version, whom a few others may not hide.
    #[must_use]
    pub fn holders_to_ask(&self) -> Vec<(u8, NodeId)> {
        let mut holders = self.body.holders.clone();
        if self.first_weak().is_some() {
            let last_final = self.lineage.iter().find(|s| s.version == self.final_version());
            for holder in last_final.iter().flat_map(|s| &s.holders) {
                if !holders.contains(holder) {
                    holders.push(*holder);
                }
            }
        }
        holders
    }

    /// Whether a holder is to go by this record: it is final, or it was among those
    /// who signed the first weak step, or the last final version did not name it.
    /// Fewer than a quorum speak for the others only where these find, by their own
    /// probing, that no quorum lives.
    #[must_use]
    pub fn binds(&self, node: &NodeId) -> bool {
        let Some((weak, _)) = self.first_weak() else { return true };
        let last = Step::of(self);
        let mut steps = self.lineage.iter().chain([&last]);
        let named = steps.find(|s| s.version + 1 == weak).is_some_and(|s| s.holds(node));
        let signed = |s: &Step| s.signatures.iter().any(|s| s.signer == *node);
        !named || steps.find(|s| s.version == weak).is_some_and(signed)
    }

    /// A number that grows with every record that wins over another of the same
    /// segment and owner, for stores that compare numbers: from the highest bits,
    /// end of the lease (32), last final version (16), signatures of the first
    /// weak step (6), versions since the final one (10).
    #[must_use]
    pub fn sequence(&self) -> u64 {
        let until = self.lease.body.until.0.min(u64::from(u32::MAX));
        let version = self.body.version.min(params::PLACEMENT_VERSION_MAX);
        let last_final = self.final_version().min(version);
        let weak = self.first_weak().map_or(0, |(_, signatures)| signatures.min(63) as u64);
        let since = (version - last_final).min(params::WEAK_VERSIONS_MAX);
        (until << 32) | (last_final << 16) | (weak << 10) | since
    }

    /// Whether this record takes the place of another of the same segment and
    /// owner. A strict order on bodies, the same for whoever compares them: the
    /// greater [`Self::sequence`], then the lower body hash.
    #[must_use]
    pub fn wins_over(&self, other: &Self) -> bool {
        let key = |r: &Self| (r.sequence(), Reverse(r.hash()));
        key(self) > key(other)
    }

    /// Checks that every step was signed by enough holders of the one before it.
    pub(super) fn verify_lineage(&self) -> Result<(), RecordError> {
        self.check_steps().map_err(invalid)?;
        let steps = self.lineage.iter().map(|s| (s.body(&self.body), s.ballot, &s.signatures));
        let last = (self.body.clone(), self.ballot, &self.signatures);
        for (body, ballot, signatures) in steps.chain([last]) {
            let is_good = |s: &&PlacementSignature| match body.version {
                1 => verify_digest(&s.signer, &record_hash(&body), &s.sig),
                _ => s.verify(&body, ballot),
            };
            if let Some(bad) = signatures.iter().find(|s| !is_good(s)) {
                let (kind, signer) = (Placement::KIND, bad.signer);
                return Err(RecordError::Signature { kind, signer });
            }
        }
        Ok(())
    }

    /// The shape of the lineage, without its signatures.
    fn check_steps(&self) -> Result<(), String> {
        let body = &self.body;
        ensure(self.lineage.len() <= params::LINEAGE_STEPS_MAX, || {
            format!("{} steps", self.lineage.len())
        })?;
        ensure((body.version == 1) == self.lineage.is_empty(), || {
            "every version but the first proves its descent".into()
        })?;
        let last = Step::of(self);
        let mut before: Option<&Step> = None;
        for step in self.lineage.iter().chain([&last]) {
            check_holders(&step.holders)?;
            let ordered = step.signatures.windows(2).all(|p| p[0].signer < p[1].signer);
            ensure(ordered && !step.signatures.is_empty(), || {
                "signatures missing or out of order".into()
            })?;
            match before {
                None => self.check_first(step)?,
                Some(before) => self.check_step(before, step)?,
            }
            before = Some(step);
        }
        let weak = body.version - self.final_version();
        ensure(weak <= params::WEAK_VERSIONS_MAX, || format!("{weak} versions since a final one"))
    }

    fn check_first(&self, step: &Step) -> Result<(), String> {
        ensure(step.version == 1 && step.previous.is_none(), || {
            "the lineage does not begin with version 1".into()
        })?;
        let signatures = &step.signatures;
        let by_owner = signatures.len() == 1 && signatures[0].signer == self.body.owner;
        ensure(by_owner && step.ballot.is_none(), || {
            "version 1 is signed by its owner alone".into()
        })
    }

    fn check_step(&self, before: &Step, step: &Step) -> Result<(), String> {
        let version = step.version;
        ensure(version > before.version && step.previous.is_some(), || {
            "steps not in ascending order of version".into()
        })?;
        let is_next = version == before.version + 1;
        let follows = || step.previous == Some(record_hash(&before.body(&self.body)));
        ensure(!is_next || follows(), || format!("version {version} follows another"))?;
        let signed = step.signatures.len();
        ensure(before.count(&step.signatures) == signed, || {
            format!("version {version}: signed by others than the holders before")
        })?;
        let scheme = self.descriptor.scheme;
        // A weak step stands right behind the version it follows: its place among
        // forks must not depend on which steps are told.
        let weak = scheme.weak_quorum().filter(|_| step.is_weak() && is_next);
        ensure(!step.is_weak() || weak.is_some(), || {
            format!("version {version}: nobody agreed on it")
        })?;
        let needed = weak.unwrap_or(scheme.change_quorum());
        ensure(signed >= needed, || {
            format!("version {version}: {signed} of {needed} needed holders signed")
        })
    }

    /// Drops the steps that nothing needs: keeps the fewest that still lead from
    /// version 1 to the body, and of each only the signatures that count.
    pub(super) fn compact(&mut self) {
        let last = Step::of(self);
        let steps: Vec<&Step> = self.lineage.iter().chain([&last]).collect();
        let path = self.shortest(&steps);
        let mut kept: Vec<Step> = path.into_iter().map(|at| steps[at].clone()).collect();
        for at in (1..kept.len()).rev() {
            let before: BTreeSet<NodeId> = kept[at - 1].holders.iter().map(|(_, h)| *h).collect();
            kept[at].signatures.retain(|s| before.contains(&s.signer));
        }
        let Some(last) = kept.pop() else { return };
        self.signatures = last.signatures;
        self.lineage = kept;
        self.trim();
    }

    /// Positions of the fewest steps from the first to the last.
    fn shortest(&self, steps: &[&Step]) -> Vec<usize> {
        let quorum = self.descriptor.scheme.change_quorum();
        // For each step, how many lead to it and which comes before it: always
        // there, for whatever its neighbour in the list is, that is where it stood.
        let mut ways: Vec<(usize, usize)> = vec![(0, 0)];
        for (at, step) in steps.iter().enumerate().skip(1) {
            let leads =
                |from: &usize| !step.is_weak() && steps[*from].count(&step.signatures) >= quorum;
            let best = (0..at - 1).filter(leads).chain([at - 1]);
            let best = best.map(|from| (ways[from].0 + 1, from)).min();
            ways.extend(best);
        }
        let mut path = vec![steps.len() - 1];
        while let Some(&at) = path.last().filter(|at| **at > 0) {
            path.push(ways[at].1);
        }
        path.reverse();
        path
    }

    /// Where the record is too long, gives up signatures beyond the quorums, which
    /// only help to skip steps later.
    fn trim(&mut self) {
        if self.encode().len() <= Placement::BYTES_MAX {
            return;
        }
        let quorum = self.descriptor.scheme.change_quorum();
        for step in self.lineage.iter_mut().filter(|s| !s.is_weak()) {
            step.signatures.truncate(quorum);
        }
    }
}
