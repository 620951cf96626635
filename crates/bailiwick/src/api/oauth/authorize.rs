//! The authorization endpoint (RFC 6749 section 3.1) and the question that it leads to: may this client work for this person?
//!
//! A client is answered at an address of its own or not at all; whatever is wrong before that is known is told to the person.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest as _, Request, State};
use axum::response::Response;
use bailiwick_core::{Agent, ErrorCode, SystemName, ToolName};
use bailiwick_identity::oauth::{Asked as AskedOf, AuthorizationRequest, OauthError, QUERY_MAX, RedirectUri, code_address};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::super::asker::Api;
use super::super::body::{Asked, FormBytes};
use super::super::onward::Onward;
use super::super::problem::Problem;
use super::super::web::{SignedIn, forged, from_our_page, page, refused, same, signed_in, to};
use super::token::resources;
use crate::consent::{Allowed, Consent, InteractiveClient, OFFERED_MAX, Offer, Pending};
use crate::house::House;
use crate::pages::{self, ConsentView, ToolView};

/// The longest purpose, in bytes.
const PURPOSE_MAX: usize = 400;
/// Lives that a person can choose, in minutes.
const MINUTES: [u64; 5] = [15, 60, 240, 480, 1440];

/// Which request is to be decided.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct ConsentQuery {
    /// The request, sealed by the authorization endpoint.
    request: Option<String>,
    /// As which agent of the person; the one that is offered first, if this is left out.
    agent: Option<String>,
}

/// The form that decides. Beside these it has, for each tool that is allowed, a field `tool:NAME` with the value `yes`.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "documents the form")]
pub(in crate::api) struct ConsentForm {
    /// The session's token.
    csrf: String,
    /// The request, sealed by the authorization endpoint.
    request: String,
    /// `approve` or `refuse`.
    decision: String,
    /// As which agent.
    agent: String,
    /// What for.
    purpose: String,
    /// For how many minutes.
    minutes: u64,
}

/// Takes an interactive client's request to its person (RFC 6749 section 4.1.1, with PKCE).
#[utoipa::path(
    get, path = "/oauth/authorize", tag = "oauth",
    responses(
        (status = 200, description = "A page that leads on to the question.", body = String, content_type = "text/html"),
        (status = 400, description = "A page that says what is wrong. The client is told nothing.", body = String, content_type = "text/html"),
        (status = 404, description = "People do not sign in with clients here.", body = String, content_type = "text/html"),
    ),
)]
pub(in crate::api) async fn authorize(State(api): State<Arc<Api>>, request: Request) -> Response {
    let house = &api.house;
    if !house.config.clients.interactive {
        return refused(None, &not_here());
    }
    let query = request.uri().query().unwrap_or_default();
    let asked = match read(house, query) {
        Ok(asked) => asked,
        Err(problem) => return refused(None, &problem),
    };
    // Without asking anybody elsewhere: nothing is fetched for somebody who has not signed in.
    if !asked.client_id.starts_with("https://")
        && let Err(why) = house.registered_client(&asked.client_id)
    {
        return refused(None, &Problem::invalid(why.0));
    }
    match house.seal_request(query) {
        Some(sealed) => page(StatusCode::OK, pages::onward_page(&Onward::Request(sealed).path())),
        None => refused(None, &Problem::new(ErrorCode::Internal)),
    }
}

fn not_here() -> Problem {
    Problem::invalid("people do not sign in with clients at this broker").with_status(StatusCode::NOT_FOUND)
}

fn read(house: &House, query: &str) -> Result<AuthorizationRequest, Problem> {
    let malformed = |error: OauthError| Problem::invalid(format!("the client's request is not valid: {error}"));
    if query.len() > QUERY_MAX {
        return Err(Problem::invalid("the client's request is too long"));
    }
    let ours = resources(house, query.as_bytes()).map_err(malformed)?;
    AuthorizationRequest::parse(query.as_bytes(), &ours).map_err(malformed)
}

/// A request whose client is known and is answered at an address of its own.
struct Question {
    client: InteractiveClient,
    given_redirect: Option<String>,
    redirect: RedirectUri,
    state: Option<String>,
    asked: AskedOf,
}

