//! Tools from the command line: how each is classified, and the look at one that waits for it.

use clap::Subcommand;
use serde_json::{Value, json};

use bailiwick_core::Effect;
use bailiwick_wire::json::{Limits, Raw};
use bailiwick_wire::render::render;

use super::client::{ApiClient, items};
use super::screen::{Style, field, table, text, texts, unique};
use super::{Failure, Place, say, warn};

/// `bailiwick tools`
#[derive(Debug, Subcommand)]
pub(crate) enum ToolsCommand {
    /// Every tool, its effect, and where its classification stands.
    List,
    /// Look at tools that wait for a person: one by name, or the list of them. With --effect, say what it does.
    Review {
        /// The tool: `system.tool`.
        name: Option<String>,
        /// What it does: read, influence, write, delete, transfer or approve.
        #[arg(long, requires = "name", value_parser = effect)]
        effect: Option<Effect>,
    },
}

fn effect(text: &str) -> Result<Effect, String> {
    let all = || Effect::ALL.map(Effect::word).join(", ");
    Effect::ALL.into_iter().find(|e| e.word() == text).ok_or_else(|| format!("expected one of {}", all()))
}

impl ToolsCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        let api = ApiClient::of(place)?;
        let who = place.person()?;
        let answer = api.get(&who, "/v1/tools").await?;
        let tools = items(&answer, "tools");
        match self {
            Self::List if place.json => say(&answer),
            Self::List => list(tools.iter()),
            Self::Review { name: None, .. } => {
                let waiting: Vec<&Value> = tools.iter().filter(|t| text(t, "status") != "classified").collect();
                if place.json {
                    say(json!({ "tools": waiting }));
                } else if waiting.is_empty() {
                    warn("no tool waits for a review");
                } else {
                    list(waiting.into_iter());
                    say(Style::of_terminal().faint("look at one: bailiwick tools review NAME; say what it does: --effect EFFECT"));
                }
            }
            Self::Review { name: Some(name), effect } => {
                let names = tools.iter().filter_map(|t| t.get("name").and_then(Value::as_str));
                let name = unique(&name, names, "tool")?;
                let tool = tools.iter().find(|t| t.get("name").and_then(Value::as_str) == Some(name)).unwrap_or(&Value::Null);
                if !place.json {
                    say(shown(tool));
                }
                if let Some(effect) = effect {
                    let body = json!({ "effect": effect.word(), "definition": text(tool, "definition") });
                    let answer = api.post(&who, &format!("/v1/tools/{name}/classify"), &body).await?;
                    say(if place.json {
                        answer.to_string()
                    } else {
                        format!("\n{name} is classified as `{}` by {}, for exactly this definition", effect.word(), who.name)
                    });
                } else if place.json {
                    say(tool);
                }
            }
        }
        Ok(())
    }
}

fn list<'a>(tools: impl Iterator<Item = &'a Value>) {
    let row = |t: &Value| vec![text(t, "name"), text(t, "effect"), text(t, "status"), text(t, "by"), texts(t, "findings").join("; ")];
    let rows: Vec<_> = tools.map(row).collect();
    say(table(&["tool", "effect", "status", "by", "findings"], &rows, Style::of_terminal()));
}

/// A tool with all that a reviewer must see.
fn shown(tool: &Value) -> String {
    let mut lines = vec![
        text(tool, "name"),
        field("effect", &text(tool, "effect")),
        field("status", &text(tool, "status")),
        field("said by", &text(tool, "by")),
        field("target", &text(tool, "target")),
        field("definition", &text(tool, "definition")),
    ];
    for (index, finding) in texts(tool, "findings").into_iter().enumerate() {
        lines.push(field(if index == 0 { "found in it" } else { "" }, &finding));
    }
    let now = document(tool, "document");
    let pinned = document(tool, "pinned");
    match (now, pinned) {
        (Some(now), Some(pinned)) if now != pinned => {
            lines.push("  what changed since it was classified (- before, + now):".to_owned());
            lines.extend(difference(&pinned, &now).into_iter().map(|l| format!("    {l}")));
        }
        (Some(now), _) => {
            lines.push("  as its system defines it:".to_owned());
            lines.extend(now.lines().map(|l| format!("    {l}")));
        }
        (None, _) => {}
    }
    lines.join("\n")
}

