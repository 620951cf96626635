//! The project's own conformance fixture: an MCP server on `rmcp` for both protocol eras, `mcp-fixture-rmcp --port PORT`.
//!
//! It offers what the official conformance suite looks for, by the suite's names (`catalogue.json`), on `POST /mcp`.

mod async_results;
mod catalogue;
mod contents;
mod conversation;
mod legacy;
mod rounds;
mod server;

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bailiwick_testkit::Flags;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, server::conn::http1};
use hyper_util::rt::TokioIo;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;

use crate::server::Fixture;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let flags = Flags::from_env(&["--port"])?;
    let fixture = Fixture::new()?;
    let mut config = StreamableHttpServerConfig::default().with_sse_retry(Some(Duration::from_millis(100)));
    config.allowed_origins = vec!["http://localhost:*".to_owned(), "http://127.0.0.1:*".to_owned()];
    let endpoint = StreamableHttpService::new(move || Ok(fixture.clone()), Arc::new(LocalSessionManager::default()), config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, flags.required("--port")?)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let endpoint = endpoint.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let endpoint = endpoint.clone();
            async move { Ok::<_, Infallible>(endpoint.handle(request).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
