//! Every configuration that the guide shows is taken by `bailiwick check`, as it stands there.

use std::process::Command;

#[test]
fn every_snippet_of_the_guide_is_a_configuration() {
    let guide = include_str!("../../../../../docs/guides/siem.md");
    let snippets: Vec<&str> = guide.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(snippets.len() >= 6, "{}", snippets.len());
    let dir = tempfile::tempdir().unwrap();
    // A certificate that a snippet may name.
    std::fs::write(dir.path().join("siem-ca.pem"), include_str!("../../../src/upstream/tests/tls/root.pem")).unwrap();
    let mut whole = String::new();
    for snippet in snippets.iter().copied() {
        check(dir.path(), snippet);
        whole.push_str(snippet);
    }
    check(dir.path(), &whole);
    // And the check can fail.
    assert!(!run(dir.path(), &whole.replacen("format = \"ocsf\"", "format = \"cef\"", 1)).0);
}

fn check(dir: &std::path::Path, text: &str) {
    let (good, said) = run(dir, text);
    assert!(good, "{text}\n{said}");
}

fn run(dir: &std::path::Path, text: &str) -> (bool, String) {
    let file = dir.join("bailiwick.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bailiwick"));
    let done = command.arg("--data-dir").arg(dir).arg("--config").arg(&file).arg("check").output().unwrap();
    (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
}
