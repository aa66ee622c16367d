//! Packs on the server, which has their bytes and no store; and single records.

use std::sync::{Mutex, PoisonError};

use em_core::{
    Error,
    pack::{
        codec::Decoder,
        reader::{Entry, Index, Records, Tail},
        receive,
    },
};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyMemoryView},
};

use crate::{
    call::{detached, to_py},
    convert::{Buffer, words},
    pack::PackBytes,
};

/// Digest (32 bytes), offset of the record (u64), its length (u32), length of the chunk (u32).
fn row(entry: Entry) -> [u8; 48] {
    let mut row = [0; 48];
    row[..32].copy_from_slice(&entry.record.digest.0);
    row[32..40].copy_from_slice(&entry.offset.to_le_bytes());
    row[40..44].copy_from_slice(&(entry.record.length() as u32).to_le_bytes());
    row[44..].copy_from_slice(&entry.record.raw_bytes.to_le_bytes());
    row
}

/// Check a pack from anywhere whole, every chunk too: its digest, and a row for each record.
#[pyfunction]
#[pyo3(signature = (data, threads=1))]
pub fn verify_pack<'py>(
    py: Python<'py>,
    data: Buffer,
    threads: usize,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let index = detached(py, || receive::verify(data.bytes(), threads))?;
    Ok((PyBytes::new(py, &index.digest.0), words(py, &index.entries, row)?))
}

/// The digest that names a pack: that of its footer, which is checked; the chunks are not.
#[pyfunction]
pub fn pack_digest<'py>(py: Python<'py>, data: Buffer) -> PyResult<Bound<'py, PyBytes>> {
    let tail = detached(py, || Index::from_tail(data.bytes(), data.bytes().len() as u64))?;
    match tail {
        Tail::Index(index) => Ok(PyBytes::new(py, &index.digest.0)),
        Tail::Needs(_) => Err(to_py(py, Error::integrity("not a pack: too short"))),
    }
}

/// A row for each record of a run of whole records; the chunks are not checked.
#[pyfunction]
pub fn list_records<'py>(py: Python<'py>, data: Buffer) -> PyResult<Bound<'py, PyBytes>> {
    let entries = detached(py, || {
        let (mut records, mut offset, mut entries) = (Records::new(data.bytes()), 0, Vec::new());
        while let Some((record, _)) = records.next_record()? {
            entries.push(Entry { record, offset });
            offset += record.length();
        }
        Ok(entries)
    })?;
    words(py, &entries, row)
}

/// Decode the record at an offset and check its chunk: the chunk's digest and bytes.
#[pyfunction]
#[pyo3(signature = (data, offset=0))]
pub fn decode_record<'py>(
    py: Python<'py>,
    data: Buffer,
    offset: u64,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let (digest, chunk) = detached(py, || {
        receive::chunk_at(&mut Decoder::new()?, data.bytes(), offset, |digest, chunk| (digest, chunk.to_vec()))
    })?;
    Ok((PyBytes::new(py, &digest.0), PyBytes::new(py, &chunk)))
}

/// Hashes an object from its chunks in order, wherever they are stored.
#[pyclass(frozen, module = "t9k.em._engine")]
pub struct ObjectHasher {
    hasher: Mutex<receive::ObjectHasher>,
}

impl ObjectHasher {
    fn hasher(&self) -> std::sync::MutexGuard<'_, receive::ObjectHasher> {
        self.hasher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl ObjectHasher {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        let hasher = receive::ObjectHasher::new().map_err(|error| to_py(py, error))?;
        Ok(Self { hasher: Mutex::new(hasher) })
    }

    /// Append the chunks of the records at these offsets of `data`, in this order, each checked.
    fn push_records(&self, py: Python<'_>, data: Buffer, offsets: Vec<u64>) -> PyResult<()> {
        detached(py, || self.hasher().push(data.bytes(), &offsets))
    }

    /// Bytes so far.
    #[getter]
    fn size(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.hasher().size_bytes())
    }

    /// BLAKE3 digest of the bytes so far.
    fn digest<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let digest = py.detach(|| self.hasher().digest());
        PyBytes::new(py, &digest.0)
    }
}

/// Makes a pack of chunks that lie in other packs, as they are stored there.
#[pyclass(frozen, module = "t9k.em._engine")]
pub struct PackCopier {
    copier: Mutex<Option<receive::PackCopier>>,
}

impl PackCopier {
    fn finished() -> Error {
        Error::invalid("the pack was finished")
    }
}

#[pymethods]
impl PackCopier {
    #[new]
    fn new(py: Python<'_>, capacity_bytes: usize) -> PyResult<Self> {
        let copier = receive::PackCopier::new(capacity_bytes).map_err(|error| to_py(py, error))?;
        Ok(Self { copier: Mutex::new(Some(copier)) })
    }

    /// Append the records at these offsets of `data`, in this order, each checked; answers what is damaged.
    fn push_records(&self, py: Python<'_>, data: Buffer, offsets: Vec<u64>) -> PyResult<Vec<(u64, String)>> {
        detached(py, || {
            let mut copier = self.copier.lock().unwrap_or_else(PoisonError::into_inner);
            let left_out = copier.as_mut().ok_or_else(Self::finished)?.push(data.bytes(), &offsets)?;
            Ok(left_out.into_iter().map(|(offset, error)| (offset, error.message)).collect())
        })
    }

    /// End the pack: its bytes, its digest, and a row for each record.
    fn finish<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyMemoryView>, Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let (bytes, index) = detached(py, || {
            let copier = self.copier.lock().unwrap_or_else(PoisonError::into_inner).take();
            copier.ok_or_else(Self::finished)?.finish()
        })?;
        let bytes = Bound::new(py, PackBytes { bytes })?;
        Ok((PyMemoryView::from(&bytes)?, PyBytes::new(py, &index.digest.0), words(py, &index.entries, row)?))
    }
}
