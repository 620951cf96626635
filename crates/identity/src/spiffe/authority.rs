//! The authority of our own trust domain: the keys that sign its SVIDs, in generations that overlap, and the SVIDs that it makes.
//!
//! A generation lives for a fixed time. When half of it is over the next one is made and announced in the bundle; only after it was known for a while
//! ([`ANNOUNCED`] of a life) does it sign; the one before stays in the bundle until it expires. So whoever reads the bundle again within that while never
//! meets an SVID that it cannot check. The caller keeps [`Authority::to_bytes`], sealed, before it publishes anything of a new generation.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm};
use bailiwick_core::{SpiffeId, Timestamp, TrustDomain};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::x509::{self, Words};
use super::{bundle, id_of_domain};
use crate::keys::{KeyError, PublicKey};

/// The next generation is announced for one such part of its life before it signs.
pub const ANNOUNCED: u32 = 6;
/// Clocks of those who check are behind ours by no more.
const BEHIND: Duration = Duration::from_secs(60);
/// No SVID lives longer.
const SVID_MAX: Duration = Duration::from_secs(3600);
/// Audiences of one JWT-SVID, and the bytes of each.
const AUDIENCES_MAX: usize = 8;
const AUDIENCE_MAX: usize = 512;
/// Generations at a time; there are never more than three.
const GENERATIONS_MAX: usize = 8;
const KEPT: u8 = 1;

