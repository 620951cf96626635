//! The access tokens that we issue (RFC 9068): for a task, or for an agent that has yet to open one. Issued and verified here.
//!
//! A token that verifies proves what we once said. Whether it still holds (task open, agent enabled, token not revoked) is
//! looked up by the caller at every call, also when the verification itself was remembered: see [`Verified::check_time`].

use std::time::Duration;

use bailiwick_core::{AgentName, Caller, ComponentName, InstanceId, PersonName, ProvedBy, SessionId, SpiffeId, TaskId, Timestamp, TrustDomain};
use serde_json::{Value, json};

use crate::confirmation::Confirmation;
use crate::jws::{self, Compact};
use crate::keys::{KeyError, KeyId, PublicKey, SigningKey};
use crate::oauth::Scope;
use crate::proof::ProofError;
use crate::strict::{Object, put};

/// How far the clocks of issuer and verifier may differ.
pub const SKEW: Duration = Duration::from_secs(5);
/// The longest life of a token.
pub const LIFE_MAX: Duration = Duration::from_secs(3600);
/// The most actors that a chain may name.
pub const ACTORS_MAX: usize = 16;
/// The scope of a token without a task.
pub const AGENT_SCOPE: &str = "agent";
/// The scope of a task token: the tools of the task.
pub const TOOLS_SCOPE: &str = "mcp:tools";

const TYP: &str = "at+jwt";

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// Calls of one task.
    Task {
        /// The task.
        task: TaskId,
        /// The person on whose behalf (RFC 8693 `sub`).
        subject: PersonName,
        /// The actors before the current one, nearest first, each with its instance. Empty without delegation.
        actors: Vec<SpiffeId>,
    },
    /// Opening a task, and nothing else.
    Agent,
}

/// What else is proved of whoever acts. Nothing of it is ever taken from what an agent says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acting {
    /// The component of the agent that it is.
    pub component: Option<ComponentName>,
    /// The model that it runs, as an issuer whom we trust attested it.
    pub model: Option<String>,
    /// The one person for whom it may open tasks, where its right to open any comes from that person's identity provider (ID-JAG). In the
    /// tokens that open tasks only: a task names its person itself.
    pub on_behalf_of: Option<PersonName>,
    /// The registered key by which it proved itself, if it did by one: with that key, the token goes.
    pub key: Option<KeyId>,
    /// Has the running copy a name, by its proof or by its own word, under which it comes again? The instance of one that has none was made
    /// up for its token. In the tokens that open tasks only.
    pub named: bool,
}

impl Acting {
    /// The same as a task keeps it.
    #[must_use]
    pub fn proved_by(&self) -> ProvedBy {
        self.key.map_or(ProvedBy::Other, |key| ProvedBy::Key(key.to_string()))
    }
}

/// What is to be said in a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The agent: the current actor.
    pub agent: AgentName,
    /// The running copy.
    pub instance: InstanceId,
    /// What else is proved of it.
    pub acting: Acting,
    /// What it is for.
    pub purpose: Purpose,
    /// Its scope. An agent token always has [`AGENT_SCOPE`].
    pub scope: Scope,
    /// The endpoint that it is for (RFC 8707).
    pub audience: String,
    /// Its `jti`.
    pub jti: SessionId,
    /// The key that it is bound to; none makes a token that whoever has it may use.
    pub confirmation: Option<Confirmation>,
}

/// A token as it was issued.
pub struct Issued {
    /// The compact JWS.
    pub token: String,
    /// When it expires.
    pub expires: Timestamp,
    /// Its life, in seconds: `expires_in`.
    pub expires_in: u64,
    /// The key that it is bound to.
    pub confirmation: Option<Confirmation>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Issues tokens under one issuer, one trust domain and one key.
#[derive(Debug)]
pub struct Issuer {
    issuer: String,
    domain: TrustDomain,
    key: SigningKey,
}

impl Issuer {
    /// An issuer; `issuer` is its URL, as it stands in the metadata (RFC 8414 section 2).
    #[must_use]
    pub const fn new(issuer: String, domain: TrustDomain, key: SigningKey) -> Self {
        Self { issuer, domain, key }
    }

    /// The issuer's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.issuer
    }

