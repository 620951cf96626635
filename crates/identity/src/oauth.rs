//! The OAuth endpoints without their sockets: requests read strictly, answers, errors, metadata and challenges as JSON and text.

mod answer;
mod authorize;
mod challenge;
mod client_metadata;
mod exchange;
mod form;
mod metadata;
mod redirect;
mod request;
mod scope;

pub use answer::{NO_STORE, OauthError, TokenAnswer, introspection};
pub use authorize::{Asked, AuthorizationRequest, CodeChallenge, CodeGrant, QUERY_MAX, RefreshGrant, code_address};
pub use challenge::{Challenge, Scheme};
pub use client_metadata::{ClientIdError, ClientIdUrl, ClientKeys, ClientMetadata, METADATA_MAX, Registration};
pub use exchange::{ACCESS_TOKEN, AskedPart, AskedTools, EXCHANGE_GRANT, Exchange, TASK_DETAIL, TOOL_DETAIL};
pub use form::{FORM_MAX, Form};
pub use metadata::{InteractiveMetadata, ResourceMetadata, ServerMetadata};
pub use redirect::{RedirectError, RedirectUri};
pub use request::{Assertion, ClientProof, GrantType, JWT_BEARER_GRANT, TokenQuery, TokenRequest};
pub use scope::{Scope, ScopeError};
