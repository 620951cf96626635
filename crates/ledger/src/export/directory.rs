//! The files of an exported log: read with limits, written so that a name never shows half a file.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::ExportError;
use crate::checkpoint::Checkpoint;
use crate::hash::Hash;
use crate::note::{MAX_NOTE, Note};
use crate::proof::Receipt;
use crate::tile::{BundleId, MAX_ENTRY, TILE_WIDTH, TileId, decode_tile};
use crate::tree::{TileReader, TreeError, inclusion_proof};

const MAX_BUNDLE: usize = TILE_WIDTH as usize * (MAX_ENTRY + 2);
const MAX_TILE: usize = TILE_WIDTH as usize * Hash::LEN;

/// What is published is for everybody to read.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
/// Files whose contents are written but not yet waited for.
const UNSETTLED: usize = 64;

/// A file of the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened or read; it may be missing.
    #[error("`{path}`: {source}")]
    Io {
        /// The file, within the directory.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The file is too long or too short for what it is, or is not text although it should be.
    #[error("`{path}` does not have the form of its kind")]
    Form {
        /// The file, within the directory.
        path: String,
    },
}

impl ReadError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// An exported log as a [`TileReader`]: proofs can be made from it without the store.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The log in this directory. Nothing is read yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The text of the published checkpoint; unverified.
    pub fn checkpoint(&self) -> Result<String, ReadError> {
        let bytes = self.read("checkpoint", MAX_NOTE)?;
        String::from_utf8(bytes).map_err(|_| ReadError::Form { path: "checkpoint".to_owned() })
    }

    /// The bytes of a bundle, and whether the file is exactly this bundle: if only a later, full one is there, it is given and
    /// may hold more entries.
    pub fn read_bundle(&self, bundle: BundleId) -> Result<(Vec<u8>, bool), ReadError> {
        match self.read(&bundle.to_string(), MAX_BUNDLE) {
            Err(error) if error.is_missing() && bundle != bundle.full() => {
                Ok((self.read(&bundle.full().to_string(), MAX_BUNDLE).map_err(|_| error)?, false))
            }
            found => Ok((found?, true)),
        }
    }

    /// The receipt of entry `index` for the published checkpoint, whose signatures are not checked here.
    pub fn receipt(&self, index: u64) -> Result<Receipt, TreeError<ReadError>> {
        let form = || TreeError::Reader(ReadError::Form { path: "checkpoint".to_owned() });
        let note = Note::parse(&self.checkpoint().map_err(TreeError::Reader)?).map_err(|_| form())?;
        let head = Checkpoint::parse(note.text().as_str()).map_err(|_| form())?;
        let path = inclusion_proof(self, index, head.size)?;
        Receipt::new(index, path, note, None).map_err(|_| form())
    }

    fn read(&self, name: &str, limit: usize) -> Result<Vec<u8>, ReadError> {
        let failed = |source| ReadError::Io { path: name.to_owned(), source };
        let path = self.path.join(name);
        let length = fs::metadata(&path).map_err(failed)?;
        let form = || ReadError::Form { path: name.to_owned() };
        // A stranger's directory may hold a pipe or a device, which would be read for ever.
        let length = usize::try_from(length.len()).ok().filter(|known| length.is_file() && *known <= limit);
        let mut bytes = Vec::with_capacity(length.ok_or_else(form)? + 1);
        File::open(path).map_err(failed)?.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() > limit { Err(form()) } else { Ok(bytes) }
    }
}

impl TileReader for Directory {
    type Error = ReadError;

    fn read_tile(&self, tile: TileId) -> Result<Vec<Hash>, ReadError> {
        let (name, bytes, width) = match self.read(&tile.to_string(), MAX_TILE) {
            Err(error) if error.is_missing() && !tile.is_full() => {
                let name = tile.full().to_string();
                let bytes = self.read(&name, MAX_TILE).map_err(|_| error)?;
                (name, bytes, TILE_WIDTH)
            }
            found => (tile.to_string(), found?, tile.width()),
        };
        let mut hashes = decode_tile(&bytes, width).ok_or(ReadError::Form { path: name })?;
        hashes.truncate(usize::from(tile.width()));
        Ok(hashes)
    }
}

