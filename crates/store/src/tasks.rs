//! Tasks: opened with an entry, ended through the fence together with whatever they still waited for.

use bailiwick_core::hold::HoldState;
use bailiwick_core::{AgentName, EndReason, HoldId, InstanceId, Labels, PersonName, Task, TaskId, TaskState, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::authority::OpenTask;
use crate::entry::{Entry, kind};
use crate::error::StoreError;
use crate::sql::{Count, int, limit};
use crate::store::Store;
use crate::writing::Writing;

/// A task with what changes about it.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRow {
    /// What it is.
    pub task: Task,
    /// Where it stands.
    pub state: TaskState,
    /// Calls that were permitted so far.
    pub used: u64,
    /// The marks of what it was given, up to its end.
    pub labels: Labels,
}

/// What else is known of a task that is opened, for the labels with which it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// The running copy has a name, under which it comes again.
    pub named: bool,
    /// A model opens it, which has read whatever the tasks of its running copy were given.
    pub by_model: bool,
}

/// What ending a task did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The entry's index. `None`: there is no such task, or it had come that far before, and nothing changed.
    pub entry: Option<u64>,
    /// Holds of the task that were pending or approved, and are withdrawn now.
    pub withdrawn: Vec<HoldId>,
}

/// Which tasks to list. Newest first.
#[derive(Clone, Debug)]
pub struct TaskFilter {
    /// Only of this agent.
    pub agent: Option<AgentName>,
    /// Only of this owner.
    pub owner: Option<PersonName>,
    /// Only the parts of this task: not the parts of these.
    pub parent: Option<TaskId>,
    /// Only done on behalf of this person.
    pub subject: Option<PersonName>,
    /// Only in this state: `open`, `closing` or `closed`.
    pub state: Option<&'static str>,
    /// At most so many.
    pub limit: usize,
}

impl Default for TaskFilter {
    fn default() -> Self {
        Self { agent: None, owner: None, parent: None, subject: None, state: None, limit: 100 }
    }
}

/// The calls of each task and of its parts since the anchor, which `tasks.used` does not count yet.
pub(crate) const SINCE_ANCHOR: &str = "WITH RECURSIVE own AS (SELECT task, count(*) AS calls FROM entries
    WHERE idx >= (SELECT size FROM head WHERE id = 0) AND kind = 'intent' GROUP BY task),
    up (task, calls) AS (SELECT task, calls FROM own UNION ALL
        SELECT tasks.parent, up.calls FROM up JOIN tasks ON tasks.id = up.task WHERE tasks.parent IS NOT NULL),
    since AS (SELECT task, sum(calls) AS calls FROM up GROUP BY task)";

