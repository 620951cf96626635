//! Seven clients that this project did not write, in each era, with and without elicitation.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Mutex;
use std::thread::scope;
use std::time::Duration;

use bailiwick_testkit::clients::tools;
use bailiwick_testkit::{CallReport, Client, ClientCall, Era, Scratch};

use super::by_name;
use super::program::{Approver, Program, bailiwick, data_dir, run};
use super::tap::{Form, Tap};

const CONFIG: &str = r#"
[listen]
address = "127.0.0.1:0"
allowed_hosts = [HOSTS]
[people.ana]
roles = ["owner"]
[people.ben]
roles = ["approver", "reviewer", "auditor", "operator"]
[agents.clerk]
owner = "ana"
purpose = "answers customers"
risk = "low"
review_by = "2099-12-31"
tools = ["shop.*"]
[systems.shop]
command = "PROGRAM"
args = ["shop", "--file", "SHOP"]
[systems.shop.effects]
show_order = "read"
refund_order = "transfer"
delete_customer = "delete"
"#;

/// What each task is granted.
const GRANTED: [&str; 2] = ["shop.refund_order", "shop.show_order"];
/// A person who is at the screen.
const SOON: Duration = Duration::from_secs(1);
/// A person who comes back from elsewhere: beyond one leg, beyond the wait after a page, within what the clients wait.
const LATE: Duration = Duration::from_secs(45);

/// A client and how it is set up.
#[derive(Debug, Clone, Copy)]
struct Setup {
    client: Client,
    era: Era,
    elicits: bool,
}

/// Every client in each era that it has, without elicitation.
fn plain() -> Vec<Setup> {
    let eras = |client| match client {
        // The SDK has one era; the bridge finds out by itself and cannot be told.
        Client::TypeScriptV1 => &[Era::Legacy][..],
        Client::McpRemote => &[Era::Auto][..],
        _ => &[Era::Auto, Era::Legacy][..],
    };
    Client::ALL.into_iter().flat_map(|client| eras(client).iter().map(move |era| Setup { client, era: *era, elicits: false })).collect()
}

/// The same, and those that can answer in the middle of a call once more with that declared.
fn all() -> Vec<Setup> {
    let answers = |s: &Setup| !matches!(s.client, Client::McpRemote | Client::Inspector);
    let eliciting: Vec<_> = plain().into_iter().filter(answers).map(|s| Setup { elicits: true, ..s }).collect();
    plain().into_iter().chain(eliciting).collect()
}

fn shop(scratch: &Scratch) -> std::path::PathBuf {
    scratch.path().join("shop.sqlite")
}

/// A broker with the sample shop, for requests that come by these listeners too.
fn start(scratch: &Scratch, taps: &[TcpListener]) -> Program {
    let hosts: Vec<_> = taps.iter().map(|tap| format!("\"{}\"", tap.local_addr().unwrap())).collect();
    let config = CONFIG
        .replace("HOSTS", &hosts.join(", "))
        .replace("PROGRAM", env!("CARGO_BIN_EXE_bailiwick"))
        .replace("SHOP", shop(scratch).to_str().unwrap());
    let file = scratch.write("bailiwick.toml", &config).unwrap();
    let file = file.to_str().unwrap();
    let data = data_dir(scratch);
    run(bailiwick(&data).args(["--config", file, "agent", "add", "clerk"]));
    for person in ["ana", "ben"] {
        run(bailiwick(&data).args(["--config", file, "person", "add", person]));
    }
    let program = Program::start(scratch, &["--config", file]);
    program.tools("ben", &["shop"]);
    program
}

fn call(setup: Setup, url: &str, token: &str, tool: &str, arguments: &str) -> CallReport {
    let Setup { client, era, elicits } = setup;
    client.call(&ClientCall { url, token, tool, arguments, era, elicits }).unwrap()
}

