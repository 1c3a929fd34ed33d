//! A node's vote on placements, by the agreement's own machine: it asks those whose
//! shards are to change hands whether they have them, and answers once what it says
//! is durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use echonet_archive::{
    health::{Health, Policy, Shard, View},
    keeper::Presence,
};
use echonet_protocol::{
    agreement::{
        Answer, Ask, Asked, Facts, Voter, VoterConfig, VoterOutput, may_follow, room_elsewhere,
    },
    identity::NodeId,
    machine::Millis,
    placement::{Site, survives_datacenter},
    placement_record::PlacementRecord,
    segment::SegmentId,
    time::Epoch,
};

use super::{Out, SimNode};
use crate::world::{
    defect::Defect,
    disk::Write,
    message::Message,
    setup::{EPOCH, Record, Setup},
};

/// Longer than this a holder whose shard is to change hands is not waited for.
const WORD_MS: u64 = 1_500;
/// A holder agrees a little before it would propose itself: parts of the grace, in thousandths.
const GRACE_PERMILLE: u64 = 750;

/// A question that waits for the word of those whose shards are to change hands.
struct Waiting {
    from: usize,
    nonce: u64,
    ask: Rc<Ask>,
    placement: usize,
    open: BTreeSet<(usize, u8)>,
    said_lost: BTreeSet<(u8, NodeId)>,
    until: Millis,
}

/// A node's part in agreements.
pub(super) struct Voting {
    voter: Voter,
    waiting: Vec<Waiting>,
    /// Who asked, by ticket.
    asked: BTreeMap<u64, (usize, u64)>,
    tickets: u64,
    /// Tickets that a write makes durable.
    persisting: BTreeMap<u64, Vec<u64>>,
}

impl Voting {
    /// With the rows that were durable.
    pub(super) fn new(setup: &Setup, own: usize, rows: &BTreeMap<[u8; 64], Vec<u8>>) -> Self {
        let rows = rows.iter().map(|(key, row)| (key.to_vec(), row.clone()));
        Self {
            voter: voter(setup, own, rows),
            waiting: Vec::new(),
            asked: BTreeMap::new(),
            tickets: 0,
            persisting: BTreeMap::new(),
        }
    }

    /// Knows of nothing that it promised.
    fn forget_promises(&mut self, setup: &Setup, own: usize) {
        if self.persisting.is_empty() {
            self.voter = voter(setup, own, std::iter::empty());
        }
    }

    pub(super) fn wake(&self) -> Option<Millis> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }
}

fn voter(setup: &Setup, own: usize, rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Voter {
    let identity = setup.identities[own].clone();
    let voter = Voter::new(identity, setup.network, VoterConfig::default(), rows);
    voter.expect("rows of this very version")
}

/// What this node observed.
struct Observed<'a> {
    node: &'a SimNode,
    said_lost: &'a BTreeSet<(u8, NodeId)>,
}

impl Observed<'_> {
    fn presence(&self, node: &NodeId) -> Option<Presence> {
        let number = self.node.setup().numbers.get(node)?;
        self.node.detector.presence(*number)
    }
}

impl Facts for Observed<'_> {
    fn epoch(&self) -> Epoch {
        EPOCH
    }

    fn is_reachable(&self, node: &NodeId) -> bool {
        *node == self.node.id(self.node.own) || self.presence(node) == Some(Presence::Reachable)
    }

    fn is_lost(&self, _segment: &SegmentId, index: u8, holder: &NodeId) -> bool {
        let grace_ms = self.node.setup().timing.grace_s * GRACE_PERMILLE;
        let is_gone = matches!(self.presence(holder),
            Some(Presence::Unreachable { since }) if self.node.now.since(since) >= grace_ms);
        is_gone || self.said_lost.contains(&(index, *holder))
    }

    fn has_gone_over(&self, record: &PlacementRecord, holder: &NodeId) -> bool {
        let (segment, owner) = (record.body.segment, record.body.owner);
        let setup = self.node.setup();
        let placement = setup.by_key.get(&echonet_archive::keeper::Key { segment, owner });
        let over = placement.and_then(|placement| self.node.gone_over.get(placement));
        over.zip(setup.numbers.get(holder)).is_some_and(|(over, number)| over.contains(number))
    }

    fn is_urgent(&self, record: &PlacementRecord) -> bool {
        let policy = Policy::of(record.descriptor.scheme, &self.node.setup().timing);
        let shard = |(_, node): &(u8, NodeId)| match self.presence(node) {
            Some(Presence::Unreachable { since }) => Shard::Unreachable { since },
            _ => Shard::Reachable,
        };
        let holders = &record.body.holders;
        let sites: Vec<Site> = holders.iter().filter_map(|(_, node)| self.site(node)).collect();
        let is_safe = survives_datacenter(record.descriptor.scheme, &sites);
        let view = View::of(holders.iter().map(shard), self.node.now, policy.grace_ms, is_safe);
        policy.health(view) >= Health::Urgent
    }

    fn site(&self, node: &NodeId) -> Option<Site> {
        let number = self.node.setup().numbers.get(node)?;
        Some(self.node.setup().candidates[*number].site.clone())
    }

    fn elsewhere(&self, datacenter: &str, most: usize) -> usize {
        let sites = self.node.setup().candidates.iter().map(|candidate| &candidate.site);
        let members = self.node.common.members.borrow();
        let all = sites.zip(members.iter()).enumerate();
        let takes = all.filter(|(number, (_, joined))| **joined && self.node.may_reach(*number));
        room_elsewhere(datacenter, most, takes.map(|(_, (site, _))| site))
    }
}

