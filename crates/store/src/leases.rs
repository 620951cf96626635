//! Leases: the journal of credentials, written before each step at a system, and never silent about one that is not ended.

use bailiwick_core::{CallId, LeaseId, SystemName, TaskId, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::entry::{Entry, kind};
use crate::error::StoreError;
use crate::sql::limit;
use crate::store::Store;
use crate::writing::{Assigned, Writing};

/// Where a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseState {
    /// It is made for no task yet; its account waits at the system, and nobody may use it.
    Pooled,
    /// It is about to be made.
    Intended,
    /// It may be used.
    Live,
    /// It is being ended, until that is shown.
    Ending,
    /// It has its ending.
    Ended,
}

impl LeaseState {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pooled => "pooled",
            Self::Intended => "intended",
            Self::Live => "live",
            Self::Ending => "ending",
            Self::Ended => "ended",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Pooled, Self::Intended, Self::Live, Self::Ending, Self::Ended].into_iter().find(|s| s.word() == word)
    }
}

/// What does not change about a lease.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Lease {
    /// Its id: the account's name is made from it.
    pub id: LeaseId,
    /// Whose account it is.
    pub system: SystemName,
    /// The rights' class: `read`, `write`, `use`.
    pub class: String,
    /// The kind of credential.
    pub kind: String,
    /// The name of the account at the system.
    pub account: String,
    /// Where the system was: an end at another place would show nothing.
    #[serde(default)]
    pub target: String,
    /// What it may do there, in the kind's own words.
    pub rights: Vec<String>,
    /// When it was written down.
    pub begun_at: Timestamp,
}

/// What changes about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LeaseLife {
    /// The permitted call for which it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<CallId>,
    /// What the task wrote beside the account at the system: the tag, as JSON text.
    #[serde(default)]
    pub tag: String,
    /// Under which ids the system knows it, as a JSON object.
    #[serde(default)]
    pub ids: serde_json::Value,
    /// When the account ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// How often its end was tried in vain.
    #[serde(default)]
    pub attempts: u32,
    /// Not tried again before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// Why the last try failed, in words without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// How it ended, with evidence: `credentials::lease::Ending` as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<serde_json::Value>,
    /// Who ended it by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Its account waited for a task.
    #[serde(default)]
    pub pooled: bool,
}

/// A lease as it stands.
#[derive(Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// What it is.
    pub lease: Lease,
    /// For which task. `None`: pooled.
    pub task: Option<TaskId>,
    /// Where it stands.
    pub state: LeaseState,
    /// What changes about it.
    pub life: LeaseLife,
    /// The sealed secret; none if the system has not made it yet, and once ended.
    pub secret: Option<Vec<u8>>,
}

impl std::fmt::Debug for LeaseRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseRow").field("lease", &self.lease).field("task", &self.task).field("state", &self.state).finish_non_exhaustive()
    }
}

/// Which leases to list. Newest first.
#[derive(Clone, Debug, Default)]
pub struct LeaseFilter {
    /// Only of this task.
    pub task: Option<TaskId>,
    /// Only of this system.
    pub system: Option<SystemName>,
    /// Only in this state.
    pub state: Option<LeaseState>,
    /// Only those that are not ended.
    pub open: bool,
    /// At most so many.
    pub limit: usize,
}

/// Why a lease does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskIsClosed;

/// The entry of a credential that was made: which of the two is told by the transaction.
#[derive(Clone, Debug)]
pub struct MadeEntry {
    /// It may be used.
    pub made: Vec<u8>,
    /// It is being ended meanwhile, and nobody uses it.
    pub not_used: Vec<u8>,
}

const COLUMNS: &str = "SELECT lease, task, state, life, secret FROM leases";

