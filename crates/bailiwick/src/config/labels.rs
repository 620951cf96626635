//! Which labels the answers of a system bear, and whether each name in its `tool_labels` can mark anything.

use bailiwick_core::{Labels, SystemName, TooManyLabels};
use bailiwick_wire::mcp::Method;

use super::{RelayKind, SystemEntry};
use crate::labels::HEARD;

/// The operations of MCP, besides tools, whose texts a task can be given, and the questions of a system.
const OPERATIONS: [&str; 11] = [
    "completion/complete",
    "elicitation/create",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "roots/list",
    "sampling/createMessage",
    "tools/list",
];

impl RelayKind {
    /// The request of the system that is relayed.
    const fn method(self) -> &'static str {
        match self {
            Self::Elicitation => "elicitation/create",
            Self::Sampling => "sampling/createMessage",
            Self::Roots => "roots/list",
        }
    }
}

impl SystemEntry {
    /// What the answers of a tool or operation bear. The list of tools bears labels only where `tool_labels` names it: every task sees it.
    ///
    /// # Errors
    /// None, for a system of a configuration that was parsed: it names no more labels than a set holds.
    pub fn labels_of(&self, tool: &str) -> Result<Labels, TooManyLabels> {
        if tool == Method::ToolsList.as_str() && !self.tool_labels.keys().any(|pattern| pattern.contains('/') && covers(pattern, tool)) {
            return Ok(Labels::default());
        }
        let more = self.tool_labels.iter().filter(|(pattern, _)| covers(pattern, tool)).flat_map(|(_, labels)| labels);
        Labels::new(self.labels.iter().chain(more).cloned())
    }

    /// What a call of a tool or operation brings: its answer with the questions that the system may ask meanwhile, and then also with the
    /// notifications that may be passed on meanwhile.
    ///
    /// # Errors
    /// As for [`labels_of`](Self::labels_of).
    pub fn labels_of_call(&self, tool: &str) -> Result<(Labels, Labels), TooManyLabels> {
        let with = |labels: Labels, method: &str| labels.with(&self.labels_of(method)?);
        let answer = self.relay.iter().try_fold(self.labels_of(tool)?, |labels, kind| with(labels, kind.method()))?;
        let heard = HEARD.iter().try_fold(answer.clone(), |labels, method| with(labels, method))?;
        Ok((answer, heard))
    }

    /// Names in `tool_labels` that mark nothing, as none of these tools has such a one: most likely written wrongly.
    pub fn idle_labels<'a>(&'a self, tools: &'a [&str]) -> impl Iterator<Item = &'a str> {
        // What has a slash was checked when the configuration was read.
        let idle = |pattern: &&String| !pattern.contains('/') && !tools.iter().any(|tool| covers(pattern, tool));
        self.tool_labels.keys().filter(idle).map(String::as_str)
    }
}

/// Is there an operation for each of these names that only an operation can have?
pub(super) fn check<'a>(system: &SystemName, mut names: impl Iterator<Item = &'a String>) -> Result<(), (String, &'static str)> {
    let known = || OPERATIONS.iter().chain(&HEARD).copied();
    let Some(wrong) = names.find(|name| name.contains('/') && !known().any(|operation| covers(name, operation))) else { return Ok(()) };
    let shown: String = wrong.chars().take(80).collect();
    let nearest = known().min_by_key(|operation| steps(shown.trim_end_matches('*'), operation)).unwrap_or_default();
    Err((
        format!(
            "system `{system}`: `tool_labels` names `{}`, and no MCP operation of that name gives a task anything: the nearest is `{nearest}`",
            shown.escape_debug()
        ),
        "docs/concepts/labels.md lists the operations; a tool goes by its own name, which has no `/`",
    ))
}

/// Is this the name, or the beginning of it before a star?
fn covers(pattern: &str, tool: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == tool, |prefix| tool.starts_with(prefix))
}

/// How many characters must be put in, taken out or changed to come from one name to the other.
fn steps(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (n, a) in from.chars().enumerate() {
        let mut corner = n;
        let mut left = n.saturating_add(1);
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, b) in row.iter_mut().skip(1).zip(to.chars()) {
            let changed = corner.saturating_add(usize::from(a != b));
            corner = *cell;
            left = changed.min(corner.saturating_add(1)).min(left.saturating_add(1));
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_between_two_names_are_the_fewest() {
        for (from, to, n) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("resource/read", "resources/read", 1), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!((steps(from, to), steps(to, from)), (n, n), "{from} {to}");
        }
    }
}
