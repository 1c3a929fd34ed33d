//! A holder's part in agreeing: promises, backs, signs, each word durable before
//! it leaves.
//!
//! It never signs what does not follow a record that names it with its own
//! receipt, never two bodies in one ballot, nothing in a ballot under one that it
//! promised, and nothing that it or a quorum of others did not check.

mod state;

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
};

pub(super) use self::state::BALLOT_STEP_MAX;
use self::state::{
    Entry, Hold, Name, ROW_BYTES_MAX, Shown, State, check_ballot, check_turn, key_of, name_of,
};
use super::{
    rules::{self, Facts, check_change, check_form, check_lost, may_follow},
    types::{Answer, Ask, At, Certificate, Change, Locked, Promise, back},
};
use crate::{
    codec,
    identity::{Identity, NodeId, Record as _, Signed, ensure, record_hash},
    machine::Millis,
    network::NetworkId,
    params,
    placement_record::{Placement, PlacementRecord, PlacementSignature},
    time::Epoch,
};

/// Limits of a voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoterConfig {
    /// Placements in whose agreement it remembers to have taken part, at most.
    pub states_max: usize,
    /// Answers that wait for the disk, at most.
    pub waiting_max: usize,
    /// How long nobody else gets a promise after a proposer did, milliseconds: he is
    /// moving shards meanwhile.
    pub hold_ms: u64,
    /// How long in all one proposer keeps others out of one decision, milliseconds.
    pub hold_total_ms: u64,
}

impl Default for VoterConfig {
    fn default() -> Self {
        Self { states_max: 1 << 20, waiting_max: 4096, hold_ms: 10_000, hold_total_ms: 30 * 60_000 }
    }
}

/// One question, and from whom the connection says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The driver's own number for it, in use once at a time, under `u64::MAX`.
    pub ticket: u64,
    /// Who asks.
    pub from: NodeId,
    /// What.
    pub ask: Ask,
}

/// What the driver is to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoterOutput {
    /// Make these durable, the row under its key in place of what was there; then
    /// [`Voter::persisted`], or [`Voter::not_persisted`]. In the order given.
    Persist {
        /// Of the question; `u64::MAX` where no answer waits for it.
        ticket: u64,
        /// The row's key.
        key: [u8; 64],
        /// The row.
        row: Vec<u8>,
        /// A record that this node goes by from now on: into the vault, first.
        adopt: Option<Box<PlacementRecord>>,
    },
    /// Forget the row under this key, some time.
    Forget {
        /// The row's key.
        key: [u8; 64],
    },
    /// Answer a question.
    Answer {
        /// Of the question.
        ticket: u64,
        /// What.
        answer: Box<Answer>,
    },
}

/// A row that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a vote's row cannot be read: {0}; this node abstains until it is set aside")]
pub struct VoterError(String);

/// See the module's documentation.
#[derive(Debug)]
pub struct Voter {
    identity: Identity,
    network: NetworkId,
    config: VoterConfig,
    epoch: Epoch,
    entries: BTreeMap<Name, Entry>,
    /// Something had to be forgotten for want of room: it takes no part any more in
    /// placements that its vault does not know.
    has_forgotten: bool,
    waiting: BTreeMap<u64, (Name, Answer)>,
    outputs: VecDeque<VoterOutput>,
}

/// An answer, and whether a row must be durable before it leaves.
struct Given {
    name: Name,
    answer: Answer,
    has_changed: bool,
    adopt: Option<Box<PlacementRecord>>,
}

/// The record that is decided about.
struct Current<'a> {
    record: Cow<'a, PlacementRecord>,
    is_new: bool,
}

