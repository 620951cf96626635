//! Arguments as a person must see them before deciding: all of them, with nothing invisible and nothing left out in silence.

use std::fmt::Write as _;

use crate::canonical::canonical;
use crate::json::{Kind, Limits, MAX_DEPTH, Raw};

/// A character that a screen does not show, or that changes how others are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hidden {
    /// C0 and C1 controls except tab and line ends: terminal escapes begin with one.
    Control,
    /// Reorders what is shown (CVE-2021-42574).
    Bidi,
    /// Has no width: joins, separates or fills.
    ZeroWidth,
    /// Tag characters: invisible copies of ASCII that models read.
    Tag,
    /// Variation selectors that can carry bytes, private use, interlinear marks.
    Invisible,
}

impl Hidden {
    /// What is hidden about `char`, if anything. Tab and line ends are not.
    pub fn of(char: char) -> Option<Self> {
        Some(match char {
            '\t' | '\n' | '\r' | ' '..='~' => return None,
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => Self::Control,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => Self::Bidi,
            '\u{ad}'
            | '\u{34f}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200d}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{2060}'..='\u{2065}'
            | '\u{206a}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}' => Self::ZeroWidth,
            '\u{e0000}'..='\u{e007f}' => Self::Tag,
            '\u{fe00}'..='\u{fe0e}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e000}'..='\u{f8ff}'
            | '\u{e0080}'..='\u{e0fff}'
            | '\u{f0000}'..='\u{10ffff}'
            | '\u{1d173}'..='\u{1d17a}' => Self::Invisible,
            _ => return None,
        })
    }
}

/// What a person is shown of a call's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// JSON of the same value as the arguments, one member a line, every hidden character as its `\u` escape.
    pub text: String,
    /// Characters of `text`.
    pub characters: usize,
    /// How many hidden characters the arguments hold. Anything but 0 deserves a warning.
    pub hidden: usize,
    /// How many characters outside ASCII: look-alikes of other scripts are among them.
    pub non_ascii: usize,
    /// Some number cannot be told from its neighbours by a float. A call with one must not be approved.
    pub lossy_numbers: bool,
}

/// Shows all of `arguments`: canonical order, one member a line, hidden characters escaped. Nothing is left out.
pub fn render(arguments: Raw<'_>) -> Shown {
    let mut form = Vec::with_capacity(arguments.text().len());
    let seen = canonical(arguments, &mut form);
    let mut writer = Writer { out: String::with_capacity(form.len() + form.len() / 4), hidden: 0, non_ascii: 0 };
    let limits = Limits { bytes: usize::MAX, depth: MAX_DEPTH, keys: usize::MAX, string: usize::MAX, refuse_nul: false };
    match Raw::parse(&form, &limits) {
        Ok(form) => writer.value(form, 0),
        // INVARIANT: a canonical form is JSON. Were it not, the person still sees all of it.
        Err(_) => writer.escaped(arguments.text()),
    }
    Shown {
        characters: writer.out.chars().count(),
        text: writer.out,
        hidden: writer.hidden,
        non_ascii: writer.non_ascii,
        lossy_numbers: seen.lossy_numbers,
    }
}

impl Shown {
    /// At most `budget` characters of the text, from its beginning and its end, with words in between that say how
    /// much is missing. `None` if all of it fits: then show all of it.
    pub fn excerpt(&self, budget: usize) -> Option<String> {
        if self.characters <= budget {
            return None;
        }
        let head = budget - budget / 3;
        let tail = budget / 3;
        let mut out: String = self.text.chars().take(head).collect();
        let missing = self.characters - head - tail;
        let _ = write!(out, "\n[... {missing} of {} characters are not shown here ...]\n", self.characters);
        out.extend(self.text.chars().skip(self.characters - tail));
        Some(out)
    }
}

/// One line of text with every hidden character, tab and line end escaped; for names, purposes and messages.
pub fn line(text: &str) -> String {
    let mut writer = Writer { out: String::with_capacity(text.len()), hidden: 0, non_ascii: 0 };
    for char in text.chars() {
        match char {
            '\n' => writer.out.push_str("\\n"),
            '\r' => writer.out.push_str("\\r"),
            '\t' => writer.out.push_str("\\t"),
            other => writer.char(other),
        }
    }
    writer.out
}

struct Writer {
    out: String,
    hidden: usize,
    non_ascii: usize,
}

