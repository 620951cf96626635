//! Setting an installation up: its configuration, the keys of its agents and people, its secrets.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bailiwick_core::{AgentName, PersonName, TrustDomain};
use bailiwick_store::{Archive, Pin, StoreError};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::client::{ApiClient, items};
use super::http::ClientError;
use super::key_files::{Holder, PersonKey, create};
use super::screen::{Style, table, text};
use super::{Failure, Place, say, warn};
use crate::config::{Config, ConfigError, STARTER};

/// Longest secret that is taken, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

impl Place {
    /// The configuration file: as given, or `bailiwick.toml` in the data directory.
    pub(crate) fn config_file(&self) -> Result<PathBuf, Failure> {
        match &self.config {
            Some(file) => Ok(file.clone()),
            None => Ok(self.data_dir()?.join("bailiwick.toml")),
        }
    }

    /// The configuration file, read and checked.
    pub(crate) fn configuration(&self) -> Result<Config, Failure> {
        Config::load(&self.config_file()?).map_err(config_failure)
    }

    /// The trust domain that the configuration names, even if the rest of it is not complete yet; else the default one.
    pub(crate) fn trust_domain(&self) -> Result<TrustDomain, Failure> {
        let file = self.config_file()?;
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Failure::new(format!("{}: {e}", file.display()), "")),
        };
        let table: toml::Table =
            text.parse().map_err(|e: toml::de::Error| Failure::new(format!("{}: {}", file.display(), e.message()), "try it: bailiwick check"))?;
        let domain = table.get("trust_domain").and_then(toml::Value::as_str).unwrap_or("bailiwick.local");
        domain.parse().map_err(|e: bailiwick_core::NameError| Failure::new(format!("{}: {e}", file.display()), ""))
    }

    /// The person who sits here.
    pub(crate) fn person(&self) -> Result<PersonKey, Failure> {
        PersonKey::load(&self.data_dir()?, self.person.as_deref())
    }
}

/// A configuration's fault with the place in the file.
pub(crate) fn config_failure(error: ConfigError) -> Failure {
    Failure::new(format!("{:?}", miette::Report::new(error)).trim_end().to_owned() + "\n", "")
}

/// `bailiwick init`
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The file to write. Default: `bailiwick.toml` here.
    file: Option<PathBuf>,
}

impl Init {
    /// Writes the starting point; never over an existing file.
    pub(crate) fn run(self, place: &Place) -> Result<(), Failure> {
        let file = self.file.or_else(|| place.config.clone()).unwrap_or_else(|| PathBuf::from("bailiwick.toml"));
        if file.exists() {
            return Err(Failure::new(format!("{} is there already", file.display()), "give another name: bailiwick init FILE"));
        }
        create(&file, STARTER.as_bytes(), 0o644)?;
        say(format_args!("wrote {}\nnext:  bailiwick check --config {0}\nthen:  bailiwick up --config {0}", file.display()));
        Ok(())
    }
}

/// `bailiwick check`
pub(crate) fn check(place: &Place) -> Result<(), Failure> {
    let file = place.config_file()?;
    let config = Config::load(&file).map_err(config_failure)?;
    let data_dir = place.data_dir()?;
    let policies = check_policies(&config, &known_pins(&data_dir)?)?;
    if place.json {
        say(json!({
            "config": file, "trust_domain": config.trust_domain.to_string(), "people": config.people.len(), "agents": config.agents.len(),
            "systems": config.systems.len(), "policies": policies,
        }));
        return Ok(());
    }
    say(format_args!("{} is well-formed", file.display()));
    let names = |all: &mut dyn Iterator<Item = &str>| {
        let all: Vec<&str> = all.collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    };
    say(format_args!("  trust domain  {}", config.trust_domain));
    say(format_args!("  people        {}", names(&mut config.people.keys().map(PersonName::as_str))));
    say(format_args!("  agents        {}", names(&mut config.agents.keys().map(AgentName::as_str))));
    say(format_args!("  systems       {}", names(&mut config.systems.keys().map(bailiwick_core::SystemName::as_str))));
    let from = config.policy_directory.as_ref().map_or_else(|| "the built-in pack".to_owned(), |d| d.display().to_string());
    say(format_args!("  policies      {policies} from {from}"));
    if !config.exports.is_empty() {
        let exports: Vec<String> = config.exports.iter().map(|e| format!("{} ({} to {})", e.name, e.format.word(), e.sink.target())).collect();
        say(format_args!("  exports       {}", exports.join(", ")));
    }
    for agent in config.agents.keys().filter(|a| !Holder::Agent.has_public(&data_dir, a.as_str())) {
        warn(format_args!("note: agent `{agent}` has no key yet: bailiwick agent add {agent}"));
    }
    for person in config.people.keys().filter(|p| !Holder::Person.has_public(&data_dir, p.as_str())) {
        warn(format_args!("note: `{person}` has no key yet: bailiwick person add {person}"));
    }
    Ok(())
}