    /// The key, for the other tokens that this room signs.
    pub(crate) const fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The public half of the key, for the JWK set and for a [`Verifier`].
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        self.key.public()
    }

    /// Issues a token that lives for `life`, at most [`LIFE_MAX`].
    ///
    /// # Errors
    /// `Library` if the cryptographic library fails.
    pub fn issue(&self, what: &Statement, now: Timestamp, life: Duration) -> Result<Issued, KeyError> {
        let seconds = life.min(LIFE_MAX).as_secs();
        let issued = now.as_seconds();
        let expires = issued.saturating_add(i64::try_from(seconds).unwrap_or(0));
        let agent = client_id(&SpiffeId::agent(&self.domain, &what.agent), what.acting.component.as_ref());
        let mut claims = json!({
            "iss": self.issuer, "aud": what.audience, "client_id": agent, "instance": what.instance,
            "iat": issued, "nbf": issued, "exp": expires, "jti": what.jti,
        });
        if let Some(confirmation) = &what.confirmation {
            put(&mut claims, "cnf", confirmation.claim());
        }
        if let Some(model) = &what.acting.model {
            put(&mut claims, "model_attested", json!(model));
        }
        if let Some(key) = &what.acting.key {
            put(&mut claims, "client_key", json!(key.to_string()));
        }
        match &what.purpose {
            Purpose::Task { task, subject, actors } => {
                put(&mut claims, "sub", json!(subject));
                put(&mut claims, "task_id", json!(task));
                put(&mut claims, "act", act(agent.of_instance(what.instance).as_str(), actors));
                put(&mut claims, "scope", json!(what.scope.to_string()));
            }
            Purpose::Agent => {
                //= rfc9068#section-2.2
                // In cases of access tokens obtained through grants where no resource owner is involved, such as the client
                // credentials grant, the value of "sub" SHOULD correspond to an identifier the authorization server uses to
                // indicate the client application.
                put(&mut claims, "sub", json!(agent));
                put(&mut claims, "scope", json!(AGENT_SCOPE));
                if what.acting.named {
                    put(&mut claims, "instance_named", json!(true));
                }
                if let Some(person) = &what.acting.on_behalf_of {
                    //= rfc9068#section-2.2
                    // In case of access tokens obtained through grants where a resource owner is involved, such as the authorization
                    // code grant, the value of "sub" SHOULD correspond to the subject identifier of the resource owner.
                    put(&mut claims, "sub", json!(person));
                    put(&mut claims, "act", act(agent.of_instance(what.instance).as_str(), &[]));
                }
            }
        }
        Ok(Issued {
            token: jws::sign(&self.key, TYP, &claims)?,
            expires: Timestamp::from_seconds(expires),
            expires_in: seconds,
            confirmation: what.confirmation,
        })
    }
}

//= rfc8693#section-4.1
// A chain of delegation can be expressed by nesting one act claim within another. The outermost act claim represents the
// current actor while nested act claims represent prior actors.
pub(crate) fn act(current: &str, before: &[SpiffeId]) -> Value {
    let inner = before.iter().rev().fold(None, |inner, actor| Some(one_act(actor.as_str(), inner)));
    one_act(current, inner)
}

fn one_act(sub: &str, inner: Option<Value>) -> Value {
    match inner {
        Some(inner) => json!({ "sub": sub, "act": inner }),
        None => json!({ "sub": sub }),
    }
}

/// What a token of ours proved. Only [`Verifier::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Its `jti`.
    pub jti: SessionId,
    /// The agent: the current actor.
    pub agent: AgentName,
    /// The agent's SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// The running copy.
    pub instance: InstanceId,
    /// What else is proved of it.
    pub acting: Acting,
    /// What it is for.
    pub purpose: Purpose,
    /// Its scope.
    pub scope: Scope,
    /// Its audience.
    pub audience: String,
    /// Its issuer.
    pub issuer: String,
    /// When it was issued.
    pub issued: Timestamp,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
    /// Which of our keys signed it.
    pub key: KeyId,
    /// The key that it is bound to: whoever presents it proves that one too.
    pub confirmation: Option<Confirmation>,
}

impl Verified {
    /// Who it was issued to (RFC 8693 section 4.3): the agent's SPIFFE ID, or that of its component.
    #[must_use]
    pub fn client_id(&self) -> SpiffeId {
        client_id(&self.spiffe_id, self.acting.component.as_ref())
    }

    /// The current actor: the agent or its component, and the running copy.
    #[must_use]
    pub fn actor(&self) -> SpiffeId {
        self.client_id().of_instance(self.instance)
    }

    /// The task, if it is a task token.
    #[must_use]
    pub const fn task(&self) -> Option<TaskId> {
        match self.purpose {
            Purpose::Task { task, .. } => Some(task),
            Purpose::Agent => None,
        }
    }

