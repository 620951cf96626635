//! How one form may be spelled: each character as it is, or in any mixture of the escapes of JSON, C, URLs and HTML.

use super::forms::{Form, Way};

/// Escapes of escapes: so many backslashes, or so often `25` or `amp;`.
const BACKSLASHES_MAX: usize = 8;
const AGAIN_MAX: usize = 4;
/// Space at the beginning of a broken line.
const INDENT_MAX: usize = 16;

/// Names of HTML for characters that stand in secrets (HTML Living Standard, section 13.5).
const NAMED: [(u8, &[&str]); 32] = [
    (b'\t', &["Tab"]),
    (b'\n', &["NewLine"]),
    (b'!', &["excl"]),
    (b'"', &["quot", "QUOT"]),
    (b'#', &["num"]),
    (b'$', &["dollar"]),
    (b'%', &["percnt"]),
    (b'&', &["amp", "AMP"]),
    (b'\'', &["apos"]),
    (b'(', &["lpar"]),
    (b')', &["rpar"]),
    (b'*', &["ast", "midast"]),
    (b'+', &["plus"]),
    (b',', &["comma"]),
    (b'.', &["period"]),
    (b'/', &["sol"]),
    (b':', &["colon"]),
    (b';', &["semi"]),
    (b'<', &["lt", "LT"]),
    (b'=', &["equals"]),
    (b'>', &["gt", "GT"]),
    (b'?', &["quest"]),
    (b'@', &["commat"]),
    (b'[', &["lsqb", "lbrack"]),
    (b'\\', &["bsol"]),
    (b']', &["rsqb", "rbrack"]),
    (b'^', &["Hat"]),
    (b'_', &["lowbar", "UnderBar"]),
    (b'`', &["grave", "DiacriticalGrave"]),
    (b'{', &["lcub", "lbrace"]),
    (b'|', &["verbar", "vert", "VerticalLine"]),
    (b'}', &["rcub", "rbrace"]),
];

/// One character of a form, or one byte of what is no text.
#[derive(Clone, Copy)]
struct Symbol<'a> {
    bytes: &'a [u8],
    code: u32,
}

/// Where spellings end that are possible so far: nearly always one.
#[derive(Clone, Copy, Default)]
struct Ends {
    at: [usize; 8],
    count: usize,
}

impl Ends {
    fn add(&mut self, end: usize) {
        if !self.iter().any(|at| at == end)
            && let Some(place) = self.at.get_mut(self.count)
        {
            *place = end;
            self.count = self.count.saturating_add(1);
        }
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.at.iter().copied().take(self.count)
    }
}

/// The length of the longest spelling of the form at the beginning of `text`.
pub(super) fn length(form: &Form, text: &[u8]) -> Option<usize> {
    let mut ends = Ends::default();
    ends.add(0);
    let mut rest = form.text.as_slice();
    let mut is_first = true;
    while let Some((symbol, tail)) = next(rest, form.way) {
        let mut further = Ends::default();
        for at in ends.iter() {
            let here = text.get(at..).unwrap_or_default();
            match form.way {
                Way::Text => spellings(symbol, here, &mut |length| further.add(at.saturating_add(length))),
                Way::Base64 => base64_character(symbol, here, is_first, &mut |length| further.add(at.saturating_add(length))),
                Way::Hex => {
                    if let Some(length) = hex_byte(symbol, here, is_first) {
                        further.add(at.saturating_add(length));
                    }
                }
            }
        }
        if further.count == 0 {
            return None;
        }
        ends = further;
        is_first = false;
        rest = tail;
    }
    ends.iter().max().filter(|end| *end > 0)
}

/// May this byte begin an escape, or a broken line?
pub(super) const fn may_escape(byte: u8) -> bool {
    matches!(byte, b'%' | b'\\' | b'&' | b'+' | b'\r' | b'\n')
}

/// May this byte stand between two bytes in hexadecimal?
pub(super) const fn may_separate(byte: u8) -> bool {
    matches!(byte, b':' | b'-' | b' ' | b',' | b'_')
}

/// The first four bytes of every spelling of the form in which none of them is escaped.
pub(super) fn plain_starts(form: &Form) -> Vec<[u8; 4]> {
    if form.way != Way::Hex {
        return form.text.first_chunk::<4>().copied().into_iter().collect();
    }
    let Some([one, other]) = form.text.first_chunk::<2>().copied() else { return Vec::new() };
    let mut quads = Vec::new();
    for a in digits(one >> 4) {
        for b in digits(one & 15) {
            for c in digits(other >> 4) {
                quads.extend(digits(other & 15).map(|d| [a, b, c, d]));
            }
        }
    }
    quads
}

