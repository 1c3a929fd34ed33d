//! One world from beginning to end: it is set up from the seed, faults come as
//! planned, the judges look at everything.

use std::{cell::RefCell, rc::Rc};

use echonet_protocol::{
    machine::{Draws, Millis},
    network::Timing,
};

use super::{
    agreement::Oracle,
    defect::Defect,
    disk::{Disk, Shard},
    engine::{Clock, Stepped, World},
    judge::{Judge, Totals, Violation},
    links::{Cut, Links, Weather},
    node::{Common, Nature, SimNode},
    plan::{Fault, Plan, Span},
    setup::{Setup, Size},
};

/// How often the judges look whether all is whole, once it is calm.
const LOOK_MS: u64 = 1_000;
/// What calls of the engine mean: a fault's beginning, its end, or a look.
const CALL_LOOK: usize = usize::MAX;
const CALL_END: usize = 1 << 32;

/// Worlds of more nodes are played with models in the place of prober and agreement.
pub(super) const FULL_NODES_MAX: usize = 300;

/// What kind of world.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) seed: u64,
    pub(super) size: Size,
    /// Of a hundred nodes so many are hostile.
    pub(super) hostile_percent: u64,
    /// Whether those that are hostile only talk, and keep what they promised.
    pub(super) is_talk: bool,
    pub(super) weather: Weather,
    /// Whether the clocks on some walls are wrong by minutes.
    pub(super) has_wrong_clocks: bool,
    pub(super) timing: Timing,
    pub(super) plan: Plan,
    pub(super) defect: Option<Defect>,
}

impl Script {
    pub(super) fn new(seed: u64, nodes: usize) -> Self {
        let mut draws = Draws::new(seed);
        let joiners = 2 + nodes / 10;
        let has_voters = seed.is_multiple_of(2) && nodes <= FULL_NODES_MAX;
        let segments = if has_voters { nodes } else { nodes * 3 / 2 };
        let has_probers = nodes <= FULL_NODES_MAX;
        let size = Size { nodes, joiners, segments, has_voters, has_probers };
        let span = Span { nodes, joiners, faults_ms: 240_000, calm_ms: 600_000 };
        let is_lossy = draws.below(2) == 0;
        let weather = Weather {
            latency_ms: draws.below(60),
            jitter_ms: 1 + draws.below(60),
            loss_permille: if is_lossy { draws.below(3) * draws.below(20) } else { 0 },
            twice_permille: draws.below(20),
            // Every other world loses nothing: there nobody may be taken for gone.
            late_permille: if is_lossy { draws.below(5) } else { 0 },
        };
        let hostile_percent = if draws.below(2) == 0 { 0 } else { draws.below(12) };
        let plan = Plan::new(draws.next_u64(), span);
        let (is_talk, timing, defect) = (false, Timing::DEVELOPMENT, None);
        let has_wrong_clocks = true;
        Self {
            seed,
            size,
            hostile_percent,
            is_talk,
            weather,
            has_wrong_clocks,
            timing,
            plan,
            defect,
        }
    }
}

/// How a run ended.
pub(super) struct Ended {
    pub(super) violation: Option<Violation>,
    pub(super) totals: Totals,
    /// The last things that happened to the segment that the violation is about.
    pub(super) story: Vec<String>,
}

/// Where a node that does not run has its disk.
enum Off {
    Never,
    Down(Disk),
    Gone,
    Runs,
}

/// A world under way.
pub(super) struct Scene {
    pub(super) world: World<SimNode>,
    pub(super) common: Rc<Common>,
    pub(super) judge: Judge,
    plan: Plan,
    natures: Vec<Nature>,
    off: Vec<Off>,
    /// When all was whole for the first time after the faults.
    whole_after_ms: Option<u64>,
    draws: Draws,
}

/// Plays a world.
pub(super) fn play(script: &Script) -> Ended {
    let mut scene = Scene::new(script);
    scene.begin();
    scene.run();
    let Scene { mut judge, world, common, .. } = scene;
    judge.totals.events = world.events;
    let placement = judge.violation.as_ref().and_then(|violation| violation.placement);
    let story = placement.map(|placement| judge.story(&common.setup, placement));
    Ended {
        violation: judge.violation.take(),
        totals: judge.totals,
        story: story.unwrap_or_default(),
    }
}

