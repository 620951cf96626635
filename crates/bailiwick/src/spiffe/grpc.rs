//! gRPC over HTTP/2, as much as the Workload API needs: one message of the client, messages of the server, and a status in the trailers.
//!
//! hyper speaks HTTP/2; what gRPC adds is a prefix of five bytes and two headers, which is less than what a library for it would bring.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::sync::mpsc;

/// The longest message of a client.
const REQUEST_MAX: usize = 64 * 1024;
/// One byte that says whether it is compressed, four for the length.
const PREFIX: usize = 5;

/// A status code of gRPC that is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    InvalidArgument = 3,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// How a call ends. The words are for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(pub(super) Code, pub(super) &'static str);

pub(super) const OK: Status = Status(Code::Ok, "");

impl Status {
    fn write(self, headers: &mut HeaderMap) {
        let Self(code, words) = self;
        headers.insert("grpc-status", HeaderValue::from(code as u16));
        if !words.is_empty() {
            // All words are printable ASCII without percent signs, which gRPC takes as they are.
            headers.insert("grpc-message", HeaderValue::from_static(words));
        }
    }
}

/// The messages of an answer, as they are sent.
#[derive(Debug)]
pub(super) struct Frames(Option<mpsc::Receiver<Frame<Bytes>>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Some(frames) => frames.poll_recv(context).map(|frame| frame.map(Ok)),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// What sends the messages of an answer.
#[derive(Debug)]
pub(super) struct Answer(mpsc::Sender<Frame<Bytes>>);

impl Answer {
    /// Sends one message. False once the client is gone.
    pub(super) async fn send(&self, message: &[u8]) -> bool {
        self.0.send(Frame::data(framed(message))).await.is_ok()
    }

    /// Ends the answer.
    pub(super) async fn finish(self, status: Status) {
        let mut trailers = HeaderMap::new();
        status.write(&mut trailers);
        // A client that is gone is told nothing.
        drop(self.0.send(Frame::trailers(trailers)).await);
    }

    /// Waits until the client is gone.
    pub(super) async fn gone(&self) {
        self.0.closed().await;
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len().saturating_add(PREFIX));
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}

/// One message as a client sends it.
pub(super) fn request(message: &[u8]) -> Bytes {
    framed(message)
}

fn response(body: Frames) -> Response<Frames> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// An answer that is written while it is sent.
pub(super) fn answer() -> (Answer, Response<Frames>) {
    let (sender, receiver) = mpsc::channel(2);
    (Answer(sender), response(Frames(Some(receiver))))
}

/// An answer of nothing but a status.
pub(super) fn refused(status: Status) -> Response<Frames> {
    let mut response = response(Frames(None));
    status.write(response.headers_mut());
    response
}

/// The one message of a request.
pub(super) async fn message(body: Incoming) -> Result<Bytes, Status> {
    let whole = Limited::new(body, REQUEST_MAX).collect().await.map_err(|_| Status(Code::ResourceExhausted, "the message is too long"))?;
    let mut bytes = whole.to_bytes();
    if bytes.len() < PREFIX {
        return Err(Status(Code::InvalidArgument, "a message is missing"));
    }
    let compressed = bytes.get_u8();
    let length = bytes.get_u32();
    match compressed {
        0 if u32::try_from(bytes.len()) == Ok(length) => Ok(bytes),
        0 => Err(Status(Code::InvalidArgument, "expected exactly one message")),
        _ => Err(Status(Code::Unimplemented, "compression is not supported")),
    }
}

/// Takes the next whole message from the front of what a server sent so far. `Err` if it is compressed or longer than `most`.
pub(super) fn take(received: &mut BytesMut, most: usize) -> Result<Option<Bytes>, &'static str> {
    let Some((prefix, _)) = received.split_at_checked(PREFIX) else { return Ok(None) };
    let mut prefix = prefix;
    let compressed = prefix.get_u8();
    let length = usize::try_from(prefix.get_u32()).unwrap_or(usize::MAX);
    if compressed != 0 {
        return Err("a compressed message");
    }
    if length > most {
        return Err("a message that is too long");
    }
    if received.len() < PREFIX.saturating_add(length) {
        return Ok(None);
    }
    received.advance(PREFIX);
    Ok(Some(received.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_taken_one_by_one_when_they_are_whole() {
        let mut received = BytesMut::new();
        received.extend_from_slice(&framed(b"one"));
        received.extend_from_slice(&framed(b""));
        received.extend_from_slice(&framed(b"three")[..7]);
        assert_eq!(take(&mut received, 10).unwrap().unwrap(), "one");
        assert_eq!(take(&mut received, 10).unwrap().unwrap(), "");
        assert_eq!(take(&mut received, 10), Ok(None));
        received.extend_from_slice(b"ree");
        assert_eq!(take(&mut received, 10).unwrap().unwrap(), "three");
        assert!(received.is_empty());
    }

    #[test]
    fn a_message_that_is_compressed_or_too_long_is_refused() {
        let mut compressed = BytesMut::from(&[1, 0, 0, 0, 1, 7][..]);
        assert!(take(&mut compressed, 10).is_err());
        let mut long = BytesMut::from(&[0, 0xff, 0xff, 0xff, 0xff][..]);
        assert!(take(&mut long, 10).is_err());
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_same_messages_are_taken(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8), step in 1_usize..60, noise in prop::collection::vec(any::<u8>(), 0..60)) {
            let sent = messages.iter().flat_map(|message| framed(message).to_vec()).collect::<Vec<_>>();
            let (mut received, mut taken) = (BytesMut::new(), Vec::new());
            for piece in sent.chunks(step) {
                received.extend_from_slice(piece);
                while let Some(message) = take(&mut received, 40).unwrap() {
                    taken.push(message.to_vec());
                }
            }
            prop_assert_eq!(taken, messages);
            let mut received = BytesMut::from(noise.as_slice());
            while let Ok(Some(message)) = take(&mut received, 40) {
                prop_assert!(message.len() <= 40);
            }
        }
    }

    #[tokio::test]
    async fn an_answer_is_messages_and_then_a_status() {
        let (answer, response) = answer();
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert!(answer.send(b"x").await);
        tokio::spawn(answer.finish(Status(Code::PermissionDenied, "no")));
        let whole = response.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["grpc-status"], "7");
        assert_eq!(&whole.to_bytes()[..], [0, 0, 0, 0, 1, b'x']);
        assert_eq!(refused(OK).headers()["grpc-status"], "0");
    }
}
