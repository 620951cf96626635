//! The section `[ledger]`: where signed heads are published, and which witnesses are asked to cosign them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bailiwick_ledger::VerifierKey;
use bailiwick_ledger::note::KeyKind;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;
use url::{Host, Url};

/// How the ledger is published.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LedgerFile {
    /// A directory, relative to this file, into which tiles, entries and checkpoint are published (C2SP tlog-tiles). Each shard of
    /// the ledger has a directory of its own in it. Best on another disk or machine: a restored backup is recognised by it.
    publish: Option<PathBuf>,
    /// Seconds between publications, if there is something new. Default 5.
    publish_seconds: u32,
    /// May anybody read the entries under `/ledger/tile/entries`? Otherwise only auditors may. Checkpoint and hashes are for
    /// everybody. Default false.
    public_entries: bool,
    /// The witnesses that cosign.
    #[schemars(with = "Vec<WitnessFile>")]
    witness: Vec<Spanned<WitnessFile>>,
}

impl Default for LedgerFile {
    fn default() -> Self {
        Self { publish: None, publish_seconds: 5, public_entries: false, witness: Vec::new() }
    }
}

/// A witness.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WitnessFile {
    /// A name for it, in logs and metrics.
    name: String,
    /// Its public key (`name+id+key`), of the kind for cosignatures.
    key: String,
    /// Its submission prefix: `https://`, or `http://` to this machine.
    url: String,
    /// Its monitoring prefix, if it is another one.
    monitor: Option<String>,
}

/// How the ledger is published, checked.
#[derive(Clone, Debug)]
pub struct LedgerConfig {
    /// The directory of the publication.
    pub publish: Option<PathBuf>,
    /// How long at least between publications.
    pub every: Duration,
    /// May anybody read the entries?
    pub public_entries: bool,
    /// The witnesses of the configuration.
    pub witnesses: Vec<WitnessEntry>,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self { publish: None, every: Duration::from_secs(5), public_entries: false, witnesses: Vec::new() }
    }
}

/// A witness that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessEntry {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: VerifierKey,
    /// Where checkpoints are submitted.
    pub url: Url,
    /// Where it shows what it cosigned.
    pub monitor: Url,
}

/// Most witnesses.
pub const WITNESSES_MAX: usize = 32;

