//! Tasks: opened by agents, seen by those whom they concern, completed by their agent, revoked by their owner or an operator.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bailiwick_core::{
    AgentName, Budget, ComponentName, Constraint, Effect, EndReason, ErrorCode, Hop, InstanceId, Labels, PersonName, Role, SpiffeId, Task, TaskId,
    Timestamp,
};
use bailiwick_store::{LeaseFilter, TaskFilter, TaskRow};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::asker::{Api, Asker, ByAgent, ByPerson, ends_task, has, sees_task};
use super::body::{Asked, Json, Named};
use super::leases::LeaseDocument;
use super::oauth::{TokenDocument, json};
use super::problem::Problem;
use crate::entry::Narrowed;
use crate::house::House;
use crate::tasks::TaskRequest;
use crate::tokens::Bearer;

/// Most items that a list gives.
pub(super) const LIST_MAX: usize = 500;
const LIST: usize = 100;

/// Which of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those in this state.
    pub(super) state: Option<String>,
    /// At most so many, up to 500. Default 100.
    pub(super) limit: Option<usize>,
}

impl ListQuery {
    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(LIST).clamp(1, LIST_MAX)
    }

    /// The state, as one of the words that there are.
    pub(super) fn state(&self, words: &[&'static str]) -> Result<Option<&'static str>, Problem> {
        let Some(given) = self.state.as_deref() else { return Ok(None) };
        let known = words.iter().find(|w| **w == given);
        known.map(|w| Some(*w)).ok_or_else(|| Problem::invalid(format!("`state` must be one of {}", words.join(", "))))
    }
}

/// A task.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Task)]
pub(super) struct TaskDocument {
    /// Its id.
    #[schema(value_type = String)]
    id: TaskId,
    /// The agent that does it.
    #[schema(value_type = String)]
    agent: AgentName,
    /// The agent's SPIFFE ID.
    #[schema(value_type = String)]
    spiffe_id: SpiffeId,
    /// The running copy that opened it.
    #[schema(value_type = String)]
    instance: InstanceId,
    /// Who answers for the agent.
    #[schema(value_type = String)]
    owner: PersonName,
    /// On whose behalf.
    #[schema(value_type = String)]
    subject: PersonName,
    /// What it is for.
    purpose: String,
    /// The model that the agent says it runs. Claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    model_claimed: Option<String>,
    /// The model that an issuer whom we trust attested.
    #[serde(skip_serializing_if = "Option::is_none")]
    model_attested: Option<String>,
    /// The component of the agent that does it, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    component: Option<ComponentName>,
    /// It is done by a bundle of components that nobody told apart.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    undivided: bool,
    /// The tasks that it is a part of, nearest first: `task`, `agent`, `spiffe_id`, `component`, `instance` and `owner` of each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    chain: Vec<Hop>,
    /// Its parts that were given on, newest first: `id`, `agent` and `state` of each. Where one task is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    parts: Vec<serde_json::Value>,
    /// `open`, `closing` or `closed`.
    state: &'static str,
    /// Why it ended: `completed`, `expired`, `revoked`, or `parent` if it ended with a task that it was a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What it may do.
    tools: Vec<GrantedTool>,
    /// How much it may do.
    #[schema(value_type = Object)]
    budget: Budget,
    /// Calls that were permitted.
    calls_used: u64,
    /// The marks of what it was given, such as `untrusted`.
    #[schema(value_type = Vec<String>)]
    labels: Labels,
    /// When it was opened.
    #[schema(value_type = String)]
    opened_at: Timestamp,
    /// When it ends by itself.
    #[schema(value_type = String)]
    expires_at: Timestamp,
    /// The credentials that were made for it, each with its ending or why it has none yet. Where one task is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    leases: Vec<LeaseDocument>,
}

/// A tool that a task was granted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GrantedTool {
    /// Its name.
    name: String,
    /// Its effect; absent if the tool is not there at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    effect: Option<Effect>,
    /// Does every call of it wait for a person, as policy stands now?
    needs_approval: bool,
    /// Bounds by argument.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    arguments: std::collections::BTreeMap<String, Constraint>,
}

/// A task that was just opened.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OpenedDocument {
    /// The task.
    task: TaskDocument,
    /// What was asked for and not granted, with the reason.
    #[schema(value_type = Vec<Object>)]
    narrowed: Vec<Narrowed>,
    /// Its first token: `access_token`, `token_type`, `expires_in`.
    #[schema(value_type = Object)]
    token: (),
}

/// Tasks, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskList {
    /// The tasks.
    tasks: Vec<TaskDocument>,
}

