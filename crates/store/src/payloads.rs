//! Texts of calls: a file of its own beside the ledger, with a thread and a connection of its own, written behind the calls and never
//! in their way. It takes sealed texts only, each with the time at which it goes, and erases at a word.
//!
//! A text that finds no place in the queue, or cannot be written, is lost, and counted: see [`Payloads::lost`]. Who must not lose one
//! waits for [`Payloads::put_durable`].

mod room;
mod sealed;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bailiwick_core::{CallId, TaskId, Timestamp};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use crate::erasure::Erasure;
use crate::error::{Reason, StoreError};
use crate::schema::private;
use crate::sql::{At, Count, int, limit};

const FILE: &str = "payloads.sqlite";
/// Texts, and bytes of them, that may wait to be written.
const WAITING_MAX: usize = 4096;
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Texts that are written in one transaction, and how long the first of them waits for others.
const BATCH_MAX: usize = 512;
const GATHER_FOR: Duration = Duration::from_millis(20);
/// Rows that are taken out in one transaction when their time is over.
const EXPIRED_AT_ONCE: usize = 1000;

/// Each step brings the file's schema to the next. Never edited once released, only added to.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE payloads (
    id         INTEGER PRIMARY KEY,
    call       BLOB NOT NULL,
    kind       INTEGER NOT NULL CHECK (kind IN (1, 2)),
    task       BLOB NOT NULL,
    at         INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    truncated  INTEGER NOT NULL,
    sealed     BLOB NOT NULL,
    UNIQUE (call, kind)
) STRICT;
CREATE INDEX payloads_task ON payloads (task);
CREATE INDEX payloads_expires ON payloads (expires_at);
-- Calls and tasks whose texts were erased: when, by whom, and where the ledger says so.
CREATE TABLE erased (id BLOB PRIMARY KEY, at INTEGER NOT NULL, by TEXT NOT NULL, entry INTEGER NOT NULL) STRICT, WITHOUT ROWID;
",
    "
-- Without its text the call would not have been made: it never makes room for another one.
ALTER TABLE payloads ADD COLUMN required INTEGER NOT NULL DEFAULT 0;
CREATE INDEX payloads_oldest ON payloads (id) WHERE required = 0;
",
];

/// How texts are kept.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    /// What [`Payloads::put_durable`] acknowledged survives a loss of power; otherwise it survives the death of the process.
    pub durable: bool,
    /// Bytes that the file may have in all.
    pub bytes_max: u64,
}

impl Default for Keeping {
    fn default() -> Self {
        Self { durable: false, bytes_max: 1 << 30 }
    }
}

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// The arguments of a call.
    Arguments,
    /// The answer of its system.
    Answer,
}

impl PayloadKind {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Arguments => "arguments",
            Self::Answer => "answer",
        }
    }

    const fn number(self) -> i64 {
        match self {
            Self::Arguments => 1,
            Self::Answer => 2,
        }
    }
}

/// Gives the sealed text. It runs on the payload store's thread, which never sees another form of it.
pub type Sealing = Box<dyn FnOnce() -> Result<Vec<u8>, String> + Send>;

/// One text to be kept.
pub struct Payload {
    /// Whose.
    pub call: CallId,
    /// The call's task.
    pub task: TaskId,
    /// What it is.
    pub kind: PayloadKind,
    /// The time now.
    pub at: Timestamp,
    /// When it goes: from this moment on it is not there any more.
    pub expires_at: Timestamp,
    /// How long the whole text was, in bytes.
    pub bytes: u64,
    /// Is only its beginning kept?
    pub truncated: bool,
    /// Bytes that it holds in memory while it waits.
    pub weight: usize,
    /// Gives it, sealed.
    pub sealed: Sealing,
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("call", &self.call).field("kind", &self.kind).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A text that is kept, still sealed.
#[derive(Clone, PartialEq, Eq)]
pub struct PayloadRow {
    /// A number by which rows are read page by page.
    pub id: u64,
    /// Whose.
    pub call: CallId,
    /// The call's task.
    pub task: TaskId,
    /// What it is.
    pub kind: PayloadKind,
    /// When it was kept.
    pub at: Timestamp,
    /// When it goes.
    pub expires_at: Timestamp,
    /// How long the whole text was, in bytes.
    pub bytes: u64,
    /// Is only its beginning kept?
    pub truncated: bool,
    /// The sealed text.
    pub sealed: Vec<u8>,
}

impl fmt::Debug for PayloadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadRow").field("call", &self.call).field("kind", &self.kind).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// That texts of a call were erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasedNote {
    /// When it was ordered.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
    /// Where the ledger says so.
    pub entry: u64,
}

