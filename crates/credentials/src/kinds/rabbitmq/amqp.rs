//! As much of AMQP 0-9-1 as we need: a login, a virtual host, one channel at a time, and what the server says when it closes. Every length has a limit.

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use zeroize::Zeroizing;

use crate::Secret;
use crate::kinds::connection::{Failure, OPEN_MAX, Stream, open, timed};
use crate::lease::Node;

/// The longest frame that we read and write, with what is around its body; servers offer 128 KiB.
const FRAME_MAX: usize = 128 << 10;
/// What is around a frame's body.
const AROUND: usize = 8;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xce;

/// Class and method.
type Id = (u16, u16);
const START: Id = (10, 10);
const TUNE: Id = (10, 30);
const OPEN_OK: Id = (10, 41);
const CLOSE: Id = (10, 50);
const CLOSE_OK: Id = (10, 51);
const CHANNEL_OPEN: Id = (20, 10);
const CHANNEL_CLOSE: Id = (20, 40);
const CHANNEL_CLOSE_OK: Id = (20, 41);
/// The only channel that we ever open.
const CHANNEL: u16 = 1;

/// A connection whose login was accepted.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// What the server offered: how many channels, and how long a frame.
    channels: u16,
    frame_max: usize,
}

/// What came on the channel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A method and its arguments.
    Method(Id, Vec<u8>),
    /// The head of a message: how long it is, and its properties.
    Header(u64, Vec<u8>),
    /// A part of a message.
    Body(Vec<u8>),
    /// The server closed the channel, in these words: `404 NOT_FOUND - ..`. The connection goes on.
    Closed(String),
}

impl Connection {
    /// Connects and logs in. A refusal is [`Failure::Said`], in the form `403 ACCESS_REFUSED - ..`.
    pub(super) async fn log_in(node: &Node, user: &str, secret: &Secret) -> Result<Self, Failure> {
        Self::log_in_named(node, user, secret, "bailiwick").await
    }

    /// As [`Connection::log_in`], under a name that the server shows beside the connection.
    pub(crate) async fn log_in_named(node: &Node, user: &str, secret: &Secret, name: &str) -> Result<Self, Failure> {
        timed(OPEN_MAX, async {
            let mut connection = Self::over(open(node).await?);
            connection.stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
            connection.expect(START).await?;
            connection.send(0, METHOD, &start_ok(user, secret, name)).await?;
            let tune = connection.expect(TUNE).await?;
            let (channels, rest) = number(&tune)?;
            let (frame_max, _) = rest.split_first_chunk().ok_or(Failure::Malformed(CUT_OFF))?;
            let frame_max = usize::try_from(u32::from_be_bytes(*frame_max)).unwrap_or(0);
            // To the server, nothing means no limit.
            connection.channels = if channels == 0 { 2047 } else { channels.min(2047) };
            connection.frame_max = if frame_max == 0 { FRAME_MAX } else { frame_max.clamp(4096, FRAME_MAX) };
            Ok(connection)
        })
        .await
    }

    fn over(stream: Box<dyn Stream>) -> Self {
        Self { stream, buffer: Vec::new(), channels: 0, frame_max: FRAME_MAX }
    }

    /// Opens a virtual host, so that the connection is one that the server counts.
    pub(crate) async fn open(&mut self, vhost: &str) -> Result<(), Failure> {
        timed(OPEN_MAX, async {
            // Tune-ok with the server's own limits and no heartbeat, then open.
            let mut tune = method((10, 31));
            tune.extend_from_slice(&self.channels.to_be_bytes());
            tune.extend_from_slice(&u32::try_from(self.frame_max).unwrap_or(4096).to_be_bytes());
            tune.extend_from_slice(&0_u16.to_be_bytes());
            self.send(0, METHOD, &tune).await?;
            let mut open = method((10, 40));
            short(&mut open, vhost.as_bytes());
            open.extend_from_slice(&[0, 0]);
            self.send(0, METHOD, &open).await?;
            self.expect(OPEN_OK).await.map(drop)
        })
        .await
    }

    /// What the server said when it closed the connection; `None` if it does not within `limit`.
    pub(super) async fn closed(&mut self, limit: std::time::Duration) -> Option<String> {
        match tokio::time::timeout(limit, self.expect(CLOSE)).await {
            Ok(Ok(_)) => Some("closed".to_owned()),
            Ok(Err(failure)) => Some(failure.words().to_owned()),
            Err(_) => None,
        }
    }

