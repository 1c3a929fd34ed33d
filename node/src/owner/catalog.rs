//! The owner's catalog on disk: one redb file, every change durable when the
//! call returns.

use std::path::{Path, PathBuf};

use echonet_protocol::{
    bytes::ChunkHash, content_id::ContentId, identity::NodeId, segment::SegmentId,
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};

use super::rows::{ChunkRow, EndingRow, SegmentRow, WorkRow};
use crate::disk_room;

const WORKS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("works");
const SEGMENTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("segments");
const ENDINGS: TableDefinition<'_, &[u8; 64], &[u8]> = TableDefinition::new("endings");
const CHUNKS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("chunks");
pub(super) const JOURNAL: TableDefinition<'_, &[u8; 64], &[u8]> = TableDefinition::new("journal");
/// redb's page cache; its default is 1 GiB.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Why the catalog could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file cannot be opened.
    #[error(
        "the catalog {path} cannot be opened: {source}; move the file away to start with an empty \
         one (published works stay in the network)"
    )]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: redb::DatabaseError,
    },
    /// A read or write failed.
    #[error("the catalog failed: {0}; check the disk, then try again")]
    Storage(#[from] redb::Error),
    /// A row does not decode.
    #[error("a row of the catalog's table {table} is damaged: {reason}")]
    Damaged {
        /// Which table.
        table: &'static str,
        /// The decoder's words.
        reason: String,
    },
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for CatalogError {
            fn from(e: $error) -> Self {
                Self::Storage(e.into())
            }
        }
    )*};
}
from_redb!(redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

/// An owner's works, leased segments and known chunks.
#[derive(Debug)]
pub struct Catalog {
    pub(super) db: Database,
    path: PathBuf,
}

pub(super) fn to_row<T: Serialize>(row: &T) -> Vec<u8> {
    echonet_protocol::message::encode(row)
}

pub(super) fn from_row<T: DeserializeOwned>(
    table: &'static str,
    bytes: &[u8],
) -> Result<T, CatalogError> {
    postcard::from_bytes(bytes).map_err(|e| CatalogError::Damaged { table, reason: e.to_string() })
}

/// Holder, then lease.
fn ending_key(node: &NodeId, row: &EndingRow) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(&node.0);
    key[32..].copy_from_slice(&row.end.body.lease.0);
    key
}

