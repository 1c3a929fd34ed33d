//! What a witness found (SPEC_WITNESS.md, section 7): one row of a segment, who answered what.
//!
//! A verdict carries what is needed to put the challenge and each signed answer together again, so
//! that it can be checked by whoever never saw them. The leaf proofs are not in it, their hashes
//! are.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::challenge::{AuditAnswer, AuditChallenge};
use crate::{
    bytes::{BeaconSignature, RecordHash, SliceHash},
    identity::{NodeId, Signature, Signed, ensure, record},
    inconsistency::LEAF_BYTES,
    network::NetworkId,
    params,
    segment::SegmentId,
    time::Epoch,
};

/// What came of asking one holder for its leaf (SPEC_WITNESS.md, section 6). A number in DAG-CBOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Outcome {
    /// Signed, and the proof verifies.
    Pass,
    /// Signed, and what came does not verify.
    Wrong,
    /// Signed: I have it not.
    Absent,
    /// Nothing, late, unsigned, or for something else.
    Silent,
}

impl Outcome {
    /// Whether it rests on a signature of the holder.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        !matches!(self, Self::Silent)
    }

    /// Whether it says that the holder has not what it promised.
    #[must_use]
    pub const fn is_against(self) -> bool {
        matches!(self, Self::Wrong | Self::Absent)
    }
}

impl From<Outcome> for u8 {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Pass => 0,
            Outcome::Wrong => 1,
            Outcome::Absent => 2,
            Outcome::Silent => 3,
        }
    }
}

impl TryFrom<u8> for Outcome {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        [Self::Pass, Self::Wrong, Self::Absent, Self::Silent]
            .get(usize::from(number))
            .copied()
            .ok_or_else(|| format!("outcome {number} is not known"))
    }
}

/// A challenge as a verdict carries it; version, network and witness are the verdict's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerdictChallenge {
    /// In which epoch was asked.
    pub epoch: Epoch,
    /// About what.
    pub segment: SegmentId,
    /// The epoch's beacon.
    pub beacon: BeaconSignature,
    /// Whose inventory, if it was one.
    pub inventory: Option<NodeId>,
    /// The witness's signature under the challenge.
    pub sig: Signature,
}

/// What one holder answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditResult {
    /// Which shard, under 64.
    pub index: u8,
    /// Who was asked.
    pub holder: NodeId,
    /// What came of it.
    pub outcome: Outcome,
    /// BLAKE3 of the leaf proof that the holder signed; none with `Silent` and `Absent`.
    pub slice: Option<SliceHash>,
    /// The holder's signature under its answer; none with `Silent`.
    pub sig: Option<Signature>,
}

/// What a witness found in one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditVerdict {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// Who says it.
    pub witness: NodeId,
    /// Counts its verdicts, from 1.
    pub sequence: u64,
    /// Record hash of its verdict before; none for the first.
    pub previous: Option<RecordHash>,
    /// What was asked.
    pub challenge: VerdictChallenge,
    /// Record hash of the placement body that named the holders.
    pub placement: RecordHash,
    /// Bytes of each of the segment's shards.
    pub length: u32,
    /// The row: the leaf's number in each shard, from 0.
    pub leaf: u64,
    /// 1 to 64, by ascending index.
    pub results: Vec<AuditResult>,
}

record!(
    AuditVerdict,
    "audit verdict",
    params::VERDICT_BYTES_MAX,
    signer: witness,
    check: AuditVerdict::check_shape
);

impl AuditVerdict {
    /// The challenge, put together again. Whether its signature is the witness's is for the
    /// caller to check.
    #[must_use]
    pub fn challenge(&self) -> Signed<AuditChallenge> {
        let VerdictChallenge { epoch, segment, beacon, inventory, sig } = self.challenge.clone();
        let (v, network, witness) = (self.v, self.network, self.witness);
        let body = AuditChallenge { v, network, witness, epoch, segment, beacon, inventory };
        Signed { body, sig }
    }

    /// The answer behind a result, put together again; none where nothing was signed. Whether its
    /// signature is the holder's is for the caller to check.
    #[must_use]
    pub fn answer(&self, result: &AuditResult) -> Option<Signed<AuditAnswer>> {
        let body = AuditAnswer {
            v: self.v,
            network: self.network,
            holder: result.holder,
            challenge: self.challenge().hash(),
            segment: self.challenge.segment,
            index: result.index,
            slice: result.slice,
        };
        result.sig.map(|sig| Signed { body, sig })
    }

    /// What was found about a shard.
    #[must_use]
    pub fn result(&self, index: u8) -> Option<&AuditResult> {
        self.results.iter().find(|result| result.index == index)
    }

    fn check_shape(&self) -> Result<(), String> {
        ensure(self.sequence >= 1, || "sequences count from 1".into())?;
        ensure((self.sequence == 1) == self.previous.is_none(), || {
            "only the first verdict has no previous one".into()
        })?;
        let length = self.length as usize;
        ensure((1..=params::SHARD_BYTES_MAX).contains(&length), || {
            format!("shards of {length} bytes")
        })?;
        let leaves = u64::from(self.length).div_ceil(LEAF_BYTES);
        ensure(self.leaf < leaves, || format!("leaf {} of {leaves}", self.leaf))?;
        let count = self.results.len();
        ensure((1..=params::SHARDS_MAX).contains(&count), || format!("{count} results"))?;
        ensure(self.results.windows(2).all(|p| p[0].index < p[1].index), || {
            "results not in ascending order of index".into()
        })?;
        let holders: BTreeSet<_> = self.results.iter().map(|result| result.holder).collect();
        ensure(holders.len() == count, || "two results about one holder".into())?;
        let inventory = self.challenge.inventory;
        ensure(inventory.is_none_or(|node| holders == BTreeSet::from([node])), || {
            "an inventory of one holder with results about another".into()
        })?;
        self.results.iter().try_for_each(AuditResult::check_shape)
    }
}

impl AuditResult {
    fn check_shape(&self) -> Result<(), String> {
        let wrong = |what: &str| format!("result about shard {}: {what}", self.index);
        ensure((self.index as usize) < params::SHARDS_MAX, || wrong("no such index"))?;
        ensure(self.sig.is_some() == self.outcome.is_signed(), || {
            wrong("a signature is there with all outcomes but silent")
        })?;
        let has_slice = matches!(self.outcome, Outcome::Pass | Outcome::Wrong);
        ensure(self.slice.is_some() == has_slice, || {
            wrong("a slice hash is there with pass and wrong alone")
        })
    }
}
