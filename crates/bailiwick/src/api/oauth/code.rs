//! Authorization codes and refresh tokens (RFC 6749 sections 4.1.3 and 6): a code opens the task that its person allowed, and the task's
//! tokens are renewed until it ends.

use std::sync::Arc;

use axum::response::Response;
use bailiwick_core::{Agent, Digest, EndReason, ErrorCode, InstanceId, TaskId};
use bailiwick_identity::oauth::{ClientProof, CodeGrant, OauthError, RefreshGrant, Scope, TokenAnswer, TokenRequest};
use bailiwick_identity::token::{AGENT_SCOPE, Acting, TOOLS_SCOPE};
use bailiwick_identity::{Confirmation, ProofError, assertion};
use http::StatusCode;
use serde_json::Value;

use super::super::asker::Api;
use super::{Refused, STORE_DOWN, json};
use crate::authn::Presented;
use crate::clock::random;
use crate::consent::{Allowed, Redeemed, Rotation};
use crate::house::House;
use crate::live::LiveTask;
use crate::paces::Door;
use crate::tasks::{AskedTool, TaskRequest};

const CODE: OauthError = OauthError::invalid_grant("the code is not valid: it is unknown, too old, was used already, or is another client's");
const TOKEN: OauthError =
    OauthError::invalid_grant("the refresh token is not valid: its task has ended, it was used already, or is another client's");
const UNSIGNED: OauthError = OauthError::temporarily_unavailable("the token could not be signed");

const NO_KEY: OauthError =
    OauthError::invalid_dpop_proof("the client says that all its tokens are bound to a key of its own: it shows a proof of that");
const NOT_PROVED: OauthError = OauthError::invalid_client("the client did not prove itself as its metadata document says");

/// The client that asks, by its ID, and whether it brings a proof.
fn client_of(proof: &ClientProof) -> Result<(String, Option<&str>), OauthError> {
    match proof {
        ClientProof::Nothing { client_id: Some(id) } => Ok((id.clone(), None)),
        ClientProof::Nothing { client_id: None } => Err(OauthError::invalid_request("client_id is missing")),
        ClientProof::Assertion { assertion, client_id } => {
            let claimed = assertion::claimed(assertion).map_err(|_| NOT_PROVED)?;
            if client_id.as_ref().is_some_and(|id| *id != claimed) { Err(NOT_PROVED) } else { Ok((claimed, Some(assertion.as_str()))) }
        }
        _ => Err(OauthError::invalid_client("a client of people sends client_id, or proves itself with private_key_jwt")),
    }
}

/// May what was asked for at all be asked for by clients of people?
fn check_scope(asked: &TokenRequest) -> Result<(), OauthError> {
    let known = |scope: &Scope| scope.contains(TOOLS_SCOPE) || scope.contains(AGENT_SCOPE);
    if asked.scope.as_ref().is_none_or(known) && asked.task.is_none() { Ok(()) } else { Err(OauthError::invalid_scope()) }
}

