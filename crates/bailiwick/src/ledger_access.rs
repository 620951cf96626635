//! The ledger for whoever checks it: every entry of a data directory, or of the broker that runs on it, up to the signed root.

use std::path::{Path, PathBuf};

use bailiwick_ledger::checkpoint::CheckpointError;
use bailiwick_ledger::export::{ExportError, Exporter};
use bailiwick_ledger::{Checkpoint, Frontier, Hash, Origin, VerifierKey, leaf_hash};
use bailiwick_store::{Archive, EntryRow, Integrated, Integrator, Options, Reason, Store, StoreError};
use serde::Deserialize;

use crate::cli::ApiClient;
use crate::cli::client::Endpoint;
use crate::cli::http::ClientError;
use crate::cli::key_files::{Holder, PersonKey};
use crate::shard::{SeamError, Seams};

/// What is said of a ledger without a head.
const EMPTY: &str = "the ledger is empty";

/// Entries that are held in memory at a time.
const PAGE: u64 = 1000;

/// Why the ledger was not verified, or not exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// There is no store.
    #[error("there is no ledger in `{}`", .0.display())]
    Absent(PathBuf),
    /// The store cannot be read.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A broker runs on the directory, and did not let anyone whose key is here read the ledger.
    #[error("a broker is running on this data directory, and its ledger could not be read: {0}")]
    Running(String),
    /// The signed head is not one of this log.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// `ledger.vkey` cannot be used.
    #[error("`ledger.vkey`: {0}")]
    Key(String),
    /// The newest entries are not those that were recorded.
    #[error("{0}")]
    Damaged(String),
    /// What is there is whole, and calls may have been acknowledged that are not there.
    #[error("the {0} entries that are here lead to the signed root, but the store's journal is missing: calls may be on record in it alone")]
    Journal(u64),
    /// An entry is not the one whose leaf is in the tree.
    #[error("entry {0} is not the entry that was recorded")]
    Entry(u64),
    /// An entry is missing.
    #[error("entry {0} is missing")]
    Missing(u64),
    /// The entries do not lead to the signed root.
    #[error("the entries do not lead to the signed root")]
    Root,
    /// Entries are missing at the beginning, and none that is there says that they were pruned.
    #[error("the entries before {0} are missing, and no entry says that they were pruned")]
    Unsaid(u64),
    /// The log of before and the log of now do not meet where a shard begins.
    #[error(transparent)]
    Seam(#[from] SeamError),
    /// The directory could not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// No thread or runtime could be started.
    #[error("{0}")]
    System(String),
}

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The signed head.
    pub head: Checkpoint,
    /// The entries before this one are pruned: their hashes lead to the root, what they said is gone. 0 if none is.
    pub minimum: u64,
}

/// Checks entries one by one against a signed head.
#[derive(Debug)]
pub struct Check {
    head: Checkpoint,
    tree: Frontier,
    /// The entry after the last one of which only the hash was there.
    minimum: u64,
    /// The furthest minimum index that an entry says.
    said: u64,
    /// Where one shard of the log ends and the next begins.
    seams: Seams,
}

/// What an entry says of the minimum index, if it is one that says that entries were pruned.
pub(crate) fn said_minimum(entry: &[u8]) -> Option<u64> {
    if !entry.starts_with(br#"{"v":1,"kind":"pruned","#) {
        return None;
    }
    serde_json::from_slice::<serde_json::Value>(entry).ok()?.get("minimum")?.as_u64()
}

impl Check {
    /// Begins with entry 0. The note must be signed by the log's key, for this origin.
    ///
    /// # Errors
    /// `Checkpoint`.
    pub fn new(note: &str, origin: &Origin, key: &VerifierKey) -> Result<Self, AccessError> {
        Ok(Self { head: Checkpoint::open(note, origin, key, &[])?.checkpoint, tree: Frontier::new(), minimum: 0, said: 0, seams: Seams::default() })
    }

