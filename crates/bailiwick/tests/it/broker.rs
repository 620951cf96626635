//! A whole broker on a temporary directory, with people, agents and the sample shop, and a client for its listener.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bailiwick::clock::{SystemClock, random};
use bailiwick::config::Config;
use bailiwick::house::{House, Opened};
use bailiwick_core::{AssertionId, Clock, InstanceId, SpiffeId};
use bailiwick_identity::{SigningKey, assertion, person};
use bailiwick_testkit::certificates::{Authority, Wish};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

const CONFIG: &str = r#"
[listen]
address = "127.0.0.1:0"
[people.ana]
roles = ["owner"]
[people.ben]
roles = ["approver"]
[people.rea]
roles = ["reviewer"]
[people.aud]
roles = ["auditor"]
[people.ops]
roles = ["operator"]
[people.zoe]
roles = []
[agents.scout]
owner = "ana"
purpose = "tests"
risk = "low"
review_by = "2099-12-31"
tools = ["*"]
[agents.other]
owner = "ops"
purpose = "tests"
risk = "low"
review_by = "2099-12-31"
tools = ["*"]
[agents.overdue]
owner = "ana"
purpose = "tests"
risk = "low"
review_by = "2020-01-01"
tools = ["*"]
[systems.shop]
command = "BINARY"
args = ["shop", "--file", "SHOP"]
[systems.shop.effects]
show_order = "read"
list_orders = "read"
refund_order = "transfer"
"#;

pub(crate) const PEOPLE: [&str; 6] = ["ana", "ben", "rea", "aud", "ops", "zoe"];
pub(crate) const AGENTS: [&str; 3] = ["scout", "other", "overdue"];

/// A broker that runs.
pub(crate) struct Broker {
    pub(crate) house: Arc<House>,
    pub(crate) data: PathBuf,
    pub(crate) address: SocketAddr,
    keys: Vec<(String, SigningKey)>,
    stop: CancellationToken,
    tls: Option<tokio_rustls::TlsConnector>,
    _dir: tempfile::TempDir,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, request: Request<Full<Bytes>>) -> Answer {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driven = tokio::spawn(connection);
    let answer = sender.send_request(request).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    driven.abort();
    Answer { status: head.status, headers: head.headers, body }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.cancel();
        self.house.stop.cancel();
    }
}

impl Broker {
    /// Starts one. `edit` changes the configuration's text before.
    pub(crate) async fn start(edit: impl FnOnce(String) -> String) -> Self {
        Self::start_with(&[], edit).await
    }

    /// The same, with sealed secrets.
    pub(crate) async fn start_with(secrets: &[(&str, &str)], edit: impl FnOnce(String) -> String) -> Self {
        Self::start_at(Arc::new(SystemClock::start()), secrets, edit).await
    }

    /// The same, on a clock. What its clients sign is of the machine's time.
    pub(crate) async fn start_at(clock: Arc<dyn Clock>, secrets: &[(&str, &str)], edit: impl FnOnce(String) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        bailiwick::place::prepare(&data).unwrap();
        for (name, value) in secrets {
            bailiwick::secrets::set(&data, name, value.as_bytes().to_vec().into()).await.unwrap();
        }
        let mut keys = Vec::new();
        for (folder, names) in [("people", PEOPLE.as_slice()), ("agents", AGENTS.as_slice())] {
            for name in names {
                let (key, private) = SigningKey::generate().unwrap();
                if *name == "aud" {
                    // The auditor's private half is here, as it is where `bailiwick person add` made it.
                    let pem = bailiwick_identity::keys::private_pem(&private);
                    bailiwick::place::write_private(&data.join("people").join("aud.key.pem"), pem.as_bytes()).unwrap();
                }
                std::fs::write(data.join(folder).join(format!("{name}.jwk")), key.public().jwk().to_string()).unwrap();
                keys.push(((*name).to_owned(), key));
            }
        }
        let shop = dir.path().join("shop.sqlite");
        let text = CONFIG.replace("BINARY", env!("CARGO_BIN_EXE_bailiwick")).replace("SHOP", shop.to_str().unwrap());
        let config = Config::parse("test", &edit(text), dir.path()).unwrap();
        let Opened { house, listener } = House::open(config, &data, clock).await.unwrap();
        let address = listener.local_addr().unwrap();
        std::fs::write(data.join("endpoint.json"), json!({ "url": house.urls.base }).to_string()).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(bailiwick::serve::serve(Arc::clone(&house), listener, stop.clone()));
        Self { house, data, address, keys, stop, tls: None, _dir: dir }
    }

