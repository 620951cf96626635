//! Kubernetes tokens against a stand-in: bound to an object of their own, dead when it is gone, and reviewed until every API server has forgotten them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::Clock as _;
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::kubernetes::{Kubernetes, Settings};
use bailiwick_credentials::lease::{Kind as _, Prefix, TargetCode, sweep};
use bailiwick_testkit::clouds::kubernetes::{Kubernetes as Server, Settings as Cluster};
use bailiwick_testkit::clouds::{Cloud, Fault};
use serde_json::json;

use crate::clouds_world::{Agent, assert_ended, endpoint, leased, only_name};
use crate::words::{Now, clock, fresh_name, plan};

const BROKER: &str = "canary-broker-token.Zq7Wk2Vx9Lr4Tn8B";
const ANY: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

pub(crate) struct World {
    pub(crate) server: Arc<Server>,
    pub(crate) cloud: Cloud,
}

impl World {
    pub(crate) fn start() -> Self {
        let rights = [
            "create secrets",
            "get secrets",
            "list secrets",
            "delete secrets",
            "create tokenreviews",
            "create serviceaccounts/token deployer",
            "create serviceaccounts/token reader",
        ];
        let cluster = Cluster {
            namespace: "agents".to_owned(),
            accounts: ["deployer", "reader"].map(str::to_owned).into(),
            broker: BROKER.to_owned(),
            rights: rights.map(str::to_owned).into(),
            remembers: Duration::from_millis(300),
            replicas: 1,
            audiences: BTreeSet::from(["vault".to_owned()]),
            finalizers: false,
            page: 2,
        };
        let server = Arc::new(Server::new(cluster));
        let cloud = Cloud::start(Arc::<Server>::clone(&server)).unwrap();
        Self { server, cloud }
    }

    fn settings(&self) -> Settings {
        Settings {
            api: endpoint(&self.cloud, "cluster", "/"),
            namespace: "agents".to_owned(),
            rights: [("read", "reader"), ("deploy", "deployer")].map(|(right, account)| (right.to_owned(), account.to_owned())).into(),
            audiences: Vec::new(),
            audiences_ask: false,
            remembered: Duration::from_millis(350),
        }
    }

    pub(crate) fn broker(&self) -> Kubernetes {
        of(self.settings())
    }

    fn change(&self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.server.settings.lock().unwrap());
    }
}

fn of(settings: Settings) -> Kubernetes {
    Kubernetes::new(settings, Secret::from(BROKER.to_owned()), clock()).unwrap()
}

#[tokio::test]
async fn a_token_works_is_bound_to_its_object_and_is_refused_after_its_end() {
    let world = World::start();
    let plan = plan(&["deploy"]);
    let token = leased(&plan, world.broker().mint(&plan, None).await.unwrap());
    let object = plan.name.as_str().replace('_', "-");
    assert_eq!(world.server.secrets(), std::slice::from_ref(&object));
    let stored = world.server.secret(&object);
    assert!(stored["metadata"]["annotations"]["bailiwick/tag"].as_str().unwrap().contains(&plan.tag.task), "{stored}");
    assert!(stored.get("data").is_none(), "it is empty: {stored}");
    let mut agent = Agent::connect(&world.cloud).await;
    assert_eq!(agent.get(ANY, &token.value).await, 200);
    let ending = world.broker().end(&token.account).await.unwrap();
    assert_ended(
        &ending,
        "revoked-verified",
        "a review refuses the token: [invalid bearer token, Token has been invalidated: [redacted",
        &token.value,
    );
    assert_eq!(agent.get(ANY, &token.value).await, 401);
    assert!(world.server.secrets().is_empty() && world.server.alive() == 0);
    assert_ended(&world.broker().end(&token.account).await.unwrap(), "revoked-verified", "there is no such object", &token.value);
}

#[tokio::test]
async fn an_api_server_that_remembers_the_token_longer_is_waited_for() {
    let world = World::start();
    world.change(|cluster| cluster.remembers = Duration::from_millis(1500));
    let one = plan(&["read"]);
    let token = leased(&one, world.broker().mint(&one, None).await.unwrap());
    let mut agent = Agent::connect(&world.cloud).await;
    let broker = world.broker();
    let (ending, ()) = tokio::join!(broker.end(&token.account), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(agent.get(ANY, &token.value).await, 200, "that is the trap");
    });
    assert_ended(&ending.unwrap(), "revoked-verified", "a review refuses", &token.value);
    assert_eq!(agent.get(ANY, &token.value).await, 401);
}

