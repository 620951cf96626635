//! The verifiers of strangers, each as a command that answers by its exit status: Go's `x/mod/sumdb`, `aics-tlog`, `tlog-scales`.

use std::path::{Path, PathBuf};
use std::process::Command;

use bailiwick_testkit::Scratch;
use bailiwick_testkit::verifiers::{go_build, verifier};

/// The programs that drive the verifiers, as an auditor has them from the repository.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign")
}

/// A code base that nobody here wrote. Each command checks the signature, every entry and every tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// `golang.org/x/mod/sumdb`, the code behind sum.golang.org.
    Go,
    /// PyPI `aics-tlog`.
    AicsTlog,
    /// PyPI `tlog-scales`.
    TlogScales,
}

pub(crate) const ALL: [Stranger; 3] = [Stranger::Go, Stranger::AicsTlog, Stranger::TlogScales];

/// What a verifier said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) accepted: bool,
    pub(crate) words: String,
}

/// The verifiers, ready to run.
pub(crate) struct Strangers {
    folder: Scratch,
}

impl Strangers {
    /// Compiles the Go program; the others are installed.
    pub(crate) fn ready() -> Self {
        let folder = Scratch::new("bailiwick-strangers").unwrap();
        go_build(&sources().join("verify.go"), &folder.path().join("verify")).unwrap();
        Self { folder }
    }

    /// Asks one about the log in `directory`, whose verifier key is in the file `vkey`.
    pub(crate) fn ask(&self, stranger: Stranger, directory: &Path, vkey: &Path) -> Answer {
        let script = |name: &str| {
            let mut command = Command::new(verifier("python"));
            command.arg(sources().join(name)).args([directory, vkey]);
            command
        };
        let done = match stranger {
            Stranger::Go => Command::new(self.folder.path().join("verify")).arg(directory).arg(std::fs::read_to_string(vkey).unwrap()).output(),
            Stranger::AicsTlog => script("audit_aics.py").output(),
            Stranger::TlogScales => script("audit_scales.py").output(),
        };
        let done = done.unwrap();
        let words = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        Answer { accepted: done.status.success(), words }
    }
}
