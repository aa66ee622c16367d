//! Values that cross the border: buffers, digests, columns.

use std::{ffi::OsStr, path::PathBuf, sync::Arc};

use em_core::{
    Digest, Error,
    store::{Store, link::Linked},
};
use pyo3::{
    buffer::PyUntypedBuffer,
    exceptions::PyBufferError,
    prelude::*,
    types::{PyBytes, PyDict},
};

use crate::call::{detached, open_store, to_py};

/// Any contiguous buffer of Python's, not copied. It cannot be freed or resized while this lives.
pub struct Buffer(PyUntypedBuffer);

impl Buffer {
    /// Its bytes. As everywhere in Python, nobody may write to a buffer that a call reads.
    pub fn bytes(&self) -> &[u8] {
        if self.0.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: the buffer is contiguous, was checked to be so, and is exported to us until this is dropped. Who writes
        // to it meanwhile makes the result wrong, as with hashlib; all indexes are checked against its fixed length.
        unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast(), self.0.len_bytes()) }
    }
}

impl FromPyObject<'_, '_> for Buffer {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(&object)?;
        match buffer.is_c_contiguous() {
            true => Ok(Self(buffer)),
            false => Err(PyBufferError::new_err("the buffer is not contiguous")),
        }
    }
}

/// A store by its path, or one that is open.
pub enum StoreArg {
    Path(PathBuf),
    Open(Arc<Store>),
}

impl StoreArg {
    pub fn open(&self) -> em_core::Result<Arc<Store>> {
        match self {
            Self::Path(path) => open_store(path).map(Arc::new),
            Self::Open(store) => Ok(Arc::clone(store)),
        }
    }
}

impl FromPyObject<'_, '_> for StoreArg {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match object.cast::<OpenStore>() {
            Ok(open) => Ok(Self::Open(Arc::clone(&open.get().store))),
            Err(_) => object.extract().map(Self::Path),
        }
    }
}

/// A store that is open, to be given in place of its path where many single objects are asked for.
#[pyclass(frozen, name = "Store", module = "t9k.em._engine")]
pub struct OpenStore {
    store: Arc<Store>,
}

#[pymethods]
impl OpenStore {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let store = detached(py, || open_store(&path))?;
        Ok(Self { store: Arc::new(store) })
    }

    /// The directory it was opened at.
    #[getter]
    fn path(&self) -> &OsStr {
        self.store.root().as_os_str()
    }
}

/// A digest as 32 bytes.
pub struct Name(pub Digest);

impl FromPyObject<'_, '_> for Name {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let bytes: &[u8] = object.extract()?;
        let digest = bytes.try_into().map(|bytes| Self(Digest(bytes)));
        digest.map_err(|_| to_py(object.py(), Error::invalid(format!("a digest has 32 bytes, not {}", bytes.len()))))
    }
}

/// Digests one behind the other.
pub fn digests<'py>(py: Python<'py>, digests: &[Digest]) -> PyResult<Bound<'py, PyBytes>> {
    words(py, digests, |digest| digest.0)
}

/// Values of `N` bytes one behind the other.
pub fn words<'py, T: Copy, const N: usize>(
    py: Python<'py>,
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, values.len() * N, |buffer| {
        for (place, value) in buffer.as_chunks_mut().0.iter_mut().zip(values) {
            *place = bytes(*value);
        }
        Ok(())
    })
}

/// How files came to their paths.
pub fn linked(py: Python<'_>, linked: Linked) -> PyResult<Bound<'_, PyDict>> {
    let result = PyDict::new(py);
    result.set_item("reflinks", linked.reflinks)?;
    result.set_item("hardlinks", linked.hardlinks)?;
    result.set_item("copies", linked.copies)?;
    result.set_item("copied_bytes", linked.copied_bytes)?;
    result.set_item("fell_to_copies", linked.fell_to_copies)?;
    Ok(result)
}