impl TaskDocument {
    /// The task as it stands now.
    pub(super) fn new(house: &House, row: &TaskRow) -> Self {
        let task = &row.task;
        let live = house.live.find(task.id);
        let used = live.as_ref().map_or(row.used, |l| l.used().max(row.used));
        Self {
            id: task.id,
            agent: task.agent.clone(),
            spiffe_id: task.spiffe_id.clone(),
            instance: task.instance,
            owner: task.owner.clone(),
            subject: task.subject.clone(),
            purpose: task.purpose.clone(),
            model_claimed: task.model_claimed.clone(),
            model_attested: task.model_attested.clone(),
            component: task.component.clone(),
            undivided: task.undivided,
            chain: task.chain.clone(),
            parts: Vec::new(),
            state: row.state.word(),
            reason: row.state.reason().map(EndReason::word),
            tools: granted(house, task),
            budget: task.budget,
            calls_used: used,
            labels: live.map_or_else(|| row.labels.clone(), |l| l.labels()),
            opened_at: task.opened_at,
            expires_at: task.expires_at,
            leases: Vec::new(),
        }
    }

    /// With its leases and parts.
    async fn whole(house: &House, row: &TaskRow) -> Result<Self, Problem> {
        let filter = LeaseFilter { task: Some(row.task.id), limit: LIST_MAX, ..LeaseFilter::default() };
        let leases = house.store.leases(filter).await?;
        let parts = house.store.tasks(TaskFilter { parent: Some(row.task.id), limit: LIST_MAX, ..TaskFilter::default() }).await?;
        let part = |row: &TaskRow| serde_json::json!({ "id": row.task.id, "agent": row.task.agent, "state": row.state.word() });
        let parts = parts.iter().map(part).collect();
        Ok(Self { leases: leases.into_iter().rev().map(LeaseDocument::new).collect(), parts, ..Self::new(house, row) })
    }
}

fn granted(house: &House, task: &Task) -> Vec<GrantedTool> {
    let registry = house.registry.load();
    let waits = house.waiting_tools(task);
    let tools = task.grant.tools().iter();
    tools
        .map(|(name, grant)| GrantedTool {
            name: name.to_string(),
            effect: registry.tool(name.as_str()).map(|t| t.tool.effect),
            needs_approval: waits(name),
            arguments: grant.arguments.clone(),
        })
        .collect()
}

/// May whoever asks see this task?
fn sees(asker: &Asker, task: &Task) -> bool {
    match asker {
        Asker::Person(by) => sees_task(&by.person, task),
        Asker::Token(Bearer::Agent(token)) if token.acting.component != task.component => false,
        Asker::Token(Bearer::Agent(token)) => token.agent == task.agent && token.acting.on_behalf_of.as_ref().is_none_or(|who| *who == task.subject),
        Asker::Token(Bearer::Task(_, who)) => who.caller.task == task.id,
    }
}

/// The task of a path, if whoever asks may know that there is one.
async fn find(house: &House, asker: &Asker, name: &Named) -> Result<TaskRow, Problem> {
    let id: TaskId = name.parse(ErrorCode::TaskAbsent)?;
    let row = house.store.task(id).await?.filter(|row| sees(asker, &row.task));
    row.ok_or_else(|| Problem::new(ErrorCode::TaskAbsent))
}

/// Opens a task.
///
/// What was asked for is narrowed to what the agent may ask for and policy could ever permit; the answer says what was left out.
#[utoipa::path(
    post, path = "/v1/tasks", tag = "tasks",
    request_body = TaskRequest,
    responses(
        (status = 201, description = "The task, what was left out, and its first token.", body = OpenedDocument),
        (status = 403, description = "Nothing of it may be granted.", body = super::problem::ProblemDocument<'static>, content_type = "application/problem+json"),
    ),
    security(("agent_token" = [])),
)]
pub(super) async fn open(State(api): State<Arc<Api>>, by: ByAgent, Json(asked): Json<TaskRequest>) -> Result<Response, Problem> {
    let house = &api.house;
    let ByAgent(Bearer::Agent(token)) = by else {
        return Err(Problem::because(ErrorCode::RoleMissing, "a task's token makes calls of that task; open tasks with an agent token"));
    };
    let asked = crate::tasks::TaskRequest { held_by: crate::authn::binding::held_by(token.confirmation.as_ref()), ..asked };
    let opened = house.open_task_of(&token.agent, token.instance, &token.acting, asked).await?;
    let task = &opened.live.task;
    let issued = house.task_token(&opened.live, token.confirmation, token.acting.key).map_err(Problem::new)?;
    let row = TaskRow { task: Task::clone(task), state: bailiwick_core::TaskState::Open, used: 0, labels: opened.live.labels() };
    let body = serde_json::json!({
        "task": TaskDocument::new(house, &row),
        "narrowed": opened.narrowed,
        "token": TokenDocument::of_task(&issued, task.id),
    });
    Ok(json(StatusCode::CREATED, &body))
}