#[tokio::test]
async fn several_api_servers_behind_one_address_have_all_forgotten_the_token_when_it_has_its_ending() {
    // Without patience, and with as much as the setting says.
    for (remembered, after) in [(Duration::ZERO, 200), (Duration::from_millis(1050), 401)] {
        let world = World::start();
        world.change(|cluster| (cluster.replicas, cluster.remembers) = (3, Duration::from_millis(1000)));
        let one = plan(&["read"]);
        let broker = of(Settings { remembered, ..world.settings() });
        let token = leased(&one, broker.mint(&one, None).await.unwrap());
        let mut agent = Agent::connect(&world.cloud).await;
        // Two of them know it now, from the mint and from this; the third, which is asked at the end, refuses it at once.
        assert_eq!(agent.get(ANY, &token.value).await, 200);
        assert_ended(&broker.end(&token.account).await.unwrap(), "revoked-verified", "a review refuses", &token.value);
        assert_eq!(agent.get(ANY, &token.value).await, after, "{remembered:?}");
    }
}

#[tokio::test]
async fn a_token_for_others_expires_unless_they_ask_the_api_server() {
    let world = World::start();
    let one = plan(&["read"]);
    let mut settings = Settings { audiences: vec!["vault".to_owned()], ..world.settings() };
    let token = leased(&one, of(settings.clone()).mint(&one, None).await.unwrap());
    assert_eq!(
        Agent::connect(&world.cloud).await.get(ANY, &token.value).await,
        401,
        "it is not for the API server, so that a call there would show nothing"
    );
    assert_ended(&of(settings.clone()).end(&token.account).await.unwrap(), "expires-at", "may look at its signature only", &token.value);
    settings.audiences_ask = true;
    let two = plan(&["read"]);
    let token = leased(&two, of(settings.clone()).mint(&two, None).await.unwrap());
    assert_ended(&of(settings.clone()).end(&token.account).await.unwrap(), "revoked-verified", "a review refuses", &token.value);
    // An audience that the API server reviews for nobody: it would refuse the token dead or alive.
    settings.audiences = vec!["elsewhere".to_owned()];
    let three = plan(&["read"]);
    let error = of(settings.clone()).mint(&three, None).await.unwrap_err();
    assert!(error.detail().contains("is not honoured"), "{error}");
    assert_ended(&of(settings).end(&only_name(&three)).await.unwrap(), "revoked-unverified", "there is no such object", "canary");
    assert_eq!(world.server.alive(), 0);
}

#[tokio::test]
async fn a_plan_is_one_service_account_and_a_life_that_means_what_it_says() {
    let world = World::start();
    for plan in [plan(&[]), plan(&["read", "deploy"]), plan(&["everything"])] {
        assert_eq!(world.broker().mint(&plan, None).await.unwrap_err().code(), TargetCode::Plan);
    }
    assert_eq!(world.cloud.seen().len(), 0);
    for (seconds, least, most) in [(10, 590, 601), (3607, 3590, 3608), (7200, 7190, 7201)] {
        let mut one = plan(&["read"]);
        one.tag.expires_at = Now.now().plus(Duration::from_millis(seconds * 1000 + 900));
        let minted = world.broker().mint(&one, None).await.unwrap();
        let left = Now.now().until(minted.expires_at.unwrap()).as_secs();
        assert!((least..most).contains(&left), "{seconds}: {left}");
    }
}

#[tokio::test]
async fn a_mint_that_comes_again_finds_its_object_and_another_ones_is_left_alone() {
    let world = World::start();
    let one = plan(&["read"]);
    world.cloud.fault("POST /api/v1/namespaces/agents/secrets", Fault::Lost);
    assert!(world.broker().mint(&one, None).await.unwrap_err().is_transient());
    world.cloud.fault("POST /api/v1/namespaces/agents/serviceaccounts", Fault::Lost);
    assert!(world.broker().mint(&one, None).await.unwrap_err().is_transient());
    let token = leased(&one, world.broker().mint(&one, None).await.unwrap());
    assert_eq!((world.server.secrets().len(), world.server.alive()), (1, 2), "the token of the lost answer is bound to the same object");
    assert_ended(&world.broker().end(&token.account).await.unwrap(), "revoked-verified", "was removed", &token.value);
    assert_eq!(world.server.alive(), 0);
    // A person's object under such a name is neither used nor removed.
    let two = plan(&["read"]);
    let object = two.name.as_str().replace('_', "-");
    world.server.put(&object, &json!({}));
    assert_eq!(world.broker().mint(&two, None).await.unwrap_err().code(), TargetCode::Taken);
    assert_eq!(world.broker().end(&only_name(&two)).await.unwrap_err().code(), TargetCode::Taken);
    assert_eq!(world.server.secrets(), [object]);
}

