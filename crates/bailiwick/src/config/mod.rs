//! The configuration: `bailiwick.toml`, parsed into values that are well-formed, or refused with file, line, column and a hint.

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
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{
    Agent, AgentName, ComponentName, Effect, Label, Labels, Person, PersonName, RiskTier, Role, SpiffeId, SystemName, Timestamp, TrustDomain,
};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::builtin::{Settings, Tables};
use crate::leases::PoolSize;

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
    #[schemars(with = "BTreeMap<String, AgentFile>")]
    agents: BTreeMap<AgentName, AgentFile>,
    /// The sensitive systems, by name. Their tools are called `<system>.<tool>`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, SystemFile>")]
    systems: BTreeMap<SystemName, Spanned<SystemFile>>,
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

/// A registered workload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AgentFile {
    /// The person who answers for it; must be one of `people`.
    #[schemars(with = "String")]
    owner: Spanned<PersonName>,
    /// What it is for, in words.
    purpose: String,
    /// `low`, `medium` or `high`.
    #[schemars(with = "String")]
    risk: RiskTier,
    /// The models that it may run. Recorded as claimed.
    #[serde(default)]
    models: Vec<String>,
    /// The date (`YYYY-MM-DD`) by which its owner reviews it; after that it gets no tokens.
    #[schemars(with = "String")]
    review_by: Spanned<String>,
    /// The tools that it may ask for: `system.tool`, `system.*` or `*`. Empty means none.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    tools: Vec<Spanned<String>>,
    /// The agents, or components as `agent/component`, to which it may give a part of its tasks. Empty means none.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    delegates_to: Vec<Spanned<String>>,
    /// Its components, each with an identity of its own.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, components::ComponentFile>")]
    components: BTreeMap<ComponentName, components::ComponentFile>,
    /// It is a bundle of several components that cannot be told apart. What it does is recorded as the bundle's. Default false; one
    /// that has components and acts as none of them is marked all the same.
    #[serde(default)]
    undivided: bool,
    /// May its owner let MCP clients of his or her own work as this agent? Default false. See `[clients]`.
    #[serde(default)]
    interactive: bool,
    /// Tokens of others by which it can prove itself, besides its own key.
    #[serde(default)]
    #[schemars(with = "Vec<proofs::ProofFile>")]
    proofs: Vec<Spanned<proofs::ProofFile>>,
    /// SPIFFE IDs of other trust domains, or other URIs of certificates, that are this agent at the mTLS listener (RFC 8705). Those of our
    /// own trust domain need not be named. Empty means none.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    tls_client_auth_san_uri: Vec<Spanned<SpiffeId>>,
    /// False suspends it.
    #[serde(default = "yes")]
    enabled: bool,
    /// The processes of this machine that are this agent, at the broker's Unix sockets. Empty means none.
    #[serde(default)]
    #[schemars(with = "Vec<spiffe::LocalFile>")]
    local: Vec<Spanned<spiffe::LocalFile>>,
}

const fn yes() -> bool {
    true
}

/// A sensitive system: an MCP server, started as a child process (`command`) or reached by HTTP (`url`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SystemFile {
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
    binding: Demand,
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

/// An agent and what it may ask for.
#[derive(Clone, Debug)]
pub struct AgentEntry {
    /// The agent.
    pub agent: Agent,
    /// The tools that it may ask for.
    pub tools: Vec<ToolPattern>,
    /// URIs of certificates that are this agent, besides its own SPIFFE ID.
    pub san_uris: BTreeSet<SpiffeId>,
    /// The processes of this machine that are it.
    pub local: Vec<LocalRule>,
    /// To whom it may give a part of its tasks.
    pub delegates_to: Vec<Delegate>,
    /// Its components.
    pub components: BTreeMap<ComponentName, ComponentEntry>,
    /// It is a bundle that cannot be divided.
    pub undivided: bool,
}

impl AgentEntry {
    /// Does what is done by it, rather than by one of its components, come from a bundle that nobody told apart?
    #[must_use]
    pub fn is_bundle(&self) -> bool {
        self.undivided || !self.components.is_empty()
    }
}

/// `*`, `system.*` or `system.tool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolPattern(String);

