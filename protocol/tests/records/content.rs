//! Content-addressed samples: manifests of real contents and a proof against a real liar.

use std::sync::LazyLock;

use echonet_protocol::{
    announcement::Location,
    bytes::{ChunkHash, ManifestHash},
    content_id::ContentId,
    data::{
        GROUP_BYTES, next_cut,
        rows::Rows,
        verified::{ContentOutboardBuilder, ContentShape, encode_slice, group_cv},
    },
    inconsistency::{InconsistencyProof, LeafSlice},
    manifest::{Extent, ManifestBody, ManifestPage, ManifestRoot, PageRef},
    segment::Scheme,
};

use crate::sample::{descriptor_of, location, placed, shards, stream};

/// Length of [`content`].
const LENGTH: usize = 2_500_000;

/// The content of the paged samples.
pub(crate) fn content() -> Vec<u8> {
    stream("echonet manifest", LENGTH)
}

/// A root page with the content inside.
pub(crate) fn inline(bytes: &[u8]) -> ManifestRoot {
    ManifestRoot {
        v: 1,
        content: ContentId::of(bytes),
        length: bytes.len() as u64,
        media_type: "text/plain".into(),
        body: ManifestBody::Inline(bytes.to_vec()),
    }
}

/// The one page of [`content`]: chunks as cut, stored raw one after the other in one segment; the
/// first is said to be compressed, which only its reader could tell.
pub(crate) fn page() -> ManifestPage {
    static PAGE: LazyLock<ManifestPage> = LazyLock::new(make_page);
    PAGE.clone()
}

fn make_page() -> ManifestPage {
    let bytes = content();
    let shape = ContentShape::new(LENGTH as u64).unwrap();
    let mut builder = ContentOutboardBuilder::new(shape);
    let mut outboard = Vec::new();
    for (group, part) in bytes.chunks(GROUP_BYTES as usize).enumerate() {
        let cv = group_cv(part, group as u64, false).unwrap();
        if let Some(page) = builder.push(cv).unwrap() {
            outboard = page.nodes;
        }
    }
    let content = ContentId::new(builder.finish().unwrap().root);
    let (mut extents, mut at, mut offset) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        let len = next_cut(&bytes[at..], at as u64, true).unwrap();
        let stored = if at == 0 { len as u32 / 2 } else { len as u32 };
        extents.push(Extent {
            segment: 0,
            offset,
            stored,
            plain: len as u32,
            codec: u8::from(at == 0),
            chunk: ChunkHash(*blake3::hash(&bytes[at..at + len]).as_bytes()),
        });
        offset += stored;
        at += len;
    }
    let segments = vec![placed().segment_id()];
    ManifestPage { v: 1, content, index: 0, length: LENGTH as u32, segments, extents, outboard }
}

/// The root above [`page`].
pub(crate) fn paged() -> ManifestRoot {
    let page = page();
    let hash = ManifestHash(*blake3::hash(&page.encode()).as_bytes());
    let location = Location { length: page.encode().len() as u32, ..location() };
    ManifestRoot {
        v: 1,
        content: page.content,
        length: u64::from(page.length),
        media_type: String::new(),
        body: ManifestBody::Paged { outboard: Vec::new(), pages: vec![PageRef { hash, location }] },
    }
}

/// A root of three pages, as if of 2 GiB and a byte: what it names is made up.
pub(crate) fn paged_long() -> ManifestRoot {
    let page = |n: u8| PageRef { hash: ManifestHash([n; 32]), location: location() };
    ManifestRoot {
        v: 1,
        content: ContentId::new([7; 32]),
        length: (2 << 30) + 1,
        media_type: "video/mp4".into(),
        body: ManifestBody::Paged {
            outboard: stream("echonet root part", 128),
            pages: vec![page(1), page(2), page(3)],
        },
    }
}

/// A 2+1 segment of 5,000 bytes whose parity shard was damaged before its hash was taken: leaf 2 of
/// each shard proves it.
pub(crate) fn proof() -> InconsistencyProof {
    let scheme = Scheme::new(2, 1).unwrap();
    let mut shards = shards(scheme, &stream("echonet segment", 5000));
    shards[2][2100] ^= 1;
    let descriptor = descriptor_of(scheme, 5000, &shards);
    let slices = shards.iter().zip(0..).map(|(shard, index)| {
        let (slice, _) = encode_slice(shard, 2048..2500, 0).unwrap();
        LeafSlice { index, slice }
    });
    InconsistencyProof::new(descriptor, 2, slices.collect(), &Rows).unwrap()
}
