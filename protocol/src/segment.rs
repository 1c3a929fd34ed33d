//! Schemes, segment descriptors and SegmentIDs: the unit of coding, placement,
//! leasing and repair.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    bytes::{ShardHash, fixed_bytes},
    codec::{self, DecodeError},
    identity::ensure,
    params,
};

fixed_bytes! {
    /// BLAKE3 hash of a segment's descriptor.
    SegmentId, 32
}

/// How a segment is coded: k data shards and m parity shards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// 1: GF(2^8), polynomial 0x11D, matrix of reed-solomon-erasure.
    pub code: u8,
    /// Data shards.
    pub k: u8,
    /// Parity shards.
    pub m: u8,
    /// 1: contiguous columns, zero-padded.
    pub layout: u8,
}

/// Text or numbers that are not a scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a scheme: write data+parity, such as 10+6, with at most 64 shards in all")]
pub struct ParseSchemeError(String);

impl Scheme {
    /// 10+6: any 6 of 16 shards may be lost, at 1.6 times the size.
    pub const DEFAULT: Self = Self { code: 1, k: 10, m: 6, layout: 1 };
    /// 1+6: seven copies, for segments under 16 KiB.
    pub const SMALL: Self = Self { code: 1, k: 1, m: 6, layout: 1 };

    /// Checked construction of code 1, layout 1.
    #[must_use]
    pub fn new(k: u8, m: u8) -> Option<Self> {
        let scheme = Self { code: 1, k, m, layout: 1 };
        scheme.check().is_ok().then_some(scheme)
    }

    /// The scheme for a segment of `len` bytes when the publisher asked for `wanted`.
    #[must_use]
    pub fn for_segment(wanted: Self, len: usize) -> Self {
        if len < params::SMALL_SEGMENT_BYTES && wanted == Self::DEFAULT {
            Self::SMALL
        } else {
            wanted
        }
    }

    /// Shards in all.
    #[must_use]
    pub const fn n(&self) -> usize {
        self.k as usize + self.m as usize
    }

    /// Receipts that a publish needs: n - floor(m/3).
    #[must_use]
    pub const fn write_quorum(&self) -> usize {
        self.n() - self.m as usize / 3
    }

    /// Repair is queued when this many or fewer are kept: n - ceil(m/2).
    #[must_use]
    pub const fn repair_mark(&self) -> usize {
        self.n() - (self.m as usize).div_ceil(2)
    }

    /// Repair is urgent when this many or fewer are kept: k+1.
    #[must_use]
    pub const fn urgent_mark(&self) -> usize {
        self.k as usize + 1
    }

    /// Bytes of each shard of a segment of `len` bytes.
    #[must_use]
    pub const fn shard_len(&self, len: usize) -> usize {
        len.div_ceil(self.k as usize)
    }

    /// Most bytes of a segment in a network whose segments have at most
    /// `segment_bytes`: shards stay within [`params::SHARD_BYTES_MAX`].
    #[must_use]
    pub const fn segment_bytes_max(&self, segment_bytes: usize) -> usize {
        let by_shard = self.k as usize * params::SHARD_BYTES_MAX;
        if by_shard < segment_bytes { by_shard } else { segment_bytes }
    }

    fn check(&self) -> Result<(), String> {
        ensure(self.code == 1 && self.layout == 1, || {
            format!("code {} with layout {} is not known here", self.code, self.layout)
        })?;
        ensure(self.k >= 1 && self.m >= 1 && self.n() <= params::SHARDS_MAX, || {
            format!("{}+{} shards are out of bounds", self.k, self.m)
        })
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.k, self.m)
    }
}

impl fmt::Debug for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scheme({self})")
    }
}

impl FromStr for Scheme {
    type Err = ParseSchemeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (k, m) = text.split_once('+')?;
            Self::new(k.parse().ok()?, m.parse().ok()?)
        };
        parse().ok_or_else(|| ParseSchemeError(text.chars().take(40).collect()))
    }
}

/// What a segment is: scheme, length, and the hash of every shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentDescriptor {
    /// Format version.
    pub v: u8,
    /// How it is coded.
    pub scheme: Scheme,
    /// Bytes of the segment, without padding.
    pub length: u32,
    /// Shard hashes, by index; n of them.
    pub shards: Vec<ShardHash>,
}

impl SegmentDescriptor {
    /// The segment's name.
    #[must_use]
    pub fn segment_id(&self) -> SegmentId {
        SegmentId(*blake3::hash(&self.encode()).as_bytes())
    }

    /// Bytes of each shard.
    #[must_use]
    pub fn shard_len(&self) -> usize {
        self.scheme.shard_len(self.length as usize)
    }

    /// Deterministic bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a descriptor.
    ///
    /// # Errors
    /// [`DecodeError`] when malformed or self-contradictory.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const KIND: &str = "segment descriptor";
        let descriptor: Self = codec::decode(KIND, bytes, params::DESCRIPTOR_BYTES_MAX)?;
        descriptor.check().map_err(|reason| DecodeError::Malformed { kind: KIND, reason })?;
        Ok(descriptor)
    }

    /// Bounds, and the rule that copies are equal (design 6: a k=1 scheme whose
    /// shard hashes differ is refused when parsed).
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self) -> Result<(), String> {
        ensure(self.v == params::FORMAT_VERSION, || format!("version {} unknown", self.v))?;
        self.scheme.check()?;
        let length = self.length as usize;
        ensure((1..=params::SEGMENT_BYTES_MAX).contains(&length), || {
            format!("length {length} out of bounds")
        })?;
        ensure(self.shard_len() <= params::SHARD_BYTES_MAX, || {
            format!("shards of {} bytes are over {}", self.shard_len(), params::SHARD_BYTES_MAX)
        })?;
        ensure(self.shards.len() == self.scheme.n(), || {
            format!("{} shard hashes for {} shards", self.shards.len(), self.scheme.n())
        })?;
        let copies_equal = self.shards.windows(2).all(|pair| pair[0] == pair[1]);
        ensure(self.scheme.k > 1 || copies_equal, || "copies with different hashes".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_those_of_the_design() {
        let s = Scheme::DEFAULT;
        assert_eq!((s.n(), s.write_quorum(), s.repair_mark(), s.urgent_mark()), (16, 14, 13, 11));
        let s = Scheme::SMALL;
        assert_eq!((s.n(), s.write_quorum(), s.repair_mark(), s.urgent_mark()), (7, 5, 4, 2));
    }

    #[test]
    fn only_real_schemes_parse() {
        assert_eq!("10+6".parse::<Scheme>().unwrap(), Scheme::DEFAULT);
        for text in ["", "10", "0+6", "10+0", "60+5", "10+6+1", "-1+3", "300+2"] {
            assert!(text.parse::<Scheme>().is_err(), "{text}");
        }
    }

    #[test]
    fn differing_copies_are_refused() {
        let mut d = SegmentDescriptor {
            v: 1,
            scheme: Scheme::SMALL,
            length: 5,
            shards: vec![ShardHash([1; 32]); 7],
        };
        assert!(SegmentDescriptor::decode(&d.encode()).is_ok());
        d.shards[3] = ShardHash([2; 32]);
        assert!(SegmentDescriptor::decode(&d.encode()).is_err());
    }
}
