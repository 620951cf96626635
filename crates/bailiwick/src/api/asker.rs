//! Who asks: a person by a proof for this very request, or an agent by its token. Nothing of the API is reached without one of them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequestParts};
use bailiwick_core::{Agent, AgentName, ErrorCode, Person, PersonName, Role, Task, Timestamp};
use bailiwick_identity::{KeyId, Proof, ProofError, PublicKey, person};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::body::Named;
use super::problem::Problem;
use crate::authn::Presented;
use crate::house::House;
use crate::tokens::Bearer;

/// Keys are read from the disk again at most this often, whatever strangers present.
const READ_KEYS_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Replays of one agent within this time are one incident.
const REPLAYS_TOLD_AFTER: Duration = Duration::from_secs(10);

/// What the routes share.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) house: Arc<House>,
    keys_read: Mutex<Option<Timestamp>>,
    replays: Mutex<HashMap<AgentName, Timestamp>>,
}

/// A person, and the key that he or she proved to hold.
#[derive(Debug)]
pub(super) struct ByPerson {
    pub(super) person: Person,
    pub(super) key: PublicKey,
}

/// An agent's token that has no task yet.
#[derive(Debug)]
pub(super) struct ByAgent(pub(super) Bearer);

/// Whoever proved anything.
#[derive(Debug)]
pub(super) enum Asker {
    Person(ByPerson),
    Token(Bearer),
}

impl Api {
    pub(super) fn new(house: Arc<House>) -> Self {
        Self { house, keys_read: Mutex::new(None), replays: Mutex::default() }
    }

    /// Reads the keys of agents and people anew, if that was not done a moment ago.
    pub(super) fn read_keys_again(&self) -> bool {
        let now = self.house.clock.now();
        {
            let mut last = self.keys_read.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|at| at.until(now) < READ_KEYS_AGAIN_AFTER) {
                return false;
            }
            *last = Some(now);
        }
        match self.house.keyring.reload() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the keys of agents and people could not be read anew");
                false
            }
        }
    }

    /// Is a replay by this agent to be told? Not again within a while, so that replaying does not fill the record.
    pub(super) fn tells_replay(&self, agent: &AgentName) -> bool {
        let now = self.house.clock.now();
        let mut told = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(agent).is_some_and(|at| at.until(now) < REPLAYS_TOLD_AFTER) {
            return false;
        }
        told.insert(agent.clone(), now);
        true
    }

    /// The person who proved that he or she makes this very request.
    pub(super) async fn person(&self, proof: &str, parts: &Parts) -> Result<ByPerson, Problem> {
        let house = &self.house;
        let refused = |error: &ProofError| {
            tracing::info!(error.code = %error.code(), %error, "a person's proof was refused");
            Problem::unauthenticated(error.code())
        };
        let target = self.target(parts);
        let request = person::Request { method: parts.method.as_str(), target: &target };
        let now = house.clock.now();
        let verify = || person::verify(proof, |key| self.holder(proof, key), &house.urls.base, request, now);
        let asked = match verify() {
            Err(ProofError::Key) if self.read_keys_again() => verify(),
            result => result,
        }
        .map_err(|e| refused(&e))?;
        let known = house.person(asked.person.as_str());
        let key = house.person_keys(asked.person.as_str()).into_iter().find(|k| k.id() == asked.key);
        let (Some(person), Some(key)) = (known, key) else { return Err(refused(&ProofError::Key)) };
        let issuer = format!("person:{}", person.name);
        // On a full disk too: it may be a revocation.
        let first = house.store.taking_away().jti_use(&issuer, &asked.jti, asked.remember_until(), now).await;
        if let Err(error) = &first
            && parts.method == http::Method::POST
            && parts.uri.path().ends_with("/revoke")
        {
            // A proof is of one method and target, and revoking twice is revoking once: it need not be remembered to be heeded.
            tracing::error!(error.code = %error.code(), %error, "a person's proof for a revocation is heeded although it cannot be remembered");
        } else if !first? {
            tracing::warn!(person = %person.name, "a person's proof was presented twice");
            return Err(Problem::unauthenticated(ErrorCode::ProofInvalid));
        }
        Ok(ByPerson { person, key })
    }

    /// The person whom the proof names, if that person holds this key. What the proof says of itself only chooses where to look.
    fn holder(&self, proof: &str, key: &KeyId) -> Option<(PersonName, PublicKey)> {
        let name: PersonName = says(proof, 1, "sub")?.parse().ok()?;
        self.house.person(name.as_str())?;
        let found = self.house.person_keys(name.as_str()).into_iter().find(|k| k.id() == *key)?;
        Some((name, found))
    }

    /// Path and query as the person's client knows them: below the public URL's own path, if it has one.
    fn target(&self, parts: &Parts) -> String {
        let base = self.house.urls.base.parse::<url::Url>().ok();
        let prefix = base.as_ref().map_or("", |u| u.path()).trim_end_matches('/');
        format!("{prefix}{}", parts.uri.path_and_query().map_or("/", |p| p.as_str()))
    }
}

/// One member of a JWT's header (0) or claims (1), before anything is verified: to choose how to verify, never to believe.
fn says(jwt: &str, part: usize, member: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(part)?).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    value.get(member)?.as_str().map(str::to_owned)
}

