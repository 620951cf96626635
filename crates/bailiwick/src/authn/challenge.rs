//! The challenges of a 401: which schemes there are, and what was wrong with the token that came by one of them.

use bailiwick_core::ErrorCode;
use bailiwick_identity::dpop;
use bailiwick_identity::oauth::Challenge;
use http::header::{AUTHORIZATION, CACHE_CONTROL, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response};

use super::binding::{DPOP, DPOP_NONCE, Scheme};
use crate::house::House;

/// Why a request is not authenticated: put into the extensions of the answer by whoever refuses it, and told by [`House::challenge`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal(pub(crate) ErrorCode);

/// What a request showed of itself, for the fields of its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    scheme: Option<Scheme>,
    proof: bool,
}

impl Shown {
    /// By which scheme a token came, and whether a proof of possession came with it.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let scheme = headers.get(AUTHORIZATION).map(|value| {
            let dpop = value.as_bytes().get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case(b"DPoP "));
            if dpop { Scheme::Dpop } else { Scheme::Bearer }
        });
        Self { scheme, proof: headers.contains_key(DPOP) }
    }
}

impl House {
    /// Completes an answer: the challenges of a refusal, and the nonce for the client's next proof.
    pub(crate) fn challenge<B>(&self, shown: Shown, response: &mut Response<B>) {
        if let Some(Refusal(code)) = response.extensions().get::<Refusal>().copied() {
            response.headers_mut().remove(WWW_AUTHENTICATE);
            for value in self.challenges(shown, code) {
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

    fn challenges(&self, shown: Shown, code: ErrorCode) -> impl Iterator<Item = HeaderValue> {
        let metadata = format!("{}/.well-known/oauth-protected-resource/mcp", self.urls.base);
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
            ErrorCode::AuthnMissing => dpop::Challenge::Plain,
            ErrorCode::DpopNonce => dpop::Challenge::UseNonce,
            ErrorCode::DpopInvalid => dpop::Challenge::InvalidProof,
            ErrorCode::BindingRequired => dpop::Challenge::InvalidToken,
            _ if by_dpop => dpop::Challenge::InvalidToken,
            _ => dpop::Challenge::Plain,
        };
        // Some clients look at the first one only: it is that of the scheme that they know, where that is taken at all.
        let scope = self.scope_to_ask();
        let bearer = self.config.binding.takes_bearer(self.urls.mtls.is_some()).then(|| bearer.value(&metadata, scope));
        [bearer, Some(dpop.value(&metadata, scope))].into_iter().flatten().filter_map(|value| HeaderValue::try_from(value).ok())
    }
}
