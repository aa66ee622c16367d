//! Python binding of `em-core`: each function converts, detaches the GIL, calls, converts.
#![allow(clippy::missing_errors_doc)]

mod call;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use em_core::{
    add::{Add, Summary, reference},
    artifact::ArtifactDir,
    manifest::EntryKind,
    stat_cache::{self, StatCache},
    store::{Store, link::LinkMode},
    verify::{self as verification, Report},
};
use pyo3::{prelude::*, types::PyDict};

use call::{threads, to_py, watched};

pyo3::create_exception!(
    _engine,
    EngineError,
    pyo3::exceptions::PyException,
    "A failure of the engine; `kind` says which."
);

/// Path, type, size in bytes, digest, executable bit, URI.
type EntryTuple = (String, &'static str, Option<u64>, Option<String>, bool, Option<String>);

/// Make an artifact's directory with an empty manifest.
#[pyfunction]
fn create_artifact(py: Python<'_>, artifact_dir: PathBuf) -> PyResult<()> {
    py.detach(|| ArtifactDir::create(&artifact_dir)).map(drop).map_err(|error| to_py(py, error))
}

/// Read the entries of an artifact's manifest, sorted by path.
#[pyfunction]
fn read_entries(py: Python<'_>, artifact_dir: PathBuf) -> PyResult<Vec<EntryTuple>> {
    let read = py.detach(|| ArtifactDir::open(&artifact_dir)?.manifest());
    let (_, manifest) = read.map_err(|error| to_py(py, error))?;
    let tuple = |(path, kind): (&str, &EntryKind)| {
        let path = path.to_owned();
        match kind {
            EntryKind::File { size, digest, executable } => {
                (path, "file", Some(*size), Some(digest.to_string()), *executable, None)
            }
            EntryKind::Directory => (path, "directory", None, None, false, None),
            EntryKind::Reference(known) => {
                (path, "reference", known.size, known.digest.map(|d| d.to_string()), false, Some(known.uri.clone()))
            }
        }
    };
    Ok(manifest.entries().map(tuple).collect())
}

/// Digest of an artifact's manifest: its version identity.
#[pyfunction]
fn manifest_digest(py: Python<'_>, artifact_dir: PathBuf) -> PyResult<String> {
    let read = py.detach(|| ArtifactDir::open(&artifact_dir)?.manifest());
    read.map(|(_, manifest)| manifest.digest().to_string()).map_err(|error| to_py(py, error))
}

/// Undo what an interrupted add left in an artifact's directory.
#[pyfunction]
fn recover(py: Python<'_>, store: PathBuf, artifact_dir: PathBuf) -> PyResult<()> {
    let done = py.detach(|| ArtifactDir::open(&artifact_dir)?.recover(&Store::open(&store)?));
    done.map_err(|error| to_py(py, error))
}

/// Add all files below a directory.
#[pyfunction]
#[pyo3(signature = (store, artifact_dir, source, obj_path, progress=None))]
fn add_dir<'py>(
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
fn add_file<'py>(
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
        let store = Store::open(store)?;
        let artifact = ArtifactDir::open(artifact_dir)?;
        artifact.recover(&store)?;
        // A user without a home has no cache: nothing can be below a device.
        let cache = StatCache::open(&stat_cache::default_dir().unwrap_or_else(|| "/dev/null".into()));
        let link_mode = std::env::var("EM_LINK_MODE").ok().map(|text| LinkMode::parse(&text)).transpose()?;
        let chunk_tables = std::env::var_os("EM_BENCH_NO_CHUNK_TABLES").is_none();
        let threads = threads()?;
        work(&Add { store: &store, artifact: &artifact, cache: &cache, progress, threads, link_mode, chunk_tables })
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
    Ok(result)
}

/// Record a URI as an entry; nothing is fetched.
#[pyfunction]
fn add_reference<'py>(
    py: Python<'py>,
    artifact_dir: PathBuf,
    obj_path: &str,
    uri: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let done = py.detach(|| reference(&ArtifactDir::open(&artifact_dir)?, obj_path, uri));
    to_dict(py, &done.map_err(|error| to_py(py, error))?)
}

/// Hash every object of the store, or every file and object of one artifact, and report what is wrong.
#[pyfunction]
#[pyo3(signature = (store, artifact_dir=None, progress=None))]
fn verify<'py>(
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
fn gc<'py>(
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
fn diff<'py>(py: Python<'py>, store: PathBuf, first: PathBuf, second: PathBuf) -> PyResult<Bound<'py, PyDict>> {
    let manifest = |path: &Path| Ok(ArtifactDir::open(path)?.manifest()?.1);
    let done = py.detach(|| em_core::diff::diff(&Store::open(&store)?, &manifest(&first)?, &manifest(&second)?));
    let done = done.map_err(|error| to_py(py, error))?;
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
fn usage(py: Python<'_>, artifact_dirs: Vec<PathBuf>) -> PyResult<Vec<(u64, u64, u64)>> {
    let read = |path: &PathBuf| Ok(ArtifactDir::open(path)?.manifest()?.1);
    let manifests = py.detach(|| artifact_dirs.iter().map(read).collect::<em_core::Result<Vec<_>>>());
    let (each, total) = em_core::diff::usage(&manifests.map_err(|error| to_py(py, error))?);
    let tuple = |usage: em_core::diff::Usage| (usage.apparent_bytes, usage.stored_bytes, usage.unique_bytes);
    Ok(each.into_iter().chain([total]).map(tuple).collect())
}

/// BLAKE3 digest of a file, the value that `b3sum` prints.
#[pyfunction]
#[pyo3(signature = (path, progress=None))]
fn hash_file(py: Python<'_>, path: PathBuf, progress: Option<Py<PyAny>>) -> PyResult<String> {
    let digest = watched(py, progress, |progress| em_core::ingest::hash_file(&path, threads()?, progress))?;
    Ok(digest.to_string())
}

#[pymodule]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("EngineError", module.py().get_type::<EngineError>())?;
    module.add_function(wrap_pyfunction!(create_artifact, module)?)?;
    module.add_function(wrap_pyfunction!(read_entries, module)?)?;
    module.add_function(wrap_pyfunction!(manifest_digest, module)?)?;
    module.add_function(wrap_pyfunction!(recover, module)?)?;
    module.add_function(wrap_pyfunction!(add_dir, module)?)?;
    module.add_function(wrap_pyfunction!(add_file, module)?)?;
    module.add_function(wrap_pyfunction!(add_reference, module)?)?;
    module.add_function(wrap_pyfunction!(verify, module)?)?;
    module.add_function(wrap_pyfunction!(gc, module)?)?;
    module.add_function(wrap_pyfunction!(diff, module)?)?;
    module.add_function(wrap_pyfunction!(usage, module)?)?;
    module.add_function(wrap_pyfunction!(hash_file, module)?)
}