#[tokio::test]
async fn a_sweep_ends_what_no_lease_explains_and_leaves_everything_else() {
    let world = World::start();
    let plans: Vec<_> = (0..5).map(|_| plan(&["read"])).collect();
    for plan in &plans {
        drop(world.broker().mint(plan, None).await.unwrap());
    }
    let ours = json!({ "app.kubernetes.io/managed-by": "bailiwick" });
    for (name, labels) in [("ag-person", &ours), ("database", &json!({})), ("agx-01kapv5x6sf9j8e3t1d2c4b5a6", &ours)] {
        world.server.put(name, labels);
    }
    let found = world.broker().list(&Prefix::default()).await.unwrap();
    assert_eq!(found.len(), 5, "three pages: {found:?}");
    assert_eq!(found[0].tag.as_ref().unwrap().task, plans[0].tag.task);
    let kept = plans[0].name.clone();
    let orphans = sweep(&world.broker(), &Prefix::default(), &|name| *name == kept).await.unwrap();
    assert_eq!(orphans.len(), 4);
    assert!(orphans.iter().all(|orphan| orphan.ending.as_ref().is_ok_and(|ending| ending.word() == "revoked-unverified")), "{orphans:?}");
    let mut left = world.server.secrets();
    left.retain(|name| *name != kept.as_str().replace('_', "-"));
    assert_eq!(left, ["ag-person", "agx-01kapv5x6sf9j8e3t1d2c4b5a6", "database"]);
    assert_eq!(world.server.alive(), 1);
}

#[tokio::test]
async fn the_api_server_is_down_at_the_end_or_something_holds_the_object() {
    let world = World::start();
    let one = plan(&["read"]);
    let token = leased(&one, world.broker().mint(&one, None).await.unwrap());
    world.cloud.down(true);
    assert!(world.broker().end(&token.account).await.unwrap_err().is_transient());
    world.cloud.down(false);
    for beginning in ["DELETE ", "GET /api", "POST /apis/authentication"] {
        for fault in [Fault::Lost, Fault::Status(500)] {
            world.cloud.fault(beginning, fault);
            let error = world.broker().end(&token.account).await;
            // Once it is gone there is nothing to delete, and that fault waits for somebody else.
            assert!(
                error.as_ref().is_err_and(|error| error.is_transient() && !error.to_string().contains(&token.value)) || beginning == "DELETE ",
                "{error:?}"
            );
        }
    }
    assert_ended(&world.broker().end(&token.account).await.unwrap(), "revoked-verified", "a review refuses", &token.value);
    let world = World::start();
    world.change(|cluster| cluster.finalizers = true);
    let two = plan(&["read"]);
    let token = leased(&two, world.broker().mint(&two, None).await.unwrap());
    let broker = world.broker();
    let (ending, ()) = tokio::join!(broker.end(&token.account), async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        world.server.finalize();
    });
    assert_ended(&ending.unwrap(), "revoked-verified", "a review refuses", &token.value);
}

#[tokio::test]
async fn preflight_passes_where_all_is_well_and_names_each_right_that_is_missing() {
    let world = World::start();
    assert_eq!(world.broker().preflight(&fresh_name()).await.unwrap(), []);
    assert!(world.server.secrets().is_empty() && world.server.alive() == 0);
    let all = world.server.settings.lock().unwrap().rights.clone();
    for right in &all {
        world.change(|cluster| assert!(cluster.rights.remove(right)));
        let findings = world.broker().preflight(&fresh_name()).await.unwrap();
        assert_eq!(findings.len(), 1, "{right}: {findings:?}");
        let (verb, resource) = right.split_once(' ').unwrap();
        let resource = resource.split(' ').next().unwrap();
        assert!(
            findings[0].remedy.contains(&format!("--verb={verb} --resource={resource}")) || findings[0].remedy.contains("system:auth-delegator"),
            "{findings:?}"
        );
        world.change(|cluster| cluster.rights.clone_from(&all));
    }
    world.change(|cluster| assert!(cluster.accounts.remove("deployer")));
    let findings = world.broker().preflight(&fresh_name()).await.unwrap();
    assert!(findings.len() == 1 && findings[0].missing.contains("not found"), "{findings:?}");
    assert!(world.server.secrets().is_empty(), "the probe is cleaned up");
    let stranger = Kubernetes::new(world.settings(), Secret::from("canary-wrong".to_owned()), clock()).unwrap();
    let error = stranger.preflight(&fresh_name()).await.unwrap_err();
    assert!(error.code() == TargetCode::Refused && !error.to_string().contains("canary-wrong"), "{error}");
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let world = World::start();
    let wrong = |change: &dyn Fn(&mut Settings)| {
        let mut settings = world.settings();
        change(&mut settings);
        assert_eq!(Kubernetes::new(settings, Secret::from(BROKER.to_owned()), clock()).unwrap_err().code(), TargetCode::Plan);
    };
    wrong(&|settings| settings.namespace = "a/../b".into());
    wrong(&|settings| settings.rights = BTreeMap::new());
    wrong(&|settings| drop(settings.rights.insert("x".into(), "A".into())));
    wrong(&|settings| settings.audiences = vec![String::new()]);
    wrong(&|settings| settings.remembered = Duration::from_secs(60));
    assert!(!format!("{:?}", world.broker()).contains("canary"));
}
