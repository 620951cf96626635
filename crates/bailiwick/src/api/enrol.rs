//! Enrolment over the API: a person has a token made, a machine exchanges it for a key, and keys are revoked one by one.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use bailiwick_core::{Agent, AgentName, ComponentName, ErrorCode, PersonName, Role, SpiffeId};
use bailiwick_identity::enrolment::EnrolmentToken;
use bailiwick_identity::{KeyId, PublicKey};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::asker::{Api, ByPerson, agent_for, of_agent, peer, to_the_end};
use super::body::{Json, Named};
use super::oauth::json;
use super::problem::Problem;
use super::routes::Routes;
use crate::enrol::{self, NotEnrolled};

/// Which token is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EnrolmentRequest {
    /// For how many minutes it holds, 1 to 60. Default 10.
    minutes: Option<u64>,
}

/// A one-time token. It is shown once.
#[derive(Serialize, ToSchema)]
pub(super) struct EnrolmentDocument {
    /// The token: a secret until it is used.
    token: String,
    /// The agent.
    #[schema(value_type = String)]
    agent: AgentName,
    /// Until when it holds.
    expires_at: String,
}

/// The exchange of a token for the registration of a key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EnrolRequest {
    /// The token.
    token: String,
    /// The public key that the machine made, as a JWK.
    #[schema(value_type = Object)]
    key: Value,
    /// The agent that the machine wants to be. If the token is for another, it is not spent.
    #[schema(value_type = Option<String>)]
    agent: Option<AgentName>,
    /// A JWT by that key, of type `bailiwick-enrolment+jwt`: `aud` (our URL), `enrolment` (the token's digest), `iat`, `exp`.
    proof: String,
}

/// What the machine is from now on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EnrolledDocument {
    /// The agent.
    #[schema(value_type = String)]
    agent: AgentName,
    /// Its client id: `iss` and `sub` of its assertions.
    #[schema(value_type = String)]
    client_id: SpiffeId,
    /// The key's thumbprint.
    key: String,
    /// The `aud` of its assertions.
    issuer: String,
}

/// A key of an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AgentKeyDocument {
    /// Its thumbprint.
    id: String,
    /// `file` or `enrolment`.
    source: &'static str,
    /// The component whose key it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    component: Option<ComponentName>,
    /// When it was revoked, if it still lies in a file: it proves nothing there.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<String>,
    /// Since when it is registered, if it came by enrolment.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    /// Who gave out the token for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// From where it was registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

/// The keys of an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AgentKeyList {
    /// The keys.
    keys: Vec<AgentKeyDocument>,
}

/// Adds these routes to those of the API.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.add(__path_give, give).add(__path_enrol, enrol).add(__path_keys, keys).add(__path_revoke, revoke)
}

fn refused(why: NotEnrolled) -> Problem {
    match why {
        NotEnrolled::Invalid => Problem::unauthenticated(ErrorCode::ProofInvalid),
        NotEnrolled::Full(why) => Problem::because(ErrorCode::LimitExceeded, why).with_status(StatusCode::CONFLICT),
        NotEnrolled::Store(error) => error.into(),
    }
}

/// Makes a one-time token with which a machine registers a key of its own as this agent's. For the agent's owner and for operators.
#[utoipa::path(
    post, path = "/v1/agents/{name}/enrolments", tag = "registry",
    params(("name" = String, Path, description = "The agent's name.")), request_body = EnrolmentRequest,
    responses((status = 201, description = "The token. It is not shown again.", body = EnrolmentDocument)),
    security(("person" = [])),
)]
pub(super) async fn give(State(api): State<Arc<Api>>, by: ByPerson, name: Named, Json(asked): Json<EnrolmentRequest>) -> Result<Response, Problem> {
    let agent = agent_for(&api, &by, &name, &[Role::Operator])?;
    let minutes = asked.minutes.map(|m| Duration::from_secs(m.saturating_mul(60)));
    let life = minutes.unwrap_or(enrol::LIFE);
    if life.is_zero() || life > enrol::LIFE_MAX {
        return Err(Problem::invalid("`minutes` must be 1 to 60"));
    }
    let (token, until) = api.house.enrol(agent, &by.person.name, life).await.map_err(refused)?;
    let document = EnrolmentDocument { token: token.as_str().to_owned(), agent: agent.name.clone(), expires_at: until.to_string() };
    Ok(json(StatusCode::CREATED, &serde_json::to_value(document).unwrap_or_default()))
}

