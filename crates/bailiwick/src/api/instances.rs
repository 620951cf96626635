//! Running copies of an agent: seen, and ended one by one.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bailiwick_core::{Agent, ComponentName, ErrorCode, InstanceId, PersonName, Role, TaskId, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::asker::{Api, ByPerson, agent_for, of_agent, to_the_end};
use super::body::Named;
use super::problem::Problem;
use crate::instances::CopyView;

/// A running copy of an agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Instance)]
pub(super) struct InstanceDocument {
    /// Its id.
    #[schema(value_type = String)]
    instance: InstanceId,
    /// The component that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    component: Option<ComponentName>,
    /// When it was seen first, since the broker runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    first_seen: Option<Timestamp>,
    /// When it was seen last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    last_seen: Option<Timestamp>,
    /// From where.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// Its open tasks.
    #[schema(value_type = Vec<String>)]
    tasks: Vec<TaskId>,
    /// When a person ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    ended_at: Option<Timestamp>,
}

/// The running copies of an agent, the one seen last first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstanceList {
    /// The copies.
    instances: Vec<InstanceDocument>,
}

impl InstanceDocument {
    fn new(copy: CopyView) -> Self {
        Self {
            instance: copy.instance,
            component: copy.component,
            first_seen: copy.seen.as_ref().map(|seen| seen.first),
            last_seen: copy.seen.as_ref().map(|seen| seen.last),
            from: copy.seen.map(|seen| seen.from.to_string()),
            tasks: copy.tasks,
            ended_at: copy.ended_at,
        }
    }
}

/// The running copies of an agent that were seen since the broker runs, have a task open, or were ended. For its owner, operators and auditors.
#[utoipa::path(
    get, path = "/v1/agents/{name}/instances", tag = "registry", params(("name" = String, Path, description = "The agent's name.")),
    responses((status = 200, description = "Its copies.", body = InstanceList)),
    security(("person" = [])),
)]
pub(super) async fn list(State(api): State<Arc<Api>>, by: ByPerson, name: Named) -> Result<Response, Problem> {
    let agent = agent_for(&api, &by, &name, &[Role::Operator, Role::Auditor])?;
    let instances = api.house.copies(&agent.name).into_iter().map(InstanceDocument::new).collect();
    Ok(axum::Json(InstanceList { instances }).into_response())
}

/// Ends one running copy: its tokens, its tasks and their parts. Others go on. For the agent's owner and for operators.
#[utoipa::path(
    post, path = "/v1/agents/{name}/instances/{instance}/revoke", tag = "registry",
    params(("name" = String, Path, description = "The agent's name."), ("instance" = String, Path, description = "The copy's id.")),
    responses((status = 200, description = "The copies as they stand.", body = InstanceList)),
    security(("person" = [])),
)]
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    by: ByPerson,
    axum::extract::Path(path): axum::extract::Path<(String, String)>,
) -> Result<Response, Problem> {
    let absent = || Problem::because(ErrorCode::AgentAbsent, "no such running copy of the agent is known");
    let (agent, instance, person): (Agent, InstanceId, PersonName) = of_agent(&api, &by, &path, absent)?;
    let house = Arc::clone(&api.house);
    if !to_the_end(async move { house.end_copy(&agent, instance, &person).await }).await?? {
        return Err(absent());
    }
    list(State(api), by, Named(path.0)).await
}
