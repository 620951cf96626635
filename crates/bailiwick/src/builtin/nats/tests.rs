//! The table, the tools and what a call is judged to be, without a server; and with one, a message and a question over the connection that the broker holds.

use bailiwick_credentials::kinds::nats::SUBJECTS;
use bailiwick_credentials::lease::{AccountName, Plan};
use bailiwick_testkit::servers::nats_keys::{Nkey, start, system_credentials, user_jwt};
use bailiwick_wire::Raw;
use bailiwick_wire::schema::Schema;
use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::*;
use crate::builtin::call_id;

fn key(letter: u8, number: u8) -> Nkey {
    Nkey::new(letter, number).unwrap()
}

fn table(change: impl Fn(&mut Value)) -> Result<Settings, String> {
    let mut table = json!({
        "nodes": [{ "host": "127.0.0.1" }],
        "account": key(b'A', 2).public,
        "account_seed": "bus-account",
        "operator_seed": "bus-operator",
        "system_credentials": "bus-system",
        "write_rights": ["orders.>", "news.*.today"],
    });
    change(&mut table);
    let file: File = serde_json::from_value(table).map_err(|error| error.to_string())?;
    file.check(Path::new("/"))
}

#[test]
fn a_table_names_an_account_and_what_may_be_published_there() {
    let error = table(|table| table["account"] = json!("A")).unwrap_err();
    assert!(error.contains("public key of an account"), "{error}");
    let settings = table(|_| {}).unwrap();
    assert_eq!(settings.secrets(), ["bus-operator", "bus-account", "bus-system"]);
    assert_eq!(settings.target(), format!("nats://127.0.0.1:4222 ({})", key(b'A', 2).public));
    for (field, value, words) in [
        ("write_rights", json!([]), "expected `write_rights`"),
        ("write_rights", json!(["a b"]), "is no subject"),
        ("nodes", json!([{ "host": "bus.example.org" }]), "need TLS"),
        ("lease_seconds_max", json!(0), "one second to seven days"),
        ("effect", json!("read"), "at least `influence`"),
        ("seconds_max", json!(301), "seconds"),
    ] {
        let error = table(|table| table[field] = value.clone()).unwrap_err();
        assert!(error.contains(words), "{field}: {error}");
    }
    let wrong = |name: &str| if name == "bus-operator" { Ok(Secret::from(key(b'O', 1).seed)) } else { Err(format!("`{name}` is not set")) };
    let clock: Arc<dyn Clock> = Arc::new(crate::clock::SystemClock::start());
    assert_eq!(settings.build(&wrong, &clock).unwrap_err(), "`bus-account` is not set");
}

#[test]
fn a_call_goes_to_a_configured_subject_and_never_to_the_servers_own() {
    let tools = table(|table| table["write_rights"] = json!([">"])).unwrap().tools();
    let judge = |tool: &str, arguments: Value| tools.judge(tool, &arguments).map_err(|refusal| refusal.words);
    let to = |subject: &str| json!({ "subject": subject, "body": "bread" });
    for tool in [PUBLISH, REQUEST] {
        assert_eq!((judge(tool, to("orders.new")), tools.effect(tool)), (Ok(Effect::Influence), Some(Effect::Influence)));
        for subject in [
            "$JS.API.STREAM.DELETE.orders",
            "$KV.config.key",
            "$SYS.REQ.CLAIMS.UPDATE",
            "_INBOX.somebody",
            "orders.*",
            "orders.>",
            "",
            "a b",
            "a\r\nPUB b 0",
        ] {
            assert!(judge(tool, to(subject)).unwrap_err().contains("expected `subject`"), "{subject}");
        }
    }
    let with = |name: &str, value: &str| json!({ "subject": "orders.new", "body": "", "headers": { name: value } });
    for header in ["Nats-Rollup", "nats-msg-id", "KV-Operation", "Status", "bailiwick-task", "Bailiwick-Agent"] {
        assert!(judge(PUBLISH, with(header, "all")).unwrap_err().contains("cannot be written"), "{header}");
    }
    for (name, value) in [("a", "1\r\nNats-Rollup: all"), ("a: b", "c"), ("a\r\nb", "c"), ("", "c")] {
        assert!(judge(PUBLISH, with(name, value)).unwrap_err().contains("headers"), "{name:?}");
    }
    assert_eq!(judge(PUBLISH, with("a", "1")), Ok(Effect::Influence));
    assert!(judge("subscribe", to("orders.new")).is_err());
    let narrow = table(|table| table["effect"] = json!("approve")).unwrap().tools();
    assert_eq!(narrow.judge(PUBLISH, &to("news.x.today")).unwrap(), Effect::Approve);
    for subject in ["news.today", "news.x.y.today", "orders", "salaries"] {
        assert!(narrow.judge(PUBLISH, &to(subject)).is_err(), "{subject}");
    }
    for definition in narrow.tools() {
        let text = definition["inputSchema"].to_string();
        let schema = Schema::compile(Raw::parse(text.as_bytes(), &bailiwick_wire::Limits::REPLY).unwrap()).unwrap();
        let arguments = with("a", "1").to_string();
        schema.check(Raw::parse(arguments.as_bytes(), &bailiwick_wire::Limits::REPLY).unwrap()).unwrap();
    }
}

/// Somebody of the account, who listens to every subject.
struct Listener(BufReader<TcpStream>);

