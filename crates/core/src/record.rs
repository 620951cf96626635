//! Recording: law 1, write, act, write. The only place where a permit is made, and only after the journal said that it is durable.

use std::future::Future;

use crate::call::{Bound, Call, Permitted};
use crate::decision::{Decision, Needs, Outcome, PolicyRef};
use crate::digest::Digest;
use crate::error::ErrorCode;
use crate::hold::Hold;

/// The right to send one call, once. Not `Clone`, not `Serialize`; made only by [`record`].
///
/// It cannot be forged:
/// ```compile_fail,E0451
/// let forged = bailiwick_core::Permit { entry: 0, digest: bailiwick_core::Digest::of(b"anything") };
/// ```
/// nor used twice:
/// ```compile_fail,E0599
/// fn twice(permit: bailiwick_core::Permit) -> (bailiwick_core::Permit, bailiwick_core::Permit) {
///     (permit.clone(), permit)
/// }
/// ```
/// and a call is spent with it:
/// ```compile_fail,E0382
/// fn send_twice(call: bailiwick_core::Call<bailiwick_core::Permitted>) {
///     let _first = call.spend();
///     let _second = call.spend();
/// }
/// ```
#[derive(Debug)]
pub struct Permit {
    entry: u64,
    digest: Digest,
}

impl Permit {
    /// The ledger index of the intent.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }
    /// What it permits.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

/// Why a decided call is not permitted after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Authority changed since the decision: decide again.
    Stale,
    /// The task is not open any more.
    TaskClosed,
    /// The budget of calls is spent.
    BudgetCalls,
    /// The approval was used, or expired, in the meantime.
    ApprovalGone,
    /// The account that waited for the call's task was taken, or is being ended.
    LeaseGone,
}

/// What writes decisions down. An `Ok` of these methods says: it is durable.
pub trait Journal {
    /// Why it could not be written.
    type Error;

    /// One durable transaction: check the fence, consume approval and budget, append the intent. Gives the entry's index.
    fn intent(&self, decision: &Decision) -> impl Future<Output = Result<Result<u64, Lost>, Self::Error>> + Send;

    /// Records a denial. It may aggregate repeats and need not wait.
    fn denial(&self, decision: &Decision) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Finds the pending or refused hold of this call's key, or makes one, durably. `Err` in the answer: too many are waiting.
    fn hold(&self, decision: &Decision, needs: &Needs) -> impl Future<Output = Result<Result<Hold, ErrorCode>, Self::Error>> + Send;
}

/// What became of a decision.
#[derive(Debug)]
pub enum Recorded {
    /// It may be sent, once.
    Permit(Call<Permitted>),
    /// It is denied.
    Denial {
        /// The call, for the answer.
        call: Call<Bound>,
        /// Why, as a code.
        code: ErrorCode,
        /// Why, in words.
        detail: String,
        /// The determining policies.
        policies: Vec<PolicyRef>,
    },
    /// It waits for people.
    Hold(Box<Hold>, Call<Bound>),
    /// Authority, the approval or the account that waited changed meanwhile: decide again.
    Stale(Call<Bound>),
}

/// Writes a decision down and gives what it is worth.
///
/// # Errors
/// The journal's: nothing is permitted then.
pub async fn record<J: Journal>(journal: &J, decision: Decision) -> Result<Recorded, J::Error> {
    match &decision.outcome {
        Outcome::Allow { .. } => {
            let denied = |decision: Decision, code: ErrorCode| {
                let detail = code.sentence().to_owned();
                Ok(Recorded::Denial { call: decision.call, code, detail, policies: Vec::new() })
            };
            match journal.intent(&decision).await? {
                Ok(entry) => {
                    let permit = Permit { entry, digest: decision.call.digest() };
                    Ok(Recorded::Permit(decision.call.permitted(permit)))
                }
                Err(Lost::Stale | Lost::ApprovalGone | Lost::LeaseGone) => Ok(Recorded::Stale(decision.call)),
                Err(Lost::TaskClosed) => denied(decision, ErrorCode::TaskClosed),
                Err(Lost::BudgetCalls) => denied(decision, ErrorCode::BudgetCalls),
            }
        }
        Outcome::Deny { .. } => {
            journal.denial(&decision).await?;
            let Decision { call, outcome, .. } = decision;
            let Outcome::Deny { code, policies, detail } = outcome else {
                return Ok(Recorded::Stale(call));
            };
            Ok(Recorded::Denial { call, code, detail, policies })
        }
        Outcome::Hold(needs) => match journal.hold(&decision, needs).await? {
            Ok(hold) => Ok(Recorded::Hold(Box::new(hold), decision.call)),
            Err(code) => Ok(Recorded::Denial { call: decision.call, code, detail: code.sentence().to_owned(), policies: Vec::new() }),
        },
    }
}
