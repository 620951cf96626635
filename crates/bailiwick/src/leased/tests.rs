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
    file.check(Path::new("/nowhere"))
}

fn build(settings: &Settings, secrets: &[(&str, &str)]) -> Result<Built, String> {
    let secrets: BTreeMap<&str, &str> = secrets.iter().copied().collect();
    let secret = |name: &str| secrets.get(name).map(|text| Secret::from((*text).to_owned())).ok_or_else(|| format!("the secret `{name}` is not set"));
    let (kept, clock): (Arc<dyn Rotation>, Arc<dyn Clock>) = (Arc::new(Nothing), Arc::new(crate::clock::SystemClock::start()));
    settings.build(&secret, &kept, &clock)
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
    assert_eq!((built.kind.kind(), built.rights), ("oauth2", vec!["use".to_owned()]));
    assert_eq!(built.header, HeaderUse { name: "authorization".to_owned(), before: "Bearer ".to_owned() });
    assert!(!format!("{:?}", built.kind).contains("canary"));

    let settings = check(&format!("header = \"x-token\"\nbefore = \"\"\nprefix = \"agx_\"\n{OAUTH2}private_key = \"idp/key\"\n")).unwrap();
    assert_eq!(settings.prefix().as_str(), "agx_");
    let built = build(&settings, &[("idp/key", &ec())]).unwrap();
    assert_eq!(built.header, HeaderUse { name: "x-token".to_owned(), before: String::new() });

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
    assert_eq!((built.kind.kind(), built.header), ("aws_sts", HeaderUse { name: "x-aws-keys".to_owned(), before: String::new() }));
    let error = check(&format!("header = \"x-aws-keys\"\n{}", AWS.replace("Resource", "Ressource"))).unwrap_err();
    assert!(error.contains("`Resource`"), "{error}");
}
