//! SSH: the life of a certificate that no host is told of, the sessions that outlive one elsewhere, and each trap of the list of revoked keys.

use std::fs;

use bailiwick_credentials::kinds::ssh::{Host, Login};
use bailiwick_credentials::lease::{Account, Kind as _, TargetCode, TargetIds, sweep};
use bailiwick_testkit::servers::sshd::{Sshd, keygen};
use bailiwick_testkit::servers::unprivileged::run;

use crate::ssh_world::{DENIED, LIMITS, World, mint, own_plan, own_prefix, plain, wait_for};
use crate::words::{assert_verified, count, fresh_name, plan, soon};

const REFUSED: &str = "permission denied (publickey)";

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_works_and_is_dead_afterwards_with_its_open_shells() {
    let world = World::start();
    let broker = world.broker();
    assert_eq!(broker.preflight(&fresh_name()).await.unwrap(), []);
    let plan = own_plan('a', "write");
    let account = mint(&broker, &plan).await;
    let session = world.session(&account);
    assert_eq!(session.run("one", &words("echo hello"), LIMITS).await.unwrap().stdout, b"hello\n");

    // A command that says what a host says of a lease that has ended is a command that ran.
    let forged = ["sh", "-c", "echo 'bailiwick: this lease has ended' >&2; exit 69"].map(str::to_owned);
    let ran = session.run("one", &forged, LIMITS).await.unwrap();
    assert_eq!((ran.status, ran.stderr.as_slice()), (Some(69), &b"bailiwick: this lease has ended\n"[..]));
    assert_eq!(session.run("one", &words("echo hello"), LIMITS).await.unwrap().stdout, b"hello\n");

    // Somebody has the key and its certificate: a shell that runs, one that left a child behind, and a connection on which nothing runs.
    let thief = world.thief(&account);
    let mut shell = thief.begin("sleep 600");
    let idle = thief.idle();
    let left = world.server.home().join("left");
    fs::write(&left, "").unwrap();
    fs::set_permissions(&left, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(thief.run(&format!("setsid sleep 601 >/dev/null 2>&1 & echo $! > {}", left.display())).0, 0);
    let child = fs::read_to_string(&left).unwrap().trim().to_owned();
    let runs = |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    assert!(runs(&child) && shell.is_open());
    assert_eq!(broker.list(&own_prefix('a')).await.unwrap().iter().map(|found| &found.name).collect::<Vec<_>>(), [&plan.name]);

    let ending = world.broker().end(&account).await.unwrap();
    assert_verified(&ending, &["one"], REFUSED);
    shell.wait_for_its_end();
    assert!(!runs(&child), "what a shell left behind goes on");
    let (status, said) = thief.run("echo still here");
    assert!(status == 69 && said.contains("this lease has ended") || status == 255, "an open connection goes on: {status} {said}");
    drop(idle);
    let session_error = session.run("one", &words("echo still here"), LIMITS).await.unwrap_err();
    assert!(session_error.gone(), "{session_error}");
    let (status, said) = world.thief(&account).run("true");
    assert!(status == 255 && said.contains(DENIED), "{said}");
    assert_eq!(broker.list(&own_prefix('a')).await.unwrap(), []);
    assert_verified(&world.broker().end(&account).await.unwrap(), &["one"], REFUSED);

    let tag = format!("task={};lease={}", plan.tag.task, plan.name);
    assert!(world.server.log().contains(&tag), "the host's log does not have the chain");
    let key = plain(&account);
    for line in key.lines().filter(|line| !line.starts_with("-----") && !line.starts_with("ssh-")) {
        for text in [format!("{ending:?} {broker:?} {account:?} {session:?}"), world.server.log()] {
            assert!(!text.contains(line));
        }
    }
}

#[tokio::test]
async fn a_certificate_says_what_openssh_reads_and_grants_nothing_else() {
    let world = World::start();
    let mut settings = world.settings();
    settings.source_addresses = vec!["127.0.0.0/8".into()];
    let broker = world.broker_with(settings);
    let plan = plan(&["write"]);
    let account = mint(&broker, &plan).await;
    let thief = world.thief(&account);
    let shown = run(keygen().unwrap().arg("-L").arg("-f").arg(thief.certificate())).unwrap();
    for line in [
        "user certificate".to_owned(),
        format!("Key ID: \"spiffe://example.org/agent/o'brien??;task={};lease={}\"", plan.tag.task, plan.name),
        format!("Serial: {}", account.ids.find("serial").unwrap()),
        "task-agent".to_owned(),
        "source-address 127.0.0.0/8".to_owned(),
        "Extensions: (none)".to_owned(),
        "force-command exec /bin/sh -c ".to_owned(),
    ] {
        assert!(shown.contains(&line), "{line}: {shown}");
    }
    // It is valid for less than its life and a minute.
    assert!(!shown.contains("forever"));
    assert_eq!(thief.run("echo works"), (0, "works\n".to_owned()));
    // No terminal, no forwarding of ports, and no other account.
    let forward = thief.ssh(Sshd::AGENT).args(["-o", "ExitOnForwardFailure=yes", "-W", "127.0.0.1:1", "127.0.0.1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&forward.stderr).contains("forwarding failed"), "{forward:?}");
    let terminal = thief.ssh(Sshd::AGENT).args(["-tt", "127.0.0.1", "tty"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&terminal.stdout).contains("/dev/"), "{terminal:?}");
    let other = thief.ssh(Sshd::BROKER).args(["127.0.0.1", "id"]).output().unwrap();
    assert!(String::from_utf8_lossy(&other.stderr).contains(DENIED));

    let mut elsewhere = world.settings();
    elsewhere.source_addresses = vec!["192.0.2.0/24".into()];
    let away = mint(&world.broker_with(elsewhere), &crate::words::plan(&["write"])).await;
    assert!(world.thief(&away).run("true").1.contains(DENIED), "an address that is not in it");
}

#[tokio::test]
async fn every_kind_of_host_key_is_proved_and_another_is_refused() {
    for kind in ["ed25519", "ecdsa", "rsa"] {
        // A new exchange of keys for every few kilobytes, in mid-command.
        let world = World::with(kind, "RekeyLimit 64K");
        let broker = world.broker();
        let account = mint(&broker, &plan(&["write"])).await;
        let session = world.session(&account);
        let many = LIMITS.bytes * 10;
        let limits = bailiwick_credentials::sessions::ssh::Limits { bytes: many, ..LIMITS };
        let ran = session.run("one", &words("head -c 3000000 /dev/zero"), limits).await.unwrap();
        assert_eq!((ran.status, ran.stdout.len(), ran.truncated), (Some(0), many, true), "{kind}");
        assert_eq!(session.run("one", &words("echo again"), LIMITS).await.unwrap().stdout, b"again\n");

        let wrong = World::start();
        let mut settings = world.settings();
        settings.hosts = vec![Host::new("one", "127.0.0.1", world.server.port(), &[wrong.server.host_key().unwrap()]).unwrap()];
        let error = world.broker_with(settings).end(&account).await.unwrap_err();
        assert_eq!(error.code(), TargetCode::Refused, "{error}");
        assert!(error.detail().contains("host key"), "{error}");
    }
}

#[tokio::test]
async fn algorithms_of_government_suffice() {
    let world = World::with("ecdsa", "KexAlgorithms ecdh-sha2-nistp256\nCiphers aes128-gcm@openssh.com");
    let account = mint(&world.broker(), &plan(&["write"])).await;
    assert_eq!(world.session(&account).run("one", &words("echo hello"), LIMITS).await.unwrap().stdout, b"hello\n");
    let world = World::with("ed25519", "Ciphers chacha20-poly1305@openssh.com");
    let account = mint(&world.broker(), &plan(&["write"])).await;
    let error = world.session(&account).run("one", &words("true"), LIMITS).await.unwrap_err();
    assert!(error.to_string().contains("none of our ciphers") && !error.may_have_run(), "{error}");
}

#[tokio::test]
async fn revocations_are_carried_on_with_those_of_others_and_what_was_taken_away_is_put_back() {
    let world = World::start();
    let broker = world.broker();
    let (one, two) = (mint(&broker, &plan(&["write"])).await, mint(&broker, &plan(&["write"])).await);
    // What the host's administrator revoked stays in a file of their own.
    let stranger = mint(&broker, &plan(&["write"])).await;
    let folder = world.server.folder();
    run(keygen().unwrap().args(["-q", "-k", "-f"]).arg(folder.join("base")).arg(world.thief(&stranger).certificate())).unwrap();
    for account in [&one, &two] {
        assert_verified(&broker.end(account).await.unwrap(), &["one"], REFUSED);
    }
    for account in [&one, &two, &stranger] {
        assert!(world.thief(account).run("true").1.contains(DENIED));
    }
    // Somebody else writes the list as they know it: sshd lets the revoked in again, and the forced command does not.
    run(keygen().unwrap().args(["-q", "-k", "-f"]).arg(folder.join("revoked_keys"))).unwrap();
    let (status, said) = world.thief(&one).run("echo back");
    assert!(status == 69 && said.contains("this lease has ended"), "{status} {said}");
    let three = mint(&broker, &plan(&["write"])).await;
    let ending = broker.end(&three).await.unwrap();
    assert_verified(&ending, &["one"], REFUSED);
    assert!(ending.evidence().tried().iter().any(|tried| tried.saw.contains("is revoked, with 2 others")), "{ending:#?}");
    for account in [&one, &two, &stranger, &three] {
        assert!(world.thief(account).run("true").1.contains(DENIED));
    }

    // Those that have expired are taken out, so that the list does not grow for ever.
    let past = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(folder.join("ended").join(one.name.as_str())).unwrap().set_modified(past).unwrap();
    let ending = broker.end(&three).await.unwrap();
    assert!(ending.evidence().tried().iter().any(|tried| tried.saw.contains("is revoked, with 1 others")), "{ending:#?}");
    assert!(!folder.join("ended").join(one.name.as_str()).exists());
}

#[tokio::test]
async fn an_end_is_one_on_every_host_and_one_that_is_away_keeps_no_other_alive() {
    let mut world = World::start();
    let second = world.another();
    let mut settings = world.settings();
    // The folder of the second is another; here it is made the same, as on two machines.
    let folder = settings.admin.as_ref().unwrap().folder.clone();
    settings.hosts.push(World::host("two", &second));
    fs::remove_dir_all(second.folder()).unwrap();
    std::os::unix::fs::symlink(&folder, second.folder()).unwrap();
    let broker = world.broker_with(settings);
    assert_eq!(broker.preflight(&fresh_name()).await.unwrap(), []);
    let account = mint(&broker, &plan(&["write"])).await;
    assert_verified(&broker.end(&account).await.unwrap(), &["one", "two"], REFUSED);

    let account = mint(&broker, &plan(&["write"])).await;
    let thief = world.thief(&account);
    let mut shell = thief.begin("sleep 600");
    wait_for("its process", || !world_runs_nothing(&account));
    drop(second);
    for _ in 0..3 {
        let error = broker.end(&account).await.unwrap_err();
        assert_eq!((error.code(), error.node()), (TargetCode::Unreachable, "two"), "{error}");
        assert!(error.is_transient());
    }
    shell.wait_for_its_end();
    assert!(world.thief(&account).run("true").1.contains(DENIED));
    world.server.stop().unwrap();
    assert_eq!(world.broker().end(&account).await.unwrap_err().code(), TargetCode::Unreachable);
    world.server.run().unwrap();
    assert_verified(&world.broker().end(&account).await.unwrap(), &["one"], REFUSED);
}

/// Does no process of this machine have the lease's mark?
fn world_runs_nothing(account: &Account) -> bool {
    let mark = format!("BAILIWICK_LEASE={}", account.name);
    let processes = fs::read_dir("/proc").unwrap().flatten();
    !processes
        .filter_map(|process| fs::read(process.path().join("environ")).ok())
        .any(|text| text.split(|byte| *byte == 0).any(|var| var == mark.as_bytes()))
}

#[tokio::test]
async fn without_an_account_of_our_own_a_certificate_expires_and_nothing_else_is_claimed() {
    let world = World::start();
    let mut settings = world.settings();
    settings.admin = None;
    let broker = world.broker_with(settings);
    assert_eq!(broker.preflight(&fresh_name()).await.unwrap(), []);
    let account = mint(&broker, &plan(&["write"])).await;
    let ending = broker.end(&account).await.unwrap();
    assert_eq!(ending.word(), "expires-at");
    assert!(ending.evidence().tried().iter().any(|tried| tried.saw.contains("is still accepted")), "{ending:#?}");
    assert_eq!(world.thief(&account).run("echo alive"), (0, "alive\n".to_owned()));
    assert_eq!(broker.list(&own_prefix('c')).await.unwrap(), []);
}

#[tokio::test]
async fn an_expired_lease_runs_nothing_on_a_connection_that_is_still_open() {
    let world = World::start();
    let broker = world.broker();
    let mut short = plan(&["write"]);
    short.tag.expires_at = bailiwick_core::Clock::now(&crate::words::Now).plus(std::time::Duration::from_secs(4));
    let account = mint(&broker, &short).await;
    let thief = world.thief(&account);
    let _idle = thief.idle();
    wait_for("the expiry", || thief.run("true").0 == 69);
    assert!(world.thief(&account).run("true").1.contains(DENIED));
    // Its refusal could be because of the expiry: so a certificate with its number, which has not expired, is refused too.
    let ending = broker.end(&account).await.unwrap();
    assert_verified(&ending, &["one"], "a login with a certificate with its serial: permission denied");
    // The broker or the host was away for days.
    let late = bailiwick_core::Timestamp::from_seconds(1_700_000_000);
    let account = Account { expires_at: Some(late), name: fresh_name(), ids: TargetIds::default(), secret: account.secret };
    assert_verified(&broker.end(&account).await.unwrap(), &["one"], "a login with a certificate with its serial: permission denied");
}

#[tokio::test]
async fn preflight_names_what_is_missing_and_its_remedies_help() {
    let world = World::start();
    let preflight = |change: fn(&mut bailiwick_credentials::kinds::ssh::Settings)| {
        let mut settings = world.settings();
        change(&mut settings);
        let broker = world.broker_with(settings);
        async move { broker.preflight(&fresh_name()).await.unwrap() }
    };
    let found = preflight(|s| s.admin.as_mut().unwrap().login.principal = "nobody-knows".into()).await;
    assert!(found[0].remedy.contains("TrustedUserCAKeys") && found[0].remedy.contains("ssh-ed25519 AAAA"), "{found:#?}");
    let found = preflight(|s| s.logins.get_mut("write").unwrap().principal = "nobody-knows".into()).await;
    assert!(found[0].remedy.contains("nobody-knows"), "{found:#?}");
    let found = preflight(|s| s.admin.as_mut().unwrap().folder = "/nonexistent/bailiwick".into()).await;
    assert!(found.iter().any(|finding| finding.remedy.contains("mkdir -p /nonexistent/bailiwick/ended")), "{found:#?}");
    let found = preflight(|s| drop(s.logins.insert("root".into(), Login { user: Sshd::BROKER.into(), principal: "also-agent".into() }))).await;
    assert!(found[0].remedy.contains("also-agent"), "{found:#?}");

    // The list is written, and sshd does not read it.
    let deaf = World::with("ed25519", "RevokedKeys none");
    let found = deaf.broker().preflight(&fresh_name()).await.unwrap();
    assert!(found.iter().any(|finding| finding.missing.contains("still accepted") && finding.remedy.contains("RevokedKeys")), "{found:#?}");

    if Sshd::has_two_accounts() {
        // Whoever may write there can take the mark away.
        fs::set_permissions(world.server.folder().join("ended"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let found = preflight(|_| ()).await;
        assert!(found[0].missing.contains("undo its own end"), "{found:#?}");
        fs::set_permissions(world.server.folder().join("ended"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // An account of ours that is no root: it sees and writes nothing.
        let found = preflight(|s| {
            s.admin.as_mut().unwrap().login = Login { user: Sshd::AGENT.into(), principal: "task-agent".into() };
            s.logins.get_mut("write").unwrap().principal = "x".into();
        });
        let found = found.await;
        assert!(found.iter().any(|finding| finding.missing.contains("no certificate could be revoked")), "{found:#?}");
        assert!(found.iter().all(|finding| finding.remedy.contains("root") || finding.remedy.contains("mkdir")), "{found:#?}");
    }
    fs::remove_dir_all(world.server.folder().join("ended")).unwrap();
    let found = preflight(|_| ()).await;
    assert!(found.iter().any(|finding| finding.missing.contains("/ended` is not there")), "{found:#?}");
    fs::create_dir(world.server.folder().join("ended")).unwrap();
    assert_eq!(preflight(|_| ()).await, []);
}

#[tokio::test]
async fn a_lost_answer_a_lost_key_and_an_orphan_are_ended() {
    let world = World::start();
    let broker = world.broker();
    // Cut before the mint's answer was written down: the intent has the key.
    let key = broker.propose().unwrap().unwrap();
    let lost = plan(&["write"]);
    let minted = broker.mint(&lost, Some(&key)).await.unwrap();
    let stolen = Account { name: lost.name.clone(), ids: minted.ids, secret: minted.secret, expires_at: None };
    let account = Account { name: lost.name.clone(), ids: TargetIds::default(), secret: Some(key), expires_at: None };
    assert_verified(&world.broker().end(&account).await.unwrap(), &["one"], REFUSED);
    assert!(world.thief(&stolen).run("true").1.contains(DENIED));

    let (live, orphan) = (mint(&broker, &own_plan('b', "write")).await, mint(&broker, &own_plan('b', "write")).await);
    let (one, two) = (world.thief(&live), world.thief(&orphan));
    let (mut working, mut stray) = (one.begin("sleep 600"), two.begin("sleep 600"));
    wait_for("both", || !world_runs_nothing(&live) && !world_runs_nothing(&orphan));
    let orphans = sweep(&broker, &own_prefix('b'), &|name| *name == live.name).await.unwrap();
    assert_eq!(orphans.iter().map(|orphan| &orphan.found.name).collect::<Vec<_>>(), [&orphan.name]);
    assert_eq!(orphans[0].ending.as_ref().unwrap().word(), "revoked-unverified");
    stray.wait_for_its_end();
    assert!(working.is_open(), "a lease that lives is killed with an orphan");
    assert!(world.thief(&orphan).run("true").1.contains(DENIED));
    assert_verified(&broker.end(&live).await.unwrap(), &["one"], REFUSED);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_all_revoked_and_none_is_lost() {
    let world = World::start();
    let broker = std::sync::Arc::new(world.broker());
    let mut at_once = tokio::task::JoinSet::new();
    for _ in 0..count("BAILIWICK_LEASES", 12) {
        let broker = std::sync::Arc::clone(&broker);
        at_once.spawn(async move {
            let account = mint(&broker, &plan(&["write"])).await;
            assert_verified(&broker.end(&account).await.unwrap(), &["one"], REFUSED);
            account
        });
    }
    while let Some(account) = at_once.join_next().await {
        assert!(world.thief(&account.unwrap()).run("true").1.contains(DENIED));
    }
}

#[test]
fn an_end_cut_at_any_wait_is_taken_up_by_the_next() {
    let world = World::start();
    let sessions = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let step = count("BAILIWICK_CUTS", 0).max(1);
    for waits in (0..1000).step_by(if step > 1 { 1 } else { 7 }) {
        let account = sessions.block_on(mint(&world.broker(), &plan(&["write"])));
        let thief = world.thief(&account);
        let mut open = thief.begin("sleep 600");
        wait_for("its process", || !world_runs_nothing(&account));
        let first = world.broker();
        let ended = crate::cut::cut(waits, async { first.end(&account).await.unwrap() });
        let fresh = world.broker();
        let ending = crate::cut::cut(100_000, async { fresh.end(&account).await }).unwrap().unwrap();
        assert_verified(&ending, &["one"], REFUSED);
        open.wait_for_its_end();
        assert!(world_runs_nothing(&account), "cut after {waits} waits");
        if ended.is_some() {
            assert!(waits > 7);
            return;
        }
    }
    panic!("the end never came to its end");
}

#[tokio::test]
async fn a_lease_that_was_never_made_ends_too() {
    let world = World::start();
    let account = Account { name: fresh_name(), ids: TargetIds::default(), secret: None, expires_at: Some(soon()) };
    let ending = world.broker().end(&account).await.unwrap();
    assert_eq!(ending.word(), "revoked-unverified");
}
