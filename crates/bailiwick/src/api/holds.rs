//! Held calls over the API: seen by those whom they concern, decided by people with a signature over exactly what they saw.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bailiwick_core::hold::HoldState;
use bailiwick_core::{
    AgentName, Approval, CallId, Digest, Effect, ErrorCode, Hold, HoldId, Labels, Person, PersonName, Role, TaskId, Timestamp, ToolName,
};
use bailiwick_identity::person::{Verdict, Word};
use bailiwick_store::{HoldFilter, TaskRow};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asker::{Api, ByPerson, has};
use super::body::{Asked, Json, Named};
use super::problem::Problem;
use super::tasks::{LIST_MAX, ListQuery};
use crate::approve::Saying;
pub(super) use crate::approve::shown;
use crate::house::House;
use crate::pages::approval_path;

/// The states of a hold.
const STATES: [&str; 6] = ["pending", "approved", "refused", "expired", "withdrawn", "consumed"];

/// A held call.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Hold)]
pub(super) struct HoldDocument {
    /// Its id: a name, not a right.
    #[schema(value_type = String)]
    id: HoldId,
    /// The call that was held first.
    #[schema(value_type = String)]
    call: CallId,
    /// Its task.
    #[schema(value_type = String)]
    task: TaskId,
    /// The agent that asks.
    #[schema(value_type = String)]
    agent: AgentName,
    /// The agent's SPIFFE ID.
    spiffe_id: Option<String>,
    /// Who answers for the agent.
    #[schema(value_type = String)]
    owner: PersonName,
    /// On whose behalf.
    #[schema(value_type = String)]
    subject: PersonName,
    /// What the task is for.
    purpose: Option<String>,
    /// The marks of what the task has been given, such as `untrusted`.
    #[schema(value_type = Vec<String>)]
    labels: Labels,
    /// The tool.
    #[schema(value_type = String)]
    tool: ToolName,
    /// Its effect.
    #[schema(value_type = String)]
    effect: Effect,
    /// Where it goes.
    target: String,
    /// The exact JSON text of the arguments, as it will be sent.
    arguments: String,
    /// The same for people: in canonical order, one member a line, hidden characters escaped.
    shown: String,
    /// What a decision is bound to: 64 hex digits.
    #[schema(value_type = String)]
    digest: Digest,
    /// A secret that goes into `seen`: without it, whoever reads an approval on record could find short arguments by trying them.
    #[schema(value_type = String)]
    nonce: Digest,
    /// Why it is held.
    reasons: String,
    /// The policy revision that held it.
    revision: String,
    /// Whose approval counts.
    #[schema(value_type = Vec<String>)]
    people: Vec<PersonName>,
    /// How many approvals are needed.
    count: usize,
    /// The approvals so far: `person`, `kind`, `digest`, `seen`, `proof`, `signature`, `at`.
    #[schema(value_type = Vec<Object>)]
    approvals: Vec<Approval>,
    /// `pending`, `approved`, `refused`, `expired`, `withdrawn` or `consumed`.
    state: &'static str,
    /// Who refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    refused_by: Option<PersonName>,
    /// Why, in that person's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    /// The call that was made with the approvals.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    consumed_by: Option<CallId>,
    /// When it was held.
    #[schema(value_type = String)]
    at: Timestamp,
    /// Until when people may decide, and until when an approval may be used.
    #[schema(value_type = String)]
    expires_at: Timestamp,
    /// The page that shows it.
    url: String,
}

/// Held calls, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HoldList {
    /// The holds.
    holds: Vec<HoldDocument>,
}

/// A person's decision.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Decision {
    /// The digest of the held call that was looked at: 64 hex digits.
    digest: String,
    /// SHA-256 of what the person saw: `nonce`, a line feed, and `shown`. 64 hex digits.
    seen: String,
    /// The person's Ed25519 signature, in base64url, over `bailiwick-approval/v1`, hold, digest, seen and `approve` or `refuse`, a line each.
    signature: String,
    /// Why, in the person's words. Kept on record; the agent sees it if the call is refused.
    #[serde(default)]
    reason: String,
}

/// Made from the hold's key, which is as secret as its arguments, and is erased with them.
fn nonce(hold: &Hold) -> Digest {
    Digest::bind("bailiwick/words/v1", &[hold.key.as_bytes(), &hold.id.to_bytes()])
}

