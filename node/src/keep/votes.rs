//! This node's vote on placements (SPEC.md, section 18): questions in, durable
//! words out.
//!
//! One task decides, in the order of arrival, and makes what it decided durable
//! in groups before any of it is answered. It looks at this node's own
//! observations only.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use echonet_archive::{
    health::{Health, Policy, Shard, View},
    keeper::Presence,
};
use echonet_protocol::{
    agreement::{
        Answer, Ask, Asked, Facts, Voter, VoterConfig, VoterOutput, may_follow, room_elsewhere,
    },
    identity::NodeId,
    message::{Refusal, RefusalCode},
    placement::{Site, survives_datacenter},
    placement_record::PlacementRecord,
    segment::SegmentId,
    time::Epoch,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    PlacementName,
    ballots::{Ballots, Change},
    name_of, own_record, task,
};
use crate::{core::Core, flow::publish::store::snapshot, serve, serve::refuse};

/// Questions that wait, at most; further ones are told to come back.
const QUESTIONS_MAX: usize = 512;
/// Questions whose votes are made durable together, at most.
const GROUP_MAX: usize = 64;
/// A holder agrees a little before it would propose itself: nobody sees the same moment. Parts of
/// the grace, in thousandths.
const GRACE_PERMILLE: u64 = 750;

/// A question with all that is to be known for answering it.
#[derive(Debug)]
struct Question {
    from: NodeId,
    ask: Ask,
    known: Option<PlacementRecord>,
    /// Shards of which their holders said that they have them no more.
    said_lost: BTreeSet<(u8, NodeId)>,
    reply: oneshot::Sender<Answer>,
}

/// What the voter hears of.
#[derive(Debug)]
enum Heard {
    Question(Box<Question>),
    /// A record was taken into the vault.
    Followed(Box<PlacementRecord>),
}

/// The way to a node's vote.
#[derive(Debug)]
pub(crate) struct Votes {
    heard: mpsc::Sender<Heard>,
    waiting: Mutex<Option<mpsc::Receiver<Heard>>>,
}

impl Default for Votes {
    fn default() -> Self {
        let (heard, waiting) = mpsc::channel(QUESTIONS_MAX);
        Self { heard, waiting: Mutex::new(Some(waiting)) }
    }
}

impl Votes {
    /// Answers a holder that proposes.
    pub(crate) async fn answer(
        &self,
        core: &Arc<Core>,
        from: NodeId,
        ask: Ask,
    ) -> Result<Answer, Refusal> {
        let gone = |_| refuse(RefusalCode::Busy, "this node is ending; ask another");
        let Some(key) = name_in(&ask) else {
            return Ok(Answer::no("not a placement record"));
        };
        let known = own_record(core, key).await;
        let said_lost = said_lost(core, &from, &ask, known.as_ref()).await;
        let (reply, answer) = oneshot::channel();
        let question = Question { from, ask, known, said_lost, reply };
        let busy = |_| refuse(RefusalCode::Busy, "too many votes wait; ask again later");
        self.heard.try_send(Heard::Question(Box::new(question))).map_err(busy)?;
        answer.await.map_err(gone)
    }

    /// This node goes by a record from now on. Never waits, for the voter itself may be the one
    /// that took it; what it misses it forgets with the lease.
    pub(crate) fn followed(&self, record: &PlacementRecord) {
        if self.heard.try_send(Heard::Followed(Box::new(record.clone()))).is_err() {
            tracing::debug!("the voter has too much to do to forget what is over");
        }
    }
}

/// Which placement is asked about.
fn name_in(ask: &Ask) -> Option<PlacementName> {
    match ask {
        Ask::Promise { record, .. } | Ask::Weak { record, .. } => {
            let (segment, owner) = PlacementRecord::peek(record)?;
            Some(PlacementName { segment, owner })
        }
        Ask::Backing { at, .. } | Ask::Signature { at, .. } => {
            Some(PlacementName { segment: at.segment, owner: at.owner })
        }
    }
}

