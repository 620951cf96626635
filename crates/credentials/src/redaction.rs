//! Finding secrets in answers, in the forms that programs write them in, with one pass over the bytes.

mod forms;

use std::borrow::Cow;
use std::collections::BTreeMap;

use zeroize::Zeroizing;

/// What stands where a secret stood. It is the same inside and outside a JSON string.
pub const REDACTED: &str = "[redacted by bailiwick]";

/// Shorter secrets are not looked for: they would be found everywhere.
const SECRET_MIN: usize = 6;

type Form = Zeroizing<Vec<u8>>;

/// The forms of every secret, by their first two bytes, and a bit for each such pair so that most of an answer is passed over.
#[derive(Default)]
pub(crate) struct Redaction {
    pairs: Option<Box<[u64; 1024]>>,
    forms: BTreeMap<[u8; 2], Vec<Form>>,
}

impl Redaction {
    /// Looks for this secret from now on.
    pub(crate) fn add(&mut self, secret: &[u8]) {
        for form in forms::of(secret, SECRET_MIN) {
            let Some(pair) = form.first_chunk::<2>().copied() else { continue };
            let bits = self.pairs.get_or_insert_with(|| Box::new([0; 1024]));
            let (word, bit) = place(pair);
            if let Some(word) = bits.get_mut(word) {
                *word |= bit;
            }
            let same = self.forms.entry(pair).or_default();
            if !same.contains(&form) {
                same.push(form);
                same.sort_by_key(|form| std::cmp::Reverse(form.len()));
            }
        }
    }

    /// Replaces what was found; matches that overlap become one.
    pub(crate) fn redact<'a>(&self, answer: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(pairs) = &self.pairs else { return Cow::Borrowed(answer) };
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (at, pair) in answer.array_windows::<2>().enumerate() {
            let (word, bit) = place(*pair);
            if pairs.get(word).is_some_and(|w| w & bit != 0)
                && let Some(length) = self.longest(*pair, answer.get(at..).unwrap_or_default())
            {
                let end = at.saturating_add(length);
                match found.last_mut() {
                    Some((_, last)) if at < *last => *last = end.max(*last),
                    _ => found.push((at, end)),
                }
            }
        }
        if found.is_empty() { Cow::Borrowed(answer) } else { Cow::Owned(cut(answer, &found)) }
    }

    fn longest(&self, pair: [u8; 2], rest: &[u8]) -> Option<usize> {
        self.forms.get(&pair)?.iter().find(|form| rest.starts_with(form)).map(|form| form.len())
    }
}

const fn place(pair: [u8; 2]) -> (usize, u64) {
    let n = u16::from_be_bytes(pair);
    ((n >> 6) as usize, 1 << (n & 63))
}

fn cut(answer: &[u8], found: &[(usize, usize)]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(answer.len());
    let mut from = 0;
    for (start, end) in found {
        clean.extend_from_slice(answer.get(from..*start).unwrap_or_default());
        clean.extend_from_slice(REDACTED.as_bytes());
        from = *end;
    }
    clean.extend_from_slice(answer.get(from..).unwrap_or_default());
    clean
}

#[cfg(test)]
mod tests;
