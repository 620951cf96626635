//! The store as others hold it: a cheap handle that sends requests to the writer and questions to the readers.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use bailiwick_core::CallId;
use bailiwick_core::record::Lost;
use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::ahead::Ahead;
use crate::archive::Archive;
use crate::backfill::Backfill;
use crate::batch::{Ack, Closure, Job};
use crate::bond::{self, Bond};
use crate::database::{Database, take_over};
use crate::desk::Desk;
use crate::entry::{Entry, Head, Integrator, Intent};
use crate::error::StoreError;
use crate::index::Index;
use crate::journal::{self, JOURNAL, Journal};
use crate::reader::Readers;
use crate::reserve::Reserve;
use crate::schema::{Directory, Loaded, load};
use crate::writer::{Published, Writer};
use crate::writing::Writing;

/// Relaxed entries that may be outstanding before the next one waits.
pub const RELAXED_MAX: usize = 4096;

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of the journal (a quarter) and of the database's log (the rest) that are written beforehand: neither grows while calls wait. With
    /// few, no journal is made, and every call is a transaction of the database.
    /// An eighth as much again is the reserve: what is left, when the disk is full, for what takes authority away.
    pub log_bytes: u64,
    /// Threads that read.
    pub readers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { log_bytes: 64 << 20, readers: 2 }
    }
}

/// What is remembered. Clones share one writer.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    /// What it writes may use the reserve of a full disk.
    reserved: bool,
}

pub(crate) struct Inner {
    pub(crate) desk: Arc<Desk>,
    relaxed: Arc<Semaphore>,
    published: Arc<Published>,
    pub(crate) readers: Mutex<Option<Readers>>,
    pub(crate) database: Arc<Database>,
    pub(crate) index: Index,
    pub(crate) texts: OnceLock<Arc<dyn crate::erasure::TextSeal>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// Opens or makes the store in a directory, which no other process may have open.
    ///
    /// # Errors
    /// `Locked`, `Directory`, `TooNew`, or `Unavailable` if the ledger is not whole or cannot be continued by this integrator.
    pub fn open(dir: &Path, integrator: Box<dyn Integrator>) -> Result<Self, StoreError> {
        Self::open_with(dir, integrator, Options::default())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(dir: &Path, mut integrator: Box<dyn Integrator>, options: Options) -> Result<Self, StoreError> {
        let directory = Arc::new(Directory::take(dir)?);
        let ring = options.log_bytes / 4;
        if !Archive::is_there(dir) {
            // A journal without its database belongs to none that is made now.
            journal::look(&dir.join(JOURNAL), &Bond::default())?;
        }
        let conn = directory.open_writer(options.log_bytes.saturating_sub(ring))?;
        let (loaded, journal) = begin(&directory, &conn, ring, integrator.as_mut())?;
        let published = Arc::new(Published {
            control_seq: AtomicU64::new(loaded.authority.control_seq()),
            relaxed_lost: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            head: watch::Sender::new(loaded.head.clone()),
        });
        let connections = (0..options.readers.max(1)).map(|_| directory.open_reader()).collect::<Result<Vec<_>, _>>()?;
        let failed = |e: std::io::Error| StoreError::unavailable(crate::Reason::Memory, e.to_string());
        let (readers, mut threads) = Readers::start(connections).map_err(failed)?;
        let (backfill, thread) = Backfill::start(directory.open_follower()?)?;
        threads.push(thread);
        let ahead = Ahead::new(loaded.head.size, journal.as_ref().map_or(0, Journal::ring));
        let database = Arc::new(Database::new(conn, backfill, ahead, journal.as_ref().map_or(0, Journal::next), loaded.anchored));
        let (index, thread) = Index::start(&directory, Arc::clone(&database))?;
        threads.push(thread);
        directory.sync()?;
        let follows = Arc::clone(&database);
        let thread = std::thread::Builder::new().name("store-follower".to_owned()).spawn(move || follows.run()).map_err(failed)?;
        threads.push(thread);
        let reserve = Reserve::take(dir, options.log_bytes / 8)?;
        let writer = Writer::new(Arc::clone(&database), (journal, reserve), integrator, loaded, Arc::clone(&published), directory);
        let desk = Arc::new(Desk::new(writer));
        let at_work = Arc::clone(&desk);
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || at_work.run()).map_err(failed)?;
        threads.push(thread);
        let inner = Inner {
            desk,
            relaxed: Arc::new(Semaphore::new(RELAXED_MAX)),
            published,
            readers: Mutex::new(Some(readers)),
            database,
            index,
            texts: OnceLock::new(),
            threads: Mutex::new(threads),
        };
        Ok(Self { inner: Arc::new(inner), reserved: false })
    }

