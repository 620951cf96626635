//! The pages where people decide: a session by a one-time code, forms bound to it, and decisions bound to exactly what was shown.

pub(super) mod account;
pub(super) mod ways;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{FromRequest as _, FromRequestParts as _, Request, State};
use axum::response::{IntoResponse, Response};
use bailiwick_core::hold::footing;
use bailiwick_core::{ApprovalKind, Digest, ErrorCode, Hold, HoldId, Person};
use bailiwick_identity::person::{Verdict, Word};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use utoipa::{IntoParams, ToSchema};

use super::asker::Api;
use super::body::{Asked, FormBytes, Named};
use super::hold_view::{approvals_view, hold_view};
use super::holds::{find, seen};
use super::onward::Onward;
use super::problem::Problem;
use crate::approve::{PASSKEY, Saying};
use crate::house::House;
use crate::pages::{self, MessageView, PasskeyAsk, SignInView, SignInWay, Tone, Viewer};
use crate::passkeys::Shown;
use crate::sign_in::{CODE_LIFE, Way, WebSession};

/// Fields that a form may have.
const FIELDS_MAX: usize = 16;

/// Where to go after signing in.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SignInQuery {
    /// The held call that the person wanted to see.
    hold: Option<String>,
    /// The request of a client that the person was sent here by, sealed.
    request: Option<String>,
    /// `yes`: the provider is asked to have the person prove himself or herself anew.
    fresh: Option<String>,
}

/// The sign-in form.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "documents the form")]
pub(super) struct SignInForm {
    /// The token of the form, which a cookie repeats.
    csrf: String,
    /// The one-time code.
    secret: String,
    /// The held call to show afterwards.
    hold: Option<String>,
    /// The request of a client to decide afterwards, sealed.
    request: Option<String>,
}

/// The form that decides a held call.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "documents the form")]
pub(super) struct DecisionForm {
    /// The session's token.
    csrf: String,
    /// `approve` or `refuse`.
    decision: String,
    /// The digest of the call that was shown.
    digest: String,
    /// Why, in the person's words.
    reason: Option<String>,
    /// `yes`, if it is the person's own request and he or she ticked that.
    own_request: Option<String>,
    /// The challenge, sealed, if the decision is signed with a passkey. This and what follows.
    ticket: Option<String>,
    /// The credential's id in base64url, as all that follows.
    passkey_id: Option<String>,
    /// The authenticator data.
    authenticator_data: Option<String>,
    /// The client data.
    client_data: Option<String>,
    /// The signature.
    signature: Option<String>,
    /// The user's handle.
    user_handle: Option<String>,
}

/// A one-time code.
#[derive(Debug, serde::Serialize, ToSchema)]
pub(super) struct SignInCode {
    /// The code.
    code: String,
    /// Its life in seconds.
    expires_in: u64,
}

/// Someone who is signed in.
pub(super) struct SignedIn {
    pub(super) person: Person,
    pub(super) session: WebSession,
    cookie: String,
}

impl SignedIn {
    /// What tells this session from others, and is no secret.
    pub(super) fn mark(&self) -> Digest {
        self.session.mark
    }

    pub(super) fn viewer(&self) -> Viewer {
        Viewer { name: self.person.name.to_string(), csrf: self.session.csrf.clone() }
    }
}

/// `__Host-` where the browser will keep it: only over TLS.
fn cookie_name(house: &House, name: &str) -> String {
    if house.urls.base.starts_with("https://") { format!("__Host-{name}") } else { name.to_owned() }
}

fn cookie(house: &House, headers: &HeaderMap, name: &str) -> Option<String> {
    let name = cookie_name(house, name);
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    let mut found = all.filter_map(|pair| pair.trim().split_once('=')).filter(|(n, _)| *n == name).map(|(_, value)| value.to_owned());
    let first = found.next();
    // Two of one name: somebody planted one.
    first.filter(|_| found.next().is_none())
}

/// Sent along only with requests that our own pages began.
fn set_cookie(house: &House, name: &str, value: &str, life_seconds: u64) -> HeaderValue {
    set_cookie_for(house, name, value, life_seconds, "Strict")
}

/// Sent along too when another site leads the browser to us: only for what the provider must bring back to the browser that it came from.
fn set_lax_cookie(house: &House, name: &str, value: &str, life_seconds: u64) -> HeaderValue {
    set_cookie_for(house, name, value, life_seconds, "Lax")
}

