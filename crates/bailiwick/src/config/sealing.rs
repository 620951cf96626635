//! The section `[sealing]`: where the root key comes from.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::ledger::Fault;

/// Where the root key comes from, under which everything is sealed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SealingFile {
    /// `file`: made in the data directory, readable by its owner only. `credential`: given by the service manager, as the credential
    /// `bailiwick-root-key` (systemd: `LoadCredential=`). `pkcs11`: made in the data directory, wrapped by a key that never leaves its token.
    /// Default `file`. A change takes effect with `bailiwick root-key rotate`.
    root_key: RootKeyFile,
    /// The token and its key, for `root_key = "pkcs11"`.
    #[schemars(with = "Option<Pkcs11File>")]
    pkcs11: Option<Spanned<Pkcs11File>>,
}

/// Where the root key comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum RootKeyFile {
    /// A file of the data directory.
    #[default]
    File,
    /// The service manager's credential.
    Credential,
    /// A token.
    Pkcs11,
}

/// A token and the AES-256 key in it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pkcs11File {
    /// The full path of the token's own library, such as `/usr/lib/softhsm/libsofthsm2.so`.
    module: PathBuf,
    /// The token's label.
    token: String,
    /// The label of the secret key: AES with 256 bits, sensitive, not extractable.
    key: String,
    /// A file that only the broker can read, with the token's PIN. Relative to this file.
    pin_file: Option<PathBuf>,
    /// The name of the service manager's credential that is the PIN, in the place of `pin_file`.
    pin_credential: Option<String>,
}

/// Where the root key comes from, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sealing {
    /// A file of the data directory.
    #[default]
    File,
    /// The service manager's credential.
    Credential,
    /// A file of the data directory, wrapped by a token's key.
    Token(TokenPlace),
}

impl Sealing {
    /// The word of the configuration.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Credential => "credential",
            Self::Token(_) => "pkcs11",
        }
    }
}

/// A token, its key, and where its PIN is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenPlace {
    /// The token's library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The key's label.
    pub key: String,
    /// Where the PIN is.
    pub pin: PinPlace,
}

/// Where a PIN is: never an argument, never the environment, never the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinPlace {
    /// A file that only we can read.
    File(PathBuf),
    /// A credential of the service manager.
    Credential(String),
}

pub(super) fn sealing(given: SealingFile, base: &Path) -> Result<Sealing, Fault> {
    let SealingFile { root_key, pkcs11 } = given;
    match (root_key, pkcs11) {
        (RootKeyFile::File, None) => Ok(Sealing::File),
        (RootKeyFile::Credential, None) => Ok(Sealing::Credential),
        (RootKeyFile::Pkcs11, Some(one)) => {
            let span = one.span();
            token(one.into_inner(), base).map(Sealing::Token).map_err(|(what, hint)| (Some(span), what, hint))
        }
        (RootKeyFile::Pkcs11, None) => Err((None, "`root_key = \"pkcs11\"` without `[sealing.pkcs11]`".to_owned(), "say which token and which key")),
        (RootKeyFile::File | RootKeyFile::Credential, Some(one)) => {
            Err((Some(one.span()), "`[sealing.pkcs11]` is not used".to_owned(), "set `root_key = \"pkcs11\"`, or take the table out"))
        }
    }
}

fn token(given: Pkcs11File, base: &Path) -> Result<TokenPlace, (String, &'static str)> {
    let Pkcs11File { module, token, key, pin_file, pin_credential } = given;
    if !module.is_absolute() {
        return Err((
            format!("`{}` is no full path", module.display()),
            "a library is loaded from exactly where you say, such as /usr/lib/softhsm/libsofthsm2.so",
        ));
    }
    for label in [&token, &key] {
        if !(1..=32).contains(&label.len()) || label.chars().any(char::is_control) {
            return Err((format!("`{}` is no label", label.escape_debug()), "1 to 32 bytes"));
        }
    }
    let pin = match (pin_file, pin_credential) {
        (Some(file), None) => PinPlace::File(base.join(file)),
        (None, Some(name)) if is_credential_name(&name) => PinPlace::Credential(name),
        (None, Some(name)) => return Err((format!("`{}` is no name of a credential", name.escape_debug()), "letters, digits, `.`, `_` and `-`")),
        (None, None) | (Some(_), Some(_)) => {
            return Err(("expected either `pin_file` or `pin_credential`".to_owned(), "the PIN itself is never written here"));
        }
    };
    Ok(TokenPlace { module, token, key, pin })
}

fn is_credential_name(name: &str) -> bool {
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Sealing, String> {
        let file: SealingFile = toml::from_str(text).map_err(|e| e.to_string())?;
        sealing(file, Path::new("/etc/bailiwick")).map_err(|(_, what, _)| what)
    }

    #[test]
    fn each_source_is_said_in_its_own_words_and_nothing_is_left_over() {
        assert_eq!(read(""), Ok(Sealing::File));
        assert_eq!(read("root_key = 'credential'"), Ok(Sealing::Credential));
        let place = |pin| TokenPlace { module: "/lib/x.so".into(), token: "t".into(), key: "k".into(), pin };
        let table = "root_key = 'pkcs11'\n[pkcs11]\nmodule = '/lib/x.so'\ntoken = 't'\nkey = 'k'\n";
        assert_eq!(read(&format!("{table}pin_file = 'pin'")), Ok(Sealing::Token(place(PinPlace::File("/etc/bailiwick/pin".into())))));
        assert_eq!(read(&format!("{table}pin_credential = 'pin'")), Ok(Sealing::Token(place(PinPlace::Credential("pin".into())))));
        for bad in [
            "root_key = 'environment'".to_owned(),
            "root_key = 'pkcs11'".to_owned(),
            table.to_owned(),
            format!("{table}pin_file = 'a'\npin_credential = 'b'"),
            format!("{table}pin_credential = '../b'"),
            format!("{table}pin = '1234'"),
            table.replace("'pkcs11'", "'file'") + "pin_file = 'a'",
            table.replace("/lib/x.so", "x.so") + "pin_file = 'a'",
            table.replace("token = 't'", "token = ''") + "pin_file = 'a'",
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
    }
}
