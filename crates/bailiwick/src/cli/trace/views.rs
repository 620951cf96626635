//! What people read of the record: entries in a table, what a task changed, what a person answers for, what differs.

use serde_json::Value;

use crate::cli::client::items;
use crate::cli::screen::{Style, field, table, text, texts};

/// An agent by its name, if its SPIFFE ID has one.
fn agent(document: &Value, name: &str) -> String {
    let id = text(document, name);
    id.rsplit_once("/agent/").map_or_else(|| id.clone(), |(_, name)| name.to_owned())
}

/// A time to the second.
fn when(document: &Value) -> String {
    let at = text(document, "at");
    at.split_once('.').map_or_else(|| at.clone(), |(seconds, _)| seconds.replace('T', " "))
}

/// The first of these members that is there.
fn first(document: &Value, names: &[&str]) -> String {
    names.iter().map(|name| text(document, name)).find(|value| value != "-").unwrap_or_else(|| "-".to_owned())
}

/// A digest by its beginning: enough to compare by eye, whole with `--json`.
fn brief(digest: &str) -> String {
    digest.chars().take(16).collect()
}

/// Entries, newest first.
pub(super) fn entries(answer: &Value, style: Style) -> String {
    let list = items(answer, "entries");
    let next = answer.get("next").and_then(Value::as_u64);
    let more = next.map(|next| format!("there may be more: the same with --below {next}"));
    if list.is_empty() {
        return more.unwrap_or_else(|| "nothing on record answers to that".to_owned());
    }
    let row = |e: &Value| {
        let said = e.get("entry").unwrap_or(&Value::Null);
        let opened = said.get("opened").unwrap_or(&Value::Null);
        let whole = e.get("intact").and_then(Value::as_bool) == Some(true);
        let who = [agent(said, "agent"), agent(opened, "spiffe_id"), agent(said, "by")].into_iter().find(|who| who != "-");
        let about = [first(said, &["tool", "hold", "name"]), text(opened, "purpose"), first(said, &["what", "call", "task"])];
        vec![
            text(e, "index"),
            when(said),
            match (whole, e.get("pruned").and_then(Value::as_bool)) {
                (false, _) => "NOT WHAT WAS RECORDED".to_owned(),
                (true, Some(true)) => "pruned".to_owned(),
                (true, _) => text(said, "kind"),
            },
            who.unwrap_or_else(|| "-".to_owned()),
            about.into_iter().find(|about| about != "-").unwrap_or_else(|| "-".to_owned()),
            first(said, &["effect"]),
            first(said, &["result", "code", "step", "state", "status"]),
        ]
    };
    let rows: Vec<Vec<String>> = list.iter().map(row).collect();
    let mut shown = table(&["entry", "when", "kind", "who", "about", "effect", "outcome"], &rows, style);
    for line in [more, Some("one of them whole: bailiwick trace ENTRY".to_owned())].into_iter().flatten() {
        shown.push_str(&format!("\n{}", style.faint(&line)));
    }
    shown
}

/// What a task changed.
pub(super) fn changes(answer: &Value, style: Style) -> String {
    let list = items(answer, "changes");
    let mut lines = vec![style.strong(&format!("{}: {} acting calls, {} that only read", text(answer, "task"), list.len(), text(answer, "reads")))];
    for change in list {
        let of = |name: &str| text(change, name);
        let outcome = change.get("outcome").unwrap_or(&Value::Null);
        let result = match text(outcome, "result").as_str() {
            "done" => style.good("done"),
            "-" => style.attention("no outcome yet"),
            other => style.bad(other),
        };
        let head = format!("entry {}, {}", of("entry"), when(change));
        lines.extend([String::new(), format!("{}  {} {} on {}: {result}", style.faint(&head), of("effect"), of("tool"), of("target"))]);
        lines.push(field("call", &of("call")));
        lines.push(field("sent", &format!("{} bytes, digest {}", of("arguments_bytes"), brief(&of("arguments")))));
        if text(outcome, "result") != "-" {
            lines.push(field("answered", &format!("{} bytes, digest {}", text(outcome, "answer_bytes"), brief(&text(outcome, "answer")))));
        }
        lines.push(field("definition", &brief(&of("definition"))));
        let approved = texts(change, "approved_by");
        if !approved.is_empty() {
            lines.push(field("approved by", &approved.join(", ")));
        }
        for (name, words) in [("before", "read before"), ("after", "asked again")] {
            if let Some(read) = change.get(name) {
                let answer = brief(&text(read, "answer"));
                lines.push(field(words, &format!("entry {}, {}, {}, answer {answer}", text(read, "entry"), text(read, "tool"), text(read, "call"))));
            }
        }
    }
    for tool in items(answer, "definitions") {
        let of = |name: &str| text(tool, name);
        let head = format!("entry {}, {}", of("entry"), when(tool));
        lines.extend([
            String::new(),
            format!("{}  {}", style.faint(&head), style.attention(&format!("{} was defined anew: {}", of("tool"), of("status")))),
        ]);
        lines.extend([field("before", &brief(&of("before"))), field("after", &brief(&of("after")))]);
    }
    if answer.get("more").and_then(Value::as_bool) == Some(true) {
        lines.extend([String::new(), style.attention("the task has more entries than were looked through")]);
    }
    if !list.is_empty() {
        let note = "digests bind the texts, which are kept apart; digests of two calls cannot be compared with each other";
        lines.extend([String::new(), style.faint(note)]);
    }
    lines.join("\n")
}

