//! The file with the list of revoked certificates: what others keep in it stays, and it is there whole or as it was.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bailiwick_core::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::authority::{Authority, Entry, OURS};
use crate::lease::{Step, TargetCode, TargetError};

const BEGIN: &str = "-----BEGIN X509 CRL-----";
const END: &str = "-----END X509 CRL-----";
const FILE_MAX: u64 = 16 << 20;
/// No certificate of ours lives longer; an entry of ours that is twice as old is of no use.
const KEPT: Duration = Duration::from_secs(2 * 3600);
const LOCK_TRIES: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Puts the serial number into the list, if it is not there. Gives how many entries it has. Blocks.
pub(super) fn revoke(path: &Path, authority: &Authority, serial: [u8; 16], now: Timestamp) -> Result<usize, TargetError> {
    let _lock = lock(path)?;
    let text = read(path)?;
    let (mut entries, mut number, mut others) = (Vec::new(), 0, String::new());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (digits, after) = after.split_once(END).ok_or_else(|| wrong("it has a list that is cut off"))?;
        others.push_str(before);
        let digits: String = digits.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let list = STANDARD.decode(digits).map_err(|_| wrong("it has a list that is none"))?;
        match authority.entries(&list) {
            Some((ours, last)) => {
                entries.extend(ours);
                number = number.max(last);
            }
            None if authority.is_issuer_of(&list) => return Err(wrong("the authority's list in it cannot be read")),
            None => others.push_str(&pem(&list)),
        }
        rest = after.strip_prefix('\n').unwrap_or(after);
    }
    others.push_str(rest);
    entries.retain(|entry: &Entry| !(entry.serial.len() == 16 && entry.serial.starts_with(&OURS)) || entry.at.plus(KEPT) > now);
    if !entries.iter().any(|entry| entry.serial == serial) {
        entries.push(Entry::new(serial, now));
    }
    let list = authority.list(&entries, number.saturating_add(1), now);
    let list = list.ok_or_else(|| TargetError::new(TargetCode::Internal, Step::Gate, "", "the list could not be signed"))?;
    replace(path, &format!("{others}{}", pem(&list))).map_err(|error| refused(path, &error))?;
    Ok(entries.len())
}

/// One at a time, whichever process.
fn lock(path: &Path) -> Result<File, TargetError> {
    let beside = beside(path, "lock");
    let file = File::options().create(true).truncate(false).write(true).open(&beside).map_err(|error| refused(&beside, &error))?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::Error(error)) => return Err(refused(&beside, &error)),
        }
    }
    Err(TargetError::new(TargetCode::Busy, Step::Gate, "", "another end holds the list"))
}

