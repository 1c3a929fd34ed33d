//! The file that the demo makes, and the comparison at the end.

use std::{
    fs::File,
    io::{self, BufReader, Read as _, Write as _},
    path::Path,
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

const BLOCK_BYTES: usize = 1 << 20;

/// Writes `size` bytes that look random and follow from `seed` alone.
pub(super) fn make(path: &Path, size: u64, seed: u64) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut stream = ChaCha8Rng::seed_from_u64(seed);
    let mut block = vec![0; BLOCK_BYTES];
    let mut left = size;
    while left > 0 {
        stream.fill_bytes(&mut block);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        file.write_all(&block[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// The first byte in which two files differ, their lengths included.
pub(super) fn first_difference(a: &Path, b: &Path) -> io::Result<Option<u64>> {
    let mut a = BufReader::with_capacity(BLOCK_BYTES, File::open(a)?);
    let mut b = BufReader::with_capacity(BLOCK_BYTES, File::open(b)?);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut offset = 0;
    loop {
        left.clear();
        right.clear();
        (&mut a).take(BLOCK_BYTES as u64).read_to_end(&mut left)?;
        (&mut b).take(BLOCK_BYTES as u64).read_to_end(&mut right)?;
        if left != right {
            let same = left.iter().zip(&right).take_while(|(l, r)| l == r).count();
            return Ok(Some(offset + same as u64));
        }
        if left.is_empty() {
            return Ok(None);
        }
        offset += left.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_file() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        let size = (2 << 20) + 5;
        for (name, seed) in [("a", 1), ("b", 1), ("c", 2)] {
            make(&path(name), size, seed).unwrap();
            assert_eq!(std::fs::metadata(path(name)).unwrap().len(), size);
        }
        assert_eq!(first_difference(&path("a"), &path("b")).unwrap(), None);
        assert!(first_difference(&path("a"), &path("c")).unwrap().is_some());
        make(&path("a"), 1, 1).unwrap_err();
    }

    #[test]
    fn a_difference_is_found_wherever_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        let bytes = vec![1; (1 << 20) + 10];
        std::fs::write(path("a"), &bytes).unwrap();
        for at in [0, 1 << 20, (1 << 20) + 9] {
            let mut other = bytes.clone();
            other[at] = 2;
            std::fs::write(path("b"), &other).unwrap();
            assert_eq!(first_difference(&path("a"), &path("b")).unwrap(), Some(at as u64));
        }
        std::fs::write(path("b"), &bytes[..5]).unwrap();
        assert_eq!(first_difference(&path("a"), &path("b")).unwrap(), Some(5));
    }
}
