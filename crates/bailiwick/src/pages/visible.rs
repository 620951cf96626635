//! Text as a reader must see it: characters that show nothing, or that reorder others, are shown by their number.

use maud::{Escaper, Render};
use std::fmt::Write as _;

/// Text to be shown in full, escaped, each hidden character marked in its place.
pub(super) struct Visible<'a> {
    text: &'a str,
    newlines: bool,
}

/// Text of one line: a newline in it is a hidden character.
pub(super) fn line(text: &str) -> Visible<'_> {
    Visible { text, newlines: false }
}

/// Text of many lines, for a `pre`.
pub(super) fn block(text: &str) -> Visible<'_> {
    Visible { text, newlines: true }
}

impl Render for Visible<'_> {
    fn render_to(&self, html: &mut String) {
        for c in self.text.chars() {
            if is_hidden(c) && !(c == '\n' && self.newlines) {
                html.push_str("<mark class=\"hidden\">");
                push_number(html, c);
                html.push_str("</mark>");
            } else {
                // Writing into a string does not fail.
                let _written = Escaper::new(html).write_char(c);
            }
        }
    }
}

/// The same without markup, for a title.
pub(super) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) { push_number(&mut shown, c) } else { shown.push(c) }
    }
    shown
}

fn push_number(text: &mut String, c: char) {
    let _written = write!(text, "\u{27e6}U+{:04X}\u{27e7}", u32::from(c));
}

/// How many characters of a text of many lines a reader could not see.
pub fn hidden_characters(text: &str) -> usize {
    text.chars().filter(|&c| c != '\n' && is_hidden(c)).count()
}

/// Is this a character that shows nothing, looks like an ordinary space, or changes the order of others?
///
/// Controls, format characters and unusual spaces of Unicode 17 (general categories Cc, Cf, Zl, Zp, and Zs but for the
/// space), what the standard calls default ignorable, blanks that are letters or symbols, private use, noncharacters.
pub fn is_hidden(c: char) -> bool {
    let number = u32::from(c);
    c.is_control()
        || number & 0xfffe == 0xfffe
        || matches!(number,
            0x00a0 | 0x00ad | 0x034f | 0x0600..=0x0605 | 0x061c | 0x06dd | 0x070f | 0x0890 | 0x0891 | 0x08e2
            | 0x115f | 0x1160 | 0x1680 | 0x17b4 | 0x17b5 | 0x180b..=0x180f
            | 0x2000..=0x200f | 0x2028..=0x202f | 0x205f..=0x206f
            | 0x2800 | 0x3000 | 0x3164 | 0xe000..=0xf8ff | 0xfdd0..=0xfdef | 0xfe00..=0xfe0f | 0xfeff | 0xffa0
            | 0xfff0..=0xfffb
            | 0x110bd | 0x110cd | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d159 | 0x1d173..=0x1d17a
            | 0xe0000..=0xe0fff | 0xf0000..=0x10_ffff)
}
