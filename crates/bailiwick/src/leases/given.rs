//! What a system with a server of its own is given with the calls of a task: the credential, in a header or as a client certificate, and the chain for its own log.

use std::sync::Arc;

use bailiwick_core::{CallId, Digest};
use bailiwick_credentials::Injection;
use bailiwick_credentials::lease::Tag;

use crate::upstream::{ClientCertificate, Inject, UpstreamError};

/// Task and agent in a header, in bytes.
const WORDS_MAX: usize = 512;

/// How a system with a server of its own is given what is made for a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// The credential's place.
    pub(crate) by: GivenBy,
    /// The header that carries task, agent and call, if any.
    pub(crate) tag_header: Option<String>,
}

/// Where a credential stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GivenBy {
    /// In a header.
    Header(HeaderUse),
    /// In the handshake of TLS.
    Certificate,
}

/// A header that carries a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeaderUse {
    /// The header's name.
    pub(crate) name: String,
    /// What stands before the secret, such as `Bearer `.
    pub(crate) before: String,
}

/// What goes along with one call.
pub(super) struct OfCall {
    injection: Arc<Injection>,
    certificate: Option<Arc<ClientCertificate>>,
    chain: Vec<(String, String)>,
}

impl OfCall {
    pub(super) fn new(given: &Given, injection: Arc<Injection>, certificate: Option<Arc<ClientCertificate>>, tag: &Tag, call: CallId) -> Self {
        let mut chain = vec![("traceparent".to_owned(), traceparent(tag, call))];
        if let Some(name) = &given.tag_header {
            chain.push((name.clone(), format!("{} {call}", tag.connection_name(WORDS_MAX))));
        }
        Self { injection, certificate, chain }
    }
}

impl Inject for OfCall {
    fn headers(&self, put: &mut dyn FnMut(&str, &str)) {
        self.chain.iter().for_each(|(name, value)| put(name, value));
        self.injection.headers(put);
    }

    fn certificate(&self) -> Result<Option<Arc<ClientCertificate>>, UpstreamError> {
        Ok(self.certificate.clone())
    }
}

/// The span of a call, the same wherever it is told: 16 hexadecimal digits.
pub(crate) fn span(call: &impl std::fmt::Display) -> String {
    Digest::of(format!("span {call}").as_bytes()).to_string().chars().take(16).collect()
}

/// W3C trace context: the task is the trace, the call its span.
fn traceparent(tag: &Tag, call: CallId) -> String {
    let task = tag.task.rsplit('_').next().unwrap_or_default();
    format!("00-{task}-{}-01", span(&call))
}

#[cfg(test)]
mod tests {
    use bailiwick_core::{TaskId, Timestamp};
    use bailiwick_credentials::Secret;

    use super::*;

    #[test]
    fn a_call_carries_its_task_its_agent_and_itself() {
        let now = Timestamp::from_seconds(1_790_000_000);
        let (task, call) = (TaskId::new(now, [1; 10]), CallId::new(now, [2; 10]));
        let tag = Tag { task: task.to_string(), agent: "spiffe://td/agent/a".into(), expires_at: now };
        let header = HeaderUse { name: "authorization".into(), before: "Bearer ".into() };
        let injection = Injection::header_of(&header.name, &header.before, &Secret::from("canary".to_owned())).unwrap();
        let given = Given { by: GivenBy::Header(header), tag_header: Some("x-bailiwick-task".into()) };
        let of = OfCall::new(&given, Arc::new(injection), None, &tag, call);
        let mut headers = Vec::new();
        of.headers(&mut |name, value| headers.push((name.to_owned(), value.to_owned())));
        let digits = task.to_string().rsplit('_').next().unwrap().to_owned();
        assert_eq!(headers[0], ("traceparent".to_owned(), format!("00-{digits}-{}-01", span(&call))));
        assert_eq!((digits.len(), span(&call).len()), (32, 16));
        assert_eq!(headers[1], ("x-bailiwick-task".to_owned(), format!("bailiwick {task} spiffe://td/agent/a {call}")));
        assert_eq!(headers[2], ("authorization".to_owned(), "Bearer canary".to_owned()));
        assert_ne!(span(&call), span(&CallId::new(now, [3; 10])), "two calls of a task are two spans");
    }
}
