//! The ways in which Cedar, used naively, fails open; here each is a denial or a refusal to load.

use bailiwick_core::{Effect, Verdict};
use bailiwick_policy::Engine;

use crate::world::{Ask, assert_error, engine, engine_of, ids, refused, source, tool, word, world};

const PERMIT_ALL: &str = r#"@id("all") permit (principal, action, resource);"#;

#[test]
fn no_policies_permit_nothing() {
    let engine = Engine::new(&[], world()).unwrap();
    for tool in world().tools {
        assert_eq!(Ask::new("low", tool.name.as_str(), "{}").of(&engine, &["ana", "ben"]), Verdict::Silent);
    }
}

#[test]
fn a_forbid_that_errors_denies() {
    let overflow = r#"@id("sum") forbid (principal, action, resource) when { context.now + 9223372036854775807 < 0 };"#;
    assert_error(&Ask::new("low", "shop.show_order", "{}").of(&engine(&format!("{PERMIT_ALL}\n{overflow}")), &[]), "sum");
    let missing = r#"@id("who") forbid (principal, action, resource) when { Person::"nobody".roles.contains("owner") };"#;
    assert_error(&Ask::new("low", "shop.show_order", "{}").of(&engine(&format!("{PERMIT_ALL}\n{missing}")), &[]), "who");
}

#[test]
fn a_permit_that_errors_denies_though_another_would_permit() {
    let overflow = r#"@id("sum") permit (principal, action, resource) when { context.now + 9223372036854775807 < 0 };"#;
    assert_error(&Ask::new("low", "shop.show_order", "{}").of(&engine(&format!("{PERMIT_ALL}\n{overflow}")), &[]), "sum");
}

#[test]
fn groups_of_actions_match_in_scope_and_in_condition() {
    for forbid in [
        r#"@id("no") forbid (principal, action in Action::"act", resource);"#,
        r#"@id("no") forbid (principal, action in [Action::"read", Action::"act"], resource) unless { action in Action::"read" };"#,
        r#"@id("no") forbid (principal, action, resource) when { action in Action::"act" };"#,
        r#"@id("no") forbid (principal, action, resource) when { action in Action::"any" && !(action in Action::"read") };"#,
    ] {
        let engine = engine(&format!("{PERMIT_ALL}\n{forbid}"));
        for tool in world().tools {
            let verdict = Ask::new("low", tool.name.as_str(), "{}").of(&engine, &[]);
            let expected = if tool.effect == Effect::Read { ("permit", "all") } else { ("forbid", "no") };
            assert_eq!((word(&verdict), ids(&verdict).join(",").as_str()), expected, "{} with {forbid}", tool.name);
        }
    }
}

