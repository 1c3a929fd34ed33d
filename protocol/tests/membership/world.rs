//! A world of members: virtual time, latency, loss, deaths, and one who lies.
//!
//! Everything follows from the seed. It drives the machines exactly as a node does: outputs are
//! carried out, results come back as inputs, ticks come when they are asked for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use echonet_protocol::{
    identity::{Identity, NodeId, Signed},
    machine::{Draws, Machine, Millis},
    membership::{
        Answer, Ask, Claim, DiskHealth, Evidence, Life, Membership, MembershipInput,
        MembershipOutput, MembershipStart, Pace, View,
    },
    network::NetworkId,
    time::UnixSeconds,
};

pub(crate) const NETWORK: NetworkId = NetworkId([7; 32]);
/// The world's clock when it begins.
pub(crate) const UNIX: u64 = 1_800_000_000;

/// What the world is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) nodes: usize,
    pub(crate) pace: Pace,
    /// One way, milliseconds: from, and up to.
    pub(crate) latency_ms: (u64, u64),
    /// Of each message, in thousand.
    pub(crate) loss_permille: u64,
    pub(crate) seed: u64,
}

pub(crate) fn identity(n: usize) -> Identity {
    Identity::from_secret(blake3::hash(&(n as u64).to_le_bytes()).as_bytes())
}

#[derive(Debug)]
enum Event {
    Tick,
    Asked { from: usize, id: u64, ask: Ask },
    Answered { to: usize, id: u64, answer: Answer },
    Failed { to: usize, id: u64 },
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    machine: Option<Membership>,
    /// Earlier lives' events are void.
    life: u32,
    tick_at: Option<u64>,
    /// The driver's numbers of questions: who asked, and its number there.
    asked: BTreeMap<u64, (usize, u64)>,
}

/// A life's event at a node, in the order of time.
type Queued = Reverse<(u64, u64)>;

pub(crate) struct World {
    pub(crate) setting: Setting,
    pub(crate) now: u64,
    nodes: Vec<Node>,
    index: BTreeMap<NodeId, usize>,
    queue: BinaryHeap<Queued>,
    events: BTreeMap<u64, (usize, u32, Event)>,
    next: u64,
    draws: Draws,
    /// Says of everybody in every message that it is down.
    pub(crate) liar: Option<usize>,
    /// Messages between these and all others are lost.
    pub(crate) cut_off: Vec<usize>,
    pub(crate) messages: u64,
    /// Living nodes that somebody found down: who, whom, when.
    pub(crate) false_downs: Vec<(usize, usize, u64)>,
    /// Living nodes that somebody doubted, by its own probes or by hearsay.
    pub(crate) doubts: BTreeMap<&'static str, u64>,
    pub(crate) hints: u64,
}