/// Why an authority cannot be had, or does not sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The kept bytes are none of ours, or of another version.
    #[error("the kept keys of the SPIFFE authority cannot be read")]
    Kept,
    /// Every generation has expired: [`Authority::turn`] was not called for too long.
    #[error("the keys of the SPIFFE authority have expired")]
    Expired,
    /// An SVID was asked for without an audience, with one that is empty or too long, or for another trust domain.
    #[error("no SVID is made for this: {0}")]
    Asked(&'static str),
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// An X.509-SVID as its workload gets it.
pub struct X509Svid {
    /// The certificate, DER. It is the whole chain below the root.
    pub certificate: Vec<u8>,
    /// Its private key, PKCS #8 DER.
    pub key: Zeroizing<Vec<u8>>,
    /// Its serial number.
    pub serial: [u8; 16],
    /// Until when it is valid.
    pub expires: Timestamp,
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// A JWT-SVID as its workload gets it.
pub struct JwtSvid {
    /// The token: whoever has it is the workload, for its audience.
    pub token: String,
    /// Until when it is valid.
    pub expires: Timestamp,
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSvid").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The keys of a trust domain. Never shows a private half.
pub struct Authority {
    domain: TrustDomain,
    /// Oldest first; never empty.
    generations: Vec<Generation>,
    /// Higher with every change of the bundle.
    sequence: u64,
}

struct Generation {
    made: Timestamp,
    /// From when on it signs.
    usable: Timestamp,
    expires: Timestamp,
    x509: Pair,
    certificate: Vec<u8>,
    name: Vec<u8>,
    jwt: Pair,
    jwt_public: PublicKey,
}

struct Pair {
    key: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl Pair {
    fn generate(algorithm: &'static EcdsaSigningAlgorithm) -> Result<Self, KeyError> {
        let key = EcdsaKeyPair::generate(algorithm).map_err(|_| KeyError::Library)?;
        let pkcs8 = key.to_pkcs8v1().map_err(|_| KeyError::Library)?;
        let pkcs8 = Zeroizing::new(pkcs8.as_ref().to_vec());
        Ok(Self { key, pkcs8 })
    }

    fn kept(algorithm: &'static EcdsaSigningAlgorithm, text: &str) -> Result<Self, AuthorityError> {
        let pkcs8 = Zeroizing::new(STANDARD.decode(text).map_err(|_| AuthorityError::Kept)?);
        let key = EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8).map_err(|_| AuthorityError::Kept)?;
        Ok(Self { key, pkcs8 })
    }

    fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(&*self.pkcs8))
    }
}

impl Generation {
    fn make(domain: &TrustDomain, serial: [u8; 16], now: Timestamp, usable: Timestamp, life: Duration) -> Result<Self, KeyError> {
        let (x509, jwt) = (Pair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?, Pair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?);
        let public = x509::point(&x509.key);
        let (issuer_key, expires) = (x509::key_id(public), now.plus(life));
        let name = x509::authority_name(&issuer_key);
        let uri = id_of_domain(domain);
        let words =
            Words { serial: positive(serial), issuer: &name, issuer_key, subject: &name, from: now.minus(BEHIND), until: expires, public, uri: &uri };
        let certificate = x509::signing(&x509.key, &words)?;
        let jwt_public = public_of(&jwt)?;
        Ok(Self { made: now, usable, expires, certificate, name, x509, jwt, jwt_public })
    }

    fn from_kept(kept: &Kept<'_>) -> Result<Self, AuthorityError> {
        let x509 = Pair::kept(&ECDSA_P256_SHA256_ASN1_SIGNING, kept.x509)?;
        let jwt = Pair::kept(&ECDSA_P256_SHA256_FIXED_SIGNING, kept.jwt)?;
        let certificate = STANDARD.decode(kept.certificate).map_err(|_| AuthorityError::Kept)?;
        let name = x509::authority_name(&x509::key_id(x509::point(&x509.key)));
        let jwt_public = public_of(&jwt)?;
        let at = Timestamp::from_millis;
        Ok(Self { made: at(kept.made), usable: at(kept.usable), expires: at(kept.expires), x509, certificate, name, jwt, jwt_public })
    }
}

/// As the keys are kept: base64 of PKCS #8 and of the certificate, times in milliseconds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept<'a> {
    made: i64,
    usable: i64,
    expires: i64,
    x509: &'a str,
    certificate: &'a str,
    jwt: &'a str,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptAll<'a> {
    v: u8,
    domain: TrustDomain,
    sequence: u64,
    #[serde(borrow)]
    generations: Vec<Kept<'a>>,
}

impl Authority {
    /// The first generation of a trust domain. It signs at once. `serial` is random; `sequence` is higher than that of any bundle of the trust domain
    /// before, 0 if there was none.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn begin(domain: TrustDomain, life: Duration, serial: [u8; 16], sequence: u64, now: Timestamp) -> Result<Self, AuthorityError> {
        let first = Generation::make(&domain, serial, now, now, life)?;
        Ok(Self { domain, generations: vec![first], sequence: sequence.saturating_add(1) })
    }

    /// As it was kept.
    ///
    /// # Errors
    /// `Kept` if it is not what [`Authority::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuthorityError> {
        let kept: KeptAll<'_> = serde_json::from_slice(bytes).map_err(|_| AuthorityError::Kept)?;
        if kept.v != KEPT || kept.generations.is_empty() || kept.generations.len() > GENERATIONS_MAX {
            return Err(AuthorityError::Kept);
        }
        let generations = kept.generations.iter().map(Generation::from_kept).collect::<Result<_, _>>()?;
        Ok(Self { domain: kept.domain, generations, sequence: kept.sequence })
    }

    /// To be kept where only its holder can read it: the private keys stand in it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
        let texts: Vec<_> = self.generations.iter().map(|g| (g, g.x509.text(), STANDARD.encode(&g.certificate), g.jwt.text())).collect();
        let generations = texts.iter().map(|(g, x509, certificate, jwt)| {
            let (made, usable, expires) = (g.made.as_millis(), g.usable.as_millis(), g.expires.as_millis());
            Kept { made, usable, expires, x509, certificate, jwt }
        });
        let kept = KeptAll { v: KEPT, domain: self.domain.clone(), sequence: self.sequence, generations: generations.collect() };
        // Room for everything at once, so that no copy is left behind.
        let mut out = Zeroizing::new(Vec::with_capacity(self.generations.len().saturating_mul(2048).saturating_add(1024)));
        serde_json::to_writer(&mut *out, &kept).map_err(|_| AuthorityError::Kept)?;
        Ok(out)
    }

    /// Forgets what has expired, and makes the next generation when the newest is halfway through its life. Gives the authority that is to be kept and
    /// to take this one's place; none while nothing changes.
    ///
    /// # Errors
    /// If the cryptographic library fails.
    pub fn turn(&self, life: Duration, serial: [u8; 16], now: Timestamp) -> Result<Option<Self>, AuthorityError> {
        let left = self.generations.iter().map(|g| g.expires).max().unwrap_or(now);
        let due = now.until(left) < life / 2;
        let over = self.generations.iter().any(|g| g.expires <= now);
        if !due && !over {
            return Ok(None);
        }
        let mut generations: Vec<Generation> = Vec::new();
        for kept in self.generations.iter().filter(|g| g.expires > now) {
            generations.push(kept.again()?);
        }
        if due {
            // Nobody is left to sign meanwhile: then it must not wait.
            let usable = if generations.iter().any(|g| g.usable <= now) { now.plus(life / ANNOUNCED) } else { now };
            generations.push(Generation::make(&self.domain, serial, now, usable, life)?);
        }
        Ok(Some(Self { domain: self.domain.clone(), generations, sequence: self.sequence.saturating_add(1) }))
    }

    /// The trust domain.
    #[must_use]
    pub const fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The number of its bundle: higher with every change.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The certificates of those that may have signed an X.509-SVID which is still valid: DER, oldest first.
    #[must_use]
    pub fn roots(&self) -> Vec<&[u8]> {
        self.generations.iter().map(|g| g.certificate.as_slice()).collect()
    }

    /// The keys that may have signed a JWT-SVID which is still valid.
    #[must_use]
    pub fn jwt_keys(&self) -> Vec<PublicKey> {
        self.generations.iter().map(|g| g.jwt_public.clone()).collect()
    }

    /// The keys for JWT-SVIDs alone, as the Workload API hands them out: a JWK set.
    #[must_use]
    pub fn jwt_bundle(&self) -> Value {
        json!({ "keys": self.jwt_keys().iter().map(bundle::jwt_entry).collect::<Vec<_>>() })
    }

    /// The whole bundle of the trust domain, with a hint how often it is to be read again.
    #[must_use]
    pub fn bundle(&self, refresh: Duration) -> Value {
        let x509 = self.generations.iter().filter_map(|g| bundle::x509_entry(x509::point(&g.x509.key), &g.certificate));
        let jwt = self.generations.iter().map(|g| bundle::jwt_entry(&g.jwt_public));
        json!({
            "keys": x509.chain(jwt).collect::<Vec<_>>(),
            "spiffe_sequence": self.sequence,
            "spiffe_refresh_hint": refresh.as_secs(),
        })
    }

    /// The generation that signs now: the newest that was announced for long enough.
    fn signs(&self, now: Timestamp) -> Result<&Generation, AuthorityError> {
        let alive = |g: &&Generation| g.usable <= now && now < g.expires;
        self.generations.iter().rfind(alive).ok_or(AuthorityError::Expired)
    }

    fn of_this_domain(&self, id: &SpiffeId) -> Result<(), AuthorityError> {
        let ours = super::domain_of(id).is_some_and(|domain| domain == self.domain);
        if ours { Ok(()) } else { Err(AuthorityError::Asked("another trust domain")) }
    }

    /// An X.509-SVID with a key of its own. `serial` is random.
    ///
    /// # Errors
    /// If nobody signs now, or it is for another trust domain.
    pub fn x509_svid(&self, id: &SpiffeId, life: Duration, serial: [u8; 16], now: Timestamp) -> Result<X509Svid, AuthorityError> {
        self.of_this_domain(id)?;
        let signer = self.signs(now)?;
        let own = Pair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let expires = now.plus(life.min(SVID_MAX)).min(signer.expires);
        let serial = positive(serial);
        let words = Words {
            serial,
            issuer: &signer.name,
            issuer_key: x509::key_id(x509::point(&signer.x509.key)),
            subject: &x509::workload_name(),
            from: now.minus(BEHIND),
            until: expires,
            public: x509::point(&own.key),
            uri: id.as_str(),
        };
        let certificate = x509::leaf(&signer.x509.key, &words)?;
        Ok(X509Svid { certificate, key: own.pkcs8, serial, expires })
    }

    /// A JWT-SVID for an audience.
    ///
    /// # Errors
    /// If nobody signs now, it is for another trust domain, or the audience is none that we sign.
    pub fn jwt_svid(&self, id: &SpiffeId, audience: &[String], life: Duration, now: Timestamp) -> Result<JwtSvid, AuthorityError> {
        self.of_this_domain(id)?;
        check_audience(audience).map_err(AuthorityError::Asked)?;
        let signer = self.signs(now)?;
        let expires = Timestamp::from_seconds(now.plus(life.min(SVID_MAX)).min(signer.expires).as_seconds());
        //= jwt-svid#section-3
        // The `sub` claim MUST be set to the SPIFFE ID of the workload to which it is issued. The `aud` claim MUST be present,
        // containing one or more values. The `exp` claim MUST be set.
        let claims = json!({ "sub": id, "aud": audience, "iat": now.as_seconds(), "exp": expires.as_seconds() });
        //= jwt-svid#section-2
        // Any header not described here, registered or private, MUST NOT be included in the JWT-SVID JOSE Header.
        let header = format!(r#"{{"alg":"ES256","kid":"{}","typ":"JWT"}}"#, signer.jwt_public.id());
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let signature = signer.jwt.key.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| KeyError::Library)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(JwtSvid { token, expires })
    }
}

