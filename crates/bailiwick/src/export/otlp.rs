//! Entries as OpenTelemetry spans and log records, in the JSON mapping of OTLP, with the GenAI and MCP conventions.
//!
//! One span for each call that came to an end, permitted or denied; log records for everything else. Never arguments or results: the
//! conventions' opt-in attributes for them are never set, and an entry does not have them.

use serde_json::{Value, json};

use super::facts::{Facts, TraceContext, short, split};
use super::ocsf;

/// A span or a log record, as OTLP's JSON mapping writes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    /// A call that came to an end.
    Span(Value),
    /// Anything else.
    Log(Value),
}

/// The span or log record of an entry. `None` for an intent: its outcome tells both.
#[must_use]
pub fn signal(facts: &Facts<'_>) -> Option<Signal> {
    match (facts.kind(), TraceContext::of(facts)) {
        ("intent", _) => None,
        ("outcome" | "denial", Some(context)) => Some(Signal::Span(span(facts, context))),
        (_, context) => Some(Signal::Log(log(facts, context))),
    }
}

/// What sends: the broker as a service, and the log that it keeps.
#[must_use]
pub fn resource(origin: &str) -> Value {
    json!({ "attributes": attributes([
        ("service.name", Some("bailiwick".into())),
        ("service.version", Some(env!("CARGO_PKG_VERSION").into())),
        ("service.instance.id", Some(origin.into())),
        ("bailiwick.ledger.origin", Some(origin.into())),
    ]) })
}

/// What made the spans and records.
#[must_use]
pub fn scope() -> Value {
    json!({ "name": "bailiwick.export", "version": env!("CARGO_PKG_VERSION") })
}

/// The span that an MCP server makes of a request: the broker is the server that the agent talks to.
fn span(facts: &Facts<'_>, context: TraceContext) -> Value {
    let (method, tool) = method(facts);
    let error = error_type(facts);
    let denied = facts.kind() == "denial";
    // Names that nobody defined are chosen by whoever asks: they do not belong into a span's name.
    let known = tool.filter(|_| !denied || facts.own("code") != Some("tool.unknown"));
    let name = known.map_or_else(|| method.to_owned(), |tool| format!("{method} {tool}"));
    let (began, ended) = (facts.began().unwrap_or_else(|| facts.at()), facts.at());
    let mut span = json!({
        "traceId": context.trace,
        "spanId": context.span,
        "name": name,
        // SPAN_KIND_SERVER
        "kind": 2,
        "startTimeUnixNano": nanos(began.as_millis()),
        "endTimeUnixNano": nanos(ended.as_millis().max(began.as_millis())),
        "attributes": attributes(of_call(facts).into_iter().chain([
            ("error.type", error.map(Value::from)),
            ("bailiwick.decision", Some(if denied { "deny" } else { "allow" }.into())),
            ("bailiwick.outcome", facts.own("result").map(Value::from)),
            ("bailiwick.answer.size", facts.entry.get("answer_bytes").cloned()),
        ])),
        // STATUS_CODE_ERROR, or left to whoever reads it
        "status": if error.is_some() { json!({ "code": 2, "message": facts.own("detail").or(error) }) } else { json!({}) },
    });
    if let (Some(parent), Some(members)) = (context.parent, span.as_object_mut()) {
        members.insert("parentSpanId".to_owned(), parent.into());
        // The low byte is W3C's; the next two bits say that the parent is known to be remote.
        members.insert("flags".to_owned(), (u32::from(context.flags) | 0x300).into());
    }
    span
}

fn log(facts: &Facts<'_>, context: Option<TraceContext>) -> Value {
    let kind = facts.kind();
    let (number, text) = match ocsf::severity(facts) {
        0 | 1 => (9, "INFO"),
        2 | 3 => (13, "WARN"),
        _ => (17, "ERROR"),
    };
    let more = ["what", "step", "state", "status", "reason", "by", "incident", "detail", "name", "code"];
    let more = more.map(|name| (own_key(name), facts.own(name).map(Value::from)));
    let mut record = json!({
        "timeUnixNano": nanos(facts.at().as_millis()),
        "observedTimeUnixNano": nanos(facts.at().as_millis()),
        "severityNumber": number,
        "severityText": text,
        "eventName": format!("bailiwick.{kind}"),
        "body": { "stringValue": sentence(facts) },
        "attributes": attributes(of_call(facts).into_iter().chain(more)),
    });
    if let (Some(context), Some(members)) = (context, record.as_object_mut()) {
        members.insert("traceId".to_owned(), context.trace.into());
        members.insert("spanId".to_owned(), context.span.into());
    }
    record
}

fn own_key(name: &str) -> &'static str {
    match name {
        "what" => "bailiwick.what",
        "step" => "bailiwick.step",
        "state" => "bailiwick.state",
        "status" => "bailiwick.status",
        "reason" => "bailiwick.reason",
        "by" => "bailiwick.by",
        "incident" => "bailiwick.incident",
        "detail" => "bailiwick.detail",
        "name" => "bailiwick.name",
        _ => "bailiwick.code",
    }
}

