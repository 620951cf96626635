//! The plain pages where people decide: HTML made from views, with no I/O, no script and nothing left out.
//!
//! Whatever stands in a view is shown, escaped, with characters that a reader could not see made visible. A page holds
//! no link and no address that comes from a view: every `href` and `action` is made here from an id.

mod account;
mod approval;
mod approvals;
mod consent;
mod frame;
mod message;
mod sign_in;
#[cfg(test)]
mod tests;
mod visible;

pub use account::{AccountView, PasskeyAsk, PasskeyLine, SessionLine, account_page};
pub use approval::{ApprovalMade, EarlierCall, Ending, HoldView, Permission, Reason, Requester, Standing, approval_page};
pub use approvals::{ApprovalsView, HoldLine, approvals_page};
pub use consent::{ConsentView, FIELD_AGENT, FIELD_MINUTES, FIELD_PURPOSE, FIELD_TOOL, ToolView, consent_page, onward_page};
pub use frame::{Moment, Viewer};
pub use message::{MessageView, Tone, message_page};
pub use sign_in::{SignInView, SignInWay, sign_in_page};
pub use visible::{hidden_characters, is_hidden};

/// The one style sheet, to be served at [`STYLE_PATH`] as `text/css; charset=utf-8`.
pub const STYLE: &str = include_str!("style.css");

/// Where the pages expect [`STYLE`].
pub const STYLE_PATH: &str = "/assets/style.css";

/// The `Content-Security-Policy` under which every page works in full: no script, no inline style, no frames.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

/// The policy of a page that asks the browser for a passkey: one script more, ours.
pub const PASSKEY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

/// The one script, to be served at [`PASSKEY_SCRIPT_PATH`] as `text/javascript; charset=utf-8`.
pub const PASSKEY_SCRIPT: &str = include_str!("passkey.js");

/// Where the pages expect [`PASSKEY_SCRIPT`].
pub const PASSKEY_SCRIPT_PATH: &str = "/assets/passkey.js";

/// What a person has here: `GET`.
pub const ACCOUNT_PATH: &str = "/account";

/// The list of held calls: `GET`.
pub const APPROVALS_PATH: &str = "/approvals";
/// The way in: `GET` shows [`sign_in_page`], `POST` takes its form.
pub const SIGN_IN_PATH: &str = "/sign-in";
/// The way out: `POST` with [`FIELD_CSRF`].
pub const SIGN_OUT_PATH: &str = "/sign-out";

/// Whether a client may work for somebody: `GET` shows [`consent_page`], `POST` takes its form.
pub const CONSENT_PATH: &str = "/consent";

/// In every form of a signed-in person: the token of the session.
pub const FIELD_CSRF: &str = "csrf";
/// In the form of [`approval_page`]: [`DECISION_APPROVE`] or [`DECISION_REFUSE`].
pub const FIELD_DECISION: &str = "decision";
/// In the form of [`approval_page`]: the digest of the call that was shown, which the decision is bound to.
pub const FIELD_DIGEST: &str = "digest";
/// In the form of [`approval_page`]: the person's words, perhaps empty.
pub const FIELD_REASON: &str = "reason";
/// In the form of [`approval_page`], for an own request only: `yes` once the person ticked that it is one.
pub const FIELD_OWN_REQUEST: &str = "own_request";
/// In the form of [`sign_in_page`]: who wants in.
pub const FIELD_PERSON: &str = "person";
/// In the form of [`sign_in_page`]: the code or passphrase.
pub const FIELD_SECRET: &str = "secret";
/// In the form of [`sign_in_page`]: the hold to show afterwards, if one was asked for.
pub const FIELD_HOLD: &str = "hold";
/// In the forms of [`sign_in_page`] and [`consent_page`]: the request of a client, sealed.
pub const FIELD_REQUEST: &str = "request";

/// The value of [`FIELD_DECISION`] for a yes.
pub const DECISION_APPROVE: &str = "approve";
/// The value of [`FIELD_DECISION`] for a no.
pub const DECISION_REFUSE: &str = "refuse";
/// The longest [`FIELD_REASON`] that the page lets a person write, in UTF-16 code units as browsers count them.
pub const REASON_LENGTH_MAX: usize = 500;

/// Where one held call is shown (`GET`) and decided (`POST`).
pub fn approval_path(hold: &str) -> String {
    format!("{APPROVALS_PATH}/{}", frame::path_segment(hold))
}
