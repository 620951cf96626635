//! An agent that proves itself by the certificate of its connection (RFC 8705 section 2): `tls_client_auth` and `self_signed_tls_client_auth`.

use bailiwick_identity::oauth::OauthError;
use bailiwick_identity::sightings::Used;
use bailiwick_identity::token::Acting;

use super::super::asker::Api;
use super::client::Client;
use crate::mtls::{ByCertificate, ClientCertificate};

const NOBODY: OauthError = OauthError::invalid_client("the certificate is no agent's, or is not that of this client_id");

impl Api {
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
        let acting = Acting { component, ..Acting::default() };
        let used = key.map(Used::Key).or(instance.map(Used::Instance));
        Ok(Client { agent, instance, acting, used, confirmation: None, bound_to: None })
    }
}
