//! What must hold for any policies and any call.

use bailiwick_core::Verdict;
use bailiwick_policy::{Engine, Possible, TaskQuestion};
use proptest::prelude::*;

use crate::world::{Ask, NOW, engine, labels, people, person, world};

/// (permits, conditions): conditions of every kind, some of which cannot be evaluated for some calls.
const SCOPES: [&str; 6] = [
    "principal, action, resource",
    r#"principal, action in Action::"read", resource"#,
    r#"principal, action in Action::"act", resource"#,
    r#"principal in Agent::"low", action, resource"#,
    r#"principal, action == Action::"shop.refund_order", resource"#,
    r#"principal, action in [Action::"transfer", Action::"influence"], resource == System::"shop""#,
];
const CONDITIONS: [&str; 12] = [
    "",
    "when { context.approvals >= 1 }",
    "unless { principal.agent.risk > 1 }",
    "when { context.input has cents && context.approvals >= 2 }",
    "when { principal.depth == 0 }",
    "unless { context.approved.contains(\"ana\") || context.hour > 20 }",
    "when { context.now + 9223372036854775807 > 0 }",
    "when { principal.agent.risk < 3 && context.now + 9223372036854775807 > 0 }",
    "when { context.approved == [\"ben\"] }",
    "when { context.input has text && principal.purpose like \"answers*\" }",
    "when { context.labels.contains(\"untrusted\") }",
    "unless { context.labels.containsAny([\"pii\", \"untrusted\"]) && context.approvals == 0 }",
];

pub(crate) type Rule = (bool, usize, usize);

pub(crate) fn text(rules: &[Rule]) -> String {
    let line = |(i, (permits, scope, condition)): (usize, &Rule)| {
        let effect = if *permits { "permit" } else { "forbid" };
        format!("@id(\"p{i}\") {effect} ({}) {};\n", SCOPES[*scope], CONDITIONS[*condition])
    };
    rules.iter().enumerate().map(line).collect()
}

pub(crate) fn rule() -> impl Strategy<Value = Rule> {
    (prop::bool::weighted(0.7), 0..SCOPES.len(), 0..CONDITIONS.len())
}

pub(crate) fn ask() -> impl Strategy<Value = Ask> {
    let tool = prop::sample::select(world().tools);
    let arguments = prop::sample::select(vec!["{}", r#"{"cents":1,"order":"1"}"#, r#"{"cents":"1"}"#, r#"{"text":"hi","ticket":"1"}"#]);
    let seen = prop::sample::subsequence(vec!["model-authored", "pii", "untrusted"], 0..=3);
    (prop::sample::select(vec!["low", "medium", "high", "suspended"]), tool, arguments, 0usize..3, seen)
        .prop_map(|(agent, tool, arguments, depth, seen)| Ask { depth, labels: labels(&seen), ..Ask::new(agent, tool.name.as_str(), arguments) })
}

fn passes(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Permit(_))
}

fn approvals() -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(vec!["ana", "ben", "olga"], 0..=3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn one_more_forbid_never_lets_a_call_pass(rules in prop::collection::vec(rule(), 0..6), more in rule(), ask in ask(), approved in approvals()) {
        let before = ask.of(&engine(&text(&rules)), &approved);
        let after = ask.of(&engine(&text(&[&rules[..], &[(false, more.1, more.2)]].concat())), &approved);
        prop_assert!(passes(&before) || !passes(&after), "{before:?} became {after:?}");
    }

    #[test]
    fn one_permit_less_never_lets_a_call_pass(rules in prop::collection::vec(rule(), 1..6), less in any::<prop::sample::Index>(), ask in ask(), approved in approvals()) {
        let less = less.index(rules.len());
        let rest: Vec<Rule> = rules.iter().enumerate().filter(|(i, r)| *i != less || !r.0).map(|(_, r)| *r).collect();
        let before = ask.of(&engine(&text(&rules)), &approved);
        let after = ask.of(&engine(&text(&rest)), &approved);
        // Taking away a policy that cannot be evaluated is a repair: it may let pass what its error stopped.
        prop_assert!(passes(&before) || !passes(&after) || matches!(before, Verdict::Error(_)), "{before:?} became {after:?}");
    }

    #[test]
    fn an_answer_does_not_depend_on_what_was_asked_before(rules in prop::collection::vec(rule(), 0..6), asks in prop::collection::vec(ask(), 1..3)) {
        let one = engine(&text(&rules));
        for ask in &asks {
            prop_assert_eq!(ask.of(&one, &["ana"]), ask.of(&engine(&text(&rules)), &["ana"]));
        }
    }

    #[test]
    fn what_passes_was_possible(rules in prop::collection::vec(rule(), 0..6), ask in ask(), approved in approvals()) {
        let engine = engine(&text(&rules));
        let world = world();
        let agent = world.agents.iter().find(|a| a.name.as_str() == ask.agent).unwrap();
        let question = |approvers: &[&str]| engine.possible(TaskQuestion {
            agent, subject: &person("sam"), purpose: &ask.purpose, tool: &ask.tool.parse().unwrap(), approvers: &people(approvers), now: NOW,
        });
        if passes(&ask.of(&engine, &[])) {
            prop_assert_eq!(question(&[]), Possible::Free);
        }
        if passes(&ask.of(&engine, &approved)) {
            prop_assert!(!matches!(question(&approved), Possible::Never(_)));
        }
    }
}

#[test]
fn an_engine_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Engine>();
}
