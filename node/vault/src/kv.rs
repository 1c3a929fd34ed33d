//! The index as sorted rows of bytes: changes stay in memory and reach redb at a checkpoint, all
//! of them or none. It knows nothing of shards; it is a cache and never the truth.
//!
//! Layers, from the newest: `staged` (records written but not yet synced; only the committer looks
//! at it), `dirty` (durable in the volumes), `frozen` (being written to redb), then redb.
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows-v3");
/// Holds the sum over all other rows; sorts before them.
const SUM_KEY: &[u8] = &[0];

/// The index could not be read or written; the volumes still hold everything.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the vault's index failed ({0}); open the vault again: the index is then rebuilt")]
pub struct IndexError(pub(crate) String);

/// Changed rows: `None` means removed.
pub(crate) type Layer = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
/// A row: key and value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// Whose eyes a read uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// What is durable: everyone.
    Durable,
    /// What the committer has written and not yet synced, too.
    Staged,
}

/// The layered rows.
#[derive(Debug)]
pub(crate) struct Kv {
    staged: Layer,
    dirty: Layer,
    frozen: Option<Arc<Layer>>,
    db: Option<Arc<Database>>,
}

/// redb panics on some damaged files; a cache must not take the process with it.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| IndexError(error.to_string())),
        Err(_) => Err(IndexError("redb panicked".to_owned())),
    }
}

fn row_sum(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(value);
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(half)
}

/// Opens redb over one file and reads every row: the rows must add up to the sum that the last
/// checkpoint stored. A new file holds no rows.
pub(crate) fn open_db(
    backend: crate::redb_disk::RedbFile,
    cache_bytes: usize,
) -> Result<Database, IndexError> {
    guarded(|| {
        let db = Database::builder().set_cache_size(cache_bytes).create_with_backend(backend)?;
        Ok(db)
    })
}

fn rows_add_up(db: &Database) -> Result<bool, IndexError> {
    guarded(|| {
        let read = db.begin_read()?;
        let table = match read.open_table(ROWS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let (mut sum, mut stored) = (0u128, None);
        for row in table.iter()? {
            let (key, value) = row?;
            if key.value() == SUM_KEY {
                stored = Some(value.value().to_vec());
            } else {
                sum = sum.wrapping_add(row_sum(key.value(), value.value()));
            }
        }
        Ok(stored.is_some_and(|stored| stored == sum.to_le_bytes()))
    })
}

/// Writes a layer in one durable transaction.
pub(crate) fn write_layer(db: &Database, layer: &Layer) -> Result<(), IndexError> {
    guarded(|| {
        let write = db.begin_write()?;
        {
            let mut table = write.open_table(ROWS)?;
            let mut sum = match table.get(SUM_KEY)? {
                Some(stored) => u128::from_le_bytes(stored.value().try_into().unwrap_or([0; 16])),
                None => 0,
            };
            for (key, value) in layer {
                let key = key.as_slice();
                let old = match value {
                    Some(value) => {
                        sum = sum.wrapping_add(row_sum(key, value));
                        table.insert(key, value.as_slice())?
                    }
                    None => table.remove(key)?,
                };
                if let Some(old) = old {
                    sum = sum.wrapping_sub(row_sum(key, old.value()));
                }
            }
            table.insert(SUM_KEY, sum.to_le_bytes().as_slice())?;
        }
        write.commit()?;
        Ok(())
    })
}

impl Drop for Kv {
    fn drop(&mut self) {
        let db = self.db.take();
        // redb writes when it is closed, and panics there, too, over a damaged file.
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::warn!("redb panicked while closing a damaged index");
        }
    }
}

impl Kv {
    /// Rows on top of an open database.
    pub(crate) fn new(db: Database) -> Self {
        Self { staged: Layer::new(), dirty: Layer::new(), frozen: None, db: Some(Arc::new(db)) }
    }

    /// Whether the stored rows are exactly those of the last checkpoint. `false` if there was none.
    pub(crate) fn rows_add_up(&self) -> Result<bool, IndexError> {
        self.db.as_deref().map_or(Ok(false), rows_add_up)
    }

