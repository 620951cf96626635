//! The OAuth endpoints: tokens for agents that prove themselves by `private_key_jwt`, questions about tokens, and the metadata.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts as _, Request, State};
use axum::response::{IntoResponse, Response};
use bailiwick_core::{Agent, ErrorCode, InstanceId, Role, SessionId, SystemName, TaskId};
use bailiwick_identity::assertion::{self, Proved, Registered};
use bailiwick_identity::oauth::{
    ClientProof, Form, NO_STORE, OauthError, ResourceMetadata, Scope, ServerMetadata, TokenAnswer, TokenQuery, TokenRequest, introspection,
};
use bailiwick_identity::sightings::Used;
use bailiwick_identity::token::{AGENT_SCOPE, Issued, Purpose, SKEW, Statement, agent_name};
use bailiwick_identity::{Place, ProofError, Verified, jwks as jwk_set};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::asker::{Api, ByPerson, has, peer};
use super::body::{FormBytes, Named};
use super::problem::Problem;
use crate::clock::random;
use crate::house::House;
use crate::paces::Door;

/// What the token endpoint is asked (RFC 6749 section 4.4.2, RFC 7523 section 2.2, RFC 8707). Sent as a form.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "documents the form, which `identity::oauth` reads strictly")]
pub(super) struct TokenForm {
    /// `client_credentials`.
    grant_type: String,
    /// `urn:ietf:params:oauth:client-assertion-type:jwt-bearer`.
    client_assertion_type: String,
    /// A JWT by a key of the agent, whose `iss` and `sub` are its SPIFFE ID and whose `aud` is the issuer or this endpoint.
    client_assertion: String,
    /// The SPIFFE ID again, if it is given at all.
    client_id: Option<String>,
    /// The MCP endpoint, or a URL below it.
    resource: Option<String>,
    /// `agent`.
    scope: Option<String>,
    /// An open task of this agent and instance: its token is renewed.
    task_id: Option<String>,
}

/// A question about a token (RFC 7662 section 2.1, RFC 7009 section 2.1). Sent as a form.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "documents the form, which `identity::oauth` reads strictly")]
pub(super) struct TokenQueryForm {
    /// The token.
    token: String,
    /// Ignored.
    token_type_hint: Option<String>,
    /// As at the token endpoint; not needed for introspection by a person who proves himself or herself.
    client_assertion_type: Option<String>,
    /// As at the token endpoint.
    client_assertion: Option<String>,
}

/// A token (RFC 6749 section 5.1).
#[derive(Serialize, ToSchema)]
pub(super) struct TokenDocument {
    /// The token.
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// Its life in seconds.
    expires_in: u64,
    /// Its scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// Its task, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    task_id: Option<TaskId>,
}

impl TokenDocument {
    /// A task's first token, as the answer that opens the task carries it.
    pub(super) fn of_task(issued: &Issued, task: TaskId) -> Self {
        Self { access_token: issued.token.clone(), token_type: "Bearer", expires_in: issued.expires_in, scope: None, task_id: Some(task) }
    }
}

/// An error of RFC 6749 section 5.2.
#[derive(Serialize, ToSchema)]
pub(super) struct OauthErrorDocument {
    /// `invalid_request`, `invalid_client`, `invalid_grant`, `unauthorized_client`, `unsupported_grant_type`, `invalid_scope`, `invalid_target`.
    error: String,
    /// In words.
    error_description: String,
}

/// A refusal of one of these endpoints.
pub(super) enum Refused {
    Oauth(OauthError),
    Problem(Problem),
}

impl From<OauthError> for Refused {
    fn from(error: OauthError) -> Self {
        Self::Oauth(error)
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Oauth(error) => json(StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST), &error.body()),
            Self::Problem(problem) => problem.into_response(),
        }
    }
}

