//! The headers of a message that say for which task and agent it was published, and those that a model may not write.

use std::collections::BTreeMap;

use bailiwick_credentials::lease::Tag;
use schemars::JsonSchema;
use serde::Deserialize;

/// `headers = { task = "bailiwick-task", agent = "bailiwick-agent" }`: in which headers of a message the chain stands.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChainFile {
    /// The header with the task's id; `bailiwick-task` unless it is said.
    task: Option<String>,
    /// The header with the agent's identity; `bailiwick-agent` unless it is said.
    agent: Option<String>,
}

/// The names of those headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    task: String,
    agent: String,
}

impl ChainFile {
    /// Parses the table.
    pub(crate) fn check(&self) -> Result<Chain, String> {
        let name = |said: &Option<String>, usual: &str| {
            let name = said.clone().unwrap_or_else(|| usual.to_owned());
            let fits = (1..=100).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if fits { Ok(name) } else { Err(format!("`headers`: `{name}` is no name of a header: letters, digits, `-` and `_`")) }
        };
        let chain = Chain { task: name(&self.task, "bailiwick-task")?, agent: name(&self.agent, "bailiwick-agent")? };
        if chain.task.eq_ignore_ascii_case(&chain.agent) { Err("`headers`: expected two names".to_owned()) } else { Ok(chain) }
    }
}

impl Chain {
    /// Is this one of them? A model that could write it could name another task.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.task.eq_ignore_ascii_case(name) || self.agent.eq_ignore_ascii_case(name)
    }

    /// The headers of a task's messages.
    pub(crate) fn of(&self, tag: &Tag) -> BTreeMap<String, String> {
        let plain = |text: &str| text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).take(500).collect();
        BTreeMap::from([(self.task.clone(), plain(&tag.task)), (self.agent.clone(), plain(&tag.agent))])
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_core::Timestamp;

    use super::*;

    #[test]
    fn the_chain_stands_in_two_headers_that_nobody_else_writes() {
        let chain = ChainFile::default().check().unwrap();
        assert!(chain.has("bailiwick-task") && chain.has("Bailiwick-Agent") && !chain.has("task"));
        let tag = Tag { task: "task_1".into(), agent: "a\r\nb: c".into(), expires_at: Timestamp::from_millis(0) };
        let headers = chain.of(&tag);
        assert_eq!((headers["bailiwick-task"].as_str(), headers["bailiwick-agent"].as_str()), ("task_1", "a??b: c"));
        for (task, agent) in [("", "a"), ("a b", "c"), ("a:b", "c"), ("same", "Same")] {
            assert!(ChainFile { task: Some(task.into()), agent: Some(agent.into()) }.check().is_err(), "{task} {agent}");
        }
    }
}
