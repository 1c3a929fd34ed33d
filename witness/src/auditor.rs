//! The asker, and the looker whom it tells of silence, as a machine without effects
//! (SPEC_WITNESS.md, sections 4 to 7 and 12).
//!
//! It says whom to ask what and when, judges what comes back, and hands out findings for the
//! witness's chain. It never asks more at once than its bounds, and never a holder that it was
//! told to leave to others.

mod plan;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use echonet_protocol::{
    audit::{AuditAnswer, AuditChallenge},
    identity::{Identity, NodeId, Signed},
    inconsistency::{LeafRows, LeafSlice},
    machine::{Machine, Millis},
    network::NetworkId,
    params,
    segment::SegmentId,
};

pub use self::{
    plan::reaudits,
    types::{AskId, DuePlacement, EpochBegun, Found, Input, Output},
};
use crate::{
    beacon::Beacon,
    draw::{self, Rates},
    verdicts::Finding,
    verify::{self, Asked, Judged},
};

/// Questions under way at most.
const UNDER_WAY_MAX: usize = 64;
/// Questions under way to one holder at most.
const UNDER_WAY_PER_HOLDER: usize = 4;
/// Looks for others in an epoch at most.
const LOOKS_MAX: usize = 4_096;

/// One segment's row, being asked for.
#[derive(Debug)]
struct Row {
    due: DuePlacement,
    challenge: Signed<AuditChallenge>,
    leaf: u64,
    /// The other members, to be told of silence; none where this is a look itself.
    others: Option<Vec<NodeId>>,
    /// Indices without an outcome yet.
    open: BTreeSet<u8>,
    judged: BTreeMap<u8, Judged>,
}

/// A question that waits for its time or for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    at: Millis,
    row: u64,
    index: u8,
    is_second: bool,
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    row: u64,
    index: u8,
    holder: NodeId,
    deadline: Millis,
    is_second: bool,
}

/// What is known of the running epoch.
#[derive(Debug)]
struct Running {
    beacon: Beacon,
    members: Vec<NodeId>,
    excluded: BTreeSet<NodeId>,
    inventories: BTreeSet<NodeId>,
    /// No second try later than this.
    retry_until: Millis,
    looks: BTreeSet<(SegmentId, u8)>,
}

/// A witness's asker and looker.
#[derive(Debug)]
pub struct Auditor<R> {
    identity: Identity,
    network: NetworkId,
    rates: Rates,
    leaf_rows: R,
    running: Option<Running>,
    next: u64,
    rows: BTreeMap<u64, Row>,
    waiting: BTreeSet<Waiting>,
    under_way: BTreeMap<AskId, UnderWay>,
    outputs: VecDeque<Output>,
}

