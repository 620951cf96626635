//! A stdio server as a process: an environment of its own, a process group of its own, and an end that it cannot refuse.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::config::{Inject, Transport};
use super::{Shared, UpstreamConfig};

/// Variables that programs need to run at all. Nothing here holds a credential.
const ENVIRONMENT: [&str; 12] = ["PATH", "HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "USER", "LOGNAME", "SHELL", "TERM"];

/// How long a process may take to end by itself after its input is closed, and again after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// How much of one line of a server's error output is read, and how much of that is logged, in bytes.
const STDERR_LINE_READ: usize = 16 << 10;
const STDERR_LINE_LOGGED: usize = 4 << 10;

/// A running server and the group that it leads.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Option<u32>,
}

/// The pipes to and from a server.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) input: ChildStdin,
    pub(super) output: ChildStdout,
}

impl Process {
    /// Starts the configured command. The injector is asked here and nowhere else.
    ///
    /// # Errors
    /// Words for the operator: which step failed and the system's error.
    pub(super) fn spawn(shared: &Arc<Shared>) -> Result<(Self, Pipes), String> {
        let mut command = command(&shared.config, &*shared.inject).ok_or("it is not a command")?;
        let mut child = command.spawn().map_err(|error| format!("its process cannot be started: {error}"))?;
        drop(command);
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err("its process has no pipes".to_owned());
        };
        let group = child.id();
        tracing::info!(system = %shared.system(), pid = group, "started the process of a system");
        shared.workers.spawn(log_errors(Arc::clone(shared), errors));
        Ok((Self { child, group }, Pipes { input, output }))
    }

    /// Waits until the process ends, and says how.
    pub(super) async fn exited(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => words(status),
            Err(_) => "its process is gone".to_owned(),
        }
    }

    /// Ends the process and its group. Its input must be closed already: that is the first request to end.
    pub(super) async fn end(mut self) {
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            self.signal("TERM").await;
            if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
                self.signal("KILL").await;
                // A process in the group may have been named by nobody else: the direct child gets it from us, too.
                drop(self.child.start_kill());
                drop(self.child.wait().await);
            }
        }
        // What it started and left behind ends with it.
        self.signal("KILL").await;
    }

    /// Signals the whole group. A shell does it, since we have no unsafe code; a group without members is no error.
    async fn signal(&self, name: &str) {
        let Some(group) = self.group else { return };
        let sent = Command::new("/bin/sh")
            .args(["-c", r#"kill -s "$0" -- "-$1""#, name, &group.to_string()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        if let Err(error) = sent {
            tracing::debug!(%error, "no shell to signal a process group with");
        }
    }
}

fn command(config: &UpstreamConfig, inject: &dyn Inject) -> Option<Command> {
    let Transport::Stdio { command: program, args, cwd, env_allow } = &config.transport else {
        return None;
    };
    let mut command = Command::new(program);
    command.args(args).env_clear();
    let allowed = ENVIRONMENT.into_iter().chain(env_allow.iter().map(String::as_str));
    command.envs(allowed.filter_map(|name| std::env::var_os(name).map(|value| (name, value))));
    inject.env(&mut |name, value| {
        command.env(name, value);
    });
    if let Some(cwd) = cwd {
        command.current_dir(cwd);
    }
    command.process_group(0).kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

fn words(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("its process ended with exit code {code}"),
        None => "its process was ended by a signal".to_owned(),
    }
}

/// Logs what a server writes to its error output: at debug, cut, control characters escaped, injected values taken out.
async fn log_errors(shared: Arc<Shared>, errors: ChildStderr) {
    let mut reader = BufReader::new(errors);
    let mut line = Vec::new();
    while let Ok(Line::Frame | Line::TooLong) = next_line(&mut reader, &mut line, STDERR_LINE_READ).await {
        if tracing::enabled!(tracing::Level::DEBUG) {
            let text = scrubbed(&String::from_utf8_lossy(&line), &*shared.inject);
            tracing::debug!(system = %shared.system(), stderr = %cut(&text));
        }
    }
}

/// The text without any value that the injector puts into the environment.
fn scrubbed(text: &str, inject: &dyn Inject) -> String {
    let mut text = text.to_owned();
    inject.env(&mut |_, value| {
        for part in value.lines().map(str::trim).filter(|part| part.len() >= 4) {
            if text.contains(part) {
                text = text.replace(part, "[secret]");
            }
        }
    });
    text
}

fn cut(text: &str) -> String {
    let mut shown = String::new();
    for char in text.chars() {
        if shown.len() >= STDERR_LINE_LOGGED {
            shown.push_str(" [...]");
            break;
        }
        if char.is_control() { shown.extend(char.escape_default()) } else { shown.push(char) }
    }
    shown
}

/// What [`next_line`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// A whole line is in the buffer, without its newline.
    Frame,
    /// The line was longer than allowed: its start is in the buffer, the rest is gone.
    TooLong,
    End,
}

/// Reads one line of at most `max` bytes into `line`. A longer one is passed over without being kept.
pub(super) async fn next_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>, max: usize) -> std::io::Result<Line> {
    line.clear();
    let mut kept = Line::Frame;
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            // A line that lost its newline may have lost more.
            return Ok(Line::End);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        let room = max.saturating_sub(line.len());
        if part.len() > room {
            kept = Line::TooLong;
        }
        line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
        let used = part.len().saturating_add(usize::from(end.is_some()));
        reader.consume(used);
        if end.is_some() {
            return Ok(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &[u8], max: usize) -> Vec<(Line, Vec<u8>)> {
        let mut reader = BufReader::with_capacity(7, input);
        let (mut found, mut line) = (Vec::new(), Vec::new());
        loop {
            match next_line(&mut reader, &mut line, max).await.unwrap() {
                Line::End => return found,
                kind => found.push((kind, line.clone())),
            }
        }
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_passed_over_and_the_next_is_whole() {
        let found = lines(b"short\n0123456789abcdef\n\nlast\nunfinished", 10).await;
        let expected: [(Line, &[u8]); 4] = [(Line::Frame, b"short"), (Line::TooLong, b"0123456789"), (Line::Frame, b""), (Line::Frame, b"last")];
        assert_eq!(found.iter().map(|(kind, line)| (*kind, line.as_slice())).collect::<Vec<_>>(), expected);
    }

    struct Token;

    impl Inject for Token {
        fn env(&self, put: &mut dyn FnMut(&str, &str)) {
            put("TOKEN", "sk-canary\nsecond-line-of-key");
        }
    }

    #[test]
    fn injected_values_never_reach_the_log() {
        let text = scrubbed("token is sk-canary! second-line-of-key", &Token);
        assert_eq!(text, "token is [secret]! [secret]");
    }

    #[test]
    fn a_logged_line_is_bounded_and_has_no_control_characters() {
        let shown = cut(&"\u{1b}[31m".repeat(10_000));
        assert!(shown.len() < STDERR_LINE_LOGGED + 64);
        assert!(!shown.contains('\u{1b}'));
    }
}
