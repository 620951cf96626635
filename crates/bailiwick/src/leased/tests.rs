//! Tables of credentials: what is written becomes a kind and a header, and what cannot be is told with what was expected.

use std::collections::BTreeMap;

use bailiwick_credentials::lease::rotation::{Kept, RotationError, Truth};

use super::*;

/// A key on P-256, in PEM.
fn ec() -> String {
    bailiwick_testkit::clouds::jwt::p256().unwrap().pem
}

/// An RSA key, in PEM.
fn rsa() -> String {
    bailiwick_testkit::clouds::jwt::rsa().unwrap().pem
}

#[derive(Debug)]
struct Nothing;

#[async_trait::async_trait]
impl Rotation for Nothing {
    async fn kept(&self, name: &str) -> Result<Kept, RotationError> {
        Err(RotationError::Unset(name.to_owned()))
    }
    async fn begin(&self, name: &str, _: u64, _: Option<&Secret>) -> Result<u64, RotationError> {
        Err(RotationError::Unset(name.to_owned()))
    }
    async fn settle(&self, name: &str, _: u64, _: Truth) -> Result<u64, RotationError> {
        Err(RotationError::Unset(name.to_owned()))
    }
}

fn check(text: &str) -> Result<Settings, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    file.check(&"https://tools.example.org/mcp".parse().unwrap(), Path::new("/nowhere"))
}

fn build(settings: &Settings, secrets: &[(&str, &str)]) -> Result<Built, String> {
    let secrets: BTreeMap<&str, &str> = secrets.iter().copied().collect();
    let secret = |name: &str| secrets.get(name).map(|text| Secret::from((*text).to_owned())).ok_or_else(|| format!("the secret `{name}` is not set"));
    let (kept, clock): (Arc<dyn Rotation>, Arc<dyn Clock>) = (Arc::new(Nothing), Arc::new(crate::clock::SystemClock::start()));
    let data = tempfile::tempdir().unwrap();
    let (root, _) = bailiwick_credentials::RootKey::generate().unwrap();
    std::fs::create_dir(data.path().join("keys")).unwrap();
    let federation = Federation::open(data.path(), &root.sealer().unwrap(), "https://broker.example.org").unwrap();
    settings.build(&secret, &kept, &federation, &clock)
}

/// The header in which the system is given it.
fn header(built: &Built) -> (&str, &str) {
    match &built.given.by {
        GivenBy::Header(header) => (&header.name, &header.before),
        GivenBy::Certificate => ("", "a certificate"),
    }
}

const OAUTH2: &str = r#"
[oauth2]
token_url = "https://login.example.org/token"
revocation_url = "https://login.example.org/revoke"
probe_url = "https://api.example.org/me?fields=id"
client_id = "broker"
scopes = ["orders.read"]
"#;

const GITHUB: &str = r#"
[github_app]
client_id = "Iv23liABCDEFGHIJKLMN"
installation = 4242
private_key = "github/key"
repositories = ["shop"]
permissions = { contents = "read", issues = "write" }
"#;

const KUBERNETES: &str = r#"
[kubernetes]
api_url = "https://cluster.example.org:6443"
namespace = "agents"
service_account = "reader"
token = "cluster/broker"
"#;

#[test]
fn a_table_becomes_a_kind_and_a_header() {
    let settings = check(&format!("{OAUTH2}client_secret = \"idp/secret\"\nclient_secret_in = \"post\"\n")).unwrap();
    assert_eq!(settings.secrets(), ["idp/secret"]);
    let built = build(&settings, &[("idp/secret", "canary")]).unwrap();
    assert_eq!((built.kind.kind(), built.rights.as_slice()), ("oauth2", ["use".to_owned()].as_slice()));
    assert_eq!(header(&built), ("authorization", "Bearer "));
    assert_eq!(built.given.tag_header.as_deref(), Some("x-bailiwick-task"));
    assert!(!format!("{:?}", built.kind).contains("canary"));

    let settings = check(&format!("header = \"x-token\"\nbefore = \"\"\nprefix = \"agx_\"\n{OAUTH2}private_key = \"idp/key\"\n")).unwrap();
    assert_eq!(settings.prefix().as_str(), "agx_");
    let built = build(&settings, &[("idp/key", &ec())]).unwrap();
    assert_eq!(header(&built), ("x-token", ""));

    let settings = check(&format!("{OAUTH2}refresh_token = \"idp/refresh\"\n")).unwrap();
    assert!(settings.secrets().is_empty(), "a refresh token is kept and not opened at start");
    assert!(build(&settings, &[]).is_ok());

    let settings = check(KUBERNETES).unwrap();
    assert_eq!(settings.secrets(), ["cluster/broker"]);
    assert_eq!(build(&settings, &[("cluster/broker", "token")]).unwrap().kind.kind(), "kubernetes");

    let settings = check(GITHUB).unwrap();
    assert_eq!(settings.secrets(), ["github/key"]);
    assert_eq!(build(&settings, &[("github/key", &rsa())]).unwrap().kind.kind(), "github_app");
    assert!(build(&settings, &[("github/key", &ec())]).unwrap_err().contains("an RSA key"));
}