impl Voter {
    /// A voter with the rows that it had made durable.
    ///
    /// # Errors
    /// [`VoterError`]: a row that cannot be read. To go on without it would be to
    /// forget what was signed.
    pub fn new(
        identity: Identity,
        network: NetworkId,
        config: VoterConfig,
        rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, VoterError> {
        let mut entries = BTreeMap::new();
        for (key, row) in rows {
            let key: [u8; 64] = key.try_into().map_err(|_| VoterError("its key".into()))?;
            let state = codec::decode("vote", &row, ROW_BYTES_MAX);
            let state: State = state.map_err(|e| VoterError(e.to_string()))?;
            entries.insert(name_of(&key), Entry::new(state));
        }
        let has_forgotten = entries.len() >= config.states_max;
        let (epoch, waiting, outputs) = (Epoch(0), BTreeMap::new(), VecDeque::new());
        Ok(Self { identity, network, config, epoch, entries, has_forgotten, waiting, outputs })
    }

    /// Takes a question. `known` is the newest record of that placement in this
    /// node's own vault, `facts` what it observed.
    pub fn ask(
        &mut self,
        now: Millis,
        asked: Asked,
        known: Option<&PlacementRecord>,
        facts: &dyn Facts,
    ) {
        let Asked { ticket, from, ask } = asked;
        let given = if self.waiting.len() >= self.config.waiting_max {
            Err(Answer::no("too many votes are waiting for the disk; later"))
        } else {
            self.judge(now, from, ask, known, facts)
        };
        match given {
            Err(answer) => self.answer(ticket, answer),
            Ok(given) => self.give(ticket, given),
        }
    }

    /// The row of a question is durable, and what was to be adopted.
    pub fn persisted(&mut self, ticket: u64) {
        if let Some(answer) = self.landed(ticket, true) {
            self.answer(ticket, answer);
        }
    }

    /// The row of a question could not be made durable: the answer is withheld.
    pub fn not_persisted(&mut self, ticket: u64) {
        if self.landed(ticket, false).is_some() {
            self.answer(ticket, Answer::no("its disk does not take the vote"));
        }
    }

    /// This node goes by a record from now on, or was passed over by it; it is
    /// durable in its vault where it names it. What was asked about earlier versions
    /// is over.
    pub fn follow(&mut self, record: &PlacementRecord) {
        let name = (record.body.segment, record.body.owner);
        let is_named = record.body.index_of(&self.identity.node_id()).is_some();
        let has_row = self.entries.contains_key(&name);
        let is_newer = self.entries.get(&name).is_none_or(|e| e.state.sequence < record.sequence());
        if !is_newer {
            return;
        }
        if is_named {
            // The vault has it: whoever asks about an earlier one is told so.
            if has_row {
                self.forget(name);
            }
            return;
        }
        // The vault may lose it with the shard: what was signed before stays over.
        self.put_state(name, State { abstains: true, ..State::new(record) });
    }

    /// What this node signed about a placement may be lost: it signs nothing that
    /// follows this record.
    pub fn abstain(&mut self, record: &PlacementRecord) {
        let name = (record.body.segment, record.body.owner);
        self.put_state(name, State { abstains: true, ..State::new(record) });
    }

    /// The epoch now: rows of leases that are over are forgotten.
    pub fn epoch(&mut self, epoch: Epoch) {
        if epoch <= self.epoch {
            return;
        }
        self.epoch = epoch;
        let over = self.entries.iter().filter(|(_, e)| e.state.until <= epoch && e.pending == 0);
        let over: Vec<Name> = over.map(|(name, _)| *name).collect();
        over.into_iter().for_each(|name| self.forget(name));
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<VoterOutput> {
        self.outputs.pop_front()
    }

    /// Placements that it remembers something about.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.entries.len()
    }

    fn answer(&mut self, ticket: u64, answer: Answer) {
        self.outputs.push_back(VoterOutput::Answer { ticket, answer: Box::new(answer) });
    }

    fn forget(&mut self, name: Name) {
        self.entries.remove(&name);
        self.outputs.push_back(VoterOutput::Forget { key: key_of(&name) });
    }

    /// Remembers a state that no question waits for.
    fn put_state(&mut self, name: Name, state: State) {
        let (key, row) = (key_of(&name), codec::encode(&state));
        let has_room = self.entries.len() < self.config.states_max;
        match self.entries.get_mut(&name) {
            Some(entry) => (entry.state, entry.hold) = (state, Hold::default()),
            None if has_room => drop(self.entries.insert(name, Entry::new(state))),
            None => {
                self.has_forgotten = true;
                return;
            }
        }
        self.outputs.push_back(VoterOutput::Persist { ticket: NO_TICKET, key, row, adopt: None });
    }

    fn landed(&mut self, ticket: u64, is_durable: bool) -> Option<Answer> {
        let (name, answer) = self.waiting.remove(&ticket)?;
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.pending = entry.pending.saturating_sub(1);
            entry.is_dirty = !is_durable;
        }
        Some(answer)
    }

