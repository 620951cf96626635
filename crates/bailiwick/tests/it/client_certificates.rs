//! A system behind TLS that lets nobody in without a client certificate and reads its authority's list at each handshake: each task has a certificate of its
//! own there, which is refused after the task's end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bailiwick_testkit::Scratch;
use http::Method;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{PATIENCE, Place, files_of, until};

/// An authority, its list, and a server's certificate.
fn certificates() -> Scratch {
    let folder = Scratch::new("bailiwick-house-mtls").unwrap();
    let new = "openssl req -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256";
    let script = format!(
        "{new} -x509 -days 2 -subj /O=Example/CN=ca -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE && \
         {new} -subj /CN=server -keyout server.key -out server.csr && \
         printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext && \
         openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem && : > list.pem"
    );
    assert!(Command::new("sh").args(["-ec", &script]).current_dir(folder.path()).output().unwrap().status.success());
    folder
}

/// What stands before the system: TLS with client certificates.
struct Door {
    port: u16,
    /// The certificates that were let in, in DER, once for each connection.
    seen: Mutex<Vec<Vec<u8>>>,
    /// Connections that are open.
    open: AtomicUsize,
    refused: AtomicUsize,
    /// Nobody is let in, as if it were down.
    down: AtomicBool,
}

/// Counts a connection for as long as it lives.
struct Counted(Arc<Door>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Door {
    async fn start(folder: &Path, to: std::net::SocketAddr) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let door =
            Arc::new(Self { port, seen: Mutex::default(), open: AtomicUsize::new(0), refused: AtomicUsize::new(0), down: AtomicBool::new(false) });
        let (ours, folder) = (Arc::clone(&door), folder.to_path_buf());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if ours.down.load(Ordering::SeqCst) {
                    continue;
                }
                let (door, acceptor) = (Arc::clone(&ours), acceptor(&folder));
                tokio::spawn(async move {
                    let Ok(mut secured) = acceptor.accept(stream).await else {
                        door.refused.fetch_add(1, Ordering::SeqCst);
                        return;
                    };
                    let shown = secured.get_ref().1.peer_certificates().and_then(|chain| chain.first()).unwrap().to_vec();
                    door.seen.lock().unwrap().push(shown);
                    door.open.fetch_add(1, Ordering::SeqCst);
                    let _counted = Counted(Arc::clone(&door));
                    let mut system = TcpStream::connect(to).await.unwrap();
                    drop(copy_bidirectional(&mut secured, &mut system).await);
                    drop(secured.shutdown().await);
                });
            }
        });
        door
    }

    /// The words of the certificate that was let in last, for a task.
    fn of_task(&self, task: &str) -> Option<String> {
        self.seen.lock().unwrap().iter().rev().map(|der| text(der)).find(|text| text.contains(task))
    }
}

fn acceptor(folder: &Path) -> tokio_rustls::TlsAcceptor {
    let read = |file: &str| std::fs::read(folder.join(file)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("ca.pem")).unwrap()).unwrap();
    let lists = CertificateRevocationListDer::pem_slice_iter(&read("list.pem")).collect::<Result<Vec<_>, _>>().unwrap();
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let clients = clients.with_crls(lists).allow_unknown_revocation_status().build().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_client_cert_verifier(clients);
    let chain = vec![CertificateDer::from_pem_slice(&read("server.pem")).unwrap()];
    tokio_rustls::TlsAcceptor::from(Arc::new(config.with_single_cert(chain, PrivateKeyDer::from_pem_slice(&read("server.key")).unwrap()).unwrap()))
}