/// The tools that a broker on this directory has seen. None, if there never was one, or one runs now.
fn known_pins(data_dir: &Path) -> Result<Vec<Pin>, Failure> {
    if !Archive::is_there(data_dir) {
        return Ok(Vec::new());
    }
    match Archive::open(data_dir).and_then(|archive| archive.pins()) {
        Ok(pins) => Ok(pins),
        Err(StoreError::Locked { .. }) => {
            warn(
                "note: a broker runs on this directory: policies were checked against the tools that the configuration names, not those it has seen",
            );
            Ok(Vec::new())
        }
        Err(error) => Err(Failure::new(error.to_string(), error.code().hint())),
    }
}

/// Checks the policies as the start does: against the tools that were seen, and those that the configuration names. Gives how many there are.
fn check_policies(config: &Config, pins: &[Pin]) -> Result<usize, Failure> {
    let sources = crate::house::policy_sources(config).map_err(|e| Failure::new(e.to_string(), e.hint()))?;
    let engine = crate::house::engine_over(&sources, config, &config.people, pins).map_err(|report| Failure::new(report, ""))?;
    for warning in engine.warnings() {
        warn(format_args!("note: {}:{}: {}", warning.source.as_deref().unwrap_or("policies"), warning.line, warning.message));
    }
    Ok(engine.policies().len())
}

/// `bailiwick agent`
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Make a key for an agent, or take the public key of one that keeps its own.
    Add {
        /// The agent's name in the configuration.
        name: String,
        /// Take this public key (JWK or PEM) instead of making a pair.
        #[arg(long, value_name = "FILE", conflicts_with = "print")]
        public: Option<PathBuf>,
        /// Print the private key instead of keeping it here.
        #[arg(long)]
        print: bool,
    },
    /// The registered agents.
    List,
    /// Make a one-time token with which a machine registers a key of its own as this agent's.
    Enrol {
        /// The agent's name in the configuration.
        name: String,
        /// For how many minutes it holds, at most 60.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// The keys of an agent and its components: from files, and by enrolment.
    Keys {
        /// The agent's name in the configuration.
        name: String,
    },
    /// The running copies of an agent.
    Instances {
        /// The agent's name in the configuration.
        name: String,
    },
    /// End one running copy of an agent: its tokens, its tasks and their parts.
    RevokeInstance {
        /// The agent's name in the configuration.
        name: String,
        /// The copy, as `bailiwick agent instances` shows it, or a unique end of it.
        instance: String,
    },
    /// Suspend an agent: its tokens are worth nothing, its tasks end, and it gets no other until it is resumed.
    Suspend {
        /// The agent's name in the configuration.
        name: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
    /// Let an agent work again that was suspended. What ended stays ended.
    Resume {
        /// The agent's name in the configuration.
        name: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
    /// Revoke one key, from a file or by enrolment: its tokens are worth nothing, and the tasks that rest on it end.
    RevokeKey {
        /// The agent's name in the configuration.
        name: String,
        /// The key, as `bailiwick agent keys` shows it.
        key: String,
    },
}

impl AgentCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        match self {
            Self::Add { name, public, print } => add_agent(place, &name, public.as_deref(), print),
            Self::List => list_agents(place).await,
            Self::Instances { name } => super::instances::list(place, &name).await,
            Self::RevokeInstance { name, instance } => super::instances::revoke(place, &name, &instance).await,
            Self::Suspend { name, reason } => stand(place, &name, "suspend", &reason).await,
            Self::Resume { name, reason } => stand(place, &name, "resume", &reason).await,
            Self::Enrol { name, minutes } => super::enrol::give(place, &name, minutes).await,
            Self::Keys { name } => super::enrol::keys(place, &name).await,
            Self::RevokeKey { name, key } => super::enrol::revoke(place, &name, &key).await,
        }
    }
}

