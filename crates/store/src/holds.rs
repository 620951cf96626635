//! Held calls: one for identical calls, changed only from what was seen, and spent only by an intent.

use bailiwick_core::hold::HoldState;
use bailiwick_core::{AgentName, CallId, Digest, Hold, HoldId, PersonName, TaskId, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::authority::Usable;
use crate::entry::{Entry, kind};
use crate::error::{Reason, StoreError};
use crate::sql::{At, Count, digest, limit, parsed};
use crate::store::Store;
use crate::writing::Writing;

/// Too many calls of the task are waiting for people already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// Which holds to list. Newest first.
#[derive(Clone, Debug)]
pub struct HoldFilter {
    /// Only of this task.
    pub task: Option<TaskId>,
    /// Only of this agent.
    pub agent: Option<AgentName>,
    /// Only those on which this person's approval counts.
    pub approver: Option<PersonName>,
    /// Only in this state, by its word.
    pub state: Option<&'static str>,
    /// At most so many.
    pub limit: usize,
}

impl Default for HoldFilter {
    fn default() -> Self {
        Self { task: None, agent: None, approver: None, state: None, limit: 100 }
    }
}

const COLUMNS: &str = "SELECT id, key, task, call, agent, owner, subject, tool, effect, target, arguments, digest, revision, people, count,
    reasons, approvals, at, expires_at, state_json FROM holds";

impl Writing<'_> {
    /// Finds the hold of the same key and task that is pending, approved or refused and not over, or makes this one. Two identical
    /// calls at once get one hold. A refused one is found until its time is over, so that people are not asked again and again.
    ///
    /// # Errors
    /// `Conflict` if the hold's id is taken, its task is not open, or it is not pending.
    pub fn hold_open(&mut self, hold: &Hold, body: Vec<u8>, pending_max_of_task: usize) -> Result<Result<Hold, TooMany>, StoreError> {
        if hold.state != HoldState::Pending {
            return Err(StoreError::conflict("a hold begins pending"));
        }
        if self.state.task(hold.task).is_none() {
            return Err(StoreError::conflict("the task of the hold is not open"));
        }
        let found = self
            .conn
            .prepare_cached(&format!(
                "{COLUMNS} WHERE key = ?1 AND task = ?2 AND state IN ('pending', 'approved', 'refused') AND expires_at > ?3 ORDER BY id DESC LIMIT 1"
            ))?
            .query_row((hold.key.as_bytes(), hold.task.to_bytes(), hold.at.as_millis()), raw)
            .optional()?;
        if let Some(found) = found {
            return found.parse().map(Ok);
        }
        let pending: i64 = self
            .conn
            .prepare_cached("SELECT count(*) FROM holds WHERE task = ?1 AND state = 'pending' AND expires_at > ?2")?
            .query_row((hold.task.to_bytes(), hold.at.as_millis()), |r| r.get(0))?;
        if pending >= limit(pending_max_of_task) {
            return Ok(Err(TooMany));
        }
        insert(self.conn, hold)?;
        self.append(Entry::new(kind::HOLD_OPENED, body).of_task(hold.task).of_call(hold.call))?;
        Ok(Ok(hold.clone()))
    }

    /// Replaces state and approvals of a hold if they are still those of `seen`. False: someone else was first.
    ///
    /// # Errors
    /// `Conflict` for a change to `consumed`, which only an intent makes, or between different holds.
    pub fn hold_update(&mut self, seen: &Hold, hold: &Hold, body: Vec<u8>) -> Result<bool, StoreError> {
        if matches!(hold.state, HoldState::Consumed { .. }) || seen.id != hold.id || seen.task != hold.task {
            return Err(StoreError::conflict("a hold is consumed only by the call that it releases"));
        }
        let changed = self
            .conn
            .prepare_cached(
                "UPDATE holds SET state = ?2, state_json = ?3, approvals = ?4, expires_at = ?5 WHERE id = ?1 AND state_json = ?6 AND approvals = ?7",
            )?
            .execute((
                hold.id.to_bytes(),
                hold.state.word(),
                serde_json::to_string(&hold.state)?,
                serde_json::to_string(&hold.approvals)?,
                hold.expires_at.as_millis(),
                serde_json::to_string(&seen.state)?,
                serde_json::to_string(&seen.approvals)?,
            ))?;
        if changed == 0 {
            return Ok(false);
        }
        let approved = matches!(hold.state, HoldState::Approved { .. });
        self.state.set_approval(hold.id, approved.then_some(Usable { task: hold.task, expires_at: hold.expires_at }));
        self.append(Entry::new(kind::HOLD_CHANGED, body).of_task(hold.task).of_call(hold.call))?;
        Ok(true)
    }

    /// Spends an approval where another enforcement point is told yes, once. False: it is not there to be spent any more.
    ///
    /// # Errors
    /// The store's.
    pub fn hold_spend(&mut self, seen: &Hold, call: CallId, at: Timestamp) -> Result<bool, StoreError> {
        if at >= seen.expires_at || self.state.task(seen.task).is_none() {
            return Ok(false);
        }
        let state = HoldState::Consumed { call, at };
        let changed = self
            .conn
            .prepare_cached(
                "UPDATE holds SET state = ?2, state_json = ?3 WHERE id = ?1 AND state = 'approved' AND state_json = ?4 AND approvals = ?5",
            )?
            .execute((
                seen.id.to_bytes(),
                state.word(),
                serde_json::to_string(&state)?,
                serde_json::to_string(&seen.state)?,
                serde_json::to_string(&seen.approvals)?,
            ))?;
        if changed == 1 {
            self.state.set_approval(seen.id, None);
        }
        Ok(changed == 1)
    }

    /// Takes back whatever a task still waits for.
    pub(crate) fn withdraw_holds(&mut self, task: TaskId, state: &HoldState) -> Result<Vec<HoldId>, StoreError> {
        let mut statement = self
            .conn
            .prepare_cached("UPDATE holds SET state = ?2, state_json = ?3 WHERE task = ?1 AND state IN ('pending', 'approved') RETURNING id")?;
        let rows = statement.query_map((task.to_bytes(), state.word(), serde_json::to_string(state)?), |r| r.get(0))?;
        let withdrawn: Vec<HoldId> = rows.map(|id| id.map(HoldId::from_bytes)).collect::<Result<_, _>>()?;
        for id in &withdrawn {
            self.state.set_approval(*id, None);
        }
        Ok(withdrawn)
    }
}

