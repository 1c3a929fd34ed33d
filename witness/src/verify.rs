//! Is the answer right (SPEC_WITNESS.md, section 6): from what came to an outcome, and from the
//! leaves of a row to a proof against its publisher.
//!
//! Nothing here believes a holder's name or length: what is compared is what was asked.

use echonet_protocol::{
    audit::{AuditAnswer, AuditChallenge, AuditResult, Outcome},
    bytes::{ShardHash, SliceHash},
    identity::{NodeId, Signed},
    inconsistency::{InconsistencyProof, LEAF_SLICE_BYTES_MAX, LeafRows, LeafSlice},
    segment::SegmentDescriptor,
};

/// What was asked of one holder.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The question.
    pub challenge: &'a Signed<AuditChallenge>,
    /// Whom.
    pub holder: NodeId,
    /// Which shard.
    pub index: u8,
    /// The shard's hash, from the descriptor.
    pub shard: ShardHash,
    /// Bytes of the shard.
    pub shard_len: u64,
    /// Which leaf of it.
    pub leaf: u64,
}

/// What an answer comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// As it enters the verdict.
    pub result: AuditResult,
    /// The bytes that came, where the holder signed their hash; evidence, to be kept.
    pub slice: Option<Vec<u8>>,
    /// Why the outcome is what it is, for people.
    pub reason: &'static str,
}

/// Names of a slice: what a holder signs.
#[must_use]
pub fn slice_hash(slice: &[u8]) -> SliceHash {
    SliceHash(*blake3::hash(slice).as_bytes())
}

/// The outcome of an answer that came in time.
#[must_use]
pub fn judge(
    asked: &Asked<'_>,
    answer: &Signed<AuditAnswer>,
    slice: Option<&[u8]>,
    rows: &impl LeafRows,
) -> Judged {
    let challenge = &asked.challenge.body;
    let wanted = AuditAnswer {
        v: challenge.v,
        network: challenge.network,
        holder: asked.holder,
        challenge: asked.challenge.hash(),
        segment: challenge.segment,
        index: asked.index,
        slice: answer.body.slice,
    };
    if answer.body != wanted {
        return silent(asked, "an answer to something else");
    }
    if answer.verify(&challenge.network).is_err() {
        return silent(asked, "an answer without the holder's signature");
    }
    let signed = |outcome, slice: Option<&[u8]>, reason| Judged {
        result: AuditResult {
            index: asked.index,
            holder: asked.holder,
            outcome,
            slice: answer.body.slice,
            sig: Some(answer.sig),
        },
        slice: slice.map(<[u8]>::to_vec),
        reason,
    };
    let Some(hash) = answer.body.slice else {
        return signed(Outcome::Absent, None, "the holder says that it has it not");
    };
    let Some(slice) = slice.filter(|slice| slice.len() <= LEAF_SLICE_BYTES_MAX) else {
        return silent(asked, "no proof with the answer, or one that is too long");
    };
    if slice_hash(slice) != hash {
        return silent(asked, "another proof than the one signed");
    }
    match rows.verify(&asked.shard, asked.shard_len, asked.leaf, slice) {
        Some(_) => signed(Outcome::Pass, Some(slice), "the proof verifies"),
        None => signed(Outcome::Wrong, Some(slice), "the proof does not verify"),
    }
}

/// The outcome where no answer came in time, or none that counts.
#[must_use]
pub const fn silent(asked: &Asked<'_>, reason: &'static str) -> Judged {
    let (index, holder) = (asked.index, asked.holder);
    let outcome = Outcome::Silent;
    Judged {
        result: AuditResult { index, holder, outcome, slice: None, sig: None },
        slice: None,
        reason,
    }
}

/// The proof that a row is no codeword, where its verified leaves show it: k+1 of them at least,
/// by ascending index. None where they are a codeword or too few.
#[must_use]
pub fn not_a_codeword(
    descriptor: &SegmentDescriptor,
    leaf: u64,
    passed: &[LeafSlice],
    rows: &impl LeafRows,
) -> Option<InconsistencyProof> {
    let k = usize::from(descriptor.scheme.k);
    let (first, others) = passed.split_at_checked(k)?;
    // Each other leaf must be what the same k give: then all of them are one codeword.
    others.iter().find_map(|other| {
        let slices = first.iter().chain([other]).cloned().collect();
        InconsistencyProof::new(descriptor.clone(), leaf, slices, rows).ok()
    })
}
