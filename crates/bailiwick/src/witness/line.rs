//! The line to a witness: one request at a time, limited in time and bytes, no redirect followed, nothing believed that is not checked.

use std::time::Duration;

use bailiwick_ledger::witness::{ADD_CHECKPOINT, AddCheckpoint, Answer, MAX_ANSWER, monitor_path, read_answer, read_shown};
use bailiwick_ledger::{Checkpoint, Origin, VerifierKey};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use url::Url;

use crate::cli::http::Http;
use crate::config::WitnessEntry;
use crate::house::StartError;

/// An exchange with a witness takes no longer.
pub(super) const WITHIN: Duration = Duration::from_secs(5);
/// Nor before the start, where an operator waits.
pub(super) const FIRST_LOOK: Duration = Duration::from_secs(3);

/// Makes requests to witnesses.
#[derive(Debug)]
pub(super) struct Line(Http);

struct Got {
    status: StatusCode,
    content_type: Option<String>,
    body: Bytes,
}

impl Line {
    pub(super) fn new() -> Result<Self, StartError> {
        Http::new().map(Self).map_err(|e| StartError::place("TLS", e))
    }

    /// Asks to cosign. What comes back is the protocol's, or an error in words.
    pub(super) async fn add(&self, witness: &WitnessEntry, request: &AddCheckpoint, within: Duration) -> Result<Answer, String> {
        let url = below(&witness.url, ADD_CHECKPOINT)?;
        let got = self.exchange(Method::POST, &url, Bytes::from(request.to_string()), within).await?;
        let answer = read_answer(got.status.as_u16(), got.content_type.as_deref(), &got.body, request.checkpoint(), &witness.key);
        answer.map_err(|e| e.to_string())
    }

    /// The checkpoint that it cosigned last, if it shows one that our own key signed. `None`: it never cosigned one.
    pub(super) async fn shown(
        &self,
        witness: &WitnessEntry,
        origin: &Origin,
        key: &VerifierKey,
        within: Duration,
    ) -> Result<Option<(Checkpoint, String)>, String> {
        let url = below(&witness.monitor, &monitor_path(origin))?;
        let got = self.exchange(Method::GET, &url, Bytes::new(), within).await?;
        match got.status {
            StatusCode::OK => {
                let (head, note) = read_shown(&got.body, origin, key).map_err(|e| e.to_string())?;
                Ok(Some((head, note.to_string())))
            }
            StatusCode::NOT_FOUND => Ok(None),
            other => Err(format!("an answer of status {other} is none of the protocol's")),
        }
    }

    async fn exchange(&self, method: Method, url: &Url, body: Bytes, within: Duration) -> Result<Got, String> {
        let exchange = async {
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("bailiwick/", env!("CARGO_PKG_VERSION"))));
            let answer = self.0.send(method, url, headers, body, within).await.map_err(|e| e.to_string())?;
            let status = answer.status;
            let content_type = answer.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let body = answer.body;
            let whole = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| format!("its answer is too long or broke off: {e}"))?;
            Ok(Got { status, content_type, body: whole.to_bytes() })
        };
        tokio::time::timeout(within, exchange).await.map_err(|_| format!("it did not answer within {} seconds", within.as_secs()))?
    }
}

fn below(prefix: &Url, path: &str) -> Result<Url, String> {
    format!("{}/{path}", prefix.as_str().trim_end_matches('/')).parse().map_err(|e| format!("`{prefix}`: {e}"))
}
