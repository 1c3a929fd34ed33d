//! A simulated node: the real keeper with a disk, a failure detector and the tasks
//! that it starts. What the node's flows do with effects is done here with
//! messages; no decision that a machine takes is taken here.

mod hostile;
mod malice;
mod serving;
mod swim;
mod voting;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use echonet_archive::keeper::{
    Keeper, KeeperInput, KeeperOutput, Outcome, Presence, Task as Wanted,
};
use echonet_protocol::{
    identity::NodeId,
    machine::{Draws, Machine, Millis},
    membership::Life,
};

use super::{
    agreement::Oracle,
    defect::Defect,
    detector::Detector,
    disk::{Disk, Write},
    engine::{Input, Io, Node},
    message::{Message, Notice},
    setup::{Record, Setup},
    task::{Step, Task},
};

pub(super) use self::{hostile::Nature, serving::way_ms};
use self::{
    swim::{Around, Swim},
    voting::Voting,
};

pub(super) type Out<'a> = Io<'a, Message, Notice>;

/// How often a node looks after its disk: scrubs, and deletes what it need not keep.
const HOUSEKEEPING_MS: u64 = 15_000;

/// What all nodes of a world know alike.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) setup: Setup,
    pub(super) oracle: RefCell<Oracle>,
    /// Who has joined so far: stands in for the members that a node knows.
    pub(super) members: RefCell<Vec<bool>>,
    /// What all honest nodes do wrong.
    pub(super) defect: Option<Defect>,
}

impl Common {
    pub(super) fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }
}

/// See the module's documentation.
pub(super) struct SimNode {
    pub(super) own: usize,
    pub(super) common: Rc<Common>,
    pub(super) nature: Nature,
    pub(super) disk: Disk,
    pub(super) detector: Detector,
    pub(super) keeper: Keeper,
    pub(super) now: Millis,
    /// The newest record of each placement, written or being written.
    pub(super) known: BTreeMap<usize, Rc<Record>>,
    /// Who said itself that it goes by a record that wins over this node's own.
    pub(super) gone_over: BTreeMap<usize, BTreeSet<usize>>,
    tasks: BTreeMap<u64, Task>,
    nonce: u64,
    draws: Draws,
    /// Said once a write is durable.
    after: BTreeMap<u64, Vec<(usize, Message)>>,
    synced_until: u64,
    house_at: Millis,
    is_draining: bool,
    /// Its part in agreements, where they are real.
    voting: Option<Box<Voting>>,
    /// Its part in the membership, from its start on.
    pub(super) swim: Option<Box<Swim>>,
    /// What it says to itself.
    local: VecDeque<Message>,
}

impl SimNode {
    pub(super) fn new(
        common: Rc<Common>,
        own: usize,
        nature: Nature,
        disk: Disk,
        now: Millis,
        seed: u64,
    ) -> Self {
        let setup = &common.setup;
        let keeper = Keeper::new(now, setup.ids[own], setup.timing.clone(), setup.keeper);
        let mut draws = Draws::new(seed);
        let detector = match setup.has_probers {
            true => Detector::prober(now, &setup.timing, draws.next_u64()),
            false => Detector::model(&setup.timing, draws.next_u64()),
        };
        let voting = setup.has_voters.then(|| Box::new(Voting::new(setup, own, &disk.ballots)));
        let nonce = draws.next_u64() >> 8;
        let house_at = now.after(draws.below(HOUSEKEEPING_MS));
        let known = disk.records.clone();
        Self {
            own,
            common,
            nature,
            disk,
            detector,
            keeper,
            now,
            known,
            gone_over: BTreeMap::new(),
            tasks: BTreeMap::new(),
            nonce,
            draws,
            after: BTreeMap::new(),
            synced_until: 0,
            house_at,
            is_draining: false,
            voting,
            swim: None,
            local: VecDeque::new(),
        }
    }

    /// Has it hand over all that it holds.
    pub(super) fn drain(&mut self) {
        self.is_draining = true;
        self.keeper.handle(self.now, KeeperInput::Drain);
    }

    pub(super) fn setup(&self) -> &Setup {
        &self.common.setup
    }

    /// Members that are down in this node's view.
    pub(super) fn down(&self) -> Vec<NodeId> {
        let views = self.swim.iter().flat_map(|swim| swim.views());
        views.filter(|(_, view)| view.life == Life::Down).map(|(node, _)| node).collect()
    }

    fn id(&self, number: usize) -> NodeId {
        self.common.setup.ids[number]
    }

