//! The real binary on a data directory of its own, and what a person or a host does with it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(30);

/// A data directory, and the broker that may run on it.
pub(crate) struct Installation {
    pub(crate) dir: tempfile::TempDir,
    broker: Option<Child>,
}

impl Installation {
    /// An empty data directory.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), broker: None }
    }

    /// The embedded defaults for `ana`, running.
    pub(crate) fn of_one_person() -> Self {
        Self::new().up(&[])
    }

    /// Owner `ana` and approver `ben`, with the sample shop, running.
    pub(crate) fn of_two_people() -> Self {
        let new = Self::new();
        let (program, shop) = (json!(program()), json!(new.data().join("shop.sqlite")));
        let config = format!(
            "[people.ana]\nroles = [\"owner\", \"operator\", \"auditor\"]\n[people.ben]\nroles = [\"approver\", \"reviewer\"]\n\
             [agents.assistant]\nowner = \"ana\"\npurpose = \"tests\"\nrisk = \"medium\"\nreview_by = \"2099-01-01\"\ntools = [\"*\"]\n\
             [systems.shop]\ncommand = {program}\nargs = [\"shop\", \"--file\", {shop}]\nunclassified = \"propose\"\n\
             [systems.shop.effects]\nrefund_order = \"transfer\"\n"
        );
        make_private(&new.data());
        std::fs::write(new.data().join("bailiwick.toml"), config).unwrap();
        for add in [["person", "add", "ana"], ["person", "add", "ben"], ["agent", "add", "assistant"]] {
            new.done(&add);
        }
        new.up(&[])
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the broker, and waits until its systems have named their tools.
    pub(crate) fn up(mut self, more: &[&str]) -> Self {
        let log = std::fs::File::create(self.dir.path().join("up.log")).unwrap();
        let out = std::fs::File::create(self.dir.path().join("up.out")).unwrap();
        let mut up = self.command(&["up", "--listen", "127.0.0.1:0"]);
        self.broker = Some(up.args(more).stdin(Stdio::null()).stdout(out).stderr(log).spawn().unwrap());
        until("the broker is ready", || {
            assert!(self.broker.as_mut().unwrap().try_wait().unwrap().is_none(), "it ended: {}", self.log());
            self.data().join("endpoint.json").exists()
        });
        // As somebody whose key is here: the first person by name.
        until("the tools are known", || {
            let tools = self.run_as_first(&["tools", "list", "--json"]);
            serde_json::from_slice::<Value>(&tools.stdout).is_ok_and(|t| t["tools"].as_array().is_some_and(|t| !t.is_empty()))
        });
        self
    }

    fn run_as_first(&self, args: &[&str]) -> Output {
        self.command(args).args(["--as", "ana"]).output().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("up.log")).unwrap_or_default()
    }

    /// What the broker printed.
    pub(crate) fn printed(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("up.out")).unwrap_or_default()
    }

    /// A command of the real binary on this data directory, with nothing of the developer's own environment in it.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BAILIWICK_")) {
            command.env_remove(name);
        }
        command.env("USER", "ana").env("BAILIWICK_DATA_DIR", self.data()).args(args);
        command
    }

    /// Runs a command without input.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must succeed; gives its standard output.
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[args, &["--json"]].concat())).unwrap()
    }

    /// Runs a command that must fail; gives what it said.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?} should fail");
        said(&output)
    }

    /// Waits for the one held call.
    pub(crate) fn held(&self, person: &str) -> Value {
        let mut found = Value::Null;
        until("a call is held", || {
            found = self.json(&["approvals", "--as", person])["holds"][0].clone();
            found.is_object()
        });
        found
    }

    /// Stops the broker as a person would; gives whether it ended well.
    pub(crate) fn stop(&mut self) -> bool {
        let mut broker = self.broker.take().unwrap();
        terminate(&broker);
        ended(&mut broker)
    }

    /// A bridge for the sample agent.
    pub(crate) fn host(&self, more: &[&str]) -> Host {
        let mut command = self.command(&["connect", "--agent", "assistant"]);
        let stderr = std::fs::File::create(self.dir.path().join("connect.log")).unwrap();
        let mut child = command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        Host { to: child.stdin.take(), from: BufReader::new(child.stdout.take().unwrap()), child }
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if let Some(mut broker) = self.broker.take() {
            terminate(&broker);
            if !ended(&mut broker) {
                let _ = broker.kill();
            }
        }
    }
}

/// An MCP host that started a bridge.
pub(crate) struct Host {
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    pub(crate) child: Child,
}

impl Host {
    pub(crate) fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    pub(crate) fn send_text(&mut self, line: &str) {
        writeln!(self.to.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line, which must be one JSON-RPC message.
    pub(crate) fn next(&mut self) -> Value {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let message: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("`{line}` is no message: {e}"));
        assert_eq!(message["jsonrpc"], "2.0", "{message}");
        message
    }

    /// Sends a request and gives the answer to it; other messages are passed over.
    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        self.send(request);
        loop {
            let message = self.next();
            if message["id"] == request["id"] && message.get("method").is_none() {
                return message;
            }
        }
    }

    /// The handshake of the revisions before 2026-07-28.
    pub(crate) fn shake_hands(&mut self) -> Value {
        let params = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test-host", "version": "1" } });
        let answer = self.ask(&json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }));
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        answer
    }

    /// Closes the host's end and waits; gives whether the bridge ended well.
    pub(crate) fn close(mut self) -> bool {
        drop(self.to.take());
        ended(&mut self.child)
    }

    /// Asks it to end by a signal; gives whether it ended well.
    pub(crate) fn terminate(mut self) -> bool {
        terminate(&self.child);
        ended(&mut self.child)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request of the handshake revisions.
pub(crate) fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool, "arguments": arguments } })
}

/// The same of the 2026-07-28 revision.
pub(crate) fn modern(id: u64, method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

pub(crate) fn refund() -> Value {
    json!({ "order": "O-2009", "amount_cents": 700, "reason": "scratched" })
}

pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_bailiwick")
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(crate) fn until(what: &str, mut test: impl FnMut() -> bool) {
    let start = Instant::now();
    while !test() {
        assert!(start.elapsed() < WITHIN, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

fn make_private(dir: &Path) {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).unwrap();
}

fn terminate(child: &Child) {
    let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).stderr(Stdio::null()).status();
}

fn ended(child: &mut Child) -> bool {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        if start.elapsed() > WITHIN {
            let _ = child.kill();
            let _ = child.wait();
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
