//! The bytes of RESP2, Redis' protocol: commands out, replies in. Every length that the server states has a limit.

use std::borrow::Cow;

use zeroize::Zeroizing;

const LINE_MAX: usize = 64 << 10;
const DEPTH_MAX: usize = 8;
/// What is said of a reply that is longer than its limit.
pub(crate) const TOO_LONG: &str = "a reply is too long";

/// How long a reply may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// All of it, in bytes. No more is ever kept.
    pub(crate) bytes: usize,
    /// Each array of it.
    pub(crate) items: usize,
}

/// For the broker's own questions: `CLIENT LIST` of 10,000 clients has about 4 MiB.
pub(super) const OWN: Limits = Limits { bytes: 20 << 20, items: 200_000 };

/// What a server replied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Nothing.
    Null,
    /// `OK` and the like, or a string, of any bytes.
    Text(Vec<u8>),
    /// A refusal: a word in capitals, then a sentence.
    Error(String),
    /// A number.
    Integer(i64),
    /// Several.
    Items(Vec<Reply>),
}

impl Reply {
    /// A text; what is no UTF-8 in it is replaced.
    pub(crate) fn text(&self) -> Option<Cow<'_, str>> {
        if let Self::Text(text) = self { Some(String::from_utf8_lossy(text)) } else { None }
    }

    pub(crate) fn items(&self) -> &[Self] {
        if let Self::Items(items) = self { items } else { &[] }
    }
}

/// A command as an array of strings.
pub(crate) fn encode(words: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    // Room for everything at once, so that no copy of a secret is left behind when the buffer grows.
    let room = words.iter().map(|word| word.len().saturating_add(32)).sum::<usize>().saturating_add(32);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// How far a reply has come that arrives in pieces: what was looked at once is not looked at again, however small the pieces are.
#[derive(Debug)]
pub(super) struct Progress {
    /// Where the part begins that is not whole yet.
    at: usize,
    /// No line ends before this.
    searched: usize,
    /// Nothing is to be seen with fewer bytes than this.
    needs: usize,
    /// How many items are missing at each depth.
    missing: Vec<usize>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { at: 0, searched: 0, needs: 0, missing: vec![1] }
    }
}

impl Progress {
    /// Is the reply whole that `bytes` begin with? They are those of before, and perhaps more.
    pub(super) fn is_whole(&mut self, bytes: &[u8], limits: Limits) -> Result<bool, &'static str> {
        while !self.missing.is_empty() {
            if bytes.len() < self.needs {
                return Ok(false);
            }
            let from = self.searched.max(self.at);
            let end = bytes.get(from..).and_then(|rest| rest.windows(2).position(|pair| pair == b"\r\n")).map(|end| from.saturating_add(end));
            let length = end.unwrap_or(bytes.len()).saturating_sub(self.at);
            if length > LINE_MAX {
                return Err("a line is too long");
            }
            let Some(end) = end else {
                self.searched = bytes.len().saturating_sub(1);
                return Ok(false);
            };
            let line = bytes.get(self.at..end).unwrap_or_default();
            let after = end.saturating_add(2);
            let (kind, text) = line.split_first().ok_or("an empty line instead of a reply")?;
            match (kind, if matches!(kind, b'$' | b'*' | b':') { number(text)? } else { 0 }) {
                (b'$', -1) | (b'*', -1) | (b'+' | b'-' | b':', _) => self.at = after,
                (b'$', length) => {
                    let length = limited(length, limits.bytes)?;
                    let whole = after.saturating_add(length).saturating_add(2);
                    if bytes.len() < whole {
                        self.needs = whole;
                        return Ok(false);
                    }
                    if bytes.get(whole.saturating_sub(2)..whole) != Some(b"\r\n") {
                        return Err("a string does not end where it says");
                    }
                    self.at = whole;
                }
                (b'*', length) => {
                    self.at = after;
                    let length = limited(length, limits.items)?;
                    if self.missing.len() > DEPTH_MAX {
                        return Err("a reply is nested too deeply");
                    }
                    if length > 0 {
                        self.missing.push(length);
                        continue;
                    }
                }
                _ => return Err("a reply of an unknown kind"),
            }
            self.item_is_whole();
        }
        Ok(true)
    }

    fn item_is_whole(&mut self) {
        while let Some(missing) = self.missing.last_mut() {
            *missing = missing.saturating_sub(1);
            if *missing > 0 {
                return;
            }
            // An array is whole with its last item, and is an item itself.
            self.missing.pop();
        }
    }
}

