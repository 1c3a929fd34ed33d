//! The state of a work, asked of the network: which shard of which segment is
//! where, and whether its holder says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use echonet_protocol::{
    bytes::RecordHash, content_id::ContentId, identity::NodeId, manifest::ManifestBody, params,
    segment::SegmentId,
};
use futures::{StreamExt, stream};

use super::fetch::{
    FetchError, fetch_config,
    manifest::{Locator, Manifest, Reader},
    race,
    segment::{Account, Located},
};
use crate::{
    core::Core,
    service::{PlacementStatus, SegmentStatus, ServiceResult, ShardStatus, WorkStatus},
};

/// Holders asked at once.
const PARALLEL: usize = 32;

/// Every segment of a work, the manifest's included.
///
/// # Errors
/// [`crate::service::ServiceError`]: the work or its manifest was not had.
pub async fn work_status(core: &Arc<Core>, content: ContentId) -> ServiceResult<WorkStatus> {
    let locator = Locator::default();
    let (_, segments) = segments_of(core, &locator, content).await?;
    let mut located = Vec::new();
    for segment in &segments {
        // A segment without a placement record is told with no holder known.
        located.push((*segment, locator.locate(core, *segment).await.ok()));
    }
    let alive = ask_holders(core, &located).await;
    let segments =
        located.iter().map(|(segment, at)| segment_status(*segment, at.as_deref(), &alive));
    Ok(WorkStatus { content_id: content.to_string(), segments: segments.collect() })
}

/// The manifest of a work, and its segments in order of first use, manifest's first.
pub(super) async fn segments_of(
    core: &Arc<Core>,
    locator: &Locator,
    content: ContentId,
) -> Result<(Manifest, Vec<SegmentId>), FetchError> {
    let reader = Reader { core, locator, config: fetch_config(params::SEGMENT_BYTES_MAX as u64) };
    let mut account = Account::default();
    let found = race::find(core, content).await?;
    let manifest = race::believe(&reader, &found, &mut account).await?;
    let mut segments = vec![manifest.location.segment];
    for index in 0..page_count(&manifest) {
        let loaded =
            reader.page(&manifest, index, &mut account).await.map_err(FetchError::Manifest)?;
        segments.extend(&loaded.page.segments);
    }
    if let ManifestBody::Paged { pages, .. } = &manifest.root.body {
        segments.extend(pages.iter().map(|page| page.location.segment));
    }
    let mut seen = BTreeSet::new();
    segments.retain(|segment| seen.insert(*segment));
    locator.prefetch(core, &segments).await;
    Ok((manifest, segments))
}

fn page_count(manifest: &Manifest) -> u32 {
    match &manifest.root.body {
        ManifestBody::Inline(_) => 0,
        // Few thousands at most: the manifest's bound.
        ManifestBody::Paged { pages, .. } => pages.len() as u32,
    }
}

type Shard = (SegmentId, u8, NodeId);

/// The shards that their holders say they have.
async fn ask_holders(
    core: &Arc<Core>,
    located: &[(SegmentId, Option<Arc<Located>>)],
) -> BTreeSet<Shard> {
    let mut per_node: BTreeMap<NodeId, Vec<(SegmentId, u8)>> = BTreeMap::new();
    for (segment, at) in located {
        for (index, nodes) in at.iter().flat_map(|at| &at.holders) {
            for node in nodes {
                per_node.entry(*node).or_default().push((*segment, *index));
            }
        }
    }
    let answers = stream::iter(per_node).map(|(node, shards)| async move {
        let mut alive = Vec::new();
        for batch in shards.chunks(params::BATCH_ITEMS_MAX) {
            let Ok(has) = core.client.has_shards(&node, batch.to_vec()).await else { break };
            let had = batch.iter().zip(has).filter(|(_, has)| *has);
            alive.extend(had.map(|((segment, index), _)| (*segment, *index, node)));
        }
        alive
    });
    answers.buffer_unordered(PARALLEL).collect::<Vec<_>>().await.into_iter().flatten().collect()
}

fn placement_status((owner, version, hash): &(NodeId, u64, RecordHash)) -> PlacementStatus {
    PlacementStatus {
        owner: owner.to_string(),
        version: *version,
        hash: data_encoding::HEXLOWER.encode(&hash.0),
    }
}

fn segment_status(
    segment: SegmentId,
    located: Option<&Located>,
    alive: &BTreeSet<Shard>,
) -> SegmentStatus {
    let Some(located) = located else {
        return SegmentStatus {
            segment_id: segment.to_string(),
            scheme: "unknown".to_owned(),
            shard_bytes: 0,
            placements: Vec::new(),
            shards: Vec::new(),
        };
    };
    let scheme = located.descriptor.scheme;
    // Bounded by the descriptor's check.
    let shards = (0..scheme.n() as u8).map(|index| {
        let holders = located.holders.get(&index).map(Vec::as_slice).unwrap_or_default();
        let living = holders.iter().find(|node| alive.contains(&(segment, index, **node)));
        let holder = living.or_else(|| holders.first());
        ShardStatus {
            index,
            holder: holder.map(ToString::to_string).unwrap_or_default(),
            alive: living.is_some(),
        }
    });
    SegmentStatus {
        segment_id: segment.to_string(),
        scheme: scheme.to_string(),
        shard_bytes: located.descriptor.shard_len() as u64,
        placements: located.records.iter().map(placement_status).collect(),
        shards: shards.collect(),
    }
}