    /// How many entries the signed head counts.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.head.size
    }

    /// Takes the next entry. `stored` is the leaf hash that was kept beside it, so that a changed entry can be named.
    ///
    /// # Errors
    /// `Entry` if it is not the one of that leaf.
    pub fn push(&mut self, entry: &[u8], stored: &[u8; 32]) -> Result<(), AccessError> {
        let leaf = leaf_hash(entry);
        if leaf.as_bytes() != stored {
            return Err(AccessError::Entry(self.tree.size()));
        }
        self.seams.look(self.tree.size(), entry, || Some(self.tree.root()));
        self.tree.push(leaf);
        self.said = self.said.max(said_minimum(entry).unwrap_or_default());
        Ok(())
    }

    /// Takes the next entry, of which only the leaf hash is there. The root says whether it is the right one.
    pub fn push_pruned(&mut self, leaf: &[u8; 32]) {
        self.tree.push(Hash::from_bytes(*leaf));
        self.minimum = self.tree.size();
    }

    /// Gives the head, if it is that of exactly these entries.
    ///
    /// # Errors
    /// `Missing`, `Root` or `Unsaid`.
    pub fn finish(self) -> Result<Checkpoint, AccessError> {
        self.finish_kept().map(|verified| verified.head)
    }

    /// The same, and says how much was pruned.
    ///
    /// # Errors
    /// `Missing`, `Root` or `Unsaid`.
    pub fn finish_kept(self) -> Result<Verified, AccessError> {
        if self.tree.size() < self.head.size {
            return Err(AccessError::Missing(self.tree.size()));
        }
        if (self.tree.size(), self.tree.root()) != (self.head.size, self.head.root) {
            return Err(AccessError::Root);
        }
        if self.minimum > self.said {
            return Err(AccessError::Unsaid(self.minimum));
        }
        self.seams.finish()?;
        Ok(Verified { head: self.head, minimum: self.minimum })
    }
}

/// Verifies every entry of a data directory up to its signed root. The entries are only read; of a running broker they are asked
/// for over its API, by a person whose key is here.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(data_dir: &Path, origin: &Origin, key: &VerifierKey) -> Result<Checkpoint, AccessError> {
    verify_kept(data_dir, origin, key).map(|verified| verified.head)
}

/// The same, and says how much of it is pruned.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify_kept(data_dir: &Path, origin: &Origin, key: &VerifierKey) -> Result<Verified, AccessError> {
    apart(async {
        let source = Source::open(data_dir).await?;
        let (verified, _) = check(&source, origin, key, |_, _| Ok(())).await?;
        source.without_loss(verified)
    })
}

/// Publishes the ledger as a directory of tiles (C2SP tlog-tiles). Gives the number of entries. What is not whole is not published;
/// of what is pruned there are tiles only.
///
/// # Errors
/// The first thing that is wrong, or cannot be written. `Journal`: what is there was published, and there may have been more.
pub fn export(data_dir: &Path, out: &Path) -> Result<u64, AccessError> {
    let (key, origin) = log_key(data_dir)?;
    apart(async {
        let source = Source::open(data_dir).await?;
        let mut files = Exporter::create(out)?.pruned_to(source.minimum().await?);
        let each = |entry: Option<&[u8]>, leaf: &[u8; 32]| match entry {
            Some(entry) => Ok(files.push(entry)?),
            None => Ok(files.push_hash(Hash::from_bytes(*leaf))?),
        };
        let (verified, note) = check(&source, &origin, &key, each).await?;
        files.finish(&note)?;
        source.without_loss(verified).map(|verified| verified.head.size)
    })
}

/// Throws the index of a data directory away and makes it anew from the ledger, while no broker runs on it. Gives the number of entries
/// in it.
///
/// # Errors
/// `Absent`; `Running` if a broker runs there: it does it itself when an operator asks; or the store's.
pub fn rebuild_index(data_dir: &Path) -> Result<u64, AccessError> {
    apart(async {
        present(data_dir)?;
        let store = match Store::open_with(data_dir, Box::new(Keyless), Options { log_bytes: 0, readers: 1 }) {
            Err(StoreError::Locked { .. }) => return Err(AccessError::Running("ask it as an operator".to_owned())),
            opened => opened.map_err(damaged)?,
        };
        let rebuilt = store.rebuild_index().await;
        store.close().await;
        Ok(rebuilt?)
    })
}

