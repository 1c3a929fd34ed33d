//! The keeper: one machine per holder, over every placement that names it. It
//! watches the other holders, decides when a segment wants a repair and whose
//! turn it is, paces repairs and hand-overs, and says what to do.
//!
//! It believes nothing but this node's own probes and what holders say about
//! their own shards; gossip only ever makes somebody probe. It changes no
//! record: the holders agree on the next version elsewhere, and whoever lost
//! that race is told so by [`Outcome::Yielded`].

mod hand_overs;
mod peers;
mod placement;
mod types;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound::{Excluded, Unbounded},
};

use echonet_protocol::{
    identity::NodeId,
    machine::{Machine, Millis},
    network::Timing,
    segment::SegmentId,
};

use self::{
    hand_overs::HandOvers,
    peers::{PeerId, Peers},
    placement::Placement,
};
use crate::{
    health::{Health, Policy},
    queue::{Offered, Repair, RepairQueue},
};

pub use self::types::{
    Counts, JOINERS_BYTES_PER_S, KeeperConfig, KeeperInput, KeeperOutput, KeeperTiming, Key,
    Outcome, Placed, Presence, Task,
};

/// A shard of the usual length.
const SHARD_BYTES: u64 = 4 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub struct Keeper {
    config: KeeperConfig,
    timing: Timing,
    now: Millis,
    placements: BTreeMap<Key, Placement>,
    peers: Peers,
    repairs: RepairQueue,
    /// Of which owner's placement the repair of a segment is; one at a time.
    repairing: BTreeMap<SegmentId, Key>,
    hand_overs: HandOvers,
    is_isolated: bool,
    is_quiet: bool,
    is_draining: bool,
    scan: Scan,
    ask: Ask,
    /// Peers that came back, or are in doubt, and are asked at once about all they should have.
    returned: BTreeSet<NodeId>,
    whole: u64,
    refused: u64,
    outputs: VecDeque<KeeperOutput>,
}

/// A pass over all placements in pieces, to see what is due.
#[derive(Debug, Default)]
struct Scan {
    after: Option<Key>,
    /// When the next piece is due; none: nothing to look at.
    at: Option<Millis>,
    /// When the next pass is, as far as this one has seen.
    next: Option<Millis>,
    /// Something changed since this pass began.
    is_stale: bool,
    /// Whole ones so far.
    whole: u64,
}

/// A pass over all placements in pieces, to ask holders about them.
#[derive(Debug)]
struct Ask {
    after: Option<Key>,
    at: Option<Millis>,
}

impl Keeper {
    /// A keeper for the node `own`.
    #[must_use]
    pub fn new(now: Millis, own: NodeId, timing: Timing, config: KeeperConfig) -> Self {
        Self {
            config,
            timing,
            now,
            placements: BTreeMap::new(),
            peers: Peers::new(own),
            repairs: RepairQueue::new(config.repairs, now),
            repairing: BTreeMap::new(),
            hand_overs: HandOvers::new(now, config.joiners_bytes_per_s),
            is_isolated: false,
            is_quiet: false,
            is_draining: false,
            scan: Scan::default(),
            ask: Ask { after: None, at: Some(now.after(config.timing.ask_ms)) },
            returned: BTreeSet::new(),
            whole: 0,
            refused: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Numbers for people.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            placements: self.placements.len() as u64,
            whole: self.whole.min(self.placements.len() as u64),
            waiting: (self.repairs.waiting() + self.repairs.running() + self.hand_overs.len())
                as u64,
            refused: self.refused,
        }
    }

    /// Changes how many bytes repairs may move from now on.
    pub fn set_rate(&mut self, now: Millis, bytes_per_s: u64) {
        let limits = crate::queue::Limits { bytes_per_s, ..self.config.repairs };
        self.config.repairs = limits;
        self.repairs.set_limits(limits, now);
    }

