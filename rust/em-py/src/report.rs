//! What a store holds: verifying, reclaiming, comparing, counting.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use em_core::{
    artifact::ArtifactDir,
    store::Store,
    verify::{self as verification, Report},
};
use pyo3::{prelude::*, types::PyDict};

use crate::call::{detached, watched};

/// Hash every object of the store, or every file and object of one artifact, and report what is wrong.
#[pyfunction]
#[pyo3(signature = (store, artifact_dir=None, progress=None))]
pub fn verify<'py>(
    py: Python<'py>,
    store: PathBuf,
    artifact_dir: Option<PathBuf>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let report: Report = watched(py, progress, |progress| {
        let store = Store::open(&store)?;
        match &artifact_dir {
            Some(directory) => verification::artifact(&store, &ArtifactDir::open(directory)?, progress),
            None => verification::store(&store, progress),
        }
    })?;
    let result = PyDict::new(py);
    result.set_item("objects", report.objects)?;
    result.set_item("bytes", report.bytes)?;
    let problems: Vec<_> = report
        .problems
        .iter()
        .map(|problem| {
            let dict = PyDict::new(py);
            dict.set_item("kind", problem.kind.as_str())?;
            dict.set_item("path", &problem.path)?;
            Ok(dict)
        })
        .collect::<PyResult<_>>()?;
    result.set_item("problems", problems)?;
    Ok(result)
}

/// Reclaim objects that no artifact reaches and that were condemned at least `older_than_s` seconds ago.
#[pyfunction]
#[pyo3(signature = (store, older_than_s, dry_run, progress=None))]
pub fn gc<'py>(
    py: Python<'py>,
    store: PathBuf,
    older_than_s: u64,
    dry_run: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let grace = Duration::from_secs(older_than_s);
    let done = watched(py, progress, |progress| em_core::gc::gc(&Store::open(&store)?, grace, dry_run, progress))?;
    let result = PyDict::new(py);
    result.set_item("unreachable_objects", done.unreachable_objects)?;
    result.set_item("unreachable_bytes", done.unreachable_bytes)?;
    result.set_item("deleted_objects", done.deleted_objects)?;
    result.set_item("freed_bytes", done.freed_bytes)?;
    Ok(result)
}

/// Compare two artifacts: paths added, removed and changed, and the bytes of chunks they share.
#[pyfunction]
pub fn diff<'py>(py: Python<'py>, store: PathBuf, first: PathBuf, second: PathBuf) -> PyResult<Bound<'py, PyDict>> {
    let manifest = |path: &Path| Ok(ArtifactDir::open(path)?.manifest()?.1);
    let done = detached(py, || em_core::diff::diff(&Store::open(&store)?, &manifest(&first)?, &manifest(&second)?))?;
    let result = PyDict::new(py);
    result.set_item("added", done.added)?;
    result.set_item("removed", done.removed)?;
    result.set_item("changed", done.changed)?;
    result.set_item("shared_bytes", done.shared_bytes)?;
    result.set_item("unique_bytes", done.unique_bytes)?;
    Ok(result)
}

/// Apparent, stored and unique bytes of each artifact, then of all together.
#[pyfunction]
pub fn usage(py: Python<'_>, artifact_dirs: Vec<PathBuf>) -> PyResult<Vec<(u64, u64, u64)>> {
    let read = |path: &PathBuf| Ok(ArtifactDir::open(path)?.manifest()?.1);
    let manifests = detached(py, || artifact_dirs.iter().map(read).collect::<em_core::Result<Vec<_>>>())?;
    let (each, total) = em_core::diff::usage(&manifests);
    let tuple = |usage: em_core::diff::Usage| (usage.apparent_bytes, usage.stored_bytes, usage.unique_bytes);
    Ok(each.into_iter().chain([total]).map(tuple).collect())
}
