//! The transport of SSH (RFC 4253): packets over a stream, sealed with AES-GCM (RFC 5647) once keys are agreed on. Client's side only.
//!
//! One family of ciphers, no compression, no MAC beside the cipher's own. What comes is limited in length, and read only as whole packets.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// OpenSSH sends no longer packet.
const PACKET_MAX: usize = 256 * 1024;
const TAG: usize = 16;
const BLOCK: usize = 16;
/// Lines before the server's version, and their lengths (RFC 4253, section 4.2).
const LINES_MAX: usize = 50;
const LINE_MAX: usize = 255;
/// After so many packets a key would be near its end. No command of ours comes near; a connection that does is closed.
const PACKETS_MAX: u64 = 1 << 30;

pub(super) const DISCONNECT: u8 = 1;
const IGNORE: u8 = 2;
const UNIMPLEMENTED: u8 = 3;
const DEBUG: u8 = 4;
const EXT_INFO: u8 = 7;

/// Why the other side cannot be understood, or reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The way there failed.
    Lost(String),
    /// What came is not of this protocol, or of a form of it that we do not speak.
    Malformed(&'static str),
    /// The host refused, in these words.
    Refused(String),
}

impl Trouble {
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Lost(words) | Self::Refused(words) => words,
            Self::Malformed(words) => words,
        }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// A cipher that both sides may agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    Aes256Gcm,
    Aes128Gcm,
}

impl Cipher {
    pub(super) const NAMES: [(&'static str, Self); 2] = [("aes256-gcm@openssh.com", Self::Aes256Gcm), ("aes128-gcm@openssh.com", Self::Aes128Gcm)];

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes256Gcm => &AES_256_GCM,
            Self::Aes128Gcm => &AES_128_GCM,
        }
    }

    pub(super) fn key_length(self) -> usize {
        self.algorithm().key_len()
    }
}

/// One direction's key, and its counter.
pub(super) struct Direction {
    key: LessSafeKey,
    fixed: [u8; 4],
    counter: u64,
}

impl Direction {
    pub(super) fn new(cipher: Cipher, key: &[u8], iv: &[u8; 12]) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(cipher.algorithm(), key.get(..cipher.key_length())?).ok()?);
        let (fixed, counter) = (iv.first_chunk().copied()?, iv.last_chunk().copied()?);
        Some(Self { key, fixed, counter: u64::from_be_bytes(counter) })
    }

    //= rfc5647#section-7.1: the invocation counter is incremented after each packet
    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        let bytes = self.fixed.into_iter().chain(self.counter.to_be_bytes());
        nonce.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        self.counter = self.counter.wrapping_add(1);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// A stream of packets.
pub(super) struct Transport {
    stream: TcpStream,
    inbox: Vec<u8>,
    sealing: Option<Direction>,
    opening: Option<Direction>,
    packets: u64,
}

impl Transport {
    /// Sends our version and reads theirs; gives it without its line's end.
    pub(super) async fn open(stream: TcpStream, ours: &str) -> Result<(Self, Vec<u8>), Trouble> {
        let mut this = Self { stream, inbox: Vec::new(), sealing: None, opening: None, packets: 0 };
        this.stream.write_all(format!("{ours}\r\n").as_bytes()).await?;
        for _ in 0..LINES_MAX {
            let line = this.line().await?;
            if line.starts_with(b"SSH-2.0-") {
                return Ok((this, line));
            }
            if line.starts_with(b"SSH-") {
                return Err(Trouble::Malformed("the host speaks no SSH 2"));
            }
        }
        Err(Trouble::Malformed("the host does not say that it speaks SSH"))
    }

