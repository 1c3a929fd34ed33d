//! The membership machine: asks members in turn, asks through others where one
//! does not answer, passes news on, answers doubts about itself.
//!
//! Down is who failed this node's own probes during the whole suspicion. It
//! never decides that anything is lost.

use std::collections::{BTreeMap, VecDeque};

use super::{
    claim::{Claim, DiskHealth, Life},
    member::Member,
    members::Members,
    messages::{Answer, Ask},
    news::News,
    pace::Pace,
    probing::Probe,
    types::{Evidence, MembershipInput, MembershipOutput, MembershipStart, Sizes, View},
};
use crate::{
    identity::{Identity, NodeId, Signed},
    machine::{Machine, Millis},
    network::NetworkId,
    params,
    time::UnixSeconds,
};

/// Members that are told when this node leaves.
const GOODBYES: usize = 8;

/// What a question was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To learn whether whom it went to is there.
    Probe,
    /// To learn it of another.
    Help(NodeId),
    /// For a third, under its number.
    Errand(NodeId, u64),
    /// To pass news on.
    Spread,
}

#[derive(Debug)]
struct Pending {
    to: NodeId,
    purpose: Purpose,
    until: Millis,
}

/// SWIM with signed claims (SPEC.md, "Membership").
#[derive(Debug)]
pub struct Membership {
    pub(super) me: NodeId,
    pub(super) identity: Identity,
    pub(super) network: NetworkId,
    pub(super) pace: Pace,
    clock: (Millis, UnixSeconds),
    /// What this node says about itself.
    pub(super) word: Signed<Claim>,
    /// When a doubt about this node was last answered.
    pub(super) refuted: Option<Millis>,
    /// When anybody was last heard.
    pub(super) heard: Option<Millis>,
    pub(super) members: Members,
    pub(super) news: News,
    pub(super) probes: BTreeMap<NodeId, Probe>,
    /// By asker and its question's number: until when it is answered.
    errands: BTreeMap<(NodeId, u64), Millis>,
    asks: BTreeMap<u64, Pending>,
    next_ask: u64,
    /// Members to ask again: by own failed probes, by hints.
    pub(super) suspects: VecDeque<NodeId>,
    pub(super) hinted: VecDeque<NodeId>,
    pub(super) rechecks_left: u32,
    next_round: Millis,
    rounds: u64,
    last_input: Millis,
    pub(super) outputs: VecDeque<MembershipOutput>,
}

impl Membership {
    /// A node that knows its group by name and has asked nobody yet.
    #[must_use]
    pub fn new(now: Millis, start: MembershipStart) -> Self {
        let MembershipStart { identity, network, group, pace, unix, disk, seed } = start;
        let me = identity.node_id();
        let incarnation = unix.0.clamp(1, Claim::INCARNATION_MAX);
        let (life, disk) = (Life::Alive, Some(disk));
        let v = params::FORMAT_VERSION;
        let body = Claim { v, network, claimant: me, about: me, incarnation, life, disk, at: unix };
        let mut membership = Self {
            me,
            word: Signed::new(&identity, body),
            identity,
            network,
            pace,
            clock: (now, unix),
            refuted: None,
            heard: None,
            members: Members::new(seed),
            news: News::new(pace.news_max),
            probes: BTreeMap::new(),
            errands: BTreeMap::new(),
            asks: BTreeMap::new(),
            next_ask: 0,
            suspects: VecDeque::new(),
            hinted: VecDeque::new(),
            rechecks_left: pace.rechecks_per_round,
            next_round: now,
            rounds: 0,
            last_input: now,
            outputs: VecDeque::new(),
        };
        for node in group {
            membership.learned(now, node);
        }
        // Nodes that start together do not ask together.
        membership.next_round = now.after(1 + membership.members.draw(pace.probe_ms));
        membership
    }

    /// What is made of a member; none: it is not one, or there was no room.
    #[must_use]
    pub fn member(&self, node: &NodeId) -> Option<View> {
        self.members.get(node).map(|m| m.view)
    }

    /// All members in ascending order of NodeID.
    pub fn views(&self) -> impl Iterator<Item = (NodeId, View)> {
        self.members.iter().map(|(node, m)| (*node, m.view))
    }

    /// A node's latest word about itself; this node's own too.
    #[must_use]
    pub fn word(&self, node: &NodeId) -> Option<&Signed<Claim>> {
        if *node == self.me {
            return Some(&self.word);
        }
        self.members.get(node).and_then(|m| m.word.as_ref())
    }