/// What a person answers for.
pub(super) fn person(answer: &Value, style: Style) -> String {
    let mut lines = vec![style.strong(&format!("{} answers for", text(answer, "person")))];
    let more = texts(answer, "more");
    let mut section = |name: &str, title: &str, head: &[&str], row: &dyn Fn(&Value) -> Vec<String>| {
        let rows: Vec<Vec<String>> = items(answer, name).iter().map(row).collect();
        lines.extend([String::new(), style.strong(title)]);
        lines.push(if rows.is_empty() { "none".to_owned() } else { table(head, &rows, style) });
        if more.iter().any(|m| m == name) {
            lines.push(style.attention("and more: ask for a shorter time, or with a higher --limit"));
        }
    };
    section("agents", "agents", &["agent", "calls", "owner now"], &|a| {
        let now = a.get("owned_now").and_then(Value::as_bool) == Some(true);
        vec![agent(a, "agent"), text(a, "calls"), if now { "yes" } else { "no" }.to_owned()]
    });
    section("tasks", "tasks", &["entry", "when", "task", "agent", "for", "purpose"], &|t| {
        vec![text(t, "entry"), when(t), text(t, "task"), agent(t, "agent"), text(t, "subject"), text(t, "purpose")]
    });
    section("calls", "acting calls", &["entry", "when", "agent", "effect", "tool", "target", "outcome", "approved by"], &|c| {
        let outcome = text(c.get("outcome").unwrap_or(&Value::Null), "result");
        let approved = texts(c, "approved_by").join(", ");
        vec![text(c, "entry"), when(c), agent(c, "agent"), text(c, "effect"), text(c, "tool"), text(c, "target"), outcome, approved]
    });
    section("approvals", "approvals given", &["entry", "when", "hold", "footing", "proved by"], &|a| {
        vec![text(a, "entry"), when(a), text(a, "hold"), text(a, "footing"), text(a, "proof")]
    });
    section("deeds", "refused, ended, classified or changed", &["entry", "when", "what", "about", "because"], &|d| {
        vec![text(d, "entry"), when(d), text(d, "what"), text(d, "about"), text(d, "reason")]
    });
    lines.join("\n")
}