/// Asks those whose shards are to change hands, and who can be reached, whether they have them.
async fn said_lost(
    core: &Arc<Core>,
    from: &NodeId,
    ask: &Ask,
    known: Option<&PlacementRecord>,
) -> BTreeSet<(u8, NodeId)> {
    let Some(known) = known else { return BTreeSet::new() };
    let changes: Vec<u8> = match ask {
        Ask::Promise { lost, .. } | Ask::Weak { lost, .. } => lost.clone(),
        Ask::Backing { change, .. } => {
            let goes = |held: &&(u8, NodeId)| !change.holders.contains(held);
            known.body.holders.iter().filter(goes).map(|(index, _)| *index).collect()
        }
        Ask::Signature { .. } => Vec::new(),
    };
    let mut said = BTreeSet::new();
    for index in changes {
        let Some(holder) = known.body.holder(index) else { continue };
        if holder == *from || core.keep.presence(&holder) != Some(Presence::Reachable) {
            continue;
        }
        let shards = vec![(known.body.segment, index)];
        let has = match holder == core.node_id() {
            true => core.keep.has_own(core, known.body.segment, index).await,
            false => core.client.has_shards(&holder, shards).await.map_or(true, |has| has[0]),
        };
        if !has {
            said.insert((index, holder));
        }
    }
    said
}

/// What this node observed, for one question.
struct Observed<'a> {
    core: &'a Core,
    said_lost: &'a BTreeSet<(u8, NodeId)>,
}

impl Facts for Observed<'_> {
    fn epoch(&self) -> Epoch {
        self.core.epoch()
    }

    fn is_reachable(&self, node: &NodeId) -> bool {
        *node == self.core.node_id() || self.core.keep.presence(node) == Some(Presence::Reachable)
    }

    fn is_lost(&self, segment: &SegmentId, index: u8, holder: &NodeId) -> bool {
        let grace_ms = self.core.genesis.timing.grace_s.saturating_mul(GRACE_PERMILLE);
        let is_gone = match self.core.keep.presence(holder) {
            Some(Presence::Unreachable { since }) => {
                self.core.keep.watch().now().since(since) >= grace_ms
            }
            _ => false,
        };
        is_gone
            || self.said_lost.contains(&(index, *holder))
            || self.core.keep.is_convicted(segment, index, holder)
    }

    fn is_urgent(&self, record: &PlacementRecord) -> bool {
        let timing = &self.core.genesis.timing;
        let policy = Policy::of(record.descriptor.scheme, timing);
        let shard = |(_, node): &(u8, NodeId)| match self.core.keep.presence(node) {
            Some(Presence::Unreachable { since }) => Shard::Unreachable { since },
            _ => Shard::Reachable,
        };
        let holders = &record.body.holders;
        let sites: Vec<Site> = holders.iter().filter_map(|(_, node)| self.site(node)).collect();
        let is_safe = survives_datacenter(record.descriptor.scheme, &sites);
        let now = self.core.keep.watch().now();
        let view = View::of(holders.iter().map(shard), now, policy.grace_ms, is_safe);
        policy.health(view) >= Health::Urgent
    }

    fn site(&self, node: &NodeId) -> Option<Site> {
        task::site_of(self.core, node)
    }

    fn has_gone_over(&self, record: &PlacementRecord, holder: &NodeId) -> bool {
        self.core.keep.has_gone_over(name_of(record), holder)
    }

    fn elsewhere(&self, datacenter: &str, most: usize) -> usize {
        let candidates = snapshot(self.core);
        let takes = candidates.iter().filter(|candidate| candidate.accepts);
        room_elsewhere(datacenter, most, takes.map(|candidate| &candidate.site))
    }
}

/// Whether this node is to go by a record that wins over what it has (SPEC.md, section 9, "Weak
/// steps").
pub(crate) fn may_go_by(core: &Core, record: &PlacementRecord) -> bool {
    may_follow(record, &core.node_id(), &Observed { core, said_lost: &BTreeSet::new() })
}

/// Votes until the node stops.
pub(crate) async fn run(core: Arc<Core>) {
    let heard = core.votes.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (Some(mut heard), Some(_)) = (heard, core.vault.as_ref()) else { return };
    let Some((mut voter, ballots)) = open(&core).await else { return };
    let mut group = Vec::new();
    while heard.recv_many(&mut group, GROUP_MAX).await > 0 {
        voter.epoch(core.epoch());
        let answered = decide(&core, &mut voter, &ballots, std::mem::take(&mut group)).await;
        for (reply, answer) in answered {
            // Whoever asked may be gone.
            let _ = reply.send(answer);
        }
    }
}

