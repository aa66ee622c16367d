//! Reading packs from a hostile source: nothing is allocated by a size that was not held against a cap, and no chunk
//! is handed out before its digest is right.
//!
//! - A whole pack in memory: [`Pack::open`] checks it, [`Pack::records`] walks it.
//! - Ranges of a pack somewhere else: [`Index::from_tail`] of its last bytes, then [`Records`] of any run of whole
//!   records.

use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_64;

use super::{
    HEADER_BYTES, MAGIC, MAX_PACK_BYTES, MAX_RAW_BYTES, MAX_RECORDS, RECORD_BYTES, Record, TAIL_BYTES, VERSION,
    codec::Decoder, damaged,
};
use crate::{Digest, Error, Result};

/// Where the chunks of a pack are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// BLAKE3 of the footer's records and count: the name of the pack. It tells all chunks, their places and lengths, and
    /// only not how each is compressed, which may differ between packs of one name.
    pub digest: Digest,
    /// In the order of the pack, which has no gaps.
    pub entries: Vec<Entry>,
}

/// A record and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the pack says of the chunk.
    pub record: Record,
    /// Where the record begins; it has [`Record::length`] bytes.
    pub offset: u64,
}

/// What the last bytes of a pack tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// All of its index.
    Index(Index),
    /// Nothing before as many last bytes are there, at most [`super::MAX_FOOTER_BYTES`].
    Needs(u64),
}

impl Index {
    /// Reads the index of a pack of `pack_bytes` bytes from its last bytes, or tells how many of them it takes.
    pub fn from_tail(tail: &[u8], pack_bytes: u64) -> Result<Tail> {
        if pack_bytes > MAX_PACK_BYTES {
            return Err(damaged(&format!("{pack_bytes} bytes are more than a pack has")));
        }
        if pack_bytes < HEADER_BYTES + TAIL_BYTES || tail.len() as u64 > pack_bytes {
            return Err(damaged("too short"));
        }
        let Some((footer, last)) = tail.split_last_chunk::<{ TAIL_BYTES as usize }>() else {
            return Ok(Tail::Needs(TAIL_BYTES));
        };
        let (count, checksums) = last.split_at(4);
        let count = count.try_into().map(u32::from_le_bytes).unwrap_or_default() as usize;
        if count == 0 || count > MAX_RECORDS {
            return Err(damaged("a count of chunks that no pack has"));
        }
        let needs = count as u64 * RECORD_BYTES + TAIL_BYTES;
        let Some(end) = pack_bytes.checked_sub(needs).filter(|end| *end >= HEADER_BYTES) else {
            return Err(damaged("the footer is longer than the pack"));
        };
        let Some(start) = (tail.len() as u64).checked_sub(needs) else { return Ok(Tail::Needs(needs)) };
        let signed = &tail[start as usize..tail.len() - checksums.len()];
        if xxh3_64(signed).to_le_bytes() != checksums[..8] {
            return Err(damaged("the footer's checksum does not match"));
        }
        let (records, _) = footer[start as usize..].as_chunks();
        Self::of(records, end, Digest::of(signed)).map(Tail::Index)
    }

    /// The index of these records, which Must fill the pack from its header to `end`.
    fn of(records: &[[u8; RECORD_BYTES as usize]], end: u64, digest: Digest) -> Result<Self> {
        let mut entries = Vec::with_capacity(records.len());
        let mut digests = HashSet::with_capacity(records.len());
        let (mut offset, mut raw_bytes) = (HEADER_BYTES, 0);
        for bytes in records {
            let record = Record::decode(bytes)?;
            if !digests.insert(record.digest) {
                return Err(damaged(&format!("chunk {} is there twice", record.digest)));
            }
            entries.push(Entry { record, offset });
            offset += record.length();
            raw_bytes += u64::from(record.raw_bytes);
        }
        if offset != end {
            return Err(damaged("the chunks do not fill it"));
        }
        if raw_bytes > MAX_RAW_BYTES {
            return Err(damaged("the chunks are longer than a pack may hold"));
        }
        Ok(Self { digest, entries })
    }
}

fn check_header(header: &[u8; HEADER_BYTES as usize]) -> Result<()> {
    let (magic, version) = header.split_at(8);
    if magic != MAGIC {
        return Err(damaged("wrong magic"));
    }
    if version != VERSION.to_le_bytes() {
        return Err(Error::integrity("a pack of an unknown version").hint("upgrade the package"));
    }
    Ok(())
}

/// A whole pack in memory, of which all but the chunks is known to be right.
#[derive(Clone, Debug)]
pub struct Pack<'a> {
    bytes: &'a [u8],
    /// Where the chunks are.
    pub index: Index,
}

impl<'a> Pack<'a> {
    /// Checks header, checksums, footer and that each record is as the footer says. The chunks' own bytes are
    /// checked by [`verified`].
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() as u64 > MAX_PACK_BYTES {
            return Err(damaged(&format!("{} bytes are more than a pack has", bytes.len())));
        }
        check_header(bytes.first_chunk().ok_or_else(|| damaged("too short"))?)?;
        let (body, checksum) = bytes.split_last_chunk::<8>().ok_or_else(|| damaged("too short"))?;
        if xxh3_64(body).to_le_bytes() != *checksum {
            return Err(damaged("checksum does not match"));
        }
        let Tail::Index(index) = Index::from_tail(bytes, bytes.len() as u64)? else {
            return Err(damaged("too short"));
        };
        let pack = Self { bytes, index };
        let mut records = pack.records();
        for entry in &pack.index.entries {
            if records.next_record()?.is_none_or(|(record, _)| record != entry.record) {
                return Err(damaged("a record is not as the footer says"));
            }
        }
        Ok(pack)
    }

    /// Its records, from the first on.
    pub fn records(&self) -> Records<'a> {
        let end = self.index.entries.last().map_or(HEADER_BYTES, |entry| entry.offset + entry.record.length());
        Records::new(&self.bytes[HEADER_BYTES as usize..end as usize])
    }
}

/// A run of whole records of a pack.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The records of `bytes`, which may be anything.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next record and its stored bytes, for [`verified`].
    pub fn next_record(&mut self) -> Result<Option<(Record, &'a [u8])>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let cut = || damaged("it ends within a chunk");
        let (record, rest) = self.rest.split_first_chunk().ok_or_else(cut)?;
        let record = Record::decode(record)?;
        let (stored, rest) = rest.split_at_checked(record.stored_bytes as usize).ok_or_else(cut)?;
        self.rest = rest;
        Ok(Some((record, stored)))
    }
}

/// The chunk of a record, if its bytes are those of its digest.
pub fn verified<'a>(decoder: &'a mut Decoder, record: &Record, stored: &'a [u8]) -> Result<&'a [u8]> {
    let named = |error: Error| Error { message: format!("chunk {}: {}", record.digest, error.message), ..error };
    let chunk = decoder.decode(record.codec, stored, record.raw_bytes).map_err(named)?;
    match Digest::of(chunk) == record.digest {
        true => Ok(chunk),
        false => Err(named(Error::integrity("its bytes are not those of its digest"))),
    }
}
