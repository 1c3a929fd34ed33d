//! Manifests, locations and extents at and beyond their bounds.

use echonet_protocol::{
    announcement::Location,
    bytes::ManifestHash,
    content_id::ContentId,
    manifest::{Extent, ManifestBody, ManifestPage, ManifestRoot, PageRef},
    params,
};

use crate::{
    content::{inline, page, paged, paged_long},
    sample::location,
};

fn root_error(root: &ManifestRoot) -> Option<String> {
    ManifestRoot::decode(&root.encode(), &root.content).err().map(|e| e.to_string())
}

/// Why the sample page with this change is refused.
fn page_error(change: impl FnOnce(&mut ManifestPage)) -> Option<String> {
    let mut page = page();
    change(&mut page);
    ManifestPage::decode(&page.encode(), &paged(), 0).err().map(|e| e.to_string())
}

/// Why the sample page with a changed extent is refused; the sum of plain bytes is kept right.
fn extent_error(change: impl FnOnce(&mut Extent)) -> Option<String> {
    page_error(|page| change(&mut page.extents[1]))
}

#[test]
fn inline_content_is_checked_whole() {
    let most = vec![7; params::INLINE_BYTES_MAX];
    assert_eq!(root_error(&inline(&most)), None);
    assert!(root_error(&inline(&vec![7; most.len() + 1])).unwrap().contains("too much inline"));
    assert_eq!(root_error(&inline(b"")), None);
    let mut root = inline(b"hello");
    root.length = 6;
    assert!(root_error(&root).unwrap().contains("inline length differs"));
    let mut root = inline(b"hello");
    root.body = ManifestBody::Inline(b"hellO".to_vec());
    assert!(root_error(&root).unwrap().contains("not the content"));
    let root = inline(b"hello");
    assert!(ManifestRoot::decode(&root.encode(), &ContentId::of(b"other")).is_err());
}

#[test]
fn a_root_has_one_page_per_started_gib() {
    assert_eq!(root_error(&paged()), None);
    assert_eq!(root_error(&paged_long()), None);
    for length in [0, 1, 2 << 30, (3 << 30) + 1, params::CONTENT_BYTES_MAX + 1, u64::MAX] {
        let root = ManifestRoot { length, ..paged_long() };
        assert!(root_error(&root).is_some(), "{length}");
    }
    let root = ManifestRoot { length: 3 << 30, ..paged_long() };
    assert_eq!(root_error(&root), None);
    let body = ManifestBody::Paged { outboard: vec![], pages: vec![] };
    let root = ManifestRoot { length: 0, body, ..paged_long() };
    assert!(root_error(&root).unwrap().contains("0 pages for 0 bytes"), "empty content is inline");
}

#[test]
fn the_longest_content_has_a_root_that_fits() {
    let hash = ManifestHash([1; 32]);
    let location = Location { offset: 32 << 20, length: 1 << 20, ..location() };
    let location = Location { offset: location.offset - location.length, ..location };
    let pages = vec![PageRef { hash, location }; 4096];
    let body = ManifestBody::Paged { outboard: vec![0; 64 * 4095], pages };
    let root = ManifestRoot { length: params::CONTENT_BYTES_MAX, body, ..paged_long() };
    assert_eq!(root_error(&root), None);
}

#[test]
fn media_types_are_short_plain_text() {
    let with = |media_type: &str| {
        root_error(&ManifestRoot { media_type: media_type.into(), ..inline(b"hello") })
    };
    assert_eq!(with("text/plain; charset=utf-8"), None);
    assert_eq!(with(&"x".repeat(128)), None);
    for bad in ["text/html\r\nSet-Cookie: a=b", "a\u{7f}", "\u{e9}", "\0", &"x".repeat(129)] {
        assert!(with(bad).is_some(), "{bad:?}");
    }
}

#[test]
fn locations_lie_within_a_segment_and_a_page() {
    let check = |offset: u32, length: u32| Location { offset, length, ..location() }.check();
    let end = 32 << 20;
    assert!(check(0, 1).is_ok() && check(end - 1, 1).is_ok() && check(0, 1 << 20).is_ok());
    for (offset, length) in
        [(0, 0), (end, 1), (end - 1, 2), (0, (1 << 20) + 1), (u32::MAX, 1), (u32::MAX, u32::MAX)]
    {
        assert!(check(offset, length).is_err(), "{offset}+{length}");
    }
    let mut root = paged_long();
    let ManifestBody::Paged { pages, .. } = &mut root.body else { unreachable!() };
    pages[2].location.offset = u32::MAX;
    assert!(root_error(&root).is_some(), "each page's location counts");
}

