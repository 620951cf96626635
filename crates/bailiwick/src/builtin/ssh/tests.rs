//! The table, the tools and a call's way to its words, without a host; and with one, a call over the connection that the broker holds.

use super::*;
use crate::builtin::call_id;
use bailiwick_testkit::servers::sshd::{Sshd, keygen};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGxbsP0eFkGkKBm8aHKhq8nNn9W1bWUV7hRYv9rJYuGm";

fn table(change: impl Fn(&mut Value)) -> Result<Settings, String> {
    let mut table = json!({
        "authority": "web-ssh-ca",
        "hosts": { "web1": { "address": "192.0.2.1", "keys": [KEY] }, "web2": { "address": "192.0.2.2", "port": 2222, "keys": [KEY] } },
        "logins": { "read": { "user": "look", "principal": "look" }, "write": { "user": "deploy", "principal": "task-agent" } },
        "admin": { "user": "broker", "principal": "bailiwick-admin", "sudo": true },
        "commands": {
            "restart_service": { "description": "Restarts a service.", "effect": "write", "run": ["systemctl", "restart", "{service}"],
                "arguments": { "service": { "is": "choice", "of": ["nginx", "app"] } } },
            "read_log": { "description": "The end of a log.", "effect": "read", "run": ["tail", "-n", "{lines}", "{file}"],
                "arguments": { "file": { "is": "path", "below": "/var/log" }, "lines": { "is": "integer", "min": 1, "max": 100 } } },
        },
    });
    change(&mut table);
    let file: File = serde_json::from_value(table).map_err(|error| error.to_string())?;
    file.check(Path::new("/"))
}

fn hosts(settings: &Settings) -> Hosts {
    Hosts { kind: settings.kind.clone(), commands: Arc::clone(&settings.commands) }
}

#[test]
fn each_command_is_a_tool_with_a_closed_schema() {
    let settings = table(|_| {}).unwrap();
    assert_eq!(settings.secrets(), ["web-ssh-ca"]);
    assert_eq!(settings.target(), "ssh://look|deploy@192.0.2.1:22, ssh://look|deploy@192.0.2.2:2222");
    let tools = hosts(&settings).tools();
    let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["read_log", "restart_service"]);
    let input = &tools[1]["inputSchema"];
    assert_eq!(input["additionalProperties"], json!(false));
    assert_eq!(input["required"], json!(["service", "host"]));
    assert_eq!(input["properties"]["host"]["enum"], json!(["web1", "web2"]));
    assert_eq!(tools[0]["annotations"]["readOnlyHint"], json!(true));
    assert_eq!(tools[1]["annotations"]["readOnlyHint"], json!(false));
}

#[test]
fn a_call_has_the_effect_of_its_command_and_only_words_of_its_form() {
    let hosts = hosts(&table(|_| {}).unwrap());
    assert_eq!(hosts.effect("restart_service"), Some(Effect::Write));
    assert_eq!(hosts.effect("rm"), None);
    let judge = |tool: &str, arguments: Value| hosts.judge(tool, &arguments).map_err(|refusal| refusal.words);
    assert_eq!(judge("restart_service", json!({ "service": "nginx", "host": "web1" })), Ok(Effect::Write));
    assert_eq!(judge("read_log", json!({ "file": "/var/log/syslog", "lines": 3, "host": "web2" })), Ok(Effect::Read));
    for (tool, arguments, words) in [
        ("rm", json!({}), "there is no such command"),
        ("restart_service", json!([]), "expected the arguments as an object"),
        ("restart_service", json!({ "service": "nginx" }), "expected `host` as one of: web1, web2"),
        ("restart_service", json!({ "service": "nginx", "host": "web3" }), "expected `host` as one of: web1, web2"),
        ("restart_service", json!({ "service": "nginx; reboot", "host": "web1" }), "`service`: expected one of: nginx, app"),
        (
            "read_log",
            json!({ "file": "/etc/shadow", "lines": 3, "host": "web2" }),
            "`file`: expected the path of something below `/var/log`, of letters, digits and `._-+,@:=%`, without `..`",
        ),
    ] {
        assert_eq!(judge(tool, arguments), Err(words.to_owned()));
    }
    assert_eq!(hosts.rights(Effect::Read), Rights { class: "read", rights: vec!["read".into()] });
    assert_eq!(hosts.rights(Effect::Delete), Rights { class: "write", rights: vec!["write".into()] });
}

#[test]
fn a_table_that_would_do_something_else_than_it_says_is_refused() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 11] = [
        (|t| t["hosts"] = json!({}), "1 to 16 hosts"),
        (|t| t["hosts"]["web1"]["keys"] = json!([]), "public keys"),
        (|t| t["logins"] = json!({}), "logins"),
        (|t| t["logins"] = json!({ "read": { "user": "look", "principal": "look" } }), "there is no login `write`"),
        (|t| t["admin"]["principal"] = "task-agent".into(), "that no lease has"),
        (|t| t["commands"] = json!({}), "1 to 64 commands"),
        (|t| t["commands"]["restart_service"]["run"] = json!(["{service}"]), "expected a program"),
        (|t| t["commands"]["restart_service"]["description"] = " ".into(), "expected a description"),
        (|t| t["commands"]["restart_service"]["seconds_max"] = 0.into(), "seconds"),
        (|t| t["commands"]["restart_service"]["shell"] = "sh".into(), "unknown field"),
        (|t| t["prefix"] = "root".into(), "prefix"),
    ];
    for (change, words) in cases {
        let refused = table(change).unwrap_err();
        assert!(refused.contains(words), "{words}: {refused}");
    }
}

