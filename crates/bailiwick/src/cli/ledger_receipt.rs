//! Receipts and trust: `bailiwick ledger prove`, `bailiwick ledger policy`, and what `bailiwick ledger verify` does with a receipt or a policy.

use std::path::{Path, PathBuf};

use bailiwick_ledger::export::Directory;
use bailiwick_ledger::{Receipt, TrustPolicy, Trusted, leaf_hash};
use clap::Args;
use serde_json::{Value, json};

use super::client::{ApiClient, items};
use super::screen::{line, text};
use super::{Failure, Place, say};
use crate::config::Config;

/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `bailiwick ledger prove`
#[derive(Debug, Args)]
pub(crate) struct Prove {
    /// A call, or the index of a ledger entry.
    what: String,
    /// Leave the entry's text out.
    #[arg(long)]
    bare: bool,
    /// The file to write. Default: standard output.
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Prove {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        let plain = !self.what.is_empty() && self.what.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !plain {
            return Err(Failure::new(format!("`{}` is no id", line(&self.what)), "give a call, or an entry's index"));
        }
        let path = format!("/v1/ledger/receipts/{}?bare={}", self.what, self.bare);
        let bytes = ApiClient::of(place)?.get_bytes(&place.person()?, &path).await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // What is handed on is at least a receipt.
        text.parse::<Receipt>().map_err(|e| Failure::new(format!("the answer is no receipt: {e}"), ""))?;
        match self.out {
            None => say(text.trim_end()),
            Some(out) => {
                std::fs::write(&out, &text).map_err(|e| Failure::new(format!("{}: {e}", out.display()), ""))?;
                say(format_args!("the receipt is in {}\nverify it anywhere: bailiwick ledger verify --receipt {0} --policy FILE", out.display()));
            }
        }
        Ok(())
    }
}

/// What `bailiwick ledger verify` takes beside the log itself.
#[derive(Debug, Args)]
pub(crate) struct By {
    /// A receipt (C2SP tlog-proof). Its entry is its extra data, or --entry.
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    receipt: Option<PathBuf>,
    /// The exact bytes of the entry that the receipt is to prove.
    #[arg(long, value_name = "FILE", requires = "receipt")]
    entry: Option<PathBuf>,
    /// Whom to believe (C2SP tlog-policy): logs, witnesses, and how many of them must have cosigned.
    #[arg(long, value_name = "FILE", conflicts_with = "vkey")]
    policy: Option<PathBuf>,
}

impl By {
    /// The policy, if one was given.
    pub(crate) fn policy(&self) -> Result<Option<TrustPolicy>, Failure> {
        let Some(file) = &self.policy else { return Ok(None) };
        let policy =
            TrustPolicy::parse(&read(file)?).map_err(|e| Failure::new(format!("{}: {e}", file.display()), "the format is C2SP tlog-policy"))?;
        Ok(Some(policy))
    }

    /// Verifies a receipt, if one was given. True: that was all.
    pub(crate) fn receipt(&self, place: &Place, vkey: Option<&Path>) -> Result<bool, Failure> {
        let Some(file) = &self.receipt else { return Ok(false) };
        let false_one = |why: String| Failure::new(format!("THE RECEIPT DOES NOT VERIFY: {why}"), "do not believe what it is said to prove");
        let text = String::from_utf8(read(file)?).map_err(|_| false_one("it is no text".to_owned()))?;
        let receipt: Receipt = text.parse().map_err(|e: bailiwick_ledger::proof::ReceiptError| false_one(e.to_string()))?;
        let entry = match (&self.entry, receipt.extra()) {
            (Some(entry), _) => read(entry)?,
            (None, Some(extra)) => extra.to_vec(),
            (None, None) => return Err(Failure::new("the receipt does not hold its entry", "give the entry's exact bytes: --entry FILE")),
        };
        let leaf = leaf_hash(&entry);
        let trusted = match self.policy()? {
            Some(policy) => receipt.verify_by(&leaf, &policy).map_err(|e| false_one(e.to_string()))?,
            None => {
                let file = match vkey {
                    Some(file) => file.to_path_buf(),
                    None => place.data_dir()?.join("ledger.vkey"),
                };
                let (key, origin) = super::ledger::key(&file)?;
                let opened = receipt.verify(&leaf, &origin, &key, &[]).map_err(|e| false_one(e.to_string()))?;
                Trusted { checkpoint: opened.checkpoint, log: key, cosigned: Vec::new() }
            }
        };
        let witnesses: Vec<_> = trusted.cosigned.iter().map(|(name, seen)| json!({ "name": name, "time": seen.time })).collect();
        if place.json {
            let head = &trusted.checkpoint;
            say(json!({ "verified": true, "log": head.origin.as_str(), "index": receipt.index(), "size": head.size, "witnesses": witnesses,
                "entry": String::from_utf8_lossy(&entry) }));
        } else {
            say(format_args!(
                "entry {} is in the log `{}`, in the head of {} entries",
                receipt.index(),
                trusted.checkpoint.origin,
                trusted.checkpoint.size
            ));
            say(seen_by(&trusted));
            say(line(&String::from_utf8_lossy(&entry)));
        }
        Ok(true)
    }
}

