//! Grants (the right to use space), leases (its use for one segment), and
//! receipts (a holder's word that a shard is durable).
//!
//! Nothing here counts bytes against a limit: that is the holder's admission.

use serde::{Deserialize, Serialize};

use crate::{
    bytes::{Nonce, RecordHash, ShardHash},
    identity::{NodeId, Signed, ensure, record},
    network::NetworkId,
    params,
    segment::SegmentId,
    time::Epoch,
};

/// The right to use space, signed by an issuer (SPEC.md, "Grant").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Format version.
    pub v: u8,
    /// The network it is good in.
    pub network: NetworkId,
    /// Who grants.
    pub issuer: NodeId,
    /// Who may use it.
    pub owner: NodeId,
    /// Stored bytes times epochs, in all and over all holders.
    pub byte_epochs: u64,
    /// First epoch in which it is worth nothing.
    pub until: Epoch,
    /// Distinguishes an issuer's grants.
    pub serial: u64,
}

record!(Grant, "grant", params::RECORD_BYTES_MAX, signer: issuer, check: |g| {
    ensure(g.byte_epochs > 0, || "grants nothing".into())
});

/// The wish that a segment be kept for a term, signed by its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// What is to be kept.
    pub segment: SegmentId,
    /// For whom.
    pub owner: NodeId,
    /// First epoch of the term.
    pub from: Epoch,
    /// First epoch after the term.
    pub until: Epoch,
    /// The grant that is used; none: the holders' free pools.
    pub grant: Option<RecordHash>,
    /// Makes two leases of equal terms distinct.
    pub nonce: Nonce,
    /// Whether holders renew it by themselves, by its term, while its grant lasts and pays.
    pub standing: bool,
}

record!(Lease, "lease", params::RECORD_BYTES_MAX, signer: owner, check: |l| {
    ensure(l.from < l.until, || format!("ends ({}) before it begins ({})", l.until.0, l.from.0))?;
    ensure(!l.standing || l.grant.is_some(), || "standing without a grant".into())
});

impl Lease {
    /// Epochs of the term; 0 for a lease that was not checked and has none.
    #[must_use]
    pub const fn term(&self) -> u64 {
        self.until.0.saturating_sub(self.from.0)
    }

    /// The first epoch at which the lease is over whatever its holders do: the term's end, for a
    /// standing lease its grant's. With a grant that it does not name, or none, the term's end.
    #[must_use]
    pub fn ends_at_latest(&self, grant: Option<&Signed<Grant>>) -> Epoch {
        let named = grant.filter(|g| self.standing && self.grant == Some(g.hash()));
        named.map_or(self.until, |g| g.body.until.max(self.until))
    }

    /// The term, in whole terms, that a standing lease is in at an epoch at which somebody takes
    /// it up: the first of them that ends later. The lease's own for every other, and before its
    /// end. It does not go past `ends`.
    #[must_use]
    pub fn term_at(&self, epoch: Epoch, ends: Epoch) -> (Epoch, Epoch) {
        let term = self.term();
        if !self.standing || epoch < self.until || term == 0 {
            return (self.from, self.until);
        }
        let past = (epoch.0 - self.until.0) / term + 1;
        let from = self.from.0.saturating_add(past.saturating_mul(term));
        (Epoch(from), Epoch(from.saturating_add(term).min(ends.0)))
    }
}

/// The owner's word that a lease is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseEnd {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// The lease that ends.
    pub lease: RecordHash,
    /// Its segment.
    pub segment: SegmentId,
    /// Its owner.
    pub owner: NodeId,
}

record!(LeaseEnd, "lease end", params::RECORD_BYTES_MAX, signer: owner, check: |_| Ok(()));

/// A holder's word that a shard's bytes are durable (SPEC.md, "Receipt").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// The lease under which it is held.
    pub lease: RecordHash,
    /// The segment.
    pub segment: SegmentId,
    /// The shard's index.
    pub index: u8,
    /// The shard's hash.
    pub shard: ShardHash,
    /// The shard's bytes.
    pub length: u32,
    /// Who holds it.
    pub holder: NodeId,
    /// First epoch of the term.
    pub from: Epoch,
    /// First epoch after the term.
    pub until: Epoch,
    /// Version of the placement that the holder was asked to join.
    pub placement_version: u64,
}

record!(Receipt, "receipt", params::RECORD_BYTES_MAX, signer: holder, check: |r| {
    ensure(r.from < r.until, || "an empty term".into())?;
    ensure((r.index as usize) < params::SHARDS_MAX, || format!("index {}", r.index))
});

/// What a publisher expects of a receipt before it counts it.
#[derive(Debug, Clone, Copy)]
pub struct ReceiptWanted<'a> {
    /// The lease it must name.
    pub lease: &'a Signed<Lease>,
    /// The shard's index.
    pub index: u8,
    /// The shard's hash.
    pub shard: ShardHash,
    /// The shard's length, bytes.
    pub length: u32,
    /// Who must have signed.
    pub holder: NodeId,
    /// The placement version it must name.
    pub placement_version: u64,
}

impl ReceiptWanted<'_> {
    /// Whether `receipt` is the one wanted, word for word, and verifies.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn check(&self, receipt: &Signed<Receipt>) -> Result<(), String> {
        let lease = &self.lease.body;
        let expected = Receipt {
            v: params::FORMAT_VERSION,
            network: lease.network,
            lease: self.lease.hash(),
            segment: lease.segment,
            index: self.index,
            shard: self.shard,
            length: self.length,
            holder: self.holder,
            from: lease.from,
            until: lease.until,
            placement_version: self.placement_version,
        };
        ensure(receipt.body == expected, || {
            format!("receipt of {} is for something else: {:?}", self.holder, receipt.body)
        })?;
        receipt.verify(&lease.network).map_err(|e| e.to_string())
    }
}
