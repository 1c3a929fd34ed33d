//! What goes into the auditor and what comes out.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    audit::{AuditAnswer, AuditChallenge},
    bytes::RecordHash,
    identity::{NodeId, Signed},
    inconsistency::{InconsistencyProof, LeafSlice},
    machine::Millis,
    placement_record::PlacementRecord,
    segment::{SegmentDescriptor, SegmentId},
};

use crate::{beacon::Beacon, verdicts::Finding};

/// Names a question under way; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// A placement that is due, as much of it as asking needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuePlacement {
    /// The segment.
    pub segment: SegmentId,
    /// What it is.
    pub descriptor: SegmentDescriptor,
    /// Record hash of the body that names the holders.
    pub placement: RecordHash,
    /// Who holds which shard, by ascending index.
    pub holders: Vec<(u8, NodeId)>,
    /// The holder for whose inventory it is due; none: it is due itself.
    pub inventory: Option<NodeId>,
}

impl DuePlacement {
    /// From a record that was verified.
    #[must_use]
    pub fn new(record: &PlacementRecord, inventory: Option<NodeId>) -> Self {
        Self {
            segment: record.body.segment,
            descriptor: record.descriptor.clone(),
            placement: record.hash(),
            holders: record.body.holders.clone(),
            inventory,
        }
    }

    /// Bytes of each shard.
    #[must_use]
    pub fn shard_len(&self) -> u64 {
        self.descriptor.shard_len() as u64
    }

    /// Who holds a shard.
    #[must_use]
    pub fn holder(&self, index: u8) -> Option<NodeId> {
        self.holders.iter().find(|(i, _)| *i == index).map(|(_, holder)| *holder)
    }
}

/// An epoch that has begun, with everything that is known to be due in it.
#[derive(Debug, Clone)]
pub struct EpochBegun {
    /// Its beacon.
    pub beacon: Beacon,
    /// When it began.
    pub started: Millis,
    /// The members of the witness set.
    pub members: Vec<NodeId>,
    /// Every placement that may be due, of which each is looked at: the whole network's, so that
    /// all askers see a holder's budget alike.
    pub due: Vec<DuePlacement>,
    /// Holders of which everything is due.
    pub inventories: BTreeSet<NodeId>,
    /// Holders that this witness leaves to others: itself, its operator's, those observed in its
    /// own /24 or /48.
    pub excluded: BTreeSet<NodeId>,
    /// Bytes that holders hold; one that is not here gets the smallest budget.
    pub held_bytes: BTreeMap<NodeId, u64>,
}

/// What the driver reports.
#[derive(Debug, Clone)]
pub enum Input {
    /// An epoch has begun. One that runs ends with it.
    Begun(Box<EpochBegun>),
    /// The epoch is over: hand out what was found, so that its digest can be signed.
    Ended,
    /// An asker heard nothing: its question, and the placement by this node's own records.
    Look {
        /// The asker's question.
        challenge: Box<Signed<AuditChallenge>>,
        /// About which shard.
        index: u8,
        /// The segment's placement, with the challenge's inventory.
        placement: Box<DuePlacement>,
    },
    /// A holder answered.
    Answered {
        /// Which question.
        ask: AskId,
        /// What it signed; not yet verified.
        answer: Box<Signed<AuditAnswer>>,
        /// What came with it.
        slice: Option<Vec<u8>>,
    },
    /// A question could not be asked, or was refused.
    Failed {
        /// Which.
        ask: AskId,
    },
    /// Time has passed.
    Tick,
}

/// What was found about a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// For the witness's chain.
    pub finding: Finding,
    /// What came, by ascending index: to be kept with the verdict.
    pub slices: Vec<LeafSlice>,
    /// The row is no codeword: its publisher is convicted, its holders are not.
    pub inconsistency: Option<InconsistencyProof>,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Ask a holder; answer with [`Input::Answered`] or [`Input::Failed`].
    Ask {
        /// Names the question.
        ask: AskId,
        /// Whom.
        holder: NodeId,
        /// What.
        challenge: Signed<AuditChallenge>,
        /// About which shard.
        index: u8,
        /// When it is given up.
        deadline: Millis,
    },
    /// Tell these members that a holder did not answer.
    Look {
        /// Whom.
        members: Vec<NodeId>,
        /// The question.
        challenge: Signed<AuditChallenge>,
        /// About which shard.
        index: u8,
    },
    /// Chain this, keep the slices, act on what is against a holder.
    Found(Box<Found>),
}
