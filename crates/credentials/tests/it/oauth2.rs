//! OAuth 2 against a stand-in: client credentials by each way to log in, refresh tokens that are good for one use, and endings that are called what they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::oauth2::{Grant, Login, Oauth2, Settings};
use bailiwick_credentials::kinds::signing::Key;
use bailiwick_credentials::lease::rotation::{Phase, Rotation};
use bailiwick_credentials::lease::{Kind as _, TargetCode};
use bailiwick_testkit::clouds::oauth::{Oauth, Settings as Cluster};
use bailiwick_testkit::clouds::{Cloud, Fault, jwt};

use crate::clouds_world::{Agent, Keep, assert_ended, endpoint, leased, only_name};
use crate::words::{clock, fresh_name, plan};

/// With characters that each encoding on the way writes in its own manner.
const CLIENT_SECRET: &str = "canary+%:/ secret~7Wk2Vx9Lr4";
const NAME: &str = "shop/refresh";

pub(crate) struct World {
    pub(crate) server: Arc<Oauth>,
    pub(crate) cloud: Cloud,
}

impl World {
    pub(crate) fn start(cluster: Cluster) -> Self {
        let server = Arc::new(Oauth::new(cluster));
        let cloud = Cloud::start(Arc::<Oauth>::clone(&server)).unwrap();
        Self { server, cloud }
    }

    fn with_secret(cluster: Cluster) -> Self {
        Self::start(Cluster { client_secret: Some(CLIENT_SECRET.to_owned()), ..cluster })
    }

    pub(crate) fn settings(&self) -> Settings {
        let rights = [("orders_ro", vec!["orders.read"]), ("orders_rw", vec!["orders.read", "orders.write"]), ("salaries", vec!["salaries.read"])];
        Settings {
            token: endpoint(&self.cloud, "token", "/token"),
            revocation: Some(endpoint(&self.cloud, "revocation", "/revoke")),
            probe: Some(endpoint(&self.cloud, "orders", "/orders?limit=1")),
            client_id: "broker".to_owned(),
            rights: rights.map(|(name, scopes)| (name.to_owned(), scopes.into_iter().map(str::to_owned).collect())).into(),
            resources: Vec::new(),
            lifetime_max: None,
            revocation_lag_max: Duration::from_secs(3),
        }
    }

    fn broker(&self) -> Oauth2 {
        of(self.settings(), Login::Basic(secret()))
    }

    pub(crate) fn refresher(&self, keep: &Arc<Keep>) -> Oauth2 {
        let kept: Arc<dyn Rotation> = Arc::<Keep>::clone(keep);
        Oauth2::new(self.settings(), Login::Public, Grant::RefreshToken { name: NAME.to_owned(), kept }, clock()).unwrap()
    }
}

fn secret() -> Secret {
    Secret::from(CLIENT_SECRET.to_owned())
}

fn of(settings: Settings, login: Login) -> Oauth2 {
    Oauth2::new(settings, login, Grant::ClientCredentials, clock()).unwrap()
}

#[tokio::test]
async fn a_token_works_and_is_refused_after_its_end_on_an_open_connection_too() {
    let world = World::with_secret(Cluster::default());
    let broker = world.broker();
    let plan = plan(&["orders_ro"]);
    let token = leased(&plan, broker.mint(&plan, None).await.unwrap());
    let mut agent = Agent::connect(&world.cloud).await;
    assert_eq!(agent.get("/orders", &token.value).await, 200);
    let ending = world.broker().end(&token.account).await.unwrap();
    assert_ended(&ending, "revoked-verified", "status 401: invalid_token: no such token: [redacted by bailiwick]", &token.value);
    assert_eq!(agent.get("/orders", &token.value).await, 401);
    assert_eq!(world.server.alive(), 0);
    // What is done already is no error, and as true as before.
    let again = world.broker().end(&token.account).await.unwrap();
    assert_ended(&again, "revoked-verified", "status 401", &token.value);
    let agents: Vec<_> =
        world.cloud.seen().iter().filter(|asked| asked.path == "/token").map(|asked| asked.header("user-agent").to_owned()).collect();
    assert_eq!(agents, [plan.tag.connection_name(200)], "the server's log has the task");
}

