//! The rules of an account: those of its rights, in an order in which nothing dangerous comes with a category, and never the administration.

/// A rule is at most this long.
const RULE_MAX: usize = 256;

/// Is this a rule that a right may have? Keys, channels, categories and commands; no passwords, no selectors, no administration.
pub(super) fn is_allowed(rule: &str) -> bool {
    let pattern = ["~", "%R~", "%W~", "%RW~", "&"].iter().find_map(|kind| rule.strip_prefix(kind));
    if rule.len() > RULE_MAX {
        return false;
    }
    if let Some(pattern) = pattern {
        return !pattern.is_empty() && pattern.chars().all(|c| !c.is_whitespace() && !c.is_control());
    }
    let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"|_.-".contains(&b));
    match rule.split_at_checked(1) {
        Some(("+", name)) => match name.strip_prefix('@') {
            Some(category) => word(category) && !matches!(category, "all" | "admin" | "dangerous"),
            None => word(name) && name != "acl" && !name.starts_with("acl|"),
        },
        Some(("-", name)) => word(name.strip_prefix('@').unwrap_or(name)),
        _ => false,
    }
}

/// What comes after `ACL SETUSER name reset on #..`. Categories first, then nothing dangerous, then the commands that are named one by one,
/// and at last no administration, whatever was named.
pub(super) fn of<'a>(rights: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let rules: Vec<_> = rights.map(String::as_str).collect();
    let is_category = |rule: &str| rule.starts_with("+@") || rule.starts_with("-@");
    let is_command = |rule: &str| !is_category(rule) && (rule.starts_with('+') || rule.starts_with('-'));
    let patterns = rules.iter().copied().filter(|rule| !is_category(rule) && !is_command(rule));
    let categories = rules.iter().copied().filter(|rule| is_category(rule));
    let commands = rules.iter().copied().filter(|rule| is_command(rule));
    ["resetkeys", "resetchannels"]
        .into_iter()
        .chain(patterns)
        .chain(categories)
        .chain(["-@dangerous"])
        .chain(commands)
        .chain(["-@admin", "-acl"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_has_keys_channels_categories_and_commands_only() {
        for rule in ["~orders:*", "%R~a", "%RW~*", "&news.*", "+get", "+@read", "-@slow", "-keys", "+client|setname", "+ft.search"] {
            assert!(is_allowed(rule), "{rule}");
        }
        for rule in [
            "",
            "~",
            "~a b",
            "+",
            "+@",
            "-",
            "on",
            "nopass",
            "reset",
            "allkeys",
            ">password",
            "#00",
            "<x",
            "!00",
            "(+get ~x)",
            "clearselectors",
            "+@all",
            "+@admin",
            "+@dangerous",
            "+acl",
            "+acl|setuser",
            "+GET",
            "+get ~x",
            "allcommands",
            "sanitize-payload",
            "~a\r\n",
        ] {
            assert!(!is_allowed(rule), "{rule}");
        }
        assert!(!is_allowed(&format!("~{}", "a".repeat(RULE_MAX))));
    }

    #[test]
    fn what_is_dangerous_must_be_named_and_what_administers_cannot_be() {
        let rights: Vec<String> = ["+keys", "+@read", "~orders:*", "+config|set"].map(str::to_owned).to_vec();
        assert_eq!(
            of(rights.iter()),
            ["resetkeys", "resetchannels", "~orders:*", "+@read", "-@dangerous", "+keys", "+config|set", "-@admin", "-acl"]
        );
        assert_eq!(of([].iter()), ["resetkeys", "resetchannels", "-@dangerous", "-@admin", "-acl"]);
    }
}
