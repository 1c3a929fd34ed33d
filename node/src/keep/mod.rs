//! Keeping what this node and others hold: drives the keeper, asks co-holders,
//! carries out repairs and hand-overs, and takes part in agreeing on the next
//! placement.
//!
//! What is decided is decided by `echonet_archive::keeper` and the agreement
//! machines; here are their effects. Nothing is announced before it is durable.

mod agree;
mod ballots;
mod commit;
mod drain;
mod driver;
mod heal;
mod membership;
mod outbox;
mod place;
mod rebalance;
mod rebuild;
mod repair;
mod task;
mod votes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use echonet_archive::keeper::{self, Key as PlacementName};
use echonet_protocol::{
    identity::NodeId,
    placement_record::{PlacementRecord, Strength},
    segment::SegmentId,
};
use echonet_vault::Key;
use tokio::sync::mpsc;

use crate::{core::Core, flow::driver::Stopwatch, service::RepairStatus};

pub(crate) use self::{
    drain::drain,
    driver::run,
    membership::{Swim, run as take_part},
    outbox::{Outbox, run as put_out},
    rebalance::run as rebalance,
    votes::{Votes, may_go_by, run as vote},
};

/// Events that wait for the driver, at most; whoever tells more waits.
const EVENTS_MAX: usize = 1024;

/// Shards of which a witness showed that they are lost, remembered at most.
const CONVICTED_MAX: usize = 65_536;

/// Placements of which it is remembered who went over to a weak record, at most.
const GONE_OVER_MAX: usize = 4096;

/// What others tell the driver.
#[derive(Debug)]
pub(crate) enum Event {
    /// A record that names this node, or follows one that did, became durable in its vault.
    Held(Box<PlacementRecord>),
    /// The scrubber set a shard aside.
    Damaged(Key),
    /// Shards were collected: what is not in the vault any more is forgotten.
    Collected,
    /// A segment was read by somebody.
    Read(SegmentId),
    /// Somebody says that a node is gone: a hint to ask it.
    Hint(NodeId),
    /// A node answered something.
    Heard(NodeId),
    /// A witness showed by its holder's own signature that a shard is not there.
    Convicted {
        /// The holder.
        holder: NodeId,
        /// Of which segment.
        segment: SegmentId,
        /// Which shard.
        index: u8,
    },
    /// Everything is to be handed over.
    Drain,
    /// A node joined that this node's shard of a placement belongs to.
    Joined {
        /// Who.
        to: NodeId,
        /// Which placement.
        key: PlacementName,
    },
}

/// The way to a node's keeping, and what it did so far.
#[derive(Debug)]
pub(crate) struct Keep {
    events: mpsc::Sender<Event>,
    waiting: Mutex<Option<mpsc::Receiver<Event>>>,
    status: Mutex<RepairStatus>,
    presences: Mutex<BTreeMap<NodeId, keeper::Presence>>,
    sick: Mutex<BTreeSet<NodeId>>,
    /// Who told this node that it goes by a weak record, by placement.
    gone_over: Mutex<BTreeMap<PlacementName, BTreeSet<NodeId>>>,
    /// Shards that are lost by their holder's own signature.
    convicted: Mutex<BTreeSet<(SegmentId, u8, NodeId)>>,
    is_draining: AtomicBool,
    has_settled: AtomicBool,
    watch: Stopwatch,
}

impl Default for Keep {
    fn default() -> Self {
        let (events, waiting) = mpsc::channel(EVENTS_MAX);
        Self {
            events,
            waiting: Mutex::new(Some(waiting)),
            status: Mutex::default(),
            presences: Mutex::default(),
            sick: Mutex::default(),
            gone_over: Mutex::default(),
            convicted: Mutex::default(),
            is_draining: AtomicBool::new(false),
            has_settled: AtomicBool::new(false),
            watch: Stopwatch::start(),
        }
    }
}

impl Keep {
    /// Tells the driver; waits while it has too much to do.
    pub(crate) async fn tell(&self, event: Event) {
        // Only at the end of the node there is nobody to be told.
        let _ = self.events.send(event).await;
    }

    /// Tells the driver if it has time: for what will be found out anyway.
    pub(crate) fn hint(&self, event: Event) {
        let _ = self.events.try_send(event);
    }

    /// What was done so far.
    pub(crate) fn status(&self) -> RepairStatus {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this node hands over what it has and takes nothing new.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
        self.has_settled.store(false, Ordering::Relaxed);
    }

    fn settled(&self) {
        self.has_settled.store(true, Ordering::Relaxed);
    }

    /// Whether the driver has looked at everything since draining began.
    fn has_settled(&self) -> bool {
        self.has_settled.load(Ordering::Relaxed)
    }

    /// The clock that everything here goes by.
    const fn watch(&self) -> &Stopwatch {
        &self.watch
    }

