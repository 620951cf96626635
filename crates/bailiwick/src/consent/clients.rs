//! Who an interactive client is: a metadata document on a host that the configuration names, or a registration that the client carries.

use bailiwick_core::{Digest, Timestamp};
use bailiwick_identity::Algorithm;
use bailiwick_identity::foreign::KeySet;
use bailiwick_identity::oauth::{ClientIdUrl, ClientKeys, ClientMetadata, OauthError, Registration};
use bailiwick_identity::token::{AGENT_SCOPE, TOOLS_SCOPE};

use crate::house::House;

/// A client, as far as it can be known.
#[derive(Clone, Debug)]
pub struct InteractiveClient {
    /// Its `client_id`.
    pub id: String,
    /// What it says of itself.
    pub metadata: ClientMetadata,
    /// The host that vouches for that. None: nobody does.
    pub vouched_by: Option<String>,
}

/// Why a client is not known, for the person who was sent here by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRefused(pub String);

/// The word under which registrations are sealed.
const REGISTRATION: &str = "bailiwick/client/v1";

impl InteractiveClient {
    /// Does it prove itself at the token endpoint?
    #[must_use]
    pub const fn authenticates(&self) -> bool {
        !matches!(self.metadata.keys, ClientKeys::Public)
    }

    /// Its ID as it is recorded: a URL as it is; what we made ourselves, by its digest.
    #[must_use]
    pub fn recorded_id(&self) -> String {
        if self.vouched_by.is_some() { self.id.clone() } else { format!("registered:{}", Digest::of(self.id.as_bytes())) }
    }
}

impl House {
    /// The scope that a client should ask for: what knows nothing but our URL asks for the tools, and its person opens a task for it.
    /// Elsewhere clients are agents, whose tokens open their tasks; they may ask for either.
    #[must_use]
    pub const fn scope_to_ask(&self) -> &'static str {
        if self.config.clients.interactive { TOOLS_SCOPE } else { AGENT_SCOPE }
    }

    /// The client of this ID. A document is fetched if it must be: only for somebody who is signed in.
    ///
    /// # Errors
    /// Why it is not known, in words for the person.
    pub async fn interactive_client(&self, id: &str) -> Result<InteractiveClient, ClientRefused> {
        if !id.starts_with("https://") {
            return self.registered_client(id);
        }
        let refused = |why: String| ClientRefused(why);
        let url: ClientIdUrl = id.parse().map_err(|e| refused(format!("the client's ID is not usable: {e}")))?;
        let authority = url.authority();
        if !self.config.clients.reads(&authority) {
            return Err(refused(format!("clients of `{authority}` are not known here; the operator allows them with `document_hosts` in [clients]")));
        }
        let metadata = self.consents.documents.of(&url, &self.config.clients, self.clock.now()).await.map_err(|why| {
            tracing::info!(client = %url, %why, "a client's metadata document was not usable");
            refused(format!("what the client says of itself at `{authority}` cannot be used: {why}"))
        })?;
        Ok(InteractiveClient { id: id.to_owned(), metadata, vouched_by: Some(authority) })
    }

    /// The keys with which a client proves itself, if it is one that does, and the algorithm, if it says one; `again` if one was missing among those that are kept. Only for
    /// somebody whom a person allowed something: whoever just says that it is a client makes us fetch nothing.
    ///
    /// # Errors
    /// Why they cannot be had, in words for the log.
    pub(crate) async fn keys_of_client(&self, id: &str, again: bool) -> Result<(KeySet, Option<Algorithm>), String> {
        let client = self.interactive_client(id).await.map_err(|why| why.0)?;
        let keys = match client.metadata.keys {
            ClientKeys::Public => return Err("its document says that it has none".to_owned()),
            ClientKeys::Here(keys) => keys,
            ClientKeys::At(url) if self.config.clients.reads(&url.authority()) => {
                self.consents.documents.keys(&url, &self.config.clients, again, self.clock.now()).await?
            }
            ClientKeys::At(url) => {
                return Err(format!("its keys are at `{}`, which `document_hosts` in [clients] does not name", url.authority()));
            }
        };
        Ok((keys, client.metadata.signs_by))
    }

    /// The client that carries this registration.
    ///
    /// # Errors
    /// Why it is not known, in words for the person.
    pub fn registered_client(&self, id: &str) -> Result<InteractiveClient, ClientRefused> {
        const UNKNOWN: &str = "this client is not known here, or must register again";
        let clients = &self.config.clients;
        let known = if clients.registration { self.state_seal.open_as::<Registration>(REGISTRATION, id) } else { None };
        let registration = known.filter(|r| self.clock.now() < Timestamp::from_seconds(r.until)).ok_or_else(|| ClientRefused(UNKNOWN.to_owned()))?;
        let metadata = registration.metadata(&clients.redirect_schemes).map_err(|e| ClientRefused(e.description().to_owned()))?;
        Ok(InteractiveClient { id: id.to_owned(), metadata, vouched_by: None })
    }

    /// Registers a client: what it said comes back to it as its ID, sealed. Nothing is kept here, so nobody can fill anything up.
    ///
    /// # Errors
    /// Why the client is not registered; `None` if the cryptographic library fails.
    pub fn register_client(&self, body: &[u8]) -> Result<serde_json::Value, Option<OauthError>> {
        let clients = &self.config.clients;
        let metadata = ClientMetadata::of_registration(body, &clients.redirect_schemes)?;
        let now = self.clock.now();
        let registration = Registration::new(&metadata, now.plus(clients.registration_life).as_seconds());
        let id = self.state_seal.seal_as(REGISTRATION, &registration).ok_or(None)?;
        Ok(registration.answer(&id, now.as_seconds()))
    }
}
