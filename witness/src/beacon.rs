//! The beacon of an epoch: a number that nobody can steer or know before (SPEC_WITNESS.md,
//! section 3). Verifies drand's quicknet and threshold beacons, and puts the latter together.
//!
//! Nothing here waits for a round or asks anybody for a part.

use std::collections::BTreeMap;

use blst::{
    BLST_ERROR, MultiPoint as _,
    min_sig::{PublicKey, SecretKey, Signature},
};
use echonet_protocol::{
    audit::WitnessSets,
    bytes::{BeaconKey, BeaconSignature},
    network::{Genesis, NetworkId},
    time::Epoch,
};
use sha2::{Digest as _, Sha256};

use crate::scalar::Scalar;

/// Tag of the hash to the curve (RFC 9380), quicknet's.
const TAG: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";
/// Unix time of quicknet's round 1.
const QUICKNET_START_S: u64 = 1_692_803_367;
/// Seconds between two rounds of quicknet.
const QUICKNET_PERIOD_S: u64 = 3;
/// Bits of a scalar.
const SCALAR_BITS: usize = 255;

/// Why there is no beacon, or a signature is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// The genesis names no beacon: nothing is audited.
    #[error("this network has no beacon, so nothing is audited in it")]
    None,
    /// The epoch began before drand's first round.
    #[error("epoch {0} began before drand's first round; it has no beacon")]
    TooEarly(u64),
    /// A key of the genesis is no public key.
    #[error("{0} of the genesis is no BLS public key in G2; nothing of this beacon can be checked")]
    Key(&'static str),
    /// Not the signature under this key and message.
    #[error("the beacon given for epoch {0} does not verify under the network's beacon key")]
    Signature(u64),
    /// This network's beacon is not shared among its witnesses.
    #[error("this network's beacon is not its witnesses' own: there are no parts of it")]
    NotShared,
    /// A part is not that of the share it claims.
    #[error("the part of witness {index} for epoch {epoch} does not verify under its share")]
    Part {
        /// The member's place in set 0.
        index: u8,
        /// The epoch.
        epoch: u64,
    },
    /// Too few parts to put the beacon together.
    #[error("{found} parts of the beacon of epoch {epoch} where {needed} are needed; ask others")]
    TooFew {
        /// The epoch.
        epoch: u64,
        /// Parts by different members.
        found: usize,
        /// The quorum.
        needed: usize,
    },
}

/// A beacon that verified: the only way for a signature to draw anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beacon {
    epoch: Epoch,
    signature: BeaconSignature,
    value: [u8; 32],
}

impl Beacon {
    /// Its epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The signature, as challenges carry it.
    #[must_use]
    pub const fn signature(&self) -> &BeaconSignature {
        &self.signature
    }

    /// B(epoch), of which everything is drawn.
    #[must_use]
    pub const fn value(&self) -> &[u8; 32] {
        &self.value
    }
}

#[derive(Debug, Clone)]
enum Source {
    None,
    Drand,
    Threshold { shares: Vec<PublicKey>, quorum: usize },
}

/// A network's beacon, as its genesis says.
#[derive(Debug, Clone)]
pub struct Beacons {
    network: NetworkId,
    created_s: u64,
    epoch_s: u64,
    key: Option<PublicKey>,
    source: Source,
}

impl Beacons {
    /// Reads the keys of a genesis.
    ///
    /// # Errors
    /// [`BeaconError::Key`].
    pub fn new(genesis: &Genesis) -> Result<Self, BeaconError> {
        let witness = &genesis.witness;
        let read =
            |name, bytes: &[u8]| PublicKey::key_validate(bytes).map_err(|_| BeaconError::Key(name));
        let is_empty = witness.beacon_key.is_empty();
        let key = if is_empty { None } else { Some(read("beacon_key", &witness.beacon_key)?) };
        let source = if is_empty {
            Source::None
        } else if witness.drand_chain.is_empty() {
            let shares = witness.beacon_shares.iter();
            let shares = shares.map(|share| read("a beacon_share", &share.0));
            let quorum = WitnessSets::quorum(witness.set.len());
            Source::Threshold { shares: shares.collect::<Result<_, _>>()?, quorum }
        } else {
            Source::Drand
        };
        let (network, created_s) = (genesis.network_id(), genesis.created.0);
        Ok(Self { network, created_s, epoch_s: genesis.epoch_s, key, source })
    }