    async fn line(&mut self) -> Result<Vec<u8>, Trouble> {
        loop {
            if let Some(end) = self.inbox.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.inbox.drain(..=end).collect();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(line);
            }
            if self.inbox.len() > LINE_MAX {
                return Err(Trouble::Malformed("the host does not say that it speaks SSH"));
            }
            self.more().await?;
        }
    }

    /// Can be dropped at its await: what came stays.
    async fn more(&mut self) -> Result<(), Trouble> {
        self.inbox.reserve(16 * 1024);
        match self.stream.read_buf(&mut self.inbox).await? {
            0 => Err(Trouble::Lost("the host closed the connection".to_owned())),
            _ => Ok(()),
        }
    }

    /// What is sent from now on is sealed so.
    pub(super) fn seal_with(&mut self, direction: Direction) {
        self.sealing = Some(direction);
    }

    /// What comes from now on must be sealed so.
    pub(super) fn open_with(&mut self, direction: Direction) {
        self.opening = Some(direction);
    }

    /// Sends one packet.
    pub(super) async fn send(&mut self, payload: &[u8]) -> Result<(), Trouble> {
        self.count()?;
        let block = if self.sealing.is_some() { BLOCK } else { 8 };
        // Without the length where that is not sealed (RFC 5647, section 7.2), with it otherwise.
        let counted = if self.sealing.is_some() { 1 } else { 5 };
        let short = block - (payload.len() + counted) % block;
        let padding = if short < 4 { short + block } else { short };
        let length = u32::try_from(1 + payload.len() + padding).map_err(|_| Trouble::Malformed("a packet that is too long"))?;
        let mut packet = Vec::with_capacity(payload.len() + 64);
        packet.extend_from_slice(&length.to_be_bytes());
        packet.push(u8::try_from(padding).unwrap_or(0));
        packet.extend_from_slice(payload);
        let start = packet.len();
        packet.resize(start + padding, 0);
        rand::fill(packet.get_mut(start..).unwrap_or_default()).map_err(|_| Trouble::Malformed("no randomness is available"))?;
        if let Some(direction) = &mut self.sealing {
            let nonce = direction.nonce();
            let body = packet.get_mut(4..).unwrap_or_default();
            let tag = direction.key.seal_in_place_separate_tag(nonce, Aad::from(length.to_be_bytes()), body);
            packet.extend_from_slice(tag.map_err(|_| Trouble::Malformed("a packet could not be sealed"))?.as_ref());
        }
        self.stream.write_all(&packet).await?;
        Ok(())
    }

    /// The next packet that means something. Can be dropped at its await.
    pub(super) async fn receive(&mut self) -> Result<Vec<u8>, Trouble> {
        loop {
            let payload = self.packet().await?;
            match payload.first() {
                None => return Err(Trouble::Malformed("an empty packet")),
                // Before keys are agreed on, only what agrees on them: whoever sits between could put in the rest.
                Some(&(IGNORE | DEBUG | EXT_INFO | UNIMPLEMENTED)) if self.opening.is_some() => {}
                Some(&DISCONNECT) => return Err(Trouble::Lost(format!("the host hung up: {}", words_of_disconnect(&payload)))),
                Some(_) => return Ok(payload),
            }
        }
    }

    async fn packet(&mut self) -> Result<Vec<u8>, Trouble> {
        self.count()?;
        let sealed = self.opening.is_some();
        loop {
            if let Some(head) = self.inbox.first_chunk::<4>().copied() {
                let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
                let aligned = if sealed { length.is_multiple_of(BLOCK) } else { length % 8 == 4 };
                if !(5..=PACKET_MAX).contains(&length) || !aligned {
                    return Err(Trouble::Malformed("a packet of a length that no packet has"));
                }
                let whole = 4 + length + if sealed { TAG } else { 0 };
                if self.inbox.len() >= whole {
                    let mut packet: Vec<u8> = self.inbox.drain(..whole).skip(4).collect();
                    if let Some(direction) = &mut self.opening {
                        let nonce = direction.nonce();
                        let opened = direction.key.open_in_place(nonce, Aad::from(head), &mut packet);
                        opened.map_err(|_| Trouble::Malformed("a packet that was changed on its way"))?;
                    }
                    return payload(&packet, length).ok_or(Trouble::Malformed("a packet whose padding is longer than itself"));
                }
            }
            self.more().await?;
        }
    }

    fn count(&mut self) -> Result<(), Trouble> {
        self.packets = self.packets.saturating_add(1);
        if self.packets > PACKETS_MAX { Err(Trouble::Lost("the connection has carried as much as its keys are good for".to_owned())) } else { Ok(()) }
    }
}

