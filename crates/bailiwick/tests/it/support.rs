//! What faults, races and hazards are shown with: an upstream that records the bytes it gets, a broker that can be stopped and started
//! on the same directory, a client that sends exact bytes, a clock that is set by hand, and a naive forwarder to compare with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bailiwick::clock::{SystemClock, random};
use bailiwick::config::Config;
use bailiwick::house::{House, Opened};
use bailiwick_core::{AssertionId, Clock, Digest, InstanceId, SpiffeId, Timestamp};
use bailiwick_identity::person::{self, Verdict, Word};
use bailiwick_identity::{SigningKey, assertion};
use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer than this; what does is stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// A client that can show its person a page: a held call is told at once.
pub(crate) const SHOWS_PAGES: &str = r#"{"elicitation":{"url":{}}}"#;
const SECRET: &str = "canary-of-the-broker-7f1e";

// ---- the upstream --------------------------------------------------------------------------------------------------------

pub(crate) const TOOLS: &str = r#"
{"name":"look","description":"Looks something up.","inputSchema":{"type":"object","properties":{"key":{"type":"string"}}},"annotations":{"readOnlyHint":true}},
{"name":"wild","description":"Takes anything.","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}},
{"name":"region","description":"Looks in a region.","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}}},"annotations":{"readOnlyHint":true}},
{"name":"slow","description":"Takes its time.","inputSchema":{"type":"object","properties":{"key":{"type":"string"}}},"annotations":{"readOnlyHint":true}},
{"name":"slow_put","description":"Stores slowly.","inputSchema":{"type":"object","properties":{"key":{"type":"string"}}}},
{"name":"put","description":"Stores a value.","inputSchema":{"type":"object","properties":{"key":{"type":"string"},"value":{"type":"string"}}}},
{"name":"pay","description":"Pays.","inputSchema":{"type":"object","properties":{"recipient":{"type":"string"},"amount":{"type":"number"}},"required":["recipient"]}},
{"name":"purge","description":"Deletes everything.","inputSchema":{"type":"object","properties":{"key":{"type":"string"}}}}"#;

/// A request that an upstream got, other than the broker's own questions.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(serde::Deserialize)]
struct Got<'a> {
    #[serde(borrow)]
    params: GotParams<'a>,
}

#[derive(serde::Deserialize)]
struct GotParams<'a> {
    name: String,
    #[serde(borrow)]
    arguments: &'a RawValue,
}

impl Seen {
    /// The tool, as a strict upstream reads it.
    pub(crate) fn tool(&self) -> String {
        serde_json::from_slice::<Got<'_>>(&self.body).unwrap().params.name
    }

    /// The exact text of the arguments.
    pub(crate) fn arguments(&self) -> String {
        serde_json::from_slice::<Got<'_>>(&self.body).unwrap().params.arguments.get().to_owned()
    }
}

type Play = fn(&str) -> String;

struct Stage {
    seen: Mutex<Vec<Seen>>,
    tools: Mutex<String>,
    lists: AtomicUsize,
    gate: watch::Sender<bool>,
    answer: Mutex<Option<Play>>,
    changed: broadcast::Sender<String>,
}

/// A small MCP server of 2026-07-28 that records what reaches it, and survives the broker.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    stage: Arc<Stage>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let stage = Arc::new(Stage {
            seen: Mutex::default(),
            tools: Mutex::new(TOOLS.to_owned()),
            lists: AtomicUsize::new(0),
            gate: watch::Sender::new(false),
            answer: Mutex::new(None),
            changed: broadcast::Sender::new(4096),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let on_stage = Arc::clone(&stage);
        let router = axum::Router::new().fallback(move |headers: HeaderMap, body: Bytes| {
            let stage = Arc::clone(&on_stage);
            async move { stage.answer(headers, body).await }
        });
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, stage }
    }

    /// What reached it so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.stage.seen.lock().unwrap().clone()
    }

    /// Calls of this tool whose arguments hold this text.
    pub(crate) fn times(&self, tool: &str, holding: &str) -> usize {
        self.seen().iter().filter(|s| s.tool() == tool && s.arguments().contains(holding)).count()
    }

    /// How often its tools were listed.
    pub(crate) fn lists(&self) -> usize {
        self.stage.lists.load(Ordering::SeqCst)
    }

    /// From now on it defines its tools like this, and tells so.
    pub(crate) fn redefine(&self, edit: impl FnOnce(&str) -> String) {
        let mut tools = self.stage.tools.lock().unwrap();
        *tools = edit(&tools);
        drop(tools);
        self.tell_changed();
    }

    /// Says that its tools changed.
    pub(crate) fn tell_changed(&self) {
        self.tell("notifications/tools/list_changed", "{}");
    }

    /// Says something outside of any request, to whoever listens.
    pub(crate) fn tell(&self, method: &str, params: &str) {
        let _ = self.stage.changed.send(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#));
    }

    /// Lets the slow tools answer.
    pub(crate) fn open_gate(&self) {
        self.stage.gate.send_replace(true);
    }

    /// Answers every call with this, made from the request's id.
    pub(crate) fn play(&self, answer: Play) {
        *self.stage.answer.lock().unwrap() = Some(answer);
    }
}

