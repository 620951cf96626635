//! The configuration: `bailiwick.toml`, parsed into values that are well-formed, or refused with file, line, column and a hint.

mod agents;
mod binding;
mod client;
mod clients;
mod components;
mod enforcement;
mod error;
mod export;
mod labels;
mod ledger;
mod proofs;
mod retention;
mod sealing;
mod sign_in;
mod spiffe;
mod starter;
mod systems;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bailiwick_core::{AgentName, Effect, Person, PersonName, RiskTier, Role, SystemName, TrustDomain};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

pub use agents::{AgentEntry, ToolPattern};
pub use binding::{Binding, Demand};
pub use client::{ClientFile, ClientServer};
pub use clients::Clients;
pub use components::{ComponentEntry, Delegate};
pub use enforcement::{EnforcementPoint, Things};
pub use error::ConfigError;
pub use export::{ExportEntry, ExportFormat, ExportFrom, ExportSink, HttpBody, LinkConfig, SyslogTransport};
pub use ledger::{LedgerConfig, WITNESSES_MAX, WitnessEntry};
pub use proofs::{IssuerEntry, IssuerKind, Issuers, KeysFrom, ProofEntry};
pub use retention::Retention;
pub use sealing::{PinPlace, Sealing, TokenPlace};
pub use sign_in::{ClientLogin, EventsConfig, ProviderConfig, Receiver, SignInConfig, StepUp, Transmitter};
pub use spiffe::{LocalRule, OpenTo, SpiffeIssuer};
pub(crate) use starter::shop_system;
pub use starter::{STARTER, default_for_one_person};
pub use systems::{EraChoice, RelayKind, SystemEntry, Transport, Unclassified, Value};
pub use tls::{MtlsConfig, TlsConfig};

/// The file as it is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// The SPIFFE trust domain under which agents get their IDs.
    #[serde(default = "default_trust_domain")]
    #[schemars(with = "String")]
    trust_domain: TrustDomain,
    /// Where the broker listens and how it is reached.
    #[serde(default)]
    listen: ListenFile,
    /// What decides.
    #[serde(default)]
    policy: PolicyFile,
    /// How held calls are decided.
    #[serde(default)]
    approvals: ApprovalsFile,
    /// Bounds on every task.
    #[serde(default)]
    tasks: TasksFile,
    /// How tasks may be given on.
    #[serde(default)]
    delegation: components::DelegationFile,
    /// Who else asks the policy engine (AuthZEN), by name.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, enforcement::EnforcementPointFile>")]
    enforcement_points: BTreeMap<String, Spanned<enforcement::EnforcementPointFile>>,
    /// Which MCP clients people may sign in with.
    #[serde(default)]
    clients: clients::ClientsFile,
    /// How people sign in at the pages.
    #[serde(default)]
    sign_in: sign_in::SignInFile,
    /// Security events that are taken and told.
    #[serde(default)]
    events: sign_in::EventsFile,
    /// How the ledger is published, and who cosigns it.
    #[serde(default)]
    ledger: ledger::LedgerFile,
    /// The humans, by name.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, PersonFile>")]
    people: BTreeMap<PersonName, PersonFile>,
    /// Those whose tokens are taken as proofs of workloads, by name.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, proofs::IssuerFile>")]
    issuers: BTreeMap<String, Spanned<proofs::IssuerFile>>,
    /// The agents, by name.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, agents::AgentFile>")]
    agents: BTreeMap<AgentName, agents::AgentFile>,
    /// The sensitive systems, by name. Their tools are called `<system>.<tool>`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, systems::SystemFile>")]
    systems: BTreeMap<SystemName, Spanned<systems::SystemFile>>,
    /// Which texts of calls are kept, and for how long.
    #[schemars(with = "Option<retention::RetentionFile>")]
    retention: Option<Spanned<retention::RetentionFile>>,
    /// Which tokens must be bound to a key.
    #[serde(default)]
    binding: binding::BindingFile,
    /// Where the root key comes from, under which everything is sealed.
    #[serde(default)]
    sealing: sealing::SealingFile,
    /// Bailiwick as the SPIFFE issuer of its trust domain.
    #[serde(default)]
    spiffe: spiffe::SpiffeFile,
    /// Where entries of the ledger go besides the ledger: one `[[export]]` for each place.
    #[serde(default)]
    #[schemars(with = "Vec<export::ExportFile>")]
    export: Vec<Spanned<export::ExportFile>>,
}

