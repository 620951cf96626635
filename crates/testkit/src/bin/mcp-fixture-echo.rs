//! A small and fast MCP server for benchmarks and fault tests, on plain hyper: `mcp-fixture-echo --port PORT
//! [--threads N] [--token TOKEN]`.
//!
//! It answers both protocol eras on `POST /mcp`, with JSON only and without sessions, and has two tools: `echo` (read only) gives
//! `arguments.text` back, `put` (a write) takes `key` and `value`. It checks no more than it needs to answer: it stands for an upstream, not
//! for a gateway. With `--token` it wants exactly that bearer token, as an upstream does whose credential is injected. `GET /counts` says how often each tool ran and each key was put, so that a test can prove "once".

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use bailiwick_testkit::Flags;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, server};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

const BODY_BYTES_MAX: usize = 4 << 20;

/// Tool definitions, the same in both eras.
const TOOLS: &str = r#"[{"name":"echo","title":"Echo","description":"Gives the text back.","inputSchema":{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]},"annotations":{"readOnlyHint":true,"openWorldHint":false}},{"name":"put","title":"Put","description":"Stores a value under a key.","inputSchema":{"type":"object","properties":{"key":{"type":"string"},"value":{"type":"string"}},"required":["key","value"]},"annotations":{"readOnlyHint":false,"destructiveHint":false,"idempotentHint":false,"openWorldHint":false}}]"#;

/// What a modern result has beside its own members (2026-07-28: `resultType` is required, `serverInfo` should be there).
const MODERN: &str = r#","resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"mcp-fixture-echo","version":"1"}}"#;
const MODERN_PRIVATE: &str = r#","ttlMs":0,"cacheScope":"private""#;

/// What every connection shares.
struct Fixture {
    /// The whole value of `Authorization` that a request must have, if any.
    authorization: Option<String>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    echo: AtomicU64,
    put: AtomicU64,
    keys: Mutex<BTreeMap<String, u64>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    method: String,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
struct Params<'a> {
    name: Option<String>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(rename = "_meta", borrow)]
    meta: Option<Meta<'a>>,
    #[serde(rename = "protocolVersion")]
    protocol_version: Option<String>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(rename = "io.modelcontextprotocol/protocolVersion", borrow)]
    protocol_version: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Echo<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Put {
    key: String,
    #[serde(rename = "value")]
    _value: String,
}

fn main() -> Result<()> {
    let flags = Flags::from_env(&["--port", "--threads", "--token"])?;
    let runtime = match flags.optional::<usize>("--threads")? {
        None | Some(0 | 1) => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        Some(threads) => tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?,
    };
    let token = flags.optional::<String>("--token")?;
    let authorization = token.map(|token| format!("Bearer {token}"));
    let fixture = Fixture { authorization, counts: Counts::default() };
    runtime.block_on(serve(flags.required("--port")?, Arc::new(fixture)))
}

async fn serve(port: u16, fixture: Arc<Fixture>) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let fixture = Arc::clone(&fixture);
        let service = service_fn(move |request| {
            let fixture = Arc::clone(&fixture);
            async move { Ok::<_, Infallible>(answer(request, &fixture).await) }
        });
        tokio::spawn(server::conn::http1::Builder::new().pipeline_flush(true).serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(request: Request<Incoming>, fixture: &Fixture) -> Response<Full<Bytes>> {
    let counts = &fixture.counts;
    if request.method() == Method::POST
        && let Some(wanted) = &fixture.authorization
        && request.headers().get(AUTHORIZATION).is_none_or(|given| given != wanted)
    {
        return json(StatusCode::UNAUTHORIZED, String::new());
    }
    match (request.method(), request.uri().path()) {
        (&Method::POST, _) => match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
            Ok(body) => reply_to(&body.to_bytes(), counts),
            Err(_) => json(StatusCode::PAYLOAD_TOO_LARGE, String::new()),
        },
        (&Method::GET, "/counts") => json(StatusCode::OK, counts.to_json()),
        _ => {
            let mut reply = json(StatusCode::METHOD_NOT_ALLOWED, String::new());
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            reply
        }
    }
}

