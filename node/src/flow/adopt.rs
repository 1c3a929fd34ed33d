//! Keeping somebody else's work: own leases, under an own grant, on every segment of it at its
//! present holders, with own placement records over their receipts, and an own announcement of the
//! same manifest. From then on the work stays, and is found, for as long as either owner wants it.
//!
//! It moves no content.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use echonet_protocol::{
    announcement::{Announcement, RecordKind},
    content_id::ContentId,
    identity::{NodeId, Signed},
    params,
    placement::{Site, survives_datacenter},
    publish::StoreInput,
    segment::{Scheme, SegmentId},
    time::{Epoch, UnixSeconds},
};
use futures::{StreamExt, stream};

use super::{
    discover, endings,
    fetch::{
        manifest::{Locator, Manifest},
        segment::Located,
    },
    publish::{
        again::site_of,
        finish::placement,
        segment_row,
        store::{FIRST_PLACEMENT, Held, Terms, judge},
        terms_for,
    },
    status,
};
use crate::{
    client::LeaseClaim,
    clock,
    core::Core,
    owner::{
        CatalogError,
        rows::{SegmentRow, WorkRow, WorkState},
    },
    service::{Kept, Progress, ProgressSender, ReceiptCount, ServiceError, ServiceResult},
};

/// Segments leased at once.
const SEGMENTS_AT_ONCE: usize = 4;
/// Holders asked at once, for one segment or to seal.
const HOLDERS_AT_ONCE: usize = 16;
/// Nodes that keep each placement record, at least.
const RECORDS_KEPT_MIN: usize = 2;
/// Segments named in a failure.
const NAMED_MAX: usize = 3;

/// Takes own leases on a work of somebody else's.
///
/// # Errors
/// `invalid` for a work that is published from here; `not_found` where it is not found;
/// `not_enough_holders` says which segments lack receipts: nothing is kept then, and the leases that
/// were taken end by themselves.
pub async fn keep(
    core: &Arc<Core>,
    content: ContentId,
    progress: ProgressSender,
) -> ServiceResult<Kept> {
    let known = core.catalog.work(&content)?;
    if known
        .as_ref()
        .is_some_and(|w| matches!(w.state, WorkState::Published | WorkState::Publishing))
    {
        let reason = "this work is published from here: its leases are yours and renew themselves";
        return Err(ServiceError::new("invalid", reason));
    }
    let locator = Locator::default();
    let (manifest, segments) = status::segments_of(core, &locator, content).await?;
    let mut located = Vec::new();
    for segment in &segments {
        let found = locator.locate(core, *segment).await;
        located.push(found.map_err(|e| ServiceError::new("unavailable", e))?);
    }
    let stored: u64 = located.iter().map(|l| l.descriptor.shard_len() as u64 * n_of(l)).sum();
    let terms = terms_for(core, content, Scheme::DEFAULT, stored, None).await?;
    let held = lease_all(core, &terms, &located, &progress).await?;
    let rows: Vec<(SegmentId, SegmentRow)> =
        held.iter().map(|(segment, held)| (*segment, segment_row(held))).collect();
    let taken: Vec<SegmentRow> = rows.iter().map(|(_, row)| row.clone()).collect();
    let intent = endings::intend(core, &taken)?;
    let recorded = async {
        seal(core, &held).await?;
        put_records(core, &held).await
    };
    if let Err(e) = recorded.await {
        // What was kept before, stays.
        intent.give_up(core).await?;
        return Err(e);
    }
    let size = manifest.root.length;
    let mut work = work_row(&manifest, &terms, &rows);
    remember(core, content, &work, &rows)?;
    intent.done(core)?;
    announce(core, content, &mut work, terms.kept_until()).await?;
    endings::retry(core).await?;
    let receipts = ReceiptCount {
        want: located.iter().map(|l| n_of(l)).sum(),
        have: held.values().map(|h| h.receipts.len() as u64).sum(),
    };
    Ok(Kept {
        content_id: content.to_string(),
        size,
        segments: segments.len() as u64,
        receipts,
        survives_datacenter: held.values().all(|h| h.survives_datacenter),
        until_unix_s: core.genesis.epoch_start(terms.kept_until()).0,
    })
}