fn default_trust_domain() -> TrustDomain {
    #[expect(clippy::expect_used, reason = "a constant that a test parses")]
    "bailiwick.local".parse().expect("constant")
}

/// Where the broker listens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ListenFile {
    /// Address and port. Default `127.0.0.1:8200`.
    #[schemars(with = "String")]
    address: Spanned<String>,
    /// The URL under which clients reach it, without a trailing slash. Default: `http://` and the address.
    #[schemars(with = "Option<String>")]
    public_url: Option<Spanned<String>>,
    /// `Origin` values of browsers that may call, beside the public URL's own: sites on which an MCP client runs. They may read the answers of
    /// the MCP endpoint, the token, registration and revocation endpoints and the metadata. Each is written out; there is no `*`.
    allowed_origins: Vec<String>,
    /// `Host` values that clients may use, beside the address and the public URL's own; each is allowed as an origin too.
    allowed_hosts: Vec<String>,
    /// TLS on the address. Default: none, for a broker on this machine or behind a proxy.
    tls: Option<tls::TlsFile>,
    /// A second address at which clients prove themselves by certificates in TLS.
    mtls: Option<tls::MtlsFile>,
    /// A Unix socket beside the address, for agents on this machine. Whoever connects from a process that is an agent
    /// (`[[agents.NAME.local]]`) proves the agent by that alone. Relative to this file.
    #[schemars(with = "Option<String>")]
    unix: Option<Spanned<PathBuf>>,
    /// Who may connect to it: `owner`, `group` or `everyone` on this machine. Default `owner`.
    unix_open_to: OpenTo,
}

impl Default for ListenFile {
    fn default() -> Self {
        Self {
            address: Spanned::new(0..0, "127.0.0.1:8200".to_owned()),
            public_url: None,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            tls: None,
            mtls: None,
            unix: None,
            unix_open_to: OpenTo::Owner,
        }
    }
}

/// What decides.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct PolicyFile {
    /// A directory of `*.cedar` files, relative to this file. Without it the built-in default pack decides.
    #[schemars(with = "Option<String>")]
    directory: Option<Spanned<PathBuf>>,
}

/// How held calls are decided.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ApprovalsFile {
    /// May an agent's owner, or the person on whose behalf a task is done, approve its held calls? For installations with a single
    /// person; each such approval is marked in the record. Default false.
    owner_may_approve: bool,
    /// Minutes until a held call, or an unused approval, expires. Default 60.
    expires_minutes: u32,
    /// Held calls of one task that may wait at a time. Default 20.
    pending_max: u32,
    /// `passkey`: approvals count only if they were signed with a passkey, by a user whom it verified. `none`: a session or a key of
    /// one's own decides. Default `none`.
    step_up: sign_in::StepUpFile,
    /// With `step_up = "passkey"`: only for calls of these effects. Default: all.
    #[schemars(with = "Vec<String>")]
    step_up_effects: Vec<Effect>,
    /// With `step_up = "passkey"`: only for agents from this risk on. Default: all.
    #[schemars(with = "Option<String>")]
    step_up_risk: Option<RiskTier>,
}

impl Default for ApprovalsFile {
    fn default() -> Self {
        Self {
            owner_may_approve: false,
            expires_minutes: 60,
            pending_max: 20,
            step_up: sign_in::StepUpFile::None,
            step_up_effects: Vec::new(),
            step_up_risk: None,
        }
    }
}

