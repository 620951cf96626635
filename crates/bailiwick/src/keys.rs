//! The broker's own keys: made at the first start, sealed under the root key, read at every other.
//!
//! What must outlive a root key is sealed under it and not derived from it: the key of salted digests, because the ledger's digests stay, and the key
//! of states on the wire, because clients bring them back.

pub(crate) mod root;

use std::path::Path;
use std::sync::Arc;

use bailiwick_core::TrustDomain;
use bailiwick_credentials::{RecordKey, Sealer};
use bailiwick_identity::{Issuer, SigningKey, Verifier};
use bailiwick_ledger::checkpoint::Origin;
use bailiwick_ledger::note;
use bailiwick_ledger::{Frontier, Hash, integrate};
use bailiwick_store::{Integrated, Integrator};
use zeroize::Zeroizing;

use crate::clock::random;
use crate::config::Sealing;
use crate::house::StartError;
use crate::place::{read_private, write_private};
use crate::shard::Pen;
use root::Generations;

/// The broker's keys.
pub struct Keys {
    sealer: Sealer,
    held: Held,
    token: Zeroizing<Vec<u8>>,
    ledger: Zeroizing<[u8; 32]>,
    record: Zeroizing<[u8; 32]>,
    state: Zeroizing<[u8; 32]>,
    origin: Origin,
}

