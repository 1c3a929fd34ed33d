//! From a source to segments that are all held: content first, then the
//! manifest's pages, then its root.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use echonet_protocol::{
    announcement::Location,
    bytes::{ChunkHash, ManifestHash},
    content_id::ContentId,
    manifest::ManifestBody,
    params,
    segment::SegmentId,
};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use super::{
    ChunkRows, PublishError, RootPlace,
    again::lease_again,
    content::{Outline, PackEvent, Packing},
    pack::{Packed, Place, PlannedExtent},
    pages::{pack_pages, pages, root, tree},
    resume::{held_of, resume},
    source::Source,
    store::{Held, Terms, code, store},
};
use crate::{
    core::Core,
    owner::rows::{ChunkRow, RecipeRow},
    service::{Progress, ProgressSender, PublishRequest},
};

/// Segments being stored at once, besides the one being packed: bounds memory.
const SEGMENTS_AT_ONCE: usize = 2;

/// Everything that a publish stored.
pub(super) struct Stored {
    /// Every segment, the manifest's included.
    pub(super) held: BTreeMap<SegmentId, Held>,
    /// Which of them are content's.
    pub(super) content: BTreeSet<SegmentId>,
    /// The manifest.
    pub(super) manifest: ManifestHash,
    /// Where its root page lies.
    pub(super) location: Location,
    /// Stored bytes that this work uses of each segment.
    pub(super) used: BTreeMap<SegmentId, u32>,
    /// Where this work's chunks lie.
    pub(super) chunks: ChunkRows,
    /// Content bytes found in segments of earlier works.
    pub(super) deduplicated_bytes: u64,
}

/// Stores a source and its manifest.
///
/// # Errors
/// [`PublishError`].
pub(super) async fn store_all(
    core: &Arc<Core>,
    terms: &Terms,
    source: Arc<Source>,
    mib_cvs: &[[u8; 32]],
    request: &PublishRequest,
    progress: &ProgressSender,
) -> Result<Stored, PublishError> {
    let storing = Storing { core, terms, progress };
    let len = source.length();
    if len <= params::INLINE_BYTES_MAX as u64 {
        let bytes = inline_bytes(&source, &terms.content)?;
        let root = root(terms.content, len, &request.media_type, ManifestBody::Inline(bytes));
        let journal = core.catalog.recipes(&terms.content)?.into_iter().collect();
        let (held, (manifest, location)) = storing.root(root.encode(), &journal).await?;
        return Ok(storing.stored(Content::default(), held, manifest, location));
    }
    let resumed = resume(core, terms, &source).await?;
    let (known, journal) = (resumed.chunks, resumed.manifest);
    let mut content = storing.content(&source, known).await?;
    content.add_resumed(resumed.held);
    let tree = tree(&terms.content, len, mib_cvs)?;
    let pages = pages(&terms.content, &content.outline.extents, &content.names, tree.parts)?;
    let encoded: Vec<Vec<u8>> = pages.iter().map(|page| page.encode()).collect();
    let packed = pack_pages(&encoded, core.genesis.segment_bytes as usize);
    let (mut held, mut names) = (Vec::new(), Vec::new());
    for bytes in packed.segments.clone() {
        let segment = storing.manifest_segment(bytes, &journal).await?;
        names.push(segment.descriptor.segment_id());
        held.push(segment);
    }
    let body = ManifestBody::Paged { outboard: tree.root_part, pages: packed.refs(&names)? };
    let root = root(terms.content, len, &request.media_type, body);
    let (last, (manifest, location)) = storing.root(root.encode(), &journal).await?;
    held.extend(last);
    Ok(storing.stored(content, held, manifest, location))
}

fn inline_bytes(source: &Source, content: &ContentId) -> Result<Vec<u8>, PublishError> {
    let hash = ChunkHash(*content.as_bytes());
    Ok(source.read_chunk(0, usize::try_from(source.length()).unwrap_or(0), &hash)?)
}

/// Content segments that are held, and how the content lies in them.
struct Content {
    outline: Outline,
    /// SegmentIDs by the number under which they were packed.
    names: Vec<SegmentId>,
    held: BTreeMap<SegmentId, Held>,
}

impl Default for Content {
    fn default() -> Self {
        let outline = Outline { extents: Vec::new(), deduplicated_bytes: 0 };
        Self { outline, names: Vec::new(), held: BTreeMap::new() }
    }
}

impl Content {
    fn name_of(&self, extent: &PlannedExtent) -> Option<(SegmentId, u32)> {
        match extent.place {
            Place::Known { segment, offset } => Some((segment, offset)),
            Place::New { number, offset } => Some((*self.names.get(number)?, offset)),
        }
    }

    /// Adds what an earlier attempt stored, and drops what is not referred to:
    /// segments that were leased again and then found sparse.
    fn add_resumed(&mut self, resumed: Vec<Held>) {
        for held in resumed {
            self.held.insert(held.descriptor.segment_id(), held);
        }
        let used: BTreeSet<SegmentId> =
            self.outline.extents.iter().filter_map(|e| Some(self.name_of(e)?.0)).collect();
        self.held.retain(|segment, _| used.contains(segment));
    }
}

struct Storing<'a> {
    core: &'a Arc<Core>,
    terms: &'a Terms,
    progress: &'a ProgressSender,
}

