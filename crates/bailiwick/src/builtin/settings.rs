//! Which sort of built-in system a configuration asks for, and how it is put together.

use std::collections::HashMap;
use std::sync::Arc;

use bailiwick_core::Clock;
use bailiwick_credentials::lease::Prefix;
use bailiwick_credentials::{Sealer, Secret};

use super::Built;

/// The settings of a built-in system, checked. No secret is in them, only names of secrets.
#[derive(Clone, Debug)]
pub enum Settings {}

impl Settings {
    /// The names of the sealed secrets that it needs.
    pub(crate) fn secrets(&self) -> Vec<&str> {
        match *self {}
    }

    /// What the names of its accounts begin with.
    pub(crate) fn prefix(&self) -> Prefix {
        match *self {}
    }

    /// Where its calls go, for people and for the call's digest: no secrets.
    pub(crate) fn target(&self) -> String {
        match *self {}
    }
}

/// Puts it together with its secrets, which are opened for as long as that takes.
///
/// # Errors
/// In words: a secret is not set or does not open, or the settings do not fit together.
pub(crate) fn build(settings: &Settings, sealed: &HashMap<String, Option<Vec<u8>>>, sealer: &Sealer, clock: &Arc<dyn Clock>) -> Result<Built, String> {
    let _secret = |name: &str| -> Result<Secret, String> {
        let sealed = sealed.get(name).and_then(Option::as_ref).ok_or_else(|| format!("the secret `{name}` is not set: `bailiwick secret set {name}`"))?;
        sealer.open(name, sealed).map_err(|e| format!("the secret `{name}`: {e}"))
    };
    let _ = clock;
    match *settings {}
}
