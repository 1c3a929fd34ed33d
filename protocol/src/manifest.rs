//! Manifests: from a content to the segments that hold it.
//!
//! A manifest is immutable and named by the BLAKE3 hash of its root page. The
//! root lists pages of 1 GiB of content each, so that a seek reads two pages.
//! Nothing here trusts a length: pages prove themselves against the ContentID
//! through their outboards (`data::verified`) before a byte is handed out.

use serde::{Deserialize, Serialize};

use crate::{
    announcement::Location,
    bytes::{ChunkHash, ManifestHash},
    codec::{self, DecodeError},
    content_id::ContentId,
    identity::ensure,
    params,
    segment::SegmentId,
};

/// Bytes of a media type at most.
const MEDIA_TYPE_BYTES_MAX: usize = 128;

/// The root page (SPEC.md, "Manifest").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestRoot {
    /// Format version.
    pub v: u8,
    /// The content it describes.
    pub content: ContentId,
    /// Bytes of content.
    pub length: u64,
    /// RFC 6838 media type as the publisher has it, or empty.
    pub media_type: String,
    /// The content itself, or its pages.
    pub body: ManifestBody,
}

/// How a root page leads to the content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum ManifestBody {
    /// Content of at most 16 KiB, the empty one too.
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Pages of 1 GiB of content each, the last one shorter.
    Paged {
        /// The content's hash tree above the pages.
        #[serde(with = "serde_bytes")]
        outboard: Vec<u8>,
        /// In the order of the content.
        pages: Vec<PageRef>,
    },
}

/// A page, by hash and place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageRef {
    /// BLAKE3 of the page's bytes.
    pub hash: ManifestHash,
    /// Where they lie.
    pub location: Location,
}

/// Up to 1 GiB of content: its chunks and the hash tree over its MiBs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestPage {
    /// Format version.
    pub v: u8,
    /// The content it is part of.
    pub content: ContentId,
    /// Which page, from 0.
    pub index: u32,
    /// Bytes of content that it describes.
    pub length: u32,
    /// The segments that its extents lie in, in order of first use.
    pub segments: Vec<SegmentId>,
    /// The chunks, in the order of the content.
    pub extents: Vec<Extent>,
    /// The content's hash tree within the page, at 1 MiB groups.
    #[serde(with = "serde_bytes")]
    pub outboard: Vec<u8>,
}

/// Where one chunk lies and what it becomes. Encoded as an array of six.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ExtentTuple", into = "ExtentTuple")]
pub struct Extent {
    /// Index into the page's segments.
    pub segment: u32,
    /// First stored byte in the segment.
    pub offset: u32,
    /// Stored bytes.
    pub stored: u32,
    /// Bytes of content.
    pub plain: u32,
    /// 0: stored as is; 1: a zstd frame.
    pub codec: u8,
    /// BLAKE3 of the plain bytes.
    pub chunk: ChunkHash,
}

type ExtentTuple = (u32, u32, u32, u32, u8, ChunkHash);

impl From<ExtentTuple> for Extent {
    fn from((segment, offset, stored, plain, codec, chunk): ExtentTuple) -> Self {
        Self { segment, offset, stored, plain, codec, chunk }
    }
}

impl From<Extent> for ExtentTuple {
    fn from(e: Extent) -> Self {
        (e.segment, e.offset, e.stored, e.plain, e.codec, e.chunk)
    }
}

impl ManifestRoot {
    /// Deterministic bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a root page that claims to describe `content`.
    ///
    /// # Errors
    /// [`DecodeError`] when malformed or self-contradictory.
    pub fn decode(bytes: &[u8], content: &ContentId) -> Result<Self, DecodeError> {
        const KIND: &str = "manifest";
        let root: Self = codec::decode(KIND, bytes, params::MANIFEST_PAGE_BYTES_MAX)?;
        root.check(content).map_err(|reason| DecodeError::Malformed { kind: KIND, reason })?;
        Ok(root)
    }

