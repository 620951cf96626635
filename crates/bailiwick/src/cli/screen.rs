//! What a person sees of a held call before deciding: all of it, nothing invisible, the same text whose digest is signed.

use bailiwick_core::{Digest, HoldId};
use bailiwick_wire::json::{Limits, Raw};
use bailiwick_wire::render::{Shown, render};
use serde_json::Value;

use super::Failure;

pub(crate) use bailiwick_wire::render::line;

/// How a terminal is written to: with colours, or without.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// Colours if standard output is a terminal and nobody said no (`NO_COLOR`, see no-color.org).
    pub(crate) fn of_terminal() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        Self { colour: wanted && std::io::IsTerminal::is_terminal(&std::io::stdout()) }
    }

    /// No colours.
    pub(crate) const fn plain() -> Self {
        Self { colour: false }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// A heading.
    pub(crate) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Less important.
    pub(crate) fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// It passed.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// It was stopped.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// It waits, or deserves a second look.
    pub(crate) fn attention(self, text: &str) -> String {
        self.paint("33", text)
    }
}

/// A text member of a document, made visible; `-` if it is not there.
pub(crate) fn text(document: &Value, name: &str) -> String {
    match document.get(name) {
        Some(Value::String(text)) if !text.is_empty() => line(text),
        None | Some(Value::Null | Value::String(_)) => "-".to_owned(),
        Some(other) => line(&other.to_string()),
    }
}

/// The texts of a member that is a list.
pub(crate) fn texts(document: &Value, name: &str) -> Vec<String> {
    let list = document.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|v| v.as_str().map_or_else(|| line(&v.to_string()), line)).collect()
}

/// The labels of a task, from its own document or from that of a call of it.
pub(crate) fn has_read(document: &Value) -> String {
    let labels = texts(document, "labels");
    if labels.is_empty() { "nothing that is labelled".to_owned() } else { labels.join(", ") }
}

/// A held call, read from the broker's document.
#[derive(Debug)]
pub(crate) struct HeldCall<'a> {
    /// Its id.
    pub(crate) id: HoldId,
    /// What a decision is bound to.
    pub(crate) digest: Digest,
    document: &'a Value,
    arguments: &'a str,
    shown: Shown,
}

impl<'a> HeldCall<'a> {
    /// Reads the document. The arguments are rendered here, from the exact text that will be sent, not taken as the broker shows them.
    pub(crate) fn read(document: &'a Value) -> Result<Self, Failure> {
        let wrong = |what: &str| {
            Failure::new(format!("the broker's description of the held call cannot be read: {what}"), "do not decide it; tell the operator")
        };
        let member = |name: &'static str| document.get(name).and_then(Value::as_str).ok_or_else(|| wrong(name));
        let arguments = member("arguments")?;
        let raw = Raw::parse(arguments.as_bytes(), &Limits::REQUEST).map_err(|e| wrong(&format!("arguments: {e}")))?;
        Ok(Self {
            id: member("id")?.parse().map_err(|_| wrong("id"))?,
            digest: member("digest")?.parse().map_err(|_| wrong("digest"))?,
            shown: render(raw),
            arguments,
            document,
        })
    }

