//! What the tests of every kind need: names, plans, a clock, and a look at endings.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bailiwick_core::{Clock, Timestamp};
use bailiwick_credentials::Secret;
use bailiwick_credentials::lease::{Account, AccountName, Ending, Minted, Plan, Prefix, Step, Tag, TargetIds};

/// What the canary looks for: the password that every test of this process mints with.
pub(crate) const PASSWORD: &str = "canary-Zq7Wk2Vx9Lr4Tn8Bm3Hc6Jd1Fg5Ps0Ya";

/// The machine's time; servers compare expiries with it.
#[derive(Debug)]
pub(crate) struct Now;

impl Clock for Now {
    #[expect(clippy::disallowed_methods, reason = "the servers' clock is the machine's")]
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap())
    }
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(Now)
}

/// A name that no other call of this process gets.
pub(crate) fn fresh_name() -> AccountName {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    let time = Now.now().as_millis();
    let number = u128::try_from(time).unwrap() << 64 | u128::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap();
    AccountName::new(&Prefix::default(), number.to_be_bytes())
}

pub(crate) fn secret() -> Secret {
    Secret::from(PASSWORD.to_owned())
}

pub(crate) fn tag() -> Tag {
    Tag { task: "task_0190c5a0b1c2d3e4f5061728394a5b6c".into(), agent: "spiffe://example.org/agent/o'brien \u{fc}".into(), expires_at: soon() }
}

pub(crate) fn soon() -> Timestamp {
    Now.now().plus(Duration::from_secs(600))
}

pub(crate) fn plan(rights: &[&str]) -> Plan {
    Plan { name: fresh_name(), tag: tag(), rights: rights.iter().map(|&right| right.to_owned()).collect() }
}

/// What is remembered of an account after an orderly mint.
pub(crate) fn remembered(plan: &Plan, minted: Minted) -> Account {
    Account { name: plan.name.clone(), ids: minted.ids, secret: Some(secret()), expires_at: minted.expires_at }
}

/// What is remembered if we were killed before the mint's answer was written down.
pub(crate) fn only_intent(plan: &Plan) -> Account {
    Account { name: plan.name.clone(), ids: TargetIds::default(), secret: Some(secret()), expires_at: None }
}

/// It was tried, and refused, on each of these nodes, in these words; and nothing of it gives the password away.
#[track_caller]
pub(crate) fn assert_verified(ending: &Ending, nodes: &[&str], words: &str) {
    assert_eq!(ending.word(), "revoked-verified", "{ending:#?}");
    for node in nodes {
        let refused = ending.evidence().tried().iter().any(|t| t.node == *node && t.step == Step::Verify && t.saw.contains(words));
        assert!(refused, "{node} is not shown to refuse: {ending:#?}");
    }
    assert!(!format!("{ending:?}").contains(PASSWORD));
}

/// A number from the environment, for tests that can run longer.
pub(crate) fn count(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}
