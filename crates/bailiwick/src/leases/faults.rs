//! What a fault of ours in the end of a lease leaves behind, and what accounts that wait do while their system is away for a moment.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bailiwick_core::{CallId, Effect, EndReason, TaskState};
use bailiwick_credentials::lease::{Account, Ending, Evidence, Finding, Found, Minted, Plan, Step, Tag, TargetIds};
use bailiwick_store::{Intent, Options};

use super::simulation::{Number, task};
use super::*;
use crate::builtin::{Answer, Refusal, Session, UseError};
use crate::clock::SystemClock;

/// A kind whose end panics so many times.
#[derive(Debug)]
struct Faulty(AtomicU64);

#[async_trait::async_trait]
impl Kind for Faulty {
    fn kind(&self) -> &'static str {
        "faulty"
    }
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        Ok(Some(Secret::from("secret".to_owned())))
    }
    async fn preflight(&self, _: &AccountName) -> Result<Vec<Finding>, TargetError> {
        Ok(Vec::new())
    }
    async fn mint(&self, _: &Plan, _: Option<&Secret>) -> Result<Minted, TargetError> {
        Ok(Minted { ids: TargetIds::default(), secret: None, expires_at: None })
    }
    async fn end(&self, _: &Account) -> Result<Ending, TargetError> {
        tokio::task::yield_now().await;
        assert!(self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err(), "a fault in the end of a lease");
        Ok(Ending::RevokedUnverified { why: "nothing to try".to_owned(), evidence: Evidence::default() })
    }
    async fn list(&self, _: &Prefix) -> Result<Vec<Found>, TargetError> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_panic_while_a_lease_is_ended_calls_somebody_and_leaves_it_to_be_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(dir.path(), Box::new(Number), Options { log_bytes: 1 << 20, readers: 1 }).unwrap();
    let sealer = Arc::new(bailiwick_credentials::RootKey::generate().unwrap().0.sealer().unwrap());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let (leases, mut happened) = Leases::new(store.clone(), sealer, Arc::clone(&clock));
    let leasing = Arc::new(Leasing {
        system: "orders".parse().unwrap(),
        kind: Arc::new(Faulty(AtomicU64::new(2))),
        prefix: "ag_".parse().unwrap(),
        builtin: None,
        rights: Vec::new(),
        given: None,
        unfit: Mutex::default(),
        pool: PoolSize::default(),
        issues: false,
        checked: AtomicBool::new(true),
        places: Arc::new(Semaphore::new(ENDS_AT_ONCE)),
        down: Mutex::default(),
        target: "faulty".to_owned(),
    });
    leases.add(Arc::clone(&leasing));
    let task = Arc::new(task(clock.now()));
    store.open_task(&task, b"{}".to_vec()).await.unwrap();
    let held = leases.reserve(&task, &leasing, Rights { class: "read", rights: Vec::new() });
    leases.ready(&held, CallId::new(clock.now(), random())).await.unwrap();
    let closing = TaskState::Closing { reason: EndReason::Completed, at: clock.now() };
    store.end_task(task.id, closing, b"{}".to_vec()).await.unwrap();
    // Whoever waits for the end is told that the try came back, and does not wait out its patience.
    tokio::time::timeout(Duration::from_secs(5), leases.end_of_task(task.id)).await.unwrap();
    for tries in 1..=3 {
        tokio::time::timeout(Duration::from_secs(30), async {
            while !locked(&leases.queued).is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("try {tries} is under way for good"));
        assert!(locked(&leases.busy).is_empty(), "nobody is at it");
        let row = store.lease(held.id).await.unwrap().unwrap();
        if tries == 3 {
            assert_eq!(row.state, LeaseState::Ended);
            break;
        }
        assert_eq!((row.state, row.life.attempts), (LeaseState::Ending, tries), "{row:?}");
        assert!(row.life.next_at.is_some_and(|at| clock.now() < at), "not as fast as it can fail");
        assert!(row.life.failure.as_deref().unwrap().contains("a fault in the broker"), "{row:?}");
        assert!(matches!(happened.recv().await, Some(Event::Stuck { .. })), "somebody is called");
        // Waiting for the next try is not what is looked at here.
        store.lease_tried(held.id, bailiwick_store::LeaseLife { next_at: None, ..row.life }).await.unwrap();
        leases.end_due().await.unwrap();
    }
    store.close().await;
}

/// A system whose connections are always open and do nothing.
#[derive(Debug)]
pub(super) struct Quiet;

