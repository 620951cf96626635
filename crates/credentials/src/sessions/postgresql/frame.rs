//! Frames of `PostgreSQL`'s protocol 3 (PostgreSQL 15, chapter 55): writing those that we send, and reading those that a server may send us,
//! none of them larger than we allow.

use std::pin::Pin;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncBufRead as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::kinds::connection::Stream;

/// Everything but a row of data is at most this long.
const FRAME_MAX: usize = 1 << 20;
/// What is skipped of rows that do not fit, in one call.
const SKIP_MAX: usize = 64 << 20;
/// Notices and changes of settings that are passed over between two answers.
const ASIDE_MAX: usize = 1000;

/// Why the connection is of no use any more.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// What the server said.
#[derive(Debug)]
pub(super) enum Frame {
    /// A frame of this sort.
    Body(u8, Bytes),
    /// A row that was longer than allowed, and was not kept.
    RowTooLong,
}

/// A connection, frame by frame.
pub(super) struct Wire {
    stream: BufReader<Box<dyn Stream>>,
    skipped: usize,
    /// What the server says of the session, as far as it matters here.
    pub(super) status: Status,
}

/// Parameters that a server reports by itself (section 55.2.7).
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) standby: bool,
    pub(super) superuser: bool,
    pub(super) user: String,
    /// Set once it should not be trusted to read texts as we do.
    strange: Option<&'static str>,
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream: BufReader::new(stream), skipped: 0, status: Status::default() }
    }

    pub(super) async fn send(&mut self, frames: &BytesMut) -> Result<(), Broken> {
        self.stream.write_all(frames).await?;
        Ok(self.stream.flush().await?)
    }

    /// Is the connection open, and the server silent? Nothing is waited for. What it says by itself is not kept.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        Pin::new(&mut self.stream).poll_fill_buf(&mut context).is_pending()
    }

    /// The next frame that is an answer. A row longer than `row_max` is skipped.
    pub(super) async fn next(&mut self, row_max: usize) -> Result<Frame, Broken> {
        for _ in 0..ASIDE_MAX {
            let tag = self.stream.read_u8().await?;
            let length = self.stream.read_u32().await?;
            let length = usize::try_from(length).unwrap_or(usize::MAX).checked_sub(4).ok_or_else(|| Broken("a frame has no length".to_owned()))?;
            if tag == b'D' && length > row_max {
                self.skip(length).await?;
                return Ok(Frame::RowTooLong);
            }
            if tag != b'D' && length > FRAME_MAX {
                return Err(Broken("the server sent a frame that is too long".to_owned()));
            }
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await?;
            match tag {
                // NoticeResponse, NotificationResponse.
                b'N' | b'A' => {}
                b'S' => self.status.take(&body),
                _ => {
                    self.skipped = if tag == b'Z' { 0 } else { self.skipped };
                    return self.status.strange.map_or(Ok(Frame::Body(tag, Bytes::from(body))), |what| Err(Broken(what.to_owned())));
                }
            }
        }
        Err(Broken("the server sends notices and no answer".to_owned()))
    }

    async fn skip(&mut self, length: usize) -> Result<(), Broken> {
        self.skipped = self.skipped.saturating_add(length);
        if self.skipped > SKIP_MAX {
            return Err(Broken("the answer is far larger than the limit".to_owned()));
        }
        let mut rest = (&mut self.stream).take(u64::try_from(length).unwrap_or(u64::MAX));
        let copied = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        if copied == u64::try_from(length).unwrap_or(u64::MAX) { Ok(()) } else { Err(Broken("the connection ended".to_owned())) }
    }
}

impl Status {
    fn take(&mut self, body: &[u8]) {
        let mut fields = Fields(body);
        let (Some(name), Some(value)) = (fields.text(), fields.text()) else { return };
        match (name.as_str(), value.as_str()) {
            ("in_hot_standby", value) => self.standby = value == "on",
            ("is_superuser", value) => self.superuser = value == "on",
            ("session_authorization", value) => value.clone_into(&mut self.user),
            ("standard_conforming_strings", value) if value != "on" => self.strange = Some("the session does not have `standard_conforming_strings`"),
            ("client_encoding", value) if value != "UTF8" => self.strange = Some("the session is not in UTF-8"),
            _ => {}
        }
    }
}

