//! What a traced process did to its files, in order, and what a loss of power at any moment of it would leave of them.
//!
//! The trace is strace's. The model of the disk is harsh: what a synchronisation that has returned covers is there; of everything else,
//! any part may be there or not, in any order, torn at any sector.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is traced: every call that can change a file, make it durable, or tell somebody.
const CALLS: &str = "openat,creat,write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg,fsync,fdatasync,sync_file_range,msync,\
                     ftruncate,truncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,copy_file_range,io_uring_enter";
/// Bytes of one write that the trace holds. Longer ones are cut, which is good for zeros only.
const HELD: usize = 1 << 17;
const SECTOR: usize = 512;
/// The file into which calls are written before the database has them.
pub(crate) const JOURNAL: &str = "bailiwick.journal";

/// The command that runs `program` under strace and writes the trace to `out`.
pub(crate) fn traced(program: &Path, out: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-xx", "--seccomp-bpf", "-s", &HELD.to_string(), "-e", &format!("trace={CALLS}"), "-o"]);
    command.arg(out).arg(program);
    command
}

/// One call of the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// The file, socket or pipe that it is about, as strace names it.
    pub(crate) path: PathBuf,
    pub(crate) what: What,
    /// What it returned. `None`: it never did.
    pub(crate) returned: Option<i64>,
}

/// What a call does, as far as files are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Bytes; without a place, at the end of what this file or socket got so far.
    Write {
        at: Option<u64>,
        data: Vec<u8>,
    },
    /// Makes the file's earlier writes durable.
    Sync,
    /// The file has this length from now on.
    Length(u64),
    /// It is opened; made if it was not there.
    Open {
        makes: bool,
        cuts: bool,
        synchronous: bool,
    },
    Remove,
    Other,
}

/// A moment: a call begins, or returns. The number is the call's place in [`Trace::calls`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Begin(usize),
    End(usize),
}

/// What a process and its threads did, in order.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) calls: Vec<Call>,
    pub(crate) moments: Vec<Moment>,
}

impl Trace {
    pub(crate) fn read(file: &Path) -> Self {
        Self::parse(&std::fs::read(file).unwrap())
    }

    /// Reads strace's text. Whatever it does not understand of a call that is traced stops the test.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut trace = Self::default();
        let mut open: BTreeMap<&[u8], usize> = BTreeMap::new();
        for line in text.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let space = line.iter().position(|b| *b == b' ').unwrap();
            let (thread, rest) = (&line[..space], line[space..].trim_ascii_start());
            if rest.starts_with(b"+++") || rest.starts_with(b"---") {
                continue;
            }
            if let Some(resumed) = rest.strip_prefix(b"<... ") {
                // A call that began before strace was attached has no beginning here.
                let Some(call) = open.remove(thread) else { continue };
                trace.calls[call].returned = returned(resumed);
                trace.moments.push(Moment::End(call));
                continue;
            }
            let unfinished = rest.ends_with(b"<unfinished ...>");
            let number = trace.calls.len();
            trace.calls.push(call(rest, unfinished));
            trace.moments.push(Moment::Begin(number));
            if unfinished {
                open.insert(thread, number);
            } else {
                trace.moments.push(Moment::End(number));
            }
        }
        trace
    }

    /// Calls that give bytes away, with the moment at which each began: to files, pipes and sockets.
    pub(crate) fn told(&self) -> impl Iterator<Item = (usize, &Path, &[u8])> {
        self.moments.iter().enumerate().filter_map(|(at, moment)| match moment {
            Moment::Begin(n) => match &self.calls[*n].what {
                What::Write { data, .. } => Some((at, self.calls[*n].path.as_path(), data.as_slice())),
                _ => None,
            },
            Moment::End(_) => None,
        })
    }
}