/// A document that no cache keeps.
pub(super) fn json(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in NO_STORE {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

const NOT_VALID: OauthError = OauthError::invalid_client("the client assertion is not valid");
const STORE_DOWN: OauthError = OauthError::temporarily_unavailable("the store cannot be written at present");

impl Api {
    /// The agent that an assertion proves: registered, in service, and proving itself for the first time by this assertion.
    async fn client(&self, proof: &ClientProof, from: std::net::IpAddr) -> Result<(Agent, Proved), OauthError> {
        let ClientProof::Assertion { assertion, client_id } = proof else {
            return Err(OauthError::invalid_client("this way of authentication is not supported"));
        };
        let house = &self.house;
        let now = house.clock.now();
        let audiences = assertion::audiences(&house.urls.base, &house.urls.token);
        let verify = || assertion::verify(assertion, client_id.as_deref(), |id| registered(house, id), &audiences, now);
        let proved = match verify() {
            Err(ProofError::Key | ProofError::Signature) if self.read_keys_again() => verify(),
            result => result,
        };
        let proved = proved.map_err(|error| {
            tracing::info!(error.code = %error.code(), %error, %from, "a client assertion was refused");
            NOT_VALID
        })?;
        let agent = house.agent(proved.agent.as_str()).cloned().ok_or(NOT_VALID)?;
        house.in_service(&agent, now).map_err(|why| {
            tracing::warn!(%why, "an agent was refused");
            OauthError::unauthorized_client("the agent is suspended, or overdue for review by its owner")
        })?;
        let first = house.store.jti_use(agent.spiffe_id.as_str(), &proved.jti, proved.remember_until(), now).await.map_err(|error| {
            tracing::error!(error.code = %error.code(), %error, "no token was issued: the store failed");
            STORE_DOWN
        })?;
        if !first {
            if self.tells_replay(&agent.name) {
                let detail = format!("an assertion of agent `{}` was presented again, from {from}", agent.name);
                house.incident("assertion_replayed", Some(&agent), None, &detail).await;
            }
            return Err(NOT_VALID);
        }
        Ok((agent, proved))
    }
}

fn registered(house: &House, client_id: &str) -> Option<Registered> {
    let name = agent_name(&house.config.trust_domain, &client_id.parse().ok()?)?;
    house.agent(name.as_str())?;
    Some(Registered { keys: house.keyring.agent(name.as_str()), agent: name })
}

/// The resources that tokens may be asked for: the MCP endpoint and what is below it. The audience is always the endpoint itself.
fn resources(house: &House, body: &[u8]) -> Result<Vec<String>, OauthError> {
    let mcp = &house.urls.mcp;
    let mut ours = vec![mcp.clone()];
    let form = Form::parse(body)?;
    let of_task = |r: &str| r.strip_prefix(mcp.as_str()).and_then(|rest| rest.strip_prefix("/t/")).is_some_and(|id| id.parse::<TaskId>().is_ok());
    // Any name that a system could have: whoever has not proved itself yet must not learn which there are.
    let of_system =
        |r: &str| r.strip_prefix(mcp.as_str()).and_then(|rest| rest.strip_prefix("/s/")).is_some_and(|name| name.parse::<SystemName>().is_ok());
    ours.extend(form.values("resource").filter(|r| of_task(r) || of_system(r)).map(str::to_owned));
    Ok(ours)
}

/// Issues a token to an agent that proves itself.
///
/// Without `task_id` it is an agent token, which opens tasks and nothing else. With it, it is a new token of that open task.
#[utoipa::path(
    post, path = "/oauth/token", tag = "oauth",
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A token.", body = TokenDocument),
        (status = 400, description = "RFC 6749 section 5.2.", body = OauthErrorDocument),
        (status = 401, description = "The client did not prove itself.", body = OauthErrorDocument),
        (status = 503, description = "The store cannot be written.", body = OauthErrorDocument),
    ),
    security(("client_assertion" = [])),
)]
pub(super) async fn token(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let from = peer(&parts)?;
    let FormBytes(body) = FormBytes::from_request(Request::from_parts(parts, body), &api).await?;
    let house = &api.house;
    let asked = TokenRequest::parse(&body, &resources(house, &body)?)?;
    let (agent, proved) = api.client(&asked.client, from).await?;
    let now = house.clock.now();
    if !house.paces.within(&agent.name, Door::Token, now) {
        house.note_refused(&agent.name, Door::Token, ErrorCode::LimitExceeded).await;
        return Err(OauthError::temporarily_unavailable("the agent asks for too many tokens; wait a minute").into());
    }
    let instance = proved.instance.unwrap_or_else(|| InstanceId::new(now, random()));
    house.sighted(&agent, Used::Key(proved.key), Place { address: from, instance }, now).await;
    let (issued, scope) = match asked.task {
        None => (agent_token(house, &agent, instance, asked.scope.as_ref())?, Scope::agent()),
        Some(task) => renewed(house, &agent, proved.instance, task, asked.scope.as_ref())?,
    };
    metrics::counter!("bailiwick_tokens_issued_total", "kind" => if asked.task.is_some() { "task" } else { "agent" }).increment(1);
    let answer = TokenAnswer { issued: &issued, scope: &scope, task: asked.task };
    Ok(json(StatusCode::OK, &answer.body()))
}

