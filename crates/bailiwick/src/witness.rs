//! Witnesses: looked at before anything is signed, and asked in the background to cosign what is published. Never in a call's way.

mod line;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bailiwick_ledger::export::Directory;
use bailiwick_ledger::note::Signature;
use bailiwick_ledger::witness::{AddCheckpoint, Answer};
use bailiwick_ledger::{Checkpoint, Note, TrustPolicy, consistency_proof};
use bailiwick_store::StoreError;
use tokio::time::Instant;

use crate::config::{LedgerConfig, WitnessEntry};
use crate::house::StartError;
use crate::place::write_private;
use crate::shard::{Departure, Finding, Lineage, tiles_of};
use line::Line;

/// A witness that failed is asked again after this, then after twice as long, and so on.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// A witness may say so many times in one exchange that it has another size than we thought.
const SIZES_MAX: usize = 3;
/// The witnesses that were added at the machine, in the data directory, as a tlog-policy.
const FILE: &str = "witnesses.policy";

/// The witnesses, and where each of them stands.
#[derive(Debug)]
pub struct Witnesses {
    line: Line,
    standing: tokio::sync::Mutex<Vec<Standing>>,
    names: Vec<String>,
}

/// Where a witness stands.
#[derive(Debug)]
struct Standing {
    entry: WitnessEntry,
    /// The size that it cosigned last, as far as we know.
    size: u64,
    /// Has it cosigned anything in this run? From then on its bare word, which it does not sign, stops nothing.
    agreed: bool,
    failures: u32,
    due: Instant,
}

/// What became of asking one witness.
#[derive(Debug)]
enum Asked {
    Cosigned(Vec<Signature>),
    /// It has something else than we have, or says so.
    Departed(Finding),
    Failed(String),
}

/// What came of asking those that were due.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// Cosignature lines, with the ids of the keys.
    pub(crate) lines: Vec<(String, Signature)>,
    /// What stops the pen.
    pub(crate) stops: Vec<Finding>,
    /// What is an incident, and stops nothing.
    pub(crate) words: Vec<Finding>,
}

/// The witnesses that were added at the machine.
///
/// # Errors
/// If the file is not what this program wrote.
pub fn added(data_dir: &Path) -> Result<Vec<WitnessEntry>, StartError> {
    let path = data_dir.join(FILE);
    let fault = |why: &dyn std::fmt::Display| StartError::place(path.display().to_string(), why);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fault(&error)),
    };
    let policy = TrustPolicy::parse(&text).map_err(|e| fault(&e))?;
    let mut all: Vec<WitnessEntry> = Vec::with_capacity(policy.witnesses().len());
    for witness in policy.witnesses() {
        let name = std::str::from_utf8(witness.name()).map_err(|e| fault(&e))?;
        let url = witness.url().ok_or_else(|| fault(&format!("`{name}` has no URL")))?;
        let entry = WitnessEntry::parse(name, &witness.key().to_string(), url, None).and_then(|entry| entry.beside(&all));
        all.push(entry.map_err(|(what, _)| fault(&what))?);
    }
    Ok(all)
}

/// Keeps the witnesses that were added at the machine.
///
/// # Errors
/// The file system's.
pub fn keep_added(data_dir: &Path, all: &[WitnessEntry]) -> Result<(), StartError> {
    let lines: String = all.iter().map(|w| format!("witness {} {} {}\n", w.name, w.key, w.url)).collect();
    let path = data_dir.join(FILE);
    let text = format!("# Added by `bailiwick ledger witness add`. Read at the start of the broker.\n{lines}quorum none\n");
    write_private(&path, text.as_bytes()).map_err(|e| StartError::place(path.display().to_string(), e))
}

/// All witnesses: those of the configuration, and those that were added at the machine.
///
/// # Errors
/// If the file is wrong, or one is named twice.
pub fn all(config: Option<&LedgerConfig>, data_dir: &Path) -> Result<Vec<WitnessEntry>, StartError> {
    let mut all = config.map(|c| c.witnesses.clone()).unwrap_or_default();
    for entry in added(data_dir)? {
        let entry = entry.beside(&all).map_err(|(what, _)| StartError::place(data_dir.join(FILE).display().to_string(), what))?;
        all.push(entry);
    }
    Ok(all)
}

impl Witnesses {
    /// Those of configuration and data directory.
    ///
    /// # Errors
    /// As [`all`]; or if TLS cannot be set up.
    pub fn configured(config: Option<&LedgerConfig>, data_dir: &Path) -> Result<Self, StartError> {
        Self::new(all(config, data_dir)?)
    }