/// Who has cosigned, in words.
pub(crate) fn seen_by(trusted: &Trusted) -> String {
    if trusted.cosigned.is_empty() {
        return "no witness that you know has cosigned it: another history may exist that was signed with the same key".to_owned();
    }
    let one = |(name, seen): &(String, bailiwick_ledger::note::Verified)| {
        let at = i64::try_from(seen.time.unwrap_or_default()).ok().and_then(|s| s.checked_mul(1000)).map(bailiwick_core::Timestamp::from_millis);
        format!("{} at {}", line(name), at.map_or_else(String::new, |at| at.to_string()))
    };
    format!("cosigned by {}", trusted.cosigned.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// What a policy says of an exported directory's checkpoint.
pub(crate) fn trusted(dir: Option<&Path>, policy: &TrustPolicy) -> Result<Trusted, Failure> {
    let dir =
        dir.ok_or_else(|| Failure::new("a policy is about what was published", "name an exported directory: --dir; or a receipt: --receipt"))?;
    let note = Directory::new(dir).checkpoint().map_err(|e| Failure::new(format!("{}: {e}", dir.display()), ""))?;
    policy.open(&note).map_err(|e| Failure::new(format!("THE LEDGER DOES NOT VERIFY: {e}"), "keep it as it is, and ask who should have signed"))
}

/// `bailiwick ledger policy`: a trust file to begin with, of the log with all its shards and of the witnesses that are configured.
pub(crate) async fn policy(place: &Place) -> Result<(), Failure> {
    let data_dir = place.data_dir()?;
    let config = Config::load(&place.config_file()?).ok();
    let witnesses = crate::witness::all(config.as_ref().map(|c| &c.ledger), &data_dir).map_err(|e| Failure::new(e.to_string(), e.hint()))?;
    let status = ApiClient::of(place)?.get(&place.person()?, "/v1/ledger/status").await?;
    say(policy_text(&status, &witnesses)?.trim_end());
    Ok(())
}

fn policy_text(status: &Value, witnesses: &[crate::config::WitnessEntry]) -> Result<String, Failure> {
    let mut keys: Vec<String> = items(status, "shards").iter().map(|shard| text(shard, "old_vkey")).collect();
    keys.push(text(status, "vkey"));
    let logs: String = keys.iter().map(|key| format!("log {}\n", line(key))).collect();
    let lines: String = witnesses.iter().map(|w| format!("witness {} {}\n", w.name, w.key)).collect();
    let names: Vec<_> = witnesses.iter().map(|w| w.name.as_str()).collect();
    let quorum = if names.is_empty() {
        "# No witness is known: whoever holds the log's key could show each of you another history.\nquorum none\n".to_owned()
    } else {
        format!(
            "# All of them, or fewer: it is you who decides whom to believe.\ngroup all-witnesses all {}\nquorum all-witnesses\n",
            names.join(" ")
        )
    };
    let policy = format!("# C2SP tlog-policy. Compare the keys with what their owners publish before you rely on them.\n{logs}{lines}{quorum}");
    policy.parse::<TrustPolicy>().map_err(|e| Failure::new(format!("the policy would not be one: {e}"), ""))?;
    Ok(policy)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    let wrong = |why: String| Failure::new(format!("{}: {why}", file.display()), "");
    let mut bytes = Vec::new();
    let open = std::fs::File::open(file).map_err(|e| wrong(e.to_string()))?;
    open.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| wrong(e.to_string()))?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length > FILE_BYTES_MAX { Err(wrong(format!("is longer than {FILE_BYTES_MAX} bytes"))) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_ledger::Origin;
    use bailiwick_ledger::note::{CosigningKey, SigningKey};

    #[test]
    fn a_policy_names_every_shard_and_every_witness_and_is_one() {
        let key = |origin: &str, seed: u8| {
            let origin: Origin = origin.parse().unwrap();
            SigningKey::from_seed(origin.key_name().clone(), &[seed; 32]).unwrap().verifier().to_string()
        };
        let status = json!({ "vkey": key("o/2-00000000", 2), "shards": [{ "old_vkey": key("o", 1) }] });
        let witness = CosigningKey::from_seed("w.example/w".parse().unwrap(), &[3; 32]).unwrap();
        let entry = crate::config::WitnessEntry::parse("w", &witness.verifier().to_string(), "https://w.example", None).unwrap();
        let policy: TrustPolicy = policy_text(&status, &[entry]).unwrap().parse().unwrap();
        assert_eq!((policy.logs().len(), policy.witnesses().len(), policy.needs_witnesses()), (2, 1, true));
        let policy: TrustPolicy = policy_text(&status, &[]).unwrap().parse().unwrap();
        assert!(!policy.needs_witnesses());
        assert!(policy_text(&json!({ "vkey": "nonsense", "shards": [] }), &[]).is_err());
    }
}