fn set_cookie_for(house: &House, name: &str, value: &str, life_seconds: u64, site: &'static str) -> HeaderValue {
    let secure = if house.urls.base.starts_with("https://") { "; Secure" } else { "" };
    let text = format!("{}={value}; Path=/; Max-Age={life_seconds}; HttpOnly; SameSite={site}{secure}", cookie_name(house, name));
    let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

const SESSION: &str = "bailiwick_session";
const FORM: &str = "bailiwick_form";
const FLOW: &str = "bailiwick_flow";

/// Who is signed in, as somebody who may decide and see. An invitation is for a first passkey, and for nothing else.
pub(super) fn signed_in(house: &House, headers: &HeaderMap) -> Option<SignedIn> {
    signed_in_or_invited(house, headers).filter(|by| by.session.way != Way::Invitation)
}

fn signed_in_or_invited(house: &House, headers: &HeaderMap) -> Option<SignedIn> {
    let cookie = cookie(house, headers, SESSION)?;
    let session = house.sign_ins.session(&cookie, house.clock.now())?;
    let person = house.person(session.person.as_str())?;
    Some(SignedIn { person, session, cookie })
}

/// Was the form sent by one of our own pages? A browser says so: by `Origin`, or, where our referrer policy makes that `null`, by
/// `Sec-Fetch-Site`, which no page can set.
pub(super) fn from_our_page(house: &House, headers: &HeaderMap) -> bool {
    let of = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let ours = |origin: &str| {
        let own = house.urls.base.parse::<url::Url>().is_ok_and(|u| u.origin().ascii_serialization() == origin);
        own || origin
            .strip_prefix("http://")
            .is_some_and(|host| !house.urls.base.starts_with("https://") && house.urls.hosts.iter().any(|h| h == host))
    };
    match of("origin") {
        None | Some("null") => of("sec-fetch-site") == Some("same-origin"),
        Some(origin) => ours(origin),
    }
}

pub(super) fn same(a: &str, b: &str) -> bool {
    bool::from(a.as_bytes().ct_eq(b.as_bytes()))
}

/// The fields of a form; none stands twice.
fn fields(body: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        if fields.len() >= FIELDS_MAX || fields.insert(name.into_owned(), value.into_owned()).is_some() {
            return None;
        }
    }
    Some(fields)
}

pub(super) fn page(status: StatusCode, html: String) -> Response {
    let mut response = html.into_response();
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

pub(super) fn to(path: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    response
}

/// A refusal as a page.
pub(super) fn refused(viewer: Option<Viewer>, problem: &Problem) -> Response {
    let view = MessageView {
        viewer,
        tone: Tone::Problem,
        title: problem.detail().to_owned(),
        paragraphs: vec![problem.code().hint().to_owned()],
        code: Some(problem.code().slug().to_owned()),
        entry: None,
    };
    page(problem.status(), pages::message_page(&view))
}

pub(super) fn forged() -> Response {
    let problem = Problem::because(ErrorCode::RoleMissing, "this form is out of date, or was not sent by a page of this broker");
    refused(None, &problem)
}

/// Is the page looked at under the address for which passkeys are made here?
fn on_passkey_site(house: &House, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default();
    house.passkey_site().is_some_and(|site| site.origins.iter().any(|o| o.split_once("://").is_some_and(|(_, of)| of == host)))
}

fn sign_in_form(house: &House, headers: &HeaderMap, status: StatusCode, onward: &Onward, problem: Option<String>) -> Response {
    let csrf = crate::sign_in::secret();
    let provider = house.provider.as_ref().map(|p| SignInWay::Provider { id: "oidc".to_owned(), name: p.config.name.clone() });
    let asked = if on_passkey_site(house, headers) { house.ask_sign_in(&csrf).ok() } else { None };
    let passkey = asked.map(|ask| SignInWay::Passkey(PasskeyAsk { options: ask.options, ticket: ask.ticket }));
    let code = SignInWay::Secret {
        label: "One-time code".to_owned(),
        hint: "Type `bailiwick sign-in` in a terminal where your key is. The code works once, for five minutes.".to_owned(),
        with_name: false,
    };
    let ways: Vec<SignInWay> = provider.into_iter().chain(passkey).chain([code]).collect();
    let view = SignInView { csrf: csrf.clone(), ways, hold: onward.hold(), request: onward.request(), problem };
    let mut response = ways::with_script(page(status, pages::sign_in_page(&view)));
    response.headers_mut().append(header::SET_COOKIE, set_cookie(house, FORM, &csrf, 3600));
    response
}

/// What a passkey gave, out of the fields of a form.
fn shown(fields: &BTreeMap<String, String>) -> Shown<'_> {
    let of = |name: &str| fields.get(name).map_or("", String::as_str);
    Shown {
        ticket: of("ticket"),
        id: of("passkey_id"),
        authenticator_data: of("authenticator_data"),
        client_data: of("client_data"),
        signature: of("signature"),
        user_handle: of("user_handle"),
    }
}

