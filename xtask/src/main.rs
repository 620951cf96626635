//! Every chore of the project: `cargo xtask test|ci|gen|bench|conformance|tools`.

mod bench;
mod ci;
mod conformance;
mod generate;
#[path = "../../crates/testkit/src/process.rs"]
#[expect(unreachable_pub, reason = "the file is shared with the testkit, where these are public")]
// A file and not a dependency: that would build rmcp before every chore.
mod process;
mod test;
mod tidy;
mod tools;

use std::io::{Write as _, stderr};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

fn main() -> ExitCode {
    match chore() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a backtrace: where a chore failed says nothing, what failed says all.
            drop(writeln!(stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn chore() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in the workspace")?;
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("bench") => bench::run(workspace, arguments),
        Some("ci") => ci::run(workspace, arguments),
        Some("conformance") => conformance::run(workspace, arguments),
        Some("gen") => generate::run(workspace, arguments),
        Some("test") => test::run(workspace, arguments),
        Some("tidy") => tidy::check(workspace),
        Some("tools") => tools::install(workspace).map(drop),
        other => bail!("unknown chore `{}`; there are: bench, ci, conformance, gen, test, tidy, tools", other.unwrap_or_default()),
    }
}
