//! Reads what the conformance suite wrote and compares two runs check by check, verdicts and payloads.
//!
//! Counting passes is not enough: the suite calls some answers a success that carry an error text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Differences that must be there, by a part of the member's path, each with its reason. The documentation repeats them.
const BY_DESIGN: &[(&str, &str)] = &[
    ("hostHeader", "the suite talks to another port"),
    ("originHeader", "the suite talks to another port"),
    ("serverUrl", "the suite talks to another port"),
    ("event/id", "event ids belong to a stream, and which stream comes first is chance"),
    ("io.modelcontextprotocol/serverInfo", "the gateway answers in its own name"),
    ("serverInfo", "the gateway answers in its own name"),
    ("cacheScope", "what a task may see is private to its token"),
    ("ttlMs", "what a task may see can change at any time"),
];

/// One check of a scenario; a scenario can make a check of one id several times, hence the number.
pub(crate) type CheckId = (String, String, usize);

/// The verdict and the payload of one check.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Check {
    pub(crate) status: String,
    pub(crate) message: String,
    pub(crate) details: Value,
}

/// All checks of one run of the suite, without those that only inform.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Run {
    checks: BTreeMap<CheckId, Check>,
    scenarios: BTreeSet<String>,
}

impl Run {
    /// Reads a folder that the suite filled (`server-SCENARIO-TIME/checks.json`).
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let mut run = Self::default();
        let entries = fs::read_dir(folder).with_context(|| format!("no results in `{}`", folder.display()))?;
        for entry in entries {
            let path = entry?.path().join("checks.json");
            let name = path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(scenario) = scenario_of(name).filter(|_| path.is_file()) {
                let checks = serde_json::from_slice(&fs::read(&path)?).with_context(|| format!("cannot read `{}`", path.display()))?;
                run.add(scenario, checks);
            }
        }
        Ok(run)
    }

    fn add(&mut self, scenario: &str, checks: Vec<Value>) {
        self.scenarios.insert(scenario.to_owned());
        let mut seen = BTreeMap::<String, usize>::new();
        for mut check in checks {
            let text = |name: &str| check.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (id, status, message) = (text("id"), text("status"), text("errorMessage"));
            if status == "INFO" {
                continue;
            }
            let number = seen.entry(id.clone()).or_default();
            let details = check.get_mut("details").map(Value::take).unwrap_or_default();
            self.checks.insert((scenario.to_owned(), id, *number), Check { status, message, details });
            *number += 1;
        }
    }

    /// Whether a scenario ran and none of its checks failed.
    pub(crate) fn passes(&self, scenario: &str) -> bool {
        self.scenarios.contains(scenario) && !self.checks.iter().any(|((of, ..), check)| of == scenario && check.status == "FAILURE")
    }

    /// How many checks have this status.
    pub(crate) fn count(&self, status: &str) -> usize {
        self.checks.values().filter(|check| check.status == status).count()
    }

    pub(crate) fn failures(&self) -> impl Iterator<Item = (&CheckId, &Check)> {
        self.checks.iter().filter(|(_, check)| check.status == "FAILURE")
    }
}

/// `server-tools-list-2026-11-23T01-23-38-643Z` is of `tools-list`.
fn scenario_of(folder: &str) -> Option<&str> {
    let (scenario, _time) = folder.strip_prefix("server-")?.split_at_checked(folder.len().checked_sub(32)?)?;
    Some(scenario)
}

/// One difference between two runs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Difference {
    /// The verdict differs, or one run does not have the check.
    Status { check: CheckId, base: String, through: String, message: String },
    /// The verdict is the same and a member of the payload differs; `None` where a run does not have the member.
    Payload { check: CheckId, path: Vec<String>, base: Option<Value>, through: Option<Value> },
}

impl Difference {
    /// Why this difference is there by design, if it is.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        let Self::Payload { path, .. } = self else {
            return None;
        };
        BY_DESIGN.iter().find(|(name, _)| path.iter().any(|step| step == name)).map(|(_, reason)| *reason)
    }

    /// Where it is, without the values: two runs that differ here by chance differ in the same place.
    pub(crate) fn place(&self) -> (CheckId, Vec<String>) {
        match self {
            Self::Status { check, .. } => (check.clone(), Vec::new()),
            Self::Payload { check, path, .. } => (check.clone(), path.clone()),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { check: (scenario, id, number), base, through, message } => {
                write!(out, "verdict  {scenario} {id} #{number}: {base} -> {through} {message}")
            }
            Self::Payload { check: (scenario, id, number), path, base, through } => {
                let short = |value: &Option<Value>| {
                    let text = value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
                    text.chars().take(160).collect::<String>()
                };
                let path = path.join("/");
                write!(out, "payload  {scenario} {id} #{number} /{path}: {} -> {}", short(base), short(through))
            }
        }
    }
}

