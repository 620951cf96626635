//! Pruning: the bodies of old entries go, their leaf hashes stay, so that the tree, its proofs and the verification of all the rest go on
//! (C2SP tlog-tiles, section Pruning: the minimum index). What is still open is never touched.

use bailiwick_core::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use crate::entry::Entry;
use crate::error::StoreError;
use crate::sql::{Count, int, limit};
use crate::store::Store;
use crate::writing::Writing;

/// The minimum index is a multiple of this: bundles of entries go whole.
pub const BUNDLE: u64 = 256;
/// Bodies that are taken out in one transaction.
const STEP: u64 = 2048;
/// Kinds whose bodies stay: the seams between shards, and what says that the others were pruned.
const STAYS: &str = "('shard', 'pruned')";

/// How far the ledger can be pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prunable {
    /// The first entry that has its body now.
    pub from: u64,
    /// The first one that would have.
    pub to: u64,
    /// What keeps it from going as far as age alone would allow.
    pub held_by: Option<HeldBy>,
}

/// What keeps entries from being pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// A task that is not closed.
    OpenTask,
    /// A call whose outcome is not on record.
    OpenCall,
    /// The caller's own bound: somebody has not got the entries yet.
    Bound,
}

impl HeldBy {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::OpenTask => "a task that is still open",
            Self::OpenCall => "a call whose outcome is not on record",
            Self::Bound => "an export or publication that has not got the entries yet",
        }
    }
}

impl Writing<'_> {
    /// Puts on record that the bodies of all entries before `minimum` go. They are out of reach from here on, and go by
    /// [`Store::prune_on`]. Gives the entry's index.
    ///
    /// # Errors
    /// `Conflict` if that is no step forward, no multiple of [`BUNDLE`], or touches what is open.
    pub fn prune(&mut self, entry: Entry, minimum: u64) -> Result<u64, StoreError> {
        let from = minimum_of(self.conn)?;
        let settled = self.state.settled(self.state.size);
        if minimum <= from || !minimum.is_multiple_of(BUNDLE) || minimum > settled {
            return Err(StoreError::conflict("the ledger cannot be pruned up to there"));
        }
        let index = self.append(entry)?;
        self.conn.prepare_cached("UPDATE pruned SET minimum = ?1 WHERE id = 0")?.execute([int(minimum)])?;
        Ok(index)
    }

    /// Takes out some of the bodies that were pruned. Says whether there are more. The last one counts as still there until
    /// [`Store::pruned_done`], so that a start after a crash takes everything up again that follows from a pruning.
    fn prune_step(&self) -> Result<bool, StoreError> {
        let (minimum, done) = self
            .conn
            .prepare_cached("SELECT minimum, done FROM pruned WHERE id = 0")?
            .query_row([], |r| Ok((r.get::<_, Count>(0)?.0, r.get::<_, Count>(1)?.0)))?;
        if done >= minimum {
            return Ok(false);
        }
        let to = minimum.min(done.saturating_add(STEP));
        self.conn
            .prepare_cached(&format!("UPDATE entries SET body = x'' WHERE idx >= ?1 AND idx < ?2 AND kind NOT IN {STAYS}"))?
            .execute((int(done), int(to)))?;
        self.conn.prepare_cached("UPDATE pruned SET done = ?1 WHERE id = 0")?.execute([int(to.min(minimum.saturating_sub(1)))])?;
        Ok(to < minimum)
    }

    /// Forgets tasks that were over before a time, with their held calls, unless something else still refers to them. Only those whose
    /// entries were pruned. At most `most`; gives how many it were.
    fn forget_rows(&self, before: Timestamp, most: usize) -> Result<usize, StoreError> {
        let mut statement = self.conn.prepare_cached("SELECT id FROM tasks WHERE state = 'closed' AND expires_at < ?1 ORDER BY id LIMIT ?2")?;
        let rows = statement.query_map((before.as_millis(), limit(most)), |r| r.get::<_, [u8; 16]>(0))?;
        let tasks: Vec<[u8; 16]> = rows.collect::<Result<_, _>>()?;
        for task in &tasks {
            for sql in [
                "DELETE FROM results WHERE hold IN (SELECT id FROM holds WHERE task = ?1)",
                "DELETE FROM holds WHERE task = ?1",
                "DELETE FROM salts WHERE task = ?1",
                "DELETE FROM tasks WHERE id = ?1",
            ] {
                self.conn.prepare_cached(sql)?.execute([task])?;
            }
        }
        Ok(tasks.len())
    }
}

