//! Cancelling and watching a long call.

use std::{
    io::{self, Read},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{Error, Kind, Result};

/// How long a cancelled call may go on to write down what it has hashed, or to put away what it has made.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(200);

/// Shared by the threads of one call: what is done so far, and whether to stop.
#[derive(Debug, Default)]
pub struct Progress {
    cancelled: AtomicBool,
    ends: Option<Instant>,
    /// Files finished.
    pub files: AtomicU64,
    /// Bytes of the sources finished (hashed, or answered by the stat cache).
    pub bytes: AtomicU64,
    /// Files the scan found.
    pub total_files: AtomicU64,
    /// Bytes the scan found.
    pub total_bytes: AtomicU64,
}

impl Progress {
    /// Of what a cancelled call still does: it is cancelled soon.
    pub(crate) fn of_last_words() -> Self {
        Self { ends: Some(Instant::now() + LAST_WORDS), ..Self::default() }
    }

    /// Asks the workers to stop; each does within one block.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// `Kind::Cancelled` once [`cancel`](Self::cancel) was called.
    pub fn check(&self) -> Result<()> {
        let is_over = self.ends.is_some_and(|ends| Instant::now() > ends);
        if is_over || self.cancelled.load(Relaxed) { Err(Error::new(Kind::Cancelled, "cancelled")) } else { Ok(()) }
    }

    /// A reader that fails once [`cancel`](Self::cancel) was called.
    pub fn reader<R: Read>(&self, inner: R) -> Reader<'_, R> {
        Reader { progress: self, inner }
    }

    /// What a read through [`reader`](Self::reader) failed with: `Cancelled`, else what `failed` makes of it.
    pub fn read_error(&self, error: io::Error, failed: impl FnOnce(io::Error) -> Error) -> Error {
        self.check().err().unwrap_or_else(|| failed(error))
    }
}

/// See [`Progress::reader`].
#[derive(Debug)]
pub struct Reader<'a, R> {
    progress: &'a Progress,
    inner: R,
}

impl<R: Read> Read for Reader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.progress.check().map_err(io::Error::other)?;
        self.inner.read(buffer)
    }
}
