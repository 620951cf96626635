//! The list of held calls: what waits for the viewer first, then what waits for others, then what was decided.

use bailiwick_core::Effect;
use maud::{Markup, html};

use super::approval_path;
use super::frame::{Moment, Viewer, badge, code, document, words};
use super::visible::line;

/// What the list shows.
#[derive(Debug, Clone)]
pub struct ApprovalsView {
    /// Who looks.
    pub viewer: Viewer,
    /// Calls that wait for people, in the order in which to show them.
    pub waiting: Vec<HoldLine>,
    /// How many wait in all, if more than [`Self::waiting`] holds: the page says so.
    pub waiting_total: usize,
    /// Calls lately decided or expired.
    pub ended: Vec<HoldLine>,
    /// How many ended lately in all.
    pub ended_total: usize,
}

/// One held call in a list.
#[derive(Debug, Clone)]
pub struct HoldLine {
    /// The hold's id.
    pub hold: String,
    /// The agent that asks.
    pub agent: String,
    /// On whose behalf.
    pub subject: String,
    /// The system.
    pub system: String,
    /// The tool.
    pub tool: String,
    /// Its effect.
    pub effect: Effect,
    /// What it acts on.
    pub target: String,
    /// When it was held.
    pub requested: Moment,
    /// Until when it may be decided.
    pub expires: Moment,
    /// Where it stands, in one word such as `pending` or `refused`.
    pub state: String,
    /// May the viewer decide it now?
    pub for_viewer: bool,
}

/// The page at [`super::APPROVALS_PATH`].
pub fn approvals_page(view: &ApprovalsView) -> String {
    let (yours, others): (Vec<_>, Vec<_>) = view.waiting.iter().partition(|hold| hold.for_viewer);
    let ended: Vec<_> = view.ended.iter().collect();
    let content = html! {
        h1 { "Held calls" }
        p.lead {
            "A call is held when policy says that a person decides it. Nothing has been sent to the system yet, and "
            "nothing will be unless it is approved in time."
        }
        (part("Waiting for you", "Nothing waits for your decision.", &yours))
        @if !others.is_empty() { (part("Waiting for others", "", &others)) }
        (not_shown(view.waiting.len(), view.waiting_total, "waiting"))
        @if !ended.is_empty() { (part("Lately decided or expired", "", &ended)) }
        (not_shown(view.ended.len(), view.ended_total, "ended"))
    };
    let title = format!("Held calls: {} for you", yours.len());
    document(&title, Some(&view.viewer), &content)
}

fn not_shown(shown: usize, total: usize, what: &str) -> Markup {
    html! {
        @if total > shown {
            p.notice role="note" { "This page shows " (shown) " of " (total) " " (what) " calls." }
        }
    }
}

fn part(title: &str, nothing: &str, holds: &[&HoldLine]) -> Markup {
    html! {
        section {
            h2 { (title) " " span.count { (holds.len()) } }
            @if holds.is_empty() {
                p.nothing { (nothing) }
            } @else {
                ul.holds { @for hold in holds { (entry(hold)) } }
            }
        }
    }
}

fn entry(hold: &HoldLine) -> Markup {
    html! {
        li class=(if hold.for_viewer { "hold mine" } else { "hold" }) {
            p.what {
                (badge(hold.effect)) " "
                a href=(approval_path(&hold.hold)) { code { (line(&hold.tool)) } " on " code { (line(&hold.target)) } }
                " " span.state { (line(&hold.state)) }
            }
            p.who {
                (words(&hold.agent)) " for " (words(&hold.subject)) ", system " (words(&hold.system))
            }
            p.when {
                "Held " (hold.requested.shown()) ", expires " (hold.expires.shown()) ", " (code(&hold.hold))
            }
        }
    }
}
