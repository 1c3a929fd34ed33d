//! Evidence (SPEC_WITNESS.md, section 8): what one needs to see alone that a holder lost a shard,
//! a witness lied, or an owner promised more than it had.
//!
//! Everything that is read here is checked before it convicts; nothing is believed because of who
//! handed it over.

use std::collections::BTreeMap;

use echonet_protocol::{
    audit::{AuditDigest, AuditResult, AuditVerdict, Outcome},
    bytes::RecordHash,
    codec::{self, DecodeError},
    identity::{NodeId, RecordError, Signed},
    inconsistency::{InconsistencyError, InconsistencyProof, LeafRows, LeafSlice},
    lease::{Grant, Lease, Receipt},
    network::NetworkId,
    params,
    placement_record::PlacementRecord,
    segment::SegmentId,
    time::Epoch,
};
use serde::{Deserialize, Serialize};

use crate::{
    verdicts::{contradiction, is_fork},
    verify::slice_hash,
};

/// What one needs to check a verdict alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Format version.
    pub v: u8,
    /// The verdict.
    pub verdict: Signed<AuditVerdict>,
    /// The encoded placement record that named the holders, with the segment's descriptor.
    #[serde(with = "serde_bytes")]
    pub placement: Vec<u8>,
    /// The leaf proofs that are there, by ascending index.
    pub slices: Vec<LeafSlice>,
}

/// How a witness lied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offence {
    /// It told two stories in one place of its chain.
    Fork,
    /// It gave out two digests of one epoch.
    TwoDigests,
    /// It called a proof a pass that does not verify.
    FalsePass,
    /// It said what its own verdict shows to be false.
    Contradiction,
}

/// Whom evidence convicts, and of what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A holder, by its own signature, of one shard.
    Holder {
        /// Who.
        holder: NodeId,
        /// Of which segment.
        segment: SegmentId,
        /// Of which shard.
        index: u8,
        /// `Wrong` or `Absent`.
        outcome: Outcome,
    },
    /// A witness: its results count no more from that epoch on.
    Witness {
        /// Who.
        witness: NodeId,
        /// The epoch of the evidence.
        epoch: Epoch,
        /// What it did.
        offence: Offence,
    },
    /// An owner that used more than it was granted.
    Owner {
        /// Who.
        owner: NodeId,
        /// The grant.
        grant: RecordHash,
    },
    /// A holder that honoured more than its share of a grant.
    Overcommitted {
        /// Who.
        holder: NodeId,
        /// The grant.
        grant: RecordHash,
    },
    /// Whoever made a segment's descriptor: its shards are not a codeword.
    Publisher {
        /// The segment.
        segment: SegmentId,
    },
}

/// Why evidence convicts nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Not evidence.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A record in it is not what it should be.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// An inconsistency proof that proves nothing.
    #[error(transparent)]
    Inconsistency(#[from] InconsistencyError),
    /// Its parts do not belong together.
    #[error("evidence: {0}")]
    Mismatch(String),
    /// It is in order, and shows no fault.
    #[error("evidence: everything in it is in order, so it convicts nobody")]
    Innocent,
}

fn mismatch(reason: impl Into<String>) -> EvidenceError {
    EvidenceError::Mismatch(reason.into())
}

/// A case of which every part was checked.
#[derive(Debug, Clone)]
pub struct CheckedCase {
    /// The verdict.
    pub verdict: Signed<AuditVerdict>,
    /// The placement that named the holders.
    pub record: PlacementRecord,
    /// Whom it convicts; empty where all is in order.
    pub faults: Vec<Fault>,
    /// Which passes it proves again, by index; those whose proofs it does not have are not here.
    pub proven: Vec<u8>,
}

