//! A private temporary folder that is removed when its owner is dropped.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A fresh folder, readable by its owner only (mode 0700).
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes a folder whose name starts with `label` under the system's temporary folder.
    pub fn new(label: &str) -> io::Result<Self> {
        let parent = std::env::temp_dir();
        loop {
            let count = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{label}-{}-{count}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                // A folder that someone else left behind is never taken over.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into it and returns the file's path.
    pub fn write(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, content)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_scratch_folder_is_private_and_gone_after_its_owner() {
        let scratch = Scratch::new("bailiwick-scratch-test").unwrap();
        let path = scratch.path().to_owned();
        scratch.write("a.txt", "x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn two_scratch_folders_of_one_label_differ() {
        let one = Scratch::new("bailiwick-scratch-test").unwrap();
        let two = Scratch::new("bailiwick-scratch-test").unwrap();
        assert_ne!(one.path(), two.path());
    }
}
