//! What holders ask each other and sign on the way to the next placement.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    bytes::RecordHash,
    identity::{
        self, Identity, NodeId, Signed, ensure, record, record_hash, sign_hash, verify_digest,
    },
    lease::Receipt,
    list,
    network::NetworkId,
    params,
    placement_record::{Placement, PlacementRecord, PlacementSignature},
    segment::SegmentId,
};

/// Which decision is meant: what follows one version of one placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// The segment.
    pub segment: SegmentId,
    /// Whose placement of it.
    pub owner: NodeId,
    /// Record hash of the version that is to be followed.
    pub previous: RecordHash,
}

impl At {
    /// What follows a record.
    #[must_use]
    pub fn after(record: &PlacementRecord) -> Self {
        let (segment, owner) = (record.body.segment, record.body.owner);
        Self { segment, owner, previous: record.hash() }
    }
}

/// A holder's word that it takes part in no lower ballot any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// Record hash of the version that is to be followed.
    pub previous: RecordHash,
    /// The ballot.
    pub ballot: u64,
    /// Who promises.
    pub acceptor: NodeId,
    /// The highest ballot, under this one, in which it signed a body, and that
    /// body's record hash.
    pub signed: Option<(u64, RecordHash)>,
}

record!(Promise, "placement promise", params::RECORD_BYTES_MAX, signer: acceptor, check: |p| {
    ensure(p.signed.is_none_or(|(ballot, _)| ballot < p.ballot), || {
        "signed in a ballot that is not lower".into()
    })
});

/// A holder's word that it backs one body in a ballot; of a quorum they make a
/// [`Certificate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Backing {
    v: u8,
    network: NetworkId,
    previous: RecordHash,
    ballot: u64,
    placement: RecordHash,
    acceptor: NodeId,
}

record!(Backing, "placement backing", params::RECORD_BYTES_MAX, signer: acceptor, check: |_| Ok(()));

/// The digest that a holder signs to back a body, the next after `record`.
fn backing_digest(
    record: &PlacementRecord,
    ballot: u64,
    placement: RecordHash,
    acceptor: NodeId,
) -> RecordHash {
    let (v, network, previous) = (params::FORMAT_VERSION, record.body.network, record.hash());
    record_hash(&Backing { v, network, previous, ballot, placement, acceptor })
}

/// Backs a body.
pub(super) fn back(
    identity: &Identity,
    record: &PlacementRecord,
    ballot: u64,
    placement: RecordHash,
) -> PlacementSignature {
    let signer = identity.node_id();
    let sig = sign_hash(identity, &backing_digest(record, ballot, placement, signer));
    PlacementSignature { signer, sig }
}

/// Whether somebody backs a body.
pub(super) fn is_backing(
    backing: &PlacementSignature,
    record: &PlacementRecord,
    ballot: u64,
    placement: RecordHash,
) -> bool {
    let digest = backing_digest(record, ballot, placement, backing.signer);
    verify_digest(&backing.signer, &digest, &backing.sig)
}

/// Proof that a quorum backed one body in a ballot: there is none for another
/// body in the same ballot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The ballot.
    pub ballot: u64,
    /// Record hash of the body.
    pub placement: RecordHash,
    /// By ascending NodeID.
    #[serde(deserialize_with = "list::bounded::<{ params::SHARDS_MAX }, _, _>")]
    pub backings: Vec<PlacementSignature>,
}

impl Certificate {
    /// Whether a quorum of the holders of `record` backed the body as the next.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify(&self, record: &PlacementRecord) -> Result<(), String> {
        let ordered = self.backings.windows(2).all(|p| p[0].signer < p[1].signer);
        ensure(ordered, || "backings out of order".into())?;
        let held = self.backings.iter().all(|b| record.body.index_of(&b.signer).is_some());
        let quorum = record.descriptor.scheme.change_quorum();
        ensure(held && self.backings.len() >= quorum, || {
            format!("{} backings of {quorum} holders needed", self.backings.len())
        })?;
        let good = |b: &PlacementSignature| is_backing(b, record, self.ballot, self.placement);
        ensure(self.backings.iter().all(good), || "a backing does not verify".into())
    }
}

/// What the next version says, told by how it differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Its holders, by ascending index.
    #[serde(deserialize_with = "list::bounded::<{ params::SHARDS_MAX }, _, _>")]
    pub holders: Vec<(u8, NodeId)>,
    /// Receipts of those who did not hold that shard before, by ascending index.
    #[serde(deserialize_with = "list::bounded::<{ params::SHARDS_MAX }, _, _>")]
    pub fresh: Vec<Signed<Receipt>>,
}

impl Change {
    /// From the receipts, by ascending index, that the next version has.
    #[must_use]
    pub fn to(record: &PlacementRecord, receipts: &[Signed<Receipt>]) -> Self {
        let of = |r: &Signed<Receipt>| (r.body.index, r.body.holder);
        let is_fresh = |r: &&Signed<Receipt>| !record.body.holders.contains(&of(r));
        Self {
            holders: receipts.iter().map(of).collect(),
            fresh: receipts.iter().filter(is_fresh).cloned().collect(),
        }
    }

