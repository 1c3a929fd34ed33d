//! The outboard of a content, split by pages: equal to bao-tree's, and wrong parts are named.

use bao_tree::BlockSize;
use bao_tree::io::outboard::PreOrderMemOutboard;
use echonet_protocol::data::verified::{
    ContentOutboard, ContentOutboardBuilder, ContentShape, GroupError, OutboardError, PageCvs,
    PagePart, group_cv,
};
use echonet_protocol::data::{CONTENT_BYTES_MAX, GROUP_BYTES, PAGE_BYTES, PAGE_GROUPS};
use proptest::prelude::*;

use crate::stream;

fn build(data: &[u8]) -> (ContentShape, ContentOutboard, Vec<PagePart>) {
    let shape = ContentShape::new(data.len() as u64).unwrap();
    let mut builder = ContentOutboardBuilder::new(shape);
    let mut parts = Vec::new();
    for group in 0..shape.groups() {
        let start = (group * GROUP_BYTES) as usize;
        let bytes = &data[start..start + shape.group_len(group) as usize];
        let cv = group_cv(bytes, group, shape.groups() == 1).unwrap();
        parts.extend(builder.push(cv).unwrap());
    }
    (shape, builder.finish().unwrap(), parts)
}

/// An outboard over made-up group hashes: pages of contents that no test could hold.
fn build_from_cvs(len: u64) -> (ContentShape, ContentOutboard, Vec<PagePart>, Vec<[u8; 32]>) {
    let shape = ContentShape::new(len).unwrap();
    let cvs: Vec<[u8; 32]> =
        (0..shape.groups()).map(|group| blake3::hash(&group.to_le_bytes()).into()).collect();
    let mut builder = ContentOutboardBuilder::new(shape);
    let parts = cvs.iter().filter_map(|cv| builder.push(*cv).unwrap()).collect();
    (shape, builder.finish().unwrap(), parts, cvs)
}

#[test]
fn outboards_equal_bao_trees_and_verify_every_group() {
    let mib = GROUP_BYTES as usize;
    for len in [0, 1, mib - 1, mib, mib + 1, 2 * mib, 3 * mib + 7, 5 * mib, 8 * mib, 9 * mib + 1] {
        let data = stream("content", len);
        let (shape, built, parts) = build(&data);
        let theirs = PreOrderMemOutboard::create(&data, BlockSize::from_chunk_log(10));
        assert_eq!(built.root, *blake3::hash(&data).as_bytes(), "{len}");
        assert_eq!(parts[0].nodes, theirs.data, "{len}");
        assert!(built.root_part.is_empty() && parts.len() == 1);

        let groups = PageCvs::verify(&built.root, shape, &[]).unwrap();
        let groups = groups.verify_page(0, &parts[0].nodes).unwrap();
        for group in 0..shape.groups() {
            let start = (group * GROUP_BYTES) as usize;
            let mut bytes = data[start..start + shape.group_len(group) as usize].to_vec();
            assert_eq!(groups.verify(group, &bytes), Ok(()));
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
                assert_eq!(groups.verify(group, &bytes), Err(GroupError::Mismatch { group }));
            }
            if let Some(short) = bytes.len().checked_sub(1) {
                let refused = groups.verify(group, &bytes[..short]);
                assert!(matches!(refused, Err(GroupError::Length { .. })));
            }
            bytes.push(0);
            assert!(matches!(groups.verify(group, &bytes), Err(GroupError::Length { .. })));
        }
        assert!(groups.verify(shape.groups(), &[]).is_err());
        assert!(groups.verify(u64::MAX, &[]).is_err());
    }
}

#[test]
fn parts_of_many_pages_join_to_one_pre_order_tree() {
    // The root part and the page parts, joined by hand the way a single outboard would list them.
    for len in [PAGE_BYTES, PAGE_BYTES + 1, 2 * PAGE_BYTES, 3 * PAGE_BYTES, 5 * PAGE_BYTES - 1] {
        let (shape, built, parts, cvs) = build_from_cvs(len);
        assert_eq!(parts.len() as u64, shape.pages());
        let whole = slow_pre_order(&cvs);
        assert_eq!(built.root_part.len(), shape.root_part_len());
        for part in &parts {
            assert_eq!(part.nodes.len(), shape.page_part_len(part.page));
            let found = part.nodes.is_empty() || contains(&whole, &part.nodes);
            assert!(found, "page {} of {len} bytes is a run of the whole outboard", part.page);
        }
        let sum: usize = parts.iter().map(|part| part.nodes.len()).sum();
        assert_eq!(sum + built.root_part.len(), whole.len());
        assert!(whole.starts_with(&built.root_part[..built.root_part.len().min(64)]));
    }
}

