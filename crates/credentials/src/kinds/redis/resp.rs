//! The bytes of RESP2, Redis' protocol: commands out, replies in. Every length that the server states has a limit.

use zeroize::Zeroizing;

const LINE_MAX: usize = 64 << 10;
/// `CLIENT LIST` of 10,000 clients has about 4 MiB.
const BULK_MAX: usize = 16 << 20;
const ITEMS_MAX: usize = 200_000;
const DEPTH_MAX: usize = 8;
/// More than this is never kept for one reply.
pub(super) const REPLY_MAX: usize = 20 << 20;

/// What a server replied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// Nothing.
    Null,
    /// `OK` and the like, or a string. What is no UTF-8 in it is replaced.
    Text(String),
    /// A refusal: a word in capitals, then a sentence.
    Error(String),
    /// A number.
    Integer(i64),
    /// Several.
    Items(Vec<Reply>),
}

impl Reply {
    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn items(&self) -> &[Self] {
        if let Self::Items(items) = self { items } else { &[] }
    }
}

/// A command as an array of strings.
pub(super) fn encode(words: &[&[u8]]) -> Zeroizing<Vec<u8>> {
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
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>, &'static str> {
    let mut rest = bytes;
    let reply = next(&mut rest, 0)?;
    Ok(reply.map(|reply| (reply, bytes.len().saturating_sub(rest.len()))))
}

fn next(rest: &mut &[u8], depth: usize) -> Result<Option<Reply>, &'static str> {
    let Some(line) = line(rest)? else { return Ok(None) };
    let Some((kind, text)) = line.split_first() else { return Err("an empty line instead of a reply") };
    match kind {
        b'+' => Ok(Some(Reply::Text(words(text)))),
        b'-' => Ok(Some(Reply::Error(words(text)))),
        b':' => number(text).map(|number| Some(Reply::Integer(number))),
        b'$' => bulk(rest, number(text)?),
        b'*' => items(rest, number(text)?, depth),
        _ => Err("a reply of an unknown kind"),
    }
}

fn bulk(rest: &mut &[u8], length: i64) -> Result<Option<Reply>, &'static str> {
    if length == -1 {
        return Ok(Some(Reply::Null));
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= BULK_MAX).ok_or("a string is too long")?;
    let Some((text, after)) = rest.split_at_checked(length) else { return Ok(None) };
    match after.split_at_checked(2) {
        None => Ok(None),
        Some((b"\r\n", after)) => {
            *rest = after;
            Ok(Some(Reply::Text(words(text))))
        }
        Some(_) => Err("a string does not end where it says"),
    }
}

fn items(rest: &mut &[u8], length: i64, depth: usize) -> Result<Option<Reply>, &'static str> {
    if length == -1 {
        return Ok(Some(Reply::Null));
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= ITEMS_MAX).ok_or("too many items")?;
    if depth >= DEPTH_MAX {
        return Err("a reply is nested too deeply");
    }
    let mut items = Vec::new();
    for _ in 0..length {
        let Some(item) = next(rest, depth.saturating_add(1))? else { return Ok(None) };
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

fn words(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Reply {
        let (reply, used) = parse(bytes).unwrap().unwrap();
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
        assert_eq!(parse(b"+OK\r\n+more").unwrap().unwrap().1, 5);
        assert_eq!(*encode(&[b"GET", b""]), b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n");
    }

    #[test]
    fn lengths_and_depths_have_limits() {
        for bytes in [&b"$99999999\r\n"[..], b"$-2\r\n", b"*999999999\r\n", b":x\r\n", b"\r\n", b"?\r\n", b"$1\r\nabc", &b"*1\r\n".repeat(9)] {
            assert!(parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
        assert!(parse(&vec![b'+'; LINE_MAX + 1]).is_err());
    }

    proptest! {
        #[test]
        fn a_part_of_a_reply_is_no_reply_and_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60), cut in 0..40_usize) {
            drop(parse(&bytes));
            let reply = encode(&[&bytes, b"x"]);
            let cut = cut.min(reply.len() - 1);
            prop_assert_eq!(parse(&reply[..cut]), Ok(None));
            prop_assert!(parse(&reply).unwrap().is_some());
        }
    }
}
