//! Whether the broker's own role can do all that an end needs: asked of the catalogue, then done once with a probe.

use bailiwick_core::Timestamp;
use tokio_postgres::error::SqlState;

use super::session::Door;
use super::sql::{cell, identifier, literal};
use super::{Postgresql, ending, within};
use crate::lease::{Account, AccountName, Ending, Finding, Plan, Step, Tag, TargetCode, TargetError, TargetIds};
use std::time::Duration;

const VERSION_MIN: u32 = 140_000;
const GROUPS_BY_ADMIN: u32 = 160_000;
const PROBE_LIFE: Duration = Duration::from_secs(120);

/// What is missing; nothing, if a probe lived and died as it must.
pub(super) async fn preflight(system: &Postgresql, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Vec::new();
    for door in &system.doors {
        catalogue(system, door, &mut findings).await?;
    }
    // What the catalogue misses would make the probe fail at the same place, and leave it there.
    if findings.is_empty() {
        try_probe(system, probe, &mut findings).await?;
    }
    Ok(findings)
}

fn find(findings: &mut Vec<Finding>, node: &str, missing: impl Into<String>, remedy: impl Into<String>) {
    findings.push(Finding { node: node.to_owned(), missing: missing.into(), remedy: remedy.into() });
}

async fn catalogue(system: &Postgresql, door: &Door, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    let session = door.take(Step::Verify).await?;
    let us = identifier(&system.settings.user);
    let rows = session
        .run(
            Step::Verify,
            "SELECT current_setting('server_version_num'), r.rolcreaterole, r.rolsuper, pg_has_role('pg_signal_backend', 'USAGE') \
             FROM pg_roles r WHERE r.rolname = current_user",
        )
        .await?;
    let version: u32 = cell(&rows, 0, 0).and_then(|version| version.parse().ok()).unwrap_or(0);
    let is = |column| cell(&rows, 0, column) == Some("t");
    let superuser = is(2);
    if version < VERSION_MIN {
        find(findings, door.name(), "PostgreSQL 14 or newer", "upgrade the server");
        return Ok(());
    }
    if !is(1) && !superuser {
        find(findings, door.name(), "CREATEROLE: no account can be made or dropped", format!("ALTER ROLE {us} CREATEROLE;"));
    }
    if !is(3) {
        let missing = "pg_signal_backend: open sessions of an account could not be ended";
        find(findings, door.name(), missing, format!("GRANT pg_signal_backend TO {us};"));
    }
    for group in &system.settings.groups {
        let rows = session
            .run(
                Step::Verify,
                &format!(
                    "SELECT rolsuper OR rolcreaterole OR rolreplication OR rolbypassrls, pg_has_role(oid, 'USAGE WITH ADMIN OPTION') \
                     FROM pg_roles WHERE rolname = {}",
                    literal(group)
                ),
            )
            .await?;
        let name = identifier(group);
        match (cell(&rows, 0, 0), cell(&rows, 0, 1)) {
            (None, _) => find(findings, door.name(), format!("the group {name} is not there"), format!("CREATE ROLE {name} NOLOGIN;")),
            (Some("t"), _) => {
                let missing = format!("the group {name} makes its members more than readers and writers of data");
                find(findings, door.name(), missing, format!("ALTER ROLE {name} NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS;"));
            }
            // Up to version 15, CREATEROLE may give any group.
            (_, Some("t")) if version >= GROUPS_BY_ADMIN || superuser => {}
            (_, Some("f")) if version >= GROUPS_BY_ADMIN && !superuser => {
                find(findings, door.name(), format!("the group {name} cannot be given"), format!("GRANT {name} TO {us} WITH ADMIN OPTION;"));
            }
            _ => {}
        }
    }
    databases(system, door, &session, findings).await?;
    door.put_back(session);
    Ok(())
}

/// Where an account can leave something, we must be able to remove it.
async fn databases(system: &Postgresql, door: &Door, session: &super::session::Session, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    let groups: Vec<_> = system.settings.groups.iter().map(|group| literal(group)).collect();
    let reachable = format!(
        "SELECT datname FROM pg_database d WHERE datallowconn AND NOT has_database_privilege(d.oid, 'CONNECT') \
         AND EXISTS (SELECT 1 FROM pg_roles r WHERE r.rolname = ANY (ARRAY[{}]::name[]) AND has_database_privilege(r.oid, d.oid, 'CONNECT'))",
        groups.join(", ")
    );
    for database in session.run(Step::Verify, &reachable).await?.into_iter().flatten().flatten() {
        let name = identifier(&database);
        let missing = format!("CONNECT on {name}: an account could leave objects there, and they could not be removed");
        find(findings, door.name(), missing, format!("GRANT CONNECT ON DATABASE {name} TO {};", identifier(&system.settings.user)));
    }
    Ok(())
}

/// A whole life: made, logged in on every node, ended, refused.
async fn try_probe(system: &Postgresql, probe: &AccountName, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    let secret = super::super::random_password()?;
    let expires_at = system.clock.now().plus(PROBE_LIFE);
    let tag = Tag { task: "preflight".to_owned(), agent: "bailiwick".to_owned(), expires_at };
    let plan = Plan { name: probe.clone(), tag, rights: system.settings.groups.clone() };
    let mut account = Account { name: probe.clone(), ids: TargetIds::default(), secret: None, expires_at: None::<Timestamp> };
    let result = async {
        account.ids = system.mint_role(&plan, &secret).await?.ids;
        let mut open = Vec::new();
        for door in &system.doors {
            match log_in(door, probe, &secret).await {
                Ok(session) => open.push((door, session)),
                Err(words) => find(
                    findings,
                    door.name(),
                    format!("an account cannot log in: {words}"),
                    format!("add to pg_hba.conf: hostssl {} all <address of the broker> scram-sha-256", identifier(door.database())),
                ),
            }
        }
        Ok::<_, TargetError>(open)
    }
    .await;
    account.secret = Some(secret);
    let ending = within(Step::Remove, ending::end(system, &account)).await;
    let open = match result {
        Ok(open) => open,
        Err(error) if error.code() == TargetCode::Privilege => {
            find(findings, error.node(), error.to_string(), "grant what the server names");
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    for (door, session) in open {
        if session.ask("SELECT 1").await.is_ok() {
            find(findings, door.name(), "an open session of a probe was not ended", "GRANT pg_signal_backend TO the broker's role");
        }
    }
    match ending {
        Ok(Ending::RevokedVerified { .. }) => Ok(()),
        Ok(Ending::RevokedUnverified { why, .. }) => {
            find(findings, "", format!("an end could not be verified: {why}"), "let the broker log in to every node with a password");
            Ok(())
        }
        Ok(_) => Err(TargetError::new(TargetCode::Internal, Step::Verify, "", "an ending that is none of this kind")),
        Err(error) if error.code() == TargetCode::Privilege => {
            find(findings, error.node(), error.to_string(), "grant what the server names");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Logs in; on a standby that has not replayed the mint yet, a few times.
async fn log_in(door: &Door, probe: &AccountName, secret: &crate::Secret) -> Result<super::session::Session, String> {
    let mut asks = 0;
    loop {
        match door.log_in(probe, secret).await {
            Ok(session) => return Ok(session),
            Err(failure) if failure.is(&SqlState::INVALID_PASSWORD) && asks < 60 => asks += 1,
            Err(failure) => return Err(failure.words()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
