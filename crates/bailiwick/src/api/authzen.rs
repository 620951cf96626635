//! AuthZEN 1.0: other enforcement points ask for decisions in their own words. A permit is on record before it is told.

mod people;
mod requests;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::response::{IntoResponse, Response};
use bailiwick_core::{Agent, ErrorCode, PolicyRef};
use bailiwick_identity::Verified;
use bailiwick_policy::Thing;
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::asker::{Api, ByAgent};
use super::body::BODY_BYTES_MAX;
use super::problem::Problem;
use crate::authzen::{Asking, Evaluated, NotApplicable, Offer, Point, approval_of};
use crate::house::House;
use crate::tokens::Bearer;

pub(super) use requests::{
    __path_cancel, __path_status, __path_submit, AccessTaskDocument, DenialDocument, SubmissionDocument, TaskHandle, cancel, status, submit,
};

/// Most evaluations of one request.
const EVALUATIONS_MAX: usize = 100;
/// The longest type, id or name, in bytes.
const NAME_MAX: usize = 512;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_MAX: usize = 200;

/// A subject or a resource.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct ThingDocument {
    /// Its type.
    #[serde(rename = "type")]
    kind: String,
    /// Its id. Not needed for what is searched.
    id: Option<String>,
    /// What the enforcement point knows of it.
    #[serde(default)]
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
}

/// An action.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct ActionDocument {
    /// Its name.
    name: String,
    /// What the enforcement point knows of it.
    #[serde(default)]
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
}

/// One question, or the defaults of several.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[schema(as = AccessQuestion)]
pub(super) struct QuestionDocument {
    /// Who would do it.
    subject: Option<ThingDocument>,
    /// What would be done.
    action: Option<ActionDocument>,
    /// To what.
    resource: Option<ThingDocument>,
    /// What else is known.
    #[schema(value_type = Option<Object>)]
    context: Option<Map<String, Value>>,
}

/// Several questions.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = AccessQuestions)]
pub(super) struct QuestionsDocument {
    /// What holds where a question does not say otherwise.
    #[serde(flatten)]
    defaults: QuestionDocument,
    /// The questions. Without any, the defaults are one.
    #[serde(default)]
    #[schema(value_type = Vec<QuestionDocument>)]
    evaluations: Vec<Value>,
    /// How they are gone through.
    options: Option<OptionsDocument>,
}

/// How several questions are gone through.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[schema(as = AccessOptions)]
pub(super) struct OptionsDocument {
    /// All of them, or until the first no or yes.
    #[serde(default)]
    evaluations_semantic: Semantic,
}

/// Where to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Semantic {
    /// Nowhere.
    #[default]
    ExecuteAll,
    /// After the first no.
    DenyOnFirstDeny,
    /// After the first yes.
    PermitOnFirstPermit,
}

/// A decision.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = AccessDecision)]
pub(super) struct DecisionDocument {
    /// Yes or no.
    decision: bool,
    /// Why.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Value>,
}

/// An enforcement point, proved by the token of the agent that it is.
pub(super) struct Enforcer {
    agent: Agent,
    by: Arc<Verified>,
}

impl FromRequestParts<Arc<Api>> for Enforcer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let ByAgent(Bearer::Agent(by)) = ByAgent::from_request_parts(parts, api).await? else {
            let words = "an enforcement point asks with the token of the agent that it is, not with a task's";
            return Err(Problem::because(ErrorCode::RoleMissing, words));
        };
        let agent = api.house.agent(by.agent.as_str()).filter(|a| api.house.enforcement_point(&a.name).is_some()).cloned();
        let agent = agent.ok_or_else(|| Problem::because(ErrorCode::RoleMissing, "this agent is no enforcement point: see [enforcement_points]"))?;
        Ok(Self { agent, by })
    }
}

