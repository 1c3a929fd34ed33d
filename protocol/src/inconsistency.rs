//! Portable proof that a segment is inconsistent: that its descriptor commits to
//! shards that are not a codeword (design 6; SPEC.md, "Inconsistency proof").
//!
//! The proof convicts whoever made the descriptor and needs no signature: k+1
//! leaves of one row, each proven against its shard's hash, of which the first k
//! do not give the last. How a leaf is verified and decoded is passed in, so
//! that this module does no coding of its own.

use serde::{Deserialize, Serialize};

use crate::{
    bytes::ShardHash,
    codec::{self, DecodeError},
    identity::ensure,
    params,
    segment::{Scheme, SegmentDescriptor, SegmentId},
};

/// Bytes of a leaf: BLAKE3's own chunk.
pub const LEAF_BYTES: u64 = 1024;
/// Bytes of one leaf's slice at most: the leaf, and a pair of hashes for each of
/// the 12 levels above the leaves of the longest shard.
pub const LEAF_SLICE_BYTES_MAX: usize = 1024 + 12 * 64;
/// Bytes of an encoded proof at most: a descriptor, 64 slices, and their heads.
pub const PROOF_BYTES_MAX: usize =
    params::DESCRIPTOR_BYTES_MAX + params::SHARDS_MAX * (LEAF_SLICE_BYTES_MAX + 32) + 64;

const _: () = assert!(params::SHARD_BYTES_MAX as u64 == LEAF_BYTES << 12);

/// The data plane, as far as this module needs it.
pub trait LeafRows {
    /// The bytes of leaf number `leaf` of a shard of `shard_len` bytes, if
    /// `slice` is the verified slice of just that leaf under the shard's hash.
    fn verify<'a>(
        &self,
        shard: &ShardHash,
        shard_len: u64,
        leaf: u64,
        slice: &'a [u8],
    ) -> Option<&'a [u8]>;

    /// The leaf of shard `want` that is a codeword together with exactly k
    /// leaves of other shards, all of one row and length; none where the scheme
    /// is not known.
    fn rebuild(&self, scheme: Scheme, have: &[(u8, &[u8])], want: u8) -> Option<Vec<u8>>;
}

/// One shard's leaf with its proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafSlice {
    /// Which shard.
    pub index: u8,
    /// The verified slice of the leaf (SPEC.md, "Slices"), at groups of one leaf.
    #[serde(with = "serde_bytes")]
    pub slice: Vec<u8>,
}

/// k+1 leaves of one row that are not a codeword.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InconsistencyProof {
    /// Format version.
    pub v: u8,
    /// The segment.
    pub descriptor: SegmentDescriptor,
    /// The row: the leaf's number in each shard, from 0.
    pub leaf: u64,
    /// k+1 of them, by ascending index.
    pub slices: Vec<LeafSlice>,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InconsistencyError {
    /// Not such a proof.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A slice does not verify: whoever made the proof is wrong.
    #[error("inconsistency proof: the leaf of shard {0} does not verify against the descriptor")]
    Slice(u8),
    /// The scheme's code is not known here.
    #[error("inconsistency proof: scheme {0} is not known here; update this software")]
    Scheme(Scheme),
    /// The leaves are a codeword.
    #[error("inconsistency proof: the leaves are a codeword, so they prove nothing")]
    Consistent,
}

impl InconsistencyProof {
    /// The proof from k+1 slices of a row; checked like one from a stranger.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn new(
        descriptor: SegmentDescriptor,
        leaf: u64,
        mut slices: Vec<LeafSlice>,
        rows: &impl LeafRows,
    ) -> Result<Self, InconsistencyError> {
        slices.sort_by_key(|s| s.index);
        let proof = Self { v: params::FORMAT_VERSION, descriptor, leaf, slices };
        proof.verify(rows)?;
        Ok(proof)
    }

    /// The segment that it is about.
    #[must_use]
    pub fn segment_id(&self) -> SegmentId {
        self.descriptor.segment_id()
    }

    /// Deterministic bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a proof and verifies it: what comes back convicts.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn decode(bytes: &[u8], rows: &impl LeafRows) -> Result<Self, InconsistencyError> {
        let proof: Self = codec::decode(KIND, bytes, PROOF_BYTES_MAX)?;
        proof.verify(rows)?;
        Ok(proof)
    }

    fn verify(&self, rows: &impl LeafRows) -> Result<(), InconsistencyError> {
        self.check().map_err(|reason| DecodeError::Malformed { kind: KIND, reason })?;
        let scheme = self.descriptor.scheme;
        let shard_len = self.descriptor.shard_len() as u64;
        let mut leaves = Vec::with_capacity(self.slices.len());
        for LeafSlice { index, slice } in &self.slices {
            let wrong = InconsistencyError::Slice(*index);
            let shard = self.descriptor.shards.get(*index as usize).ok_or(wrong.clone())?;
            let leaf = rows.verify(shard, shard_len, self.leaf, slice).ok_or(wrong)?;
            leaves.push((*index, leaf));
        }
        let (last, first) = leaves.split_last().ok_or(InconsistencyError::Consistent)?;
        let rebuilt = rows.rebuild(scheme, first, last.0);
        let rebuilt = rebuilt.ok_or(InconsistencyError::Scheme(scheme))?;
        if rebuilt == last.1 { Err(InconsistencyError::Consistent) } else { Ok(()) }
    }

    /// Everything but hashes and code.
    fn check(&self) -> Result<(), String> {
        ensure(self.v == params::FORMAT_VERSION, || format!("version {} unknown", self.v))?;
        self.descriptor.check()?;
        let scheme = self.descriptor.scheme;
        let (found, wanted) = (self.slices.len(), scheme.k as usize + 1);
        ensure(found == wanted, || format!("{found} slices where {wanted} are needed"))?;
        ensure(self.slices.windows(2).all(|p| p[0].index < p[1].index), || {
            "slices not in ascending order of index".into()
        })?;
        ensure(self.slices.iter().all(|s| (s.index as usize) < scheme.n()), || {
            "a slice of a shard that the scheme has not".into()
        })?;
        let too_long = |s: &LeafSlice| s.slice.len() > LEAF_SLICE_BYTES_MAX;
        ensure(!self.slices.iter().any(too_long), || "a slice is too long".into())?;
        let leaves = (self.descriptor.shard_len() as u64).div_ceil(LEAF_BYTES);
        ensure(self.leaf < leaves, || format!("leaf {} of {leaves}", self.leaf))
    }
}

const KIND: &str = "inconsistency proof";
