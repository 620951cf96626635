//! What the pages show, and that nothing in a view can become more than text.

use std::collections::BTreeMap;

use bailiwick_core::Effect;
use proptest::prelude::*;

use super::*;

const ARGUMENTS: &str = "{\n  \"order\": \"O-2008\",\n  \"amount_cents\": 12980,\n  \"reason\": \"late\u{200b} parcel\"\n}";

/// A hold in which every text is made by `text` from the field's name and the usual words.
fn hold(text: &dyn Fn(&str, &str) -> String, standing: Standing) -> HoldView {
    let moment = |field: &str, at: &str, words: &str| Moment { at: text(field, at), words: text(&format!("{field}_words"), words) };
    HoldView {
        viewer: Viewer { name: text("viewer", "ines"), csrf: text("csrf", "c5rf-t0ken") },
        hold: text("hold", "hold_0199aa10"),
        requester: Requester {
            agent: text("agent", "support-agent"),
            spiffe_id: text("spiffe_id", "spiffe://bailiwick.example/agent/support-agent"),
            owner: text("owner", "maria"),
            subject: text("subject", "tom"),
            task: text("task", "task_0199aa0f"),
            purpose: text("purpose", "answer the open tickets of this morning"),
            labels: vec![text("label", "untrusted"), text("label_two", "pii")],
        },
        system: text("system", "shop"),
        tool: text("tool", "refund_order"),
        effect: Effect::Transfer,
        target: text("target", "O-2008"),
        arguments: text("arguments", ARGUMENTS),
        arguments_bytes: 71,
        digest: text("digest", "sha256:3b0c4e6f9d"),
        reasons: vec![
            Reason { policy: text("policy", "refunds-need-a-person"), words: text("reason", "A refund above 50 euro is decided by a person.") },
            Reason { policy: text("policy_two", "untrusted-text-then-money"), words: String::new() },
        ],
        revision: text("revision", "r-17"),
        approvers: vec![text("approver", "ines"), text("approver_two", "jonas")],
        approvals_needed: 2,
        approvals: vec![ApprovalMade {
            person: text("approved_by", "jonas"),
            own_request: true,
            proof: text("proof", "key"),
            at: moment("approved_at", "2026-11-23T09:31:10Z", "1 minute ago"),
        }],
        requested: moment("requested", "2026-11-23T09:30:00Z", "2 minutes ago"),
        expires: moment("expires", "2026-11-23T09:45:00Z", "in 13 minutes"),
        earlier: vec![EarlierCall {
            at: text("earlier_at", "2026-11-23T09:29:41Z"),
            system: text("earlier_system", "shop"),
            tool: text("earlier_tool", "list_tickets"),
            effect: Effect::Read,
            target: text("earlier_target", "tickets"),
            outcome: text("earlier_outcome", "allowed, done"),
            entry: text("earlier_entry", "412"),
        }],
        earlier_total: 3,
        standing,
        passkey: None,
    }
}

fn usual(_field: &str, words: &str) -> String {
    words.to_owned()
}

fn ending(text: &dyn Fn(&str, &str) -> String) -> Standing {
    Standing::Over(Ending {
        word: text("ending", "refused"),
        by: Some(text("ended_by", "ines")),
        reason: Some(text("ending_reason", "the ticket asks for it, the customer does not")),
        at: Moment { at: text("ended_at", "2026-11-23T09:33:00Z"), words: text("ended_words", "just now") },
        entry: Some(text("ending_entry", "415")),
    })
}

fn list(text: &dyn Fn(&str, &str) -> String) -> ApprovalsView {
    let line = |number: usize, for_viewer: bool| {
        let text = |field: &str, words: &str| text(&format!("{field}_{number}"), words);
        HoldLine {
            hold: text("hold", "hold_0199aa10"),
            agent: text("agent", "support-agent"),
            subject: text("subject", "tom"),
            system: text("system", "shop"),
            tool: text("tool", "refund_order"),
            effect: Effect::Delete,
            target: text("target", "O-2008"),
            requested: Moment { at: text("requested", "2026-11-23T09:30:00Z"), words: text("ago", "2 minutes ago") },
            expires: Moment { at: text("expires", "2026-11-23T09:45:00Z"), words: text("until", "in 13 minutes") },
            state: text("state", "pending"),
            for_viewer,
        }
    };
    ApprovalsView {
        viewer: Viewer { name: text("viewer", "ines"), csrf: text("csrf", "c5rf-t0ken") },
        waiting: vec![line(0, true), line(1, false)],
        waiting_total: 9,
        ended: vec![line(2, false)],
        ended_total: 1,
    }
}