const OWN: [&str; 8] =
    ["server/discover", "tools/list", "resources/list", "resources/templates/list", "prompts/list", "subscriptions/listen", "initialize", "ping"];

impl Stage {
    async fn answer(self: Arc<Self>, headers: HeaderMap, body: Bytes) -> Response {
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        let method = message["method"].as_str().unwrap_or_default().to_owned();
        if !OWN.contains(&method.as_str()) {
            self.seen.lock().unwrap().push(Seen { headers, body });
        }
        let id = message["id"].to_string();
        let modern = r#""resultType":"complete","ttlMs":0,"cacheScope":"private""#;
        let result = match method.as_str() {
            "server/discover" => format!(r#"{{"supportedVersions":["2026-07-28"],"capabilities":{{"tools":{{"listChanged":true}}}},{modern}}}"#),
            "tools/list" => {
                self.lists.fetch_add(1, Ordering::SeqCst);
                format!(r#"{{"tools":[{}],{modern}}}"#, self.tools.lock().unwrap())
            }
            "subscriptions/listen" => return self.listen(),
            "tools/call" => {
                if message["params"]["name"].as_str().is_some_and(|n| n.starts_with("slow")) {
                    self.gate.subscribe().wait_for(|open| *open).await.unwrap();
                }
                if let Some(play) = *self.answer.lock().unwrap() {
                    return reply(play(&id));
                }
                r#"{"content":[{"type":"text","text":"done"}],"isError":false,"resultType":"complete"}"#.to_owned()
            }
            _ => return reply(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"Method not found"}}}}"#)),
        };
        reply(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
    }

    fn listen(&self) -> Response {
        let first = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{}}"#.to_owned();
        let heard = self.changed.subscribe();
        let events = futures_util::stream::unfold((Some(first), heard), move |(first, mut heard)| async move {
            let text = match first {
                Some(first) => first,
                None => heard.recv().await.ok()?,
            };
            Some((Ok::<_, std::convert::Infallible>(format!("data: {text}\n\n")), (None, heard)))
        });
        Response::builder().header("content-type", "text/event-stream").body(Body::from_stream(events)).unwrap()
    }
}

fn reply(text: String) -> Response {
    Response::builder().header("content-type", "application/json").body(Body::from(text)).unwrap()
}

// ---- the clock -----------------------------------------------------------------------------------------------------------

/// A clock that stands still until it is set.
#[derive(Debug)]
pub(crate) struct ManualClock(AtomicI64);

impl ManualClock {
    /// One that begins at the machine's time.
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(SystemClock::start().now().as_millis())))
    }

    pub(crate) fn forward(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn back(&self, by: Duration) {
        self.0.fetch_sub(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// The machine's clock, which a test moves ahead.
#[derive(Debug)]
pub(crate) struct Ahead(SystemClock, AtomicI64);

impl Ahead {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self(SystemClock::start(), AtomicI64::new(0)))
    }

    pub(crate) fn go(&self, by: Duration) {
        self.1.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.now().as_millis() + self.1.load(Ordering::SeqCst))
    }
}

// ---- the broker ----------------------------------------------------------------------------------------------------------