impl SimNode {
    /// Whether this node may go by a record that takes the place of what it knows.
    pub(super) fn may_go_by(&self, record: &Record) -> bool {
        let none = BTreeSet::new();
        let facts = Observed { node: self, said_lost: &none };
        let own = self.id(self.own);
        record.proof.as_ref().is_none_or(|proof| may_follow(proof, &own, &facts))
    }

    /// A holder that proposes asks.
    pub(in crate::world) fn vote(
        &mut self,
        from: usize,
        nonce: u64,
        ask: Rc<Ask>,
        io: &mut Out<'_>,
    ) {
        let Some(placement) = self.placement_in(&ask) else { return };
        let Some(known) = self.disk.records.get(&placement).map(Rc::clone) else {
            return self.decide(from, nonce, &ask, placement, &BTreeSet::new(), io);
        };
        let segment = self.setup().placements[placement].segment;
        let (mut open, mut said_lost) = (BTreeSet::new(), BTreeSet::new());
        for index in changing(&ask, &known, self.setup()) {
            let holder = known.holders.iter().find(|(i, _)| *i == index).map(|(_, holder)| *holder);
            let Some(holder) = holder.filter(|holder| *holder != from) else { continue };
            if holder == self.own {
                if !self.has(segment, index) {
                    said_lost.insert((index, self.id(holder)));
                }
            } else if self.detector.presence(holder) == Some(Presence::Reachable) {
                open.insert((holder, index));
                let versions = Rc::new(vec![Rc::clone(&known)]);
                let shards = Rc::new(vec![(segment, index)]);
                io.send(holder, Message::Ask { shards, versions }, 0);
            }
        }
        if open.is_empty() {
            return self.decide(from, nonce, &ask, placement, &said_lost, io);
        }
        let until = self.now.after(WORD_MS);
        let waiting = Waiting { from, nonce, ask, placement, open, said_lost, until };
        if let Some(voting) = &mut self.voting {
            voting.waiting.push(waiting);
        }
    }

    fn placement_in(&self, ask: &Ask) -> Option<usize> {
        let (segment, owner) = match ask {
            Ask::Promise { record, .. } | Ask::Weak { record, .. } => {
                PlacementRecord::peek(record)?
            }
            Ask::Backing { at, .. } | Ask::Signature { at, .. } => (at.segment, at.owner),
        };
        let key = echonet_archive::keeper::Key { segment, owner };
        self.setup().by_key.get(&key).copied()
    }

    /// A holder's word about its shards, which some questions wait for.
    pub(super) fn heard_word(&mut self, from: usize, segment: usize, index: u8, has: bool) {
        let id = self.id(from);
        let common = Rc::clone(&self.common);
        for waiting in self.voting.iter_mut().flat_map(|voting| &mut voting.waiting) {
            let is_it = common.setup.placements[waiting.placement].segment == segment;
            if is_it && waiting.open.remove(&(from, index)) && !has {
                waiting.said_lost.insert((index, id));
            }
        }
    }

