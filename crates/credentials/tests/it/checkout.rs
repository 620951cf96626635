//! Accounts that were there before us, lent to one task at a time: real `PostgreSQL` and `MariaDB`, and a system that is hard to please.

use std::sync::{Arc, Mutex};

use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::checkout::postgresql::Postgresql;
use bailiwick_credentials::kinds::checkout::target::{Denied, Inside, Target, Unchanged};
use bailiwick_credentials::kinds::checkout::{ACCOUNT, Checkout, Legacy, Settings};
use bailiwick_credentials::lease::rotation::Phase;
use bailiwick_credentials::lease::{Account, Kind as _, Node, Prefix, Step, TargetCode, TargetError, TargetIds, sweep};
use bailiwick_testkit::servers::postgres::Postgres;

use crate::checkout_world::{BEFORE, Memory, Open, World, broker, log_in_at, of_postgresql, only_intent, remembered};
use crate::words::{assert_verified, clock, fresh_name, plan};

fn refusal(world: &World) -> &'static str {
    match world {
        World::Postgresql(_) => "28P01",
        World::Mariadb(_) => "1045",
    }
}

async fn a_turn(world: &World) {
    let memory = Memory::new(&["app", "app2"]);
    let kind = world.broker(&memory);
    let plan = plan(&["app"]);
    let minted = kind.mint(&plan, None).await.unwrap();
    assert_eq!(minted.ids.find(ACCOUNT), Some("app"));
    let password = memory.plain(minted.secret.as_ref().unwrap());
    assert_eq!(password, BEFORE, "the first task has what the person set");
    let mut open = world.log_in("app", &password).await.unwrap();
    let mut another = world.log_in("app", &password).await.unwrap();
    assert!(open.is_alive().await && another.is_alive().await);
    let mut stranger = world.log_in("app2", BEFORE).await.unwrap();

    let lease = remembered(&plan, minted);
    let ending = kind.end(&lease).await.unwrap();
    assert_verified(&ending, &["primary"], refusal(world));
    assert!(!open.is_alive().await && !another.is_alive().await, "open sessions are ended");
    assert!(stranger.is_alive().await, "another account's are not");
    assert!(world.log_in("app", BEFORE).await.is_none(), "the old password is refused");
    let new = memory.current("app");
    assert!(world.log_in("app", &new).await.is_some(), "the new one is accepted");
    assert_eq!((memory.phase("app"), memory.has_candidate("app"), memory.whose("app")), (Phase::Settled, false, None));
    assert!(!world.log().contains(&new) && !format!("{ending:?} {kind:?} {lease:?}").contains(&new), "the new password is in no log");

    // It ends again as it ended before: nothing is changed, also when another task has the account by now.
    let second = crate::words::plan(&["app"]);
    let again = kind.mint(&second, None).await.unwrap();
    assert_verified(&kind.end(&lease).await.unwrap(), &["primary"], refusal(world));
    assert_eq!((memory.current("app"), memory.whose("app")), (new.clone(), Some(second.name.clone())));
    let mut session = world.log_in("app", &new).await.unwrap();
    assert_verified(&kind.end(&remembered(&second, again)).await.unwrap(), &["primary"], refusal(world));
    assert!(!session.is_alive().await && world.log_in("app", &new).await.is_none());
}

async fn one_task_each(world: &World) {
    let memory = Memory::new(&["app", "app2"]);
    let kind = world.broker(&memory);
    let (one, two, three) = (plan(&["app", "app2"]), plan(&["app", "app2"]), plan(&["app", "app2"]));
    let (first, second) = tokio::join!(kind.mint(&one, None), kind.mint(&two, None));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_ne!(first.ids, second.ids);
    let error = kind.mint(&three, None).await.unwrap_err();
    assert_eq!(error.code(), TargetCode::Busy, "{error}");
    assert_eq!(kind.mint(&one, None).await.unwrap().ids, first.ids, "asked again, the same account");
    assert_eq!(kind.mint(&plan(&["postgres"]), None).await.unwrap_err().code(), TargetCode::Plan);
    assert_eq!(kind.mint(&plan(&[]), None).await.unwrap_err().code(), TargetCode::Plan);
    let free = first.ids.find(ACCOUNT).unwrap().to_owned();
    assert_verified(&kind.end(&remembered(&one, first)).await.unwrap(), &["primary"], refusal(world));
    let third = kind.mint(&three, None).await.unwrap();
    assert_eq!(third.ids.find(ACCOUNT), Some(free.as_str()));
    assert_ne!(memory.plain(third.secret.as_ref().unwrap()), BEFORE);

    // A process that remembers nothing finds what is lent, and ends what no lease explains.
    let orphans = sweep(&world.broker(&memory), &Prefix::default(), &|name| *name == three.name).await.unwrap();
    assert_eq!(orphans.iter().map(|orphan| &orphan.found.name).collect::<Vec<_>>(), [&two.name]);
    assert_verified(orphans[0].ending.as_ref().unwrap(), &["primary"], refusal(world));
    assert_eq!((memory.whose(&free), memory.whose(second.ids.find(ACCOUNT).unwrap())), (Some(three.name.clone()), None));
    let never = kind.end(&only_intent(&plan(&["app"]))).await.unwrap();
    assert_eq!(never.word(), "revoked-unverified", "nothing was lent under that name, so nothing can be tried");
}

