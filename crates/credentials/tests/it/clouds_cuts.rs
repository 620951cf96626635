//! kill -9 between any two steps of a mint and of an end at a cloud, TLS on the way there, and what a stranger can do to an answer.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_credentials::kinds::oauth2::{Grant, Login, Oauth2};
use bailiwick_credentials::kinds::web::Endpoint;
use bailiwick_credentials::lease::rotation::{Phase, Rotation};
use bailiwick_credentials::lease::{Kind, TargetCode, Trust};
use bailiwick_credentials::{Secret, kinds::oauth2};
use bailiwick_testkit::Scratch;
use bailiwick_testkit::clouds::oauth::{Oauth, Settings as Cluster};
use bailiwick_testkit::clouds::{Cloud, Fault};
use bailiwick_testkit::servers::unprivileged::run;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::clouds_world::{Keep, assert_ended, endpoint, leased, only_name};
use crate::cut::cut;
use crate::words::{clock, plan};

/// More waits than any mint or end has here.
const WAITS_MAX: usize = 1000;
const NAME: &str = "shop/refresh";

#[test]
fn a_kubernetes_mint_cut_at_any_wait_leaves_nothing_that_its_name_does_not_find() {
    let world = crate::kubernetes::World::start();
    for waits in 0..WAITS_MAX {
        let plan = plan(&["deploy"]);
        let broker = world.broker();
        let minted = cut(waits, async { broker.mint(&plan, None).await.unwrap() });
        let fresh = world.broker();
        let ending = cut(WAITS_MAX, async { fresh.end(&only_name(&plan)).await }).unwrap().unwrap();
        assert_ended(&ending, "revoked-unverified", "there is no such object", "canary");
        assert!(world.server.secrets().is_empty() && world.server.alive() == 0, "cut after {waits} waits");
        if minted.is_some() {
            assert!(waits > 6, "a mint waits for each of its requests");
            return;
        }
    }
    panic!("the mint never came to its end");
}

#[test]
fn an_end_cut_at_any_wait_is_taken_up_by_the_next() {
    let kubernetes = crate::kubernetes::World::start();
    let github = crate::github_app::World::start();
    let oauth = crate::oauth2::World::start(Cluster { client_secret: Some("canary-client".to_owned()), ..Cluster::default() });
    let client = || {
        let login = Login::Basic(Secret::from("canary-client".to_owned()));
        Box::new(Oauth2::new(oauth.settings(), login, Grant::ClientCredentials, clock()).unwrap())
    };
    type Make<'a> = &'a dyn Fn() -> Box<dyn Kind>;
    let kinds: [(&str, &str, Make<'_>); 3] = [
        ("deploy", "a review refuses", &|| Box::new(kubernetes.broker())),
        ("shop_ro", "status 401: Bad credentials", &|| Box::new(github.broker())),
        ("orders_ro", "status 401: invalid_token", &|| client()),
    ];
    for (right, words, make) in kinds {
        for waits in 0..=WAITS_MAX {
            assert!(waits < WAITS_MAX, "the end never came to its end");
            let plan = plan(&[right]);
            let broker = make();
            let token = leased(&plan, cut(WAITS_MAX, async { broker.mint(&plan, None).await.unwrap() }).unwrap());
            let first = make();
            let ended = cut(waits, async { first.end(&token.account).await.unwrap() });
            let fresh = make();
            let ending = cut(WAITS_MAX, async { fresh.end(&token.account).await }).unwrap().unwrap();
            assert_ended(&ending, "revoked-verified", words, &token.value);
            if ended.is_some() {
                break;
            }
        }
    }
    assert_eq!((kubernetes.server.alive(), github.server.alive(), oauth.server.alive()), (0, 0, 0));
}

#[test]
fn a_refresh_cut_at_any_wait_is_never_used_twice_without_saying_so() {
    // A server that forgives a second use: nothing is ever lost.
    let world = crate::oauth2::World::start(Cluster { grace: Duration::from_secs(600), ..Cluster::default() });
    let keep = Keep::with(NAME, &world.server.log_in());
    let mut finished = false;
    for waits in 0..60 {
        let plan = plan(&["orders_ro"]);
        let broker = world.refresher(&keep);
        finished |= cut(waits, async { broker.mint(&plan, None).await.map(drop).unwrap() }).is_some();
        let fresh = world.refresher(&keep);
        cut(WAITS_MAX, async { fresh.mint(&plan, None).await.map(drop) }).unwrap().unwrap();
        assert_eq!(keep.phase(NAME), Phase::Open);
        if finished {
            break;
        }
    }
    assert!(finished, "the mint never came to its end");
    // One that takes it for a theft: either it goes on, or a person is called, and it is not asked again.
    let world = crate::oauth2::World::start(Cluster::default());
    let (mut lost, mut kept) = (0, 0);
    for waits in 0..40 {
        let keep = Keep::with(NAME, &world.server.log_in());
        let plan = plan(&["orders_ro"]);
        let broker = world.refresher(&keep);
        let done = cut(waits, async { broker.mint(&plan, None).await.map(drop).unwrap() }).is_some();
        let fresh = world.refresher(&keep);
        match cut(WAITS_MAX, async { fresh.mint(&plan, None).await.map(drop) }).unwrap() {
            Ok(()) => kept += 1,
            Err(error) => {
                assert_eq!((error.code(), keep.phase(NAME)), (TargetCode::Refused, Phase::Lost), "{error}");
                assert!(!done, "an answer that was told was lost");
                let asked = world.cloud.count("POST /token");
                drop(cut(WAITS_MAX, async { fresh.mint(&plan, None).await.map(drop) }).unwrap().unwrap_err());
                assert_eq!(world.cloud.count("POST /token"), asked);
                lost += 1;
            }
        }
        if done {
            break;
        }
    }
    assert!(lost + kept > 3 && kept > 0, "{lost} lost, {kept} kept");
}

#[tokio::test]
async fn an_answer_has_an_end_and_a_redirect_is_not_followed() {
    let elsewhere = crate::oauth2::World::start(Cluster { client_secret: Some("canary-client".to_owned()), ..Cluster::default() });
    let world = crate::oauth2::World::start(Cluster { client_secret: Some("canary-client".to_owned()), ..Cluster::default() });
    let login = Login::Basic(Secret::from("canary-client".to_owned()));
    let broker = Oauth2::new(world.settings(), login, Grant::ClientCredentials, clock()).unwrap();
    world.cloud.fault("POST /token", Fault::Redirect(elsewhere.cloud.url("/token")));
    let error = broker.mint(&plan(&["orders_ro"]), None).await.unwrap_err();
    assert!(error.code() == TargetCode::Protocol && error.detail().contains("never followed"), "{error}");
    assert_eq!(elsewhere.cloud.seen().len(), 0, "the client's secret went nowhere else");
    world.cloud.fault("POST /token", Fault::Huge);
    let error = broker.mint(&plan(&["orders_ro"]), None).await.unwrap_err();
    assert!(error.detail().contains("longer than 262144 bytes"), "{error}");
    let token = leased(&plan(&["orders_ro"]), broker.mint(&plan(&["orders_ro"]), None).await.unwrap());
    world.cloud.fault("POST /revoke", Fault::Redirect(elsewhere.cloud.url("/revoke")));
    assert_eq!(broker.end(&token.account).await.unwrap_err().code(), TargetCode::Protocol);
    assert_eq!(elsewhere.cloud.seen().len(), 0, "nor did the token");
}

/// An authority, and a server's configuration by it for 127.0.0.1.
fn certificates() -> (Trust, Arc<ServerConfig>) {
    let folder = Scratch::new("bailiwick-cloud").unwrap();
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem \
                  -addext basicConstraints=critical,CA:TRUE && \
                  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout server.key -out server.csr && \
                  printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext && \
                  openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem";
    run(Command::new("sh").args(["-ec", script]).current_dir(folder.path())).unwrap();
    let read = |file: &str| std::fs::read(folder.path().join(file)).unwrap();
    let trust = Trust::new(&read("ca.pem")).unwrap();
    let chain = CertificateDer::pem_slice_iter(&read("server.pem")).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(&read("server.key")).unwrap();
    (trust, Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap()))
}