impl World {
    /// All nodes know each other by name, and have just started.
    pub(crate) fn new(setting: Setting) -> Self {
        let ids: Vec<NodeId> = (0..setting.nodes).map(|n| identity(n).node_id()).collect();
        let node = |id: &NodeId| Node {
            id: *id,
            machine: None,
            life: 0,
            tick_at: None,
            asked: BTreeMap::new(),
        };
        let mut world = Self {
            setting,
            now: 0,
            nodes: ids.iter().map(node).collect(),
            index: ids.iter().enumerate().map(|(n, id)| (*id, n)).collect(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next: 0,
            draws: Draws::new(setting.seed),
            liar: None,
            cut_off: Vec::new(),
            messages: 0,
            false_downs: Vec::new(),
            doubts: BTreeMap::new(),
            hints: 0,
        };
        for n in 0..setting.nodes {
            world.start(n);
        }
        world
    }

    pub(crate) fn id(&self, n: usize) -> NodeId {
        self.nodes[n].id
    }

    pub(crate) const fn unix(&self) -> UnixSeconds {
        UnixSeconds(UNIX + self.now / 1000)
    }

    /// Starts a node anew: it forgot everything but its key and the names.
    pub(crate) fn start(&mut self, n: usize) {
        let group = self.nodes.iter().map(|node| node.id).collect();
        let start = MembershipStart {
            identity: identity(n),
            network: NETWORK,
            group,
            pace: self.setting.pace,
            unix: self.unix(),
            disk: DiskHealth::Healthy,
            seed: self.draws.next_u64(),
        };
        self.nodes[n].machine = Some(Membership::new(Millis(self.now), start));
        self.nodes[n].life += 1;
        self.nodes[n].tick_at = None;
        self.settle(n);
    }

    /// It is gone, without a word.
    pub(crate) fn kill(&mut self, n: usize) {
        self.nodes[n].machine = None;
        self.nodes[n].life += 1;
        self.nodes[n].asked.clear();
    }

    pub(crate) fn is_alive(&self, n: usize) -> bool {
        self.nodes[n].machine.is_some()
    }

    pub(crate) fn machine(&self, n: usize) -> &Membership {
        self.nodes[n].machine.as_ref().unwrap()
    }

    pub(crate) fn view(&self, of: usize, about: usize) -> View {
        self.machine(of).member(&self.nodes[about].id).unwrap()
    }

    /// Gives a node an input, now.
    pub(crate) fn input(&mut self, n: usize, input: MembershipInput) {
        if let Some(machine) = &mut self.nodes[n].machine {
            machine.handle(Millis(self.now), input);
            self.settle(n);
        }
    }

    fn push(&mut self, at: u64, n: usize, event: Event) {
        self.next += 1;
        self.events.insert(self.next, (n, self.nodes[n].life, event));
        self.queue.push(Reverse((at, self.next)));
    }

    /// Carries out what a machine wants.
    fn settle(&mut self, n: usize) {
        while let Some(output) = self.nodes[n].machine.as_mut().and_then(Machine::poll) {
            self.carry_out(n, output);
        }
        let Some(at) = self.nodes[n].machine.as_ref().and_then(Machine::timeout) else { return };
        assert!(at.0 > self.now, "a timeout is later than the last input");
        if self.nodes[n].tick_at.is_none_or(|planned| planned > at.0 || planned <= self.now) {
            self.nodes[n].tick_at = Some(at.0);
            self.push(at.0, n, Event::Tick);
        }
    }

    fn carry_out(&mut self, n: usize, output: MembershipOutput) {
        match output {
            MembershipOutput::Ask { to, id, mut ask } => {
                let to = self.index[&to];
                match &mut ask {
                    Ask::Ping { claims } | Ask::PingFor { claims, .. } => self.lie(n, claims),
                }
                match self.travel(n, to) {
                    Some(ms) => self.push(self.now + ms, to, Event::Asked { from: n, id, ask }),
                    None => self.fail(n, to, id),
                }
            }
            MembershipOutput::Reply { to, id, mut answer } => {
                let to = self.index[&to];
                let (asker, number) =
                    self.nodes[n].asked.remove(&id).expect("asked and answered once");
                assert_eq!(asker, to, "an answer goes to who asked");
                match &mut answer {
                    Answer::Pong { claims } | Answer::Tried { claims, .. } => self.lie(n, claims),
                }
                match self.travel(n, to) {
                    Some(ms) => {
                        let event = Event::Answered { to: n, id: number, answer };
                        self.push(self.now + ms, to, event);
                    }
                    None => self.fail(to, n, number),
                }
            }
            MembershipOutput::Changed { node, view } => self.note(n, node, view),
            MembershipOutput::Hint(_) => self.hints += 1,
        }
    }

    /// A question without an answer is given up by the transport in the end.
    fn fail(&mut self, n: usize, to: usize, id: u64) {
        let late = self.now + 4 * self.setting.pace.probe_ms;
        self.push(late, n, Event::Failed { to, id });
    }

    fn travel(&mut self, from: usize, to: usize) -> Option<u64> {
        self.messages += 1;
        let (least, most) = self.setting.latency_ms;
        let ms = least + self.draws.below(most - least + 1);
        let is_cut = self.cut_off.contains(&from) != self.cut_off.contains(&to);
        let is_lost = self.draws.below(1000) < self.setting.loss_permille;
        (!is_lost && !is_cut && self.is_alive(to)).then_some(ms)
    }

    fn note(&mut self, n: usize, about: NodeId, view: View) {
        let about = self.index[&about];
        if !self.is_alive(about) {
            return;
        }
        match (view.life, view.evidence) {
            (Life::Down, _) => self.false_downs.push((n, about, self.now)),
            (Life::Suspect, Evidence::Own) => *self.doubts.entry("own").or_default() += 1,
            (Life::Suspect, _) => *self.doubts.entry("hearsay").or_default() += 1,
            _ => {}
        }
    }

    /// The liar fills its messages with claims that others are down, as well made as they can be.
    fn lie(&mut self, n: usize, claims: &mut Vec<Signed<Claim>>) {
        if self.liar != Some(n) {
            return;
        }
        claims.truncate(1);
        while claims.len() < self.setting.pace.claims_max {
            let about = usize::try_from(self.draws.below(self.nodes.len() as u64)).unwrap();
            if about != n
                && let Some(machine) = &self.nodes[about].machine
            {
                let about = self.nodes[about].id;
                let incarnation = machine.word(&about).unwrap().body.incarnation;
                claims.push(claim(n, about, incarnation, Life::Down, self.unix()));
            }
        }
    }

    /// Lets the world go on until a time.
    pub(crate) fn run_until(&mut self, until: u64) {
        while let Some(Reverse((at, number))) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            self.queue.pop();
            let (n, life, event) = self.events.remove(&number).unwrap();
            self.now = at;
            if self.nodes[n].life == life {
                self.happen(n, event);
            }
        }
        self.now = until;
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
        self.run_until(self.now + ms);
    }