/// The process that sent a change was killed, and the server is still at it.
async fn a_late_change(world: &World, under_way: bool) {
    let memory = Memory::new(&["app", "app2"]);
    let kind = world.broker(&memory);
    let plan = plan(&["app"]);
    let lease = remembered(&plan, kind.mint(&plan, None).await.unwrap());
    let mut other = world.log_in("app", BEFORE).await.unwrap();
    memory.open("app", "the-candidate-7");
    match (&other, under_way) {
        (Open::Postgresql(_), true) => other.run("BEGIN; ALTER ROLE app PASSWORD 'the-candidate-7'").await,
        (Open::Postgresql(_), false) => other.run("ALTER ROLE app PASSWORD 'the-candidate-7'").await,
        // There are no transactions around it: what is not done never comes.
        (Open::Mariadb(_), true) => {}
        (Open::Mariadb(_), false) => other.run("SET PASSWORD = PASSWORD('the-candidate-7')").await,
    }
    let ending = kind.end(&lease).await.unwrap();
    assert_verified(&ending, &["primary"], refusal(world));
    assert!(!other.is_alive().await);
    let now = memory.current("app");
    assert!(world.log_in("app", &now).await.is_some(), "what is kept is what the system takes");
    assert_eq!(now == "the-candidate-7", !under_way, "{ending:?}");
    for old in [BEFORE, "the-candidate-7"] {
        assert!(now == old || world.log_in("app", old).await.is_none());
    }
}

/// Somebody changes the password behind our back.
async fn a_stranger_at_it(world: &World) {
    let memory = Memory::new(&["app", "app2"]);
    let kind = world.broker(&memory);
    let plan = plan(&["app"]);
    let lease = remembered(&plan, kind.mint(&plan, None).await.unwrap());
    let mut open = world.log_in("app", BEFORE).await.unwrap();
    world.set_password("app", "set-by-a-stranger");
    let error = kind.end(&lease).await.unwrap_err();
    assert!(error.code() == TargetCode::Refused && !error.is_transient() && error.to_string().contains("bailiwick secret set app"), "{error}");
    assert_eq!(memory.whose("app"), Some(plan.name.clone()), "it is not over, and nobody else gets the account");
    memory.set("app", "set-by-a-stranger");
    assert_verified(&kind.end(&lease).await.unwrap(), &["primary"], refusal(world));
    assert!(!open.is_alive().await, "a session of the first password");

    // In the middle of a change: neither works.
    let second = crate::words::plan(&["app"]);
    let lease = remembered(&second, kind.mint(&second, None).await.unwrap());
    memory.open("app", "never-sent");
    world.set_password("app", "set-by-a-stranger-2");
    assert_eq!(kind.end(&lease).await.unwrap_err().code(), TargetCode::Refused);
    assert_eq!((memory.phase("app"), memory.has_candidate("app")), (Phase::Lost, true));
    assert_eq!(kind.end(&lease).await.unwrap_err().code(), TargetCode::Refused);
    memory.set("app", "set-by-a-stranger-2");
    assert_verified(&kind.end(&lease).await.unwrap(), &["primary"], refusal(world));

    // Before any use: nobody has got the account, so there is nothing to wait for.
    world.set_password("app", "set-by-a-stranger-3");
    let third = crate::words::plan(&["app"]);
    assert_eq!(kind.mint(&third, None).await.unwrap_err().code(), TargetCode::Refused);
    assert_eq!(memory.whose("app"), None);
}

