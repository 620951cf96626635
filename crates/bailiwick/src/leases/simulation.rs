//! Thousands of deaths between any two steps of mint, use and end, against a system that is a map: after each start no account is left
//! that no live lease explains, and no task reads as closed with a live credential.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bailiwick_core::{Budget, CallId, EndReason, Grant, InstanceId, SpiffeId, TaskState};
use bailiwick_credentials::lease::{Account, Ending, Evidence, Finding, Found, Minted, Plan, Step, Tag, TargetCode, TargetIds};
use bailiwick_store::{Integrated, Integrator, Intent, Options, TaskFilter};

use super::faults::Quiet;
use super::*;
use crate::clock::SystemClock;

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// The system, and the moment of death. It outlives the broker.
#[derive(Debug)]
struct World {
    accounts: Mutex<BTreeMap<AccountName, Vec<u8>>>,
    /// Steps until the broker dies; `u64::MAX` never.
    left: AtomicU64,
    death: Notify,
    /// Ends until the system answers again.
    down: AtomicU64,
}

impl World {
    /// One step: the broker may die right here, and then it does nothing more.
    async fn step(&self) {
        if self.passes() {
            return tokio::task::yield_now().await;
        }
        self.death.notify_one();
        std::future::pending::<()>().await;
    }

    fn passes(&self) -> bool {
        let left = self.left.load(Ordering::SeqCst);
        if left == u64::MAX {
            return true;
        }
        self.left.store(left.saturating_sub(1), Ordering::SeqCst);
        left > 0
    }
}

#[derive(Debug)]
struct Simulated(Arc<World>);

#[async_trait::async_trait]
impl Kind for Simulated {
    fn kind(&self) -> &'static str {
        "simulated"
    }
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        Ok(Some(Secret::from("canary-secret-of-a-lease".to_owned())))
    }
    async fn preflight(&self, _: &AccountName) -> Result<Vec<Finding>, TargetError> {
        Ok(Vec::new())
    }
    async fn mint(&self, plan: &Plan, _: Option<&Secret>) -> Result<Minted, TargetError> {
        self.0.step().await;
        locked(&self.0.accounts).insert(plan.name.clone(), Vec::new());
        self.0.step().await;
        Ok(Minted { ids: TargetIds::one("oid", 7), secret: None, expires_at: None })
    }
    async fn assign(&self, account: &Account, _: &Tag) -> Result<(), TargetError> {
        self.0.step().await;
        assert!(locked(&self.0.accounts).contains_key(&account.name), "an account is said to be a task's when it is gone");
        Ok(())
    }
    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        self.0.step().await;
        if self.0.down.load(Ordering::SeqCst) > 0 {
            self.0.down.fetch_sub(1, Ordering::SeqCst);
            return Err(TargetError::new(TargetCode::Unreachable, Step::Kill, "one", "it is down"));
        }
        locked(&self.0.accounts).remove(&account.name);
        self.0.step().await;
        let mut evidence = Evidence::default();
        evidence.saw("one", Step::Verify, Timestamp::from_millis(0), "refused", account.secret.as_ref());
        Ok(if account.secret.is_some() {
            Ending::RevokedVerified { evidence }
        } else {
            Ending::RevokedUnverified { why: "its secret is lost".to_owned(), evidence }
        })
    }
    async fn list(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        let accounts = locked(&self.0.accounts);
        let ours = accounts.keys().filter(|name| prefix.covers(name));
        Ok(ours.map(|name| Found { name: name.clone(), ids: TargetIds::default(), tag: None, node: "one".to_owned() }).collect())
    }
}

/// A tree that is only a number: what is shown here is not the ledger.
pub(super) struct Number;

impl Integrator for Number {
    fn integrate(&mut self, frontier: &[u8], entries: &[&[u8]]) -> Result<Integrated, String> {
        let before = frontier.try_into().map_or(0, u64::from_be_bytes);
        let size = before + u64::try_from(entries.len()).unwrap();
        let leaves = entries.iter().map(|e| *bailiwick_core::Digest::of(e).as_bytes()).collect();
        Ok(Integrated { leaves, frontier: size.to_be_bytes().to_vec(), size, root: [0; 32], checkpoint: format!("{size}\n") })
    }
}

pub(super) fn task(now: Timestamp) -> Task {
    let agent: bailiwick_core::AgentName = "clerk".parse().unwrap();
    Task {
        id: TaskId::new(now, random()),
        spiffe_id: SpiffeId::agent(&"example.org".parse().unwrap(), &agent),
        agent,
        instance: InstanceId::new(now, random()),
        owner: "ana".parse().unwrap(),
        subject: "ana".parse().unwrap(),
        purpose: String::new(),
        model_claimed: None,
        model_attested: None,
        component: None,
        undivided: false,
        held_by: None,
        proved_by: None,
        chain: Vec::new(),
        grant: Grant::default(),
        budget: Budget { calls: 9, calls_per_minute: 9 },
        opened_at: now,
        expires_at: now.plus(Duration::from_secs(3600)),
    }
}

