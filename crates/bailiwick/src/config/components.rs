//! Components of an agent, and to whom agents and components may give parts of their tasks. Empty means to nobody.

use std::collections::BTreeMap;

use bailiwick_core::delegation::{ChainLimits, DEPTH_MAX};
use bailiwick_core::{AgentName, ComponentName};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{AgentEntry, Fault, ToolPattern};

/// A component of an agent: retrieval, execution, memory, and so on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ComponentFile {
    /// What it is for, in words.
    purpose: String,
    /// The tools that it may ask for, of those that its agent may: `system.tool`, `system.*` or `*`. Empty means none.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    tools: Vec<Spanned<String>>,
    /// The agents, or components as `agent/component`, to which it may give a part of its tasks. Empty means none.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    delegates_to: Vec<Spanned<String>>,
}

/// How tasks may be given on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DelegationFile {
    /// How often a task may be given on: 3 allows a planner, a worker, a tool agent and one more. 0 allows none, at most 16. Default 3.
    depth_max: usize,
    /// May one agent stand in a chain twice? One running copy never does. Default false.
    allow_loops: bool,
}

impl Default for DelegationFile {
    fn default() -> Self {
        Self { depth_max: 3, allow_loops: false }
    }
}

impl DelegationFile {
    pub(super) fn limits(&self) -> ChainLimits {
        ChainLimits { depth_max: self.depth_max.min(DEPTH_MAX), loops: self.allow_loops }
    }
}

/// A component that is registered.
#[derive(Clone, Debug)]
pub struct ComponentEntry {
    /// What it is for.
    pub purpose: String,
    /// The tools that it may ask for, of those that its agent may.
    pub tools: Vec<ToolPattern>,
    /// To whom it may give a part of its tasks.
    pub delegates_to: Vec<Delegate>,
}

/// To whom a task may be given: an agent with all its components, or one component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegate {
    agent: AgentName,
    component: Option<ComponentName>,
}

impl Delegate {
    /// `agent` or `agent/component`.
    fn parse(text: &str) -> Result<Self, String> {
        let (agent, component) = text.split_once('/').map_or((text, None), |(agent, component)| (agent, Some(component)));
        let agent = agent.parse().map_err(|e: bailiwick_core::NameError| e.to_string())?;
        let component = component.map(str::parse).transpose().map_err(|e: bailiwick_core::NameError| e.to_string())?;
        Ok(Self { agent, component })
    }

    /// Is it this one?
    #[must_use]
    pub fn covers(&self, agent: &AgentName, component: Option<&ComponentName>) -> bool {
        self.agent == *agent && self.component.as_ref().is_none_or(|own| Some(own) == component)
    }
}

pub(super) fn components(given: BTreeMap<ComponentName, ComponentFile>) -> Result<BTreeMap<ComponentName, ComponentEntry>, Fault> {
    let entry = |(name, file): (ComponentName, ComponentFile)| {
        let tools = file
            .tools
            .into_iter()
            .map(|p| ToolPattern::parse(p.get_ref()).map_err(|what| (p.span(), what, "a star covers a whole system or everything")));
        let entry = ComponentEntry { purpose: file.purpose, tools: tools.collect::<Result<_, _>>()?, delegates_to: delegates(file.delegates_to)? };
        Ok((name, entry))
    };
    given.into_iter().map(entry).collect()
}

pub(super) fn delegates(given: Vec<Spanned<String>>) -> Result<Vec<Delegate>, Fault> {
    given
        .into_iter()
        .map(|one| Delegate::parse(one.get_ref()).map_err(|what| (one.span(), what, "write it as `agent` or `agent/component`")))
        .collect()
}

/// Is everyone to whom a task may be given registered? Gives the first who is not, in words.
pub(super) fn unknown_delegate(agents: &BTreeMap<AgentName, AgentEntry>) -> Option<String> {
    let all = agents.values().flat_map(|entry| {
        let of_components = entry.components.values().flat_map(|c| &c.delegates_to);
        entry.delegates_to.iter().chain(of_components).map(move |delegate| (&entry.agent.name, delegate))
    });
    let known = |d: &Delegate| agents.get(&d.agent).is_some_and(|e| d.component.as_ref().is_none_or(|c| e.components.contains_key(c)));
    all.into_iter().find(|(_, delegate)| !known(delegate)).map(|(name, delegate)| {
        let component = delegate.component.as_ref().map_or_else(String::new, |c| format!("/{c}"));
        format!("agent `{name}` delegates to `{}{component}`, who is not registered", delegate.agent)
    })
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn parse(more: &str) -> Result<Config, String> {
        let text = format!(
            "[people.ana]\nroles = [\"owner\"]\n[agents.planner]\nowner = \"ana\"\npurpose = \"p\"\nrisk = \"low\"\nreview_by = \"2099-01-01\"\n\
             [agents.worker]\nowner = \"ana\"\npurpose = \"p\"\nrisk = \"low\"\nreview_by = \"2099-01-01\"\n{more}"
        );
        Config::parse("test", &text, std::path::Path::new(".")).map_err(|e| e.to_string())
    }

    #[test]
    fn nobody_is_delegated_to_unless_named_and_whoever_is_named_is_registered() {
        let config = parse("").unwrap();
        assert!(config.agents["worker"].delegates_to.is_empty() && config.delegation.depth_max == 3 && !config.delegation.loops);
        let config = parse("delegates_to = [\"planner\", \"worker/memory\"]\n[agents.worker.components.memory]\npurpose = \"m\"\n").unwrap();
        let worker = &config.agents["worker"];
        let covers = |agent: &str, component: Option<&str>| {
            let component = component.map(|c| c.parse().unwrap());
            worker.delegates_to.iter().any(|d| d.covers(&agent.parse().unwrap(), component.as_ref()))
        };
        assert!(covers("planner", None) && covers("planner", Some("any")) && covers("worker", Some("memory")));
        assert!(!covers("worker", None) && !covers("worker", Some("other")) && !covers("scout", None));
        assert!(worker.components["memory"].delegates_to.is_empty() && worker.components["memory"].tools.is_empty());
        for bad in
            ["delegates_to = [\"nobody\"]\n", "delegates_to = [\"planner/none\"]\n", "delegates_to = [\"*\"]\n", "delegates_to = [\"planner/\"]\n"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("[agents.worker.components.inst_x]\npurpose = \"m\"\n").is_err());
    }
}