/// Begins a session, and goes on to where the person was going.
async fn enter(house: &House, headers: &HeaderMap, person: &bailiwick_core::PersonName, way: Way, onward: &Onward) -> Response {
    match house.begin_session(person, way, None).await {
        Ok((session, _)) => {
            let mut response = if way == Way::Invitation { to(pages::ACCOUNT_PATH) } else { to(&onward.path()) };
            let headers = response.headers_mut();
            headers.append(header::SET_COOKIE, set_cookie(house, SESSION, &session, house.sign_ins.session_max().as_secs()));
            headers.append(header::SET_COOKIE, set_cookie(house, FORM, "", 0));
            response
        }
        Err(why) => {
            tracing::warn!(%why, %person, "a sign-in was refused");
            sign_in_form(house, headers, StatusCode::FORBIDDEN, onward, Some("You cannot sign in now.".to_owned()))
        }
    }
}

/// A one-time code for the sign-in page, for a person who proves himself or herself by key.
#[utoipa::path(
    post, path = "/v1/sign-in-codes", tag = "people",
    responses((status = 200, description = "The code, to be typed into the page. It works once.", body = SignInCode)),
    security(("person" = [])),
)]
pub(super) async fn sign_in_code(State(api): State<Arc<Api>>, by: super::asker::ByPerson) -> Response {
    let code = api.house.sign_ins.code(by.person.name, api.house.clock.now());
    axum::Json(SignInCode { code, expires_in: CODE_LIFE.as_secs() }).into_response()
}

/// The page to sign in.
#[utoipa::path(get, path = "/sign-in", tag = "pages", params(SignInQuery), responses((status = 200, description = "The form.", body = String, content_type = "text/html")))]
pub(super) async fn sign_in_page(State(api): State<Arc<Api>>, headers: HeaderMap, query: Result<Asked<SignInQuery>, Problem>) -> Response {
    let onward = query.map_or(Onward::Approvals, |Asked(q)| Onward::read(&api.house, q.hold.as_deref(), q.request.as_deref()));
    sign_in_form(&api.house, &headers, StatusCode::OK, &onward, None)
}

/// Signs in with a one-time code.
#[utoipa::path(
    post, path = "/sign-in", tag = "pages", request_body(content = SignInForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "Signed in: on to the held calls."), (status = 403, description = "The form again, with what is wrong.", body = String, content_type = "text/html")),
    security(("form" = [])),
)]
pub(super) async fn sign_in(State(api): State<Arc<Api>>, request: Request) -> Response {
    let house = &api.house;
    let posted = match posted_sign_in(&api, request).await {
        Ok(posted) => posted,
        Err(refused) => return *refused,
    };
    match house.sign_ins.take_code(posted.of(pages::FIELD_SECRET), house.clock.now()) {
        Some((person, way)) => enter(house, &posted.headers, &person, way, &posted.onward).await,
        None => {
            tracing::warn!("a sign-in code was refused");
            posted.again(house, "This code is not valid, was used already, or is too old.")
        }
    }
}

/// A sign-in form that came from our own page, with the token that its cookie repeats.
struct PostedSignIn {
    headers: HeaderMap,
    fields: BTreeMap<String, String>,
    /// Where the person goes then.
    onward: Onward,
    /// The form's token.
    form: String,
}

