//! The policy's records, written through to redb, so that a restart keeps them.
//!
//! A put is answered after its commit is on disk. A damaged database is set aside and the store
//! starts empty, with a warning: records are announced again by whoever cares. It never fails to
//! start for damage, and never touches a file that another process has open. Every method blocks
//! on the disk or a lock: call it from a blocking thread.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
};
use tracing::{error, warn};

use super::{
    policy::{PutError, RecordPolicy},
    record::{RecordId, RecordKey, StoredRecord, from_row, row_key, row_value},
};
use crate::{disk_room, net::limits::RecordLimits};

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records_v1");

/// Why the store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{path} is open in another process; stop that one first")]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The disk refused.
    #[error("{path} cannot be opened: {reason}; check the disk and permissions")]
    Io {
        /// The database.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

/// A change is in memory and not on disk.
#[derive(Debug, thiserror::Error)]
#[error("records could not be written to disk and are in memory only: {0}; check the disk")]
pub struct PersistError(String);

impl PersistError {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// What opening found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenReport {
    /// Records loaded.
    pub loaded: usize,
    /// Rows dropped: expired, or over bounds that were lowered.
    pub dropped: usize,
    /// Rows dropped because they were malformed.
    pub malformed: usize,
    /// Where a damaged database was put.
    pub set_aside: Option<PathBuf>,
}

/// A verified record to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The record.
    pub record: StoredRecord,
    /// True when it must not be evicted.
    pub pinned: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct RecordStore {
    /// Taken before the policy's lock and held across the commit, so that the disk sees changes
    /// in the order in which they were made.
    database: Mutex<Handle>,
    policy: Mutex<RecordPolicy>,
    path: PathBuf,
    cache_bytes: usize,
    room: Room,
}

/// Whether there is room for a change on the disk of a path.
pub type Room = fn(&Path) -> io::Result<()>;

/// Closes without panicking: redb commits when it is closed, and may panic on damaged pages.
#[derive(Debug)]
struct Handle {
    /// `None` only while it is being dropped.
    database: Option<Database>,
    /// Memory has changes that the file has not: it is written anew with the next one.
    is_behind: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let database = self.database.take();
        // A panic here means damage; the next start sets the file aside.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }
}

/// Why a change was not written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("{0}")]
    Disk(String),
    #[error("{0}")]
    Damaged(String),
}

/// Why a database was not loaded.
enum LoadError {
    Open(OpenError),
    Damaged(String),
}

type Row = (StoredRecord, bool);

impl RecordStore {
    /// Opens or creates the store at `path`, for the node `own`; for `salt` see
    /// [`RecordPolicy::new`].
    ///
    /// # Errors
    /// [`OpenError`]: in use, or an I/O error. Damage is not an error.
    pub fn open(
        path: &Path,
        own: [u8; 32],
        salt: [u8; 16],
        limits: RecordLimits,
        now_unix_s: u64,
    ) -> Result<(Self, OpenReport), OpenError> {
        let mut report = OpenReport::default();
        let (database, rows) = match load(path, &limits, &mut report) {
            Ok(loaded) => loaded,
            Err(LoadError::Open(error)) => return Err(error),
            Err(LoadError::Damaged(reason)) => {
                let aside = set_aside(path)?;
                warn!(
                    path = %path.display(), aside = %aside.display(), reason,
                    "the record database is damaged and was set aside; starting empty, \
                     records come back as they are announced again"
                );
                report = OpenReport { set_aside: Some(aside), ..OpenReport::default() };
                load(path, &limits, &mut report).map_err(|error| match error {
                    LoadError::Open(error) => error,
                    LoadError::Damaged(reason) => OpenError::Io { path: path.into(), reason },
                })?
            }
        };
        let cache_bytes = limits.database_cache_bytes;
        let mut policy = RecordPolicy::new(own, salt, limits);
        let gone = fill(&mut policy, rows, now_unix_s);
        report.dropped = gone.len();
        report.loaded = policy.len();
        let (database, policy) = (Mutex::new(database), Mutex::new(policy));
        let room: Room = disk_room::check;
        let store = Self { database, policy, path: path.into(), cache_bytes, room };
        let removed = store.persist(&mut store.database(), Vec::new(), gone);
        removed.map_err(|error| OpenError::Io { path: path.into(), reason: error.to_string() })?;
        Ok((store, report))
    }

    /// The store on a disk that says otherwise whether it has room.
    #[must_use]
    pub fn with_room(self, room: Room) -> Self {
        Self { room, ..self }
    }

