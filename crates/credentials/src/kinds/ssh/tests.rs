//! What a certificate says, without a host: names, settings and the forced command.

use super::*;
use std::process::Command;

#[derive(Debug)]
struct At(i64);

impl Clock for At {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(self.0)
    }
}

fn host() -> Host {
    let key = Key::from_file(key::fresh().unwrap().expose()).unwrap();
    Host::new("one", "127.0.0.1", 22, &[key.public_line()]).unwrap()
}

fn login(user: &str, principal: &str) -> Login {
    Login { user: user.to_owned(), principal: principal.to_owned() }
}

fn settings() -> Settings {
    Settings {
        hosts: vec![host()],
        logins: BTreeMap::from([("write".to_owned(), login("deploy", "task-agent"))]),
        lease_max: Duration::from_secs(3600),
        source_addresses: Vec::new(),
        force_command: None,
        admin: Some(Admin { login: login("broker", "bailiwick-admin"), sudo: true, folder: "/var/lib/bailiwick".to_owned() }),
    }
}

fn system(settings: Settings) -> Result<Ssh, TargetError> {
    Ssh::new(settings, &key::fresh().unwrap(), Arc::new(At(1_000_000)))
}

fn plan(rights: &[&str], after: i64) -> Plan {
    let tag = Tag {
        task: "task_1'$(x)".into(),
        agent: "spiffe://example.org/agent/o'brien `x` \u{fc}\n".into(),
        expires_at: Timestamp::from_seconds(1_000_000 + after),
    };
    Plan { name: AccountName::new(&Prefix::default(), [7; 16]), tag, rights: rights.iter().map(|&right| right.to_owned()).collect() }
}

#[test]
fn a_setting_out_of_its_range_is_refused() {
    assert!(system(settings()).is_ok());
    let cases: [fn(&mut Settings); 12] = [
        |s| s.hosts.clear(),
        |s| s.hosts.push(s.hosts[0].clone()),
        |s| s.logins.clear(),
        |s| drop(s.logins.insert("x".into(), login("root; reboot", "x"))),
        |s| drop(s.logins.insert("x".into(), login("-oProxyCommand", "x"))),
        |s| drop(s.logins.insert("x".into(), login("x", ""))),
        |s| drop(s.logins.insert("x".into(), login("x", "bailiwick-admin"))),
        |s| s.lease_max = Duration::ZERO,
        |s| s.source_addresses = vec!["10.0.0.0/33".into()],
        |s| s.source_addresses = vec!["10.0.0.1,::/0".into()],
        |s| s.force_command = Some("a\nb".into()),
        |s| s.admin.as_mut().unwrap().folder = "/var/lib/$(reboot)".into(),
    ];
    for (number, change) in cases.into_iter().enumerate() {
        let mut settings = settings();
        change(&mut settings);
        assert_eq!(system(settings).unwrap_err().code(), TargetCode::Plan, "case {number}");
    }
    for folder in ["/", "var", "/a/../b", "/a/", "/a b", "/a//b", "/."] {
        assert!(!is_folder(folder), "{folder}");
    }
    assert!(Ssh::new(settings(), &Secret::from("no key".to_owned()), Arc::new(At(0))).is_err());
}

#[test]
fn a_certificate_has_one_configured_login_and_ends_within_the_longest_lease() {
    let system = system(settings()).unwrap();
    let secret = system.propose().unwrap().unwrap();
    assert!(system.mint_certificate(&plan(&["write"], 600), &secret).is_ok());
    for (rights, after) in [(&[][..], 600), (&["read"], 600), (&["write", "write"], 600), (&["write"], 3601), (&["write"], 0)] {
        assert_eq!(system.mint_certificate(&plan(rights, after), &secret).unwrap_err().code(), TargetCode::Plan, "{rights:?} {after}");
    }
}

#[test]
fn serials_are_never_zero_and_tell_leases_apart() {
    let name = |number: u8| AccountName::new(&Prefix::default(), [number; 16]);
    assert_ne!(serial(&name(1)), serial(&name(2)));
    assert_eq!(serial(&name(1)), serial(&name(1)));
    assert_ne!(serial(&name(0)), 0);
}

/// Runs what sshd would run, with a folder that stands for the host's.
fn force(command: &str, asked: &str) -> (i32, String) {
    let out = Command::new("/bin/sh").arg("-c").arg(command).env("SSH_ORIGINAL_COMMAND", asked).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn the_forced_command_marks_what_it_runs_and_runs_nothing_after_the_end() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().to_str().unwrap().to_owned();
    let mut settings = settings();
    settings.admin.as_mut().unwrap().folder = folder.clone();
    let forced = |settings: &Settings, after| {
        let system = Ssh::new(settings.clone(), &key::fresh().unwrap(), Arc::new(At(1_000_000))).unwrap();
        let plan = plan(&["write"], after);
        system.forced(&plan.name, &plan.tag)
    };
    let far = 9_000_000_000;
    let command = forced(&settings, far);
    assert_eq!(force(&command, "echo hello").0, 69, "a folder that is not there is no open door");
    std::fs::create_dir(scratch.path().join("ended")).unwrap();
    let (status, out) = force(&command, "echo \"$BAILIWICK_LEASE $BAILIWICK_TASK $BAILIWICK_AGENT\"; exit 3");
    assert_eq!(status, 3);
    let name = plan(&["write"], 1).name;
    assert_eq!(out, format!("{name} task_1___x_ spiffe://example.org/agent/o_brien__x____\n"));
    assert_eq!(force(&forced(&settings, 1), "echo hello").0, 69, "the lease is over");
    settings.force_command = Some("echo 'it is' \"$SSH_ORIGINAL_COMMAND\"".into());
    assert_eq!(force(&forced(&settings, far), "reboot"), (0, "it is reboot\n".to_owned()));
    std::fs::write(scratch.path().join("ended").join(name.as_str()), "").unwrap();
    assert_eq!(force(&command, "echo hello"), (69, String::new()));
}
