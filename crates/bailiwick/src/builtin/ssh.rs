//! Hosts reached by SSH: each command that the configuration names is a tool of its own. A model chooses a command and its arguments, and never writes
//! a command line.

mod form;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{CallId, Clock, Effect};
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::ssh::{Admin, Host, Login, Settings as KindSettings, Ssh};
use bailiwick_credentials::lease::{Account, Prefix, Tag};
use bailiwick_credentials::sessions::SessionError;
use bailiwick_credentials::sessions::ssh::{Limits, Ran, Ssh as Connections};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{Answer, Built, Builtin, Refusal, Rights, Session, UseError};
use form::{ArgumentFile, Form};

const COMMANDS_MAX: usize = 64;
const SECONDS_MAX: u64 = 3600;
const BYTES_MAX: usize = 1 << 20;
/// The name of the argument that chooses a host, where there are several.
const HOST: &str = "host";

/// `[systems.NAME.ssh]`: hosts that trust an authority of SSH certificates, and the commands that agents may run there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The name of the secret that is the authority's private key, as `ssh-keygen -t ed25519 -N ''` writes it.
    authority: String,
    /// The hosts, by name.
    hosts: BTreeMap<String, HostFile>,
    /// As whom leases log in.
    logins: LoginsFile,
    /// The broker's own account, with which it ends leases. Without it a certificate only expires.
    admin: Option<AdminFile>,
    /// What the names of this broker's leases begin with: `ag_` unless two brokers share a host.
    prefix: Option<String>,
    /// No certificate lives longer, in seconds: one minute to one day. One hour unless it is said.
    lease_seconds_max: Option<u64>,
    /// From which addresses a certificate may be used, such as `192.0.2.10/32`. From everywhere unless it is said.
    #[serde(default)]
    source_addresses: Vec<String>,
    /// The commands, by the name of their tool.
    commands: BTreeMap<String, CommandFile>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HostFile {
    /// Its name or address in the network.
    address: String,
    /// Its port; 22 unless it is said.
    port: Option<u16>,
    /// Its public host keys, as `/etc/ssh/ssh_host_*_key.pub` has them at the host. No other is trusted.
    keys: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LoginsFile {
    /// For commands that only look. As for the others unless it is said.
    read: Option<LoginFile>,
    /// For all other commands.
    write: Option<LoginFile>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LoginFile {
    /// The account's name at the hosts.
    user: String,
    /// The name in the certificate, which `AuthorizedPrincipalsFile` has for this account.
    principal: String,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AdminFile {
    /// The account's name at the hosts.
    user: String,
    /// The name in the certificate, which `AuthorizedPrincipalsFile` has for this account and for no other.
    principal: String,
    /// Whether it becomes root with `sudo -n`.
    #[serde(default)]
    sudo: bool,
    /// The folder with `revoked_keys` and `ended`; `/var/lib/bailiwick` unless it is said.
    folder: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CommandFile {
    /// What it is for, as the model reads it.
    description: String,
    /// For people.
    title: Option<String>,
    /// What it does at most: `read`, `influence`, `write`, `delete`, `transfer` or `approve`.
    #[schemars(with = "String")]
    effect: Effect,
    /// The program and its arguments, one word each; `{name}` stands for an argument.
    run: Vec<String>,
    /// The arguments, by name.
    #[serde(default)]
    arguments: BTreeMap<String, ArgumentFile>,
    /// How long it may run, in seconds; 30 unless it is said.
    seconds_max: Option<u64>,
    /// How many bytes of each of its outputs are kept; 65536 unless it is said.
    output_bytes_max: Option<usize>,
}

/// The checked table.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    authority: String,
    kind: KindSettings,
    prefix: Prefix,
    commands: Arc<BTreeMap<String, Command>>,
}

/// A command that may be run.
#[derive(Clone, Debug)]
struct Command {
    title: Option<String>,
    description: String,
    effect: Effect,
    form: Form,
    limits: Limits,
}

impl File {
    /// Parses the table. Words say what was expected.
    pub(crate) fn check(&self, _folder: &Path) -> Result<Settings, String> {
        let login = |file: &LoginFile| Login { user: file.user.clone(), principal: file.principal.clone() };
        let mut logins = BTreeMap::new();
        logins.extend(self.logins.read.as_ref().map(|file| (READ.to_owned(), login(file))));
        logins.extend(self.logins.write.as_ref().map(|file| (WRITE.to_owned(), login(file))));
        let hosts = self.hosts.iter().map(|(name, file)| {
            Host::new(name, &file.address, file.port.unwrap_or(22), &file.keys).map_err(|_| {
                format!("host `{name}`: expected an address, and public keys such as `ssh-ed25519 AAAA..` (Ed25519, ECDSA on P-256 or RSA)")
            })
        });
        let admin = self.admin.as_ref().map(|file| Admin {
            login: Login { user: file.user.clone(), principal: file.principal.clone() },
            sudo: file.sudo,
            folder: file.folder.clone().unwrap_or_else(|| "/var/lib/bailiwick".to_owned()),
        });
        let kind = KindSettings {
            hosts: hosts.collect::<Result<_, _>>()?,
            logins,
            lease_max: Duration::from_secs(self.lease_seconds_max.unwrap_or(3600)),
            source_addresses: self.source_addresses.clone(),
            force_command: None,
            admin,
        };
        kind.check().map_err(|error| error.detail().to_owned())?;
        if self.commands.is_empty() || self.commands.len() > COMMANDS_MAX {
            return Err(format!("expected 1 to {COMMANDS_MAX} commands"));
        }
        let commands = self.commands.iter().map(|(name, file)| {
            let command = file.check(kind.logins.contains_key(WRITE)).map_err(|words| format!("command `{name}`: {words}"))?;
            form::is_name(name)
                .then_some((name.clone(), command))
                .ok_or_else(|| format!("`{name}`: expected a name of small letters, digits and `_`"))
        });
        let commands = commands.collect::<Result<_, _>>()?;
        let prefix = self.prefix.as_deref().map_or(Ok(Prefix::default()), str::parse).map_err(|error| format!("prefix: {error}"))?;
        Ok(Settings { authority: self.authority.clone(), kind, prefix, commands: Arc::new(commands) })
    }
}

impl CommandFile {
    fn check(&self, writes: bool) -> Result<Command, String> {
        if self.effect != Effect::Read && !writes {
            return Err("it does more than read, and there is no login `write`".to_owned());
        }
        if self.description.trim().is_empty() {
            return Err("expected a description: it is what the model chooses by".to_owned());
        }
        if self.arguments.contains_key(HOST) {
            return Err(format!("an argument cannot be called `{HOST}`: that one chooses the host"));
        }
        let seconds = self.seconds_max.unwrap_or(30);
        let bytes = self.output_bytes_max.unwrap_or(64 * 1024);
        if !(1..=SECONDS_MAX).contains(&seconds) || !(1..=BYTES_MAX).contains(&bytes) {
            return Err(format!("expected 1 to {SECONDS_MAX} seconds and 1 to {BYTES_MAX} bytes"));
        }
        Ok(Command {
            title: self.title.clone(),
            description: self.description.clone(),
            effect: self.effect,
            form: Form::parse(&self.run, &self.arguments)?,
            limits: Limits { time: Duration::from_secs(seconds), bytes },
        })
    }
}

const READ: &str = "read";
const WRITE: &str = "write";

impl Settings {
    /// The names of the sealed secrets that it needs.
    pub(crate) fn secrets(&self) -> Vec<&str> {
        vec![&self.authority]
    }

    /// What the names of its leases begin with.
    pub(crate) fn prefix(&self) -> Prefix {
        self.prefix.clone()
    }

    /// Where its calls go: `ssh://deploy@web1.example.org:22, ..`.
    pub(crate) fn target(&self) -> String {
        let users: Vec<_> = self.kind.logins.values().map(|login| login.user.as_str()).collect();
        let hosts = self.kind.hosts.iter().map(|host| format!("ssh://{}@{}", users.join("|"), host.place()));
        hosts.collect::<Vec<_>>().join(", ")
    }

    /// Puts it together.
    pub(crate) fn build(&self, secret: &dyn Fn(&str) -> Result<Secret, String>, clock: &Arc<dyn Clock>) -> Result<Built, String> {
        let authority = secret(&self.authority)?;
        let kind = Ssh::new(self.kind.clone(), &authority, Arc::clone(clock)).map_err(|error| error.detail().to_owned())?;
        let builtin = Hosts { kind: self.kind.clone(), commands: Arc::clone(&self.commands) };
        Ok(Built { kind: Arc::new(kind), builtin: Arc::new(builtin) })
    }
}

/// The tools of some hosts.
#[derive(Debug)]
struct Hosts {
    kind: KindSettings,
    commands: Arc<BTreeMap<String, Command>>,
}

/// A call, as it will be run.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    host: String,
    words: Vec<String>,
    effect: Effect,
    limits: Limits,
}

fn ask(hosts: &[Host], commands: &BTreeMap<String, Command>, tool: &str, arguments: &Value) -> Result<Asked, Refusal> {
    let command = commands.get(tool).ok_or_else(|| Refusal::new("there is no such command"))?;
    let Value::Object(given) = arguments else { return Err(Refusal::new("expected the arguments as an object")) };
    let mut given = given.clone();
    let host = match (hosts, given.remove(HOST)) {
        ([only], None) => only.name().to_owned(),
        (several, Some(Value::String(name))) if several.len() > 1 && several.iter().any(|host| host.name() == name) => name,
        ([_], Some(_)) => return Err(Refusal::new("there is one host: leave `host` out")),
        (several, _) => {
            let names: Vec<_> = several.iter().map(Host::name).collect();
            return Err(Refusal::new(format!("expected `host` as one of: {}", names.join(", "))));
        }
    };
    let words = command.form.fill(&given).map_err(Refusal::new)?;
    Ok(Asked { host, words, effect: command.effect, limits: command.limits })
}

#[async_trait::async_trait]
impl Builtin for Hosts {
    fn tools(&self) -> Vec<Value> {
        self.commands.iter().map(|(name, command)| definition(name, command, &self.kind.hosts)).collect()
    }

    fn effect(&self, tool: &str) -> Option<Effect> {
        self.commands.get(tool).map(|command| command.effect)
    }

    fn judge(&self, tool: &str, arguments: &Value) -> Result<Effect, Refusal> {
        ask(&self.kind.hosts, &self.commands, tool, arguments).map(|asked| asked.effect)
    }

    fn rights(&self, effect: Effect) -> Rights {
        let class =
            if (effect == Effect::Read && self.kind.logins.contains_key(READ)) || !self.kind.logins.contains_key(WRITE) { READ } else { WRITE };
        Rights { class, rights: vec![class.to_owned()] }
    }

    async fn open(&self, account: &Account, _tag: &Tag) -> Result<Arc<dyn Session>, UseError> {
        // The chain is in the certificate's key id, which the host logs.
        let missing =
            || UseError { words: "the lease has no login that is configured".to_owned(), may_have_run: false, gone: true, login_refused: false };
        let login = account.ids.find("login").and_then(|right| self.kind.logins.get(right)).ok_or_else(missing)?;
        let connections = Connections::new(&self.kind.hosts, login, account).map_err(trouble)?;
        if let [only] = self.kind.hosts.as_slice() {
            connections.connect(only.name()).await.map_err(trouble)?;
        }
        Ok(Arc::new(Held { connections, hosts: self.kind.hosts.clone(), commands: Arc::clone(&self.commands) }))
    }
}

/// Connections with a lease's certificate.
struct Held {
    connections: Connections,
    hosts: Vec<Host>,
    commands: Arc<BTreeMap<String, Command>>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("connections", &self.connections).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl Session for Held {
    async fn call(&self, _call: CallId, tool: &str, arguments: &Value, cancel: &CancellationToken) -> Result<Answer, UseError> {
        let asked = ask(&self.hosts, &self.commands, tool, arguments);
        let asked = asked.map_err(|refusal| UseError { words: refusal.words, may_have_run: false, gone: false, login_refused: false })?;
        // A command that is dropped hangs up, and what ran is killed there.
        let ran = tokio::select! {
            ran = self.connections.run(&asked.host, &asked.words, asked.limits) => ran.map_err(trouble)?,
            () = cancel.cancelled() => return Err(UseError { words: "the call was cancelled".to_owned(), may_have_run: true, gone: false, login_refused: false }),
        };
        Ok(answer(&asked.host, &ran))
    }

    async fn close(&self) {
        self.connections.close().await;
    }
}

fn trouble(error: SessionError) -> UseError {
    UseError { may_have_run: error.may_have_run(), gone: error.gone(), login_refused: error.is_login_refused(), words: error.to_string() }
}

fn answer(host: &str, ran: &Ran) -> Answer {
    let mut structured = Map::new();
    structured.insert("host".to_owned(), host.into());
    structured.insert("exit_status".to_owned(), ran.status.into());
    if let Some(signal) = &ran.signal {
        structured.insert("signal".to_owned(), signal.as_str().into());
    }
    for (name, bytes) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        match text(bytes, ran.truncated) {
            Some(text) => structured.insert(name.to_owned(), text.into()),
            None => structured.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
        };
    }
    structured.insert("truncated".to_owned(), ran.truncated.into());
    structured.insert("timed_out".to_owned(), ran.late.into());
    Answer { structured: Value::Object(structured), is_error: ran.status != Some(0) }
}

/// Text, if it is one; where it was cut off, it may have been cut in mid-character.
fn text(bytes: &[u8], cut: bool) -> Option<&str> {
    match str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if cut && error.error_len().is_none() => str::from_utf8(bytes.get(..error.valid_up_to())?).ok(),
        Err(_) => None,
    }
}

fn definition(name: &str, command: &Command, hosts: &[Host]) -> Value {
    let (mut properties, mut required) = command.form.schema();
    if hosts.len() > 1 {
        let names: Vec<_> = hosts.iter().map(Host::name).collect();
        properties.insert(HOST.to_owned(), json!({ "type": "string", "enum": names, "description": "on which host" }));
        required.push(HOST.to_owned());
    }
    let reads = command.effect == Effect::Read;
    let nullable = |kind: &str| json!({ "type": [kind, "null"] });
    json!({
        "name": name,
        "title": command.title.as_deref().unwrap_or(name),
        "description": command.description,
        "inputSchema": { "type": "object", "properties": properties, "required": required, "additionalProperties": false },
        "outputSchema": {
            "type": "object",
            "properties": {
                "host": { "type": "string" },
                "exit_status": nullable("integer"),
                "signal": { "type": "string" },
                "stdout": { "type": "string" },
                "stdout_base64": { "type": "string", "description": "in place of `stdout`, where that is no text" },
                "stderr": { "type": "string" },
                "stderr_base64": { "type": "string", "description": "in place of `stderr`, where that is no text" },
                "truncated": { "type": "boolean", "description": "more was written than is shown" },
                "timed_out": { "type": "boolean", "description": "it took too long, and was killed" },
            },
            "required": ["host", "exit_status", "truncated", "timed_out"],
        },
        "annotations": {
            "readOnlyHint": reads,
            "destructiveHint": matches!(command.effect, Effect::Delete | Effect::Transfer | Effect::Approve | Effect::Issue),
            "openWorldHint": false,
        },
    })
}

#[cfg(test)]
mod tests;
