//! TLS with client certificates, on `PostgreSQL` and on a server of rustls: certificates that are in no server's memory, and end all the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_credentials::kinds::mtls::{Admin, Mtls, Protocol, Server, Settings};
use bailiwick_credentials::lease::{Account, Kind as _, Minted, Node, Plan, TargetCode, TargetIds, Trust, sweep};
use bailiwick_credentials::{RootKey, Secret};
use bailiwick_testkit::Scratch;
use bailiwick_testkit::servers::postgres::Postgres;
use bailiwick_testkit::servers::unprivileged::{hand_over, run};

use crate::ssh_world::{own_plan, own_prefix, wait_for};
use crate::words::{assert_verified, clock, fresh_name, plan};

const REVOKED: &str = "alert CertificateRevoked";

/// An authority for servers and clients, the list of what it revoked, and a server's key and certificate.
struct Certificates {
    folder: Scratch,
}

impl Certificates {
    fn new() -> Self {
        let folder = Scratch::new("bailiwick-mtls").unwrap();
        let new = "openssl req -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256";
        let script = format!(
            "{new} -x509 -days 2 -subj /O=Example/CN=ca -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE && \
             {new} -subj /CN=server -keyout server.key -out server.csr && \
             printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext && \
             openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem && chmod 600 server.key && : > list.pem"
        );
        run(Command::new("sh").args(["-ec", &script]).current_dir(folder.path())).unwrap();
        for file in ["server.key", "server.pem", "ca.pem"] {
            hand_over(&folder.path().join(file)).unwrap();
        }
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path(file)).unwrap()
    }

    fn authority(&self) -> Secret {
        Secret::from([self.read("ca.pem"), self.read("ca.key")].concat())
    }

    fn trust(&self) -> Trust {
        Trust::new(&self.read("ca.pem")).unwrap()
    }

    fn server(&self, name: &str, port: u16, protocol: Protocol) -> Server {
        Server { node: Node::new(name, "127.0.0.1", port, Some(self.trust())).unwrap(), protocol }
    }

    fn settings(&self, servers: Vec<Server>) -> Settings {
        let names = BTreeMap::from([("read".to_owned(), "orders_ro".to_owned())]);
        Settings { servers, names, lease_max: Duration::from_secs(3600), list: Some(self.path("list.pem")) }
    }
}

async fn mint(kind: &Mtls, plan: &Plan) -> Account {
    let key = kind.propose().unwrap().unwrap();
    let Minted { ids, secret, expires_at } = kind.mint(plan, Some(&key)).await.unwrap();
    Account { name: plan.name.clone(), ids, secret, expires_at }
}

struct World {
    certificates: Certificates,
    server: Postgres,
}

impl World {
    fn start() -> Self {
        let certificates = Certificates::new();
        let at = |file: &str| certificates.path(file).display().to_string();
        let options = [
            "ssl=on".to_owned(),
            format!("ssl_key_file={}", at("server.key")),
            format!("ssl_cert_file={}", at("server.pem")),
            format!("ssl_ca_file={}", at("ca.pem")),
        ];
        let server = Postgres::start(&options.each_ref().map(String::as_str)).unwrap();
        server
            .sql(
                "postgres",
                "CREATE ROLE orders_ro LOGIN; CREATE ROLE broker LOGIN PASSWORD 'broker-password'; GRANT pg_signal_backend, pg_read_all_stats TO broker; \
                 GRANT EXECUTE ON FUNCTION pg_reload_conf() TO broker",
            )
            .unwrap();
        // A list that is empty is none: the first end makes the server read it.
        let lines = "hostssl all orders_ro all cert\nhostssl all all all scram-sha-256\nlocal all all scram-sha-256\n";
        fs::write(server.data().join("pg_hba.conf"), lines).unwrap();
        let list = format!("ALTER SYSTEM SET ssl_crl_file = '{}'", at("list.pem"));
        server.sql("postgres", &list).unwrap();
        server.sql("postgres", "SELECT pg_reload_conf()").unwrap();
        Self { certificates, server }
    }

