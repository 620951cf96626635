//! What every page has: the head, the banner with who is signed in, and small pieces that several pages use.

use std::fmt::Write as _;

use bailiwick_core::Effect;
use maud::{DOCTYPE, Markup, html};

use super::visible::{line, plain};
use super::{ACCOUNT_PATH, APPROVALS_PATH, FIELD_CSRF, SIGN_OUT_PATH, STYLE_PATH};

/// Who is looking at a page.
#[derive(Clone)]
pub struct Viewer {
    /// The person's name.
    pub name: String,
    /// The session's token against forged forms.
    pub csrf: String,
}

impl std::fmt::Debug for Viewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Viewer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A point in time, as the machine and as the reader see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// RFC 3339, in UTC.
    pub at: String,
    /// The same as seen from now, such as `in 9 minutes`.
    pub words: String,
}

impl Moment {
    pub(super) fn shown(&self) -> Markup {
        html! { time datetime=(self.at) { (line(&self.at)) } " " span.aside { "(" (line(&self.words)) ")" } }
    }
}

/// The whole document around a page's own content.
pub(super) fn document(title: &str, viewer: Option<&Viewer>, content: &Markup) -> String {
    let title = format!("{} \u{2013} Bailiwick", plain(title));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                meta name="robots" content="noindex";
                title { (title) }
                link rel="stylesheet" href=(STYLE_PATH);
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                header.banner {
                    p.brand { "Bailiwick" }
                    @if let Some(viewer) = viewer {
                        nav aria-label="Pages" { a href=(APPROVALS_PATH) { "Held calls" } " " a href=(ACCOUNT_PATH) { "You" } }
                        form.sign-out method="post" action=(SIGN_OUT_PATH) {
                            (csrf(viewer))
                            span { "Signed in as " b { (line(&viewer.name)) } }
                            button.quiet type="submit" { "Sign out" }
                        }
                    }
                }
                main id="content" tabindex="-1" { (content) }
            }
        }
    }
    .into_string()
}

pub(super) fn csrf(viewer: &Viewer) -> Markup {
    html! { input type="hidden" name=(FIELD_CSRF) value=(viewer.csrf); }
}

/// The effect as a badge: the word is always there, colour only helps.
pub(super) fn badge(effect: Effect) -> Markup {
    html! { span class=(format!("effect effect-{}", effect.word())) { (effect.word()) } }
}

/// The effect as the end of "It ...".
pub(super) const fn meaning(effect: Effect) -> &'static str {
    match effect {
        Effect::Read => "only looks",
        Effect::Influence => "writes words that people or automata will trust",
        Effect::Write => "changes data",
        Effect::Delete => "removes data",
        Effect::Transfer => "moves money or goods, or changes who receives them",
        Effect::Approve => "decides something that others wait for, or grants a right",
        Effect::Issue => "hands a credential out to the agent, which uses it without the broker until the task ends",
    }
}

/// One line of a description list, the value in the type of code where it is one.
pub(super) fn fact(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

pub(super) fn code(text: &str) -> Markup {
    html! { code { (line(text)) } }
}

pub(super) fn words(text: &str) -> Markup {
    html! { bdi { (line(text)) } }
}

/// Text as one segment of a path: all but RFC 3986's unreserved characters percent-encoded.
pub(super) fn path_segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            segment.push(char::from(byte));
        } else {
            let _written = write!(segment, "%{byte:02X}");
        }
    }
    segment
}