/// What the store has of one call.
#[derive(Clone, Debug, Default)]
pub struct OfCall {
    /// The texts that are kept and whose time is not over.
    pub rows: Vec<PayloadRow>,
    /// Whether something of it was erased.
    pub erased: Option<ErasedNote>,
}

type Ask = Box<dyn FnOnce(&mut Keeper) + Send>;

enum Job {
    Put(Payload, Option<oneshot::Sender<Result<(), StoreError>>>),
    Ask(Ask),
}

/// The payload store. Clones share one thread.
#[derive(Clone)]
pub struct Payloads {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Counts {
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    lost: AtomicU64,
    displaced: AtomicU64,
    failing: AtomicBool,
    full: AtomicBool,
}

struct Inner {
    /// `None`: closed, or it could never be opened.
    jobs: Mutex<Option<Sender<Job>>>,
    counts: Arc<Counts>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Payloads {
    /// Opens or makes the file in a data directory that this process has taken. `durable`: what [`put_durable`](Self::put_durable)
    /// acknowledged survives a loss of power; otherwise it survives the death of the process.
    ///
    /// # Errors
    /// `Directory`, `TooNew` or `Unavailable`.
    pub fn open(dir: &Path, durable: bool) -> Result<Self, StoreError> {
        Self::open_with(dir, Keeping { durable, ..Keeping::default() })
    }

    /// As [`open`](Self::open), with a bound on the file.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(dir: &Path, keeping: Keeping) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let conn = open(&path, keeping.durable)?;
        let counts = Arc::new(Counts::default());
        let (jobs, queue) = channel();
        let mut keeper = Keeper { conn, counts: Arc::clone(&counts), bytes_max: keeping.bytes_max };
        let thread = std::thread::Builder::new()
            .name("store-payloads".to_owned())
            .spawn(move || keeper.run(&queue))
            .map_err(|e| StoreError::unavailable(Reason::Memory, e.to_string()))?;
        Ok(Self { inner: Arc::new(Inner { jobs: Mutex::new(Some(jobs)), counts, thread: Mutex::new(Some(thread)) }) })
    }

    /// Stands for a file that could not be opened: every text is lost, and counted.
    #[must_use]
    pub fn broken() -> Self {
        let counts = Arc::new(Counts { failing: AtomicBool::new(true), ..Counts::default() });
        Self { inner: Arc::new(Inner { jobs: Mutex::new(None), counts, thread: Mutex::new(None) }) }
    }

    /// Queues a text. Returns at once. False: there was no room, and it is lost.
    pub fn put(&self, payload: Payload) -> bool {
        let counts = &self.inner.counts;
        let (count, bytes) = (counts.waiting.load(Ordering::Relaxed), counts.waiting_bytes.load(Ordering::Relaxed));
        let room = count < WAITING_MAX && bytes.saturating_add(payload.weight) <= WAITING_BYTES_MAX;
        let queued = room && self.queue(payload, None).is_ok();
        if !queued {
            counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        queued
    }

    /// Queues a text that is required, and waits until it is written. It never makes room for another one.
    ///
    /// # Errors
    /// It is not kept; `NoRoom` if only texts that are required are left.
    pub async fn put_durable(&self, payload: Payload) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue(payload, Some(reply))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Texts that were lost since the store was opened.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.inner.counts.lost.load(Ordering::Relaxed)
    }

    /// Texts that went before their time since the store was opened, to make room for others.
    #[must_use]
    pub fn displaced(&self) -> u64 {
        self.inner.counts.displaced.load(Ordering::Relaxed)
    }

    /// Was there no room for the last text that was required?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.inner.counts.full.load(Ordering::Relaxed)
    }

    /// Takes a text out again whose call was not made after all.
    ///
    /// # Errors
    /// The store's.
    pub async fn withdraw(&self, call: CallId, kind: PayloadKind) -> Result<(), StoreError> {
        self.ask(move |keeper| {
            let mut delete = keeper.conn.prepare_cached("DELETE FROM payloads WHERE call = ?1 AND kind = ?2")?;
            let gone = delete.execute((call.to_bytes(), kind.number()))?;
            keeper.has_room(gone > 0);
            Ok(())
        })
        .await
    }

