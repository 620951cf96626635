//! The data types of SSH (RFC 4251, section 5), written and read. What is read came from a stranger: everything is checked for its length.

/// Reads one value after the other; `None` where there is no such value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().copied().map(u32::from_be_bytes)
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        str::from_utf8(self.string()?).ok()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(super) fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_be_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// A string: its length and its bytes. Nothing of ours comes near 4 GiB.
pub(super) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(bytes);
}

/// A positive number as `mpint`: no leading zeros, but one where the first bit would make it negative.
pub(super) fn put_mpint(out: &mut Vec<u8>, big_endian: &[u8]) {
    let zeros = big_endian.iter().take_while(|byte| **byte == 0).count();
    let digits = big_endian.get(zeros..).unwrap_or_default();
    let sign: &[u8] = if digits.first().is_some_and(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    put_u32(out, u32::try_from(sign.len().saturating_add(digits.len())).unwrap_or(u32::MAX));
    out.extend_from_slice(sign);
    out.extend_from_slice(digits);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_written_as_the_standards_examples() {
        //= rfc4251#section-5: the examples of mpint
        for (digits, written) in [
            (&[0_u8][..], &[0_u8, 0, 0, 0][..]),
            (&[0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7], &[0, 0, 0, 8, 0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7]),
            (&[0x80], &[0, 0, 0, 2, 0, 0x80]),
            (&[0, 0, 0x7f], &[0, 0, 0, 1, 0x7f]),
        ] {
            let mut out = Vec::new();
            put_mpint(&mut out, digits);
            assert_eq!(out, written);
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_a_cut_is_noticed(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6)) {
            let mut out = Vec::new();
            parts.iter().for_each(|part| put_string(&mut out, part));
            let mut reader = Reader(&out);
            for part in &parts {
                prop_assert_eq!(reader.string(), Some(part.as_slice()));
            }
            prop_assert!(reader.is_empty());
            let mut cut = Reader(&out[..out.len() - 1]);
            let read = (0..parts.len()).map_while(|_| cut.string()).count();
            prop_assert!(read < parts.len());
        }
    }
}