fn reply_to(body: &[u8], counts: &Counts) -> Response<Full<Bytes>> {
    let Ok(message) = serde_json::from_slice::<Message<'_>>(body) else {
        return json(StatusCode::BAD_REQUEST, error("null", -32700, "not a request"));
    };
    let Some(id) = message.id.map(RawValue::get) else {
        return json(StatusCode::ACCEPTED, String::new());
    };
    let params = message.params.as_ref();
    let modern = params.and_then(|params| params.meta.as_ref()).is_some_and(|meta| meta.protocol_version.is_some());
    let result = match message.method.as_str() {
        "tools/call" => return call(id, modern, params, counts),
        "tools/list" => format!(r#""tools":{TOOLS}{}"#, if modern { MODERN_PRIVATE } else { "" }),
        "server/discover" if modern => {
            format!(r#""supportedVersions":["2026-07-28"],"capabilities":{{"tools":{{}}}}{MODERN_PRIVATE}"#)
        }
        "initialize" if !modern => initialize(params),
        "ping" if !modern => {
            return json(StatusCode::OK, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
        }
        _ => {
            let status = if modern { StatusCode::NOT_FOUND } else { StatusCode::OK };
            return json(status, error(id, -32601, "Method not found"));
        }
    };
    json(StatusCode::OK, success(id, &result, modern))
}

/// Legacy negotiation: the client's version where it is one of ours, else our latest legacy one.
fn initialize(params: Option<&Params<'_>>) -> String {
    let asked = params.and_then(|params| params.protocol_version.as_deref());
    let version = asked.filter(|asked| ["2025-03-26", "2025-06-18", "2025-11-25"].contains(asked)).unwrap_or("2025-11-25");
    format!(r#""protocolVersion":"{version}","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"mcp-fixture-echo","version":"1"}}"#)
}

fn call(id: &str, modern: bool, params: Option<&Params<'_>>, counts: &Counts) -> Response<Full<Bytes>> {
    let name = params.and_then(|params| params.name.as_deref()).unwrap_or_default();
    let arguments = params.and_then(|params| params.arguments).map_or("{}", RawValue::get);
    let text = match name {
        "echo" => match serde_json::from_str::<Echo<'_>>(arguments) {
            Ok(echo) => {
                counts.echo.fetch_add(1, Ordering::Relaxed);
                echo.text.map_or(r#""""#, RawValue::get).to_owned()
            }
            Err(_) => return json(StatusCode::OK, error(id, -32602, "echo wants an object")),
        },
        "put" => match serde_json::from_str::<Put>(arguments) {
            Ok(put) => {
                counts.put.fetch_add(1, Ordering::Relaxed);
                *counts.keys.lock().unwrap_or_else(PoisonError::into_inner).entry(put.key).or_default() += 1;
                r#""stored""#.to_owned()
            }
            Err(_) => return json(StatusCode::OK, error(id, -32602, "put wants key and value")),
        },
        _ => return json(StatusCode::OK, error(id, -32602, "Unknown tool")),
    };
    let result = format!(r#""content":[{{"type":"text","text":{text}}}],"isError":false"#);
    json(StatusCode::OK, success(id, &result, modern))
}

impl Counts {
    fn to_json(&self) -> String {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        serde_json::json!({
            "echo": self.echo.load(Ordering::Relaxed),
            "put": self.put.load(Ordering::Relaxed),
            "keys": keys,
        })
        .to_string()
    }
}

fn success(id: &str, members: &str, modern: bool) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{{members}{}}}}}"#, if modern { MODERN } else { "" })
}

fn error(id: &str, code: i32, message: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#)
}

fn json(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::from(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}
