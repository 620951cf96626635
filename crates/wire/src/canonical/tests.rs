//! RFC 8785's vectors, and one form for all spellings of a value.

use proptest::prelude::*;

use super::*;
use crate::json::Limits;

fn form(text: &str) -> (String, bool) {
    let mut out = Vec::new();
    let seen = canonical(Raw::parse(text.as_bytes(), &Limits::REPLY).unwrap(), &mut out);
    (String::from_utf8(out).unwrap(), seen.lossy_numbers)
}

#[test]
fn rfc_8785_section_3_2_2_sample() {
    let text = r#"{
      "numbers": [333333333.3333333, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"#;
    let expected = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
    assert_eq!(form(text), (expected.into(), false));
}

#[test]
fn rfc_8785_section_3_2_3_keys_sort_by_utf_16_code_units() {
    let text = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",
        "\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
    let (out, _) = form(text);
    let values: Vec<_> =
        Raw::parse(out.as_bytes(), &Limits::REPLY).unwrap().members().map(|(_, value)| value.string().unwrap().into_owned()).collect();
    assert_eq!(
        values,
        [
            "Carriage Return",
            "One",
            "Control",
            "Latin Small Letter O With Diaeresis",
            "Euro Sign",
            "Emoji: Grinning Face",
            "Hebrew Letter Dalet With Dagesh"
        ]
    );
}

#[test]
fn rfc_8785_appendix_b_numbers() {
    for (bits, expected) in [
        (0x0000000000000000_u64, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x8000000000000001, "-5e-324"),
        (0x7fefffffffffffff, "1.7976931348623157e+308"),
        (0xffefffffffffffff, "-1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0xc340000000000000, "-9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44b52d02c7e14af5, "9.999999999999997e+22"),
        (0x44b52d02c7e14af6, "1e+23"),
        (0x44b52d02c7e14af7, "1.0000000000000001e+23"),
        (0x444b1ae4d6e2ef4e, "999999999999999700000"),
        (0x444b1ae4d6e2ef4f, "999999999999999900000"),
        (0x444b1ae4d6e2ef50, "1e+21"),
        (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
        (0x3eb0c6f7a0b5ed8d, "0.000001"),
        (0x41b3de4355555553, "333333333.3333332"),
        (0x41b3de4355555554, "333333333.33333325"),
        (0x41b3de4355555555, "333333333.3333333"),
        (0x41b3de4355555556, "333333333.3333334"),
        (0x41b3de4355555557, "333333333.33333343"),
        (0xbecbf647612f3696, "-0.0000033333333333333333"),
        (0x43143ff3c1cb0959, "1424953923781206.2"),
    ] {
        // The literal that Rust writes for the float has the same value and mostly another spelling.
        // Of two shortest spellings (the last float lies midway) only ECMAScript's is left unmarked.
        let literal = if bits == 0x43143ff3c1cb0959 { expected.into() } else { format!("{:e}", f64::from_bits(bits)) };
        assert_eq!(form(&literal), (expected.to_owned(), false), "{bits:x}");
    }
}

#[test]
fn numbers_that_a_float_would_change_keep_their_text_and_are_marked() {
    for literal in [
        "12345678901234567890123",
        "9007199254740993",
        "-9007199254740993",
        "1000000000000000000000",
        "333333333.33333329",
        "0.1000000000000000055",
        "1e400",
        "1e-400",
    ] {
        assert_eq!(form(literal), (literal.to_owned(), true), "{literal}");
        assert!(form(&format!("{{\"a\":[{{\"b\":{literal}}}]}}")).1, "{literal}");
    }
    for (literal, expected) in [
        ("9007199254740992", "9007199254740992"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("0e99999999999999999999", "0"),
        ("2.50", "2.5"),
        ("1e2", "100"),
        ("999999999999999", "999999999999999"),
        ("0.1", "0.1"),
    ] {
        assert_eq!(form(literal), (expected.to_owned(), false), "{literal}");
    }
}

/// Writes a value with its members in another order, more space and other escapes.
fn respell(value: &serde_json::Value, seed: u64, out: &mut String) {
    let quote = |out: &mut String, text: &str| {
        out.push('"');
        for (index, char) in text.chars().enumerate() {
            if (seed >> (index % 60)) & 1 == 1 || matches!(char, '"' | '\\' | '\0'..='\x1f') {
                char.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04X}")));
            } else {
                out.push(char);
            }
        }
        out.push('"');
    };
    match value {
        serde_json::Value::String(text) => quote(out, text),
        serde_json::Value::Array(items) => {
            out.push_str("[ ");
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { " ,\n" } else { "" });
                respell(item, seed.rotate_left(7), out);
            }
            out.push_str("\t]");
        }
        serde_json::Value::Object(map) => {
            out.push_str("{\r\n");
            let mut members: Vec<_> = map.iter().collect();
            members.reverse();
            let turn = usize::try_from(seed % 5).unwrap() % members.len().max(1);
            members.rotate_left(turn);
            for (index, (key, member)) in members.into_iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                quote(out, key);
                out.push_str(" : ");
                respell(member, seed.rotate_left(11), out);
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

proptest! {
    #[test]
    fn the_form_does_not_depend_on_order_space_or_escapes(value in crate::json::tests::value(), seed in any::<u64>()) {
        let mut respelled = String::new();
        respell(&value, seed, &mut respelled);
        prop_assert_eq!(form(&value.to_string()), form(&respelled));
    }

    #[test]
    fn the_form_is_its_own_form_and_has_the_same_value(value in crate::json::tests::value()) {
        let (once, lossy) = form(&value.to_string());
        prop_assert_eq!(form(&once), (once.clone(), lossy));
        let back: serde_json::Value = serde_json::from_str(&once).unwrap();
        prop_assert_eq!(flat(&back), flat(&value));
    }

    #[test]
    fn any_float_keeps_its_value(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        let (out, lossy) = form(&format!("{number:e}"));
        let written = format!("{number:e}");
        prop_assert!(!lossy || out == written);
        prop_assert_eq!(out.parse::<f64>().unwrap(), number);
    }
}

/// The value with every number as its float's text: the canonical form may turn `2.0` into `2`.
fn flat(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Number(number) => match number.as_f64() {
            Some(0.0) => "0".into(),
            float => format!("{float:?}"),
        },
        serde_json::Value::Array(items) => items.iter().map(flat).collect::<Vec<_>>().join(";"),
        serde_json::Value::Object(map) => {
            // In one order, whichever the map keeps: that of the canonical form is by UTF-16 code units.
            let members: std::collections::BTreeMap<_, _> = map.iter().collect();
            members.into_iter().map(|(key, item)| format!("{key:?}={}", flat(item))).collect()
        }
        other => other.to_string(),
    }
}
