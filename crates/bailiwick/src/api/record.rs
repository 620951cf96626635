//! The record over the API: the ledger for auditors, its signed head for everybody.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bailiwick_core::{ErrorCode, Role};
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::asker::{Api, ByPerson, need};
use super::body::Asked;
use super::problem::Problem;

/// Most entries in one answer.
const ENTRIES_MAX: u64 = 1000;

/// A range of the ledger.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Range {
    /// The first index.
    #[serde(default)]
    from: u64,
    /// The index after the last one. At most 1000 entries are given at a time.
    to: Option<u64>,
}

/// One entry as it stands in the ledger.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LedgerEntry {
    /// Its index.
    index: u64,
    /// Its leaf hash (RFC 6962 section 2.1), in hex.
    leaf: String,
    /// Its exact text. The leaf is over its UTF-8 bytes. Absent if it was pruned.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// A piece of the ledger, and the head under which it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LedgerPage {
    /// The number of entries in all.
    size: u64,
    /// The signed note over them (C2SP tlog-checkpoint).
    checkpoint: String,
    /// The first entry that is not pruned. Of those before it there are only the leaf hashes.
    minimum: u64,
    /// The entries.
    entries: Vec<LedgerEntry>,
}

/// The signed head of the ledger (C2SP tlog-checkpoint). Public: whoever keeps one can later show a fork.
#[utoipa::path(get, path = "/v1/ledger/checkpoint", tag = "record", responses((status = 200, description = "A signed note.", body = String)))]
pub(super) async fn checkpoint(State(api): State<Arc<Api>>) -> Response {
    let mut response = api.house.store.checkpoint().to_string().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Entries of the ledger, in order.
#[utoipa::path(
    get, path = "/v1/ledger/entries", tag = "record", params(Range),
    responses((status = 200, description = "Entries; fewer than asked for at the end, or if there are more than 1000.", body = LedgerPage)),
    security(("person" = [])),
)]
pub(super) async fn entries(State(api): State<Arc<Api>>, by: ByPerson, Asked(range): Asked<Range>) -> Result<Response, Problem> {
    need(&by.person, &[Role::Auditor], "ask an auditor")?;
    let store = &api.house.store;
    // The head first: every entry below it is durable and does not change.
    let head = store.head();
    let to = range.to.unwrap_or(u64::MAX).min(head.size).min(range.from.saturating_add(ENTRIES_MAX));
    let rows = if range.from < to { store.entries(range.from..to).await? } else { Vec::new() };
    let minimum = store.minimum().await?;
    let mut entries = Vec::with_capacity(rows.len());
    for row in rows {
        let kept = row.index >= minimum || !row.body.is_empty();
        let text = String::from_utf8(row.body).map_err(|_| {
            tracing::error!(index = row.index, "an entry is no text");
            Problem::new(ErrorCode::Internal)
        })?;
        entries.push(LedgerEntry { index: row.index, leaf: bailiwick_core::Digest::from_bytes(row.leaf).to_string(), text: kept.then_some(text) });
    }
    Ok(axum::Json(LedgerPage { size: head.size, checkpoint: head.checkpoint.to_string(), minimum, entries }).into_response())
}
