//! The index: a file of its own that follows the ledger, never in a call's way, and is rebuilt when it does not fit. It says where to
//! look; what it found is read from the ledger and held against the question again, so that a wrong index can only leave out.

mod fact;
mod follow;
mod posting;
mod search;
mod tally;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bailiwick_core::{CallId, TaskId};
use rusqlite::Connection;
use tokio::sync::oneshot;

pub use fact::{ACT, Fact, Field};
pub use search::{Found, LIMIT_MAX, Search};
pub use tally::{Counted, Group, Tally, Window};

use crate::database::Database;
use crate::error::{Reason, StoreError};
use crate::ledger::entries_in;
use crate::schema::Directory;
use crate::sql::Count;
use follow::Follower;

const QUESTIONS_MAX: usize = 256;

/// The version of the schema and of what is taken from an entry. An index of another version is made anew.
const VERSION: i64 = 3;

const SCHEMA: &str = "
CREATE TABLE cursor (id INTEGER PRIMARY KEY CHECK (id = 0), next INTEGER NOT NULL, leaf BLOB NOT NULL) STRICT;
INSERT INTO cursor VALUES (0, 0, x'');
CREATE TABLE call_index (call BLOB NOT NULL, idx INTEGER NOT NULL, intent INTEGER NOT NULL, PRIMARY KEY (call, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE task_index (task BLOB NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (task, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE terms (id INTEGER PRIMARY KEY, field INTEGER NOT NULL, value TEXT NOT NULL, UNIQUE (field, value)) STRICT;
CREATE TABLE postings (term INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (term, first)) STRICT, WITHOUT ROWID;
CREATE TABLE spans (first INTEGER PRIMARY KEY, low INTEGER NOT NULL, high INTEGER NOT NULL) STRICT;
CREATE INDEX spans_by_low ON spans (low, first);
CREATE INDEX spans_by_high ON spans (high, first);
CREATE TABLE repeats (idx INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT;
";

type Question = Box<dyn FnOnce(&mut Follower) + Send>;

/// The way to the index's thread.
pub(crate) struct Index {
    questions: Mutex<Option<SyncSender<Question>>>,
}

impl Index {
    pub(crate) fn start(directory: &Directory, database: Arc<Database>) -> Result<(Self, JoinHandle<()>), StoreError> {
        let ledger = directory.open_follower()?;
        let path = directory.index()?;
        let conn = match open(&path, &ledger) {
            Ok(conn) => conn,
            Err(error) => {
                tracing::warn!(%error, "the index does not fit the ledger and is rebuilt");
                remove(&path)?;
                open(&directory.index()?, &ledger)?
            }
        };
        let (questions, queue) = sync_channel::<Question>(QUESTIONS_MAX);
        let follower = Follower::new(conn, ledger, database, path);
        let thread = std::thread::Builder::new()
            .name("store-index".to_owned())
            .spawn(move || follower.run(&queue))
            .map_err(|e| StoreError::unavailable(Reason::Memory, e.to_string()))?;
        Ok((Self { questions: Mutex::new(Some(questions)) }, thread))
    }

    pub(crate) fn stop(&self) {
        drop(self.questions.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// The entries of a call, the intent first.
    pub(crate) async fn entries_of_call(&self, call: CallId) -> Result<Vec<u64>, StoreError> {
        self.ask(move |f| f.caught_up()?.of_call(call)).await
    }

    pub(crate) async fn entries_of_task(&self, task: TaskId, from: u64, limit: usize) -> Result<Vec<u64>, StoreError> {
        self.ask(move |f| f.caught_up()?.of_task(task, from, limit)).await
    }

    pub(crate) async fn search(&self, search: Search) -> Result<Found, StoreError> {
        self.ask(move |f| f.caught_up()?.search(&search)).await
    }

    pub(crate) async fn tally(&self, tally: Tally) -> Result<(Window, Vec<Vec<Counted>>), StoreError> {
        self.ask(move |f| f.caught_up()?.tally(&tally)).await
    }

    /// Throws the index away and makes it anew from the ledger. Gives the number of entries that were taken in.
    pub(crate) async fn rebuild(&self) -> Result<u64, StoreError> {
        self.ask(|f| {
            f.rebuild()?;
            f.caught_up()?.next()
        })
        .await
    }

    async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&mut Follower) -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
        let (answer, found) = oneshot::channel();
        // The asker may have gone.
        self.send(Box::new(move |follower| drop(answer.send(question(follower)))))?;
        found.await.map_err(|_| StoreError::Closed)?
    }

    fn send(&self, question: Question) -> Result<(), StoreError> {
        match self.questions.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            None => Err(StoreError::Closed),
            Some(questions) => questions.try_send(question).map_err(|e| match e {
                TrySendError::Full(_) => StoreError::unavailable(Reason::Busy, "too many questions to the index are waiting"),
                TrySendError::Disconnected(_) => StoreError::Closed,
            }),
        }
    }
}

fn open(path: &Path, ledger: &Connection) -> Result<Connection, StoreError> {
    let conn = Connection::open(path)?;
    conn.set_prepared_statement_cache_capacity(32);
    conn.execute_batch("PRAGMA page_size = 8192;")?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    // Nothing here is lost that cannot be read from the ledger again.
    conn.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -32768; PRAGMA trusted_schema = OFF;")?;
    let misfit = |why: String| StoreError::unavailable(Reason::Disagrees, why);
    let version: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    if tables == 0 {
        conn.execute_batch(&format!("BEGIN;{SCHEMA}PRAGMA user_version = {VERSION};COMMIT;"))?;
    } else if version != VERSION {
        return Err(misfit(format!("it is of version {version}, not {VERSION}")));
    }
    let (next, leaf): (Count, Vec<u8>) = conn.query_row("SELECT next, leaf FROM cursor", [], |r| Ok((r.get(0)?, r.get(1)?)))?;
    if let Some(last) = next.0.checked_sub(1) {
        let stored = entries_in(ledger, last..next.0)?;
        if stored.first().is_none_or(|row| row.leaf.as_slice() != leaf) {
            return Err(misfit(format!("entry {last} is another one than was indexed")));
        }
    }
    Ok(conn)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    for end in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(end);
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Directory { path: PathBuf::from(file), detail: e.to_string().into() });
            }
            _ => {}
        }
    }
    Ok(())
}
