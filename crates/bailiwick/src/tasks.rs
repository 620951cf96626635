//! Tasks: opened with what policy allows of what was asked, ended once and for all.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bailiwick_core::{
    Agent, AgentName, Budget, Constraint, EndReason, ErrorCode, Grant, HeldBy, InstanceId, PersonName, Task, TaskId, TaskState, Timestamp, ToolGrant,
};
use bailiwick_identity::token::{Acting, Issued, Purpose, Statement};
use bailiwick_identity::{Confirmation, KeyId};
use bailiwick_policy::{Engine, Possible, TaskQuestion};
use bailiwick_store::{LeaseFilter, LeaseState, Opening, StoreError};
use serde::Deserialize;

use crate::clock::random;
use crate::config::{AgentEntry, ToolPattern};
use crate::entry::{self, Ending, Narrowed};
use crate::house::House;
use crate::live::LiveTask;
use crate::paces::Door;
use crate::registry::ToolEntry;

/// A request for a task, as it is sent.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskRequest {
    /// What it is for, in words.
    pub purpose: String,
    /// The tools that it needs; all that the agent may ask for, if this is left out.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<AskedTool>>,
    /// How long it may take, in seconds.
    pub ttl_seconds: Option<u64>,
    /// On whose behalf; the agent's owner, if this is left out.
    #[schema(value_type = Option<String>)]
    pub on_behalf_of: Option<PersonName>,
    /// The model that the agent runs. Recorded as claimed.
    pub model: Option<String>,
    /// How much it may do.
    pub budget: Option<AskedBudget>,
    /// The consent by which a person opens it for a client. Nobody can send one.
    #[serde(skip)]
    #[schema(ignore)]
    pub consent: Option<crate::consent::Consent>,
    /// What its tokens are to be bound to. Nobody can send it: it is what the token is bound to with which the task is opened.
    #[serde(skip)]
    #[schema(ignore)]
    pub held_by: Option<HeldBy>,
    /// Is it a model that opens it, by a tool of ours? Then it begins with the labels of all that this running copy was given. Nobody can send it.
    #[serde(skip)]
    #[schema(ignore)]
    pub by_model: bool,
}

/// What a task comes from.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// The task that it is a part of.
    pub(crate) parent: Option<Arc<LiveTask>>,
    /// What decides the labels with which it begins.
    pub(crate) opening: Opening,
}

/// A tool, by name or pattern, with bounds on its arguments.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum AskedTool {
    /// `system.tool`, `system.*` or `*`.
    Name(String),
    /// One tool, or all of a pattern, with bounds.
    Bounded(BoundedTool),
}

/// One tool with bounds on its arguments.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundedTool {
    /// `system.tool` or a pattern.
    pub tool: String,
    /// Bounds by argument.
    #[serde(default)]
    pub arguments: BTreeMap<String, Constraint>,
}

/// How much a task wants to do.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskedBudget {
    /// Calls in all.
    pub calls: Option<u64>,
    /// Calls in any minute.
    pub calls_per_minute: Option<u32>,
}

/// The end of a task that is not on record yet.
#[derive(Clone, Debug)]
pub struct EndOwed {
    id: TaskId,
    reason: EndReason,
    by: Option<String>,
    why: Option<String>,
}

/// An end that is being recorded. If that fails, or whoever asked for it goes away meanwhile, it is owed.
struct Owed<'a> {
    house: &'a House,
    end: Option<EndOwed>,
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            self.house.ends_owed.lock().unwrap_or_else(PoisonError::into_inner).push(end);
        }
    }
}

/// A task that was opened.
#[derive(Debug)]
pub struct OpenedTask {
    /// The task.
    pub live: Arc<LiveTask>,
    /// What was not granted.
    pub narrowed: Vec<Narrowed>,
}

/// Why a task is not opened.
#[derive(Debug)]
pub struct TaskRefused {
    /// The code.
    pub code: ErrorCode,
    /// In words.
    pub detail: String,
    /// What was not granted.
    pub narrowed: Vec<Narrowed>,
}

