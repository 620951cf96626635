//! Exports from the command line: how each sink stands, and forgetting the place of one. Which sinks there are stands in the
//! configuration alone.

use bailiwick_core::Clock as _;
use bailiwick_store::{Entry, Options, Store, StoreError};
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{ApiClient, items};
use super::screen::{Style, table, text};
use super::{Failure, Place, say};
use crate::clock::SystemClock;
use crate::entry::{self, Body};
use crate::export::ExportStatus;
use crate::keys::Keys;

/// `bailiwick export`
#[derive(Debug, Subcommand)]
pub(crate) enum ExportCommand {
    /// How far each sink has got, and why not further.
    Status,
    /// Forget how far a sink has got: under this name it begins anew. For a sink that is no longer configured; not while a broker runs.
    Forget {
        /// The sink's name.
        name: String,
    },
}

impl ExportCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        match self {
            Self::Status => status(place).await,
            Self::Forget { name } => forget(place, &name).await,
        }
    }
}

async fn status(place: &Place) -> Result<(), Failure> {
    let stopped = if place.url.is_none() { open(place)? } else { None };
    let answer = match stopped {
        Some(store) => {
            let head = store.head().size;
            let cursors = store.exports().await;
            store.close().await;
            let cursors = cursors.map_err(|e| Failure::new(e.to_string(), "see docs/guides/recovery.md"))?;
            let stopped = |status: ExportStatus| ExportStatus { state: "stopped".to_owned(), ..status };
            let all: Vec<_> = cursors.into_iter().map(|c| stopped(ExportStatus::removed(c.name, c.next, head))).collect();
            json!({ "size": head, "exports": all })
        }
        None => ApiClient::of(place)?.get(&place.person()?, "/v1/exports").await?,
    };
    if place.json {
        say(&answer);
        return Ok(());
    }
    let style = Style::of_terminal();
    let number = |e: &Value, name: &str| e.get(name).and_then(Value::as_u64).unwrap_or_default().to_string();
    let all = items(&answer, "exports");
    let row = |e: &Value| {
        vec![
            text(e, "name"),
            text(e, "format"),
            text(e, "state"),
            number(e, "lag_entries"),
            number(e, "lag_seconds"),
            text(e, "target"),
            text(e, "error"),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    if rows.is_empty() {
        say(style.faint("no export is configured: see docs/guides/siem.md"));
    } else {
        say(table(&["name", "format", "state", "entries behind", "seconds behind", "to", "why"], &rows, style));
    }
    Ok(())
}

async fn forget(place: &Place, name: &str) -> Result<(), Failure> {
    let Some(store) = open(place)? else {
        return Err(Failure::new(
            "a broker is running on this data directory",
            "take the sink out of the configuration, stop the broker, and forget it then",
        ));
    };
    let key = name.to_owned();
    let body = entry::House { what: "export_forgotten", name: Some(name), digest: None };
    let known = match store.export(name).await {
        Ok(None) => Ok(false),
        Ok(Some(_)) => {
            let noted = Entry::new(<entry::House<'_> as Body>::WORD, entry::encode(SystemClock::start().now(), &body));
            store.change(noted, move |w| w.export_delete(&key)).await.map(|(_, was)| was)
        }
        Err(error) => Err(error),
    };
    store.close().await;
    if known.map_err(|e| Failure::new(e.to_string(), "see docs/guides/recovery.md"))? {
        say(format_args!("`{name}` is forgotten; if it is configured again, it begins anew"));
        Ok(())
    } else {
        Err(Failure::new(format!("there is no export `{}`", name.escape_debug()), "see which there are: bailiwick export status"))
    }
}

/// The store, if there is one and no broker has it.
fn open(place: &Place) -> Result<Option<Store>, Failure> {
    let data_dir = place.data_dir()?;
    if !data_dir.join("bailiwick.sqlite").exists() {
        return Err(Failure::new(format!("there is no ledger in `{}`", data_dir.display()), "give --data-dir, or --url of a running broker"));
    }
    let failed = |e: crate::house::StartError| Failure::new(e.to_string(), e.hint());
    crate::place::prepare(&data_dir).map_err(failed)?;
    let keys = Keys::load_or_make(&data_dir).map_err(failed)?;
    match Store::open_with(&data_dir, Box::new(keys.integrator().map_err(failed)?), Options { log_bytes: 0, readers: 1 }) {
        Ok(store) => Ok(Some(store)),
        Err(StoreError::Locked { .. }) => Ok(None),
        Err(error) => Err(Failure::new(error.to_string(), "see docs/guides/recovery.md")),
    }
}
