//! Tests of injecting: values reach their system exactly, and nobody else.
use super::*;

fn secret(text: &str) -> Part {
    Part::secret(Secret::from(text.to_owned()))
}

fn injection() -> Injection {
    let mut injection = Injection::default();
    injection.add_env("API_KEY", secret("sk-hunter2-hunter2")).unwrap();
    injection.add_env("MODE", Part::literal("production")).unwrap();
    injection.add_header("Authorization", vec![Part::literal("Bearer "), secret("tok-hunter3-hunter3")]).unwrap();
    injection
}

#[test]
fn values_are_put_as_they_are_joined() {
    let (mut env, mut headers) = (Vec::new(), Vec::new());
    injection().env(|name, value| env.push(format!("{name}={value}")));
    injection().headers(|name, value| headers.push(format!("{name}: {value}")));
    assert_eq!(env, ["API_KEY=sk-hunter2-hunter2", "MODE=production"]);
    assert_eq!(headers, ["Authorization: Bearer tok-hunter3-hunter3"]);
    assert_eq!(injection().secret_names().collect::<Vec<_>>(), ["API_KEY", "Authorization"]);
}

#[test]
fn its_debug_form_has_names_and_no_value() {
    let shown = format!("{:?} {:?} {:?}", injection(), secret("hunter2"), Part::literal("production"));
    assert!(shown.contains("API_KEY") && shown.contains("Authorization"), "{shown}");
    assert!(!shown.contains("hunter") && !shown.contains("production"), "{shown}");
}

#[test]
fn errors_name_the_name_and_never_the_value() {
    let error = Injection::default().add_env("KEY", secret("hunter2\0")).unwrap_err();
    assert_eq!(error, InjectionError::Value("KEY".to_owned()));
    assert!(!error.to_string().contains("hunter2"));
}

#[test]
fn a_value_cannot_end_its_header_or_variable_early() {
    for bad in ["a\r\nX-Evil: 1", "a\n", "a\0", "\u{7f}"] {
        assert!(Injection::default().add_header("X-Key", secret(bad)).is_err(), "{bad:?}");
    }
    assert!(Injection::default().add_env("PEM", secret("-----BEGIN-----\nx\n")).is_ok());
    assert!(Injection::default().add_env("K", Part::secret(Secret::from(vec![0xff; 8]))).is_err());
}

#[test]
fn names_that_cannot_be_set_or_belong_to_the_connection_are_refused() {
    for bad in ["", "A=B", "A\0", "A\n"] {
        assert!(Injection::default().add_env(bad, Part::literal("x")).is_err(), "{bad:?}");
    }
    for bad in ["", "a b", "a:", "Host", "content-length", "Transfer-Encoding", "x\r\ny", "\u{e9}"] {
        assert!(Injection::default().add_header(bad, Part::literal("x")).is_err(), "{bad:?}");
    }
}

#[test]
fn a_name_is_set_once() {
    let mut injection = injection();
    assert_eq!(injection.add_env("MODE", Part::literal("x")), Err(InjectionError::Twice("MODE".to_owned())));
    assert!(injection.add_header("AUTHORIZATION", Part::literal("x")).is_err());
}

#[test]
fn an_imported_value_is_cut_out_of_answers_unless_it_is_plain() {
    let imported = |text: &str| Part::imported(Secret::from(text.to_owned()));
    let mut injection = Injection::default();
    injection.add_env("ALLOWED_DIRECTORY", imported("/home/ann/project")).unwrap();
    injection.add_env("MODE", imported("production")).unwrap();
    injection.add_env("PASSWORD", imported("production-like")).unwrap();
    injection.add_env("SETTING", imported("ghp_A1b2C3d4E5f6G7h8")).unwrap();
    let answer = "in /home/ann/project (production): production-like ghp_A1b2C3d4E5f6G7h8";
    assert_eq!(injection.redact_text(answer), "in /home/ann/project (production): [redacted by bailiwick] [redacted by bailiwick]");
    assert!(!format!("{injection:?}").contains("production"));
}

#[test]
fn answers_are_cleaned_of_secrets_and_keep_literals() {
    let answer = br#"{"env":{"API_KEY":"sk-hunter2-hunter2","MODE":"production"},"h":"Bearer tok-hunter3-hunter3"}"#;
    let clean = injection().redact(answer).into_owned();
    let text = String::from_utf8(clean).unwrap();
    assert_eq!(text, r#"{"env":{"API_KEY":"[redacted by bailiwick]","MODE":"production"},"h":"Bearer [redacted by bailiwick]"}"#);
    assert_eq!(injection().redact_text("key sk-hunter2-hunter2."), "key [redacted by bailiwick].");
    assert!(matches!(injection().redact(b"nothing here"), Cow::Borrowed(_)));
}
