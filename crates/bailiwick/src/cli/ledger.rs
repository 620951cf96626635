//! The record from the command line: verify the ledger, export it.

use std::path::{Path, PathBuf};

use bailiwick_ledger::export::{Directory, audit_kept};
use bailiwick_ledger::{Checkpoint, Origin, VerifierKey};
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{ApiClient, items};
use super::key_files::PersonKey;
use super::{Failure, Place, say};
use crate::ledger_access::{AccessError, Check, Verified, said_minimum};
use crate::shard::{Seams, root_before};

/// `bailiwick ledger`
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Verify every entry up to the signed root: of the store here, of the broker at --url, or of an exported directory.
    Verify {
        /// An exported directory.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// The log's public key. Default: `ledger.vkey` in the data directory.
        #[arg(long, value_name = "FILE")]
        vkey: Option<PathBuf>,
        #[command(flatten)]
        by: super::ledger_receipt::By,
    },
    /// Export the ledger as a directory of tiles (C2SP tlog-tiles) that anybody can verify.
    Export {
        /// The directory.
        dir: PathBuf,
    },
    /// Erase kept texts of calls. The ledger still verifies, and says who did it and why.
    Erase(super::ledger_erase::Erase),
    /// Prune what is older than the policy keeps to its hashes. The rest still verifies, and says how far it was pruned.
    Prune(super::ledger_prune::Prune),
    /// A receipt: the proof that a call or an entry is in the ledger, which holds without us (C2SP tlog-proof).
    Prove(super::ledger_receipt::Prove),
    /// A trust file to begin with: the log with all its shards, and the witnesses (C2SP tlog-policy).
    Policy,
    /// Witnesses that cosign what is published: add, remove, list.
    #[command(subcommand)]
    Witness(super::ledger_shard::WitnessCommand),
    /// Shards: where the ledger stands, and how it goes on when it cannot be continued.
    #[command(subcommand)]
    Shard(super::ledger_shard::ShardCommand),
    /// The signed head of the ledger.
    Checkpoint,
}

impl LedgerCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        match self {
            Self::Verify { vkey, by, .. } if by.receipt(place, vkey.as_deref())? => {}
            Self::Verify { dir, vkey, by } => {
                let trusted = by.policy()?.map(|policy| super::ledger_receipt::trusted(dir.as_deref(), &policy)).transpose()?;
                let vkey = match vkey {
                    Some(file) => file,
                    None => place.data_dir()?.join("ledger.vkey"),
                };
                let (whole, what) = match &dir {
                    Some(dir) => {
                        let (key, origin) = match &trusted {
                            Some(trusted) => (trusted.log.clone(), trusted.checkpoint.origin.clone()),
                            None => key(&vkey)?,
                        };
                        (verify_directory(dir, &origin, &key)?, dir.display().to_string())
                    }
                    None if place.url.is_some() => {
                        let api = ApiClient::of(place)?;
                        (verify_broker(&api, &place.person()?, &vkey).await?, api.url().to_owned())
                    }
                    None => (verify_kept(&place.data_dir()?, &vkey).await?, "the store".to_owned()),
                };
                // The checkpoint is read twice: what was believed must be what was looked at.
                if let (Some(trusted), Some(dir)) = (trusted.as_ref().filter(|trusted| trusted.checkpoint != whole.head), &dir) {
                    return Err(broken(dir, &format!("its checkpoint changed from {} entries meanwhile", trusted.checkpoint.size)));
                }
                let (size, pruned, root) = (whole.head.size, whole.minimum, whole.head.root.to_base64());
                if place.json {
                    say(json!({ "verified": true, "entries": size, "pruned": pruned, "root": root }));
                } else {
                    say(format_args!("{what} is whole: {size} entries lead to the signed root {root}"));
                    if let Some(trusted) = &trusted {
                        say(super::ledger_receipt::seen_by(trusted));
                    }
                    if pruned > 0 {
                        say(format_args!("the first {pruned} of them are pruned: their hashes are there, what they said is gone"));
                    }
                }
            }
            Self::Export { dir } => {
                let (from, to) = (place.data_dir()?, dir.clone());
                let exported = tokio::task::spawn_blocking(move || crate::ledger_access::export(&from, &to)).await;
                let size = exported.map_err(|e| Failure::new(e.to_string(), ""))?.map_err(|e| unverified(&dir, &e))?;
                if place.json {
                    say(json!({ "directory": dir, "entries": size }));
                } else {
                    say(format_args!(
                        "{size} entries in {}\nverify them anywhere: bailiwick ledger verify --dir {0} --vkey ledger.vkey",
                        dir.display()
                    ));
                }
            }
            Self::Erase(erase) => erase.run(place).await?,
            Self::Prune(prune) => prune.run(place).await?,
            Self::Prove(prove) => prove.run(place).await?,
            Self::Policy => super::ledger_receipt::policy(place).await?,
            Self::Witness(witness) => witness.run(place)?,
            Self::Shard(shard) => shard.run(place).await?,
            Self::Checkpoint => {
                let note = ApiClient::of(place)?.public("/v1/ledger/checkpoint").await?;
                say(String::from_utf8_lossy(&note).trim_end());
            }
        }
        Ok(())
    }
}