fn read(path: &Path) -> Result<String, TargetError> {
    let length = fs::metadata(path).map_err(|error| refused(path, &error))?.len();
    if length > FILE_MAX {
        return Err(wrong("it is longer than 16 MiB"));
    }
    fs::read_to_string(path).map_err(|error| refused(path, &error))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = beside(path, "new");
    let mut file = File::create(&new)?;
    file.set_permissions(fs::metadata(path)?.permissions())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The rename itself is durable, or the next end does it again.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

fn pem(list: &[u8]) -> String {
    let digits = STANDARD.encode(list);
    let mut text = format!("{BEGIN}\n");
    let mut rest = digits.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    format!("{text}{END}\n")
}

fn wrong(what: &str) -> TargetError {
    TargetError::new(TargetCode::Refused, Step::Gate, "", &format!("the file with the list of revoked certificates: {what}"))
}

fn refused(path: &Path, error: &io::Error) -> TargetError {
    let code = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => TargetCode::Privilege,
        io::ErrorKind::NotFound => TargetCode::Refused,
        _ => TargetCode::Busy,
    };
    TargetError::new(code, Step::Gate, "", &format!("`{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// An authority that openssl made, and what its programs say of the file.
    struct World {
        folder: tempfile::TempDir,
        authority: Authority,
    }

    impl World {
        fn new(name: &str, kind: &[&str]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut openssl = Command::new("openssl");
            openssl.args(["req", "-x509", "-nodes", "-days", "2", "-subj", &format!("/O=Example/CN={name}"), "-keyout", "ca.key", "-out", "ca.pem"]);
            openssl.args(["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-newkey"]).args(kind);
            assert!(openssl.current_dir(folder.path()).output().unwrap().status.success());
            let pem = ["ca.pem", "ca.key"].map(|file| fs::read(folder.path().join(file)).unwrap()).concat();
            fs::write(folder.path().join("list.pem"), "").unwrap();
            Self { authority: Authority::parse(&pem).unwrap(), folder }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("list.pem")
        }

        fn revoke(&self, number: u8, at: i64) -> usize {
            revoke(&self.path(), &self.authority, serial(number), Timestamp::from_seconds(at)).unwrap()
        }

        fn shown(&self) -> String {
            let out = Command::new("openssl")
                .args(["crl", "-text", "-noout", "-in", "list.pem", "-CAfile", "ca.pem"])
                .current_dir(self.folder.path())
                .output()
                .unwrap();
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
        }
    }

    fn serial(number: u8) -> [u8; 16] {
        let mut serial = [number; 16];
        serial[..2].copy_from_slice(&OURS);
        serial
    }

    const NOW: i64 = 1_790_000_000;

    #[test]
    fn a_list_is_one_that_openssl_reads_and_verifies() {
        for kind in [&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"][..], &["ed25519"]] {
            let world = World::new("ca", kind);
            assert_eq!((world.revoke(1, NOW), world.revoke(2, NOW), world.revoke(1, NOW + 5)), (1, 2, 2));
            let shown = world.shown();
            for words in ["verify OK", "Version 2 (0x1)", "CN = ca", &"01".repeat(14), &"02".repeat(14), "X509v3 CRL Number: \n                3"] {
                assert!(shown.contains(words), "{words}: {shown}");
            }
        }
    }

    #[test]
    fn what_others_revoked_stays_and_what_of_ours_is_over_goes() {
        let world = World::new("ca", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        let stranger = World::new("stranger", &["ed25519"]);
        stranger.revoke(9, NOW);
        // A person revoked a certificate of the same authority; another authority has its list in the same file.
        let person = Entry::new([0x11; 16], Timestamp::from_seconds(NOW - 1_000_000));
        let list = world.authority.list(std::slice::from_ref(&person), 41, Timestamp::from_seconds(NOW)).unwrap();
        let strangers = fs::read_to_string(stranger.path()).unwrap();
        fs::write(world.path(), format!("# a word\n{strangers}{}", pem(&list))).unwrap();
        world.revoke(1, NOW);
        let text = fs::read_to_string(world.path()).unwrap();
        assert!(text.starts_with("# a word\n") && text.contains(strangers.trim()), "{text}");
        assert_eq!(world.revoke(2, NOW + 7199), 3);
        assert_eq!(world.revoke(3, NOW + 7201), 3, "the person's, the second and the third");
        let text = fs::read_to_string(world.path()).unwrap();
        let digits: String = text.rsplit_once(BEGIN).unwrap().1.split_once(END).unwrap().0.split_whitespace().collect();
        let (entries, number) = world.authority.entries(&STANDARD.decode(digits).unwrap()).unwrap();
        assert_eq!((entries.contains(&person), number), (true, 44));
    }

    #[test]
    fn a_file_that_is_not_there_or_is_damaged_is_no_empty_list() {
        let world = World::new("ca", &["ed25519"]);
        let now = Timestamp::from_seconds(NOW);
        world.revoke(1, NOW);
        let whole = fs::read_to_string(world.path()).unwrap();
        for text in [whole.replace(END, ""), whole.replacen('M', "!", 1), whole.replacen("MI", "MA", 1)] {
            fs::write(world.path(), &text).unwrap();
            let result = revoke(&world.path(), &world.authority, serial(2), now);
            let kept = fs::read_to_string(world.path()).unwrap();
            assert!(result.is_err() || kept.contains(text.lines().nth(1).unwrap()), "{text}");
        }
        fs::remove_file(world.path()).unwrap();
        assert_eq!(revoke(&world.path(), &world.authority, serial(2), now).unwrap_err().code(), TargetCode::Refused);
    }

    #[test]
    fn ends_at_the_same_time_lose_nothing() {
        let world = World::new("ca", &["ed25519"]);
        std::thread::scope(|scope| {
            for number in 1..9 {
                let world = &world;
                scope.spawn(move || world.revoke(number, NOW));
            }
        });
        assert_eq!(world.revoke(1, NOW), 8);
    }
}