/// The voter with what it made durable before. Where that is lost it abstains from whatever it
/// held then.
async fn open(core: &Arc<Core>) -> Option<(Voter, Arc<Ballots>)> {
    let path = core.config.data.join("ballots.redb");
    let opened = tokio::task::spawn_blocking(move || Ballots::open(&path)).await;
    let opened = match opened.map_err(|e| e.to_string()).and_then(|o| o.map_err(|e| e.to_string()))
    {
        Ok(opened) => opened,
        Err(e) => {
            tracing::error!("{e}; this node does not vote, and repairs nothing");
            return None;
        }
    };
    let config = VoterConfig::default();
    let voter = Voter::new(core.identity.clone(), core.network, config, opened.rows);
    let mut voter = voter.map_err(|e| tracing::error!("{e}")).ok()?;
    if opened.is_lost {
        for record in super::all_records(core).await {
            voter.abstain(&record);
        }
    }
    Some((voter, Arc::new(opened.ballots)))
}

type Answered = Vec<(oneshot::Sender<Answer>, Answer)>;

/// Decides a group of questions and makes the votes durable.
async fn decide(
    core: &Arc<Core>,
    voter: &mut Voter,
    ballots: &Arc<Ballots>,
    group: Vec<Heard>,
) -> Answered {
    let (mut replies, mut work) = (Vec::new(), Work::default());
    for heard in group {
        match heard {
            Heard::Question(question) => {
                let Question { from, ask, known, said_lost, reply } = *question;
                let ticket = replies.len() as u64;
                replies.push(Some(reply));
                let observed = Observed { core, said_lost: &said_lost };
                let asked = Asked { ticket, from, ask };
                voter.ask(core.keep.watch().now(), asked, known.as_ref(), &observed);
            }
            Heard::Followed(record) => voter.follow(&record),
        }
        work.take(voter);
    }
    for record in std::mem::take(&mut work.adopted) {
        let bytes = record.encode();
        if let Err(e) = serve::holder::keep_record(core, record, bytes).await {
            tracing::warn!("a newer placement was not taken: {e}");
        }
    }
    let is_durable = write(ballots, std::mem::take(&mut work.rows)).await;
    for ticket in std::mem::take(&mut work.tickets) {
        if is_durable { voter.persisted(ticket) } else { voter.not_persisted(ticket) }
    }
    work.take(voter);
    let find = |(ticket, answer): (u64, Answer)| {
        let reply = replies.get_mut(usize::try_from(ticket).ok()?)?.take()?;
        Some((reply, answer))
    };
    work.answers.into_iter().filter_map(find).collect()
}

/// What the voter wants done.
#[derive(Default)]
struct Work {
    rows: Vec<Change>,
    tickets: Vec<u64>,
    adopted: Vec<PlacementRecord>,
    answers: Vec<(u64, Answer)>,
}

impl Work {
    fn take(&mut self, voter: &mut Voter) {
        while let Some(output) = voter.poll() {
            match output {
                VoterOutput::Persist { ticket, key, row, adopt } => {
                    self.rows.push((key.to_vec(), Some(row)));
                    self.tickets.push(ticket);
                    self.adopted.extend(adopt.map(|record| *record));
                }
                VoterOutput::Forget { key } => self.rows.push((key.to_vec(), None)),
                VoterOutput::Answer { ticket, answer } => self.answers.push((ticket, *answer)),
            }
        }
    }
}

/// Makes rows durable; whether that worked.
async fn write(ballots: &Arc<Ballots>, rows: Vec<Change>) -> bool {
    if rows.is_empty() {
        return true;
    }
    let ballots = Arc::clone(ballots);
    let written = tokio::task::spawn_blocking(move || ballots.write(&rows)).await;
    match written.map_err(|e| e.to_string()).and_then(|w| w.map_err(|e| e.to_string())) {
        Ok(()) => true,
        Err(e) => {
            tracing::error!("{e}");
            false
        }
    }
}
