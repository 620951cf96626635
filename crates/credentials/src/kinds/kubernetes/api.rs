//! The API server, with the broker's own token.

use hyper::Method;
use hyper::header::{ACCEPT, USER_AGENT};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::Secret;
use crate::kinds::web::{Endpoint, Question, Reply};
use crate::lease::{Step, TargetCode, TargetError};

/// A page of 500 objects, with the annotations that others may have put on them.
const LIST_MAX: usize = 16 << 20;
/// Lists come without the objects' data, which are nobody's business here.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";

pub(super) struct Api {
    endpoint: Endpoint,
    token: Secret,
}

impl Api {
    pub(super) const fn new(endpoint: Endpoint, token: Secret) -> Self {
        Self { endpoint, token }
    }

    pub(super) fn node(&self) -> &str {
        self.endpoint.name()
    }

    pub(super) async fn ask(&self, step: Step, method: Method, path: &str, body: Option<&Value>, agent: &str) -> Result<Reply, TargetError> {
        let question = Question::new(method, path).header(USER_AGENT, agent).bearer(&self.token);
        let question = if let Some(body) = body { question.json(body) } else { question };
        self.endpoint.ask(step, question).await
    }

    pub(super) async fn list(&self, path: &str) -> Result<Reply, TargetError> {
        self.endpoint.ask(Step::List, Question::new(Method::GET, path).header(ACCEPT, METADATA).bearer(&self.token).at_most(LIST_MAX)).await
    }

    /// `TokenReview`, with the token in its body, for these audiences.
    pub(super) async fn review(&self, step: Step, token: &Secret, audiences: &[String]) -> Result<Reply, TargetError> {
        let head = b"{\"apiVersion\":\"authentication.k8s.io/v1\",\"kind\":\"TokenReview\",\"spec\":{\"audiences\":".as_slice();
        let audiences = json!(audiences).to_string();
        // A token is visible ASCII. Of that, JSON escapes two characters, which no token has.
        if token.expose().iter().any(|byte| matches!(byte, b'"' | b'\\')) {
            return Err(TargetError::new(TargetCode::Protocol, step, self.node(), "the token is none"));
        }
        let body = Zeroizing::new([head, audiences.as_bytes(), b",\"token\":\"", token.expose(), b"\"}}"].concat());
        let question = Question::new(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews").bearer(&self.token).secret_json(body);
        self.endpoint.ask(step, question).await
    }

    /// A `Status` object, in its own words.
    pub(super) fn refusal(&self, step: Step, reply: &Reply) -> TargetError {
        self.refusal_of(step, reply, &self.token)
    }

    /// The same, of a question that this token was in.
    pub(super) fn refusal_of(&self, step: Step, reply: &Reply, token: &Secret) -> TargetError {
        let code = match reply.status {
            // No such namespace or service account, or a field that it does not take.
            400 | 404 | 422 if step == Step::Mint => TargetCode::Plan,
            409 => TargetCode::Busy,
            _ => reply.code(),
        };
        TargetError::new(code, step, self.node(), &reply.words(&["/message"], &[&self.token, token]))
    }
}
