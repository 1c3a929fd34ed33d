//! Placement records: who holds which shard of a segment, and by whose word.
//!
//! Version 1 is signed by the owner who placed the segment, later versions by
//! holders of earlier ones (design 8). A record carries the steps that lead from
//! version 1 to it, so whoever has it can tell, without any other record, that
//! it descends from the owner's word. Nothing here decides what the next version
//! should say.

mod lineage;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::lineage::{Step, Strength};
use crate::{
    bytes::RecordHash,
    codec,
    identity::{
        self, Identity, NodeId, Record, RecordError, Signature, Signed, ensure, record,
        record_hash, verify_digest,
    },
    lease::{Grant, Lease, Receipt},
    network::NetworkId,
    params,
    segment::{SegmentDescriptor, SegmentId},
};

/// What a placement record says; small, so that earlier ones can be carried along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// Who placed the segment first. Two owners of equal segments keep two
    /// records, so that nobody can hide another's holders.
    pub owner: NodeId,
    /// The segment.
    pub segment: SegmentId,
    /// The lease that every receipt is for.
    pub lease: RecordHash,
    /// 1 when placed, one more with each change.
    pub version: u64,
    /// The body before; none for version 1.
    pub previous: Option<RecordHash>,
    /// Who holds which shard, by ascending index; each index and each holder at
    /// most once.
    pub holders: Vec<(u8, NodeId)>,
    /// What the holders' receipts hash to ([`receipts_hash`]).
    pub receipts: RecordHash,
}

record!(
    Placement,
    "placement record",
    params::PLACEMENT_RECORD_BYTES_MAX,
    signer: owner,
    check: Placement::check_shape
);

impl Placement {
    /// Who holds a shard.
    #[must_use]
    pub fn holder(&self, index: u8) -> Option<NodeId> {
        self.holders.iter().find(|(i, _)| *i == index).map(|(_, holder)| *holder)
    }

    /// Which shard a node holds.
    #[must_use]
    pub fn index_of(&self, node: &NodeId) -> Option<u8> {
        self.holders.iter().find(|(_, holder)| holder == node).map(|(index, _)| *index)
    }

    fn check_shape(&self) -> Result<(), String> {
        ensure((1..=params::PLACEMENT_VERSION_MAX).contains(&self.version), || {
            format!("version {} out of bounds", self.version)
        })?;
        ensure((self.version == 1) == self.previous.is_none(), || {
            "only version 1 has no previous one".into()
        })?;
        check_holders(&self.holders)
    }
}

fn check_holders(holders: &[(u8, NodeId)]) -> Result<(), String> {
    ensure((1..=params::SHARDS_MAX).contains(&holders.len()), || {
        format!("{} holders", holders.len())
    })?;
    ensure(holders.windows(2).all(|p| p[0].0 < p[1].0), || {
        "holders not in ascending order of index".into()
    })?;
    let distinct: BTreeSet<_> = holders.iter().map(|(_, holder)| holder).collect();
    ensure(distinct.len() == holders.len(), || "one holder for two shards".into())
}

/// What receipts, by ascending index, hash to: the hash of their record hashes.
#[must_use]
pub fn receipts_hash(receipts: &[Signed<Receipt>]) -> RecordHash {
    let mut hasher = blake3::Hasher::new_derive_key(params::RECEIPTS_CONTEXT);
    for receipt in receipts {
        hasher.update(&receipt.hash().0);
    }
    RecordHash(*hasher.finalize().as_bytes())
}

/// What a holder signs under a version that follows another: the version's body,
/// and in which ballot its holders agreed on it, so that signatures given in
/// different ballots are never counted together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Commit {
    v: u8,
    network: NetworkId,
    /// Record hash of the body.
    placement: RecordHash,
    /// None for a weak version, which nobody agreed on.
    ballot: Option<u64>,
    /// Who signs.
    holder: NodeId,
}

record!(Commit, "placement commit", params::RECORD_BYTES_MAX, signer: holder, check: |_| Ok(()));

impl Commit {
    fn digest(body: &Placement, ballot: Option<u64>, holder: NodeId) -> RecordHash {
        let placement = record_hash(body);
        record_hash(&Self { v: body.v, network: body.network, placement, ballot, holder })
    }
}

/// One signature under a placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementSignature {
    /// Whose.
    pub signer: NodeId,
    /// Over the body's record hash for version 1, else over that of a `placement
    /// commit`.
    pub sig: Signature,
}

