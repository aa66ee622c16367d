//! How a chunk is stored in a pack.
//!
//! An encoder asks the file's own index (a [`Layout`]) or a [`probe`] what the chunk is, and stores it raw when
//! its codec does not help. A decoder trusts nothing: it writes into buffers of the chunk's length, which the
//! caller has held against [`MAX_CHUNK_BYTES`], and takes no other size from the bytes.

pub mod planes;
pub mod probe;
pub mod split;
pub mod zstd;

use ::zstd::bulk::Decompressor;

use crate::{
    Error, Result,
    buffer::Buffer,
    chunk::{MAX_CHUNK_BYTES, format::Dtype},
};
use probe::{Choice, Probe};
use split::Element;

pub use probe::Layout;

/// How a record's bytes are made from its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// The chunk itself.
    Raw = 0,
    /// A zstd frame.
    Zstd = 1,
    /// [`planes`].
    Planes = 2,
}

impl Codec {
    /// The codec of a number in a pack.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Raw, Self::Zstd, Self::Planes].into_iter().find(|&codec| codec as u8 == byte)
    }
}

/// A chunk or plane of `length` bytes is stored raw if its frame has more: a byte saved of 32 is not worth reading
/// it.
fn max_stored(length: usize) -> usize {
    length - length.div_ceil(32)
}

impl Layout {
    /// The layout of elements of this type, the first whole one of which begins `phase` bytes into the chunk. `None`
    /// where the type says nothing about bytes.
    pub fn of(dtype: Dtype, phase: u64) -> Option<Self> {
        let (width, rotated) = match dtype {
            Dtype::Bool | Dtype::U8 => return None,
            Dtype::I8 | Dtype::F8 | Dtype::Quantized => (1, false),
            Dtype::U16 | Dtype::I16 => (2, false),
            Dtype::F16 | Dtype::Bf16 => (2, true),
            Dtype::U32 | Dtype::I32 => (4, false),
            Dtype::F32 | Dtype::C64 => (4, true),
            Dtype::U64 | Dtype::I64 => (8, false),
            Dtype::F64 | Dtype::C128 => (8, false),
        };
        Some(Self { element: Element { width, rotated }, phase: (phase % width as u64) as usize })
    }
}

/// Makes the stored bytes of chunks. Holds about two megabytes; one for each thread.
pub struct Encoder {
    probe: Probe,
    frames: zstd::Frames,
    planes: Buffer,
}

impl Encoder {
    /// An encoder.
    pub fn new() -> Result<Self> {
        Ok(Self { probe: Probe::new(), frames: zstd::Frames::new()?, planes: Buffer::take() })
    }

    /// Appends the stored bytes of `chunk` to `out`. The same chunk and layout give the same bytes with the same
    /// version of zstd.
    pub fn encode(&mut self, chunk: &[u8], layout: Option<Layout>, out: &mut Vec<u8>) -> Codec {
        let (start, limit) = (out.len(), max_stored(chunk.len()));
        match self.probe.choose(chunk, layout, &mut self.frames) {
            Choice::Raw => {}
            Choice::Frame(method) => {
                if let Some(frame) = self.frames.compress(method, chunk, limit) {
                    out.extend_from_slice(frame);
                    return Codec::Zstd;
                }
            }
            Choice::Planes(layout) => {
                planes::encode(layout, chunk, &self.probe, &mut self.frames, &mut self.planes, out);
                if out.len() - start <= limit {
                    return Codec::Planes;
                }
                out.truncate(start);
            }
        }
        out.extend_from_slice(chunk);
        Codec::Raw
    }
}

/// Reads the stored bytes of chunks. Holds at most two chunks and zstd's tables; one for each thread.
pub struct Decoder {
    context: Decompressor<'static>,
    raw: Buffer,
    planes: Buffer,
}

impl Decoder {
    /// A decoder.
    pub fn new() -> Result<Self> {
        let context = Decompressor::new().map_err(zstd::unavailable)?;
        Ok(Self { context, raw: Buffer::take(), planes: Buffer::take() })
    }

    /// The chunk of `raw_bytes` bytes that `stored` holds; its digest is for the caller to check. A raw chunk is
    /// not copied. `stored` may be anything, and so may the claim.
    pub fn decode<'a>(&'a mut self, codec: Codec, stored: &'a [u8], raw_bytes: u32) -> Result<&'a [u8]> {
        let length = raw_bytes as usize;
        if raw_bytes == 0 || raw_bytes > MAX_CHUNK_BYTES {
            return Err(Error::integrity("a chunk of a length that no chunker makes"));
        }
        if codec == Codec::Raw {
            return match stored.len() == length {
                true => Ok(stored),
                false => Err(Error::integrity("a raw chunk has another length than its record says")),
            };
        }
        let raw = self.raw.part(length);
        match codec {
            Codec::Planes => planes::decode(&mut self.context, stored, &mut self.planes, raw)?,
            _ => zstd::decompress(&mut self.context, stored, raw)?,
        }
        Ok(raw)
    }
}
