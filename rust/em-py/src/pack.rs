//! Packs on the client: chunks of a store to packs, and packs to objects of a store.

use std::{
    ffi::c_int,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use em_core::{Digest, Error, pack, store::Store};
use pyo3::{
    ffi,
    prelude::*,
    types::{PyBytes, PyMemoryView},
};

use crate::{
    call::{detached, threads, to_py, watched},
    convert::{Buffer, Name, StoreArg, digests},
    object::columns,
};

/// Offset, digest and length of a chunk.
type Piece = (u64, Name, u32);

/// The packs of some chunks of a store's objects, built one by one, by any threads.
#[pyclass(frozen, module = "t9k.em._engine")]
pub struct PackPlan {
    store: Arc<Store>,
    plan: pack::plan::PackPlan,
    _spares: Spares,
}

#[pymethods]
impl PackPlan {
    #[new]
    #[pyo3(signature = (store, wanted, limit_bytes=16_777_216))]
    fn new(py: Python<'_>, store: StoreArg, wanted: Vec<(Name, Vec<Piece>)>, limit_bytes: u64) -> PyResult<Self> {
        detached(py, || {
            let piece = |(offset, digest, bytes): Piece| (offset, digest.0, bytes);
            let wanted: Vec<(Digest, Vec<pack::plan::Piece>)> = wanted
                .into_iter()
                .map(|(object, pieces)| (object.0, pieces.into_iter().map(piece).collect()))
                .collect();
            let store = store.open()?;
            let plan = pack::plan::PackPlan::new(&store, &wanted, limit_bytes)?;
            Ok(Self { plan, store, _spares: Spares::hold() })
        })
    }

    fn __len__(&self) -> usize {
        self.plan.len()
    }

    /// Build one pack: its bytes, the digests of its chunks, and how many bytes these have.
    fn build<'py>(
        &self,
        py: Python<'py>,
        index: usize,
    ) -> PyResult<(Bound<'py, PyMemoryView>, Bound<'py, PyBytes>, u64)> {
        let built = detached(py, || self.plan.build_in(Spares::take(), &self.store, index))?;
        let bytes = Bound::new(py, PackBytes { bytes: built.bytes })?;
        Ok((PyMemoryView::from(&bytes)?, digests(py, &built.chunks)?, built.raw_bytes))
    }
}

/// The memory of packs that are gone, for the next ones: touching fresh memory takes a tenth of the time of building. It is
/// kept as long as there is a plan.
struct Spares;

static PLANS: AtomicUsize = AtomicUsize::new(0);

/// Never waited for: in a child that was forked while another thread held it, that would not end.
static SPARES: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

impl Spares {
    fn hold() -> Self {
        PLANS.fetch_add(1, Relaxed);
        Self
    }

    fn take() -> Vec<u8> {
        SPARES.try_lock().ok().and_then(|mut spares| spares.pop()).unwrap_or_default()
    }

    fn give_back(memory: Vec<u8>) {
        if let Ok(mut spares) = SPARES.try_lock()
            && spares.len() < PLANS.load(Relaxed)
        {
            spares.push(memory);
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        let most = PLANS.fetch_sub(1, Relaxed) - 1;
        if let Ok(mut spares) = SPARES.try_lock() {
            spares.truncate(most);
        }
    }
}

/// The bytes of a pack as a buffer that can only be read. Python sees memoryviews of it.
#[pyclass(frozen, module = "t9k.em._engine")]
pub struct PackBytes {
    pub bytes: Vec<u8>,
}

impl Drop for PackBytes {
    fn drop(&mut self) {
        Spares::give_back(std::mem::take(&mut self.bytes));
    }
}

#[pymethods]
impl PackBytes {
    /// As CPython asks for it.
    ///
    /// # Safety
    ///
    /// `view` is what CPython hands to a `getbuffer` slot.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let bytes = &slf.get().bytes;
        let start = bytes.as_ptr().cast_mut().cast();
        // SAFETY: the view holds a reference to `slf`, which never changes or moves its bytes, and is marked read-only.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, bytes.len() as isize, 1, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// Objects that are being put together in a store from chunks that come in any order, by any threads.
#[pyclass(frozen, module = "t9k.em._engine")]
pub struct Assembly {
    open: Mutex<Option<Arc<pack::assemble::Assembly>>>,
}

impl Assembly {
    fn open(&self, py: Python<'_>) -> PyResult<Arc<pack::assemble::Assembly>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        open.ok_or_else(|| to_py(py, Error::invalid("the assembly was closed")))
    }
}

#[pymethods]
impl Assembly {
    #[new]
    fn new(py: Python<'_>, store: StoreArg) -> PyResult<Self> {
        let open = detached(py, || pack::assemble::Assembly::new(store.open()?))?;
        Ok(Self { open: Mutex::new(Some(Arc::new(open))) })
    }

    /// Take the next bytes of the chunk table of an object that will be asked for.
    fn push_table(&self, py: Python<'_>, digest: Name, data: Buffer) -> PyResult<()> {
        let open = self.open(py)?;
        detached(py, || open.push_table(digest.0, data.bytes()))
    }

    /// Ask for an object, with its chunk table if that was not pushed; whether the store has it already.
    #[pyo3(signature = (digest, size, table=None))]
    fn add(&self, py: Python<'_>, digest: Name, size: u64, table: Option<Buffer>) -> PyResult<bool> {
        let open = self.open(py)?;
        detached(py, || open.add(digest.0, size, table.as_ref().map(Buffer::bytes)))
    }

    /// Ask for the next chunks of large objects once none is missing; whether any is missing then.
    fn want_more(&self, py: Python<'_>) -> PyResult<bool> {
        let open = self.open(py)?;
        detached(py, || open.want_more())
    }

    /// The chunks that are missing, in no order: digests, and lengths as u32.
    fn wanted<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let open = self.open(py)?;
        let wanted = detached(py, || Ok(open.wanted()))?;
        columns(py, wanted)
    }

    /// Take what chunks of an object of the store are wanted; answers their bytes.
    fn take_from(&self, py: Python<'_>, digest: Name) -> PyResult<u64> {
        let open = self.open(py)?;
        watched(py, None, |progress| open.take_from(digest.0, threads()?, progress))
    }

    /// Take the wanted chunks that an assembly before this one has got of the same objects; answers their bytes.
    fn take_left(&self, py: Python<'_>) -> PyResult<u64> {
        let open = self.open(py)?;
        watched(py, None, |progress| open.take_left(threads()?, progress))
    }

    /// Take what chunks of a run of whole records of a pack are wanted.
    fn take_records(&self, py: Python<'_>, data: Buffer) -> PyResult<()> {
        let open = self.open(py)?;
        detached(py, || open.take_records(data.bytes(), threads()?))
    }

    /// End what `take_records` still does on other threads, with an error there.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.open(py)?.cancel();
        Ok(())
    }

    /// Digests of the objects that were completed since the last call; the store has them.
    fn completed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        digests(py, &self.open(py)?.completed())
    }

    /// Say that the download goes on, at least every few minutes without another call.
    fn renew(&self, py: Python<'_>) -> PyResult<()> {
        let open = self.open(py)?;
        py.detach(|| open.renew());
        Ok(())
    }

    /// End it: of what is not complete only parts of large objects stay. Once more does nothing.
    fn close(&self, py: Python<'_>) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(open));
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) {
        self.close(py);
    }
}
