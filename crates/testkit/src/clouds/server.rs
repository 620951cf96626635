//! An HTTP server on a thread of its own, so that it outlives whatever runtime its clients are killed with; under TLS if it is given a certificate.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET` and so on.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The query, as it stands.
    pub query: String,
    /// Names in small letters.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// A header, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }

    /// What stands behind `Bearer `.
    #[must_use]
    pub fn bearer(&self) -> &str {
        self.header("authorization").strip_prefix("Bearer ").unwrap_or_default()
    }

    /// The body as a form, each name with its values. Nothing if it says that it is none.
    #[must_use]
    pub fn form(&self) -> BTreeMap<String, Vec<String>> {
        if self.header("content-type") == "application/x-www-form-urlencoded" { pairs(&String::from_utf8_lossy(&self.body)) } else { BTreeMap::new() }
    }

    /// The query as pairs.
    #[must_use]
    pub fn query(&self) -> BTreeMap<String, Vec<String>> {
        pairs(&self.query)
    }

    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// `a=b&c=d`, decoded.
pub(super) fn pairs(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        all.entry(decoded(name)).or_default().push(decoded(value));
    }
    all
}

/// `%41` and `+`.
pub(super) fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (first, digits) {
            (b'+', _) => bytes.push(b' '),
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => bytes.push(first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Told {
    /// The status.
    pub status: u16,
    /// Fields beside the usual ones.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Told {
    /// With a body of JSON.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        Self { status, headers: vec![("content-type", "application/json".to_owned())], body: body.to_string().into_bytes() }
    }

    /// With a body of XML.
    #[must_use]
    pub fn xml(status: u16, body: String) -> Self {
        Self { status, headers: vec![("content-type", "text/xml".to_owned())], body: body.into_bytes() }
    }

    /// Without a body.
    #[must_use]
    pub const fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }
}

/// What a cloud does.
pub trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, asked: &Asked) -> Told;
}

/// What happens to a request instead of what should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is done, and the answer never arrives.
    Lost,
    /// The connection is closed before anything is done.
    HungUp,
    /// It is not done, and answered with this status.
    Status(u16),
    /// It is done, and answered after this long.
    Slow(Duration),
    /// The answer has no end.
    Huge,
    /// It is sent elsewhere.
    Redirect(String),
}

#[derive(Default)]
struct State {
    faults: Mutex<Vec<(String, Fault)>>,
    seen: Mutex<Vec<Asked>>,
    down: AtomicBool,
}

/// A cloud that runs. It ends with its owner.
pub struct Cloud {
    port: u16,
    secure: bool,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Cloud {
    /// Starts it in the clear.
    pub fn start(service: Arc<dyn Service>) -> Result<Self> {
        Self::run(service, None)
    }

    /// Starts it under TLS.
    pub fn start_tls(service: Arc<dyn Service>, config: Arc<tokio_rustls::rustls::ServerConfig>) -> Result<Self> {
        Self::run(service, Some(TlsAcceptor::from(config)))
    }

    fn run(service: Arc<dyn Service>, tls: Option<TlsAcceptor>) -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        listener.set_nonblocking(true)?;
        let (port, secure) = (listener.local_addr()?.port(), tls.is_some());
        let state = Arc::new(State::default());
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&state);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, tls, service, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { port, secure, state, stop: Some(stop), thread: Some(thread) })
    }

    /// A URL there.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}://127.0.0.1:{}{path}", if self.secure { "https" } else { "http" }, self.port)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The next request whose method and path, such as `POST /token`, begin like this meets this fault. Faults of one beginning come one after the other.
    pub fn fault(&self, beginning: &str, fault: Fault) {
        lock(&self.state.faults).push((beginning.to_owned(), fault));
    }

    /// Hangs up on everybody, until it is up again.
    pub fn down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// Every request so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Asked> {
        lock(&self.state.seen).clone()
    }

    /// How many requests began like this, such as `POST /token`.
    #[must_use]
    pub fn count(&self, beginning: &str) -> usize {
        lock(&self.state.seen).iter().filter(|asked| line(asked).starts_with(beginning)).count()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).ok();
        }
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl std::fmt::Debug for Cloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cloud({})", self.port)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn line(asked: &Asked) -> String {
    format!("{} {}", asked.method, asked.path)
}

async fn accept(listener: std::net::TcpListener, tls: Option<TlsAcceptor>, service: Arc<dyn Service>, state: Arc<State>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if state.down.load(Ordering::SeqCst) {
            continue;
        }
        tokio::spawn(serve(stream, tls.clone(), Arc::clone(&service), Arc::clone(&state)));
    }
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, service: Arc<dyn Service>, state: Arc<State>) {
    let answering = service_fn(move |request| answer(request, Arc::clone(&service), Arc::clone(&state)));
    let server = hyper::server::conn::http1::Builder::new();
    match tls {
        None => drop(server.serve_connection(TokioIo::new(stream), answering).await),
        Some(tls) => {
            let Ok(stream) = tls.accept(stream).await else { return };
            drop(server.serve_connection(TokioIo::new(stream), answering).await);
        }
    }
}

/// An error closes the connection.
async fn answer(request: Request<Incoming>, service: Arc<dyn Service>, state: Arc<State>) -> Result<Response<Full<Bytes>>, &'static str> {
    let (head, body) = request.into_parts();
    let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let asked = Asked {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: headers.collect(),
        body: body.collect().await.map_err(|_| "the body broke off")?.to_bytes().to_vec(),
    };
    lock(&state.seen).push(asked.clone());
    let fault = {
        let mut faults = lock(&state.faults);
        let at = faults.iter().position(|(beginning, _)| line(&asked).starts_with(beginning));
        at.map(|at| faults.remove(at).1)
    };
    let told = match fault {
        None => service.answer(&asked),
        Some(Fault::Lost) => {
            drop(service.answer(&asked));
            return Err("lost");
        }
        Some(Fault::HungUp) => return Err("hung up"),
        Some(Fault::Status(status)) => Told::json(status, &serde_json::json!({ "message": "the stand-in was told to fail" })),
        Some(Fault::Slow(time)) => {
            let told = service.answer(&asked);
            tokio::time::sleep(time).await;
            told
        }
        Some(Fault::Huge) => Told { status: 200, headers: Vec::new(), body: vec![b' '; 32 << 20] },
        Some(Fault::Redirect(to)) => Told { status: 307, headers: vec![("location", to)], body: Vec::new() },
    };
    let response = told.headers.iter().fold(Response::builder().status(told.status), |response, (name, value)| response.header(*name, value));
    response.body(Full::new(Bytes::from(told.body))).map_err(|_| "no answer")
}