    /// The same store, for what takes authority away or ends something, and for what must come before that: when the disk is full it may
    /// use the reserve, and everything else is refused.
    #[must_use]
    pub fn taking_away(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), reserved: true }
    }

    /// Writes what is queued, then lets go of the directory. Everything afterwards is refused with `Closed`.
    pub async fn close(&self) {
        let (reply, stopped) = oneshot::channel();
        self.inner.desk.stop(reply);
        drop(stopped.await);
        drop(self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.inner.index.stop();
    }

    /// The hot path. One durable write: the fence, the task, the budget and the approval are checked and spent, the account that waited
    /// becomes the task's, and the intent is appended. `Ok(Ok(index))` says that it is on disk; only then may the call be sent.
    ///
    /// # Errors
    /// Nothing was recorded and nothing was spent.
    pub async fn intent(&self, intent: Intent) -> Result<Result<u64, Lost>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = Waiting { desk: &self.inner.desk, call: intent.call, answered: false };
        self.send(Job::Intent(intent, reply))?;
        let answer = answer.await;
        waiting.answered = true;
        answer.map_err(|_| StoreError::Closed)?
    }

    /// Records what became of a permitted call, once, and waits until it is durable. Gives the entry's index.
    ///
    /// # Errors
    /// `Conflict` if that intent is not open, or not of this call.
    pub async fn outcome(&self, intent: u64, call: CallId, body: Vec<u8>) -> Result<u64, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Outcome { intent, call, body, ack: Ack::Durable(reply) })?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Queues what became of a permitted call. Returns at once unless [`RELAXED_MAX`] are outstanding. If it cannot be written, it
    /// is logged and counted in [`relaxed_lost`](Self::relaxed_lost), and the intent appears in [`open_intents`](Self::open_intents).
    ///
    /// # Errors
    /// `Closed`.
    pub async fn outcome_relaxed(&self, intent: u64, call: CallId, body: Vec<u8>) -> Result<(), StoreError> {
        let ack = self.relaxed().await?;
        self.send(Job::Outcome { intent, call, body, ack })
    }

    /// Appends an entry and waits until it is durable. Gives its index.
    ///
    /// # Errors
    /// `TooLarge`, `Conflict` for the kinds `intent` and `outcome`, or the store's.
    pub async fn append(&self, entry: Entry) -> Result<u64, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Append(entry, Ack::Durable(reply)))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Queues an entry, as [`outcome_relaxed`](Self::outcome_relaxed) does.
    ///
    /// # Errors
    /// `TooLarge`, `Conflict`, `Closed`.
    pub async fn append_relaxed(&self, entry: Entry) -> Result<(), StoreError> {
        entry.check()?;
        let ack = self.relaxed().await?;
        self.send(Job::Append(entry, ack))
    }

    /// Relaxed entries that could not be written since the store was opened.
    #[must_use]
    pub fn relaxed_lost(&self) -> u64 {
        self.inner.published.relaxed_lost.load(Ordering::Relaxed)
    }

    /// Could the last batch not be written? The next one that can says no again.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.inner.published.failing.load(Ordering::Relaxed) || self.inner.database.ahead.failure().is_some()
    }

    /// Relaxed entries that wait to be written.
    #[must_use]
    pub fn relaxed_outstanding(&self) -> usize {
        RELAXED_MAX.saturating_sub(self.inner.relaxed.available_permits())
    }

    /// Intents without an outcome that nobody is working on: left by a crash, or by a caller that went away. Each is to be closed as
    /// unknown by [`outcome`](Self::outcome).
    ///
    /// # Errors
    /// The store's.
    pub async fn open_intents(&self) -> Result<Vec<(u64, CallId)>, StoreError> {
        self.write(|w| Ok(w.state.left_open())).await
    }

    /// The fence: to be read before a call is decided, and handed to [`intent`](Self::intent).
    #[must_use]
    pub fn control_seq(&self) -> u64 {
        self.inner.published.control_seq.load(Ordering::Acquire)
    }

    /// Runs a change inside one transaction, without an entry of its own: for what is no authority (secrets, results, meta).
    ///
    /// # Errors
    /// The change's own, after which nothing of it happened; or the store's.
    pub async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Writing<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Change(Box::new(Closure::new(change, reply)), self.reserved))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// A change that grants or notes something, with its entry, in one transaction. The fence stays. Gives the entry's index.
    ///
    /// # Errors
    /// As for [`write`](Self::write) and [`append`](Self::append).
    pub async fn change<T: Send + 'static>(
        &self,
        entry: Entry,
        change: impl FnOnce(&mut Writing<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<(u64, T), StoreError> {
        self.write(move |w| {
            let value = change(w)?;
            Ok((w.append(entry)?, value))
        })
        .await
    }

    /// A change that takes authority away, with its entry, in one transaction. The fence moves: no call that was decided before it
    /// passes after it. Gives the entry's index.
    ///
    /// # Errors
    /// As for [`write`](Self::write) and [`append`](Self::append).
    pub async fn control<T: Send + 'static>(
        &self,
        entry: Entry,
        change: impl FnOnce(&mut Writing<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<(u64, T), StoreError> {
        let store = self.taking_away();
        store
            .write(move |w| {
                let value = change(w)?;
                Ok((w.append_control(entry)?, value))
            })
            .await
    }

    /// The durable head, without asking the disk.
    #[must_use]
    pub fn head(&self) -> Head {
        self.inner.published.head.borrow().clone()
    }

    /// The signed note over the durable head.
    #[must_use]
    pub fn checkpoint(&self) -> Arc<str> {
        Arc::clone(&self.inner.published.head.borrow().checkpoint)
    }

    /// Tells of each new head; heads in between may be skipped.
    #[must_use]
    pub fn subscribe_head(&self) -> watch::Receiver<Head> {
        self.inner.published.head.subscribe()
    }

    /// Does the journal alone know that an account was given to a task?
    pub(crate) fn has_assigned_ahead(&self) -> bool {
        self.inner.database.ahead.has_assigned()
    }

    /// Asks a question about rows that entries add to: the database has all that is durable, unless it cannot follow, on a full disk.
    pub(crate) async fn read_newest<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.inner.database);
        self.read(move |conn| {
            if let Err(error) = database.catch_up() {
                tracing::debug!(%error, "rows are read without the newest entries");
            }
            question(conn)
        })
        .await
    }

    /// Asks a question about entries, or about what follows from them, on a read-only connection: the database has all that is durable.
    pub(crate) async fn read_all<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.inner.database);
        self.read(move |conn| {
            database.catch_up()?;
            question(conn)
        })
        .await
    }

    /// Asks a question on a read-only connection. It sees what is durable, except for entries that only the journal has yet.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        readers.ok_or(StoreError::Closed)?.ask(question).await
    }

    async fn relaxed(&self) -> Result<Ack, StoreError> {
        let place = Arc::clone(&self.inner.relaxed).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        Ok(Ack::Relaxed(place))
    }

    fn send(&self, job: Job) -> Result<(), StoreError> {
        // Never full: who wants an answer waits for it, and who wants none holds one of few places.
        self.inner.desk.ask(job)
    }
}

