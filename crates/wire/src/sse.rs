//! Server-sent events: an incremental reader with a bounded buffer, and a writer.

use std::collections::VecDeque;

/// One event. MCP puts one JSON-RPC message into `data`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The type; `None` means `message`.
    pub event: Option<String>,
    pub data: String,
    /// The last id seen on the stream, for resumption of legacy streams.
    pub id: Option<String>,
}

/// Why a stream is not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SseError {
    #[error("event is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("event stream is not UTF-8")]
    NotUtf8,
}

/// Reads events from bytes as they come, however they are cut.
#[derive(Debug)]
pub struct Reader {
    limit: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// Data lines of the event that has not ended yet.
    data: Option<String>,
    event: Option<String>,
    id: Option<String>,
    retry_ms: Option<u64>,
    ready: VecDeque<Event>,
    after_return: bool,
    begun: bool,
    broken: Option<SseError>,
}

impl Reader {
    /// A reader that holds at most about `limit` bytes of one event.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: None,
            event: None,
            id: None,
            retry_ms: None,
            ready: VecDeque::new(),
            after_return: false,
            begun: false,
            broken: None,
        }
    }

    /// Takes the next bytes. Complete events wait in [`Reader::next_event`]; take them before the next push.
    ///
    /// # Errors
    /// [`SseError`]; the stream stays broken.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let outcome = self.take(bytes);
        self.broken = outcome.err();
        outcome
    }

    /// The next complete event, oldest first.
    pub fn next_event(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// The last reconnection time that the stream asked for, milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        let mut rest = bytes;
        if self.after_return && !rest.is_empty() {
            self.after_return = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (head, tail) = rest.split_at(end);
            self.append(head)?;
            self.end_line()?;
            rest = if let Some(after) = tail.strip_prefix(b"\r") {
                self.after_return = after.is_empty();
                after.strip_prefix(b"\n").unwrap_or(after)
            } else {
                tail.strip_prefix(b"\n").unwrap_or(tail)
            };
        }
        self.append(rest)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        let held = self.line.len() + self.data.as_ref().map_or(0, String::len);
        if held + bytes.len() > self.limit {
            return Err(SseError::TooLong { limit: self.limit });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), SseError> {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8(line).map_err(|_| SseError::NotUtf8)?;
        let mut text = text.as_str();
        if !self.begun {
            self.begun = true;
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        if text.is_empty() {
            self.dispatch();
            return Ok(());
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "event" => self.event = (!value.is_empty()).then(|| value.to_owned()),
            "id" if !value.contains('\0') => self.id = (!value.is_empty()).then(|| value.to_owned()),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry_ms = value.parse().ok().or(self.retry_ms);
            }
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self) {
        let event = self.event.take();
        if let Some(data) = self.data.take() {
            self.ready.push_back(Event { event, data, id: self.id.clone() });
        }
    }
}

/// Appends one event. Line ends in `event` and `id` are dropped: they would begin another field.
pub fn write_event(out: &mut Vec<u8>, event: Option<&str>, id: Option<&str>, data: &str) {
    for (field, value) in [("event: ", event), ("id: ", id)] {
        if let Some(value) = value {
            out.extend_from_slice(field.as_bytes());
            out.extend(value.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)));
            out.push(b'\n');
        }
    }
    let mut rest = data;
    loop {
        let (line, more) = match rest.split_once(['\n', '\r']) {
            Some((line, more)) => {
                let return_at_end = rest.as_bytes().get(line.len()) == Some(&b'\r');
                (line, Some(if return_at_end { more.strip_prefix('\n').unwrap_or(more) } else { more }))
            }
            None => (rest, None),
        };
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
        match more {
            Some(more) => rest = more,
            None => break,
        }
    }
    out.push(b'\n');
}

/// Appends an MCP message as an event of type `message`.
pub fn write_message(out: &mut Vec<u8>, json: &str) {
    write_event(out, Some("message"), None, json);
}

/// Appends a comment: a sign of life that no client shows.
pub fn write_comment(out: &mut Vec<u8>) {
    out.extend_from_slice(b":\n\n");
}

