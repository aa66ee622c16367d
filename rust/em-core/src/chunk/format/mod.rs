//! Choosing the chunker of a file.

use std::fs::File;

use super::{Chunker, cdc::Cdc};

/// The chunker of a file, chosen by its content alone.
pub fn chunker_for(_source: &File, _size_bytes: u64) -> Box<dyn Chunker> {
    Box::new(Cdc::new())
}
