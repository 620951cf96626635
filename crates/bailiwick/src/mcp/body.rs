//! The body of an answer: all at once, or an event stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// What goes back to a client.
#[derive(Debug)]
pub enum OutBody {
    /// All of it.
    Full(Option<Bytes>),
    /// Pieces as they come. When the client goes away, the sender sees that the channel is closed.
    Stream(mpsc::Receiver<Bytes>),
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| u64::try_from(b.len()).unwrap_or(u64::MAX))),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl From<Vec<u8>> for OutBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Full(if bytes.is_empty() { None } else { Some(Bytes::from(bytes)) })
    }
}
