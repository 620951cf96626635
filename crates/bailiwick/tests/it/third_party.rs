//! Third-party clients and servers, unmodified, do their work through the real program.

mod clients;
mod dpop;
mod interactive;
mod program;
mod servers;
mod tap;

/// Names in alphabetical order: which tools are listed is one question, in which order their system lists them another.
fn by_name(names: &[String]) -> Vec<&str> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names
}
