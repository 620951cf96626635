//! Texts of calls: kept sealed beside the ledger for as long as the configuration says, opened for those who may look, and recognised
//! by the salted digests of the ledger. No text leaves this module but by [`House::payload`].

use bailiwick_core::call::Tool;
use bailiwick_core::{Bound, Call, CallId, Digest, Effect, Salt, TaskId, Timestamp};
use bailiwick_credentials::{SealError, Sealer, TaskSalt};
use bailiwick_store::{EntryRow, OfCall, Payload, PayloadKind, PayloadRow, StoreError, TextSeal};
use bailiwick_wire::{Limits, Raw};
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::fault;
use crate::house::{House, StartError};
use crate::live::LiveTask;

/// Bytes of a salt before a kept text.
const SALT: usize = 32;
/// How a sealed text begins; one that does not is of a time when held calls were not sealed.
const SEALED: &[u8] = b"BWP";

/// Seals texts of calls.
#[derive(Debug)]
pub struct TextSealer(Sealer);

impl TextSealer {
    /// With a sealer of the root key.
    #[must_use]
    pub const fn new(sealer: Sealer) -> Self {
        Self(sealer)
    }
}

impl TextSeal for TextSealer {
    fn seal(&self, name: &str, text: &[u8]) -> Result<Vec<u8>, String> {
        self.0.seal_payload(name, text).map_err(|e| e.to_string())
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, String> {
        if !sealed.starts_with(SEALED) {
            return Ok(sealed.to_vec());
        }
        self.0.open_payload(name, sealed).map(|text| text.to_vec()).map_err(|e| e.to_string())
    }
}

/// The name under which a text is sealed: it opens as no other call's, and as nothing else of this call.
pub(crate) fn name(kind: PayloadKind, call: CallId) -> String {
    format!("payload/{}/{call}", kind.word())
}

/// What is kept of the texts of one call.
#[derive(Debug, Serialize, ToSchema)]
pub struct CallTexts {
    /// The call.
    #[schema(value_type = String)]
    pub call: CallId,
    /// Its arguments.
    pub arguments: Text,
    /// The answer of its system.
    pub answer: Text,
}

impl CallTexts {
    /// Is there any text in it?
    #[must_use]
    pub const fn any(&self) -> bool {
        matches!((&self.arguments, &self.answer), (Text::Kept { .. }, _) | (_, Text::Kept { .. }))
    }
}

/// One text of a call, or why it is not there.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
#[schema(as = CallText)]
pub enum Text {
    /// It is kept.
    Kept {
        /// The text; what is no UTF-8 is replaced.
        text: String,
        /// How long the whole text was, in bytes.
        bytes: u64,
        /// Is only its beginning kept?
        truncated: bool,
        /// When it goes.
        #[schema(value_type = String)]
        until: Timestamp,
        /// Is it the text whose digest is in the ledger? Cannot be said of a beginning.
        #[serde(skip_serializing_if = "Option::is_none")]
        on_record: Option<bool>,
    },
    /// It was erased.
    Erased {
        /// When.
        #[schema(value_type = String)]
        at: Timestamp,
        /// By whom.
        by: String,
        /// Where the ledger says so.
        entry: u64,
    },
    /// Its time is over.
    Expired {
        /// Since when.
        #[schema(value_type = String)]
        at: Timestamp,
    },
    /// It should be there until then, and is not: it could not be kept, or somebody took it away.
    Lost {
        /// Until when it should be there.
        #[schema(value_type = String)]
        until: Timestamp,
    },
    /// It is there, and was changed, or belongs to another call.
    Damaged,
    /// The configuration keeps no such text, or there was none.
    NotKept,
}

impl House {
    /// The digest of a text in the ledger: keyed, and salted so that nobody who lost the salt can guess the text.
    #[must_use]
    pub fn salted(&self, salt: &Salt, text: &[u8]) -> Digest {
        Digest::from_bytes(self.record_key.salted(salt.as_bytes(), text))
    }

    /// The digest of anything else that must not be in an entry of a task: equal within the task, and nobody's when its salt is gone.
    #[must_use]
    pub fn keyed(&self, live: &LiveTask, bytes: &[u8]) -> Digest {
        self.salted(&Salt::from_bytes(live.salt.answer(&[0; 16])), bytes)
    }

