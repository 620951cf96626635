//! One held call, with everything that a person needs to answer for a decision, and the form to decide it.

use bailiwick_core::Effect;
use maud::{Markup, html};

use super::account::{PasskeyAsk, USED, passkey_fields};
use super::frame::{Moment, Viewer, badge, code, csrf, document, fact, meaning, words};
use super::visible::{block, hidden_characters, line};
use super::{
    APPROVALS_PATH, DECISION_APPROVE, DECISION_REFUSE, FIELD_DECISION, FIELD_DIGEST, FIELD_OWN_REQUEST, FIELD_REASON, PASSKEY_SCRIPT_PATH,
    REASON_LENGTH_MAX, approval_path,
};

/// Everything about one held call that the page shows.
#[derive(Debug, Clone)]
pub struct HoldView {
    /// Who looks.
    pub viewer: Viewer,
    /// The hold's id.
    pub hold: String,
    /// Who asks, and for what work.
    pub requester: Requester,
    /// The system.
    pub system: String,
    /// The tool.
    pub tool: String,
    /// Its effect.
    pub effect: Effect,
    /// What it acts on.
    pub target: String,
    /// The arguments in full, as text of one or more lines. The page marks hidden characters itself.
    pub arguments: String,
    /// How long the arguments are as they will be sent, in bytes.
    pub arguments_bytes: usize,
    /// The digest that a decision is bound to.
    pub digest: String,
    /// The policies that hold it, with their reasons. None is shown as what it is.
    pub reasons: Vec<Reason>,
    /// The revision of the policy that held it.
    pub revision: String,
    /// Whose approval counts.
    pub approvers: Vec<String>,
    /// How many approvals are needed.
    pub approvals_needed: usize,
    /// The approvals so far.
    pub approvals: Vec<ApprovalMade>,
    /// When it was held.
    pub requested: Moment,
    /// Until when it may be decided.
    pub expires: Moment,
    /// Calls of the same task before this one, the oldest first.
    pub earlier: Vec<EarlierCall>,
    /// How many there are in all; if more than [`Self::earlier`] holds, the page says so.
    pub earlier_total: usize,
    /// Where it stands, and what the viewer may do.
    pub standing: Standing,
    /// How the viewer's passkey signs a yes, if it does.
    pub passkey: Option<PasskeyAsk>,
}

/// Who asks, and for what work.
#[derive(Debug, Clone)]
pub struct Requester {
    /// The agent's name.
    pub agent: String,
    /// Its identity as proved.
    pub spiffe_id: String,
    /// The human who answers for the agent.
    pub owner: String,
    /// The human on whose behalf it asks.
    pub subject: String,
    /// The task.
    pub task: String,
    /// What the task is for, in its opener's words.
    pub purpose: String,
    /// The marks of what the task has read so far, such as `untrusted`.
    pub labels: Vec<String>,
}

/// A policy that holds the call.
#[derive(Debug, Clone)]
pub struct Reason {
    /// The policy's id.
    pub policy: String,
    /// Its reason in words; empty if its author gave none.
    pub words: String,
}

/// An approval that was given already.
#[derive(Debug, Clone)]
pub struct ApprovalMade {
    /// By whom.
    pub person: String,
    /// Whether it was that person's own request.
    pub own_request: bool,
    /// How the person proved who he or she is.
    pub proof: String,
    /// When.
    pub at: Moment,
}

/// A call of the task before this one.
#[derive(Debug, Clone)]
pub struct EarlierCall {
    /// When.
    pub at: String,
    /// The system.
    pub system: String,
    /// The tool.
    pub tool: String,
    /// Its effect.
    pub effect: Effect,
    /// What it acted on.
    pub target: String,
    /// What became of it, such as `allowed, done` or `denied`.
    pub outcome: String,
    /// Where it stands in the ledger.
    pub entry: String,
}

/// Where a held call stands.
#[derive(Debug, Clone)]
pub enum Standing {
    /// It waits for people.
    Open(Permission),
    /// It waits no more.
    Over(Ending),
}

/// May the viewer decide?
#[derive(Debug, Clone)]
pub enum Permission {
    /// Yes, as a second person.
    Granted,
    /// Yes, though the viewer owns the agent or asked for the work: this will be on record as what it is.
    OwnRequest,
    /// No, and why not, as a sentence.
    Refused(String),
}

/// How a hold ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// In one word: `approved`, `refused`, `expired`, `withdrawn`, `consumed`.
    pub word: String,
    /// By whom, if by a person.
    pub by: Option<String>,
    /// In that person's words, if there are any.
    pub reason: Option<String>,
    /// When.
    pub at: Moment,
    /// Where it stands in the ledger, if known.
    pub entry: Option<String>,
}

