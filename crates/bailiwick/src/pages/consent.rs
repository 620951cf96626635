//! The question before a person whether a client may work for him or her: who asks, as which agent, with which tools, for how long.
//!
//! What a client calls itself is shown last and as its own word: what it can prove, the host that vouches for it and the place where it
//! is answered, stands first.

use bailiwick_core::Effect;
use maud::{Markup, html};

use super::frame::{Viewer, badge, code, csrf, document, fact, meaning, path_segment, words};
use super::{CONSENT_PATH, DECISION_APPROVE, DECISION_REFUSE, FIELD_DECISION, FIELD_REQUEST, STYLE_PATH};

/// In the form: the agent as which the client works.
pub const FIELD_AGENT: &str = "agent";
/// In the form: for how many minutes.
pub const FIELD_MINUTES: &str = "minutes";
/// In the form: what for.
pub const FIELD_PURPOSE: &str = "purpose";
/// In the form, before the name of a tool: it is allowed, if the value is `yes`.
pub const FIELD_TOOL: &str = "tool:";

/// What the page shows.
#[derive(Debug, Clone)]
pub struct ConsentView {
    /// Who decides.
    pub viewer: Viewer,
    /// The request, sealed.
    pub request: String,
    /// What the client calls itself.
    pub client_name: String,
    /// Its ID, if it is a URL.
    pub client_url: Option<String>,
    /// The host that vouches for it. None: nobody does.
    pub vouched_by: Option<String>,
    /// Where the answer goes: a host, or an application's scheme.
    pub place: String,
    /// Is that on the person's own machine, where any program could listen?
    pub on_this_machine: bool,
    /// The agent as which it would work.
    pub agent: String,
    /// What that agent is for.
    pub agent_purpose: String,
    /// Other agents that could be chosen.
    pub others: Vec<String>,
    /// What can be allowed.
    pub tools: Vec<ToolView>,
    /// There are more tools than the page shows.
    pub cut: bool,
    /// Lives to choose from, in minutes, and which is chosen first.
    pub minutes: Vec<u64>,
    /// The one that is chosen first.
    pub minutes_first: u64,
    /// The purpose, to be changed.
    pub purpose: String,
}

/// A tool to allow.
#[derive(Debug, Clone)]
pub struct ToolView {
    /// Its name.
    pub name: String,
    /// Its effect.
    pub effect: Effect,
    /// Does every call wait for a person?
    pub waits: bool,
    /// Ticked at first?
    pub ticked: bool,
}

/// The page at [`CONSENT_PATH`].
pub fn consent_page(view: &ConsentView) -> String {
    let content = html! {
        div.narrow {
            h1 { "Let a client work for you?" }
            (who(view))
            @if !view.others.is_empty() { (others(view)) }
            form.card method="post" action=(CONSENT_PATH) {
                (csrf(&view.viewer))
                input type="hidden" name=(FIELD_REQUEST) value=(view.request);
                input type="hidden" name=(FIELD_AGENT) value=(view.agent);
                (tools(view))
                p.field {
                    label for="purpose" { "What for" }
                    input id="purpose" name=(FIELD_PURPOSE) type="text" maxlength="200" value=(view.purpose) required;
                    span.aside { "It is on record with everything that the client does, and policy may look at it." }
                }
                p.field {
                    label for="minutes" { "For how long" }
                    select id="minutes" name=(FIELD_MINUTES) {
                        @for minutes in &view.minutes {
                            option value=(minutes) selected[*minutes == view.minutes_first] { (span(*minutes)) }
                        }
                    }
                    span.aside { "Then it has to ask you again. It ends earlier when you sign out here, or revoke the task." }
                }
                p.buttons {
                    button.primary type="submit" name=(FIELD_DECISION) value=(DECISION_APPROVE) disabled[view.tools.is_empty()] { "Allow" }
                    button type="submit" name=(FIELD_DECISION) value=(DECISION_REFUSE) formnovalidate { "Refuse" }
                }
            }
            p.aside { "If you did not just ask a program to connect here, refuse. Calls that policy holds still wait for their approvers." }
        }
    };
    document("Let a client work for you?", Some(&view.viewer), &content)
}

fn who(view: &ConsentView) -> Markup {
    html! {
        @match &view.vouched_by {
            Some(host) => {
                p.lead { "A client of " b { (words(host)) } " asks to use tools in your name. Only " b { (words(host)) } " vouches for it." }
            }
            None => {
                p.lead { "A program asks to use tools in your name. " b { "Nobody vouches for it." } }
                p.warning role="note" { "It registered itself: its name below is its own word, and any program could use the same." }
            }
        }
        dl {
            (fact("Calls itself", &html! { "\u{201c}" (words(&view.client_name)) "\u{201d}" }))
            @if let Some(url) = &view.client_url { (fact("Client ID", &code(url))) }
            (fact("Is answered at", &code(&view.place)))
            (fact("Works as", &html! { b { (words(&view.agent)) } ", your agent: " (words(&view.agent_purpose)) }))
        }
        @if view.on_this_machine {
            p.notice role="note" { "The answer goes to a program on the machine of this browser. Which one, nobody can check." }
        }
    }
}

