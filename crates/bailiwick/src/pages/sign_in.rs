//! The way in, for people: one plain form or a link for each way that the installation offers.

use maud::{Markup, html};

use super::account::{PasskeyAsk, USED, passkey_fields};
use super::frame::{document, path_segment, words};
use super::{FIELD_CSRF, FIELD_HOLD, FIELD_PERSON, FIELD_REQUEST, FIELD_SECRET, PASSKEY_SCRIPT_PATH, SIGN_IN_PATH};

/// What the page shows.
#[derive(Clone)]
pub struct SignInView {
    /// The token against forged forms, of the session that is not signed in yet.
    pub csrf: String,
    /// The ways in, in order. None is said in words.
    pub ways: Vec<SignInWay>,
    /// The hold that the person wanted to see, if any.
    pub hold: Option<String>,
    /// The request of a client that brought the person here, sealed, if one did.
    pub request: Option<String>,
    /// What went wrong the last time, if anything.
    pub problem: Option<String>,
}

impl std::fmt::Debug for SignInView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignInView").field("ways", &self.ways).field("hold", &self.hold).finish_non_exhaustive()
    }
}

/// One way in.
#[derive(Debug, Clone)]
pub enum SignInWay {
    /// A secret typed into the page, such as a code that the terminal showed.
    Secret {
        /// What it is called, such as `One-time code`.
        label: String,
        /// Where to find it, as a sentence.
        hint: String,
        /// Ask for the person's name, too.
        with_name: bool,
    },
    /// A provider elsewhere: a link to `/sign-in/{id}`, where the server sends the browser on.
    Provider {
        /// The provider's id in the configuration.
        id: String,
        /// Its name for people.
        name: String,
    },
    /// A passkey, asked for by the page's script.
    Passkey(PasskeyAsk),
}

/// The page at [`SIGN_IN_PATH`].
pub fn sign_in_page(view: &SignInView) -> String {
    let content = html! {
        div.narrow {
            h1 { "Sign in" }
            p.lead { "Here people decide calls that policy holds for them. The link to a call gives no right to decide it." }
            @if let Some(problem) = &view.problem { p.warning role="alert" id="problem" { (words(problem)) } }
            @if view.ways.is_empty() { p.notice { "No way to sign in is configured." } }
            @for (number, way) in view.ways.iter().enumerate() { (way_in(view, number, way)) }
        }
    };
    document("Sign in", None, &content)
}

fn way_in(view: &SignInView, number: usize, way: &SignInWay) -> Markup {
    match way {
        SignInWay::Secret { label, hint, with_name } => {
            let (person, secret, about) = (format!("person-{number}"), format!("secret-{number}"), format!("hint-{number}"));
            html! {
                form.card method="post" action=(SIGN_IN_PATH) {
                    input type="hidden" name=(FIELD_CSRF) value=(view.csrf);
                    @if let Some(hold) = &view.hold { input type="hidden" name=(FIELD_HOLD) value=(hold); }
                    @if let Some(request) = &view.request { input type="hidden" name=(FIELD_REQUEST) value=(request); }
                    @if *with_name {
                        p.field {
                            label for=(person) { "Name" }
                            input id=(person) name=(FIELD_PERSON) type="text" autocomplete="username"
                                autocapitalize="none" spellcheck="false" maxlength="128" required;
                        }
                    }
                    p.field {
                        label for=(secret) { (words(label)) }
                        input id=(secret) name=(FIELD_SECRET) type="password" autocomplete="current-password"
                            maxlength="256" required aria-describedby=(about);
                        span.aside id=(about) { (words(hint)) }
                    }
                    p.buttons { button.primary type="submit" { "Sign in" } }
                }
            }
        }
        SignInWay::Passkey(ask) => html! {
            form.card method="post" action=(format!("{SIGN_IN_PATH}/passkey")) data-passkey="get" data-options=(ask.options) {
                input type="hidden" name=(FIELD_CSRF) value=(view.csrf);
                @if let Some(hold) = &view.hold { input type="hidden" name=(FIELD_HOLD) value=(hold); }
                @if let Some(request) = &view.request { input type="hidden" name=(FIELD_REQUEST) value=(request); }
                (passkey_fields(&ask.ticket, &USED))
                p.buttons { button.primary type="submit" id="use-passkey" { "Sign in with a passkey" } }
            }
            script src=(PASSKEY_SCRIPT_PATH) defer {}
        },
        SignInWay::Provider { id, name } => {
            let mut href = format!("{SIGN_IN_PATH}/{}", path_segment(id));
            if let Some(hold) = &view.hold {
                href = format!("{href}?{FIELD_HOLD}={}", path_segment(hold));
            } else if let Some(request) = &view.request {
                href = format!("{href}?{FIELD_REQUEST}={}", path_segment(request));
            }
            html! { p { a.button href=(href) { "Sign in with " (words(name)) } } }
        }
    }
}
