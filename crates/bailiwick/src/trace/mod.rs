//! A trace: everything on record about one call, from the model that was claimed to the person who answers, put together from the
//! ledger, each entry with its proof. And the other ways to ask: by what an entry says, by person, by task, by time.

pub mod asked;
pub mod changes;
pub mod difference;
pub mod person;
pub mod proof;

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_core::hold::HoldState;
use bailiwick_core::{CallId, Hold, HoldId, IncidentId, LeaseId, PersonName, TaskId, Timestamp};
use bailiwick_store::{EntryRow, Fact, Field, Search, Store, StoreError, TaskRow};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

pub use proof::{Entry, Head, Nodes};

/// What a trace is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Subject {
    /// A call.
    Call(CallId),
    /// A held call.
    Hold(HoldId),
    /// A task.
    Task(TaskId),
    /// An incident.
    Incident(IncidentId),
    /// A lease.
    Lease(LeaseId),
    /// The entry at an index.
    Entry(u64),
}

impl std::str::FromStr for Subject {
    type Err = NoSubject;

    fn from_str(text: &str) -> Result<Self, NoSubject> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let index = || digits.then(|| text.parse().ok().map(Self::Entry)).flatten();
        let call = text.parse().ok().map(Self::Call).or_else(|| text.parse().ok().map(Self::Hold));
        call.or_else(|| text.parse().ok().map(Self::Task))
            .or_else(|| text.parse().ok().map(Self::Incident))
            .or_else(|| text.parse().ok().map(Self::Lease))
            .or_else(index)
            .ok_or(NoSubject)
    }
}

/// A text that names nothing that can be traced.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("expected a call, a held call, a task, a lease, an incident, or the index of an entry")]
pub struct NoSubject;

/// Entries of a task that its trace shows, from its opening on. All of them are found by [`asked`].
const OF_TASK_MAX: usize = 200;
/// Entries of a task beside those of the call that a trace shows: opening, end, leases.
const BESIDE_MAX: usize = 100;

/// Everything on record about a call.
#[derive(Debug, Serialize, ToSchema)]
pub struct Trace {
    /// The call that was made, or the one that was held first. None for an entry that belongs to no call.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub call: Option<CallId>,
    /// From the claimed model to the owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<Chain>,
    /// The task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TracedTask>,
    /// What was decided, and by which policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// The hold, if it waited for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<TracedHold>,
    /// The approvals, in order: the approval's own members with `hold` and `entry`.
    #[schema(value_type = Vec<Object>)]
    pub approvals: Vec<Value>,
    /// Where the permit stands in the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intent: Option<u64>,
    /// The credential with which it was sent, if that was made for the task, from its making to its ending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<TracedLease>,
    /// What became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Every entry that the trace is made of, in order.
    pub entries: Vec<Entry>,
    /// The signed head under which they stand.
    pub ledger: Head,
    #[serde(skip)]
    concerned: BTreeSet<PersonName>,
}

/// From the claimed model to the owner.
#[derive(Debug, Serialize, ToSchema)]
pub struct Chain {
    /// The model that the agent said it runs. Claimed, never trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_claimed: Option<String>,
    /// The model that an issuer whom we trust attested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_attested: Option<String>,
    /// The agent's SPIFFE ID: the current actor.
    pub agent: String,
    /// The component of it that acts, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// It acts as a bundle of components that nobody told apart.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub undivided: bool,
    /// The running copy.
    pub instance: String,
    /// The actors before, nearest first.
    pub actors: Vec<String>,
    /// The hops before, nearest first: `task`, `agent`, `spiffe_id`, `component`, `instance` and `owner` of each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub hops: Vec<bailiwick_core::Hop>,
    /// The `jti` of the token that was presented.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// On whose behalf.
    pub subject: String,
    /// Who answers.
    pub owner: String,
}

