//! What this node promised and signed about placements, durable before anybody
//! is told of it.
//!
//! One redb file. A holder that forgot what it signed could sign twice, so a
//! file that cannot be read is set aside and this node abstains from voting on
//! what it held at that time.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

const BALLOTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("ballots_v1");
/// redb's page cache; its default is 1 GiB.
const CACHE_BYTES: usize = 4 << 20;

/// A ballot could not be kept or read.
#[derive(Debug, thiserror::Error)]
#[error("votes on placements in {path}: {reason}; check the disk", path = path.display())]
pub(super) struct BallotError {
    path: PathBuf,
    reason: String,
}

/// A change: the row's value, or none to forget it.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// The file.
#[derive(Debug)]
pub(super) struct Ballots {
    database: Database,
    path: PathBuf,
}

/// What opening found.
#[derive(Debug)]
pub(super) struct Opened {
    /// The file.
    pub(super) ballots: Ballots,
    /// All rows.
    pub(super) rows: Vec<(Vec<u8>, Vec<u8>)>,
    /// An unreadable file was set aside: what was signed is not known.
    pub(super) is_lost: bool,
}

impl Ballots {
    /// Opens or creates the file. Blocks on the disk.
    ///
    /// # Errors
    /// [`BallotError`] when not even a new one can be made.
    pub(super) fn open(path: &Path) -> Result<Opened, BallotError> {
        let failed = |reason: String| BallotError { path: path.to_owned(), reason };
        // redb may panic on damaged pages.
        let load = || catch_unwind(AssertUnwindSafe(|| load(path)));
        let reason = match load() {
            Ok(Ok((database, rows))) => {
                let ballots = Self { database, path: path.to_owned() };
                return Ok(Opened { ballots, rows, is_lost: false });
            }
            Ok(Err(reason)) => reason,
            Err(_) => "the file is damaged".to_owned(),
        };
        tracing::error!("{}: {reason}; it is set aside", path.display());
        fs::rename(path, path.with_extension("damaged")).map_err(|e| failed(e.to_string()))?;
        let (database, rows) = load().map_err(|_| failed("damaged".into()))?.map_err(failed)?;
        let ballots = Self { database, path: path.to_owned() };
        Ok(Opened { ballots, rows, is_lost: true })
    }

    /// Makes changes durable, all or none. Blocks on the disk.
    ///
    /// # Errors
    /// [`BallotError`]; nothing may be answered then.
    pub(super) fn write(&self, changes: &[Change]) -> Result<(), BallotError> {
        self.commit(changes)
            .map_err(|e| BallotError { path: self.path.clone(), reason: e.to_string() })
    }

    fn commit(&self, changes: &[Change]) -> Result<(), redb::Error> {
        crate::disk_room::check(&self.path).map_err(redb::Error::Io)?;
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(BALLOTS)?;
            for (key, value) in changes {
                match value {
                    Some(value) => table.insert(&key[..], &value[..])?,
                    None => table.remove(&key[..])?,
                };
            }
        }
        Ok(transaction.commit()?)
    }
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn load(path: &Path) -> Result<(Database, Rows), String> {
    let read = || -> Result<(Database, Rows), redb::Error> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let transaction = database.begin_write()?;
        transaction.open_table(BALLOTS)?;
        transaction.commit()?;
        let table = database.begin_read()?.open_table(BALLOTS)?;
        let mut rows = Rows::new();
        for row in table.iter()? {
            let (key, value) = row?;
            rows.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok((database, rows))
    };
    read().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ballots.redb");
        let opened = Ballots::open(&path).unwrap();
        assert!(opened.rows.is_empty() && !opened.is_lost);
        let row = |key: &[u8], value: &[u8]| (key.to_vec(), Some(value.to_vec()));
        opened.ballots.write(&[row(b"a", b"1"), row(b"b", b"2")]).unwrap();
        opened.ballots.write(&[(b"a".to_vec(), None), row(b"b", b"3")]).unwrap();
        drop(opened);
        let again = Ballots::open(&path).unwrap();
        assert_eq!(again.rows, [(b"b".to_vec(), b"3".to_vec())]);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_said_to_be_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ballots.redb");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let opened = Ballots::open(&path).unwrap();
        assert!(opened.is_lost && opened.rows.is_empty());
        assert!(path.with_extension("damaged").exists());
    }
}