/// The first two bytes of every spelling of the form.
pub(super) fn starts(form: &Form) -> Vec<[u8; 2]> {
    let Some((first, tail)) = next(&form.text, form.way) else { return Vec::new() };
    let Some(lead) = first.bytes.first().copied() else { return Vec::new() };
    let mut pairs = Vec::new();
    if form.way == Way::Hex {
        for high in digits(lead >> 4) {
            digits(lead & 15).into_iter().for_each(|low| pairs.push([high, low]));
        }
        return pairs;
    }
    let escaped = |symbol: Symbol<'_>| form.way == Way::Text || !symbol.code.try_into().is_ok_and(|byte: u8| byte.is_ascii_alphanumeric());
    match (first.bytes.get(1), next(tail, form.way)) {
        (Some(second), _) => pairs.push([lead, *second]),
        (None, Some((second, _))) => {
            second.bytes.first().into_iter().for_each(|byte| pairs.push([lead, *byte]));
            if form.way == Way::Base64 {
                pairs.extend([[lead, b'\r'], [lead, b'\n'], [lead, b'\\']]);
            }
            if escaped(second) {
                pairs.extend([[lead, b'%'], [lead, b'\\'], [lead, b'&'], [lead, b'+']]);
            }
        }
        (None, None) => {}
    }
    if escaped(first) {
        pairs.extend(digits(lead >> 4).map(|digit| [b'%', digit]));
        pairs.push([b'%', b'2']);
        pairs.extend([b'u', b'U', b'x', b'\\', b'n', b'r', b't', b'b', b'f', lead, b'0'.saturating_add(lead >> 6)].map(|byte| [b'\\', byte]));
        pairs.extend([[b'&', b'#'], [b'&', b'a']]);
        pairs.extend(names(first).filter_map(|name| name.as_bytes().first().map(|byte| [b'&', *byte])));
        if lead == b' ' {
            let second = next(tail, form.way).and_then(|(second, _)| second.bytes.first().copied());
            pairs.extend([second.unwrap_or(b'%'), b'%', b'\\', b'&', b'+'].map(|byte| [b'+', byte]));
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

/// The first symbol of a form, and what follows it.
fn next(form: &[u8], way: Way) -> Option<(Symbol<'_>, &[u8])> {
    let (byte, tail) = form.split_first()?;
    let one = form.get(..1)?;
    if byte.is_ascii() || way != Way::Text {
        return Some((Symbol { bytes: one, code: u32::from(*byte) }, tail));
    }
    for length in 2..=4 {
        if let Some((bytes, tail)) = form.split_at_checked(length)
            && let Ok(text) = std::str::from_utf8(bytes)
            && let Some(c) = text.chars().next()
        {
            return Some((Symbol { bytes, code: u32::from(c) }, tail));
        }
    }
    Some((Symbol { bytes: one, code: u32::from(*byte) }, tail))
}

/// Tells the length of each spelling of one character that `text` begins with.
fn spellings(symbol: Symbol<'_>, text: &[u8], tell: &mut impl FnMut(usize)) {
    if text.starts_with(symbol.bytes) {
        tell(symbol.bytes.len());
    }
    match text.first() {
        Some(b'%') => percent(symbol, text, tell),
        Some(b'\\') => backslash(symbol, text, tell),
        Some(b'&') => {
            if let Some(length) = entity(symbol, text.get(1..).unwrap_or_default()) {
                tell(length.saturating_add(1));
            }
        }
        Some(b'+') if symbol.code == 0x20 => tell(1),
        _ => {}
    }
}

/// RFC 3986 section 2.1, also of what was encoded before.
fn percent(symbol: Symbol<'_>, text: &[u8], tell: &mut impl FnMut(usize)) {
    let one = |byte: u8, text: &[u8], tell: &mut dyn FnMut(usize)| {
        if text.first() != Some(&b'%') {
            return;
        }
        for again in 0..=AGAIN_MAX {
            let at = again.saturating_mul(2).saturating_add(1);
            let Some(pair) = text.get(at..).and_then(<[u8]>::first_chunk::<2>) else { return };
            if hex_pair(*pair) == Some(byte) {
                tell(at.saturating_add(2));
            }
            if pair != b"25" {
                return;
            }
        }
    };
    if let [byte] = symbol.bytes {
        return one(*byte, text, tell);
    }
    let mut at = 0_usize;
    for byte in symbol.bytes {
        let mut length = 0;
        one(*byte, text.get(at..).unwrap_or_default(), &mut |found| length = found);
        if length == 0 {
            return;
        }
        at = at.saturating_add(length);
    }
    tell(at);
}

/// Escapes of JSON (RFC 8259 section 7), C, Python and JavaScript; of text that was escaped before, too.
fn backslash(symbol: Symbol<'_>, text: &[u8], tell: &mut impl FnMut(usize)) {
    let run = text.iter().take(BACKSLASHES_MAX).take_while(|byte| **byte == b'\\').count();
    let after = text.get(run..).unwrap_or_default();
    if symbol.code == u32::from(b'\\') {
        [2, 4, 8].into_iter().filter(|length| *length <= run).for_each(&mut *tell);
    }
    let short = match symbol.code {
        0x08 => b'b',
        0x09 => b't',
        0x0a => b'n',
        0x0c => b'f',
        0x0d => b'r',
        code => u8::try_from(code).ok().filter(u8::is_ascii_punctuation).unwrap_or(0),
    };
    if short != 0 && after.first() == Some(&short) {
        tell(run.saturating_add(1));
    }
    match after.first() {
        Some(b'u') => {
            if let Some(length) = numbered(symbol, after) {
                tell(run.saturating_add(length));
            }
            // An entity whose `&` is escaped, as Go does.
            if let Some(tail) = after.strip_prefix(b"u0026")
                && let Some(length) = entity(symbol, tail)
            {
                tell(run.saturating_add(5).saturating_add(length));
            }
        }
        Some(b'U') => numbered(symbol, after).into_iter().for_each(|length| tell(run.saturating_add(length))),
        // Each byte by itself, or a number of Latin-1.
        Some(b'x' | b'0'..=b'3') => {
            let length = bytewise(symbol.bytes, text).or_else(|| numbered(symbol, after).map(|length| run.saturating_add(length)));
            length.into_iter().for_each(tell);
        }
        _ => {}
    }
}

/// `u00e9`, a pair of surrogates, `u{e9}`, `U000000e9`: without the backslash before it.
fn numbered(symbol: Symbol<'_>, text: &[u8]) -> Option<usize> {
    let (kind, digits) = text.split_first()?;
    match kind {
        b'u' if digits.first() == Some(&b'{') => {
            let inner = digits.get(1..)?;
            let end = inner.iter().take(9).position(|byte| *byte == b'}')?;
            (hex(inner.get(..end)?)? == symbol.code).then(|| end.saturating_add(3))
        }
        b'u' => {
            let first = hex(digits.get(..4)?)?;
            if first == symbol.code {
                return Some(5);
            }
            let mut units = [0_u16; 2];
            let units = char::from_u32(symbol.code).filter(|c| c.len_utf16() == 2)?.encode_utf16(&mut units);
            let rest = digits.get(4..)?;
            let run = rest.iter().take(BACKSLASHES_MAX).take_while(|byte| **byte == b'\\').count();
            let low = hex(rest.get(run..)?.strip_prefix(b"u")?.get(..4)?)?;
            let is_pair = units.first().copied().map(u32::from) == Some(first) && units.get(1).copied().map(u32::from) == Some(low);
            (is_pair && run > 0).then(|| run.saturating_add(10))
        }
        b'U' => (hex(digits.get(..8)?)? == symbol.code).then_some(9),
        b'x' => (hex(digits.get(..2)?)? == symbol.code).then_some(3),
        _ => None,
    }
}

/// `\xc3\xa9` or `\303\251`.
fn bytewise(bytes: &[u8], text: &[u8]) -> Option<usize> {
    let mut at = 0_usize;
    for byte in bytes {
        let here = text.get(at..)?;
        let run = here.iter().take(BACKSLASHES_MAX).take_while(|byte| **byte == b'\\').count();
        let after = here.get(run..)?;
        let length = match after.first()? {
            b'x' if hex_pair(*after.get(1..)?.first_chunk::<2>()?)? == *byte => 3,
            b'0'..=b'3' if octal(*after.first_chunk::<3>()?)? == *byte => 3,
            _ => return None,
        };
        if run == 0 {
            return None;
        }
        at = at.saturating_add(run).saturating_add(length);
    }
    Some(at)
}

/// A character reference of HTML, without its `&`: `#233;`, `#xe9;`, `amp;`.
fn entity(symbol: Symbol<'_>, text: &[u8]) -> Option<usize> {
    let mut text = text;
    let mut before = 0_usize;
    let mut found = None;
    for _ in 0..=AGAIN_MAX {
        if let Some(length) = one_entity(symbol, text) {
            found = Some(before.saturating_add(length));
        }
        let Some(tail) = text.strip_prefix(b"amp;") else { break };
        text = tail;
        before = before.saturating_add(4);
    }
    found
}

fn one_entity(symbol: Symbol<'_>, text: &[u8]) -> Option<usize> {
    if let Some(number) = text.strip_prefix(b"#") {
        let (digits, radix, before) = match number.strip_prefix(b"x").or_else(|| number.strip_prefix(b"X")) {
            Some(digits) => (digits, 16, 2_usize),
            None => (number, 10, 1),
        };
        let count = digits.iter().take(8).take_while(|byte| char::from(**byte).is_digit(radix)).count();
        let code = u32::from_str_radix(std::str::from_utf8(digits.get(..count)?).ok()?, radix).ok()?;
        let end = before.saturating_add(count);
        return (code == symbol.code).then(|| end.saturating_add(usize::from(digits.get(count) == Some(&b';'))));
    }
    names(symbol)
        .filter(|name| text.strip_prefix(name.as_bytes()).is_some_and(|tail| tail.first() == Some(&b';')))
        .map(|name| name.len().saturating_add(1))
        .max()
}

fn names(symbol: Symbol<'_>) -> impl Iterator<Item = &'static str> {
    NAMED.iter().filter(move |(byte, _)| u32::from(*byte) == symbol.code).flat_map(|(_, names)| names.iter().copied())
}

/// One character of base64, after a broken line if there is one.
fn base64_character(symbol: Symbol<'_>, text: &[u8], is_first: bool, tell: &mut impl FnMut(usize)) {
    let skipped = if is_first { 0 } else { broken_line(text) };
    let here = text.get(skipped..).unwrap_or_default();
    if symbol.bytes.first().is_some_and(u8::is_ascii_alphanumeric) {
        if here.starts_with(symbol.bytes) {
            tell(skipped.saturating_add(1));
        }
    } else {
        spellings(symbol, here, &mut |length| tell(skipped.saturating_add(length)));
    }
}

/// The length of a line's end, as it is or escaped, and of the space after it.
fn broken_line(text: &[u8]) -> usize {
    let mut at = 0_usize;
    for (plain, escaped) in [(b'\r', b'r'), (b'\n', b'n')] {
        let here = text.get(at..).unwrap_or_default();
        let run = here.iter().take(BACKSLASHES_MAX).take_while(|byte| **byte == b'\\').count();
        if here.first() == Some(&plain) {
            at = at.saturating_add(1);
        } else if run > 0 && here.get(run) == Some(&escaped) {
            at = at.saturating_add(run).saturating_add(1);
        }
    }
    if at == 0 {
        return 0;
    }
    let indent = text.get(at..).unwrap_or_default().iter().take(INDENT_MAX).take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    at.saturating_add(indent)
}

/// One byte as two digits, after what may stand between such: `:`, `-`, space, `0x`, `\x`, `, 0x`.
fn hex_byte(symbol: Symbol<'_>, text: &[u8], is_first: bool) -> Option<usize> {
    let byte = symbol.bytes.first().copied()?;
    let mut at = 0_usize;
    if !is_first {
        at = text.iter().take(3).take_while(|byte| matches!(byte, b':' | b'-' | b' ' | b',' | b'_' | b'\\')).count();
        let prefix = text.get(at..).unwrap_or_default();
        if at > 0 && (prefix.starts_with(b"0x") || prefix.starts_with(b"0X")) {
            at = at.saturating_add(2);
        } else if at > 0 && prefix.first() == Some(&b'x') {
            at = at.saturating_add(1);
        }
    }
    let pair = *text.get(at..)?.first_chunk::<2>()?;
    (hex_pair(pair)? == byte).then(|| at.saturating_add(2))
}

/// The byte of two hexadecimal digits in any case.
pub(super) fn hex_pair(pair: [u8; 2]) -> Option<u8> {
    let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high?.checked_mul(16)?.checked_add(low?)?).ok()
}

fn hex(digits: &[u8]) -> Option<u32> {
    let is_hex = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    u32::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| is_hex)?, 16).ok()
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    let [a, b, c] = digits.map(|digit| char::from(digit).to_digit(8));
    u8::try_from(a?.checked_mul(64)?.checked_add(b?.checked_mul(8)?)?.checked_add(c?)?).ok()
}

/// A digit in both cases.
fn digits(n: u8) -> [u8; 2] {
    let digit = char::from_digit(u32::from(n), 16).map_or(b'0', |c| u8::try_from(c).unwrap_or(b'0'));
    [digit, digit.to_ascii_uppercase()]
}
