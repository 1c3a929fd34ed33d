//! A world of holders in virtual time: what is sent may be lost, come twice or
//! late; what is written may be lost in a crash; some lie.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    agreement::{
        Answer, Ask, Asked, Promise, Proposer, ProposerConfig, ProposerInput, ProposerOutput,
        Voter, VoterConfig, VoterOutput,
    },
    bytes::RecordHash,
    identity::{NodeId, Signed},
    machine::{Draws, Machine, Millis},
    placement_record::PlacementRecord,
};

use crate::{
    lies::{self, Lies, Scene},
    sample::{Known, NETWORK, Placed, id, node, number},
};

/// What may go wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    /// Of 1000 messages so many are lost, so many come twice.
    pub(crate) lost_permille: u64,
    pub(crate) twice_permille: u64,
    /// Crashes, in all.
    pub(crate) crashes: u64,
    /// When all of that ends.
    pub(crate) until_ms: u64,
    /// How often a holder loses its shard, though it goes on voting.
    pub(crate) loss_ms: u64,
    /// Answers leave before they are durable: a defect that must be found.
    pub(crate) answers_early: bool,
}

#[derive(Debug)]
enum Event {
    Ask {
        from: u8,
        to: u8,
        ask: Box<Ask>,
        proposal: u64,
    },
    Answer {
        from: u8,
        to: u8,
        answer: Box<Answer>,
        proposal: u64,
    },
    /// A row reaches the disk; of which life of the node it is.
    Durable {
        at: u8,
        life: u64,
        ticket: u64,
        key: [u8; 64],
        row: Vec<u8>,
        adopt: Option<Box<PlacementRecord>>,
    },
    Record {
        to: u8,
        record: Box<PlacementRecord>,
    },
    /// A node that may propose looks whether there is something to propose.
    Look {
        at: u8,
    },
    Tick {
        at: u8,
    },
    /// Of a node, or of all at once.
    Crash {
        at: Option<u8>,
    },
    Scheme,
    Lose,
}

struct Holder {
    voter: Voter,
    life: u64,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    record: Option<PlacementRecord>,
    proposer: Option<(u64, Proposer)>,
    /// Whose questions wait for an answer, by ticket.
    asked: BTreeMap<u64, (u8, u64, Option<Signing>)>,
    ticket: u64,
}

pub(crate) struct World {
    pub(crate) draws: Draws,
    pub(crate) now: u64,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    holders: BTreeMap<u8, Holder>,
    pub(crate) placed: Placed,
    dead: BTreeSet<u8>,
    /// Holders that have lost their shard, and live.
    bare: BTreeSet<u8>,
    hold_ms: u64,
    /// When each proposer is to be ticked.
    due: BTreeMap<u8, u64>,
    lies: Lies,
    faults: Faults,
    next_free: u8,
    pub(crate) book: Book,
    pub(crate) committed: Vec<PlacementRecord>,
    pub(crate) messages: u64,
}

impl World {
    /// Holders 1..=n, of whom some are dead for ever and some lie.
    pub(crate) fn new(
        seed: u64,
        (k, m): (u8, u8),
        dead: &[u8],
        liars: &[u8],
        faults: Faults,
    ) -> Self {
        let placed = Placed::new(k, m);
        let mut world = Self {
            draws: Draws::new(seed),
            now: 0,
            events: BTreeMap::new(),
            sequence: 0,
            holders: BTreeMap::new(),
            dead: dead.iter().copied().collect(),
            bare: BTreeSet::new(),
            hold_ms: if seed.is_multiple_of(4) { 300 } else { 0 },
            due: BTreeMap::new(),
            lies: Lies::new(liars),
            faults,
            next_free: k + m,
            book: Book::default(),
            committed: Vec::new(),
            messages: 0,
            placed,
        };
        for n in 1..=k + m {
            let record = Some(world.placed.first.clone());
            let holder = world.holder(n, 0, BTreeMap::new(), record);
            world.holders.insert(n, holder);
            let after = world.draws.below(300);
            world.later(after, Event::Look { at: n });
        }
        for _ in 0..faults.crashes {
            let one = u8::try_from(1 + world.draws.below(u64::from(k + m))).unwrap();
            let at = (world.draws.below(3) > 0).then_some(one);
            let when = world.draws.below(faults.until_ms);
            world.later(when, Event::Crash { at });
        }
        world.later(1, Event::Lose);
        if !liars.is_empty() {
            world.later(50, Event::Scheme);
        }
        world
    }

    fn holder(
        &self,
        n: u8,
        life: u64,
        rows: BTreeMap<Vec<u8>, Vec<u8>>,
        record: Option<PlacementRecord>,
    ) -> Holder {
        let hold_ms = self.hold_ms;
        let config = VoterConfig { hold_ms, hold_total_ms: 1500, ..VoterConfig::default() };
        let voter = Voter::new(node(n), NETWORK, config, rows.clone()).unwrap();
        let asked = BTreeMap::new();
        Holder { voter, life, rows, record, proposer: None, asked, ticket: life << 32 }
    }