impl ToolPattern {
    /// Parses a pattern: a star only as the whole or as the last part.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || format!("`{}` is no tool pattern: expected `*`, `system.*` or `system.tool`", text.escape_debug());
        let good = text == "*"
            || match text.strip_suffix(".*") {
                Some(system) => system.parse::<SystemName>().is_ok(),
                None => text.parse::<bailiwick_core::ToolName>().is_ok(),
            };
        if good { Ok(Self(text.to_owned())) } else { Err(expected()) }
    }

    /// Does it cover this tool?
    #[must_use]
    pub fn matches(&self, name: &bailiwick_core::ToolName) -> bool {
        self.0 == "*" || self.0 == name.as_str() || self.0.strip_suffix(".*").is_some_and(|system| system == name.system())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
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
        let Agents { agents, interactive, issuers } =
            agents(file.agents, issuers, &people, &file.trust_domain).map_err(|(span, what, hint)| fault(span, what, hint))?;
        let unix = file.listen.unix.as_ref().map(|given| spiffe::socket_path(given, base)).transpose();
        let unix = unix.map_err(|(span, what, hint)| fault(span, what, hint))?.map(|path| (path, file.listen.unix_open_to));
        let spiffe = spiffe::issuer(file.spiffe, &issuers, &file.trust_domain, base).map_err(|(span, what, hint)| fault(span, what, hint))?;
        let systems = systems(file.systems, base).map_err(|(span, what, hint)| fault(span, what, hint))?;
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

/// The agents, which of them people may use themselves, and whose tokens prove them.
struct Agents {
    agents: BTreeMap<AgentName, AgentEntry>,
    interactive: BTreeSet<AgentName>,
    issuers: Issuers,
}

fn agents(
    given: BTreeMap<AgentName, AgentFile>,
    mut issuers: Issuers,
    people: &BTreeMap<PersonName, Person>,
    domain: &TrustDomain,
) -> Result<Agents, Fault> {
    let (mut agents, mut interactive) = (BTreeMap::new(), BTreeSet::new());
    for (name, mut given) in given {
        let proofs = std::mem::take(&mut given.proofs);
        if given.interactive {
            interactive.insert(name.clone());
        }
        let entry = agent(name, given, people, domain)?;
        issuers.add(&entry, proofs)?;
        agents.insert(entry.agent.name.clone(), entry);
    }
    if let Some(what) = components::unknown_delegate(&agents) {
        return Err((0..0, what, "register it, or leave it out of `delegates_to`"));
    }
    spiffe::distinct(agents.values().map(|e: &AgentEntry| (&e.agent.name, e.local.as_slice()))).map_err(|(what, hint)| (0..0, what, hint))?;
    Ok(Agents { agents, interactive, issuers })
}

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

fn agent(name: AgentName, given: AgentFile, people: &BTreeMap<PersonName, Person>, domain: &TrustDomain) -> Result<AgentEntry, Fault> {
    if !people.contains_key(given.owner.get_ref()) {
        let known: Vec<&str> = people.keys().map(PersonName::as_str).collect();
        let what = format!("agent `{name}` names an owner `{}` who is not among the people ({})", given.owner.get_ref(), known.join(", "));
        return Err((given.owner.span(), what, "add the person under [people], or name another owner"));
    }
    let review_by = Timestamp::parse(&format!("{}T23:59:59Z", given.review_by.get_ref())).map_err(|_| {
        let what = format!("`{}` is no date", given.review_by.get_ref().escape_debug());
        (given.review_by.span(), what, "write it as \"2027-06-30\"")
    })?;
    let mut tools = Vec::with_capacity(given.tools.len());
    for pattern in given.tools {
        let parsed = ToolPattern::parse(pattern.get_ref()).map_err(|what| (pattern.span(), what, "a star covers a whole system or everything"))?;
        tools.push(parsed);
    }
    let local = spiffe::local(&name, given.local)?;
    let spiffe_id = SpiffeId::agent(domain, &name);
    let agent = Agent {
        name,
        spiffe_id,
        owner: given.owner.into_inner(),
        purpose: given.purpose,
        risk: given.risk,
        models: given.models,
        review_by,
        enabled: given.enabled,
    };
    let own = format!("spiffe://{domain}/");
    if let Some(given) = given.tls_client_auth_san_uri.iter().find(|uri| uri.get_ref().as_str().starts_with(&own)) {
        let what = format!("`{}` is of our own trust domain, where an agent's SPIFFE ID is made from its name", given.get_ref());
        return Err((given.span(), what, "leave it out: it is this agent's by itself, or another's"));
    }
    let san_uris = given.tls_client_auth_san_uri.into_iter().map(Spanned::into_inner).collect();
    Ok(AgentEntry {
        agent,
        tools,
        san_uris,
        local,
        delegates_to: components::delegates(given.delegates_to)?,
        components: components::components(given.components)?,
        undivided: given.undivided,
    })
}

/// The systems. A task can come to carry every label that is named anywhere among them.
fn systems(given: BTreeMap<SystemName, Spanned<SystemFile>>, base: &Path) -> Result<BTreeMap<SystemName, SystemEntry>, Fault> {
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
