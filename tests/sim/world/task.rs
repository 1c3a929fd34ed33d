//! A repair or a hand-over under way on one node: claim, read, place, put, agree,
//! tell. Stands for the node's flow; what it decides is left to placement and to
//! the agreement.

mod proposing;

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use echonet_archive::keeper::{Outcome, Task as Wanted};
use echonet_protocol::{
    agreement::{self, Proposer},
    identity::{NodeId, Signed},
    lease::Receipt,
    machine::{Draws, Machine, Millis},
    placement::{Candidate, PlacementRequest, place},
};

use super::{
    agreement::Answer,
    defect::Defect,
    message::{Bytes, Message},
    node::{Out, SimNode, way_ms},
    setup::Record,
};

/// An answer that takes longer is not waited for.
const ANSWER_MS: u64 = 3_000;
/// How often a task looks at what is missing.
const LOOK_MS: u64 = 500;
/// A task that takes longer is given up.
const TASK_MS_MAX: u64 = 60_000;

/// What moves a task on.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Shard { from: usize, index: u8, bytes: Bytes },
    Receipt { from: usize, index: u8, is_kept: bool, receipt: Option<Rc<Signed<Receipt>>> },
    Voted { from: usize, answer: Rc<agreement::Answer> },
    Tick,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Claim,
    Read,
    Put,
    Agree,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Task {
    nonce: u64,
    record: Rc<Record>,
    wanted: Wanted,
    phase: Phase,
    until: Millis,
    wake: Millis,
    /// Shards at hand.
    got: BTreeSet<u8>,
    /// When each was asked for.
    asked: BTreeMap<u8, Millis>,
    /// Not asked again: absent, wrong, or silent for too long.
    useless: BTreeSet<u8>,
    /// Who is to keep which shard, and since when that is awaited.
    targets: BTreeMap<u8, (usize, Millis)>,
    receipts: BTreeMap<u8, Receipted>,
    refused: BTreeSet<usize>,
    /// No further node was found for these.
    unplaced: BTreeSet<u8>,
    bytes: u64,
    draws: Draws,
    /// Where agreements are real.
    proposer: Option<Box<Proposer>>,
}

/// Who keeps a shard, and its receipt where agreements are real.
type Receipted = (usize, Option<Rc<Signed<Receipt>>>);

impl Task {
    pub(super) fn new(
        nonce: u64,
        record: Rc<Record>,
        wanted: Wanted,
        now: Millis,
        seed: u64,
    ) -> Self {
        Self {
            nonce,
            record,
            wanted,
            phase: Phase::Claim,
            until: now.after(TASK_MS_MAX),
            wake: now,
            got: BTreeSet::new(),
            asked: BTreeMap::new(),
            useless: BTreeSet::new(),
            targets: BTreeMap::new(),
            receipts: BTreeMap::new(),
            refused: BTreeSet::new(),
            unplaced: BTreeSet::new(),
            bytes: 0,
            draws: Draws::new(seed),
            proposer: None,
        }
    }