    fn settings(&self) -> Settings {
        self.certificates.settings(vec![self.certificates.server(
            "primary",
            self.server.port(),
            Protocol::Postgresql { database: "postgres".into() },
        )])
    }

    fn broker(&self) -> Mtls {
        self.broker_with(self.settings())
    }

    fn broker_with(&self, settings: Settings) -> Mtls {
        let admin = Admin { user: "broker".into(), password: Secret::from("broker-password".to_owned()) };
        Mtls::new(settings, &self.certificates.authority(), Some(admin), clock()).unwrap()
    }

    /// A lease's credential in the hands of somebody else, with the client that everybody has.
    fn thief(&self, account: &Account) -> Thief {
        let (key, _) = RootKey::generate().unwrap();
        let sealer = key.sealer().unwrap();
        let sealed = sealer.seal("mtls", account.secret.as_ref().unwrap()).unwrap();
        let folder = Scratch::new("bailiwick-mtls-thief").unwrap();
        let file = folder.path().join("both.pem");
        fs::write(&file, sealer.open_bytes("mtls", &sealed).unwrap().as_slice()).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let both = file.display();
        let ca = self.certificates.path("ca.pem");
        let place = format!(
            "host=127.0.0.1 port={} dbname=postgres user=orders_ro sslmode=verify-full sslrootcert={} sslcert={both} sslkey={both}",
            self.server.port(),
            ca.display()
        );
        Thief { _folder: folder, place }
    }

    fn sessions(&self) -> String {
        self.server.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'orders_ro'").unwrap()
    }
}

struct Thief {
    _folder: Scratch,
    place: String,
}

impl Thief {
    fn psql(&self, sql: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-A", "-t", "-q", "-d", &self.place, "-c", sql]).env_remove("PGPASSWORD");
        psql
    }

