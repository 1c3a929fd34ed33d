//! Membership (SPEC.md, section 17), driven: members are asked in turn, claims
//! travel along, and what is said about others becomes hints for this node's own
//! probes.
//!
//! It decides nothing about shards: see the prober.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use echonet_protocol::{
    identity::NodeId,
    machine::Machine as _,
    membership::{
        Answer, Ask, DiskHealth, Life, Membership, MembershipInput, MembershipOutput,
        MembershipStart, Pace,
    },
    message::{Refusal, RefusalCode},
    node_descriptor::Roles,
    time::UnixSeconds,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::Event;
use crate::{clock, core::Core, flow::driver::Stopwatch, serve::refuse};

/// Questions of others that wait, at most; further ones are told to come back.
const QUESTIONS_MAX: usize = 256;
/// Roles whose nodes are members.
const ROLES: [Roles; 3] = [Roles::STORAGE, Roles::ARCHIVE, Roles::WITNESS];
/// How often the members known here are compared with the group.
const GROUP_S: u64 = 2;

struct Question {
    from: NodeId,
    ask: Ask,
    reply: oneshot::Sender<Answer>,
}

/// A member's state as `echonet peers` shows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemberState {
    /// Whether it lives.
    pub(crate) life: Life,
    /// What it says about its disk.
    pub(crate) disk: Option<DiskHealth>,
    /// Since when.
    pub(crate) since: UnixSeconds,
}

impl MemberState {
    /// Its name for people and programs.
    pub(crate) const fn name(self) -> &'static str {
        match (self.life, self.disk) {
            (Life::Alive, Some(DiskHealth::Sick)) => "disk-sick",
            (Life::Alive, _) => "reachable",
            (Life::Suspect, _) => "suspect",
            (Life::Down, _) => "down",
            (Life::Left, _) => "left",
        }
    }
}

/// The way to a node's membership.
#[derive(Debug)]
pub(crate) struct Swim {
    questions: mpsc::Sender<Question>,
    waiting: Mutex<Option<mpsc::Receiver<Question>>>,
    states: Mutex<BTreeMap<NodeId, MemberState>>,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Default for Swim {
    fn default() -> Self {
        let (questions, waiting) = mpsc::channel(QUESTIONS_MAX);
        Self { questions, waiting: Mutex::new(Some(waiting)), states: Mutex::default() }
    }
}

impl Swim {
    /// Answers another member.
    pub(crate) async fn answer(&self, from: NodeId, ask: Ask) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        let busy = |_| refuse(RefusalCode::Busy, "too many questions; ask again later");
        self.questions.try_send(Question { from, ask, reply }).map_err(busy)?;
        answer.await.map_err(|_| refuse(RefusalCode::Busy, "not answered; ask again later"))
    }

    /// What is made of a member, where anything is.
    pub(crate) fn state(&self, node: &NodeId) -> Option<MemberState> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).get(node).copied()
    }

    fn set(&self, node: NodeId, state: Option<MemberState>) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        match state {
            Some(state) => drop(states.insert(node, state)),
            None => drop(states.remove(&node)),
        }
    }
}

/// What a question of this node's own came to.
struct Asked {
    to: NodeId,
    id: u64,
    answer: Option<Answer>,
    /// It answered something, a refusal perhaps.
    is_there: bool,
}

struct Driver {
    core: Arc<Core>,
    machine: Membership,
    pace: Pace,
    watch: Stopwatch,
    asked: JoinSet<Asked>,
    replies: BTreeMap<u64, oneshot::Sender<Answer>>,
    next_id: u64,
    group: BTreeSet<NodeId>,
    clock: UnixSeconds,
    grouped: UnixSeconds,
}

/// Takes part in the membership until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    let questions = core.swim.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut questions) = questions else { return };
    if !ROLES.iter().any(|role| core.config.roles.has(*role)) {
        return;
    }
    let watch = Stopwatch::start();
    let pace = Pace::of(&core.genesis.timing);
    let unix = clock::now();
    let start = MembershipStart {
        identity: core.identity.clone(),
        network: core.network,
        group: Vec::new(),
        pace,
        unix,
        disk: disk(&core),
        seed: clock::random_u64(),
    };
    let mut driver = Driver {
        machine: Membership::new(watch.now(), start),
        core,
        pace,
        watch,
        asked: JoinSet::new(),
        replies: BTreeMap::new(),
        next_id: 0,
        group: BTreeSet::new(),
        clock: unix,
        grouped: UnixSeconds(0),
    };
    loop {
        driver.tick();
        let at = driver.machine.timeout().map_or(Duration::from_secs(1), |at| watch.until(at));
        tokio::select! {
            Some(question) = questions.recv() => driver.question(question),
            Some(Ok(asked)) = driver.asked.join_next() => driver.answered(asked),
            () = tokio::time::sleep(at.clamp(Duration::from_millis(1), Duration::from_secs(1))) => {}
        }
    }
}

