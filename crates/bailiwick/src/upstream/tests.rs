//! Upstreams against real processes and hostile peers.

mod hostile;
mod http;
mod peer;
mod stdio;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bailiwick_wire::Raw;
use bailiwick_wire::json::Limits;
use bailiwick_wire::mcp::Version;

use super::*;

fn raw(text: &str) -> Raw<'_> {
    Raw::parse(text.as_bytes(), &Limits::REPLY).unwrap()
}

fn key() -> SessionKey {
    SessionKey::new("task_1")
}

const MODERN: UseEra<'static> = UseEra::Modern { capabilities: Raw::EMPTY_OBJECT };
const LEGACY: UseEra<'static> = UseEra::Legacy { version: Version::V2025_11_25, capabilities: Raw::EMPTY_OBJECT };

/// Starts it with times that fit a busy machine and a back-off that fits a test.
fn start(transport: Transport, change: impl FnOnce(&mut UpstreamConfig)) -> Upstream {
    start_with(transport, Arc::new(NoCredential), change)
}

fn start_with(transport: Transport, inject: Arc<dyn Inject>, change: impl FnOnce(&mut UpstreamConfig)) -> Upstream {
    let mut config = UpstreamConfig::new("sys".parse().unwrap(), transport);
    config.start_timeout = Duration::from_secs(60);
    config.backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_millis(50) };
    change(&mut config);
    Upstream::start(config, inject).unwrap()
}

/// A `tools/call` of `echo`.
async fn call(upstream: &Upstream, era: UseEra<'_>, arguments: &str) -> Result<Reply, UpstreamError> {
    let params = format!(r#"{{"name":"echo","arguments":{arguments}}}"#);
    upstream.request(UpstreamRequest::new(era, &key(), Method::ToolsCall, raw(&params)), None).await
}

fn text(reply: Result<Reply, UpstreamError>) -> String {
    match reply {
        Ok(Reply::Result(result)) => result.raw().text().to_owned(),
        other => panic!("no result: {other:?}"),
    }
}

/// Waits for what must become true, with a limit that only a broken program reaches.
async fn until(mut holds: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(60), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it never became true");
}
