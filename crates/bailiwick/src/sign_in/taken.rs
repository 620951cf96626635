//! What an operator takes from a person whose key or passkey was lost, or is in the wrong hands.

use bailiwick_core::PersonName;
use bailiwick_identity::KeyId;

use super::Way;
use super::directory::{ChangeError, GUARDED};
use crate::entry;
use crate::house::House;

impl House {
    /// Removes a passkey of a person. Sessions that were begun with a passkey end, approvals that were not used are taken back, and
    /// for a day none is added in a session without one. False: there is no such passkey.
    pub(crate) async fn take_passkey(&self, person: &PersonName, id: &str, by: &PersonName, why: &str) -> Result<bool, ChangeError> {
        if self.directory.known(person).is_none_or(|known| known.passkeys.iter().all(|passkey| passkey.id != id)) {
            return Ok(false);
        }
        let guarded_until = self.clock.now().plus(GUARDED);
        let step =
            entry::PersonStep { what: "passkey_removed", person, by: Some(by.as_str()), way: None, detail: Some(why), passkey: Some(id), key: None };
        self.change_person(person, &step, |known| {
            known.passkeys.retain(|passkey| passkey.id != id);
            known.guarded_until = known.guarded_until.max(Some(guarded_until));
            Ok(())
        })
        .await?;
        self.end_sessions(|session| session.person == *person && session.way == Way::Passkey).await;
        self.take_back_approvals(person, by, why).await;
        let detail = format!("`{by}` removed a passkey of `{person}`: {why}; none can be added in a session without one until {guarded_until}");
        self.incident("passkey_removed", None, None, &detail).await;
        Ok(true)
    }

    /// Revokes a key of a person: it proves nothing more, wherever it lies. Codes, and sessions that were begun with one, end; approvals
    /// that were not used are taken back. False: the person has no such key, or it was revoked before.
    pub(crate) async fn revoke_key_of_person(&self, person: &PersonName, id: &KeyId, by: &PersonName, why: &str) -> Result<bool, ChangeError> {
        let name = id.to_string();
        let saved = self.directory.known(person).is_some_and(|known| known.revoked_keys.contains_key(&name));
        // Revoked and not saved: the store could not be written, and it is asked for again.
        if saved || self.keyring.person(person.as_str()).iter().all(|key| key.id() != *id) {
            return Ok(false);
        }
        let now = self.clock.now();
        self.standing.revoke(*id);
        let step = entry::PersonStep { what: "key_revoked", person, by: Some(by.as_str()), way: None, detail: Some(why), passkey: None, key: None };
        let kept = name.clone();
        let recorded = self.change_person(person, &step, move |known| {
            known.revoked_keys.insert(kept, now);
            Ok(())
        });
        let recorded = recorded.await;
        self.sign_ins.forget_codes(person);
        self.end_sessions(|session| session.person == *person && session.way == Way::Code).await;
        self.take_back_approvals(person, by, why).await;
        recorded?;
        self.incident("key_revoked", None, None, &format!("`{by}` revoked the key {name} of `{person}`: {why}")).await;
        Ok(true)
    }

    /// Approvals that a person gave, and that no call has used, are worth nothing any more: who gave them is not known.
    async fn take_back_approvals(&self, person: &PersonName, by: &PersonName, why: &str) {
        let given = self.holds.matching(|hold| hold.approvals.iter().any(|approval| approval.person == *person));
        for hold in given {
            if let Err(error) = self.withdraw_for(hold.id, Some(by), Some(why)).await {
                tracing::error!(%error, hold = %hold.id, "an approval could not be taken back");
            }
        }
    }
}
