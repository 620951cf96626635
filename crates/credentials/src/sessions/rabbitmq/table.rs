//! Headers of messages as AMQP 0-9-1 has them: a table of names and typed values, of which texts, numbers and flags are read.

use std::collections::BTreeMap;

use super::{HEADER_MAX, HEADERS_MAX, Header, Message};
use crate::kinds::connection::Failure;
use crate::kinds::rabbitmq::amqp::{long, number, short, short_in};

const CUT_OFF: Failure = Failure::Malformed("a message's head is cut off");

/// The headers, as a table without its length.
pub(super) fn of(headers: &BTreeMap<String, Header>) -> Vec<u8> {
    let mut table = Vec::new();
    for (name, value) in headers {
        short(&mut table, name.as_bytes());
        match value {
            Header::Text(text) => {
                table.push(b'S');
                long(&mut table, text.as_bytes());
            }
            Header::Number(number) => {
                table.push(b'l');
                table.extend_from_slice(&number.to_be_bytes());
            }
            Header::Flag(flag) => table.extend_from_slice(&[b't', u8::from(*flag)]),
        }
    }
    table
}

/// Reads content type and headers from the properties of a message, which begin with what is there.
pub(super) fn read(properties: &[u8], message: &mut Message) -> Result<(), Failure> {
    let (flags, mut rest) = number(properties)?;
    if flags & 1 << 15 != 0 {
        let (content_type, after) = short_in(rest)?;
        message.content_type = Some(content_type);
        rest = after;
    }
    if flags & 1 << 14 != 0 {
        (_, rest) = short_in(rest)?;
    }
    if flags & 1 << 13 != 0 {
        let (table, _) = long_in(rest)?;
        message.headers = read_table(table)?;
    }
    Ok(())
}

/// The entries that are texts, numbers or flags; the others are passed over, and so is what is too long or too many.
fn read_table(mut rest: &[u8]) -> Result<BTreeMap<String, Header>, Failure> {
    let mut headers = BTreeMap::new();
    while !rest.is_empty() {
        let (name, after) = short_in(rest)?;
        let (kind, after) = after.split_first().ok_or(CUT_OFF)?;
        let (value, after) = match kind {
            b't' => fixed::<1>(after).map(|([flag], after)| (Some(Header::Flag(flag != 0)), after))?,
            b'b' => fixed::<1>(after).map(|(bytes, after)| (Some(Header::Number(i8::from_be_bytes(bytes).into())), after))?,
            b'B' => fixed::<1>(after).map(|([number], after)| (Some(Header::Number(number.into())), after))?,
            b's' => fixed::<2>(after).map(|(bytes, after)| (Some(Header::Number(i16::from_be_bytes(bytes).into())), after))?,
            b'u' => fixed::<2>(after).map(|(bytes, after)| (Some(Header::Number(u16::from_be_bytes(bytes).into())), after))?,
            b'I' => fixed::<4>(after).map(|(bytes, after)| (Some(Header::Number(i32::from_be_bytes(bytes).into())), after))?,
            b'i' => fixed::<4>(after).map(|(bytes, after)| (Some(Header::Number(u32::from_be_bytes(bytes).into())), after))?,
            b'l' | b'T' => fixed::<8>(after).map(|(bytes, after)| (Some(Header::Number(i64::from_be_bytes(bytes))), after))?,
            b'f' => fixed::<4>(after).map(|(_, after)| (None, after))?,
            b'D' => fixed::<5>(after).map(|(_, after)| (None, after))?,
            b'd' => fixed::<8>(after).map(|(_, after)| (None, after))?,
            b'V' => (None, after),
            b'S' => {
                let (text, after) = long_in(after)?;
                let text = str::from_utf8(text).ok().filter(|text| text.len() <= HEADER_MAX);
                (text.map(|text| Header::Text(text.to_owned())), after)
            }
            // Tables, lists and bytes.
            b'F' | b'A' | b'x' => long_in(after).map(|(_, after)| (None, after))?,
            _ => return Err(Failure::Malformed("a header of an unknown kind")),
        };
        rest = after;
        if let Some(value) = value.filter(|_| headers.len() < HEADERS_MAX) {
            headers.insert(name, value);
        }
    }
    Ok(headers)
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Failure> {
    bytes.split_first_chunk().map(|(chunk, rest)| (*chunk, rest)).ok_or(CUT_OFF)
}

fn long_in(bytes: &[u8]) -> Result<(&[u8], &[u8]), Failure> {
    let (length, rest) = fixed::<4>(bytes)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    rest.split_at_checked(length).ok_or(CUT_OFF)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        prop_oneof!["[ -~]{0,40}".prop_map(Header::Text), any::<i64>().prop_map(Header::Number), any::<bool>().prop_map(Header::Flag)]
    }

    #[test]
    fn values_of_other_kinds_are_passed_over() {
        let table = b"\x01aF\0\0\0\x02\x01b\x01cd\0\0\0\0\0\0\0\0\x01eV\x01gI\xff\xff\xff\xff\x01hA\0\0\0\0";
        assert_eq!(read_table(table).unwrap(), BTreeMap::from([("g".to_owned(), Header::Number(-1))]));
        for bad in [&b"\x01a"[..], b"\x05a", b"\x01a?", b"\x01aS\0\0\0\x09x", b"\x01al\0", b"\x01aS\xff\xff\xff\xff"] {
            assert!(read_table(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn headers_are_read_back_and_nothing_panics(headers in proptest::collection::btree_map("[a-z]{1,20}", header(), 0..9), noise in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(read_table(&of(&headers)).unwrap(), headers);
            drop(read_table(&noise));
            let mut message = Message { exchange: String::new(), routing_key: String::new(), body: Vec::new(), content_type: None, headers: BTreeMap::new() };
            drop(read(&noise, &mut message));
        }
    }
}
