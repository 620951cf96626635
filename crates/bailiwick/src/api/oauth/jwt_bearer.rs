//! The JWT bearer grant (RFC 7523 section 2.1): a workload's own token in place of a client's key, or the leave of an identity provider
//! (ID-JAG) beside the client's proof.

use bailiwick_core::ErrorCode;
use bailiwick_identity::Confirmation;
use bailiwick_identity::oauth::{ClientProof, OauthError, TokenRequest};
use bailiwick_identity::sightings::Used;
use bailiwick_identity::token::{AGENT_SCOPE, Acting, TOOLS_SCOPE};

use super::super::asker::Api;
use super::STORE_DOWN;
use super::client::Client;
use crate::authn::Presented;
use crate::proofs::{Asserted, Leave, Proven, Unproven};

//= rfc7523#section-3.1
// If the JWT is not valid, or has expired, the authorization server constructs an error response as defined in OAuth 2.0. The value of
// the "error" parameter MUST be the "invalid_grant" error code.
const NOT_VALID: OauthError = OauthError::invalid_grant("the assertion is not valid, or is not this client's");
const NO_TASK: OauthError = OauthError::invalid_request("a token of a task is renewed by the agent's own proof");

impl Api {
    /// Who asks by an RFC 7523 grant.
    pub(super) async fn by_grant(&self, jwt: &str, asked: &TokenRequest, presented: &Presented<'_>) -> Result<Client, OauthError> {
        match self.house.asserted(jwt).await.map_err(|why| refused(&why, presented, NOT_VALID))? {
            Asserted::Workload(proven) => {
                let client = self.by_workload(proven, NOT_VALID)?;
                let beside = self.same_client(&client, asked, presented).await?;
                Ok(Client { bound_to: both(client.bound_to, beside)?, ..client })
            }
            Asserted::Person(leave) => self.by_leave(leave, asked, presented).await,
        }
    }

    /// The agent that a JWT-SVID proves (draft-ietf-oauth-spiffe-client-auth section 3.1).
    pub(super) async fn by_svid(&self, svid: &str, client_id: Option<&str>, presented: &Presented<'_>) -> Result<Client, OauthError> {
        //= rfc7523#section-3.2
        // If the client JWT is not valid, the value of the "error" parameter MUST be the "invalid_client" error code.
        const INVALID: OauthError = OauthError::invalid_client("the client assertion is not valid");
        let proven = self.house.by_svid(svid).await.map_err(|why| refused(&why, presented, INVALID))?;
        let client = self.by_workload(proven, INVALID)?;
        if client_id.is_some_and(|id| id != self.client_id(&client)) {
            return Err(INVALID);
        }
        Ok(client)
    }

    fn by_workload(&self, proven: Proven, invalid: OauthError) -> Result<Client, OauthError> {
        let Proven { agent, component, instance, model, confirmation } = proven;
        let agent = self.house.agent(agent.as_str()).cloned().ok_or(invalid)?;
        self.served(&agent)?;
        Ok(Client {
            agent,
            acting: Acting { component, model, ..Acting::default() },
            // Many copies share an issuer's key: what is in one place is the copy, where the token tells it.
            used: instance.map(Used::Instance),
            instance,
            confirmation: None,
            bound_to: confirmation,
        })
    }

    fn client_id(&self, client: &Client) -> String {
        let id = &client.agent.spiffe_id;
        client.acting.component.as_ref().map_or_else(|| id.to_string(), |component| id.of_component(component).to_string())
    }

    /// A client that says who it is, beside a workload's token, is the one whose token it is. Gives the key that its proof is bound to.
    async fn same_client(&self, client: &Client, asked: &TokenRequest, presented: &Presented<'_>) -> Result<Option<Confirmation>, OauthError> {
        //= rfc7521#section-4.1
        // Authentication of the client is optional, as described in Section 3.2.1 of OAuth 2.0 [RFC6749], and consequently the
        // "client_id" is only needed when a form of client authentication that relies on the parameter is used. [...] if client
        // authentication is present, the authorization server MUST validate it.
        match &asked.client {
            ClientProof::Nothing { client_id } => {
                let same = client_id.as_deref().is_none_or(|id| id == self.client_id(client));
                if same { Ok(None) } else { Err(NOT_VALID) }
            }
            proof => {
                let other = self.client(proof, presented).await?;
                if self.client_id(&other) == self.client_id(client) { Ok(other.bound_to) } else { Err(NOT_VALID) }
            }
        }
    }

