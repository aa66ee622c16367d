//! Codecs: every kind of element there and back, the choice between them, lying frames.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use em_core::{
    Kind,
    chunk::{MAX_CHUNK_BYTES, format::Dtype},
    pack::codec::{
        Codec, Decoder, Encoder, Layout,
        split::{Element, Isa, merge, split},
    },
};
use proptest::prelude::*;

const DTYPES: [Dtype; 17] = [
    Dtype::Bool,
    Dtype::U8,
    Dtype::I8,
    Dtype::U16,
    Dtype::I16,
    Dtype::F16,
    Dtype::Bf16,
    Dtype::U32,
    Dtype::I32,
    Dtype::F32,
    Dtype::U64,
    Dtype::I64,
    Dtype::F64,
    Dtype::F8,
    Dtype::C64,
    Dtype::C128,
    Dtype::Quantized,
];

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn random(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    (0..bytes.div_ceil(8)).flat_map(|_| next(&mut state).to_le_bytes()).take(bytes).collect()
}

/// Weights of a standard deviation of 0.02, as the sum of twelve uniform numbers.
fn weights(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed;
    let mut unit = || (next(&mut state) >> 11) as f64 / (1u64 << 53) as f64;
    (0..count).map(|_| 0.02 * ((0..12).map(|_| unit()).sum::<f64>() - 6.0)).collect()
}

fn bf16(seed: u64, count: usize) -> Vec<u8> {
    weights(seed, count).iter().flat_map(|w| ((*w as f32).to_bits() >> 16).to_le_bytes()[..2].to_vec()).collect()
}

fn f16(seed: u64, count: usize) -> Vec<u8> {
    let half = |w: f64| {
        let (bits, exponent) = ((w as f32).to_bits(), (w as f32).to_bits() >> 23 & 0xff);
        let magnitude = if exponent < 113 { 0 } else { (exponent - 112) << 10 | (bits >> 13 & 0x3ff) };
        ((bits >> 16 & 0x8000 | magnitude) as u16).to_le_bytes()
    };
    weights(seed, count).into_iter().flat_map(half).collect()
}

fn f32s(seed: u64, count: usize) -> Vec<u8> {
    weights(seed, count).iter().flat_map(|w| (*w as f32).to_le_bytes()).collect()
}

