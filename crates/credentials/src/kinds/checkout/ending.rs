//! The end of a check-out: a new password, shown to work; the old one's sessions ended and its login refused on every node; the account given back.

use std::time::Duration;

use super::target::{Denied, Inside, Unchanged};
use super::{ACCOUNT, Checkout, Legacy, Writer, kept, refused, same, truth};
use crate::Secret;
use crate::lease::rotation::{Kept, Truth};
use crate::lease::{Account, Ending, Evidence, Step, TargetCode, TargetError};

/// How many new passwords one call offers to a system that refuses them. Each is a new one, and after the last a person is called.
const OFFERS_MAX: usize = 5;
/// How often a node that lags is tried with the new password, and the pause between.
const FOLLOW_TRIES: usize = 60;
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Ends it; each step may be done already.
pub(super) async fn end(system: &Checkout, account: &Account) -> Result<Ending, TargetError> {
    let mut end = End { system, account, evidence: Evidence::default() };
    let (legacy, ours) = match account.ids.find(ACCOUNT) {
        Some(user) => {
            let gone = || TargetError::new(TargetCode::Plan, Step::Gate, "", &format!("the account `{user}` is not configured any more"));
            let legacy = system.settings.accounts.iter().find(|legacy| legacy.user == user).ok_or_else(gone)?;
            let holder = system.custody.holder(&legacy.secret).await.map_err(|error| kept(&error, Step::Gate))?;
            (legacy, holder.as_ref() == Some(&account.name))
        }
        None => match system.held_by(&account.name).await? {
            Some(legacy) => (legacy, true),
            None => return Ok(end.nothing_lent()),
        },
    };
    if !ours {
        // It was given back before, and may be another task's now: its password is not ours to change, and its sessions are not ours to end.
        return end.given_back(legacy).await;
    }
    let Some((old, new)) = end.rotate(legacy).await? else {
        return end.give_back(legacy).await;
    };
    end.clear(legacy, account.secret.as_ref().unwrap_or(&old), &new).await?;
    end.give_back(legacy).await
}

struct End<'a> {
    system: &'a Checkout,
    account: &'a Account,
    evidence: Evidence,
}