    pub(crate) fn new(entries: Vec<WitnessEntry>) -> Result<Self, StartError> {
        let names = entries.iter().map(|entry| entry.name.clone()).collect();
        let standing = |entry| Standing { entry, size: 0, agreed: false, failures: 0, due: Instant::now() };
        let standing = tokio::sync::Mutex::new(entries.into_iter().map(standing).collect());
        Ok(Self { line: Line::new()?, standing, names })
    }

    /// Are there none?
    pub(crate) const fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Before anything is signed in this run: has any of them cosigned what the store cannot continue? A witness that does not answer
    /// holds nothing up.
    pub(crate) async fn first_look(&self, lineage: &Lineage<'_>, data_dir: &Path) -> Result<Vec<Finding>, StoreError> {
        let head = lineage.store.head();
        let Ok(note) = Note::parse(&head.checkpoint) else { return Ok(Vec::new()) };
        if head.size == 0 || self.is_empty() {
            return Ok(Vec::new());
        }
        let mut standing = self.standing.lock().await;
        let looks = standing.iter_mut().map(|one| self.look(one, lineage, &note, head.size, data_dir));
        let found = futures_util::future::join_all(looks).await;
        let mut findings = Vec::new();
        for found in found {
            findings.extend(found?);
        }
        Ok(findings)
    }

