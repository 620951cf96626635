//! Entries of the ledger, told to other systems: one worker for each sink tails the ledger, so that a sink that is stuck delays
//! nothing else. Each keeps a cursor in the store and moves it only when its sink has what was sent: at least once, in order.
//!
//! A record carries the log's name and the entry's index as its id, the same in every copy, so that a receiver can drop duplicates.

mod facts;
mod file;
mod http;
pub(crate) mod net;
pub mod ocsf;
mod origins;
pub mod otlp;
mod progress;
mod record;
mod sink;
mod syslog;
mod worker;

use std::sync::Arc;

use bailiwick_core::Timestamp;
use bailiwick_credentials::{Injection, Part, Secret};
use tokio::sync::OnceCell;

pub use facts::Facts;
pub use progress::{ExportStatus, Progress};

use crate::config::{ExportEntry, ExportFormat, ExportFrom, ExportSink, Value};
use crate::house::{House, StartError};

use self::file::FileSink;
use self::http::{HttpForm, HttpSink};
use self::origins::Origins;
use self::sink::{FileForm, Sink};
use self::syslog::SyslogSink;
use self::worker::Worker;

/// The sinks of a house.
#[derive(Debug, Default)]
pub struct Exports {
    started: OnceCell<Vec<Arc<Progress>>>,
}

impl Exports {
    /// The sinks that are configured; none before they are started.
    #[must_use]
    pub fn all(&self) -> &[Arc<Progress>] {
        self.started.get().map_or(&[], Vec::as_slice)
    }
}

impl House {
    /// Starts one worker for each configured sink.
    ///
    /// # Errors
    /// A sink that can never work, such as one whose secret is not set; or the store's.
    pub(crate) async fn start_exports(self: &Arc<Self>) -> Result<(), StartError> {
        if self.config.exports.is_empty() {
            return Ok(());
        }
        let origins = Arc::new(Origins::read(&self.store).await?);
        let mut all = Vec::with_capacity(self.config.exports.len());
        let mut workers = Vec::with_capacity(self.config.exports.len());
        for entry in &self.config.exports {
            let sink = self.sink(entry).await?;
            let cursor = self.store.export(&entry.name).await?;
            let begin = match (&cursor, entry.from) {
                // Never beyond the end, where entries that come would be passed over.
                (Some(cursor), _) => cursor.next.min(self.store.head().size),
                (None, ExportFrom::Start) => 0,
                (None, ExportFrom::Now) => self.store.head().size,
            };
            // Where a new sink begins is decided once, and not anew at each start until something was sent.
            if cursor.is_none() {
                let (name, now) = (entry.name.clone(), self.clock.now());
                self.store.write(move |w| w.export_put(&name, begin, now)).await?;
            }
            let progress = Arc::new(Progress::new(entry, begin));
            workers.push(Worker::new(Arc::clone(self), entry.clone(), sink, Arc::clone(&origins), Arc::clone(&progress), begin));
            all.push(progress);
        }
        if self.exports.started.set(all).is_err() {
            return Ok(());
        }
        for worker in workers {
            self.workers.spawn(worker.run());
        }
        let house = Arc::clone(self);
        self.workers.spawn(async move { house.count_exports().await });
        Ok(())
    }

    /// How every sink stands, those that are no longer configured but not forgotten included.
    ///
    /// # Errors
    /// The store's.
    pub async fn export_status(&self) -> Result<Vec<ExportStatus>, bailiwick_store::StoreError> {
        let (head, now) = (self.store.head().size, self.clock.now());
        let mut all: Vec<ExportStatus> = self.exports.all().iter().map(|p| p.status(head, now)).collect();
        for cursor in self.store.exports().await? {
            if !all.iter().any(|s| s.name == cursor.name) && !cursor.name.starts_with("events:") {
                all.push(ExportStatus::removed(cursor.name, cursor.next, head));
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    async fn sink(&self, entry: &ExportEntry) -> Result<Sink, StartError> {
        let fault = |why: String| StartError::Export(entry.name.clone(), why);
        Ok(match &entry.sink {
            ExportSink::File { path, rotate_bytes, keep } => {
                let form = if entry.format == ExportFormat::Otlp { FileForm::Otlp } else { FileForm::Events };
                Sink::File(FileSink::new(path.clone(), *rotate_bytes, *keep), form)
            }
            ExportSink::Http { url, headers, bearer, body, link } => {
                let mut injection = Injection::default();
                for (name, value) in headers {
                    let part = match value {
                        Value::Literal(text) => Part::literal(text),
                        Value::Secret(secret) | Value::Imported(secret) => Part::secret(self.export_secret(entry, secret).await?),
                    };
                    injection.add_header(name, part).map_err(|e| fault(e.to_string()))?;
                }
                if let Some(secret) = bearer {
                    let parts = vec![Part::literal("Bearer "), Part::secret(self.export_secret(entry, secret).await?)];
                    injection.add_header("Authorization", parts).map_err(|e| fault(e.to_string()))?;
                }
                let form = if entry.format == ExportFormat::Otlp { HttpForm::Otlp } else { HttpForm::Events(*body) };
                Sink::Http(HttpSink::new(&entry.name, url, form, injection, link).map_err(fault)?)
            }
            ExportSink::Syslog { transport, host, port, facility, hostname, link } => {
                Sink::Syslog(SyslogSink::new(*transport, (host, *port), *facility, hostname.clone(), link).map_err(fault)?)
            }
        })
    }

    async fn export_secret(&self, entry: &ExportEntry, name: &str) -> Result<Secret, StartError> {
        let fault = |why: String| StartError::Export(entry.name.clone(), why);
        let sealed = self.store.secret(name).await?.ok_or_else(|| fault(format!("the secret `{name}` is not set: `bailiwick secret set {name}`")))?;
        self.sealer().open(name, &sealed).map_err(|e| fault(format!("the secret `{name}`: {e}")))
    }

    /// Keeps the gauges true while a worker waits for its sink.
    async fn count_exports(&self) {
        let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.gauge_exports(self.clock.now());
        }
    }

    /// Sets the gauges of every sink.
    pub(crate) fn gauge_exports(&self, now: Timestamp) {
        let head = self.store.head().size;
        for progress in self.exports.all() {
            progress.gauge(&progress.status(head, now));
        }
    }
}
