//! The record from the command line: verify the ledger, export it.

use std::path::{Path, PathBuf};

use bailiwick_ledger::export::verify;
use bailiwick_ledger::{Checkpoint, Origin, Tiler, VerifierKey, leaf_hash};
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{ApiClient, items};
use super::key_files::PersonKey;
use super::{Failure, Place, say};
use crate::ledger_access::AccessError;

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
    },
    /// Export the ledger as a directory of tiles (C2SP tlog-tiles) that anybody can verify.
    Export {
        /// The directory.
        dir: PathBuf,
    },
    /// Erase kept texts of calls. The ledger still verifies, and says who did it and why.
    Erase(super::ledger_erase::Erase),
    /// The signed head of the ledger.
    Checkpoint,
}

impl LedgerCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        match self {
            Self::Verify { dir, vkey } => {
                let vkey = match vkey {
                    Some(file) => file,
                    None => place.data_dir()?.join("ledger.vkey"),
                };
                let (size, root, what) = match &dir {
                    Some(dir) => {
                        let (key, origin) = key(&vkey)?;
                        let report = verify(dir, &origin, &key).map_err(|e| broken(dir, &e.to_string()))?;
                        (report.entries, report.root.to_base64(), dir.display().to_string())
                    }
                    None if place.url.is_some() => {
                        let api = ApiClient::of(place)?;
                        let (size, root) = verify_broker(&api, &place.person()?, &vkey).await?;
                        (size, root, api.url().to_owned())
                    }
                    None => {
                        let (size, root) = verify_store(&place.data_dir()?, &vkey).await?;
                        (size, root, "the store".to_owned())
                    }
                };
                if place.json {
                    say(json!({ "verified": true, "entries": size, "root": root }));
                } else {
                    say(format_args!("{what} is whole: {size} entries lead to the signed root {root}"));
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
    let (key, origin) = key(vkey)?;
    let dir = data_dir.to_path_buf();
    // It blocks, and may ask a broker that runs on this very thread.
    let verified = tokio::task::spawn_blocking(move || crate::ledger_access::verify(&dir, &origin, &key)).await;
    let head: Checkpoint = verified.map_err(|e| Failure::new(e.to_string(), ""))?.map_err(|e| unverified(data_dir, &e))?;
    Ok((head.size, head.root.to_base64()))
}

/// What could not be looked at is not broken.
fn unverified(data_dir: &Path, error: &AccessError) -> Failure {
    match error {
        AccessError::Absent(_) => Failure::new(error.to_string(), "name the broker's data directory: --data-dir"),
        AccessError::Running(_) => Failure::new(error.to_string(), "ask as an auditor: --url and --as; or stop the broker first"),
        AccessError::Key(_) | AccessError::System(_) | AccessError::Store(_) => Failure::new(error.to_string(), ""),
        _ => broken(data_dir, &error.to_string()),
    }
}

/// Verifies what a broker elsewhere says is its ledger; gives size and root.
async fn verify_broker(api: &ApiClient, who: &PersonKey, vkey: &Path) -> Result<(u64, String), Failure> {
    let (key, origin) = key(vkey)?;
    let wrong = |why: &str| broken(Path::new("it"), why);
    let mut tree = Tiler::new();
    let mut head: Option<Checkpoint> = None;
    loop {
        let to = head.as_ref().map_or_else(String::new, |h| format!("&to={}", h.size));
        let page = api.get(who, &format!("/v1/ledger/entries?from={}{to}", tree.size())).await?;
        let signed = match &head {
            Some(head) => head,
            // The first answer says how far: what is appended meanwhile is for the next time.
            None => {
                let note = page.get("checkpoint").and_then(Value::as_str).unwrap_or_default();
                let opened = Checkpoint::open(note, &origin, &key, &[]).map_err(|e| wrong(&format!("the checkpoint: {e}")))?;
                head.insert(opened.checkpoint)
            }
        };
        let before = tree.size();
        for entry in items(&page, "entries") {
            let due = tree.size();
            let in_order = entry.get("index").and_then(Value::as_u64) == Some(due) && due < signed.size;
            let text = entry.get("text").and_then(Value::as_str).filter(|_| in_order).ok_or_else(|| wrong(&format!("entry {due} is missing")))?;
            tree.push(leaf_hash(text.as_bytes()), |_, _| Ok::<(), Failure>(()))?;
        }
        if tree.size() == signed.size {
            let whole = tree.root() == signed.root;
            return if whole { Ok((signed.size, signed.root.to_base64())) } else { Err(wrong("its entries do not lead to the signed root")) };
        }
        if tree.size() == before {
            return Err(wrong(&format!("it gives no entry {before} of {}", signed.size)));
        }
    }
}

fn key(file: &Path) -> Result<(VerifierKey, Origin), Failure> {
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
