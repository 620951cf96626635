//! What is known of one entry of the ledger when it is told elsewhere: its own members, and those of the entries that it refers to.

use bailiwick_core::{Digest, Timestamp};
use serde_json::Value;

/// One entry with its place in the log, and what it refers to.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The name of the log, from its signed head.
    pub origin: &'a str,
    /// Its index.
    pub index: u64,
    /// Its leaf hash.
    pub leaf: [u8; 32],
    /// Its exact text.
    pub text: &'a str,
    /// Its members.
    pub entry: &'a Value,
    /// For an outcome, its intent; for a step of a hold, the entry by which it was held.
    pub cause: Option<&'a Value>,
    /// The task as it was opened.
    pub task: Option<&'a Value>,
}

impl Facts<'_> {
    /// The same for every copy of this entry that is ever sent, and for no other entry of any log.
    pub(super) fn uid(&self) -> String {
        format!("{}/{}", self.origin, self.index)
    }

    /// The leaf hash in hex.
    pub(super) fn leaf(&self) -> String {
        Digest::from_bytes(self.leaf).to_string()
    }

    /// The entry's kind.
    pub(super) fn kind(&self) -> &str {
        self.own("kind").unwrap_or("unknown")
    }

    /// A text member of the entry itself.
    pub(super) fn own(&self, name: &str) -> Option<&str> {
        self.entry.get(name)?.as_str()
    }

    /// A member of the entry, or of the one that it refers to.
    pub(super) fn any(&self, name: &str) -> Option<&Value> {
        self.entry.get(name).or_else(|| self.cause?.get(name))
    }

    /// A text member of the entry, or of the one that it refers to.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.any(name)?.as_str()
    }

    /// When it was recorded.
    pub(super) fn at(&self) -> Timestamp {
        moment(self.entry).unwrap_or_else(|| Timestamp::from_millis(0))
    }

    /// When what it closes began.
    pub(super) fn began(&self) -> Option<Timestamp> {
        moment(self.cause?)
    }

    /// The agent that acts: in a task's first entry it stands inside.
    pub(super) fn agent(&self) -> Option<&str> {
        self.text("agent").or_else(|| self.task?.get("spiffe_id")?.as_str())
    }

    /// A text about the task, wherever it stands.
    pub(super) fn of_task(&self, name: &str) -> Option<&str> {
        self.text(name).or_else(|| self.task?.get(name)?.as_str())
    }

    /// The agents that handed the work on, nearest first.
    pub(super) fn actors(&self) -> Vec<&str> {
        self.any("actors").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The determining policies, as id and reason.
    pub(super) fn policies(&self) -> Vec<(&str, Option<&str>)> {
        let all = self.any("policies").and_then(Value::as_array).into_iter().flatten();
        all.filter_map(|p| Some((p.get("id").and_then(Value::as_str).or_else(|| p.as_str())?, p.get("reason").and_then(Value::as_str)))).collect()
    }

    /// What the task had been given, or is given now.
    pub(super) fn labels(&self) -> Vec<&str> {
        self.any("labels").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Do several calls stand for one entry?
    pub(super) fn repeats(&self) -> u64 {
        self.entry.get("repeats").and_then(Value::as_u64).unwrap_or(0)
    }
}

fn moment(entry: &Value) -> Option<Timestamp> {
    Timestamp::parse(entry.get("at")?.as_str()?).ok()
}

/// A tool's name in two: its system, and its name there.
pub(super) fn split(tool: &str) -> (&str, &str) {
    tool.split_once('.').unwrap_or((tool, tool))
}

/// The last part of a SPIFFE ID: the agent's name.
pub(super) fn short(spiffe_id: &str) -> &str {
    spiffe_id.rsplit('/').next().unwrap_or(spiffe_id)
}

/// W3C trace context of a call: as its client said, else made from the call's own id, which is as long and as random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TraceContext {
    /// 32 hex digits.
    pub(super) trace: String,
    /// Our span: 16 hex digits, the same for each copy.
    pub(super) span: String,
    /// The client's span.
    pub(super) parent: Option<String>,
    /// The client's flags.
    pub(super) flags: u8,
}

impl TraceContext {
    /// That of the entry's call. `None` for an entry of no call.
    pub(super) fn of(facts: &Facts<'_>) -> Option<Self> {
        let call = facts.text("call")?;
        let (_, digits) = call.split_once('_')?;
        let hex = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let real = |text: &str| text.bytes().any(|b| b != b'0');
        if !hex(digits, 32) || !real(digits) {
            return None;
        }
        // SHA-256 has no known text whose digest begins with eight zero bytes.
        let span = crate::leases::span(&call);
        let given = facts.text("traceparent").and_then(|text| {
            //= https://www.w3.org/TR/trace-context/#traceparent-header-field-values
            // version-format = trace-id "-" parent-id "-" trace-flags
            let mut parts = text.split('-');
            let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            let known = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
            let whole = hex(trace, 32) && real(trace) && hex(parent, 16) && real(parent) && hex(flags, 2);
            let flags = u8::from_str_radix(flags, 16).ok()?;
            (known && whole).then(|| (trace.to_owned(), parent.to_owned(), flags))
        });
        Some(match given {
            Some((trace, parent, flags)) => Self { trace, span, parent: Some(parent), flags },
            None => Self { trace: digits.to_owned(), span, parent: None, flags: 1 },
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context(entry: &Value) -> Option<TraceContext> {
        TraceContext::of(&Facts { origin: "o", index: 0, leaf: [0; 32], text: "", entry, cause: None, task: None })
    }

    #[test]
    fn a_client_without_trace_context_gets_a_trace_of_the_calls_own_id() {
        let call = format!("call_{}", "01".repeat(16));
        let own = context(&json!({ "call": call })).unwrap();
        assert_eq!((own.trace.as_str(), own.parent.clone(), own.flags), ("01".repeat(16).as_str(), None, 1));
        assert_eq!(own, context(&json!({ "call": call })).unwrap());
        assert_eq!(own.span.len(), 16);
        assert_eq!(context(&json!({ "kind": "house" })), None);
        for bad in ["call", "call_", "call_xyz", &format!("call_{}", "0".repeat(32))] {
            assert_eq!(context(&json!({ "call": bad })), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_traceparent_is_taken_for_none() {
        let call = format!("call_{}", "01".repeat(16));
        let of = |text: &str| context(&json!({ "call": call, "traceparent": text })).unwrap();
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let good = of(&format!("00-{trace}-{parent}-01"));
        assert_eq!((good.trace.as_str(), good.parent.as_deref(), good.flags), (trace, Some(parent), 1));
        assert_eq!(of(&format!("01-{trace}-{parent}-00-later")).trace, trace);
        for bad in [
            String::new(),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{trace}-{parent}-01-more"),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{trace}-{parent}"),
        ] {
            assert_eq!(of(&bad).parent, None, "{bad}");
        }
    }
}
