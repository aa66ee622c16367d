//! The chunk table: the ordered chunks of an object. `docs/formats.md` has the bytes.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::{ChunkerId, MAX_CHUNK_BYTES};
use crate::{Digest, Error, Kind, Result};

const MAGIC: &[u8; 8] = b"EMCHUNK\0";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 32;
const RECORD_BYTES: u64 = 36;

/// Records that are read at once.
const BLOCK_RECORDS: u64 = 4096;

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
        let (body, trailer) = bytes.split_last_chunk::<8>().ok_or_else(|| damaged("too short"))?;
        let (header, records) =
            body.split_first_chunk::<{ HEADER_BYTES as usize }>().ok_or_else(|| damaged("too short"))?;
        let reader = TableReader::of_header(header)?;
        if xxhash_rust::xxh3::xxh3_64(body).to_le_bytes() != *trailer {
            return Err(damaged("checksum does not match"));
        }
        if reader.count.checked_mul(RECORD_BYTES) != Some(records.len() as u64) {
            return Err(damaged("wrong length"));
        }
        let mut chunks = Vec::with_capacity(records.len() / RECORD_BYTES as usize);
        if decode_records(records, &mut chunks)? != reader.object_size {
            return Err(damaged("the chunks are not the object"));
        }
        Ok(Self { chunker: reader.chunker, object_size: reader.object_size, chunks })
    }
}

fn damaged(what: &str) -> Error {
    Error::integrity(format!("not a chunk table: {what}"))
}

/// Appends records to `chunks`; answers the sum of their lengths.
fn decode_records(records: &[u8], chunks: &mut Vec<(Digest, u32)>) -> Result<u64> {
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
    Ok(sum)
}

/// A table in a file that is read in parts, so that it needs no memory however large the object is.
#[derive(Clone, Copy, Debug)]
pub struct TableReader {
    /// Who cut.
    pub chunker: ChunkerId,
    /// Bytes of the object.
    pub object_size: u64,
    /// How many chunks it has.
    pub count: u64,
}

impl TableReader {
    /// Reads a file once from end to end; anything but a table is an `Integrity` error.
    pub fn check(file: &File) -> Result<Self> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("too short"),
            _ => Error::new(Kind::Store, format!("cannot read a chunk table: {error}")),
        };
        let mut header = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut header, 0).map_err(fail)?;
        let reader = Self::of_header(&header)?;
        let records = reader.count.checked_mul(RECORD_BYTES);
        let end = records.and_then(|bytes| bytes.checked_add(HEADER_BYTES)).filter(|end| *end < u64::MAX - 8);
        if end.map(|end| end + 8) != Some(file.metadata().map_err(fail)?.len()) {
            return Err(damaged("wrong length"));
        }
        let mut checksum = xxhash_rust::xxh3::Xxh3::new();
        checksum.update(&header);
        let (mut first, mut sum) = (0, 0_u64);
        let (mut bytes, mut chunks) = (Vec::new(), Vec::new());
        while first < reader.count {
            reader.read(file, first, BLOCK_RECORDS, &mut bytes).map_err(fail)?;
            checksum.update(&bytes);
            chunks.clear();
            sum += decode_records(&bytes, &mut chunks)?;
            first += chunks.len() as u64;
        }
        let mut trailer = [0; 8];
        file.read_exact_at(&mut trailer, HEADER_BYTES + reader.count * RECORD_BYTES).map_err(fail)?;
        if checksum.digest().to_le_bytes() != trailer {
            return Err(damaged("checksum does not match"));
        }
        if sum != reader.object_size {
            return Err(damaged("the chunks are not the object"));
        }
        Ok(reader)
    }

    /// Bytes of the table itself.
    pub fn table_bytes(&self) -> u64 {
        HEADER_BYTES + self.count * RECORD_BYTES + 8
    }

    /// At most `most` chunks from number `first` on, of the file that was checked; none behind the last.
    pub fn chunks(&self, file: &File, first: u64, most: u64) -> Result<Vec<(Digest, u32)>> {
        let (mut bytes, mut chunks) = (Vec::new(), Vec::new());
        self.read(file, first, most, &mut bytes)
            .map_err(|error| Error::new(Kind::Store, format!("cannot read a chunk table: {error}")))?;
        decode_records(&bytes, &mut chunks)?;
        Ok(chunks)
    }

    fn read(&self, file: &File, first: u64, most: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
        let count = self.count.saturating_sub(first).min(most);
        bytes.resize((count * RECORD_BYTES) as usize, 0);
        file.read_exact_at(bytes, HEADER_BYTES + first.min(self.count) * RECORD_BYTES)
    }

    fn of_header(header: &[u8; HEADER_BYTES as usize]) -> Result<Self> {
        let word = |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
        let (version, chunker) = (word(8) as u32, (word(8) >> 32) as u32);
        if header[..8] != *MAGIC {
            return Err(damaged("wrong magic"));
        }
        if version != VERSION {
            let message = format!("chunk table version {version} is not known");
            return Err(Error::integrity(message).hint("upgrade the package"));
        }
        let chunker = match chunker {
            1 => ChunkerId::CdcV1,
            2 => ChunkerId::TensorV1,
            _ => return Err(damaged("unknown chunker").hint("upgrade the package")),
        };
        Ok(Self { chunker, object_size: word(16), count: word(24) })
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
        let mut buffer = vec![0; (BLOCK_RECORDS * RECORD_BYTES) as usize];
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
