//! Room on the disk that nothing uses: given back when the disk is full, so that what takes authority away can still be put on record.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Reason, StoreError};

const RESERVE: &str = "bailiwick.reserve";
/// After it was given back, the disk is asked for it so often.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The reserve of a data directory.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
    /// Since when the disk has it back.
    spent: Option<Instant>,
}

impl Reserve {
    /// Takes so many bytes of the disk. `None`: none are wanted.
    pub(crate) fn take(dir: &Path, bytes: u64) -> Result<Option<Self>, StoreError> {
        let reserve = Self { path: dir.join(RESERVE), bytes, spent: None };
        if bytes == 0 {
            return Ok(None);
        }
        reserve.fill().map_err(|e| StoreError::Directory { path: reserve.path.clone(), detail: e.to_string().into() })?;
        Ok(Some(reserve))
    }

    /// Is the disk full, and the reserve in use?
    pub(crate) const fn is_spent(&self) -> bool {
        self.spent.is_some()
    }

    /// Gives it back to the disk. False: it was already, or cannot be.
    pub(crate) fn spend(&mut self) -> bool {
        if self.is_spent() {
            return false;
        }
        let emptied = self.empty();
        match &emptied {
            Ok(()) => tracing::error!("the disk is full: calls are refused, and what is left is kept for revocations and ends"),
            Err(error) => tracing::error!(%error, "the disk is full, and the reserve could not be given back"),
        }
        self.spent = emptied.is_ok().then(Instant::now);
        emptied.is_ok()
    }

    /// Takes it again, if it is time to try and the disk has room. True: it is there.
    pub(crate) fn regain(&mut self) -> bool {
        match self.spent {
            None => true,
            Some(since) if since.elapsed() < AGAIN_AFTER => false,
            Some(_) => {
                let filled = self.fill();
                if filled.is_err() {
                    // What was taken of it goes back.
                    let emptied = self.empty();
                    tracing::debug!(?emptied, "the disk has no room for the reserve yet");
                }
                self.spent = filled.is_err().then(Instant::now);
                filled.is_ok()
            }
        }
    }

    /// Why what takes nothing away is refused.
    pub(crate) fn refusal() -> StoreError {
        StoreError::unavailable(Reason::DiskFull, "what is left is kept for revocations and ends; everything else goes on when there is room")
    }

    /// The disk has it back when this returns: some file systems give room back only with the next commit of theirs.
    fn empty(&self) -> io::Result<()> {
        let file = File::options().write(true).open(&self.path)?;
        file.set_len(0)?;
        file.sync_all()
    }

    fn fill(&self) -> io::Result<()> {
        let file = crate::schema::private(&self.path)?;
        if file.metadata()?.len() == self.bytes {
            return Ok(());
        }
        file.set_len(0)?;
        // A hole would take nothing from the disk.
        let piece = vec![0x5a; usize::try_from(self.bytes.min(1 << 20)).unwrap_or(1 << 20)];
        let mut at = 0;
        while at < self.bytes {
            let left = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(piece.len());
            file.write_all_at(piece.get(..left).unwrap_or_default(), at)?;
            at = at.saturating_add(u64::try_from(left).unwrap_or(u64::MAX));
        }
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_room_gives_it_back_once_and_takes_it_again_when_it_is_time() {
        let dir = tempfile::tempdir().unwrap();
        let length = || std::fs::metadata(dir.path().join(RESERVE)).map_or(0, |m| m.len());
        assert!(Reserve::take(dir.path(), 0).unwrap().is_none());
        assert_eq!(length(), 0);
        let mut reserve = Reserve::take(dir.path(), 3 << 19).unwrap().unwrap();
        assert!(length() == 3 << 19 && !reserve.is_spent() && reserve.regain());
        assert!(reserve.spend() && !reserve.spend() && reserve.is_spent());
        assert_eq!(length(), 0);
        assert!(!reserve.regain() && length() == 0, "too early");
        reserve.spent = Instant::now().checked_sub(AGAIN_AFTER);
        assert!(reserve.regain() && !reserve.is_spent());
        assert_eq!(length(), 3 << 19);
        // A file that cannot be taken is no reserve.
        reserve.spend();
        std::fs::remove_file(dir.path().join(RESERVE)).unwrap();
        std::fs::create_dir(dir.path().join(RESERVE)).unwrap();
        reserve.spent = Instant::now().checked_sub(AGAIN_AFTER);
        assert!(!reserve.regain() && reserve.is_spent());
    }
}