impl Catalog {
    /// Opens or creates the catalog file.
    ///
    /// # Errors
    /// [`CatalogError::Open`] when it is not a catalog or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        let open = |source| CatalogError::Open { path: path.to_owned(), source };
        let db = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(open)?;
        let tx = db.begin_write()?;
        tx.open_table(WORKS)?;
        tx.open_table(SEGMENTS)?;
        tx.open_table(CHUNKS)?;
        tx.open_table(JOURNAL)?;
        tx.open_table(ENDINGS)?;
        tx.commit()?;
        Ok(Self { db, path: path.to_owned() })
    }

    /// Begins a change, where the disk has room for one.
    pub(super) fn begin_write(&self) -> Result<WriteTransaction, CatalogError> {
        disk_room::check(&self.path).map_err(redb::Error::Io)?;
        Ok(self.db.begin_write()?)
    }

    /// A work, if this owner knows it.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn work(&self, content: &ContentId) -> Result<Option<WorkRow>, CatalogError> {
        let table = self.db.begin_read()?.open_table(WORKS)?;
        let row = table.get(content.as_bytes())?;
        row.map(|row| from_row("works", row.value())).transpose()
    }

    /// Every work, in order of ContentID.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn works(&self) -> Result<Vec<(ContentId, WorkRow)>, CatalogError> {
        let table = self.db.begin_read()?.open_table(WORKS)?;
        let mut works = Vec::new();
        for entry in table.iter()? {
            let (key, row) = entry?;
            works.push((ContentId::new(*key.value()), from_row("works", row.value())?));
        }
        Ok(works)
    }

    /// Writes a work, durably.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put_work(&self, content: &ContentId, row: &WorkRow) -> Result<(), CatalogError> {
        let tx = self.begin_write()?;
        tx.open_table(WORKS)?.insert(content.as_bytes(), to_row(row).as_slice())?;
        Ok(tx.commit()?)
    }

    /// A leased segment.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn segment(&self, segment: &SegmentId) -> Result<Option<SegmentRow>, CatalogError> {
        let table = self.db.begin_read()?.open_table(SEGMENTS)?;
        let row = table.get(&segment.0)?;
        row.map(|row| from_row("segments", row.value())).transpose()
    }

    /// Writes leased segments, durably and together.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put_segments(&self, rows: &[(SegmentId, SegmentRow)]) -> Result<(), CatalogError> {
        let tx = self.begin_write()?;
        {
            let mut table = tx.open_table(SEGMENTS)?;
            for (segment, row) in rows {
                table.insert(&segment.0, to_row(row).as_slice())?;
            }
        }
        Ok(tx.commit()?)
    }

    /// Forgets segments that are no longer leased, and every chunk in them.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn forget_segments(&self, segments: &[SegmentId]) -> Result<(), CatalogError> {
        let tx = self.begin_write()?;
        {
            let mut table = tx.open_table(SEGMENTS)?;
            for segment in segments {
                table.remove(&segment.0)?;
            }
            let gone: std::collections::BTreeSet<_> = segments.iter().collect();
            let mut damaged = None;
            tx.open_table(CHUNKS)?.retain(|_, row| match from_row::<ChunkRow>("chunks", row) {
                Ok(chunk) => !gone.contains(&chunk.segment),
                Err(e) => {
                    damaged = Some(e);
                    true
                }
            })?;
            if let Some(e) = damaged {
                return Err(e);
            }
        }
        Ok(tx.commit()?)
    }

    /// Remembers which holders have to be told that leases are over, durably and together.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put_endings(&self, rows: &[(NodeId, EndingRow)]) -> Result<(), CatalogError> {
        if rows.is_empty() {
            return Ok(());
        }
        let tx = self.begin_write()?;
        {
            let mut table = tx.open_table(ENDINGS)?;
            for (node, row) in rows {
                table.insert(&ending_key(node, row), to_row(row).as_slice())?;
            }
        }
        Ok(tx.commit()?)
    }

    /// Whom to tell of which leases, in order of NodeID.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn endings(&self) -> Result<Vec<(NodeId, EndingRow)>, CatalogError> {
        let table = self.db.begin_read()?.open_table(ENDINGS)?;
        let mut endings = Vec::new();
        for entry in table.iter()? {
            let (key, row) = entry?;
            let mut node = [0; 32];
            node.copy_from_slice(&key.value()[..32]);
            endings.push((NodeId(node), from_row("endings", row.value())?));
        }
        Ok(endings)
    }

    /// Forgets what was told, or is over.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn drop_endings(&self, rows: &[(NodeId, EndingRow)]) -> Result<(), CatalogError> {
        if rows.is_empty() {
            return Ok(());
        }
        let tx = self.begin_write()?;
        {
            let mut table = tx.open_table(ENDINGS)?;
            for (node, row) in rows {
                table.remove(&ending_key(node, row))?;
            }
        }
        Ok(tx.commit()?)
    }

    /// Where a chunk lies, if this owner stored it before.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn chunk(&self, chunk: &ChunkHash) -> Result<Option<ChunkRow>, CatalogError> {
        let table = self.db.begin_read()?.open_table(CHUNKS)?;
        let row = table.get(&chunk.0)?;
        row.map(|row| from_row("chunks", row.value())).transpose()
    }

    /// Remembers where chunks lie.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put_chunks(&self, rows: &[(ChunkHash, ChunkRow)]) -> Result<(), CatalogError> {
        let tx = self.begin_write()?;
        {
            let mut table = tx.open_table(CHUNKS)?;
            for (chunk, row) in rows {
                table.insert(&chunk.0, to_row(row).as_slice())?;
            }
        }
        Ok(tx.commit()?)
    }
}