/// Bounds on every task.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct TasksFile {
    /// Longest life of a task, in minutes. Default 480.
    ttl_minutes_max: u32,
    /// Life of a task that asks for none, in minutes. Default 60.
    ttl_minutes: u32,
    /// Life of a task token, in minutes. Default 5.
    token_minutes: u32,
    /// Most calls that a task may make in all. Default 10000.
    calls_max: u64,
    /// Most calls that a task may make in any minute. Default 600.
    calls_per_minute_max: u32,
    /// Most tasks that one agent may have open. Default 100.
    open_max_per_agent: u32,
}

impl Default for TasksFile {
    fn default() -> Self {
        Self { ttl_minutes_max: 480, ttl_minutes: 60, token_minutes: 5, calls_max: 10_000, calls_per_minute_max: 600, open_max_per_agent: 100 }
    }
}

/// A human.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PersonFile {
    /// What this person may do: `owner`, `approver`, `reviewer`, `auditor`, `operator`.
    #[schemars(with = "BTreeSet<String>")]
    roles: BTreeSet<Role>,
    /// This person's id at the OpenID provider (`sub`). Then nothing else names him or her there.
    sub: Option<String>,
}

/// The configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// The SPIFFE trust domain.
    pub trust_domain: TrustDomain,
    /// Where to listen.
    pub address: std::net::SocketAddr,
    /// TLS there.
    pub tls: Option<TlsConfig>,
    /// Where clients with certificates come in.
    pub mtls: Option<MtlsConfig>,
    /// Which tokens must be bound to a key.
    pub binding: Binding,
    /// How clients reach it; no trailing slash. `None`: `http://` and the address that was bound.
    pub public_url: Option<String>,
    /// Further allowed `Origin` values.
    pub allowed_origins: Vec<String>,
    /// Further allowed `Host` values.
    pub allowed_hosts: Vec<String>,
    /// A Unix socket beside the address, and who may connect to it.
    pub unix: Option<(PathBuf, OpenTo)>,
    /// What is issued as SVIDs; none without.
    pub spiffe: Option<SpiffeIssuer>,
    /// Directory of Cedar files; `None`: the built-in pack.
    pub policy_directory: Option<PathBuf>,
    /// May an agent's owner, or the person on whose behalf a task is done, approve its held calls? Each is marked in the record.
    pub owner_may_approve: bool,
    /// How long a hold lives.
    pub hold_ttl: Duration,
    /// Pending holds of one task.
    pub pending_max: u32,
    /// Which approvals count only with a passkey.
    pub step_up: StepUp,
    /// How people sign in at the pages.
    pub sign_in: SignInConfig,
    /// Security events that are taken and told.
    pub events: EventsConfig,
    /// Bounds on tasks.
    pub tasks: TaskLimits,
    /// How tasks may be given on.
    pub delegation: bailiwick_core::delegation::ChainLimits,
    /// Who else asks the policy engine, by the agent that it is.
    pub enforcement_points: BTreeMap<AgentName, EnforcementPoint>,
    /// Which MCP clients people may sign in with.
    pub clients: Clients,
    /// How the ledger is published, and who cosigns it.
    pub ledger: LedgerConfig,
    /// People by name.
    pub people: BTreeMap<PersonName, Person>,
    /// Those whose tokens are taken as proofs of workloads, and which of them are whose.
    pub issuers: Issuers,
    /// Agents by name, with the tools that each may ask for.
    pub agents: BTreeMap<AgentName, AgentEntry>,
    /// Systems by name.
    pub systems: BTreeMap<SystemName, SystemEntry>,
    /// Which texts of calls are kept, and for how long.
    pub retention: Retention,
    /// Where the root key comes from.
    pub sealing: Sealing,
    /// Where entries of the ledger go besides the ledger.
    pub exports: Vec<ExportEntry>,
}

