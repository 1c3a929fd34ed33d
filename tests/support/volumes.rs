//! Damage to a holder's volumes, done behind its back as a bad disk would. Knows
//! only how volume files are named; index files are left alone.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// How the names of volume files end.
const VOLUME_SUFFIX: &str = ".echovol";

/// The volumes under a node's data directory with their lengths.
#[must_use]
pub fn list(data: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![data.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => dirs.push(path),
                Ok(meta) if path.to_string_lossy().ends_with(VOLUME_SUFFIX) => {
                    found.insert(path, meta.len());
                }
                _ => {}
            }
        }
    }
    found
}

/// Bytes between two damaged ones: every leaf of every shard is hit.
const STRIDE: u64 = 1000;

/// Changes one byte in every thousand of all volumes under a data directory, past
/// their headers. Returns how many bytes were changed.
///
/// # Panics
/// When there is nothing to damage, or it cannot be written.
#[must_use]
pub fn damage(data: &Path) -> u64 {
    let mut changed = 0;
    for (path, len) in list(data) {
        let file = File::options().read(true).write(true).open(&path).expect("a volume");
        let mut block = [0];
        for at in (FIRST_RECORD_AT..len).step_by(STRIDE as usize) {
            file.read_exact_at(&mut block, at).expect("readable");
            // Padding and what was never written stays zero: only content is hit.
            if block[0] != 0 {
                file.write_all_at(&[block[0] ^ 0x55], at).expect("writable");
                changed += 1;
            }
        }
    }
    assert!(changed > 0, "no volume with bytes under {}", data.display());
    changed
}

/// Changes one byte in the middle of a shard's bytes in the longest volume under a data directory;
/// returns where.
///
/// # Panics
/// When there is nothing to damage, or it cannot be written.
#[must_use]
pub fn damage_one(data: &Path) -> u64 {
    let volumes = list(data);
    let (path, len) = volumes.iter().max_by_key(|(_, len)| **len).expect("a volume");
    let file = File::options().read(true).write(true).open(path).expect("a volume");
    let mut block = [0; RANDOM_BYTES];
    // Random content has no zeroes to speak of; headers, leases and what was never written do.
    let is_content = |block: &[u8]| block.iter().filter(|byte| **byte == 0).count() < 64;
    for at in (FIRST_RECORD_AT..len - RANDOM_BYTES as u64).step_by(RANDOM_BYTES) {
        file.read_exact_at(&mut block, at).expect("readable");
        if is_content(&block) {
            let at = at + RANDOM_BYTES as u64 / 2;
            file.write_all_at(&[block[RANDOM_BYTES / 2] ^ 0x01], at).expect("writable");
            return at;
        }
    }
    panic!("no shard's bytes in {}", path.display())
}

/// Bytes that are all a shard's when hardly any of them is zero.
const RANDOM_BYTES: usize = 4096;

/// Where the first record of a volume stands: a damaged header would close the
/// whole volume, and no wrong byte would be served at all.
const FIRST_RECORD_AT: u64 = 8192;
