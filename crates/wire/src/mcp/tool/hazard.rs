//! What hides in a tool definition: text for the model that people do not see, commands, and ways out of it.

use crate::json::{Kind, Raw};
use crate::render::{Hidden, line};

/// One thing found in a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hazard {
    pub finding: Finding,
    /// JSON pointer to the string, key or member.
    pub pointer: String,
    /// A short piece of the text around it, made visible.
    pub excerpt: String,
}

/// The kinds of thing found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Finding {
    /// Characters that people do not see or that change what they see.
    HiddenText,
    /// A schema reference out of the definition.
    RemoteReference,
    /// Text that speaks to the model about what to do, rather than of the tool.
    InstructionLikeText,
    /// Names a tool of another system.
    NamesOtherTool,
    /// Has icons; they are dropped when it is listed.
    IconsDropped,
}

/// What a finding leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Shown to whoever looks.
    Note,
    /// Not listed before a person reviewed it.
    Quarantine,
    /// Not registered.
    Refuse,
}

impl Finding {
    pub fn severity(self) -> Severity {
        match self {
            Self::HiddenText | Self::RemoteReference => Severity::Refuse,
            Self::InstructionLikeText | Self::NamesOtherTool => Severity::Quarantine,
            Self::IconsDropped => Severity::Note,
        }
    }

    /// A stable slug for records and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HiddenText => "hidden_text",
            Self::RemoteReference => "remote_reference",
            Self::InstructionLikeText => "instruction_like_text",
            Self::NamesOtherTool => "names_other_tool",
            Self::IconsDropped => "icons_dropped",
        }
    }
}

/// Findings of one definition that are listed; more add nothing.
const MAX_HAZARDS: usize = 64;

/// Phrases that poisoned tools use; lower case, single spaces. A review aid: the real guard is that no new or changed
/// definition is listed before review, whatever it says.
const PHRASES: [&str; 38] = [
    "<important>",
    "</important>",
    "<system>",
    "</system>",
    "<secret>",
    "<instruction",
    "<critical>",
    "<|im_start|>",
    "<|system|>",
    "[inst]",
    "<<sys>>",
    "ignore previous",
    "ignore all previous",
    "ignore any previous",
    "ignore the above",
    "ignore your instructions",
    "disregard previous",
    "disregard all",
    "disregard the above",
    "override your",
    "system prompt",
    "do not tell the user",
    "don't tell the user",
    "do not inform",
    "do not mention",
    "don't mention",
    "without telling",
    "without informing",
    "without asking the user",
    "hide this from",
    "before using this tool",
    "before using any",
    "before you use this tool",
    "instead of using",
    "~/.ssh",
    "id_rsa",
    "mcp.json",
    "as sidenote",
];

pub(super) fn scan(definition: Raw<'_>, other_names: &[&str]) -> Vec<Hazard> {
    let mut scan = Scan { other_names: other_names.iter().map(|name| name.to_lowercase()).collect(), hazards: Vec::new() };
    if definition.member("icons").is_some() {
        scan.found(Finding::IconsDropped, "/icons", "");
    }
    scan.value(definition, "");
    scan.hazards
}

struct Scan {
    /// In lower case.
    other_names: Vec<String>,
    hazards: Vec<Hazard>,
}

impl Scan {
    fn found(&mut self, finding: Finding, pointer: &str, excerpt: &str) {
        if self.hazards.len() < MAX_HAZARDS {
            let excerpt = line(&excerpt.chars().take(120).collect::<String>());
            self.hazards.push(Hazard { finding, pointer: pointer.to_owned(), excerpt });
        }
    }

    fn value(&mut self, raw: Raw<'_>, pointer: &str) {
        match raw.kind() {
            Kind::Object => {
                for (key, value) in raw.members() {
                    let below = format!("{pointer}/{}", line(&key).replace('~', "~0").replace('/', "~1"));
                    self.text(&key, &below);
                    self.value(value, &below);
                    let is_reference = matches!(&*key, "$ref" | "$dynamicRef" | "$recursiveRef");
                    if let Some(target) = value.string().filter(|_| is_reference)
                        && !target.starts_with('#')
                    {
                        self.found(Finding::RemoteReference, &below, &target);
                    }
                }
            }
            Kind::Array => {
                for (index, item) in raw.elements().enumerate() {
                    self.value(item, &format!("{pointer}/{index}"));
                }
            }
            Kind::String => self.text(&raw.string().unwrap_or_default(), pointer),
            Kind::Null | Kind::Boolean | Kind::Number => {}
        }
    }

    fn text(&mut self, text: &str, pointer: &str) {
        if let Some(at) = hidden_at(text) {
            let before = at.saturating_sub(40);
            self.found(Finding::HiddenText, pointer, &text.chars().skip(before).collect::<String>());
        }
        let plain = plain(text);
        for phrase in PHRASES {
            if let Some(at) = plain.find(phrase) {
                self.found(Finding::InstructionLikeText, pointer, plain.get(at..).unwrap_or_default());
                break;
            }
        }
        if pointer == "/name" {
            return;
        }
        let named: Vec<_> = self.other_names.iter().filter(|name| mentions(&plain, name)).cloned().collect();
        for name in named {
            self.found(Finding::NamesOtherTool, pointer, &name);
        }
    }
}

/// Index (in characters) of the first hidden one. A joiner inside an emoji is not hidden.
fn hidden_at(text: &str) -> Option<usize> {
    let pictured = |char: Option<&char>| char.is_some_and(|char| matches!(char, '\u{fe0f}' | '\u{2190}'..='\u{2bff}' | '\u{1f000}'..='\u{1faff}'));
    let mut before: Option<char> = None;
    let mut chars = text.chars().peekable();
    let mut at = 0;
    while let Some(char) = chars.next() {
        let joins = char == '\u{200d}' && pictured(before.as_ref()) && pictured(chars.peek());
        if Hidden::of(char).is_some() && !joins {
            return Some(at);
        }
        before = Some(char);
        at += 1;
    }
    None
}

/// Lower case, hidden characters out, runs of space as one: so that a phrase cannot be spelled around.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars().filter(|char| Hidden::of(*char).is_none()) {
        match char {
            '\u{2019}' => out.push('\''),
            char if char.is_whitespace() => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            char => out.extend(char.to_lowercase()),
        }
    }
    out
}

/// Whether `text` speaks of a tool called `name`. A name that is also an ordinary word counts only in quotes or as a call.
fn mentions(text: &str, name: &str) -> bool {
    let ordinary = name.bytes().all(|byte| byte.is_ascii_alphabetic());
    text.match_indices(name).any(|(at, _)| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let rest = text.get(at + name.len()..).unwrap_or_default();
        let after = rest.chars().next();
        let inside = |char: Option<char>| char.is_some_and(|char| char.is_alphanumeric() || matches!(char, '_' | '-'));
        if name.is_empty() || inside(before) || inside(after) {
            return false;
        }
        let quoted = matches!(before, Some('`' | '\'' | '"')) && matches!(after, Some('`' | '\'' | '"'));
        !ordinary || quoted || rest.starts_with('(') || rest.starts_with(" tool")
    })
}
