//! Newline-delimited messages (MCP stdio transport): read with a limit, written by one writer.

use bailiwick_wire::json::Limits;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Longest line, without its end.
const LINE_BYTES_MAX: usize = Limits::REQUEST.bytes;
const READ_BYTES: usize = 64 << 10;
const QUEUE: usize = 256;

/// One line of the host.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// All of it, without its end. Never empty.
    Whole(Bytes),
    /// It was longer than we take; it has been passed over.
    TooLong,
}

/// Reads lines. [`Reader::next`] may be dropped and called again without losing anything.
pub(super) struct Reader<R> {
    from: R,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    searched: usize,
    skipping: bool,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: BytesMut::new(), searched: 0, skipping: false, ended: false }
    }

    /// The next line that is not blank; `None` at the end.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            self.buffer.reserve(READ_BYTES);
            // Cancel safe: nothing is read if it is dropped.
            self.ended = self.from.read_buf(&mut self.buffer).await? == 0;
        }
    }

    fn take(&mut self) -> Option<Line> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            let line = match rest.iter().position(|b| *b == b'\n') {
                Some(at) => {
                    let mut line = self.buffer.split_to(self.searched.saturating_add(at).saturating_add(1));
                    line.truncate(line.len().saturating_sub(1));
                    line
                }
                None if self.ended && !self.buffer.is_empty() => self.buffer.split(),
                None => {
                    self.searched = self.buffer.len();
                    if self.searched > LINE_BYTES_MAX {
                        self.skipping = true;
                        self.buffer.clear();
                        self.searched = 0;
                    }
                    return None;
                }
            };
            self.searched = 0;
            if std::mem::take(&mut self.skipping) || line.len() > LINE_BYTES_MAX {
                return Some(Line::TooLong);
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(Line::Whole(line.freeze()));
            }
        }
    }
}

/// The writer's other end: resolves when the host does not read any more, and lets the last lines out.
pub(super) struct Written(Option<JoinHandle<()>>);

impl Written {
    /// Waits until nothing can be written any more.
    pub(super) async fn closed(&mut self) {
        if let Some(task) = &mut self.0 {
            let _ = task.await.is_ok();
            self.0 = None;
        }
    }
}

/// Starts the one writer. Each item is one line without its end.
pub(super) fn writer(mut to: impl AsyncWrite + Unpin + Send + 'static) -> (mpsc::Sender<Bytes>, Written) {
    let (lines, mut queue) = mpsc::channel::<Bytes>(QUEUE);
    let task = tokio::spawn(async move {
        while let Some(line) = queue.recv().await {
            let write = async {
                to.write_all(&line).await?;
                to.write_all(b"\n").await?;
                if queue.is_empty() { to.flush().await } else { Ok(()) }
            };
            if write.await.is_err() {
                return;
            }
        }
    });
    (lines, Written(Some(task)))
}

/// A JSON text as one line. Line ends can stand only between its tokens, where a space means the same.
pub(super) fn one_line(json: &[u8]) -> Bytes {
    let mut line = json.to_vec();
    for byte in &mut line {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line.truncate(line.trim_ascii_end().len());
    Bytes::from(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn all(from: impl AsyncRead + Unpin) -> Vec<Line> {
        let mut reader = Reader::new(from);
        let mut lines = Vec::new();
        while let Some(line) = reader.next().await.unwrap() {
            lines.push(line);
        }
        lines
    }

    fn whole(text: &str) -> Line {
        Line::Whole(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[tokio::test]
    async fn lines_are_cut_at_newlines_and_blank_ones_are_passed_over() {
        assert_eq!(all(&b"{\"a\":1}\r\n\n  \n{}\nlast"[..]).await, [whole("{\"a\":1}\r"), whole("{}"), whole("last")]);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_named_once_and_the_next_one_is_read() {
        let mut input = vec![b'x'; LINE_BYTES_MAX * 2 + 17];
        input.extend_from_slice(b"\n{}\n");
        assert_eq!(all(&*input).await, [Line::TooLong, whole("{}")]);
    }

    #[tokio::test]
    async fn a_line_of_exactly_the_limit_is_taken() {
        let mut input = vec![b'x'; LINE_BYTES_MAX];
        input.extend_from_slice(b"\nyy\n");
        let lines = all(&*input).await;
        assert!(matches!(lines.as_slice(), [Line::Whole(line), Line::Whole(_)] if line.len() == LINE_BYTES_MAX));
    }

    #[tokio::test]
    async fn what_was_read_survives_a_dropped_wait() {
        let (mut to, from) = tokio::io::duplex(64);
        let mut reader = Reader::new(from);
        to.write_all(b"{\"half\":").await.unwrap();
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), reader.next()).await.is_err());
        to.write_all(b"1}\n").await.unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(whole("{\"half\":1}")));
    }

    #[tokio::test]
    async fn a_host_that_stops_reading_is_noticed() {
        let (to, from) = tokio::io::duplex(8);
        let (lines, mut written) = writer(to);
        drop(from);
        lines.send(Bytes::from_static(b"more than eight bytes")).await.unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(5), written.closed()).await.unwrap();
    }

    proptest! {
        #[test]
        fn a_message_becomes_one_line_of_the_same_meaning(value in "[a-z\\n\\r\"\\\\]{0,40}", n in 0..9u8) {
            let pretty = serde_json::to_string_pretty(&serde_json::json!({ "v": value, "n": [n, n] })).unwrap();
            let line = one_line(pretty.as_bytes());
            prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
            let (a, b): (serde_json::Value, serde_json::Value) = (serde_json::from_slice(&line).unwrap(), serde_json::from_str(&pretty).unwrap());
            prop_assert_eq!(a, b);
        }
    }
}
