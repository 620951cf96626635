//! Tests of the words of a lease; the kinds have theirs against real servers.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bailiwick_core::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::REDACTED;

fn name(last: u8) -> AccountName {
    let mut lease = [0; 16];
    lease[15] = last;
    AccountName::new(&Prefix::default(), lease)
}

/// A system that is a map in memory.
#[derive(Debug, Default)]
struct Memory(Mutex<BTreeMap<AccountName, Option<Tag>>>);

#[async_trait::async_trait]
impl Kind for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        Ok(None)
    }
    async fn preflight(&self, _: &AccountName) -> Result<Vec<Finding>, TargetError> {
        Ok(Vec::new())
    }
    async fn mint(&self, plan: &Plan, _: Option<&Secret>) -> Result<Minted, TargetError> {
        self.0.lock().unwrap().insert(plan.name.clone(), Some(plan.tag.clone()));
        Ok(Minted { ids: TargetIds::one("place", 1), secret: None, expires_at: None })
    }
    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        self.0.lock().unwrap().remove(&account.name);
        Ok(Ending::InjectionStopped { evidence: Evidence::default() })
    }
    async fn list(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        let accounts = self.0.lock().unwrap();
        let ours = accounts.iter().filter(|(name, _)| prefix.covers(name));
        Ok(ours.map(|(name, tag)| Found { name: name.clone(), ids: TargetIds::default(), tag: tag.clone(), node: "memory".into() }).collect())
    }
}

fn tag() -> Tag {
    Tag { task: "task_1".into(), agent: "spiffe://example.org/agent/a".into(), expires_at: Timestamp::from_millis(1_763_856_000_000) }
}

#[tokio::test]
async fn a_sweep_ends_what_no_lease_explains_and_nothing_else() {
    let memory = Memory::default();
    for last in 0..4 {
        let plan = Plan { name: name(last), tag: tag(), rights: Vec::new() };
        drop(memory.mint(&plan, None).await.unwrap());
    }
    let other: Prefix = "agx_".parse().unwrap();
    let elsewhere = AccountName::new(&other, [9; 16]);
    memory.0.lock().unwrap().insert(elsewhere.clone(), None);
    let orphans = sweep(&memory, &Prefix::default(), &|found| *found == name(2)).await.unwrap();
    assert_eq!(orphans.iter().map(|o| o.found.name.clone()).collect::<Vec<_>>(), [name(0), name(1), name(3)]);
    assert!(orphans.iter().all(|o| o.ending.is_ok() && o.found.tag == Some(tag())));
    let left = memory.0.lock().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(left, [name(2), elsewhere]);
}

#[test]
fn a_name_that_is_not_exactly_ours_is_no_name() {
    let good = name(7).to_string();
    assert_eq!(good, "ag_00000000000000000000000007");
    assert_eq!(good.len(), 29);
    for bad in [
        "",
        "ag_",
        "ag_admin",
        "AG_00000000000000000000000007",
        "ag_0000000000000000000000000i",
        "ag_000000000000000000000000007",
        "ag_0000000000000000000000007",
        "agents_00000000000000000000000007",
        "ag-00000000000000000000000007",
        "ag_zzzzzzzzzzzzzzzzzzzzzzzzzz",
        "ag_00000000000000000000000007'",
        "bag_00000000000000000000000007",
    ] {
        assert!(bad.parse::<AccountName>().is_err(), "{bad}");
    }
    for bad in ["", "ag", "_", "ag__", "agABC_", "agabcd_", "ag%_", "AG_"] {
        assert!(bad.parse::<Prefix>().is_err(), "{bad}");
    }
}

#[test]
fn evidence_has_no_secret_no_control_character_and_an_end() {
    let secret = Secret::from("hunter2hunter2".to_owned());
    let mut evidence = Evidence::default();
    for _ in 0..150 {
        evidence.saw(
            "one",
            Step::Verify,
            Timestamp::from_millis(0),
            &format!("no\n\u{1b}[31m for hunter2hunter2 {}", "x".repeat(900)),
            Some(&secret),
        );
    }
    assert_eq!(evidence.tried().len(), 100);
    let saw = &evidence.tried()[0].saw;
    assert!(saw.starts_with(&format!("no  [31m for {REDACTED} x")), "{saw}");
    assert_eq!(saw.chars().count(), 300);
}

#[test]
fn an_ending_is_written_down_with_its_word_and_reads_back() {
    let mut evidence = Evidence::default();
    evidence.saw("one", Step::Verify, Timestamp::from_millis(0), "28P01", None);
    let ending = Ending::RevokedUnverified { why: "no secret".into(), evidence };
    let text = serde_json::to_string(&ending).unwrap();
    assert_eq!(
        text,
        r#"{"ending":"revoked-unverified","why":"no secret","evidence":[{"node":"one","step":"verify","at":"1970-01-01T00:00:00.000Z","saw":"28P01"}]}"#
    );
    assert!(text.contains(ending.word()));
    assert_eq!(serde_json::from_str::<Ending>(&text).unwrap(), ending);
}

#[test]
fn a_tag_reads_back_and_a_connection_name_is_short_plain_text() {
    assert_eq!(Tag::parse(&tag().to_text()), Some(tag()));
    assert_eq!(Tag::parse("made by hand"), None);
    let odd = Tag { agent: "a\u{0}\nü".repeat(50), ..tag() };
    let text = odd.connection_name(63);
    assert!(text.len() == 63 && text.starts_with("bailiwick task_1 a???"), "{text}");
}

#[test]
fn an_error_says_where_and_what_and_whether_to_wait() {
    let error = TargetError::new(TargetCode::Unreachable, Step::Kill, "standby-1", "connection refused");
    assert_eq!(error.to_string(), "kill on `standby-1` failed (unreachable): connection refused");
    assert!(error.is_transient());
    assert!(!TargetError::new(TargetCode::Privilege, Step::Kill, "a", "").is_transient());
}

proptest! {
    #[test]
    fn a_name_reads_back_to_its_lease_and_sorts_like_it(a in any::<[u8; 16]>(), b in any::<[u8; 16]>(), site in "[a-z0-9]{0,3}") {
        let prefix: Prefix = format!("ag{site}_").parse().unwrap();
        let (one, two) = (AccountName::new(&prefix, a), AccountName::new(&prefix, b));
        prop_assert!(one.as_str().len() <= 32);
        prop_assert_eq!(one.lease(), a);
        prop_assert_eq!(&one.as_str().parse::<AccountName>().unwrap(), &one);
        prop_assert!(prefix.covers(&one));
        prop_assert_eq!(one.cmp(&two), a.cmp(&b));
    }
}
