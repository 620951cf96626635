//! A page that says one thing: a decision was taken, something was not found, a form was out of date.

use maud::html;

use super::frame::{Viewer, code, document, words};
use super::{APPROVALS_PATH, SIGN_IN_PATH};

/// What the page says.
#[derive(Debug, Clone)]
pub struct MessageView {
    /// Who looks, if anyone is signed in.
    pub viewer: Option<Viewer>,
    /// How it is meant.
    pub tone: Tone,
    /// The message in a few words.
    pub title: String,
    /// The rest, a paragraph each. May be empty.
    pub paragraphs: Vec<String>,
    /// The public error code, if it is an error.
    pub code: Option<String>,
    /// The ledger entry to ask about, if there is one.
    pub entry: Option<String>,
}

/// How a message is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// For information.
    Plain,
    /// Something was done.
    Done,
    /// Something was not done.
    Problem,
}

/// A page for any path.
pub fn message_page(view: &MessageView) -> String {
    let (class, role) = match view.tone {
        Tone::Plain => ("message", "status"),
        Tone::Done => ("message done", "status"),
        Tone::Problem => ("message problem", "alert"),
    };
    let content = html! {
        div.narrow {
            div class=(class) role=(role) {
                h1 { (words(&view.title)) }
                @for paragraph in &view.paragraphs { p { (words(paragraph)) } }
                @if let Some(error) = &view.code { p.aside { "Code " (code(error)) } }
                @if let Some(entry) = &view.entry { p.aside { "Ledger entry " (code(entry)) } }
            }
            @if view.viewer.is_some() {
                p { a href=(APPROVALS_PATH) { "All held calls" } }
            } @else {
                p { a href=(SIGN_IN_PATH) { "Sign in" } }
            }
        }
    };
    document(&view.title, view.viewer.as_ref(), &content)
}
