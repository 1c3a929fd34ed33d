//! What a witness said in one epoch, in one hash (SPEC_WITNESS.md, section 7): small enough to be
//! kept by everybody for good.

use serde::{Deserialize, Serialize};

use crate::{
    bytes::RecordHash,
    identity::{NodeId, ensure, record},
    network::NetworkId,
    params,
    time::Epoch,
};

/// The verdicts of one witness and epoch, one digest of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditDigest {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// Whose verdicts.
    pub witness: NodeId,
    /// Of which epoch.
    pub epoch: Epoch,
    /// Sequence of the first of them, or the next that will be used.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Record hash of the witness's last verdict so far; none before the first.
    pub last: Option<RecordHash>,
    /// [`AuditDigest::root_of`] the verdicts' record hashes.
    pub root: RecordHash,
}

record!(AuditDigest, "audit digest", params::RECORD_BYTES_MAX, signer: witness, check: |d| {
    ensure(d.first >= 1, || "sequences count from 1".into())?;
    let end = d.first.checked_add(d.count);
    ensure(end.is_some(), || format!("{} verdicts from sequence {}", d.count, d.first))?;
    ensure(d.last.is_some() == (end != Some(1)), || {
        "only a witness without verdicts has no last one".into()
    })?;
    ensure(d.count > 0 || d.root == Self::root_of(&[]), || "a root of no verdicts".into())
});

impl AuditDigest {
    /// The root over verdicts' record hashes, in the order of their sequence.
    #[must_use]
    pub fn root_of(verdicts: &[RecordHash]) -> RecordHash {
        let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 audit digest v1");
        for verdict in verdicts {
            hasher.update(&verdict.0);
        }
        RecordHash(*hasher.finalize().as_bytes())
    }
}
