//! What a person has here: passkeys and sessions.

use maud::{Markup, html};

use super::frame::{Moment, Viewer, csrf, document, words};
use super::{ACCOUNT_PATH, PASSKEY_SCRIPT_PATH};

/// What the page shows.
#[derive(Debug, Clone)]
pub struct AccountView {
    /// Who is looking.
    pub viewer: Viewer,
    /// What he or she may do here, in words.
    pub roles: Vec<String>,
    /// The passkeys.
    pub passkeys: Vec<PasskeyLine>,
    /// The sessions.
    pub sessions: Vec<SessionLine>,
    /// Why none can be added in this session, if that is so, and where the person signs in anew.
    pub closed: Option<(String, Option<String>)>,
    /// How a new passkey is asked for, where that is possible.
    pub ask: Option<PasskeyAsk>,
    /// Where passkeys are to be had, if at all.
    pub site: Option<String>,
}

/// What is asked of the browser.
#[derive(Clone)]
pub struct PasskeyAsk {
    /// For `navigator.credentials`, as JSON.
    pub options: String,
    /// The challenge, sealed.
    pub ticket: String,
}

impl std::fmt::Debug for PasskeyAsk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasskeyAsk(..)")
    }
}

/// One passkey.
#[derive(Debug, Clone)]
pub struct PasskeyLine {
    /// Its id.
    pub id: String,
    /// What its person calls it.
    pub name: String,
    /// When it was registered.
    pub added: Moment,
    /// When it was used last.
    pub used: Option<Moment>,
}

/// One session.
#[derive(Debug, Clone)]
pub struct SessionLine {
    /// Its id: a name, no right.
    pub id: String,
    /// Is it the one that looks?
    pub current: bool,
    /// How the person came in.
    pub way: String,
    /// Since when.
    pub since: Moment,
    /// When it was used last.
    pub used: Moment,
}

/// The hidden fields into which the script puts what the browser gives.
pub(super) fn passkey_fields(ticket: &str, names: &[&str]) -> Markup {
    html! {
        input type="hidden" name="ticket" value=(ticket);
        @for name in names { input type="hidden" name=(name) value=""; }
        p.warning role="alert" data-passkey-problem="" hidden="" {}
        noscript { p.warning { "Passkeys need JavaScript." } }
    }
}

/// What a browser gives when a passkey is used.
pub(super) const USED: [&str; 5] = ["passkey_id", "authenticator_data", "client_data", "signature", "user_handle"];

/// The page at [`ACCOUNT_PATH`].
pub fn account_page(view: &AccountView) -> String {
    let content = html! {
        h1 { "You" }
        p.lead { "Signed in as " b { (words(&view.viewer.name)) }
            @if view.roles.is_empty() { ", with no role here." } @else { ", " (view.roles.join(", ")) "." } }
        section aria-labelledby="passkeys" {
            h2 id="passkeys" { "Passkeys" }
            @if view.passkeys.is_empty() { p { "None yet." } }
            ul.people { @for passkey in &view.passkeys { li { (passkey_line(view, passkey)) } } }
            @match (&view.closed, &view.ask, &view.site) {
                (Some((why, again)), _, _) => {
                    p.notice { "No passkey is added now: " (words(why)) "." }
                    @if let Some(again) = again { p { a.button href=(again) { "Sign in again" } } }
                },
                (None, Some(ask), _) => (add(view, ask)),
                (None, None, Some(site)) => p.notice { "A browser makes passkeys for this broker at " b { (words(site)) } " only: sign in there." },
                (None, None, None) => p.notice { "Passkeys are not to be had here: the broker has no address that a browser makes them for." },
            }
        }
        section aria-labelledby="sessions" {
            h2 id="sessions" { "Sessions" }
            ul.people { @for session in &view.sessions { li { (session_line(view, session)) } } }
        }
        script src=(PASSKEY_SCRIPT_PATH) defer {}
    };
    document("You", Some(&view.viewer), &content)
}

fn add(view: &AccountView, ask: &PasskeyAsk) -> Markup {
    html! {
        form.card method="post" action=(format!("{ACCOUNT_PATH}/passkeys")) data-passkey="create" data-options=(ask.options) autocomplete="off" {
            (csrf(&view.viewer))
            p.field {
                label for="passkey-name" { "What you call it" }
                input id="passkey-name" name="name" type="text" maxlength="60" value="my passkey";
            }
            (passkey_fields(&ask.ticket, &["attestation", "client_data"]))
            p.buttons { button.primary type="submit" id="add-passkey" { "Add a passkey" } }
        }
    }
}

fn passkey_line(view: &AccountView, passkey: &PasskeyLine) -> Markup {
    html! {
        form method="post" action=(format!("{ACCOUNT_PATH}/passkeys/remove")) {
            (csrf(&view.viewer))
            input type="hidden" name="id" value=(passkey.id);
            b { (words(&passkey.name)) } ", added " (passkey.added.shown())
            @if let Some(used) = &passkey.used { ", used " (used.shown()) }
            " " button.quiet type="submit" { "Remove" }
        }
    }
}

fn session_line(view: &AccountView, session: &SessionLine) -> Markup {
    html! {
        form method="post" action=(format!("{ACCOUNT_PATH}/sessions/end")) {
            (csrf(&view.viewer))
            input type="hidden" name="id" value=(session.id);
            @if session.current { b { "This session" } } @else { "Another session" }
            ", by " (words(&session.way)) ", since " (session.since.shown()) ", used " (session.used.shown())
            " " button.quiet type="submit" { "End" }
        }
    }
}
