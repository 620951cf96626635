//! The law: ids, calls and their stages, tasks, grants, decisions, holds, permits. Never does I/O, never asks the clock.
//!
//! A call walks in one direction: [`Call<Received>`](call::Received) -> `Authenticated` -> `Bound` -> [`decide`] ->
//! [`record`](record::record) -> [`Permit`]. Each stage is a value that only the step before it can make, so that a call that
//! was not decided, or a decision that is not on record, cannot be forwarded: it does not compile.
#![deny(missing_docs)]

pub mod agent;
pub mod call;
pub mod decision;
pub mod delegation;
pub mod der;
pub mod digest;
pub mod effect;
pub mod error;
pub mod grant;
pub mod hold;
pub mod id;
pub mod label;
pub mod name;
pub mod record;
pub mod task;
pub mod time;

pub use agent::{Agent, Person, RiskTier, Role};
pub use call::{Authenticated, Bound, Call, Caller, Permitted, Received};
pub use decision::{Circumstances, Decision, Facts, Needs, Policy, PolicyRef, Revision, Verdict, decide};
pub use delegation::{Excess, Hop, Part, PartRefused, Wish};
pub use digest::{Digest, Salt};
pub use effect::{Effect, ToolHints};
pub use error::ErrorCode;
pub use grant::{Constraint, Grant, Scalar, ToolGrant, Violation};
pub use hold::{Approval, ApprovalError, ApprovalKind, Hold};
pub use id::{AssertionId, CallId, HoldId, IncidentId, InstanceId, LeaseId, SessionId, TaskId};
pub use label::{LABELS_MAX, Labels, TooManyLabels};
pub use name::{AgentName, ComponentName, Label, NameError, PersonName, SpiffeId, SystemName, ToolName, TrustDomain};
pub use record::{Journal, Permit, Recorded};
pub use task::{Budget, EndReason, HeldBy, ProvedBy, Task, TaskState};
pub use time::{Clock, Timestamp};
