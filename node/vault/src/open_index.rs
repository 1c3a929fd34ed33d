//! Opening the index file, or making it anew when it cannot be trusted. It never decides about
//! shards: an index that is thrown away costs time, not data.
use crate::config::VaultConfig;
use crate::disk::{Disk, SyncSite};
use crate::error::OpenError;
use crate::index::{Index, Terms};
use crate::kv::{IndexError, Kv, View, open_db};
use crate::redb_disk::{IndexSize, RedbFile};
use crate::rows;
use crate::scan::Scan;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The index file's name.
pub const INDEX_FILE: &str = "index.redb";

/// Where the index came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexState {
    /// The file was sound; only what came after its checkpoint was replayed.
    Used,
    /// There was no vault here before.
    New,
    /// The file was missing, damaged or out of step, and was made again from the volumes.
    Rebuilt(String),
}

/// An open index with its size.
pub(crate) struct OpenIndex {
    pub(crate) index: Index,
    pub(crate) size: Arc<IndexSize>,
    pub(crate) state: IndexState,
}

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { doing, source }
}

/// Opens the index, or begins a new one.
pub(crate) fn open_index(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    config: &VaultConfig,
    scan: &Scan,
) -> Result<OpenIndex, OpenError> {
    let path = dir.join(INDEX_FILE);
    let why = match disk.open(&path) {
        Ok(file) => {
            let size = Arc::new(IndexSize::default());
            match trusted(RedbFile { file, size: Arc::clone(&size) }, config, scan) {
                Ok(index) => return Ok(OpenIndex { index, size, state: IndexState::Used }),
                Err(error) => error.0,
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => "there was no index".to_owned(),
        Err(error) => error.to_string(),
    };
    match disk.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("removing an unusable index")(error));
        }
        _ => {}
    }
    let file = disk.create(&path).map_err(io_error("creating the index"))?;
    disk.sync_dir(dir, SyncSite::IndexDir).map_err(io_error("syncing the vault's directory"))?;
    let size = Arc::new(IndexSize::default());
    let backend = RedbFile { file, size: Arc::clone(&size) };
    let db = open_db(backend, config.index_cache_bytes)?;
    let mut index = Index { kv: Kv::new(db), terms: terms_of(config) };
    index.kv.stage(rows::PARAMETERS.to_vec(), Some(index.terms.encode()));
    index.kv.commit_staged();
    let state = if scan.volumes.is_empty() { IndexState::New } else { IndexState::Rebuilt(why) };
    Ok(OpenIndex { index, size, state })
}

fn terms_of(config: &VaultConfig) -> Terms {
    Terms { unsealed_ttl_epochs: config.unsealed_ttl_epochs, grace_epochs: config.grace_epochs }
}

/// The stored index, if everything about it fits the volumes.
fn trusted(backend: RedbFile, config: &VaultConfig, scan: &Scan) -> Result<Index, IndexError> {
    let broken = |why: &str| Err(IndexError(why.to_owned()));
    let bytes = backend.file.size().map_err(|error| IndexError(error.to_string()))?;
    backend.size.bytes.store(bytes, Ordering::Release);
    let db = open_db(backend, config.index_cache_bytes)?;
    let index = Index { kv: Kv::new(db), terms: terms_of(config) };
    if !index.kv.rows_add_up()? {
        return broken("its rows do not add up");
    }
    if index.kv.get(View::Durable, rows::PARAMETERS)? != Some(index.terms.encode()) {
        return broken("it was made with other terms");
    }
    let Some(position) = index.position()? else { return broken("it has no position") };
    if scan.size_that_counts(position.volume).is_none_or(|size| size < position.offset) {
        return broken("its position is past the volumes");
    }
    let known = index.volumes(View::Durable)?;
    for (number, row) in &known {
        let size = scan.size_that_counts(*number);
        if !row.leaving && size.is_none_or(|size| size < row.len) {
            return broken("a volume that it knows is missing or short");
        }
    }
    let is_known = |number: &u64| known.iter().any(|(known, _)| known == number);
    if scan.volumes.keys().any(|number| *number <= position.volume && !is_known(number)) {
        return broken("there is a volume that it should know and does not");
    }
    Ok(index)
}
