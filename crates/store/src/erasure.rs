//! What is erased at somebody's word: the salts of tasks, the arguments and results of held calls, and the order itself, which is
//! carried out again at every start until it is done.

use bailiwick_core::{CallId, HoldId, TaskId, Timestamp};
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::entry::Entry;
use crate::error::{Reason, StoreError};
use crate::sql::{At, Count, int};
use crate::store::Store;
use crate::writing::Writing;

/// Seals the texts that this store has to keep as they are: arguments of held calls, results that wait to be fetched.
pub trait TextSeal: Send + Sync {
    /// Seals a text under a name.
    ///
    /// # Errors
    /// Why not, in words. The text is not stored then.
    fn seal(&self, name: &str, text: &[u8]) -> Result<Vec<u8>, String>;
    /// Opens what was sealed under a name.
    ///
    /// # Errors
    /// Why not, in words.
    fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, String>;
}

/// Ids that one order may name. More are several orders.
pub const ERASED_AT_ONCE_MAX: usize = 1000;

/// What is to be erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Erased {
    /// All calls of these tasks.
    Tasks(Vec<TaskId>),
    /// These calls.
    Calls(Vec<CallId>),
}

impl Erased {
    const fn word(&self) -> &'static str {
        match self {
            Self::Tasks(_) => "task",
            Self::Calls(_) => "call",
        }
    }

    /// The ids as bytes.
    pub(crate) fn ids(&self) -> Vec<[u8; 16]> {
        match self {
            Self::Tasks(ids) => ids.iter().map(|id| id.to_bytes()).collect(),
            Self::Calls(ids) => ids.iter().map(|id| id.to_bytes()).collect(),
        }
    }

    fn parse(word: &str, bytes: &[u8]) -> Self {
        let ids = bytes.as_chunks::<16>().0.iter().copied();
        match word {
            "task" => Self::Tasks(ids.map(TaskId::from_bytes).collect()),
            _ => Self::Calls(ids.map(CallId::from_bytes).collect()),
        }
    }
}

/// An order to erase, as it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Where the ledger says so.
    pub entry: u64,
    /// When it was ordered.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
    /// What.
    pub what: Erased,
}

impl Writing<'_> {
    /// Keeps the sealed salt of a task.
    ///
    /// # Errors
    /// `Conflict` if there is no such task, or it has one.
    pub fn salt_put(&mut self, task: TaskId, sealed: &[u8]) -> Result<(), StoreError> {
        self.conn.prepare_cached("INSERT INTO salts VALUES (?1, ?2)")?.execute((task.to_bytes(), sealed))?;
        Ok(())
    }

    /// Puts an order to erase on record, and erases what this store has of it: salts, and the arguments and results of held calls.
    /// What the payload store has is the caller's to erase, before [`Store::erasure_done`]. Gives the entry's index.
    ///
    /// # Errors
    /// `Conflict` if something of it is still open, or there are more than [`ERASED_AT_ONCE_MAX`] ids.
    pub fn erase(&mut self, entry: Entry, what: &Erased, by: &str, at: Timestamp) -> Result<u64, StoreError> {
        let ids = what.ids();
        if ids.is_empty() || ids.len() > ERASED_AT_ONCE_MAX {
            return Err(StoreError::conflict("nothing, or too much, is to be erased at once"));
        }
        for id in &ids {
            match what {
                Erased::Tasks(_) => self.erase_task(*id)?,
                Erased::Calls(_) => self.erase_call(*id)?,
            }
        }
        let index = self.append(entry)?;
        let mut order = self.conn.prepare_cached("INSERT INTO erasures (entry, at, by, kind, ids) VALUES (?1, ?2, ?3, ?4, ?5)")?;
        order.execute((int(index), at.as_millis(), by, what.word(), ids.concat()))?;
        Ok(index)
    }

    fn erase_task(&mut self, task: [u8; 16]) -> Result<(), StoreError> {
        let state: Option<String> = self.conn.prepare_cached("SELECT state FROM tasks WHERE id = ?1")?.query_row([task], |r| r.get(0)).optional()?;
        if self.state.task(TaskId::from_bytes(task)).is_some() || state.is_some_and(|s| s != "closed") {
            return Err(StoreError::conflict("a task that is still open keeps what it needs: end it first"));
        }
        self.conn.prepare_cached("DELETE FROM results WHERE hold IN (SELECT id FROM holds WHERE task = ?1)")?.execute([task])?;
        // The key is made from the arguments too.
        self.conn.prepare_cached("UPDATE holds SET arguments = x'', key = zeroblob(32) WHERE task = ?1")?.execute([task])?;
        self.conn.prepare_cached("DELETE FROM salts WHERE task = ?1")?.execute([task])?;
        Ok(())
    }

    fn erase_call(&mut self, call: [u8; 16]) -> Result<(), StoreError> {
        let of_call = "(call = ?1 OR json_extract(state_json, '$.call') = ?2)";
        let text = CallId::from_bytes(call).to_string();
        let open: i64 = self
            .conn
            .prepare_cached(&format!("SELECT count(*) FROM holds WHERE {of_call} AND state IN ('pending', 'approved')"))?
            .query_row((call, &text), |r| r.get(0))?;
        if open > 0 {
            return Err(StoreError::conflict("a call that still waits for people keeps what they are shown: refuse it first"));
        }
        self.conn.prepare_cached(&format!("DELETE FROM results WHERE hold IN (SELECT id FROM holds WHERE {of_call})"))?.execute((call, &text))?;
        self.conn.prepare_cached(&format!("UPDATE holds SET arguments = x'', key = zeroblob(32) WHERE {of_call}"))?.execute((call, &text))?;
        Ok(())
    }

    /// Forgets the salt of a task that is over: digests of its calls can then only be recognised by the salts that are kept with texts.
    ///
    /// # Errors
    /// `Conflict` if it is open.
    pub fn salt_delete(&mut self, task: TaskId) -> Result<(), StoreError> {
        if self.state.task(task).is_some() {
            return Err(StoreError::conflict("a task that is open needs its salt"));
        }
        self.conn.prepare_cached("DELETE FROM salts WHERE task = ?1")?.execute([task.to_bytes()])?;
        Ok(())
    }

    /// Forgets what is kept of tasks that were over before a time: their salts, the arguments of their held calls, and the results
    /// of these. At most `most` tasks; gives how many it were.
    ///
    /// # Errors
    /// The store's.
    pub fn forget_tasks(&mut self, before: Timestamp, most: usize) -> Result<usize, StoreError> {
        let over = "SELECT t.id FROM tasks t WHERE t.state = 'closed' AND t.expires_at < ?1 AND (EXISTS (SELECT 1 FROM salts s WHERE s.task = t.id)
            OR EXISTS (SELECT 1 FROM holds h WHERE h.task = t.id AND length(h.arguments) > 0)) LIMIT ?2";
        let mut statement = self.conn.prepare_cached(over)?;
        let rows = statement.query_map((before.as_millis(), crate::sql::limit(most)), |r| r.get::<_, [u8; 16]>(0))?;
        let tasks: Vec<[u8; 16]> = rows.collect::<Result<_, _>>()?;
        if tasks.is_empty() {
            return Ok(0);
        }
        for task in &tasks {
            self.erase_task(*task)?;
        }
        Ok(tasks.len())
    }
}

