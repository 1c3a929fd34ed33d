//! Which rows an asker asks for in an epoch, and of whom: its turns, less what is over a holder's
//! budget or left to others.

use std::collections::{BTreeMap, BTreeSet};

use echonet_protocol::{
    audit::AuditVerdict,
    bytes::RecordHash,
    identity::{NodeId, Signed},
    machine::Millis,
    segment::SegmentId,
};

use super::types::{DuePlacement, EpochBegun};
use crate::{
    beacon::Beacon,
    draw::{self, Draw, Rates},
};

/// A row that is this witness's turn.
pub(super) struct Planned {
    pub(super) due: DuePlacement,
    pub(super) indices: BTreeSet<u8>,
    /// The rest of the committee.
    pub(super) others: Vec<NodeId>,
    pub(super) at: Millis,
}

/// Whether a placement is due, for itself or for an inventory.
pub(super) fn is_due(
    beacon: &Beacon,
    rates: &Rates,
    inventories: &BTreeSet<NodeId>,
    due: &DuePlacement,
) -> bool {
    match &due.inventory {
        Some(holder) => inventories.contains(holder),
        None => Draw::new(beacon, &due.segment).is_due(rates, due.shard_len()),
    }
}

/// The rows of an epoch that are `me`'s to ask for.
pub(super) fn rows(me: &NodeId, rates: &Rates, begun: &EpochBegun) -> Vec<Planned> {
    let is_due = |due: &&DuePlacement| is_due(&begun.beacon, rates, &begun.inventories, due);
    let all: Vec<&DuePlacement> = begun.due.iter().filter(is_due).collect();
    let over = over_budget(rates, begun, &all);
    let mut planned = Vec::new();
    for due in all {
        let committee = draw::committee(&begun.beacon, &due.segment, &begun.members, rates);
        let Some((asker, others)) = committee.split_first() else { continue };
        if asker != me {
            continue;
        }
        let is_asked = |(_, holder): &&(u8, NodeId)| {
            !begun.excluded.contains(holder)
                && match &due.inventory {
                    Some(node) => node == holder,
                    None => !over.contains(&(due.segment, *holder)),
                }
        };
        let indices: BTreeSet<u8> =
            due.holders.iter().filter(is_asked).map(|(index, _)| *index).collect();
        if indices.is_empty() {
            continue;
        }
        let after = Draw::new(&begun.beacon, &due.segment).asks_after_ms(rates);
        let (due, others) = (due.clone(), others.to_vec());
        planned.push(Planned { due, indices, others, at: begun.started.after(after) });
    }
    planned
}

/// What is over the holders' budgets: of each the segments with the highest u0.
fn over_budget(
    rates: &Rates,
    begun: &EpochBegun,
    due: &[&DuePlacement],
) -> BTreeSet<(SegmentId, NodeId)> {
    let mut by_holder: BTreeMap<NodeId, Vec<(u64, SegmentId)>> = BTreeMap::new();
    for due in due.iter().filter(|due| due.inventory.is_none()) {
        let order = Draw::new(&begun.beacon, &due.segment).by_segment;
        for (_, holder) in &due.holders {
            by_holder.entry(*holder).or_default().push((order, due.segment));
        }
    }
    let mut over = BTreeSet::new();
    for (holder, mut segments) in by_holder {
        segments.sort_unstable();
        segments.dedup();
        let held = begun.held_bytes.get(&holder).copied().unwrap_or(0);
        let budget = usize::try_from(rates.budget_leaves(held)).unwrap_or(usize::MAX);
        over.extend(segments.into_iter().skip(budget).map(|(_, segment)| (segment, holder)));
    }
    over
}

/// The verdicts of the epoch before that `me` looks at again: those drawn by `beacon`, of whose
/// committee it was the second. `before` is the beacon of the verdicts' epoch, `members` the
/// witness set then.
#[must_use]
pub fn reaudits(
    me: &NodeId,
    rates: &Rates,
    beacon: &Beacon,
    before: &Beacon,
    members: &[NodeId],
    verdicts: &[Signed<AuditVerdict>],
) -> Vec<RecordHash> {
    let is_mine = |verdict: &&Signed<AuditVerdict>| {
        let challenge = &verdict.body.challenge;
        let committee = draw::committee(before, &challenge.segment, members, rates);
        challenge.epoch == before.epoch() && committee.get(1) == Some(me)
    };
    let hashes = verdicts.iter().filter(is_mine).map(Signed::hash);
    hashes.filter(|hash| draw::is_reaudited(beacon, hash)).collect()
}