fn sign_in(text: &dyn Fn(&str, &str) -> String) -> SignInView {
    SignInView {
        csrf: text("csrf", "c5rf-t0ken"),
        ways: vec![
            SignInWay::Secret { label: text("label", "One-time code"), hint: text("hint", "`bailiwick sign-in` shows it."), with_name: true },
            SignInWay::Provider { id: text("provider", "staff"), name: text("provider_name", "Staff accounts") },
        ],
        hold: Some(text("hold", "hold_0199aa10")),
        request: None,
        problem: Some(text("problem", "That code was not right.")),
    }
}

fn message(text: &dyn Fn(&str, &str) -> String) -> MessageView {
    MessageView {
        viewer: Some(Viewer { name: text("viewer", "ines"), csrf: text("csrf", "c5rf-t0ken") }),
        tone: Tone::Problem,
        title: text("title", "Not decided"),
        paragraphs: vec![text("paragraph", "The hold expired before the form arrived.")],
        code: Some(text("code", "hold.expired")),
        entry: Some(text("entry", "416")),
    }
}

/// Every page that there is, filled by `text`.
fn pages(text: &dyn Fn(&str, &str) -> String) -> BTreeMap<&'static str, String> {
    let refused = Standing::Open(Permission::Refused(text("why_not", "You asked for this yourself.")));
    BTreeMap::from([
        ("approval", approval_page(&hold(text, Standing::Open(Permission::Granted)))),
        ("approval_own", approval_page(&hold(text, Standing::Open(Permission::OwnRequest)))),
        ("approval_not_yours", approval_page(&hold(text, refused))),
        ("approval_over", approval_page(&hold(text, ending(text)))),
        ("approvals", approvals_page(&list(text))),
        ("sign_in", sign_in_page(&sign_in(text))),
        ("message", message_page(&message(text))),
    ])
}

/// The tags of a page with their attributes' names, in order. Fails on a tag that is not written as ours are.
fn skeleton(html: &str) -> Vec<String> {
    let mut tags = Vec::new();
    let mut rest = html;
    while let Some((_, after)) = rest.split_once('<') {
        let mut shape = String::from("<");
        let mut quoted = false;
        let mut length = 0;
        for c in after.chars() {
            length += c.len_utf8();
            match c {
                '"' => quoted = !quoted,
                '>' if !quoted => break,
                _ if quoted => {}
                _ => shape.push(c),
            }
        }
        tags.push(shape);
        rest = after.split_at(length).1;
    }
    tags
}

/// One tag a line, so that a changed snapshot is readable.
fn spread(html: &str) -> String {
    html.replace("><", ">\n<")
}

#[test]
fn the_pages_look_like_this() {
    for (name, html) in pages(&usual) {
        insta::assert_snapshot!(name, spread(&html));
    }
}

#[test]
fn whatever_a_field_says_stays_text() {
    let usual_pages = pages(&usual);
    for attack in [
        "\"><script>alert(1)</script>",
        "'><img src=x onerror='alert(1)'>",
        "</pre></textarea></title><form action=https://elsewhere.example>",
        "javascript:alert(1)//",
        "\" onfocus=\"alert(1)\" autofocus x=\"",
        "<!--",
        "&lt;script&gt;",
        "{{7*7}}",
        "../../sign-out?x#y",
        "//elsewhere.example/",
    ] {
        // The usual words stay in front, so that lines and hidden characters are as many as before.
        for (name, html) in pages(&|_, words| format!("{words}{attack}")) {
            assert_eq!(skeleton(&html), skeleton(&usual_pages[name]), "{name} {attack}");
            for (before, address) in ["href=\"", "action=\""].iter().flat_map(|start| html.split(start).skip(1).map(move |a| (start, a))) {
                let address = address.split('"').next().unwrap();
                let ours = address.starts_with('#') || (address.starts_with('/') && !address.starts_with("//"));
                assert!(ours && !address.contains(['<', '\'', ' ']) && !address.contains("/.."), "{before}{address}");
            }
        }
    }
}

