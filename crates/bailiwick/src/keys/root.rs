//! The root key's generations: where each comes from, how it rests in the data directory, and the step from one to the next.
//!
//! `root.key` is the generation in force. `root.next` is there while everything is sealed anew under the next one: from its first moment on disk
//! until it takes the place of `root.key`, both are opened, and everything new is sealed under the next. Either file is 32 random bytes,
//! or JSON that says which credential or which token's key gives them.

use std::io::{Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use bailiwick_credentials::{RootId, RootKey, WrapError, WrappedRoot};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::{PinPlace, Sealing, TokenPlace};
use crate::fault;
use crate::house::StartError;
use crate::place::{read_private, write_private};

/// The service manager's credential that is the root key, and the one before while it is replaced.
pub(crate) const CREDENTIAL: &str = "bailiwick-root-key";
const CREDENTIAL_OLD: &str = "bailiwick-root-key-old";
const IN_FORCE: &str = "root.key";
const NEXT: &str = "root.next";
/// A root key as it stands in a file, in bytes. What says who else holds it is longer.
const ROOT_KEY: usize = 32;
/// The largest file that is read as a key, a PIN or a credential.
const FILE_MAX: u64 = 16 << 10;

/// A generation that does not rest as plain bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "held", rename_all = "snake_case", deny_unknown_fields)]
enum Held {
    /// By the service manager.
    Credential {
        /// Which root key the credential must be.
        id: String,
    },
    /// Wrapped by a token's key.
    Pkcs11 {
        /// The token.
        place: Box<TokenPlace>,
        /// The wrapped key.
        root: Box<WrappedRoot>,
    },
}

/// A generation of the root key, opened.
#[derive(Debug)]
pub(crate) struct Generation {
    /// The key.
    pub(crate) key: RootKey,
    /// The word of the source that holds it: `file`, `credential`, `pkcs11`.
    pub(crate) held: &'static str,
}

/// The generations that are there.
#[derive(Debug)]
pub(crate) struct Generations {
    /// The one in force.
    pub(crate) current: Generation,
    /// The one that everything is being sealed under anew.
    pub(crate) next: Option<Generation>,
}

impl Generations {
    /// Opens the generations of a data directory, or makes the first one where there is no store yet.
    pub(crate) fn open(dir: &Path, source: &Sealing) -> Result<Self, StartError> {
        let path = dir.join(IN_FORCE);
        if !path.exists() {
            if dir.join("bailiwick.sqlite").exists() {
                let why = "is missing, but the store is there: put the key back; without it secrets and keys cannot be opened";
                return Err(StartError::place(path.display().to_string(), why));
            }
            let (key, content) = made(source, None)?;
            write_private(&path, &content).map_err(|e| StartError::place(path.display().to_string(), e))?;
            return Ok(Self { current: Generation { key, held: source.word() }, next: None });
        }
        let current = opened(&path, source)?;
        let next = dir.join(NEXT);
        let next = if next.exists() { Some(opened(&next, source)?) } else { None };
        // The last step of a rotation was cut off between its two halves only if the file system broke its promise; it is no rotation then.
        Ok(Self { next: next.filter(|next| next.key.id() != current.key.id()), current })
    }
}

/// Makes the next generation, durable before anything is sealed under it.
pub(crate) fn make_next(dir: &Path, source: &Sealing, current: RootId) -> Result<Generation, StartError> {
    let path = dir.join(NEXT);
    let (key, content) = made(source, Some(current))?;
    fault::point("root-key-made");
    write_private(&path, &content).map_err(|e| StartError::place(path.display().to_string(), e))?;
    fault::point("root-key-next");
    // Read back as a start would: a key that cannot be read again seals nothing.
    let next = opened(&path, source)?;
    if next.key.id() == key.id() { Ok(next) } else { Err(StartError::place(path.display().to_string(), "does not read back as it was written")) }
}

/// The next generation takes the place of the one in force, whose bytes are overwritten and gone.
pub(crate) fn put_in_force(dir: &Path) -> Result<(), StartError> {
    let (path, next) = (dir.join(IN_FORCE), dir.join(NEXT));
    let fault = |e: std::io::Error| StartError::place(path.display().to_string(), e);
    let mut old = std::fs::OpenOptions::new().write(true).open(&path).map_err(fault)?;
    std::fs::rename(&next, &path).map_err(fault)?;
    std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(fault)?;
    fault::point("root-key-in-force");
    let length = old.metadata().map_err(fault)?.len().min(FILE_MAX);
    let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
    old.rewind().and_then(|()| old.write_all(&zeros)).and_then(|()| old.sync_all()).map_err(fault)
}

/// A key of this source that is not `not`, and the content of its file.
fn made(source: &Sealing, not: Option<RootId>) -> Result<(RootKey, Zeroizing<Vec<u8>>), StartError> {
    match source {
        Sealing::File => RootKey::generate().map_err(|e| StartError::place("the root key", e)),
        Sealing::Credential => {
            let key = credential_key(CREDENTIAL)?.ok_or_else(|| absent(CREDENTIAL))?;
            if not == Some(key.id()) {
                return Err(StartError::Sealing {
                    what: format!("the credential `{CREDENTIAL}` is the root key in force"),
                    hint: "give a new one under that name and the old one as `bailiwick-root-key-old`, and start the service again",
                });
            }
            let held = Held::Credential { id: key.id().to_string() };
            Ok((key, json(&held)?))
        }
        Sealing::Token(place) => {
            let (key, _) = RootKey::generate().map_err(|e| StartError::place("the root key", e))?;
            let root = with_token(place, |token| key.wrap(token))?;
            Ok((key, json(&Held::Pkcs11 { place: Box::new(place.clone()), root: Box::new(root) })?))
        }
    }
}

fn json(held: &Held) -> Result<Zeroizing<Vec<u8>>, StartError> {
    serde_json::to_vec(held).map(Zeroizing::new).map_err(|e| StartError::place("the root key", e))
}

/// Opens one generation. What the configuration says about its token goes before what was written down beside it: libraries move.
fn opened(path: &Path, source: &Sealing) -> Result<Generation, StartError> {
    let fault = |e: &dyn std::fmt::Display| StartError::place(path.display().to_string(), e);
    let content = read_private(path)?;
    // By its length and not by how it begins: one key in 256 begins like JSON.
    if content.len() == ROOT_KEY || !content.starts_with(b"{") {
        return Ok(Generation { key: RootKey::parse(&content).map_err(|e| fault(&e))?, held: "file" });
    }
    let held: Held = serde_json::from_slice(&content).map_err(|_| fault(&"is neither 32 random bytes nor says who holds the root key"))?;
    match held {
        Held::Credential { id } => {
            let id: RootId = id.parse().map_err(|_| fault(&"does not say which root key it is"))?;
            for name in [CREDENTIAL, CREDENTIAL_OLD] {
                if let Some(key) = credential_key(name)?.filter(|key| key.id() == id) {
                    return Ok(Generation { key, held: "credential" });
                }
            }
            Err(StartError::Sealing {
                what: format!("no credential of the service manager is the root key {id}"),
                hint: "give it as `bailiwick-root-key`, or as `bailiwick-root-key-old` while it is replaced; see docs/guides/sealing.md",
            })
        }
        Held::Pkcs11 { place, root } => {
            let configured = match source {
                Sealing::Token(now) if (&now.token, &now.key) == (&place.token, &place.key) => now,
                Sealing::Token(_) | Sealing::File | Sealing::Credential => &place,
            };
            Ok(Generation { key: with_token(configured, |token| RootKey::unwrap(&root, token))?, held: "pkcs11" })
        }
    }
}

fn absent(name: &str) -> StartError {
    StartError::Sealing {
        what: format!("the service manager gives no credential `{name}`"),
        hint: "systemd: LoadCredentialEncrypted=bailiwick-root-key:/etc/credstore.encrypted/...; see docs/guides/sealing.md",
    }
}

fn credential_key(name: &str) -> Result<Option<RootKey>, StartError> {
    let Some(content) = credential(name)? else { return Ok(None) };
    let fault = |e: &dyn std::fmt::Display| StartError::Sealing {
        what: format!("the credential `{name}` is no root key: {e}"),
        hint: "expected 32 random bytes, or their 64 hex digits: openssl rand -hex 32",
    };
    if content.len() == 32 {
        return RootKey::parse(&content).map(Some).map_err(|e| fault(&e));
    }
    let digits = content.trim_ascii();
    if digits.len() != 64 {
        return Err(fault(&"its length"));
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| pair.get(at).and_then(|c| char::from(*c).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(fault(&"a character that is no hex digit")) };
        *byte = high << 4 | low;
    }
    RootKey::parse(bytes.as_slice()).map(Some).map_err(|e| fault(&e))
}

/// A credential that the service manager put into its folder for us. `None`: it gives none of that name.
fn credential(name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StartError> {
    match std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) {
        Some(dir) if dir.is_absolute() => credential_in(&dir, name),
        Some(_) | None => Ok(None),
    }
}

fn credential_in(dir: &Path, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StartError> {
    let path = dir.join(name);
    let fault = |what: String| StartError::Sealing { what, hint: "the service manager gives credentials as files that only the service can read" };
    let meta = match std::fs::symlink_metadata(&path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fault(format!("{}: {e}", path.display()))),
    };
    if !meta.is_file() || meta.len() > FILE_MAX {
        return Err(fault(format!("{} is no regular file of a key's size", path.display())));
    }
    // With an access list for the service's user, the group's bits show its mask: it may say `read`.
    if meta.permissions().mode() & 0o027 != 0 {
        return Err(fault(format!("{} has mode {:04o}: others can read or write it", path.display(), meta.mode() & 0o7777)));
    }
    let ours = std::fs::metadata("/proc/self").map(|me| me.uid()).unwrap_or(0);
    if meta.uid() != 0 && meta.uid() != ours {
        return Err(fault(format!("{} belongs to user {}, not to root or to user {ours} who runs this", path.display(), meta.uid())));
    }
    std::fs::read(&path).map(|content| Some(Zeroizing::new(content))).map_err(|e| fault(format!("{}: {e}", path.display())))
}

/// The PIN, from its file or credential.
#[cfg(feature = "pkcs11")]
fn pin(place: &PinPlace) -> Result<bailiwick_credentials::Secret, StartError> {
    let content = match place {
        PinPlace::File(path) => {
            if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file() || meta.len() > FILE_MAX) {
                return Err(StartError::place(path.display().to_string(), "is no regular file of a PIN's size"));
            }
            read_private(path)?
        }
        PinPlace::Credential(name) => credential(name)?.ok_or_else(|| absent(name))?,
    };
    let trimmed = content.strip_suffix(b"\n").unwrap_or(&content);
    if trimmed.is_empty() {
        return Err(StartError::Sealing { what: "the token's PIN is empty".to_owned(), hint: "write it into the file that `pin_file` names" });
    }
    Ok(bailiwick_credentials::Secret::from(Zeroizing::new(trimmed.to_vec())))
}