    /// Does it wait for people?
    pub(crate) fn is_pending(&self) -> bool {
        self.state() == "pending"
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> String {
        let state = self.document.get("state");
        state.and_then(Value::as_str).or_else(|| state.and_then(|s| s.get("state")).and_then(Value::as_str)).map_or_else(|| "-".to_owned(), line)
    }

    /// The whole screen without colours, line by line. Its digest is what the person signs as seen.
    pub(crate) fn lines(&self) -> Vec<String> {
        let of = |name: &str| text(self.document, name);
        let mut lines = vec![
            format!("{} {} on {}", of("effect").to_uppercase(), of("tool"), of("target")),
            String::new(),
            field("asked by", &of("agent")),
            field("identity", &of("spiffe_id")),
            field("owner", &of("owner")),
            field("on behalf of", &of("subject")),
            field("task", &of("task")),
            field("purpose", &of("purpose")),
            field("has read", &has_read(self.document)),
            field("held because", &self.reasons()),
            field("may decide", &self.deciders()),
            field("held at", &of("at")),
            field("expires at", &of("expires_at")),
            field("hold", &of("id")),
            field("digest", &of("digest")),
            field("nonce", &of("nonce")),
            String::new(),
            format!("arguments, all {} bytes of them:", self.arguments.len()),
        ];
        lines.extend(self.shown.text.lines().map(|l| format!("  {l}")));
        if self.shown.hidden > 0 {
            lines.push(format!("WARNING: {} hidden characters; each is written as its \\u number above", self.shown.hidden));
        }
        if self.shown.non_ascii > 0 {
            lines.push(format!("note: {} characters are not ASCII; some letters look like others", self.shown.non_ascii));
        }
        if self.shown.lossy_numbers {
            lines.push("WARNING: a number here can be read as another one by some programs".to_owned());
        }
        lines
    }

    /// SHA-256 of the words that the person saw.
    pub(crate) fn seen(&self) -> Digest {
        Digest::of(self.lines().join("\n").as_bytes())
    }

    /// The screen for a terminal.
    pub(crate) fn painted(&self, style: Style) -> String {
        let mut painted = Vec::new();
        for (index, line) in self.lines().into_iter().enumerate() {
            painted.push(match line.split_at_checked(LABEL) {
                _ if index == 0 => style.strong(&line),
                _ if line.starts_with("WARNING") => style.bad(&line),
                _ if line.starts_with("note") => style.attention(&line),
                Some((label, value)) if line.starts_with("  ") && index < 17 => format!("{}{value}", style.faint(label)),
                _ => line,
            });
        }
        painted.join("\n")
    }

    fn reasons(&self) -> String {
        match self.document.get("reasons") {
            Some(Value::Array(_)) => texts(self.document, "reasons").join("; "),
            _ => text(self.document, "reasons"),
        }
    }

    fn deciders(&self) -> String {
        let needed = self.document.get("count").and_then(Value::as_u64).unwrap_or(1);
        let given = self.document.get("approvals").and_then(Value::as_array).map_or(0, Vec::len);
        format!("{} ({given} of {needed} approvals so far)", texts(self.document, "people").join(", "))
    }
}

const LABEL: usize = 17;

/// A label and a value, in two columns.
pub(crate) fn field(label: &str, value: &str) -> String {
    format!("  {label:<14} {value}")
}

/// Rows in aligned columns under a head; widths are counted in characters.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>], style: Style) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let layout = |cells: &mut dyn Iterator<Item = &str>| {
        let line: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        line.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![style.faint(&layout(&mut head.iter().copied()))];
    lines.extend(rows.iter().map(|row| layout(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// An id by its last eight characters: enough to tell those of one day apart, and accepted by the commands.
pub(crate) fn short(id: &str) -> String {
    let from = id.chars().count().saturating_sub(8);
    id.chars().skip(from).collect()
}

/// The one id that `given` names: whole, or a unique beginning or end of it.
pub(crate) fn unique<'a>(given: &str, ids: impl IntoIterator<Item = &'a str>, what: &str) -> Result<&'a str, Failure> {
    let mut ids: Vec<&str> = ids.into_iter().collect();
    if let Some(id) = ids.iter().find(|id| **id == given) {
        return Ok(id);
    }
    let beginning = |id: &str| id.starts_with(given) || id.split_once('_').is_some_and(|(_, rest)| rest.starts_with(given));
    ids.retain(|id| !given.is_empty() && (beginning(id) || id.ends_with(given)));
    match ids.as_slice() {
        [id] => Ok(id),
        [] => Err(Failure::new(format!("there is no {what} `{}`", line(given)), "list them first; an id may be shortened to its beginning or end")),
        many => Err(Failure::new(format!("`{}` is short for {} of them", line(given), many.len()), "give more of the id")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn document(arguments: &str) -> Value {
        json!({
            "id": format!("hold_{:032x}", 7), "digest": "ab".repeat(32), "nonce": "cd".repeat(32), "state": "pending", "tool": "shop.refund_order", "effect": "transfer",
            "target": "stdio:shop", "agent": "assistant", "spiffe_id": "spiffe://bailiwick.local/agent/assistant", "owner": "ana",
            "subject": "ana", "purpose": "answer ticket", "labels": ["pii", "untrusted"], "task": format!("task_{:032x}", 3), "reasons": "transferring needs one person",
            "people": ["ben"], "count": 1, "approvals": [], "arguments": arguments, "at": "2026-11-23T00:00:00.000Z", "expires_at": "2026-11-23T01:00:00.000Z"
        })
    }

    #[test]
    fn the_screen_shows_the_whole_call_and_who_may_decide() {
        let document = document(r#"{"order":"O-2008","amount_cents":12980}"#);
        let held = HeldCall::read(&document).unwrap();
        insta::assert_snapshot!(held.lines().join("\n"), @r#"
        TRANSFER shop.refund_order on stdio:shop

          asked by       assistant
          identity       spiffe://bailiwick.local/agent/assistant
          owner          ana
          on behalf of   ana
          task           task_00000000000000000000000000000003
          purpose        answer ticket
          has read       pii, untrusted
          held because   transferring needs one person
          may decide     ben (0 of 1 approvals so far)
          held at        2026-11-23T00:00:00.000Z
          expires at     2026-11-23T01:00:00.000Z
          hold           hold_00000000000000000000000000000007
          digest         abababababababababababababababababababababababababababababababab
          nonce          cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd

        arguments, all 39 bytes of them:
          {
            "amount_cents": 12980,
            "order": "O-2008"
          }
        "#);
    }

    #[test]
    fn a_hidden_character_is_written_by_its_number_and_counted() {
        let document = document("{\"to\":\"ben\u{202e}gro\"}");
        let shown = HeldCall::read(&document).unwrap().lines().join("\n");
        assert!(!shown.contains('\u{202e}') && shown.contains("WARNING: 1 hidden characters"), "{shown}");
    }

    #[test]
    fn the_arguments_are_shown_from_the_exact_text_whatever_the_broker_says_about_them() {
        let mut document = document(r#"{"amount_cents":999999}"#);
        document["shown"] = json!("{\n  \"amount_cents\": 1\n}");
        let shown = HeldCall::read(&document).unwrap().lines().join("\n");
        assert!(shown.contains("999999") && !shown.contains("\"amount_cents\": 1\n"), "{shown}");
    }

    #[test]
    fn what_was_seen_differs_when_anything_shown_differs() {
        let (one, other) = (document(r#"{"a":1}"#), document(r#"{"a":2}"#));
        assert_ne!(HeldCall::read(&one).unwrap().seen(), HeldCall::read(&other).unwrap().seen());
        let mut since = one.clone();
        since["labels"] = json!([]);
        assert_ne!(HeldCall::read(&one).unwrap().seen(), HeldCall::read(&since).unwrap().seen(), "the task has read something since");
    }

    #[test]
    fn a_description_without_arguments_or_with_double_keys_is_not_decided() {
        let mut without = document("{}");
        without.as_object_mut().unwrap().remove("arguments");
        assert!(HeldCall::read(&without).is_err());
        assert!(HeldCall::read(&document(r#"{"a":1,"a":2}"#)).is_err());
    }

    #[test]
    fn an_id_may_be_shortened_to_a_unique_beginning_or_end() {
        let ids = ["hold_0192aa11", "hold_0192bb22"];
        assert_eq!(unique("aa11", ids, "hold").unwrap(), ids[0]);
        assert_eq!(unique("hold_0192b", ids, "hold").unwrap(), ids[1]);
        assert_eq!(unique("0192b", ids, "hold").unwrap(), ids[1]);
        assert_eq!(unique(ids[0], ids, "hold").unwrap(), ids[0]);
        for none in ["0192", "hold_", "", "zz", "92aa"] {
            assert!(unique(none, ids, "hold").is_err(), "{none}");
        }
    }

    #[test]
    fn columns_are_aligned_and_lines_end_without_space() {
        let shown = table(&["name", "effect"], &[vec!["a".into(), "read".into()], vec!["longer".into(), "".into()]], Style::plain());
        assert_eq!(shown, "name    effect\na       read\nlonger");
    }

    proptest! {
        #[test]
        fn nothing_that_a_stranger_writes_reaches_the_terminal_as_a_control(purpose in ".{0,60}", value in ".{0,60}") {
            let mut document = document(&json!({ "v": value.replace('\0', "") }).to_string());
            document["purpose"] = json!(purpose);
            let held = HeldCall::read(&document).unwrap();
            prop_assert!(held.lines().iter().all(|l| !l.chars().any(char::is_control)));
        }
    }
}
