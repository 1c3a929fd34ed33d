//! Bringing about the next version: first the claim, then, once the shards are
//! where they shall be, backings and signatures.
//!
//! One machine per change. The claim comes before any shard is moved: where no
//! quorum goes along, as on the small side of a partition, nothing is moved. It
//! believes no answer that is not signed by who it is from, and whatever may
//! have been signed before it finishes instead of its own.

mod round;
mod types;

use std::collections::{BTreeMap, VecDeque};

use self::round::{Round, Why};
pub use self::types::{ProposeFailure, ProposerConfig, ProposerInput, ProposerOutput};
use super::{
    types::{Answer, Ask, At, Certificate, Change, Locked, Promise, check_promise, is_backing},
    voter::BALLOT_STEP_MAX,
};
use crate::{
    bytes::RecordHash,
    identity::{NodeId, Signed, record_hash},
    lease::Receipt,
    machine::{Draws, Machine, Millis},
    placement_record::{Placement, PlacementRecord, PlacementSignature},
};

#[derive(Debug)]
struct Promised {
    promise: Signed<Promise>,
    locked: Option<Locked>,
}

/// A body on its way.
#[derive(Debug, Clone)]
struct Carried {
    body: Placement,
    hash: RecordHash,
    receipts: Vec<Signed<Receipt>>,
    change: Change,
}

#[derive(Debug)]
enum Phase {
    Claiming(Round<Promised>),
    /// Shards are being moved; the promises stand ready.
    Claimed(Round<Promised>),
    Backing(Carried, Round<PlacementSignature>),
    Signing(Carried, Certificate, Round<PlacementSignature>),
    /// Would fewer than a quorum sign; do they.
    WeakClaiming(Round<()>),
    WeakClaimed(Vec<NodeId>),
    WeakSigning(Carried, Round<PlacementSignature>),
    /// Until a higher ballot.
    Pausing(Millis),
    Over,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Proposer {
    config: ProposerConfig,
    draws: Draws,
    now: Millis,
    own: NodeId,
    record: PlacementRecord,
    at: At,
    lost: Vec<u8>,
    ballot: u64,
    /// The highest ballot that anybody spoke of.
    seen: u64,
    ballots: u32,
    /// Whether the claim was told: it is told once.
    is_claimed: bool,
    /// What is to be proposed, if nothing else must be.
    wanted: Option<Carried>,
    phase: Phase,
    renew_at: Option<Millis>,
    outputs: VecDeque<ProposerOutput>,
}

impl Proposer {
    /// A proposer at the node `own` for a version to follow `record`, in which the
    /// indices of `lost` change hands. It begins at once.
    ///
    /// # Errors
    /// [`ProposeFailure::Invalid`] when the record does not name the node.
    pub fn agreed(
        now: Millis,
        config: ProposerConfig,
        own: NodeId,
        record: PlacementRecord,
        lost: Vec<u8>,
        seed: u64,
    ) -> Result<Self, ProposeFailure> {
        let mut proposer = Self::begin(now, config, own, record, lost, seed)?;
        proposer.claim();
        Ok(proposer)
    }

    /// The same where fewer than a quorum of the holders can be reached and the scheme
    /// allows a weak version: `reachable` are those, this node among them.
    ///
    /// # Errors
    /// [`ProposeFailure::Invalid`] when the record does not name the node, or the
    /// scheme has no weak versions.
    pub fn weak(
        now: Millis,
        config: ProposerConfig,
        own: NodeId,
        record: PlacementRecord,
        lost: Vec<u8>,
        reachable: &[NodeId],
    ) -> Result<Self, ProposeFailure> {
        let mut proposer = Self::begin(now, config, own, record, lost, 0)?;
        let scheme = proposer.record.descriptor.scheme;
        let needed = scheme.weak_quorum();
        let needed = needed.ok_or_else(|| ProposeFailure::Invalid("a quorum is needed".into()))?;
        let (record, lost) = (proposer.record.encode().into(), proposer.lost.clone());
        let ask = Ask::Weak { record, lost, change: None };
        let round = proposer.round(reachable.to_vec(), needed, ask);
        proposer.phase = Phase::WeakClaiming(round);
        Ok(proposer)
    }

