//! Erasure code 1: systematic Reed-Solomon over GF(2^8), polynomial 0x11D, with the matrix of
//! `reed-solomon-erasure`; layout 1: contiguous columns, zero-padded. For any k data shards and
//! m parity shards; k = 1 gives m + 1 identical copies through the same code.
//!
//! Encoding and rebuilding are one operation, a small matrix times k byte rows, done in columns
//! of 4 KiB so that the outputs stay in the first-level cache. Byte i of a shard depends only on
//! byte i of the others, so any range can be rebuilt from the same range of any k shards. It
//! never checks hashes: feed it verified ranges. Source: SPEC_DATA.md section 3.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use reed_solomon_erasure::galois_8;
use thiserror::Error;

use super::{SEGMENT_BYTES_MAX, SHARDS_MAX};
use matrix::Matrix;

mod matrix;

/// Bytes of every shard that are worked on at a time: an input and six outputs of this size fit a
/// first-level cache of 32 KiB. Measured for 10+6: 1.15x the speed of 32 KiB, 1.9x of whole shards.
const COLUMN_BYTES: usize = 4 * 1024;

/// At most this many codes are kept by [`ErasureCode::shared`]; others are built each time.
const SHARED_CODES_MAX: usize = 64;

static SHARED_CODES: Mutex<BTreeMap<(usize, usize), Arc<ErasureCode>>> =
    Mutex::new(BTreeMap::new());

/// This processor lacks what the erasure code was compiled for.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "this processor lacks {missing}, which the erasure code is compiled to use: run this node on \
     a newer machine (Intel Haswell 2013, AMD Excavator 2015, or later)"
)]
pub struct UnsupportedCpu {
    /// The missing processor features, comma separated.
    pub missing: String,
}

/// k and m do not make a code.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no erasure code with k = {k}, m = {m}: both must be at least 1, their sum at most 256")]
pub struct SchemeError {
    /// Data shards.
    pub k: usize,
    /// Parity shards.
    pub m: usize,
}

/// Encoding was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EncodeError {
    /// Not 1 to [`SEGMENT_BYTES_MAX`] bytes.
    #[error("segment of {0} bytes: a segment has 1 to {SEGMENT_BYTES_MAX}")]
    SegmentLength(usize),
    /// Not m buffers.
    #[error("{found} parity buffers for m = {m}: give one for each parity shard")]
    ParityCount {
        /// Parity shards of the code.
        m: usize,
        /// Buffers given.
        found: usize,
    },
    /// A buffer is not a shard long.
    #[error("parity buffer of {found} bytes for shards of {expected}: use shard_len()")]
    ParityLength {
        /// The shard length.
        expected: usize,
        /// The buffer's length.
        found: usize,
    },
}

/// A rebuild cannot be planned.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// Not exactly k shards.
    #[error("rebuilding needs exactly {k} shards, {found} were given")]
    HaveCount {
        /// Data shards of the code.
        k: usize,
        /// Shards given.
        found: usize,
    },
    /// No such shard.
    #[error("shard index {index} in a code of {n} shards")]
    Index {
        /// The index.
        index: usize,
        /// k + m.
        n: usize,
    },
    /// One shard given twice.
    #[error("shard {0} was given twice: rebuilding needs k different shards")]
    Duplicate(usize),
}

/// A rebuild was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RebuildError {
    /// Other buffers than planned.
    #[error("{found} buffers given where {expected} were planned")]
    Count {
        /// As planned.
        expected: usize,
        /// As given.
        found: usize,
    },
    /// Ranges of different lengths.
    #[error("ranges of {expected} and {found} bytes: rebuild the same range of every shard")]
    Length {
        /// The first range's length.
        expected: usize,
        /// The other's.
        found: usize,
    },
}

/// Checks that this processor can run the erasure code. Call it once at start: on x86-64 the code
/// is compiled for Haswell and would otherwise die of an illegal instruction.
///
/// # Errors
/// [`UnsupportedCpu`] names what is missing.
pub fn cpu_supported() -> Result<(), UnsupportedCpu> {
    let missing = missing_features();
    if missing.is_empty() {
        return Ok(());
    }
    Err(UnsupportedCpu { missing: missing.join(", ") })
}