/// What is wrong, and what to do about it.
pub(super) type Fault = (Option<std::ops::Range<usize>>, String, &'static str);

pub(super) fn ledger(given: LedgerFile, base: &Path) -> Result<LedgerConfig, Fault> {
    let mut witnesses: Vec<WitnessEntry> = Vec::with_capacity(given.witness.len());
    for one in given.witness {
        let span = one.span();
        let WitnessFile { name, key, url, monitor } = one.into_inner();
        let read = WitnessEntry::parse(&name, &key, &url, monitor.as_deref());
        let entry = read.and_then(|entry| entry.beside(&witnesses)).map_err(|(what, hint)| (Some(span), what, hint))?;
        witnesses.push(entry);
    }
    Ok(LedgerConfig {
        publish: given.publish.map(|path| base.join(path)),
        every: Duration::from_secs(u64::from(given.publish_seconds.clamp(1, 3600))),
        public_entries: given.public_entries,
        witnesses,
    })
}

impl WitnessEntry {
    /// Checks a witness.
    ///
    /// # Errors
    /// What is wrong with it, and a hint.
    pub fn parse(name: &str, key: &str, url: &str, monitor: Option<&str>) -> Result<Self, (String, &'static str)> {
        let shown = name.escape_debug();
        let plain = !name.is_empty() && name != "none" && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !plain {
            return Err((format!("`{shown}` is no name of a witness"), "letters, digits, `.`, `_` and `-`, at most 64; not `none`"));
        }
        let key: VerifierKey =
            key.trim().parse().map_err(|e| (format!("witness `{shown}`: {e}"), "the witness's operator publishes its key as `name+id+key`"))?;
        if key.kind() != KeyKind::Cosignature {
            return Err((
                format!("witness `{shown}`: the key is a log's, not a witness's"),
                "ask for the key of signature type 0x04 (Ed25519 cosignature/v1)",
            ));
        }
        let prefix =
            |text: &str| prefix(text).map_err(|why| (format!("witness `{shown}`: {why}"), "write it as `https://witness.example.org/prefix`"));
        let url = prefix(url)?;
        let monitor = monitor.map_or_else(|| Ok(url.clone()), prefix)?;
        Ok(Self { name: name.to_owned(), key, url, monitor })
    }

    /// The same, if it is none of those that there are.
    ///
    /// # Errors
    /// Which name or key is taken.
    pub fn beside(self, others: &[Self]) -> Result<Self, (String, &'static str)> {
        if others.len() >= WITNESSES_MAX {
            return Err((format!("there are more than {WITNESSES_MAX} witnesses"), "a few that are run by different people are enough"));
        }
        if others.iter().any(|other| other.name == self.name) {
            return Err((format!("there are two witnesses called `{}`", self.name), "give one of them another name"));
        }
        if others.iter().any(|other| other.key.public_key() == self.key.public_key()) {
            return Err((format!("witness `{}` has the key of another one", self.name), "a witness counts once"));
        }
        Ok(self)
    }
}

/// The prefix of a witness's addresses. Answers that are not signed (which size it has) must not be made by somebody on the way.
fn prefix(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|e| format!("`{}` is no URL: {e}", text.escape_debug()))?;
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    let secured = url.scheme() == "https" || (url.scheme() == "http" && here);
    let plain = url.host().is_some() && url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if secured && plain { Ok(url) } else { Err("its URL must be https (http to this machine only), without credentials and query".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_ledger::note::{CosigningKey, SigningKey};

    fn key(seed: u8) -> String {
        CosigningKey::from_seed(format!("w.example/{seed}").parse().unwrap(), &[seed; 32]).unwrap().verifier().to_string()
    }

    fn parse(text: &str) -> Result<LedgerConfig, String> {
        let file: LedgerFile = toml::from_str(text).map_err(|e| e.to_string())?;
        ledger(file, Path::new("/etc/b")).map_err(|(_, what, _)| what)
    }

    #[test]
    fn a_witness_has_a_name_a_key_and_a_prefix() {
        let text = format!("publish = \"out\"\n[[witness]]\nname = \"w1\"\nkey = \"{}\"\nurl = \"https://w.example/a\"\n", key(1));
        let config = parse(&text).unwrap();
        assert_eq!(config.publish, Some(PathBuf::from("/etc/b/out")));
        assert_eq!((config.every, config.public_entries), (Duration::from_secs(5), false));
        assert_eq!((config.witnesses[0].name.as_str(), config.witnesses[0].monitor.as_str()), ("w1", "https://w.example/a"));
        assert!(parse("").unwrap().witnesses.is_empty());
    }

    #[test]
    fn what_is_no_witness_is_refused_with_its_name() {
        let log = SigningKey::from_seed("l.example/l".parse().unwrap(), &[9; 32]).unwrap().verifier().to_string();
        for (name, key, url) in [
            ("", key(1), "https://w.example"),
            ("none", key(1), "https://w.example"),
            ("a b", key(1), "https://w.example"),
            ("w", "nonsense".to_owned(), "https://w.example"),
            ("w", log, "https://w.example"),
            ("w", key(1), "http://w.example"),
            ("w", key(1), "http://10.0.0.1"),
            ("w", key(1), "ftp://w.example"),
            ("w", key(1), "https://u:p@w.example"),
            ("w", key(1), "https://w.example?x"),
            ("w", key(1), "w.example"),
        ] {
            assert!(WitnessEntry::parse(name, &key, url, None).is_err(), "{name} {url}");
        }
        for url in ["https://w.example", "http://localhost:1", "http://127.0.0.1:7000/x", "http://[::1]:7"] {
            assert!(WitnessEntry::parse("w", &key(1), url, None).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_name_or_a_key_counts_once() {
        let two = |name: &str, seed: u8| {
            format!(
                "[[witness]]\nname = \"a\"\nkey = \"{}\"\nurl = \"https://a.example\"\n[[witness]]\nname = \"{name}\"\nkey = \"{}\"\nurl = \"https://b.example\"\n",
                key(1),
                key(seed)
            )
        };
        assert!(parse(&two("b", 2)).is_ok());
        assert!(parse(&two("a", 2)).unwrap_err().contains("two witnesses"));
        assert!(parse(&two("b", 1)).unwrap_err().contains("key of another"));
    }
}
