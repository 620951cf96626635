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