/// An enforcement point, proved, and its request's body.
pub(super) struct Posed {
    agent: Agent,
    by: Arc<Verified>,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl FromRequest<Arc<Api>> for Posed {
    type Rejection = Response;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Response> {
        let headers = request.headers().clone();
        posed(request, api)
            .await
            .map(|(Enforcer { agent, by }, body)| Self { agent, by, headers: headers.clone(), body })
            .map_err(|p| with_id(&headers, p.into_response()))
    }
}

async fn posed(request: Request, api: &Arc<Api>) -> Result<(Enforcer, Vec<u8>), Problem> {
    let (mut parts, body) = request.into_parts();
    let enforcer = Enforcer::from_request_parts(&mut parts, api).await?;
    let given = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !given.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::invalid("the body must be `application/json`"));
    }
    let too_long = |_| Problem::because(ErrorCode::LimitExceeded, format!("the body is longer than {BODY_BYTES_MAX} bytes, or did not arrive whole"));
    Ok((enforcer, axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(too_long)?.to_vec()))
}

/// The request's own id back, if it has a plain one.
fn with_id(asked: &HeaderMap, mut response: Response) -> Response {
    if let Some(id) = asked.get(REQUEST_ID).filter(|id| id.len() <= REQUEST_ID_MAX) {
        response.headers_mut().insert(REQUEST_ID, id.clone());
    }
    response
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|e| Problem::invalid(format!("the body is not what is expected: {e}")))
}

impl QuestionDocument {
    fn asking(self) -> Result<Asking, &'static str> {
        let action = self.action.ok_or("`action` is missing")?;
        let asking = Asking {
            subject: self.subject.ok_or("`subject` is missing")?.thing().ok_or("`subject.id` is missing")?,
            resource: self.resource.ok_or("`resource` is missing")?.thing().ok_or("`resource.id` is missing")?,
            action: action.name,
            action_properties: action.properties,
            context: self.context.unwrap_or_default(),
            approval: None,
        }
        .without_machinery();
        let names = [&asking.subject.kind, &asking.subject.id, &asking.resource.kind, &asking.resource.id, &asking.action];
        if names.iter().any(|name| name.is_empty() || name.len() > NAME_MAX) {
            return Err("types, ids and names are 1 to 512 bytes");
        }
        Ok(asking)
    }

    /// With the whole of each member that it does not have taken from others.
    fn or(self, defaults: &Self) -> Self {
        Self {
            subject: self.subject.or_else(|| defaults.subject.clone()),
            action: self.action.or_else(|| defaults.action.clone()),
            resource: self.resource.or_else(|| defaults.resource.clone()),
            context: self.context.or_else(|| defaults.context.clone()),
        }
    }
}

impl ThingDocument {
    fn thing(self) -> Option<Thing> {
        Some(Thing { id: self.id?, kind: self.kind, properties: self.properties })
    }
}

fn why(policies: &[PolicyRef]) -> Value {
    let reasons: Vec<&str> = policies.iter().filter_map(|p| p.reason.as_deref()).collect();
    json!({ "policies": policies.iter().map(|p| &*p.id).collect::<Vec<_>>(), "reasons": reasons })
}

fn no(context: Value) -> DecisionDocument {
    DecisionDocument { decision: false, context: Some(context) }
}

fn add(context: &mut Value, members: Value) {
    if let (Some(context), Value::Object(members)) = (context.as_object_mut(), members) {
        context.extend(members);
    }
}

fn told(house: &House, evaluated: &Evaluated, offer: Option<&Offer>) -> DecisionDocument {
    match evaluated {
        Evaluated::Permit(policies) => DecisionDocument { decision: true, context: Some(why(policies)) },
        Evaluated::Deny(policies) => {
            let mut context = why(policies);
            add(&mut context, json!({ "reason": ErrorCode::PolicyDenied }));
            no(context)
        }
        Evaluated::NeedsApproval(people, _) => {
            let mut context = json!({ "reason": "approval_required", "approvers": people });
            //= authzen-access-request-approval-profile-1_0#pdp-processing-rules
            // MUST NOT include context.access_request unless an Access Request Endpoint is available to process the request.
            if let (Some(offer), Some(endpoint)) = (offer, house.access_request_endpoint()) {
                let request = json!({ "endpoint": endpoint, "expires_at": offer.expires, "binding_token": offer.token });
                add(&mut context, json!({ "evaluation_id": offer.evaluation, "evaluated_at": offer.at, "access_request": request }));
            }
            no(context)
        }
        Evaluated::Failed => no(json!({ "reason": ErrorCode::PolicyError })),
    }
}