    /// How much is kept.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let claims = |m: &Member| m.said.len() + usize::from(m.word.is_some());
        Sizes {
            members: self.members.len(),
            claims: self.members.iter().map(|(_, m)| claims(m)).sum(),
            news: self.news.len(),
            probes: self.probes.len(),
            errands: self.errands.len(),
            asks: self.asks.len(),
            waiting: self.suspects.len() + self.hinted.len(),
        }
    }

    pub(super) const fn unix(&self, now: Millis) -> UnixSeconds {
        let (then, unix) = self.clock;
        UnixSeconds(unix.0.saturating_add(now.since(then) / 1000))
    }

    pub(super) fn tell_change(&mut self, node: NodeId) {
        if let Some(member) = self.members.get(&node) {
            let view = member.view;
            self.outputs.push_back(MembershipOutput::Changed { node, view });
        }
    }

    // --- this node's own word ---

    /// Says the same, or what changed, under a new incarnation; spreads it.
    pub(super) fn say(&mut self, now: Millis, incarnation: u64) {
        let incarnation = incarnation.min(Claim::INCARNATION_MAX);
        let body = Claim { incarnation, at: self.unix(now), ..self.word.body.clone() };
        self.word = Signed::new(&self.identity, body);
        self.news.add(self.word.clone());
    }

    fn say_anew(&mut self, now: Millis, life: Life, disk: Option<DiskHealth>) {
        (self.word.body.life, self.word.body.disk) = (life, disk);
        self.say(now, self.word.body.incarnation.saturating_add(1));
    }

    /// The word with a fresh time, which shows that it was said just now.
    fn fresh_word(&mut self, now: Millis) -> Signed<Claim> {
        let at = self.unix(now);
        if at > self.word.body.at {
            let body = Claim { at, ..self.word.body.clone() };
            self.word = Signed::new(&self.identity, body);
        }
        self.word.clone()
    }

    // --- what goes into a message ---

    /// The own word, what is said about the reader, and news as far as it fits.
    pub(super) fn claims_for(&mut self, now: Millis, to: NodeId) -> Vec<Signed<Claim>> {
        let mut claims = vec![self.fresh_word(now)];
        let Some(member) = self.members.get_mut(&to) else { return claims };
        claims.extend(member.said.iter().cloned());
        // Who asks often, or answers nobody, does not use the news up.
        let is_served = member.served.is_some_and(|at| now.since(at) < self.pace.direct_ms);
        if is_served || member.failing.is_some() {
            return claims;
        }
        member.served = Some(now);
        let mut sent = Vec::new();
        for claim in self.news.iter().filter(|c| c.body.about != to) {
            let about = claim.body.about;
            if about == self.me {
                sent.push(claim.body.clone());
                continue;
            }
            // A suspicion is told apart from an old one by the word that it doubts.
            let word = self.members.get(&about).filter(|_| !claim.body.is_word());
            let word = word.and_then(|m| m.word.as_ref()).filter(|w| !claims.contains(w));
            if claims.len() + usize::from(word.is_some()) < self.pace.claims_max {
                claims.extend(word.cloned());
                claims.push(claim.clone());
                sent.push(claim.body.clone());
            } else if claims.len() >= self.pace.claims_max {
                break;
            }
        }
        let doublings = usize::BITS - self.members.len().leading_zeros();
        for claim in sent {
            self.news.sent(&claim, self.pace.sends_factor * doublings.max(1));
        }
        claims
    }

    pub(super) fn ask(&mut self, now: Millis, to: NodeId, purpose: Purpose, ask: Ask) {
        self.next_ask += 1;
        if self.asks.len() >= self.pace.asks_max {
            self.asks.pop_first();
        }
        let until = now.after(self.pace.probe_ms.saturating_mul(4));
        self.asks.insert(self.next_ask, Pending { to, purpose, until });
        self.outputs.push_back(MembershipOutput::Ask { to, id: self.next_ask, ask });
    }

    pub(super) fn ping(&mut self, now: Millis, to: NodeId, purpose: Purpose) {
        let claims = self.claims_for(now, to);
        self.ask(now, to, purpose, Ask::Ping { claims });
    }

    fn reply(&mut self, to: NodeId, id: u64, answer: Answer) {
        self.outputs.push_back(MembershipOutput::Reply { to, id, answer });
    }

    // --- proofs of life ---

    /// A node is there: it was heard itself.
    fn contact(&mut self, now: Millis, node: NodeId) {
        if self.alive(now, node, Evidence::Own) {
            self.heard = Some(now);
            if let Some(member) = self.members.get_mut(&node) {
                member.heard = Some(now);
            }
        }
    }

    /// A member lives; false: it is none.
    fn alive(&mut self, now: Millis, node: NodeId, evidence: Evidence) -> bool {
        let Some(member) = self.members.get_mut(&node) else { return false };
        self.probes.remove(&node);
        member.fails_no_more();
        if !member.said.is_empty() {
            member.said.clear();
            self.news.forget_others(node);
        }
        if member.view.life != Life::Left && member.set_life(now, Life::Alive, evidence) {
            self.tell_change(node);
        }
        true
    }

    // --- questions and answers ---

    fn asked(&mut self, now: Millis, from: NodeId, id: u64, ask: &Ask) {
        self.hear(now, from, ask.claims(), None);
        let claims = self.claims_for(now, from);
        self.contact(now, from);
        let node = match ask {
            Ask::Ping { .. } => return self.reply(from, id, Answer::Pong { claims }),
            Ask::PingFor { node, .. } => *node,
        };
        let of_asker = self.errands.range((from, 0)..=(from, u64::MAX)).count();
        let may = self.members.get(&from).is_some()
            && self.members.get(&node).is_some()
            && self.errands.len() < self.pace.errands_max
            && of_asker < self.pace.errands_per_asker_max;
        if node == self.me || !may {
            return self.reply(from, id, Answer::Tried { reached: node == self.me, claims });
        }
        self.errands.insert((from, id), now.after(self.pace.direct_ms));
        self.ping(now, node, Purpose::Errand(from, id));
    }

    fn answered(&mut self, now: Millis, to: NodeId, id: u64, answer: &Answer) {
        let Some(pending) = self.asks.remove(&id).filter(|p| p.to == to) else {
            // Too late for its question; it is there nevertheless.
            return self.contact(now, to);
        };
        let wanted = match pending.purpose {
            Purpose::Help(node) => Some(node),
            Purpose::Errand(..) => Some(to),
            Purpose::Probe | Purpose::Spread => None,
        };
        let stamp = |of: &Self, node| of.members.get(&node).map(|m: &Member| m.stamp);
        let before = wanted.and_then(|node| stamp(self, node));
        self.hear(now, to, answer.claims(), wanted);
        self.contact(now, to);
        match (pending.purpose, answer) {
            // Anybody can say so; only the node itself can say something new.
            (Purpose::Help(node), Answer::Tried { reached: true, .. })
                if self.probes.contains_key(&node) && stamp(self, node) > before =>
            {
                self.alive(now, node, Evidence::Word);
            }
            (Purpose::Errand(asker, id), _) => self.run_errand(now, (asker, id), Some(to)),
            _ => {}
        }
    }

    /// Answers a question that was asked for another.
    fn run_errand(&mut self, now: Millis, errand: (NodeId, u64), reached: Option<NodeId>) {
        if self.errands.remove(&errand).is_none() {
            return;
        }
        let word = reached.and_then(|node| self.members.get(&node)).and_then(|m| m.word.clone());
        let mut claims: Vec<Signed<Claim>> = word.into_iter().collect();
        claims.extend(self.claims_for(now, errand.0));
        claims.truncate(self.pace.claims_max);
        self.reply(errand.0, errand.1, Answer::Tried { reached: reached.is_some(), claims });
    }

    fn failed(&mut self, now: Millis, to: NodeId, id: u64) {
        let Some(pending) = self.asks.remove(&id).filter(|p| p.to == to) else { return };
        match pending.purpose {
            Purpose::Probe => {
                if let Some(probe) = self.probes.get_mut(&to)
                    && probe.helpers_at.take().is_some()
                {
                    self.ask_helpers(now, to);
                }
            }
            Purpose::Errand(asker, id) => self.run_errand(now, (asker, id), None),
            Purpose::Help(_) | Purpose::Spread => {}
        }
    }

    // --- members come and go ---

    fn learned(&mut self, now: Millis, node: NodeId) {
        if node != self.me
            && let Some(displaced) = self.members.add(now, node, &self.pace)
        {
            self.drop_traces(displaced);
        }
    }

    fn forgot(&mut self, node: NodeId) {
        if self.members.remove(&node) {
            self.drop_traces(node);
        }
    }

    fn drop_traces(&mut self, node: NodeId) {
        self.probes.remove(&node);
        self.news.forget(node);
        self.suspects.retain(|n| *n != node);
        self.hinted.retain(|n| *n != node);
    }

    fn leave(&mut self, now: Millis) {
        self.say_anew(now, Life::Left, None);
        self.probes.clear();
        let me = self.me;
        for node in self.members.some_alive(GOODBYES, &me) {
            self.ping(now, node, Purpose::Spread);
        }
    }

    // --- time ---

    /// This node was stopped or asleep: nobody failed meanwhile.
    fn awake(&mut self, now: Millis) {
        self.probes.clear();
        self.next_round = now;
        let mut suspects = Vec::new();
        for (node, member) in self.members.iter_mut() {
            member.fails_no_more();
            if member.view.life == Life::Suspect {
                suspects.push(*node);
            }
        }
        for node in suspects {
            self.ask_again(node, true);
        }
    }

    fn round(&mut self, now: Millis) {
        self.rounds += 1;
        self.rechecks_left = self.pace.rechecks_per_round;
        self.asks.retain(|_, pending| pending.until > now);
        // Keeps its phase; after a pause, a new one.
        let next = self.next_round.after(self.pace.probe_ms);
        self.next_round = if next > now { next } else { now.after(self.pace.probe_ms) };
        let probes = &self.probes;
        let next = self.members.next(|node| !probes.contains_key(node));
        let is_for_down = self.rounds.is_multiple_of(self.pace.down_every);
        let down = if is_for_down {
            self.members.next_down(|node| !probes.contains_key(node))
        } else {
            None
        };
        for node in next.into_iter().chain(down) {
            self.probe(now, node);
        }
        if !self.news.is_empty() {
            let me = self.me;
            for node in self.members.some_alive(self.pace.spread, &me) {
                self.ping(now, node, Purpose::Spread);
            }
        }
    }

    fn expire(&mut self, now: Millis) {
        let due = |at: Millis| at <= now;
        let ended = self.probes.iter().filter(|(_, p)| due(p.ends)).map(|(node, _)| *node);
        for node in ended.collect::<Vec<_>>() {
            self.probe_failed(now, node);
        }
        let late = self.probes.iter_mut().filter(|(_, p)| p.helpers_at.is_some_and(due));
        let late = late.map(|(node, probe)| {
            probe.helpers_at = None;
            *node
        });
        for node in late.collect::<Vec<_>>() {
            self.ask_helpers(now, node);
        }
        let over = self.errands.iter().filter(|(_, until)| due(**until)).map(|(key, _)| *key);
        for errand in over.collect::<Vec<_>>() {
            self.run_errand(now, errand, None);
        }
    }
}

