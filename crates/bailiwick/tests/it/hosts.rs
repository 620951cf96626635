//! Hosts by SSH through the whole house: a model runs commands that the configuration names, with certificates that it never sees, and what it left
//! running ends with its task, also when the host was away.

use std::fs;
use std::process::Command;

use bailiwick_testkit::Scratch;
use bailiwick_testkit::servers::sshd::{Sshd, keygen};
use http::Method;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::support::{Broker, PATIENCE, Place, until};

const PERMITTED: &str = r#"
@id("hosts-by-themselves")
permit (principal, action in [Action::"web.leave"], resource);
"#;

struct World {
    server: Sshd,
    place: Place,
    _ca: Scratch,
}

impl World {
    async fn start() -> Self {
        let ca = Scratch::new("bailiwick-hosts").unwrap();
        let key = ca.path().join("ca");
        assert!(keygen().unwrap().args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap().success());
        let authority = fs::read_to_string(key.with_extension("pub")).unwrap();
        let principals = [(Sshd::AGENT, "look"), (Sshd::AGENT, "task-agent"), (Sshd::BROKER, "bailiwick-admin")];
        let server = Sshd::start(authority.trim(), &principals, "ed25519", "").unwrap();
        // A prefix of its own: a sweep of this broker sees what other tests run on the same machine.
        let prefix = format!("agh{:02}_", std::process::id() % 100);
        let section = format!(
            "\n[systems.web.ssh]\nauthority = \"web_ca\"\nprefix = \"{prefix}\"\n\
             logins = {{ read = {{ user = \"agent\", principal = \"look\" }}, write = {{ user = \"agent\", principal = \"task-agent\" }} }}\n\
             admin = {{ user = \"broker\", principal = \"bailiwick-admin\", folder = \"{}\" }}\n\
             hosts.one = {{ address = \"127.0.0.1\", port = {}, keys = [\"{}\"] }}\n\
             [systems.web.ssh.commands.say]\ndescription = \"Says a word.\"\neffect = \"read\"\nrun = [\"echo\", \"{{word}}\"]\narguments.word = {{ is = \"word\" }}\n\
             [systems.web.ssh.commands.leave]\ndescription = \"Leaves a program running.\"\neffect = \"write\"\n\
             run = [\"sh\", \"-c\", \"setsid sleep {{seconds}} >/dev/null 2>&1 & echo left\"]\narguments.seconds = {{ is = \"integer\", min = 1, max = 999999 }}\n",
            server.folder().display(),
            server.port(),
            server.host_key().unwrap()
        );
        let place = Place::with(|text| text.replace("\"twin.look\"]", "\"twin.look\", \"web.*\"]") + &section).await;
        place.add_policy(PERMITTED);
        bailiwick::secrets::set(&place.data, "web_ca", Zeroizing::new(fs::read(&key).unwrap())).await.unwrap();
        Self { server, place, _ca: ca }
    }

    async fn open(&self) -> Broker {
        let broker = self.place.open().await;
        until("the hosts' tools are listed", || {
            let registry = broker.house.registry.load();
            ["web.say", "web.leave"].iter().all(|tool| registry.tool(tool).is_some_and(|tool| tool.callable()) && broker.possible(tool))
        })
        .await;
        broker
    }
}

/// Does any process of this machine sleep for so many seconds?
fn sleeps(seconds: u32) -> bool {
    let out = Command::new("grep").args(["-l", "-s", "-a", "-e", &format!("sleep.{seconds}.$")]).args(processes()).output().unwrap();
    !out.stdout.is_empty()
}

fn processes() -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    all.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).map(|id| format!("/proc/{id}/cmdline")).collect()
}

fn structured(answer: &crate::support::Answer) -> Value {
    answer.json()["result"]["structuredContent"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_runs_named_commands_and_what_it_left_running_ends_with_it() {
    let mut world = World::start().await;
    let broker = world.open().await;
    let client = world.place.client();
    let task = client.task("scout").await;
    let refused = client.call(&task, "web.say", r#"{"word":"$(id)"}"#).await;
    assert_eq!(refused.word(), "call.arguments", "{refused:?}");
    assert!(!world.server.log().contains(&task.id), "nothing is made before a call is permitted");
    let said = client.call(&task, "web.say", r#"{"word":"hello"}"#).await;
    assert_eq!((&structured(&said)["stdout"], &structured(&said)["exit_status"]), (&"hello\n".into(), &0.into()), "{said:?}");
    let seconds = 700_000 + std::process::id() % 100_000;
    let left = client.call(&task, "web.leave", &format!("{{\"seconds\":{seconds}}}")).await;
    assert_eq!(structured(&left)["stdout"], "left\n", "{left:?}");
    assert!(sleeps(seconds));
    // The host's own log has the chain.
    assert!(world.server.log().contains(&format!("ID spiffe://bailiwick.local/agent/scout;task={};lease=agh", task.id)), "{}", world.server.log());

    // The host is away when the task ends: it stays closing, and is closed soon after the host's return.
    world.server.stop().unwrap();
    let answer = client.complete(&task).await;
    assert_eq!(answer["state"], "closing", "{answer}");
    assert!(sleeps(seconds), "the host cannot be reached, and yet something ended there");
    world.server.run().unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let shown = loop {
        let shown = client.by("ops", Method::GET, &format!("/v1/tasks/{}", task.id), None).await.json();
        if shown["state"] == "closed" {
            break shown;
        }
        assert!(tokio::time::Instant::now() < deadline, "{shown}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let leases = shown["leases"].as_array().unwrap();
    assert!(leases.len() == 2 && leases.iter().all(|lease| lease["ending"]["ending"] == "revoked-verified"), "{shown}");
    assert!(shown.to_string().contains("permission denied (publickey)"), "{shown}");
    assert!(!sleeps(seconds), "what the task left running goes on");
    broker.check_sound(&world.place).await;
    broker.stop().await;
    world.place.verify();
}