    fn begin(
        now: Millis,
        config: ProposerConfig,
        own: NodeId,
        record: PlacementRecord,
        lost: Vec<u8>,
        seed: u64,
    ) -> Result<Self, ProposeFailure> {
        let index = record.body.index_of(&own);
        let index = index.ok_or_else(|| ProposeFailure::Invalid("no holder proposes".into()))?;
        Ok(Self {
            config,
            draws: Draws::new(seed),
            now,
            own,
            at: At::after(&record),
            record,
            lost,
            ballot: u64::from(index),
            seen: 0,
            ballots: 0,
            is_claimed: false,
            wanted: None,
            phase: Phase::Over,
            renew_at: None,
            outputs: VecDeque::new(),
        })
    }

    fn holders(&self) -> Vec<NodeId> {
        self.record.body.holders.iter().map(|(_, holder)| *holder).collect()
    }

    fn quorum(&self) -> usize {
        self.record.descriptor.scheme.change_quorum()
    }

    fn send(&mut self, to: NodeId, ask: Ask) {
        self.outputs.push_back(ProposerOutput::Ask { to, ask: Box::new(ask) });
    }

    fn round<T>(&mut self, asked: Vec<NodeId>, needed: usize, ask: Ask) -> Round<T> {
        asked.iter().for_each(|node| self.send(*node, ask.clone()));
        Round::new(asked, needed, self.now.after(self.config.round_ms))
    }

    fn fail(&mut self, failure: ProposeFailure) {
        self.phase = Phase::Over;
        self.outputs.push_back(ProposerOutput::Failed(failure));
    }

    /// The question that opens a ballot.
    fn ask_promise(&self, ballot: u64) -> Ask {
        // Once claimed, the shards have new places: nothing is lost any more that was not.
        Ask::Promise { record: self.record.encode().into(), ballot, lost: self.lost.clone() }
    }

    /// Begins a ballot above all that were spoken of.
    fn claim(&mut self) {
        let index = self.ballot % 64;
        if self.ballots > 0 {
            let above = self.seen.max(self.ballot) / 64 + 1;
            self.ballot = above.saturating_mul(64).saturating_add(index);
        }
        self.ballots += 1;
        let ask = self.ask_promise(self.ballot);
        let round = self.round(self.holders(), self.quorum(), ask);
        self.phase = Phase::Claiming(round);
    }

    /// Another ballot after a pause, if there may be one.
    fn again(&mut self) {
        if self.ballots >= self.config.ballots_max {
            return self.fail(ProposeFailure::Busy);
        }
        let pause = self.draws.below(self.config.pause_ms.max(1));
        self.phase = Phase::Pausing(self.now.after(pause));
    }

    /// A round that cannot succeed any more.
    fn lost_round(&mut self, why: Why, heard: usize, needed: usize) {
        match why {
            Why::Higher => self.again(),
            Why::Held => self.fail(ProposeFailure::Busy),
            Why::No(reason) => self.fail(ProposeFailure::Refused { reason }),
            // The shards are where they shall be: worth another try.
            Why::Silent if self.is_claimed => self.again(),
            Why::Silent => self.fail(ProposeFailure::NoQuorum { heard, needed }),
        }
    }

    fn answered(&mut self, node: NodeId, answer: Answer) {
        let refusal = match answer {
            Answer::Promise { promise, locked } => {
                return self.promised(node, *promise, locked.map(|locked| *locked));
            }
            Answer::Backing(backing) => return self.backed(node, backing),
            Answer::Signature(signature) => return self.signed(node, signature),
            Answer::Willing => return self.willing(node),
            Answer::Newer { record } => return self.newer(node, &record),
            Answer::TooHigh { ballot } => return self.too_high(node, ballot),
            Answer::Higher { ballot } => {
                // Nobody is asked for more than one step: a liar gains no more.
                let most = self.ballot.saturating_add(BALLOT_STEP_MAX / 2);
                self.seen = self.seen.max(ballot.min(most));
                Why::Higher
            }
            Answer::Held { .. } => Why::Held,
            Answer::No { reason } => Why::No(reason),
        };
        self.refused(node, refusal);
    }

