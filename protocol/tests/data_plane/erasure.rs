//! The erasure code against a slow, obvious one, against its library, and for every loss.

use echonet_protocol::data::erasure::{
    EncodeError, ErasureCode, PlanError, RebuildError, data_ranges, data_shard, shard_len,
};
use echonet_protocol::data::{SEGMENT_BYTES_MAX, cpu_supported};
use proptest::prelude::*;

use crate::stream;

/// Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1, bit by bit.
fn slow_mul(a: u8, b: u8) -> u8 {
    let mut product: u16 = 0;
    for bit in 0..8 {
        if b >> bit & 1 == 1 {
            product ^= u16::from(a) << bit;
        }
    }
    for bit in (8..16).rev() {
        if product >> bit & 1 == 1 {
            product ^= 0x11d << (bit - 8);
        }
    }
    product as u8
}

fn slow_inverse(a: u8) -> u8 {
    (1..=255).find(|&b| slow_mul(a, b) == 1).unwrap()
}

/// Row r of the code as the unique polynomial through the data: Lagrange's basis at point r over
/// the points 0..k. It is what Vandermonde times the inverse of its top comes to, derived
/// without any matrix.
fn slow_row(k: usize, r: usize) -> Vec<u8> {
    let basis = |column: usize| {
        (0..k).filter(|&other| other != column).fold(1, |product, other| {
            let above = (r ^ other) as u8;
            let below = slow_inverse((column ^ other) as u8);
            slow_mul(product, slow_mul(above, below))
        })
    };
    (0..k).map(basis).collect()
}

fn slow_shard(segment: &[u8], k: usize, r: usize) -> Vec<u8> {
    let len = segment.len().div_ceil(k);
    let row = slow_row(k, r);
    let byte = |i: usize| {
        (0..k).fold(0, |sum, d| {
            sum ^ slow_mul(row[d], segment.get(d * len + i).copied().unwrap_or(0))
        })
    };
    (0..len).map(byte).collect()
}

/// All k + m shards by the fast code.
fn shards(code: &ErasureCode, segment: &[u8]) -> Vec<Vec<u8>> {
    let mut parity = vec![vec![0xaa; shard_len(segment.len(), code.k())]; code.m()];
    code.encode(segment, &mut parity).unwrap();
    let data = (0..code.k()).map(|index| data_shard(segment, code.k(), index).into_owned());
    data.chain(parity).collect()
}

/// Rebuilds every shard that is not in `have` and compares.
fn check_loss(code: &ErasureCode, shards: &[Vec<u8>], have: &[usize]) {
    let want: Vec<usize> = (0..shards.len()).filter(|index| !have.contains(index)).collect();
    let plan = code.plan(have, &want).unwrap();
    let inputs: Vec<&[u8]> = have.iter().map(|&index| &shards[index][..]).collect();
    let mut outputs = vec![vec![0x55; shards[0].len()]; want.len()];
    plan.rebuild(&inputs, &mut outputs).unwrap();
    for (index, output) in want.iter().zip(&outputs) {
        assert!(output == &shards[*index], "shard {index} from {have:?}");
    }
}

#[test]
fn this_machine_can_run_the_code() {
    assert_eq!(cpu_supported(), Ok(()));
}

#[test]
fn every_loss_of_small_schemes_is_rebuilt() {
    for (k, m) in [(1, 1), (1, 6), (2, 2), (3, 3), (4, 2), (2, 5), (5, 3)] {
        let code = ErasureCode::new(k, m).unwrap();
        let shards = shards(&code, &stream("small", 1000));
        for mask in 0u32..1 << (k + m) {
            if mask.count_ones() as usize == k {
                let have: Vec<usize> = (0..k + m).filter(|bit| mask >> bit & 1 == 1).collect();
                check_loss(&code, &shards, &have);
            }
        }
    }
}

#[test]
fn copies_are_identical() {
    let segment = stream("copies", 16_000);
    for shard in shards(&ErasureCode::new(1, 6).unwrap(), &segment) {
        assert_eq!(shard, segment);
    }
}

#[test]
fn the_largest_codes_work() {
    for (k, m) in [(1, 255), (255, 1), (128, 128)] {
        let code = ErasureCode::new(k, m).unwrap();
        let shards = shards(&code, &stream("largest", 2000));
        check_loss(&code, &shards, &(m..k + m).collect::<Vec<_>>());
    }
}

#[test]
fn equal_codes_are_shared() {
    let first = ErasureCode::shared(10, 6).unwrap();
    let second = ErasureCode::shared(10, 6).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    assert!(ErasureCode::shared(0, 6).is_err());
}

