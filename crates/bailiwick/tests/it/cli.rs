//! The commands, as people type them, against the real binary.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use crate::running::{Installation, call, program, refund, said};

/// The end of an id, as people type it.
fn end_of(id: &str) -> &str {
    id.get(id.len() - 8..).unwrap()
}

#[test]
fn the_demo_goes_as_told() {
    let output = Installation::new().command(&["demo", "--fast"]).stdin(Stdio::null()).output().unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for told in [
        "spiffe://demo.bailiwick.local/agent/assistant",
        "held: nothing was sent",
        "approved by ben",
        "refund R-",
        "held anew",
        "Unknown tool: shop.delete_customer",
        "401",
        "footing        a second person",
        "lead to the signed root",
    ] {
        assert!(text.contains(told), "`{told}` is missing in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "colours where nobody looks");
}

#[test]
fn a_starting_point_is_written_once_and_passes_its_own_check() {
    let new = Installation::new();
    let file = new.dir.path().join("b.toml");
    let file = file.to_str().unwrap();
    new.done(&["init", file]);
    assert!(new.refused(&["init", file]).contains("is there already"));
    let text = new.done(&["check", "--config", file]);
    assert!(text.contains("is well-formed") && text.contains("planner"), "{text}");
}

#[test]
fn a_wrong_configuration_is_refused_with_file_line_and_column() {
    let new = Installation::new();
    let file = new.dir.path().join("wrong.toml");
    std::fs::write(&file, "[people.ana]\nroles = [\"king\"]\n").unwrap();
    let text = new.refused(&["check", "--config", file.to_str().unwrap()]);
    assert!(text.contains("wrong.toml:2") && text.contains("king"), "{text}");
}

#[test]
fn a_policy_about_arguments_is_checked_against_the_tools_that_the_broker_has_seen() {
    let mut one = Installation::of_two_people();
    assert!(one.stop(), "{}", one.log());
    let folder = one.data().join("policies");
    std::fs::create_dir(&folder).unwrap();
    let small = "@id(\"small\")\npermit (principal, action == Action::\"shop.refund_order\", resource) when { context.input.REFUND <= 500 };\n";
    std::fs::write(folder.join("p.cedar"), small.replace("REFUND", "amount_cents")).unwrap();
    let file = one.data().join("bailiwick.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[policy]\ndirectory = \"policies\"\n")).unwrap();
    assert!(one.done(&["check"]).contains("is well-formed"));
    // An argument that the tool does not have is found here, and not at the next start.
    std::fs::write(folder.join("p.cedar"), small.replace("REFUND", "sum")).unwrap();
    assert!(one.refused(&["check"]).contains("sum"));
    // Where no broker ever ran, nobody knows the arguments.
    let new = Installation::new();
    let (config, pack) = (new.dir.path().join("c.toml"), new.dir.path().join("policies"));
    std::fs::create_dir(&pack).unwrap();
    std::fs::copy(&file, &config).unwrap();
    std::fs::write(pack.join("p.cedar"), small.replace("REFUND", "amount_cents")).unwrap();
    new.refused(&["check", "--config", config.to_str().unwrap()]);
}

#[test]
fn without_a_broker_the_command_that_starts_it_is_named() {
    let new = Installation::new();
    new.done(&["person", "add", "ana"]);
    let text = new.refused(&["approvals", "--url", "http://127.0.0.1:9"]);
    assert!(text.contains("is not running") && text.contains("bailiwick up"), "{text}");
}

#[test]
fn up_says_where_to_connect_and_ends_cleanly_on_a_signal() {
    let mut one = Installation::of_one_person();
    let printed = one.printed();
    for said in ["/mcp", "/approvals", "bailiwick sign-in", "\"mcpServers\"", "\"connect\"", program()] {
        assert!(printed.contains(said), "`{said}` is missing in\n{printed}");
    }
    assert!(one.stop(), "{}", one.log());
    assert!(!one.data().join("endpoint.json").exists());
    let text = one.done(&["ledger", "verify"]);
    assert!(text.contains("is whole"), "{text}");
}

#[test]
fn a_token_is_alone_on_standard_output_and_its_task_can_be_seen_and_revoked() {
    let one = Installation::of_one_person();
    let output = one.run(&["token", "--agent", "assistant", "--tools", "shop.show_order", "--purpose", "look"]);
    assert!(output.status.success(), "{}", said(&output));
    let token = String::from_utf8(output.stdout).unwrap();
    assert_eq!((token.lines().count(), token.trim().split('.').count()), (1, 3));
    let tasks = one.json(&["task", "list"]);
    assert_eq!((tasks["tasks"][0]["purpose"].as_str(), tasks["tasks"][0]["tools"].as_array().unwrap().len()), (Some("look"), 1));
    let id = tasks["tasks"][0]["id"].as_str().unwrap();
    let shown = one.done(&["task", "revoke", end_of(id)]);
    assert!(shown.contains("revoked"), "{shown}");
    assert!(one.done(&["task", "show", id]).contains("closed: revoked"));
}

#[test]
fn a_held_call_is_decided_by_another_person_with_a_look_at_all_of_it() {
    let two = Installation::of_two_people();
    let mut host = two.host(&[]);
    host.shake_hands();
    host.send(&call(1, "shop.refund_order", &refund()));
    let id = two.held("ben")["id"].as_str().unwrap().to_owned();
    let own = two.refused(&["approve", &id, "--as", "ana", "--yes"]);
    assert!(own.contains("approval."), "{own}");
    let nobody = two.refused(&["approve", &id, "--as", "ben"]);
    assert!(nobody.contains("nobody is here to confirm") && nobody.contains("\"amount_cents\": 700"), "{nobody}");
    let text = two.done(&["approve", end_of(&id), "--as", "ben", "--yes"]);
    for shown in ["TRANSFER shop.refund_order", "\"amount_cents\": 700", "on behalf of   ana", "approved by ben"] {
        assert!(text.contains(shown), "`{shown}` is missing in\n{text}");
    }
    assert_eq!(host.next()["result"]["structuredContent"]["amount_cents"], 700);
    let trace = two.done(&["trace", &id, "--as", "ana"]);
    for told in ["spiffe://bailiwick.local/agent/assistant", "approved by ben", "a second person", "permitted, recorded before it was sent", "done"] {
        assert!(trace.contains(told), "`{told}` is missing in\n{trace}");
    }
    let again = two.refused(&["approve", &id, "--as", "ben", "--yes"]);
    assert!(again.contains("does not wait any more"), "{again}");
}

#[test]
fn the_servers_of_an_mcp_client_come_under_control_and_their_secrets_leave_the_file() {
    let new = Installation::new();
    let client = new.dir.path().join("mcp.json");
    let shop = new.dir.path().join("shop.sqlite");
    let file =
        json!({ "mcpServers": { "My Shop": { "command": program(), "args": ["shop", "--file", shop], "env": { "SHOP_TOKEN": "canary-77d1a9" } } } });
    std::fs::write(&client, file.to_string()).unwrap();
    let mut new = new.up(&["--mcp-config", client.to_str().unwrap()]);
    let tools = new.json(&["tools", "list"]);
    assert!(tools["tools"].as_array().unwrap().iter().any(|t| t["name"] == "my-shop.show_order" && t["status"] == "classified"), "{tools}");
    assert!(new.printed().contains("instead of its own servers"));
    assert!(new.stop(), "{}", new.log());
    assert_eq!(new.done(&["secret", "list"]).trim(), "my-shop.SHOP_TOKEN");
    for file in std::fs::read_dir(new.data()).unwrap().map(|f| f.unwrap().path()).filter(|p| p.is_file()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"canary"), "{} holds the secret", file.display());
    }
    assert!(!format!("{}{}", new.printed(), new.log()).contains("canary"));
}

