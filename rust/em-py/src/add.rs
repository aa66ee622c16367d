//! Adding to an artifact.

use std::path::{Path, PathBuf};

use em_core::{
    add::{Add, Summary, reference},
    artifact::ArtifactDir,
    manifest::Reference,
    stat_cache::{self, StatCache},
};
use pyo3::{prelude::*, types::PyDict};

use crate::{
    call::{open_store, threads, watched},
    convert::{Name, linked},
};

/// Add all files below a directory.
#[pyfunction]
#[pyo3(signature = (store, artifact_dir, source, obj_path, progress=None))]
pub fn add_dir<'py>(
    py: Python<'py>,
    store: PathBuf,
    artifact_dir: PathBuf,
    source: PathBuf,
    obj_path: &str,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    add(py, &store, &artifact_dir, progress, |add| add.dir(&source, obj_path))
}

/// Add one file.
#[pyfunction]
#[pyo3(signature = (store, artifact_dir, source, obj_path, progress=None))]
pub fn add_file<'py>(
    py: Python<'py>,
    store: PathBuf,
    artifact_dir: PathBuf,
    source: PathBuf,
    obj_path: &str,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    add(py, &store, &artifact_dir, progress, |add| add.file(&source, obj_path))
}

fn add<'py>(
    py: Python<'py>,
    store: &Path,
    artifact_dir: &Path,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&Add<'_>) -> em_core::Result<Summary> + Send,
) -> PyResult<Bound<'py, PyDict>> {
    let summary = watched(py, progress, |progress| {
        let store = open_store(store)?;
        let artifact = ArtifactDir::open(artifact_dir)?;
        artifact.recover(&store, progress)?;
        // A user without a home has no cache: nothing can be below a device.
        let cache = StatCache::open(&stat_cache::default_dir().unwrap_or_else(|| "/dev/null".into()));
        let chunk_tables = std::env::var_os("EM_BENCH_NO_CHUNK_TABLES").is_none();
        let threads = threads()?;
        work(&Add { store: &store, artifact: &artifact, cache: &cache, progress, threads, chunk_tables })
    })?;
    to_dict(py, &summary)
}

fn to_dict<'py>(py: Python<'py>, summary: &Summary) -> PyResult<Bound<'py, PyDict>> {
    let result = PyDict::new(py);
    result.set_item("files", summary.files)?;
    result.set_item("bytes", summary.bytes)?;
    result.set_item("new_objects", summary.new_objects)?;
    result.set_item("new_bytes", summary.new_bytes)?;
    result.set_item("reserved_on_windows", summary.reserved_on_windows)?;
    result.set_item("linked", linked(py, summary.linked)?)?;
    Ok(result)
}

/// Record a URI as an entry; nothing is fetched.
#[pyfunction]
#[pyo3(signature = (artifact_dir, obj_path, uri, size=None, etag=None, digest=None))]
pub fn add_reference<'py>(
    py: Python<'py>,
    artifact_dir: PathBuf,
    obj_path: &str,
    uri: String,
    size: Option<u64>,
    etag: Option<String>,
    digest: Option<Name>,
) -> PyResult<Bound<'py, PyDict>> {
    let known = Reference { uri, size, etag, digest: digest.map(|digest| digest.0) };
    let done = watched(py, None, |progress| reference(&ArtifactDir::open(&artifact_dir)?, obj_path, known, progress))?;
    to_dict(py, &done)
}