#[test]
fn every_field_of_a_view_is_on_its_page() {
    for (name, html) in pages(&|field, _| format!("\u{ab}{field}\u{bb}")) {
        let (view, not_shown): (String, &[&str]) = match name {
            "approvals" => (format!("{:?}", list(&|field, _| format!("\u{ab}{field}\u{bb}"))), &[]),
            "sign_in" => (format!("{:?}", sign_in(&|field, _| format!("\u{ab}{field}\u{bb}"))), &["provider", "hold"]),
            "message" => (format!("{:?}", message(&|field, _| format!("\u{ab}{field}\u{bb}"))), &[]),
            _ => {
                let standing = ending(&|field, _| format!("\u{ab}{field}\u{bb}"));
                let standing = if name == "approval_over" { standing } else { Standing::Open(Permission::Granted) };
                (format!("{:?}", hold(&|field, _| format!("\u{ab}{field}\u{bb}"), standing)), &[])
            }
        };
        let fields: Vec<_> = view.split('\u{ab}').skip(1).map(|field| field.split('\u{bb}').next().unwrap()).collect();
        assert!(fields.len() > 4, "{view}");
        for field in fields.iter().filter(|field| !not_shown.contains(field)) {
            let shown = html.split("<body>").nth(1).unwrap().contains(&format!(">\u{ab}{field}\u{bb}<"));
            assert!(
                shown
                    || html.contains(&format!("\n\u{ab}{field}\u{bb}"))
                    || html.contains(&format!("(\u{ab}{field}"))
                    || html.contains(&format!(">(<bdi>\u{ab}{field}")),
                "{name}: {field}"
            );
        }
    }
}

#[test]
fn hidden_characters_are_shown_by_number_everywhere() {
    let hidden = "a\u{202e}b\u{200b}c\u{feff}d\u{e0041}e\u{0}f\u{3164}g";
    for (name, html) in pages(&|_, _| hidden.to_owned()) {
        let shown = html.split("<body>").nth(1).unwrap();
        // A raw one may only stand in an attribute that nobody reads: what goes back to the server must be exact.
        let text: String = shown.split('>').map(|part| part.split('<').next().unwrap()).collect();
        assert!(!text.chars().any(|c| c != '\n' && is_hidden(c)), "{name}");
        assert!(text.contains("a\u{27e6}U+202E\u{27e7}b\u{27e6}U+200B\u{27e7}c\u{27e6}U+FEFF\u{27e7}d\u{27e6}U+E0041\u{27e7}e\u{27e6}U+0000\u{27e7}f\u{27e6}U+3164\u{27e7}g"), "{name}");
        let title = html.split("<title>").nth(1).unwrap().split("</title>").next().unwrap();
        assert!(!title.chars().any(is_hidden), "{name}");
    }
}

#[test]
fn ordinary_text_of_many_scripts_is_left_as_it_is() {
    let text = "Łódź straße naïve 東京 ドル עברית العربية हिन्दी ไทย 한국 €5 – “x” 🙂";
    assert_eq!(hidden_characters(text), 0);
    assert_eq!(hidden_characters("two\nlines"), 0);
    assert_eq!(hidden_characters("tab\there\r\nand a no-break\u{a0}space"), 3);
}

#[test]
fn long_arguments_are_shown_to_the_last_character() {
    let long: String = (0..20_000).map(|n| format!("line {n}\n")).collect::<String>() + "THE LAST WORD";
    let mut view = hold(&usual, Standing::Open(Permission::Granted));
    view.arguments = long.clone();
    view.arguments_bytes = long.len();
    let html = approval_page(&view);
    assert!(html.contains(&long));
    assert!(html.contains(&format!("{} bytes as sent, 20001 lines below, shown in full.", long.len())));
}

#[test]
fn a_page_that_does_not_show_all_says_so() {
    let html = approval_page(&hold(&usual, Standing::Open(Permission::Granted)));
    assert!(html.contains("This page shows 1 of 3 calls; the ledger has all of them."));
    assert!(approvals_page(&list(&usual)).contains("This page shows 2 of 9 waiting calls."));
}