fn n_of(located: &Located) -> u64 {
    located.descriptor.scheme.n() as u64
}

async fn lease_all(
    core: &Arc<Core>,
    terms: &Terms,
    located: &[Arc<Located>],
    progress: &ProgressSender,
) -> ServiceResult<BTreeMap<SegmentId, Held>> {
    let total = located.len() as u64;
    let leased = stream::iter(located.to_vec()).map(|at| lease_one(core, terms, at));
    let mut leased = leased.buffer_unordered(SEGMENTS_AT_ONCE);
    let (mut held, mut lacking) = (BTreeMap::new(), Vec::new());
    while let Some((segment, one)) = leased.next().await {
        let quorum = one.descriptor.scheme.write_quorum();
        if one.receipts.len() < quorum {
            let have = one.receipts.len();
            lacking.push(format!("{} ({have} of {quorum} needed)", segment.short()));
        }
        held.insert(segment, one);
        let stage = "leasing".to_owned();
        let detail = format!("{} of {total} segments asked for", held.len());
        let _ = progress.try_send(Progress::Stage { stage, detail });
    }
    if lacking.is_empty() {
        return Ok(held);
    }
    lacking.sort();
    let (count, named) = (lacking.len(), lacking.into_iter().take(NAMED_MAX).collect::<Vec<_>>());
    Err(ServiceError::new(
        "not_enough_holders",
        format!(
            "{count} of {total} segments have too few holders that gave a lease, such as {}; \
             nothing is kept by you; try again later, repair may bring holders back",
            named.join(", ")
        ),
    ))
}

/// Own receipts for one segment, from whoever holds its shards.
async fn lease_one(core: &Arc<Core>, terms: &Terms, at: Arc<Located>) -> (SegmentId, Held) {
    let segment = at.segment;
    let claim = LeaseClaim { lease: terms.lease(core, segment), grant: terms.grant.clone() };
    let (claim_ref, descriptor) = (&claim, &at.descriptor);
    let asked = stream::iter(at.holders.clone()).map(|(index, nodes)| async move {
        for node in nodes {
            let answer = core.client.add_lease(&node, claim_ref, index, FIRST_PLACEMENT).await;
            let judged = judge(&core.members, claim_ref, descriptor, (index, node), answer);
            if let StoreInput::Receipt { receipt, .. } = judged {
                return Some((index, receipt));
            }
        }
        None
    });
    let answers: Vec<_> = asked.buffer_unordered(HOLDERS_AT_ONCE).collect().await;
    let mut receipts = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (index, receipt) in answers.into_iter().flatten() {
        // A record names each holder once.
        if taken.insert(receipt.body.holder) {
            receipts.insert(index, receipt);
        }
    }
    let sites: Vec<Site> =
        receipts.values().filter_map(|r| site_of(core, &r.body.holder)).collect();
    let held = Held {
        survives_datacenter: survives_datacenter(descriptor.scheme, &sites),
        descriptor: descriptor.clone(),
        lease: claim.lease,
        grant: claim.grant,
        receipts,
        notes: Vec::new(),
        sent_bytes: 0,
    };
    (segment, held)
}

