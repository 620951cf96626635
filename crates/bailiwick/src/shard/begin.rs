//! Beginning a new shard, offline, by an operator at the machine; and what every start looks at before anything is signed.

use std::path::Path;
use std::sync::Arc;

use bailiwick_core::Clock as _;
use bailiwick_ledger::{Checkpoint, Note, Origin, VerifierKey};
use bailiwick_store::{Archive, Entry, Options, Reason, Shard, Store, StoreError};

use super::lineage::{Finding, Lineage, LineageError};
use super::{Pen, base_of, directory_name, number_of, origins};
use crate::clock::{SystemClock, random};
use crate::config::Config;
use crate::entry::{self, Body, ShardBegun};
use crate::house::StartError;
use crate::keys::{Keys, TreeIntegrator};
use crate::place::write_private;
use crate::witness::Witnesses;

/// Longest checkpoint with its cosignatures that goes into the entry that begins a shard, in bytes.
const NOTE_BYTES_MAX: usize = 16 * 1024;

/// Why no shard was begun.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// There is no store.
    #[error("there is no ledger in `{}`", .0.display())]
    Absent(std::path::PathBuf),
    /// Keys or directories.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was published cannot be compared with.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// The ledger has no entry that a shard could go on from.
    #[error("the ledger is empty: there is nothing that a shard would go on from")]
    Empty,
    /// Nothing departs, and nobody said that a shard is wanted nevertheless.
    #[error("nothing was found that this ledger could not continue")]
    Needless,
}

/// A shard that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its number.
    pub number: u64,
    /// Its origin.
    pub origin: String,
    /// Its public key.
    pub vkey: String,
    /// The index of its first own entry.
    pub first: u64,
    /// The size of the furthest head of the old log that was found anywhere.
    pub known: u64,
    /// What was found.
    pub findings: Vec<String>,
}

/// Begins a new shard. `even_so` begins one although nothing departs, and also if the store's journal is lost with what only it had.
///
/// # Errors
/// Why not; the ledger is then as it was.
pub async fn begin(data_dir: &Path, config: Option<&Config>, reason: &str, even_so: bool) -> Result<Begun, ShardError> {
    if !data_dir.join("bailiwick.sqlite").exists() {
        return Err(ShardError::Absent(data_dir.to_path_buf()));
    }
    crate::place::prepare(data_dir)?;
    let mut keys = Keys::load_or_make(data_dir)?;
    let pen = keys.pen()?;
    let lost = even_so && bailiwick_store::give_up_lost_journal(data_dir)?;
    let store = open(&mut keys, &pen, data_dir, Options { log_bytes: 0, readers: 1 }).map_err(|error| match error {
        StartError::Store(error) => ShardError::Store(error),
        error => error.into(),
    })?;
    let begun = begin_in(data_dir, config, &mut keys, &pen, &store, Why { reason, even_so, lost }).await;
    store.close().await;
    begun
}

/// Why a shard is begun.
struct Why<'a> {
    reason: &'a str,
    even_so: bool,
    /// The store's journal is lost.
    lost: bool,
}

async fn begin_in(
    data_dir: &Path,
    config: Option<&Config>,
    keys: &mut Keys,
    pen: &Arc<Pen>,
    store: &Store,
    Why { reason, even_so, lost }: Why<'_>,
) -> Result<Begun, ShardError> {
    adopt(keys, store, pen, data_dir).await?;
    let (old_origin, old_key) = pen.log();
    let head = store.head();
    if head.size == 0 {
        return Err(ShardError::Empty);
    }
    let witnesses = Witnesses::configured(config.map(|c| &c.ledger), data_dir)?;
    let findings = examine(store, pen, data_dir, config, &witnesses).await?;
    if findings.is_empty() && !even_so {
        return Err(ShardError::Needless);
    }
    let mut known = furthest(&findings, &head.checkpoint);
    if known.1.len() > NOTE_BYTES_MAX {
        // Many cosignatures: the log's own signature is what counts here, and an entry has an end.
        known.1 = own_signature_only(&known.1, &old_key);
    }
    let origin = next_origin(data_dir, config, store, &old_origin, &findings).await?;
    let key = keys.new_log_key(data_dir, &origin)?;
    let vkey = key.verifier().to_string();
    let clock = SystemClock::start();
    let gone = lost.then(|| "the store's journal is lost, and calls may have been on record in it alone".to_owned());
    let found: Vec<String> = findings.iter().map(ToString::to_string).chain(gone).collect();
    let row = Shard {
        number: number_of(&origin),
        origin: origin.to_string(),
        vkey: vkey.clone(),
        first: head.size,
        old_origin: old_origin.to_string(),
        old_vkey: old_key.to_string(),
        known: known.1.clone(),
        reason: reason.to_owned(),
        settled: found.is_empty(),
        at: clock.now(),
    };
    let body = ShardBegun {
        number: row.number,
        origin: &row.origin,
        vkey: &row.vkey,
        old_origin: &row.old_origin,
        old_vkey: &row.old_vkey,
        old_head: &head.checkpoint,
        known: &row.known,
        found: &found,
        reason,
    };
    let entry = Entry::new(<ShardBegun<'_> as Body>::WORD, entry::encode(clock.now(), &body));
    // From here on the pen signs under the new name; the entry, the row and the first head under it are one transaction.
    pen.change(key, origin.clone());
    let put = row.clone();
    let (first, ()) = store.change(entry, move |w| w.shard_put(&put)).await?;
    keys.follow(&origin, data_dir)?;
    keep_old_key(data_dir, &old_origin, &row.old_vkey)?;
    Ok(Begun { number: row.number, origin: row.origin, vkey, first, known: known.0, findings: found })
}

/// The public keys of old shards stay beside the current one's.
fn keep_old_key(data_dir: &Path, old: &Origin, vkey: &str) -> Result<(), StartError> {
    let path = data_dir.join(format!("ledger-{}.vkey", directory_name(old)));
    write_private(&path, format!("{vkey}\n").as_bytes()).map_err(|e| StartError::place(path.display().to_string(), e))
}

/// The largest head of the old log that was seen, as size and note.
fn furthest(findings: &[Finding], own: &str) -> (u64, String) {
    let size = |note: &str| Note::parse(note).ok().and_then(|note| Checkpoint::parse(note.text().as_str()).ok()).map_or(0, |head| head.size);
    let all = findings.iter().filter_map(|finding| finding.note.as_deref()).chain([own]);
    all.map(|note| (size(note), note.to_owned())).max_by_key(|(size, _)| *size).unwrap_or_default()
}

/// The note with the signature by this key alone.
fn own_signature_only(note: &str, key: &VerifierKey) -> String {
    let Ok(note) = Note::parse(note) else { return String::new() };
    let own = note.signatures().iter().find(|line| (line.name(), line.key_id()) == (key.name(), key.id())).cloned();
    own.map(|own| Note::new(note.text().clone(), own).to_string()).unwrap_or_default()
}

/// A name that no shard of this log ever had: a higher number than any that is known, and random besides.
async fn next_origin(data_dir: &Path, config: Option<&Config>, store: &Store, old: &Origin, findings: &[Finding]) -> Result<Origin, ShardError> {
    let mut number = number_of(old);
    for shard in store.shards().await? {
        number = number.max(shard.number);
    }
    for finding in findings {
        if let super::Departure::LaterShard { origin } = &finding.what
            && let Ok(origin) = origin.parse()
        {
            number = number.max(number_of(&origin));
        }
    }
    for root in [Some(data_dir.join("tiles")), config.and_then(|c| c.ledger.publish.clone())].into_iter().flatten() {
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let named: Option<u64> = name.to_str().and_then(|n| n.split('-').next()?.parse().ok());
            number = number.max(named.unwrap_or_default().min(1_000_000));
        }
    }
    let text = format!("{}/{}-{:08x}", base_of(old), number.saturating_add(1), u32::from_be_bytes(random()));
    text.parse().map_err(|e| StartError::place("the new origin", e).into())
}

