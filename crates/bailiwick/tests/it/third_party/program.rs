//! The real program on a directory of its own, driven by its own command line, as a person at a terminal has it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use bailiwick_testkit::{Child, Scratch};
use serde_json::Value;

/// How long anything may take that is not waited for on purpose: two cores may be shared by twenty clients.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(400);

/// `bailiwick up`, running.
pub(super) struct Program {
    child: Child,
    data: PathBuf,
    pub(super) url: String,
}

impl Program {
    /// Starts it on a data directory, and waits until it serves. It listens where `arguments` or the configuration say.
    pub(super) fn start(scratch: &Scratch, arguments: &[&str]) -> Self {
        let data = data_dir(scratch);
        let mut command = bailiwick(&data);
        command.arg("up").args(arguments).env("RUST_LOG", "info");
        let log = scratch.path().join("up.log");
        let child = Child::spawn("bailiwick up", &mut command, &log).unwrap();
        let mut program = Self { child, data, url: String::new() };
        let endpoint = program.data.join("endpoint.json");
        let served = program.until("it serves", |p| {
            let text = std::fs::read_to_string(&endpoint).ok()?;
            let endpoint: Value = serde_json::from_str(&text).ok()?;
            (endpoint["pid"] == p.child.id()).then(|| endpoint["url"].as_str().map(str::to_owned))?
        });
        program.url = served;
        program
    }

    pub(super) fn endpoint(&self) -> String {
        format!("{}/mcp", self.url)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed, on both outputs.
    pub(super) fn output(&self) -> String {
        self.child.output()
    }

    /// Ends it in the orderly way.
    pub(super) fn stop(mut self) {
        assert!(self.child.terminate(Duration::from_secs(20)).unwrap(), "{}", self.output());
    }

    /// Runs a command of it, which must succeed, as `person`, and reads its JSON.
    pub(super) fn json(&self, person: &str, arguments: &[&str]) -> Value {
        let text = run(bailiwick(&self.data).args(["--json", "--as", person]).args(arguments));
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{arguments:?}: {text}"))
    }

    /// Opens a task with these tools, and gives its token.
    pub(super) fn token(&self, agent: &str, tools: &str) -> String {
        let text = run(bailiwick(&self.data).args(["--json", "token", "--agent", agent, "--tools", tools]));
        let opened: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(opened["narrowed"], serde_json::json!([]));
        opened["token"]["access_token"].as_str().unwrap().to_owned()
    }

    /// The tools that it knows, by name, once every one of these systems has listed its own.
    pub(super) fn tools(&self, person: &str, systems: &[&str]) -> BTreeMap<String, Value> {
        self.until("every system lists its tools", |p| {
            let listed = p.json(person, &["tools", "list"]);
            let tools: BTreeMap<String, Value> =
                listed["tools"].as_array()?.iter().map(|t| (t["name"].as_str().unwrap().to_owned(), t.clone())).collect();
            systems.iter().all(|s| tools.keys().any(|name| name.starts_with(&format!("{s}.")))).then_some(tools)
        })
    }

    fn until<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(begin.elapsed() < LIMIT, "waited in vain until {what}:\n{}", self.output());
            sleep(POLL);
        }
    }
}

/// The data directory inside a scratch folder.
pub(super) fn data_dir(scratch: &Scratch) -> PathBuf {
    scratch.path().join("data")
}

/// The program with its data directory, and nothing of the environment of whoever runs the tests.
pub(super) fn bailiwick(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bailiwick"));
    for name in ["BAILIWICK_CONFIG", "BAILIWICK_URL", "BAILIWICK_PERSON", "BAILIWICK_AGENT"] {
        command.env_remove(name);
    }
    command.env("USER", "ana").arg("--data-dir").arg(data);
    command
}

/// Runs a command to its end; gives its standard output.
pub(super) fn run(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A person at a terminal who approves every held call whose arguments hold a known mark, a while after it appears.
pub(super) struct Approver {
    board: Arc<Mutex<Board>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Board {
    delays: BTreeMap<String, Duration>,
    approved: BTreeMap<String, u32>,
    over: bool,
}

impl Approver {
    pub(super) fn at_work(program: &Program, person: &'static str) -> Self {
        let board = Arc::new(Mutex::new(Board::default()));
        let (data, shared) = (program.data.clone(), Arc::clone(&board));
        let thread = spawn(move || {
            let mut seen: BTreeMap<String, Instant> = BTreeMap::new();
            while !shared.lock().unwrap().over {
                for (hold, mark) in due(&data, person, &shared, &mut seen) {
                    let text = run(bailiwick(&data).args(["approve", &hold, "--as", person, "--yes"]));
                    assert!(text.contains("approved by"), "{text}");
                    *shared.lock().unwrap().approved.entry(mark).or_default() += 1;
                }
                sleep(POLL);
            }
        });
        Self { board, thread: Some(thread) }
    }

    /// From now on, calls with `mark` in their arguments are approved this long after they were first seen waiting.
    pub(super) fn expect(&self, mark: &str, delay: Duration) {
        self.board.lock().unwrap().delays.insert(mark.to_owned(), delay);
    }

    /// How many approvals were given for calls with this mark.
    pub(super) fn approved(&self, mark: &str) -> u32 {
        self.board.lock().unwrap().approved.get(mark).copied().unwrap_or_default()
    }

    pub(super) fn wait_for(&self, mark: &str) {
        let begin = Instant::now();
        while self.approved(mark) == 0 {
            assert!(begin.elapsed() < LIMIT, "no call with `{mark}` was approved");
            sleep(POLL);
        }
    }
}

impl Drop for Approver {
    fn drop(&mut self) {
        if let Ok(mut board) = self.board.lock() {
            board.over = true;
        }
        if let Some(Err(error)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(error);
        }
    }
}

fn due(data: &Path, person: &str, board: &Mutex<Board>, seen: &mut BTreeMap<String, Instant>) -> Vec<(String, String)> {
    let waiting: Value = serde_json::from_str(&run(bailiwick(data).args(["--json", "approvals", "--as", person]))).unwrap();
    let delays = board.lock().unwrap().delays.clone();
    let mut due = Vec::new();
    for hold in waiting["holds"].as_array().unwrap() {
        let id = hold["id"].as_str().unwrap().to_owned();
        let arguments = hold["arguments"].as_str().unwrap();
        let Some((mark, delay)) = delays.iter().find(|(mark, _)| arguments.contains(mark.as_str())) else { continue };
        if seen.entry(id.clone()).or_insert_with(Instant::now).elapsed() >= *delay {
            due.push((id, mark.clone()));
        }
    }
    due
}
