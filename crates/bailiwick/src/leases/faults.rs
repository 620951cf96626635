//! What a fault of ours in the end of a lease leaves behind: a try that came to nothing, and the next one.

use std::sync::atomic::{AtomicU64, Ordering};

use bailiwick_core::{CallId, EndReason, TaskState};
use bailiwick_credentials::lease::{Account, Ending, Evidence, Finding, Found, Minted, Plan, TargetIds};
use bailiwick_store::Options;

use super::simulation::{Number, task};
use super::*;
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