    /// Who calls, if it is a task token.
    #[must_use]
    pub fn caller(&self) -> Option<Caller> {
        match &self.purpose {
            Purpose::Task { task, subject, actors } => Some(Caller {
                agent: self.agent.clone(),
                spiffe_id: self.spiffe_id.clone(),
                component: self.acting.component.clone(),
                instance: self.instance,
                subject: subject.clone(),
                actors: actors.clone(),
                task: *task,
                token: self.jti.to_string(),
            }),
            Purpose::Agent => None,
        }
    }

    /// Checks the times again: for a token whose verification was remembered.
    ///
    /// # Errors
    /// `Expired`, `NotYet`, `IssuedAt` or `Lifetime`.
    pub fn check_time(&self, now: Timestamp) -> Result<(), ProofError> {
        //= rfc7519#section-4.1.4
        // The "exp" (expiration time) claim identifies the expiration time on or after which the JWT MUST NOT be accepted for
        // processing. [...] Implementers MAY provide for some small leeway, usually no more than a few minutes, to account
        // for clock skew.
        if now >= self.expires.plus(SKEW) {
            return Err(ProofError::Expired);
        }
        //= rfc7519#section-4.1.5
        // The "nbf" (not before) claim identifies the time before which the JWT MUST NOT be accepted for processing.
        if now.plus(SKEW) < self.not_before {
            return Err(ProofError::NotYet);
        }
        if now.plus(SKEW) < self.issued {
            return Err(ProofError::IssuedAt);
        }
        if self.issued.until(self.expires) > LIFE_MAX {
            return Err(ProofError::Lifetime);
        }
        Ok(())
    }
}

/// Verifies tokens of one issuer, one trust domain and its keys (the present one, and those before it while tokens live).
#[derive(Clone, Debug)]
pub struct Verifier {
    issuer: String,
    domain: TrustDomain,
    keys: Vec<PublicKey>,
}

impl Verifier {
    /// A verifier. Without keys it refuses everything.
    #[must_use]
    pub const fn new(issuer: String, domain: TrustDomain, keys: Vec<PublicKey>) -> Self {
        Self { issuer, domain, keys }
    }

    /// Verifies a token that was presented at the endpoint `audience`.
    ///
    /// # Errors
    /// The first rule that the token breaks; it is refused then.
    pub fn verify(&self, token: &str, audience: &str, now: Timestamp) -> Result<Verified, ProofError> {
        let jws = Compact::parse(token)?;
        //= rfc9068#section-4
        // The resource server MUST verify that the "typ" header value is "at+jwt" or "application/at+jwt" and reject tokens
        // carrying any other value.
        let key = self.key_of(&jws, TYP)?;
        //= rfc9068#section-4
        // The resource server MUST validate the signature of all incoming JWT access tokens according to [RFC7515] using the
        // algorithm specified in the JWT "alg" Header Parameter. The resource server MUST reject any JWT in which the value
        // of "alg" is "none".
        jws.verified_by(key)?;
        let verified = self.read(&jws.claims, key.id())?;
        //= rfc9068#section-4
        // The resource server MUST validate that the "aud" claim contains a resource indicator value corresponding to an
        // identifier the resource server expects for itself.
        if verified.audience != audience {
            return Err(ProofError::Audience);
        }
        verified.check_time(now)?;
        Ok(verified)
    }

    /// The issuer's URL.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key of ours that a token of this type of ours names.
    pub(crate) fn key_of(&self, jws: &Compact<'_>, typ: &str) -> Result<&PublicKey, ProofError> {
        //= rfc8725#section-3.1
        // We sign with EdDSA and nothing else, so nothing else is looked at.
        if jws.algorithm()? != "EdDSA" {
            return Err(ProofError::Algorithm);
        }
        if jws.typ()?.as_deref() != Some(typ) {
            return Err(ProofError::Type);
        }
        // We write these three and no others.
        if jws.header.names().any(|n| !matches!(n, "alg" | "typ" | "kid")) {
            return Err(ProofError::Header("unknown"));
        }
        //= rfc8725#section-3.10
        // The relying application should ensure that this does not create SQL or LDAP injection vulnerabilities by validating
        // and/or sanitizing the received value. It is parsed as a thumbprint and compared, nothing else.
        let kid: KeyId = jws.header.parsed("kid").map_err(|_| ProofError::Key)?;
        self.keys.iter().find(|key| key.id() == kid).ok_or(ProofError::Key)
    }

