//! The echo fixture and the header shim, over plain HTTP.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use bailiwick_testkit::{Child, Scratch, free_port};
use serde_json::{Value, json};

fn start(scratch: &Scratch, program: &str, arguments: &[&str], port: u16) -> Child {
    let mut command = Command::new(program);
    command.args(arguments);
    let log = scratch.path().join(format!("{port}.log"));
    let mut child = Child::spawn(program, &mut command, &log).unwrap();
    child.wait_for_port(port, Duration::from_secs(30)).unwrap();
    child
}

/// One request on a connection of its own: status and body.
fn request(port: u16, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn post(port: u16, message: &Value) -> (u16, Value) {
    let (status, body) = request(port, "POST", "/mcp", &message.to_string());
    (status, serde_json::from_str(&body).unwrap_or_default())
}

fn call(id: &Value, name: &str, arguments: &Value, modern: bool) -> Value {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    let mut message = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": name, "arguments": arguments}});
    if modern {
        message["params"]["_meta"] = meta;
    }
    message
}

#[test]
fn both_eras_get_the_shape_of_result_that_they_require() {
    let scratch = Scratch::new("bailiwick-echo").unwrap();
    let port = free_port().unwrap();
    let _echo = start(&scratch, env!("CARGO_BIN_EXE_mcp-fixture-echo"), &["--port", &port.to_string()], port);
    for modern in [true, false] {
        let (status, reply) = post(port, &call(&json!("a"), "echo", &json!({"text": "hi"}), modern));
        assert_eq!(status, 200);
        assert_eq!(reply["id"], "a");
        assert_eq!(reply["result"]["content"][0]["text"], "hi");
        assert_eq!(reply["result"].get("resultType").is_some(), modern);
    }
    let asked = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2026-07-28"}});
    assert_eq!(post(port, &asked).1["result"]["protocolVersion"], "2025-11-25");
    assert_eq!(post(port, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).0, 202);
    assert_eq!(request(port, "GET", "/mcp", "").0, 405);
    assert_eq!(request(port, "POST", "/mcp", "[]").0, 400);
}

#[test]
fn every_put_is_counted_by_its_key() {
    let scratch = Scratch::new("bailiwick-echo").unwrap();
    let port = free_port().unwrap();
    let _echo = start(&scratch, env!("CARGO_BIN_EXE_mcp-fixture-echo"), &["--port", &port.to_string()], port);
    for key in ["a", "b", "a"] {
        assert_eq!(post(port, &call(&json!(1), "put", &json!({"key": key, "value": "v"}), true)).0, 200);
    }
    let refused = post(port, &call(&json!(1), "put", &json!({"key": "c"}), true)).1;
    assert_eq!(refused["error"]["code"], -32602);
    let counts: Value = serde_json::from_str(&request(port, "GET", "/counts", "").1).unwrap();
    assert_eq!(counts, json!({"echo": 0, "put": 3, "keys": {"a": 2, "b": 1}}));
}

#[test]
fn the_shim_adds_the_token_that_the_server_wants() {
    let scratch = Scratch::new("bailiwick-echo").unwrap();
    let [port, front] = [free_port().unwrap(), free_port().unwrap()];
    let echo = ["--port", &port.to_string(), "--token", "t1"];
    let _echo = start(&scratch, env!("CARGO_BIN_EXE_mcp-fixture-echo"), &echo, port);
    let shim = ["--listen", &front.to_string(), "--target", &port.to_string(), "--header", "Authorization: Bearer t1"];
    let _shim = start(&scratch, env!("CARGO_BIN_EXE_header-shim"), &shim, front);
    let message = call(&json!(1), "echo", &json!({"text": "hi"}), true);
    assert_eq!(post(port, &message).0, 401);
    assert_eq!(post(front, &message).1["result"]["content"][0]["text"], "hi");
}