/// Gives what a person allowed: a task, its token, and a refresh token.
pub(super) async fn redeem(api: &Arc<Api>, asked: &TokenRequest, grant: &CodeGrant, presented: &Presented<'_>) -> Result<Response, Refused> {
    let house = &api.house;
    let (client_id, assertion) = client_of(&asked.client)?;
    let shown = house.shown_key(presented)?;
    let confirmation = shown.confirmation();
    check_scope(asked)?;
    let now = house.clock.now();
    if let Some(assertion) = assertion {
        // Its keys are fetched for whoever has a code of this client, and for nobody else.
        match house.consents.codes.is_of_proving_client(&grant.code, &client_id, now) {
            Some(true) => house.client_proves_itself(&client_id, assertion).await?,
            Some(false) => return Err(NOT_PROVED.into()),
            None => {}
        }
    }
    let allowed = match house.consents.codes.redeem(&grant.code, now) {
        Redeemed::Allowed(allowed) => allowed,
        //= rfc6749#section-4.1.2
        // If an authorization code is used more than once, the authorization server MUST deny the request and SHOULD revoke (when
        // possible) all tokens previously issued based on that authorization code.
        Redeemed::Again(task) => {
            if let Some(task) = task {
                came_twice(house, task, "code_reused", "an authorization code was presented twice").await;
            }
            return Err(CODE.into());
        }
        Redeemed::Unknown => return Err(CODE.into()),
    };
    //= rfc6749#section-4.1.3
    // ensure that the authorization code was issued to the authenticated confidential client, or if the client is public, ensure
    // that the code was issued to "client_id" in the request [...] ensure that the "redirect_uri" parameter is present if the
    // "redirect_uri" parameter was included in the initial authorization request [...] and if included ensure that their values are
    // identical.
    if allowed.authenticates != assertion.is_some() {
        tracing::warn!(from = %presented.from, agent = %allowed.agent, "a code was presented without the proof that its client has");
        return Err(NOT_PROVED.into());
    }
    let same_place = grant.redirect_uri == allowed.redirect_uri;
    //= rfc7636#section-4.6
    // If the values are not equal, an error response indicating "invalid_grant" as described in Section 5.2 of [RFC6749] MUST be
    // returned.
    //= rfc9449#section-10
    // When a token request is received, the authorization server computes the JWK Thumbprint of the proof-of-possession public key in
    // the DPoP proof and verifies that it matches the dpop_jkt parameter value in the authorization request. If they do not match, it
    // MUST reject the request.
    let same_key = allowed.key.is_none_or(|key| confirmation == Some(Confirmation::Key(key)));
    if allowed.client_id != client_id || !same_place || !same_key || !allowed.challenge.is_met_by(&grant.verifier) {
        tracing::warn!(from = %presented.from, agent = %allowed.agent, "a code was presented by somebody who is not its client");
        return Err(CODE.into());
    }
    //= rfc9449#section-5.2
    // If the value is true, the authorization server MUST reject token requests from the client that do not contain the DPoP header.
    // The refresh token is bound to the key of this first request, so that none that follows can be without it.
    if allowed.bound && !matches!(confirmation, Some(Confirmation::Key(_))) {
        return Err(NO_KEY.into());
    }
    let agent = house.agent(allowed.agent.as_str()).ok_or(CODE)?;
    house.bound_enough(agent, confirmation.as_ref())?;
    house.take_key(shown)?;
    let task = open(house, agent, &allowed, confirmation.as_ref()).await?;
    if !house.consents.codes.opened(&grant.code, task.task.id) {
        came_twice(house, task.task.id, "code_reused", "an authorization code was presented twice").await;
        return Err(CODE.into());
    }
    let client = Digest::of(client_id.as_bytes());
    let refresh =
        house.first_refresh(task.task.id, (client, allowed.authenticates), confirmation.as_ref(), allowed.session, task.task.expires_at).await;
    let refresh = refresh.map_err(|error| {
        tracing::error!(error.code = %error.code(), %error, "no refresh token was issued: the store failed");
        STORE_DOWN
    })?;
    // The session may have ended since the person allowed it, and what was begun in it ends with it.
    if !house.sign_ins.has_mark(allowed.session, house.clock.now()) {
        if let Err(error) = house.end_task(task.task.id, EndReason::Revoked, Some("the broker")).await {
            tracing::error!(%error, task = %task.task.id, "the end of a task could not be recorded yet");
        }
        return Err(CODE.into());
    }
    answer(house, &task, confirmation, refresh)
}

/// The task, opened for the person who allowed it.
async fn open(house: &Arc<House>, agent: &Agent, allowed: &Allowed, confirmation: Option<&Confirmation>) -> Result<Arc<LiveTask>, OauthError> {
    if !house.config.clients.may_work_for(agent, &allowed.consent.by) || house.person(allowed.consent.by.as_str()).is_none() {
        return Err(CODE);
    }
    let request = TaskRequest {
        purpose: allowed.purpose.clone(),
        tools: Some(allowed.tools.iter().map(|name| AskedTool::Name(name.to_string())).collect()),
        ttl_seconds: Some(allowed.ttl.as_secs()),
        on_behalf_of: Some(allowed.consent.by.clone()),
        model: None,
        budget: None,
        consent: Some(allowed.consent.clone()),
        held_by: crate::authn::binding::held_by(confirmation),
        by_model: false,
    };
    // A copy of this one task, and no other is it: only its refresh token comes again.
    let (instance, acting) = (InstanceId::new(house.clock.now(), random()), Acting { named: true, ..Acting::default() });
    let opened = house.open_task_of(&allowed.agent, instance, &acting, request).await.map_err(|refused| {
        tracing::info!(error.code = %refused.code, detail = refused.detail, agent = %allowed.agent, "a task that a person allowed was not opened");
        match refused.code {
            ErrorCode::AuditUnavailable => STORE_DOWN,
            ErrorCode::LimitExceeded => OauthError::temporarily_unavailable("the agent has too many tasks open, or opens them too fast"),
            _ => OauthError::invalid_grant("what was allowed cannot be granted any more"),
        }
    })?;
    Ok(opened.live)
}

