//! The root key and its replacement: killed at each step, under load, from a service manager's credential, and wrapped by a token's key.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bailiwick_credentials::{RootId, RootKey, Secret};
use http::Method;
use serde_json::{Value, json};

use crate::support::{Broker, PATIENCE, Place, TaskToken};

/// Every step of a replacement at which a process can be killed, and whether the new key is the one in the end.
const POINTS: [(&str, bool); 10] = [
    ("root-key-made", false),
    ("root-key-next", true),
    ("root-key-begun", true),
    ("root-key-batch", true),
    ("root-key-texts", true),
    ("root-key-files", true),
    ("root-key-retired", true),
    ("root-key-proved", true),
    ("root-key-in-force", true),
    ("root-key-replaced", true),
];

const SECRETS: usize = 150;
/// A call that is held.
const PAYMENT: &str = r#"{"recipient":"alice","amount":2.50}"#;

fn program(place: &Place, arguments: &[&str], environment: &[(&str, &str)], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bailiwick"));
    command.arg("--data-dir").arg(&place.data).arg("--config").arg(&place.config).args(arguments);
    command.env("RUST_LOG", "off").env("RUST_BACKTRACE", "0").envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn fine(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(output: Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    for words in words {
        assert!(said.contains(words), "`{words}` is not in: {said}");
    }
}

fn copy(from: &Path, to: &Path) {
    drop(std::fs::remove_dir_all(to));
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

async fn place() -> Place {
    Place::with(|text| format!("{text}\n[retention]\narguments = 30\nanswers = 30\n")).await
}

/// A broker with something of every sort that is sealed.
struct Filled {
    task: TaskToken,
    put: String,
    hold: Value,
}

fn arguments(n: usize) -> String {
    json!({ "key": format!("k-{n}"), "value": format!("a value to be kept {n}") }).to_string()
}

async fn fill(broker: &Broker, place: &Place) -> Filled {
    let client = place.client();
    let task = client.task("scout").await;
    for n in 0..12 {
        assert_eq!(client.call(&task, "sys.put", &arguments(n)).await.word(), "done");
    }
    client.approved(&task, "sys.pay", PAYMENT).await;
    for n in 0..SECRETS {
        let name = format!("secret-{n}");
        let sealed = broker.house.sealer().seal(&name, &Secret::from(format!("value {n}"))).unwrap();
        broker.house.store.secret_put(&name, sealed).await.unwrap();
    }
    let entries = broker.entries().await;
    let put = entries.iter().find(|e| e["kind"] == "intent" && e["tool"] == "sys.put").unwrap()["call"].as_str().unwrap().to_owned();
    let hold = client.by("ben", Method::GET, "/v1/holds", None).await.json()["holds"][0].clone();
    Filled { task, put, hold }
}

/// Everything that was sealed opens, and is what the ledger's digests say.
async fn whole(broker: &Broker, place: &Place, filled: &Filled) {
    for n in 0..SECRETS {
        let name = format!("secret-{n}");
        let sealed = broker.house.store.secret(&name).await.unwrap().unwrap();
        assert_eq!(broker.house.sealer().open_bytes(&name, &sealed).unwrap().as_slice(), format!("value {n}").as_bytes());
    }
    let client = place.client();
    let texts = client.by("ben", Method::GET, &format!("/v1/calls/{}/texts", filled.put), None).await.json();
    assert_eq!(texts["arguments"]["text"], arguments(0), "{texts}");
    assert_eq!(texts["arguments"]["on_record"], true, "the digests' key is what it was: {texts}");
    assert_eq!(texts["answer"]["on_record"], true, "{texts}");
    let hold = client.by("ben", Method::GET, &format!("/v1/holds/{}", filled.hold["id"].as_str().unwrap()), None).await.json();
    assert_eq!(hold["arguments"], filled.hold["arguments"]);
    assert_eq!(client.call(&filled.task, "sys.put", &arguments(99)).await.word(), "done");
}

async fn replaced(broker: &Broker) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = broker.house.root_status();
        if status.replacing.is_none() {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nothing in the data directory is sealed under it, in a row, a file or a text.
fn nothing_under(data: &Path, root: RootId) {
    let mut found = Vec::new();
    for (file, tables) in [
        ("bailiwick.sqlite", vec!["secrets.sealed", "salts.sealed", "leases.secret", "holds.arguments", "results.result", "kept_secrets.candidate"]),
        ("payloads.sqlite", vec!["payloads.sealed"]),
    ] {
        let conn = rusqlite::Connection::open(data.join(file)).unwrap();
        for (table, column) in tables.iter().map(|t| t.split_once('.').unwrap()) {
            let sql = format!("SELECT count(*) FROM {table} WHERE substr({column}, 5, 8) = ?1");
            let count: i64 = conn.query_row(&sql, [root.as_bytes().as_slice()], |r| r.get(0)).unwrap();
            if count > 0 {
                found.push(format!("{count} in {table}"));
            }
        }
    }
    for file in std::fs::read_dir(data.join("keys")).unwrap() {
        let path = file.unwrap().path();
        if RootId::of(&std::fs::read(&path).unwrap()) == Some(root) {
            found.push(path.display().to_string());
        }
    }
    assert!(found.is_empty(), "{found:?}");
}

fn root_of(data: &Path) -> RootId {
    RootKey::parse(&std::fs::read(data.join("root.key")).unwrap()).unwrap().id()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_killed_at_any_step_loses_nothing_and_is_brought_to_its_end_at_the_next_start() {
    let place = place().await;
    let broker = place.open().await;
    let filled = fill(&broker, &place).await;
    broker.stop().await;
    let backup = place.data.with_extension("backup");
    copy(&place.data, &backup);
    let old = root_of(&place.data);
    for (point, begun) in POINTS {
        copy(&backup, &place.data);
        let killed = program(&place, &["root-key", "rotate"], &[("BAILIWICK_FAULT", point)], b"");
        assert_eq!(killed.status.signal(), Some(6), "it did not die at {point}: {}", String::from_utf8_lossy(&killed.stderr));
        let broker = place.open().await;
        replaced(&broker).await;
        assert_eq!(broker.house.sealer().known().len(), 1, "at {point}");
        assert_eq!(broker.house.sealer().current() != old, begun, "at {point}");
        whole(&broker, &place, &filled).await;
        let entries = broker.entries().await;
        let said = |what: &str| entries.iter().filter(|e| e["kind"] == "house" && e["what"] == what).count();
        let unsaid = point == "root-key-next";
        assert_eq!((said("root_key_rotation_begun") > 0, said("root_key_rotated") > 0), (begun && !unsaid, begun), "at {point}");
        broker.stop().await;
        place.verify();
        assert!(!place.data.join("root.next").exists(), "at {point}");
        if begun {
            nothing_under(&place.data, old);
            assert_ne!(root_of(&place.data), old);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_secrets_go_on_while_the_root_key_is_replaced_by_an_operator_and_by_nobody_else() {
    let place = place().await;
    let broker = place.open().await;
    let filled = fill(&broker, &place).await;
    let old = broker.house.sealer().current();
    let client = place.client();
    for who in ["ana", "ben", "cat"] {
        let answer = client.by(who, Method::POST, "/v1/root-key/rotate", Some(json!({}))).await;
        assert!(matches!(answer.status, 401 | 403), "{who}: {answer:?}");
    }
    let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..4)
        .map(|worker| {
            let (house, stop, reads) = (Arc::clone(&broker.house), Arc::clone(&stop), Arc::clone(&reads));
            tokio::spawn(async move {
                let mut n = worker;
                while !stop.load(Ordering::Relaxed) {
                    n = (n + 7) % SECRETS;
                    let name = format!("secret-{n}");
                    if worker == 0 {
                        // Set anew in the middle of it, to the same value.
                        let sealed = house.sealer().seal(&name, &Secret::from(format!("value {n}"))).unwrap();
                        house.store.secret_put(&name, sealed).await.unwrap();
                    }
                    let sealed = house.store.secret(&name).await.unwrap().unwrap();
                    match house.sealer().open_bytes(&name, &sealed) {
                        Ok(plain) => assert_eq!(plain.as_slice(), format!("value {n}").as_bytes()),
                        // Read before the old key was forgotten, and opened after it: what is stored now opens.
                        Err(_) => {
                            let again = house.store.secret(&name).await.unwrap().unwrap();
                            assert_eq!(house.sealer().open_bytes(&name, &again).unwrap().as_slice(), format!("value {n}").as_bytes());
                        }
                    }
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut names = BTreeMap::new();
    for round in 0..3 {
        let before = broker.house.sealer().current();
        let answer = client.by("ops", Method::POST, "/v1/root-key/rotate", Some(json!({}))).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let told = answer.json();
        assert_eq!(told["replacing"], before.to_string(), "{told}");
        let again = client.by("ops", Method::POST, "/v1/root-key/rotate", Some(json!({}))).await;
        assert!(again.status == 409 || broker.house.root_status().replacing.is_none(), "{again:?}");
        for n in 0..5 {
            assert_eq!(client.call(&filled.task, "sys.put", &arguments(100 + round * 10 + n)).await.word(), "done");
        }
        replaced(&broker).await;
        names.insert(broker.house.sealer().current().to_string(), round);
    }
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.unwrap();
    }
    assert!(reads.load(Ordering::Relaxed) > 50);
    assert_eq!(names.len(), 3, "each time another key");
    let status = client.by("ops", Method::GET, "/v1/root-key", None).await.json();
    assert_eq!((status["held"].as_str(), status["id"].as_str()), (Some("file"), Some(&*broker.house.sealer().current().to_string())));
    whole(&broker, &place, &filled).await;
    let entries = broker.entries().await;
    let begun: Vec<_> = entries.iter().filter(|e| e["what"] == "root_key_rotation_begun").collect();
    let done = entries.iter().filter(|e| e["what"] == "root_key_rotated").count();
    assert!(begun.len() >= 3 && done == begun.len() && begun[0]["name"].as_str().unwrap().ends_with(" by ops"), "{begun:?}");
    broker.stop().await;
    nothing_under(&place.data, old);
    place.verify();
    let broker = place.open().await;
    whole(&broker, &place, &filled).await;
    broker.stop().await;
}

/// The whole program, killed at random while it replaces its root key and answers calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_at_random_while_it_replaces_its_root_key_opens_everything_afterwards() {
    let place = place().await;
    let broker = place.open().await;
    let filled = fill(&broker, &place).await;
    broker.stop().await;
    let rounds = std::env::var("BAILIWICK_ROOT_KEY_KILLS").map_or(4, |text| text.parse::<u64>().unwrap());
    for round in 0..rounds {
        let mut child = place.spawn(None);
        let client = place.client();
        client.wait_for_tools(&filled.task).await;
        let answer = client.by("ops", Method::POST, "/v1/root-key/rotate", Some(json!({}))).await;
        // The replacement that the last kill cut off may still be under way.
        assert!(matches!(answer.status, 202 | 409), "{answer:?}");
        let noise: [u8; 1] = bailiwick::clock::random();
        tokio::time::sleep(Duration::from_millis(u64::from(noise[0]) % 120)).await;
        child.start_kill().unwrap();
        child.wait().await.unwrap();
        if round % 2 == 1 {
            let broker = place.open().await;
            replaced(&broker).await;
            whole(&broker, &place, &filled).await;
            broker.stop().await;
            place.verify();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn something_damaged_keeps_the_old_key_and_is_named() {
    let place = place().await;
    let broker = place.open().await;
    let old = broker.house.sealer().current();
    for name in ["good", "bad"] {
        let sealed = broker.house.sealer().seal(name, &Secret::from("value".to_owned())).unwrap();
        broker.house.store.secret_put(name, sealed).await.unwrap();
    }
    let mut damaged = broker.house.store.secret("bad").await.unwrap().unwrap();
    damaged[20] ^= 1;
    broker.house.store.secret_put("bad", damaged).await.unwrap();
    broker.stop().await;
    refused(program(&place, &["root-key", "rotate"], &[], b""), &["1 things", "Secret(\"bad\")", "set such secrets anew"]);
    assert_eq!(root_of(&place.data), old, "the old key is there");
    let status: Value = serde_json::from_str(&fine(program(&place, &["--json", "root-key", "status"], &[], b""))).unwrap();
    assert_eq!(status["replacing"], old.to_string());
    fine(program(&place, &["secret", "set", "bad"], &[], b"value anew"));
    fine(program(&place, &["root-key", "rotate"], &[], b""));
    nothing_under(&place.data, old);
    let broker = place.open().await;
    let sealed = broker.house.store.secret("bad").await.unwrap().unwrap();
    assert_eq!(broker.house.sealer().open_bytes("bad", &sealed).unwrap().as_slice(), b"value anew");
    broker.stop().await;
}

fn sealing(place: &Place, table: &str) {
    let text = std::fs::read_to_string(&place.config).unwrap();
    let kept = text.split("[sealing]").next().unwrap().to_owned();
    std::fs::write(&place.config, format!("{kept}[sealing]\n{table}")).unwrap();
}

fn private(path: &Path, content: &[u8], mode: u32) {
    drop(std::fs::remove_file(path));
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_managers_credential_is_a_root_key_and_is_replaced_by_another_one() {
    let place = place().await;
    let broker = place.open().await;
    broker.stop().await;
    fine(program(&place, &["secret", "set", "canary"], &[], b"canary-credential-3c1f"));
    let credentials = place.data.with_extension("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let folder = [("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap())];
    sealing(&place, "root_key = 'credential'\n");
    let file = root_of(&place.data);

    let status = |environment: &[(&str, &str)]| -> Value {
        serde_json::from_str(&fine(program(&place, &["--json", "root-key", "status"], environment, b""))).unwrap()
    };
    assert_eq!((status(&folder)["held"].as_str(), status(&folder)["configured"].as_str()), (Some("file"), Some("credential")));
    refused(program(&place, &["root-key", "rotate"], &folder, b""), &["no credential `bailiwick-root-key`", "hint:"]);
    let key = credentials.join("bailiwick-root-key");
    for (content, mode, words) in [
        (b"too short".as_slice(), 0o400, "no root key"),
        (&[0; 32], 0o400, "no root key"),
        (&[b'z'; 64], 0o400, "no hex digit"),
        (&(0..32).collect::<Vec<u8>>(), 0o666, "others can read or write it"),
    ] {
        private(&key, content, mode);
        refused(program(&place, &["root-key", "rotate"], &folder, b""), &[words, "hint:"]);
    }
    assert_eq!(root_of(&place.data), file, "nothing was begun");
    private(&key, b"00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef\n", 0o400);
    fine(program(&place, &["root-key", "rotate"], &folder, b""));
    assert_eq!(status(&folder)["held"], "credential");
    nothing_under(&place.data, file);
    assert!(std::fs::read(place.data.join("root.key")).unwrap().starts_with(b"{"), "no key is left in the data directory");
    refused(program(&place, &["secret", "list"], &[], b""), &["no credential of the service manager", "hint:"]);
    assert!(fine(program(&place, &["secret", "list"], &folder, b"")).contains("canary"));

    // The same credential is no next one; a new one beside the old one is.
    refused(program(&place, &["root-key", "rotate"], &folder, b""), &["is the root key in force", "bailiwick-root-key-old"]);
    let first = status(&folder)["id"].as_str().unwrap().to_owned();
    private(&credentials.join("bailiwick-root-key-old"), &std::fs::read(&key).unwrap(), 0o400);
    private(&key, &(100..132).collect::<Vec<u8>>(), 0o440);
    fine(program(&place, &["root-key", "rotate"], &folder, b""));
    assert_ne!(status(&folder)["id"], first);
    nothing_under(&place.data, first.parse().unwrap());
    std::fs::remove_file(credentials.join("bailiwick-root-key-old")).unwrap();
    assert!(fine(program(&place, &["secret", "list"], &folder, b"")).contains("canary"));
}

/// The library of `softhsm2`, where Debian puts it.
const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_root_key_rests_wrapped_by_a_tokens_key_that_never_leaves_it() {
    let place = place().await;
    let broker = place.open().await;
    let filled = fill(&broker, &place).await;
    broker.stop().await;
    let home = place.data.with_extension("softhsm");
    std::fs::create_dir_all(home.join("tokens")).unwrap();
    let conf = home.join("softhsm2.conf");
    std::fs::write(&conf, format!("directories.tokendir = {}\nobjectstore.backend = file\n", home.join("tokens").display())).unwrap();
    let environment = [("SOFTHSM2_CONF", conf.to_str().unwrap())];
    let made = Command::new("softhsm2-util")
        .envs(environment)
        .args(["--init-token", "--free", "--label", "house", "--so-pin", "12345678", "--pin", "87654321"])
        .output();
    assert!(made.unwrap().status.success());
    let pin = home.join("pin");
    private(&pin, b"87654321\n", 0o600);
    let table = |token: &str, key: &str| {
        format!("root_key = 'pkcs11'\n[sealing.pkcs11]\nmodule = '{SOFTHSM}'\ntoken = '{token}'\nkey = '{key}'\npin_file = '{}'\n", pin.display())
    };
    let rotate = || program(&place, &["root-key", "rotate"], &environment, b"");
    let file = root_of(&place.data);

    sealing(&place, &table("house", "root"));
    refused(rotate(), &["no secret key `root`", "hint:"]);
    fine(program(&place, &["root-key", "make-token-key"], &environment, b""));
    refused(program(&place, &["root-key", "make-token-key"], &environment, b""), &["has a key `root` already"]);
    sealing(&place, &table("elsewhere", "root"));
    refused(rotate(), &["token `elsewhere` is not there", "`house`", "hint:"]);
    sealing(&place, &table("house", "root").replace(SOFTHSM, "/usr/lib/softhsm/none.so"));
    refused(rotate(), &["module `/usr/lib/softhsm/none.so` cannot be used", "hint:"]);
    sealing(&place, &table("house", "root"));
    private(&pin, b"1111\n", 0o600);
    refused(rotate(), &["refuses the PIN", "tried once"]);
    private(&pin, b"87654321\n", 0o644);
    refused(rotate(), &["others can read it"]);
    private(&pin, b"\n", 0o600);
    refused(rotate(), &["PIN is empty"]);
    assert_eq!(root_of(&place.data), file, "nothing was begun");
    assert!(!place.data.join("root.next").exists());

    private(&pin, b"87654321\n", 0o600);
    fine(rotate());
    let content = std::fs::read_to_string(place.data.join("root.key")).unwrap();
    assert!(content.contains("\"pkcs11\"") && !content.contains("87654321"), "{content}");
    nothing_under(&place.data, file);
    // Killed in the middle of the next one, and brought to its end by a start that needs the token.
    let killed = program(&place, &["root-key", "rotate"], &[environment[0], ("BAILIWICK_FAULT", "root-key-batch")], b"");
    assert_eq!(killed.status.signal(), Some(6));
    refused(program(&place, &["secret", "list"], &[("SOFTHSM2_CONF", "/nowhere")], b""), &["hint:"]);
    fine(rotate());
    let status: Value = serde_json::from_str(&fine(program(&place, &["--json", "root-key", "status"], &environment, b""))).unwrap();
    assert_eq!((status["held"].as_str(), status.get("replacing")), (Some("pkcs11"), None));
    // And back into a file, so that the rest can be looked at from here.
    sealing(&place, "root_key = 'file'\n");
    fine(rotate());
    nothing_under(&place.data, status["id"].as_str().unwrap().parse().unwrap());
    let broker = place.open().await;
    whole(&broker, &place, &filled).await;
    broker.stop().await;
}
