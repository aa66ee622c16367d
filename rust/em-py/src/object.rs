//! Single objects of a store, and digests.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use em_core::{
    Digest, Error, Kind,
    chunk::table::{self, TableReader},
    materialize,
    store::{leases, objects::Presence},
};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict},
};

use crate::{
    call::{detached, threads, to_py, watched},
    convert::{Buffer, Name, StoreArg, digests, linked, words},
};

/// BLAKE3 digest of a file, the value that `b3sum` prints.
#[pyfunction]
#[pyo3(signature = (path, progress=None))]
pub fn hash_file(py: Python<'_>, path: PathBuf, progress: Option<Py<PyAny>>) -> PyResult<String> {
    let digest = watched(py, progress, |progress| em_core::ingest::hash_file(&path, threads()?, progress))?;
    Ok(digest.to_string())
}

/// BLAKE3 digest of bytes.
#[pyfunction]
pub fn digest<'py>(py: Python<'py>, data: Buffer) -> PyResult<Bound<'py, PyBytes>> {
    let digest = detached(py, || Ok(Digest::of(data.bytes())))?;
    Ok(PyBytes::new(py, &digest.0))
}

/// Whether the store has an object of this size; one that was touched is rehashed, and moved away if it is wrong.
#[pyfunction]
pub fn usable(py: Python<'_>, store: StoreArg, digest: Name, size: u64) -> PyResult<bool> {
    let (store, presence) = detached(py, || {
        let store = store.open()?;
        let presence = store.presence(digest.0, size)?;
        Ok((store, presence))
    })?;
    match presence {
        Presence::Missing => Ok(false),
        Presence::Sealed => Ok(true),
        // May take long, and then Ctrl-C must reach it.
        Presence::Suspect => watched(py, None, |progress| store.usable_unless_cancelled(digest.0, size, progress)),
    }
}

/// The chunks of an object of the store, read in parts; an object without a table is a single chunk, or none.
#[pyclass(frozen, module = "t9k.em._engine")]
pub struct ChunkTable {
    digest: Digest,
    size_bytes: u64,
    table: Option<(File, TableReader)>,
}

#[pymethods]
impl ChunkTable {
    #[new]
    fn new(py: Python<'_>, store: StoreArg, digest: Name) -> PyResult<Self> {
        detached(py, || {
            let store = store.open()?;
            let table = store.open_table(digest.0)?;
            let size_bytes = match &table {
                Some((_, reader)) => reader.object_size,
                None => store.size_without_table(digest.0)?,
            };
            Ok(Self { digest: digest.0, size_bytes, table })
        })
    }

    /// How many chunks there are.
    fn __len__(&self) -> usize {
        self.table.as_ref().map_or(usize::from(self.size_bytes > 0), |(_, reader)| reader.count as usize)
    }

    /// At most `most` chunks from number `first` on: digests, and lengths as u32.
    fn chunks<'py>(
        &self,
        py: Python<'py>,
        first: u64,
        most: u64,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let chunks = detached(py, || match &self.table {
            Some((file, reader)) => reader.chunks(file, first, most),
            None if self.size_bytes == 0 || first > 0 || most == 0 => Ok(Vec::new()),
            None => Ok(vec![(self.digest, self.size_bytes as u32)]),
        })?;
        columns(py, chunks)
    }

    /// Bytes of the table itself; 0 without one.
    #[getter]
    fn table_bytes(&self) -> u64 {
        self.table.as_ref().map_or(0, |(_, reader)| reader.table_bytes())
    }

    /// At most `length` bytes of the table from `offset` on.
    fn read<'py>(&self, py: Python<'py>, offset: u64, length: u64) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = detached(py, || {
            let Some((file, reader)) = &self.table else { return Ok(Vec::new()) };
            let mut bytes = vec![0; reader.table_bytes().saturating_sub(offset).min(length) as usize];
            let read = file.read_exact_at(&mut bytes, offset);
            read.map(|()| bytes).map_err(|error| Error::new(Kind::Store, format!("cannot read a chunk table: {error}")))
        })?;
        Ok(PyBytes::new(py, &bytes))
    }
}

/// Check the bytes of a chunk table from anywhere: size of the object, digests, and lengths as u32.
#[pyfunction]
pub fn parse_chunk_table<'py>(
    py: Python<'py>,
    data: Buffer,
) -> PyResult<(u64, Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let table = detached(py, || table::ChunkTable::decode(data.bytes()))?;
    let (digests, lengths) = columns(py, table.chunks)?;
    Ok((table.object_size, digests, lengths))
}

/// Chunks as two columns.
pub fn columns<'py>(
    py: Python<'py>,
    chunks: Vec<(Digest, u32)>,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let (names, lengths): (Vec<_>, Vec<_>) = chunks.into_iter().unzip();
    Ok((digests(py, &names)?, words(py, &lengths, u32::to_le_bytes)?))
}

/// Read at most `length` bytes of an object from `offset` on; it is rehashed first if it was touched.
#[pyfunction]
pub fn read_object_range<'py>(
    py: Python<'py>,
    store: StoreArg,
    digest: Name,
    offset: u64,
    length: u64,
) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = detached(py, || store.open()?.read_range(digest.0, offset, length))?;
    Ok(PyBytes::new(py, &bytes))
}

/// Put objects at paths below a directory by reflink, else hardlink, else copy, replacing files there; answers how.
#[pyfunction]
#[pyo3(signature = (store, root, entries, progress=None))]
pub fn link_entries(
    py: Python<'_>,
    store: StoreArg,
    root: PathBuf,
    entries: Vec<(String, Name, bool)>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    let done = watched(py, progress, |progress| {
        let store = store.open()?;
        let entries: Vec<_> =
            entries.iter().map(|(path, digest, executable)| (&**path, digest.0, *executable)).collect();
        materialize::entries(&store, &root, &entries, progress)
    })?;
    linked(py, done)
}

/// Keeps `gc` from deleting what a call in flight has seen in the store.
#[pyclass(frozen, module = "t9k.em._engine")]
pub struct Lease {
    taken: Mutex<Option<leases::Lease>>,
}

impl Lease {
    fn taken(&self) -> std::sync::MutexGuard<'_, Option<leases::Lease>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Lease {
    #[new]
    fn new(py: Python<'_>, store: StoreArg) -> PyResult<Self> {
        let lease = detached(py, || leases::Lease::take(&*store.open()?))?;
        Ok(Self { taken: Mutex::new(Some(lease)) })
    }

    /// Say that the work goes on, at least every few minutes; cheap enough for each step.
    fn renew(&self, py: Python<'_>) -> PyResult<()> {
        let renewed = py.detach(|| self.taken().as_ref().map(leases::Lease::renew));
        renewed.ok_or_else(|| to_py(py, Error::invalid("the lease was released")))
    }

    /// Whether it is still held: not released, and by nobody taken for stale.
    fn is_held(&self, py: Python<'_>) -> bool {
        py.detach(|| self.taken().as_ref().is_some_and(leases::Lease::is_held))
    }

    /// End it. Once more does nothing.
    fn release(&self, py: Python<'_>) {
        py.detach(|| drop(self.taken().take()));
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) {
        self.release(py);
    }
}
