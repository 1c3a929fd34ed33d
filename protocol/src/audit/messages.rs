//! What witnesses, holders and keepers of records ask each other (SPEC_WITNESS.md, section 11).

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{AuditAnswer, AuditChallenge, AuditDigest, AuditVerdict, Maintenance};
use crate::{
    announcement::RecordKey,
    bytes::{BeaconSignature, RecordHash},
    identity::{NodeId, Signed},
    list, params,
    time::Epoch,
};

/// A question; enums grow at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// To anybody: the beacon of an epoch.
    Beacon {
        /// Which.
        epoch: Epoch,
    },
    /// To members: a share's part of an epoch's threshold beacon.
    Part {
        /// Of which epoch.
        epoch: Epoch,
        /// The member's place in set 0, from 0.
        index: u8,
        /// Its part.
        part: BeaconSignature,
    },
    /// To holders: show me a leaf.
    Audit {
        /// The question.
        challenge: Box<Signed<AuditChallenge>>,
        /// Of which shard.
        index: u8,
    },
    /// To the committee: this holder did not answer me, ask it yourselves.
    Look {
        /// The asker's question.
        challenge: Box<Signed<AuditChallenge>>,
        /// Of which shard.
        index: u8,
    },
    /// To nodes that keep records: which placements are due.
    Due {
        /// In which epoch.
        epoch: Epoch,
        /// Its beacon.
        beacon: BeaconSignature,
        /// Holders of which everything is due, at most [`params::INVENTORIES_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::INVENTORIES_MAX }, _, _>")]
        inventory: Vec<NodeId>,
        /// Continue after this record key.
        after: Option<RecordKey>,
    },
    /// To anybody: the digests of epochs.
    Digests {
        /// At most [`params::BATCH_ITEMS_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::BATCH_ITEMS_MAX }, _, _>")]
        epochs: Vec<Epoch>,
    },
    /// To anybody: take note of these digests.
    PutDigests {
        /// At most [`params::BATCH_ITEMS_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::BATCH_ITEMS_MAX }, _, _>")]
        digests: Vec<Signed<AuditDigest>>,
    },
    /// To anybody: verdicts of a witness, in order.
    Verdicts {
        /// Whose.
        witness: NodeId,
        /// From this sequence on.
        from: u64,
    },
    /// To witnesses: what is needed to check a verdict.
    Case {
        /// Its record hash.
        verdict: RecordHash,
    },
    /// To holders of the segment: somebody's shard is lost. An encoded case.
    PutCase {
        /// At most [`params::CASE_BYTES_MAX`], as the frame allows.
        case: ByteBuf,
    },
    /// To witnesses: I shall be away.
    PutMaintenance {
        /// When.
        maintenance: Signed<Maintenance>,
    },
}

/// The answer; enums grow at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Beacon`]; none: not known here.
    Beacon(Option<BeaconSignature>),
    /// Taken note of.
    Done,
    /// To [`Ask::Audit`].
    Answer {
        /// Signed by the holder.
        answer: Box<Signed<AuditAnswer>>,
        /// The leaf proof, at most [`crate::inconsistency::LEAF_SLICE_BYTES_MAX`]; none with a
        /// signed null.
        slice: Option<ByteBuf>,
    },
    /// To [`Ask::Due`].
    Due {
        /// Encoded placement records, at most [`params::BATCH_BYTES_MAX`] in all.
        #[serde(deserialize_with = "list::bounded::<{ params::LIST_ITEMS_MAX }, _, _>")]
        placements: Vec<ByteBuf>,
        /// Ask again after this record key; none: these were all.
        next: Option<RecordKey>,
    },
    /// To [`Ask::Digests`].
    Digests {
        /// At most one of each witness and epoch.
        #[serde(deserialize_with = "list::bounded::<{ params::LIST_ITEMS_MAX }, _, _>")]
        digests: Vec<Signed<AuditDigest>>,
    },
    /// To [`Ask::Verdicts`].
    Verdicts {
        /// At most [`params::BATCH_ITEMS_MAX`], and [`params::BATCH_BYTES_MAX`].
        #[serde(deserialize_with = "list::bounded::<{ params::BATCH_ITEMS_MAX }, _, _>")]
        verdicts: Vec<Signed<AuditVerdict>>,
    },
    /// To [`Ask::Case`]; none: not kept here.
    Case(Option<ByteBuf>),
}
