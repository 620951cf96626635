//! Systems are started, their tools listed, judged and pinned; a tool that redefines itself is set aside until someone looks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bailiwick_core::{Effect, PersonName, SystemName, ToolName};
use bailiwick_credentials::lease::rotation::Rotation;
use bailiwick_credentials::{Injection, Part};
use bailiwick_store::{Entry, Pin, PinStatus, StoreError};
use bailiwick_wire::mcp::tool::ToolDefinition;

use crate::builtin::{LocalServer, SealedSecrets};
use crate::config::{EraChoice, RelayKind, SystemEntry, Transport, Value};
use crate::entry::{self, Body};
use crate::house::{House, StartError};
use crate::leased::mtls::{Own, WithOwn};
use crate::leases::Leasing;
use crate::registry::{Judgement, Pinned, Registry, Status, System, ToolEntry, definition_digest, judge};
use crate::upstream::{self, Inject, SessionKey, Upstream, UpstreamConfig};

/// At least this long between two listings of a system's tools (BI-012).
const LIST_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Between two checks of a system that failed one; it doubles.
const CHECK_AGAIN_FIRST: Duration = Duration::from_secs(1);
const CHECK_AGAIN_MAX: Duration = Duration::from_secs(60);
/// Tools of one system that are kept, those that were pinned before included: a system must not fill the store with names.
const TOOLS_MAX: usize = 1000;

impl Inject for Injection {
    fn env(&self, put: &mut dyn FnMut(&str, &str)) {
        Self::env(self, put);
    }
    fn headers(&self, put: &mut dyn FnMut(&str, &str)) {
        Self::headers(self, put);
    }
}

impl House {
    /// Starts every configured system and the worker that keeps its tools known.
    pub(crate) async fn start_systems(self: &Arc<Self>) -> Result<(), StartError> {
        let mut systems = std::collections::BTreeMap::new();
        for entry in self.config.systems.values() {
            let injection = Arc::new(self.injection(entry).await?);
            let (transport, leasing, own) = self.way_to(entry).await?;
            let inject: Arc<dyn Inject> = match own {
                Some(own) => Arc::new(WithOwn::new(Arc::clone(&injection), own)),
                None => Arc::clone(&injection) as Arc<dyn Inject>,
            };
            let mut entry = entry.clone();
            if leasing.as_ref().is_some_and(|l| l.issues) {
                entry.effects.extend(crate::builtin::ISSUING.map(|(tool, ..)| (tool.to_owned(), Effect::Issue)));
            }
            if let Some(builtin) = leasing.as_ref().and_then(|l| l.builtin.as_ref()) {
                // We know what our own tools do; the configuration may say more.
                for tool in builtin.tools().iter().filter_map(|t| t.get("name")?.as_str()) {
                    if let (None, Some(effect)) = (entry.effect_of(tool), builtin.effect(tool)) {
                        entry.effects.insert(tool.to_owned(), effect);
                    }
                }
            }
            let upstream =
                Upstream::start(upstream_config(&entry, transport), inject).map_err(|e| StartError::System(entry.name.to_string(), e.to_string()))?;
            let name = entry.name.clone();
            let system = System {
                entry,
                upstream: Arc::new(upstream),
                injection,
                leasing,
                listing: tokio::sync::Mutex::default(),
                listed: AtomicBool::new(false),
                listed_life: AtomicU64::new(0),
            };
            systems.insert(name, Arc::new(system));
        }
        let operations: Vec<ToolEntry> = systems.values().flat_map(operations).collect();
        self.registry.store(Arc::new(Registry::new(systems.clone(), operations)));
        for system in systems.into_values() {
            let house = Arc::clone(self);
            self.workers.spawn(async move { house.keep_tools(system).await });
        }
        Ok(())
    }