impl PostedSignIn {
    fn of(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// The form once more, with what is wrong.
    fn again(&self, house: &House, words: &str) -> Response {
        sign_in_form(house, &self.headers, StatusCode::FORBIDDEN, &self.onward, Some(words.to_owned()))
    }
}

/// What was posted with one of the sign-in forms; or the refusal.
async fn posted_sign_in(api: &Arc<Api>, request: Request) -> Result<PostedSignIn, Box<Response>> {
    let house = &api.house;
    let headers = request.headers().clone();
    if !from_our_page(house, &headers) {
        return Err(Box::new(forged()));
    }
    let FormBytes(body) = FormBytes::from_request(request, api).await.map_err(|problem| Box::new(refused(None, &problem)))?;
    let fields = fields(&body).ok_or_else(|| Box::new(forged()))?;
    let of = |name: &str| fields.get(name).map_or("", String::as_str);
    let onward = Onward::read(house, Some(of(pages::FIELD_HOLD)), Some(of(pages::FIELD_REQUEST)));
    let form = cookie(house, &headers, FORM).filter(|c| !c.is_empty() && same(c, of(pages::FIELD_CSRF)));
    let posted = PostedSignIn { form: form.clone().unwrap_or_default(), headers, onward, fields };
    if form.is_some() { Ok(posted) } else { Err(Box::new(posted.again(house, "This form was out of date; try again."))) }
}

/// Signs out.
#[utoipa::path(post, path = "/sign-out", tag = "pages", responses((status = 303, description = "Signed out.")), security(("session" = [])))]
pub(super) async fn sign_out(State(api): State<Arc<Api>>, request: Request) -> Response {
    let house = &api.house;
    match posted(&api, request).await {
        Ok((by, _)) => {
            house.sign_ins.sign_out(&by.cookie);
            house.note_signed_out(&by.session).await;
            house.end_interactive_of(by.mark()).await;
            let mut response = to(pages::SIGN_IN_PATH);
            response.headers_mut().append(header::SET_COOKIE, set_cookie(house, SESSION, "", 0));
            response
        }
        Err(refused) => *refused,
    }
}

/// Who sent the form of a signed-in person, and its fields; or the refusal.
async fn posted(api: &Arc<Api>, request: Request) -> Result<(SignedIn, BTreeMap<String, String>), Box<Response>> {
    let (by, fields) = posted_by_any(api, request).await?;
    if by.session.way == Way::Invitation {
        return Err(Box::new(refused(None, &Problem::new(ErrorCode::AuthnMissing))));
    }
    Ok((by, fields))
}

/// The same for whoever has a session, by an invitation too.
async fn posted_by_any(api: &Arc<Api>, request: Request) -> Result<(SignedIn, BTreeMap<String, String>), Box<Response>> {
    let house = &api.house;
    let headers = request.headers().clone();
    if !from_our_page(house, &headers) {
        return Err(Box::new(forged()));
    }
    let by = signed_in_or_invited(house, &headers).ok_or_else(|| Box::new(refused(None, &Problem::new(ErrorCode::AuthnMissing))))?;
    let FormBytes(body) = FormBytes::from_request(request, api).await.map_err(|p| Box::new(refused(Some(by.viewer()), &p)))?;
    let fields = fields(&body).ok_or_else(|| Box::new(forged()))?;
    if !fields.get(pages::FIELD_CSRF).is_some_and(|c| same(c, &by.session.csrf)) {
        return Err(Box::new(forged()));
    }
    Ok((by, fields))
}

/// The held calls that the person may see.
#[utoipa::path(
    get, path = "/approvals", tag = "pages",
    responses((status = 200, description = "The list.", body = String, content_type = "text/html"), (status = 303, description = "Not signed in: on to the form.")),
    security(("session" = [])),
)]
pub(super) async fn approvals(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let Some(by) = signed_in(&api.house, &headers) else { return to(pages::SIGN_IN_PATH) };
    match approvals_view(&api.house, &by).await {
        Ok(view) => page(StatusCode::OK, pages::approvals_page(&view)),
        Err(problem) => refused(Some(by.viewer()), &problem),
    }
}