/// Lets the database have what the journal of the run before holds, and begins a journal for this one. A journal that does not belong to this
/// database, or is not whole, leaves both as they were.
fn begin(directory: &Directory, conn: &Connection, ring: u64, integrator: &mut dyn Integrator) -> Result<(Loaded, Option<Journal>), StoreError> {
    let path = directory.path().join(JOURNAL);
    let bond = Bond::stored(conn)?.unwrap_or_default();
    let found = journal::look(&path, &bond)?;
    bond.check_present(&path, found.is_some())?;
    let name = bond::new_name(conn)?;
    let records = found.as_ref().map_or(&[][..], |found| found.records.as_slice());
    // In one transaction: what is refused has left nothing in the database.
    let loaded = take_over(conn, records, |conn| {
        let loaded = load(conn, integrator)?;
        bond::promise(conn, found.as_ref().map(|found| found.name), name)?;
        Ok(loaded)
    })?;
    // Durable with the log's own name in the directory, before the journal relies on it; and the journal's, before the database does.
    directory.sync()?;
    let next = found.as_ref().map_or(bond.place, |found| found.next);
    let journal = Journal::begin(directory.path(), found.as_ref(), ring, next, name)?;
    directory.sync()?;
    if journal.is_some() {
        bond::bind(conn, name)?;
    }
    Ok((loaded, journal))
}

/// A caller that waits for its intent. If it goes away before it has the answer, the intent is nobody's.
struct Waiting<'a> {
    desk: &'a Desk,
    call: CallId,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // A store that is closed finds it at the next start.
            drop(self.desk.ask(Job::Abandon(self.call)));
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("size", &self.head().size).field("control_seq", &self.control_seq()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    /// Lets the threads end and waits for them, so that the directory is free afterwards.
    fn drop(&mut self) {
        self.desk.close();
        drop(self.readers.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.index.stop();
        let own = std::thread::current().id();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if thread.thread().id() != own && thread.join().is_err() {
                tracing::error!("a thread of the store has panicked");
            }
        }
    }
}
