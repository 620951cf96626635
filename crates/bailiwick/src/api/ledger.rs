//! The published ledger: checkpoint and tiles for everybody (C2SP tlog-tiles), receipts for those whom an entry concerns, and where it stands.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts as _, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bailiwick_core::{CallId, ErrorCode, Role};
use bailiwick_ledger::{BundleId, TileId};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::asker::{Api, ByPerson, has, need};
use super::body::{Asked, Named};
use super::problem::Problem;
use crate::publish::{Publication, PublishError};
use crate::trace::{Subject, Trace};

/// A receipt, or the first checkpoint, is waited for so long.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(10);
/// Incidents that are shown.
const INCIDENTS: usize = 20;

/// The files of the log, under `/ledger`.
pub(super) fn files() -> Router<Arc<Api>> {
    Router::new().route("/ledger/checkpoint", get(checkpoint)).route("/ledger/tile/{*path}", get(tile))
}

fn absent(what: &'static str) -> Problem {
    Problem::invalid(what).with_status(StatusCode::NOT_FOUND)
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Store(error) => error.into(),
            PublishError::Uncovered(_) => Self::because(ErrorCode::AuditUnavailable, "no published head covers the entry yet: try again in a moment"),
            other => {
                tracing::error!(error = %other, "the published ledger could not be read");
                Self::new(ErrorCode::Internal)
            }
        }
    }
}

/// The head that was published last, with the cosignatures that it has.
async fn checkpoint(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let publication = &api.house.publication;
    publication.covering(0, PUBLISHED_WITHIN).await;
    let current = publication.current().ok_or_else(|| absent("nothing was published yet"))?;
    let mut response = current.note.to_string().into_response();
    //= tlog-tiles: the checkpoint is text/plain; charset=utf-8, with a short cache
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=1"));
    Ok(response)
}

/// A tile, or a bundle of entries.
async fn tile(State(api): State<Arc<Api>>, Path(path): Path<String>, request: Request) -> Result<Response, Problem> {
    let (publication, path) = (&api.house.publication, format!("tile/{path}"));
    let none = || absent("there is no such tile");
    if let Ok(tile) = path.parse::<TileId>() {
        return Ok(immutable(publication.tile(tile).await?.ok_or_else(none)?, true));
    }
    let bundle: BundleId = path.parse().map_err(|_| none())?;
    let public = publication.public_entries();
    if !public {
        let (mut parts, _) = request.into_parts();
        let by = ByPerson::from_request_parts(&mut parts, &api).await?;
        need(&by.person, &[Role::Auditor], "ask an auditor")?;
    }
    Ok(immutable(publication.bundle(&api.house.store, bundle).await?.ok_or_else(none)?, public))
}