/// The pre-order outboard over group hashes, from the definition: the left subtree holds the
/// largest power of two of groups that leaves something for the right.
fn slow_pre_order(cvs: &[[u8; 32]]) -> Vec<u8> {
    fn node(cvs: &[[u8; 32]], out: &mut Vec<u8>, is_root: bool) -> [u8; 32] {
        use blake3::hazmat::{Mode, merge_subtrees_non_root, merge_subtrees_root};
        if cvs.len() == 1 {
            return cvs[0];
        }
        let mut half = 1;
        while half * 2 < cvs.len() {
            half *= 2;
        }
        let at = out.len();
        out.extend_from_slice(&[0; 64]);
        let left = node(&cvs[..half], out, false);
        let right = node(&cvs[half..], out, false);
        out[at..at + 32].copy_from_slice(&left);
        out[at + 32..at + 64].copy_from_slice(&right);
        if is_root {
            merge_subtrees_root(&left, &right, Mode::Hash).into()
        } else {
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
    let mut out = Vec::new();
    node(cvs, &mut out, true);
    out
}

fn contains(whole: &[u8], part: &[u8]) -> bool {
    whole
        .chunks_exact(64)
        .enumerate()
        .any(|(at, node)| node == &part[..64] && whole[at * 64..].starts_with(part))
}

#[test]
fn every_page_verifies_and_none_in_the_place_of_another() {
    let (shape, built, parts, _) = build_from_cvs(4 * PAGE_BYTES + 3 * GROUP_BYTES);
    let pages = PageCvs::verify(&built.root, shape, &built.root_part).unwrap();
    for part in &parts {
        assert!(pages.verify_page(part.page, &part.nodes).is_ok());
        let other = (part.page + 1) % shape.pages();
        assert!(pages.verify_page(other, &part.nodes).is_err());
    }
    assert_eq!(
        pages.verify_page(5, &[]),
        Err(OutboardError::Page { page: 5, pages: shape.pages() })
    );
    assert!(pages.verify_page(u64::MAX, &[]).is_err());
}

#[test]
fn a_false_length_of_the_content_is_refused() {
    let (_, built, _, _) = build_from_cvs(4 * PAGE_BYTES);
    for len in [0, 1, PAGE_BYTES, 4 * PAGE_BYTES + 1, CONTENT_BYTES_MAX] {
        let shape = ContentShape::new(len).unwrap();
        assert!(PageCvs::verify(&built.root, shape, &built.root_part).is_err(), "{len}");
    }
    assert!(ContentShape::new(CONTENT_BYTES_MAX + 1).is_err());
}

#[test]
fn the_builder_takes_exactly_its_groups() {
    let shape = ContentShape::new(2 * GROUP_BYTES).unwrap();
    let mut builder = ContentOutboardBuilder::new(shape);
    builder.push([1; 32]).unwrap();
    assert!(builder.push([2; 32]).unwrap().is_some());
    assert!(builder.push([3; 32]).is_err());
    assert!(builder.finish().is_ok());
    let mut short = ContentOutboardBuilder::new(shape);
    short.push([1; 32]).unwrap();
    assert!(short.finish().is_err());
}

#[test]
fn impossible_groups_are_refused() {
    assert!(group_cv(&[], 0, true).is_ok());
    assert!(group_cv(&[], 0, false).is_err());
    assert!(group_cv(&[0], 1, true).is_err());
    assert!(group_cv(&vec![0; GROUP_BYTES as usize + 1], 0, false).is_err());
    assert!(group_cv(&[0], u64::MAX, false).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_part_is_refused(
        groups in 2..PAGE_GROUPS,
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        cut in any::<bool>(),
    ) {
        let (shape, built, parts, _) = build_from_cvs(PAGE_BYTES + groups * GROUP_BYTES);
        let mut nodes = parts[1].nodes.clone();
        let at = at.index(nodes.len());
        if cut {
            nodes.truncate(at);
        } else {
            nodes[at] ^= 1 << bit;
        }
        let pages = PageCvs::verify(&built.root, shape, &built.root_part).unwrap();
        let refused = pages.verify_page(1, &nodes).unwrap_err();
        match refused {
            // A flipped bit is found in its own node: the one above it still verifies.
            OutboardError::Node { node } => prop_assert!(!cut && node == at / 64),
            other => prop_assert!(cut, "{other}"),
        }
        let mut root_part = built.root_part.clone();
        root_part[at % 64] ^= 1 << bit;
        prop_assert!(PageCvs::verify(&built.root, shape, &root_part).is_err());
    }
}
