//! Publication with witnesses of every manner, on real files and a real store.

use std::time::Duration;

use bailiwick_ledger::export::{audit_by, verify};
use bailiwick_ledger::{TrustPolicy, leaf_hash};
use bailiwick_store::{Entry, Options};

use super::*;
use crate::config::WitnessEntry;
use crate::keys::{Keys, TreeIntegrator};
use crate::shard::Departure;
use crate::witness::tests::{Manner, TestWitness};

/// A log on its data directory, opened as the broker does.
pub(crate) struct Log {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) pen: Arc<Pen>,
    pub(crate) store: Store,
}

impl Log {
    pub(crate) async fn new(entries: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Self::on(dir).await;
        log.grow(entries).await;
        log
    }

    pub(crate) async fn on(dir: tempfile::TempDir) -> Self {
        let data = dir.path().join("data");
        crate::place::prepare(&data).unwrap();
        let mut keys = Keys::load_or_make(&data).unwrap();
        let pen = keys.pen().unwrap();
        let store = Store::open_with(&data, Box::new(TreeIntegrator::new(Arc::clone(&pen))), Options { log_bytes: 0, readers: 1 }).unwrap();
        crate::shard::adopt(&mut keys, &store, &pen, &data).await.unwrap();
        Self { dir, pen, store }
    }

    /// Stops, and starts on the same directory.
    pub(crate) async fn again(self) -> Self {
        self.stop().await.start().await
    }

    /// Stops, and waits until no thread has the files any more.
    pub(crate) async fn stop(self) -> Stopped {
        self.store.close().await;
        let Self { dir, store, pen } = self;
        drop((store, pen));
        Stopped { dir }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) async fn grow(&self, entries: u64) {
        for _ in 0..entries {
            let body = format!(r#"{{"v":1,"kind":"house","n":{},"r":"{:?}"}}"#, self.store.head().size, crate::clock::random::<4>());
            self.store.append(Entry::new("house", body.into_bytes())).await.unwrap();
        }
    }

    pub(crate) fn config(&self) -> LedgerConfig {
        LedgerConfig { publish: Some(self.dir.path().join("out")), ..LedgerConfig::default() }
    }

    pub(crate) fn publication(&self, witnesses: Vec<WitnessEntry>) -> Publication {
        Publication::new(&self.config(), &self.data(), &self.pen, Witnesses::new(witnesses).unwrap())
    }

    pub(crate) async fn round(&self, publication: &Publication) -> (Vec<Finding>, Vec<Finding>) {
        publication.round(&self.store, &self.pen, Timestamp::from_millis(1_800_000_000_000)).await.unwrap()
    }
}

/// A log on which nothing runs.
pub(crate) struct Stopped {
    pub(crate) dir: tempfile::TempDir,
}

impl Stopped {
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) async fn start(self) -> Log {
        Log::on(self.dir).await
    }
}

