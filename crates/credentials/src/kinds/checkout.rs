//! Legacy passwords by check-out: an account that was there before us is lent to one task at a time, and has a new password after it.
//!
//! The system knows nothing of us, and no account of ours is needed there: the account changes its own password and ends its own sessions. What
//! makes it safe is the order. The new password is durable beside the old one before the system is asked to change ([`Rotation`]);
//! it is tried before it is taken for the truth; only then are the sessions of the old one ended, and the old one tried, which must fail. After
//! a crash anywhere in between, whichever of the two the system takes is the truth.
//!
//! An account is lent to one lease at a time by [`Custody`], durably. With several accounts that would do, several tasks can work at once.
//!
//! [`Rotation`]: crate::lease::rotation::Rotation

mod ending;
pub mod mariadb;
pub mod postgresql;
mod preflight;
pub mod target;
mod truth;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{constant_time, rand};
use bailiwick_core::Clock;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::Secret;
use crate::lease::rotation::{Custody, Kept, Phase, RotationError};
use crate::lease::{Account, AccountName, Ending, Finding, Found, Kind, Minted, Plan, Prefix, Step, TargetCode, TargetError, TargetIds};
use target::{Denied, Inside, Target};

use super::connection::within;

/// The word under which [`TargetIds`] have the name of the account that was lent: [`Account::login`].
pub const ACCOUNT: &str = TargetIds::LOGIN;

const ACCOUNTS_MAX: usize = 64;

/// The accounts of one system that are lent.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The accounts. Plans ask for them by their names at the system; the first one of a plan that is free is lent.
    pub accounts: Vec<Legacy>,
    /// How many letters, digits, `-` and `_` a new password has: 22 (132 bits) to 64.
    pub password_chars: usize,
}

impl Settings {
    /// Whether these can be lent there.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if there is no account or no node, or a setting is out of its range.
    pub fn check(&self, target: &dyn Target) -> Result<(), TargetError> {
        let wrong = |what: &str| Err(TargetError::new(TargetCode::Plan, Step::Connect, "", what));
        if self.accounts.is_empty() || self.accounts.len() > ACCOUNTS_MAX {
            return wrong("expected 1 to 64 accounts");
        }
        if !self.accounts.iter().all(|legacy| target.has_user_name(&legacy.user) && !legacy.secret.is_empty()) {
            return wrong("expected a name that an account can have at this system, and the name of its secret");
        }
        let twice = |i: usize, a: &Legacy| self.accounts.iter().skip(i + 1).any(|b| a.user == b.user || a.secret == b.secret);
        if self.accounts.iter().enumerate().any(|(i, a)| twice(i, a)) {
            return wrong("expected each account, and each secret, once");
        }
        if !(22..=64).contains(&self.password_chars) {
            return wrong("expected passwords of 22 to 64 characters");
        }
        let nodes = target.nodes();
        if nodes.is_empty() || nodes.len() > 32 {
            return wrong("expected 1 to 32 nodes");
        }
        Ok(())
    }
}

/// An account that was there before us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Legacy {
    /// Its name at the system.
    pub user: String,
    /// The name of the secret that is its password (`bailiwick secret set NAME`).
    pub secret: String,
}

/// Accounts of one system, lent to one task each.
pub struct Checkout {
    settings: Settings,
    target: Arc<dyn Target>,
    nodes: Vec<String>,
    custody: Arc<dyn Custody>,
    clock: Arc<dyn Clock>,
}

impl Checkout {
    /// A system as it is configured. Nothing is connected yet.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if there is no account or no node, or a setting is out of its range.
    pub fn new(settings: Settings, target: Arc<dyn Target>, custody: Arc<dyn Custody>, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        settings.check(target.as_ref())?;
        Ok(Self { settings, nodes: target.nodes(), target, custody, clock })
    }

    fn node(&self, at: usize) -> &str {
        self.nodes.get(at).map_or("", String::as_str)
    }

    /// The account that this name has, if it has one: it never has two.
    async fn held_by(&self, name: &AccountName) -> Result<Option<&Legacy>, TargetError> {
        for legacy in &self.settings.accounts {
            match self.custody.holder(&legacy.secret).await {
                Ok(Some(holder)) if holder == *name => return Ok(Some(legacy)),
                Ok(_) | Err(RotationError::Unset(_)) => {}
                Err(error) => return Err(kept(&error, Step::List)),
            }
        }
        Ok(None)
    }

    /// Lends the first account of the plan that is free.
    async fn lend(&self, plan: &Plan) -> Result<&Legacy, TargetError> {
        let error = |code, words: &str| Err(TargetError::new(code, Step::Mint, "", words));
        let mut choices = Vec::new();
        for right in &plan.rights {
            match self.settings.accounts.iter().find(|legacy| legacy.user == *right) {
                Some(legacy) => choices.push(legacy),
                None => return error(TargetCode::Plan, &format!("`{right}` is none of the configured accounts")),
            }
        }
        if choices.is_empty() {
            return error(TargetCode::Plan, "expected at least one account to choose from");
        }
        if let Some(legacy) = self.held_by(&plan.name).await? {
            return if choices.contains(&legacy) { Ok(legacy) } else { error(TargetCode::Taken, "another account is checked out under this name") };
        }
        let mut lost = None;
        for legacy in choices {
            let now = self.custody.kept(&legacy.secret).await.map_err(|error| kept(&error, Step::Mint))?;
            if now.phase == Phase::Lost {
                lost = Some(truth::lost(legacy, Step::Mint));
            } else if self.custody.take(&legacy.secret, &plan.name).await.map_err(|error| kept(&error, Step::Mint))? {
                return Ok(legacy);
            }
        }
        Err(lost.unwrap_or_else(|| TargetError::new(TargetCode::Busy, Step::Mint, "", "every account that would do is checked out")))
    }