    /// Whether this node itself has a shard.
    async fn has_own(&self, core: &Core, segment: SegmentId, index: u8) -> bool {
        let Some(vault) = core.vault.clone() else { return false };
        let key = Key { segment: segment.0, index };
        let found = tokio::task::spawn_blocking(move || matches!(vault.get(key), Ok(Some(_))));
        found.await.unwrap_or(false)
    }

    fn count(&self, change: impl FnOnce(&mut RepairStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What this node's own probes say of another, where they say anything.
    fn presence(&self, node: &NodeId) -> Option<keeper::Presence> {
        let presences = self.presences.lock().unwrap_or_else(PoisonError::into_inner);
        presences.get(node).copied()
    }

    fn set_presence(&self, node: NodeId, presence: Option<keeper::Presence>) {
        let mut presences = self.presences.lock().unwrap_or_else(PoisonError::into_inner);
        match presence {
            Some(presence) => drop(presences.insert(node, presence)),
            None => drop(presences.remove(&node)),
        }
    }

    /// Whether a node says itself that its disk fails.
    fn is_sick(&self, node: &NodeId) -> bool {
        let sick = self.sick.lock().unwrap_or_else(PoisonError::into_inner);
        sick.contains(node)
    }

    fn set_sick(&self, node: NodeId, is_sick: bool) {
        let mut sick = self.sick.lock().unwrap_or_else(PoisonError::into_inner);
        if is_sick {
            sick.insert(node)
        } else {
            sick.remove(&node)
        };
    }

    /// A holder handed over a weak record: it goes by that.
    pub(crate) fn goes_over(&self, record: &PlacementRecord, holder: NodeId) {
        let named = record.lineage.iter().flat_map(|step| &step.holders);
        let is_holder = named.chain(&record.body.holders).any(|(_, node)| *node == holder);
        if record.strength() == Strength::Quorum || !is_holder {
            return;
        }
        let mut gone_over = self.gone_over.lock().unwrap_or_else(PoisonError::into_inner);
        if gone_over.len() >= GONE_OVER_MAX {
            // They say it again.
            gone_over.clear();
        }
        gone_over.entry(name_of(record)).or_default().insert(holder);
    }

    fn has_gone_over(&self, name: PlacementName, holder: &NodeId) -> bool {
        let gone_over = self.gone_over.lock().unwrap_or_else(PoisonError::into_inner);
        gone_over.get(&name).is_some_and(|holders| holders.contains(holder))
    }

    /// A holder's own signature shows that a shard is lost; whether that is news.
    pub(crate) fn convict(&self, segment: SegmentId, index: u8, holder: NodeId) -> bool {
        let mut convicted = self.convicted.lock().unwrap_or_else(PoisonError::into_inner);
        if convicted.len() >= CONVICTED_MAX {
            // What is not repaired by now is found again.
            convicted.clear();
        }
        convicted.insert((segment, index, holder))
    }

    fn is_convicted(&self, segment: &SegmentId, index: u8, holder: &NodeId) -> bool {
        let convicted = self.convicted.lock().unwrap_or_else(PoisonError::into_inner);
        convicted.contains(&(*segment, index, *holder))
    }

    fn take_events(&self) -> Option<mpsc::Receiver<Event>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A record's name.
fn name_of(record: &PlacementRecord) -> PlacementName {
    PlacementName { segment: record.body.segment, owner: record.body.owner }
}

/// What the keeper needs to know of a record.
fn placed(record: &PlacementRecord) -> keeper::Placed {
    keeper::Placed {
        key: name_of(record),
        version: record.body.version,
        sequence: record.sequence(),
        scheme: record.descriptor.scheme,
        // Bounded by the descriptor's check.
        shard_bytes: record.descriptor.shard_len() as u32,
        holders: record.body.holders.clone(),
    }
}

/// The newest record of a placement that is in this node's vault.
async fn own_record(core: &Arc<Core>, key: PlacementName) -> Option<PlacementRecord> {
    let vault = core.vault.clone()?;
    let name = echonet_vault::PlacementKey { segment: key.segment.0, owner: key.owner.0 };
    let read = tokio::task::spawn_blocking(move || {
        let (_, bytes) = vault.placement(&name).ok().flatten()?;
        PlacementRecord::decode_own(&bytes).ok()
    });
    read.await.ok().flatten()
}

/// Every record in this node's vault.
pub(crate) async fn all_records(core: &Arc<Core>) -> Vec<PlacementRecord> {
    let Some(vault) = core.vault.clone() else { return Vec::new() };
    let read = tokio::task::spawn_blocking(move || {
        let (mut records, mut after) = (Vec::new(), None);
        loop {
            let (last, page) = driver::read_page(&vault, after);
            records.extend(page);
            if last.is_none() {
                return records;
            }
            after = last;
        }
    });
    read.await.unwrap_or_default()
}