    /// Opens the channel and sends these methods on it, the last with a message if one is given, in one piece.
    pub(crate) async fn begin(&mut self, methods: &[Vec<u8>], message: Option<(&[u8], &[u8])>) -> Result<(), Failure> {
        let mut open = method(CHANNEL_OPEN);
        open.push(0);
        let mut bytes = Vec::new();
        for body in std::iter::once(&open).chain(methods) {
            frame(&mut bytes, CHANNEL, METHOD, body);
        }
        if let Some((properties, body)) = message {
            let mut head = vec![0, 60, 0, 0];
            head.extend_from_slice(&u64::try_from(body.len()).unwrap_or(u64::MAX).to_be_bytes());
            head.extend_from_slice(properties);
            frame(&mut bytes, CHANNEL, HEADER, &head);
            for part in body.chunks(self.frame_max.saturating_sub(AROUND).max(1)) {
                frame(&mut bytes, CHANNEL, BODY, part);
            }
        }
        self.write(&bytes).await
    }

    /// One more method on the channel.
    pub(crate) async fn go_on(&mut self, method: &[u8]) -> Result<(), Failure> {
        self.send(CHANNEL, METHOD, method).await
    }

    /// What comes next on the channel. A close of the connection is a refusal.
    pub(crate) async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            let (kind, channel, body) = self.frame().await?;
            match (kind, channel) {
                (METHOD, 0) => match method_of(&body)? {
                    (CLOSE, arguments) => return Err(Failure::Said(closing(arguments)?)),
                    _ => return Err(Failure::Malformed("a method that nobody expects")),
                },
                (METHOD, CHANNEL) => match method_of(&body)? {
                    (CHANNEL_CLOSE, arguments) => {
                        let words = closing(arguments)?;
                        self.send(CHANNEL, METHOD, &method(CHANNEL_CLOSE_OK)).await?;
                        return Ok(Event::Closed(words));
                    }
                    (id, arguments) => return Ok(Event::Method(id, arguments.to_vec())),
                },
                (HEADER, CHANNEL) => {
                    let rest = body.get(4..).unwrap_or_default();
                    let (length, properties) = rest.split_first_chunk().ok_or(Failure::Malformed(CUT_OFF))?;
                    return Ok(Event::Header(u64::from_be_bytes(*length), properties.to_vec()));
                }
                (BODY, CHANNEL) => return Ok(Event::Body(body)),
                (HEARTBEAT, _) => {}
                _ => return Err(Failure::Malformed("a frame of an unknown kind")),
            }
        }
    }

    /// Closes the channel. When the server has answered, everything that was sent on it is done.
    pub(crate) async fn finish(&mut self) -> Result<(), Failure> {
        let mut close = method(CHANNEL_CLOSE);
        close.extend_from_slice(&200_u16.to_be_bytes());
        close.extend_from_slice(&[0; 5]);
        self.send(CHANNEL, METHOD, &close).await?;
        loop {
            match self.next().await? {
                Event::Method(CHANNEL_CLOSE_OK, _) | Event::Closed(_) => return Ok(()),
                Event::Method(..) | Event::Header(..) | Event::Body(_) => {}
            }
        }
    }

    /// Says that we go.
    pub(crate) async fn close(&mut self) -> Result<(), Failure> {
        let mut close = method(CLOSE);
        close.extend_from_slice(&200_u16.to_be_bytes());
        close.extend_from_slice(&[0; 5]);
        self.send(0, METHOD, &close).await?;
        self.expect(CLOSE_OK).await.map(drop)
    }

    /// Has the server closed the connection, or hung up, while nothing was asked of it? Reads what has come, and waits for nothing.
    pub(crate) fn look(&mut self) -> Result<(), Failure> {
        // What the server said before it hung up is told.
        let mut open = Ok(());
        while open.is_ok()
            && let Some(filled) = self.fill().now_or_never()
        {
            open = filled;
            if self.buffer.len() > FRAME_MAX {
                return Err(Failure::Malformed("more than nobody asked for"));
            }
        }
        while let Some((kind, _, body)) = self.whole_frame()? {
            match (kind, method_of(&body)) {
                (METHOD, Ok((CLOSE, arguments))) => return Err(Failure::Said(closing(arguments)?)),
                (HEARTBEAT, _) => {}
                _ => return Err(Failure::Malformed("a method that nobody expects")),
            }
        }
        open
    }

    /// Waits for a method of the connection; gives its arguments. A close is told as a refusal.
    async fn expect(&mut self, id: Id) -> Result<Vec<u8>, Failure> {
        loop {
            let (kind, _, body) = self.frame().await?;
            match kind {
                METHOD => {
                    return match method_of(&body)? {
                        (CLOSE, arguments) => Err(Failure::Said(closing(arguments)?)),
                        (found, arguments) if found == id => Ok(arguments.to_vec()),
                        _ => Err(Failure::Malformed("a method that nobody expects")),
                    };
                }
                HEARTBEAT => {}
                _ => return Err(Failure::Malformed("a frame of an unknown kind")),
            }
        }
    }

    async fn frame(&mut self) -> Result<(u8, u16, Vec<u8>), Failure> {
        loop {
            if let Some(frame) = self.whole_frame()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// The first frame of what has come: its kind, its channel and its body; `None` if it is not whole yet.
    fn whole_frame(&mut self) -> Result<Option<(u8, u16, Vec<u8>)>, Failure> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<7>() else { return Ok(None) };
        let [kind, first, second, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_MAX || !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) {
            return Err(Failure::Malformed("no frame of AMQP 0-9-1"));
        }
        let Some((body, after)) = rest.split_at_checked(length) else { return Ok(None) };
        let body = match after.first() {
            None => return Ok(None),
            Some(&END) => body.to_vec(),
            Some(_) => return Err(Failure::Malformed("a frame does not end where it says")),
        };
        self.buffer.drain(..length.saturating_add(AROUND));
        Ok(Some((kind, u16::from_be_bytes([first, second]), body)))
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        self.buffer.reserve(16 << 10);
        if self.stream.read_buf(&mut self.buffer).await? == 0 { Err(Failure::Lost("the node hung up".to_owned())) } else { Ok(()) }
    }

    async fn send(&mut self, channel: u16, kind: u8, body: &[u8]) -> Result<(), Failure> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(body.len().saturating_add(AROUND)));
        frame(&mut bytes, channel, kind, body);
        self.write(&bytes).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }
}

