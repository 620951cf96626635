//! A load on the store alone, in a process that can be killed or traced, and what must hold of the store that it leaves behind.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bailiwick::keys::Keys;
use bailiwick::ledger_access::{Check, log_key};
use bailiwick_core::{Budget, CallId, EndReason, Grant, InstanceId, SpiffeId, Task, TaskId, TaskState, Timestamp};
use bailiwick_store::{Entry, EntryRow, Intent, Options, Store};

const DIRECTORY: &str = "BAILIWICK_LOAD_DIRECTORY";
/// Calls after which the load rests and begins again; 0: it does not end.
const CALLS: &str = "BAILIWICK_LOAD_CALLS";
const WRITERS: usize = 4;
const CALLERS: usize = 16;
/// The index thread writes the log back when nothing happened for a second, which it sees within another.
const REST: Duration = Duration::from_millis(2300);

/// The command that runs the load on a directory.
pub(crate) fn load(mut command: std::process::Command, directory: &Path, calls: usize) -> std::process::Command {
    command.args(["--exact", "power_load::child_under_load", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(DIRECTORY, directory).env(CALLS, calls.to_string());
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    command
}

/// A directory with the keys that a ledger needs, and no store yet.
pub(crate) fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    bailiwick::place::prepare(dir.path()).unwrap();
    drop(Keys::load_or_make(dir.path()).unwrap());
    // The log's name is made at the first start. From here on it stays.
    dir
}

pub(crate) fn open(directory: &Path, keys: &Path) -> Result<Store, bailiwick_store::StoreError> {
    let integrator = Keys::load_or_make(keys).unwrap().integrator().unwrap();
    Store::open_with(directory, Box::new(integrator), Options { log_bytes: 1 << 20, readers: 1 })
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn bytes(n: u64) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[2..].copy_from_slice(&n.to_be_bytes());
    bytes
}

pub(crate) fn call(n: u64) -> CallId {
    CallId::new(at(1000), bytes(n))
}

pub(crate) fn task(n: u64) -> Task {
    let agent: bailiwick_core::AgentName = "clerk".parse().unwrap();
    Task {
        id: TaskId::new(at(1000), bytes(n)),
        spiffe_id: SpiffeId::agent(&"example.org".parse().unwrap(), &agent),
        agent,
        instance: InstanceId::new(at(1000), bytes(n)),
        owner: "olive@example.org".parse().unwrap(),
        subject: "sam@example.org".parse().unwrap(),
        purpose: "a load".to_owned(),
        model_claimed: None,
        model_attested: None,
        component: None,
        undivided: false,
        held_by: None,
        proved_by: None,
        chain: Vec::new(),
        grant: Grant::default(),
        budget: Budget { calls: u64::MAX, calls_per_minute: 1 },
        opened_at: at(1000),
        expires_at: at(1_000_000),
    }
}

/// Something that the store said is durable: the kind of entry, its index, and how its body begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) index: u64,
    pub(crate) body: String,
}

impl Ack {
    /// From a line that the load told. A line that the kill cut off is none.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("ack ")?.strip_suffix(" kca")?;
        let (index, body) = rest.split_once(' ')?;
        Some(Self { index: index.parse().ok()?, body: body.to_owned() })
    }
}

fn tell(index: u64, body: &str) {
    let line = format!("ack {index} {body} kca\n");
    // One write: a line is told whole or not at all.
    std::io::stderr().lock().write_all(line.as_bytes()).unwrap();
}

/// The child: makes calls, ends tasks and takes authority away, all at once, and tells what was acknowledged, until it is killed or
/// has made as many calls as it was told, three times.
#[test]
#[ignore = "the child process of the tests of kill -9 and of power loss"]
fn child_under_load() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let calls: u64 = std::env::var(CALLS).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let directory = Path::new(&directory);
        // The third time on the same process's second opening: the log is written back and begun anew.
        for opening in 0..2 {
            let store = open(directory, directory).unwrap();
            for (index, call) in store.open_intents().await.unwrap() {
                store.outcome(index, call, format!("outcome {index} unknown").into_bytes()).await.unwrap();
            }
            for phase in 0..2 - opening {
                work(&store, if calls == 0 { u64::MAX } else { calls }).await;
                if phase == 0 && opening == 0 {
                    tokio::time::sleep(REST).await;
                }
            }
            store.close().await;
        }
    });
}

