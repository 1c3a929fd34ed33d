//! The asker of a witness: has what is due gathered when an epoch begins, carries out the
//! questions of `echonet_witness::auditor`, and writes down what was found.
//!
//! Order of things: verdict and case durable, then whoever they concern is told; all of an epoch
//! durable, then its digest, once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use echonet_protocol::{
    audit::{Answer, Ask, AuditAnswer},
    bytes::RecordHash,
    data::rows::Rows,
    identity::{NodeId, Signed},
    machine::{Machine as _, Millis},
    node_descriptor::Roles,
    params,
    time::Epoch,
};
use echonet_witness::{
    auditor::{AskId, Auditor, DuePlacement, EpochBegun, Found, Input, Output},
    evidence::Case,
    verdicts::Chain,
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Look, cases, digests,
    gather::{self, Gathered},
    locked,
};
use crate::{clock, core::Core, flow::driver::Stopwatch, members::Member};

/// How often at least an epoch's end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Verdicts written down at once.
const GROUP_MAX: usize = 64;

/// What a holder signed, not yet verified, and the proof that came with it.
type Answered = (Box<Signed<AuditAnswer>>, Option<Vec<u8>>);

/// What a question came to.
struct Asked {
    ask: AskId,
    answer: Option<Answered>,
}

struct Driver {
    core: Arc<Core>,
    machine: Auditor<Rows>,
    chain: Chain,
    watch: Stopwatch,
    /// The epoch whose digest is open.
    open: Epoch,
    /// Whether the open epoch's questions have begun.
    has_begun: bool,
    /// Encoded placement records of the open epoch, by body.
    placements: BTreeMap<RecordHash, Arc<[u8]>>,
    due: Vec<DuePlacement>,
    asked: JoinSet<Asked>,
    gathering: JoinSet<Gathered>,
    told: JoinSet<()>,
    found: Vec<Found>,
}

/// Asks until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    if !core.config.roles.has(Roles::WITNESS) || !core.audit.is_audited() {
        return;
    }
    let Some(looks) = locked(&core.audit.waiting).take() else { return };
    match Driver::new(core).await {
        Ok(driver) => driver.drive(looks).await,
        Err(e) => tracing::error!("{e}; this witness asks nobody"),
    }
}

impl Driver {
    /// Goes on where its own verdicts end.
    async fn new(core: Arc<Core>) -> Result<Self, String> {
        let (me, network, open) = (core.node_id(), core.network, core.epoch());
        let identity = core.identity.clone();
        let reader = Arc::clone(&core);
        let read = tokio::task::spawn_blocking(move || {
            digests::own_open(&reader.audit.ledger, &network, &me, open)
        });
        let own = read.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let chain = Chain::resume(identity.clone(), network, &own, open);
        Ok(Self {
            machine: Auditor::new(identity, network, core.audit.rates, Rows),
            core,
            chain,
            watch: Stopwatch::start(),
            open,
            has_begun: false,
            placements: BTreeMap::new(),
            due: Vec::new(),
            asked: JoinSet::new(),
            gathering: JoinSet::new(),
            told: JoinSet::new(),
            found: Vec::new(),
        })
    }

    async fn drive(mut self, mut looks: mpsc::Receiver<Look>) {
        loop {
            if self.core.epoch() > self.open {
                self.end().await;
            }
            self.begin();
            self.tell(Input::Tick);
            self.write_down().await;
            let at = self.machine.timeout().map_or(LOOK_EVERY, |at| self.watch.until(at));
            tokio::select! {
                Some(look) = looks.recv() => self.look(look),
                Some(done) = self.asked.join_next() => if let Ok(asked) = done {
                    self.answered(asked);
                },
                Some(done) = self.gathering.join_next() => if let Ok(gathered) = done {
                    self.gathered(gathered);
                },
                Some(_) = self.told.join_next() => {}
                () = tokio::time::sleep(at.clamp(Duration::from_millis(1), LOOK_EVERY)) => {}
            }
        }
    }