/// Where the root key comes from, and whether it is being replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The source that holds the one in force: `file`, `credential`, `pkcs11`.
    pub(crate) by: &'static str,
    /// The root key that is being replaced, if one is.
    pub(crate) replacing: Option<bailiwick_credentials::RootId>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("origin", &self.origin.to_string()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the keys of a data directory, or makes them.
    ///
    /// # Errors
    /// Which key cannot be used, and why. A key that is missing while the store exists is not made anew: the ledger would fork.
    pub fn load_or_make(dir: &Path) -> Result<Self, StartError> {
        Self::open(dir, &Sealing::File)
    }

    /// As [`load_or_make`](Self::load_or_make); the first root key is made as the configuration says.
    ///
    /// # Errors
    /// As there.
    pub fn open(dir: &Path, source: &Sealing) -> Result<Self, StartError> {
        let Generations { current, next } = Generations::open(dir, source)?;
        let sealer = current.key.sealer().map_err(|e| StartError::place("root.key", e))?;
        if let Some(next) = &next {
            sealer.adopt(&next.key).map_err(|e| StartError::place("root.next", e))?;
        }
        let held = Held { by: next.as_ref().unwrap_or(&current).held, replacing: next.as_ref().map(|_| current.key.id()) };
        let fresh = !dir.join("bailiwick.sqlite").exists();
        let origin = origin(dir, fresh)?;
        let token = sealed(dir, &sealer, "token", fresh, || {
            let (_, pkcs8) = SigningKey::generate().map_err(|e| StartError::place("the token key", e))?;
            Ok(pkcs8)
        })?;
        let name = crate::shard::key_name(&origin);
        let ledger = log_seed(&sealed(dir, &sealer, &name, fresh, || Ok(Zeroizing::new(random::<32>().to_vec())))?)?;
        // Where there were none yet, they were derived from the root key, and stay what they were.
        let derived = |purpose: &str| if fresh { Zeroizing::new(random::<32>()) } else { current.key.derive(purpose) };
        let record = key_of_32(&sealed(dir, &sealer, "record", true, || Ok(Zeroizing::new(derived("record").to_vec())))?)?;
        let state = key_of_32(&sealed(dir, &sealer, "request-state", true, || Ok(Zeroizing::new(derived("request-state").to_vec())))?)?;
        let keys = Self { sealer, held, token, ledger, record, state, origin };
        keys.show_vkey(dir)?;
        Ok(keys)
    }

    fn show_vkey(&self, dir: &Path) -> Result<(), StartError> {
        let vkey = self.signing_key()?.verifier().to_string();
        write_private(&dir.join("ledger.vkey"), format!("{vkey}\n").as_bytes()).map_err(|e| StartError::place("ledger.vkey", e))
    }

    /// Makes and seals the key of a new shard. The keys here stay those of the current one.
    pub(crate) fn new_log_key(&self, dir: &Path, origin: &Origin) -> Result<note::SigningKey, StartError> {
        let name = crate::shard::key_name(origin);
        let seed = log_seed(&sealed(dir, &self.sealer, &name, true, || Ok(Zeroizing::new(random::<32>().to_vec())))?)?;
        note::SigningKey::from_seed(origin.key_name().clone(), &seed).map_err(|e| StartError::place("the ledger's key", e))
    }

    /// From here on the keys are those of this shard, which the store has begun, and the files beside the store say so.
    pub(crate) fn follow(&mut self, origin: &Origin, dir: &Path) -> Result<(), StartError> {
        let name = crate::shard::key_name(origin);
        self.ledger = log_seed(&sealed(dir, &self.sealer, &name, false, || Err(StartError::place(name.clone(), "is missing")))?)?;
        self.origin = origin.clone();
        write_private(&dir.join("ledger.origin"), origin.as_str().as_bytes()).map_err(|e| StartError::place("ledger.origin", e))?;
        self.show_vkey(dir)
    }

    /// The name of this log: the first line of its checkpoints.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The key that signs checkpoints.
    ///
    /// # Errors
    /// If the cryptographic library does not take it.
    pub fn signing_key(&self) -> Result<note::SigningKey, StartError> {
        note::SigningKey::from_seed(self.origin.key_name().clone(), &self.ledger).map_err(|e| StartError::place("the ledger's key", e))
    }

    /// What the store's writer calls to add entries to the tree.
    ///
    /// # Errors
    /// If the key cannot be used.
    pub fn integrator(&self) -> Result<TreeIntegrator, StartError> {
        Ok(TreeIntegrator::new(self.pen()?))
    }

    /// What signs for this log, to be shared with whoever may stop it.
    ///
    /// # Errors
    /// If the key cannot be used.
    pub fn pen(&self) -> Result<Arc<Pen>, StartError> {
        Ok(Pen::new(self.signing_key()?, self.origin.clone()))
    }

    /// The issuer and verifier of tokens.
    ///
    /// # Errors
    /// If the key cannot be used.
    pub fn issuer(&self, url: &str, domain: &TrustDomain) -> Result<(Issuer, Verifier), StartError> {
        let key = SigningKey::from_pkcs8(&self.token).map_err(|e| StartError::place("the token key", e))?;
        let issuer = Issuer::new(url.to_owned(), domain.clone(), key);
        let verifier = Verifier::new(url.to_owned(), domain.clone(), vec![issuer.public().clone()]);
        Ok((issuer, verifier))
    }

    /// The key of `requestState`.
    #[must_use]
    pub fn state_key(&self) -> &[u8; 32] {
        &self.state
    }

    /// The key of salted digests in the ledger.
    #[must_use]
    pub fn record_key(&self) -> RecordKey {
        RecordKey::of(&self.record)
    }

    /// What seals texts of calls.
    ///
    /// # Errors
    /// If the cryptographic library does not take the key.
    pub fn text_sealer(&self) -> Result<crate::payload::TextSealer, StartError> {
        Ok(crate::payload::TextSealer::new(self.sealer.clone()))
    }

    /// Where the root key comes from.
    pub(crate) const fn held(&self) -> Held {
        self.held
    }

    /// What seals secrets.
    #[must_use]
    pub fn into_sealer(self) -> Sealer {
        self.sealer
    }

    /// What seals secrets.
    #[must_use]
    pub const fn sealer(&self) -> &Sealer {
        &self.sealer
    }
}

/// Seals the keys of a data directory anew under the current root key. Gives how many it were.
///
/// # Errors
/// Which one cannot be, and why; the others may be.
pub(crate) fn reseal_files(dir: &Path, sealer: &Sealer) -> Result<usize, StartError> {
    let mut done = 0usize;
    for (path, label) in sealed_files(dir)? {
        let fault = |e: &dyn std::fmt::Display| StartError::place(path.display().to_string(), e);
        let anew = sealer.reseal(&label, &read_private(&path)?).map_err(|e| fault(&e))?;
        if let Some(anew) = anew {
            // Opened before it takes the place of what opens now.
            sealer.open_bytes(&label, &anew).map_err(|e| fault(&e))?;
            write_private(&path, &anew).map_err(|e| fault(&e))?;
            done = done.saturating_add(1);
        }
    }
    Ok(done)
}

