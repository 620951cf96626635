//! One connection, used for one exchange at a time. It is driven by the call that uses it: dropping it closes its socket at once.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::Origin;
use crate::kinds::connection::Stream;
use crate::sessions::SessionError;

/// The head of a response, in bytes, and the number of its headers.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;

/// A connection to an API.
pub(super) struct Link {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    wire: Option<Wire>,
    since: Instant,
}

/// What moves the bytes of a connection, for as long as someone polls it.
type Wire = Pin<Box<Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>>>;

impl Link {
    pub(super) async fn open(origin: &Origin) -> Result<Self, SessionError> {
        let stream = origin.dial().await?;
        let built = http1::Builder::new().max_header_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).handshake(TokioIo::new(stream)).await;
        let (sender, wire) = built.map_err(|_| SessionError::lost("the connection failed at once"))?;
        Ok(Self { sender, wire: Some(Box::pin(wire)), since: Instant::now() })
    }

    /// Since when it was not used.
    pub(super) const fn since(&self) -> Instant {
        self.since
    }

    /// It was used just now.
    pub(super) fn rested(mut self) -> Self {
        self.since = Instant::now();
        self
    }

    pub(super) fn is_open(&self) -> bool {
        self.wire.is_some() && !self.sender.is_closed()
    }

    /// Polls once: notices that the server has closed it, and makes it ready for the next request.
    pub(super) async fn is_usable(&mut self) -> bool {
        poll_fn(|cx| {
            poll_wire(&mut self.wire, cx);
            Poll::Ready(self.wire.is_some() && self.sender.is_ready())
        })
        .await
    }

    /// Sends a request and waits for the head of its answer. The error is the request if no byte of it was written.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Option<Request<Full<Bytes>>>> {
        let sent = self.sender.try_send_request(request);
        drive(&mut self.wire, sent).await.map_err(|mut failed| failed.take_message())
    }

    /// The next piece of the body; `None` at its end, an error if the connection broke off.
    pub(super) async fn next(&mut self, body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            if hyper::body::Body::is_end_stream(body) {
                return None;
            }
            match drive(&mut self.wire, body.frame()).await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn poll_wire(wire: &mut Option<Wire>, cx: &mut Context<'_>) {
    if let Some(open) = wire
        && open.as_mut().poll(cx).is_ready()
    {
        *wire = None;
    }
}

/// Awaits `work`, which needs the connection to make progress.
async fn drive<F: Future>(wire: &mut Option<Wire>, work: F) -> F::Output {
    let mut work = std::pin::pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        poll_wire(wire, cx);
        work.as_mut().poll(cx)
    })
    .await
}