#[async_trait::async_trait]
impl Builtin for Quiet {
    fn tools(&self) -> Vec<serde_json::Value> {
        Vec::new()
    }
    fn effect(&self, _: &str) -> Option<Effect> {
        None
    }
    fn judge(&self, _: &str, _: &serde_json::Value) -> Result<Effect, Refusal> {
        Ok(Effect::Read)
    }
    fn rights(&self, effect: Effect) -> Rights {
        Rights { class: if effect == Effect::Read { "read" } else { "write" }, rights: Vec::new() }
    }
    async fn open(&self, _: &Account, _: &Tag) -> Result<Arc<dyn Session>, UseError> {
        Ok(Arc::new(Self))
    }
}

#[async_trait::async_trait]
impl Session for Quiet {
    async fn call(&self, _: CallId, _: &str, _: &serde_json::Value, _: &CancellationToken) -> Result<Answer, UseError> {
        Ok(Answer { structured: serde_json::Value::Null, is_error: false })
    }
    async fn assign(&self, _: &Tag) -> bool {
        true
    }
    async fn close(&self) {}
}

/// A system that takes the name of an account's task only when it was asked so often; with `u64::MAX` it never will.
#[derive(Debug, Default)]
struct Away {
    asked: AtomicU64,
    until: u64,
    refuses: bool,
}

#[async_trait::async_trait]
impl Kind for Away {
    fn kind(&self) -> &'static str {
        "away"
    }
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        Ok(Some(Secret::from("secret".to_owned())))
    }
    async fn preflight(&self, _: &AccountName) -> Result<Vec<Finding>, TargetError> {
        Ok(Vec::new())
    }
    async fn mint(&self, _: &Plan, _: Option<&Secret>) -> Result<Minted, TargetError> {
        Ok(Minted { ids: TargetIds::default(), secret: None, expires_at: None })
    }
    async fn assign(&self, _: &Account, _: &Tag) -> Result<(), TargetError> {
        let code = if self.refuses { TargetCode::Privilege } else { TargetCode::Unreachable };
        let asked = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        if asked < self.until { Err(TargetError::new(code, Step::Mint, "one", "not now")) } else { Ok(()) }
    }
    async fn end(&self, _: &Account) -> Result<Ending, TargetError> {
        Ok(Ending::RevokedUnverified { why: "nothing to try".to_owned(), evidence: Evidence::default() })
    }
    async fn list(&self, _: &Prefix) -> Result<Vec<Found>, TargetError> {
        Ok(Vec::new())
    }
}

/// A clock that stands still.
#[derive(Debug)]
struct Standing(AtomicI64);

impl Clock for Standing {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

struct Pooling {
    _dir: tempfile::TempDir,
    store: Store,
    leases: Arc<Leases>,
    leasing: Arc<Leasing>,
    task: Arc<Task>,
}

impl Pooling {
    async fn start(kind: Arc<Away>, read: usize, clock: &Arc<dyn Clock>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_with(dir.path(), Box::new(Number), Options { log_bytes: 1 << 20, readers: 1 }).unwrap();
        let sealer = Arc::new(bailiwick_credentials::RootKey::generate().unwrap().0.sealer().unwrap());
        let (leases, _) = Leases::new(store.clone(), sealer, Arc::clone(clock));
        let leasing = Arc::new(Leasing {
            system: "orders".parse().unwrap(),
            kind,
            prefix: "ag_".parse().unwrap(),
            builtin: Some(Arc::new(Quiet)),
            rights: Vec::new(),
            given: None,
            unfit: Mutex::default(),
            pool: PoolSize { read, write: 0 },
            issues: false,
            checked: AtomicBool::new(true),
            places: Arc::new(Semaphore::new(ENDS_AT_ONCE)),
            down: Mutex::default(),
            target: "away".to_owned(),
        });
        leases.add(Arc::clone(&leasing));
        leases.fill_pool(&leasing).await.unwrap();
        let task = Arc::new(task(clock.now()));
        store.open_task(&task, b"{}".to_vec()).await.unwrap();
        Self { _dir: dir, store, leases, leasing, task }
    }