impl PlacementSignature {
    /// A holder's signature under a version that follows another. Only its own
    /// `agreement::Voter` may say when; `ballot` is none for a weak version.
    #[must_use]
    pub fn new(identity: &Identity, body: &Placement, ballot: Option<u64>) -> Self {
        let signer = identity.node_id();
        let sig = identity::sign_hash(identity, &Commit::digest(body, ballot, signer));
        Self { signer, sig }
    }

    /// Whether this is its signer's under such a version.
    #[must_use]
    pub fn verify(&self, body: &Placement, ballot: Option<u64>) -> bool {
        verify_digest(&self.signer, &Commit::digest(body, ballot, self.signer), &self.sig)
    }
}

/// A placement with everything that proves it (SPEC.md, "Placement records").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementRecord {
    /// What is said.
    pub body: Placement,
    /// What the segment is.
    pub descriptor: SegmentDescriptor,
    /// The lease that every receipt is for.
    pub lease: Signed<Lease>,
    /// The grant that the lease names, if it names one.
    pub grant: Option<Signed<Grant>>,
    /// The receipts of the body's holders, in their order.
    pub receipts: Vec<Signed<Receipt>>,
    /// In which ballot the holders of the version before agreed; none for version 1
    /// and for a weak version.
    pub ballot: Option<u64>,
    /// Who signed the body, by ascending NodeID: the owner for version 1, else
    /// holders of the last step.
    pub signatures: Vec<PlacementSignature>,
    /// The way from version 1 to the body; empty for version 1.
    pub lineage: Vec<Step>,
}

/// Version 1 of a placement before it is signed.
#[derive(Debug, Clone)]
pub struct FirstPlacement {
    /// What the segment is.
    pub descriptor: SegmentDescriptor,
    /// The owner's lease.
    pub lease: Signed<Lease>,
    /// The grant that the lease names, if it names one.
    pub grant: Option<Signed<Grant>>,
    /// Receipts for this lease, by ascending index.
    pub receipts: Vec<Signed<Receipt>>,
}

impl PlacementRecord {
    /// Version 1, by the owner. Whether the receipts are good is for
    /// [`Self::verify`] to say.
    ///
    /// # Panics
    /// When the lease is another's, or indices or holders repeat.
    #[must_use]
    pub fn first(identity: &Identity, first: FirstPlacement) -> Self {
        let FirstPlacement { descriptor, lease, grant, receipts } = first;
        let body = Placement {
            v: params::FORMAT_VERSION,
            network: lease.body.network,
            owner: lease.body.owner,
            segment: lease.body.segment,
            lease: lease.hash(),
            version: 1,
            previous: None,
            holders: holders_of(&receipts),
            receipts: receipts_hash(&receipts),
        };
        let signed = Signed::new(identity, body);
        let signatures = vec![PlacementSignature { signer: identity.node_id(), sig: signed.sig }];
        let (body, lineage) = (signed.body, Vec::new());
        Self { body, descriptor, lease, grant, receipts, ballot: None, signatures, lineage }
    }

    /// What the next version says when these receipts, by ascending index, take
    /// the place of this one's. Lease, segment and owner stay.
    #[must_use]
    pub fn next_body(&self, receipts: &[Signed<Receipt>]) -> Placement {
        Placement {
            version: self.body.version + 1,
            previous: Some(self.hash()),
            holders: holders_of(receipts),
            receipts: receipts_hash(receipts),
            ..self.body.clone()
        }
    }

    /// The record of a next version: lineage extended by this one and then cut to
    /// the fewest steps. `body` is [`Self::next_body`] of `receipts`, `signatures`
    /// those of this version's holders in one ballot, in any order.
    ///
    /// # Errors
    /// What keeps it from being valid: too few signatures, a bad receipt, no room
    /// for another step.
    pub fn succeeded(
        &self,
        body: Placement,
        receipts: Vec<Signed<Receipt>>,
        ballot: Option<u64>,
        mut signatures: Vec<PlacementSignature>,
    ) -> Result<Self, RecordError> {
        signatures.sort_by_key(|s| s.signer);
        signatures.dedup_by_key(|s| s.signer);
        signatures.retain(|s| self.body.index_of(&s.signer).is_some());
        let mut lineage = self.lineage.clone();
        lineage.push(Step::of(self));
        let mut next = Self { body, receipts, ballot, signatures, lineage, ..self.clone() };
        next.compact();
        next.verify(&next.body.network)?;
        Ok(next)
    }

    /// Name of the version: the hash of its body.
    #[must_use]
    pub fn hash(&self) -> RecordHash {
        record_hash(&self.body)
    }

