//! Full copies of the owner's works: imported by reference into an iroh-blobs
//! store (so that any iroh-blobs client can fetch them), and served in larger
//! pieces over our own protocol.
//!
//! The files stay where they are and are the owner's to change; whoever fetches
//! verifies, so a changed file costs its readers time, never a wrong byte.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use echonet_protocol::{
    content_id::ContentId,
    data::verified::{self, ReadAt, SliceEncoder},
    message::{Refusal, RefusalCode, SliceSpec},
};
use futures::StreamExt;
use iroh_blobs::{
    BlobFormat, HashAndFormat,
    api::{
        Store,
        blobs::{AddPathOptions, AddProgressItem, ImportMode},
    },
    store::fs::{
        FsStore,
        options::{InlineOptions, Options, PathOptions},
    },
};
use tokio::sync::OnceCell;

/// iroh-blobs' groups: 16 leaves, 16 KiB.
const OUTBOARD_LOG: u8 = 4;
/// Bytes of an encoded slice made at once.
const PART_BYTES: usize = 512 * 1024;

/// Why a full copy cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The store of full copies failed.
    #[error("the store of full copies in {dir} failed: {reason}; check the disk")]
    Store {
        /// Where it is.
        dir: PathBuf,
        /// Its words.
        reason: String,
    },
    /// The source file cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Source {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A content that was imported.
#[derive(Debug)]
pub struct Imported {
    /// Its name.
    pub content: ContentId,
    /// Its bytes.
    pub len: u64,
    /// The hash of each MiB.
    pub mib_cvs: Vec<[u8; 32]>,
}

/// The owner's full copies.
#[derive(Debug)]
pub struct Origin {
    dir: PathBuf,
    store: OnceCell<FsStore>,
}

struct OutboardFile(File);

impl ReadAt for OutboardFile {
    type Error = io::Error;

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(&self.0, buffer, offset)
    }
}

impl Origin {
    /// Full copies are kept track of under `dir`; nothing is opened yet.
    #[must_use]
    pub const fn new(dir: PathBuf) -> Self {
        Self { dir, store: OnceCell::const_new() }
    }

    fn failed(&self, reason: impl std::fmt::Display) -> OriginError {
        OriginError::Store { dir: self.dir.clone(), reason: reason.to_string() }
    }

    /// The iroh-blobs store, opened when first needed.
    ///
    /// # Errors
    /// [`OriginError::Store`].
    pub async fn store(&self) -> Result<&Store, OriginError> {
        let open = || async {
            std::fs::create_dir_all(&self.dir).map_err(|e| self.failed(e))?;
            // Every outboard as a file of its own: our protocol serves from it.
            let inline = InlineOptions { max_data_inlined: 0, max_outboard_inlined: 0 };
            let options = Options { inline, ..Options::new(&self.dir) };
            let db = self.dir.join("blobs.db");
            FsStore::load_with_opts(db, options).await.map_err(|e| self.failed(e))
        };
        Ok(&**self.store.get_or_try_init(open).await?)
    }

