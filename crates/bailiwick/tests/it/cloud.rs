//! A system with a server of its own that is given a token which a cloud made for the task: from a refresh token that is good for one use, by a real flow against a stand-in.

use std::sync::Arc;

use bailiwick_testkit::clouds::Cloud;
use bailiwick_testkit::clouds::kubernetes::{Kubernetes, Settings as Cluster};
use bailiwick_testkit::clouds::oauth::{Oauth, Settings as Server};
use http::Method;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::support::{Broker, Client, PATIENCE, Place, TaskToken, files_of};

const REFRESH: &str = "twin/refresh";

struct World {
    place: Place,
    server: Arc<Oauth>,
    cloud: Cloud,
}

impl World {
    async fn new() -> Self {
        let server = Arc::new(Oauth::new(Server::default()));
        let cloud = Cloud::start(Arc::clone(&server) as Arc<_>).unwrap();
        let section = format!(
            "\n[systems.twin.credential.oauth2]\ntoken_url = \"{}\"\nrevocation_url = \"{}\"\nprobe_url = \"{}\"\nclient_id = \"broker\"\n\
             refresh_token = \"{REFRESH}\"\nscopes = [\"orders.read\"]\n",
            cloud.url("/token"),
            cloud.url("/revoke"),
            cloud.url("/orders")
        );
        let place = Place::with(|text| text + &section).await;
        let world = Self { place, server, cloud };
        world.log_in().await;
        world
    }

    /// A person obtains a refresh token and sets it.
    async fn log_in(&self) {
        bailiwick::secrets::set(&self.place.data, REFRESH, Zeroizing::new(self.server.log_in().into_bytes())).await.unwrap();
    }

    /// The token that the system was given with its last call.
    fn token(&self) -> String {
        let seen = self.place.twin.seen();
        let header = seen.last().unwrap().headers["authorization"].to_str().unwrap().to_owned();
        header.strip_prefix("Bearer ").unwrap().to_owned()
    }

    /// No token, and none that replaced one, stands in what the broker keeps.
    fn no_canary(&self, given: &[String]) {
        let sent = self.cloud.seen().into_iter().filter_map(|asked| asked.form().get("refresh_token").map(|values| values.concat()));
        let tokens: Vec<String> = sent.chain(given.iter().cloned()).collect();
        assert!(tokens.len() > given.len());
        for file in files_of(&self.place.data) {
            let bytes = std::fs::read(&file).unwrap();
            for token in &tokens {
                assert!(!bytes.windows(token.len()).any(|w| w == token.as_bytes()), "a token stands in {}", file.display());
            }
        }
    }
}