async fn down_at_the_end(world: &mut World) {
    let memory = Memory::new(&["app", "app2"]);
    let kind = world.broker(&memory);
    let plan = plan(&["app"]);
    let lease = remembered(&plan, kind.mint(&plan, None).await.unwrap());
    world.stop();
    let error = kind.end(&lease).await.unwrap_err();
    assert!(error.code() == TargetCode::Unreachable && error.is_transient(), "{error}");
    memory.open("app", "never-sent");
    assert_eq!(kind.end(&lease).await.unwrap_err().code(), TargetCode::Unreachable);
    assert_eq!((memory.phase("app"), memory.whose("app")), (Phase::Open, Some(plan.name.clone())), "no answer is not an answer");
    world.run();
    assert_verified(&kind.end(&lease).await.unwrap(), &["primary"], refusal(world));
    assert!(world.log_in("app", &memory.current("app")).await.is_some());
}

async fn two_ends_at_once(world: &World) {
    let memory = Memory::new(&["app", "app2"]);
    let (one, two) = (world.broker(&memory), world.broker(&memory));
    for _ in 0..8 {
        let plan = plan(&["app"]);
        let lease = remembered(&plan, one.mint(&plan, None).await.unwrap());
        let (a, b) = tokio::join!(one.end(&lease), two.end(&lease));
        for error in [a.err(), b.err()].into_iter().flatten() {
            assert!(error.is_transient(), "{error}");
        }
        assert_verified(&one.end(&lease).await.unwrap(), &["primary"], refusal(world));
        assert_eq!((memory.phase("app"), memory.whose("app")), (Phase::Settled, None));
        assert!(world.log_in("app", &memory.current("app")).await.is_some());
    }
}

async fn preflight_does_it_once(world: &World) {
    let memory = Memory::new(&["app"]);
    let kind = world.broker(&memory);
    let findings = kind.preflight(&fresh_name()).await.unwrap();
    assert!(findings.len() == 1 && findings[0].remedy == "bailiwick secret set app2", "{findings:?}");
    memory.set("app2", "wrong");
    let findings = kind.preflight(&fresh_name()).await.unwrap();
    assert!(findings.len() == 1 && findings[0].missing.contains("`app2` is refused"), "{findings:?}");
    memory.set("app2", BEFORE);
    assert!(kind.preflight(&fresh_name()).await.unwrap().is_empty());
    assert_eq!((memory.whose("app"), memory.whose("app2")), (None, None));
    for user in ["app", "app2"] {
        assert!(world.log_in(user, BEFORE).await.is_none() && world.log_in(user, &memory.current(user)).await.is_some(), "{user}");
    }
    // An account that is lent is left alone.
    let plan = plan(&["app"]);
    let lease = remembered(&plan, kind.mint(&plan, None).await.unwrap());
    let mut open = world.log_in("app", &memory.current("app")).await.unwrap();
    assert!(kind.preflight(&fresh_name()).await.unwrap().is_empty());
    assert!(open.is_alive().await);
    assert_verified(&kind.end(&lease).await.unwrap(), &["primary"], refusal(world));
}

