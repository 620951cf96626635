//! Witnesses and shards at the machine: `bailiwick ledger witness` and `bailiwick ledger shard`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::admin::config_failure;
use super::client::{ApiClient, items};
use super::screen::{Style, field, line, table, text};
use super::{Failure, Place, say};
use crate::config::{Config, WitnessEntry};
use crate::house::StartError;
use crate::shard::ShardError;
use crate::witness;

/// `bailiwick ledger witness`
#[derive(Debug, Subcommand)]
pub(crate) enum WitnessCommand {
    /// Have a witness cosign what is published, from the broker's next start on.
    Add {
        /// A name for it.
        name: String,
        /// Its public key, as `name+id+key`.
        key: String,
        /// Its submission prefix: `https://`, or `http://` to this machine.
        url: String,
    },
    /// Ask a witness no more that was added here, from the broker's next start on.
    Remove {
        /// Its name.
        name: String,
    },
    /// The witnesses, of the configuration and added here.
    List,
}

impl WitnessCommand {
    pub(crate) fn run(self, place: &Place) -> Result<(), Failure> {
        let data_dir = place.data_dir()?;
        let config = config(place)?;
        let ledger = config.as_ref().map(|c| &c.ledger);
        match self {
            Self::Add { name, key, url } => {
                let fault = |(what, hint): (String, &'static str)| Failure::new(what, hint);
                let all = witness::all(ledger, &data_dir).map_err(start)?;
                let entry = WitnessEntry::parse(&name, &key, &url, None).and_then(|entry| entry.beside(&all)).map_err(fault)?;
                let mut added = witness::added(&data_dir).map_err(start)?;
                added.push(entry);
                crate::place::prepare(&data_dir).map_err(start)?;
                witness::keep_added(&data_dir, &added).map_err(start)?;
                let vkey = std::fs::read_to_string(data_dir.join("ledger.vkey")).unwrap_or_default();
                say(format_args!("`{name}` is asked from the broker's next start on\nits operator must know this log: {}", vkey.trim()));
            }
            Self::Remove { name } => {
                let mut added = witness::added(&data_dir).map_err(start)?;
                let before = added.len();
                added.retain(|w| w.name != name);
                if added.len() == before {
                    let hint = "`bailiwick ledger witness list` shows them; one of the configuration is removed there";
                    return Err(Failure::new(format!("no witness `{}` was added here", line(&name)), hint));
                }
                witness::keep_added(&data_dir, &added).map_err(start)?;
                say(format_args!("`{name}` is asked no more from the broker's next start on"));
            }
            Self::List => {
                let all = witness::all(ledger, &data_dir).map_err(start)?;
                if place.json {
                    let row = |w: &WitnessEntry| json!({ "name": w.name, "key": w.key.to_string(), "url": w.url.as_str() });
                    say(Value::Array(all.iter().map(row).collect()));
                } else {
                    let rows: Vec<_> = all.iter().map(|w| vec![w.name.clone(), w.url.to_string(), w.key.to_string()]).collect();
                    say(if rows.is_empty() {
                        "there are no witnesses".to_owned()
                    } else {
                        table(&["NAME", "URL", "KEY"], &rows, Style::of_terminal())
                    });
                }
            }
        }
        Ok(())
    }
}

/// `bailiwick ledger shard`
#[derive(Debug, Subcommand)]
pub(crate) enum ShardCommand {
    /// Where the ledger stands: what is published, who cosigned it, what stopped it, and its shards.
    Status,
    /// Begin a new shard, with the broker stopped: the ledger goes on under a new name and key over the same entries.
    New {
        /// Why. It stays on record.
        #[arg(long)]
        reason: String,
        /// Begin one although this ledger could go on as it is, or although the store's journal is lost.
        #[arg(long)]
        even_so: bool,
    },
}

impl ShardCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        match self {
            Self::Status => {
                let status = ApiClient::of(place)?.get(&place.person()?, "/v1/ledger/status").await?;
                say(if place.json { status.to_string() } else { told(&status, Style::of_terminal()) });
            }
            Self::New { reason, even_so } => {
                let (data_dir, config) = (place.data_dir()?, config(place)?);
                let begun = crate::shard::begin(&data_dir, config.as_ref(), &reason, even_so).await.map_err(shard)?;
                if place.json {
                    say(
                        json!({ "number": begun.number, "origin": begun.origin, "vkey": begun.vkey, "first": begun.first, "known": begun.known, "found": begun.findings }),
                    );
                    return Ok(());
                }
                for finding in &begun.findings {
                    say(format_args!("found: {finding}"));
                }
                let lost = begun.known.saturating_sub(begun.first);
                if lost > 0 {
                    say(format_args!("{lost} entries that were signed are not in this store; keep the old publication, it is the evidence"));
                }
                say(format_args!("shard {} begins with entry {}: {}", begun.number, begun.first, begun.origin));
                say(format_args!("tell auditors and witnesses its key: {}", begun.vkey));
                say("start the broker: what was open in the older state is ended then");
            }
        }
        Ok(())
    }
}

