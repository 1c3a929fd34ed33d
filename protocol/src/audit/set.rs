//! Witness sets and how one follows another (SPEC_WITNESS.md, section 2).
//!
//! Set 0 is the genesis'. A later one is signed by a quorum of the set before, so whoever has the
//! genesis and the sets in order knows who is a witness in any epoch. Nothing here decides who
//! should be.

use serde::{Deserialize, Serialize};

use crate::{
    bytes::RecordHash,
    codec::{self, DecodeError},
    identity::{self, Identity, NodeId, Signature, ensure, verify_digest},
    network::{Genesis, NetworkId},
    params,
    time::Epoch,
};

const KIND: &str = "witness set";

/// What a witness set says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessSetBody {
    /// Format version.
    pub v: u8,
    /// The network.
    pub network: NetworkId,
    /// One more than that of the set before; 1 after the genesis'.
    pub number: u64,
    /// Record hash of the body before; of set 0 the NetworkID.
    pub previous: RecordHash,
    /// 1 to 256 NodeIDs, ascending, each once.
    pub members: Vec<NodeId>,
    /// First epoch in which it is the set.
    pub from: Epoch,
}

impl WitnessSetBody {
    /// Name of the set, and what its signers sign.
    #[must_use]
    pub fn hash(&self) -> RecordHash {
        identity::hash_as(KIND, self)
    }

    /// A member's signature. A member signs one set of a number only: the caller remembers.
    #[must_use]
    pub fn sign(&self, identity: &Identity) -> SetSignature {
        let sig = identity::sign_hash(identity, &self.hash());
        SetSignature { signer: identity.node_id(), sig }
    }

    fn check_shape(&self) -> Result<(), String> {
        ensure(self.v == params::FORMAT_VERSION, || format!("version {} unknown", self.v))?;
        ensure((1..=params::WITNESS_SET_NUMBER_MAX).contains(&self.number), || {
            format!("number {} not in 1..={}", self.number, params::WITNESS_SET_NUMBER_MAX)
        })?;
        let count = self.members.len();
        ensure((1..=params::WITNESSES_MAX).contains(&count), || format!("{count} members"))?;
        ensure(self.members.windows(2).all(|p| p[0] < p[1]), || {
            "members not in ascending order, each once".into()
        })
    }
}

/// One signature under a witness set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetSignature {
    /// A member of the set before.
    pub signer: NodeId,
    /// Over the body's record hash.
    pub sig: Signature,
}

/// Why a witness set is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WitnessSetError {
    /// Not a witness set.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It does not follow the last set known, or breaks a rule.
    #[error("witness set {number}: {reason}")]
    Invalid {
        /// The number that it claims.
        number: u64,
        /// What does not hold.
        reason: String,
    },
}

/// A witness set with the signatures that make it one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessSet {
    /// What is said.
    pub body: WitnessSetBody,
    /// By whom, by ascending NodeID: a quorum of the set before at least, and nobody else.
    pub signatures: Vec<SetSignature>,
}

impl WitnessSet {
    /// Deterministic bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a set; whether it follows from the sets before is for [`WitnessSets::push`] to say.
    ///
    /// # Errors
    /// [`DecodeError`] when too long, malformed or against its own rules.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let set: Self = codec::decode(KIND, bytes, params::WITNESS_SET_BYTES_MAX)?;
        let malformed = |reason| DecodeError::Malformed { kind: KIND, reason };
        set.body.check_shape().map_err(malformed)?;
        Ok(set)
    }
}

/// A set that is in force from some epoch on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct InForce {
    hash: RecordHash,
    from: Epoch,
    members: Vec<NodeId>,
}

/// All witness sets of a network so far, each proven by the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessSets {
    network: NetworkId,
    is_fixed: bool,
    /// At least set 0.
    first: InForce,
    later: Vec<InForce>,
}

impl WitnessSets {
    /// The genesis' set alone.
    #[must_use]
    pub fn new(genesis: &Genesis) -> Self {
        let (network, witness) = (genesis.network_id(), &genesis.witness);
        let hash = RecordHash(network.0);
        let first = InForce { hash, from: Epoch(0), members: witness.set.clone() };
        // The shares of a threshold beacon's key belong to set 0 and cannot be handed on.
        let is_fixed = witness.drand_chain.is_empty() && !witness.beacon_key.is_empty();
        Self { network, is_fixed, first, later: Vec::new() }
    }

    /// The members in an epoch, ascending.
    #[must_use]
    pub fn at(&self, epoch: Epoch) -> &[NodeId] {
        let later = self.later.iter().rev().find(|set| set.from <= epoch);
        &later.unwrap_or(&self.first).members
    }

    /// Number of the last set known.
    #[must_use]
    pub fn last_number(&self) -> u64 {
        self.later.len() as u64
    }

    /// Most members of a set of `members` that may be hostile: floor((W-1)/3).
    #[must_use]
    pub const fn faulty_max(members: usize) -> usize {
        members.saturating_sub(1) / 3
    }

    /// Members whose word is the set's: W - f.
    #[must_use]
    pub const fn quorum(members: usize) -> usize {
        members - Self::faulty_max(members)
    }

    /// Takes the next set, signed by a quorum of the last.
    ///
    /// # Errors
    /// Why it does not follow; nothing has changed then.
    pub fn push(&mut self, set: &WitnessSet) -> Result<(), WitnessSetError> {
        let number = set.body.number;
        let invalid = |reason| WitnessSetError::Invalid { number, reason };
        self.check_next(set).map_err(invalid)?;
        let WitnessSetBody { members, from, .. } = set.body.clone();
        self.later.push(InForce { hash: set.body.hash(), from, members });
        Ok(())
    }

    fn check_next(&self, set: &WitnessSet) -> Result<(), String> {
        let (body, last) = (&set.body, self.later.last().unwrap_or(&self.first));
        body.check_shape()?;
        ensure(body.network == self.network, || format!("belongs to network {}", body.network))?;
        ensure(!self.is_fixed, || {
            "the key of this network's beacon is shared among set 0, which cannot change".into()
        })?;
        ensure(!last.members.is_empty(), || {
            "this network's genesis names no witnesses, who alone could sign a set".into()
        })?;
        let next = self.last_number() + 1;
        ensure(body.number == next, || format!("the next number is {next}"))?;
        ensure(body.previous == last.hash, || "names another set as the one before".into())?;
        ensure(body.from > last.from, || {
            format!("from epoch {}, not later than the set before", body.from.0)
        })?;
        let signatures = &set.signatures;
        ensure(signatures.windows(2).all(|p| p[0].signer < p[1].signer), || {
            "signatures not in ascending order of signer".into()
        })?;
        let quorum = Self::quorum(last.members.len());
        ensure(signatures.len() >= quorum, || {
            format!("{} signatures where {quorum} are needed", signatures.len())
        })?;
        let digest = body.hash();
        signatures.iter().try_for_each(|SetSignature { signer, sig }| {
            ensure(last.members.binary_search(signer).is_ok(), || {
                format!("{signer} is no member of the set before")
            })?;
            ensure(verify_digest(signer, &digest, sig), || {
                format!("the signature of {signer} does not verify")
            })
        })
    }
}
