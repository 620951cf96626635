//! The kept texts of a call, for `bailiwick trace CALL --texts`: shown without their control characters, or why they are not there.

use serde_json::Value;

use super::client::ApiClient;
use super::key_files::PersonKey;
use super::screen::{Style, field, text};
use super::{Failure, Place, say};

/// Lines of a text that are shown in a terminal; `--json` has all of them.
const LINES_MAX: usize = 200;

/// Asks for the texts of the call that a trace is about, and shows them. Each look is on record.
pub(crate) async fn show(api: &ApiClient, who: &PersonKey, place: &Place, trace: &Value) -> Result<(), Failure> {
    let call = trace.get("call").and_then(Value::as_str).ok_or_else(|| Failure::new("there is no call in this trace", "only calls have texts"))?;
    let texts = api.get(who, &format!("/v1/calls/{call}/texts")).await?;
    say(if place.json { texts.to_string() } else { told(&texts, Style::of_terminal()) });
    Ok(())
}

fn told(texts: &Value, style: Style) -> String {
    let mut lines = Vec::new();
    for (name, words) in [("arguments", "the arguments"), ("answer", "the answer")] {
        let Some(one) = texts.get(name) else { continue };
        let of = |name: &str| text(one, name);
        lines.push(String::new());
        let state = match of("state").as_str() {
            "kept" => style.strong(&format!("{words}, {} bytes, kept until {}", of("bytes"), of("until"))),
            "erased" => format!("{words}: erased on {} by {} (entry {})", of("at"), of("by"), of("entry")),
            "expired" => format!("{words}: expired on {}", of("at")),
            "lost" => style.bad(&format!("{words}: should be there until {}, and is not", of("until"))),
            "damaged" => style.bad(&format!("{words}: what is stored was changed, or belongs to another call")),
            _ => format!("{words}: not kept"),
        };
        lines.push(state);
        let Some(kept) = one.get("text").and_then(Value::as_str) else { continue };
        let mut shown = kept.lines();
        lines.extend(shown.by_ref().take(LINES_MAX).map(|l| format!("  {}", super::screen::line(l))));
        if shown.next().is_some() {
            lines.push(style.attention("  and more lines: --json shows all of them"));
        }
        if one.get("truncated").and_then(Value::as_bool) == Some(true) {
            lines.push(style.attention("  only this beginning is kept"));
        }
        match one.get("on_record").and_then(Value::as_bool) {
            Some(true) => lines.push(field("on record", "it is the text whose digest is in the ledger")),
            Some(false) => lines.push(style.bad("  NOT THE TEXT WHOSE DIGEST IS IN THE LEDGER")),
            None => {}
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_text_is_shown_with_what_is_known_of_it_and_an_escape_in_it_does_not_reach_the_terminal() {
        let texts = json!({
            "call": "call_1",
            "arguments": {"state": "kept", "text": "{\"to\":\"\u{1b}[2Jben\"}", "bytes": 20, "truncated": false, "until": "T2", "on_record": true},
            "answer": {"state": "erased", "at": "T1", "by": "ops", "entry": 17},
        });
        let told = told(&texts, Style::plain());
        assert!(!told.contains('\u{1b}'), "{told}");
        assert!(told.contains("the arguments, 20 bytes, kept until T2") && told.contains("it is the text whose digest is in the ledger"), "{told}");
        assert!(told.contains("the answer: erased on T1 by ops (entry 17)"), "{told}");
    }

    #[test]
    fn what_is_not_there_is_told_with_the_reason() {
        let of = |state: Value| told(&json!({ "arguments": state }), Style::plain());
        assert!(of(json!({"state": "expired", "at": "T1"})).contains("expired on T1"));
        assert!(of(json!({"state": "lost", "until": "T1"})).contains("should be there until T1, and is not"));
        assert!(of(json!({"state": "damaged"})).contains("changed"));
        assert!(of(json!({"state": "not_kept"})).contains("not kept"));
        assert!(of(json!({"state": "kept", "text": "x", "bytes": 9, "truncated": true, "until": "T"})).contains("only this beginning is kept"));
        assert!(of(json!({"state": "kept", "text": "x", "bytes": 1, "until": "T", "on_record": false})).contains("NOT THE TEXT"));
    }
}
