//! The chunk table: the ordered chunks of an object. `docs/formats.md` has the bytes.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::{ChunkerId, MAX_CHUNK_BYTES};
use crate::{Digest, Error, Result};

const MAGIC: &[u8; 8] = b"EMCHUNK\0";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 32;
const RECORD_BYTES: u64 = 36;

/// The chunks of one object, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkTable {
    /// Who cut.
    pub chunker: ChunkerId,
    /// Bytes of the object.
    pub object_size: u64,
    /// Digest and bytes of each chunk.
    pub chunks: Vec<(Digest, u32)>,
}

impl ChunkTable {
    /// Reads a table whole; anything but a table is an `Integrity` error.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = |what: &str| Error::integrity(format!("not a chunk table: {what}"));
        let (body, trailer) = bytes.split_last_chunk::<8>().ok_or_else(|| damaged("too short"))?;
        let (header, records) =
            body.split_first_chunk::<{ HEADER_BYTES as usize }>().ok_or_else(|| damaged("too short"))?;
        let word = |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
        let (version, chunker) = (word(8) as u32, (word(8) >> 32) as u32);
        if header[..8] != *MAGIC {
            return Err(damaged("wrong magic"));
        }
        if version != VERSION {
            let message = format!("chunk table version {version} is not known");
            return Err(Error::integrity(message).hint("upgrade the package"));
        }
        if xxhash_rust::xxh3::xxh3_64(body).to_le_bytes() != *trailer {
            return Err(damaged("checksum does not match"));
        }
        let chunker = match chunker {
            1 => ChunkerId::CdcV1,
            2 => ChunkerId::TensorV1,
            _ => return Err(damaged("unknown chunker").hint("upgrade the package")),
        };
        let (object_size, count) = (word(16), word(24));
        if count.checked_mul(RECORD_BYTES) != Some(records.len() as u64) {
            return Err(damaged("wrong length"));
        }
        let mut chunks = Vec::with_capacity(records.len() / RECORD_BYTES as usize);
        let mut sum = 0;
        for record in records.chunks_exact(RECORD_BYTES as usize) {
            let (digest, length) = record.split_first_chunk::<32>().ok_or_else(|| damaged("wrong length"))?;
            let length = u32::from_le_bytes(length.try_into().map_err(|_| damaged("wrong length"))?);
            if length == 0 || length > MAX_CHUNK_BYTES {
                return Err(damaged("a chunk of a length that no chunker makes"));
            }
            sum += u64::from(length);
            chunks.push((Digest(*digest), length));
        }
        if sum != object_size {
            return Err(damaged("the chunks are not the object"));
        }
        Ok(Self { chunker, object_size, chunks })
    }
}

/// Writes a table while its object is still being cut: records go to their place as they come, in any order,
/// so a table needs no memory however large the object is.
#[derive(Debug)]
pub struct TableWriter {
    chunker: ChunkerId,
    object_size: u64,
}

impl TableWriter {
    /// A table of an object of `object_size` bytes.
    pub fn new(chunker: ChunkerId, object_size: u64) -> Self {
        Self { chunker, object_size }
    }

    /// Writes records from number `index` on.
    pub fn put(&self, file: &File, index: u64, chunks: &[(Digest, u32)]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(chunks.len() * RECORD_BYTES as usize);
        for (digest, length) in chunks {
            bytes.extend_from_slice(&digest.0);
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        file.write_all_at(&bytes, HEADER_BYTES + index * RECORD_BYTES)
    }

    /// Writes header and trailer of a table of `count` records that have all been put. Reads the table once
    /// for its checksum, and to see that the chunks are as long as the object.
    pub fn finish(&self, file: &File, count: u64) -> io::Result<()> {
        let mut header = Vec::with_capacity(HEADER_BYTES as usize);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(self.chunker as u32).to_le_bytes());
        header.extend_from_slice(&self.object_size.to_le_bytes());
        header.extend_from_slice(&count.to_le_bytes());
        file.write_all_at(&header, 0)?;
        let mut checksum = xxhash_rust::xxh3::Xxh3::new();
        checksum.update(&header);
        let end = HEADER_BYTES + count * RECORD_BYTES;
        let mut buffer = vec![0; 4096 * RECORD_BYTES as usize];
        let (mut offset, mut sum) = (HEADER_BYTES, 0);
        while offset < end {
            let length = (end - offset).min(buffer.len() as u64) as usize;
            let records = &mut buffer[..length];
            file.read_exact_at(records, offset)?;
            checksum.update(records);
            let lengths = records.chunks_exact(RECORD_BYTES as usize).filter_map(|record| record.last_chunk());
            sum += lengths.map(|&length| u64::from(u32::from_le_bytes(length))).sum::<u64>();
            offset += length as u64;
        }
        if sum != self.object_size {
            return Err(io::Error::other(format!("its chunks have {sum} bytes, the object {}", self.object_size)));
        }
        file.write_all_at(&checksum.digest().to_le_bytes(), end)?;
        file.set_len(end + 8)
    }
}
