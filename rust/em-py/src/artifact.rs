//! Directories of artifacts and their manifests.

use std::path::{Path, PathBuf};

use em_core::{
    artifact::ArtifactDir,
    cancel::Progress,
    gc,
    manifest::{Entry, EntryKind, Manifest, OwnedEntries},
    materialize::Materialize,
};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict},
};

use crate::{
    call::{detached, open_store, threads, to_py, watched},
    convert::{Buffer, StoreArg, digests, linked, words},
};

/// The manifest of an artifact's directory, checked.
pub fn manifest(artifact_dir: &Path, progress: &Progress) -> em_core::Result<Manifest<'static>> {
    Ok(ArtifactDir::open(artifact_dir)?.manifest_unless_cancelled(progress)?.1)
}

/// Path, type, size in bytes, digest, executable bit, URI.
type EntryTuple = (String, &'static str, Option<u64>, Option<String>, bool, Option<String>);

fn tuple(Entry { path, kind }: Entry) -> EntryTuple {
    match kind {
        EntryKind::File { size, digest, executable } => {
            (path, "file", Some(size), Some(digest.to_string()), executable, None)
        }
        EntryKind::Directory => (path, "directory", None, None, false, None),
        EntryKind::Reference(known) => {
            (path, "reference", known.size, known.digest.map(|d| d.to_string()), false, Some(known.uri))
        }
    }
}

/// Entries of an artifact's manifest, read while they are asked for.
#[pyclass(module = "t9k.em._engine")]
pub struct Entries {
    entries: OwnedEntries,
    left: u64,
}

#[pymethods]
impl Entries {
    fn __len__(&self) -> usize {
        self.left as usize
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<EntryTuple>> {
        self.left = self.left.saturating_sub(1);
        self.entries.next().transpose().map(|entry| entry.map(tuple)).map_err(|error| to_py(py, error))
    }
}

/// Make an artifact's directory with an empty manifest.
#[pyfunction]
pub fn create_artifact(py: Python<'_>, artifact_dir: PathBuf) -> PyResult<()> {
    detached(py, || ArtifactDir::create(&artifact_dir).map(drop))
}

/// Replace the metadata file of an artifact's directory, at once.
#[pyfunction]
pub fn write_metadata(py: Python<'_>, artifact_dir: PathBuf, text: &str) -> PyResult<()> {
    detached(py, || ArtifactDir::open(&artifact_dir)?.write_metadata(text.as_bytes()))
}

/// Read the entries of an artifact's manifest, sorted by path.
#[pyfunction]
pub fn read_entries(py: Python<'_>, artifact_dir: PathBuf) -> PyResult<Entries> {
    let manifest = watched(py, None, |progress| manifest(&artifact_dir, progress))?;
    Ok(Entries { left: manifest.len(), entries: manifest.into_entries() })
}

/// Digest of an artifact's manifest: its version identity.
#[pyfunction]
pub fn manifest_digest(py: Python<'_>, artifact_dir: PathBuf) -> PyResult<String> {
    watched(py, None, |progress| Ok(manifest(&artifact_dir, progress)?.digest().to_string()))
}

/// Read the canonical bytes of an artifact's manifest.
#[pyfunction]
pub fn read_manifest(py: Python<'_>, artifact_dir: PathBuf) -> PyResult<Bound<'_, PyBytes>> {
    let manifest = watched(py, None, |progress| manifest(&artifact_dir, progress))?;
    PyBytes::new_with(py, manifest.size_bytes() as usize, |bytes| detached(py, || manifest.read_into(bytes)))
}

/// Check the bytes of a manifest from anywhere and decode their entries, as `read_entries` gives them.
#[pyfunction]
pub fn parse_manifest(py: Python<'_>, data: Buffer) -> PyResult<Vec<EntryTuple>> {
    watched(py, None, |progress| {
        let manifest = Manifest::decode_unless_cancelled(data.bytes(), progress)?;
        manifest.entries().map(|entry| progress.check().and_then(|()| entry.map(tuple))).collect()
    })
}

/// Path, URI, size in bytes, HTTP entity tag, digest; the last three if known.
type ReferenceTuple<'py> = (String, String, Option<u64>, Option<String>, Option<Bound<'py, PyBytes>>);

/// The references of a manifest: path, URI, and what is known of each.
#[pyfunction]
pub fn manifest_references(py: Python<'_>, data: Buffer) -> PyResult<Vec<ReferenceTuple<'_>>> {
    let manifest = watched(py, None, |progress| Manifest::decode_unless_cancelled(data.bytes(), progress))?;
    let mut references = Vec::new();
    for entry in manifest.entries() {
        let Entry { path, kind } = entry.map_err(|error| to_py(py, error))?;
        if let EntryKind::Reference(known) = kind {
            let digest = known.digest.map(|digest| PyBytes::new(py, &digest.0));
            references.push((path, known.uri, known.size, known.etag, digest));
        }
    }
    Ok(references)
}

/// The objects that the bytes of a manifest name, each once: digests, and sizes as u64.
#[pyfunction]
pub fn manifest_objects<'py>(py: Python<'py>, data: Buffer) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let objects =
        watched(py, None, |progress| Manifest::decode_unless_cancelled(data.bytes(), progress)?.objects(progress))?;
    let (names, sizes): (Vec<_>, Vec<_>) = objects.into_iter().unzip();
    Ok((digests(py, &names)?, words(py, &sizes, u64::to_le_bytes)?))
}

/// Make an artifact's directory from a manifest whose objects the store has; it appears whole or not at all.
#[pyfunction]
#[pyo3(signature = (store, artifact_dir, manifest, metadata=None, progress=None))]
pub fn materialize(
    py: Python<'_>,
    store: StoreArg,
    artifact_dir: PathBuf,
    manifest: Buffer,
    metadata: Option<Buffer>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    let done = watched(py, progress, |progress| {
        let manifest = Manifest::decode_unless_cancelled(manifest.bytes(), progress)?;
        let (store, threads) = (store.open()?, threads()?);
        let call = Materialize { store: &store, progress, threads };
        call.artifact(&artifact_dir, &manifest, metadata.as_ref().map(Buffer::bytes))
    })?;
    linked(py, done)
}

/// Undo what interrupted adds left in an artifact's directory, or in those of all artifacts of the store.
#[pyfunction]
#[pyo3(signature = (store, artifact_dir=None))]
pub fn recover(py: Python<'_>, store: PathBuf, artifact_dir: Option<PathBuf>) -> PyResult<()> {
    watched(py, None, |progress| {
        let store = open_store(&store)?;
        match artifact_dir {
            Some(artifact_dir) => ArtifactDir::open(&artifact_dir)?.recover(&store, progress),
            None => gc::recover(&store, progress),
        }
    })
}