/// What a compiler given `-march=haswell` may use and this processor has not.
#[cfg(target_arch = "x86_64")]
fn missing_features() -> Vec<&'static str> {
    let features = [
        ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
        ("BMI1", std::arch::is_x86_feature_detected!("bmi1")),
        ("BMI2", std::arch::is_x86_feature_detected!("bmi2")),
        ("FMA", std::arch::is_x86_feature_detected!("fma")),
        ("LZCNT", std::arch::is_x86_feature_detected!("lzcnt")),
        ("MOVBE", std::arch::is_x86_feature_detected!("movbe")),
    ];
    features.iter().filter(|(_, present)| !present).map(|(name, _)| *name).collect()
}

/// Elsewhere the compiler's baseline is used, which every processor of the target has.
#[cfg(not(target_arch = "x86_64"))]
fn missing_features() -> Vec<&'static str> {
    Vec::new()
}

/// The length of each of the k + m shards of a segment: `ceil(segment_len / k)`; `k` from 1.
#[must_use]
pub fn shard_len(segment_len: usize, k: usize) -> usize {
    segment_len.div_ceil(k)
}

/// Data shard `index` of a segment: borrowed, or a copy where it needs zero padding.
#[must_use]
pub fn data_shard(segment: &[u8], k: usize, index: usize) -> Cow<'_, [u8]> {
    let len = shard_len(segment.len(), k);
    let bytes = data_column(segment, len, index);
    if bytes.len() == len {
        return Cow::Borrowed(bytes);
    }
    let mut padded = vec![0; len];
    padded[..bytes.len()].copy_from_slice(bytes);
    Cow::Owned(padded)
}

/// The part of the segment that is in data shard `index`, without its padding.
fn data_column(segment: &[u8], shard_len: usize, index: usize) -> &[u8] {
    let start = index.saturating_mul(shard_len).min(segment.len());
    let end = start.saturating_add(shard_len).min(segment.len());
    &segment[start..end]
}

/// Which data shards hold a byte range of a segment, in order: (index, range within the shard).
/// The range is cut off at the segment's end.
pub fn data_ranges(
    segment_len: usize,
    k: usize,
    range: Range<usize>,
) -> impl Iterator<Item = (usize, Range<usize>)> {
    let len = shard_len(segment_len, k).max(1);
    let end = range.end.min(segment_len);
    let start = range.start.min(end);
    let shards = if start == end { 0..0 } else { start / len..end.div_ceil(len) };
    shards.map(move |index| {
        let first = index * len;
        (index, start.max(first) - first..end.min(first + len) - first)
    })
}

/// The code for one (k, m). Immutable; share it between threads.
#[derive(Debug)]
pub struct ErasureCode {
    k: usize,
    m: usize,
    /// k + m rows of k: the upper k are the identity.
    rows: Matrix,
}

impl ErasureCode {
    /// Builds the code's matrix (microseconds for 10+6, some 30 ms for the largest).
    ///
    /// # Errors
    /// [`SchemeError`] unless k and m are at least 1 and k + m at most 256.
    pub fn new(k: usize, m: usize) -> Result<Self, SchemeError> {
        let refused = SchemeError { k, m };
        if k == 0 || m == 0 || k.saturating_add(m) > SHARDS_MAX {
            return Err(refused);
        }
        let vandermonde = Matrix::vandermonde(k + m, k);
        let top = vandermonde.select(0..k);
        // Rows of a Vandermonde matrix over distinct points are independent: never refused here.
        let rows = vandermonde.times(&top.inverse().ok_or(refused)?);
        Ok(Self { k, m, rows })
    }

    /// The code from a process-wide cache of at most 64 codes.
    ///
    /// # Errors
    /// As [`ErasureCode::new`].
    pub fn shared(k: usize, m: usize) -> Result<Arc<Self>, SchemeError> {
        // A panic elsewhere cannot leave the map half written: inserting is its only change.
        let lock = || SHARED_CODES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = lock().get(&(k, m)) {
            return Ok(Arc::clone(code));
        }
        let code = Arc::new(Self::new(k, m)?);
        let mut codes = lock();
        if codes.len() < SHARED_CODES_MAX {
            codes.insert((k, m), Arc::clone(&code));
        }
        Ok(code)
    }

    /// Data shards.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Parity shards.
    #[must_use]
    pub fn m(&self) -> usize {
        self.m
    }

