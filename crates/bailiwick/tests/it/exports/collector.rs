//! Stands in for an OpenTelemetry collector: takes OTLP/HTTP with JSON as strictly as the specification's mapping of Protocol Buffers
//! reads it, and knows no member that the messages do not have.

use serde_json::{Map, Value};

/// A span or a log record with its attributes as a plain map.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) own: Map<String, Value>,
    pub(super) attributes: Map<String, Value>,
}

impl Item {
    pub(super) fn text(&self, name: &str) -> &str {
        self.own.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name)?.as_str()
    }

    pub(super) fn nanos(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap()
    }
}

/// The spans of an `ExportTraceServiceRequest`, with the attributes of the resource.
pub(super) fn spans(body: &str) -> Vec<Item> {
    items(body, ["resourceSpans", "scopeSpans", "spans"], span)
}

/// The records of an `ExportLogsServiceRequest`.
pub(super) fn logs(body: &str) -> Vec<Item> {
    items(body, ["resourceLogs", "scopeLogs", "logRecords"], log)
}

fn items(body: &str, [all, scoped, each]: [&str; 3], check: fn(&Value) -> Item) -> Vec<Item> {
    let request: Value = serde_json::from_str(body).unwrap();
    let mut found = Vec::new();
    for resource in list(&object(&request, &[all])[all]) {
        let resource = object(resource, &["resource", scoped, "schemaUrl"]);
        let attributes = attributes(&object(&resource["resource"], &["attributes", "droppedAttributesCount"])["attributes"]);
        // Semantic conventions for resources: every service has a name.
        assert!(attributes["service.name"].as_str().is_some_and(|n| n == "bailiwick"), "{attributes:?}");
        for scope in list(&resource[scoped]) {
            let scope = object(scope, &["scope", each, "schemaUrl"]);
            assert!(object(&scope["scope"], &["name", "version", "attributes", "droppedAttributesCount"])["name"].is_string());
            found.extend(list(&scope[each]).iter().map(check));
        }
    }
    assert!(!found.is_empty(), "an empty request: {body}");
    found
}

fn span(value: &Value) -> Item {
    let known = [
        "traceId",
        "spanId",
        "traceState",
        "parentSpanId",
        "flags",
        "name",
        "kind",
        "startTimeUnixNano",
        "endTimeUnixNano",
        "attributes",
        "droppedAttributesCount",
        "events",
        "droppedEventsCount",
        "links",
        "droppedLinksCount",
        "status",
    ];
    let own = object(value, &known);
    identity(&own["traceId"], 16);
    identity(&own["spanId"], 8);
    if let Some(parent) = own.get("parentSpanId") {
        identity(parent, 8);
    }
    assert!(own["name"].as_str().is_some_and(|n| !n.is_empty()), "{value}");
    assert!(own["kind"].as_u64().is_some_and(|k| (1..=5).contains(&k)), "enum values are integers: {value}");
    let (start, end) = (unsigned(&own["startTimeUnixNano"]), unsigned(&own["endTimeUnixNano"]));
    assert!(start > 0 && start <= end, "{value}");
    assert!(own.get("flags").is_none_or(|f| f.as_u64().is_some_and(|f| u32::try_from(f).is_ok())), "{value}");
    let status = object(&own["status"], &["message", "code"]);
    assert!(status.get("code").is_none_or(|c| c.as_u64().is_some_and(|c| c <= 2)), "{value}");
    Item { attributes: attributes(&own["attributes"]), own }
}

fn log(value: &Value) -> Item {
    let known = [
        "timeUnixNano",
        "observedTimeUnixNano",
        "severityNumber",
        "severityText",
        "body",
        "attributes",
        "droppedAttributesCount",
        "flags",
        "traceId",
        "spanId",
        "eventName",
    ];
    let own = object(value, &known);
    assert!(unsigned(&own["timeUnixNano"]) > 0 && unsigned(&own["observedTimeUnixNano"]) > 0);
    assert!(own["severityNumber"].as_u64().is_some_and(|n| (1..=24).contains(&n)), "{value}");
    assert_eq!(own.contains_key("traceId"), own.contains_key("spanId"));
    if let (Some(trace), Some(span)) = (own.get("traceId"), own.get("spanId")) {
        identity(trace, 16);
        identity(span, 8);
    }
    any_value(&own["body"]);
    Item { attributes: attributes(&own["attributes"]), own }
}