#[test]
fn a_page_is_the_one_asked_for() {
    assert_eq!(page_error(|_| {}), None);
    assert!(page_error(|p| p.v = 2).is_some());
    assert!(page_error(|p| p.index = 1).is_some());
    assert!(page_error(|p| p.content = ContentId::of(b"other")).is_some());
    assert!(page_error(|p| p.length -= 1).is_some());
    for index in [1, 4096, u32::MAX] {
        let mut beyond = page();
        (beyond.index, beyond.length) = (index, 0);
        (beyond.extents, beyond.segments) = (vec![], vec![]);
        let error = ManifestPage::decode(&beyond.encode(), &paged(), index).unwrap_err();
        assert!(error.to_string().contains("there is no page"), "{error}");
    }
    let pages: Vec<u64> = (0..5).map(|index| paged_long().page_length(index)).collect();
    assert_eq!(pages, [1 << 30, 1 << 30, 1, 0, 0]);
    assert_eq!(paged_long().page_length(u32::MAX), 0);
}

#[test]
fn chunks_add_up_and_no_sum_wraps() {
    assert!(page_error(|p| p.extents.truncate(1)).unwrap().contains("add up"));
    assert!(page_error(|p| p.extents.clear()).unwrap().contains("add up to 0"));
    // Plain lengths that add up to the page's modulo 2^32 and modulo 2^64 of narrower sums.
    let wraps = |page: &mut ManifestPage| {
        let rest = page.length;
        let extent = page.extents[1];
        let with = |plain: u32| Extent { plain, ..extent };
        page.extents = vec![with(u32::MAX), with(1), with(rest)];
    };
    let sum = (1_u64 << 32) + 2_500_000;
    assert!(page_error(wraps).unwrap().contains(&format!("add up to {sum}")));
}

#[test]
fn extents_lie_in_their_segment() {
    let last = u32::try_from(params::SEGMENT_BYTES_MAX).unwrap();
    assert_eq!(extent_error(|e| e.offset = last - e.stored), None);
    for offset in [u32::MAX, u32::MAX / 2, last] {
        let error = extent_error(|e| e.offset = offset).unwrap();
        assert!(error.contains("outside of its segment"), "{error}");
    }
    assert!(extent_error(|e| e.offset = last - e.stored + 1).is_some());
    assert!(extent_error(|e| (e.offset, e.stored) = (u32::MAX, u32::MAX)).is_some());
    for segment in [1, u32::MAX] {
        assert!(extent_error(|e| e.segment = segment).unwrap().contains("unlisted segment"));
    }
}

#[test]
fn a_codec_says_how_long_its_bytes_may_be() {
    assert!(extent_error(|e| e.stored -= 1).unwrap().contains("raw length differs"));
    assert!(extent_error(|e| e.stored += 1).unwrap().contains("raw length differs"));
    assert_eq!(extent_error(|e| (e.codec, e.stored) = (1, e.plain - 1)), None);
    assert_eq!(extent_error(|e| (e.codec, e.stored) = (1, 1)), None);
    assert!(extent_error(|e| e.codec = 1).unwrap().contains("compression made longer"));
    assert!(extent_error(|e| (e.codec, e.stored) = (1, 0)).is_some());
    for codec in [2, 255] {
        assert!(extent_error(|e| e.codec = codec).unwrap().contains("unknown codec"));
    }
}

#[test]
fn a_chunk_is_not_empty_and_not_over_its_bound() {
    let empty = |page: &mut ManifestPage| {
        let extent = Extent { plain: 0, stored: 0, ..page.extents[0] };
        page.extents.insert(0, extent);
    };
    assert!(page_error(empty).is_some());
    let root = ManifestRoot { length: 8 << 20, ..paged() };
    let with = |first: u32| {
        let mut page = page();
        page.length = 8 << 20;
        let (extent, rest) = (page.extents[1], page.length - first);
        let with = |plain: u32| Extent { plain, stored: plain, ..extent };
        page.extents = vec![with(first), with(rest)];
        page.extents.iter_mut().for_each(|e| e.offset = 0);
        ManifestPage::decode(&page.encode(), &root, 0)
    };
    assert!(with(4 << 20).is_ok());
    assert!(with((4 << 20) + 1).unwrap_err().to_string().contains("length out of bounds"));
}
