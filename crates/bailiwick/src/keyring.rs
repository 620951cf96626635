//! The public keys by which agents, their components and people prove themselves: `agents/<name>.jwk`, `agents/<name>.<component>.jwk` and
//! `people/<name>.jwk` in the data directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bailiwick_core::{AgentName, ComponentName};
use bailiwick_identity::{KeyId, PublicKey};

use crate::config::Config;
use crate::house::StartError;

/// Public keys by name. Read at start, and again when somebody presents a name or key that is not known yet.
#[derive(Debug)]
pub struct Keyring {
    dir: PathBuf,
    keys: RwLock<Keys>,
    /// Keys that came or went since the start, not on record yet.
    changed: Mutex<Vec<Changed>>,
    read_at: Mutex<Option<Instant>>,
    /// Who reads the directories puts what was read in force before the next one reads them.
    reading: Mutex<()>,
}

/// A key that is taken out of the directory is not taken after this long; one that is unknown has it read again after the shorter.
const READ_AGAIN: Duration = Duration::from_secs(5);
const READ_AGAIN_FOR_UNKNOWN: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct Keys {
    agents: HashMap<String, Vec<PublicKey>>,
    people: HashMap<String, Vec<PublicKey>>,
}

impl Keyring {
    /// Reads the directories.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn load(data_dir: &Path, _config: &Config) -> Result<Self, StartError> {
        let ring = Self {
            dir: data_dir.to_path_buf(),
            keys: RwLock::default(),
            changed: Mutex::default(),
            read_at: Mutex::default(),
            reading: Mutex::default(),
        };
        ring.reload()?;
        // What is there at the start is what the installation is; from here on, changes are.
        ring.take_changed();
        Ok(ring)
    }

    /// Reads the directories anew.
    ///
    /// # Errors
    /// As [`Keyring::load`]; the keys in force stay then.
    pub fn reload(&self) -> Result<(), StartError> {
        // One after the other: a key that was taken out meanwhile must not come back with somebody's older look.
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = Keys { agents: read(&self.dir.join("agents"))?, people: read(&self.dir.join("people"))? };
        let before = std::mem::replace(&mut *self.keys.write().unwrap_or_else(PoisonError::into_inner), keys);
        let now = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let pairs = [("agent", &before.agents, &now.agents), ("person", &before.people, &now.people)];
        let changed = pairs.into_iter().flat_map(|(kind, before, now)| {
            let came = missing(kind, "key_found", now, before);
            came.into_iter().chain(missing(kind, "key_gone", before, now))
        });
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).extend(changed);
        Ok(())
    }

    /// The keys that came or went since this was asked last.
    pub fn take_changed(&self) -> Vec<Changed> {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys of an agent.
    #[must_use]
    pub fn agent(&self, name: &str) -> Vec<PublicKey> {
        self.look(|keys| keys.agents.get(name).cloned())
    }

    /// The keys of a component of an agent: `agents/<agent>.<component>.jwk`. No agent's name has a dot.
    #[must_use]
    pub fn component(&self, agent: &AgentName, component: &ComponentName) -> Vec<PublicKey> {
        let name = format!("{agent}.{component}");
        self.look(|keys| keys.agents.get(&name).cloned())
    }

    /// The keys of a person.
    #[must_use]
    pub fn person(&self, name: &str) -> Vec<PublicKey> {
        self.look(|keys| keys.people.get(name).cloned())
    }

    /// Is this a key of the agent, or of this component of it? As the directory was read last: asked at each call.
    #[must_use]
    pub fn holds(&self, agent: &AgentName, component: Option<&ComponentName>, key: &KeyId) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let known = match component {
            None => keys.agents.get(agent.as_str()),
            Some(component) => keys.agents.get(&format!("{agent}.{component}")),
        };
        known.is_some_and(|known| known.iter().any(|k| k.id() == *key))
    }

    /// Reads the directories anew if that was not done lately, so that a key that was taken out is missed though nobody presents it.
    pub fn refresh(&self) {
        drop(self.look(|_| Some(Vec::new())));
    }

    fn look(&self, find: impl Fn(&Keys) -> Option<Vec<PublicKey>>) -> Vec<PublicKey> {
        let known = || find(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let patience = if known().is_some() { READ_AGAIN } else { READ_AGAIN_FOR_UNKNOWN };
        let due = {
            let mut read_at = self.read_at.lock().unwrap_or_else(PoisonError::into_inner);
            let due = read_at.is_none_or(|at| at.elapsed() >= patience);
            if due {
                *read_at = Some(Instant::now());
            }
            due
        };
        if due && let Err(error) = self.reload() {
            tracing::warn!(%error, "the keys of agents and people could not be read anew");
        }
        known().unwrap_or_default()
    }
}