/// Why there is nothing to ask the person.
enum Stop {
    /// The person is told.
    Person(Problem),
    /// The client is told, at this address.
    Client(String),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Person(problem)
    }
}

impl Stop {
    fn respond(self, by: &SignedIn) -> Response {
        match self {
            Self::Person(problem) => refused(Some(by.viewer()), &problem),
            Self::Client(address) => to(&address),
        }
    }
}

async fn question(house: &House, pending: &Pending) -> Result<Question, Stop> {
    if !house.config.clients.interactive {
        return Err(not_here().into());
    }
    let request = read(house, &pending.query)?;
    let client = house.interactive_client(&request.client_id).await.map_err(|why| Problem::invalid(why.0))?;
    //= rfc6749#section-4.1.2.1
    // If the request fails due to a missing, invalid, or mismatching redirection URI, or if the client identifier is missing or
    // invalid, the authorization server SHOULD inform the resource owner of the error and MUST NOT automatically redirect the
    // user-agent to the invalid redirection URI.
    let redirect = client.metadata.redirect(request.redirect_uri.as_deref());
    let redirect = redirect.ok_or_else(|| Problem::invalid("the client asks to be answered at an address that it did not name as its own"))?;
    let asked = request.asked.map_err(|error| {
        //= rfc9700#section-4.11.2
        // the authorization server MUST take precautions to prevent these threats. The authorization server MUST always authenticate
        // the user first and, with the exception of the authorization request, only automatically redirect the user-agent if it
        // trusts the redirection URI.
        // Nobody vouches for the address of a client that registered itself, unless it is this very machine.
        if client.vouched_by.is_some() || redirect.is_loopback() {
            Stop::Client(error.address(&redirect, request.state.as_deref(), &house.urls.base))
        } else {
            Stop::Person(Problem::invalid(format!("the client's request is not valid: {error}")))
        }
    })?;
    Ok(Question { client, given_redirect: request.redirect_uri, redirect, state: request.state, asked })
}

/// The agent that was chosen, or the one that is offered first, and the others.
fn choose<'a>(house: &'a House, by: &SignedIn, chosen: Option<&str>) -> Result<(&'a Agent, Vec<&'a Agent>), Problem> {
    let mut agents = house.agents_for(&by.person);
    let at = match chosen {
        None => 0,
        Some(name) => agents.iter().position(|a| a.name.as_str() == name).unwrap_or(agents.len()),
    };
    if at >= agents.len() {
        let words = "no agent of yours may work for a client: the operator registers one whose owner you are, with `interactive = true`";
        return Err(Problem::because(ErrorCode::RoleMissing, words));
    }
    Ok((agents.remove(at), agents))
}

/// What can be allowed: of the systems only that the client's resources name, if they name systems.
fn offer(house: &House, by: &SignedIn, agent: &Agent, purpose: &str, question: &Question) -> Offer {
    let mut offer = house.offer(agent, &by.person, purpose);
    let system = |r: &String| r.strip_prefix(&house.urls.mcp).and_then(|rest| rest.strip_prefix("/s/")).and_then(|s| s.parse::<SystemName>().ok());
    let systems: Option<Vec<SystemName>> = question.asked.resources.iter().map(system).collect();
    if let Some(systems) = systems.filter(|s| !s.is_empty()) {
        offer.tools.retain(|tool| systems.iter().any(|s| s.as_str() == tool.name.system()));
    }
    offer
}

fn lives(house: &House) -> (Vec<u64>, u64) {
    let in_minutes = |life: Duration| (life.as_secs() / 60).max(1);
    let (first, longest) = (in_minutes(house.config.tasks.ttl), in_minutes(house.config.tasks.ttl_max));
    let mut all: Vec<u64> = MINUTES.into_iter().chain([first, longest]).filter(|m| *m <= longest).collect();
    all.sort_unstable();
    all.dedup();
    (all, first)
}

fn usual_purpose(question: &Question) -> String {
    let from = question.client.vouched_by.as_deref().unwrap_or("a program of mine");
    format!("interactive work with a client of {from}")
}