/// A no to a question that brought an approval, and what to do about it.
//= authzen-access-request-approval-profile-1_0#completion-semantics
// request: submit a new Access Request. The PDP MUST also include a fresh context.access_request so the PEP has a valid
// requestable-denial signal for the new submission. [...] none: do not retry or re-request
fn not_released(mut denied: DecisionDocument, why: NotApplicable) -> DecisionDocument {
    let (reason, again) = why.told();
    let context = denied.context.get_or_insert_with(|| json!({}));
    let next = if again && context.get("access_request").is_some() { "request" } else { "none" };
    if let (Some(members), "none") = (context.as_object_mut(), next) {
        members.retain(|name, _| !matches!(name.as_str(), "access_request" | "evaluation_id" | "evaluated_at"));
    }
    add(context, json!({ "reason": reason, "next_action": next }));
    denied
}

/// The point of an agent that was proved to be one.
fn point<'a>(house: &'a House, agent: &Agent) -> Result<&'a Point, Problem> {
    house.enforcement_point(&agent.name).ok_or_else(|| Problem::new(ErrorCode::RoleMissing))
}

/// What is said to one question: by the broker's own rules of things of its own, by the enforcement point's policies of all others.
async fn judged(house: &House, agent: &Agent, point: &Point, asking: &Asking) -> Result<Evaluated, Problem> {
    match people::judged(house, point, asking).await? {
        Some(evaluated) => Ok(evaluated),
        None => {
            let known = house.with_labels(asking).await?;
            Ok(point.evaluate(&known, &house.approvers_elsewhere(agent, point, &asking.subject)))
        }
    }
}

fn offer(house: &House, agent: &Agent, point: &Point, asking: &Asking, evaluated: &Evaluated) -> Option<Offer> {
    matches!(evaluated, Evaluated::NeedsApproval(..)).then(|| house.offer_access(agent, point, asking)).flatten()
}

fn counted(permits: bool) {
    metrics::counter!("bailiwick_evaluations_total", "decision" => if permits { "permit" } else { "deny" }).increment(1);
}

/// Evaluates, and puts the permits on record; without a record there is none. An approval that is brought counts for no question of several.
async fn evaluated(house: &House, agent: &Agent, all: &[Option<Asking>], until: Semantic) -> Result<Vec<Option<DecisionDocument>>, Problem> {
    let point = point(house, agent)?;
    let mut done = Vec::with_capacity(all.len());
    for asking in all {
        let one = match asking {
            Some(asking) => Some(judged(house, agent, point, asking).await?),
            None => None,
        };
        let permits = one.as_ref().is_some_and(Evaluated::is_permit);
        done.push(one);
        if (until == Semantic::DenyOnFirstDeny && !permits) || (until == Semantic::PermitOnFirstPermit && permits) {
            break;
        }
    }
    let permitted: Vec<(&Asking, &[PolicyRef])> = all
        .iter()
        .zip(&done)
        .filter_map(|(asking, one)| match (asking, one) {
            (Some(asking), Some(Evaluated::Permit(policies))) => Some((asking, policies.as_slice())),
            _ => None,
        })
        .collect();
    house.record_evaluations(agent, point, &permitted).await?;
    let document = |(asking, one): (&Option<Asking>, &Option<Evaluated>)| {
        let (asking, one) = (asking.as_ref()?, one.as_ref()?);
        counted(one.is_permit());
        Some(told(house, one, offer(house, agent, point, asking, one).as_ref()))
    };
    Ok(all.iter().zip(&done).map(document).collect())
}

async fn one(house: &House, agent: &Agent, question: QuestionDocument) -> Result<Response, Problem> {
    let asking = question.asking().map_err(Problem::invalid)?;
    let point = point(house, agent)?;
    let evaluated = judged(house, agent, point, &asking).await?;
    let denied = || told(house, &evaluated, offer(house, agent, point, &asking, &evaluated).as_ref());
    let document = match (&evaluated, &asking.approval) {
        (Evaluated::Permit(policies), _) => {
            house.record_evaluations(agent, point, &[(&asking, policies)]).await?;
            told(house, &evaluated, None)
        }
        (_, None) => denied(),
        (_, Some(given)) => match house.release(agent, point, &asking, given).await? {
            Ok((hold, policies)) => {
                let mut context = why(&policies);
                let approval = approval_of(&hold);
                add(&mut context, json!({ "approval": { "id": approval.get("id"), "approved_until": approval.get("approved_until") } }));
                DecisionDocument { decision: true, context: Some(context) }
            }
            Err(why) => not_released(denied(), why),
        },
    };
    counted(document.decision);
    Ok(axum::Json(document).into_response())
}