impl Store {
    /// From here on texts are stored sealed by this. Given once, before anything is read or written.
    pub fn seal_texts(&self, seal: std::sync::Arc<dyn TextSeal>) {
        let _ = self.inner.texts.set(seal).is_ok();
    }

    pub(crate) fn sealed_text(&self, name: &str, text: &[u8]) -> Result<Vec<u8>, StoreError> {
        match self.inner.texts.get() {
            Some(seal) => seal.seal(name, text).map_err(StoreError::malformed),
            None => Ok(text.to_vec()),
        }
    }

    /// What was erased is empty, and stays so.
    pub(crate) fn opened_text(&self, name: &str, stored: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        match self.inner.texts.get() {
            Some(seal) if !stored.is_empty() => seal.open(name, &stored).map_err(StoreError::malformed),
            _ => Ok(stored),
        }
    }

    /// The sealed salt of a task. `None`: it never had one, or it was forgotten.
    ///
    /// # Errors
    /// The store's.
    pub async fn salt(&self, task: TaskId) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |conn| {
            let mut statement = conn.prepare_cached("SELECT sealed FROM salts WHERE task = ?1")?;
            Ok(statement.query_row([task.to_bytes()], |r| r.get(0)).optional()?)
        })
        .await
    }

    /// The held calls whose results wait to be fetched.
    ///
    /// # Errors
    /// The store's.
    pub async fn results_waiting(&self) -> Result<Vec<(HoldId, CallId)>, StoreError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT id, call FROM holds WHERE id IN (SELECT hold FROM results)")?;
            let rows = statement.query_map([], |r| Ok((HoldId::from_bytes(r.get(0)?), CallId::from_bytes(r.get(1)?))))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Orders to erase that were not carried out to the end, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn erasures_due(&self) -> Result<Vec<Erasure>, StoreError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT entry, at, by, kind, ids FROM erasures WHERE done = 0 ORDER BY entry")?;
            let rows = statement.query_map([], |r| {
                let (kind, ids): (String, Vec<u8>) = (r.get(3)?, r.get(4)?);
                Ok(Erasure { entry: r.get::<_, Count>(0)?.0, at: r.get::<_, At>(1)?.0, by: r.get(2)?, what: Erased::parse(&kind, &ids) })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Lets the database have everything, leaves nothing in the journal, writes the log back into the database and cuts it to nothing: both
    /// hold what was there before something was erased or pruned.
    ///
    /// # Errors
    /// `Unavailable` if somebody reads at the same time for too long: to be repeated.
    pub async fn cut_log(&self) -> Result<(), StoreError> {
        let (reply, wiped) = tokio::sync::oneshot::channel();
        self.inner.desk.ask(crate::batch::Job::Wipe(reply))?;
        wiped.await.map_err(|_| StoreError::Closed)??;
        self.read(|conn| {
            let Some(path) = conn.path() else { return Ok(()) };
            let own = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
            own.execute_batch("PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL;")?;
            let busy: i64 = own.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0))?;
            if busy == 0 { Ok(()) } else { Err(StoreError::unavailable(Reason::Busy, "the log is being read")) }
        })
        .await
    }

    /// Notes that an order was carried out to the end.
    ///
    /// # Errors
    /// The store's.
    pub async fn erasure_done(&self, entry: u64) -> Result<(), StoreError> {
        self.write(move |w| {
            w.conn.prepare_cached("UPDATE erasures SET done = 1 WHERE entry = ?1")?.execute([int(entry)])?;
            Ok(())
        })
        .await
    }
}
