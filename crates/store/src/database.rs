//! The connection that writes the database, for the writer and for the thread by which the database follows the journal: one at a time.
//!
//! Every transaction is durable when it is committed. What follows the journal says in the same transaction up to which place of it the
//! database has everything: that part of the journal is free from then on.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use crate::ahead::{Ahead, Anchor, Recorded};
use crate::backfill::Backfill;
use crate::error::{Reason, StoreError};
use crate::journal::Record;
use crate::reserve::Reserve;
use crate::sql::{Count, int};
use crate::writing::Pending;

/// Bytes of entries that follow in one transaction. The disk is busy with it for less than a batch of calls takes: they hardly wait for it.
const STEP_BYTES: usize = 256 << 10;
/// Who follows leaves the connection alone for this long if somebody wants it.
const LET_GO: Duration = Duration::from_micros(200);

pub(crate) struct Database {
    /// `None` after the end.
    base: Mutex<Option<Base>>,
    /// How many want the connection for a change: who follows lets go.
    wanted: AtomicUsize,
    pub(crate) ahead: Ahead,
    /// The journal before this place is free.
    followed: AtomicU64,
    /// The entries that the anchor in the database counts.
    anchored: AtomicU64,
    /// The disk is full: nobody follows, so that what is left of it is for others.
    paused: AtomicBool,
}

struct Base {
    conn: Connection,
    backfill: Backfill,
}

impl Database {
    pub(crate) fn new(conn: Connection, backfill: Backfill, ahead: Ahead, followed: u64, anchored: u64) -> Self {
        Self {
            base: Mutex::new(Some(Base { conn, backfill })),
            wanted: AtomicUsize::new(0),
            ahead,
            followed: AtomicU64::new(followed),
            anchored: AtomicU64::new(anchored),
            paused: AtomicBool::new(false),
        }
    }

    fn base(&self) -> MutexGuard<'_, Option<Base>> {
        self.base.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, as soon as who follows lets go of it.
    fn wanted(&self) -> MutexGuard<'_, Option<Base>> {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        let base = self.base();
        self.wanted.fetch_sub(1, Ordering::Relaxed);
        base
    }

    /// The journal before this place is free.
    pub(crate) fn followed(&self) -> u64 {
        self.followed.load(Ordering::Acquire)
    }

    /// The entries that the anchor in the database counts.
    pub(crate) fn anchored(&self) -> u64 {
        self.anchored.load(Ordering::Acquire)
    }

    /// Lets the database have everything that the journal has now.
    ///
    /// # Errors
    /// The database's; what it has not stays ahead.
    pub(crate) fn catch_up(&self) -> Result<(), StoreError> {
        self.follow_to(u64::MAX)
    }

    /// Lets the database have what the journal has before this place, and perhaps more.
    ///
    /// # Errors
    /// The database's; what it has not stays ahead.
    pub(crate) fn follow_to(&self, place: u64) -> Result<(), StoreError> {
        let end = self.ahead.end();
        while let Some(end) = end.filter(|end| self.followed() < place.min(*end)) {
            self.step(self.wanted().as_mut(), end, false)?;
        }
        Ok(())
    }

    /// From now on nobody follows, or may again.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
    }

    /// Lets the database have everything, and closes it.
    pub(crate) fn close(&self) {
        self.pause(false);
        let caught_up = self.catch_up();
        if let Err(error) = &caught_up {
            tracing::warn!(error.code = error.code().slug(), %error, "the rest stays in the journal, for the next start");
        }
        self.ahead.close();
        if let Some(base) = self.wanted().take() {
            if caught_up.is_ok()
                && let Err(error) = crate::bond::release(&base.conn)
            {
                tracing::debug!(%error, "the next start looks for the journal, although it has nothing that the database has not");
            }
            // So that the database's own file has everything, whoever closes it last: one that only reads leaves the log as it is.
            if let Err(error) = base.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
                tracing::debug!(%error, "the log was not written back at the end");
            }
        }
    }

    /// Nobody follows while this goes on.
    #[cfg(test)]
    pub(crate) fn while_held(&self, work: impl FnOnce()) {
        let _base = self.base();
        work();
    }

    #[cfg(test)]
    pub(crate) fn with_conn(&self, work: impl FnOnce(&Connection)) {
        if let Some(base) = self.base().as_ref() {
            work(&base.conn);
        }
    }

    /// A step of somebody who came too late.
    #[cfg(test)]
    pub(crate) fn step_late(&self) -> Result<(), StoreError> {
        self.step(self.wanted().as_mut(), u64::MAX, false)
    }

    /// The thread by which the database follows the journal, until nothing comes any more.
    pub(crate) fn run(&self) {
        while self.ahead.wait() {
            let Some(end) = self.ahead.end() else { continue };
            while self.followed() < end {
                if self.wanted.load(Ordering::Relaxed) > 0 {
                    std::thread::sleep(LET_GO);
                }
                if let Err(error) = self.step(self.base().as_mut(), end, true) {
                    tracing::warn!(error.code = error.code().slug(), %error, "the database could not follow the journal yet");
                    break;
                }
            }
        }
    }

    /// One transaction of batches from the journal, up to `end`. Cut short if it is `polite` and somebody wants the connection.
    fn step(&self, base: Option<&mut Base>, end: u64, polite: bool) -> Result<(), StoreError> {
        let Some(base) = base else { return Err(StoreError::Closed) };
        let batches = self.ahead.oldest(STEP_BYTES);
        if batches.is_empty() {
            // Somebody else was here in the meantime. A failure now would be one that nothing clears.
            return Ok(());
        }
        if self.paused.load(Ordering::Acquire) {
            let error = Reserve::refusal();
            self.ahead.failed(&error);
            return Err(error);
        }
        let done = transaction(&base.conn, || {
            let mut done = Done { end: stored_place(&base.conn)?, ..Done::default() };
            for batch in batches.iter().take_while(|batch| batch.end <= end) {
                if polite && done.entries > 0 && self.wanted.load(Ordering::Relaxed) > 0 {
                    break;
                }
                // A commit whose failure was reported may have reached the disk.
                if batch.end > done.end {
                    insert(&base.conn, batch.first, &batch.entries, &batch.leaves, &batch.note)?;
                    done.take(batch);
                }
            }
            let anchor = batches.iter().filter(|batch| batch.end <= done.end).filter_map(|batch| batch.anchor.as_ref()).next_back();
            if let Some(anchor) = anchor
                && anchor.size > stored_anchor(&base.conn)?
            {
                anchor.write(&base.conn)?;
            }
            set_place(&base.conn, done.end, done.dense)?;
            done.anchored = stored_anchor(&base.conn)?;
            Ok(done)
        });
        match done {
            Ok(done) => {
                base.backfill.wrote(done.entries, done.bytes);
                self.anchored.fetch_max(done.anchored, Ordering::AcqRel);
                self.followed.fetch_max(done.end, Ordering::AcqRel);
                self.ahead.followed(done.end);
                Ok(())
            }
            Err(error) => {
                self.ahead.failed(&error);
                Err(error)
            }
        }
    }
}

