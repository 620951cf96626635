//! A Unix socket that processes of this machine connect to: made under its name at once with its mode, and taken away again.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use super::peer::Peer;
use crate::house::StartError;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 1024;
/// Connections of one user, so that none takes the places of all others.
const OF_USER_MAX: usize = 256;
/// Connections of one user who can be nobody here, and of all such: they are told so, and take no places of others.
const OF_STRANGER_MAX: usize = 8;
const STRANGERS_MAX: usize = 128;

/// A socket that is listened on. Its file goes when it does.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
    by_user: Counts,
}

/// By user, and whether he or she can be somebody here.
type Counts = Arc<Mutex<HashMap<(u32, bool), usize>>>;

/// One connection of a user, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    whose: (u32, bool),
    by_user: Counts,
}

impl Socket {
    /// Listens on a path. What a broker that is gone left there is replaced; a socket that somebody listens on is not.
    ///
    /// # Errors
    /// If the path is taken, or the socket cannot be made.
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Self, StartError> {
        let fault = |why: &dyn std::fmt::Display| StartError::place(path.display().to_string(), why);
        if !is_ours_to_fill(path).map_err(|error| fault(&error))? {
            return Err(fault(&"others may write to its directory, and could put a socket of theirs in its place"));
        }
        match std::fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => return Err(fault(&"is there, and no socket")),
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => return Err(fault(&"somebody listens on it already")),
            _ => {}
        }
        // Under another name first: nobody connects before the mode is what it shall be.
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(&error)),
            _ => {}
        }
        let made = || -> io::Result<(UnixListener, (u64, u64))> {
            let listener = UnixListener::bind(&part)?;
            std::fs::set_permissions(&part, std::fs::Permissions::from_mode(mode))?;
            let meta = std::fs::symlink_metadata(&part)?;
            std::fs::rename(&part, path)?;
            Ok((listener, (meta.dev(), meta.ino())))
        };
        let (listener, inode) = made().map_err(|error| fault(&error))?;
        Ok(Self { listener, path: path.to_path_buf(), inode, by_user: Counts::default() })
    }

    /// The next connection for which there is a place, and who made it. `known` says who can be somebody here: for others there are few places.
    pub(crate) async fn next(&self, known: impl Fn(&Peer) -> bool) -> (UnixStream, Arc<Peer>, Counted) {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file handles, say: wait a moment rather than spin.
                    tracing::warn!(%error, "a local connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(peer) = Peer::of(&stream) else { continue };
            // Without a place it is closed at once.
            let Some(counted) = self.enter(peer.uid, known(&peer)) else { continue };
            return (stream, Arc::new(peer), counted);
        }
    }

    fn enter(&self, uid: u32, known: bool) -> Option<Counted> {
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind: usize = by_user.iter().filter(|((_, kind), _)| *kind == known).map(|(_, count)| count).sum();
        let own = by_user.get(&(uid, known)).copied().unwrap_or_default();
        let (all_max, own_max) = if known { (CONNECTIONS_MAX, OF_USER_MAX) } else { (STRANGERS_MAX, OF_STRANGER_MAX) };
        if of_kind >= all_max || own >= own_max {
            return None;
        }
        by_user.insert((uid, known), own.saturating_add(1));
        Some(Counted { whose: (uid, known), by_user: Arc::clone(&self.by_user) })
    }
}

/// Is the directory ours or the system's, and nobody else's to write to? One with the sticky bit keeps others from taking our file away.
fn is_ours_to_fill(path: &Path) -> io::Result<bool> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (directory, own) = (std::fs::metadata(parent)?, std::fs::metadata("/proc/self")?.uid());
    let mode = directory.permissions().mode();
    Ok((directory.uid() == own || directory.uid() == 0) && (mode & 0o022 == 0 || mode & 0o1000 != 0))
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_user.get_mut(&self.whose) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_user.remove(&self.whose);
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Only if it is still ours: another broker may have its own there by now.
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "a socket's file could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_has_its_mode_replaces_a_dead_one_and_takes_its_file_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path, 0o600).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Socket::bind(&path, 0o600).is_err(), "somebody listens");
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "x").unwrap();
        assert!(Socket::bind(&path, 0o600).is_err(), "a file is no socket");
    }

    #[tokio::test]
    async fn a_socket_where_others_could_put_theirs_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        for (mode, good) in [(0o777, false), (0o770, false), (0o1777, true), (0o755, true)] {
            std::fs::set_permissions(&open, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Socket::bind(&open.join("s"), 0o600).is_ok(), good, "{mode:o}");
        }
    }

    #[tokio::test]
    async fn those_who_can_be_nobody_here_take_no_place_of_one_who_can() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::bind(&dir.path().join("s"), 0o600).unwrap();
        let strangers: Vec<Counted> = (0..5000).filter_map(|uid| socket.enter(uid / 20, false)).collect();
        assert_eq!(strangers.len(), STRANGERS_MAX);
        assert!(socket.enter(9999, false).is_none());
        let known: Vec<Counted> = (0..CONNECTIONS_MAX).filter_map(|i| socket.enter(u32::try_from(i / OF_USER_MAX).unwrap(), true)).collect();
        assert_eq!(known.len(), CONNECTIONS_MAX);
        assert!(socket.enter(9999, true).is_none());
        drop((strangers, known));
        assert!(socket.by_user.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_user_does_not_take_the_places_of_all() {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::bind(&dir.path().join("s"), 0o600).unwrap();
        let held: Vec<Counted> = std::iter::from_fn(|| socket.enter(1, true)).collect();
        assert_eq!(held.len(), OF_USER_MAX);
        assert!(socket.enter(2, true).is_some());
        drop(held);
        assert!(socket.enter(1, true).is_some());
        assert!(socket.by_user.lock().unwrap().is_empty());
    }
}
