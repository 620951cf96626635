//! Finding secrets in answers, in the forms that programs write them in, with one pass over the bytes.
//!
//! A secret is looked for as text of which each character may be escaped as it likes (JSON, percent, HTML, C), and as what carries it: base64 at
//! each place where it can begin, with broken lines, and twice over; hexadecimal with and without separators; backwards. What is computed from a
//! secret in another way (compressed, encrypted, cut into pieces, one character at a time) is not found: a system that is not trusted with its
//! own credential cannot be made harmless by looking at its answers.

mod forms;
mod spelling;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use forms::{Form, Way};

/// What stands where a secret stood. It is the same inside and outside a JSON string.
pub const REDACTED: &str = "[redacted by bailiwick]";

/// Shorter secrets are not looked for: they would be found everywhere.
const SECRET_MIN: usize = 6;

/// The forms of every secret, by the first two bytes of how they can be written, and two filters so that most of an answer is passed over.
#[derive(Default)]
pub(crate) struct Redaction {
    filter: Option<Box<Filter>>,
    starts: BTreeMap<[u8; 2], Vec<usize>>,
    forms: Vec<Form>,
}

/// A bit for each two bytes with which a form may begin, and for each four with which it begins where nothing is escaped.
struct Filter {
    pairs: [u64; 1024],
    /// Of forms in hexadecimal alone: between their bytes more may stand than an escape.
    hex_pairs: [u64; 1024],
    quads: [u64; 2048],
}

impl Redaction {
    /// Looks for this secret from now on.
    pub(crate) fn add(&mut self, secret: &[u8]) {
        for form in forms::of(secret, SECRET_MIN) {
            if self.forms.contains(&form) {
                continue;
            }
            let index = self.forms.len();
            let filter = self.filter.get_or_insert_with(|| Box::new(Filter { pairs: [0; 1024], hex_pairs: [0; 1024], quads: [0; 2048] }));
            spelling::plain_starts(&form).into_iter().for_each(|quad| filter.set_quad(quad));
            for pair in spelling::starts(&form) {
                filter.set_pair(pair, form.way);
                self.starts.entry(pair).or_default().push(index);
            }
            self.forms.push(form);
        }
    }

    /// Replaces what was found; matches that overlap become one. Without secrets there is nothing to do.
    pub(crate) fn redact<'a>(&self, answer: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(filter) = &self.filter else { return Cow::Borrowed(answer) };
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (at, quad) in answer.array_windows::<4>().enumerate() {
            if filter.may_begin(*quad)
                && let Some(length) = self.longest(*quad, answer.get(at..).unwrap_or_default())
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

    /// [`Redaction::redact`] for text.
    pub(crate) fn redact_text<'a>(&self, answer: &'a str) -> Cow<'a, str> {
        match self.redact(answer.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(answer),
            // What is cut out of the text is text, so what is left is text too.
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// Cleans every string, key and number of a JSON value. Gives how many there were to clean.
    pub(crate) fn redact_value(&self, value: &mut Value) -> usize {
        if self.filter.is_none() {
            return 0;
        }
        match value {
            Value::Null | Value::Bool(_) => 0,
            Value::Number(number) => {
                let is_secret = matches!(self.redact(number.to_string().as_bytes()), Cow::Owned(_));
                if is_secret {
                    *value = Value::from(REDACTED);
                }
                usize::from(is_secret)
            }
            Value::String(text) => match self.redact_text(text) {
                Cow::Borrowed(_) => 0,
                Cow::Owned(clean) => {
                    *text = clean;
                    1
                }
            },
            Value::Array(all) => all.iter_mut().map(|one| self.redact_value(one)).sum(),
            Value::Object(members) => {
                let bad: Vec<String> = members.keys().filter(|key| matches!(self.redact_text(key), Cow::Owned(_))).cloned().collect();
                for key in &bad {
                    if let Some(value) = members.remove(key) {
                        members.insert(self.redact_text(key).into_owned(), value);
                    }
                }
                members.values_mut().map(|one| self.redact_value(one)).sum::<usize>().saturating_add(bad.len())
            }
        }
    }

    fn longest(&self, quad: [u8; 4], rest: &[u8]) -> Option<usize> {
        let [a, b, ..] = quad;
        self.starts.get(&[a, b])?.iter().filter_map(|index| spelling::length(self.forms.get(*index)?, rest)).max()
    }
}

impl Filter {
    fn may_begin(&self, quad: [u8; 4]) -> bool {
        let [a, b, ..] = quad;
        let (word, bit) = pair_place([a, b]);
        if self.pairs.get(word).is_none_or(|w| w & bit == 0) {
            return false;
        }
        let (quad_word, quad_bit) = quad_place(quad);
        self.quads.get(quad_word).is_some_and(|w| w & quad_bit != 0)
            || quad.iter().any(|byte| spelling::may_escape(*byte))
            || (self.hex_pairs.get(word).is_some_and(|w| w & bit != 0) && quad.iter().any(|byte| spelling::may_separate(*byte)))
    }

    fn set_pair(&mut self, pair: [u8; 2], way: Way) {
        let (word, bit) = pair_place(pair);
        self.pairs.get_mut(word).into_iter().for_each(|word| *word |= bit);
        if way == Way::Hex {
            self.hex_pairs.get_mut(word).into_iter().for_each(|word| *word |= bit);
        }
    }

    fn set_quad(&mut self, quad: [u8; 4]) {
        let (word, bit) = quad_place(quad);
        self.quads.get_mut(word).into_iter().for_each(|word| *word |= bit);
    }
}

const fn pair_place(pair: [u8; 2]) -> (usize, u64) {
    let n = u16::from_be_bytes(pair);
    ((n >> 6) as usize, 1 << (n & 63))
}

/// 17 bits of a product: a quad that only shares them with one of a secret's is looked at in vain.
const fn quad_place(quad: [u8; 4]) -> (usize, u64) {
    let n = u32::from_be_bytes(quad).wrapping_mul(0x9e37_79b1) >> 15;
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