/// What one step did.
#[derive(Default)]
struct Done {
    end: u64,
    /// The database has every entry before this one. 0: as before.
    dense: u64,
    entries: usize,
    bytes: usize,
    anchored: u64,
}

impl Done {
    fn take(&mut self, batch: &Recorded) {
        self.end = batch.end;
        self.dense = batch.last();
        self.entries = self.entries.saturating_add(batch.entries.len());
        self.bytes = batch.entries.iter().fold(self.bytes, |n, e| n.saturating_add(e.body.len()));
    }
}

/// The connection as the writer has it during one batch: taken when the first change is to be made, with a transaction begun.
pub(crate) struct Held<'d> {
    database: &'d Database,
    base: Option<MutexGuard<'d, Option<Base>>>,
    begun: bool,
}

impl<'d> Held<'d> {
    pub(crate) const fn new(database: &'d Database) -> Self {
        Self { database, base: None, begun: false }
    }

    /// Does the batch change anything but the ledger?
    pub(crate) const fn has_begun(&self) -> bool {
        self.begun
    }

    /// The connection, without a transaction of its own.
    pub(crate) fn conn(&mut self) -> Result<&Connection, StoreError> {
        let database = self.database;
        let base = self.base.get_or_insert_with(|| database.wanted());
        base.as_ref().map(|base| &base.conn).ok_or(StoreError::Closed)
    }

    /// The connection, within the batch's transaction.
    pub(crate) fn begin(&mut self) -> Result<&Connection, StoreError> {
        if !self.begun {
            self.conn()?.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            self.begun = true;
        }
        self.conn()
    }

    /// Commits, durably, and lets go of the connection.
    pub(crate) fn commit(&mut self, entries: usize, bytes: usize, anchored: Option<u64>) -> Result<(), StoreError> {
        self.conn()?.prepare_cached("COMMIT")?.execute([])?;
        if let Some(base) = self.base.as_deref_mut().and_then(Option::as_mut) {
            base.backfill.wrote(entries, bytes);
        }
        if let Some(size) = anchored {
            self.database.anchored.fetch_max(size, Ordering::AcqRel);
            self.database.ahead.grown_to(size);
        }
        (self.base, self.begun) = (None, false);
        Ok(())
    }

    /// Nothing of the batch happens.
    pub(crate) fn roll_back(&mut self) {
        if let Some(base) = self.base.take().as_deref().and_then(Option::as_ref)
            && !base.conn.is_autocommit()
            && let Err(error) = base.conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "rolling back failed");
        }
        self.begun = false;
    }
}

