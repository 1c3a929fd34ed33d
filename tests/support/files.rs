//! Files to publish: the same seed gives the same bytes on every machine. And
//! their comparison, which streams.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// Reproducible random numbers.
#[must_use]
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A file of random bytes, which no compressor makes smaller.
///
/// # Panics
/// When it cannot be written.
pub fn random(path: &Path, seed: u64, len: u64) {
    let file = File::create(path).expect("a new file");
    write_random(&mut BufWriter::new(file), &mut rng(seed), len);
}

fn write_random(into: &mut impl Write, rng: &mut ChaCha8Rng, len: u64) {
    let mut block = vec![0; 1 << 20];
    let mut left = len;
    while left > 0 {
        let part = usize::try_from(left.min(1 << 20)).expect("at most a MiB");
        rng.fill_bytes(&mut block[..part]);
        into.write_all(&block[..part]).expect("written");
        left -= part as u64;
    }
    into.flush().expect("written");
}

/// A file of English-like lines, which compresses several times.
///
/// # Panics
/// When it cannot be written.
pub fn text(path: &Path, seed: u64, len: u64) {
    const WORDS: [&str; 16] = [
        "the", "holder", "signs", "a", "receipt", "once", "shard", "is", "durable", "and", "any",
        "six", "of", "sixteen", "may", "vanish",
    ];
    let mut rng = rng(seed);
    let mut into = BufWriter::new(File::create(path).expect("a new file")).take_bytes(len);
    let mut line = String::new();
    while into.left > 0 {
        let number = rng.next_u64();
        line.clear();
        for at in 0..12 {
            line.push_str(WORDS[(number >> (4 * at)) as usize % WORDS.len()]);
            line.push(if at == 11 { '\n' } else { ' ' });
        }
        into.write(format!("{:016x} {line}", number >> 8).as_bytes());
    }
    into.into.flush().expect("written");
}

/// A writer that stops at a length.
struct Limited<W> {
    into: W,
    left: u64,
}

trait TakeBytes: Write + Sized {
    fn take_bytes(self, len: u64) -> Limited<Self> {
        Limited { into: self, left: len }
    }
}

impl<W: Write> TakeBytes for W {}

impl<W: Write> Limited<W> {
    fn write(&mut self, bytes: &[u8]) {
        let part = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.into.write_all(&bytes[..part]).expect("written");
        self.left -= part as u64;
    }
}

/// A sparse file: `random` bytes in extents of `extent`, spread evenly over `len`,
/// holes between them.
///
/// # Panics
/// When it cannot be written.
pub fn sparse(path: &Path, seed: u64, len: u64, random: u64, extent: u64) {
    let mut file = File::create(path).expect("a new file");
    file.set_len(len).expect("a sparse file");
    let mut rng = rng(seed);
    let extents = random / extent;
    for at in 0..extents {
        file.seek(SeekFrom::Start(at * (len / extents))).expect("inside the file");
        write_random(&mut file, &mut rng, extent);
    }
}

/// Overwrites a part of a file with other random bytes.
///
/// # Panics
/// When it cannot.
pub fn overwrite(path: &Path, seed: u64, from: u64, len: u64) {
    let mut file = File::options().write(true).open(path).expect("the file");
    file.seek(SeekFrom::Start(from)).expect("inside the file");
    write_random(&mut file, &mut rng(seed), len);
}

/// Asserts that two files have the same bytes.
///
/// # Panics
/// At the first byte that differs.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    let len = |path: &Path| {
        std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len()
    };
    assert_eq!(len(left), len(right), "lengths of {} and {}", left.display(), right.display());
    let open = |path: &Path| BufReader::with_capacity(1 << 20, File::open(path).expect("readable"));
    let (mut a, mut b) = (open(left), open(right));
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0_u64;
    loop {
        let part = read_full(&mut a, &mut x);
        assert_eq!(part, read_full(&mut b, &mut y), "lengths changed while comparing");
        if part == 0 {
            return;
        }
        if x[..part] != y[..part] {
            let inside = (0..part).find(|at| x[*at] != y[*at]).unwrap_or_default() as u64;
            panic!("{} and {} differ at byte {}", left.display(), right.display(), at + inside);
        }
        at += part as u64;
    }
}

fn read_full(from: &mut impl Read, into: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < into.len() {
        match from.read(&mut into[filled..]).expect("readable") {
            0 => break,
            part => filled += part,
        }
    }
    filled
}
