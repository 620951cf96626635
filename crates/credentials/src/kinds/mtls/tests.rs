//! What a certificate says, as openssl reads it, and settings that are refused.

use super::*;
use std::process::Command;

#[derive(Debug)]
struct At(i64);

impl Clock for At {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(self.0)
    }
}

/// An hour from now: what openssl makes is valid from now on.
#[expect(clippy::disallowed_methods, reason = "openssl's clock is the machine's")]
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap() + 3600
}

fn openssl(folder: &std::path::Path, arguments: &[&str]) -> String {
    let out = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn authority(folder: &std::path::Path, kind: &[&str]) -> Vec<u8> {
    let mut arguments = vec!["req", "-x509", "-nodes", "-days", "3650", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"];
    arguments.extend(["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-newkey"]);
    arguments.extend(kind);
    openssl(folder, &arguments);
    ["ca.key", "ca.pem"].map(|file| std::fs::read(folder.join(file)).unwrap()).concat()
}

fn settings(ca: &[u8]) -> Settings {
    Settings {
        servers: vec![Server { node: Node::new("one", "127.0.0.1", 1, Some(Trust::new(ca).unwrap())).unwrap(), protocol: Protocol::Tls }],
        names: BTreeMap::from([("read".to_owned(), "orders_ro".to_owned())]),
        lease_max: Duration::from_secs(3600),
        list: None,
    }
}

fn plan(rights: &[&str], after: i64) -> Plan {
    let agent = "spiffe://example.org/agent/o'brien \u{fc}".to_owned();
    let tag = Tag { task: "task_1".into(), agent, expires_at: Timestamp::from_seconds(now() + after) };
    Plan { name: AccountName::new(&Prefix::default(), [7; 16]), tag, rights: rights.iter().map(|&right| right.to_owned()).collect() }
}

#[test]
fn a_certificate_says_what_openssl_reads_and_verifies() {
    for kind in [&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"][..], &["ed25519"]] {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority(folder.path(), kind);
        let begin = now();
        let kind = Mtls::new(settings(&ca), &Secret::from(ca.clone()), None, Arc::new(At(begin))).unwrap();
        let key = kind.propose().unwrap().unwrap();
        let mut plan = plan(&["read"], 0);
        plan.tag.expires_at = Timestamp::from_seconds(begin + 600);
        let minted = kind.mint_certificate(&plan, &key).unwrap();
        let both = minted.secret.unwrap();
        std::fs::write(folder.path().join("both.pem"), both.expose()).unwrap();
        let shown = openssl(folder.path(), &["x509", "-in", "both.pem", "-noout", "-text", "-nameopt", "oneline"]);
        let serial = hexadecimal(&serial(&plan.name)).as_bytes().chunks(2).map(String::from_utf8_lossy).collect::<Vec<_>>().join(":");
        for words in [
            serial.as_str(),
            "Issuer: CN = ca",
            &format!("Subject: serialNumber = {}, OU = task_1, CN = orders_ro", plan.name),
            "URI:spiffe://example.org/agent/o'brien%20%C3%BC",
            "CA:FALSE",
            "Digital Signature",
            "TLS Web Client Authentication",
            "NIST CURVE: P-256",
            "X509v3 Authority Key Identifier",
            "Version: 3 (0x2)",
        ] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        let at = (begin + 10).to_string();
        let verified = openssl(folder.path(), &["verify", "-attime", &at, "-purpose", "sslclient", "-x509_strict", "-CAfile", "ca.pem", "both.pem"]);
        assert!(verified.contains("both.pem: OK"), "{verified}");
        for late in [begin + 601, begin - 61] {
            let verified = openssl(folder.path(), &["verify", "-attime", &late.to_string(), "-CAfile", "ca.pem", "both.pem"]);
            assert!(!verified.contains("both.pem: OK"), "{verified}");
        }
        // The key that was proposed is the one that the certificate is for.
        let public = openssl(folder.path(), &["x509", "-in", "both.pem", "-noout", "-pubkey"]);
        assert_eq!(public, openssl(folder.path(), &["pkey", "-in", "both.pem", "-pubout"]));
        let account = Account { name: plan.name.clone(), ids: minted.ids, secret: Some(both), expires_at: minted.expires_at };
        assert!(Mtls::client(&account, &Trust::new(&ca).unwrap()).is_some());
        assert!(Mtls::client(&Account { secret: None, ..account }, &Trust::new(&ca).unwrap()).is_none());
    }
}

#[test]
fn a_plan_or_a_setting_out_of_its_range_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path(), &["ed25519"]);
    let make = |settings: Settings, ca: &[u8]| Mtls::new(settings, &Secret::from(ca.to_vec()), None, Arc::new(At(now())));
    let kind = make(settings(&ca), &ca).unwrap();
    let key = kind.propose().unwrap().unwrap();
    for (rights, after) in [(&[][..], 600), (&["write"], 600), (&["read", "read"], 600), (&["read"], -100)] {
        assert_eq!(kind.mint_certificate(&plan(rights, after), &key).unwrap_err().code(), TargetCode::Plan, "{rights:?} {after}");
    }
    let begin = Timestamp::from_seconds(now());
    let long = kind.mint_certificate(&plan(&["read"], 36_000), &key).unwrap();
    assert!(
        long.expires_at.unwrap() <= begin.plus(Duration::from_secs(3660)),
        "a task may be longer than a certificate, and not the other way about"
    );
    let (own, until) = kind.own("read").unwrap();
    assert!(Mtls::certified(&own).is_some() && until <= begin.plus(Duration::from_secs(360)));
    assert!(kind.own("write").is_err() && Mtls::certified(&key).is_none());
    assert_eq!(kind.mint_certificate(&plan(&["read"], 60), &Secret::from("no key".to_owned())).unwrap_err().code(), TargetCode::Plan);
    let cases: [fn(&mut Settings); 6] = [
        |s| s.servers.clear(),
        |s| s.servers.push(s.servers[0].clone()),
        |s| s.servers[0].node = Node::new("one", "127.0.0.1", 1, None).unwrap(),
        |s| s.names.clear(),
        |s| drop(s.names.insert("x".into(), "a,CN=root".into())),
        |s| s.lease_max = Duration::from_secs(3601),
    ];
    for (number, change) in cases.into_iter().enumerate() {
        let mut settings = settings(&ca);
        change(&mut settings);
        assert_eq!(make(settings, &ca).unwrap_err().code(), TargetCode::Plan, "case {number}");
    }
    // A key without its certificate, a certificate of another key, and one that is no authority.
    let other = tempfile::tempdir().unwrap();
    let stranger = authority(other.path(), &["ed25519"]);
    let mixed = [std::fs::read(folder.path().join("ca.key")).unwrap(), std::fs::read(other.path().join("ca.pem")).unwrap()].concat();
    openssl(
        other.path(),
        &[
            "req",
            "-x509",
            "-nodes",
            "-subj",
            "/CN=x",
            "-newkey",
            "ed25519",
            "-keyout",
            "x.key",
            "-out",
            "x.pem",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ],
    );
    let leaf = ["x.key", "x.pem"].map(|file| std::fs::read(other.path().join(file)).unwrap()).concat();
    for wrong in [mixed, leaf, std::fs::read(folder.path().join("ca.key")).unwrap(), Vec::new()] {
        assert!(make(settings(&stranger), &wrong).is_err());
    }
}

#[test]
fn numbers_tell_leases_apart_and_are_ours() {
    let name = |number: u8| AccountName::new(&Prefix::default(), [number; 16]);
    assert_ne!(serial(&name(1)), serial(&name(2)));
    assert!(serial(&name(1)).starts_with(&OURS) && OURS[0] < 0x80, "a number that is positive");
}
