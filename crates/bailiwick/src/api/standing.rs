//! Agents suspended by people, and let work again.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bailiwick_core::{ErrorCode, PersonName, Role, Timestamp};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::asker::{Api, ByPerson, agent_for, has};
use super::body::{Json, Named};
use super::people::{PersonChange, reason};
use super::problem::Problem;
use super::registry::{AgentDocument, agent_named};
use crate::standing::Suspension;

/// That an agent was suspended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Suspension)]
pub(super) struct SuspensionDocument {
    /// Since when.
    #[schema(value_type = String)]
    at: Timestamp,
    /// Who did it.
    #[schema(value_type = String)]
    by: PersonName,
    /// Why, in that person's words.
    reason: String,
}

impl From<Suspension> for SuspensionDocument {
    fn from(Suspension { at, by, reason }: Suspension) -> Self {
        Self { at, by, reason }
    }
}

/// Suspends an agent: it gets no token, those that it has are worth nothing, and its tasks and their parts end. For its owner and for
/// operators.
#[utoipa::path(
    post, path = "/v1/agents/{name}/suspend", tag = "registry", params(("name" = String, Path, description = "The agent's name.")),
    request_body = PersonChange,
    responses((status = 200, description = "The agent as it stands now.", body = AgentDocument)), security(("person" = [])),
)]
pub(super) async fn suspend(State(api): State<Arc<Api>>, by: ByPerson, name: Named, Json(change): Json<PersonChange>) -> Result<Response, Problem> {
    let agent = agent_for(&api, &by, &name, &[Role::Operator])?.clone();
    let why = reason(&change)?.to_owned();
    // It comes to its end even if whoever asked goes away.
    let (house, person, named) = (Arc::clone(&api.house), by.person.name, agent.name.clone());
    let suspended = tokio::spawn(async move { house.suspend_agent(&agent, &person, &why).await });
    suspended.await.map_err(|_| Problem::new(ErrorCode::Internal))??;
    Ok(axum::Json(agent_named(&api.house, &named)).into_response())
}

/// Lets an agent work again that was suspended. What ended stays ended. For operators, and for the owner who suspended it.
#[utoipa::path(
    post, path = "/v1/agents/{name}/resume", tag = "registry", params(("name" = String, Path, description = "The agent's name.")),
    request_body = PersonChange,
    responses(
        (status = 200, description = "The agent as it stands now.", body = AgentDocument),
        (status = 409, description = "It is not suspended by a person."),
    ),
    security(("person" = [])),
)]
pub(super) async fn resume(State(api): State<Arc<Api>>, by: ByPerson, name: Named, Json(change): Json<PersonChange>) -> Result<Response, Problem> {
    let agent = agent_for(&api, &by, &name, &[Role::Operator])?;
    let why = reason(&change)?;
    let suspension = api.house.standing.suspension(&agent.name);
    // What an operator decided stays an operator's.
    if suspension.is_some_and(|suspended| suspended.by != by.person.name) && !has(&by.person, &[Role::Operator]) {
        return Err(Problem::because(ErrorCode::RoleMissing, "somebody else suspended it: ask an operator"));
    }
    if !api.house.resume_agent(agent, &by.person.name, why).await? {
        return Err(
            Problem::invalid("no person suspended it; `enabled` and `review_by` are set in the configuration").with_status(StatusCode::CONFLICT)
        );
    }
    Ok(axum::Json(agent_named(&api.house, &agent.name)).into_response())
}
