//! What a stranger may present to prove who it is, and the reasons for which a proof is refused.

use bailiwick_core::ErrorCode;

/// A proof as it was presented, not yet verified. Further schemes (DPoP) become variants.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proof<'a> {
    /// A task or agent token as a bearer token (RFC 6750): for [`crate::Verifier::verify`].
    Bearer(&'a str),
    /// The same, bound to a key that a proof beside it proves (RFC 9449): that one is for [`crate::dpop::verify`].
    Bound(&'a str),
    /// A person's signed proof: for [`crate::person::verify`].
    Person(&'a str),
}

impl<'a> Proof<'a> {
    /// Reads the value of an `Authorization` field: `Bearer <token>`, `DPoP <token>` or [`crate::person::SCHEME`]` <proof>`.
    ///
    /// # Errors
    /// `Scheme` for every other scheme, `Form` unless one scheme and one token stand there.
    pub fn from_authorization(value: &'a str) -> Result<Self, ProofError> {
        let (scheme, token) = value.split_once(' ').ok_or(ProofError::Form("authorization without a token"))?;
        let token = token.trim_start_matches(' ');
        //= rfc6750#section-2.1
        // b64token    = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="
        let b64token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
        if token.is_empty() || !token.bytes().all(b64token) {
            return Err(ProofError::Form("authorization is not one token"));
        }
        //= rfc9110#section-11.1
        // It uses a case-insensitive token to identify the authentication scheme.
        match scheme {
            s if s.eq_ignore_ascii_case("Bearer") => Ok(Self::Bearer(token)),
            s if s.eq_ignore_ascii_case(crate::dpop::SCHEME) => Ok(Self::Bound(token)),
            s if s.eq_ignore_ascii_case(crate::person::SCHEME) => Ok(Self::Person(token)),
            _ => Err(ProofError::Scheme),
        }
    }

    /// The word for the record.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Bearer(_) => "bearer",
            Self::Bound(_) => "dpop",
            Self::Person(_) => "person",
        }
    }
}

impl std::fmt::Debug for Proof<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proof({}, ..)", self.kind())
    }
}

/// Why a proof is refused. For the log: a stranger is told [`ProofError::code`] and its sentence, nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// It is longer than any that we take.
    #[error("the proof is longer than {0} bytes")]
    TooLong(usize),
    /// It is not of its form.
    #[error("the proof is malformed: {0}")]
    Form(&'static str),
    /// A name stands twice in one object (RFC 8725 section 2.4, RFC 7515 section 4).
    #[error("a name stands twice in one object")]
    Duplicate,
    /// Objects are nested deeper than any that we take.
    #[error("objects are nested too deeply")]
    TooDeep,
    /// A header that we refuse, or that is missing.
    #[error("the header `{0}` is not acceptable")]
    Header(&'static str),
    /// The algorithm is not one of the key's.
    #[error("the algorithm is not the key's")]
    Algorithm,
    /// The type is another one: an assertion as an access token, or the reverse (RFC 8725 section 3.11).
    #[error("the proof is of another type")]
    Type,
    /// No such key is registered.
    #[error("the key is not known")]
    Key,
    /// The signature is wrong.
    #[error("the signature is wrong")]
    Signature,
    /// No such client is registered, or its names do not agree.
    #[error("the client is not known, or is named in two ways")]
    Client,
    /// Issued by another.
    #[error("the issuer is another")]
    Issuer,
    /// Made for another.
    #[error("the audience is another")]
    Audience,
    /// Its time is over.
    #[error("the proof has expired")]
    Expired,
    /// Its time has not come.
    #[error("the proof is not valid yet")]
    NotYet,
    /// It says that it was issued in the future, or so long ago that it is no fresh proof.
    #[error("the time of issue is not plausible")]
    IssuedAt,
    /// It would live longer than any that we take.
    #[error("the proof would live too long")]
    Lifetime,
    /// A claim is missing or is not of its form.
    #[error("the claim `{0}` is missing or malformed")]
    Claim(&'static str),
    /// It was made for another request.
    #[error("the proof was made for another request")]
    Request,
    /// The proof of possession has no fresh nonce of ours, and needs one (RFC 9449 section 8).
    #[error("the proof of possession needs a nonce of this broker")]
    Nonce,
    /// A token that is bound to a key came without it, with another one, or by the scheme of tokens that are not bound; or the reverse.
    #[error("the token is bound to another key, or is presented as one that is not")]
    Binding,
    /// The proof was presented before.
    #[error("the proof was presented before")]
    Replayed,
    /// The authorization scheme is not one of ours.
    #[error("the authorization scheme is not supported")]
    Scheme,
}

impl ProofError {
    /// The public code.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Expired => ErrorCode::TokenExpired,
            _ => ErrorCode::ProofInvalid,
        }
    }

    /// What a stranger may read.
    #[must_use]
    pub const fn public(self) -> &'static str {
        self.code().sentence()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_scheme_is_compared_without_case_and_chooses_the_kind() {
        assert_eq!(Proof::from_authorization("bearer a.b.c"), Ok(Proof::Bearer("a.b.c")));
        assert_eq!(Proof::from_authorization("BEARER  a.b.c"), Ok(Proof::Bearer("a.b.c")));
        assert_eq!(Proof::from_authorization("dpop a.b.c"), Ok(Proof::Bound("a.b.c")));
        assert_eq!(Proof::from_authorization("Bailiwick-Person a.b.c"), Ok(Proof::Person("a.b.c")));
    }

    #[test]
    fn other_schemes_and_lists_of_tokens_are_refused() {
        assert_eq!(Proof::from_authorization("Basic YTpi"), Err(ProofError::Scheme));
        for bad in ["", "Bearer", "Bearer ", "Bearer a b", "Bearer a, Bearer b", "Bearer \u{e9}"] {
            assert!(Proof::from_authorization(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_proof_does_not_show_itself() {
        let shown = format!("{:?}", Proof::Bearer("eyJsecret"));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_stranger_is_told_expired_and_otherwise_only_not_valid() {
        assert_eq!(ProofError::Expired.code(), ErrorCode::TokenExpired);
        assert_eq!(ProofError::Signature.public(), ProofError::Key.public());
    }

    proptest! {
        #[test]
        fn no_authorization_value_makes_it_panic(value in ".{0,200}") {
            let _ = Proof::from_authorization(&value).is_ok();
        }
    }
}