/// The number after the last ` = `.
fn returned(text: &[u8]) -> Option<i64> {
    let text = String::from_utf8_lossy(text);
    let (_, value) = text.rsplit_once(" = ").or_else(|| text.rsplit_once(")= "))?;
    let digits: String = value.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
    digits.parse().ok()
}

fn call(text: &[u8], unfinished: bool) -> Call {
    let paren = text.iter().position(|b| *b == b'(').unwrap();
    let name = String::from_utf8(text[..paren].to_vec()).unwrap();
    let arguments = &text[paren + 1..];
    let (mut path, mut what) = (first_path(arguments), What::Other);
    match name.as_str() {
        "write" | "sendto" => what = What::Write { at: None, data: strings(arguments).concat() },
        "pwrite64" => what = What::Write { at: Some(last_number(text, unfinished)), data: strings(arguments).concat() },
        "writev" | "sendmsg" | "sendmmsg" => what = What::Write { at: None, data: strings(arguments).concat() },
        "pwritev" => what = What::Write { at: Some(last_number(text, unfinished)), data: strings(arguments).concat() },
        "fsync" | "fdatasync" => what = What::Sync,
        "ftruncate" => what = What::Length(last_number(text, unfinished)),
        "openat" => {
            path = string_path(arguments, 0);
            let plain = String::from_utf8_lossy(arguments);
            let flag = |f: &str| plain.contains(f);
            what = What::Open { makes: flag("O_CREAT"), cuts: flag("O_TRUNC"), synchronous: flag("O_DSYNC") || flag("O_SYNC") };
        }
        "unlink" | "unlinkat" => {
            path = string_path(arguments, 0);
            what = What::Remove;
        }
        _ => {}
    }
    Call { name, path, what, returned: if unfinished { None } else { returned(text) } }
}

/// The path of the first descriptor: `9<\x2f\x74...>`.
fn first_path(arguments: &[u8]) -> PathBuf {
    let Some(begin) = arguments.iter().position(|b| *b == b'<') else { return PathBuf::new() };
    let end = arguments[begin..].iter().position(|b| *b == b'>').map_or(arguments.len(), |n| begin + n);
    PathBuf::from(OsString::from_vec(unescaped(&arguments[begin + 1..end])))
}

fn string_path(arguments: &[u8], nth: usize) -> PathBuf {
    strings(arguments).into_iter().nth(nth).map(|s| PathBuf::from(OsString::from_vec(s))).unwrap_or_default()
}

/// Every quoted string.
fn strings(arguments: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = arguments;
    while let Some(begin) = rest.iter().position(|b| *b == b'"') {
        let Some(length) = rest[begin + 1..].iter().position(|b| *b == b'"') else { break };
        let mut data = unescaped(&rest[begin + 1..begin + 1 + length]);
        rest = &rest[begin + 2 + length..];
        if rest.starts_with(b"...") {
            assert!(data.iter().all(|b| *b == 0), "the trace cut a write that is not of zeros");
            let size: usize = String::from_utf8_lossy(rest.strip_prefix(b"..., ").unwrap_or_default())
                .chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
                .parse()
                .unwrap_or(data.len());
            data.resize(size, 0);
        }
        found.push(data);
    }
    found
}

/// With `-xx`, every byte is `\x` and two digits; names that strace makes up (`socket:[17]`) may stand plain.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let digit = |b: u8| (b as char).to_digit(16).unwrap() as u8;
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text;
    loop {
        match rest {
            [b'\\', b'x', high, low, after @ ..] => {
                bytes.push(digit(*high) << 4 | digit(*low));
                rest = after;
            }
            [plain, after @ ..] => {
                bytes.push(*plain);
                rest = after;
            }
            [] => return bytes,
        }
    }
}

/// The last argument.
fn last_number(text: &[u8], unfinished: bool) -> u64 {
    let text = String::from_utf8_lossy(text);
    let arguments = if unfinished { text.trim_end_matches("<unfinished ...>").trim_end() } else { text.rsplit_once(')').unwrap().0 };
    arguments.rsplit_once(", ").unwrap().1.trim().parse().unwrap()
}