impl Writer {
    fn value(&mut self, raw: Raw<'_>, depth: usize) {
        match raw.kind() {
            Kind::Object if raw.entries().next().is_some() => {
                self.out.push('{');
                for (index, (key, value)) in raw.entries().enumerate() {
                    self.newline(index > 0, depth + 1);
                    self.escaped(key.text());
                    self.out.push_str(": ");
                    self.value(value, depth + 1);
                }
                self.newline(false, depth);
                self.out.push('}');
            }
            Kind::Array if raw.elements().next().is_some() => {
                self.out.push('[');
                for (index, value) in raw.elements().enumerate() {
                    self.newline(index > 0, depth + 1);
                    self.value(value, depth + 1);
                }
                self.newline(false, depth);
                self.out.push(']');
            }
            _ => self.escaped(raw.text()),
        }
    }

    fn newline(&mut self, comma: bool, depth: usize) {
        self.out.push_str(if comma { ",\n" } else { "\n" });
        (0..depth).for_each(|_| self.out.push_str("  "));
    }

    /// Copies a canonical scalar. Controls below space are escapes there already; they count as hidden too.
    fn escaped(&mut self, text: &str) {
        let mut rest = text.chars();
        while let Some(char) = rest.next() {
            if char != '\\' {
                self.char(char);
                continue;
            }
            self.out.push(char);
            if let Some(escape) = rest.next() {
                self.hidden += usize::from(matches!(escape, 'u' | 'b' | 'f'));
                self.out.push(escape);
            }
        }
    }

    fn char(&mut self, char: char) {
        self.non_ascii += usize::from(!char.is_ascii());
        if Hidden::of(char).is_none() {
            self.out.push(char);
            return;
        }
        self.hidden += 1;
        for unit in char.encode_utf16(&mut [0; 2]) {
            let _ = write!(self.out, "\\u{unit:04x}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Shown {
        render(Raw::parse(text.as_bytes(), &Limits::REPLY).unwrap())
    }

    #[test]
    fn bi_048_what_reorders_or_hides_is_shown_as_its_escape() {
        let seen = shown("{\"file\":\"invoice\u{202e}fdp.exe\",\"b\\u200b\":\"\\u001b[8m\u{e0041}\"}");
        assert_eq!(seen.text, "{\n  \"b\\u200b\": \"\\u001b[8m\\udb40\\udc41\",\n  \"file\": \"invoice\\u202efdp.exe\"\n}");
        assert_eq!((seen.hidden, seen.non_ascii), (4, 3));
        assert_eq!(line("a\u{202e}b\nc\u{1b}[8m"), "a\\u202eb\\nc\\u001b[8m");
        assert_eq!(shown("{\"name\":\"Zürich 😀\"}").hidden, 0);
    }

    #[test]
    fn bi_081_all_is_shown_and_an_excerpt_says_what_it_leaves_out() {
        let body = format!("{{\"body\":\"{}TRANSFER ALL\"}}", "x".repeat(50_000));
        let seen = shown(&body);
        assert!(seen.text.contains("TRANSFER ALL"));
        assert_eq!(seen.characters, seen.text.chars().count());
        let excerpt = seen.excerpt(300).unwrap();
        assert!(excerpt.contains("TRANSFER ALL") && excerpt.starts_with("{\n  \"body\""));
        assert!(excerpt.contains(&format!("[... {} of {} characters are not shown here ...]", seen.characters - 300, seen.characters)));
        assert_eq!(shown("{}").excerpt(300), None);
    }

    #[test]
    fn bi_081_the_deepest_value_is_shown() {
        let deep = "[".repeat(MAX_DEPTH) + &"]".repeat(MAX_DEPTH);
        let limits = Limits { depth: MAX_DEPTH, ..Limits::REQUEST };
        let seen = render(Raw::parse(deep.as_bytes(), &limits).unwrap());
        assert_eq!(seen.text.matches('[').count(), MAX_DEPTH);
        assert_eq!(seen.text.lines().count(), 2 * MAX_DEPTH - 1);
    }

    #[test]
    fn numbers_that_a_float_cannot_hold_are_shown_as_written_and_marked() {
        let seen = shown("{\"n\":12345678901234567890123}");
        assert!(seen.lossy_numbers && seen.text.contains("12345678901234567890123"));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_the_same_value_and_holds_nothing_hidden(value in crate::json::tests::value()) {
            let text = value.to_string();
            let seen = shown(&text);
            let (mut from_text, mut from_shown) = (Vec::new(), Vec::new());
            let _ = canonical(Raw::parse(text.as_bytes(), &Limits::REPLY).unwrap(), &mut from_text);
            let _ = canonical(Raw::parse(seen.text.as_bytes(), &Limits::REPLY).unwrap(), &mut from_shown);
            prop_assert_eq!(from_text, from_shown);
            prop_assert!(seen.text.chars().all(|char| Hidden::of(char).is_none()));
        }
    }
}
