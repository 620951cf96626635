//! Strict JSON over borrowed bytes: a scanner that refuses what parsers disagree about, and a view of the value it proved.

mod number;
mod scan;
mod write;

use std::borrow::Cow;
use std::fmt;

pub use number::Decimal;
pub(crate) use write::members;
pub use write::{Object, write_string};

/// Nesting that no caller's limit can exceed, so that recursion over a [`Raw`] is bounded.
pub const MAX_DEPTH: usize = 128;
/// Longest number literal in bytes.
pub const MAX_NUMBER_BYTES: usize = 1024;

/// What a stranger may make us look at. Each limit has its own [`JsonError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Whole text, bytes.
    pub bytes: usize,
    /// Nesting of objects and arrays; values above [`MAX_DEPTH`] count as [`MAX_DEPTH`].
    pub depth: usize,
    /// Members of one object.
    pub keys: usize,
    /// One string or key as written (escapes not yet undone), bytes.
    pub string: usize,
    /// Whether `\u0000` in any string or key is an error: so for what a caller sends, not for what a system answers.
    pub refuse_nul: bool,
}

impl Limits {
    /// For a request of an agent: 4 MiB, depth 64, 10,000 keys an object, strings of 1 MiB, no NUL.
    pub const REQUEST: Self = Self { bytes: 4 << 20, depth: 64, keys: 10_000, string: 1 << 20, refuse_nul: true };
    /// For an answer of an upstream: 16 MiB with strings as long (images come as base64), NUL allowed.
    pub const REPLY: Self = Self { bytes: 16 << 20, depth: 64, keys: 10_000, string: 16 << 20, refuse_nul: false };
}

impl Default for Limits {
    fn default() -> Self {
        Self::REQUEST
    }
}

/// Why bytes are not the JSON that we take. Offsets count bytes from the start of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    #[error("expected {expected} at byte {offset}")]
    Syntax { offset: usize, expected: &'static str },
    #[error("something follows the value at byte {offset}")]
    Trailing { offset: usize },
    #[error("text is not UTF-8 at byte {offset}")]
    NotUtf8 { offset: usize },
    #[error("text begins with a byte order mark")]
    ByteOrderMark,
    #[error("escape at byte {offset} is half of a surrogate pair")]
    LoneSurrogate { offset: usize },
    #[error("key at byte {offset} stands twice in its object")]
    DuplicateKey { offset: usize },
    #[error("string holds a NUL at byte {offset}")]
    Nul { offset: usize },
    #[error("text is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("nesting at byte {offset} is deeper than {limit}")]
    TooDeep { offset: usize, limit: usize },
    #[error("object has more than {limit} keys at byte {offset}")]
    TooManyKeys { offset: usize, limit: usize },
    #[error("string at byte {offset} is longer than {limit} bytes")]
    StringTooLong { offset: usize, limit: usize },
    #[error("number at byte {offset} is longer than {limit} bytes")]
    NumberTooLong { offset: usize, limit: usize },
}

impl JsonError {
    /// Whether the text is no JSON at all (as opposed to JSON that we refuse).
    pub fn is_malformed(&self) -> bool {
        match self {
            Self::Syntax { .. } | Self::Trailing { .. } | Self::NotUtf8 { .. } | Self::ByteOrderMark => true,
            Self::LoneSurrogate { .. }
            | Self::DuplicateKey { .. }
            | Self::Nul { .. }
            | Self::TooLong { .. }
            | Self::TooDeep { .. }
            | Self::TooManyKeys { .. }
            | Self::StringTooLong { .. }
            | Self::NumberTooLong { .. } => false,
        }
    }
}

/// The six kinds of JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        })
    }
}

/// The text of one JSON value that passed the scanner, borrowed byte for byte: no space around it, no duplicate keys
/// inside it, no lone surrogates, nesting within [`MAX_DEPTH`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    text: &'a str,
}

impl fmt::Debug for Raw<'_> {
    /// Kind and length only: arguments may hold what a log must not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw({}, {} bytes)", self.kind(), self.text.len())
    }
}

impl Raw<'static> {
    /// `{}`
    pub const EMPTY_OBJECT: Self = Self { text: "{}" };
    /// `null`
    pub const NULL: Self = Self { text: "null" };
}

impl<'a> Raw<'a> {
    /// Takes exactly one JSON value (RFC 8259) with space around it allowed.
    ///
    /// # Errors
    /// [`JsonError`] for anything that is not JSON, that two parsers could read differently, or that exceeds `limits`.
    pub fn parse(bytes: &'a [u8], limits: &Limits) -> Result<Self, JsonError> {
        scan::scan(bytes, limits).map(|text| Self { text })
    }

    /// The value as it was written.
    pub fn text(self) -> &'a str {
        self.text
    }

    /// The value as it was written.
    pub fn bytes(self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// Which kind of value it is.
    pub fn kind(self) -> Kind {
        match self.text.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            _ => Kind::Null,
        }
    }

    pub fn is_object(self) -> bool {
        self.kind() == Kind::Object
    }

    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// Members of an object in written order, keys unescaped. Empty for other kinds.
    pub fn members(self) -> Members<'a> {
        Members { walk: Walk::inside(self, Kind::Object) }
    }

    /// Members of an object with the keys as they were written (strings with quotes). Empty for other kinds.
    pub fn entries(self) -> Entries<'a> {
        Entries { walk: Walk::inside(self, Kind::Object) }
    }

    /// Elements of an array in order. Empty for other kinds.
    pub fn elements(self) -> Elements<'a> {
        Elements { walk: Walk::inside(self, Kind::Array) }
    }

    /// The member of that exact name, if this is an object that has one.
    pub fn member(self, name: &str) -> Option<Raw<'a>> {
        self.members().find_map(|(key, value)| (key == name).then_some(value))
    }

    /// The string with its escapes undone, borrowed if it had none. `None` for other kinds.
    pub fn string(self) -> Option<Cow<'a, str>> {
        let inner = self.text.strip_prefix('"')?.strip_suffix('"')?;
        Some(if inner.contains('\\') { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) })
    }

    /// The boolean. `None` for other kinds.
    pub fn boolean(self) -> Option<bool> {
        match self.text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// The number as exact decimal. `None` for other kinds.
    pub fn number(self) -> Option<Decimal<'a>> {
        (self.kind() == Kind::Number).then(|| Decimal::of(self.text))
    }

    /// A whole number written without fraction or exponent that fits. `None` otherwise.
    pub fn integer(self) -> Option<i64> {
        if self.kind() == Kind::Number { self.text.parse().ok() } else { None }
    }

    /// A copy that owns its text.
    pub fn to_owned(self) -> RawBuf {
        RawBuf { text: self.text.into() }
    }
}