    /// A salt for a new task, and the same sealed.
    pub(crate) fn new_salt(&self, task: TaskId) -> Result<(TaskSalt, Vec<u8>), SealError> {
        let (salt, bytes) = TaskSalt::generate()?;
        Ok((salt, self.sealer().seal_bytes(&salt_name(task), bytes.as_slice())?))
    }

    /// The salt of a task, if it was not forgotten.
    ///
    /// # Errors
    /// The store's, or `Malformed` if what is stored is not what was sealed.
    pub async fn salt_of(&self, task: TaskId) -> Result<Option<TaskSalt>, StoreError> {
        let Some(sealed) = self.store.salt(task).await? else { return Ok(None) };
        let damaged = |why: &dyn std::fmt::Display| StoreError::Malformed { detail: format!("the salt of {task}: {why}").into() };
        let bytes = self.sealer().open_bytes(&salt_name(task), &sealed).map_err(|e| damaged(&e))?;
        let bytes: &[u8; SALT] = bytes.as_slice().try_into().map_err(|e| damaged(&e))?;
        Ok(Some(TaskSalt::of(bytes)))
    }

    /// The salt of an open task at start. One that is gone is made anew: what was approved under the old one is asked for again.
    pub(crate) async fn recovered_salt(&self, task: TaskId) -> Result<TaskSalt, StartError> {
        if let Some(salt) = self.salt_of(task).await? {
            return Ok(salt);
        }
        let (salt, sealed) = self.new_salt(task).map_err(|e| StartError::place("the salt of a task", e))?;
        self.store.write(move |w| w.salt_put(task, &sealed)).await?;
        Ok(salt)
    }

    /// The digest that arguments have in a task's entries. `None`: the task's salt was forgotten, or they are not JSON.
    ///
    /// # Errors
    /// The store's.
    pub async fn argument_digest(&self, task: TaskId, arguments: &[u8]) -> Result<Option<Digest>, StoreError> {
        let Some(salt) = self.salt_of(task).await? else { return Ok(None) };
        let Ok(raw) = Raw::parse(arguments, &Limits::REPLY) else { return Ok(None) };
        let mut canonical = Vec::with_capacity(arguments.len());
        let _exact = bailiwick_wire::canonical(raw, &mut canonical);
        let salt = Salt::from_bytes(salt.arguments(Digest::of(&canonical).as_bytes()));
        Ok(Some(self.salted(&salt, arguments)))
    }

    /// Until when the configuration keeps a text of a call that is made now.
    pub(crate) fn kept_until(&self, kind: PayloadKind, tool: &Tool, now: Timestamp) -> Option<Timestamp> {
        self.config.retention.keeps(kind, tool.name.system(), tool.effect).map(|life| now.plus(life))
    }

    /// Must the arguments of this call be kept before it is made?
    pub(crate) fn must_keep(&self, effect: Effect) -> bool {
        self.config.retention.required && effect.is_acting()
    }

    /// The text of a call's arguments, to be kept.
    pub(crate) fn arguments_of(&self, call: &Call<Bound>, now: Timestamp, until: Timestamp) -> Payload {
        let whose = Whose { call: call.id(), task: call.task().id, kind: PayloadKind::Arguments };
        self.text(whose, call.salt(), call.arguments(), now, until)
    }

    /// Keeps a text behind the call that it belongs to. If there is no room for it, it is lost, and counted.
    pub(crate) fn keep(&self, payload: Payload) {
        let (call, kind) = (payload.call, payload.kind);
        if !self.payloads.put(payload) {
            tracing::warn!(%call, kind = kind.word(), "the text of a call was not kept: too many are waiting to be written");
        }
    }

    /// Keeps a text, and waits until it is written.
    ///
    /// # Errors
    /// It is not kept.
    pub(crate) async fn keep_first(&self, payload: Payload) -> Result<(), StoreError> {
        fault::point("before-payload");
        self.payloads.put_durable(payload).await?;
        fault::point("after-payload");
        Ok(())
    }

    /// The call of a text that was kept first is not made after all: the text goes. If it cannot, an erasure still finds it.
    pub(crate) async fn unkeep(&self, call: CallId, kind: PayloadKind) {
        if let Err(error) = self.payloads.withdraw(call, kind).await {
            tracing::warn!(%error, %call, "the text of a call that was not made could not be taken out");
        }
    }