    /// The drand round of an epoch: the first not before the epoch's start. None where the beacon
    /// is not drand's, or the epoch began before round 1.
    #[must_use]
    pub fn round(&self, epoch: Epoch) -> Option<u64> {
        if !matches!(self.source, Source::Drand) {
            return None;
        }
        let start = self.created_s.saturating_add(epoch.0.saturating_mul(self.epoch_s));
        let since = start.checked_sub(QUICKNET_START_S)?;
        Some(since.div_ceil(QUICKNET_PERIOD_S).saturating_add(1))
    }

    /// What is signed in an epoch.
    ///
    /// # Errors
    /// [`BeaconError::None`] and [`BeaconError::TooEarly`].
    pub fn message(&self, epoch: Epoch) -> Result<Vec<u8>, BeaconError> {
        match self.source {
            Source::None => Err(BeaconError::None),
            Source::Drand => {
                let round = self.round(epoch).ok_or(BeaconError::TooEarly(epoch.0))?;
                Ok(quicknet_message(round))
            }
            Source::Threshold { .. } => Ok([
                &b"EchoNet 2026 witness beacon v1"[..],
                &self.network.0,
                &epoch.0.to_le_bytes(),
            ]
            .concat()),
        }
    }

    /// Checks an epoch's beacon, from whomever it came. Takes a millisecond or two.
    ///
    /// # Errors
    /// Why it is none.
    pub fn verify(&self, epoch: Epoch, signature: &BeaconSignature) -> Result<Beacon, BeaconError> {
        let message = self.message(epoch)?;
        let key = self.key.as_ref().ok_or(BeaconError::None)?;
        if !is_signature(key, &message, signature) {
            return Err(BeaconError::Signature(epoch.0));
        }
        let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 witness beacon value v1");
        hasher.update(&self.network.0).update(&epoch.0.to_le_bytes()).update(&signature.0);
        Ok(Beacon { epoch, signature: *signature, value: *hasher.finalize().as_bytes() })
    }

    /// Checks the part of the member at a place of set 0.
    ///
    /// # Errors
    /// Why it is none.
    pub fn verify_part(
        &self,
        epoch: Epoch,
        index: u8,
        part: &BeaconSignature,
    ) -> Result<(), BeaconError> {
        let Source::Threshold { shares, .. } = &self.source else {
            return Err(BeaconError::NotShared);
        };
        let wrong = BeaconError::Part { index, epoch: epoch.0 };
        let share = shares.get(usize::from(index)).ok_or(wrong.clone())?;
        let is_part = is_signature(share, &self.message(epoch)?, part);
        if is_part { Ok(()) } else { Err(wrong) }
    }

    /// Puts an epoch's beacon together from parts that were checked as they came, by the
    /// members' places in set 0. More than the quorum are not needed and not used.
    ///
    /// # Errors
    /// [`BeaconError::TooFew`], or that what came out is not the beacon: then a part was not
    /// checked.
    pub fn recover(
        &self,
        epoch: Epoch,
        parts: &BTreeMap<u8, BeaconSignature>,
    ) -> Result<Beacon, BeaconError> {
        let Source::Threshold { quorum, .. } = &self.source else {
            return Err(BeaconError::NotShared);
        };
        let (found, needed) = (parts.len(), *quorum);
        if found < needed {
            return Err(BeaconError::TooFew { epoch: epoch.0, found, needed });
        }
        let used: Vec<_> = parts.iter().take(needed).collect();
        let places: Vec<u64> = used.iter().map(|(index, _)| u64::from(**index) + 1).collect();
        let mut points = Vec::with_capacity(needed);
        for (index, part) in used {
            let wrong = BeaconError::Part { index: *index, epoch: epoch.0 };
            points.push(Signature::sig_validate(&part.0, true).map_err(|_| wrong)?);
        }
        let weights: Vec<u8> =
            weights_at_zero(&places).iter().flat_map(|w| w.to_bytes_reversed()).collect();
        let signature = points.as_slice().mult(&weights, SCALAR_BITS).to_signature();
        self.verify(epoch, &BeaconSignature(signature.compress()))
    }
}

/// What drand signs in a round of quicknet.
fn quicknet_message(round: u64) -> Vec<u8> {
    // The one number of this protocol that is not little-endian: drand's.
    let mut bytes = round.to_le_bytes();
    bytes.reverse();
    Sha256::digest(bytes).to_vec()
}

