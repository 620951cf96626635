//! Kept texts of calls over the API: looked at by auditors and owners, each look on record, and erased by operators.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bailiwick_core::{CallId, ErrorCode, PersonName, Role, TaskId, Timestamp};
use bailiwick_store::Entry;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asker::{Api, ByPerson, has, need};
use super::body::{Json, Named};
use super::problem::Problem;
use crate::entry::{self, Body};
use crate::payload::CallTexts;
use crate::retention::{EraseError, Named as NamedCalls, PruneError, Selector};

/// Ids in one answer.
const IDS_MAX: usize = 1000;

/// What to erase. Exactly one of `task`, `call`, `subject` and `containing`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ErasureRequest {
    /// All calls of this task.
    #[schema(value_type = Option<String>)]
    task: Option<TaskId>,
    /// This call, and the held call that it came of.
    #[schema(value_type = Option<String>)]
    call: Option<CallId>,
    /// All calls of all tasks that were done on behalf of this person.
    #[schema(value_type = Option<String>)]
    subject: Option<PersonName>,
    /// Every call in one of whose kept texts this stands. It is looked for, and recorded nowhere.
    containing: Option<String>,
    /// Why. It stays on record: name a request, not a person's data.
    reason: String,
    /// Only say what would be erased.
    #[serde(default)]
    dry_run: bool,
}

/// What was erased, or would be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErasureReport {
    /// Was it only a question?
    dry_run: bool,
    /// Whole tasks; the first 1000 of them.
    #[schema(value_type = Vec<String>)]
    tasks: Vec<TaskId>,
    /// Single calls; the first 1000 of them.
    #[schema(value_type = Vec<String>)]
    calls: Vec<CallId>,
    /// How many tasks.
    tasks_total: usize,
    /// How many single calls.
    calls_total: usize,
    /// Tasks that are still open: nothing of them is erased.
    #[schema(value_type = Vec<String>)]
    open: Vec<TaskId>,
    /// Kept texts that are gone.
    texts: u64,
    /// Where the ledger says so.
    entries: Vec<u64>,
}

impl ErasureReport {
    fn new(named: NamedCalls, dry_run: bool, texts: u64, entries: Vec<u64>) -> Self {
        let NamedCalls { mut tasks, mut calls, mut open } = named;
        let (tasks_total, calls_total) = (tasks.len(), calls.len());
        tasks.truncate(IDS_MAX);
        calls.truncate(IDS_MAX);
        open.truncate(IDS_MAX);
        Self { dry_run, tasks, calls, tasks_total, calls_total, open, texts, entries }
    }
}

impl From<EraseError> for Problem {
    fn from(error: EraseError) -> Self {
        let words = error.to_string();
        match error {
            EraseError::Absent => Self::because(ErrorCode::TaskAbsent, words),
            EraseError::Open(_) => Self::because(ErrorCode::OauthRequest, words).with_status(StatusCode::CONFLICT),
            EraseError::Invalid(_) => Self::invalid(words),
            EraseError::Store(error) => error.into(),
        }
    }
}

/// How far to prune. Neither: as far as the policy allows.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PruneRequest {
    /// Entries from this time on are kept.
    #[schema(value_type = Option<String>)]
    before: Option<Timestamp>,
    /// Only say what would be pruned.
    #[serde(default)]
    dry_run: bool,
}

/// What was pruned, or would be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PruneReport {
    /// Was it only a question?
    dry_run: bool,
    /// The first entry that was there.
    from: u64,
    /// The first one that is there now.
    minimum: u64,
    /// Entries from this time on are kept, whatever else.
    #[schema(value_type = String)]
    kept_from: Timestamp,
    /// What keeps more from being pruned.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_by: Option<&'static str>,
    /// Where the ledger says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<u64>,
}