struct Broker {
    leases: Arc<Leases>,
    store: Store,
    clock: Arc<dyn Clock>,
}

impl Broker {
    /// A start: what the store and the system remember, and nothing else.
    async fn start(store: &Store, sealer: &Arc<Sealer>, world: &Arc<World>, clock: &Arc<dyn Clock>) -> Self {
        let (leases, _) = Leases::new(store.clone(), Arc::clone(sealer) as _, Arc::clone(clock));
        for system in ["orders", "stock"] {
            let kind = Arc::new(Simulated(Arc::clone(world)));
            let pooled = system == "orders";
            let (system, prefix) = (system.parse().unwrap(), if system == "orders" { "ag_" } else { "agst_" }.parse().unwrap());
            leases.add(Arc::new(Leasing {
                system,
                kind,
                prefix,
                builtin: pooled.then(|| Arc::new(Quiet) as _),
                rights: Vec::new(),
                given: None,
                unfit: Mutex::default(),
                pool: PoolSize { read: if pooled { 2 } else { 0 }, write: 0 },
                issues: false,
                checked: AtomicBool::new(true),
                places: Arc::new(Semaphore::new(ENDS_AT_ONCE)),
                down: Mutex::default(),
                target: "simulated".to_owned(),
            }));
        }
        let rows = store.tasks(TaskFilter { state: Some("open"), limit: usize::MAX, ..TaskFilter::default() }).await.unwrap();
        let open: BTreeMap<TaskId, Arc<Task>> = rows.into_iter().map(|row| (row.task.id, Arc::new(row.task))).collect();
        leases.recover(true, |id| open.get(&id).cloned()).await.unwrap();
        Self { leases, store: store.clone(), clock: Arc::clone(clock) }
    }

    /// One task with calls of two classes at two systems, of which one has accounts that wait, and its end. The system may be down at the end.
    async fn work(&self, world: &World) {
        let task = Arc::new(task(self.clock.now()));
        self.store.open_task(&task, b"{}".to_vec()).await.unwrap();
        self.leases.fill_pool(&self.leases.leasing(&"orders".parse().unwrap()).unwrap()).await.unwrap();
        for (system, class) in [("orders", "read"), ("stock", "read"), ("orders", "write")] {
            let leasing = self.leases.leasing(&system.parse().unwrap()).unwrap();
            let held = self.leases.reserve(&task, &leasing, Rights { class, rights: Vec::new() });
            self.permitted(&held, world).await;
            world.step().await;
            held.used();
            assert!(locked(&world.accounts).contains_key(&held.account), "a lease that may be used has its account");
        }
        self.end(&task).await;
    }

    /// What the way of a call does from its record to its credential.
    async fn permitted(&self, held: &Arc<Held>, world: &World) {
        let call = CallId::new(self.clock.now(), random());
        let assigns = self.leases.assignment(held, call).unwrap();
        let waited = assigns.is_some();
        assert_eq!(waited, held.rights.class == "read" && held.leasing.pool.read > 0, "what waits is given to the task with the intent");
        let (known_control, at) = (self.store.control_seq(), self.clock.now());
        let intent = Intent { known_control, task: held.task.id, call, consume: None, assigns, budget_calls: 9, at, body: b"{}".to_vec() };
        let written = self.store.intent(intent).await.unwrap();
        world.step().await;
        if waited {
            self.leases.assigned(held, written.map(drop)).await;
        }
        written.unwrap();
        self.leases.ready(held, call).await.unwrap();
    }

    async fn end(&self, task: &Task) {
        let (reason, at) = (EndReason::Completed, self.clock.now());
        self.store.end_task(task.id, TaskState::Closing { reason, at }, b"{}".to_vec()).await.unwrap();
        self.leases.end_of_task(task.id).await;
        self.close(task.id).await;
    }

    async fn close(&self, id: TaskId) {
        let filter = LeaseFilter { task: Some(id), open: true, limit: 9, ..LeaseFilter::default() };
        if self.store.leases(filter).await.unwrap().is_empty() {
            let to = TaskState::Closed { reason: EndReason::Completed, at: self.clock.now() };
            self.store.end_task(id, to, b"{}".to_vec()).await.unwrap();
        }
    }

