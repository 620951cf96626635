//! Five servers that this project did not write, on stdio, behind the real program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bailiwick_testkit::{CallReport, Client, ClientCall, Era, Scratch, StdioServer};
use serde_json::{Value, json};

use super::by_name;
use super::program::{Approver, Program, bailiwick, data_dir, run};

const SYSTEMS: [&str; 5] = ["db", "files", "memory", "repo", "time"];

const HEAD: &str = r#"
[listen]
address = "127.0.0.1:0"
[people.ana]
roles = ["owner"]
[people.ben]
roles = ["approver", "reviewer", "auditor", "operator"]
[agents.clerk]
owner = "ana"
purpose = "keeps things in order"
risk = "medium"
review_by = "2099-12-31"
tools = ["*"]
"#;

/// What the servers work on.
struct Place {
    scratch: Scratch,
    folder: PathBuf,
    memory: PathBuf,
    repository: PathBuf,
    database: PathBuf,
}

impl Place {
    fn new() -> Self {
        let scratch = Scratch::new("bailiwick-servers").unwrap();
        let at = |name: &str| scratch.path().join(name);
        let place = Self { folder: at("folder"), memory: at("memory.jsonl"), repository: at("repository"), database: at("orders.sqlite"), scratch };
        fs::create_dir(&place.folder).unwrap();
        fs::write(place.folder.join("a.txt"), "the harbour at dusk").unwrap();
        run(Command::new("git").args(["init", "--quiet"]).arg(&place.repository));
        fs::write(place.repository.join("new.txt"), "x").unwrap();
        let database = rusqlite::Connection::open(&place.database).unwrap();
        database.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO item VALUES (1, 'lantern')").unwrap();
        place
    }

