//! The OAuth endpoints without their sockets: requests read strictly, answers, errors, metadata and challenges as JSON and text.

mod answer;
mod form;
mod metadata;
mod request;
mod scope;

pub use answer::{Challenge, NO_STORE, OauthError, TokenAnswer, introspection};
pub use form::{FORM_MAX, Form};
pub use metadata::{ResourceMetadata, ServerMetadata};
pub use request::{ClientProof, GrantType, TokenQuery, TokenRequest};
pub use scope::{Scope, ScopeError};