/// The task of a call.
#[derive(Debug, Serialize, ToSchema)]
pub struct TracedTask {
    /// Its id.
    #[schema(value_type = String)]
    pub id: TaskId,
    /// What it was for, in the agent's words.
    pub purpose: String,
    /// The agent's SPIFFE ID.
    pub spiffe_id: String,
    /// The running copy.
    pub instance: String,
    /// The claimed model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_claimed: Option<String>,
    /// On whose behalf.
    pub subject: String,
    /// Who answers.
    pub owner: String,
    /// When it was opened.
    #[schema(value_type = String)]
    pub opened_at: Timestamp,
    /// When it ended, or ends, by itself.
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
    /// `open`, `closing` or `closed`.
    pub state: &'static str,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Calls that were permitted.
    pub calls_used: u64,
    /// How each thing that it used ended: `system` and `ending`.
    #[schema(value_type = Vec<Object>)]
    pub endings: Vec<Value>,
}

/// What was decided.
#[derive(Debug, Serialize, ToSchema)]
pub struct Decision {
    /// `allow`, `deny` or `hold`.
    pub verdict: &'static str,
    /// The tool.
    pub tool: String,
    /// Its effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// Where it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What permit and approval are bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Keyed digest of the arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    /// The policy revision in force.
    pub revision: String,
    /// The determining policies: `id` and `reason`.
    #[schema(value_type = Vec<Object>)]
    pub policies: Vec<Value>,
    /// The code of a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// A denial in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Where it stands in the ledger.
    pub entry: u64,
}

/// The hold of a call.
#[derive(Debug, Serialize, ToSchema)]
pub struct TracedHold {
    /// Its id.
    #[schema(value_type = String)]
    pub id: HoldId,
    /// `pending`, `approved`, `refused`, `expired`, `withdrawn` or `consumed`.
    pub state: &'static str,
    /// Why it was held.
    pub reasons: String,
    /// Whose approval counts.
    #[schema(value_type = Vec<String>)]
    pub people: Vec<PersonName>,
    /// How many were needed.
    pub count: usize,
    /// When it was held.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// Until when it could be decided or used.
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
    /// Who refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub refused_by: Option<PersonName>,
    /// Why, in that person's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// A credential that was made for a task.
#[derive(Debug, Serialize, ToSchema)]
pub struct TracedLease {
    /// Its id.
    pub id: String,
    /// The system.
    pub system: String,
    /// The kind of credential.
    pub kind: String,
    /// The rights' class.
    pub class: String,
    /// The name of its account at the system, by which the system's own log has it.
    pub account: String,
    /// What it could do there, in the kind's own words.
    #[schema(value_type = Vec<Object>)]
    pub rights: Vec<Value>,
    /// The last step that is on record: `intended`, `live`, `ended`.
    pub state: String,
    /// How it ended, with what was tried and seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub ending: Option<Value>,
    /// Where its steps stand in the ledger.
    pub entries: Vec<u64>,
}

/// What became of a permitted call.
#[derive(Debug, Serialize, ToSchema)]
pub struct Outcome {
    /// `done`, `failed`, `unknown` or `not_sent`.
    pub result: String,
    /// The error code, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Keyed digest of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// How long the answer was, in bytes.
    pub answer_bytes: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Where it stands in the ledger.
    pub entry: u64,
}

impl Trace {
    /// Puts together what is on record, from any log: a running house's, or one that is only read. `None` if there is nothing under that
    /// name.
    ///
    /// # Errors
    /// The store's.
    pub async fn of(store: &Store, nodes: &Nodes, subject: Subject) -> Result<Option<Self>, StoreError> {
        let mut gathered = Gathered::default();
        match subject {
            Subject::Call(call) => gathered.call(store, call).await?,
            Subject::Hold(hold) => gathered.held(store, hold).await?,
            Subject::Entry(index) => gathered.entry(store, index).await?,
            Subject::Task(task) => gathered.whole_task(store, task).await?,
            Subject::Incident(incident) => gathered.incident(store, incident).await?,
            Subject::Lease(lease) => gathered.leased(store, lease).await?,
        }
        if gathered.rows.is_empty() {
            return Ok(None);
        }
        gathered.of_task(store).await?;
        // The head after the entries: it covers all of them.
        let head = store.head();
        let entries = nodes.prove(store, &head, std::mem::take(&mut gathered.rows).into_values().collect()).await?;
        gathered.entries = entries.into_iter().map(|e| (e.index, e)).collect();
        Ok(Some(gathered.trace(Head::of(&head))))
    }

