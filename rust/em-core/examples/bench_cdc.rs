//! Speed of the content-defined chunker by instruction set, and what it keeps after edits, beside `fastcdc`.
//!
//! `cargo run --release -p em-core --example bench_cdc`

use std::collections::HashSet;
use std::hint::black_box;
use std::time::Instant;

use em_core::chunk::cdc::{Cdc, Isa};
use em_core::chunk::{Carry, Chunker};
use fastcdc::v2020::FastCDC;

const ROUNDS: usize = 7;
const SPEED_BYTES: usize = 256 << 20;
const EDIT_BYTES: usize = 64 << 20;
const BLOCK_BYTES: usize = 1 << 20;

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn random(state: &mut u64, bytes: usize) -> Vec<u8> {
    let mut data: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| next(state).to_le_bytes()).collect();
    data.truncate(bytes);
    data
}

fn text(state: &mut u64, bytes: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(bytes + 100);
    while data.len() < bytes {
        let number = next(state);
        let (step, loss) = (number % 100_000, (number >> 32) % 10_000);
        data.extend_from_slice(format!("{{\"step\": {step}, \"loss\": 0.{loss:04}, \"epoch\": 3}}\n").as_bytes());
    }
    data.truncate(bytes);
    data
}

fn cut_ours(chunker: Cdc, data: &[u8]) -> Vec<u64> {
    let (mut carry, mut cuts, mut offset) = (Carry::default(), Vec::new(), 0);
    for block in data.chunks(BLOCK_BYTES) {
        let last = offset + block.len() == data.len();
        chunker.cuts(&mut carry, offset as u64, block, &chunker.candidates(block), last, &mut cuts);
        offset += block.len();
    }
    cuts
}

fn cut_fastcdc(data: &[u8]) -> Vec<u64> {
    FastCDC::new(data, 16 << 10, 64 << 10, 256 << 10).map(|chunk| (chunk.offset + chunk.length) as u64).collect()
}

/// Makes every contender run once in each round, so that a slow minute hits all of them.
fn print_speed(kind: &str, data: &[u8]) {
    let mut copy = vec![0u8; data.len()];
    let isas: Vec<(String, Cdc)> =
        Isa::ALL.into_iter().filter_map(|isa| Some((format!("{isa:?}"), Cdc::with_isa(isa)?))).collect();
    let mut seconds = vec![Vec::new(); isas.len() + 2];
    for _ in 0..ROUNDS {
        let mut time = |contender: usize, run: &mut dyn FnMut()| {
            let begin = Instant::now();
            run();
            seconds[contender].push(begin.elapsed().as_secs_f64());
        };
        for (i, (_, chunker)) in isas.iter().enumerate() {
            time(i, &mut || drop(black_box(cut_ours(*chunker, black_box(data)))));
        }
        time(isas.len(), &mut || drop(black_box(cut_fastcdc(black_box(data)))));
        time(isas.len() + 1, &mut || black_box(&mut copy).copy_from_slice(black_box(data)));
    }
    let names = isas.iter().map(|(name, _)| name.as_str()).chain(["fastcdc", "memcpy"]);
    for (name, seconds) in names.zip(&mut seconds) {
        seconds.sort_by(f64::total_cmp);
        let speed = |seconds: f64| data.len() as f64 / seconds / 1e9;
        let (median, slow, fast) = (seconds[ROUNDS / 2], seconds[ROUNDS - 1], seconds[0]);
        println!("{kind:8} {name:9} {:6.2} GB/s  ({:.2} to {:.2})", speed(median), speed(slow), speed(fast));
    }
}

/// How long the chunks are, and how many were cut at the maximum.
fn distribution(cuts: &[u64]) -> String {
    let mut lengths: Vec<u64> = std::iter::once(&0).chain(cuts).zip(cuts).map(|(start, end)| end - start).collect();
    lengths.sort_unstable();
    let longest = lengths.iter().filter(|&&length| length == 256 << 10).count();
    let percentiles = [1, 10, 25, 50, 75, 90, 99]
        .map(|percent| format!("p{percent} {:.1}", lengths[lengths.len() * percent / 100] as f64 / 1024.0));
    let mean = cuts.last().map_or(0.0, |&end| end as f64 / lengths.len() as f64 / 1024.0);
    let at_maximum = 100.0 * longest as f64 / lengths.len() as f64;
    format!("{} chunks, mean {mean:.1} KiB, {}, {at_maximum:.2} % cut at 256", lengths.len(), percentiles.join(" "))
}

fn chunks<'a>(data: &'a [u8], cuts: &'a [u64]) -> impl Iterator<Item = (blake3::Hash, usize)> + 'a {
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    starts.zip(cuts).map(|(start, &end)| &data[start as usize..end as usize]).map(|c| (blake3::hash(c), c.len()))
}

/// The share of the bytes of `after` that lies in chunks `before` has.
fn kept(before: &[u8], after: &[u8], cut: impl Fn(&[u8]) -> Vec<u64>) -> f64 {
    let known: HashSet<_> = chunks(before, &cut(before)).map(|(hash, _)| hash).collect();
    let cuts = cut(after);
    let bytes: usize = chunks(after, &cuts).filter(|(hash, _)| known.contains(hash)).map(|(_, bytes)| bytes).sum();
    100.0 * bytes as f64 / after.len() as f64
}

/// `count` edits at random places, of 1 to 1000 bytes (moves: 1 to 1000 KiB).
fn edit(state: &mut u64, data: &[u8], kind: &str, count: usize) -> Vec<u8> {
    let mut data = data.to_vec();
    for _ in 0..count {
        let at = next(state) as usize % (data.len() - (2 << 20));
        let bytes = 1 + next(state) as usize % 1000;
        match kind {
            "insert" => drop(data.splice(at..at, random(state, bytes))),
            "delete" => drop(data.drain(at..at + bytes)),
            _ => {
                let moved: Vec<u8> = data.drain(at..at + (bytes << 10)).collect();
                let to = next(state) as usize % data.len();
                drop(data.splice(to..to, moved));
            }
        }
    }
    data
}

fn main() {
    type Generate = fn(&mut u64, usize) -> Vec<u8>;
    let mut state = 42;
    let generators: [(&str, Generate); 2] = [("random", random), ("text", text)];
    for (kind, generate) in generators {
        print_speed(kind, &generate(&mut state, SPEED_BYTES));
    }
    print_speed("zero", &vec![0; SPEED_BYTES]);
    for (kind, generate) in generators {
        let before = generate(&mut state, EDIT_BYTES);
        println!("{kind:8} ours    {}", distribution(&cut_ours(Cdc::new(), &before)));
        println!("{kind:8} fastcdc {}", distribution(&cut_fastcdc(&before)));
        for (edits, count) in [("insert", 20), ("insert", 200), ("delete", 20), ("delete", 200), ("move", 20)] {
            let after = edit(&mut state, &before, edits, count);
            let ours = kept(&before, &after, |data| cut_ours(Cdc::new(), data));
            let theirs = kept(&before, &after, cut_fastcdc);
            println!("{kind:8} {count:3} x {edits:6} keeps {ours:.2} %, fastcdc {theirs:.2} %");
        }
    }
}