#[test]
fn groups_of_agents_match() {
    let engine = engine(r#"@id("low-only") permit (principal in Agent::"low", action, resource);"#);
    assert_eq!(word(&Ask::new("low", "shop.show_order", "{}").of(&engine, &[])), "permit");
    assert_eq!(word(&Ask::new("high", "shop.show_order", "{}").of(&engine, &[])), "silent");
}

#[test]
fn a_group_taken_for_a_tool_is_refused_at_load() {
    for policy in [
        r#"@id("x") forbid (principal, action == Action::"write", resource);"#,
        r#"@id("x") forbid (principal, action, resource) when { action == Action::"act" };"#,
        r#"@id("x") forbid (principal, action, resource) when { [Action::"write"].contains(action) };"#,
    ] {
        let error = refused(policy).render();
        assert!(error.contains("it is a group of tools") && error.contains("action in Action::"), "{error}");
    }
}

#[test]
fn templates_are_refused() {
    let error = refused(r#"@id("t") forbid (principal == ?principal, action, resource);"#);
    assert!(error.render().contains("templates are not supported"), "{}", error.render());
}

#[test]
fn an_argument_that_may_be_absent_cannot_be_read_without_asking_for_it() {
    let error = refused(r#"@id("x") forbid (principal, action == Action::"shop.refund_order", resource) when { context.input.express };"#);
    assert!(error.render().contains("express"), "{}", error.render());
}

#[test]
fn a_required_argument_that_is_absent_denies() {
    let engine = engine(r#"@id("small") permit (principal, action == Action::"shop.refund_order", resource) when { context.input.cents <= 500 };"#);
    assert_error(&Ask::new("low", "shop.refund_order", r#"{"order":"7"}"#).of(&engine, &[]), "`cents`");
    assert_eq!(word(&Ask::new("low", "shop.refund_order", r#"{"cents":500}"#).of(&engine, &[])), "permit", "an unread argument may lack");
}

#[test]
fn an_argument_of_the_wrong_type_denies() {
    let refund = |condition: &str| {
        engine(&format!(r#"{PERMIT_ALL} @id("f") forbid (principal, action == Action::"shop.refund_order", resource) when {{ {condition} }};"#))
    };
    let cents = refund("context.input.cents > 500");
    for bad in [r#""9""#, "9.0", "1e2", "9223372036854775808", "null", "true", "[9]", "{}"] {
        let arguments = format!(r#"{{"order":"7","cents":{bad}}}"#);
        assert_error(&Ask::new("low", "shop.refund_order", &arguments).of(&cents, &[]), "`cents`");
    }
    for (argument, bad) in [
        ("rate", "0.00001"),
        ("rate", "1e1"),
        ("rate", "922337203685477.5808"),
        ("express", r#""true""#),
        ("tags", r#"["a",1]"#),
        ("tags", r#""a""#),
        ("order", "7"),
    ] {
        let engine = refund(&format!("context.input has {argument} && context.input.{argument} == context.input.{argument} && false"));
        let arguments =
            if argument == "order" { format!(r#"{{"order":{bad},"cents":1}}"#) } else { format!(r#"{{"order":"7","cents":1,"{argument}":{bad}}}"#) };
        assert_error(&Ask::new("low", "shop.refund_order", &arguments).of(&engine, &[]), &format!("`{argument}`"));
    }
}

#[test]
fn an_argument_given_twice_denies() {
    let engine = engine(r#"@id("small") permit (principal, action == Action::"shop.refund_order", resource) when { context.input.cents <= 500 };"#);
    assert_error(&Ask::new("low", "shop.refund_order", r#"{"order":"7","cents":900,"cents":1}"#).of(&engine, &[]), "twice");
    assert_error(&Ask::new("low", "shop.refund_order", r#"{"order":"7","cents":900,"\u0063ents":1}"#).of(&engine, &[]), "twice");
}

#[test]
fn an_argument_that_policy_asks_for_but_cannot_see_denies() {
    // A group policy that asks for `address` would be silent about this tool, whose schema gives it no type that policy can read.
    let far = r#"@id("far") forbid (principal, action in Action::"act", resource) when { context.input has address };"#;
    let engine = engine(&format!("{PERMIT_ALL}\n{far}"));
    assert_error(&Ask::new("low", "shop.update_address", r#"{"customer":"1","address":{"city":"Ulm"}}"#).of(&engine, &[]), "`address`");
    assert_error(&Ask::new("low", "shop.delete_note", r#"{"address":"undeclared"}"#).of(&engine, &[]), "`address`");
    assert_eq!(word(&Ask::new("low", "shop.update_address", r#"{"customer":"1"}"#).of(&engine, &[])), "permit");
}

#[test]
fn the_input_as_a_whole_shows_every_argument_or_denies() {
    let engine = engine(&format!(
        r#"{PERMIT_ALL} @id("f") forbid (principal, action == Action::"shop.show_order", resource) when {{ context.input == {{order: "1"}} }};"#
    ));
    assert_eq!(word(&Ask::new("low", "shop.show_order", r#"{"order":"1"}"#).of(&engine, &[])), "forbid");
    assert_eq!(word(&Ask::new("low", "shop.show_order", r#"{"order":"2"}"#).of(&engine, &[])), "permit");
    assert_error(&Ask::new("low", "shop.show_order", r#"{"order":"1","x":1}"#).of(&engine, &[]), "`x`");
}

#[test]
fn what_the_engine_does_not_know_denies() {
    let engine = engine(PERMIT_ALL);
    let unknown = Ask { effect: Effect::Read, ..Ask::new("low", "shop.nothing", "{}") };
    assert_error(&unknown.of(&engine, &[]), "shop.nothing");
    assert_error(&Ask::new("ghost", "shop.show_order", "{}").of(&engine, &[]), "`ghost`");
    assert_error(&Ask { subject: "nobody".to_owned(), ..Ask::new("low", "shop.show_order", "{}") }.of(&engine, &[]), "`nobody`");
    let reclassified = Ask { effect: Effect::Write, ..Ask::new("low", "shop.show_order", "{}") };
    assert_error(&reclassified.of(&engine, &[]), "another effect");
}

#[test]
fn an_owner_who_is_nobody_denies() {
    let mut world = world();
    world.people.retain(|p| p.name.as_str() != "olga");
    assert_error(&Ask::new("low", "shop.show_order", "{}").of(&engine_of(world, PERMIT_ALL), &[]), "`olga`");
}

#[test]
fn arguments_that_are_no_object_deny_where_policy_reads_them() {
    let engine = engine(r#"@id("x") permit (principal, action == Action::"shop.show_order", resource) when { context.input.order != "" };"#);
    for bad in ["[]", "", "null", "{} {}", r#"{"order":"1""#] {
        assert_error(&Ask::new("low", "shop.show_order", bad).of(&engine, &[]), "not one JSON object");
    }
}

#[test]
fn the_same_task_with_other_facts_is_not_answered_from_memory() {
    let engine =
        engine(r#"@id("near") permit (principal, action, resource) when { principal.depth < 2 && principal.purpose == "answers a customer" };"#);
    let ask = Ask::new("low", "shop.show_order", "{}");
    assert_eq!(word(&ask.of(&engine, &[])), "permit");
    assert_eq!(word(&Ask { depth: 2, ..ask.clone() }.of(&engine, &[])), "silent");
    assert_eq!(word(&Ask { purpose: "else".to_owned(), ..ask.clone() }.of(&engine, &[])), "silent");
    assert_eq!(word(&ask.of(&engine, &[])), "permit");
}

#[test]
fn a_claimed_model_is_there_only_if_it_was_claimed() {
    let engine = engine(r#"@id("m") permit (principal, action, resource) when { principal has model && principal.model == "big-1" };"#);
    let ask = Ask::new("low", "shop.show_order", "{}");
    assert_eq!(word(&ask.of(&engine, &[])), "silent");
    assert_eq!(word(&Ask { model: Some("big-1".to_owned()), ..ask }.of(&engine, &[])), "permit");
    let warnings = engine.warnings();
    assert!(warnings.len() == 1 && warnings[0].message.contains("merely claims"), "{warnings:?}");
}

#[test]
fn policies_may_name_people_and_agents_who_are_not_in_the_call() {
    let engine =
        engine(r#"@id("x") permit (principal, action, resource) when { Person::"ben".roles.contains("approver") && Agent::"high".risk == 3 };"#);
    assert_eq!(word(&Ask::new("low", "shop.show_order", "{}").of(&engine, &[])), "permit");
}

#[test]
fn time_is_utc_and_the_week_begins_on_monday() {
    let engine = engine(
        r#"@id("x") permit (principal, action, resource)
           when { context.now == 1795428000 && context.hour == 10 && context.weekday == 1 && context.calls == 0 && context.labels.isEmpty() };"#,
    );
    assert_eq!(word(&Ask::new("low", "shop.show_order", "{}").of(&engine, &[])), "permit");
}

#[test]
fn an_approval_counts_once_however_often_it_is_named() {
    let engine = engine(r#"@id("two") permit (principal, action, resource) when { context.approvals >= 2 };"#);
    let ask = Ask::new("low", "shop.show_order", "{}");
    assert_eq!(word(&ask.of(&engine, &["ana", "ana"])), "silent");
    assert_eq!(word(&ask.of(&engine, &["ana", "ben"])), "permit");
}

#[test]
fn a_revision_changes_with_policies_and_world_and_with_nothing_else() {
    use bailiwick_core::Policy as _;
    let of = |sources: &[_], world| Engine::new(sources, world).unwrap().revision();
    let (a, b) = (source("a", PERMIT_ALL), source("b", "// nothing"));
    let first = of(&[a.clone(), b.clone()], world());
    let mut turned = world();
    turned.tools.reverse();
    turned.agents.reverse();
    assert_eq!(first, of(&[b.clone(), a.clone()], turned));
    assert_ne!(first, of(std::slice::from_ref(&a), world()));
    let mut more = world();
    more.tools.push(tool("shop.other", Effect::Read, "{}"));
    assert_ne!(first, of(&[a.clone(), b.clone()], more));
    let mut suspended = world();
    suspended.agents[0].enabled = false;
    assert_ne!(first, of(&[a, b], suspended));
}

#[test]
fn an_explanation_names_every_policy_that_could_have_mattered() {
    let engine = engine(
        r#"@id("all") @reason("anything goes") permit (principal, action, resource);
           @id("none") @reason("not today") forbid (principal, action, resource) when { context.weekday == 1 };
           @id("big") forbid (principal, action == Action::"shop.refund_order", resource) when { context.input.cents > 5 };
           @id("other") permit (principal, action in Action::"write", resource);"#,
    );
    let call = Ask::new("low", "shop.refund_order", r#"{"order":"1","cents":1}"#).bound();
    let none = bailiwick_core::Labels::default();
    let facts = bailiwick_core::Facts { approved: &[], now: crate::world::NOW, calls_before: 0, labels: &none };
    insta::assert_snapshot!(engine.explain(&call, facts), @r"
    forbidden
      matched         permit `all`: anything goes
      did not match   forbid `big`
      matched         forbid `none`: not today
    ");
}