impl<R: LeafRows> Auditor<R> {
    /// An auditor that waits for its first epoch.
    #[must_use]
    pub const fn new(identity: Identity, network: NetworkId, rates: Rates, leaf_rows: R) -> Self {
        Self {
            identity,
            network,
            rates,
            leaf_rows,
            running: None,
            next: 0,
            rows: BTreeMap::new(),
            waiting: BTreeSet::new(),
            under_way: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    fn begin(&mut self, begun: EpochBegun) {
        self.end();
        let me = self.identity.node_id();
        let epoch_ms = self.rates.epoch_s.saturating_mul(1000);
        let planned = plan::rows(&me, &self.rates, &begun);
        self.running = Some(Running {
            beacon: begun.beacon,
            members: begun.members,
            excluded: begun.excluded,
            inventories: begun.inventories,
            retry_until: begun.started.after(epoch_ms - epoch_ms / 3),
            looks: BTreeSet::new(),
        });
        for planned in planned {
            self.open_row(planned.due, planned.indices, Some(planned.others), planned.at);
        }
    }

    /// Ends the epoch: what was found is handed out, what is under way is nobody's fault.
    fn end(&mut self) {
        self.waiting.clear();
        self.under_way.clear();
        for row in std::mem::take(&mut self.rows).into_values() {
            self.hand_out(row);
        }
        self.running = None;
    }

    fn open_row(
        &mut self,
        due: DuePlacement,
        indices: BTreeSet<u8>,
        others: Option<Vec<NodeId>>,
        at: Millis,
    ) {
        let Some(running) = &self.running else { return };
        let challenge = AuditChallenge {
            v: params::FORMAT_VERSION,
            network: self.network,
            witness: self.identity.node_id(),
            epoch: running.beacon.epoch(),
            segment: due.segment,
            beacon: *running.beacon.signature(),
            inventory: due.inventory,
        };
        let challenge = Signed::new(&self.identity, challenge);
        let leaf = draw::leaf(&challenge, due.shard_len());
        let row = self.next;
        self.next += 1;
        self.waiting.extend(indices.iter().map(|index| Waiting {
            at,
            row,
            index: *index,
            is_second: false,
        }));
        let judged = BTreeMap::new();
        self.rows.insert(row, Row { due, challenge, leaf, others, open: indices, judged });
    }

    /// Looks after silence that an asker told of, if it may.
    fn look(&mut self, now: Millis, asker: &Signed<AuditChallenge>, index: u8, due: DuePlacement) {
        let me = self.identity.node_id();
        let Some(running) = &mut self.running else { return };
        let body = &asker.body;
        let is_of_now = body.epoch == running.beacon.epoch()
            && body.beacon == *running.beacon.signature()
            && body.segment == due.segment
            && body.inventory == due.inventory
            && plan::is_due(&running.beacon, &self.rates, &running.inventories, &due);
        let committee =
            draw::committee(&running.beacon, &due.segment, &running.members, &self.rates);
        let is_mine = committee.first() == Some(&body.witness)
            && body.witness != me
            && committee.contains(&me);
        let holder = due.holder(index).filter(|holder| !running.excluded.contains(holder));
        let is_new =
            running.looks.len() < LOOKS_MAX && !running.looks.contains(&(due.segment, index));
        let is_right = is_of_now && is_mine && is_new && holder.is_some();
        if !is_right || asker.verify(&self.network).is_err() {
            return;
        }
        running.looks.insert((due.segment, index));
        self.open_row(due, BTreeSet::from([index]), None, now);
    }

    fn answered(
        &mut self,
        now: Millis,
        ask: AskId,
        answer: &Signed<AuditAnswer>,
        slice: Option<&[u8]>,
    ) {
        let Some(under_way) = self.under_way.remove(&ask) else { return };
        let Some(row) = self.rows.get(&under_way.row) else { return };
        let Some(asked) = row.asked(&under_way) else { return };
        let judged = verify::judge(&asked, answer, slice, &self.leaf_rows);
        self.judged(now, under_way, judged);
    }

    fn failed(&mut self, now: Millis, under_way: UnderWay) {
        let Some(row) = self.rows.get(&under_way.row) else { return };
        let Some(asked) = row.asked(&under_way) else { return };
        let judged = verify::silent(&asked, "no answer in time");
        self.judged(now, under_way, judged);
    }

    fn judged(&mut self, now: Millis, under_way: UnderWay, judged: Judged) {
        let UnderWay { row, index, deadline, is_second, .. } = under_way;
        let is_silent = !judged.result.outcome.is_signed();
        let may_retry = self.running.as_ref().is_some_and(|r| now <= r.retry_until);
        if is_silent && !is_second && may_retry {
            // A node that refused at once is given the time that another would have had.
            let at = deadline.max(now);
            self.waiting.insert(Waiting { at, row, index, is_second: true });
            return;
        }
        let Some(open) = self.rows.get_mut(&row) else { return };
        open.open.remove(&index);
        open.judged.insert(index, judged);
        if let Some(members) = open.others.clone().filter(|others| is_silent && !others.is_empty())
        {
            let challenge = open.challenge.clone();
            self.outputs.push_back(Output::Look { members, challenge, index });
        }
        if open.open.is_empty()
            && let Some(row) = self.rows.remove(&row)
        {
            self.hand_out(row);
        }
    }

    fn hand_out(&mut self, row: Row) {
        if row.judged.is_empty() {
            return;
        }
        let Row { due, challenge, leaf, judged, .. } = row;
        let mut results = Vec::with_capacity(judged.len());
        let (mut passed, mut slices) = (Vec::new(), Vec::new());
        for (index, judged) in judged {
            if let Some(slice) = judged.slice {
                let slice = LeafSlice { index, slice };
                if !judged.result.outcome.is_against() {
                    passed.push(slice.clone());
                }
                slices.push(slice);
            }
            results.push(judged.result);
        }
        let inconsistency = verify::not_a_codeword(&due.descriptor, leaf, &passed, &self.leaf_rows);
        // A shard's length is at most 4 MiB.
        let length = u32::try_from(due.shard_len()).unwrap_or(u32::MAX);
        let finding = Finding { challenge, placement: due.placement, length, results };
        self.outputs.push_back(Output::Found(Box::new(Found { finding, slices, inconsistency })));
    }

    /// Gives up on what is late and asks what is next.
    fn advance(&mut self, now: Millis) {
        let late: Vec<AskId> = self
            .under_way
            .iter()
            .filter(|(_, under_way)| under_way.deadline <= now)
            .map(|(ask, _)| *ask)
            .collect();
        for ask in late {
            if let Some(under_way) = self.under_way.remove(&ask) {
                self.failed(now, under_way);
            }
        }
        let ready: Vec<Waiting> =
            self.waiting.iter().take_while(|waiting| waiting.at <= now).copied().collect();
        for waiting in ready {
            if self.under_way.len() >= UNDER_WAY_MAX {
                break;
            }
            self.ask(now, waiting);
        }
    }

    fn ask(&mut self, now: Millis, waiting: Waiting) {
        let Waiting { row, index, is_second, .. } = waiting;
        let Some(open) = self.rows.get(&row) else { return };
        let Some(holder) = open.due.holder(index) else { return };
        let busy = self.under_way.values().filter(|u| u.holder == holder).count();
        if busy >= UNDER_WAY_PER_HOLDER {
            return;
        }
        self.waiting.remove(&waiting);
        let (ask, deadline) = (AskId(self.next), now.after(self.rates.deadline_ms()));
        self.next += 1;
        self.under_way.insert(ask, UnderWay { row, index, holder, deadline, is_second });
        let challenge = open.challenge.clone();
        self.outputs.push_back(Output::Ask { ask, holder, challenge, index, deadline });
    }
}

impl Row {
    fn asked(&self, under_way: &UnderWay) -> Option<Asked<'_>> {
        let index = under_way.index;
        Some(Asked {
            challenge: &self.challenge,
            holder: under_way.holder,
            index,
            shard: *self.due.descriptor.shards.get(usize::from(index))?,
            shard_len: self.due.shard_len(),
            leaf: self.leaf,
        })
    }
}

impl<R: LeafRows> Machine for Auditor<R> {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Millis, input: Input) {
        match input {
            Input::Begun(begun) => self.begin(*begun),
            Input::Ended => self.end(),
            Input::Look { challenge, index, placement } => {
                self.look(now, &challenge, index, *placement);
            }
            Input::Answered { ask, answer, slice } => {
                // What came after the deadline is silence, also where no tick was handled yet.
                if self.under_way.get(&ask).is_some_and(|u| now < u.deadline) {
                    self.answered(now, ask, &answer, slice.as_deref());
                }
            }
            Input::Failed { ask } => {
                if let Some(under_way) = self.under_way.remove(&ask) {
                    self.failed(now, under_way);
                }
            }
            Input::Tick => {}
        }
        self.advance(now);
    }

    fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn timeout(&self) -> Option<Millis> {
        let deadline = self.under_way.values().map(|under_way| under_way.deadline).min();
        let has_room = self.under_way.len() < UNDER_WAY_MAX;
        let busy = |holder: NodeId| {
            self.under_way.values().filter(|u| u.holder == holder).count() >= UNDER_WAY_PER_HOLDER
        };
        let may_go = |waiting: &&Waiting| {
            let row = self.rows.get(&waiting.row);
            let holder = row.and_then(|row| row.due.holder(waiting.index));
            has_room && holder.is_some_and(|holder| !busy(holder))
        };
        // A question that waits for room goes with the answer, or the deadline, that makes it.
        let next = self.waiting.iter().find(may_go).map(|waiting| waiting.at);
        [deadline, next].into_iter().flatten().min()
    }
}
