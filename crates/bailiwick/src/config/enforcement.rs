//! The section `[enforcement_points]`: who else asks the policy engine (AuthZEN), about what, and under which policies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bailiwick_core::AgentName;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use super::AgentEntry;

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
}

/// Things by type and id, with their properties.
pub type Things = BTreeMap<String, BTreeMap<String, Map<String, Value>>>;

/// Another enforcement point, checked.
#[derive(Clone, Debug)]
pub struct EnforcementPoint {
    /// Its name.
    pub name: String,
    /// The directory of its policies.
    pub directory: PathBuf,
    /// Subjects that are known.
    pub subjects: Things,
    /// Resources that are known.
    pub resources: Things,
    /// Actions that are known.
    pub actions: BTreeSet<String>,
}

type Fault = (std::ops::Range<usize>, String, &'static str);

/// Most things of one kind that are known, so that a search has an end.
const KNOWN_MAX: usize = 1000;

pub(super) fn points(
    given: BTreeMap<String, Spanned<EnforcementPointFile>>,
    agents: &BTreeMap<AgentName, AgentEntry>,
    base: &Path,
) -> Result<BTreeMap<AgentName, EnforcementPoint>, Fault> {
    let mut points = BTreeMap::new();
    for (name, one) in given {
        let span = one.span();
        let file = one.into_inner();
        let agent = file.agent.get_ref();
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
            name: name.clone(),
            directory,
            subjects: things(file.subjects),
            resources: things(file.resources),
            actions: file.actions,
        };
        if points.insert(agent.clone(), point).is_some() {
            return Err((span, format!("agent `{agent}` is two enforcement points"), "each has an agent of its own"));
        }
    }
    Ok(points)
}

fn things(given: BTreeMap<String, ThingsFile>) -> Things {
    let of = |all: ThingsFile| all.into_iter().map(|(id, properties)| (id, properties.into_iter().collect())).collect();
    given.into_iter().map(|(kind, all)| (kind, of(all))).collect()
}
