//! A modern upstream's `subscriptions/listen`, kept open for as long as someone wants it.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bailiwick_wire::json::Limits;
use bailiwick_wire::mcp::Method;
use bailiwick_wire::{Raw, RawBuf};
use http::StatusCode;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::answer::{Content, content};
use super::http::HttpLink;
use super::stream::{Resume, Source};
use super::{CallScope, Link, Live, Reply, SessionKey, Shared, State, Upstream, UpstreamError, UpstreamRequest, UseEra};

/// A subscription that lasted this long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(60);

/// A subscription to a modern upstream. Dropping it ends it.
#[derive(Debug)]
pub struct Listening {
    _stop: DropGuard,
}

/// Subscriptions to resources of clients that shake hands, at one upstream in all and under one key: each keeps a stream open.
const SUBSCRIPTIONS_MAX: usize = 256;
const OF_KEY_MAX: usize = 16;

/// What clients that shake hands subscribed to at an upstream that does not: by session and resource.
pub(super) type Subscriptions = Mutex<HashMap<(SessionKey, String), Listening>>;

/// How one subscription ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// It may be tried again.
    Over,
    /// The upstream has no such thing.
    Unsupported,
}

impl Upstream {
    /// Subscribes to what `filter` (the `notifications` object of `subscriptions/listen`) names; it comes out of
    /// [`Upstream::subscribe`]. Opened again whenever it ends. Does nothing at an upstream that is not modern: there the
    /// same comes on the standalone streams of sessions and after `resources/subscribe`.
    #[must_use]
    pub fn listen(&self, filter: &RawBuf) -> Listening {
        let stop = CancellationToken::new();
        let params = format!(r#"{{"notifications":{}}}"#, filter.raw().text());
        let (shared, ended) = (Arc::clone(&self.shared), stop.clone());
        self.shared.workers.spawn(async move {
            let all = shared.stop.clone();
            tokio::select! {
                () = ended.cancelled() => {}
                () = all.cancelled() => {}
                () = keep_listening(&shared, &params) => {}
            }
        });
        Listening { _stop: stop.drop_guard() }
    }
}

impl Upstream {
    /// `resources/subscribe` and its opposite to an upstream of 2026-07-28, which has `subscriptions/listen` in their place. `None`: it
    /// is another request.
    pub(super) fn subscribe_by_listening(&self, request: &UpstreamRequest<'_>, live: &Live) -> Option<Result<Reply, UpstreamError>> {
        let subscribe = match (request.era, request.method) {
            (UseEra::Modern { .. }, Method::ResourcesSubscribe) => true,
            (UseEra::Modern { .. }, Method::ResourcesUnsubscribe) => false,
            _ => return None,
        };
        if !live.support.modern {
            return None;
        }
        let done = Ok(Reply::Result(Raw::EMPTY_OBJECT.to_owned()));
        let Some(uri) = request.params.member("uri") else { return Some(Err(UpstreamError::unavailable("the resource is not named"))) };
        let key = (request.session.clone(), uri.text().to_owned());
        let mut kept = self.shared.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        if !subscribe {
            kept.remove(&key);
            return Some(done);
        }
        if kept.contains_key(&key) {
            return Some(done);
        }
        if kept.len() >= SUBSCRIPTIONS_MAX || kept.keys().filter(|(session, _)| session == request.session).count() >= OF_KEY_MAX {
            return Some(Err(UpstreamError::unavailable("too many subscriptions are open there")));
        }
        let filter = format!(r#"{{"resourceSubscriptions":[{}]}}"#, uri.text());
        let filter = Raw::parse(filter.as_bytes(), &Limits::REQUEST).map(Raw::to_owned);
        let Ok(filter) = filter else { return Some(Err(UpstreamError::unavailable("the resource is not named"))) };
        kept.insert(key, self.listen(&filter));
        Some(done)
    }

    /// Ends the subscriptions under `key`.
    pub(super) fn end_subscriptions(&self, key: &SessionKey) {
        self.shared.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).retain(|(session, _), _| session != key);
    }
}

async fn keep_listening(shared: &Arc<Shared>, params: &str) {
    let Ok(params) = Raw::parse(params.as_bytes(), &Limits::REQUEST) else {
        return;
    };
    let mut wait = shared.config.backoff.first;
    loop {
        let Some(live) = next_life(shared).await.filter(|live| live.support.modern) else {
            return;
        };
        let begun = Instant::now();
        let key = SessionKey::new("broker");
        let era = UseEra::Modern { capabilities: Raw::EMPTY_OBJECT };
        let request = UpstreamRequest::new(era, &key, Method::SubscriptionsListen, params);
        let ended = match &live.link {
            Link::Http(link) => link.listen_once(&request).await,
            // Its tools change with the configuration only.
            Link::Local(_) => Ended::Unsupported,
            Link::Stdio(channel) => {
                let scope = CallScope { cancel: CancellationToken::new(), sent: AtomicU64::new(0) };
                match channel.call(shared, &request, None, &scope).await {
                    Ok(Reply::Error { .. }) => Ended::Unsupported,
                    Ok(Reply::Result(_)) | Err(_) => Ended::Over,
                }
            }
        };
        drop(live);
        if ended == Ended::Unsupported {
            return;
        }
        if begun.elapsed() >= GOOD {
            wait = shared.config.backoff.first;
        }
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(shared.config.backoff.max);
    }
}

/// The server once it takes calls; `None` if it never will again.
async fn next_life(shared: &Shared) -> Option<Arc<Live>> {
    let mut state = shared.state.subscribe();
    let reached = state.wait_for(|state| matches!(state, State::Ready(_) | State::Stopped)).await;
    match reached.as_deref() {
        Ok(State::Ready(live)) => Some(Arc::clone(live)),
        Ok(State::Starting | State::BackingOff { .. } | State::Stopped) | Err(_) => None,
    }
}

impl HttpLink {
    async fn listen_once(self: &Arc<Self>, request: &UpstreamRequest<'_>) -> Ended {
        let id = self.next_id();
        let Ok(http) = self.modern_request(id, request, "{}", false) else {
            return Ended::Unsupported;
        };
        let Ok(certificate) = self.injector(request).certificate() else {
            return Ended::Over;
        };
        let Ok(mut conn) = self.pool.beside(certificate).await else {
            return Ended::Over;
        };
        let Ok(response) = conn.send(http).await else {
            return Ended::Over;
        };
        let (head, body) = response.into_parts();
        if head.status == StatusCode::OK && content(&head.headers) == Content::Stream {
            self.follow_stream(conn, body, Source::Listen { id }, &mut Resume::default()).await;
            return Ended::Over;
        }
        if head.status.is_server_error() { Ended::Over } else { Ended::Unsupported }
    }
}
