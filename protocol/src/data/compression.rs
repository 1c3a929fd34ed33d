//! Compression of one chunk: zstd where it pays, the bytes as they are where it does not.
//!
//! Decompression never produces more than the expected plain length, accepts exactly one zstd
//! frame without a dictionary, and uses memory that does not depend on what the frame claims.
//! Compression is not a format: two nodes may store one chunk differently, so nothing here may
//! be relied on to give the same bytes twice. Source: SPEC_DATA.md section 2; RFC 8878.

use std::borrow::Cow;

use thiserror::Error;
use zstd::zstd_safe;

use super::CHUNK_BYTES_MAX;

/// zstd's level for chunks: the knee of speed against ratio.
const LEVEL: i32 = 3;

/// zstd's level for the probe: its fastest regular level.
const PROBE_LEVEL: i32 = 1;

/// Bytes of one probed block.
const PROBE_BLOCK_BYTES: usize = 16 * 1024;

/// Blocks probed, evenly spread, in a chunk that is longer than all of them together.
const PROBE_BLOCKS: usize = 4;

/// A probe must save one part in this many (3 %) before the whole chunk is compressed.
const PROBE_GAIN_DIVISOR: usize = 33;

/// The result must save one part in this many (5 %), else the chunk is stored as it is.
const GAIN_DIVISOR: usize = 20;

/// How the bytes of a chunk are stored. The number is part of the manifest format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum StoredCodec {
    /// The plain bytes.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// A codec number that this version does not know.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "unknown chunk codec {0}: this version knows 0 (raw) and 1 (zstd); a newer one may read it"
)]
pub struct UnknownCodec(pub u8);

impl TryFrom<u8> for StoredCodec {
    type Error = UnknownCodec;

    fn try_from(number: u8) -> Result<Self, UnknownCodec> {
        match number {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            other => Err(UnknownCodec(other)),
        }
    }
}

/// A chunk as it is packed into a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<'a> {
    /// How `bytes` are to be read.
    pub codec: StoredCodec,
    /// The stored bytes; borrowed from the input when raw.
    pub bytes: Cow<'a, [u8]>,
}

/// Compressing failed.
#[derive(Debug, Error)]
pub enum CompressError {
    /// The chunk is longer than [`CHUNK_BYTES_MAX`].
    #[error(
        "chunk of {0} bytes is longer than {CHUNK_BYTES_MAX}: cut the content into chunks first"
    )]
    TooLong(usize),
    /// zstd itself failed, which for valid parameters means that memory ran out.
    #[error("zstd could not compress a chunk: {0}; free some memory and try again")]
    Zstd(String),
}

/// Decompressing failed. The stored bytes are not what the manifest says.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecompressError {
    /// The manifest promises more than a chunk can have.
    #[error(
        "stored chunk claims {0} plain bytes, more than {CHUNK_BYTES_MAX}: the manifest is wrong"
    )]
    TooLong(usize),
    /// The plain length differs from the expected one.
    #[error("stored chunk has {found} plain bytes, expected {expected}: the manifest is wrong")]
    Length {
        /// What the caller expected.
        expected: usize,
        /// What the bytes gave or claim.
        found: u64,
    },
    /// Not exactly one zstd frame that says its length.
    #[error("stored chunk is not a single plain zstd frame: {0}; the manifest is wrong")]
    Frame(&'static str),
    /// zstd refused the frame.
    #[error("stored chunk does not decompress: {0}; the manifest is wrong")]
    Corrupt(String),
}

/// Compresses chunk after chunk, reusing zstd's working memory (about 1.5 MiB).
pub struct Compressor {
    whole: zstd::bulk::Compressor<'static>,
    probe: zstd::bulk::Compressor<'static>,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

impl Compressor {
    /// Allocates zstd's contexts.
    ///
    /// # Errors
    /// [`CompressError::Zstd`] when memory ran out.
    pub fn new() -> Result<Self, CompressError> {
        let scratch = Vec::with_capacity(zstd_safe::compress_bound(PROBE_BLOCK_BYTES));
        Ok(Self {
            whole: zstd::bulk::Compressor::new(LEVEL).map_err(|e| failed(&e))?,
            probe: zstd::bulk::Compressor::new(PROBE_LEVEL).map_err(|e| failed(&e))?,
            scratch,
        })
    }

