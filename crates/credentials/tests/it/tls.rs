//! Under TLS: the server proves by a certificate that it is it, or the credential is not sent.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bailiwick_credentials::lease::{AccountName, Kind, Node, TargetCode, Trust};
use bailiwick_credentials::sessions::{mariadb, postgresql};
use bailiwick_testkit::Scratch;
use bailiwick_testkit::servers::unprivileged::{hand_over, run};

use crate::words::{assert_verified, fresh_name, plan, remembered, secret, tag};

/// An authority, and a server's key and certificate by it for 127.0.0.1.
struct Certificates {
    folder: Scratch,
}

impl Certificates {
    fn new() -> Self {
        let folder = Scratch::new("bailiwick-tls").unwrap();
        let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem \
                      -addext basicConstraints=critical,CA:TRUE && \
                      openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout server.key -out server.csr && \
                      printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext && \
                      openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem && chmod 600 server.key";
        run(Command::new("sh").args(["-ec", script]).current_dir(folder.path())).unwrap();
        for file in ["server.key", "server.pem", "ca.pem"] {
            hand_over(&folder.path().join(file)).unwrap();
        }
        hand_over(folder.path()).unwrap();
        Self { folder }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn trust(&self) -> Trust {
        Trust::new(&std::fs::read(self.path("ca.pem")).unwrap()).unwrap()
    }
}

/// A whole life under TLS; and nothing at all with a server that somebody else vouches for.
async fn lives_only_where_the_server_is_known(right: &str, make: impl Fn(Trust) -> Box<dyn Kind>, ours: &Certificates, refused: &str) {
    let kind = make(ours.trust());
    assert_eq!(kind.preflight(&fresh_name()).await.unwrap(), []);
    let plan = plan(&[right]);
    let account = remembered(&plan, kind.mint(&plan, Some(&secret())).await.unwrap());
    assert_verified(&kind.end(&account).await.unwrap(), &["primary"], refused);
    let strangers = make(Certificates::new().trust());
    let error = strangers.end(&account).await.unwrap_err();
    assert_eq!(error.code(), TargetCode::Unreachable, "{error}");
}

fn node(port: u16, trust: Trust) -> Node {
    Node::new("primary", "127.0.0.1", port, Some(trust)).unwrap()
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_role_of_postgresql_lives_under_tls() {
    let ours = Certificates::new();
    let (key, certificate) = (ours.path("server.key").display().to_string(), ours.path("server.pem").display().to_string());
    let world = crate::postgresql_world::World::with(&["ssl=on", &format!("ssl_key_file={key}"), &format!("ssl_cert_file={certificate}")]);
    // Nobody comes in without TLS.
    std::fs::write(world.primary.data().join("pg_hba.conf"), "hostssl all all all scram-sha-256\nlocal all all scram-sha-256\n").unwrap();
    world.sql("SELECT pg_reload_conf()");
    let plain: AccountName = fresh_name();
    while crate::postgresql_world::log_in(&world.primary, &plain, "shop").await.unwrap_err() == "28P01" {}
    let make = |trust| -> Box<dyn Kind> { Box::new(crate::postgresql_world::broker(vec![node(world.primary.port(), trust)])) };
    lives_only_where_the_server_is_known("grp_orders_ro", make, &ours, "28P01").await;

    let plan = plan(&["grp_orders_ro"]);
    let account = remembered(&plan, make(ours.trust()).mint(&plan, Some(&secret())).await.unwrap());
    let place = |trust| postgresql::Place { nodes: vec![node(world.primary.port(), trust)], database: "shop".into(), writes: true };
    let limits = postgresql::Limits { rows: 5, bytes: 1000, time: Duration::from_secs(20) };
    let session = postgresql::Session::open(&place(ours.trust()), &account, &tag()).await.unwrap();
    let rows = session.read("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[], &limits).await.unwrap();
    assert_eq!(rows.rows, [[true]]);
    // What stops a statement goes under TLS too.
    assert!(tokio::time::timeout(Duration::from_millis(300), session.read("SELECT pg_sleep(100)", &[], &limits)).await.is_err());
    while world.sql("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'ag\\_%'") != "0" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = postgresql::Session::open(&place(Certificates::new().trust()), &account, &tag()).await.unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn an_account_of_mariadb_lives_under_tls() {
    let ours = Certificates::new();
    let files = ["key", "cert"].into_iter().zip(["server.key", "server.pem"]);
    let mut options: Vec<_> = files.map(|(option, file)| format!("ssl-{option}={}", ours.path(file).display())).collect();
    options.push(format!("ssl-ca={}", ours.path("ca.pem").display()));
    let world = crate::mariadb_world::World::with(&options.iter().map(String::as_str).collect::<Vec<_>>());
    world.sql("SET GLOBAL require_secure_transport = 1");
    assert!(crate::mariadb_world::log_in_with(&world.server, "broker", "broker-password").await.is_err(), "nobody comes in without TLS");
    let make = |trust| -> Box<dyn Kind> { Box::new(crate::mariadb_world::broker(vec![node(world.server.port(), trust)])) };
    lives_only_where_the_server_is_known("orders_ro", make, &ours, "1045: Access denied for user").await;

    let plan = plan(&["orders_ro"]);
    let account = remembered(&plan, make(ours.trust()).mint(&plan, Some(&secret())).await.unwrap());
    let place =
        |trust| mariadb::Place { nodes: vec![node(world.server.port(), trust)], database: "shop".into(), writes: true, packet_bytes: 1 << 20 };
    let limits = mariadb::Limits { rows: 5, bytes: 1000, time: Duration::from_secs(20) };
    let session = mariadb::Session::open(&place(ours.trust()), &account, &tag()).await.unwrap();
    let rows = session.read("SHOW SESSION STATUS LIKE 'Ssl_version'", &[], &limits).await.unwrap();
    assert!(rows.rows[0][1].as_str().unwrap().starts_with("TLSv1"), "{rows:?}");
    let refused = mariadb::Session::open(&place(Certificates::new().trust()), &account, &tag()).await.unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
}
