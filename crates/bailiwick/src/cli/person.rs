//! People from the command line: who is known, with which ways in; and for operators, to let somebody out, back or in for the first time.

use bailiwick_core::PersonName;
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{ApiClient, items};
use super::key_files::{Holder, PersonKey};
use super::screen::{Style, field, line, table, text, texts, unique};
use super::{Failure, Place, say, warn};

/// `bailiwick person`
#[derive(Debug, Subcommand)]
pub(crate) enum PersonCommand {
    /// Make a key for a person who works at this machine.
    Add {
        /// The person's name in the configuration.
        name: String,
    },
    /// Who is known; oneself, or everybody for operators and auditors.
    List,
    /// One person: roles, keys, passkeys, sessions.
    Show {
        /// The person.
        name: String,
    },
    /// Let a person do nothing more: sessions, codes and tasks end at once.
    Disable {
        /// The person.
        name: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
    /// Let a person in again. What ended stays ended.
    Enable {
        /// The person.
        name: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
    /// The sessions of a person at the pages.
    Sessions {
        /// The person.
        name: String,
    },
    /// End the sessions of a person; all of them, if none is named.
    SignOut {
        /// The person.
        name: String,
        /// The session, as `bailiwick person sessions` shows it, or a unique beginning of it.
        #[arg(long, value_name = "ID")]
        session: Option<String>,
    },
    /// Make a one-time code with which somebody who has nothing yet registers a first passkey.
    Invite {
        /// The person.
        name: String,
    },
    /// Remove a passkey that was lost, or is in the wrong hands. It is an incident.
    RemovePasskey {
        /// The person.
        name: String,
        /// The passkey, as `bailiwick person show` shows it, or a unique beginning of it.
        passkey: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
    /// Revoke a key that is in the wrong hands. It is an incident.
    RevokeKey {
        /// The person.
        name: String,
        /// The key, as `bailiwick person show` shows it.
        key: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
}

impl PersonCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        if let Self::Add { name } = &self {
            return add(place, &named(name)?);
        }
        let (api, who) = (ApiClient::of(place)?, place.person()?);
        let asked = |name: &str, path: &str| named(name).map(|name| format!("/v1/people/{name}/{path}"));
        let because = |reason: &str| json!({ "reason": reason });
        let person = match &self {
            Self::Add { .. } => return Ok(()),
            Self::List => return list(place, &api.get(&who, "/v1/people").await?),
            Self::Sessions { name } => return sessions(place, &find(&api, &who, name).await?),
            Self::Invite { name } => return invite(place, &api.post(&who, &asked(name, "invite")?, &json!({})).await?),
            Self::Show { name } => find(&api, &who, name).await?,
            Self::Disable { name, reason } => api.post(&who, &asked(name, "disable")?, &because(reason)).await?,
            Self::Enable { name, reason } => api.post(&who, &asked(name, "enable")?, &because(reason)).await?,
            Self::SignOut { name, session: None } => api.post(&who, &asked(name, "sign-out")?, &json!({})).await?,
            Self::SignOut { name, session: Some(session) } => {
                let id = one_of(&find(&api, &who, name).await?, "sessions", session, "session")?;
                api.post(&who, &asked(name, &format!("sessions/{id}/end"))?, &json!({})).await?
            }
            Self::RemovePasskey { name, passkey, reason } => {
                let id = one_of(&find(&api, &who, name).await?, "passkeys", passkey, "passkey")?;
                api.post(&who, &asked(name, &format!("passkeys/{id}/remove"))?, &because(reason)).await?
            }
            Self::RevokeKey { name, key, reason } => {
                let key: bailiwick_identity::KeyId =
                    key.parse().map_err(|_| Failure::new("that is no key's id", "see: bailiwick person show NAME"))?;
                api.post(&who, &asked(name, &format!("keys/{key}/revoke"))?, &because(reason)).await?
            }
        };
        say(if place.json { person.to_string() } else { described(&person) });
        Ok(())
    }
}

fn named(name: &str) -> Result<PersonName, Failure> {
    name.parse().map_err(|e: bailiwick_core::NameError| Failure::new(e.to_string(), ""))
}

fn add(place: &Place, name: &PersonName) -> Result<(), Failure> {
    let key = Holder::Person.make(&place.data_dir()?, name.as_str())?;
    if place.json {
        say(json!({ "person": name, "key": key.jwk() }));
    } else {
        say(format_args!("`{name}` has the key {}", key.id()));
    }
    Ok(())
}

async fn find(api: &ApiClient, who: &PersonKey, name: &str) -> Result<Value, Failure> {
    let name = named(name)?;
    let known = api.get(who, "/v1/people").await?;
    let found = items(&known, "people").iter().find(|p| p.get("name").and_then(Value::as_str) == Some(name.as_str()));
    found.cloned().ok_or_else(|| Failure::new(format!("`{name}` is not known, or not to you"), "see who is: bailiwick person list"))
}

/// The whole id of something of a person's that was named by a part of it. What goes into a path is an id that the broker gave.
fn one_of(person: &Value, list: &str, given: &str, what: &str) -> Result<String, Failure> {
    let ids = items(person, list).iter().filter_map(|one| one.get("id").and_then(Value::as_str));
    let id = unique(given, ids, what)?;
    Ok(url::form_urlencoded::byte_serialize(id.as_bytes()).collect())
}

fn list(place: &Place, told: &Value) -> Result<(), Failure> {
    if place.json {
        say(told);
        return Ok(());
    }
    let row = |p: &Value| {
        let count = |of: &str| items(p, of).len().to_string();
        let roles = texts(p, "roles").join(", ");
        let stands = if p.get("disabled").is_some() { format!("disabled since {}", text(p, "disabled")) } else { roles };
        vec![text(p, "name"), stands, text(p, "known_by"), count("keys"), count("passkeys"), count("sessions")]
    };
    let rows: Vec<_> = items(told, "people").iter().map(row).collect();
    say(table(&["person", "roles", "known by", "keys", "passkeys", "sessions"], &rows, Style::of_terminal()));
    Ok(())
}

fn session(one: &Value) -> Vec<String> {
    vec![text(one, "id"), text(one, "way"), text(one, "since"), text(one, "used"), text(one, "until")]
}

fn sessions(place: &Place, person: &Value) -> Result<(), Failure> {
    let all = items(person, "sessions");
    if place.json {
        say(json!({ "sessions": all }));
    } else if all.is_empty() {
        warn("no session");
    } else {
        let rows: Vec<_> = all.iter().map(session).collect();
        say(table(&["session", "way in", "since", "last used", "until"], &rows, Style::of_terminal()));
    }
    Ok(())
}

fn invite(place: &Place, told: &Value) -> Result<(), Failure> {
    if place.json {
        say(told);
        return Ok(());
    }
    say(text(told, "code"));
    warn(format_args!(
        "good once, for {} seconds, at the sign-in page: it registers a first passkey, and does nothing else",
        text(told, "expires_in")
    ));
    Ok(())
}

fn described(person: &Value) -> String {
    let mut lines = vec![
        field("person", &text(person, "name")),
        field("roles", &texts(person, "roles").join(", ")),
        field("known by", &text(person, "known_by")),
        field("provider", if person.get("provider").and_then(Value::as_bool) == Some(true) { "signed in with" } else { "-" }),
    ];
    if person.get("disabled").is_some() {
        lines.push(field("disabled", &format!("since {}", text(person, "disabled"))));
    }
    lines.extend(texts(person, "keys").iter().map(|key| field("key", key)));
    let passkey = |p: &Value| format!("{} ({}), added {}, last used {}", text(p, "id"), line(&text(p, "name")), text(p, "added"), text(p, "used"));
    lines.extend(items(person, "passkeys").iter().map(|p| field("passkey", &passkey(p))));
    lines.extend(items(person, "sessions").iter().map(|s| field("session", &session(s).join("  "))));
    lines.join("\n")
}
