//! A stored key as leases use it: lent to a request for as long as it takes to write it, and to no request of a lease that has ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::Secret;
use crate::lease::{AccountName, Step, TargetCode, TargetError};

/// A shorter key could not be told from other text in answers.
const KEY_MIN: usize = 8;
const KEY_MAX: usize = 8 << 10;
/// Ended leases that are remembered. Older ones are ended in the record, and their sessions are gone.
const ENDED_MAX: usize = 100_000;

/// A stored key, and which leases may have it injected.
pub struct Key {
    secret: Secret,
    leases: Mutex<Leases>,
}

#[derive(Default)]
struct Leases {
    /// `true` from the moment on in which the lease ends.
    open: BTreeMap<AccountName, watch::Sender<bool>>,
    ended: BTreeSet<AccountName>,
    order: VecDeque<AccountName>,
}

impl Key {
    /// From a secret: one line of text of 8 bytes to 8 KiB.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] for anything else, without repeating it.
    pub fn new(secret: Secret) -> Result<Arc<Self>, TargetError> {
        let bytes = secret.expose();
        let text = std::str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(char::is_control) && text.trim() == text);
        if !(KEY_MIN..=KEY_MAX).contains(&bytes.len()) || !text {
            let words = "expected a key of 8 bytes to 8 KiB: one line of text, without space around it";
            return Err(TargetError::new(TargetCode::Plan, Step::Mint, "", words));
        }
        Ok(Arc::new(Self { secret, leases: Mutex::default() }))
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease's access to the key. `None` if it has ended.
    pub(crate) fn tap(self: &Arc<Self>, lease: &AccountName) -> Option<Tap> {
        let mut leases = self.leases();
        if leases.ended.contains(lease) {
            return None;
        }
        let line = leases.open.entry(lease.clone()).or_insert_with(|| watch::Sender::new(false)).clone();
        Some(Tap { key: Arc::clone(self), line })
    }

    /// Shuts every tap of the lease, for ever, and waits until no request of it is in the air. Gives how many were cut off; `None` if one
    /// did not end in time.
    pub(super) async fn stop(&self, lease: &AccountName, within: Duration) -> Option<usize> {
        let line = self.shut(lease);
        let Some(line) = line else { return Some(0) };
        let cut = line.receiver_count();
        line.send_replace(true);
        tokio::time::timeout(within, line.closed()).await.ok()?;
        self.leases().open.remove(lease);
        Some(cut)
    }

    fn shut(&self, lease: &AccountName) -> Option<watch::Sender<bool>> {
        let mut leases = self.leases();
        if leases.ended.insert(lease.clone()) {
            leases.order.push_back(lease.clone());
        }
        if leases.order.len() > ENDED_MAX
            && let Some(oldest) = leases.order.pop_front()
        {
            leases.ended.remove(&oldest);
        }
        leases.open.get(lease).cloned()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// One lease's access to a key.
pub(crate) struct Tap {
    key: Arc<Key>,
    line: watch::Sender<bool>,
}

impl Tap {
    /// Lends the key. `None` once the lease has ended.
    pub(crate) fn look<T>(&self, with: impl FnOnce(&Secret) -> T) -> Option<T> {
        if *self.line.borrow() { None } else { Some(with(&self.key.secret)) }
    }

    /// A request begins. Whoever ends the lease waits until the gate is dropped. `None` once the lease has ended.
    pub(crate) fn enter(&self) -> Option<Gate> {
        // Counted first and asked then: an end that does not count it has said before that it is one.
        let gate = Gate(self.line.subscribe());
        let shut = *gate.0.borrow();
        (!shut).then_some(gate)
    }
}

/// A request of a lease that is in the air.
pub(crate) struct Gate(watch::Receiver<bool>);

impl Gate {
    /// Ends when the lease does.
    pub(crate) async fn shut(&mut self) {
        // The sender lives as long as the tap, so that an error says the same.
        drop(self.0.wait_for(|shut| *shut).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Prefix;

    fn name(n: u8) -> AccountName {
        AccountName::new(&Prefix::default(), [n; 16])
    }

    fn key() -> Arc<Key> {
        Key::new(Secret::from("canary-0123456789".to_owned())).unwrap()
    }

    #[test]
    fn a_key_is_one_line_that_can_be_told_from_other_text() {
        for bad in ["", "short", "with\nlines-0123456789", " padded-0123456789", "padded-0123456789\n", "\u{7f}0123456789"] {
            let error = Key::new(Secret::from(bad.to_owned())).unwrap_err();
            assert!(bad.trim().is_empty() || !error.to_string().contains(bad.trim()), "{error}");
        }
        assert!(Key::new(Secret::from(vec![0xff; 20])).is_err());
        assert!(Key::new(Secret::from("a".repeat(KEY_MAX + 1))).is_err());
        assert_eq!(format!("{:?}", key()), "Key(..)");
    }

    #[tokio::test]
    async fn a_lease_that_has_ended_is_lent_nothing_and_others_go_on() {
        let key = key();
        let (one, other) = (key.tap(&name(1)).unwrap(), key.tap(&name(2)).unwrap());
        assert!(one.look(|secret| secret.expose() == b"canary-0123456789").unwrap());
        assert_eq!(key.stop(&name(1), Duration::from_secs(1)).await, Some(0));
        assert!(one.look(|_| ()).is_none() && one.enter().is_none() && key.tap(&name(1)).is_none());
        assert!(other.look(|_| ()).is_some() && other.enter().is_some());
        assert_eq!(key.stop(&name(1), Duration::from_secs(1)).await, Some(0), "ended again");
        assert_eq!(key.stop(&name(3), Duration::from_secs(1)).await, Some(0), "never used");
        assert!(key.tap(&name(3)).is_none());
    }

    #[tokio::test]
    async fn an_end_waits_for_requests_in_the_air_and_cuts_them_off() {
        let key = key();
        let tap = key.tap(&name(1)).unwrap();
        let mut gate = tap.enter().unwrap();
        let request = async move {
            gate.shut().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(gate);
        };
        let lease = name(1);
        let (cut, ()) = tokio::join!(key.stop(&lease, Duration::from_secs(5)), request);
        assert_eq!(cut, Some(1));
        let stuck = key.tap(&name(2)).unwrap().enter();
        assert_eq!(key.stop(&name(2), Duration::from_millis(50)).await, None, "one that does not end keeps the lease from ending");
        assert!(key.tap(&name(2)).is_none(), "and is given nothing more");
        drop(stuck);
        assert_eq!(key.stop(&name(2), Duration::from_secs(5)).await, Some(0));
    }

    #[tokio::test]
    async fn what_is_remembered_of_ended_leases_has_an_end() {
        let key = key();
        let lease = |n: usize| AccountName::new(&Prefix::default(), u128::try_from(n).unwrap().to_be_bytes());
        for n in 0..ENDED_MAX + 10 {
            key.stop(&lease(n), Duration::from_secs(1)).await.unwrap();
        }
        assert_eq!(key.leases().ended.len(), ENDED_MAX);
        assert!(key.tap(&lease(ENDED_MAX + 9)).is_none());
    }
}