#[tokio::test]
async fn a_client_is_known_by_each_way_to_log_in_and_its_secret_is_in_no_error() {
    let world = World::with_secret(Cluster::default());
    let one = plan(&["orders_ro"]);
    drop(of(world.settings(), Login::Post(secret())).mint(&one, None).await.unwrap());
    for login in [Login::Basic(Secret::from("canary-wrong-secret".to_owned())), Login::Post(Secret::from("canary-wrong-secret".to_owned()))] {
        let error = of(world.settings(), login).mint(&one, None).await.unwrap_err();
        assert_eq!(error.code(), TargetCode::Refused, "{error}");
        assert!(error.to_string().contains("invalid_client") && !error.to_string().contains("canary-wrong"), "{error}");
        assert!(!error.to_string().contains("Y2FuYXJ5LXdyb25n"), "{error}");
    }
    let pair = jwt::p256().unwrap();
    let audience = "https://issuer.example.org".to_owned();
    let world = World::start(Cluster { client_key: Some((pair.clone(), audience.clone())), ..Cluster::default() });
    let login = |pem: &str, audience: &str| {
        let key = Key::from_pem(&Secret::from(pem.to_owned())).unwrap();
        Login::PrivateKeyJwt { key, kid: Some("k1".to_owned()), audience: audience.to_owned() }
    };
    let broker = of(world.settings(), login(&pair.pem, &audience));
    for _ in 0..2 {
        let token = leased(&one, broker.mint(&one, None).await.unwrap());
        assert_ended(&broker.end(&token.account).await.unwrap(), "revoked-verified", "status 401", &token.value);
    }
    let strangers = [login(&jwt::p256().unwrap().pem, &audience), login(&pair.pem, "https://elsewhere.example.org")];
    for login in strangers {
        let error = of(world.settings(), login).mint(&one, None).await.unwrap_err();
        assert!(error.code() == TargetCode::Refused && !error.to_string().contains("eyJ"), "{error}");
    }
}

#[tokio::test]
async fn a_token_has_the_plans_scopes_and_never_the_servers_default() {
    let world = World::with_secret(Cluster { resources: ["https://api.example.org".to_owned()].into(), ..Cluster::default() });
    let broker = of(Settings { resources: vec!["https://api.example.org".to_owned()], ..world.settings() }, Login::Basic(secret()));
    drop(broker.mint(&plan(&["orders_ro"]), None).await.unwrap());
    let asked = world.cloud.seen().remove(0).form();
    assert_eq!((asked["scope"].concat(), asked["resource"].concat()), ("orders.read".to_owned(), "https://api.example.org".to_owned()));
    let before = world.cloud.count("POST /token");
    for plan in [plan(&[]), plan(&["everything"])] {
        assert_eq!(broker.mint(&plan, None).await.unwrap_err().code(), TargetCode::Plan);
    }
    assert_eq!(world.cloud.count("POST /token"), before, "the server is not even asked");
    assert_eq!(broker.mint(&plan(&["salaries"]), None).await.unwrap_err().code(), TargetCode::Plan);
    // A server that gives more than it was asked for: the token is revoked and not given on.
    let world = World::with_secret(Cluster { generous: true, ..Cluster::default() });
    let error = world.broker().mint(&plan(&["orders_ro"]), None).await.unwrap_err();
    assert!(error.detail().contains("wider scope"), "{error}");
    assert_eq!(world.server.alive(), 0);
}

