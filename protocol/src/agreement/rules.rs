//! Which changes a holder agrees to: by what it knows itself, and by what holds
//! for every placement.

use std::collections::BTreeMap;

use super::types::Change;
use crate::{
    identity::{NodeId, Record as _, Signed, ensure},
    lease::Receipt,
    placement::{Site, datacenter_name},
    placement_record::{Placement, PlacementRecord, Strength},
    segment::SegmentId,
    time::Epoch,
};

/// What a node observed itself. Gossip has no place here.
pub trait Facts {
    /// The epoch now.
    fn epoch(&self) -> Epoch;

    /// Whether a node answers this one's probes now; true of this node itself.
    fn is_reachable(&self, node: &NodeId) -> bool;

    /// Whether a shard is lost: its holder said so when asked, failed an audit of
    /// it, or has been unreachable for the grace.
    fn is_lost(&self, segment: &SegmentId, index: u8, holder: &NodeId) -> bool;

    /// Whether a segment is endangered so that unreachable holders are replaced
    /// within their grace (design 8).
    fn is_urgent(&self, record: &PlacementRecord) -> bool;

    /// Whether a holder itself told this node that it goes by this record, or by one
    /// that wins over it.
    fn has_gone_over(&self, _record: &PlacementRecord, _holder: &NodeId) -> bool {
        false
    }

    /// Where a node is, if that is known.
    fn site(&self, node: &NodeId) -> Option<Site>;

    /// How many shards the nodes known to be outside a datacenter can take, no more than
    /// `most` in any one: see [`room_elsewhere`]. More than any n where nobody counts.
    fn elsewhere(&self, _datacenter: &str, _most: usize) -> usize {
        usize::MAX
    }
}

/// How many shards nodes at these sites can take outside a datacenter: one each, and no
/// more than `most` in any one datacenter.
pub fn room_elsewhere<'a>(
    datacenter: &str,
    most: usize,
    sites: impl Iterator<Item = &'a Site>,
) -> usize {
    let mut nodes: BTreeMap<String, usize> = BTreeMap::new();
    for name in sites.map(datacenter_name).filter(|name| name != datacenter) {
        *nodes.entry(name).or_default() += 1;
    }
    nodes.values().map(|count| (*count).min(most)).sum()
}

/// How many of a version's holders are reachable.
pub(super) fn reachable(holders: &[(u8, NodeId)], facts: &dyn Facts) -> usize {
    holders.iter().filter(|(_, holder)| facts.is_reachable(holder)).count()
}

/// Whether a node is to go by a record that wins over what it has: a final one
/// always; a weak one that passed it over only if by its own probing no quorum of
/// the last final version's holders lives. Those who told it themselves that they
/// went over are of no use to such a quorum: who waits for them waits for ever.
#[must_use]
pub fn may_follow(record: &PlacementRecord, own: &NodeId, facts: &dyn Facts) -> bool {
    if record.strength() == Strength::Quorum || record.binds(own) {
        return true;
    }
    let last_final = record.final_version();
    let step = record.lineage.iter().find(|step| step.version == last_final);
    let quorum = record.descriptor.scheme.change_quorum();
    step.is_none_or(|step| {
        let holders = step.holders.iter().map(|(_, holder)| holder);
        let stays =
            |holder: &&NodeId| facts.is_reachable(holder) && !facts.has_gone_over(record, holder);
        holders.filter(stays).count() < quorum
    })
}

/// Checks that the indices may change hands, by what this node knows. `from` may
/// always give its own away.
pub(super) fn check_lost(
    record: &PlacementRecord,
    lost: &[u8],
    from: &NodeId,
    facts: &dyn Facts,
) -> Result<(), String> {
    let is_urgent = facts.is_urgent(record);
    let segment = &record.body.segment;
    lost.iter().try_for_each(|index| {
        let Some(holder) = record.body.holder(*index) else { return Ok(()) };
        let may_go = holder == *from
            || facts.is_lost(segment, *index, &holder)
            || (is_urgent && !facts.is_reachable(&holder));
        ensure(may_go, || format!("shard {index} is not lost, as far as is seen from here"))
    })
}

/// Indices whose holders of a record the change removes.
fn removed(record: &PlacementRecord, change: &Change) -> Vec<u8> {
    let goes = |held: &&(u8, NodeId)| !change.holders.contains(held);
    record.body.holders.iter().filter(goes).map(|(index, _)| *index).collect()
}

/// What holds for every change, whoever asks: it makes a well-formed version whose
/// new receipts verify. Gives body and receipts.
pub(super) fn check_form(
    record: &PlacementRecord,
    change: &Change,
) -> Result<(Placement, Vec<Signed<Receipt>>), String> {
    let (body, receipts) = change.apply(record)?;
    ensure(body.holders != record.body.holders, || "nothing changes".into())?;
    let next = PlacementRecord { body, receipts, ..record.clone() };
    next.body.check()?;
    next.check_content()?;
    change
        .fresh
        .iter()
        .try_for_each(|r| r.verify(&record.body.network).map_err(|e| e.to_string()))?;
    Ok((next.body, next.receipts))
}

/// What a node checks before it backs a body that nothing obliges it to.
pub(super) fn check_change(
    record: &PlacementRecord,
    change: &Change,
    from: &NodeId,
    facts: &dyn Facts,
) -> Result<(), String> {
    ensure(record.lease.body.until > facts.epoch(), || "the lease is over".into())?;
    check_lost(record, &removed(record, change), from, facts)?;
    check_datacenters(record, change, facts)
}

/// Never more than m shards in one datacenter, unless it was so before or the others have
/// no room for n with m in each: where there is no better place, a worse one is better than
/// none.
fn check_datacenters(
    record: &PlacementRecord,
    change: &Change,
    facts: &dyn Facts,
) -> Result<(), String> {
    let (before, after) = (count(&record.body.holders, facts), count(&change.holders, facts));
    let scheme = record.descriptor.scheme;
    let m = usize::from(scheme.m);
    after.into_iter().try_for_each(|(datacenter, shards)| {
        let was = before.get(&datacenter).copied().unwrap_or(0);
        let most = scheme.n().saturating_sub(facts.elsewhere(&datacenter, m));
        ensure(shards <= m.max(was).max(most), || {
            format!("{shards} shards in datacenter {datacenter:?}; at most {m}")
        })
    })
}

/// Shards by datacenter, of the nodes whose place is known.
fn count(holders: &[(u8, NodeId)], facts: &dyn Facts) -> BTreeMap<String, usize> {
    let mut shards = BTreeMap::new();
    for site in holders.iter().filter_map(|(_, holder)| facts.site(holder)) {
        *shards.entry(datacenter_name(&site)).or_insert(0) += 1;
    }
    shards
}