async fn work(store: &Store, calls: u64) {
    let base = u64::from_be_bytes(bailiwick::clock::random()) >> 1 & !0xff_ffff;
    let next = Arc::new(AtomicU64::new(base));
    let end = base.saturating_add(calls);
    let mut tasks = Vec::new();
    for _ in 0..WRITERS {
        let of = task(next.fetch_add(1, Ordering::SeqCst));
        store.open_task(&of, format!("open {}", of.id).into_bytes()).await.unwrap();
        tasks.push(of);
    }
    let tasks = Arc::new(Mutex::new(tasks));
    let mut running = Vec::new();
    for caller in 0..CALLERS {
        let (store, tasks, next) = (store.clone(), Arc::clone(&tasks), Arc::clone(&next));
        running.push(tokio::spawn(async move {
            loop {
                let of = tasks.lock().unwrap()[caller % WRITERS].clone();
                let id = next.fetch_add(1, Ordering::SeqCst);
                if id >= end {
                    return;
                }
                one(&store, &of, id).await;
            }
        }));
    }
    let (revoking, over) = (store.clone(), Arc::clone(&next));
    running.push(tokio::spawn(async move {
        let mut turn = 0usize;
        while over.load(Ordering::SeqCst) < end {
            turn += 1;
            let id = over.fetch_add(1, Ordering::SeqCst);
            let fresh = task(id);
            let body = format!("control {id}");
            let kept = id.to_be_bytes();
            let (index, ()) = revoking.control(Entry::new("control", body.clone().into_bytes()), move |w| w.meta_put("last", &kept)).await.unwrap();
            tell(index, &body);
            revoking.open_task(&fresh, format!("open {}", fresh.id).into_bytes()).await.unwrap();
            let ended = std::mem::replace(&mut tasks.lock().unwrap()[turn % WRITERS], fresh);
            let state = TaskState::Closing { reason: EndReason::Revoked, at: at(5000) };
            revoking.end_task(ended.id, state, format!("end {}", ended.id).into_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }));
    for one in running {
        one.await.unwrap();
    }
}

async fn one(store: &Store, of: &Task, id: u64) {
    let fence = store.control_seq();
    let padding = "x".repeat(usize::try_from(id % 7).unwrap() * 150);
    let begin = format!("intent {id} {fence} ");
    let intent = Intent {
        known_control: fence,
        task: of.id,
        call: call(id),
        consume: None,
        assigns: None,
        budget_calls: u64::MAX,
        at: at(3000),
        body: format!("{begin}{padding}").into_bytes(),
    };
    let Ok(index) = store.intent(intent).await.unwrap() else { return };
    tell(index, &begin);
    let body = format!("outcome {index} {id} ");
    match id % 5 {
        0 | 1 => {
            let outcome = store.outcome(index, call(id), body.clone().into_bytes()).await.unwrap();
            tell(outcome, &body);
        }
        2 | 3 => store.outcome_relaxed(index, call(id), body.into_bytes()).await.unwrap(),
        // Nobody ever says what became of it.
        _ => {}
    }
}

/// What is wrong with a ledger of this load, as far as its entries alone tell.
pub(crate) fn wrong(rows: &[EntryRow]) -> Option<String> {
    let (mut fence, mut ended, mut open) = (None, BTreeSet::new(), BTreeMap::new());
    for (n, row) in rows.iter().enumerate() {
        let text = String::from_utf8_lossy(&row.body);
        let words: Vec<&str> = text.split(' ').collect();
        if row.index != n as u64 {
            return Some(format!("entry {} stands at place {n}", row.index));
        }
        match words.as_slice() {
            ["intent", id, known, ..] => {
                let known: u64 = known.parse().unwrap();
                // The number of entries that took authority away before it; the first intent tells where this ledger began.
                if *fence.get_or_insert(known) != known {
                    return Some(format!("intent {n} was decided under fence {known}, and stands under {fence:?}"));
                }
                if row.task.is_some_and(|task| ended.contains(&task.to_string())) {
                    return Some(format!("intent {n} of a task that had ended"));
                }
                open.insert(n as u64, (row.call, id.parse::<u64>().unwrap()));
            }
            ["outcome", intent, ..] => {
                let intent: u64 = intent.parse().unwrap();
                if row.closes != Some(intent) || open.remove(&intent).is_none_or(|(call, _)| call != row.call) {
                    return Some(format!("outcome {n} closes no open intent of its call"));
                }
            }
            ["control", ..] => fence = fence.map(|f| f + 1),
            ["end", task] => {
                ended.insert((*task).to_owned());
                fence = fence.map(|f| f + 1);
            }
            ["open", ..] => {}
            _ => return Some(format!("entry {n} was never written: {text}")),
        }
    }
    None
}

/// Checks the store of a directory after a kill or a loss of power, and closes what was left open. Gives the number of entries.
pub(crate) async fn check(directory: &Path, keys: &Path, acks: &[Ack]) -> Result<u64, String> {
    let store = open(directory, keys).map_err(|e| format!("it does not open: {e}"))?;
    let checked = check_open(&store, keys, acks).await;
    store.close().await;
    checked
}

async fn check_open(store: &Store, keys: &Path, acks: &[Ack]) -> Result<u64, String> {
    let rows = store.entries(0..u64::MAX >> 1).await.map_err(|e| e.to_string())?;
    // The signed root is that of exactly these entries, which are as many as the head counts.
    let (key, origin) = log_key(keys).map_err(|e| e.to_string())?;
    let mut check = Check::new(&store.checkpoint(), &origin, &key).map_err(|e| e.to_string())?;
    for row in &rows {
        check.push(&row.body, &row.leaf).map_err(|e| e.to_string())?;
    }
    let head = check.finish().map_err(|e| e.to_string())?;
    if (head.size, head.size) != (store.head().size, rows.len() as u64) {
        return Err(format!("the signed head counts {}, the store {}, there are {}", head.size, store.head().size, rows.len()));
    }
    if let Some(wrong) = wrong(&rows) {
        return Err(wrong);
    }
    for ack in acks {
        let there = rows.get(usize::try_from(ack.index).unwrap()).is_some_and(|row| row.body.starts_with(ack.body.as_bytes()));
        if !there {
            return Err(format!("acknowledged and lost: {ack:?}, of {} entries", rows.len()));
        }
    }
    // A change that an entry stands for is there with its entry.
    let last = rows.iter().rev().find_map(|row| String::from_utf8_lossy(&row.body).strip_prefix("control ").map(str::to_owned));
    let kept = store.meta("last").await.map_err(|e| e.to_string())?.map(|b| u64::from_be_bytes(b.try_into().unwrap()).to_string());
    if kept != last {
        return Err(format!("the last control entry is {last:?}, its change {kept:?}"));
    }
    // What is found by its call is what the ledger says.
    for row in rows.iter().filter(|r| r.kind == "intent").step_by(rows.len() / 3 + 1) {
        let found = store.index_of_call(row.call.unwrap()).await.map_err(|e| e.to_string())?;
        if found != Some(row.index) {
            return Err(format!("the index finds {found:?} for the intent {}", row.index));
        }
    }
    let closed: BTreeSet<u64> = rows.iter().filter_map(|r| r.closes).collect();
    let open: Vec<u64> = rows.iter().filter(|r| r.kind == "intent" && !closed.contains(&r.index)).map(|r| r.index).collect();
    let listed = store.open_intents().await.map_err(|e| e.to_string())?;
    if listed.iter().map(|(index, _)| *index).collect::<Vec<_>>() != open {
        return Err(format!("open are {open:?}, listed {listed:?}"));
    }
    for (index, call) in listed {
        store.outcome(index, call, format!("outcome {index} unknown").into_bytes()).await.map_err(|e| e.to_string())?;
    }
    let left = store.open_intents().await.map_err(|e| e.to_string())?;
    if left.is_empty() { Ok(rows.len() as u64) } else { Err(format!("still open: {left:?}")) }
}
