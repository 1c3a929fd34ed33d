//! redb's storage on top of [`Disk`], so that the index lives in the same faulty world as the
//! volumes in tests, and so that it can never grow past the quota.
use crate::disk::{DiskFile, SyncSite};
use redb::StorageBackend;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How long the index file is and may become, shared with the quota.
#[derive(Debug)]
pub(crate) struct IndexSize {
    pub(crate) bytes: AtomicU64,
    pub(crate) bytes_max: AtomicU64,
}

impl Default for IndexSize {
    fn default() -> Self {
        Self { bytes: AtomicU64::new(0), bytes_max: AtomicU64::new(u64::MAX) }
    }
}

/// One index file.
#[derive(Debug)]
pub(crate) struct RedbFile {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) size: Arc<IndexSize>,
}

impl StorageBackend for RedbFile {
    fn len(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let grows = len > self.size.bytes.load(Ordering::Acquire);
        if grows && len > self.size.bytes_max.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "index at its quota"));
        }
        self.file.set_len(len)?;
        self.size.bytes.store(len, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data(SyncSite::Index)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, &[data])
    }
}