const CONFIG: &str = r#"
[listen]
address = "127.0.0.1:PORT"
[policy]
directory = "policies"
[approvals]
expires_minutes = 60
[tasks]
token_minutes = 60
calls_per_minute_max = 100000
[people.ana]
roles = ["owner", "approver"]
[people.ben]
roles = ["approver", "auditor"]
[people.ops]
roles = ["operator"]
[agents.scout]
owner = "ana"
purpose = "tests"
risk = "low"
review_by = "2099-12-31"
tools = ["sys.look", "sys.wild", "sys.region", "sys.slow", "sys.slow_put", "sys.put", "sys.pay", "twin.look"]
[agents.other]
owner = "ana"
purpose = "tests"
risk = "low"
review_by = "2099-12-31"
tools = ["sys.look", "sys.pay"]
[systems.sys]
url = "http://UPSTREAM/mcp"
headers = { "x-api-key" = "SECRET" }
[systems.sys.effects]
look = "read"
wild = "read"
region = "read"
slow = "read"
slow_put = "write"
put = "write"
pay = "transfer"
purge = "delete"
[systems.twin]
url = "http://TWIN/mcp"
[systems.twin.effects]
look = "read"
"#;

/// The built-in pack, and two tools that write without asking.
const PERMITTED: &str = r#"
@id("put-by-itself")
permit (principal, action in [Action::"sys.put", Action::"sys.slow_put"], resource);
"#;

const AGENTS: [&str; 2] = ["scout", "other"];
const PEOPLE: [&str; 4] = ["ana", "ben", "cat", "ops"];

/// A data directory with its configuration and keys, and the upstreams: what survives the broker.
pub(crate) struct Place {
    pub(crate) data: PathBuf,
    pub(crate) upstream: Upstream,
    /// Another system with a tool of the same name.
    pub(crate) twin: Upstream,
    pub(crate) config: PathBuf,
    port: u16,
    keys: Vec<(&'static str, SigningKey)>,
    _dir: tempfile::TempDir,
}

impl Place {
    pub(crate) async fn new() -> Self {
        Self::with(|text| text).await
    }

    /// `edit` changes the configuration's text.
    pub(crate) async fn with(edit: impl FnOnce(String) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        bailiwick::place::prepare(&data).unwrap();
        let (upstream, twin) = (Upstream::start().await, Upstream::start().await);
        let port = free_port();
        let mut keys = Vec::new();
        for (folder, names) in [("people", PEOPLE.as_slice()), ("agents", AGENTS.as_slice())] {
            for name in names {
                let (key, _) = SigningKey::generate().unwrap();
                std::fs::write(data.join(folder).join(format!("{name}.jwk")), key.public().jwk().to_string()).unwrap();
                keys.push((*name, key));
            }
        }
        let policies = dir.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        let pack = bailiwick_policy::default_pack();
        std::fs::write(policies.join("all.cedar"), format!("{}{PERMITTED}", pack.text)).unwrap();
        let text = CONFIG
            .replace("PORT", &port.to_string())
            .replace("UPSTREAM", &upstream.address.to_string())
            .replace("TWIN", &twin.address.to_string())
            .replace("SECRET", SECRET);
        let config = dir.path().join("bailiwick.toml");
        std::fs::write(&config, edit(text)).unwrap();
        Self { data, upstream, twin, config, port, keys, _dir: dir }
    }

    /// Adds a policy, for the next start.
    pub(crate) fn add_policy(&self, text: &str) {
        std::fs::write(self.config.parent().unwrap().join("policies/more.cedar"), text).unwrap();
    }

    /// A broker in this process.
    pub(crate) async fn open(&self) -> Broker {
        self.open_at(Arc::new(SystemClock::start())).await
    }

    /// A broker in this process, on a clock.
    pub(crate) async fn open_at(&self, clock: Arc<dyn Clock>) -> Broker {
        let config = Config::load(&self.config).unwrap();
        let broker = Broker::serving(House::open(config, &self.data, clock).await.unwrap());
        until("the systems' tools are listed", || {
            let registry = broker.house.registry.load();
            ["sys.pay", "twin.look"].iter().all(|t| registry.tool(t).is_some_and(|t| t.callable()))
        })
        .await;
        // The listing ends with the policy's own look at the tools.
        until("the policy knows them", || {
            let question = |t: &str| broker.possible(t);
            question("sys.pay") && question("sys.put") && question("twin.look")
        })
        .await;
        broker
    }

    /// The real program, with or without a fault. It is killed when the child is dropped.
    pub(crate) fn spawn(&self, fault: Option<&str>) -> tokio::process::Child {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_bailiwick"));
        command.arg("--data-dir").arg(&self.data).arg("--config").arg(&self.config).arg("up");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command.env("RUST_LOG", "off").env("RUST_BACKTRACE", "0");
        if let Some(fault) = fault {
            command.env("BAILIWICK_FAULT", fault);
        }
        command.spawn().unwrap()
    }

