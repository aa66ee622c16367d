//! Packs: many chunks in one file, the unit of transfer and of the server's storage.
//!
//! ```text
//! magic, version │ record, stored bytes │ record, stored bytes │ … │ footer: the records again │ count, checksums
//! ```
//!
//! Each record tells all that reading its chunk takes, so any run of whole records can be read by itself; the
//! footer tells where they are without reading the chunks between. It holds no offsets: records lie one behind
//! the other in its order, so there is nothing to overlap or to hide. `docs/formats.md` has the bytes.

pub mod assemble;
pub mod codec;
pub mod plan;
pub mod reader;
pub mod receive;
pub mod writer;

use crate::{Digest, Error, Result, chunk::MAX_CHUNK_BYTES};
use codec::Codec;

/// No pack is longer.
pub const MAX_PACK_BYTES: u64 = 64 << 20;

/// No pack has more chunks. Bounds an index to a few megabytes.
pub const MAX_RECORDS: usize = 1 << 16;

/// The chunks of one pack are not longer in sum, so that reading it costs what its size suggests.
pub const MAX_RAW_BYTES: u64 = 4 * MAX_PACK_BYTES;

const MAGIC: &[u8; 8] = b"EMPACK\0\0";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 12;
const RECORD_BYTES: u64 = 41;

/// Count of records, checksum of the footer, checksum of the pack.
const TAIL_BYTES: u64 = 20;

/// No footer with its tail is longer.
pub const MAX_FOOTER_BYTES: u64 = MAX_RECORDS as u64 * RECORD_BYTES + TAIL_BYTES;

/// What a pack says of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// How it is stored.
    pub codec: Codec,
    /// Bytes it takes in the pack.
    pub stored_bytes: u32,
    /// Bytes of the chunk.
    pub raw_bytes: u32,
    /// Of the chunk.
    pub digest: Digest,
}

impl Record {
    fn encode(&self) -> [u8; RECORD_BYTES as usize] {
        let mut bytes = [0; RECORD_BYTES as usize];
        bytes[0] = self.codec as u8;
        bytes[1..5].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes[5..9].copy_from_slice(&self.raw_bytes.to_le_bytes());
        bytes[9..].copy_from_slice(&self.digest.0);
        bytes
    }

    /// Checks all that a record alone can say wrong.
    fn decode(bytes: &[u8; RECORD_BYTES as usize]) -> Result<Self> {
        let [codec, s0, s1, s2, s3, r0, r1, r2, r3, digest @ ..] = *bytes;
        let codec = Codec::from_byte(codec)
            .ok_or_else(|| damaged(&format!("codec {codec} is not known")).hint("upgrade the package"))?;
        let (stored_bytes, raw_bytes) = (u32::from_le_bytes([s0, s1, s2, s3]), u32::from_le_bytes([r0, r1, r2, r3]));
        if raw_bytes == 0 || raw_bytes > MAX_CHUNK_BYTES {
            return Err(damaged("a chunk of a length that no chunker makes"));
        }
        let fits = match codec {
            Codec::Raw => stored_bytes == raw_bytes,
            _ => stored_bytes > 0 && stored_bytes < raw_bytes,
        };
        if !fits {
            return Err(damaged("a chunk stored in a length that its codec does not make"));
        }
        Ok(Self { codec, stored_bytes, raw_bytes, digest: Digest(digest) })
    }

    /// Bytes that the record and its chunk take in the pack.
    pub fn length(&self) -> u64 {
        RECORD_BYTES + u64::from(self.stored_bytes)
    }
}

fn damaged(what: &str) -> Error {
    Error::integrity(format!("not a pack: {what}"))
}
