//! Who asks at the OAuth endpoints: an agent, proved by what its request or its connection shows, and in service.

use bailiwick_core::{Agent, InstanceId};
use bailiwick_identity::assertion::{self, Proved, Registered};
use bailiwick_identity::oauth::{ClientProof, OauthError};
use bailiwick_identity::sightings::Used;
use bailiwick_identity::token::{Acting, workload};
use bailiwick_identity::{Confirmation, ProofError};

use super::super::asker::Api;
use super::STORE_DOWN;
use crate::authn::Presented;
use crate::authn::binding::certificate;
use crate::house::House;
use crate::spiffe::LocalProcess;

/// An agent that proved itself.
#[derive(Debug)]
pub(super) struct Client {
    /// The agent: registered, and in service.
    pub(super) agent: Agent,
    /// The running copy, if the proof names it.
    pub(super) instance: Option<InstanceId>,
    /// What else its proof proves: the component that it is, the model that it runs.
    pub(super) acting: Acting,
    /// What it proved itself with, to see one identity used from two places.
    pub(super) used: Option<Used>,
    /// The key that its tokens are bound to, if it proved one with this request.
    pub(super) confirmation: Option<Confirmation>,
    /// The key that what it showed is bound to itself, and that it has to have proved, therefore.
    pub(super) bound_to: Option<Confirmation>,
}

const NOT_VALID: OauthError = OauthError::invalid_client("the client assertion is not valid");
const NOTHING: OauthError = OauthError::invalid_client("the client did not authenticate: use private_key_jwt");

impl Api {
    /// The agent behind a request, whatever way it proves itself.
    pub(super) async fn client(&self, proof: &ClientProof, presented: &Presented<'_>) -> Result<Client, OauthError> {
        match proof {
            ClientProof::Nothing { client_id } if presented.parts.extensions.get::<LocalProcess>().is_some() => {
                let process = presented.parts.extensions.get::<LocalProcess>().ok_or(NOTHING)?;
                self.by_process(process, client_id.as_deref()).await
            }
            ClientProof::Nothing { client_id } if certificate(presented.parts).is_some() => {
                let shown = certificate(presented.parts).ok_or(NOTHING)?;
                self.by_shown_certificate(shown, client_id.as_deref())
            }
            ClientProof::Svid { assertion, client_id } => self.by_svid(assertion, client_id.as_deref(), presented).await,
            ClientProof::Assertion { assertion, client_id } => self.by_assertion(assertion, client_id.as_deref(), presented).await,
            _ => Err(NOTHING),
        }
    }

    /// Refuses an agent that is suspended or overdue for review.
    pub(super) fn served(&self, agent: &Agent) -> Result<(), OauthError> {
        self.house.in_service(agent, self.house.clock.now()).map_err(|why| {
            tracing::warn!(%why, "an agent was refused");
            OauthError::unauthorized_client("the agent is suspended, or overdue for review by its owner")
        })
    }

    /// The agent that an assertion proves: registered, in service, and proving itself for the first time by this assertion.
    async fn by_assertion(&self, assertion: &str, client_id: Option<&str>, presented: &Presented<'_>) -> Result<Client, OauthError> {
        let (house, from) = (&self.house, presented.from);
        let now = house.clock.now();
        let audiences = assertion::audiences(&house.urls.base, &house.urls.token);
        let verify = || assertion::verify(assertion, client_id, |id| registered(house, id), &audiences, now);
        let proved = match verify() {
            Err(ProofError::Key | ProofError::Signature) if self.read_keys_again() => verify(),
            result => result,
        };
        let proved = proved.map_err(|error| {
            tracing::info!(error.code = %error.code(), %error, %from, "a client assertion was refused");
            NOT_VALID
        })?;
        let agent = house.agent(proved.agent.as_str()).cloned().ok_or(NOT_VALID)?;
        self.served(&agent)?;
        let first = house.store.jti_use(agent.spiffe_id.as_str(), &proved.jti, proved.remember_until(), now).await.map_err(|error| {
            tracing::error!(error.code = %error.code(), %error, "no token was issued: the store failed");
            STORE_DOWN
        })?;
        if !first {
            if self.tells_replay(&agent.name) {
                let detail = format!("an assertion of agent `{}` was presented again, from {from}", agent.name);
                house.incident("assertion_replayed", Some(&agent), None, &detail).await;
            }
            return Err(NOT_VALID);
        }
        let Proved { instance, key, component, .. } = proved;
        let acting = Acting { component, key: Some(key), ..Acting::default() };
        Ok(Client { agent, instance, acting, used: Some(Used::Key(key)), confirmation: None, bound_to: None })
    }
}

fn registered(house: &House, client_id: &str) -> Option<Registered> {
    let (agent, component) = workload(&house.config.trust_domain, &client_id.parse().ok()?)?;
    let entry = house.config.agents.get(&agent)?;
    let keys = match &component {
        None => house.agent_keys(&agent),
        // A component has keys of its own; one that is not registered has none.
        Some(component) if entry.components.contains_key(component) => house.component_keys(&agent, component),
        Some(_) => return None,
    };
    Some(Registered { agent, component, keys })
}
