//! What the scanner takes and refuses.

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;

fn parse(text: &str) -> Result<Raw<'_>, JsonError> {
    Raw::parse(text.as_bytes(), &Limits::REQUEST)
}

#[test]
fn bi_037_a_key_that_stands_twice_is_refused_at_every_level_and_in_any_spelling() {
    for text in [
        r#"{"recipient":"GB29NWBK60161331926819","recipient":"US133000000121212121212"}"#,
        r#"{"a":{"b":[{"c":1,"c":1}]}}"#,
        r#"{"name":1,"n\u0061me":2}"#,
        r#"{"\/":1,"/":2}"#,
        r#"{"\ud83d\ude00":1,"😀":2}"#,
        r#"{"a":{"x":1},"b":2,"a":3}"#,
    ] {
        assert!(matches!(parse(text), Err(JsonError::DuplicateKey { .. })), "{text}");
    }
    assert!(parse(r#"{"a":{"a":{"a":1}},"b":{"a":1}}"#).is_ok());
    assert_eq!(parse(r#"{"a":1, "a":2}"#), Err(JsonError::DuplicateKey { offset: 8 }));
}

#[test]
fn bi_037_a_twin_among_many_keys_is_found() {
    let mut text = (0..500).map(|n| format!("\"k{n}\":{n},")).collect::<String>();
    text = format!("{{{text}\"last\":0,\"k\\u00317\":1}}");
    assert!(matches!(parse(&text), Err(JsonError::DuplicateKey { .. })));
}

#[test]
fn bi_045_depth_length_and_number_of_keys_are_limited() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    assert!(matches!(parse(&deep), Err(JsonError::TooDeep { offset: 64, limit: 64 })));
    let level = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(parse(&level(64)).is_ok());
    assert!(matches!(parse(&level(65)), Err(JsonError::TooDeep { .. })));
    let boundless = Limits { depth: usize::MAX, ..Limits::REQUEST };
    assert!(matches!(Raw::parse(level(129).as_bytes(), &boundless), Err(JsonError::TooDeep { limit: 128, .. })));

    let long = format!("\"{}\"", "x".repeat(5 << 20));
    assert_eq!(parse(&long), Err(JsonError::TooLong { limit: 4 << 20 }));
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    assert!(parse(&long).is_ok());
    let long = format!("\"{}y\"", "x".repeat(1 << 20));
    assert!(matches!(parse(&long), Err(JsonError::StringTooLong { offset: 0, .. })));

    let keys = |count: usize| format!("{{{}\"z\":0}}", (1..count).map(|n| format!("\"{n}\":0,")).collect::<String>());
    assert!(parse(&keys(10_000)).is_ok());
    assert!(matches!(parse(&keys(10_001)), Err(JsonError::TooManyKeys { limit: 10_000, .. })));
    assert!(matches!(parse(&keys(100_000)), Err(JsonError::TooManyKeys { .. })));
    assert!(matches!(parse(&"1".repeat(1025)), Err(JsonError::NumberTooLong { offset: 0, .. })));
}

#[test]
fn bi_046_a_nul_is_refused_where_a_caller_speaks_and_taken_where_a_system_answers() {
    let text = r#"{"path":"report.txt\u0000.pdf"}"#;
    assert_eq!(parse(text), Err(JsonError::Nul { offset: 19 }));
    assert!(Raw::parse(text.as_bytes(), &Limits::REPLY).is_ok());
    assert!(matches!(parse("\"\u{0}\""), Err(JsonError::Syntax { .. })));
}

#[test]
fn bi_049_text_in_other_encodings_is_refused() {
    assert!(matches!(parse(r#""\ud800""#), Err(JsonError::LoneSurrogate { offset: 1 })));
    assert!(matches!(parse(r#""\udc00\ud800""#), Err(JsonError::LoneSurrogate { .. })));
    assert!(matches!(parse(r#""\ud800\ud800""#), Err(JsonError::LoneSurrogate { .. })));
    assert!(matches!(parse(r#""\ud800x""#), Err(JsonError::LoneSurrogate { .. })));
    assert_eq!(parse(r#""\ud83d\ude00""#).unwrap().string().unwrap(), "😀");
    assert_eq!(Raw::parse(b"{\"a\":\"\xC0\xAF\"}", &Limits::REQUEST), Err(JsonError::NotUtf8 { offset: 6 }));
    assert_eq!(Raw::parse(b"\"\xED\xA0\x80\"", &Limits::REQUEST), Err(JsonError::NotUtf8 { offset: 1 }));
    assert_eq!(parse("\u{feff}{}"), Err(JsonError::ByteOrderMark));
    let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(Raw::parse(&utf16, &Limits::REQUEST).is_err());
    assert!(Raw::parse(b"\xFF\xFE{\0}\0", &Limits::REQUEST).is_err());
}

#[test]
fn what_rfc_8259_does_not_have_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "[",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "[1 2]",
        "{\"a\" 1}",
        "01",
        "-",
        "-a",
        "1.",
        ".5",
        "+1",
        "1e",
        "1e+",
        "0x10",
        "NaN",
        "Infinity",
        "-Infinity",
        "tru",
        "TRUE",
        "nul",
        "\"a",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\u+123\"",
        "\"a\nb\"",
        "\"a\tb\"",
        "{} {}",
        "1 2",
        "[]]",
        "// c\n1",
        "[1]x",
        "\u{a0}1",
        "\u{c}1",
        ",1",
        "{,}",
        "[,]",
        "{\"a\":}",
        "[:]",
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.is_malformed(), "{text}: {error}");
    }
}

#[test]
fn a_value_is_seen_as_it_was_written() {
    let raw = parse(" \n{ \"a\" : [1, {\"b\":\"]}\\\"\"} ,\"x\"] , \"c\\n\":2.50 , \"e\":{}, \"n\":null , \"t\" :true} ").unwrap();
    assert!(raw.text().starts_with('{') && raw.text().ends_with('}'));
    let members: Vec<_> = raw.members().map(|(key, value)| (key.into_owned(), value.text())).collect();
    assert_eq!(
        members,
        [("a".into(), "[1, {\"b\":\"]}\\\"\"} ,\"x\"]"), ("c\n".into(), "2.50"), ("e".into(), "{}"), ("n".into(), "null"), ("t".into(), "true"),]
            as [(String, &str); 5]
    );
    let elements: Vec<_> = raw.member("a").unwrap().elements().map(Raw::text).collect();
    assert_eq!(elements, ["1", "{\"b\":\"]}\\\"\"}", "\"x\""]);
    assert_eq!(raw.member("t").unwrap().boolean(), Some(true));
    assert_eq!(raw.member("c\n").unwrap().integer(), None);
    assert!(raw.member("zz").is_none());
    assert_eq!(parse("1").unwrap().members().count(), 0);
    assert_eq!(parse("{\"a\":1}").unwrap().elements().count(), 0);
}

#[test]
fn debug_shows_no_content() {
    let raw = parse(r#"{"secret":"hunter2"}"#).unwrap();
    assert_eq!(format!("{raw:?} {:?}", raw.to_owned()), "Raw(an object, 20 bytes) Raw(an object, 20 bytes)");
    let members = format!("{:?} {:?}", raw.members(), raw.elements());
    assert!(!members.contains("hunter2"), "{members}");
}

/// JSON values for property tests, through another library.
pub(crate) fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        // Eighths: the other library rounds longer fractions when it reads them.
        any::<i32>().prop_map(|n| (f64::from(n) / 8.0).into()),
        "\\PC{0,8}|[a-c\"\\\\\u{7f}\n\t/<]{0,6}".prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            proptest::collection::btree_map("[a-d\"\\\\é😀\u{fb33}]{0,3}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Almost JSON: pieces that a parser may stumble over.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just(":"),
        Just(" "),
        Just("\""),
        Just("\\"),
        Just("\"a\""),
        Just("\"a\":"),
        Just("\\u00"),
        Just("61"),
        Just("\\ud83d"),
        Just("\\ude00"),
        Just("1"),
        Just("0"),
        Just("-"),
        Just("."),
        Just("e+"),
        Just("true"),
        Just("null"),
        Just("\n"),
        Just("\u{7}"),
        Just("é"),
        Just("\"\\u0061\":"),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// Accepts exactly what serde_json accepts, minus our refusals.
fn agrees_with_serde(bytes: &[u8]) {
    let ours = Raw::parse(bytes, &Limits::REQUEST);
    let theirs = serde_json::from_slice::<&RawValue>(bytes);
    match (&ours, &theirs) {
        (Ok(_), Ok(_)) => {}
        (Err(error), Ok(_)) => assert!(!error.is_malformed(), "{error}"),
        (Ok(raw), Err(error)) => panic!("we take {} and serde does not: {error}", raw.text()),
        (Err(_), Err(_)) => {}
    }
}

proptest! {
    #[test]
    fn the_scanner_never_panics_and_agrees_with_serde_on_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        agrees_with_serde(&bytes);
    }

    #[test]
    fn the_scanner_agrees_with_serde_on_almost_json(text in soup()) {
        agrees_with_serde(text.as_bytes());
    }

    #[test]
    fn every_value_of_another_library_is_taken_and_read_the_same(value in value(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let raw = parse(&text).unwrap();
        if let serde_json::Value::Object(map) = &value {
            prop_assert_eq!(raw.members().count(), map.len());
            for (key, member) in map {
                let seen: serde_json::Value = serde_json::from_str(raw.member(key).unwrap().text()).unwrap();
                prop_assert_eq!(&seen, member);
            }
        }
        if let serde_json::Value::String(text) = &value {
            prop_assert_eq!(&*raw.string().unwrap(), text);
        }
    }

    #[test]
    fn a_written_string_reads_back(text in any::<String>()) {
        let mut out = Vec::new();
        write_string(&mut out, &text);
        let raw = Raw::parse(&out, &Limits::REPLY).unwrap();
        prop_assert_eq!(&*raw.string().unwrap(), &text);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }
}