    /// Deterministic bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes what this node itself verified and made durable: nothing is verified again.
    ///
    /// # Errors
    /// It is no placement record.
    pub fn decode_own(bytes: &[u8]) -> Result<Self, RecordError> {
        Ok(codec::decode(Placement::KIND, bytes, Placement::BYTES_MAX)?)
    }

    /// Of which segment and owner an encoded record is; nothing is verified.
    #[must_use]
    pub fn peek(bytes: &[u8]) -> Option<(SegmentId, NodeId)> {
        let record = Self::decode_own(bytes).ok()?;
        Some((record.body.segment, record.body.owner))
    }

    /// Decodes and verifies everything: what comes out descends from its owner's
    /// version 1, and every receipt in it is what it says.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn decode(bytes: &[u8], network: &NetworkId) -> Result<Self, RecordError> {
        let record: Self = codec::decode(Placement::KIND, bytes, Placement::BYTES_MAX)?;
        record.verify_parts(network)?;
        Ok(record)
    }

    /// See [`Self::decode`]; also that the record is not longer than it may be.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn verify(&self, network: &NetworkId) -> Result<(), RecordError> {
        let (len, max) = (self.encode().len(), Placement::BYTES_MAX);
        ensure(len <= max, || format!("{len} bytes, more than {max}: no room for another step"))
            .map_err(invalid)?;
        self.verify_parts(network)
    }

    fn verify_parts(&self, network: &NetworkId) -> Result<(), RecordError> {
        identity::check_body(&self.body, network)?;
        self.check_content().map_err(invalid)?;
        self.lease.verify(network)?;
        if let Some(grant) = &self.grant {
            grant.verify(network)?;
        }
        // The cheap doubts first: forgers are turned away before most signatures.
        self.verify_lineage()?;
        self.receipts.iter().try_for_each(|r| r.verify(network))
    }

    /// Everything but signatures and descent: that the parts belong together.
    pub(crate) fn check_content(&self) -> Result<(), String> {
        let (body, lease) = (&self.body, &self.lease.body);
        self.descriptor.check()?;
        ensure(self.descriptor.segment_id() == body.segment, || "another segment's".into())?;
        ensure(self.lease.hash() == body.lease, || "another lease than the body's".into())?;
        ensure(lease.owner == body.owner && lease.segment == body.segment, || {
            "a lease of another owner or segment".into()
        })?;
        ensure(lease.until.0 <= u64::from(u32::MAX), || {
            format!("a lease until epoch {}", lease.until.0)
        })?;
        ensure(lease.grant == self.grant.as_ref().map(Signed::hash), || {
            "another grant than the lease names".into()
        })?;
        let granted = self.grant.as_ref().is_none_or(|g| g.body.owner == body.owner);
        ensure(granted, || "a grant of another owner".into())?;
        let scheme = self.descriptor.scheme;
        let n = body.holders.len();
        ensure((scheme.k as usize..=scheme.n()).contains(&n), || {
            format!("{n} holders for a {scheme} segment")
        })?;
        ensure(self.receipts.len() == n, || {
            format!("{} receipts of {n} holders", self.receipts.len())
        })?;
        self.receipts
            .iter()
            .zip(&body.holders)
            .try_for_each(|(r, of)| self.check_receipt(r, of))?;
        ensure(receipts_hash(&self.receipts) == body.receipts, || "other receipts".into())
    }

    fn check_receipt(
        &self,
        receipt: &Signed<Receipt>,
        (index, holder): &(u8, NodeId),
    ) -> Result<(), String> {
        let (receipt, lease) = (&receipt.body, &self.lease.body);
        let wrong = |what: &str| format!("receipt of shard {index}: {what}");
        ensure((receipt.index, receipt.holder) == (*index, *holder), || wrong("another's"))?;
        ensure(receipt.segment == self.body.segment, || wrong("another segment"))?;
        ensure(receipt.lease == self.body.lease, || wrong("another lease"))?;
        ensure((receipt.from, receipt.until) == (lease.from, lease.until), || {
            wrong("another term")
        })?;
        let shard = self.descriptor.shards.get(*index as usize);
        ensure(shard == Some(&receipt.shard), || wrong("another shard hash"))?;
        ensure(receipt.length as usize == self.descriptor.shard_len(), || wrong("another length"))?;
        ensure(receipt.placement_version <= self.body.version, || {
            wrong("a later placement version")
        })
    }
}

fn holders_of(receipts: &[Signed<Receipt>]) -> Vec<(u8, NodeId)> {
    receipts.iter().map(|r| (r.body.index, r.body.holder)).collect()
}

fn invalid(reason: String) -> RecordError {
    RecordError::Invalid { kind: Placement::KIND, reason }
}
