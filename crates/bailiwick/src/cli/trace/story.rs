//! A trace as it is read aloud: from the model, over agent and task, to the owner; then what was decided and what became of it.

use serde_json::Value;

use crate::cli::client::items;
use crate::cli::screen::{Style, field, line, text, texts};

/// A trace as it is read aloud: from the model, over agent and task, to the owner; then what was decided and what became of it.
pub(crate) fn story(trace: &Value, style: Style) -> String {
    let entries: Vec<(u64, &Value)> =
        items(trace, "entries").iter().map(|e| (e.get("index").and_then(Value::as_u64).unwrap_or_default(), body(e))).collect();
    let mut lines = Vec::new();
    let task = trace.get("task").unwrap_or(&Value::Null);
    let opened = entries.iter().find_map(|(_, e)| e.get("opened"));
    let first = entries.iter().map(|(_, e)| *e).find(|e| e.get("agent").is_some()).unwrap_or(&Value::Null);
    let of = |name: &str| {
        [task, first, opened.unwrap_or(&Value::Null)].into_iter().map(|d| text(d, name)).find(|t| t != "-").unwrap_or_else(|| "-".to_owned())
    };
    let model = opened.or(Some(task)).map_or_else(|| "-".to_owned(), |d| text(d, "model_claimed"));
    let task_id = [text(task, "id"), of("task")].into_iter().find(|t| t != "-");
    let agent = [of("spiffe_id"), of("agent")].into_iter().find(|t| t != "-");
    // Some entries, such as the broker's start, belong to nobody's task.
    if let Some(agent) = agent.or_else(|| task_id.clone()) {
        lines.push(style.strong("who"));
        let chain = trace.get("chain").unwrap_or(&Value::Null);
        let attested = text(chain, "model_attested");
        lines.push(field(
            "model",
            &match (attested.as_str(), model.as_str()) {
                ("-", "-") => "none was named".to_owned(),
                ("-", _) => format!("{model} (claimed by the agent)"),
                _ => format!("{attested} (attested)"),
            },
        ));
        lines.push(field("agent", &agent));
        if chain.get("component").is_some() {
            lines.push(field("component", &text(chain, "component")));
        }
        if chain.get("undivided") == Some(&Value::Bool(true)) {
            lines.push(field("", "as a bundle of components that nobody told apart"));
        }
        lines.push(field("instance", &of("instance")));
        lines.extend(hops(items(chain, "hops")));
        lines.push(field("task", &format!("{}{}", task_id.unwrap_or_else(|| "-".to_owned()), standing(task))));
        lines.push(field("purpose", &of("purpose")));
        lines.push(field("on behalf of", &of("subject")));
        lines.push(field("owner", &of("owner")));
    }
    for (index, entry) in &entries {
        lines.extend(told(*index, entry, style));
    }
    lines.join("\n")
}

/// The chain above a task, nearest first: who gave the work on, by which running copy, from which task, and who answers for it.
pub(crate) fn hops(hops: &[Value]) -> Vec<String> {
    let hop = |(index, hop): (usize, &Value)| {
        let component = hop.get("component").map_or_else(String::new, |_| format!("/{}", text(hop, "component")));
        let who = format!(
            "{}{component}, copy {}, task {}, owner {}",
            text(hop, "spiffe_id"),
            text(hop, "instance"),
            text(hop, "task"),
            text(hop, "owner")
        );
        field(if index == 0 { "given on by" } else { "" }, &who)
    };
    hops.iter().enumerate().map(hop).collect()
}

/// The entry's own document: beside its index, or under it.
fn body(entry: &Value) -> &Value {
    ["entry", "body", "document"].into_iter().find_map(|name| entry.get(name).filter(|b| b.is_object())).unwrap_or(entry)
}

fn standing(task: &Value) -> String {
    match (text(task, "state").as_str(), text(task, "reason").as_str()) {
        ("-", _) => String::new(),
        (state, "-") => format!(" ({state})"),
        (state, reason) => format!(" ({state}: {reason})"),
    }
}