#[cfg(feature = "pkcs11")]
fn with_token<T>(place: &TokenPlace, work: impl FnOnce(&dyn bailiwick_credentials::RootWrap) -> Result<T, WrapError>) -> Result<T, StartError> {
    let token = bailiwick_credentials::TokenKey::open(&place.module, &place.token, &place.key, pin(&place.pin)?);
    token.and_then(|token| work(&token)).map_err(wrap_fault)
}

#[cfg(not(feature = "pkcs11"))]
fn with_token<T>(_: &TokenPlace, _: impl FnOnce(&dyn bailiwick_credentials::RootWrap) -> Result<T, WrapError>) -> Result<T, StartError> {
    Err(wrap_fault(WrapError::Unsupported))
}

/// Makes the key in the token that the configuration names.
#[cfg(feature = "pkcs11")]
pub(crate) fn make_token_key(place: &TokenPlace) -> Result<(), StartError> {
    bailiwick_credentials::TokenKey::make(&place.module, &place.token, &place.key, pin(&place.pin)?).map(drop).map_err(wrap_fault)
}

/// Makes the key in the token that the configuration names.
#[cfg(not(feature = "pkcs11"))]
pub(crate) fn make_token_key(_: &TokenPlace) -> Result<(), StartError> {
    Err(wrap_fault(WrapError::Unsupported))
}

