//! A key in a PKCS#11 token (OASIS PKCS #11 v2.40 and later): found by its label, checked to be one that cannot leave, and used there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::{AuthPin, Ulong};
use zeroize::Zeroizing;

use super::wrapped::{RootWrap, WrapError};
use crate::Secret;

const TAG_BITS: u64 = 128;
const LABELS_SHOWN: usize = 20;

/// A module is started once in a process and never stopped; one at a time uses any of them, because a login holds for all of a process's
/// sessions, and so would a wrong PIN pass beside a right one.
static MODULES: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

/// A key that never leaves its token.
pub struct TokenKey {
    module: PathBuf,
    token: String,
    key: String,
    pin: Secret,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("module", &self.module).field("token", &self.token).field("key", &self.key).finish_non_exhaustive()
    }
}

impl TokenKey {
    /// The key of this label in the token of that label. The PIN is tried once, now.
    ///
    /// # Errors
    /// What is missing or refused, or that the key could leave its token.
    pub fn open(module: &Path, token: &str, key: &str, pin: Secret) -> Result<Self, WrapError> {
        let found = Self { module: module.to_path_buf(), token: token.to_owned(), key: key.to_owned(), pin };
        found.with(|session, object| found.check(session, object))?;
        Ok(found)
    }

    /// Makes such a key in the token, unless one of that label is there: sensitive, not extractable, for encryption and decryption only.
    ///
    /// # Errors
    /// `Taken` if there is one, or what is missing or refused.
    pub fn make(module: &Path, token: &str, key: &str, pin: Secret) -> Result<Self, WrapError> {
        let made = Self { module: module.to_path_buf(), token: token.to_owned(), key: key.to_owned(), pin };
        made.logged_in(true, |session| {
            match made.find(session) {
                Ok(_) | Err(WrapError::Twice(_)) => return Err(WrapError::Taken(made.key.clone())),
                Err(WrapError::NoKey(_)) => {}
                Err(error) => return Err(error),
            }
            let template = [
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Modifiable(false),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::Wrap(false),
                Attribute::Unwrap(false),
                Attribute::ValueLen(Ulong::new(32)),
                Attribute::Label(made.key.as_bytes().to_vec()),
            ];
            let object = session.generate_key(&Mechanism::AesKeyGen, &template).map_err(refused)?;
            made.check(session, object)
        })?;
        Ok(made)
    }

    /// Does work with the key in a session that is logged in, and ends it.
    fn with<T>(&self, work: impl FnOnce(&Session, ObjectHandle) -> Result<T, WrapError>) -> Result<T, WrapError> {
        self.logged_in(false, |session| self.find(session).and_then(|object| work(session, object)))
    }

