//! Who says what: node identities and signed records.
//!
//! A node's ed25519 key is at once its iroh EndpointId, its libp2p PeerId and
//! its signature key. Signatures are domain-separated and cover the NetworkID
//! and the format version (SPEC.md, "Signed records"). This module never makes
//! a key: secret bytes are passed in.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    bytes::{RecordHash, fixed_bytes},
    codec::{self, DecodeError},
    network::NetworkId,
    params,
};

fixed_bytes! {
    /// A node's ed25519 public key.
    NodeId, 32
}
fixed_bytes! {
    /// An ed25519 signature (RFC 8032).
    Signature, 64
}

/// A node's secret key, able to sign.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.node_id().short())
    }
}

impl Identity {
    /// From the 32 secret bytes of RFC 8032.
    #[must_use]
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The 32 secret bytes, for whoever stores or embeds the key.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs the digest of a record body under its kind's domain.
    fn sign_digest(&self, digest: &[u8; 32]) -> Signature {
        Signature(self.0.sign(digest).to_bytes())
    }
}

/// The body of a signed record (SPEC.md, "Signed records").
pub trait Record: Serialize + DeserializeOwned + Clone {
    /// The record's kind; part of the signature's domain and of error texts.
    const KIND: &'static str;
    /// The most bytes that a signed record of this kind may take.
    const BYTES_MAX: usize = params::RECORD_BYTES_MAX;

    /// The format version; the first is 1.
    fn version(&self) -> u8;
    /// The network it belongs to.
    fn network(&self) -> NetworkId;
    /// Whose signature makes it valid.
    fn signer(&self) -> NodeId;
    /// Bounds and relations that hold for every well-formed body.
    ///
    /// # Errors
    /// In words, what does not hold.
    fn check(&self) -> Result<(), String>;
}

/// Why a signed record is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not such a record.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A version that this software does not know.
    #[error(
        "{kind}: version {version} is not known here; this software knows version 1, update it"
    )]
    Version {
        /// The record's kind.
        kind: &'static str,
        /// The version it claims.
        version: u8,
    },
    /// It belongs to another network.
    #[error("{kind}: belongs to network {got}, this is {expected}")]
    WrongNetwork {
        /// The record's kind.
        kind: &'static str,
        /// The network it names.
        got: NetworkId,
        /// The network expected.
        expected: NetworkId,
    },
    /// The signature is not the signer's over this body.
    #[error("{kind}: the signature of {signer} does not verify")]
    Signature {
        /// The record's kind.
        kind: &'static str,
        /// Whose signature it should be.
        signer: NodeId,
    },
    /// A bound or relation of the body does not hold.
    #[error("{kind}: {reason}")]
    Invalid {
        /// The record's kind.
        kind: &'static str,
        /// What does not hold.
        reason: String,
    },
}

/// Domain-separated digest of a record body: what is signed and what names it.
#[must_use]
pub fn record_hash<T: Record>(body: &T) -> RecordHash {
    hash_as(T::KIND, body)
}

/// The same for a body that no single node signs.
pub(crate) fn hash_as<T: Serialize>(kind: &str, body: &T) -> RecordHash {
    let mut hasher = blake3::Hasher::new_derive_key(params::RECORD_CONTEXT);
    hasher.update(kind.as_bytes());
    hasher.update(&[0]);
    hasher.update(&codec::encode(body));
    RecordHash(*hasher.finalize().as_bytes())
}

/// Whether `signature` is `signer`'s over `digest` (strict verification: no
/// small-order keys, no malleability).
#[must_use]
pub fn verify_digest(signer: &NodeId, digest: &RecordHash, signature: &Signature) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&signer.0) else { return false };
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    key.verify_strict(&digest.0, &signature).is_ok()
}

/// Signs the digest of `body` without making an envelope: for records that
/// collect several signatures.
#[must_use]
pub fn sign_body<T: Record>(identity: &Identity, body: &T) -> Signature {
    identity.sign_digest(&record_hash(body).0)
}

/// Signs a record hash that was made without keeping its body.
#[must_use]
pub(crate) fn sign_hash(identity: &Identity, hash: &RecordHash) -> Signature {
    identity.sign_digest(&hash.0)
}

/// A body and the signature of the node it names as signer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed<T> {
    /// What is said.
    pub body: T,
    /// By whom it is vouched for.
    pub sig: Signature,
}

impl<T: Record> Signed<T> {
    /// Signs a body.
    ///
    /// # Panics
    /// When `identity` is not the signer that the body names, or the body breaks
    /// its own rules: both are defects of the caller.
    #[must_use]
    pub fn new(identity: &Identity, body: T) -> Self {
        assert_eq!(identity.node_id(), body.signer(), "{}: signed by a stranger", T::KIND);
        if let Err(reason) = body.check() {
            panic!("{}: refused to sign: {reason}", T::KIND);
        }
        let sig = sign_body(identity, &body);
        Self { body, sig }
    }

    /// Name of the record: the hash of its body.
    #[must_use]
    pub fn hash(&self) -> RecordHash {
        record_hash(&self.body)
    }

    /// Deterministic bytes of body and signature.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Checks version, network, bounds and signature.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn verify(&self, network: &NetworkId) -> Result<(), RecordError> {
        check_body(&self.body, network)?;
        let signer = self.body.signer();
        if verify_digest(&signer, &record_hash(&self.body), &self.sig) {
            Ok(())
        } else {
            Err(RecordError::Signature { kind: T::KIND, signer })
        }
    }

    /// Decodes and verifies: the only way for bytes from outside to become a
    /// record that code may act on.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn decode(bytes: &[u8], network: &NetworkId) -> Result<Self, RecordError> {
        let signed: Self = codec::decode(T::KIND, bytes, T::BYTES_MAX)?;
        signed.verify(network)?;
        Ok(signed)
    }
}

/// Version, network and bounds of a body, without its signature.
///
/// # Errors
/// The first thing that does not hold.
pub fn check_body<T: Record>(body: &T, network: &NetworkId) -> Result<(), RecordError> {
    let kind = T::KIND;
    if body.version() != params::FORMAT_VERSION {
        return Err(RecordError::Version { kind, version: body.version() });
    }
    if body.network() != *network {
        return Err(RecordError::WrongNetwork { kind, got: body.network(), expected: *network });
    }
    body.check().map_err(|reason| RecordError::Invalid { kind, reason })
}

/// Implements the fields every record shares (`v`, `network`) for [`Record`].
macro_rules! record {
    ($name:ident, $kind:literal, $max:expr, signer: $signer:ident, check: $check:expr) => {
        impl $crate::identity::Record for $name {
            const KIND: &'static str = $kind;
            const BYTES_MAX: usize = $max;

            fn version(&self) -> u8 {
                self.v
            }
            fn network(&self) -> $crate::network::NetworkId {
                self.network
            }
            fn signer(&self) -> $crate::identity::NodeId {
                self.$signer
            }
            fn check(&self) -> Result<(), String> {
                let check: fn(&Self) -> Result<(), String> = $check;
                check(self)
            }
        }
    };
}
pub(crate) use record;

/// `Ok` when `condition` holds, else the reason: reads well in `check` bodies.
pub(crate) fn ensure(condition: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(reason()) }
}