#[tokio::test]
async fn an_ending_is_called_what_it_is() {
    // A server that answers 200 and does nothing, as for JWTs, and takes a look at it with patience.
    let world = World::with_secret(Cluster { lag: Duration::from_millis(1200), ..Cluster::default() });
    let one = plan(&["orders_ro"]);
    let token = leased(&one, world.broker().mint(&one, None).await.unwrap());
    assert_ended(&world.broker().end(&token.account).await.unwrap(), "revoked-verified", "status 401", &token.value);

    let of_settings = |change: &dyn Fn(Settings) -> Settings, world: &World| of(change(world.settings()), Login::Basic(secret()));
    let no_probe = |settings: Settings| Settings { probe: None, ..settings };
    let broker = of_settings(&no_probe, &world);
    let token = leased(&one, broker.mint(&one, None).await.unwrap());
    assert_ended(&broker.end(&token.account).await.unwrap(), "revoked-unverified", "answered 200", &token.value);

    let neither = |settings: Settings| Settings { probe: None, revocation: None, ..settings };
    let broker = of_settings(&neither, &world);
    let token = leased(&one, broker.mint(&one, None).await.unwrap());
    assert_ended(&broker.end(&token.account).await.unwrap(), "expires-at", "no revocation endpoint", &token.value);

    let silent = World::with_secret(Cluster { says_life: false, ..Cluster::default() });
    let broker = of_settings(&neither, &silent);
    let token = leased(&one, broker.mint(&one, None).await.unwrap());
    assert_ended(&broker.end(&token.account).await.unwrap(), "injection-stopped", "no revocation endpoint", &token.value);
    assert_ended(&broker.end(&only_name(&one)).await.unwrap(), "revoked-unverified", "not known", "canary");
    let bounded = |settings: Settings| Settings { lifetime_max: Some(Duration::from_secs(600)), ..neither(settings) };
    assert_ended(&of_settings(&bounded, &silent).end(&only_name(&one)).await.unwrap(), "expires-at", "not known", "canary");

    // A probe that refuses everybody proves nothing.
    let world = World::with_secret(Cluster::default());
    let elsewhere = |settings: Settings| Settings { probe: Some(endpoint(&silent.cloud, "elsewhere", "/orders")), ..settings };
    let broker = of_settings(&elsewhere, &world);
    let token = leased(&one, broker.mint(&one, None).await.unwrap());
    assert_ended(&broker.end(&token.account).await.unwrap(), "revoked-unverified", "status 401", &token.value);
}

#[tokio::test]
async fn a_revocation_that_does_nothing_is_seen_and_preflight_says_so() {
    let world = World::with_secret(Cluster {
        stateless: true,
        scopes: ["orders.read", "orders.write", "salaries.read"].map(str::to_owned).into(),
        ..Cluster::default()
    });
    let findings = world.broker().preflight(&fresh_name()).await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].missing.contains("accepted as before") && findings[0].remedy.contains("expires-at"), "{findings:?}");
}

#[tokio::test]
async fn preflight_passes_where_all_is_well_and_names_what_is_missing() {
    let all: std::collections::BTreeSet<_> = ["orders.read", "orders.write", "salaries.read"].map(str::to_owned).into();
    let world = World::with_secret(Cluster { scopes: all, ..Cluster::default() });
    assert_eq!(world.broker().preflight(&fresh_name()).await.unwrap(), []);
    assert_eq!(world.server.alive(), 0);
    let world = World::with_secret(Cluster::default());
    let findings = world.broker().preflight(&fresh_name()).await.unwrap();
    assert_eq!(
        findings.iter().map(|finding| finding.remedy.as_str()).collect::<Vec<_>>(),
        ["let the client `broker` have the scope `salaries.read`"]
    );
    let findings = of(world.settings(), Login::Basic(Secret::from("canary-wrong-secret".to_owned()))).preflight(&fresh_name()).await.unwrap();
    assert!(findings.len() == 3 && !format!("{findings:?}").contains("canary-wrong"), "{findings:?}");
    world.cloud.down(true);
    assert_eq!(world.broker().preflight(&fresh_name()).await.unwrap_err().code(), TargetCode::Unreachable);
}

