//! Reading the ledger: entries and leaves by index, by call and by task.

use std::ops::Range;

use bailiwick_core::{CallId, TaskId};
use rusqlite::{Connection, Row};

use crate::entry::EntryRow;
use crate::error::StoreError;
use crate::index::{Counted, Found, Search, Tally, Window};
use crate::sql::{Count, int};
use crate::store::Store;

const COLUMNS: &str = "SELECT idx, kind, task, call, closes, leaf, body FROM entries";

impl Store {
    /// One entry. `None` beyond the head.
    ///
    /// # Errors
    /// The store's.
    pub async fn entry(&self, index: u64) -> Result<Option<EntryRow>, StoreError> {
        Ok(self.entries(index..index.saturating_add(1)).await?.pop())
    }

    /// The entries of a range, in order, as far as they are durable. Ask for pieces that fit in memory.
    ///
    /// # Errors
    /// The store's.
    pub async fn entries(&self, range: Range<u64>) -> Result<Vec<EntryRow>, StoreError> {
        // What is ahead is looked at first: whatever is not there any more by then, the database has.
        let (size, mut ahead) = self.inner.database.ahead.entries(&range);
        let range = range.start..range.end.min(size);
        if range.start.saturating_add(u64::try_from(ahead.len()).unwrap_or(u64::MAX)) >= range.end {
            return Ok(ahead);
        }
        let mut rows = self.read(move |conn| entries_in(conn, range)).await?;
        if !ahead.is_empty() {
            rows.append(&mut ahead);
            rows.sort_by_key(|row| row.index);
            rows.dedup_by_key(|row| row.index);
        }
        Ok(rows)
    }

    /// The newest entries, newest first, at most `most`.
    ///
    /// # Errors
    /// The store's.
    pub async fn entries_newest(&self, most: usize) -> Result<Vec<EntryRow>, StoreError> {
        let size = self.inner.database.ahead.size();
        let mut rows = self.entries(size.saturating_sub(u64::try_from(most).unwrap_or(u64::MAX))..size).await?;
        rows.reverse();
        Ok(rows)
    }

    /// The leaf hashes of a range, in order, as far as they are durable.
    ///
    /// # Errors
    /// The store's.
    pub async fn leaves(&self, range: Range<u64>) -> Result<Vec<[u8; 32]>, StoreError> {
        let (size, mut ahead) = self.inner.database.ahead.leaves(&range);
        let to = range.end.min(size);
        let mut rows = self
            .read(move |conn| {
                let mut statement = conn.prepare_cached("SELECT idx, leaf FROM entries WHERE idx >= ?1 AND idx < ?2 ORDER BY idx")?;
                let rows = statement.query_map([int(range.start), int(to)], |r| Ok((r.get::<_, Count>(0)?.0, r.get(1)?)))?;
                Ok(rows.collect::<Result<Vec<(u64, [u8; 32])>, _>>()?)
            })
            .await?;
        if !ahead.is_empty() {
            rows.append(&mut ahead);
            rows.sort_by_key(|(index, _)| *index);
            rows.dedup_by_key(|(index, _)| *index);
        }
        Ok(rows.into_iter().map(|(_, leaf)| leaf).collect())
    }

    /// The index of a call's intent, or of its first entry if it was never permitted.
    ///
    /// # Errors
    /// The store's.
    pub async fn index_of_call(&self, call: CallId) -> Result<Option<u64>, StoreError> {
        Ok(self.inner.index.entries_of_call(call).await?.first().copied())
    }

    /// Every entry of a call, in order.
    ///
    /// # Errors
    /// The store's.
    pub async fn entries_of_call(&self, call: CallId) -> Result<Vec<EntryRow>, StoreError> {
        let mut indexes = self.inner.index.entries_of_call(call).await?;
        indexes.sort_unstable();
        self.entries_at(indexes).await
    }

    /// The entries of a task from index `from` on, in order, at most `most`.
    ///
    /// # Errors
    /// The store's.
    pub async fn entries_of_task(&self, task: TaskId, from: u64, most: usize) -> Result<Vec<EntryRow>, StoreError> {
        let indexes = self.inner.index.entries_of_task(task, from, most).await?;
        self.entries_at(indexes).await
    }

    /// The entries that are asked for, newest first. Each is held against the question once more by its own words, so that an index
    /// that was tampered with can leave out and never put in.
    ///
    /// # Errors
    /// The store's.
    pub async fn search(&self, search: Search) -> Result<Found, StoreError> {
        self.inner.index.search(search).await
    }

    /// How often the values of some fields were said in two stretches of time.
    ///
    /// # Errors
    /// The store's.
    pub async fn tally(&self, tally: Tally) -> Result<(Window, Vec<Vec<Counted>>), StoreError> {
        self.inner.index.tally(tally).await
    }

    /// Throws the index away and makes it anew from the ledger, for whoever does not trust it. Gives the number of entries in it.
    ///
    /// # Errors
    /// The store's.
    pub async fn rebuild_index(&self) -> Result<u64, StoreError> {
        self.inner.index.rebuild().await
    }

    async fn entries_at(&self, indexes: Vec<u64>) -> Result<Vec<EntryRow>, StoreError> {
        self.read(move |conn| {
            let mut statement = conn.prepare_cached(&format!("{COLUMNS} WHERE idx = ?1"))?;
            indexes.into_iter().map(|index| Ok(statement.query_row([int(index)], row)?)).collect()
        })
        .await
    }
}

/// The entries of a range, in order, as far as they are durable.
pub(crate) fn entries_in(conn: &Connection, range: Range<u64>) -> Result<Vec<EntryRow>, StoreError> {
    let mut statement = conn.prepare_cached(&format!("{COLUMNS} WHERE idx >= ?1 AND idx < ?2 ORDER BY idx"))?;
    let rows = statement.query_map([int(range.start), int(range.end)], row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn row(r: &Row<'_>) -> rusqlite::Result<EntryRow> {
    Ok(EntryRow {
        index: r.get::<_, Count>(0)?.0,
        kind: r.get(1)?,
        task: r.get::<_, Option<[u8; 16]>>(2)?.map(TaskId::from_bytes),
        call: r.get::<_, Option<[u8; 16]>>(3)?.map(CallId::from_bytes),
        closes: r.get::<_, Option<Count>>(4)?.map(|c| c.0),
        leaf: r.get(5)?,
        body: r.get(6)?,
    })
}
