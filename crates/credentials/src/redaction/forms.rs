//! The forms in which one secret can stand in an answer.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::Form;

const HEX_LOWER: &[u8; 16] = b"0123456789abcdef";
const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// Every form of a secret, and of what is secret within it, at least `min` bytes long.
pub(super) fn of(secret: &[u8], min: usize) -> Vec<Form> {
    let mut all: BTreeSet<Vec<u8>> = BTreeSet::new();
    for core in cores(secret) {
        if core.len() < min {
            continue;
        }
        all.insert(core.to_vec());
        all.insert(hex(core, HEX_LOWER));
        all.insert(hex(core, HEX_UPPER));
        all.extend(base64_forms(core));
        all.extend(percent_forms(core));
        all.extend(json_forms(core));
    }
    all.into_iter().filter(|form| form.len() >= min).map(Zeroizing::new).collect()
}

/// The secret, and the part of it that is a secret by itself: a token after its scheme, a password inside a URL.
fn cores(secret: &[u8]) -> Vec<&[u8]> {
    let mut cores = vec![secret, secret.trim_ascii()];
    let Ok(text) = std::str::from_utf8(secret) else { return cores };
    if let Some((scheme, token)) = text.split_once(' ')
        && ["bearer", "basic", "token", "apikey"].iter().any(|s| scheme.eq_ignore_ascii_case(s))
    {
        cores.push(token.trim().as_bytes());
    }
    if let Some((_, rest)) = text.split_once("://")
        && let Some((authority, _)) = rest.split_at_checked(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
        && let Some((user, _)) = authority.rsplit_once('@')
        && let Some((_, password)) = user.split_once(':')
    {
        cores.push(password.as_bytes());
    }
    cores
}

fn hex(bytes: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    bytes.iter().flat_map(|b| [nibble(digits, b >> 4), nibble(digits, b & 15)]).collect()
}

fn nibble(digits: &[u8; 16], n: u8) -> u8 {
    digits.get(usize::from(n)).copied().unwrap_or(b'0')
}

/// Base64 of the secret alone, and the characters of it that stay the same at each of the three places where it can begin inside
/// something longer, whatever stands around it.
fn base64_forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        let alone = engine.encode(secret);
        let padded = format!("{alone}{}", "=".repeat(alone.len().wrapping_neg() % 4));
        forms.extend([alone.into_bytes(), padded.into_bytes()]);
        for before in 0..3_usize {
            let shifted = Zeroizing::new([vec![0; before], secret.to_vec()].concat());
            let text = Zeroizing::new(engine.encode(shifted.as_slice()).into_bytes());
            // 8 bits stand in 6-bit characters: the first ones share bits with what is before, the last one with what follows.
            let first = [0, 2, 3].get(before).copied().unwrap_or(0);
            let whole = shifted.len().saturating_mul(8) / 6;
            forms.push(text.get(first..whole).unwrap_or_default().to_vec());
        }
    }
    forms
}

fn percent_forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    // What JavaScript's `encodeURIComponent` leaves alone, and what a form leaves alone.
    let component = move |b: u8| unreserved(b) || matches!(b, b'!' | b'\'' | b'(' | b')' | b'*');
    let form = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'*' | b' ');
    // What may stand in a path or a query unescaped (RFC 3986 section 3.3).
    let path = move |b: u8| component(b) || matches!(b, b'$' | b'&' | b'+' | b',' | b';' | b'=' | b':' | b'@' | b'/');
    let mut forms = Vec::new();
    for digits in [HEX_UPPER, HEX_LOWER] {
        forms.push(percent(secret, digits, unreserved));
        forms.push(percent(secret, digits, component));
        forms.push(percent(secret, digits, path));
        forms.push(percent(secret, digits, form).into_iter().map(|b| if b == b' ' { b'+' } else { b }).collect());
    }
    forms
}

fn percent(secret: &[u8], digits: &[u8; 16], plain: impl Fn(u8) -> bool) -> Vec<u8> {
    let one = |b: &u8| if plain(*b) { vec![*b] } else { vec![b'%', nibble(digits, b >> 4), nibble(digits, b & 15)] };
    secret.iter().flat_map(one).collect()
}

/// JSON strings of the secret as common writers escape it, and once more, for JSON that stands as text inside JSON.
fn json_forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let Ok(text) = std::str::from_utf8(secret) else { return Vec::new() };
    let ways = [
        Escape::default(),
        Escape { slash: true, ..Escape::default() },
        Escape { ascii: true, ..Escape::default() },
        Escape { ascii: true, slash: true, ..Escape::default() },
        Escape { html: true, ..Escape::default() },
    ];
    let mut forms = Vec::new();
    for way in ways {
        let once = Zeroizing::new(way.json(text));
        for again in ways {
            forms.push(again.json(&once).into_bytes());
        }
        forms.push(once.as_bytes().to_vec());
    }
    forms
}

/// What a writer of JSON escapes beyond what it must.
#[derive(Clone, Copy, Default)]
struct Escape {
    /// `/`, as PHP does.
    slash: bool,
    /// Everything beyond ASCII, as Python does.
    ascii: bool,
    /// `<`, `>` and `&`, as Go does.
    html: bool,
}

impl Escape {
    fn json(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len().saturating_mul(2));
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '/' if self.slash => out.push_str("\\/"),
                c if c < ' ' || (self.html && matches!(c, '<' | '>' | '&')) || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out
    }
}
