//! Writing a pack from front to back.

use std::collections::HashSet;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{
    HEADER_BYTES, MAGIC, MAX_PACK_BYTES, MAX_RAW_BYTES, MAX_RECORDS, RECORD_BYTES, Record, TAIL_BYTES, VERSION,
    codec::{Encoder, Layout},
};
use crate::{Digest, Error, Result, chunk::MAX_CHUNK_BYTES};

/// Appends a pack to a buffer as its chunks come. Holds an [`Encoder`], if it is to encode any, and 73 bytes for each record.
/// The same chunks with the same layouts give the same bytes, with the same zstd.
pub struct PackWriter {
    pack: Vec<u8>,
    encoder: Option<Encoder>,
    footer: Vec<u8>,
    digests: HashSet<Digest>,
    checksum: Xxh3,
    raw_bytes: u64,
}

impl PackWriter {
    /// Begins a pack in an empty buffer, which best has room for all of it.
    pub fn new(pack: Vec<u8>) -> Self {
        let mut writer = Self {
            pack,
            encoder: None,
            footer: Vec::new(),
            digests: HashSet::new(),
            checksum: Xxh3::new(),
            raw_bytes: 0,
        };
        let mut header = [0; HEADER_BYTES as usize];
        header[..8].copy_from_slice(MAGIC);
        header[8..].copy_from_slice(&VERSION.to_le_bytes());
        writer.write(&header);
        writer
    }

    /// Whether a chunk of `raw_bytes` bytes still fits, even if nothing compresses it.
    pub fn fits(&self, raw_bytes: u32) -> bool {
        let raw_bytes = u64::from(raw_bytes);
        let footer = self.footer.len() as u64 + RECORD_BYTES + TAIL_BYTES;
        self.pack.len() as u64 + RECORD_BYTES + raw_bytes + footer <= MAX_PACK_BYTES
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
        if !self.admits(digest, raw_bytes)? {
            return Ok(());
        }
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => none.insert(Encoder::new()?),
        };
        let start = self.pack.len();
        self.pack.resize(start + RECORD_BYTES as usize, 0);
        let codec = encoder.encode(chunk, layout, &mut self.pack);
        let stored_bytes = (self.pack.len() - start) as u32 - RECORD_BYTES as u32;
        self.note(start, Record { codec, stored_bytes, raw_bytes, digest });
        Ok(())
    }

    /// [`push`](Self::push) of a chunk as another pack stores it, which is known to be right.
    pub fn push_stored(&mut self, record: Record, stored: &[u8]) -> Result<()> {
        if self.admits(record.digest, record.raw_bytes)? {
            let start = self.pack.len();
            self.pack.resize(start + RECORD_BYTES as usize, 0);
            self.pack.extend_from_slice(stored);
            self.note(start, record);
        }
        Ok(())
    }

    /// Whether a chunk is to be added now; from then on it counts as added.
    fn admits(&mut self, digest: Digest, raw_bytes: u32) -> Result<bool> {
        if !self.fits(raw_bytes) {
            return Err(Error::invalid("the pack is full").hint("finish it and begin another"));
        }
        Ok(self.digests.insert(digest))
    }

    /// Writes the record of the chunk whose stored bytes are the pack's last, behind room for it at `start`.
    fn note(&mut self, start: usize, record: Record) {
        let encoded = record.encode();
        let bytes = &mut self.pack[start..];
        bytes[..RECORD_BYTES as usize].copy_from_slice(&encoded);
        self.checksum.update(bytes);
        self.footer.extend_from_slice(&encoded);
        self.raw_bytes += u64::from(record.raw_bytes);
    }

    /// Writes the footer and hands the buffer back. A pack without a chunk is an error.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        if self.digests.is_empty() {
            return Err(Error::invalid("a pack without a chunk"));
        }
        let mut footer = std::mem::take(&mut self.footer);
        footer.extend_from_slice(&(self.digests.len() as u32).to_le_bytes());
        footer.extend_from_slice(&xxh3_64(&footer).to_le_bytes());
        self.write(&footer);
        let checksum = self.checksum.digest();
        self.write(&checksum.to_le_bytes());
        Ok(self.pack)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.checksum.update(bytes);
        self.pack.extend_from_slice(bytes);
    }
}
