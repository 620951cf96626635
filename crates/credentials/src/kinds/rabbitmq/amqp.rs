//! As much of AMQP 0-9-1 as a login needs: start, tune, open a virtual host, and what the server says when it closes.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use zeroize::Zeroizing;

use crate::Secret;
use crate::kinds::connection::{Failure, OPEN_MAX, Stream, open, timed};
use crate::lease::Node;

/// The server offers 128 KiB; nothing that comes before a channel is longer.
const FRAME_MAX: usize = 128 << 10;
const METHOD: u8 = 1;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xce;
/// Class and method.
const START: (u16, u16) = (10, 10);
const TUNE: (u16, u16) = (10, 30);
const OPEN_OK: (u16, u16) = (10, 41);
const CLOSE: (u16, u16) = (10, 50);

/// A connection whose login was accepted.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
}

impl Connection {
    /// Connects and logs in. A refusal is [`Failure::Said`], in the form `403 ACCESS_REFUSED - ..`.
    pub(super) async fn log_in(node: &Node, user: &str, secret: &Secret) -> Result<Self, Failure> {
        timed(OPEN_MAX, async {
            let mut connection = Self { stream: open(node).await? };
            connection.stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
            connection.expect(START).await?;
            connection.send(&start_ok(user, secret)).await?;
            connection.expect(TUNE).await?;
            Ok(connection)
        })
        .await
    }

    /// Opens a virtual host, so that the connection is one that the server counts.
    pub(super) async fn open(&mut self, vhost: &str) -> Result<(), Failure> {
        timed(OPEN_MAX, async {
            // Tune-ok with the server's own limits and no heartbeat, then open.
            let mut tune = vec![0, 10, 0, 31];
            tune.extend_from_slice(&2047_u16.to_be_bytes());
            tune.extend_from_slice(&131_072_u32.to_be_bytes());
            tune.extend_from_slice(&0_u16.to_be_bytes());
            self.send(&tune).await?;
            let mut open = vec![0, 10, 0, 40];
            short(&mut open, vhost.as_bytes());
            open.extend_from_slice(&[0, 0]);
            self.send(&open).await?;
            self.expect(OPEN_OK).await.map(drop)
        })
        .await
    }

    /// What the server said when it closed the connection; `None` if it does not within `limit`.
    pub(super) async fn closed(&mut self, limit: std::time::Duration) -> Option<String> {
        match tokio::time::timeout(limit, self.expect(CLOSE)).await {
            Ok(Ok(())) => Some("closed".to_owned()),
            Ok(Err(failure)) => Some(failure.words().to_owned()),
            Err(_) => None,
        }
    }

    /// Waits for a method. A close is told as a refusal.
    async fn expect(&mut self, method: (u16, u16)) -> Result<(), Failure> {
        loop {
            let (kind, body) = self.frame().await?;
            match kind {
                METHOD => {
                    let (class, rest) = number(&body)?;
                    let (id, rest) = number(rest)?;
                    return match (class, id) {
                        CLOSE => Err(Failure::Said(closing(rest)?)),
                        found if found == method => Ok(()),
                        _ => Err(Failure::Malformed("a method that nobody expects")),
                    };
                }
                HEARTBEAT => {}
                _ => return Err(Failure::Malformed("a frame of an unknown kind")),
            }
        }
    }

    async fn frame(&mut self) -> Result<(u8, Vec<u8>), Failure> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await?;
        let [kind, _, _, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_MAX || !matches!(kind, METHOD | HEARTBEAT) {
            return Err(Failure::Malformed("no frame of AMQP 0-9-1"));
        }
        let mut body = vec![0; length.saturating_add(1)];
        self.stream.read_exact(&mut body).await?;
        if body.pop() == Some(END) { Ok((kind, body)) } else { Err(Failure::Malformed("a frame does not end where it says")) }
    }

    async fn send(&mut self, method: &[u8]) -> Result<(), Failure> {
        let mut frame = Zeroizing::new(Vec::with_capacity(method.len().saturating_add(8)));
        frame.extend_from_slice(&[METHOD, 0, 0]);
        frame.extend_from_slice(&u32::try_from(method.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend_from_slice(method);
        frame.push(END);
        self.stream.write_all(&frame).await?;
        Ok(self.stream.flush().await?)
    }
}

/// Start-ok with `PLAIN`. We ask to be told of a refused login, instead of being hung up on.
fn start_ok(user: &str, secret: &Secret) -> Zeroizing<Vec<u8>> {
    let mut capabilities = Vec::new();
    short(&mut capabilities, b"authentication_failure_close");
    capabilities.extend_from_slice(b"t\x01");
    let mut properties = Vec::new();
    short(&mut properties, b"connection_name");
    properties.push(b'S');
    long(&mut properties, b"bailiwick");
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
fn closing(bytes: &[u8]) -> Result<String, Failure> {
    let (code, rest) = number(bytes)?;
    let (length, rest) = rest.split_first().ok_or(Failure::Malformed("a close without words"))?;
    let words = rest.get(..usize::from(*length)).ok_or(Failure::Malformed("a close without words"))?;
    Ok(format!("{code} {}", String::from_utf8_lossy(words)))
}

fn number(bytes: &[u8]) -> Result<(u16, &[u8]), Failure> {
    let (number, rest) = bytes.split_first_chunk().ok_or(Failure::Malformed("a method is cut off"))?;
    Ok((u16::from_be_bytes(*number), rest))
}

/// Text of at most 255 bytes: what is longer is cut, and so is no name that the server knows.
fn short(to: &mut Vec<u8>, text: &[u8]) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    to.push(length);
    to.extend(text.iter().take(usize::from(length)));
}

fn long(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn expect(bytes: &[u8]) -> Result<(), Failure> {
        let (mut there, here) = tokio::io::duplex(1 << 20);
        there.write_all(bytes).await.unwrap();
        drop(there);
        Connection { stream: Box::new(here) }.expect(TUNE).await
    }

    #[tokio::test]
    async fn a_tune_is_an_accepted_login_and_a_close_is_a_refused_one() {
        let heartbeat = b"\x08\0\0\0\0\0\0\xce";
        let tune = b"\x01\0\0\0\0\0\x0c\0\x0a\0\x1e\x07\xff\0\x02\0\0\0\x3c\xce";
        assert_eq!(expect(&[&heartbeat[..], tune].concat()).await, Ok(()));
        let close = b"\x01\0\0\0\0\0\x0e\0\x0a\0\x32\x01\x93\x02no\0\0\0\0\0\xce";
        assert_eq!(expect(close).await, Err(Failure::Said("403 no".into())));
        for bytes in [&b"AMQP\0\0\x09\x01"[..], b"\x01\0\0\xff\xff\xff\xff", b"\x01\0\0\0\0\0\x01\0\xce", b"\x01\0\0\0\0\0\x04\0\x0a\0\x1e\0"] {
            assert!(matches!(expect(bytes).await, Err(Failure::Malformed(_))), "{bytes:?}");
        }
        assert!(matches!(expect(b"\x01\0").await, Err(Failure::Lost(_))));
    }
}