    /// The first call of the task, up to its credential.
    async fn called(&self) -> Arc<Held> {
        let held = self.leases.reserve(&self.task, &self.leasing, Rights { class: "read", rights: Vec::new() });
        let (call, known_control, at) = (CallId::new(self.task.opened_at, random()), self.store.control_seq(), self.task.opened_at);
        let assigns = self.leases.assignment(&held, call).unwrap();
        assert!(assigns.is_some(), "none waited");
        let intent = Intent { known_control, task: self.task.id, call, consume: None, assigns, budget_calls: 9, at, body: b"{}".to_vec() };
        let written = self.store.intent(intent).await.unwrap();
        self.leases.assigned(&held, written.map(drop)).await;
        self.leases.ready(&held, call).await.unwrap();
        held.used();
        held
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_system_that_is_away_for_a_moment_is_told_later_whose_an_account_is_and_the_account_stays_in_use() {
    let kind = Arc::new(Away { until: 3, ..Away::default() });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let pooling = Pooling::start(Arc::clone(&kind), 1, &clock).await;
    let held = pooling.called().await;
    until("it was not asked", || kind.asked.load(Ordering::SeqCst) > 0).await;
    // Between two tries nobody is at it: an end would not wait.
    until("it is being worked on all the time", || pooling.leases.occupy(held.id).is_some()).await;
    until("it was not told", || kind.asked.load(Ordering::SeqCst) == 3).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(held.is_live() && kind.asked.load(Ordering::SeqCst) == 3);
    assert_eq!(pooling.store.lease(held.id).await.unwrap().unwrap().state, LeaseState::Live);
    pooling.store.close().await;
}

#[tokio::test]
async fn nobody_is_told_any_more_whose_an_account_is_that_has_ended_and_a_refusal_ends_it() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let kind = Arc::new(Away { until: u64::MAX, ..Away::default() });
    let pooling = Pooling::start(Arc::clone(&kind), 1, &clock).await;
    let held = pooling.called().await;
    until("it was not asked", || kind.asked.load(Ordering::SeqCst) > 0).await;
    let closing = TaskState::Closing { reason: EndReason::Completed, at: clock.now() };
    pooling.store.end_task(pooling.task.id, closing, b"{}".to_vec()).await.unwrap();
    pooling.leases.end_of_task(pooling.task.id).await;
    assert_eq!(pooling.store.lease(held.id).await.unwrap().unwrap().state, LeaseState::Ended);
    let asked = kind.asked.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(kind.asked.load(Ordering::SeqCst), asked);
    pooling.store.close().await;
    let kind = Arc::new(Away { until: u64::MAX, refuses: true, ..Away::default() });
    let pooling = Pooling::start(Arc::clone(&kind), 1, &clock).await;
    let held = pooling.called().await;
    until("it is still in use", || held.is_over()).await;
    pooling.leases.end_due().await.unwrap();
    until("it has no ending", || locked(&pooling.leases.queued).is_empty()).await;
    assert_eq!(pooling.store.lease(held.id).await.unwrap().unwrap().state, LeaseState::Ended);
    assert_eq!(kind.asked.load(Ordering::SeqCst), 1);
    pooling.store.close().await;
}

#[tokio::test]
async fn a_pool_of_which_fewer_than_half_are_left_is_filled_at_once_and_what_is_above_that_when_it_is_quiet() {
    // A clock that stands still: it never becomes quiet.
    let manual = Arc::new(Standing(AtomicI64::new(SystemClock::start().now().as_millis())));
    let clock: Arc<dyn Clock> = Arc::clone(&manual) as _;
    let pooling = Pooling::start(Arc::default(), 4, &clock).await;
    let taken: Vec<_> = (0..3).map(|_| pooling.leases.take_pooled(&pooling.leasing, "read").unwrap()).collect();
    assert_eq!((pooling.leases.waiting("orders"), taken.len()), (1, 3));
    let filling = pooling.leases.fill_pool(&pooling.leasing);
    tokio::pin!(filling);
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut filling).await.is_err(), "accounts are made beside the first calls of tasks");
    assert_eq!(pooling.leases.waiting("orders"), 2);
    manual.0.fetch_add(20, Ordering::SeqCst);
    tokio::time::timeout(Duration::from_secs(30), filling).await.unwrap().unwrap();
    assert_eq!(pooling.leases.waiting("orders"), 4);
    pooling.store.close().await;
}

#[tokio::test]
async fn a_call_whose_account_was_taken_away_before_its_record_gets_another() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let pooling = Pooling::start(Arc::default(), 1, &clock).await;
    let rights = || Rights { class: "read", rights: Vec::new() };
    let held = pooling.leases.reserve(&pooling.task, &pooling.leasing, rights());
    // Somebody ends it between the reservation and the record.
    pooling.store.lease_ending(held.id).await.unwrap();
    let call = CallId::new(clock.now(), random());
    let assigns = pooling.leases.assignment(&held, call).unwrap();
    let known_control = pooling.store.control_seq();
    let intent =
        Intent { known_control, task: pooling.task.id, call, consume: None, assigns, budget_calls: 9, at: clock.now(), body: b"{}".to_vec() };
    let written = pooling.store.intent(intent).await.unwrap();
    assert_eq!(written, Err(bailiwick_core::record::Lost::LeaseGone));
    pooling.leases.assigned(&held, written.map(drop)).await;
    assert!(held.is_over());
    let other = pooling.leases.reserve(&pooling.task, &pooling.leasing, rights());
    assert_ne!(held.id, other.id);
    pooling.leases.ready(&other, call).await.unwrap();
    assert!(other.is_live());
    pooling.store.close().await;
}