/// Opens the store. One that was restored from before the shard that the files name is opened with the key of its own shard: what was
/// let out of the later one is then found by [`examine`].
pub(crate) fn open(keys: &mut Keys, pen: &Arc<Pen>, data_dir: &Path, options: Options) -> Result<Store, StartError> {
    let opened = || Store::open_with(data_dir, Box::new(TreeIntegrator::new(Arc::clone(pen))), options);
    let error = match opened() {
        Err(error @ StoreError::Unavailable { reason: Reason::Ledger, .. }) => error,
        opened => return Ok(opened?),
    };
    let Some(newest) = Archive::open(data_dir).and_then(|archive| archive.newest_shard()).ok() else { return Err(error.into()) };
    let origin = origin_of(newest.as_deref(), keys)?;
    if origin == *keys.origin() {
        return Err(error.into());
    }
    tracing::warn!(
        store = origin.as_str(),
        files = keys.origin().as_str(),
        "the store is from before the shard that the files beside it name: it is opened with the key of its own shard"
    );
    follow(keys, pen, data_dir, origin)?;
    Ok(opened()?)
}

/// The origin of the store's newest shard, or of the first one.
fn origin_of(newest: Option<&str>, keys: &Keys) -> Result<Origin, StartError> {
    newest.unwrap_or_else(|| base_of(keys.origin())).parse().map_err(|e| StartError::place("the newest shard's origin", e))
}

fn follow(keys: &mut Keys, pen: &Pen, data_dir: &Path, origin: Origin) -> Result<(), StartError> {
    keys.follow(&origin, data_dir)?;
    pen.change(keys.signing_key()?, origin);
    Ok(())
}

/// The store's newest shard says which key signs. If the files beside it name another one (a shard was begun, and the machine stopped; or
/// the store alone was restored from before a shard), they follow.
pub(crate) async fn adopt(keys: &mut Keys, store: &Store, pen: &Pen, data_dir: &Path) -> Result<(), StartError> {
    let newest = store.shards().await?.pop();
    let origin = origin_of(newest.as_ref().map(|shard| shard.origin.as_str()), keys)?;
    if origin == *keys.origin() {
        return Ok(());
    }
    follow(keys, pen, data_dir, origin)?;
    if let Some(newest) = newest
        && let Ok(old) = newest.old_origin.parse()
    {
        keep_old_key(data_dir, &old, &newest.old_vkey)?;
    }
    Ok(())
}

/// Compares the store with everything that was let out and can be seen from here. Nothing is signed meanwhile.
pub(crate) async fn examine(
    store: &Store,
    pen: &Pen,
    data_dir: &Path,
    config: Option<&Config>,
    witnesses: &Witnesses,
) -> Result<Vec<Finding>, LineageError> {
    let (origin, key) = pen.log();
    let lineage = Lineage { store, origin: &origin, key: &key };
    let known = origins(store, &origin).await?;
    let mut findings = lineage.files("the data directory's `tiles`", &data_dir.join("tiles"), &known).await?;
    if let Some(publish) = config.and_then(|c| c.ledger.publish.as_ref()) {
        findings.extend(lineage.files(&format!("the publication in `{}`", publish.display()), publish, &known).await?);
    }
    // Files that are certain are reason enough; what is not to be continued is not shown to witnesses either.
    if findings.is_empty() {
        findings.extend(witnesses.first_look(&lineage, data_dir).await?);
    }
    Ok(findings)
}