/// One entry in a few lines.
fn told(index: u64, entry: &Value, style: Style) -> Vec<String> {
    let of = |name: &str| text(entry, name);
    let head = |words: String| format!("{}  {}", style.faint(&format!("entry {index}, {}", of("at"))), words);
    let mut lines = match of("kind").as_str() {
        "task_opened" => vec![head(style.strong("the task was opened"))],
        "labelled" => {
            vec![head("the task is given what bears labels".to_owned()), field("from", &of("tool")), field("new", &texts(entry, "labels").join(", "))]
        }
        "hold" => vec![
            head(style.attention("held: a person must decide")),
            field("call", &format!("{} ({})", of("tool"), of("effect"))),
            field("may decide", &format!("{}, {} needed", texts(entry, "people").join(", "), of("count"))),
        ],
        "hold_step" => decision_of_people(entry, &head, style),
        "intent" => vec![
            head(style.good("permitted, recorded before it was sent")),
            field("call", &format!("{} ({})", of("tool"), of("effect"))),
            field("target", &of("target")),
            field("arguments", &format!("{} bytes, keyed digest {}", of("arguments_bytes"), of("arguments"))),
            field("bound to", &of("digest")),
        ],
        "outcome" => vec![
            head(match of("result").as_str() {
                "done" => style.good("done"),
                other => style.bad(other),
            }),
            field("answer", &format!("{} bytes in {} ms", of("answer_bytes"), of("duration_ms"))),
        ],
        "denial" => vec![head(style.bad(&format!("denied: {}", of("code")))), field("call", &of("tool")), field("because", &of("detail"))],
        "task_ended" => {
            let mut lines = vec![head(style.strong(&format!("the task is {}: {}", of("state"), of("reason"))))];
            lines.extend(items(entry, "endings").iter().map(|e| field(&text(e, "system"), &text(e, "ending"))));
            lines
        }
        "lease" => lease(entry, &head, style),
        // Whatever it is, all of it.
        other => {
            let mut lines = vec![head(other.to_owned())];
            let members = entry.as_object().into_iter().flatten().filter(|(name, _)| !matches!(name.as_str(), "v" | "kind" | "at"));
            lines.extend(members.map(|(name, _)| field(&line(name), &of(name))));
            return std::iter::once(String::new()).chain(lines).collect();
        }
    };
    if entry.get("policies").is_some() {
        lines.push(field("policy", &format!("revision {}", of("revision"))));
        for policy in items(entry, "policies") {
            lines.push(field("", &format!("{}: {}", text(policy, "id"), text(policy, "reason"))));
        }
    }
    if matches!(of("kind").as_str(), "intent" | "hold" | "denial" | "task_opened") && !items(entry, "labels").is_empty() {
        lines.push(field("had read", &texts(entry, "labels").join(", ")));
    }
    if of("kind") == "intent" && !items(entry, "approvals").is_empty() {
        lines.push(field("spends", &format!("the approval of {}", of("hold"))));
    }
    if of("code") != "-" && of("kind") == "outcome" {
        lines.push(field("code", &of("code")));
    }
    lines.insert(0, String::new());
    lines
}

/// A step in the life of a credential.
fn lease(entry: &Value, head: &impl Fn(String) -> String, style: Style) -> Vec<String> {
    let of = |name: &str| text(entry, name);
    let ended = entry.get("ended");
    let words = match (of("state").as_str(), ended) {
        ("intended", _) => "a credential is to be made: written down first".to_owned(),
        ("live", _) => style.good("the credential is made"),
        ("ended", Some(ending)) => style.strong(&format!("the credential has ended: {}", text(ending, "ending"))),
        (other, _) => format!("credential: {other}"),
    };
    let mut lines = vec![
        head(words),
        field("lease", &of("lease")),
        field("account", &format!("{} at {} ({})", of("account"), of("system"), of("credential_kind"))),
    ];
    if of("state") == "intended" {
        lines.push(field("rights", &texts(entry, "rights").join(", ")));
    }
    if of("by") != "-" {
        lines.push(field("by hand", &format!("{}: {}", of("by"), of("reason"))));
    }
    for (at, tried) in ended.map(|e| items(e, "evidence")).unwrap_or_default().iter().enumerate() {
        let label = if at == 0 { "evidence" } else { "" };
        lines.push(field(label, &format!("{} on {}: {}", text(tried, "step"), text(tried, "node"), line(&text(tried, "saw")))));
    }
    lines
}