/// Marks an approval as spent by a call that memory has admitted.
pub(crate) fn consume(conn: &Connection, id: HoldId, call: CallId, at: Timestamp) -> Result<(), StoreError> {
    let state = HoldState::Consumed { call, at };
    let changed = conn.prepare_cached("UPDATE holds SET state = ?2, state_json = ?3 WHERE id = ?1 AND state = 'approved'")?.execute((
        id.to_bytes(),
        state.word(),
        serde_json::to_string(&state)?,
    ))?;
    if changed == 1 { Ok(()) } else { Err(StoreError::unavailable(Reason::Disagrees, format!("{id} is approved in memory but not on disk"))) }
}

impl Store {
    /// One hold for identical calls, durably. See [`Writing::hold_open`].
    ///
    /// # Errors
    /// As there.
    pub async fn hold_open(&self, hold: &Hold, body: Vec<u8>, pending_max_of_task: usize) -> Result<Result<Hold, TooMany>, StoreError> {
        let mut stored = hold.clone();
        stored.arguments = self.sealed_text(&text_name(hold.id), &hold.arguments)?.into();
        match self.write(move |w| w.hold_open(&stored, body, pending_max_of_task)).await? {
            Ok(found) => self.readable(found).map(Ok),
            Err(many) => Ok(Err(many)),
        }
    }

    /// The hold with its arguments as they came.
    fn readable(&self, mut hold: Hold) -> Result<Hold, StoreError> {
        hold.arguments = self.opened_text(&text_name(hold.id), hold.arguments.to_vec())?.into();
        Ok(hold)
    }

    /// Compare and set, durably. See [`Writing::hold_update`].
    ///
    /// # Errors
    /// As there.
    pub async fn hold_update(&self, seen: &Hold, hold: &Hold, body: Vec<u8>) -> Result<bool, StoreError> {
        let (seen, hold) = (seen.clone(), hold.clone());
        self.write(move |w| w.hold_update(&seen, &hold, body)).await
    }

    /// One hold.
    ///
    /// # Errors
    /// The store's.
    pub async fn hold(&self, id: HoldId) -> Result<Option<Hold>, StoreError> {
        let found = self
            .read(move |conn| {
                let mut statement = conn.prepare_cached(&format!("{COLUMNS} WHERE id = ?1"))?;
                statement.query_row([id.to_bytes()], raw).optional()?.map(Raw::parse).transpose()
            })
            .await?;
        found.map(|hold| self.readable(hold)).transpose()
    }

    /// The newest hold of a key in a task, in whatever state.
    ///
    /// # Errors
    /// The store's.
    pub async fn hold_by_key(&self, key: Digest, task: TaskId) -> Result<Option<Hold>, StoreError> {
        let found = self
            .read(move |conn| {
                let mut statement = conn.prepare_cached(&format!("{COLUMNS} WHERE key = ?1 AND task = ?2 ORDER BY id DESC LIMIT 1"))?;
                statement.query_row((key.as_bytes(), task.to_bytes()), raw).optional()?.map(Raw::parse).transpose()
            })
            .await?;
        found.map(|hold| self.readable(hold)).transpose()
    }

