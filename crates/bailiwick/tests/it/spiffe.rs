//! Bailiwick as the SPIFFE issuer of this machine, and its own Unix socket: with libraries that nobody here wrote, with bytes by hand, and as its own client.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bailiwick::clock::SystemClock;
use bailiwick::config::Config;
use bailiwick::house::{House, Opened};
use bailiwick::spiffe::WorkloadApi;
use bailiwick_core::Clock as _;
use bailiwick_identity::spiffe::workload_api::bundles_in;
use bailiwick_identity::spiffe::{Authority, Bundle, read_x509};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::{Ahead, entries};

/// A broker with both sockets.
struct Local {
    house: Arc<House>,
    clock: Arc<Ahead>,
    dir: tempfile::TempDir,
    address: std::net::SocketAddr,
    stop: CancellationToken,
}

impl Drop for Local {
    fn drop(&mut self) {
        self.stop.cancel();
        self.house.stop.cancel();
    }
}

fn uid() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

fn rule(agent: &str, program: &Path) -> String {
    format!("[[agents.{agent}.local]]\nuid = {}\nexecutable = \"{}\"\n", uid(), program.display())
}

fn me() -> PathBuf {
    std::env::current_exe().unwrap()
}

const AGENTS: &str = r#"
[listen]
address = "127.0.0.1:0"
unix = "broker.sock"
[spiffe]
socket = "workload.sock"
[people.ana]
roles = ["owner"]
[agents.scout]
owner = "ana"
purpose = "tests"
risk = "low"
review_by = "2099-12-31"
tools = ["*"]
[agents.other]
owner = "ana"
purpose = "tests"
risk = "low"
review_by = "2099-12-31"
[agents.overdue]
owner = "ana"
purpose = "tests"
risk = "low"
review_by = "2020-01-01"
"#;

