//! What a signed-in person has here: passkeys and sessions, to add, to remove and to end.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use bailiwick_core::ErrorCode;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;

use super::super::asker::Api;
use super::super::hold_view::moment;
use super::super::problem::Problem;
use super::ways::{problem, with_script};
use super::{SignedIn, on_passkey_site, page, posted_by_any, refused, signed_in_or_invited, to};
use crate::house::House;
use crate::pages::{self, AccountView, PasskeyAsk, PasskeyLine, SessionLine};
use crate::passkeys::Closed;
use crate::sign_in::Way;

/// A new passkey.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "documents the form")]
pub(in crate::api) struct NewPasskeyForm {
    /// The session's token.
    csrf: String,
    /// The challenge, sealed.
    ticket: String,
    /// What the person calls it.
    name: String,
    /// The attestation object in base64url.
    attestation: String,
    /// The client data in base64url.
    client_data: String,
}

/// Something of the person's to be ended.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "documents the form")]
pub(in crate::api) struct EndForm {
    /// The session's token.
    csrf: String,
    /// The passkey's or the session's id.
    id: String,
}

fn view(house: &House, headers: &HeaderMap, by: &SignedIn) -> AccountView {
    let now = house.clock.now();
    let known = house.directory.known(&by.person.name);
    let passkeys = known.iter().flat_map(|k| &k.passkeys).map(|p| PasskeyLine {
        id: p.id.clone(),
        name: p.name.clone(),
        added: moment(p.added, now),
        used: p.used.map(|at| moment(at, now)),
    });
    let sessions = house.sign_ins.all(now).into_iter().filter(|s| s.person == by.person.name && by.session.way != Way::Invitation);
    let sessions = sessions.map(|s| SessionLine {
        current: s.mark == by.session.mark,
        way: s.way.word().to_owned(),
        since: moment(s.since, now),
        used: moment(s.used, now),
        id: s.id,
    });
    let here = on_passkey_site(house, headers);
    let closed = house.closed_to(&by.session).filter(|_| here);
    let ask = if here && closed.is_none() { house.ask_registration(&by.session).ok() } else { None };
    let again = if by.session.way == Way::Provider { format!("{}/oidc?fresh=yes", pages::SIGN_IN_PATH) } else { pages::SIGN_IN_PATH.to_owned() };
    AccountView {
        viewer: by.viewer(),
        roles: by.person.roles.iter().map(|r| format!("{r:?}").to_lowercase()).collect(),
        passkeys: passkeys.collect(),
        sessions: sessions.collect(),
        closed: closed.map(|why| (why.words().to_owned(), (why != Closed::Invitation).then_some(again))),
        ask: ask.map(|a| PasskeyAsk { options: a.options, ticket: a.ticket }),
        site: house.passkey_site().and_then(|s| s.origins.into_iter().next()),
    }
}

/// What the signed-in person has here.
#[utoipa::path(
    get, path = "/account", tag = "pages",
    responses((status = 200, description = "The page.", body = String, content_type = "text/html"), (status = 303, description = "Not signed in: on to the form.")),
    security(("session" = [])),
)]
pub(in crate::api) async fn account(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let Some(by) = signed_in_or_invited(&api.house, &headers) else { return to(pages::SIGN_IN_PATH) };
    with_script(page(StatusCode::OK, pages::account_page(&view(&api.house, &headers, &by))))
}

/// Registers a passkey.
#[utoipa::path(
    post, path = "/account/passkeys", tag = "pages", request_body(content = NewPasskeyForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "Registered: back to the page.")), security(("session" = [])),
)]
pub(in crate::api) async fn add_passkey(State(api): State<Arc<Api>>, request: Request) -> Response {
    let house = &api.house;
    let (by, fields) = match posted_by_any(&api, request).await {
        Ok(posted) => posted,
        Err(refused) => return *refused,
    };
    let of = |name: &str| fields.get(name).map_or("", String::as_str);
    let registered = house.register_passkey(&by.session, of("ticket"), of("attestation"), of("client_data"), of("name")).await;
    match registered {
        Ok(_) if by.session.way == Way::Invitation => {
            // What the invitation was for is done: now the person signs in with what he or she has.
            house.sign_ins.sign_out(&by.cookie);
            to(pages::SIGN_IN_PATH)
        }
        Ok(_) => to(pages::ACCOUNT_PATH),
        Err(why) => refused(Some(by.viewer()), &problem(&why)),
    }
}

/// Removes a passkey.
#[utoipa::path(
    post, path = "/account/passkeys/remove", tag = "pages", request_body(content = EndForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "Removed: back to the page.")), security(("session" = [])),
)]
pub(in crate::api) async fn remove_passkey(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (by, fields) = match posted_by_full(&api, request).await {
        Ok(posted) => posted,
        Err(refused) => return *refused,
    };
    match api.house.remove_passkey(&by.session, fields.get("id").map_or("", String::as_str)).await {
        Ok(()) => to(pages::ACCOUNT_PATH),
        Err(why) => refused(Some(by.viewer()), &problem(&why)),
    }
}

/// Ends a session of the person.
#[utoipa::path(
    post, path = "/account/sessions/end", tag = "pages", request_body(content = EndForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "Ended: back to the page.")), security(("session" = [])),
)]
pub(in crate::api) async fn end_session(State(api): State<Arc<Api>>, request: Request) -> Response {
    let house = &api.house;
    let (by, fields) = match posted_by_full(&api, request).await {
        Ok(posted) => posted,
        Err(refused) => return *refused,
    };
    let id = fields.get("id").map_or("", String::as_str);
    for session in house.end_sessions(|s| s.person == by.person.name && s.id == id).await {
        house.note_signed_out(&session).await;
    }
    to(pages::ACCOUNT_PATH)
}

/// The form of somebody who came in by more than an invitation.
async fn posted_by_full(api: &Arc<Api>, request: Request) -> Result<(SignedIn, BTreeMap<String, String>), Box<Response>> {
    let (by, fields) = posted_by_any(api, request).await?;
    if by.session.way == Way::Invitation {
        let problem = Problem::because(ErrorCode::RoleMissing, "an invitation is for a first passkey, and for nothing else");
        return Err(Box::new(refused(Some(by.viewer()), &problem)));
    }
    Ok((by, fields))
}