impl Writing<'_> {
    /// Writes down that a credential is about to be made, with what is needed to end it. Refused once its task is not open: nothing is
    /// made for a task whose leases are being ended.
    ///
    /// # Errors
    /// `Conflict` if its id is taken.
    pub fn lease_begin(&mut self, row: &LeaseRow, body: Vec<u8>) -> Result<Result<u64, TaskIsClosed>, StoreError> {
        if row.task.is_some_and(|task| self.state.task(task).is_none()) {
            return Ok(Err(TaskIsClosed));
        }
        let state = if row.task.is_some() { LeaseState::Intended } else { LeaseState::Pooled };
        self.conn
            .prepare_cached(
                "INSERT INTO leases (id, task, system, class, state, begun_at, lease, life, secret) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute((
                row.lease.id.to_bytes(),
                row.task.map(TaskId::to_bytes),
                row.lease.system.as_str(),
                &row.lease.class,
                state.word(),
                row.lease.begun_at.as_millis(),
                serde_json::to_string(&row.lease)?,
                serde_json::to_string(&row.life)?,
                &row.secret,
            ))?;
        if state == LeaseState::Pooled {
            self.state.set_account(row.lease.id, Some(None));
        }
        self.lease_entry(row.task, row.life.call, body).map(Ok)
    }

    /// It is made: under which ids, until when, and with which secret if the system made that. True: it may be used. False: it is being
    /// ended meanwhile, and must not be.
    ///
    /// # Errors
    /// `Conflict` if there is no such lease, or it is ended.
    pub fn lease_made(&mut self, id: LeaseId, life: &LeaseLife, secret: Option<&[u8]>, body: MadeEntry) -> Result<bool, StoreError> {
        let (task, from) = self.lease_state(id)?.ok_or_else(|| StoreError::conflict("there is no such lease"))?;
        let to = match from {
            LeaseState::Intended => LeaseState::Live,
            LeaseState::Pooled | LeaseState::Ending => from,
            LeaseState::Live | LeaseState::Ended => return Err(StoreError::conflict("the lease is not being made")),
        };
        self.conn.prepare_cached("UPDATE leases SET state = ?2, life = ?3, secret = coalesce(?4, secret) WHERE id = ?1")?.execute((
            id.to_bytes(),
            to.word(),
            serde_json::to_string(life)?,
            secret,
        ))?;
        let body = if to == LeaseState::Ending { body.not_used } else { body.made };
        self.lease_entry(task, life.call, body)?;
        Ok(to == LeaseState::Live)
    }

    /// It must not be used any more, and is to be ended. False: it is being ended already, or is ended.
    ///
    /// # Errors
    /// The store's.
    pub fn lease_ending(&mut self, id: LeaseId) -> Result<bool, StoreError> {
        let changed = self
            .conn
            .prepare_cached("UPDATE leases SET state = 'ending' WHERE id = ?1 AND state IN ('pooled', 'intended', 'live')")?
            .execute([id.to_bytes()])?;
        if changed == 1 {
            self.state.set_account(id, None);
        }
        Ok(changed == 1)
    }

    /// All leases of a task are to be ended.
    pub(crate) fn leases_ending(&mut self, task: TaskId) -> Result<(), StoreError> {
        self.conn
            .prepare_cached("UPDATE leases SET state = 'ending' WHERE task = ?1 AND state IN ('intended', 'live')")?
            .execute([task.to_bytes()])?;
        self.state.end_accounts(task);
        Ok(())
    }

    /// Its end was tried in vain: how often, why, and when it is tried again.
    ///
    /// # Errors
    /// The store's.
    pub fn lease_tried(&mut self, id: LeaseId, life: &LeaseLife) -> Result<(), StoreError> {
        self.conn
            .prepare_cached("UPDATE leases SET life = ?2 WHERE id = ?1 AND state = 'ending'")?
            .execute((id.to_bytes(), serde_json::to_string(life)?))?;
        Ok(())
    }

    /// It has its ending; its secret is destroyed. False: it had one before, and nothing changed.
    ///
    /// # Errors
    /// `Conflict` if nobody said that it is to be ended.
    pub fn lease_ended(&mut self, id: LeaseId, life: &LeaseLife, at: Timestamp, body: Vec<u8>) -> Result<bool, StoreError> {
        let Some((task, from)) = self.lease_state(id)? else { return Err(StoreError::conflict("there is no such lease")) };
        match from {
            LeaseState::Ended => return Ok(false),
            LeaseState::Ending => {}
            LeaseState::Pooled | LeaseState::Intended | LeaseState::Live => return Err(StoreError::conflict("the lease is in use")),
        }
        self.conn.prepare_cached("UPDATE leases SET state = 'ended', life = ?2, ended_at = ?3, secret = NULL WHERE id = ?1")?.execute((
            id.to_bytes(),
            serde_json::to_string(life)?,
            at.as_millis(),
        ))?;
        self.lease_entry(task, life.call, body)?;
        Ok(true)
    }

    /// Forgets leases that were ended before then, a thousand at a time. The ledger keeps what happened to them. Gives how many it were.
    ///
    /// # Errors
    /// The store's.
    pub fn leases_forget(&mut self, before: Timestamp) -> Result<usize, StoreError> {
        let mut statement = self.conn.prepare_cached(
            "DELETE FROM leases WHERE id IN (SELECT l.id FROM leases l LEFT JOIN tasks t ON t.id = l.task
             WHERE l.state = 'ended' AND l.ended_at < ?1 AND (t.id IS NULL OR t.state = 'closed') LIMIT 1000)",
        )?;
        Ok(statement.execute([before.as_millis()])?)
    }

    /// Leases of a task that have no ending yet.
    pub(crate) fn open_leases(&self, task: TaskId) -> Result<i64, StoreError> {
        let mut statement = self.conn.prepare_cached("SELECT count(*) FROM leases WHERE task = ?1 AND state <> 'ended'")?;
        Ok(statement.query_row([task.to_bytes()], |r| r.get(0))?)
    }

    fn lease_state(&self, id: LeaseId) -> Result<Option<(Option<TaskId>, LeaseState)>, StoreError> {
        let mut statement = self.conn.prepare_cached("SELECT task, state FROM leases WHERE id = ?1")?;
        let found: Option<(Option<[u8; 16]>, String)> = statement.query_row([id.to_bytes()], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
        found.map(|(task, state)| Ok((task.map(TaskId::from_bytes), known(&state)?))).transpose()
    }

    fn lease_entry(&mut self, task: Option<TaskId>, call: Option<CallId>, body: Vec<u8>) -> Result<u64, StoreError> {
        let mut entry = Entry::new(kind::LEASE, body);
        if let Some(task) = task {
            entry = entry.of_task(task);
        }
        if let Some(call) = call {
            entry = entry.of_call(call);
        }
        self.append(entry)
    }
}