/// Bounds on tasks.
#[derive(Clone, Copy, Debug)]
pub struct TaskLimits {
    /// Longest life.
    pub ttl_max: Duration,
    /// Life where none is asked for.
    pub ttl: Duration,
    /// Life of a token.
    pub token_ttl: Duration,
    /// Calls in all.
    pub calls_max: u64,
    /// Calls in any minute.
    pub calls_per_minute_max: u32,
    /// Open tasks of one agent.
    pub open_max: u32,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The first fault, with file, line, column, what was expected and a hint.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::unreadable(path, &e))?;
        let base = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        Self::parse(&path.display().to_string(), &text, &base)
    }

    /// Checks a text. `name` is shown in errors; relative paths are taken from `base`.
    ///
    /// # Errors
    /// The first fault.
    pub fn parse(name: &str, text: &str, base: &Path) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|e| ConfigError::toml(name, text, &e))?;
        let fault = |span: std::ops::Range<usize>, what: String, hint: &str| ConfigError::at(name, text, span, what, hint);
        let address = file.listen.address.get_ref().parse().map_err(|_| {
            fault(
                file.listen.address.span(),
                format!("`{}` is no address with a port", file.listen.address.get_ref()),
                "write it as `127.0.0.1:8200`",
            )
        })?;
        let public_url = match file.listen.public_url {
            None => None,
            Some(given) => Some(public_url(given.get_ref()).map_err(|e| fault(given.span(), e, "write it as `https://broker.example.org`"))?),
        };
        let origins = file.listen.allowed_origins.iter().try_for_each(|origin| crate::mcp::cors::check_origin(origin));
        origins.map_err(|what| fault(0..0, format!("`allowed_origins`: {what}"), "write each as a browser sends it: `https://app.example.org`"))?;
        let tls = file.listen.tls.map(|given| tls::tls(given, base));
        let mtls = file.listen.mtls.map(|given| tls::mtls(given, base)).transpose().map_err(|(span, what, hint)| fault(span, what, hint))?;
        let binding = binding::binding(&file.binding, public_url.as_deref(), address);
        if mtls.is_none() && (binding.needs_certificates() || file.systems.values().any(|s| s.get_ref().binding == Demand::Mtls)) {
            return Err(fault(
                0..0,
                "`binding` demands `mtls`, and there is no `[listen.mtls]`".to_owned(),
                "add the listener, or demand `dpop` or `any`",
            ));
        }
        let subjects = sign_in::subjects(&file.people).map_err(|(what, hint)| fault(0..0, what, hint))?;
        let sign_in = sign_in::sign_in(file.sign_in, base, subjects).map_err(|(what, hint)| fault(0..0, what, hint))?;
        let events = sign_in::events(file.events, base).map_err(|(what, hint)| fault(0..0, what, hint))?;
        let step_up = StepUp::new(file.approvals.step_up, file.approvals.step_up_effects, file.approvals.step_up_risk)
            .map_err(|(what, hint)| fault(0..0, what, hint))?;
        let people: BTreeMap<_, _> = file.people.into_iter().map(|(name, p)| (name.clone(), Person { name, roles: p.roles })).collect();
        let issuers = proofs::issuers(file.issuers, &people, base).map_err(|(span, what, hint)| fault(span, what, hint))?;
        let agents::Agents { agents, interactive, issuers } =
            agents::agents(file.agents, issuers, &people, &file.trust_domain).map_err(|(span, what, hint)| fault(span, what, hint))?;
        let unix = file.listen.unix.as_ref().map(|given| spiffe::socket_path(given, base)).transpose();
        let unix = unix.map_err(|(span, what, hint)| fault(span, what, hint))?.map(|path| (path, file.listen.unix_open_to));
        let spiffe = spiffe::issuer(file.spiffe, &issuers, &file.trust_domain, base).map_err(|(span, what, hint)| fault(span, what, hint))?;
        let systems = systems::systems(file.systems, base).map_err(|(span, what, hint)| fault(span, what, hint))?;
        let exports = exports(file.export, base).map_err(|(span, what, hint)| fault(span, what, hint))?;
        let retention_span = file.retention.as_ref().map_or(0..0, Spanned::span);
        let retention = Retention::parse(file.retention.map(Spanned::into_inner).unwrap_or_default(), |name| systems.contains_key(name))
            .map_err(|(what, hint)| fault(retention_span, what, hint))?;
        let enforcement_points =
            enforcement::points(file.enforcement_points, (&agents, &people, &systems), base).map_err(|(span, what, hint)| fault(span, what, hint))?;
        let clients = clients::clients(file.clients, interactive, &agents, base).map_err(|(span, what, hint)| fault(span, what, hint))?;
        let ledger = ledger::ledger(file.ledger, base).map_err(|(span, what, hint)| fault(span.unwrap_or(0..0), what, hint))?;
        let sealing = sealing::sealing(file.sealing, base).map_err(|(span, what, hint)| fault(span.unwrap_or(0..0), what, hint))?;
        let policy_directory = file.policy.directory.map(|given| policy_directory(&given, base)).transpose();
        let policy_directory = policy_directory.map_err(|(span, what, hint)| fault(span, what, hint))?;
        let minutes = |m: u32| Duration::from_secs(u64::from(m).saturating_mul(60));
        Ok(Self {
            trust_domain: file.trust_domain,
            address,
            tls,
            mtls,
            binding,
            public_url,
            allowed_origins: file.listen.allowed_origins,
            allowed_hosts: file.listen.allowed_hosts,
            unix,
            spiffe,
            policy_directory,
            owner_may_approve: file.approvals.owner_may_approve,
            hold_ttl: minutes(file.approvals.expires_minutes.clamp(1, 7 * 24 * 60)),
            pending_max: file.approvals.pending_max.clamp(1, 1000),
            step_up,
            sign_in,
            events,
            tasks: TaskLimits {
                ttl_max: minutes(file.tasks.ttl_minutes_max.max(1)),
                ttl: minutes(file.tasks.ttl_minutes.clamp(1, file.tasks.ttl_minutes_max.max(1))),
                token_ttl: minutes(file.tasks.token_minutes.clamp(1, 60)),
                calls_max: file.tasks.calls_max,
                calls_per_minute_max: file.tasks.calls_per_minute_max,
                open_max: file.tasks.open_max_per_agent,
            },
            delegation: file.delegation.limits(),
            enforcement_points,
            clients,
            ledger,
            people,
            issuers,
            agents,
            systems,
            retention,
            sealing,
            exports,
        })
    }

    /// The configuration's JSON Schema, generated from the types.
    #[must_use]
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(File).to_value()
    }
}

