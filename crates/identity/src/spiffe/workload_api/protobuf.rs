//! The little Protocol Buffers (proto3) that the Workload API's messages need: fields are written, and read with every length checked.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A number in seven-bit groups.
const VARINT: u8 = 0;
/// Eight bytes.
const FIXED64: u8 = 1;
/// A length and so many bytes: texts, bytes, messages.
const BYTES: u8 = 2;
/// Four bytes.
const FIXED32: u8 = 5;
/// How deep a JSON value may be that is written as a `google.protobuf.Struct`.
const DEPTH_MAX: usize = 20;

/// A message that is being written. Fields of the default value are left out, as proto3 does.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
            number >>= 7;
        }
        self.0.push(u8::try_from(number).unwrap_or(0));
    }

    fn tag(&mut self, field: u32, kind: u8) {
        self.varint(u64::from(field) << 3 | u64::from(kind));
    }

    /// A text or bytes.
    pub(super) fn bytes(&mut self, field: u32, content: &[u8]) -> &mut Self {
        if content.is_empty() { self } else { self.message(field, content) }
    }

    /// An element of a repeated field, or a message: there even if it is empty.
    pub(super) fn message(&mut self, field: u32, content: &[u8]) -> &mut Self {
        self.tag(field, BYTES);
        self.varint(u64::try_from(content.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(content);
        self
    }

    /// A `map<string, bytes>`.
    pub(super) fn map(&mut self, field: u32, map: &BTreeMap<String, Vec<u8>>) -> &mut Self {
        for (key, content) in map {
            let mut entry = Self::default();
            entry.bytes(1, key.as_bytes()).bytes(2, content);
            self.message(field, &entry.0);
        }
        self
    }

    /// The bytes.
    pub(super) fn done(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// A JSON object as a `google.protobuf.Struct`.
pub(super) fn structure(object: &Map<String, Value>) -> Vec<u8> {
    structure_at(object, 0)
}

fn structure_at(object: &Map<String, Value>, depth: usize) -> Vec<u8> {
    let mut out = Writer::default();
    for (name, value) in object {
        let mut entry = Writer::default();
        entry.bytes(1, name.as_bytes()).message(2, &json_value(value, depth.saturating_add(1)));
        out.message(1, &entry.0);
    }
    out.0
}

/// A `google.protobuf.Value`: one of a kind, whose field is there even if it is the default.
fn json_value(value: &Value, depth: usize) -> Vec<u8> {
    let mut out = Writer::default();
    match value {
        _ if depth > DEPTH_MAX => null(&mut out),
        Value::Null => null(&mut out),
        Value::Number(number) => {
            out.tag(2, FIXED64);
            out.0.extend_from_slice(&number.as_f64().unwrap_or(f64::NAN).to_le_bytes());
        }
        Value::String(text) => {
            out.message(3, text.as_bytes());
        }
        Value::Bool(yes) => {
            out.tag(4, VARINT);
            out.varint(u64::from(*yes));
        }
        Value::Object(object) => {
            out.message(5, &structure_at(object, depth));
        }
        Value::Array(all) => {
            let mut list = Writer::default();
            for one in all {
                list.message(1, &json_value(one, depth.saturating_add(1)));
            }
            out.message(6, &list.0);
        }
    }
    out.0
}

fn null(out: &mut Writer) {
    out.tag(1, VARINT);
    out.varint(0);
}

/// A message that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is malformed")]
pub struct Malformed;

/// Reads one field after the other.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for place in 0..10_u32 {
            let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            // The tenth group has one bit.
            if place == 9 && *byte > 1 {
                return Err(Malformed);
            }
            number |= u64::from(byte & 0x7f) << (place * 7);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (content, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(content)
    }

    /// The next field that has bytes, with its number; none at the end. Fields of other kinds are passed over: no message here has one.
    pub(super) fn next(&mut self) -> Result<Option<(u32, &'a [u8])>, Malformed> {
        while !self.0.is_empty() {
            let tag = self.varint()?;
            let field = u32::try_from(tag >> 3).ok().filter(|field| *field > 0).ok_or(Malformed)?;
            match u8::try_from(tag & 7).map_err(|_| Malformed)? {
                VARINT => drop(self.varint()?),
                FIXED64 => drop(self.take(8)?),
                FIXED32 => drop(self.take(4)?),
                BYTES => {
                    let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                    return Ok(Some((field, self.take(length)?)));
                }
                // Groups, which nobody writes any more.
                _ => return Err(Malformed),
            }
        }
        Ok(None)
    }
}

/// A text.
pub(super) fn text(bytes: &[u8]) -> Result<String, Malformed> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed)
}

