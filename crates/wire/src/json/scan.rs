//! The strict scanner: bytes of a stranger in, proof of one well-formed JSON value out.

use std::borrow::Cow;

use super::{JsonError, Limits, MAX_DEPTH, MAX_NUMBER_BYTES};

/// Checks that `bytes` are exactly one JSON value within `limits` and returns its text without surrounding space.
pub(super) fn scan<'a>(bytes: &'a [u8], limits: &Limits) -> Result<&'a str, JsonError> {
    if bytes.len() > limits.bytes {
        return Err(JsonError::TooLong { limit: limits.bytes });
    }
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        return Err(JsonError::ByteOrderMark);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError::NotUtf8 { offset: error.valid_up_to() })?;
    let mut scanner = Scanner { text, bytes: text.as_bytes(), at: 0, depth: 0, keys: Vec::new(), limits };
    scanner.space();
    let start = scanner.at;
    scanner.value()?;
    let end = scanner.at;
    scanner.space();
    if scanner.at != scanner.bytes.len() {
        return Err(JsonError::Trailing { offset: scanner.at });
    }
    // INVARIANT: both ends stand beside ASCII bytes, so they are character boundaries.
    Ok(text.get(start..end).unwrap_or_default())
}

struct Scanner<'a, 'l> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    /// Keys of every object that is still open, innermost last, with the offset of each.
    keys: Vec<(Cow<'a, str>, usize)>,
    limits: &'l Limits,
}

impl<'a> Scanner<'a, '_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn wrong<T>(&self, expected: &'static str) -> Result<T, JsonError> {
        Err(JsonError::Syntax { offset: self.at, expected })
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => self.wrong("a value"),
        }
    }

    fn word(&mut self, word: &'static [u8]) -> Result<(), JsonError> {
        match self.bytes.get(self.at..) {
            Some(rest) if rest.starts_with(word) => {
                self.at += word.len();
                Ok(())
            }
            _ => self.wrong("`true`, `false` or `null`"),
        }
    }

    fn open(&mut self) -> Result<(), JsonError> {
        self.depth += 1;
        let limit = self.limits.depth.min(MAX_DEPTH);
        if self.depth > limit {
            return Err(JsonError::TooDeep { offset: self.at, limit });
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    fn close(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    fn array(&mut self) -> Result<(), JsonError> {
        self.open()?;
        if self.peek() == Some(b']') {
            self.close();
            return Ok(());
        }
        loop {
            self.value()?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return self.wrong("`,` or `]`"),
            }
            self.space();
        }
        self.close();
        Ok(())
    }

    fn object(&mut self) -> Result<(), JsonError> {
        self.open()?;
        if self.peek() == Some(b'}') {
            self.close();
            return Ok(());
        }
        let base = self.keys.len();
        loop {
            self.key(base)?;
            self.value()?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.wrong("`,` or `}`"),
            }
            self.space();
        }
        self.unique(base)?;
        self.keys.truncate(base);
        self.close();
        Ok(())
    }

    fn key(&mut self, base: usize) -> Result<(), JsonError> {
        let offset = self.at;
        if self.peek() != Some(b'"') {
            return self.wrong("a key in quotes");
        }
        let (inner, escaped) = self.string()?;
        if self.keys.len() - base >= self.limits.keys {
            return Err(JsonError::TooManyKeys { offset, limit: self.limits.keys });
        }
        let key = if escaped { Cow::Owned(super::unescape(inner)) } else { Cow::Borrowed(inner) };
        self.keys.push((key, offset));
        self.space();
        if self.peek() != Some(b':') {
            return self.wrong("`:`");
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// Refuses an object that says one name twice, after unescaping: `{"a":1,"\u0061":2}` is such a one.
    fn unique(&mut self, base: usize) -> Result<(), JsonError> {
        let Some(keys) = self.keys.get_mut(base..) else {
            return Ok(());
        };
        if keys.len() <= 12 {
            for (index, (key, offset)) in keys.iter().enumerate() {
                if keys.iter().take(index).any(|(earlier, _)| earlier == key) {
                    return Err(JsonError::DuplicateKey { offset: *offset });
                }
            }
            return Ok(());
        }
        keys.sort_unstable();
        let twin = keys.iter().zip(keys.iter().skip(1)).find(|(one, two)| one.0 == two.0);
        match twin {
            Some((_, (_, offset))) => Err(JsonError::DuplicateKey { offset: *offset }),
            None => Ok(()),
        }
    }

    /// Returns what stands between the quotes and whether it holds an escape.
    fn string(&mut self) -> Result<(&'a str, bool), JsonError> {
        let quote = self.at;
        let start = quote + 1;
        let mut escaped = false;
        self.at = start;
        loop {
            self.at += special(self.bytes.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.wrong("no bare control character in a string"),
                None => return self.wrong("the end of a string"),
            }
        }
        let end = self.at;
        self.at += 1;
        if end - start > self.limits.string {
            return Err(JsonError::StringTooLong { offset: quote, limit: self.limits.string });
        }
        // INVARIANT: both ends stand beside a quote, so they are character boundaries.
        Ok((self.text.get(start..end).unwrap_or_default(), escaped))
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let offset = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                return Ok(());
            }
            Some(b'u') => self.at += 1,
            _ => return self.wrong("an escape"),
        }
        match self.hex()? {
            0 if self.limits.refuse_nul => Err(JsonError::Nul { offset }),
            0xDC00..=0xDFFF => Err(JsonError::LoneSurrogate { offset }),
            0xD800..=0xDBFF => {
                if !self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(b"\\u")) {
                    return Err(JsonError::LoneSurrogate { offset });
                }
                self.at += 2;
                match self.hex()? {
                    0xDC00..=0xDFFF => Ok(()),
                    _ => Err(JsonError::LoneSurrogate { offset }),
                }
            }
            _ => Ok(()),
        }
    }

    fn hex(&mut self) -> Result<u32, JsonError> {
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(16)) else {
                return self.wrong("four hexadecimal digits");
            };
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return self.wrong("a digit");
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        if self.at - start > MAX_NUMBER_BYTES {
            return Err(JsonError::NumberTooLong { offset: start, limit: MAX_NUMBER_BYTES });
        }
        Ok(())
    }
}

/// How many bytes come before the first quote, backslash or control character (all of them, if none comes).
pub(super) fn special(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 128;
    let mut chunks = bytes.chunks_exact(8);
    let mut seen = 0;
    for chunk in &mut chunks {
        let Ok(eight) = chunk.try_into() else { break };
        let word = u64::from_le_bytes(eight);
        let quote = word ^ (ONES * u64::from(b'"'));
        let slash = word ^ (ONES * u64::from(b'\\'));
        // A borrow may mark bytes above the first hit, never below it: the lowest mark is exact.
        let hits = (word.wrapping_sub(ONES * 0x20) & !word | quote.wrapping_sub(ONES) & !quote | slash.wrapping_sub(ONES) & !slash) & HIGH;
        if hits != 0 {
            return seen + hits.trailing_zeros() as usize / 8;
        }
        seen += 8;
    }
    let rest = chunks.remainder();
    seen + rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1F)).unwrap_or(rest.len())
}
