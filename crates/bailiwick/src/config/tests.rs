//! What a right and a wrong configuration give.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse("bailiwick.toml", text, Path::new("."))
}

const AGENT: &str = "[people.ana]\nroles = [\"owner\"]\n[agents.a]\nowner = \"ana\"\npurpose = \"p\"\nrisk = \"low\"\nreview_by = \"2027-01-01\"\n";

#[test]
fn the_starter_and_the_embedded_defaults_are_valid() {
    parse(STARTER).map_err(|e| e.report()).unwrap();
    parse(&default_for_one_person("ana@example.org", "/x/bailiwick", "/x/shop.sqlite")).map_err(|e| e.report()).unwrap();
}

#[test]
fn all_labels_that_cover_a_tool_count_and_a_wrong_one_is_refused() {
    let of = |text: &str, tool: &str| {
        let config = parse(&format!("[systems.s]\ncommand = \"x\"\n{text}")).unwrap();
        let labels = config.systems.values().next().unwrap().labels_of(tool).unwrap();
        labels.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let text = "labels = [\"untrusted\"]\n[systems.s.tool_labels]\n\"find_*\" = [\"pii\"]\nfind_all = [\"secret\", \"untrusted\"]\n\"resources/read\" = [\"web\"]\n";
    assert_eq!(of(text, "find_all"), ["pii", "secret", "untrusted"]);
    assert_eq!(of(text, "find_one"), ["pii", "untrusted"]);
    assert_eq!(of(text, "resources/read"), ["untrusted", "web"]);
    assert_eq!(of(text, "other"), ["untrusted"]);
    assert!(of("", "other").is_empty(), "no label where nobody named one");
    let config = parse(&format!("[systems.s]\ncommand = \"x\"\n{text}")).unwrap();
    let entry = config.systems.values().next().unwrap();
    assert_eq!(entry.idle_labels(&["find_one"]).collect::<Vec<_>>(), ["find_all"], "what marks nothing is told");
    for wrong in ["Pii", "", "a b"] {
        assert!(parse(&format!("[systems.s]\ncommand = \"x\"\nlabels = [\"{wrong}\"]\n")).is_err(), "{wrong}");
    }
}

#[test]
fn a_name_of_no_operation_is_refused_with_the_nearest_one_and_the_place() {
    let with = |name: &str| parse(&format!("[systems.s]\ncommand = \"x\"\n[systems.s.tool_labels]\n\"{name}\" = [\"web\"]\n"));
    for right in [
        "resources/read",
        "resources/*",
        "notifications/message",
        "notifications/*",
        "elicitation/create",
        "sampling/createMessage",
        "roots/list",
        "tools/list",
        "tools/*",
        "completion/complete",
        "prompts/get",
        "resources/templates/list",
        "resources/subscribe",
    ] {
        with(right).map_err(|e| e.report()).unwrap();
    }
    for (wrong, nearest) in [
        ("resource/read", "resources/read"),
        ("resources/raed", "resources/read"),
        ("resource/*", "resources/"),
        ("notification/message", "notifications/message"),
        ("elicitation/creat", "elicitation/create"),
        ("prompt/get", "prompts/get"),
        ("tools/call", "tools/list"),
        ("/", ""),
    ] {
        let error = with(wrong).unwrap_err();
        let report = error.report();
        assert!(
            error.to_string().contains(&format!("names `{wrong}`")) && error.to_string().contains(&format!("the nearest is `{nearest}")),
            "{report}"
        );
        assert!(report.contains("config.invalid") && report.contains("docs/concepts/labels.md"), "{report}");
        assert_eq!(error.line_column().unwrap().0, 1, "{report}");
    }
}

#[test]
fn a_call_brings_the_labels_of_its_answer_of_relayed_questions_and_of_what_is_heard_meanwhile() {
    let of = |relay: &str| {
        let names = "look = [\"web\"]\n\"elicitation/create\" = [\"asked\"]\n\"sampling/createMessage\" = [\"sampled\"]\n\"roots/list\" = [\"rooted\"]\n\"notifications/message\" = [\"logged\"]\n";
        let config = parse(&format!("[systems.s]\ncommand = \"x\"\nrelay = [{relay}]\n[systems.s.tool_labels]\n{names}")).unwrap();
        let (answer, heard) = config.systems.values().next().unwrap().labels_of_call("look").unwrap();
        let words = |labels: bailiwick_core::Labels| labels.iter().map(ToString::to_string).collect::<Vec<_>>();
        (words(answer), words(heard))
    };
    assert_eq!(of(""), (vec!["web".to_owned()], vec!["logged".to_owned(), "web".to_owned()]), "what is not relayed is not heard");
    let (answer, heard) = of("\"elicitation\", \"sampling\", \"roots\"");
    assert_eq!(answer, ["asked", "rooted", "sampled", "web"]);
    assert_eq!(heard, ["asked", "logged", "rooted", "sampled", "web"]);
}

#[test]
fn the_list_of_tools_bears_labels_only_where_it_is_named() {
    let of = |names: &str| {
        let config = parse(&format!("[systems.s]\ncommand = \"x\"\nlabels = [\"untrusted\"]\n[systems.s.tool_labels]\n{names}")).unwrap();
        let labels = config.systems.values().next().unwrap().labels_of("tools/list").unwrap();
        labels.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(of("").is_empty() && of("\"*\" = [\"web\"]\n\"t*\" = [\"web\"]").is_empty(), "these are about tools");
    assert_eq!(of("\"tools/list\" = [\"web\"]"), ["untrusted", "web"]);
    assert_eq!(of("\"tools/*\" = []"), ["untrusted"], "an answer like any other, then");
}

#[test]
fn more_labels_than_a_task_can_carry_are_refused_however_they_are_spread() {
    let system = |name: &str, labels: std::ops::Range<usize>| {
        let labels: Vec<String> = labels.map(|n| format!("\"l{n}\"")).collect();
        format!("[systems.{name}]\ncommand = \"x\"\n[systems.{name}.tool_labels]\nt = [{}]\n", labels.join(", "))
    };
    assert!(parse(&(system("a", 0..20) + &system("b", 10..32))).is_ok());
    let error = parse(&(system("a", 0..20) + &system("b", 10..33))).unwrap_err();
    assert!(error.to_string().contains("more than 32 labels"), "{error}");
}

#[test]
fn the_sample_shop_and_servers_that_nobody_described_say_what_their_answers_bear() {
    let config = parse(&default_for_one_person("ana@example.org", "/x/bailiwick", "/x/shop.sqlite")).unwrap();
    let shop = config.systems.values().next().unwrap();
    let of = |tool: &str| shop.labels_of(tool).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!((of("list_tickets"), of("find_customers")), (vec!["model-authored".to_owned(), "untrusted".to_owned()], vec!["pii".to_owned()]));
    assert!(of("list_suppliers").is_empty());
    let known: Vec<&str> = crate::shop::effects().map(|(tool, _)| tool).collect();
    assert!(crate::shop::LABELS.iter().all(|(tool, _)| known.contains(tool)), "a label of a tool that there is not marks nothing");
    let client = ClientFile::parse("c", r#"{"mcpServers":{"web":{"command":"x"}}}"#, |_| None).unwrap();
    let taken = parse(&client.to_toml()).unwrap();
    assert_eq!(taken.systems.values().next().unwrap().labels_of("fetch").unwrap().iter().map(|l| l.as_str()).collect::<Vec<_>>(), ["untrusted"]);
}

#[test]
fn an_empty_file_gives_nobody_anything() {
    let config = parse("").unwrap();
    assert!(config.agents.is_empty() && config.systems.is_empty() && !config.owner_may_approve);
}

#[test]
fn an_unknown_setting_is_refused_with_its_place() {
    let error = parse("[tasks]\nttl_minuts = 5\n").unwrap_err();
    assert_eq!(error.line_column(), Some((2, 1)));
    insta::assert_snapshot!(error.report());
}

#[test]
fn an_owner_who_is_nobody_is_refused_with_the_place() {
    let error = parse(&AGENT.replace("owner = \"ana\"", "owner = \"bob\"")).unwrap_err();
    assert_eq!(error.line_column(), Some((4, 9)));
    insta::assert_snapshot!(error.report());
}

#[test]
fn an_agent_without_an_owner_is_refused() {
    assert!(parse(&AGENT.replace("owner = \"ana\"\n", "")).unwrap_err().to_string().contains("owner"));
}

#[test]
fn a_system_is_reached_in_exactly_one_way() {
    for bad in
        ["", "command = \"x\"\nurl = \"http://h/\"", "url = \"ftp://h/\"", "url = \"https://user:pw@h/\"", "url = \"http://h/\"\nenv = { A = \"b\" }"]
    {
        assert!(parse(&format!("[systems.s]\n{bad}\n")).is_err(), "{bad}");
    }
}

#[test]
fn the_most_exact_effect_wins() {
    let config =
        parse("[systems.s]\ncommand = \"x\"\n[systems.s.effects]\n\"read_*\" = \"read\"\n\"read_and_*\" = \"write\"\nread_and_look = \"read\"\n")
            .unwrap();
    let system = config.systems.values().next().unwrap();
    assert_eq!(system.effect_of("read_file"), Some(Effect::Read));
    assert_eq!(system.effect_of("read_and_burn"), Some(Effect::Write));
    assert_eq!(system.effect_of("read_and_look"), Some(Effect::Read));
    assert_eq!(system.effect_of("burn"), None);
}

#[test]
fn a_tool_pattern_has_its_star_only_at_the_end() {
    for good in ["*", "shop.*", "shop.show_order"] {
        assert!(ToolPattern::parse(good).is_ok(), "{good}");
    }
    for bad in ["", "shop", "*.x", "sh*", "shop.a*", "Shop.*"] {
        assert!(ToolPattern::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_client_file_comes_under_control_and_its_secrets_leave_it() {
    let text = r#"{ // a comment
      "mcpServers": {
        "GitHub Tools": {"command": "npx", "args": ["-y", "srv"], "env": {"TOKEN": "${GH}", "MODE": "ro"}},
        "remote": {"type": "http", "url": "https://h.example/mcp", "headers": {"Authorization": "Bearer abc"}}
    }}"#;
    let file = ClientFile::parse("mcp.json", text, |v| (v == "GH").then(|| "s3cret".to_owned())).map_err(|e| e.report()).unwrap();
    let secrets: Vec<_> = file.secrets().collect();
    assert_eq!(secrets, [("github-tools.MODE", "ro"), ("github-tools.TOKEN", "s3cret"), ("remote.authorization", "Bearer abc")]);
    let toml = file.to_toml();
    assert!(!toml.contains("s3cret") && !toml.contains("abc"), "{toml}");
    let config = parse(&toml).map_err(|e| e.report()).unwrap();
    assert_eq!(config.systems.len(), 2);
    insta::assert_snapshot!(toml);
}

#[test]
fn the_servers_form_of_vs_code_is_read_and_its_prompts_are_refused() {
    let good = r#"{"servers": {"a": {"type": "stdio", "command": "x"}}}"#;
    assert_eq!(ClientFile::parse("mcp.json", good, |_| None).unwrap().servers.len(), 1);
    let asks = r#"{"servers": {"a": {"command": "x", "env": {"K": "${input:key}"}}}}"#;
    assert!(ClientFile::parse("mcp.json", asks, |_| None).unwrap_err().to_string().contains("input:key"));
}

#[test]
fn a_broken_client_file_is_refused_with_its_place() {
    let error = ClientFile::parse("mcp.json", "{\n  \"mcpServers\": {,}\n}", |_| None).unwrap_err();
    assert_eq!(error.line_column(), Some((2, 18)));
}