fn add_agent(place: &Place, name: &str, public: Option<&Path>, print: bool) -> Result<(), Failure> {
    let name: AgentName = name.parse().map_err(|e: bailiwick_core::NameError| Failure::new(e.to_string(), ""))?;
    let data_dir = place.data_dir()?;
    let domain = place.trust_domain()?;
    let key = match public {
        Some(file) => Holder::Agent.take(&data_dir, name.as_str(), file)?,
        None if print => {
            let (key, pem) = Holder::Agent.make_elsewhere(&data_dir, name.as_str())?;
            say(pem.trim_end());
            key
        }
        None => Holder::Agent.make(&data_dir, name.as_str())?,
    };
    let id = bailiwick_core::SpiffeId::agent(&domain, &name);
    if place.json && !print {
        say(json!({ "agent": name, "client_id": id, "key": key.jwk() }));
    } else {
        // With --print, standard output is the key alone.
        let tell: fn(std::fmt::Arguments<'_>) = if print { |t| warn(t) } else { |t| say(t) };
        tell(format_args!("agent `{name}` is {id}, key {}", key.id()));
    }
    let known = Config::load(&place.config_file()?).is_ok_and(|c| c.agents.contains_key(name.as_str()));
    if !known {
        warn(format_args!("note: {} has no [agents.{name}] yet: give it an owner, a purpose and tools there", place.config_file()?.display()));
    }
    Ok(())
}

/// `bailiwick agent suspend` and `resume`
async fn stand(place: &Place, name: &str, what: &str, reason: &str) -> Result<(), Failure> {
    let name: AgentName = name.parse().map_err(|e: bailiwick_core::NameError| Failure::new(e.to_string(), ""))?;
    let agent = ApiClient::of(place)?.post(&place.person()?, &format!("/v1/agents/{name}/{what}"), &json!({ "reason": reason })).await?;
    if place.json {
        say(&agent);
    } else if let Some(suspended) = agent.get("suspended") {
        say(format_args!("agent `{name}` is suspended since {}, by {}", text(suspended, "at"), text(suspended, "by")));
    } else {
        say(format_args!("agent `{name}` may work again"));
    }
    Ok(())
}

async fn list_agents(place: &Place) -> Result<(), Failure> {
    let agents = match ApiClient::of(place)?.get(&place.person()?, "/v1/agents").await {
        Ok(agents) => agents,
        Err(ClientError::Down(_)) => {
            warn("note: the broker is not running; this is what the configuration says");
            configured_agents(place)?
        }
        Err(error) => return Err(error.into()),
    };
    if place.json {
        say(&agents);
        return Ok(());
    }
    let data_dir = place.data_dir()?;
    let row = |a: &Value| {
        let name = a.get("name").or_else(|| a.get("agent")).and_then(Value::as_str).unwrap_or_default();
        let key = if Holder::Agent.has_private(&data_dir, name) {
            "here"
        } else if Holder::Agent.has_public(&data_dir, name) {
            "elsewhere"
        } else {
            "none"
        };
        let serves = if a.get("suspended").is_some() {
            "suspended"
        } else {
            match a.get("in_service").and_then(Value::as_bool) {
                Some(true) => "yes",
                Some(false) => "no",
                None => "-",
            }
        };
        let stands = [serves, key].map(str::to_owned);
        let of = |member: &str| text(a, member);
        [vec![super::screen::line(name), of("owner"), of("risk"), of("review_by")], stands.to_vec(), vec![of("purpose")]].concat()
    };
    let rows: Vec<_> = items(&agents, "agents").iter().map(row).collect();
    say(table(&["agent", "owner", "risk", "review by", "in service", "key", "purpose"], &rows, Style::of_terminal()));
    Ok(())
}

fn configured_agents(place: &Place) -> Result<Value, Failure> {
    let config = Config::load(&place.config_file()?).map_err(config_failure)?;
    let one = |entry: &crate::config::AgentEntry| {
        let a = &entry.agent;
        json!({ "name": a.name, "spiffe_id": a.spiffe_id, "owner": a.owner, "purpose": a.purpose, "risk": a.risk.word(), "review_by": a.review_by })
    };
    Ok(json!({ "agents": config.agents.values().map(one).collect::<Vec<_>>() }))
}

/// `bailiwick secret`
#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Seal a secret: read from standard input, or asked for without showing it. Never an argument.
    Set {
        /// The name by which the configuration refers to it.
        name: String,
    },
    /// The names of the sealed secrets.
    List,
    /// Remove a secret.
    Remove {
        /// Its name.
        name: String,
    },
}

