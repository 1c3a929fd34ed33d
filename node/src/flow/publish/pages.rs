//! Making the manifest: extents become pages, pages go into segments, the root
//! page last.
//!
//! Pure but for hashing: it stores nothing.

use std::collections::BTreeMap;

use echonet_protocol::{
    announcement::Location,
    bytes::ManifestHash,
    content_id::ContentId,
    data::verified::{ContentOutboardBuilder, ContentShape, PagePart},
    manifest::{Extent, ManifestBody, ManifestPage, ManifestRoot, PageRef},
    params,
    segment::SegmentId,
};

use super::{
    PublishError,
    pack::{Place, PlannedExtent},
};

/// A content's hash tree, in the parts that a manifest has.
#[derive(Debug)]
pub(super) struct Tree {
    /// The nodes above the pages.
    pub(super) root_part: Vec<u8>,
    /// The nodes within each page.
    pub(super) parts: Vec<PagePart>,
}

/// The tree over the hashes of a content's MiBs.
///
/// # Errors
/// [`PublishError::Internal`] when they are not those of `content`.
pub(super) fn tree(
    content: &ContentId,
    len: u64,
    mib_cvs: &[[u8; 32]],
) -> Result<Tree, PublishError> {
    let internal = |e: &dyn std::fmt::Display| PublishError::Internal(e.to_string());
    let mut builder =
        ContentOutboardBuilder::new(ContentShape::new(len).map_err(|e| internal(&e))?);
    let mut parts = Vec::new();
    for cv in mib_cvs {
        parts.extend(builder.push(*cv).map_err(|e| internal(&e))?);
    }
    let outboard = builder.finish().map_err(|e| internal(&e))?;
    if outboard.root != *content.as_bytes() {
        return Err(internal(&"the hash tree does not lead to the ContentID"));
    }
    Ok(Tree { root_part: outboard.root_part, parts })
}

/// The pages of a content whose chunks are all placed. `names` are the segments
/// of this publish, by number.
///
/// # Errors
/// [`PublishError::Internal`] for a segment without a name.
pub(super) fn pages(
    content: &ContentId,
    extents: &[PlannedExtent],
    names: &[SegmentId],
    parts: Vec<PagePart>,
) -> Result<Vec<ManifestPage>, PublishError> {
    let mut pages = Vec::new();
    let mut rest = extents;
    for part in parts {
        let end = (part.page + 1) * params::PAGE_CONTENT_BYTES;
        let count = rest.iter().take_while(|e| e.content_offset < end).count();
        let (of_page, after) = rest.split_at(count);
        rest = after;
        pages.push(page(content, part, of_page, names)?);
    }
    Ok(pages)
}

fn page(
    content: &ContentId,
    part: PagePart,
    extents: &[PlannedExtent],
    names: &[SegmentId],
) -> Result<ManifestPage, PublishError> {
    let mut segments = Vec::new();
    let mut index_of: BTreeMap<SegmentId, u32> = BTreeMap::new();
    let mut rows = Vec::with_capacity(extents.len());
    for extent in extents {
        let (name, offset) = match extent.place {
            Place::Known { segment, offset } => (segment, offset),
            Place::New { number, offset } => {
                let name = names.get(number).copied();
                let missing = || PublishError::Internal(format!("segment {number} was not stored"));
                (name.ok_or_else(missing)?, offset)
            }
        };
        let segment = *index_of.entry(name).or_insert_with(|| {
            segments.push(name);
            segments.len() as u32 - 1
        });
        let PlannedExtent { stored, plain, codec, chunk, .. } = *extent;
        rows.push(Extent { segment, offset, stored, plain, codec, chunk });
    }
    // A page describes at most 1 GiB: both numbers fit into 32 bits.
    Ok(ManifestPage {
        v: params::FORMAT_VERSION,
        content: *content,
        index: part.page as u32,
        length: extents.iter().map(|e| e.plain).sum(),
        segments,
        extents: rows,
        outboard: part.nodes,
    })
}

/// Pages packed into the bytes of segments: whole pages, in order.
#[derive(Debug)]
pub(super) struct PackedPages {
    /// The bytes of each segment.
    pub(super) segments: Vec<Vec<u8>>,
    /// For each page: number of its segment, offset, length, hash.
    pub(super) places: Vec<(usize, u32, u32, ManifestHash)>,
}

/// Packs encoded pages into segments of about `segment_bytes`.
#[must_use]
pub(super) fn pack_pages(pages: &[Vec<u8>], segment_bytes: usize) -> PackedPages {
    let mut packed = PackedPages { segments: Vec::new(), places: Vec::new() };
    for page in pages {
        let fits = |last: &Vec<u8>| last.len() + page.len() <= segment_bytes;
        if !packed.segments.last().is_some_and(fits) {
            packed.segments.push(Vec::new());
        }
        let number = packed.segments.len() - 1;
        let segment = &mut packed.segments[number];
        let hash = ManifestHash(*blake3::hash(page).as_bytes());
        packed.places.push((number, segment.len() as u32, page.len() as u32, hash));
        segment.extend_from_slice(page);
    }
    packed
}

impl PackedPages {
    /// References to the pages, once their segments have names.
    ///
    /// # Errors
    /// [`PublishError::Internal`] for a segment without a name.
    pub(super) fn refs(&self, names: &[SegmentId]) -> Result<Vec<PageRef>, PublishError> {
        let to_ref = |(number, offset, length, hash): &(usize, u32, u32, ManifestHash)| {
            let missing = || PublishError::Internal("a manifest segment was not stored".into());
            let segment = *names.get(*number).ok_or_else(missing)?;
            let location = Location { segment, offset: *offset, length: *length };
            Ok(PageRef { hash: *hash, location })
        };
        self.places.iter().map(to_ref).collect()
    }
}

/// The root page.
#[must_use]
pub(super) fn root(
    content: ContentId,
    length: u64,
    media_type: &str,
    body: ManifestBody,
) -> ManifestRoot {
    let media_type = media_type.to_owned();
    ManifestRoot { v: params::FORMAT_VERSION, content, length, media_type, body }
}
