//! Questions to the record: one action, entries by what they say, what a person answers for, what a task changed, what differs.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bailiwick_core::{ErrorCode, Person, PersonName, Role, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::asker::{Api, ByPerson, has, need};
use super::body::{Asked, Named};
use super::problem::Problem;
use crate::trace::asked::{self, Conditions, Page, Unclear, time};
use crate::trace::changes::{self, Changes};
use crate::trace::difference::{self, Difference};
use crate::trace::person::{self, Answerable};
use crate::trace::{Subject, Trace};

/// The length of a stretch that nobody says.
const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// Lines of one kind in a report on a person.
const LINES: usize = 50;
const LINES_MAX: usize = 500;

impl From<Unclear> for Problem {
    fn from(unclear: Unclear) -> Self {
        Self::invalid(unclear.to_string())
    }
}

/// Those who see everything: auditors and operators. For all others there is only what they have a part in.
fn only(person: &Person) -> Option<PersonName> {
    (!has(person, &[Role::Auditor, Role::Operator])).then(|| person.name.clone())
}

/// Everything known of a call, a held call, a task, an incident or a ledger entry: from the model to the owner, with proofs.
#[utoipa::path(
    get, path = "/v1/trace/{id}", tag = "record",
    params(("id" = String, Path, description = "A call, a held call, a task, an incident, or the index of a ledger entry.")),
    responses((status = 200, description = "The trace.", body = Trace)),
    security(("person" = [])),
)]
pub(super) async fn trace(State(api): State<Arc<Api>>, by: ByPerson, name: Named) -> Result<Response, Problem> {
    let absent = || Problem::because(ErrorCode::HoldAbsent, "there is nothing on record under this id");
    let subject: Subject = name.0.parse().map_err(|_| absent())?;
    let trace = Trace::of(&api.house.store, &api.house.nodes, subject).await?.ok_or_else(absent)?;
    // Its owner, the person on whose behalf, whoever was asked to approve it, auditors and operators. For all others it is not there.
    if only(&by.person).is_some() && !trace.concerns(&by.person.name) {
        return Err(absent());
    }
    Ok(axum::Json(trace).into_response())
}

/// Entries by what they say, newest first, each with its proof. Whoever is neither auditor nor operator sees those in which he or she has
/// a part: as owner, subject, approver, or because he or she did it.
#[utoipa::path(
    get, path = "/v1/entries", tag = "record", params(Conditions),
    responses((status = 200, description = "A page of entries.", body = Page)),
    security(("person" = [])),
)]
pub(super) async fn entries(State(api): State<Arc<Api>>, by: ByPerson, Asked(conditions): Asked<Conditions>) -> Result<Response, Problem> {
    let search = conditions.search(&api.house.config.trust_domain, only(&by.person).as_ref())?;
    Ok(axum::Json(asked::page(&api.house, search).await?).into_response())
}

/// What a task changed: its acting calls in order, the reads around each, and tools that were defined anew meanwhile.
#[utoipa::path(
    get, path = "/v1/tasks/{id}/changes", tag = "record", params(("id" = String, Path, description = "The task's id.")),
    responses((status = 200, description = "The changes.", body = Changes)),
    security(("person" = [])),
)]
pub(super) async fn changes(State(api): State<Arc<Api>>, by: ByPerson, name: Named) -> Result<Response, Problem> {
    let absent = || Problem::new(ErrorCode::TaskAbsent);
    let id: TaskId = name.parse(ErrorCode::TaskAbsent)?;
    let task = api.house.store.task(id).await?.ok_or_else(absent)?.task;
    if only(&by.person).is_some_and(|me| me != task.owner && me != task.subject) {
        return Err(absent());
    }
    Ok(axum::Json(changes::of(&api.house, id).await?.ok_or_else(absent)?).into_response())
}

/// Whose report, of which time.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PersonQuery {
    /// The person. Default: whoever asks.
    person: Option<String>,
    /// From this time on (RFC 3339). Default: the beginning.
    since: Option<String>,
    /// Before this time (RFC 3339). Default: now.
    until: Option<String>,
    /// At most so many lines of each kind, up to 500. Default 50.
    limit: Option<usize>,
}