    // redb's own state survives a panic of ours (a transaction is dropped and so aborted).
    fn database(&self) -> MutexGuard<'_, Handle> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The policy does not panic half-way by construction; were it to, its records stay readable.
    fn policy(&self) -> MutexGuard<'_, RecordPolicy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits changes, or everything where an earlier change could not be. Where the database
    /// turns out to be damaged, it is set aside and written anew from memory, which has everything.
    fn persist(
        &self,
        database: &mut Handle,
        rows: Vec<Row>,
        gone: Vec<RecordId>,
    ) -> Result<(), PersistError> {
        if rows.is_empty() && gone.is_empty() && !database.is_behind {
            return Ok(());
        }
        let room = (self.room)(&self.path).map_err(|e| WriteError::Disk(e.to_string()));
        let written = room.and_then(|()| match database.is_behind {
            true => write(database, &self.everything()),
            false => write(database, &Change { is_all: false, rows, gone }),
        });
        database.is_behind = written.is_err();
        let reason = match written {
            Ok(()) => return Ok(()),
            Err(WriteError::Disk(reason)) => {
                error!(reason, "records could not be written to disk");
                return Err(PersistError(reason));
            }
            Err(WriteError::Damaged(reason)) => reason,
        };
        let aside = set_aside(&self.path).map_err(PersistError::new)?;
        warn!(
            path = %self.path.display(), aside = %aside.display(), reason,
            "the record database is damaged and was set aside; writing it anew from memory"
        );
        *database = create(&self.path, self.cache_bytes).map_err(PersistError::new)?;
        let written = write(database, &self.everything());
        database.is_behind = written.is_err();
        written.map_err(PersistError::new)
    }

    fn everything(&self) -> Change {
        let all: Vec<RecordId> = self.policy().records.keys().copied().collect();
        Change { is_all: true, rows: self.rows(&all), gone: Vec::new() }
    }

    /// Stores a batch with one commit; answers for each, in order.
    ///
    /// # Errors
    /// [`PersistError`]: what was accepted is in memory only.
    pub fn put(
        &self,
        batch: Vec<Delivery>,
        now_unix_s: u64,
    ) -> Result<Vec<Result<(), PutError>>, PersistError> {
        let mut database = self.database();
        let mut answers = Vec::with_capacity(batch.len());
        let (mut written, mut gone) = (Vec::new(), Vec::new());
        {
            let mut policy = self.policy();
            for Delivery { record, pinned } in batch {
                let id = record.id();
                let answer = policy.put(record, pinned, now_unix_s);
                answers.push(answer.map(|evicted| {
                    gone.extend(evicted);
                    written.push(id);
                }));
            }
        }
        // Rows are read again, since a later record of the batch may have evicted or replaced an
        // earlier one.
        let rows = self.rows(&written);
        self.persist(&mut database, rows, gone)?;
        Ok(answers)
    }

    fn rows(&self, ids: &[RecordId]) -> Vec<Row> {
        let policy = self.policy();
        let held = ids.iter().filter_map(|id| policy.records.get(id));
        held.map(|held| ((*held.record).clone(), held.pinned)).collect()
    }

    /// The living records under a key.
    pub fn get(&self, key: &RecordKey, now_unix_s: u64) -> Vec<Arc<StoredRecord>> {
        self.policy().get(key, now_unix_s)
    }

    /// Every record, in order of key.
    pub fn all(&self) -> Vec<Arc<StoredRecord>> {
        self.policy().records.values().map(|held| Arc::clone(&held.record)).collect()
    }

    /// The pinned records and the node's own.
    pub fn pinned(&self) -> Vec<Arc<StoredRecord>> {
        self.policy().pinned()
    }

    /// Pins a record: false when it is not here.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn pin(&self, id: &RecordId) -> Result<bool, PinError> {
        let mut database = self.database();
        let Some(record) = self.policy().pin(id)? else { return Ok(false) };
        self.persist(&mut database, vec![((*record).clone(), true)], Vec::new())?;
        Ok(true)
    }

    /// Unpins a record, which may then be evicted, at once if the store is full. False when it
    /// was not pinned or is the node's own.
    ///
    /// # Errors
    /// [`PersistError`].
    pub fn unpin(&self, id: &RecordId) -> Result<bool, PersistError> {
        let mut database = self.database();
        let Some(gone) = self.policy().unpin(id) else { return Ok(false) };
        let rows = self.rows(&[*id]);
        self.persist(&mut database, rows, gone)?;
        Ok(true)
    }

    /// Removes a record: true when it was here.
    ///
    /// # Errors
    /// [`PersistError`].
    pub fn remove(&self, id: &RecordId) -> Result<bool, PersistError> {
        let mut database = self.database();
        let was_here = self.policy().remove(id);
        if was_here {
            self.persist(&mut database, Vec::new(), vec![*id])?;
        }
        Ok(was_here)
    }

    /// Removes what has expired; returns how many records that were.
    ///
    /// # Errors
    /// [`PersistError`].
    pub fn sweep(&self, now_unix_s: u64) -> Result<usize, PersistError> {
        let mut database = self.database();
        let over = self.policy().sweep(now_unix_s);
        let count = over.len();
        self.persist(&mut database, Vec::new(), over)?;
        Ok(count)
    }

    /// Records held.
    pub fn len(&self) -> usize {
        self.policy().len()
    }

    /// True when none is held.
    pub fn is_empty(&self) -> bool {
        self.policy().is_empty()
    }

    /// Charged bytes of all records.
    pub fn total_bytes(&self) -> usize {
        self.policy().total_bytes()
    }
}