    /// How a system is reached, and how credentials are made for its tasks, if they are; and for us, if it lets nobody in without one.
    async fn way_to(&self, entry: &SystemEntry) -> Result<(upstream::Transport, Option<Arc<Leasing>>, Option<Own>), StartError> {
        let fault = |why| StartError::System(entry.name.to_string(), why);
        let leasing = |kind, prefix, builtin, rights, given| {
            let leasing = Leasing {
                system: entry.name.clone(),
                kind,
                prefix,
                builtin,
                rights,
                given,
                pool: entry.pool,
                issues: entry.issues,
                checked: AtomicBool::new(false),
                unfit: std::sync::Mutex::default(),
                places: Arc::new(tokio::sync::Semaphore::new(crate::leases::ENDS_AT_ONCE)),
                down: std::sync::Mutex::default(),
                target: entry.target(),
            };
            let leasing = Arc::new(leasing);
            self.leases.add(Arc::clone(&leasing));
            leasing
        };
        match &entry.transport {
            Transport::Stdio { command, args, cwd } => {
                let transport = upstream::Transport::Stdio { command: command.into(), args: args.clone(), cwd: cwd.clone(), env_allow: Vec::new() };
                Ok((transport, None, None))
            }
            Transport::Http { url, allow_plain } => {
                let transport = |extra_roots| upstream::Transport::Http { url: url.to_string(), allow_plain_http: *allow_plain, extra_roots };
                let Some(settings) = &entry.credential else { return Ok((transport(Vec::new()), None, None)) };
                let secrets = SealedSecrets::of(&self.store, self.sealer(), settings.secrets()).await?;
                let kept: Arc<dyn Rotation> = self.kept_secrets();
                let built = settings.build(&|name| secrets.open(name), &kept, &self.federation, &self.clock).map_err(fault)?;
                let leasing = leasing(built.kind, settings.prefix(), None, built.rights, Some(built.given));
                Ok((transport(built.roots), Some(leasing), built.own))
            }
            Transport::Builtin(settings) => {
                let secrets = SealedSecrets::of(&self.store, self.sealer(), settings.secrets()).await?;
                let built = settings.put_together(&secrets, &self.clock).map_err(fault)?;
                let leasing = leasing(built.kind, settings.prefix(), Some(Arc::clone(&built.builtin)), Vec::new(), None);
                let server = LocalServer::new(Arc::clone(&self.leases), Arc::clone(&leasing), built.builtin);
                Ok((upstream::Transport::Local(Arc::new(server)), Some(leasing), None))
            }
        }
    }

    async fn injection(&self, entry: &SystemEntry) -> Result<Injection, StartError> {
        let mut injection = Injection::default();
        for (values, header) in [(&entry.env, false), (&entry.headers, true)] {
            for (name, value) in values {
                let part = match value {
                    Value::Literal(text) => Part::literal(text),
                    Value::Secret(secret) | Value::Imported(secret) => {
                        let missing = || {
                            StartError::System(entry.name.to_string(), format!("the secret `{secret}` is not set: `bailiwick secret set {secret}`"))
                        };
                        let sealed = self.store.secret(secret).await?.ok_or_else(missing)?;
                        let opened = self
                            .sealer()
                            .open(secret, &sealed)
                            .map_err(|e| StartError::System(entry.name.to_string(), format!("the secret `{secret}`: {e}")))?;
                        if matches!(value, Value::Imported(_)) { Part::imported(opened) } else { Part::secret(opened) }
                    }
                };
                let fault = |e: &dyn std::fmt::Display| StartError::System(entry.name.to_string(), e.to_string());
                if header {
                    injection.add_header(name, part).map_err(|e| fault(&e))?
                } else {
                    injection.add_env(name, part).map_err(|e| fault(&e))?
                }
            }
        }
        Ok(injection)
    }

    /// And the tools of built-in systems that were never reached: what they offer is known beforehand, and policies may speak of it at a first start.
    pub(crate) fn with_builtin(&self, mut pins: Vec<Pin>) -> Vec<Pin> {
        let registry = self.registry.load();
        for system in registry.systems.values() {
            let Some(builtin) = system.leasing.as_ref().and_then(|leasing| leasing.builtin.as_ref()) else { continue };
            let of = &system.entry.name;
            for tool in builtin.tools() {
                let Some(name) = tool.get("name").and_then(serde_json::Value::as_str) else { continue };
                let known = pins.iter().any(|pin| pin.system == *of && pin.tool == name);
                let Some(effect) = system.entry.effect_of(name).or_else(|| builtin.effect(name)).filter(|_| !known) else { continue };
                let definition = tool.to_string().into_bytes();
                pins.push(Pin {
                    system: of.clone(),
                    tool: name.to_owned(),
                    digest: bailiwick_core::Digest::of(&definition),
                    definition,
                    effect,
                    status: PinStatus::Classified,
                    classified_by: None,
                    at: self.clock.now(),
                });
            }
        }
        pins
    }