/// How many of the keys of a data directory are sealed under this root key.
///
/// # Errors
/// Which one cannot be read.
pub(crate) fn files_under(dir: &Path, root: bailiwick_credentials::RootId) -> Result<usize, StartError> {
    let mut count = 0usize;
    for (path, _) in sealed_files(dir)? {
        count = count.saturating_add(usize::from(bailiwick_credentials::RootId::of(&read_private(&path)?) == Some(root)));
    }
    Ok(count)
}

/// The files of sealed keys, with the names under which they are sealed.
fn sealed_files(dir: &Path) -> Result<Vec<(std::path::PathBuf, String)>, StartError> {
    let keys = dir.join("keys");
    let fault = |e: std::io::Error| StartError::place(keys.display().to_string(), e);
    let mut found = Vec::new();
    for file in std::fs::read_dir(&keys).map_err(fault)? {
        let path = file.map_err(fault)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".sealed"));
        if let Some(name) = name {
            let label = format!("key/{name}");
            found.push((path, label));
        }
    }
    found.sort();
    Ok(found)
}

fn sealed(
    dir: &Path,
    sealer: &Sealer,
    name: &str,
    fresh: bool,
    make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, StartError>,
) -> Result<Zeroizing<Vec<u8>>, StartError> {
    let path = dir.join("keys").join(format!("{name}.sealed"));
    let fault = |e: &dyn std::fmt::Display| StartError::place(path.display().to_string(), e);
    let label = format!("key/{name}");
    if path.exists() {
        return sealer.open_bytes(&label, &read_private(&path)?).map_err(|e| fault(&e));
    }
    if !fresh {
        return Err(fault(&"is missing, but the store is there: put the key back"));
    }
    let key = make()?;
    let blob = sealer.seal_bytes(&label, &key).map_err(|e| fault(&e))?;
    write_private(&path, &blob).map_err(|e| fault(&e))?;
    Ok(key)
}

fn key_of_32(bytes: &[u8]) -> Result<Zeroizing<[u8; 32]>, StartError> {
    let key: [u8; 32] = bytes.try_into().map_err(|_| StartError::place("a key of the data directory", "is not 32 bytes"))?;
    Ok(Zeroizing::new(key))
}

fn log_seed(bytes: &[u8]) -> Result<Zeroizing<[u8; 32]>, StartError> {
    let seed: [u8; 32] = bytes.try_into().map_err(|_| StartError::place("the ledger's key", "is not 32 bytes"))?;
    Ok(Zeroizing::new(seed))
}

fn origin(dir: &Path, fresh: bool) -> Result<Origin, StartError> {
    let path = dir.join("ledger.origin");
    let fault = |e: &dyn std::fmt::Display| StartError::place(path.display().to_string(), e);
    // A store that begins anew is another log, under another name: the same name would be a fork of the old one.
    if fresh {
        let name = format!("bailiwick.local/{:016x}", u64::from_be_bytes(random()));
        write_private(&path, name.as_bytes()).map_err(|e| fault(&e))?;
    }
    let text = read_private(&path)?;
    std::str::from_utf8(&text).map_err(|e| fault(&e))?.trim().parse().map_err(|e| fault(&e))
}

/// The Merkle maths in the store's own transaction.
#[derive(Debug)]
pub struct TreeIntegrator {
    pen: Arc<Pen>,
}

impl TreeIntegrator {
    /// Signs with this pen, as long as it has it.
    #[must_use]
    pub const fn new(pen: Arc<Pen>) -> Self {
        Self { pen }
    }
}

impl Integrator for TreeIntegrator {
    fn integrate(&mut self, frontier: &[u8], entries: &[&[u8]]) -> Result<Integrated, String> {
        let mut tree = if frontier.is_empty() { Frontier::new() } else { Frontier::from_bytes(frontier).map_err(|e| e.to_string())? };
        let mut leaves: Vec<Hash> = Vec::with_capacity(entries.len());
        integrate(&mut tree, entries.iter().copied(), &mut leaves).map_err(|e| e.to_string())?;
        let root = tree.root();
        // A tree to which nothing is added may be read without the pen.
        let unsigned = entries.is_empty() && tree.size() > 0 && self.pen.stopped().is_some();
        let checkpoint = if unsigned { String::new() } else { self.pen.sign(tree.size(), &root)? };
        Ok(Integrated {
            leaves: leaves.iter().map(|h| *h.as_bytes()).collect(),
            frontier: tree.to_bytes(),
            size: tree.size(),
            root: *root.as_bytes(),
            checkpoint,
        })
    }
}
