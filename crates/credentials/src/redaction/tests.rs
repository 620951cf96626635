//! Tests of redaction: no form of a secret passes; what holds none is not touched.
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;

const SECRET: &str = "p\u{e4}ss/w\"rd\\ <&+=1>";

fn of(secrets: &[&str]) -> Redaction {
    let mut redaction = Redaction::default();
    for secret in secrets {
        redaction.add(secret.as_bytes());
    }
    redaction
}

fn clean(redaction: &Redaction, answer: &str) -> String {
    String::from_utf8(redaction.redact(answer.as_bytes()).into_owned()).unwrap()
}

#[test]
fn each_form_of_a_secret_is_replaced_whole() {
    let s = SECRET.as_bytes();
    let hex: String = s.iter().map(|b| format!("{b:02x}")).collect();
    let percent: String = s.iter().map(|b| if b.is_ascii_alphanumeric() { char::from(*b).to_string() } else { format!("%{b:02X}") }).collect();
    let forms = [
        SECRET.to_owned(),
        hex.to_uppercase(),
        hex,
        percent.clone(),
        percent.to_lowercase(),
        STANDARD.encode(s),
        STANDARD_NO_PAD.encode(s),
        URL_SAFE.encode(s),
        URL_SAFE_NO_PAD.encode(s),
        r#"p\u00e4ss/w\"rd\\ <&+=1>"#.to_owned(),
        r#"päss\/w\"rd\\ <&+=1>"#.to_owned(),
        r#"päss/w\"rd\\ \u003c\u0026+=1\u003e"#.to_owned(),
        "p%C3%A4ss%2Fw%22rd%5C+%3C%26%2B%3D1%3E".to_owned(),
    ];
    let redaction = of(&[SECRET]);
    for form in forms {
        assert_eq!(clean(&redaction, &format!("a {form} b")), format!("a {REDACTED} b"), "{form}");
    }
}