/// The digest of what people are shown of the arguments, as an approval carries it.
pub(super) fn seen(hold: &Hold) -> Digest {
    Digest::of(format!("{}\n{}", nonce(hold), shown(hold)).as_bytes())
}

impl HoldDocument {
    pub(super) fn new(house: &House, hold: &Hold, row: Option<&TaskRow>) -> Self {
        let task = row.map(|row| &row.task);
        let (mut refused_by, mut refusal, mut consumed_by) = (None, None, None);
        match &hold.state {
            HoldState::Refused { by, reason, .. } => (refused_by, refusal) = (Some(by.clone()), Some(reason.clone())),
            HoldState::Consumed { call, .. } => consumed_by = Some(*call),
            HoldState::Pending | HoldState::Approved { .. } | HoldState::Expired { .. } | HoldState::Withdrawn { .. } => {}
        }
        Self {
            id: hold.id,
            call: hold.call,
            task: hold.task,
            agent: hold.agent.clone(),
            spiffe_id: task.map(|t| t.spiffe_id.to_string()),
            owner: hold.owner.clone(),
            subject: hold.subject.clone(),
            purpose: task.map(|t| t.purpose.clone()),
            labels: row.map(|row| row.labels.clone()).unwrap_or_default(),
            tool: hold.tool.clone(),
            effect: hold.effect,
            target: hold.target.clone(),
            arguments: String::from_utf8_lossy(&hold.arguments).into_owned(),
            shown: shown(hold),
            digest: hold.digest,
            nonce: nonce(hold),
            reasons: hold.reasons.clone(),
            revision: hold.revision.clone(),
            people: hold.people.clone(),
            count: hold.count,
            approvals: hold.approvals.clone(),
            state: hold.state.word(),
            refused_by,
            refusal,
            consumed_by,
            at: hold.at,
            expires_at: hold.expires_at,
            url: format!("{}{}", house.urls.base, approval_path(&hold.id.to_string())),
        }
    }
}

/// May this person see the held call? Whoever it asks, its owner, the person on whose behalf it is, operators and auditors.
pub(super) fn sees_hold(person: &Person, hold: &Hold) -> bool {
    hold.people.contains(&person.name) || person.name == hold.owner || person.name == hold.subject || has(person, &[Role::Operator, Role::Auditor])
}

/// The holds that a person may see, newest first.
pub(super) async fn visible(house: &House, person: &Person, state: Option<&'static str>, limit: usize) -> Result<Vec<Hold>, Problem> {
    let filter = HoldFilter { state, limit: LIST_MAX, ..Default::default() };
    let mut holds = house.store.holds(filter.clone()).await?;
    if !has(person, &[Role::Operator, Role::Auditor]) && holds.len() >= LIST_MAX {
        // Others' holds must not crowd out this person's.
        let asked = house.store.holds(HoldFilter { approver: Some(person.name.clone()), ..filter }).await?;
        holds.extend(asked);
        holds.sort_by_key(|h| std::cmp::Reverse(h.id));
        holds.dedup_by_key(|h| h.id);
    }
    holds.retain(|h| sees_hold(person, h));
    holds.truncate(limit);
    Ok(holds)
}

/// The hold of an id, if this person may know that there is one.
pub(super) async fn find(house: &House, person: &Person, id: HoldId) -> Result<Hold, Problem> {
    let hold = house.store.hold(id).await?.filter(|h| sees_hold(person, h));
    hold.ok_or_else(|| Problem::new(ErrorCode::HoldAbsent))
}

/// Held calls that one may see, newest first.
#[utoipa::path(
    get, path = "/v1/holds", tag = "holds", params(ListQuery),
    responses((status = 200, description = "Held calls.", body = HoldList)),
    security(("person" = [])),
)]
pub(super) async fn list(State(api): State<Arc<Api>>, by: ByPerson, Asked(query): Asked<ListQuery>) -> Result<Response, Problem> {
    let house = &api.house;
    let found = visible(house, &by.person, query.state(&STATES)?, query.limit()).await?;
    let mut tasks: HashMap<TaskId, Option<TaskRow>> = HashMap::new();
    let mut holds = Vec::with_capacity(found.len());
    for hold in &found {
        if let std::collections::hash_map::Entry::Vacant(place) = tasks.entry(hold.task) {
            place.insert(house.store.task(hold.task).await?);
        }
        holds.push(HoldDocument::new(house, hold, tasks.get(&hold.task).and_then(Option::as_ref)));
    }
    Ok(axum::Json(HoldList { holds }).into_response())
}

