//! Writing a pack from front to back.

use std::{collections::HashSet, io::Write};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{
    HEADER_BYTES, MAGIC, MAX_PACK_BYTES, MAX_RAW_BYTES, MAX_RECORDS, RECORD_BYTES, Record, TAIL_BYTES, VERSION,
    codec::{Encoder, Layout},
};
use crate::{Digest, Error, Result, chunk::MAX_CHUNK_BYTES};

/// Writes a pack to `W` as its chunks come. Holds one chunk, an [`Encoder`] and 73 bytes for each record; `W` gets
/// each record in one piece. The same chunks with the same layouts give the same bytes, with the same zstd.
pub struct PackWriter<W> {
    sink: W,
    encoder: Encoder,
    record: Vec<u8>,
    footer: Vec<u8>,
    digests: HashSet<Digest>,
    checksum: Xxh3,
    bytes: u64,
    raw_bytes: u64,
}

impl<W: Write> PackWriter<W> {
    /// Begins a pack.
    pub fn new(sink: W) -> Result<Self> {
        let mut writer = Self {
            sink,
            encoder: Encoder::new()?,
            record: Vec::new(),
            footer: Vec::new(),
            digests: HashSet::new(),
            checksum: Xxh3::new(),
            bytes: 0,
            raw_bytes: 0,
        };
        let mut header = [0; HEADER_BYTES as usize];
        header[..8].copy_from_slice(MAGIC);
        header[8..].copy_from_slice(&VERSION.to_le_bytes());
        writer.write(&header)?;
        Ok(writer)
    }

    /// Whether a chunk of `raw_bytes` bytes still fits, even if nothing compresses it.
    pub fn fits(&self, raw_bytes: u32) -> bool {
        let raw_bytes = u64::from(raw_bytes);
        let footer = self.footer.len() as u64 + RECORD_BYTES + TAIL_BYTES;
        self.bytes + RECORD_BYTES + raw_bytes + footer <= MAX_PACK_BYTES
            && self.raw_bytes + raw_bytes <= MAX_RAW_BYTES
            && self.digests.len() < MAX_RECORDS
    }

    /// Adds a chunk whose digest is known to be right. One that the pack has already is not added twice; one that
    /// does not fit is an error.
    pub fn push(&mut self, digest: Digest, layout: Option<Layout>, chunk: &[u8]) -> Result<()> {
        let raw_bytes = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        if raw_bytes == 0 || raw_bytes > MAX_CHUNK_BYTES {
            return Err(Error::invalid(format!("a chunk of {raw_bytes} bytes cannot be packed")));
        }
        if !self.fits(raw_bytes) {
            return Err(Error::invalid("the pack is full").hint("finish it and begin another"));
        }
        if !self.digests.insert(digest) {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.record);
        bytes.clear();
        bytes.resize(RECORD_BYTES as usize, 0);
        let codec = self.encoder.encode(chunk, layout, &mut bytes);
        let stored_bytes = bytes.len() as u32 - RECORD_BYTES as u32;
        let record = Record { codec, stored_bytes, raw_bytes, digest }.encode();
        bytes[..RECORD_BYTES as usize].copy_from_slice(&record);
        self.footer.extend_from_slice(&record);
        self.raw_bytes += u64::from(raw_bytes);
        let written = self.write(&bytes);
        self.record = bytes;
        written
    }

    /// Writes the footer and hands the sink back. A pack without a chunk is an error.
    pub fn finish(mut self) -> Result<W> {
        if self.digests.is_empty() {
            return Err(Error::invalid("a pack without a chunk"));
        }
        let mut footer = std::mem::take(&mut self.footer);
        footer.extend_from_slice(&(self.digests.len() as u32).to_le_bytes());
        footer.extend_from_slice(&xxh3_64(&footer).to_le_bytes());
        self.write(&footer)?;
        let checksum = self.checksum.digest();
        self.write(&checksum.to_le_bytes())?;
        Ok(self.sink)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.checksum.update(bytes);
        self.bytes += bytes.len() as u64;
        self.sink.write_all(bytes).map_err(|error| Error::io("write", "a pack".as_ref(), error))
    }
}
