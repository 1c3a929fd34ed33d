//! Slices, outboards and leaf proofs: equal to bao-tree's own, and never a wrong byte.

use std::ops::Range;

use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::encode_ranges;
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};
use echonet_protocol::data::verified::{
    SliceDecoder, SliceEncoder, SliceError, decode_slice, encode_slice, outboard, slice_len,
    verify_leaf,
};
use echonet_protocol::data::{CONTENT_BYTES_MAX, LEAF_BYTES};
use proptest::prelude::*;

use crate::stream;

/// What bao-tree itself sends for the range.
fn bao_slice(data: &[u8], range: &Range<u64>, group_log: u8) -> Vec<u8> {
    let outboard = PreOrderMemOutboard::create(data, BlockSize::from_chunk_log(group_log));
    let end = range.end.div_ceil(LEAF_BYTES).max(1);
    let ranges = ChunkRanges::from(ChunkNum(range.start / LEAF_BYTES)..ChunkNum(end));
    let mut encoded = Vec::new();
    encode_ranges(data, &outboard, &ranges, &mut encoded).unwrap();
    encoded
}

/// A length (around interesting ones, too) and a range within it.
fn len_and_range() -> impl Strategy<Value = (usize, Range<u64>)> {
    let near = prop::sample::select(vec![1usize, 1024, 2048, 16 * 1024, 64 * 1024, 256 * 1024])
        .prop_flat_map(|len| len.saturating_sub(2).max(1)..len + 3);
    prop_oneof![near, 1usize..300_000].prop_flat_map(|len| {
        (Just(len), 0..len as u64, 0..len as u64)
            .prop_map(|(len, a, b)| (len, a.min(b)..a.max(b) + 1))
    })
}

/// Pushes `encoded` in pieces of the given sizes, over and over.
fn decode_in_pieces(
    root: &[u8; 32],
    total: u64,
    range: Range<u64>,
    group_log: u8,
    encoded: &[u8],
    pieces: &[usize],
) -> (Vec<u8>, Result<(), SliceError>) {
    let mut decoder = SliceDecoder::new(root, total, range.clone(), group_log).unwrap();
    let mut bytes = Vec::new();
    let mut rest = encoded;
    for &piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(piece.min(rest.len()));
        rest = later;
        let result = decoder.push(now, |offset, verified| {
            assert_eq!(offset, range.start + bytes.len() as u64, "in order and without gaps");
            bytes.extend_from_slice(verified);
        });
        if result.is_err() {
            return (bytes, result);
        }
    }
    (bytes, decoder.finish())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn slices_are_those_of_bao_tree((len, range) in len_and_range(), group_log in 0u8..=10) {
        let data = stream("slices", len);
        let (encoded, root) = encode_slice(&data, range.clone(), group_log).unwrap();
        prop_assert_eq!(root, *blake3::hash(&data).as_bytes());
        prop_assert_eq!(&encoded, &bao_slice(&data, &range, group_log));
        let total = len as u64;
        prop_assert_eq!(encoded.len() as u64, slice_len(total, range.clone(), group_log).unwrap());
        let decoded = decode_slice(&root, total, range.clone(), group_log, &encoded).unwrap();
        prop_assert_eq!(&decoded[..], &data[range.start as usize..range.end as usize]);
    }

    #[test]
    fn streaming_from_an_outboard_sends_the_same(
        (len, range) in len_and_range(),
        group_log in 0u8..=10,
        outboard_log in 0u8..=10,
        bytes_max in 1usize..70_000,
    ) {
        let data = stream("streaming", len);
        let nodes = outboard(&data, outboard_log).unwrap().nodes;
        let mut encoder =
            SliceEncoder::new(len as u64, range.clone(), group_log, outboard_log).unwrap();
        let mut encoded = Vec::new();
        loop {
            let before = encoded.len();
            let more = encoder.fill(&data[..], &nodes[..], &mut encoded, bytes_max).unwrap();
            let largest = (1024 + 64) << group_log.max(outboard_log);
            prop_assert!(encoded.len() - before < bytes_max + largest);
            if !more {
                break;
            }
        }
        prop_assert_eq!(encoded, encode_slice(&data, range, group_log).unwrap().0);
    }

    #[test]
    fn streaming_decoders_give_the_same_for_any_pieces(
        (len, range) in len_and_range(),
        group_log in 0u8..=8,
        pieces in prop::collection::vec(1usize..40_000, 1..5),
    ) {
        let data = stream("pieces", len);
        let (encoded, root) = encode_slice(&data, range.clone(), group_log).unwrap();
        let (bytes, result) =
            decode_in_pieces(&root, len as u64, range.clone(), group_log, &encoded, &pieces);
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(&bytes[..], &data[range.start as usize..range.end as usize]);
    }

    #[test]
    fn damaged_slices_never_give_a_wrong_byte(
        (len, range) in len_and_range(),
        group_log in 0u8..=8,
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        cut in any::<bool>(),
    ) {
        let data = stream("damage", len);
        let (mut encoded, root) = encode_slice(&data, range.clone(), group_log).unwrap();
        let at = at.index(encoded.len());
        if cut {
            encoded.truncate(at);
        } else {
            encoded[at] ^= 1 << bit;
        }
        let total = len as u64;
        prop_assert!(decode_slice(&root, total, range.clone(), group_log, &encoded).is_err());
        let (bytes, result) =
            decode_in_pieces(&root, total, range.clone(), group_log, &encoded, &[5000]);
        prop_assert!(result.is_err());
        prop_assert!(data[range.start as usize..].starts_with(&bytes), "only verified bytes");
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..5000), total in 0u64..1 << 45) {
        let _ = decode_slice(&[7; 32], total, 0..total, 4, &noise).unwrap_err();
        let _ = verify_leaf(&[7; 32], total, total / 2048, &noise).unwrap_err();
    }

    #[test]
    fn outboards_are_those_of_bao_tree(len in 0usize..200_000, group_log in 0u8..=6) {
        let data = stream("outboard", len);
        let ours = outboard(&data, group_log).unwrap();
        let theirs = PreOrderMemOutboard::create(&data, BlockSize::from_chunk_log(group_log));
        prop_assert_eq!(ours.root, *theirs.root.as_bytes());
        prop_assert_eq!(ours.nodes, theirs.data);
    }

    #[test]
    fn leaves_are_proven((len, range) in len_and_range(), group_log in 0u8..=10) {
        let data = stream("leaf", len);
        let leaf = range.start / LEAF_BYTES;
        let start = leaf * LEAF_BYTES;
        let wanted = start..(start + LEAF_BYTES).min(len as u64);
        let (proof, root) = encode_slice(&data, wanted.clone(), group_log).unwrap();
        prop_assert_eq!(&proof, &encode_slice(&data, wanted.clone(), 0).unwrap().0);
        let proven = verify_leaf(&root, len as u64, leaf, &proof).unwrap();
        prop_assert_eq!(proven, &data[wanted.start as usize..wanted.end as usize]);
        // The same proof must not pass for a neighbour or for another length.
        prop_assert!(verify_leaf(&root, len as u64, leaf + 1, &proof).is_err());
        prop_assert!(leaf == 0 || verify_leaf(&root, len as u64, leaf - 1, &proof).is_err());
    }
}

