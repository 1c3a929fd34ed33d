//! What a voter remembers of a decision, whose turn it is in it, and what it
//! checks of a ballot before it looks at what is proposed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    agreement::types::{Answer, Certificate, Change, Locked, Promise, check_promise},
    bytes::RecordHash,
    identity::{NodeId, Signed, ensure},
    machine::Millis,
    params,
    placement_record::PlacementRecord,
    segment::SegmentId,
    time::Epoch,
};

/// A placement: segment and owner.
pub(super) type Name = (SegmentId, NodeId);

/// What must outlive a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) v: u8,
    /// What is to be followed: the newest version known.
    pub(super) previous: RecordHash,
    /// Rank of that record among those of the placement.
    pub(super) sequence: u64,
    /// When nobody may ask any more: the end of its lease.
    pub(super) until: Epoch,
    /// It signs nothing that follows this version: it may have forgotten what it
    /// signed, or the version does not name it.
    pub(super) abstains: bool,
    /// The highest ballot in which it took part.
    pub(super) promised: Option<u64>,
    /// The last ballot in which it backed something, and what.
    pub(super) backed: Option<(u64, RecordHash)>,
    /// What it signed last.
    pub(super) locked: Option<Locked>,
}

/// Bytes of a row at most.
pub(super) const ROW_BYTES_MAX: usize = 128 * 1024;

impl State {
    pub(super) fn new(record: &PlacementRecord) -> Self {
        Self {
            v: params::FORMAT_VERSION,
            previous: record.hash(),
            sequence: record.sequence(),
            until: record.lease.body.until,
            abstains: false,
            promised: None,
            backed: None,
            locked: None,
        }
    }
}

/// A proposer's turn; forgotten in a crash, for it is a courtesy.
#[derive(Debug, Clone, Default)]
pub(super) struct Hold {
    pub(super) index: u8,
    pub(super) until: Millis,
    /// How long each proposer kept others out, milliseconds.
    pub(super) spent: BTreeMap<u8, u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) state: State,
    pub(super) hold: Hold,
    /// Rows on their way to the disk.
    pub(super) pending: u32,
    /// A row did not get there: nothing is said before another did.
    pub(super) is_dirty: bool,
}

impl Entry {
    pub(super) fn new(state: State) -> Self {
        Self { state, hold: Hold::default(), pending: 0, is_dirty: false }
    }
}

/// What is shown to have a body backed.
pub(super) struct Shown {
    pub(super) ballot: u64,
    pub(super) change: Change,
    pub(super) promises: Vec<Signed<Promise>>,
    pub(super) certificate: Option<Certificate>,
}

impl Shown {
    /// Whether a quorum promised, and whether nobody of it signed anything before;
    /// else the certificate must be of what was signed last.
    pub(super) fn check_promises(&self, record: &PlacementRecord) -> Result<bool, String> {
        let previous = record.hash();
        let ordered = self.promises.windows(2).all(|p| p[0].body.acceptor < p[1].body.acceptor);
        let quorum = record.descriptor.scheme.change_quorum();
        ensure(ordered && self.promises.len() >= quorum, || {
            format!("{} promises of {quorum} holders needed", self.promises.len())
        })?;
        for promise in &self.promises {
            check_promise(promise, record, previous, self.ballot)?;
        }
        let Some(highest) = self.promises.iter().filter_map(|p| p.body.signed).max() else {
            return Ok(true);
        };
        let certificate = self.certificate.as_ref().ok_or("what was signed is not shown")?;
        let same = (certificate.ballot, certificate.placement) == highest;
        ensure(same, || "what is shown is not what was signed last".into())?;
        certificate.verify(record)?;
        Ok(false)
    }
}

impl Hold {
    /// Gives a proposer its turn, if nobody else has it.
    pub(super) fn take(
        &mut self,
        now: Millis,
        index: u8,
        hold_ms: u64,
        total_ms: u64,
    ) -> Result<(), Answer> {
        let is_taken = now < self.until;
        if is_taken && self.index != index {
            return Err(Answer::Held { for_ms: self.until.since(now) });
        }
        let from = if is_taken { self.until } else { now };
        let spent = self.spent.entry(index).or_insert(0);
        if *spent < total_ms {
            let until = now.after(hold_ms);
            *spent = spent.saturating_add(until.since(from));
            self.until = until;
        }
        self.index = index;
        Ok(())
    }
}

/// How far above what it promised a voter goes in one step: a ballot's number is
/// finite, and nobody may use it up.
pub(in crate::agreement) const BALLOT_STEP_MAX: u64 = 1 << 38;

/// Whether a ballot is the proposer's; its index.
pub(super) fn check_turn(
    record: &PlacementRecord,
    from: &NodeId,
    ballot: u64,
) -> Result<u8, String> {
    let index = record.body.index_of(from).ok_or("it is asked by no holder")?;
    ensure(ballot % 64 == u64::from(index), || "the ballot is another's".into())?;
    Ok(index)
}

pub(super) fn check_ballot(state: &State, ballot: u64) -> Result<(), Answer> {
    if let Some(promised) = state.promised.filter(|promised| *promised > ballot) {
        return Err(Answer::Higher { ballot: promised });
    }
    let highest = state.promised.unwrap_or(0).saturating_add(BALLOT_STEP_MAX);
    if ballot > highest { Err(Answer::TooHigh { ballot: highest }) } else { Ok(()) }
}

pub(super) fn key_of((segment, owner): &Name) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(&segment.0);
    key[32..].copy_from_slice(&owner.0);
    key
}

pub(super) fn name_of(key: &[u8; 64]) -> Name {
    let (mut segment, mut owner) = ([0; 32], [0; 32]);
    segment.copy_from_slice(&key[..32]);
    owner.copy_from_slice(&key[32..]);
    (SegmentId(segment), NodeId(owner))
}
