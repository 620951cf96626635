//! A connection whose client may write percent signs into `:authority`: they are replaced before HTTP/2 is read.
//!
//! gRPC's core library, under Python, C++, Ruby and others, names a Unix socket by its path, percent-encoded, in `:authority`. That is a registered name
//! by RFC 3986, but the library that reads our HTTP/2 takes no percent signs there and resets the stream. What stands there means nothing to us. A
//! percent sign becomes a hyphen in its place, so that no length and no table of the header compression changes; whatever is not understood here is
//! passed as it is, for the library to judge.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// `PRI * HTTP/2.0` and what belongs to it (RFC 9113 section 3.4).
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
/// The longest frame that we let a client send: HTTP/2's default.
const FRAME_MAX: usize = 16 * 1024;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The place of `:authority` in HPACK's static table (RFC 7541 appendix A).
const AUTHORITY: usize = 1;

/// A connection that is read through the replacement, and written as it is.
#[derive(Debug)]
pub(super) struct AnyAuthority<S> {
    inner: S,
    sieve: Sieve,
    ended: bool,
}

impl<S> AnyAuthority<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, sieve: Sieve { held: BytesMut::new(), free: 0, owed: PREFACE }, ended: false }
    }
}

/// What was received, up to where it was looked at.
#[derive(Debug)]
struct Sieve {
    held: BytesMut,
    /// So many bytes at the front may be given out.
    free: usize,
    /// So many bytes after those pass without a look, whether they are here yet or not.
    owed: usize,
}

impl Sieve {
    /// Looks at what was received, frame by frame.
    fn look(&mut self) {
        loop {
            let rest = self.held.get_mut(self.free..).unwrap_or_default();
            if self.owed > 0 {
                let pass = self.owed.min(rest.len());
                self.free = self.free.saturating_add(pass);
                self.owed = self.owed.saturating_sub(pass);
                if self.owed > 0 {
                    return;
                }
                continue;
            }
            let Some([l2, l1, l0, kind, flags, ..]) = rest.get(..FRAME_HEAD).and_then(|head| head.first_chunk::<5>()).copied() else { return };
            let length = usize::from(l2) << 16 | usize::from(l1) << 8 | usize::from(l0);
            let whole = FRAME_HEAD.saturating_add(length);
            if kind != HEADERS || flags & END_HEADERS == 0 || length > FRAME_MAX {
                self.owed = whole;
                continue;
            }
            let Some(payload) = rest.get_mut(FRAME_HEAD..whole) else { return };
            replace_in(payload, flags);
            self.free = self.free.saturating_add(whole);
        }
    }
}

/// Replaces percent signs in `:authority`, in the payload of one HEADERS frame with a whole block.
fn replace_in(payload: &mut [u8], flags: u8) {
    let padding = if flags & PADDED == 0 { 0 } else { usize::from(payload.first().copied().unwrap_or(0)) };
    let start = usize::from(flags & PADDED != 0).saturating_add(if flags & PRIORITY == 0 { 0 } else { 5 });
    let end = payload.len().saturating_sub(padding);
    if let Some(block) = payload.get_mut(start..end) {
        let mut walk = Walk { block, at: 0 };
        while walk.field().is_some() {}
    }
}

/// Walks over a block of HPACK (RFC 7541 section 6) without its tables.
struct Walk<'a> {
    block: &'a mut [u8],
    at: usize,
}