#[tokio::test]
async fn heads_and_tiles_are_published_as_the_log_grows_and_an_auditor_finds_every_entry() {
    let log = Log::new(3).await;
    let publication = log.publication(vec![]);
    let (origin, key) = log.pen.log();
    for more in [0, 1, 300, 0, 212] {
        log.grow(more).await;
        assert_eq!(log.round(&publication).await, (vec![], vec![]));
        let size = log.store.head().size;
        assert_eq!(publication.current().unwrap().size, size);
        assert_eq!(verify(&log.dir.path().join("out/1"), &origin, &key).unwrap().entries, size);
    }
    // The tiles here hold no entry, and the same checkpoint.
    assert!(!log.data().join("tiles/1/tile/entries").exists());
    let tile = publication.tile("tile/0/001".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(tile, std::fs::read(log.dir.path().join("out/1/tile/0/001")).unwrap());
    let bundle = publication.bundle(&log.store, "tile/entries/002.p/4".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(bundle, std::fs::read(log.dir.path().join("out/1/tile/entries/002.p/4")).unwrap());
    for beyond in ["tile/0/003", "tile/0/002.p/5", "tile/2/000.p/1"] {
        assert_eq!(publication.tile(beyond.parse().unwrap()).await.unwrap(), None, "{beyond}");
    }
    assert_eq!(publication.bundle(&log.store, "tile/entries/002.p/5".parse().unwrap()).await.unwrap(), None);
}

#[tokio::test]
async fn witnesses_cosign_each_head_and_the_receipt_is_believed_by_whoever_wants_two_of_them() {
    let mut log = Log::new(5).await;
    let (origin, key) = log.pen.log();
    let (one, two) = (TestWitness::start(1, log.pen.log()).await, TestWitness::start(2, log.pen.log()).await);
    let policy: TrustPolicy =
        format!("log {key}\nwitness one {}\nwitness two {}\ngroup both all one two\nquorum both\n", one.key, two.key).parse().unwrap();
    let entries = || vec![one.entry("one"), two.entry("two")];
    let mut publication = log.publication(entries());
    for more in [0, 7, 300] {
        log.grow(more).await;
        assert_eq!(log.round(&publication).await, (vec![], vec![]));
        assert_eq!((one.size(), two.size()), (log.store.head().size, log.store.head().size));
        let trusted = audit_by(&log.dir.path().join("out/1"), &policy, |_, _| {}).unwrap();
        assert_eq!((trusted.checkpoint.size, trusted.cosigned.len()), (log.store.head().size, 2));
    }
    let asked = one.asked();
    // Nothing is new: nobody is asked.
    log.round(&publication).await;
    assert_eq!(one.asked(), asked);
    // After a start it goes on from where each of them stands.
    log = log.again().await;
    publication = log.publication(entries());
    log.grow(3).await;
    log.round(&publication).await;
    assert_eq!((one.size(), two.size()), (315, 315));
    // One of them is away: receipts keep to the head that both have seen, and new entries to what there is.
    two.behave(Manner::Says(503, "text/plain", "busy".to_owned()));
    log.grow(2).await;
    log.round(&publication).await;
    assert_eq!(publication.current().unwrap().size, 317);
    for index in [0, 255, 256, 314] {
        let body = log.store.entry(index).await.unwrap().unwrap().body;
        let receipt = publication.receipt(&log.store, index, Some(body.clone())).await.unwrap();
        let receipt: Receipt = receipt.to_string().parse().unwrap();
        assert_eq!(receipt.verify_by(&leaf_hash(&body), &policy).unwrap().checkpoint.size, 315, "{index}");
    }
    let body = log.store.entry(316).await.unwrap().unwrap().body;
    let receipt = publication.receipt(&log.store, 316, None).await.unwrap();
    assert!(receipt.verify_by(&leaf_hash(&body), &policy).is_err());
    assert_eq!(receipt.verify(&leaf_hash(&body), &origin, &key, std::slice::from_ref(&one.key)).unwrap().cosigned.len(), 1);
    assert!(matches!(publication.receipt(&log.store, 317, None).await, Err(PublishError::Uncovered(317))));
}

#[tokio::test]
async fn a_witness_of_bad_manners_holds_nothing_up_is_left_alone_for_a_while_and_cosigns_nothing() {
    let log = Log::new(5).await;
    let elsewhere = TestWitness::start(9, log.pen.log()).await;
    let line = |text: &str| text.to_owned();
    for manner in [
        Manner::Redirects(format!("{}/add-checkpoint", elsewhere.url)),
        Manner::Says(200, "text/plain", String::new()),
        Manner::Says(200, "text/plain", line("\u{2014} witness.example/1 AAAAAAAAAAAA\n")),
        Manner::Says(200, "text/plain", "x".repeat(1 << 20)),
        Manner::Says(301, "text/plain", String::new()),
        Manner::Says(400, "text/plain", String::new()),
        Manner::Says(403, "text/plain", String::new()),
        Manner::Says(404, "text/plain", String::new()),
        Manner::Says(409, "text/plain", line("3\n")),
        Manner::Says(409, "text/x.tlog.size", line("many\n")),
        Manner::Says(409, "text/x.tlog.size", line("0\n")),
        Manner::Says(409, "text/x.tlog.size", line("2\n")),
        Manner::Says(500, "text/plain", String::new()),
        Manner::SignsAnother,
    ] {
        let witness = TestWitness::start(1, log.pen.log()).await;
        witness.behave(manner.clone());
        let publication = log.publication(vec![witness.entry("w")]);
        log.grow(1).await;
        assert_eq!(log.round(&publication).await, (vec![], vec![]), "{manner:?}");
        let size = log.store.head().size;
        let current = publication.current().unwrap();
        assert_eq!((current.size, Publication::cosigners(&current.note).len()), (size, 1), "{manner:?}");
        let asked = witness.asked();
        assert!((1..=3).contains(&asked), "{manner:?}: {asked}");
        log.grow(1).await;
        log.round(&publication).await;
        assert_eq!(witness.asked(), asked, "{manner:?}: it was not left alone");
    }
    assert_eq!(elsewhere.asked(), 0);
    assert!(log.store.cosigned(log.pen.log().0.as_str()).await.unwrap().is_empty());
    assert!(log.pen.stopped().is_none());
}

#[tokio::test]
async fn a_witness_that_is_down_or_silent_holds_nothing_up_beyond_its_time() {
    let log = Log::new(2).await;
    let (silent, down) = (TestWitness::start(1, log.pen.log()).await, TestWitness::start(2, log.pen.log()).await);
    silent.behave(Manner::Silent);
    let gone = down.entry("down");
    drop(down);
    let honest = TestWitness::start(3, log.pen.log()).await;
    let publication = log.publication(vec![silent.entry("silent"), gone, honest.entry("honest")]);
    let round = tokio::time::timeout(Duration::from_secs(30), log.round(&publication)).await.expect("it waits for ever");
    assert_eq!(round, (vec![], vec![]));
    assert_eq!(Publication::cosigners(&publication.current().unwrap().note).len(), 2);
    assert_eq!(honest.size(), 2);
}

#[tokio::test]
async fn the_bare_word_of_a_witness_stops_a_log_with_which_it_never_agreed_and_not_one_with_which_it_did() {
    for (status, kind, body) in [(409, "text/x.tlog.size", "99\n"), (422, "text/plain", "")] {
        let says = Manner::Says(status, kind, body.to_owned());
        let log = Log::new(5).await;
        let witness = TestWitness::start(1, log.pen.log()).await;
        let publication = log.publication(vec![witness.entry("w")]);
        log.round(&publication).await;
        witness.behave(says.clone());
        log.grow(1).await;
        let (stops, words) = log.round(&publication).await;
        assert!(stops.is_empty() && matches!(words.as_slice(), [Finding { what: Departure::Word { .. }, .. }]), "{words:?}");
        log.grow(1).await;

        let log = Log::new(5).await;
        let witness = TestWitness::start(1, log.pen.log()).await;
        witness.behave(says);
        let (stops, _) = log.round(&log.publication(vec![witness.entry("w")])).await;
        assert!(matches!(stops.as_slice(), [Finding { what: Departure::Word { .. }, .. }]), "{stops:?}");
        assert!(log.pen.stopped().is_some());
        let refused = log.store.append(Entry::new("house", b"{}".to_vec())).await.unwrap_err();
        assert_eq!(refused.code(), bailiwick_core::ErrorCode::AuditUnavailable);
        assert_eq!(log.store.head().size, 5);
    }
}

#[tokio::test]
async fn a_second_copy_of_the_log_that_runs_meanwhile_is_stopped_by_what_the_witness_shows() {
    let log = Log::new(5).await;
    let witness = TestWitness::start(1, log.pen.log()).await;
    let publication = log.publication(vec![witness.entry("w")]);
    log.round(&publication).await;
    // A clone of this machine, on its own disk.
    let log = log.stop().await;
    let copy = tempfile::tempdir().unwrap();
    copy_all(&log.data(), &copy.path().join("data"));
    let (log, copy) = (log.start().await, Log::on(copy).await);
    let publication = log.publication(vec![witness.entry("w")]);
    log.round(&publication).await;
    copy.grow(3).await;
    copy.round(&copy.publication(vec![witness.entry("w")])).await;
    assert_eq!(witness.size(), 8);
    // The first one has agreed with the witness in this run; what its own key signed counts nevertheless.
    log.grow(1).await;
    let (stops, _) = log.round(&publication).await;
    assert!(matches!(stops.as_slice(), [Finding { what: Departure::SetBack { known: 8, ours: 6 }, note: Some(_), .. }]), "{stops:?}");
    assert!(log.store.append(Entry::new("house", b"{}".to_vec())).await.is_err());
}

pub(crate) fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
