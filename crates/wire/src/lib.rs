//! Bytes to calls and back: MCP of both eras, JSON, SSE. Codecs only, no sockets, no secrets.

pub mod canonical;
pub mod json;
pub mod lines;
pub mod mcp;
pub mod openapi;
pub mod render;
pub mod schema;
pub mod sql;
pub mod sse;

pub use canonical::{Canonical, canonical};
pub use json::{JsonError, Limits, Raw, RawBuf};