    /// Every placement, in order.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.placements.keys().copied()
    }

    /// The version known of a placement.
    #[must_use]
    pub fn version(&self, key: &Key) -> Option<u64> {
        self.placements.get(key).map(|placement| placement.version)
    }

    fn held(&mut self, placed: &Placed) {
        let known = self.placements.get(&placed.key).map(|p| p.sequence);
        if known.is_some_and(|sequence| sequence >= placed.sequence) {
            return;
        }
        if known.is_none() && self.placements.len() >= self.config.placements_max {
            self.refused += 1;
            return;
        }
        let holders: Box<[(u8, PeerId)]> =
            placed.holders.iter().map(|(index, node)| (*index, self.join(*node))).collect();
        let old = match self.placements.get_mut(&placed.key) {
            Some(placement) => {
                let old = std::mem::take(&mut placement.holders);
                placement.holders = old.clone();
                placement.follow(placed, holders, self.now);
                old
            }
            None => {
                self.placements.insert(placed.key, Placement::new(placed, holders));
                Box::default()
            }
        };
        old.iter().for_each(|(_, peer)| self.leave(*peer));
        if self.is_draining {
            self.wait_to_hand_over(placed.key, None);
        }
        self.look_again();
    }

    fn join(&mut self, node: NodeId) -> PeerId {
        let (peer, is_new) = self.peers.join(node);
        if is_new && node != self.peers.own() {
            self.outputs.push_back(KeeperOutput::Watch(node));
        }
        peer
    }

    fn leave(&mut self, peer: PeerId) {
        if let Some(node) = self.peers.leave(peer).filter(|node| *node != self.peers.own()) {
            self.returned.remove(&node);
            self.outputs.push_back(KeeperOutput::Unwatch(node));
        }
    }

    fn dropped(&mut self, key: &Key) {
        let Some(placement) = self.placements.remove(key) else { return };
        placement.holders.iter().for_each(|(_, peer)| self.leave(*peer));
        self.hand_overs.forget(key);
        if self.repairing.get(&key.segment) == Some(key)
            && self.repairs.withdraw(&key.segment).is_some()
        {
            self.repairing.remove(&key.segment);
        }
        self.look_again();
    }

    fn peer(&mut self, node: NodeId, presence: Presence) {
        let Some(peer) = self.peers.find(&node) else { return };
        let before = self.peers.set_presence(peer, presence);
        if before != presence {
            if presence == Presence::Reachable {
                self.returned.insert(node);
            }
            self.look_again();
        }
    }

    fn says(&mut self, node: NodeId, segment: SegmentId, index: u8, has: bool) {
        self.learn_of(node, segment, |placement, peer| placement.says(peer, index, has));
    }

    /// Something is known of a holder in all placements of a segment; `learn` says whether it is
    /// news.
    fn learn_of(
        &mut self,
        node: NodeId,
        segment: SegmentId,
        learn: impl Fn(&mut Placement, PeerId) -> bool,
    ) {
        let Some(peer) = self.peers.find(&node) else { return };
        let first = Key { segment, owner: NodeId([0; 32]) };
        let of_segment =
            self.placements.range_mut(first..).take_while(|(key, _)| key.segment == segment);
        let mut has_changed = false;
        for (_, placement) in of_segment {
            has_changed |= learn(placement, peer);
        }
        if has_changed {
            self.look_again();
        }
    }

    fn of_segment(&mut self, segment: SegmentId, change: impl Fn(&mut Placement)) {
        let first = Key { segment, owner: NodeId([0; 32]) };
        let all = self.placements.range_mut(first..);
        all.take_while(|(key, _)| key.segment == segment).for_each(|(_, p)| change(p));
    }

    fn done(&mut self, key: Key, outcome: Outcome, bytes: u64) {
        if let Some(to) = self.hand_overs.finish(&key) {
            // Draining goes on until nothing is left. Whom a better placed node does not relieve
            // keeps what it has, unless somebody else was only faster.
            match outcome {
                Outcome::Committed => {}
                _ if self.is_draining => self.wait_to_hand_over(key, None),
                Outcome::Yielded => self.wait_to_hand_over(key, to),
                Outcome::Failed | Outcome::Inconsistent => {}
            }
        } else if self.repairing.get(&key.segment) == Some(&key) {
            self.repairing.remove(&key.segment);
            self.repairs.finish(&key.segment, bytes);
        }
        let KeeperTiming { yield_ms, retry_ms, .. } = self.config.timing;
        if let Some(placement) = self.placements.get_mut(&key) {
            placement.is_running = false;
            match outcome {
                Outcome::Committed => {}
                Outcome::Yielded => {
                    // In the order of ranks again, or all that yielded come back at once.
                    let rank = placement.rank(key.segment, &self.peers);
                    placement.pause(self.now, yield_ms.saturating_mul(1 + rank), false);
                }
                Outcome::Failed => placement.pause(self.now, retry_ms, true),
                Outcome::Inconsistent => placement.is_inconsistent(),
            }
        }
        self.look_again();
    }

    fn wait_to_hand_over(&mut self, key: Key, to: Option<NodeId>) {
        let has_room = self.hand_overs.waiting() < self.config.hand_overs_waiting_max;
        if self.placements.contains_key(&key) && (has_room || self.is_draining) {
            self.hand_overs.wait(key, to);
        }
    }

    /// When hand-overs that wait are looked at again.
    fn hand_overs_wait_ms(&self) -> u64 {
        let KeeperTiming { retry_ms, scan_ms, .. } = self.config.timing;
        let by_rate = self.hand_overs.joiners_wait_ms(SHARD_BYTES).map(|ms| ms.max(scan_ms));
        by_rate.map_or(retry_ms, |ms| ms.min(retry_ms))
    }

    fn drain(&mut self) {
        self.is_draining = true;
        let keys: Vec<Key> = self.placements.keys().copied().collect();
        keys.into_iter().for_each(|key| self.wait_to_hand_over(key, None));
        // Repairs that wait are others' now.
        self.look_again();
    }

    /// Has all placements looked at soon.
    fn look_again(&mut self) {
        let soon = self.now.after(self.config.timing.scan_ms);
        self.scan.is_stale = true;
        self.scan.at = Some(self.scan.at.map_or(soon, |at| at.min(soon)));
    }

    /// Looks at the next placements, once that is due.
    fn scan(&mut self) {
        if self.scan.at.is_none_or(|at| self.now < at) {
            return;
        }
        if self.scan.after.is_none() {
            self.scan.is_stale = false;
        }
        let start = self.scan.after.map_or(Unbounded, Excluded);
        let piece = self.placements.range_mut((start, Unbounded)).take(self.config.scan_max);
        let (mut last, mut wanted) = (None, Vec::new());
        for (key, placement) in piece {
            last = Some(*key);
            let policy = Policy::of(placement.scheme(), &self.timing);
            let step_ms = self.config.timing.step_ms;
            let look = placement.look(key.segment, &policy, &self.peers, step_ms, self.now);
            self.scan.whole += u64::from(look.health == Health::Whole);
            self.scan.next = self.scan.next.into_iter().chain(look.again).min();
            wanted.push((*key, look.repair));
        }
        for (key, repair) in wanted {
            self.want(key, repair);
        }
        self.scanned(last);
    }

    /// A placement wants a repair, or none any more.
    fn want(&mut self, key: Key, repair: Option<Repair>) {
        let waiting = self.repairing.get(&key.segment).copied();
        let is_others = waiting.is_some_and(|waiting| waiting != key);
        let is_left = repair.is_some_and(|r| self.is_quiet && r.health < Health::Urgent);
        if is_left {
            self.look_later();
        }
        match repair.filter(|_| !self.is_draining && !is_left) {
            Some(_) if is_others => self.look_later(),
            Some(repair) => match self.repairs.offer(repair) {
                Offered::Waits => drop(self.repairing.insert(key.segment, key)),
                Offered::Displaced(other) => {
                    self.repairing.remove(&other);
                    self.repairing.insert(key.segment, key);
                    self.look_later();
                }
                Offered::Refused => self.look_later(),
                Offered::Running => {}
            },
            None if waiting == Some(key) && self.repairs.withdraw(&key.segment).is_some() => {
                self.repairing.remove(&key.segment);
            }
            None => {}
        }
    }

    /// Something is due that there is no room for now.
    fn look_later(&mut self) {
        let later = self.now.after(self.config.timing.retry_ms);
        self.scan.next = Some(self.scan.next.map_or(later, |next| next.min(later)));
    }

    /// Says when to look on: at the rest at once, at all when something is due or has changed.
    fn scanned(&mut self, last: Option<Key>) {
        let is_rest = |last| self.placements.range((Excluded(last), Unbounded)).next().is_some();
        if last.is_some_and(is_rest) {
            self.scan.after = last;
            self.scan.at = Some(self.now.after(1));
            return;
        }
        self.whole = self.scan.whole;
        let soon = self.now.after(self.config.timing.scan_ms);
        let at = if self.scan.is_stale { Some(soon) } else { self.scan.next };
        let at = at.map(|at| at.max(soon));
        self.scan = Scan { at, ..Scan::default() };
    }

    /// Begins what there is room for.
    fn begin(&mut self) {
        if self.is_isolated {
            return;
        }
        while let Some(repair) = self.repairs.start(self.now) {
            self.begin_repair(repair.segment);
        }
        while self.hand_overs.running() < self.config.hand_overs_max {
            let Some(own) = self.peers.find(&self.peers.own()) else { return };
            let (placements, now) = (&self.placements, self.now);
            let may_begin = |key: &Key| {
                let placement = placements.get(key).filter(|p| p.may_hand_over(now))?;
                placement.index_of(own).map(|_| placement.shard_bytes())
            };
            let Some((key, to)) = self.hand_overs.start(now, !self.is_quiet, may_begin) else {
                break;
            };
            self.begin_hand_over(key, to, own);
        }
    }

    fn begin_repair(&mut self, segment: SegmentId) {
        let key = self.repairing.get(&segment).copied();
        let known = key.and_then(|key| Some((key, self.placements.get_mut(&key)?)));
        if let Some((key, placement)) = known {
            let policy = Policy::of(placement.scheme(), &self.timing);
            let (lost, is_urgent) = placement.lost(&policy, &self.peers, self.now);
            if !lost.is_empty() && placement.may_begin(self.now) {
                placement.is_running = true;
                let (version, task) = (placement.version, Task::Repair { lost, is_urgent });
                self.outputs.push_back(KeeperOutput::Start { key, version, task });
                return;
            }
        }
        // It recovered, or was dropped, while it waited.
        self.repairing.remove(&segment);
        self.repairs.finish(&segment, 0);
    }

    fn begin_hand_over(&mut self, key: Key, to: Option<NodeId>, own: PeerId) {
        let Some(placement) = self.placements.get_mut(&key) else { return };
        let Some(index) = placement.index_of(own) else { return };
        placement.is_running = true;
        let (version, task) = (placement.version, Task::HandOver { index, to });
        self.outputs.push_back(KeeperOutput::Start { key, version, task });
    }

    /// Asks holders about the next placements, so that all are asked about in the period.
    fn ask(&mut self) {
        if let Some(node) = self.returned.pop_first() {
            self.ask_all_of(node);
        }
        if self.ask.at.is_none_or(|at| self.now < at) {
            return;
        }
        let start = self.ask.after.map_or(Unbounded, Excluded);
        let mut questions: BTreeMap<PeerId, Vec<(SegmentId, u8)>> = BTreeMap::new();
        let (mut last, mut count) = (None, 0);
        for (key, placement) in
            self.placements.range((start, Unbounded)).take(self.config.asked_max)
        {
            (last, count) = (Some(*key), count + 1);
            for (index, peer) in &placement.holders {
                questions.entry(*peer).or_default().push((key.segment, *index));
            }
        }
        for (peer, shards) in questions {
            if self.peers.is_reachable(peer) {
                self.put_question(self.peers.node(peer), shards);
            }
        }
        // So many pieces make a pass; a pass takes the whole period.
        let pieces = (self.placements.len() / self.config.asked_max + 1) as u64;
        self.ask.at = Some(self.now.after((self.config.timing.ask_ms / pieces).max(1)));
        self.ask.after = if count < self.config.asked_max { None } else { last };
    }

    fn ask_all_of(&mut self, node: NodeId) {
        let Some(peer) = self.peers.find(&node) else { return };
        let shards: Vec<(SegmentId, u8)> = self
            .placements
            .iter()
            .filter_map(|(key, placement)| Some((key.segment, placement.index_of(peer)?)))
            .collect();
        for shards in shards.chunks(self.config.asked_max) {
            self.put_question(node, shards.to_vec());
        }
    }

    fn put_question(&mut self, node: NodeId, mut shards: Vec<(SegmentId, u8)>) {
        shards.dedup();
        if node != self.peers.own() {
            self.outputs.push_back(KeeperOutput::AskHas { node, shards });
        }
    }
}