/// Registers a key that a machine made, in exchange for a one-time token.
#[utoipa::path(
    post, path = "/v1/enrol", tag = "oauth", request_body = EnrolRequest,
    responses(
        (status = 200, description = "The key is registered.", body = EnrolledDocument),
        (status = 401, description = "The token is none, has expired or was used, or the key was not proved."),
        (status = 409, description = "The key is registered already, or the agent has too many."),
    ),
    security(("enrolment" = [])),
)]
pub(super) async fn enrol(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let from = peer(&parts)?;
    let Json(asked): Json<EnrolRequest> = Json::from_request(Request::from_parts(parts, body), &api).await?;
    let house = &api.house;
    let token = EnrolmentToken::parse(&asked.token).map_err(|_| Problem::unauthenticated(ErrorCode::ProofInvalid))?;
    let key = PublicKey::from_jwk(&asked.key).map_err(|e| Problem::invalid(e.to_string()))?;
    let id = key.id().to_string();
    let name = house.redeem(&token, key, &asked.proof, asked.agent, from).await.map_err(refused)?;
    let document =
        EnrolledDocument { client_id: SpiffeId::agent(&house.config.trust_domain, &name), agent: name, key: id, issuer: house.urls.base.clone() };
    Ok(axum::Json(document).into_response())
}

/// The keys of an agent and its components: from files, and by enrolment. For its owner, operators and auditors.
#[utoipa::path(
    get, path = "/v1/agents/{name}/keys", tag = "registry", params(("name" = String, Path, description = "The agent's name.")),
    responses((status = 200, description = "Its keys.", body = AgentKeyList)),
    security(("person" = [])),
)]
pub(super) async fn keys(State(api): State<Arc<Api>>, by: ByPerson, name: Named) -> Result<Response, Problem> {
    let agent = agent_for(&api, &by, &name, &[Role::Operator, Role::Auditor])?;
    let house = &api.house;
    let components = house.config.agents.get(&agent.name).into_iter().flat_map(|entry| entry.components.keys());
    let own = house.keyring.agent(agent.name.as_str()).into_iter().map(|key| (None, key.id()));
    let of_components = components.flat_map(|name| house.keyring.component(&agent.name, name).into_iter().map(|key| (Some(name.clone()), key.id())));
    let of_file = own.chain(of_components).map(|(component, id)| AgentKeyDocument {
        id: id.to_string(),
        source: "file",
        component,
        revoked_at: house.standing.key_revoked(&agent.name, &id).map(|revoked| revoked.at.to_string()),
        at: None,
        by: None,
        from: None,
    });
    let enrolled = house.enrolled.keys(&agent.name).into_iter().map(|key| AgentKeyDocument {
        id: key.id,
        source: "enrolment",
        component: None,
        revoked_at: None,
        at: Some(key.at.to_string()),
        by: Some(key.by.to_string()),
        from: Some(key.from.to_string()),
    });
    Ok(axum::Json(AgentKeyList { keys: of_file.chain(enrolled).collect() }).into_response())
}

/// Revokes one key, from a file or by enrolment: tokens that it proved or that are bound to it are worth nothing, and tasks that rest on it
/// end. For the agent's owner and for operators.
#[utoipa::path(
    post, path = "/v1/agents/{name}/keys/{key}/revoke", tag = "registry",
    params(("name" = String, Path, description = "The agent's name."), ("key" = String, Path, description = "The key's thumbprint.")),
    responses((status = 200, description = "The keys that are left.", body = AgentKeyList)),
    security(("person" = [])),
)]
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    by: ByPerson,
    axum::extract::Path(path): axum::extract::Path<(String, String)>,
) -> Result<Response, Problem> {
    let (agent, key, person): (Agent, KeyId, PersonName) = of_agent(&api, &by, &path, || Problem::new(ErrorCode::AgentAbsent))?;
    let house = Arc::clone(&api.house);
    if !to_the_end(async move { house.revoke_key(&agent.name, &key, &person).await }).await?? {
        return Err(Problem::because(ErrorCode::AgentAbsent, "the agent has no such key, or it was revoked before"));
    }
    keys(State(api), by, Named(path.0)).await
}