    fn later(&mut self, after_ms: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + after_ms, self.sequence), event);
    }

    fn is_faulty(&self) -> bool {
        self.now < self.faults.until_ms
    }

    /// Puts a message on its way.
    fn carry(&mut self, make: impl Fn() -> Event) {
        self.messages += 1;
        let (lost, twice) = (self.faults.lost_permille, self.faults.twice_permille);
        let dice = self.draws.below(1000);
        if self.is_faulty() && dice < lost {
            return;
        }
        let copies = if self.is_faulty() && dice < lost + twice { 2 } else { 1 };
        for _ in 0..copies {
            let is_slow = self.is_faulty() && self.draws.below(8) == 0;
            let delay = 1 + self.draws.below(if is_slow { 400 } else { 20 });
            self.later(delay, make());
        }
    }

    /// Runs until nothing happens or the time is over.
    pub(crate) fn run(&mut self, until_ms: u64) {
        while let Some(entry) = self.events.first_entry() {
            let (at, _) = *entry.key();
            if at > until_ms {
                break;
            }
            let event = entry.remove();
            self.now = self.now.max(at);
            self.happen(event);
        }
        self.now = until_ms;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ask { from, to, ask, proposal } => self.asked(from, to, *ask, proposal),
            Event::Answer { from, to, answer, proposal } => {
                if self.lies.is_liar(to) {
                    return self.lies.gather(from, proposal, *answer);
                }
                let input = ProposerInput::Answer { node: id(from), answer };
                self.proposer(to, proposal, input);
            }
            Event::Durable { at, life, ticket, key, row, adopt } => {
                self.durable(at, life, ticket, (key, row, adopt));
            }
            Event::Record { to, record } => self.told(to, &record),
            Event::Look { at } => self.look(at),
            Event::Tick { at } => {
                // Only the last one that was set counts, or they would ever grow in number.
                if self.due.get(&at) != Some(&self.now) {
                    return;
                }
                self.due.remove(&at);
                let proposal = self.holders.get(&at).and_then(|h| Some(h.proposer.as_ref()?.0));
                if let Some(proposal) = proposal {
                    self.proposer(at, proposal, ProposerInput::Tick);
                }
            }
            Event::Crash { at: Some(at) } => self.crash(at),
            Event::Crash { at: None } => {
                let all: Vec<u8> = self.holders.keys().copied().collect();
                all.into_iter().for_each(|at| self.crash(at));
            }
            Event::Scheme => self.scheme(),
            Event::Lose => self.lose(),
        }
    }

    fn facts(&self) -> Known {
        let lost = self.dead.union(&self.bare).copied();
        Known::lost(lost).unreachable(self.dead.iter().copied())
    }

    fn asked(&mut self, from: u8, to: u8, ask: Ask, proposal: u64) {
        if self.dead.contains(&to) {
            return;
        }
        if self.lies.is_liar(to) {
            return self.lie(from, to, ask, proposal);
        }
        let signing = match &ask {
            Ask::Signature { at, certificate, .. } => {
                Some((at.previous, certificate.ballot, certificate.placement))
            }
            _ => None,
        };
        let (now, facts) = (Millis(self.now), self.facts());
        let Some(holder) = self.holders.get_mut(&to) else { return };
        holder.ticket += 1;
        let ticket = holder.ticket;
        holder.asked.insert(ticket, (from, proposal, signing));
        let known = holder.record.clone();
        holder.voter.ask(now, Asked { ticket, from: id(from), ask }, known.as_ref(), &facts);
        self.drain(to);
    }

    fn drain(&mut self, at: u8) {
        loop {
            let Some(holder) = self.holders.get_mut(&at) else { return };
            let life = holder.life;
            match holder.voter.poll() {
                None => return,
                Some(VoterOutput::Persist { ticket, key, row, adopt }) => {
                    if self.faults.answers_early {
                        holder.voter.persisted(ticket);
                    }
                    let after = 1 + self.draws.below(15);
                    self.later(after, Event::Durable { at, life, ticket, key, row, adopt });
                }
                Some(VoterOutput::Forget { key }) => drop(holder.rows.remove(&key[..])),
                Some(VoterOutput::Answer { ticket, answer }) => {
                    let Some((to, proposal, signing)) = holder.asked.remove(&ticket) else {
                        continue;
                    };
                    if let (Answer::Signature(_), Some(signing)) = (&*answer, signing) {
                        self.book.note(at, signing);
                    }
                    let answer = *answer;
                    self.carry(|| {
                        let answer = Box::new(answer.clone());
                        Event::Answer { from: at, to, answer, proposal }
                    });
                }
            }
        }
    }

    fn durable(
        &mut self,
        at: u8,
        life: u64,
        ticket: u64,
        (key, row, adopt): ([u8; 64], Vec<u8>, Option<Box<PlacementRecord>>),
    ) {
        let Some(holder) = self.holders.get_mut(&at) else { return };
        if holder.life != life {
            return;
        }
        if let Some(record) = adopt {
            holder.record = Some(*record);
        }
        holder.rows.insert(key.to_vec(), row);
        if !self.faults.answers_early {
            holder.voter.persisted(ticket);
        }
        self.drain(at);
    }

    /// A node loses what was not on its disk, and starts anew.
    fn crash(&mut self, at: u8) {
        let Some(old) = self.holders.remove(&at) else { return };
        let holder = self.holder(at, old.life + 1, old.rows, old.record);
        self.holders.insert(at, holder);
        let after = self.draws.below(400);
        self.later(after, Event::Look { at });
    }

    /// Begins a proposal where shards are lost and nothing is being done about them.
    fn look(&mut self, at: u8) {
        let again = 200 + self.draws.below(1000);
        self.later(again, Event::Look { at });
        let seed = self.draws.next_u64();
        let is_idle = |h: &&Holder| h.proposer.is_none();
        let Some(holder) = self.holders.get(&at).filter(is_idle) else { return };
        let Some(record) = holder.record.clone() else { return };
        if self.dead.contains(&at) || self.lies.is_liar(at) {
            return;
        }
        let lost = self.lost(&record);
        if lost.is_empty() || record.body.index_of(&id(at)).is_none() {
            return;
        }
        let config = ProposerConfig {
            round_ms: 200,
            renew_ms: 100,
            linger_ms: 30,
            pause_ms: 200,
            ballots_max: 8,
        };
        let now = Millis(self.now);
        let Ok(proposer) = Proposer::agreed(now, config, id(at), record, lost, seed) else {
            return;
        };
        self.sequence += 1;
        let proposal = self.sequence;
        if let Some(holder) = self.holders.get_mut(&at) {
            holder.proposer = Some((proposal, proposer));
        }
        self.proposed(at);
    }

    fn lost(&self, record: &PlacementRecord) -> Vec<u8> {
        let is_lost = |(_, node): &&(u8, NodeId)| {
            let node = number(node);
            self.dead.contains(&node) || self.bare.contains(&node)
        };
        record.body.holders.iter().filter(is_lost).map(|(index, _)| *index).collect()
    }

    /// A holder loses its shard.
    fn lose(&mut self) {
        let holders: Vec<u8> =
            self.newest().body.holders.iter().map(|(_, holder)| number(holder)).collect();
        let at = usize::try_from(self.draws.below(holders.len() as u64)).unwrap();
        if !self.lies.is_liar(holders[at]) {
            self.bare.insert(holders[at]);
        }
        if self.is_faulty() {
            self.later(self.faults.loss_ms, Event::Lose);
        }
    }

    fn proposer(&mut self, at: u8, proposal: u64, input: ProposerInput) {
        let now = Millis(self.now);
        let Some(holder) = self.holders.get_mut(&at) else { return };
        let Some((of, proposer)) = &mut holder.proposer else { return };
        if *of == proposal {
            proposer.handle(now, input);
            self.proposed(at);
        }
    }

    /// Carries out what a proposer wants.
    fn proposed(&mut self, at: u8) {
        loop {
            let Some(holder) = self.holders.get_mut(&at) else { return };
            let Some((proposal, proposer)) = &mut holder.proposer else { return };
            let proposal = *proposal;
            match proposer.poll() {
                None => break,
                Some(ProposerOutput::Ask { to, ask }) => {
                    let to = number(&to);
                    self.carry(|| Event::Ask { from: at, to, ask: ask.clone(), proposal });
                }
                Some(ProposerOutput::Claimed) => self.repair(at, proposal),
                Some(ProposerOutput::Committed { record, .. }) => {
                    holder.proposer = None;
                    self.commit(*record);
                }
                Some(ProposerOutput::Overtaken { record }) => {
                    holder.proposer = None;
                    self.told(at, &record);
                }
                Some(ProposerOutput::Failed(_)) => holder.proposer = None,
            }
        }
        let Some(holder) = self.holders.get(&at) else { return };
        if let Some(due) = holder.proposer.as_ref().and_then(|(_, p)| p.timeout()) {
            let due = due.0.max(self.now + 1);
            if self.due.insert(at, due) != Some(due) {
                self.later(due - self.now, Event::Tick { at });
            }
        }
    }

    /// Gives the lost shards to nodes of their own: no two proposals say the same.
    fn repair(&mut self, at: u8, proposal: u64) {
        let Some(record) = self.holders.get(&at).and_then(|h| h.record.clone()) else { return };
        let moves: Vec<(u8, u8)> =
            self.lost(&record).into_iter().map(|i| (i, self.free())).collect();
        let receipts = self.placed.moved(&record, &moves);
        self.proposer(at, proposal, ProposerInput::Propose { receipts });
    }

    pub(crate) fn free(&mut self) -> u8 {
        // One without a shard of this segment.
        loop {
            self.next_free = if self.next_free == 250 { 20 } else { self.next_free + 1 };
            if self.newest().body.index_of(&id(self.next_free)).is_none() {
                self.bare.remove(&self.next_free);
                return self.next_free;
            }
        }
    }

    fn commit(&mut self, record: PlacementRecord) {
        record.verify(&NETWORK).unwrap();
        self.committed.push(record.clone());
        let told: BTreeSet<u8> = record.body.holders.iter().map(|(_, n)| number(n)).collect();
        for to in told {
            self.carry(|| Event::Record { to, record: Box::new(record.clone()) });
        }
    }

    fn told(&mut self, to: u8, record: &PlacementRecord) {
        if !self.holders.contains_key(&to) {
            let holder = self.holder(to, 0, BTreeMap::new(), None);
            self.holders.insert(to, holder);
            self.later(50, Event::Look { at: to });
        }
        let Some(holder) = self.holders.get_mut(&to) else { return };
        if holder.record.as_ref().is_none_or(|known| record.wins_over(known)) {
            if record.body.index_of(&id(to)).is_some() {
                holder.record = Some(record.clone());
            }
            holder.voter.follow(record);
            self.drain(to);
        }
    }

    /// Whether the newest version has no dead holder.
    pub(crate) fn is_whole(&self) -> bool {
        self.lost(self.newest()).is_empty()
    }

    /// A liar says what it is asked to say.
    fn lie(&mut self, from: u8, to: u8, ask: Ask, proposal: u64) {
        let newest = self.newest().clone();
        let Some(answer) = lies::answer((from, to), ask, &newest, &self.facts()) else { return };
        self.carry(|| {
            let answer = Box::new(answer.clone());
            Event::Answer { from: to, to: from, answer, proposal }
        });
    }

    fn newest(&self) -> &PlacementRecord {
        self.committed.iter().max_by_key(|r| r.sequence()).unwrap_or(&self.placed.first)
    }

    /// The liars go on with what they are up to.
    fn scheme(&mut self) {
        if !self.is_faulty() {
            return;
        }
        let again = 20 + self.draws.below(150);
        self.later(again, Event::Scheme);
        let newest = self.newest().clone();
        let lost = self.lost(&newest);
        if lost.is_empty() {
            return;
        }
        let targets = [self.free(), self.free()];
        let facts = self.facts();
        let scene = Scene { placed: &self.placed, newest: &newest, lost: &lost, facts: &facts };
        for (from, to, ask, proposal) in self.lies.scheme(&mut self.draws, &scene, targets) {
            self.carry(|| Event::Ask { from, to, ask: Box::new(ask.clone()), proposal });
        }
    }
}

