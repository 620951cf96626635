//! A host, and the broker's own shell on it: a mark for a lease that has ended, the list of revoked keys made anew, and what still runs killed.

use super::client::{Client, Limits};
use super::exchange::HostKeys;
use super::key::{self, Key};
use super::transport::Trouble;
use super::{Admin, MARK, Ssh, serial};
use crate::lease::{AccountName, NodeError, Prefix, Step, TargetCode, TargetError};
use bailiwick_core::Timestamp;
use std::fmt;
use std::time::Duration;

const LIMITS: Limits = Limits { time: Duration::from_secs(30), bytes: 256 * 1024 };
/// sysexits: something may work later; something is not there.
const BUSY: u32 = 75;
const MISSING: u32 = 69;
/// More leases at once on one host are taken for an answer that nobody expects.
const RUNNING_MAX: usize = 10_000;

/// A host, and the keys by which it is known.
#[derive(Clone)]
pub struct Host {
    name: String,
    pub(crate) address: String,
    pub(crate) port: u16,
    pub(crate) keys: HostKeys,
}

impl Host {
    /// `name` is what evidence calls it; `keys` are lines such as `ssh-ed25519 AAAA..`, as `/etc/ssh/ssh_host_*_key.pub` has them at the host. A
    /// host that shows another key is none of ours: none is trusted because it came first.
    ///
    /// # Errors
    /// `Form` if a text is empty or too long, `Roots` if there is no key, or one that cannot be proved: Ed25519, ECDSA on P-256 and RSA can.
    pub fn new(name: &str, address: &str, port: u16, keys: &[String]) -> Result<Self, NodeError> {
        let fits = |text: &str| (1..=253).contains(&text.len()) && !text.chars().any(char::is_control);
        if !fits(name) || !fits(address) {
            return Err(NodeError::Form);
        }
        let keys = HostKeys::parse(keys).ok_or(NodeError::Roots)?;
        Ok(Self { name: name.to_owned(), address: address.to_owned(), port, keys })
    }

    /// What evidence calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is: `web1.example.org:22`.
    #[must_use]
    pub fn place(&self) -> String {
        if self.address.contains(':') { format!("[{}]:{}", self.address, self.port) } else { format!("{}:{}", self.address, self.port) }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.place())
    }
}

/// Why, as the caller of a kind is told.
pub(super) fn target(trouble: &Trouble, step: Step, host: &Host) -> TargetError {
    let code = match trouble {
        Trouble::Lost(_) => TargetCode::Unreachable,
        Trouble::Malformed(_) => TargetCode::Protocol,
        Trouble::Refused(_) => TargetCode::Refused,
    };
    TargetError::new(code, step, host.name(), trouble.words())
}

/// The broker's own shell on a host.
pub(super) struct Shell<'a> {
    client: Client,
    host: &'a Host,
    admin: &'a Admin,
}

impl<'a> Shell<'a> {
    /// Logs in with a key and a certificate that nobody else ever sees.
    pub(super) async fn open(system: &Ssh, host: &'a Host, admin: &'a Admin, step: Step) -> Result<Self, TargetError> {
        let fresh = key::fresh()?;
        let internal = || TargetError::new(TargetCode::Internal, step, host.name(), "a fresh key is no key");
        let key = Key::from_file(fresh.expose()).ok_or_else(internal)?;
        let opened = system.errand(host, &admin.login, &key, random_serial(), step_word(step)).await;
        let step = if step == Step::List { step } else { Step::Connect };
        Ok(Self { client: opened.map_err(|trouble| target(&trouble, step, host))?, host, admin })
    }

    /// Runs a script and gives what it writes. The script is not on any command line, so that it cannot find itself.
    pub(super) async fn run(&mut self, step: Step, script: &str) -> Result<String, TargetError> {
        let command = if self.admin.sudo { "exec sudo -n /bin/sh -s" } else { "exec /bin/sh -s" };
        let script = format!("set -u\nLC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin\nexport LC_ALL PATH\numask 022\nD={}\n{script}", self.admin.folder);
        let done = self.client.run(command, Some(script.as_bytes()), LIMITS).await.map_err(|trouble| target(&trouble, step, self.host))?;
        let words = format!("{} {}", String::from_utf8_lossy(&done.stderr).trim(), if done.late { "(it takes too long)" } else { "" });
        let code = match done.status {
            Some(0) if !done.truncated => return Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
            Some(BUSY) => TargetCode::Busy,
            Some(MISSING) => TargetCode::Refused,
            _ if ["denied", "not permitted", "password is required", "not allowed", "not in the sudoers"].iter().any(|word| words.contains(word)) => {
                TargetCode::Privilege
            }
            _ => TargetCode::Protocol,
        };
        Err(TargetError::new(code, step, self.host.name(), words.trim()))
    }