/// A definition, one member a line, with nothing invisible. It may come as JSON or as its text.
fn document(tool: &Value, name: &str) -> Option<String> {
    let text = match tool.get(name)? {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Raw::parse(text.as_bytes(), &Limits::REPLY).ok().map(|raw| render(raw).text)
}

/// The lines that differ, by longest common subsequence; of long texts all lines, the old ones first.
fn difference(before: &str, now: &str) -> Vec<String> {
    const LINES_MAX: usize = 2000;
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), now.lines().collect());
    if old.len().max(new.len()) > LINES_MAX {
        return old.iter().map(|l| format!("- {l}")).chain(new.iter().map(|l| format!("+ {l}"))).collect();
    }
    // lengths[i][j]: the longest common subsequence of old[i..] and new[j..].
    let mut lengths = vec![vec![0u32; new.len().saturating_add(1)]; old.len().saturating_add(1)];
    let at = |l: &[Vec<u32>], i: usize, j: usize| l.get(i).and_then(|row| row.get(j)).copied().unwrap_or(0);
    for (i, o) in old.iter().enumerate().rev() {
        for (j, n) in new.iter().enumerate().rev() {
            let (down, right) = (i.saturating_add(1), j.saturating_add(1));
            let best = if o == n { at(&lengths, down, right).saturating_add(1) } else { at(&lengths, down, j).max(at(&lengths, i, right)) };
            if let Some(cell) = lengths.get_mut(i).and_then(|row| row.get_mut(j)) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j, mut lines) = (0usize, 0usize, Vec::new());
    loop {
        match (old.get(i), new.get(j)) {
            (Some(o), Some(n)) if o == n => {
                i = i.saturating_add(1);
                j = j.saturating_add(1);
            }
            (Some(o), n) if n.is_none() || at(&lengths, i.saturating_add(1), j) >= at(&lengths, i, j.saturating_add(1)) => {
                lines.push(format!("- {o}"));
                i = i.saturating_add(1);
            }
            (_, Some(n)) => {
                lines.push(format!("+ {n}"));
                j = j.saturating_add(1);
            }
            (_, None) => return lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_changed_definition_is_shown_by_what_changed() {
        let tool = json!({
            "name": "a.b", "effect": "read", "status": "quarantined", "by": "ana", "definition": "d", "findings": [],
            "document": {"name": "b", "description": "reads, and sends a copy away"}, "pinned": {"name": "b", "description": "reads"}
        });
        let shown = shown(&tool);
        assert!(shown.contains("- \"description\": \"reads\"") || shown.contains("-   \"description\": \"reads\""), "{shown}");
        assert!(shown.contains("sends a copy away") && !shown.contains("\"name\": \"b\""), "{shown}");
    }

    #[test]
    fn an_effect_is_one_of_the_six() {
        assert_eq!(effect("transfer"), Ok(Effect::Transfer));
        assert!(effect("Transfer").is_err() && effect("").is_err());
    }

    proptest! {
        #[test]
        fn a_difference_holds_every_line_that_only_one_side_has_and_none_of_equal_texts(a in "([abc]\n){0,8}", b in "([abd]\n){0,8}") {
            prop_assert!(difference(&a, &a).is_empty());
            let lines = difference(&a, &b);
            let removed = lines.iter().filter(|l| l.starts_with('-')).count();
            let added = lines.iter().filter(|l| l.starts_with('+')).count();
            prop_assert_eq!(a.lines().count() + added, b.lines().count() + removed);
            prop_assert_eq!(lines.iter().filter(|l| *l == "- c").count(), a.lines().filter(|l| *l == "c").count());
            prop_assert_eq!(lines.iter().filter(|l| *l == "+ d").count(), b.lines().filter(|l| *l == "d").count());
        }
    }
}