    /// Does it concern this person: as owner, subject, or one of those who were asked?
    #[must_use]
    pub fn concerns(&self, person: &PersonName) -> bool {
        self.concerned.contains(person)
    }
}

/// Entries by index, each with its body, and the rows that belong to them.
#[derive(Default)]
struct Gathered {
    rows: BTreeMap<u64, EntryRow>,
    entries: BTreeMap<u64, Entry>,
    call: Option<CallId>,
    hold: Option<Hold>,
    lease: Option<LeaseId>,
    task: Option<TaskRow>,
    task_id: Option<TaskId>,
}

/// A member of an entry's body.
fn member<T: std::str::FromStr>(row: &EntryRow, name: &str) -> Option<T> {
    let body: Value = serde_json::from_slice(&row.body).ok()?;
    body.get(name)?.as_str()?.parse().ok()
}

/// Is an entry about this call or this task, by its own word: alone, or as one of several?
fn names<T: std::str::FromStr + PartialEq>(row: &EntryRow, name: &str, id: T) -> bool {
    let body: Value = serde_json::from_slice(&row.body).unwrap_or(Value::Null);
    let many = body.get(format!("{name}s")).and_then(Value::as_array);
    many.into_iter().flatten().chain(body.get(name)).filter_map(Value::as_str).any(|text| text.parse().is_ok_and(|other: T| other == id))
}

impl Gathered {
    fn take(&mut self, row: EntryRow) {
        self.task_id = self.task_id.or_else(|| member(&row, "task"));
        self.rows.insert(row.index, row);
    }

    async fn entries_of(&mut self, store: &Store, call: CallId) -> Result<(), StoreError> {
        // Only by the entry's own word: what stands beside it in the store is in no tree.
        let rows = store.entries_of_call(call).await?.into_iter().filter(|row| row.body.is_empty() || names(row, "call", call));
        rows.for_each(|row| self.take(row));
        Ok(())
    }

    /// A call with its hold: the one that it was held by, or whose approval it spent.
    async fn call(&mut self, store: &Store, call: CallId) -> Result<(), StoreError> {
        self.call = Some(call);
        self.entries_of(store, call).await?;
        // The intent's, unless the system had lost that one, and the call was given another.
        let says = |row: &EntryRow, name: &str, one_of: &[&str]| member::<String>(row, name).is_some_and(|word| one_of.contains(&&*word));
        let given = |row: &EntryRow| says(row, "kind", &["lease"]) && says(row, "state", &["assigned", "live"]);
        let sent_with = self.rows.values().filter(|row| says(row, "kind", &["intent"]) || given(row));
        if let Some(lease) = sent_with.filter_map(|row| member::<LeaseId>(row, "lease")).next_back() {
            self.leased(store, lease).await?;
        }
        match self.rows.values().find_map(|row| member::<HoldId>(row, "hold")) {
            Some(hold) => self.held(store, hold).await,
            None => Ok(()),
        }
    }

    /// A hold with the call that was held, and the one that was made with its approval.
    async fn held(&mut self, store: &Store, hold: HoldId) -> Result<(), StoreError> {
        let Some(hold) = store.hold(hold).await? else { return Ok(()) };
        self.entries_of(store, hold.call).await?;
        self.call = self.call.or(Some(hold.call));
        if let HoldState::Consumed { call, .. } = hold.state {
            self.entries_of(store, call).await?;
            self.call = Some(call);
        }
        self.task_id = self.task_id.or(Some(hold.task));
        self.hold = Some(hold);
        Ok(())
    }

    async fn entry(&mut self, store: &Store, index: u64) -> Result<(), StoreError> {
        let Some(row) = store.entry(index).await? else { return Ok(()) };
        let call = member(&row, "call");
        self.take(row);
        match call {
            Some(call) => self.call(store, call).await,
            None => Ok(()),
        }
    }