const CUT_OFF: &str = "a method is cut off";

/// The beginning of a method; its arguments come after it.
pub(crate) fn method((class, id): Id) -> Vec<u8> {
    [class.to_be_bytes(), id.to_be_bytes()].concat()
}

fn method_of(body: &[u8]) -> Result<(Id, &[u8]), Failure> {
    let (class, rest) = number(body)?;
    let (id, arguments) = number(rest)?;
    Ok(((class, id), arguments))
}

fn frame(to: &mut Vec<u8>, channel: u16, kind: u8, body: &[u8]) {
    to.push(kind);
    to.extend_from_slice(&channel.to_be_bytes());
    long(to, body);
    to.push(END);
}

/// Start-ok with `PLAIN`. We ask to be told of a refused login, instead of being hung up on.
fn start_ok(user: &str, secret: &Secret, name: &str) -> Zeroizing<Vec<u8>> {
    let mut capabilities = Vec::new();
    for capability in ["authentication_failure_close", "publisher_confirms", "basic.nack"] {
        short(&mut capabilities, capability.as_bytes());
        capabilities.extend_from_slice(b"t\x01");
    }
    let mut properties = Vec::new();
    short(&mut properties, b"connection_name");
    properties.push(b'S');
    long(&mut properties, name.as_bytes());
    short(&mut properties, b"capabilities");
    properties.push(b'F');
    long(&mut properties, &capabilities);
    let mut response = Zeroizing::new(Vec::with_capacity(user.len().saturating_add(secret.expose().len()).saturating_add(2)));
    response.push(0);
    response.extend_from_slice(user.as_bytes());
    response.push(0);
    response.extend_from_slice(secret.expose());
    let mut method = Zeroizing::new(Vec::with_capacity(properties.len().saturating_add(response.len()).saturating_add(64)));
    method.extend_from_slice(&[0, 10, 0, 11]);
    long(&mut method, &properties);
    short(&mut method, b"PLAIN");
    long(&mut method, &response);
    short(&mut method, b"en_US");
    method
}

/// Code and words of a close.
pub(crate) fn closing(bytes: &[u8]) -> Result<String, Failure> {
    let (code, rest) = number(bytes)?;
    let (words, _) = short_in(rest)?;
    Ok(format!("{code} {words}"))
}