    fn tell(&mut self, input: Input) {
        self.machine.handle(self.watch.now(), input);
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Ask { ask, holder, challenge, index, deadline } => {
                    let question = Ask::Audit { challenge: Box::new(challenge), index };
                    self.ask(ask, holder, question, deadline);
                }
                Output::Look { members, challenge, index } => {
                    for member in members {
                        let core = Arc::clone(&self.core);
                        let ask = Ask::Look { challenge: Box::new(challenge.clone()), index };
                        // Who is not reached looks at nothing: its word is missing then.
                        self.told
                            .spawn(async move { drop(core.client.witness(&member, ask).await) });
                    }
                }
                Output::Found(found) => self.found.push(*found),
            }
        }
    }

    fn ask(&mut self, ask: AskId, holder: NodeId, question: Ask, deadline: Millis) {
        let (core, left) = (Arc::clone(&self.core), self.watch.until(deadline));
        self.asked.spawn(async move {
            let call = tokio::time::timeout(left, core.client.witness(&holder, question)).await;
            let answer = match call {
                Ok(Ok(Answer::Answer { answer, slice })) => {
                    Some((answer, slice.map(serde_bytes::ByteBuf::into_vec)))
                }
                Ok(Ok(_)) | Err(_) => None,
                Ok(Err(e)) => {
                    tracing::debug!("a question was not answered: {e}");
                    None
                }
            };
            Asked { ask, answer }
        });
    }

    fn answered(&mut self, Asked { ask, answer }: Asked) {
        self.tell(match answer {
            Some((answer, slice)) => Input::Answered { ask, answer, slice },
            None => Input::Failed { ask },
        });
    }

    /// Has what is due gathered, once the epoch's beacon is known.
    fn begin(&mut self) {
        let epoch = self.open;
        let is_member = self.core.audit.sets.at(epoch).contains(&self.core.node_id());
        let Some(beacon) = self.core.audit.beacon(epoch) else { return };
        if self.has_begun || !is_member {
            return;
        }
        self.has_begun = true;
        let core = Arc::clone(&self.core);
        self.gathering.spawn(async move { gather::gather(&core, beacon, Vec::new()).await });
    }

    fn gathered(&mut self, gathered: Gathered) {
        let Gathered { beacon, due, placements, inventories } = gathered;
        if beacon.epoch() != self.open {
            return;
        }
        (self.due, self.placements) = (due.clone(), placements);
        let started_ms = self.core.genesis.epoch_start(self.open).0.saturating_mul(1000);
        let since_ms = clock::now_ms().saturating_sub(started_ms);
        let started = Millis(self.watch.now().0.saturating_sub(since_ms));
        let begun = EpochBegun {
            beacon,
            started,
            members: self.core.audit.sets.at(self.open).to_vec(),
            due,
            inventories: inventories.into_iter().collect(),
            excluded: excluded(&self.core),
            held_bytes: BTreeMap::new(),
        };
        self.tell(Input::Begun(Box::new(begun)));
    }

    fn look(&mut self, Look { challenge, index }: Look) {
        let body = &challenge.body;
        let same =
            |due: &&DuePlacement| due.segment == body.segment && due.inventory == body.inventory;
        let Some(placement) = self.due.iter().find(same).cloned() else { return };
        self.tell(Input::Look { challenge, index, placement: Box::new(placement) });
    }

    /// Ends the open epoch: what was found is written down, and its digest given out.
    async fn end(&mut self) {
        self.tell(Input::Ended);
        while !self.found.is_empty() {
            if !self.write_down().await {
                return;
            }
        }
        let digest = self.chain.close(self.open);
        self.open = self.core.epoch();
        (self.has_begun, self.due) = (false, Vec::new());
        self.placements.clear();
        let core = Arc::clone(&self.core);
        let kept = tokio::task::spawn_blocking({
            let digest = digest.clone();
            move || {
                core.audit.ledger.put_digests(&[digest])?;
                let (epoch, epoch_s) = (core.epoch(), core.genesis.epoch_s);
                core.audit.ledger.prune(&core.network, epoch, epoch_s)
            }
        });
        match kept.await.map_err(|e| e.to_string()).and_then(|k| k.map_err(|e| e.to_string())) {
            Ok(()) => {
                let core = Arc::clone(&self.core);
                self.told.spawn(async move { digests::give_out(&core, digest).await });
            }
            Err(e) => tracing::error!("a digest was not given out: {e}"),
        }
    }

    /// Chains what was found and makes it durable; then tells whom it concerns. Whether that
    /// worked.
    async fn write_down(&mut self) -> bool {
        if self.found.is_empty() {
            return true;
        }
        let count = self.found.len().min(GROUP_MAX);
        // A chain that is ahead of the disk would be a fork after a crash.
        let (mut chain, mut group) = (self.chain.clone(), Vec::new());
        for found in self.found.drain(..count) {
            let Found { finding, slices, inconsistency } = found;
            if let Some(proof) = inconsistency {
                tracing::warn!(
                    "segment {} is no codeword: its publisher's fault",
                    proof.segment_id()
                );
            }
            let placement = self.placements.get(&finding.placement).map(|bytes| bytes.to_vec());
            let verdict = chain.push(finding);
            let v = params::FORMAT_VERSION;
            let case =
                placement.map(|placement| Case { v, verdict: verdict.clone(), placement, slices });
            group.push((verdict, case));
        }
        let (core, written) = (Arc::clone(&self.core), group.clone());
        let kept = tokio::task::spawn_blocking(move || core.audit.ledger.put(&written)).await;
        match kept.map_err(|e| e.to_string()).and_then(|k| k.map_err(|e| e.to_string())) {
            Ok(()) => self.chain = chain,
            Err(e) => {
                tracing::error!("what was found in {count} rows is lost: {e}");
                return false;
            }
        }
        for case in group.into_iter().filter_map(|(_, case)| case) {
            if case.verdict.body.results.iter().any(|result| result.outcome.is_against()) {
                let core = Arc::clone(&self.core);
                self.told.spawn(async move { cases::tell(&core, case).await });
            }
        }
        true
    }
}

/// Holders that this witness leaves to others: itself, its operator's, its own network's.
fn excluded(core: &Core) -> BTreeSet<NodeId> {
    let own = &core.config.labels.operator;
    let prefix =
        core.endpoint.bound().first().map(|addr| crate::net::address::prefix_of_ip(addr.ip()));
    let is_near = |member: &Member| {
        (!own.is_empty() && member.descriptor.body.labels.operator == *own)
            || Some(member.prefix()) == prefix
    };
    let near = core.members.all().into_iter().filter(is_near);
    near.map(|member| member.descriptor.body.node).chain([core.node_id()]).collect()
}
