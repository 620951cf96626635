//! `[retention]`: which texts of calls are kept and for how long, how long digests can be recognised, and whether the ledger is pruned.

use std::collections::BTreeMap;
use std::time::Duration;

use bailiwick_core::{Effect, SystemName};
use bailiwick_store::PayloadKind;
use schemars::JsonSchema;
use serde::Deserialize;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const DAYS_MAX: u32 = 36_500;
/// Kept of a text, if the configuration does not say otherwise.
const TEXT_BYTES: u32 = 64 << 10;
const TEXT_BYTES_MAX: u32 = 16 << 20;
/// Kept of all texts together, in MiB, if the configuration does not say otherwise, and at most.
const TOTAL_MIB: u32 = 1024;
const TOTAL_MIB_MAX: u32 = 1 << 20;
/// How long what was done can be looked at, if the configuration does not say otherwise.
const REVIEW_DAYS: u32 = 90;

/// What is kept, and for how long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RetentionFile {
    /// `best_effort`: a text that cannot be kept is counted as lost. `required`: an acting call whose arguments are to be kept is
    /// refused unless they are. Default `best_effort`.
    payloads: Keeping,
    /// Bytes that are kept of one text; of a longer one only its beginning is kept. Default 65536.
    text_bytes_max: u32,
    /// MiB that the file of texts may have in all. Beyond it the oldest texts go before their time, and the ledger says so; those that
    /// are required stay, and an acting call whose text finds no room is refused. Default 1024.
    total_mib_max: u32,
    /// Days for which arguments are kept: one number, or a number for each effect; 0 keeps none. Default 90 for what acts, 0 for `read`.
    #[schemars(with = "Option<DaysFile>")]
    arguments: DaysFile,
    /// Days for which answers are kept: one number, or a number for each effect; 0 keeps none. Default 0.
    #[schemars(with = "Option<DaysFile>")]
    answers: DaysFile,
    /// Days after a task's end for which a digest of the ledger can still be recognised by whoever has the text, and for which the
    /// arguments of held calls can be looked at. Default 90.
    digests_days: u32,
    /// Days after which entries of the ledger may be pruned. Without it the ledger is never pruned.
    ledger_days: Option<u32>,
    /// What differs for one system, by its name.
    #[schemars(with = "BTreeMap<String, SystemRetentionFile>")]
    systems: BTreeMap<SystemName, SystemRetentionFile>,
}

impl Default for RetentionFile {
    fn default() -> Self {
        Self {
            payloads: Keeping::BestEffort,
            text_bytes_max: TEXT_BYTES,
            total_mib_max: TOTAL_MIB,
            arguments: DaysFile::Unsaid,
            answers: DaysFile::Unsaid,
            digests_days: REVIEW_DAYS,
            ledger_days: None,
            systems: BTreeMap::new(),
        }
    }
}

/// What differs for one system.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct SystemRetentionFile {
    /// Days for which arguments of its calls are kept.
    #[schemars(with = "Option<DaysFile>")]
    arguments: DaysFile,
    /// Days for which its answers are kept.
    #[schemars(with = "Option<DaysFile>")]
    answers: DaysFile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Keeping {
    BestEffort,
    Required,
}

/// One number, or one for each effect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(untagged)]
enum DaysFile {
    /// For every effect.
    All(u32),
    /// By effect; what is not named stays as it is.
    ByEffect(#[schemars(with = "BTreeMap<String, u32>")] BTreeMap<Effect, u32>),
    #[default]
    #[serde(skip)]
    Unsaid,
}

/// What is kept, and for how long.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Is an acting call refused whose arguments are to be kept and cannot be?
    pub required: bool,
    /// Bytes that are kept of one text.
    pub text_bytes_max: usize,
    /// Bytes that the file of texts may have in all.
    pub total_bytes_max: u64,
    /// How long after a task's end its digests can be recognised.
    pub digests: Duration,
    /// The age at which entries of the ledger may be pruned. `None`: never.
    pub ledger: Option<Duration>,
    all: Kinds,
    systems: BTreeMap<SystemName, Kinds>,
}

#[derive(Clone, Debug)]
struct Kinds {
    arguments: Days,
    answers: Days,
}

/// Days by effect. What is not in it is 0.
type Days = BTreeMap<Effect, u32>;

impl Retention {
    /// How long a text is kept; `None`: it is not.
    #[must_use]
    pub fn keeps(&self, kind: PayloadKind, system: &str, effect: Effect) -> Option<Duration> {
        let kinds = self.systems.get(system).unwrap_or(&self.all);
        let days = match kind {
            PayloadKind::Arguments => &kinds.arguments,
            PayloadKind::Answer => &kinds.answers,
        };
        days.get(&effect).filter(|days| **days > 0).map(|days| DAY.saturating_mul(*days))
    }

