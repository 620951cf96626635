//! The table, the tools and what a call is judged to be, without a server. Against one, sessions and credentials have theirs in `credentials`.

use bailiwick_wire::Raw;
use bailiwick_wire::schema::Schema;
use proptest::prelude::*;

use super::*;

const ACCOUNT: &str = "AAFVA5QZZU6WKFNSWKTDFA3V3BPLEYYAEJDBBBNPUFZ5RTJWTQ5OO2AL";

fn table(change: impl Fn(&mut Value)) -> Result<Settings, String> {
    let mut table = json!({
        "nodes": [{ "host": "127.0.0.1" }],
        "account": ACCOUNT,
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
    assert_eq!(settings.target(), format!("nats://127.0.0.1:4222 ({ACCOUNT})"));
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
    let wrong = |name: &str| if name == "bus-operator" { Ok(Secret::from("SO".to_owned())) } else { Err(format!("`{name}` is not set")) };
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