#[tokio::test]
async fn the_server_is_down_at_the_end() {
    let world = World::with_secret(Cluster::default());
    let one = plan(&["orders_ro"]);
    let token = leased(&one, world.broker().mint(&one, None).await.unwrap());
    world.cloud.down(true);
    let error = world.broker().end(&token.account).await.unwrap_err();
    assert!(error.is_transient() && !error.to_string().contains(&token.value), "{error}");
    world.cloud.down(false);
    // And the answer of the revocation is lost.
    world.cloud.fault("POST /revoke", Fault::Lost);
    assert!(world.broker().end(&token.account).await.unwrap_err().is_transient());
    assert_ended(&world.broker().end(&token.account).await.unwrap(), "revoked-verified", "the probe accepted it when it was made", &token.value);
    // A probe that is out of order keeps no token alive.
    let token = leased(&one, world.broker().mint(&one, None).await.unwrap());
    world.cloud.fault("GET /orders", Fault::Status(503));
    assert_eq!(world.broker().end(&token.account).await.unwrap_err().code(), TargetCode::Busy);
    assert_eq!(world.server.alive(), 0);
}

#[tokio::test]
async fn a_refresh_token_for_one_use_serves_task_after_task() {
    let world = World::start(Cluster::default());
    let keep = Keep::with(NAME, &world.server.log_in());
    for _ in 0..5 {
        // A fresh broker each time: what it knows is what is kept.
        let broker = world.refresher(&keep);
        let plan = plan(&["orders_ro"]);
        let token = leased(&plan, broker.mint(&plan, None).await.unwrap());
        assert_ended(&broker.end(&token.account).await.unwrap(), "revoked-verified", "status 401", &token.value);
        assert_eq!(keep.tokens().len(), 2, "the last two are kept");
    }
    // Fifty at once: one at a time, and none is used twice.
    let broker = Arc::new(world.refresher(&keep));
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let broker = Arc::clone(&broker);
            tokio::spawn(async move { broker.mint(&plan(&["orders_rw"]), None).await.map(drop) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    // A server that does not rotate: the one that works stays.
    let world = World::start(Cluster { rotates: false, ..Cluster::default() });
    let keep = Keep::with(NAME, &world.server.log_in());
    for _ in 0..3 {
        drop(world.refresher(&keep).mint(&plan(&["orders_ro"]), None).await.unwrap());
        assert_eq!((keep.tokens().len(), keep.phase(NAME)), (1, Phase::Settled));
    }
}

#[tokio::test]
async fn a_lost_answer_is_survived_where_the_server_allows_it_and_else_calls_a_person_once() {
    let world = World::start(Cluster { grace: Duration::from_secs(30), ..Cluster::default() });
    let keep = Keep::with(NAME, &world.server.log_in());
    for _ in 0..3 {
        world.cloud.fault("POST /token", Fault::Lost);
        assert_eq!(world.refresher(&keep).mint(&plan(&["orders_ro"]), None).await.unwrap_err().code(), TargetCode::Unreachable);
        drop(world.refresher(&keep).mint(&plan(&["orders_ro"]), None).await.unwrap());
    }
    // A server that takes a second use for a theft.
    let world = World::start(Cluster::default());
    let keep = Keep::with(NAME, &world.server.log_in());
    world.cloud.fault("POST /token", Fault::Lost);
    drop(world.refresher(&keep).mint(&plan(&["orders_ro"]), None).await.unwrap_err());
    let error = world.refresher(&keep).mint(&plan(&["orders_ro"]), None).await.unwrap_err();
    assert_eq!((error.code(), error.is_transient()), (TargetCode::Refused, false), "{error}");
    assert!(error.detail().contains("a person has to set a new one") && error.detail().contains("was lost"), "{error}");
    for token in keep.tokens() {
        assert!(!error.to_string().contains(&token), "{error}");
    }
    let asked = world.cloud.count("POST /token");
    assert_eq!(world.refresher(&keep).mint(&plan(&["orders_ro"]), None).await.unwrap_err().code(), TargetCode::Refused);
    assert_eq!(world.cloud.count("POST /token"), asked, "what is lost is not tried again");
    keep.set(NAME, &world.server.log_in());
    drop(world.refresher(&keep).mint(&plan(&["orders_ro"]), None).await.unwrap());
}

#[tokio::test]
async fn a_request_that_failed_before_it_was_done_costs_nothing() {
    let world = World::start(Cluster::default());
    let keep = Keep::with(NAME, &world.server.log_in());
    for fault in
        [Fault::HungUp, Fault::Status(503), Fault::Status(429), Fault::Redirect("https://elsewhere.example.org/token".to_owned()), Fault::Huge]
    {
        let lost = fault == Fault::Huge;
        world.cloud.fault("POST /token", fault);
        let error = world.refresher(&keep).mint(&plan(&["orders_ro"]), None).await.unwrap_err();
        assert!(error.is_transient() || lost, "{error}");
        drop(world.refresher(&keep).mint(&plan(&["orders_ro"]), None).await.unwrap());
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_still_replaces_the_refresh_token() {
    for cluster in [Cluster { odd: true, ..Cluster::default() }, Cluster { generous: true, ..Cluster::default() }] {
        let world = World::start(cluster);
        let keep = Keep::with(NAME, &world.server.log_in());
        for _ in 0..4 {
            let error = world.refresher(&keep).mint(&plan(&["orders_ro"]), None).await.unwrap_err();
            assert!(matches!(error.code(), TargetCode::Protocol | TargetCode::Plan), "{error}");
            assert_eq!(keep.phase(NAME), Phase::Open, "the server goes on taking what it gave");
        }
    }
}

#[tokio::test]
async fn an_answer_is_written_down_before_its_access_token_is_used_even_if_the_disk_stumbles() {
    let world = World::start(Cluster::default());
    let keep = Keep::with(NAME, &world.server.log_in());
    let broker = world.refresher(&keep);
    drop(broker.mint(&plan(&["orders_ro"]), None).await.unwrap());
    for failures in 1..5 {
        // The write that opens may fail: nothing was sent then. Those that keep the answer are tried again.
        keep.fail(failures);
        let first = broker.mint(&plan(&["orders_ro"]), None).await;
        keep.fail(0);
        drop(first);
        drop(broker.mint(&plan(&["orders_ro"]), None).await.unwrap());
        assert_ne!(keep.phase(NAME), Phase::Lost, "{failures} writes failed");
    }
}

#[tokio::test]
async fn whoever_asked_may_go_away_without_losing_the_refresh_token() {
    let world = World::start(Cluster::default());
    let keep = Keep::with(NAME, &world.server.log_in());
    let broker = world.refresher(&keep);
    for _ in 0..3 {
        world.cloud.fault("POST /token", Fault::Slow(Duration::from_millis(300)));
        let one = plan(&["orders_ro"]);
        let mint = broker.mint(&one, None);
        assert!(tokio::time::timeout(Duration::from_millis(100), mint).await.is_err(), "it is dropped in the middle");
    }
    drop(broker.mint(&plan(&["orders_ro"]), None).await.unwrap());
    // The tokens that nobody waited for were revoked: one is alive, the last.
    assert_eq!(world.server.alive(), 1);
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let world = World::start(Cluster::default());
    let wrong = |change: &dyn Fn(&mut Settings)| {
        let mut settings = world.settings();
        change(&mut settings);
        assert_eq!(Oauth2::new(settings, Login::Basic(secret()), Grant::ClientCredentials, clock()).unwrap_err().code(), TargetCode::Plan);
    };
    wrong(&|settings| settings.client_id.clear());
    wrong(&|settings| settings.rights = BTreeMap::new());
    wrong(&|settings| drop(settings.rights.insert("x".into(), vec!["a b".into()])));
    wrong(&|settings| settings.resources = vec!["api".into()]);
    wrong(&|settings| settings.lifetime_max = Some(Duration::ZERO));
    wrong(&|settings| settings.revocation_lag_max = Duration::from_secs(31));
    assert!(Oauth2::new(world.settings(), Login::Public, Grant::ClientCredentials, clock()).is_err());
    let shown = format!("{:?}", of(world.settings(), Login::Basic(secret())));
    assert!(!shown.contains("canary"), "{shown}");
}
