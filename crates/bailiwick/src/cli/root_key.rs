//! The root key from the command line: how it stands, its replacement with or without a running broker, and the key in a token.

use bailiwick_store::StoreError;
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::ApiClient;
use super::screen::{field, text};
use super::{Failure, Place, say, warn};
use crate::config::Sealing;
use crate::house::StartError;
use crate::keys::root;
use crate::root_key::{RotateError, rotate_stopped};

/// `bailiwick root-key`
#[derive(Debug, Subcommand)]
pub(crate) enum RootKeyCommand {
    /// Where the root key comes from, and how far its replacement is.
    Status,
    /// Replace the root key by a new one from where the configuration says; everything is sealed anew, and the old one destroyed. A running broker
    /// goes on with its calls meanwhile.
    Rotate,
    /// Make the key that `[sealing.pkcs11]` names in its token: AES-256, sensitive, not extractable.
    MakeTokenKey,
}

impl RootKeyCommand {
    pub(crate) async fn run(self, place: &Place) -> Result<(), Failure> {
        match self {
            Self::Status => status(place).await,
            Self::Rotate => rotate(place).await,
            Self::MakeTokenKey => {
                let Sealing::Token(token) = configured(place)? else {
                    return Err(Failure::new(
                        "the configuration names no token",
                        "set `root_key = \"pkcs11\"` in `[sealing]`; see docs/guides/sealing.md",
                    ));
                };
                root::make_token_key(&token).map_err(failed)?;
                say(format_args!("the token `{}` has the key `{}`: bailiwick root-key rotate", token.token, token.key));
                Ok(())
            }
        }
    }
}

fn failed(error: StartError) -> Failure {
    let hint = error.hint();
    Failure::new(error.to_string(), hint)
}

/// What the configuration says. Without one, the root key is a file.
fn configured(place: &Place) -> Result<Sealing, Failure> {
    if place.config_file()?.exists() { Ok(place.configuration()?.sealing) } else { Ok(Sealing::File) }
}

async fn status(place: &Place) -> Result<(), Failure> {
    // Who has no key here, or finds no broker, is told what the data directory says.
    let told = match (ApiClient::of(place), place.person()) {
        (Ok(api), Ok(person)) => match api.get(&person, "/v1/root-key").await {
            Ok(told) => told,
            Err(super::http::ClientError::Down(_)) => at_rest(place)?,
            Err(error) => return Err(error.into()),
        },
        (Err(_), _) | (_, Err(_)) => at_rest(place)?,
    };
    show(place, &told);
    Ok(())
}

/// How it stands in the data directory of a broker that does not run.
fn at_rest(place: &Place) -> Result<Value, Failure> {
    let dir = place.data_dir()?;
    if !dir.join("root.key").exists() {
        return Err(Failure::new(format!("there is no root key in {}", dir.display()), "it is made at the first start: bailiwick up"));
    }
    let source = configured(place)?;
    let found = root::Generations::open(&dir, &source).map_err(failed)?;
    let now = found.next.as_ref().unwrap_or(&found.current);
    let mut told = json!({ "id": now.key.id().to_string(), "held": now.held, "configured": source.word() });
    if found.next.is_some()
        && let Some(told) = told.as_object_mut()
    {
        told.insert("replacing".to_owned(), found.current.key.id().to_string().into());
    }
    Ok(told)
}

fn show(place: &Place, told: &Value) {
    if place.json {
        return say(told);
    }
    say(field("root key", &text(told, "id")));
    say(field("comes from", &text(told, "held")));
    if text(told, "held") != text(told, "configured") {
        say(field("configured", &format!("{}: bailiwick root-key rotate", text(told, "configured"))));
    }
    if told.get("replacing").is_some() {
        say(field("replacing", &format!("{}; {} sealed anew", text(told, "replacing"), text(told, "resealed"))));
    }
    if told.get("why").is_some() {
        say(field("waits", &text(told, "why")));
    }
}

async fn rotate(place: &Place) -> Result<(), Failure> {
    let dir = place.data_dir()?;
    if !dir.join("bailiwick.sqlite").exists() {
        return Err(Failure::new(format!("there is no store in {}", dir.display()), "give --data-dir"));
    }
    match rotate_stopped(&dir, &configured(place)?).await {
        Ok((id, resealed)) => {
            if place.json {
                say(json!({ "id": id.to_string(), "resealed": resealed }));
            } else {
                say(format_args!("the root key is {id} now; {resealed} things were sealed anew, and the old key is destroyed"));
            }
            Ok(())
        }
        Err(RotateError::Store(StoreError::Locked { .. })) => {
            let told = ApiClient::of(place)?.post(&place.person()?, "/v1/root-key/rotate", &json!({})).await?;
            show(place, &told);
            warn("the broker seals everything anew while it works: bailiwick root-key status");
            Ok(())
        }
        Err(error) => Err(Failure::new(error.to_string(), error.hint())),
    }
}
