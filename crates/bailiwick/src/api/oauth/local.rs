//! An agent that proves itself by the process that it is: at the broker's own Unix socket, attested by the kernel.

use bailiwick_identity::oauth::OauthError;
use bailiwick_identity::sightings::Used;
use bailiwick_identity::token::Acting;

use super::super::asker::Api;
use super::client::Client;
use crate::spiffe::LocalProcess;

const NOBODY: OauthError = OauthError::invalid_client("no agent is registered for this process");

impl Api {
    /// The agent whose `local` rules cover the process. A form that says that it is another is refused.
    pub(super) async fn by_process(&self, process: &LocalProcess, client_id: Option<&str>) -> Result<Client, OauthError> {
        let attested = self.house.attested(&process.0).await.map_err(|_| NOBODY)?;
        let agent = self.house.agent(attested.agent.as_str()).cloned().ok_or(NOBODY)?;
        //= rfc6749#section-3.2.1
        // A client MAY use the "client_id" request parameter to identify itself when sending requests to the token endpoint.
        if client_id.is_some_and(|id| id != agent.spiffe_id.as_str()) {
            return Err(NOBODY);
        }
        self.served(&agent)?;
        let instance = attested.instance;
        Ok(Client { agent, instance, acting: Acting::default(), used: instance.map(Used::Instance), confirmation: None, bound_to: None })
    }
}