fn is_signature(key: &PublicKey, message: &[u8], signature: &BeaconSignature) -> bool {
    let Ok(signature) = Signature::sig_validate(&signature.0, true) else { return false };
    // Both are known to be in their groups, and not the neutral element.
    signature.verify(false, message, TAG, &[], key, false) == BLST_ERROR::BLST_SUCCESS
}

/// By what each part is multiplied so that their sum is the value at 0 of the polynomial that
/// they lie on (Lagrange). Places are distinct and not 0.
fn weights_at_zero(places: &[u64]) -> Vec<Scalar> {
    let weight = |at: u64| {
        let others = places.iter().filter(|place| **place != at);
        let (above, below) = others.fold((Scalar::ONE, Scalar::ONE), |(above, below), place| {
            let place = Scalar::from_u64(*place);
            let distance = place.add(Scalar::from_u64(at).negate());
            (above.multiply(place), below.multiply(distance))
        });
        above.multiply(below.invert())
    };
    places.iter().map(|place| weight(*place)).collect()
}

/// A member's secret share of a threshold beacon's key.
#[derive(Clone)]
pub struct BeaconShare(SecretKey);

impl std::fmt::Debug for BeaconShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BeaconShare")
    }
}

impl BeaconShare {
    /// From its 32 secret bytes; none where they are no scalar but 0.
    #[must_use]
    pub fn from_secret(secret: &[u8; 32]) -> Option<Self> {
        SecretKey::from_bytes(secret).ok().map(Self)
    }

    /// The 32 secret bytes, for whoever stores the share.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Its public key, as in `witness.beacon_shares`.
    #[must_use]
    pub fn public(&self) -> BeaconKey {
        BeaconKey(self.0.sk_to_pk().compress())
    }

    /// Its part of an epoch's beacon. To be given out when the epoch has begun, never before.
    ///
    /// # Errors
    /// [`BeaconError::NotShared`].
    pub fn part(&self, beacons: &Beacons, epoch: Epoch) -> Result<BeaconSignature, BeaconError> {
        if !matches!(beacons.source, Source::Threshold { .. }) {
            return Err(BeaconError::NotShared);
        }
        let signature = self.0.sign(&beacons.message(epoch)?, TAG, &[]);
        Ok(BeaconSignature(signature.compress()))
    }
}

/// A key that was shared out by one dealer, who knows it: for development networks.
#[derive(Debug, Clone)]
pub struct Dealt {
    /// `witness.beacon_key`.
    pub key: BeaconKey,
    /// The members' shares, in the order of set 0.
    pub shares: Vec<BeaconShare>,
}

/// Shares a key among `members` (1 to 256) so that a quorum of them can sign. `seed` must be
/// unpredictable and is to be forgotten: it is the key. None where a drawn share is 0, which
/// happens in one of 2^247 cases: take another seed.
#[must_use]
pub fn deal(members: usize, seed: &[u8; 32]) -> Option<Dealt> {
    let mut coefficients = Vec::new();
    for number in 0..WitnessSets::quorum(members) as u64 {
        let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 witness beacon dealing v1");
        hasher.update(seed).update(&number.to_le_bytes());
        let secret = SecretKey::key_gen(hasher.finalize().as_bytes(), &[]).ok()?;
        coefficients.push(Scalar::from_bytes(&secret.to_bytes())?);
    }
    let value_at = |place: u64| {
        let place = Scalar::from_u64(place);
        let sum = coefficients.iter().rev();
        sum.fold(Scalar::ZERO, |sum, coefficient| sum.multiply(place).add(*coefficient))
    };
    let shares =
        (1..=members as u64).map(|place| BeaconShare::from_secret(&value_at(place).to_bytes()));
    let key = BeaconShare::from_secret(&value_at(0).to_bytes())?.public();
    Some(Dealt { key, shares: shares.collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_round_is_drands() {
        // SHA-256 of 00 00 00 00 00 00 00 01.
        let expected = "cd2662154e6d76b2b2b92e70c0cac3ccf534f9b74eb5b89819ec509083d00a50";
        let hex: String = quicknet_message(1).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }

    #[test]
    fn weights_of_known_places() {
        // The line through (1, a) and (2, b) is 2a - b at 0.
        let weights = weights_at_zero(&[1, 2]);
        assert!(weights[0] == Scalar::from_u64(2) && weights[1] == Scalar::ONE.negate());
    }
}