/// The peer's address, which the listener puts beside the request.
pub(super) fn peer(parts: &Parts) -> Result<IpAddr, Problem> {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|c| c.0.ip());
    peer.ok_or_else(|| {
        tracing::error!("a request came without its peer's address: refused");
        Problem::new(ErrorCode::Internal)
    })
}

impl FromRequestParts<Arc<Api>> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let from = peer(parts)?;
        let given = match parts.headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).map(Proof::from_authorization) {
            Some(Ok(Proof::Person(proof))) => Some(proof.to_owned()),
            // The proof of a person may come as a bearer token too; its type tells it from a token of ours.
            Some(Ok(Proof::Bearer(token))) if says(token, 0, "typ").as_deref() == Some(PERSON_TYP) => Some(token.to_owned()),
            _ => None,
        };
        match given {
            Some(proof) if parts.headers.get_all(AUTHORIZATION).iter().count() == 1 => api.person(&proof, parts).await.map(Self::Person),
            _ => {
                let bearer = api.house.bearer(&Presented { from, parts }).await;
                bearer.map(Self::Token).map_err(|why| Problem::unauthenticated(why.code))
            }
        }
    }
}

/// The type of a person's proof, as `identity::person` makes it.
const PERSON_TYP: &str = "bailiwick-person+jwt";

impl FromRequestParts<Arc<Api>> for ByPerson {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        match Asker::from_request_parts(parts, api).await? {
            Asker::Person(person) => Ok(person),
            Asker::Token(_) => Err(Problem::because(ErrorCode::RoleMissing, "only a person may do that, not an agent")),
        }
    }
}

impl FromRequestParts<Arc<Api>> for ByAgent {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        match Asker::from_request_parts(parts, api).await? {
            Asker::Token(bearer) => Ok(Self(bearer)),
            Asker::Person(_) => Err(Problem::because(ErrorCode::RoleMissing, "only an agent may do that, with its own token")),
        }
    }
}

/// Has this person one of these roles?
pub(super) fn has(person: &Person, roles: &[Role]) -> bool {
    roles.iter().any(|r| person.roles.contains(r))
}

/// Refuses a person without one of these roles.
pub(super) fn need(person: &Person, roles: &[Role], what: &str) -> Result<(), Problem> {
    if has(person, roles) {
        Ok(())
    } else {
        Err(Problem::because(ErrorCode::RoleMissing, format!("`{}` has no role that may do that: {what}", person.name)))
    }
}

/// May this person see the task? Its owner, those whose agents gave it on, operators and auditors may.
pub(super) fn sees_task(person: &Person, task: &Task) -> bool {
    person.name == task.owner || task.chain.iter().any(|hop| hop.owner == person.name) || has(person, &[Role::Operator, Role::Auditor])
}

/// May this person end the task? Its owner and operators may.
pub(super) fn ends_task(person: &Person, task: &Task) -> bool {
    person.name == task.owner || has(person, &[Role::Operator])
}

/// Does this person answer for the agent, as its owner or by one of these roles?
pub(super) fn answers_for(person: &Person, agent: &Agent, roles: &[Role]) -> bool {
    agent.owner == person.name || has(person, roles)
}

/// The agent of a path, for its owner and for people of these roles.
pub(super) fn agent_for<'a>(api: &'a Api, by: &ByPerson, name: &Named, roles: &[Role]) -> Result<&'a Agent, Problem> {
    let name: AgentName = name.parse(ErrorCode::AgentAbsent)?;
    let agent = api.house.agent(name.as_str()).ok_or_else(|| Problem::new(ErrorCode::AgentAbsent))?;
    if answers_for(&by.person, agent, roles) {
        return Ok(agent);
    }
    Err(Problem::because(ErrorCode::RoleMissing, format!("ask `{}`, who owns the agent, or an operator", agent.owner)))
}

/// Something of an agent that a path names, `/{name}/.../{id}/revoke`: the agent, for its owner and for operators, the id as a value of its
/// kind, and who asks.
pub(super) fn of_agent<T: std::str::FromStr>(
    api: &Api,
    by: &ByPerson,
    (name, id): &(String, String),
    absent: impl FnOnce() -> Problem,
) -> Result<(Agent, T, PersonName), Problem> {
    let agent = agent_for(api, by, &Named(name.clone()), &[Role::Operator])?.clone();
    let id = id.parse().map_err(|_| absent())?;
    Ok((agent, id, by.person.name.clone()))
}

/// Brings what was begun to its end even if whoever asked goes away.
pub(super) async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, Problem> {
    tokio::spawn(work).await.map_err(|_| Problem::new(ErrorCode::Internal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_jwt_says_of_itself_is_read_without_panicking_whatever_it_is() {
        let jwt = format!("{}.{}.x", URL_SAFE_NO_PAD.encode(r#"{"typ":"t"}"#), URL_SAFE_NO_PAD.encode(r#"{"sub":"ana"}"#));
        assert_eq!((says(&jwt, 0, "typ").as_deref(), says(&jwt, 1, "sub").as_deref()), (Some("t"), Some("ana")));
        for bad in ["", "..", "a.b", "e30", "bnVsbA.bnVsbA.x", "\u{e9}.\u{e9}"] {
            assert!(says(bad, 0, "typ").is_none() && says(bad, 1, "sub").is_none(), "{bad}");
        }
    }
}
