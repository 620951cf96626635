//! The little DER (X.690) that keys, certificates and lists of revoked ones need: written whole, and read strictly (ADR 0027).
//!
//! It is here because two rooms need it that do not know each other. What is read was not proved by anybody.

use crate::Timestamp;

/// The tag of a BOOLEAN.
pub const BOOLEAN: u8 = 0x01;
/// The tag of an INTEGER.
pub const INTEGER: u8 = 0x02;
/// The tag of a BIT STRING.
pub const BIT_STRING: u8 = 0x03;
/// The tag of an OCTET STRING.
pub const OCTET_STRING: u8 = 0x04;
/// The tag of a NULL.
pub const NULL: u8 = 0x05;
/// The tag of an OBJECT IDENTIFIER.
pub const OBJECT: u8 = 0x06;
/// The tag of a SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
const UTF8: u8 = 0x0c;
const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A value: tag, length, content.
#[must_use]
pub fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len().saturating_add(5));
    out.push(tag);
    let digits = content.len().to_be_bytes();
    let zeros = digits.iter().take_while(|byte| **byte == 0).count();
    let digits = digits.get(zeros..).unwrap_or_default();
    match (content.len(), digits) {
        (0..=0x7f, [] | [_]) => out.push(digits.first().copied().unwrap_or(0)),
        _ => {
            out.push(0x80 | u8::try_from(digits.len()).unwrap_or(8));
            out.extend_from_slice(digits);
        }
    }
    out.extend_from_slice(content);
    out
}

/// Values in a sequence.
#[must_use]
pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, &parts.concat())
}

/// An object identifier from the bytes of its content.
#[must_use]
pub fn object(content: &[u8]) -> Vec<u8> {
    value(OBJECT, content)
}