fn agent_token(house: &House, agent: &Agent, instance: InstanceId, scope: Option<&Scope>) -> Result<Issued, OauthError> {
    if scope.is_some_and(|s| !s.is_exactly(AGENT_SCOPE)) {
        return Err(OauthError::invalid_scope());
    }
    let now = house.clock.now();
    let statement = Statement {
        agent: agent.name.clone(),
        instance,
        purpose: Purpose::Agent,
        scope: Scope::agent(),
        audience: house.urls.mcp.clone(),
        jti: SessionId::new(now, random()),
    };
    house.issuer.issue(&statement, now, house.config.tasks.token_ttl).map_err(|error| {
        tracing::error!(%error, "a token could not be signed");
        OauthError::temporarily_unavailable("the token could not be signed")
    })
}

/// A new token of an open task, for the very copy of the agent that opened it.
fn renewed(house: &House, agent: &Agent, instance: Option<InstanceId>, task: TaskId, scope: Option<&Scope>) -> Result<(Issued, Scope), OauthError> {
    const NOT_YOURS: OauthError = OauthError::invalid_grant("there is no open task of this id, agent and instance");
    let now = house.clock.now();
    let live = house.live.find(task).filter(|l| l.is_open(now)).ok_or(NOT_YOURS)?;
    if live.task.agent != agent.name || Some(live.task.instance) != instance {
        return Err(NOT_YOURS);
    }
    let issued = house.task_token(&live).map_err(|code| {
        tracing::error!(error.code = %code, "a token could not be signed");
        OauthError::temporarily_unavailable("the token could not be signed")
    })?;
    let verified = house.verifier.verify(&issued.token, &house.urls.mcp, now).map_err(|_| NOT_YOURS)?;
    if scope.is_some_and(|s| s.within(&verified.scope).as_ref() != Some(s)) {
        return Err(OauthError::invalid_scope());
    }
    Ok((issued, verified.scope))
}

