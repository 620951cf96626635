//! From rows of the ledger to records that a sink takes, with what an entry refers to looked up once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bailiwick_core::Timestamp;
use bailiwick_store::{EntryRow, Store, StoreError};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::facts::Facts;
use super::{ocsf, otlp};
use crate::config::ExportFormat;

/// What is kept of intents, holds and tasks, each: beyond it, the store is asked.
const KEPT_MAX: usize = 4096;

/// One record on its way to a sink.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// The index of its entry.
    pub(super) index: u64,
    /// When the entry was made.
    pub(super) at: Timestamp,
    /// The entry's kind.
    pub(super) kind: String,
    /// As OCSF counts.
    pub(super) severity: u8,
    /// One JSON object, without a line break.
    pub(super) text: String,
    /// What it is.
    pub(super) shape: Shape,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One object of its own.
    Event,
    /// A span of OTLP.
    Span,
    /// A log record of OTLP.
    Log,
}

/// Makes records of one format.
#[derive(Debug)]
pub(super) struct Mapper {
    format: ExportFormat,
    intents: BTreeMap<u64, Arc<Value>>,
    holds: BTreeMap<String, Arc<Value>>,
    tasks: BTreeMap<String, Arc<Value>>,
}

impl Mapper {
    pub(super) const fn new(format: ExportFormat) -> Self {
        Self { format, intents: BTreeMap::new(), holds: BTreeMap::new(), tasks: BTreeMap::new() }
    }

    /// Reads a row, and keeps it if others may refer to it, whether or not it is sent itself.
    pub(super) fn read(&mut self, row: &EntryRow) -> Arc<Value> {
        let entry = parsed(row);
        if self.format == ExportFormat::Jsonl {
            return entry;
        }
        match kind(&entry) {
            "intent" => keep(&mut self.intents, row.index, Arc::clone(&entry)),
            "hold" => {
                if let Some(hold) = entry.get("hold").and_then(Value::as_str) {
                    keep(&mut self.holds, hold.to_owned(), Arc::clone(&entry));
                }
            }
            "task_opened" => {
                if let (Some(task), Some(opened)) = (row.task, entry.get("opened").cloned()) {
                    keep(&mut self.tasks, task.to_string(), Arc::new(opened));
                }
            }
            _ => {}
        }
        entry
    }

    /// The record of a row. `None` if the format has none for it.
    pub(super) async fn record(&mut self, store: &Store, origin: &str, row: &EntryRow, entry: &Value) -> Result<Option<Record>, StoreError> {
        let text = String::from_utf8_lossy(&row.body);
        let (cause, task) =
            if self.format == ExportFormat::Jsonl { (None, None) } else { (self.cause(store, row, entry).await?, self.task(store, row).await?) };
        let facts = Facts { origin, index: row.index, leaf: row.leaf, text: &text, entry, cause: cause.as_deref(), task: task.as_deref() };
        let (text, shape) = match self.format {
            ExportFormat::Ocsf => (unbroken(&ocsf::event(&facts).to_string()).into_owned(), Shape::Event),
            ExportFormat::Jsonl => (line(&facts), Shape::Event),
            ExportFormat::Otlp => match otlp::signal(&facts) {
                None => return Ok(None),
                Some(otlp::Signal::Span(span)) => (unbroken(&span.to_string()).into_owned(), Shape::Span),
                Some(otlp::Signal::Log(log)) => (unbroken(&log.to_string()).into_owned(), Shape::Log),
            },
        };
        Ok(Some(Record { index: row.index, at: facts.at(), kind: facts.kind().to_owned(), severity: ocsf::severity(&facts), text, shape }))
    }

    /// The entry that this one goes on from.
    async fn cause(&mut self, store: &Store, row: &EntryRow, entry: &Value) -> Result<Option<Arc<Value>>, StoreError> {
        match kind(entry) {
            "outcome" => {
                let Some(index) = row.closes.or_else(|| entry.get("intent")?.as_u64()) else { return Ok(None) };
                if let Some(intent) = self.intents.get(&index) {
                    return Ok(Some(Arc::clone(intent)));
                }
                Ok(store.entry(index).await?.as_ref().map(parsed))
            }
            "hold_step" => {
                let Some(hold) = entry.get("hold").and_then(Value::as_str) else { return Ok(None) };
                if let Some(held) = self.holds.get(hold) {
                    return Ok(Some(Arc::clone(held)));
                }
                let Some(call) = row.call.or_else(|| entry.get("call")?.as_str()?.parse().ok()) else { return Ok(None) };
                let found = store.entries_of_call(call).await?;
                let held = found.iter().map(parsed).find(|e| kind(e) == "hold" && e.get("hold").and_then(Value::as_str) == Some(hold));
                if let Some(held) = &held {
                    keep(&mut self.holds, hold.to_owned(), Arc::clone(held));
                }
                Ok(held)
            }
            _ => Ok(None),
        }
    }

