//! Packs of chunks of the store's objects.
//!
//! Which chunk goes into which pack is decided before any is read, from lengths alone. So a pack can be built by
//! any thread at any time, again after a failed transfer too, with the same bytes; and memory is one pack for each
//! thread that builds one.

use std::{collections::HashSet, fs::File, os::unix::fs::FileExt};

use super::{
    HEADER_BYTES, MAX_PACK_BYTES, MAX_RAW_BYTES, MAX_RECORDS, RECORD_BYTES, TAIL_BYTES, codec::Layout,
    writer::PackWriter,
};
use crate::{
    Digest, Error, Result,
    buffer::Buffer,
    cancel::Progress,
    chunk::{MAX_CHUNK_BYTES, WHOLE_BYTES, format},
    store::Store,
};

/// What a record takes besides its stored bytes, here and in the footer.
const OVERHEAD_BYTES: u64 = 2 * RECORD_BYTES;

/// A codec that saves nothing makes a little more than the chunk before that is seen.
const ENCODER_SLACK_BYTES: usize = 64;

/// The smallest limit of a plan: a pack that holds any one chunk.
pub const MIN_LIMIT_BYTES: u64 = HEADER_BYTES + MAX_CHUNK_BYTES as u64 + OVERHEAD_BYTES + TAIL_BYTES;

const _: () = assert!(MAX_PACK_BYTES <= MAX_RAW_BYTES);

/// A chunk to pack and where it lies.
#[derive(Clone, Copy, Debug)]
struct Part {
    object: Digest,
    offset: u64,
    digest: Digest,
    bytes: u32,
    layout: Option<Layout>,
}

/// A chunk of an object: where it begins, its digest, its bytes.
pub type Piece = (u64, Digest, u32);

/// The packs of some chunks of a store, none of them built. Holds about 120 bytes for each chunk.
#[derive(Clone, Debug)]
pub struct PackPlan {
    packs: Vec<Vec<Part>>,
}

/// A built pack.
#[derive(Clone, Debug)]
pub struct Built {
    /// The pack.
    pub bytes: Vec<u8>,
    /// Its chunks in order.
    pub chunks: Vec<Digest>,
    /// Bytes of its chunks.
    pub raw_bytes: u64,
}

impl PackPlan {
    /// Plans the packs of `wanted`: objects and chunks of them. Objects and chunks keep their order; a chunk that is
    /// wanted twice is packed once. No pack has more than `limit_bytes`, even if nothing compresses.
    ///
    /// Reads no chunk table, which may be long, and of each large object the index of its format.
    pub fn new(store: &Store, wanted: &[(Digest, Vec<Piece>)], limit_bytes: u64) -> Result<Self> {
        if !(MIN_LIMIT_BYTES..=MAX_PACK_BYTES).contains(&limit_bytes) {
            return Err(Error::invalid(format!("packs of at most {limit_bytes} bytes cannot be planned"))
                .hint(format!("use a limit from {MIN_LIMIT_BYTES} to {MAX_PACK_BYTES}")));
        }
        let mut plan = Self { packs: Vec::new() };
        let (mut seen, mut bytes) = (HashSet::new(), u64::MAX);
        for (object, pieces) in wanted {
            for part in parts(store, *object, pieces)? {
                if !seen.insert(part.digest) {
                    continue;
                }
                let part_bytes = OVERHEAD_BYTES + u64::from(part.bytes);
                bytes = bytes.saturating_add(part_bytes);
                match plan.packs.last_mut() {
                    Some(pack) if bytes <= limit_bytes && pack.len() < MAX_RECORDS => pack.push(part),
                    _ => {
                        plan.packs.push(vec![part]);
                        bytes = HEADER_BYTES + TAIL_BYTES + part_bytes;
                    }
                }
            }
        }
        Ok(plan)
    }

    /// How many packs there are.
    pub fn len(&self) -> usize {
        self.packs.len()
    }