#[test]
fn misuse_is_refused() {
    for (k, m) in [(0, 1), (1, 0), (200, 57), (usize::MAX, usize::MAX)] {
        assert!(ErasureCode::new(k, m).is_err(), "{k}+{m}");
    }
    let code = ErasureCode::new(3, 2).unwrap();
    let mut none: [Vec<u8>; 0] = [];
    assert_eq!(code.encode(&[], &mut none), Err(EncodeError::SegmentLength(0)));
    let long = vec![0; SEGMENT_BYTES_MAX + 1];
    assert_eq!(code.encode(&long, &mut none), Err(EncodeError::SegmentLength(long.len())));
    assert_eq!(code.encode(&[1], &mut none), Err(EncodeError::ParityCount { m: 2, found: 0 }));
    let mut odd = [vec![0; 2], vec![0; 1]];
    let error = EncodeError::ParityLength { expected: 2, found: 1 };
    assert_eq!(code.encode(&[1, 2, 3, 4], &mut odd), Err(error));

    assert_eq!(code.plan(&[0, 1], &[]).unwrap_err(), PlanError::HaveCount { k: 3, found: 2 });
    assert_eq!(code.plan(&[0, 1, 1], &[]).unwrap_err(), PlanError::Duplicate(1));
    assert_eq!(code.plan(&[0, 1, 5], &[]).unwrap_err(), PlanError::Index { index: 5, n: 5 });
    assert_eq!(code.plan(&[0, 1, 2], &[9]).unwrap_err(), PlanError::Index { index: 9, n: 5 });
    let plan = code.plan(&[0, 1, 2], &[4]).unwrap();
    let error = RebuildError::Count { expected: 3, found: 1 };
    assert_eq!(plan.rebuild(&[[0; 2]], &mut [[0; 2]]), Err(error));
    let error = RebuildError::Length { expected: 2, found: 3 };
    assert_eq!(plan.rebuild(&[[0; 2]; 3], &mut [[0; 3]]), Err(error));
    assert_eq!(plan.rebuild(&[[0u8; 0]; 3], &mut [[0u8; 0]]), Ok(()), "an empty range is empty");
}

#[test]
fn ten_of_sixteen_is_rebuilt_over_whole_columns() {
    let code = ErasureCode::new(10, 6).unwrap();
    // More than two columns a shard, the last one odd, and padding in the last shard.
    let shards = shards(&code, &stream("columns", 10 * 70_001 - 7));
    check_loss(&code, &shards, &[6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    check_loss(&code, &shards, &[15, 0, 14, 1, 13, 2, 12, 3, 11, 4]);
}

#[test]
fn data_ranges_past_the_end_are_empty() {
    assert_eq!(data_ranges(1497, 4, 1498..1600).count(), 0);
    assert_eq!(data_ranges(0, 4, 0..1).count(), 0);
    assert_eq!(data_ranges(1497, 4, 1496..usize::MAX).collect::<Vec<_>>(), [(3, 371..372)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_fast_code_is_the_slow_one(k in 1usize..20, m in 1usize..12, len in 1usize..400) {
        let segment = stream("oracle", len);
        let code = ErasureCode::new(k, m).unwrap();
        for (r, shard) in shards(&code, &segment).iter().enumerate() {
            prop_assert_eq!(shard, &slow_shard(&segment, k, r), "shard {}", r);
        }
    }

    #[test]
    fn the_code_is_that_of_its_library(k in 1usize..40, m in 1usize..40, len in 1usize..200_000) {
        let segment = stream("library", len);
        let code = ErasureCode::new(k, m).unwrap();
        let ours = shards(&code, &segment);
        let mut theirs = ours.clone();
        theirs[k..].iter_mut().for_each(|parity| parity.fill(0));
        reed_solomon_erasure::galois_8::ReedSolomon::new(k, m).unwrap().encode(&mut theirs).unwrap();
        prop_assert!(ours == theirs);
    }

    #[test]
    fn any_range_is_rebuilt_from_any_ten(
        order in Just((0..16usize).collect::<Vec<_>>()).prop_shuffle(),
        wanted in 1usize..=6,
        len in 10usize..100_000,
        (a, b) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let code = ErasureCode::shared(10, 6).unwrap();
        let shards = shards(&code, &stream("ranges", len));
        let (have, lost) = order.split_at(10);
        let want = &lost[..wanted];
        let (a, b) = (a.index(shards[0].len()), b.index(shards[0].len()));
        let range = a.min(b)..a.max(b) + 1;
        let inputs: Vec<&[u8]> = have.iter().map(|&i| &shards[i][range.clone()]).collect();
        let mut outputs = vec![vec![0; range.len()]; wanted];
        code.plan(have, want).unwrap().rebuild(&inputs, &mut outputs).unwrap();
        for (&index, output) in want.iter().zip(&outputs) {
            prop_assert!(output[..] == shards[index][range.clone()]);
        }
    }

    #[test]
    fn data_ranges_cover_a_range_exactly(
        k in 1usize..20,
        len in 1usize..2000,
        (a, b) in (0usize..2200, 0usize..2200),
    ) {
        let segment = stream("cover", len);
        let range = a.min(b)..a.max(b);
        let mut read = Vec::new();
        for (index, part) in data_ranges(len, k, range.clone()) {
            prop_assert!(index < k && !part.is_empty());
            read.extend_from_slice(&data_shard(&segment, k, index)[part]);
        }
        prop_assert_eq!(&read[..], &segment[range.start.min(len)..range.end.min(len)]);
    }
}