/// May this subject do this to that?
#[utoipa::path(
    post, path = "/access/v1/evaluation", tag = "authzen", request_body = QuestionDocument,
    responses((status = 200, description = "AuthZEN 1.0: the decision. A permit is on record.", body = DecisionDocument)),
    security(("agent_token" = [])),
)]
pub(super) async fn evaluation(State(api): State<Arc<Api>>, posed: Posed) -> Response {
    let answer = async {
        let question: QuestionDocument = read(&posed.body)?;
        one(&api.house, &posed.agent, question).await
    };
    let answer: Result<Response, Problem> = answer.await;
    with_id(&posed.headers, answer.into_response())
}

/// Several questions at once, answered in their order.
#[utoipa::path(
    post, path = "/access/v1/evaluations", tag = "authzen", request_body = QuestionsDocument,
    responses((status = 200, description = "AuthZEN 1.0: the decisions, in order. Permits are on record.", body = Object)),
    security(("agent_token" = [])),
)]
pub(super) async fn evaluations(State(api): State<Arc<Api>>, posed: Posed) -> Response {
    let answer: Result<Response, Problem> = several(&api.house, &posed).await;
    with_id(&posed.headers, answer.into_response())
}

async fn several(house: &House, posed: &Posed) -> Result<Response, Problem> {
    let asked: QuestionsDocument = read(&posed.body)?;
    if asked.evaluations.is_empty() {
        return one(house, &posed.agent, asked.defaults).await;
    }
    if asked.evaluations.len() > EVALUATIONS_MAX {
        return Err(Problem::because(ErrorCode::LimitExceeded, format!("at most {EVALUATIONS_MAX} evaluations at once")));
    }
    // One that is not well-formed is denied for itself.
    let read_one = |value: &Value| serde_json::from_value::<QuestionDocument>(value.clone()).map_err(|_| "this evaluation is not well-formed");
    let each: Vec<Result<Asking, &str>> = asked.evaluations.iter().map(|v| read_one(v).and_then(|q| q.or(&asked.defaults).asking())).collect();
    let all: Vec<Option<Asking>> = each.iter().map(|r| r.as_ref().ok().cloned()).collect();
    let done = evaluated(house, &posed.agent, &all, asked.options.unwrap_or_default().evaluations_semantic).await?;
    let documents: Vec<DecisionDocument> = done
        .into_iter()
        .zip(&each)
        .map(|(one, asking)| {
            let words = asking.as_ref().err().copied().unwrap_or("this evaluation is not well-formed");
            one.unwrap_or_else(|| no(json!({ "reason": ErrorCode::OauthRequest, "detail": words })))
        })
        .collect();
    Ok(axum::Json(json!({ "evaluations": documents })).into_response())
}

/// What is searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Searched {
    Subject,
    Resource,
    Action,
}

/// Which known subjects may do this?
#[utoipa::path(
    post, path = "/access/v1/search/subject", tag = "authzen", request_body = QuestionDocument,
    responses((status = 200, description = "AuthZEN 1.0: `results`.", body = Object)), security(("agent_token" = [])),
)]
pub(super) async fn search_subject(State(api): State<Arc<Api>>, posed: Posed) -> Response {
    searched(&api, &posed, Searched::Subject).await
}

/// To which known resources may this be done?
#[utoipa::path(
    post, path = "/access/v1/search/resource", tag = "authzen", request_body = QuestionDocument,
    responses((status = 200, description = "AuthZEN 1.0: `results`.", body = Object)), security(("agent_token" = [])),
)]
pub(super) async fn search_resource(State(api): State<Arc<Api>>, posed: Posed) -> Response {
    searched(&api, &posed, Searched::Resource).await
}

/// Which known actions are possible?
#[utoipa::path(
    post, path = "/access/v1/search/action", tag = "authzen", request_body = QuestionDocument,
    responses((status = 200, description = "AuthZEN 1.0: `results`.", body = Object)), security(("agent_token" = [])),
)]
pub(super) async fn search_action(State(api): State<Arc<Api>>, posed: Posed) -> Response {
    searched(&api, &posed, Searched::Action).await
}

