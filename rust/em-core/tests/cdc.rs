//! Content-defined chunks: every instruction set and every block size against a slow reference.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;

use em_core::chunk::cdc::{Cdc, Isa, MAX_BYTES, MIN_BYTES};
use em_core::chunk::{Carry, Chunker};
use proptest::prelude::*;

/// Steele, Lea, Flood 2014.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn random(bytes: usize) -> Vec<u8> {
    let mut numbers = SplitMix(1);
    let mut data: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| numbers.next().to_le_bytes()).collect();
    data.truncate(bytes);
    data
}

fn text(bytes: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "loss", "step", "the", "gradient", "0.125", "of", "epoch", "learning", "rate", "a", "model", "3e-4", "and",
        "batch", "weight", "eval",
    ];
    let mut numbers = SplitMix(2);
    let mut data = Vec::new();
    while data.len() < bytes {
        let number = numbers.next();
        data.extend_from_slice(WORDS[(number % 16) as usize].as_bytes());
        data.push(if number >> 60 == 0 { b'\n' } else { b' ' });
    }
    data.truncate(bytes);
    data
}

/// Sums of four random bytes as weights around zero, cut to their upper half as bfloat16 is.
fn bfloat16(bytes: usize) -> Vec<u8> {
    let mut numbers = SplitMix(3);
    let weight = |number: u64| {
        let sum: i32 = number.to_le_bytes()[..4].iter().map(|&byte| i32::from(byte)).sum();
        (((sum - 510) as f32 / 8192.0).to_bits() >> 16) as u16
    };
    (0..bytes / 2).flat_map(|_| weight(numbers.next()).to_le_bytes()).collect()
}

/// Members of random size: a header of 512 bytes that is mostly zero, a body, zeros up to 512.
fn tar(bytes: usize) -> Vec<u8> {
    let (mut numbers, bodies) = (SplitMix(4), random(1 << 20));
    let mut data = Vec::new();
    while data.len() < bytes {
        let size = (numbers.next() % 40_000) as usize;
        let from = (numbers.next() % 1_000_000) as usize;
        let header = format!("images/{:08}.jpg\0{size:011o}\0ustar\0", data.len());
        data.extend_from_slice(header.as_bytes());
        data.resize(data.len().next_multiple_of(512), 0);
        data.extend_from_slice(&bodies[from..from + size]);
        data.resize(data.len().next_multiple_of(512), 0);
    }
    data.truncate(bytes);
    data
}

/// Runs of each constant byte in turn, as in images and padded tensors, with noise between them.
fn runs(bytes: usize) -> Vec<u8> {
    let (mut numbers, noise) = (SplitMix(6), random(1 << 20));
    let mut data = Vec::new();
    for byte in (0..=255).cycle() {
        if data.len() >= bytes {
            break;
        }
        let number = numbers.next();
        data.resize(data.len() + (number % (32 << 10)) as usize, byte);
        let from = (number >> 32) as usize % 900_000;
        data.extend_from_slice(&noise[from..from + (number >> 16) as usize % (64 << 10)]);
    }
    data.truncate(bytes);
    data
}

/// The definition in the module's documentation, word by word.
fn reference_is_candidate(b: &[u8], p: usize) -> bool {
    const PREFILTER: [u64; 6] = [0x9759, 0xbfc9, 0x987b, 0xc3f3, 0x4fc5, 0x58bd];
    const AT: [usize; 6] = [0, 13, 26, 37, 50, 62];
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
    if p < 64 {
        return false;
    }
    let mut s = 0u64;
    for (i, factor) in PREFILTER.iter().enumerate() {
        let at = p - 64 + AT[i];
        s += factor * (u64::from(b[at]) + 256 * u64::from(b[at + 1]));
    }
    if (s % 65_536) / 256 != 0x80 {
        return false;
    }
    let mut h = 0u128;
    for (i, factor) in HASH.iter().enumerate() {
        let word = (0..8).rev().fold(0u128, |word, k| word * 256 + u128::from(b[p - 64 + 8 * i + k]));
        h += u128::from(*factor) * word % (1 << 64);
    }
    h %= 1 << 64;
    (h ^ (h >> 32)) * 0xee979f2730a45df3u128 % (1 << 64) < 0x0152f3a90c550c80
}