/// One held call, with the form to decide it.
#[utoipa::path(
    get, path = "/approvals/{hold}", tag = "pages", params(("hold" = String, Path, description = "The hold's id.")),
    responses((status = 200, description = "The page.", body = String, content_type = "text/html"), (status = 303, description = "Not signed in: on to the form.")),
    security(("session" = [])),
)]
pub(super) async fn approval(State(api): State<Arc<Api>>, headers: HeaderMap, name: Named) -> Response {
    let Some(by) = signed_in(&api.house, &headers) else {
        let id = name.0.parse::<HoldId>().ok();
        return to(&id.map_or_else(|| pages::SIGN_IN_PATH.to_owned(), |id| format!("{}?hold={id}", pages::SIGN_IN_PATH)));
    };
    match held(&api.house, &by, &name).await {
        Ok(hold) => match hold_view(&api.house, &by, &hold, on_passkey_site(&api.house, &headers)).await {
            Ok(view) => ways::with_script(page(StatusCode::OK, pages::approval_page(&view))),
            Err(problem) => refused(Some(by.viewer()), &problem),
        },
        Err(problem) => refused(Some(by.viewer()), &problem),
    }
}

async fn held(house: &House, by: &SignedIn, name: &Named) -> Result<Hold, Problem> {
    find(house, &by.person, name.parse(ErrorCode::HoldAbsent)?).await
}

/// Decides a held call.
#[utoipa::path(
    post, path = "/approvals/{hold}", tag = "pages", params(("hold" = String, Path, description = "The hold's id.")),
    request_body(content = DecisionForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "Decided: back to the page.")),
    security(("session" = [])),
)]
pub(super) async fn decide(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (mut parts, body): (Parts, _) = request.into_parts();
    let name = Named::from_request_parts(&mut parts, &api).await;
    let (by, fields) = match posted(&api, Request::from_parts(parts, body)).await {
        Ok(posted) => posted,
        Err(refused) => return *refused,
    };
    let decided = match name {
        Ok(name) => decided(&api.house, &by, &name, &fields).await,
        Err(problem) => Err(problem),
    };
    match decided {
        Ok(hold) => to(&pages::approval_path(&hold.id.to_string())),
        Err(problem) => refused(Some(by.viewer()), &problem),
    }
}

async fn decided(house: &House, by: &SignedIn, name: &Named, fields: &BTreeMap<String, String>) -> Result<Hold, Problem> {
    let hold = held(house, by, name).await?;
    let of = |name: &str| fields.get(name).map_or("", String::as_str);
    let digest: Digest = of(pages::FIELD_DIGEST).parse().map_err(|_| Problem::new(ErrorCode::ApprovalMismatch))?;
    let mut saying = Saying {
        digest,
        // The words of the arguments as the page showed them: made from the same bytes, which do not change.
        seen: seen(&hold),
        proof: "session",
        signature: String::new(),
        reason: of(pages::FIELD_REASON).to_owned(),
    };
    match of(pages::FIELD_DECISION) {
        pages::DECISION_APPROVE => {
            let own = footing(&by.person, &hold.owner, &hold.subject, house.config.owner_may_approve) == Ok(ApprovalKind::OwnRequest);
            if own && of(pages::FIELD_OWN_REQUEST) != "yes" {
                return Err(Problem::because(ErrorCode::ApprovalSelf, "this is your own request: tick that you approve it as such"));
            }
            // Signed with a passkey, the decision shows by itself what it is about: the challenge was made from exactly this.
            if !of("passkey_id").is_empty() {
                let verdict = Verdict { hold: hold.id, digest, seen: saying.seen, word: Word::Approve };
                saying.signature = house.passkey_decision(&by.session, verdict, shown(fields)).await.map_err(|why| ways::problem(&why))?;
                saying.proof = PASSKEY;
            }
            Ok(house.approve(hold.id, &by.person, saying).await?)
        }
        pages::DECISION_REFUSE => Ok(house.refuse(hold.id, &by.person, saying).await?),
        _ => Err(Problem::invalid("the form says neither approve nor refuse")),
    }
}

/// The pages' one style sheet.
#[utoipa::path(get, path = "/assets/style.css", tag = "pages", responses((status = 200, description = "CSS.", body = String, content_type = "text/css")))]
pub(super) async fn style() -> Response {
    let mut response = pages::STYLE.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_stands_twice_spoils_the_form() {
        assert_eq!(fields(b"a=1&b=x%0Ay").unwrap()["b"], "x\ny");
        assert!(fields(b"a=1&a=2").is_none());
        assert!(fields("x=&".repeat(99).as_bytes()).is_none());
    }
}