    fn servers(&self, time: StdioServer) -> [(&'static str, StdioServer); 5] {
        [
            ("db", StdioServer::dbhub(&self.database)),
            ("files", StdioServer::filesystem(&self.folder)),
            ("memory", StdioServer::memory()),
            ("repo", StdioServer::git(&self.repository)),
            ("time", time),
        ]
    }

    /// One read and one acting call for each server; the acting call carries the server's mark.
    fn work(&self) -> [Work; 5] {
        let repository = self.repository.to_str().unwrap();
        [
            Work {
                read: ("files.read_text_file", json!({"path": self.folder.join("a.txt")}), "the harbour at dusk"),
                act: ("files.write_file", json!({"path": self.folder.join("b.txt"), "content": "mark-files"})),
            },
            Work {
                read: ("memory.read_graph", json!({}), "entities"),
                act: ("memory.create_entities", json!({"entities": [{"name": "mark-memory", "entityType": "place", "observations": ["windy"]}]})),
            },
            Work {
                read: ("repo.git_status", json!({"repo_path": repository}), "new.txt"),
                act: ("repo.git_add", json!({"repo_path": repository, "files": ["new.txt"]})),
            },
            Work {
                read: ("time.convert_time", json!({"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}), "21:00"),
                // It only reads, but the configuration says that it does more.
                act: ("time.get_current_time", json!({"timezone": "Asia/Tokyo"})),
            },
            Work {
                read: ("db.search_objects", json!({"object_type": "table", "pattern": "item"}), "item"),
                act: ("db.execute_sql", json!({"sql": "INSERT INTO item VALUES (2, 'mark-db')"})),
            },
        ]
    }

    /// Which of the acting calls have had their effect.
    fn effects(&self) -> BTreeMap<&'static str, bool> {
        let staged = run(Command::new("git").arg("-C").arg(&self.repository).args(["diff", "--cached", "--name-only"]));
        let database = rusqlite::Connection::open(&self.database).unwrap();
        let rows: u32 = database.query_row("SELECT count(*) FROM item WHERE name = 'mark-db'", [], |row| row.get(0)).unwrap();
        BTreeMap::from([
            ("files", fs::read_to_string(self.folder.join("b.txt")).is_ok_and(|text| text == "mark-files")),
            ("memory", fs::read_to_string(&self.memory).is_ok_and(|text| text.matches("mark-memory").count() == 1)),
            ("repo", staged.trim() == "new.txt"),
            ("db", rows == 1),
        ])
    }
}

struct Work {
    read: (&'static str, Value, &'static str),
    act: (&'static str, Value),
}

fn call(client: Client, era: Era, url: &str, token: &str, tool: &str, arguments: &Value) -> CallReport {
    let call = ClientCall { url, token, tool, arguments: &arguments.to_string(), era, elicits: false };
    client.call(&call).unwrap()
}

fn passed(report: &CallReport, part: &str) {
    assert!(!report.is_error && !report.raised && report.result_text.contains(part), "{part}: {report:?}");
}

/// A configuration with the five servers: effects as it says, where it says something, else as proposed.
fn config(place: &Place, time: StdioServer) -> String {
    let mut text = HEAD.to_owned();
    for (name, server) in place.servers(time) {
        let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let arguments: Vec<_> = server.arguments.iter().map(|a| quote(a)).collect();
        let program = quote(server.program.to_str().unwrap());
        text += &format!("[systems.{name}]\ncommand = {program}\nargs = [{}]\nunclassified = \"propose\"\n", arguments.join(", "));
        if name == "memory" {
            text += &format!("env = {{ MEMORY_FILE_PATH = {} }}\n", quote(place.memory.to_str().unwrap()));
        }
        if name == "time" {
            text += "[systems.time.effects]\nget_current_time = \"influence\"\n";
        }
        if name == "files" {
            text += "[systems.files.effects]\n\"move_*\" = \"delete\"\n";
        }
    }
    text
}

fn start(place: &Place, time: StdioServer) -> Program {
    let file = place.scratch.write("bailiwick.toml", &config(place, time)).unwrap();
    Program::start(&place.scratch, &["--config", file.to_str().unwrap()])
}

fn tool<'a>(tools: &'a BTreeMap<String, Value>, name: &str) -> (&'a str, &'a str, &'a str) {
    let member = |m: &str| tools[name][m].as_str().unwrap();
    (member("effect"), member("status"), member("by"))
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn five_servers_are_listed_read_and_changed_only_with_approval() {
    let place = Place::new();
    let data = data_dir(&place.scratch);
    run(bailiwick(&data).args(["agent", "add", "clerk"]));
    for person in ["ana", "ben"] {
        run(bailiwick(&data).args(["person", "add", person]));
    }
    let program = start(&place, StdioServer::time());
    let tools = program.tools("ben", &SYSTEMS);

    assert_eq!(tool(&tools, "files.read_text_file"), ("read", "classified", "proposal"));
    assert_eq!(tool(&tools, "files.write_file"), ("write", "classified", "proposal"));
    assert_eq!(tool(&tools, "files.move_file"), ("delete", "classified", "configuration"));
    assert_eq!(tool(&tools, "memory.delete_entities"), ("delete", "classified", "proposal"));
    assert_eq!(tool(&tools, "repo.git_reset"), ("delete", "classified", "proposal"));
    assert_eq!(tool(&tools, "repo.git_log"), ("read", "classified", "proposal"));
    assert_eq!(tool(&tools, "time.convert_time"), ("read", "classified", "proposal"));
    assert_eq!(tool(&tools, "time.get_current_time"), ("influence", "classified", "configuration"));
    assert_eq!(tool(&tools, "db.execute_sql"), ("write", "classified", "proposal"));
    for (name, tool) in &tools {
        assert_eq!(tool["definition"].as_str().map(str::len), Some(64), "{name}");
        println!("{name} {} {} by {} {}", tool["effect"], tool["status"], tool["by"], tool["findings"]);
    }

    let url = program.endpoint();
    let token = program.token("clerk", "*");
    let approver = Approver::at_work(&program, "ben");
    assert!(place.effects().values().all(|done| !done));
    for Work { read: (read, arguments, part), act: (act, acting) } in place.work() {
        for (client, era) in [(Client::PythonMcp, Era::Auto), (Client::TypeScriptV1, Era::Legacy)] {
            let report = call(client, era, &url, &token, read, &arguments);
            passed(&report, part);
            assert!(by_name(&report.tools).into_iter().eq(tools.keys()), "{:?}", report.tools);
        }
        let system = act.split('.').next().unwrap();
        let mark = if matches!(system, "repo" | "time") { acting.to_string() } else { format!("mark-{system}") };
        assert_eq!(approver.approved(&mark), 0);
        approver.expect(&mark, Duration::from_secs(1));
        passed(&call(Client::PythonMcp, Era::Auto, &url, &token, act, &acting), "");
        assert_eq!(approver.approved(&mark), 1, "{act} was not held");
        assert!(place.effects().get(system).is_none_or(|done| *done), "{act}");
    }
    drop(approver);
    program.stop();

    // The same server with other words in its definitions: those that were pinned are set aside until someone looks.
    let mut berlin = StdioServer::time();
    *berlin.arguments.last_mut().unwrap() = "Europe/Berlin".to_owned();
    let program = start(&place, berlin);
    let tools = program.tools("ben", &SYSTEMS);
    assert_eq!(tool(&tools, "time.convert_time").1, "quarantined");
    assert_eq!(tool(&tools, "time.get_current_time").1, "quarantined");
    assert_eq!(tool(&tools, "files.write_file").1, "classified");
    let token = program.token("clerk", "files.read_text_file");
    let report = call(Client::PythonMcp, Era::Auto, &program.endpoint(), &token, "time.convert_time", &place.work()[3].read.1);
    assert!(report.is_error && report.tools == ["files.read_text_file"], "{report:?}");
    program.json("ben", &["tools", "review", "time.convert_time", "--effect", "read"]);
    assert_eq!(tool(&program.tools("ben", &SYSTEMS), "time.convert_time").1, "classified");
    let token = program.token("clerk", "time.convert_time");
    passed(&call(Client::PythonMcp, Era::Auto, &program.endpoint(), &token, "time.convert_time", &place.work()[3].read.1), "21:00");
    program.stop();
}

const SECRET: &str = "canary-8f1f0c2e5d7b4a96";

/// The configuration that a host has had until now.
fn host_file(place: &Place) -> Value {
    let servers = place.servers(StdioServer::time()).map(|(name, server)| {
        let mut entry = json!({"command": server.program, "args": server.arguments});
        match name {
            "memory" => entry["env"] = json!({"MEMORY_FILE_PATH": place.memory}),
            "files" => entry["env"] = json!({"FILES_API_TOKEN": SECRET}),
            _ => {}
        }
        (name.to_owned(), entry)
    });
    json!({"mcpServers": serde_json::Map::from_iter(servers)})
}

/// The one JSON document in what `up` prints.
fn printed_file(output: &str) -> String {
    let (_, after) = output.split_once("\n  {\n").unwrap();
    let (inside, _) = after.split_once("\n  }\n").unwrap();
    format!("{{{inside}}}")
}

fn holds(path: &Path, needle: &str) -> bool {
    if path.is_dir() {
        return fs::read_dir(path).unwrap().any(|entry| holds(&entry.unwrap().path(), needle));
    }
    fs::read(path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|w| w == needle.as_bytes()))
}

/// The environment of the broker's child whose command line holds `part`.
fn environment_of_child(parent: u32, part: &str) -> String {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let all =
        fs::read_dir(format!("/proc/{parent}/task")).unwrap().filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let pids: Vec<String> = all.chain(children).flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    let read = |pid: &str, file: &str| String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()).into_owned();
    let pid = pids.iter().find(|pid| read(pid, "cmdline").contains(part)).unwrap_or_else(|| panic!("no child with `{part}` among {pids:?}"));
    read(pid, "environ")
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn a_hosts_own_file_comes_under_control_and_the_printed_file_takes_its_place() {
    let place = Place::new();
    let given = place.scratch.write("host.json", &host_file(&place).to_string()).unwrap();
    let program = Program::start(&place.scratch, &["--mcp-config", given.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let tools = program.tools("ana", &SYSTEMS);
    let printed = place.scratch.write("printed.json", &printed_file(&program.output())).unwrap();
    let printed = printed.to_str().unwrap();

    // The secret is with the server that needs it and nowhere else in the clear.
    assert!(environment_of_child(program.pid(), "server-filesystem").contains(SECRET));
    assert!(!environment_of_child(program.pid(), "server-memory").contains(SECRET));
    assert!(!holds(&data_dir(&place.scratch), SECRET));
    assert!(!program.output().contains(SECRET));

    let approver = Approver::at_work(&program, "ana");
    let hosts = [
        (Client::PythonMcp, Era::Auto),
        (Client::PythonMcp, Era::Legacy),
        (Client::FastMcp, Era::Auto),
        (Client::TypeScriptV2, Era::Auto),
        (Client::TypeScriptV1, Era::Legacy),
        (Client::Inspector, Era::Auto),
    ];
    for (i, (client, era)) in hosts.into_iter().enumerate() {
        let Work { read: (read, arguments, part), .. } = &place.work()[i % 5];
        let report = call(client, era, printed, "", read, arguments);
        assert!(by_name(&report.tools).into_iter().eq(tools.keys()), "{report:?}");
        passed(&report, part);
        let mark = format!("written by host {i}");
        let file = place.folder.join(format!("{i}.txt"));
        approver.expect(&mark, Duration::from_secs(1));
        let report = call(client, era, printed, "", "files.write_file", &json!({"path": file, "content": mark}));
        passed(&report, "");
        assert_eq!(approver.approved(&mark), 1, "{client:?} {era:?} was not held");
        assert_eq!(fs::read_to_string(file).unwrap(), mark);
    }
    drop(approver);
    // Each host's end was its task's end.
    let tasks = program.json("ana", &["task", "list", "--all"]);
    let tasks = tasks["tasks"].as_array().unwrap();
    assert!(tasks.len() >= 2 * hosts.len(), "{tasks:?}");
    for task in tasks {
        assert_eq!((&task["state"], &task["reason"]), (&json!("closed"), &json!("completed")), "{task}");
    }
    program.stop();
    let sealed = run(bailiwick(&data_dir(&place.scratch)).args(["secret", "list"]));
    assert!(sealed.lines().eq(["files.FILES_API_TOKEN", "memory.MEMORY_FILE_PATH"]), "{sealed}");
}
