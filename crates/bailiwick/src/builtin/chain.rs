//! The headers of a message that say for which task and agent it was published, and those that a model may not write.

use std::collections::BTreeMap;

use bailiwick_core::CallId;
use bailiwick_credentials::lease::Tag;
use schemars::JsonSchema;
use serde::Deserialize;

/// How many headers the chain takes.
pub(crate) const CHAIN_HEADERS: usize = 3;

/// `headers = { task = "bailiwick-task", agent = "bailiwick-agent", call = "bailiwick-call" }`: in which headers of a message the chain stands.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChainFile {
    /// The header with the task's id; `bailiwick-task` unless it is said.
    task: Option<String>,
    /// The header with the agent's identity; `bailiwick-agent` unless it is said.
    agent: Option<String>,
    /// The header with the call's id; `bailiwick-call` unless it is said.
    call: Option<String>,
}

/// The names of those headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    task: String,
    agent: String,
    call: String,
}

impl ChainFile {
    /// Parses the table.
    pub(crate) fn check(&self) -> Result<Chain, String> {
        let name = |said: &Option<String>, usual: &str| {
            let name = said.clone().unwrap_or_else(|| usual.to_owned());
            let fits = (1..=100).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if fits { Ok(name) } else { Err(format!("`headers`: `{name}` is no name of a header: letters, digits, `-` and `_`")) }
        };
        let chain = Chain {
            task: name(&self.task, "bailiwick-task")?,
            agent: name(&self.agent, "bailiwick-agent")?,
            call: name(&self.call, "bailiwick-call")?,
        };
        let same = [(&chain.task, &chain.agent), (&chain.task, &chain.call), (&chain.agent, &chain.call)];
        if same.iter().any(|(one, other)| one.eq_ignore_ascii_case(other)) { Err("`headers`: expected three names".to_owned()) } else { Ok(chain) }
    }
}

impl Chain {
    /// Is this one of them? A model that could write it could name another task.
    pub(crate) fn has(&self, name: &str) -> bool {
        [&self.task, &self.agent, &self.call].iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// And the header of one call's message.
    pub(crate) fn of_call(&self, call: CallId) -> (String, String) {
        (self.call.clone(), call.to_string())
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
    fn the_chain_stands_in_three_headers_that_nobody_else_writes() {
        let chain = ChainFile::default().check().unwrap();
        assert!(chain.has("bailiwick-task") && chain.has("Bailiwick-Agent") && !chain.has("task"));
        let tag = Tag { task: "task_1".into(), agent: "a\r\nb: c".into(), expires_at: Timestamp::from_millis(0) };
        let headers = chain.of(&tag);
        assert_eq!((headers["bailiwick-task"].as_str(), headers["bailiwick-agent"].as_str()), ("task_1", "a??b: c"));
        let call = CallId::new(Timestamp::from_millis(1), [1; 10]);
        assert_eq!(chain.of_call(call), ("bailiwick-call".to_owned(), call.to_string()));
        assert!(chain.has("Bailiwick-Call"));
        for (task, agent) in [("", "a"), ("a b", "c"), ("a:b", "c"), ("same", "Same"), ("a", "bailiwick-call")] {
            assert!(ChainFile { task: Some(task.into()), agent: Some(agent.into()), call: None }.check().is_err(), "{task} {agent}");
        }
    }
}