    fn refused(&mut self, node: NodeId, why: Why) {
        match &mut self.phase {
            Phase::Claiming(round) => round.refuse(node, why),
            Phase::Backing(_, round) | Phase::Signing(_, _, round) => round.refuse(node, why),
            Phase::WeakClaiming(round) => round.refuse(node, why),
            Phase::WeakSigning(_, round) => round.refuse(node, why),
            // A claim that is lost meanwhile shows when something is proposed.
            Phase::Claimed(_) | Phase::WeakClaimed(_) | Phase::Pausing(_) | Phase::Over => {}
        }
    }

    fn promised(&mut self, node: NodeId, promise: Signed<Promise>, locked: Option<Locked>) {
        let Phase::Claiming(round) = &mut self.phase else { return };
        if promise.body.acceptor != node || !round.awaits(&node) {
            return;
        }
        if promise.body.ballot < self.ballot {
            // It is being led up to the ballot.
            if round.may_lead(&node) {
                self.send(node, self.ask_promise(self.ballot));
            }
            return;
        }
        let good = check_promise(&promise, &self.record, self.at.previous, self.ballot);
        let good = good.and_then(|()| check_locked(&promise.body, locked.as_ref(), &self.record));
        match good {
            Ok(()) => round.accept(node, Promised { promise, locked }),
            Err(reason) => round.refuse(node, Why::No(reason)),
        }
    }

    fn too_high(&mut self, node: NodeId, ballot: u64) {
        let Phase::Claiming(round) = &mut self.phase else {
            return self.refused(node, Why::Silent);
        };
        let index = self.ballot % 64;
        let below = (ballot / 64).saturating_sub(1) * 64 + index;
        // Each step is one more question; a liar is not led on for ever.
        if below < self.ballot && round.may_lead(&node) {
            self.send(node, self.ask_promise(below));
        } else {
            round.refuse(node, Why::Silent);
        }
    }

    fn newer(&mut self, node: NodeId, bytes: &[u8]) {
        if matches!(self.phase, Phase::Over) {
            return;
        }
        match PlacementRecord::decode(bytes, &self.record.body.network) {
            Ok(record) if self.is_overtaken_by(&record) => {
                self.phase = Phase::Over;
                self.outputs.push_back(ProposerOutput::Overtaken { record: Box::new(record) });
            }
            // An older one, or a weak one that does not bind this node.
            _ => self.refused(node, Why::No("it goes by another record".into())),
        }
    }

    fn is_overtaken_by(&self, record: &PlacementRecord) -> bool {
        let name = |r: &PlacementRecord| (r.body.segment, r.body.owner);
        name(record) == name(&self.record)
            && record.wins_over(&self.record)
            && record.binds(&self.own)
    }

    fn backed(&mut self, node: NodeId, backing: PlacementSignature) {
        let Phase::Backing(carried, round) = &mut self.phase else { return };
        let good = is_backing(&backing, &self.record, self.ballot, carried.hash);
        if good && backing.signer == node && round.awaits(&node) {
            round.accept(node, backing);
        }
    }

    fn signed(&mut self, node: NodeId, signature: PlacementSignature) {
        let (carried, ballot, round) = match &mut self.phase {
            Phase::Signing(carried, _, round) => (carried, Some(self.ballot), round),
            Phase::WeakSigning(carried, round) => (carried, None, round),
            _ => return,
        };
        let good = signature.signer == node && round.awaits(&node);
        if good && signature.verify(&carried.body, ballot) {
            round.accept(node, signature);
        }
    }

    fn willing(&mut self, node: NodeId) {
        if let Phase::WeakClaiming(round) = &mut self.phase {
            round.accept(node, ());
        }
    }

    /// A body as the machine carries it.
    fn carry(&self, change: Change) -> Result<Carried, String> {
        let (body, receipts) = change.apply(&self.record)?;
        Ok(Carried { hash: record_hash(&body), body, receipts, change })
    }

