//! The same run, looked at by programs that are not ours: events by a JSON Schema validator against the published OCSF schema, and
//! OTLP by the classes that are generated from OpenTelemetry's own definitions.

use std::process::Command;

use bailiwick_testkit::clients::tools;

use super::{place_with, size, story};
use crate::support::until;

const JUDGE: &str = include_str!("judge.py");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn strangers_find_events_and_spans_well_formed_and_say_so_of_no_broken_one() {
    let export = |name: &str, format: &str| format!("\n[[export]]\nname = \"{name}\"\nformat = \"{format}\"\nfile = \"{{dir}}/{name}.jsonl\"\n");
    let (place, dir) = place_with(&format!("{}{}", export("events", "ocsf"), export("otel", "otlp"))).await;
    let broker = place.open().await;
    story(&place, &broker).await;
    let now = size(&broker).await;
    until("everything is in the files", || broker.house.exports.all().iter().all(|p| p.status(now, broker.house.clock.now()).next >= now)).await;
    broker.stop().await;
    let judge = dir.path().join("judge.py");
    std::fs::write(&judge, JUDGE).unwrap();
    let done = Command::new(tools().join("export/bin/python")).arg(&judge).arg(dir.path()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}");
    assert!(said.contains("events fit") && said.contains("spans and") && said.contains("broken ones do not"), "{said}");
}