impl Writing<'_> {
    /// Opens a task. A part begins with every label of the task that it is a part of, and what a model opens with those of all tasks of its
    /// running copy (see [`Store::labels_of_copy`]). `body` is told them. Gives them.
    ///
    /// # Errors
    /// `Conflict` if its id is taken, if it is a part of a task that is not open, or if it would have too many labels.
    pub fn open_task(&mut self, task: &Task, how: Opening, body: impl FnOnce(&Labels) -> Vec<u8>) -> Result<Labels, StoreError> {
        if task.parent().is_some_and(|parent| self.state.line(parent).is_none()) {
            return Err(StoreError::conflict("the task that it would be a part of has ended"));
        }
        let mut labels = match task.parent() {
            Some(parent) => self.labels_of(parent)?,
            None => Labels::default(),
        };
        if how.by_model {
            for more in of_copy(self.conn, &task.agent, task.instance, how.named)? {
                labels = labels.with(&more).map_err(|error| StoreError::conflict(error.to_string()))?;
            }
        }
        let state = TaskState::Open;
        self.conn
            .prepare_cached(
                "INSERT INTO tasks (id, agent, owner, subject, state, state_json, used, opened_at, expires_at, task, parent, labels, named)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute((
                task.id.to_bytes(),
                task.agent.as_str(),
                task.owner.as_str(),
                task.subject.as_str(),
                state.word(),
                serde_json::to_string(&state)?,
                task.opened_at.as_millis(),
                task.expires_at.as_millis(),
                serde_json::to_string(task)?,
                task.parent().map(TaskId::to_bytes),
                serde_json::to_string(&labels)?,
                how.named,
            ))?;
        self.state.set_task(task.id, Some(OpenTask::of(task, 0)));
        self.append(Entry::new(kind::TASK_OPENED, body(&labels)).of_task(task.id))?;
        Ok(labels)
    }

    fn labels_of(&self, id: TaskId) -> Result<Labels, StoreError> {
        let mut statement = self.conn.prepare_cached("SELECT labels FROM tasks WHERE id = ?1")?;
        let found: Option<String> = statement.query_row([id.to_bytes()], |r| r.get(0)).optional()?;
        Ok(serde_json::from_str(&found.ok_or_else(|| StoreError::conflict("there is no such task"))?)?)
    }

    /// Brings a task to `closing` or `closed`, never back. From the first step on no call of it passes, its holds are withdrawn, and
    /// its leases are to be ended. It is closed only when each of them has its ending.
    ///
    /// # Errors
    /// `Conflict` for the state `open`, and for `closed` while a lease of it is not ended.
    pub fn end_task(&mut self, id: TaskId, to: TaskState, body: Vec<u8>) -> Result<Ended, StoreError> {
        let at = match to {
            TaskState::Open => return Err(StoreError::conflict("a task does not open again")),
            TaskState::Closing { at, .. } | TaskState::Closed { at, .. } => at,
        };
        let Some(from) = self.task_state(id)? else { return Ok(Ended::default()) };
        let (was_open, forward) = match (from, to) {
            (TaskState::Open, _) => (true, true),
            (TaskState::Closing { .. }, TaskState::Closed { .. }) => (false, true),
            (TaskState::Closing { .. } | TaskState::Closed { .. }, _) => (false, false),
        };
        if !forward {
            return Ok(Ended::default());
        }
        if matches!(to, TaskState::Closed { .. }) && self.open_leases(id)? > 0 {
            return Err(StoreError::conflict("a lease of the task has no ending yet"));
        }
        // Calls of this batch that were permitted before the end are not on disk yet.
        let used = self.state.task(id).map(|t| int(t.used));
        self.conn.prepare_cached("UPDATE tasks SET state = ?2, state_json = ?3, used = coalesce(?4, used) WHERE id = ?1")?.execute((
            id.to_bytes(),
            to.word(),
            serde_json::to_string(&to)?,
            used,
        ))?;
        let entry = Entry::new(kind::TASK_ENDED, body).of_task(id);
        if !was_open {
            return Ok(Ended { entry: Some(self.append(entry)?), withdrawn: Vec::new() });
        }
        self.state.set_task(id, None);
        self.leases_ending(id)?;
        let withdrawn = self.withdraw_holds(id, &HoldState::Withdrawn { at })?;
        Ok(Ended { entry: Some(self.append_control(entry)?), withdrawn })
    }

    /// Puts labels on a task that is a part of none, and on all its open parts. Gives the index of the entry, which is appended only if
    /// one of them had not all of these labels.
    ///
    /// # Errors
    /// `Conflict` if there is no such task, or if it would have too many labels. Nothing was changed then.
    pub fn label_whole(&mut self, whole: TaskId, labels: &Labels, entry: Entry) -> Result<Option<u64>, StoreError> {
        let mut anew = false;
        for id in std::iter::once(whole).chain(self.state.below(whole)) {
            let before = self.labels_of(id)?;
            if labels.within(&before) {
                continue;
            }
            let after = before.with(labels).map_err(|error| StoreError::conflict(error.to_string()))?;
            let mut statement = self.conn.prepare_cached("UPDATE tasks SET labels = ?2 WHERE id = ?1")?;
            statement.execute((id.to_bytes(), serde_json::to_string(&after)?))?;
            anew = true;
        }
        if anew { self.append(entry).map(Some) } else { Ok(None) }
    }

    /// Begins the end of a task and of all its open parts, in one step: the whole first, then each part with an entry of its own, which
    /// `part` gives.
    ///
    /// # Errors
    /// The store's.
    pub fn end_whole(
        &mut self,
        id: TaskId,
        (reason, at): (EndReason, Timestamp),
        body: Vec<u8>,
        mut part: impl FnMut(TaskId) -> Vec<u8>,
    ) -> Result<Vec<(TaskId, Ended)>, StoreError> {
        let parts = self.state.below(id);
        let mut ended = vec![(id, self.end_task(id, TaskState::Closing { reason, at }, body)?)];
        for id in parts {
            let state = TaskState::Closing { reason: EndReason::Parent, at };
            ended.push((id, self.end_task(id, state, part(id))?));
        }
        Ok(ended)
    }

    /// Where a task stands, with the changes queued before.
    ///
    /// # Errors
    /// The store's.
    pub fn task_state(&self, id: TaskId) -> Result<Option<TaskState>, StoreError> {
        let mut statement = self.conn.prepare_cached("SELECT state_json FROM tasks WHERE id = ?1")?;
        let json: Option<String> = statement.query_row([id.to_bytes()], |r| r.get(0)).optional()?;
        json.map(|json| serde_json::from_str(&json).map_err(StoreError::from)).transpose()
    }

    /// Open tasks of an agent, for whoever ends all of them.
    ///
    /// # Errors
    /// The store's.
    pub fn open_tasks_of(&self, agent: &AgentName) -> Result<Vec<TaskId>, StoreError> {
        let mut statement = self.conn.prepare_cached("SELECT id FROM tasks WHERE agent = ?1 AND state = 'open'")?;
        let rows = statement.query_map([agent.as_str()], |r| Ok(TaskId::from_bytes(r.get(0)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

impl Store {
    /// Opens a task of a running copy without a name, durably. Gives the labels with which it begins.
    ///
    /// # Errors
    /// `Conflict` if its id is taken.
    pub async fn open_task(&self, task: &Task, body: Vec<u8>) -> Result<Labels, StoreError> {
        let task = task.clone();
        self.write(move |w| w.open_task(&task, Opening::default(), |_| body)).await
    }

    /// What the tasks of a running copy of an agent were given, those that have ended among them, as far back as the store remembers any.
    /// One that has no name may be any of those that have none: it was given what all of them were.
    ///
    /// # Errors
    /// The store's.
    pub async fn labels_of_copy(&self, agent: &AgentName, instance: InstanceId, named: bool) -> Result<Vec<Labels>, StoreError> {
        let agent = agent.clone();
        self.read_newest(move |conn| of_copy(conn, &agent, instance, named)).await
    }

    /// Ends a task through the fence: once this returns, no call of the task is permitted any more. See [`Writing::end_task`].
    ///
    /// # Errors
    /// `Conflict` for the state `open`.
    pub async fn end_task(&self, id: TaskId, to: TaskState, body: Vec<u8>) -> Result<Ended, StoreError> {
        self.taking_away().write(move |w| w.end_task(id, to, body)).await
    }

    /// Begins the end of a task and of all its open parts through the fence. See [`Writing::end_whole`].
    ///
    /// # Errors
    /// The store's.
    pub async fn end_whole(
        &self,
        id: TaskId,
        why: (EndReason, Timestamp),
        body: Vec<u8>,
        part: impl FnMut(TaskId) -> Vec<u8> + Send + 'static,
    ) -> Result<Vec<(TaskId, Ended)>, StoreError> {
        self.taking_away().write(move |w| w.end_whole(id, why, body, part)).await
    }

    /// One task. While the database cannot follow, on a full disk, its newest calls may not be counted.
    ///
    /// # Errors
    /// The store's.
    pub async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, StoreError> {
        self.read_newest(move |conn| {
            let mut statement = conn.prepare_cached(&format!(
                "{SINCE_ANCHOR} SELECT task, state_json, used + coalesce((SELECT calls FROM since WHERE since.task = id), 0), labels FROM tasks WHERE id = ?1"
            ))?;
            statement.query_row([id.to_bytes()], raw).optional()?.map(parse).transpose()
        })
        .await
    }

    /// Tasks, newest first. While the database cannot follow, on a full disk, their newest calls may not be counted.
    ///
    /// # Errors
    /// The store's.
    pub async fn tasks(&self, filter: TaskFilter) -> Result<Vec<TaskRow>, StoreError> {
        self.read_newest(move |conn| {
            let mut statement = conn.prepare(&listing(&filter))?;
            let (agent, owner) = (filter.agent.as_ref().map(AgentName::as_str), filter.owner.as_ref().map(PersonName::as_str));
            let subject = filter.subject.as_ref().map(PersonName::as_str);
            let rows = statement.query_map((agent, owner, subject, filter.state, limit(filter.limit)), raw)?;
            rows.map(|row| parse(row?)).collect()
        })
        .await
    }
}

/// The sets of labels that tasks of this running copy carry, or carried up to their end.
fn of_copy(conn: &Connection, agent: &AgentName, instance: InstanceId, named: bool) -> Result<Vec<Labels>, StoreError> {
    let whose = if named { "json_extract(task, '$.instance') = ?2" } else { "(named = 0 OR json_extract(task, '$.instance') = ?2)" };
    let mut statement =
        conn.prepare_cached(&format!("SELECT DISTINCT labels FROM tasks INDEXED BY tasks_labelled WHERE agent = ?1 AND labels <> '[]' AND {whose}"))?;
    let rows = statement.query_map((agent.as_str(), instance.to_string()), |r| r.get::<_, String>(0))?;
    rows.map(|labels| Ok(serde_json::from_str(&labels?)?)).collect()
}

/// The statement that lists them.
pub(crate) fn listing(filter: &TaskFilter) -> String {
    // Tasks that have not ended are few, and have an index; the planner knows neither which state is asked for nor that they are few.
    let (by, few) = match (filter.parent, filter.state) {
        (None, Some("open" | "closing")) => ("INDEXED BY tasks_state", "state <> 'closed' AND "),
        _ => ("", ""),
    };
    // So that the index of parts is used; a parameter that is not in the text may not be given.
    let part = filter.parent.map(|parent| format!("AND parent = x'{:032x}'", u128::from_be_bytes(parent.to_bytes()))).unwrap_or_default();
    format!(
        "{SINCE_ANCHOR} SELECT tasks.task, state_json, used + coalesce(calls, 0), labels FROM tasks {by} LEFT JOIN since ON since.task = id
         WHERE {few}(?1 IS NULL OR agent = ?1) AND (?2 IS NULL OR owner = ?2) AND (?3 IS NULL OR subject = ?3) AND (?4 IS NULL OR state = ?4)
         {part} ORDER BY id DESC LIMIT ?5"
    )
}

type Raw = (String, String, u64, String);

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok((row.get(0)?, row.get(1)?, row.get::<_, Count>(2)?.0, row.get(3)?))
}

fn parse((task, state, used, labels): Raw) -> Result<TaskRow, StoreError> {
    Ok(TaskRow { task: serde_json::from_str(&task)?, state: serde_json::from_str(&state)?, used, labels: serde_json::from_str(&labels)? })
}
