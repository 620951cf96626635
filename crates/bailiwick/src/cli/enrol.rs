//! Enrolment from the command line: a token for a machine that has nothing, the machine's side of it, and the keys that came that way.

use std::io::Read as _;
use std::path::Path;

use bailiwick_core::{AgentName, Clock as _, SpiffeId};
use bailiwick_identity::enrolment::{self, EnrolmentToken};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::client::{ApiClient, items};
use super::key_files::{AgentKey, Holder};
use super::screen::{Style, table, text};
use super::{Failure, Place, say, warn};

/// The longest file in which a token is looked for.
const FILE_BYTES_MAX: u64 = 4096;

fn agent(name: &str) -> Result<AgentName, Failure> {
    name.parse().map_err(|e: bailiwick_core::NameError| Failure::new(e.to_string(), ""))
}

/// `bailiwick agent enrol`: prints the token alone, so that it can be sent into a file.
pub(crate) async fn give(place: &Place, name: &str, minutes: u64) -> Result<(), Failure> {
    let name = agent(name)?;
    let given = ApiClient::of(place)?.post(&place.person()?, &format!("/v1/agents/{name}/enrolments"), &json!({ "minutes": minutes })).await?;
    if place.json {
        say(&given);
        return Ok(());
    }
    say(text(&given, "token"));
    warn(format_args!("good once, until {}; on the machine: bailiwick connect --agent {name} --enrol FILE", text(&given, "expires_at")));
    Ok(())
}

/// `bailiwick agent keys`
pub(crate) async fn keys(place: &Place, name: &str) -> Result<(), Failure> {
    let name = agent(name)?;
    show(place, &ApiClient::of(place)?.get(&place.person()?, &format!("/v1/agents/{name}/keys")).await?);
    Ok(())
}

/// `bailiwick agent revoke-key`
pub(crate) async fn revoke(place: &Place, name: &str, key: &str) -> Result<(), Failure> {
    let name = agent(name)?;
    let key: bailiwick_identity::KeyId = key.parse().map_err(|_| Failure::new("that is no key's id", "see: bailiwick agent keys NAME"))?;
    let path = format!("/v1/agents/{name}/keys/{key}/revoke");
    let left = ApiClient::of(place)?.post(&place.person()?, &path, &json!({})).await?;
    warn(format_args!("the key is revoked; the tasks that rest on it have ended"));
    show(place, &left);
    Ok(())
}

fn show(place: &Place, told: &Value) {
    if place.json {
        return say(told);
    }
    let row = |key: &Value| {
        vec![
            text(key, "id"),
            text(key, "source"),
            text(key, "component"),
            text(key, "revoked_at"),
            text(key, "at"),
            text(key, "by"),
            text(key, "from"),
        ]
    };
    let rows: Vec<_> = items(told, "keys").iter().map(row).collect();
    say(table(&["key", "source", "component", "revoked", "since", "by", "from"], &rows, Style::of_terminal()));
}

/// Registers a key of this machine's own with a one-time token from a file, unless the agent's key is here already. The key is on the disk
/// before it is registered: whatever stops this, the next start goes on with the same key and the same token.
pub(crate) async fn here(place: &Place, api: &ApiClient, name: &AgentName, file: &Path) -> Result<(), Failure> {
    let data_dir = place.data_dir()?;
    if Holder::Agent.has_private(&data_dir, name.as_str()) {
        return Ok(());
    }
    let token = read(file)?;
    let key = AgentKey::enrolling(&data_dir, name)?;
    let proof = enrolment::make(&key, &token, api.url(), api.clock().now()).map_err(|e| Failure::new(e.to_string(), ""))?;
    let asked = Zeroizing::new(json!({ "token": token.as_str(), "key": key.public().jwk(), "proof": proof, "agent": name }).to_string());
    let told = api.enrol(&asked).await?;
    let client_id: SpiffeId = text(&told, "client_id").parse().map_err(|e: bailiwick_core::NameError| Failure::new(e.to_string(), ""))?;
    if text(&told, "agent") != name.as_str() {
        let what = format!("the token is for agent `{}`, not for `{name}`", text(&told, "agent"));
        return Err(Failure::new(what, "start with the agent that the token is for, or have another token made"));
    }
    AgentKey::enrolled(&data_dir, name, &client_id, key.public())?;
    warn(format_args!("this machine is {client_id}, key {}", key.id()));
    Ok(())
}

fn read(file: &Path) -> Result<EnrolmentToken, Failure> {
    let wrong =
        |e: std::io::Error| Failure::new(format!("{}: {e}", file.display()), "give the file with the token: bailiwick agent enrol NAME > FILE");
    let mut bytes = Zeroizing::new(String::with_capacity(4096));
    std::fs::File::open(file).map_err(wrong)?.take(FILE_BYTES_MAX).read_to_string(&mut bytes).map_err(wrong)?;
    EnrolmentToken::parse(bytes.trim())
        .map_err(|e| Failure::new(format!("{}: {e}", file.display()), "a person makes one: bailiwick agent enrol NAME > FILE"))
}