/// Which of the writes that no synchronisation covers are found after the power is back.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Survivors {
    /// None.
    None,
    /// All.
    All,
    /// Each whole or not at all, by a coin.
    Some(u64),
    /// Each whole, not at all, or in some of its sectors.
    Torn(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Make,
    Write { at: u64, data: Vec<u8> },
    Length(u64),
    Remove,
}

#[derive(Clone, Debug)]
struct Unsynced {
    call: usize,
    returned: bool,
    change: Change,
}

/// `None`: there is no such file.
type Content = Option<Vec<u8>>;

#[derive(Clone, Debug, Default)]
struct File {
    synced: Content,
    unsynced: Vec<Unsynced>,
    /// Where the next write without a place goes.
    end: u64,
    synchronous: bool,
}

/// The files of one folder, as the trace goes on.
#[derive(Debug)]
pub(crate) struct Disk<'t> {
    trace: &'t Trace,
    folder: PathBuf,
    files: BTreeMap<OsString, File>,
    /// For a synchronisation under way: the calls that it covers.
    syncing: BTreeMap<usize, Vec<usize>>,
    at: usize,
    /// A disk that lies about synchronisations shows whether the test would notice.
    lies: bool,
}

impl<'t> Disk<'t> {
    /// The disk before the first moment, with an empty folder.
    pub(crate) fn new(trace: &'t Trace, folder: &Path) -> Self {
        Self { trace, folder: folder.to_owned(), files: BTreeMap::new(), syncing: BTreeMap::new(), at: 0, lies: false }
    }

    /// One that makes nothing durable, whatever it is asked.
    pub(crate) fn lying(trace: &'t Trace, folder: &Path) -> Self {
        Self { lies: true, ..Self::new(trace, folder) }
    }

    /// A file that was there, and durable, before the trace began.
    pub(crate) fn begin_with(&mut self, name: &str, content: Vec<u8>) {
        self.files.insert(name.into(), File { synced: Some(content), ..File::default() });
    }

    /// The disk as it is before this moment.
    pub(crate) fn go_to(&mut self, moment: usize) {
        assert!(self.at <= moment, "the disk does not go back");
        while self.at < moment {
            match self.trace.moments[self.at] {
                Moment::Begin(n) => self.begin(n),
                Moment::End(n) => self.end(n),
            }
            self.at += 1;
        }
    }

    /// What is not durable of the files whose name ends so, as far as it was written: number of changes.
    pub(crate) fn unsynced(&self, end: &str) -> usize {
        self.files
            .iter()
            .filter(|(name, _)| name.to_string_lossy().ends_with(end))
            .map(|(_, file)| file.unsynced.iter().filter(|u| u.returned && matches!(u.change, Change::Write { .. })).count())
            .sum()
    }

    fn name(&self, path: &Path) -> Option<OsString> {
        let name = path.strip_prefix(&self.folder).ok()?.as_os_str().to_owned();
        // Databases, their logs, and the journal. The map of a log in memory is worth nothing after a loss of power.
        let text = name.to_string_lossy();
        ((text.contains(".sqlite") || text == JOURNAL) && !text.contains('/') && !text.ends_with("-shm")).then_some(name)
    }

