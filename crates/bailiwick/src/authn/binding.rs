//! Is a token presented by the one to whom it is bound? (RFC 9449 section 7, RFC 8705 section 3) And must it be bound to somebody?

use bailiwick_core::{Agent, Clock, ErrorCode, HeldBy, Task, Timestamp};
use bailiwick_identity::dpop::{self, Nonces, Proved, Rules, Target};
use bailiwick_identity::oauth::OauthError;
use bailiwick_identity::oauth::Scheme;
use bailiwick_identity::{Algorithm, Confirmation, ProofError, Verified};
use http::request::Parts;
use http::{HeaderName, StatusCode};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use super::replays::{Full, Replays};
use super::{NotAuthenticated, Presented};
use crate::clock::random;
use crate::config::Demand;
use crate::house::House;
use crate::mtls::ClientCertificate;

/// The field that carries a proof of possession.
pub(crate) const DPOP: HeaderName = HeaderName::from_static("dpop");
/// The field that gives a nonce for the next one.
pub(crate) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// What is remembered of proofs of possession: since when, under which nonces, and which were used.
#[derive(Debug)]
pub struct Possession {
    nonces: Nonces,
    since: Timestamp,
    used: Replays,
    mcp: Option<Target>,
    token: Option<Target>,
}

impl Possession {
    /// Remembers from now on. `mcp` and `token` are the URLs that are asked most.
    pub(crate) fn new(clock: &dyn Clock, mcp: &str, token: &str) -> Self {
        Self {
            nonces: Nonces::new(&random()),
            // A proof that was used before our start may say that it was made so much later.
            since: clock.now().plus(dpop::AHEAD_MAX),
            used: Replays::default(),
            mcp: Target::new(mcp),
            token: Target::new(token),
        }
    }
}

/// The client's certificate, if the connection has one.
pub(crate) fn certificate(parts: &Parts) -> Option<&ClientCertificate> {
    parts.extensions.get::<ClientCertificate>()
}

impl House {
    /// Refuses a token that is bound to a key which the request does not prove, or that is bound to nothing where it must be.
    pub(super) fn bound(&self, verified: &Verified, scheme: Scheme, token: &str, presented: &Presented<'_>) -> Result<(), NotAuthenticated> {
        let refused = |why: ProofError| {
            let code = code_of(why);
            tracing::info!(error.code = %code, %why, agent = %verified.agent, "a token was presented without what it is bound to");
            NotAuthenticated { code }
        };
        match (verified.confirmation, scheme) {
            //= rfc9449#section-7.1
            // For such an access token, a resource server MUST check that a DPoP proof was also received in the DPoP header field of the
            // HTTP request, check the DPoP proof according to the rules in Section 4.3, and check that the public key of the DPoP proof
            // matches the public key to which the access token is bound per Section 6. The resource server MUST NOT grant access to the
            // resource unless all checks are successful.
            (Some(Confirmation::Key(key)), Scheme::Dpop) => {
                let proved = self.possession(presented, Some(token)).map_err(refused)?;
                if proved.key != key {
                    return Err(refused(ProofError::Binding));
                }
                self.first_use(&proved).map_err(refused)?;
            }
            (Some(Confirmation::Certificate(digest)), Scheme::Bearer) => {
                //= rfc8705#section-3
                // The protected resource MUST obtain, from its TLS implementation layer, the client certificate used for mutual TLS and
                // MUST verify that the certificate matches the certificate associated with the access token. If they do not match, the
                // resource access attempt MUST be rejected with an error, per [RFC6750], using an HTTP 401 status code and the
                // "invalid_token" error code.
                let certificate = certificate(presented.parts).ok_or_else(|| refused(ProofError::Binding))?;
                let same = certificate.certificate.thumbprint().as_bytes().ct_eq(digest.as_bytes());
                if !bool::from(same) || certificate.certificate.check_time(self.clock.now()).is_err() {
                    return Err(refused(ProofError::Binding));
                }
            }
            (None, Scheme::Bearer) => {}
            //= rfc9449#section-7.2
            // Specifically, such a protected resource MUST reject a DPoP-bound access token received as a bearer token per [RFC6750].
            (Some(Confirmation::Key(_)), Scheme::Bearer) | (Some(Confirmation::Certificate(_)) | None, Scheme::Dpop) => {
                return Err(refused(ProofError::Binding));
            }
        }
        let agent = self.agent(verified.agent.as_str()).ok_or(NotAuthenticated { code: ErrorCode::ProofInvalid })?;
        if !self.demanded(agent).met_by(verified.confirmation.as_ref()) {
            tracing::info!(agent = %agent.name, "a token was refused: it is not bound to what the configuration demands");
            return Err(NotAuthenticated { code: ErrorCode::BindingRequired });
        }
        Ok(())
    }

