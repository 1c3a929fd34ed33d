//! The question that a witness signs and the answer that a holder signs (SPEC_WITNESS.md,
//! section 5). Which leaf is asked for follows from the challenge's signature, so neither says it.

use serde::{Deserialize, Serialize};

use crate::{
    bytes::{BeaconSignature, RecordHash, SliceHash},
    identity::{NodeId, ensure, record},
    network::NetworkId,
    params,
    segment::SegmentId,
    time::Epoch,
};

/// Show me one leaf of your shard of this segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditChallenge {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// Who asks.
    pub witness: NodeId,
    /// In which epoch.
    pub epoch: Epoch,
    /// About what.
    pub segment: SegmentId,
    /// The epoch's beacon, by which the segment is due and the witness on its committee.
    pub beacon: BeaconSignature,
    /// The holder whose inventory this is part of; none: the segment itself is due.
    pub inventory: Option<NodeId>,
}

record!(
    AuditChallenge,
    "audit challenge",
    params::RECORD_BYTES_MAX,
    signer: witness,
    check: |_| Ok(())
);

/// What a holder answers: the hash of the leaf proof that goes with this, or that it has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditAnswer {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// Who answers.
    pub holder: NodeId,
    /// Record hash of the challenge.
    pub challenge: RecordHash,
    /// Its segment.
    pub segment: SegmentId,
    /// Which shard of it, under 64.
    pub index: u8,
    /// BLAKE3 of the leaf proof's bytes; none: I promised this shard and have it not.
    pub slice: Option<SliceHash>,
}

record!(AuditAnswer, "audit answer", params::RECORD_BYTES_MAX, signer: holder, check: |a| {
    ensure((a.index as usize) < params::SHARDS_MAX, || format!("index {}", a.index))
});
