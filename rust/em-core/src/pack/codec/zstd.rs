//! zstd frames: one frame, its content size told, no dictionary, no checksum (chunks have digests).

use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe::{CParameter, ParamSwitch, find_frame_compressed_size, get_frame_content_size, min_c_level},
};

use crate::{Error, Kind, Result, buffer::Buffer};

/// Level of [`Method::Search`]; benches/README.md has 1 and 3 beside it.
pub const SEARCH_LEVEL: i32 = 3;

/// How a frame is made. Every decoder of zstd reads both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Huffman codes without a search for matches: the lowest level, literals compressed all the same. For bytes
    /// whose order says nothing, such as the exponents of weights.
    Entropy,
    /// Matches and entropy.
    Search,
}

/// Makes frames. Holds about a megabyte of tables.
pub struct Frames {
    entropy: Compressor<'static>,
    search: Compressor<'static>,
    buffer: Buffer,
}

impl Frames {
    /// Contexts for both methods.
    pub fn new() -> Result<Self> {
        let mut entropy = Compressor::new(min_c_level()).map_err(unavailable)?;
        entropy.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Enable)).map_err(unavailable)?;
        Ok(Self { entropy, search: Compressor::new(SEARCH_LEVEL).map_err(unavailable)?, buffer: Buffer::take() })
    }

    /// The frame of `bytes`, if it has at most `limit` bytes.
    pub fn compress(&mut self, method: Method, bytes: &[u8], limit: usize) -> Option<&[u8]> {
        let compressor = match method {
            Method::Entropy => &mut self.entropy,
            Method::Search => &mut self.search,
        };
        let length = compressor.compress_to_buffer(bytes, self.buffer.part(limit)).ok()?;
        Some(&self.buffer.part(limit)[..length])
    }
}

/// Fills `raw` from a frame of exactly as many bytes. `frame` may be anything.
pub fn decompress(context: &mut Decompressor<'_>, frame: &[u8], raw: &mut [u8]) -> Result<()> {
    let damaged = |what: &str| Error::integrity(format!("not a zstd frame: {what}"));
    // Several frames in a row and skippable ones would decode too.
    if find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err(damaged("wrong length"));
    }
    if !matches!(get_frame_content_size(frame), Ok(Some(bytes)) if bytes == raw.len() as u64) {
        return Err(damaged("another content size"));
    }
    match context.decompress_to_buffer(frame, raw) {
        Ok(length) if length == raw.len() => Ok(()),
        Ok(_) => Err(damaged("it ends early")),
        Err(error) => Err(damaged(&error.to_string())),
    }
}

/// No memory, or a zstd that was built without a parameter.
pub(super) fn unavailable(error: std::io::Error) -> Error {
    Error::new(Kind::Store, format!("cannot set up zstd: {error}"))
}