impl End<'_> {
    fn saw(&mut self, node: usize, step: Step, saw: &str, secret: Option<&Secret>) {
        let now = self.system.clock.now();
        self.evidence.saw(self.system.node(node), step, now, saw, secret);
    }

    fn nothing_lent(self) -> Ending {
        let why = "no account is checked out under this name: none was lent, or it was given back before".to_owned();
        Ending::RevokedUnverified { why, evidence: self.evidence }
    }

    async fn given_back(mut self, legacy: &Legacy) -> Result<Ending, TargetError> {
        let Some(old) = &self.account.secret else { return Ok(self.nothing_lent()) };
        for node in 0..self.system.nodes.len() {
            let words = self.refusal(node, legacy, old).await?;
            self.saw(node, Step::Verify, &words, Some(old));
        }
        Ok(Ending::RevokedVerified { evidence: self.evidence })
    }

    async fn give_back(self, legacy: &Legacy) -> Result<Ending, TargetError> {
        self.system.custody.give_back(&legacy.secret, &self.account.name).await.map_err(|error| kept(&error, Step::Remove))?;
        Ok(Ending::RevokedVerified { evidence: self.evidence })
    }

    /// The password before and the one that is the account's now. `None`: nobody has used the account, and what we have of it is refused everywhere.
    async fn rotate(&mut self, legacy: &Legacy) -> Result<Option<(Secret, Secret)>, TargetError> {
        let (system, account) = (self.system, self.account);
        let (evidence, clock) = (&mut self.evidence, &system.clock);
        let mut saw = |node: usize, step, saw: &str| evidence.saw(system.node(node), step, clock.now(), saw, None);
        let now = truth::settled(system, legacy, &mut saw).await?;
        if let Some(used) = account.secret.as_ref().filter(|used| !same(used, &now.current)) {
            // It was changed before, and what followed was cut off.
            let used = Secret::from(used.expose().to_vec());
            return Ok(Some((used, now.current)));
        }
        match system.writer(legacy, &now, Step::Gate).await? {
            Writer::Inside(node, inside) => {
                let new = self.change(legacy, &now, node, inside).await?;
                Ok(Some((now.current, new)))
            }
            Writer::Refused(refusals) if account.secret.is_none() => {
                for (node, words) in refusals {
                    self.saw(node, Step::Verify, &words, None);
                }
                Ok(None)
            }
            Writer::Refused(_) => Err(refused(legacy, Step::Gate)),
        }
    }

    /// Changes the password: durable beside the old one, then at the system, then shown to work, then the only one.
    async fn change(&mut self, legacy: &Legacy, now: &Kept, node: usize, mut inside: Box<dyn Inside>) -> Result<Secret, TargetError> {
        let mut revision = now.revision;
        let mut words = String::new();
        for _ in 0..OFFERS_MAX {
            let new = self.system.password()?;
            let custody = &self.system.custody;
            // INVARIANT: no system is asked to change to a password that would be lost with this process.
            revision = custody.begin(&legacy.secret, revision, Some(&new)).await.map_err(|error| kept(&error, Step::Gate))?;
            match inside.change(&new).await {
                Ok(()) => {
                    drop(inside);
                    drop(self.follow(node, legacy, &new).await?);
                    custody.settle(&legacy.secret, revision, Truth::Candidate).await.map_err(|error| kept(&error, Step::Gate))?;
                    self.saw(node, Step::Gate, "a new password was set, and let the account in", Some(&new));
                    return Ok(new);
                }
                Err(Unchanged::Policy(refusal)) => {
                    revision = custody.settle(&legacy.secret, revision, Truth::Current).await.map_err(|error| kept(&error, Step::Gate))?;
                    self.saw(node, Step::Gate, &format!("a new password was refused, and is never offered again: {refusal}"), Some(&new));
                    words = refusal;
                }
                Err(Unchanged::Otherwise(error)) => return Err(error),
            }
        }
        let words = format!("the system refused {OFFERS_MAX} new passwords of `{}`, each another one: {words}", legacy.user);
        Err(TargetError::new(TargetCode::Refused, Step::Gate, self.system.node(node), &words))
    }

    /// A session with the new password. A node that lags still wants the old one.
    async fn follow(&self, node: usize, legacy: &Legacy, new: &Secret) -> Result<Box<dyn Inside>, TargetError> {
        for _ in 0..FOLLOW_TRIES {
            match self.system.target.log_in(node, &legacy.user, new).await {
                Ok(inside) => return Ok(inside),
                Err(Denied::Password(_)) => tokio::time::sleep(FOLLOW_PAUSE).await,
                Err(Denied::Otherwise(error)) => return Err(error),
            }
        }
        Err(TargetError::new(TargetCode::Busy, Step::Verify, self.system.node(node), "it does not accept the new password yet"))
    }

    /// Ends what the old password opened, and shows that it opens nothing any more: on every node.
    async fn clear(&mut self, legacy: &Legacy, old: &Secret, new: &Secret) -> Result<(), TargetError> {
        // A node that cannot be reached keeps this from being an end, and the others from nothing.
        let mut trouble = None;
        for node in 0..self.system.nodes.len() {
            if let Err(error) = self.clear_node(node, legacy, old, new).await {
                trouble.get_or_insert(error);
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    async fn clear_node(&mut self, node: usize, legacy: &Legacy, old: &Secret, new: &Secret) -> Result<(), TargetError> {
        let mut inside = self.follow(node, legacy, new).await?;
        let ended = inside.end_others().await?;
        self.saw(node, Step::Kill, &format!("{ended} other sessions ended, none left"), None);
        let words = self.refusal(node, legacy, old).await?;
        self.saw(node, Step::Verify, &words, Some(old));
        // Whoever came in while the password was changed.
        let late = inside.end_others().await?;
        self.saw(node, Step::Verify, &format!("the new password lets the account in, the old one does not; {late} late sessions ended"), None);
        Ok(())
    }

    /// What the node says to the old password.
    async fn refusal(&self, node: usize, legacy: &Legacy, old: &Secret) -> Result<String, TargetError> {
        match self.system.target.log_in(node, &legacy.user, old).await {
            Ok(_) => Err(TargetError::new(TargetCode::Busy, Step::Verify, self.system.node(node), "the old password is still accepted")),
            Err(Denied::Password(words)) => Ok(words),
            Err(Denied::Otherwise(error)) => Err(error),
        }
    }
}
