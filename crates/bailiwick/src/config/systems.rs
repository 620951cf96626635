//! The systems of a configuration: how each is reached, what its tools do, and what is relayed and injected.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{Effect, Label, Labels, SystemName};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{Demand, Fault, labels};
use crate::builtin::{Settings, Tables};
use crate::leases::PoolSize;

/// A sensitive system: an MCP server, started as a child process (`command`) or reached by HTTP (`url`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SystemFile {
    /// The program of a stdio server.
    command: Option<String>,
    /// Its arguments.
    #[serde(default)]
    args: Vec<String>,
    /// Its working directory.
    cwd: Option<PathBuf>,
    /// Environment variables of the server. Values move into the sealed store when they are secrets: see `secret_env`.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Environment variables whose values are sealed secrets, by the secret's name (`bailiwick secret set NAME`).
    #[serde(default)]
    secret_env: BTreeMap<String, String>,
    /// Like `secret_env`, for values that were taken over from a client's configuration, of which nobody said which are secrets.
    #[serde(default)]
    imported_env: BTreeMap<String, String>,
    /// The URL of a streamable HTTP server.
    url: Option<String>,
    /// Headers sent to it.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Headers whose values are sealed secrets, by the secret's name.
    #[serde(default)]
    secret_headers: BTreeMap<String, String>,
    /// Like `secret_headers`, for values that were taken over from a client's configuration.
    #[serde(default)]
    imported_headers: BTreeMap<String, String>,
    /// Plain `http://` to an address that is not loopback. Default false.
    #[serde(default)]
    allow_plain_http: bool,
    /// An HTTP API with an OpenAPI document, reached with a key that is injected; each operation is a tool.
    http: Option<crate::builtin::http::File>,
    /// Subjects of NATS that messages are published to, with a user that is made for the task.
    nats: Option<crate::builtin::nats::File>,
    /// A MariaDB database, with an account that is made for the task.
    mariadb: Option<crate::builtin::mariadb::File>,
    /// Accounts of a database that were there before: lent to one task at a time, with another password after it.
    checkout: Option<crate::builtin::checkout::File>,
    /// A PostgreSQL database, with a role that is made for the task.
    postgresql: Option<crate::builtin::postgresql::File>,
    /// Exchanges and queues of RabbitMQ, with a user that is made for the task.
    rabbitmq: Option<crate::builtin::rabbitmq::File>,
    /// Keys and channels of Redis, with a user that is made for the task.
    redis: Option<crate::builtin::redis::File>,
    /// Hosts reached by SSH with certificates that are made for the task; each allowed command is a tool.
    ssh: Option<crate::builtin::ssh::File>,
    /// The effect of each tool: `read`, `influence`, `write`, `delete`, `transfer`, `approve`. A name may end in `*`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    effects: BTreeMap<String, Effect>,
    /// What its answers bear, whichever tool gives them, such as `untrusted` (a stranger could have written it): a task that is given one
    /// carries these labels from then on, and policy reads them.
    #[serde(default)]
    #[schemars(with = "BTreeSet<String>")]
    labels: BTreeSet<Label>,
    /// What the answers of a tool bear besides. A name may end in `*`; all that match count. MCP operations and messages have names too:
    /// `resources/read`, `notifications/message`. The list of tools, `tools/list`, bears labels only if it is named.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, BTreeSet<String>>")]
    tool_labels: BTreeMap<String, BTreeSet<Label>>,
    /// What happens with a tool that `effects` does not name: `review` (it cannot be called until a person classified it) or
    /// `propose` (the effect proposed from its name and annotations applies at once). Default `review`.
    #[serde(default)]
    unclassified: Unclassified,
    /// The effect of reading its resources; absent means that they are not offered.
    #[schemars(with = "Option<String>")]
    resources: Option<Effect>,
    /// The effect of using its prompts and completions; absent means that they are not offered.
    #[schemars(with = "Option<String>")]
    prompts: Option<Effect>,
    /// Requests of the server that are relayed to the client: `elicitation`, `sampling`, `roots`. Default none.
    #[serde(default)]
    relay: BTreeSet<RelayKind>,
    /// The protocol to speak with it: `auto`, `modern` (2026-07-28) or `legacy`. Default `auto`.
    #[serde(default)]
    era: EraChoice,
    /// Seconds that a call may take. Default 60.
    #[serde(default = "default_timeout")]
    timeout_seconds: u32,
    /// A system with a `url` that is given a credential made for the task, in a header or as a client certificate.
    credential: Option<crate::leased::File>,
    /// Accounts that are made beforehand, so that the first call of a task does not wait for one.
    #[serde(default)]
    pool: PoolFile,
    /// What tokens must be bound to for calls of this system: `none`, `any`, `dpop` or `mtls`. Default `none`: what `[binding]` says is enough.
    #[serde(default)]
    pub(super) binding: Demand,
    /// May credentials be handed out to agents? Adds the tools `issue_read_credential` and `issue_write_credential`, of the effect
    /// `issue`. Default false: the broker uses them itself, and the agent never sees one.
    #[serde(default)]
    issue_credentials: bool,
}