    /// A client that proves itself, with the leave of an identity provider to act for one person.
    async fn by_leave(&self, leave: Leave, asked: &TokenRequest, presented: &Presented<'_>) -> Result<Client, OauthError> {
        if asked.task.is_some() {
            return Err(NO_TASK);
        }
        let client = self.client(&asked.client, presented).await?;
        //= draft-ietf-oauth-identity-assertion-authz-grant-03#section-4.4.1
        // The "client_id" claim MUST identify the same client as the client authentication in the request. [...] If they do not match,
        // the Resource Authorization Server MUST reject the request with an "invalid_grant" error.
        let ours = leave.jag.client_id == self.client_id(&client);
        if !ours || !self.house.takes_leave(&client.agent.name, client.acting.component.as_ref(), &leave) {
            tracing::info!(agent = %client.agent.name, issuer = leave.issuer, ours, "an ID-JAG is not this client's, or the client takes none of its issuer");
            return Err(NOT_VALID);
        }
        self.within(&leave)?;
        let bound_to = both(leave.jag.confirmation, client.bound_to)?;
        self.once(&client, &leave, presented).await?;
        let acting = Acting { on_behalf_of: Some(leave.person), ..client.acting };
        Ok(Client { acting, bound_to, ..client })
    }

    /// Grants it what our token stands for? A token is for the whole endpoint, and opens tasks.
    fn within(&self, leave: &Leave) -> Result<(), OauthError> {
        let mcp = &self.house.urls.mcp;
        let resources = &leave.jag.resources;
        if !resources.is_empty() && !resources.iter().any(|resource| resource.strip_suffix('/').unwrap_or(resource) == mcp) {
            return Err(OauthError::invalid_target());
        }
        let enough = leave.jag.scope.as_ref().is_none_or(|scope| scope.words().any(|word| word == AGENT_SCOPE || word == TOOLS_SCOPE));
        if enough { Ok(()) } else { Err(OauthError::invalid_scope()) }
    }

    /// An ID-JAG is used once.
    async fn once(&self, client: &Client, leave: &Leave, presented: &Presented<'_>) -> Result<(), OauthError> {
        let house = &self.house;
        let issuer = format!("id_jag:{}", leave.issuer);
        let first = house.store.jti_use(&issuer, &leave.jag.jti, leave.jag.remember_until(), house.clock.now()).await.map_err(|error| {
            tracing::error!(error.code = %error.code(), %error, "no token was issued: the store failed");
            STORE_DOWN
        })?;
        if first {
            return Ok(());
        }
        if self.tells_replay(&client.agent.name) {
            let detail =
                format!("an ID-JAG of issuer `{}` for agent `{}` was presented again, from {}", leave.issuer, client.agent.name, presented.from);
            house.incident("assertion_replayed", Some(&client.agent), None, &detail).await;
        }
        Err(NOT_VALID)
    }
}

/// The key that two tokens are bound to which a request shows side by side. A request shows one key: what is bound to two is not shown.
fn both(one: Option<Confirmation>, other: Option<Confirmation>) -> Result<Option<Confirmation>, OauthError> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => Err(NOT_VALID),
        (one, other) => Ok(one.or(other)),
    }
}

impl Client {
    /// Refuses what is bound to a key that the request does not prove.
    pub(super) fn has_shown_its_key(&self) -> Result<(), OauthError> {
        //= draft-ietf-oauth-identity-assertion-authz-grant-03#section-9.8.1.2.2
        // If the ID-JAG contains a "cnf" claim but the client does not present a DPoP proof, the Resource Authorization Server MUST
        // reject the request with an "invalid_grant" error, as the ID-JAG requires proof of possession. The same for every other token
        // that says so of itself.
        if self.bound_to.is_none() || self.bound_to == self.confirmation { Ok(()) } else { Err(NOT_VALID) }
    }
}

fn refused(why: &Unproven, presented: &Presented<'_>, public: OauthError) -> OauthError {
    tracing::info!(error.code = %ErrorCode::ProofInvalid, %why, from = %presented.from, "a token of another issuer was refused");
    public
}
