//! ContentID: the name of a content, and its text forms.
//!
//! It never says where a content is or how long it is.

use std::{fmt, str::FromStr};

use cid::Cid;
use multihash::Multihash;

use crate::bytes::fixed_bytes;

/// Multicodec of raw bytes.
const RAW: u64 = 0x55;
/// Multihash code of BLAKE3 with 32 bytes.
const BLAKE3: u64 = 0x1e;
/// Longest text that is looked at; the longest that can be right has 69 bytes.
const TEXT_BYTES_MAX: usize = 128;

/// BLAKE3 root hash of a content's bytes.
///
/// Text: CIDv1, raw codec, blake3 multihash, base32 (`bafkr4i…`); hex and a
/// leading `echo:` are accepted (SPEC.md, "ContentID").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(pub ContentHash);

fixed_bytes! {
    /// The 32 bytes of a ContentID.
    ContentHash, 32
}

/// Text that is not a ContentID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a ContentID: {reason}; it looks like bafkr4i… or 64 hex digits")]
pub struct ParseContentIdError {
    text: String,
    reason: String,
}

impl ContentId {
    /// From the BLAKE3 hash of the bytes.
    #[must_use]
    pub const fn new(hash: [u8; 32]) -> Self {
        Self(ContentHash(hash))
    }

    /// Of a content held in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::new(*blake3::hash(bytes).as_bytes())
    }

    /// The raw hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0.0
    }

    fn cid(&self) -> Cid {
        // 32 bytes always fit into a 64-byte multihash.
        let hash = Multihash::<64>::wrap(BLAKE3, self.as_bytes()).expect("32 bytes fit");
        Cid::new_v1(RAW, hash)
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cid())
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({})", self.0.short())
    }
}

impl FromStr for ContentId {
    type Err = ParseContentIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason: &str| ParseContentIdError {
            text: text.chars().take(80).collect(),
            reason: reason.to_owned(),
        };
        if text.len() > TEXT_BYTES_MAX {
            return Err(error("too long"));
        }
        let bare = text.strip_prefix("echo:").unwrap_or(text);
        if let Ok(hash) = bare.parse::<ContentHash>() {
            return Ok(Self(hash));
        }
        let cid = Cid::try_from(bare).map_err(|e| error(&e.to_string()))?;
        if cid.codec() != RAW || cid.hash().code() != BLAKE3 {
            return Err(error("a CID, but not of raw bytes under BLAKE3"));
        }
        let hash = cid.hash().digest().try_into().map_err(|_| error("its hash is not 32 bytes"))?;
        let id = Self::new(hash);
        // The crate also takes other bases, paths before and bytes behind: one
        // content must have one name, and a slip of the pen none.
        if id.to_string() == bare { Ok(id) } else { Err(error("a CID, but not in its one form")) }
    }
}

impl serde::Serialize for ContentId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de> serde::Deserialize<'de> for ContentId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        ContentHash::deserialize(d).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_cid_that_the_cid_crate_reads() {
        let id = ContentId::of(b"hello");
        let text = id.to_string();
        assert!(text.starts_with("bafkr4i"), "{text}");
        let cid: Cid = text.parse().unwrap();
        assert_eq!((cid.codec(), cid.hash().code()), (0x55, 0x1e));
        assert_eq!(cid.hash().digest(), id.as_bytes());
        for form in [text.clone(), format!("echo:{text}"), id.0.to_hex()] {
            assert_eq!(form.parse::<ContentId>().unwrap(), id);
        }
    }

    #[test]
    fn other_text_is_refused_with_a_reason() {
        let sha256 = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
        for text in ["", "hello", sha256, &"b".repeat(10_000), "bafkr4i"] {
            let error = text.parse::<ContentId>().unwrap_err().to_string();
            assert!(error.contains("is not a ContentID") && error.len() < 400, "{error}");
        }
    }
}