    /// Could the last texts not be written?
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.inner.counts.failing.load(Ordering::Relaxed)
    }

    /// Texts that wait to be written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inner.counts.waiting.load(Ordering::Relaxed)
    }

    /// What is kept of a call whose time is not over, with whatever was queued before.
    ///
    /// # Errors
    /// The store's.
    pub async fn of_call(&self, call: CallId, task: Option<TaskId>, now: Timestamp) -> Result<OfCall, StoreError> {
        self.ask(move |keeper| keeper.of_call(call, task, now)).await
    }

    /// Kept texts in the order of their numbers, beginning after `after`, at most `most`.
    ///
    /// # Errors
    /// The store's.
    pub async fn page(&self, after: u64, most: usize, now: Timestamp) -> Result<Vec<PayloadRow>, StoreError> {
        self.ask(move |keeper| {
            let mut statement = keeper.conn.prepare_cached(&format!("{COLUMNS} WHERE id > ?1 AND expires_at > ?2 ORDER BY id LIMIT ?3"))?;
            let rows = statement.query_map((int(after), now.as_millis(), limit(most)), row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Carries an order to erase out: the texts are overwritten in the file, the log is written back and cut. Gives how many they were.
    /// Texts of these calls and tasks that come later are not kept either. May be repeated.
    ///
    /// # Errors
    /// It is not done, or not to the end: to be repeated.
    pub async fn erase(&self, erasure: Erasure) -> Result<u64, StoreError> {
        self.ask(move |keeper| keeper.erase(&erasure)).await
    }

    /// Takes out the texts whose time is over. Gives how many they were.
    ///
    /// # Errors
    /// The store's.
    pub async fn expire(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.ask(move |keeper| keeper.expire(now)).await
    }

    /// Writes what is queued and lets go of the file.
    pub async fn close(&self) {
        // Behind everything that was queued.
        drop(self.ask(|_| Ok(())).await);
        self.inner.end();
    }

    fn queue(&self, payload: Payload, reply: Option<oneshot::Sender<Result<(), StoreError>>>) -> Result<(), StoreError> {
        let counts = &self.inner.counts;
        let weight = payload.weight;
        counts.waiting.fetch_add(1, Ordering::Relaxed);
        counts.waiting_bytes.fetch_add(weight, Ordering::Relaxed);
        let sent = self.send(Job::Put(payload, reply));
        if sent.is_err() {
            counts.waiting.fetch_sub(1, Ordering::Relaxed);
            counts.waiting_bytes.fetch_sub(weight, Ordering::Relaxed);
        }
        sent
    }

    async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&mut Keeper) -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Ask(Box::new(move |keeper| drop(reply.send(question(keeper))))))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    fn send(&self, job: Job) -> Result<(), StoreError> {
        let jobs = self.inner.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(StoreError::Closed)
    }
}

impl fmt::Debug for Payloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payloads").field("waiting", &self.waiting()).field("lost", &self.lost()).finish_non_exhaustive()
    }
}

impl Inner {
    fn end(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the payload store has panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end();
    }
}

fn open(path: &PathBuf, durable: bool) -> Result<Connection, StoreError> {
    private(path).map_err(|e| StoreError::Directory { path: path.clone(), detail: e.to_string().into() })?;
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    let synchronous = if durable { "FULL" } else { "NORMAL" };
    // What is deleted is overwritten with zeros.
    conn.execute_batch(&format!(
        "PRAGMA synchronous = {synchronous}; PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF; PRAGMA busy_timeout = 5000; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8192;"
    ))?;
    let found: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known || found < 0 {
        return Err(StoreError::TooNew { found, known });
    }
    for (step, sql) in MIGRATIONS.iter().enumerate().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        conn.execute_batch(&format!("BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version = {};\nCOMMIT;", step.saturating_add(1)))?;
    }
    if found == 1 && durable {
        // Of a time when it was not noted: rather one too many than one too few.
        conn.execute("UPDATE payloads SET required = 1 WHERE kind = ?1", [PayloadKind::Arguments.number()])?;
    }
    Ok(conn)
}

const COLUMNS: &str = "SELECT id, call, task, kind, at, expires_at, bytes, truncated, sealed FROM payloads";