/// The members of an object; an unknown one is a mistake here, though a collector would pass it over.
fn object(value: &Value, known: &[&str]) -> Map<String, Value> {
    let members = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    for (name, member) in members {
        assert!(known.contains(&name.as_str()), "`{name}` is no member: {value}");
        assert!(!member.is_null(), "`{name}` is null: {value}");
    }
    members.clone()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

/// Identities are hex and not base64, and never all zero.
fn identity(value: &Value, bytes: usize) {
    let text = value.as_str().unwrap_or_else(|| panic!("no identity: {value}"));
    let hex = text.len() == bytes * 2 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    assert!(hex && text.bytes().any(|b| b != b'0'), "{text}");
}

/// 64-bit numbers are decimal strings.
fn unsigned(value: &Value) -> u64 {
    value.as_str().unwrap_or_else(|| panic!("no string: {value}")).parse().unwrap()
}

/// Keys are unique, values are `AnyValue` with exactly one member.
fn attributes(value: &Value) -> Map<String, Value> {
    let mut all = Map::new();
    for attribute in list(value) {
        let attribute = object(attribute, &["key", "value"]);
        let key = attribute["key"].as_str().unwrap().to_owned();
        assert!(!key.is_empty() && all.insert(key.clone(), any_value(&attribute["value"])).is_none(), "`{key}` twice");
    }
    all
}

fn any_value(value: &Value) -> Value {
    let members = object(value, &["stringValue", "boolValue", "intValue", "doubleValue", "arrayValue"]);
    assert_eq!(members.len(), 1, "{value}");
    let (kind, member) = members.into_iter().next().unwrap();
    match (kind.as_str(), &member) {
        ("stringValue", Value::String(_)) | ("boolValue", Value::Bool(_)) | ("doubleValue", Value::Number(_)) => member,
        ("intValue", Value::String(number)) => {
            number.parse::<i64>().unwrap();
            member
        }
        ("arrayValue", _) => list(&object(&member, &["values"])["values"]).iter().map(any_value).collect(),
        _ => panic!("`{kind}` has the wrong type: {value}"),
    }
}

#[test]
fn the_collector_takes_nothing_that_the_mapping_does_not_allow() {
    let good = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"bailiwick"}}]},"scopeSpans":[{"scope":{"name":"s"},"spans":[{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00f067aa0ba902b7","name":"n","kind":2,"startTimeUnixNano":"1","endTimeUnixNano":"2","attributes":[],"status":{}}]}]}]}"#;
    assert_eq!(spans(good).len(), 1);
    for (from, to) in [
        ("\"kind\":2", "\"kind\":\"SPAN_KIND_SERVER\""),
        ("\"kind\":2", "\"kind\":9"),
        ("\"startTimeUnixNano\":\"1\"", "\"startTimeUnixNano\":1"),
        ("\"startTimeUnixNano\":\"1\"", "\"startTimeUnixNano\":\"3\""),
        ("4bf92f3577b34da6a3ce929d0e0e4736", "S/kvNXezTaajzpKdDg5HNg=="),
        ("00f067aa0ba902b7", "0000000000000000"),
        ("\"attributes\":[],", "\"attributes\":[{\"key\":\"a\",\"value\":{\"intValue\":1}}],"),
        ("\"attributes\":[],", "\"attributes\":[{\"key\":\"a\",\"value\":\"b\"}],"),
        ("\"spanId\"", "\"span_id\""),
        ("\"status\":{}", "\"status\":null"),
        ("service.name", "service.nam"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        assert!(std::panic::catch_unwind(|| spans(&bad)).is_err(), "taken: {to}");
    }
}
