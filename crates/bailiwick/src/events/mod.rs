//! Security events (RFC 8417): taken from those who know our people, pushed (RFC 8935) or polled (RFC 8936); and ends of tasks told to others.

mod receive;
mod streams;
mod tell;

use std::collections::BTreeMap;
use std::sync::Arc;

use bailiwick_credentials::{Injection, Secret};
use subtle::ConstantTimeEq as _;

use crate::config::{EventsConfig, Receiver, Transmitter};
use crate::house::{House, StartError};
use crate::proofs::{Fetcher, Form, Kept, Place};

pub(crate) use receive::EventRefused;
pub(crate) use streams::StreamRefused;

use self::tell::Outbox;

/// Everything about events at run time.
#[derive(Debug)]
pub(crate) struct Events {
    from: Vec<Source>,
    to: BTreeMap<String, Arc<Outbox>>,
}

/// A transmitter, with its keys.
#[derive(Debug)]
struct Source {
    config: Transmitter,
    keys: Arc<Kept>,
}

impl Events {
    /// As they are configured. Nothing is fetched yet.
    ///
    /// # Errors
    /// If an authority on the way to a transmitter is none.
    pub(crate) fn new(config: &EventsConfig) -> Result<Self, StartError> {
        let from = config.from.iter().map(|t| {
            let fetcher = Fetcher::linked(&t.link).map_err(|why| StartError::place(format!("the transmitter of events `{}`", t.name), why))?;
            let keys = Arc::new(Kept::new(&t.name, Place::Url(fetcher, t.jwks.clone()), Form::Jwks));
            Ok(Source { config: t.clone(), keys })
        });
        let from = from.collect::<Result<_, StartError>>()?;
        let to = config.to.iter().map(|r| (r.name.clone(), Arc::new(Outbox::new(r.clone()))));
        Ok(Self { from, to: to.collect() })
    }

    /// The keys of each transmitter, by its name.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&String, &Arc<Kept>)> {
        self.from.iter().map(|source| (&source.config.name, &source.keys))
    }
}

/// `Authorization: Bearer` with a sealed secret: to send, and to hold a request against.
#[derive(Debug)]
struct Bearer(Injection);

impl Bearer {
    fn of(secret: &Secret) -> Result<Self, String> {
        Injection::header_of("authorization", "Bearer ", secret).map(Self).map_err(|e| e.to_string())
    }

    fn with<T>(&self, then: impl FnOnce(&str) -> T) -> Option<T> {
        let mut then = Some(then);
        let mut out = None;
        self.0.headers(|_, value| {
            if let Some(then) = then.take() {
                out = Some(then(value));
            }
        });
        out
    }

    /// Did a request bring exactly this?
    fn is(&self, presented: Option<&str>) -> bool {
        let Some(presented) = presented else { return false };
        self.with(|value| bool::from(value.as_bytes().ct_eq(presented.as_bytes()))).unwrap_or(false)
    }
}

impl House {
    async fn bearer_of(&self, secret: &str) -> Result<Bearer, String> {
        Bearer::of(&self.secret_named(secret).await?)
    }

    /// Starts what polls and what pushes.
    ///
    /// # Errors
    /// A secret that is not set, or the store's.
    pub(crate) async fn start_events(self: &Arc<Self>) -> Result<(), StartError> {
        let fault = |name: &str, why: String| StartError::Export(name.to_owned(), why);
        for source in &self.events.from {
            if let Some(secret) = &source.config.bearer {
                self.bearer_of(secret).await.map_err(|why| fault(&source.config.name, why))?;
            }
        }
        for (index, source) in self.events.from.iter().enumerate() {
            if source.config.poll.is_some() {
                let house = Arc::clone(self);
                self.workers.spawn(async move { house.poll(index).await });
            }
        }
        for outbox in self.events.to.values() {
            self.bearer_of(&outbox.config.bearer).await.map_err(|why| fault(&outbox.config.name, why))?;
            self.open_outbox(outbox).await?;
            if outbox.config.push.is_some() {
                let (house, outbox) = (Arc::clone(self), Arc::clone(outbox));
                self.workers.spawn(async move { house.push(&outbox).await });
            }
        }
        Ok(())
    }

    /// Is there anybody whose events are taken?
    pub(crate) fn takes_events(&self) -> bool {
        !self.events.from.is_empty()
    }

    /// How receivers are told: for the transmitter's metadata.
    pub(crate) fn delivery_methods(&self) -> Vec<&'static str> {
        let method = |r: &Receiver| if r.push.is_some() { PUSH } else { POLL };
        let mut all: Vec<&str> = self.events.to.values().map(|o| method(&o.config)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The names of the two ways (SSF 1.0 section 6).
const PUSH: &str = "urn:ietf:rfc:8935";
const POLL: &str = "urn:ietf:rfc:8936";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_is_the_whole_value_and_nothing_else() {
        let bearer = Bearer::of(&Secret::from("s3cret".to_owned())).unwrap();
        assert!(bearer.is(Some("Bearer s3cret")));
        for wrong in [None, Some(""), Some("s3cret"), Some("Bearer s3cre"), Some("Bearer s3crett"), Some("bearer s3cret")] {
            assert!(!bearer.is(wrong), "{wrong:?}");
        }
        assert!(!format!("{bearer:?}").contains("s3cret"));
    }
}
