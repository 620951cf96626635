//! An agent that proves itself by the certificate of its connection (RFC 8705 section 2): `tls_client_auth` and `self_signed_tls_client_auth`.

use bailiwick_identity::Confirmation;
use bailiwick_identity::oauth::OauthError;
use bailiwick_identity::sightings::Used;
use bailiwick_identity::token::Acting;

use super::super::asker::Api;
use super::client::Client;
use crate::authn::Presented;
use crate::authn::binding::certificate;
use crate::mtls::{ByCertificate, ClientCertificate};

const NOBODY: OauthError = OauthError::invalid_client("the certificate is no agent's, or is not that of this client_id");

const ANOTHERS: OauthError =
    OauthError::invalid_client("the connection's certificate is not this agent's own: connect with that, or name it in tls_client_auth_san_uri");

impl Api {
    /// Refuses to bind an agent's tokens to the certificate of another workload. The tokens of a task are renewed for any certificate of
    /// its agent: whoever had that one could renew them.
    pub(super) fn own_certificate(&self, client: &Client, presented: &Presented<'_>) -> Result<(), OauthError> {
        if !matches!(client.confirmation, Some(Confirmation::Certificate(_))) {
            return Ok(());
        }
        let whose = certificate(presented.parts).and_then(|shown| self.house.by_certificate(shown)).ok_or(ANOTHERS)?;
        let same_component = whose.component.is_none() || whose.component == client.acting.component;
        let same_copy = whose.instance.is_none_or(|copy| client.instance.is_none_or(|instance| instance == copy));
        if whose.agent == client.agent.name && same_component && same_copy { Ok(()) } else { Err(ANOTHERS) }
    }

    /// The agent whose certificate it is, and which the form names.
    pub(super) fn by_shown_certificate(&self, shown: &ClientCertificate, client_id: Option<&str>) -> Result<Client, OauthError> {
        //= rfc8705#section-2
        // For all requests to the authorization server utilizing mutual-TLS client authentication, the client MUST include the "client_id"
        // parameter described in Section 2.2 of OAuth 2.0 [RFC6749].
        let id = client_id.ok_or(OauthError::invalid_client("client_id is missing: it goes with the certificate"))?;
        //= rfc8705#section-2
        // The authorization server MUST enforce the binding between client and certificate, as described in either Section 2.1 or 2.2 below.
        // If no certificate is presented, or that which is presented doesn't match that which is expected for the given "client_id", the
        // authorization server returns a normal OAuth 2.0 error response per Section 5.2 of RFC6749 with the "invalid_client" error code.
        let ByCertificate { agent, component, instance, key } = self.house.by_certificate(shown).ok_or(NOBODY)?;
        let agent = self.house.agent(agent.as_str()).cloned().ok_or(NOBODY)?;
        let own = component.as_ref().map_or_else(|| agent.spiffe_id.clone(), |component| agent.spiffe_id.of_component(component));
        if id != own.as_str() {
            return Err(NOBODY);
        }
        self.served(&agent)?;
        let acting = Acting { component, key, ..Acting::default() };
        let used = key.map(Used::Key).or(instance.map(Used::Instance));
        Ok(Client { agent, instance, acting, used, confirmation: None, bound_to: None })
    }
}