#[tokio::test]
async fn a_credential_goes_only_to_the_server_that_proves_who_it_is() {
    let (trust, config) = certificates();
    let server = Arc::new(Oauth::new(Cluster { client_secret: Some("canary-client".to_owned()), ..Cluster::default() }));
    let cloud = Cloud::start_tls(Arc::<Oauth>::clone(&server), config).unwrap();
    let broker = |trust: &Trust| {
        let place = |name: &str, path: &str| Endpoint::new(name, &cloud.url(path), Some(trust.client())).unwrap();
        let settings = oauth2::Settings {
            token: place("token", "/token"),
            revocation: Some(place("revocation", "/revoke")),
            probe: Some(place("orders", "/orders")),
            client_id: "broker".to_owned(),
            rights: [("orders_ro".to_owned(), vec!["orders.read".to_owned()])].into(),
            resources: Vec::new(),
            lifetime_max: None,
            revocation_lag_max: Duration::from_secs(3),
        };
        Oauth2::new(settings, Login::Basic(Secret::from("canary-client".to_owned())), Grant::ClientCredentials, clock()).unwrap()
    };
    let plan = plan(&["orders_ro"]);
    let token = leased(&plan, broker(&trust).mint(&plan, None).await.unwrap());
    assert_ended(&broker(&trust).end(&token.account).await.unwrap(), "revoked-verified", "status 401", &token.value);
    let seen = cloud.seen().len();
    let strangers = broker(&certificates().0);
    assert_eq!(strangers.mint(&plan, None).await.unwrap_err().code(), TargetCode::Unreachable);
    assert_eq!(strangers.end(&token.account).await.unwrap_err().code(), TargetCode::Unreachable);
    assert_eq!(cloud.seen().len(), seen, "nothing was sent");
}

/// A world without a rotation: the name is not set.
#[tokio::test]
async fn a_refresh_token_that_nobody_set_calls_a_person() {
    let world = crate::oauth2::World::start(Cluster::default());
    let keep = Arc::new(Keep::default());
    let error = world.refresher(&keep).mint(&plan(&["orders_ro"]), None).await.unwrap_err();
    assert!(error.code() == TargetCode::Refused && error.detail().contains("`shop/refresh` is not set"), "{error}");
    assert!(keep.kept(NAME).await.is_err());
    drop(endpoint(&world.cloud, "one", "/"));
}
