//! A file that only its owner reads, one record a line, rotated by size. Never follows a link, never leaves half a line behind.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::record::Record;
use super::sink::SinkError;

/// The longest line that a broken end of a file is looked through for: more than any record.
const LINE_MAX: u64 = 1 << 20;

/// The sink. A write that does not come back holds the lock, and no second one piles up behind it.
#[derive(Clone, Debug)]
pub(super) struct FileSink(Arc<Mutex<Target>>);

#[derive(Debug)]
struct Target {
    path: PathBuf,
    rotate_bytes: u64,
    keep: u32,
    open: Option<File>,
}

impl FileSink {
    pub(super) fn new(path: PathBuf, rotate_bytes: u64, keep: u32) -> Self {
        Self(Arc::new(Mutex::new(Target { path, rotate_bytes, keep, open: None })))
    }

    /// Appends lines; when it is `Ok`, they are on the disk.
    pub(super) async fn send(&self, records: &[Record]) -> Result<(), SinkError> {
        self.append(super::sink::lines(records)).await
    }

    /// Appends text that ends in a line break.
    pub(super) async fn append(&self, text: String) -> Result<(), SinkError> {
        let target = Arc::clone(&self.0);
        let written = tokio::task::spawn_blocking(move || {
            let Ok(mut target) = target.try_lock() else { return Err(io::Error::new(io::ErrorKind::TimedOut, "the write before has not come back")) };
            target.append(text.as_bytes())
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(SinkError::new(format!("the file cannot be written: {error}"))),
            Err(_) => Err(SinkError::new("the file cannot be written: the writer stopped")),
        }
    }
}

impl Target {
    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let written = self.try_append(text);
        if written.is_err() {
            // Whatever is wrong with it, the next attempt looks at the file anew.
            self.open = None;
        }
        written
    }

    fn try_append(&mut self, text: &[u8]) -> io::Result<()> {
        let mut file = self.take_open()?;
        let mut size = file.metadata()?.len();
        if size > 0 && size.saturating_add(text.len() as u64) > self.rotate_bytes {
            self.rotate()?;
            file = open(&self.path)?;
            size = file.metadata()?.len();
        }
        let written = file.write_all(text).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // A record that is not whole would be taken for one: what was not written whole is taken back.
            let _ = file.set_len(size);
            return Err(error);
        }
        self.open = Some(file);
        Ok(())
    }

    /// The file that is open, as long as it is still the one under that name: others rotate and delete too.
    fn take_open(&mut self) -> io::Result<File> {
        if let Some(file) = self.open.take()
            && same(&file.metadata()?, std::fs::symlink_metadata(&self.path).ok().as_ref())
        {
            return Ok(file);
        }
        open(&self.path)
    }

    /// `FILE` becomes `FILE.1`, `FILE.1` becomes `FILE.2`, and the last one goes.
    fn rotate(&self) -> io::Result<()> {
        let numbered = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        if self.keep == 0 {
            return std::fs::remove_file(&self.path);
        }
        for n in (1..self.keep).rev() {
            match std::fs::rename(numbered(n), numbered(n.saturating_add(1))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, numbered(1))?;
        sync_directory(&self.path)
    }
}

fn same(open: &Metadata, named: Option<&Metadata>) -> bool {
    named.is_some_and(|named| (open.dev(), open.ino()) == (named.dev(), named.ino()) && named.is_file())
}

