//! Fetched content on its way into a file: resumable, sparse, and never seen
//! under its final name before it is whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
};

use echonet_protocol::content_id::ContentId;
use tokio::{
    io::AsyncWrite,
    sync::mpsc::{self, Receiver},
    task::JoinHandle,
};
use tokio_util::sync::PollSender;

use crate::datadir::sync_dir;

/// Bytes of one write, and the granule of resuming and of holes.
const BLOCK_BYTES: usize = 1024 * 1024;
/// Blocks that wait for the disk.
const BLOCKS_QUEUED_MAX: usize = 4;
/// What a block that needs no disk looks like.
static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// A file in the data directory that content is gathered in.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
}

impl Partial {
    /// The partial file of a work, where no other fetch uses it.
    pub(super) fn resumable(dir: &Path, content: ContentId) -> io::Result<Option<Self>> {
        let path = dir.join(content.0.to_hex());
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match fs4::FileExt::try_lock(&file) {
            // Whoever had the lock may have renamed the file away meanwhile.
            Ok(()) if same_file(&file, &path) => Ok(Some(Self { file, path })),
            Ok(()) | Err(fs4::TryLockError::WouldBlock) => Ok(None),
            Err(fs4::TryLockError::Error(error)) => Err(error),
        }
    }

    /// A file of its own, that nothing resumes.
    pub(super) fn fresh(dir: &Path) -> io::Result<Self> {
        let (file, path) = temp_file(dir, "part-")?.keep()?;
        Ok(Self { file, path })
    }

    /// Where to resume: a whole block before the end, so that a granule that
    /// was being written is fetched again and an end is never asked for.
    pub(super) fn resume_at(&self) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        Ok(length.saturating_sub(1) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64)
    }

    /// A writer that continues at `offset`, a multiple of the granule; what was
    /// behind it is cut off.
    pub(super) fn writer(&self, offset: u64) -> io::Result<SparseWriter> {
        let mut file = self.file.try_clone()?;
        file.set_len(offset)?;
        file.seek(SeekFrom::Start(offset))?;
        let (blocks, queue) = mpsc::channel(BLOCKS_QUEUED_MAX);
        let task = tokio::task::spawn_blocking(move || write_blocks(file, offset, queue));
        Ok(SparseWriter {
            block: Vec::with_capacity(BLOCK_BYTES),
            blocks: PollSender::new(blocks),
            task,
        })
    }

    /// Whether the whole file is the work.
    pub(super) fn matches(&self, content: ContentId) -> io::Result<bool> {
        let mut hasher = blake3::Hasher::new();
        let mut file = &self.file;
        file.rewind()?;
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            match file.read(&mut block)? {
                0 => return Ok(ContentId::new(*hasher.finalize().as_bytes()) == content),
                length => hasher.update(&block[..length]),
            };
        }
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Gives it its final name, durable, on whatever filesystem that is.
    pub(super) fn move_to(self, target: &Path, force: bool) -> io::Result<()> {
        self.file.sync_all()?;
        let parent = parent(target);
        if !move_file(&self.path, target, force)? {
            let mut temp = temp_file(parent, ".echonet-")?;
            copy_sparse(&self.file, temp.as_file_mut())?;
            temp.as_file().sync_all()?;
            let moved = if force { temp.persist(target) } else { temp.persist_noclobber(target) };
            moved.map_err(|error| error.error)?;
            fs::remove_file(&self.path)?;
        }
        sync_dir(parent).map_err(io::Error::other)
    }

    /// Removes it.
    pub(super) fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// The directory a file is in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Renames on one filesystem; false where there are two.
fn move_file(from: &Path, to: &Path, force: bool) -> io::Result<bool> {
    let temp = tempfile::TempPath::try_from_path(from)?;
    let moved = if force { temp.persist(to) } else { temp.persist_noclobber(to) };
    match moved {
        Ok(()) => Ok(true),
        Err(error) => {
            // Kept in any case: it is the only copy.
            error.path.keep().map_err(|error| error.error)?;
            match error.error.kind() {
                io::ErrorKind::CrossesDevices => Ok(false),
                _ => Err(error.error),
            }
        }
    }
}

/// A temporary file with the permissions of any new file of this user; not
/// the private ones that temporary files have by default.
fn temp_file(dir: &Path, prefix: &str) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // The umask applies.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(dir)
}

#[cfg(unix)]
fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |m: fs::Metadata| (m.dev(), m.ino());
    let named = fs::metadata(path).map(id).ok();
    named.is_some() && named == file.metadata().map(id).ok()
}

#[cfg(not(unix))]
fn same_file(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Copies a file; whole blocks of zeros become holes.
fn copy_sparse(mut from: &File, to: &mut File) -> io::Result<()> {
    from.rewind()?;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut offset = 0;
    loop {
        block.clear();
        from.take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return to.set_len(offset);
        }
        write_block(to, &block)?;
        offset += block.len() as u64;
    }
}

/// Writes a block where the file is, or leaves a hole.
fn write_block(file: &mut File, block: &[u8]) -> io::Result<()> {
    if block == ZEROS {
        file.seek(SeekFrom::Current(BLOCK_BYTES as i64)).map(|_| ())
    } else {
        file.write_all(block)
    }
}

/// Writes what comes until nothing comes any more; bytes in the file then.
fn write_blocks(mut file: File, mut offset: u64, mut queue: Receiver<Vec<u8>>) -> io::Result<u64> {
    let mut outcome = Ok(());
    while let Some(block) = queue.blocking_recv() {
        outcome = write_block(&mut file, &block);
        if outcome.is_err() {
            break;
        }
        offset += block.len() as u64;
    }
    // A hole at the end has no length yet; a failed block has too much.
    file.set_len(offset)?;
    outcome.map(|()| offset)
}

/// Takes content in order and writes it on a thread of its own.
#[derive(Debug)]
pub(super) struct SparseWriter {
    block: Vec<u8>,
    blocks: PollSender<Vec<u8>>,
    task: JoinHandle<io::Result<u64>>,
}

impl SparseWriter {
    /// Writes the rest out; bytes in the file then.
    pub(super) async fn finish(mut self) -> io::Result<u64> {
        if !self.block.is_empty() {
            let reserved = std::future::poll_fn(|cx| self.blocks.poll_reserve(cx)).await;
            if reserved.is_ok() {
                let block = std::mem::take(&mut self.block);
                let _ = self.blocks.send_item(block);
            }
        }
        self.blocks.close();
        drop(self.blocks);
        // The thread knows best what went wrong.
        self.task.await.map_err(io::Error::other)?
    }
}

impl AsyncWrite for SparseWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.block.len() == BLOCK_BYTES {
            let stopped = |_| io::Error::other("the output file cannot be written");
            ready!(self.blocks.poll_reserve(cx)).map_err(stopped)?;
            let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK_BYTES));
            self.blocks.send_item(block).map_err(stopped)?;
        }
        let length = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[path = "output_file_tests.rs"]
mod tests;