fn reference_cuts(b: &[u8]) -> Vec<u64> {
    let (mut cuts, mut start) = (Vec::new(), 0);
    for p in 1..=b.len() {
        let length = (p - start) as u64;
        if length == MAX_BYTES || p == b.len() || (length >= MIN_BYTES && reference_is_candidate(b, p)) {
            cuts.push(p as u64);
            start = p;
        }
    }
    cuts
}

fn cut(isa: Isa, data: &[u8], block_bytes: usize) -> Vec<u64> {
    let chunker = Cdc::with_isa(isa).unwrap();
    let (mut carry, mut cuts, mut offset) = (Carry::default(), Vec::new(), 0);
    while offset < data.len() || offset == 0 {
        let end = (offset + block_bytes).min(data.len());
        let block = &data[offset..end];
        let candidates = chunker.candidates(block);
        chunker.cuts(&mut carry, offset as u64, block, &candidates, end == data.len(), &mut cuts);
        if end == data.len() {
            break;
        }
        offset = end;
    }
    cuts
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

type Generate = fn(usize) -> Vec<u8>;

const KINDS: [(&str, Generate); 6] = [
    ("random", random),
    ("text", text),
    ("zero", |bytes| vec![0; bytes]),
    ("bfloat16", bfloat16),
    ("tar", tar),
    ("runs", runs),
];

#[test]
fn candidates_of_every_isa_equal_the_reference() {
    for (kind, generate) in KINDS {
        let data = generate(3 << 20);
        for skip in [0, 1, 7, 63] {
            let block = &data[skip..];
            let expected: Vec<u32> =
                (1..=block.len()).filter(|&p| reference_is_candidate(block, p)).map(|p| p as u32).collect();
            for isa in available() {
                assert_eq!(Cdc::with_isa(isa).unwrap().candidates(block), expected, "{kind} {isa:?} {skip}");
            }
        }
    }
}

#[test]
fn cuts_of_every_isa_and_block_size_equal_the_reference() {
    for (kind, generate) in KINDS {
        let data = generate((1 << 20) + 17);
        let expected = reference_cuts(&data);
        for isa in available() {
            for block_bytes in [1, 2, 31, 62, 63, 64, 65, 127, 1000, 4096, 65_537, 1 << 18, data.len()] {
                assert_eq!(cut(isa, &data, block_bytes), expected, "{kind} {isa:?} {block_bytes}");
            }
        }
    }
}

#[test]
fn constant_bytes_have_no_candidates_and_longest_chunks() {
    for byte in 0..=255 {
        for isa in available() {
            // All windows are the same, so a short block shows what a long one would.
            assert!(Cdc::with_isa(isa).unwrap().candidates(&[byte; 1000]).is_empty(), "{byte} {isa:?}");
        }
        let data = vec![byte; MAX_BYTES as usize + 5];
        let fastest = available().last().unwrap();
        assert_eq!(cut(fastest, &data, 100_000), [MAX_BYTES, MAX_BYTES + 5], "{byte}");
    }
}

#[test]
fn constant_arrays_have_no_candidates() {
    let one = [1f32, -1.0, 0.5, 2.0].map(f32::to_le_bytes);
    let patterns = one.iter().flat_map(|bytes| [bytes.to_vec(), bytes[2..].to_vec()]);
    let doubles = [1f64, -1.0, 0.5, 2.0].map(|value| value.to_le_bytes().to_vec());
    let integers = [1i64, -100].map(|value| value.to_le_bytes().to_vec());
    let halves = [0x3c00u16, 0xbc00, 0x3800, 0x4000].map(|bits| bits.to_le_bytes().to_vec());
    for pattern in patterns.chain(doubles).chain(integers).chain(halves) {
        assert!(Cdc::new().candidates(&pattern.repeat(1000)).is_empty(), "{pattern:?}");
    }
}

#[test]
fn empty_object_has_no_cut_and_short_object_one() {
    assert!(cut(Isa::Portable, &[], 10).is_empty());
    assert_eq!(cut(Isa::Portable, &[1], 10), [1]);
    assert_eq!(cut(Isa::Portable, &random(MIN_BYTES as usize), 4096), [MIN_BYTES]);
}

#[test]
fn random_data_has_chunks_of_64_kib_on_average() {
    let cuts = cut(Isa::Portable, &random(128 << 20), 1 << 20);
    let lengths: Vec<u64> = std::iter::once(0).chain(cuts.iter().copied()).zip(&cuts).map(|(a, b)| b - a).collect();
    let mean = (128 << 20) / lengths.len();
    assert!((61 << 10..67 << 10).contains(&mean), "{mean}");
    assert!(lengths.iter().all(|&length| length <= MAX_BYTES));
    assert!(lengths[..lengths.len() - 1].iter().all(|&length| length >= MIN_BYTES));
    let longest = lengths.iter().filter(|&&length| length == MAX_BYTES).count();
    assert!(longest * 50 < lengths.len(), "{longest} of {}", lengths.len());
}

/// The share of the bytes of `after` that lies in chunks of `before`, in per mille.
fn kept_per_mille(before: &[u8], after: &[u8]) -> usize {
    let chunks = |data| {
        let mut start = 0;
        let cuts = cut(available().last().unwrap(), data, 1 << 20).into_iter();
        cuts.map(move |cut| &data[std::mem::replace(&mut start, cut as usize)..cut as usize])
    };
    let known: HashSet<&[u8]> = chunks(before).collect();
    1000 * chunks(after).filter(|chunk| known.contains(chunk)).map(<[u8]>::len).sum::<usize>() / after.len()
}

/// Insertions and deletions of 1 to 1000 bytes and moves of 1 to 1000 KiB in random order, `count` of each.
fn edited(data: &[u8], count: usize) -> Vec<u8> {
    let (mut numbers, mut data) = (SplitMix(5), data.to_vec());
    let noise = random(1 << 20);
    let mut edits = ["insert", "delete", "move"].repeat(count);
    while let Some(edit) = (!edits.is_empty()).then(|| edits.swap_remove(numbers.next() as usize % edits.len())) {
        let at = numbers.next() as usize % (data.len() - (1 << 20));
        let bytes = 1 + numbers.next() as usize % 1000;
        match edit {
            "insert" => drop(data.splice(at..at, noise[at % 1000..][..bytes].iter().copied())),
            "delete" => drop(data.drain(at..at + bytes)),
            _ => {
                let moved: Vec<u8> = data.drain(at..at + (bytes << 10)).collect();
                let to = numbers.next() as usize % data.len();
                drop(data.splice(to..to, moved));
            }
        }
    }
    data
}

/// Each insertion or deletion costs a chunk or two, each move three ends of them: chunks that hold a random place are
/// 90 KiB long on average.
#[test]
fn most_bytes_are_kept_after_insertions_deletions_and_moves_in_any_order() {
    let kinds: [(&str, Generate, usize, usize); 4] = [
        ("random", random, 870, 530),
        ("text", text, 850, 530),
        ("bfloat16", bfloat16, 870, 520),
        ("tar", tar, 860, 460),
    ];
    for (kind, generate, few, many) in kinds {
        let before = generate(32 << 20);
        let kept = [5, 40].map(|count| kept_per_mille(&before, &edited(&before, count)));
        assert!(kept[0] >= few && kept[1] >= many, "{kind}: {kept:?} per mille");
    }
}

/// A change here is a new chunker version: old chunk tables name `CdcV1`.
#[test]
fn cuts_of_golden_objects_never_change() {
    let expected: [&str; KINDS.len()] = [
        "random 234 e1eab2fff0cb8c8c",
        "text 253 6c1948a7b7c71ec7",
        "zero 64 b938bf36763c279e",
        "bfloat16 242 9469f91f25768d14",
        "tar 202 dfa6b2454404c640",
        "runs 130 88ce6a6a60f5b34c",
    ];
    for ((kind, generate), expected) in KINDS.into_iter().zip(expected) {
        let data = generate(16 << 20);
        for isa in available() {
            let cuts = cut(isa, &data, 1 << 20);
            let bytes: Vec<u8> = cuts.iter().flat_map(|cut| cut.to_le_bytes()).collect();
            let found = format!("{kind} {} {:016x}", cuts.len(), xxhash_rust::xxh3::xxh3_64(&bytes));
            assert_eq!(found, expected, "{isa:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn cuts_do_not_depend_on_blocks_or_isa(
        kind in 0..KINDS.len(), bytes in 0usize..600_000, skip in 0usize..200, block_bytes in 1usize..300_000,
    ) {
        let data = &(KINDS[kind].1)(bytes + skip)[skip.min(bytes)..];
        let expected = reference_cuts(data);
        for isa in available() {
            prop_assert_eq!(cut(isa, data, block_bytes), expected.clone());
        }
    }
}