    fn check(&self, content: &ContentId) -> Result<(), String> {
        ensure(self.v == params::FORMAT_VERSION, || format!("version {} unknown", self.v))?;
        ensure(self.content == *content, || format!("describes {}", self.content))?;
        ensure(self.length <= params::CONTENT_BYTES_MAX, || {
            format!("length {} is over {}", self.length, params::CONTENT_BYTES_MAX)
        })?;
        ensure(self.media_type.len() <= MEDIA_TYPE_BYTES_MAX, || "media type too long".into())?;
        // It ends up in HTTP headers and on terminals.
        ensure(self.media_type.bytes().all(|b| (0x20..0x7f).contains(&b)), || {
            "media type is not plain text".into()
        })?;
        match &self.body {
            ManifestBody::Inline(bytes) => {
                ensure(bytes.len() <= params::INLINE_BYTES_MAX, || "too much inline".into())?;
                ensure(bytes.len() as u64 == self.length, || "inline length differs".into())?;
                ensure(ContentId::of(bytes) == *content, || {
                    "the inline bytes are not the content".into()
                })
            }
            ManifestBody::Paged { pages, .. } => {
                let wanted = self.length.div_ceil(params::PAGE_CONTENT_BYTES);
                ensure(wanted > 0 && pages.len() as u64 == wanted, || {
                    format!("{} pages for {} bytes", pages.len(), self.length)
                })?;
                pages.iter().try_for_each(|page| page.location.check())
            }
        }
    }

    /// Bytes of content in page `index`.
    #[must_use]
    pub fn page_length(&self, index: u32) -> u64 {
        let start = u64::from(index) * params::PAGE_CONTENT_BYTES;
        self.length.saturating_sub(start).min(params::PAGE_CONTENT_BYTES)
    }
}

impl ManifestPage {
    /// Deterministic bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads page `index` of a manifest whose root was read before.
    ///
    /// # Errors
    /// [`DecodeError`] when malformed, self-contradictory, or not that page.
    pub fn decode(bytes: &[u8], root: &ManifestRoot, index: u32) -> Result<Self, DecodeError> {
        const KIND: &str = "manifest page";
        let page: Self = codec::decode(KIND, bytes, params::MANIFEST_PAGE_BYTES_MAX)?;
        page.check(root, index).map_err(|reason| DecodeError::Malformed { kind: KIND, reason })?;
        Ok(page)
    }

    fn check(&self, root: &ManifestRoot, index: u32) -> Result<(), String> {
        ensure(self.v == params::FORMAT_VERSION, || format!("version {} unknown", self.v))?;
        ensure(self.content == root.content, || format!("describes {}", self.content))?;
        ensure(self.index == index, || format!("is page {}, not {index}", self.index))?;
        ensure(root.page_length(index) > 0, || format!("there is no page {index}"))?;
        ensure(u64::from(self.length) == root.page_length(index), || {
            format!("describes {} bytes, not {}", self.length, root.page_length(index))
        })?;
        let plain: u64 = self.extents.iter().map(|e| u64::from(e.plain)).sum();
        ensure(plain == u64::from(self.length), || format!("its chunks add up to {plain} bytes"))?;
        self.extents.iter().try_for_each(|e| e.check(self.segments.len()))
    }
}

impl Extent {
    fn check(&self, segments: usize) -> Result<(), String> {
        let wrong = |what: &str| format!("a chunk {what}");
        ensure((self.segment as usize) < segments, || wrong("in an unlisted segment"))?;
        let end = u64::from(self.offset) + u64::from(self.stored);
        ensure(self.stored >= 1 && end <= params::SEGMENT_BYTES_MAX as u64, || {
            wrong("outside of its segment")
        })?;
        ensure((1..=params::CHUNK_BYTES_MAX).contains(&(self.plain as usize)), || {
            wrong("of a length out of bounds")
        })?;
        match self.codec {
            0 => ensure(self.stored == self.plain, || wrong("whose raw length differs")),
            1 => ensure(self.stored < self.plain, || wrong("that compression made longer")),
            other => Err(format!("a chunk with unknown codec {other}")),
        }
    }
}
