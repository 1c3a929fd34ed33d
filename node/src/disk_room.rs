//! Whether a disk has room for the small databases beside the vault.
//!
//! A redb that could not write neither writes nor reads any more until the process ends. So it
//! is asked for room before a transaction begins, and refuses while it can still go on later.

use std::{io, path::Path};

/// Left free before a transaction of a database begins, bytes: more than the largest writes (a
/// batch of records).
pub(crate) const DATABASE_ROOM_BYTES: u64 = 4 << 20;

/// Asks whether the file system of `path` has room for a transaction.
///
/// # Errors
/// `StorageFull`, in words for people, or why the file system does not say.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    let stat = rustix::fs::statvfs(path)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= DATABASE_ROOM_BYTES {
        return Ok(());
    }
    let reason = format!(
        "{free} bytes are free on the disk of {}, and {DATABASE_ROOM_BYTES} are needed; free some \
         space",
        path.display()
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, reason))
}
