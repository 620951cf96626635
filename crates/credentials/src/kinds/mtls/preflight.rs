//! Whether the servers trust our authority and read its list, and our own role can do what an end needs: done once with a probe.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use super::{Mtls, Protocol, ending, fresh_key, login};
use crate::kinds::connection::Failure;
use crate::lease::{Account, AccountName, Ending, Finding, Plan, Step, Tag, TargetCode, TargetError};

const PROBE_LIFE: Duration = Duration::from_secs(60);
const HANG_UP_MAX: Duration = Duration::from_secs(5);

/// What is missing; nothing, if a probe lived and died as it must.
pub(super) async fn preflight(system: &Mtls, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Vec::new();
    own_role(system, &mut findings).await?;
    // What is missing would make the probe fail at the same place, and leave it there.
    if findings.is_empty() {
        try_probe(system, probe, &mut findings).await?;
    }
    Ok(findings)
}

/// What lasts until a person changes something is a finding; the rest is an error.
fn note(findings: &mut Vec<Finding>, error: TargetError, remedy: &str) -> Result<(), TargetError> {
    if (error.is_transient() && error.code() != TargetCode::Busy) || error.code() == TargetCode::Internal {
        return Err(error);
    }
    findings.push(Finding { node: error.node().to_owned(), missing: error.to_string(), remedy: remedy.to_owned() });
    Ok(())
}

async fn own_role(system: &Mtls, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    let Some(admin) = &system.admin else { return Ok(()) };
    for server in &system.settings.servers {
        let session = match system.admin_at(server, Step::Verify).await {
            Ok(Some(session)) => session,
            Ok(None) => continue,
            Err(error) => {
                note(findings, error, "let the broker's own role log in with its password, under TLS")?;
                continue;
            }
        };
        let rights = [
            ("pg_has_role('pg_signal_backend', 'USAGE')", "pg_signal_backend", "GRANT pg_signal_backend TO"),
            ("pg_has_role('pg_read_all_stats', 'USAGE')", "pg_read_all_stats", "GRANT pg_read_all_stats TO"),
            (
                "has_function_privilege('pg_reload_conf()', 'EXECUTE')",
                "pg_reload_conf",
                "(in the database of the configuration) GRANT EXECUTE ON FUNCTION pg_reload_conf() TO",
            ),
        ];
        for (question, right, grant) in rights {
            let rows = session.ask(&format!("SELECT {question}")).await.map_err(|failure| failure.target(Step::Verify, server.node.name()))?;
            if rows.first().and_then(|row| row.first()).and_then(Option::as_deref) != Some("t") {
                findings.push(Finding {
                    node: server.node.name().to_owned(),
                    missing: format!("{right}: a certificate that was revoked would go on working there"),
                    remedy: format!("{grant} \"{}\";", admin.user.replace('"', "\"\"")),
                });
            }
        }
    }
    Ok(())
}

/// A whole life: signed, let in by every server with every name, revoked and refused.
async fn try_probe(system: &Mtls, probe: &AccountName, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    let mut open = Vec::new();
    let mut account = None;
    for (right, name) in &system.settings.names {
        let tag = Tag { task: "preflight".to_owned(), agent: "bailiwick".to_owned(), expires_at: system.clock.now().plus(PROBE_LIFE) };
        let plan = Plan { name: probe.clone(), tag, rights: vec![right.clone()] };
        let minted = system.mint_certificate(&plan, &fresh_key()?)?;
        let Some(secret) = minted.secret else { continue };
        for server in &system.settings.servers {
            match login::log_in(server, name, &secret).await {
                Ok(stream) => open.push((server, stream)),
                Err(Failure::Said(words)) => findings.push(Finding {
                    node: server.node.name().to_owned(),
                    missing: format!("a certificate for `{name}` is not accepted: {words}"),
                    remedy: match &server.protocol {
                        Protocol::Http { path, .. } => format!(
                            "let the server trust the authority's certificate for clients, and answer `GET {path}` by neither 400, 401 nor 403 (another path: `probe`)"
                        ),
                        Protocol::Tls => "let the server trust the authority's certificate for clients".to_owned(),
                        Protocol::Postgresql { .. } => {
                            format!("name the authority's certificate in `ssl_ca_file`, and add to pg_hba.conf: hostssl all {name} all cert")
                        }
                    },
                }),
                Err(failure) => return Err(ending::target(&failure, server)),
            }
        }
        account = Some(Account { name: probe.clone(), ids: minted.ids, secret: Some(secret), expires_at: minted.expires_at });
    }
    let Some(account) = account else { return Ok(()) };
    match ending::end(system, &account).await {
        Ok(Ending::RevokedVerified { .. } | Ending::ExpiresAt { .. }) => {}
        Ok(ending) => {
            let error = TargetError::new(TargetCode::Refused, Step::Verify, "", &format!("a probe's end is only `{}`", ending.word()));
            note(findings, error, "let the server trust the authority's certificate for clients")?;
        }
        Err(error) => {
            note(findings, error, "make the file (it may be empty) and let the broker write to it; let the servers read it (`ssl_crl_file`)")?
        }
    }
    if system.admin.is_some() && system.settings.list.is_some() {
        for (server, mut stream) in open.into_iter().filter(|(server, _)| matches!(server.protocol, Protocol::Postgresql { .. })) {
            let mut rest = Vec::new();
            if tokio::time::timeout(HANG_UP_MAX, stream.read_to_end(&mut rest)).await.is_err() {
                let error = TargetError::new(TargetCode::Refused, Step::Kill, server.node.name(), "an open session of a probe was not ended");
                note(findings, error, "grant pg_signal_backend and pg_read_all_stats to the broker's own role")?;
            }
        }
    }
    Ok(())
}