async fn all(mut world: World) {
    a_turn(&world).await;
    for user in ["app", "app2"] {
        world.set_password(user, BEFORE);
    }
    one_task_each(&world).await;
    for (i, test) in [true, false].into_iter().enumerate() {
        world.set_password("app", BEFORE);
        a_late_change(&world, test).await;
        assert!(i < 2);
    }
    world.set_password("app", BEFORE);
    a_stranger_at_it(&world).await;
    world.set_password("app", BEFORE);
    two_ends_at_once(&world).await;
    for user in ["app", "app2"] {
        world.set_password(user, BEFORE);
    }
    preflight_does_it_once(&world).await;
    world.set_password("app", BEFORE);
    down_at_the_end(&mut world).await;
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_role_of_postgresql_that_was_there_before_is_lent_to_one_task_and_has_another_password_after_it() {
    all(World::postgresql()).await;
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn an_account_of_mariadb_that_was_there_before_is_lent_to_one_task_and_has_another_password_after_it() {
    all(World::mariadb()).await;
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_standby_takes_the_new_password_too_and_keeps_no_session_of_the_old_one() {
    let primary = Postgres::start(&[]).unwrap();
    primary.sql("postgres", &format!("CREATE ROLE app LOGIN PASSWORD '{BEFORE}'")).unwrap();
    let standby = primary.standby().unwrap();
    let memory = Memory::new(&["app"]);
    // The standby stands first: the writer is found all the same.
    let kind = broker(of_postgresql(&[("standby", &standby), ("primary", &primary)]), &memory, &["app"]);
    let lent = plan(&["app"]);
    let lease = remembered(&lent, kind.mint(&lent, None).await.unwrap());
    let open = log_in_at(&standby, "app", BEFORE).await.unwrap();
    assert_verified(&kind.end(&lease).await.unwrap(), &["standby", "primary"], "28P01");
    assert!(open.simple_query("SELECT 1").await.is_err(), "the session on the standby is ended");
    assert!(log_in_at(&standby, "app", BEFORE).await.is_none());

    // One that lags is no end.
    let second = plan(&["app"]);
    let lease = remembered(&second, kind.mint(&second, None).await.unwrap());
    standby.sql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    let error = kind.end(&lease).await.unwrap_err();
    assert!(error.code() == TargetCode::Busy && error.node() == "standby", "{error}");
    assert_eq!(memory.whose("app"), Some(second.name.clone()));
    standby.sql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    assert_verified(&kind.end(&lease).await.unwrap(), &["standby", "primary"], "28P01");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_role_with_traps_is_rotated_all_the_same() {
    let world = World::postgresql();
    world.sql("CREATE ROLE grp NOLOGIN; GRANT grp TO app; ALTER ROLE app SET role = 'grp'; ALTER ROLE app SET default_transaction_read_only = on");
    let memory = Memory::new(&["app"]);
    let kind = broker(world.target(), &memory, &["app"]);
    let lent = plan(&["app"]);
    let lease = remembered(&lent, kind.mint(&lent, None).await.unwrap());
    let mut open = world.log_in("app", BEFORE).await.unwrap();
    assert_verified(&kind.end(&lease).await.unwrap(), &["primary"], "28P01");
    assert!(!open.is_alive().await, "a session that has another role set is found by whose login it was");
    assert_eq!(world.sql("SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'grp'"), "t", "no other role has got a password");

    // Somebody lets it in without a password.
    let World::Postgresql(server) = &world else { panic!("a cluster of PostgreSQL") };
    let file = server.data().join("pg_hba.conf");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("host all app 127.0.0.1/32 trust\n{before}")).unwrap();
    world.sql("SELECT pg_reload_conf()");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let findings = kind.preflight(&fresh_name()).await.unwrap();
    assert!(findings.iter().any(|finding| finding.missing.contains("let in with any password")), "{findings:?}");
    let second = plan(&["app"]);
    let lease = remembered(&second, kind.mint(&second, None).await.unwrap());
    let error = kind.end(&lease).await.unwrap_err();
    assert!(error.to_string().contains("still accepted"), "{error}");
    std::fs::write(&file, before).unwrap();
    world.sql("SELECT pg_reload_conf()");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_verified(&kind.end(&lease).await.unwrap(), &["primary"], "28P01");
}

/// `passwordcheck` refuses passwords with the role's name in them: with this name, about half of all.
#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_password_that_the_servers_policy_refuses_is_replaced_by_another_one() {
    let world = World::postgresql_with(&["shared_preload_libraries=passwordcheck"]);
    world.sql(&format!("CREATE ROLE q LOGIN; ALTER ROLE q PASSWORD '{BEFORE}'"));
    let memory = Memory::new(&["q"]);
    let World::Postgresql(server) = &world else { panic!("a cluster of PostgreSQL") };
    let nodes = vec![Node::new("primary", "127.0.0.1", server.port(), None).unwrap()];
    let kind = broker(Arc::new(Postgresql { nodes, database: "postgres".to_owned(), plain: true }), &memory, &["q"]);
    let mut refused = 0;
    for _ in 0..12 {
        let plan = plan(&["q"]);
        let lease = remembered(&plan, kind.mint(&plan, None).await.unwrap());
        let ending = loop {
            match kind.end(&lease).await {
                Ok(ending) => break ending,
                Err(error) => assert!(error.to_string().contains("refused 5 new passwords"), "{error}"),
            }
        };
        assert_verified(&ending, &["primary"], "28P01");
        refused += ending.evidence().tried().iter().filter(|tried| tried.saw.contains("is never offered again")).count();
        assert!(!memory.current("q").contains('q'));
    }
    assert!(refused > 0, "twelve passwords without a `q` at the first try: one in four thousand runs");
}

/// A system that likes no password until it is told to.
#[derive(Debug)]
struct Strict {
    memory: Arc<Memory>,
    state: Mutex<(String, Vec<String>, bool)>,
}

struct AtStrict(Arc<Strict>);

#[derive(Debug)]
struct Shared(Arc<Strict>);

#[async_trait::async_trait]
impl Target for Shared {
    fn word(&self) -> &'static str {
        "strict"
    }

    fn nodes(&self) -> Vec<String> {
        vec!["one".to_owned()]
    }

    fn has_user_name(&self, user: &str) -> bool {
        !user.is_empty()
    }

    async fn log_in(&self, _node: usize, _user: &str, password: &Secret) -> Result<Box<dyn Inside>, Denied> {
        let right = self.0.state.lock().unwrap().0 == self.0.memory.plain(password);
        if right { Ok(Box::new(AtStrict(Arc::clone(&self.0)))) } else { Err(Denied::Password("wrong password".to_owned())) }
    }
}

#[async_trait::async_trait]
impl Inside for AtStrict {
    async fn takes_changes(&mut self) -> Result<bool, TargetError> {
        Ok(true)
    }

    async fn change(&mut self, new: &Secret) -> Result<(), Unchanged> {
        let new = self.0.memory.plain(new);
        let mut state = self.0.state.lock().unwrap();
        state.1.push(new.clone());
        if !state.2 {
            return Err(Unchanged::Policy(format!("`{new}` has no umlaut")));
        }
        state.0 = new;
        Ok(())
    }

    async fn end_others(&mut self) -> Result<usize, TargetError> {
        Ok(0)
    }
}

#[tokio::test]
async fn no_password_is_offered_twice_and_a_person_is_called() {
    let memory = Memory::new(&["app"]);
    let strict = Arc::new(Strict { memory: Arc::clone(&memory), state: Mutex::new((BEFORE.to_owned(), Vec::new(), false)) });
    let kind = broker(Arc::new(Shared(Arc::clone(&strict))), &memory, &["app"]);
    let plan = plan(&["app"]);
    let lease = remembered(&plan, kind.mint(&plan, None).await.unwrap());
    for round in 1..=3 {
        let error = kind.end(&lease).await.unwrap_err();
        assert_eq!((error.code(), error.step(), error.is_transient()), (TargetCode::Refused, Step::Gate, false), "{error}");
        assert_eq!(strict.state.lock().unwrap().1.len(), 5 * round, "a bounded number of offers for each call");
        assert_eq!((memory.current("app"), memory.phase("app")), (BEFORE.to_owned(), Phase::Settled), "what works is kept");
        assert_eq!(memory.whose("app"), Some(plan.name.clone()), "it is not over");
    }
    strict.state.lock().unwrap().2 = true;
    let ending = kind.end(&lease).await.unwrap();
    assert_verified(&ending, &["one"], "wrong password");
    let offers = strict.state.lock().unwrap().1.clone();
    let distinct: std::collections::BTreeSet<_> = offers.iter().collect();
    assert_eq!((distinct.len(), offers.len()), (16, 16));
    assert!(offers.iter().all(|offer| !format!("{ending:?}").contains(offer)), "refused or not, no password is in the evidence");
}

#[test]
fn what_cannot_be_lent_is_refused_when_it_is_configured() {
    let memory = Memory::new(&["app"]);
    let strict = Arc::new(Strict { memory: Arc::clone(&memory), state: Mutex::default() });
    let legacy = |user: &str, secret: &str| Legacy { user: user.to_owned(), secret: secret.to_owned() };
    let refused = |accounts: Vec<Legacy>, password_chars| {
        let made = Checkout::new(Settings { accounts, password_chars }, Arc::new(Shared(Arc::clone(&strict))), Arc::clone(&memory) as _, clock());
        made.err().map(|error| error.code())
    };
    assert_eq!(refused(vec![legacy("a", "x"), legacy("b", "y")], 22), None);
    for (accounts, chars) in [
        (vec![], 43),
        (vec![legacy("", "x")], 43),
        (vec![legacy("a", "")], 43),
        (vec![legacy("a", "x"), legacy("a", "y")], 43),
        (vec![legacy("a", "x"), legacy("b", "x")], 43),
        (vec![legacy("a", "x")], 21),
        (vec![legacy("a", "x")], 65),
    ] {
        assert_eq!(refused(accounts.clone(), chars), Some(TargetCode::Plan), "{accounts:?} {chars}");
    }
}

#[tokio::test]
async fn an_account_that_left_the_configuration_is_not_forgotten_silently() {
    let memory = Memory::new(&["app"]);
    let strict = Arc::new(Strict { memory: Arc::clone(&memory), state: Mutex::default() });
    let kind = broker(Arc::new(Shared(strict)), &memory, &["app"]);
    let account = Account { name: fresh_name(), ids: TargetIds::one(ACCOUNT, "gone"), secret: None, expires_at: None };
    assert_eq!(kind.end(&account).await.unwrap_err().code(), TargetCode::Plan);
}
