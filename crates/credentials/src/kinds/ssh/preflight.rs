//! Whether the hosts trust our authority, and our own account can do all that an end needs: asked of each host, then done once with a probe.

use super::client::{Client, Limits};
use super::host::{Shell, target};
use super::key::{self, Key};
use super::transport::Trouble;
use super::{Admin, Host, Ssh, certificate, ending};
use crate::Secret;
use crate::lease::{Account, AccountName, Ending, Finding, Plan, Step, Tag, TargetCode, TargetError};
use std::time::Duration;

const PROBE_LIFE: Duration = Duration::from_secs(60);
const LIMITS: Limits = Limits { time: Duration::from_secs(10), bytes: 4096 };

/// What is missing; nothing, if a probe lived and died as it must.
pub(super) async fn preflight(system: &Ssh, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Vec::new();
    if let Some(admin) = &system.settings.admin {
        for host in &system.settings.hosts {
            own_account(system, host, admin, &mut findings).await?;
        }
    }
    // What is missing would make the probe fail at the same place, and leave it there.
    if findings.is_empty() {
        try_probe(system, probe, &mut findings).await?;
    }
    Ok(findings)
}

/// What lasts until a person changes something is a finding; the rest is an error.
fn note(findings: &mut Vec<Finding>, error: TargetError, remedy: &str) -> Result<(), TargetError> {
    if error.is_transient() || error.code() == TargetCode::Internal {
        return Err(error);
    }
    findings.push(Finding { node: error.node().to_owned(), missing: error.to_string(), remedy: remedy.to_owned() });
    Ok(())
}

fn trust(system: &Ssh, user: &str, principal: &str) -> String {
    format!(
        "put `{}` into the file that `TrustedUserCAKeys` of sshd names, and let `{principal}` log in as `{user}` (AuthorizedPrincipalsFile)",
        system.authority_line()
    )
}

async fn own_account(system: &Ssh, host: &Host, admin: &Admin, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    let login = &admin.login;
    let missing = match Shell::open(system, host, admin, Step::Verify).await {
        Err(error) => return note(findings, error, &trust(system, &login.user, &login.principal)),
        Ok(mut shell) => shell.missing().await,
    };
    let folder = &admin.folder;
    let missing = match missing {
        Err(error) => return note(findings, error, &format!("let `{}` run `sudo -n /bin/sh -s` without a password, or be root", login.user)),
        Ok(missing) => missing,
    };
    for line in missing {
        let (missing, remedy) = match line.split_once(' ') {
            Some(("program", program)) => (format!("the program `{program}`, which an end needs"), "install it, and OpenSSH's client".to_owned()),
            Some(("write", path)) => (
                format!("the right to write to `{path}`: no certificate could be revoked"),
                format!("give `{folder}` to `{}`, or let it become root: `sudo = true`", login.user),
            ),
            Some((_, path)) => (
                format!("`{path}` is not there: no certificate could be revoked"),
                format!("mkdir -p {folder}/ended && ssh-keygen -k -f {folder}/revoked_keys, and `RevokedKeys {folder}/revoked_keys` in sshd_config"),
            ),
            None => ("/proc: what a lease left running could not be found".to_owned(), "mount /proc; only hosts with Linux are served".to_owned()),
        };
        findings.push(Finding { node: host.name().to_owned(), missing, remedy });
    }
    Ok(())
}

/// A whole life: signed, let in on every host with every login, revoked, killed and refused.
async fn try_probe(system: &Ssh, probe: &AccountName, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    let mut open = Vec::new();
    let mut account = None;
    for (right, login) in &system.settings.logins {
        let secret = key::fresh()?;
        let tag = Tag { task: "preflight".to_owned(), agent: "bailiwick".to_owned(), expires_at: system.clock.now().plus(PROBE_LIFE) };
        let plan = Plan { name: probe.clone(), tag, rights: vec![right.clone()] };
        let minted = system.mint_certificate(&plan, &secret)?;
        let minted_secret = minted.secret.unwrap_or(secret);
        for host in &system.settings.hosts {
            match log_in(host, &login.user, &minted_secret).await {
                Ok(client) => open.push((host, login, client)),
                Err(trouble) => note(findings, target(&trouble, Step::Verify, host), &trust(system, &login.user, &login.principal))?,
            }
        }
        account = Some(Account { name: probe.clone(), ids: minted.ids, secret: Some(minted_secret), expires_at: minted.expires_at });
    }
    for (host, login, client) in &mut open {
        look_around(system, host, &login.user, client, findings).await?;
    }
    let Some(account) = account else { return Ok(()) };
    match ending::end(system, &account).await {
        Ok(Ending::RevokedVerified { .. } | Ending::ExpiresAt { .. }) => {}
        Ok(ending) => {
            let why = if let Ending::RevokedUnverified { why, .. } = &ending { why.as_str() } else { ending.word() };
            let error = TargetError::new(TargetCode::Refused, Step::Verify, "", &format!("a probe's end could not be verified: {why}"));
            note(findings, error, "let the broker reach the hosts' sshd with certificates of the authority")?;
        }
        Err(error) => {
            let folder = system.settings.admin.as_ref().map_or("", |admin| admin.folder.as_str());
            note(findings, error, &format!("`RevokedKeys {folder}/revoked_keys` in sshd_config, and restart sshd"))?;
        }
    }
    if system.settings.admin.is_some() {
        for (host, _, client) in &mut open {
            if client.run("echo alive", None, LIMITS).await.is_ok_and(|done| done.stdout.starts_with(b"alive")) {
                let error = TargetError::new(TargetCode::Refused, Step::Kill, host.name(), "an open connection of a probe could still run commands");
                note(findings, error, "upgrade OpenSSH to 8.2 or newer")?;
            }
        }
    }
    Ok(())
}

async fn log_in(host: &Host, user: &str, secret: &Secret) -> Result<Client, Trouble> {
    let parts = Key::from_file(secret.expose()).zip(certificate::in_text(secret.expose()));
    let (key, certificate) = parts.ok_or(Trouble::Malformed("a fresh certificate is none"))?;
    Client::open(host, user, &key, &certificate).await
}

/// What a lease finds there: a shell that runs its command, and no way to undo an end.
async fn look_around(system: &Ssh, host: &Host, user: &str, client: &mut Client, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    let folder = system.settings.admin.as_ref().map_or("/nonexistent", |admin| admin.folder.as_str());
    let script = format!(
        "command -v timeout > /dev/null && echo works; for f in {folder} {folder}/ended {folder}/revoked_keys; do [ -w $f ] && echo \"writes $f\"; done; exit 0"
    );
    let done = client.run(&script, None, LIMITS).await.map_err(|trouble| target(&trouble, Step::Verify, host))?;
    if system.settings.force_command.is_some() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&done.stdout);
    let mut find = |missing: String, remedy: String| findings.push(Finding { node: host.name().to_owned(), missing, remedy });
    if !text.lines().any(|line| line == "works") {
        let said = String::from_utf8_lossy(&done.stderr).chars().filter(|c| !c.is_control()).take(200).collect::<String>();
        find(
            format!("`{user}` runs no commands: {said}"),
            format!("give `{user}` a POSIX shell, coreutils to the host, and let everybody enter `{folder}/ended`"),
        );
    }
    for path in text.lines().filter_map(|line| line.strip_prefix("writes ")) {
        find(
            format!("`{user}` may write to `{path}`: a lease could undo its own end"),
            format!("chown -R root:root {folder} && chmod -R go-w {folder}"),
        );
    }
    Ok(())
}
