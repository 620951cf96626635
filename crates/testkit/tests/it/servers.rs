//! Every third-party stdio server answers `initialize` and lists its tools.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use bailiwick_testkit::{Scratch, StdioServer};
use serde_json::{Value, json};

/// The names of the tools that a server lists after the legacy handshake, which all of them know.
fn tools_of(server: &StdioServer) -> Vec<String> {
    let mut child = server.command().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut ask = |message: Value| {
        writeln!(input, "{message}").unwrap();
        let id = message.get("id").cloned()?;
        loop {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "{server:?} ended");
            let reply: Value = serde_json::from_str(&line).unwrap();
            if reply["id"] == id {
                return Some(reply);
            }
        }
    };
    let client = json!({"name": "testkit", "version": "1"});
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
    ask(json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})).unwrap();
    ask(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    let listed = ask(json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    listed["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn every_third_party_server_starts_and_lists_its_tools() {
    let scratch = Scratch::new("bailiwick-servers").unwrap();
    let repository = scratch.path().join("repository");
    assert!(Command::new("git").arg("init").arg("--quiet").arg(&repository).status().unwrap().success());
    let database = scratch.write("shop.sqlite", "").unwrap();
    for (server, tool) in [
        (StdioServer::filesystem(scratch.path()), "write_file"),
        (StdioServer::memory(), "delete_entities"),
        (StdioServer::dbhub(&database), "execute_sql"),
        (StdioServer::git(&repository), "git_reset"),
        (StdioServer::time(), "convert_time"),
    ] {
        let tools = tools_of(&server);
        assert!(tools.iter().any(|name| name == tool), "{server:?}: {tools:?}");
    }
}