fn limited(length: i64, most: usize) -> Result<usize, &'static str> {
    let length = usize::try_from(length).map_err(|_| "a length below nothing")?;
    if length > most { Err(TOO_LONG) } else { Ok(length) }
}

/// The first reply in `bytes` and how many bytes it has; `None` if it is not whole yet.
pub(super) fn parse(bytes: &[u8], limits: Limits) -> Result<Option<(Reply, usize)>, &'static str> {
    let mut rest = bytes;
    let reply = next(&mut rest, limits, 0)?;
    Ok(reply.map(|reply| (reply, bytes.len().saturating_sub(rest.len()))))
}

fn next(rest: &mut &[u8], limits: Limits, depth: usize) -> Result<Option<Reply>, &'static str> {
    let Some(line) = line(rest)? else { return Ok(None) };
    let Some((kind, text)) = line.split_first() else { return Err("an empty line instead of a reply") };
    match kind {
        b'+' => Ok(Some(Reply::Text(text.to_vec()))),
        b'-' => Ok(Some(Reply::Error(String::from_utf8_lossy(text).into_owned()))),
        b':' => number(text).map(|number| Some(Reply::Integer(number))),
        b'$' => bulk(rest, limits, number(text)?),
        b'*' => items(rest, limits, number(text)?, depth),
        _ => Err("a reply of an unknown kind"),
    }
}

fn bulk(rest: &mut &[u8], limits: Limits, length: i64) -> Result<Option<Reply>, &'static str> {
    if length == -1 {
        return Ok(Some(Reply::Null));
    }
    let length = limited(length, limits.bytes)?;
    let Some((text, after)) = rest.split_at_checked(length) else { return Ok(None) };
    match after.split_at_checked(2) {
        None => Ok(None),
        Some((b"\r\n", after)) => {
            *rest = after;
            Ok(Some(Reply::Text(text.to_vec())))
        }
        Some(_) => Err("a string does not end where it says"),
    }
}

fn items(rest: &mut &[u8], limits: Limits, length: i64, depth: usize) -> Result<Option<Reply>, &'static str> {
    if length == -1 {
        return Ok(Some(Reply::Null));
    }
    let length = limited(length, limits.items)?;
    if depth >= DEPTH_MAX {
        return Err("a reply is nested too deeply");
    }
    let mut items = Vec::new();
    for _ in 0..length {
        let Some(item) = next(rest, limits, depth.saturating_add(1))? else { return Ok(None) };
        items.push(item);
    }
    Ok(Some(Reply::Items(items)))
}

fn line<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    let Some(end) = rest.windows(2).take(LINE_MAX).position(|pair| pair == b"\r\n") else {
        return if rest.len() > LINE_MAX { Err("a line is too long") } else { Ok(None) };
    };
    let (Some(line), Some(after)) = (rest.get(..end), rest.get(end.saturating_add(2)..)) else { return Ok(None) };
    *rest = after;
    Ok(Some(line))
}