/// Every difference, verdicts first within a check.
pub(crate) fn compare(base: &Run, through: &Run) -> Vec<Difference> {
    let mut differences = Vec::new();
    let all: BTreeSet<&CheckId> = base.checks.keys().chain(through.checks.keys()).collect();
    for id in all {
        match (base.checks.get(id), through.checks.get(id)) {
            (Some(one), Some(other)) if one.status == other.status => {
                payload(id, &mut Vec::new(), Some(&one.details), Some(&other.details), &mut differences);
            }
            (one, other) => {
                let status = |check: Option<&Check>| check.map_or_else(|| "absent".to_owned(), |check| check.status.clone());
                differences.push(Difference::Status {
                    check: id.clone(),
                    base: status(one),
                    through: status(other),
                    message: other.map(|check| check.message.clone()).unwrap_or_default(),
                });
            }
        }
    }
    differences
}

fn payload(id: &CheckId, path: &mut Vec<String>, base: Option<&Value>, through: Option<&Value>, found: &mut Vec<Difference>) {
    let mut member = |name: String, one: Option<&Value>, other: Option<&Value>| {
        path.push(name);
        payload(id, path, one, other, found);
        path.pop();
    };
    match (base, through) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for name in names {
                member(name.clone(), one.get(name), other.get(name));
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => {
            for index in 0..one.len().max(other.len()) {
                member(index.to_string(), one.get(index), other.get(index));
            }
        }
        (one, other) if one == other => {}
        (one, other) => found.push(Difference::Payload { check: id.clone(), path: path.clone(), base: one.cloned(), through: other.cloned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(checks: Value) -> Run {
        let mut run = Run::default();
        run.add("tools-list", serde_json::from_value(checks).unwrap());
        run
    }

    #[test]
    fn the_scenario_is_the_folder_without_side_and_time() {
        assert_eq!(scenario_of("server-tools-list-2026-11-23T01-23-38-643Z"), Some("tools-list"));
        assert_eq!(scenario_of("server-server-stateless-2026-11-23T01-23-38-643Z"), Some("server-stateless"));
        assert_eq!(scenario_of("client-x-2026-11-23T01-23-38-643Z"), None);
        assert_eq!(scenario_of("server-"), None);
    }

    #[test]
    fn a_scenario_passes_only_if_it_ran_and_nothing_failed() {
        assert!(run(json!([{"id": "a", "status": "SUCCESS"}])).passes("tools-list"));
        assert!(!run(json!([{"id": "a", "status": "SUCCESS"}, {"id": "a", "status": "FAILURE"}])).passes("tools-list"));
        assert!(!run(json!([])).passes("ping"));
    }

    #[test]
    fn a_check_that_is_absent_through_the_gateway_is_a_difference_of_verdicts() {
        let base = run(json!([{"id": "a", "status": "SUCCESS"}]));
        let found = compare(&base, &run(json!([])));
        assert!(matches!(found.as_slice(), [Difference::Status { through, .. }] if through == "absent"), "{found:?}");
    }

    #[test]
    fn an_error_text_that_still_passes_is_a_difference_of_payloads() {
        let base = run(json!([{"id": "a", "status": "SUCCESS", "details": {"result": {"content": [{"text": "x"}]}}}]));
        let through = run(json!([{"id": "a", "status": "SUCCESS", "details": {"result": {"content": [{"text": "denied"}]}}}]));
        let found = compare(&base, &through);
        assert!(matches!(found.as_slice(), [Difference::Payload { path, .. }] if path.join("/") == "result/content/0/text"));
        assert_eq!(found.first().and_then(Difference::reason), None);
        assert!(compare(&base, &base).is_empty());
    }

    #[test]
    fn an_element_that_is_missing_at_the_end_is_found() {
        let base = run(json!([{"id": "a", "status": "SUCCESS", "details": [1, 2]}]));
        let through = run(json!([{"id": "a", "status": "SUCCESS", "details": [1]}]));
        assert!(matches!(compare(&base, &through).as_slice(), [Difference::Payload { through: None, .. }]));
    }

    #[test]
    fn the_gateways_own_name_is_a_difference_by_design() {
        let named = |name: &str| {
            let meta = json!({"io.modelcontextprotocol/serverInfo": {"name": name}});
            run(json!([{"id": "a", "status": "SUCCESS", "details": {"_meta": meta}}]))
        };
        let found = compare(&named("fixture"), &named("bailiwick"));
        assert!(found.first().and_then(Difference::reason).is_some());
    }
}