    /// The real program, with everything that it can say in a file.
    pub(crate) fn spawn_logging(&self, log: &Path) -> tokio::process::Child {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_bailiwick"));
        command.arg("--data-dir").arg(&self.data).arg("--config").arg(&self.config).arg("up");
        let file = std::fs::File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).kill_on_drop(true).env("RUST_LOG", "trace");
        command.spawn().unwrap()
    }

    /// A client of whatever broker runs here, by the machine's time.
    pub(crate) fn client(&self) -> Client<'_> {
        self.client_at(Arc::new(SystemClock::start()))
    }

    pub(crate) fn client_at(&self, clock: Arc<dyn Clock>) -> Client<'_> {
        Client { place: self, clock, address: SocketAddr::from(([127, 0, 0, 1], self.port)), known_as: None }
    }

    /// Checks the ledger of the stopped broker as an auditor does.
    pub(crate) fn verify(&self) -> u64 {
        let (key, origin) = bailiwick::ledger_access::log_key(&self.data).unwrap();
        bailiwick::ledger_access::verify(&self.data, &origin, &key).unwrap().size
    }
}

/// Every file below a folder.
pub(crate) fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_of(&path) } else { vec![path] }).collect()
}

/// A port that no connection of this machine gets by chance, so that a broker finds it free again.
fn free_port() -> u16 {
    loop {
        let port = 20_000 + u16::from_be_bytes(random()) % 12_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits for something that comes about soon.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A broker in this process.
pub(crate) struct Broker {
    pub(crate) house: Arc<House>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.cancel();
        self.house.stop.cancel();
    }
}

impl Broker {
    /// Serves a house that was opened.
    pub(crate) fn serving(Opened { house, listener }: Opened) -> Self {
        let stop = CancellationToken::new();
        let serving = tokio::spawn(bailiwick::serve::serve(Arc::clone(&house), listener, stop.clone()));
        Self { house, stop, serving }
    }

    /// Stops it, and lets go of the directory.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.serving).await.unwrap();
        self.house.shutdown().await;
    }

    pub(crate) fn possible(&self, tool: &str) -> bool {
        let house = &self.house;
        let Some(agent) = house.agent("scout") else { return false };
        let tool = tool.parse().unwrap();
        let approvers = house.approvers(&agent.owner, &agent.owner);
        let question =
            bailiwick_policy::TaskQuestion { agent, subject: &agent.owner, purpose: "p", tool: &tool, approvers: &approvers, now: house.clock.now() };
        !matches!(house.engine.load().possible(question), bailiwick_policy::Possible::Never(_))
    }

    /// Every entry so far, in order.
    pub(crate) async fn entries(&self) -> Vec<Value> {
        entries(&self.house).await
    }

    /// Checks what must always hold once nothing is under way: no call was sent without a durable intent, and every intent has exactly
    /// one outcome.
    pub(crate) async fn check_sound(&self, place: &Place) {
        let entries = self.entries().await;
        let intents: Vec<(usize, &Value)> = entries.iter().enumerate().filter(|(_, e)| e["kind"] == "intent").collect();
        for (index, intent) in &intents {
            let outcomes: Vec<&Value> = entries.iter().filter(|e| e["kind"] == "outcome" && e["intent"] == *index).collect();
            assert_eq!(outcomes.len(), 1, "{intent} has the outcomes {outcomes:?}");
            assert_eq!(outcomes[0]["call"], intent["call"]);
        }
        let outcomes = entries.iter().filter(|e| e["kind"] == "outcome").count();
        assert_eq!(outcomes, intents.len(), "an outcome without an intent");
        let all = place.upstream.seen();
        // Each pair costs a look into the store: of very many calls, only how often each tool was called is held against the intents.
        let many = all.len() * intents.len() > PAIRS_MAX;
        for seen in &all {
            let tool = format!("sys.{}", seen.tool());
            let mut permitted = 0;
            if many {
                let (sent, intended) =
                    (all.iter().filter(|s| s.tool() == seen.tool()).count(), intents.iter().filter(|(_, i)| i["tool"] == *tool).count());
                assert!(sent <= intended, "{tool} was sent {sent} times under {intended} intents");
                continue;
            }
            for (_, intent) in intents.iter().filter(|(_, i)| i["tool"] == *tool) {
                let task = intent["task"].as_str().unwrap().parse().unwrap();
                let digest = self.house.argument_digest(task, seen.arguments().as_bytes()).await.unwrap().unwrap();
                permitted += usize::from(intent["arguments"] == *digest.to_string());
            }
            let sent = all.iter().filter(|s| s.tool() == seen.tool() && s.arguments() == seen.arguments()).count();
            assert!(sent <= permitted, "{tool} {} was sent {sent} times under {permitted} intents", seen.arguments());
        }
    }
}

