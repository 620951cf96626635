//! Leases: what was made for which task, how it ended, and what is not ended yet and why. Ending one by hand, and the check of a system.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bailiwick_core::{CallId, ErrorCode, LeaseId, Role, SystemName, TaskId, Timestamp};
use bailiwick_store::{LeaseFilter, LeaseRow, LeaseState};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::asker::{Api, ByPerson, has, need};
use super::body::{Asked, Json, Named};
use super::problem::Problem;
use super::tasks::LIST_MAX;
use crate::house::House;
use crate::leases::Tried;

/// The longest reason that is kept, in characters.
const REASON_MAX: usize = 500;

/// Which leases.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LeaseQuery {
    /// Only of this task.
    task: Option<String>,
    /// Only of this system.
    system: Option<String>,
    /// Only in this state: `pooled`, `intended`, `live`, `ending`, `ended`.
    state: Option<String>,
    /// Also those that are ended. Default false, unless a task or a state is given.
    all: Option<bool>,
    /// At most so many, up to 500. Default 100.
    limit: Option<usize>,
}

/// A credential's life for a task. The credential is not in it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Lease)]
pub(super) struct LeaseDocument {
    /// Its id.
    #[schema(value_type = String)]
    id: LeaseId,
    /// Its task; none while it waits in a pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    task: Option<TaskId>,
    /// The permitted call for which it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    call: Option<CallId>,
    /// The system.
    #[schema(value_type = String)]
    system: SystemName,
    /// The kind of credential.
    kind: String,
    /// The rights' class: `read`, `write`, `use`.
    class: String,
    /// The name of the account at the system.
    account: String,
    /// What it may do there, in the kind's own words.
    rights: Vec<String>,
    /// `pooled`, `intended`, `live`, `ending`, `ended`.
    state: &'static str,
    /// When it was written down.
    #[schema(value_type = String)]
    begun_at: Timestamp,
    /// When the account ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
    /// How it ended, with what was tried and seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    ending: Option<serde_json::Value>,
    /// How often its end was tried in vain.
    attempts: u32,
    /// Why the last try was in vain.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    next_at: Option<Timestamp>,
    /// Who ended it by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<String>,
}

impl LeaseDocument {
    pub(super) fn new(row: LeaseRow) -> Self {
        let (lease, life) = (row.lease, row.life);
        Self {
            id: lease.id,
            task: row.task,
            call: life.call,
            system: lease.system,
            kind: lease.kind,
            class: lease.class,
            account: lease.account,
            rights: lease.rights,
            state: row.state.word(),
            begun_at: lease.begun_at,
            expires_at: life.expires_at,
            ending: life.ending,
            attempts: life.attempts,
            failure: life.failure,
            next_at: life.next_at,
            ended_by: life.by,
        }
    }
}

/// Leases, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LeaseList {
    /// The leases.
    leases: Vec<LeaseDocument>,
}

/// Why a lease is ended by hand.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ByHand {
    /// In words, for the record.
    reason: String,
}

/// What a system's own account lacks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CheckReport {
    /// The system.
    #[schema(value_type = String)]
    system: SystemName,
    /// Everything that a lease needs can be done there, its end above all.
    passed: bool,
    /// What is missing: on which node, what, and the statement that grants it.
    #[schema(value_type = Vec<Object>)]
    missing: Vec<bailiwick_credentials::lease::Finding>,
}

/// All that may be seen of leases: operators and auditors see every one, owners those of their own agents' tasks.
#[utoipa::path(
    get, path = "/v1/leases", tag = "leases", params(LeaseQuery),
    responses((status = 200, description = "The leases.", body = LeaseList)),
    security(("person" = [])),
)]
pub(super) async fn list(State(api): State<Arc<Api>>, by: ByPerson, Asked(query): Asked<LeaseQuery>) -> Result<Response, Problem> {
    let house = &api.house;
    let task = query.task.as_deref().map(str::parse::<TaskId>).transpose().map_err(|_| Problem::new(ErrorCode::TaskAbsent))?;
    if !has(&by.person, &[Role::Operator, Role::Auditor]) {
        let own = match task {
            Some(task) => house.store.task(task).await?.is_some_and(|row| row.task.owner == by.person.name),
            None => false,
        };
        if !own {
            return Err(Problem::because(ErrorCode::RoleMissing, "operators and auditors see all leases; an owner those of a task: give the task"));
        }
    }
    let states = [LeaseState::Pooled, LeaseState::Intended, LeaseState::Live, LeaseState::Ending, LeaseState::Ended];
    let state = match query.state.as_deref() {
        None => None,
        Some(word) => {
            let known = states.into_iter().find(|s| s.word() == word);
            Some(known.ok_or_else(|| Problem::invalid("`state` must be one of pooled, intended, live, ending, ended"))?)
        }
    };
    let system = query.system.as_deref().map(str::parse).transpose().map_err(|_| Problem::invalid("`system` is no name of a system"))?;
    let open = !query.all.unwrap_or(task.is_some() || state.is_some());
    let limit = query.limit.unwrap_or(100).clamp(1, LIST_MAX);
    let rows = house.store.leases(LeaseFilter { task, system, state, open, limit }).await?;
    Ok(axum::Json(LeaseList { leases: rows.into_iter().map(LeaseDocument::new).collect() }).into_response())
}

