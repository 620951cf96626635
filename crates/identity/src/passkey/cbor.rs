//! CBOR as CTAP2 writes it (RFC 8949, canonical form): definite lengths in their shortest form, no tags, no floats, bounded.

use super::PasskeyError;

/// Arrays and maps in each other.
const DEPTH_MAX: usize = 6;
/// Members of one map, or elements of one array.
const WIDTH_MAX: u64 = 32;

/// One item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    Text(&'a str),
    Array(Vec<Item<'a>>),
    Map(Vec<(Item<'a>, Item<'a>)>),
    Bool(bool),
    Null,
}

impl<'a> Item<'a> {
    /// The member of a map.
    pub(super) fn member(&self, name: &Item<'_>) -> Option<&Self> {
        match self {
            Self::Map(all) => all.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    pub(super) fn int(&self) -> Option<i64> {
        if let Self::Int(n) = self { Some(*n) } else { None }
    }

    pub(super) fn bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(b) = self { Some(b) } else { None }
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        if let Self::Text(t) = self { Some(t) } else { None }
    }
}

/// Reads one item and gives what follows it.
pub(super) fn first(bytes: &[u8]) -> Result<(Item<'_>, &[u8]), PasskeyError> {
    let mut reader = Reader { rest: bytes };
    let item = reader.item(0)?;
    Ok((item, reader.rest))
}

/// Reads one item that is the whole.
pub(super) fn whole(bytes: &[u8]) -> Result<Item<'_>, PasskeyError> {
    match first(bytes)? {
        (item, []) => Ok(item),
        _ => Err(PasskeyError::Form("something follows the CBOR")),
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

const CUT: PasskeyError = PasskeyError::Form("the CBOR is cut off");

impl<'a> Reader<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], PasskeyError> {
        let length = usize::try_from(length).map_err(|_| CUT)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The argument of an initial byte: in its shortest form, and never of an indefinite length.
    fn argument(&mut self, low: u8) -> Result<u64, PasskeyError> {
        let (width, least) = match low {
            0..=23 => return Ok(u64::from(low)),
            24 => (1, 24),
            25 => (2, 1 << 8),
            26 => (4, 1 << 16),
            27 => (8, 1 << 32),
            _ => return Err(PasskeyError::Form("a length that is reserved or indefinite")),
        };
        let value = self.take(width)?.iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
        //= ctap-v2.1#section-6
        // The representations of integers and lengths MUST be as small as possible.
        if value < least { Err(PasskeyError::Form("a number that is not in its shortest form")) } else { Ok(value) }
    }

    fn item(&mut self, depth: usize) -> Result<Item<'a>, PasskeyError> {
        let &[head] = self.take(1)? else { return Err(CUT) };
        let (major, low) = (head >> 5, head & 0x1f);
        if major == 7 {
            return match low {
                20 => Ok(Item::Bool(false)),
                21 => Ok(Item::Bool(true)),
                22 => Ok(Item::Null),
                _ => Err(PasskeyError::Form("a value of a kind that has no place here")),
            };
        }
        let argument = self.argument(low)?;
        match major {
            0 => Ok(Item::Int(signed(argument)?)),
            1 => Ok(Item::Int(-1 - signed(argument)?)),
            2 => Ok(Item::Bytes(self.take(argument)?)),
            3 => std::str::from_utf8(self.take(argument)?).map(Item::Text).map_err(|_| PasskeyError::Form("a text that is not UTF-8")),
            4 | 5 if depth >= DEPTH_MAX => Err(PasskeyError::Form("nested too deeply")),
            4 | 5 if argument > WIDTH_MAX => Err(PasskeyError::Form("too many members")),
            4 => (0..argument).map(|_| self.item(depth + 1)).collect::<Result<_, _>>().map(Item::Array),
            5 => self.map(argument, depth + 1),
            //= ctap-v2.1#section-6
            // Tags as defined in Section 3.4 in [RFC8949] MUST NOT be present.
            _ => Err(PasskeyError::Form("a tag")),
        }
    }

    fn map(&mut self, length: u64, depth: usize) -> Result<Item<'a>, PasskeyError> {
        let mut all: Vec<(Item<'a>, Item<'a>)> = Vec::new();
        for _ in 0..length {
            let key = self.item(depth)?;
            if !matches!(key, Item::Int(_) | Item::Text(_)) || all.iter().any(|(other, _)| *other == key) {
                return Err(PasskeyError::Form("a name that stands twice, or is none"));
            }
            all.push((key, self.item(depth)?));
        }
        Ok(Item::Map(all))
    }
}

fn signed(argument: u64) -> Result<i64, PasskeyError> {
    i64::try_from(argument).map_err(|_| PasskeyError::Form("a number that is too large"))
}
