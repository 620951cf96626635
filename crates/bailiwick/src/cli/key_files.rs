//! The key files of agents and people in the data directory: made for their holder alone, read only if nobody else can read them.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use bailiwick_core::{AgentName, PersonName, SpiffeId, TrustDomain};
use bailiwick_identity::keys::{KEY_TEXT_MAX, private_pem};
use bailiwick_identity::{PublicKey, SigningKey};
use zeroize::Zeroizing;

use super::Failure;

/// The endings of the files of an enrolled agent: the client id that the broker gave, and a key that is not registered yet.
const CLIENT_ID: &str = "client_id";
const ENROLLING: &str = "enrolling.pem";

/// Whose keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Workloads.
    Agent,
    /// Humans.
    Person,
}

impl Holder {
    const fn directory(self) -> &'static str {
        match self {
            Self::Agent => "agents",
            Self::Person => "people",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Person => "person",
        }
    }

    fn file(self, data_dir: &Path, name: &str, ending: &str) -> PathBuf {
        data_dir.join(self.directory()).join(format!("{name}.{ending}"))
    }

    /// Is there a private key of this name?
    pub(crate) fn has_private(self, data_dir: &Path, name: &str) -> bool {
        self.file(data_dir, name, "key.pem").is_file()
    }

    /// Is there a public key of this name?
    pub(crate) fn has_public(self, data_dir: &Path, name: &str) -> bool {
        self.file(data_dir, name, "jwk").is_file()
    }

    /// The names of those whose private (`key.pem`) or public (`jwk`) key is here, sorted.
    pub(crate) fn names(self, data_dir: &Path, ending: &str) -> Vec<String> {
        let Ok(files) = fs::read_dir(data_dir.join(self.directory())) else { return Vec::new() };
        let ending = format!(".{ending}");
        let name = |file: fs::DirEntry| file.file_name().to_str().and_then(|n| n.strip_suffix(&ending)).map(str::to_owned);
        let mut names: Vec<String> = files.filter_map(Result::ok).filter_map(name).collect();
        names.sort();
        names
    }

    /// Makes a key pair and keeps both halves. An existing key is never replaced.
    pub(crate) fn make(self, data_dir: &Path, name: &str) -> Result<PublicKey, Failure> {
        let (key, pem) = new_key()?;
        self.refuse_second(data_dir, name)?;
        directory(&data_dir.join(self.directory()))?;
        create(&self.file(data_dir, name, "key.pem"), pem.as_bytes(), 0o600)?;
        self.keep_public(data_dir, name, key.public())?;
        Ok(key.public().clone())
    }

    /// Makes a key pair, keeps the public half, and gives the private one away as PEM.
    pub(crate) fn make_elsewhere(self, data_dir: &Path, name: &str) -> Result<(PublicKey, Zeroizing<String>), Failure> {
        let (key, pem) = new_key()?;
        self.refuse_second(data_dir, name)?;
        self.keep_public(data_dir, name, key.public())?;
        Ok((key.public().clone(), pem))
    }

    /// Takes the public key of someone who keeps the private one elsewhere.
    pub(crate) fn take(self, data_dir: &Path, name: &str, file: &Path) -> Result<PublicKey, Failure> {
        let text = read(file)?;
        let key = PublicKey::parse(&text).map_err(|e| Failure::new(format!("{}: {e}", file.display()), "give a public key as JWK or PEM"))?;
        self.refuse_second(data_dir, name)?;
        self.keep_public(data_dir, name, &key)?;
        Ok(key)
    }

    fn refuse_second(self, data_dir: &Path, name: &str) -> Result<(), Failure> {
        if !self.has_public(data_dir, name) && !self.has_private(data_dir, name) {
            return Ok(());
        }
        let what = format!("{} `{name}` has a key already", self.word());
        Err(Failure::new(what, format!("to replace it, first move {} away", self.file(data_dir, name, "*").display())))
    }

    fn keep_public(self, data_dir: &Path, name: &str, key: &PublicKey) -> Result<(), Failure> {
        directory(&data_dir.join(self.directory()))?;
        let file = self.file(data_dir, name, "jwk");
        // Whole or not at all: a running broker may read it at any moment.
        crate::place::write_private(&file, format!("{:#}\n", key.jwk()).as_bytes()).map_err(|e| unusable(&file, &e))
    }

    fn private(self, data_dir: &Path, name: &str, hint: String) -> Result<SigningKey, Failure> {
        let file = self.file(data_dir, name, "key.pem");
        if !file.is_file() {
            return Err(Failure::new(format!("there is no key of {} `{name}` in {}", self.word(), data_dir.display()), hint));
        }
        let mode = fs::metadata(&file).map_err(|e| unusable(&file, &e))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Failure::new(format!("{} can be read by others", file.display()), format!("chmod 600 {}", file.display())));
        }
        let pem = Zeroizing::new(read(&file)?);
        SigningKey::from_pem(&pem).map_err(|e| Failure::new(format!("{}: {e}", file.display()), "the key must be Ed25519 in PKCS#8 PEM"))
    }
}

