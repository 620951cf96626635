//! What comes back on a POST: one JSON message or a stream, checked before any of it counts as an answer.

use std::sync::Arc;

use bailiwick_wire::mcp::IdBuf;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::connect::Conn;
use super::frame::{self, Outcome};
use super::http::HttpLink;
use super::session::Session;
use super::{Event, Reply, UpstreamError};

/// One request that waits for its answer.
pub(super) struct Exchange<'a> {
    pub(super) id: u64,
    /// The legacy session; `None` on modern requests and on the handshake itself.
    pub(super) session: Option<&'a Arc<Session>>,
    pub(super) modern: bool,
    pub(super) events: Option<mpsc::Sender<Event>>,
    /// The client's own progress token.
    pub(super) token: Option<IdBuf>,
}

/// How an exchange ended that did not fail.
#[derive(Debug)]
pub(super) enum Answered {
    Reply(Reply),
    /// The upstream does not know the legacy session any more (404), and did nothing.
    SessionLost,
    /// It refused with a word that may mean the session, or the request: nothing says that it did nothing.
    SessionDoubtful(Reply),
}

impl HttpLink {
    /// Reads what came back on a request.
    pub(super) async fn answer(
        self: &Arc<Self>,
        mut conn: Conn,
        response: Response<Incoming>,
        exchange: &Exchange<'_>,
    ) -> Result<Answered, UpstreamError> {
        let (head, mut body) = response.into_parts();
        let in_session = exchange.session.is_some_and(|session| session.id.is_some());
        if head.status.is_redirection() {
            return Err(UpstreamError::broken("it answers with a redirect, which is never followed"));
        }
        match content(&head.headers) {
            Content::Stream if head.status.is_success() => self.answer_on_stream(conn, body, exchange).await,
            Content::Json => {
                let bytes = self.collect(&mut conn, &mut body, &head.headers).await?;
                self.pool.put(conn);
                self.answer_in_json(&bytes, head.status, exchange, in_session)
            }
            Content::Stream | Content::Other if head.status == StatusCode::NOT_FOUND && in_session => Ok(Answered::SessionLost),
            Content::Stream | Content::Other => {
                if matches!(head.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
                    self.suspect.notify_one();
                }
                Err(by_status(head.status))
            }
        }
    }

    fn answer_in_json(&self, bytes: &[u8], status: StatusCode, exchange: &Exchange<'_>, in_session: bool) -> Result<Answered, UpstreamError> {
        let reply = |outcome| Ok(Answered::Reply(Reply::from_outcome(outcome, status.as_u16())));
        match frame::read(bytes, self.shared.config.frame_bytes_max) {
            Ok(frame::Incoming::Response { id: Some(id), outcome }) if frame::is_ours(id, exchange.id) => reply(&outcome),
            Ok(frame::Incoming::Response { id: None, outcome: Outcome::Error { .. } }) if in_session && status == StatusCode::NOT_FOUND => {
                Ok(Answered::SessionLost)
            }
            Ok(frame::Incoming::Response { id: None, outcome: outcome @ Outcome::Error { .. } })
                if in_session && status == StatusCode::BAD_REQUEST =>
            {
                Ok(Answered::SessionDoubtful(Reply::from_outcome(&outcome, status.as_u16())))
            }
            Ok(frame::Incoming::Response { id: None, outcome }) => reply(&outcome),
            Ok(frame::Incoming::Response { .. }) => {
                self.shared.counters.foreign(self.shared.system());
                Err(UpstreamError::broken("it answers another request"))
            }
            _ if status == StatusCode::NOT_FOUND && in_session => Ok(Answered::SessionLost),
            _ if !status.is_success() => Err(by_status(status)),
            Ok(frame::Incoming::Request { .. } | frame::Incoming::Notification { .. }) => Err(UpstreamError::broken("it is no answer")),
            Err(frame::Malformed(why)) => {
                self.shared.counters.malformed(self.shared.system(), why);
                Err(UpstreamError::broken(why))
            }
        }
    }

    /// The whole body, within the limit on messages.
    pub(super) async fn collect(&self, conn: &mut Conn, body: &mut Incoming, headers: &HeaderMap) -> Result<Bytes, UpstreamError> {
        let max = self.shared.config.frame_bytes_max;
        let too_long = || UpstreamError::broken(format!("it is longer than {max} bytes"));
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: usize| length > max) {
            return Err(too_long());
        }
        let cut_off = |_| UpstreamError::died("the connection ended in the middle of an answer");
        let Some(first) = conn.next(body).await.transpose().map_err(cut_off)? else {
            return Ok(Bytes::new());
        };
        let mut whole = BytesMut::new();
        let Some(mut piece) = conn.next(body).await.transpose().map_err(cut_off)? else {
            return if first.len() > max { Err(too_long()) } else { Ok(first) };
        };
        whole.extend_from_slice(&first);
        loop {
            if whole.len().saturating_add(piece.len()) > max {
                return Err(too_long());
            }
            whole.extend_from_slice(&piece);
            match conn.next(body).await.transpose().map_err(cut_off)? {
                Some(next) => piece = next,
                None => return Ok(whole.freeze()),
            }
        }
    }
}

/// What a body is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Json,
    Stream,
    Other,
}

pub(super) fn content(headers: &HeaderMap) -> Content {
    let Some(text) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return Content::Other;
    };
    let kind = text.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        Content::Json
    } else if kind.eq_ignore_ascii_case("text/event-stream") {
        Content::Stream
    } else {
        Content::Other
    }
}

/// What a status without a JSON-RPC answer means.
pub(super) fn by_status(status: StatusCode) -> UpstreamError {
    let words = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            format!("it refuses the broker's credential (HTTP {})", status.as_u16())
        }
        _ => format!("it answers with HTTP {} and no message", status.as_u16()),
    };
    // These say that the request was not taken. Any other may come from a server that did what was asked, or from whoever stands
    // before it and passed the request on.
    const NOT_TAKEN: [u16; 7] = [401, 403, 404, 405, 413, 415, 429];
    if NOT_TAKEN.contains(&status.as_u16()) {
        UpstreamError::unavailable(words)
    } else if status.is_client_error() || status.is_server_error() {
        UpstreamError::Unavailable { words: words.into(), may_have_run: true }
    } else {
        UpstreamError::broken(words)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_content_type_is_read_without_its_parameters() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("Application/JSON; charset=utf-8"));
        assert_eq!(content(&headers), Content::Json);
    }

    #[test]
    fn only_a_request_that_was_not_taken_is_certain_not_to_have_run() {
        assert!(!by_status(StatusCode::UNAUTHORIZED).may_have_run());
        assert!(by_status(StatusCode::CONFLICT).may_have_run());
        assert!(by_status(StatusCode::BAD_GATEWAY).may_have_run());
        assert!(by_status(StatusCode::ACCEPTED).may_have_run());
    }
}