/// The question whether a client may work for the person who is signed in.
#[utoipa::path(
    get, path = "/consent", tag = "pages", params(ConsentQuery),
    responses((status = 200, description = "The page.", body = String, content_type = "text/html"), (status = 303, description = "Not signed in: on to the form.")),
    security(("session" = [])),
)]
pub(in crate::api) async fn consent(State(api): State<Arc<Api>>, headers: HeaderMap, query: Result<Asked<ConsentQuery>, Problem>) -> Response {
    let house = &api.house;
    let query = query.map_or(ConsentQuery { request: None, agent: None }, |Asked(q)| q);
    let Some(by) = signed_in(house, &headers) else {
        let onward = Onward::read(house, None, query.request.as_deref());
        let path = onward.request().map(|r| format!("{}?{}={r}", pages::SIGN_IN_PATH, pages::FIELD_REQUEST));
        return to(&path.unwrap_or_else(|| pages::SIGN_IN_PATH.to_owned()));
    };
    let Some((sealed, pending)) = query.request.and_then(|r| house.open_request(&r).map(|p| (r, p))) else { return out_of_date(&by) };
    let question = match question(house, &pending).await {
        Ok(question) => question,
        Err(stop) => return stop.respond(&by),
    };
    let (agent, others) = match choose(house, &by, query.agent.as_deref()) {
        Ok(chosen) => chosen,
        Err(problem) => return refused(Some(by.viewer()), &problem),
    };
    let view = view(house, &by, sealed, &question, agent, &others);
    leading_to(&question.redirect, page(StatusCode::OK, pages::consent_page(&view)))
}

fn view(house: &House, by: &SignedIn, sealed: String, question: &Question, agent: &Agent, others: &[&Agent]) -> ConsentView {
    let purpose = usual_purpose(question);
    let offer = offer(house, by, agent, &purpose, question);
    let (minutes, minutes_first) = lives(house);
    let client = &question.client;
    ConsentView {
        viewer: by.viewer(),
        request: sealed,
        client_name: client.metadata.name.clone(),
        client_url: client.vouched_by.is_some().then(|| client.id.clone()),
        vouched_by: client.vouched_by.clone(),
        place: question.redirect.place().to_owned(),
        on_this_machine: question.redirect.is_loopback(),
        agent: agent.name.to_string(),
        agent_purpose: agent.purpose.clone(),
        others: others.iter().map(|a| a.name.to_string()).collect(),
        tools: offer.tools.iter().map(|t| ToolView { name: t.name.to_string(), effect: t.effect, waits: t.waits, ticked: t.is_ticked() }).collect(),
        cut: offer.cut,
        minutes,
        minutes_first,
        purpose,
    }
}

/// The browser follows a form to the client, and nowhere else.
fn leading_to(redirect: &RedirectUri, mut response: Response) -> Response {
    let policy = pages::CONTENT_SECURITY_POLICY.replace("form-action 'self'", &format!("form-action 'self' {}", redirect.source()));
    if let Ok(value) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, value);
    }
    response
}

fn out_of_date(by: &SignedIn) -> Response {
    let words = "this request is out of date, or was decided already: begin again in the client";
    refused(Some(by.viewer()), &Problem::because(ErrorCode::RoleMissing, words))
}

/// Allows a client what is ticked, or refuses it. Either way the client is told, once.
#[utoipa::path(
    post, path = "/consent", tag = "pages",
    request_body(content = ConsentForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 303, description = "Decided: back to the client."), (status = 403, description = "The form is out of date, or not ours.", body = String, content_type = "text/html")),
    security(("session" = [])),
)]
pub(in crate::api) async fn decide_consent(State(api): State<Arc<Api>>, request: Request) -> Response {
    let house = &api.house;
    let headers = request.headers().clone();
    if !from_our_page(house, &headers) {
        return forged();
    }
    let Some(by) = signed_in(house, &headers) else {
        return refused(None, &Problem::new(ErrorCode::AuthnMissing).with_status(StatusCode::FORBIDDEN));
    };
    let fields = match FormBytes::from_request(request, &api).await {
        Ok(FormBytes(body)) => fields(&body),
        Err(problem) => return refused(Some(by.viewer()), &problem),
    };
    let Some(fields) = fields.filter(|f| f.get(pages::FIELD_CSRF).is_some_and(|c| same(c, &by.viewer().csrf))) else { return forged() };
    match decided(house, &by, &fields).await {
        Ok(address) => to(&address),
        Err(stop) => stop.respond(&by),
    }
}

