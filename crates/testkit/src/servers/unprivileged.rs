//! Database servers refuse to run as root: their processes run as `nobody` then, in folders that are theirs.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

const NOBODY: u32 = 65534;

/// The command, as `nobody` if we are root.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    if are_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    // No setting of whoever runs the tests reaches a server or its client.
    for name in
        ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSFILE", "PGSERVICE", "PGOPTIONS", "MYSQL_HOST", "MYSQL_TCP_PORT", "MYSQL_UNIX_PORT"]
    {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C.UTF-8").current_dir("/");
    command
}

/// Makes a folder that such a command may write to.
pub fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path)?;
    hand_over(path)
}

/// Gives a file or a folder to whom such a command runs as.
pub fn hand_over(path: &Path) -> Result<()> {
    if are_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).with_context(|| format!("cannot give `{}` away", path.display()))?;
    }
    Ok(())
}

/// Runs it to its end; what it wrote to standard output.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let done = command.output().with_context(|| format!("cannot start `{name}`"))?;
    if !done.status.success() {
        bail!("`{name}` ended with {}:\n{}{}", done.status, String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    }
    Ok(String::from_utf8(done.stdout)?)
}

/// The first of these programs that is there.
pub fn find(programs: &[&str]) -> Result<PathBuf> {
    let found = programs.iter().map(PathBuf::from).find(|program| program.is_file());
    found.with_context(|| format!("none of {programs:?} is installed\nhint: `cargo xtask test` installs them"))
}

/// Whose is what we make?
fn are_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|ours| ours.uid() == 0)
}