impl Scene {
    pub(super) fn new(script: &Script) -> Self {
        let mut draws = Draws::new(script.seed ^ 0xEC40);
        let setup = Setup::new(draws.next_u64(), &script.size, script.timing.clone());
        let all = setup.ids.len();
        let natures: Vec<Nature> = (0..all)
            .map(|_| match draws.below(100) < script.hostile_percent {
                true if script.is_talk => Nature::talkative(&mut draws),
                true => Nature::hostile(&mut draws),
                false => Nature::HONEST,
            })
            .collect();
        let mut world = World::new(draws.next_u64(), Links::new(script.weather));
        for _ in 0..all {
            let drift_ppm = draws.below(4_000) as i64 - 2_000;
            // Most clocks on walls are right by seconds, some by minutes.
            let is_wrong = draws.below(20) == 0 && script.has_wrong_clocks;
            let ahead_s = draws.below(if is_wrong { 600 } else { 6 });
            let clock = Clock { offset_ms: draws.below(1 << 40), drift_ppm, ahead_s };
            world.add(clock, 1 + draws.below(60));
        }
        let judge = Judge::new(&setup, natures.iter().map(|n| n.is_honest()).collect());
        let mut oracle = Oracle::default();
        setup.first.iter().for_each(|record| oracle.begin(Rc::clone(record)));
        let members = RefCell::new(vec![false; all]);
        let (oracle, defect) = (RefCell::new(oracle), script.defect);
        let common = Rc::new(Common { setup, oracle, members, defect });
        let off = (0..all).map(|_| Off::Never).collect();
        let plan = script.plan.clone();
        let whole_after_ms = None;
        Self { world, common, judge, plan, natures, off, whole_after_ms, draws }
    }

    /// Everything is where the publishers put it.
    pub(super) fn begin(&mut self) {
        let common = Rc::clone(&self.common);
        let setup = &common.setup;
        let mut disks: Vec<Disk> = setup.quota_bytes.iter().map(|q| Disk::new(*q)).collect();
        for record in &setup.first {
            let placement = &setup.placements[record.placement];
            let bytes = setup.segments[placement.segment].shard_bytes;
            for (index, node) in &record.holders {
                let disk = &mut disks[*node];
                disk.shards.insert((placement.segment, *index), Shard { is_right: true, bytes });
                disk.pledges.insert((record.placement, *index), 1);
                disk.records.insert(record.placement, Rc::clone(record));
            }
        }
        let joiners = setup.ids.len() - self.joined_first();
        for (number, disk) in disks.into_iter().enumerate() {
            if number + joiners < setup.ids.len() {
                self.start(number, disk);
            }
        }
        for (call, (at, _)) in self.plan.faults.iter().enumerate() {
            self.world.call_at(*at, call);
        }
        self.world.call_at(self.plan.calm_at, CALL_LOOK);
    }

    /// Nodes that are there from the beginning.
    fn joined_first(&self) -> usize {
        let joiners = self.plan.faults.iter().filter_map(|(_, fault)| match fault {
            Fault::Join { node } => Some(*node),
            _ => None,
        });
        let named = self.common.setup.first.iter().flat_map(|r| &r.holders).map(|(_, n)| n + 1);
        joiners.min().unwrap_or(self.off.len()).max(named.max().unwrap_or(0))
    }

    fn start(&mut self, number: usize, disk: Disk) {
        let (common, nature) = (Rc::clone(&self.common), self.natures[number]);
        common.members.borrow_mut()[number] = true;
        let now = self.world.local(number);
        let node = SimNode::new(common, number, nature, disk, now, self.draws.next_u64());
        self.off[number] = Off::Runs;
        self.world.start(number, node);
    }

    fn run(&mut self) {
        while self.judge.violation.is_none() {
            match self.world.step() {
                Some(Stepped::Node) => self.hear(),
                Some(Stepped::Call(CALL_LOOK)) => {
                    if self.look() {
                        return;
                    }
                }
                Some(Stepped::Call(call)) if call >= CALL_END => self.ends(call - CALL_END),
                Some(Stepped::Call(call)) => self.begins(call),
                Some(Stepped::Nothing) => {}
                None => return,
            }
        }
    }

