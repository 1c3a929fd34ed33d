//! Years of a network, event by event: nodes come and go, segments are placed
//! and repaired by the code that nodes run (`protocol::placement`,
//! `archive::health`, `archive::queue`).
//!
//! Coarser than the network: probes see at once who is off, a repair takes a
//! time and not packets, one queue stands for the queues of all nodes, and a
//! sampled segment stands for many.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    mem,
};

use echonet_archive::{
    health::{Health, Policy},
    queue::{Limits, Repair, RepairQueue, spare_permille},
};
use echonet_protocol::{
    machine::{Draws, Millis},
    segment::SegmentId,
};
use serde::{Deserialize, Serialize};

use super::{
    churn::{Churn, HOUR_MS, YEAR_H, repair_time_ms, uniform},
    nodes::Nodes,
    segments::{Phase, Segment},
};

/// What is played.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Scheme, marks and delays.
    pub policy: Policy,
    /// How nodes come and go.
    pub churn: Churn,
    /// Nodes at any time.
    pub nodes: usize,
    /// Segments in the sample.
    pub segments: usize,
    /// For how long, years.
    pub years: f64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Mean time of one repair besides moving bytes, hours.
    pub repair_h: f64,
    /// What a node may spend on repairs, bytes per second.
    pub node_bytes_per_s: u64,
    /// What a node holds, bytes: how many segments one of the sample stands for.
    pub held_bytes: u64,
    /// Nodes younger than this are unvetted, hours.
    pub vetting_h: f64,
    /// When the largest datacenter is lost for ever, years.
    pub disaster_year: Option<f64>,
    /// Where all draws come from.
    pub seed: u64,
}

impl Scenario {
    /// Bytes of a shard.
    #[must_use]
    pub fn shard_bytes(&self) -> u64 {
        self.segment_bytes.div_ceil(u64::from(self.policy.scheme.k))
    }

    /// Segments that one of the sample stands for.
    #[must_use]
    pub fn weight(&self) -> f64 {
        let sampled = self.segments as u64 * self.policy.scheme.n() as u64 * self.shard_bytes();
        (self.nodes as f64 * self.held_bytes as f64 / sampled as f64).max(1.0)
    }
}

/// What came of it. Equal for equal scenarios.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Segments of which fewer than k shards existed at some time.
    pub losses: u64,
    /// Time that segments were kept for, summed, years.
    pub segment_years: f64,
    /// Repairs that wrote something.
    pub repairs: u64,
    /// Those of them that were urgent.
    pub urgent: u64,
    /// Repairs that read and then found nothing to write, or too few shards.
    pub in_vain: u64,
    /// Bytes read by repairs in the second half of the time, of the sample.
    pub read_bytes: u64,
    /// Bytes written by repairs in the second half of the time, of the sample.
    pub written_bytes: u64,
    /// That second half, summed over segments, years.
    pub traffic_years: f64,
    /// Mean time from being due to being repaired, hours.
    pub wait_h: f64,
    /// Longest such time, hours.
    pub wait_h_max: f64,
    /// Longest such time of an urgent repair, hours.
    pub urgent_wait_h_max: f64,
    /// Part of the time that fewer than k holders of a segment answer.
    pub unreadable: f64,
    /// Spares at the end, as a part of the shards that are wanted.
    pub spares: f64,
    /// Segments by how many of their holders the disaster took.
    pub disaster_hit: Vec<u64>,
    /// Losses since the disaster.
    pub disaster_losses: u64,
}

impl Outcome {
    /// Losses per segment and year.
    #[must_use]
    pub fn loss_rate(&self) -> f64 {
        self.losses as f64 / self.segment_years
    }

    /// Bytes that repairs moved per byte of content and month.
    #[must_use]
    pub fn traffic(&self, scenario: &Scenario) -> f64 {
        let moved = (self.read_bytes + self.written_bytes) as f64;
        moved / (self.traffic_years * 12.0 * scenario.segment_bytes as f64)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Off(u32, u32),
    On(u32, u32),
    Gone(u32),
    GraceOver(u32, u32),
    Due(u32, u32),
    Done(u32, u32),
    Pump,
    Sample,
    Disaster,
}

/// How often it is looked at who can read what.
const SAMPLE_MS: u64 = 7 * 24 * 3_600_000;

struct World<'a> {
    scenario: &'a Scenario,
    draws: Draws,
    now: Millis,
    events: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    sequence: u64,
    nodes: Nodes,
    segments: Vec<Segment>,
    numbers: BTreeMap<SegmentId, u32>,
    created: u64,
    queue: RepairQueue,
    pump_at: Option<Millis>,
    refused: bool,
    outcome: Outcome,
    samples: (u64, u64),
    waited_h: f64,
    disaster_over: bool,
}