    /// What every token of this agent must be bound to.
    pub(crate) const fn demanded(&self, agent: &Agent) -> Demand {
        self.config.binding.of(agent.risk)
    }

    /// What a token is to be bound to that is issued for this request: the key of its proof of possession, or its connection's certificate.
    /// It is looked at here, and taken ([`House::take_key`]) when whoever shows it has shown what the token is for: so no stranger fills
    /// the memory of used proofs, and a request that is refused uses none up.
    ///
    /// # Errors
    /// `invalid_dpop_proof` or `use_dpop_nonce` of RFC 9449, if there is a proof and it is not good.
    pub(crate) fn shown_key(&self, presented: &Presented<'_>) -> Result<ShownKey, OauthError> {
        if presented.parts.headers.contains_key(DPOP) {
            let proved = self.possession(presented, None).map_err(refused_at_issue)?;
            return Ok(ShownKey::Proof(proved));
        }
        match certificate(presented.parts) {
            Some(shown) if shown.certificate.check_time(self.clock.now()).is_ok() => Ok(ShownKey::Certificate(shown.certificate.confirmation())),
            Some(_) => Err(OauthError::invalid_request("the connection's certificate is not valid any more: connect anew")),
            None => Ok(ShownKey::Nothing),
        }
    }

    /// Takes what was shown; a proof is taken once.
    ///
    /// # Errors
    /// As [`House::shown_key`].
    pub(crate) fn take_key(&self, shown: ShownKey) -> Result<Option<Confirmation>, OauthError> {
        match shown {
            ShownKey::Nothing => Ok(None),
            ShownKey::Certificate(confirmation) => Ok(Some(confirmation)),
            ShownKey::Proof(proved) => {
                self.first_use(&proved).map_err(refused_at_issue)?;
                Ok(Some(Confirmation::Key(proved.key)))
            }
        }
    }

    /// May somebody with this key, or with none, hold a token of this task?
    pub(crate) fn may_hold(&self, task: &Task, confirmation: Option<&Confirmation>) -> bool {
        match (&task.held_by, confirmation) {
            (None, _) | (Some(HeldBy::Certificate), Some(Confirmation::Certificate(_))) => true,
            (Some(HeldBy::Key(held)), Some(Confirmation::Key(key))) => *held == key.to_string(),
            (Some(_), _) => false,
        }
    }

    /// Refuses to issue a token that could not be used.
    ///
    /// # Errors
    /// `invalid_request`, with what to do.
    pub(crate) fn bound_enough(&self, agent: &Agent, confirmation: Option<&Confirmation>) -> Result<(), OauthError> {
        let demand = self.demanded(agent);
        if demand.met_by(confirmation) { Ok(()) } else { Err(OauthError::invalid_request(demand.words())) }
    }

    /// The proof of possession of a request: valid for it, and perhaps not its first use.
    fn possession(&self, presented: &Presented<'_>, token: Option<&str>) -> Result<Proved, ProofError> {
        //= rfc9449#section-4.3
        // 1. There is not more than one DPoP HTTP request header field.
        let mut fields = presented.parts.headers.get_all(DPOP).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return Err(ProofError::Header("DPoP")) };
        let proof = field.to_str().map_err(|_| ProofError::Form("not text"))?;
        let made;
        let target = match (presented.parts.uri.path(), certificate(presented.parts)) {
            ("/mcp", None) => self.possession.mcp.as_ref(),
            ("/oauth/token", None) => self.possession.token.as_ref(),
            (path, shown) => {
                // Each listener is known under its own URL.
                let base = shown.and(self.urls.mtls.as_deref()).unwrap_or(&self.urls.base);
                made = Target::new(&format!("{base}{path}"));
                made.as_ref()
            }
        };
        let request = dpop::Request { method: presented.parts.method.as_str(), target: target.ok_or(ProofError::Request)?, token };
        let Possession { nonces, since, .. } = &self.possession;
        let rules = Rules { nonces, nonce_required: self.config.binding.nonces, remembered_since: *since };
        dpop::verify(proof, request, rules, self.clock.now())
    }

    fn first_use(&self, proved: &Proved) -> Result<(), ProofError> {
        match self.possession.used.first(proved, self.clock.now()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(ProofError::Replayed),
            Err(Full) => {
                tracing::warn!(key = %proved.key, "too many proofs of possession are remembered: one more is refused");
                metrics::counter!("bailiwick_proofs_not_remembered_total").increment(1);
                Err(ProofError::Replayed)
            }
        }
    }

    /// The nonce that an answer gives to a request with a proof: with a refusal always, and with every answer where each proof needs one.
    pub(crate) fn next_nonce(&self, status: StatusCode) -> Option<String> {
        //= rfc9449#section-8.2
        // A more efficient manner of supplying a new nonce value is also defined by including a DPoP-Nonce HTTP header in the HTTP 200 (OK)
        // response from the previous request.
        let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST);
        (refused || self.config.binding.nonces).then(|| self.possession.nonces.current(self.clock.now()))
    }
}

