//! AWS STS against a stand-in: sessions by web identity from an issuer of our own, narrowed, named after the task, and never called revoked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::aws_sts::{AwsSts, Issuer, Keys, Settings, WebIdentity};
use bailiwick_credentials::kinds::signing::Key;
use bailiwick_credentials::lease::{Kind as _, Plan, TargetCode};
use bailiwick_testkit::clouds::sts::{Settings as Account, Sts};
use bailiwick_testkit::clouds::{Cloud, Fault, jwt};
use serde_json::{Value, json};

use crate::clouds_world::{assert_ended, endpoint, leased, only_name};
use crate::words::{Now, clock, fresh_name, plan, tag};
use bailiwick_core::Clock as _;

const ISSUER: &str = "https://broker.example.org/aws";
const ROLE: &str = "arn:aws:iam::123456789012:role/agents";

pub(crate) struct World {
    server: Arc<Sts>,
    pub(crate) cloud: Cloud,
    pair: jwt::Pair,
}

impl World {
    pub(crate) fn start() -> Self {
        let pair = jwt::p256().unwrap();
        let account = Account {
            issuer: ISSUER.to_owned(),
            key: pair.clone(),
            audience: "sts.amazonaws.com".to_owned(),
            role: ROLE.to_owned(),
            subject: "bailiwick:shop".to_owned(),
            session_max: 3600,
            region: "eu-central-1".to_owned(),
        };
        let server = Arc::new(Sts::new(account));
        let cloud = Cloud::start(Arc::<Sts>::clone(&server)).unwrap();
        Self { server, cloud, pair }
    }

    fn settings(&self) -> Settings {
        let statement = |action: &str, resource: &str| json!({ "Effect": "Allow", "Action": [action], "Resource": resource });
        let rights = [
            ("orders_ro", vec![statement("s3:GetObject", "arn:aws:s3:::shop-orders/*")]),
            ("orders_list", vec![statement("s3:ListBucket", "arn:aws:s3:::shop-orders")]),
            ("long", vec![statement("s3:GetObject", &format!("arn:aws:s3:::{}", "a".repeat(2000)))]),
        ];
        Settings {
            endpoint: endpoint(&self.cloud, "sts", "/"),
            region: "eu-central-1".to_owned(),
            role: ROLE.to_owned(),
            audience: "sts.amazonaws.com".to_owned(),
            subject: "bailiwick:shop".to_owned(),
            rights: rights.map(|(name, right)| (name.to_owned(), right)).into(),
            session_max: Duration::from_secs(3600),
        }
    }

    fn issuer(&self) -> Arc<dyn Issuer> {
        issuer(ISSUER, &self.pair)
    }

    pub(crate) fn broker(&self) -> AwsSts {
        AwsSts::new(self.settings(), self.issuer(), clock()).unwrap()
    }
}

fn issuer(url: &str, pair: &jwt::Pair) -> Arc<dyn Issuer> {
    let key = Key::from_pem(&Secret::from(pair.pem.clone())).unwrap();
    Arc::new(WebIdentity::new(url, "k1", key, clock()).unwrap())
}

/// Each of the three values.
fn values(text: &str) -> Vec<String> {
    let keys: BTreeMap<String, String> = serde_json::from_str(text).unwrap();
    keys.into_values().collect()
}

#[tokio::test]
async fn a_session_works_is_named_after_the_task_and_expires() {
    let world = World::start();
    let plan = plan(&["orders_ro", "orders_list"]);
    let session = leased(&plan, world.broker().mint(&plan, None).await.unwrap());
    assert!(Keys::parse(session.account.secret.as_ref().unwrap()).is_some());
    let (name, policy) = world.server.sessions().remove(0);
    assert_eq!(name, plan.tag.task);
    let policy: Value = serde_json::from_str(&policy).unwrap();
    assert_eq!(policy["Statement"].as_array().unwrap().len(), 2, "{policy}");
    assert_eq!(policy["Statement"][1]["Action"], json!(["s3:GetObject"]));
    let left = Now.now().until(session.account.expires_at.unwrap());
    assert!(left > Duration::from_secs(880) && left <= Duration::from_secs(901), "{left:?}: AWS knows no shorter one");
    // Our signature of version 4 is accepted by a verifier that was written for itself, until the end and after it, and that is what is said.
    let ending = world.broker().end(&session.account).await.unwrap();
    for value in values(&session.value) {
        assert_ended(&ending, "expires-at", &format!("as arn:aws:sts::123456789012:assumed-role/agents/{}", plan.tag.task), &value);
    }
    *world.server.ahead.lock().unwrap() = 1000;
    assert_ended(&world.broker().end(&session.account).await.unwrap(), "expires-at", "status 403 ExpiredToken", &session.value);
    let wrong = AwsSts::new(Settings { region: "us-east-1".to_owned(), ..world.settings() }, world.issuer(), clock()).unwrap();
    assert_ended(&wrong.end(&session.account).await.unwrap(), "expires-at", "SignatureDoesNotMatch", &session.value);
}