/// The log's public key and name, as the data directory has them.
///
/// # Errors
/// `Key`.
pub fn log_key(data_dir: &Path) -> Result<(VerifierKey, Origin), AccessError> {
    let wrong = |why: &dyn std::fmt::Display| AccessError::Key(why.to_string());
    let text = std::fs::read_to_string(data_dir.join("ledger.vkey")).map_err(|e| wrong(&e))?;
    let key: VerifierKey = text.trim().parse().map_err(|e: bailiwick_ledger::note::NoteError| wrong(&e))?;
    let origin = key.name().as_str().parse().map_err(|e: CheckpointError| wrong(&e))?;
    Ok((key, origin))
}

async fn check(
    source: &Source,
    origin: &Origin,
    key: &VerifierKey,
    mut each: impl FnMut(Option<&[u8]>, &[u8; 32]) -> Result<(), AccessError>,
) -> Result<(Verified, String), AccessError> {
    let note = source.checkpoint().await?;
    let mut check = Check::new(&note, origin, key)?;
    let size = check.head.size;
    if let Source::Archive(archive) = source {
        let stored = archive.size()?;
        if stored != size {
            return Err(AccessError::Damaged(format!("the newest signed head counts {size} entries, and there are {stored}")));
        }
    }
    let mut next = 0;
    while next < size {
        let page = source.entries(next, size.min(next.saturating_add(PAGE))).await?;
        if page.is_empty() {
            return Err(AccessError::Missing(next));
        }
        for (index, entry, leaf) in page {
            if index != next {
                return Err(AccessError::Missing(next));
            }
            match &entry {
                Some(entry) => check.push(entry, &leaf)?,
                None => check.push_pruned(&leaf),
            }
            each(entry.as_deref(), &leaf)?;
            next = next.saturating_add(1);
        }
    }
    Ok((check.finish_kept()?, note))
}

/// Is there a store at all?
fn present(data_dir: &Path) -> Result<(), AccessError> {
    if data_dir.join("bailiwick.sqlite").exists() { Ok(()) } else { Err(AccessError::Absent(data_dir.to_path_buf())) }
}

/// A ledger that is not whole is found when it is opened: that is no trouble of the store's.
fn damaged(error: StoreError) -> AccessError {
    match error {
        StoreError::Unavailable { reason: Reason::Ledger | Reason::Disagrees, detail } if *detail != *EMPTY => {
            AccessError::Damaged(detail.to_string())
        }
        error => error.into(),
    }
}

/// Where entries come from.
enum Source {
    /// Files that are only read.
    Archive(Box<Archive>),
    Broker(Box<(ApiClient, PersonKey)>),
}

/// Index, entry unless it was pruned, leaf hash.
type Row = (u64, Option<Vec<u8>>, [u8; 32]);

/// A piece of the ledger as the API gives it.
#[derive(Deserialize)]
struct Page {
    checkpoint: String,
    #[serde(default)]
    minimum: u64,
    entries: Vec<PageEntry>,
}

#[derive(Deserialize)]
struct PageEntry {
    index: u64,
    leaf: String,
    text: Option<String>,
}