impl Case {
    /// Deterministic bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a case and checks every part of it.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn decode(
        bytes: &[u8],
        network: &NetworkId,
        rows: &impl LeafRows,
    ) -> Result<CheckedCase, EvidenceError> {
        let case: Self = codec::decode("case", bytes, params::CASE_BYTES_MAX)?;
        case.check(network, rows)
    }

    /// Checks every part.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(
        &self,
        network: &NetworkId,
        rows: &impl LeafRows,
    ) -> Result<CheckedCase, EvidenceError> {
        if self.v != params::FORMAT_VERSION {
            return Err(mismatch(format!("version {} unknown", self.v)));
        }
        self.verdict.verify(network)?;
        let record = PlacementRecord::decode(&self.placement, network)?;
        let verdict = &self.verdict.body;
        if record.body.segment != verdict.challenge.segment {
            return Err(mismatch("the placement of another segment"));
        }
        if record.hash() != verdict.placement {
            return Err(mismatch("another placement than the verdict's"));
        }
        if !self.slices.windows(2).all(|p| p[0].index < p[1].index) {
            return Err(mismatch("proofs not in ascending order of index"));
        }
        for slice in &self.slices {
            let signed = verdict.result(slice.index).and_then(|result| result.slice);
            if signed != Some(slice_hash(&slice.slice)) {
                let index = slice.index;
                return Err(mismatch(format!("the proof of shard {index} is not the one signed")));
            }
        }
        let (faults, proven) = self.faults(&record, rows);
        Ok(CheckedCase { verdict: self.verdict.clone(), record, faults, proven })
    }

    fn faults(&self, record: &PlacementRecord, rows: &impl LeafRows) -> (Vec<Fault>, Vec<u8>) {
        let verdict = &self.verdict.body;
        let lie = |offence| {
            let (witness, epoch) = (verdict.witness, verdict.challenge.epoch);
            vec![Fault::Witness { witness, epoch, offence }]
        };
        // What its witness made up convicts nobody else.
        if self.contradicts(record) {
            return (lie(Offence::Contradiction), Vec::new());
        }
        let (mut faults, mut proven) = (Vec::new(), Vec::new());
        for result in &verdict.results {
            let verifies = self.verifies(record, result, rows);
            match (result.outcome, verifies) {
                (Outcome::Pass, Some(true)) => proven.push(result.index),
                (Outcome::Pass, Some(false)) => faults.extend(lie(Offence::FalsePass)),
                (Outcome::Wrong, Some(true)) => faults.extend(lie(Offence::Contradiction)),
                (Outcome::Wrong, Some(false)) | (Outcome::Absent, _) => {
                    faults.push(Fault::Holder {
                        holder: result.holder,
                        segment: verdict.challenge.segment,
                        index: result.index,
                        outcome: result.outcome,
                    });
                }
                (Outcome::Silent, _) | (_, None) => {}
            }
        }
        faults.dedup();
        (faults, proven)
    }

    /// Whether the verdict is against itself, or against the placement that it names.
    fn contradicts(&self, record: &PlacementRecord) -> bool {
        let verdict = &self.verdict.body;
        let is_holder =
            |result: &AuditResult| record.body.holder(result.index) == Some(result.holder);
        contradiction(verdict).is_some()
            || verdict.length as usize != record.descriptor.shard_len()
            || !verdict.results.iter().all(is_holder)
    }

    /// Whether the proof that came verifies; none where the case has it not.
    fn verifies(
        &self,
        record: &PlacementRecord,
        result: &AuditResult,
        rows: &impl LeafRows,
    ) -> Option<bool> {
        let slice = self.slices.iter().find(|slice| slice.index == result.index)?;
        let shard = record.descriptor.shards.get(usize::from(result.index))?;
        let (length, leaf) = (u64::from(self.verdict.body.length), self.verdict.body.leaf);
        Some(rows.verify(shard, length, leaf, &slice.slice).is_some())
    }
}

/// Receipts under one grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverGrant {
    /// The grant.
    pub grant: Signed<Grant>,
    /// Receipts with the leases that they are for.
    pub held: Vec<(Signed<Lease>, Signed<Receipt>)>,
}

/// Anything that convicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Evidence {
    /// A holder's signature against itself, or a verdict that is false.
    Case(Box<Case>),
    /// Two verdicts in one chain that cannot both be in it, by ascending sequence and hash.
    Fork(Box<Signed<AuditVerdict>>, Box<Signed<AuditVerdict>>),
    /// Two digests of one witness and epoch, by ascending hash.
    Digests(Box<Signed<AuditDigest>>, Box<Signed<AuditDigest>>),
    /// More was promised than granted.
    Overgrant(Box<OverGrant>),
    /// A row that is not a codeword.
    Row(Box<InconsistencyProof>),
}

impl Evidence {
    /// Deterministic bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Its name: BLAKE3 of its bytes.
    #[must_use]
    pub fn hash(&self) -> RecordHash {
        RecordHash(*blake3::hash(&self.encode()).as_bytes())
    }