fn f64s(seed: u64, count: usize) -> Vec<u8> {
    weights(seed, count).iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn integers(seed: u64, count: usize) -> Vec<u8> {
    random(seed, count * 8).chunks_exact(8).flat_map(|b| (u64::from(b[0]) * u64::from(b[1])).to_le_bytes()).collect()
}

fn text(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let line = |_| format!("step {} loss 0.{:03}\n", next(&mut state) % 1000, next(&mut state) % 1000).into_bytes();
    (0..bytes / 16 + 1).flat_map(line).take(bytes).collect()
}

/// One of the kinds of data above, of about `bytes` bytes.
fn data(kind: usize, seed: u64, bytes: usize) -> Vec<u8> {
    match kind {
        0 => random(seed, bytes),
        1 => bf16(seed, bytes / 2),
        2 => f32s(seed, bytes / 4),
        3 => f64s(seed, bytes / 8),
        4 => integers(seed, bytes / 8),
        5 => text(seed, bytes),
        6 => vec![seed as u8; bytes],
        7 => random(seed, 100).into_iter().cycle().take(bytes).collect(),
        _ => [text(seed, bytes / 3), bf16(seed, bytes / 6), random(seed, bytes / 3)].concat(),
    }
}
const KINDS: usize = 9;

struct Codecs {
    encoder: Encoder,
    decoder: Decoder,
}

impl Codecs {
    fn new() -> Self {
        Self { encoder: Encoder::new().unwrap(), decoder: Decoder::new().unwrap() }
    }

    /// Codec and stored bytes of a chunk, which comes back from them.
    fn store(&mut self, chunk: &[u8], layout: Option<Layout>) -> (Codec, Vec<u8>) {
        let mut out = b"before".to_vec();
        let codec = self.encoder.encode(chunk, layout, &mut out);
        let stored = out.split_off(6);
        assert_eq!(out, b"before");
        assert!(self.decoder.decode(codec, &stored, chunk.len() as u32).unwrap() == chunk, "{codec:?} {layout:?}");
        (codec, stored)
    }

    fn ratio(&mut self, chunk: &[u8], layout: Option<Layout>, codec: Codec) -> f64 {
        let (chosen, stored) = self.store(chunk, layout);
        assert_eq!(chosen, codec);
        stored.len() as f64 / chunk.len() as f64
    }
}

#[test]
fn weights_become_planes_by_type_and_by_probe_at_any_phase() {
    let mut codecs = Codecs::new();
    let chunks = [
        (Dtype::Bf16, bf16(1, 1 << 19), 0.67),
        (Dtype::F32, f32s(2, 1 << 18), 0.84),
        (Dtype::F64, f64s(3, 1 << 17), 0.89),
        (Dtype::I64, integers(4, 1 << 17), 0.25),
    ];
    for (dtype, chunk, expected) in chunks {
        let by_type = codecs.ratio(&chunk, Layout::of(dtype, 0), Codec::Planes);
        assert!(by_type <= expected, "{dtype:?} {by_type}");
        for start in 0..9 {
            let by_probe = codecs.ratio(&chunk[start..], None, Codec::Planes);
            assert!(by_probe <= by_type + 0.004, "{dtype:?} {start}: {by_probe}, by type {by_type}");
            let phase = 16 - start as u64;
            let by_phase = codecs.ratio(&chunk[start..], Layout::of(dtype, phase), Codec::Planes);
            assert!(by_phase <= by_type + 0.001, "{dtype:?} {start}: {by_phase}, by type {by_type}");
        }
    }
}

#[test]
fn numbers_of_every_width_become_planes_by_type() {
    let narrow = |width: usize| integers(5, 1 << 18).chunks_exact(8).flat_map(|b| b[..width].to_vec()).collect();
    let mut codecs = Codecs::new();
    let chunks: [(_, Vec<u8>, f64); 4] = [
        (Dtype::F16, f16(1, 1 << 18), 0.85),
        (Dtype::I16, narrow(2), 0.95),
        (Dtype::U32, narrow(4), 0.48),
        (Dtype::U64, narrow(8), 0.24),
    ];
    for (dtype, chunk, expected) in chunks {
        let ratio = codecs.ratio(&chunk, Layout::of(dtype, 0), Codec::Planes);
        assert!(ratio <= expected, "{dtype:?} {ratio}");
    }
}

#[test]
fn random_bytes_are_stored_as_they_are_and_text_as_a_frame() {
    let mut codecs = Codecs::new();
    for seed in 0..200 {
        let chunk = random(seed, 5000 + seed as usize * 300);
        assert_eq!(codecs.store(&chunk, None), (Codec::Raw, chunk));
    }
    assert!(codecs.ratio(&text(1, 300_000), None, Codec::Zstd) < 0.4);
    assert!(codecs.ratio(&vec![0; MAX_CHUNK_BYTES as usize], None, Codec::Zstd) < 0.001);
}

#[test]
fn a_wrong_type_costs_no_more_than_the_chunk() {
    let mut codecs = Codecs::new();
    for kind in 0..KINDS {
        for dtype in DTYPES {
            let chunk = data(kind, 7, 40_000);
            let (_, stored) = codecs.store(&chunk, Layout::of(dtype, 3));
            assert!(stored.len() <= chunk.len(), "{kind} {dtype:?}");
        }
    }
}

#[test]
fn equal_chunks_are_stored_in_equal_bytes() {
    for kind in 0..KINDS {
        let (chunk, mut codecs) = (data(kind, 7, 40_000), Codecs::new());
        let first = codecs.store(&chunk, None);
        codecs.store(&text(8, 70_000), None);
        assert!(codecs.store(&chunk, None) == first && Codecs::new().store(&chunk, None) == first, "{kind}");
    }
}

/// By the definition, element by element.
fn planes_of(element: Element, elements: &[u8]) -> Vec<u8> {
    let Element { width, rotated } = element;
    let mut planes = vec![0; elements.len()];
    for (index, bytes) in elements.chunks_exact(width).enumerate() {
        let mut bits: Vec<bool> = (0..8 * width).map(|bit| bytes[bit / 8] >> (bit % 8) & 1 == 1).collect();
        bits.rotate_right(rotated.into());
        for (bit, set) in bits.into_iter().enumerate() {
            planes[bit / 8 * (elements.len() / width) + index] |= u8::from(set) << (bit % 8);
        }
    }
    planes
}

fn assert_refused(codec: Codec, stored: &[u8], raw_bytes: u32, why: &str) {
    let error = Decoder::new().unwrap().decode(codec, stored, raw_bytes).map(<[u8]>::len).expect_err(why);
    assert_eq!(error.kind, Kind::Integrity, "{why}");
}

#[test]
fn a_frame_of_another_form_is_refused() {
    let chunk = text(1, 3000);
    let frame = zstd::bulk::compress(&chunk, 3).unwrap();
    let length = chunk.len() as u32;
    assert_eq!(Decoder::new().unwrap().decode(Codec::Zstd, &frame, length).unwrap(), chunk);
    let skippable = [&0x184d_2a50u32.to_le_bytes()[..], &3u32.to_le_bytes(), b"abc"].concat();
    let half = zstd::bulk::compress(&chunk[..1500], 3).unwrap();
    let other_half = zstd::bulk::compress(&chunk[1500..], 3).unwrap();
    let mut without_size = zstd::bulk::Compressor::new(3).unwrap();
    without_size.include_contentsize(false).unwrap();
    let unsized_frame = without_size.compress(&chunk).unwrap();
    let bomb = zstd::bulk::compress(&vec![0; 1 << 30], 3).unwrap();
    assert!(bomb.len() < 100_000);
    for (why, stored, raw_bytes) in [
        ("nothing", vec![], length),
        ("a byte behind it", [&frame[..], b"x"].concat(), length),
        ("a skippable frame behind it", [&frame[..], &skippable].concat(), length),
        ("a skippable frame before it", [&skippable[..], &frame].concat(), length),
        ("two frames", [half, other_half].concat(), length),
        ("no content size", unsized_frame, length),
        ("a longer chunk", frame.clone(), length - 1),
        ("a shorter chunk", frame.clone(), length + 1),
        ("no chunk", frame.clone(), 0),
        ("a chunk too long", frame.clone(), MAX_CHUNK_BYTES + 1),
        ("the longest claim", frame.clone(), u32::MAX),
        ("a bomb", bomb, MAX_CHUNK_BYTES),
    ] {
        assert_refused(Codec::Zstd, &stored, raw_bytes, why);
    }
    assert_refused(Codec::Raw, b"abc", 2, "raw, shorter");
    assert_refused(Codec::Raw, b"abc", 4, "raw, longer");
}

#[test]
fn planes_of_another_form_are_refused() {
    // Three elements of two bytes behind one byte, a byte behind them, no plane compressed.
    let good = [&[1, 1][..], &3u32.to_le_bytes(), &3u32.to_le_bytes(), b"h", b"ace", b"bdf", b"t"].concat();
    assert_eq!(Decoder::new().unwrap().decode(Codec::Planes, &good, 8).unwrap(), b"habcdeft");
    for end in 0..good.len() {
        assert_refused(Codec::Planes, &good[..end], 8, &format!("cut at {end}"));
    }
    for raw_bytes in (0..20).filter(|&bytes| bytes != 8) {
        assert_refused(Codec::Planes, &good, raw_bytes, &format!("{raw_bytes} bytes"));
    }
    let set = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    for (why, stored) in [
        ("one byte an element", set(0, &[0])),
        ("four bytes an element", set(0, &[2])),
        ("an unknown flag", set(0, &[9])),
        ("a phase of a whole element", set(1, &[2])),
        ("the longest plane", set(2, &u32::MAX.to_le_bytes())),
        ("a longer plane", set(2, &4u32.to_le_bytes())),
        ("a shorter plane", set(2, &2u32.to_le_bytes())),
        ("an empty plane", set(2, &0u32.to_le_bytes())),
        ("a byte behind it", [&good[..], b"x"].concat()),
    ] {
        assert_refused(Codec::Planes, &stored, 8, why);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn split_is_its_definition_on_every_instruction_set_and_merge_its_inverse(
        seed in any::<u64>(), count in 0..400usize, width in prop::sample::select(vec![2, 4, 8]), rotated: bool,
    ) {
        let element = Element { width, rotated };
        let elements = random(seed, count * width);
        let expected = planes_of(element, &elements);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut planes = vec![0; elements.len()];
            split(isa, element, &elements, &mut planes);
            prop_assert_eq!(&planes, &expected, "{:?}", isa);
            let slices: Vec<&[u8]> = (0..width).map(|plane| &planes[plane * count..][..count]).collect();
            let mut merged = vec![0; elements.len()];
            merge(isa, element, &slices, &mut merged);
            prop_assert_eq!(&merged, &elements, "{:?}", isa);
        }
    }

    #[test]
    fn every_chunk_comes_back(
        kind in 0..KINDS, seed in any::<u64>(), bytes in prop_oneof![1..200usize, 1..20_000usize, 1..300_000usize],
        start in 0..20usize, dtype in prop::option::of(prop::sample::select(DTYPES.to_vec())), phase in 0..16u64,
    ) {
        let data = data(kind, seed, bytes + 200);
        let chunk = &data[start..];
        let (codec, stored) = Codecs::new().store(chunk, dtype.and_then(|dtype| Layout::of(dtype, phase)));
        prop_assert!(stored.len() <= chunk.len());
        prop_assert!(codec != Codec::Raw || stored == chunk);
    }
}