    async fn task(&mut self, store: &Store, row: &EntryRow) -> Result<Option<Arc<Value>>, StoreError> {
        let Some(id) = row.task else { return Ok(None) };
        let name = id.to_string();
        if let Some(task) = self.tasks.get(&name) {
            return Ok(Some(Arc::clone(task)));
        }
        let Some(found) = store.task(id).await? else { return Ok(None) };
        let task = Arc::new(serde_json::to_value(&found.task)?);
        keep(&mut self.tasks, name, Arc::clone(&task));
        Ok(Some(task))
    }
}

/// Ids begin with their time, so the first is the oldest.
fn keep<K: Ord>(all: &mut BTreeMap<K, Arc<Value>>, key: K, value: Arc<Value>) {
    if all.len() >= KEPT_MAX {
        all.pop_first();
    }
    all.insert(key, value);
}

/// What an entry is about: the word in itself, not the store's own for finding it.
pub(super) fn kind(entry: &Value) -> &str {
    entry.get("kind").and_then(Value::as_str).unwrap_or_default()
}

/// What is no JSON is told without members rather than not at all.
fn parsed(row: &EntryRow) -> Arc<Value> {
    Arc::new(serde_json::from_slice(&row.body).unwrap_or(Value::Null))
}

/// An entry as it stands in the ledger, with its place. The leaf hash is over the bytes of `entry`; where those cannot stand in one
/// line for every reader, they stand in `text` as a string too.
fn line(facts: &Facts<'_>) -> String {
    let is_json = serde_json::from_str::<&RawValue>(facts.text).is_ok() && !facts.text.contains(['\n', '\r']);
    let place = json!({ "origin": facts.origin, "index": facts.index, "leaf": facts.leaf(), "uid": facts.uid() }).to_string();
    let entry = if is_json { unbroken(facts.text) } else { Cow::Borrowed("null") };
    let text = if entry == facts.text { String::new() } else { format!(",\"text\":{}", unbroken(&Value::from(facts.text).to_string())) };
    format!("{},\"entry\":{}{text}}}", place.trim_end_matches('}'), entry.trim())
}

/// JSON in which nothing stands that any reader takes for the end of a line: some know NEL and the separators of Unicode as such.
/// JSON has them only in strings.
fn unbroken(json: &str) -> Cow<'_, str> {
    const BREAKS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];
    if !json.contains(BREAKS) {
        return Cow::Borrowed(json);
    }
    Cow::Owned(json.replace('\u{85}', "\\u0085").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts<'a>(text: &'a str, entry: &'a Value) -> Facts<'a> {
        Facts { origin: "ledger.example/2026", index: 7, leaf: [9; 32], text, entry, cause: None, task: None }
    }

    #[test]
    fn an_entry_keeps_its_exact_bytes_so_that_its_leaf_can_be_computed() {
        let text = r#"{"v":1,  "kind":"house","n":1.50,"what":"x\ny"}"#;
        let line = line(&facts(text, &Value::Null));
        assert!(line.ends_with(&format!(",\"entry\":{text}}}")), "{line}");
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&read["index"], &read["uid"]), (&json!(7), &json!("ledger.example/2026/7")));
    }

    #[test]
    fn what_is_no_json_or_not_one_line_for_everybody_is_one_line_all_the_same() {
        for text in ["{\n}", "not json", "", "{\"a\":1}\r\n{\"b\":2}", "{\"a\":\"x\u{85}y\u{2028}z\u{2029}\"}"] {
            let line = line(&facts(text, &Value::Null));
            assert!(!line.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}', '\u{b}', '\u{c}']), "{line}");
            let read: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(read["text"], text);
            let entry: Value = if text.contains("\u{85}") { serde_json::from_str(text).unwrap() } else { Value::Null };
            assert_eq!(read["entry"], entry);
        }
    }
}
