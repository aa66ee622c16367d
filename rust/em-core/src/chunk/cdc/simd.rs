//! The candidate scan, once per instruction set.
//!
//! All of them load the words at even and at odd offsets apart, so that one vector holds the sums of every
//! second position, and leave the rare survivors of the prefilter to the same scalar hash.

use super::{FINISH, HASH, HASH_BELOW, PREFILTER, PREFILTER_AT, PREFILTER_BELOW, WINDOW_BYTES};

/// An instruction set the scan is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, on every CPU.
    Portable,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX-512 F and BW.
    Avx512,
    /// AArch64, little-endian.
    Neon,
}

impl Isa {
    /// All of them, slowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512];

    /// Whether this CPU has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Neon => true,
            #[allow(unreachable_patterns, reason = "which arms come before depends on the target")]
            _ => false,
        }
    }

    pub(super) fn best() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Self::Portable)
    }
}

/// Appends the candidates of `block` to `found`. `isa` Must be available.
pub(super) fn scan(isa: Isa, block: &[u8], found: &mut Vec<u32>) {
    let next = match isa {
        // SAFETY: a `Cdc` holds an available instruction set only.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::scan_avx2(block, found) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::scan_avx512(block, found) },
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        Isa::Neon => neon::scan(block, found),
        _ => scan_portable(block, found),
    };
    for position in next..=block.len() {
        if passes_prefilter(block, position) {
            keep_if_hash(block, position, found);
        }
    }
}

/// Positions of one parity in a group of the portable scan: two SSE2 registers of sums.
const LANES: usize = 16;

/// Scans whole groups of positions and returns the first position it did not reach, as its siblings do.
fn scan_portable(block: &[u8], found: &mut Vec<u32>) -> usize {
    let mut position = WINDOW_BYTES;
    while let Some(bytes) = block.get(position - WINDOW_BYTES..).and_then(<[u8]>::first_chunk) {
        if any_passes(bytes) {
            for survivor in (position..position + 2 * LANES).filter(|&at| passes_prefilter(block, at)) {
                keep_if_hash(block, survivor, found);
            }
        }
        position += 2 * LANES;
    }
    position
}

/// Arrays of fixed length and no branch: compilers turn this into vector code.
#[inline]
fn any_passes(bytes: &[u8; 2 * LANES + WINDOW_BYTES - 1]) -> bool {
    let mut any = [0u16; LANES];
    for parity in 0..2 {
        let mut sums = [0u16; LANES];
        for (factor, at) in PREFILTER.iter().zip(PREFILTER_AT) {
            let (words, _) = bytes[parity + at..][..2 * LANES].as_chunks::<2>();
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = sum.wrapping_add(u16::from_le_bytes(*word).wrapping_mul(*factor));
            }
        }
        for lane in 0..LANES {
            any[lane] |= u16::from(sums[lane].cast_signed() < PREFILTER_BELOW);
        }
    }
    any.iter().fold(0, |any, lane| any | lane) != 0
}

fn passes_prefilter(block: &[u8], position: usize) -> bool {
    let window = &block[position - WINDOW_BYTES..position];
    let term = |(factor, at): (&u16, usize)| u16::from_le_bytes([window[at], window[at + 1]]).wrapping_mul(*factor);
    PREFILTER.iter().zip(PREFILTER_AT).map(term).fold(0, u16::wrapping_add).cast_signed() < PREFILTER_BELOW
}