impl TaskRefused {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), narrowed: Vec::new() }
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::OauthRequest, detail)
    }
}

/// Is it said what a task is for?
pub(crate) fn check_purpose(purpose: &str) -> Result<(), TaskRefused> {
    if purpose.trim().is_empty() || purpose.len() > PURPOSE_MAX {
        return Err(TaskRefused::invalid(format!("`purpose` must be 1 to {PURPOSE_MAX} bytes: what is the task for?")));
    }
    Ok(())
}

/// A model that is not one of the agent's lowers what it may do to nothing, whoever says it; one that is raises nothing. An agent that
/// says another model than an issuer whom we trust attested says what is not so.
pub(crate) fn check_model(agent: &Agent, acting: &Acting, claimed: Option<&str>) -> Result<(), TaskRefused> {
    let refused = |words: String| Err(TaskRefused::new(ErrorCode::PolicyDenied, words));
    if let (Some(attested), Some(claimed)) = (acting.model.as_deref(), claimed)
        && attested != claimed
    {
        return refused("the agent names another model than was attested".to_owned());
    }
    let other = |model: &&str| !agent.models.is_empty() && agent.models.iter().all(|m| m != model);
    match acting.model.as_deref().or(claimed).filter(other) {
        Some(_) => refused(format!("agent `{}` may not run this model; its models are in `models`", agent.name)),
        None => Ok(()),
    }
}

/// Does the request ask for tools of this system?
fn wants(asked: &TaskRequest, system: &bailiwick_core::SystemName) -> bool {
    let covers = |text: &str| text == "*" || text.split_once('.').is_some_and(|(first, _)| first == system.as_str());
    asked.tools.as_ref().is_none_or(|tools| {
        tools.iter().any(|tool| match tool {
            AskedTool::Name(name) => covers(name),
            AskedTool::Bounded(bounded) => covers(&bounded.tool),
        })
    })
}

impl From<StoreError> for TaskRefused {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a task was not opened: the ledger cannot be written");
        Self::new(ErrorCode::AuditUnavailable, error.public())
    }
}

/// For whom a task is opened: whoever was asked for, or the agent's owner. An agent that may act for one person only acts for no other.
fn subject_of(agent: &Agent, acting: &Acting, asked: Option<&PersonName>) -> Result<PersonName, TaskRefused> {
    match (&acting.on_behalf_of, asked) {
        (Some(person), Some(asked)) if person != asked => {
            Err(TaskRefused::new(ErrorCode::PolicyDenied, format!("the token lets the agent act for `{person}` only")))
        }
        (Some(person), _) => Ok(person.clone()),
        (None, asked) => Ok(asked.unwrap_or(&agent.owner).clone()),
    }
}

/// How long a task waits to be opened while systems that it asks for are starting.
const FIRST_LISTS: Duration = Duration::from_secs(15);
const PURPOSE_MAX: usize = 500;
const TOO_MUCH_READ: &str = "the tasks of this running copy were given data with more labels than one task can carry; start another copy";
/// Endings that one entry has room for.
const ENDINGS_MAX: usize = 300;
const ASKED_MAX: usize = 200;

impl House {
    /// Is this agent allowed to do anything at all now?
    ///
    /// # Errors
    /// In words for the log: suspended, or overdue for review.
    pub fn in_service(&self, agent: &Agent, now: Timestamp) -> Result<(), String> {
        if !agent.enabled {
            return Err(format!("agent `{}` is suspended by the configuration", agent.name));
        }
        if self.standing.is_suspended(&agent.name) {
            return Err(format!("agent `{}` is suspended by a person", agent.name));
        }
        if !self.directory.is_in_force(&agent.owner) {
            return Err(format!("agent `{}` is suspended: its owner `{}` is disabled", agent.name, agent.owner));
        }
        if now > agent.review_by {
            return Err(format!(
                "agent `{}` is overdue for review since {}; its owner `{}` sets a new `review_by`",
                agent.name, agent.review_by, agent.owner
            ));
        }
        Ok(())
    }