/// A certificate as openssl tells it.
fn text(der: &[u8]) -> String {
    let folder = Scratch::new("bailiwick-certificate").unwrap();
    let file = folder.path().join("one.der");
    std::fs::write(&file, der).unwrap();
    let out = Command::new("openssl").args(["x509", "-inform", "der", "-noout", "-text", "-nameopt", "oneline", "-in"]).arg(&file).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

struct World {
    certificates: Scratch,
    door: Arc<Door>,
    place: Place,
}

impl World {
    async fn new() -> Self {
        let certificates = certificates();
        let folder = certificates.path().to_path_buf();
        let section = folder.clone();
        let place = Place::with(move |text| {
            let before = text.rsplit_once("[systems.twin]\nurl = \"http://").unwrap().1.split('/').next().unwrap().to_owned();
            text.replace(&format!("[systems.twin]\nurl = \"http://{before}/"), "[systems.twin]\nurl = \"https://127.0.0.1:DOOR/")
                + &format!(
                    "\n[systems.twin.credential.mtls]\nauthority = \"twin/ca\"\ncommon_name = \"agents\"\nca = \"{0}/ca.pem\"\nrevocation_list = \"{0}/list.pem\"\n",
                    section.display()
                )
        })
        .await;
        let door = Door::start(&folder, place.twin.address).await;
        let text = std::fs::read_to_string(&place.config).unwrap().replace("DOOR", &door.port.to_string());
        std::fs::write(&place.config, text).unwrap();
        let both = [std::fs::read(folder.join("ca.pem")).unwrap(), std::fs::read(folder.join("ca.key")).unwrap()].concat();
        bailiwick::secrets::set(&place.data, "twin/ca", zeroize::Zeroizing::new(both)).await.unwrap();
        Self { certificates, door, place }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.certificates.path().join(file)
    }

    /// The authority's list, as openssl verifies and tells it.
    fn list(&self) -> String {
        let mut openssl = Command::new("openssl");
        openssl.args(["crl", "-noout", "-text", "-in"]).arg(self.path("list.pem")).arg("-CAfile").arg(self.path("ca.pem"));
        let out = openssl.output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    }
}

/// The certificate's number, as openssl writes one in a list.
fn number(certificate: &str) -> String {
    let after = certificate.split_once("Serial Number:").unwrap().1.trim_start();
    after.split_whitespace().next().unwrap().replace(':', "").to_uppercase()
}

fn ending(shown: &Value) -> &str {
    shown["leases"][0]["ending"]["ending"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_task_has_a_certificate_of_its_own_that_the_server_refuses_after_its_end() {
    let world = World::new().await;
    let broker = world.place.open().await;
    let client = world.place.client();
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let task = client.task("scout").await;
        assert!(world.door.of_task(&task.id).is_none(), "nothing is made before the first call");
        let answer = client.call(&task, "twin.look", "{}").await;
        assert_eq!(answer.word(), "done", "{answer:?}");
        assert_eq!(client.call(&task, "twin.look", "{}").await.word(), "done");
        let shown = world.door.of_task(&task.id).expect("the task's certificate was shown");
        assert!(shown.contains("CN = agents") && shown.contains("URI:spiffe://") && shown.contains("agent/scout"), "{shown}");
        // The chain stands in the requests too, and tells the two calls apart.
        let headers: Vec<_> =
            world.place.twin.seen().iter().rev().take(2).map(|seen| seen.headers["traceparent"].to_str().unwrap().to_owned()).collect();
        let digits = task.id.rsplit('_').next().unwrap();
        assert!(headers.iter().all(|header| header.contains(digits)) && headers[0] != headers[1], "{headers:?}");
        let words = world.place.twin.seen().last().unwrap().headers["x-bailiwick-task"].to_str().unwrap().to_owned();
        assert!(words.contains(&task.id) && words.contains("call_") && words.contains("agent/scout"), "{words}");
        let before = world.door.refused.load(Ordering::SeqCst);
        let done = client.complete(&task).await;
        assert_eq!((done["state"].as_str(), ending(&done)), (Some("closed"), "revoked-verified"), "{done}");
        assert!(done["leases"][0]["ending"]["evidence"].to_string().contains("CertificateRevoked"), "{done}");
        assert!(world.door.refused.load(Ordering::SeqCst) > before, "the server itself refused it");
        let list = world.list();
        assert!(list.contains("verify OK") && list.contains(&number(&shown)), "{} {list}", number(&shown));
        numbers.push(number(&shown));
        let late = client.call(&task, "twin.look", "{}").await;
        assert_eq!(late.status, 401, "{late:?}");
    }
    assert_ne!(numbers[0], numbers[1]);
    broker.check_sound(&world.place).await;
    broker.stop().await;
    until("no connection of the broker is open", || world.door.open.load(Ordering::SeqCst) == 0).await;
    world.place.verify();
    // Neither the authority's key nor one of a task's stands anywhere in what the broker keeps.
    let key = std::fs::read_to_string(world.path("ca.key")).unwrap();
    let line = key.lines().nth(1).unwrap().as_bytes().to_vec();
    for file in files_of(&world.place.data) {
        let bytes = std::fs::read(&file).unwrap();
        let holds = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
        assert!(!holds(&line) && !holds(b"BEGIN PRIVATE KEY"), "a key stands in {}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_of_an_ended_task_is_closed_and_serves_no_other() {
    let world = World::new().await;
    let broker = world.place.open().await;
    let client = world.place.client();
    let (one, other) = (client.task("scout").await, client.task("scout").await);
    for task in [&one, &other] {
        assert_eq!(client.call(task, "twin.look", "{}").await.word(), "done");
    }
    let tasks = |id: &str| world.door.seen.lock().unwrap().iter().filter(|der| text(der).contains(id)).count();
    assert_eq!((tasks(&one.id), tasks(&other.id)), (1, 1), "a connection of each, and of nobody else");
    let before = world.door.open.load(Ordering::SeqCst);
    client.complete(&one).await;
    until("its connection is closed", || world.door.open.load(Ordering::SeqCst) < before).await;
    assert_eq!(client.call(&other, "twin.look", "{}").await.word(), "done");
    broker.stop().await;
    world.place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_server_is_down_or_reads_no_list_the_task_stays_closing() {
    let world = World::new().await;
    let broker = world.place.open().await;
    let client = world.place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "twin.look", "{}").await.word(), "done");
    world.door.down.store(true, Ordering::SeqCst);
    let done = client.complete(&task).await;
    assert_eq!(done["state"], "closing", "{done}");
    // It is in the list already: only that it is refused is not shown yet.
    let shown = world.door.of_task(&task.id).unwrap();
    assert!(world.list().contains(&number(&shown)));
    world.door.down.store(false, Ordering::SeqCst);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let shown = client.by("ops", Method::GET, &format!("/v1/tasks/{}", task.id), None).await.json();
        if shown["state"] == "closed" {
            assert_eq!(ending(&shown), "revoked-verified", "{shown}");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{shown}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    broker.stop().await;
    world.place.verify();
}
