//! Whether the broker's own account can do all that an end needs: asked of the server, then done once with a probe.

use super::session::{Door, Session};
use super::sql::{NO_PROCEDURE, PROCEDURE_DENIED, name_literal, quoted_role};
use super::{Mariadb, SETUP, ending};
use crate::lease::{Account, AccountName, Ending, Finding, Plan, Step, Tag, TargetCode, TargetError, TargetIds};
use std::time::Duration;

const PROBE_LIFE: Duration = Duration::from_secs(120);

/// What is missing; nothing, if a probe lived and died as it must.
pub(super) async fn preflight(system: &Mariadb, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Vec::new();
    let mut us = None;
    for door in &system.doors {
        // A session keeps the rights that it began with, and somebody may just have granted one.
        door.forget_idle();
        let mut session = door.take_new(Step::Verify).await?;
        us = Some(look(system, door, &mut session, &mut findings).await?);
        door.put_back(session);
    }
    // What is missing would make the probe fail at the same place, and leave it there.
    if findings.is_empty() {
        try_probe(system, probe, &us.unwrap_or_default(), &mut findings).await?;
    }
    Ok(findings)
}

fn find(findings: &mut Vec<Finding>, node: &str, missing: impl Into<String>, remedy: impl Into<String>) {
    findings.push(Finding { node: node.to_owned(), missing: missing.into(), remedy: remedy.into() });
}

/// Gives our own account as a statement names it.
async fn look(system: &Mariadb, door: &Door, session: &mut Session, findings: &mut Vec<Finding>) -> Result<String, TargetError> {
    let version = session.column(Step::Verify, "SELECT VERSION()").await?.into_iter().next().unwrap_or_default();
    let number: Vec<u32> = version.split(['.', '-']).map_while(|part| part.parse().ok()).take(2).collect();
    if !version.contains("MariaDB") || number < vec![10, 5] {
        find(findings, door.name(), format!("MariaDB 10.5 or newer; this is `{version}`"), "use such a server");
        return Ok(String::new());
    }
    let ours = session.column(Step::Verify, "SELECT CURRENT_USER()").await?.into_iter().next().unwrap_or_default();
    let (user, host) = ours.rsplit_once('@').unwrap_or((&ours, "%"));
    let us = format!("{}@{}", quoted_role(user), quoted_role(host));
    let rights = [
        ("CREATE USER", "no account can be made or dropped"),
        ("CONNECTION ADMIN", "open sessions of an account could not be ended"),
        ("PROCESS", "open sessions of an account would not even be seen"),
    ];
    let held = session.column(Step::Verify, "SELECT privilege_type FROM information_schema.user_privileges").await?;
    for (right, without) in rights {
        if !held.iter().any(|held| held == right || held == "SUPER" && right == "CONNECTION ADMIN") {
            find(findings, door.name(), format!("{right}: {without}"), format!("GRANT {right} ON *.* TO {us};"));
        }
    }
    if session.ask("SELECT COUNT(*) FROM mysql.user WHERE User = ''").await.is_err() {
        let missing = "SELECT on two columns of mysql.user: accounts that were lost could not be found";
        find(findings, door.name(), missing, format!("GRANT SELECT (User, Host) ON mysql.user TO {us};"));
    }
    for role in &system.settings.roles {
        let sql = format!("SELECT is_grantable FROM information_schema.applicable_roles WHERE role_name = {}", name_literal(role));
        let grantable = session.column(Step::Verify, &sql).await?;
        if !grantable.iter().any(|grantable| grantable == "YES") {
            let role = quoted_role(role);
            find(findings, door.name(), format!("the role {role} cannot be given"), format!("GRANT {role} TO {us} WITH ADMIN OPTION;"));
        }
    }
    Ok(us)
}

/// A whole life: made, logged in on every node, ended, refused.
async fn try_probe(system: &Mariadb, probe: &AccountName, us: &str, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    let secret = super::super::random_password()?;
    let tag = Tag { task: "preflight".to_owned(), agent: "bailiwick".to_owned(), expires_at: system.clock.now().plus(PROBE_LIFE) };
    let plan = Plan { name: probe.clone(), tag, rights: system.settings.roles.iter().take(1).cloned().collect() };
    let minted = system.mint_account(&plan, &secret).await;
    let mut open = Vec::new();
    if minted.is_ok() {
        for door in &system.doors {
            match log_in(door, probe, &secret).await {
                Ok(session) => open.push((door, session)),
                Err(words) => find(findings, door.name(), format!("an account cannot log in: {words}"), "let the broker's host in"),
            }
        }
    }
    let account = Account { name: probe.clone(), ids: TargetIds::default(), secret: Some(secret), expires_at: None };
    let ending = super::within(Step::Remove, ending::end(system, &account)).await;
    match minted {
        Ok(_) => {}
        Err(error) if lacks_procedure(&error) => {
            let missing = "the procedure bailiwick.default_role: an account would have no rights";
            let remedy = format!("DELIMITER //\n{SETUP}//\nDELIMITER ;\nGRANT EXECUTE ON PROCEDURE bailiwick.default_role TO {us};");
            find(findings, error.node(), missing, remedy);
        }
        Err(error) if error.code() == TargetCode::Privilege => find(findings, error.node(), error.to_string(), "grant what the server names"),
        Err(error) => return Err(error),
    }
    for (door, mut session) in open {
        if session.ask("SELECT 1").await.is_ok() {
            find(findings, door.name(), "an open session of a probe was not ended", format!("GRANT CONNECTION ADMIN, PROCESS ON *.* TO {us};"));
        }
    }
    match ending {
        Ok(Ending::RevokedVerified { .. }) => Ok(()),
        Ok(ending) => {
            find(findings, "", format!("an end could not be verified: {ending:?}"), "let the broker log in to every node with a password");
            Ok(())
        }
        Err(error) if error.code() == TargetCode::Privilege => {
            find(findings, error.node(), error.to_string(), "grant what the server names");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn lacks_procedure(error: &TargetError) -> bool {
    let said = |number: u16| error.to_string().contains(&format!(": {number}: "));
    error.code() == TargetCode::Privilege && (said(NO_PROCEDURE) || said(PROCEDURE_DENIED))
}

/// Logs in; on a replica that has not followed yet, a few times.
async fn log_in(door: &Door, probe: &AccountName, secret: &crate::Secret) -> Result<Session, String> {
    let mut asks = 0;
    loop {
        match door.try_login(probe, secret).await {
            Ok(session) => return Ok(session),
            Err(failure) if failure.is(super::sql::ACCESS_DENIED) && asks < 60 => asks += 1,
            Err(failure) => return Err(failure.words()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
