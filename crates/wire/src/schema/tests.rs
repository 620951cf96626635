//! Arguments that a schema lets through, and those that it stops.

use proptest::prelude::*;

use super::*;
use crate::json::Limits;

fn raw(text: &str) -> Raw<'_> {
    Raw::parse(text.as_bytes(), &Limits::REQUEST).unwrap()
}

fn compile(schema: &str) -> Schema {
    Schema::compile(raw(schema)).unwrap()
}

fn wrong(schema: &str, value: &str) -> String {
    compile(schema).check(raw(value)).expect_err(value).to_string()
}

fn passes(schema: &str, value: &str) {
    assert_eq!(compile(schema).check(raw(value)), Ok(()), "{value}");
}

const PAY: &str = r##"{"type":"object","properties":{"recipient":{"type":"string"},"amount":{"type":"number","minimum":0.01,"maximum":1000},
    "tags":{"type":"array","items":{"$ref":"#/$defs/tag"},"maxItems":2,"uniqueItems":true},"when":{"type":"string","format":"date"},
    "nested":{"type":"object","properties":{"x":{"type":"integer"}},"required":["x"]},"free":{"type":"object"}},
    "required":["recipient"],"$defs":{"tag":{"enum":["a","b",1]}}}"##;

#[test]
fn a_call_as_the_schema_says_passes() {
    passes(PAY, r#"{"recipient":"x","amount":0.01,"tags":["b",1.0],"when":"2028-02-29","nested":{"x":3.0},"free":{"any":[1]}}"#);
    assert!(compile(PAY).unchecked().is_empty());
}

#[test]
fn bi_039_051_052_a_property_that_the_schema_does_not_name_is_refused() {
    assert_eq!(wrong(PAY, r#"{"Recipient":"evil","recipient":"ok"}"#), "`/Recipient`: the tool has no such property");
    assert_eq!(wrong(PAY, r#"{"recipient":"ok","bcc":["x@evil.example"]}"#), "`/bcc`: the tool has no such property");
    assert_eq!(wrong(PAY, r#"{"recipient":"ok","__proto__":{"admin":true}}"#), "`/__proto__`: the tool has no such property");
    assert_eq!(wrong(PAY, r#"{"recipient":"ok","constructor":1}"#), "`/constructor`: the tool has no such property");
    assert_eq!(wrong(PAY, r#"{"recipient":"ok","nested":{"x":1,"a/b~":2}}"#), "`/nested/a~1b~0`: the tool has no such property");
    assert_eq!(wrong(r#"{"type":"object","properties":{}}"#, r#"{"a":1}"#), "`/a`: the tool has no such property");
    assert_eq!(wrong(r#"{"additionalProperties":false}"#, r#"{"a":1}"#), "`/a`: the tool has no such property");
}

#[test]
fn further_properties_pass_only_where_the_schema_says_so() {
    passes(r#"{"type":"object"}"#, r#"{"a":1}"#);
    passes(r#"{"properties":{"a":{}},"additionalProperties":true}"#, r#"{"b":1}"#);
    let typed = r#"{"properties":{"a":{}},"additionalProperties":{"type":"string"}}"#;
    passes(typed, r#"{"b":"x"}"#);
    assert_eq!(wrong(typed, r#"{"b":1}"#), "`/b`: must be a string, not a number");
}

#[test]
fn properties_of_all_parts_of_a_schema_are_known_together() {
    let schema = r##"{"properties":{"a":{"type":"string"}},"allOf":[{"properties":{"b":{}}},{"$ref":"#/$defs/c"}],
        "anyOf":[{"properties":{"d":{}},"required":["d"]},{"properties":{"e":{}}}],"$defs":{"c":{"properties":{"c":{"const":1}}}}}"##;
    passes(schema, r#"{"a":"","b":1,"c":1.0,"d":1,"e":2}"#);
    assert_eq!(wrong(schema, r#"{"f":1}"#), "`/f`: the tool has no such property");
    assert_eq!(wrong(schema, r#"{"c":2}"#), "`/c`: must be one of 1");
}

#[test]
fn bi_043_a_string_of_digits_is_not_a_number() {
    assert_eq!(wrong(PAY, r#"{"recipient":"x","amount":"100"}"#), "`/amount`: must be a number, not a string");
    assert_eq!(wrong(PAY, r#"{"recipient":"x","amount":"１００"}"#), "`/amount`: must be a number, not a string");
    assert_eq!(wrong(PAY, r#"{"recipient":"x","nested":{"x":1.5}}"#), "`/nested/x`: must be a whole number, not a number");
}

#[test]
fn bi_057_dates_are_of_rfc_3339_and_exist() {
    let date = r#"{"format":"date"}"#;
    for bad in ["2026-02-30", "01/02/2026", "2026-2-3", "2026-13-01", "2026-00-10", "2026-01-00", "2100-02-29", "2026-01-01 ", "２026-01-01", ""] {
        assert_eq!(wrong(date, &format!("\"{bad}\"")), "``: must be a date like `2026-11-23`", "{bad}");
    }
    for good in ["2026-02-28", "2000-02-29", "2024-02-29"] {
        passes(date, &format!("\"{good}\""));
    }
    let time = r#"{"format":"date-time"}"#;
    for good in ["2026-01-01T00:00:00Z", "2026-12-31T23:59:60Z", "2026-01-01T10:20:30.123456+05:30"] {
        passes(time, &format!("\"{good}\""));
    }
    for bad in [
        "2026-01-01",
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:60Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00+5:30",
        "2026-01-01T00:00:00Zx",
        "2026-02-30T00:00:00Z",
    ] {
        wrong(time, &format!("\"{bad}\""));
    }
}

#[test]
fn bi_058_a_reference_out_of_the_schema_is_an_error() {
    for target in ["http://evil.example/schema.json", "other.json", "//evil.example/x", "file:///etc/passwd", ""] {
        let schema = format!(r#"{{"properties":{{"a":{{"$ref":"{target}"}}}}}}"#);
        let error = Schema::compile(raw(&schema)).unwrap_err();
        assert_eq!(error, SchemaError::RemoteReference { pointer: "/properties/a".into() });
    }
    for target in ["#/$defs/none", "#anchor", "#/properties/a/%zz"] {
        let schema = format!(r#"{{"properties":{{"a":{{"$ref":"{target}"}}}}}}"#);
        assert!(matches!(Schema::compile(raw(&schema)), Err(SchemaError::UnknownReference { .. })), "{target}");
    }
}

#[test]
fn bi_058_a_remote_reference_in_a_part_that_is_not_checked_is_an_error_too() {
    for schema in
        [r#"{"$defs":{"unused":{"$ref":"https://evil.example/x"}}}"#, r#"{"contains":{"allOf":[{"$dynamicRef":"https://evil.example/x#a"}]}}"#]
    {
        assert!(matches!(Schema::compile(raw(schema)), Err(SchemaError::RemoteReference { .. })), "{schema}");
    }
    passes(r#"{"properties":{"$ref":{"type":"string"}}}"#, r#"{"$ref":"http://x"}"#);
}

#[test]
fn unevaluated_properties_open_an_object_and_required_names_are_known() {
    passes(r#"{"properties":{"a":{}},"unevaluatedProperties":true}"#, r#"{"b":1}"#);
    wrong(r#"{"properties":{"a":{}},"unevaluatedProperties":false}"#, r#"{"b":1}"#);
    let schema = compile(r#"{"properties":{"a":{}},"required":["r"],"unevaluatedProperties":{"type":"string"}}"#);
    assert_eq!(schema.unchecked(), ["unevaluatedProperties"]);
    passes(r#"{"properties":{"a":{}},"required":["r"]}"#, r#"{"r":1}"#);
}

#[test]
fn circles_end() {
    let tree = r##"{"properties":{"value":{"type":"integer"},"children":{"type":"array","items":{"$ref":"#"}}}}"##;
    passes(tree, r#"{"value":1,"children":[{"value":2,"children":[]}]}"#);
    assert_eq!(
        wrong(tree, r#"{"children":[{},{"children":[{"value":"x"}]}]}"#),
        "`/children/1/children/0/value`: must be a whole number, not a string"
    );
    assert!(wrong(r##"{"$ref":"#"}"##, "1").contains("circles"));
    assert!(wrong(r##"{"not":{"$ref":"#"}}"##, "1").contains("circles"));
    assert!(wrong(r##"{"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"},{"$ref":"#/$defs/b"}]},"b":{"anyOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/a"}]}},"$ref":"#/$defs/a"}"##, "1").contains("circles"));
}

#[test]
fn bi_045_a_schema_that_multiplies_work_is_stopped() {
    let schema = compile(
        r##"{"anyOf":[{"items":{"$ref":"#"},"maxItems":0},{"items":{"$ref":"#"},"maxItems":0},{"items":{"$ref":"#"},"type":"string"},{"items":{"$ref":"#"},"type":"null"}]}"##,
    );
    let value = "[".repeat(60) + &"]".repeat(60);
    let violation = schema.check(raw(&value)).unwrap_err();
    assert!(violation.expectation.contains("too much work"), "{violation}");
    let many = format!("{{\"allOf\":[{}{{}}]}}", "{},".repeat(6_000));
    assert_eq!(Schema::compile(raw(&many)).unwrap_err(), SchemaError::TooLarge { limit: 5_000 });
}

#[test]
fn bounds_speak_plainly() {
    assert_eq!(wrong(PAY, r#"{"recipient":"x","amount":0.001}"#), "`/amount`: must be at least 0.01");
    assert_eq!(wrong(PAY, r#"{"recipient":"x","amount":1000.0000000000000000001}"#), "`/amount`: must be at most 1000");
    assert_eq!(wrong(PAY, r#"{"recipient":"x","tags":["a","b","a"]}"#), "`/tags/2`: must not hold one value twice");
    assert_eq!(wrong(PAY, r#"{"recipient":"x","tags":["c"]}"#), "`/tags/0`: must be one of \"a\", \"b\", 1");
    assert_eq!(wrong(PAY, "{}"), "``: must have the property `recipient`");
    assert_eq!(wrong(r#"{"minLength":2,"maxLength":3}"#, "\"é\""), "``: must have at least 2 and at most 3 characters");
    passes(r#"{"maxLength":3}"#, "\"😀😀😀\"");
    assert_eq!(wrong(r#"{"type":["string","null"]}"#, "1"), "``: must be a string or null, not a number");
    assert_eq!(wrong(r#"{"exclusiveMinimum":0}"#, "0.0"), "``: must be more than 0");
    assert_eq!(wrong(r#"{"minProperties":1}"#, "{}"), "``: must have at least 1 properties");
    assert_eq!(wrong("false", "1"), "``: no value is allowed here");
    assert_eq!(wrong(r#"{"enum":[1,2],"const":2}"#, "1"), "``: must be one of 2");
    passes(r#"{"const":2,"enum":[1,2]}"#, "2");
}

#[test]
fn combinations_hold() {
    let one = r#"{"oneOf":[{"type":"integer"},{"minimum":10}]}"#;
    passes(one, "3");
    passes(one, "10.5");
    wrong(one, "12");
    wrong(r#"{"not":{"type":"string"}}"#, "\"x\"");
    let conditional = r#"{"properties":{"kind":{},"iban":{}},"if":{"properties":{"kind":{"const":"bank"}},"required":["kind"]},"then":{"required":["iban"]},"else":{"maxProperties":1}}"#;
    passes(conditional, r#"{"kind":"bank","iban":1}"#);
    wrong(conditional, r#"{"kind":"bank"}"#);
    wrong(conditional, r#"{"kind":"x","iban":1}"#);
}

#[test]
fn what_is_not_checked_is_listed_and_what_is_malformed_is_refused() {
    let schema = compile(
        r#"{"title":"t","properties":{"a":{"pattern":"^a$","format":"email","multipleOf":2}},"patternProperties":{"x":{}},"x-mcp-header":"R"}"#,
    );
    assert_eq!(schema.unchecked(), ["/properties/a format:email", "/properties/a multipleOf", "/properties/a pattern", "patternProperties"]);
    for bad in [
        r#"{"type":7}"#,
        r#"{"type":"text"}"#,
        r#"{"required":"a"}"#,
        r#"{"properties":[]}"#,
        r#"{"minimum":"1"}"#,
        r#"{"anyOf":[]}"#,
        r#"{"maxLength":-1}"#,
    ] {
        assert!(matches!(Schema::compile(raw(bad)), Err(SchemaError::BadKeyword { .. })), "{bad}");
    }
    assert!(matches!(Schema::compile(raw("[]")), Err(SchemaError::NotASchema { .. })));
}

proptest! {
    #[test]
    fn any_json_as_schema_and_as_value_ends_without_panic(schema in crate::json::tests::value(), value in crate::json::tests::value()) {
        let (schema, value) = (schema.to_string(), value.to_string());
        if let Ok(schema) = Schema::compile(Raw::parse(schema.as_bytes(), &Limits::REPLY).unwrap()) {
            let _ = schema.check(Raw::parse(value.as_bytes(), &Limits::REPLY).unwrap());
        }
    }

    #[test]
    fn a_verdict_does_not_depend_on_spelling(value in crate::json::tests::value()) {
        let spelled = value.to_string();
        let mut form = Vec::new();
        let spelled = Raw::parse(spelled.as_bytes(), &Limits::REPLY).unwrap();
        let _ = crate::canonical(spelled, &mut form);
        let form = Raw::parse(&form, &Limits::REPLY).unwrap();
        let schema = compile(r##"{"type":["object","array","string","integer"],"properties":{"a":{"$ref":"#"},"b":{"maxLength":2}},"items":{"$ref":"#"}}"##);
        prop_assert_eq!(schema.check(spelled).is_ok(), schema.check(form).is_ok());
    }
}