/// The thread's own: the connection, and the counts that everybody sees.
struct Keeper {
    conn: Connection,
    counts: Arc<Counts>,
    bytes_max: u64,
}

type Waiting = (Payload, Option<oneshot::Sender<Result<(), StoreError>>>);

impl Keeper {
    fn run(&mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            match job {
                Job::Ask(ask) => ask(self),
                Job::Put(payload, reply) => {
                    let next = self.gather((payload, reply), queue);
                    if let Some(ask) = next {
                        ask(self);
                    }
                }
            }
        }
    }

    /// Writes one text together with those that come soon after it. Gives the question that ended the gathering, if one did.
    fn gather(&mut self, first: Waiting, queue: &Receiver<Job>) -> Option<Ask> {
        let until = Instant::now() + GATHER_FOR;
        // Somebody who waits is not made to wait for others.
        let mut awaited = first.1.is_some();
        let mut batch = vec![first];
        let mut question = None;
        while batch.len() < BATCH_MAX {
            let left = if awaited { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
            match queue.recv_timeout(left) {
                Ok(Job::Put(payload, reply)) => {
                    awaited |= reply.is_some();
                    batch.push((payload, reply));
                }
                Ok(Job::Ask(ask)) => {
                    question = Some(ask);
                    break;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        self.write(batch);
        question
    }

    fn write(&self, batch: Vec<Waiting>) {
        let count = batch.len();
        self.counts.waiting.fetch_sub(count, Ordering::Relaxed);
        self.counts.waiting_bytes.fetch_sub(batch.iter().map(|(p, _)| p.weight).sum(), Ordering::Relaxed);
        let mut replies = Vec::new();
        let (mut refused, mut displaced, mut full) = (0u64, 0u64, None);
        let work = || -> Result<(), StoreError> {
            // For writing from the start: one that began with reading would not wait for somebody else who writes.
            let transaction = Transaction::new_unchecked(&self.conn, TransactionBehavior::Immediate)?;
            for (payload, reply) in batch {
                let (call, kind, required) = (payload.call, payload.kind.word(), reply.is_some());
                match payload.insert(&transaction, required, self.bytes_max, &mut displaced) {
                    Ok(()) => {
                        full = if required { Some(false) } else { full };
                        replies.extend(reply.map(|r| (r, Ok(()))));
                    }
                    Err(error @ StoreError::NoRoom { .. }) => {
                        full = if required { Some(true) } else { full };
                        // One that is required is not lost: its call is not made.
                        refused = refused.saturating_add(u64::from(!required));
                        replies.extend(reply.map(|r| (r, Err(error))));
                    }
                    // It cannot be sealed: that is this one's own trouble.
                    Err(error @ StoreError::Malformed { .. }) => {
                        tracing::error!(%error, %call, kind, "the text of a call could not be kept");
                        refused = refused.saturating_add(1);
                        replies.extend(reply.map(|r| (r, Err(error))));
                    }
                    Err(error) => {
                        replies.extend(reply.map(|r| (r, Err(error.clone()))));
                        return Err(error);
                    }
                }
            }
            Ok(transaction.commit()?)
        };
        let written = work();
        // After an error in the middle those who wait for the rest find the reply gone: that is a no.
        self.told(&written, count, refused);
        if written.is_ok() {
            self.counts.displaced.fetch_add(displaced, Ordering::Relaxed);
            if let Some(full) = full {
                self.counts.full.store(full, Ordering::Relaxed);
            }
        }
        for (reply, result) in replies {
            drop(reply.send(result.and(written.clone())));
        }
    }

    fn told(&self, written: &Result<(), StoreError>, count: usize, refused: u64) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let lost = if written.is_ok() { refused } else { count };
        self.counts.lost.fetch_add(lost, Ordering::Relaxed);
        let was = self.counts.failing.swap(written.is_err(), Ordering::Relaxed);
        match written {
            Err(error) => tracing::error!(error.code = error.code().slug(), %error, texts = count, "texts of calls could not be kept"),
            Ok(()) if was => tracing::info!("texts of calls are kept again"),
            Ok(()) => {}
        }
    }

    fn of_call(&self, call: CallId, task: Option<TaskId>, now: Timestamp) -> Result<OfCall, StoreError> {
        let mut statement = self.conn.prepare_cached(&format!("{COLUMNS} WHERE call = ?1 AND expires_at > ?2 ORDER BY kind"))?;
        let rows = statement.query_map((call.to_bytes(), now.as_millis()), row)?.collect::<Result<_, _>>()?;
        let mut note = self.conn.prepare_cached("SELECT at, by, entry FROM erased WHERE id IN (?1, ?2) ORDER BY entry DESC LIMIT 1")?;
        let erased = note
            .query_row((call.to_bytes(), task.map(TaskId::to_bytes)), |r| {
                Ok(ErasedNote { at: r.get::<_, At>(0)?.0, by: r.get(1)?, entry: r.get::<_, Count>(2)?.0 })
            })
            .optional()?;
        Ok(OfCall { rows, erased })
    }

    fn erase(&self, erasure: &Erasure) -> Result<u64, StoreError> {
        let column = match erasure.what {
            crate::erasure::Erased::Tasks(_) => "task",
            crate::erasure::Erased::Calls(_) => "call",
        };
        let transaction = self.conn.unchecked_transaction()?;
        let mut gone = 0usize;
        {
            let mut delete = transaction.prepare_cached(&format!("DELETE FROM payloads WHERE {column} = ?1"))?;
            let mut note = transaction.prepare_cached("INSERT INTO erased VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO NOTHING")?;
            for id in erasure.what.ids() {
                gone = gone.saturating_add(delete.execute([id])?);
                note.execute((id, erasure.at.as_millis(), &erasure.by, int(erasure.entry)))?;
            }
        }
        transaction.commit()?;
        self.has_room(gone > 0);
        self.cut_log()?;
        Ok(u64::try_from(gone).unwrap_or(u64::MAX))
    }

    fn expire(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut gone = 0u64;
        loop {
            let mut delete =
                self.conn.prepare_cached("DELETE FROM payloads WHERE id IN (SELECT id FROM payloads WHERE expires_at <= ?1 LIMIT ?2)")?;
            let step = delete.execute((now.as_millis(), limit(EXPIRED_AT_ONCE)))?;
            gone = gone.saturating_add(u64::try_from(step).unwrap_or(u64::MAX));
            if step < EXPIRED_AT_ONCE {
                break;
            }
        }
        self.has_room(gone > 0);
        if gone > 0 {
            self.cut_log()?;
        }
        Ok(gone)
    }

    /// Something went: whoever needs room may try again.
    fn has_room(&self, more: bool) {
        if more {
            self.counts.full.store(false, Ordering::Relaxed);
        }
    }

    /// The log holds pages as they were before: it is written back, synchronised, and cut to nothing.
    fn cut_log(&self) -> Result<(), StoreError> {
        let busy: i64 = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0))?;
        if busy == 0 { Ok(()) } else { Err(StoreError::unavailable(Reason::Busy, "somebody else reads the texts of calls")) }
    }
}