/// Opens the file for appending, made if it is absent; refuses whatever is no plain file under exactly this name.
fn open(path: &Path) -> io::Result<File> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    let file = match std::fs::symlink_metadata(path) {
        // With O_EXCL no link is followed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path)?;
            sync_directory(path)?;
            file
        }
        Err(error) => return Err(error),
        Ok(found) if found.is_symlink() => return Err(refused("it is a symbolic link")),
        Ok(found) if !found.is_file() => return Err(refused("it is no plain file")),
        Ok(_) => OpenOptions::new().read(true).append(true).open(path)?,
    };
    let metadata = file.metadata()?;
    // Something may have been put in its place between the look and the opening.
    if !same(&metadata, std::fs::symlink_metadata(path).ok().as_ref()) {
        return Err(refused("it was replaced while it was opened"));
    }
    if metadata.nlink() > 1 {
        return Err(refused("it has another name too"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    mend(&file, metadata.len())?;
    Ok(file)
}

/// A crash may have left half a line: its record is sent again, so the half goes.
fn mend(mut file: &File, size: u64) -> io::Result<()> {
    let start = size.saturating_sub(LINE_MAX);
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(LINE_MAX).read_to_end(&mut end)?;
    if end.last().is_none_or(|last| *last == b'\n') {
        return Ok(());
    }
    match end.iter().rposition(|b| *b == b'\n') {
        Some(last) => file.set_len(start.saturating_add(last as u64).saturating_add(1)),
        None if start == 0 => file.set_len(0),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not hold lines")),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &Path, rotate_bytes: u64, keep: u32) -> Target {
        Target { path: path.to_path_buf(), rotate_bytes, keep, open: None }
    }

    #[test]
    fn a_file_is_its_owners_alone_and_rotates_by_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut sink = target(&path, 20, 2);
        for n in 0..5 {
            sink.append(format!("{{\"number\":{n:03}}}\n").as_bytes()).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("events.jsonl"), "{\"number\":004}\n");
        assert_eq!((read("events.jsonl.1"), read("events.jsonl.2")), ("{\"number\":003}\n".to_owned(), "{\"number\":002}\n".to_owned()));
        assert!(!dir.path().join("events.jsonl.3").exists());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_a_pipe_and_a_second_name_are_refused_and_nothing_behind_them_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        let path = dir.path().join("events.jsonl");
        for exists in [false, true] {
            if exists {
                std::fs::write(&victim, "mine\n").unwrap();
            }
            std::os::unix::fs::symlink(&victim, &path).unwrap();
            let error = target(&path, 100, 1).append(b"x\n").unwrap_err().to_string();
            assert!(error.contains("symbolic link"), "{error}");
            assert_eq!(victim.exists(), exists);
            std::fs::remove_file(&path).unwrap();
        }
        std::fs::hard_link(&victim, &path).unwrap();
        assert!(target(&path, 100, 1).append(b"x\n").unwrap_err().to_string().contains("another name"));
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine\n");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(target(&path, 100, 1).append(b"x\n").unwrap_err().to_string().contains("no plain file"));
    }

    #[test]
    fn half_a_line_that_a_crash_left_goes_before_anything_is_added() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        for (left, after) in [("one\ntw", "one\nthree\n"), ("tw", "three\n"), ("", "three\n"), ("one\n", "one\nthree\n")] {
            std::fs::write(&path, left).unwrap();
            target(&path, 100, 1).append(b"three\n").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }

    #[test]
    fn a_file_that_others_deleted_or_moved_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut sink = target(&path, 100, 1);
        sink.append(b"one\n").unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        sink.append(b"two\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        sink.append(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!(std::fs::read_to_string(dir.path().join("moved")).unwrap(), "one\n");
    }

    const LIMITED: &str = "BAILIWICK_TEST_LIMITED_FILE";

    #[test]
    fn when_the_disk_is_full_no_half_record_stays_and_everything_comes_once_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        // The shell's limit is in KiB; a write beyond it is cut short and then refused, as on a disk without room.
        let script = "trap '' XFSZ; ulimit -f 4; exec \"$0\" --exact export::file::tests::writes_under_a_limit --ignored --nocapture";
        let mut command = std::process::Command::new("bash");
        let done = command.arg("-c").arg(script).arg(std::env::current_exe().unwrap()).env(LIMITED, &path).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.contains("refused after 40 lines"), "{said}");
        let kept = std::fs::read_to_string(&path).unwrap();
        assert_eq!((kept.lines().count(), kept.ends_with('\n')), (40, true));
        // Here is room.
        target(&path, 1 << 20, 1).append(format!("{:099}\n", 40).as_bytes()).unwrap();
        let lines: Vec<usize> = std::fs::read_to_string(&path).unwrap().lines().map(|l| l.parse().unwrap()).collect();
        assert_eq!(lines, (0..41).collect::<Vec<_>>());
    }

    #[test]
    #[ignore = "the child process of a test"]
    fn writes_under_a_limit() {
        let Some(path) = std::env::var_os(LIMITED) else { return };
        let mut sink = target(Path::new(&path), 1 << 20, 1);
        for n in 0.. {
            if let Err(error) = sink.append(format!("{n:099}\n").as_bytes()) {
                println!("refused after {n} lines: {error}");
                return;
            }
        }
    }
}