async fn searched(api: &Api, posed: &Posed, what: Searched) -> Response {
    let answer = match read(&posed.body) {
        Ok(question) => search(&api.house, &posed.agent, question, what).await,
        Err(problem) => Err(problem),
    };
    with_id(&posed.headers, answer.map(|results| axum::Json(json!({ "results": results }))).into_response())
}

/// Finds what would be permitted. That is no permit: whoever acts asks again, and that is recorded.
async fn search(house: &House, agent: &Agent, mut question: QuestionDocument, what: Searched) -> Result<Vec<Value>, Problem> {
    let point = point(house, agent)?;
    let id_of = |thing: &mut Option<ThingDocument>, id: &str| {
        if let Some(thing) = thing {
            thing.id = Some(id.to_owned());
        }
    };
    let missing = |name: &str| Problem::invalid(format!("`{name}` is missing"));
    let kind = |thing: &Option<ThingDocument>, name: &str| thing.as_ref().map(|t| t.kind.clone()).ok_or_else(|| missing(name));
    let ids: Vec<String> = match what {
        Searched::Subject => known(&point.entry.subjects, &kind(&question.subject, "subject")?),
        Searched::Resource => known(&point.entry.resources, &kind(&question.resource, "resource")?),
        Searched::Action => {
            question.action = Some(ActionDocument { name: "x".to_owned(), properties: Map::new() });
            point.entry.actions.iter().cloned().collect()
        }
    };
    // What is there must be whole, also where nothing is known.
    match what {
        Searched::Subject => id_of(&mut question.subject, "x"),
        Searched::Resource => id_of(&mut question.resource, "x"),
        Searched::Action => {}
    }
    let whole = question.asking().map_err(Problem::invalid)?;
    let mut found: BTreeSet<String> = BTreeSet::new();
    for id in ids {
        let mut asking = whole.clone();
        match what {
            Searched::Subject => asking.subject.id.clone_from(&id),
            Searched::Resource => asking.resource.id.clone_from(&id),
            Searched::Action => asking.action.clone_from(&id),
        }
        let known = house.with_labels(&asking).await?;
        if point.evaluate(&known, &[]).is_permit() {
            found.insert(id);
        }
    }
    let one = |id: String| match what {
        Searched::Subject => json!({ "type": whole.subject.kind, "id": id }),
        Searched::Resource => json!({ "type": whole.resource.kind, "id": id }),
        Searched::Action => json!({ "name": id }),
    };
    Ok(found.into_iter().map(one).collect())
}

fn known(things: &crate::config::Things, kind: &str) -> Vec<String> {
    things.get(kind).map(|all| all.keys().cloned().collect()).unwrap_or_default()
}

/// Where the endpoints are (AuthZEN 1.0 section 9).
#[utoipa::path(get, path = "/.well-known/authzen-configuration", tag = "authzen", responses((status = 200, description = "The metadata.", body = Object)))]
pub(super) async fn metadata(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let base = &api.house.urls.base;
    let mut document = json!({
        "policy_decision_point": base,
        "access_evaluation_endpoint": format!("{base}/access/v1/evaluation"),
        "access_evaluations_endpoint": format!("{base}/access/v1/evaluations"),
        "search_subject_endpoint": format!("{base}/access/v1/search/subject"),
        "search_resource_endpoint": format!("{base}/access/v1/search/resource"),
        "search_action_endpoint": format!("{base}/access/v1/search/action"),
    });
    if let Some(endpoint) = api.house.access_request_endpoint() {
        //= authzen-access-request-approval-profile-1_0#discovery
        // A PDP that issues or verifies signed values for use under this profile (for example, a JWS-signed binding_token or a JWS
        // approval.state) MUST publish a jwks_uri in PDP metadata.
        let keys = format!("{base}/.well-known/jwks.json");
        add(
            &mut document,
            json!({ "access_request_endpoint": endpoint, "jwks_uri": keys, "capabilities": ["urn:openid:authzen:capability:access-request"] }),
        );
    }
    with_id(&headers, (StatusCode::OK, axum::Json(document)).into_response())
}
