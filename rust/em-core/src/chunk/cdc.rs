//! Content-defined chunks, version 1: min 16 KiB, mean about 64 KiB, max 256 KiB.
//!
//! # Definition
//!
//! Position `p` of an object means a cut after its first `p` bytes. With `b` the bytes of the object,
//! all numbers little-endian and all sums and products wrapping, `p >= 64` is a *candidate* when both hold:
//!
//! 1. Prefilter, 16 bits: `s = sum(PREFILTER[i] * u16(b[a .. a+2]))` with `a = p - 64 + PREFILTER_AT[i]` for `i` in
//!    `0..6`; read as a two's-complement number `s < PREFILTER_BELOW` (its high byte is `0x80`).
//! 2. Hash, 64 bits: `h = sum(HASH[i] * u64(b[p-64+8i .. p-56+8i]))` for `i` in `0..8`;
//!    `(h ^ (h >> 32)) * FINISH < HASH_BELOW`, unsigned.
//!
//! Cuts are then chosen from left to right. From the cut before (at first 0) the next one is the first
//! candidate at a distance in `MIN_BYTES..=MAX_BYTES`, else the position at `MAX_BYTES`, else the end of the
//! object. So only the last chunk may be shorter than `MIN_BYTES`, and an empty object has no cut.
//!
//! # Constants
//!
//! Outputs of splitmix64 (Steele, Lea, Flood 2014) from seed 2: the high 16 bits of outputs 1 to 6, then all of
//! outputs 7 to 15, each with the lowest bit set. 2 is the smallest seed whose prefilter turns down every
//! constant byte and the usual constant arrays (0.5, 1, -1 and 2 as float16, bfloat16, float32 and float64,
//! the integers 1 and -100): such data gives chunks of `MAX_BYTES` rather than a flood of candidates.
//! The six words of the prefilter are spread over the window: in text, twelve bytes in a row are so often the same
//! that the scan found too few candidates and kept a fifth less after edits than it does now.
//! One position in 256 passes the prefilter, one in 193.35 of those the hash: one in 49 497, and
//! `16 KiB + 49 497 * (1 - exp(-240 KiB / 49 497))` is 64 KiB.

mod simd;

use super::{Carry, Chunker, ChunkerId};
pub use simd::Isa;

/// Only the last chunk of an object is shorter.
pub const MIN_BYTES: u64 = 16 << 10;
/// No chunk is longer.
pub const MAX_BYTES: u64 = 256 << 10;
/// How many bytes before a position decide whether it is a candidate.
pub const WINDOW_BYTES: usize = 64;

const PREFILTER: [u16; 6] = [0x9759, 0xbfc9, 0x987b, 0xc3f3, 0x4fc5, 0x58bd];
const PREFILTER_AT: [usize; 6] = [0, 13, 26, 37, 50, 62];
const PREFILTER_BELOW: i16 = i16::MIN + 256;
const HASH: [u64; 8] = [
    0xb9f24f7bae4a6587,
    0xbd34d3aef603e583,
    0x401478bc5887ccff,
    0xba450a33ef6ff86d,
    0x56e84498e8b0e635,
    0x701560ad31bb9977,
    0x8e4858b561b10361,
    0x5fb1940eb8cbf1af,
];
const FINISH: u64 = 0xee979f2730a45df3;
const HASH_BELOW: u64 = 0x0152_f3a9_0c55_0c80;

/// The content-defined chunker. Every instruction set gives the same cuts.
#[derive(Clone, Copy, Debug)]
pub struct Cdc {
    isa: Isa,
}

impl Cdc {
    /// Uses the fastest instruction set of this CPU.
    pub fn new() -> Self {
        Self { isa: Isa::best() }
    }

    /// For tests and benchmarks; `None` when this CPU lacks `isa`.
    #[doc(hidden)]
    pub fn with_isa(isa: Isa) -> Option<Self> {
        isa.is_available().then_some(Self { isa })
    }
}

impl Default for Cdc {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunker for Cdc {
    fn id(&self) -> ChunkerId {
        ChunkerId::CdcV1
    }

    /// Judges the positions with a whole window inside `block`, which Must be shorter than 4 GiB:
    /// a later position has no `u32`.
    fn candidates(&self, block: &[u8]) -> Vec<u32> {
        let mut found = Vec::with_capacity(block.len() / (32 << 10));
        simd::scan(self.isa, block, &mut found);
        found
    }

    fn cuts(&self, carry: &mut Carry, offset: u64, block: &[u8], candidates: &[u32], last: bool, cuts: &mut Vec<u64>) {
        // The windows that begin before the block: none is whole without the tail.
        let head = block.get(..WINDOW_BYTES - 1).unwrap_or(block);
        let seam = [carry.tail.as_slice(), head].concat();
        let mut across = Vec::new();
        simd::scan(Isa::Portable, &seam, &mut across);
        let seam_start = offset.saturating_sub(carry.tail.len() as u64);

        let across = across.iter().map(|&position| seam_start + u64::from(position));
        let inside = candidates.iter().map(|&position| offset + u64::from(position));
        for candidate in across.chain(inside) {
            cut_at_max(&mut carry.start, candidate, cuts);
            if candidate.saturating_sub(carry.start) >= MIN_BYTES {
                carry.start = candidate;
                cuts.push(candidate);
            }
        }
        let end = offset + block.len() as u64;
        cut_at_max(&mut carry.start, end, cuts);
        if last && carry.start < end {
            carry.start = end;
            cuts.push(end);
        }
        keep_tail(&mut carry.tail, block);
    }
}

/// Cuts at the longest length until what is left before `end` is shorter.
fn cut_at_max(start: &mut u64, end: u64, cuts: &mut Vec<u64>) {
    while end.saturating_sub(*start) >= MAX_BYTES {
        *start += MAX_BYTES;
        cuts.push(*start);
    }
}

/// Leaves the last `WINDOW_BYTES - 1` bytes of `tail` and `block` together in `tail`.
fn keep_tail(tail: &mut Vec<u8>, block: &[u8]) {
    const KEEP: usize = WINDOW_BYTES - 1;
    let from_block = &block[block.len().saturating_sub(KEEP)..];
    let surplus = (tail.len() + from_block.len()).saturating_sub(KEEP);
    tail.drain(..surplus.min(tail.len()));
    tail.extend_from_slice(from_block);
}