    fn layers(&self, view: View) -> impl Iterator<Item = &Layer> {
        let staged = (view == View::Staged).then_some(&self.staged);
        staged.into_iter().chain([&self.dirty]).chain(self.frozen.as_deref())
    }

    /// One row.
    pub(crate) fn get(&self, view: View, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        for layer in self.layers(view) {
            if let Some(value) = layer.get(key) {
                return Ok(value.clone());
            }
        }
        let Some(db) = &self.db else { return Ok(None) };
        guarded(|| {
            let read = db.begin_read()?;
            let table = match read.open_table(ROWS) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        })
    }

    /// Up to `limit` rows whose keys begin with `prefix` and are greater than `after`, in order.
    pub(crate) fn page(
        &self,
        view: View,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, IndexError> {
        let mut rows = Vec::new();
        let mut from = after.map(<[u8]>::to_vec);
        // Rows of redb may be hidden by removals above: read on until a page is full.
        loop {
            let stored = self.stored_page(prefix, from.as_deref(), limit)?;
            let last = stored.get(limit - 1).map(|(key, _)| key.clone());
            self.merge(view, prefix, (from.as_deref(), last.as_deref()), stored, limit, &mut rows);
            if last.is_none() || rows.len() >= limit {
                return Ok(rows);
            }
            from = last;
        }
    }

    /// Lays the memory layers over the stored rows of the key range (after, last].
    fn merge(
        &self,
        view: View,
        prefix: &[u8],
        (after, last): (Option<&[u8]>, Option<&[u8]>),
        stored: Vec<Row>,
        limit: usize,
        rows: &mut Vec<Row>,
    ) {
        let start = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let stored: Layer = stored.into_iter().map(|(key, value)| (key, Some(value))).collect();
        // From the newest to the oldest: of equal keys the first one counts.
        let mut sources: Vec<_> = self
            .layers(view)
            .chain([&stored])
            .map(|layer| layer.range::<[u8], _>((start, Bound::Unbounded)).peekable())
            .collect();
        while rows.len() < limit {
            let heads = sources.iter_mut().filter_map(|source| source.peek().map(|row| row.0));
            let Some(key) = heads.min().cloned() else { return };
            if !key.starts_with(prefix) || last.is_some_and(|last| key.as_slice() > last) {
                return;
            }
            let mut newest = None;
            for source in &mut sources {
                if let Some((_, value)) = source.next_if(|row| *row.0 == key) {
                    newest.get_or_insert(value);
                }
            }
            if let Some(Some(value)) = newest {
                rows.push((key, value.clone()));
            }
        }
    }

    fn stored_page(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, IndexError> {
        let Some(db) = &self.db else { return Ok(Vec::new()) };
        guarded(|| {
            let read = db.begin_read()?;
            let table = match read.open_table(ROWS) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            };
            let start = after.map_or(Bound::Included(prefix), Bound::Excluded);
            let mut rows = Vec::new();
            for row in table.range::<&[u8]>((start, Bound::Unbounded))?.take(limit) {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                rows.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(rows)
        })
    }

    /// Changes a row in the staged layer.
    pub(crate) fn stage(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.staged.insert(key, value);
    }

    /// The staged rows became durable in a volume.
    pub(crate) fn commit_staged(&mut self) {
        // Not `append`, which builds the whole map anew: the dirty rows are many, the staged few.
        self.dirty.extend(std::mem::take(&mut self.staged));
    }

    /// The staged rows were refused.
    pub(crate) fn discard_staged(&mut self) {
        self.staged.clear();
    }

    /// Changed rows that no checkpoint holds yet.
    pub(crate) fn dirty_rows(&self) -> usize {
        self.dirty.len()
    }

    /// Takes the dirty rows for writing; readers go on seeing them.
    pub(crate) fn freeze(&mut self) -> Option<(Arc<Database>, Arc<Layer>)> {
        let db = self.db.clone()?;
        let layer = Arc::new(std::mem::take(&mut self.dirty));
        self.frozen = Some(Arc::clone(&layer));
        Some((db, layer))
    }

    /// The frozen rows are in redb, or, if not `written`, dirty again below newer changes.
    pub(crate) fn thaw(&mut self, written: bool) {
        let Some(frozen) = self.frozen.take() else { return };
        if !written {
            for (key, value) in frozen.iter() {
                self.dirty.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}