/// Accounts that wait for tasks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct PoolFile {
    /// For calls that read. At most 50.
    read: u8,
    /// For calls that write. At most 50.
    write: u8,
}

const fn default_timeout() -> u32 {
    60
}

/// What happens with a tool that nobody classified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unclassified {
    /// It cannot be called until a person looked at it.
    #[default]
    Review,
    /// The proposed effect applies at once.
    Propose,
}

/// A request of an upstream that may be relayed to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RelayKind {
    /// Asking the client's person.
    Elicitation,
    /// Asking the client's model.
    Sampling,
    /// Asking for the client's roots. Some servers *replace* their own limits by them.
    Roots,
}

/// Which protocol era to speak with a system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EraChoice {
    /// What the client speaks, if the server can; else what the server can.
    #[default]
    Auto,
    /// 2026-07-28 only.
    Modern,
    /// 2025-11-25 and before only.
    Legacy,
}

/// How a system is reached.
#[derive(Clone, Debug)]
pub enum Transport {
    /// A child process.
    Stdio {
        /// The program.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Its working directory.
        cwd: Option<PathBuf>,
    },
    /// Streamable HTTP.
    Http {
        /// The URL.
        url: url::Url,
        /// Plain HTTP beyond loopback.
        allow_plain: bool,
    },
    /// A system that knows no MCP, by built-in tools.
    Builtin(Settings),
}

/// A value that is sent to a system: literal, or the name of a sealed secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// As it stands.
    Literal(String),
    /// Looked up in the sealed store when it is used.
    Secret(String),
    /// The same, for a value that may be no secret at all: a folder, a mode.
    Imported(String),
}

/// A configured system.
#[derive(Clone, Debug)]
pub struct SystemEntry {
    /// Its name.
    pub name: SystemName,
    /// How it is reached.
    pub transport: Transport,
    /// Environment of a stdio server.
    pub env: BTreeMap<String, Value>,
    /// Headers to an HTTP server.
    pub headers: BTreeMap<String, Value>,
    /// Effects by tool name or prefix with `*`.
    pub effects: BTreeMap<String, Effect>,
    /// What all its answers bear.
    pub labels: BTreeSet<Label>,
    /// What answers bear besides, by tool name or prefix with `*`.
    pub tool_labels: BTreeMap<String, BTreeSet<Label>>,
    /// What happens with other tools.
    pub unclassified: Unclassified,
    /// The effect of resources, if they are offered.
    pub resources: Option<Effect>,
    /// The effect of prompts and completions, if they are offered.
    pub prompts: Option<Effect>,
    /// What is relayed.
    pub relay: BTreeSet<RelayKind>,
    /// Which era to speak.
    pub era: EraChoice,
    /// How long a call may take.
    pub timeout: Duration,
    /// How a credential is made for each task of a system with a `url`, if one is.
    pub(crate) credential: Option<Arc<crate::leased::Settings>>,
    /// Accounts that wait for tasks.
    pub(crate) pool: PoolSize,
    /// May credentials be handed out to agents?
    pub(crate) issues: bool,
    /// What tokens must be bound to for its calls.
    pub(crate) binding: Demand,
}

