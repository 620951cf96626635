//! The issuer by whose tokens clouds know the broker: a key on P-256 of its own, made and sealed here, whose public half anybody may read. No person ever
//! has the key, and nothing that a stranger wrote is signed with it.

use std::path::Path;
use std::sync::Arc;

use bailiwick_core::Clock;
use bailiwick_credentials::Sealer;
use bailiwick_credentials::kinds::aws_sts::WebIdentity;
use bailiwick_credentials::kinds::signing::{Key, fresh_p256};
use serde_json::{Value, json};

use crate::house::StartError;
use crate::place::{read_private, write_private};

/// The name under which the key is sealed, and its file.
const LABEL: &str = "key/federation";
const FILE: &str = "keys/federation.sealed";

/// The issuer.
#[derive(Debug)]
pub(crate) struct Federation {
    issuer: String,
    kid: String,
    key: Arc<Key>,
}

impl Federation {
    /// Reads the key of a data directory, or makes it. `base` is the URL under which the broker is known.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(crate) fn open(data_dir: &Path, sealer: &Sealer, base: &str) -> Result<Self, StartError> {
        let path = data_dir.join(FILE);
        let fault = |e: &dyn std::fmt::Display| StartError::place(path.display().to_string(), e);
        // One that is lost is replaced: clouds read the key set anew, and no token of the old one lives longer than minutes.
        if !path.exists() {
            let fresh = fresh_p256().map_err(|_| fault(&"no key could be made"))?;
            let sealed = sealer.seal(LABEL, &fresh).map_err(|e| fault(&e))?;
            write_private(&path, &sealed).map_err(|e| fault(&e))?;
        }
        let pem = sealer.open(LABEL, &read_private(&path)?).map_err(|e| fault(&e))?;
        let key = Key::from_pem(&pem).map_err(|e| fault(&e))?;
        let kid = key.thumbprint().ok_or_else(|| fault(&"is no key on P-256"))?;
        Ok(Self { issuer: format!("{base}/federation"), kid, key: Arc::new(key) })
    }

    /// Its metadata (OpenID Connect Discovery 1.0 section 3). It has no place where anybody could log in.
    pub(crate) fn discovery(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/jwks.json", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "claims_supported": ["iss", "sub", "aud", "exp", "iat", "jti", "task_id"],
        })
    }

    /// Its key set (RFC 7517 section 5).
    pub(crate) fn keys(&self) -> Value {
        json!({ "keys": [self.key.public_jwk(&self.kid)] })
    }

    /// What signs for us at clouds.
    ///
    /// # Errors
    /// In words: clouds could not find the issuer.
    pub(crate) fn web_identity(&self, clock: &Arc<dyn Clock>) -> Result<WebIdentity, String> {
        if !self.issuer.starts_with("https://") {
            return Err(format!("the broker is the issuer `{}`, and clouds look for one at `https://` only: set `listen.public_url`", self.issuer));
        }
        WebIdentity::new(&self.issuer, &self.kid, Arc::clone(&self.key), Arc::clone(clock)).map_err(|error| error.detail().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_credentials::RootKey;
    use bailiwick_credentials::kinds::aws_sts::Issuer as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_sealed_and_shown_by_its_public_half() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("keys")).unwrap();
        let (root, _) = RootKey::generate().unwrap();
        let open = || Federation::open(data.path(), &root.sealer().unwrap(), "https://broker.example.org").unwrap();
        let (one, again) = (open(), open());
        assert_eq!((one.keys(), one.discovery()), (again.keys(), again.discovery()));
        let key = &one.keys()["keys"][0];
        assert_eq!((key["alg"].as_str(), key["kid"].as_str(), key.get("d")), (Some("ES256"), Some(one.kid.as_str()), None));
        assert_eq!(one.discovery()["jwks_uri"], "https://broker.example.org/federation/jwks.json");
        let sealed = std::fs::read(data.path().join(FILE)).unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"PRIVATE"));
        let (other, _) = RootKey::generate().unwrap();
        assert!(Federation::open(data.path(), &other.sealer().unwrap(), "https://broker.example.org").is_err(), "sealed under another root key");
    }

    #[test]
    fn an_issuer_that_no_cloud_can_find_signs_nothing() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("keys")).unwrap();
        let (root, _) = RootKey::generate().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(crate::clock::SystemClock::start());
        let at = |base: &str| Federation::open(data.path(), &root.sealer().unwrap(), base).unwrap().web_identity(&clock);
        assert!(at("http://127.0.0.1:8200").unwrap_err().contains("listen.public_url"));
        let life = std::time::Duration::from_secs(60);
        assert!(at("https://broker.example.org").unwrap().assertion("sts.amazonaws.com", "x", "task_1", life).is_some());
    }
}