async fn decided(house: &House, by: &SignedIn, fields: &BTreeMap<String, String>) -> Result<String, Stop> {
    let of = |name: &str| fields.get(name).map_or("", String::as_str);
    let late = || Problem::because(ErrorCode::RoleMissing, "this request is out of date, or was decided already: begin again in the client");
    let pending = house.open_request(of(pages::FIELD_REQUEST)).ok_or_else(late)?;
    let question = question(house, &pending).await?;
    let (state, issuer) = (question.state.as_deref(), house.urls.base.as_str());
    match of(pages::FIELD_DECISION) {
        pages::DECISION_APPROVE => {
            let allowed = allowed(house, by, fields, &question)?;
            // Only now: a form that has to be mended can be sent again.
            if !house.decide_request(&pending) {
                return Err(late().into());
            }
            let many = || Problem::because(ErrorCode::LimitExceeded, "very many clients wait for their codes; try again in a minute");
            let code = house.consents.codes.issue(allowed, house.clock.now()).ok_or_else(many)?;
            Ok(code_address(&question.redirect, &code, state, issuer))
        }
        pages::DECISION_REFUSE if house.decide_request(&pending) => Ok(OauthError::DENIED.address(&question.redirect, state, issuer)),
        pages::DECISION_REFUSE => Err(late().into()),
        _ => Err(Problem::invalid("the form says neither approve nor refuse").into()),
    }
}

/// What the form allows, if all of it was offered.
fn allowed(house: &House, by: &SignedIn, fields: &BTreeMap<String, String>, question: &Question) -> Result<Allowed, Problem> {
    let of = |name: &str| fields.get(name).map_or("", String::as_str);
    let (agent, _) = choose(house, by, Some(of(pages::FIELD_AGENT)))?;
    let purpose = of(pages::FIELD_PURPOSE).trim();
    if purpose.is_empty() || purpose.len() > PURPOSE_MAX || purpose.chars().any(char::is_control) {
        return Err(Problem::invalid("say in one line what it is for"));
    }
    let minutes = of(pages::FIELD_MINUTES).parse().ok().filter(|m| lives(house).0.contains(m));
    let minutes: u64 = minutes.ok_or_else(|| Problem::invalid("choose for how long"))?;
    let offer = offer(house, by, agent, purpose, question);
    let mut tools: Vec<ToolName> = Vec::new();
    for (name, value) in fields.iter().filter_map(|(name, value)| Some((name.strip_prefix(pages::FIELD_TOOL)?, value))) {
        let offered = offer.tools.iter().find(|t| t.name.as_str() == name && value == "yes");
        let gone = || Problem::because(ErrorCode::ApprovalMismatch, "what can be allowed has changed: look at the page again");
        tools.push(offered.ok_or_else(gone)?.name.clone());
    }
    if tools.is_empty() {
        return Err(Problem::invalid("tick at least one tool, or refuse"));
    }
    let consent = Consent {
        by: by.person.name.clone(),
        given_at: house.clock.now(),
        proof: by.session.way.word(),
        client: question.client.recorded_id(),
        client_name: question.client.metadata.name.clone(),
        vouched_by: question.client.vouched_by.clone(),
        redirect_uri: question.redirect.to_string(),
    };
    Ok(Allowed {
        client_id: question.client.id.clone(),
        authenticates: question.client.authenticates(),
        redirect_uri: question.given_redirect.clone(),
        challenge: question.asked.challenge,
        key: question.asked.key,
        bound: question.client.metadata.bound,
        agent: agent.name.clone(),
        tools,
        ttl: Duration::from_secs(minutes.saturating_mul(60)),
        purpose: purpose.to_owned(),
        session: by.mark(),
        consent,
    })
}

/// The fields of the form; none stands twice.
fn fields(body: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        if fields.len() >= OFFERED_MAX.saturating_add(16) || fields.insert(name.into_owned(), value.into_owned()).is_some() {
            return None;
        }
    }
    Some(fields)
}
