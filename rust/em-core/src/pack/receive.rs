//! What a server does with packs: checks each whole before it counts, hashes objects from stored chunks, and copies chunks
//! that are still needed into new packs.

use super::{
    MAX_PACK_BYTES, Record,
    codec::Decoder,
    damaged,
    reader::{Index, Pack, Records, Tail, verified},
    writer::PackWriter,
};
use crate::{Digest, Error, Result, error::Kind, parallel};

/// Checks a whole pack: form, checksums, and with `threads` workers the digest of every chunk.
pub fn verify(pack: &[u8], threads: usize) -> Result<Index> {
    let Pack { index, .. } = Pack::open(pack)?;
    parallel::each(threads, index.entries.len(), Decoder::new, |decoder, number| {
        chunk_at(decoder, pack, index.entries[number].offset, |_, _| ())
    })?;
    Ok(index)
}

/// The chunk of the record at `offset` in any run of bytes, once its digest is right, given to `take`.
pub fn chunk_at<T>(
    decoder: &mut Decoder,
    bytes: &[u8],
    offset: u64,
    take: impl FnOnce(Digest, &[u8]) -> T,
) -> Result<T> {
    let (record, stored) = record_at(bytes, offset)?;
    verified(decoder, &record, stored).map(|chunk| take(record.digest, chunk))
}

fn record_at(bytes: &[u8], offset: u64) -> Result<(Record, &[u8])> {
    let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
    let record = Records::new(rest.unwrap_or_default()).next_record()?;
    record.ok_or_else(|| damaged("it ends before a chunk"))
}

/// Hashes an object from its chunks, which may lie in any packs. Holds one chunk.
pub struct ObjectHasher {
    hasher: blake3::Hasher,
    decoder: Decoder,
}

impl ObjectHasher {
    /// Of an object without bytes yet.
    pub fn new() -> Result<Self> {
        Ok(Self { hasher: blake3::Hasher::new(), decoder: Decoder::new()? })
    }

    /// Appends the chunks of the records at `offsets` of `bytes`, in this order. After an error the hash is of no use.
    pub fn push(&mut self, bytes: &[u8], offsets: &[u64]) -> Result<()> {
        for &offset in offsets {
            chunk_at(&mut self.decoder, bytes, offset, |_, chunk| {
                self.hasher.update(chunk);
            })?;
        }
        Ok(())
    }

    /// Bytes so far.
    pub fn size_bytes(&self) -> u64 {
        self.hasher.count()
    }

    /// Digest of the bytes so far.
    pub fn digest(&self) -> Digest {
        self.hasher.finalize().into()
    }
}

/// Makes a pack of chunks that lie in other packs. They are stored as they were, and only those that are right. Holds the pack
/// and a chunk.
pub struct PackCopier {
    writer: PackWriter,
    decoder: Decoder,
}

impl PackCopier {
    /// Of a pack without chunks yet, with room for `capacity_bytes`.
    pub fn new(capacity_bytes: usize) -> Result<Self> {
        let room = capacity_bytes.min(MAX_PACK_BYTES as usize);
        Ok(Self { writer: PackWriter::new(Vec::with_capacity(room)), decoder: Decoder::new()? })
    }

    /// Appends the records at `offsets` of `bytes`, in this order. Those that are damaged are left out: the answer are
    /// their offsets, with what is wrong.
    pub fn push(&mut self, bytes: &[u8], offsets: &[u64]) -> Result<Vec<(u64, Error)>> {
        let mut left_out = Vec::new();
        for &offset in offsets {
            match record_at(bytes, offset).and_then(|(record, stored)| {
                verified(&mut self.decoder, &record, stored)?;
                Ok((record, stored))
            }) {
                Ok((record, stored)) => self.writer.push_stored(record, stored)?,
                Err(error) if error.kind == Kind::Integrity => left_out.push((offset, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(left_out)
    }

    /// The pack and its index. One without a chunk is an error.
    pub fn finish(self) -> Result<(Vec<u8>, Index)> {
        let pack = self.writer.finish()?;
        match Index::from_tail(&pack, pack.len() as u64)? {
            Tail::Index(index) => Ok((pack, index)),
            Tail::Needs(_) => Err(damaged("too short")),
        }
    }
}