/// A key that came or went while the broker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// `key_found` or `key_gone`.
    pub what: &'static str,
    /// Whose: `agent NAME` or `person NAME`, and the key's id.
    pub name: String,
}

/// The keys of one map that the other has not.
fn missing(kind: &str, what: &'static str, of: &HashMap<String, Vec<PublicKey>>, other: &HashMap<String, Vec<PublicKey>>) -> Vec<Changed> {
    let there = |name: &String, key: &PublicKey| other.get(name).is_some_and(|keys| keys.iter().any(|k| k.id() == key.id()));
    let keys = of.iter().flat_map(|(name, keys)| keys.iter().map(move |key| (name, key)));
    let new = keys.filter(|(name, key)| !there(name, key));
    new.map(|(name, key)| Changed { what, name: format!("{kind} {name}: {}", key.id()) }).collect()
}

fn read(dir: &Path) -> Result<HashMap<String, Vec<PublicKey>>, StartError> {
    let fault = |path: &Path, e: &dyn std::fmt::Display| StartError::place(path.display().to_string(), e);
    let mut keys: HashMap<String, Vec<PublicKey>> = HashMap::new();
    for file in std::fs::read_dir(dir).map_err(|e| fault(dir, &e))? {
        let path = file.map_err(|e| fault(dir, &e))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".jwk")) else { continue };
        // One file that is no key is nobody's key; it must not keep the others from being read.
        match std::fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|text| PublicKey::parse(&text).map_err(|e| e.to_string())) {
            Ok(key) => keys.entry(name.to_owned()).or_default().push(key),
            Err(why) => tracing::warn!(path = %path.display(), why, "a file is no public key: it is left out"),
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_taken_out_does_not_come_back_with_somebodys_older_look() {
        let dir = tempfile::tempdir().unwrap();
        let [agents, people, aside] = ["agents", "people", "aside"].map(|name| dir.path().join(name));
        for made in [&agents, &people] {
            std::fs::create_dir(made).unwrap();
        }
        let key = || bailiwick_identity::SigningKey::generate().unwrap().0.public().clone();
        let (before, now) = (key(), key());
        let put = |key: &PublicKey| std::fs::write(agents.join("scout.jwk"), key.jwk().to_string()).unwrap();
        put(&before);
        // A file that is not read to its end before we say so: people's come after agents'.
        let slow = people.join("slow.jwk");
        assert!(std::process::Command::new("mkfifo").arg(&slow).status().unwrap().success());
        let ring = Keyring {
            dir: dir.path().to_path_buf(),
            keys: RwLock::default(),
            changed: Mutex::default(),
            read_at: Mutex::default(),
            reading: Mutex::default(),
        };
        std::thread::scope(|scope| {
            let older = scope.spawn(|| ring.reload());
            std::thread::sleep(Duration::from_millis(200));
            std::fs::rename(&slow, &aside).unwrap();
            put(&now);
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                drop(std::fs::OpenOptions::new().read(true).write(true).open(&aside).unwrap());
            });
            ring.reload().unwrap();
            older.join().unwrap().unwrap();
        });
        let agent: AgentName = "scout".parse().unwrap();
        assert_eq!([&before, &now].map(|key| ring.holds(&agent, None, &key.id())), [false, true]);
    }
}
