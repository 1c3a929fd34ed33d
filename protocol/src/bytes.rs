//! Fixed-length byte strings with a meaning: hashes, keys, signatures.
//!
//! They serialize as byte strings (never as arrays of numbers), print as
//! lower-case hex, and refuse any other length when parsed.

use std::fmt;

/// Text or bytes that are not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: expected {expected} bytes as {} hex digits, got {got:?}", expected * 2)]
pub struct ParseBytesError {
    /// The kind of identifier that was expected, as in SPEC.md.
    pub kind: &'static str,
    /// Its length in bytes.
    pub expected: usize,
    /// The beginning of what was given instead.
    pub got: String,
}

impl ParseBytesError {
    pub(crate) fn new(kind: &'static str, expected: usize, got: &str) -> Self {
        Self { kind, expected, got: got.chars().take(80).collect() }
    }
}

/// Serde visitor for a byte string of exactly `N` bytes.
pub(crate) struct BytesVisitor<const N: usize>;

impl<'de, const N: usize> serde::de::Visitor<'de> for BytesVisitor<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a byte string of {N} bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<[u8; N], E> {
        v.try_into().map_err(|_| E::invalid_length(v.len(), &self))
    }

    fn visit_byte_buf<E: serde::de::Error>(self, v: Vec<u8>) -> Result<[u8; N], E> {
        self.visit_bytes(&v)
    }
}

macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Lower-case hex.
            #[must_use]
            pub fn to_hex(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0)
            }

            /// The first ten hex digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0[..5])
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::bytes::ParseBytesError;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                let error = || $crate::bytes::ParseBytesError::new(stringify!($name), $len, s);
                if s.len() != $len * 2 {
                    return Err(error());
                }
                let bytes = data_encoding::HEXLOWER_PERMISSIVE
                    .decode(s.as_bytes())
                    .map_err(|_| error())?;
                Ok(Self(bytes.try_into().map_err(|_| error())?))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_bytes(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_bytes($crate::bytes::BytesVisitor::<$len>).map(Self)
            }
        }
    };
}
pub(crate) use fixed_bytes;

fixed_bytes! {
    /// BLAKE3 hash of one shard's bytes; the root of its leaf tree.
    ShardHash, 32
}
fixed_bytes! {
    /// BLAKE3 hash of a chunk's plain (uncompressed) bytes.
    ChunkHash, 32
}
fixed_bytes! {
    /// BLAKE3 hash of a manifest page's bytes; the root page's names the manifest.
    ManifestHash, 32
}
fixed_bytes! {
    /// BLAKE3 hash of a signed record's body (SPEC.md, "Signed records").
    RecordHash, 32
}
fixed_bytes! {
    /// Sixteen bytes that make an otherwise equal record distinct.
    Nonce, 16
}
fixed_bytes! {
    /// BLAKE3 hash of a leaf proof's bytes, as a holder signs it (SPEC_WITNESS.md, section 5).
    SliceHash, 32
}
fixed_bytes! {
    /// A BLS signature in G1, compressed: an epoch's beacon, or a member's part of it
    /// (SPEC_WITNESS.md, section 3).
    BeaconSignature, 48
}
fixed_bytes! {
    /// A BLS public key in G2, compressed: a beacon's, or that of a member's share of it.
    BeaconKey, 96
}