/// What the tokens of a task are bound to that is opened with a token bound to this.
pub(crate) fn held_by(confirmation: Option<&Confirmation>) -> Option<HeldBy> {
    confirmation.map(|confirmation| match confirmation {
        Confirmation::Key(key) => HeldBy::Key(key.to_string()),
        Confirmation::Certificate(_) => HeldBy::Certificate,
    })
}

/// What a request at the token endpoint shows beside the client's own proof.
#[derive(Debug)]
pub(crate) enum ShownKey {
    /// Nothing.
    Nothing,
    /// A proof of possession that was not taken yet.
    Proof(Proved),
    /// The connection's certificate.
    Certificate(Confirmation),
}

impl ShownKey {
    /// What a token is bound to for which this is taken.
    pub(crate) const fn confirmation(&self) -> Option<Confirmation> {
        match self {
            Self::Nothing => None,
            Self::Proof(proved) => Some(Confirmation::Key(proved.key)),
            Self::Certificate(confirmation) => Some(*confirmation),
        }
    }
}

fn refused_at_issue(why: ProofError) -> OauthError {
    tracing::info!(error.code = %code_of(why), %why, "a proof of possession was refused");
    if why == ProofError::Nonce {
        OauthError::use_dpop_nonce()
    } else {
        OauthError::invalid_dpop_proof("the proof is not valid for this request and this time, or was used before")
    }
}

/// What a client is told: whether the proof was wrong, or the token.
const fn code_of(why: ProofError) -> ErrorCode {
    match why {
        ProofError::Nonce => ErrorCode::DpopNonce,
        //= rfc9449#section-7.1
        // Figure 16 shows a response to a protected resource request that was rejected due to the failed confirmation of the DPoP binding in
        // the access token: invalid_token.
        ProofError::Binding => ErrorCode::ProofInvalid,
        _ => ErrorCode::DpopInvalid,
    }
}

impl House {
    /// Adds to the metadata of the authorization server what binds tokens (RFC 9449 section 5.1, RFC 8705 sections 3.3 and 5).
    pub(crate) fn extend_server_metadata(&self, document: &mut Value) {
        let Some(members) = document.as_object_mut() else { return };
        members.insert("dpop_signing_alg_values_supported".to_owned(), json!(Algorithm::NAMES));
        let (Some(mtls), Some(base)) = (&self.config.mtls, &self.urls.mtls) else { return };
        members.insert("tls_client_certificate_bound_access_tokens".to_owned(), json!(true));
        //= rfc8705#section-5
        // mtls_endpoint_aliases: OPTIONAL. A JSON object containing alternative authorization server endpoints that, when present, an OAuth
        // client intending to do mutual TLS uses in preference to the conventional endpoints.
        let aliases = ["token", "introspection", "revocation"].map(|name| {
            let path = if name == "token" {
                "token"
            } else if name == "introspection" {
                "introspect"
            } else {
                "revoke"
            };
            (format!("{name}_endpoint"), json!(format!("{base}/oauth/{path}")))
        });
        members.insert("mtls_endpoint_aliases".to_owned(), Value::Object(aliases.into_iter().collect()));
        let methods = [("tls_client_auth", !mtls.roots.is_empty() || mtls.issued_here), ("self_signed_tls_client_auth", mtls.self_signed)];
        for endpoint in ["token", "introspection", "revocation"] {
            let list = members.get_mut(&format!("{endpoint}_endpoint_auth_methods_supported")).and_then(Value::as_array_mut);
            if let Some(list) = list {
                list.extend(methods.iter().filter(|(_, taken)| *taken).map(|(method, _)| json!(method)));
            }
        }
    }

    /// Adds to the metadata of a protected resource what binds tokens (RFC 9728 section 2).
    pub(crate) fn extend_resource_metadata(&self, document: &mut Value) {
        let Some(members) = document.as_object_mut() else { return };
        members.insert("dpop_signing_alg_values_supported".to_owned(), json!(Algorithm::NAMES));
        members.insert("dpop_bound_access_tokens_required".to_owned(), json!(self.config.binding.dpop_only(self.urls.mtls.is_some())));
        members.insert("tls_client_certificate_bound_access_tokens".to_owned(), json!(self.urls.mtls.is_some()));
    }
}