impl Local {
    async fn start(rules: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, &format!("{AGENTS}{rules}")).await
    }

    /// One with the sample shop, which `scout` may ask for.
    async fn with_shop(rules: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (binary, file) = (env!("CARGO_BIN_EXE_bailiwick"), dir.path().join("shop.sqlite"));
        let shop = format!("[systems.shop]\ncommand = \"{binary}\"\nargs = [\"shop\", \"--file\", \"{}\"]\n", file.display());
        Self::start_in(dir, &format!("{AGENTS}{shop}[systems.shop.effects]\nshow_order = \"read\"\n{rules}")).await
    }

    async fn start_in(dir: tempfile::TempDir, text: &str) -> Self {
        let data = dir.path().join("data");
        bailiwick::place::prepare(&data).unwrap();
        let config = Config::parse("test", text, dir.path()).unwrap();
        let clock = Ahead::start();
        let Opened { house, listener } = House::open(config, &data, Arc::clone(&clock) as _).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(bailiwick::serve::serve(Arc::clone(&house), listener, stop.clone()));
        Self { house, clock, dir, address, stop }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("workload.sock")
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn ahead(&self, by: Duration) {
        self.clock.go(by);
    }

    async fn issued(&self) -> Vec<String> {
        let all = entries(&self.house).await;
        all.iter().filter(|e| e["what"] == "svid_issued").map(|e| e["name"].as_str().unwrap().to_owned()).collect()
    }

    /// A request at the broker's own socket.
    async fn ask(&self, method: Method, target: &str, headers: &[(&str, &str)], body: &str) -> (StatusCode, Value) {
        let stream = UnixStream::connect(self.dir.path().join("broker.sock")).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driven = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(target).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        driven.abort();
        (head.status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn token(&self, more: &str) -> (StatusCode, Value) {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        self.ask(Method::POST, "/oauth/token", &form, &format!("grant_type=client_credentials{more}")).await
    }
}

/// One call by hand.
struct Rpc {
    body: hyper::body::Incoming,
    buffer: Vec<u8>,
    /// The status in the head of the answer, if there is nothing else in it.
    status: Option<String>,
    _driven: tokio::task::JoinHandle<()>,
}

impl Rpc {
    async fn send(socket: &Path, call: &str, headers: &[(&str, &str)], bytes: Vec<u8>) -> Self {
        let stream = UnixStream::connect(socket).await.unwrap();
        let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let driven = tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::builder().method(Method::POST).uri(format!("http://localhost/SpiffeWorkloadAPI/{call}"));
        request = request.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = send.send_request(request.body(Full::new(Bytes::from(bytes))).unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let status = response.headers().get("grpc-status").map(|s| s.to_str().unwrap().to_owned());
        Self { body: response.into_body(), buffer: Vec::new(), status, _driven: driven }
    }

    async fn call(socket: &Path, call: &str, message: &[u8]) -> Self {
        Self::send(socket, call, &[("workload.spiffe.io", "true")], framed(message)).await
    }

    /// The next message, or the status.
    async fn next(&mut self) -> Result<Vec<u8>, String> {
        let next = async {
            if let Some(status) = self.status.take() {
                return Err(status);
            }
            loop {
                if let Some(length) = self.buffer.get(1..5) {
                    let length = 5 + usize::try_from(u32::from_be_bytes(length.try_into().unwrap())).unwrap();
                    if self.buffer.len() >= length {
                        let message = self.buffer.drain(..length).skip(5).collect();
                        return Ok(message);
                    }
                }
                let frame = self.body.frame().await.expect("a status").unwrap();
                if let Some(trailers) = frame.trailers_ref() {
                    return Err(trailers["grpc-status"].to_str().unwrap().to_owned());
                }
                self.buffer.extend_from_slice(frame.data_ref().unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(20), next).await.expect("an answer in time")
    }

    async fn status(socket: &Path, call: &str, message: &[u8]) -> String {
        Self::call(socket, call, message).await.next().await.unwrap_err()
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    out.extend_from_slice(message);
    out
}

/// A field of bytes, shorter than 128.
fn field(number: u8, content: &str) -> Vec<u8> {
    let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
    out.extend_from_slice(content.as_bytes());
    out
}

fn bytes_of(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(hex.get(i..i + 2).unwrap(), 16).unwrap()).collect()
}

/// Does a library of X.509 find a path from this certificate to one of the roots?
fn is_trusted(certificate: &[u8], roots: &[Vec<u8>]) -> bool {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from(root.clone())).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(SystemClock::start().now().as_millis()).unwrap()));
    verifier.verify_client_cert(&CertificateDer::from(certificate.to_vec()), &[], now).is_ok()
}

/// What a client of others reports, held against what the broker publishes.
async fn is_right(local: &Local, report: &Value, agent: &str) {
    let id = format!("spiffe://bailiwick.local/agent/{agent}");
    for name in ["x509_id", "jwt_id", "validated"] {
        assert_eq!(report[name], id, "{report}");
    }
    assert_eq!(report["refused_for_another"], true);
    let certificate = bytes_of(&report["certificate"]);
    assert_eq!(read_x509(&certificate).unwrap().id.as_str(), id);
    let published = get(local, "/.well-known/spiffe-bundle").await;
    let bundle = Bundle::parse("bailiwick.local".parse().unwrap(), published.to_string().as_bytes()).unwrap();
    let roots: Vec<Vec<u8>> = report["roots"].as_array().unwrap().iter().map(bytes_of).collect();
    assert_eq!(roots, bundle.x509);
    assert!(is_trusted(&certificate, &roots));
    let issued = local.issued().await;
    let of_x509 = issued.iter().find(|e| e.starts_with(&format!("{id}: X.509-SVID; to uid {}", uid()))).unwrap_or_else(|| panic!("{issued:?}"));
    assert!(of_x509.contains("process ") && of_x509.contains("program /"), "{of_x509}");
    assert!(issued.iter().any(|e| e.starts_with(&format!("{id}: JWT-SVID for reports; "))), "{issued:?}");
}

async fn get(local: &Local, target: &str) -> Value {
    let stream = tokio::net::TcpStream::connect(local.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(target).header("host", local.address.to_string()).body(Full::<Bytes>::default()).unwrap();
    let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

fn rust_client() -> PathBuf {
    bailiwick_testkit::clients::tools().join("spiffe_rust/debug/spiffe-client-rust")
}

fn python() -> PathBuf {
    bailiwick_testkit::clients::tools().join("spiffe/bin/python")
}

fn python_script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/clients/spiffe_python.py")
}

async fn report(mut command: Command) -> Value {
    let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{text}\n{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_str(text.lines().next().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_library_fetches_svids_and_checks_them_by_our_bundles() {
    let local = Local::start(&rule("scout", &rust_client())).await;
    let mut command = Command::new(rust_client());
    command.args([&local.endpoint(), "reports"]);
    is_right(&local, &report(command).await, "scout").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_library_fetches_svids_and_checks_them_by_our_bundles() {
    let local = Local::start(&rule("other", &python())).await;
    let mut command = Command::new(python());
    command.arg(python_script()).args([&local.endpoint(), "reports"]);
    is_right(&local, &report(command).await, "other").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_library_that_keeps_its_stream_gets_another_svid_at_half_of_its_life_and_none_once_its_agent_is_overdue() {
    let text = format!("{AGENTS}{}", rule("scout", &rust_client())).replacen("2099-12-31", "2098-12-31", 1);
    let local = Local::start_in(tempfile::tempdir().unwrap(), &text).await;
    let mut child = Command::new(rust_client()).args([&local.endpoint(), "reports", "--until-end"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(serde_json::from_str::<Value>(&line).unwrap()))));
    let mut next = async || tokio::time::timeout(Duration::from_secs(20), receiver.recv()).await.expect("a line in time").unwrap();
    let first = next().await;
    local.ahead(Duration::from_secs(31 * 60));
    let second = next().await;
    assert_ne!(first["certificate"], second["certificate"]);
    assert_eq!(read_x509(&bytes_of(&second["certificate"])).unwrap().id.as_str(), "spiffe://bailiwick.local/agent/scout");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The authority of another trust domain, whose bundle is in a file.
fn another(dir: &Path, domain: &str) -> (Authority, PathBuf) {
    let now = SystemClock::start().now();
    let authority = Authority::begin(domain.parse().unwrap(), Duration::from_secs(7 * 86_400), [9; 16], 0, now).unwrap();
    let file = dir.join(format!("{domain}.json"));
    std::fs::write(&file, authority.bundle(Duration::from_secs(300)).to_string()).unwrap();
    (authority, file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bundles_of_the_trust_domains_that_are_federated_with_and_of_no_others_go_with_ours_until_they_are_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let (prod, file) = another(dir.path(), "prod.example");
    let (secret, other) = another(dir.path(), "secret.example");
    let issuer = |name: &str, domain: &str, file: &Path| {
        format!("[issuers.{name}]\nissuer = \"spiffe://{domain}\"\nkind = \"spiffe\"\nspiffe_bundle_file = \"{}\"\n", file.display())
    };
    let issuers = format!("{}{}", issuer("prod", "prod.example", &file), issuer("secret", "secret.example", &other));
    let agents = AGENTS.replacen("[spiffe]\n", "[spiffe]\nfederates_with = [\"prod\"]\n", 1);
    let local = Local::start_in(dir, &format!("{agents}{issuers}{}", rule("scout", &me()))).await;
    let both = ["spiffe://bailiwick.local", "spiffe://prod.example"];
    let mut of_x509 = Rpc::call(&local.socket(), "FetchX509Bundles", b"").await;
    let mut of_jwt = Rpc::call(&local.socket(), "FetchJWTBundles", b"").await;
    // It is looked at every five seconds; until then there may be ours alone.
    let x509 = loop {
        let all = bundles_in(&of_x509.next().await.unwrap(), 2).unwrap();
        if all.len() > 1 {
            break all;
        }
    };
    assert_eq!(x509.keys().collect::<Vec<_>>(), both);
    assert_eq!(x509[both[1]], prod.roots().concat());
    let jwt = loop {
        let all = bundles_in(&of_jwt.next().await.unwrap(), 1).unwrap();
        if all.len() > 1 {
            break all;
        }
    };
    let set: Value = serde_json::from_slice(&jwt[both[1]]).unwrap();
    assert_eq!((&set["keys"][0]["kid"], &set["keys"][0]["use"]), (&json!(prod.jwt_keys()[0].id().to_string()), &json!("jwt-svid")));
    let svid = Rpc::call(&local.socket(), "FetchX509SVID", b"").await.next().await.unwrap();
    let federated = bundles_in(&svid, 3).unwrap();
    assert_eq!(federated.into_iter().collect::<Vec<_>>(), [(both[1].to_owned(), prod.roots().concat())]);
    // An SVID of a trust domain that is federated with is checked for an agent, for its audience; one of another is nobody's.
    let validated = async |authority: &Authority, id: &str, audience: &str| {
        let to = ["reports".to_owned()];
        let svid = authority.jwt_svid(&id.parse().unwrap(), &to, Duration::from_secs(60), local.clock.now()).unwrap().token;
        let length = [u8::try_from(svid.len() & 0x7f | 0x80).unwrap(), u8::try_from(svid.len() >> 7).unwrap()];
        let message = [field(1, audience), vec![2 << 3 | 2], length.to_vec(), svid.into_bytes()].concat();
        Rpc::call(&local.socket(), "ValidateJWTSVID", &message).await.next().await
    };
    let good = validated(&prod, "spiffe://prod.example/web", "reports").await.unwrap();
    assert!(good.starts_with(&field(1, "spiffe://prod.example/web")));
    assert_eq!(validated(&prod, "spiffe://prod.example/web", "other").await.unwrap_err(), "3");
    assert_eq!(validated(&secret, "spiffe://secret.example/web", "reports").await.unwrap_err(), "3");
    // Its keys cannot be had any more: for a while the last ones are good, and then none.
    std::fs::remove_file(&file).unwrap();
    local.ahead(Duration::from_secs(13 * 3600));
    for (stream, field) in [(&mut of_x509, 2), (&mut of_jwt, 1)] {
        let left = bundles_in(&stream.next().await.unwrap(), field).unwrap();
        assert_eq!(left.keys().collect::<Vec<_>>(), both[..1].iter().collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_when_its_agent_goes_out_of_service() {
    let today = SystemClock::start().now().to_string();
    let text = format!("{AGENTS}{}", rule("scout", &me())).replacen("2099-12-31", today.get(..10).unwrap(), 1);
    let local = Local::start_in(tempfile::tempdir().unwrap(), &text).await;
    let mut streams = Vec::new();
    for call in ["FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"] {
        let mut stream = Rpc::call(&local.socket(), call, b"").await;
        stream.next().await.unwrap();
        streams.push(stream);
    }
    local.ahead(Duration::from_secs(86_400));
    for stream in &mut streams {
        // An SVID that was due meanwhile may still come before.
        let status = loop {
            if let Err(status) = stream.next().await {
                break status;
            }
        };
        assert_eq!(status, "7");
    }
    assert_eq!(Rpc::status(&local.socket(), "FetchX509SVID", b"").await, "7");
    assert_eq!(Rpc::status(&local.socket(), "FetchJWTSVID", &field(1, "reports")).await, "7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_no_rule_covers_and_an_agent_out_of_service_get_nothing() {
    let strangers = Local::start(&rule("scout", Path::new("/bin/sh"))).await;
    let overdue = Local::start(&rule("overdue", &me())).await;
    let two = Local::start(&format!("{}[[agents.other.local]]\nuid = {}\nany_executable = true\n", rule("scout", &me()), uid())).await;
    for local in [&strangers, &overdue, &two] {
        for (call, message) in [
            ("FetchX509SVID", vec![]),
            ("FetchX509Bundles", vec![]),
            ("FetchJWTBundles", vec![]),
            ("FetchJWTSVID", field(1, "reports")),
            ("ValidateJWTSVID", [field(1, "reports"), field(2, "a.b.c")].concat()),
        ] {
            assert_eq!(Rpc::status(&local.socket(), call, &message).await, "7", "{call}");
        }
        assert!(local.issued().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_copy_that_was_ended_gets_no_svid_and_no_token_although_it_is_still_the_same_process() {
    let local = Local::start(&rule("scout", &me())).await;
    let calls = [("FetchX509SVID", vec![]), ("FetchX509Bundles", vec![]), ("FetchJWTSVID", field(1, "reports")), ("FetchJWTBundles", vec![])];
    for (call, message) in &calls {
        assert!(Rpc::call(&local.socket(), call, message).await.next().await.is_ok(), "{call}");
    }
    let (_, answer) = local.token("").await;
    let claims = URL_SAFE_NO_PAD.decode(answer["access_token"].as_str().unwrap().split('.').nth(1).unwrap()).unwrap();
    let copy = serde_json::from_slice::<Value>(&claims).unwrap()["instance"].as_str().unwrap().parse().unwrap();
    let mut stream = Rpc::call(&local.socket(), "FetchX509SVID", b"").await;
    stream.next().await.unwrap();
    let scout = local.house.agent("scout").unwrap();
    assert!(local.house.end_copy(scout, copy, &"ana".parse().unwrap()).await.unwrap());
    let issued = local.issued().await.len();
    for (call, message) in &calls {
        assert_eq!(Rpc::status(&local.socket(), call, message).await, "7", "{call}");
    }
    let (status, refused) = local.token("").await;
    assert_eq!((status, refused["error"].as_str()), (StatusCode::BAD_REQUEST, Some("unauthorized_client")));
    // Nor does a stream that it kept bring another one.
    local.ahead(Duration::from_secs(31 * 60));
    let status = loop {
        if let Err(status) = stream.next().await {
            break status;
        }
    };
    assert_eq!(status, "7");
    assert_eq!(local.issued().await.len(), issued);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_the_security_header_or_malformed_is_refused_with_the_standards_code() {
    let local = Local::start(&rule("scout", &me())).await;
    let socket = local.socket();
    for headers in [&[][..], &[("workload.spiffe.io", "True")], &[("workload.spiffe.io", "true"), ("workload.spiffe.io", "true")]] {
        let mut bare = Rpc::send(&socket, "FetchX509SVID", headers, framed(b"")).await;
        assert_eq!(bare.next().await.unwrap_err(), "3", "{headers:?}");
    }
    let secured = [("workload.spiffe.io", "true")];
    for bad in [vec![], vec![0, 0, 0, 0, 9, 1], [framed(b""), framed(b"")].concat()] {
        assert_eq!(Rpc::send(&socket, "FetchX509SVID", &secured, bad).await.next().await.unwrap_err(), "3");
    }
    assert_eq!(Rpc::send(&socket, "FetchX509SVID", &secured, vec![1, 0, 0, 0, 0]).await.next().await.unwrap_err(), "12", "compressed");
    assert_eq!(Rpc::send(&socket, "FetchX509SVID", &secured, framed(&vec![7; 70_000])).await.next().await.unwrap_err(), "8");
    for unknown in ["FetchWITSVID", "FetchWITBundles", "Nothing"] {
        assert_eq!(Rpc::status(&socket, unknown, b"").await, "12");
    }
    assert_eq!(Rpc::status(&socket, "FetchJWTSVID", b"").await, "3", "no audience");
    assert_eq!(Rpc::status(&socket, "FetchJWTSVID", &[0x0a, 9, 1]).await, "3", "no message");
    assert_eq!(Rpc::status(&socket, "FetchJWTSVID", &[field(1, "reports"), field(2, "spiffe://bailiwick.local/agent/other")].concat()).await, "7");
    assert_eq!(Rpc::status(&socket, "ValidateJWTSVID", &[field(1, "reports"), field(2, "a.b.c")].concat()).await, "3");
    assert!(
        Rpc::call(&socket, "FetchJWTSVID", &[field(1, "reports"), field(2, "spiffe://bailiwick.local/agent/scout")].concat())
            .await
            .next()
            .await
            .is_ok()
    );
    assert_eq!(local.issued().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fetched_again_and_again_is_on_record_once_and_not_without_end() {
    let local = Local::start(&rule("scout", &me())).await;
    let mut ends = std::collections::BTreeMap::new();
    for i in 0..1300 {
        let message = if i % 2 == 0 { field(1, "reports") } else { field(1, &format!("audience-{i}")) };
        let end = Rpc::call(&local.socket(), "FetchJWTSVID", &message).await.next().await.map(|_| ());
        *ends.entry(end).or_insert(0) += 1;
    }
    assert_eq!(ends[&Ok(())], 1200, "{ends:?}");
    assert_eq!(ends[&Err("8".to_owned())], 100);
    let issued = local.issued().await;
    assert!(issued.len() <= 34, "{}", issued.len());
    // Once their minute is over, those that were only counted are on record by their number.
    local.ahead(Duration::from_secs(61));
    let counted = async {
        loop {
            let issued = local.issued().await;
            if let Some(more) = issued.iter().find(|e| e.contains("JWT-SVID for reports; 599 more were not written")) {
                return more.clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), counted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_client_follows_the_bundles_through_a_change_of_keys_and_gives_them_up_when_they_are_taken_away() {
    let today = SystemClock::start().now().plus(Duration::from_secs(5 * 86_400)).to_string();
    let text = format!("{AGENTS}{}", rule("scout", &me())).replacen("2099-12-31", today.get(..10).unwrap(), 1);
    let local = Local::start_in(tempfile::tempdir().unwrap(), &text).await;
    let (workers, stop) = (TaskTracker::new(), CancellationToken::new());
    let (following, mut received) = WorkloadApi::at(local.socket()).following();
    following.start(&workers, &stop);
    let domain: bailiwick_core::TrustDomain = "bailiwick.local".parse().unwrap();
    let mut until = async |what: &dyn Fn(usize, usize) -> bool| {
        let wait = received.wait_for(|now| {
            let keys = now.jwt.get(&domain).map_or(0, |set| serde_json::from_slice::<Value>(set).unwrap()["keys"].as_array().unwrap().len());
            what(now.x509.get(&domain).map_or(0, Vec::len), keys)
        });
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time").unwrap().clone()
    };
    let first = until(&|roots, keys| roots == 1 && keys == 1).await;
    let published = get(&local, "/.well-known/spiffe-bundle").await;
    assert_eq!(first.x509[&domain], Bundle::parse(domain.clone(), published.to_string().as_bytes()).unwrap().x509);
    local.ahead(Duration::from_secs(4 * 86_400));
    let second = until(&|roots, keys| roots == 2 && keys == 2).await;
    assert_eq!(second.x509[&domain][0], first.x509[&domain][0]);
    let later = get(&local, "/.well-known/spiffe-bundle").await;
    assert!(later["spiffe_sequence"].as_u64() > published["spiffe_sequence"].as_u64());
    // The agent's review is overdue: the stream ends with a refusal, and nothing of it is trusted any more.
    local.ahead(Duration::from_secs(2 * 86_400));
    until(&|roots, keys| roots == 0 && keys == 0).await;
    stop.cancel();
    workers.close();
    tokio::time::timeout(Duration::from_secs(10), workers.wait()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_gets_tokens_and_tasks_at_the_brokers_own_socket_by_being_its_process() {
    let local = Local::with_shop(&rule("scout", &me())).await;
    let (status, answer) = local.token("").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let token = answer["access_token"].as_str().unwrap();
    let authorized = [("authorization", &*format!("Bearer {token}")), ("content-type", "application/json")];
    let (status, opened) = local.ask(Method::POST, "/v1/tasks", &authorized, r#"{"purpose":"look","tools":["shop.show_order"]}"#).await;
    assert_eq!(status, StatusCode::CREATED, "{opened}");
    assert_eq!(opened["task"]["agent"], "scout");
    // The same process is the same running copy, so the task's token is renewed for it.
    let task = opened["task"]["id"].as_str().or(opened["task"]["task"].as_str()).unwrap();
    let (status, renewed) = local.token(&format!("&task_id={task}")).await;
    assert_eq!((status, renewed["task_id"].as_str()), (StatusCode::OK, Some(task)), "{renewed}");
    let own = "&client_id=spiffe%3A%2F%2Fbailiwick.local%2Fagent%2Fscout";
    assert_eq!(local.token(own).await.0, StatusCode::OK);
    let another = local.token(&own.replace("scout", "other")).await;
    assert_eq!((another.0, another.1["error"].as_str()), (StatusCode::UNAUTHORIZED, Some("invalid_client")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_brokers_own_socket_a_process_that_is_nobody_or_out_of_service_gets_no_token() {
    let stranger = Local::start(&rule("scout", Path::new("/bin/sh"))).await;
    let (status, refused) = stranger.token("").await;
    assert_eq!((status, refused["error"].as_str()), (StatusCode::UNAUTHORIZED, Some("invalid_client")));
    let overdue = Local::start(&rule("overdue", &me())).await;
    assert_eq!(overdue.token("").await.1["error"], "unauthorized_client");
    // The same program at the address proves nothing by being what it is.
    let known = Local::start(&rule("scout", &me())).await;
    let stream = tokio::net::TcpStream::connect(known.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("/oauth/token")
        .header("host", known.address.to_string())
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from_static(b"grant_type=client_credentials")))
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_issuer_the_bundle_has_no_keys_and_the_sockets_go_when_the_broker_does() {
    let text = AGENTS.replace("[spiffe]\nsocket = \"workload.sock\"\n", "");
    let bare = Local::start_in(tempfile::tempdir().unwrap(), &text).await;
    assert_eq!(get(&bare, "/.well-known/spiffe-bundle").await, json!({ "keys": [] }));
    let local = Local::start(&rule("scout", &me())).await;
    let sockets = [local.socket(), local.dir.path().join("broker.sock")];
    assert!(sockets.iter().all(|s| s.exists()));
    assert_eq!(std::fs::metadata(&sockets[0]).unwrap().mode() & 0o777, 0o600);
    let mut stream = Rpc::call(&local.socket(), "FetchX509SVID", b"").await;
    stream.next().await.unwrap();
    local.stop.cancel();
    local.house.stop.cancel();
    assert_eq!(stream.next().await.unwrap_err(), "14");
    tokio::time::timeout(Duration::from_secs(15), local.house.shutdown()).await.unwrap();
    assert!(sockets.iter().all(|s| !s.exists()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_is_the_same_after_a_start_and_its_keys_stand_nowhere_in_the_open() {
    let rules = rule("scout", &me());
    let first = Local::start(&rules).await;
    let before = get(&first, "/.well-known/spiffe-bundle").await;
    let mut stream = Rpc::call(&first.socket(), "FetchX509SVID", b"").await;
    let message = stream.next().await.unwrap();
    drop(stream);
    first.house.shutdown().await;
    let dir = std::mem::replace(&mut { first }.dir, tempfile::tempdir().unwrap());
    let again = Local::start_in(dir, &format!("{AGENTS}{rules}")).await;
    assert_eq!(get(&again, "/.well-known/spiffe-bundle").await, before);
    // Field 3 of the SVID in field 1: the PKCS #8 of its key stands in no file.
    let key = message.windows(4).position(|w| w == [0x02, 0x01, 0x00, 0x30]).map(|at| message[at + 24..at + 80].to_vec()).unwrap();
    for file in std::fs::read_dir(again.dir.path().join("data")).unwrap().map(|f| f.unwrap().path()).filter(|p| p.is_file()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(key.len()).any(|w| w == key), "{}", file.display());
    }
}

/// A server's certificate for 127.0.0.1, from an authority of its own.
fn server_certificate(dir: &Path) {
    let new = "openssl req -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256";
    let script = format!(
        "{new} -x509 -days 2 -subj /CN=ca -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE && \
         {new} -subj /CN=server -keyout server.key -out server.csr && \
         printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext && \
         openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem"
    );
    assert!(Command::new("sh").args(["-ec", &script]).current_dir(dir).output().unwrap().status.success());
}

/// Asks for a token over TLS, with a client's certificate.
async fn token_by_certificate(local: &Local, certificate: Vec<u8>, key: Vec<u8>, client_id: &str) -> Result<(StatusCode, Value), String> {
    let read = |file: &str| std::fs::read(local.dir.path().join(file)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = config.with_client_auth_cert(vec![certificate.into()], PrivatePkcs8KeyDer::from(key).into()).unwrap();
    let url: url::Url = local.house.urls.mtls.as_ref().expect("a listener for certificates").parse().unwrap();
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", url.port().unwrap())).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let secured = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(secured)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "client_credentials")
        .append_pair("client_id", client_id)
        .finish();
    let request = Request::post("/oauth/token")
        .header("host", format!("127.0.0.1:{}", url.port().unwrap()))
        .header("content-type", "application/x-www-form-urlencoded");
    let answer = sender.send_request(request.body(Full::new(Bytes::from(form))).unwrap()).await.map_err(|e| e.to_string())?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Ok((head.status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_rust_library_fetched_is_a_proof_at_our_own_doors_the_jwt_svid_as_an_assertion_and_the_x509_svid_in_tls() {
    let dir = tempfile::tempdir().unwrap();
    server_certificate(dir.path());
    let mtls = "[listen.mtls]\naddress = \"127.0.0.1:0\"\ncertificate = \"server.pem\"\nkey = \"server.key\"\nissued_here = true\n";
    let local = Local::start_in(dir, &format!("{AGENTS}{mtls}{}", rule("scout", &rust_client()))).await;
    let fetch = async |audience: &str| {
        let mut command = Command::new(rust_client());
        command.args([&local.endpoint(), audience]);
        report(command).await
    };
    let ours = fetch(&local.house.urls.base).await;
    let assertion = async |svid: &Value| {
        let svid = svid.as_str().unwrap();
        let kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-spiffe";
        post_form(&local, &format!("grant_type=client_credentials&client_assertion_type={kind}&client_assertion={svid}")).await
    };
    let (status, answer) = assertion(&ours["jwt"]).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(answer["access_token"].is_string());
    // One for another audience proves nothing here.
    let (status, refused) = assertion(&fetch("reports").await["jwt"]).await;
    assert_eq!((status, refused["error"].as_str()), (StatusCode::UNAUTHORIZED, Some("invalid_client")));

    let (certificate, key) = (bytes_of(&ours["certificate"]), bytes_of(&ours["key"]));
    let scout = "spiffe://bailiwick.local/agent/scout";
    let (status, answer) = token_by_certificate(&local, certificate.clone(), key.clone(), scout).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    let other = token_by_certificate(&local, certificate, key, "spiffe://bailiwick.local/agent/other").await.unwrap();
    assert_eq!(other.0, StatusCode::UNAUTHORIZED, "{}", other.1);
    // An authority of the same name is not ours.
    let now = SystemClock::start().now();
    let day = Duration::from_secs(86_400);
    let forger = Authority::begin("bailiwick.local".parse().unwrap(), day, [9; 16], 0, now).unwrap();
    let forged = forger.x509_svid(&scout.parse().unwrap(), day, [9; 16], now).unwrap();
    assert!(token_by_certificate(&local, forged.certificate, forged.key.to_vec(), scout).await.is_err());
    let forged = forger.jwt_svid(&scout.parse().unwrap(), std::slice::from_ref(&local.house.urls.base), day, now).unwrap();
    assert_eq!(assertion(&json!(forged.token)).await.0, StatusCode::UNAUTHORIZED);
}

async fn post_form(local: &Local, form: &str) -> (StatusCode, Value) {
    let stream = tokio::net::TcpStream::connect(local.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("/oauth/token").header("host", local.address.to_string()).header("content-type", "application/x-www-form-urlencoded");
    let answer = sender.send_request(request.body(Full::new(Bytes::from(form.to_owned()))).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bridge_for_mcp_hosts_needs_no_key_at_the_brokers_own_socket() {
    let program = Path::new(env!("CARGO_BIN_EXE_bailiwick"));
    let local = Local::with_shop(&rule("scout", program)).await;
    let ask = async |socket: PathBuf| {
        tokio::task::spawn_blocking(move || {
            let mut bridge = Command::new(env!("CARGO_BIN_EXE_bailiwick"));
            bridge.args(["connect", "--socket"]).arg(socket).env_remove("BAILIWICK_AGENT");
            let mut child = bridge.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let meta = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
            writeln!(child.stdin.take().unwrap(), r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{meta}}}}}"#).unwrap();
            let done = child.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            serde_json::from_str::<Value>(text.lines().next().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&done.stderr)))).unwrap()
        })
        .await
        .unwrap()
    };
    let answer = ask(local.dir.path().join("broker.sock")).await;
    assert!(answer["result"]["tools"].is_array(), "{answer}");
    let opened = entries(&local.house).await.into_iter().filter(|e| e["kind"] == "task_opened" && e["opened"]["agent"] == "scout").count();
    assert_eq!(opened, 1);
    // Where no rule covers the program, the host is told so.
    let stranger = Local::with_shop(&rule("scout", Path::new("/bin/sh"))).await;
    let answer = ask(stranger.dir.path().join("broker.sock")).await;
    assert!(answer["error"]["message"].is_string() && answer["result"].is_null(), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_broker_takes_our_svids_by_the_bundles_that_our_workload_api_tells_it() {
    let ours = Local::start(&rule("scout", &me())).await;
    let trusts = format!(
        "[issuers.neighbour]\nissuer = \"spiffe://bailiwick.local\"\nkind = \"spiffe\"\nspiffe_workload_api = \"{}\"\n\
         [[agents.other.proofs]]\nissuer = \"neighbour\"\nclaims = {{ sub = \"spiffe://bailiwick.local/agent/scout\" }}\n",
        ours.endpoint()
    );
    let text = AGENTS.replace("[spiffe]\nsocket = \"workload.sock\"\n", "");
    let theirs = Local::start_in(tempfile::tempdir().unwrap(), &format!("trust_domain = \"theirs.example\"\n{text}{trusts}")).await;
    let message = Rpc::call(&ours.socket(), "FetchJWTSVID", &field(1, &theirs.house.urls.base)).await.next().await.unwrap();
    let said = String::from_utf8_lossy(&message).into_owned();
    let svid: String =
        said.get(said.find("eyJ").unwrap()..).unwrap().chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')).collect();
    let form = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={svid}");
    // The first message of the stream may be on its way still.
    let mut answer = post_form(&theirs, &form).await;
    for _ in 0..100 {
        if answer.0 == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        answer = post_form(&theirs, &form).await;
    }
    assert_eq!(answer.0, StatusCode::OK, "{}", answer.1);
    assert_eq!(post_form(&ours, &form).await.0, StatusCode::BAD_REQUEST, "it was made for another");
}