    /// Leaves the mark, and makes the list of revoked keys anew from the marks of all leases whose certificates are still valid, and from what others
    /// keep in the file `base`. The list is there whole, or as it was.
    pub(super) async fn revoke(&mut self, system: &Ssh, name: &AccountName, until: Timestamp) -> Result<String, TargetError> {
        let script = format!(
            r#"N={name} S={} E={}
cd "$D" || exit {MISSING}
exec 9>>.lock || exit 1
flock -w 20 9 || {{ echo "another end holds the lock" >&2; exit {BUSY}; }}
set -e
printf '# %s\nserial: %s\n' "$N" "$S" > ".new.$N"
touch -d "@$E" ".new.$N"
mv -f ".new.$N" "ended/$N"
touch -d "@$(( $(date +%s) - 3600 ))" .before
find ended -type f ! -newer .before -exec rm -f {{}} +
echo '{}' > .authority
find ended -type f -exec cat {{}} + > .serials
rm -f .list
if [ -s base ]; then cp base .list; ssh-keygen -q -k -u -f .list -s .authority .serials; else ssh-keygen -q -k -f .list -s .authority .serials; fi
chmod 644 .list
sync .list "ended/$N"
mv -f .list revoked_keys
echo "serial $S is revoked, with $(( $(find ended -type f | wc -l) - 1 )) others"
"#,
            serial(name),
            until.as_seconds().max(0),
            system.authority.public_line(),
        );
        self.run(Step::Gate, &script).await
    }

    /// Kills whatever has the lease's mark, its children, and the connection from which it was begun, until nothing is found twice in a row.
    pub(super) async fn kill(&mut self, name: &AccountName) -> Result<String, TargetError> {
        let script = format!(
            r#"{}
n=0 quiet=0 killed=0
while [ $quiet -lt 2 ]; do
  n=$((n + 1))
  pids=$(marked '{}')
  if [ -z "$pids" ]; then quiet=$((quiet + 1))
  elif [ $n -gt 40 ]; then echo "processes $pids do not end" >&2; exit {BUSY}
  else
    quiet=0
    for pid in $(whole "$pids"); do
      case "$(tr '\0' ' ' 2>/dev/null < /proc/$pid/cmdline)" in *"[listener]"*) continue;; esac
      if kill -KILL "$pid"; then killed=$((killed + 1)); fi
    done
  fi
  sleep 0.1
done 2>&1
echo "$killed processes were killed, and none is left"
"#,
            functions(),
            pattern(name.as_str()),
        );
        self.run(Step::Kill, &script).await.map(|words| words.lines().last().unwrap_or_default().to_owned())
    }

    /// The leases that run something here.
    pub(super) async fn running(&mut self, prefix: &Prefix) -> Result<Vec<AccountName>, TargetError> {
        let script = format!(
            "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -E -x '{MARK}={}[0-9a-z]{{26}}' | sort -u | head -n {RUNNING_MAX}\nexit 0\n",
            prefix.as_str()
        );
        let text = self.run(Step::List, &script).await?;
        let names = text.lines().filter_map(|line| line.strip_prefix(MARK)?.strip_prefix('=')?.parse::<AccountName>().ok());
        Ok(names.filter(|name| prefix.covers(name)).collect())
    }

    /// What is missing here: programs, folders and files, one a line.
    pub(super) async fn missing(&mut self) -> Result<Vec<String>, TargetError> {
        let script = r#"for p in ssh-keygen flock grep awk cut sort tr find touch mv cp rm cat date sleep sync chmod wc head timeout env; do
  command -v $p > /dev/null || echo "program $p"
done
[ -d "$D" ] || echo "folder $D"
[ -d "$D/ended" ] || echo "folder $D/ended"
[ -f "$D/revoked_keys" ] || echo "file $D/revoked_keys"
[ -w "$D" ] && [ -w "$D/ended" ] || echo "write $D"
[ -r /proc/self/environ ] || echo "procfs"
exit 0
"#;
        Ok(self.run(Step::Verify, script).await?.lines().map(str::to_owned).collect())
    }
}

/// `marked PATTERN`: processes whose environment, or command line before that is set, has the mark. `whole PIDS`: these, their children, and the nearest
/// sshd that each of them descends from.
fn functions() -> &'static str {
    r#"marked() { grep -l -e "$1" /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3 | sort -u | tr '\n' ' '; }
whole() {
  cat /proc/[0-9]*/status 2>/dev/null | awk -v pids="$1" '
    /^Name:/ { n = $2 }
    /^Pid:/ { p = $2; name[p] = n }
    /^PPid:/ { parent[p] = $2 }
    END {
      k = split(pids, t, " ")
      for (i = 1; i <= k; i++) {
        all[t[i]] = 1
        q = parent[t[i]]
        for (d = 0; d < 64 && q > 1; d++) {
          if (name[q] == "sshd" || name[q] == "sshd-session") { all[q] = 1; break }
          q = parent[q]
        }
      }
      do { more = 0; for (q in parent) if (!(q in all) && (parent[q] in all)) { all[q] = 1; more = 1 } } while (more)
      for (q in all) print q
    }'
}"#
}

/// A pattern that does not match itself: it stands on command lines too.
fn pattern(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().map(|c| format!("[{c}]")).unwrap_or_default();
    format!("{MARK}={first}{}", letters.as_str())
}

/// For certificates of our own that live for one errand.
pub(super) fn random_serial() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness there is no key either, so that no certificate gets the number 1.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() { 1 } else { u64::from_be_bytes(bytes).max(1) }
}

const fn step_word(step: Step) -> &'static str {
    match step {
        Step::List => "list",
        Step::Verify => "verify",
        _ => "end",
    }
}
