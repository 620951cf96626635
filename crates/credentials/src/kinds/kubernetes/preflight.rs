//! Whether the broker's own service account may do all that an end needs: asked for each verb, then done once with a probe.

use std::collections::BTreeSet;
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Kubernetes, OURS, ending};
use crate::lease::{Account, AccountName, Ending, Finding, Plan, Step, Tag, TargetCode, TargetError, TargetIds};

const PROBE_LIFE: Duration = Duration::from_secs(600);

/// One thing that the broker must be allowed to do.
struct Need<'a> {
    verb: &'a str,
    group: &'a str,
    resource: &'a str,
    subresource: &'a str,
    name: &'a str,
    namespaced: bool,
}

#[derive(Deserialize)]
struct Answer {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    allowed: bool,
}

/// What is missing; nothing, if a probe lived and died as it must.
pub(super) async fn preflight(system: &Kubernetes, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Vec::new();
    let secret = |verb| Need { verb, group: "", resource: "secrets", subresource: "", name: "", namespaced: true };
    let mut needs: Vec<Need<'_>> = ["create", "get", "list", "delete"].map(secret).into();
    needs.push(Need { verb: "create", group: "authentication.k8s.io", resource: "tokenreviews", subresource: "", name: "", namespaced: false });
    for account in system.settings.rights.values().collect::<BTreeSet<_>>() {
        needs.push(Need { verb: "create", group: "", resource: "serviceaccounts", subresource: "token", name: account, namespaced: true });
    }
    for need in &needs {
        if !is_allowed(system, need).await? {
            let (what, remedy) = need.words(&system.settings.namespace);
            findings.push(Finding { node: system.api.node().to_owned(), missing: format!("the right to {what}"), remedy });
        }
    }
    // What is missing would make the probe fail at the same place, and leave it there.
    if findings.is_empty() {
        try_probe(system, probe, &mut findings).await?;
    }
    Ok(findings)
}

impl Need<'_> {
    /// What it is, and the command that grants it.
    fn words(&self, namespace: &str) -> (String, String) {
        let Self { verb, resource, name, .. } = self;
        if !self.namespaced {
            let grant = "kubectl create clusterrolebinding bailiwick-reviews --clusterrole=system:auth-delegator --serviceaccount=NAMESPACE:BROKER";
            return (format!("{verb} {resource}"), grant.to_owned());
        }
        let (resource, only) = if self.subresource.is_empty() {
            ((*resource).to_owned(), String::new())
        } else {
            (format!("{resource}/{}", self.subresource), format!(" --resource-name={name}"))
        };
        let role = format!("bailiwick-{verb}-{}", resource.replace('/', "-")) + if name.is_empty() { "" } else { "-" } + name;
        let grant = format!(
            "kubectl -n {namespace} create role {role} --verb={verb} --resource={resource}{only} && \
             kubectl -n {namespace} create rolebinding {role} --role={role} --serviceaccount=NAMESPACE:BROKER"
        );
        (format!("{verb} {resource}{}{name} in the namespace `{namespace}`", if name.is_empty() { "" } else { " of " }), grant)
    }
}

async fn is_allowed(system: &Kubernetes, need: &Need<'_>) -> Result<bool, TargetError> {
    let mut attributes = json!({ "verb": need.verb, "group": need.group, "resource": need.resource });
    if let Some(attributes) = attributes.as_object_mut() {
        let namespace = if need.namespaced { system.settings.namespace.as_str() } else { "" };
        for (field, value) in [("subresource", need.subresource), ("name", need.name), ("namespace", namespace)] {
            if !value.is_empty() {
                attributes.insert(field.to_owned(), value.into());
            }
        }
    }
    let body = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": { "resourceAttributes": attributes } });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let reply = system.api.ask(Step::Verify, Method::POST, path, Some(&body), OURS).await?;
    if reply.status != 201 {
        return Err(system.api.refusal(Step::Verify, &reply));
    }
    let answer: Answer =
        reply.json().ok_or_else(|| TargetError::new(TargetCode::Protocol, Step::Verify, system.api.node(), "the answer is no review"))?;
    Ok(answer.status.allowed)
}

/// A whole life of a token of the first right.
async fn try_probe(system: &Kubernetes, probe: &AccountName, findings: &mut Vec<Finding>) -> Result<(), TargetError> {
    let tag = Tag { task: "preflight".to_owned(), agent: OURS.to_owned(), expires_at: system.clock.now().plus(PROBE_LIFE) };
    let rights = system.settings.rights.keys().take(1).cloned().collect();
    let minted = system.mint_token(&Plan { name: probe.clone(), tag, rights }).await;
    let (ids, secret, expires_at, failed) = match minted {
        Ok(minted) => (minted.ids, minted.secret, minted.expires_at, None),
        Err(error) => (TargetIds::default(), None, None, Some(error)),
    };
    let ending = ending::end(system, &Account { name: probe.clone(), ids, secret, expires_at }).await;
    if let Some(error) = failed {
        return note(system, findings, error);
    }
    match ending {
        Ok(Ending::RevokedUnverified { why, .. }) => {
            let remedy = "let the API server review tokens of these audiences (--api-audiences)".to_owned();
            findings.push(Finding { node: system.api.node().to_owned(), missing: format!("an end could not be verified: {why}"), remedy });
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) => note(system, findings, error),
    }
}

/// What lasts until a person changes something is a finding; the rest is an error.
fn note(system: &Kubernetes, findings: &mut Vec<Finding>, error: TargetError) -> Result<(), TargetError> {
    if error.is_transient() || error.code() == TargetCode::Internal {
        return Err(error);
    }
    let remedy = format!("make the service accounts in the namespace `{}`, or let the server do what it refuses", system.settings.namespace);
    findings.push(Finding { node: system.api.node().to_owned(), missing: error.to_string(), remedy });
    Ok(())
}
