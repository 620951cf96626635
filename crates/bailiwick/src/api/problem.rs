//! Refusals of the HTTP API as RFC 9457 problem documents: one match from code to status, fixed words, no secret and no cause.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bailiwick_core::ErrorCode;
use bailiwick_store::StoreError;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::approve::SayingError;
use crate::entry::Narrowed;
use crate::tasks::TaskRefused;

/// A refusal: what happened, for whoever asked.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: ErrorCode,
    detail: String,
    narrowed: Vec<Narrowed>,
    /// The challenges are written where the answer leaves: [`crate::house::House::challenge`].
    challenged: bool,
    kind: &'static str,
}

/// The document (RFC 9457 section 3.1) with our `code` and `hint`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDocument<'a> {
    /// `about:blank`, what tells problems apart is `code`; or what a protocol calls it.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// The stable code: see docs/reference/errors.md.
    code: &'static str,
    /// What happened, in words.
    detail: &'a str,
    /// What to do next.
    hint: &'static str,
    /// For a task that was not opened: what was asked for and not granted, with the reason.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<Object>)]
    narrowed: &'a [Narrowed],
}

/// The HTTP status of a code. One match, so that a new code needs a decision here.
pub(super) const fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::AuthnMissing
        | ErrorCode::ProofInvalid
        | ErrorCode::TokenExpired
        | ErrorCode::DpopNonce
        | ErrorCode::DpopInvalid
        | ErrorCode::BindingRequired => StatusCode::UNAUTHORIZED,
        ErrorCode::RoleMissing
        | ErrorCode::TaskEmpty
        | ErrorCode::ToolQuarantined
        | ErrorCode::ConstraintViolated
        | ErrorCode::PolicyDenied
        | ErrorCode::PolicyError
        | ErrorCode::HoldRefused
        | ErrorCode::ApprovalSelf
        | ErrorCode::ApprovalNotEligible
        | ErrorCode::StepUpRequired
        | ErrorCode::BudgetCalls => StatusCode::FORBIDDEN,
        ErrorCode::TaskAbsent | ErrorCode::ToolUnknown | ErrorCode::HoldAbsent | ErrorCode::LeaseAbsent | ErrorCode::AgentAbsent => {
            StatusCode::NOT_FOUND
        }
        ErrorCode::TaskClosed | ErrorCode::ApprovalMismatch => StatusCode::CONFLICT,
        ErrorCode::HoldExpired => StatusCode::GONE,
        ErrorCode::CallMalformed | ErrorCode::ArgumentsInvalid | ErrorCode::OauthRequest | ErrorCode::ConfigInvalid => StatusCode::BAD_REQUEST,
        ErrorCode::LimitExceeded => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::HoldPending => StatusCode::ACCEPTED,
        ErrorCode::HoldFlood | ErrorCode::BudgetRate => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::AuditUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::UpstreamUnavailable | ErrorCode::UpstreamBroken | ErrorCode::CredentialUnavailable => StatusCode::BAD_GATEWAY,
        ErrorCode::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::CallCancelled | ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Problem {
    /// A refusal in the code's own words.
    pub(super) fn new(code: ErrorCode) -> Self {
        Self::because(code, code.sentence())
    }

    /// A refusal in words that help whoever asked. They are read by that one only, and hold nothing that he or she may not know.
    pub(super) fn because(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { status: status_of(code), code, detail: detail.into(), narrowed: Vec::new(), challenged: false, kind: "about:blank" }
    }

    /// A request that is not well-formed.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::because(ErrorCode::OauthRequest, detail)
    }

    /// The same under another status, where the protocol has one of its own.
    pub(super) const fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The same under the name that a protocol has for it (RFC 9457 section 3.1.1).
    pub(super) const fn of_type(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }

    /// Nobody proved who asks: 401 with a challenge (RFC 6750 section 3, RFC 9728 section 5.1).
    pub(super) fn unauthenticated(code: ErrorCode) -> Self {
        Self { challenged: true, ..Self::new(code).with_status(StatusCode::UNAUTHORIZED) }
    }

    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) const fn code(&self) -> ErrorCode {
        self.code
    }

    pub(super) fn detail(&self) -> &str {
        &self.detail
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(error.code = %error.code(), %error, "a request was refused: the store failed");
        Self::because(error.code(), error.public())
    }
}

impl From<SayingError> for Problem {
    fn from(error: SayingError) -> Self {
        match error {
            SayingError::Store(error) => error.into(),
            SayingError::Rule(bailiwick_core::ApprovalError::Decided) => {
                Self::because(ErrorCode::HoldAbsent, "the held call does not wait for people any more").with_status(StatusCode::CONFLICT)
            }
            other => Self::because(other.code(), other.to_string()),
        }
    }
}

impl From<TaskRefused> for Problem {
    fn from(refused: TaskRefused) -> Self {
        Self { narrowed: refused.narrowed, ..Self::because(refused.code, refused.detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = ProblemDocument {
            kind: self.kind,
            title: self.status.canonical_reason().unwrap_or("Refused"),
            status: self.status.as_u16(),
            code: self.code.slug(),
            detail: &self.detail,
            hint: self.code.hint(),
            narrowed: &self.narrowed,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        if self.challenged {
            response.extensions_mut().insert(crate::authn::challenge::Refusal(self.code));
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_status_that_says_refused_but_the_one_that_says_wait() {
        for code in ErrorCode::ALL {
            let status = status_of(*code);
            assert!(status.is_client_error() || status.is_server_error() || *code == ErrorCode::HoldPending, "{code}");
        }
    }

    #[tokio::test]
    async fn a_problem_is_a_document_of_the_standard_with_code_and_hint() {
        let response = Problem::new(ErrorCode::TaskClosed).into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        insta::assert_snapshot!(text, @r#"{"type":"about:blank","title":"Conflict","status":409,"code":"task.closed","detail":"the task has ended","hint":"open a new task"}"#);
    }
}