    async fn check_out(&self, plan: &Plan) -> Result<Minted, TargetError> {
        let legacy = self.lend(plan).await?;
        match self.hand_over(legacy).await {
            Ok(secret) => Ok(Minted { ids: TargetIds::one(ACCOUNT, &legacy.user), secret: Some(secret), expires_at: None }),
            Err(error) => {
                // Nobody has got anything. If this fails too, the end of the lease gives it back.
                drop(self.custody.give_back(&legacy.secret, &plan.name).await);
                Err(error)
            }
        }
    }

    /// The password, shown to work.
    async fn hand_over(&self, legacy: &Legacy) -> Result<Secret, TargetError> {
        let now = truth::settled(self, legacy, &mut |_, _, _| ()).await?;
        match self.writer(legacy, &now, Step::Mint).await? {
            Writer::Inside(..) => Ok(now.current),
            Writer::Refused(_) => Err(refused(legacy, Step::Mint)),
        }
    }

    /// A session of the account where it can be changed, or what each node said when it refused the password.
    async fn writer(&self, legacy: &Legacy, now: &Kept, step: Step) -> Result<Writer, TargetError> {
        let mut refusals = Vec::new();
        let mut trouble = None;
        for node in 0..self.nodes.len() {
            match self.target.log_in(node, &legacy.user, &now.current).await {
                Ok(mut inside) => {
                    if inside.takes_changes().await? {
                        return Ok(Writer::Inside(node, inside));
                    }
                }
                Err(Denied::Password(words)) => refusals.push((node, words)),
                Err(Denied::Otherwise(error)) => {
                    trouble.get_or_insert(error);
                }
            }
        }
        match trouble {
            Some(error) => Err(error),
            None if refusals.len() == self.nodes.len() => {
                // Another end of the same lease may have changed it since we looked.
                let again = self.custody.kept(&legacy.secret).await.map_err(|error| kept(&error, step))?;
                if again.revision == now.revision { Ok(Writer::Refused(refusals)) } else { Err(moved(legacy, step)) }
            }
            None => Err(TargetError::new(TargetCode::Busy, Step::Connect, "", "no node that lets the account in accepts changes")),
        }
    }

    /// A new password.
    fn password(&self) -> Result<Secret, TargetError> {
        let failed = |_| TargetError::new(TargetCode::Internal, Step::Gate, "", "no randomness is available");
        let mut bytes = Zeroizing::new([0; 48]);
        rand::fill(bytes.as_mut_slice()).map_err(failed)?;
        let mut text = Zeroizing::new(vec![0; 64]);
        let written = URL_SAFE_NO_PAD.encode_slice(bytes.as_slice(), &mut text).unwrap_or(0);
        if written != text.len() {
            return Err(TargetError::new(TargetCode::Internal, Step::Gate, "", "a password was cut"));
        }
        text.truncate(self.settings.password_chars);
        Ok(Secret::from(text))
    }

    async fn lent(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        let mut found = Vec::new();
        for legacy in &self.settings.accounts {
            match self.custody.holder(&legacy.secret).await {
                Ok(Some(name)) if prefix.covers(&name) => {
                    found.push(Found { name, ids: TargetIds::one(ACCOUNT, &legacy.user), tag: None, node: self.node(0).to_owned() });
                }
                Ok(_) | Err(RotationError::Unset(_)) => {}
                Err(error) => return Err(kept(&error, Step::List)),
            }
        }
        Ok(found)
    }
}

enum Writer {
    Inside(usize, Box<dyn Inside>),
    Refused(Vec<(usize, String)>),
}

#[async_trait::async_trait]
impl Kind for Checkout {
    fn kind(&self) -> &'static str {
        "checkout"
    }

    /// The account has its password already.
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        Ok(None)
    }

    /// Lends each account that is free to the probe and rotates its password: from then on, only the broker knows it.
    async fn preflight(&self, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
        within(Step::Verify, preflight::preflight(self, probe)).await
    }

    async fn mint(&self, plan: &Plan, _secret: Option<&Secret>) -> Result<Minted, TargetError> {
        within(Step::Mint, self.check_out(plan)).await
    }

    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        within(Step::Remove, ending::end(self, account)).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        within(Step::List, self.lent(prefix)).await
    }
}

impl fmt::Debug for Checkout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkout").field("settings", &self.settings).field("target", &self.target).finish_non_exhaustive()
    }
}

/// What the house's own memory did not let us do.
fn kept(error: &RotationError, step: Step) -> TargetError {
    let code = match error {
        RotationError::Unset(_) => TargetCode::Plan,
        // Another end of the same lease is at it.
        RotationError::Moved(_) | RotationError::Step(_) => TargetCode::Busy,
        RotationError::Store(..) => TargetCode::Internal,
    };
    TargetError::new(code, step, "", &error.to_string())
}

/// The system does not take the password that we have: somebody changed it there.
fn refused(legacy: &Legacy, step: Step) -> TargetError {
    let words =
        format!("the password of `{}` is refused: somebody changed it there; set it anew: bailiwick secret set {}", legacy.user, legacy.secret);
    TargetError::new(TargetCode::Refused, step, "", &words)
}

fn moved(legacy: &Legacy, step: Step) -> TargetError {
    TargetError::new(TargetCode::Busy, step, "", &format!("the password of `{}` was changed meanwhile by another end of this lease", legacy.user))
}

fn same(a: &Secret, b: &Secret) -> bool {
    constant_time::verify_slices_are_equal(a.expose(), b.expose()).is_ok()
}