    /// Opens a task: narrows what was asked to what the agent may ask for and policy could ever permit, and says so.
    ///
    /// # Errors
    /// If nothing is left, the request is not valid, or the ledger cannot be written.
    pub async fn open_task(&self, agent: &AgentName, instance: InstanceId, asked: TaskRequest) -> Result<OpenedTask, TaskRefused> {
        self.open_task_of(agent, instance, &Acting::default(), asked).await
    }

    /// As [`House::open_task`], for an agent about which more is proved: the component that it is, the model that it runs.
    ///
    /// # Errors
    /// As there.
    pub async fn open_task_of(
        &self,
        agent: &AgentName,
        instance: InstanceId,
        acting: &Acting,
        asked: TaskRequest,
    ) -> Result<OpenedTask, TaskRefused> {
        let now = self.clock.now();
        let opened = if self.paces.within(agent, Door::Task, now) {
            self.opened(agent, instance, acting, asked, now).await
        } else {
            Err(TaskRefused::new(ErrorCode::LimitExceeded, "the agent opens too many tasks; wait a minute"))
        };
        if let Err(refused) = &opened
            && self.config.agents.contains_key(agent)
        {
            self.note_refused(agent, Door::Task, refused.code).await;
        }
        opened
    }

    async fn opened(
        &self,
        agent: &AgentName,
        instance: InstanceId,
        acting: &Acting,
        asked: TaskRequest,
        now: Timestamp,
    ) -> Result<OpenedTask, TaskRefused> {
        let entry = self.config.agents.get(agent).ok_or_else(|| TaskRefused::new(ErrorCode::ProofInvalid, "there is no such agent"))?;
        let agent = &entry.agent;
        let reach = self.askable(entry, acting)?;
        self.in_service(agent, now).map_err(|why| TaskRefused::new(ErrorCode::PolicyDenied, why))?;
        check_purpose(&asked.purpose)?;
        let subject = subject_of(agent, acting, asked.on_behalf_of.as_ref())?;
        if self.person(subject.as_str()).is_none() {
            return Err(TaskRefused::invalid(format!("there is no person `{subject}`")));
        }
        check_model(agent, acting, asked.model.as_deref())?;
        self.check_open(agent)?;
        self.await_first_lists(&asked).await;
        let (grant, narrowed) = self.narrow(agent, &reach, &subject, &asked, now)?;
        if grant.is_empty() {
            return Err(TaskRefused { narrowed, ..TaskRefused::new(ErrorCode::TaskEmpty, ErrorCode::TaskEmpty.sentence()) });
        }
        let limits = self.config.tasks;
        let ttl = asked.ttl_seconds.map_or(limits.ttl, Duration::from_secs).clamp(Duration::from_secs(1), limits.ttl_max);
        let budget = asked.budget.unwrap_or(AskedBudget { calls: None, calls_per_minute: None });
        let task = Task {
            id: TaskId::new(now, random()),
            agent: agent.name.clone(),
            spiffe_id: agent.spiffe_id.clone(),
            instance,
            owner: agent.owner.clone(),
            subject,
            purpose: asked.purpose,
            model_claimed: asked.model.map(|m| m.chars().take(200).collect()),
            model_attested: acting.model.clone(),
            component: acting.component.clone(),
            undivided: acting.component.is_none() && entry.is_bundle(),
            chain: Vec::new(),
            held_by: asked.held_by,
            proved_by: Some(acting.proved_by()),
            grant,
            budget: Budget {
                calls: budget.calls.unwrap_or(limits.calls_max).min(limits.calls_max),
                calls_per_minute: budget.calls_per_minute.unwrap_or(limits.calls_per_minute_max).min(limits.calls_per_minute_max),
            },
            opened_at: now,
            expires_at: now.plus(ttl),
        };
        let origin = Origin { parent: None, opening: Opening { named: acting.named, by_model: asked.by_model } };
        self.begin(task, origin, narrowed, asked.consent.as_ref(), now).await
    }