impl Machine for Keeper {
    type Input = KeeperInput;
    type Output = KeeperOutput;

    fn handle(&mut self, now: Millis, input: KeeperInput) {
        self.now = self.now.max(now);
        match input {
            KeeperInput::Held(placed) => self.held(&placed),
            KeeperInput::Dropped(key) => self.dropped(&key),
            KeeperInput::Peer { node, presence } => self.peer(node, presence),
            KeeperInput::Doubt(node) => {
                if self.peers.find(&node).is_some() {
                    self.returned.insert(node);
                }
            }
            KeeperInput::Site { node, datacenter } => {
                if let Some(peer) = self.peers.find(&node)
                    && self.peers.set_datacenter(peer, datacenter)
                {
                    self.look_again();
                }
            }
            KeeperInput::Isolated(is_isolated) => self.is_isolated = is_isolated,
            KeeperInput::Quiet(is_quiet) => {
                self.is_quiet = is_quiet;
                self.look_again();
            }
            KeeperInput::Says { node, segment, index, has } => {
                self.says(node, segment, index, has);
            }
            KeeperInput::Convicted { node, segment, index } => {
                self.learn_of(node, segment, |placement, peer| placement.convict(peer, index));
            }
            KeeperInput::Read(segment) => {
                self.of_segment(segment, |placement| placement.was_read(now));
            }
            KeeperInput::Done { key, outcome, bytes } => self.done(key, outcome, bytes),
            KeeperInput::Drain => self.drain(),
            KeeperInput::Joined { node, keys } => {
                keys.into_iter().for_each(|key| self.wait_to_hand_over(key, Some(node)));
            }
            KeeperInput::Tick => {}
        }
        self.scan();
        self.begin();
        self.ask();
    }

    fn poll(&mut self) -> Option<KeeperOutput> {
        self.outputs.pop_front()
    }

    fn timeout(&self) -> Option<Millis> {
        let begins = (!self.is_isolated).then(|| self.repairs.timeout(self.now)).flatten();
        let hands = (self.hand_overs.waiting() > 0
            && self.hand_overs.running() < self.config.hand_overs_max
            && !self.is_isolated)
            .then(|| self.now.after(self.hand_overs_wait_ms()));
        let returned = (!self.returned.is_empty()).then(|| self.now.after(1));
        let all = [self.scan.at, self.ask.at, begins, hands, returned];
        // Later than now, so that a driver which only ticks never spins.
        all.into_iter().flatten().min().map(|at| at.max(self.now.after(1)))
    }
}
