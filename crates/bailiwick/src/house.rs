//! The house: everything that a call meets on its way, put together once at start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bailiwick_core::{Agent, Clock, LABELS_MAX, Person, PersonName, Revision, Task, Timestamp};
use bailiwick_credentials::{RecordKey, Sealer};
use bailiwick_identity::{Issuer, Sightings, Verifier};
use bailiwick_policy::{Engine, Source, ToolShape, World};
use bailiwick_store::{Entry, Payloads, Pin, PinStatus, Store, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::entry::{self, Body};
use crate::holds::Holds;
use crate::journal::DenialBook;
use crate::keyring::Keyring;
use crate::keys::Keys;
use crate::leases::Leases;
use crate::live::{LiveTask, LiveTasks};
use crate::mcp::session::Sessions;
use crate::payload::TextSealer;
use crate::publish::Publication;
use crate::registry::Registry;
use crate::root_key::RootKeeper;
use crate::shard::Pen;
use crate::sign_in::{Directory, SignIns};
use crate::state_seal::StateSeal;
use crate::tasks::EndOwed;
use crate::tokens::TokenCache;
use crate::witness::Witnesses;

/// Why the broker cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory or a key in it cannot be used.
    #[error("{what}: {why}")]
    Place {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// The store cannot be opened.
    #[error("the store cannot be opened: {0}")]
    Store(#[from] StoreError),
    /// A policy is not valid. The text is the whole report.
    #[error("{0}")]
    Policy(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// A system's configuration cannot be used.
    #[error("system `{0}`: {1}")]
    System(String, String),
    /// The machine's clock is far behind what was recorded last.
    #[error("the clock says {now}, and the newest entry of the ledger was written at {last}")]
    Clock {
        /// The time of the clock.
        now: Timestamp,
        /// The time of the newest entry.
        last: Timestamp,
    },
    /// The root key cannot be had from where it comes from.
    #[error("{what}")]
    Sealing {
        /// What.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A sink of the ledger's entries can never work.
    #[error("export `{0}`: {1}")]
    Export(String, String),
}

impl StartError {
    pub(crate) fn place(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Place { what: what.into(), why: why.to_string() }
    }

    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Place { .. } => "the data directory must be writable and yours alone (mode 0700), its keys too (mode 0600)",
            Self::Store(error) => store_hint(error),
            Self::Clock { .. } => {
                "set the machine's clock right and start again: what has expired must not live again. If it was the clock of then that was \
                 wrong, see docs/guides/recovery.md"
            }
            Self::Policy(_) => "correct the policy that the report shows; `bailiwick check` tries it without starting",
            Self::Listen { .. } => "choose another address with --listen, or stop what listens there",
            Self::System(..) => "correct the system in the configuration",
            Self::Sealing { hint, .. } => hint,
            Self::Export(..) => "correct the `[[export]]` in the configuration",
        }
    }
}

const fn store_hint(error: &StoreError) -> &'static str {
    use bailiwick_store::Reason;
    match error {
        StoreError::Locked { .. } => "another broker is running on the same data directory: stop it, or use another directory",
        StoreError::TooNew { .. } => "start the version that wrote it, or a newer one",
        StoreError::Unavailable { reason: Reason::DiskFull, .. } | StoreError::Directory { .. } => {
            "the disk may be full or not writable: a start needs about 75 MB; see docs/guides/recovery.md"
        }
        StoreError::Unavailable { reason: Reason::Damaged | Reason::Disagrees | Reason::Ledger, .. } | StoreError::Malformed { .. } => {
            "do not repair it: copy the data directory first, then see docs/guides/recovery.md, `The store is damaged`"
        }
        _ => "see docs/guides/recovery.md",
    }
}

/// The URLs under which the broker is known.
#[derive(Clone, Debug)]
pub struct Urls {
    /// Without a trailing slash. The OAuth issuer.
    pub base: String,
    /// The MCP endpoint: the audience of every token.
    pub mcp: String,
    /// The token endpoint.
    pub token: String,
    /// Where clients with certificates come in, without a trailing slash.
    pub mtls: Option<String>,
    /// `host[:port]` values that a `Host` header may have.
    pub hosts: Vec<String>,
}

impl Urls {
    /// From the base URL and the address that was bound.
    #[must_use]
    pub fn new(base: &str, bound: std::net::SocketAddr) -> Self {
        let port = bound.port();
        let mut hosts = vec![bound.to_string(), format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
        if let Ok(url) = base.parse::<url::Url>()
            && let Some(host) = url.host_str()
        {
            hosts.push(url.port().map_or_else(|| host.to_owned(), |p| format!("{host}:{p}")));
        }
        Self { base: base.to_owned(), mcp: format!("{base}/mcp"), token: format!("{base}/oauth/token"), mtls: None, hosts }
    }
}

impl Urls {
    /// Adds the listener for clients with certificates: how it is reached, or where it was bound.
    fn add_mtls(&mut self, url: Option<String>, bound: Option<std::net::SocketAddr>) {
        let Some(bound) = bound else { return };
        let base = url.unwrap_or_else(|| format!("https://{bound}"));
        self.hosts.extend(Self::new(&base, bound).hosts);
        self.mtls = Some(base);
    }
}

/// Everything that a call meets on its way.
#[derive(Debug)]
pub struct House {
    /// The configuration.
    pub config: Config,
    /// Where keys and store are.
    pub data_dir: PathBuf,
    /// Under which URLs we are known.
    pub urls: Urls,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is remembered.
    pub store: Store,
    /// Texts of calls, beside the ledger.
    pub payloads: Payloads,
    /// What signs the ledger, unless it was taken away.
    pub pen: Arc<Pen>,
    /// What is published of the ledger.
    pub publication: Publication,
    /// Credentials that are made for tasks.
    pub(crate) leases: Arc<Leases>,
    /// The issuer by whose tokens clouds know us.
    pub(crate) federation: crate::federation::Federation,
    /// What decides.
    pub engine: ArcSwap<Engine>,
    /// The systems and tools.
    pub registry: ArcSwap<Registry>,
    /// The open tasks.
    pub live: LiveTasks,
    /// The held calls.
    pub holds: Holds,
    /// Denials, aggregated.
    pub denials: DenialBook,
    /// Makes tokens.
    pub issuer: Issuer,
    /// Checks them.
    pub verifier: Verifier,
    /// Tokens that were checked.
    pub tokens: TokenCache,
    /// What is remembered of proofs of possession.
    pub possession: crate::authn::binding::Possession,
    /// Certificates of the listeners, and whose certificates of clients are believed.
    pub(crate) tls: crate::tls::Tls,
    /// Public keys of agents and people.
    pub keyring: Keyring,
    /// Keys that came by enrolment.
    pub enrolled: crate::enrol::Enrolled,
    /// Who is suspended, and which keys were revoked.
    pub standing: crate::standing::Standing,
    /// Those whose tokens are taken as proofs.
    pub proofs: crate::proofs::Proofs,
    /// Who was seen from where.
    pub sightings: Mutex<Sightings>,
    /// Seals `requestState` and handles of held calls.
    pub state_seal: StateSeal,
    /// Legacy MCP sessions.
    pub sessions: Sessions,
    /// How fast agents ask for tokens and tasks.
    pub paces: crate::paces::Paces,
    /// Erasures that are under way.
    pub(crate) retaining: crate::retention::Retaining,
    /// Calls that wait for a client's answer to a question of their system.
    pub parking: crate::mcp::parked::Parking,
    /// Other enforcement points, by the agents that they are.
    pub(crate) points: BTreeMap<bailiwick_core::AgentName, crate::authzen::Point>,
    /// What interactive clients were allowed, until they come for it.
    pub(crate) consents: crate::consent::Consents,
    /// The people in force.
    pub directory: Directory,
    /// Codes and sessions of people at the web page.
    pub sign_ins: SignIns,
    /// Sign-ins with the provider that are under way.
    pub(crate) flows: crate::sign_in::Flows,
    /// Security events that are taken and told.
    pub(crate) events: crate::events::Events,
    /// The OpenID provider.
    pub(crate) provider: Option<Arc<crate::sign_in::OpenIdProvider>>,
    /// Running copies of agents.
    pub instances: crate::instances::Instances,
    /// What was told of agents that presented what they should not have.
    pub splices: crate::delegation::Splices,
    /// Background work.
    pub workers: TaskTracker,
    /// How often labels were put on tasks.
    pub(crate) labellings: crate::labels::Labellings,
    /// Ends of tasks that could not be recorded yet; they are tried again until they are.
    pub ends_owed: Mutex<Vec<EndOwed>>,
    /// What proofs of entries are made from.
    pub nodes: crate::trace::Nodes,
    /// Told when the broker stops.
    pub stop: CancellationToken,
    /// Where the ledger's entries go besides the ledger.
    pub exports: crate::export::Exports,
    /// Held while the policy is taken anew.
    pub refreshing: tokio::sync::Mutex<()>,
    /// Rings when the tools changed.
    pub tools_changed: watch::Sender<u64>,
    /// The processes of this machine: who they are, and what is issued to them.
    pub(crate) local: crate::spiffe::Local,
    sealer: Arc<Sealer>,
    pub(crate) texts: Arc<TextSealer>,
    pub(crate) record_key: RecordKey,
    pub(crate) root_key: RootKeeper,
    sources: Vec<Source>,
}

/// Under which URLs the house is known, bound to these addresses.
fn known_as(config: &Config, bound: std::net::SocketAddr, mtls_bound: Option<std::net::SocketAddr>) -> Urls {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let base = config.public_url.clone().unwrap_or_else(|| format!("{scheme}://{bound}"));
    let mut urls = Urls::new(&base, bound);
    urls.add_mtls(config.mtls.as_ref().and_then(|m| m.public_url.clone()), mtls_bound);
    urls.hosts.extend(config.allowed_hosts.iter().cloned());
    urls
}

/// Says beside the store where the house can be reached.
fn show_endpoint(data_dir: &Path, urls: &Urls) -> Result<(), StartError> {
    let endpoint = serde_json::json!({ "url": urls.base, "mcp": urls.mcp, "pid": std::process::id() }).to_string();
    crate::place::write_private(&data_dir.join("endpoint.json"), endpoint.as_bytes()).map_err(|e| StartError::place("endpoint.json", e))
}

/// A house that is ready, and the listener on which it is to serve.
#[derive(Debug)]
pub struct Opened {
    /// The house.
    pub house: Arc<House>,
    /// Where.
    pub listener: tokio::net::TcpListener,
}

impl House {
    /// Opens the store, loads keys, policies and what was left open, and binds the address.
    ///
    /// # Errors
    /// Why it cannot start; nothing is served then.
    #[expect(clippy::too_many_lines, reason = "a line for each thing that the house has")]
    pub async fn open(config: Config, data_dir: &Path, clock: Arc<dyn Clock>) -> Result<Opened, StartError> {
        crate::place::prepare(data_dir)?;
        let mut keys = Keys::open(data_dir, &config.sealing)?;
        let pen = keys.pen()?;
        let sources = policy_sources(&config)?;
        let points = crate::authzen::points(&config)?;
        let store = crate::shard::open(&mut keys, &pen, data_dir, bailiwick_store::Options::default())?;
        crate::shard::adopt(&mut keys, &store, &pen, data_dir).await?;
        let (clock, behind) = crate::soundness::no_earlier(clock, &store).await?;
        let witnesses = Witnesses::configured(Some(&config.ledger), data_dir)?;
        let publication = Publication::new(&config.ledger, data_dir, &pen, witnesses);
        let texts = Arc::new(keys.text_sealer()?);
        store.seal_texts(Arc::clone(&texts) as _);
        let payloads = crate::retention::open_payloads(&config, data_dir)?;
        let listener = tokio::net::TcpListener::bind(config.address).await.map_err(|error| StartError::Listen { address: config.address, error })?;
        let bound = listener.local_addr().map_err(|error| StartError::Listen { address: config.address, error })?;
        let (tls, mtls_bound) = crate::tls::Tls::open(&config).await?;
        let urls = known_as(&config, bound, mtls_bound);
        // From here on connections wait for us: whoever finds the address finds us behind it.
        show_endpoint(data_dir, &urls)?;
        let directory = Directory::open(&config, &store, clock.now()).await?;
        let standing = crate::standing::Standing::open(&store, directory.revoked_keys()?).await?;
        let (engine, premature) = first_engine(&sources, &config, &directory.people(), &store.pins().await?)?;
        let (issuer, verifier) = keys.issuer(&urls.base, &config.trust_domain)?;
        let sightings = Mutex::new(Sightings::new(config.tasks.token_ttl.saturating_add(bailiwick_identity::token::SKEW)));
        let keyring = Keyring::load(data_dir, &config)?;
        let proofs = crate::proofs::Proofs::new(&config.issuers, &urls)?;
        let record_key = keys.record_key();
        let federation = crate::federation::Federation::open(data_dir, keys.sealer(), &urls.base)?;
        let state_seal = StateSeal::new(keys.state_key())?;
        let root_key = RootKeeper::new(keys.held());
        let sealer = Arc::new(keys.into_sealer());
        let local = crate::spiffe::Local::open(&config, data_dir, &sealer, clock.now())?;
        let possession = crate::authn::binding::Possession::new(&*clock, &urls.mcp, &urls.token);
        let (leases, happened) = Leases::new(store.clone(), Arc::clone(&sealer) as _, Arc::clone(&clock));
        let house = Arc::new(Self {
            leases,
            federation,
            data_dir: data_dir.to_path_buf(),
            urls,
            clock,
            store,
            pen,
            publication,
            payloads,
            texts,
            engine: ArcSwap::from_pointee(engine),
            registry: ArcSwap::default(),
            live: LiveTasks::default(),
            holds: Holds::default(),
            denials: DenialBook::default(),
            issuer,
            verifier,
            tokens: TokenCache::default(),
            possession,
            tls,
            keyring,
            enrolled: crate::enrol::Enrolled::default(),
            standing,
            proofs,
            sightings,
            state_seal,
            sessions: Sessions::default(),
            paces: crate::paces::Paces::default(),
            retaining: crate::retention::Retaining::default(),
            parking: crate::mcp::parked::Parking::default(),
            points,
            consents: crate::consent::Consents::default(),
            directory,
            sign_ins: SignIns::new(config.sign_in.session_max, config.sign_in.idle_max),
            flows: crate::sign_in::Flows::default(),
            events: crate::events::Events::new(&config.events)?,
            provider: config.sign_in.provider.clone().map(|p| crate::sign_in::OpenIdProvider::new(p).map(Arc::new)).transpose()?,
            instances: crate::instances::Instances::default(),
            splices: crate::delegation::Splices::default(),
            workers: TaskTracker::new(),
            labellings: crate::labels::Labellings::default(),
            ends_owed: Mutex::default(),
            nodes: crate::trace::Nodes::default(),
            stop: CancellationToken::new(),
            exports: crate::export::Exports::default(),
            refreshing: tokio::sync::Mutex::default(),
            tools_changed: watch::Sender::new(0),
            local,
            record_key,
            sealer,
            root_key,
            sources,
            config,
        });
        house.wake(premature, happened, behind).await?;
        Ok(Opened { house, listener })
    }

    /// Takes over what is remembered, and starts what works in the background.
    async fn wake(
        self: &Arc<Self>,
        premature: bool,
        happened: tokio::sync::mpsc::UnboundedReceiver<crate::leases::Event>,
        behind: Option<Duration>,
    ) -> Result<(), StartError> {
        // A file of keys that is none is told before anything is begun.
        self.start_proofs().await?;
        self.examine_ledger().await?;
        self.recover().await?;
        self.start_exports().await?;
        self.start_systems().await?;
        self.leases.recover(self.pen.stopped().is_none(), |task| self.live.find(task).map(|live| Arc::clone(&live.task))).await?;
        let stopped = self.pen.stopped().is_some();
        if premature && !stopped {
            self.judge_policies_late().await?;
        }
        if !stopped {
            self.settle_shard().await?;
            let revision = self.revision();
            self.append(&entry::House { what: "started", name: Some(env!("CARGO_PKG_VERSION")), digest: Some(&revision) }).await?;
        }
        self.start_events().await?;
        self.start_workers();
        self.start_tls();
        self.resume_root();
        self.start_local();
        self.start_leases(happened);
        self.start_soundness(behind);
        self.start_publication();
        Ok(())
    }

    /// The policies speak of arguments of tools that nobody has listed yet: now the systems have, or will not. Until here nothing
    /// was permitted.
    async fn judge_policies_late(self: &Arc<Self>) -> Result<(), StartError> {
        let deadline = tokio::time::Instant::now() + FIRST_LISTS;
        while self.registry.load().systems.values().any(|s| s.is_starting()) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if let Err(report) = self.refresh_engine().await {
            self.shutdown().await;
            return Err(StartError::Policy(report));
        }
        Ok(())
    }

    /// Closes what a crash left open, and takes over what the store remembers.
    async fn recover(self: &Arc<Self>) -> Result<(), StartError> {
        let now = self.clock.now();
        // Without the pen nothing can be closed; calls are refused, and everything stays as it is for the shard to come.
        if self.pen.stopped().is_none() {
            self.close_left_open("recovered").await?;
            self.finish_erasures().await?;
            self.finish_pruning().await?;
        }
        self.recover_revoked_tokens().await?;
        self.recover_ended_copies().await?;
        self.recover_enrolled().await?;
        let filter = bailiwick_store::TaskFilter { state: Some("open"), limit: usize::MAX, ..Default::default() };
        let mut rows = self.store.tasks(filter).await?;
        // What a task is a part of comes before it.
        rows.sort_by_key(|row| row.task.chain.len());
        for row in rows {
            let salt = self.recovered_salt(row.task.id).await?;
            let parent = row.task.parent().map(|parent| self.live.find(parent));
            match parent {
                Some(None) => self.owe_end(row.task.id, bailiwick_core::EndReason::Parent),
                parent => {
                    let live = LiveTask::part_of(parent.flatten(), Arc::new(row.task), row.used, salt);
                    // A whole has every label of its parts.
                    live.label(&row.labels).map_err(|_| StoreError::TooLarge {
                        what: "set of labels",
                        len: LABELS_MAX.saturating_add(1),
                        max: LABELS_MAX,
                    })?;
                    self.live.insert(live);
                }
            }
        }
        for state in ["pending", "approved", "refused"] {
            let filter = bailiwick_store::HoldFilter { state: Some(state), limit: usize::MAX, ..Default::default() };
            // One whose time ran out while nobody was here is known too, so that its end is put on record.
            for hold in self.store.holds(filter).await?.into_iter().filter(|h| state != "refused" || now < h.expires_at) {
                self.holds.put(hold);
            }
        }
        Ok(())
    }

    /// Closes intents that nobody closes any more as unknown: left by a crash, or whose outcome could not be written.
    pub(crate) async fn close_left_open(&self, code: &'static str) -> Result<(), StoreError> {
        let now = self.clock.now();
        for (intent, call) in self.store.open_intents().await? {
            let body = entry::Outcome {
                call,
                intent,
                result: "unknown",
                code: Some(code),
                answer: None,
                answer_bytes: 0,
                kept_until: None,
                told: Vec::new(),
                duration_ms: 0,
            };
            self.store.outcome(intent, call, entry::encode(now, &body)).await?;
            tracing::warn!(%call, intent, "a call was left open: what it did is unknown");
        }
        Ok(())
    }

    /// What unseals the secrets of systems.
    #[must_use]
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// The revision of the policy in force.
    #[must_use]
    pub fn revision(&self) -> Revision {
        bailiwick_core::Policy::revision(&**self.engine.load())
    }

    /// Where kinds keep secrets that outlive their tasks and are replaced at their systems.
    #[must_use]
    pub fn kept_secrets(&self) -> Arc<crate::kept_secrets::KeptSecrets> {
        Arc::new(crate::kept_secrets::KeptSecrets::new(self.store.clone(), Sealer::clone(&self.sealer), Arc::clone(&self.clock)))
    }

    /// The people who may approve a call of this task.
    #[must_use]
    pub fn approvers_of(&self, task: &Task) -> Vec<PersonName> {
        let own = self.config.owner_may_approve;
        // Whoever answers for an agent that gave the work on asks too, however many hops lie between.
        let may = |name: &PersonName| {
            task.chain
                .iter()
                .all(|hop| self.person(name.as_str()).is_some_and(|p| bailiwick_core::hold::footing(&p, &hop.owner, &task.subject, own).is_ok()))
        };
        let mut approvers = self.approvers(&task.owner, &task.subject);
        approvers.retain(may);
        approvers
    }

    /// The people who may approve calls under this owner and subject.
    #[must_use]
    pub fn approvers(&self, owner: &PersonName, subject: &PersonName) -> Vec<PersonName> {
        let own = self.config.owner_may_approve;
        let may = |p: &&Person| bailiwick_core::hold::footing(p, owner, subject, own).is_ok();
        self.directory.people().values().filter(may).map(|p| p.name.clone()).collect()
    }

    /// A registered agent.
    #[must_use]
    pub fn agent(&self, name: &str) -> Option<&Agent> {
        self.config.agents.get(name).map(|e| &e.agent)
    }

    /// Records that something happened that should not have.
    pub async fn incident(&self, what: &'static str, agent: Option<&Agent>, task: Option<bailiwick_core::TaskId>, detail: &str) {
        metrics::counter!("bailiwick_incidents_total", "what" => what).increment(1);
        tracing::warn!(what, agent = agent.map(|a| a.name.as_str()), detail, "incident");
        let now = self.clock.now();
        let id = bailiwick_core::IncidentId::new(now, crate::clock::random());
        let body = entry::Incident { incident: id, what, agent: agent.map(|a| &a.spiffe_id), task, detail };
        let row = bailiwick_store::Incident {
            id,
            kind: what.to_owned(),
            at: now,
            document: serde_json::json!({ "detail": detail, "agent": agent.map(|a| a.name.as_str()), "task": task }).to_string(),
        };
        let entry = Entry::new(<entry::Incident<'_> as Body>::WORD, entry::encode(now, &body));
        let entry = match task {
            Some(task) => entry.of_task(task),
            None => entry,
        };
        if let Err(error) = self.store.change(entry, move |w| w.incident_put(&row)).await {
            tracing::error!(%error, what, detail, "an incident could not be recorded");
        }
    }

    /// Takes the policy anew over the tools that are known now. What is decided under the old one does not pass any more.
    ///
    /// # Errors
    /// The whole report, if a policy does not fit the tools; the one in force stays then, and tools that it does not know are denied.
    pub async fn refresh_engine(&self) -> Result<(), String> {
        // One at a time: what was read first must not be put in force last.
        let _alone = self.refreshing.lock().await;
        let pins = self.with_builtin(self.store.pins().await.map_err(|e| e.to_string())?);
        let engine = engine_over(&self.sources, &self.config, &self.directory.people(), &pins)?;
        let before = self.engine.load_full();
        let after = bailiwick_core::Policy::revision(&engine);
        if bailiwick_core::Policy::revision(&*before) == after {
            return Ok(());
        }
        // First in memory, then the fence: a decision of the old engine carries an old control sequence.
        self.engine.store(Arc::new(engine));
        let body = entry::House { what: "policy", name: None, digest: Some(&after) };
        let entry = Entry::new(<entry::House<'_> as Body>::WORD, entry::encode(self.clock.now(), &body));
        if let Err(error) = self.store.control(entry, |_| Ok(())).await {
            // Not on record: not in force. It is tried again with the next listing.
            self.engine.store(before);
            return Err(error.to_string());
        }
        Ok(())
    }

    /// Sees an identity from a place; two places at once are an incident.
    pub async fn sighted(&self, agent: &Agent, used: bailiwick_identity::sightings::Used, place: bailiwick_identity::Place, now: Timestamp) {
        self.instances.see(&agent.name, place.instance, place.address, now);
        let seen = self.sightings.lock().unwrap_or_else(PoisonError::into_inner).see(&agent.name, used, place, now);
        if let Some(two) = seen {
            self.incident("two_places", Some(agent), None, &two.to_string()).await;
        }
    }

    /// Stops: no new calls, those that run are given a moment, then everything is closed.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        drop(tokio::time::timeout(Duration::from_secs(5), self.leases.drain_pools()).await);
        self.workers.close();
        let _ = tokio::time::timeout(Duration::from_secs(10), self.workers.wait()).await;
        for system in self.registry.load().systems.values() {
            system.upstream.shutdown().await;
        }
        if let Err(error) = self.append(&entry::House { what: "stopped", name: None, digest: None }).await {
            tracing::error!(%error, "the stop could not be recorded");
        }
        self.payloads.close().await;
        self.store.close().await;
    }
}

/// How long systems that were never listed are waited for before the policies are judged.
const FIRST_LISTS: Duration = Duration::from_secs(20);

/// The people in force, by name.
type People = BTreeMap<PersonName, Person>;

/// The engine over the tools that are known. On an installation whose systems were never listed, policies about their arguments
/// cannot be judged yet: then an engine that permits nothing, and true.
fn first_engine(sources: &[Source], config: &Config, people: &People, pins: &[Pin]) -> Result<(Engine, bool), StartError> {
    match engine_over(sources, config, people, pins) {
        Ok(engine) => Ok((engine, false)),
        Err(report) => {
            let unlisted = config.systems.keys().any(|name| pins.iter().all(|p| p.system != *name));
            if !unlisted {
                return Err(StartError::Policy(report));
            }
            Engine::new(&[], world(config, people, known_tools(config, pins, false)))
                .map(|engine| (engine, true))
                .map_err(|e| StartError::Policy(e.render()))
        }
    }
}

/// The policies: the files of the configured directory, or the built-in pack.
pub(crate) fn policy_sources(config: &Config) -> Result<Vec<Source>, StartError> {
    let Some(directory) = &config.policy_directory else { return Ok(vec![bailiwick_policy::default_pack()]) };
    let place = |e: std::io::Error| StartError::place(directory.display().to_string(), e);
    let mut files: Vec<PathBuf> = Vec::new();
    for file in std::fs::read_dir(directory).map_err(place)? {
        let path = file.map_err(place)?.path();
        if path.extension().is_some_and(|e| e == "cedar") {
            files.push(path);
        }
    }
    files.sort();
    let mut sources = Vec::with_capacity(files.len());
    for path in files {
        let text = std::fs::read_to_string(&path).map_err(|e| StartError::place(path.display().to_string(), e))?;
        sources.push(Source { name: path.display().to_string().into(), text: text.into() });
    }
    if sources.is_empty() {
        return Err(StartError::Policy(format!("error: no `*.cedar` file in {}: nothing would ever be permitted", directory.display())));
    }
    Ok(sources)
}

/// The policies over the tools that are known. A definition that nobody looked at is no fact of the policy's world, where it could keep
/// the policies from being taken anew; only where they speak of such a tool is it all there is.
///
/// # Errors
/// The whole report.
pub(crate) fn engine_over(sources: &[Source], config: &Config, people: &People, pins: &[Pin]) -> Result<Engine, String> {
    Engine::new(sources, world(config, people, known_tools(config, pins, false))).or_else(|report| {
        let with_unreviewed = world(config, people, known_tools(config, pins, true));
        Engine::new(sources, with_unreviewed).map_err(|_| report.render())
    })
}

/// The tools that policy knows: those that are pinned and classified, and those that the configuration names.
fn known_tools(config: &Config, pins: &[Pin], unreviewed: bool) -> Vec<ToolShape> {
    let mut tools: BTreeMap<bailiwick_core::ToolName, ToolShape> = BTreeMap::new();
    for system in config.systems.values() {
        let operations = [
            ("resources/read", system.resources),
            ("resources/subscribe", system.resources),
            ("prompts/get", system.prompts),
            ("completion/complete", system.prompts),
        ];
        let named = system.effects.iter().filter(|(name, _)| !name.ends_with('*')).map(|(name, effect)| (name.as_str(), Some(*effect)));
        for (name, effect) in operations.into_iter().chain(named) {
            if let (Some(effect), Ok(name)) = (effect, bailiwick_core::ToolName::new(&system.name, name)) {
                tools.insert(name.clone(), ToolShape { name, effect, input_schema: None });
            }
        }
    }
    for pin in pins {
        let Some(system) = config.systems.get(&pin.system) else { continue };
        let Ok(name) = bailiwick_core::ToolName::new(&pin.system, &pin.tool) else { continue };
        if pin.status != PinStatus::Classified && !unreviewed {
            continue;
        }
        let effect = system.effect_of(&pin.tool).unwrap_or(pin.effect);
        let schema = crate::registry::parse_raw(&pin.definition).and_then(|d| d.member("inputSchema")).map(|s| s.bytes().into());
        tools.insert(name.clone(), ToolShape { name, effect, input_schema: schema });
    }
    tools.into_values().collect()
}

fn world(config: &Config, people: &People, tools: Vec<ToolShape>) -> World {
    World { agents: config.agents.values().map(|e| e.agent.clone()).collect(), people: people.values().cloned().collect(), tools }
}
