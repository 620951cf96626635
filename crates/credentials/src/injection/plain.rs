//! Whether an imported value is plain: a directory, a host, a mode. When in doubt it is not.

/// Parts of names that say: this is a credential.
const TELLING: [&str; 20] = [
    "key", "token", "secret", "pass", "pwd", "auth", "cred", "cookie", "session", "private", "dsn", "conn", "sign", "bearer", "cert", "salt", "seed",
    "pin", "jwt", "sas",
];

/// Headers that carry no credential, whatever stands in them.
const PLAIN_HEADERS: [&str; 5] = ["accept", "accept-language", "content-type", "user-agent", "x-region"];

/// Is it plain, by its name and by itself?
pub(super) fn is_plain(name: &str, value: &[u8]) -> bool {
    // An author is a person; an authorization is a credential.
    let name = name.to_ascii_lowercase().replace("authoriz", "token").replace("author", "");
    let Ok(text) = std::str::from_utf8(value) else { return false };
    if PLAIN_HEADERS.contains(&name.as_str()) {
        return true;
    }
    !TELLING.iter().any(|word| name.contains(word)) && (is_path(text) || is_bare_url(text) || is_words(text))
}

fn is_path(text: &str) -> bool {
    let rooted = ["/", "./", "../", "~/"].iter().any(|start| text.starts_with(start)) || text.get(1..3) == Some(":\\");
    rooted && text.len() <= 4096 && text.split(['/', '\\', ':']).all(|part| !is_random(part))
}

/// A URL that names a place and carries nothing: no user, no query, no fragment.
fn is_bare_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    scheme.bytes().all(|b| b.is_ascii_alphanumeric()) && !rest.contains(['@', '?', '#']) && rest.split(['/', ':', '.']).all(|part| !is_random(part))
}

fn is_words(text: &str) -> bool {
    let ordinary = |b: u8| b.is_ascii_alphanumeric() || b" _-.,:/".contains(&b);
    text.bytes().all(ordinary) && text.split(|c: char| !c.is_ascii_alphanumeric()).all(|part| !is_random(part))
}

/// Does a run of letters and digits look as if it was drawn by lot: long, or a mixture that no word is?
fn is_random(part: &str) -> bool {
    let letters = part.bytes().filter(u8::is_ascii_alphabetic).count();
    let digits = part.bytes().filter(u8::is_ascii_digit).count();
    let upper = part.bytes().skip(1).filter(u8::is_ascii_uppercase).count();
    let mixed = (letters > 0 && digits > 1) || (upper > 0 && upper < letters.saturating_sub(1));
    part.len() >= 24 || (part.len() >= 8 && mixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_hosts_and_modes_are_plain() {
        for value in [
            "/home/ann/project",
            "~/notes",
            "C:\\Users\\ann",
            "https://api.example.com/v1",
            "db.example.com:5432",
            "production",
            "us-east-1",
            "customers",
            "true",
            "5432",
            "claude-sonnet-4-20250514",
            "DEBUG",
            "./data:/srv/more",
        ] {
            assert!(is_plain("SETTING", value.as_bytes()), "{value}");
        }
        assert!(is_plain("GIT_AUTHOR_NAME", b"Ann Example"));
        assert!(is_plain("Content-Type", b"application/json"));
    }

    #[test]
    fn what_may_be_a_credential_is_not_plain() {
        for value in [
            "ghp_A1b2C3d4E5f6G7h8",
            "sk-ant-api03-abcDEF123",
            "postgres://app:pw@db/shop",
            "https://hooks.example/T0/B1?sig=x",
            "0123456789abcdef0123456789abcdef",
            "correct!horse",
            "https://hooks.example/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
            "AKIAIOSFODNN7EXAMPLE12",
        ] {
            assert!(!is_plain("SETTING", value.as_bytes()), "{value}");
        }
        for name in ["API_KEY", "GITHUB_TOKEN", "PGPASSWORD", "client_secret", "Authorization", "X-Api-Key", "DATABASE_DSN"] {
            assert!(!is_plain(name, b"production"), "{name}");
        }
        assert!(!is_plain("SETTING", &[0xff; 8]));
    }
}
