//! GitHub App tokens against a stand-in: both forms, narrowed, revoked by themselves, and tried.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bailiwick_credentials::kinds::github_app::{Form, GithubApp, Level, Right, Settings};
use bailiwick_credentials::kinds::signing::Key;
use bailiwick_credentials::lease::{Kind as _, Prefix, TargetCode};
use bailiwick_credentials::{Injection, Part, Secret};
use bailiwick_testkit::clouds::github::{Github, Settings as App};
use bailiwick_testkit::clouds::{Cloud, Fault, jwt};

use crate::clouds_world::{Agent, assert_ended, endpoint, leased, only_name};
use crate::words::{clock, fresh_name, plan};

const CONTENTS: &str = "/repos/org/shop/contents";

pub(crate) struct World {
    pub(crate) server: Arc<Github>,
    pub(crate) cloud: Cloud,
}

impl World {
    pub(crate) fn start() -> Self {
        let app = App {
            client_id: "Iv23liCANARY0APP0ID".to_owned(),
            key: jwt::rsa().unwrap(),
            installation: 4242,
            repositories: ["shop", "site", "salaries"].map(str::to_owned).into(),
            permissions: [("contents", "write"), ("issues", "write"), ("administration", "write")]
                .map(|(name, level)| (name.to_owned(), level.to_owned()))
                .into(),
            stateless: true,
            lag: Duration::ZERO,
            suspended: false,
            generous: false,
        };
        let server = Arc::new(Github::new(app));
        let cloud = Cloud::start(Arc::<Github>::clone(&server)).unwrap();
        Self { server, cloud }
    }

    fn settings(&self) -> Settings {
        let right = |repositories: &[&str], permissions: &[(&str, Level)]| Right {
            repositories: repositories.iter().map(|&name| name.to_owned()).collect(),
            permissions: permissions.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect(),
        };
        let rights = [
            ("shop_ro", right(&["shop"], &[("contents", Level::Read)])),
            ("shop_rw", right(&["shop"], &[("contents", Level::Write)])),
            ("shop_issues", right(&["shop"], &[("issues", Level::Read)])),
            ("site_rw", right(&["site"], &[("contents", Level::Write)])),
        ];
        Settings {
            api: endpoint(&self.cloud, "github", "/"),
            client_id: "Iv23liCANARY0APP0ID".to_owned(),
            installation: 4242,
            rights: rights.map(|(name, right)| (name.to_owned(), right)).into(),
            form: None,
        }
    }

    pub(crate) fn broker(&self) -> GithubApp {
        of(self.settings())
    }

    fn change(&self, change: impl FnOnce(&mut App)) {
        change(&mut self.server.settings.lock().unwrap());
    }
}

fn key() -> Key {
    Key::from_pem(&Secret::from(jwt::rsa().unwrap().pem)).unwrap()
}

fn of(settings: Settings) -> GithubApp {
    GithubApp::new(settings, key(), clock()).unwrap()
}

#[tokio::test]
async fn a_token_of_either_form_works_ends_and_is_cut_out_of_answers() {
    let world = World::start();
    let forms = [(Some(Form::Opaque), 40..41, 0), (Some(Form::Stateless), 500..540, 2), (None, 500..540, 2)];
    for (form, length, dots) in forms {
        let broker = of(Settings { form, ..world.settings() });
        let plan = plan(&["shop_ro"]);
        let token = leased(&plan, broker.mint(&plan, None).await.unwrap());
        assert!(length.contains(&token.value.len()) && token.value.matches('.').count() == dots, "{}", token.value.len());
        let mut injection = Injection::default();
        injection.add_header("authorization", vec![Part::literal("Bearer "), Part::secret(Secret::from(token.value.clone()))]).unwrap();
        let echoed = format!("you sent {} and {}", token.value, token.value.replace('.', "%2E"));
        assert!(!injection.redact_text(&echoed).contains(&token.value));
        let mut agent = Agent::connect(&world.cloud).await;
        assert_eq!(agent.get(CONTENTS, &token.value).await, 200);
        assert_eq!(agent.get("/repos/org/salaries/contents", &token.value).await, 404);
        let ending = world.broker().end(&token.account).await.unwrap();
        assert_ended(&ending, "revoked-verified", "status 401: Bad credentials", &token.value);
        assert_ended(&ending, "revoked-verified", "it revoked itself", &token.value);
        assert_eq!(agent.get(CONTENTS, &token.value).await, 401);
        assert_eq!(world.server.alive(), 0);
        // The control stands in for the acceptance that this end did not see.
        assert_ended(&world.broker().end(&token.account).await.unwrap(), "revoked-verified", "the app itself is accepted", &token.value);
    }
    let asked = world.cloud.seen().into_iter().find(|asked| asked.method == "POST").unwrap();
    assert!(asked.header("user-agent").starts_with("bailiwick task_"), "GitHub's audit log has the task");
}

#[tokio::test]
async fn a_token_is_as_narrow_as_the_plan() {
    let world = World::start();
    let broker = world.broker();
    drop(broker.mint(&plan(&["shop_ro", "shop_rw", "shop_issues"]), None).await.unwrap());
    let body = world.cloud.seen().remove(0).json();
    assert_eq!(body, serde_json::json!({ "repositories": ["shop"], "permissions": { "contents": "write", "issues": "read" } }));
    let before = world.cloud.seen().len();
    // Together they would let the token write to both.
    for plan in [plan(&["shop_ro", "site_rw"]), plan(&[]), plan(&["everything"])] {
        assert_eq!(broker.mint(&plan, None).await.unwrap_err().code(), TargetCode::Plan);
    }
    assert_eq!(world.cloud.seen().len(), before, "GitHub is not even asked");
    world.change(|app| app.generous = true);
    let alive = world.server.alive();
    let error = broker.mint(&plan(&["shop_ro"]), None).await.unwrap_err();
    assert!(error.detail().contains("wider than what was asked for"), "{error}");
    assert_eq!(world.server.alive(), alive);
    assert_eq!(broker.list(&Prefix::default()).await.unwrap(), []);
}

