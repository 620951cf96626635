//! People over the API: who is known, with which ways in; and for operators, to let somebody in for the first time, out, or back.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use bailiwick_core::{ErrorCode, PersonName, Role, Timestamp};
use bailiwick_identity::KeyId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asker::{Api, ByPerson, has, need};
use super::body::{Json, Named};
use super::problem::Problem;
use crate::entry::PersonStep;
use crate::house::House;
use crate::sign_in::CODE_LIFE;
use crate::sign_in::directory::ChangeError;

/// The longest reason, in characters.
const REASON_MAX: usize = 500;

/// A person.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Person)]
pub(super) struct PersonDocument {
    /// The name.
    #[schema(value_type = String)]
    name: PersonName,
    /// What this person may do now: by name and by claim. Empty if disabled.
    #[schema(value_type = Vec<String>)]
    roles: Vec<Role>,
    /// `configuration`, or `provider` if the person was made known by signing in.
    known_by: &'static str,
    /// Since when the person may do nothing here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    disabled: Option<Timestamp>,
    /// Has the person signed in with the provider?
    provider: bool,
    /// Passkeys.
    passkeys: Vec<PasskeyDocument>,
    /// The thumbprints of the keys of commands.
    keys: Vec<String>,
    /// Sessions that live.
    sessions: Vec<SessionDocument>,
}

/// A passkey.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Passkey)]
pub(super) struct PasskeyDocument {
    /// The credential's id in base64url.
    id: String,
    /// What its person calls it.
    name: String,
    /// The public key, as a JWK: what approvals by it verify with.
    #[schema(value_type = Object)]
    key: serde_json::Value,
    /// When it was registered.
    #[schema(value_type = String)]
    added: Timestamp,
    /// When it was used last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    used: Option<Timestamp>,
}

/// A session at the pages.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebSession)]
pub(super) struct SessionDocument {
    /// Its id: a name, not a right.
    id: String,
    /// `code`, `oidc`, `passkey` or `invitation`.
    way: &'static str,
    /// Since when.
    #[schema(value_type = String)]
    since: Timestamp,
    /// When it was used last.
    #[schema(value_type = String)]
    used: Timestamp,
    /// When it ends, however busy.
    #[schema(value_type = String)]
    until: Timestamp,
}

/// People, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PersonList {
    people: Vec<PersonDocument>,
}

/// Why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PersonChange {
    /// In words, for the record.
    reason: String,
}

/// A one-time code for somebody's first sign-in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Invitation {
    /// The code, to be typed into the sign-in page. It registers a first passkey, and does nothing else.
    code: String,
    /// Its life in seconds.
    expires_in: u64,
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Store(error) => error.into(),
            ChangeError::TooMany => Self::because(ErrorCode::LimitExceeded, "there are too many already"),
            ChangeError::Unfit(why) => Self::because(ErrorCode::OauthRequest, why).with_status(http::StatusCode::CONFLICT),
        }
    }
}

fn document(house: &House, name: PersonName) -> PersonDocument {
    let known = house.directory.known(&name);
    let sessions = house.sign_ins.all(house.clock.now()).into_iter().filter(|s| s.person == name);
    let sessions = sessions.map(|s| SessionDocument { id: s.id, way: s.way.word(), since: s.since, used: s.used, until: s.until });
    PersonDocument {
        roles: house.person(name.as_str()).map(|p| p.roles.into_iter().collect()).unwrap_or_default(),
        known_by: if house.directory.is_configured(&name) { "configuration" } else { "provider" },
        disabled: known.as_ref().and_then(|k| k.disabled),
        provider: known.as_ref().is_some_and(|k| k.subject.is_some()),
        sessions: sessions.collect(),
        keys: house.person_keys(name.as_str()).iter().map(|key| key.id().to_string()).collect(),
        passkeys: known
            .into_iter()
            .flat_map(|k| k.passkeys)
            .map(|p| PasskeyDocument { id: p.id, name: p.name, key: p.key, added: p.added, used: p.used })
            .collect(),
        name,
    }
}

/// People: oneself, or everybody for operators and auditors.
#[utoipa::path(get, path = "/v1/people", tag = "people", responses((status = 200, description = "People.", body = PersonList)), security(("person" = [])))]
pub(super) async fn list(State(api): State<Arc<Api>>, by: ByPerson) -> Response {
    let house = &api.house;
    let every = has(&by.person, &[Role::Operator, Role::Auditor]);
    let names = house.directory.names().into_iter().filter(|name| every || *name == by.person.name);
    axum::Json(PersonList { people: names.map(|name| document(house, name)).collect() }).into_response()
}

