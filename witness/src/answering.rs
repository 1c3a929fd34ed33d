//! The holder's side (SPEC_WITNESS.md, section 5): whether a challenge is to be answered.
//!
//! A pure decision with its counters. Reading the leaf, signing the answer, and reporting damage
//! are its caller's. An answer is never kept back by quiet hours or caps; these are the only
//! limits.

use std::collections::BTreeMap;

use echonet_protocol::{
    audit::AuditChallenge,
    identity::{NodeId, RecordError, Signed},
    network::NetworkId,
    segment::SegmentId,
    time::Epoch,
};

use crate::{
    beacon::{Beacon, BeaconError, Beacons},
    draw::{self, Draw, Rates},
};

/// Answers to one witness about one shard in one epoch.
const ANSWERS_PER_QUESTION: u8 = 3;
/// Answers in an epoch, beside two for each shard held.
const ANSWERS_BASE: u64 = 64;

/// What a holder knows of the shard that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardState {
    /// It is in a volume; so many bytes.
    Held {
        /// Bytes of the shard.
        length: u64,
    },
    /// A receipt for it is in force, and it is not there or does not match its hash.
    Lost {
        /// Bytes that it had.
        length: u64,
    },
    /// No receipt was ever given for it, or all of them are over: nothing is owed.
    NotPromised,
}

/// What to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The proof of this leaf, whose hash is signed. Where reading it fails, [`Self::Absent`].
    Leaf(u64),
    /// A signed null: promised, and not there.
    Absent,
}

/// Why a challenge is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Of an epoch too far from this node's.
    #[error(
        "a challenge of epoch {asked}, it is {now} here; only that, the one before and the one after are answered"
    )]
    Epoch {
        /// The challenge's.
        asked: u64,
        /// This node's.
        now: u64,
    },
    /// Asked in another holder's inventory.
    #[error("a challenge of another holder's inventory")]
    Inventory,
    /// No receipt of this node is in force for that shard.
    #[error("this node gave no receipt for shard {index} of {segment}")]
    NotPromised {
        /// The segment.
        segment: SegmentId,
        /// The shard.
        index: u8,
    },
    /// Answered often enough.
    #[error("answered {0} times already in this epoch")]
    TooOften(u64),
    /// Not an epoch's beacon.
    #[error(transparent)]
    Beacon(#[from] BeaconError),
    /// The segment is not due.
    #[error("segment {0} is not due in that epoch")]
    NotDue(SegmentId),
    /// Not asked by a member of the segment's committee.
    #[error("{0} is not on the committee of that segment in that epoch")]
    Stranger(NodeId),
    /// Not signed by the witness, or of another network.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// A challenge as it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The question.
    pub challenge: &'a Signed<AuditChallenge>,
    /// Which shard.
    pub index: u8,
    /// What is known of it here.
    pub shard: ShardState,
    /// The members of the witness set in the challenge's epoch.
    pub members: &'a [NodeId],
}

/// A holder's memory of what it answered, in three epochs at most.
#[derive(Debug, Clone)]
pub struct Answering {
    me: NodeId,
    network: NetworkId,
    rates: Rates,
    beacons: Beacons,
    epochs: BTreeMap<Epoch, Answered>,
}

#[derive(Debug, Clone, Default)]
struct Answered {
    beacon: Option<Beacon>,
    total: u64,
    by_question: BTreeMap<(NodeId, SegmentId, u8), u8>,
}

impl Answering {
    /// A holder that answered nothing yet.
    #[must_use]
    pub const fn new(me: NodeId, network: NetworkId, rates: Rates, beacons: Beacons) -> Self {
        Self { me, network, rates, beacons, epochs: BTreeMap::new() }
    }

    /// Whether a challenge is answered, and how; counts it if so. `now` is the node's own epoch,
    /// `held` the number of shards that it holds. The cheap doubts come first, and the beacon of
    /// an epoch is verified once.
    ///
    /// # Errors
    /// Why it is not answered.
    pub fn decide(
        &mut self,
        now: Epoch,
        held: u64,
        asking: &Asking<'_>,
    ) -> Result<Reply, Unanswered> {
        let challenge = &asking.challenge.body;
        let epoch = challenge.epoch;
        if epoch.0.abs_diff(now.0) > 1 {
            return Err(Unanswered::Epoch { asked: epoch.0, now: now.0 });
        }
        if challenge.inventory.is_some_and(|node| node != self.me) {
            return Err(Unanswered::Inventory);
        }
        let (segment, index) = (challenge.segment, asking.index);
        let length = match asking.shard {
            ShardState::Held { length } | ShardState::Lost { length } => length,
            ShardState::NotPromised => return Err(Unanswered::NotPromised { segment, index }),
        };
        self.epochs.retain(|epoch, _| epoch.0.abs_diff(now.0) <= 1);
        let question = (challenge.witness, segment, index);
        self.check_counters(epoch, &question, held)?;
        let beacon = self.beacon(challenge)?;
        if challenge.inventory.is_none()
            && !Draw::new(&beacon, &segment).is_due(&self.rates, length)
        {
            return Err(Unanswered::NotDue(segment));
        }
        let committee = draw::committee(&beacon, &segment, asking.members, &self.rates);
        if !committee.contains(&challenge.witness) {
            return Err(Unanswered::Stranger(challenge.witness));
        }
        asking.challenge.verify(&self.network)?;
        let answered = self.epochs.entry(epoch).or_default();
        answered.total += 1;
        *answered.by_question.entry(question).or_default() += 1;
        Ok(match asking.shard {
            ShardState::Held { length } => Reply::Leaf(draw::leaf(asking.challenge, length)),
            _ => Reply::Absent,
        })
    }

    fn check_counters(
        &self,
        epoch: Epoch,
        question: &(NodeId, SegmentId, u8),
        held: u64,
    ) -> Result<(), Unanswered> {
        let Some(answered) = self.epochs.get(&epoch) else { return Ok(()) };
        let times = answered.by_question.get(question).copied().unwrap_or(0);
        if times >= ANSWERS_PER_QUESTION {
            return Err(Unanswered::TooOften(u64::from(times)));
        }
        let total_max = held.saturating_mul(2).saturating_add(ANSWERS_BASE);
        if answered.total >= total_max {
            return Err(Unanswered::TooOften(answered.total));
        }
        Ok(())
    }

    /// The challenge's beacon, verified: a key and a message have one signature, so a second one
    /// need only be the same.
    fn beacon(&mut self, challenge: &AuditChallenge) -> Result<Beacon, Unanswered> {
        let epoch = challenge.epoch;
        let known = self.epochs.get(&epoch).and_then(|answered| answered.beacon);
        if let Some(beacon) = known {
            if *beacon.signature() == challenge.beacon {
                return Ok(beacon);
            }
            return Err(BeaconError::Signature(epoch.0).into());
        }
        let beacon = self.beacons.verify(epoch, &challenge.beacon)?;
        self.epochs.entry(epoch).or_default().beacon = Some(beacon);
        Ok(beacon)
    }
}