#[test]
fn only_who_may_decide_gets_a_form_and_an_own_request_needs_a_tick_to_approve() {
    let form = |standing: Standing| approval_page(&hold(&usual, standing)).contains("name=\"decision\"");
    assert!(form(Standing::Open(Permission::Granted)));
    assert!(!form(Standing::Open(Permission::Refused("You asked for this yourself.".to_owned()))));
    assert!(!form(ending(&usual)));
    let own = approval_page(&hold(&usual, Standing::Open(Permission::OwnRequest)));
    assert!(own.contains("name=\"own_request\" value=\"yes\" required"));
    assert!(own.contains("value=\"refuse\" formnovalidate"));
    let refuse = own.find("value=\"refuse\"").unwrap();
    assert!(refuse < own.find("value=\"approve\"").unwrap(), "a stray key refuses");
}

#[test]
fn nothing_on_a_page_needs_more_than_the_content_security_policy_allows() {
    for (name, html) in pages(&usual) {
        for forbidden in ["<script", "<style", " style=", "<iframe", "<img", "http://", "https://", " on"] {
            let tags: String = html.split('<').skip(1).map(|tag| format!("<{}>", tag.split('>').next().unwrap())).collect();
            assert!(!tags.contains(forbidden), "{name} has {forbidden}");
        }
        assert_eq!(html.matches("<h1").count(), 1, "{name}");
        let mut fields = html.split("<input id=\"").skip(1).chain(html.split("<textarea id=\"").skip(1));
        assert!(fields.all(|field| html.contains(&format!("<label for=\"{}\"", field.split('"').next().unwrap()))), "{name}");
    }
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
}

#[test]
fn tokens_and_secrets_are_not_in_debug_output() {
    let text = |field: &str, words: &str| {
        if field == "csrf" { "CANARY".to_owned() } else { words.to_owned() }
    };
    let views = format!("{:?} {:?} {:?} {:?}", hold(&text, ending(&text)), list(&text), sign_in(&text), message(&text));
    assert!(!views.contains("CANARY"));
}

#[test]
fn colours_have_the_contrast_that_wcag_asks_for() {
    let pairs: BTreeMap<&str, Vec<&str>> = STYLE
        .lines()
        .filter_map(|line| line.trim().strip_prefix("--")?.split_once(": light-dark("))
        .map(|(name, pair)| (name, pair.trim_end_matches(");").split(", ").collect()))
        .collect();
    let light = |hex: &str| {
        let number = u32::from_str_radix(hex.trim_start_matches('#'), 16).unwrap();
        let [_, red, green, blue] = number.to_be_bytes().map(|byte| {
            let c = f64::from(byte) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        });
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    };
    let texts = [
        ("ink", "paper"),
        ("ink", "ground"),
        ("ink", "code"),
        ("soft", "paper"),
        ("soft", "ground"),
        ("link", "paper"),
        ("link", "ground"),
        ("warn", "warn-ground"),
        ("bad", "bad-ground"),
        ("good", "good-ground"),
        ("info", "info-ground"),
        ("odd", "odd-ground"),
        ("on-approve", "approve"),
    ];
    let edges = [("edge", "paper"), ("edge", "ground"), ("link", "paper"), ("edge", "code")];
    let wanted = texts.iter().map(|pair| (pair, 4.5)).chain(edges.iter().map(|pair| (pair, 3.0)));
    for ((front, back), least) in wanted {
        for (front_color, back_color) in pairs[front].iter().zip(&pairs[back]) {
            let (one, two) = (light(front_color), light(back_color));
            let contrast = (one.max(two) + 0.05) / (one.min(two) + 0.05);
            assert!(contrast >= least, "{front} on {back}, {front_color} on {back_color}: {contrast:.2}");
        }
        assert_eq!(pairs[front].len(), 2);
    }
}

proptest! {
    #[test]
    fn arguments_come_back_whole_once_marks_are_undone(arguments in "(\\PC|\\pC|[<>&\"'\n]){0,200}") {
        let mut view = hold(&usual, Standing::Open(Permission::Granted));
        view.arguments = arguments.clone();
        let html = approval_page(&view);
        let shown = html.split("aria-labelledby=\"arguments\">\n").nth(1).unwrap().split("</pre>").next().unwrap();
        let mut back = String::new();
        for (number, part) in shown.split("<mark class=\"hidden\">\u{27e6}U+").enumerate() {
            let rest = if number == 0 { part } else {
                let (code, rest) = part.split_once("\u{27e7}</mark>").unwrap();
                back.push(char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap());
                rest
            };
            back.push_str(&rest.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&"));
        }
        prop_assert_eq!(back, arguments);
    }
}
