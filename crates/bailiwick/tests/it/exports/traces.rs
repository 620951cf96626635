//! What an OpenTelemetry collector gets: a span for each call that came to an end, with the GenAI and MCP conventions, and log records
//! for everything else.

use std::collections::BTreeSet;

use serde_json::Value;

use super::collector::{Item, logs, spans};
use super::receiver::{Mood, Receiver};
use super::{ARGUMENT, SPAN, TRACE, place_with, read_lines, size, story};
use crate::support::{Broker, until};

fn received(receiver: &Receiver) -> (Vec<Item>, Vec<Item>) {
    let (mut all_spans, mut all_logs) = (Vec::new(), Vec::new());
    for taken in receiver.taken() {
        assert_eq!(taken.headers["content-type"], "application/json");
        match taken.path.as_str() {
            "/base/v1/traces" => all_spans.extend(spans(&taken.body)),
            "/base/v1/logs" => all_logs.extend(logs(&taken.body)),
            other => panic!("nothing is expected at {other}"),
        }
        assert!(!taken.body.contains(ARGUMENT), "an argument is in a span");
    }
    (all_spans, all_logs)
}

async fn wait_for_all(broker: &Broker, receiver: &Receiver) -> Vec<Value> {
    let entries = broker.entries().await;
    let now = size(broker).await;
    until("the collector has everything", || broker.house.exports.all().iter().all(|p| p.status(now, broker.house.clock.now()).next >= now)).await;
    assert!(!receiver.taken().is_empty());
    entries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_what_the_conventions_say() {
    let receiver = Receiver::start(Mood::Takes).await;
    let export = format!("\n[[export]]\nname = \"otel\"\nformat = \"otlp\"\nurl = \"http://{}/base\"\n", receiver.address);
    let (place, _dir) = place_with(&export).await;
    let broker = place.open().await;
    let task = story(&place, &broker).await;
    let entries = wait_for_all(&broker, &receiver).await;
    let (spans, logs) = received(&receiver);

    let of = |kind: &str| entries.iter().filter(|e| e["kind"] == kind).count();
    assert_eq!(spans.len(), of("outcome") + of("denial"), "one span for each call that came to an end");
    assert_eq!(spans.len() + logs.len() + of("intent"), entries.len());
    for span in &spans {
        check_span(span, &entries, &task.id);
    }
    let unique: BTreeSet<&str> = spans.iter().map(|s| s.text("spanId")).collect();
    assert_eq!(unique.len(), spans.len());

    // The client's own trace, with its span as the parent; and the system got the same trace.
    let traced: Vec<&Item> = spans.iter().filter(|s| s.text("traceId") == TRACE).collect();
    assert_eq!(traced.len(), 1);
    assert_eq!((traced[0].text("parentSpanId"), traced[0].text("name")), (SPAN, "tools/call sys.look"));
    let seen = place.upstream.seen();
    let first: Value = serde_json::from_slice(&seen[0].body).unwrap();
    let passed_on = first["params"]["_meta"]["traceparent"].as_str().unwrap();
    assert_eq!(passed_on.split('-').nth(1), Some(TRACE), "{first}");

    let errors: BTreeSet<&str> = spans.iter().filter_map(|s| s.attribute("error.type")).collect();
    assert!(errors.contains("tool_error") && errors.contains("upstream.broken"), "{errors:?}");
    check_logs(&logs);
    broker.stop().await;
}

/// <https://opentelemetry.io/docs/specs/semconv/gen-ai/mcp/>, server: what is required, and what is there where it is known.
fn check_span(span: &Item, entries: &[Value], task: &str) {
    assert_eq!(span.own["kind"], 2, "SPAN_KIND_SERVER");
    let (method, tool) = (span.attribute("mcp.method.name").unwrap(), span.attribute("gen_ai.tool.name").unwrap());
    assert_eq!((method, span.attribute("gen_ai.operation.name")), ("tools/call", Some("execute_tool")));
    let name = span.text("name");
    assert!(name == format!("tools/call {tool}") || (name == "tools/call" && span.attribute("error.type") == Some("tool.unknown")), "{name}");
    assert_eq!(span.attribute("gen_ai.agent.id"), Some("spiffe://bailiwick.local/agent/scout"));
    assert_eq!(span.attribute("gen_ai.agent.name"), Some("scout"));
    assert_eq!(span.attribute("gen_ai.conversation.id"), Some(task));
    // An error has a type and the status of one; what went well has neither.
    assert_eq!(span.attribute("error.type").is_some(), span.own["status"]["code"] == 2, "{span:?}");
    for opt_in in ["gen_ai.tool.call.arguments", "gen_ai.tool.call.result"] {
        assert!(!span.attributes.contains_key(opt_in));
    }
    let index: usize = span.attribute("bailiwick.ledger.index").unwrap().parse().unwrap();
    let entry = &entries[index];
    assert_eq!(span.attribute("gen_ai.tool.call.id"), entry["call"].as_str());
    match entry["kind"].as_str().unwrap() {
        "outcome" => {
            let intent: usize = span.attribute("bailiwick.ledger.intent").unwrap().parse().unwrap();
            assert_eq!(entries[intent]["call"], entry["call"]);
            assert_eq!((span.attribute("bailiwick.decision"), span.attribute("bailiwick.outcome")), (Some("allow"), entry["result"].as_str()));
            let millis = |at: &Value| u64::try_from(bailiwick_core::Timestamp::parse(at.as_str().unwrap()).unwrap().as_millis()).unwrap();
            assert_eq!(span.nanos("startTimeUnixNano"), millis(&entries[intent]["at"]) * 1_000_000);
            assert_eq!(span.nanos("endTimeUnixNano"), millis(&entry["at"]) * 1_000_000);
        }
        "denial" => assert_eq!((span.attribute("bailiwick.decision"), span.attribute("error.type")), (Some("deny"), entry["code"].as_str())),
        other => panic!("a span of {other}"),
    }
    // Without a client's trace, it is one of the call's own.
    if span.text("traceId") != TRACE {
        assert_eq!(Some(span.text("traceId")), entry["call"].as_str().unwrap().strip_prefix("call_"));
        assert!(!span.own.contains_key("parentSpanId"));
    }
}

fn check_logs(logs: &[Item]) {
    let of = |event: &str| logs.iter().filter(|l| l.text("eventName") == event).collect::<Vec<_>>();
    for kind in ["task_opened", "task_ended", "hold", "hold_step", "tool", "incident", "house"] {
        assert!(!of(&format!("bailiwick.{kind}")).is_empty(), "no record of {kind}");
    }
    assert!(of("bailiwick.incident").iter().all(|l| l.text("severityText") == "ERROR"));
    assert!(of("bailiwick.hold").iter().all(|l| l.own.contains_key("traceId") && l.attribute("gen_ai.tool.name") == Some("sys.pay")));
    assert!(of("bailiwick.house").iter().all(|l| !l.own.contains_key("traceId") && l.attribute("mcp.method.name").is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_holds_otlp_as_the_file_exporter_writes_it() {
    let (place, dir) = place_with("\n[[export]]\nname = \"otel\"\nformat = \"otlp\"\nfile = \"{dir}/otel.jsonl\"\n").await;
    let broker = place.open().await;
    story(&place, &broker).await;
    let now = size(&broker).await;
    until("the file has everything", || broker.house.exports.all()[0].status(now, broker.house.clock.now()).next >= now).await;
    let lines = read_lines(&dir.path().join("otel.jsonl"));
    let found: usize =
        lines.iter().map(|l| if l.get("resourceSpans").is_some() { spans(&l.to_string()).len() } else { logs(&l.to_string()).len() }).sum();
    let intents = broker.entries().await.iter().filter(|e| e["kind"] == "intent").count();
    assert_eq!(found + intents, usize::try_from(now).unwrap());
    broker.stop().await;
}