    fn read(&self, claims: &Object, key: KeyId) -> Result<Verified, ProofError> {
        //= rfc9068#section-4
        // The issuer identifier for the authorization server (which is typically obtained during discovery) MUST exactly match
        // the value of the "iss" claim.
        if claims.text("iss")? != self.issuer {
            return Err(ProofError::Issuer);
        }
        let client: SpiffeId = claims.parsed("client_id")?;
        let (agent, component) = workload(&self.domain, &client).ok_or(ProofError::Claim("client_id"))?;
        let instance: InstanceId = claims.parsed("instance")?;
        let scope: Scope = claims.parsed("scope")?;
        let (mut on_behalf_of, mut named) = (None, false);
        let purpose = match claims.parsed_if("task_id")? {
            Some(task) => {
                let current = client.of_instance(instance);
                Purpose::Task { task, subject: claims.parsed("sub")?, actors: chain(claims, current.as_str())? }
            }
            None => {
                on_behalf_of = agent_only(claims, &client, instance, &scope)?;
                named = claims.member("instance_named").map_or(Some(false), Value::as_bool).ok_or(ProofError::Claim("instance_named"))?;
                Purpose::Agent
            }
        };
        Ok(Verified {
            jti: claims.parsed("jti")?,
            spiffe_id: SpiffeId::agent(&self.domain, &agent),
            agent,
            instance,
            acting: Acting {
                component,
                model: claims.text_if("model_attested")?.map(str::to_owned),
                on_behalf_of,
                key: claims.parsed_if("client_key")?,
                named,
            },
            purpose,
            scope,
            audience: claims.text("aud")?.to_owned(),
            issuer: self.issuer.clone(),
            issued: claims.time("iat")?,
            not_before: claims.time("nbf")?,
            expires: claims.time("exp")?,
            key,
            confirmation: claims.member("cnf").map(Confirmation::of_claim).transpose()?,
        })
    }
}

/// The person for whom a token without a task may open some, if it says one.
fn agent_only(claims: &Object, client: &SpiffeId, instance: InstanceId, scope: &Scope) -> Result<Option<PersonName>, ProofError> {
    if !scope.is_exactly(AGENT_SCOPE) {
        return Err(ProofError::Claim("scope"));
    }
    if claims.text("sub")? == client.as_str() {
        return if claims.member("act").is_some() { Err(ProofError::Claim("act")) } else { Ok(None) };
    }
    // No person's name is a SPIFFE ID. The actor is the client itself, and nobody stands between.
    let person = claims.parsed("sub")?;
    if chain(claims, client.of_instance(instance).as_str())?.is_empty() { Ok(Some(person)) } else { Err(ProofError::Claim("act")) }
}

/// The actors before the current one. The current one must be the `client_id` and `instance` of the token.
fn chain(claims: &Object, current: &str) -> Result<Vec<SpiffeId>, ProofError> {
    const ACT: ProofError = ProofError::Claim("act");
    let mut next = claims.member("act");
    let mut actors: Vec<SpiffeId> = Vec::new();
    while let Some(act) = next {
        if actors.len() > ACTORS_MAX {
            return Err(ACT);
        }
        actors.push(act.get("sub").and_then(Value::as_str).and_then(|s| s.parse().ok()).ok_or(ACT)?);
        next = act.get("act");
    }
    match actors.split_first() {
        Some((first, before)) if first.as_str() == current => Ok(before.to_vec()),
        _ => Err(ACT),
    }
}

fn client_id(agent: &SpiffeId, component: Option<&ComponentName>) -> SpiffeId {
    component.map_or_else(|| agent.clone(), |component| agent.of_component(component))
}

/// The agent, and the component of it, that a SPIFFE ID under this trust domain names: exactly `spiffe://<domain>/agent/<name>` or
/// `spiffe://<domain>/agent/<name>/<component>`.
#[must_use]
pub fn workload(domain: &TrustDomain, id: &SpiffeId) -> Option<(AgentName, Option<ComponentName>)> {
    let rest = id.as_str().strip_prefix("spiffe://")?.strip_prefix(domain.as_str())?.strip_prefix("/agent/")?;
    match rest.split_once('/') {
        None => Some((rest.parse().ok()?, None)),
        Some((agent, component)) => Some((agent.parse().ok()?, Some(component.parse().ok()?))),
    }
}

/// The name in an agent's SPIFFE ID under this trust domain: exactly `spiffe://<domain>/agent/<name>`.
#[must_use]
pub fn agent_name(domain: &TrustDomain, id: &SpiffeId) -> Option<AgentName> {
    let rest = id.as_str().strip_prefix("spiffe://")?.strip_prefix(domain.as_str())?;
    rest.strip_prefix("/agent/")?.parse().ok()
}

#[cfg(test)]
mod tests;
