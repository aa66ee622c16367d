//! Python binding of `em-core`: each function converts, detaches the GIL, calls, converts.
#![allow(clippy::missing_errors_doc)]

mod add;
mod artifact;
mod call;
mod convert;
mod metrics;
mod object;
mod pack;
mod receive;
mod report;

pyo3::create_exception!(
    _engine,
    EngineError,
    pyo3::exceptions::PyException,
    "A failure of the engine; `kind` says which."
);

/// What Python sees; `_engine.pyi` describes it, in the same order.
#[pyo3::pymodule]
mod _engine {
    use pyo3::{prelude::*, types::PyTuple};

    #[pymodule_export]
    use super::EngineError;
    #[pymodule_export]
    use super::add::{add_dir, add_file, add_reference};
    #[pymodule_export]
    use super::artifact::{
        Entries, create_artifact, manifest_digest, manifest_objects, manifest_references, materialize, parse_manifest,
        read_entries, read_manifest, recover, write_metadata,
    };
    #[pymodule_export]
    use super::convert::OpenStore;
    #[pymodule_export]
    use super::metrics::MetricsFile;
    #[pymodule_export]
    use super::object::{
        ChunkTable, Lease, digest, hash_file, link_entries, parse_chunk_table, read_object_range, usable,
    };
    #[pymodule_export]
    use super::pack::{Assembly, PackPlan};
    #[pymodule_export]
    use super::receive::{ObjectHasher, PackCopier, decode_record, list_records, pack_digest, verify_pack};
    #[pymodule_export]
    use super::report::{DifferenceIterator, ProblemIterator, diff, differences, gc, usage, verify};

    #[pymodule_init]
    fn constants(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let kinds = em_core::Kind::ALL.iter().map(|kind| kind.as_str());
        module.add("ERROR_KINDS", PyTuple::new(module.py(), kinds.collect::<Vec<_>>())?)
    }
}