/// The fields of a body, in order. `None`: it ends too early.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn short(&mut self) -> Option<i16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i16::from_be_bytes(*bytes))
    }

    pub(super) fn long(&mut self) -> Option<i32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i32::from_be_bytes(*bytes))
    }

    pub(super) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A text that ends with a zero.
    pub(super) fn text(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.bytes(end)?;
        self.byte()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// Frames to send.
#[derive(Default)]
pub(super) struct Frames(pub(super) BytesMut);

impl Frames {
    fn frame(mut self, tag: Option<u8>, body: &[u8]) -> Self {
        if let Some(tag) = tag {
            self.0.put_u8(tag);
        }
        self.0.put_u32(u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX));
        self.0.put_slice(body);
        self
    }

    /// Asks for TLS (section 55.2.10).
    pub(super) fn ssl_request(self) -> Self {
        self.frame(None, &80_877_103_u32.to_be_bytes())
    }

    pub(super) fn startup(self, settings: &[(&str, &str)]) -> Self {
        let mut body = 0x0003_0000_u32.to_be_bytes().to_vec();
        for (name, value) in settings {
            text(&mut body, name);
            text(&mut body, value);
        }
        body.push(0);
        self.frame(None, &body)
    }

    pub(super) fn cancel(self, process: i32, key: i32) -> Self {
        let mut body = 80_877_102_u32.to_be_bytes().to_vec();
        body.put_i32(process);
        body.put_i32(key);
        self.frame(None, &body)
    }

    pub(super) fn sasl_first(self, mechanism: &str, data: &[u8]) -> Self {
        let mut body = Vec::new();
        text(&mut body, mechanism);
        body.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
        body.put_slice(data);
        self.frame(Some(b'p'), &body)
    }

    pub(super) fn sasl(self, data: &[u8]) -> Self {
        self.frame(Some(b'p'), data)
    }

    /// A statement of our own, by the simple protocol. Never a text of somebody else.
    pub(super) fn ours(self, sql: &str) -> Self {
        let mut body = Vec::new();
        text(&mut body, sql);
        self.frame(Some(b'Q'), &body)
    }

    /// Parse and describe: one statement, which has no zero in it; the server refuses two.
    pub(super) fn prepare(self, sql: &str) -> Self {
        let mut body = vec![0];
        text(&mut body, sql);
        body.put_u16(0);
        self.frame(Some(b'P'), &body).frame(Some(b'D'), b"S\0").sync()
    }

    /// Bind, all as text.
    pub(super) fn bind(self, values: &[Option<String>]) -> Self {
        let mut body = vec![0, 0];
        body.put_u16(0);
        body.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
        for value in values {
            match value {
                None => body.put_i32(-1),
                Some(value) => {
                    body.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
                    body.put_slice(value.as_bytes());
                }
            }
        }
        body.put_u16(0);
        self.frame(Some(b'B'), &body)
    }

    /// The next rows of what was bound; all of them if `rows` is zero.
    pub(super) fn execute(self, rows: i32) -> Self {
        let mut body = vec![0];
        body.put_i32(rows);
        self.frame(Some(b'E'), &body).sync()
    }

    fn sync(self) -> Self {
        self.frame(Some(b'S'), &[])
    }

    pub(super) fn terminate(self) -> Self {
        self.frame(Some(b'X'), &[])
    }
}

fn text(body: &mut Vec<u8>, text: &str) {
    // A zero would end it early; callers refuse texts that have one.
    body.extend(text.bytes().filter(|byte| *byte != 0));
    body.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8], row_max: usize) -> Result<Frame, String> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        Wire::new(Box::new(ours)).next(row_max).await.map_err(|broken| broken.0)
    }

    #[tokio::test]
    async fn a_frame_has_a_length_that_we_allow() {
        assert!(matches!(read(b"Z\0\0\0\x05I", 10).await, Ok(Frame::Body(b'Z', body)) if &body[..] == b"I"));
        assert!(read(b"Z\0\0\0\x03", 10).await.is_err());
        assert!(read(b"C\x7f\xff\xff\xff", 10).await.unwrap_err().contains("too long"));
        assert!(read(b"Z\0\0\0\x05", 10).await.is_err());
        let row = [&b"D\0\0\0\x0f"[..], &[7; 11], b"Z\0\0\0\x05I"].concat();
        assert!(matches!(read(&row, 10).await, Ok(Frame::RowTooLong)));
        assert!(matches!(read(&row, 11).await, Ok(Frame::Body(b'D', _))));
        assert!(read(b"D\x7f\xff\xff\xff", 10).await.unwrap_err().contains("far larger"));
        assert!(read(&row[..9], 10).await.is_err());
    }

    #[tokio::test]
    async fn a_session_that_reads_texts_otherwise_is_not_used() {
        for (name, value, fine) in
            [("client_encoding", "UTF8", true), ("client_encoding", "LATIN1", false), ("standard_conforming_strings", "off", false)]
        {
            let body = format!("{name}\0{value}\0");
            let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
            let bytes = [&b"S"[..], &length, body.as_bytes(), b"Z\0\0\0\x05I"].concat();
            assert_eq!(read(&bytes, 10).await.is_ok(), fine, "{name} {value}");
        }
    }

    #[tokio::test]
    async fn a_server_that_said_something_by_itself_or_went_away_is_not_quiet() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 10);
        let mut wire = Wire::new(Box::new(ours));
        assert!(wire.is_quiet() && wire.is_quiet());
        theirs.write_all(b"N").await.unwrap();
        assert!(!wire.is_quiet());
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        let mut wire = Wire::new(Box::new(ours));
        drop(theirs);
        assert!(!wire.is_quiet());
    }

    #[tokio::test]
    async fn notices_do_not_go_on_for_ever() {
        assert!(read(&b"N\0\0\0\x05\0".repeat(2000), 10).await.unwrap_err().contains("no answer"));
    }

    #[test]
    fn frames_are_those_of_the_manual() {
        assert_eq!(&Frames::default().ssl_request().0[..], [0, 0, 0, 8, 4, 210, 22, 47]);
        assert_eq!(&Frames::default().ours("X").0[..], b"Q\0\0\0\x06X\0");
        assert_eq!(&Frames::default().bind(&[None, Some("a".into())]).0[..], b"B\0\0\0\x15\0\0\0\0\0\x02\xff\xff\xff\xff\0\0\0\x01a\0\0");
        assert_eq!(&Frames::default().execute(5).0[..], b"E\0\0\0\x09\0\0\0\0\x05S\0\0\0\x04");
    }
}