impl Store {
    /// The first entry that has its body. All before it are pruned: their leaf hashes are all that is left of them.
    ///
    /// # Errors
    /// The store's.
    pub async fn minimum(&self) -> Result<u64, StoreError> {
        self.read(minimum_of).await
    }

    /// How far the ledger can be pruned so that every entry from `before` on is kept, and everything from `bound` on.
    ///
    /// # Errors
    /// The store's.
    pub async fn prunable(&self, before: Timestamp, bound: u64) -> Result<Prunable, StoreError> {
        // As the writer knows it: the row in `head` may be far behind. What is settled only grows, and a task that is closed stays so:
        // both are at least as far when it is done.
        let (size, settled) = self.write(|w| Ok((w.state.size, w.state.settled(w.state.size)))).await?;
        self.read_all(move |conn| {
            let from = minimum_of(conn)?;
            let first = |sql: &str, value: &dyn rusqlite::ToSql| -> Result<Option<u64>, StoreError> {
                let found =
                    conn.prepare_cached(sql)?.query_row(rusqlite::params![int(from), int(size), value], |r| r.get::<_, Count>(0)).optional()?;
                Ok(found.map(|c| c.0))
            };
            // An entry that does not say when it was is kept.
            let young = first(
                "SELECT idx FROM entries WHERE idx >= ?1 AND idx < ?2 AND coalesce(CASE WHEN json_valid(CAST(body AS TEXT)) THEN
                 json_extract(CAST(body AS TEXT), '$.at') END, '9999') >= ?3 ORDER BY idx LIMIT 1",
                &before.to_string(),
            )?;
            let by_age = young.unwrap_or(size);
            let open = first(
                "SELECT idx FROM entries WHERE idx >= ?1 AND idx < ?2 AND task IN (SELECT id FROM tasks WHERE state <> ?3) ORDER BY idx LIMIT 1",
                &"closed",
            )?;
            let bounds = [(open, HeldBy::OpenTask), (Some(settled), HeldBy::OpenCall), (Some(bound), HeldBy::Bound)];
            let (mut to, mut held_by) = (by_age, None);
            for (at, why) in bounds {
                if let Some(at) = at.filter(|at| *at < to) {
                    (to, held_by) = (at, Some(why));
                }
            }
            let to = to.saturating_sub(to % BUNDLE).max(from);
            Ok(Prunable { from, to, held_by })
        })
        .await
    }

    /// Takes out the bodies that were pruned and are still there, step by step, so that calls pass in between. To be called again after
    /// a crash. Says whether there was anything to do; then the log and the index are the caller's to clean before
    /// [`pruned_done`](Self::pruned_done).
    ///
    /// # Errors
    /// The store's.
    pub async fn prune_on(&self) -> Result<bool, StoreError> {
        let due = |conn: &Connection| Ok(conn.query_row("SELECT done < minimum FROM pruned WHERE id = 0", [], |r| r.get(0))?);
        // What is pruned stands in the database: whoever follows the journal must not put it there afterwards.
        if !self.read_all(due).await? {
            return Ok(false);
        }
        while self.write(|w| w.prune_step()).await? {}
        Ok(true)
    }

    /// Says that nothing is left of what was pruned: not in the database, its log, or the index.
    ///
    /// # Errors
    /// The store's.
    pub async fn pruned_done(&self) -> Result<(), StoreError> {
        self.write(|w| {
            w.conn.prepare_cached("UPDATE pruned SET done = minimum WHERE id = 0 AND done >= minimum - 1")?.execute([])?;
            Ok(())
        })
        .await
    }

    /// Forgets tasks, and their held calls, that were over before a time. Gives how many it were.
    ///
    /// # Errors
    /// The store's.
    pub async fn forget_tasks_before(&self, before: Timestamp) -> Result<usize, StoreError> {
        const AT_ONCE: usize = 200;
        let mut gone = 0usize;
        loop {
            let step = self.write(move |w| w.forget_rows(before, AT_ONCE)).await?;
            gone = gone.saturating_add(step);
            if step < AT_ONCE {
                return Ok(gone);
            }
        }
    }
}

fn minimum_of(conn: &Connection) -> Result<u64, StoreError> {
    Ok(conn.prepare_cached("SELECT minimum FROM pruned WHERE id = 0")?.query_row([], |r| r.get::<_, Count>(0))?.0)
}

#[cfg(test)]
mod tests;
