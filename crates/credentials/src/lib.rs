//! The only room that can read a secret: sealing, injecting, leases. Never sees inbound requests or our tables.
//!
//! A [`Secret`] goes in (from a person or a configuration), rests sealed under the [`RootKey`] ([`Sealer`]), and comes out only
//! into the environment or the headers of its own system ([`Injection`]). What a system answers is cleaned of it
//! ([`Injection::redact`]). A credential that is made for a task is minted at its system and ended there by a [`lease::Kind`]. The caller reads
//! and writes files and tables, and sees sealed bytes only.
#![deny(missing_docs)]

pub mod address;
mod injection;
pub mod kinds;
pub mod lease;
mod record;
mod redaction;
mod root;
mod seal;
mod secret;
pub mod sessions;

pub use injection::{Injection, InjectionError, Part};
pub use record::{RecordKey, TaskSalt};
pub use redaction::REDACTED;
#[cfg(feature = "pkcs11")]
pub use root::pkcs11::TokenKey;
pub use root::wrapped::{RootWrap, WrapError, WrappedRoot};
pub use root::{KeyFileError, RootKey, check_key_file};
pub use seal::{PAYLOAD_MAX, RootId, SECRET_MAX, SealError, Sealer};
pub use secret::Secret;