impl Listener {
    async fn new(port: u16) -> Self {
        let mut this = Self(BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap()));
        let info: Value = serde_json::from_str(this.line().await.strip_prefix("INFO ").unwrap()).unwrap();
        let jwt = user_jwt(&key(b'A', 2), &key(b'U', 8), "listener");
        let signature = key(b'U', 8).signature(info["nonce"].as_str().unwrap());
        let connect = json!({ "verbose": false, "protocol": 1, "headers": true, "jwt": jwt, "sig": signature, "lang": "test", "version": "0" });
        this.send(&format!("CONNECT {connect}\r\nSUB orders.> 1\r\nPING")).await;
        while this.line().await != "PONG" {}
        this
    }

    async fn send(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let reading = tokio::time::timeout(Duration::from_secs(10), self.0.read_line(&mut line));
        assert_ne!(reading.await.unwrap().unwrap(), 0, "the server hung up");
        line.trim_end().to_owned()
    }

    /// The next message: its line, then head and body.
    async fn message(&mut self) -> (String, String) {
        let mut first = self.line().await;
        while !first.starts_with("HMSG ") {
            first = self.line().await;
        }
        let mut rest = String::new();
        while !rest.ends_with("bread\n") {
            rest.push_str(&(self.line().await + "\n"));
        }
        (first, rest)
    }
}

#[tokio::test]
async fn a_message_goes_over_the_connection_that_the_broker_holds_with_its_task_in_it() {
    let (operator, account, system) = (key(b'O', 1), key(b'A', 2), key(b'A', 3));
    let server = start(&operator, &account, &system, true, "").unwrap();
    let clock: Arc<dyn Clock> = Arc::new(crate::clock::SystemClock::start());
    let secret = |name: &str| match name {
        "bus-operator" => Ok(Secret::from(operator.seed.clone())),
        "bus-account" => Ok(Secret::from(account.seed.clone())),
        _ => Ok(Secret::from(system_credentials(&system, &key(b'U', 4), &SUBJECTS))),
    };
    let settings = table(|table| table["nodes"][0]["port"] = server.port().into()).unwrap();
    let Built { kind, builtin } = settings.build(&secret, &clock).unwrap();
    assert_eq!(kind.preflight(&AccountName::new(&Prefix::default(), [7; 16])).await.unwrap(), []);

    let tag = Tag { task: "task_1".into(), agent: "spiffe://example.org/agent/a".into(), expires_at: clock.now().plus(Duration::from_secs(60)) };
    let name = AccountName::new(&Prefix::default(), [8; 16]);
    let plan = Plan { name: name.clone(), tag: tag.clone(), rights: builtin.rights(Effect::Influence).rights };
    let minted = kind.mint(&plan, Some(&kind.propose().unwrap().unwrap())).await.unwrap();
    let account = Account { name, ids: minted.ids, secret: minted.secret, expires_at: minted.expires_at };
    let session = builtin.open(&account, &tag).await.unwrap();
    let cancel = CancellationToken::new();
    let mut listener = Listener::new(server.port()).await;

    let bread = json!({ "subject": "orders.new", "body": "bread", "headers": { "who": "me" } });
    let published = session.call(call_id(), PUBLISH, &bread, &cancel).await.unwrap();
    assert_eq!((published.structured, published.is_error), (json!({ "published": true }), false));
    let (line, text) = listener.message().await;
    assert!(line.starts_with("HMSG orders.new 1 "), "{line}");
    for header in ["bailiwick-task: task_1\n", "bailiwick-agent: spiffe://example.org/agent/a\n", "who: me\n"] {
        assert!(text.contains(header), "{text}");
    }
    let answering = async {
        let (line, _) = listener.message().await;
        let inbox = line.split(' ').nth(3).unwrap().to_owned();
        listener.send(&format!("PUB {inbox} 2\r\n42")).await;
    };
    let (answer, ()) = tokio::join!(session.call(call_id(), REQUEST, &bread, &cancel), answering);
    assert_eq!(answer.unwrap().structured, json!({ "headers": {}, "body": "42" }));
    // Nobody listens to this one, and that is an answer.
    let nobody = session.call(call_id(), REQUEST, &json!({ "subject": "news.x.today", "body": "" }), &cancel).await.unwrap();
    assert!(nobody.is_error && nobody.structured["refused"]["code"] == "503", "{nobody:?}");

    assert_eq!(kind.end(&account).await.unwrap().word(), "revoked-verified");
    let dead = session.call(call_id(), PUBLISH, &bread, &cancel).await.unwrap_err();
    assert!(dead.gone && !dead.may_have_run, "{dead}");
    session.close().await;
}

proptest! {
    #[test]
    fn a_pattern_covers_what_it_says(words in proptest::collection::vec("[a-c]{1,2}", 1..5), at in 0..5_usize) {
        let subject: Vec<_> = words.iter().map(String::as_str).collect();
        let at = at % subject.len();
        prop_assert!(covers(&words.join("."), &subject));
        let mut star = subject.clone();
        star[at] = "*";
        prop_assert!(covers(&star.join("."), &subject));
        let mut rest = subject[..at].to_vec();
        rest.push(">");
        prop_assert!(covers(&rest.join("."), &subject));
        rest[at] = "x";
        prop_assert!(!covers(&rest.join("."), &subject));
        prop_assert!(!covers(&words.join("."), &subject[..at]));
        let more = words.join(".") + ".>";
        prop_assert!(!covers(&more, &subject));
    }
}
