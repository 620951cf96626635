//! Holding an answer of the broker against its signed head: the text of each entry, its place in the tree, and the log's signature.

use std::path::Path;

use bailiwick_ledger::{Checkpoint, Hash, Origin, VerifierKey, leaf_hash, verify_inclusion};
use serde_json::Value;

use crate::cli::client::items;

/// Checks whatever an answer proves, and says in words what that is.
///
/// # Errors
/// What does not verify.
pub(super) fn check(answer: &Value, vkey: &Path) -> Result<String, String> {
    let entries = items(answer, "entries");
    if let Some(broken) = items(answer, "broken").first() {
        return Err(format!("entry {broken} is not the entry that was recorded"));
    }
    let ledger = answer.get("ledger").ok_or("the answer has no signed head")?;
    let size = ledger.get("size").and_then(Value::as_u64).ok_or("the answer has no signed head")?;
    let root = ledger.get("root").and_then(Value::as_str).and_then(hash_of_hex).ok_or("the signed head has no root")?;
    for entry in entries {
        let index = entry.get("index").and_then(Value::as_u64).ok_or("an entry has no index")?;
        placed(entry, index, size, &root).ok_or_else(|| format!("entry {index} is not the entry that was recorded"))?;
    }
    let proved = match entries.len() {
        0 => "the answer".to_owned(),
        1 => "1 entry, proved to be".to_owned(),
        many => format!("{many} entries, proved to be"),
    };
    let note = ledger.get("checkpoint").and_then(Value::as_str).unwrap_or_default();
    match key(vkey) {
        None => Ok(format!("{proved} under a head of {size} entries; its signature was not checked: there is no `{}`", vkey.display())),
        Some((key, origin)) => {
            let signed = Checkpoint::open(note, &origin, &key, &[]).map_err(|e| format!("the signed head: {e}"))?.checkpoint;
            if (signed.size, signed.root) != (size, root) {
                return Err("the signed head is another one than the answer says".to_owned());
            }
            Ok(format!("{proved} under the signed head of {size} entries"))
        }
    }
}

/// Its text and its path lead to the root, and the text is what is shown.
fn placed(entry: &Value, index: u64, size: u64, root: &Hash) -> Option<()> {
    let text = entry.get("text")?.as_str()?;
    let pruned = entry.get("pruned").and_then(Value::as_bool) == Some(true);
    let leaf = if pruned { entry.get("leaf").and_then(Value::as_str).and_then(hash_of_hex)? } else { leaf_hash(text.as_bytes()) };
    let path = entry.get("proof").map(|p| p.as_array().map(Vec::as_slice).unwrap_or_default()).unwrap_or_default();
    let path: Vec<Hash> = path.iter().map(|hash| Hash::from_base64(hash.as_str()?).ok()).collect::<Option<_>>()?;
    verify_inclusion(&leaf, index, size, root, &path).ok()?;
    let shown = if pruned { Value::Null } else { serde_json::from_str::<Value>(text).ok()? };
    (entry.get("entry") == Some(&shown)).then_some(())
}

fn hash_of_hex(text: &str) -> Option<Hash> {
    let digest: bailiwick_core::Digest = text.parse().ok()?;
    Some(Hash::from_bytes(*digest.as_bytes()))
}

fn key(file: &Path) -> Option<(VerifierKey, Origin)> {
    let key: VerifierKey = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let origin = key.name().as_str().parse().ok()?;
    Some((key, origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_ledger::tree::Leaves;
    use bailiwick_ledger::{SigningKey, inclusion_proof, sign_checkpoint, tree};
    use serde_json::json;

    struct Log {
        dir: tempfile::TempDir,
        answer: Value,
    }

    fn log(texts: &[&str]) -> Log {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::from_seed("log.example".parse().unwrap(), &[7; 32]).unwrap();
        std::fs::write(dir.path().join("ledger.vkey"), key.verifier().to_string()).unwrap();
        let leaves: Vec<Hash> = texts.iter().map(|t| leaf_hash(t.as_bytes())).collect();
        let size = leaves.len() as u64;
        let root = tree::root(&Leaves(&leaves), size).unwrap();
        let note = sign_checkpoint(&"log.example".parse().unwrap(), size, &root, &key).unwrap();
        let entry = |(n, text): (usize, &&str)| {
            let proof = inclusion_proof(&Leaves(&leaves), n as u64, size).unwrap();
            let entry: Value = serde_json::from_str(text).unwrap();
            json!({"index": n, "entry": entry, "text": text, "proof": proof.iter().map(Hash::to_base64).collect::<Vec<_>>()})
        };
        let entries: Vec<Value> = texts.iter().enumerate().map(entry).collect();
        let root = bailiwick_core::Digest::from_bytes(*root.as_bytes()).to_string();
        Log { dir, answer: json!({"entries": entries, "ledger": {"size": size, "root": root, "checkpoint": note}}) }
    }

    fn checked(log: &Log) -> Result<String, String> {
        check(&log.answer, &log.dir.path().join("ledger.vkey"))
    }

    #[test]
    fn an_answer_that_is_whole_is_said_to_be_proved() {
        let log = log(&[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#]);
        assert_eq!(checked(&log).unwrap(), "3 entries, proved to be under the signed head of 3 entries");
        let unsigned = check(&log.answer, Path::new("nowhere")).unwrap();
        assert!(unsigned.contains("its signature was not checked"), "{unsigned}");
    }

    #[test]
    fn whatever_is_changed_in_an_answer_is_found() {
        let whole = log(&[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#]);
        let root = "ab".repeat(32);
        let changes: [(&str, Value); 6] = [
            ("/entries/1/text", json!(r#"{"a":9}"#)),
            ("/entries/1/entry", json!({"a": 9})),
            ("/entries/1/index", json!(0)),
            ("/entries/1/proof", json!([])),
            ("/ledger/root", json!(root)),
            ("/ledger/size", json!(4)),
        ];
        for (at, value) in changes {
            let mut log = Log { dir: tempfile::tempdir().unwrap(), answer: whole.answer.clone() };
            std::fs::copy(whole.dir.path().join("ledger.vkey"), log.dir.path().join("ledger.vkey")).unwrap();
            *log.answer.pointer_mut(at).unwrap() = value;
            assert!(checked(&log).is_err(), "{at}");
        }
        let mut log = whole;
        log.answer["broken"] = json!([7]);
        assert!(checked(&log).unwrap_err().contains("entry 7"));
    }

    #[test]
    fn a_head_that_another_key_signed_is_refused() {
        let log = log(&[r#"{"a":1}"#]);
        let other = SigningKey::from_seed("log.example".parse().unwrap(), &[8; 32]).unwrap();
        std::fs::write(log.dir.path().join("ledger.vkey"), other.verifier().to_string()).unwrap();
        assert!(checked(&log).is_err());
    }
}