impl Storing<'_> {
    /// Packs and stores the content.
    async fn content(
        &self,
        source: &Arc<Source>,
        known: HashMap<ChunkHash, PlannedExtent>,
    ) -> Result<Content, PublishError> {
        let (events, mut packed) = mpsc::channel(1);
        let packing = Packing::new(
            Arc::clone(self.core),
            self.terms.clone(),
            Handle::current(),
            events,
            known,
        )?;
        let reading = Arc::clone(source);
        let pack = tokio::task::spawn_blocking(move || packing.run(&reading));
        let mut content = Content::default();
        let mut names: BTreeMap<usize, SegmentId> = BTreeMap::new();
        let mut storing: JoinSet<Numbered> = JoinSet::new();
        let total = source.length();
        loop {
            let has_room = storing.len() < SEGMENTS_AT_ONCE;
            tokio::select! {
                event = packed.recv(), if has_room => match event {
                    Some(PackEvent::Packed(packed)) => self.begin(packed, &mut storing),
                    Some(PackEvent::Leased(held)) => {
                        let held = *held;
                        content.held.insert(held.descriptor.segment_id(), held);
                    }
                    Some(PackEvent::Progress(done)) => {
                        let _ = self.progress.try_send(Progress::Storing { done, total });
                    }
                    None if storing.is_empty() => break,
                    None => take(storing.join_next().await, &mut names, &mut content.held)?,
                },
                done = storing.join_next(), if !storing.is_empty() => {
                    take(done, &mut names, &mut content.held)?;
                }
            }
        }
        content.outline = pack.await.map_err(|e| PublishError::Internal(e.to_string()))??;
        content.names = names.into_values().collect();
        Ok(content)
    }

    fn begin(&self, packed: Packed, storing: &mut JoinSet<Numbered>) {
        let (core, terms) = (Arc::clone(self.core), self.terms.clone());
        storing.spawn(async move {
            let Packed { number, bytes, chunks } = packed;
            let scheme = terms.scheme;
            let coded = tokio::task::spawn_blocking(move || code(bytes, scheme, chunks));
            let coded = coded.await.map_err(|e| PublishError::Internal(e.to_string()))??;
            Ok((number, store(&core, &terms, coded, None).await?))
        });
    }

    /// Stores a segment of manifest pages; one that an earlier attempt stored
    /// is recognised by its name.
    async fn manifest_segment(
        &self,
        bytes: Vec<u8>,
        journal: &HashMap<SegmentId, RecipeRow>,
    ) -> Result<Held, PublishError> {
        let scheme = self.terms.scheme;
        let coded = tokio::task::spawn_blocking(move || code(bytes, scheme, Vec::new()));
        let coded = coded.await.map_err(|e| PublishError::Internal(e.to_string()))??;
        let recipe = journal.get(&coded.segment).cloned();
        match recipe {
            Some(recipe) if recipe.stored => Ok(held_of(self.core, self.terms, recipe)),
            Some(recipe) => store(self.core, self.terms, coded, Some(recipe)).await,
            // A work that is published again has its manifest where it was.
            None => match lease_again(self.core, self.terms, coded.segment).await? {
                Some(held) => Ok(held),
                None => store(self.core, self.terms, coded, None).await,
            },
        }
    }

    /// Stores the root page in a segment of its own.
    async fn root(
        &self,
        bytes: Vec<u8>,
        journal: &HashMap<SegmentId, RecipeRow>,
    ) -> Result<(Vec<Held>, RootPlace), PublishError> {
        let hash = ManifestHash(*blake3::hash(&bytes).as_bytes());
        if bytes.len() > params::MANIFEST_PAGE_BYTES_MAX {
            let reason = format!("a manifest root of {} bytes is too long", bytes.len());
            return Err(PublishError::Internal(reason));
        }
        let length = bytes.len() as u32;
        let held = self.manifest_segment(bytes, journal).await?;
        let location = Location { segment: held.descriptor.segment_id(), offset: 0, length };
        Ok((vec![held], (hash, location)))
    }

    fn stored(
        &self,
        content: Content,
        manifest_held: Vec<Held>,
        manifest: ManifestHash,
        location: Location,
    ) -> Stored {
        let mut used: BTreeMap<SegmentId, u32> = BTreeMap::new();
        let mut chunks = ChunkRows::new();
        for extent in &content.outline.extents {
            let Some((segment, offset)) = content.name_of(extent) else { continue };
            let PlannedExtent { stored, plain, codec, chunk, .. } = *extent;
            let row = ChunkRow { segment, offset, stored, plain, codec };
            if chunks.insert(chunk, row).is_none() {
                *used.entry(segment).or_default() += stored;
            }
        }
        let of_content = content.held.keys().copied().collect();
        let mut held = content.held;
        for segment in manifest_held {
            let name = segment.descriptor.segment_id();
            used.insert(name, segment.descriptor.length);
            held.insert(name, segment);
        }
        let deduplicated_bytes = content.outline.deduplicated_bytes;
        let content = of_content;
        Stored { held, content, manifest, location, used, chunks, deduplicated_bytes }
    }
}

/// A segment that was stored, by its number.
type Numbered = Result<(usize, Held), PublishError>;

/// Takes in a segment that was stored, or the reason why one was not.
fn take(
    done: Option<Result<Numbered, JoinError>>,
    names: &mut BTreeMap<usize, SegmentId>,
    held: &mut BTreeMap<SegmentId, Held>,
) -> Result<(), PublishError> {
    let Some(done) = done else { return Ok(()) };
    let (number, segment) = done.map_err(|e| PublishError::Internal(e.to_string()))??;
    let name = segment.descriptor.segment_id();
    names.insert(number, name);
    held.insert(name, segment);
    Ok(())
}
