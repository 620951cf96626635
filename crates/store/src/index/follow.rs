//! Following the ledger: entries are taken into the index in steps, each together with the place where the next one starts. The
//! thread also writes the log back into the database while nothing else happens.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bailiwick_core::{CallId, TaskId};
use rusqlite::{Connection, OptionalExtension};

use super::Question;
use super::fact::{Fact, Facts, Field, Rest};
use super::posting::{BLOCK, put};
use crate::database::Database;
use crate::entry::{EntryRow, kind};
use crate::error::{Reason, StoreError};
use crate::ledger::entries_in;
use crate::sql::{Count, int, limit};

/// Entries that are taken into the index in one transaction.
const STEP: u64 = 10_000;
/// Entries that are read at a time.
const PIECE: u64 = 500;
/// Without questions, the index follows when the ledger rests, or when it is this far behind: it must not take from calls what it can
/// do afterwards.
const BEHIND_MAX: u64 = 1_000_000;
const REST: Duration = Duration::from_secs(1);
/// Entries of which the earliest and the latest time are kept together.
pub(super) const SPAN: u64 = 256;
/// Terms, intents and tasks that are remembered before all of them are forgotten.
const TERMS_MAX: usize = 100_000;
const INTENTS_MAX: usize = 50_000;
const TASKS_MAX: usize = 10_000;

/// The SQL of questions, so that a test can ask how it is run.
pub(super) const OF_CALL: &str = "SELECT idx FROM call_index WHERE call = ?1 ORDER BY intent DESC, idx";
pub(super) const OF_TASK: &str = "SELECT idx FROM task_index WHERE task = ?1 AND idx >= ?2 ORDER BY idx LIMIT ?3";
pub(super) const TERM_OF: &str = "SELECT id FROM terms WHERE field = ?1 AND value = ?2";
pub(super) const LAST_BLOCK: &str = "SELECT first, last, n, data FROM postings WHERE term = ?1 ORDER BY first DESC LIMIT 1";

/// What the thread works with.
pub(crate) struct Follower {
    pub(super) conn: Connection,
    pub(super) ledger: Connection,
    database: Arc<Database>,
    path: PathBuf,
    memory: RefCell<Memory>,
}

/// What was looked up a moment ago. All of it is in the database.
#[derive(Default)]
struct Memory {
    terms: HashMap<Field, HashMap<String, i64>>,
    terms_count: usize,
    /// What intents without an outcome hand on to it.
    intents: HashMap<u64, Vec<i64>>,
    /// What tasks hand on to entries that do not say whose they are.
    tasks: HashMap<String, Vec<i64>>,
}

impl Follower {
    pub(super) fn new(conn: Connection, ledger: Connection, database: Arc<Database>, path: PathBuf) -> Self {
        Self { conn, ledger, database, path, memory: RefCell::default() }
    }

