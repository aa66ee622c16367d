//! What a store holds: verifying, reclaiming, comparing, counting.

use std::{path::PathBuf, time::Duration};

use em_core::{
    artifact::ArtifactDir,
    cancel::Progress,
    diff::{Differences, shared},
    gc::{self as garbage, Reclaimed},
    manifest::{Manifest, OwnedEntries},
    store::Store,
    verify::{ProblemKind, Problems, Report, Verify},
};
use pyo3::{IntoPyObjectExt, prelude::*, types::PyDict};

use crate::{
    artifact::manifest,
    call::{open_store, threads, to_py, watched, watched_on},
};

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
        let verify = Verify { store: &open_store(&store)?, progress, threads: threads()? };
        match &artifact_dir {
            Some(directory) => verify.artifact(&ArtifactDir::open(directory)?),
            None => verify.store(),
        }
    })?;
    let result = PyDict::new(py);
    result.set_item("objects", report.objects)?;
    result.set_item("bytes", report.bytes)?;
    for kind in ProblemKind::ALL {
        let count = PyDict::new(py);
        count.set_item("files", report.count(kind).files)?;
        count.set_item("bytes", report.count(kind).bytes)?;
        result.set_item(kind.as_str(), count)?;
    }
    result.set_item("problems", ProblemIterator { problems: report.problems() })?;
    Ok(result)
}

/// Problems that a verification found, read while they are asked for.
#[pyclass(name = "Problems", module = "t9k.em._engine")]
pub struct ProblemIterator {
    problems: Problems,
}

#[pymethods]
impl ProblemIterator {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let next = py.detach(|| self.problems.next()).transpose().map_err(|error| to_py(py, error))?;
        let Some(problem) = next else { return Ok(None) };
        let dict = PyDict::new(py);
        dict.set_item("kind", problem.kind.as_str())?;
        dict.set_item("thing", problem.thing.as_str())?;
        dict.set_item("path", problem.path)?;
        dict.set_item("bytes", problem.bytes)?;
        dict.set_item("reason", problem.reason)?;
        dict.set_item("file", problem.file)?;
        Ok(Some(dict))
    }
}

/// Reclaim objects that no artifact reaches and that were condemned at least `older_than_s` seconds ago.
#[pyfunction]
#[pyo3(signature = (store, older_than_s, dry_run, progress=None, planned=None))]
pub fn gc<'py>(
    py: Python<'py>,
    store: PathBuf,
    older_than_s: u64,
    dry_run: bool,
    progress: Option<Py<PyAny>>,
    planned: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let state = Progress::default();
    let (store, plan) = watched_on(py, &state, progress.as_ref().map(|progress| progress.clone_ref(py)), |progress| {
        let store = open_store(&store)?;
        if !dry_run {
            garbage::recover(&store, progress)?;
        }
        let plan = garbage::plan(&store, progress)?;
        Ok((store, plan))
    })?;
    let counts = reclaimed(py, plan.counts)?;
    if let Some(planned) = planned {
        planned.call1(py, (&counts,))?;
    }
    if dry_run {
        return Ok(counts);
    }
    let grace = Duration::from_secs(older_than_s);
    reclaimed(py, watched_on(py, &state, progress, |progress| garbage::reclaim(&store, &plan, grace, progress))?)
}

fn reclaimed(py: Python<'_>, counts: Reclaimed) -> PyResult<Bound<'_, PyDict>> {
    let result = PyDict::new(py);
    result.set_item("unreachable_objects", counts.unreachable_objects)?;
    result.set_item("unreachable_bytes", counts.unreachable_bytes)?;
    result.set_item("reclaimable_bytes", counts.reclaimable_bytes)?;
    result.set_item("deleted_objects", counts.deleted_objects)?;
    result.set_item("freed_bytes", counts.freed_bytes)?;
    Ok(result)
}

/// Compare two artifacts: bytes of the chunks that both have, and of all chunks of the second.
#[pyfunction]
#[pyo3(signature = (store, first, second, progress=None))]
pub fn diff(
    py: Python<'_>,
    store: PathBuf,
    first: PathBuf,
    second: PathBuf,
    progress: Option<Py<PyAny>>,
) -> PyResult<(u64, u64)> {
    let done = watched(py, progress, |progress| {
        let (first, second) = (manifest(&first, progress)?, manifest(&second, progress)?);
        shared(&Store::open(&store)?, &first, &second, progress)
    })?;
    Ok((done.shared_bytes, done.unique_bytes))
}

/// The paths that differ between two artifacts, sorted: "added", "removed" or "changed", and the path.
#[pyfunction]
pub fn differences(py: Python<'_>, first: PathBuf, second: PathBuf) -> PyResult<DifferenceIterator> {
    let found = watched(py, None, |progress| {
        let entries = |path| manifest(path, progress).map(Manifest::into_entries);
        Ok(Differences::new(entries(&first)?, entries(&second)?))
    })?;
    Ok(DifferenceIterator { found })
}

/// Paths that differ, found while they are asked for.
#[pyclass(name = "Differences", module = "t9k.em._engine")]
pub struct DifferenceIterator {
    found: Differences<OwnedEntries>,
}

#[pymethods]
impl DifferenceIterator {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<(&'static str, String)>> {
        let next = py.detach(|| self.found.next()).transpose().map_err(|error| to_py(py, error))?;
        Ok(next.map(|(difference, path)| (difference.as_str(), path)))
    }
}

/// A row of bytes for each artifact and for all, and why some cannot be read.
type UsageRows<'py> = (Vec<Option<(u64, u64, u64)>>, Vec<Bound<'py, PyAny>>);

/// Apparent, stored and unique bytes of each artifact, then of these together; and why some cannot be read.
#[pyfunction]
#[pyo3(signature = (store, artifact_dirs, others=Vec::new(), progress=None))]
pub fn usage<'py>(
    py: Python<'py>,
    store: PathBuf,
    mut artifact_dirs: Vec<PathBuf>,
    others: Vec<PathBuf>,
    progress: Option<Py<PyAny>>,
) -> PyResult<UsageRows<'py>> {
    let told = artifact_dirs.len();
    artifact_dirs.extend(others);
    let (each, total, errors) = watched(py, progress, |progress| {
        let open = |index: usize| manifest(&artifact_dirs[index], progress);
        em_core::diff::usage(&Store::open(&store)?, told, artifact_dirs.len(), open, progress)
    })?;
    let tuple = |usage: em_core::diff::Usage| (usage.apparent_bytes, usage.stored_bytes, usage.unique_bytes);
    let rows = each.into_iter().chain([Some(total)]).map(|usage| usage.map(tuple)).collect();
    let errors: PyResult<_> = errors.into_iter().map(|error| to_py(py, error).into_bound_py_any(py)).collect();
    Ok((rows, errors?))
}
