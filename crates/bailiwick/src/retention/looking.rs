//! Looking for a text in everything that is kept of calls: as it stands, and as it reads once the escapes of JSON are undone.

use std::collections::BTreeMap;

use bailiwick_core::{CallId, TaskId};

use super::{EraseError, PAGE};
use crate::house::House;

/// Times that escapes are undone: a text may be JSON within a string of JSON within an answer.
const DEPTH: usize = 4;

impl House {
    /// Calls in one of whose kept texts this stands, with the task that a text names: arguments, answers, and results that wait.
    pub(super) async fn containing(&self, text: &str) -> Result<BTreeMap<CallId, Option<TaskId>>, EraseError> {
        let (now, mut after, mut found) = (self.clock.now(), 0, BTreeMap::new());
        loop {
            let rows = self.payloads.page(after, PAGE, now).await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            for row in &rows {
                if !found.contains_key(&row.call) && self.unsealed(row).is_some_and(|(_, plain)| reads(&plain, text)) {
                    found.insert(row.call, Some(row.task));
                }
            }
        }
        for hold in self.store.holds(bailiwick_store::HoldFilter { limit: usize::MAX, ..Default::default() }).await? {
            if reads(&hold.arguments, text) {
                found.insert(hold.call, Some(hold.task));
            }
        }
        for (hold, call) in self.store.results_waiting().await? {
            if !found.contains_key(&call) && self.store.result(hold).await?.is_some_and(|result| reads(&result, text)) {
                found.insert(call, None);
            }
        }
        let mut with_holds = BTreeMap::new();
        for (call, task) in found {
            // One that never came on record is erased nevertheless.
            with_holds.insert(call, task);
            for other in self.with_hold(call).await? {
                with_holds.entry(other).or_insert(None);
            }
        }
        Ok(with_holds)
    }
}

/// Does the text stand in this, as it is or behind escapes?
fn reads(kept: &[u8], text: &str) -> bool {
    let stands = |plain: &[u8]| plain.windows(text.len().max(1)).any(|w| w == text.as_bytes());
    if stands(kept) {
        return true;
    }
    let mut plain = zeroize::Zeroizing::new(kept.to_vec());
    for _ in 0..DEPTH {
        let Some(undone) = undone(&plain) else { return false };
        plain = zeroize::Zeroizing::new(undone);
        if stands(&plain) {
            return true;
        }
    }
    false
}

/// The bytes with each escape of JSON undone once, whether they stand in a string or not. `None`: there is none.
fn undone(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let (mut rest, mut any) = (bytes, false);
    while let Some((first, after)) = rest.split_first() {
        match (first, escaped(after)) {
            (b'\\', Some((said, len))) => {
                out.extend_from_slice(said.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after.get(len..).unwrap_or_default();
                any = true;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    any.then_some(out)
}

/// What stands behind a backslash, and how long it is.
fn escaped(after: &[u8]) -> Option<(char, usize)> {
    let said = match after.first()? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(after),
        _ => return None,
    };
    Some((said, 1))
}

/// `uXXXX`, or a pair of surrogates.
fn unicode(after: &[u8]) -> Option<(char, usize)> {
    let unit = |from: usize| -> Option<u32> {
        let digits = std::str::from_utf8(after.get(from..from.saturating_add(4))?).ok()?;
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
    };
    let high = unit(1)?;
    if let Some(said) = char::from_u32(high) {
        return Some((said, 5));
    }
    let low =
        unit(7).filter(|low| after.get(5..7) == Some(b"\\u".as_slice()) && (0xdc00..0xe000).contains(low) && (0xd800..0xdc00).contains(&high))?;
    let code = 0x1_0000_u32.saturating_add((high & 0x3ff) << 10).saturating_add(low & 0x3ff);
    Some((char::from_u32(code)?, 11))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_is_found_behind_every_escape_and_several_layers_of_them() {
        for (kept, text) in [
            (r#"{"a":"M\u00fcller"}"#, "Müller"),
            (r#"{"a":"M\u00FCller"}"#, "Müller"),
            (r#"{"a":"a\/b"}"#, "a/b"),
            (r#"{"a":"\ud83d\ude00"}"#, "😀"),
            (r#"{"a":"{\"b\":\"\\u00e4\"}"}"#, "ä"),
            (r#"{"a":"{\"b\":\"\\ud83d\\ude00\"}"}"#, "😀"),
            (r#"{"a":"x\ty"}"#, "x\ty"),
            (r#"{"a":"say \"no\""}"#, "say \"no\""),
            // Literally, as somebody may have typed it.
            (r#"{"a":"M\u00fcller"}"#, r"M\u00fcller"),
            // Only the beginning is kept.
            (r#"{"a":"Gro\u00df und \u00"#, "Groß"),
        ] {
            assert!(reads(kept.as_bytes(), text), "{kept} {text}");
        }
        for (kept, text) in [(r#"{"a":"Muller"}"#, "Müller"), (r"\ud83d\u0041", "😀"), (r"\", "abc"), (r"\u12", "abc"), ("", "abc")] {
            assert!(!reads(kept.as_bytes(), text), "{kept} {text}");
        }
    }

    proptest! {
        #[test]
        fn what_json_writes_is_found_as_it_was(before in ".{0,20}", text in ".{1,20}", ascii in any::<bool>()) {
            let json = serde_json::to_string(&format!("{before}{text}")).unwrap();
            let json: String = if ascii {
                let mut units = [0u16; 2];
                json.chars().map(|c| if c.is_ascii() { c.to_string() } else { c.encode_utf16(&mut units).iter().map(|u| format!("\\u{u:04x}")).collect() }).collect()
            } else { json };
            prop_assert!(reads(json.as_bytes(), &text), "{json}");
            let twice = serde_json::to_string(&json).unwrap();
            prop_assert!(reads(twice.as_bytes(), &text), "{twice}");
        }

        #[test]
        fn nothing_that_is_kept_is_too_strange(kept in prop::collection::vec(any::<u8>(), 0..200), text in ".{3,9}") {
            let _ = reads(&kept, &text);
        }
    }
}
