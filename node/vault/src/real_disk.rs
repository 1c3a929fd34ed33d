//! The operating system's file system behind [`Disk`], through rustix. It holds no state of its
//! own and never retries a failed sync.
use crate::disk::{Disk, DiskFile, SyncSite};
use rustix::fs::{self, Mode, OFlags};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Buffers handed to the kernel in one `pwritev` (the limit of Linux is 1,024).
const WRITE_PARTS_MAX: usize = 1_000;

/// The real disk. Files are created with mode 0600: shards are nobody else's business.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File);

impl RealDisk {
    fn open_with(path: &Path, flags: OFlags) -> io::Result<Arc<dyn DiskFile>> {
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | flags, mode)?;
        Ok(Arc::new(RealFile(File::from(fd))))
    }
}

impl RealFile {
    /// A file whose last name somebody removed ends with the process: nothing in it is durable.
    fn still_named(&self) -> io::Result<()> {
        if fs::fstat(&self.0)?.st_nlink == 0 {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the file was deleted while it was in use",
            ));
        }
        Ok(())
    }
}

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Self::open_with(path, OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Self::open_with(path, OFlags::empty())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            // A name that is not text is not one of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path, _site: SyncSite) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(dir, flags, Mode::empty())?;
        Ok(fs::fsync(&fd)?)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut at = offset;
        for parts in parts.chunks(WRITE_PARTS_MAX) {
            let mut slices: Vec<IoSlice<'_>> =
                parts.iter().map(|part| IoSlice::new(part)).collect();
            let mut left = slices.as_mut_slice();
            IoSlice::advance_slices(&mut left, 0);
            while !left.is_empty() {
                let written = match rustix::io::pwritev(&self.0, left, at) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => written,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                };
                at += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self, _site: SyncSite) -> io::Result<()> {
        fs::fdatasync(&self.0)?;
        self.still_named()
    }

    fn sync_all(&self, _site: SyncSite) -> io::Result<()> {
        fs::fsync(&self.0)?;
        self.still_named()
    }
}