    fn give(&mut self, ticket: u64, given: Given) {
        let Given { name, answer, has_changed, adopt } = given;
        let waits = |e: &&mut Entry| has_changed || e.pending > 0 || e.is_dirty;
        let entry = self.entries.get_mut(&name).filter(waits);
        let Some(entry) = entry else { return self.answer(ticket, answer) };
        // A word that stands on a row still on its way waits for that way's end.
        entry.pending += 1;
        let (key, row) = (key_of(&name), codec::encode(&entry.state));
        self.waiting.insert(ticket, (name, answer));
        self.outputs.push_back(VoterOutput::Persist { ticket, key, row, adopt });
    }

    fn judge(
        &mut self,
        now: Millis,
        from: NodeId,
        ask: Ask,
        known: Option<&PlacementRecord>,
        facts: &dyn Facts,
    ) -> Result<Given, Answer> {
        match ask {
            Ask::Promise { record, ballot, lost } => {
                let current = self.current(&record, known, facts)?;
                self.promise(now, from, &current, (ballot, &lost), facts)
            }
            Ask::Backing { at, ballot, change, promises, certificate } => {
                let record = self.known(&at, known)?;
                let shown = Shown { ballot, change, promises, certificate };
                self.backing(from, record, shown, facts)
            }
            Ask::Signature { at, change, certificate } => {
                let record = self.known(&at, known)?;
                self.signature(record, change, certificate)
            }
            Ask::Weak { record, lost, change } => {
                let current = self.current(&record, known, facts)?;
                self.weak(from, &current, (&lost, change), facts)
            }
        }
    }

