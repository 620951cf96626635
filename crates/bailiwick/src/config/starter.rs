//! What `bailiwick init` writes, and the configuration of `bailiwick up` when nothing else is given.

/// The commented starting point.
pub const STARTER: &str = include_str!("starter.toml");

/// The configuration on embedded defaults: one person who owns the sample agent, the sample shop started as a child process.
#[must_use]
pub fn default_for_one_person(person: &str, program: &str, shop_file: &str) -> String {
    let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let (person, program, shop_file) = (quote(person), quote(program), quote(shop_file));
    format!(
        r#"# Embedded defaults: written by `bailiwick up`, which reads this file from now on. Edit it freely.
trust_domain = "bailiwick.local"

[approvals]
# There is one person here, so the owner may approve; the record marks each such approval as `own_request`.
owner_may_approve = true

[people.{person}]
roles = ["owner", "approver", "reviewer", "auditor", "operator"]

[agents.assistant]
owner = {person}
purpose = "helps with the sample shop"
risk = "medium"
review_by = "2027-12-31"
tools = ["*"]

{system}"#,
        system = shop_system(&program, &shop_file),
    )
}

/// The `[systems]` part of the sample shop, with the effect of each of its tools and what their answers bear, as the shop itself names it. `program` and
/// `shop_file` are TOML strings, quotes included.
pub(crate) fn shop_system(program: &str, shop_file: &str) -> String {
    let effects: String = crate::shop::effects().map(|(tool, effect)| format!("{tool} = \"{effect}\"\n")).collect();
    let labels: String = crate::shop::LABELS.iter().map(|(tool, labels)| format!("{tool} = {labels:?}\n")).collect();
    format!(
        "[systems.shop]\ncommand = {program}\nargs = [\"shop\", \"--file\", {shop_file}]\n[systems.shop.effects]\n{effects}\
         # What a task that reads these carries from then on; policy reads it as context.labels.\n[systems.shop.tool_labels]\n{labels}"
    )
}
