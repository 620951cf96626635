//! The agents of a configuration: what each is, the tools that it may ask for, and how it proves itself.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_core::{Agent, AgentName, ComponentName, Person, PersonName, RiskTier, SpiffeId, SystemName, Timestamp, TrustDomain};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{ComponentEntry, Delegate, Fault, Issuers, LocalRule, components, proofs, spiffe};

/// A registered workload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentFile {
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

/// The agents, which of them people may use themselves, and whose tokens prove them.
pub(super) struct Agents {
    pub(super) agents: BTreeMap<AgentName, AgentEntry>,
    pub(super) interactive: BTreeSet<AgentName>,
    pub(super) issuers: Issuers,
}

pub(super) fn agents(
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
