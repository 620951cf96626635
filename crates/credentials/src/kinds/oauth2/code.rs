//! An authorization code, exchanged for what a person's sign-in gave (RFC 6749 section 4.1.3, RFC 7636), by a client that proves itself.

use std::fmt;

use bailiwick_core::Timestamp;
use hyper::Method;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::Login;
use super::exchange::{Known, PLACES, log_in_as};
use crate::Secret;
use crate::kinds::web::{Endpoint, Form, Question};
use crate::lease::{Step, TargetCode, TargetError};

/// A code, and everything that must come with it.
pub struct CodeExchange<'a> {
    /// The token endpoint.
    pub token: &'a Endpoint,
    /// How we prove who we are.
    pub login: &'a Login,
    /// Our name there.
    pub client_id: &'a str,
    /// The code.
    pub code: &'a str,
    /// The PKCE verifier of the request that the code answers.
    pub verifier: &'a str,
    /// The redirect URI of that request.
    pub redirect: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// What the code gave. Nothing of it is verified.
#[derive(Deserialize)]
pub struct Exchanged {
    /// The ID token.
    #[serde(deserialize_with = "wiped")]
    pub id_token: Zeroizing<String>,
    /// The access token, which is used for nothing but the check that it belongs to the ID token.
    #[serde(deserialize_with = "wiped")]
    pub access_token: Zeroizing<String>,
    token_type: String,
}

/// Text that is wiped when it is dropped.
fn wiped<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(from).map(Zeroizing::new)
}

impl fmt::Debug for Exchanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exchanged(..)")
    }
}

impl CodeExchange<'_> {
    /// Exchanges the code. It works once.
    ///
    /// # Errors
    /// The provider cannot be reached, refuses, or answers with something else.
    pub async fn run(&self) -> Result<Exchanged, TargetError> {
        let form = Form::new()
            .and("grant_type", b"authorization_code")
            .and("code", self.code.as_bytes())
            .and("redirect_uri", self.redirect.as_bytes())
            .and("code_verifier", self.verifier.as_bytes());
        let Known { question, form, assertion } = log_in_as(self.login, self.client_id, self.now, Question::new(Method::POST, ""), form)?;
        let reply = self.token.ask(Step::Mint, question.form(form)).await?;
        let wrong = |code, words: &str| TargetError::new(code, Step::Mint, self.token.name(), words);
        if reply.status != 200 {
            let (code, verifier) = (Secret::from(self.code.to_owned()), Secret::from(self.verifier.to_owned()));
            let secrets: Vec<&Secret> = self.login.secret().into_iter().chain(assertion.as_ref()).chain([&code, &verifier]).collect();
            return Err(wrong(reply.code(), &reply.words(&PLACES, &secrets)));
        }
        let answer: Exchanged = reply.json().ok_or_else(|| wrong(TargetCode::Protocol, "the answer is no token response with an ID token"))?;
        //= openid-connect-core-1_0#section-3.1.3.3
        // The OAuth 2.0 token_type response parameter value MUST be Bearer, as specified in OAuth 2.0 Bearer Token Usage, unless
        // another token_type has been negotiated with the Client.
        if !answer.token_type.eq_ignore_ascii_case("bearer") {
            return Err(wrong(TargetCode::Unsupported, "the provider gives tokens that are no bearer tokens"));
        }
        Ok(answer)
    }
}

impl fmt::Debug for CodeExchange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CodeExchange({:?})", self.token)
    }
}