/// Writes files under temporary names and, many at a time, waits for the disk and gives them their names.
#[derive(Debug)]
pub(super) struct Batch {
    root: PathBuf,
    unsettled: Vec<Written>,
    /// Directories that have new names in them.
    changed: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct Written {
    file: File,
    temporary: Option<PathBuf>,
    path: PathBuf,
    name: String,
}

impl Batch {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), unsettled: vec![], changed: BTreeSet::new() }
    }

    /// Writes a file. One that has these bytes already is kept, and only waited for; one that has others is an error unless
    /// `replace`.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8], replace: bool) -> Result<(), ExportError> {
        let there = there(&self.root.join(name), bytes).map_err(|source| failed(name, source))?;
        let written = match there {
            There::Same(file) => Written { file, temporary: None, path: self.root.join(name), name: name.to_owned() },
            There::Other if !replace => {
                return Err(ExportError::Changed { path: name.to_owned() });
            }
            There::Other | There::Nothing => self.write(name, bytes).map_err(|source| failed(name, source))?,
        };
        self.unsettled.push(written);
        if self.unsettled.len() < UNSETTLED { Ok(()) } else { self.name_files() }
    }

    /// Returns when all files and their names are on the disk.
    pub(super) fn settle(&mut self) -> Result<(), ExportError> {
        self.name_files()?;
        for directory in std::mem::take(&mut self.changed) {
            let synced = File::open(&directory).and_then(|open| open.sync_all());
            synced.map_err(|source| failed(&directory.to_string_lossy(), source))?;
        }
        Ok(())
    }

    /// Removes the partial files of a tile or bundle that is full and published.
    pub(super) fn remove_partial(&self, name: &str) -> Result<(), ExportError> {
        let name = format!("{name}.p");
        match fs::remove_dir_all(self.root.join(&name)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed(&name, source)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.root.join(name).exists()
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<(), ExportError> {
        match fs::remove_file(self.root.join(name)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed(name, source)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<Written> {
        let (path, name) = (self.root.join(name), name.to_owned());
        if let Some(parent) = path.parent()
            && !self.changed.contains(parent)
        {
            make_directories(parent)?;
            let within = parent.ancestors().take_while(|above| above.starts_with(&self.root));
            self.changed.extend(within.map(Path::to_owned));
        }
        let mut temporary = path.clone().into_os_string();
        temporary.push(".tmp");
        let mut file = fresh(Path::new(&temporary))?;
        file.write_all(bytes)?;
        Ok(Written { file, temporary: Some(temporary.into()), path, name })
    }

    fn name_files(&mut self) -> Result<(), ExportError> {
        for written in &self.unsettled {
            written.file.sync_all().map_err(|source| failed(&written.name, source))?;
        }
        for written in self.unsettled.drain(..) {
            if let Some(temporary) = written.temporary {
                fs::rename(temporary, &written.path).map_err(|source| failed(&written.name, source))?;
            }
        }
        Ok(())
    }
}

/// A new file for everybody to read and for us to write, whatever the umask says. What stands under its name, left by a crash or put there
/// by somebody else, goes, and is never written through.
fn fresh(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Makes the directories that are missing, for everybody to read, whatever the umask says. One that is there stays as it is.
pub(super) fn make_directories(directory: &Path) -> io::Result<()> {
    let mut missing: Vec<&Path> = directory.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists()).collect();
    while let Some(next) = missing.pop() {
        fs::create_dir_all(next)?;
        fs::set_permissions(next, Permissions::from_mode(DIRECTORY_MODE))?;
    }
    Ok(())
}

fn failed(name: &str, source: io::Error) -> ExportError {
    ExportError::Write { path: name.to_owned(), source }
}

enum There {
    Nothing,
    Same(File),
    Other,
}

/// Whether the file is there with exactly these bytes.
fn there(path: &Path, bytes: &[u8]) -> io::Result<There> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(There::Nothing),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() != bytes.len() as u64 {
        return Ok(There::Other);
    }
    let mut found = Vec::with_capacity(bytes.len() + 1);
    (&file).take(bytes.len() as u64 + 1).read_to_end(&mut found)?;
    Ok(if found == bytes { There::Same(file) } else { There::Other })
}