    fn begin(&mut self, n: usize) {
        let call = &self.trace.calls[n];
        if call.path == self.folder && call.what == What::Sync {
            // Which files there are, and nothing of what is in them.
            let named = |u: &&Unsynced| u.returned && matches!(u.change, Change::Make | Change::Remove);
            let covered = self.files.values().flat_map(|f| f.unsynced.iter().filter(named).map(|u| u.call)).collect();
            self.syncing.insert(n, covered);
            return;
        }
        let Some(name) = self.name(&call.path) else { return };
        assert!(
            !matches!(call.name.as_str(), "pwritev2" | "copy_file_range" | "msync" | "io_uring_enter" | "fallocate" | "truncate"),
            "{} is not in the model of the disk: {call:?}",
            call.name
        );
        let file = self.files.entry(name).or_default();
        let changes: Vec<Change> = match &call.what {
            What::Write { at, data } => {
                let at = at.unwrap_or(file.end);
                file.end = at + data.len() as u64;
                vec![Change::Write { at, data: data.clone() }]
            }
            What::Length(length) => vec![Change::Length(*length)],
            What::Open { makes, cuts, synchronous } => {
                file.end = 0;
                file.synchronous |= synchronous;
                let mut changes = Vec::new();
                if *makes && file.synced.is_none() && file.unsynced.is_empty() {
                    changes.push(Change::Make);
                }
                if *cuts {
                    changes.push(Change::Length(0));
                }
                changes
            }
            What::Remove => vec![Change::Remove],
            What::Sync => {
                let covered = file.unsynced.iter().filter(|u| u.returned).map(|u| u.call).collect();
                self.syncing.insert(n, covered);
                return;
            }
            What::Other => return,
        };
        file.unsynced.extend(changes.into_iter().map(|change| Unsynced { call: n, returned: false, change }));
    }

    fn end(&mut self, n: usize) {
        let call = &self.trace.calls[n];
        let failed = call.returned.is_none_or(|r| r < 0);
        if call.path == self.folder
            && let Some(covered) = self.syncing.remove(&n)
        {
            if !failed && !self.lies {
                self.files.values_mut().for_each(|file| file.settle(&covered));
            }
            return;
        }
        let Some(name) = self.name(&call.path) else { return };
        let Some(file) = self.files.get_mut(&name) else { return };
        if let Some(covered) = self.syncing.remove(&n) {
            if !failed && !self.lies {
                file.settle(&covered);
            }
            return;
        }
        for unsynced in file.unsynced.iter_mut().filter(|u| u.call == n) {
            unsynced.returned = true;
            if let (Change::Write { data, .. }, Some(written)) = (&mut unsynced.change, call.returned) {
                data.truncate(usize::try_from(written).unwrap_or(0));
            }
        }
        if failed {
            file.unsynced.retain(|u| u.call != n);
        }
        if file.synchronous && !self.lies {
            file.settle(&[n]);
        }
    }

    /// The power is lost at this moment: writes what is found afterwards into a folder.
    pub(crate) fn after_power_loss(&self, survivors: Survivors, into: &Path) {
        let mut coins = match survivors {
            Survivors::Some(seed) | Survivors::Torn(seed) => Coins::new(seed),
            Survivors::None | Survivors::All => Coins::new(1),
        };
        for (name, file) in &self.files {
            let mut content = file.synced.clone();
            for unsynced in &file.unsynced {
                let found = match survivors {
                    Survivors::None => false,
                    Survivors::All => true,
                    Survivors::Some(_) | Survivors::Torn(_) => coins.toss(),
                };
                if found {
                    let torn = matches!(survivors, Survivors::Torn(_)) && coins.toss();
                    apply(&mut content, &unsynced.change, |_| !torn || coins.toss());
                }
            }
            if let Some(content) = content {
                // Zeros are not written: a log that was grown beforehand is mostly of them.
                let path = into.join(name);
                let out = std::fs::OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
                out.set_len(content.len() as u64).unwrap();
                let zeros = vec![0; 1 << 16];
                for (n, piece) in content.chunks(1 << 16).enumerate().filter(|(_, piece)| **piece != zeros[..piece.len()]) {
                    std::os::unix::fs::FileExt::write_all_at(&out, piece, (n as u64) << 16).unwrap();
                }
            }
        }
    }
}

impl File {
    /// These calls are durable now.
    fn settle(&mut self, covered: &[usize]) {
        let (settled, rest) = std::mem::take(&mut self.unsynced).into_iter().partition(|u| covered.contains(&u.call));
        self.unsynced = rest;
        let settled: Vec<Unsynced> = settled;
        for unsynced in settled {
            apply(&mut self.synced, &unsynced.change, |_| true);
        }
    }
}