#[test]
fn exact_reads_need_no_carry_and_end_at_the_end() {
    let data = stream("exact", 3_000_001);
    let range = 100_000..2_900_000;
    let (encoded, root) = encode_slice(&data, range.clone(), 6).unwrap();
    let mut decoder = SliceDecoder::new(&root, data.len() as u64, range, 6).unwrap();
    let (mut rest, mut bytes, mut batches) = (&encoded[..], Vec::new(), 0);
    while decoder.next_len(256 * 1024) > 0 {
        let len = decoder.next_len(256 * 1024);
        assert!(len <= 256 * 1024);
        let (now, later) = rest.split_at(len);
        rest = later;
        decoder.push(now, |_, verified| bytes.extend_from_slice(verified)).unwrap();
        batches += 1;
    }
    assert!(rest.is_empty() && decoder.is_finished() && batches < 20);
    decoder.finish().unwrap();
    assert_eq!(bytes, data[100_000..2_900_000]);
}

#[test]
fn empty_bytes_have_a_hash_too() {
    let (encoded, root) = encode_slice(&[], 0..0, 4).unwrap();
    assert!(encoded.is_empty());
    assert_eq!(decode_slice(&root, 0, 0..0, 4, &[]).unwrap(), Vec::<u8>::new());
    let wrong = SliceError::Data { start: 0, end: 0 };
    assert_eq!(decode_slice(&[1; 32], 0, 0..0, 4, &[]), Err(wrong.clone()));
    // A reader that sees no bytes to read must not believe it either.
    let decoder = SliceDecoder::new(&[1; 32], 0, 0..0, 4).unwrap();
    assert!(!decoder.is_finished());
    assert_eq!(decoder.finish(), Err(wrong));
}

#[test]
fn a_false_length_is_refused() {
    let data = stream("length", 5000);
    let (encoded, root) = encode_slice(&data, 0..5000, 0).unwrap();
    for total in (1..12_000).step_by(1).filter(|&total| total != 5000) {
        assert!(decode_slice(&root, total, 0..total, 0, &encoded).is_err(), "{total}");
    }
}

#[test]
fn bytes_after_the_slice_are_refused() {
    let data = stream("trailing", 5000);
    let (mut encoded, root) = encode_slice(&data, 0..5000, 0).unwrap();
    encoded.push(0);
    let mut decoder = SliceDecoder::new(&root, 5000, 0..5000, 0).unwrap();
    let error = decoder.push(&encoded, |_, _| {}).unwrap_err();
    assert!(matches!(error, SliceError::Length { .. }));
    assert_eq!(decoder.push(&[], |_, _| {}), Err(error), "a failed decoder stays failed");
}

#[test]
#[allow(clippy::reversed_empty_ranges)]
fn impossible_slices_are_refused() {
    assert!(encode_slice(&[0; 10], 0..11, 0).is_err());
    assert!(encode_slice(&[0; 10], 5..5, 0).is_err());
    assert!(encode_slice(&[0; 10], 6..5, 0).is_err());
    assert!(encode_slice(&[0; 10], 0..10, 11).is_err());
    assert!(slice_len(u64::MAX, 0..u64::MAX, 0).is_err());
    assert!(slice_len(CONTENT_BYTES_MAX + 1, 0..1, 0).is_err());
    assert!(slice_len(CONTENT_BYTES_MAX, CONTENT_BYTES_MAX - 1..CONTENT_BYTES_MAX, 0).is_ok());
    assert!(outboard(&[], 11).is_err());
    let data: &[u8] = &[0; 2000];
    let mut encoder = SliceEncoder::new(2001, 0..2001, 0, 0).unwrap();
    let result = encoder.fill(data, &[0u8; 64][..], &mut Vec::new(), 10_000);
    assert!(result.is_err(), "a file that shrank is an error, not a panic");
}

#[test]
fn sizes_are_those_of_bao_tree() {
    for len in [0u64, 1, 1024, 1025, 1 << 20, (1 << 30) + 5] {
        let tree = BaoTree::new(len, BlockSize::from_chunk_log(10));
        let expected = tree.outboard_size() + len;
        assert_eq!(slice_len(len, 0..len, 10).unwrap(), expected);
    }
}