    pub(super) fn run(mut self, questions: &Receiver<Question>) {
        let (mut seen, mut written_back, mut wait) = (0, 0, REST);
        loop {
            match questions.recv_timeout(wait) {
                Ok(question) => question(&mut self),
                Err(RecvTimeoutError::Timeout) => {
                    let more = self.rest(&mut seen, &mut written_back).unwrap_or_else(|error| {
                        tracing::warn!(%error, "the index could not follow the ledger");
                        false
                    });
                    wait = if more { Duration::ZERO } else { REST };
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Says whether to go on at once: the ledger rests, and there is more to take in.
    fn rest(&self, seen: &mut u64, written_back: &mut u64) -> Result<bool, StoreError> {
        // As far as the database has followed the journal: it need not hurry for the index.
        let size = self.database.ahead.floor();
        let quiet = std::mem::replace(seen, size) == size;
        let next = self.next()?;
        if next < size && (quiet || size.saturating_sub(next) > BEHIND_MAX) {
            return Ok(self.step(next, size)? < size && quiet);
        }
        if quiet && size != *written_back {
            // Between bursts, so that the writer does not have to in the middle of one.
            self.ledger.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
            *written_back = size;
        }
        Ok(false)
    }

    /// Itself, once it knows everything that was durable when it was asked.
    pub(super) fn caught_up(&mut self) -> Result<&Self, StoreError> {
        let size = self.size();
        self.database.catch_up()?;
        let mut next = self.next()?;
        while next < size {
            next = self.step(next, size)?;
        }
        Ok(self)
    }

    pub(super) fn size(&self) -> u64 {
        self.database.ahead.size()
    }

    /// The first entry that is not in the index.
    pub(super) fn next(&self) -> Result<u64, StoreError> {
        let next = self.conn.prepare_cached("SELECT next FROM cursor WHERE id = 0")?.query_row([], |r| r.get::<_, Count>(0))?;
        Ok(next.0)
    }

    /// Begins with nothing again.
    pub(super) fn rebuild(&mut self) -> Result<(), StoreError> {
        self.memory.get_mut().forget();
        let memory = Connection::open_in_memory()?;
        drop(std::mem::replace(&mut self.conn, memory));
        super::remove(&self.path)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path);
        file.map_err(|e| StoreError::Directory { path: self.path.clone(), detail: e.to_string().into() })?;
        self.conn = super::open(&self.path, &self.ledger)?;
        Ok(())
    }

    /// Takes some entries in, together with the place where the next step starts.
    fn step(&self, from: u64, size: u64) -> Result<u64, StoreError> {
        let to = size.min(from.saturating_add(STEP));
        let mut memory = self.memory.borrow_mut();
        let taken = self.take(&mut memory, from, to);
        if taken.is_err() || memory.is_full() {
            // Ids that were given in a transaction that failed are nobody's.
            memory.forget();
        }
        taken.map(|()| to)
    }

    fn take(&self, memory: &mut Memory, from: u64, to: u64) -> Result<(), StoreError> {
        let transaction = self.conn.unchecked_transaction()?;
        let mut step = Step { conn: &transaction, ledger: &self.ledger, memory, postings: BTreeMap::new(), spans: BTreeMap::new() };
        let (mut next, mut leaf) = (from, [0; 32]);
        while next < to {
            let rows = entries_in(&self.ledger, next..to.min(next.saturating_add(PIECE)))?;
            for row in &rows {
                if row.index != next {
                    break;
                }
                step.entry(row)?;
                leaf = row.leaf;
                next = next.saturating_add(1);
            }
            if rows.last().is_none_or(|row| row.index.saturating_add(1) != next) {
                return Err(StoreError::unavailable(Reason::Disagrees, format!("entries {next} to {to} are missing from the ledger")));
            }
        }
        step.write()?;
        transaction.prepare_cached("UPDATE cursor SET next = ?1, leaf = ?2 WHERE id = 0")?.execute((int(next), leaf))?;
        transaction.commit()?;
        Ok(())
    }

    pub(super) fn of_call(&self, call: CallId) -> Result<Vec<u64>, StoreError> {
        let mut statement = self.conn.prepare_cached(OF_CALL)?;
        let rows = statement.query_map([call.to_bytes()], |r| Ok(r.get::<_, Count>(0)?.0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn of_task(&self, task: TaskId, from: u64, most: usize) -> Result<Vec<u64>, StoreError> {
        let mut statement = self.conn.prepare_cached(OF_TASK)?;
        let rows = statement.query_map((task.to_bytes(), int(from), limit(most)), |r| Ok(r.get::<_, Count>(0)?.0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

impl Memory {
    fn is_full(&self) -> bool {
        self.terms_count > TERMS_MAX || self.intents.len() > INTENTS_MAX || self.tasks.len() > TASKS_MAX
    }

    fn forget(&mut self) {
        *self = Self::default();
    }
}

/// One step on its way: what is to be written at its end.
struct Step<'a> {
    conn: &'a Connection,
    ledger: &'a Connection,
    memory: &'a mut Memory,
    postings: BTreeMap<i64, Vec<u64>>,
    spans: BTreeMap<u64, (i64, i64)>,
}

impl Step<'_> {
    fn entry(&mut self, row: &EntryRow) -> Result<(), StoreError> {
        let facts = Facts::of(&row.body);
        let index = row.index;
        let tasks: BTreeSet<TaskId> = facts.tasks.iter().filter_map(|t| t.parse().ok()).chain(row.task).collect();
        for task in tasks {
            self.conn.prepare_cached("INSERT OR REPLACE INTO task_index VALUES (?1, ?2)")?.execute((task.to_bytes(), int(index)))?;
        }
        let calls: BTreeSet<CallId> = facts.calls.iter().filter_map(|c| c.parse().ok()).chain(row.call).collect();
        for call in calls {
            let intent = row.kind == kind::INTENT;
            self.conn.prepare_cached("INSERT OR REPLACE INTO call_index VALUES (?1, ?2, ?3)")?.execute((call.to_bytes(), int(index), intent))?;
        }
        if facts.repeats > 0 {
            self.conn.prepare_cached("INSERT OR REPLACE INTO repeats VALUES (?1, ?2)")?.execute((int(index), int(facts.repeats)))?;
        }
        if let Some(at) = facts.at {
            let span = self.spans.entry(index - index % SPAN).or_insert((at, at));
            *span = (span.0.min(at), span.1.max(at));
        }
        let mut terms = self.inherited(&facts.rest, index)?;
        let handed_on = row.kind == kind::INTENT || row.kind == kind::TASK_OPENED;
        for fact in &facts.said {
            terms.push(self.term(fact)?);
        }
        if handed_on {
            self.hand_on(row, facts)?;
        }
        terms.sort_unstable();
        terms.dedup();
        terms.into_iter().for_each(|term| self.postings.entry(term).or_default().push(index));
        Ok(())
    }

    /// What is remembered of an entry for those that follow from it.
    fn hand_on(&mut self, row: &EntryRow, facts: Facts) -> Result<(), StoreError> {
        let task = facts.tasks.first().cloned();
        let inherited = facts.inherited().map(|fact| self.term(&fact)).collect::<Result<Vec<_>, _>>()?;
        match task {
            Some(task) if row.kind == kind::TASK_OPENED => drop(self.memory.tasks.insert(task, inherited)),
            _ => drop(self.memory.intents.insert(row.index, inherited)),
        }
        Ok(())
    }

    fn inherited(&mut self, rest: &Rest, index: u64) -> Result<Vec<i64>, StoreError> {
        match rest {
            Rest::Nowhere => return Ok(Vec::new()),
            Rest::Intent(intent) => {
                if let Some(known) = self.memory.intents.remove(intent) {
                    return Ok(known);
                }
            }
            Rest::Task(task) => {
                if let Some(known) = self.memory.tasks.get(task) {
                    return Ok(known.clone());
                }
            }
            Rest::Call(_) => {}
        }
        let facts = inherited(self.conn, self.ledger, rest, index)?;
        let terms = facts.iter().map(|fact| self.term(fact)).collect::<Result<Vec<_>, _>>()?;
        if let Rest::Task(task) = rest {
            self.memory.tasks.insert(task.clone(), terms.clone());
        }
        Ok(terms)
    }

    /// The number of a term, given to it here if it is new.
    fn term(&mut self, (field, value): &Fact) -> Result<i64, StoreError> {
        if let Some(known) = self.memory.terms.get(field).and_then(|values| values.get(value)) {
            return Ok(*known);
        }
        let id = match term(self.conn, *field, value)? {
            Some(id) => id,
            None => {
                self.conn.prepare_cached("INSERT INTO terms (field, value) VALUES (?1, ?2)")?.execute((field.number(), value))?;
                self.conn.last_insert_rowid()
            }
        };
        self.memory.terms.entry(*field).or_default().insert(value.clone(), id);
        self.memory.terms_count = self.memory.terms_count.saturating_add(1);
        Ok(id)
    }

    fn write(self) -> Result<(), StoreError> {
        for (term, indexes) in &self.postings {
            post(self.conn, *term, indexes)?;
        }
        let mut span = self.conn.prepare_cached(
            "INSERT INTO spans VALUES (?1, ?2, ?3) ON CONFLICT (first) DO UPDATE SET low = min(low, excluded.low), high = max(high, excluded.high)",
        )?;
        for (first, (low, high)) in &self.spans {
            span.execute((int(*first), low, high))?;
        }
        Ok(())
    }
}

/// Appends indexes to the postings of a term, in order: into its last block as long as that has room.
fn post(conn: &Connection, term: i64, indexes: &[u64]) -> Result<(), StoreError> {
    let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, Count>(0)?.0, r.get::<_, Count>(1)?.0, r.get::<_, i64>(2)?, r.get::<_, Vec<u8>>(3)?));
    let mut block = conn.prepare_cached(LAST_BLOCK)?.query_row([term], row).optional()?;
    let mut write = conn.prepare_cached("INSERT OR REPLACE INTO postings VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut save = |(first, last, n, data): &(u64, u64, i64, Vec<u8>)| write.execute((term, int(*first), int(*last), n, data));
    for index in indexes {
        match &mut block {
            Some((_, last, n, data)) if *n < limit(BLOCK) => {
                if index > last {
                    put(data, *last, *index);
                    (*last, *n) = (*index, n.saturating_add(1));
                }
            }
            _ => {
                if let Some(full) = block.replace((*index, *index, 1, Vec::new())) {
                    save(&full)?;
                }
            }
        }
    }
    if let Some(open) = &block {
        save(open)?;
    }
    Ok(())
}

pub(super) fn term(conn: &Connection, field: Field, value: &str) -> Result<Option<i64>, StoreError> {
    Ok(conn.prepare_cached(TERM_OF)?.query_row((field.number(), value), |r| r.get(0)).optional()?)
}

/// What the intent of an outcome or a call, or the opening of a task, says about entry `index` that follows from it. Only the entry itself is
/// believed: another one in its place hands nothing on.
pub(super) fn inherited(conn: &Connection, ledger: &Connection, rest: &Rest, index: u64) -> Result<Vec<Fact>, StoreError> {
    let (from, of_kind) = match rest {
        Rest::Nowhere => return Ok(Vec::new()),
        Rest::Intent(intent) => (Some(*intent), "intent"),
        Rest::Task(task) => {
            let Ok(id) = task.parse::<TaskId>() else { return Ok(Vec::new()) };
            let first = conn.prepare_cached(OF_TASK)?.query_row((id.to_bytes(), 0, 1), |r| r.get::<_, Count>(0)).optional()?;
            (first.map(|c| c.0), "task_opened")
        }
        Rest::Call(call) => {
            let Ok(id) = call.parse::<CallId>() else { return Ok(Vec::new()) };
            let mut statement = conn.prepare_cached(OF_CALL)?;
            let first = statement.query_row([id.to_bytes()], |r| r.get::<_, Count>(0)).optional()?;
            (first.map(|c| c.0), "intent")
        }
    };
    let Some(from) = from.filter(|from| *from < index) else { return Ok(Vec::new()) };
    let rows = entries_in(ledger, from..from.saturating_add(1))?;
    let facts = rows.first().map(|row| Facts::of(&row.body));
    let named = |f: &Facts| match rest {
        Rest::Task(task) => f.tasks.contains(task),
        Rest::Call(call) => f.calls.contains(call),
        Rest::Intent(_) | Rest::Nowhere => true,
    };
    let facts = facts.filter(|f| f.says(Field::Kind, of_kind) && named(f));
    Ok(facts.map(|f| f.inherited().collect()).unwrap_or_default())
}
