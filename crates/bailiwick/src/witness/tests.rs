//! A small witness that follows the specification, or breaks it on purpose, and what a log does with each.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path as Segment, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bailiwick_ledger::note::{CosigningKey, VerifierKey};
use bailiwick_ledger::witness::{SIZE_TYPE, monitor_path};
use bailiwick_ledger::{Hash, Origin, empty_root, verify_consistency};
use http::{StatusCode, header};

use super::*;

/// How it behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// It accepts connections and says nothing.
    Silent,
    /// It answers everything with this status, type and body.
    Says(u16, &'static str, String),
    /// It sends elsewhere.
    Redirects(String),
    /// It signs with another key under the same name and key id line, or for other text.
    SignsAnother,
    /// It does what is right and shows nothing.
    Hidden,
}

/// What it remembers.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) manner: Manner,
    pub(crate) log: (Origin, VerifierKey),
    pub(crate) last: Option<(u64, Hash, Note)>,
    pub(crate) asked: usize,
}

/// The witness, on a port of this machine, until it is dropped.
#[derive(Debug)]
pub(crate) struct TestWitness {
    pub(crate) memory: Arc<Mutex<Memory>>,
    pub(crate) key: VerifierKey,
    pub(crate) url: String,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for TestWitness {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Memory>>, Arc<CosigningKey>);

impl TestWitness {
    pub(crate) async fn start(seed: u8, log: (Origin, VerifierKey)) -> Self {
        let key = Arc::new(CosigningKey::from_seed(format!("witness.example/{seed}").parse().unwrap(), &[seed; 32]).unwrap());
        let memory = Arc::new(Mutex::new(Memory { manner: Manner::Honest, log, last: None, asked: 0 }));
        let router = Router::new()
            .route("/w/add-checkpoint", post(add))
            .route("/w/{hash}/checkpoint", get(shown))
            .with_state(Shared(Arc::clone(&memory), Arc::clone(&key)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/w", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { memory, key: key.verifier().clone(), url, server }
    }

    pub(crate) fn entry(&self, name: &str) -> WitnessEntry {
        WitnessEntry::parse(name, &self.key.to_string(), &self.url, None).unwrap()
    }

    pub(crate) fn behave(&self, manner: Manner) {
        self.memory.lock().unwrap().manner = manner;
    }

    pub(crate) fn size(&self) -> u64 {
        self.memory.lock().unwrap().last.as_ref().map_or(0, |last| last.0)
    }

    pub(crate) fn asked(&self) -> usize {
        self.memory.lock().unwrap().asked
    }
}

async fn manner(shared: &Shared) -> Option<Response> {
    let manner = shared.0.lock().unwrap().manner.clone();
    match manner {
        Manner::Honest | Manner::SignsAnother | Manner::Hidden => None,
        Manner::Silent => std::future::pending().await,
        Manner::Says(status, kind, body) => Some((StatusCode::from_u16(status).unwrap(), [(header::CONTENT_TYPE, kind)], body).into_response()),
        Manner::Redirects(to) => Some((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response()),
    }
}

/// As the specification says, in its order.
async fn add(State(shared): State<Shared>, body: String) -> Response {
    shared.0.lock().unwrap().asked += 1;
    if let Some(answer) = manner(&shared).await {
        return answer;
    }
    let Ok(request) = body.parse::<AddCheckpoint>() else { return StatusCode::BAD_REQUEST.into_response() };
    let mut memory = shared.0.lock().unwrap();
    let note = request.checkpoint().to_string();
    let Some(claimed) = head_of(&note) else { return StatusCode::BAD_REQUEST.into_response() };
    if claimed.origin != memory.log.0 {
        return StatusCode::NOT_FOUND.into_response();
    }
    let Ok(opened) = Checkpoint::open(&note, &memory.log.0, &memory.log.1, &[]) else { return StatusCode::FORBIDDEN.into_response() };
    let head = opened.checkpoint;
    if request.old() > head.size {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let (size, root) = memory.last.as_ref().map_or_else(|| (0, empty_root()), |(size, root, _)| (*size, *root));
    if request.old() != size {
        return (StatusCode::CONFLICT, [(header::CONTENT_TYPE, SIZE_TYPE)], format!("{size}\n")).into_response();
    }
    if verify_consistency(size, &root, head.size, &head.root, request.proof()).is_err() {
        return StatusCode::UNPROCESSABLE_ENTITY.into_response();
    }
    let mut kept = request.checkpoint().clone();
    let line = if memory.manner == Manner::SignsAnother {
        let other = Checkpoint { size: head.size + 1, ..head.clone() };
        shared.1.cosign(&bailiwick_ledger::NoteText::try_from(other.body()).unwrap(), 1_800_000_000).unwrap()
    } else {
        shared.1.cosign(kept.text(), 1_800_000_000).unwrap()
    };
    kept.add(line.clone()).unwrap();
    memory.last = Some((head.size, head.root, kept));
    line.to_string().into_response()
}

async fn shown(State(shared): State<Shared>, Segment(hash): Segment<String>) -> Response {
    if let Some(answer) = manner(&shared).await {
        return answer;
    }
    let memory = shared.0.lock().unwrap();
    let known = format!("{hash}/checkpoint") == monitor_path(&memory.log.0) && memory.manner != Manner::Hidden;
    match &memory.last {
        Some((_, _, note)) if known => note.to_string().into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

#[test]
fn witnesses_of_the_configuration_and_those_added_at_the_machine_are_all_asked_and_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let entry = |name: &str, seed: u8| {
        let key = CosigningKey::from_seed(format!("w.example/{seed}").parse().unwrap(), &[seed; 32]).unwrap();
        WitnessEntry::parse(name, &key.verifier().to_string(), "https://w.example/p", None).unwrap()
    };
    let config = LedgerConfig { witnesses: vec![entry("a", 1)], ..LedgerConfig::default() };
    assert!(added(dir.path()).unwrap().is_empty());
    keep_added(dir.path(), &[entry("b", 2)]).unwrap();
    assert_eq!(added(dir.path()).unwrap(), [entry("b", 2)]);
    let names: Vec<_> = all(Some(&config), dir.path()).unwrap().into_iter().map(|w| w.name).collect();
    assert_eq!(names, ["a", "b"]);
    for twice in [entry("a", 3), entry("c", 1)] {
        keep_added(dir.path(), &[twice]).unwrap();
        assert!(all(Some(&config), dir.path()).is_err());
    }
    std::fs::write(dir.path().join(FILE), "witness a\nquorum none\n").unwrap();
    assert!(added(dir.path()).unwrap_err().to_string().contains("line 1"));
}

#[test]
fn pauses_grow_and_have_an_end() {
    assert_eq!((pause(1), pause(2), pause(4)), (PAUSE_MIN, PAUSE_MIN * 2, PAUSE_MIN * 8));
    assert_eq!(pause(u32::MAX), PAUSE_MAX);
}
