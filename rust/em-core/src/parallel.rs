//! Numbered pieces of work on the threads of one call.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::{Error, Kind, Result};

/// Calls `work` once for each number below `count`, on the calling thread and at most `threads - 1` more, each with a
/// `state` of its own. Stops at the first error. Threads that the system refuses are done without.
pub fn each<S>(
    threads: usize,
    count: usize,
    state: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, usize) -> Result<()> + Sync,
) -> Result<()> {
    let (next, failed, first) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    let run = || {
        let worked = state().and_then(|mut state| {
            while !failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                work(&mut state, index)?;
            }
            Ok(())
        });
        if let Err(error) = worked {
            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            failed.store(true, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, run).ok();
        let workers: Vec<_> = (1..threads.min(count)).filter_map(spawn).collect();
        run();
        let mut joined = workers.into_iter().map(|worker| worker.join().is_ok());
        if joined.all(|ended| ended) { Ok(()) } else { Err(Error::new(Kind::Store, "a worker stopped early")) }
    })?;
    first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
