//! Reading manifests: root and pages come from segments like anything else, and
//! prove themselves against the ContentID before anything in them is believed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use echonet_protocol::{
    announcement::{Announcement, Location},
    bytes::ManifestHash,
    content_id::ContentId,
    data::verified::{ContentShape, GroupCvs, PageCvs},
    fetch::FetchConfig,
    identity::NodeId,
    machine::Draws,
    manifest::{Extent, ManifestBody, ManifestPage, ManifestRoot},
    params,
    segment::SegmentId,
};

use super::segment::{
    Account, Check, Located, PartWanted, SegmentBytes, SegmentError, fetch_part,
};
use crate::{
    core::Core,
    flow::discover::{self, Patience},
};

/// Why a manifest is not believed, or not had.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It, or what it leads to, cannot be had.
    #[error("manifest found, {0}")]
    Unavailable(#[from] SegmentError),
    /// It is wrong: its author's fault.
    #[error("the manifest is wrong: {0}")]
    Bad(String),
}

/// Segments and their holders, remembered for one fetch.
#[derive(Debug, Default)]
pub struct Locator {
    known: Mutex<BTreeMap<SegmentId, Arc<Located>>>,
    /// Set: only a random k-subset of each segment's shards is told, with at
    /// least one parity shard.
    subsets: Option<Mutex<Draws>>,
}

impl Locator {
    /// One that makes readers rebuild: what a live check reads through.
    #[must_use]
    pub fn subsets(seed: u64) -> Self {
        Self { known: Mutex::default(), subsets: Some(Mutex::new(Draws::new(seed))) }
    }

    fn restricted(&self, core: &Core, mut located: Located) -> Located {
        let Some(draws) = &self.subsets else { return located };
        let own = core.node_id();
        let is_elsewhere = |nodes: &Vec<NodeId>| nodes.iter().any(|node| *node != own);
        located.holders.retain(|_, nodes| is_elsewhere(nodes));
        let k = located.descriptor.scheme.k;
        let mut indices: Vec<u8> = located.holders.keys().copied().collect();
        draws.lock().unwrap_or_else(PoisonError::into_inner).shuffle(&mut indices);
        // The first parity shard of the draw is taken whatever its place.
        if let Some(parity) = indices.iter().position(|index| *index >= k) {
            indices.swap(0, parity);
        }
        indices.truncate(k.into());
        located.holders.retain(|index, _| indices.contains(index));
        located
    }

    /// Who holds a segment.
    ///
    /// # Errors
    /// [`SegmentError::NotPlaced`].
    pub async fn locate(
        &self,
        core: &Core,
        segment: SegmentId,
    ) -> Result<Arc<Located>, SegmentError> {
        self.prefetch(core, &[segment]).await;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&segment).cloned().ok_or(SegmentError::NotPlaced { segment })
    }

    /// Looks for a segment's holders again, patiently: repair moves shards, and somebody's records
    /// may have hidden those that count. None where nothing else is found.
    pub async fn locate_again(&self, core: &Core, known: &Located) -> Option<Arc<Located>> {
        let segment = known.segment;
        let mut found = discover::placements(core, &[segment], Patience::Long).await;
        let located = Located::from_records(segment, &found.remove(&segment)?)?;
        if located.holders == known.holders {
            return None;
        }
        let located = Arc::new(self.restricted(core, located));
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(segment, Arc::clone(&located));
        Some(located)
    }

    /// Finds the holders of several segments with as few questions as possible.
    pub async fn prefetch(&self, core: &Core, segments: &[SegmentId]) {
        let unknown: Vec<SegmentId> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            segments.iter().filter(|s| !known.contains_key(s)).copied().collect()
        };
        let mut warmed = BTreeSet::new();
        for batch in unknown.chunks(params::BATCH_ITEMS_MAX) {
            let found = discover::placements(core, batch, Patience::Short).await;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            for (segment, records) in found {
                if let Some(located) = Located::from_records(segment, &records) {
                    // Who is dead is found out while others are read from already.
                    let holders = located.holders.values().flatten().copied();
                    warmed.extend(holders.take(WARMED_MAX - warmed.len()));
                    known.insert(segment, Arc::new(self.restricted(core, located)));
                }
            }
        }
        warmed.iter().for_each(|node| core.client.warm(node));
    }
}

/// Nodes to which connections are opened ahead, at most.
pub(super) const WARMED_MAX: usize = 32;

/// A page whose hash tree verified.
#[derive(Debug)]
pub struct LoadedPage {
    /// What it says.
    pub page: ManifestPage,
    /// What its MiBs must hash to.
    pub groups: GroupCvs,
}

/// A manifest whose root verified.
#[derive(Debug)]
pub struct Manifest {
    /// Its name.
    pub hash: ManifestHash,
    /// Where its root page lies.
    pub location: Location,
    /// What its root says.
    pub root: ManifestRoot,
    /// What its pages must hash to; none for inline content.
    cvs: Option<PageCvs>,
    pages: tokio::sync::Mutex<BTreeMap<u32, Arc<LoadedPage>>>,
}

/// Pages kept in memory at most.
const PAGES_KEPT: usize = 4;

/// What is fetched of a manifest: with whose means, into whose account.
pub struct Reader<'a> {
    /// The node.
    pub core: &'a Arc<Core>,
    /// Where segments are.
    pub locator: &'a Locator,
    /// Limits of one segment's fetch.
    pub config: FetchConfig,
}