/// The entry in a few words, for whoever reads records as lines.
fn sentence(facts: &Facts<'_>) -> String {
    let about = ["tool", "what", "step", "state", "status"].into_iter().filter_map(|name| facts.own(name));
    std::iter::once(facts.kind()).chain(about).collect::<Vec<_>>().join(" ")
}

/// The MCP method, and the tool if the method is about one: operations beside tools are named like tools of their system.
fn method<'a>(facts: &Facts<'a>) -> (&'a str, Option<&'a str>) {
    let entry: &'a Value = facts.entry;
    let named = entry.get("tool").or_else(|| facts.cause?.get("tool")).and_then(Value::as_str);
    match named.map(|tool| (tool, split(tool).1)) {
        Some((_, operation)) if matches!(operation, "resources/read" | "resources/subscribe" | "prompts/get" | "completion/complete") => {
            (operation, None)
        }
        Some((tool, _)) => ("tools/call", Some(tool)),
        None => ("tools/call", None),
    }
}

/// Why a call did not do what it was to do. A tool that says so itself is `tool_error`, as the conventions have it.
fn error_type<'a>(facts: &'a Facts<'_>) -> Option<&'a str> {
    match (facts.kind(), facts.own("result")) {
        ("outcome", Some("done")) => None,
        ("outcome", Some("failed")) => Some(facts.own("code").unwrap_or("tool_error")),
        _ => Some(facts.own("code").or_else(|| facts.own("result")).unwrap_or("_OTHER")),
    }
}

/// What is known about agent, task, call, decision and place in the ledger, for spans and records alike.
fn of_call(facts: &Facts<'_>) -> Vec<(&'static str, Option<Value>)> {
    let text = |name: &str| facts.text(name).map(Value::from);
    let of_a_call = facts.text("call").is_some() && facts.text("tool").is_some();
    let (method, tool) = method(facts);
    let tool = tool.filter(|_| of_a_call);
    let policies: Vec<&str> = facts.policies().into_iter().map(|(id, _)| id).collect();
    vec![
        ("mcp.method.name", of_a_call.then(|| method.into())),
        // Only of a tool call, and then with its name.
        ("gen_ai.operation.name", tool.map(|_| "execute_tool".into())),
        ("gen_ai.tool.name", tool.map(Value::from)),
        ("gen_ai.tool.call.id", tool.and_then(|_| text("call"))),
        ("gen_ai.agent.id", facts.agent().map(Value::from)),
        ("gen_ai.agent.name", facts.agent().map(|a| short(a).into())),
        ("gen_ai.conversation.id", text("task")),
        ("gen_ai.request.model", facts.task.and_then(|t| t.get("model_claimed")).filter(|m| m.is_string()).cloned()),
        ("mcp.session.id", text("mcp_session")),
        ("mcp.protocol.version", text("mcp_protocol")),
        ("jsonrpc.request.id", text("request")),
        ("bailiwick.instance", facts.of_task("instance").map(Value::from)),
        ("bailiwick.component", facts.of_task("component").map(Value::from)),
        ("bailiwick.owner", facts.of_task("owner").map(Value::from)),
        ("bailiwick.subject", facts.of_task("subject").map(Value::from)),
        ("bailiwick.actors", Some(facts.actors().into())),
        ("bailiwick.call", text("call")),
        ("bailiwick.hold", text("hold")),
        ("bailiwick.tool", facts.text("tool").filter(|_| tool.is_none()).map(Value::from)),
        ("bailiwick.effect", text("effect")),
        ("bailiwick.labels", Some(facts.labels().into())),
        ("bailiwick.policy.ids", Some(policies.into())),
        ("bailiwick.policy.revision", text("revision")),
        ("bailiwick.repeats", Some(facts.repeats()).filter(|n| *n > 0).map(Value::from)),
        ("bailiwick.ledger.index", Some(facts.index.into())),
        ("bailiwick.ledger.intent", facts.entry.get("intent").cloned()),
        ("bailiwick.ledger.leaf", Some(facts.leaf().into())),
        ("bailiwick.event.uid", Some(facts.uid().into())),
    ]
}

/// Attributes with a value; empty lists say nothing.
fn attributes(given: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let each = given.into_iter().filter_map(|(key, value)| Some(json!({ "key": key, "value": any_value(&value?)? })));
    each.collect()
}

//= https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
// 64-bit integers are decimal strings, as in the JSON mapping of Protocol Buffers.
fn any_value(value: &Value) -> Option<Value> {
    Some(match value {
        Value::String(text) => json!({ "stringValue": text }),
        Value::Bool(yes) => json!({ "boolValue": yes }),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => json!({ "intValue": whole.to_string() }),
            None => json!({ "doubleValue": number.as_f64()? }),
        },
        Value::Array(items) if items.is_empty() => return None,
        Value::Array(items) => json!({ "arrayValue": { "values": items.iter().filter_map(any_value).collect::<Vec<_>>() } }),
        Value::Null | Value::Object(_) => return None,
    })
}