    /// The steps of one lease.
    async fn leased(&mut self, store: &Store, lease: LeaseId) -> Result<(), StoreError> {
        self.lease = Some(lease);
        let facts = vec![(Field::Thing, lease.to_string()), (Field::Kind, "lease".to_owned())];
        let found = store.search(Search { facts, limit: BESIDE_MAX, ..Search::default() }).await?;
        found.rows.into_iter().for_each(|row| self.take(row));
        Ok(())
    }

    async fn incident(&mut self, store: &Store, incident: IncidentId) -> Result<(), StoreError> {
        let facts = vec![(Field::Thing, incident.to_string()), (Field::Kind, "incident".to_owned())];
        let found = store.search(Search { facts, limit: 1, ..Search::default() }).await?;
        found.rows.into_iter().for_each(|row| self.take(row));
        Ok(())
    }

    async fn whole_task(&mut self, store: &Store, task: TaskId) -> Result<(), StoreError> {
        let rows = store.entries_of_task(task, 0, OF_TASK_MAX).await?.into_iter().filter(|row| row.body.is_empty() || names(row, "task", task));
        rows.for_each(|row| self.take(row));
        self.task_id = Some(task);
        Ok(())
    }

    /// The task's row, and the entries of its beginning, its leases and its end.
    async fn of_task(&mut self, store: &Store) -> Result<(), StoreError> {
        let Some(id) = self.task_id else { return Ok(()) };
        self.task = store.task(id).await?;
        for kind in ["task_opened", "task_ended", "lease"] {
            let facts: Vec<Fact> = vec![(Field::Kind, kind.to_owned())];
            let found = store.search(Search { facts, task: Some(id), limit: BESIDE_MAX, ..Search::default() }).await?;
            found.rows.into_iter().for_each(|row| self.take(row));
        }
        Ok(())
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl DoubleEndedIterator<Item = &'a Entry> {
        self.entries.values().filter(move |e| e.entry.get("kind").and_then(Value::as_str) == Some(kind))
    }

    fn trace(self, ledger: Head) -> Trace {
        let intent = self.of_kind("intent").next_back();
        let decided = intent
            .map(|e| (e, "allow"))
            .or_else(|| self.of_kind("denial").next_back().map(|e| (e, "deny")))
            .or_else(|| self.of_kind("hold").next().map(|e| (e, "hold")));
        let outcome = self.of_kind("outcome").next_back().map(outcome);
        let approvals = self.of_kind("hold_step").filter_map(approval).collect();
        let endings = self.of_kind("task_ended").filter_map(|e| e.entry.get("endings")?.as_array()).flatten().cloned().collect();
        Trace {
            call: self.call,
            chain: self.chain(decided.map(|(e, _)| e)),
            decision: decided.map(|(e, verdict)| decision(e, verdict)),
            hold: self.hold.as_ref().map(hold),
            approvals,
            intent: intent.map(|e| e.index),
            outcome,
            lease: self.lease.and_then(|id| self.traced_lease(id)),
            concerned: self.concerned(),
            task: self.task.as_ref().map(|row| task(row, endings)),
            entries: self.entries.into_values().collect(),
            ledger,
        }
    }

    fn traced_lease(&self, id: LeaseId) -> Option<TracedLease> {
        let id = id.to_string();
        let steps: Vec<&Entry> = self.of_kind("lease").filter(|e| text(&e.entry, "lease").as_ref() == Some(&id)).collect();
        let last = steps.last()?;
        let of = |name: &str| text(&last.entry, name).unwrap_or_default();
        Some(TracedLease {
            system: of("system"),
            kind: of("credential_kind"),
            class: of("class"),
            account: of("account"),
            rights: last.entry.get("rights").and_then(Value::as_array).cloned().unwrap_or_default(),
            state: of("state"),
            ending: last.entry.get("ended").cloned(),
            entries: steps.iter().map(|e| e.index).collect(),
            id,
        })
    }