/// Previous version, ballot, body.
pub(crate) type Signing = (RecordHash, u64, RecordHash);

/// Who signed what.
#[derive(Debug, Default)]
pub(crate) struct Book {
    signed: BTreeMap<RecordHash, BTreeMap<(u64, RecordHash), BTreeSet<u8>>>,
}

impl Book {
    fn note(&mut self, by: u8, (previous, ballot, body): Signing) {
        let of = self.signed.entry(previous).or_default();
        of.entry((ballot, body)).or_default().insert(by);
    }

    /// Versions after which two bodies have `needed` signatures each in some ballot.
    pub(crate) fn forks(&self, needed: usize) -> usize {
        let bodies = |of: &BTreeMap<(u64, RecordHash), BTreeSet<u8>>| {
            let enough = of.iter().filter(|(_, signers)| signers.len() >= needed);
            enough.map(|((_, body), _)| *body).collect::<BTreeSet<_>>().len()
        };
        self.signed.values().filter(|of| bodies(of) > 1).count()
    }

    /// Versions after which more than one body was signed by anybody.
    pub(crate) fn contested(&self) -> usize {
        let bodies = |of: &BTreeMap<(u64, RecordHash), BTreeSet<u8>>| {
            of.keys().map(|(_, body)| *body).collect::<BTreeSet<_>>().len()
        };
        self.signed.values().filter(|of| bodies(of) > 1).count()
    }
}

/// A promise that nothing was signed, true or not.
pub(crate) fn promise(by: u8, previous: RecordHash, ballot: u64) -> Signed<Promise> {
    let body = Promise { v: 1, network: NETWORK, previous, ballot, acceptor: id(by), signed: None };
    Signed::new(&node(by), body)
}