    fn happen(&mut self, n: usize, event: Event) {
        let input = match event {
            Event::Tick => {
                if self.nodes[n].tick_at != Some(self.now) {
                    return;
                }
                self.nodes[n].tick_at = None;
                MembershipInput::Tick
            }
            Event::Asked { from, id, ask } => {
                self.next += 1;
                let number = self.next;
                self.nodes[n].asked.insert(number, (from, id));
                MembershipInput::Asked { from: self.nodes[from].id, id: number, ask }
            }
            Event::Answered { to, id, answer } => {
                MembershipInput::Answered { to: self.nodes[to].id, id, answer }
            }
            Event::Failed { to, id } => MembershipInput::Failed { to: self.nodes[to].id, id },
        };
        self.input(n, input);
    }

    /// Whether every living node that has it in view says that it is down, or asked it in vain.
    pub(crate) fn is_agreed(&self, gone: usize) -> bool {
        let id = self.nodes[gone].id;
        self.nodes.iter().filter_map(|node| node.machine.as_ref()).all(|machine| {
            machine.member(&id).is_none_or(|view| view.life == Life::Down || view.failures > 0)
        })
    }

    /// Kills a node; how long it takes the others to agree.
    pub(crate) fn kill_and_agree(&mut self, n: usize, most_ms: u64) -> u64 {
        self.kill(n);
        let killed = self.now;
        while !self.is_agreed(n) {
            self.run_for(50);
            assert!(
                self.now - killed < most_ms,
                "seed {}: no agreement on node {n}",
                self.setting.seed
            );
        }
        self.now - killed
    }
}

/// What one node says about another.
pub(crate) fn claim(
    by: usize,
    about: NodeId,
    incarnation: u64,
    life: Life,
    at: UnixSeconds,
) -> Signed<Claim> {
    let identity = identity(by);
    let claimant = identity.node_id();
    let body = Claim { v: 1, network: NETWORK, claimant, about, incarnation, life, disk: None, at };
    Signed::new(&identity, body)
}

/// The figure that so many of a hundred do not exceed.
pub(crate) fn percentile(times: &[u64], percent: usize) -> u64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}