    /// The stored form of one chunk: zstd only where it saves at least 5 %.
    ///
    /// # Errors
    /// [`CompressError::TooLong`] for more than [`CHUNK_BYTES_MAX`] bytes.
    pub fn compress<'a>(&mut self, plain: &'a [u8]) -> Result<Stored<'a>, CompressError> {
        if plain.len() > CHUNK_BYTES_MAX {
            return Err(CompressError::TooLong(plain.len()));
        }
        let raw = Stored { codec: StoredCodec::Raw, bytes: Cow::Borrowed(plain) };
        if plain.is_empty() || !self.is_promising(plain)? {
            return Ok(raw);
        }
        let bytes = self.whole.compress(plain).map_err(|e| failed(&e))?;
        if bytes.len() > plain.len() - plain.len().div_ceil(GAIN_DIVISOR) {
            return Ok(raw);
        }
        Ok(Stored { codec: StoredCodec::Zstd, bytes: Cow::Owned(bytes) })
    }

    /// Compresses a few small blocks, spread over the chunk, at zstd's fastest level. Media that
    /// is compressed already fails here at a cost of 64 KiB instead of up to 4 MiB. Where the
    /// blocks come from matters more than the file's magic: a container's header compresses well
    /// and its payload does not, so the magic is not consulted.
    fn is_promising(&mut self, plain: &[u8]) -> Result<bool, CompressError> {
        if plain.len() <= PROBE_BLOCKS * PROBE_BLOCK_BYTES {
            return Ok(true);
        }
        let stride = (plain.len() - PROBE_BLOCK_BYTES) / (PROBE_BLOCKS - 1);
        let mut compressed = 0;
        for block in 0..PROBE_BLOCKS {
            let start = block * stride;
            let sample = &plain[start..start + PROBE_BLOCK_BYTES];
            self.scratch.clear();
            compressed +=
                self.probe.compress_to_buffer(sample, &mut self.scratch).map_err(|e| failed(&e))?;
        }
        let probed = PROBE_BLOCKS * PROBE_BLOCK_BYTES;
        Ok(compressed <= probed - probed / PROBE_GAIN_DIVISOR)
    }
}

fn failed(error: &std::io::Error) -> CompressError {
    CompressError::Zstd(error.to_string())
}

/// [`Compressor::compress`] with a context of its own, for a single chunk.
///
/// # Errors
/// As [`Compressor::compress`].
pub fn compress(plain: &[u8]) -> Result<Stored<'_>, CompressError> {
    Compressor::new()?.compress(plain)
}

/// The plain bytes of a stored chunk, which must be exactly `plain_len` long.
///
/// # Errors
/// [`DecompressError`]; nothing is allocated before `plain_len` is checked against
/// [`CHUNK_BYTES_MAX`].
pub fn decompress(
    codec: StoredCodec,
    stored: &[u8],
    plain_len: usize,
) -> Result<Vec<u8>, DecompressError> {
    if plain_len > CHUNK_BYTES_MAX {
        return Err(DecompressError::TooLong(plain_len));
    }
    check_claims(codec, stored, plain_len)?;
    let mut plain = vec![0; plain_len];
    decompress_into(codec, stored, &mut plain)?;
    Ok(plain)
}

/// Decompresses into `plain`, whose length is the expected plain length. On an error the
/// buffer's contents are unspecified.
///
/// # Errors
/// [`DecompressError`].
pub fn decompress_into(
    codec: StoredCodec,
    stored: &[u8],
    plain: &mut [u8],
) -> Result<(), DecompressError> {
    check_claims(codec, stored, plain.len())?;
    if codec == StoredCodec::Raw {
        plain.copy_from_slice(stored);
        return Ok(());
    }
    // One-shot decoding writes straight into `plain`: zstd allocates no window, whatever the
    // frame's header asks for, and stops with an error where `plain` ends.
    let found = zstd::bulk::decompress_to_buffer(stored, plain)
        .map_err(|e| DecompressError::Corrupt(e.to_string()))?;
    if found != plain.len() {
        return Err(DecompressError::Length { expected: plain.len(), found: found as u64 });
    }
    Ok(())
}

/// Everything that can be refused from the headers alone.
fn check_claims(codec: StoredCodec, stored: &[u8], plain: usize) -> Result<(), DecompressError> {
    if codec == StoredCodec::Raw {
        if stored.len() != plain {
            return Err(DecompressError::Length { expected: plain, found: stored.len() as u64 });
        }
        return Ok(());
    }
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    if !stored.starts_with(&MAGIC) {
        return Err(DecompressError::Frame("it does not start with a zstd frame"));
    }
    let claimed = zstd_safe::get_frame_content_size(stored)
        .map_err(|_| DecompressError::Frame("its header is cut off or malformed"))?;
    match claimed {
        None => return Err(DecompressError::Frame("its header does not say its plain length")),
        Some(found) if found != plain as u64 => {
            return Err(DecompressError::Length { expected: plain, found });
        }
        Some(_) => {}
    }
    match zstd_safe::find_frame_compressed_size(stored) {
        Ok(frame_bytes) if frame_bytes == stored.len() => Ok(()),
        Ok(_) => Err(DecompressError::Frame("other bytes follow it")),
        Err(_) => Err(DecompressError::Frame("it is cut off or malformed")),
    }
}