fn wrap_fault(error: WrapError) -> StartError {
    let hint = error.hint();
    StartError::Sealing { what: error.to_string(), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, name: &str, content: &[u8], mode: u32) {
        std::fs::write(dir.join(name), content).unwrap();
        std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_generation_is_made_once_and_the_next_one_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let first = Generations::open(dir.path(), &Sealing::File).unwrap();
        let again = Generations::open(dir.path(), &Sealing::File).unwrap();
        assert_eq!((first.current.key.id(), first.current.held), (again.current.key.id(), "file"));
        let next = make_next(dir.path(), &Sealing::File, first.current.key.id()).unwrap();
        let both = Generations::open(dir.path(), &Sealing::File).unwrap();
        assert_eq!((both.current.key.id(), both.next.unwrap().key.id()), (first.current.key.id(), next.key.id()));
        put_in_force(dir.path()).unwrap();
        let after = Generations::open(dir.path(), &Sealing::File).unwrap();
        assert_eq!((after.current.key.id(), after.next.is_none()), (next.key.id(), true));
        assert!(!dir.path().join(NEXT).exists());
    }

    #[test]
    fn a_key_that_begins_like_json_is_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let key: Vec<u8> = std::iter::once(b'{').chain(1..32).collect();
        file(dir.path(), IN_FORCE, &key, 0o600);
        let opened = Generations::open(dir.path(), &Sealing::File).unwrap();
        assert_eq!(opened.current.key.id(), RootKey::parse(&key).unwrap().id());
    }

    #[test]
    fn a_store_without_its_root_key_is_not_given_another_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bailiwick.sqlite"), b"").unwrap();
        let error = Generations::open(dir.path(), &Sealing::File).unwrap_err().to_string();
        assert!(error.contains("put the key back"), "{error}");
    }

    #[test]
    fn the_old_keys_bytes_are_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let first = Generations::open(dir.path(), &Sealing::File).unwrap();
        let mut old = std::fs::File::open(dir.path().join(IN_FORCE)).unwrap();
        make_next(dir.path(), &Sealing::File, first.current.key.id()).unwrap();
        put_in_force(dir.path()).unwrap();
        let mut left = Vec::new();
        std::io::Read::read_to_end(&mut old, &mut left).unwrap();
        assert_eq!(left, [0; 32]);
    }

    #[test]
    fn a_credential_that_others_can_read_or_write_is_refused_and_so_is_what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(credential_in(dir.path(), CREDENTIAL).unwrap().is_none());
        for (mode, fine) in [(0o400, true), (0o600, true), (0o440, true), (0o660, false), (0o404, false), (0o602, false), (0o777, false)] {
            file(dir.path(), CREDENTIAL, &[1; 32], mode);
            let read = credential_in(dir.path(), CREDENTIAL);
            assert_eq!(read.is_ok(), fine, "{mode:o}: {read:?}");
            std::fs::remove_file(dir.path().join(CREDENTIAL)).unwrap();
        }
        file(dir.path(), "other", &[1; 32], 0o600);
        std::os::unix::fs::symlink(dir.path().join("other"), dir.path().join(CREDENTIAL)).unwrap();
        assert!(credential_in(dir.path(), CREDENTIAL).is_err());
        std::fs::remove_file(dir.path().join(CREDENTIAL)).unwrap();
        std::fs::create_dir(dir.path().join(CREDENTIAL)).unwrap();
        assert!(credential_in(dir.path(), CREDENTIAL).is_err());
        file(dir.path(), "long", &vec![1; 20 << 10], 0o600);
        assert!(credential_in(dir.path(), "long").is_err());
    }

    #[test]
    fn what_is_kept_in_the_place_of_a_root_key_must_say_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        for content in [
            b"{}".as_slice(),
            b"{\"held\":\"memory\"}",
            b"{\"held\":\"credential\",\"id\":\"zz\"}",
            b"{\"held\":\"credential\",\"id\":\"0011223344556677\",\"x\":1}",
            b"short",
            b"",
        ] {
            file(dir.path(), IN_FORCE, content, 0o600);
            assert!(Generations::open(dir.path(), &Sealing::File).is_err(), "{content:?}");
        }
        file(dir.path(), IN_FORCE, &(0..32).collect::<Vec<u8>>(), 0o640);
        let error = Generations::open(dir.path(), &Sealing::File).unwrap_err().to_string();
        assert!(error.contains("mode must be 0600"), "{error}");
    }
}
