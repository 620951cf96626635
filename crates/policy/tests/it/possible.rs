//! What a task could ever do: never too narrow, and as narrow as can be known before there is a call.

use bailiwick_policy::{Engine, Possible, TaskQuestion, default_pack};

use crate::world::{NOW, engine, people, person, world};

fn possible(engine: &Engine, agent: &str, tool: &str, approvers: &[&str]) -> Possible {
    let world = world();
    let agent = world.agents.iter().find(|a| a.name.as_str() == agent).unwrap();
    engine.possible(TaskQuestion {
        agent,
        subject: &person("sam"),
        purpose: "answers a customer",
        tool: &tool.parse().unwrap(),
        approvers: &people(approvers),
        now: NOW,
    })
}

fn word(possible: &Possible) -> &'static str {
    match possible {
        Possible::Free => "free",
        Possible::WithApproval => "approval",
        Possible::Never(_) => "never",
    }
}

#[test]
fn the_default_pack_narrows_by_risk_and_approvers() {
    let engine = Engine::new(&[default_pack()], world()).unwrap();
    let ask = |agent: &str, tool: &str, approvers: &[&str]| word(&possible(&engine, agent, tool, approvers));
    assert_eq!(ask("low", "shop.show_order", &[]), "free");
    assert_eq!(ask("low", "shop.comment_ticket", &[]), "free");
    assert_eq!(ask("medium", "shop.comment_ticket", &["ana"]), "approval");
    assert_eq!(ask("low", "shop.refund_order", &["ana"]), "approval");
    assert_eq!(ask("low", "shop.refund_order", &[]), "never");
    assert_eq!(ask("high", "shop.refund_order", &["ana"]), "never");
    assert_eq!(ask("high", "shop.refund_order", &["ana", "ben"]), "approval");
}

#[test]
fn what_is_forbidden_says_by_what() {
    let engine = Engine::new(&[default_pack()], world()).unwrap();
    let Possible::Never(by) = possible(&engine, "suspended", "shop.show_order", &["ana"]) else { panic!() };
    assert_eq!(by.iter().map(|p| &*p.id).collect::<Vec<_>>(), ["agent-suspended"]);
}

#[test]
fn an_unknown_tool_is_never_possible() {
    let engine = engine(r#"@id("all") permit (principal, action, resource);"#);
    assert_eq!(possible(&engine, "low", "shop.nothing", &["ana"]), Possible::Never(Vec::new()));
}

#[test]
fn conditions_on_a_call_are_taken_as_if_they_could_hold() {
    let refund = |condition: &str| {
        let engine = engine(&format!(r#"@id("x") permit (principal, action == Action::"shop.refund_order", resource) {condition};"#));
        word(&possible(&engine, "low", "shop.refund_order", &["ana"]))
    };
    assert_eq!(refund("when { context.input.cents < 5 }"), "free");
    assert_eq!(refund("when { context.input.cents < 5 && context.approvals > 0 }"), "approval");
    assert_eq!(refund("when { context.input.cents < 5 } unless { context.approvals == 0 || context.hour > 20 }"), "approval");
    assert_eq!(refund("when { context.approvals > 0 || context.input.cents < 5 }"), "free");
    assert_eq!(refund("when { context.input.cents < 5 && principal.agent.risk > 1 }"), "never");
    assert_eq!(refund("when { principal.depth > 0 && principal has model && principal.model == \"m\" }"), "free");
    assert_eq!(refund("when { context.weekday == 7 && context.labels.contains(\"x\") && context.calls > 3 }"), "free");
}

#[test]
fn a_forbid_that_depends_on_the_call_does_not_narrow() {
    let text = |condition: &str| {
        format!(
            r#"@id("all") permit (principal, action, resource); @id("no") forbid (principal, action == Action::"shop.refund_order", resource) {condition};"#
        )
    };
    let ask = |condition: &str| word(&possible(&engine(&text(condition)), "low", "shop.refund_order", &["ana"]));
    assert_eq!(ask("when { context.input.cents > 5 }"), "free");
    assert_eq!(ask("unless { context.input.cents < 5 && context.approvals > 0 }"), "free");
    assert_eq!(ask("unless { context.approvals > 0 }"), "approval");
    assert_eq!(ask(""), "never");
    assert_eq!(ask("when { principal.purpose like \"answers*\" }"), "never");
}

#[test]
fn a_policy_about_one_task_may_be_about_this_one() {
    for scope in [r#"principal == Task::"task_1""#, r#"principal in Task::"task_1""#, "principal"] {
        let engine = engine(&format!(
            r#"@id("x") permit ({scope}, action, resource) when {{ {} }};"#,
            if scope == "principal" { r#"principal == Task::"task_1""# } else { "true" }
        ));
        assert_eq!(possible(&engine, "low", "shop.refund_order", &[]), Possible::Free, "{scope}");
    }
}