#[test]
fn json_inside_json_is_cleaned_and_stays_json() {
    let inner = format!("{{\"password\":\"{}\"}}", r#"päss/w\"rd\\ <&+=1>"#);
    let outer = inner.replace('\\', "\\\\").replace('"', "\\\"");
    let answer = format!(r#"{{"content":[{{"type":"text","text":"{outer}"}}]}}"#);
    assert_eq!(clean(&of(&[SECRET]), &answer), format!(r#"{{"content":[{{"type":"text","text":"{{\"password\":\"{REDACTED}\"}}"}}]}}"#));
}

#[test]
fn a_secret_inside_longer_base64_is_cut_out_wherever_it_begins() {
    let secret = "hunter2-hunter2-x";
    let redaction = of(&[secret]);
    for before in ["", "a", "ab", "user:", "longer: "] {
        for after in ["", "z", "yz", "xyz"] {
            for text in [STANDARD.encode(format!("{before}{secret}{after}")), URL_SAFE_NO_PAD.encode(format!("{before}{secret}{after}"))] {
                let clean = clean(&redaction, &text);
                assert!(clean.contains(REDACTED), "{before} {after}: {clean}");
                // At most one character on each side shares bits with the secret.
                assert!(clean.len() <= text.len() - (secret.len() * 8 / 6 - 2) + REDACTED.len(), "{clean}");
            }
        }
    }
}

#[test]
fn what_is_secret_within_a_value_is_found_alone() {
    let redaction = of(&["Bearer tok-hunter3-hunter3", "postgres://app:s3cr3t-pw@db.example/shop"]);
    assert_eq!(clean(&redaction, "tok-hunter3-hunter3"), REDACTED);
    assert_eq!(clean(&redaction, "password authentication failed: s3cr3t-pw"), format!("password authentication failed: {REDACTED}"));
    assert_eq!(clean(&redaction, "db.example"), "db.example");
}

#[test]
fn overlapping_secrets_leave_no_rest() {
    let redaction = of(&["abcdefgh", "efghijkl", "ghij-longer-than-all"]);
    assert_eq!(clean(&redaction, "x abcdefghijkl y"), format!("x {REDACTED} y"));
    assert_eq!(clean(&redaction, "abcdefghij-longer-than-all"), REDACTED);
    assert_eq!(clean(&redaction, "abcdefghabcdefgh"), format!("{REDACTED}{REDACTED}"));
}

#[test]
fn a_secret_too_short_to_be_told_from_other_text_is_left() {
    assert_eq!(clean(&of(&["12345", ""]), "12345"), "12345");
    assert!(matches!(of(&[]).redact(b"x"), Cow::Borrowed(_)));
    assert!(matches!(of(&["hunter2"]).redact(b"hunter"), Cow::Borrowed(_)));
}

proptest! {
    #[test]
    fn a_secret_of_any_text_does_not_pass(secret in "\\PC{6,30}", before in "\\PC{0,20}", after in "\\PC{0,20}") {
        let redaction = of(&[&secret]);
        let answer = format!("{before}{secret}{after}");
        let shown = clean(&redaction, &answer);
        prop_assert!(shown.contains(REDACTED));
        // It could only be there again if it were made of the replacement itself.
        let rest = shown.replace(REDACTED, "\n");
        prop_assert!(!rest.contains(&secret), "{rest}");
    }

    #[test]
    fn what_holds_no_secret_is_not_touched(answer in "[a-f0-9]{0,200}") {
        let redaction = of(&["hunter2-ZZZ-hunter2"]);
        prop_assert!(matches!(redaction.redact(answer.as_bytes()), Cow::Borrowed(_)));
    }

    #[test]
    fn no_bytes_make_it_panic(secret in proptest::collection::vec(any::<u8>(), 0..40), answer in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut redaction = Redaction::default();
        redaction.add(&secret);
        let _ = redaction.redact(&answer).len();
    }
}

/// Ways in which programs write a text; each gives something that another program reads the text from.
fn written(text: &str, way: usize) -> String {
    let each = |f: &dyn Fn(char) -> String| text.chars().map(f).collect::<String>();
    let bytes = |f: &dyn Fn(u8) -> String| text.bytes().map(f).collect::<String>();
    let units = |c: char, f: &dyn Fn(u16) -> String| c.encode_utf16(&mut [0; 2]).iter().map(|unit| f(*unit)).collect::<String>();
    match way {
        0 => text.to_owned(),
        1 => each(&|c| units(c, &|unit| format!("\\u{unit:04x}"))),
        2 => each(&|c| units(c, &|unit| format!("\\u{unit:04X}"))),
        3 => bytes(&|b| format!("%{b:02x}")),
        4 => bytes(&|b| format!("%25{b:02X}")),
        5 => each(&|c| format!("&#{};", u32::from(c))),
        6 => each(&|c| format!("&#x{:X};", u32::from(c))),
        7 => each(&|c| format!("&amp;#{:05};", u32::from(c))),
        8 => bytes(&|b| format!("\\x{b:02x}")),
        9 => bytes(&|b| format!("\\{b:03o}")),
        10 => bytes(&|b| format!("{b:02x}:")),
        11 => bytes(&|b| format!("0x{b:02X}, ")),
        12 => bytes(&|b| format!("{b:02X}")),
        13 => text.chars().rev().collect(),
        14 => serde_json::to_string(text).unwrap(),
        15 => serde_json::to_string(&serde_json::to_string(text).unwrap()).unwrap(),
        16 => STANDARD.encode(STANDARD.encode(text)),
        17 => STANDARD.encode(format!("{{\"authorization\":\"Basic {}\"}}", STANDARD.encode(format!("user:{text}")))),
        18 => serde_json::to_string(&STANDARD.encode(text)).unwrap().replace('/', "\\/"),
        19 => STANDARD.encode(text).replace('+', "%2B").replace('/', "%2f").replace('=', "%3D"),
        20 => {
            text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&apos;").replace('/', "&sol;")
        }
        21 => each(&|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\u{{{:x}}}", u32::from(c)) }),
        22 => each(&|c| format!("\\U{:08x}", u32::from(c))),
        23 => each(&|c| format!("\\u0026#{};", u32::from(c))),
        _ => each(&|c| match u32::from(c) % 4 {
            0 => c.to_string(),
            1 => c.to_string().bytes().map(|b| format!("%{b:02X}")).collect(),
            2 => format!("&#{};", u32::from(c)),
            _ => units(c, &|unit| format!("\\\\u{unit:04x}")),
        }),
    }
}
const WAYS: usize = 25;

#[test]
fn each_way_to_write_a_secret_is_found() {
    for secret in [SECRET, "hunter2-hunter2", "sk+live/abc=\u{1f511}&<x>", "100%-%41\\n\\\\"] {
        let redaction = of(&[secret]);
        for way in 0..WAYS {
            let text = written(secret, way);
            let shown = clean(&redaction, &format!("before {text} after"));
            assert!(shown.contains(REDACTED), "{way}: {text}");
            assert!(shown.len() <= REDACTED.len() * 2 + 60, "{way}: what is left of {text} is {shown}");
        }
    }
}

#[test]
fn base64_in_broken_lines_is_found() {
    let secret = "0123456789abcdefghijklmnopqrstuvwxyz-0123456789-ABCDEFGHIJKLMNOPQRSTUVWXYZ-.-0123456789";
    let text = STANDARD.encode(format!("user:{secret}:rest"));
    for (width, end) in [(76, "\r\n"), (64, "\n"), (60, "\\n"), (76, "\\r\\n"), (20, "\n    ")] {
        let lines: Vec<&str> = text.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let shown = clean(&of(&[secret]), &lines.join(end));
        assert!(shown.contains(REDACTED) && shown.len() < REDACTED.len() + 30, "{width}: {shown}");
    }
}

#[test]
fn a_line_of_a_key_is_found_and_a_line_of_words_is_not() {
    let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ0VnTLWjBSPm3Ux9+kCa9Wd0HqzTf6e\n-----END PRIVATE KEY-----\n";
    let redaction = of(&[key]);
    assert_eq!(clean(&redaction, "x MC4CAQAwBQYDK2VwBCIEIJ0VnTLWjBSPm3Ux9+kCa9Wd0HqzTf6e y"), format!("x {REDACTED} y"));
    assert_eq!(clean(&redaction, "-----BEGIN PRIVATE KEY-----"), "-----BEGIN PRIVATE KEY-----");
    assert_eq!(clean(&redaction, &serde_json::to_string(key).unwrap()), format!("\"{REDACTED}\""));
    assert_eq!(clean(&of(&["postgres://app:p%40ss%2Fword@db/shop"]), "for p@ss/word"), format!("for {REDACTED}"));
}

#[test]
fn each_of_several_secrets_in_one_is_found_alone() {
    let several =
        of(&["{\"access_key_id\":\"ASIA0123456789ABCDEF\",\"secret_access_key\":\"a/b+c=0123456789\",\"session_token\":\"IQoJ0123456789+/==\"}"]);
    for one in ["ASIA0123456789ABCDEF", "a/b+c=0123456789", "IQoJ0123456789+/==", "a%2Fb%2Bc%3D0123456789"] {
        assert_eq!(clean(&several, &format!("<{one}>")), format!("<{REDACTED}>"), "{one}");
    }
    assert_eq!(clean(&several, "access_key_id"), "access_key_id");
}

#[test]
fn each_string_key_and_number_of_a_json_value_is_cleaned() {
    let redaction = of(&["hunter2-hunter2", "8675309"]);
    let mut value = serde_json::json!({ "a": ["x hunter2-hunter2", { "hunter2-hunter2": 8_675_309, "b": 1.5 }], "c": null, "d": true });
    assert_eq!(redaction.redact_value(&mut value), 3);
    assert_eq!(value, serde_json::json!({ "a": [format!("x {REDACTED}"), { REDACTED: REDACTED, "b": 1.5 }], "c": null, "d": true }));
    assert_eq!(of(&[]).redact_value(&mut value), 0);
}

proptest! {
    #[test]
    fn a_secret_does_not_pass_however_it_is_written(secret in "[!-~\u{a1}-\u{17f}\u{1f511}]{8,40}", way in 0..WAYS, before in "\\PC{0,9}", after in "\\PC{0,9}") {
        let text = written(&secret, way);
        let shown = clean(&of(&[&secret]), &format!("{before}\n{text}\n{after}"));
        prop_assert!(shown.contains(REDACTED), "{}: {}", way, text);
        prop_assert!(!shown.replace(REDACTED, "\n").contains(&text) && !shown.replace(REDACTED, "\n").contains(&secret), "{}: {}", way, shown);
    }

    /// One different character, and it is another text.
    #[test]
    fn what_is_nearly_a_secret_is_left(secret in "[g-z]{8,30}", at in 0_usize..29, way in 0..16_usize) {
        let mut other: Vec<char> = secret.chars().collect();
        let at = at % (other.len() - 1) + 1;
        other[at] = '!';
        let text = written(&other.into_iter().collect::<String>(), way);
        let shown = clean(&of(&[&secret]), &text);
        prop_assert_eq!(shown, text);
    }
}