/// All that a person answers for: agents, tasks, acting calls, approvals, and what the person ended or changed. Of another person only
/// for auditors and operators.
#[utoipa::path(
    get, path = "/v1/reports/person", tag = "record", params(PersonQuery),
    responses((status = 200, description = "The report, newest first.", body = Answerable)),
    security(("person" = [])),
)]
pub(super) async fn person_report(State(api): State<Arc<Api>>, by: ByPerson, Asked(query): Asked<PersonQuery>) -> Result<Response, Problem> {
    let name = match &query.person {
        Some(name) => name.parse().map_err(|e| Problem::invalid(format!("`person`: {e}")))?,
        None => by.person.name.clone(),
    };
    if name != by.person.name {
        need(&by.person, &[Role::Auditor, Role::Operator], "ask an auditor about other people")?;
    }
    let since = time("since", query.since.as_deref())?.unwrap_or_default();
    let until = time("until", query.until.as_deref())?.unwrap_or_else(|| after(api.house.clock.now()));
    let limit = query.limit.unwrap_or(LINES).clamp(1, LINES_MAX);
    let question = person::Question { person: name, since, until, limit };
    Ok(axum::Json(person::of(&api.house, &question).await?).into_response())
}

/// Two stretches of time.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DifferenceQuery {
    /// Where the later stretch begins (RFC 3339). Default: a week before its end.
    this_since: Option<String>,
    /// Where it ends. Default: now.
    this_until: Option<String>,
    /// Where the earlier stretch begins. Default: as long before its end as the later one is.
    last_since: Option<String>,
    /// Where it ends. Default: where the later one begins.
    last_until: Option<String>,
}

impl DifferenceQuery {
    fn stretches(&self, now: Timestamp) -> Result<(Range<Timestamp>, Range<Timestamp>), Problem> {
        let until = time("this_until", self.this_until.as_deref())?.unwrap_or_else(|| after(now));
        let since = time("this_since", self.this_since.as_deref())?.unwrap_or_else(|| until.minus(WEEK));
        let end = time("last_until", self.last_until.as_deref())?.unwrap_or(since);
        let begin = time("last_since", self.last_since.as_deref())?.unwrap_or_else(|| end.minus(since.until(until)));
        if since >= until || begin >= end {
            return Err(Problem::invalid("each stretch must begin before it ends"));
        }
        Ok((begin..end, since..until))
    }
}

/// The moment after this one: what happened just now is asked for too.
fn after(now: Timestamp) -> Timestamp {
    now.plus(Duration::from_millis(1))
}

/// What differs between two stretches of time, this week and last if nothing else is said. Whoever is neither auditor nor operator sees
/// what differs in what he or she has a part in.
#[utoipa::path(
    get, path = "/v1/reports/difference", tag = "record", params(DifferenceQuery),
    responses((status = 200, description = "What appeared, what is gone, what changed.", body = Difference)),
    security(("person" = [])),
)]
pub(super) async fn difference_report(State(api): State<Arc<Api>>, by: ByPerson, Asked(query): Asked<DifferenceQuery>) -> Result<Response, Problem> {
    let (last, this) = query.stretches(api.house.clock.now())?;
    Ok(axum::Json(difference::between(&api.house, last, this, only(&by.person)).await?).into_response())
}

/// The index, made anew.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rebuilt {
    /// Entries in it.
    entries: u64,
}

/// Throws the index of the record away and makes it anew from the ledger.
#[utoipa::path(
    post, path = "/v1/index/rebuild", tag = "record",
    responses((status = 200, description = "How many entries are in it.", body = Rebuilt)),
    security(("person" = [])),
)]
pub(super) async fn rebuild_index(State(api): State<Arc<Api>>, by: ByPerson) -> Result<Response, Problem> {
    need(&by.person, &[Role::Operator], "ask an operator")?;
    let entries = api.house.store.rebuild_index().await?;
    tracing::info!(person = %by.person.name, entries, "the index was made anew");
    Ok(axum::Json(Rebuilt { entries }).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(this_since: Option<&str>, this_until: Option<&str>) -> DifferenceQuery {
        let text = |t: Option<&str>| t.map(str::to_owned);
        DifferenceQuery { this_since: text(this_since), this_until: text(this_until), last_since: None, last_until: None }
    }

    #[test]
    fn two_stretches_are_two_weeks_side_by_side_if_nothing_is_said_and_equally_long_otherwise() {
        let now = Timestamp::parse("2026-11-22T00:00:00Z").unwrap();
        let (last, this) = query(None, None).stretches(now).unwrap();
        assert_eq!((last.end, this.start.until(this.end), last.start.until(last.end)), (this.start, WEEK, WEEK));
        let (last, this) = query(Some("2026-11-20T00:00:00Z"), Some("2026-11-21T00:00:00Z")).stretches(now).unwrap();
        assert_eq!((last.end, last.start.until(last.end)), (this.start, Duration::from_secs(86_400)));
        assert!(query(Some("2026-11-21T00:00:00Z"), Some("2026-11-21T00:00:00Z")).stretches(now).is_err());
    }
}