impl Machine for Membership {
    type Input = MembershipInput;
    type Output = MembershipOutput;

    fn handle(&mut self, now: Millis, input: MembershipInput) {
        if now.since(self.last_input) > self.pace.asleep_ms {
            self.awake(now);
        }
        self.last_input = now;
        match input {
            MembershipInput::Learned(node) => self.learned(now, node),
            MembershipInput::Forgot(node) => self.forgot(node),
            MembershipInput::Asked { from, id, ask } => self.asked(now, from, id, &ask),
            MembershipInput::Answered { to, id, answer } => self.answered(now, to, id, &answer),
            MembershipInput::Failed { to, id } => self.failed(now, to, id),
            MembershipInput::Observed(node) => self.contact(now, node),
            MembershipInput::Disk(disk) => {
                if self.word.body.disk.is_some_and(|known| known != disk) {
                    self.say_anew(now, Life::Alive, Some(disk));
                }
            }
            MembershipInput::Clock(unix) => self.clock = (now, unix),
            MembershipInput::Leave if self.word.body.life != Life::Left => self.leave(now),
            MembershipInput::Leave | MembershipInput::Tick => {}
        }
        self.expire(now);
        if self.word.body.life != Life::Left {
            if self.next_round <= now {
                self.round(now);
            }
            self.recheck(now);
        }
    }

    fn poll(&mut self) -> Option<MembershipOutput> {
        self.outputs.pop_front()
    }

    fn timeout(&self) -> Option<Millis> {
        let has_left = self.word.body.life == Life::Left;
        let round = (!has_left).then_some(self.next_round);
        let probes = self.probes.values().map(|p| p.helpers_at.unwrap_or(p.ends).min(p.ends));
        round.into_iter().chain(probes).chain(self.errands.values().copied()).min()
    }
}
