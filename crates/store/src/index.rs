//! The index by call and by task: a file of its own that follows the ledger, never in a call's way, and is rebuilt when it does not
//! fit. Its thread also writes the log back into the database while nothing else happens.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bailiwick_core::{CallId, TaskId};
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{oneshot, watch};

use crate::entry::{Head, kind};
use crate::error::{Reason, StoreError};
use crate::schema::Directory;
use crate::sql::{Count, int, limit};

/// Entries that are taken into the index in one transaction.
const STEP: u64 = 10_000;
/// Without questions, the index follows when the ledger rests, or when it is this far behind.
const BEHIND_MAX: u64 = 100_000;
const REST: Duration = Duration::from_secs(1);
const QUESTIONS_MAX: usize = 256;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS cursor (id INTEGER PRIMARY KEY CHECK (id = 0), next INTEGER NOT NULL, leaf BLOB NOT NULL) STRICT;
INSERT OR IGNORE INTO cursor VALUES (0, 0, x'');
CREATE TABLE IF NOT EXISTS call_index (call BLOB NOT NULL, idx INTEGER NOT NULL, intent INTEGER NOT NULL, PRIMARY KEY (call, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS task_index (task BLOB NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (task, idx)) STRICT, WITHOUT ROWID;
";

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

enum Question {
    /// Entries of a call, the intent first.
    Call(CallId, Answer<Vec<u64>>),
    Task {
        task: TaskId,
        from: u64,
        limit: usize,
        answer: Answer<Vec<u64>>,
    },
}

/// The way to the index's thread.
pub(crate) struct Index {
    questions: Mutex<Option<SyncSender<Question>>>,
}

impl Index {
    pub(crate) fn start(directory: &Directory, head: watch::Receiver<Head>) -> Result<(Self, JoinHandle<()>), StoreError> {
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
        let (questions, queue) = sync_channel(QUESTIONS_MAX);
        let follower = Follower { conn, ledger, head };
        let thread = std::thread::Builder::new()
            .name("store-index".to_owned())
            .spawn(move || follower.run(&queue))
            .map_err(|e| StoreError::unavailable(Reason::Memory, e.to_string()))?;
        Ok((Self { questions: Mutex::new(Some(questions)) }, thread))
    }

    pub(crate) fn stop(&self) {
        drop(self.questions.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub(crate) async fn entries_of_call(&self, call: CallId) -> Result<Vec<u64>, StoreError> {
        let (answer, found) = oneshot::channel();
        self.ask(Question::Call(call, answer))?;
        found.await.map_err(|_| StoreError::Closed)?
    }

    pub(crate) async fn entries_of_task(&self, task: TaskId, from: u64, limit: usize) -> Result<Vec<u64>, StoreError> {
        let (answer, found) = oneshot::channel();
        self.ask(Question::Task { task, from, limit, answer })?;
        found.await.map_err(|_| StoreError::Closed)?
    }

    fn ask(&self, question: Question) -> Result<(), StoreError> {
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
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    // Nothing here is lost that cannot be read from the ledger again.
    conn.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -16384;")?;
    conn.execute_batch(SCHEMA)?;
    let (next, leaf): (i64, Vec<u8>) = conn.query_row("SELECT next, leaf FROM cursor", [], |r| Ok((r.get(0)?, r.get(1)?)))?;
    if next > 0 {
        let last = next.saturating_sub(1);
        let stored: Option<Vec<u8>> = ledger.query_row("SELECT leaf FROM entries WHERE idx = ?1", [last], |r| r.get(0)).optional()?;
        if stored.as_ref() != Some(&leaf) {
            return Err(StoreError::unavailable(Reason::Disagrees, format!("entry {last} is another one than was indexed")));
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
                return Err(StoreError::Directory { path: file.into(), detail: e.to_string().into() });
            }
            _ => {}
        }
    }
    Ok(())
}

struct Follower {
    conn: Connection,
    ledger: Connection,
    head: watch::Receiver<Head>,
}

impl Follower {
    fn run(self, questions: &Receiver<Question>) {
        let (mut seen, mut written_back) = (0, 0);
        loop {
            match questions.recv_timeout(REST) {
                Ok(question) => self.answer(question),
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.rest(&mut seen, &mut written_back) {
                        tracing::warn!(%error, "the index could not follow the ledger");
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn answer(&self, question: Question) {
        // The asker may have gone.
        match question {
            Question::Call(call, answer) => drop(answer.send(self.catch_up().and_then(|()| self.of_call(call)))),
            Question::Task { task, from, limit, answer } => {
                drop(answer.send(self.catch_up().and_then(|()| self.of_task(task, from, limit))));
            }
        }
    }

    fn rest(&self, seen: &mut u64, written_back: &mut u64) -> Result<(), StoreError> {
        let size = self.head.borrow().size;
        let quiet = std::mem::replace(seen, size) == size;
        let next = self.next()?;
        if next < size && (quiet || size.saturating_sub(next) > BEHIND_MAX) {
            self.step(next, size)?;
        } else if quiet && size != *written_back {
            // Between bursts, so that the writer does not have to in the middle of one.
            self.ledger.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
            *written_back = size;
        }
        Ok(())
    }

    fn catch_up(&self) -> Result<(), StoreError> {
        let size = self.head.borrow().size;
        let mut next = self.next()?;
        while next < size {
            next = self.step(next, size)?;
        }
        Ok(())
    }

    fn next(&self) -> Result<u64, StoreError> {
        let next = self.conn.prepare_cached("SELECT next FROM cursor")?.query_row([], |r| r.get::<_, Count>(0))?;
        Ok(next.0)
    }

    /// Takes some entries in, together with the place where the next step starts.
    fn step(&self, from: u64, size: u64) -> Result<u64, StoreError> {
        let to = size.min(from.saturating_add(STEP));
        let transaction = self.conn.unchecked_transaction()?;
        let mut read = self.ledger.prepare_cached("SELECT idx, kind, task, call, leaf FROM entries WHERE idx >= ?1 AND idx < ?2 ORDER BY idx")?;
        let mut call_row = transaction.prepare_cached("INSERT OR REPLACE INTO call_index VALUES (?1, ?2, ?3)")?;
        let mut task_row = transaction.prepare_cached("INSERT OR REPLACE INTO task_index VALUES (?1, ?2)")?;
        let (mut rows, mut last, mut next) = (read.query([int(from), int(to)])?, Vec::new(), from);
        while let Some(row) = rows.next()? {
            let index = row.get::<_, i64>(0)?;
            if let Some(task) = row.get::<_, Option<[u8; 16]>>(2)? {
                task_row.execute((task, index))?;
            }
            if let Some(call) = row.get::<_, Option<[u8; 16]>>(3)? {
                let intent = row.get_ref(1)?.as_str().is_ok_and(|k| k == kind::INTENT);
                call_row.execute((call, index, intent))?;
            }
            last = row.get(4)?;
            next = next.saturating_add(1);
        }
        drop((rows, call_row, task_row));
        if next != to {
            return Err(StoreError::unavailable(Reason::Disagrees, format!("entries {next} to {to} are missing from the ledger")));
        }
        transaction.prepare_cached("UPDATE cursor SET next = ?1, leaf = ?2")?.execute((int(next), last))?;
        transaction.commit()?;
        Ok(next)
    }

    fn of_call(&self, call: CallId) -> Result<Vec<u64>, StoreError> {
        let mut statement = self.conn.prepare_cached("SELECT idx FROM call_index WHERE call = ?1 ORDER BY intent DESC, idx")?;
        let rows = statement.query_map([call.to_bytes()], |r| Ok(r.get::<_, Count>(0)?.0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn of_task(&self, task: TaskId, from: u64, most: usize) -> Result<Vec<u64>, StoreError> {
        let mut statement = self.conn.prepare_cached("SELECT idx FROM task_index WHERE task = ?1 AND idx >= ?2 ORDER BY idx LIMIT ?3")?;
        let rows = statement.query_map((task.to_bytes(), int(from), limit(most)), |r| Ok(r.get::<_, Count>(0)?.0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