/// Appends the wanted reconnection time.
pub fn write_retry(out: &mut Vec<u8>, retry_ms: u64) {
    out.extend_from_slice(format!("retry: {retry_ms}\n\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<Event> {
        let mut reader = Reader::new(1 << 20);
        reader.push(bytes).unwrap();
        std::iter::from_fn(|| reader.next_event()).collect()
    }

    fn message(data: &str) -> Event {
        Event { data: data.into(), ..Event::default() }
    }

    #[test]
    fn all_line_ends_comments_and_fields_are_read() {
        let text = "\u{feff}: hello\r\nid: 7\rretry: 250\nevent: message\ndata: {\"a\":1}\r\n\r\ndata\ndata:x\ndata:  y\n\n:\n\nevent: lost\n\nretry: soon\ndata: end\r\r";
        let with_id = |event: Option<&str>, data: &str| Event { event: event.map(str::to_owned), data: data.into(), id: Some("7".into()) };
        assert_eq!(read(text.as_bytes()), [with_id(Some("message"), "{\"a\":1}"), with_id(None, "\nx\n y"), with_id(None, "end")]);
        let mut reader = Reader::new(100);
        reader.push(text.as_bytes()).unwrap();
        assert_eq!(reader.retry_ms(), Some(250));
    }

    #[test]
    fn an_event_that_does_not_end_is_not_an_event() {
        assert_eq!(read(b"data: a\n"), []);
        assert_eq!(read(b"data: a"), []);
    }

    #[test]
    fn an_endless_event_is_stopped_and_the_stream_stays_broken() {
        for piece in [&b"data: xxxxxxxxxxxxxxxx"[..], b"data: xxxxxxxxxxxxxxxx\n", b":xxxxxxxxxxxxxxxxxxxxxxxxxxx"] {
            let mut reader = Reader::new(64);
            let outcome = (0..10).map(|_| reader.push(piece)).find(Result::is_err);
            if piece.starts_with(b":") || piece.ends_with(b"x") || piece.ends_with(b"\n") {
                assert_eq!(outcome, Some(Err(SseError::TooLong { limit: 64 })));
            }
            assert!(reader.push(b"\n\n").is_err());
        }
        let mut reader = Reader::new(64);
        assert_eq!(reader.push(b"data: \xff\n"), Err(SseError::NotUtf8));
    }

    #[test]
    fn a_line_end_in_a_name_begins_no_field() {
        let mut out = Vec::new();
        write_event(&mut out, Some("a\ndata: x"), Some("1\r\n\r\n2"), "d");
        assert_eq!(read(&out), [Event { event: Some("adata: x".into()), id: Some("12".into()), data: "d".into() }]);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_however_it_is_cut(
            datas in proptest::collection::vec("[a-z:é \n]{0,12}", 0..6),
            cut in 1_usize..7,
        ) {
            let mut out = Vec::new();
            for data in &datas {
                write_comment(&mut out);
                write_event(&mut out, None, None, data);
            }
            let mut reader = Reader::new(1000);
            let mut events = Vec::new();
            for piece in out.chunks(cut) {
                reader.push(piece).unwrap();
                events.extend(std::iter::from_fn(|| reader.next_event()));
            }
            prop_assert_eq!(events, datas.iter().map(|data| message(data)).collect::<Vec<_>>());
        }

        #[test]
        fn arbitrary_bytes_read_the_same_however_they_are_cut(bytes in proptest::collection::vec(prop_oneof![
            Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), Just(b' '), any::<u8>()], 0..80), cut in 1_usize..9)
        {
            let mut bytes = bytes;
            let head = b"data: ";
            bytes.splice(0..0, head.iter().copied());
            let run = |pieces: Vec<&[u8]>| {
                let mut reader = Reader::new(1000);
                let outcome = pieces.into_iter().try_for_each(|piece| reader.push(piece));
                (outcome, std::iter::from_fn(|| reader.next_event()).collect::<Vec<_>>())
            };
            prop_assert_eq!(run(vec![&bytes]), run(bytes.chunks(cut).collect()));
        }
    }
}