    fn began(&mut self, io: &mut Out<'_>) {
        let records: Vec<Rc<Record>> = self.known.values().cloned().collect();
        for record in records {
            self.hold(&record);
            self.check_own(&record);
        }
        if std::mem::take(&mut self.disk.has_forgotten_votes) {
            self.abstain(io);
        }
        if self.setup().has_probers {
            let (own, nature, seed) = (self.own, self.nature, self.draws.next_u64());
            let Self { common, detector, now, .. } = self;
            let around = Around { common, detector, now: *now, io };
            self.swim = Some(Box::new(Swim::new(&around, own, nature, seed)));
        }
    }

    /// Does something in the membership.
    fn swim(&mut self, io: &mut Out<'_>, act: impl FnOnce(&mut Swim, &mut Around<'_, '_>)) {
        let Self { swim, common, detector, now, .. } = self;
        if let Some(swim) = swim {
            act(swim, &mut Around { common, detector, now: *now, io });
        }
    }

    /// The keeper hears of a record.
    fn hold(&mut self, record: &Record) {
        let key = self.setup().placements[record.placement].key;
        if !record.names(self.own) {
            self.keeper.handle(self.now, KeeperInput::Dropped(key));
            return;
        }
        let placed = self.setup().placed(record);
        self.keeper.handle(self.now, KeeperInput::Held(placed));
        for (_, node) in &record.holders {
            let (node, datacenter) = (self.id(*node), self.setup().datacenters[*node]);
            self.keeper.handle(self.now, KeeperInput::Site { node, datacenter });
        }
    }

    /// Tells the keeper, and nobody else, when this node lacks a shard that is its to keep.
    fn check_own(&mut self, record: &Record) {
        let segment = self.setup().placements[record.placement].segment;
        if let Some(index) = record.index_of(self.own) {
            let has = self.has(segment, index) || self.disk.is_pending((segment, index));
            let (node, segment) = (self.id(self.own), self.setup().segments[segment].id);
            self.keeper.handle(self.now, KeeperInput::Says { node, segment, index, has });
        }
    }

    fn has(&self, segment: usize, index: u8) -> bool {
        self.disk.shards.contains_key(&(segment, index))
    }

    /// Takes a record for the newest, if it is newer than what is known.
    pub(super) fn learn(&mut self, record: &Rc<Record>, io: &mut Out<'_>) {
        let known = self.known.get(&record.placement);
        if known.is_some_and(|known| !record.wins_over(known)) {
            return;
        }
        let is_concerned = record.names(self.own) || known.is_some() || self.pledges(record);
        if !is_concerned || !self.may_go_by(record) {
            return;
        }
        self.gone_over.remove(&record.placement);
        self.known.insert(record.placement, Rc::clone(record));
        self.disk.write(Write::Record(Rc::clone(record)));
        io.note(Notice::Learned(Rc::clone(record)));
        self.hold(record);
        self.check_own(record);
    }

    /// Another told which record it goes by.
    fn goes_by(&mut self, from: usize, record: &Record) {
        let known = self.known.get(&record.placement);
        if known.is_some_and(|known| record.wins_over(known)) {
            self.gone_over.entry(record.placement).or_default().insert(from);
        }
    }

    fn pledges(&self, record: &Record) -> bool {
        self.disk.pledges.keys().any(|(placement, _)| *placement == record.placement)
    }

    /// Says something once all that was written so far is durable.
    pub(super) fn say_when_durable(&mut self, to: usize, message: Message) {
        let write = self.disk.newest().unwrap_or(self.synced_until);
        self.after.entry(write).or_default().push((to, message));
    }

    fn durable(&mut self, write: u64, io: &mut Out<'_>) {
        for done in self.disk.synced(write) {
            match done {
                Write::Shard { segment, index, shard, .. } => {
                    io.note(Notice::Stored { segment, index, is_right: shard.is_right });
                }
                Write::Remove { segment, index } => io.note(Notice::Removed { segment, index }),
                Write::Record(record) => self.voter_follows(&record, io),
                _ => {}
            }
        }
        self.synced_until = self.synced_until.max(write);
        self.votes_durable(write, io);
        self.release(io);
    }

    fn release(&mut self, io: &mut Out<'_>) {
        while let Some(entry) = self.after.first_entry()
            && *entry.key() <= self.synced_until
        {
            for (to, message) in entry.remove() {
                io.send(to, message, 0);
            }
        }
    }