/// Health of this node's own disk: a vault that stopped takes and gives nothing any more.
fn disk(core: &Core) -> DiskHealth {
    let is_sick = core.vault.as_ref().is_some_and(echonet_vault::Vault::stopped);
    if is_sick { DiskHealth::Sick } else { DiskHealth::Healthy }
}

impl Driver {
    fn tell(&mut self, input: MembershipInput) {
        self.machine.handle(self.watch.now(), input);
        while let Some(output) = self.machine.poll() {
            match output {
                MembershipOutput::Ask { to, id, ask } => self.ask(to, id, ask),
                MembershipOutput::Reply { id, answer, .. } => {
                    if let Some(reply) = self.replies.remove(&id) {
                        // Whoever asked may be gone.
                        let _ = reply.send(answer);
                    }
                }
                MembershipOutput::Changed { node, view } => {
                    let ago_s = self.watch.now().since(view.since) / 1000;
                    let since = UnixSeconds(clock::now().0.saturating_sub(ago_s));
                    let state = MemberState { life: view.life, disk: view.disk, since };
                    self.core.swim.set(node, Some(state));
                    self.core.keep.set_sick(node, view.disk == Some(DiskHealth::Sick));
                }
                MembershipOutput::Hint(node) => self.core.keep.hint(Event::Hint(node)),
            }
        }
    }

    /// The clock, the disk and the group, now and then.
    fn tick(&mut self) {
        let clock = clock::now();
        if clock != self.clock {
            self.clock = clock;
            self.tell(MembershipInput::Clock(clock));
            self.tell(MembershipInput::Disk(disk(&self.core)));
            // Whoever asked and was not answered is gone by now.
            self.replies.retain(|_, reply| !reply.is_closed());
        }
        if clock.0 >= self.grouped.0 + GROUP_S {
            self.grouped = clock;
            self.regroup();
        }
        self.tell(MembershipInput::Tick);
    }

    /// Tells the machine who joined the group and who is forgotten.
    fn regroup(&mut self) {
        let members = self.core.members.all();
        let is_member = |m: &&crate::members::Member| {
            ROLES.iter().any(|role| m.descriptor.body.roles.has(*role))
        };
        let group: BTreeSet<NodeId> =
            members.iter().filter(is_member).map(|m| m.descriptor.body.node).collect();
        let before = std::mem::replace(&mut self.group, group.clone());
        for node in group.difference(&before) {
            self.tell(MembershipInput::Learned(*node));
        }
        for node in before.difference(&group) {
            self.tell(MembershipInput::Forgot(*node));
            self.core.swim.set(*node, None);
        }
    }

    fn question(&mut self, question: Question) {
        let Question { from, ask, reply } = question;
        self.next_id += 1;
        self.replies.insert(self.next_id, reply);
        self.tell(MembershipInput::Asked { from, id: self.next_id, ask });
    }

    fn ask(&mut self, to: NodeId, id: u64, ask: Ask) {
        let core = Arc::clone(&self.core);
        let patience = Duration::from_millis(self.pace.probe_fails_ms.max(1_000));
        self.asked.spawn(async move {
            let answer = tokio::time::timeout(patience, core.client.membership(&to, ask)).await;
            match answer {
                Ok(Ok(answer)) => Asked { to, id, answer: Some(answer), is_there: true },
                Ok(Err(e)) => Asked { to, id, answer: None, is_there: e.refusal().is_some() },
                Err(_) => Asked { to, id, answer: None, is_there: false },
            }
        });
    }

    fn answered(&mut self, asked: Asked) {
        let Asked { to, id, answer, is_there } = asked;
        if is_there {
            self.core.keep.hint(Event::Heard(to));
        }
        match answer {
            Some(answer) => self.tell(MembershipInput::Answered { to, id, answer }),
            None => {
                if is_there {
                    self.tell(MembershipInput::Observed(to));
                }
                self.tell(MembershipInput::Failed { to, id });
            }
        }
    }
}
