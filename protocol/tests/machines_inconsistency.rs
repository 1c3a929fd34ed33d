//! Proofs of inconsistency convict the guilty, and only them.

use echonet_protocol::{
    bytes::ShardHash,
    inconsistency::{
        InconsistencyError, InconsistencyProof, LEAF_SLICE_BYTES_MAX, LeafRows, LeafSlice,
        PROOF_BYTES_MAX,
    },
    segment::{Scheme, SegmentDescriptor},
};
use proptest::prelude::*;
use reed_solomon_erasure::galois_8::ReedSolomon;

/// Shards of one leaf: their slice is the leaf, their hash the leaf's.
struct OneLeaf;

impl LeafRows for OneLeaf {
    fn verify<'a>(
        &self,
        hash: &ShardHash,
        len: u64,
        leaf: u64,
        slice: &'a [u8],
    ) -> Option<&'a [u8]> {
        let right = leaf == 0 && slice.len() as u64 == len;
        (right && blake3::hash(slice).as_bytes() == &hash.0).then_some(slice)
    }

    fn rebuild(&self, scheme: Scheme, have: &[(u8, &[u8])], want: u8) -> Option<Vec<u8>> {
        let code = ReedSolomon::new(scheme.k.into(), scheme.m.into()).ok()?;
        let mut shards: Vec<Option<Vec<u8>>> = vec![None; scheme.n()];
        for (index, leaf) in have {
            shards[*index as usize] = Some(leaf.to_vec());
        }
        code.reconstruct(&mut shards).ok()?;
        shards.swap_remove(want as usize)
    }
}

fn shards(scheme: Scheme, len: usize, seed: u8) -> Vec<Vec<u8>> {
    let byte = |i: usize, at: usize| (i * 31 + at * 7) as u8 ^ seed;
    let mut shards: Vec<Vec<u8>> = (0..scheme.n())
        .map(|i| (0..len).map(|at| if i < scheme.k.into() { byte(i, at) } else { 0 }).collect())
        .collect();
    ReedSolomon::new(scheme.k.into(), scheme.m.into())
        .expect("in a test world")
        .encode(&mut shards)
        .expect("in a test world");
    shards
}

fn descriptor(scheme: Scheme, shards: &[Vec<u8>]) -> SegmentDescriptor {
    let hashes = shards.iter().map(|s| ShardHash(*blake3::hash(s).as_bytes())).collect();
    let length = (shards[0].len() * scheme.k as usize) as u32;
    SegmentDescriptor { v: 1, scheme, length, shards: hashes }
}

fn slices(shards: &[Vec<u8>], indices: &[usize]) -> Vec<LeafSlice> {
    indices.iter().map(|&i| LeafSlice { index: i as u8, slice: shards[i].clone() }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_k_plus_one_with_the_bad_shard_convict(
        k in 2_u8..11, m in 1_u8..7, bad in any::<prop::sample::Index>(),
        order in any::<[prop::sample::Index; 20]>(), at in 0_usize..100, flip in 1_u8..,
    ) {
        let scheme = Scheme::new(k, m).unwrap();
        let mut stored = shards(scheme, 100, flip);
        let bad = bad.index(scheme.n());
        stored[bad][at] ^= flip;
        let mut others: Vec<usize> = (0..scheme.n()).filter(|&i| i != bad).collect();
        while others.len() > k as usize {
            others.swap_remove(order[others.len() % 20].index(others.len()));
        }
        let honest = descriptor(scheme, &shards(scheme, 100, flip));
        let guilty = descriptor(scheme, &stored);
        others.push(bad);
        let picked = slices(&stored, &others);
        let proof = InconsistencyProof::new(guilty.clone(), 0, picked.clone(), &OneLeaf).unwrap();
        let bytes = proof.encode();
        prop_assert_eq!(InconsistencyProof::decode(&bytes, &OneLeaf).unwrap(), proof);
        prop_assert!(bytes.len() <= PROOF_BYTES_MAX);
        // The honest publisher of the same bytes is not convicted by it.
        let framed = InconsistencyProof::new(honest, 0, picked, &OneLeaf);
        prop_assert_eq!(framed.unwrap_err(), InconsistencyError::Slice(bad as u8));
    }

    #[test]
    fn noise_is_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(InconsistencyProof::decode(&bytes, &OneLeaf).is_err());
    }
}

#[test]
fn a_codeword_proves_nothing() {
    let stored = shards(Scheme::DEFAULT, 64, 9);
    let descriptor = descriptor(Scheme::DEFAULT, &stored);
    let picked = slices(&stored, &[0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 15]);
    let error = InconsistencyProof::new(descriptor, 0, picked, &OneLeaf).unwrap_err();
    assert_eq!(error, InconsistencyError::Consistent);
}

#[test]
fn shapes_out_of_bounds_are_refused_before_anything_is_verified() {
    struct Untouchable;
    impl LeafRows for Untouchable {
        fn verify<'a>(&self, _: &ShardHash, _: u64, _: u64, _: &'a [u8]) -> Option<&'a [u8]> {
            panic!("a slice of a malformed proof was looked at")
        }
        fn rebuild(&self, _: Scheme, _: &[(u8, &[u8])], _: u8) -> Option<Vec<u8>> {
            panic!("a malformed proof was decoded")
        }
    }
    let mut stored = shards(Scheme::DEFAULT, 64, 9);
    stored[2][0] ^= 1;
    let guilty = descriptor(Scheme::DEFAULT, &stored);
    let good = slices(&stored, &[0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 15]);
    let base = InconsistencyProof::new(guilty, 0, good, &OneLeaf).unwrap();
    let change = |change: &dyn Fn(&mut InconsistencyProof)| {
        let mut proof = base.clone();
        change(&mut proof);
        proof.encode()
    };
    let cases = [
        change(&|p| p.v = 2),
        change(&|p| p.leaf = 1),
        change(&|p| p.slices.truncate(10)),
        change(&|p| p.slices.push(p.slices[0].clone())),
        change(&|p| p.slices.swap(0, 1)),
        change(&|p| p.slices[0].index = 1),
        change(&|p| p.slices[10].index = 16),
        change(&|p| p.slices[0].slice = vec![0; LEAF_SLICE_BYTES_MAX + 1]),
        change(&|p| p.descriptor.length = 0),
        change(&|p| p.descriptor.scheme = Scheme { code: 1, k: 0, m: 6, layout: 1 }),
        vec![0; PROOF_BYTES_MAX + 1],
    ];
    for (at, bytes) in cases.iter().enumerate() {
        let error = InconsistencyProof::decode(bytes, &Untouchable).unwrap_err();
        assert!(matches!(error, InconsistencyError::Decode(_)), "case {at}: {error}");
    }
}

#[test]
fn the_longest_proof_fits() {
    let scheme = Scheme::new(63, 1).unwrap();
    let descriptor = SegmentDescriptor {
        v: 1,
        scheme,
        length: 32 * 1024 * 1024,
        shards: vec![ShardHash([255; 32]); 64],
    };
    let slice = vec![255; LEAF_SLICE_BYTES_MAX];
    let slices = (0..64).map(|index| LeafSlice { index, slice: slice.clone() }).collect();
    let longest = InconsistencyProof { v: 1, descriptor, leaf: u64::MAX, slices };
    assert!(longest.encode().len() <= PROOF_BYTES_MAX);
}