impl Generation {
    /// The same keys once more, for an authority that takes another's place.
    fn again(&self) -> Result<Self, AuthorityError> {
        let (x509, jwt) = (self.x509.text(), self.jwt.text());
        let certificate = STANDARD.encode(&self.certificate);
        let (made, usable, expires) = (self.made.as_millis(), self.usable.as_millis(), self.expires.as_millis());
        Self::from_kept(&Kept { made, usable, expires, x509: &x509, certificate: &certificate, jwt: &jwt })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("domain", &self.domain)
            .field("generations", &self.generations.len())
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

fn public_of(pair: &Pair) -> Result<PublicKey, KeyError> {
    PublicKey::from_jwk(&bundle::ec(x509::point(&pair.key)).ok_or(KeyError::Library)?)
}

/// May a JWT-SVID be made for these audiences?
fn check_audience(audience: &[String]) -> Result<(), &'static str> {
    if audience.is_empty() || audience.len() > AUDIENCES_MAX {
        return Err("one to eight audiences");
    }
    let plain = |one: &String| (1..=AUDIENCE_MAX).contains(&one.len()) && !one.chars().any(char::is_control);
    if audience.iter().all(plain) { Ok(()) } else { Err("audiences of 1 to 512 bytes without control characters") }
}

//= rfc5280#section-4.1.2.2
// The serial number MUST be a positive integer assigned by the CA to each certificate. CAs MUST force the serialNumber to be a
// non-negative integer. Certificate users MUST be able to handle serialNumber values up to 20 octets.
fn positive(mut serial: [u8; 16]) -> [u8; 16] {
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x3f) | 0x40;
    }
    serial
}

#[cfg(test)]
mod tests;
