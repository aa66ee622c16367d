//! Cancelling and watching a long call.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::{Error, Kind, Result};

/// Shared by the threads of one call: what is done so far, and whether to stop.
#[derive(Debug, Default)]
pub struct Progress {
    cancelled: AtomicBool,
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
    /// Asks the workers to stop; each does within one block.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// `Kind::Cancelled` once [`cancel`](Self::cancel) was called.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Relaxed) { Err(Error::new(Kind::Cancelled, "cancelled")) } else { Ok(()) }
    }
}