impl SystemEntry {
    /// The configured effect of a tool: the exact name wins, then the longest prefix.
    #[must_use]
    pub fn effect_of(&self, tool: &str) -> Option<Effect> {
        if let Some(effect) = self.effects.get(tool) {
            return Some(*effect);
        }
        let prefixes = self.effects.iter().filter_map(|(k, e)| k.strip_suffix('*').filter(|p| tool.starts_with(p)).map(|p| (p.len(), *e)));
        prefixes.max_by_key(|(length, _)| *length).map(|(_, effect)| effect)
    }

    /// The names of the sealed secrets that are injected into its calls.
    #[must_use]
    pub fn secret_names(&self) -> Vec<&str> {
        let named = |value| match value {
            &Value::Literal(_) => None,
            Value::Secret(name) | Value::Imported(name) => Some(name.as_str()),
        };
        let mut names: Vec<&str> = self.env.values().chain(self.headers.values()).filter_map(named).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Where calls go, for people and for the call's digest: no secrets.
    #[must_use]
    pub fn target(&self) -> String {
        match &self.transport {
            Transport::Stdio { command, args, .. } => format!("stdio:{command} {}", args.join(" ")).trim_end().to_owned(),
            Transport::Http { url, .. } => {
                let mut shown = url.clone();
                shown.set_query(None);
                shown.to_string()
            }
            Transport::Builtin(settings) => settings.target(),
        }
    }
}

/// The systems. A task can come to carry every label that is named anywhere among them.
pub(super) fn systems(given: BTreeMap<SystemName, Spanned<SystemFile>>, base: &Path) -> Result<BTreeMap<SystemName, SystemEntry>, Fault> {
    let mut systems = BTreeMap::new();
    for (name, given) in given {
        let span = given.span();
        let entry = system(name, given.into_inner(), base).map_err(|(what, hint)| (span, what, hint))?;
        systems.insert(entry.name.clone(), entry);
    }
    let of = |entry: &SystemEntry| entry.labels.iter().chain(entry.tool_labels.values().flatten()).cloned().collect::<Vec<_>>();
    match Labels::new(systems.values().flat_map(of)) {
        Ok(_) => Ok(systems),
        Err(error) => Err((0..0, format!("the systems name {error}"), "say less: a policy tells few kinds of data apart")),
    }
}

fn system(name: SystemName, given: SystemFile, base: &Path) -> Result<SystemEntry, (String, &'static str)> {
    let tables = Tables {
        checkout: given.checkout,
        http: given.http,
        mariadb: given.mariadb,
        nats: given.nats,
        postgresql: given.postgresql,
        rabbitmq: given.rabbitmq,
        redis: given.redis,
        ssh: given.ssh,
    };
    let builtin = tables.check(base).map_err(|why| (format!("system `{name}`: {why}"), "see docs/guides/leases.md"))?;
    let transport = match (given.command, given.url, builtin) {
        (None, None, Some(settings)) => {
            let more = [&given.env, &given.secret_env, &given.headers, &given.secret_headers].iter().any(|m| !m.is_empty());
            if more || !given.args.is_empty() {
                return Err((format!("system `{name}` has no server: `args`, `env` and `headers` are for systems with one"), "leave them out"));
            }
            Transport::Builtin(settings)
        }
        (_, _, Some(_)) => {
            return Err((
                format!("system `{name}` has `command` or `url`, and a table of a system without a server"),
                "keep the one by which it is reached",
            ));
        }
        (Some(command), None, None) => {
            if !given.headers.is_empty() || !given.secret_headers.is_empty() {
                return Err((format!("system `{name}` has headers, but it is started by `command`"), "use `env` or `secret_env`"));
            }
            Transport::Stdio { command, args: given.args, cwd: given.cwd.map(|c| base.join(c)) }
        }
        (None, Some(url), None) => {
            if !given.env.is_empty() || !given.secret_env.is_empty() || !given.args.is_empty() {
                return Err((format!("system `{name}` has `env` or `args`, but it is reached by `url`"), "use `headers` or `secret_headers`"));
            }
            let url: url::Url = url.parse().map_err(|e| (format!("system `{name}`: `url` is not valid: {e}"), "write it as `https://host/mcp`"))?;
            if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !url.username().is_empty() || url.password().is_some() {
                return Err((
                    format!("system `{name}`: `url` must be http or https, with a host and without credentials"),
                    "put credentials into `secret_headers`",
                ));
            }
            Transport::Http { url, allow_plain: given.allow_plain_http }
        }
        (Some(_), Some(_), None) => return Err((format!("system `{name}` has both `command` and `url`"), "keep the one by which it is reached")),
        (None, None, None) => {
            let what = format!("system `{name}` has neither `command` nor `url`, nor one of the tables {}", Tables::NAMES.join(", "));
            return Err((what, "say how it is reached"));
        }
    };
    let credential = match &given.credential {
        None => None,
        Some(file) => {
            let Transport::Http { url, .. } = &transport else {
                return Err((
                    format!("system `{name}` has a `credential`, and no `url`: its own table says how its credentials are made"),
                    "see docs/guides/leases.md",
                ));
            };
            let settings =
                file.check(url, base).map_err(|why| (format!("system `{name}`: `credential`: {why}"), "see docs/guides/cloud-credentials.md"))?;
            Some(Arc::new(settings))
        }
    };
    let pool = pool(&name, &given.pool, given.issue_credentials, &transport)?;
    labels::check(&name, given.tool_labels.keys())?;
    let join = |plain: BTreeMap<String, String>, secret: BTreeMap<String, String>, imported: BTreeMap<String, String>| {
        let plain = plain.into_iter().map(|(k, v)| (k, Value::Literal(v)));
        let secret = secret.into_iter().map(|(k, v)| (k, Value::Secret(v)));
        plain.chain(secret).chain(imported.into_iter().map(|(k, v)| (k, Value::Imported(v)))).collect()
    };
    Ok(SystemEntry {
        name,
        transport,
        env: join(given.env, given.secret_env, given.imported_env),
        headers: join(given.headers, given.secret_headers, given.imported_headers),
        effects: given.effects,
        labels: given.labels,
        tool_labels: given.tool_labels,
        unclassified: given.unclassified,
        resources: given.resources,
        prompts: given.prompts,
        relay: given.relay,
        era: given.era,
        timeout: Duration::from_secs(u64::from(given.timeout_seconds.clamp(1, 3600))),
        credential,
        pool,
        issues: given.issue_credentials,
        binding: given.binding,
    })
}

/// How many accounts wait; and whether what is said about credentials can be kept at all.
fn pool(name: &SystemName, given: &PoolFile, issues: bool, transport: &Transport) -> Result<PoolSize, (String, &'static str)> {
    let pool = PoolSize { read: given.read.into(), write: given.write.into() };
    if pool.read > 50 || pool.write > 50 {
        return Err((format!("system `{name}`: more than 50 accounts that wait"), "each is an account that may log in at the system: keep few"));
    }
    if pool != PoolSize::default() && !matches!(transport, Transport::Builtin(settings) if settings.can_wait()) {
        return Err((
            format!("system `{name}` has a `pool`, and its accounts cannot wait for a task"),
            "PostgreSQL, Redis and RabbitMQ have such: see docs/guides/leases.md",
        ));
    }
    if issues && !matches!(transport, Transport::Builtin(settings) if settings.can_be_handed_out()) {
        return Err((format!("system `{name}` has `issue_credentials`, and has none that could be handed out"), "see docs/guides/leases.md"));
    }
    Ok(pool)
}
