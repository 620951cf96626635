//! What a tool of the shop is: its published definition, and the one way in which every call of it runs.

use bailiwick_core::Effect;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{changes, money, reads};

/// The longest complaint about arguments that is sent back, in characters: it may quote the caller.
const COMPLAINT_CHARS_MAX: usize = 400;

/// MCP's tool annotations beside `readOnlyHint`, which follows from the effect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hints {
    /// Overwrites or takes away, rather than only adding.
    pub(super) destructive: bool,
    /// A second identical call changes nothing more.
    pub(super) idempotent: bool,
    /// Reaches people or systems outside the shop.
    pub(super) open_world: bool,
}

impl Hints {
    /// What every read is.
    pub(super) const READ: Self = Self { destructive: false, idempotent: true, open_world: false };
}

/// Why a call was not done. Nothing has changed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The shop refuses, in words for the caller.
    Refused(String),
    /// The shop itself failed.
    Broken(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                Self::refused("the shop is busy: nothing was done, try again in a moment")
            }
            _ => Self::Broken(error),
        }
    }
}

impl Failure {
    pub(super) fn refused(words: impl Into<String>) -> Self {
        Self::Refused(words.into())
    }
}

/// One tool: the type is its arguments, parsed.
pub(super) trait Operation: DeserializeOwned + JsonSchema {
    type Answer: Serialize + JsonSchema;

    const NAME: &'static str;
    const TITLE: &'static str;
    const DESCRIPTION: &'static str;
    const EFFECT: Effect;
    const HINTS: Hints;

    /// What the call acts on, for the audit. A change without one is not done.
    fn target(&self) -> Option<String> {
        None
    }

    /// Does it, inside a transaction that is undone if this fails.
    fn perform(&self, shop: &Transaction<'_>) -> Result<Self::Answer, Failure>;
}

/// A row of the table of tools.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) effect: Effect,
    /// The tool as `tools/list` shows it.
    pub(super) definition: fn() -> Value,
    /// Runs a call: the arguments as JSON text, and the caller's `traceparent` if it sent a valid one.
    pub(super) call: fn(&mut Connection, &str, Option<&str>) -> Result<Value, Failure>,
}

impl Entry {
    const fn of<O: Operation>() -> Self {
        Self { name: O::NAME, effect: O::EFFECT, definition: definition::<O>, call: call::<O> }
    }
}

/// Every tool, in the order in which it is listed.
const ENTRIES: &[Entry] = &[
    Entry::of::<reads::FindCustomers>(),
    Entry::of::<reads::ShowOrder>(),
    Entry::of::<reads::ListOrders>(),
    Entry::of::<reads::ListTickets>(),
    Entry::of::<reads::ListDiscounts>(),
    Entry::of::<reads::ListSuppliers>(),
    Entry::of::<changes::CommentTicket>(),
    Entry::of::<changes::RecommendDiscount>(),
    Entry::of::<changes::UpdateAddress>(),
    Entry::of::<changes::SetOrderStatus>(),
    Entry::of::<changes::DeleteCustomer>(),
    Entry::of::<money::RefundOrder>(),
    Entry::of::<money::PaySupplier>(),
    Entry::of::<money::ApproveDiscount>(),
];

pub(super) fn entries() -> impl Iterator<Item = &'static Entry> {
    ENTRIES.iter()
}

/// The one way of a call. A change and its line in the audit stand or fall together.
fn call<O: Operation>(shop: &mut Connection, arguments: &str, traceparent: Option<&str>) -> Result<Value, Failure> {
    let operation: O = serde_json::from_str(arguments).map_err(|error| misfit(O::NAME, &error))?;
    let changes = O::EFFECT != Effect::Read;
    let behavior = if changes { TransactionBehavior::Immediate } else { TransactionBehavior::Deferred };
    let transaction = shop.transaction_with_behavior(behavior)?;
    let answer = operation.perform(&transaction)?;
    let answer = serde_json::to_value(answer).map_err(|error| Failure::Broken(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))?;
    if changes {
        transaction.execute(
            "INSERT INTO audit (tool, target, arguments, traceparent) VALUES (?1, ?2, ?3, ?4)",
            params![O::NAME, operation.target(), arguments, traceparent],
        )?;
    }
    transaction.commit()?;
    Ok(answer)
}

fn misfit(tool: &str, error: &serde_json::Error) -> Failure {
    let complaint = error.to_string();
    let complaint = complaint.rsplit_once(" at line ").map_or(complaint.as_str(), |(words, _)| words);
    let mut shown: String = complaint.chars().take(COMPLAINT_CHARS_MAX).collect();
    if shown.len() < complaint.len() {
        shown.push_str(" [...]");
    }
    Failure::refused(format!("the arguments do not fit `{tool}`: {shown}"))
}

fn definition<O: Operation>() -> Value {
    json!({
        "name": O::NAME,
        "title": O::TITLE,
        "description": O::DESCRIPTION,
        "inputSchema": schema::<O>(plain().into_generator()),
        "outputSchema": schema::<O::Answer>(plain().for_serialize().into_generator()),
        "annotations": {
            "title": O::TITLE,
            "readOnlyHint": O::EFFECT == Effect::Read,
            "destructiveHint": O::HINTS.destructive,
            "idempotentHint": O::HINTS.idempotent,
            "openWorldHint": O::HINTS.open_world,
        },
    })
}

fn plain() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
        // What may be left out may still not be null, which is what serde's default would show.
        settings.transforms.push(Box::new(RecursiveTransform(|schema: &mut Schema| drop(schema.remove("default")))));
    })
}

fn schema<T: JsonSchema>(generator: SchemaGenerator) -> Value {
    let mut schema = generator.into_root_schema_for::<T>();
    schema.remove("title");
    schema.into()
}