/// What differs.
pub(super) fn difference(answer: &Value, style: Style) -> String {
    let stretch = |name: &str| {
        let stretch = answer.get(name).unwrap_or(&Value::Null);
        format!("{name}  {} to {}, entries {} to {}", text(stretch, "since"), text(stretch, "until"), text(stretch, "first"), text(stretch, "end"))
    };
    let mut lines = vec![style.faint(&stretch("last")), style.faint(&stretch("this"))];
    let person = text(answer, "person");
    if person != "-" {
        lines.push(style.faint(&format!("only what {person} has a part in")));
    }
    let whole = lines.len();
    for group in items(answer, "groups") {
        let (appeared, gone, changed) = (items(group, "appeared"), items(group, "gone"), items(group, "changed"));
        if appeared.is_empty() && gone.is_empty() && changed.is_empty() {
            continue;
        }
        lines.extend([String::new(), style.strong(&text(group, "name"))]);
        for new in appeared {
            let before = match new.get("before").and_then(Value::as_bool) {
                Some(true) => "not in the stretch before, but earlier",
                Some(false) => "never before",
                None => "not in the stretch before",
            };
            lines.push(style.attention(&format!("  + {}  {}, {before}", text(new, "value"), text(new, "this"))));
        }
        lines.extend(gone.iter().map(|old| format!("  - {}  gone, was {}", text(old, "value"), text(old, "last"))));
        lines.extend(changed.iter().map(|c| format!("  ~ {}  {} now, was {}", text(c, "value"), text(c, "this"), text(c, "last"))));
    }
    if lines.len() == whole {
        lines.push("\nnothing differs".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const EVIL: &str = "\u{1b}[2J\nowner   mallory\u{202e}";

    #[test]
    fn entries_are_a_table_that_says_where_to_go_on() {
        let answer = json!({"next": 4, "entries": [
            {"index": 9, "intact": true, "entry": {"kind": "outcome", "at": "2026-11-23T04:05:06.789Z", "call": "call_1", "result": "failed", "code": "upstream.timeout"}},
            {"index": 8, "intact": true, "entry": {"kind": "intent", "at": "2026-11-23T04:05:05.000Z", "agent": "spiffe://td/agent/scout", "tool": "shop.refund_order", "effect": "transfer"}},
            {"index": 5, "intact": true, "entry": {"kind": "task_opened", "at": "2026-11-23T04:05:00.000Z", "task": "task_1", "opened": {"spiffe_id": "spiffe://td/agent/scout", "purpose": "answer ticket"}}},
            {"index": 4, "intact": false, "entry": {"kind": "intent"}}
        ]});
        insta::assert_snapshot!(entries(&answer, Style::plain()), @r"
        entry  when                 kind                   who    about              effect    outcome
        9      2026-11-23 04:05:06  outcome                -      call_1             -         failed
        8      2026-11-23 04:05:05  intent                 scout  shop.refund_order  transfer  -
        5      2026-11-23 04:05:00  task_opened            scout  answer ticket      -         -
        4      -                    NOT WHAT WAS RECORDED  -      -                  -         -
        there may be more: the same with --below 4
        one of them whole: bailiwick trace ENTRY
        ");
    }

    #[test]
    fn what_a_task_changed_is_told_call_by_call() {
        let answer = json!({"task": "task_1", "reads": 3, "changes": [
            {"entry": 12, "at": "2026-11-23T04:05:06.789Z", "call": "call_1", "effect": "write", "tool": "shop.change_product", "target": "stdio:shop",
             "arguments": "aa".repeat(32), "arguments_bytes": 39, "definition": "bb".repeat(32), "approved_by": ["ben"],
             "outcome": {"entry": 13, "result": "done", "answer": "cc".repeat(32), "answer_bytes": 20},
             "before": {"entry": 8, "call": "call_0", "tool": "shop.show_product", "answer": "dd".repeat(32)},
             "after": {"entry": 14, "call": "call_2", "tool": "shop.show_product", "answer": "ee".repeat(32)}}
        ], "definitions": [{"entry": 10, "at": "2026-11-23T04:05:05.000Z", "tool": "shop.change_product", "before": "11".repeat(32), "after": "bb".repeat(32), "status": "quarantined"}]});
        insta::assert_snapshot!(changes(&answer, Style::plain()), @r"
        task_1: 1 acting calls, 3 that only read

        entry 12, 2026-11-23 04:05:06  write shop.change_product on stdio:shop: done
          call           call_1
          sent           39 bytes, digest aaaaaaaaaaaaaaaa
          answered       20 bytes, digest cccccccccccccccc
          definition     bbbbbbbbbbbbbbbb
          approved by    ben
          read before    entry 8, shop.show_product, call_0, answer dddddddddddddddd
          asked again    entry 14, shop.show_product, call_2, answer eeeeeeeeeeeeeeee

        entry 10, 2026-11-23 04:05:05  shop.change_product was defined anew: quarantined
          before         1111111111111111
          after          bbbbbbbbbbbbbbbb

        digests bind the texts, which are kept apart; digests of two calls cannot be compared with each other
        ");
    }

    #[test]
    fn what_a_person_answers_for_is_told_in_five_lists() {
        let answer = json!({"person": "ana", "more": ["tasks"],
            "agents": [{"agent": "spiffe://td/agent/scout", "calls": 7, "owned_now": true}],
            "tasks": [{"entry": 5, "at": "2026-11-23T04:05:00.000Z", "task": "task_1", "agent": "spiffe://td/agent/scout", "subject": "sam", "purpose": "answer ticket"}],
            "calls": [{"entry": 8, "at": "2026-11-23T04:05:05.000Z", "agent": "spiffe://td/agent/scout", "effect": "transfer", "tool": "shop.refund_order", "target": "stdio:shop", "approved_by": ["ben"], "outcome": {"result": "done"}}],
            "approvals": [], "deeds": [{"entry": 20, "at": "2026-11-23T04:06:00.000Z", "what": "refused", "about": "hold_1", "reason": "no photo"}]});
        insta::assert_snapshot!(person(&answer, Style::plain()), @r"
        ana answers for

        agents
        agent  calls  owner now
        scout  7      yes

        tasks
        entry  when                 task    agent  for  purpose
        5      2026-11-23 04:05:00  task_1  scout  sam  answer ticket
        and more: ask for a shorter time, or with a higher --limit

        acting calls
        entry  when                 agent  effect    tool               target      outcome  approved by
        8      2026-11-23 04:05:05  scout  transfer  shop.refund_order  stdio:shop  done     ben

        approvals given
        none

        refused, ended, classified or changed
        entry  when                 what     about   because
        20     2026-11-23 04:06:00  refused  hold_1  no photo
        ");
    }

    #[test]
    fn what_differs_is_told_by_group_and_nothing_is_told_as_nothing() {
        let stretch = |n: u64| json!({"since": "A", "until": "B", "first": n, "end": n + 10});
        let mut answer = json!({"last": stretch(0), "this": stretch(10), "groups": [
            {"name": "tools", "appeared": [{"value": "shop.delete_customer", "this": 3, "before": false}, {"value": "shop.x", "this": 1, "before": true}],
             "gone": [{"value": "shop.y", "last": 4, "this": 0}], "changed": [{"value": "shop.z", "last": 4, "this": 9}], "same": 2},
            {"name": "agents", "appeared": [], "gone": [], "changed": [], "same": 2}
        ]});
        insta::assert_snapshot!(difference(&answer, Style::plain()), @r"
        last  A to B, entries 0 to 10
        this  A to B, entries 10 to 20

        tools
          + shop.delete_customer  3, never before
          + shop.x  1, not in the stretch before, but earlier
          - shop.y  gone, was 4
          ~ shop.z  9 now, was 4
        ");
        answer["groups"] = json!([]);
        assert!(difference(&answer, Style::plain()).ends_with("nothing differs"));
    }

    #[test]
    fn what_a_stranger_wrote_into_the_record_reaches_no_view_as_it_is() {
        type View = fn(&Value, Style) -> String;
        let views: [(View, Value); 4] = [
            (
                entries,
                json!({"entries": [{"index": 1, "intact": true, "entry": {"kind": EVIL, "at": EVIL, "agent": EVIL, "tool": EVIL, "effect": EVIL, "result": EVIL}},
                {"index": 2, "intact": true, "entry": {"kind": "task_opened", "opened": {"purpose": EVIL, "spiffe_id": EVIL}}}]}),
            ),
            (
                changes,
                json!({"task": EVIL, "changes": [{"tool": EVIL, "target": EVIL, "effect": EVIL, "arguments": EVIL, "approved_by": [EVIL],
                "outcome": {"result": EVIL, "answer": EVIL}, "before": {"tool": EVIL, "call": EVIL, "answer": EVIL}}],
                "definitions": [{"tool": EVIL, "before": EVIL, "after": EVIL, "status": EVIL, "at": EVIL}]}),
            ),
            (
                person,
                json!({"person": EVIL, "more": [EVIL], "agents": [{"agent": EVIL}], "tasks": [{"purpose": EVIL, "subject": EVIL}],
                "calls": [{"tool": EVIL, "target": EVIL, "approved_by": [EVIL], "outcome": {"result": EVIL}}], "approvals": [{"footing": EVIL}], "deeds": [{"reason": EVIL, "what": EVIL}]}),
            ),
            (
                difference,
                json!({"person": EVIL, "this": {"since": EVIL}, "groups": [{"name": EVIL, "appeared": [{"value": EVIL}], "gone": [{"value": EVIL}], "changed": [{"value": EVIL}]}]}),
            ),
        ];
        for (view, answer) in views {
            let shown = view(&answer, Style::plain());
            let unseen = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
            assert!(!shown.contains(unseen) && !shown.contains("\nowner"), "{shown}");
        }
    }
}