fn nanos(millis: i64) -> String {
    (i128::from(millis.max(0)) * 1_000_000).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts<'a>(entry: &'a Value, cause: Option<&'a Value>) -> Facts<'a> {
        Facts { origin: "ledger.example/2026", index: 7, leaf: [9; 32], text: "", entry, cause, task: None }
    }

    fn attribute<'a>(signal: &'a Value, key: &str) -> Option<&'a Value> {
        signal["attributes"].as_array().unwrap().iter().find(|a| a["key"] == key).map(|a| &a["value"])
    }

    fn call() -> String {
        format!("call_{}", "ab".repeat(16))
    }

    fn intent() -> Value {
        json!({ "kind": "intent", "at": "2026-11-23T00:00:00.000Z", "call": call(), "task": "task_1", "agent": "spiffe://td/agent/scout",
            "tool": "shop.refund", "effect": "transfer", "policies": [{ "id": "p1" }, { "id": "p2" }], "revision": "r1",
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" })
    }

    #[test]
    fn a_call_is_one_span_from_its_intent_to_its_outcome_under_the_clients_trace() {
        let intent = intent();
        let outcome =
            json!({ "kind": "outcome", "at": "2026-11-23T00:00:01.500Z", "call": call(), "intent": 6, "result": "done", "answer_bytes": 12 });
        assert_eq!(signal(&facts(&intent, None)), None);
        let Some(Signal::Span(span)) = signal(&facts(&outcome, Some(&intent))) else { panic!("no span") };
        assert_eq!(span["name"], "tools/call shop.refund");
        assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!("4bf92f3577b34da6a3ce929d0e0e4736"), &json!("00f067aa0ba902b7")));
        assert_eq!((&span["startTimeUnixNano"], &span["endTimeUnixNano"]), (&json!("1795392000000000000"), &json!("1795392001500000000")));
        assert_eq!((&span["kind"], &span["flags"], &span["status"]), (&json!(2), &json!(0x301), &json!({})));
        assert_eq!(attribute(&span, "gen_ai.operation.name").unwrap()["stringValue"], "execute_tool");
        assert_eq!(attribute(&span, "gen_ai.conversation.id").unwrap()["stringValue"], "task_1");
        assert_eq!(attribute(&span, "bailiwick.ledger.intent").unwrap()["intValue"], "6");
        assert_eq!(attribute(&span, "bailiwick.policy.ids").unwrap()["arrayValue"]["values"][1]["stringValue"], "p2");
        assert_eq!(attribute(&span, "error.type"), None);
    }

    #[test]
    fn what_went_wrong_is_the_type_of_the_error() {
        let intent = intent();
        for (result, code, error) in
            [("failed", None, "tool_error"), ("unknown", Some("upstream.timeout"), "upstream.timeout"), ("not_sent", None, "not_sent")]
        {
            let outcome = json!({ "kind": "outcome", "at": "2026-11-23T00:00:01Z", "call": call(), "result": result, "code": code });
            let Some(Signal::Span(span)) = signal(&facts(&outcome, Some(&intent))) else { panic!("no span") };
            assert_eq!((attribute(&span, "error.type").unwrap(), &span["status"]["code"]), (&json!({ "stringValue": error }), &json!(2)));
        }
    }

    #[test]
    fn a_denied_name_that_nobody_defined_is_no_part_of_a_spans_name() {
        let denial =
            |code: &str| json!({ "kind": "denial", "at": "2026-11-23T00:00:00Z", "call": call(), "tool": "shop.x", "code": code, "detail": "no" });
        for (code, name) in [("tool.unknown", "tools/call"), ("policy.denied", "tools/call shop.x")] {
            let denial = denial(code);
            let Some(Signal::Span(span)) = signal(&facts(&denial, None)) else { panic!("no span") };
            assert_eq!((span["name"].as_str(), span["status"]["message"].as_str()), (Some(name), Some("no")));
            assert_eq!(span["startTimeUnixNano"], span["endTimeUnixNano"]);
        }
    }

    #[test]
    fn what_is_no_tool_call_does_not_pretend_to_be_one() {
        let mut intent = intent();
        intent["tool"] = json!("shop.resources/read");
        let outcome = json!({ "kind": "outcome", "at": "2026-11-23T00:00:01Z", "call": call(), "result": "done" });
        let Some(Signal::Span(span)) = signal(&facts(&outcome, Some(&intent))) else { panic!("no span") };
        assert_eq!(span["name"], "resources/read");
        assert_eq!(attribute(&span, "gen_ai.operation.name"), None);
        let started = json!({ "kind": "house", "at": "2026-11-23T00:00:01Z", "what": "started" });
        let Some(Signal::Log(log)) = signal(&facts(&started, None)) else { panic!("no record") };
        assert_eq!((&log["eventName"], &log["body"]["stringValue"]), (&json!("bailiwick.house"), &json!("house started")));
        assert_eq!((attribute(&log, "mcp.method.name"), log.get("traceId")), (None, None));
    }
}
