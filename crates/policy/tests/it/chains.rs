//! What policy reads of a chain, of components and of models: only what we signed, and nothing that an agent merely says.

use crate::world::{Ask, engine, word};

fn says(text: &str, ask: &Ask) -> &'static str {
    word(&ask.of(&engine(text), &[]))
}

#[test]
fn policy_reads_how_deep_a_chain_is_who_stands_in_it_and_who_began_it() {
    let ask = |depth| Ask { depth, ..Ask::new("low", "shop.show_order", "{}") };
    let permit = |condition: &str| format!(r#"@id("x") permit (principal, action, resource) when {{ {condition} }};"#);
    let through = permit(r#"principal.chain.contains(Agent::"low") && principal.root.risk == 1"#);
    assert_eq!((says(&through, &ask(0)), says(&through, &ask(2))), ("silent", "permit"));
    let alone = permit(r#"principal.chain.isEmpty() && principal.root == principal.agent && principal.depth == 0"#);
    assert_eq!((says(&alone, &ask(0)), says(&alone, &ask(1))), ("permit", "silent"));
}

#[test]
fn policy_tells_a_component_a_bundle_and_a_plain_agent_apart() {
    let plain = Ask::new("low", "shop.show_order", "{}");
    let component = Ask { component: Some("memory".to_owned()), ..plain.clone() };
    let bundle = Ask { undivided: true, ..plain.clone() };
    let of = |condition: &str| {
        let text = format!(r#"@id("x") permit (principal, action, resource) when {{ {condition} }};"#);
        [&plain, &component, &bundle].map(|ask| says(&text, ask))
    };
    assert_eq!(of(r#"principal has component && principal.component == "memory""#), ["silent", "permit", "silent"]);
    assert_eq!(of("principal.undivided"), ["silent", "silent", "permit"]);
    assert_eq!(of("!principal.undivided"), ["permit", "permit", "silent"]);
}

#[test]
fn a_claimed_model_is_no_attested_one() {
    let attested = r#"@id("x") permit (principal, action, resource) when { principal has model_attested && principal.model_attested == "m" };"#;
    let ask = Ask::new("low", "shop.show_order", "{}");
    let claimed = Ask { model: Some("m".to_owned()), ..ask.clone() };
    let proved = Ask { model_attested: Some("m".to_owned()), ..ask.clone() };
    assert_eq!([&ask, &claimed, &proved].map(|ask| says(attested, ask)), ["silent", "silent", "permit"]);
    // A permit that reads the claimed one is warned of; one that reads the attested one is not.
    let warned = |text: &str| engine(text).warnings().iter().any(|w| w.message.contains("model"));
    assert!(warned(&attested.replace("model_attested", "model")) && !warned(attested));
}