    /// Puts a task on record, as a part of another or not.
    pub(crate) async fn begin(
        &self,
        task: Task,
        Origin { parent, opening }: Origin,
        narrowed: Vec<Narrowed>,
        consent: Option<&crate::consent::Consent>,
        now: Timestamp,
    ) -> Result<OpenedTask, TaskRefused> {
        // Known before it is durable: if whoever asks goes away in between, it still ends when its time is over. Until the answer
        // nobody has its id, and no call of it passes the fence.
        let (salt, sealed) = self.new_salt(task.id).map_err(|error| {
            tracing::error!(%error, "a task was not opened: no salt could be made");
            TaskRefused::new(ErrorCode::Internal, ErrorCode::Internal.sentence())
        })?;
        let part = parent.is_some();
        let live = LiveTask::part_of(parent, Arc::new(task), 0, salt);
        self.live.insert(Arc::clone(&live));
        let task = Arc::clone(&live.task);
        let (said, consent, revision) = (narrowed.clone(), consent.cloned(), self.revision());
        let opened = self.store.write(move |w| {
            let labels = w.open_task(&task, opening, |labels| {
                let opened =
                    entry::TaskOpened { task: task.id, opened: &task, narrowed: &said, labels, revision: &revision, consent: consent.as_ref() };
                entry::encode(now, &opened)
            })?;
            w.salt_put(task.id, &sealed)?;
            Ok(labels)
        });
        let labels = match opened.await {
            Ok(labels) => labels,
            Err(error) => {
                self.live.end(live.task.id);
                // Ids are never taken: what the store refuses is a part of a task that ended meanwhile, or has read too much.
                return Err(match error {
                    StoreError::Conflict { .. } if part => TaskRefused::new(ErrorCode::TaskClosed, "the parent task has ended"),
                    StoreError::Conflict { .. } if opening.by_model => TaskRefused::new(ErrorCode::LimitExceeded, TOO_MUCH_READ),
                    error => error.into(),
                });
            }
        };
        if self.labelled(&live, &labels).is_err() {
            self.end_task(live.task.id, EndReason::Revoked, None).await?;
            return Err(TaskRefused::new(ErrorCode::LimitExceeded, TOO_MUCH_READ));
        }
        // What was taken away in the very moment of the opening found no task to end.
        if let Err(why) = self.task_stands(&live) {
            self.end_task_for(live.task.id, EndReason::Revoked, None, Some(&why)).await?;
            return Err(TaskRefused::new(ErrorCode::PolicyDenied, why));
        }
        metrics::counter!("bailiwick_tasks_opened_total").increment(1);
        Ok(OpenedTask { live, narrowed })
    }

