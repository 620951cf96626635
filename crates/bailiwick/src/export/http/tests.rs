//! A receiver behind TLS, one that sends elsewhere, and what is told of a refusal.

use std::sync::Arc;

use bailiwick_core::Timestamp;
use bailiwick_credentials::{Part, Secret};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::LinkConfig;

pub(in crate::export) fn root() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(include_bytes!("../../upstream/tests/tls/root.pem")).unwrap()
}

pub(in crate::export) fn acceptor() -> TlsAcceptor {
    let chain = CertificateDer::from_pem_slice(include_bytes!("../../upstream/tests/tls/leaf.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../upstream/tests/tls/leaf.key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

pub(in crate::export) fn record(index: u64, text: &str) -> Record {
    Record {
        index,
        at: Timestamp::from_millis(1_763_856_000_007),
        kind: "intent".to_owned(),
        severity: 1,
        text: text.to_owned(),
        shape: Shape::Event,
    }
}

fn injection() -> Injection {
    let mut injection = Injection::default();
    injection.add_header("Authorization", vec![Part::literal("Bearer "), Part::secret(Secret::from("canary-4471".to_owned()))]).unwrap();
    injection
}

fn sink(url: &str, form: HttpForm, roots: Vec<CertificateDer<'static>>) -> HttpSink {
    let link = LinkConfig { roots, allow_plain: false };
    HttpSink::new("siem", &url.parse().unwrap(), form, injection(), &link).unwrap()
}

const LINES: HttpForm = HttpForm::Events(HttpBody::Lines);

/// Answers one connection with this, and gives what it was sent, as far as the head and a body of `Content-Length` go.
async fn one(listener: TcpListener, tls: Option<TlsAcceptor>, answer: &'static str) -> Option<String> {
    let tcp = listener.accept().await.unwrap().0;
    let mut stream: Box<dyn super::super::net::Io> = match tls {
        None => Box::new(tcp),
        Some(acceptor) => Box::new(acceptor.accept(tcp).await.ok()?),
    };
    let mut got = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.ok()?;
        got.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&got).into_owned();
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            body.len() >= length.unwrap_or(0)
        });
        if whole || read == 0 {
            stream.write_all(answer.as_bytes()).await.ok()?;
            let _ = stream.shutdown().await;
            return (!got.is_empty()).then_some(text);
        }
    }
}

const TAKEN: &str = "HTTP/1.1 204 No Content\r\n\r\n";

#[tokio::test]
async fn a_receiver_behind_tls_gets_records_only_if_somebody_vouches_for_it() {
    for (host, roots, good) in [("localhost", vec![root()], true), ("localhost", Vec::new(), false), ("127.0.0.1", vec![root()], false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{host}:{}/in?x=1", listener.local_addr().unwrap().port());
        let got = tokio::spawn(one(listener, Some(acceptor()), TAKEN));
        let sent = sink(&url, LINES, roots).send("o", &[record(0, "{}"), record(1, "{\"a\":1}")]).await;
        assert_eq!(sent.is_ok(), good, "{sent:?}");
        let got = got.await.unwrap();
        assert_eq!(got.is_some(), good);
        if let Some(got) = got {
            assert!(got.starts_with("POST /in?x=1 HTTP/1.1\r\n") && got.contains("authorization: Bearer canary-4471\r\n"), "{got}");
            assert!(got.ends_with("\r\n\r\n{}\n{\"a\":1}\n"), "{got}");
        } else {
            assert!(sent.unwrap_err().to_string().contains("certificate"));
        }
    }
}

#[tokio::test]
async fn a_redirect_is_a_refusal_and_what_the_receiver_says_is_told_without_the_secret() {
    for (answer, told) in [
        ("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "it answered 307 Temporary Redirect"),
        (
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 25\r\n\r\nno Bearer canary-4471\nx\ty",
            "it answered 400 Bad Request: no Bearer [redacted]\\nx\\ty",
        ),
        ("HTTP/1.1 503 Slow Down\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n", "it answered 503 Service Unavailable"),
        ("", "no answer: "),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/in", listener.local_addr().unwrap());
        let served = tokio::spawn(one(listener, None, answer));
        let error = sink(&url, LINES, Vec::new()).send("o", &[record(0, "{}")]).await.unwrap_err();
        let said = error.to_string().replace(bailiwick_credentials::REDACTED, "[redacted]");
        assert!(said.starts_with(told) && !said.contains("canary"), "{said}");
        assert_eq!(error.pause, answer.contains("retry-after").then_some(Duration::from_secs(7)));
        served.await.unwrap();
    }
}

#[tokio::test]
async fn in_the_clear_nothing_goes_beyond_this_machine_wherever_the_name_leads() {
    let sink = sink("http://192.0.2.1/in", LINES, Vec::new());
    let error = sink.send("o", &[record(0, "{}")]).await.unwrap_err();
    assert!(error.to_string().contains("not encrypted"), "{error}");
}

#[test]
fn the_paths_of_otlp_go_below_the_configured_one() {
    for (url, path) in [
        ("http://localhost:4318", "/v1/traces"),
        ("http://localhost:4318/", "/v1/traces"),
        ("https://otel.example.org/tenant/a/?key=k", "/tenant/a/v1/traces?key=k"),
    ] {
        assert_eq!(sink(url, HttpForm::Otlp, Vec::new()).signal_target("/v1/traces"), path);
    }
}
