//! Placement records: who holds which shard of a segment, and by whose word.
//!
//! Version 1 is signed by the owner who placed the segment. Later versions are
//! signed by holders of the version before (design 8); each is a whole record,
//! so a reader needs the newest only.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    bytes::RecordHash,
    codec,
    identity::{
        self, Identity, NodeId, Record, RecordError, Signature, Signed, ensure, record,
        verify_digest,
    },
    lease::Receipt,
    network::NetworkId,
    params,
    segment::{SegmentDescriptor, SegmentId},
};

/// What a placement record says.
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
    pub descriptor: SegmentDescriptor,
    /// 1 when placed, one more with each change.
    pub version: u64,
    /// The body before; none for version 1.
    pub previous: Option<RecordHash>,
    /// One receipt per held shard, by ascending index, each index at most once,
    /// each holder at most once.
    pub receipts: Vec<Signed<Receipt>>,
}

record!(
    Placement,
    "placement record",
    params::PLACEMENT_RECORD_BYTES_MAX,
    signer: owner,
    check: Placement::check_shape
);

impl Placement {
    /// The segment's name.
    #[must_use]
    pub fn segment_id(&self) -> SegmentId {
        self.descriptor.segment_id()
    }

    /// Who holds a shard.
    #[must_use]
    pub fn holder(&self, index: u8) -> Option<NodeId> {
        self.receipts.iter().find(|r| r.body.index == index).map(|r| r.body.holder)
    }

    fn check_shape(&self) -> Result<(), String> {
        self.descriptor.check()?;
        ensure(self.version >= 1, || "version 0".into())?;
        ensure((self.version == 1) == self.previous.is_none(), || {
            "only version 1 has no previous one".into()
        })?;
        let scheme = self.descriptor.scheme;
        let n = self.receipts.len();
        ensure((scheme.k as usize..=scheme.n()).contains(&n), || {
            format!("{n} receipts for a {scheme} segment")
        })?;
        ensure(self.receipts.windows(2).all(|p| p[0].body.index < p[1].body.index), || {
            "receipts not in ascending order of index".into()
        })?;
        let holders: BTreeSet<_> = self.receipts.iter().map(|r| r.body.holder).collect();
        ensure(holders.len() == n, || "one holder for two shards".into())?;
        let segment = self.segment_id();
        self.receipts.iter().try_for_each(|r| self.check_receipt(segment, &r.body))
    }

    fn check_receipt(&self, segment: SegmentId, receipt: &Receipt) -> Result<(), String> {
        let wrong = |what: &str| format!("receipt of shard {}: {what}", receipt.index);
        ensure(receipt.segment == segment, || wrong("another segment"))?;
        let shard = self.descriptor.shards.get(receipt.index as usize);
        ensure(shard == Some(&receipt.shard), || wrong("another shard hash"))?;
        ensure(receipt.length as usize == self.descriptor.shard_len(), || wrong("another length"))?;
        ensure(receipt.placement_version <= self.version, || wrong("a later placement version"))
    }
}

/// One signature under a placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementSignature {
    /// Whose.
    pub signer: NodeId,
    /// Over the body's record hash.
    pub sig: Signature,
}

/// A placement with the signatures that make it valid (SPEC.md, "Placement
/// record").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementRecord {
    /// What is said.
    pub body: Placement,
    /// Who signed, by ascending NodeID.
    pub signatures: Vec<PlacementSignature>,
}

impl PlacementRecord {
    /// Version 1, by the owner.
    ///
    /// # Panics
    /// When the body is not the identity's, not version 1, or breaks its rules.
    #[must_use]
    pub fn first(identity: &Identity, body: Placement) -> Self {
        assert_eq!(body.version, 1, "an owner signs version 1 only");
        let signed = Signed::new(identity, body);
        let signature = PlacementSignature { signer: identity.node_id(), sig: signed.sig };
        Self { body: signed.body, signatures: vec![signature] }
    }

    /// Deterministic bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes and verifies shape, receipts and signatures. That the signers of
    /// a later version were holders of the one before is checked by
    /// [`Self::verify_successor`], by those who have it.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn decode(bytes: &[u8], network: &NetworkId) -> Result<Self, RecordError> {
        let record: Self = codec::decode(Placement::KIND, bytes, Placement::BYTES_MAX)?;
        record.verify(network)?;
        Ok(record)
    }

    /// See [`Self::decode`].
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn verify(&self, network: &NetworkId) -> Result<(), RecordError> {
        let kind = Placement::KIND;
        identity::check_body(&self.body, network)?;
        let invalid = |reason: String| RecordError::Invalid { kind, reason };
        let signatures = &self.signatures;
        let ordered = signatures.windows(2).all(|p| p[0].signer < p[1].signer);
        ensure(ordered && (1..=params::SHARDS_MAX).contains(&signatures.len()), || {
            "signatures missing, too many, or out of order".into()
        })
        .map_err(invalid)?;
        if self.body.version == 1 {
            let by_owner = signatures.len() == 1 && signatures[0].signer == self.body.owner;
            ensure(by_owner, || "version 1 is signed by its owner alone".into())
                .map_err(invalid)?;
        }
        let digest = identity::record_hash(&self.body);
        for PlacementSignature { signer, sig } in signatures {
            if !verify_digest(signer, &digest, sig) {
                return Err(RecordError::Signature { kind, signer: *signer });
            }
        }
        self.body.receipts.iter().try_for_each(|r| r.verify(network))
    }

    /// Whether this is a valid next version of `before`: signed by
    /// max(k, floor(n/2)+1) of its holders (design 8). Both must have been
    /// verified: no signature is looked at here.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify_successor(&self, before: &Self) -> Result<(), String> {
        let (new, old) = (&self.body, &before.body);
        ensure(old.version.checked_add(1) == Some(new.version), || "not the next version".into())?;
        ensure(new.previous == Some(identity::record_hash(old)), || "another previous".into())?;
        ensure(new.owner == old.owner && new.descriptor == old.descriptor, || {
            "another segment or owner".into()
        })?;
        let holders: BTreeSet<_> = old.receipts.iter().map(|r| r.body.holder).collect();
        let scheme = old.descriptor.scheme;
        let quorum = (scheme.k as usize).max(scheme.n() / 2 + 1);
        let signers: BTreeSet<_> = self.signatures.iter().map(|s| s.signer).collect();
        let signers = signers.intersection(&holders).count();
        ensure(signers >= quorum, || format!("{signers} of {quorum} needed holders signed"))
    }
}
