//! The stable, public list of error codes: never renamed, never reused. Each has a plain sentence and a hint.

macro_rules! codes {
    ($($variant:ident = $slug:literal, $sentence:literal, $hint:literal;)*) => {
        /// A stable code that a client can act on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode {
            $(#[doc = concat!("`", $slug, "`: ", $sentence, ".")] $variant,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as it is told to clients and written into the ledger.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$variant => $slug,)* }
            }

            /// What happened, in one sentence, safe for an attacker to read.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// What to do next.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)* }
            }
        }
    };
}

codes! {
    AuthnMissing = "authn.missing", "no credentials were given",
        "get a task token: `bailiwick token --agent NAME`, or use `bailiwick connect`";
    ProofInvalid = "authn.proof_invalid", "the proof of identity is not valid",
        "make a new assertion or token; check the clock, the audience and the key";
    TokenExpired = "authn.token_expired", "the token has expired",
        "renew the task token at the token endpoint";
    DpopNonce = "authn.dpop_nonce", "the proof of possession needs a nonce of this broker",
        "make the proof again with the nonce of the answer's `DPoP-Nonce` field, as RFC 9449 section 9 says";
    DpopInvalid = "authn.dpop_invalid", "the proof of possession is not valid for this request and token, or was used before",
        "make a new proof for each request: method, URL as clients know it, time, and the token's hash (RFC 9449 section 4.2)";
    BindingRequired = "authn.binding_required", "a token must be bound to a key here, and this one is not bound to what is demanded",
        "ask for a token with a DPoP proof, or over the mTLS listener; `bailiwick connect` does so by itself";
    RoleMissing = "authz.role", "this person may not do that",
        "ask someone with the role that the message names";
    TaskAbsent = "task.absent", "there is no such task",
        "list the open tasks, or open one";
    TaskClosed = "task.closed", "the task has ended",
        "open a new task";
    TaskEmpty = "task.narrowed_to_nothing", "none of the requested tools may be granted",
        "ask for fewer tools, or have the policy changed";
    ToolUnknown = "tool.unknown", "there is no such tool",
        "list the tools of the task";
    ToolQuarantined = "tool.quarantined", "the tool's definition has changed since it was classified",
        "have it looked at: `bailiwick tools review`";
    CallMalformed = "call.malformed", "the message is not well-formed",
        "send one JSON-RPC 2.0 request with unique keys";
    ArgumentsInvalid = "call.arguments", "the arguments do not fit the tool's schema",
        "correct the argument that the message names";
    LimitExceeded = "call.limit", "a limit on size, depth or count was exceeded",
        "send less at once";
    ConstraintViolated = "grant.constraint", "an argument is outside what the task was granted",
        "stay within the task's constraints, or open a task with others";
    PolicyDenied = "policy.denied", "policy does not allow this",
        "change course; asking again does not help";
    PolicyError = "policy.error", "policy could not be evaluated, so the call was denied",
        "tell the operator; the reason is in the broker's log";
    HoldPending = "hold.pending", "a person must approve this call first",
        "call again with exactly the same arguments to get the outcome";
    HoldRefused = "hold.refused", "a person refused this call",
        "do not retry; change course";
    HoldExpired = "hold.expired", "nobody decided in time",
        "call again if it is still wanted";
    HoldAbsent = "hold.absent", "there is no such held call",
        "list the held calls: `bailiwick approvals`";
    HoldFlood = "hold.flood", "too many calls are waiting for people",
        "wait until some are decided";
    ApprovalSelf = "approval.self", "nobody approves what was asked in their own name",
        "ask another approver";
    ApprovalNotEligible = "approval.not_eligible", "this person's approval would not release the call",
        "ask one of the people that the hold names";
    StepUpRequired = "approval.step_up", "this approval must be signed with a passkey",
        "open the call's page in a browser where your passkey is, and approve it there";
    ApprovalMismatch = "approval.mismatch", "what was approved is not what is held",
        "look at the held call again and decide anew";
    BudgetCalls = "budget.calls", "the task's budget of calls is spent",
        "open a new task";
    BudgetRate = "budget.rate", "the task makes calls faster than it may",
        "wait, then call again";
    AuditUnavailable = "audit.unavailable", "the ledger cannot be written, so no call is made",
        "tell the operator: free disk space or repair the store; calls resume by themselves";
    UpstreamUnavailable = "upstream.unavailable", "the system cannot be reached",
        "try again later; the operator sees why in the broker's log";
    UpstreamTimeout = "upstream.timeout", "the system did not answer in time; what it did is unknown",
        "check at the system before trying again";
    UpstreamBroken = "upstream.broken", "the system's answer was not valid; what it did is unknown",
        "check at the system before trying again";
    CredentialUnavailable = "credential.unavailable", "no credential could be made for the call, so it was not sent",
        "try again later; the operator sees why with `bailiwick lease list` and `bailiwick system check`";
    LeaseAbsent = "lease.absent", "there is no such lease",
        "list the leases: `bailiwick lease list`";
    AgentAbsent = "agent.absent", "there is no such agent, or no such key of it",
        "list the agents: `bailiwick agent list`";
    CallCancelled = "call.cancelled", "the call was stopped because its task ended or its client cancelled it",
        "nothing; what the system did is on record as unknown";
    OauthRequest = "oauth.invalid_request", "the request is not valid",
        "see RFC 6749 section 5.2 and the message";
    ConfigInvalid = "config.invalid", "the configuration is not valid",
        "correct the place that the message names";
    Internal = "internal", "something went wrong in the broker",
        "tell the operator the id of the call";
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.slug())
    }
}

impl std::str::FromStr for ErrorCode {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|c| c.slug() == text).ok_or(())
    }
}

impl serde::Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.slug())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_slugs_with_plain_sentences() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.slug()), "{code} twice");
            assert!(code.slug().bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'.' | b'_')), "{code}");
            assert!(!code.sentence().ends_with('.') && !code.hint().is_empty(), "{code}");
            assert_eq!(code.slug().parse(), Ok(*code));
        }
    }
}
