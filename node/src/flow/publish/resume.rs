//! Going on with a publish that was cut off: what its journal says is stored is
//! used; what was begun is made again from its recipe and finished.

use std::{collections::HashMap, sync::Arc};

use echonet_protocol::{
    bytes::ChunkHash,
    data::compression::compress,
    segment::{Scheme, SegmentId},
};

use super::{
    PublishError,
    again::site_of,
    pack::{Place, PlannedExtent},
    source::Source,
    store::{Coded, Held, Terms, code, store},
};
use crate::{
    core::Core,
    owner::rows::{JournalKey, RecipeRow},
};

/// What an earlier attempt left.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    /// Content segments that have their receipts.
    pub(super) held: Vec<Held>,
    /// Their chunks.
    pub(super) chunks: HashMap<ChunkHash, PlannedExtent>,
    /// Recipes of manifest segments: used if the very same segment comes up
    /// again.
    pub(super) manifest: HashMap<SegmentId, RecipeRow>,
}

/// Finishes the segments that the journal of `terms.content` names.
///
/// # Errors
/// [`PublishError`].
pub(super) async fn resume(
    core: &Arc<Core>,
    terms: &Terms,
    source: &Arc<Source>,
) -> Result<Resumed, PublishError> {
    let mut resumed = Resumed::default();
    for (segment, recipe) in core.catalog.recipes(&terms.content)? {
        let is_over = !terms.still_hold(core, &recipe.lease);
        if recipe.chunks.is_empty() {
            if !is_over {
                resumed.manifest.insert(segment, recipe);
            }
            continue;
        }
        let chunks = recipe.chunks.clone();
        let held = if recipe.stored && !is_over {
            Some(held_of(core, terms, recipe))
        } else {
            finish(core, terms, source, segment, recipe).await?
        };
        if let Some(held) = held {
            resumed.held.push(held);
            let mut offset = 0;
            for chunk in chunks {
                let place = Place::Known { segment, offset };
                offset += chunk.stored;
                let extent = PlannedExtent {
                    content_offset: chunk.content_offset,
                    plain: chunk.plain,
                    stored: chunk.stored,
                    codec: chunk.codec,
                    chunk: chunk.chunk,
                    place,
                };
                resumed.chunks.insert(chunk.chunk, extent);
            }
        }
    }
    Ok(resumed)
}

/// A stored segment, from its recipe, whose lease is under these terms.
pub(super) fn held_of(core: &Core, terms: &Terms, recipe: RecipeRow) -> Held {
    use echonet_protocol::placement::{Site, survives_datacenter};
    let sites: Vec<Site> =
        recipe.receipts.iter().filter_map(|r| site_of(core, &r.body.holder)).collect();
    Held {
        survives_datacenter: survives_datacenter(recipe.descriptor.scheme, &sites),
        grant: terms.grant.clone(),
        lease: recipe.lease,
        receipts: recipe.receipts.into_iter().map(|r| (r.body.index, r)).collect(),
        descriptor: recipe.descriptor,
        notes: Vec::new(),
        sent_bytes: 0,
    }
}

/// Makes a segment again and stores it; none when it cannot be made again (the
/// compressor changed): its chunks are then packed anew.
async fn finish(
    core: &Arc<Core>,
    terms: &Terms,
    source: &Arc<Source>,
    segment: SegmentId,
    recipe: RecipeRow,
) -> Result<Option<Held>, PublishError> {
    let (reading, row) = (Arc::clone(source), recipe.clone());
    let scheme = recipe.descriptor.scheme;
    let made = tokio::task::spawn_blocking(move || make_again(&reading, &row, scheme));
    let coded = made.await.map_err(|e| PublishError::Internal(e.to_string()))??;
    match coded.filter(|coded| coded.segment == segment) {
        Some(coded) => Ok(Some(store(core, terms, coded, Some(recipe)).await?)),
        None => {
            core.catalog.drop_recipe(JournalKey { content: terms.content, segment })?;
            Ok(None)
        }
    }
}

fn make_again(
    source: &Source,
    recipe: &RecipeRow,
    scheme: Scheme,
) -> Result<Option<Coded>, PublishError> {
    let mut bytes = Vec::with_capacity(recipe.descriptor.length as usize);
    for chunk in &recipe.chunks {
        let plain = source.read_chunk(chunk.content_offset, chunk.plain as usize, &chunk.chunk)?;
        let stored = compress(&plain)?;
        if stored.codec as u8 != chunk.codec || stored.bytes.len() != chunk.stored as usize {
            return Ok(None);
        }
        bytes.extend_from_slice(&stored.bytes);
    }
    code(bytes, scheme, recipe.chunks.clone()).map(Some)
}