    /// One whose listener speaks TLS, with a certificate that this client believes.
    pub(crate) async fn over_tls(edit: impl FnOnce(String) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("server").unwrap();
        let own = authority.leaf(&Wish { addresses: &[[127, 0, 0, 1]], ..Wish::default() }).unwrap();
        let (certificate, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
        std::fs::write(&certificate, own.certificate_pem()).unwrap();
        std::fs::write(&key, own.key_pem()).unwrap();
        let listen = format!("[listen.tls]\ncertificate = \"{}\"\nkey = \"{}\"\n", certificate.display(), key.display());
        let mut broker = Self::start(|text| edit(text) + &listen).await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls::pki_types::CertificateDer::from(authority.root().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        broker.tls = Some(Arc::new(config).into());
        broker
    }

    /// One on the usual configuration, whose shop has been listed.
    pub(crate) async fn ready() -> Self {
        let broker = Self::start(|text| text).await;
        for _ in 0..600 {
            if broker.house.registry.load().tool("shop.refund_order").is_some_and(|t| t.callable()) {
                return broker;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the shop was not listed");
    }

    pub(crate) fn key(&self, name: &str) -> &SigningKey {
        &self.keys.iter().find(|(n, _)| n == name).unwrap().1
    }

    pub(crate) fn spiffe_id(&self, agent: &str) -> SpiffeId {
        SpiffeId::agent(&self.house.config.trust_domain, &agent.parse().unwrap())
    }

    /// One request over a connection of its own.
    pub(crate) async fn send(&self, method: Method, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        if headers.iter().all(|(name, _)| *name != "host") {
            request = request.header("host", self.address.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        match &self.tls {
            None => exchange(stream, request).await,
            Some(tls) => exchange(tls.connect(self.address.ip().into(), stream).await.unwrap(), request).await,
        }
    }

    /// `Authorization` of a person for one request.
    pub(crate) fn proof(&self, name: &str, method: &Method, target: &str) -> String {
        let now = SystemClock::start().now();
        let request = person::Request { method: method.as_str(), target };
        let proof = person::make(self.key(name), &name.parse().unwrap(), &self.house.urls.base, request, AssertionId::new(now, random()), now);
        format!("{} {}", person::SCHEME, proof.unwrap())
    }

    /// A request by a person.
    pub(crate) async fn by(&self, name: &str, method: Method, target: &str, body: Option<Value>) -> Answer {
        let proof = self.proof(name, &method, target);
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        self.send(method, target, &[("authorization", &proof), ("content-type", "application/json")], body).await
    }

    /// A request with a token.
    pub(crate) async fn with(&self, token: &str, method: Method, target: &str, body: Option<Value>) -> Answer {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        self.send(method, target, &[("authorization", &format!("Bearer {token}")), ("content-type", "application/json")], body).await
    }

    /// A fresh assertion of an agent.
    pub(crate) fn assertion(&self, agent: &str, instance: Option<InstanceId>) -> String {
        let now = SystemClock::start().now();
        let client = self.spiffe_id(agent);
        let statement =
            assertion::Statement { client: &client, audience: &self.house.urls.base, jti: AssertionId::new(now, random()), instance, model: None };
        assertion::make(self.key(agent), &statement, now).unwrap()
    }

    pub(crate) async fn form(&self, target: &str, fields: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.send(Method::POST, target, &[("content-type", "application/x-www-form-urlencoded")], body).await
    }

    /// A form with a client assertion and these fields.
    pub(crate) async fn client(&self, target: &str, assertion: &str, fields: &[(&str, &str)]) -> Answer {
        let mut all = vec![("client_assertion_type", assertion::ASSERTION_TYPE), ("client_assertion", assertion)];
        all.extend_from_slice(fields);
        self.form(target, &all).await
    }

    pub(crate) async fn token_with(&self, assertion: &str, fields: &[(&str, &str)]) -> Answer {
        let mut all = vec![("grant_type", "client_credentials")];
        all.extend_from_slice(fields);
        self.client("/oauth/token", assertion, &all).await
    }

    pub(crate) async fn agent_token(&self, agent: &str, instance: Option<InstanceId>) -> String {
        let mcp = self.house.urls.mcp.clone();
        let answer = self.token_with(&self.assertion(agent, instance), &[("resource", &mcp), ("scope", "agent")]).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// Opens a task of the shop's tools; gives its document and its token.
    pub(crate) async fn task(&self, agent_token: &str) -> (Value, String) {
        let asked = json!({ "purpose": "answer ticket 7", "tools": ["shop.show_order", "shop.refund_order"], "model": "m-1" });
        let answer = self.with(agent_token, Method::POST, "/v1/tasks", Some(asked)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        let opened = answer.json();
        let token = opened["token"]["access_token"].as_str().unwrap().to_owned();
        (opened["task"].clone(), token)
    }

    /// Calls a tool over MCP.
    pub(crate) async fn call(&self, task_token: &str, tool: &str, arguments: Value) -> Value {
        let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": tool, "arguments": arguments, "_meta": meta } });
        let headers = [
            ("authorization", &*format!("Bearer {task_token}")),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", tool),
        ];
        self.send(Method::POST, "/mcp", &headers, body.to_string()).await.json()
    }

    /// A call of a task of `scout` that waits for a person: task, task token and the held call as ben sees it.
    pub(crate) async fn held(&self) -> (Value, String, Value) {
        let (task, token) = self.task(&self.agent_token("scout", None).await).await;
        // The call waits for people; whoever made it goes away once the hold is there.
        let waiting = self.call(&token, "shop.refund_order", Self::refund());
        let hold = async {
            loop {
                let holds = self.by("ben", Method::GET, "/v1/holds?state=pending", None).await.json();
                if let Some(hold) = holds["holds"].get(0) {
                    return hold.clone();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let hold = tokio::select! {
            hold = hold => hold,
            answer = waiting => panic!("the call was not held: {answer}"),
        };
        (task, token, hold)
    }

    /// Arguments that the shop's schema takes.
    pub(crate) fn refund() -> Value {
        json!({ "order": "O-2008", "amount_cents": 500, "reason": "arrived broken" })
    }
}