    /// Holds, newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn holds(&self, filter: HoldFilter) -> Result<Vec<Hold>, StoreError> {
        let found: Vec<Hold> = self
            .read(move |conn| {
                let mut statement = conn.prepare_cached(&format!(
                    "{COLUMNS} WHERE (?1 IS NULL OR task = ?1) AND (?2 IS NULL OR agent = ?2) AND (?3 IS NULL OR state = ?3)
                 AND (?4 IS NULL OR EXISTS (SELECT 1 FROM json_each(people) WHERE value = ?4)) ORDER BY id DESC LIMIT ?5"
                ))?;
                let (task, agent) = (filter.task.map(TaskId::to_bytes), filter.agent.as_ref().map(AgentName::as_str));
                let approver = filter.approver.as_ref().map(PersonName::as_str);
                let rows = statement.query_map((task, agent, filter.state, approver, limit(filter.limit)), raw)?;
                rows.map(|row| row?.parse()).collect()
            })
            .await?;
        found.into_iter().map(|hold| self.readable(hold)).collect()
    }
}

/// The name under which a hold's arguments are sealed.
fn text_name(id: HoldId) -> String {
    format!("hold/{id}")
}

fn insert(conn: &Connection, hold: &Hold) -> Result<(), StoreError> {
    let mut statement = conn.prepare_cached(
        "INSERT INTO holds (id, key, task, call, agent, owner, subject, tool, effect, target, arguments, digest, revision, people, count,
            reasons, approvals, at, expires_at, state, state_json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
    )?;
    statement.execute(rusqlite::params![
        hold.id.to_bytes(),
        hold.key.as_bytes(),
        hold.task.to_bytes(),
        hold.call.to_bytes(),
        hold.agent.as_str(),
        hold.owner.as_str(),
        hold.subject.as_str(),
        hold.tool.as_str(),
        hold.effect.word(),
        hold.target,
        hold.arguments.as_ref(),
        hold.digest.as_bytes(),
        hold.revision,
        serde_json::to_string(&hold.people)?,
        limit(hold.count),
        hold.reasons,
        serde_json::to_string(&hold.approvals)?,
        hold.at.as_millis(),
        hold.expires_at.as_millis(),
        hold.state.word(),
        serde_json::to_string(&hold.state)?,
    ])?;
    Ok(())
}

/// A row as SQLite gives it, before its texts are parsed.
struct Raw {
    ids: ([u8; 16], [u8; 32], [u8; 16], [u8; 16]),
    agent: String,
    owner: String,
    subject: String,
    tool: String,
    effect: String,
    target: String,
    arguments: Vec<u8>,
    digest: [u8; 32],
    revision: String,
    people: String,
    count: u64,
    reasons: String,
    approvals: String,
    at: Timestamp,
    expires_at: Timestamp,
    state: String,
}

fn raw(r: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok(Raw {
        ids: (r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?),
        agent: r.get(4)?,
        owner: r.get(5)?,
        subject: r.get(6)?,
        tool: r.get(7)?,
        effect: r.get(8)?,
        target: r.get(9)?,
        arguments: r.get(10)?,
        digest: r.get(11)?,
        revision: r.get(12)?,
        people: r.get(13)?,
        count: r.get::<_, Count>(14)?.0,
        reasons: r.get(15)?,
        approvals: r.get(16)?,
        at: r.get::<_, At>(17)?.0,
        expires_at: r.get::<_, At>(18)?.0,
        state: r.get(19)?,
    })
}

impl Raw {
    fn parse(self) -> Result<Hold, StoreError> {
        let (id, key, task, call) = self.ids;
        Ok(Hold {
            id: HoldId::from_bytes(id),
            call: CallId::from_bytes(call),
            task: TaskId::from_bytes(task),
            agent: parsed(&self.agent)?,
            owner: parsed(&self.owner)?,
            subject: parsed(&self.subject)?,
            tool: parsed(&self.tool)?,
            effect: parsed(&self.effect)?,
            target: self.target,
            arguments: self.arguments.into(),
            key: digest(key),
            digest: digest(self.digest),
            revision: self.revision,
            people: serde_json::from_str(&self.people)?,
            count: usize::try_from(self.count).unwrap_or(usize::MAX),
            reasons: self.reasons,
            approvals: serde_json::from_str(&self.approvals)?,
            at: self.at,
            expires_at: self.expires_at,
            state: serde_json::from_str(&self.state)?,
        })
    }
}