/// Prunes the ledger: what old entries said goes, their hashes stay, and the ledger says so. Only by the policy of the configuration.
#[utoipa::path(
    post, path = "/v1/ledger/prune", tag = "record", request_body = PruneRequest,
    responses((status = 200, description = "What was pruned, or would be.", body = PruneReport)),
    security(("person" = [])),
)]
pub(super) async fn prune(State(api): State<Arc<Api>>, by: ByPerson, Json(asked): Json<PruneRequest>) -> Result<Response, Problem> {
    need(&by.person, &[Role::Operator], "ask an operator")?;
    let PruneRequest { before, dry_run } = asked;
    let (house, person) = (Arc::clone(&api.house), by.person.name.clone());
    // Whoever asked may go away: what was begun goes on.
    let pruning = tokio::spawn(async move { house.prune(before, Some(&person), dry_run).await });
    let pruned = pruning.await.map_err(|_| Problem::new(ErrorCode::Internal))??;
    let crate::retention::Pruned { from, to, kept_from, held_by, entry } = pruned;
    Ok(axum::Json(PruneReport { dry_run, from, minimum: to, kept_from, held_by, entry }).into_response())
}

impl From<PruneError> for Problem {
    fn from(error: PruneError) -> Self {
        match error {
            PruneError::NoPolicy | PruneError::Kept(_) => Self::because(ErrorCode::OauthRequest, error.to_string()).with_status(StatusCode::CONFLICT),
            PruneError::Store(error) => error.into(),
        }
    }
}

/// The texts of a call as far as they are kept: arguments and answer, or why they are not there. Each look is on record.
#[utoipa::path(
    get, path = "/v1/calls/{id}/texts", tag = "record", params(("id" = String, Path, description = "The call's id.")),
    responses((status = 200, description = "The texts.", body = CallTexts)),
    security(("person" = [])),
)]
pub(super) async fn texts(State(api): State<Arc<Api>>, by: ByPerson, name: Named) -> Result<Response, Problem> {
    let absent = || Problem::because(ErrorCode::HoldAbsent, "there is no such call on record");
    let call: CallId = name.0.parse().map_err(|_| absent())?;
    let house = &api.house;
    // An auditor, or the owner of the task. For all others it is not there.
    if !has(&by.person, &[Role::Auditor]) {
        let task = house.store.entries_of_call(call).await?.iter().find_map(|row| row.task).ok_or_else(absent)?;
        let owner = house.store.task(task).await?.map(|row| row.task.owner);
        if owner.as_ref() != Some(&by.person.name) {
            return Err(absent());
        }
    }
    let texts = house.payload(call).await?.ok_or_else(absent)?;
    if texts.any() {
        let body = entry::encode(house.clock.now(), &entry::TextsRead { call, by: &by.person.name });
        // On record first.
        house.store.append(Entry::new(<entry::TextsRead<'_> as Body>::WORD, body).of_call(call)).await?;
    }
    Ok(axum::Json(texts).into_response())
}

/// Erases kept texts and the salts of their digests. The ledger keeps its entries, and says who erased what and why. It goes on if
/// the client goes away; the same request meanwhile gets the same report. To look for a text, if only asking, is on record, without
/// the text.
#[utoipa::path(
    post, path = "/v1/erasures", tag = "record", request_body = ErasureRequest,
    responses((status = 200, description = "What was erased, or would be.", body = ErasureReport)),
    security(("person" = [])),
)]
pub(super) async fn erase(State(api): State<Arc<Api>>, by: ByPerson, Json(asked): Json<ErasureRequest>) -> Result<Response, Problem> {
    need(&by.person, &[Role::Operator], "ask an operator")?;
    let ErasureRequest { task, call, subject, containing, reason, dry_run } = asked;
    let given = [task.map(Selector::Task), call.map(Selector::Call), subject.map(Selector::Subject), containing.map(Selector::Containing)];
    let mut given = given.into_iter().flatten();
    let (Some(selector), None) = (given.next(), given.next()) else {
        return Err(Problem::invalid("say exactly one of `task`, `call`, `subject` and `containing`"));
    };
    let by = by.person.name;
    if dry_run {
        let named = api.house.named(&selector, &by).await?;
        return Ok(axum::Json(ErasureReport::new(named, true, 0, Vec::new())).into_response());
    }
    // Whoever asked may go away: what was begun goes on.
    let report = api.house.erase_on(selector, reason, by).await?;
    Ok(axum::Json(ErasureReport::new(report.named, false, report.texts, report.entries)).into_response())
}