/// Makes a change, as far as its sectors are `kept`.
fn apply(content: &mut Content, change: &Change, mut kept: impl FnMut(usize) -> bool) {
    match change {
        Change::Make => {
            content.get_or_insert_default();
        }
        Change::Remove => *content = None,
        Change::Length(length) => content.get_or_insert_default().resize(usize::try_from(*length).unwrap(), 0),
        Change::Write { at, data } => {
            let content = content.get_or_insert_default();
            let at = usize::try_from(*at).unwrap();
            if content.len() < at + data.len() {
                content.resize(at + data.len(), 0);
            }
            let mut begin = 0;
            while begin < data.len() {
                // Sectors of the file, not of the write.
                let end = data.len().min(begin + SECTOR - (at + begin) % SECTOR);
                if kept(at + begin) {
                    content[at + begin..at + end].copy_from_slice(&data[begin..end]);
                }
                begin = end;
            }
        }
    }
}

/// Numbers that look random, the same for the same seed.
#[derive(Debug)]
pub(crate) struct Coins(u64);

impl Coins {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    fn toss(&mut self) -> bool {
        self.next() >> 63 == 1
    }
}

#[test]
fn the_disk_keeps_what_a_synchronisation_covered_and_nothing_else_for_sure() {
    let trace = Trace::parse(
        br#"7 openat(AT_FDCWD<\x2f>, "\x2f\x64\x2f\x66\x2e\x73\x71\x6c\x69\x74\x65", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3<\x2f\x64\x2f\x66\x2e\x73\x71\x6c\x69\x74\x65>
7 pwrite64(3<\x2f\x64\x2f\x66\x2e\x73\x71\x6c\x69\x74\x65>, "\x61\x61", 2, 0) = 2
7 fdatasync(3<\x2f\x64\x2f\x66\x2e\x73\x71\x6c\x69\x74\x65> <unfinished ...>
8 pwrite64(3<\x2f\x64\x2f\x66\x2e\x73\x71\x6c\x69\x74\x65>, "\x62", 1, 1) = 1
7 <... fdatasync resumed>) = 0
7 write(2<\x70\x69\x70\x65\x3a\x5b\x39\x5d>, "\x6f\x6b", 2) = 2
8 fsync(3<\x2f\x64\x2f\x66\x2e\x73\x71\x6c\x69\x74\x65>) = -1 EIO (Input/output error)
7 +++ killed by SIGKILL +++
"#,
    );
    let found = |moment: usize, survivors| {
        let into = tempfile::tempdir().unwrap();
        let mut disk = Disk::new(&trace, Path::new("/d"));
        disk.go_to(moment);
        disk.after_power_loss(survivors, into.path());
        std::fs::read(into.path().join("f.sqlite")).ok()
    };
    assert_eq!(trace.told().map(|(at, path, data)| (at, path.to_owned(), data.to_vec())).last().unwrap(), (8, "pipe:[9]".into(), b"ok".to_vec()));
    assert_eq!(found(4, Survivors::None), None);
    assert_eq!(found(4, Survivors::All).unwrap(), b"aa");
    assert_eq!(found(7, Survivors::None), None, "the synchronisation has not returned");
    // What was written while it was under way is not covered; nor by one that failed.
    for moment in [8, 10, 12] {
        assert_eq!(found(moment, Survivors::None).unwrap(), b"aa");
        assert_eq!(found(moment, Survivors::All).unwrap(), b"ab");
    }
    let mut lying = Disk::lying(&trace, Path::new("/d"));
    lying.go_to(12);
    let into = tempfile::tempdir().unwrap();
    lying.after_power_loss(Survivors::None, into.path());
    assert!(!into.path().join("f.sqlite").exists());
}
