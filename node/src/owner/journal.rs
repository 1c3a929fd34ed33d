//! The journal of a publish under way: what was decided for each segment,
//! written before its first shard leaves, so that a publish that was cut off
//! goes on with the same segments and leases.

use echonet_protocol::{content_id::ContentId, segment::SegmentId};
use redb::ReadableDatabase;

use super::{
    catalog::{Catalog, CatalogError, JOURNAL, from_row, to_row},
    rows::{JournalKey, RecipeRow},
};

impl Catalog {
    /// Writes a recipe, durably.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put_recipe(&self, key: JournalKey, row: &RecipeRow) -> Result<(), CatalogError> {
        let tx = self.begin_write()?;
        tx.open_table(JOURNAL)?.insert(&key.to_bytes(), to_row(row).as_slice())?;
        Ok(tx.commit()?)
    }

    /// Every recipe of a content's publish.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn recipes(
        &self,
        content: &ContentId,
    ) -> Result<Vec<(SegmentId, RecipeRow)>, CatalogError> {
        let table = self.db.begin_read()?.open_table(JOURNAL)?;
        let bound =
            |fill| JournalKey { content: *content, segment: SegmentId([fill; 32]) }.to_bytes();
        let mut recipes = Vec::new();
        for entry in table.range::<&[u8; 64]>(&bound(0)..=&bound(0xff))? {
            let (key, row) = entry?;
            let mut segment = [0; 32];
            segment.copy_from_slice(&key.value()[32..]);
            recipes.push((SegmentId(segment), from_row("journal", row.value())?));
        }
        Ok(recipes)
    }

    /// Removes one recipe: its segment cannot be made again.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn drop_recipe(&self, key: JournalKey) -> Result<(), CatalogError> {
        let tx = self.begin_write()?;
        tx.open_table(JOURNAL)?.remove(&key.to_bytes())?;
        Ok(tx.commit()?)
    }

    /// Removes a content's recipes: its publish is complete.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn drop_journal(&self, content: &ContentId) -> Result<(), CatalogError> {
        let keys: Vec<_> = self.recipes(content)?.into_iter().map(|(segment, _)| segment).collect();
        let tx = self.begin_write()?;
        {
            let mut table = tx.open_table(JOURNAL)?;
            for segment in keys {
                table.remove(&JournalKey { content: *content, segment }.to_bytes())?;
            }
        }
        Ok(tx.commit()?)
    }
}
