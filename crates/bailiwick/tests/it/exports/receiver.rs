//! A receiver by HTTP that takes, refuses, hangs, or is not there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::IntoResponse as _;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;

use super::index_of;
use crate::support::until;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Takes,
    /// With this status, and the request's own `Authorization` in the body.
    Refuses(u16),
    Hangs,
    /// As `Takes`, but no more bytes at once than this.
    Limited(usize),
}

/// A request that it took.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Taken {
    /// The events of a body of lines or of an array.
    pub(super) fn events(&self) -> Vec<Value> {
        match serde_json::from_str(&self.body) {
            Ok(Value::Array(events)) => events,
            _ => self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        }
    }
}

#[derive(Debug)]
struct State {
    mood: Mood,
    taken: Vec<Taken>,
    refused: usize,
}

pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Receiver {
    pub(super) async fn start(mood: Mood) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), mood).await
    }

    pub(super) async fn start_at(address: SocketAddr, mood: Mood) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { mood, taken: Vec::new(), refused: 0 }));
        let shared = Arc::clone(&state);
        let router = axum::Router::new().fallback(move |uri: Uri, headers: HeaderMap, body: Bytes| answer(Arc::clone(&shared), uri, headers, body));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state, serving }
    }

    pub(super) fn be(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    pub(super) fn taken(&self) -> Vec<Taken> {
        self.state.lock().unwrap().taken.clone()
    }

    pub(super) fn refused(&self) -> usize {
        self.state.lock().unwrap().refused
    }

    /// The ledger indexes that it got, in the order in which they came.
    pub(super) fn indexes(&self) -> Vec<u64> {
        self.taken().iter().flat_map(Taken::events).map(|e| index_of(&e)).collect()
    }

    /// Waits until it got the entry before this index.
    pub(super) async fn wait_for(&self, size: u64) {
        until(&format!("the receiver has {size} entries"), || self.indexes().contains(&(size - 1))).await;
    }
}

async fn answer(state: Arc<Mutex<State>>, uri: Uri, headers: HeaderMap, body: Bytes) -> axum::response::Response {
    let mood = state.lock().unwrap().mood;
    let refuse = |status: u16| {
        state.lock().unwrap().refused += 1;
        let said = headers.get("authorization").map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).unwrap_or_default();
        (StatusCode::from_u16(status).unwrap(), format!("no, {said}\nsecond line")).into_response()
    };
    match mood {
        Mood::Hangs => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            StatusCode::OK.into_response()
        }
        Mood::Refuses(status) => refuse(status),
        Mood::Limited(most) if body.len() > most => refuse(413),
        Mood::Takes | Mood::Limited(_) => {
            let body = String::from_utf8(body.to_vec()).unwrap();
            state.lock().unwrap().taken.push(Taken { path: uri.to_string(), headers, body });
            axum::Json(serde_json::json!({})).into_response()
        }
    }
}