    fn run(&self, sql: &str) -> Result<String, String> {
        let out = self.psql(sql).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr)) }
    }
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_certificate_works_and_is_dead_afterwards_with_its_open_sessions() {
    let world = World::start();
    let broker = world.broker();
    assert_eq!(broker.preflight(&fresh_name()).await.unwrap(), []);
    let plan = own_plan('m', "read");
    let account = mint(&broker, &plan).await;
    let thief = world.thief(&account);
    assert_eq!(thief.run("SELECT current_user"), Ok("orders_ro".to_owned()));
    let mut open = thief.psql("SELECT pg_sleep(600)").stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_for("a session", || world.sessions() == "1");
    let found = broker.list(&own_prefix('m')).await.unwrap();
    assert_eq!(found.iter().map(|found| &found.name).collect::<Vec<_>>(), [&plan.name]);

    let ending = world.broker().end(&account).await.unwrap();
    assert_verified(&ending, &["primary"], REVOKED);
    assert!(!open.wait().unwrap().success(), "an open session goes on");
    assert!(ending.evidence().tried().iter().any(|tried| tried.saw == "1 sessions were ended, and none is left"), "{ending:#?}");
    assert_eq!(world.sessions(), "0");
    let refused = world.thief(&account).run("SELECT 1").unwrap_err();
    assert!(refused.contains("revoked"), "{refused}");
    assert_eq!(broker.list(&own_prefix('m')).await.unwrap(), []);
    assert_verified(&world.broker().end(&account).await.unwrap(), &["primary"], REVOKED);
    // The chain is in the certificate, and the certificate's number in the server's own words.
    let (key, _) = RootKey::generate().unwrap();
    let sealed = key.sealer().unwrap().seal("x", account.secret.as_ref().unwrap()).unwrap();
    let text = String::from_utf8(key.sealer().unwrap().open_bytes("x", &sealed).unwrap().to_vec()).unwrap();
    let private: Vec<_> = text.lines().take_while(|line| !line.contains("END PRIVATE KEY")).skip(1).collect();
    for shown in [format!("{ending:?} {broker:?} {account:?}"), world.server.log(), fs::read_to_string(world.certificates.path("list.pem")).unwrap()]
    {
        assert!(private.iter().all(|line| !shown.contains(line)));
    }
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn an_end_needs_the_server_and_its_list_and_is_taken_up_when_they_are_back() {
    let mut world = World::start();
    let broker = world.broker();
    let account = mint(&broker, &plan(&["read"])).await;
    world.server.stop().unwrap();
    for _ in 0..2 {
        let error = broker.end(&account).await.unwrap_err();
        assert!(error.code() == TargetCode::Unreachable && error.is_transient(), "{error}");
    }
    world.server.run().unwrap();
    assert_verified(&broker.end(&account).await.unwrap(), &["primary"], REVOKED);

    // The server reads another list than the one that we write.
    let account = mint(&broker, &plan(&["read"])).await;
    world.server.sql("postgres", "ALTER SYSTEM SET ssl_crl_file = ''").unwrap();
    world.server.sql("postgres", "SELECT pg_reload_conf()").unwrap();
    let error = broker.end(&account).await.unwrap_err();
    assert!(error.code() == TargetCode::Busy && error.detail().contains("still accepted"), "{error}");
    let found = broker.preflight(&fresh_name()).await.unwrap();
    assert!(found[0].remedy.contains("ssl_crl_file"), "{found:#?}");
    // Without a list, nothing more is claimed than that it expires.
    let mut settings = world.settings();
    settings.list = None;
    let ending = world.broker_with(settings).end(&account).await.unwrap();
    assert_eq!(ending.word(), "expires-at");
    assert!(world.thief(&account).run("SELECT 1").is_ok());
    world.server.sql("postgres", &format!("ALTER SYSTEM SET ssl_crl_file = '{}'", world.certificates.path("list.pem").display())).unwrap();
    assert_verified(&broker.end(&account).await.unwrap(), &["primary"], REVOKED);
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn preflight_names_each_right_that_is_missing_and_its_remedies_help() {
    let world = World::start();
    for (take, give) in [
        ("REVOKE pg_signal_backend FROM broker", "GRANT pg_signal_backend TO \"broker\";"),
        ("REVOKE pg_read_all_stats FROM broker", "GRANT pg_read_all_stats TO \"broker\";"),
        ("REVOKE EXECUTE ON FUNCTION pg_reload_conf() FROM broker", "GRANT EXECUTE ON FUNCTION pg_reload_conf() TO \"broker\";"),
    ] {
        world.server.sql("postgres", take).unwrap();
        let found = world.broker().preflight(&fresh_name()).await.unwrap();
        assert!(found.len() == 1 && found[0].remedy.ends_with(give), "{found:#?}");
        world.server.sql("postgres", give).unwrap();
    }
    let mut settings = world.settings();
    settings.names.insert("write".into(), "nobody_there".into());
    let found = world.broker_with(settings).preflight(&fresh_name()).await.unwrap();
    assert!(found.iter().any(|finding| finding.missing.contains("nobody_there")), "{found:#?}");
    let mut settings = world.settings();
    settings.list = Some("/nonexistent/list.pem".into());
    let found = world.broker_with(settings).preflight(&fresh_name()).await.unwrap();
    assert!(found[0].remedy.contains("make the file"), "{found:#?}");
    assert_eq!(world.broker().preflight(&fresh_name()).await.unwrap(), []);
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_lost_answer_and_an_orphan_are_ended_and_ends_at_once_lose_nothing() {
    let world = World::start();
    let broker = Arc::new(world.broker());
    let (live, orphan) = (mint(&broker, &own_plan('n', "read")).await, mint(&broker, &own_plan('n', "read")).await);
    let (one, two) = (world.thief(&live), world.thief(&orphan));
    let mut working = one.psql("SELECT pg_sleep(600)").spawn().unwrap();
    let mut stray = two.psql("SELECT pg_sleep(600)").stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_for("both sessions", || world.sessions() == "2");
    let orphans = sweep(broker.as_ref(), &own_prefix('n'), &|name| *name == live.name).await.unwrap();
    assert_eq!(orphans.iter().map(|orphan| &orphan.found.name).collect::<Vec<_>>(), [&orphan.name]);
    assert_eq!(orphans[0].ending.as_ref().unwrap().word(), "revoked-unverified");
    assert!(!stray.wait().unwrap().success());
    assert!(working.try_wait().unwrap().is_none() && two.run("SELECT 1").is_err() && one.run("SELECT 1").is_ok());
    drop(working.kill());
    working.wait().unwrap();

    let key = broker.propose().unwrap().unwrap();
    let lost = plan(&["read"]);
    let minted = broker.mint(&lost, Some(&key)).await.unwrap();
    let stolen = Account { name: lost.name.clone(), ids: minted.ids, secret: minted.secret, expires_at: None };
    let account = Account { name: lost.name.clone(), ids: TargetIds::default(), secret: Some(key), expires_at: None };
    assert_verified(&world.broker().end(&account).await.unwrap(), &["primary"], REVOKED);
    assert!(world.thief(&stolen).run("SELECT 1").unwrap_err().contains("revoked"));

    let mut at_once = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let broker = Arc::clone(&broker);
        at_once.spawn(async move {
            let account = mint(&broker, &plan(&["read"])).await;
            assert_verified(&broker.end(&account).await.unwrap(), &["primary"], REVOKED);
            account
        });
    }
    while let Some(account) = at_once.join_next().await {
        assert!(world.thief(&account.unwrap()).run("SELECT 1").unwrap_err().contains("revoked"));
    }
}

/// A server that nobody knows the protocol of: it asks for a client's certificate, looks into the list at each handshake, and says nothing.
async fn silent_server(certificates: &Certificates) -> u16 {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ca, leaf, key) = (certificates.read("ca.pem"), certificates.read("server.pem"), certificates.read("server.key"));
    let list = certificates.path("list.pem");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
            let lists = CertificateRevocationListDer::pem_slice_iter(&fs::read(&list).unwrap()).collect::<Result<Vec<_>, _>>().unwrap();
            let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            let clients = clients.with_crls(lists).allow_unknown_revocation_status().build().unwrap();
            let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
            let config = config.with_client_cert_verifier(clients);
            let config =
                config.with_single_cert(vec![CertificateDer::from_pem_slice(&leaf).unwrap()], PrivateKeyDer::from_pem_slice(&key).unwrap()).unwrap();
            tokio::spawn(async move {
                let accepted = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await;
                tokio::time::sleep(Duration::from_secs(30)).await;
                drop(accepted);
            });
        }
    });
    port
}

