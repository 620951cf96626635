//! JSON written by us: strings escaped one way, objects member by member.

use super::scan::special;

/// An object under construction at the end of a buffer. Keys are ours and plain; [`Object::end`] closes it.
#[derive(Debug)]
#[must_use = "an object is open until `end`"]
pub struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    /// Opens an object at the end of `out`.
    pub fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        write_string(self.out, key);
        self.out.push(b':');
        self.out
    }

    /// A string member.
    pub fn text(mut self, key: &str, value: &str) -> Self {
        write_string(self.key(key), value);
        self
    }

    /// A string member, left out if there is none.
    pub fn text_if(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    /// A member whose value is JSON already.
    pub fn raw(mut self, key: &str, json: &str) -> Self {
        self.key(key).extend_from_slice(json.as_bytes());
        self
    }

    /// A member whose value is JSON already, left out if there is none.
    pub fn raw_if(self, key: &str, json: Option<&str>) -> Self {
        match json {
            Some(json) => self.raw(key, json),
            None => self,
        }
    }

    /// A member copied as it was written: `key` is a JSON string with its quotes.
    pub fn entry(mut self, key: &str, json: &str) -> Self {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.extend_from_slice(key.as_bytes());
        self.out.push(b':');
        self.out.extend_from_slice(json.as_bytes());
        self
    }

    /// A whole number.
    pub fn number(self, key: &str, value: i64) -> Self {
        self.raw(key, &value.to_string())
    }

    /// A count or a duration.
    pub fn count(self, key: &str, value: u64) -> Self {
        self.raw(key, &value.to_string())
    }

    pub fn boolean(self, key: &str, value: bool) -> Self {
        self.raw(key, if value { "true" } else { "false" })
    }

    /// A member whose value `write` appends; it must append exactly one JSON value.
    pub fn with(mut self, key: &str, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        write(self.key(key));
        self
    }

    /// A member that is an object with what `members` adds.
    pub fn nested(self, key: &str, members: impl FnOnce(Object<'_>) -> Object<'_>) -> Self {
        self.with(key, |out| members(Object::begin(out)).end())
    }

    /// Closes the object.
    pub fn end(self) {
        self.out.push(b'}');
    }
}

/// Tells the compiler that a closure adds members to an object of any lifetime.
pub(crate) fn members<F: FnOnce(Object<'_>) -> Object<'_>>(add: F) -> F {
    add
}

/// Writes `text` as a JSON string in the form of RFC 8785 section 3.2.2.2.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let plain = special(rest);
        out.extend_from_slice(rest.get(..plain).unwrap_or_default());
        let Some(byte) = rest.get(plain) else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0A => out.extend_from_slice(b"\\n"),
            0x0C => out.extend_from_slice(b"\\f"),
            0x0D => out.extend_from_slice(b"\\r"),
            other => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend(HEX.get(usize::from(other >> 4)));
                out.extend(HEX.get(usize::from(other & 15)));
            }
        }
        rest = rest.get(plain + 1..).unwrap_or_default();
    }
    out.push(b'"');
}