    /// Decides what waits for nobody's word any more.
    pub(super) fn decide_due(&mut self, io: &mut Out<'_>) {
        let now = self.now;
        let is_due = |waiting: &mut Waiting| waiting.open.is_empty() || waiting.until <= now;
        let Some(voting) = &mut self.voting else { return };
        let due: Vec<Waiting> = voting.waiting.extract_if(.., is_due).collect();
        for Waiting { from, nonce, ask, placement, said_lost, .. } in due {
            self.decide(from, nonce, &ask, placement, &said_lost, io);
        }
    }

    fn decide(
        &mut self,
        from: usize,
        nonce: u64,
        ask: &Rc<Ask>,
        placement: usize,
        said_lost: &BTreeSet<(u8, NodeId)>,
        io: &mut Out<'_>,
    ) {
        let Some(mut voting) = self.voting.take() else { return };
        if self.common.has(Defect::ForgetsPromises) {
            voting.forget_promises(self.setup(), self.own);
        }
        voting.tickets += 1;
        let ticket = voting.tickets;
        voting.asked.insert(ticket, (from, nonce));
        let asked = Asked { ticket, from: self.id(from), ask: Ask::clone(ask) };
        let known = self.disk.records.get(&placement).map(Rc::clone);
        let known = known.as_ref().and_then(|record| record.proof.as_deref());
        let observed = Observed { node: self, said_lost };
        voting.voter.ask(self.now, asked, known, &observed);
        self.voting = Some(voting);
        self.drain_voter(io);
    }

    /// What the voter wants done.
    pub(super) fn drain_voter(&mut self, io: &mut Out<'_>) {
        while let Some(output) = self.voting.as_mut().and_then(|voting| voting.voter.poll()) {
            match output {
                VoterOutput::Persist { ticket, key, row, adopt } => {
                    let adopted = adopt.and_then(|record| self.setup().record_of(*record));
                    if let Some(record) = adopted {
                        self.learn(&Rc::new(record), io);
                    }
                    let write = self.disk.write(Write::Ballot { key, row: Some(row) });
                    if let Some(voting) = &mut self.voting {
                        voting.persisting.entry(write).or_default().push(ticket);
                    }
                }
                VoterOutput::Forget { key } => {
                    self.disk.write(Write::Ballot { key, row: None });
                }
                VoterOutput::Answer { ticket, answer } => {
                    let asked = self.voting.as_mut().and_then(|v| v.asked.remove(&ticket));
                    if let Some((from, nonce)) = asked {
                        self.voted(from, nonce, Rc::new(*answer), io);
                    }
                }
            }
        }
    }

    fn voted(&mut self, from: usize, nonce: u64, answer: Rc<Answer>, io: &mut Out<'_>) {
        let message = Message::Voted { nonce, answer };
        if from == self.own {
            self.local.push_back(message);
        } else {
            io.send(from, message, 0);
        }
    }

    /// Votes up to this write are durable.
    pub(super) fn votes_durable(&mut self, write: u64, io: &mut Out<'_>) {
        let Some(voting) = &mut self.voting else { return };
        while let Some(entry) = voting.persisting.first_entry()
            && *entry.key() <= write
        {
            for ticket in entry.remove() {
                voting.voter.persisted(ticket);
            }
        }
        self.drain_voter(io);
    }

    /// This node goes by a record from now on.
    pub(super) fn voter_follows(&mut self, record: &Record, io: &mut Out<'_>) {
        if let (Some(proof), Some(voting)) = (&record.proof, &mut self.voting) {
            voting.voter.follow(proof);
            self.drain_voter(io);
        }
    }

    /// What it signed may be lost.
    pub(super) fn abstain(&mut self, io: &mut Out<'_>) {
        let records: Vec<Rc<Record>> = self.known.values().cloned().collect();
        for proof in records.iter().filter_map(|record| record.proof.as_ref()) {
            if let Some(voting) = &mut self.voting {
                voting.voter.abstain(proof);
            }
        }
        self.drain_voter(io);
    }
}

/// The indices that a question is about.
fn changing(ask: &Ask, known: &Record, setup: &Setup) -> Vec<u8> {
    match ask {
        Ask::Promise { lost, .. } | Ask::Weak { lost, .. } => lost.clone(),
        Ask::Backing { change, .. } => {
            let stays =
                |(index, node): &&(u8, usize)| change.holders.contains(&(*index, setup.ids[*node]));
            known.holders.iter().filter(|held| !stays(held)).map(|(index, _)| *index).collect()
        }
        Ask::Signature { .. } => Vec::new(),
    }
}