/// Hands every holder the records that name it; a write quorum of each segment has to take its.
async fn seal(core: &Arc<Core>, held: &BTreeMap<SegmentId, Held>) -> ServiceResult<()> {
    let mut per_node: BTreeMap<NodeId, Vec<SegmentId>> = BTreeMap::new();
    for (segment, held) in held {
        for receipt in held.receipts.values() {
            per_node.entry(receipt.body.holder).or_default().push(*segment);
        }
    }
    let sealed = stream::iter(per_node).map(|(node, segments)| async move {
        let mut done = Vec::new();
        for segment in segments {
            let record = placement(core, &held[&segment]).encode();
            match core.client.seal(&node, vec![record]).await {
                Ok(1) => done.push(segment),
                Ok(_) => tracing::warn!("{node} has no lease any more on {segment}"),
                Err(e) => tracing::warn!("not sealed: {e}"),
            }
        }
        done
    });
    let mut counts: BTreeMap<SegmentId, usize> = BTreeMap::new();
    let sealed: Vec<_> = sealed.buffer_unordered(HOLDERS_AT_ONCE).collect().await;
    for segment in sealed.into_iter().flatten() {
        *counts.entry(segment).or_default() += 1;
    }
    for (segment, held) in held {
        let (count, quorum) =
            (counts.get(segment).copied().unwrap_or(0), held.descriptor.scheme.write_quorum());
        if count < quorum {
            let reason = format!(
                "segment {} was sealed by {count} holders of {quorum} needed; try again",
                segment.short()
            );
            return Err(ServiceError::new("not_enough_holders", reason));
        }
    }
    Ok(())
}

async fn put_records(core: &Arc<Core>, held: &BTreeMap<SegmentId, Held>) -> ServiceResult<()> {
    for batch in held.iter().collect::<Vec<_>>().chunks(params::BATCH_ITEMS_MAX) {
        let record = |(segment, held): &(&SegmentId, &Held)| {
            (RecordKind::Placement, segment.0, placement(core, held).encode())
        };
        let kept = discover::put(core, batch.iter().map(record).collect()).await;
        if let Some(((segment, _), kept)) =
            batch.iter().zip(kept).find(|(_, kept)| *kept < RECORDS_KEPT_MIN)
        {
            let reason = format!(
                "the placement record of segment {} is kept by {kept} nodes of {RECORDS_KEPT_MIN} \
                 needed; try again",
                segment.short()
            );
            return Err(ServiceError::new("network", reason));
        }
    }
    Ok(())
}

/// Says where the work is, as its publisher may stop to.
async fn announce(
    core: &Arc<Core>,
    content: ContentId,
    work: &mut WorkRow,
    until: Epoch,
) -> ServiceResult<()> {
    let Some((manifest, location)) = work.manifest else { return Ok(()) };
    let now = clock::now();
    let body = Announcement {
        v: params::FORMAT_VERSION,
        network: core.network,
        content,
        manifest,
        location,
        publisher: core.node_id(),
        sequence: work.sequence.max(now.0),
        expires: core.genesis.epoch_start(until).max(UnixSeconds(now.0 + 1)),
        withdrawn: false,
    };
    work.sequence = body.sequence;
    core.catalog.put_work(&content, work)?;
    let signed = Signed::new(&core.identity, body);
    let record = (RecordKind::Announcement, *content.as_bytes(), signed.encode());
    let kept = discover::put(core, vec![record]).await.first().copied().unwrap_or(0);
    if kept >= RECORDS_KEPT_MIN {
        return Ok(());
    }
    let reason = format!(
        "the leases are yours now, but {kept} nodes of {RECORDS_KEPT_MIN} needed keep your \
         announcement of the work; run the same command again"
    );
    Err(ServiceError::new("network", reason))
}

fn work_row(manifest: &Manifest, terms: &Terms, rows: &[(SegmentId, SegmentRow)]) -> WorkRow {
    WorkRow {
        size: manifest.root.length,
        stamp: (0, 0, 0),
        path: PathBuf::new(),
        spooled: false,
        state: WorkState::Kept,
        scheme: terms.scheme,
        published_unix_s: clock::now().0,
        manifest: Some((manifest.hash, manifest.location)),
        sequence: 0,
        segments: rows.iter().map(|(segment, _)| (*segment, 0)).collect(),
        grant: terms.grant.clone(),
    }
}

/// The catalog afterwards; leases that these stand for are to end.
fn remember(
    core: &Core,
    content: ContentId,
    work: &WorkRow,
    rows: &[(SegmentId, SegmentRow)],
) -> Result<(), CatalogError> {
    let mut replaced = Vec::new();
    for (segment, _) in rows {
        replaced.extend(core.catalog.segment(segment)?);
    }
    endings::replaced(core, &replaced)?;
    core.catalog.put_segments(rows)?;
    core.catalog.put_work(&content, work)
}
