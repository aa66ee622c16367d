//! Running a long call away from the GIL, while the calling thread watches for Ctrl-C.

use std::{
    path::Path,
    sync::{atomic::Ordering::Relaxed, mpsc},
    time::Duration,
};

use em_core::{
    Error, Kind, Result,
    cancel::Progress,
    store::{Store, link::LinkMode},
};
use pyo3::{exceptions::PyKeyboardInterrupt, prelude::*};

use crate::EngineError;

/// How often the calling thread looks for signals and reports progress.
const TICK: Duration = Duration::from_millis(100);

/// Runs `work` on this thread, without the GIL.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| to_py(py, error))
}

/// Runs `work` on a thread of its own. Each tick the calling thread checks for signals and calls
/// `progress(files, bytes, total_files, total_bytes)`; an exception from either cancels the work and is raised
/// after it has cleaned up.
pub fn watched<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&Progress) -> Result<T> + Send,
) -> PyResult<T> {
    watched_on(py, &Progress::default(), progress, work)
}

/// As [`watched`], for work that goes on counting where work before it ended.
pub fn watched_on<T: Send>(
    py: Python<'_>,
    state: &Progress,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&Progress) -> Result<T> + Send,
) -> PyResult<T> {
    let (mut raised, mut has_ticked) = (None, false);
    let done = py.detach(|| {
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let worker = std::thread::Builder::new().spawn_scoped(scope, move || {
                let result = work(state);
                // The receiver lives until this thread is joined.
                let _ = sender.send(());
                result
            });
            let worker = worker.map_err(|error| {
                let error = Error::new(Kind::Store, format!("the system refuses a thread: {error}"));
                error.hint("raise the limit of processes (`ulimit -u`)")
            })?;
            while let Err(mpsc::RecvTimeoutError::Timeout) = receiver.recv_timeout(TICK) {
                has_ticked = true;
                if raised.is_none() {
                    raised = Python::attach(|py| tick(py, progress.as_ref(), state)).err();
                    if raised.is_some() {
                        state.cancel();
                    }
                }
            }
            worker.join().unwrap_or_else(|_| Err(Error::new(Kind::Store, "the engine stopped on a defect")))
        })
    });
    match (done, raised) {
        (Ok(value), raised) => {
            // A bar ends at the end. The work is done, and what is raised now does not undo it; but Ctrl-C is not lost.
            let last = || progress.filter(|_| has_ticked).and_then(|progress| report(py, &progress, state).err());
            if raised.or_else(last).is_some_and(|error| error.is_instance_of::<PyKeyboardInterrupt>(py)) {
                py.import("_thread")?.call_method0("interrupt_main")?;
            }
            Ok(value)
        }
        (Err(error), Some(raised)) if error.kind == Kind::Cancelled => Err(raised),
        (Err(error), _) => Err(to_py(py, error)),
    }
}

fn tick(py: Python<'_>, progress: Option<&Py<PyAny>>, state: &Progress) -> PyResult<()> {
    py.check_signals()?;
    progress.map_or(Ok(()), |progress| report(py, progress, state))
}

fn report(py: Python<'_>, progress: &Py<PyAny>, state: &Progress) -> PyResult<()> {
    let [files, bytes, total_files, total_bytes] =
        [&state.files, &state.bytes, &state.total_files, &state.total_bytes].map(|count| count.load(Relaxed));
    progress.call1(py, (files, bytes, total_files, total_bytes)).map(drop)
}

/// Workers of one call: `EM_THREADS`, else what the machine and its cgroup allow.
pub fn threads() -> Result<usize> {
    match std::env::var("EM_THREADS") {
        Err(_) => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        Ok(text) => match text.parse() {
            Ok(count @ 1..=1024) => Ok(count),
            _ => Err(Error::invalid(format!("EM_THREADS is {text:?}")).hint("use a number from 1 to 1024")),
        },
    }
}

/// The store at `root`, which links as `EM_LINK_MODE` says.
pub fn open_store(root: &Path) -> Result<Store> {
    let link_mode = std::env::var("EM_LINK_MODE").ok().map(|text| LinkMode::parse(&text)).transpose()?;
    Ok(Store::open(root)?.with_link_mode(link_mode))
}

/// The engine's error as an `EngineError` with `kind`, `message`, `hint` and `errno`.
pub fn to_py(py: Python<'_>, error: Error) -> PyErr {
    if error.kind == Kind::Cancelled {
        return PyKeyboardInterrupt::new_err(());
    }
    let raised = EngineError::new_err(error.to_string());
    let value = raised.value(py);
    let set = value
        .setattr("kind", error.kind.as_str())
        .and_then(|()| value.setattr("message", error.message))
        .and_then(|()| value.setattr("hint", error.hint))
        .and_then(|()| value.setattr("errno", error.errno));
    match set {
        Ok(()) => raised,
        Err(failed) => failed,
    }
}
