//! The broker's own keys: made at the first start, sealed under the root key, read at every other.

use std::path::Path;

use bailiwick_core::TrustDomain;
use bailiwick_credentials::{RecordKey, RootKey, Sealer};
use bailiwick_identity::{Issuer, SigningKey, Verifier};
use bailiwick_ledger::checkpoint::Origin;
use bailiwick_ledger::note;
use bailiwick_ledger::{Frontier, Hash, integrate, sign_checkpoint};
use bailiwick_store::{Integrated, Integrator};
use zeroize::Zeroizing;

use crate::clock::random;
use crate::house::StartError;
use crate::place::{read_private, write_private};

/// The broker's keys.
pub struct Keys {
    root: RootKey,
    sealer: Sealer,
    token: Zeroizing<Vec<u8>>,
    ledger: Zeroizing<[u8; 32]>,
    state: Zeroizing<[u8; 32]>,
    origin: Origin,
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
        let root = root(dir)?;
        let fault = |what: &'static str| move |e: &dyn std::fmt::Display| StartError::place(what, e);
        let sealer = root.sealer().map_err(|e| fault("root.key")(&e))?;
        let fresh = !dir.join("bailiwick.sqlite").exists();
        let token = sealed(dir, &sealer, "token", fresh, || {
            let (_, pkcs8) = SigningKey::generate().map_err(|e| StartError::place("the token key", e))?;
            Ok(pkcs8)
        })?;
        let seed = sealed(dir, &sealer, "ledger", fresh, || Ok(Zeroizing::new(random::<32>().to_vec())))?;
        let mut ledger = Zeroizing::new([0u8; 32]);
        if seed.len() != ledger.len() {
            return Err(StartError::place("the ledger's key", "is not 32 bytes"));
        }
        ledger.copy_from_slice(&seed);
        let origin = origin(dir, fresh)?;
        let state = root.derive("request-state");
        let keys = Self { root, sealer, token, ledger, state, origin };
        let vkey = keys.signing_key()?.verifier().to_string();
        write_private(&dir.join("ledger.vkey"), format!("{vkey}\n").as_bytes()).map_err(|e| StartError::place("ledger.vkey", e))?;
        Ok(keys)
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
        Ok(TreeIntegrator { key: self.signing_key()?, origin: self.origin.clone() })
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
        self.root.record_key()
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

fn root(dir: &Path) -> Result<RootKey, StartError> {
    let path = dir.join("root.key");
    let fault = |e: &dyn std::fmt::Display| StartError::place(path.display().to_string(), e);
    if !path.exists() {
        if dir.join("bailiwick.sqlite").exists() {
            return Err(fault(&"is missing, but the store is there: put the key back; without it secrets and keys cannot be opened"));
        }
        let (key, text) = RootKey::generate().map_err(|e| fault(&e))?;
        write_private(&path, &text).map_err(|e| fault(&e))?;
        return Ok(key);
    }
    RootKey::parse(&read_private(&path)?).map_err(|e| fault(&e))
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
    key: note::SigningKey,
    origin: Origin,
}

impl Integrator for TreeIntegrator {
    fn integrate(&mut self, frontier: &[u8], entries: &[&[u8]]) -> Result<Integrated, String> {
        let mut tree = if frontier.is_empty() { Frontier::new() } else { Frontier::from_bytes(frontier).map_err(|e| e.to_string())? };
        let mut leaves: Vec<Hash> = Vec::with_capacity(entries.len());
        integrate(&mut tree, entries.iter().copied(), &mut leaves).map_err(|e| e.to_string())?;
        let root = tree.root();
        let checkpoint = sign_checkpoint(&self.origin, tree.size(), &root, &self.key).map_err(|e| e.to_string())?;
        Ok(Integrated {
            leaves: leaves.iter().map(|h| *h.as_bytes()).collect(),
            frontier: tree.to_bytes(),
            size: tree.size(),
            root: *root.as_bytes(),
            checkpoint,
        })
    }
}