/// Renews the token of an open task, and the refresh token with it.
pub(super) async fn refresh(api: &Arc<Api>, asked: &TokenRequest, grant: &RefreshGrant, presented: &Presented<'_>) -> Result<Response, Refused> {
    let house = &api.house;
    let (client_id, assertion) = client_of(&asked.client)?;
    let shown = house.shown_key(presented)?;
    let confirmation = shown.confirmation();
    check_scope(asked)?;
    let said = house.open_refresh(&grant.token).ok_or(TOKEN)?;
    //= rfc9449#section-5
    // When an authorization server supporting DPoP issues a refresh token to a public client that presents a valid DPoP proof at the
    // token endpoint, the refresh token MUST be bound to the respective public key. The binding MUST be validated when the refresh token
    // is later presented to get new access tokens.
    //= rfc8705#section-4
    // When the authorization server issues a refresh token to such a client, it SHOULD also bind the refresh token to the respective
    // certificate and check the binding when the refresh token is presented to get new access tokens.
    if said.client != Digest::of(client_id.as_bytes()) || !said.is_bound_to(confirmation.as_ref()) {
        tracing::warn!(from = %presented.from, task = %said.task, "a refresh token was presented by somebody who is not its client");
        return Err(TOKEN.into());
    }
    //= rfc6749#section-6
    // If the client type is confidential or the client was issued client credentials (or assigned other authentication requirements),
    // the client MUST authenticate with the authorization server as described in Section 3.2.1.
    match assertion {
        Some(assertion) if said.authenticates => house.client_proves_itself(&client_id, assertion).await?,
        None if !said.authenticates => {}
        _ => return Err(NOT_PROVED.into()),
    }
    let now = house.clock.now();
    let live = house.live.find(said.task).filter(|l| l.is_open(now)).ok_or(TOKEN)?;
    let agent = house.agent(live.task.agent.as_str()).filter(|a| house.in_service(a, now).is_ok()).ok_or(TOKEN)?;
    house.bound_enough(agent, confirmation.as_ref())?;
    // Before it is used up: one that could not be answered stays good for the client whose it is.
    if !house.may_hold(&live.task, confirmation.as_ref()) {
        return Err(TOKEN.into());
    }
    // An agent that was given to somebody else, or taken from interactive clients, works for this one no more.
    if house.person(live.task.subject.as_str()).is_none() || !house.config.clients.may_work_for(agent, &live.task.subject) {
        return Err(TOKEN.into());
    }
    in_pace(house, agent).await?;
    house.take_key(shown)?;
    let rotation = house.rotate(&said).await.map_err(|error| {
        tracing::error!(error.code = %error.code(), %error, "no token was issued: the store failed");
        STORE_DOWN
    })?;
    match rotation {
        Rotation::Next(next) => answer(house, &live, confirmation, Some(next)),
        //= rfc9700#section-4.14.2
        // If a refresh token is compromised and subsequently used by both the attacker and the legitimate client, one of them will
        // present an invalidated refresh token, which will inform the authorization server of the breach. The authorization server
        // cannot determine which party submitted the invalid refresh token, but it will revoke the active refresh token.
        Rotation::Again => {
            came_twice(house, said.task, "refresh_token_reused", "a refresh token was presented twice").await;
            Err(TOKEN.into())
        }
        Rotation::Gone => Err(TOKEN.into()),
    }
}

async fn in_pace(house: &House, agent: &Agent) -> Result<(), OauthError> {
    if house.paces.within(&agent.name, Door::Token, house.clock.now()) {
        return Ok(());
    }
    house.note_refused(&agent.name, Door::Token, ErrorCode::LimitExceeded).await;
    Err(OauthError::temporarily_unavailable("the agent asks for too many tokens; wait a minute"))
}

/// What one client holds is in the hands of another too: the task ends, and it is on record.
async fn came_twice(house: &House, task: TaskId, what: &'static str, words: &str) {
    let live = house.live.find(task);
    if let Err(error) = house.end_task(task, EndReason::Revoked, Some("the broker")).await {
        tracing::error!(%error, %task, "the end of a task could not be recorded yet");
    }
    let agent = live.as_ref().and_then(|l| house.agent(l.task.agent.as_str()));
    house.incident(what, agent, Some(task), &format!("{words}; its task was ended")).await;
}