/// Pairs of a call that a system saw and an intent that are held against one another.
const PAIRS_MAX: usize = 200_000;

/// Every entry of a ledger, in order.
pub(crate) async fn entries(house: &House) -> Vec<Value> {
    // Behind everything that was queued without waiting.
    house.store.write(|_| Ok(())).await.unwrap();
    let size = house.store.head().size;
    let rows = house.store.entries(0..size).await.unwrap();
    rows.iter().map(|row| serde_json::from_slice(&row.body).unwrap()).collect()
}

// ---- the client ----------------------------------------------------------------------------------------------------------

/// An answer, read whole.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// What a call came to, in a word: `done`, `held`, an error's number, or the code that its words end with.
    pub(crate) fn word(&self) -> String {
        let Ok(message) = serde_json::from_slice::<Value>(&self.body) else { return format!("status {}", self.status) };
        if let Some(number) = message["error"]["code"].as_i64() {
            return number.to_string();
        }
        let result = &message["result"];
        if result["resultType"] == "input_required" {
            return "held".to_owned();
        }
        match (result["isError"] == true, result["content"][0]["text"].as_str()) {
            (true, Some(text)) => text.rsplit_once('[').map_or(text, |(_, code)| code.trim_end_matches(']')).to_owned(),
            (false, Some(_)) => "done".to_owned(),
            _ => message["code"].as_str().map_or_else(|| message.to_string(), str::to_owned),
        }
    }
}

/// A task and the token by which its calls are made.
#[derive(Clone, Debug)]
pub(crate) struct TaskToken {
    pub(crate) id: String,
    pub(crate) token: String,
}

/// A client over TCP.
#[derive(Clone)]
pub(crate) struct Client<'a> {
    place: &'a Place,
    clock: Arc<dyn Clock>,
    pub(crate) address: SocketAddr,
    /// The broker's own URL, if it has another than its address.
    known_as: Option<&'static str>,
}