/// How often the shop was told to refund with this reason.
fn refunds(scratch: &Scratch, reason: &str) -> u32 {
    let shop = rusqlite::Connection::open(shop(scratch)).unwrap();
    shop.query_row("SELECT count(*) FROM refund WHERE reason = ?1", [reason], |row| row.get(0)).unwrap()
}

/// Runs work on every item, `workers` at a time, and gives the results in order.
fn each<T: Send + Copy, R: Send>(items: &[T], workers: usize, work: impl Fn(usize, T) -> R + Sync) -> Vec<R> {
    let queue: Mutex<VecDeque<(usize, T)>> = Mutex::new(items.iter().copied().enumerate().collect());
    let done: Mutex<Vec<(usize, R)>> = Mutex::default();
    scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop_front();
                    let Some((index, item)) = next else { break };
                    let result = work(index, item);
                    done.lock().unwrap().push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn every_client_sees_the_granted_tools_reads_and_finds_no_other() {
    let scratch = Scratch::new("bailiwick-clients").unwrap();
    let program = start(&scratch, &[]);
    let url = program.endpoint();
    each(&plain(), 3, |_, setup| {
        let token = program.token("clerk", &GRANTED.join(","));
        let read = call(setup, &url, &token, "shop.show_order", r#"{"order":"O-2012"}"#);
        assert_eq!(by_name(&read.tools), GRANTED, "{setup:?}");
        assert!(!read.is_error && !read.raised && read.result_text.contains("rain barrel"), "{setup:?}: {read:?}");
        // The shop has the one and not the other; to this task both are the same nothing.
        let [hidden, absent] = ["shop.delete_customer", "shop.no_such_tool_at"].map(|tool| {
            let report = call(setup, &url, &token, tool, r#"{"customer":"C-1003"}"#);
            assert!(report.is_error, "{setup:?}: {report:?}");
            assert!(!report.result_text.is_empty(), "{setup:?}: {report:?}");
            (report.raised, report.result_text.replace(tool, "TOOL"))
        });
        assert_eq!(hidden, absent, "{setup:?}");
    });
    let shop = rusqlite::Connection::open(shop(&scratch)).unwrap();
    let left: u32 = shop.query_row("SELECT count(*) FROM customer WHERE id = 1003", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1);
    program.stop();
}

/// What became of one held call.
struct Held {
    report: CallReport,
    form: Form,
    version: String,
    rounds: usize,
}

/// Has a client ask for a refund that Ben approves after `delay`; a client that was told to ask again does so.
fn refund(setup: Setup, tap: &Tap, program: &Program, approver: &Approver, mark: &str, delay: Duration) -> (Held, Option<CallReport>) {
    let token = program.token("clerk", &GRANTED.join(","));
    approver.expect(mark, delay);
    let arguments = format!(r#"{{"order":"O-2012","amount_cents":1,"reason":"{mark}"}}"#);
    let ask = || call(setup, &tap.url, &token, "shop.refund_order", &arguments);
    let report = ask();
    let held = Held { form: tap.form(), version: tap.version(), rounds: tap.rounds(), report };
    let again = held.report.is_error.then(|| {
        approver.wait_for(mark);
        ask()
    });
    (held, again)
}

fn done(report: &CallReport) -> bool {
    !report.is_error && !report.raised && report.result_text.contains("\"refund\"")
}

/// The text that a model can act on: what was not done, who decides, where, and how to ask again.
fn understandable(report: &CallReport, program: &Program) -> bool {
    let needed = ["APPROVAL PENDING", "was NOT executed", "ben must approve", "exactly the same arguments", "[hold.pending]"];
    let text = &report.result_text;
    !report.raised && needed.iter().all(|n| text.contains(n)) && text.contains(&format!("{}/approvals/hold_", program.url))
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn a_held_call_is_done_once_after_approval_in_every_client_that_waits_and_understandable_in_the_others() {
    let scratch = Scratch::new("bailiwick-clients").unwrap();
    let setups = all();
    let listeners: Vec<_> = (0..2 * setups.len()).map(|_| Tap::listener()).collect();
    let program = start(&scratch, &listeners);
    let mut taps: Vec<_> = listeners.into_iter().map(|l| Tap::between(l, &program.url)).collect();
    let late_taps = taps.split_off(setups.len());
    let approver = Approver::at_work(&program, "ben");
    let soon = each(&setups, 4, |i, s| refund(s, &taps[i], &program, &approver, &format!("soon refund {i:02}."), SOON));
    // Those that wait for long need no processor meanwhile, so they all wait together.
    let late = each(&setups, setups.len(), |i, s| refund(s, &late_taps[i], &program, &approver, &format!("late refund {i:02}."), LATE));
    drop(approver);
    let mut table = String::new();
    for (i, (setup, ((soon, soon_again), (late, again)))) in setups.iter().zip(soon.iter().zip(&late)).enumerate() {
        let line = row(*setup, soon, late, again.as_ref());
        writeln!(table, "{line}").unwrap();
        println!("{line}  <!-- {:.1} s, {:.1} s, {} rounds -->", soon.report.seconds, late.report.seconds, late.rounds);
        assert_eq!(by_name(&soon.report.tools), GRANTED, "{setup:?}");
        assert!(done(&soon.report) && soon_again.is_none(), "{setup:?}: {:?}", soon.report);
        if let Some(again) = again {
            assert!(understandable(&late.report, &program), "{setup:?}: {:?}", late.report);
            assert!(done(again), "{setup:?}: {again:?}");
        }
        // Whoever speaks 2026-07-28 waits by itself, whatever it declares.
        assert_eq!(again.is_none(), late.version == "2026-07-28", "{setup:?}: {:?}", late.report);
        for mark in ["soon", "late"] {
            assert_eq!(refunds(&scratch, &format!("{mark} refund {i:02}.")), 1, "{setup:?}, {mark}");
        }
    }
    // The rows above are what people read; where they change, so does the page.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/clients.md");
    let page = std::fs::read_to_string(page).unwrap();
    for line in table.lines() {
        assert!(page.lines().any(|l| l == line), "docs/reference/clients.md lacks\n{line}\nof\n{table}");
    }
    program.stop();
}

/// A row of the table in `docs/reference/clients.md`.
fn row(setup: Setup, soon: &Held, late: &Held, again: Option<&CallReport>) -> String {
    let (name, version) = named(setup.client);
    let elicits = if setup.elicits { "yes" } else { "no" };
    let outcome = if again.is_some() { "pending text, done when asked again" } else { "done" };
    let what = if late.form == soon.form { soon.form.words().to_owned() } else { format!("{}; later: {}", soon.form.words(), late.form.words()) };
    format!("| {name} {version} | {} | {elicits} | {what} | done | {outcome} |", late.version)
}

/// The client's name, and its version as it is installed here.
fn named(client: Client) -> (&'static str, String) {
    let (name, folder, package) = match client {
        Client::PythonMcp => ("Python `mcp`", "python", "mcp=="),
        Client::FastMcp => ("Python `fastmcp`", "fastmcp", "fastmcp=="),
        Client::TypeScriptV2 => ("TypeScript `client`", "clients", "@modelcontextprotocol/client@"),
        Client::TypeScriptV1 => ("TypeScript `sdk`", "clients", "@modelcontextprotocol/sdk@"),
        Client::McpRemote => ("`mcp-remote`", "clients", "mcp-remote@"),
        Client::Inspector => ("Inspector CLI", "inspector", "@modelcontextprotocol/inspector@"),
        Client::Rmcp => ("`rmcp`", "", ""),
    };
    if client == Client::Rmcp {
        let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock")).unwrap();
        let (_, after) = lock.split_once("name = \"rmcp\"\nversion = \"").unwrap();
        return (name, after.split('"').next().unwrap().to_owned());
    }
    let stamp = std::fs::read_to_string(tools().join("stamps").join(folder)).unwrap();
    let version = stamp.lines().find_map(|line| line.strip_prefix(package)).unwrap();
    (name, version.to_owned())
}