/// Why a record was not pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The bound on pinned records.
    #[error(transparent)]
    Full(#[from] PutError),
    /// The disk.
    #[error(transparent)]
    Persist(#[from] PersistError),
}

/// Puts rows into the policy; returns those that it did not keep.
fn fill(policy: &mut RecordPolicy, rows: Vec<Row>, now_unix_s: u64) -> Vec<RecordId> {
    let mut gone = Vec::new();
    for (record, pinned) in rows {
        let id = record.id();
        match policy.put(record, pinned, now_unix_s) {
            Ok(evicted) => gone.extend(evicted),
            Err(_) => gone.push(id),
        }
    }
    gone
}

/// What a transaction does: removals first, then rows.
struct Change {
    /// Whether `rows` are all that there is to be.
    is_all: bool,
    rows: Vec<Row>,
    gone: Vec<RecordId>,
}

fn write(handle: &Handle, change: &Change) -> Result<(), WriteError> {
    let Some(database) = &handle.database else { return Ok(()) };
    // A panic inside redb on a damaged page drops the transaction, which aborts it.
    match catch_unwind(AssertUnwindSafe(|| write_change(database, change))) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(redb::Error::Corrupted(reason))) => Err(WriteError::Damaged(reason)),
        Ok(Err(failed)) => Err(WriteError::Disk(failed.to_string())),
        Err(_) => Err(WriteError::Damaged("writing it panicked".to_owned())),
    }
}

fn write_change(database: &Database, change: &Change) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(RECORDS)?;
        if change.is_all {
            table.retain(|_, _| false)?;
        }
        for id in &change.gone {
            table.remove(row_key(id).as_slice())?;
        }
        for (record, pinned) in &change.rows {
            let value = row_value(record, *pinned);
            table.insert(row_key(&record.id()).as_slice(), value.as_slice())?;
        }
    }
    Ok(transaction.commit()?)
}

fn create(path: &Path, cache_bytes: usize) -> Result<Handle, DatabaseError> {
    let database = Database::builder().set_cache_size(cache_bytes).create(path)?;
    Ok(Handle { database: Some(database), is_behind: false })
}

fn load(
    path: &Path,
    limits: &RecordLimits,
    report: &mut OpenReport,
) -> Result<(Handle, Vec<Row>), LoadError> {
    // On pages that its checksums do not cover yet, redb may panic instead of failing.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let database = create(path, limits.database_cache_bytes);
        let database = database.map_err(|error| open_error(path, error))?;
        let Some(opened) = &database.database else { return Ok((database, Vec::new())) };
        let rows = read_rows(opened, report).map_err(|e| LoadError::Damaged(e.to_string()))?;
        Ok((database, rows))
    }));
    outcome.unwrap_or_else(|_| Err(LoadError::Damaged("reading it panicked".to_owned())))
}

fn open_error(path: &Path, error: DatabaseError) -> LoadError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            LoadError::Open(OpenError::InUse { path: path.into() })
        }
        DatabaseError::Storage(StorageError::Io(error))
            if !matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
            ) =>
        {
            LoadError::Open(OpenError::Io { path: path.into(), reason: error.to_string() })
        }
        damaged => LoadError::Damaged(damaged.to_string()),
    }
}

fn read_rows(database: &Database, report: &mut OpenReport) -> Result<Vec<Row>, redb::Error> {
    // Creates the table in a fresh database.
    let transaction = database.begin_write()?;
    transaction.open_table(RECORDS)?;
    transaction.commit()?;
    let mut rows = Vec::new();
    let mut malformed: Vec<Vec<u8>> = Vec::new();
    let table = database.begin_read()?.open_table(RECORDS)?;
    for row in table.iter()? {
        let (key, value) = row?;
        match from_row(key.value(), value.value()) {
            Some(row) => rows.push(row),
            None => malformed.push(key.value().to_vec()),
        }
    }
    report.malformed = malformed.len();
    if !malformed.is_empty() {
        warn!(rows = malformed.len(), "malformed rows were dropped from the record database");
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(RECORDS)?;
            for key in &malformed {
                table.remove(key.as_slice())?;
            }
        }
        transaction.commit()?;
    }
    Ok(rows)
}

/// Renames a damaged database to one fixed name: the latest is kept for whoever wants to look,
/// and repeated damage does not fill the disk.
fn set_aside(path: &Path) -> Result<PathBuf, OpenError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    let aside = PathBuf::from(aside);
    match fs::rename(path, &aside) {
        Ok(()) => Ok(aside),
        Err(error) => Err(OpenError::Io { path: path.into(), reason: error.to_string() }),
    }
}
