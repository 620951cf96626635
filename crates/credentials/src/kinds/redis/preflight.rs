//! Whether the broker's own user can do all that an end needs: each command is asked for, then a probe lives and dies on every node.

use std::time::Duration;

use futures_util::future::join_all;

use super::{COMMANDS, Redis, Session, ending};
use crate::kinds::connection::Failure;
use crate::kinds::finding::Findings;
use crate::lease::{Account, AccountName, Ending, Finding, Node, Plan, Step, Tag, TargetCode, TargetError, TargetIds};

const VERSION_MIN: u32 = 7;
const PROBE_LIFE: Duration = Duration::from_secs(120);

/// What is missing; nothing, if a probe lived and died as it must.
pub(super) async fn preflight(system: &Redis, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Findings::default();
    let mut known: usize = 0;
    for looked in join_all(system.settings.nodes.iter().map(|node| look(system, node))).await {
        let (found, nodes) = looked?;
        findings.extend(found);
        known = known.saturating_add(nodes);
    }
    if known > system.settings.nodes.len() {
        let missing = format!("the nodes know of {known} nodes, and {} are configured: users do not replicate", system.settings.nodes.len());
        findings.find("", missing, "name every replica in the configuration");
    }
    // What is missing would make the probe fail at the same place, and leave it there.
    if findings.is_empty() {
        try_probe(system, probe, &mut findings).await?;
    }
    Ok(findings.into_list())
}

/// What is missing on one node, and of how many nodes it knows: its replicas, and itself if it is their primary.
async fn look(system: &Redis, node: &Node) -> Result<(Findings, usize), TargetError> {
    let mut findings = Findings::default();
    let mut session = system.at(node, super::OURS).await?;
    commands(system, node.name(), &mut session, &mut findings).await?;
    if !findings.is_empty() {
        return Ok((findings, 0));
    }
    let info = session.info(Step::Verify, &["server", "replication"]).await?;
    let version = info.find("redis_version").unwrap_or_default();
    if version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_none_or(|major| major < VERSION_MIN) {
        findings.find(node.name(), "Redis 7.0 or newer", "upgrade the server");
    }
    let replicas: usize = info.find("connected_slaves").and_then(|count| count.parse().ok()).unwrap_or(0);
    Ok((findings, replicas.saturating_add(usize::from(info.find("role") == Some("master")))))
}

/// Which commands are refused to us. They are asked for without being done.
async fn commands(system: &Redis, node: &str, session: &mut Session, findings: &mut Findings) -> Result<(), TargetError> {
    let user = &system.settings.user;
    for command in COMMANDS {
        let arguments = match command {
            "acl|setuser" | "acl|deluser" | "acl|getuser" => vec!["x"],
            "acl|dryrun" => vec!["x", "info"],
            "client|kill" => vec!["ID", "1"],
            _ => Vec::new(),
        };
        let words: Vec<_> = ["ACL", "DRYRUN", user].into_iter().chain(command.split('|')).chain(arguments).collect();
        match session.ask(&words).await {
            Ok(reply) if reply.text().as_deref() == Some("OK") => {}
            Ok(_) => findings.find(node, format!("the command `{command}` for the broker's user"), format!("ACL SETUSER {user} +{command}")),
            Err(Failure::Said(words)) if words.starts_with("NOPERM") => {
                // Without it the others cannot be asked for, so all are named: giving what is there already does no harm.
                let remedy = format!("ACL SETUSER {user} +{}", COMMANDS.join(" +"));
                findings.find(node, "the command `acl|dryrun` for the broker's user", remedy);
                return Ok(());
            }
            Err(Failure::Said(words)) if words.starts_with("ERR") => findings.find(node, "Redis 7.0 or newer", words),
            Err(failure) => return Err(super::target(&failure, Step::Verify, node)),
        }
    }
    Ok(())
}

/// A whole life: made, logged in on every node, ended, refused.
async fn try_probe(system: &Redis, probe: &AccountName, findings: &mut Findings) -> Result<(), TargetError> {
    let secret = crate::kinds::random_password()?;
    let tag = Tag { task: "preflight".to_owned(), agent: "bailiwick".to_owned(), expires_at: system.clock.now().plus(PROBE_LIFE) };
    let plan = Plan { name: probe.clone(), tag, rights: system.settings.rights.keys().cloned().collect() };
    let minted = system.mint_user(&plan, &secret).await;
    let mut open = Vec::new();
    if minted.is_ok() {
        for node in &system.settings.nodes {
            match Session::open(node, probe.as_str(), &secret, super::OURS).await {
                Ok(session) => open.push((node, session)),
                Err(failure) => {
                    findings.find(node.name(), format!("an account cannot log in: {}", failure.words()), "let it log in there");
                }
            }
        }
    }
    let ids = minted.as_ref().map_or_else(|_| TargetIds::default(), |minted| minted.ids.clone());
    let account = Account { name: probe.clone(), ids, secret: Some(secret), expires_at: None };
    let ending = ending::end(system, &account).await;
    if let Err(error) = minted {
        findings.note(error, "change the rights in the configuration, or what the server says")?;
    }
    for (node, mut session) in open {
        if !matches!(session.ask(&["PING"]).await, Err(Failure::Lost(_))) {
            findings.find(node.name(), "an open connection of a probe was not ended", "upgrade the server");
        }
    }
    match ending {
        Ok(Ending::RevokedVerified { .. }) => Ok(()),
        Ok(Ending::RevokedUnverified { why, .. }) => {
            findings.find(
                "",
                format!("an end could not be verified: {why}"),
                "let the server write that file and its folder, or keep users in an ACL file (`aclfile`)",
            );
            Ok(())
        }
        Ok(_) => Err(TargetError::new(TargetCode::Internal, Step::Verify, "", "an ending that is none of this kind")),
        Err(error) => findings.note(error, "let the server do what it refuses"),
    }
}