#[tokio::test]
async fn a_revocation_that_is_late_is_waited_for() {
    let world = World::start();
    world.change(|app| app.lag = Duration::from_millis(1200));
    let one = plan(&["shop_ro"]);
    let token = leased(&one, world.broker().mint(&one, None).await.unwrap());
    assert_ended(&world.broker().end(&token.account).await.unwrap(), "revoked-verified", "status 401", &token.value);
    assert_eq!(world.server.alive(), 0);
}

#[tokio::test]
async fn an_ending_says_what_it_does_not_know() {
    let world = World::start();
    let one = plan(&["shop_ro"]);
    assert_ended(&world.broker().end(&only_name(&one)).await.unwrap(), "expires-at", "not known", "canary");
    let token = leased(&one, world.broker().mint(&one, None).await.unwrap());
    drop(world.broker().end(&token.account).await.unwrap());
    // GitHub refuses everybody: what it says of the token is no proof.
    world.change(|app| app.client_id = "Iv1another".to_owned());
    let ending = world.broker().end(&token.account).await.unwrap();
    assert_ended(&ending, "revoked-unverified", "Bad credentials", &token.value);
    assert!(format!("{ending:?}").contains("the app itself is refused, too"), "{ending:?}");
}

#[tokio::test]
async fn github_is_down_at_the_end_and_lost_answers_are_made_good() {
    let world = World::start();
    let one = plan(&["shop_ro"]);
    let token = leased(&one, world.broker().mint(&one, None).await.unwrap());
    world.cloud.down(true);
    let error = world.broker().end(&token.account).await.unwrap_err();
    assert!(error.is_transient() && !error.to_string().contains(&token.value), "{error}");
    world.cloud.down(false);
    for fault in [Fault::Lost, Fault::Status(503), Fault::Redirect("https://elsewhere.example.org/".to_owned())] {
        world.cloud.fault("DELETE ", fault);
        assert!(world.broker().end(&token.account).await.unwrap_err().is_transient());
    }
    for fault in [Fault::Huge, Fault::Status(404)] {
        world.cloud.fault("GET /installation/repositories", fault);
        drop(world.broker().end(&token.account).await.unwrap_err());
    }
    assert_ended(&world.broker().end(&token.account).await.unwrap(), "revoked-verified", "status 401", &token.value);
}

#[tokio::test]
async fn preflight_passes_where_all_is_well_and_names_what_is_missing() {
    let world = World::start();
    assert_eq!(world.broker().preflight(&fresh_name()).await.unwrap(), []);
    assert_eq!(world.server.alive(), 0);
    let remedies = async |settings: Settings| -> Vec<String> {
        let findings = of(settings).preflight(&fresh_name()).await.unwrap();
        findings.into_iter().map(|finding| format!("{}: {}", finding.missing, finding.remedy)).collect()
    };
    let missing = remedies(Settings { installation: 1, ..world.settings() }).await;
    assert!(missing.len() == 1 && missing[0].contains("no installation 1"), "{missing:?}");
    let wide = Right {
        repositories: BTreeSet::from(["shop".to_owned()]),
        permissions: BTreeMap::from([("contents".to_owned(), Level::Admin), ("secrets".to_owned(), Level::Read)]),
    };
    let missing = remedies(Settings { rights: BTreeMap::from([("wide".to_owned(), wide)]), ..world.settings() }).await;
    assert!(missing.len() == 2 && missing[1].contains("`secrets: read`"), "{missing:?}");
    let stranger =
        Right { repositories: BTreeSet::from(["elsewhere".to_owned()]), permissions: BTreeMap::from([("contents".to_owned(), Level::Read)]) };
    let missing = remedies(Settings { rights: BTreeMap::from([("stranger".to_owned(), stranger)]), ..world.settings() }).await;
    assert!(missing.len() == 1 && missing[0].contains("does not exist or is not accessible"), "{missing:?}");
    world.change(|app| app.suspended = true);
    let missing = remedies(world.settings()).await;
    assert!(missing.len() == 1 && missing[0].contains("suspended"), "{missing:?}");
    world.change(|app| app.key = jwt::p256().unwrap());
    let missing = remedies(world.settings()).await;
    assert!(missing.len() == 1 && missing[0].contains("could not be decoded: [redacted"), "{missing:?}");
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let world = World::start();
    let wrong = |change: &dyn Fn(&mut Settings)| {
        let mut settings = world.settings();
        change(&mut settings);
        assert_eq!(GithubApp::new(settings, key(), clock()).unwrap_err().code(), TargetCode::Plan);
    };
    wrong(&|settings| settings.client_id = "a/b".into());
    wrong(&|settings| settings.rights = BTreeMap::new());
    wrong(&|settings| settings.rights.get_mut("shop_ro").unwrap().repositories.clear());
    wrong(&|settings| settings.rights.get_mut("shop_ro").unwrap().permissions.clear());
    wrong(&|settings| assert!(settings.rights.get_mut("shop_ro").unwrap().repositories.insert("org/shop".into())));
    wrong(&|settings| settings.api = endpoint(&world.cloud, "github", "/?a=b"));
    let elliptic = Key::from_pem(&Secret::from(jwt::p256().unwrap().pem)).unwrap();
    assert!(GithubApp::new(world.settings(), elliptic, clock()).is_err(), "GitHub takes RS256");
}
