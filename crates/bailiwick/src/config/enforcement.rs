//! The section `[enforcement_points]`: who else asks the policy engine (AuthZEN), about what, and under which policies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bailiwick_core::{AgentName, Person, PersonName, SystemName};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use super::{AgentEntry, SystemEntry};

/// What is known of things of one type: their properties, by id.
type ThingsFile = BTreeMap<String, BTreeMap<String, Value>>;

/// Another enforcement point.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EnforcementPointFile {
    /// The registered agent that it is: it asks with that agent's token.
    #[schemars(with = "String")]
    agent: Spanned<AgentName>,
    /// A directory of `*.cedar` files, relative to this file, which decide what it asks and nothing else.
    #[schemars(with = "String")]
    directory: Spanned<PathBuf>,
    /// Subjects that are known, by type and id, with their properties. A search finds no others.
    #[serde(default)]
    subjects: BTreeMap<String, ThingsFile>,
    /// Resources that are known, by type and id, with their properties. A search finds no others.
    #[serde(default)]
    resources: BTreeMap<String, ThingsFile>,
    /// Actions that are known. A search finds no others.
    #[serde(default)]
    actions: BTreeSet<String>,
    /// Which of its subjects of the type `user` are which people here, by its own id: nobody approves what he or she asked for. An id that is
    /// a person's name here is that person without being named.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    people: BTreeMap<String, PersonName>,
    /// Members of the context that change from one question to the next (a time, a request's id): an approval is not bound to them. It is
    /// bound to all others.
    #[serde(default)]
    volatile: BTreeSet<String>,
    /// May it ask what people, agents and tasks of this broker may do here? Default: no.
    #[serde(default)]
    asks_about_people: bool,
}

/// Things by type and id, with their properties.
pub type Things = BTreeMap<String, BTreeMap<String, Map<String, Value>>>;

/// Another enforcement point, checked.
#[derive(Clone, Debug)]
pub struct EnforcementPoint {
    /// Its name: what is asked through it is called `<name>.<action>` where people see it.
    pub name: SystemName,
    /// The directory of its policies.
    pub directory: PathBuf,
    /// Subjects that are known.
    pub subjects: Things,
    /// Resources that are known.
    pub resources: Things,
    /// Actions that are known.
    pub actions: BTreeSet<String>,
    /// Which of its users are which people.
    pub people: BTreeMap<String, PersonName>,
    /// Members of the context to which no approval is bound.
    pub volatile: BTreeSet<String>,
    /// May it ask what people may do here?
    pub asks_about_people: bool,
}

type Fault = (std::ops::Range<usize>, String, &'static str);

/// Most things of one kind that are known, so that a search has an end.
const KNOWN_MAX: usize = 1000;

/// Whom an enforcement point's name and settings are held against.
type Others<'a> = (&'a BTreeMap<AgentName, AgentEntry>, &'a BTreeMap<PersonName, Person>, &'a BTreeMap<SystemName, SystemEntry>);

pub(super) fn points(
    given: BTreeMap<String, Spanned<EnforcementPointFile>>,
    (agents, people, systems): Others<'_>,
    base: &Path,
) -> Result<BTreeMap<AgentName, EnforcementPoint>, Fault> {
    let mut points = BTreeMap::new();
    for (name, one) in given {
        let span = one.span();
        let file = one.into_inner();
        let agent = file.agent.get_ref();
        let called =
            called(&name, systems).map_err(|what| (span.clone(), what, "what it asks is shown to people under this name: give it one of its own"))?;
        if let Some((id, person)) = file.people.iter().find(|(_, person)| !people.contains_key(*person)) {
            let what = format!("enforcement point `{name}` says that its user `{id}` is `{person}`, and there is no such person");
            return Err((span, what, "name somebody of [people]"));
        }
        if !agents.contains_key(agent) {
            let what = format!("enforcement point `{name}` names an agent `{agent}` that is not registered");
            return Err((file.agent.span(), what, "register it under [agents], with `tools = []`, and give it a key"));
        }
        let directory = base.join(file.directory.get_ref());
        if !directory.is_dir() {
            let what = format!("`{}` is no directory", directory.display());
            return Err((file.directory.span(), what, "make it, and put `*.cedar` files into it"));
        }
        let known = |things: &BTreeMap<String, ThingsFile>| things.values().map(BTreeMap::len).sum::<usize>();
        if known(&file.subjects).max(known(&file.resources)).max(file.actions.len()) > KNOWN_MAX {
            return Err((
                span,
                format!("enforcement point `{name}` knows more than {KNOWN_MAX} things of a kind"),
                "name those that a search should find",
            ));
        }
        let point = EnforcementPoint {
            name: called,
            directory,
            subjects: things(file.subjects),
            resources: things(file.resources),
            actions: file.actions,
            people: file.people,
            volatile: file.volatile,
            asks_about_people: file.asks_about_people,
        };
        if points.insert(agent.clone(), point).is_some() {
            return Err((span, format!("agent `{agent}` is two enforcement points"), "each has an agent of its own"));
        }
    }
    Ok(points)
}

fn called(name: &str, systems: &BTreeMap<SystemName, SystemEntry>) -> Result<SystemName, String> {
    let called: SystemName = name.parse().map_err(|e| format!("an enforcement point cannot be called `{}`: {e}", name.escape_debug()))?;
    if systems.contains_key(&called) { Err(format!("a system and an enforcement point are both called `{called}`")) } else { Ok(called) }
}

fn things(given: BTreeMap<String, ThingsFile>) -> Things {
    let of = |all: ThingsFile| all.into_iter().map(|(id, properties)| (id, properties.into_iter().collect())).collect();
    given.into_iter().map(|(kind, all)| (kind, of(all))).collect()
}
