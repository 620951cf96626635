//! The ways in beside the one-time code: the OpenID provider, there and back, and passkeys.

use std::sync::Arc;

use axum::extract::{FromRequest as _, Request, State};
use axum::response::{IntoResponse as _, Response};
use bailiwick_core::ErrorCode;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::super::asker::Api;
use super::super::body::{Asked, FormBytes};
use super::super::onward::Onward;
use super::super::problem::Problem;
use super::{FLOW, SESSION, SignInQuery, cookie, enter, fields, page, posted_sign_in, refused, set_cookie, set_lax_cookie, shown, sign_in_form, to};
use crate::house::House;
use crate::pages::{self, PASSKEY_POLICY};
use crate::passkeys::PasskeyRefused;
use crate::sign_in::directory::ChangeError;
use crate::sign_in::{FLOW_LIFE, Returned, SignInRefused, Way};

/// What the provider sends back with the browser. Further members, which the standard lets it add, are not looked at.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct CallbackQuery {
    /// What the browser was sent with.
    state: Option<String>,
    /// The code.
    code: Option<String>,
    /// The provider's refusal (RFC 6749 section 4.1.2.1).
    error: Option<String>,
    /// The provider's issuer (RFC 9207).
    iss: Option<String>,
}

/// A logout token.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "documents the form")]
pub(in crate::api) struct LogoutForm {
    /// The token (OpenID Connect Back-Channel Logout 1.0 section 2.5).
    logout_token: String,
}

/// What a passkey gave, for signing in.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "documents the form")]
pub(in crate::api) struct PasskeyForm {
    /// The token of the form, which a cookie repeats.
    csrf: String,
    /// The challenge, sealed.
    ticket: String,
    /// The credential's id. This and what follows: base64url.
    passkey_id: String,
    /// The authenticator data.
    authenticator_data: String,
    /// The client data.
    client_data: String,
    /// The signature.
    signature: String,
    /// The user's handle.
    user_handle: String,
    /// The held call to show afterwards.
    hold: Option<String>,
    /// The request of a client to decide afterwards, sealed.
    request: Option<String>,
}

/// In words for the page: nothing that a stranger could learn from.
fn told(refused: &SignInRefused) -> &'static str {
    match refused {
        SignInRefused::Provider(_) | SignInRefused::Token(_) => {
            "The provider cannot be asked now, or its answer was not acceptable. Try again, or tell the operator."
        }
        SignInRefused::Stray(_) => "This answer does not belong to a sign-in that is under way in this browser. Begin again.",
        SignInRefused::Denied(_) => "The provider did not sign you in.",
        SignInRefused::Unknown(_) => "You are not known here, or may not sign in. Ask the operator.",
        SignInRefused::Change(_) | SignInRefused::TooMany => "The broker cannot take a sign-in now. Try again in a moment.",
    }
}

fn not_signed_in(house: &House, headers: &HeaderMap, onward: &Onward, why: &SignInRefused) -> Response {
    tracing::warn!(%why, "a sign-in with the provider was refused");
    let mut response = sign_in_form(house, headers, StatusCode::FORBIDDEN, onward, Some(told(why).to_owned()));
    response.headers_mut().append(header::SET_COOKIE, set_lax_cookie(house, FLOW, "", 0));
    response
}

/// There is no provider: then there is no such place either.
fn no_provider(house: &House) -> Option<Response> {
    let problem = || Problem::invalid("no OpenID provider is configured").with_status(StatusCode::NOT_FOUND);
    house.provider.is_none().then(|| refused(None, &problem()))
}

/// Sends the browser to the OpenID provider.
#[utoipa::path(
    get, path = "/sign-in/oidc", tag = "pages", params(SignInQuery),
    responses((status = 303, description = "On to the provider."), (status = 403, description = "The form, with what is wrong.", body = String, content_type = "text/html")),
)]
pub(in crate::api) async fn provider(State(api): State<Arc<Api>>, headers: HeaderMap, query: Result<Asked<SignInQuery>, Problem>) -> Response {
    let house = &api.house;
    if let Some(absent) = no_provider(house) {
        return absent;
    }
    let (onward, fresh) = query.map_or((Onward::Approvals, false), |Asked(q)| {
        (Onward::read(house, q.hold.as_deref(), q.request.as_deref()), q.fresh.as_deref() == Some("yes"))
    });
    match house.begin_sign_in(onward.path(), fresh).await {
        Ok(begun) => {
            let mut response = to(&begun.to);
            response.headers_mut().append(header::SET_COOKIE, set_lax_cookie(house, FLOW, &begun.cookie, FLOW_LIFE.as_secs()));
            response
        }
        Err(why) => not_signed_in(house, &headers, &onward, &why),
    }
}

