//! What a server does with packs: checks each whole before it counts, and hashes objects from stored chunks.

use super::{
    codec::Decoder,
    damaged,
    reader::{Index, Pack, Records, verified},
};
use crate::{Digest, Result, parallel};

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
    let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
    let record = Records::new(rest.unwrap_or_default()).next_record()?;
    let (record, stored) = record.ok_or_else(|| damaged("it ends before a chunk"))?;
    verified(decoder, &record, stored).map(|chunk| take(record.digest, chunk))
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
