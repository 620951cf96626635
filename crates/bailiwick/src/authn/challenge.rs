//! The challenges of a 401: which schemes there are, and what was wrong with the token that came by one of them.

use bailiwick_core::{ErrorCode, SystemName, TaskId};
use bailiwick_identity::oauth::{Challenge, Scheme};
use http::header::{AUTHORIZATION, CACHE_CONTROL, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response};

use super::binding::{DPOP, DPOP_NONCE};
use crate::house::House;

/// Why a request is not authenticated: put into the extensions of the answer by whoever refuses it, and told by [`House::challenge`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal(pub(crate) ErrorCode);

/// What a request showed of itself, for the fields of its answer.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    scheme: Option<Scheme>,
    proof: bool,
    /// The path of the protected resource that it was for.
    resource: String,
}

impl Shown {
    /// By which scheme a token came, whether a proof of possession came with it, and for which resource.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let scheme = headers.get(AUTHORIZATION).map(|value| {
            let dpop = value.as_bytes().get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case(b"DPoP "));
            if dpop { Scheme::Dpop } else { Scheme::Bearer }
        });
        Self { scheme, proof: headers.contains_key(DPOP), resource: resource(request.uri().path()).to_owned() }
    }
}

/// The protected resource that a path is of: the MCP endpoint, or the part of it for one system or one task.
fn resource(path: &str) -> &str {
    const WHOLE: &str = "/mcp";
    let below = |what: &str| path.strip_prefix(WHOLE)?.strip_prefix(what);
    let part = below("/s/").is_some_and(|name| name.parse::<SystemName>().is_ok()) || below("/t/").is_some_and(|id| id.parse::<TaskId>().is_ok());
    if part { path } else { WHOLE }
}

impl House {
    /// Completes an answer: the challenges of a refusal, and the nonce for the client's next proof.
    pub(crate) fn challenge<B>(&self, shown: Shown, response: &mut Response<B>) {
        if let Some(Refusal(code)) = response.extensions().get::<Refusal>().copied() {
            response.headers_mut().remove(WWW_AUTHENTICATE);
            for value in self.challenges(&shown, code) {
                response.headers_mut().append(WWW_AUTHENTICATE, value);
            }
        }
        if (shown.proof || shown.scheme == Some(Scheme::Dpop))
            && let Some(nonce) = self.next_nonce(response.status()).and_then(|nonce| HeaderValue::try_from(nonce).ok())
        {
            let headers = response.headers_mut();
            headers.insert(DPOP_NONCE, nonce);
            //= rfc9449#section-8.2
            // Responses that include the DPoP-Nonce HTTP header should be uncacheable.
            headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        }
    }

    fn challenges(&self, shown: &Shown, code: ErrorCode) -> impl Iterator<Item = HeaderValue> {
        //= rfc9728#section-3.3
        // If the protected resource metadata was retrieved from a URL returned by the protected resource via the WWW-Authenticate
        // resource_metadata parameter, then the resource value returned MUST be identical to the URL that the client used to make the request
        // to the resource server.
        let metadata = format!("{}/.well-known/oauth-protected-resource{}", self.urls.base, shown.resource);
        let by_dpop = shown.scheme == Some(Scheme::Dpop);
        //= rfc9449#section-7.2
        // If the mechanism used to attempt authentication could be established unambiguously, then the corresponding challenge SHOULD be used
        // to deliver error information.
        let bearer = match code {
            ErrorCode::AuthnMissing => Challenge::Missing,
            _ if by_dpop => Challenge::Missing,
            _ => Challenge::InvalidToken,
        };
        let dpop = match code {
            ErrorCode::AuthnMissing => Challenge::Missing,
            ErrorCode::DpopNonce => Challenge::UseNonce,
            ErrorCode::DpopInvalid => Challenge::InvalidProof,
            ErrorCode::BindingRequired => Challenge::InvalidToken,
            _ if by_dpop => Challenge::InvalidToken,
            _ => Challenge::Missing,
        };
        // Some clients look at the first one only: it is that of the scheme that they know, where that is taken at all.
        let scope = self.scope_to_ask();
        let bearer = self.config.binding.takes_bearer(self.urls.mtls.is_some()).then(|| bearer.value(Scheme::Bearer, &metadata, scope));
        [bearer, Some(dpop.value(Scheme::Dpop, &metadata, scope))].into_iter().flatten().filter_map(|value| HeaderValue::try_from(value).ok())
    }
}