fn number(text: &[u8]) -> Result<i64, &'static str> {
    str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or("expected a number")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Reply {
        let (reply, used) = parse(bytes, OWN).unwrap().unwrap();
        assert_eq!(used, bytes.len());
        reply
    }

    #[test]
    fn replies_are_read_as_the_protocol_says() {
        assert_eq!(whole(b"+OK\r\n"), Reply::Text("OK".into()));
        assert_eq!(whole(b"-WRONGPASS no\r\n"), Reply::Error("WRONGPASS no".into()));
        assert_eq!(whole(b"$-1\r\n"), Reply::Null);
        assert_eq!(whole(b"*-1\r\n"), Reply::Null);
        assert_eq!(whole(b"*2\r\n:1\r\n$2\r\n\r\n\r\n"), Reply::Items(vec![Reply::Integer(1), Reply::Text("\r\n".into())]));
        assert_eq!(parse(b"+OK\r\n+more", OWN).unwrap().unwrap().1, 5);
        assert_eq!(*encode(&[b"GET", b""]), b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n");
    }

    #[test]
    fn lengths_and_depths_have_limits() {
        for bytes in [&b"$99999999\r\n"[..], b"$-2\r\n", b"*999999999\r\n", b":x\r\n", b"\r\n", b"?\r\n", b"$1\r\nabc", &b"*1\r\n".repeat(9)] {
            assert!(parse(bytes, OWN).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
        assert!(parse(&vec![b'+'; LINE_MAX + 1], OWN).is_err());
        let small = Limits { bytes: 3, items: 2 };
        assert_eq!(parse(b"$4\r\nlong\r\n", small), Err(TOO_LONG));
        assert_eq!(parse(b"*3\r\n:1\r\n:1\r\n:1\r\n", small), Err(TOO_LONG));
    }

    /// A reply of some kind, perhaps several deep.
    fn reply() -> impl Strategy<Value = Vec<u8>> {
        let text = |bytes: Vec<u8>| [format!("${}\r\n", bytes.len()).into_bytes(), bytes, b"\r\n".to_vec()].concat();
        let bulk = proptest::collection::vec(any::<u8>(), 0..12).prop_map(text);
        let leaf = prop_oneof![bulk, Just(b":7\r\n".to_vec()), Just(b"+OK\r\n".to_vec()), Just(b"$-1\r\n".to_vec()), Just(b"*-1\r\n".to_vec())];
        leaf.prop_recursive(3, 20, 5, |inner| {
            proptest::collection::vec(inner, 0..5).prop_map(|items| [format!("*{}\r\n", items.len()).into_bytes(), items.concat()].concat())
        })
    }

    #[test]
    fn a_reply_that_comes_byte_by_byte_is_looked_at_once() {
        // A hundred thousand items, and then a long line: looked at anew for each byte, this would take hours.
        let bytes = [b"*100001\r\n".to_vec(), b":1\r\n".repeat(100_000), vec![b'+'], vec![b'x'; LINE_MAX - 2], b"\r\n".to_vec()].concat();
        let mut progress = Progress::default();
        for end in 0..bytes.len() {
            assert!(!progress.is_whole(&bytes[..end], OWN).unwrap());
        }
        assert!(progress.is_whole(&bytes, OWN).unwrap() && parse(&bytes, OWN).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn a_reply_in_pieces_is_whole_when_it_is_read_and_not_before(reply in reply(), more in proptest::collection::vec(any::<u8>(), 0..4)) {
            let bytes = [reply.clone(), more].concat();
            let mut progress = Progress::default();
            for end in 0..=bytes.len() {
                prop_assert_eq!(progress.is_whole(&bytes[..end], OWN), Ok(end >= reply.len()));
                prop_assert_eq!(parse(&bytes[..end], OWN).unwrap().is_some(), end >= reply.len());
            }
        }

        #[test]
        fn whatever_comes_in_pieces_is_refused_if_it_would_be_refused_as_a_whole(bytes in "[$*+:-]?[-0-9a$*\r\n]{0,24}") {
            let mut progress = Progress::default();
            let (mut said, bytes) = (Ok(false), bytes.as_bytes());
            for end in 0..=bytes.len() {
                said = progress.is_whole(&bytes[..end], OWN);
                if said != Ok(false) {
                    break;
                }
            }
            // What is whole is read, and may be refused then.
            match parse(bytes, OWN) {
                Ok(whole) => prop_assert_eq!(said, Ok(whole.is_some())),
                Err(_) => prop_assert!(said != Ok(false)),
            }
        }

        #[test]
        fn a_part_of_a_reply_is_no_reply_and_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60), cut in 0..40_usize) {
            drop(parse(&bytes, OWN));
            let reply = encode(&[&bytes, b"x"]);
            let cut = cut.min(reply.len() - 1);
            prop_assert_eq!(parse(&reply[..cut], OWN), Ok(None));
            prop_assert!(parse(&reply, OWN).unwrap().is_some());
        }
    }
}
