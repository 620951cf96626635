//! A system without a server: its tools are done in this process, over connections that hold the task's own credential.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bailiwick_wire::mcp::Version;

use super::{About, CallScope, EraSupport, Link, Live, Reply, Shared, State, UpstreamError, UpstreamRequest};

/// What stands in the place of a server.
#[async_trait::async_trait]
pub trait Local: Send + Sync + fmt::Debug {
    /// May it be used? Asked again, with back-off, until it may.
    ///
    /// # Errors
    /// Why not, in words for the operator.
    async fn ready(&self) -> Result<(), String>;

    /// Answers one request. `sent` is to be called before the first byte goes to the system.
    ///
    /// # Errors
    /// [`UpstreamError`] if there is no valid answer.
    async fn request(&self, request: &UpstreamRequest<'_>, sent: &(dyn Fn() + Send + Sync)) -> Result<Reply, UpstreamError>;
}

/// Keeps it in use from the moment that it says it may be.
pub(super) async fn supervise(shared: Arc<Shared>, local: Arc<dyn Local>) {
    let mut wait = shared.config.backoff.first;
    loop {
        let ready = tokio::select! {
            () = shared.stop.cancelled() => break,
            ready = local.ready() => ready,
        };
        match ready {
            Ok(()) => {
                let support = EraSupport { modern: true, legacy: Some(Version::LATEST_LEGACY) };
                shared.ready(Live { link: Link::Local(Arc::clone(&local)), support, about: About::default(), life: 0 });
                shared.stop.cancelled().await;
                break;
            }
            Err(why) => {
                tracing::warn!(system = %shared.system(), %why, "the system is not served yet");
                let until = Instant::now().checked_add(wait).unwrap_or_else(Instant::now);
                shared.set(State::BackingOff { until, why: why.into() });
            }
        }
        tokio::select! {
            () = shared.stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
        wait = wait.saturating_mul(2).min(shared.config.backoff.max);
    }
    shared.set(State::Stopped);
}

/// One request.
pub(super) async fn call(local: &dyn Local, request: &UpstreamRequest<'_>, scope: &CallScope) -> Result<Reply, UpstreamError> {
    local.request(request, &|| scope.mark_sent()).await
}