impl Client<'_> {
    pub(crate) fn base(&self) -> String {
        self.known_as.map_or_else(|| format!("http://{}", self.address), str::to_owned)
    }

    /// A client of a broker whose `public_url` this is.
    pub(crate) fn known_as(self, url: &'static str) -> Self {
        Self { known_as: Some(url), ..self }
    }

    fn key(&self, name: &str) -> &SigningKey {
        &self.place.keys.iter().find(|(n, _)| *n == name).unwrap().1
    }

    /// One request over a connection of its own. `None` if the broker goes away meanwhile, or is not there.
    pub(crate) async fn try_send(&self, method: Method, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Option<Answer> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let driven = tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(target).header("host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = sender.send_request(request.body(Full::new(body.into())).unwrap()).await.ok()?;
        let (head, body) = answer.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await.unwrap().ok()?.to_bytes();
        driven.abort();
        Some(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    pub(crate) async fn send(&self, method: Method, target: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.try_send(method, target, headers, body).await.expect("the broker went away")
    }

    /// Sends these bytes and reads until the broker closes the connection.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The broker may close before it read everything: that is an answer too.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        let _ = read.expect("the connection stayed open");
        answer
    }

    /// The fields by which an agent proves itself.
    pub(crate) fn proved(&self, agent: &str) -> Vec<(&'static str, String)> {
        self.proved_as(agent, None)
    }

    fn proved_as(&self, agent: &str, instance: Option<InstanceId>) -> Vec<(&'static str, String)> {
        let now = self.clock.now();
        let client: SpiffeId = format!("spiffe://bailiwick.local/agent/{agent}").parse().unwrap();
        let base = self.base();
        let statement = assertion::Statement { client: &client, audience: &base, jti: AssertionId::new(now, random()), instance, model: None };
        let assertion = assertion::make(self.key(agent), &statement, now).unwrap();
        vec![("client_assertion_type", assertion::ASSERTION_TYPE.to_owned()), ("client_assertion", assertion)]
    }

    pub(crate) async fn agent_token(&self, agent: &str, instance: Option<InstanceId>) -> String {
        let answer = self.try_token(agent, instance, &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// A token, as long as the broker is there.
    pub(crate) async fn token_if_there(&self, agent: &str) -> Option<String> {
        let mut fields = self.proved_as(agent, None);
        fields.extend([("grant_type", "client_credentials".to_owned()), ("resource", format!("{}/mcp", self.base()))]);
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let answer = self.try_send(Method::POST, "/oauth/token", &[("content-type", "application/x-www-form-urlencoded")], body).await?;
        answer.json()["access_token"].as_str().map(str::to_owned)
    }

    /// Asks for a token with these fields beside the proof.
    pub(crate) async fn try_token(&self, agent: &str, instance: Option<InstanceId>, more: &[(&'static str, &str)]) -> Answer {
        let mut fields = self.proved_as(agent, instance);
        fields.extend([("grant_type", "client_credentials".to_owned()), ("resource", format!("{}/mcp", self.base()))]);
        fields.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.send(Method::POST, "/oauth/token", &[("content-type", "application/x-www-form-urlencoded")], body).await
    }

    pub(crate) async fn with_token(&self, token: &str, method: Method, target: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        self.send(method, target, &[("authorization", &bearer), ("content-type", "application/json")], body.to_owned()).await
    }

    /// The agent says that its task is done. The task, as it is then.
    pub(crate) async fn complete(&self, task: &TaskToken) -> Value {
        let answer = self.with_token(&task.token, Method::POST, &format!("/v1/tasks/{}/complete", task.id), "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Opens a task with everything that its agent may ask for.
    pub(crate) async fn task(&self, agent: &str) -> TaskToken {
        self.task_with(agent, json!({})).await
    }

    /// Opens a task with these members beside its purpose.
    pub(crate) async fn task_with(&self, agent: &str, more: Value) -> TaskToken {
        let token = self.agent_token(agent, None).await;
        let mut asked = json!({ "purpose": "tests" });
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.with_token(&token, Method::POST, "/v1/tasks", &asked.to_string()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let opened = answer.json();
        TaskToken { id: opened["task"]["id"].as_str().unwrap().to_owned(), token: opened["token"]["access_token"].as_str().unwrap().to_owned() }
    }

    /// Calls a tool with the exact text of its arguments. `None` if the broker dies.
    pub(crate) async fn try_call(&self, task: &TaskToken, tool: &str, arguments: &str) -> Option<Answer> {
        let body = modern("tools/call", &format!(r#""name":"{tool}","arguments":{arguments}"#), SHOWS_PAGES);
        let bearer = format!("Bearer {}", task.token);
        let headers = modern_headers(&bearer, "tools/call", Some(tool));
        self.try_send(Method::POST, "/mcp", &headers, body).await
    }

    pub(crate) async fn call(&self, task: &TaskToken, tool: &str, arguments: &str) -> Answer {
        self.try_call(task, tool, arguments).await.expect("the broker went away")
    }

    /// Sends any body of the modern era, with headers that belong to this method and name.
    pub(crate) async fn post(&self, task: &TaskToken, method: &str, name: Option<&str>, body: impl Into<Bytes>) -> Answer {
        let bearer = format!("Bearer {}", task.token);
        self.send(Method::POST, "/mcp", &modern_headers(&bearer, method, name), body).await
    }

    /// A request by a person.
    pub(crate) async fn by(&self, name: &str, method: Method, target: &str, body: Option<Value>) -> Answer {
        self.try_by(name, method, target, body).await.expect("the broker went away")
    }

    pub(crate) async fn try_by(&self, name: &str, method: Method, target: &str, body: Option<Value>) -> Option<Answer> {
        let now = self.clock.now();
        let request = person::Request { method: method.as_str(), target };
        let proof = person::make(self.key(name), &name.parse().unwrap(), &self.base(), request, AssertionId::new(now, random()), now).unwrap();
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        self.try_send(method, target, &[("authorization", &format!("{} {proof}", person::SCHEME)), ("content-type", "application/json")], body).await
    }

    /// The calls of a task that wait for people, as ben sees them.
    pub(crate) async fn pending(&self, task: &TaskToken) -> Vec<Value> {
        self.try_pending(task).await.expect("the broker went away")
    }

    pub(crate) async fn try_pending(&self, task: &TaskToken) -> Option<Vec<Value>> {
        let answer = self.try_by("ben", Method::GET, "/v1/holds?state=pending&limit=500", None).await?.json();
        Some(answer["holds"].as_array().unwrap().iter().filter(|h| h["task"] == *task.id).cloned().collect())
    }

    /// Somebody says `approve` or `refuse` to a held call.
    pub(crate) async fn decide(&self, who: &str, hold: &Value, word: &str) -> Answer {
        self.try_decide(who, hold, word).await.expect("the broker went away")
    }

    pub(crate) async fn try_decide(&self, who: &str, hold: &Value, word: &str) -> Option<Answer> {
        let id = hold["id"].as_str().unwrap();
        let digest: Digest = hold["digest"].as_str().unwrap().parse().unwrap();
        let seen = Digest::of(format!("{}\n{}", hold["nonce"].as_str().unwrap(), hold["shown"].as_str().unwrap()).as_bytes());
        let verdict = Verdict { hold: id.parse().unwrap(), digest, seen, word: if word == "approve" { Word::Approve } else { Word::Refuse } };
        let signature = verdict.sign(self.key(who)).unwrap();
        let body = json!({ "digest": digest.to_string(), "seen": seen.to_string(), "signature": signature });
        self.try_by(who, Method::POST, &format!("/v1/holds/{id}/{word}"), Some(body)).await
    }

    /// Has a call held and approved by ben.
    pub(crate) async fn approved(&self, task: &TaskToken, tool: &str, arguments: &str) -> Value {
        let answer = self.call(task, tool, arguments).await;
        assert_eq!(answer.word(), "held", "{answer:?}");
        let holds = self.pending(task).await;
        let approved = self.decide("ben", &holds[0], "approve").await;
        assert_eq!(approved.status, 200, "{approved:?}");
        approved.json()
    }

    /// Waits until a broker serves this task, and its tools are listed.
    pub(crate) async fn wait_for_tools(&self, task: &TaskToken) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let bearer = format!("Bearer {}", task.token);
        loop {
            let body = modern("tools/list", "", "{}");
            let answer = self.try_send(Method::POST, "/mcp", &modern_headers(&bearer, "tools/list", None), body).await;
            if answer.is_some_and(|a| a.status == 200 && String::from_utf8_lossy(&a.body).contains("sys.pay")) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "the broker did not come up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A request of 2026-07-28. `members` are those of `params` beside `_meta`.
pub(crate) fn modern(method: &str, members: &str, capabilities: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{{{members}{comma}"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{capabilities}}}}}}}"#
    )
}

pub(crate) fn modern_headers<'a>(bearer: &'a str, method: &'a str, name: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![
        ("authorization", bearer),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", method),
    ];
    headers.extend(name.map(|name| ("mcp-name", name)));
    headers
}

// ---- the naive forwarder -------------------------------------------------------------------------------------------------

/// What somebody writes in an afternoon: parse, look at the tool's name, re-serialise, forward. It trusts the mirrored header where
/// there is one, as a router does. True if it let the request through to the upstream.
pub(crate) async fn naive(upstream: &Upstream, allowed: &[&str], headers: &[(&str, &str)], body: &[u8]) -> bool {
    let Ok(mut message) = serde_json::from_slice::<Value>(body) else { return false };
    let in_header = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("mcp-name")).map(|(_, value)| (*value).to_owned());
    let name = in_header.or_else(|| message["params"]["name"].as_str().map(str::to_owned));
    if message["method"] == "tools/call" && name.is_some_and(|name| !allowed.contains(&name.as_str())) {
        return false;
    }
    // Upstream, tools have no system in front.
    if let Some(own) = message["params"]["name"].as_str().and_then(|n| n.strip_prefix("sys.")).map(str::to_owned) {
        message["params"]["name"] = json!(own);
    }
    let before = upstream.seen().len();
    let stream = TcpStream::connect(upstream.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post("/mcp").header("host", upstream.address.to_string()).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = sender.send_request(request.body(Full::new(Bytes::from(message.to_string()))).unwrap()).await.unwrap();
    answer.into_body().collect().await.unwrap();
    upstream.seen().len() > before
}

/// The data directory's file of the store.
pub(crate) fn store_file(data: &Path) -> PathBuf {
    data.join("bailiwick.sqlite")
}