/// An agent whose key is here.
#[derive(Debug)]
pub(crate) struct AgentKey {
    /// Its client id.
    pub(crate) spiffe_id: SpiffeId,
    /// Its key.
    pub(crate) key: SigningKey,
}

impl AgentKey {
    /// Loads the key; the trust domain comes from the configuration beside it.
    pub(crate) fn load(data_dir: &Path, domain: &TrustDomain, name: &AgentName) -> Result<Self, Failure> {
        let key = Holder::Agent.private(data_dir, name.as_str(), format!("make it: bailiwick agent add {name}"))?;
        let told = Holder::Agent.file(data_dir, name.as_str(), CLIENT_ID);
        let spiffe_id = match fs::read_to_string(&told) {
            Ok(text) => text.trim().parse().map_err(|e: bailiwick_core::NameError| Failure::new(format!("{}: {e}", told.display()), ""))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => SpiffeId::agent(domain, name),
            Err(error) => return Err(unusable(&told, &error)),
        };
        Ok(Self { spiffe_id, key })
    }

    /// The key that is about to be registered with a one-time token: the one that an earlier try left, or a new one.
    pub(crate) fn enrolling(data_dir: &Path, name: &AgentName) -> Result<SigningKey, Failure> {
        let file = Holder::Agent.file(data_dir, name.as_str(), ENROLLING);
        if !file.is_file() {
            let (_, pem) = new_key()?;
            directory(&data_dir.join(Holder::Agent.directory()))?;
            create(&file, pem.as_bytes(), 0o600)?;
        }
        let pem = Zeroizing::new(read(&file)?);
        SigningKey::from_pem(&pem).map_err(|e| Failure::new(format!("{}: {e}", file.display()), "move it away, and have another token made"))
    }

    /// It was registered: from now on it is the agent's key here, under the client id that the broker gave.
    pub(crate) fn enrolled(data_dir: &Path, name: &AgentName, client_id: &SpiffeId, key: &PublicKey) -> Result<(), Failure> {
        let told = Holder::Agent.file(data_dir, name.as_str(), CLIENT_ID);
        crate::place::write_private(&told, format!("{client_id}\n").as_bytes()).map_err(|e| unusable(&told, &e))?;
        Holder::Agent.keep_public(data_dir, name.as_str(), key)?;
        let (from, to) = (Holder::Agent.file(data_dir, name.as_str(), ENROLLING), Holder::Agent.file(data_dir, name.as_str(), "key.pem"));
        fs::rename(&from, &to).map_err(|e| unusable(&to, &e))
    }
}

/// A person whose key is here.
#[derive(Debug)]
pub(crate) struct PersonKey {
    /// Who.
    pub(crate) name: PersonName,
    /// The key.
    pub(crate) key: SigningKey,
}

impl PersonKey {
    /// The person who sits here: the one that was named, or the only one whose key is here.
    pub(crate) fn load(data_dir: &Path, named: Option<&str>) -> Result<Self, Failure> {
        let name = match named {
            Some(name) => name.to_owned(),
            None => only(Holder::Person.names(data_dir, "key.pem"), data_dir)?,
        };
        let name: PersonName = name.parse().map_err(|e: bailiwick_core::NameError| Failure::new(e.to_string(), ""))?;
        let key = Holder::Person.private(data_dir, name.as_str(), format!("make it: bailiwick person add {name}"))?;
        Ok(Self { name, key })
    }
}