fn told(status: &Value, style: Style) -> String {
    let of = |name: &str| text(status, name);
    let mut lines = vec![
        field("log", &of("origin")),
        field("key", &of("vkey")),
        field("entries", &format!("{}, {} of them published", of("size"), of("published"))),
    ];
    let cosigned: Vec<_> = items(status, "cosigned").iter().filter_map(Value::as_str).map(line).collect();
    lines.push(field("cosigned by", &if cosigned.is_empty() { "nobody".to_owned() } else { cosigned.join(", ") }));
    for shard in items(status, "shards") {
        lines.push(field(
            &format!("shard {}", text(shard, "number")),
            &format!("from entry {} on, since {}: {}", text(shard, "first"), text(shard, "at"), text(shard, "reason")),
        ));
    }
    for incident in items(status, "incidents") {
        lines.push(field("incident", &format!("{}: {}", text(incident, "at"), text(incident, "detail"))));
    }
    if status.get("stopped").is_some() {
        lines.insert(0, style.bad(&format!("NOTHING IS SIGNED AND NO CALL IS MADE: {}", of("stopped"))));
        lines.push("look into it; then stop the broker and begin a new shard: bailiwick ledger shard new --reason WHY".to_owned());
    }
    lines.join("\n")
}

/// The configuration, if there is one.
fn config(place: &Place) -> Result<Option<Config>, Failure> {
    let file = place.config_file()?;
    if !file.exists() {
        return Ok(None);
    }
    Config::load(&file).map(Some).map_err(config_failure)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn start(error: StartError) -> Failure {
    Failure::new(error.to_string(), error.hint())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn shard(error: ShardError) -> Failure {
    let hint = match &error {
        ShardError::Absent(_) => "name the broker's data directory: --data-dir",
        ShardError::Store(bailiwick_store::StoreError::Locked { .. }) => "stop the broker first",
        ShardError::Needless => "start the broker; or, if you want a new shard nevertheless: --even-so",
        ShardError::Start(error) => error.hint(),
        _ => "see docs/guides/recovery.md",
    };
    Failure::new(error.to_string(), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_was_stopped_says_so_first_and_what_to_do_last() {
        let status = json!({ "origin": "o", "vkey": "v", "size": 5, "published": 9, "cosigned": ["w.example/w+00"], "stopped": "set back",
            "shards": [{ "number": 2, "first": 5, "at": "T", "reason": "restored \u{1b}[2J" }], "incidents": [{ "at": "T", "detail": "the ledger was set back" }] });
        let told = told(&status, Style::plain());
        assert!(told.starts_with("NOTHING IS SIGNED") && told.ends_with("--reason WHY"), "{told}");
        assert!(!told.contains('\u{1b}'), "{told}");
    }
}
