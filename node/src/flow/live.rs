//! Asking nodes that took no part to check a work (design 5, *live*).
//!
//! A work counts as live only when every segment was checked by a node that
//! holds no shard of it, and said so under its signature.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use echonet_protocol::{
    announcement::LiveCheck,
    bytes::ManifestHash,
    content_id::ContentId,
    identity::{NodeId, Signed},
    node_descriptor::Roles,
    params,
    segment::SegmentId,
};
use futures::{StreamExt, stream};

use crate::{
    clock,
    core::Core,
    members::{Member, Reach},
};

/// Least and most MiB that are read of a work.
const MIB_MIN: u64 = 4;
/// See [`MIB_MIN`].
const MIB_MAX: u64 = 64;
/// Patience with a checker, per segment and to begin with.
const PATIENCE_S_PER_SEGMENT: u64 = 10;
/// See [`PATIENCE_S_PER_SEGMENT`].
const PATIENCE_S: u64 = 30;
/// Checkers working at once.
const PARALLEL: usize = 2;
/// Checkers tried for one part before it is given up.
const TRIES: usize = 3;

/// Part of the work: what one checker is asked.
#[derive(Debug, Clone)]
struct Part {
    checkers: Vec<NodeId>,
    segments: Vec<SegmentId>,
}

/// Has a work checked; why not, in words, when it cannot be.
///
/// # Errors
/// In words: nobody who took no part is there, or what a checker found.
pub async fn ask(
    core: &Arc<Core>,
    content: ContentId,
    manifest: ManifestHash,
    size: u64,
    holders: BTreeMap<SegmentId, Vec<NodeId>>,
) -> Result<(), String> {
    let parts = assign(&holders, &able(core))?;
    let mib = (size.div_ceil(100 << 20)).clamp(MIB_MIN, MIB_MAX);
    let shares = shares(mib, parts.len());
    let asked = parts.into_iter().zip(shares);
    let asked =
        stream::iter(asked).map(|(part, mib)| check_part(core, content, manifest, part, mib));
    let answers: Vec<Result<(), String>> = asked.buffer_unordered(PARALLEL).collect().await;
    answers.into_iter().collect()
}

/// Divides MiB to be read among checkers: each of them costs all k shards' ranges.
fn shares(mib: u64, checkers: usize) -> impl Iterator<Item = u32> {
    let checkers = checkers as u64;
    // At most 64 MiB in all.
    (0..checkers).map(move |i| ((mib * (i + 1) / checkers) - (mib * i / checkers)) as u32)
}

/// Nodes that may be asked, those that answered lately first, and those in quiet hours after others.
fn able(core: &Core) -> Vec<NodeId> {
    let mut members = core.members.all();
    members.retain(|m| {
        m.descriptor.body.roles.has(Roles::STORAGE)
            && m.reach != Reach::Unreachable
            && m.descriptor.body.node != core.node_id()
    });
    let now = clock::now();
    let quiet = |m: &Member| m.descriptor.body.quiet.is_quiet(now);
    members.sort_by_key(|m| (m.reach != Reach::Reachable, quiet(m), m.latency_ms));
    members.into_iter().map(|m| m.descriptor.body.node).collect()
}

/// Divides segments among nodes that hold none of the segments they check, with
/// as few nodes as a greedy choice gives.
fn assign(
    holders: &BTreeMap<SegmentId, Vec<NodeId>>,
    able: &[NodeId],
) -> Result<Vec<Part>, String> {
    let mut left: BTreeSet<SegmentId> = holders.keys().copied().collect();
    let takes_no_part = |node: &NodeId, segment: &SegmentId| !holders[segment].contains(node);
    let mut parts = Vec::new();
    while let Some(first) = left.first().copied() {
        let count = |node: &&NodeId| left.iter().filter(|s| takes_no_part(node, s)).count();
        // The last of equals in `max_by_key` is the worst ranked: look from behind.
        let best = able.iter().rev().max_by_key(count).filter(|node| count(node) > 0);
        let Some(best) = best else {
            return Err(format!(
                "segment {} could not be checked: every node known holds a part of it",
                first.short()
            ));
        };
        let segments: Vec<SegmentId> = left
            .iter()
            .filter(|s| takes_no_part(best, s))
            .take(params::BATCH_ITEMS_MAX)
            .copied()
            .collect();
        for segment in &segments {
            left.remove(segment);
        }
        let others = able.iter().filter(|node| *node != best);
        let stand_ins = others.filter(|node| segments.iter().all(|s| takes_no_part(node, s)));
        let checkers = std::iter::once(best).chain(stand_ins).take(TRIES).copied().collect();
        parts.push(Part { checkers, segments });
    }
    Ok(parts)
}

async fn check_part(
    core: &Arc<Core>,
    content: ContentId,
    manifest: ManifestHash,
    part: Part,
    mib: u32,
) -> Result<(), String> {
    let patience = PATIENCE_S + PATIENCE_S_PER_SEGMENT * part.segments.len() as u64;
    let patience = Duration::from_secs(patience);
    let mut last = "nobody to ask".to_owned();
    for node in &part.checkers {
        let segments = part.segments.clone();
        let answer = core.client.check_live(node, content, segments, mib, patience).await;
        let wanted = Wanted { content, manifest, segments: &part.segments, checker: *node };
        match answer {
            Ok(check) => match wanted.verify(core, &check) {
                Ok(()) => return Ok(()),
                Err(reason) => last = reason,
            },
            Err(e) => last = e.to_string(),
        }
    }
    Err(last)
}

struct Wanted<'a> {
    content: ContentId,
    manifest: ManifestHash,
    segments: &'a [SegmentId],
    checker: NodeId,
}

impl Wanted<'_> {
    fn verify(&self, core: &Core, check: &Signed<LiveCheck>) -> Result<(), String> {
        check.verify(&core.network).map_err(|e| e.to_string())?;
        let body = &check.body;
        let is_it = body.content == self.content
            && body.manifest == self.manifest
            && body.checker == self.checker
            && body.segments == self.segments;
        if is_it { Ok(()) } else { Err(format!("{} checked something else", self.checker)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    #[test]
    fn nobody_checks_what_it_holds_and_everything_is_checked() {
        let holders: BTreeMap<SegmentId, Vec<NodeId>> = (0..40u8)
            .map(|s| (SegmentId([s; 32]), (0..20).filter(|n| (n + s) % 5 != 0).map(node).collect()))
            .collect();
        let able: Vec<_> = (0..20).map(node).collect();
        let parts = assign(&holders, &able).unwrap();
        let mut seen = BTreeSet::new();
        for part in parts {
            assert!(part.segments.len() <= params::BATCH_ITEMS_MAX);
            for segment in part.segments {
                assert!(part.checkers.iter().all(|c| !holders[&segment].contains(c)));
                assert!(seen.insert(segment));
            }
        }
        assert_eq!(seen.len(), 40);
    }

    #[test]
    fn every_mib_is_somebodys() {
        for (mib, checkers) in [(4, 1), (4, 7), (64, 3), (5, 5)] {
            let shares: Vec<u32> = shares(mib, checkers).collect();
            assert_eq!(shares.len(), checkers);
            assert_eq!(u64::from(shares.iter().sum::<u32>()), mib);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn where_all_hold_nobody_is_asked() {
        let holders = [(SegmentId([1; 32]), vec![node(1), node(2)])].into();
        let error = assign(&holders, &[node(1), node(2)]).unwrap_err();
        assert!(error.contains("every node known holds a part"), "{error}");
        assert!(assign(&holders, &[]).is_err());
    }
}
