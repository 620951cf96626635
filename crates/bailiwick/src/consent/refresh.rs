//! Refresh tokens of interactive clients: each works once and gives the next; one that comes twice ends the task (RFC 9700 section 4.14).
//!
//! A refresh token is sealed and says task, generation and client. What is kept is the generation that is good, beside the open task:
//! so a token that was replaced is told from one that somebody made up.

use std::collections::BTreeMap;

use bailiwick_core::{Digest, EndReason, TaskId, Timestamp};
use bailiwick_identity::Confirmation;
use bailiwick_store::{StoreError, Writing};
use serde::{Deserialize, Serialize};

use crate::house::House;

/// The word under which refresh tokens are sealed.
const REFRESH: &str = "bailiwick/refresh/v1";
/// Where the store keeps the families.
const FAMILIES: &str = "interactive_tasks";

/// What a refresh token says, once it was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// Its task.
    pub task: TaskId,
    /// The SHA-256 of its client's ID.
    pub client: Digest,
    /// The key or the certificate that tokens of this client are bound to (RFC 9449 section 5, RFC 8705 section 4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bound: Option<String>,
    /// Does its client prove itself with a key?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub authenticates: bool,
    generation: u64,
}

/// All refresh tokens of one task.
#[derive(Debug, Serialize, Deserialize)]
struct Family {
    generation: u64,
    client: Digest,
    /// Does its client prove itself with a key?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    authenticates: bool,
    session: Digest,
    until: Timestamp,
}

/// What a refresh token is worth.
#[derive(Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It was good; this is the next.
    Next(String),
    /// It was used before.
    Again,
    /// Its task has ended.
    Gone,
}

impl Refreshed {
    /// Is it for a client that proves this key or shows this certificate, or neither?
    #[must_use]
    pub fn is_bound_to(&self, shown: Option<&Confirmation>) -> bool {
        self.bound == shown.map(bound)
    }
}

/// How a key or a certificate stands in a refresh token: no thumbprint of a key has a `#`.
fn bound(to: &Confirmation) -> String {
    match to {
        Confirmation::Key(key) => key.to_string(),
        Confirmation::Certificate(digest) => format!("x5t#S256:{digest}"),
    }
}

fn families(writing: &Writing<'_>) -> Result<BTreeMap<TaskId, Family>, StoreError> {
    Ok(writing.meta(FAMILIES)?.as_deref().map(serde_json::from_slice).transpose()?.unwrap_or_default())
}

fn keep(writing: &mut Writing<'_>, all: &BTreeMap<TaskId, Family>) -> Result<(), StoreError> {
    writing.meta_put(FAMILIES, &serde_json::to_vec(all)?)
}

impl House {
    /// The first refresh token of a task that a person just opened for a client.
    ///
    /// # Errors
    /// The store's; there is no refresh token then.
    pub async fn first_refresh(
        &self,
        task: TaskId,
        (client, authenticates): (Digest, bool),
        confirmation: Option<&Confirmation>,
        session: Digest,
        until: Timestamp,
    ) -> Result<Option<String>, StoreError> {
        let now = self.clock.now();
        self.store
            .write(move |w| {
                let mut all = families(w)?;
                all.retain(|_, family| now < family.until);
                all.insert(task, Family { generation: 1, client, authenticates, session, until });
                keep(w, &all)
            })
            .await?;
        Ok(self.seal_refresh(&Refreshed { task, client, bound: confirmation.map(bound), authenticates, generation: 1 }))
    }

    fn seal_refresh(&self, refreshed: &Refreshed) -> Option<String> {
        self.state_seal.seal_as(REFRESH, refreshed)
    }

    /// What a refresh token says. `None`: it is none of ours.
    #[must_use]
    pub fn open_refresh(&self, token: &str) -> Option<Refreshed> {
        self.state_seal.open_as(REFRESH, token)
    }

    /// Takes a refresh token for the next one, once.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub async fn rotate(&self, refreshed: &Refreshed) -> Result<Rotation, StoreError> {
        let (now, task, presented) = (self.clock.now(), refreshed.task, refreshed.generation);
        let step = self.store.write(move |w| {
            let mut all = families(w)?;
            let Some(family) = all.get_mut(&task).filter(|family| now < family.until) else { return Ok(None) };
            if family.generation != presented {
                return Ok(Some(None));
            }
            let next = presented.saturating_add(1);
            family.generation = next;
            all.retain(|_, family| now < family.until);
            keep(w, &all)?;
            Ok(Some(Some(next)))
        });
        Ok(match step.await? {
            None => Rotation::Gone,
            Some(None) => Rotation::Again,
            Some(Some(generation)) => self.seal_refresh(&Refreshed { generation, ..refreshed.clone() }).map_or(Rotation::Gone, Rotation::Next),
        })
    }

    /// Whether the client of this ID (by its SHA-256) proves itself with a key, if this task was opened for it.
    ///
    /// # Errors
    /// The store's.
    pub async fn task_of_client(&self, task: TaskId, client: Digest) -> Result<Option<bool>, StoreError> {
        Ok(self.families().await?.get(&task).filter(|family| family.client == client).map(|family| family.authenticates))
    }

    async fn families(&self) -> Result<BTreeMap<TaskId, Family>, StoreError> {
        Ok(self.store.meta(FAMILIES).await?.as_deref().map(serde_json::from_slice).transpose()?.unwrap_or_default())
    }

    /// Ends the tasks that a person opened for clients in a session that he or she leaves.
    pub async fn end_interactive_of(&self, session: Digest) {
        self.consents.codes.forget(session);
        let all = self.families().await.unwrap_or_else(|error| {
            tracing::error!(error.code = %error.code(), %error, "the tasks of a session that ended could not be looked up: they end with their time");
            BTreeMap::new()
        });
        for (task, _) in all.iter().filter(|(_, family)| family.session == session) {
            let Some(live) = self.live.find(*task) else { continue };
            if let Err(error) = self.end_task(*task, EndReason::Revoked, Some(live.task.subject.as_str())).await {
                tracing::error!(%error, %task, "the end of a task could not be recorded yet");
            }
        }
    }
}