/// An entry of a `map<string, bytes>`.
pub(super) fn entry(bytes: &[u8]) -> Result<(String, Vec<u8>), Malformed> {
    let (mut key, mut content) = (String::new(), Vec::new());
    let mut reader = Reader::new(bytes);
    while let Some((field, found)) = reader.next()? {
        match field {
            1 => key = text(found)?,
            2 => content = found.to_vec(),
            _ => {}
        }
    }
    Ok((key, content))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_texts_and_maps_are_written_as_the_standard_says() {
        let mut out = Writer::default();
        // The example of the encoding's own documentation: field 2, "testing".
        assert_eq!(out.bytes(2, b"testing").bytes(3, b"").done(), [0x12, 7, b't', b'e', b's', b't', b'i', b'n', b'g']);
        out.varint(150);
        assert_eq!(out.done(), [0x96, 1]);
        let map = BTreeMap::from([("a".to_owned(), b"b".to_vec())]);
        assert_eq!(out.map(3, &map).done(), [0x1a, 6, 0x0a, 1, b'a', 0x12, 1, b'b']);
        assert_eq!(out.message(1, b"").done(), [0x0a, 0]);
    }

    #[test]
    fn a_json_object_is_written_as_a_struct() {
        let Value::Object(object) = json!({ "a": "b", "n": 1, "t": true, "z": null, "l": ["x"] }) else { panic!() };
        let bytes = structure(&object);
        let mut reader = Reader::new(&bytes);
        let mut names = Vec::new();
        while let Some((1, found)) = reader.next().unwrap() {
            names.push(entry(found).unwrap());
        }
        let find = |name: &str| names.iter().find(|(n, _)| n == name).unwrap().1.clone();
        assert_eq!(find("a"), [0x1a, 1, b'b']);
        assert_eq!(find("n"), [0x11, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(find("t"), [0x20, 1]);
        assert_eq!(find("z"), [0x08, 0]);
        assert_eq!(find("l"), [0x32, 5, 0x0a, 3, 0x1a, 1, b'x']);
    }

    #[test]
    fn a_length_beyond_the_end_an_endless_number_and_a_group_are_refused() {
        for bad in [&[0x0a, 5, 1][..], &[0xff; 11], &[0x0b], &[0x00], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]] {
            assert_eq!(Reader::new(bad).next(), Err(Malformed), "{bad:?}");
        }
        assert_eq!(Reader::new(&[0x08, 1, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0x25, 0, 0, 0, 0]).next(), Ok(None));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_no_bytes_make_it_panic(fields in prop::collection::vec((1_u32..2000, prop::collection::vec(any::<u8>(), 0..300)), 0..10), noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Writer::default();
            for (field, content) in &fields {
                out.message(*field, content);
            }
            let bytes = out.done();
            let mut reader = Reader::new(&bytes);
            for (field, content) in &fields {
                prop_assert_eq!(reader.next().unwrap(), Some((*field, content.as_slice())));
            }
            prop_assert_eq!(reader.next().unwrap(), None);
            let mut reader = Reader::new(&noise);
            while let Ok(Some((_, found))) = reader.next() {
                let _ = entry(found).is_ok();
            }
        }
    }
}
