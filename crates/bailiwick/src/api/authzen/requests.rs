//! Requests for access over HTTP (AuthZEN Access Request and Approval Profile 1.0, draft 1): submitted, looked at, taken back.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bailiwick_core::{Digest, ErrorCode, Hold, TaskId};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::super::asker::{Api, ByAgent, to_the_end};
use super::super::body::Named;
use super::super::problem::Problem;
use super::{ActionDocument, Posed, QuestionDocument, ThingDocument, point, read, with_id};
use crate::authzen::{AccessRefused, Standing, Submission, approval_of, standing};
use crate::house::House;
use crate::tokens::Bearer;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_KEY_MAX: usize = 256;
/// How long to wait before looking again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// A request for access.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = AccessRequest)]
pub(in crate::api) struct SubmissionDocument {
    /// As it was denied.
    subject: Option<ThingDocument>,
    /// As it was denied.
    resource: Option<ThingDocument>,
    /// As it was denied.
    action: Option<ActionDocument>,
    /// As it was denied, and what is said for the request, such as a justification: people see that apart.
    #[schema(value_type = Option<Object>)]
    context: Option<Map<String, Value>>,
    /// The denial.
    denial: Option<DenialDocument>,
    /// What is asked for beside it, such as `requested_until`. People see it.
    #[serde(default)]
    #[schema(value_type = Object)]
    requested_access: Map<String, Value>,
    /// Several at once: not taken here.
    #[schema(value_type = Option<Object>)]
    items: Option<Value>,
    /// Who submits it. An `actor` is not taken here: nothing that is presented proves one.
    #[serde(default)]
    #[schema(value_type = Object)]
    client: Map<String, Value>,
}

/// The denial that a request for access is about.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = AccessDenial)]
pub(in crate::api) struct DenialDocument {
    /// `context.access_request.binding_token` of the denial. Needed here.
    binding_token: Option<String>,
    /// `context.evaluation_id` of the denial.
    evaluation_id: Option<String>,
    /// `context.access_request.expires_at` of the denial.
    expires_at: Option<String>,
}

/// Where a request for access stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AccessRequestAnswer)]
pub(in crate::api) struct AccessTaskDocument {
    /// Its handle.
    task: TaskHandle,
    /// What came of it, once people approved: `mode` is `reevaluate`, and `approval` goes into `context.approval` of the next evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
}

/// The handle of a request for access.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AccessRequestTask)]
pub(in crate::api) struct TaskHandle {
    /// Its id.
    #[schema(value_type = String)]
    id: TaskId,
    /// `pending`, `approved`, `denied`, `expired` or `cancelled`.
    status: &'static str,
    /// Where to look.
    status_endpoint: String,
    /// Until when people may decide, and until when an approval may be used.
    expires_at: String,
    /// `cancel`, while people have not decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    links: Option<Value>,
}

/// A refusal under the profile's own name for it.
fn problem(code: ErrorCode, status: StatusCode, kind: &'static str, words: impl Into<String>) -> Problem {
    Problem::because(code, words).with_status(status).of_type(kind)
}

//= authzen-access-request-approval-profile-1_0#error-responses
// HTTP error responses from the Access Request Endpoint and Task Status Endpoint MUST use application/problem+json as defined by RFC9457
// when returning one of the problem types defined by this specification. The problem type URI MUST appear in the type member.
fn refused(why: AccessRefused) -> Problem {
    let words = why.to_string();
    match why {
        AccessRefused::NotRequestable => {
            problem(ErrorCode::PolicyDenied, StatusCode::BAD_REQUEST, "urn:openid:authzen:access-request:error:not_requestable", words)
        }
        AccessRefused::Expired => problem(ErrorCode::HoldExpired, StatusCode::GONE, "urn:openid:authzen:access-request:error:expired_denial", words),
        AccessRefused::Binding(_) => invalid_binding(words),
        AccessRefused::Duplicate => {
            problem(ErrorCode::OauthRequest, StatusCode::CONFLICT, "urn:openid:authzen:access-request:error:duplicate_request", words)
        }
        AccessRefused::Limit(code, words) => Problem::because(code, words),
        AccessRefused::Store(error) => error.into(),
    }
}

