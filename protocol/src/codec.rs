//! The one way to turn a long-lived value into bytes and back: deterministic
//! DAG-CBOR.
//!
//! Decoding never accepts two byte strings for one value: what does not
//! re-encode to the very same bytes is refused. It never looks at more bytes
//! than the bound that the caller passes.

use serde::{Serialize, de::DeserializeOwned};

/// Why bytes are not a value of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than this kind of value may have.
    #[error("{kind}: {len} bytes, more than the {max} allowed")]
    TooLong {
        /// What was being decoded.
        kind: &'static str,
        /// Length given, bytes.
        len: usize,
        /// Length allowed, bytes.
        max: usize,
    },
    /// Not DAG-CBOR of this shape.
    #[error("{kind}: malformed: {reason}")]
    Malformed {
        /// What was being decoded.
        kind: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// Decodes, but is not the deterministic encoding of what it decodes to.
    #[error("{kind}: not in deterministic form")]
    NotCanonical {
        /// What was being decoded.
        kind: &'static str,
    },
}

/// Deterministic DAG-CBOR of a value.
///
/// # Panics
/// Never for the types of this crate: they hold no floats, no maps with
/// computed keys, and writing to memory cannot fail.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).expect("protocol types always encode")
}

/// Decodes at most `max` bytes, strictly (SPEC.md, "Encodings").
///
/// # Errors
/// [`DecodeError`] when too long, malformed, or not in deterministic form.
pub fn decode<T: Serialize + DeserializeOwned>(
    kind: &'static str,
    bytes: &[u8],
    max: usize,
) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLong { kind, len: bytes.len(), max });
    }
    let value: T = serde_ipld_dagcbor::from_slice(bytes)
        .map_err(|e| DecodeError::Malformed { kind, reason: e.to_string() })?;
    if encode(&value) != bytes {
        return Err(DecodeError::NotCanonical { kind });
    }
    Ok(value)
}