    /// The body of the next version and its receipts; these are not verified.
    ///
    /// # Errors
    /// A receipt is missing, or there for no reason.
    pub fn apply(
        &self,
        record: &PlacementRecord,
    ) -> Result<(Placement, Vec<Signed<Receipt>>), String> {
        let mut fresh = self.fresh.iter();
        let receipts = self.holders.iter().map(|holder| {
            let stays = record.body.holders.iter().position(|before| before == holder);
            let receipt = stays.map_or_else(|| fresh.next(), |at| record.receipts.get(at));
            let receipt = receipt.filter(|r| (r.body.index, r.body.holder) == *holder);
            receipt.cloned().ok_or_else(|| format!("no receipt for shard {}", holder.0))
        });
        let receipts: Vec<_> = receipts.collect::<Result<_, _>>()?;
        ensure(fresh.next().is_none(), || "a receipt too many".into())?;
        ensure(record.body.version < params::PLACEMENT_VERSION_MAX, || "no next version".into())?;
        Ok((record.next_body(&receipts), receipts))
    }
}

/// What a holder signed last, with the proof that it might.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// In which ballot, what, and who backed it.
    pub certificate: Certificate,
    /// The body itself.
    pub change: Change,
}

impl Locked {
    /// Whether a quorum of the holders of `record` backed this very change.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify(&self, record: &PlacementRecord) -> Result<(), String> {
        let (body, _) = self.change.apply(record)?;
        ensure(record_hash(&body) == self.certificate.placement, || "another body".into())?;
        self.certificate.verify(record)
    }
}

/// What a holder that proposes asks the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Take part in no lower ballot, if it is my turn and you see it as I do.
    Promise {
        /// The encoded record of the version that is to be followed.
        record: ByteBuf,
        /// The ballot: its number modulo 64 is the proposer's index.
        ballot: u64,
        /// Indices that are to change hands.
        #[serde(deserialize_with = "list::bounded::<{ params::SHARDS_MAX }, _, _>")]
        lost: Vec<u8>,
    },
    /// Back this body in this ballot.
    Backing {
        /// The decision.
        at: At,
        /// The ballot.
        ballot: u64,
        /// The body.
        change: Change,
        /// A quorum's promises for the ballot.
        #[serde(deserialize_with = "list::bounded::<{ params::SHARDS_MAX }, _, _>")]
        promises: Vec<Signed<Promise>>,
        /// Where a promise says that something was signed: who backed that which was
        /// signed in the highest ballot.
        certificate: Option<Certificate>,
    },
    /// Sign this body: a quorum backs it.
    Signature {
        /// The decision.
        at: At,
        /// The body.
        change: Change,
        /// Who backs it, in which ballot.
        certificate: Certificate,
    },
    /// Fewer than a quorum live: would you sign a weak version, or do sign this one.
    Weak {
        /// The encoded record of the version that is to be followed.
        record: ByteBuf,
        /// Indices that are to change hands.
        #[serde(deserialize_with = "list::bounded::<{ params::SHARDS_MAX }, _, _>")]
        lost: Vec<u8>,
        /// The body; none: would you.
        change: Option<Change>,
    },
}

/// What a holder answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Promise`].
    Promise {
        /// The promise.
        promise: Box<Signed<Promise>>,
        /// What it says was signed, with its proof.
        locked: Option<Box<Locked>>,
    },
    /// To [`Ask::Backing`].
    Backing(PlacementSignature),
    /// To [`Ask::Signature`], and to [`Ask::Weak`] with a body.
    Signature(PlacementSignature),
    /// To [`Ask::Weak`] without a body.
    Willing,
    /// It promised a ballot that is not lower.
    Higher {
        /// Which.
        ballot: u64,
    },
    /// The ballot is too far above what it promised, so that nobody uses ballots up.
    TooHigh {
        /// The highest that it would promise now.
        ballot: u64,
    },
    /// There is a newer record, which proves itself.
    Newer {
        /// The encoded record.
        record: ByteBuf,
    },
    /// Another proposer has its turn.
    Held {
        /// For how long yet, milliseconds.
        for_ms: u64,
    },
    /// No, and why; at most [`params::REASON_BYTES_MAX`].
    No {
        /// In words.
        reason: String,
    },
}

impl Answer {
    /// A refusal in words, cut to what may be sent.
    #[must_use]
    pub fn no(reason: impl std::fmt::Display) -> Self {
        use crate::message::{Refusal, RefusalCode};
        Self::No { reason: Refusal::new(RefusalCode::Invalid, reason).reason }
    }
}

/// Checks a promise as far as a proposer or a voter who is shown it can.
pub(super) fn check_promise(
    promise: &Signed<Promise>,
    record: &PlacementRecord,
    previous: RecordHash,
    ballot: u64,
) -> Result<(), String> {
    let body = &promise.body;
    ensure((body.previous, body.ballot) == (previous, ballot), || "for something else".into())?;
    ensure(record.body.index_of(&body.acceptor).is_some(), || "not a holder's".into())?;
    promise.verify(&record.body.network).map_err(|e: identity::RecordError| e.to_string())
}
