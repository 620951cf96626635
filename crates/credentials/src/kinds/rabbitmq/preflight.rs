//! Whether the broker's own user can do all that an end needs: asked of the API, then done once with a probe on every node.

use std::time::Duration;

use serde_json::Value;

use super::amqp::Connection;
use super::api::encoded;
use super::{Rabbitmq, ending};
use crate::kinds::finding::Findings;
use crate::lease::{Account, AccountName, Ending, Finding, Plan, Step, Tag, TargetCode, TargetError, TargetIds};

const PROBE_LIFE: Duration = Duration::from_secs(120);
const CLOSE_MAX: Duration = Duration::from_secs(20);

/// What is missing; nothing, if a probe lived and died as it must.
pub(super) async fn preflight(system: &Rabbitmq, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Findings::default();
    let user = &system.settings.user;
    let us = system.api.find(Step::Verify, "/whoami").await?.unwrap_or_default();
    let tags = us.get("tags").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if !tags.iter().any(|tag| tag.as_str() == Some("administrator")) {
        let missing = "the tag `administrator`: no user can be made, removed or disconnected";
        findings.find("", missing, format!("rabbitmqctl set_user_tags {user} administrator"));
        return Ok(findings.into_list());
    }
    for right in system.settings.rights.values() {
        let vhost = &right.vhost;
        if system.api.find(Step::Verify, &format!("/vhosts/{}", encoded(vhost))).await?.is_none() {
            findings.find("", format!("the virtual host `{vhost}` is not there"), format!("rabbitmqctl add_vhost {vhost}"));
        }
    }
    let members = system.api.find(Step::Verify, "/nodes?columns=name").await?.and_then(|nodes| nodes.as_array().map(Vec::len)).unwrap_or(0);
    if members > system.settings.nodes.len() {
        let missing = format!("the cluster has {members} nodes, and {} are configured", system.settings.nodes.len());
        findings.find("", missing, "name every node in the configuration");
    }
    // What is missing would make the probe fail at the same place, and leave it there.
    if findings.is_empty() {
        try_probe(system, probe, &mut findings).await?;
    }
    Ok(findings.into_list())
}

/// A whole life: made, logged in on every node, removed, refused.
async fn try_probe(system: &Rabbitmq, probe: &AccountName, findings: &mut Findings) -> Result<(), TargetError> {
    let secret = crate::kinds::random_password()?;
    let tag = Tag { task: "preflight".to_owned(), agent: "bailiwick".to_owned(), expires_at: system.clock.now().plus(PROBE_LIFE) };
    // One right is enough to open a virtual host with.
    let right = system.settings.rights.iter().next();
    let plan = Plan { name: probe.clone(), tag, rights: right.iter().map(|(name, _)| (*name).clone()).collect() };
    let minted = system.mint_user(&plan, &secret).await;
    let mut open = Vec::new();
    if minted.is_ok() {
        for node in &system.settings.nodes {
            let logged_in = async {
                let mut connection = Connection::log_in(node, probe.as_str(), &secret).await?;
                if let Some((_, right)) = right {
                    connection.open(&right.vhost).await?;
                }
                Ok(connection)
            };
            match logged_in.await {
                Ok(connection) => open.push((node, connection)),
                Err(failure) => findings.note(ending::target(&failure, node.name()), "let users of the internal database log in with PLAIN")?,
            }
        }
    }
    let ids = minted.as_ref().map_or_else(|_| TargetIds::default(), |minted| minted.ids.clone());
    let account = Account { name: probe.clone(), ids, secret: Some(secret), expires_at: None };
    // The server waits seconds for a client that does not answer a close, so the probe's connections are looked after meanwhile.
    let closing = async {
        let mut left = Vec::new();
        for (node, mut connection) in open {
            // Without a virtual host, a connection is none that the server counts, and it closes none.
            if right.is_some() && connection.closed(CLOSE_MAX).await.is_none() {
                left.push(node.name());
            }
        }
        left
    };
    let (ending, left) = tokio::join!(ending::end(system, &account), closing);
    if let Err(error) = minted {
        findings.note(error, "let the server do what it refuses")?;
    }
    for node in left {
        findings.find(node, "an open connection of a probe was not ended", "upgrade the server");
    }
    match ending {
        Ok(Ending::RevokedVerified { .. }) => Ok(()),
        Ok(Ending::RevokedUnverified { why, .. }) => {
            findings.find("", format!("an end could not be verified: {why}"), "let the broker's own user log in with PLAIN on every node");
            Ok(())
        }
        Ok(_) => Err(TargetError::new(TargetCode::Internal, Step::Verify, "", "an ending that is none of this kind")),
        Err(error) => findings.note(error, "let the server do what it refuses"),
    }
}
