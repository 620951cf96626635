//! Requests to an HTTP API: the server proves who it is before the key is sent, and what it answers is cleaned however it comes.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bailiwick_credentials::kinds::static_key::Key;
use bailiwick_credentials::lease::{Account, Tag, TargetIds, Trust};
use bailiwick_credentials::sessions::SessionError;
use bailiwick_credentials::sessions::http::{Api, Body, Http, Limits, Method, Origin, Placement, Request, Settings};
use bailiwick_credentials::{REDACTED, Secret};
use bailiwick_testkit::Scratch;
use bailiwick_testkit::clouds::orders::Orders;
use bailiwick_testkit::clouds::{Cloud, Fault};
use bailiwick_testkit::servers::unprivileged::run;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::words::{clock, fresh_name};

const KEY: &str = "canary-http/Zq7W+k2Vx9Lr4Tn8Bm3H";

fn nobody() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn api(url: &str, tls: &Arc<ClientConfig>) -> Arc<Api> {
    let origin = Origin::new(url, true, tls).unwrap();
    let limits = Limits { bytes: 64 << 10, time: Duration::from_secs(10) };
    let settings = Settings { origin, placement: Placement::Bearer, limits, tag_header: None };
    Arc::new(Api::new(settings, Some(Key::new(Secret::from(KEY.to_owned())).unwrap())).unwrap())
}

fn open(api: &Arc<Api>, secret: Option<&str>) -> Http {
    let secret = secret.map(|text| Secret::from(text.to_owned()));
    let account = Account { name: fresh_name(), ids: TargetIds::default(), secret, expires_at: None };
    let tag = Tag { task: "task_x".to_owned(), agent: "spiffe://td/a".to_owned(), expires_at: clock().now() };
    api.open(&account, &tag).unwrap()
}

/// An authority, and a server's key and certificate by it for 127.0.0.1.
struct Certificates {
    folder: Scratch,
}

impl Certificates {
    fn new() -> Self {
        let folder = Scratch::new("bailiwick-http").unwrap();
        let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem \
                      -addext basicConstraints=critical,CA:TRUE && \
                      openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout server.key -out server.csr && \
                      printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext && \
                      openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem";
        run(Command::new("sh").args(["-ec", script]).current_dir(folder.path())).unwrap();
        Self { folder }
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(file)).unwrap()
    }

    fn server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let chain = vec![CertificateDer::from_pem_slice(&self.read("server.pem")).unwrap()];
        Arc::new(config.with_single_cert(chain, PrivateKeyDer::from_pem_slice(&self.read("server.key")).unwrap()).unwrap())
    }

    fn trust(&self) -> Arc<ClientConfig> {
        Trust::new(&self.read("ca.pem")).unwrap().client()
    }
}

#[tokio::test]
async fn the_key_is_sent_only_to_a_server_that_proves_who_it_is() {
    let ours = Certificates::new();
    let cloud = Cloud::start_tls(Arc::new(Orders::new(KEY)), ours.server()).unwrap();
    let answer = open(&api(&cloud.url("/v1"), &ours.trust()), None).send(&Request::new(Method::Get, "/me")).await.unwrap();
    assert_eq!(answer.status, 200);
    let refused = |api: Arc<Api>| async move { open(&api, None).send(&Request::new(Method::Get, "/me")).await.unwrap_err() };
    let url = cloud.url("/v1");
    for (why, api) in [
        ("nobody vouches for it", api(&url, &nobody())),
        ("a stranger vouches for another", api(&url, &Certificates::new().trust())),
        ("it is not this name's", api(&url.replace("127.0.0.1", "localhost"), &ours.trust())),
        ("it speaks TLS", api(&url.replace("https", "http"), &ours.trust())),
    ] {
        let error = refused(api).await;
        assert!(matches!(error, SessionError::Lost { .. }), "{why}: {error}");
    }
    assert_eq!(cloud.seen().len(), 1, "nothing came through");
    // And the other way: TLS is asked for, and the server has none.
    let plain = Cloud::start(Arc::new(Orders::new(KEY))).unwrap();
    let error = refused(api(&plain.url("/v1").replace("http", "https"), &ours.trust())).await;
    assert!(!error.may_have_run(), "{error}");
    assert!(plain.seen().is_empty());
}

#[tokio::test]
async fn an_account_with_a_secret_of_its_own_uses_that() {
    let cloud = Cloud::start(Arc::new(Orders::new("a-token-of-the-lease"))).unwrap();
    let api = api(&cloud.url("/v1"), &nobody());
    assert_eq!(open(&api, Some("a-token-of-the-lease")).send(&Request::new(Method::Get, "/me")).await.unwrap().status, 200);
    assert_eq!(open(&api, None).send(&Request::new(Method::Get, "/me")).await.unwrap().status, 401);
    assert!(open(&api, Some("a-token-of-the-lease")).send(&Request::new(Method::Get, "/echo")).await.unwrap().redacted > 8);
}