fn invalid_binding(words: impl Into<String>) -> Problem {
    problem(ErrorCode::OauthRequest, StatusCode::BAD_REQUEST, "urn:openid:authzen:access-request:error:invalid_denial_binding", words)
}

fn answer(house: &House, hold: &Hold) -> AccessTaskDocument {
    let standing = standing(hold);
    let endpoint = format!("{}/access/v1/requests/{}", house.urls.base, hold.task);
    AccessTaskDocument {
        task: TaskHandle {
            id: hold.task,
            status: standing.word(),
            expires_at: hold.expires_at.to_string(),
            links: (standing == Standing::Pending).then(|| json!({ "cancel": format!("{endpoint}/cancel") })),
            status_endpoint: endpoint,
        },
        result: (standing == Standing::Approved).then(|| json!({ "mode": "reevaluate", "approval": approval_of(hold) })),
    }
}

fn respond(status: StatusCode, document: &AccessTaskDocument) -> Response {
    let pending = document.task.status == Standing::Pending.word();
    let place = HeaderValue::from_str(&document.task.status_endpoint).ok();
    let mut response = (status, axum::Json(document)).into_response();
    if pending {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    if let (Some(place), true) = (place, status != StatusCode::OK) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

/// The `Idempotency-Key` with the body that it came with, as digests.
fn retry(headers: &HeaderMap, body: &[u8]) -> Result<Option<(Digest, Digest)>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_MAX || headers.get_all(IDEMPOTENCY_KEY).iter().count() > 1 {
        return Err(Problem::invalid("`Idempotency-Key` must be one value of 1 to 256 bytes"));
    }
    // Equal values, whatever their spacing and order: a map of values is in one order.
    let body: Value = read(body)?;
    Ok(Some((Digest::of(key.as_bytes()), Digest::of(body.to_string().as_bytes()))))
}

impl SubmissionDocument {
    fn checked(self, retry: Option<(Digest, Digest)>) -> Result<Submission, Problem> {
        if self.items.is_some() {
            return Err(Problem::invalid("several items at once are not taken here: submit each denial by itself"));
        }
        //= authzen-access-request-approval-profile-1_0#delegation
        // The Access Request Service MUST reject submissions whose claimed chain cannot be verified against the caller's credential or
        // against trusted issuers identified in the deployment.
        if self.client.contains_key("actor") {
            return Err(Problem::invalid("`client.actor` cannot be verified here: leave the actor in the subject, as it was denied"));
        }
        //= authzen-access-request-approval-profile-1_0#access-request-submission
        // The Access Request Service MUST reject a submission that lacks verifiable denial-binding material with
        // urn:openid:authzen:access-request:error:invalid_denial_binding.
        let denial = self.denial.ok_or_else(|| invalid_binding("`denial` is missing"))?;
        let token = denial.binding_token.ok_or_else(|| invalid_binding("`denial.binding_token` is missing"))?;
        let expires = denial.expires_at.ok_or_else(|| invalid_binding("`denial.expires_at` is missing"))?;
        let question = QuestionDocument { subject: self.subject, action: self.action, resource: self.resource, context: self.context };
        let asking = question.asking().map_err(Problem::invalid)?;
        Ok(Submission { asking, requested: self.requested_access, token, evaluation: denial.evaluation_id, expires, retry })
    }
}

/// Submits a request for access: people are asked to turn a denial into one yes to exactly that.
#[utoipa::path(
    post, path = "/access/v1/requests", tag = "authzen", request_body = SubmissionDocument,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same request again has the same key.")),
    responses(
        (status = 201, description = "Decided already.", body = AccessTaskDocument),
        (status = 202, description = "People are asked.", body = AccessTaskDocument),
        (status = 400, description = "Not a denial that people could turn, or not this one.", body = super::super::problem::ProblemDocument<'static>, content_type = "application/problem+json"),
        (status = 409, description = "The key came with another request.", body = super::super::problem::ProblemDocument<'static>, content_type = "application/problem+json"),
        (status = 410, description = "The denial can be submitted no longer.", body = super::super::problem::ProblemDocument<'static>, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests wait for people.", body = super::super::problem::ProblemDocument<'static>, content_type = "application/problem+json"),
    ),
    security(("agent_token" = [])),
)]
pub(in crate::api) async fn submit(State(api): State<Arc<Api>>, posed: Posed) -> Response {
    let headers = posed.headers.clone();
    let answered: Result<Response, Problem> = submitted(&api, posed).await;
    with_id(&headers, answered.into_response())
}

async fn submitted(api: &Api, posed: Posed) -> Result<Response, Problem> {
    let retry = retry(&posed.headers, &posed.body)?;
    let submission = read::<SubmissionDocument>(&posed.body)?.checked(retry)?;
    let house = Arc::clone(&api.house);
    // Whoever goes away in between leaves no task behind that nobody is asked about.
    let taken = to_the_end(async move {
        let point = point(&house, &posed.agent)?;
        house.request_access(&posed.by, &posed.agent, point, submission).await.map_err(refused)
    });
    let hold: Hold = taken.await??;
    let document = answer(&api.house, &hold);
    let status = if standing(&hold) == Standing::Pending { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    Ok(respond(status, &document))
}

/// The request of a path, if it is one of the enforcement point that asks.
async fn find(house: &House, by: &ByAgent, name: &Named) -> Result<Hold, Problem> {
    let unknown = || {
        let words = "there is no such request of yours";
        problem(ErrorCode::TaskAbsent, StatusCode::NOT_FOUND, "urn:openid:authzen:access-request:error:unknown_task", words)
    };
    let ByAgent(Bearer::Agent(token)) = by else { return Err(unknown()) };
    let agent = house.agent(token.agent.as_str()).ok_or_else(unknown)?;
    let point = house.enforcement_point(&agent.name).ok_or_else(unknown)?;
    let id: TaskId = name.0.parse().map_err(|_| unknown())?;
    let hold = house.access_request(agent, point, id).await?.ok_or_else(unknown)?;
    if house.clock.now() >= hold.expires_at {
        let words = "the time of this request is over";
        return Err(problem(ErrorCode::HoldExpired, StatusCode::GONE, "urn:openid:authzen:access-request:error:task_expired", words));
    }
    Ok(hold)
}

/// Where a request for access stands.
#[utoipa::path(
    get, path = "/access/v1/requests/{id}", tag = "authzen", params(("id" = String, Path, description = "The request's id.")),
    responses(
        (status = 200, description = "Its task, and the approval if there is one.", body = AccessTaskDocument),
        (status = 410, description = "Its time is over.", body = super::super::problem::ProblemDocument<'static>, content_type = "application/problem+json"),
    ),
    security(("agent_token" = [])),
)]
pub(in crate::api) async fn status(State(api): State<Arc<Api>>, by: ByAgent, headers: HeaderMap, name: Named) -> Response {
    let found = find(&api.house, &by, &name).await.map(|hold| respond(StatusCode::OK, &answer(&api.house, &hold)));
    with_id(&headers, found.into_response())
}

/// Takes a request for access back that people have not decided.
#[utoipa::path(
    post, path = "/access/v1/requests/{id}/cancel", tag = "authzen", params(("id" = String, Path, description = "The request's id.")),
    responses(
        (status = 200, description = "It is taken back.", body = AccessTaskDocument),
        (status = 409, description = "People have decided it.", body = super::super::problem::ProblemDocument<'static>, content_type = "application/problem+json"),
    ),
    security(("agent_token" = [])),
)]
pub(in crate::api) async fn cancel(State(api): State<Arc<Api>>, by: ByAgent, headers: HeaderMap, name: Named) -> Response {
    let answered: Result<Response, Problem> = async {
        let hold = find(&api.house, &by, &name).await?;
        if !api.house.cancel_request(&hold).await? {
            let kind = "urn:openid:authzen:access-request:error:invalid_task_state";
            return Err(problem(ErrorCode::HoldAbsent, StatusCode::CONFLICT, kind, "people have decided it, or it was taken back"));
        }
        let hold = find(&api.house, &by, &name).await?;
        Ok(respond(StatusCode::OK, &answer(&api.house, &hold)))
    }
    .await;
    with_id(&headers, answered.into_response())
}