/// Takes the browser back from the OpenID provider.
#[utoipa::path(
    get, path = "/sign-in/oidc/callback", tag = "pages", params(CallbackQuery),
    responses(
        (status = 200, description = "Signed in: a page that leads on.", body = String, content_type = "text/html"),
        (status = 403, description = "The form again, with what is wrong.", body = String, content_type = "text/html"),
    ),
)]
pub(in crate::api) async fn callback(State(api): State<Arc<Api>>, headers: HeaderMap, query: Result<Asked<CallbackQuery>, Problem>) -> Response {
    let house = &api.house;
    if let Some(absent) = no_provider(house) {
        return absent;
    }
    let flow = cookie(house, &headers, FLOW);
    let finished = match &query {
        Ok(Asked(q)) => {
            let returned = Returned { state: q.state.as_deref(), code: q.code.as_deref(), error: q.error.as_deref(), issuer: q.iss.as_deref() };
            house.finish_sign_in(flow.as_deref(), &returned).await
        }
        Err(_) => Err(SignInRefused::Stray("the query is not well-formed")),
    };
    match finished {
        Ok(finished) => {
            // The session's cookie is `SameSite=Strict`: a browser that comes from another site would not send it along with the
            // next request, so that the way on begins here, with a page of ours.
            let mut response = page(StatusCode::OK, pages::onward_page(&finished.path));
            let headers = response.headers_mut();
            headers.append(header::SET_COOKIE, set_cookie(house, SESSION, &finished.cookie, house.sign_ins.session_max().as_secs()));
            headers.append(header::SET_COOKIE, set_lax_cookie(house, FLOW, "", 0));
            response
        }
        Err(why) => not_signed_in(house, &headers, &Onward::Approvals, &why),
    }
}

/// Takes a logout token of the OpenID provider.
//= openid-connect-backchannel-1_0#section-2.8
// If the logout succeeded, the RP MUST respond with HTTP 200 OK. [...] If the logout request was invalid or the logout failed, the
// RP MUST respond with HTTP 400 Bad Request. The response MAY include an HTTP response body [...] error and error_description. The RP's
// response SHOULD include the Cache-Control HTTP response header field with a no-store value.
#[utoipa::path(
    post, path = "/sign-in/oidc/logout", tag = "pages", request_body(content = LogoutForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, description = "The sessions are over."), (status = 400, description = "The token was not taken.")),
)]
pub(in crate::api) async fn back_channel_logout(State(api): State<Arc<Api>>, request: Request) -> Response {
    let invalid = |why: &str| {
        let body = serde_json::json!({ "error": "invalid_request", "error_description": why });
        (StatusCode::BAD_REQUEST, [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], axum::Json(body)).into_response()
    };
    if let Some(absent) = no_provider(&api.house) {
        return absent;
    }
    let Ok(FormBytes(body)) = FormBytes::from_request(request, &api).await else { return invalid("the body is no form") };
    let Some(token) = fields(&body).and_then(|mut f| f.remove("logout_token")) else { return invalid("there is no logout_token") };
    match api.house.logged_out(&token).await {
        Ok(()) => (StatusCode::OK, [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]).into_response(),
        Err(why) => {
            tracing::warn!(%why, "a logout token was refused");
            invalid("the token is not acceptable")
        }
    }
}

/// Signs in with a passkey.
#[utoipa::path(
    post, path = "/sign-in/passkey", tag = "pages", request_body(content = PasskeyForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "Signed in: on to the held calls."), (status = 403, description = "The form again, with what is wrong.", body = String, content_type = "text/html")),
    security(("form" = [])),
)]
pub(in crate::api) async fn passkey(State(api): State<Arc<Api>>, request: Request) -> Response {
    let house = &api.house;
    let posted = match posted_sign_in(&api, request).await {
        Ok(posted) => posted,
        Err(refused) => return *refused,
    };
    match house.passkey_sign_in(&posted.form, shown(&posted.fields)).await {
        Ok(person) => enter(house, &posted.headers, &person, Way::Passkey, &posted.onward).await,
        Err(why) => {
            tracing::warn!(%why, "a passkey was refused");
            posted.again(house, "This passkey was not taken. Try again, or use another way.")
        }
    }
}

/// The script that asks the browser for a passkey.
#[utoipa::path(get, path = "/assets/passkey.js", tag = "pages", responses((status = 200, description = "JavaScript.", body = String, content_type = "text/javascript")))]
pub(in crate::api) async fn script() -> Response {
    let mut response = pages::PASSKEY_SCRIPT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

/// Lets our one script run on a page that asks for a passkey.
pub(in crate::api) fn with_script(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PASSKEY_POLICY));
    response
}

/// Refused because of a passkey, as a problem.
pub(in crate::api) fn problem(why: &PasskeyRefused) -> Problem {
    tracing::warn!(%why, "a passkey was refused");
    let words = match why {
        PasskeyRefused::Change(ChangeError::Unfit(words)) => words,
        _ => "the passkey was not taken; load the page again and try once more",
    };
    Problem::because(ErrorCode::ProofInvalid, words)
}