/// A pooled account is a task's, as an entry of a call of that says. Nothing, if the database knows that already, or it was ended meanwhile.
pub(crate) fn assign(conn: &Connection, assigned: &Assigned) -> Result<(), StoreError> {
    conn.prepare_cached("UPDATE leases SET task = ?2, state = 'live', life = ?3 WHERE id = ?1 AND state = 'pooled'")?.execute((
        assigned.lease.to_bytes(),
        assigned.task.to_bytes(),
        &assigned.life,
    ))?;
    Ok(())
}

impl Store {
    /// Asks about leases. Where the journal alone knows that an account was given to a task, the database follows first.
    async fn read_leases<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.has_assigned_ahead() { self.read_newest(question).await } else { self.read(question).await }
    }

    /// See [`Writing::lease_begin`]. Durable when it returns.
    ///
    /// # Errors
    /// As there.
    pub async fn lease_begin(&self, row: LeaseRow, body: Vec<u8>) -> Result<Result<u64, TaskIsClosed>, StoreError> {
        self.write(move |w| w.lease_begin(&row, body)).await
    }

    /// See [`Writing::lease_made`].
    ///
    /// # Errors
    /// As there.
    pub async fn lease_made(&self, id: LeaseId, life: LeaseLife, secret: Option<Vec<u8>>, body: MadeEntry) -> Result<bool, StoreError> {
        self.write(move |w| w.lease_made(id, &life, secret.as_deref(), body)).await
    }

    /// See [`Writing::lease_ending`].
    ///
    /// # Errors
    /// The store's.
    pub async fn lease_ending(&self, id: LeaseId) -> Result<bool, StoreError> {
        self.taking_away().write(move |w| w.lease_ending(id)).await
    }

    /// See [`Writing::lease_tried`].
    ///
    /// # Errors
    /// The store's.
    pub async fn lease_tried(&self, id: LeaseId, life: LeaseLife) -> Result<(), StoreError> {
        self.taking_away().write(move |w| w.lease_tried(id, &life)).await
    }

    /// See [`Writing::lease_ended`].
    ///
    /// # Errors
    /// As there.
    pub async fn lease_ended(&self, id: LeaseId, life: LeaseLife, at: Timestamp, body: Vec<u8>) -> Result<bool, StoreError> {
        self.taking_away().write(move |w| w.lease_ended(id, &life, at, body)).await
    }

    /// One lease.
    ///
    /// # Errors
    /// The store's.
    pub async fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, StoreError> {
        self.read_leases(move |conn| {
            let mut statement = conn.prepare_cached(&format!("{COLUMNS} WHERE id = ?1"))?;
            statement.query_row([id.to_bytes()], raw).optional()?.map(parse).transpose()
        })
        .await
    }

    /// See [`Writing::leases_forget`].
    ///
    /// # Errors
    /// As there.
    pub async fn leases_forget(&self, before: Timestamp) -> Result<usize, StoreError> {
        self.write(move |w| w.leases_forget(before)).await
    }

    /// Leases that were ended since then.
    ///
    /// # Errors
    /// The store's.
    pub async fn leases_ended_since(&self, since: Timestamp) -> Result<Vec<LeaseRow>, StoreError> {
        self.read(move |conn| {
            let mut statement = conn.prepare_cached(&format!("{COLUMNS} WHERE ended_at >= ?1"))?;
            let rows = statement.query_map([since.as_millis()], raw)?;
            rows.map(|row| parse(row?)).collect()
        })
        .await
    }

    /// Leases, newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn leases(&self, filter: LeaseFilter) -> Result<Vec<LeaseRow>, StoreError> {
        // No call makes these what they are: the database knows them.
        let known = matches!(filter.state, Some(LeaseState::Intended | LeaseState::Ending | LeaseState::Ended));
        let question = move |conn: &Connection| {
            let mut statement = conn.prepare_cached(&listing(&filter))?;
            let state = filter.state.map(LeaseState::word);
            let system = filter.system.as_ref().map(SystemName::as_str);
            let rows = statement.query_map((filter.task.map(TaskId::to_bytes), system, state, filter.open, limit(filter.limit)), raw)?;
            rows.map(|row| parse(row?)).collect()
        };
        if known { self.read(question).await } else { self.read_leases(question).await }
    }
}

