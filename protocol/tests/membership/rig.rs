//! One member alone, whose surroundings the test plays by hand.

use echonet_protocol::{
    identity::{NodeId, Signed},
    machine::{Machine, Millis},
    membership::{
        Answer, Ask, Claim, DiskHealth, Life, Membership, MembershipInput, MembershipOutput,
        MembershipStart, Pace, View,
    },
    network::Timing,
    time::UnixSeconds,
};

use crate::world::{NETWORK, UNIX, claim, identity};

pub(crate) struct Rig {
    pub(crate) machine: Membership,
    pub(crate) now: u64,
    pub(crate) pace: Pace,
    pub(crate) outputs: Vec<MembershipOutput>,
    asked: u64,
}

pub(crate) fn node(n: usize) -> NodeId {
    identity(n).node_id()
}

/// A node's word, said `after_s` seconds after the rig began.
pub(crate) fn word(n: usize, incarnation: u64, life: Life, after_s: u64) -> Signed<Claim> {
    let (claimant, disk) = (node(n), (life == Life::Alive).then_some(DiskHealth::Healthy));
    let at = UnixSeconds(UNIX + after_s);
    let (v, network, about) = (1, NETWORK, claimant);
    let body = Claim { v, network, claimant, about, incarnation, life, disk, at };
    Signed::new(&identity(n), body)
}

/// What node `by` says about node `about`, when the rig begins.
pub(crate) fn rumour(by: usize, about: usize, incarnation: u64, life: Life) -> Signed<Claim> {
    claim(by, node(about), incarnation, life, UnixSeconds(UNIX))
}

impl Rig {
    /// Node 0, who knows the names of the nodes up to `nodes`.
    pub(crate) fn new(nodes: usize) -> Self {
        Self::with(nodes, Pace::of(&Timing::PRODUCTION))
    }

    pub(crate) fn with(nodes: usize, pace: Pace) -> Self {
        let start = MembershipStart {
            identity: identity(0),
            network: NETWORK,
            group: (0..nodes).map(node).collect(),
            pace,
            unix: UnixSeconds(UNIX),
            disk: DiskHealth::Healthy,
            seed: 3,
        };
        let machine = Membership::new(Millis(0), start);
        Self { machine, now: 0, pace, outputs: Vec::new(), asked: 0 }
    }

    /// Gives an input; what came out.
    pub(crate) fn input(&mut self, input: MembershipInput) -> Vec<MembershipOutput> {
        self.machine.handle(Millis(self.now), input);
        let outputs: Vec<_> = std::iter::from_fn(|| self.machine.poll()).collect();
        self.outputs.extend(outputs.iter().cloned());
        outputs
    }

    /// Lets time pass; nobody answers anything. What came out.
    pub(crate) fn pass(&mut self, ms: u64) -> Vec<MembershipOutput> {
        let (until, mut outputs) = (self.now + ms, Vec::new());
        while let Some(at) = self.machine.timeout().filter(|at| at.0 <= until) {
            assert!(at.0 > self.now, "a timeout is later than the last input");
            self.now = at.0;
            outputs.extend(self.input(MembershipInput::Tick));
        }
        self.now = until;
        outputs
    }

    /// Node `from` asks; the answer, where it comes at once.
    pub(crate) fn ask(&mut self, from: usize, ask: Ask) -> Option<Answer> {
        self.asked += 1;
        let id = self.asked;
        let outputs = self.input(MembershipInput::Asked { from: node(from), id, ask });
        outputs.into_iter().find_map(|output| match output {
            MembershipOutput::Reply { id: of, answer, .. } if of == id => Some(answer),
            _ => None,
        })
    }

    /// Node `from` asks with these claims; the claims of the answer.
    pub(crate) fn ping(&mut self, from: usize, claims: Vec<Signed<Claim>>) -> Vec<Signed<Claim>> {
        self.ask(from, Ask::Ping { claims }).unwrap().claims().to_vec()
    }

    pub(crate) fn view(&self, n: usize) -> View {
        self.machine.member(&node(n)).unwrap()
    }

    pub(crate) fn own_incarnation(&self) -> u64 {
        self.machine.word(&node(0)).unwrap().body.incarnation
    }
}

/// Questions to a node: their numbers, and what they ask.
pub(crate) fn asks_to(outputs: &[MembershipOutput], n: usize) -> Vec<(u64, Ask)> {
    let to_node = |output: &MembershipOutput| match output {
        MembershipOutput::Ask { to, id, ask } if *to == node(n) => Some((*id, ask.clone())),
        _ => None,
    };
    outputs.iter().filter_map(to_node).collect()
}

/// Whom to ask about a node: the questions to others that name it.
pub(crate) fn asks_for(outputs: &[MembershipOutput], n: usize) -> Vec<(NodeId, u64)> {
    let for_node = |output: &MembershipOutput| match output {
        MembershipOutput::Ask { to, id, ask: Ask::PingFor { node: about, .. } }
            if *about == node(n) =>
        {
            Some((*to, *id))
        }
        _ => None,
    };
    outputs.iter().filter_map(for_node).collect()
}

pub(crate) fn hints(outputs: &[MembershipOutput]) -> usize {
    outputs.iter().filter(|o| matches!(o, MembershipOutput::Hint(_))).count()
}

/// The lives that were told of a node, in order.
pub(crate) fn lives(outputs: &[MembershipOutput], n: usize) -> Vec<Life> {
    let of_node = |output: &MembershipOutput| match output {
        MembershipOutput::Changed { node: about, view } if *about == node(n) => Some(view.life),
        _ => None,
    };
    outputs.iter().filter_map(of_node).collect()
}
