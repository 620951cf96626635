//! What policy says: Cedar schema, entities, evaluation, explanation. Never does I/O.
//!
//! The principal is a task (`Task in [Agent]`), the action is the tool (`Action::"shop.refund_order"`) under its effect
//! (`Action::"transfer"`), the resource is the system. What varies from call to call is in the context; the call's arguments are
//! in `context.input`, typed from the tool's own JSON schema. Approvals are facts in the context (`context.approved`).
//!
//! Cedar skips a policy that errors, a `forbid` too. Here any error is a denial: see [`Engine`].
#![deny(missing_docs)]

// The test fixture names the crate as the integration tests do.
#[cfg(test)]
extern crate self as bailiwick_policy;

mod analysis;
mod elsewhere;
mod engine;
mod explain;
mod load;
mod possible;
mod schema;
mod shape;
mod world;

pub use elsewhere::{Elsewhere, ElsewhereQuestion, Thing};
pub use engine::{Engine, PolicyText};
pub use explain::{Explained, Explanation, Matched};
pub use load::{LoadError, Problem, Source, default_pack};
pub use possible::{Possible, TaskQuestion};
pub use shape::{ArgumentKind, InputShape};
pub use world::{ToolShape, World};