async fn document(house: &House, hold: &Hold) -> Result<Response, Problem> {
    let row = house.store.task(hold.task).await?;
    Ok(axum::Json(HoldDocument::new(house, hold, row.as_ref())).into_response())
}

/// One held call, with everything that a person needs to decide it.
#[utoipa::path(
    get, path = "/v1/holds/{id}", tag = "holds", params(("id" = String, Path, description = "The hold's id.")),
    responses((status = 200, description = "The held call.", body = HoldDocument)),
    security(("person" = [])),
)]
pub(super) async fn show(State(api): State<Arc<Api>>, by: ByPerson, name: Named) -> Result<Response, Problem> {
    let hold = find(&api.house, &by.person, name.parse(ErrorCode::HoldAbsent)?).await?;
    document(&api.house, &hold).await
}

/// Says yes to exactly this call, once.
#[utoipa::path(
    post, path = "/v1/holds/{id}/approve", tag = "holds", params(("id" = String, Path, description = "The hold's id.")),
    request_body = Decision,
    responses((status = 200, description = "The held call as it stands now.", body = HoldDocument)),
    security(("person" = [])),
)]
pub(super) async fn approve(State(api): State<Arc<Api>>, by: ByPerson, name: Named, Json(said): Json<Decision>) -> Result<Response, Problem> {
    let (id, saying) = said.checked(&api.house, &by, &name, Word::Approve).await?;
    let hold = api.house.approve(id, &by.person, saying).await?;
    document(&api.house, &hold).await
}

/// Says no. One no is enough.
#[utoipa::path(
    post, path = "/v1/holds/{id}/refuse", tag = "holds", params(("id" = String, Path, description = "The hold's id.")),
    request_body = Decision,
    responses((status = 200, description = "The held call as it stands now.", body = HoldDocument)),
    security(("person" = [])),
)]
pub(super) async fn refuse(State(api): State<Arc<Api>>, by: ByPerson, name: Named, Json(said): Json<Decision>) -> Result<Response, Problem> {
    let (id, saying) = said.checked(&api.house, &by, &name, Word::Refuse).await?;
    let hold = api.house.refuse(id, &by.person, saying).await?;
    document(&api.house, &hold).await
}

/// The digests of the words in which a held call is shown: the arguments alone, or the whole screen of the command line.
async fn words(house: &House, hold: &Hold) -> Result<Vec<Digest>, Problem> {
    let row = house.store.task(hold.task).await?;
    let document = serde_json::to_value(HoldDocument::new(house, hold, row.as_ref())).unwrap_or_default();
    let screen = crate::cli::screen::HeldCall::read(&document).ok().map(|held| held.seen());
    Ok(std::iter::once(seen(hold)).chain(screen).collect())
}

impl Decision {
    /// What the person says, if the person's own key signed exactly that about exactly this call.
    async fn checked(self, house: &House, by: &ByPerson, name: &Named, word: Word) -> Result<(HoldId, Saying), Problem> {
        let hold = find(house, &by.person, name.parse(ErrorCode::HoldAbsent)?).await?;
        let digest =
            |text: &str, what: &str| text.parse::<Digest>().map_err(|_| Problem::invalid(format!("`{what}` must be 64 lower-case hex digits")));
        let (digest, seen) = (digest(&self.digest, "digest")?, digest(&self.seen, "seen")?);
        let verdict = Verdict { hold: hold.id, digest, seen, word };
        verdict.verify(&by.key, &self.signature).map_err(|error| {
            tracing::warn!(person = %by.person.name, hold = %hold.id, %error, "a decision's signature was refused");
            Problem::because(ErrorCode::ProofInvalid, "the signature is not one of your key over this decision")
        })?;
        if hold.state == HoldState::Pending && digest == hold.digest && !words(house, &hold).await?.contains(&seen) {
            tracing::warn!(person = %by.person.name, hold = %hold.id, "a decision is about other words than the broker shows");
            return Err(Problem::because(
                ErrorCode::ApprovalMismatch,
                "the words that were seen are not those that describe this call now; look at it again",
            ));
        }
        Ok((hold.id, Saying { digest, seen, proof: "key", signature: self.signature, reason: self.reason }))
    }
}