    fn message(&mut self, from: usize, message: Message, io: &mut Out<'_>) {
        match message {
            Message::Ping { nonce } => io.send(from, Message::Pong { nonce }, 0),
            Message::Pong { nonce } => {
                let common = Rc::clone(&self.common);
                self.detector.answered(&common.setup, from, nonce, self.now);
            }
            Message::Vote { nonce, ask } => {
                if !self.nature.stalls {
                    self.vote(from, nonce, ask, io);
                }
            }
            Message::Voted { nonce, answer } => {
                self.step(nonce, Step::Voted { from, answer }, io);
            }
            Message::Swim { id, ask } => self.swim(io, |swim, at| swim.asked(at, from, id, &ask)),
            Message::Swum { id, answer } => {
                self.swim(io, |swim, at| swim.answered(at, from, id, &answer));
            }
            Message::Introduce(nodes) => self.swim(io, |swim, at| swim.introduced(at, &nodes)),
            Message::Ask { shards, versions } => self.asked(from, &shards, &versions, io),
            Message::Has(shards) => {
                for (segment, index, has) in shards.iter() {
                    self.heard_word(from, *segment, *index, *has);
                    let (node, segment) = (self.id(from), self.setup().segments[*segment].id);
                    let says = KeeperInput::Says { node, segment, index: *index, has: *has };
                    self.keeper.handle(self.now, says);
                }
            }
            Message::Tell { placement } => {
                if let Some(record) = self.known.get(&placement) {
                    io.send(from, Message::Record(Rc::clone(record)), 0);
                }
            }
            Message::Record(record) => {
                self.goes_by(from, &record);
                self.learn(&record, io);
            }
            Message::Read { nonce, segment, index } => self.read(from, nonce, segment, index, io),
            Message::Put { nonce, record, index, is_right } => {
                self.put(from, nonce, &record, index, is_right, io);
            }
            Message::Shard { nonce, index, bytes } => {
                self.step(nonce, Step::Shard { from, index, bytes }, io);
            }
            Message::Receipt { nonce, index, is_kept, receipt } => {
                self.step(nonce, Step::Receipt { from, index, is_kept, receipt }, io);
            }
        }
    }

    /// A task goes on.
    fn step(&mut self, nonce: u64, step: Step, io: &mut Out<'_>) {
        let Some(mut task) = self.tasks.remove(&nonce) else { return };
        match task.step(self, step, io) {
            None => drop(self.tasks.insert(nonce, task)),
            Some(outcome) => self.ended(&task, outcome, io),
        }
    }

    fn ended(&mut self, task: &Task, outcome: Outcome, io: &mut Out<'_>) {
        let how = match outcome {
            Outcome::Committed => "committed",
            Outcome::Yielded => "yielded",
            Outcome::Failed => "failed",
            Outcome::Inconsistent => "inconsistent",
        };
        let (placement, bytes) = (task.placement(), task.bytes());
        io.note(Notice::Ended { placement, how, bytes, replaced: task.replaced() });
        let key = self.setup().placements[placement].key;
        self.keeper.handle(self.now, KeeperInput::Done { key, outcome, bytes });
    }

    /// What the keeper wants done.
    fn pump(&mut self, io: &mut Out<'_>) {
        while let Some(output) = self.keeper.poll() {
            match output {
                KeeperOutput::Watch(node) => {
                    self.detector.watch(&self.common.setup, node, self.now);
                }
                KeeperOutput::Unwatch(node) => {
                    self.detector.unwatch(&self.common.setup, node, self.now);
                }
                KeeperOutput::AskHas { node, shards } => self.ask(node, &shards, io),
                KeeperOutput::Start { key, version, task } => {
                    let placement = self.common.setup.by_key[&key];
                    let may = !self.common.has(Defect::NeverRepairs);
                    let known = self.known.get(&placement);
                    let known = known.filter(|record| record.version == version && may);
                    match known.map(Rc::clone) {
                        Some(record) => self.begin(record, task, io),
                        None => self.keeper.handle(
                            self.now,
                            KeeperInput::Done { key, outcome: Outcome::Yielded, bytes: 0 },
                        ),
                    }
                }
            }
        }
    }

    fn begin(&mut self, record: Rc<Record>, wanted: Wanted, io: &mut Out<'_>) {
        let what = match &wanted {
            Wanted::Repair { is_urgent: true, .. } => "urgent repair",
            Wanted::Repair { .. } => "repair",
            Wanted::HandOver { .. } => "hand-over",
        };
        let gone = self.gone(&record, &wanted);
        io.note(Notice::Began { placement: record.placement, what, gone });
        self.nonce += 1;
        let nonce = self.nonce;
        let task = Task::new(nonce, record, wanted, self.now, self.draws.next_u64());
        self.tasks.insert(nonce, task);
        self.step(nonce, Step::Tick, io);
    }