    /// As the entry of the decision says it; by the task where there is none.
    fn chain(&self, decided: Option<&Entry>) -> Option<Chain> {
        let task = self.task.as_ref().map(|row| &row.task);
        let of = |name: &str, else_: Option<String>| decided.and_then(|e| text(&e.entry, name)).or(else_);
        let actors = decided.and_then(|e| e.entry.get("actors")?.as_array()).into_iter().flatten();
        Some(Chain {
            model_claimed: task.and_then(|t| t.model_claimed.clone()),
            model_attested: task.and_then(|t| t.model_attested.clone()),
            component: of("component", task.and_then(|t| t.component.as_ref().map(ToString::to_string))),
            undivided: task.is_some_and(|t| t.undivided),
            hops: task.map(|t| t.chain.clone()).unwrap_or_default(),
            agent: of("agent", task.map(|t| t.spiffe_id.to_string()))?,
            instance: of("instance", task.map(|t| t.instance.to_string()))?,
            actors: actors.filter_map(|a| a.as_str().map(str::to_owned)).collect(),
            token: of("token", None),
            subject: of("subject", task.map(|t| t.subject.to_string()))?,
            owner: of("owner", task.map(|t| t.owner.to_string()))?,
        })
    }

    fn concerned(&self) -> BTreeSet<PersonName> {
        let own = self.task.iter().flat_map(|row| [row.task.owner.clone(), row.task.subject.clone()]);
        // Those whose agents gave the work on are concerned too.
        let task = own.chain(self.task.iter().flat_map(|row| row.task.chain.iter().map(|hop| hop.owner.clone())));
        let hold = self.hold.iter().flat_map(|h| h.people.iter().cloned());
        task.chain(hold).collect()
    }
}

fn text(entry: &Value, name: &str) -> Option<String> {
    entry.get(name)?.as_str().map(str::to_owned)
}

fn number(entry: &Value, name: &str) -> u64 {
    entry.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn decision(e: &Entry, verdict: &'static str) -> Decision {
    let of = |name: &str| text(&e.entry, name);
    Decision {
        verdict,
        tool: of("tool").unwrap_or_default(),
        effect: of("effect"),
        target: of("target"),
        digest: of("digest"),
        arguments: of("arguments"),
        revision: of("revision").unwrap_or_default(),
        policies: e.entry.get("policies").and_then(Value::as_array).cloned().unwrap_or_default(),
        code: of("code"),
        detail: of("detail"),
        entry: e.index,
    }
}

fn outcome(e: &Entry) -> Outcome {
    let of = |name: &str| text(&e.entry, name);
    Outcome {
        result: of("result").unwrap_or_default(),
        code: of("code"),
        answer: of("answer"),
        answer_bytes: number(&e.entry, "answer_bytes"),
        duration_ms: number(&e.entry, "duration_ms"),
        entry: e.index,
    }
}

fn approval(e: &Entry) -> Option<Value> {
    let mut approval = e.entry.get("approval")?.as_object()?.clone();
    approval.insert("hold".to_owned(), e.entry.get("hold").cloned().unwrap_or_default());
    approval.insert("entry".to_owned(), Value::from(e.index));
    Some(Value::Object(approval))
}

fn hold(hold: &Hold) -> TracedHold {
    let (refused_by, refusal) = match &hold.state {
        HoldState::Refused { by, reason, .. } => (Some(by.clone()), Some(reason.clone())),
        HoldState::Pending | HoldState::Approved { .. } | HoldState::Expired { .. } | HoldState::Withdrawn { .. } | HoldState::Consumed { .. } => {
            (None, None)
        }
    };
    TracedHold {
        id: hold.id,
        state: hold.state.word(),
        reasons: hold.reasons.clone(),
        people: hold.people.clone(),
        count: hold.count,
        at: hold.at,
        expires_at: hold.expires_at,
        refused_by,
        refusal,
    }
}

fn task(row: &TaskRow, endings: Vec<Value>) -> TracedTask {
    let task = &row.task;
    TracedTask {
        id: task.id,
        purpose: task.purpose.clone(),
        spiffe_id: task.spiffe_id.to_string(),
        instance: task.instance.to_string(),
        model_claimed: task.model_claimed.clone(),
        subject: task.subject.to_string(),
        owner: task.owner.to_string(),
        opened_at: task.opened_at,
        expires_at: task.expires_at,
        state: row.state.word(),
        reason: row.state.reason().map(bailiwick_core::EndReason::word),
        calls_used: row.used,
        endings,
    }
}
