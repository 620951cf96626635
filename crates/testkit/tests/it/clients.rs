//! Every third-party client calls a tool of the echo fixture.

use std::process::Command;
use std::time::Duration;

use bailiwick_testkit::{Child, Client, ClientCall, Era, Scratch, free_port};

const TOKEN: &str = "only-for-this-test";

/// Clients that answer what a server asks in the middle of a call.
const ANSWERING: [Client; 4] = [Client::PythonMcp, Client::FastMcp, Client::TypeScriptV2, Client::Rmcp];

fn answer_with(clients: &[Client], era: Era, tool: &str, expected: &str) {
    let scratch = Scratch::new("bailiwick-clients").unwrap();
    let port = free_port().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-fixture-rmcp"));
    command.args(["--port", &port.to_string()]);
    let mut server = Child::spawn("rmcp", &mut command, &scratch.path().join("rmcp.log")).unwrap();
    server.wait_for_port(port, Duration::from_secs(30)).unwrap();
    let url = format!("http://127.0.0.1:{port}/mcp");
    for client in clients {
        let call = ClientCall { url: &url, token: "", tool, arguments: r#"{"message":"?"}"#, era, elicits: true };
        let report = client.call(&call).unwrap();
        assert_eq!(report.result_text, expected, "{report:?}");
        assert!(!report.is_error && !report.raised, "{report:?}");
    }
}

fn call_with_every_client(era: Era) {
    let scratch = Scratch::new("bailiwick-clients").unwrap();
    let port = free_port().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-fixture-echo"));
    command.args(["--port", &port.to_string(), "--token", TOKEN]);
    let mut server = Child::spawn("echo", &mut command, &scratch.path().join("echo.log")).unwrap();
    server.wait_for_port(port, Duration::from_secs(30)).unwrap();
    let url = format!("http://127.0.0.1:{port}/mcp");
    let arguments = r#"{"text":"grüße \"1\" $HOME"}"#;
    for client in Client::ALL {
        let call = ClientCall { url: &url, token: TOKEN, tool: "echo", arguments, era, elicits: false };
        let report = client.call(&call).unwrap();
        assert_eq!(report.tools, ["echo", "put"], "{report:?}");
        assert_eq!(report.result_text, "grüße \"1\" $HOME", "{report:?}");
        assert!(!report.is_error && !report.raised, "{report:?}");
        if let Some(version) = &report.era {
            let legacy_only = client == Client::TypeScriptV1;
            let modern = version == "2026-07-28";
            assert_eq!(modern, era == Era::Auto && !legacy_only, "{report:?}");
        }
        let refused = client.call(&ClientCall { token: "wrong", ..call }).unwrap();
        assert!(refused.raised, "{refused:?}");
    }
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn every_client_calls_a_tool_in_the_era_that_it_finds() {
    call_with_every_client(Era::Auto);
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn every_client_calls_a_tool_by_the_legacy_handshake() {
    call_with_every_client(Era::Legacy);
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn clients_that_elicit_finish_a_call_of_two_rounds() {
    let tool = "test_input_required_result_elicitation";
    answer_with(&ANSWERING, Era::Modern, tool, "Hello, stranger!");
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn clients_that_elicit_answer_in_the_middle_of_a_legacy_call() {
    let expected = "User response: action=accept, content={}";
    answer_with(&ANSWERING, Era::Legacy, "test_elicitation", expected);
    answer_with(&[Client::TypeScriptV1], Era::Legacy, "test_elicitation", expected);
}
