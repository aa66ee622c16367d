//! Cutting objects into chunks.
//!
//! A cut must depend on the bytes of the object only: the same bytes give the same chunks on every
//! machine and thread count. The work is split so that a file can be cut by many threads:
//! [`Chunker::candidates`] looks at one block alone and runs in parallel, [`Chunker::cuts`] is called
//! once per block in file order and is cheap.

pub mod cdc;
pub mod format;
pub mod table;
pub mod tensor;

/// Which chunker, with which version, made a chunk table. Stored in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChunkerId {
    /// Content-defined cuts, version 1.
    CdcV1 = 1,
    /// Cuts at the tensors of a file format's own index, version 1.
    TensorV1 = 2,
}

/// No chunk is longer, whichever chunker made it.
pub const MAX_CHUNK_BYTES: u32 = 2 << 20;

/// Objects up to this size are one chunk and need no chunk table.
pub const WHOLE_BYTES: u64 = 256 << 10;

/// A way to cut an object of a known size.
pub trait Chunker: Send + Sync {
    /// Its name and version.
    fn id(&self) -> ChunkerId;

    /// Offsets in `block` (ascending, in `1..=block.len()`) where a cut may lie, judged from the bytes of
    /// `block` alone. Called for any block at any time.
    fn candidates(&self, block: &[u8]) -> Vec<u32>;

    /// Appends to `cuts` the absolute end offsets of the chunks that end in this block.
    /// Called once per block in file order; `carry` is what the call before left.
    /// The last block's call must end with a cut at the end of the object.
    fn cuts(&self, carry: &mut Carry, offset: u64, block: &[u8], candidates: &[u32], last: bool, cuts: &mut Vec<u64>);
}

/// What [`Chunker::cuts`] hands from one block to the next.
#[derive(Clone, Debug, Default)]
pub struct Carry {
    /// Absolute end offset of the newest cut.
    pub start: u64,
    /// The last bytes before the block, at most one window less one byte.
    pub tail: Vec<u8>,
}