/// Tasks that one may see, newest first.
#[utoipa::path(
    get, path = "/v1/tasks", tag = "tasks", params(ListQuery),
    responses((status = 200, description = "An agent's own tasks; a person's own agents' tasks, or all of them for operators and auditors.", body = TaskList)),
    security(("agent_token" = []), ("task_token" = []), ("person" = [])),
)]
pub(super) async fn list(State(api): State<Arc<Api>>, asker: Asker, Asked(query): Asked<ListQuery>) -> Result<Response, Problem> {
    let house = &api.house;
    let mut filter = TaskFilter { state: query.state(&["open", "closing", "closed"])?, limit: query.limit(), ..Default::default() };
    match &asker {
        Asker::Person(by) if has(&by.person, &[Role::Operator, Role::Auditor]) => {}
        Asker::Person(by) => filter.owner = Some(by.person.name.clone()),
        Asker::Token(bearer) => filter.agent = Some(bearer.verified().agent.clone()),
    }
    let rows = house.store.tasks(filter).await?;
    let tasks = rows.iter().filter(|row| sees(&asker, &row.task)).map(|row| TaskDocument::new(house, row)).collect();
    Ok(axum::Json(TaskList { tasks }).into_response())
}

/// One task.
#[utoipa::path(
    get, path = "/v1/tasks/{id}", tag = "tasks", params(("id" = String, Path, description = "The task's id.")),
    responses((status = 200, description = "The task.", body = TaskDocument)),
    security(("agent_token" = []), ("task_token" = []), ("person" = [])),
)]
pub(super) async fn show(State(api): State<Arc<Api>>, asker: Asker, name: Named) -> Result<Response, Problem> {
    let row = find(&api.house, &asker, &name).await?;
    Ok(axum::Json(TaskDocument::whole(&api.house, &row).await?).into_response())
}

/// The agent says that the work is done: the task ends, and every credential that it used with it.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/complete", tag = "tasks", params(("id" = String, Path, description = "The task's id.")),
    responses((status = 200, description = "The task as it stands. One that had ended before stays as it was.", body = TaskDocument)),
    security(("agent_token" = []), ("task_token" = [])),
)]
pub(super) async fn complete(State(api): State<Arc<Api>>, by: ByAgent, name: Named) -> Result<Response, Problem> {
    let asker = Asker::Token(by.0);
    let row = find(&api.house, &asker, &name).await?;
    // As everywhere else: one running copy of an agent does not end what another one works on.
    if let Asker::Token(bearer) = &asker
        && bearer.verified().instance != row.task.instance
    {
        return Err(Problem::because(ErrorCode::RoleMissing, "another running copy of the agent opened this task, and completes it"));
    }
    end(&api.house, row, EndReason::Completed, |task| task.spiffe_id.as_str().to_owned()).await
}

/// A person ends a task: its owner, or an operator.
#[utoipa::path(
    post, path = "/v1/tasks/{id}/revoke", tag = "tasks", params(("id" = String, Path, description = "The task's id.")),
    responses((status = 200, description = "The task as it stands. One that had ended before stays as it was.", body = TaskDocument)),
    security(("person" = [])),
)]
pub(super) async fn revoke(State(api): State<Arc<Api>>, by: ByPerson, name: Named) -> Result<Response, Problem> {
    let person = by.person.clone();
    let row = find(&api.house, &Asker::Person(by), &name).await?;
    if !ends_task(&person, &row.task) {
        return Err(Problem::because(ErrorCode::RoleMissing, "the task's owner or an operator revokes it"));
    }
    end(&api.house, row, EndReason::Revoked, |_| person.name.to_string()).await
}

async fn end(house: &House, row: TaskRow, reason: EndReason, by: impl FnOnce(&Task) -> String) -> Result<Response, Problem> {
    if row.state.is_open() {
        house.end_task(row.task.id, reason, Some(&by(&row.task))).await.map_err(|error| {
            tracing::error!(error.code = %error.code(), %error, task = %row.task.id, "the end of a task could not be recorded yet");
            let why = format!(
                "{}: the task takes no more calls from now on; that it was ended is not on record yet, and is tried until it is",
                error.public()
            );
            Problem::because(error.code(), why)
        })?;
    }
    let row = house.store.task(row.task.id).await?.unwrap_or(row);
    Ok(axum::Json(TaskDocument::whole(house, &row).await?).into_response())
}