    /// Lets it go on until a time, without the faults of its plan.
    pub(super) fn advance(&mut self, until: Millis) {
        while self.world.now < until
            && let Some(stepped) = self.world.step()
        {
            if matches!(stepped, Stepped::Node) {
                self.hear();
            }
        }
    }

    /// The judges hear what nodes say.
    fn hear(&mut self) {
        if self.world.notices.is_empty() {
            return;
        }
        let notices = std::mem::take(&mut self.world.notices);
        let Self { judge, world, common, .. } = self;
        for (node, notice) in &notices {
            judge.note(&common.setup, &world.links, world.now, *node, notice);
        }
    }

    /// Whether all is whole, or time is up. The first look ends all faults.
    fn look(&mut self) -> bool {
        if self.world.now == self.plan.calm_at {
            self.calm_down();
        }
        let Self { judge, world, common, .. } = self;
        let is_up = |number: usize| world.node(number).is_some();
        let knows = |number: usize, placement: usize| {
            Some(world.node(number)?.known.get(&placement)?.version)
        };
        let is_late = world.now >= self.plan.whole_by;
        if let Some((placement, detail)) = judge.unwhole(&common.setup, &is_up, &knows) {
            if is_late {
                judge.never_whole(world.now, placement, detail);
                return true;
            }
        } else {
            let after_ms = world.now.since(self.plan.calm_at);
            judge.totals.whole_after_ms = *self.whole_after_ms.get_or_insert(after_ms);
            let views = |number: usize| world.node(number).map(SimNode::down).unwrap_or_default();
            let Some((whom, by)) = judge.down(&common.setup, &is_up, &views) else { return true };
            if is_late {
                judge.stays_down(world.now, whom, by);
                return true;
            }
        }
        let next = world.now.after(LOOK_MS);
        world.call_at(next, CALL_LOOK);
        false
    }

    fn calm_down(&mut self) {
        (0..self.plan.faults.len()).for_each(|number| self.ends(number));
        self.world.links.set_weather(None);
        for number in 0..self.off.len() {
            self.world.slow(number, 0);
            self.world.pause(number, Millis(0));
            self.restart(number);
        }
    }

    fn restart(&mut self, number: usize) {
        if let Off::Down(_) = self.off[number]
            && let Off::Down(disk) = std::mem::replace(&mut self.off[number], Off::Runs)
        {
            self.start(number, disk);
        }
    }

    /// A process ends; whether it ran.
    fn stop(&mut self, number: usize) -> bool {
        let Some(disk) = self.world.crash(number) else { return false };
        self.judge.left(&self.common.setup, self.world.now, number, &disk);
        self.off[number] = Off::Down(disk);
        true
    }

    /// A node's votes are gone; whether it ran.
    fn lose_ballots(&mut self, node: usize) -> bool {
        let ran = self.stop(node);
        if let (true, Off::Down(disk)) = (ran, &mut self.off[node]) {
            disk.ballots.clear();
            disk.has_forgotten_votes = true;
        }
        ran
    }

    fn join(&mut self, node: usize) {
        if matches!(self.off[node], Off::Never) {
            self.start(node, Disk::new(self.common.setup.quota_bytes[node]));
        }
    }

    fn begins(&mut self, call: usize) {
        let Some((_, fault)) = self.plan.faults.get(call).cloned() else { return };
        let now = self.world.now;
        let lasts_ms = match fault {
            Fault::Crash { node, down_ms } => self.stop(node).then_some(down_ms),
            Fault::Blackout { datacenter, down_ms } => {
                let all = self.common.setup.datacenters.clone();
                let hit = all.iter().enumerate().filter(|(_, d)| **d == datacenter);
                let hit = hit.map(|(number, _)| self.stop(number)).filter(|ran| *ran);
                (hit.count() > 0).then_some(down_ms)
            }
            Fault::Kill { node } => {
                self.kill(node);
                None
            }
            Fault::Volume { node, of, part, down_ms } => {
                self.lose_volume(node, of, part).then_some(down_ms)
            }
            Fault::Ballots { node, down_ms } => self.lose_ballots(node).then_some(down_ms),
            Fault::Rot { node, which } => {
                self.rot(node, which);
                None
            }
            Fault::Pause { node, ms } => {
                self.world.pause(node, now.after(ms));
                None
            }
            Fault::Slow { node, slow_ms, ms } => {
                self.world.slow(node, slow_ms);
                Some(ms)
            }
            Fault::Cut { ref far, is_one_way, ms } => {
                self.world.links.cut(Cut { number: call, far: far.clone(), is_one_way });
                Some(ms)
            }
            Fault::Storm { weather, ms } => {
                self.world.links.set_weather(Some(weather));
                Some(ms)
            }
            Fault::Join { node } => {
                self.join(node);
                None
            }
            Fault::Drain { node } => {
                if let Some(node) = self.world.node_mut(node) {
                    node.drain();
                }
                self.world.poke(node);
                None
            }
        };
        if let Some(ms) = lasts_ms {
            self.world.call_at(now.after(ms).min(self.plan.calm_at), CALL_END + call);
        }
    }