    fn propose(&mut self, receipts: &[Signed<Receipt>]) {
        if self.wanted.is_some() || matches!(self.phase, Phase::Over) {
            return;
        }
        let carried = match self.carry(Change::to(&self.record, receipts)) {
            Ok(carried) => carried,
            Err(reason) => return self.fail(ProposeFailure::Invalid(reason)),
        };
        self.wanted = Some(carried);
    }

    /// Goes on as far as the answers allow.
    fn go_on(&mut self) {
        loop {
            match std::mem::replace(&mut self.phase, Phase::Over) {
                Phase::Claiming(round) if round.is_enough() => self.claimed(round),
                Phase::Claimed(round) if self.wanted.is_some() => self.ask_backing(&round),
                Phase::Backing(carried, round) if round.is_enough() => {
                    self.ask_signatures(carried, round);
                }
                Phase::Signing(carried, certificate, round) if self.is_signed(&round) => {
                    self.commit(carried, Some(certificate.ballot), round);
                }
                Phase::WeakClaiming(round) if round.is_settled(self.now) && round.is_enough() => {
                    self.phase = Phase::WeakClaimed(round.into_accepted().into_keys().collect());
                    self.outputs.push_back(ProposerOutput::Claimed);
                }
                Phase::WeakClaimed(willing) if self.wanted.is_some() => self.ask_weak(willing),
                Phase::WeakSigning(carried, round)
                    if round.is_settled(self.now) && round.is_enough() =>
                {
                    self.commit(carried, None, round);
                }
                Phase::Pausing(at) if self.now >= at => self.claim(),
                phase => {
                    self.phase = phase;
                    break;
                }
            }
        }
        self.give_up();
    }

    /// Whether there are enough signatures, and no more are waited for.
    fn is_signed(&self, round: &Round<PlacementSignature>) -> bool {
        round.is_enough()
            && (round.is_settled(self.now) || round.has_lingered(self.now, self.config.linger_ms))
    }

    /// Sees whether the round can still succeed.
    fn give_up(&mut self) {
        let now = self.now;
        let lost = match &mut self.phase {
            Phase::Claiming(round) => round.verdict(now),
            Phase::Backing(_, round) | Phase::Signing(_, _, round) => round.verdict(now),
            Phase::WeakClaiming(round) => round.verdict(now),
            Phase::WeakSigning(_, round) => round.verdict(now),
            _ => None,
        };
        if let Some((why, heard, needed)) = lost {
            self.lost_round(why, heard, needed);
        }
    }

    /// A quorum promised: what was signed before is finished, else it is this node's
    /// turn.
    fn claimed(&mut self, round: Round<Promised>) {
        let has_locked = round.accepted().values().any(|p| p.locked.is_some());
        if has_locked {
            return self.ask_backing(&round);
        }
        self.phase = Phase::Claimed(round);
        self.renew_at = Some(self.now.after(self.config.renew_ms));
        if !self.is_claimed {
            self.is_claimed = true;
            self.outputs.push_back(ProposerOutput::Claimed);
        }
    }

    fn ask_backing(&mut self, round: &Round<Promised>) {
        let highest = round.accepted().values().filter_map(|p| p.locked.as_ref());
        let highest = highest.max_by_key(|locked| locked.certificate.ballot);
        let certificate = highest.map(|locked| locked.certificate.clone());
        let carried = match highest {
            Some(locked) => self.carry(locked.change.clone()).ok(),
            None => self.wanted.clone(),
        };
        // Both were checked when they came.
        let Some(carried) = carried else { return };
        let promises = round.accepted().values().map(|p| p.promise.clone()).collect();
        let (at, ballot, change) = (self.at, self.ballot, carried.change.clone());
        let ask = Ask::Backing { at, ballot, change, promises, certificate };
        let round = self.round(self.holders(), self.quorum(), ask);
        self.phase = Phase::Backing(carried, round);
    }