impl Anchor {
    /// Sets the anchor in the database to this one.
    pub(crate) fn write(&self, conn: &Connection) -> Result<(), StoreError> {
        let mut update = conn.prepare_cached("UPDATE tasks SET used = ?2 WHERE id = ?1")?;
        for (task, used) in &self.used {
            update.execute((task.to_bytes(), int(*used)))?;
        }
        conn.prepare_cached("UPDATE head SET size = ?1, control_seq = ?2, settled = ?3, frontier = ?4, root = ?5, checkpoint = ?6 WHERE id = 0")?
            .execute((int(self.size), int(self.control_seq), int(self.settled), self.frontier.as_slice(), self.root.as_slice(), &*self.checkpoint))?;
        Ok(())
    }
}

const INSERT: &str = "INSERT INTO entries (idx, kind, task, call, closes, leaf, body, note) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

/// The entries of one batch, the last of them with the signed note over the tree with all of them, and what they gave to tasks.
pub(crate) fn insert(conn: &Connection, first: u64, entries: &[Pending], leaves: &[[u8; 32]], note: &str) -> Result<(), StoreError> {
    let mut insert = conn.prepare_cached(INSERT)?;
    let mut left = entries.len();
    for (index, (entry, leaf)) in (int(first)..).zip(entries.iter().zip(leaves)) {
        left = left.saturating_sub(1);
        let note = (left == 0).then_some(note);
        let (task, call) = (entry.task.map(|t| t.to_bytes()), entry.call.map(|c| c.to_bytes()));
        insert.execute((index, entry.kind, task, call, entry.closes.map(int), leaf.as_slice(), entry.body.as_slice(), note))?;
    }
    for assigned in entries.iter().filter_map(|entry| entry.assigns.as_ref()) {
        crate::leases::assign(conn, assigned)?;
    }
    Ok(())
}

/// Lets the database have what a journal holds from a run before, if the look at all of it finds it whole; otherwise nothing of it.
///
/// # Errors
/// `Disagrees` if it has other entries in their places; the look's; or the database's.
pub(crate) fn take_over<T>(conn: &Connection, records: &[Record], look: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
    transaction(conn, || {
        insert_records(conn, records)?;
        let seen = look(conn)?;
        // Not before the look: it counts from where the database itself says.
        let newest = records.last().and_then(|record| record.entries.last());
        set_dense(conn, newest.map_or(0, |row| row.index.saturating_add(1)))?;
        Ok(seen)
    })
}

fn insert_records(conn: &Connection, records: &[Record]) -> Result<(), StoreError> {
    let Some(newest) = records.last() else { return Ok(()) };
    let mut insert = conn.prepare_cached(INSERT)?;
    for record in records {
        let mut left = record.entries.len();
        for row in &record.entries {
            left = left.saturating_sub(1);
            let note = (left == 0).then_some(&*record.note);
            let (task, call) = (row.task.map(|t| t.to_bytes()), row.call.map(|c| c.to_bytes()));
            let values = (int(row.index), &row.kind, task, call, row.closes.map(int), row.leaf.as_slice(), row.body.as_slice(), note);
            insert.execute(values).map_err(|e| match StoreError::from(e) {
                StoreError::Conflict { .. } => {
                    let detail = format!("the journal and the database each have an entry {}: they are not of the same moment", row.index);
                    StoreError::unavailable(Reason::Disagrees, detail)
                }
                other => other,
            })?;
        }
        for assigned in &record.assigned {
            crate::leases::assign(conn, assigned)?;
        }
    }
    set_place(conn, newest.end, 0)
}

/// Everything that is done in it is durable together, or did not happen.
fn transaction<T>(conn: &Connection, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    if !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK")?;
    }
    conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let done = work().and_then(|done| {
        conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(done)
    });
    if done.is_err() && !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK")?;
    }
    done
}

/// The place of the journal up to which the database has everything.
fn stored_place(conn: &Connection) -> Result<u64, StoreError> {
    Ok(conn.prepare_cached("SELECT journal FROM head WHERE id = 0")?.query_row([], |r| r.get::<_, Count>(0))?.0)
}

fn stored_anchor(conn: &Connection) -> Result<u64, StoreError> {
    Ok(conn.prepare_cached("SELECT size FROM head WHERE id = 0")?.query_row([], |r| r.get::<_, Count>(0))?.0)
}

/// The database has everything that the journal has before this place, and every entry before `dense` (0: as many as before).
fn set_place(conn: &Connection, place: u64, dense: u64) -> Result<(), StoreError> {
    conn.prepare_cached("UPDATE head SET journal = ?1, dense = max(dense, ?2) WHERE id = 0")?.execute((int(place), int(dense)))?;
    Ok(())
}

/// The database has every entry before this one. What it has from there on may have gaps, which the journal fills.
pub(crate) fn set_dense(conn: &Connection, dense: u64) -> Result<(), StoreError> {
    conn.prepare_cached("UPDATE head SET dense = max(dense, ?1) WHERE id = 0")?.execute([int(dense)])?;
    Ok(())
}