/// Verifies the store of a data directory; gives size and root. The store is only read.
pub(crate) async fn verify_store(data_dir: &Path, vkey: &Path) -> Result<(u64, String), Failure> {
    let head = verify_kept(data_dir, vkey).await?.head;
    Ok((head.size, head.root.to_base64()))
}

async fn verify_kept(data_dir: &Path, vkey: &Path) -> Result<Verified, Failure> {
    let (key, origin) = key(vkey)?;
    let dir = data_dir.to_path_buf();
    // It blocks, and may ask a broker that runs on this very thread.
    let verified = tokio::task::spawn_blocking(move || crate::ledger_access::verify_kept(&dir, &origin, &key)).await;
    verified.map_err(|e| Failure::new(e.to_string(), ""))?.map_err(|e| unverified(data_dir, &e))
}

/// Verifies an exported directory, which may be pruned if one of its entries says so.
fn verify_directory(dir: &Path, origin: &Origin, key: &VerifierKey) -> Result<Verified, Failure> {
    let (mut said, mut seams, files) = (0, Seams::default(), Directory::new(dir));
    let size = files.checkpoint().ok().and_then(|note| crate::witness::head_of(&note)).map_or(0, |head| head.size);
    let report = audit_kept(dir, origin, key, &[], |index, entry| {
        said = said.max(said_minimum(entry).unwrap_or_default());
        seams.look(index, entry, || root_before(&files, index, size));
    });
    let report = report.map_err(|e| broken(dir, &e.to_string()))?;
    seams.finish().map_err(|e| broken(dir, &e.to_string()))?;
    if report.minimum > said {
        return Err(broken(dir, &AccessError::Unsaid(report.minimum).to_string()));
    }
    let head = Checkpoint { origin: origin.clone(), size: report.size, root: report.root };
    Ok(Verified { head, minimum: report.minimum })
}

/// What could not be looked at is not broken.
fn unverified(data_dir: &Path, error: &AccessError) -> Failure {
    match error {
        AccessError::Absent(_) => Failure::new(error.to_string(), "name the broker's data directory: --data-dir"),
        AccessError::Running(_) => Failure::new(error.to_string(), "ask as an auditor: --url and --as; or stop the broker first"),
        AccessError::Journal(_) => {
            Failure::new(error.to_string(), "put `bailiwick.journal` back from the same copy as the database; see docs/guides/recovery.md")
        }
        AccessError::Key(_) | AccessError::System(_) | AccessError::Store(_) => Failure::new(error.to_string(), ""),
        _ => broken(data_dir, &error.to_string()),
    }
}

/// Verifies what a broker elsewhere says is its ledger.
async fn verify_broker(api: &ApiClient, who: &PersonKey, vkey: &Path) -> Result<Verified, Failure> {
    let (key, origin) = key(vkey)?;
    let wrong = |why: &str| broken(Path::new("it"), why);
    let page = api.get(who, "/v1/ledger/entries?from=0&to=0").await?;
    // The first answer says how far: what is appended meanwhile is for the next time.
    let note = page.get("checkpoint").and_then(Value::as_str).unwrap_or_default();
    let mut check = Check::new(note, &origin, &key).map_err(|e| wrong(&e.to_string()))?;
    let (size, mut next) = (check.size(), 0);
    while next < size {
        let page = api.get(who, &format!("/v1/ledger/entries?from={next}&to={size}")).await?;
        let before = next;
        for entry in items(&page, "entries") {
            let in_order = entry.get("index").and_then(Value::as_u64) == Some(next) && next < size;
            let leaf = entry.get("leaf").and_then(|l| l.as_str()?.parse::<bailiwick_core::Digest>().ok()).filter(|_| in_order);
            let leaf = leaf.ok_or_else(|| wrong(&format!("entry {next} is missing")))?;
            match entry.get("text").and_then(Value::as_str) {
                Some(text) => check.push(text.as_bytes(), leaf.as_bytes()).map_err(|e| wrong(&e.to_string()))?,
                None => check.push_pruned(leaf.as_bytes()),
            }
            next = next.saturating_add(1);
        }
        if next == before {
            return Err(wrong(&format!("it gives no entry {before} of {size}")));
        }
    }
    check.finish_kept().map_err(|e| wrong(&e.to_string()))
}

pub(super) fn key(file: &Path) -> Result<(VerifierKey, Origin), Failure> {
    let wrong =
        |why: String| Failure::new(format!("{}: {why}", file.display()), "the public key of the log is `ledger.vkey` in the broker's data directory");
    let text = std::fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
    let key: VerifierKey = text.trim().parse().map_err(|e: bailiwick_ledger::note::NoteError| wrong(e.to_string()))?;
    let origin = key.name().as_str().parse().map_err(|e: bailiwick_ledger::checkpoint::CheckpointError| wrong(e.to_string()))?;
    Ok((key, origin))
}

fn broken(place: &Path, why: &str) -> Failure {
    Failure::new(format!("THE LEDGER DOES NOT VERIFY: {why}"), format!("keep {} as it is, and compare it with an exported copy", place.display()))
}
