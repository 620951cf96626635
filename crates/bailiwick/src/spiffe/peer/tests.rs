//! Tests of attestation: with this process and its children as the peers.

use std::os::unix::net::{UnixListener, UnixStream as Std};
use std::path::Path;

use super::*;

fn config(local: &str) -> Config {
    let text = format!(
        "[people.ana]\nroles = [\"owner\"]\n[agents.scout]\nowner = \"ana\"\npurpose = \"x\"\nrisk = \"low\"\nreview_by = \"2099-12-31\"\n\
         [agents.other]\nowner = \"ana\"\npurpose = \"x\"\nrisk = \"low\"\nreview_by = \"2099-12-31\"\n{local}"
    );
    Config::parse("test", &text, Path::new("/")).unwrap()
}

/// A connection from this very process.
async fn me() -> (Peer, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Peer::of(&ours).unwrap(), theirs)
}

fn mine() -> (u32, u32, PathBuf, String) {
    let meta = std::fs::metadata("/proc/self").unwrap();
    let exe = std::env::current_exe().unwrap();
    let sha = Digest::of(&std::fs::read(&exe).unwrap()).to_string();
    (meta.uid(), meta.gid(), exe, sha)
}

fn who(peer: &Peer, local: &str) -> Result<String, Nobody> {
    attest(peer, &config(local), &Digests::default()).map(|a| a.agent.to_string())
}

#[tokio::test]
async fn a_process_is_the_agent_whose_rule_covers_its_user_and_program() {
    let (peer, _theirs) = me().await;
    let (uid, gid, exe, sha) = mine();
    let exe = exe.display();
    let scout = |more: &str| format!("[[agents.scout.local]]\n{more}\n");
    assert_eq!(who(&peer, &scout(&format!("uid = {uid}\nexecutable = \"{exe}\""))), Ok("scout".to_owned()));
    assert_eq!(who(&peer, &scout(&format!("uid = {uid}\ngid = {gid}\nexecutable_sha256 = \"{sha}\""))), Ok("scout".to_owned()));
    assert_eq!(who(&peer, &scout(&format!("gid = {gid}\nany_executable = true"))), Ok("scout".to_owned()));
    assert_eq!(who(&peer, ""), Err(Nobody::Unknown));
    assert_eq!(who(&peer, &scout(&format!("uid = {}\nany_executable = true", uid + 1))), Err(Nobody::Unknown));
    assert_eq!(who(&peer, &scout(&format!("uid = {uid}\ngid = {}\nany_executable = true", gid + 1))), Err(Nobody::Unknown));
    assert_eq!(who(&peer, &scout(&format!("uid = {uid}\nexecutable = \"/bin/sh\""))), Err(Nobody::Unknown));
    assert_eq!(who(&peer, &scout(&format!("uid = {uid}\nexecutable = \"{exe}\"\nexecutable_sha256 = \"{}\"", "0".repeat(64)))), Err(Nobody::Unknown));
}

#[tokio::test]
async fn a_process_that_is_two_agents_is_nobody() {
    let (peer, _theirs) = me().await;
    let (uid, _, exe, _) = mine();
    let local = format!(
        "[[agents.scout.local]]\nuid = {uid}\nexecutable = \"{}\"\n[[agents.other.local]]\nuid = {uid}\nany_executable = true\n",
        exe.display()
    );
    assert_eq!(who(&peer, &local), Err(Nobody::Two));
}

#[tokio::test]
async fn a_copy_of_the_program_has_its_digest_and_is_not_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("sleep");
    std::fs::copy("/bin/sleep", &copy).unwrap();
    let sha = Digest::of(&std::fs::read(&copy).unwrap());
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    // The child inherits the connection as its standard input and becomes the program: `sh` connects by nothing, so this process does it for it.
    let (uid, ..) = mine();
    let mut child = std::process::Command::new(&copy).arg("30").spawn().unwrap();
    let pid = child.id();
    let peer = Peer { uid, gid: 0, pid: Some(pid), handle: None, started: started(pid) };
    let rule = |more: &str| format!("[[agents.scout.local]]\nuid = {uid}\n{more}\n");
    // It becomes the program a moment after it was made.
    for _ in 0..100 {
        if std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == copy) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(who(&peer, &rule(&format!("executable_sha256 = \"{sha}\""))), Ok("scout".to_owned()));
    assert_eq!(who(&peer, &rule("executable = \"/bin/sleep\"")), Err(Nobody::Unknown));
    assert_eq!(who(&peer, &rule(&format!("executable = \"{}\"", copy.display()))), Ok("scout".to_owned()));
    // Another file is put in its place: the process still runs the old one.
    std::fs::remove_file(&copy).unwrap();
    std::fs::copy("/bin/true", &copy).unwrap();
    assert_eq!(who(&peer, &rule(&format!("executable = \"{}\"", copy.display()))), Err(Nobody::Unknown));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(who(&peer, &rule(&format!("executable_sha256 = \"{sha}\""))), Err(Nobody::Gone));
    drop((listener, Std::connect(&socket)));
}

#[tokio::test]
async fn a_process_that_took_over_the_number_of_another_is_not_taken_for_it() {
    let (uid, _, exe, _) = mine();
    let pid = std::process::id();
    let local = format!("[[agents.scout.local]]\nuid = {uid}\nexecutable = \"{}\"\n", exe.display());
    // As if the process that connected had started at another time than the one that has its number now.
    let before = Peer { uid, gid: 0, pid: Some(pid), handle: None, started: started(pid).map(|at| at - 1) };
    assert_eq!(who(&before, &local), Err(Nobody::Gone));
    // And as if its handle were on a process that is gone.
    let (mut peer, _theirs) = me().await;
    assert!(peer.is_there());
    let other = {
        let mut child = std::process::Command::new("/bin/sh").args(["-c", "exit 0"]).spawn().unwrap();
        let gone = child.id();
        child.wait().unwrap();
        gone
    };
    peer.pid = Some(other);
    assert!(!peer.is_there());
    assert_eq!(who(&peer, &local), Err(Nobody::Gone));
}

#[tokio::test]
async fn the_kernel_gives_a_handle_and_one_process_is_one_running_copy() {
    let (first, _a) = me().await;
    let (second, _b) = me().await;
    assert!(first.instance().is_some());
    assert_eq!(first.instance(), second.instance());
    assert!(words(&first, None).contains(&format!("process {}", std::process::id())));
    if let Some(handle) = &first.handle {
        assert_eq!(pid_of(handle), Some(std::process::id()));
    }
}