    pub(super) fn placement(&self) -> usize {
        self.record.placement
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn replaced(&self) -> usize {
        self.receipts.len()
    }

    pub(super) const fn wake(&self) -> Millis {
        self.wake
    }

    /// The indices that get new holders.
    fn lost(&self) -> Vec<u8> {
        match &self.wanted {
            Wanted::Repair { lost, .. } => lost.clone(),
            Wanted::HandOver { index, .. } => vec![*index],
        }
    }

    pub(super) fn step(
        &mut self,
        node: &mut SimNode,
        step: Step,
        io: &mut Out<'_>,
    ) -> Option<Outcome> {
        if node.now >= self.until {
            return Some(self.give_up(node, Outcome::Failed));
        }
        match step {
            Step::Shard { from, index, bytes } => self.shard(node, from, index, bytes),
            Step::Receipt { from, index, is_kept, receipt } => {
                self.receipt(from, index, is_kept, receipt);
            }
            Step::Voted { from, answer } => self.voted(node, from, &answer),
            Step::Tick => self.tick_proposer(node),
        }
        let outcome = self.go_on(node, io);
        let proposer = self.proposer.as_ref().and_then(|proposer| proposer.timeout());
        let look = node.now.after(LOOK_MS);
        self.wake = proposer.map_or(look, |at| at.min(look)).max(node.now.after(1));
        outcome
    }

    fn go_on(&mut self, node: &mut SimNode, io: &mut Out<'_>) -> Option<Outcome> {
        if self.phase == Phase::Claim && self.proposer.is_none() {
            let outcome = match node.setup().has_voters {
                true => self.begin_proposer(node),
                false => self.claim(node, io),
            };
            if outcome.is_some() {
                return outcome;
            }
        }
        if let Some(outcome) = self.drive(node, io) {
            return Some(outcome);
        }
        if self.phase == Phase::Read
            && let Some(outcome) = self.read(node, io)
        {
            return Some(outcome);
        }
        if self.phase == Phase::Put
            && let Some(outcome) = self.put(node, io)
        {
            return Some(outcome);
        }
        self.drive(node, io)
    }

    fn give_up(&self, node: &SimNode, outcome: Outcome) -> Outcome {
        node.common.oracle.borrow_mut().release(self.record.placement, node.own);
        outcome
    }

    /// Holders of the version that could be asked, and how many are needed.
    fn quorum(&self, node: &SimNode, io: &Out<'_>) -> (usize, usize) {
        let scheme = node.setup().segment_of(self.record.placement).scheme;
        let live = self.record.holders.iter().filter(|(_, h)| *h == node.own || io.answers(*h));
        let majority = scheme.n() / 2 + 1;
        let k = usize::from(scheme.k);
        let live = live.count();
        (live, if live < majority { k } else { k.max(majority) })
    }

    fn claim(&mut self, node: &mut SimNode, io: &mut Out<'_>) -> Option<Outcome> {
        let (live, quorum) = self.quorum(node, io);
        let now = io.world_now();
        let mut oracle = node.common.oracle.borrow_mut();
        let answer = match node.common.has(Defect::AgreesTwice) {
            true => Answer::Granted,
            false => oracle.claim(now, &self.record, node.own, live, quorum),
        };
        drop(oracle);
        match answer {
            Answer::Granted => {
                self.phase = Phase::Read;
                None
            }
            Answer::Newer(record) => {
                node.learn(&record, io);
                Some(Outcome::Yielded)
            }
            Answer::Busy => Some(Outcome::Yielded),
            Answer::Few => Some(Outcome::Failed),
        }
    }

    fn shard(&mut self, node: &mut SimNode, from: usize, index: u8, bytes: Bytes) {
        let is_holder = self.record.holders.contains(&(index, from));
        if self.phase != Phase::Read || !is_holder || self.got.contains(&index) {
            return;
        }
        match bytes {
            Bytes::Right => {
                self.got.insert(index);
                let setup = node.setup();
                self.bytes += u64::from(setup.segment_of(self.record.placement).shard_bytes);
            }
            Bytes::Wrong | Bytes::Absent => {
                self.useless.insert(index);
                node.found_lost(self.record.placement, index, from);
            }
        }
    }

    /// Asks for as many shards as are missing; what does not answer is left aside.
    fn read(&mut self, node: &mut SimNode, io: &mut Out<'_>) -> Option<Outcome> {
        let setup = node.setup();
        let placement = &setup.placements[self.record.placement];
        let segment = &setup.segments[placement.segment];
        let needed = match self.wanted {
            Wanted::Repair { .. } => usize::from(segment.scheme.k),
            Wanted::HandOver { .. } => 1,
        };
        let (now, late) = (node.now, node.now.0.saturating_sub(ANSWER_MS));
        let silent: Vec<u8> =
            self.asked.iter().filter(|(_, at)| at.0 < late).map(|(i, _)| *i).collect();
        for index in silent {
            self.asked.remove(&index);
            if !self.got.contains(&index) {
                self.useless.insert(index);
            }
        }
        if let Wanted::HandOver { index, .. } = self.wanted {
            let own = node.disk.shards.get(&(placement.segment, index));
            if own.is_some_and(|shard| shard.is_right) {
                self.got.insert(index);
            } else {
                return Some(self.give_up(node, Outcome::Failed));
            }
        }
        if self.got.len() >= needed {
            self.phase = Phase::Put;
            return None;
        }
        let waiting = self.asked.keys().filter(|i| !self.got.contains(i)).count();
        let mut free: Vec<(u8, usize)> = self
            .record
            .holders
            .iter()
            .filter(|(i, _)| !self.asked.contains_key(i) && !self.useless.contains(i))
            .copied()
            .collect();
        if free.is_empty() && waiting == 0 {
            return Some(self.give_up(node, Outcome::Failed));
        }
        free.sort_by_key(|(_, holder)| !node.may_reach(*holder));
        for (index, holder) in
            free.into_iter().take(needed.saturating_sub(self.got.len() + waiting))
        {
            self.asked.insert(index, now);
            let (nonce, segment) = (self.nonce, placement.segment);
            io.send(holder, Message::Read { nonce, segment, index }, 0);
        }
        None
    }

    fn receipt(
        &mut self,
        from: usize,
        index: u8,
        is_kept: bool,
        receipt: Option<Rc<Signed<Receipt>>>,
    ) {
        if self.targets.get(&index).is_none_or(|(target, _)| *target != from) {
            return;
        }
        self.targets.remove(&index);
        if is_kept {
            self.receipts.insert(index, (from, receipt));
        } else {
            self.refused.insert(from);
        }
    }

    /// Has the shards kept, by others where the first do not.
    fn put(&mut self, node: &mut SimNode, io: &mut Out<'_>) -> Option<Outcome> {
        let late = node.now.0.saturating_sub(2 * ANSWER_MS);
        let silent: Vec<u8> =
            self.targets.iter().filter(|(_, (_, at))| at.0 < late).map(|(i, _)| *i).collect();
        for index in silent {
            if let Some((holder, _)) = self.targets.remove(&index) {
                self.refused.insert(holder);
            }
        }
        let is_open = |index: &u8| {
            !self.receipts.contains_key(index)
                && !self.targets.contains_key(index)
                && !self.unplaced.contains(index)
        };
        let open: Vec<u8> = self.lost().into_iter().filter(|i| is_open(i)).collect();
        if !open.is_empty() {
            self.choose(node, &open, io);
        }
        if !self.targets.is_empty() {
            return None;
        }
        if self.receipts.is_empty() {
            return Some(self.give_up(node, Outcome::Failed));
        }
        if node.setup().has_voters {
            self.propose(node);
            return None;
        }
        self.agree(node, io)
    }

    /// Whether a node holds one of the indices that get new holders: it is not chosen again.
    fn is_moving(&self, number: usize) -> bool {
        self.record.index_of(number).is_some_and(|index| self.lost().contains(&index))
    }

    /// Those that keep their shard in the next version.
    fn staying(&self) -> impl Iterator<Item = &(u8, usize)> {
        let lost = self.lost();
        self.record.holders.iter().filter(move |(index, _)| !lost.contains(index))
    }

    fn choose(&mut self, node: &SimNode, open: &[u8], io: &mut Out<'_>) {
        let setup = node.setup();
        let segment = setup.segment_of(self.record.placement);
        let taken = self.receipts.iter().map(|(i, (n, _))| (*i, *n));
        let taken = taken.chain(self.targets.iter().map(|(i, (n, _))| (*i, *n)));
        let already: BTreeMap<u8, NodeId> = self
            .staying()
            .copied()
            .chain(taken)
            .map(|(index, number)| (index, setup.ids[number]))
            .collect();
        let members = node.common.members.borrow();
        let may = |number: &usize| {
            members[*number]
                && !self.refused.contains(number)
                && !self.is_moving(*number)
                && node.may_reach(*number)
                && *number != node.own
        };
        let known: Vec<Candidate> =
            (0..members.len()).filter(may).map(|n| setup.candidates[n].clone()).collect();
        let request = PlacementRequest {
            network: setup.network,
            segment: segment.id,
            scheme: segment.scheme,
            development: true,
            already,
            prefer: BTreeMap::new(),
            exclude: BTreeSet::new(),
        };
        let plan = place(&request, &known);
        let extra_ms = way_ms(segment.shard_bytes);
        for index in open {
            let to = match &self.wanted {
                Wanted::HandOver { to: Some(to), .. }
                    if !self.refused.contains(&setup.numbers[to]) =>
                {
                    Some(setup.numbers[to])
                }
                _ => plan.holders().get(index).map(|id| setup.numbers[id]),
            };
            let Some(to) = to else {
                self.unplaced.insert(*index);
                continue;
            };
            self.targets.insert(*index, (to, node.now));
            self.bytes += u64::from(segment.shard_bytes);
            let (nonce, record) = (self.nonce, Rc::clone(&self.record));
            let put = Message::Put { nonce, record, index: *index, is_right: true };
            io.send(to, put, extra_ms + self.draws.below(5));
        }
    }

    /// The next version: who stays, who is new, and who is lost but replaced by nobody.
    fn agree(&mut self, node: &mut SimNode, io: &mut Out<'_>) -> Option<Outcome> {
        let new: BTreeSet<usize> = self.receipts.values().map(|(n, _)| *n).collect();
        let mut holders: BTreeMap<u8, usize> = self
            .record
            .holders
            .iter()
            .filter(|(_, holder)| !new.contains(holder))
            .copied()
            .collect();
        holders.extend(self.receipts.iter().map(|(i, (n, _))| (*i, *n)));
        if node.common.has(Defect::PlacesTwice)
            && let Some(twice) = new.first()
        {
            holders.values_mut().take(2).for_each(|holder| *holder = *twice);
        }
        if node.common.has(Defect::MixesUp) {
            let mut nodes: Vec<usize> = holders.values().copied().collect();
            nodes.rotate_left(1);
            holders = holders.keys().copied().zip(nodes).collect();
        }
        let (placement, version) = (self.record.placement, self.record.version + 1);
        let holders = holders.into_iter().collect();
        let next = Record { placement, version, sequence: version, holders, proof: None };
        let next = Rc::new(next);
        let (live, quorum) = self.quorum(node, io);
        let common = Rc::clone(&node.common);
        let mut oracle = common.oracle.borrow_mut();
        let answer = match common.has(Defect::AgreesTwice) {
            true => Answer::Granted,
            false => oracle.commit(&self.record, &next, live, quorum),
        };
        drop(oracle);
        match answer {
            Answer::Granted => {}
            Answer::Newer(record) => {
                node.learn(&record, io);
                return Some(self.give_up(node, Outcome::Yielded));
            }
            Answer::Busy => return Some(self.give_up(node, Outcome::Yielded)),
            Answer::Few => return Some(self.give_up(node, Outcome::Failed)),
        }
        self.announce(node, &next, io);
        Some(Outcome::Committed)
    }
}
