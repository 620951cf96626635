//! Questions about tokens (RFC 7662), and their revocation (RFC 7009).

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts as _, Request, State};
use axum::response::Response;
use bailiwick_core::{Agent, Role};
use bailiwick_identity::Verified;
use bailiwick_identity::oauth::{Form, OauthError, TokenQuery, introspection};
use bailiwick_identity::token::SKEW;
use http::{StatusCode, header};
use serde_json::Value;

use super::super::asker::{Api, ByPerson, has, peer};
use super::super::body::FormBytes;
use super::client::Client;
use super::{OauthErrorDocument, Refused, STORE_DOWN, TokenQueryForm, json};
use crate::authn::Presented;
use crate::house::House;
use crate::standing::Ground;

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
pub(in crate::api) async fn introspect(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Refused> {
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
        return Ok(json(StatusCode::OK, &told(house, known.as_ref())));
    }
    let (query, client) = asked_by_client(&api, Request::from_parts(parts, body)).await?;
    let known = active(house, &query.token).filter(|t| t.agent == client.agent.name && t.acting.component == client.acting.component);
    Ok(json(StatusCode::OK, &told(house, known.as_ref())))
}

/// What is told of a token that may be known: what it says, and what its task has been given since.
fn told(house: &House, known: Option<&Verified>) -> Value {
    let mut body = introspection(known);
    //= rfc7662#section-2.2
    // Specific implementations MAY extend this structure with their own service-specific response names as top-level members of this
    // JSON object.
    if let Some(live) = known.and_then(Verified::task).and_then(|task| house.live.find(task))
        && let Some(members) = body.as_object_mut()
    {
        members.insert("labels".to_owned(), live.labels().iter().map(ToString::to_string).collect());
    }
    body
}

/// The token as verified, if everything that it stands for still holds.
fn active(house: &House, token: &str) -> Option<Verified> {
    let now = house.clock.now();
    let verified = house.verifier.verify(token, &house.urls.mcp, now).ok()?;
    if house.tokens.is_revoked(&verified.jti.to_string()) {
        return None;
    }
    let open = |task| house.live.find(task).is_some_and(|live| live.is_open(now) && house.task_stands(&live).is_ok());
    let holds = house.stands(Ground::of(&verified)).is_ok() && verified.task().is_none_or(open);
    holds.then_some(verified)
}

/// The agent that asks. What it proves itself with may be bound to a key: then it shows that key here as at the token endpoint.
async fn proved_client(api: &Arc<Api>, query: &TokenQuery, presented: &Presented<'_>) -> Result<Client, OauthError> {
    let shown = api.house.shown_key(presented)?;
    let client = api.client(&query.client, presented).await?;
    let client = Client { confirmation: api.house.take_key(shown)?, ..client };
    client.has_shown_its_key()?;
    Ok(client)
}

async fn asked_by_client(api: &Arc<Api>, request: Request) -> Result<(TokenQuery, Client), Refused> {
    let (parts, body) = request.into_parts();
    let presented = Presented { from: peer(&parts)?, parts: &parts };
    let FormBytes(body) = FormBytes::from_request(Request::from_parts(parts.clone(), body), api).await?;
    let query = TokenQuery::parse(&body)?;
    let client = proved_client(api, &query, &presented).await?;
    Ok((query, client))
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
pub(in crate::api) async fn revoke(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let FormBytes(body) = FormBytes::from_request(Request::from_parts(parts.clone(), body), &api).await?;
    let query = TokenQuery::parse(&body)?;
    if api.revoke_interactive(&query.client, &query.token).await? {
        return Ok(json(StatusCode::OK, &Value::Null));
    }
    let client = proved_client(&api, &query, &Presented { from: peer(&parts)?, parts: &parts }).await?;
    let house = &api.house;
    let now = house.clock.now();
    let Ok(verified) = house.verifier.verify(&query.token, &house.urls.mcp, now) else { return Ok(json(StatusCode::OK, &Value::Null)) };
    //= rfc7009#section-2.1
    // The authorization server first validates the client credentials [...] and then verifies whether the token was issued to the
    // client making the revocation request. If this validation fails, the request is refused and the client is informed of the
    // error by the authorization server.
    if verified.agent != client.agent.name || verified.acting.component != client.acting.component {
        return Err(OauthError::invalid_grant("the token was issued to another client").into());
    }
    house.revoke_token(&verified.jti.to_string(), verified.expires.plus(SKEW)).await.map_err(|error| {
        tracing::error!(error.code = %error.code(), %error, "a revocation holds, and could not be recorded");
        STORE_DOWN
    })?;
    Ok(json(StatusCode::OK, &Value::Null))
}
