//! Authorization codes and refresh tokens (RFC 6749 sections 4.1.3 and 6): a code opens the task that its person allowed, and the task's
//! tokens are renewed until it ends.

use std::sync::Arc;

use axum::response::Response;
use bailiwick_core::{Agent, Digest, EndReason, ErrorCode, InstanceId, TaskId};
use bailiwick_identity::oauth::{ClientProof, CodeGrant, OauthError, RefreshGrant, Scope, TokenAnswer, TokenRequest};
use bailiwick_identity::token::{AGENT_SCOPE, TOOLS_SCOPE};
use bailiwick_identity::{Confirmation, KeyId};
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

/// The ID of a client that has no way to prove itself: a public client.
fn public_client(proof: &ClientProof) -> Result<&str, OauthError> {
    match proof {
        ClientProof::Nothing { client_id: Some(id) } => Ok(id),
        ClientProof::Nothing { client_id: None } => Err(OauthError::invalid_request("client_id is missing")),
        _ => Err(OauthError::invalid_client("clients of people are public clients: send client_id, and no proof")),
    }
}

fn key_of(confirmation: Option<Confirmation>) -> Option<KeyId> {
    match confirmation {
        Some(Confirmation::Key(key)) => Some(key),
        Some(Confirmation::Certificate(_)) | None => None,
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
    let client_id = public_client(&asked.client)?;
    let confirmation = house.confirmation(presented)?;
    check_scope(asked)?;
    let now = house.clock.now();
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
    let same_place = grant.redirect_uri == allowed.redirect_uri;
    //= rfc7636#section-4.6
    // If the values are not equal, an error response indicating "invalid_grant" as described in Section 5.2 of [RFC6749] MUST be
    // returned.
    if allowed.client_id != client_id || !same_place || !allowed.challenge.is_met_by(&grant.verifier) {
        tracing::warn!(from = %presented.from, agent = %allowed.agent, "a code was presented by somebody who is not its client");
        return Err(CODE.into());
    }
    let agent = house.agent(allowed.agent.as_str()).ok_or(CODE)?;
    house.bound_enough(agent, confirmation.as_ref())?;
    let task = open(house, agent, &allowed, confirmation.as_ref()).await?;
    if !house.consents.codes.opened(&grant.code, task.task.id) {
        came_twice(house, task.task.id, "code_reused", "an authorization code was presented twice").await;
        return Err(CODE.into());
    }
    let (client, key) = (Digest::of(client_id.as_bytes()), key_of(confirmation));
    let refresh = house.first_refresh(task.task.id, client, key.as_ref(), allowed.session, task.task.expires_at).await.map_err(|error| {
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
    };
    let instance = InstanceId::new(house.clock.now(), random());
    let opened = house.open_task(&allowed.agent, instance, request).await.map_err(|refused| {
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
    let client_id = public_client(&asked.client)?;
    let confirmation = house.confirmation(presented)?;
    check_scope(asked)?;
    let said = house.open_refresh(&grant.token).ok_or(TOKEN)?;
    //= rfc6749#section-6
    // If the client type is confidential or the client was issued client credentials [...]
    //= rfc9449#section-5
    // Refresh tokens issued to public clients MUST be bound to the DPoP public key
    if said.client != Digest::of(client_id.as_bytes()) || !said.is_bound_to(key_of(confirmation).as_ref()) {
        tracing::warn!(from = %presented.from, task = %said.task, "a refresh token was presented by somebody who is not its client");
        return Err(TOKEN.into());
    }
    let now = house.clock.now();
    let live = house.live.find(said.task).filter(|l| l.is_open(now)).ok_or(TOKEN)?;
    let agent = house.agent(live.task.agent.as_str()).filter(|a| house.in_service(a, now).is_ok()).ok_or(TOKEN)?;
    // An agent that was given to somebody else, or taken from interactive clients, works for this one no more.
    if house.person(live.task.subject.as_str()).is_none() || !house.config.clients.may_work_for(agent, &live.task.subject) {
        return Err(TOKEN.into());
    }
    in_pace(house, agent).await?;
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
    let issued = house.task_token(live, confirmation).map_err(|code| {
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

impl Api {
    /// Revokes what a public client was given, refresh token or access token: its task ends. False: it was given nothing of the kind.
    pub(super) async fn revoke_interactive(&self, client: &ClientProof, token: &str) -> Result<bool, OauthError> {
        let ClientProof::Nothing { client_id: Some(client_id) } = client else { return Ok(false) };
        let house = &self.house;
        if !house.config.clients.interactive {
            return Ok(false);
        }
        let (task, ours) = match house.open_refresh(token) {
            Some(said) => (said.task, said.client == Digest::of(client_id.as_bytes())),
            None => {
                let now = house.clock.now();
                let Some(task) = house.verifier.verify(token, &house.urls.mcp, now).ok().and_then(|v| v.task()) else { return Ok(false) };
                // An agent's own, which proves itself in another way: that is looked at next.
                if !house.is_task_of_client(task, Digest::of(client_id.as_bytes())).await.map_err(|_| STORE_DOWN)? {
                    return Ok(false);
                }
                (task, true)
            }
        };
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