impl Walk<'_> {
    /// Passes one representation.
    fn field(&mut self) -> Option<()> {
        let first = *self.block.get(self.at)?;
        let (prefix, literal) = match first {
            0x80.. => (7, false),
            0x40..0x80 => (6, true),
            0x20..0x40 => (5, false),
            0x00..0x20 => (4, true),
        };
        let index = self.number(prefix)?;
        if !literal {
            return Some(());
        }
        let named = if index == 0 {
            let (huffman, from, to) = self.string()?;
            !huffman && self.block.get(from..to)? == b":authority"
        } else {
            index == AUTHORITY
        };
        let (huffman, from, to) = self.string()?;
        if named && !huffman {
            self.block.get_mut(from..to)?.iter_mut().filter(|byte| **byte == b'%').for_each(|byte| *byte = b'-');
        }
        Some(())
    }

    /// A number whose first bits are the low ones of a byte (RFC 7541 section 5.1).
    fn number(&mut self, prefix: u32) -> Option<usize> {
        let mask = u8::MAX >> 8_u32.saturating_sub(prefix);
        let low = self.byte()? & mask;
        let mut number = usize::from(low);
        if low < mask {
            return Some(number);
        }
        for place in 0..4_u32 {
            let byte = self.byte()?;
            number = number.checked_add(usize::from(byte & 0x7f) << (place * 7))?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.block.get(self.at)?;
        self.at = self.at.checked_add(1)?;
        Some(byte)
    }

    /// A string: whether it is Huffman-coded, and where it stands (RFC 7541 section 5.2).
    fn string(&mut self) -> Option<(bool, usize, usize)> {
        let huffman = self.block.get(self.at)? & 0x80 != 0;
        let length = self.number(7)?;
        let from = self.at;
        let to = from.checked_add(length).filter(|to| *to <= self.block.len())?;
        self.at = to;
        Some((huffman, from, to))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let this = &mut *self;
            let give = this.sieve.free.min(buf.remaining());
            if give > 0 || this.ended {
                // What is left at the end is given as it is.
                let give = if this.ended { this.sieve.held.len().min(buf.remaining()) } else { give };
                buf.put_slice(this.sieve.held.get(..give).unwrap_or_default());
                this.sieve.held.advance(give);
                this.sieve.free = this.sieve.free.saturating_sub(give);
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; 4096];
            let mut piece = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut piece))?;
            if piece.filled().is_empty() {
                this.ended = true;
            }
            this.sieve.held.extend_from_slice(piece.filled());
            this.sieve.look();
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// `:method POST`, `:authority` by index with indexing, another field with a percent sign, `:authority` by name.
    fn block(authority: &str) -> Vec<u8> {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [vec![0x83, 0x41], text(authority), vec![0x00], text("x"), text("a%2F"), vec![0x00], text(":authority"), text(authority)].concat()
    }

    async fn through(bytes: &[u8], step: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(step);
        let bytes = bytes.to_vec();
        let writing = tokio::spawn(async move {
            for piece in bytes.chunks(step) {
                client.write_all(piece).await.unwrap();
            }
        });
        let mut read = Vec::new();
        AnyAuthority::new(server).read_to_end(&mut read).await.unwrap();
        writing.await.unwrap();
        read
    }

    #[tokio::test]
    async fn percent_signs_in_the_authority_are_replaced_and_nothing_else() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let with = |authority: &str| {
            let padded = [&[3], &[0; 5][..], &block(authority), &[0; 3]].concat();
            let frames = [
                frame(4, 0, &[0; 6]),
                frame(HEADERS, END_HEADERS, &block(authority)),
                frame(0, 1, b"a%2F"),
                frame(HEADERS, END_HEADERS | PADDED | PRIORITY | 1, &padded),
            ];
            [preface.clone(), frames.concat()].concat()
        };
        for step in [1, 7, 64, 5000] {
            assert_eq!(through(&with("tmp%2Fw.sock"), step).await, with("tmp-2Fw.sock"), "{step}");
        }
    }

    #[tokio::test]
    async fn a_block_that_goes_on_in_another_frame_and_one_that_is_cut_pass_as_they_are() {
        let preface = [b'x'; PREFACE].to_vec();
        for bytes in [frame(HEADERS, 0, &block("a%2F")), frame(HEADERS, END_HEADERS, &[0x41, 0x7f, b'%']), vec![0, 0, 9, HEADERS, END_HEADERS]] {
            let all = [preface.clone(), bytes].concat();
            assert_eq!(through(&all, 16).await, all);
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_only_percent_signs_change_and_none_is_lost(bytes in prop::collection::vec(any::<u8>(), 0..400), headers in prop::collection::vec(any::<u8>(), 0..100), step in 1_usize..50) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let all = [&[b'x'; PREFACE][..], &frame(HEADERS, END_HEADERS, &headers), &bytes].concat();
            let read = runtime.block_on(through(&all, step));
            prop_assert_eq!(read.len(), all.len());
            prop_assert!(read.iter().zip(&all).all(|(new, old)| new == old || (*old == b'%' && *new == b'-')));
        }
    }
}