    /// Checks what the file says. `known` are the configured systems.
    pub(super) fn parse(file: RetentionFile, known: impl Fn(&SystemName) -> bool) -> Result<Self, (String, &'static str)> {
        if let Some(stranger) = file.systems.keys().find(|name| !known(name)) {
            return Err((
                format!("`retention.systems` names `{stranger}`, and there is no such system"),
                "add it under [systems], or correct the name",
            ));
        }
        if !(1..=TEXT_BYTES_MAX).contains(&file.text_bytes_max) {
            return Err((format!("`text_bytes_max` must be 1 to {TEXT_BYTES_MAX}"), "to keep no texts, say `arguments = 0` and `answers = 0`"));
        }
        if !(1..=TOTAL_MIB_MAX).contains(&file.total_mib_max) {
            return Err((format!("`total_mib_max` must be 1 to {TOTAL_MIB_MAX}"), "to keep no texts, say `arguments = 0` and `answers = 0`"));
        }
        if u64::from(file.text_bytes_max) > u64::from(file.total_mib_max).saturating_mul(1 << 19) {
            return Err(("`text_bytes_max` is more than half of `total_mib_max`".to_owned(), "one long text would displace all others"));
        }
        if file.ledger_days == Some(0) {
            return Err(("`ledger_days` must be at least 1".to_owned(), "leave it out, and the ledger is never pruned"));
        }
        let acting = |effect: &Effect| u32::from(effect.is_acting()).saturating_mul(REVIEW_DAYS);
        let defaults = Kinds { arguments: Effect::ALL.iter().map(|e| (*e, acting(e))).collect(), answers: Days::new() };
        let all = Kinds { arguments: merged(&defaults.arguments, file.arguments)?, answers: merged(&defaults.answers, file.answers)? };
        let mut systems = BTreeMap::new();
        for (name, own) in file.systems {
            systems.insert(name, Kinds { arguments: merged(&all.arguments, own.arguments)?, answers: merged(&all.answers, own.answers)? });
        }
        Ok(Self {
            required: file.payloads == Keeping::Required,
            total_bytes_max: u64::from(file.total_mib_max).saturating_mul(1 << 20),
            text_bytes_max: usize::try_from(file.text_bytes_max).unwrap_or(usize::MAX),
            digests: DAY.saturating_mul(file.digests_days.min(DAYS_MAX)),
            ledger: file.ledger_days.map(|days| DAY.saturating_mul(days.min(DAYS_MAX))),
            all,
            systems,
        })
    }
}

fn merged(base: &Days, said: DaysFile) -> Result<Days, (String, &'static str)> {
    let mut days = base.clone();
    match said {
        DaysFile::Unsaid => {}
        DaysFile::All(number) => days.extend(Effect::ALL.iter().map(|effect| (*effect, number))),
        DaysFile::ByEffect(by_effect) => days.extend(by_effect),
    }
    match days.values().find(|number| **number > DAYS_MAX) {
        Some(number) => Err((format!("{number} days are more than {DAYS_MAX}"), "a text that is never to go does not belong here")),
        None => Ok(days),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Retention, String> {
        let file: RetentionFile = toml::from_str(text).map_err(|e| e.to_string())?;
        Retention::parse(file, |name| name.as_str() == "shop").map_err(|(what, _)| what)
    }

    fn days(retention: &Retention, kind: PayloadKind, system: &str, effect: Effect) -> u64 {
        retention.keeps(kind, system, effect).map_or(0, |d| d.as_secs() / DAY.as_secs())
    }

    #[test]
    fn without_a_word_arguments_of_what_acts_are_kept_for_review_and_nothing_else_and_the_ledger_is_never_pruned() {
        let retention = parse("").unwrap();
        for effect in Effect::ALL {
            let kept = if effect.is_acting() { 90 } else { 0 };
            assert_eq!(days(&retention, PayloadKind::Arguments, "shop", effect), kept, "{effect:?}");
            assert_eq!(days(&retention, PayloadKind::Answer, "shop", effect), 0, "{effect:?}");
        }
        assert!(!retention.required && retention.ledger.is_none() && retention.digests == DAY * 90);
    }

    #[test]
    fn a_system_says_what_differs_and_an_effect_what_differs_from_that() {
        let text = "payloads = \"required\"\narguments = 30\nanswers = { read = 7 }\nledger_days = 400\n[systems.shop]\narguments = { transfer = 365, read = 0 }\nanswers = 0";
        let retention = parse(text).unwrap();
        assert!(retention.required && retention.ledger == Some(DAY * 400));
        let of = |kind, system, effect| days(&retention, kind, system, effect);
        assert_eq!(of(PayloadKind::Arguments, "other", Effect::Read), 30);
        assert_eq!(of(PayloadKind::Answer, "other", Effect::Read), 7);
        assert_eq!(of(PayloadKind::Answer, "other", Effect::Write), 0);
        assert_eq!(of(PayloadKind::Arguments, "shop", Effect::Transfer), 365);
        assert_eq!(of(PayloadKind::Arguments, "shop", Effect::Write), 30);
        assert_eq!(of(PayloadKind::Arguments, "shop", Effect::Read), 0);
        assert_eq!(of(PayloadKind::Answer, "shop", Effect::Read), 0);
    }

    #[test]
    fn what_is_misspelt_or_beyond_reason_is_refused() {
        for bad in [
            "payload = \"required\"",
            "payloads = \"sometimes\"",
            "arguments = -1",
            "arguments = { reed = 1 }",
            "arguments = 40000",
            "answers = { read = 40000 }",
            "text_bytes_max = 0",
            "text_bytes_max = 99999999",
            "total_mib_max = 0",
            "total_mib_max = 99999999",
            "total_mib_max = 1\ntext_bytes_max = 1000000",
            "ledger_days = 0",
            "[systems.other]\narguments = 1",
            "[systems.shop]\nargument = 1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
