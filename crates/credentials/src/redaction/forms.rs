//! The forms in which one secret can stand in an answer.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// Base64 within base64 is looked for up to this length of a secret: enough for tokens.
const TWICE_MAX: usize = 8 << 10;
/// A line of a secret of many lines is a secret by itself from this length on, if it has no space: a key's, not a word's.
const LINE_MIN: usize = 32;
const LINES_MAX: usize = 100;

/// One form.
#[derive(PartialEq, Eq)]
pub(super) struct Form {
    pub(super) way: Way,
    pub(super) text: Zeroizing<Vec<u8>>,
}

/// How a form may be spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Each character as it is or escaped.
    Text,
    /// Characters of base64, which may be broken into lines. Only `+`, `/` and `=` are ever escaped.
    Base64,
    /// Each byte as two hexadecimal digits, with or without something between them.
    Hex,
}

/// Every form of a secret, and of what is secret within it, at least `min` bytes long.
pub(super) fn of(secret: &[u8], min: usize) -> Vec<Form> {
    let mut all: BTreeSet<(Way, Vec<u8>)> = BTreeSet::new();
    for core in cores(secret) {
        if core.len() < min {
            continue;
        }
        let once = base64_forms(&core);
        if core.len() <= TWICE_MAX {
            all.extend(once.iter().flat_map(|form| base64_forms(form)).map(|form| (Way::Base64, form)));
        }
        all.extend(once.into_iter().map(|form| (Way::Base64, form)));
        all.insert((Way::Text, backwards(&core)));
        all.insert((Way::Hex, core.to_vec()));
        all.insert((Way::Text, core.to_vec()));
    }
    all.into_iter().map(|(way, text)| Form { way, text: Zeroizing::new(text) }).filter(|form| form.text.len() >= min).collect()
}

/// The secret, and the part of it that is a secret by itself: a token after its scheme, a password inside a URL, a line of a key, a value of a JSON object.
fn cores(secret: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut cores = vec![secret.to_vec(), secret.trim_ascii().to_vec()];
    if let Ok(text) = std::str::from_utf8(secret) {
        if let Some((scheme, token)) = text.split_once(' ')
            && ["bearer", "basic", "token", "apikey"].iter().any(|s| scheme.eq_ignore_ascii_case(s))
        {
            cores.push(token.trim().as_bytes().to_vec());
        }
        if let Some((_, rest)) = text.split_once("://")
            && let Some((authority, _)) = rest.split_at_checked(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
            && let Some((user, _)) = authority.rsplit_once('@')
            && let Some((_, password)) = user.split_once(':')
        {
            cores.push(password.as_bytes().to_vec());
            cores.push(percent_decoded(password));
        }
        let lines = text.lines().map(str::trim).filter(|line| line.len() >= LINE_MIN && line.len() < secret.len() && !line.contains([' ', '\t']));
        cores.extend(lines.take(LINES_MAX).map(|line| line.as_bytes().to_vec()));
        // Several secrets in one, as the three of a session at AWS.
        if let Ok(values) = serde_json::from_str::<BTreeMap<String, String>>(text) {
            cores.extend(values.into_values().take(LINES_MAX).map(String::into_bytes));
        }
    }
    cores.sort();
    cores.dedup();
    cores.into_iter().map(Zeroizing::new).collect()
}

fn backwards(core: &[u8]) -> Vec<u8> {
    std::str::from_utf8(core).map_or_else(|_| core.iter().rev().copied().collect(), |text| text.chars().rev().collect::<String>().into_bytes())
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let decoded = tail.first_chunk::<2>().filter(|_| *byte == b'%').and_then(|pair| super::spelling::hex_pair(*pair));
        out.push(decoded.unwrap_or(*byte));
        rest = if decoded.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    out
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
    forms.sort();
    forms.dedup();
    forms
}
