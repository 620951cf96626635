//! The end of a certificate: on every host at once, marked as ended, its serial revoked, what it runs killed, and its login refused beside one that is
//! accepted.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use super::host::{Shell, random_serial, target};
use super::key::{self, Key};
use super::transport::Trouble;
use super::{AGE, Admin, ERRAND, Host, LOGIN, Login, Ssh, certificate, over_at, serial};
use crate::lease::{Account, Ending, Evidence, Step, TargetCode, TargetError};

/// What was seen on one host, and why that is not enough.
#[derive(Default)]
struct Seen {
    tried: Vec<(Step, String)>,
    why: Option<String>,
}

/// Ends the certificate; each step may be done already.
pub(super) async fn end(system: &Ssh, account: &Account) -> Result<Ending, TargetError> {
    // The login as which it is tried: what is revoked is the serial, whatever the login.
    let remembered = account.ids.find(LOGIN).and_then(|right| system.login(right));
    let login = remembered.or_else(|| system.settings.logins.values().next());
    let login = login.ok_or_else(|| TargetError::new(TargetCode::Internal, Step::Verify, "", "no login is configured"))?;
    let hosts = system.settings.hosts.iter().map(|host| end_on(system, host, account, login));
    // A host that cannot be reached keeps no other from being ended, and the whole from being an ending.
    let results = all(hosts.collect()).await;
    let mut evidence = Evidence::default();
    let (mut why, mut trouble) = (None, None);
    for (host, result) in system.settings.hosts.iter().zip(results) {
        match result {
            Ok(seen) => {
                seen.tried.iter().for_each(|(step, saw)| evidence.saw(host.name(), *step, system.clock.now(), saw, account.secret.as_ref()));
                why = why.or(seen.why);
            }
            Err(error) => {
                trouble.get_or_insert(error);
            }
        }
    }
    if let Some(error) = trouble {
        return Err(error);
    }
    Ok(match why {
        _ if system.settings.admin.is_none() => Ending::ExpiresAt { at: over_at(system, account), evidence },
        None => Ending::RevokedVerified { evidence },
        Some(why) => Ending::RevokedUnverified { why, evidence },
    })
}

async fn end_on(system: &Ssh, host: &Host, account: &Account, login: &Login) -> Result<Seen, TargetError> {
    let mut seen = Seen::default();
    if let Some(admin) = &system.settings.admin {
        shut(system, host, admin, account, &mut seen).await?;
    }
    verify(system, host, account, login, &mut seen).await?;
    Ok(seen)
}

async fn shut(system: &Ssh, host: &Host, admin: &Admin, account: &Account, seen: &mut Seen) -> Result<(), TargetError> {
    let mut shell = Shell::open(system, host, admin, Step::Gate).await?;
    // A mark that is over is taken out: one that is late stays for as long as it is tried here.
    let until = over_at(system, account).max(system.clock.now().plus(ERRAND));
    let said = shell.revoke(system, &account.name, until).await?;
    seen.tried.push((Step::Gate, said.trim().to_owned()));
    let said = shell.kill(&account.name).await?;
    seen.tried.push((Step::Kill, said));
    Ok(())
}

/// Tries the certificate; or, if that has expired or is not known, one of the same number that has not: the refusal of the first would show its
/// expiry only. One refused login, not two: since version 9.8, sshd keeps a grudge against addresses from which many come.
async fn verify(system: &Ssh, host: &Host, account: &Account, login: &Login, seen: &mut Seen) -> Result<(), TargetError> {
    let internal = || TargetError::new(TargetCode::Internal, Step::Verify, host.name(), "a fresh key is no key");
    let text = account.secret.as_ref().map(crate::Secret::expose);
    let known = text.and_then(Key::from_file);
    if known.is_none() {
        seen.why = Some("its key is not known, so that its own login could not be tried".to_owned());
    }
    let fresh = Key::from_file(key::fresh()?.expose()).ok_or_else(internal)?;
    let valid = account.expires_at.is_some_and(|at| at > system.clock.now().plus(AGE));
    match known.as_ref().zip(text.and_then(certificate::in_text)).filter(|_| valid) {
        Some((key, certificate)) => {
            let login = super::client::Client::open(host, &login.user, key, &certificate).await;
            refused(system, host, "its own certificate", login.err(), seen)?;
        }
        None => {
            let key = known.as_ref().unwrap_or(&fresh);
            let again = system.errand(host, login, key, serial(&account.name), "verify").await;
            refused(system, host, "a certificate with its serial", again.err(), seen)?;
        }
    }
    match system.errand(host, login, &fresh, random_serial(), "verify").await {
        Ok(_) => seen.tried.push((Step::Verify, "a login with a fresh certificate of the same authority is accepted".to_owned())),
        Err(Trouble::Refused(words)) => seen.why = Some(format!("`{}` refuses every certificate of the authority: {words}", host.name())),
        Err(trouble) => return Err(target(&trouble, Step::Verify, host)),
    }
    Ok(())
}

fn refused(system: &Ssh, host: &Host, what: &str, trouble: Option<Trouble>, seen: &mut Seen) -> Result<(), TargetError> {
    match trouble {
        Some(Trouble::Refused(words)) => seen.tried.push((Step::Verify, format!("a login with {what}: {words}"))),
        Some(trouble) => return Err(target(&trouble, Step::Verify, host)),
        None if system.settings.admin.is_none() => seen.tried.push((Step::Verify, format!("a login with {what} is still accepted"))),
        None => {
            let words = "the login is still accepted: does `RevokedKeys` of sshd name the file `revoked_keys` of the folder?";
            return Err(TargetError::new(TargetCode::Refused, Step::Verify, host.name(), words));
        }
    }
    Ok(())
}

/// Every one of them, at the same time.
async fn all<T>(work: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut work: Vec<_> = work.into_iter().map(|work| (Some(Box::pin(work)), None)).collect();
    poll_fn(|context| {
        for (running, done) in &mut work {
            if let Some(future) = running
                && let Poll::Ready(result) = Pin::new(future).poll(context)
            {
                *done = Some(result);
                *running = None;
            }
        }
        if work.iter().all(|(running, _)| running.is_none()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    work.into_iter().filter_map(|(_, done)| done).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_done_at_the_same_time_comes_back_in_order() {
        let one = |number: u64| async move {
            tokio::time::sleep(std::time::Duration::from_millis(20 - number * 10)).await;
            number
        };
        assert_eq!(all(vec![one(0), one(1), one(2)]).await, [0, 1, 2]);
        assert_eq!(all(Vec::<std::future::Ready<u64>>::new()).await, [0; 0]);
    }
}