/// Plays a scenario.
#[must_use]
pub fn play(scenario: &Scenario) -> Outcome {
    let end = Millis((scenario.years * YEAR_H * HOUR_MS) as u64);
    let mut world = World::new(scenario);
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        if at > end {
            break;
        }
        world.now = at;
        world.handle(event);
    }
    world.finish()
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let n = scenario.policy.scheme.n();
        let mean_load = scenario.segments * n / scenario.nodes;
        let rate = scenario.nodes as f64 * scenario.node_bytes_per_s as f64 / scenario.weight();
        let limits = Limits {
            waiting_max: scenario.segments,
            running_max: scenario.nodes,
            bytes_per_s: rate as u64,
            burst_bytes: 4 * scenario.segment_bytes,
        };
        let mut world = Self {
            scenario,
            draws: Draws::new(scenario.seed),
            now: Millis(0),
            events: BinaryHeap::new(),
            sequence: 0,
            nodes: Nodes::new((scenario.vetting_h * HOUR_MS) as u64, mean_load),
            segments: Vec::new(),
            numbers: BTreeMap::new(),
            created: 0,
            queue: RepairQueue::new(limits, Millis(0)),
            pump_at: None,
            refused: false,
            outcome: Outcome::default(),
            samples: (0, 0),
            waited_h: 0.0,
            disaster_over: false,
        };
        world.populate();
        world
    }

    /// A network that has existed for long, full of whole segments.
    fn populate(&mut self) {
        // The clock starts late enough for nodes to be vetted by then.
        self.now = Millis((self.scenario.vetting_h * HOUR_MS) as u64);
        for _ in 0..self.scenario.nodes {
            let churn = self.scenario.churn;
            let up = uniform(&mut self.draws) < churn.online();
            let node = self.nodes.join(up, Millis(0), self.now, &mut self.draws);
            let life_ms = churn.rest_ms(churn.lifetime_h, &mut self.draws);
            self.plan(self.now.after(life_ms), Event::Gone(node));
            let mean_h = if up { churn.up_h } else { churn.down_h };
            let rest_ms = churn.rest_ms(mean_h, &mut self.draws);
            let next = if up { Event::Off(node, 0) } else { Event::On(node, 0) };
            self.plan(self.now.after(rest_ms), next);
            if !up {
                self.plan_grace(node);
            }
        }
        for number in 0..self.scenario.segments {
            let segment = self.fresh_segment(number as u32);
            self.segments.push(segment);
        }
        self.plan(self.now.after(SAMPLE_MS), Event::Sample);
        if let Some(year) = self.scenario.disaster_year {
            self.plan(Millis((year * YEAR_H * HOUR_MS) as u64), Event::Disaster);
        }
    }

    fn fresh_segment(&mut self, number: u32) -> Segment {
        self.created += 1;
        let mut id = [0; 32];
        id[..8].copy_from_slice(&self.created.to_be_bytes());
        let id = SegmentId(id);
        let scheme = self.scenario.policy.scheme;
        let holders =
            self.nodes.place(id, scheme, &BTreeMap::new(), &[], self.now, &mut self.draws);
        assert_eq!(holders.len(), scheme.n(), "too few nodes are on to place a segment");
        let holders: Vec<u32> = holders.into_values().collect();
        holders.iter().for_each(|&node| self.nodes.get_mut(node).segments.push(number));
        self.numbers.insert(id, number);
        Segment::new(id, holders)
    }

    fn plan(&mut self, at: Millis, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    fn plan_grace(&mut self, node: u32) {
        let session = self.nodes.get(node).session;
        let at = self.now.after(self.scenario.policy.grace_ms);
        self.plan(at, Event::GraceOver(node, session));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Off(node, session) => self.turn(node, session, false),
            Event::On(node, session) => self.turn(node, session, true),
            Event::Gone(node) => self.leave(node),
            Event::GraceOver(node, session) => {
                let it = self.nodes.get(node);
                if !it.up && it.session == session {
                    self.reassess_all_of(node);
                }
            }
            Event::Due(number, stamp) => {
                if self.segments[number as usize].stamp == stamp {
                    self.assess(number);
                }
            }
            Event::Done(number, stamp) => {
                if self.segments[number as usize].stamp == stamp {
                    self.finish_repair(number);
                }
            }
            Event::Pump => self.pump_at = None,
            Event::Sample => self.sample(),
            Event::Disaster => self.disaster(),
        }
        self.pump();
    }

    fn turn(&mut self, node: u32, session: u32, up: bool) {
        let now = self.now;
        let it = self.nodes.get_mut(node);
        if it.gone || it.session != session {
            return;
        }
        it.up = up;
        it.session += 1;
        let next_session = it.session;
        if !up {
            it.off_since = now;
            self.plan_grace(node);
        }
        let churn = self.scenario.churn;
        let mean_h = if up { churn.up_h } else { churn.down_h };
        let length_ms = churn.whole_ms(mean_h, &mut self.draws);
        let next = if up { Event::Off(node, next_session) } else { Event::On(node, next_session) };
        self.plan(now.after(length_ms), next);
        self.reassess_all_of(node);
    }

    fn leave(&mut self, node: u32) {
        if self.nodes.get(node).gone {
            return;
        }
        self.nodes.leave(node);
        let now = self.now;
        let it = self.nodes.get_mut(node);
        if it.up {
            it.up = false;
            it.session += 1;
            it.off_since = now;
            self.plan_grace(node);
        }
        self.replace_node();
        for number in mem::take(&mut self.nodes.get_mut(node).segments) {
            if !self.segments[number as usize].refers_to(node) {
                continue;
            }
            if self.segments[number as usize].alive(&self.nodes)
                < self.scenario.policy.scheme.k as usize
            {
                self.lose(number);
            } else {
                self.nodes.get_mut(node).segments.push(number);
                self.assess(number);
            }
        }
    }

    fn replace_node(&mut self) {
        let churn = self.scenario.churn;
        let node = self.nodes.join(true, self.now, self.now, &mut self.draws);
        let life_ms = churn.whole_ms(churn.lifetime_h, &mut self.draws);
        self.plan(self.now.after(life_ms), Event::Gone(node));
        let up_ms = churn.whole_ms(churn.up_h, &mut self.draws);
        self.plan(self.now.after(up_ms), Event::Off(node, 0));
    }

    /// The segment is no more; another one takes its place in the sample.
    fn lose(&mut self, number: u32) {
        self.outcome.losses += 1;
        self.outcome.disaster_losses += u64::from(self.disaster_over);
        let segment = &self.segments[number as usize];
        let (id, stamp) = (segment.id, segment.stamp);
        self.queue.withdraw(&id);
        self.queue.finish(&id, 0);
        self.numbers.remove(&id);
        let mut fresh = self.fresh_segment(number);
        fresh.stamp = stamp + 1;
        self.segments[number as usize] = fresh;
    }

    fn disaster(&mut self) {
        let taken = self.nodes.destroy_datacenter();
        let mut hit = vec![0; self.scenario.policy.scheme.n() + 1];
        for segment in &self.segments {
            let count = segment.holders.iter().filter(|holder| taken.contains(holder)).count();
            hit[count] += 1;
        }
        self.outcome.disaster_hit = hit;
        self.disaster_over = true;
        taken.into_iter().for_each(|node| self.leave(node));
    }

    fn reassess_all_of(&mut self, node: u32) {
        let mut segments = mem::take(&mut self.nodes.get_mut(node).segments);
        segments.retain(|&number| self.segments[number as usize].refers_to(node));
        segments.iter().for_each(|&number| self.assess(number));
        self.nodes.get_mut(node).segments = segments;
    }

    /// Looks at a segment and plans what follows, as its holders do.
    fn assess(&mut self, number: u32) {
        let policy = &self.scenario.policy;
        let now = self.now;
        let segment = &mut self.segments[number as usize];
        let view = segment.view(policy, &self.nodes, now);
        let verdict = segment.watch.observe(policy, view, now);
        if segment.phase == Phase::Running {
            return;
        }
        match verdict.due {
            Some(due) if due.from <= now => {
                if segment.phase != Phase::Waiting {
                    segment.phase = Phase::Waiting;
                    segment.stamp += 1;
                    segment.due_since = now;
                }
                let repair = repair(segment, self.scenario, verdict.health, view.reachable);
                self.refused |=
                    !matches!(self.queue.offer(repair), echonet_archive::queue::Offered::Waits);
            }
            Some(due) => {
                if segment.phase != Phase::Planned(due.from) {
                    self.queue.withdraw(&segment.id);
                    segment.phase = Phase::Planned(due.from);
                    segment.stamp += 1;
                    let event = Event::Due(number, segment.stamp);
                    self.plan(due.from, event);
                }
            }
            None => {
                if segment.phase != Phase::Quiet {
                    self.queue.withdraw(&segment.id);
                    segment.phase = Phase::Quiet;
                    segment.stamp += 1;
                }
            }
        }
    }

    /// Starts what there is room for, and wakes when there is more.
    fn pump(&mut self) {
        while let Some(repair) = self.queue.start(self.now) {
            let number = self.numbers[&repair.segment];
            let segment = &mut self.segments[number as usize];
            segment.phase = Phase::Running;
            segment.stamp += 1;
            let event = Event::Done(number, segment.stamp);
            let moving_ms = repair.bytes * 1000 / self.scenario.node_bytes_per_s.max(1);
            let setup_ms = repair_time_ms(self.scenario.repair_h, &mut self.draws);
            self.plan(self.now.after(setup_ms + moving_ms), event);
        }
        if let Some(at) = self.queue.timeout(self.now)
            && self.pump_at.is_none_or(|planned| at < planned)
        {
            self.pump_at = Some(at);
            self.plan(at, Event::Pump);
        }
    }

    /// A repair has read what it needs: what is missing now is written.
    fn finish_repair(&mut self, number: u32) {
        let (scenario, now) = (self.scenario, self.now);
        let policy = &scenario.policy;
        let segment = &self.segments[number as usize];
        let health = policy.health(segment.view(policy, &self.nodes, now));
        let indices: Vec<u8> = segment
            .indices()
            .zip(segment.shards(&self.nodes))
            .filter(|(_, shard)| health.rebuilds(*shard, now, policy.grace_ms))
            .map(|(index, _)| index)
            .collect();
        let (staying, spares) = (segment.without(&indices), segment.spare_nodes());
        let (scheme, id) = (policy.scheme, segment.id);
        let fresh = self.nodes.place(id, scheme, &staying, &spares, now, &mut self.draws);
        let written = fresh.len() as u64 * scenario.shard_bytes();
        let read = u64::from(scheme.k) * scenario.shard_bytes();
        self.note(number, health, read, written);
        let segment = &mut self.segments[number as usize];
        for (index, node) in fresh {
            segment.replace(index, node, scheme.m as usize);
            self.nodes.get_mut(node).segments.push(number);
        }
        segment.phase = Phase::Quiet;
        segment.stamp += 1;
        self.queue.finish(&id, read + written);
        self.assess(number);
    }

    fn note(&mut self, number: u32, health: Health, read: u64, written: u64) {
        let waited = self.now.since(self.segments[number as usize].due_since) as f64 / HOUR_MS;
        let is_counted = self.now >= self.settled_at();
        let outcome = &mut self.outcome;
        if is_counted {
            outcome.read_bytes += read;
            outcome.written_bytes += written;
        }
        if written == 0 {
            outcome.in_vain += 1;
            return;
        }
        outcome.repairs += 1;
        if health == Health::Urgent {
            outcome.urgent += 1;
            outcome.urgent_wait_h_max = outcome.urgent_wait_h_max.max(waited);
        }
        self.waited_h += waited;
        outcome.wait_h_max = outcome.wait_h_max.max(waited);
    }

    /// From here on traffic counts: at first all segments are whole, and those that
    /// are repaired at a low mark have a long way down to it.
    fn settled_at(&self) -> Millis {
        let hours = f64::midpoint(self.scenario.vetting_h, self.scenario.years * YEAR_H);
        Millis((hours * HOUR_MS) as u64)
    }

    fn sample(&mut self) {
        let k = self.scenario.policy.scheme.k as usize;
        for segment in &self.segments {
            let view = segment.view(&self.scenario.policy, &self.nodes, self.now);
            self.samples.0 += 1;
            self.samples.1 += u64::from(view.reachable < k);
        }
        self.plan(self.now.after(SAMPLE_MS), Event::Sample);
        if mem::take(&mut self.refused) {
            (0..self.segments.len()).for_each(|number| self.assess(number as u32));
        }
    }

    fn finish(self) -> Outcome {
        let scenario = self.scenario;
        let wanted = (scenario.segments * scenario.policy.scheme.n()) as f64;
        let spares: usize = self.segments.iter().map(|s| s.spares_alive(&self.nodes)).sum();
        let started_years = scenario.vetting_h / YEAR_H;
        let segment_years = scenario.segments as f64 * (scenario.years - started_years);
        Outcome {
            segment_years,
            traffic_years: segment_years / 2.0,
            wait_h: self.waited_h / self.outcome.repairs.max(1) as f64,
            unreadable: self.samples.1 as f64 / self.samples.0.max(1) as f64,
            spares: spares as f64 / wanted,
            ..self.outcome
        }
    }
}

/// A segment's repair, as it is offered to the queue.
fn repair(segment: &Segment, scenario: &Scenario, health: Health, reachable: usize) -> Repair {
    let scheme = scenario.policy.scheme;
    let (k, m, n) = (scheme.k as usize, scheme.m as usize, scheme.n());
    let shards = k + n.saturating_sub(reachable).max(1);
    Repair {
        segment: segment.id,
        health,
        spare_permille: spare_permille(reachable, k, m),
        read: None,
        since: segment.due_since,
        bytes: shards as u64 * scenario.shard_bytes(),
    }
}
