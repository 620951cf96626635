//! Token exchange (RFC 8693): an agent presents the token of another's task, and gets a part of that task for itself.

use std::sync::Arc;

use axum::response::Response;
use bailiwick_core::delegation::Taker;
use bailiwick_core::{ErrorCode, InstanceId, Task};
use bailiwick_identity::Place;
use bailiwick_identity::oauth::{ACCESS_TOKEN, AskedPart, Exchange, OauthError, Scope, TOOL_DETAIL, TokenAnswer, TokenRequest};
use bailiwick_identity::token::{Acting, TOOLS_SCOPE};
use http::StatusCode;
use serde_json::{Value, json};

use super::client::Client;
use super::{Refused, STORE_DOWN, json as answer};
use crate::authn::Presented;
use crate::authn::binding::held_by;
use crate::clock::random;
use crate::delegation::{DelegationRefused, Splice};
use crate::house::House;
use crate::tasks::TaskRefused;

//= rfc8693#section-2.2.2
// If the request itself is not valid or if either the "subject_token" or "actor_token" are invalid for any reason, or are unacceptable
// based on policy, the authorization server MUST construct an error response, as specified in Section 5.2 of [RFC6749]. The value of
// the "error" parameter MUST be the "invalid_request" error code.
const SUBJECT: OauthError = OauthError::invalid_request("the subject token is not acceptable");
const ACTOR: OauthError = OauthError::invalid_request("the actor token is not acceptable");
const CHAIN: OauthError = OauthError::invalid_request("the chain of agents may not go on so");
const TOO_MUCH: OauthError = OauthError::invalid_authorization_details("more is asked for than may be had");

/// Answers a request of an agent that proved itself: it is the actor.
pub(super) async fn grant(
    house: &Arc<House>,
    client: Client,
    asked: &TokenRequest,
    exchange: &Exchange,
    presented: &Presented<'_>,
) -> Result<Response, Refused> {
    // The part says by itself what it may do; the scope is that of every task token.
    if asked.scope.as_ref().is_some_and(|scope| !scope.is_exactly(TOOLS_SCOPE)) {
        return Err(OauthError::invalid_scope().into());
    }
    if asked.task.is_some() {
        return Err(OauthError::invalid_request("task_id renews a token: use client_credentials").into());
    }
    let now = house.clock.now();
    let taken = taken(house, &client, exchange);
    let (whole, named) = match taken {
        Ok(taken) => taken,
        Err(splice) => return Err(spliced(house, &client, splice, presented).await),
    };
    let instance = client.instance.or(named).unwrap_or_else(|| InstanceId::new(now, random()));
    if let Some(used) = client.used {
        house.sighted(&client.agent, used, Place { address: presented.from, instance }, now).await;
    }
    let taker = Taker { agent: client.agent.name.clone(), component: client.acting.component.clone(), instance };
    let part = AskedPart { held_by: held_by(client.confirmation.as_ref()), ..exchange.asked.clone() };
    let acting = Acting { named: client.instance.is_some(), ..client.acting.clone() };
    let opened = match house.delegate(&whole, &taker, &acting, part).await {
        Ok(opened) => opened,
        Err(DelegationRefused::Splice(splice)) => return Err(spliced(house, &client, splice, presented).await),
        Err(DelegationRefused::TooMuch(words)) => return Err(spliced(house, &client, Splice::TooMuch(words), presented).await),
        Err(DelegationRefused::Task(refused)) => return Err(not_opened(&refused)),
    };
    let issued = house.task_token(&opened.live, client.confirmation, client.acting.key).map_err(|code| {
        tracing::error!(error.code = %code, "a token could not be signed");
        OauthError::temporarily_unavailable("the token could not be signed")
    })?;
    metrics::counter!("bailiwick_tokens_issued_total", "kind" => "part").increment(1);
    let task = &opened.live.task;
    let mut body = TokenAnswer { issued: &issued, scope: &Scope::tools(), task: Some(task.id) }.body();
    if let Some(body) = body.as_object_mut() {
        //= rfc8693#section-2.2.1
        // issued_token_type REQUIRED. An identifier, as described in Section 3, for the representation of the issued security token.
        body.insert("issued_token_type".to_owned(), json!(ACCESS_TOKEN));
        //= rfc9396#section-7
        // the AS MUST also return the authorization_details as granted by the resource owner and assigned to the respective access
        // token.
        body.insert("authorization_details".to_owned(), granted(task));
        body.insert("parent_task_id".to_owned(), json!(whole.task.id));
        body.insert("narrowed".to_owned(), json!(opened.narrowed));
    }
    Ok(answer(StatusCode::OK, &body))
}

/// The task of the subject token, and the running copy that the actor token names.
fn taken(house: &House, client: &Client, exchange: &Exchange) -> Result<(Arc<crate::live::LiveTask>, Option<InstanceId>), Splice> {
    let actor = exchange.actor_token.as_deref().map(|token| house.actor_of(token, &client.agent, &client.acting)).transpose()?;
    if actor.is_some_and(|named| client.instance.is_some_and(|own| own != named)) {
        return Err(Splice::OtherActor);
    }
    Ok((house.subject_of(&exchange.subject_token)?, actor))
}

async fn spliced(house: &House, client: &Client, splice: Splice, presented: &Presented<'_>) -> Refused {
    house.note_splice(&client.agent, &splice, presented.from).await;
    match splice {
        // Whoever has the token of an open task of ours may know why it goes no further.
        Splice::TooMuch(words) => Refused::Said(TOO_MUCH, words),
        Splice::Chain(why) => Refused::Said(CHAIN, why.to_string()),
        Splice::Actor(_) | Splice::ActorRevoked | Splice::OtherActor => ACTOR.into(),
        Splice::Token(_) | Splice::Revoked | Splice::NoTask | Splice::Ended | Splice::OutOfService | Splice::NotDelegated(_) => SUBJECT.into(),
        Splice::OtherAgent | Splice::OtherInstance | Splice::OtherSubject | Splice::OtherChain => SUBJECT.into(),
    }
}

fn not_opened(refused: &TaskRefused) -> Refused {
    match refused.code {
        ErrorCode::AuditUnavailable => STORE_DOWN.into(),
        ErrorCode::LimitExceeded => OauthError::temporarily_unavailable("the agent has too many tasks open, or opens them too fast").into(),
        ErrorCode::TaskClosed => SUBJECT.into(),
        ErrorCode::Internal => OauthError::temporarily_unavailable("the task could not be opened").into(),
        _ => {
            let words = refused.narrowed.iter().map(|n| format!("; tool `{}`: {}", n.asked, n.reason));
            Refused::Said(TOO_MUCH, std::iter::once(refused.detail.clone()).chain(words).collect())
        }
    }
}

/// What the part may do, in the words in which it is asked for.
fn granted(task: &Task) -> Value {
    let details = task.grant.tools().iter().map(|(name, grant)| {
        let mut detail = json!({ "type": TOOL_DETAIL, "identifier": name.system(), "actions": [name.tool()] });
        if let (Some(detail), false) = (detail.as_object_mut(), grant.arguments.is_empty()) {
            detail.insert("constraints".to_owned(), json!(grant.arguments));
        }
        detail
    });
    Value::Array(details.collect())
}