/// Somebody who is known, for an operator to act upon.
fn concerned(house: &House, by: &ByPerson, name: &Named, what: &str) -> Result<PersonName, Problem> {
    need(&by.person, &[Role::Operator], what)?;
    let absent = || Problem::invalid("there is no such person").with_status(http::StatusCode::NOT_FOUND);
    let name: PersonName = name.0.parse().map_err(|_| absent())?;
    if house.directory.names().contains(&name) { Ok(name) } else { Err(absent()) }
}

pub(super) fn reason(change: &PersonChange) -> Result<&str, Problem> {
    let reason = change.reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_MAX {
        return Err(Problem::invalid(format!("`reason` must be 1 to {REASON_MAX} characters")));
    }
    Ok(reason)
}

/// Lets a person do nothing more: sessions, codes and tasks end at once.
#[utoipa::path(
    post, path = "/v1/people/{name}/disable", tag = "people", params(("name" = String, Path, description = "The person.")), request_body = PersonChange,
    responses((status = 200, description = "The person as he or she stands now.", body = PersonDocument)), security(("person" = [])),
)]
pub(super) async fn disable(State(api): State<Arc<Api>>, by: ByPerson, name: Named, Json(change): Json<PersonChange>) -> Result<Response, Problem> {
    let name = concerned(&api.house, &by, &name, "operators disable people")?;
    api.house.disable_person(&name, by.person.name.as_str(), reason(&change)?, false).await?;
    Ok(axum::Json(document(&api.house, name)).into_response())
}

/// Lets a person in again. What ended stays ended.
#[utoipa::path(
    post, path = "/v1/people/{name}/enable", tag = "people", params(("name" = String, Path, description = "The person.")), request_body = PersonChange,
    responses((status = 200, description = "The person as he or she stands now.", body = PersonDocument)), security(("person" = [])),
)]
pub(super) async fn enable(State(api): State<Arc<Api>>, by: ByPerson, name: Named, Json(change): Json<PersonChange>) -> Result<Response, Problem> {
    let name = concerned(&api.house, &by, &name, "operators enable people")?;
    api.house.enable_person(&name, by.person.name.as_str(), reason(&change)?, None).await?;
    Ok(axum::Json(document(&api.house, name)).into_response())
}

/// Ends all sessions of a person; of oneself without any role.
#[utoipa::path(
    post, path = "/v1/people/{name}/sign-out", tag = "people", params(("name" = String, Path, description = "The person.")),
    responses((status = 200, description = "The person as he or she stands now.", body = PersonDocument)), security(("person" = [])),
)]
pub(super) async fn sign_out(State(api): State<Arc<Api>>, by: ByPerson, name: Named) -> Result<Response, Problem> {
    let house = &api.house;
    let own = name.0 == by.person.name.as_str();
    let name = if own { by.person.name.clone() } else { concerned(house, &by, &name, "operators end sessions of others")? };
    let who = by.person.name.as_str();
    let step = PersonStep {
        what: "signed_out",
        person: &name,
        by: (!own).then_some(who),
        way: None,
        detail: Some("all sessions"),
        passkey: None,
        key: None,
    };
    house.note_person(&step).await?;
    house.sign_ins.forget_codes(&name);
    house.end_sessions(|session| session.person == name).await;
    Ok(axum::Json(document(house, name)).into_response())
}

/// Something of a person's, by the person's name and its id; a role is needed, as these are ways in that are not the asker's own.
fn of_person(house: &House, by: &ByPerson, (name, id): (String, String), what: &str) -> Result<(PersonName, String), Problem> {
    concerned(house, by, &Named(name), what).map(|name| (name, id))
}

fn none_such(what: &str) -> Problem {
    Problem::invalid(format!("the person has no such {what}")).with_status(http::StatusCode::NOT_FOUND)
}

/// Ends one session of a person.
#[utoipa::path(
    post, path = "/v1/people/{name}/sessions/{id}/end", tag = "people",
    params(("name" = String, Path, description = "The person."), ("id" = String, Path, description = "The session's id.")),
    responses((status = 200, description = "The person as he or she stands now.", body = PersonDocument)), security(("person" = [])),
)]
pub(super) async fn end_session(State(api): State<Arc<Api>>, by: ByPerson, Path(which): Path<(String, String)>) -> Result<Response, Problem> {
    let house = &api.house;
    let (name, id) = of_person(house, &by, which, "operators end sessions of others")?;
    let ended = house.end_sessions(|session| session.person == name && session.id == id).await;
    if ended.is_empty() {
        return Err(none_such("session"));
    }
    let who = by.person.name.as_str();
    let step = PersonStep { what: "signed_out", person: &name, by: Some(who), way: None, detail: Some(&id), passkey: None, key: None };
    house.note_person(&step).await?;
    Ok(axum::Json(document(house, name)).into_response())
}