/// Without padding.
fn payload(packet: &[u8], length: usize) -> Option<Vec<u8>> {
    let padding = usize::from(*packet.first()?);
    if padding < 4 {
        return None;
    }
    packet.get(1..length.checked_sub(padding)?).map(<[u8]>::to_vec)
}

fn words_of_disconnect(payload: &[u8]) -> String {
    let mut reader = super::wire::Reader(payload.get(5..).unwrap_or_default());
    String::from_utf8_lossy(reader.string().unwrap_or_default()).chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, two) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (one.unwrap(), two.unwrap().0)
    }

    async fn said(bytes: &[u8]) -> Result<Vec<u8>, Trouble> {
        let (ours, mut theirs) = pair().await;
        theirs.write_all(b"hello\r\nSSH-2.0-test\r\n").await.unwrap();
        theirs.write_all(bytes).await.unwrap();
        drop(theirs.shutdown().await);
        let (mut transport, version) = Transport::open(ours, "SSH-2.0-us").await.unwrap();
        assert_eq!(version, b"SSH-2.0-test");
        transport.receive().await
    }

    #[tokio::test]
    async fn a_packet_has_a_length_that_is_checked_before_anything_is_kept() {
        assert_eq!(said(b"\x00\x00\x00\x0c\x05\x14hello\0\0\0\0\0").await.unwrap(), b"\x14hello");
        for (bytes, words) in [
            (&b"\xff\xff\xff\xff"[..], "a packet of a length that no packet has"),
            (b"\x00\x00\x00\x0d\x05", "a packet of a length that no packet has"),
            (b"\x00\x00\x00\x0c\xff\x14hello\0\0\0\0\0", "a packet whose padding is longer than itself"),
            (b"\x00\x00\x00\x0c\x00\x14hello\0\0\0\0\0", "a packet whose padding is longer than itself"),
            (b"\x00\x00\x00\x0c\x05\x14hel", "the host closed the connection"),
        ] {
            assert_eq!(said(bytes).await.unwrap_err().words(), words);
        }
    }

    #[tokio::test]
    async fn what_nobody_asked_for_is_not_passed_over_before_keys_are_agreed_on() {
        assert_eq!(said(b"\x00\x00\x00\x0c\x05\x02hello\0\0\0\0\0").await.unwrap(), b"\x02hello");
    }

    #[tokio::test]
    async fn a_sealed_packet_is_opened_and_a_changed_one_is_not() {
        for change in [None, Some(4), Some(21), Some(0)] {
            let (ours, mut theirs) = pair().await;
            theirs.write_all(b"SSH-2.0-a\r\n").await.unwrap();
            let (mut sender, _) = Transport::open(ours, "SSH-2.0-b").await.unwrap();
            let direction = || Direction::new(Cipher::Aes256Gcm, &[7; 32], &[9; 12]).unwrap();
            sender.seal_with(direction());
            sender.send(b"\x5esecret").await.unwrap();
            let (_, version_line) = (0, theirs.read_exact(&mut [0; 11]).await.unwrap());
            assert_eq!(version_line, 11);
            let mut packet = vec![0; 4 + 16 + 16];
            theirs.read_exact(&mut packet).await.unwrap();
            if let Some(at) = change {
                packet[at] ^= 1;
            }
            let (near, mut far) = pair().await;
            far.write_all(b"SSH-2.0-a\r\n").await.unwrap();
            far.write_all(&packet).await.unwrap();
            drop(far.shutdown().await);
            let (mut receiver, _) = Transport::open(near, "SSH-2.0-b").await.unwrap();
            receiver.open_with(direction());
            let got = receiver.receive().await;
            assert_eq!(got.is_ok(), change.is_none(), "{change:?}: {got:?}");
        }
    }

    #[tokio::test]
    async fn a_host_that_never_says_what_it_is_is_left() {
        for bytes in [vec![b'x'; 300], b"SSH-1.5-old\r\n".to_vec(), b"line\r\n".repeat(60)] {
            let (ours, mut theirs) = pair().await;
            theirs.write_all(&bytes).await.unwrap();
            assert!(matches!(Transport::open(ours, "SSH-2.0-us").await, Err(Trouble::Malformed(_))));
        }
    }
}
