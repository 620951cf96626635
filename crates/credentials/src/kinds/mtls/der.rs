//! DER (X.690) as certificates need it: values are written whole, and read one after the other with their lengths checked.

use bailiwick_core::Timestamp;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTF8: u8 = 0x0c;
pub(super) const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// A value: tag, length, content.
pub(super) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let digits = length.get(zeros..).unwrap_or_default();
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
pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, &parts.concat())
}

/// An object identifier from the bytes of its content.
pub(super) fn object(content: &[u8]) -> Vec<u8> {
    value(OBJECT, content)
}

/// A positive number.
pub(super) fn integer(big_endian: &[u8]) -> Vec<u8> {
    let zeros = big_endian.iter().take_while(|byte| **byte == 0).count();
    let digits = big_endian.get(zeros..).unwrap_or_default();
    let sign: &[u8] = if digits.first().is_none_or(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    value(INTEGER, &[sign, digits].concat())
}

/// Bits, as many as the bytes have.
pub(super) fn bits(bytes: &[u8]) -> Vec<u8> {
    value(BIT_STRING, &[&[0], bytes].concat())
}

/// One attribute of a name: a set of one pair.
pub(super) fn attribute(kind: &[u8], text: &str) -> Vec<u8> {
    value(SET, &sequence(&[&object(kind), &value(UTF8, text.as_bytes())]))
}

/// A time of whole seconds: two digits for the year until 2049, four from then on (RFC 5280, section 4.1.2.5).
pub(super) fn time(time: Timestamp) -> Vec<u8> {
    let text = Timestamp::from_seconds(time.as_seconds()).to_string();
    let digits: String = text.split('.').next().unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    let zulu = format!("{digits}Z");
    match digits.strip_prefix("20") {
        Some(short) if digits.as_str() < "2050" => value(UTC_TIME, format!("{short}Z").as_bytes()),
        _ => value(GENERALIZED_TIME, zulu.as_bytes()),
    }
}

/// Reads a time of a certificate or a list.
pub(super) fn read_time(tag: u8, content: &[u8]) -> Option<Timestamp> {
    let text = str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let digits = match (tag, text.len()) {
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

/// One value that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    /// Tag, length and content.
    pub(super) whole: &'a [u8],
}

/// Reads one value after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn next(&mut self) -> Option<Value<'a>> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = if first & 0x80 == 0 {
            (usize::from(*first), rest)
        } else {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            // No length of ours has more than three digits; one of none is for streams.
            if !(1..=3).contains(&digits.len()) {
                return None;
            }
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len().checked_sub(rest.len())?)?;
        self.0 = rest;
        Some(Value { tag: *tag, content, whole })
    }

    /// The next value, if it has this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<Value<'a>> {
        self.next().filter(|value| value.tag == tag)
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

    proptest! {
        #[test]
        fn what_was_written_is_read_and_a_cut_is_noticed(content in prop::collection::vec(any::<u8>(), 0..400), tag in any::<u8>(), seconds in 0_i64..4_000_000_000) {
            let whole = value(tag, &content);
            let read = Reader(&whole).next();
            prop_assert_eq!(read, Some(Value { tag, content: &content, whole: &whole }));
            prop_assert_eq!(Reader(&whole[..whole.len() - 1]).next(), None);
            let written = time(Timestamp::from_seconds(seconds));
            let read = Reader(&written).next().unwrap();
            prop_assert_eq!(read_time(read.tag, read.content), Some(Timestamp::from_seconds(seconds)));
        }

        #[test]
        fn nonsense_is_no_value(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut reader = Reader(&bytes);
            for _ in 0..50 {
                if reader.next().is_none() {
                    break;
                }
            }
        }
    }
}
