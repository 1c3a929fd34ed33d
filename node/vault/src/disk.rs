//! Every touch of a disk that the vault makes, as one trait, so that a test can lose, tear and
//! reorder what was not synced. It decides nothing about formats and retries nothing.
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The places in the vault's code that ask for durability, each with one reason to exist
/// (VOLUME_FORMAT.md section 6). A test drops each in turn and must see the vault break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncSite {
    /// fdatasync of the active volume after a group of records.
    Group,
    /// fdatasync of a volume after its footer.
    VolumeSealed,
    /// fsync of a new volume's headers.
    VolumeCreated,
    /// fsync of `volumes/` after a volume was created.
    VolumesDir,
    /// fsync of `volumes/`, of the vault's directory and of its parent when the vault is opened.
    VaultDir,
    /// fdatasync after the remains of a refused group were cut off.
    RolledBack,
    /// redb's own syncs of the index.
    Index,
    /// fsync of the vault's directory after the index file was created.
    IndexDir,
    /// fsync of `volumes/` after a compacted volume was removed.
    VolumeRemoved,
    /// fdatasync of the newest volume when the vault is opened, after writing its tail again.
    Recovered,
}

impl SyncSite {
    /// Every site, for tests that drop each in turn.
    pub const ALL: [Self; 10] = [
        Self::Group,
        Self::VolumeSealed,
        Self::VolumeCreated,
        Self::VolumesDir,
        Self::VaultDir,
        Self::RolledBack,
        Self::Index,
        Self::IndexDir,
        Self::VolumeRemoved,
        Self::Recovered,
    ];
}

/// A file system with one or more vaults on it. All calls block.
///
/// Until the matching sync returns `Ok`, the effects of a call may be lost, torn or reordered by a
/// crash; after a sync returns `Err` nothing is promised about what came before it.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Makes a directory and its missing parents; fine if it exists.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Creates a new, empty file for reading and writing; `AlreadyExists` if there is one.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// The names in a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Removes a file's name; open handles keep working.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory's entries durable.
    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()>;
    /// Bytes that can still be written on the file system of `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// One open file. Reads may run beside writes.
pub trait DiskFile: Debug + Send + Sync {
    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fills `out` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `parts`, one after the other, from `offset`; on an error any part of it may
    /// have been written.
    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()>;
    /// Cuts or grows (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the file's bytes and length durable.
    fn sync_data(&self, site: SyncSite) -> io::Result<()>;
    /// Makes the file's bytes and all its metadata durable.
    fn sync_all(&self, site: SyncSite) -> io::Result<()>;
}