/// The statement that lists them. Which index serves is known beforehand: the planner would not know that an absent value leaves one out.
pub(crate) fn listing(filter: &LeaseFilter) -> String {
    let (by, chosen) = match (filter.task, filter.open || filter.state.is_some_and(|s| s != LeaseState::Ended)) {
        (Some(_), _) => ("", "task = ?1 AND "),
        // It would take the order of ids for the better way, through every lease that ever was.
        (None, true) => ("INDEXED BY leases_open", "state <> 'ended' AND "),
        (None, false) => ("", ""),
    };
    format!(
        "{COLUMNS} {by} WHERE {chosen}(?1 IS NULL OR task = ?1) AND (?2 IS NULL OR system = ?2) AND (?3 IS NULL OR state = ?3)
         AND (?4 = 0 OR state <> 'ended') ORDER BY id DESC LIMIT ?5"
    )
}

type Raw = (String, Option<[u8; 16]>, String, String, Option<Vec<u8>>);

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn parse((lease, task, state, life, secret): Raw) -> Result<LeaseRow, StoreError> {
    Ok(LeaseRow {
        lease: serde_json::from_str(&lease)?,
        task: task.map(TaskId::from_bytes),
        state: known(&state)?,
        life: serde_json::from_str(&life)?,
        secret,
    })
}

fn known(state: &str) -> Result<LeaseState, StoreError> {
    LeaseState::parse(state).ok_or_else(|| StoreError::malformed("the state of a lease"))
}