    /// The record that a proposer shows, if this node goes by it or may.
    fn current<'a>(
        &self,
        bytes: &[u8],
        known: Option<&'a PlacementRecord>,
        facts: &dyn Facts,
    ) -> Result<Current<'a>, Answer> {
        let read: PlacementRecord =
            codec::decode(Placement::KIND, bytes, Placement::BYTES_MAX).map_err(Answer::no)?;
        let name = |r: &PlacementRecord| (r.body.segment, r.body.owner);
        let known = known.filter(|known| name(known) == name(&read));
        if let Some(known) = known.filter(|known| known.body == read.body) {
            return Ok(Current { record: Cow::Borrowed(known), is_new: false });
        }
        let own = self.identity.node_id();
        if let Some(newer) = known.filter(|known| known.wins_over(&read)) {
            return Err(Answer::Newer { record: newer.encode().into() });
        }
        read.verify(&self.network).map_err(Answer::no)?;
        if read.body.index_of(&own).is_none() {
            return Err(Answer::no("it does not name this node"));
        }
        if known.is_none() && self.has_forgotten {
            return Err(Answer::no("this node abstains from what it does not know"));
        }
        if known.is_some() && !may_follow(&read, &own, facts) {
            return Err(Answer::no("a quorum of the holders that it passes over lives"));
        }
        Ok(Current { record: Cow::Owned(read), is_new: true })
    }

    /// The record in this node's vault, if it is the one that is asked about.
    fn known<'a>(
        &self,
        at: &At,
        known: Option<&'a PlacementRecord>,
    ) -> Result<&'a PlacementRecord, Answer> {
        let name = (at.segment, at.owner);
        let known = known.filter(|known| (known.body.segment, known.body.owner) == name);
        let known = known.ok_or_else(|| Answer::no("no such placement here"))?;
        if At::after(known) == *at {
            return Ok(known);
        }
        // Older or newer: the proposer compares.
        Err(Answer::Newer { record: known.encode().into() })
    }

    /// What is remembered about the decision after a record; begun, if nothing is.
    fn entry(&mut self, record: &PlacementRecord) -> Result<&mut Entry, Answer> {
        let name = (record.body.segment, record.body.owner);
        let fresh = || Entry::new(State::new(record));
        let has_room = self.entries.len() < self.config.states_max;
        if !has_room && !self.entries.contains_key(&name) {
            return Err(Answer::no("too many votes are remembered here"));
        }
        let entry = self.entries.entry(name).or_insert_with(fresh);
        if entry.state.previous != record.hash() {
            if entry.state.sequence > record.sequence() {
                return Err(Answer::no("that version was followed by another already"));
            }
            let (pending, is_dirty) = (entry.pending, entry.is_dirty);
            *entry = Entry { pending, is_dirty, ..fresh() };
        }
        if entry.state.abstains {
            return Err(Answer::no("this node abstains: it may have forgotten what it signed"));
        }
        Ok(entry)
    }

    fn promise(
        &mut self,
        now: Millis,
        from: NodeId,
        current: &Current<'_>,
        (ballot, lost): (u64, &[u8]),
        facts: &dyn Facts,
    ) -> Result<Given, Answer> {
        let record = &*current.record;
        let index = check_turn(record, &from, ballot).map_err(Answer::no)?;
        let lease_over = record.lease.body.until <= facts.epoch();
        ensure(!lease_over, || "the lease is over".into()).map_err(Answer::no)?;
        let (network, acceptor) = (self.network, self.identity.node_id());
        let (hold_ms, total_ms) = (self.config.hold_ms, self.config.hold_total_ms);
        let entry = self.entry(record)?;
        let state = &mut entry.state;
        check_ballot(state, ballot)?;
        let took_part = state.backed.is_some_and(|(b, _)| b >= ballot)
            || state.locked.as_ref().is_some_and(|l| l.certificate.ballot >= ballot);
        if took_part {
            return Err(Answer::Higher { ballot });
        }
        // What was signed may have to be finished, whatever is lost or not.
        if state.locked.is_none() {
            check_lost(record, lost, &from, facts).map_err(Answer::no)?;
        }
        entry.hold.take(now, index, hold_ms, total_ms)?;
        let has_changed = state.promised != Some(ballot) || current.is_new;
        state.promised = Some(ballot);
        let locked = state.locked.clone();
        let signed = locked.as_ref().map(|l| (l.certificate.ballot, l.certificate.placement));
        let (v, previous) = (params::FORMAT_VERSION, state.previous);
        let body = Promise { v, network, previous, ballot, acceptor, signed };
        let promise = Signed::new(&self.identity, body);
        let name = (record.body.segment, record.body.owner);
        let adopt = current.is_new.then(|| Box::new(record.clone()));
        Ok(Given {
            name,
            answer: Answer::Promise { promise: Box::new(promise), locked: locked.map(Box::new) },
            has_changed,
            adopt,
        })
    }

    fn backing(
        &mut self,
        from: NodeId,
        record: &PlacementRecord,
        shown: Shown,
        facts: &dyn Facts,
    ) -> Result<Given, Answer> {
        let ballot = shown.ballot;
        check_turn(record, &from, ballot).map_err(Answer::no)?;
        check_ballot(&self.entry(record)?.state, ballot)?;
        let is_free = shown.check_promises(record).map_err(Answer::no)?;
        let (body, _) = check_form(record, &shown.change).map_err(Answer::no)?;
        let placement = record_hash(&body);
        match &shown.certificate {
            Some(certificate) if !is_free => {
                let same = certificate.placement == placement;
                ensure(same, || "another body may be agreed on".into()).map_err(Answer::no)?;
            }
            _ => check_change(record, &shown.change, &from, facts).map_err(Answer::no)?,
        }
        let state = &mut self.entry(record)?.state;
        if let Some((_, before)) = state.backed.filter(|(b, _)| *b == ballot) {
            let same = before == placement;
            ensure(same, || "it backed another body in this ballot".into()).map_err(Answer::no)?;
        }
        let backed = Some((ballot, placement));
        let has_changed = state.backed != backed || state.promised != Some(ballot);
        (state.promised, state.backed) = (Some(ballot), backed);
        let answer = Answer::Backing(back(&self.identity, record, ballot, placement));
        let name = (record.body.segment, record.body.owner);
        Ok(Given { name, answer, has_changed, adopt: None })
    }

    fn signature(
        &mut self,
        record: &PlacementRecord,
        change: Change,
        certificate: Certificate,
    ) -> Result<Given, Answer> {
        let ballot = certificate.ballot;
        check_ballot(&self.entry(record)?.state, ballot)?;
        let (body, _) = check_form(record, &change).map_err(Answer::no)?;
        let same = record_hash(&body) == certificate.placement;
        ensure(same, || "another body than was backed".into()).map_err(Answer::no)?;
        certificate.verify(record).map_err(Answer::no)?;
        let state = &mut self.entry(record)?.state;
        let before = state.locked.as_ref().map(|l| l.certificate.ballot);
        let has_changed = before != Some(ballot) || state.promised != Some(ballot);
        state.promised = Some(ballot);
        state.locked = Some(Locked { certificate, change });
        let signature = PlacementSignature::new(&self.identity, &body, Some(ballot));
        let name = (record.body.segment, record.body.owner);
        Ok(Given { name, answer: Answer::Signature(signature), has_changed, adopt: None })
    }

    /// Signs a weak version, or would: only where no quorum lives, and nothing that a
    /// quorum may have agreed on is passed over.
    fn weak(
        &mut self,
        from: NodeId,
        current: &Current<'_>,
        (lost, change): (&[u8], Option<Change>),
        facts: &dyn Facts,
    ) -> Result<Given, Answer> {
        let record = &*current.record;
        let scheme = record.descriptor.scheme;
        let holds = record.body.index_of(&from).is_some();
        ensure(holds, || "it is asked by no holder".into()).map_err(Answer::no)?;
        let few = rules::reachable(&record.body.holders, facts) < scheme.change_quorum();
        ensure(scheme.weak_quorum().is_some() && few, || {
            "a quorum lives, as far as is seen from here".into()
        })
        .map_err(Answer::no)?;
        check_lost(record, lost, &from, facts).map_err(Answer::no)?;
        let state = &self.entry(record)?.state;
        let locked = state.locked.as_ref().map(|l| l.certificate.placement);
        let answer = match change {
            None => Answer::Willing,
            Some(change) => {
                let (body, _) = check_form(record, &change).map_err(Answer::no)?;
                check_change(record, &change, &from, facts).map_err(Answer::no)?;
                let same = locked.is_none_or(|locked| locked == record_hash(&body));
                ensure(same, || "another body may be agreed on".into()).map_err(Answer::no)?;
                Answer::Signature(PlacementSignature::new(&self.identity, &body, None))
            }
        };
        let name = (record.body.segment, record.body.owner);
        let adopt = current.is_new.then(|| Box::new(record.clone()));
        Ok(Given { name, answer, has_changed: current.is_new, adopt })
    }
}

/// The ticket of a row that no answer waits for.
const NO_TICKET: u64 = u64::MAX;