#[test]
fn what_cannot_be_is_told_with_what_was_expected() {
    let wrong = |text: &str, words: &str| {
        let error = check(text).unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    };
    wrong("", "expected exactly one of");
    wrong(&format!("{GITHUB}{KUBERNETES}"), "expected exactly one of");
    wrong(OAUTH2, "expected `client_secret`, `private_key` or `refresh_token`");
    wrong(&format!("{OAUTH2}client_secret = \"a\"\nprivate_key = \"b\"\n"), "not both");
    wrong(&OAUTH2.replace("[\"orders.read\"]", "[]").replace("client_id", "client_secret = \"a\"\nclient_id"), "each with 1 to 64 scopes");
    wrong(
        &format!("{OAUTH2}client_secret = \"a\"\n").replace("https://login.example.org/token", "http://login.example.org/token"),
        "`token_url`: `login.example.org` is another machine",
    );
    wrong(&format!("{OAUTH2}client_secret = \"a\"\nca = \"missing.pem\"\n"), "/nowhere/missing.pem");
    wrong(&GITHUB.replace("[\"shop\"]", "[]"), "names of repositories");
    wrong(&GITHUB.replace("{ contents = \"read\", issues = \"write\" }", "{}"), "at least one permission");
    wrong(&GITHUB.replace("\"read\"", "\"everything\""), "unknown variant");
    wrong(&KUBERNETES.replace("agents", "../x"), "expected a namespace");
    wrong(&format!("header = \"content-length\"\n{KUBERNETES}"), "`content-length`");
    wrong(&format!("tag_header = \"Authorization\"\n{KUBERNETES}"), "has another meaning");
    wrong(&format!("header = \"x-a\"\ntag_header = \"X-A\"\n{KUBERNETES}"), "it is the credential's");
    wrong(&format!("{KUBERNETES}colour = \"red\"\n"), "unknown field");
    assert!(build(&check(KUBERNETES).unwrap(), &[]).unwrap_err().contains("`cluster/broker` is not set"));
}

const AWS: &str = r#"
[aws_sts]
region = "eu-central-1"
role = "arn:aws:iam::123456789012:role/agents"
issuer = "https://broker.example.org/aws"
private_key = "aws/key"
private_key_id = "k1"
subject = "bailiwick:shop"
statements = [{ Effect = "Allow", Action = "s3:GetObject", Resource = "arn:aws:s3:::shop/*" }]
"#;

#[test]
fn keys_of_aws_go_only_to_a_server_that_was_made_for_them() {
    assert!(check(AWS).unwrap_err().contains("expected the header in which this server takes keys"));
    let settings = check(&format!("header = \"x-aws-keys\"\n{AWS}")).unwrap();
    assert_eq!(settings.secrets(), ["aws/key"]);
    let built = build(&settings, &[("aws/key", &ec())]).unwrap();
    assert_eq!((built.kind.kind(), header(&built)), ("aws_sts", ("x-aws-keys", "")));
    let error = check(&format!("header = \"x-aws-keys\"\n{}", AWS.replace("Resource", "Ressource"))).unwrap_err();
    assert!(error.contains("`Resource`"), "{error}");
}

#[test]
fn without_a_key_that_a_person_keeps_the_broker_is_the_issuer() {
    let ours = AWS.lines().filter(|line| !line.starts_with("issuer") && !line.starts_with("private_key")).collect::<Vec<_>>().join("\n");
    let settings = check(&format!("header = \"x-aws-keys\"\n{ours}")).unwrap();
    assert!(settings.secrets().is_empty());
    assert_eq!(build(&settings, &[]).unwrap().kind.kind(), "aws_sts");
    let half = AWS.replace("private_key_id = \"k1\"\n", "");
    assert!(check(&format!("header = \"x-aws-keys\"\n{half}")).unwrap_err().contains("or none of the three"));
}

/// An authority: its certificate, and a PEM with its key too.
fn authority(folder: &Path) -> (String, String) {
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=ca", "-newkey", "ed25519", "-keyout", "ca.key", "-out", "ca.pem"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
    assert!(openssl.current_dir(folder).output().unwrap().status.success());
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    (read("ca.pem"), format!("{}{}", read("ca.pem"), read("ca.key")))
}

#[test]
fn a_client_certificate_needs_tls_an_authority_and_no_header() {
    let folder = tempfile::tempdir().unwrap();
    let (_, both) = authority(folder.path());
    let table = "[mtls]\nauthority = \"tools/ca\"\ncommon_name = \"agents\"\nca = \"ca.pem\"\nrevocation_list = \"revoked.pem\"\n";
    let check = |text: &str, url: &str| {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        file.check(&url.parse().unwrap(), folder.path())
    };
    let settings = check(table, "https://127.0.0.1:8443/mcp").unwrap();
    assert_eq!(settings.secrets(), ["tools/ca"]);
    let built = build(&settings, &[("tools/ca", &both)]).unwrap();
    assert_eq!((built.kind.kind(), header(&built), built.roots.len()), ("mtls", ("", "a certificate"), 1));
    assert!(!format!("{:?}", built.kind).contains("PRIVATE KEY"));
    let own = mtls::WithOwn::new(Arc::default(), built.own.unwrap());
    let certificate = || crate::upstream::Inject::certificate(&own).unwrap().unwrap();
    assert!(Arc::ptr_eq(&certificate(), &certificate()), "one is used until it is nearly over");
    assert!(build(&settings, &[("tools/ca", "hunter2")]).unwrap_err().contains("the secret `tools/ca`"));
    for (text, url, words) in [
        (table.to_owned(), "http://127.0.0.1:8443/mcp", "`https://`"),
        (format!("header = \"x-a\"\n{table}"), "https://a.example.org/mcp", "stands in no header"),
        (format!("{table}probe = \"me\"\n"), "https://a.example.org/mcp", "`probe`"),
        (format!("{table}lease_seconds_max = 7200\n"), "https://a.example.org/mcp", "one minute to one hour"),
        (table.replace("agents", "a,CN=root"), "https://a.example.org/mcp", "common names"),
        (table.replace("ca.pem", "missing.pem"), "https://a.example.org/mcp", "missing.pem"),
    ] {
        let error = check(&text, url).unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    }
}