impl Source {
    async fn open(data_dir: &Path) -> Result<Self, AccessError> {
        present(data_dir)?;
        match Archive::open(data_dir) {
            Ok(archive) => Ok(Self::Archive(Box::new(archive))),
            Err(StoreError::Locked { .. }) => Self::broker(data_dir).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The running broker, read by the first person here whom it lets read the ledger.
    async fn broker(data_dir: &Path) -> Result<Self, AccessError> {
        let running = |why: &dyn std::fmt::Display| AccessError::Running(why.to_string());
        let endpoint = Endpoint::read(data_dir).ok_or_else(|| running(&"`endpoint.json` does not say where it listens"))?;
        let api = ApiClient::new(&endpoint.url).map_err(|e| running(&e))?;
        let mut why = "no person's key is here; an auditor reads the ledger".to_owned();
        for name in Holder::Person.names(data_dir, "key.pem") {
            let who = PersonKey::load(data_dir, Some(&name)).map_err(|e| running(&e))?;
            match api.get(&who, "/v1/ledger/entries?from=0&to=0").await {
                Ok(_) => return Ok(Self::Broker(Box::new((api, who)))),
                Err(error @ ClientError::Problem { .. }) => why = error.to_string(),
                Err(error) => return Err(running(&error)),
            }
        }
        Err(AccessError::Running(why))
    }

    async fn checkpoint(&self) -> Result<String, AccessError> {
        match self {
            Self::Archive(archive) => match archive.checkpoint()? {
                empty if empty.is_empty() => Err(StoreError::Unavailable { reason: Reason::Ledger, detail: EMPTY.into() }.into()),
                note => Ok(note),
            },
            Self::Broker(broker) => Ok(Self::page(broker, 0, 0).await?.checkpoint),
        }
    }

    /// What was verified, if nothing can have been on record beside it.
    fn without_loss(&self, verified: Verified) -> Result<Verified, AccessError> {
        match self {
            Self::Archive(archive) if archive.is_journal_lost() => Err(AccessError::Journal(verified.head.size)),
            Self::Archive(_) | Self::Broker(_) => Ok(verified),
        }
    }

    /// The first entry that is not pruned.
    async fn minimum(&self) -> Result<u64, AccessError> {
        match self {
            Self::Archive(archive) => Ok(archive.minimum()?),
            Self::Broker(broker) => Ok(Self::page(broker, 0, 0).await?.minimum),
        }
    }

    async fn entries(&self, from: u64, to: u64) -> Result<Vec<Row>, AccessError> {
        match self {
            Self::Archive(archive) => {
                let minimum = archive.minimum()?;
                let kept = |row: EntryRow| (row.index, (row.index >= minimum || !row.body.is_empty()).then_some(row.body), row.leaf);
                Ok(archive.entries(from..to).map_err(damaged)?.into_iter().map(kept).collect())
            }
            Self::Broker(broker) => {
                let page = Self::page(broker, from, to).await?;
                let row = |e: PageEntry| {
                    let leaf: bailiwick_core::Digest = e.leaf.parse().map_err(|_| AccessError::Entry(e.index))?;
                    Ok((e.index, e.text.map(String::into_bytes), *leaf.as_bytes()))
                };
                page.entries.into_iter().map(row).collect()
            }
        }
    }

    async fn page((api, who): &(ApiClient, PersonKey), from: u64, to: u64) -> Result<Page, AccessError> {
        let answer = api.get(who, &format!("/v1/ledger/entries?from={from}&to={to}")).await.map_err(|e| AccessError::Running(e.to_string()))?;
        serde_json::from_value(answer).map_err(|e| AccessError::Running(e.to_string()))
    }
}

/// Reads the tree that there is and signs nothing: nobody needs the signing key to read the store.
struct Keyless;

impl Integrator for Keyless {
    fn integrate(&mut self, frontier: &[u8], entries: &[&[u8]]) -> Result<Integrated, String> {
        if frontier.is_empty() {
            return Err(EMPTY.to_owned());
        }
        let mut tree = Frontier::from_bytes(frontier).map_err(|e| e.to_string())?;
        let mut leaves = Vec::with_capacity(entries.len());
        bailiwick_ledger::integrate(&mut tree, entries.iter().copied(), &mut leaves).map_err(|e| e.to_string())?;
        Ok(Integrated {
            leaves: leaves.iter().map(|leaf| *leaf.as_bytes()).collect(),
            frontier: tree.to_bytes(),
            size: tree.size(),
            root: *tree.root().as_bytes(),
            checkpoint: String::new(),
        })
    }
}

/// Runs on a thread and runtime of its own, so that it can be called from anywhere.
fn apart<T: Send>(work: impl Future<Output = Result<T, AccessError>> + Send) -> Result<T, AccessError> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| AccessError::System(e.to_string()))?;
        runtime.block_on(work)
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|_| Err(AccessError::System("the check stopped".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keys;
    use bailiwick_store::Entry;

    /// A data directory with a ledger of some entries.
    async fn ledger(entries: usize) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        crate::place::prepare(&data).unwrap();
        let keys = Keys::load_or_make(&data).unwrap();
        let store = Store::open_with(&data, Box::new(keys.integrator().unwrap()), Options { log_bytes: 0, readers: 1 }).unwrap();
        for i in 0..entries {
            store.append(Entry::new("house", format!("{{\"n\":{i}}}").into_bytes())).await.unwrap();
        }
        store.close().await;
        dir
    }

    fn tamper(data: &Path, sql: &str) {
        let conn = rusqlite::Connection::open(data.join("bailiwick.sqlite")).unwrap();
        conn.execute_batch(sql).unwrap();
    }

    #[tokio::test]
    async fn a_whole_ledger_verifies_without_any_private_key() {
        let dir = ledger(5).await;
        let data = dir.path().join("data");
        let (key, origin) = log_key(&data).unwrap();
        std::fs::remove_file(data.join("root.key")).unwrap();
        assert_eq!(verify(&data, &origin, &key).unwrap().size, 5);
    }

    #[tokio::test]
    async fn a_changed_entry_is_named_also_if_its_leaf_was_changed_with_it() {
        let dir = ledger(5).await;
        let data = dir.path().join("data");
        let (key, origin) = log_key(&data).unwrap();
        tamper(&data, "UPDATE entries SET body = x'7b7d' WHERE idx = 3");
        assert!(matches!(verify(&data, &origin, &key), Err(AccessError::Entry(3) | AccessError::Damaged(_))));
        let leaf: String = leaf_hash(b"{}").as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        tamper(&data, &format!("UPDATE entries SET leaf = x'{leaf}' WHERE idx = 3"));
        assert!(matches!(verify(&data, &origin, &key), Err(AccessError::Root | AccessError::Damaged(_))));
    }

    #[tokio::test]
    async fn a_head_that_somebody_else_signed_is_refused() {
        let (dir, other) = (ledger(2).await, ledger(2).await);
        let (key, origin) = log_key(&other.path().join("data")).unwrap();
        assert!(matches!(verify(&dir.path().join("data"), &origin, &key), Err(AccessError::Checkpoint(_))));
    }

    #[tokio::test]
    async fn an_export_verifies_by_the_auditors_check_and_a_broken_ledger_is_not_published() {
        let dir = ledger(300).await;
        let data = dir.path().join("data");
        let out = dir.path().join("out");
        assert_eq!(export(&data, &out).unwrap(), 300);
        let (key, origin) = log_key(&data).unwrap();
        assert_eq!(bailiwick_ledger::export::verify(&out, &origin, &key).unwrap().entries, 300);
        tamper(&data, "UPDATE entries SET body = x'7b7d' WHERE idx = 30");
        let second = dir.path().join("second");
        assert!(export(&data, &second).is_err());
        assert!(!second.join("checkpoint").exists());
    }

    /// Every file of a directory with its bytes.
    fn files(dir: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
        let mut found = std::collections::BTreeMap::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.append(&mut files(&path));
            } else {
                found.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
        found
    }

    #[tokio::test]
    async fn verifying_and_exporting_write_nothing_and_bring_no_older_database_to_a_newer_schema() {
        let dir = ledger(5).await;
        let data = dir.path().join("data");
        std::fs::remove_file(data.join("index.sqlite")).unwrap();
        tamper(&data, "PRAGMA user_version = 7");
        let (key, origin) = log_key(&data).unwrap();
        let before = files(&data);
        assert_eq!(verify(&data, &origin, &key).unwrap().size, 5);
        assert_eq!(export(&data, &dir.path().join("out")).unwrap(), 5);
        let after = files(&data);
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        assert!(before == after, "a file was written");
        // A newer one is not guessed at, and an entry that nobody signed is no part of the ledger.
        tamper(&data, "PRAGMA user_version = 7000");
        assert!(matches!(verify(&data, &origin, &key), Err(AccessError::Store(StoreError::TooNew { .. }))));
        tamper(&data, "PRAGMA user_version = 7; INSERT INTO entries (idx, kind, leaf, body) VALUES (5, 'house', zeroblob(32), x'7b7d')");
        assert!(matches!(verify(&data, &origin, &key), Err(AccessError::Damaged(_) | AccessError::Checkpoint(_))));
    }

    #[tokio::test]
    async fn a_ledger_that_a_crash_left_with_its_log_is_verified_to_its_end() {
        let dir = ledger(3).await;
        let data = dir.path().join("data");
        let keys = Keys::load_or_make(&data).unwrap();
        let store = Store::open_with(&data, Box::new(keys.integrator().unwrap()), Options { log_bytes: 1 << 20, readers: 1 }).unwrap();
        for _ in 0..4 {
            store.append(Entry::new("house", b"{\"late\":1}".to_vec())).await.unwrap();
        }
        let copy = tempfile::tempdir().unwrap();
        let crashed = copy.path().join("data");
        crate::publish::tests::copy_all(&data, &crashed);
        store.close().await;
        let (key, origin) = log_key(&crashed).unwrap();
        assert_eq!(verify(&crashed, &origin, &key).unwrap().size, 7);
    }

    #[tokio::test]
    async fn a_hole_in_the_ledger_is_named_and_of_one_whose_journal_is_lost_it_is_said_that_there_may_have_been_more() {
        let dir = ledger(5).await;
        let data = dir.path().join("data");
        let (key, origin) = log_key(&data).unwrap();
        tamper(&data, "CREATE TABLE kept AS SELECT * FROM entries; DELETE FROM entries WHERE idx = 2");
        let error = verify(&data, &origin, &key).unwrap_err().to_string();
        assert!(error.contains("entry 2 is missing"), "{error}");
        let out = dir.path().join("out");
        assert!(export(&data, &out).is_err() && !out.join("checkpoint").exists());
        tamper(&data, "INSERT INTO entries SELECT * FROM kept WHERE idx = 2; DROP TABLE kept");
        let keys = Keys::load_or_make(&data).unwrap();
        let store = Store::open_with(&data, Box::new(keys.integrator().unwrap()), Options { log_bytes: 1 << 20, readers: 1 }).unwrap();
        store.append(Entry::new("house", b"{\"late\":1}".to_vec())).await.unwrap();
        let copy = tempfile::tempdir().unwrap();
        let crashed = copy.path().join("data");
        crate::publish::tests::copy_all(&data, &crashed);
        store.close().await;
        std::fs::remove_file(crashed.join("bailiwick.journal")).unwrap();
        assert!(matches!(verify(&crashed, &origin, &key), Err(AccessError::Journal(5 | 6))));
        let out = dir.path().join("rest");
        assert!(matches!(export(&crashed, &out), Err(AccessError::Journal(_))));
        assert!(bailiwick_ledger::export::verify(&out, &origin, &key).unwrap().entries >= 5, "what is there was not published");
        // After a stop the database has everything, and nothing is missed.
        std::fs::remove_file(data.join("bailiwick.journal")).unwrap();
        assert_eq!(verify(&data, &origin, &key).unwrap().size, 6);
    }

    #[tokio::test]
    async fn a_directory_without_a_ledger_is_said_to_have_none_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let keys_of_another = dir.path().join("k");
        crate::place::prepare(&keys_of_another).unwrap();
        let key = Keys::load_or_make(&keys_of_another).unwrap();
        let signing = key.signing_key().unwrap();
        assert!(matches!(verify(dir.path(), key.origin(), signing.verifier()), Err(AccessError::Absent(_))));
        assert!(!dir.path().join("bailiwick.sqlite").exists());
    }
}
