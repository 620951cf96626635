//! The token endpoint (RFC 6749 section 3.2): who asks is proved first, then the grant's own file answers.

use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use bailiwick_core::{ErrorCode, SystemName, TaskId};
use bailiwick_identity::oauth::{Form, GrantType, OauthError, Scope, TokenAnswer, TokenRequest};
use bailiwick_identity::token::Issued;
use http::StatusCode;

use super::super::asker::{Api, peer};
use super::super::body::FormBytes;
use super::client::Client;
use super::{OauthErrorDocument, Refused, TokenDocument, TokenForm, client_credentials, code, exchange, json};
use crate::authn::Presented;
use crate::house::House;
use crate::paces::Door;

/// What a grant gives.
#[derive(Debug)]
pub(super) struct Granted {
    /// The token.
    pub(super) issued: Issued,
    /// Its scope.
    pub(super) scope: Scope,
    /// Its task, if it has one.
    pub(super) task: Option<TaskId>,
}

/// The resources that tokens may be asked for: the MCP endpoint and what is below it. The audience is always the endpoint itself.
pub(super) fn resources(house: &House, body: &[u8]) -> Result<Vec<String>, OauthError> {
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
pub(in crate::api) async fn token(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let presented = Presented { from: peer(&parts)?, parts: &parts };
    let FormBytes(body) = FormBytes::from_request(Request::from_parts(parts.clone(), body), &api).await?;
    let house = &api.house;
    let asked = TokenRequest::parse(&body, &resources(house, &body)?)?;
    match &asked.grant {
        GrantType::AuthorizationCode(grant) => return code::redeem(&api, &asked, grant, &presented).await,
        GrantType::RefreshToken(grant) => return code::refresh(&api, &asked, grant, &presented).await,
        _ => {}
    }
    // Looked at before the client's own proof is used up: a client that is given a nonce comes again with that very one.
    let shown = house.shown_key(&presented)?;
    let client = match &asked.grant {
        GrantType::JwtBearer(assertion) => api.by_grant(assertion.jwt(), &asked, &presented).await?,
        _ => api.client(&asked.client, &presented).await?,
    };
    // What its proof says of the copy goes before what it says beside it.
    let client = Client { instance: client.instance.or(asked.instance), ..client };
    api.in_pace(&client).await?;
    let client = Client { confirmation: house.take_key(shown)?, ..client };
    house.bound_enough(&client.agent, client.confirmation.as_ref())?;
    client.has_shown_its_key()?;
    api.own_certificate(&client, &presented)?;
    let granted = match &asked.grant {
        GrantType::ClientCredentials | GrantType::JwtBearer(_) => client_credentials::grant(house, client, &asked, &presented).await?,
        GrantType::TokenExchange(part) => return exchange::grant(house, client, &asked, part, &presented).await,
        _ => return Err(OauthError::unsupported_grant_type().into()),
    };
    metrics::counter!("bailiwick_tokens_issued_total", "kind" => if granted.task.is_some() { "task" } else { "agent" }).increment(1);
    let answer = TokenAnswer { issued: &granted.issued, scope: &granted.scope, task: granted.task };
    Ok(json(StatusCode::OK, &answer.body()))
}

impl Api {
    /// Refuses an agent that asks for too many tokens.
    pub(super) async fn in_pace(&self, client: &Client) -> Result<(), OauthError> {
        let name = &client.agent.name;
        if client.instance.is_some_and(|instance| self.house.instances.is_ended(name, instance)) {
            return Err(OauthError::unauthorized_client("this running copy of the agent was ended"));
        }
        if self.house.paces.within(name, Door::Token, self.house.clock.now()) {
            return Ok(());
        }
        self.house.note_refused(name, Door::Token, ErrorCode::LimitExceeded).await;
        Err(OauthError::temporarily_unavailable("the agent asks for too many tokens; wait a minute"))
    }
}