#[tokio::test]
async fn a_server_without_a_protocol_that_we_know_refuses_a_revoked_certificate_by_name() {
    let certificates = Certificates::new();
    let port = silent_server(&certificates).await;
    let settings = certificates.settings(vec![certificates.server("one", port, Protocol::Tls)]);
    let broker = Mtls::new(settings.clone(), &certificates.authority(), None, clock()).unwrap();
    assert_eq!(broker.preflight(&fresh_name()).await.unwrap(), []);
    let account = mint(&broker, &plan(&["read"])).await;
    assert_verified(&broker.end(&account).await.unwrap(), &["one"], REVOKED);

    let mut forgetful = settings;
    forgetful.list = None;
    let forgetful = Mtls::new(forgetful, &certificates.authority(), None, clock()).unwrap();
    let account = mint(&forgetful, &plan(&["read"])).await;
    assert_eq!(forgetful.end(&account).await.unwrap().word(), "expires-at");
    // Somebody else's server gets no certificate at all.
    let strangers = Certificates::new();
    let port = silent_server(&strangers).await;
    let settings = certificates.settings(vec![certificates.server("one", port, Protocol::Tls)]);
    let error = Mtls::new(settings, &certificates.authority(), None, clock()).unwrap().end(&account).await.unwrap_err();
    assert_eq!(error.code(), TargetCode::Unreachable, "{error}");
}
