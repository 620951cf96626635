//! A place that takes records: what each kind of it has in common, and why it may not take them.

use std::time::Duration;

use super::file::FileSink;
use super::http::HttpSink;
use super::otlp;
use super::record::{Record, Shape};
use super::syslog::SyslogSink;

/// Why records were not taken, in words that hold no secret.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct SinkError {
    what: String,
    /// The receiver asks for this pause.
    pub(super) pause: Option<Duration>,
    /// It would take fewer at once.
    pub(super) too_many: bool,
}

impl SinkError {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), pause: None, too_many: false }
    }
}

/// What became of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The sink has them.
    Done,
    /// Not these, and what was sent from this index on may be lost: begin again there.
    From(u64),
}

/// How records stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileForm {
    /// One a line.
    Events,
    /// One OTLP request a line.
    Otlp,
}

/// A place that takes records.
#[derive(Debug)]
pub(super) enum Sink {
    /// As events, or as lines of OTLP.
    File(FileSink, FileForm),
    Http(HttpSink),
    Syslog(SyslogSink),
}

impl Sink {
    /// Gives it records, in order.
    pub(super) async fn send(&mut self, origin: &str, records: &[Record]) -> Result<Sent, SinkError> {
        match self {
            Self::File(file, FileForm::Events) => file.send(records).await.map(|()| Sent::Done),
            Self::File(file, FileForm::Otlp) => file.append(otlp_lines(origin, records)).await.map(|()| Sent::Done),
            Self::Http(http) => http.send(origin, records).await.map(|()| Sent::Done),
            Self::Syslog(syslog) => syslog.send(records).await,
        }
    }

    /// The index before which nothing can be lost any more, if `position` is what was sent.
    pub(super) fn settled(&self, position: u64) -> u64 {
        match self {
            Self::File(..) | Self::Http(_) => position,
            Self::Syslog(syslog) => syslog.settled().unwrap_or(position).min(position),
        }
    }

    /// Ends in order, so that as much as possible is settled.
    pub(super) async fn close(&mut self) {
        if let Self::Syslog(syslog) = self {
            syslog.close().await;
        }
    }
}

/// One record a line.
pub(super) fn lines(records: &[Record]) -> String {
    let mut text = String::with_capacity(records.iter().map(|r| r.text.len().saturating_add(1)).sum());
    for record in records {
        text.push_str(&record.text);
        text.push('\n');
    }
    text
}

/// An OTLP export request with the records of one shape. `None` if there are none.
pub(super) fn otlp_request(origin: &str, records: &[Record], shape: Shape) -> Option<String> {
    let texts: Vec<&str> = records.iter().filter(|r| r.shape == shape).map(|r| r.text.as_str()).collect();
    if texts.is_empty() {
        return None;
    }
    let (all, scoped, each) =
        if shape == Shape::Span { ("resourceSpans", "scopeSpans", "spans") } else { ("resourceLogs", "scopeLogs", "logRecords") };
    let (resource, scope, texts) = (otlp::resource(origin), otlp::scope(), texts.join(","));
    Some(format!(r#"{{"{all}":[{{"resource":{resource},"{scoped}":[{{"scope":{scope},"{each}":[{texts}]}}]}}]}}"#))
}

//= https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/#json-lines-file
// Each line in a file is a valid JSON value.
fn otlp_lines(origin: &str, records: &[Record]) -> String {
    let mut text = String::new();
    for shape in [Shape::Span, Shape::Log] {
        if let Some(request) = otlp_request(origin, records, shape) {
            text.push_str(&request);
            text.push('\n');
        }
    }
    text
}