async fn closed(client: &Client<'_>, task: &TaskToken) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let shown = client.by("ops", Method::GET, &format!("/v1/tasks/{}", task.id), None).await.json();
        if shown["state"] == "closed" {
            return shown;
        }
        assert!(tokio::time::Instant::now() < deadline, "{shown}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

fn ending(shown: &Value) -> &str {
    shown["leases"][0]["ending"]["ending"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_task_has_a_token_of_its_own_that_is_refused_after_its_end_and_the_refresh_token_lives_through_restarts() {
    let world = World::new().await;
    let mut given = Vec::new();
    for _ in 0..2 {
        let broker: Broker = world.place.open().await;
        let client = world.place.client();
        let task = client.task("scout").await;
        let answer = client.call(&task, "twin.look", "{}").await;
        assert_eq!(answer.word(), "done", "{answer:?}");
        let token = world.token();
        assert_eq!(client.call(&task, "twin.look", "{}").await.word(), "done");
        assert_eq!(world.token(), token, "one token for one task");
        assert!(token.starts_with("at_") && !given.contains(&token) && !format!("{answer:?}").contains(&token));
        assert_eq!(world.server.alive(), 1, "those of the check before are dead");
        let shown = client.complete(&task).await;
        assert_eq!((shown["state"].as_str(), ending(&shown)), (Some("closed"), "revoked-verified"), "{shown}");
        assert_eq!(world.server.alive(), 0);
        assert!(!shown.to_string().contains(&token));
        given.push(token);
        broker.check_sound(&world.place).await;
        broker.stop().await;
        world.place.verify();
    }
    world.no_canary(&given);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_server_is_down_the_task_stays_closing_and_is_closed_after_its_return() {
    let world = World::new().await;
    let broker = world.place.open().await;
    let client = world.place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "twin.look", "{}").await.word(), "done");
    let token = world.token();
    world.cloud.down(true);
    let shown = client.complete(&task).await;
    assert_eq!(shown["state"], "closing", "{shown}");
    let failure = shown["leases"][0]["failure"].as_str().unwrap();
    assert!(failure.contains("revocation") && !failure.contains(&token), "{shown}");
    world.cloud.down(false);
    assert_eq!(ending(&closed(&client, &task).await), "revoked-verified");
    assert_eq!(world.server.alive(), 0);
    broker.stop().await;
    world.place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_that_was_lost_calls_a_person_who_sets_a_new_one() {
    let world = World::new().await;
    let broker = world.place.open().await;
    let client = world.place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "twin.look", "{}").await.word(), "done");
    client.complete(&task).await;
    // Somebody else has used what we hold, so that the server ends the family.
    let ours =
        world.cloud.seen().into_iter().filter_map(|asked| asked.form().get("refresh_token").map(|values| values.concat())).next_back().unwrap();
    let body = format!("grant_type=refresh_token&client_id=broker&scope=orders.read&refresh_token={ours}");
    let stolen = bailiwick_testkit::clouds::Asked {
        method: "POST".to_owned(),
        path: "/token".to_owned(),
        query: String::new(),
        headers: [("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned())].into(),
        body: body.into_bytes(),
    };
    assert_eq!(bailiwick_testkit::clouds::Service::answer(world.server.as_ref(), &stolen).status, 400);
    let task = client.task("scout").await;
    let before = world.place.twin.seen().len();
    let refused = client.call(&task, "twin.look", "{}").await;
    assert_ne!(refused.word(), "done", "{refused:?}");
    assert_eq!(world.place.twin.seen().len(), before, "without a credential nothing is sent");
    let asked = world.cloud.count("POST /token");
    assert_ne!(client.call(&task, "twin.look", "{}").await.word(), "done");
    assert_eq!(world.cloud.count("POST /token"), asked, "what is lost is not tried again");
    broker.stop().await;
    world.log_in().await;
    let broker = world.place.open().await;
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "twin.look", "{}").await.word(), "done");
    assert_eq!(ending(&client.complete(&task).await), "revoked-verified");
    broker.stop().await;
    world.place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_kubernetes_is_dead_with_its_object_and_an_object_that_no_lease_explains_is_removed() {
    let rights = ["create secrets", "get secrets", "list secrets", "delete secrets", "create tokenreviews", "create serviceaccounts/token reader"];
    let server = Arc::new(Kubernetes::new(Cluster {
        namespace: "agents".to_owned(),
        accounts: ["reader".to_owned()].into(),
        broker: "canary-broker-token.3b1f".to_owned(),
        rights: rights.map(str::to_owned).into(),
        remembers: std::time::Duration::from_millis(500),
        replicas: 2,
        audiences: [].into(),
        finalizers: false,
        page: 500,
    }));
    let cloud = Cloud::start(Arc::clone(&server) as Arc<_>).unwrap();
    let section = format!(
        "\n[systems.twin.credential.kubernetes]\napi_url = \"{}\"\nnamespace = \"agents\"\nservice_account = \"reader\"\ntoken = \"twin/cluster\"\nremembered_seconds = 1\n",
        cloud.url("/")
    );
    let place = Place::with(|text| text + &section).await;
    bailiwick::secrets::set(&place.data, "twin/cluster", Zeroizing::new(b"canary-broker-token.3b1f".to_vec())).await.unwrap();
    // A lease of a store that is no more.
    server.put("ag-01kapv5x6sf9j8e3t1d2c4b5a6", &serde_json::json!({ "app.kubernetes.io/managed-by": "bailiwick" }));
    server.put("a-persons", &serde_json::json!({}));
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    let answer = client.call(&task, "twin.look", "{}").await;
    assert_eq!(answer.word(), "done", "{answer:?}");
    assert_eq!(server.alive(), 1);
    let name = server.secrets().into_iter().find(|name| server.secret(name)["metadata"]["annotations"].to_string().contains(&task.id));
    assert!(name.is_some(), "the object says whose it is: {:?}", server.secrets());
    let shown = client.complete(&task).await;
    let shown = if shown["state"] == "closed" { shown } else { closed(&client, &task).await };
    assert_eq!(ending(&shown), "revoked-verified", "{shown}");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while server.secrets() != ["a-persons"] {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", server.secrets());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(server.alive(), 0);
    broker.stop().await;
    place.verify();
}

/// What AWS does with a provider that it was told: looks for its metadata, then for its keys.
async fn keys_of(place: &Place) -> (Value, bailiwick_testkit::clouds::jwt::Pair) {
    use base64::Engine as _;
    let client = place.client();
    let metadata = client.send(Method::GET, "/federation/.well-known/openid-configuration", &[], "").await.json();
    let keys = client.send(Method::GET, "/federation/jwks.json", &[], "").await.json();
    let part = |name: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(keys["keys"][0][name].as_str().unwrap()).unwrap();
    let public = [vec![4], part("x"), part("y")].concat();
    assert!(!keys.to_string().contains("\"d\""), "{keys}");
    (metadata, bailiwick_testkit::clouds::jwt::Pair { pem: String::new(), public, algorithm: "ES256" })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aws_gives_keys_for_a_token_of_our_own_issuer_whose_key_no_person_has() {
    use bailiwick_testkit::clouds::sts::{Settings as Account, Sts};
    let place =
        Place::with(|text| text.replacen("[listen]", "[binding]\nrequired = \"none\"\n[listen]\npublic_url = \"https://broker.example.org\"", 1))
            .await;
    let broker = place.open().await;
    let (metadata, key) = keys_of(&place).await;
    assert_eq!(metadata["issuer"], "https://broker.example.org/federation");
    assert_eq!(metadata["jwks_uri"], "https://broker.example.org/federation/jwks.json");
    assert_eq!(metadata["id_token_signing_alg_values_supported"], serde_json::json!(["ES256"]));
    broker.stop().await;
    let role = "arn:aws:iam::123456789012:role/agents";
    let sts = Arc::new(Sts::new(Account {
        issuer: metadata["issuer"].as_str().unwrap().to_owned(),
        key,
        audience: "sts.amazonaws.com".to_owned(),
        role: role.to_owned(),
        subject: "bailiwick:shop".to_owned(),
        session_max: 43_200,
        region: "eu-central-1".to_owned(),
    }));
    let cloud = Cloud::start(Arc::clone(&sts) as Arc<_>).unwrap();
    let section = format!(
        "\n[systems.twin.credential]\nheader = \"x-aws-keys\"\n[systems.twin.credential.aws_sts]\nregion = \"eu-central-1\"\nendpoint_url = \"{}\"\n\
         role = \"{role}\"\nsubject = \"bailiwick:shop\"\nstatements = [{{ Effect = \"Allow\", Action = \"s3:GetObject\", Resource = \"arn:aws:s3:::shop/*\" }}]\n",
        cloud.url("/")
    );
    let text = std::fs::read_to_string(&place.config).unwrap() + &section;
    std::fs::write(&place.config, text).unwrap();
    let broker = place.open().await;
    let client = place.client().known_as("https://broker.example.org");
    let task = client.task("scout").await;
    let answer = client.call(&task, "twin.look", "{}").await;
    assert_eq!(answer.word(), "done", "{answer:?}");
    assert!(sts.sessions().iter().any(|(name, policy)| *name == task.id && policy.contains("s3:GetObject")), "{:?}", sts.sessions());
    let keys: Value = serde_json::from_str(place.twin.seen().last().unwrap().headers["x-aws-keys"].to_str().unwrap()).unwrap();
    assert!(keys["access_key_id"].as_str().unwrap().starts_with("ASIA"));
    let shown = client.complete(&task).await;
    assert_eq!(ending(&shown), "expires-at", "AWS revokes nothing: {shown}");
    let (again, _) = keys_of(&place).await;
    assert_eq!(again, metadata, "the key outlives a restart");
    broker.stop().await;
    place.verify();
    for file in files_of(&place.data) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(17).any(|window| window == b"BEGIN PRIVATE KEY"), "a key stands in {}", file.display());
    }
}
