//! The signed claims of NATS: of users, which we make, and of the account, which we change and sign again.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::nkey::{Key, Role, public, verify};

/// An account with its revocations may have many of them; a server takes about as much.
const LENGTH_MAX: usize = 1 << 20;

pub(super) type Claims = Map<String, Value>;

/// The claims, with issuer and id, signed.
pub(super) fn sign(mut claims: Claims, key: &Key) -> String {
    claims.insert("iss".to_owned(), key.public().into());
    claims.remove("jti");
    let id = digest::digest(&digest::SHA512_256, Value::Object(claims.clone()).to_string().as_bytes());
    claims.insert("jti".to_owned(), URL_SAFE_NO_PAD.encode(id).into());
    let header = URL_SAFE_NO_PAD.encode(json!({ "typ": "JWT", "alg": "ed25519-nkey" }).to_string());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(Value::Object(claims).to_string()));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// The claims of an account, if one of `operators` signed them for it.
pub(super) fn open_account(text: &str, account: &str, operators: &[String]) -> Option<Claims> {
    if text.len() > LENGTH_MAX {
        return None;
    }
    let (signed, signature) = text.trim().rsplit_once('.')?;
    let (header, body) = signed.split_once('.')?;
    let object = |part: &str| serde_json::from_slice::<Claims>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    if object(header)?.get("alg").and_then(Value::as_str) != Some("ed25519-nkey") {
        return None;
    }
    let claims = object(body)?;
    let issuer = claims.get("iss").and_then(Value::as_str)?;
    // Whoever answers for the server must not choose what the operator's key signs next.
    if claims.get("sub").and_then(Value::as_str) != Some(account) || !operators.iter().any(|operator| operator == issuer) {
        return None;
    }
    let key = public(issuer, Role::Operator)?;
    verify(&key, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).then_some(claims)
}

/// A user's credentials as every client of NATS reads them.
pub(super) fn credentials(jwt: &str, seed: &[u8]) -> Vec<u8> {
    let parts: [&[u8]; 5] = [
        b"-----BEGIN NATS USER JWT-----\n",
        jwt.as_bytes(),
        b"\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n",
        seed,
        b"\n------END USER NKEY SEED------\n",
    ];
    // Room for everything at once, so that no copy of the seed is left behind.
    let mut text = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| text.extend_from_slice(part));
    text
}

/// The JWT in such credentials.
pub(crate) fn jwt_in(credentials: &[u8]) -> Option<&str> {
    part(credentials, b"BEGIN NATS USER JWT").and_then(|jwt| str::from_utf8(jwt).ok())
}

/// The seed in such credentials, or the whole text if it is a bare seed.
pub(crate) fn seed_in(credentials: &[u8]) -> &[u8] {
    part(credentials, b"BEGIN USER NKEY SEED").unwrap_or(credentials)
}

fn part<'a>(text: &'a [u8], heading: &[u8]) -> Option<&'a [u8]> {
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.find(|line| line.windows(heading.len()).any(|window| window == heading))?;
    lines.find(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;
    use crate::kinds::nats::nkey::fresh_seed;

    const OPERATOR: &[u8] = b"SOAAOBYHA4DQOBYHA4DQOBYHA4DQOBYHA4DQOBYHA4DQOBYHA4DQOB4CS4";

    fn key(seed: &Secret) -> Key {
        Key::from_seed(seed.expose(), Role::User).unwrap()
    }

    #[test]
    fn credentials_are_read_back_and_a_bare_seed_too() {
        let seed = fresh_seed().unwrap();
        let text = credentials("a.b.c", seed.expose());
        assert_eq!(jwt_in(&text), Some("a.b.c"));
        assert_eq!(seed_in(&text), seed.expose());
        assert_eq!(seed_in(seed.expose()), seed.expose());
        assert_eq!(jwt_in(seed.expose()), None);
    }

    #[test]
    fn an_account_is_believed_to_its_operator_only() {
        let Some(operator) = Key::from_seed(OPERATOR, Role::Operator) else { panic!("the seed is none of an operator") };
        let claims = json!({ "sub": "AX", "nats": { "type": "account" } }).as_object().unwrap().clone();
        let jwt = sign(claims.clone(), &operator);
        let trusted = [operator.public()];
        assert!(open_account(&jwt, "AX", &trusted).is_some());
        assert!(open_account(&jwt, "AY", &trusted).is_none(), "another account");
        assert!(open_account(&jwt, "AX", &[]).is_none(), "nobody is trusted");
        let stranger = sign(claims, &key(&fresh_seed().unwrap()));
        assert!(open_account(&stranger, "AX", &trusted).is_none());
        let forged = format!("{}A.{}", jwt.rsplit_once('.').unwrap().0, jwt.rsplit_once('.').unwrap().1);
        assert!(open_account(&forged, "AX", &trusted).is_none());
        assert!(open_account("", "AX", &trusted).is_none());
    }
}
