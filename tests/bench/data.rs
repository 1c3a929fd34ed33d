//! Bytes to measure with: random ones, which nothing compresses, and text, which shrinks
//! several times. The same seed gives the same bytes.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

/// Words of which the text is made: a vocabulary of a thousand would compress alike.
const WORDS: [&str; 32] = [
    "the", "holder", "signs", "a", "receipt", "once", "shard", "is", "durable", "and", "any",
    "six", "of", "sixteen", "may", "vanish", "while", "reader", "who", "knows", "only", "content",
    "identity", "rebuilds", "every", "byte", "from", "what", "remains", "without", "trusting",
    "anyone",
];

/// Random bytes.
pub(crate) fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Lines of words and numbers.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut bytes = Vec::with_capacity(len + 256);
    while bytes.len() < len {
        let mut number = rng.next_u64();
        for _ in 0..10 {
            // The remainder is below the number of words.
            bytes.extend_from_slice(WORDS[(number % 32) as usize].as_bytes());
            bytes.push(b' ');
            number >>= 5;
        }
        bytes.extend_from_slice(format!("{}\n", rng.next_u32() % 10_000).as_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Writes a file of random bytes.
pub(crate) fn random_file(path: &Path, seed: u64, len: u64) -> io::Result<()> {
    const BLOCK_BYTES: u64 = 8 << 20;
    let mut file = File::create(path)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut block = vec![0; BLOCK_BYTES as usize];
    let mut left = len;
    while left > 0 {
        let part = left.min(BLOCK_BYTES);
        rng.fill_bytes(&mut block[..part as usize]);
        file.write_all(&block[..part as usize])?;
        left -= part;
    }
    file.sync_all()
}

/// Whether two files have the same bytes.
pub(crate) fn same(one: &Path, other: &Path) -> anyhow::Result<bool> {
    let hash = |path: &Path| -> anyhow::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let mut file = File::open(path).with_context(|| format!("{}", path.display()))?;
        io::copy(&mut file, &mut hasher)?;
        Ok(hasher.finalize())
    };
    Ok(hash(one)? == hash(other)?)
}