    /// The tools that an agent, or the component of it that it proved to be, may ask for: all lists must have one.
    pub(crate) fn askable<'a>(&self, entry: &'a AgentEntry, acting: &Acting) -> Result<Vec<&'a [ToolPattern]>, TaskRefused> {
        let mut reach = vec![entry.tools.as_slice()];
        if let Some(name) = &acting.component {
            let component = entry.components.get(name).ok_or_else(|| TaskRefused::new(ErrorCode::ProofInvalid, "there is no such component"))?;
            reach.push(&component.tools);
        }
        Ok(reach)
    }

    /// Has the agent few enough tasks open for another one?
    pub(crate) fn check_open(&self, agent: &Agent) -> Result<(), TaskRefused> {
        let open = self.live.all().iter().filter(|t| t.task.agent == agent.name).count();
        if open >= usize::try_from(self.config.tasks.open_max).unwrap_or(usize::MAX) {
            return Err(TaskRefused::new(ErrorCode::LimitExceeded, format!("agent `{}` has {open} tasks open; complete some first", agent.name)));
        }
        Ok(())
    }

    /// Could policy ever permit a call of this tool in such a task? `Err` says why not.
    pub(crate) fn ever(&self, engine: &Engine, question: TaskQuestion<'_>, tool: &ToolEntry) -> Result<(), String> {
        if !tool.callable() {
            return Err(format!("the tool is not classified ({}); a reviewer looks at it with `bailiwick tools review`", tool.status.word()));
        }
        match engine.possible(question) {
            Possible::Free | Possible::WithApproval => Ok(()),
            Possible::Never(policies) if policies.is_empty() => Err("no policy could permit it".to_owned()),
            Possible::Never(policies) => Err(bailiwick_core::decision::words(&policies)),
        }
    }

    /// A task that is opened while the broker starts would lose the tools of systems that did not list theirs yet, for its life.
    async fn await_first_lists(&self, asked: &TaskRequest) {
        let mut changed = self.tools_changed.subscribe();
        let deadline = tokio::time::Instant::now() + FIRST_LISTS;
        while self.registry.load().systems.values().any(|s| s.is_starting() && wants(asked, &s.entry.name)) {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return,
                // A system that fails on its way tells nobody: look again now and then.
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
                _ = changed.changed() => {}
            }
        }
    }

    fn narrow(
        &self,
        agent: &Agent,
        reach: &[&[ToolPattern]],
        subject: &PersonName,
        asked: &TaskRequest,
        now: Timestamp,
    ) -> Result<(Grant, Vec<Narrowed>), TaskRefused> {
        let invalid = |detail: String| TaskRefused::new(ErrorCode::OauthRequest, detail);
        let everything = [AskedTool::Name("*".to_owned())];
        let wanted = asked.tools.as_deref().unwrap_or(&everything);
        if wanted.len() > ASKED_MAX {
            return Err(invalid(format!("at most {ASKED_MAX} tools and patterns may be asked for")));
        }
        let registry = self.registry.load();
        let engine = self.engine.load();
        let approvers = self.approvers(&agent.owner, subject);
        let mut grant: BTreeMap<bailiwick_core::ToolName, ToolGrant> = BTreeMap::new();
        let mut narrowed = Vec::new();
        // Each tool is judged once, however many patterns cover it: policy is asked for every tool, and an agent writes the patterns.
        let mut judged: BTreeMap<&bailiwick_core::ToolName, Option<String>> = BTreeMap::new();
        for system in registry.systems.values().filter(|s| s.is_starting() && wants(asked, &s.entry.name)) {
            narrowed.push(Narrowed {
                asked: format!("{}.*", system.entry.name),
                reason: "the system is still starting; open another task in a moment".to_owned(),
            });
        }
        for one in wanted {
            let (text, bounds) = match one {
                AskedTool::Name(name) => (name.as_str(), BTreeMap::new()),
                AskedTool::Bounded(bounded) => (bounded.tool.as_str(), bounded.arguments.clone()),
            };
            if let Some((name, _)) = bounds.iter().find(|(_, c)| c.is_empty()) {
                return Err(invalid(format!("the constraint on `{name}` bounds nothing")));
            }
            if let Some((name, _)) = bounds.iter().find(|(_, c)| !c.is_exact()) {
                return Err(invalid(format!("the bound on `{name}` cannot be kept exactly: it is beyond 2^53")));
            }
            let pattern = ToolPattern::parse(text).map_err(invalid)?;
            let exact = !text.ends_with('*');
            let mut found = false;
            // What the agent may not ask for does not exist for it: neither a pattern nor a guess tells its name.
            let askable = |name| pattern.matches(name) && reach.iter().all(|list| list.iter().any(|p| p.matches(name)));
            for tool in registry.tools().filter(|t| askable(&t.tool.name)) {
                found = true;
                let name = &tool.tool.name;
                if let Some(reason) = judged.get(name) {
                    if reason.is_none() {
                        grant.entry(name.clone()).or_default().arguments.extend(bounds.clone());
                    }
                    continue;
                }
                let question = TaskQuestion { agent, subject, purpose: &asked.purpose, tool: name, approvers: &approvers, now };
                let reason = self.ever(&engine, question, tool).err();
                judged.insert(name, reason.clone());
                match reason {
                    // Of two that cover the same tool, the bounded one counts.
                    None => {
                        let place = grant.entry(name.clone()).or_default();
                        place.arguments.extend(bounds.clone());
                    }
                    Some(reason) => narrowed.push(Narrowed { asked: name.to_string(), reason }),
                }
            }
            if !found && exact {
                narrowed.push(Narrowed { asked: text.to_owned(), reason: "there is no such tool".to_owned() });
            }
        }
        Ok((Grant::new(grant), narrowed))
    }

    /// Which tools of a task may wait for people, as policy is now.
    pub(crate) fn waiting_tools<'a>(&'a self, task: &'a Task) -> impl Fn(&bailiwick_core::ToolName) -> bool + 'a {
        let engine = self.engine.load_full();
        let approvers = self.approvers_of(task);
        let agent = self.agent(task.agent.as_str());
        let now = self.clock.now();
        move |tool| {
            let Some(agent) = agent else { return true };
            let question = TaskQuestion { agent, subject: &task.subject, purpose: &task.purpose, tool, approvers: &approvers, now };
            !matches!(engine.possible(question), Possible::Free)
        }
    }

    /// A token for an open task, bound to the key that whoever asks for it proved. `key` is the registered key by which it proved itself.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn task_token(&self, live: &LiveTask, confirmation: Option<Confirmation>, key: Option<KeyId>) -> Result<Issued, ErrorCode> {
        let now = self.clock.now();
        let task = &live.task;
        if !self.may_hold(task, confirmation.as_ref()) {
            return Err(ErrorCode::BindingRequired);
        }
        let statement = Statement {
            agent: task.agent.clone(),
            instance: task.instance,
            acting: Acting { component: task.component.clone(), model: task.model_attested.clone(), key, ..Acting::default() },
            purpose: Purpose::Task { task: task.id, subject: task.subject.clone(), actors: task.actors() },
            scope: bailiwick_identity::oauth::Scope::tools(),
            audience: self.urls.mcp.clone(),
            jti: bailiwick_core::SessionId::new(now, random()),
            confirmation,
        };
        let life = self.config.tasks.token_ttl.min(task.left(now)).max(Duration::from_secs(1));
        self.issuer.issue(&statement, now, life).map_err(|_| ErrorCode::Internal)
    }

    /// Ends a task and all its parts: from this moment no further call of any of them passes, and what runs is stopped. Then, once every
    /// credential that one used has its ending, it is closed.
    ///
    /// # Errors
    /// The store's: they take no more calls all the same, and the record of their end is tried again until it stands (law 6).
    pub async fn end_task(&self, id: TaskId, reason: EndReason, by: Option<&str>) -> Result<(), StoreError> {
        self.end_task_for(id, reason, by, None).await
    }

    /// The same, with what was taken away that the task rested on, in words for the record.
    ///
    /// # Errors
    /// As [`House::end_task`].
    pub async fn end_task_for(&self, id: TaskId, reason: EndReason, by: Option<&str>, why: Option<&str>) -> Result<(), StoreError> {
        let live = self.live.end(id);
        let mut owed = Owed { house: self, end: Some(EndOwed { id, reason, by: by.map(str::to_owned), why: why.map(str::to_owned) }) };
        let mut ended = self.record_end(id, reason, (by, why), live.clone()).await;
        if matches!(&ended, Err(StoreError::Unavailable { reason: bailiwick_store::Reason::DiskFull, .. })) {
            // Whoever finds the disk full first makes room for what comes next.
            ended = self.record_end(id, reason, (by, why), live).await;
        }
        if ended.is_ok() {
            owed.end = None;
        }
        ended
    }

    /// The end of a task that is not on record is to be recorded.
    pub(crate) fn owe_end(&self, id: TaskId, reason: EndReason) {
        self.ends_owed.lock().unwrap_or_else(PoisonError::into_inner).push(EndOwed { id, reason, by: None, why: None });
    }

    /// Tries again to record the ends that could not be recorded.
    pub(crate) async fn pay_ends(&self) {
        let owed = std::mem::take(&mut *self.ends_owed.lock().unwrap_or_else(PoisonError::into_inner));
        for end in owed {
            if let Err(error) = self.end_task_for(end.id, end.reason, end.by.as_deref(), end.why.as_deref()).await {
                tracing::error!(%error, task = %end.id, "the end of a task could not be recorded yet");
            }
        }
    }

    async fn record_end(
        &self,
        id: TaskId,
        reason: EndReason,
        (by, why): (Option<&str>, Option<&str>),
        live: Option<Arc<LiveTask>>,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let closing = |task, reason, by, why| entry::TaskEnded { task, state: "closing", reason, by, why, endings: &[], endings_cut: 0 };
        let whole = id.to_string();
        let part = move |part| entry::encode(now, &entry::TaskEnded { by: Some(&whole), ..closing(part, EndReason::Parent, None, None) });
        let written = self.store.end_whole(id, (reason, now), entry::encode(now, &closing(id, reason, by, why)), part);
        // Our own connections close whether the store can be written or not.
        let (ended, ()) = tokio::join!(written, self.leases.close_of(id));
        let ended = ended?;
        let withdrawn: Vec<_> = ended.iter().flat_map(|(_, ended)| ended.withdrawn.iter().copied()).collect();
        for hold in withdrawn {
            if let Some(hold) = self.holds.get(hold) {
                self.holds.put(bailiwick_core::Hold { state: bailiwick_core::hold::HoldState::Withdrawn { at: now }, ..hold });
            }
        }
        self.holds.ring();
        // Side by side: a system that hangs holds up the end of no other part.
        let closed = ended.into_iter().map(|(task, _)| {
            let (live, reason) = if task == id { (live.clone(), reason) } else { (self.live.end(task), EndReason::Parent) };
            async move {
                self.leases.end_of_task(task).await;
                self.close_task(task, reason, live.as_deref().map(|l| &*l.task)).await
            }
        });
        futures_util::future::join_all(closed).await.into_iter().collect()
    }

    /// The last step of the end, once each lease of the task has its ending; until then the task stays `closing`. A credential that the
    /// broker holds for all tasks of a system, and hands to none, ends for this one by not being used: `injection-stopped`.
    pub(crate) async fn close_task(&self, id: TaskId, reason: EndReason, task: Option<&Task>) -> Result<(), StoreError> {
        let leases = self.store.leases(LeaseFilter { task: Some(id), limit: usize::MAX, ..LeaseFilter::default() }).await?;
        if leases.iter().any(|row| row.state != LeaseState::Ended) {
            return Ok(());
        }
        let registry = self.registry.load_full();
        let mut endings = Vec::new();
        let key = crate::upstream::SessionKey::new(&id.to_string());
        for session in self.sessions.end_of_task(id) {
            self.end_mcp_session(&session).await;
        }
        for system in registry.systems.values() {
            let used = task.is_none_or(|t| t.grant.tools().keys().any(|n| n.system() == system.entry.name.as_str()));
            if used {
                system.upstream.end_session(&key).await;
                if system.leasing.is_none() {
                    endings.push(Ending { system: system.entry.name.to_string(), lease: None, ending: "injection-stopped".to_owned() });
                }
            }
        }
        endings.extend(leases.iter().map(|row| Ending {
            system: row.lease.system.to_string(),
            lease: Some(row.lease.id),
            ending: row.life.ending.as_ref().map_or("revoked-unverified", crate::leases::word).to_owned(),
        }));
        let endings_cut = endings.len().saturating_sub(ENDINGS_MAX);
        endings.truncate(ENDINGS_MAX);
        let now = self.clock.now();
        let body = entry::encode(now, &entry::TaskEnded { task: id, state: "closed", reason, by: None, why: None, endings: &endings, endings_cut });
        let ended = self.store.end_task(id, TaskState::Closed { reason, at: now }, body).await?;
        if ended.entry.is_some() {
            metrics::counter!("bailiwick_tasks_closed_total", "reason" => reason.word()).increment(1);
        }
        Ok(())
    }
}
