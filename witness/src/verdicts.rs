//! Chains of verdicts (SPEC_WITNESS.md, section 7): writing one's own, checking and comparing
//! others', their digests, and what may be forgotten.
//!
//! A verdict that was checked here says nothing false about who signed what; whether its segment
//! was due, and what it is worth, is for the score to say.

use echonet_protocol::{
    audit::{AuditChallenge, AuditDigest, AuditResult, AuditVerdict, VerdictChallenge},
    bytes::RecordHash,
    identity::{Identity, NodeId, RecordError, Signed},
    network::NetworkId,
    params,
    time::Epoch,
};

use crate::draw;

/// What an asker found, before it has a place in its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The question, signed by the asker.
    pub challenge: Signed<AuditChallenge>,
    /// Record hash of the placement body that named the holders.
    pub placement: RecordHash,
    /// Bytes of each of the segment's shards.
    pub length: u32,
    /// 1 to 64, by ascending index.
    pub results: Vec<AuditResult>,
}

/// A witness's own chain, as far as it needs it to go on.
#[derive(Debug, Clone)]
pub struct Chain {
    identity: Identity,
    network: NetworkId,
    /// Sequence and record hash of the last verdict.
    last: Option<(u64, RecordHash)>,
    /// Of the running epoch, in order.
    epoch: Vec<RecordHash>,
}

impl Chain {
    /// A chain without verdicts.
    #[must_use]
    pub const fn new(identity: Identity, network: NetworkId) -> Self {
        Self { identity, network, last: None, epoch: Vec::new() }
    }

    /// Goes on where `verdicts` end: the witness's own of the running epoch, in order, or where it
    /// has none in that epoch its last one. To go on from less than was ever given out is a fork:
    /// the caller keeps verdicts durable before they leave.
    #[must_use]
    pub fn resume(
        identity: Identity,
        network: NetworkId,
        verdicts: &[Signed<AuditVerdict>],
        running: Epoch,
    ) -> Self {
        let last = verdicts.last().map(|verdict| (verdict.body.sequence, verdict.hash()));
        let of_epoch = verdicts.iter().filter(|v| v.body.challenge.epoch == running);
        let epoch = of_epoch.map(Signed::hash).collect();
        Self { identity, network, last, epoch }
    }

    /// Signs the next verdict.
    ///
    /// # Panics
    /// When the finding is malformed or the challenge another's: defects of the caller.
    #[must_use]
    pub fn push(&mut self, finding: Finding) -> Signed<AuditVerdict> {
        let Finding { challenge, placement, length, results } = finding;
        let leaf = draw::leaf(&challenge, u64::from(length));
        let AuditChallenge { epoch, segment, beacon, inventory, .. } = challenge.body;
        let body = AuditVerdict {
            v: params::FORMAT_VERSION,
            network: self.network,
            witness: challenge.body.witness,
            sequence: self.next_sequence(),
            previous: self.last.map(|(_, hash)| hash),
            challenge: VerdictChallenge { epoch, segment, beacon, inventory, sig: challenge.sig },
            placement,
            length,
            leaf,
            results,
        };
        let verdict = Signed::new(&self.identity, body);
        let hash = verdict.hash();
        self.last = Some((verdict.body.sequence, hash));
        self.epoch.push(hash);
        verdict
    }

    /// Signs the digest of an epoch that is over and begins the next. One of each epoch is given
    /// out, ever.
    #[must_use]
    pub fn close(&mut self, epoch: Epoch) -> Signed<AuditDigest> {
        let hashes = std::mem::take(&mut self.epoch);
        let count = hashes.len() as u64;
        let body = AuditDigest {
            v: params::FORMAT_VERSION,
            network: self.network,
            witness: self.identity.node_id(),
            epoch,
            first: self.next_sequence() - count,
            count,
            last: self.last.map(|(_, hash)| hash),
            root: AuditDigest::root_of(&hashes),
        };
        Signed::new(&self.identity, body)
    }

    fn next_sequence(&self) -> u64 {
        self.last.map_or(1, |(sequence, _)| sequence + 1)
    }
}

/// What a verdict says against itself: its witness signed what is not so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// The challenge in it is not signed by the witness.
    #[error("carries a challenge that its witness did not sign")]
    Challenge,
    /// The leaf is not the one that the challenge asks for.
    #[error("is about another leaf than its challenge asks for")]
    Leaf,
    /// A result names an answer that the holder did not sign.
    #[error("carries an answer about shard {0} that the holder did not sign")]
    Answer(u8),
}

/// Why a verdict is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerdictError {
    /// Not a verdict of that witness: nobody's fault that can be shown.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Signed, and false by itself: evidence against the witness.
    #[error("audit verdict of {witness}: {contradiction}")]
    Contradiction {
        /// Who signed it.
        witness: NodeId,
        /// What is false.
        contradiction: Contradiction,
    },
}

/// A verdict of which every signature was checked, and that asks for the leaf that it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedVerdict {
    verdict: Signed<AuditVerdict>,
    hash: RecordHash,
}

impl CheckedVerdict {
    /// Checks a verdict.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn new(verdict: Signed<AuditVerdict>, network: &NetworkId) -> Result<Self, VerdictError> {
        verdict.verify(network)?;
        let hash = verdict.hash();
        let witness = verdict.body.witness;
        match contradiction(&verdict.body) {
            Some(contradiction) => Err(VerdictError::Contradiction { witness, contradiction }),
            None => Ok(Self { verdict, hash }),
        }
    }

    /// What it says.
    #[must_use]
    pub const fn body(&self) -> &AuditVerdict {
        &self.verdict.body
    }

    /// Its record hash.
    #[must_use]
    pub const fn hash(&self) -> RecordHash {
        self.hash
    }

    /// With the witness's signature.
    #[must_use]
    pub const fn signed(&self) -> &Signed<AuditVerdict> {
        &self.verdict
    }
}