#[test]
fn the_example_of_the_guide_is_one() {
    let guide = include_str!("../../../../../docs/guides/ssh-systems.md");
    let example = guide.split("```toml").nth(1).unwrap().split("```").next().unwrap().replace("ssh-ed25519 AAAA...", KEY);
    let table: toml::Table = example.parse().unwrap();
    let file: File = table["systems"]["web"]["ssh"].clone().try_into().unwrap();
    let hosts = hosts(&file.check(Path::new("/")).unwrap());
    assert_eq!(hosts.effect("restart_service"), Some(Effect::Write));
    let arguments = json!({ "host": "web2", "lines": 100, "file": "/var/log/app/x.log" });
    assert_eq!(hosts.judge("read_log", &arguments).unwrap(), Effect::Read);
}

#[test]
fn an_answer_has_text_where_it_is_text_and_base64_where_it_is_none() {
    let ran = |stdout: &[u8], truncated| Ran { status: Some(0), signal: None, stdout: stdout.to_vec(), stderr: Vec::new(), truncated, late: false };
    assert_eq!(answer("one", &ran(b"hello", false)).structured["stdout"], json!("hello"));
    assert_eq!(answer("one", &ran(b"\xff", false)).structured["stdout_base64"], json!("/w=="));
    assert_eq!(answer("one", &ran("h\u{e4}".as_bytes().get(..2).unwrap(), true)).structured["stdout"], json!("h"));
    assert!(answer("one", &ran(b"", false)).structured["stdout_base64"].is_null());
    assert!(!answer("one", &ran(b"", false)).is_error);
    assert!(answer("one", &Ran { status: Some(1), ..ran(b"", false) }).is_error);
    assert!(answer("one", &Ran { status: None, late: true, ..ran(b"", false) }).is_error);
}

#[derive(Debug)]
struct Now;

impl Clock for Now {
    #[expect(clippy::disallowed_methods, reason = "sshd's clock is the machine's")]
    fn now(&self) -> bailiwick_core::Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        bailiwick_core::Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap())
    }
}

#[tokio::test]
async fn a_call_runs_at_the_host_and_is_over_with_its_lease() {
    let scratch = bailiwick_testkit::Scratch::new("bailiwick-builtin-ssh").unwrap();
    let ca = scratch.path().join("ca");
    assert!(keygen().unwrap().args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&ca).status().unwrap().success());
    let authority = std::fs::read_to_string(ca.with_extension("pub")).unwrap();
    let server = Sshd::start(authority.trim(), &[(Sshd::AGENT, "task-agent"), (Sshd::BROKER, "bailiwick-admin")], "ed25519", "").unwrap();
    let settings = table(|table| {
        table["hosts"] = json!({ "one": { "address": "127.0.0.1", "port": server.port(), "keys": [server.host_key().unwrap()] } });
        table["logins"] = json!({ "write": { "user": Sshd::AGENT, "principal": "task-agent" } });
        table["admin"] = json!({ "user": Sshd::BROKER, "principal": "bailiwick-admin", "folder": server.folder() });
        table["commands"] = json!({
            "say": { "description": "Says it.", "effect": "write", "run": ["printf", "%s|", "{file}", "$(id) a  b'c"], "arguments": { "file": { "is": "path", "below": "/tmp" } } },
            "wait": { "description": "Waits.", "effect": "write", "run": ["sleep", "600"] },
        });
    });
    let key = std::fs::read(&ca).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(Now);
    let built = settings.unwrap().build(&|_| Ok(Secret::from(key.clone())), &clock).unwrap();

    let name = bailiwick_credentials::lease::AccountName::new(&Prefix::default(), [9; 16]);
    assert_eq!(built.kind.preflight(&bailiwick_credentials::lease::AccountName::new(&Prefix::default(), [8; 16])).await.unwrap(), []);
    let tag = Tag { task: "task_1".into(), agent: "spiffe://example.org/agent/a".into(), expires_at: clock.now().plus(Duration::from_secs(300)) };
    let rights = built.builtin.rights(Effect::Write);
    let plan = bailiwick_credentials::lease::Plan { name: name.clone(), tag: tag.clone(), rights: rights.rights };
    let secret = built.kind.propose().unwrap();
    let minted = built.kind.mint(&plan, secret.as_ref()).await.unwrap();
    let account = Account { name, ids: minted.ids, secret: minted.secret, expires_at: minted.expires_at };
    let session = built.builtin.open(&account, &tag).await.unwrap();
    let never = CancellationToken::new();
    let said = session.call(call_id(), "say", &json!({ "file": "/tmp/a" }), &never).await.unwrap();
    assert_eq!((said.is_error, &said.structured["stdout"]), (false, &json!("/tmp/a|$(id) a  b'c|")), "{said:?}");
    assert!(!session.call(call_id(), "say", &json!({ "file": "/etc/passwd" }), &never).await.unwrap_err().may_have_run);

    let cancel = CancellationToken::new();
    let nothing = json!({});
    let waiting = session.call(call_id(), "wait", &nothing, &cancel);
    let stop = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cancel.cancel();
    };
    let (waited, ()) = tokio::join!(waiting, stop);
    assert!(waited.unwrap_err().may_have_run);
    assert_eq!(session.call(call_id(), "say", &json!({ "file": "/tmp/x" }), &never).await.unwrap().structured["exit_status"], json!(0));

    assert_eq!(built.kind.end(&account).await.unwrap().word(), "revoked-verified");
    assert!(session.call(call_id(), "say", &json!({ "file": "/tmp/x" }), &never).await.unwrap_err().gone);
    assert!(built.builtin.open(&account, &tag).await.is_err());
    session.close().await;
}
