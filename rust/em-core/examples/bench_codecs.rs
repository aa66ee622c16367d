//! Ratio and speed of the codecs on one thread, beside zstd and with what a pack costs besides: hashing.
//!
//! `cargo run --release -p em-core --example bench_codecs`

#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use em_core::Digest;
use em_core::chunk::format::Dtype;
use em_core::pack::codec::{Codec, Decoder, Encoder, Layout};
use zstd::bulk::{Compressor, Decompressor};

const ROUNDS: usize = 7;
const DATA_BYTES: usize = 32 << 20;
const CHUNK_BYTES: usize = 1 << 20;

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn normal(state: &mut u64) -> f32 {
    let mut unit = || (next(state) >> 11) as f64 / (1u64 << 53) as f64;
    ((-2.0 * (1.0 - unit()).ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()) as f32
}

fn collect<const N: usize>(mut element: impl FnMut() -> [u8; N]) -> Vec<u8> {
    (0..DATA_BYTES / N).flat_map(|_| element()).collect()
}

fn bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    (((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16).to_le_bytes()
}

/// Round to nearest, of normal numbers of half precision.
fn f16(value: f32) -> [u8; 2] {
    let bits = value.to_bits() + 0x1000;
    let exponent = ((bits >> 23) & 0xff) as i32 - 112;
    let sign = (bits >> 16) as u16 & 0x8000;
    (if exponent > 0 { sign | (exponent as u16) << 10 | (bits >> 13) as u16 & 0x3ff } else { sign }).to_le_bytes()
}

/// Adam's two moments after 30 steps of normal gradients, whose size differs from row to row.
fn moments(state: &mut u64) -> (Vec<u8>, Vec<u8>) {
    let (mut first, mut second, mut scale) = (Vec::new(), Vec::new(), 0.0);
    for index in 0..DATA_BYTES / 4 {
        if index % 1024 == 0 {
            scale = 1e-4 * normal(state).exp();
        }
        let (mut m, mut v) = (0.0, 0.0);
        for _ in 0..30 {
            let gradient = scale * normal(state);
            m += 0.1 * (gradient - m);
            v += 0.001 * (gradient * gradient - v);
        }
        first.extend_from_slice(&f32::to_le_bytes(m));
        second.extend_from_slice(&f32::to_le_bytes(v));
    }
    (first, second)
}

fn text(state: &mut u64) -> Vec<u8> {
    let mut data = Vec::with_capacity(DATA_BYTES + 100);
    while data.len() < DATA_BYTES {
        let number = next(state);
        let (step, loss) = (number % 100_000, (number >> 32) % 10_000);
        data.extend_from_slice(format!("{{\"step\": {step}, \"loss\": 0.{loss:04}, \"epoch\": 3}}\n").as_bytes());
    }
    data.truncate(DATA_BYTES);
    data
}

/// Token numbers with the frequencies of words: the n-th is drawn in proportion to 1/n.
fn tokens(state: &mut u64) -> Vec<u8> {
    collect(|| {
        let unit = (next(state) >> 11) as f64 / (1u64 << 53) as f64;
        (50_000f64.powf(unit) as i64).to_le_bytes()
    })
}

#[derive(Default)]
struct Figures {
    stored: usize,
    encode_s: Vec<f64>,
    decode_s: Vec<f64>,
}

impl Figures {
    /// One round: each chunk is encoded, decoded and compared.
    fn round(
        &mut self,
        data: &[u8],
        encode: &mut dyn FnMut(&[u8], &mut Vec<u8>),
        decode: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        let (mut encode_s, mut decode_s, mut stored) = (0.0, 0.0, Vec::new());
        self.stored = 0;
        for chunk in data.chunks(CHUNK_BYTES) {
            stored.clear();
            let begin = Instant::now();
            encode(black_box(chunk), &mut stored);
            encode_s += begin.elapsed().as_secs_f64();
            let begin = Instant::now();
            let same = decode(black_box(&stored), chunk);
            decode_s += begin.elapsed().as_secs_f64();
            assert!(same);
            self.stored += stored.len();
        }
        self.encode_s.push(encode_s);
        self.decode_s.push(decode_s);
    }

    fn print(&mut self, kind: &str, name: &str) {
        let speed = |seconds: &mut Vec<f64>| {
            seconds.sort_by(f64::total_cmp);
            DATA_BYTES as f64 / seconds[seconds.len() / 2] / 1e9
        };
        let ratio = self.stored as f64 / DATA_BYTES as f64;
        let (encode, decode) = (speed(&mut self.encode_s), speed(&mut self.decode_s));
        println!("| {kind} | {name} | {ratio:.3} | {encode:.2} | {decode:.2} |");
    }
}

/// Every contender runs once in each round, so that a slow minute hits all of them.
fn print_kind(kind: &str, data: &[u8], dtype: Option<Dtype>) {
    let layout = dtype.and_then(|dtype| Layout::of(dtype, 0));
    let mut figures: [Figures; 5] = Default::default();
    let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
    let mut back = vec![0; CHUNK_BYTES];
    let mut ours = |figures: &mut Figures, layout: Option<Layout>| {
        let mut codec = Codec::Raw;
        let codec = std::cell::Cell::from_mut(&mut codec);
        figures.round(data, &mut |chunk, out| codec.set(encoder.encode(chunk, layout, out)), &mut |stored, chunk| {
            black_box(decoder.decode(codec.get(), stored, chunk.len() as u32).unwrap()).len() == chunk.len()
        });
    };
    for _ in 0..ROUNDS {
        ours(&mut figures[0], layout);
        ours(&mut figures[1], None);
        for (index, level) in [(2, 1), (3, 3)] {
            let (mut compressor, mut decompressor) = (Compressor::new(level).unwrap(), Decompressor::new().unwrap());
            let mut buffer = vec![0; 2 * CHUNK_BYTES];
            figures[index].round(
                data,
                &mut |chunk, out| {
                    let length = compressor.compress_to_buffer(chunk, &mut buffer[..]).unwrap();
                    out.extend_from_slice(&buffer[..length]);
                },
                &mut |stored, chunk| decompressor.decompress_to_buffer(stored, &mut back[..]).unwrap() == chunk.len(),
            );
        }
        figures[4].round(data, &mut |chunk, out| out.extend_from_slice(chunk), &mut |stored, _| {
            black_box(Digest::of(stored)).0 != [0; 32]
        });
    }
    for (figures, name) in figures.iter_mut().zip(["by dtype", "by probe", "zstd -1", "zstd -3", "copy, hash"]) {
        if name != "by dtype" || dtype.is_some() {
            figures.print(kind, name);
        }
    }
}

fn main() {
    let mut state = 42;
    println!("| data | codec | stored / raw | encode GB/s | decode GB/s |");
    println!("|---|---|---|---|---|");
    let state = &mut state;
    let weights = collect(|| bf16(0.02 * normal(state)));
    print_kind("BF16 weights", &weights, Some(Dtype::Bf16));
    print_kind("BF16 weights, odd start", &weights[1..], None);
    print_kind("FP16 weights", &collect(|| f16(0.02 * normal(state))), Some(Dtype::F16));
    print_kind("FP32 weights", &collect(|| (0.02 * normal(state)).to_le_bytes()), Some(Dtype::F32));
    print_kind(
        "FP64 weights",
        &collect(|| (0.02 * f64::from(normal(state)) * std::f64::consts::PI).to_le_bytes()),
        Some(Dtype::F64),
    );
    let (first, second) = moments(state);
    print_kind("Adam, first moment", &first, Some(Dtype::F32));
    print_kind("Adam, second moment", &second, Some(Dtype::F32));
    print_kind(
        "FP32 of BF16",
        &collect(|| {
            let [low, high] = bf16(0.02 * normal(state));
            [0, 0, low, high]
        }),
        Some(Dtype::F32),
    );
    print_kind("tokens, int64", &tokens(state), Some(Dtype::I64));
    print_kind("text", &text(state), None);
    print_kind("random", &collect(|| next(state).to_le_bytes()), None);
    print_kind("zeros", &vec![0; DATA_BYTES], None);
}
