//! Which sort of built-in system a configuration asks for, and how it is put together.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bailiwick_core::Clock;
use bailiwick_credentials::lease::Prefix;
use bailiwick_credentials::lease::rotation::Custody;
use bailiwick_credentials::{Sealer, Secret};
use bailiwick_store::{Store, StoreError};

use super::Built;
use crate::kept_secrets::KeptSecrets;

/// One line for each sort: its table in the configuration, which is the name of its module.
macro_rules! sorts {
    ($secret:ident, $clock:ident, $kept:ident; $($table:ident: $variant:ident($($given:ident),*)),* $(,)?) => {
        /// The tables of a system, as they are written. At most one is given.
        #[derive(Debug, Default)]
        pub(crate) struct Tables {
            $(pub(crate) $table: Option<super::$table::File>,)*
        }

        #[derive(Clone, Debug)]
        enum Sort {
            $($variant(Arc<super::$table::Settings>),)*
        }

        impl Tables {
            /// The names of all tables.
            pub(crate) const NAMES: &'static [&'static str] = &[$(stringify!($table)),*];

            /// The settings of the one that is given.
            ///
            /// # Errors
            /// In words: there are two, or what is wrong with the one.
            pub(crate) fn check(self, folder: &Path) -> Result<Option<Settings>, String> {
                let mut found = Vec::new();
                $(if let Some(file) = self.$table {
                    let settings = file.check(folder).map_err(|why| format!("`{}`: {why}", stringify!($table)))?;
                    found.push((stringify!($table), Sort::$variant(Arc::new(settings))));
                })*
                match <[_; 1]>::try_from(found) {
                    Ok([(_, sort)]) => Ok(Some(Settings(sort))),
                    Err(found) if found.is_empty() => Ok(None),
                    Err(found) => {
                        let names: Vec<_> = found.iter().map(|(name, _)| format!("`{name}`")).collect();
                        Err(format!("it is {} at once", names.join(" and ")))
                    }
                }
            }
        }

        impl Settings {
            /// The names of the sealed secrets that it needs.
            pub(crate) fn secrets(&self) -> Vec<&str> {
                match &self.0 { $(Sort::$variant(settings) => settings.secrets(),)* }
            }

            /// What the names of its accounts begin with.
            pub(crate) fn prefix(&self) -> Prefix {
                match &self.0 { $(Sort::$variant(settings) => settings.prefix(),)* }
            }

            /// Where its calls go, for people and for the call's digest: no secrets.
            pub(crate) fn target(&self) -> String {
                match &self.0 { $(Sort::$variant(settings) => settings.target(),)* }
            }

            fn build(
                &self,
                $secret: &dyn Fn(&str) -> Result<Secret, String>,
                $clock: &Arc<dyn Clock>,
                $kept: &Arc<dyn Custody>,
            ) -> Result<Built, String> {
                match &self.0 { $(Sort::$variant(settings) => settings.build($($given),*),)* }
            }
        }
    };
}

// With what each is put together: its secrets, the time, and where secrets are that it changes.
sorts! {
    secret, clock, kept;
    checkout: Checkout(kept, clock),
    http: Http(secret, clock),
    mariadb: Mariadb(secret, clock),
    nats: Nats(secret, clock),
    postgresql: Postgresql(secret, clock),
    rabbitmq: Rabbitmq(secret, clock),
    redis: Redis(secret, clock),
    ssh: Ssh(secret, clock),
}

/// The settings of a built-in system, checked. No secret is in them, only names of secrets.
#[derive(Clone, Debug)]
pub struct Settings(Sort);

/// Sealed secrets by name, as the store had them. They are opened where a kind or a session takes them, and for no longer.
#[derive(Debug)]
pub(crate) struct SealedSecrets<'a> {
    sealed: HashMap<String, Option<Vec<u8>>>,
    sealer: &'a Sealer,
    store: Store,
}

impl Settings {
    /// Can an account be given to a task after it was made?
    pub(crate) const fn can_wait(&self) -> bool {
        matches!(self.0, Sort::Postgresql(_) | Sort::Redis(_) | Sort::Rabbitmq(_))
    }

    /// Is a credential of it one that was made for the task, and a text?
    pub(crate) const fn can_be_handed_out(&self) -> bool {
        matches!(self.0, Sort::Postgresql(_) | Sort::Mariadb(_) | Sort::Redis(_) | Sort::Rabbitmq(_) | Sort::Nats(_) | Sort::Ssh(_))
    }
}

impl<'a> SealedSecrets<'a> {
    /// Those of these names.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn of(store: &Store, sealer: &'a Sealer, names: Vec<&str>) -> Result<Self, StoreError> {
        let mut sealed = HashMap::new();
        for name in names {
            sealed.insert(name.to_owned(), store.secret(name).await?);
        }
        Ok(Self { sealed, sealer, store: store.clone() })
    }

    /// One of them.
    ///
    /// # Errors
    /// In words: it is not set, or does not open.
    pub(crate) fn open(&self, name: &str) -> Result<Secret, String> {
        let unset = || format!("the secret `{name}` is not set: `bailiwick secret set {name}`");
        let sealed = self.sealed.get(name).and_then(Option::as_ref).ok_or_else(unset)?;
        self.sealer.open(name, sealed).map_err(|e| format!("the secret `{name}`: {e}"))
    }
}

impl Settings {
    /// Puts it together with its secrets.
    ///
    /// # Errors
    /// In words: a secret is not set or does not open, or the settings do not fit together.
    pub(crate) fn put_together(&self, secrets: &SealedSecrets<'_>, clock: &Arc<dyn Clock>) -> Result<Built, String> {
        let kept: Arc<dyn Custody> = Arc::new(KeptSecrets::new(secrets.store.clone(), secrets.sealer.clone(), Arc::clone(clock)));
        self.build(&|name| secrets.open(name), clock, &kept)
    }
}
