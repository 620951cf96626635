//! The people in force: those of the configuration, with what their provider said of them, their passkeys, and who is disabled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bailiwick_core::{Person, PersonName, Role, Timestamp};
use bailiwick_identity::passkey::{Passkey, decode};
use bailiwick_identity::{KeyId, PublicKey};
use bailiwick_store::{Entry, Registered, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::entry::{self, Body as _};
use crate::house::House;

/// Passkeys that one person may have.
pub(crate) const PASSKEYS_MAX: usize = 20;
/// How long none is added in a session without one, after one was removed in such a session, or by an operator.
pub(crate) const GUARDED: Duration = Duration::from_secs(24 * 3600);
/// People that are remembered beyond those of the configuration.
const PROVISIONED_MAX: usize = 10_000;

/// What is remembered of a person, as JSON in the store. Version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    v: u8,
    /// The provider that the person signed in with.
    pub issuer: Option<String>,
    /// The person's id there. Once it is known, nobody with another id is this person.
    pub subject: Option<String>,
    /// The address that the provider vouched for last.
    pub email: Option<String>,
    /// Roles by claim.
    #[serde(default)]
    pub roles: BTreeSet<Role>,
    /// Until when they hold.
    pub roles_until: Option<Timestamp>,
    /// Made known by signing in, not by the configuration.
    #[serde(default)]
    pub provisioned: bool,
    /// Since when the person may do nothing here.
    pub disabled: Option<Timestamp>,
    /// The passkeys.
    #[serde(default)]
    pub passkeys: Vec<KeptPasskey>,
    /// Until when none may be added in a session without one: somebody removed one in such a session.
    #[serde(default)]
    pub guarded_until: Option<Timestamp>,
    /// Whose event disabled the person; an operator did, if there is none. Only the same one's event enables him or her again.
    #[serde(default)]
    pub disabled_by: Option<String>,
    /// Keys of this person that were revoked, by thumbprint, and when. None is ever forgotten.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revoked_keys: BTreeMap<String, Timestamp>,
}

/// A passkey as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPasskey {
    /// The credential's id in base64url.
    pub id: String,
    /// The public key as a JWK.
    pub key: serde_json::Value,
    /// The counter that was seen last.
    pub counter: u32,
    /// May it be copied?
    pub can_be_copied: bool,
    /// What its person calls it.
    pub name: String,
    /// When it was registered.
    pub added: Timestamp,
    /// When it was used last.
    pub used: Option<Timestamp>,
}

impl KeptPasskey {
    /// As the verifier takes it. None if what is stored is damaged: then it opens nothing.
    #[must_use]
    pub fn passkey(&self) -> Option<Passkey> {
        let key = PublicKey::from_jwk(&self.key).ok()?;
        Some(Passkey { id: decode(&self.id).ok()?, key, counter: self.counter, can_be_copied: self.can_be_copied })
    }
}

impl Known {
    fn new() -> Self {
        Self {
            v: 1,
            issuer: None,
            subject: None,
            email: None,
            roles: BTreeSet::new(),
            roles_until: None,
            provisioned: false,
            disabled: None,
            passkeys: Vec::new(),
            guarded_until: None,
            disabled_by: None,
            revoked_keys: BTreeMap::new(),
        }
    }

    /// This, without anything that `before` had not: what is in force while the change is not on record yet.
    fn without_more_than(&self, before: &Self) -> Self {
        let mut less = self.clone();
        less.disabled = less.disabled.or(before.disabled);
        less.provisioned &= before.provisioned;
        less.roles.retain(|role| before.roles.contains(role));
        less.roles_until = less.roles_until.min(before.roles_until);
        less.guarded_until = less.guarded_until.max(before.guarded_until);
        less.passkeys.retain(|passkey| before.passkeys.iter().any(|known| known.id == passkey.id));
        less
    }

    fn roles_at(&self, now: Timestamp) -> &BTreeSet<Role> {
        const NONE: &BTreeSet<Role> = &BTreeSet::new();
        if self.roles_until.is_some_and(|until| now < until) { &self.roles } else { NONE }
    }
}

