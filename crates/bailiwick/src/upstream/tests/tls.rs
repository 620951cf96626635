//! Upstreams behind TLS: only a certificate that we trust, for the name that was configured.
//!
//! `tls/` holds a root and a certificate for `localhost` made only for these tests.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::peer::{Peer, Play, modern_start, result};
use super::*;

fn root() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(include_bytes!("tls/root.pem")).unwrap()
}

async fn peer() -> Peer {
    let chain = CertificateDer::from_pem_slice(include_bytes!("tls/leaf.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/leaf.key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Peer::start_with(Some(acceptor), |seen| modern_start(seen).unwrap_or_else(|| Play::json(&result(&seen.id(), r#""over":"tls""#)))).await
}

fn https(url: &str, extra_roots: Vec<CertificateDer<'static>>) -> Transport {
    Transport::Http { url: url.to_owned(), allow_plain_http: false, extra_roots }
}

async fn refused(transport: Transport) -> String {
    let upstream = start(transport, |_| {});
    until(|| matches!(upstream.status(), Status::BackingOff { .. })).await;
    let Status::BackingOff { why, .. } = upstream.status() else { return String::new() };
    why.to_string()
}

#[tokio::test]
async fn a_trusted_certificate_for_the_configured_name_is_accepted() {
    let peer = peer().await;
    let upstream = start(https(&peer.url, vec![root()]), |_| {});
    for _ in 0..2 {
        assert_eq!(text(call(&upstream, MODERN, "{}").await), r#"{"over":"tls"}"#);
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_ends_the_connection_before_anything_is_sent() {
    let peer = peer().await;
    let why = refused(https(&peer.url, Vec::new())).await;
    assert!(why.contains("certificate"), "{why}");
    assert!(peer.seen().is_empty());
}

#[tokio::test]
async fn a_certificate_for_another_name_ends_the_connection_before_anything_is_sent() {
    let peer = peer().await;
    let why = refused(https(&peer.url.replace("localhost", "127.0.0.1"), vec![root()])).await;
    assert!(why.contains("certificate"), "{why}");
    assert!(peer.seen().is_empty());
}

#[tokio::test]
async fn plain_http_at_a_port_that_speaks_tls_sends_no_second_request() {
    let peer = peer().await;
    let why = refused(Transport::http(peer.url.replace("https", "http"))).await;
    assert!(!why.is_empty());
    assert!(peer.seen().is_empty());
}
