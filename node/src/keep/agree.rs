//! Bringing about the next version of a placement, as its proposer (SPEC.md,
//! section 18): the machine's questions, carried out.
//!
//! The claim is renewed while shards are moved.

use std::{future::Future, sync::Arc, time::Duration};

use echonet_archive::keeper::Presence;
use echonet_protocol::{
    agreement::{
        Answer, Ask, ProposeFailure, Proposer, ProposerConfig, ProposerInput, ProposerOutput,
    },
    identity::{NodeId, Signed},
    lease::Receipt,
    machine::Machine as _,
    placement_record::PlacementRecord,
};
use tokio::task::JoinSet;

use crate::{clock, core::Core, flow::driver::Stopwatch, serve};

/// Why there is no next version of this node's making.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgreeError {
    /// There is a later version, or another's change had to be finished.
    #[error("a later version is there already")]
    Overtaken,
    /// It came to nothing.
    #[error(transparent)]
    Failed(#[from] ProposeFailure),
}

/// What the machine came to.
#[derive(Debug)]
enum Step {
    Claimed,
    Committed { record: Box<PlacementRecord>, is_ours: bool },
    Overtaken,
    Failed(ProposeFailure),
}

/// A proposal under way.
pub(super) struct Proposal<'a> {
    core: &'a Arc<Core>,
    record: &'a PlacementRecord,
    machine: Proposer,
    watch: Stopwatch,
    asked: JoinSet<(NodeId, Option<Answer>)>,
    /// Something final that came while shards were moved.
    early: Option<Step>,
}

impl<'a> Proposal<'a> {
    /// Begins to claim that the indices `lost` change hands.
    ///
    /// # Errors
    /// [`AgreeError::Failed`] when this node is no holder.
    pub(super) fn begin(
        core: &'a Arc<Core>,
        record: &'a PlacementRecord,
        lost: &[u8],
    ) -> Result<Self, AgreeError> {
        let watch = Stopwatch::start();
        let (now, own, config) = (watch.now(), core.node_id(), ProposerConfig::default());
        let (copy, lost) = (record.clone(), lost.to_vec());
        let reachable = reachable(core, record);
        let scheme = record.descriptor.scheme;
        let is_weak = reachable.len() < scheme.change_quorum() && scheme.weak_quorum().is_some();
        let machine = if is_weak {
            Proposer::weak(now, config, own, copy, lost, &reachable)
        } else {
            Proposer::agreed(now, config, own, copy, lost, clock::random_u64())
        };
        let machine = machine?;
        Ok(Self { core, record, machine, watch, asked: JoinSet::new(), early: None })
    }

    /// Waits until enough holders go along.
    ///
    /// # Errors
    /// [`AgreeError`]; where another's change was finished, its record.
    pub(super) async fn claimed(&mut self) -> Result<Option<PlacementRecord>, AgreeError> {
        match self.step().await {
            Step::Claimed => Ok(None),
            Step::Committed { record, .. } => Ok(Some(*record)),
            Step::Overtaken => Err(AgreeError::Overtaken),
            Step::Failed(failure) => Err(failure.into()),
        }
    }

    /// Does something while the claim is renewed.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            if self.early.is_some() {
                return work.await;
            }
            tokio::select! {
                done = &mut work => return done,
                step = self.step() => self.early = Some(step),
            }
        }
    }

    /// Has the holders agree on a version with these receipts.
    ///
    /// # Errors
    /// [`AgreeError`]. Where another's change had to be finished, that is what comes back, and
    /// false.
    pub(super) async fn propose(
        &mut self,
        receipts: Vec<Signed<Receipt>>,
    ) -> Result<(PlacementRecord, bool), AgreeError> {
        self.machine.handle(self.watch.now(), ProposerInput::Propose { receipts });
        loop {
            let step = match self.early.take() {
                Some(step) => step,
                None => self.step().await,
            };
            match step {
                Step::Claimed => {}
                Step::Committed { record, is_ours } => return Ok((*record, is_ours)),
                Step::Overtaken => return Err(AgreeError::Overtaken),
                Step::Failed(failure) => return Err(failure.into()),
            }
        }
    }

    /// Drives the machine until it says something.
    async fn step(&mut self) -> Step {
        loop {
            while let Some(output) = self.machine.poll() {
                match output {
                    ProposerOutput::Ask { to, ask } => self.ask(to, *ask),
                    ProposerOutput::Claimed => return Step::Claimed,
                    ProposerOutput::Committed { record, is_ours } => {
                        return Step::Committed { record, is_ours };
                    }
                    ProposerOutput::Overtaken { record } => {
                        let bytes = record.encode();
                        if let Err(e) = serve::holder::keep_record(self.core, *record, bytes).await
                        {
                            tracing::debug!("a newer placement was not taken: {e}");
                        }
                        return Step::Overtaken;
                    }
                    ProposerOutput::Failed(failure) => return Step::Failed(failure),
                }
            }
            let wait = self.machine.timeout().map_or(Duration::MAX, |at| self.watch.until(at));
            let input = tokio::select! {
                Some(Ok((node, answer))) = self.asked.join_next() => match answer {
                    Some(answer) => ProposerInput::Answer { node, answer: Box::new(answer) },
                    None => ProposerInput::Unreachable { node },
                },
                () = tokio::time::sleep(wait) => ProposerInput::Tick,
            };
            self.machine.handle(self.watch.now(), input);
        }
    }

    fn ask(&mut self, to: NodeId, ask: Ask) {
        let core = Arc::clone(self.core);
        let is_gone = !is_reachable(&core, &to);
        self.asked.spawn(async move {
            // Who has not answered for a while is not waited for.
            if is_gone {
                return (to, None);
            }
            let answer = if to == core.node_id() {
                core.votes.answer(&core, to, ask).await.ok()
            } else {
                core.client.agree(&to, ask).await.map_err(|e| tracing::debug!("no vote: {e}")).ok()
            };
            (to, answer)
        });
    }

    /// The record that is to be followed.
    pub(super) const fn record(&self) -> &PlacementRecord {
        self.record
    }
}

fn is_reachable(core: &Core, node: &NodeId) -> bool {
    *node == core.node_id()
        || !matches!(core.keep.presence(node), Some(Presence::Unreachable { .. }))
}

fn reachable(core: &Core, record: &PlacementRecord) -> Vec<NodeId> {
    let holders = record.body.holders.iter().map(|(_, node)| *node);
    holders.filter(|node| is_reachable(core, node)).collect()
}