#[test]
fn a_secret_comes_from_standard_input_and_is_not_shown() {
    let new = Installation::new();
    let mut set = new.command(&["secret", "set", "token"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    set.stdin.take().unwrap().write_all(b"canary-1\n").unwrap();
    let output = set.wait_with_output().unwrap();
    assert!(output.status.success() && !said(&output).contains("canary"), "{}", said(&output));
    assert_eq!(new.json(&["secret", "list"])["secrets"], json!(["token"]));
    new.done(&["secret", "remove", "token"]);
    assert_eq!(new.json(&["secret", "list"])["secrets"], json!([]));
    assert!(new.refused(&["secret", "set", "empty"]).contains("empty"));
}

#[test]
fn the_ledger_is_verified_while_the_broker_runs_and_from_an_exported_directory() {
    let one = Installation::of_one_person();
    assert!(one.done(&["ledger", "verify"]).contains("is whole"));
    let out = one.dir.path().join("out");
    one.done(&["ledger", "export", out.to_str().unwrap()]);
    let report = one.json(&["ledger", "verify", "--dir", out.to_str().unwrap()]);
    assert_eq!(report["verified"], true);
    let url: serde_json::Value = serde_json::from_slice(&std::fs::read(one.data().join("endpoint.json")).unwrap()).unwrap();
    assert!(one.done(&["ledger", "verify", "--url", url["url"].as_str().unwrap()]).contains("is whole"));
    let bundle = out.join("tile/entries/000.p");
    let part = std::fs::read_dir(&bundle).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&part).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    assert!(one.refused(&["ledger", "verify", "--dir", out.to_str().unwrap()]).contains("DOES NOT VERIFY"));
}
