//! Drives the real membership machine as the node does: questions and answers go
//! over the links, hints and signs of life to the prober. It decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use echonet_protocol::{
    identity::{NodeId, Signed},
    machine::{Machine, Millis},
    membership::{
        Answer, Ask, Claim, DiskHealth, Life, Membership, MembershipInput, MembershipOutput,
        MembershipStart, Pace, View,
    },
};

use super::{Common, Nature, Out, malice::Malice};
use crate::world::{
    defect::Defect,
    detector::Detector,
    message::{Message, Notice},
};

/// How often the machine is told the time of day.
const CLOCK_MS: u64 = 1_000;
/// Hints are believed, where that is the defect, after so long: then nothing else can be why.
const CREDULOUS_MS: u64 = 60_000;
/// How often the members are compared with the group.
const GROUP_MS: u64 = 2_000;

/// What is at hand when the machine runs.
pub(super) struct Around<'a, 'b> {
    pub(super) common: &'a Common,
    pub(super) detector: &'a mut Detector,
    pub(super) now: Millis,
    pub(super) io: &'a mut Out<'b>,
}

/// See the module's documentation.
pub(in crate::world) struct Swim {
    machine: Membership,
    began: Millis,
    pace: Pace,
    /// Own questions: whom they went to, and until when an answer is awaited.
    asked: BTreeMap<u64, (NodeId, Millis)>,
    /// Others' questions, by own numbers: who asked, and its number there.
    replies: BTreeMap<u64, (usize, u64)>,
    next_reply: u64,
    group: BTreeSet<NodeId>,
    clock_at: Millis,
    group_at: Millis,
    malice: Option<Box<Malice>>,
}

impl Swim {
    pub(super) fn new(around: &Around<'_, '_>, own: usize, nature: Nature, seed: u64) -> Self {
        let setup = &around.common.setup;
        let pace = Pace::of(&setup.timing);
        let start = MembershipStart {
            identity: setup.identities[own].clone(),
            network: setup.network,
            group: Vec::new(),
            pace,
            unix: around.io.unix(),
            disk: DiskHealth::Healthy,
            seed,
        };
        Self {
            machine: Membership::new(around.now, start),
            began: around.now,
            pace,
            asked: BTreeMap::new(),
            replies: BTreeMap::new(),
            next_reply: 0,
            group: BTreeSet::new(),
            clock_at: around.now,
            group_at: around.now,
            malice: nature.talks().then(|| Box::new(Malice::new(nature, own, seed))),
        }
    }

    /// What is made of all members.
    pub(in crate::world) fn views(&self) -> impl Iterator<Item = (NodeId, View)> {
        self.machine.views()
    }

    /// What is made of one.
    pub(in crate::world) fn life(&self, node: &NodeId) -> Option<Life> {
        self.machine.member(node).map(|view| view.life)
    }

    pub(super) fn wake(&self) -> Millis {
        let late = self.asked.values().map(|(_, until)| *until);
        let own = late.chain(self.machine.timeout()).min();
        let at = self.clock_at.min(self.group_at);
        own.map_or(at, |own| own.min(at))
    }

