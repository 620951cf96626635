//! Kept texts by the root key that they are sealed under, and their replacement.

use super::{COLUMNS, Keeper, PayloadRow, Payloads, row};
use crate::error::StoreError;
use crate::sealed::RootName;
use crate::sql::{Count, int, limit};

impl Payloads {
    /// Texts that are sealed under this root key, beginning after `after`, at most `most`. What was queued before is among them.
    ///
    /// # Errors
    /// The store's.
    pub async fn sealed_rows(&self, root: RootName, after: u64, most: usize) -> Result<Vec<PayloadRow>, StoreError> {
        self.ask(move |keeper| {
            let sql = format!("{COLUMNS} WHERE id > ?1 AND substr(sealed, 5, 8) = ?2 ORDER BY id LIMIT ?3");
            let mut statement = keeper.conn.prepare_cached(&sql)?;
            let rows = statement.query_map((int(after), root.as_slice(), limit(most)), row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// How many texts are sealed under this root key.
    ///
    /// # Errors
    /// The store's.
    pub async fn sealed_under(&self, root: RootName) -> Result<u64, StoreError> {
        self.ask(move |keeper: &mut Keeper| {
            let sql = "SELECT count(*) FROM payloads WHERE substr(sealed, 5, 8) = ?1";
            Ok(keeper.conn.prepare_cached(sql)?.query_row([root.as_slice()], |r| r.get::<_, Count>(0))?.0)
        })
        .await
    }

    /// Puts texts that were sealed anew in the place of those that were read, where these still stand. Durable when it returns.
    ///
    /// # Errors
    /// The store's.
    pub async fn reseal(&self, rows: Vec<(PayloadRow, Vec<u8>)>) -> Result<usize, StoreError> {
        self.ask(move |keeper| {
            let transaction = keeper.conn.unchecked_transaction()?;
            let mut changed = 0usize;
            {
                let mut update = transaction.prepare_cached("UPDATE payloads SET sealed = ?3 WHERE id = ?1 AND sealed = ?2")?;
                for (was, anew) in &rows {
                    changed = changed.saturating_add(update.execute((int(was.id), &was.sealed, anew))?);
                }
            }
            transaction.commit()?;
            Ok(changed)
        })
        .await
    }

    /// Writes the log back into the file, so that it holds no page as it was before.
    ///
    /// # Errors
    /// `Unavailable` while somebody else reads: to be repeated.
    pub async fn cut_log(&self) -> Result<(), StoreError> {
        self.ask(|keeper| keeper.cut_log()).await
    }
}
