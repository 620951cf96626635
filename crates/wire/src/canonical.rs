//! RFC 8785 (JCS): one spelling for one value, so that a digest means the value and not its spelling.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::json::{Decimal, Raw, Walk, write_string};

/// What was noticed while writing the canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Canonical {
    /// Some number is an integer beyond ±2^53 or does not survive a float. Such numbers stand by their literal text, so
    /// that two that a float cannot tell apart keep two digests. A call that a person must approve is refused then.
    pub lossy_numbers: bool,
}

/// Appends the canonical form of `raw` to `out`.
pub fn canonical(raw: Raw<'_>, out: &mut Vec<u8>) -> Canonical {
    let mut writer = Writer { walk: Walk::over(raw), out, members: Vec::new(), seen: Canonical::default() };
    writer.value();
    writer.seen
}

struct Member<'a> {
    key: Cow<'a, str>,
    start: usize,
    end: usize,
}

struct Writer<'a, 'o> {
    walk: Walk<'a>,
    out: &'o mut Vec<u8>,
    /// Members of every object that is still open, innermost last: where each stands in `out`.
    members: Vec<Member<'a>>,
    seen: Canonical,
}

impl Writer<'_, '_> {
    fn value(&mut self) {
        match self.walk.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => {
                let raw = self.walk.value();
                self.string(raw);
            }
            Some(b'-' | b'0'..=b'9') => {
                let literal = self.walk.value().text();
                self.seen.lossy_numbers |= write_number(self.out, literal);
            }
            _ => self.out.extend_from_slice(self.walk.value().bytes()),
        }
    }

    fn string(&mut self, raw: Raw<'_>) {
        match raw.string() {
            Some(Cow::Owned(text)) => write_string(self.out, &text),
            Some(Cow::Borrowed(_)) | None => self.out.extend_from_slice(raw.bytes()),
        }
    }

    fn array(&mut self) {
        self.walk.step();
        self.out.push(b'[');
        let mut first = true;
        while self.walk.at_item() {
            if !first {
                self.out.push(b',');
            }
            first = false;
            self.value();
        }
        self.walk.step();
        self.out.push(b']');
    }

    fn object(&mut self) {
        self.walk.step();
        self.out.push(b'{');
        let start = self.out.len();
        let base = self.members.len();
        while self.walk.at_item() {
            if self.members.len() > base {
                self.out.push(b',');
            }
            let written = self.walk.value();
            let member_start = self.out.len();
            self.string(written);
            self.out.push(b':');
            self.walk.skip_to_value();
            self.value();
            let key = written.string().unwrap_or_default();
            self.members.push(Member { key, start: member_start, end: self.out.len() });
        }
        self.walk.step();
        self.sort(base, start);
        self.members.truncate(base);
        self.out.push(b'}');
    }

    /// Puts the members written since `start` in order of their keys' UTF-16 code units (RFC 8785 section 3.2.3).
    fn sort(&mut self, base: usize, start: usize) {
        let Some(members) = self.members.get_mut(base..) else {
            return;
        };
        if members.is_sorted_by(|one, two| utf16_order(&one.key, &two.key).is_le()) {
            return;
        }
        members.sort_unstable_by(|one, two| utf16_order(&one.key, &two.key));
        let unsorted = self.out.split_off(start);
        for (index, member) in members.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.out.extend_from_slice(unsorted.get(member.start - start..member.end - start).unwrap_or_default());
        }
    }
}

fn utf16_order(one: &str, two: &str) -> Ordering {
    if one.is_ascii() || two.is_ascii() {
        // UTF-8 and UTF-16 order differ only between two characters that are both beyond U+D7FF.
        return one.cmp(two);
    }
    one.encode_utf16().cmp(two.encode_utf16())
}

/// Writes a number by the rules of ECMAScript, or as it stands if that would change its value; true in that case.
fn write_number(out: &mut Vec<u8>, literal: &str) -> bool {
    let digits = literal.strip_prefix('-').unwrap_or(literal);
    let integer = digits.bytes().all(|byte| byte.is_ascii_digit());
    if integer && digits.len() <= 15 {
        out.extend_from_slice(if digits == "0" { b"0" } else { literal.as_bytes() });
        return false;
    }
    const SAFE: f64 = 9_007_199_254_740_992.0;
    let value: f64 = literal.parse().unwrap_or(f64::NAN);
    if !value.is_finite() || (integer && value.abs() > SAFE) {
        out.extend_from_slice(literal.as_bytes());
        return true;
    }
    let mut buffer = ryu_js::Buffer::new();
    let shown = buffer.format_finite(value);
    let lossy = Decimal::of(shown) != Decimal::of(literal);
    out.extend_from_slice(if lossy { literal.as_bytes() } else { shown.as_bytes() });
    lossy
}

#[cfg(test)]
mod tests;