fn answer(house: &House, live: &LiveTask, confirmation: Option<Confirmation>, refresh: Option<String>) -> Result<Response, Refused> {
    let issued = house.task_token(live, confirmation, None).map_err(|code| {
        tracing::error!(error.code = %code, "a token could not be signed");
        UNSIGNED
    })?;
    metrics::counter!("bailiwick_tokens_issued_total", "kind" => "task").increment(1);
    let scope = Scope::tools();
    let mut body = TokenAnswer { issued: &issued, scope: &scope, task: Some(live.task.id) }.body();
    if let (Some(refresh), Some(members)) = (refresh, body.as_object_mut()) {
        members.insert("refresh_token".to_owned(), Value::String(refresh));
    }
    Ok(json(StatusCode::OK, &body))
}

impl House {
    /// Checks the proof of a client whose metadata document says that it has keys (RFC 7523 section 3). Once.
    async fn client_proves_itself(&self, client_id: &str, assertion: &str) -> Result<(), OauthError> {
        let now = self.clock.now();
        let audiences = assertion::audiences(&self.urls.base, &self.urls.token);
        let refused = |why: &str| {
            tracing::info!(client = client_id, why, "a client of people did not prove itself");
            NOT_PROVED
        };
        let mut proved = Err(ProofError::Key);
        for again in [false, true] {
            let (keys, signs_by) = self.keys_of_client(client_id, again).await.map_err(|why| refused(&why))?;
            proved = assertion::verify_client(assertion, client_id, (&keys, signs_by), &audiences, now);
            // It may have a new key since the keys were read.
            if !matches!(proved, Err(ProofError::Key)) {
                break;
            }
        }
        let proved = proved.map_err(|error| refused(&error.to_string()))?;
        let issuer = format!("client:{}", Digest::of(client_id.as_bytes()));
        let first = self.store.jti_use(&issuer, &proved.jti, proved.remember_until, now).await.map_err(|error| {
            tracing::error!(error.code = %error.code(), %error, "no token was issued: the store failed");
            STORE_DOWN
        })?;
        if first { Ok(()) } else { Err(refused("the assertion was presented before")) }
    }
}

impl Api {
    /// Revokes what a client of people was given, refresh token or access token: its task ends. False: it was given nothing of the kind.
    pub(super) async fn revoke_interactive(&self, client: &ClientProof, token: &str) -> Result<bool, OauthError> {
        let house = &self.house;
        if !house.config.clients.interactive {
            return Ok(false);
        }
        // An agent proves itself in its own ways: that is looked at next.
        let (client_id, assertion) = match client {
            ClientProof::Assertion { assertion, .. } if !assertion::claimed(assertion).is_ok_and(|id| id.starts_with("https://")) => {
                return Ok(false);
            }
            ClientProof::Assertion { .. } | ClientProof::Nothing { client_id: Some(_) } => client_of(client)?,
            _ => return Ok(false),
        };
        let client = Digest::of(client_id.as_bytes());
        let (task, ours, authenticates) = match house.open_refresh(token) {
            Some(said) => (said.task, said.client == client, said.authenticates),
            None => {
                let now = house.clock.now();
                let Some(task) = house.verifier.verify(token, &house.urls.mcp, now).ok().and_then(|v| v.task()) else { return Ok(false) };
                // An agent's own, which proves itself in another way: that is looked at next.
                let of_client = house.task_of_client(task, client).await.map_err(|_| STORE_DOWN)?;
                let Some(authenticates) = of_client else { return Ok(false) };
                (task, true, authenticates)
            }
        };
        if ours && authenticates && assertion.is_none() {
            return Err(NOT_PROVED);
        }
        // Its keys are fetched for whoever has a token of this client, and for nobody else.
        if let (Some(assertion), true) = (assertion, ours) {
            house.client_proves_itself(&client_id, assertion).await?;
        }
        //= rfc7009#section-2.1
        // The authorization server first validates the client credentials [...] and then verifies whether the token was issued to
        // the client making the revocation request.
        if !ours {
            return Err(OauthError::invalid_grant("the token was issued to another client"));
        }
        //= rfc7009#section-2.1
        // If the particular token is a refresh token and the authorization server supports the revocation of access tokens, then the
        // authorization server SHOULD also invalidate all access tokens based on the same authorization grant
        // The other way round too: a person's client that gives up its token has no other use for the task.
        if house.live.find(task).is_some() {
            house.end_task(task, EndReason::Completed, Some("the client")).await.map_err(|error| {
                tracing::error!(error.code = %error.code(), %error, "a revocation holds, and could not be recorded");
                STORE_DOWN
            })?;
        }
        Ok(true)
    }
}