/// A number that is not negative.
#[must_use]
pub fn integer(big_endian: &[u8]) -> Vec<u8> {
    let zeros = big_endian.iter().take_while(|byte| **byte == 0).count();
    let digits = big_endian.get(zeros..).unwrap_or_default();
    let sign: &[u8] = if digits.first().is_none_or(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    value(INTEGER, &[sign, digits].concat())
}

/// Bits, as many as the bytes have.
#[must_use]
pub fn bits(bytes: &[u8]) -> Vec<u8> {
    value(BIT_STRING, &[&[0], bytes].concat())
}

/// One attribute of a name: a set of one pair.
#[must_use]
pub fn attribute(kind: &[u8], text: &str) -> Vec<u8> {
    value(SET, &sequence(&[&object(kind), &value(UTF8, text.as_bytes())]))
}

/// A time of whole seconds.
#[must_use]
pub fn time(time: Timestamp) -> Vec<u8> {
    let text = Timestamp::from_seconds(time.as_seconds()).to_string();
    let digits: String = text.split('.').next().unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    //= rfc5280#section-4.1.2.5
    // CAs conforming to this profile MUST always encode certificate validity dates through the year 2049 as UTCTime;
    // certificate validity dates in 2050 or later MUST be encoded as GeneralizedTime.
    match digits.strip_prefix("20") {
        Some(short) if digits.as_str() < "2050" => value(UTC_TIME, format!("{short}Z").as_bytes()),
        _ => value(GENERALIZED_TIME, format!("{digits}Z").as_bytes()),
    }
}

/// Reads a time of a certificate or of a list.
#[must_use]
pub fn read_time(value: &Value<'_>) -> Option<Timestamp> {
    let text = str::from_utf8(value.content).ok()?.strip_suffix('Z')?;
    let digits = match (value.tag, text.len()) {
        (UTC_TIME, 12) if text < "50" => format!("20{text}"),
        (UTC_TIME, 12) => format!("19{text}"),
        (GENERALIZED_TIME, 14) => text.to_owned(),
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| digits.get(from..to);
    let text = format!("{}-{}-{}T{}:{}:{}Z", part(0, 4)?, part(4, 6)?, part(6, 8)?, part(8, 10)?, part(10, 12)?, part(12, 14)?);
    Timestamp::parse(&text).ok()
}

/// The magnitude of an INTEGER that is positive and in its shortest form, from its content.
#[must_use]
pub fn positive(content: &[u8]) -> Option<&[u8]> {
    match content {
        [0, rest @ ..] if rest.first().is_some_and(|byte| *byte >= 0x80) => Some(rest),
        [first, ..] if (1..0x80).contains(first) => Some(content),
        _ => None,
    }
}

/// One value that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    /// What it is.
    pub tag: u8,
    /// What is in it.
    pub content: &'a [u8],
    /// Tag, length and content.
    pub whole: &'a [u8],
}

/// Reads one value after the other.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    //= x690#section-10.1
    // The definite form of length encoding shall be used, encoded in the minimum number of octets.
    /// The next value, if there is one that is whole.
    #[expect(
        clippy::should_implement_trait,
        reason = "a value that is cut off ends it like the end of the bytes does; whoever reads says which it is by `is_at_end`"
    )]
    pub fn next(&mut self) -> Option<Value<'a>> {
        let (tag, rest) = self.0.split_first()?;
        let (length, rest) = match rest {
            [short @ 0..=0x7f, rest @ ..] => (usize::from(*short), rest),
            [0x81, long @ 0x80..=0xff, rest @ ..] => (usize::from(*long), rest),
            [0x82, high @ 1..=0xff, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
            // A list of revoked certificates can be so long; nothing that we look at is longer.
            [0x83, high @ 1..=0xff, middle, low, rest @ ..] => (usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low), rest),
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len().checked_sub(rest.len())?)?;
        self.0 = rest;
        Some(Value { tag: *tag, content, whole })
    }

    /// The next value, if it has this tag.
    pub fn expect(&mut self, tag: u8) -> Option<Value<'a>> {
        self.next().filter(|value| value.tag == tag)
    }

    /// What is inside the next value, if it has this tag.
    pub fn inside(&mut self, tag: u8) -> Option<Self> {
        self.expect(tag).map(|value| Self(value.content))
    }

    /// What comes next has this tag.
    #[must_use]
    pub fn is_next(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// Nothing follows.
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_and_times_are_written_as_the_standard_says() {
        assert_eq!(integer(&[0, 0, 1]), [2, 1, 1]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[]), [2, 1, 0]);
        assert_eq!(value(4, &[7; 200])[..3], [4, 0x81, 200]);
        assert_eq!(value(4, &[7; 300])[..4], [4, 0x82, 1, 44]);
        let at = |text: &str| Timestamp::parse(text).unwrap();
        assert_eq!(&time(at("2026-11-23T10:00:01.999Z"))[2..], b"261123100001Z");
        assert_eq!(&time(at("2050-01-01T00:00:00Z"))[2..], b"20500101000000Z");
    }

    #[test]
    fn a_length_that_is_longer_than_it_must_be_is_refused() {
        assert_eq!(Reader::new(&[4, 0x81, 1, 7]).next(), None);
        assert_eq!(Reader::new(&[4, 0x80, 7, 0, 0]).next(), None);
        assert_eq!(Reader::new(&[4, 0x83, 0, 0, 1, 7]).next(), None);
        assert_eq!(Reader::new(&[4, 0x84, 0, 0, 0, 1, 7]).next(), None);
        assert_eq!(Reader::new(&[4, 0xff]).next(), None);
    }

    #[test]
    fn a_long_value_is_read_as_it_was_written() {
        let content = vec![7; 0x1_0000];
        let whole = value(4, &content);
        assert_eq!(whole[..5], [4, 0x83, 1, 0, 0]);
        assert_eq!(Reader::new(&whole).next().unwrap().content, content);
    }

    #[test]
    fn a_number_that_is_negative_zero_or_longer_than_it_must_be_has_no_magnitude() {
        assert_eq!((positive(&[1, 2]), positive(&[0, 0x80])), (Some(&[1, 2][..]), Some(&[0x80][..])));
        for bad in [&[][..], &[0], &[0, 1], &[0x80], &[0xff, 1], &[0, 0, 0x80]] {
            assert_eq!(positive(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_a_cut_is_noticed(content in prop::collection::vec(any::<u8>(), 0..400), tag in any::<u8>(), seconds in 0_i64..4_000_000_000) {
            let whole = value(tag, &content);
            prop_assert_eq!(Reader::new(&whole).next(), Some(Value { tag, content: &content, whole: &whole }));
            prop_assert_eq!(Reader::new(&whole[..whole.len() - 1]).next(), None);
            let written = time(Timestamp::from_seconds(seconds));
            let read = Reader::new(&written).next().unwrap();
            prop_assert_eq!(read_time(&read), Some(Timestamp::from_seconds(seconds)));
        }

        #[test]
        fn no_bytes_make_it_panic_and_what_is_read_is_written_again(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut reader = Reader::new(&bytes);
            let mut before = bytes.len();
            while let Some(read) = reader.next() {
                prop_assert_eq!(value(read.tag, read.content), read.whole);
                prop_assert!(reader.0.len() < before);
                before = reader.0.len();
                let _ = (read_time(&read), positive(read.content));
            }
        }
    }
}
