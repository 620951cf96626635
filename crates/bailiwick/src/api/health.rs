//! Is the process alive, can it take calls, and what has it counted. For probes and scrapers: without proof, and without a secret.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bailiwick_core::{ErrorCode, Role};
use http::{HeaderValue, StatusCode, header};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::Serialize;
use utoipa::ToSchema;

use super::asker::{Api, ByPerson, has};
use super::problem::Problem;
use super::registry::word;
use crate::house::House;
use crate::upstream;

/// The writer answers within this, or it is stuck.
const STORE_WITHIN: Duration = Duration::from_secs(2);

/// Can it take calls?
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// Yes or no.
    ready: bool,
    /// Why not, in words without detail. What is wrong with the record is told to operators and auditors who prove themselves.
    reasons: Vec<String>,
    /// How many systems stand how, without names. One that is down does not make the broker unready: the others' calls pass.
    systems: std::collections::BTreeMap<&'static str, usize>,
    /// How many exports stand how, without names. One that is stuck does not make the broker unready: it freezes nothing.
    exports: std::collections::BTreeMap<String, usize>,
    /// Entries that the slowest export was not sent.
    export_lag_entries: u64,
    /// How old the oldest entry is that some export was not sent, in seconds.
    export_lag_seconds: u64,
}

/// What was counted. The recorder is installed at the first call; a second recorder of the process is never replaced.
pub fn metrics_handle() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another recorder of metrics is installed: /metrics stays empty");
        }
        handle
    })
}

/// Does the process live?
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, description = "It lives.", body = String)))]
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Can it take calls? The store takes appends, it is not stopping, and every system was tried at least once.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses((status = 200, description = "It can.", body = Readiness), (status = 503, description = "It cannot, and why.", body = Readiness)),
)]
pub(super) async fn ready(State(api): State<Arc<Api>>, by: Result<ByPerson, Problem>) -> Response {
    let told = by.is_ok_and(|by| has(&by.person, &[Role::Operator, Role::Auditor]));
    let readiness = readiness(&api.house, told).await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(readiness)).into_response()
}

async fn readiness(house: &House, told: bool) -> Readiness {
    let mut reasons = Vec::new();
    if house.stop.is_cancelled() {
        reasons.push("the broker is stopping".to_owned());
    }
    if let Some(why) = house.pen.stopped() {
        let why = if told { &*why } else { ErrorCode::AuditUnavailable.slug() };
        reasons.push(format!("nothing is signed and no call is made: {why}"));
    }
    if house.store.is_failing() {
        reasons.push("the store could not write: calls are refused until it can".to_owned());
    }
    if house.config.retention.required && house.payloads.is_failing() {
        reasons.push("texts of calls could not be kept: acting calls are refused until they can be".to_owned());
    }
    if house.config.retention.required && house.payloads.is_full() {
        reasons.push("texts of calls have no room left: acting calls are refused until older ones expire, are erased, or may have more".to_owned());
    }
    // Through the writer's own queue, and with nothing to write: no disk is waited for unless the writer waits for one.
    match tokio::time::timeout(STORE_WITHIN, house.store.write(|_| Ok(()))).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => reasons.push(format!("the store does not take appends: {}", error.public())),
        Err(_) => reasons.push("the store does not take appends: its writer does not answer".to_owned()),
    }
    let registry = house.registry.load();
    let mut systems = std::collections::BTreeMap::new();
    for system in registry.systems.values() {
        let count: &mut usize = systems.entry(word(&system.upstream.status())).or_default();
        *count = count.saturating_add(1);
    }
    if let Some(starting) = systems.get(word(&upstream::Status::Starting)) {
        reasons.push(format!("systems that are starting: {starting}"));
    }
    let (head, now) = (house.store.head().size, house.clock.now());
    let mut exports = std::collections::BTreeMap::new();
    let (mut export_lag_entries, mut export_lag_seconds) = (0, 0);
    for status in house.exports.all().iter().map(|p| p.status(head, now)) {
        export_lag_entries = status.lag_entries.max(export_lag_entries);
        export_lag_seconds = status.lag_seconds.max(export_lag_seconds);
        let count: &mut usize = exports.entry(status.state).or_default();
        *count = count.saturating_add(1);
    }
    Readiness { ready: reasons.is_empty(), reasons, systems, exports, export_lag_entries, export_lag_seconds }
}

/// What was counted, in Prometheus' text form.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, description = "Counters, gauges and histograms.", body = String)))]
pub(super) async fn counted() -> Response {
    let handle = metrics_handle();
    handle.run_upkeep();
    let mut response = handle.render().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}