    /// Whether credentials can be ended at a system with a server of its own, before anything of it is offered. A built-in system asks that itself.
    async fn is_fit(&self, system: &System) -> bool {
        let Some(leasing) = system.leasing.as_ref().filter(|leasing| leasing.given.is_some()) else { return true };
        let found = self.leases.check(leasing).await.err().map(|error| error.to_string());
        if let Some(why) = &found {
            tracing::warn!(system = %system.entry.name, %why, "the system is not served yet");
        }
        let fit = found.is_none();
        leasing.set_unfit(found);
        fit
    }

    /// Lists a system's tools whenever it is ready, and when it says that they changed; at most once in a while.
    async fn keep_tools(self: Arc<Self>, system: Arc<System>) {
        let mut notices = system.upstream.subscribe();
        let wanted = crate::registry::parse_raw(b"{\"toolsListChanged\":true,\"promptsListChanged\":true,\"resourcesListChanged\":true}");
        let _listening = wanted.map(|w| system.upstream.listen(&w.to_owned()));
        let mut wait = CHECK_AGAIN_FIRST;
        while !self.is_fit(&system).await {
            // Nobody waits at start for what a person has to mend.
            system.listed.store(true, Ordering::Release);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = wait.saturating_mul(2).min(CHECK_AGAIN_MAX);
        }
        loop {
            let ready = tokio::select! {
                () = self.stop.cancelled() => return,
                ready = system.upstream.ready() => ready,
            };
            if !ready {
                return;
            }
            match self.list_tools(&system).await {
                Ok(()) => {}
                Err(why) => tracing::warn!(system = %system.entry.name, %why, "the system's tools could not be listed"),
            }
            system.listed.store(true, Ordering::Release);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(LIST_AGAIN_AFTER) => {}
            }
            // Wait for a reason to look again. A lagging receiver missed some, which is a reason too.
            loop {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    notice = notices.recv() => match notice {
                        Ok(notice) if &*notice.method != "notifications/tools/list_changed" => {}
                        Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => break,
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                    },
                    // A server that died and came back may have others; so may one that does not tell.
                    () = tokio::time::sleep(Duration::from_secs(60)) => break,
                }
            }
        }
    }

    /// Lists, judges and pins the tools of one system, and puts them into the registry and the policy's world.
    ///
    /// # Errors
    /// In words; the tools known before stay as they were.
    pub async fn list_tools(&self, system: &Arc<System>) -> Result<(), String> {
        // One listing at a time: an older one must not overwrite what a newer one found.
        let _alone = system.listing.lock().await;
        let life = system.upstream.life();
        let key = SessionKey::new("bailiwick");
        let items = system.upstream.list_all(bailiwick_wire::mcp::Method::ToolsList, &key).await.map_err(|e| e.to_string())?;
        let pins: HashMap<String, Pin> = self.pins_of(&system.entry.name).await.map_err(|e| e.to_string())?;
        let registry = self.registry.load_full();
        let others: Vec<String> = registry
            .tools()
            .filter(|t| t.tool.name.system() != system.entry.name.as_str() && !t.tool.name.is_operation())
            .map(|t| t.tool.name.to_string())
            .collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        let mut entries: Vec<Arc<ToolEntry>> = operations(system).map(Arc::new).collect();
        let mut room = TOOLS_MAX.saturating_sub(pins.len());
        let (mut refused, mut beyond): (Vec<String>, usize) = (Vec::new(), 0);
        for item in &items {
            // What was injected into a system does not come back in its definitions, to be pinned and shown.
            let clean = system.injection.redact(item.raw().bytes());
            let Some(raw) = crate::registry::parse_raw(&clean) else { continue };
            let definition = match ToolDefinition::parse(raw) {
                Ok(definition) => definition,
                Err(why) => {
                    tracing::warn!(system = %system.entry.name, %why, "a tool is left out: its definition is not valid");
                    continue;
                }
            };
            if entries.iter().any(|e| e.tool.name.tool() == definition.name) {
                tracing::warn!(system = %system.entry.name, tool = %definition.name, "a tool is left out: its name is there twice");
                continue;
            }
            let pin = pins.get(&*definition.name);
            if pin.is_none() && room == 0 {
                beyond = beyond.saturating_add(1);
                continue;
            }
            match self.take_tool(system, &definition, pin, &others).await {
                Ok(Some(entry)) => {
                    room = room.saturating_sub(usize::from(pin.is_none()));
                    entries.push(Arc::new(entry));
                }
                Ok(None) => refused.push(definition.name.to_string()),
                Err(why) => tracing::warn!(system = %system.entry.name, tool = %definition.name, %why, "a tool is left out"),
            }
        }
        warn_of_idle_labels(system, &entries);
        if beyond > 0 {
            tracing::warn!(system = %system.entry.name, beyond, max = TOOLS_MAX, "the system has more tools than are kept; the rest is left out");
        }
        if let Some(first) = refused.first() {
            let detail = format!(
                "{} tools of system `{}`, the first `{first}`, hold text that people cannot see, or a remote reference; they are not registered",
                refused.len(),
                system.entry.name
            );
            self.incident("hidden_text_in_tool", None, None, &detail).await;
        }
        let count = entries.iter().filter(|e| e.definition.is_some()).count();
        tracing::info!(system = %system.entry.name, tools = count, "tools listed");
        // Policy first, which knows the tools by their pins: a task that is opened meanwhile is not told that nothing permits them.
        if let Err(report) = self.refresh_engine().await {
            tracing::error!(%report, "the policies do not fit the tools; the ones in force stay, and tools that they do not know are denied");
        }
        // The registry is read again: another system may have been listed meanwhile.
        self.registry.rcu(|now| now.with_tools_of(&system.entry.name, &entries));
        system.listed_life.store(life, Ordering::Release);
        self.tools_changed.send_modify(|n| *n = n.wrapping_add(1));
        Ok(())
    }

    /// A server that started anew may have other tools: they are looked at before the next call of one passes. Is this one still the
    /// one in force?
    pub(crate) async fn look_again(&self, tool: &ToolEntry) -> bool {
        let system = &tool.system;
        // Whoever comes while another looks waits for it, and need not look itself.
        let current = || system.listed_life.load(Ordering::Acquire) == system.upstream.life();
        drop(system.listing.lock().await);
        if !current()
            && let Err(why) = self.list_tools(system).await
        {
            tracing::warn!(system = %system.entry.name, %why, "the system started anew, and its tools could not be listed");
        }
        current() && self.registry.load().has(tool)
    }

    async fn pins_of(&self, system: &SystemName) -> Result<HashMap<String, Pin>, StoreError> {
        Ok(self.store.pins().await?.into_iter().filter(|p| p.system == *system).map(|p| (p.tool.clone(), p)).collect())
    }

    /// Judges one definition; what is new about it goes on record with its pin, in one transaction.
    async fn take_tool(
        &self,
        system: &Arc<System>,
        definition: &ToolDefinition<'_>,
        pin: Option<&Pin>,
        others: &[&str],
    ) -> Result<Option<ToolEntry>, String> {
        let digest = definition_digest(definition);
        let pinned = pin.map(|p| Pinned {
            digest: p.digest,
            effect: Some(p.effect),
            status: match p.status {
                PinStatus::Classified => Status::Classified,
                PinStatus::Proposed => Status::Review,
                PinStatus::Quarantined => Status::Quarantined,
            },
        });
        // Classified by a proposal or by the configuration is not looked at by a person: the configuration of today decides anew.
        let nobody = pin.is_some_and(|p| p.status == PinStatus::Classified && p.classified_by.is_none());
        let looked_at = pinned.map(|p| if nobody { Pinned { status: Status::Review, ..p } } else { p });
        let Some(judgement) = judge(&system.entry, definition, digest, looked_at, others) else { return Ok(None) };
        let name = ToolName::new(&system.entry.name, &definition.name).map_err(|e| e.to_string())?;
        let same = pinned.is_some_and(|p| p.digest == digest && p.status == judgement.status && p.effect == Some(judgement.effect));
        if !same {
            self.pin(&name, definition.raw().bytes(), digest, pinned, &judgement, None).await.map_err(|e| e.to_string())?;
        }
        ToolEntry::new(system, definition, name, digest, judgement.effect, judgement.status).map(Some)
    }

    /// Pins a definition, with its entry. Taking a tool away goes through the fence.
    async fn pin(
        &self,
        name: &ToolName,
        definition: &[u8],
        digest: bailiwick_core::Digest,
        before: Option<Pinned>,
        judgement: &Judgement,
        by: Option<&PersonName>,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let changed = entry::ToolChanged {
            tool: name,
            definition: digest,
            before: before.map(|p| p.digest).filter(|d| *d != digest),
            status: judgement.status.word(),
            effect: Some(judgement.effect),
            by: by.map_or(judgement.by, PersonName::as_str),
            findings: &judgement.findings,
        };
        let row = Entry::new(<entry::ToolChanged<'_> as Body>::WORD, entry::encode(now, &changed));
        let Ok(system) = name.system().parse() else { return Ok(()) };
        let pin = Pin {
            system,
            tool: name.tool().to_owned(),
            definition: definition.to_vec(),
            digest,
            effect: judgement.effect,
            status: match judgement.status {
                Status::Classified => PinStatus::Classified,
                Status::Review => PinStatus::Proposed,
                Status::Quarantined => PinStatus::Quarantined,
            },
            classified_by: by.cloned(),
            at: now,
        };
        // Taken away from callers first, then the fence: a call that found the tool before carries an old control sequence. A tool
        // that could not be called anyway moves no fence, so that a system that redefines without end cannot stop the others' calls.
        let was = before.filter(|p| p.status == Status::Classified);
        if was.is_some_and(|p| p.status != judgement.status || p.digest != digest || p.effect != Some(judgement.effect)) {
            self.registry.rcu(|now| now.without(name));
            self.store.control(row, move |w| w.pin_put(&pin)).await?;
        } else {
            self.store.change(row, move |w| w.pin_put(&pin)).await?;
        }
        if judgement.status == Status::Quarantined && before.is_none_or(|p| p.status != Status::Quarantined) {
            self.incident(
                "tool_quarantined",
                None,
                None,
                &format!("tool `{name}` cannot be called until someone looks at it: its definition changed or something was found in it"),
            )
            .await;
        }
        Ok(())
    }

    /// A reviewer looked at exactly this definition and says what the tool does.
    ///
    /// # Errors
    /// In words: there is no such tool, or it is not that definition any more.
    pub async fn classify(&self, name: &ToolName, digest: bailiwick_core::Digest, effect: Effect, by: &PersonName) -> Result<(), String> {
        let registry = self.registry.load_full();
        let tool = registry.tool(name.as_str()).ok_or_else(|| format!("there is no tool `{name}`"))?;
        if tool.tool.definition != digest {
            return Err("the tool's definition is another one by now; look again".to_owned());
        }
        let Some(definition) = &tool.definition else { return Err("an operation is classified by the configuration".to_owned()) };
        if let Some(configured) = tool.system.entry.effect_of(name.tool())
            && configured != effect
        {
            return Err(format!("the configuration says `{configured}` for this tool; change it there"));
        }
        let pins = self.pins_of(&tool.system.entry.name).await.map_err(|e| e.to_string())?;
        let before = pins.get(name.tool()).map(|p| Pinned { digest: p.digest, effect: Some(p.effect), status: tool.status });
        let judgement = Judgement { effect, status: Status::Classified, by: "review", findings: Vec::new() };
        self.pin(name, definition.raw().bytes(), digest, before, &judgement, Some(by)).await.map_err(|e| e.to_string())?;
        self.list_tools(&tool.system).await
    }
}