fn only(names: Vec<String>, data_dir: &Path) -> Result<String, Failure> {
    match <[String; 1]>::try_from(names) {
        Ok([name]) => Ok(name),
        Err(none) if none.is_empty() => {
            let what = format!("there is no person's key in {}", data_dir.display());
            Err(Failure::new(what, "make one: bailiwick person add NAME; or point to another place with --data-dir"))
        }
        Err(many) => Err(Failure::new(format!("several people have a key here: {}", many.join(", ")), "say who you are: --as NAME")),
    }
}

fn new_key() -> Result<(SigningKey, Zeroizing<String>), Failure> {
    let (key, pkcs8) = SigningKey::generate().map_err(|e| Failure::new(e.to_string(), ""))?;
    let pem = private_pem(&pkcs8);
    Ok((key, pem))
}

/// Makes a directory that only its owner can use.
pub(crate) fn directory(path: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| unusable(path, &e))
}

/// Writes a new file of this mode, durably; an existing one is never touched.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    made.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all())).map_err(|e| unusable(path, &e))
}

fn read(path: &Path) -> Result<String, Failure> {
    let size = fs::metadata(path).map_err(|e| unusable(path, &e))?.len();
    if size > u64::try_from(KEY_TEXT_MAX).unwrap_or(u64::MAX) {
        return Err(Failure::new(format!("{} is too long for a key", path.display()), ""));
    }
    fs::read_to_string(path).map_err(|e| unusable(path, &e))
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_key_can_be_read_by_its_owner_only_and_signs_under_the_kept_public_half() {
        let dir = tempfile::tempdir().unwrap();
        let public = Holder::Person.make(dir.path(), "ana@example.org").unwrap();
        let file = dir.path().join("people/ana@example.org.key.pem");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let ana = PersonKey::load(dir.path(), None).unwrap();
        assert_eq!(ana.name.as_str(), "ana@example.org");
        assert_eq!(ana.key.public(), &public);
        let kept = fs::read_to_string(dir.path().join("people/ana@example.org.jwk")).unwrap();
        assert_eq!(PublicKey::parse(&kept).unwrap(), public);
        assert!(!kept.contains("\"d\""));
    }

    #[test]
    fn an_existing_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = Holder::Agent.make(dir.path(), "planner").unwrap();
        assert!(Holder::Agent.make(dir.path(), "planner").is_err());
        assert!(Holder::Agent.make_elsewhere(dir.path(), "planner").is_err());
        let kept = fs::read_to_string(dir.path().join("agents/planner.jwk")).unwrap();
        assert_eq!(PublicKey::parse(&kept).unwrap(), first);
    }

    #[test]
    fn a_key_that_others_can_read_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        Holder::Person.make(dir.path(), "ana").unwrap();
        fs::set_permissions(dir.path().join("people/ana.key.pem"), fs::Permissions::from_mode(0o640)).unwrap();
        let failure = PersonKey::load(dir.path(), Some("ana")).unwrap_err().to_string();
        assert!(failure.contains("can be read by others") && failure.contains("chmod 600"), "{failure}");
    }

    #[test]
    fn with_two_people_one_must_be_named_and_a_path_is_no_name() {
        let dir = tempfile::tempdir().unwrap();
        Holder::Person.make(dir.path(), "ana").unwrap();
        Holder::Person.make(dir.path(), "ben").unwrap();
        let failure = PersonKey::load(dir.path(), None).unwrap_err().to_string();
        assert!(failure.contains("ana, ben") && failure.contains("--as"), "{failure}");
        assert_eq!(PersonKey::load(dir.path(), Some("ben")).unwrap().name.as_str(), "ben");
        assert!(PersonKey::load(dir.path(), Some("../people/ben")).is_err());
    }

    #[test]
    fn a_private_key_is_not_taken_for_a_public_one() {
        let dir = tempfile::tempdir().unwrap();
        Holder::Agent.make(dir.path(), "a").unwrap();
        let private = dir.path().join("agents/a.key.pem");
        let failure = Holder::Agent.take(dir.path(), "b", &private).unwrap_err().to_string();
        assert!(failure.contains("private"), "{failure}");
        assert!(!dir.path().join("agents/b.jwk").exists());
    }
}