/// A [`Raw`] that owns its text.
#[derive(Clone, PartialEq, Eq)]
pub struct RawBuf {
    text: Box<str>,
}

impl RawBuf {
    /// Takes text that our own writers made.
    pub(crate) fn trusted(text: String) -> Self {
        debug_assert!(Raw::parse(text.as_bytes(), &Limits::REPLY).is_ok(), "our own writer made bad JSON");
        Self { text: text.into() }
    }

    pub fn raw(&self) -> Raw<'_> {
        Raw { text: &self.text }
    }
}

impl fmt::Debug for RawBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw().fmt(f)
    }
}

/// Members of an object: (key unescaped, value as written).
#[derive(Debug, Clone)]
pub struct Members<'a> {
    walk: Walk<'a>,
}

impl<'a> Iterator for Members<'a> {
    type Item = (Cow<'a, str>, Raw<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if !self.walk.at_item() {
            return None;
        }
        let key = self.walk.value().string()?;
        self.walk.skip_to_value();
        Some((key, self.walk.value()))
    }
}

/// Members of an object: (key as written, value as written).
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    walk: Walk<'a>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (Raw<'a>, Raw<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if !self.walk.at_item() {
            return None;
        }
        let key = self.walk.value();
        self.walk.skip_to_value();
        Some((key, self.walk.value()))
    }
}

/// Elements of an array as written.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    walk: Walk<'a>,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.walk.at_item().then(|| self.walk.value())
    }
}

/// A cursor over text that the scanner has already proved. It never fails; on a broken invariant it ends early.
#[derive(Clone)]
pub(crate) struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl fmt::Debug for Walk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Walk(at {} of {})", self.at, self.text.len())
    }
}

impl<'a> Walk<'a> {
    pub(crate) fn over(raw: Raw<'a>) -> Self {
        Self { text: raw.text, at: 0 }
    }

    fn inside(raw: Raw<'a>, kind: Kind) -> Self {
        let at = if raw.kind() == kind { 1 } else { raw.text.len() };
        Self { text: raw.text, at }
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Steps over one byte of punctuation.
    pub(crate) fn step(&mut self) {
        self.at += 1;
    }

    /// Steps over space and commas; true if an item of the container follows.
    pub(crate) fn at_item(&mut self) -> bool {
        while let Some(b' ' | b'\t' | b'\n' | b'\r' | b',') = self.peek() {
            self.at += 1;
        }
        !matches!(self.peek(), None | Some(b'}' | b']'))
    }

    /// Steps over space and the colon between key and value.
    pub(crate) fn skip_to_value(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r' | b':') = self.peek() {
            self.at += 1;
        }
    }

    /// Takes the value that begins here.
    pub(crate) fn value(&mut self) -> Raw<'a> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.skip_string(),
            Some(b'{' | b'[') => self.skip_container(),
            _ => {
                while !matches!(self.peek(), None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')) {
                    self.at += 1;
                }
            }
        }
        Raw { text: self.text.get(start..self.at).unwrap_or_default() }
    }

    fn skip_string(&mut self) {
        self.at += 1;
        loop {
            self.at += scan::special(self.text.as_bytes().get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => break self.at += 1,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => break,
            }
        }
    }

    fn skip_container(&mut self) {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.skip_string();
                    continue;
                }
                Some(b'{' | b'[') => depth += 1,
                Some(b'}' | b']') => depth = depth.saturating_sub(1),
                Some(_) => {}
                None => return,
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }
}

/// Undoes the escapes of what stood between the quotes of a scanned string.
fn unescape(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, tail)) = rest.split_once('\\') {
        out.push_str(plain);
        let (char, after) = unescape_one(tail);
        out.push(char);
        rest = after;
    }
    out.push_str(rest);
    out
}

fn unescape_one(tail: &str) -> (char, &str) {
    let mut chars = tail.chars();
    let char = match chars.next() {
        Some('b') => '\u{8}',
        Some('f') => '\u{c}',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('u') => return unescape_unit(chars.as_str()),
        Some(char) => char,
        None => char::REPLACEMENT_CHARACTER,
    };
    (char, chars.as_str())
}

fn unescape_unit(tail: &str) -> (char, &str) {
    let unit = |text: &str| text.get(..4).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0xFFFD);
    let rest = tail.get(4..).unwrap_or_default();
    let first = unit(tail);
    if !(0xD800..0xDC00).contains(&first) {
        return (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), rest);
    }
    let low = rest.get(2..).unwrap_or_default();
    let code = 0x10000 + ((first - 0xD800) << 10) + unit(low).saturating_sub(0xDC00);
    (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), low.get(4..).unwrap_or_default())
}

#[cfg(test)]
pub(crate) mod tests;
