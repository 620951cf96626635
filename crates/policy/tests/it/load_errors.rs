//! What people read when a policy text is wrong.

use bailiwick_policy::{Engine, World, default_pack};

use crate::world::{agent, refused, source, world};

#[test]
fn the_default_pack_is_valid_without_any_tool_and_without_warnings() {
    let engine = Engine::new(&[default_pack()], World::default()).unwrap_or_else(|e| panic!("{}", e.render()));
    assert_eq!(engine.warnings(), []);
    for policy in engine.policies() {
        let reason = policy.policy.reason.as_deref().unwrap_or_default();
        assert!(policy.title.is_some() && !reason.is_empty() && !reason.ends_with('.'), "{}", policy.policy.id);
        assert!(default_pack().text.lines().nth(policy.line - 1).unwrap().contains(&*policy.policy.id), "{}", policy.policy.id);
    }
}

#[test]
fn the_three_lines_shown_in_the_default_pack_work() {
    let pack = default_pack();
    let lines: Vec<&str> = pack.text.lines().skip_while(|l| !l.contains("tickets-autonomous")).take(3).collect();
    let shown: String = lines.iter().map(|l| l.trim_start_matches("//")).collect::<Vec<_>>().join("\n");
    Engine::new(&[source("mine.cedar", &shown)], world()).unwrap_or_else(|e| panic!("{}", e.render()));
}

#[test]
fn a_syntax_error_shows_the_place() {
    let error = refused("@id(\"x\")\npermit (principal, action resource);\n");
    assert_eq!((error.problems()[0].line, error.problems()[0].column), (2, 27));
    insta::assert_snapshot!(error.render());
}

#[test]
fn an_unknown_tool_shows_the_place_and_a_guess() {
    insta::assert_snapshot!(refused("@id(\"x\")\npermit (principal, action == Action::\"shop.refund_ordr\", resource);\n").render());
}

#[test]
fn an_unknown_attribute_shows_the_place_and_a_guess() {
    insta::assert_snapshot!(
        refused("@id(\"x\")\npermit (principal, action in Action::\"read\", resource)\nwhen { principal.agent.rsk < 2 };\n").render()
    );
}

#[test]
fn a_wrong_type_shows_the_place() {
    insta::assert_snapshot!(
        refused("@id(\"x\")\npermit (principal, action == Action::\"shop.refund_order\", resource)\nwhen { context.input.cents < \"5\" };\n")
            .render()
    );
}

#[test]
fn a_missing_id_says_what_to_write() {
    insta::assert_snapshot!(refused("// first\n\npermit (principal, action, resource)\nwhen { true };\n").render());
}

#[test]
fn a_repeated_id_names_the_first_place() {
    let one = source("one.cedar", "// policies\n@id(\"x\") permit (principal, action, resource);\n");
    let two = source("two.cedar", "@id(\"y\") forbid (principal, action, resource);\n@id(\"x\") forbid (principal, action, resource);\n");
    insta::assert_snapshot!(Engine::new(&[one, two], world()).unwrap_err().render());
}

#[test]
fn a_group_taken_for_a_tool_shows_the_place() {
    insta::assert_snapshot!(refused("@id(\"x\")\nforbid (principal, action == Action::\"write\", resource);\n").render());
}

#[test]
fn a_template_shows_the_place() {
    insta::assert_snapshot!(refused("// t\n@id(\"t\")\npermit (principal == ?principal, action, resource);\n").render());
}

#[test]
fn every_problem_is_told_at_once_and_in_one_line_too() {
    let error = refused("@id(\"a b\") permit (principal, action, resource);\npermit (principal, action, resource);\n");
    assert_eq!(error.problems().len(), 2);
    insta::assert_snapshot!(error.to_string(), @"mine.cedar:1:1: `a b` is no policy id: expected 1 to 80 of A-Z, a-z, 0-9, `.`, `_`, `-` (and 1 more)");
}

#[test]
fn two_agents_of_one_name_are_refused() {
    let mut world = world();
    world.agents.push(agent("low", bailiwick_core::RiskTier::High, true));
    insta::assert_snapshot!(Engine::new(&[default_pack()], world).unwrap_err().to_string(), @"there are two of the agent `low`");
}

#[test]
fn two_sources_of_one_name_are_refused() {
    let error = Engine::new(&[default_pack(), default_pack()], world()).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"there are two of the policy source `default.cedar`");
}

#[test]
fn a_policy_that_can_never_match_is_a_warning() {
    let engine = crate::world::engine("@id(\"x\") permit (principal, action, resource) when { 1 == 2 };");
    assert_eq!(engine.warnings().len(), 1, "{:?}", engine.warnings());
}