impl Reader<'_> {
    /// Part of a segment. Where it is not had from the holders known so far, others are looked
    /// for, once.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub(super) async fn part(
        &self,
        located: &Located,
        range: &Range<usize>,
        check: Check<'_>,
        account: &mut Account,
    ) -> Result<SegmentBytes, SegmentError> {
        let wanted = |located| PartWanted {
            located,
            range: range.clone(),
            check,
            config: self.config,
            seed: u64::from_le_bytes(crate::clock::random()),
        };
        match fetch_part(self.core, wanted(located), account).await {
            Err(e @ SegmentError::Failed { .. }) => {
                match self.locator.locate_again(self.core, located).await {
                    Some(located) => fetch_part(self.core, wanted(&located), account).await,
                    None => Err(e),
                }
            }
            other => other,
        }
    }

    /// The bytes at a location.
    async fn bytes(
        &self,
        location: Location,
        hash: ManifestHash,
        account: &mut Account,
    ) -> Result<Vec<u8>, ManifestError> {
        let located = self.locator.locate(self.core, location.segment).await?;
        let start = location.offset as usize;
        let range = start..start + location.length as usize;
        if range.end > located.descriptor.length as usize {
            return Err(ManifestError::Bad("a page outside of its segment".into()));
        }
        let is_page = |part: &SegmentBytes| {
            part.get(range.start, range.len())
                .is_some_and(|bytes| blake3::hash(&bytes).as_bytes() == &hash.0)
        };
        let part = self.part(&located, &range, &is_page, account).await?;
        let bytes = part.get(range.start, range.len());
        Ok(bytes.ok_or_else(|| ManifestError::Bad("a page that is not there".into()))?.into_owned())
    }

    /// The manifest that an announcement names.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub async fn root(
        &self,
        announcement: &Announcement,
        account: &mut Account,
    ) -> Result<Manifest, ManifestError> {
        let (hash, location) = (announcement.manifest, announcement.location);
        let bytes = self.bytes(location, hash, account).await?;
        let content: ContentId = announcement.content;
        let bad = |e: &dyn std::fmt::Display| ManifestError::Bad(e.to_string());
        let root = ManifestRoot::decode(&bytes, &content).map_err(|e| bad(&e))?;
        let cvs = match &root.body {
            ManifestBody::Inline(_) => None,
            ManifestBody::Paged { outboard, .. } => {
                let shape = ContentShape::new(root.length).map_err(|e| bad(&e))?;
                Some(PageCvs::verify(content.as_bytes(), shape, outboard).map_err(|e| bad(&e))?)
            }
        };
        Ok(Manifest { hash, location, root, cvs, pages: tokio::sync::Mutex::default() })
    }

    /// A page of a manifest.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub async fn page(
        &self,
        manifest: &Manifest,
        index: u32,
        account: &mut Account,
    ) -> Result<Arc<LoadedPage>, ManifestError> {
        let mut pages = manifest.pages.lock().await;
        if let Some(page) = pages.get(&index) {
            return Ok(Arc::clone(page));
        }
        let (ManifestBody::Paged { pages: refs, .. }, Some(cvs)) =
            (&manifest.root.body, &manifest.cvs)
        else {
            return Err(ManifestError::Bad("inline content has no pages".into()));
        };
        let at = refs.get(index as usize);
        let at = at.ok_or_else(|| ManifestError::Bad(format!("no page {index}")))?;
        let bytes = self.bytes(at.location, at.hash, account).await?;
        let bad = |e: &dyn std::fmt::Display| ManifestError::Bad(e.to_string());
        let page = ManifestPage::decode(&bytes, &manifest.root, index).map_err(|e| bad(&e))?;
        let groups = cvs.verify_page(index.into(), &page.outboard).map_err(|e| bad(&e))?;
        let loaded = Arc::new(LoadedPage { page, groups });
        if pages.len() >= PAGES_KEPT {
            pages.pop_first();
        }
        pages.insert(index, Arc::clone(&loaded));
        Ok(loaded)
    }
}

/// Consecutive chunks of a page that are fetched together: they lie in one
/// segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRun {
    /// The segment.
    pub segment: SegmentId,
    /// The bytes of it that the chunks lie in.
    pub stored: Range<usize>,
    /// First byte of content in the run.
    pub content_offset: u64,
    /// The chunks, in the order of the content.
    pub extents: Vec<Extent>,
}

/// Plain bytes of one run at most, unless a single chunk has more.
const RUN_PLAIN_BYTES_MAX: usize = params::SEGMENT_BYTES_MAX;

/// Divides the chunks of a page that touch `content` (bytes of the whole
/// content) into runs.
#[must_use]
pub fn runs(page: &ManifestPage, content: Range<u64>) -> Vec<ChunkRun> {
    let mut runs: Vec<ChunkRun> = Vec::new();
    let mut offset = u64::from(page.index) * params::PAGE_CONTENT_BYTES;
    let mut plain_in_run = 0;
    for extent in &page.extents {
        let start = offset;
        offset += u64::from(extent.plain);
        if offset <= content.start || start >= content.end {
            continue;
        }
        let segment = page.segments[extent.segment as usize];
        let stored = extent.offset as usize..(extent.offset + extent.stored) as usize;
        let plain = extent.plain as usize;
        match runs.last_mut() {
            Some(run) if run.segment == segment && plain_in_run + plain <= RUN_PLAIN_BYTES_MAX => {
                run.stored = run.stored.start.min(stored.start)..run.stored.end.max(stored.end);
                run.extents.push(*extent);
                plain_in_run += plain;
            }
            _ => {
                plain_in_run = plain;
                runs.push(ChunkRun {
                    segment,
                    stored,
                    content_offset: start,
                    extents: vec![*extent],
                });
            }
        }
    }
    runs
}
