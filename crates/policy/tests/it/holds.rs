//! Approvals as hypothetical facts: which calls `core::decide` holds, and for whom.

use bailiwick_core::{Circumstances, Decision, ErrorCode, decide};
use bailiwick_policy::{Engine, default_pack};

use crate::world::{Ask, NOW, engine, people, world};

fn decided(engine: &Engine, ask: &Ask, approvers: &[&str]) -> Decision {
    decide(engine, ask.bound(), None, &people(approvers), Circumstances { now: NOW, calls_before: 0, labels: &ask.labels })
}

fn default() -> Engine {
    Engine::new(&[default_pack()], world()).unwrap()
}

#[test]
fn one_approval_is_asked_of_anyone_who_may_give_it() {
    let decision = decided(&default(), &Ask::new("low", "shop.update_address", "{}"), &["ana", "ben"]);
    let needs = decision.needs().unwrap();
    assert_eq!((needs.count, &needs.people), (1, &people(&["ana", "ben"])));
    assert_eq!(needs.policies.iter().map(|p| &*p.id).collect::<Vec<_>>(), ["write-approved"]);
}

#[test]
fn a_high_risk_agent_needs_two() {
    let decision = decided(&default(), &Ask::new("high", "shop.refund_order", "{}"), &["ana", "ben"]);
    let needs = decision.needs().unwrap();
    assert_eq!((needs.count, needs.people.len()), (2, 2));
    assert_eq!(needs.policies.iter().map(|p| &*p.id).collect::<Vec<_>>(), ["impact-approved-twice"]);
    let alone = decided(&default(), &Ask::new("high", "shop.refund_order", "{}"), &["ana"]);
    assert_eq!(alone.denial().unwrap().0, ErrorCode::PolicyDenied);
}

#[test]
fn a_named_approver_is_the_only_one_who_counts() {
    let engine = engine(r#"@id("ana") permit (principal, action, resource) when { context.approved.contains("ana") };"#);
    let decision = decided(&engine, &Ask::new("low", "shop.refund_order", "{}"), &["ben", "ana", "olga"]);
    assert_eq!(decision.needs().unwrap().people, people(&["ana"]));
}

#[test]
fn a_quorum_of_a_group_is_found() {
    let engine = engine(
        r#"@id("quorum") permit (principal, action, resource)
           when { context.approvals >= 2 && ["ana", "ben", "sam"].containsAll(context.approved) };"#,
    );
    // Everybody together is asked about first: who is outside the group spoils it, so the house offers only those who may approve.
    let decision = decided(&engine, &Ask::new("low", "shop.refund_order", "{}"), &["ana", "ben", "sam"]);
    assert_eq!((decision.needs().unwrap().count, decision.needs().unwrap().people.len()), (2, 3));
}

#[test]
fn approval_by_role_is_asked_of_the_owner() {
    let engine = engine(
        r#"@id("own") permit (principal, action, resource) when { context.approved.contains("olga") && principal.owner.roles.contains("owner") };"#,
    );
    assert_eq!(decided(&engine, &Ask::new("low", "shop.refund_order", "{}"), &["ana", "olga"]).needs().unwrap().people, people(&["olga"]));
}

#[test]
fn what_no_approval_releases_is_denied_with_its_reason() {
    let decision = decided(&default(), &Ask::new("suspended", "shop.refund_order", "{}"), &["ana", "ben"]);
    let (code, words) = decision.denial().unwrap();
    assert_eq!(code, ErrorCode::PolicyDenied);
    assert_eq!(words, "the agent is suspended; its owner can have it enabled again (policy `agent-suspended`)");
}

#[test]
fn an_error_is_a_denial_and_never_a_hold() {
    let engine = engine(
        r#"@id("p") permit (principal, action, resource) when { context.approvals >= 1 };
           @id("f") forbid (principal, action == Action::"shop.refund_order", resource) when { context.input.cents > 5 };"#,
    );
    let decision = decided(&engine, &Ask::new("low", "shop.refund_order", r#"{"order":"1","cents":"6"}"#), &["ana"]);
    assert_eq!(decision.denial().unwrap().0, ErrorCode::PolicyError);
}

#[test]
fn a_hold_can_depend_on_the_arguments() {
    let engine = engine(
        r#"@id("small") permit (principal, action == Action::"shop.refund_order", resource) when { context.input.cents <= 500 };
           @id("large") permit (principal, action == Action::"shop.refund_order", resource) when { context.approvals >= 1 };"#,
    );
    let word = |cents: i64| decided(&engine, &Ask::new("low", "shop.refund_order", &format!(r#"{{"order":"1","cents":{cents}}}"#)), &["ana"]).word();
    assert_eq!((word(500), word(501)), ("allow", "hold"));
}