    fn ends(&mut self, call: usize) {
        match self.plan.faults.get(call).map(|(_, fault)| fault.clone()) {
            Some(
                Fault::Crash { node, .. }
                | Fault::Volume { node, .. }
                | Fault::Ballots { node, .. },
            ) => self.restart(node),
            Some(Fault::Blackout { datacenter, .. }) => {
                let all = self.common.setup.datacenters.clone();
                let hit = all.iter().enumerate().filter(|(_, d)| **d == datacenter);
                hit.for_each(|(number, _)| self.restart(number));
            }
            Some(Fault::Slow { node, .. }) => self.world.slow(node, 0),
            Some(Fault::Cut { .. }) => self.world.links.mend(call),
            Some(Fault::Storm { .. }) => self.world.links.set_weather(None),
            _ => {}
        }
    }

    /// Whether these shards of a node may be destroyed without breaking the promise's premise.
    fn may_hit(&mut self, node: usize, is_hit: &dyn Fn(usize, u8) -> bool) -> bool {
        let Self { judge, world, common, .. } = self;
        let live = |number: usize| world.links.is_live(number);
        let may = judge.may_hit(&common.setup, &live, node, is_hit);
        judge.totals.faults_spared += u64::from(!may);
        may
    }

    /// The node is gone for ever, whatever was promised.
    pub(super) fn remove(&mut self, node: usize) {
        self.stop(node);
        for (segment, index) in self.judge.of_node(node) {
            self.judge.hit(&self.common.setup, node, segment, index, false);
        }
        self.off[node] = Off::Gone;
    }

    fn kill(&mut self, node: usize) {
        let setup = &self.common.setup;
        let widest = setup.segments.iter().map(|s| s.scheme.n()).max().unwrap_or(0);
        let honest = (0..self.off.len()).filter(|n| {
            self.natures[*n].is_honest() && matches!(self.off[*n], Off::Runs | Off::Down(_))
        });
        let is_there = matches!(self.off[node], Off::Runs | Off::Down(_));
        if !is_there || honest.count() < widest + 3 || !self.may_hit(node, &|_, _| true) {
            return;
        }
        self.remove(node);
    }

    /// Every `of`th segment from `part` on is gone from the disk.
    fn lose_volume(&mut self, node: usize, of: u64, part: u64) -> bool {
        let is_lost = |segment: usize| segment as u64 % of.max(1) == part;
        if self.world.node(node).is_none() || !self.may_hit(node, &|segment, _| is_lost(segment)) {
            return false;
        }
        self.stop(node);
        let common = Rc::clone(&self.common);
        if let Off::Down(disk) = &mut self.off[node] {
            disk.lose(is_lost, |placement| common.setup.placements[placement].segment);
        }
        for (segment, index) in self.judge.of_node(node) {
            if is_lost(segment) {
                self.judge.hit(&common.setup, node, segment, index, false);
            }
        }
        true
    }

    fn rot(&mut self, node: usize, which: u64) {
        let all = self.judge.of_node(node);
        let Some(at) = which.checked_rem(all.len() as u64) else { return };
        let (segment, index) = all[at as usize];
        if !self.may_hit(node, &|s, i| (s, i) == (segment, index)) {
            return;
        }
        let disk = match (&mut self.off[node], self.world.node_mut(node)) {
            (_, Some(node)) => &mut node.disk,
            (Off::Down(disk), None) => disk,
            _ => return,
        };
        if let Some(shard) = disk.shards.get_mut(&(segment, index)) {
            shard.is_right = false;
            self.judge.hit(&self.common.setup, node, segment, index, true);
        }
    }
}
