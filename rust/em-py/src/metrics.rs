//! Appending to a metrics file.

use std::path::PathBuf;

use em_core::metrics::{self, Line};
use pyo3::{
    prelude::*,
    types::{PyDict, PyFloat, PyInt, PyString},
};

use crate::{call::detached, convert::Buffer};

/// A metrics file that is open for appending; safe between threads.
#[pyclass(frozen, module = "t9k.em._engine")]
pub struct MetricsFile(metrics::MetricsFile);

#[pymethods]
impl MetricsFile {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        detached(py, || metrics::MetricsFile::open(&path).map(Self))
    }

    /// Write one line.
    fn append(&self, py: Python<'_>, line: Buffer) -> PyResult<()> {
        detached(py, || self.0.append(line.bytes()))
    }

    /// Write the line of a log call if its names are plain and values floats and ints; tells whether it is there.
    fn append_point(
        &self,
        py: Python<'_>,
        metrics: &Bound<'_, PyAny>,
        step: &Bound<'_, PyAny>,
        epoch: &Bound<'_, PyAny>,
        time_ns: i64,
    ) -> bool {
        encode(metrics, step, epoch, time_ns).is_some_and(|line| py.detach(|| self.0.append(&line).is_ok()))
    }

    /// Close the file, once who writes to it has done so; later calls do nothing.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}

/// The line, or None if something of it is of another type or must be quoted.
fn encode(
    metrics: &Bound<'_, PyAny>,
    step: &Bound<'_, PyAny>,
    epoch: &Bound<'_, PyAny>,
    time_ns: i64,
) -> Option<Vec<u8>> {
    let metrics = metrics.cast_exact::<PyDict>().ok().filter(|metrics| !metrics.is_empty())?;
    let mut line = Line::default();
    for (name, value) in metrics {
        if !line.name(name.cast_exact::<PyString>().ok()?.to_str().ok()?) {
            return None;
        }
        match value.cast_exact::<PyFloat>() {
            Ok(float) => line.float(float.value()),
            Err(_) => line.integer(integer(&value)?),
        }
    }
    let epoch = if epoch.is_none() { None } else { Some(integer(epoch)?) };
    Some(line.at(integer(step)?, epoch, time_ns))
}

/// The value of a plain int (a bool is none) of 64 bits.
fn integer(value: &Bound<'_, PyAny>) -> Option<i64> {
    value.cast_exact::<PyInt>().ok()?.extract().ok()
}
