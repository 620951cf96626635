//! How exports stand, for operators and auditors. They are configured in the file alone: nothing here makes or changes one.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bailiwick_core::Role;
use serde::Serialize;
use utoipa::ToSchema;

use super::asker::{Api, ByPerson, need};
use super::problem::Problem;
use crate::export::ExportStatus;

/// Every sink, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExportList {
    /// The number of entries in the ledger.
    size: u64,
    /// The sinks, those that are no longer configured but not forgotten included.
    exports: Vec<ExportStatus>,
}

/// How far each export has got, and why not further.
#[utoipa::path(
    get, path = "/v1/exports", tag = "record",
    responses((status = 200, description = "The exports.", body = ExportList)),
    security(("person" = [])),
)]
pub(super) async fn list(State(api): State<Arc<Api>>, by: ByPerson) -> Result<Response, Problem> {
    need(&by.person, &[Role::Operator, Role::Auditor], "ask an operator or an auditor")?;
    let size = api.house.store.head().size;
    let exports = api.house.export_status().await?;
    Ok(axum::Json(ExportList { size, exports }).into_response())
}