    fn logged_in<T>(&self, writing: bool, work: impl FnOnce(&Session) -> Result<T, WrapError>) -> Result<T, WrapError> {
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        let module = started(&mut modules, &self.module)?;
        let slot = self.slot(&module)?;
        let session = if writing { module.open_rw_session(slot) } else { module.open_ro_session(slot) }.map_err(refused)?;
        let pin = Zeroizing::new(str::from_utf8(self.pin.expose()).map_err(|_| WrapError::Pin(self.token.clone()))?.to_owned());
        // The client's own type wipes its copy too.
        let login = session.login(UserType::User, Some(&AuthPin::new(pin.as_str().into())));
        login.map_err(|error| match error {
            Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) => WrapError::Pin(self.token.clone()),
            Error::Pkcs11(RvError::PinLocked | RvError::PinExpired | RvError::UserPinNotInitialized, _) => WrapError::PinLocked(self.token.clone()),
            other => refused(other),
        })?;
        let done = work(&session);
        // The session ends here, and with the last one the login.
        drop(session.logout());
        drop(session);
        done
    }

    fn slot(&self, module: &Pkcs11) -> Result<Slot, WrapError> {
        let mut labels = Vec::new();
        let mut found = Vec::new();
        for slot in module.get_slots_with_token().map_err(refused)? {
            // A token that was just taken out has no information any more.
            let Ok(token) = module.get_token_info(slot) else { continue };
            if token.label().trim_end() == self.token {
                found.push(slot);
            }
            labels.push(format!("`{}`", token.label().trim_end().escape_debug()));
        }
        match found.as_slice() {
            [slot] => Ok(*slot),
            [] => {
                labels.truncate(LABELS_SHOWN);
                let found = if labels.is_empty() { "no token".to_owned() } else { labels.join(", ") };
                Err(WrapError::NoToken { label: self.token.clone(), found })
            }
            _ => Err(WrapError::Twice(self.token.clone())),
        }
    }

    fn find(&self, session: &Session) -> Result<ObjectHandle, WrapError> {
        let template = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(self.key.as_bytes().to_vec())];
        match session.find_objects(&template).map_err(refused)?.as_slice() {
            [object] => Ok(*object),
            [] => Err(WrapError::NoKey(self.key.clone())),
            _ => Err(WrapError::Twice(self.key.clone())),
        }
    }

    /// INVARIANT: a key that the token would give away is not used.
    fn check(&self, session: &Session, object: ObjectHandle) -> Result<(), WrapError> {
        let asked = [
            AttributeType::KeyType,
            AttributeType::ValueLen,
            AttributeType::Sensitive,
            AttributeType::AlwaysSensitive,
            AttributeType::Extractable,
            AttributeType::NeverExtractable,
            AttributeType::Encrypt,
            AttributeType::Decrypt,
        ];
        let told = session.get_attributes(object, &asked).map_err(refused)?;
        let weak = |what| Err(WrapError::Weak(self.key.clone(), what));
        let has = |wanted: &Attribute| told.contains(wanted);
        if !has(&Attribute::KeyType(KeyType::AES)) || !has(&Attribute::ValueLen(Ulong::new(32))) {
            return weak("not of AES with 256 bits");
        }
        if !has(&Attribute::Sensitive(true)) {
            return weak("not sensitive: the token shows it to whoever logs in");
        }
        if !has(&Attribute::Extractable(false)) {
            return weak("extractable: it can leave the token");
        }
        // One that was brought to the token, or could once be taken out, may be somewhere else too.
        if !has(&Attribute::AlwaysSensitive(true)) || !has(&Attribute::NeverExtractable(true)) {
            return weak("one that was not always kept in the token: make it there");
        }
        if !has(&Attribute::Encrypt(true)) || !has(&Attribute::Decrypt(true)) {
            return weak("not one that encrypts and decrypts");
        }
        Ok(())
    }
}

impl RootWrap for TokenKey {
    fn labels(&self) -> (&str, &str) {
        (&self.token, &self.key)
    }

    fn encrypt(&self, nonce: &[u8; 12], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, WrapError> {
        let mut iv = *nonce;
        self.with(|session, object| {
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, aad, Ulong::new(TAG_BITS)).map_err(refused)?);
            session.encrypt(&mechanism, object, plain).map_err(refused)
        })
    }

    fn decrypt(&self, nonce: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, WrapError> {
        let mut iv = *nonce;
        self.with(|session, object| {
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, aad, Ulong::new(TAG_BITS)).map_err(refused)?);
            match session.decrypt(&mechanism, object, sealed) {
                Ok(plain) => Ok(Zeroizing::new(plain)),
                // What was changed, as tokens say it; some know no better word than that it failed.
                Err(Error::Pkcs11(RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange | RvError::GeneralError, _)) => {
                    Err(WrapError::Content)
                }
                Err(error) => Err(refused(error)),
            }
        })
    }
}

fn started(modules: &mut MutexGuard<'_, BTreeMap<PathBuf, Pkcs11>>, path: &Path) -> Result<Pkcs11, WrapError> {
    if let Some(module) = modules.get(path) {
        return Ok(module.clone());
    }
    let unusable = |error: Error| WrapError::Module(path.display().to_string(), words(&error));
    if !path.is_absolute() {
        // A bare name would be looked for wherever the loader looks.
        return Err(WrapError::Module(path.display().to_string(), "the path is not absolute".to_owned()));
    }
    let module = Pkcs11::new(path).map_err(unusable)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(unusable(error)),
    }
    modules.insert(path.to_path_buf(), module.clone());
    Ok(module)
}

fn refused(error: Error) -> WrapError {
    WrapError::Refused(words(&error))
}

fn words(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{code:?} from {function:?}"),
        other => other.to_string().chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect(),
    }
}