/// Is this token active, and what does it say?
///
/// For an agent about its own tokens, and for people about tokens of agents that they own, operate or audit.
#[utoipa::path(
    post, path = "/oauth/introspect", tag = "oauth",
    request_body(content = TokenQueryForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "RFC 7662 section 2.2; `active` is false for whatever may not be known.", body = Object),
        (status = 401, description = "Nobody proved who asks.", body = OauthErrorDocument),
    ),
    security(("client_assertion" = []), ("person" = [])),
)]
pub(super) async fn introspect(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Refused> {
    let (mut parts, body) = request.into_parts();
    let by_person = parts.headers.contains_key(header::AUTHORIZATION);
    let house = &api.house;
    if by_person {
        let ByPerson { person, .. } = ByPerson::from_request_parts(&mut parts, &api).await?;
        let FormBytes(body) = FormBytes::from_request(Request::from_parts(parts, body), &api).await?;
        let form = Form::parse(&body)?;
        let token = form.value("token").ok_or(OauthError::invalid_request("token is missing"))?;
        let may_know = |agent: &Agent| agent.owner == person.name || has(&person, &[Role::Operator, Role::Auditor]);
        let known = active(house, token).filter(|t| house.agent(t.agent.as_str()).is_some_and(may_know));
        return Ok(json(StatusCode::OK, &introspection(known.as_ref())));
    }
    let (query, agent) = asked_by_client(&api, Request::from_parts(parts, body)).await?;
    let known = active(house, &query.token).filter(|t| t.agent == agent.name);
    Ok(json(StatusCode::OK, &introspection(known.as_ref())))
}

/// The token as verified, if everything that it stands for still holds.
fn active(house: &House, token: &str) -> Option<Verified> {
    let now = house.clock.now();
    let verified = house.verifier.verify(token, &house.urls.mcp, now).ok()?;
    if house.tokens.is_revoked(&verified.jti.to_string()) {
        return None;
    }
    let holds = match verified.task() {
        Some(task) => house.live.find(task).is_some_and(|l| l.is_open(now)),
        None => house.agent(verified.agent.as_str()).is_some_and(|a| house.in_service(a, now).is_ok()),
    };
    holds.then_some(verified)
}

async fn asked_by_client(api: &Arc<Api>, request: Request) -> Result<(TokenQuery, Agent), Refused> {
    let (parts, body) = request.into_parts();
    let from = peer(&parts)?;
    let FormBytes(body) = FormBytes::from_request(Request::from_parts(parts, body), api).await?;
    let query = TokenQuery::parse(&body)?;
    let (agent, _) = api.client(&query.client, from).await?;
    Ok((query, agent))
}

/// Revokes a token of the agent that asks. A token that is unknown or over is revoked already.
#[utoipa::path(
    post, path = "/oauth/revoke", tag = "oauth",
    request_body(content = TokenQueryForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "It is not valid any more, or never was."),
        (status = 400, description = "RFC 6749 section 5.2.", body = OauthErrorDocument),
        (status = 401, description = "The client did not prove itself.", body = OauthErrorDocument),
    ),
    security(("client_assertion" = [])),
)]
pub(super) async fn revoke(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Refused> {
    let (query, agent) = asked_by_client(&api, request).await?;
    let house = &api.house;
    let now = house.clock.now();
    let Ok(verified) = house.verifier.verify(&query.token, &house.urls.mcp, now) else { return Ok(json(StatusCode::OK, &Value::Null)) };
    //= rfc7009#section-2.1
    // The authorization server first validates the client credentials [...] and then verifies whether the token was issued to the
    // client making the revocation request. If this validation fails, the request is refused and the client is informed of the
    // error by the authorization server.
    if verified.agent != agent.name {
        return Err(OauthError::invalid_grant("the token was issued to another client").into());
    }
    house.revoke_token(&verified.jti.to_string(), verified.expires.plus(SKEW)).await.map_err(|error| {
        tracing::error!(error.code = %error.code(), %error, "a revocation holds, and could not be recorded");
        STORE_DOWN
    })?;
    Ok(json(StatusCode::OK, &Value::Null))
}

/// The metadata of the authorization server (RFC 8414).
#[utoipa::path(get, path = "/.well-known/oauth-authorization-server", tag = "oauth", responses((status = 200, description = "RFC 8414 section 2.", body = Object)))]
pub(super) async fn server_metadata(State(api): State<Arc<Api>>) -> Response {
    let base = &api.house.urls.base;
    let metadata = ServerMetadata {
        issuer: base.clone(),
        token_endpoint: api.house.urls.token.clone(),
        jwks_uri: format!("{base}/.well-known/jwks.json"),
        introspection_endpoint: format!("{base}/oauth/introspect"),
        revocation_endpoint: format!("{base}/oauth/revoke"),
        scopes: vec![AGENT_SCOPE.to_owned()],
        authorization_endpoint: None,
        service_documentation: None,
    };
    json(StatusCode::OK, &metadata.document())
}

fn resource_metadata(house: &House, resource: String) -> Response {
    let metadata = ResourceMetadata {
        resource,
        authorization_server: house.urls.base.clone(),
        scopes: vec![AGENT_SCOPE.to_owned()],
        name: Some("Bailiwick".to_owned()),
    };
    json(StatusCode::OK, &metadata.document())
}

/// The metadata of the protected resource (RFC 9728), where clients look that know only the host.
#[utoipa::path(get, path = "/.well-known/oauth-protected-resource", tag = "oauth", responses((status = 200, description = "RFC 9728 section 2.", body = Object)))]
pub(super) async fn resource_of_host(State(api): State<Arc<Api>>) -> Response {
    resource_metadata(&api.house, api.house.urls.mcp.clone())
}

/// The metadata of the MCP endpoint (RFC 9728).
#[utoipa::path(get, path = "/.well-known/oauth-protected-resource/mcp", tag = "oauth", responses((status = 200, description = "RFC 9728 section 2.", body = Object)))]
pub(super) async fn resource_of_mcp(State(api): State<Arc<Api>>) -> Response {
    resource_metadata(&api.house, api.house.urls.mcp.clone())
}

/// The metadata of one system's MCP endpoint (RFC 9728).
#[utoipa::path(
    get, path = "/.well-known/oauth-protected-resource/mcp/s/{system}", tag = "oauth",
    params(("system" = String, Path, description = "The system's name.")),
    responses((status = 200, description = "RFC 9728 section 2. The same for every name, so that nobody learns which systems there are.", body = Object)),
)]
pub(super) async fn resource_of_system(State(api): State<Arc<Api>>, name: Named) -> Result<Response, Problem> {
    let system: bailiwick_core::SystemName = name.parse(ErrorCode::OauthRequest).map_err(|p| p.with_status(StatusCode::NOT_FOUND))?;
    Ok(resource_metadata(&api.house, format!("{}/s/{system}", api.house.urls.mcp)))
}

/// The public keys by which our tokens are verified (RFC 7517 section 5).
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "oauth", responses((status = 200, description = "A JWK set.", body = Object)))]
pub(super) async fn jwks(State(api): State<Arc<Api>>) -> Response {
    json(StatusCode::OK, &jwk_set(std::slice::from_ref(api.house.issuer.public())))
}
