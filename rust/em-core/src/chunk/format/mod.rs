//! Where the tensors of a file lie, read from the file's own index.
//!
//! The format is told by the first bytes, never by the name: a chunk table belongs to bytes. An index
//! that is absent, inconsistent or hostile is `None`, never an error, and the object is cut by content
//! instead. Every size from a file is checked against a cap and the file's size before anything is
//! allocated; offsets are computed with checks.

mod gguf;
mod npy;
mod safetensors;
mod torch_zip;

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::Chunker;

/// A file with more tensors is cut by content. Bounds the memory of an index to a few megabytes of spans.
pub const MAX_TENSORS: usize = 1 << 18;

/// No index is longer: [`MAX_TENSORS`] of 120 bytes each. An index is held whole while it is parsed, and of safetensors
/// the names beside it: twice this much.
pub const MAX_INDEX_BYTES: u64 = 32 << 20;

/// No name of a tensor or key is longer.
pub const MAX_NAME_BYTES: usize = 4096;

/// No tensor has more axes.
pub const MAX_DIMS: usize = 64;

/// The type of a tensor's elements, where the index tells it plainly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dtype {
    Bool,
    U8,
    I8,
    U16,
    I16,
    F16,
    Bf16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
    F8,
    C64,
    C128,
    /// Blocks of quantized values with their scales (GGUF).
    Quantized,
}

/// The bytes of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first byte in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its element type, if known.
    pub dtype: Option<Dtype>,
}

/// The tensors of a file of `size_bytes`, sorted by offset, disjoint, inside the file and not empty.
///
/// Reads the index only, with positioned reads; the file's cursor stays where it is. `None` if the file
/// has no index, or one that is inconsistent or above the caps.
pub fn index(source: &File, size_bytes: u64) -> Option<Vec<Span>> {
    let source = Source { file: source, size_bytes };
    let magic: [u8; 10] = source.array(0)?;
    let spans = if magic.starts_with(b"GGUF") {
        gguf::spans(&source)?
    } else if magic.starts_with(npy::MAGIC) {
        vec![npy::span(&source, 0, size_bytes)?]
    } else if magic.starts_with(b"PK\x03\x04") {
        torch_zip::spans(&source)?
    } else if magic.get(8) == Some(&b'{') {
        safetensors::spans(&source)?
    } else {
        return None;
    };
    ordered(spans, size_bytes)
}

/// The chunker for an object: by tensors if its bytes have a usable index, else by content.
pub fn chunker_for(source: &File, size_bytes: u64) -> Box<dyn Chunker> {
    match index(source, size_bytes) {
        Some(spans) => Box::new(super::tensor::Tensor::new(spans, size_bytes)),
        None => Box::new(super::cdc::Cdc::new()),
    }
}

/// Sorts the spans and drops empty ones; `None` on overlaps, spans outside the file, or no span at all.
fn ordered(mut spans: Vec<Span>, size_bytes: u64) -> Option<Vec<Span>> {
    spans.retain(|span| span.length > 0);
    spans.sort_unstable_by_key(|span| span.offset);
    let mut end = 0;
    for span in &spans {
        if span.offset < end {
            return None;
        }
        end = span.offset.checked_add(span.length)?;
    }
    (end <= size_bytes && !spans.is_empty()).then_some(spans)
}

/// A file with the size its object is known to have.
struct Source<'a> {
    file: &'a File,
    size_bytes: u64,
}

impl Source<'_> {
    /// `N` bytes from `offset`.
    fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        self.inside(offset, N as u64)?;
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// `length` bytes from `offset`; `None` above [`MAX_INDEX_BYTES`] or outside the file.
    fn bytes(&self, offset: u64, length: u64) -> Option<Vec<u8>> {
        self.inside(offset, length)?;
        if length > MAX_INDEX_BYTES {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    fn inside(&self, offset: u64, length: u64) -> Option<()> {
        (offset.checked_add(length)? <= self.size_bytes).then_some(())
    }
}

/// Little-endian fields in order, from a slice.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}