    /// Hashes a file and keeps it as a full copy, by reference.
    ///
    /// # Errors
    /// [`OriginError`].
    pub async fn import(
        &self,
        path: &Path,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<Imported, OriginError> {
        let store = self.store().await?;
        let options = AddPathOptions {
            path: path.to_owned(),
            format: BlobFormat::Raw,
            mode: ImportMode::TryReference,
        };
        let source = |reason: String| OriginError::Source { path: path.to_owned(), reason };
        let mut stream = store.blobs().add_path_with_opts(options).stream().await;
        let (mut len, mut tag) = (0, None);
        while let Some(item) = stream.next().await {
            match item {
                AddProgressItem::Size(bytes) => len = bytes,
                AddProgressItem::CopyProgress(_) | AddProgressItem::CopyDone => {}
                AddProgressItem::OutboardProgress(bytes) => progress(bytes),
                AddProgressItem::Done(done) => tag = Some(done),
                AddProgressItem::Error(e) => return Err(source(e.to_string())),
            }
        }
        let tag = tag.ok_or_else(|| source("the import ended early".into()))?;
        let hash = tag.hash();
        let content = ContentId::new(*hash.as_bytes());
        let named = HashAndFormat::raw(hash);
        store.tags().set(content.to_string(), named).await.map_err(|e| self.failed(e))?;
        store.sync_db().await.map_err(|e| self.failed(e))?;
        let mib_cvs = self.mib_cvs(&content, len)?;
        Ok(Imported { content, len, mib_cvs })
    }

    fn outboard(&self, content: &ContentId) -> io::Result<OutboardFile> {
        let hash = iroh_blobs::Hash::from_bytes(*content.as_bytes());
        File::open(PathOptions::new(&self.dir).outboard_path(&hash)).map(OutboardFile)
    }

    /// The hash of each MiB of a content that was imported.
    ///
    /// # Errors
    /// [`OriginError::Store`] when its outboard is missing or damaged.
    pub fn mib_cvs(&self, content: &ContentId, len: u64) -> Result<Vec<[u8; 32]>, OriginError> {
        if len <= echonet_protocol::data::GROUP_BYTES {
            return Ok(vec![*content.as_bytes()]);
        }
        let outboard = self.outboard(content).map_err(|e| self.failed(e))?;
        verified::mib_cvs(*content.as_bytes(), len, &outboard, OUTBOARD_LOG)
            .map_err(|e| self.failed(e))
    }

    /// Opens a slice of a full copy whose source is `path`.
    ///
    /// # Errors
    /// A refusal for whoever asked.
    pub fn slice(
        &self,
        content: &ContentId,
        path: &Path,
        total: u64,
        slice: SliceSpec,
    ) -> Result<CopySlice, Refusal> {
        let gone = |e: &dyn std::fmt::Display| {
            Refusal::new(
                RefusalCode::NotFound,
                format!("the full copy of {content} is not readable: {e}"),
            )
        };
        let invalid = |e: &dyn std::fmt::Display| Refusal::new(RefusalCode::Invalid, e);
        let data = File::open(path).map_err(|e| gone(&e))?;
        if data.metadata().map_err(|e| gone(&e))?.len() != total {
            return Err(gone(&"its length changed"));
        }
        let outboard = match self.outboard(content) {
            Ok(outboard) => Some(outboard),
            // A content of one group has no node to keep.
            Err(_) if total <= 1024 << OUTBOARD_LOG => None,
            Err(e) => return Err(gone(&e)),
        };
        let end = slice.offset.saturating_add(slice.length);
        let range = slice.offset..end;
        let encoded =
            verified::slice_len(total, range.clone(), slice.group_log).map_err(|e| invalid(&e))?;
        let encoder = SliceEncoder::new(total, range, slice.group_log, OUTBOARD_LOG)
            .map_err(|e| invalid(&e))?;
        Ok(CopySlice {
            total,
            encoded,
            state: Some(Reading { data: DataFile(data), outboard, encoder }),
        })
    }
}

struct DataFile(File);

impl ReadAt for DataFile {
    type Error = io::Error;

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(&self.0, buffer, offset)
    }
}

/// What stands in for the outboard of a content that needs none.
struct NoOutboard;

impl ReadAt for NoOutboard {
    type Error = io::Error;

    fn read_exact_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::Error::other("a content of one group has no outboard"))
    }
}

struct Reading {
    data: DataFile,
    outboard: Option<OutboardFile>,
    encoder: SliceEncoder,
}

impl Reading {
    fn fill(&mut self, out: &mut Vec<u8>) -> Result<bool, String> {
        let Self { data, outboard, encoder } = self;
        match outboard {
            Some(outboard) => {
                encoder.fill(data, outboard, out, PART_BYTES).map_err(|e| e.to_string())
            }
            None => encoder.fill(data, &NoOutboard, out, PART_BYTES).map_err(|e| e.to_string()),
        }
    }
}

/// An encoded slice of a full copy, read part by part.
pub struct CopySlice {
    total: u64,
    encoded: u64,
    state: Option<Reading>,
}

impl CopySlice {
    /// Bytes of the content.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Bytes of the encoding.
    #[must_use]
    pub const fn encoded_len(&self) -> u64 {
        self.encoded
    }

    /// The next part; none at the end.
    ///
    /// # Errors
    /// A refusal when the source cannot be read any more.
    pub async fn next_part(&mut self) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(mut reading) = self.state.take() else { return Ok(None) };
        let internal = |e: &dyn std::fmt::Display| Refusal::new(RefusalCode::Internal, e);
        let read = tokio::task::spawn_blocking(move || {
            let mut part = Vec::with_capacity(PART_BYTES + (1 << 20));
            let more = reading.fill(&mut part)?;
            Ok::<_, String>((more.then_some(reading), part))
        });
        let (rest, part) = read.await.map_err(|e| internal(&e))?.map_err(|e| internal(&e))?;
        self.state = rest;
        Ok((!part.is_empty()).then_some(part))
    }
}