    /// Holders to be replaced that this node takes for gone.
    fn gone(&self, record: &Record, wanted: &Wanted) -> Vec<usize> {
        let Wanted::Repair { lost, .. } = wanted else { return Vec::new() };
        let holders = record.holders.iter().filter(|(index, _)| lost.contains(index));
        holders.map(|(_, holder)| *holder).filter(|holder| !self.may_reach(*holder)).collect()
    }

    fn ask(
        &mut self,
        node: NodeId,
        shards: &[(echonet_protocol::segment::SegmentId, u8)],
        io: &mut Out<'_>,
    ) {
        let setup = &self.common.setup;
        let shards: Vec<(usize, u8)> =
            shards.iter().map(|(id, index)| (setup.by_segment[id], *index)).collect();
        let placements = shards.iter().flat_map(|(segment, _)| &setup.of_segment[*segment]);
        let versions = placements.filter_map(|p| self.known.get(p).map(Rc::clone)).collect();
        let to = setup.numbers[&node];
        io.send(to, Message::Ask { shards: Rc::new(shards), versions: Rc::new(versions) }, 0);
    }

    fn detect(&mut self, io: &mut Out<'_>) {
        let common = Rc::clone(&self.common);
        let seen = self.detector.look(&common.setup, self.now, io);
        for (number, presence) in seen.changed {
            let node = self.id(number);
            self.keeper.handle(self.now, KeeperInput::Peer { node, presence });
        }
        if let Some(is_isolated) = seen.is_isolated {
            self.keeper.handle(self.now, KeeperInput::Isolated(is_isolated));
        }
    }

    /// This node read a shard of another in vain: as good as that one's own word.
    pub(super) fn found_lost(&mut self, placement: usize, index: u8, holder: usize) {
        let segment = self.setup().segment_of(placement).id;
        let says = KeeperInput::Says { node: self.id(holder), segment, index, has: false };
        self.keeper.handle(self.now, says);
    }

    /// Whether this node's own probes say that another can be reached; unknown ones may be.
    pub(super) fn may_reach(&self, number: usize) -> bool {
        !matches!(self.detector.presence(number), Some(Presence::Unreachable { .. }))
    }
}

impl Node for SimNode {
    type Message = Message;
    type Disk = Disk;
    type Notice = Notice;

    fn handle(&mut self, now: Millis, input: Input<Message>, io: &mut Out<'_>) {
        self.now = self.now.max(now);
        match input {
            Input::Start => self.began(io),
            Input::Message { from, message } => self.message(from, message, io),
            Input::Durable(write) => self.durable(write, io),
            Input::Tick => {}
        }
        if self.swim.as_ref().is_some_and(|swim| swim.wake() <= self.now) {
            self.swim(io, Swim::tick);
        }
        if self.detector.wake().is_some_and(|at| at <= self.now) {
            self.detect(io);
        }
        if self.house_at <= self.now {
            self.house_at = self.now.after(HOUSEKEEPING_MS);
            self.keep_house(io);
        }
        let due: Vec<u64> =
            self.tasks.iter().filter(|(_, t)| t.wake() <= self.now).map(|(n, _)| *n).collect();
        due.into_iter().for_each(|nonce| self.step(nonce, Step::Tick, io));
        self.decide_due(io);
        if self.keeper.timeout().is_some_and(|at| at <= self.now) {
            self.keeper.handle(self.now, KeeperInput::Tick);
        }
        self.pump(io);
        while let Some(message) = self.local.pop_front() {
            self.message(self.own, message, io);
            self.pump(io);
        }
        if self.disk.used() > self.disk.quota_bytes {
            io.note(Notice::OverQuota);
        }
        if let Some(write) = self.disk.newest().filter(|w| *w > self.synced_until) {
            io.sync(write);
        }
        self.release(io);
    }

    fn wake(&self) -> Option<Millis> {
        let tasks = self.tasks.values().map(Task::wake).min();
        let votes = self.voting.as_ref().and_then(|voting| voting.wake());
        let (detector, swim) = (self.detector.wake(), self.swim.as_ref().map(|swim| swim.wake()));
        let all = [self.keeper.timeout(), detector, swim, Some(self.house_at), tasks, votes];
        all.into_iter().flatten().min()
    }

    fn crash(mut self, draws: &mut Draws) -> Disk {
        self.disk.crash(draws);
        self.disk
    }
}
