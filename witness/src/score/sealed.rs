//! The sealed set of an epoch: the digests that a node has, complete with everything that they
//! stand for. Its name tells two nodes whether they fold the same.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    audit::{AuditDigest, AuditVerdict, Maintenance, Outcome},
    bytes::RecordHash,
    identity::{NodeId, RecordError, Signed},
    network::NetworkId,
    time::Epoch,
};

use crate::{
    beacon::Beacon,
    evidence::{CheckedCase, Fault, Offence},
    verdicts::{CheckedVerdict, DigestError, VerdictError, check_digest},
};

/// Epochs that a digest may be late.
const LATE_EPOCHS_MAX: u64 = 16;

/// Why something is not taken into a sealed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A record that does not verify.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The verdicts are not those of the digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// Of another epoch than the set.
    #[error("of epoch {found}, not of the set's, {wanted}")]
    Epoch {
        /// Its epoch.
        found: u64,
        /// The set's.
        wanted: u64,
    },
    /// A digest of a witness that the set has a digest of; two different ones are evidence.
    #[error("there is a digest of {0} in this set already")]
    Twice(NodeId),
    /// What came for a `wrong` is missing.
    #[error(
        "verdict {verdict} calls shard {index} wrong; fetch its case, without which it is only a word"
    )]
    Unproven {
        /// The verdict.
        verdict: RecordHash,
        /// The shard.
        index: u8,
    },
}

/// A verdict in a sealed set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) verdict: CheckedVerdict,
    /// Indices that it calls wrong although what came verifies.
    pub(super) lies: BTreeSet<u8>,
}

/// Everything that a fold takes of one epoch.
#[derive(Debug, Clone)]
pub struct SealedSet {
    network: NetworkId,
    epoch: Epoch,
    pub(super) beacon: Option<Beacon>,
    digests: BTreeMap<NodeId, RecordHash>,
    /// By record hash: the order in which they count.
    pub(super) verdicts: BTreeMap<RecordHash, Sealed>,
    /// By record hash.
    pub(super) maintenances: BTreeMap<RecordHash, Maintenance>,
    /// By the evidence's hash.
    pub(super) convicted: BTreeMap<RecordHash, NodeId>,
}

impl SealedSet {
    /// The empty set of an epoch. Without a beacon it takes no verdict into account.
    #[must_use]
    pub const fn new(network: NetworkId, epoch: Epoch, beacon: Option<Beacon>) -> Self {
        Self {
            network,
            epoch,
            beacon,
            digests: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            maintenances: BTreeMap::new(),
            convicted: BTreeMap::new(),
        }
    }

    /// Its epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether a digest that is first heard of `now` is still taken into the set of `epoch`; what
    /// comes later changes no score any more.
    #[must_use]
    pub const fn is_open(epoch: Epoch, now: Epoch) -> bool {
        now.0.saturating_sub(epoch.0) <= LATE_EPOCHS_MAX
    }

    /// Takes a witness's digest with all its verdicts, in order, and the checked cases of those
    /// that call anything wrong. Returns what the verdicts show of their witness: a caller that
    /// finds a fault makes evidence of it.
    ///
    /// # Errors
    /// What is missing or does not hold; nothing was taken then.
    pub fn add(
        &mut self,
        digest: &Signed<AuditDigest>,
        verdicts: Vec<Signed<AuditVerdict>>,
        cases: &[CheckedCase],
    ) -> Result<Vec<Fault>, SealError> {
        digest.verify(&self.network)?;
        let (witness, found) = (digest.body.witness, digest.body.epoch);
        if found != self.epoch {
            return Err(SealError::Epoch { found: found.0, wanted: self.epoch.0 });
        }
        if self.digests.contains_key(&witness) {
            return Err(SealError::Twice(witness));
        }
        check_digest(&digest.body, &verdicts)?;
        let cases: BTreeMap<RecordHash, &CheckedCase> =
            cases.iter().map(|case| (case.verdict.hash(), case)).collect();
        let (mut sealed, mut faults) = (Vec::new(), Vec::new());
        for verdict in verdicts {
            let epoch = verdict.body.challenge.epoch;
            let offence = Offence::Contradiction;
            match CheckedVerdict::new(verdict, &self.network) {
                Ok(verdict) => sealed.push(seal(verdict, &cases, &mut faults)?),
                Err(VerdictError::Record(e)) => return Err(e.into()),
                Err(VerdictError::Contradiction { witness, .. }) => {
                    faults.push(Fault::Witness { witness, epoch, offence });
                }
            }
        }
        self.digests.insert(witness, digest.hash());
        self.verdicts.extend(sealed.into_iter().map(|s| (s.verdict.hash(), s)));
        Ok(faults)
    }

    /// Takes a maintenance that was first heard of in this epoch.
    ///
    /// # Errors
    /// [`SealError::Record`].
    pub fn announce(&mut self, maintenance: &Signed<Maintenance>) -> Result<(), SealError> {
        maintenance.verify(&self.network)?;
        self.maintenances.insert(maintenance.hash(), maintenance.body.clone());
        Ok(())
    }

    /// Takes a conviction, by evidence that was checked and is of this epoch.
    ///
    /// # Errors
    /// [`SealError::Epoch`].
    pub fn convict(
        &mut self,
        evidence: RecordHash,
        witness: NodeId,
        epoch: Epoch,
    ) -> Result<(), SealError> {
        if epoch != self.epoch {
            return Err(SealError::Epoch { found: epoch.0, wanted: self.epoch.0 });
        }
        self.convicted.insert(evidence, witness);
        Ok(())
    }

    /// Its name: two sets with one name give one score.
    #[must_use]
    pub fn name(&self) -> RecordHash {
        let mut digests: Vec<RecordHash> = self.digests.values().copied().collect();
        digests.sort_unstable();
        let maintenances: Vec<RecordHash> = self.maintenances.keys().copied().collect();
        let convicted: Vec<RecordHash> = self.convicted.keys().copied().collect();
        let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 sealed set v1");
        for list in [digests, maintenances, convicted] {
            hasher.update(&(list.len() as u64).to_le_bytes());
            for hash in list {
                hasher.update(&hash.0);
            }
        }
        RecordHash(*hasher.finalize().as_bytes())
    }
}

/// A verdict with what its case says about each `wrong`.
fn seal(
    verdict: CheckedVerdict,
    cases: &BTreeMap<RecordHash, &CheckedCase>,
    faults: &mut Vec<Fault>,
) -> Result<Sealed, SealError> {
    let case = cases.get(&verdict.hash());
    faults.extend(case.iter().flat_map(|case| &case.faults).cloned());
    let mut lies = BTreeSet::new();
    for result in verdict.body().results.iter().filter(|r| r.outcome == Outcome::Wrong) {
        let index = result.index;
        let unproven = SealError::Unproven { verdict: verdict.hash(), index };
        let case = case.ok_or(unproven.clone())?;
        let is_proven = |fault: &Fault| matches!(fault, Fault::Holder { index: i, outcome: Outcome::Wrong, .. } if *i == index);
        let is_lie = |fault: &Fault| matches!(fault, Fault::Witness { .. });
        if !case.faults.iter().any(is_proven) {
            if !case.faults.iter().any(is_lie) {
                return Err(unproven);
            }
            lies.insert(index);
        }
    }
    Ok(Sealed { verdict, lies })
}