    fn ask_signatures(&mut self, carried: Carried, round: Round<PlacementSignature>) {
        let backings = round.into_accepted().into_values().collect();
        let certificate = Certificate { ballot: self.ballot, placement: carried.hash, backings };
        let change = carried.change.clone();
        let ask = Ask::Signature { at: self.at, change, certificate: certificate.clone() };
        let round = self.round(self.holders(), self.quorum(), ask);
        self.phase = Phase::Signing(carried, certificate, round);
    }

    fn ask_weak(&mut self, willing: Vec<NodeId>) {
        let Some(carried) = self.wanted.clone() else { return };
        let needed = self.record.descriptor.scheme.weak_quorum().unwrap_or(usize::MAX);
        let (record, lost) = (self.record.encode().into(), self.lost.clone());
        let ask = Ask::Weak { record, lost, change: Some(carried.change.clone()) };
        let round = self.round(willing, needed, ask);
        self.phase = Phase::WeakSigning(carried, round);
    }

    fn commit(&mut self, carried: Carried, ballot: Option<u64>, round: Round<PlacementSignature>) {
        let is_ours = self.wanted.as_ref().is_some_and(|wanted| wanted.hash == carried.hash);
        let signatures: BTreeMap<NodeId, PlacementSignature> = round.into_accepted();
        let signatures = signatures.into_values().collect();
        let Carried { body, receipts, .. } = carried;
        match self.record.succeeded(body, receipts, ballot, signatures) {
            Ok(record) => {
                self.phase = Phase::Over;
                let record = Box::new(record);
                self.outputs.push_back(ProposerOutput::Committed { record, is_ours });
            }
            Err(e) => self.fail(ProposeFailure::Invalid(e.to_string())),
        }
    }

    /// Renews the claim while shards are moved.
    fn renew(&mut self) {
        let Phase::Claimed(round) = &self.phase else { return };
        if self.renew_at.is_some_and(|at| self.now >= at) {
            let promised: Vec<NodeId> = round.accepted().keys().copied().collect();
            let ask = self.ask_promise(self.ballot);
            promised.into_iter().for_each(|node| self.send(node, ask.clone()));
            self.renew_at = Some(self.now.after(self.config.renew_ms));
        }
    }
}

/// Whether what a promise says was signed is proven beside it.
fn check_locked(
    promise: &Promise,
    locked: Option<&Locked>,
    record: &PlacementRecord,
) -> Result<(), String> {
    let said = locked.map(|l| (l.certificate.ballot, l.certificate.placement));
    if said != promise.signed {
        return Err("what it signed is not shown".into());
    }
    locked.map_or(Ok(()), |locked| locked.verify(record))
}

impl Machine for Proposer {
    type Input = ProposerInput;
    type Output = ProposerOutput;

    fn handle(&mut self, now: Millis, input: ProposerInput) {
        self.now = self.now.max(now);
        match input {
            ProposerInput::Answer { node, answer } => self.answered(node, *answer),
            ProposerInput::Unreachable { node } => self.refused(node, Why::Silent),
            ProposerInput::Propose { receipts } => self.propose(&receipts),
            ProposerInput::Tick => {}
        }
        self.go_on();
        self.renew();
    }

    fn poll(&mut self) -> Option<ProposerOutput> {
        self.outputs.pop_front()
    }

    fn timeout(&self) -> Option<Millis> {
        let linger_ms = self.config.linger_ms;
        let at = match &self.phase {
            Phase::Claiming(round) => Some(round.deadline()),
            Phase::Claimed(_) => self.renew_at,
            Phase::Backing(_, round) => Some(round.deadline()),
            Phase::Signing(_, _, round) => Some(round.deadline().min(round.lingers(linger_ms))),
            Phase::WeakClaiming(round) => Some(round.deadline()),
            Phase::WeakSigning(_, round) => Some(round.deadline()),
            Phase::Pausing(at) => Some(*at),
            Phase::WeakClaimed(_) | Phase::Over => None,
        };
        // Never in the past, so that a driver which only ticks gets on.
        at.map(|at| at.max(self.now))
    }
}