    /// Computes the parity shards of a whole segment into m buffers of [`shard_len`] bytes. The
    /// padding is understood, not read: the segment is used where it lies.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was written then.
    pub fn encode<P: AsMut<[u8]>>(
        &self,
        segment: &[u8],
        parity: &mut [P],
    ) -> Result<(), EncodeError> {
        if segment.is_empty() || segment.len() > SEGMENT_BYTES_MAX {
            return Err(EncodeError::SegmentLength(segment.len()));
        }
        if parity.len() != self.m {
            return Err(EncodeError::ParityCount { m: self.m, found: parity.len() });
        }
        let expected = shard_len(segment.len(), self.k);
        let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(AsMut::as_mut).collect();
        if let Some(wrong) = outputs.iter().find(|buffer| buffer.len() != expected) {
            return Err(EncodeError::ParityLength { expected, found: wrong.len() });
        }
        let inputs: Vec<&[u8]> =
            (0..self.k).map(|index| data_column(segment, expected, index)).collect();
        multiply(self.rows.row_slice(self.k..self.k + self.m), &inputs, &mut outputs);
        Ok(())
    }

    /// Plans to rebuild the shards `want` from exactly k different shards `have`. One plan serves
    /// every range of the segment; wanting what one has is allowed and copies it.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn plan(&self, have: &[usize], want: &[usize]) -> Result<RebuildPlan, PlanError> {
        let (k, n) = (self.k, self.k + self.m);
        if have.len() != k {
            return Err(PlanError::HaveCount { k, found: have.len() });
        }
        if let Some(&index) = have.iter().chain(want).find(|&&index| index >= n) {
            return Err(PlanError::Index { index, n });
        }
        let mut seen = [false; SHARDS_MAX];
        for &index in have {
            if std::mem::replace(&mut seen[index], true) {
                return Err(PlanError::Duplicate(index));
            }
        }
        // Any k different rows are independent, so only a duplicate could be singular.
        let singular = PlanError::Duplicate(have[0]);
        let inverse = self.rows.select(have.iter().copied()).inverse().ok_or(singular)?;
        let rows = self.rows.select(want.iter().copied()).times(&inverse);
        Ok(RebuildPlan { k, wanted: want.len(), rows })
    }
}

/// How to compute certain shards from k certain others; see [`ErasureCode::plan`].
#[derive(Debug)]
pub struct RebuildPlan {
    k: usize,
    wanted: usize,
    rows: Matrix,
}

impl RebuildPlan {
    /// Fills `want` from `have`, both in the order of the plan, all being the same byte range of
    /// their shards.
    ///
    /// # Errors
    /// [`RebuildError`]; nothing was written then.
    pub fn rebuild<H: AsRef<[u8]>, W: AsMut<[u8]>>(
        &self,
        have: &[H],
        want: &mut [W],
    ) -> Result<(), RebuildError> {
        let inputs: Vec<&[u8]> = have.iter().map(AsRef::as_ref).collect();
        let mut outputs: Vec<&mut [u8]> = want.iter_mut().map(AsMut::as_mut).collect();
        for (expected, found) in [(self.k, inputs.len()), (self.wanted, outputs.len())] {
            if expected != found {
                return Err(RebuildError::Count { expected, found });
            }
        }
        let expected = inputs[0].len();
        let lengths = inputs.iter().map(|i| i.len()).chain(outputs.iter().map(|o| o.len()));
        for found in lengths {
            if found != expected {
                return Err(RebuildError::Length { expected, found });
            }
        }
        multiply(self.rows.all(), &inputs, &mut outputs);
        Ok(())
    }
}

/// `outputs = rows * inputs`, column by column. The first input is as long as the outputs and
/// overwrites them; the others may be shorter (what they lack counts as zeros) and are added.
fn multiply(rows: &[u8], inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    let len = outputs.first().map_or(0, |output| output.len());
    for start in (0..len).step_by(COLUMN_BYTES) {
        let end = (start + COLUMN_BYTES).min(len);
        for (index, input) in inputs.iter().enumerate() {
            let input = &input[start.min(input.len())..end.min(input.len())];
            // The library's kernels may not be given empty slices.
            if input.is_empty() {
                continue;
            }
            for (row, output) in rows.chunks_exact(inputs.len()).zip(outputs.iter_mut()) {
                let output = &mut output[start..start + input.len()];
                match (index, row[index]) {
                    (0, factor) => galois_8::mul_slice(factor, input, output),
                    (_, 0) => {}
                    (_, factor) => galois_8::mul_slice_xor(factor, input, output),
                }
            }
        }
    }
}