/// The page at [`super::approval_path`].
pub fn approval_page(view: &HoldView) -> String {
    let asked = &view.requester;
    let content = html! {
        p.back { a href=(APPROVALS_PATH) { "All held calls" } }
        h1 { (badge(view.effect)) " " code { (line(&view.tool)) } " on " code { (line(&view.target)) } }
        p.lead {
            "Agent " b { (words(&asked.agent)) } ", working for " b { (words(&asked.subject)) }
            ", asks to make this call to " b { (words(&view.system)) } ". It " (meaning(view.effect)) "."
            @if matches!(view.standing, Standing::Open(_)) { " Nothing has been sent yet." }
        }
        (standing(view))
        div.columns {
            div {
                (why(view))
                (exact_call(view))
                (earlier(view))
            }
            div.side {
                (who(asked))
                (people(view))
            }
        }
        (decide(view))
    };
    let title = format!("{} on {}", view.tool, view.target);
    document(&title, Some(&view.viewer), &content)
}

fn standing(view: &HoldView) -> Markup {
    html! {
        @match &view.standing {
            Standing::Open(_) => {
                p.standing.open role="status" {
                    b { "Waiting for a decision." } " Expires " (view.expires.shown()) "."
                }
            }
            Standing::Over(ending) => {
                div.standing.over role="status" {
                    p {
                        b.state { (line(&ending.word)) }
                        @if let Some(by) = &ending.by { " by " b { (words(by)) } }
                        " " (ending.at.shown())
                        @if let Some(entry) = &ending.entry { ", ledger entry " (code(entry)) }
                    }
                    @if let Some(reason) = &ending.reason {
                        blockquote { (block(reason)) }
                    }
                }
            }
        }
    }
}

fn why(view: &HoldView) -> Markup {
    html! {
        section aria-labelledby="why" {
            h2 id="why" { "Why it is held" }
            @if view.reasons.is_empty() {
                p.notice { "No policy gave a reason." }
            }
            ul.reasons {
                @for reason in &view.reasons {
                    li {
                        @if reason.words.is_empty() { i { "The policy gives no reason." } } @else { (words(&reason.words)) }
                        " " span.aside { "policy " (code(&reason.policy)) }
                    }
                }
            }
            p.aside { "Policy revision " (code(&view.revision)) }
        }
    }
}

fn exact_call(view: &HoldView) -> Markup {
    let hidden = hidden_characters(&view.arguments);
    let lines = view.arguments.split('\n').count();
    html! {
        section aria-labelledby="call" {
            h2 id="call" { "The exact call" }
            dl {
                (fact("System", &words(&view.system)))
                (fact("Tool", &code(&view.tool)))
                (fact("Effect", &html! { (badge(view.effect)) " " (meaning(view.effect)) }))
                (fact("Target", &code(&view.target)))
            }
            h3 id="arguments" { "Arguments" }
            p.aside {
                (view.arguments_bytes) " bytes as sent, " (lines) @if lines == 1 { " line" } @else { " lines" }
                " below, shown in full."
            }
            @if hidden > 0 {
                p.warning role="note" {
                    b { (hidden) @if hidden == 1 { " hidden character" } @else { " hidden characters" } }
                    " in these arguments. Each is shown by its number, marked like "
                    mark.hidden { "\u{27e6}U+200B\u{27e7}" } "."
                }
            }
            // A newline right after `pre` would be dropped by the parser, so one is given that may be.
            pre.arguments aria-labelledby="arguments" { "\n" (block(&view.arguments)) }
            p.end { "End of the arguments" }
            dl { (fact("Digest", &code(&view.digest))) }
            p.aside { "The digest covers tool, arguments, target and task. A decision counts for this call only." }
        }
    }
}

fn earlier(view: &HoldView) -> Markup {
    let total = view.earlier_total.max(view.earlier.len());
    html! {
        section aria-labelledby="earlier" {
            h2 id="earlier" { "What the task did before" " " span.count { (total) } }
            @if total > view.earlier.len() {
                p.notice role="note" {
                    "This page shows " (view.earlier.len()) " of " (total) " calls; the ledger has all of them."
                }
            }
            @if total == 0 {
                p.nothing { "This is the task's first call." }
            }
            @if !view.earlier.is_empty() {
                table {
                    thead {
                        tr {
                            th scope="col" { "When" }
                            th scope="col" { "Call" }
                            th scope="col" { "Outcome" }
                            th scope="col" { "Entry" }
                        }
                    }
                    tbody { @for call in &view.earlier { (earlier_call(call)) } }
                }
            }
        }
    }
}

