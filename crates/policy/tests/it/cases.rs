//! Policy cases kept as data: `tests/cases/*.json`, each naming its policies and what is expected of each call.

use std::path::Path;

use bailiwick_core::{Circumstances, Effect, Policy as _, Timestamp, decide};
use bailiwick_policy::{Engine, Source, default_pack};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::world::{Ask, ids, people, word, world};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// `default`, or the name of a Cedar file beside this one.
    policies: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    agent: String,
    tool: String,
    #[serde(default)]
    arguments: Option<Box<RawValue>>,
    #[serde(default)]
    approved: Vec<String>,
    #[serde(default)]
    depth: usize,
    #[serde(default)]
    purpose: Option<String>,
    /// Unix seconds.
    #[serde(default)]
    now: Option<i64>,
    #[serde(default)]
    calls: u64,
    /// What the task has seen.
    #[serde(default)]
    labels: Vec<String>,
    /// `permit`, `forbid`, `silent` or `error`.
    expect: String,
    /// The determining policies.
    #[serde(default)]
    by: Vec<String>,
    /// What `core::decide` makes of it with these approvers.
    #[serde(default)]
    decided: Option<Decided>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decided {
    approvers: Vec<String>,
    /// `allow`, `deny` or `hold`.
    word: String,
    #[serde(default)]
    people: Vec<String>,
    #[serde(default)]
    count: usize,
}

fn strs(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

fn run(path: &Path, case: &Case, engine: &Engine) -> Result<(), String> {
    let arguments = case.arguments.as_ref().map_or("{}", |a| a.get());
    let mut ask = Ask { depth: case.depth, ..Ask::new(&case.agent, &case.tool, arguments) };
    if let Some(purpose) = &case.purpose {
        ask.purpose.clone_from(purpose);
    }
    let now = case.now.map_or(crate::world::NOW, Timestamp::from_seconds);
    let labels = crate::world::labels(&strs(&case.labels));
    let at = Circumstances { now, calls_before: case.calls, labels: &labels };
    let approved = people(&strs(&case.approved));
    let verdict = engine.ask(&ask.bound(), at.approved_by(&approved));
    let fail = |what: String| Err(format!("{}: {}: {what}", path.display(), case.name));
    if (word(&verdict), ids(&verdict)) != (case.expect.as_str(), case.by.clone()) {
        return fail(format!("expected {} by {:?}, got {verdict:?}", case.expect, case.by));
    }
    if let Some(expected) = &case.decided {
        let decision = decide(engine, ask.bound(), None, &people(&strs(&expected.approvers)), at);
        let (who, count) = decision.needs().map_or((Vec::new(), 0), |n| (n.people.iter().map(ToString::to_string).collect(), n.count));
        if (decision.word(), &who, count) != (expected.word.as_str(), &expected.people, expected.count) {
            return fail(format!("decided {} with {count} of {who:?}", decision.word()));
        }
    }
    Ok(())
}

#[test]
fn every_case_is_answered_as_it_says() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut failures = Vec::new();
    let mut ran = 0;
    let mut paths: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "json")) {
        let file: File = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let source = match file.policies.as_str() {
            "default" => default_pack(),
            name => Source { name: name.into(), text: std::fs::read_to_string(directory.join(name)).unwrap().into() },
        };
        let engine = Engine::new(&[source], world()).unwrap_or_else(|e| panic!("{}", e.render()));
        for case in &file.cases {
            ran += 1;
            failures.extend(run(path, case, &engine).err());
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(ran >= 30, "only {ran} cases were found");
    assert_eq!(world().tools.iter().map(|t| t.effect).collect::<Vec<_>>(), Effect::ALL);
}