fn others(view: &ConsentView) -> Markup {
    html! {
        p.aside {
            "Or as another agent of yours: "
            @for (number, other) in view.others.iter().enumerate() {
                @if number > 0 { ", " }
                a href=(format!("{CONSENT_PATH}?{FIELD_REQUEST}={}&{FIELD_AGENT}={}", path_segment(&view.request), path_segment(other))) { (words(other)) }
            }
        }
    }
}

fn tools(view: &ConsentView) -> Markup {
    html! {
        fieldset {
            legend { "Tools that it may use" }
            @if view.tools.is_empty() {
                p.notice { "Policy lets this agent use no tool at present." }
            }
            @if view.cut {
                p.notice { "This agent has more tools than a page can show; the first " (view.tools.len()) " by name are here." }
            }
            @for (number, tool) in view.tools.iter().enumerate() {
                @let id = format!("tool-{number}");
                p.tick {
                    input id=(id) type="checkbox" name=(format!("{FIELD_TOOL}{}", tool.name)) value="yes" checked[tool.ticked];
                    label for=(id) {
                        (badge(tool.effect)) " " (code(&tool.name)) " "
                        span.aside {
                            (meaning(tool.effect))
                            @if tool.waits { "; every call waits for a person" }
                            @else if tool.effect != Effect::Read { "; " b { "without asking anybody" } }
                        }
                    }
                }
            }
        }
    }
}

fn span(minutes: u64) -> String {
    match (minutes / 60, minutes % 60) {
        (0, 1) => "1 minute".to_owned(),
        (0, minutes) => format!("{minutes} minutes"),
        (1, 0) => "1 hour".to_owned(),
        (hours, 0) => format!("{hours} hours"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

/// The page in between, on the way from the client to the question: it goes on by itself. A browser keeps our cookies back from a
/// navigation that another site began, and gives them to one that our own page begins.
pub fn onward_page(path: &str) -> String {
    html! {
        (maud::DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="referrer" content="no-referrer";
                meta name="robots" content="noindex";
                meta http-equiv="refresh" content=(format!("0;url={path}"));
                title { "Bailiwick" }
                link rel="stylesheet" href=(STYLE_PATH);
            }
            body { main { p { a href=(path) { "Continue" } } } }
        }
    }
    .into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> ConsentView {
        ConsentView {
            viewer: Viewer { name: "ana".to_owned(), csrf: "csrf".to_owned() },
            request: "sealed".to_owned(),
            client_name: "Claude".to_owned(),
            client_url: Some("https://claude.ai/client".to_owned()),
            vouched_by: Some("claude.ai".to_owned()),
            place: "claude.ai".to_owned(),
            on_this_machine: false,
            agent: "desktop".to_owned(),
            agent_purpose: "my own clients".to_owned(),
            others: vec!["other&x".to_owned()],
            tools: vec![
                ToolView { name: "shop.show_order".to_owned(), effect: Effect::Read, waits: false, ticked: true },
                ToolView { name: "shop.put".to_owned(), effect: Effect::Write, waits: false, ticked: false },
            ],
            cut: false,
            minutes: vec![15, 60, 480],
            minutes_first: 60,
            purpose: "interactive work".to_owned(),
        }
    }

    #[test]
    fn the_host_that_vouches_stands_before_the_name_that_a_client_gives_itself() {
        let page = consent_page(&view());
        assert!(page.find("Only <b>").unwrap() < page.find("Calls itself").unwrap());
        assert!(page.contains("<option value=\"60\" selected>1 hour</option>"), "{page}");
        assert!(page.contains("other%26x"), "{page}");
        assert_eq!(page.matches(" checked").count(), 1);
        assert!(page.contains("without asking anybody"));
    }

    #[test]
    fn a_client_that_nobody_vouches_for_is_said_to_be_one_and_what_it_hides_is_shown() {
        let evil = ConsentView {
            vouched_by: None,
            client_url: None,
            client_name: "Bank</b><script>\u{202e}\u{200b}".to_owned(),
            place: "127.0.0.1:1".to_owned(),
            on_this_machine: true,
            ..view()
        };
        let page = consent_page(&evil);
        assert!(page.contains("Nobody vouches for it") && page.contains("on the machine of this browser"));
        assert!(!page.contains("<script>") && !page.contains('\u{202e}') && page.contains("U+202E") && page.contains("U+200B"));
    }

    #[test]
    fn without_a_tool_there_is_nothing_to_allow() {
        assert!(consent_page(&ConsentView { tools: vec![], ..view() }).contains("value=\"approve\" disabled"));
    }

    #[test]
    fn the_page_in_between_goes_on_to_our_own_path() {
        let page = onward_page("/consent?request=a");
        assert!(page.contains("content=\"0;url=/consent?request=a\"") && page.contains("href=\"/consent?request=a\""));
    }
}