fn earlier_call(call: &EarlierCall) -> Markup {
    html! {
        tr {
            td data-name="When" { time datetime=(call.at) { (line(&call.at)) } }
            td data-name="Call" {
                (badge(call.effect)) " " (code(&call.tool)) " on " (code(&call.target))
                " " span.aside { "system " (words(&call.system)) }
            }
            td data-name="Outcome" { (words(&call.outcome)) }
            td data-name="Entry" { (code(&call.entry)) }
        }
    }
}

fn who(asked: &Requester) -> Markup {
    html! {
        section aria-labelledby="who" {
            h2 id="who" { "Who asks" }
            dl {
                (fact("Agent", &words(&asked.agent)))
                (fact("Identity", &code(&asked.spiffe_id)))
                (fact("Owner", &words(&asked.owner)))
                (fact("On behalf of", &words(&asked.subject)))
                (fact("Purpose", &words(&asked.purpose)))
                (fact("Task", &code(&asked.task)))
                (fact("Has read", &labels(&asked.labels)))
            }
        }
    }
}

fn labels(labels: &[String]) -> Markup {
    html! {
        @if labels.is_empty() { "nothing that is labelled" }
        @for label in labels { span.label { (line(label)) } " " }
    }
}

fn people(view: &HoldView) -> Markup {
    html! {
        section aria-labelledby="people" {
            h2 id="people" { "Who may approve" }
            @if view.approvers.is_empty() { p.notice { "Nobody: it will expire." } }
            ul.people { @for person in &view.approvers { li { (words(person)) } } }
            dl {
                (fact("Approvals", &html! { (view.approvals.len()) " of " (view.approvals_needed) " needed" }))
                (fact("Held", &view.requested.shown()))
                (fact("Expires", &view.expires.shown()))
                (fact("Hold", &code(&view.hold)))
            }
            @if !view.approvals.is_empty() {
                h3 { "Approved so far by" }
                ul {
                    @for made in &view.approvals {
                        li {
                            b { (words(&made.person)) } ", proved by " (words(&made.proof)) ", " (made.at.shown())
                            @if made.own_request { " " span.label { "own request" } }
                        }
                    }
                }
            }
        }
    }
}

fn decide(view: &HoldView) -> Markup {
    match &view.standing {
        Standing::Over(_) => html! {},
        Standing::Open(Permission::Refused(why)) => html! {
            section.decide aria-labelledby="decide" {
                h2 id="decide" { "You cannot decide this call" }
                p { (words(why)) }
            }
        },
        Standing::Open(Permission::Granted) => form(view, false),
        Standing::Open(Permission::OwnRequest) => form(view, true),
    }
}

/// Refusing comes first, so that it is what a stray key would do; it needs no tick.
fn form(view: &HoldView, own_request: bool) -> Markup {
    html! {
        section.decide aria-labelledby="decide" {
            h2 id="decide" { "Your decision" }
            form method="post" action=(approval_path(&view.hold)) autocomplete="off"
                data-passkey=[view.passkey.as_ref().map(|_| "get")] data-options=[view.passkey.as_ref().map(|ask| &ask.options)] {
                (csrf(&view.viewer))
                @if let Some(ask) = &view.passkey { (passkey_fields(&ask.ticket, &USED)) }
                input type="hidden" name=(FIELD_DIGEST) value=(view.digest);
                @if own_request {
                    p.warning id="own" {
                        b { "This is your own request." }
                        " You own this agent or the work is done for you. No second person will have looked at it, "
                        "and the record will say so."
                    }
                    p.tick {
                        input id="own-request" type="checkbox" name=(FIELD_OWN_REQUEST) value="yes" required
                            aria-describedby="own";
                        label for="own-request" { "I approve my own request" }
                    }
                }
                p.field {
                    label for="reason" { "Reason " span.aside { "(kept on record; the agent sees it if you refuse)" } }
                    textarea id="reason" name=(FIELD_REASON) rows="2" maxlength=(REASON_LENGTH_MAX) {}
                }
                p.buttons {
                    button.refuse type="submit" name=(FIELD_DECISION) value=(DECISION_REFUSE) formnovalidate data-plain { "Refuse" }
                    button.approve type="submit" name=(FIELD_DECISION) value=(DECISION_APPROVE) {
                        "Approve this call once"
                    }
                }
                p.aside { "Signed in as " (words(&view.viewer.name)) ". Your decision is final and goes on record." }
                @if view.passkey.is_some() {
                    p.aside { "Your passkey signs a yes to exactly this call." }
                    script src=(PASSKEY_SCRIPT_PATH) defer {}
                }
            }
        }
    }
}