/// Removes a passkey of a person: it was lost, or is in the wrong hands. Sessions end, approvals of the person that were not used are taken back, and
/// it is an incident.
#[utoipa::path(
    post, path = "/v1/people/{name}/passkeys/{id}/remove", tag = "people",
    params(("name" = String, Path, description = "The person."), ("id" = String, Path, description = "The passkey's id.")), request_body = PersonChange,
    responses((status = 200, description = "The person as he or she stands now.", body = PersonDocument)), security(("person" = [])),
)]
pub(super) async fn remove_passkey(
    State(api): State<Arc<Api>>,
    by: ByPerson,
    Path(which): Path<(String, String)>,
    Json(change): Json<PersonChange>,
) -> Result<Response, Problem> {
    let (name, id) = of_person(&api.house, &by, which, "operators remove passkeys of others")?;
    let (house, who, why, named) = (Arc::clone(&api.house), by.person.name, reason(&change)?.to_owned(), name.clone());
    // It comes to its end even if whoever asked goes away.
    let removed = tokio::spawn(async move { house.take_passkey(&name, &id, &who, &why).await });
    if !removed.await.map_err(|_| Problem::new(ErrorCode::Internal))?? {
        return Err(none_such("passkey"));
    }
    Ok(axum::Json(document(&api.house, named)).into_response())
}

/// Revokes a key of a person: it is in the wrong hands. It proves nothing from now on, wherever it lies; sessions end, and approvals of the
/// person that were not used are taken back.
#[utoipa::path(
    post, path = "/v1/people/{name}/keys/{key}/revoke", tag = "people",
    params(("name" = String, Path, description = "The person."), ("key" = String, Path, description = "The key's thumbprint.")), request_body = PersonChange,
    responses((status = 200, description = "The person as he or she stands now.", body = PersonDocument)), security(("person" = [])),
)]
pub(super) async fn revoke_key(
    State(api): State<Arc<Api>>,
    by: ByPerson,
    Path(which): Path<(String, String)>,
    Json(change): Json<PersonChange>,
) -> Result<Response, Problem> {
    let (name, id) = of_person(&api.house, &by, which, "operators revoke keys of people")?;
    let id: KeyId = id.parse().map_err(|_| none_such("key"))?;
    let (house, who, why, named) = (Arc::clone(&api.house), by.person.name, reason(&change)?.to_owned(), name.clone());
    let revoked = tokio::spawn(async move { house.revoke_key_of_person(&name, &id, &who, &why).await });
    if !revoked.await.map_err(|_| Problem::new(ErrorCode::Internal))?? {
        return Err(none_such("key"));
    }
    Ok(axum::Json(document(&api.house, named)).into_response())
}

/// A one-time code with which somebody who has no key and no passkey yet registers a first passkey.
#[utoipa::path(
    post, path = "/v1/people/{name}/invite", tag = "people", params(("name" = String, Path, description = "The person.")),
    responses((status = 200, description = "The code. It works once.", body = Invitation)), security(("person" = [])),
)]
pub(super) async fn invite(State(api): State<Arc<Api>>, by: ByPerson, name: Named) -> Result<Response, Problem> {
    let house = &api.house;
    let name = concerned(house, &by, &name, "operators invite people")?;
    let conflict = |why: &str| Problem::invalid(why).with_status(http::StatusCode::CONFLICT);
    if house.passkey_site().is_none() {
        return Err(conflict("there are no passkeys here: the broker needs a public URL with a name and TLS, or `localhost`"));
    }
    if house.person(name.as_str()).is_none() {
        return Err(conflict("the person is disabled"));
    }
    // Otherwise an operator could add a way in for himself or herself to somebody's approvals.
    let known = house.directory.known(&name);
    let by_provider = house.provider.as_ref().is_some_and(|p| p.config.subjects.values().any(|n| *n == name));
    let has_something = by_provider
        || !house.person_keys(name.as_str()).is_empty()
        || known.is_some_and(|k| !k.passkeys.is_empty() || k.subject.is_some() || k.guarded_until.is_some());
    if has_something {
        return Err(conflict("the person has a key, a passkey or the provider already, and adds a passkey with that"));
    }
    let step = PersonStep { what: "invited", person: &name, by: Some(by.person.name.as_str()), way: None, detail: None, passkey: None, key: None };
    house.note_person(&step).await?;
    let code = house.sign_ins.invitation(name, house.clock.now());
    Ok(axum::Json(Invitation { code, expires_in: CODE_LIFE.as_secs() }).into_response())
}