impl Payload {
    fn insert(self, conn: &Connection, required: bool, bytes_max: u64, displaced: &mut u64) -> Result<(), StoreError> {
        let sealed = (self.sealed)().map_err(StoreError::malformed)?;
        room::make(conn, sealed.len(), bytes_max, displaced)?;
        // What was erased meanwhile does not come back.
        let mut insert = conn.prepare_cached(
            "INSERT OR IGNORE INTO payloads (call, kind, task, at, expires_at, bytes, truncated, sealed, required)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 WHERE NOT EXISTS (SELECT 1 FROM erased WHERE id IN (?1, ?3))",
        )?;
        insert.execute((
            self.call.to_bytes(),
            self.kind.number(),
            self.task.to_bytes(),
            self.at.as_millis(),
            self.expires_at.as_millis(),
            int(self.bytes),
            self.truncated,
            sealed,
            required,
        ))?;
        Ok(())
    }
}

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<PayloadRow> {
    Ok(PayloadRow {
        id: r.get::<_, Count>(0)?.0,
        call: CallId::from_bytes(r.get(1)?),
        task: TaskId::from_bytes(r.get(2)?),
        kind: if r.get::<_, i64>(3)? == 1 { PayloadKind::Arguments } else { PayloadKind::Answer },
        at: r.get::<_, At>(4)?.0,
        expires_at: r.get::<_, At>(5)?.0,
        bytes: r.get::<_, Count>(6)?.0,
        truncated: r.get(7)?,
        sealed: r.get(8)?,
    })
}

#[cfg(test)]
mod tests;