fn immutable(bytes: Vec<u8>, public: bool) -> Response {
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let cache = if public { "public, max-age=604800, immutable" } else { "no-store" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

/// What a receipt is to hold.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReceiptQuery {
    /// True leaves the entry's text out: the receipt then proves an entry that whoever checks it must have from elsewhere.
    #[serde(default)]
    bare: bool,
}

/// A receipt (C2SP tlog-proof): the proof that an entry is in the ledger, up to a head that witnesses cosigned, where they did. For a
/// call, of the entry that permitted it. The entry's text is the extra data. For those whom the entry concerns, auditors and operators.
#[utoipa::path(
    get, path = "/v1/ledger/receipts/{id}", tag = "record",
    params(("id" = String, Path, description = "A call, or the index of a ledger entry."), ReceiptQuery),
    responses((status = 200, description = "The receipt.", body = String)),
    security(("person" = [])),
)]
pub(super) async fn receipt(State(api): State<Arc<Api>>, by: ByPerson, name: Named, Asked(query): Asked<ReceiptQuery>) -> Result<Response, Problem> {
    let gone = || Problem::because(ErrorCode::HoldAbsent, "there is nothing on record under this id");
    let house = &api.house;
    let index = match name.0.parse::<CallId>() {
        Ok(call) => house.store.index_of_call(call).await?,
        Err(_) => name.0.parse().ok().filter(|index: &u64| index.to_string() == name.0),
    };
    let index = index.filter(|index| *index < house.store.head().size).ok_or_else(gone)?;
    let trace = Trace::of(&house.store, &house.nodes, Subject::Entry(index)).await?.ok_or_else(gone)?;
    if !has(&by.person, &[Role::Auditor, Role::Operator]) && !trace.concerns(&by.person.name) {
        return Err(gone());
    }
    let entry = house.store.entry(index).await?.ok_or_else(gone)?;
    let publication = &house.publication;
    if house.pen.stopped().is_none() {
        publication.covering(index, PUBLISHED_WITHIN).await;
    }
    let extra = (!query.bare).then_some(entry.body);
    let mut response = publication.receipt(&house.store, index, extra).await?.to_string().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// Where the ledger stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LedgerStatus {
    /// The name of the log.
    origin: String,
    /// Its public key.
    vkey: String,
    /// The number of entries.
    size: u64,
    /// The number of entries in the published head.
    published: u64,
    /// Who has cosigned the published head: names and ids of keys.
    cosigned: Vec<String>,
    /// Why nothing is signed and no call is made, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
    /// The shards after the first.
    shards: Vec<ShardDocument>,
    /// The newest incidents of the ledger.
    incidents: Vec<LedgerIncident>,
}

/// A shard after the first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShardDocument {
    /// Its number.
    number: u64,
    /// Its name.
    origin: String,
    /// Its public key.
    vkey: String,
    /// The index of the entry that began it.
    first: u64,
    /// The name of the shard before.
    old_origin: String,
    /// The public key of the shard before.
    old_vkey: String,
    /// Why it was begun.
    reason: String,
    /// When.
    at: String,
}

/// What stopped the ledger, or what a witness said.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LedgerIncident {
    /// What.
    kind: String,
    /// When.
    at: String,
    /// In words.
    detail: String,
}

/// Where the ledger stands: what is published, who cosigned it, and whether anything stopped it.
#[utoipa::path(
    get, path = "/v1/ledger/status", tag = "record",
    responses((status = 200, description = "Where it stands.", body = LedgerStatus)),
    security(("person" = [])),
)]
pub(super) async fn status(State(api): State<Arc<Api>>, _by: ByPerson) -> Result<Response, Problem> {
    let house = &api.house;
    let (origin, key) = house.pen.log();
    let current = house.publication.current();
    let mut incidents = house.store.incidents(1000).await?;
    incidents.retain(|incident| matches!(incident.kind.as_str(), "ledger_departed" | "witness_word"));
    incidents.truncate(INCIDENTS);
    let shards = house.store.shards().await?.into_iter().map(|shard| ShardDocument {
        number: shard.number,
        origin: shard.origin,
        vkey: shard.vkey,
        first: shard.first,
        old_origin: shard.old_origin,
        old_vkey: shard.old_vkey,
        reason: shard.reason,
        at: shard.at.to_string(),
    });
    let detail = |document: &str| {
        let document: serde_json::Value = serde_json::from_str(document).unwrap_or_default();
        document.get("detail").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let status = LedgerStatus {
        origin: origin.to_string(),
        size: house.store.head().size,
        published: current.as_ref().map_or(0, |current| current.size),
        cosigned: current
            .iter()
            .flat_map(|current| Publication::cosigners(&current.note))
            .filter(|id| !key.to_string().starts_with(id.as_str()))
            .collect(),
        vkey: key.to_string(),
        stopped: house.pen.stopped().map(|why| why.to_string()),
        shards: shards.collect(),
        incidents: incidents
            .into_iter()
            .map(|incident| LedgerIncident { at: incident.at.to_string(), detail: detail(&incident.document), kind: incident.kind })
            .collect(),
    };
    Ok(axum::Json(status).into_response())
}