    /// What the workers do, until there is nothing left to do.
    async fn settle(&self) {
        let ending = || LeaseFilter { state: Some(LeaseState::Ending), limit: usize::MAX, ..LeaseFilter::default() };
        loop {
            self.leases.end_due().await.unwrap();
            while !locked(&self.leases.queued).is_empty() {
                tokio::task::yield_now().await;
            }
            let left = self.store.leases(ending()).await.unwrap();
            if left.is_empty() {
                break;
            }
            // Waiting for the next try is not what is looked at here.
            for row in left {
                let life = bailiwick_store::LeaseLife { next_at: None, ..row.life };
                self.store.lease_tried(row.lease.id, life).await.unwrap();
            }
        }
        for row in self.store.tasks(TaskFilter { state: Some("closing"), limit: usize::MAX, ..TaskFilter::default() }).await.unwrap() {
            self.close(row.task.id).await;
        }
        for system in ["orders", "stock"] {
            self.leases.sweep(&system.parse().unwrap()).await.unwrap();
        }
    }

    /// What must hold after a start.
    async fn check(&self, world: &World) {
        let open = self.store.leases(LeaseFilter { open: true, limit: usize::MAX, ..LeaseFilter::default() }).await.unwrap();
        let explained: BTreeMap<String, &LeaseRow> = open.iter().map(|row| (row.lease.account.clone(), row)).collect();
        for account in locked(&world.accounts).keys() {
            let row = explained.get(account.as_str()).unwrap_or_else(|| panic!("{account} is explained by no lease"));
            assert_eq!(row.state, LeaseState::Live, "{row:?}");
        }
        for row in &open {
            let state = self.store.task(row.task.unwrap()).await.unwrap().unwrap().state;
            assert!(state.is_open(), "{row:?} is live, and its task is {state:?}");
        }
        let closing = self.store.tasks(TaskFilter { state: Some("closing"), limit: 9, ..TaskFilter::default() }).await.unwrap();
        assert!(closing.is_empty(), "{closing:?}");
    }
}

#[test]
fn a_lease_is_worked_on_by_one_at_a_time_and_whoever_comes_second_leaves_the_first_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(dir.path(), Box::new(Number), Options { log_bytes: 1 << 20, readers: 1 }).unwrap();
    let sealer = Arc::new(bailiwick_credentials::RootKey::generate().unwrap().0.sealer().unwrap());
    let (leases, _) = Leases::new(store, sealer, Arc::new(SystemClock::start()));
    let id = LeaseId::from_bytes([1; 16]);
    let first = leases.occupy(id).unwrap();
    assert!(leases.occupy(id).is_none() && leases.occupy(id).is_none());
    drop(first);
    assert!(leases.occupy(id).is_some());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn after_any_death_no_account_is_left_that_no_live_lease_explains_and_no_task_is_closed_over_one() {
    let deaths: u64 = std::env::var("BAILIWICK_SIMULATED_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    // What is shown here is the order of steps; that the store keeps what it said it has is shown with power losses.
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() };
    let store = Store::open_with(dir.path(), Box::new(Number), Options { log_bytes: 1 << 20, readers: 1 }).unwrap();
    let sealer = Arc::new(bailiwick_credentials::RootKey::generate().unwrap().0.sealer().unwrap());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let (accounts, left, death, down) = (Mutex::default(), AtomicU64::new(u64::MAX), Notify::new(), AtomicU64::new(0));
    let world = Arc::new(World { accounts, left, death, down });
    let (mut died, mut survived) = (0, 0);
    while died < deaths {
        let life = runtime();
        // About thirty steps are in one task's life; sometimes it comes to its end.
        let steps = dice.roll(40);
        world.down.store(dice.roll(3), Ordering::SeqCst);
        let dead = life.block_on(async {
            let broker = Broker::start(&store, &sealer, &world, &clock).await;
            world.left.store(steps, Ordering::SeqCst);
            tokio::select! {
                () = world.death.notified() => true,
                () = broker.work(&world) => false,
            }
        });
        // Nothing of it runs on.
        drop(life);
        if dead {
            died += 1
        } else {
            survived += 1
        }
        world.left.store(u64::MAX, Ordering::SeqCst);
        let after = runtime();
        after.block_on(async {
            let broker = Broker::start(&store, &sealer, &world, &clock).await;
            broker.settle().await;
            broker.check(&world).await;
            // What was left open and may be used goes on: it is ended like any other.
            for row in store.tasks(TaskFilter { state: Some("open"), limit: usize::MAX, ..TaskFilter::default() }).await.unwrap() {
                broker.end(&row.task).await;
            }
            broker.settle().await;
            broker.check(&world).await;
            assert!(locked(&world.accounts).is_empty(), "with every task ended nothing is left");
        });
    }
    assert!(survived > 0, "some come to their end too");
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("canary-secret"), "a secret in the store");
    }
    runtime().block_on(store.close());
}
