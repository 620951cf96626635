//! A real Chromium, driven over its debugging pipe: pages are opened, filled in and read as a person would, with no library between.
//!
//! `cargo xtask test` installs Chromium where there is none. A command that this has no method for is sent by [`Page::command`].

#![expect(clippy::indexing_slicing, reason = "of JSON values, where what is missing is null")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::Scratch;

/// A browser that does not answer within this is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a page is looked at while something is waited for.
const AGAIN: Duration = Duration::from_millis(50);

/// Where Chromium may be.
const PROGRAMS: [&str; 4] = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome", "/usr/bin/google-chrome-stable"];

/// A browser with a profile of its own. It ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    next: u64,
    _profile: Scratch,
}

/// One tab of a browser.
#[derive(Debug)]
pub struct Page<'a> {
    browser: &'a mut Browser,
    session: String,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked first, so that its own children end with it.
        let _asked = self.send(None, "Browser.close", &json!({}));
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(AGAIN);
        }
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Browser {
    /// Where Chromium is on this machine.
    pub fn program() -> Result<PathBuf> {
        let found = PROGRAMS.iter().map(Path::new).find(|p| p.exists());
        found.map(Path::to_path_buf).context("there is no Chromium; `cargo xtask test` installs it")
    }

    /// Starts one without a window.
    pub fn start() -> Result<Self> {
        let profile = Scratch::new("browser").context("a profile")?;
        // Chromium speaks on the descriptors 3 and 4; the shell puts our pipe there.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"]).arg(Self::program()?);
        command.args([
            "--headless=new",
            "--remote-debugging-pipe",
            // Tests run in containers and as root, where Chromium's own sandbox cannot be made. It sees our pages only.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-extensions",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--no-default-browser-check",
            "--no-proxy-server",
            "--password-store=basic",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("cannot start Chromium")?;
        let to = child.stdin.take().context("its pipe")?;
        let mut out = BufReader::new(child.stdout.take().context("its pipe")?);
        let (give, from) = channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            while out.read_until(0, &mut bytes).is_ok_and(|n| n > 0) {
                if bytes.last() == Some(&0) {
                    bytes.pop();
                }
                if let Ok(message) = serde_json::from_slice(&bytes)
                    && give.send(message).is_err()
                {
                    return;
                }
                bytes.clear();
            }
        });
        Ok(Self { child, to, from, next: 0, _profile: profile })
    }

    /// Opens a tab.
    pub fn page(&mut self) -> Result<Page<'_>> {
        let made = self.command(None, "Target.createTarget", &json!({ "url": "about:blank" }))?;
        let target = made["targetId"].as_str().context("a target")?.to_owned();
        let attached = self.command(None, "Target.attachToTarget", &json!({ "targetId": target, "flatten": true }))?;
        let session = attached["sessionId"].as_str().context("a session")?.to_owned();
        let mut page = Page { browser: self, session };
        page.command("Page.enable", &json!({}))?;
        page.command("Runtime.enable", &json!({}))?;
        Ok(page)
    }

    fn send(&mut self, session: Option<&str>, method: &str, params: &Value) -> Result<u64> {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if let (Some(session), Some(members)) = (session, message.as_object_mut()) {
            members.insert("sessionId".to_owned(), json!(session));
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).context("the browser ended")?;
        self.to.flush().context("the browser ended")?;
        Ok(self.next)
    }

    fn command(&mut self, session: Option<&str>, method: &str, params: &Value) -> Result<Value> {
        let id = self.send(session, method, params)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut message = match self.from.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => bail!("the browser did not answer `{method}`"),
                Err(RecvTimeoutError::Disconnected) => bail!("the browser ended during `{method}`"),
            };
            // Events, and what tabs tell without being asked.
            if message["id"] != json!(id) {
                continue;
            }
            if let Some(error) = message.get("error") {
                bail!("`{method}`: {error}");
            }
            return Ok(message["result"].take());
        }
    }
}

impl Page<'_> {
    /// Sends any command of the Chrome DevTools Protocol to this tab.
    pub fn command(&mut self, method: &str, params: &Value) -> Result<Value> {
        let session = self.session.clone();
        self.browser.command(Some(&session), method, params)
    }

    /// Goes to an address, and waits until its document is whole.
    pub fn goto(&mut self, url: &str) -> Result<()> {
        let went = self.command("Page.navigate", &json!({ "url": url }))?;
        if let Some(error) = went.get("errorText").and_then(Value::as_str) {
            bail!("`{url}`: {error}");
        }
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")?;
        Ok(())
    }

    /// What an expression gives in the page, awaited if it is a promise.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true });
        let mut answer = self.command("Runtime.evaluate", &asked)?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("`{expression}` threw {thrown}");
        }
        Ok(answer["result"]["value"].take())
    }

    /// Waits until an expression is true, over navigations too.
    pub fn wait_for(&mut self, expression: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // While the page changes there may be no context to ask in.
            if self.evaluate(&format!("Boolean({expression})")).is_ok_and(|v| v == json!(true)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("waited in vain for `{expression}` at {}:\n{}", self.url().unwrap_or_default(), self.text().unwrap_or_default());
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Where the tab is.
    pub fn url(&mut self) -> Result<String> {
        Ok(self.evaluate("location.href")?.as_str().unwrap_or_default().to_owned())
    }

    /// What a person reads there.
    pub fn text(&mut self) -> Result<String> {
        Ok(self.evaluate("document.body ? document.body.innerText : ''")?.as_str().unwrap_or_default().to_owned())
    }

    /// Types into a field, found by a CSS selector.
    pub fn fill(&mut self, selector: &str, text: &str) -> Result<()> {
        self.wait_for(&format!("document.querySelector({})", json!(selector)))?;
        self.evaluate(&format!("(() => {{ const e = document.querySelector({}); e.focus(); e.value = ''; }})()", json!(selector)))?;
        self.command("Input.insertText", &json!({ "text": text }))?;
        Ok(())
    }

    /// Clicks the middle of an element, found by a CSS selector, with the mouse: what lies over it gets the click.
    pub fn click(&mut self, selector: &str) -> Result<()> {
        self.wait_for(&format!("document.querySelector({})", json!(selector)))?;
        let middle = format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{block: 'center', behavior: 'instant'}}); \
             const r = e.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]; }})()",
            json!(selector)
        );
        let at = self.evaluate(&middle)?;
        for kind in ["mousePressed", "mouseReleased"] {
            self.command("Input.dispatchMouseEvent", &json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 }))?;
        }
        Ok(())
    }
}