/// What a verdict, whose own signature was checked, says against itself.
#[must_use]
pub fn contradiction(verdict: &AuditVerdict) -> Option<Contradiction> {
    let challenge = verdict.challenge();
    if challenge.verify(&verdict.network).is_err() {
        return Some(Contradiction::Challenge);
    }
    if verdict.leaf != draw::leaf(&challenge, u64::from(verdict.length)) {
        return Some(Contradiction::Leaf);
    }
    let is_made_up = |result: &&AuditResult| {
        verdict.answer(result).is_some_and(|answer| answer.verify(&verdict.network).is_err())
    };
    verdict.results.iter().find(is_made_up).map(|result| Contradiction::Answer(result.index))
}

/// Whether two verified verdicts show that their witness told two stories.
#[must_use]
pub fn is_fork(one: &Signed<AuditVerdict>, other: &Signed<AuditVerdict>) -> bool {
    let (a, b) = (&one.body, &other.body);
    if a.witness != b.witness || a.network != b.network {
        return false;
    }
    let breaks = |earlier: &Signed<AuditVerdict>, later: &AuditVerdict| {
        earlier.body.sequence.checked_add(1) == Some(later.sequence)
            && later.previous != Some(earlier.hash())
    };
    (a.sequence == b.sequence && one.hash() != other.hash()) || breaks(one, b) || breaks(other, a)
}

/// Why verdicts are not those of a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not as many as it says.
    #[error("{found} verdicts for a digest of {wanted}; fetch the rest from their witness")]
    Count {
        /// Verdicts in the digest.
        wanted: u64,
        /// Verdicts given.
        found: u64,
    },
    /// One of another witness, epoch or sequence, or not linked to the one before.
    #[error("verdict {sequence}: {reason}")]
    Verdict {
        /// Its sequence.
        sequence: u64,
        /// What does not hold.
        reason: &'static str,
    },
    /// All is as said but for the hashes.
    #[error("the verdicts do not give the digest's root; these are others")]
    Root,
}

/// Checks that verdicts, in order, are those of a verified digest.
///
/// # Errors
/// What is missing or wrong.
pub fn check_digest(
    digest: &AuditDigest,
    verdicts: &[Signed<AuditVerdict>],
) -> Result<(), DigestError> {
    let (wanted, found) = (digest.count, verdicts.len() as u64);
    if wanted != found {
        return Err(DigestError::Count { wanted, found });
    }
    let mut hashes: Vec<RecordHash> = Vec::with_capacity(verdicts.len());
    for (verdict, sequence) in verdicts.iter().zip(digest.first..) {
        let wrong = |reason| Err(DigestError::Verdict { sequence, reason });
        let body = &verdict.body;
        if body.witness != digest.witness || body.network != digest.network {
            return wrong("of another witness");
        }
        if body.challenge.epoch != digest.epoch {
            return wrong("of another epoch");
        }
        if body.sequence != sequence {
            return wrong("not in its place");
        }
        if hashes.last().is_some_and(|before| body.previous != Some(*before)) {
            return wrong("not linked to the one before");
        }
        hashes.push(verdict.hash());
    }
    let is_last = hashes.last().is_none_or(|last| digest.last == Some(*last));
    if is_last && AuditDigest::root_of(&hashes) == digest.root {
        Ok(())
    } else {
        Err(DigestError::Root)
    }
}

/// What is kept of audits, beside digests and checkpoints, which are kept for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// The leaf proofs of a verdict's passes.
    PassProofs,
    /// What came for its other results.
    OtherProofs,
    /// The verdict, where all that it reports is passes.
    PassVerdict,
    /// The verdict, where it reports anything else.
    OtherVerdict,
}

/// Something kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Of which epoch.
    pub epoch: Epoch,
    /// What.
    pub kept: Kept,
    /// Its length.
    pub bytes: u64,
}

/// Bytes of verdicts that a node keeps at most.
const VERDICTS_BYTES_MAX: u64 = 1 << 30;
/// How long what may be needed as evidence is kept.
const EVIDENCE_S: u64 = 90 * 86_400;
/// Epochs that the proofs of passes are kept, for re-audits.
const PASS_PROOF_EPOCHS: u64 = 2;

/// Which items may be forgotten now, by their place in the list: what is too old, and of verdicts
/// beyond [`VERDICTS_BYTES_MAX`] the oldest passes, then the oldest others.
#[must_use]
pub fn forgettable(items: &[Item], now: Epoch, epoch_s: u64) -> Vec<usize> {
    let evidence_epochs = EVIDENCE_S.div_ceil(epoch_s.max(1));
    let is_old = |item: &Item| {
        let keep = match item.kept {
            Kept::PassProofs => PASS_PROOF_EPOCHS,
            _ => evidence_epochs,
        };
        now.0.saturating_sub(item.epoch.0) > keep
    };
    let mut gone: Vec<usize> = (0..items.len()).filter(|at| is_old(&items[*at])).collect();
    let is_verdict = |item: &Item| matches!(item.kept, Kept::PassVerdict | Kept::OtherVerdict);
    let mut verdicts: Vec<usize> =
        (0..items.len()).filter(|at| is_verdict(&items[*at]) && !is_old(&items[*at])).collect();
    verdicts.sort_by_key(|at| (items[*at].kept, items[*at].epoch));
    let mut bytes: u64 = verdicts.iter().map(|at| items[*at].bytes).sum();
    for at in verdicts {
        if bytes <= VERDICTS_BYTES_MAX {
            break;
        }
        bytes -= items[at].bytes;
        gone.push(at);
    }
    gone.sort_unstable();
    gone
}