    /// Reads evidence; who is convicted is for [`Self::check`] to say.
    ///
    /// # Errors
    /// The bytes are no evidence.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode("evidence", bytes, params::CASE_BYTES_MAX)
    }

    /// Whom it convicts: at least one.
    ///
    /// # Errors
    /// Why it convicts nobody.
    pub fn check(
        &self,
        network: &NetworkId,
        rows: &impl LeafRows,
    ) -> Result<Vec<Fault>, EvidenceError> {
        let faults = match self {
            Self::Case(case) => case.check(network, rows)?.faults,
            Self::Fork(one, other) => fork(one, other, network)?,
            Self::Digests(one, other) => two_digests(one, other, network)?,
            Self::Overgrant(over) => over.check(network)?,
            Self::Row(proof) => {
                let proof = InconsistencyProof::decode(&proof.encode(), rows)?;
                vec![Fault::Publisher { segment: proof.segment_id() }]
            }
        };
        if faults.is_empty() { Err(EvidenceError::Innocent) } else { Ok(faults) }
    }
}

fn fork(
    one: &Signed<AuditVerdict>,
    other: &Signed<AuditVerdict>,
    network: &NetworkId,
) -> Result<Vec<Fault>, EvidenceError> {
    one.verify(network)?;
    other.verify(network)?;
    let place = |verdict: &Signed<AuditVerdict>| (verdict.body.sequence, verdict.hash());
    if place(one) >= place(other) {
        return Err(mismatch("verdicts not in ascending order of sequence and hash"));
    }
    if !is_fork(one, other) {
        return Ok(Vec::new());
    }
    let epoch = one.body.challenge.epoch.max(other.body.challenge.epoch);
    let (witness, offence) = (one.body.witness, Offence::Fork);
    Ok(vec![Fault::Witness { witness, epoch, offence }])
}

fn two_digests(
    one: &Signed<AuditDigest>,
    other: &Signed<AuditDigest>,
    network: &NetworkId,
) -> Result<Vec<Fault>, EvidenceError> {
    one.verify(network)?;
    other.verify(network)?;
    if one.hash() >= other.hash() {
        return Err(mismatch("digests not in ascending order of hash"));
    }
    let place = |digest: &Signed<AuditDigest>| (digest.body.witness, digest.body.epoch);
    if place(one) != place(other) {
        return Ok(Vec::new());
    }
    let (witness, epoch) = place(one);
    Ok(vec![Fault::Witness { witness, epoch, offence: Offence::TwoDigests }])
}

impl OverGrant {
    fn check(&self, network: &NetworkId) -> Result<Vec<Fault>, EvidenceError> {
        self.grant.verify(network)?;
        let (grant, hash) = (&self.grant.body, self.grant.hash());
        // A shard that moved has two receipts under one lease: the owner used it once, and each
        // holder's own count has it.
        let mut by_shard: BTreeMap<(RecordHash, u8), u128> = BTreeMap::new();
        let mut by_holder: BTreeMap<NodeId, BTreeMap<(RecordHash, u8), u128>> = BTreeMap::new();
        for (lease, receipt) in &self.held {
            lease.verify(network)?;
            receipt.verify(network)?;
            check_receipt(lease, receipt, &hash, &grant.owner)?;
            let body = &receipt.body;
            let shard = (body.lease, body.index);
            let used = u128::from(body.length) * u128::from(body.until.0 - body.from.0);
            let most = by_shard.entry(shard).or_default();
            *most = used.max(*most);
            by_holder.entry(body.holder).or_default().insert(shard, used);
        }
        let granted = u128::from(grant.byte_epochs);
        let mut faults = Vec::new();
        if by_shard.values().sum::<u128>() > granted {
            faults.push(Fault::Owner { owner: grant.owner, grant: hash });
        }
        let share = granted / u128::from(params::GRANT_SHARE_DIVISOR);
        for (holder, shards) in by_holder {
            if shards.values().sum::<u128>() > share {
                faults.push(Fault::Overcommitted { holder, grant: hash });
            }
        }
        Ok(faults)
    }
}

fn check_receipt(
    lease: &Signed<Lease>,
    receipt: &Signed<Receipt>,
    grant: &RecordHash,
    owner: &NodeId,
) -> Result<(), EvidenceError> {
    let (lease_body, body) = (&lease.body, &receipt.body);
    if lease_body.grant != Some(*grant) || lease_body.owner != *owner {
        return Err(mismatch("a lease under another grant"));
    }
    let is_of_lease = body.lease == lease.hash()
        && body.segment == lease_body.segment
        && (body.from, body.until) == (lease_body.from, lease_body.until);
    if is_of_lease { Ok(()) } else { Err(mismatch("a receipt for another lease or term")) }
}