    async fn look(&self, one: &mut Standing, lineage: &Lineage<'_>, note: &Note, ours: u64, data_dir: &Path) -> Result<Option<Finding>, StoreError> {
        let name = one.entry.name.clone();
        let tiles = tiles_of(data_dir, lineage.origin);
        match self.line.shown(&one.entry, lineage.origin, lineage.key, line::FIRST_LOOK).await {
            Ok(Some((shown, text))) => {
                one.size = shown.size;
                let departs = lineage.judge(&shown, &tiles).await?;
                if let Some(what) = departs {
                    return Ok(Some(Finding { place: place(&name), what, note: Some(text) }));
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(witness = %name, %error, "a witness did not show what it cosigned"),
        }
        // It may show an older one than it cosigned last. Which size it has, it says when it is asked with none.
        let Ok(request) = AddCheckpoint::new(0, Vec::new(), note.clone()) else { return Ok(None) };
        match self.line.add(&one.entry, &request, line::FIRST_LOOK).await {
            Ok(Answer::Size(size)) if size > ours => {
                return Ok(Some(Finding { place: place(&name), what: Departure::Word { size: Some(size) }, note: None }));
            }
            Ok(Answer::Size(size)) => one.size = size,
            Ok(Answer::Cosigned { .. }) => one.size = ours,
            Ok(answer) => tracing::warn!(witness = %name, ?answer, "a witness does not cosign"),
            Err(error) => tracing::warn!(witness = %name, %error, "a witness could not be asked before the start"),
        }
        Ok(None)
    }

    /// Asks those that are due to cosign the published head, all at once.
    pub(crate) async fn ask(
        &self,
        lineage: &Lineage<'_>,
        note: &Note,
        size: u64,
        have: &BTreeSet<String>,
        tiles: &Path,
    ) -> Result<Round, StoreError> {
        let mut standing = self.standing.lock().await;
        let now = Instant::now();
        let due = standing.iter_mut().filter(|one| one.due <= now && !have.contains(&one.entry.key_id()));
        let asked = due.map(|one| async {
            let asked = self.ask_one(one, lineage, note, size, tiles).await;
            (one, asked)
        });
        let mut round = Round::default();
        for (one, asked) in futures_util::future::join_all(asked).await {
            let name = one.entry.name.clone();
            let asked = asked?;
            if let Asked::Cosigned(lines) = asked {
                (one.size, one.agreed, one.failures, one.due) = (size, true, 0, now);
                round.lines.extend(lines.into_iter().map(|line| (one.entry.key_id(), line)));
                metrics::gauge!("bailiwick_ledger_witness_size", "witness" => name.clone()).set(gauge(size));
                metrics::gauge!("bailiwick_ledger_witness_failing", "witness" => name).set(0.0);
                continue;
            }
            one.failures = one.failures.saturating_add(1);
            let pause = pause(one.failures);
            one.due = Instant::now() + pause;
            metrics::counter!("bailiwick_ledger_witness_failures_total", "witness" => name.clone()).increment(1);
            metrics::gauge!("bailiwick_ledger_witness_failing", "witness" => name.clone()).set(1.0);
            match asked {
                Asked::Departed(finding) if one.agreed && finding.note.is_none() => round.words.push(finding),
                Asked::Departed(finding) => round.stops.push(finding),
                Asked::Failed(why) => {
                    tracing::warn!(witness = %name, why, failures = one.failures, again_seconds = pause.as_secs(), "a witness did not cosign");
                }
                Asked::Cosigned(_) => {}
            }
        }
        Ok(round)
    }

    /// When the next one is due that has not cosigned this yet. `None` if all have.
    pub(crate) async fn next_due(&self, size: u64) -> Option<Instant> {
        self.standing.lock().await.iter().filter(|one| one.size < size || one.failures > 0).map(|one| one.due).min()
    }

    async fn ask_one(&self, one: &Standing, lineage: &Lineage<'_>, note: &Note, size: u64, tiles: &Path) -> Result<Asked, StoreError> {
        let mut old = one.size.min(size);
        for _ in 0..SIZES_MAX {
            let directory = Directory::new(tiles);
            let proof = tokio::task::spawn_blocking(move || consistency_proof(&directory, old, size)).await;
            let proof = match proof {
                Ok(Ok(proof)) => proof,
                Ok(Err(error)) => return Ok(Asked::Failed(format!("no consistency proof from {old} to {size}: {error}"))),
                Err(error) => return Ok(Asked::Failed(error.to_string())),
            };
            let request = match AddCheckpoint::new(old, proof, note.clone()) {
                Ok(request) => request,
                Err(error) => return Ok(Asked::Failed(error.to_string())),
            };
            match self.line.add(&one.entry, &request, line::WITHIN).await {
                Ok(Answer::Cosigned { lines, .. }) => return Ok(Asked::Cosigned(lines)),
                Ok(Answer::Size(has)) if has > size => return self.departed(one, lineage, Some(has), tiles).await,
                // Version 1.0.0 of the protocol answers so to another root of the same size; later ones with 422.
                Ok(Answer::Size(has)) if has == old && has == size => return self.departed(one, lineage, None, tiles).await,
                Ok(Answer::Size(has)) if has == old => return Ok(Asked::Failed(format!("it refuses size {has} and says that it has size {has}"))),
                Ok(Answer::Size(has)) => old = has,
                Ok(Answer::Inconsistent) => return self.departed(one, lineage, None, tiles).await,
                Ok(Answer::UnknownLog) => {
                    return Ok(Asked::Failed("it does not know this log: its operator adds the key of `ledger.vkey`".to_owned()));
                }
                Ok(Answer::NotTrusted) => return Ok(Asked::Failed("it knows this log under another key".to_owned())),
                Ok(Answer::NotUnderstood) => return Ok(Asked::Failed("it did not understand the request".to_owned())),
                Err(error) => return Ok(Asked::Failed(error)),
            }
        }
        Ok(Asked::Failed("it says another size each time".to_owned()))
    }

    /// It says that it has something else. What it shows decides, if our own key signed it; else there is only its word.
    async fn departed(&self, one: &Standing, lineage: &Lineage<'_>, size: Option<u64>, tiles: &Path) -> Result<Asked, StoreError> {
        let place = place(&one.entry.name);
        match self.line.shown(&one.entry, lineage.origin, lineage.key, line::WITHIN).await {
            Ok(Some((shown, text))) => match lineage.judge(&shown, tiles).await? {
                Some(what) => Ok(Asked::Departed(Finding { place, what, note: Some(text) })),
                // What it shows is older than what it claims, if it is honest. It does not say why it refuses.
                None if shown.size < size.unwrap_or_default() => Ok(Asked::Departed(Finding { place, what: Departure::Word { size }, note: None })),
                None => Ok(Asked::Failed("it refuses, and shows a checkpoint that is the beginning of ours".to_owned())),
            },
            Ok(None) | Err(_) => Ok(Asked::Departed(Finding { place, what: Departure::Word { size }, note: None })),
        }
    }
}

impl WitnessEntry {
    /// The id of its key, by which cosignatures are counted.
    pub(crate) fn key_id(&self) -> String {
        format!("{}+{:08x}", self.key.name(), u32::from_be_bytes(self.key.id()))
    }
}

/// How long a witness is left alone that failed so many times in a row.
fn pause(failures: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX)
}

fn place(name: &str) -> String {
    format!("witness `{name}`")
}

/// A size as a gauge takes it: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a metric")]
pub(crate) const fn gauge(size: u64) -> f64 {
    size as f64
}

/// The head of a note that is known to be well-formed.
pub(crate) fn head_of(note: &str) -> Option<Checkpoint> {
    Note::parse(note).ok().and_then(|note| Checkpoint::parse(note.text().as_str()).ok())
}

#[cfg(test)]
pub(crate) mod tests;