#[inline]
fn keep_if_hash(block: &[u8], position: usize, found: &mut Vec<u32>) {
    let (words, _) = block[position - WINDOW_BYTES..position].as_chunks::<8>();
    let terms = words.iter().zip(HASH).map(|(word, factor)| u64::from_le_bytes(*word).wrapping_mul(factor));
    let sum = terms.fold(0, u64::wrapping_add);
    if (sum ^ (sum >> 32)).wrapping_mul(FINISH) < HASH_BELOW {
        found.extend(u32::try_from(position));
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use std::arch::x86_64::*;

    /// # Safety
    /// The CPU Must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn scan_avx2(block: &[u8], found: &mut Vec<u32>) -> usize {
        let below = _mm256_set1_epi16(PREFILTER_BELOW);
        let mut position = WINDOW_BYTES;
        while let Some(bytes) = block.get(position - WINDOW_BYTES..position + 31) {
            let mut sums = [_mm256_setzero_si256(); 2];
            for (parity, sum) in sums.iter_mut().enumerate() {
                for (factor, at) in PREFILTER.iter().zip(PREFILTER_AT) {
                    // SAFETY: `bytes` is 43 long and the last load ends at 1 + 2 * 5 + 32.
                    let words = unsafe { _mm256_loadu_si256(bytes.as_ptr().add(parity + at).cast()) };
                    let term = _mm256_mullo_epi16(words, _mm256_set1_epi16(factor.cast_signed()));
                    *sum = _mm256_add_epi16(*sum, term);
                }
            }
            let [even, odd] = sums.map(|sum| _mm256_cmpgt_epi16(below, sum));
            if _mm256_testz_si256(_mm256_or_si256(even, odd), _mm256_set1_epi8(-1)) == 0 {
                // Both masks have two equal bits a lane: interleave one of each.
                let even = _mm256_movemask_epi8(even).cast_unsigned() & 0x5555_5555;
                let odd = _mm256_movemask_epi8(odd).cast_unsigned() & 0xaaaa_aaaa;
                keep_mask(block, position, u64::from(even | odd), found);
            }
            position += 32;
        }
        position
    }

    /// # Safety
    /// The CPU Must have AVX-512 F and BW.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn scan_avx512(block: &[u8], found: &mut Vec<u32>) -> usize {
        let below = _mm512_set1_epi16(PREFILTER_BELOW);
        let mut position = WINDOW_BYTES;
        while let Some(bytes) = block.get(position - WINDOW_BYTES..position + 63) {
            let mut sums = [_mm512_setzero_si512(); 2];
            for (parity, sum) in sums.iter_mut().enumerate() {
                for (factor, at) in PREFILTER.iter().zip(PREFILTER_AT) {
                    // SAFETY: `bytes` is 75 long and the last load ends at 1 + 2 * 5 + 64.
                    let words = unsafe { _mm512_loadu_si512(bytes.as_ptr().add(parity + at).cast()) };
                    let term = _mm512_mullo_epi16(words, _mm512_set1_epi16(factor.cast_signed()));
                    *sum = _mm512_add_epi16(*sum, term);
                }
            }
            let [even, odd] = sums.map(|sum| _mm512_cmplt_epi16_mask(sum, below));
            if even | odd != 0 {
                let even = _mm512_movepi8_mask(_mm512_movm_epi16(even)) & 0x5555_5555_5555_5555;
                let odd = _mm512_movepi8_mask(_mm512_movm_epi16(odd)) & 0xaaaa_aaaa_aaaa_aaaa;
                keep_mask(block, position, even | odd, found);
            }
            position += 64;
        }
        position
    }

    #[inline]
    fn keep_mask(block: &[u8], position: usize, mut mask: u64, found: &mut Vec<u32>) {
        while mask != 0 {
            keep_if_hash(block, position + mask.trailing_zeros() as usize, found);
            mask &= mask - 1;
        }
    }
}

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon {
    use super::*;
    use std::arch::aarch64::*;

    pub(super) fn scan(block: &[u8], found: &mut Vec<u32>) -> usize {
        let mut position = WINDOW_BYTES;
        while let Some(bytes) = block.get(position - WINDOW_BYTES..position + 15) {
            // SAFETY: NEON is part of AArch64; `bytes` is 27 long and the last load ends at 1 + 2 * 5 + 16.
            let any = unsafe {
                let mut sums = [vdupq_n_u16(0); 2];
                for (parity, sum) in sums.iter_mut().enumerate() {
                    for (factor, at) in PREFILTER.iter().zip(PREFILTER_AT) {
                        let words = vreinterpretq_u16_u8(vld1q_u8(bytes.as_ptr().add(parity + at)));
                        *sum = vmlaq_u16(*sum, words, vdupq_n_u16(*factor));
                    }
                }
                let below = vdupq_n_s16(PREFILTER_BELOW);
                let [even, odd] = sums.map(|sum| vcltq_s16(vreinterpretq_s16_u16(sum), below));
                vmaxvq_u16(vorrq_u16(even, odd)) != 0
            };
            if any {
                for survivor in (position..position + 16).filter(|&at| passes_prefilter(block, at)) {
                    keep_if_hash(block, survivor, found);
                }
            }
            position += 16;
        }
        position
    }
}
