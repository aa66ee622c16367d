//! Cuts at the tensors of a file's own index.
//!
//! The rule, exactly (`TensorV1`; a second implementation must give the same cuts):
//!
//! 1. Spans of length 0 are dropped; the others are sorted and disjoint. They and the bytes between
//!    them, in file order, are the *regions*; together they cover the object. The bytes before the first
//!    span are the head, those behind the last one the tail.
//! 2. Regions are joined to *units* from front to back. A region joins the open unit when it and the
//!    unit are both smaller than [`FLOOR_BYTES`], their sum is at most [`FLOOR_BYTES`], and neither of
//!    them is the head or the tail. Otherwise it opens a new unit.
//! 3. A unit is cut every [`BLOCK_BYTES`] from its start, as long as at least [`FLOOR_BYTES`] are left behind the
//!    cut; its last chunk is the rest.
//!
//! The head and the tail stay alone so that an edited header leaves every tensor's chunks as they are.
//! An object without bytes has no chunk.

use super::format::Span;
use super::{Carry, Chunker, ChunkerId};

/// Regions smaller than this share a chunk up to this size.
pub const FLOOR_BYTES: u64 = 64 << 10;

/// The size of the blocks inside a tensor.
pub const BLOCK_BYTES: u64 = 1 << 20;

const _: () = assert!(BLOCK_BYTES + FLOOR_BYTES <= super::MAX_CHUNK_BYTES as u64 && FLOOR_BYTES <= BLOCK_BYTES);

/// Cuts an object at its tensors. Holds 8 bytes for each unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Ascending ends of the units; the last one is the object's size.
    ends: Vec<u64>,
}

impl Tensor {
    /// A chunker for an object of `size_bytes` with these tensors.
    ///
    /// Spans are sorted here; bytes outside the object or already in an earlier span are not counted
    /// twice, so any input gives cuts that cover the object.
    pub fn new(mut spans: Vec<Span>, size_bytes: u64) -> Self {
        spans.retain(|span| span.length > 0);
        spans.sort_unstable_by_key(|span| (span.offset, span.length));
        let mut units = Units { ends: Vec::new(), end: 0, open: None };
        let mut head = true;
        for span in &spans {
            let start = span.offset.clamp(units.end, size_bytes);
            let end = span.offset.saturating_add(span.length).clamp(start, size_bytes);
            if end == start {
                continue;
            }
            units.push(start, !head);
            units.push(end, true);
            head = false;
        }
        units.push(size_bytes, false);
        Self { ends: units.finish() }
    }
}

/// Joins regions to units.
struct Units {
    ends: Vec<u64>,
    /// End of the newest region.
    end: u64,
    /// Start of the newest unit if a region may still join it.
    open: Option<u64>,
}

impl Units {
    fn push(&mut self, end: u64, may_share: bool) {
        let length = end.saturating_sub(self.end);
        if length == 0 {
            return;
        }
        let small = may_share && length < FLOOR_BYTES;
        match self.open {
            Some(start) if small && end - start <= FLOOR_BYTES && self.end - start < FLOOR_BYTES => {}
            _ => {
                if self.end > 0 {
                    self.ends.push(self.end);
                }
                self.open = small.then_some(self.end);
            }
        }
        self.end = end;
    }

    fn finish(mut self) -> Vec<u64> {
        if self.end > 0 {
            self.ends.push(self.end);
        }
        self.ends
    }
}

impl Chunker for Tensor {
    fn id(&self) -> ChunkerId {
        ChunkerId::TensorV1
    }

    fn candidates(&self, _block: &[u8]) -> Vec<u32> {
        Vec::new()
    }

    fn cuts(&self, carry: &mut Carry, offset: u64, block: &[u8], _candidates: &[u32], last: bool, cuts: &mut Vec<u64>) {
        let end = offset.saturating_add(block.len() as u64);
        let mut unit = self.ends.partition_point(|&unit_end| unit_end <= carry.start);
        loop {
            let step = carry.start.saturating_add(BLOCK_BYTES);
            let cut = match self.ends.get(unit) {
                Some(&unit_end) if unit_end < step.saturating_add(FLOOR_BYTES) => unit_end,
                _ => step,
            };
            if cut > end || cut == carry.start {
                break;
            }
            if self.ends.get(unit) == Some(&cut) {
                unit += 1;
            }
            carry.start = cut;
            cuts.push(cut);
        }
        if last && carry.start < end {
            carry.start = end;
            cuts.push(end);
        }
    }
}