impl SecretCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        let data_dir = place.data_dir()?;
        match self {
            Self::Set { name } => {
                let value = read_secret(&name).await?;
                crate::secrets::set(&data_dir, &name, value).await?;
                warn(format_args!("sealed `{name}`"));
            }
            Self::List => {
                let names = match crate::secrets::list(&data_dir).await {
                    // A broker has the store: it tells an operator the names.
                    Err(crate::secrets::SecretError::Running) => {
                        let told = ApiClient::of(place)?.get(&place.person()?, "/v1/secrets").await?;
                        super::screen::texts(&told, "secrets")
                    }
                    listed => listed?,
                };
                if place.json {
                    say(json!({ "secrets": names }));
                } else {
                    names.iter().for_each(say);
                }
            }
            Self::Remove { name } => {
                crate::secrets::remove(&data_dir, &name).await?;
                warn(format_args!("removed `{name}`"));
            }
        }
        Ok(())
    }
}

/// A secret from standard input: everything of it but one line end at its end.
async fn read_secret(name: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let read = if std::io::stdin().is_terminal() {
        let echo = Echo::off()?;
        warn(format_args!("value of `{name}` (not shown), then Enter:"));
        let typed = tokio::task::spawn_blocking(|| read_bare(std::io::stdin(), true));
        let typed = tokio::select! {
            typed = typed => typed,
            _ = tokio::signal::ctrl_c() => return Err(Failure::new("nothing was sealed", "")),
        };
        drop(echo);
        typed.map_err(|e| Failure::new(e.to_string(), ""))?
    } else {
        read_bare(std::io::stdin(), false)
    };
    let value = read.map_err(|e| Failure::new(format!("cannot read the value: {e}"), ""))?;
    let trimmed = value.strip_suffix(b"\n").map_or(value.as_slice(), |v| v.strip_suffix(b"\r").unwrap_or(v));
    match trimmed.len() {
        0 => Err(Failure::new("the value is empty", "give it on standard input")),
        n if u64::try_from(n).is_ok_and(|n| n > SECRET_BYTES_MAX) => Err(Failure::new("the value is longer than 64 KiB", "")),
        _ => Ok(Zeroizing::new(trimmed.to_vec())),
    }
}

/// Reads a secret to its end, or to the end of a line, into memory that is wiped: not through the library's buffer, which is not, and without growing,
/// which would leave what was there before.
fn read_bare(from: impl std::os::fd::AsFd, line: bool) -> std::io::Result<Zeroizing<Vec<u8>>> {
    const CHUNK: usize = 4096;
    let most = usize::try_from(SECRET_BYTES_MAX).unwrap_or(usize::MAX);
    let mut from = std::fs::File::from(from.as_fd().try_clone_to_owned()?);
    let mut value = Zeroizing::new(Vec::with_capacity(most.saturating_add(CHUNK)));
    let mut chunk = Zeroizing::new([0; CHUNK]);
    loop {
        let got = match from.read(chunk.as_mut_slice()) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            got => got?,
        };
        let read = chunk.get(..got).unwrap_or_default();
        value.extend_from_slice(read);
        if got == 0 || value.len() > most || line && read.contains(&b'\n') {
            return Ok(value);
        }
    }
}

/// While it lives, the terminal does not show what is typed.
struct Echo;

impl Echo {
    fn off() -> Result<Self, Failure> {
        if stty("-echo") {
            return Ok(Self);
        }
        Err(Failure::new("this terminal cannot hide what is typed", "give the value on standard input: bailiwick secret set NAME < FILE"))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = stty("echo");
    }
}

fn stty(what: &str) -> bool {
    Command::new("stty").arg(what).stdin(Stdio::inherit()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}