    /// Whether no chunk is wanted.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// Builds pack number `index`. Every chunk is hashed from the buffer that is packed. An object that is wrong is
    /// moved to `trash/`; it is an `Integrity` error that names it, and so is a chunk table that is wrong.
    pub fn build(&self, store: &Store, index: usize) -> Result<Built> {
        self.build_in(Vec::new(), store, index)
    }

    /// Builds a pack in the memory of another.
    pub fn build_in(&self, mut memory: Vec<u8>, store: &Store, index: usize) -> Result<Built> {
        let parts = self.packs.get(index).ok_or_else(|| Error::invalid(format!("there is no pack {index}")))?;
        let raw_bytes: u64 = parts.iter().map(|part| u64::from(part.bytes)).sum();
        let most = HEADER_BYTES + raw_bytes + OVERHEAD_BYTES * parts.len() as u64 + TAIL_BYTES;
        memory.clear();
        memory.reserve(most as usize + ENCODER_SLACK_BYTES);
        let mut writer = PackWriter::new(memory);
        let mut open: Option<(Digest, File)> = None;
        let mut buffer = Buffer::take();
        for part in parts {
            let file = match &open {
                Some((object, file)) if *object == part.object => file,
                _ => &open.insert((part.object, store.open_object(part.object)?)).1,
            };
            let chunk = buffer.part(part.bytes as usize);
            let read = file.read_exact_at(chunk, part.offset);
            match read {
                Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
                    return Err(Error::io("read", &store.object_path(part.object), error));
                }
                Ok(()) if Digest::of(chunk) == part.digest => writer.push(part.digest, part.layout, chunk)?,
                _ => return Err(wrong(store, part.object)?),
            }
        }
        let chunks = parts.iter().map(|part| part.digest).collect();
        Ok(Built { bytes: writer.finish()?, chunks, raw_bytes })
    }
}

/// The chunks, with what the object's own index tells of their elements.
fn parts(store: &Store, object: Digest, pieces: &[Piece]) -> Result<Vec<Part>> {
    if pieces.is_empty() {
        return Ok(Vec::new());
    }
    let size = store.size(object)?;
    let layouts = match size > WHOLE_BYTES {
        true => Layouts { spans: format::index(&store.open_object(object)?, size).unwrap_or_default() },
        false => Layouts::default(),
    };
    let part = |&(offset, digest, bytes): &Piece| {
        let end = offset.checked_add(u64::from(bytes)).filter(|&end| end <= i64::MAX as u64);
        let Some(end) = end.filter(|_| (1..=MAX_CHUNK_BYTES).contains(&bytes)) else {
            return Err(Error::invalid(format!("object {object} has no chunk of {bytes} bytes at {offset}")));
        };
        let layout = layouts.of(offset, end);
        Ok(Part { object, offset, digest, bytes, layout })
    };
    pieces.iter().map(part).collect()
}

/// What a file's index tells of parts of it.
#[derive(Default)]
struct Layouts {
    spans: Vec<format::Span>,
}

impl Layouts {
    /// The layout of a part that lies in one tensor of a known type, or in several of one type without gaps.
    fn of(&self, start: u64, end: u64) -> Option<Layout> {
        let first = self.spans.partition_point(|span| span.offset + span.length <= start);
        let mut found = None;
        let mut covered = start;
        for span in self.spans.get(first..)? {
            if covered >= end {
                break;
            }
            if span.offset > covered {
                return None;
            }
            // To the next element of the span from the start of the part, in a width that divides 16.
            let phase = (span.offset + 16 - start % 16) % 16;
            let layout = Layout::of(span.dtype?, phase)?;
            if *found.get_or_insert(layout) != layout {
                return None;
            }
            covered = span.offset + span.length;
        }
        found.filter(|_| covered >= end)
    }
}

/// The error of an object a chunk of which was not as its table says.
fn wrong(store: &Store, object: Digest) -> Result<Error> {
    let path = store.object_path(object);
    if store.rehash(object, &Progress::default())? {
        return Ok(Error::integrity(format!("the chunk table of {} is wrong", path.display()))
            .hint(format!("remove {} and add the file again", store.table_path(object).display())));
    }
    Ok(store.damaged(object))
}