    /// A text with the salt that its digest needs, sealed when it is written.
    pub(crate) fn text(&self, whose: Whose, salt: &Salt, text: &Bytes, now: Timestamp, until: Timestamp) -> Payload {
        let kept = text.len().min(self.config.retention.text_bytes_max);
        let mut plain = Zeroizing::new(Vec::with_capacity(SALT.saturating_add(kept)));
        plain.extend_from_slice(salt.as_bytes());
        plain.extend_from_slice(text.get(..kept).unwrap_or_default());
        let sealer = Arc::clone(&self.texts);
        let Whose { call, task, kind } = whose;
        Payload {
            call,
            task,
            kind,
            at: now,
            expires_at: until,
            bytes: u64::try_from(text.len()).unwrap_or(u64::MAX),
            truncated: kept < text.len(),
            weight: plain.len(),
            sealed: Box::new(move || sealer.seal(&name(kind, call), &plain)),
        }
    }

    /// What is kept of a call's arguments and answer, opened; or why it is not there. `None`: the ledger knows no such call.
    ///
    /// # Errors
    /// The store's.
    pub async fn payload(&self, call: CallId) -> Result<Option<CallTexts>, StoreError> {
        let entries = self.store.entries_of_call(call).await?;
        let bodies: Vec<Value> = entries.iter().filter_map(|row| serde_json::from_slice(&row.body).ok()).collect();
        let of_kind = |kind: &str| bodies.iter().find(|b| b.get("kind").and_then(Value::as_str) == Some(kind));
        let Some(made) = of_kind("intent").or_else(|| of_kind("hold")) else { return Ok(None) };
        let task = entries.iter().find_map(|row: &EntryRow| row.task);
        let now = self.clock.now();
        let found = self.payloads.of_call(call, task, now).await?;
        let arguments = self.told(PayloadKind::Arguments, Some(made), &found, now);
        Ok(Some(CallTexts { call, arguments, answer: self.told(PayloadKind::Answer, of_kind("outcome"), &found, now) }))
    }

    /// One text as it stands, by what is kept and what the entry promised.
    fn told(&self, kind: PayloadKind, entry: Option<&Value>, found: &OfCall, now: Timestamp) -> Text {
        let said = |name: &str| entry.and_then(|e| e.get(name)?.as_str());
        let digest: Option<Digest> = said(kind.word()).and_then(|text| text.parse().ok());
        if let Some(row) = found.rows.iter().find(|row| row.kind == kind) {
            return self.read_out(row, digest);
        }
        let Some(until) = said("kept_until").and_then(|text| Timestamp::parse(text).ok()) else { return Text::NotKept };
        match &found.erased {
            Some(note) => Text::Erased { at: note.at, by: note.by.clone(), entry: note.entry },
            None if now >= until => Text::Expired { at: until },
            None => Text::Lost { until },
        }
    }

    fn read_out(&self, row: &PayloadRow, digest: Option<Digest>) -> Text {
        let Some((salt, text)) = self.unsealed(row) else {
            tracing::error!(call = %row.call, kind = row.kind.word(), "the kept text of a call was changed, or belongs to another call");
            return Text::Damaged;
        };
        let on_record = digest.filter(|_| !row.truncated).map(|digest| self.salted(&salt, &text) == digest);
        let text = String::from_utf8_lossy(&text).into_owned();
        Text::Kept { text, bytes: row.bytes, truncated: row.truncated, until: row.expires_at, on_record }
    }

    /// A kept text, opened. `None`: it was changed, or belongs to another call.
    pub(crate) fn unsealed(&self, row: &PayloadRow) -> Option<(Salt, Zeroizing<Vec<u8>>)> {
        let opened = self.texts.0.open_payload(&name(row.kind, row.call), &row.sealed).ok()?;
        let (salt, text) = opened.split_first_chunk::<SALT>()?;
        Some((Salt::from_bytes(*salt), Zeroizing::new(text.to_vec())))
    }
}

/// Whose text it is, and what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whose {
    pub(crate) call: CallId,
    pub(crate) task: TaskId,
    pub(crate) kind: PayloadKind,
}

pub(crate) fn salt_name(task: TaskId) -> String {
    format!("salt/{task}")
}