fn decision_of_people(entry: &Value, head: &impl Fn(String) -> String, style: Style) -> Vec<String> {
    let step = text(entry, "step");
    let Some(approval) = entry.get("approval").filter(|a| a.is_object()) else {
        let by = text(entry, "by");
        let mut lines = vec![head(style.bad(&if by == "-" { step } else { format!("{step} by {by}") }))];
        if text(entry, "reason") != "-" {
            lines.push(field("because", &text(entry, "reason")));
        }
        return lines;
    };
    let footing = match text(approval, "kind").as_str() {
        "second_person" => "a second person".to_owned(),
        "own_request" => "OWN REQUEST: no second person looked at it".to_owned(),
        other => other.to_owned(),
    };
    vec![
        head(style.good(&format!("{step} by {}", text(approval, "person")))),
        field("footing", &footing),
        field("proved by", &text(approval, "proof")),
        field("signature", &text(approval, "signature")),
        field("words seen", &format!("SHA-256 {}", text(approval, "seen"))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_trace_is_read_from_the_model_to_the_owner_and_on_to_the_outcome() {
        let trace = json!({
            "task": {"id": "task_1", "state": "closed", "reason": "completed", "purpose": "answer ticket", "subject": "ana", "owner": "ana",
                     "spiffe_id": "spiffe://td/agent/a", "instance": "inst_1", "model_claimed": "m-1"},
            "entries": [
                {"index": 4, "entry": {"v": 1, "kind": "hold", "at": "T1", "tool": "shop.refund_order", "effect": "transfer", "people": ["ben"], "count": 1,
                    "revision": "r1", "policies": [{"id": "impact-approved", "reason": "needs one person"}]}},
                {"index": 5, "entry": {"kind": "hold_step", "at": "T2", "step": "approved", "approval": {"person": "ben", "kind": "second_person", "proof": "key", "signature": "sig", "seen": "s"}}},
                {"index": 6, "entry": {"kind": "intent", "at": "T3", "tool": "shop.refund_order", "effect": "transfer", "target": "stdio:shop", "arguments": "k", "arguments_bytes": 9, "digest": "d",
                    "revision": "r1", "policies": [{"id": "impact-approved", "reason": "needs one person"}], "hold": "hold_1", "approvals": [{}]}},
                {"index": 7, "entry": {"kind": "outcome", "at": "T4", "result": "done", "answer_bytes": 12, "duration_ms": 3}}
            ]
        });
        insta::assert_snapshot!(story(&trace, Style::plain()), @r"
        who
          model          m-1 (claimed by the agent)
          agent          spiffe://td/agent/a
          instance       inst_1
          task           task_1 (closed: completed)
          purpose        answer ticket
          on behalf of   ana
          owner          ana

        entry 4, T1  held: a person must decide
          call           shop.refund_order (transfer)
          may decide     ben, 1 needed
          policy         revision r1
                         impact-approved: needs one person

        entry 5, T2  approved by ben
          footing        a second person
          proved by      key
          signature      sig
          words seen     SHA-256 s

        entry 6, T3  permitted, recorded before it was sent
          call           shop.refund_order (transfer)
          target         stdio:shop
          arguments      9 bytes, keyed digest k
          bound to       d
          policy         revision r1
                         impact-approved: needs one person
          spends         the approval of hold_1

        entry 7, T4  done
          answer         12 bytes in 3 ms
        ");
    }

    #[test]
    fn what_a_stranger_wrote_into_the_record_does_not_reach_the_terminal_as_it_is() {
        let trace = json!({ "task": {"purpose": "\u{1b}[2J\nowner   mallory"}, "entries": [{"index": 1, "kind": "\u{1b}]0;x\u{7}"}] });
        let story = story(&trace, Style::plain());
        assert!(!story.contains('\u{1b}') && !story.contains("\nowner"), "{story}");
    }
}
