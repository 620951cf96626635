//! The data directory: made for us alone, and refused if others can look into it.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use crate::house::StartError;

/// Makes the directory and its parts, or checks that they are ours alone.
///
/// # Errors
/// Says which path, and what is wrong with it.
pub fn prepare(dir: &Path) -> Result<(), StartError> {
    for path in [dir.to_path_buf(), dir.join("keys"), dir.join("agents"), dir.join("people")] {
        if !path.exists() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|e| StartError::place(path.display().to_string(), e))?;
        }
        let meta = std::fs::metadata(&path).map_err(|e| StartError::place(path.display().to_string(), e))?;
        if !meta.is_dir() {
            return Err(StartError::place(path.display().to_string(), "is not a directory"));
        }
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(StartError::place(path.display().to_string(), "others can look into it (mode must be 0700)"));
        }
    }
    Ok(())
}

/// Writes a file that only we can read, whole or not at all.
///
/// # Errors
/// The file system's.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    if let Some(dir) = path.parent() {
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Reads a file that only its owner may read.
///
/// # Errors
/// If it cannot be read, is another's, or is open to others.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, StartError> {
    let fault = |why: &dyn std::fmt::Display| StartError::place(path.display().to_string(), why);
    let meta = std::fs::metadata(path).map_err(|e| fault(&e))?;
    if meta.mode() & 0o077 != 0 {
        return Err(fault(&"others can read it (mode must be 0600)"));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(|e| fault(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write_private(&path, b"x").unwrap();
        assert!(read_private(&path).is_ok());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_private(&path).is_err());
    }

    #[test]
    fn a_data_directory_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        prepare(&data).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(prepare(&data).is_err());
    }
}