/// One lease, for operators, auditors and the owner of its task.
#[utoipa::path(
    get, path = "/v1/leases/{id}", tag = "leases", params(("id" = String, Path, description = "The lease's id.")),
    responses((status = 200, description = "The lease.", body = LeaseDocument)),
    security(("person" = [])),
)]
pub(super) async fn show(State(api): State<Arc<Api>>, by: ByPerson, name: Named) -> Result<Response, Problem> {
    let house = &api.house;
    let absent = || Problem::new(ErrorCode::LeaseAbsent);
    let row = house.store.lease(name.parse(ErrorCode::LeaseAbsent)?).await?.ok_or_else(absent)?;
    let own = match row.task {
        Some(task) => house.store.task(task).await?.is_some_and(|t| t.task.owner == by.person.name),
        None => false,
    };
    if !own && !has(&by.person, &[Role::Operator, Role::Auditor]) {
        return Err(absent());
    }
    Ok(axum::Json(LeaseDocument::new(row)).into_response())
}

/// Ends a lease, by hand if it cannot be shown.
///
/// It is tried once more first. If that is in vain, the record says that this person said that it is over. A lease in use is ended too; the
/// next call of its task gets another one.
#[utoipa::path(
    post, path = "/v1/leases/{id}/end", tag = "leases", params(("id" = String, Path, description = "The lease's id.")),
    request_body = ByHand,
    responses((status = 200, description = "The lease as it stands.", body = LeaseDocument)),
    security(("person" = [])),
)]
pub(super) async fn end(State(api): State<Arc<Api>>, by: ByPerson, name: Named, Json(said): Json<ByHand>) -> Result<Response, Problem> {
    need(&by.person, &[Role::Operator], "ask an operator")?;
    let reason = said.reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_MAX {
        return Err(Problem::invalid(format!("`reason` says why, in 1 to {REASON_MAX} characters")));
    }
    let house = &api.house;
    let id: LeaseId = name.parse(ErrorCode::LeaseAbsent)?;
    let absent = || Problem::new(ErrorCode::LeaseAbsent);
    house.leases.stop_using(id).await?;
    let row = house.store.lease(id).await?.ok_or_else(absent)?;
    let by_hand = match house.leases.end(&row).await? {
        Tried::Ended => true,
        Tried::NotYet(why) => {
            tracing::warn!(lease = %id, %why, by = %by.person.name, "a lease is ended by hand");
            house.leases.end_by_hand(id, by.person.name.as_str(), reason).await?
        }
        Tried::Busy => false,
    };
    if !by_hand {
        let detail = "its end is being tried at this moment; say it again in a minute if it is not ended by then";
        return Err(Problem::because(ErrorCode::ApprovalMismatch, detail));
    }
    let row = house.store.lease(id).await?.ok_or_else(absent)?;
    Ok(axum::Json(LeaseDocument::new(row)).into_response())
}

/// Checks that everything can be done at a system that a lease needs: make, end, and verify. An account is made there and removed.
#[utoipa::path(
    post, path = "/v1/systems/{name}/check", tag = "leases", params(("name" = String, Path, description = "The system's name.")),
    responses((status = 200, description = "What is missing, if anything.", body = CheckReport)),
    security(("person" = [])),
)]
pub(super) async fn check(State(api): State<Arc<Api>>, by: ByPerson, name: Named) -> Result<Response, Problem> {
    need(&by.person, &[Role::Operator], "ask an operator")?;
    let system: SystemName = name.parse(ErrorCode::ToolUnknown)?;
    let leasing = leasing(&api.house, &system)?;
    // It comes to its end even if whoever asked goes away: what it makes is removed.
    let house = Arc::clone(&api.house);
    let checked = tokio::spawn(async move { house.leases.preflight(&leasing).await }).await.map_err(|_| Problem::new(ErrorCode::Internal))?;
    let missing = checked.map_err(|e| Problem::because(ErrorCode::UpstreamUnavailable, e.to_string()))?;
    Ok(axum::Json(CheckReport { system, passed: missing.is_empty(), missing }).into_response())
}

fn leasing(house: &House, system: &SystemName) -> Result<Arc<crate::leases::Leasing>, Problem> {
    house.leases.leasing(system).ok_or_else(|| {
        Problem::invalid(format!(
            "no credentials are made for tasks at `{system}`: it has no such section in the configuration, or there is no such system"
        ))
        .with_status(http::StatusCode::NOT_FOUND)
    })
}
