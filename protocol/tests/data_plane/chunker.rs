//! Cuts do not depend on how the bytes arrive, nor on where the work was resumed.

use echonet_protocol::data::chunker::{Chunker, MASK_LOOSE, MASK_STRICT, next_cut, window_len};
use echonet_protocol::data::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNK_BYTES_TARGET, PAGE_BYTES};
use fastcdc::v2020::{FastCDC, Normalization, get_gear_with_seed, select_masks};
use proptest::prelude::*;

use crate::stream;

/// Bytes with every kind of stretch: noise, zeros (never a cut), and a short period.
fn mixed(parts: &[(u8, usize)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, &(kind, len)) in parts.iter().enumerate() {
        match kind % 3 {
            0 => bytes.extend(stream(&format!("mixed {index}"), len)),
            1 => bytes.resize(bytes.len() + len, 0),
            _ => bytes.extend((0..len).map(|at| (at % 7919) as u8)),
        }
    }
    bytes
}

/// The chunking from its definition, byte by byte: the lengths of the chunks of a content whose
/// first byte is at `offset`.
fn slow_lengths(data: &[u8], mut offset: u64) -> Vec<usize> {
    let gear = get_gear_with_seed(0).0;
    let (mut rest, mut lengths) = (data, Vec::new());
    while !rest.is_empty() {
        let page_rest = (PAGE_BYTES - offset % PAGE_BYTES).min(rest.len() as u64) as usize;
        let len = slow_cut(&rest[..page_rest.min(CHUNK_BYTES_MAX)], &gear);
        lengths.push(len);
        offset += len as u64;
        rest = &rest[len..];
    }
    lengths
}

fn slow_cut(window: &[u8], gear: &[u64]) -> usize {
    let mut hash = 0u64;
    // A last byte without a partner is never tested: the algorithm rolls two bytes at a time.
    let tested = window.len() - window.len() % 2;
    let target = CHUNK_BYTES_TARGET.min(tested);
    for at in CHUNK_BYTES_MIN..tested {
        hash = (hash << 1).wrapping_add(gear[window[at] as usize]);
        let mask = if at < target { MASK_STRICT } else { MASK_LOOSE };
        if hash & mask == 0 {
            return at;
        }
    }
    window.len()
}

/// Feeds pieces of the given sizes, over and over.
fn fed_lengths(data: &[u8], offset: u64, pieces: &[usize]) -> Vec<usize> {
    let (mut chunker, mut lengths) = (Chunker::new(offset), Vec::new());
    let (mut rest, mut at) = (data, 0);
    let mut check = |chunk: echonet_protocol::data::Chunk<'_>| {
        assert_eq!(chunk.offset, offset + at as u64);
        assert!(chunk.bytes == &data[at..at + chunk.bytes.len()], "the chunk's own bytes");
        at += chunk.bytes.len();
        lengths.push(chunk.bytes.len());
    };
    for &piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(piece.min(rest.len()));
        rest = later;
        chunker.feed(now, &mut check);
    }
    assert_eq!(chunker.finish(&mut check), offset + data.len() as u64);
    lengths
}

/// Offsets that matter: the beginning, and close before the end of a page.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0u64),
        (1u64..6_000_000).prop_map(|back| PAGE_BYTES - back),
        (1u64..6_000_000).prop_map(|back| 7 * PAGE_BYTES - back),
    ]
}

/// The recipe of a content for [`mixed`]: a failure prints it instead of megabytes.
fn recipe() -> impl Strategy<Value = Vec<(u8, usize)>> {
    prop::collection::vec((any::<u8>(), 0usize..5_000_000), 0..4)
}

#[test]
fn the_masks_are_those_of_level_two() {
    let masks = select_masks(CHUNK_BYTES_TARGET, Normalization::Level2);
    assert_eq!(masks, (MASK_STRICT, MASK_LOOSE));
    assert_eq!((MASK_STRICT.count_ones(), MASK_LOOSE.count_ones()), (22, 18));
}

#[test]
fn one_page_is_cut_as_the_library_cuts_it() {
    let data = mixed(&[(0, 20_000_000), (1, 9_000_000), (2, 5_000_001)]);
    let (min, target, max) = (CHUNK_BYTES_MIN, CHUNK_BYTES_TARGET, CHUNK_BYTES_MAX);
    let theirs: Vec<usize> = FastCDC::with_level(&data, min, target, max, Normalization::Level2)
        .map(|chunk| chunk.length)
        .collect();
    assert_eq!(fed_lengths(&data, 0, &[1 << 20]), theirs);
    assert!(theirs.contains(&CHUNK_BYTES_MAX), "zeros are cut at the maximum");
}

#[test]
fn chunks_are_near_their_target() {
    let data = stream("average", 64 << 20);
    let lengths = fed_lengths(&data, 0, &[8 << 20]);
    let average = data.len() / lengths.len();
    assert!((900_000..1_500_000).contains(&average), "{average}");
}

#[test]
fn no_chunk_straddles_a_page() {
    let data = stream("page", 3_000_000);
    let lengths = fed_lengths(&data, PAGE_BYTES - 1_000, &[100_000]);
    assert_eq!(lengths[0], 1_000);
    assert_eq!(window_len(PAGE_BYTES - 1), 1);
    assert_eq!(window_len(PAGE_BYTES), CHUNK_BYTES_MAX);
    assert_eq!(window_len(u64::MAX), 1);
}

#[test]
fn an_insertion_moves_few_cuts() {
    let data = stream("insert", 32 << 20);
    let mut edited = data.clone();
    edited.splice(5_000_000..5_000_000, [1, 2, 3]);
    let hashes = |data: &[u8]| {
        let mut hashes = std::collections::BTreeSet::new();
        let mut chunker = Chunker::new(0);
        let mut note = |chunk: echonet_protocol::data::Chunk<'_>| {
            hashes.insert(*blake3::hash(chunk.bytes).as_bytes());
        };
        chunker.feed(data, &mut note);
        chunker.finish(&mut note);
        hashes
    };
    let (before, after) = (hashes(&data), hashes(&edited));
    assert!(after.difference(&before).count() <= 3);
}

#[test]
fn nothing_is_decided_before_enough_is_known() {
    let data = vec![0; CHUNK_BYTES_MAX];
    assert_eq!(next_cut(&data[1..], 0, false), None);
    assert_eq!(next_cut(&data, 0, false), Some(CHUNK_BYTES_MAX));
    assert_eq!(next_cut(&data[1..], 0, true), Some(CHUNK_BYTES_MAX - 1));
    assert_eq!(next_cut(&[], 0, true), None);
    assert_eq!(Chunker::new(0).finish(|_| unreachable!("no chunk of nothing")), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn cuts_do_not_depend_on_the_pieces(
        recipe in recipe(),
        offset in offset(),
        pieces in prop::collection::vec(prop_oneof![4_000usize..200_000, 200_000usize..9_000_000], 1..5),
    ) {
        let data = mixed(&recipe);
        prop_assert_eq!(fed_lengths(&data, offset, &pieces), slow_lengths(&data, offset));
    }

    #[test]
    fn work_resumes_at_any_cut(recipe in recipe(), offset in offset()) {
        let data = mixed(&recipe);
        let whole = slow_lengths(&data, offset);
        let mut at = 0;
        for (index, len) in whole.iter().enumerate() {
            let resumed = fed_lengths(&data[at..], offset + at as u64, &[777_777]);
            prop_assert_eq!(&resumed[..], &whole[index..]);
            at += len;
        }
    }
}