    /// Time passed.
    pub(super) fn tick(&mut self, around: &mut Around<'_, '_>) {
        if self.clock_at <= around.now {
            self.clock_at = around.now.after(CLOCK_MS);
            let unix = around.io.unix();
            self.tell(around, MembershipInput::Clock(unix));
            self.be_malicious(around);
        }
        if self.group_at <= around.now {
            self.group_at = around.now.after(GROUP_MS);
            self.regroup(around);
        }
        let is_late = |until: Millis| until <= around.now;
        let late: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, (_, until))| is_late(*until))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some((to, _)) = self.asked.remove(&id) {
                self.tell(around, MembershipInput::Failed { to, id });
            }
        }
        if self.machine.timeout().is_some_and(|at| at <= around.now) {
            self.tell(around, MembershipInput::Tick);
        }
    }

    fn regroup(&mut self, around: &mut Around<'_, '_>) {
        let common = around.common;
        let joined: Vec<NodeId> = {
            let members = common.members.borrow();
            let joined = members.iter().zip(&common.setup.ids).filter(|(joined, _)| **joined);
            joined.map(|(_, id)| *id).collect()
        };
        self.introduced(around, &joined);
    }

    /// Nodes that, as somebody says, joined.
    pub(super) fn introduced(&mut self, around: &mut Around<'_, '_>, nodes: &[NodeId]) {
        for node in nodes {
            if self.group.insert(*node) {
                self.tell(around, MembershipInput::Learned(*node));
            }
        }
    }

    /// Another asks.
    pub(super) fn asked(&mut self, around: &mut Around<'_, '_>, from: usize, id: u64, ask: &Ask) {
        if around.common.has(Defect::IsDeaf) {
            return;
        }
        if let Some(malice) = &mut self.malice {
            malice.hear(ask.claims());
        }
        self.next_reply += 1;
        self.replies.insert(self.next_reply, (from, id));
        let from = around.common.setup.ids[from];
        self.tell(around, MembershipInput::Asked { from, id: self.next_reply, ask: ask.clone() });
    }

    /// Another answers.
    pub(super) fn answered(
        &mut self,
        around: &mut Around<'_, '_>,
        from: usize,
        id: u64,
        answer: &Answer,
    ) {
        let to = around.common.setup.ids[from];
        if self.asked.remove(&id).is_none() || around.common.has(Defect::IsDeaf) {
            return;
        }
        if let Some(malice) = &mut self.malice {
            malice.hear(answer.claims());
        }
        around.detector.heard(to, around.now);
        self.tell(around, MembershipInput::Answered { to, id, answer: answer.clone() });
    }

    fn be_malicious(&mut self, around: &mut Around<'_, '_>) {
        let Some(malice) = &mut self.malice else { return };
        let setup = &around.common.setup;
        let made_up = malice.act(setup, &self.machine, around.io.unix());
        if !made_up.is_empty() {
            let made_up = Rc::new(made_up);
            for to in 0..setup.ids.len() {
                around.io.send(to, Message::Introduce(Rc::clone(&made_up)), 0);
            }
        }
    }

    fn tell(&mut self, around: &mut Around<'_, '_>, input: MembershipInput) {
        self.machine.handle(around.now, input);
        while let Some(output) = self.machine.poll() {
            match output {
                MembershipOutput::Ask { to, id, ask } => self.ask(around, to, id, ask),
                MembershipOutput::Reply { id, answer, .. } => self.reply(around, id, answer),
                MembershipOutput::Changed { node, view } => {
                    let number = around.common.setup.numbers.get(&node);
                    if let (Some(number), Life::Down) = (number, view.life) {
                        around.io.note(Notice::FoundDown { node: *number });
                    }
                }
                MembershipOutput::Hint(node) => {
                    around.io.note(Notice::Hinted);
                    around.detector.hint(node, around.now);
                    let is_credulous = around.now.since(self.began) >= CREDULOUS_MS;
                    if is_credulous && around.common.has(Defect::BelievesHints) {
                        around.detector.believe(&around.common.setup, node, around.now);
                    }
                }
            }
        }
    }

    fn ask(&mut self, around: &mut Around<'_, '_>, to: NodeId, id: u64, mut ask: Ask) {
        match &mut ask {
            Ask::Ping { claims } | Ask::PingFor { claims, .. } => self.tamper(claims),
        }
        let patience_ms = self.pace.probe_fails_ms.max(1_000);
        self.asked.insert(id, (to, around.now.after(patience_ms)));
        // Made-up members are nowhere.
        if let Some(number) = around.common.setup.numbers.get(&to) {
            around.io.send(*number, Message::Swim { id, ask: Rc::new(ask) }, 0);
        }
    }

    fn reply(&mut self, around: &mut Around<'_, '_>, id: u64, mut answer: Answer) {
        let Some((to, id)) = self.replies.remove(&id) else { return };
        match &mut answer {
            Answer::Pong { claims } | Answer::Tried { claims, .. } => self.tamper(claims),
        }
        around.io.send(to, Message::Swum { id, answer: Rc::new(answer) }, 0);
    }

    fn tamper(&mut self, claims: &mut Vec<Signed<Claim>>) {
        if let Some(malice) = &mut self.malice {
            malice.tamper(claims, self.pace.claims_max);
        }
    }
}
