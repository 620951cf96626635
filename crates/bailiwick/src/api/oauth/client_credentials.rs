//! Client credentials (RFC 6749 section 4.4): an agent token, or a new token of an open task.

use std::sync::Arc;

use bailiwick_core::{Agent, InstanceId, SessionId, TaskId};
use bailiwick_identity::oauth::{OauthError, Scope, TokenRequest};
use bailiwick_identity::token::{AGENT_SCOPE, Acting, Issued, Purpose, Statement, TOOLS_SCOPE};
use bailiwick_identity::{Confirmation, Place};

use super::client::Client;
use super::token::Granted;
use crate::authn::Presented;
use crate::clock::random;
use crate::house::House;

/// Answers a request of an agent that proved itself.
pub(super) async fn grant(house: &Arc<House>, client: Client, asked: &TokenRequest, presented: &Presented<'_>) -> Result<Granted, OauthError> {
    let now = house.clock.now();
    let named = client.instance.is_some();
    let client = Client { acting: Acting { named, ..client.acting }, ..client };
    let instance = client.instance.unwrap_or_else(|| InstanceId::new(now, random()));
    if let Some(used) = client.used {
        house.sighted(&client.agent, used, Place { address: presented.from, instance }, now).await;
    }
    let (issued, scope) = match asked.task {
        None => (agent_token_of(house, &client, instance, asked.scope.as_ref())?, Scope::agent()),
        Some(task) => renewed(house, &client, task, asked.scope.as_ref())?,
    };
    Ok(Granted { issued, scope, task: asked.task })
}

/// A token that opens tasks and does nothing else, of an agent about which nothing more was proved.
#[expect(dead_code, reason = "for grants that prove nothing of components and models")]
pub(super) fn agent_token(
    house: &House,
    agent: &Agent,
    instance: InstanceId,
    scope: Option<&Scope>,
    confirmation: Option<Confirmation>,
) -> Result<Issued, OauthError> {
    issue(house, agent, instance, Acting::default(), scope, confirmation)
}

/// A token that opens tasks and does nothing else, with all that the client proved.
pub(super) fn agent_token_of(house: &House, client: &Client, instance: InstanceId, scope: Option<&Scope>) -> Result<Issued, OauthError> {
    issue(house, &client.agent, instance, client.acting.clone(), scope, client.confirmation)
}

fn issue(
    house: &House,
    agent: &Agent,
    instance: InstanceId,
    acting: Acting,
    scope: Option<&Scope>,
    confirmation: Option<Confirmation>,
) -> Result<Issued, OauthError> {
    // Clients ask for what the challenge or the resource's metadata names. The answer says what the token is for: to open a task.
    if scope.is_some_and(|s| s.words().any(|word| word != AGENT_SCOPE && word != TOOLS_SCOPE)) {
        return Err(OauthError::invalid_scope());
    }
    let now = house.clock.now();
    let statement = Statement {
        agent: agent.name.clone(),
        instance,
        acting,
        purpose: Purpose::Agent,
        scope: Scope::agent(),
        audience: house.urls.mcp.clone(),
        jti: SessionId::new(now, random()),
        confirmation,
    };
    house.issuer.issue(&statement, now, house.config.tasks.token_ttl).map_err(|error| {
        tracing::error!(%error, "a token could not be signed");
        OauthError::temporarily_unavailable("the token could not be signed")
    })
}

/// A new token of an open task, for the very copy of the agent that opened it.
fn renewed(house: &House, client: &Client, task: TaskId, scope: Option<&Scope>) -> Result<(Issued, Scope), OauthError> {
    const NOT_YOURS: OauthError = OauthError::invalid_grant("there is no open task of this id, agent and instance");
    let now = house.clock.now();
    let live = house.live.find(task).filter(|l| l.is_open(now)).ok_or(NOT_YOURS)?;
    if live.task.agent != client.agent.name || live.task.component != client.acting.component || Some(live.task.instance) != client.instance {
        return Err(NOT_YOURS);
    }
    if !house.may_hold(&live.task, client.confirmation.as_ref()) {
        return Err(OauthError::invalid_grant("the tokens of this task are bound to another key"));
    }
    let issued = house.task_token(&live, client.confirmation, client.acting.key).map_err(|code| {
        tracing::error!(error.code = %code, "a token could not be signed");
        OauthError::temporarily_unavailable("the token could not be signed")
    })?;
    let verified = house.verifier.verify(&issued.token, &house.urls.mcp, now).map_err(|_| NOT_YOURS)?;
    if scope.is_some_and(|s| s.within(&verified.scope).as_ref() != Some(s)) {
        return Err(OauthError::invalid_scope());
    }
    Ok((issued, verified.scope))
}
