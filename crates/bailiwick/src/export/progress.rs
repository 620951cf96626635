//! How far a sink has got, and why not further: written by its worker, read by whoever asks.

use std::sync::{Mutex, PoisonError};

use bailiwick_core::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::ExportEntry;

/// How far a sink has got.
#[derive(Debug)]
pub struct Progress {
    name: String,
    format: &'static str,
    target: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The index of the first entry that was not sent.
    next: u64,
    /// When the first entry that was not sent was made, as far as it was looked at.
    waiting_since: Option<Timestamp>,
    sent: u64,
    failures: u64,
    /// Entries that were gone before they could be sent.
    missed: u64,
    error: Option<String>,
    failing_since: Option<Timestamp>,
}

/// How a sink stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportStatus {
    /// Its name in the configuration.
    pub name: String,
    /// `current` (it has everything), `behind` (it is being sent what it has not), `stuck` (the last attempt failed), or `removed` (it
    /// is no longer configured, and its place is kept).
    pub state: String,
    /// What it is sent: `ocsf`, `otlp` or `jsonl`.
    pub format: Option<String>,
    /// Where, without secrets.
    pub target: Option<String>,
    /// The index of the first entry that it was not sent.
    pub next: u64,
    /// How many entries it was not sent.
    pub lag_entries: u64,
    /// How old the first of them is, in seconds.
    pub lag_seconds: u64,
    /// Records that it was sent since the broker started.
    pub sent: u64,
    /// Attempts that failed since the broker started.
    pub failures: u64,
    /// Entries that were gone before they could be sent.
    pub missed: u64,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// Since when attempts fail.
    #[schema(value_type = Option<String>)]
    pub failing_since: Option<Timestamp>,
}

impl ExportStatus {
    /// A sink that is no longer configured.
    #[must_use]
    pub fn removed(name: String, next: u64, head: u64) -> Self {
        Self {
            name,
            state: "removed".to_owned(),
            format: None,
            target: None,
            next,
            lag_entries: head.saturating_sub(next),
            lag_seconds: 0,
            sent: 0,
            failures: 0,
            missed: 0,
            error: None,
            failing_since: None,
        }
    }
}

impl Progress {
    pub(super) fn new(entry: &ExportEntry, next: u64) -> Self {
        let state = State { next, waiting_since: None, sent: 0, failures: 0, missed: 0, error: None, failing_since: None };
        Self { name: entry.name.clone(), format: entry.format.word(), target: entry.sink.target(), state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sink's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next entry to send is this old.
    pub(super) fn waits_since(&self, at: Timestamp) {
        self.state().waiting_since = Some(at);
    }

    /// Everything before `next` was sent, `records` of it just now. True if attempts failed before.
    pub(super) fn sent(&self, next: u64, records: u64) -> bool {
        let mut state = self.state();
        state.next = next;
        state.waiting_since = None;
        state.sent = state.sent.saturating_add(records);
        state.error = None;
        metrics::counter!("bailiwick_export_records_total", "export" => self.name.clone()).increment(records);
        state.failing_since.take().is_some()
    }

    /// What was sent from here on is sent again.
    pub(super) fn back_to(&self, next: u64) {
        self.state().next = next;
    }

    /// Entries were gone before they could be sent.
    pub(super) fn missed(&self, entries: u64) {
        let mut state = self.state();
        state.missed = state.missed.saturating_add(entries);
        metrics::counter!("bailiwick_export_missed_total", "export" => self.name.clone()).increment(entries);
    }

    /// An attempt failed. True if that is news.
    pub(super) fn failed(&self, why: &str, now: Timestamp) -> bool {
        let mut state = self.state();
        let news = state.error.as_deref() != Some(why);
        state.failures = state.failures.saturating_add(1);
        state.error = Some(why.to_owned());
        state.failing_since.get_or_insert(now);
        metrics::counter!("bailiwick_export_failures_total", "export" => self.name.clone()).increment(1);
        news
    }

    /// How it stands before a ledger of `head` entries.
    #[must_use]
    pub fn status(&self, head: u64, now: Timestamp) -> ExportStatus {
        let state = self.state();
        let lag = head.saturating_sub(state.next);
        let word = match (&state.error, lag) {
            (Some(_), _) => "stuck",
            (None, 0) => "current",
            (None, _) => "behind",
        };
        let waiting = state.waiting_since.filter(|_| lag > 0);
        ExportStatus {
            name: self.name.clone(),
            state: word.to_owned(),
            format: Some(self.format.to_owned()),
            target: Some(self.target.clone()),
            next: state.next,
            lag_entries: lag,
            lag_seconds: waiting.map_or(0, |since| since.until(now).as_secs()),
            sent: state.sent,
            failures: state.failures,
            missed: state.missed,
            error: state.error.clone(),
            failing_since: state.failing_since,
        }
    }

    /// Sets its gauges.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; a lag beyond 2^52 is not told apart from its neighbours")]
    pub(super) fn gauge(&self, status: &ExportStatus) {
        metrics::gauge!("bailiwick_export_lag_entries", "export" => self.name.clone()).set(status.lag_entries as f64);
        metrics::gauge!("bailiwick_export_lag_seconds", "export" => self.name.clone()).set(status.lag_seconds as f64);
        metrics::gauge!("bailiwick_export_stuck", "export" => self.name.clone()).set(if status.state == "stuck" { 1.0 } else { 0.0 });
    }
}