#[tokio::test]
async fn a_connection_is_used_again_and_a_request_is_never_sent_twice() {
    let cloud = Cloud::start(Arc::new(Orders::new(KEY))).unwrap();
    let session = open(&api(&cloud.url("/v1"), &nobody()), None);
    for _ in 0..3 {
        assert_eq!(session.send(&Request::new(Method::Get, "/me")).await.unwrap().status, 200);
    }
    let add = Request::new(Method::Post, "/orders").json("{\"item\":\"tea\"}");
    for fault in [Fault::HungUp, Fault::Lost] {
        cloud.fault("POST /v1/orders", fault.clone());
        let error = session.send(&add).await.unwrap_err();
        assert!(error.may_have_run(), "{fault:?}: it was sent: {error}");
    }
    assert_eq!(cloud.count("POST /v1/orders"), 2, "each came once");
    let together = futures_util::future::join_all((0..40).map(|_| session.send(&add))).await;
    assert!(together.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 201)));
    assert_eq!(cloud.count("POST /v1/orders"), 42);
    session.close();
    let closed = session.send(&Request::new(Method::Get, "/me")).await.unwrap_err();
    assert!(closed.gone() && !closed.may_have_run(), "{closed}");
}

/// A server that gives the same bytes to everybody, in pieces, and keeps what it was sent.
async fn raw(pieces: Vec<Vec<u8>>, then: Then) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 4096];
            let count = stream.read(&mut bytes).await.unwrap_or(0);
            kept.lock().unwrap().extend_from_slice(&bytes[..count]);
            stream.set_nodelay(true).unwrap();
            for piece in &pieces {
                drop(stream.write_all(piece).await);
                tokio::task::yield_now().await;
            }
            if then == Then::Wait {
                // Until the other side has closed it.
                let mut rest = vec![0; 4096];
                let closed = async { while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {} };
                drop(tokio::time::timeout(Duration::from_secs(60), closed).await);
            }
        }
    });
    (address, seen)
}

#[derive(PartialEq)]
enum Then {
    Close,
    Wait,
}

async fn told(pieces: Vec<Vec<u8>>, then: Then) -> Result<bailiwick_credentials::sessions::http::Answer, SessionError> {
    let (address, _) = raw(pieces, then).await;
    let session = open(&api(&format!("http://{address}/"), &nobody()), None);
    session.send(&Request::new(Method::Get, "/")).await
}

#[tokio::test]
async fn the_key_is_cut_out_wherever_the_server_cuts_its_answer() {
    let body = format!("{{\"a\":\"x{KEY}y\",\"b\":[\"{KEY}\"]}}");
    for size in [1, 2, 3, 7, 20] {
        let mut pieces = vec![b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()];
        pieces.extend(body.as_bytes().chunks(size).map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()));
        pieces.push(b"0\r\n\r\n".to_vec());
        let answer = told(pieces, Then::Close).await.unwrap();
        let expected = serde_json::json!({ "a": format!("x{REDACTED}y"), "b": [REDACTED] });
        assert_eq!((answer.body, answer.redacted), (Body::Json(expected), 2), "{size}");
    }
}

#[tokio::test]
async fn a_server_that_answers_badly_is_no_answer() {
    let ok = |more: &str| format!("HTTP/1.1 200 OK\r\n{more}").into_bytes();
    for (why, bytes) in [
        ("nothing", Vec::new()),
        ("no HTTP", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("a body that breaks off", ok("Content-Type: text/plain\r\nContent-Length: 50\r\n\r\nshort")),
        ("too many headers", ok(&format!("{}\r\n", "A: b\r\n".repeat(500)))),
        ("a header that is too long", ok(&format!("A: {}\r\n\r\n", "b".repeat(100_000)))),
        ("two lengths", ok("Content-Length: 1\r\nContent-Length: 2\r\n\r\nab")),
        ("a bad chunk", ok("Transfer-Encoding: chunked\r\n\r\nzz\r\n")),
    ] {
        let error = told(vec![bytes], Then::Close).await.unwrap_err();
        assert!(error.may_have_run() && error.gone() && !error.to_string().contains("canary"), "{why}: {error}");
    }
    let long = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n{KEY}");
    let answer = told(vec![long.into_bytes()], Then::Wait).await.unwrap();
    assert!(matches!(&answer.body, Body::Omitted(why) if why.contains("longer than 65536")), "{answer:?}");
    let endless = vec![ok("Content-Type: text/plain\r\n\r\n"), vec![b'x'; 200_000]];
    assert!(matches!(told(endless, Then::Wait).await.unwrap().body, Body::Omitted(_)), "it is not waited for");
    let compressed = ok("Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f");
    assert!(matches!(told(vec![compressed], Then::Wait).await.unwrap().body, Body::Omitted(why) if why.contains("compressed")));
}

#[tokio::test]
async fn a_request_that_is_dropped_closes_its_connection() {
    let (address, seen) = raw(vec![b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_vec()], Then::Wait).await;
    let session = open(&api(&format!("http://{address}/"), &nobody()), None);
    // The server serves one after the other, and none ends by itself.
    for count in 1..4 {
        let request = Request::new(Method::Delete, "/x");
        let mut sending = Box::pin(session.send(&request));
        while String::from_utf8_lossy(&seen.lock().unwrap()).matches("DELETE /x HTTP/1.1").count() < count {
            assert!(tokio::time::timeout(Duration::from_millis(5), &mut sending).await.is_err());
        }
    }
    let seen = String::from_utf8(seen.lock().unwrap().clone()).unwrap();
    assert_eq!(seen.matches(&format!("Bearer {KEY}")).count(), 3, "{seen}");
}