#[tokio::test]
async fn a_session_has_a_policy_or_is_not_asked_for() {
    let world = World::start();
    let broker = world.broker();
    for plan in [plan(&[]), plan(&["everything"]), plan(&["orders_ro", "long"])] {
        assert_eq!(broker.mint(&plan, None).await.unwrap_err().code(), TargetCode::Plan);
    }
    // A name that AWS would refuse, or that would be cut into another task's.
    for task in ["task 1", "t", &"a".repeat(65), "task/1"] {
        let mut one = plan(&["orders_ro"]);
        one.tag.task = task.to_owned();
        assert_eq!(broker.mint(&one, None).await.unwrap_err().code(), TargetCode::Plan, "{task}");
    }
    assert_eq!(world.cloud.seen().len(), 0, "AWS is not even asked");
    let mut long = plan(&["orders_ro"]);
    long.tag.expires_at = Now.now().plus(Duration::from_secs(86_400));
    let minted = broker.mint(&long, None).await.unwrap();
    assert!(Now.now().until(minted.expires_at.unwrap()) <= Duration::from_secs(3601), "no longer than the role allows");
}

#[tokio::test]
async fn aws_believes_our_issuer_and_nobody_else() {
    let world = World::start();
    let one = plan(&["orders_ro"]);
    let strangers = [issuer(ISSUER, &jwt::p256().unwrap()), issuer("https://elsewhere.example.org", &world.pair)];
    for stranger in strangers {
        let error = AwsSts::new(world.settings(), stranger, clock()).unwrap().mint(&one, None).await.unwrap_err();
        assert_eq!(error.code(), TargetCode::Refused, "{error}");
        assert!(!error.to_string().contains("eyJ"), "{error}");
    }
    let error = AwsSts::new(Settings { subject: "bailiwick:other".to_owned(), ..world.settings() }, world.issuer(), clock()).unwrap();
    assert_eq!(error.mint(&one, None).await.unwrap_err().code(), TargetCode::Privilege);
    let ed = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    let ed = Key::from_pem(&Secret::from(ed.to_owned())).unwrap();
    assert!(WebIdentity::new(ISSUER, "k1", ed, clock()).is_err(), "AWS knows no EdDSA");
}

#[tokio::test]
async fn an_end_needs_no_answer_of_aws() {
    let world = World::start();
    let one = plan(&["orders_ro"]);
    let session = leased(&one, world.broker().mint(&one, None).await.unwrap());
    world.cloud.down(true);
    assert_ended(&world.broker().end(&session.account).await.unwrap(), "expires-at", "could not be asked", &session.value);
    assert_ended(&world.broker().end(&only_name(&one)).await.unwrap(), "expires-at", "not known", "canary");
}

#[tokio::test]
async fn an_answer_that_is_none_is_refused() {
    let world = World::start();
    for (fault, code) in [
        (Fault::Lost, TargetCode::Unreachable),
        (Fault::Status(503), TargetCode::Busy),
        (Fault::Status(200), TargetCode::Protocol),
        (Fault::Huge, TargetCode::Unreachable),
        (Fault::Redirect("https://elsewhere.example.org/".to_owned()), TargetCode::Protocol),
    ] {
        world.cloud.fault("POST /", fault.clone());
        let error = world.broker().mint(&plan(&["orders_ro"]), None).await.unwrap_err();
        assert_eq!(error.code(), code, "{fault:?}: {error}");
    }
    drop(world.broker().mint(&plan(&["orders_ro"]), None).await.unwrap());
}

#[tokio::test]
async fn preflight_passes_where_all_is_well_and_names_what_is_missing() {
    let world = World::start();
    let mut settings = world.settings();
    settings.rights.remove("long");
    let of = |settings: Settings| AwsSts::new(settings, world.issuer(), clock()).unwrap();
    assert_eq!(of(settings.clone()).preflight(&fresh_name()).await.unwrap(), []);
    let findings = of(Settings { subject: "bailiwick:other".to_owned(), ..settings.clone() }).preflight(&fresh_name()).await.unwrap();
    assert!(findings.len() == 2 && findings[0].remedy.contains("subject `bailiwick:other`"), "{findings:?}");
    let findings = of(Settings { region: "us-east-1".to_owned(), ..settings }).preflight(&fresh_name()).await.unwrap();
    assert!(findings.len() == 2 && findings[0].remedy.contains("region"), "{findings:?}");
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let world = World::start();
    let wrong = |change: &dyn Fn(&mut Settings)| {
        let mut settings = world.settings();
        change(&mut settings);
        assert_eq!(AwsSts::new(settings, world.issuer(), clock()).unwrap_err().code(), TargetCode::Plan);
    };
    wrong(&|settings| settings.role = "agents".into());
    wrong(&|settings| settings.region = "EU/central".into());
    wrong(&|settings| settings.rights = BTreeMap::new());
    wrong(&|settings| drop(settings.rights.insert("all".into(), vec![json!({ "Effect": "Allow", "Action": "*" })])));
    wrong(&|settings| settings.session_max = Duration::from_secs(899));
    wrong(&|settings| settings.subject.clear());
    let one = Plan { name: fresh_name(), tag: tag(), rights: vec!["orders_ro".into()] };
    assert_eq!(world.broker().mint(&one, Some(&Secret::from("x".to_owned()))).await.unwrap_err().code(), TargetCode::Plan);
}