/// Two bytes, and what comes after them.
pub(crate) fn number(bytes: &[u8]) -> Result<(u16, &[u8]), Failure> {
    let (number, rest) = bytes.split_first_chunk().ok_or(Failure::Malformed(CUT_OFF))?;
    Ok((u16::from_be_bytes(*number), rest))
}

/// A short text, and what comes after it.
pub(crate) fn short_in(bytes: &[u8]) -> Result<(String, &[u8]), Failure> {
    let (length, rest) = bytes.split_first().ok_or(Failure::Malformed(CUT_OFF))?;
    let (text, rest) = rest.split_at_checked(usize::from(*length)).ok_or(Failure::Malformed(CUT_OFF))?;
    Ok((String::from_utf8_lossy(text).into_owned(), rest))
}

/// Text of at most 255 bytes: what is longer is cut, and so is no name that the server knows.
pub(crate) fn short(to: &mut Vec<u8>, text: &[u8]) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    to.push(length);
    to.extend(text.iter().take(usize::from(length)));
}

pub(crate) fn long(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn hearing(bytes: &[u8]) -> Connection {
        let (mut there, here) = tokio::io::duplex(1 << 20);
        there.write_all(bytes).await.unwrap();
        // Whoever writes may; nobody answers.
        tokio::spawn(async move { drop(there.read_to_end(&mut Vec::new()).await) });
        Connection::over(Box::new(here))
    }

    async fn expect(bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        let (mut there, here) = tokio::io::duplex(1 << 20);
        there.write_all(bytes).await.unwrap();
        drop(there);
        Connection::over(Box::new(here)).expect(TUNE).await
    }

    #[tokio::test]
    async fn a_tune_is_an_accepted_login_and_a_close_is_a_refused_one() {
        let heartbeat = b"\x08\0\0\0\0\0\0\xce";
        let tune = b"\x01\0\0\0\0\0\x0c\0\x0a\0\x1e\x07\xff\0\x02\0\0\0\x3c\xce";
        assert_eq!(expect(&[&heartbeat[..], tune].concat()).await, Ok(b"\x07\xff\0\x02\0\0\0\x3c".to_vec()));
        let close = b"\x01\0\0\0\0\0\x0e\0\x0a\0\x32\x01\x93\x02no\0\0\0\0\0\xce";
        assert_eq!(expect(close).await, Err(Failure::Said("403 no".into())));
        for bytes in [&b"AMQP\0\0\x09\x01"[..], b"\x01\0\0\xff\xff\xff\xff", b"\x01\0\0\0\0\0\x01\0\xce", b"\x01\0\0\0\0\0\x04\0\x0a\0\x1e\0"] {
            assert!(matches!(expect(bytes).await, Err(Failure::Malformed(_))), "{bytes:?}");
        }
        assert!(matches!(expect(b"\x01\0").await, Err(Failure::Lost(_))));
    }

    #[tokio::test]
    async fn a_closed_channel_is_told_apart_from_a_closed_connection() {
        let closed = b"\x01\0\x01\0\0\0\x0e\0\x14\0\x28\x01\x94\x02no\0\0\0\0\0\xce";
        assert_eq!(hearing(closed).await.next().await, Ok(Event::Closed("404 no".into())));
        let close = b"\x01\0\0\0\0\0\x0e\0\x0a\0\x32\x01\x40\x02no\0\0\0\0\0\xce";
        assert_eq!(hearing(close).await.next().await, Err(Failure::Said("320 no".into())));
        let mut idle = hearing(close).await;
        assert_eq!(idle.look(), Err(Failure::Said("320 no".into())));
        assert_eq!(hearing(b"\x08\0\0\0\0\0\0\xce").await.look(), Ok(()));
        let head = b"\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\x05\0\0\xce\x03\0\x01\0\0\0\x05hello\xce";
        let mut message = hearing(head).await;
        assert_eq!(message.next().await, Ok(Event::Header(5, vec![0, 0])));
        assert_eq!(message.next().await, Ok(Event::Body(b"hello".to_vec())));
        for bytes in [&b"\x01\0\x02\0\0\0\x04\0\x14\0\x0b\xce"[..], b"\x02\0\x01\0\0\0\x02\0\x3c\xce", b"\x01\0\x01\0\0\0\x05\0\x14\0\x28\x01\xce"] {
            assert!(matches!(hearing(bytes).await.next().await, Err(Failure::Malformed(_))), "{bytes:?}");
        }
    }
}
