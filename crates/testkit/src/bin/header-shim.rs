//! A pass-through HTTP proxy that adds headers: `header-shim --listen PORT --target PORT [--header 'Name: value']...`.
//!
//! It lets a client that cannot send `Authorization` (the conformance suite) talk to a server that wants it. `Host` and `Origin`
//! stay as the client sent them, bodies are streamed both ways, and a client that leaves takes its upstream request with it.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bailiwick_testkit::Flags;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, client, server};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

type Reply = Response<Either<Incoming, Full<Bytes>>>;

#[derive(Debug)]
struct Shim {
    target: u16,
    headers: HeaderMap,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let flags = Flags::from_env(&["--listen", "--target", "--header"])?;
    let shim = Arc::new(Shim { target: flags.required("--target")?, headers: headers(flags.all("--header"))? });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, flags.required("--listen")?)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let shim = Arc::clone(&shim);
        let service = service_fn(move |request| {
            let shim = Arc::clone(&shim);
            async move { Ok::<_, Infallible>(shim.pass(request).await.unwrap_or_else(|error| bad_gateway(&error))) }
        });
        // A connection that ends in an error is the peer's affair: the next one is served all the same.
        tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

impl Shim {
    /// Sends one request on a connection of its own and hands the reply back as it comes.
    async fn pass(&self, mut request: Request<Incoming>) -> Result<Reply> {
        drop_hop_by_hop(request.headers_mut());
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.target)).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut reply = sender.send_request(request).await?;
        drop_hop_by_hop(reply.headers_mut());
        Ok(reply.map(Either::Left))
    }
}

/// RFC 9110, section 7.6.1: these belong to one connection; hyper writes its own for the next.
fn drop_hop_by_hop(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    headers.remove("keep-alive");
}

fn headers<'a>(lines: impl Iterator<Item = &'a str>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').context("`--header` wants `Name: value`")?;
        headers.insert(HeaderName::try_from(name.trim())?, HeaderValue::try_from(value.trim())?);
    }
    Ok(headers)
}

fn bad_gateway(error: &anyhow::Error) -> Reply {
    let mut reply = Response::new(Either::Right(Full::from(format!("{error:#}\n"))));
    *reply.status_mut() = StatusCode::BAD_GATEWAY;
    reply
}
