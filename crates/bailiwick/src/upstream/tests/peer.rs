//! An HTTP peer that answers as a test tells it to: byte by byte, so that it can be as wrong as it likes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// One request that the peer saw.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Which connection it came on, counted from 1.
    pub(super) connection: usize,
    pub(super) verb: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The JSON-RPC method, empty if there is none.
    pub(super) fn method(&self) -> String {
        self.json()["method"].as_str().unwrap_or_default().to_owned()
    }

    pub(super) fn id(&self) -> String {
        self.json()["id"].to_string()
    }
}

/// What the peer does with a request: pieces to write, each after a pause, and then.
pub(super) struct Play {
    pub(super) pieces: Vec<(u64, Vec<u8>)>,
    pub(super) then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Keep,
    Close,
    Hang,
}

impl Play {
    pub(super) fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self { pieces: vec![(0, bytes.into())], then: Then::Keep }
    }

    pub(super) fn json(body: &str) -> Self {
        Self::status("200 OK", "content-type: application/json\r\n", body)
    }

    pub(super) fn status(status: &str, headers: &str, body: &str) -> Self {
        Self::bytes(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
    }

    /// A stream that ends with its connection.
    pub(super) fn stream(events: &[(u64, String)], then: Then) -> Self {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".to_vec();
        let mut pieces = vec![(0, head)];
        pieces.extend(events.iter().map(|(pause, event)| (*pause, event.clone().into_bytes())));
        Self { pieces, then }
    }

    pub(super) fn hang() -> Self {
        Self { pieces: Vec::new(), then: Then::Hang }
    }

    pub(super) fn close() -> Self {
        Self { pieces: Vec::new(), then: Then::Close }
    }

    pub(super) fn closing(mut self) -> Self {
        self.then = Then::Close;
        self
    }
}

pub(super) fn result(id: &str, members: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{{members}}}}}"#)
}

pub(super) fn event(message: &str) -> String {
    format!("event: message\ndata: {message}\n\n")
}

/// Answers `server/discover` as a modern server and refuses the handshake.
pub(super) fn modern_start(seen: &Seen) -> Option<Play> {
    match seen.method().as_str() {
        "server/discover" => {
            Some(Play::json(&result(&seen.id(), r#""resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}"#)))
        }
        "initialize" => Some(not_found(seen)),
        _ => None,
    }
}

/// Answers the handshake as a legacy server with session `s<n>`, n counting the connections, and has no GET stream.
pub(super) fn legacy_start(seen: &Seen) -> Option<Play> {
    match (seen.verb.as_str(), seen.method().as_str()) {
        ("POST", "server/discover") => Some(not_found(seen)),
        ("POST", "initialize") => {
            let body = result(&seen.id(), r#""protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{}"#);
            Some(Play::status("200 OK", "content-type: application/json\r\nmcp-session-id: s1\r\n", &body))
        }
        ("POST", method) if method.starts_with("notifications/") => Some(Play::status("202 Accepted", "", "")),
        ("GET", _) => Some(Play::status("405 Method Not Allowed", "", "")),
        ("DELETE", _) => Some(Play::status("200 OK", "", "")),
        _ => None,
    }
}

pub(super) fn not_found(seen: &Seen) -> Play {
    let body = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-32601,"message":"Method not found"}}}}"#, seen.id());
    Play::status("404 Not Found", "content-type: application/json\r\n", &body)
}

/// A listening peer.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections that their client closed.
    closed: Arc<Mutex<usize>>,
}

impl Peer {
    pub(super) async fn start(script: impl Fn(&Seen) -> Play + Send + Sync + 'static) -> Self {
        Self::start_with(None, script).await
    }

    /// Behind TLS as `localhost`.
    pub(super) async fn start_with(tls: Option<TlsAcceptor>, script: impl Fn(&Seen) -> Play + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = match tls {
            Some(_) => format!("https://localhost:{}/mcp", address.port()),
            None => format!("http://{address}/mcp"),
        };
        let peer = Self { url, seen: Arc::default(), closed: Arc::default() };
        let (shared, script) = (peer.clone(), Arc::new(script));
        tokio::spawn(async move {
            for connection in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (shared, script, tls) = (shared.clone(), Arc::clone(&script), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => shared.serve(connection, stream, &*script).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                shared.serve(connection, stream, &*script).await;
                            }
                        }
                    }
                });
            }
        });
        peer
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests of this JSON-RPC method it saw.
    pub(super) fn count(&self, method: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method() == method).count()
    }

    pub(super) fn closed(&self) -> usize {
        *self.closed.lock().unwrap()
    }

    async fn serve(&self, connection: usize, stream: impl AsyncRead + AsyncWrite + Unpin, script: &(dyn Fn(&Seen) -> Play + Send + Sync)) {
        let mut stream = BufReader::new(stream);
        while let Some(seen) = read_request(&mut stream, connection).await {
            self.seen.lock().unwrap().push(seen.clone());
            let play = script(&seen);
            for (pause, bytes) in play.pieces {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                if stream.write_all(&bytes).await.is_err() {
                    *self.closed.lock().unwrap() += 1;
                    return;
                }
            }
            match play.then {
                Then::Keep => {}
                Then::Close => return,
                Then::Hang => {
                    let mut rest = Vec::new();
                    drop(stream.read_to_end(&mut rest).await);
                    *self.closed.lock().unwrap() += 1;
                    return;
                }
            }
        }
    }
}

async fn read_request(stream: &mut BufReader<impl AsyncRead + Unpin>, connection: usize) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let verb = lines.next()?.split(' ').next()?.to_owned();
    let headers: HashMap<String, String> =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen { connection, verb, headers, body: String::from_utf8(body).unwrap() })
}
