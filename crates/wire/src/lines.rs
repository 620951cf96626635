//! Newline-delimited frames of stdio servers: an incremental reader with a bounded buffer.

use std::collections::VecDeque;

/// A line is longer than the reader holds. The stream stays broken: what follows could be the middle of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line is longer than {limit} bytes")]
pub struct LineTooLong {
    pub limit: usize,
}

/// Reads lines from bytes as they come. Empty lines are skipped; a carriage return before the end is dropped.
#[derive(Debug)]
pub struct Reader {
    limit: usize,
    line: Vec<u8>,
    ready: VecDeque<Vec<u8>>,
    broken: bool,
}

impl Reader {
    /// A reader of lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, line: Vec::new(), ready: VecDeque::new(), broken: false }
    }

    /// Takes the next bytes. Take the complete lines before the next push.
    ///
    /// # Errors
    /// [`LineTooLong`], now and ever after.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), LineTooLong> {
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if self.broken || self.line.len() + piece.len() > self.limit {
                self.broken = true;
                self.line = Vec::new();
                return Err(LineTooLong { limit: self.limit });
            }
            self.line.extend_from_slice(piece);
            if pieces.peek().is_some() {
                let mut line = std::mem::take(&mut self.line);
                line.pop_if(|last| *last == b'\r');
                if !line.is_empty() {
                    self.ready.push_back(line);
                }
            }
        }
        Ok(())
    }

    /// The next complete line without its end, oldest first.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(reader: &mut Reader) -> Vec<String> {
        std::iter::from_fn(|| reader.next_line()).map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn an_endless_line_is_stopped_and_nothing_after_it_is_a_frame() {
        let mut reader = Reader::new(8);
        assert_eq!(reader.push(b"12345678\r\n"), Err(LineTooLong { limit: 8 }));
        let mut reader = Reader::new(8);
        reader.push(b"ok\n1234").unwrap();
        assert_eq!(reader.push(b"56789"), Err(LineTooLong { limit: 8 }));
        assert_eq!(reader.push(b"\n{}\n"), Err(LineTooLong { limit: 8 }));
        assert_eq!(drain(&mut reader), ["ok"]);
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_are_cut(lines in proptest::collection::vec("[a-z\"]{1,9}", 0..6), cut in 1_usize..5) {
            let text: String = lines.iter().map(|line| format!("{line}\r\n\n")).collect();
            let mut reader = Reader::new(20);
            let mut seen = Vec::new();
            for piece in text.as_bytes().chunks(cut) {
                reader.push(piece).unwrap();
                seen.extend(drain(&mut reader));
            }
            prop_assert_eq!(seen, lines);
        }
    }
}