type Fault = (std::ops::Range<usize>, String, &'static str);

fn exports(given: Vec<Spanned<export::ExportFile>>, base: &Path) -> Result<Vec<ExportEntry>, Fault> {
    let mut exports: Vec<ExportEntry> = Vec::with_capacity(given.len());
    for given in given {
        let span = given.span();
        let entry = export::export(given.into_inner(), base, crate::entry::WORDS).map_err(|(what, hint)| (span.clone(), what, hint))?;
        if exports.iter().any(|e| e.name == entry.name) {
            return Err((span, format!("there are two exports called `{}`", entry.name), "each keeps its place in the ledger under its name"));
        }
        exports.push(entry);
    }
    Ok(exports)
}

fn policy_directory(given: &Spanned<PathBuf>, base: &Path) -> Result<PathBuf, Fault> {
    let path = base.join(given.get_ref());
    if path.is_dir() {
        return Ok(path);
    }
    Err((given.span(), format!("`{}` is no directory", path.display()), "make it, and put `*.cedar` files into it"))
}

fn public_url(text: &str) -> Result<String, String> {
    let url: url::Url = text.parse().map_err(|e| format!("`{}` is no URL: {e}", text.escape_debug()))?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !plain {
        return Err(format!("`{}` must be http or https with a host, and nothing after the path", text.escape_debug()));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests;
