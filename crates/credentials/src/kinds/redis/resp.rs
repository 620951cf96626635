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
    let length = usize::try_from(length).map_err(|_| "a length below nothing")?;
    if length > limits.bytes {
        return Err(TOO_LONG);
    }
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
    let length = usize::try_from(length).map_err(|_| "a length below nothing")?;
    if length > limits.items {
        return Err(TOO_LONG);
    }
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

    proptest! {
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
