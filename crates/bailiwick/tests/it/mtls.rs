//! The listener for clients with certificates (RFC 8705), and TLS on the main one: over real connections.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bailiwick_testkit::certificates::{Authority, Leaf, Wish, self_signed};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};

use crate::broker::{Answer, Broker};

const SCOUT: &str = "spiffe://bailiwick.local/agent/scout";

/// A client that has not said yet what it shows.
type Unshown = rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>;

/// A broker with both listeners on TLS, and the authorities of its clients.
pub(crate) struct World {
    pub(crate) broker: Broker,
    server: Authority,
    pub(crate) clients: Authority,
    pub(crate) partner: Authority,
    dir: tempfile::TempDir,
}

fn put(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

impl World {
    async fn start(more: &str) -> Self {
        Self::with(true, more).await
    }

    /// One whose main address is without TLS, for clients that only know that.
    pub(crate) async fn plain(more: &str) -> Self {
        Self::with(false, more).await
    }

    async fn with(main: bool, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (server, clients, partner) = (Authority::new("server").unwrap(), Authority::new("clients").unwrap(), Authority::new("partner").unwrap());
        let own = server.leaf(&Wish { addresses: &[[127, 0, 0, 1]], ..Wish::default() }).unwrap();
        let (certificate, key) = (put(dir.path(), "server.pem", &own.certificate_pem()), put(dir.path(), "server.key", &own.key_pem()));
        let (home, foreign) = (put(dir.path(), "clients.pem", &clients.root_pem()), put(dir.path(), "partner.pem", &partner.root_pem()));
        let broker = Broker::start(|text| {
            let text = text.replace("[agents.scout]", "[agents.scout]\ntls_client_auth_san_uri = [\"spiffe://partner.example/ns/a/sa/scout\"]");
            let tls = if main { format!("[listen.tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n") } else { String::new() };
            let mtls = format!(
                "[listen.mtls]\naddress = \"127.0.0.1:0\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\nself_signed = true\n\
                 [listen.mtls.roots]\n\"bailiwick.local\" = \"{home}\"\n\"partner.example\" = \"{foreign}\"\n"
            );
            text + &tls + &mtls + more
        })
        .await;
        Self { broker, server, clients, partner, dir }
    }

    pub(crate) fn mtls(&self) -> SocketAddr {
        self.broker.house.urls.mtls.as_ref().unwrap().strip_prefix("https://").unwrap().parse().unwrap()
    }

    /// A connection with this certificate, if it comes to be.
    async fn connect(&self, to: SocketAddr, leaf: Option<&Leaf>) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>, String> {
        let shown = |config: Unshown| match leaf {
            None => config.with_no_client_auth(),
            Some(leaf) => {
                let key = PrivatePkcs8KeyDer::from(leaf.key.clone()).into();
                config.with_client_auth_cert(vec![CertificateDer::from(leaf.certificate.clone())], key).unwrap()
            }
        };
        self.connect_with(to, shown).await
    }

    async fn connect_with(
        &self,
        to: SocketAddr,
        shown: impl FnOnce(Unshown) -> rustls::ClientConfig,
    ) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>, String> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(self.server.root().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let config = shown(config);
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let name = ServerName::from(to.ip());
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| e.to_string())?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// One request over a connection of its own.
    pub(crate) async fn ask(
        &self,
        to: SocketAddr,
        leaf: Option<&Leaf>,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, String> {
        let mut sender = self.connect(to, leaf).await?;
        ask_on(&mut sender, to, method, path, headers, body).await
    }

    pub(crate) async fn token(&self, leaf: &Leaf, client_id: Option<&str>) -> Result<Answer, String> {
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(client_id.map(|id| ("client_id", id)));
        self.form(leaf, "/oauth/token", &form).await
    }

    /// A form at the address for clients with certificates.
    pub(crate) async fn form(&self, leaf: &Leaf, path: &str, fields: &[(&str, &str)]) -> Result<Answer, String> {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.ask(self.mtls(), Some(leaf), Method::POST, path, &[("content-type", "application/x-www-form-urlencoded")], &body).await
    }

    /// A certificate of this workload of our own trust domain.
    pub(crate) fn svid(&self, id: &str) -> Leaf {
        self.clients.leaf(&Wish { uris: &[id], ..Wish::default() }).unwrap()
    }

    pub(crate) async fn tasks(&self, to: SocketAddr, leaf: Option<&Leaf>, token: &str) -> StatusCode {
        let authorization = format!("Bearer {token}");
        self.ask(to, leaf, Method::GET, "/v1/tasks", &[("authorization", &authorization)], "").await.unwrap().status
    }
}

async fn ask_on(
    sender: &mut hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    to: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, String> {
    let mut request = Request::builder().method(method).uri(path).header("host", to.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await.map_err(|e| e.to_string())?;
    let (head, body) = answer.into_parts();
    Ok(Answer { status: head.status, headers: head.headers, body: body.collect().await.map_err(|e| e.to_string())?.to_bytes() })
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_svid_gets_a_token_that_is_worth_something_with_this_certificate_only() {
    let world = World::start("").await;
    let svid = world.clients.leaf(&Wish { uris: &[SCOUT], ..Wish::default() }).unwrap();
    let other = world.clients.leaf(&Wish { uris: &[SCOUT], ..Wish::default() }).unwrap();
    let answer = world.token(&svid, Some(SCOUT)).await.unwrap();
    assert_eq!((answer.status, answer.json()["token_type"].as_str()), (StatusCode::OK, Some("Bearer")), "{answer:?}");
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    let thumbprint = URL_SAFE_NO_PAD.encode(bailiwick_core::Digest::of(&svid.certificate).as_bytes());
    assert_eq!(claims(&token)["cnf"], json!({ "x5t#S256": thumbprint }));
    assert_eq!(world.tasks(world.mtls(), Some(&svid), &token).await, StatusCode::OK);
    let known = world.form(&svid, "/oauth/introspect", &[("client_id", SCOUT), ("token", &token)]).await.unwrap().json();
    assert_eq!((&known["active"], &known["cnf"]), (&json!(true), &json!({ "x5t#S256": thumbprint })), "{known}");
    // Another certificate of the same agent, and no certificate at all.
    assert_eq!(world.tasks(world.mtls(), Some(&other), &token).await, StatusCode::UNAUTHORIZED);
    assert_eq!(world.tasks(world.broker.address, None, &token).await, StatusCode::UNAUTHORIZED);
    assert_eq!(world.tasks(world.broker.address, Some(&svid), &token).await, StatusCode::UNAUTHORIZED, "the main listener asks for none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_and_certificate_must_be_of_each_other() {
    let world = World::start("").await;
    let svid = world.clients.leaf(&Wish { uris: &[SCOUT], ..Wish::default() }).unwrap();
    for wrong in [None, Some("spiffe://bailiwick.local/agent/other"), Some("scout")] {
        let refused = world.token(&svid, wrong).await.unwrap();
        assert_eq!((refused.status, refused.json()["error"].as_str()), (StatusCode::UNAUTHORIZED, Some("invalid_client")), "{wrong:?}");
    }
    let overdue = world.clients.leaf(&Wish { uris: &["spiffe://bailiwick.local/agent/overdue"], ..Wish::default() }).unwrap();
    let refused = world.token(&overdue, Some("spiffe://bailiwick.local/agent/overdue")).await.unwrap();
    assert_eq!(refused.json()["error"], "unauthorized_client");
    let nobody = world.clients.leaf(&Wish { uris: &["spiffe://bailiwick.local/agent/nobody"], ..Wish::default() }).unwrap();
    assert_eq!(world.token(&nobody, Some("spiffe://bailiwick.local/agent/nobody")).await.unwrap().json()["error"], "invalid_client");
    // A workload of another domain, which is this agent by configuration, and one that is nobody here.
    let foreign = world.partner.leaf(&Wish { uris: &["spiffe://partner.example/ns/a/sa/scout"], ..Wish::default() }).unwrap();
    assert_eq!(world.token(&foreign, Some(SCOUT)).await.unwrap().status, StatusCode::OK);
    let foreign = world.partner.leaf(&Wish { uris: &["spiffe://partner.example/ns/a/sa/else"], ..Wish::default() }).unwrap();
    assert_eq!(world.token(&foreign, Some(SCOUT)).await.unwrap().json()["error"], "invalid_client");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_prove_nothing_do_not_come_in() {
    let world = World::start("").await;
    let strangers = Authority::new("strangers").unwrap();
    let good = Wish { uris: &[SCOUT], ..Wish::default() };
    let refused = [
        ("of another root", strangers.leaf(&good).unwrap()),
        ("of one domain, signed by the root of another", world.partner.leaf(&good).unwrap()),
        ("of a domain that nobody knows", world.clients.leaf(&Wish { uris: &["spiffe://unknown.example/a"], ..Wish::default() }).unwrap()),
        ("over", world.clients.leaf(&Wish { from: -7200, until: -3600, ..good.clone() }).unwrap()),
        ("not yet", world.clients.leaf(&Wish { from: 3600, until: 7200, ..good.clone() }).unwrap()),
        ("two URIs", world.clients.leaf(&Wish { uris: &[SCOUT, "spiffe://bailiwick.local/agent/other"], ..Wish::default() }).unwrap()),
        ("a signing certificate", world.clients.leaf(&Wish { authority: true, ..good.clone() }).unwrap()),
        ("without a URI", world.clients.leaf(&Wish { dns: &["scout.example"], ..Wish::default() }).unwrap()),
    ];
    for (what, leaf) in refused {
        assert!(world.token(&leaf, Some(SCOUT)).await.is_err(), "{what}");
    }
    assert!(world.ask(world.mtls(), None, Method::GET, "/healthz", &[], "").await.is_err(), "without a certificate");
    let good = world.clients.leaf(&good).unwrap();
    assert_eq!(world.token(&good, Some(SCOUT)).await.unwrap().status, StatusCode::OK);
}

/// Shows a certificate whatever key it signs with.
#[derive(Debug)]
struct Impostor(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Impostor {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_in_the_hands_of_somebody_without_its_key_does_not_come_in() {
    let world = World::start("").await;
    let (seen, own) = (world.svid(SCOUT), world.svid("spiffe://bailiwick.local/agent/other"));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    for (key, comes_in) in [(&seen.key, true), (&own.key, false)] {
        let key = provider.key_provider.load_private_key(PrivatePkcs8KeyDer::from(key.clone()).into()).unwrap();
        let shown = rustls::sign::CertifiedKey::new(vec![CertificateDer::from(seen.certificate.clone())], key);
        let form = "grant_type=client_credentials&client_id=spiffe%3A%2F%2Fbailiwick.local%2Fagent%2Fscout";
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let connected = world.connect_with(world.mtls(), |config| config.with_client_cert_resolver(Arc::new(Impostor(Arc::new(shown))))).await;
        let answer = match connected {
            Ok(mut sender) => ask_on(&mut sender, world.mtls(), Method::POST, "/oauth/token", &headers, form).await,
            Err(error) => Err(error),
        };
        assert_eq!(answer.is_ok_and(|answer| answer.status == StatusCode::OK), comes_in);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_may_sign_its_own_certificate_with_its_registered_key_where_that_is_allowed() {
    let world = World::start("").await;
    let (_, stranger) = bailiwick_identity::SigningKey::generate().unwrap();
    let foreign = self_signed(&stranger, &Wish::default()).unwrap();
    assert!(world.token(&foreign, Some(SCOUT)).await.is_err());
    let (key, pkcs8) = bailiwick_identity::SigningKey::generate().unwrap();
    std::fs::write(world.broker.data.join("agents").join("scout.jwk"), key.public().jwk().to_string()).unwrap();
    world.broker.house.keyring.reload().unwrap();
    let own = self_signed(&pkcs8, &Wish::default()).unwrap();
    let answer = world.token(&own, Some(SCOUT)).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(world.tasks(world.mtls(), Some(&own), &token).await, StatusCode::OK);
    assert_eq!(world.token(&own, Some("spiffe://bailiwick.local/agent/other")).await.unwrap().json()["error"], "invalid_client");
    let over = self_signed(&pkcs8, &Wish { from: -7200, until: -3600, ..Wish::default() }).unwrap();
    assert!(world.token(&over, Some(SCOUT)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metadata_names_the_second_door_and_a_demand_for_certificates_is_kept() {
    let world = World::start("[binding]\nrequired = \"mtls\"\n").await;
    let get = async |path: &str| world.ask(world.broker.address, None, Method::GET, path, &[], "").await.unwrap().json();
    let server = get("/.well-known/oauth-authorization-server").await;
    let base = world.broker.house.urls.mtls.clone().unwrap();
    assert_eq!(server["mtls_endpoint_aliases"]["token_endpoint"], json!(format!("{base}/oauth/token")));
    assert_eq!(server["tls_client_certificate_bound_access_tokens"], json!(true));
    let methods = server["token_endpoint_auth_methods_supported"].as_array().unwrap();
    assert!(methods.contains(&json!("tls_client_auth")) && methods.contains(&json!("self_signed_tls_client_auth")), "{server}");
    assert!(server["issuer"].as_str().unwrap().starts_with("https://"), "{server}");
    assert_eq!(get("/.well-known/oauth-protected-resource/mcp").await["tls_client_certificate_bound_access_tokens"], json!(true));
    let assertion = world.broker.assertion("scout", None);
    let form = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", bailiwick_identity::assertion::ASSERTION_TYPE),
        ("client_assertion", &assertion),
    ];
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let refused = world.ask(world.broker.address, None, Method::POST, "/oauth/token", &headers, &body).await.unwrap();
    assert_eq!(refused.json()["error"], "invalid_request", "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_roots_are_read_again_and_whoever_is_not_believed_any_more_is_sent_away() {
    let world = World::start("").await;
    let svid = world.clients.leaf(&Wish { uris: &[SCOUT], ..Wish::default() }).unwrap();
    let mut open = world.connect(world.mtls(), Some(&svid)).await.unwrap();
    assert!(ask_on(&mut open, world.mtls(), Method::GET, "/healthz", &[], "").await.unwrap().status.is_success());
    // What cannot be read changes nothing.
    put(world.dir.path(), "clients.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    world.broker.house.read_tls_again();
    assert_eq!(world.token(&svid, Some(SCOUT)).await.unwrap().status, StatusCode::OK);
    let next = Authority::new("next").unwrap();
    put(world.dir.path(), "clients.pem", &next.root_pem());
    world.broker.house.read_tls_again();
    assert!(world.token(&svid, Some(SCOUT)).await.is_err(), "the old root is not believed any more");
    let gone = async {
        while ask_on(&mut open, world.mtls(), Method::GET, "/healthz", &[], "").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.unwrap();
    let svid = next.leaf(&Wish { uris: &[SCOUT], ..Wish::default() }).unwrap();
    assert_eq!(world.token(&svid, Some(SCOUT)).await.unwrap().status, StatusCode::OK);
}