/// Who is known, and who of them may do what now.
#[derive(Debug)]
pub struct Directory {
    configured: BTreeMap<PersonName, Person>,
    known: Mutex<BTreeMap<PersonName, Known>>,
    people: ArcSwap<BTreeMap<PersonName, Person>>,
    changing: tokio::sync::Mutex<()>,
}

/// Why a change of a person was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// There are too many people, or passkeys of one.
    #[error("there are too many already")]
    TooMany,
    /// It is not as it was when this was decided.
    #[error("{0}")]
    Unfit(&'static str),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How far the clock of whoever tells events may be behind ours; their times are whole seconds.
const CLOCKS: Duration = Duration::from_secs(5);

impl Directory {
    /// The people of the configuration, with what the store remembers of them.
    ///
    /// # Errors
    /// The store's, or `Malformed` if a document in it cannot be read: then nobody knows who is disabled.
    pub async fn open(config: &Config, store: &Store, now: Timestamp) -> Result<Self, StoreError> {
        let mut known = BTreeMap::new();
        for row in store.people().await? {
            let document: Known =
                serde_json::from_str(&row.document).map_err(|_| StoreError::Malformed { detail: "the document of a person".into() })?;
            known.insert(row.name, document);
        }
        let directory =
            Self { configured: config.people.clone(), known: Mutex::new(known), people: ArcSwap::default(), changing: tokio::sync::Mutex::default() };
        directory.settle(now);
        Ok(directory)
    }

    /// Takes stock of who may do what now. True if that changed.
    pub fn settle(&self, now: Timestamp) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut people = BTreeMap::new();
        let provisioned = known.iter().filter(|(name, k)| k.provisioned && !self.configured.contains_key(*name)).map(|(name, _)| (name, None));
        for (name, person) in self.configured.iter().map(|(name, person)| (name, Some(person))).chain(provisioned) {
            let document = known.get(name);
            if document.is_some_and(|k| k.disabled.is_some()) {
                continue;
            }
            let by_name = person.map(|p| p.roles.clone()).unwrap_or_default();
            let roles = by_name.into_iter().chain(document.iter().flat_map(|k| k.roles_at(now).iter().copied())).collect();
            people.insert(name.clone(), Person { name: name.clone(), roles });
        }
        let changed = **self.people.load() != people;
        if changed {
            self.people.store(Arc::new(people));
        }
        changed
    }

    /// The people in force.
    #[must_use]
    pub fn people(&self) -> Arc<BTreeMap<PersonName, Person>> {
        self.people.load_full()
    }

    /// A person in force.
    #[must_use]
    pub fn person(&self, name: &str) -> Option<Person> {
        self.people.load().get(name).cloned()
    }

    /// May this person do anything here now?
    #[must_use]
    pub fn is_in_force(&self, name: &PersonName) -> bool {
        self.people.load().contains_key(name)
    }

    /// Is somebody of this name known who may do nothing?
    #[must_use]
    pub fn is_disabled(&self, name: &PersonName) -> bool {
        self.look(|known| known.get(name).is_some_and(|k| k.disabled.is_some()))
    }

    /// What is remembered of a person.
    #[must_use]
    pub fn known(&self, name: &PersonName) -> Option<Known> {
        self.look(|known| known.get(name).cloned())
    }

    /// Everybody of whom something is known, by name; disabled people too.
    #[must_use]
    pub fn names(&self) -> BTreeSet<PersonName> {
        self.look(|known| known.keys().chain(self.configured.keys()).cloned().collect())
    }

    /// Was this person made known by the configuration?
    #[must_use]
    pub fn is_configured(&self, name: &PersonName) -> bool {
        self.configured.contains_key(name)
    }

    /// Whoever is known under this id at a provider.
    #[must_use]
    pub fn by_subject(&self, issuer: &str, subject: &str) -> Option<PersonName> {
        let is = |k: &Known| k.issuer.as_deref() == Some(issuer) && k.subject.as_deref() == Some(subject);
        self.look(|known| known.iter().find(|(_, k)| is(k)).map(|(name, _)| name.clone()))
    }

    /// Everybody for whom a provider vouched for this address last.
    #[must_use]
    pub fn by_email(&self, issuer: &str, email: &str) -> Vec<PersonName> {
        let is = |k: &Known| k.issuer.as_deref() == Some(issuer) && k.email.as_deref() == Some(email);
        self.look(|known| known.iter().filter(|(_, k)| is(k)).map(|(name, _)| name.clone()).collect())
    }

    /// Whose passkey has this id?
    #[must_use]
    pub fn by_passkey(&self, id: &str) -> Option<(PersonName, Known)> {
        self.look(|known| known.iter().find(|(_, k)| k.passkeys.iter().any(|p| p.id == id)).map(|(name, k)| (name.clone(), k.clone())))
    }

    /// Every key of a person that was revoked.
    ///
    /// # Errors
    /// `Malformed` if one cannot be read.
    pub fn revoked_keys(&self) -> Result<Vec<KeyId>, StoreError> {
        let malformed = |_| StoreError::Malformed { detail: "a revoked key of a person".into() };
        self.look(|known| known.values().flat_map(|k| k.revoked_keys.keys()).map(|key| key.parse().map_err(malformed)).collect())
    }

    /// What is known of a person from now on; nothing any more, if there is none. True if somebody may do something else now.
    fn put(&self, name: &PersonName, known: Option<Known>, now: Timestamp) -> bool {
        {
            let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            match known {
                Some(known) => drop(all.insert(name.clone(), known)),
                None => drop(all.remove(name)),
            }
        }
        self.settle(now)
    }

    fn look<T>(&self, find: impl FnOnce(&BTreeMap<PersonName, Known>) -> T) -> T {
        find(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl House {
    /// Changes what is remembered of a person, durably and with its entry. What is taken away is taken away before that, so that nothing passes
    /// behind the entry; what is given is in force after it. The change is made on what is known at that moment, one at a time.
    ///
    /// # Errors
    /// See [`ChangeError`]; nothing changed then, but that somebody who was to be disabled is, as long as this process lives.
    pub(crate) async fn change_person(
        &self,
        name: &PersonName,
        step: &entry::PersonStep<'_>,
        change: impl FnOnce(&mut Known) -> Result<(), ChangeError>,
    ) -> Result<Known, ChangeError> {
        let _alone = self.directory.changing.lock().await;
        let now = self.clock.now();
        let before = self.directory.known(name);
        let crowd = self.directory.look(BTreeMap::len);
        if before.is_none() && crowd >= PROVISIONED_MAX {
            return Err(ChangeError::TooMany);
        }
        let mut known = before.clone().unwrap_or_else(Known::new);
        change(&mut known)?;
        if known.passkeys.len() > PASSKEYS_MAX {
            return Err(ChangeError::TooMany);
        }
        let document = serde_json::to_string(&known).unwrap_or_default();
        let row = Registered { name: name.clone(), document, public_key: Vec::new(), at: now };
        let body = Entry::new(entry::PersonStep::WORD, entry::encode(now, step));
        let less = known.without_more_than(before.as_ref().unwrap_or(&Known::new()));
        let fewer = self.directory.put(name, Some(less), now);
        // Behind the fence: what was decided while the person had other rights does not pass any more.
        if let Err(error) = self.store.control(body, move |w| w.person_put(&row)).await {
            if known.disabled.is_none() {
                self.directory.put(name, before, now);
            }
            return Err(error.into());
        }
        if self.directory.put(name, Some(known.clone()), now) || fewer {
            self.people_changed().await;
        }
        Ok(known)
    }

    /// Policy knows the people too.
    async fn people_changed(&self) {
        if let Err(report) = self.refresh_engine().await {
            tracing::error!(report, "the policies could not be taken anew after people changed; those who are gone are refused all the same");
        }
    }

    /// Puts on record that something happened with a person that changes nothing that is remembered.
    pub(crate) async fn note_person(&self, step: &entry::PersonStep<'_>) -> Result<(), StoreError> {
        self.append(step).await.map(drop)
    }

    /// Puts on record that a session ended because its person said so. It ended all the same if that cannot be written.
    pub(crate) async fn note_signed_out(&self, session: &crate::sign_in::WebSession) {
        let step = entry::PersonStep {
            what: "signed_out",
            person: &session.person,
            by: None,
            way: Some(session.way.word()),
            detail: Some(&session.id),
            passkey: None,
            key: None,
        };
        if let Err(error) = self.note_person(&step).await {
            tracing::error!(%error, person = %session.person, "the end of a session could not be recorded");
        }
    }

    /// A person, as he or she may act now.
    #[must_use]
    pub fn person(&self, name: &str) -> Option<Person> {
        self.directory.person(name)
    }

    /// Disables a person: sessions, codes and tasks end, and nothing more is taken, until he or she is enabled again.
    ///
    /// # Errors
    /// The store's: the person is disabled all the same, as long as this process lives.
    pub(crate) async fn disable_person(&self, name: &PersonName, by: &str, why: &str, event: bool) -> Result<(), ChangeError> {
        let now = self.clock.now();
        let step = entry::PersonStep { what: "disabled", person: name, by: Some(by), way: None, detail: Some(why), passkey: None, key: None };
        let changed = self.change_person(name, &step, |known| {
            // What an operator decided stays an operator's.
            if !event {
                known.disabled_by = None;
            } else if known.disabled.is_none() {
                known.disabled_by = Some(by.to_owned());
            }
            known.disabled.get_or_insert(now);
            Ok(())
        });
        let changed = changed.await;
        if self.directory.is_disabled(name) {
            self.end_all_of(name, by).await;
        }
        changed.map(drop)
    }

    /// Enables a person again. What ended stays ended.
    ///
    /// # Errors
    /// The store's: then nothing changed.
    pub(crate) async fn enable_person(&self, name: &PersonName, by: &str, why: &str, event: Option<Timestamp>) -> Result<(), ChangeError> {
        let step = entry::PersonStep { what: "enabled", person: name, by: Some(by), way: None, detail: Some(why), passkey: None, key: None };
        self.change_person(name, &step, |known| {
            // An event takes back what its own stream said before it, and nothing else.
            let older = |issued: Timestamp| known.disabled.is_some_and(|at| issued.plus(CLOCKS) < at);
            if event.is_some_and(|issued| known.disabled_by.as_deref() != Some(by) || older(issued)) {
                return Err(ChangeError::Unfit("the person was disabled by somebody else, or since"));
            }
            (known.disabled, known.disabled_by) = (None, None);
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Ends all sessions and codes of a person, and the open tasks on his or her behalf or of agents that he or she answers for.
    pub(crate) async fn end_all_of(&self, name: &PersonName, by: &str) {
        self.sign_ins.forget_codes(name);
        self.end_sessions(|session| session.person == *name).await;
        self.end_tasks_of(name, by).await;
    }

    /// Ends sessions, with what was begun in them for a client.
    pub(crate) async fn end_sessions(&self, which: impl Fn(&crate::sign_in::WebSession) -> bool) -> Vec<crate::sign_in::WebSession> {
        let ended = self.sign_ins.end(which);
        for session in &ended {
            self.end_interactive_of(session.mark).await;
        }
        ended
    }

    async fn end_tasks_of(&self, name: &PersonName, by: &str) {
        let concerned = |live: &crate::live::LiveTask| live.task.owner == *name || live.task.subject == *name;
        self.end_tasks_where(concerned, by, &format!("what `{name}` had open was ended")).await;
    }

    /// What time changes about people: roles by claim lapse. And a task that was opened in the very moment in which its person was
    /// disabled ends.
    pub(crate) async fn settle_people(&self) {
        let now = self.clock.now();
        let due = |k: &Known| k.disabled.is_some() || k.roles_until.is_some_and(|until| until <= now && !k.roles.is_empty());
        if !self.directory.look(|known| known.values().any(due)) {
            return;
        }
        if self.directory.settle(now) {
            self.people_changed().await;
        }
        let disabled: BTreeSet<PersonName> =
            self.directory.look(|known| known.iter().filter(|(_, k)| k.disabled.is_some()).map(|(n, _)| n.clone()).collect());
        for name in &disabled {
            self.end_tasks_of(name, "broker").await;
        }
    }
}