/// A label that is written to a name which no tool has marks nothing.
fn warn_of_idle_labels(system: &System, entries: &[Arc<ToolEntry>]) {
    let tools: Vec<&str> = entries.iter().map(|e| e.tool.name.tool()).collect();
    for name in system.entry.idle_labels(&tools) {
        tracing::warn!(system = %system.entry.name, name, "`tool_labels` names a tool that the system does not have: nothing is labelled by it");
    }
}

fn operations(system: &Arc<System>) -> impl Iterator<Item = ToolEntry> {
    let (resources, prompts) = (system.entry.resources, system.entry.prompts);
    let all = [("resources/read", resources), ("resources/subscribe", resources), ("prompts/get", prompts), ("completion/complete", prompts)];
    let system = Arc::clone(system);
    all.into_iter().filter_map(move |(name, effect)| ToolEntry::operation(&system, name, effect?))
}

fn upstream_config(entry: &SystemEntry, transport: upstream::Transport) -> UpstreamConfig {
    let mut config = UpstreamConfig::new(entry.name.clone(), transport);
    config.era = match entry.era {
        EraChoice::Auto => upstream::EraChoice::Auto,
        EraChoice::Modern => upstream::EraChoice::Modern,
        EraChoice::Legacy => upstream::EraChoice::Legacy,
    };
    config.relay = upstream::Relay {
        elicitation: entry.relay.contains(&RelayKind::Elicitation),
        sampling: entry.relay.contains(&RelayKind::Sampling),
        roots: entry.relay.contains(&RelayKind::Roots),
    };
    config.call_timeout = entry.timeout;
    config
}
