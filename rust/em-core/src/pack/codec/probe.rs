//! What to do with bytes, judged from four kilobytes of them.
//!
//! The estimates are entropies of single bytes: of all, and of those at equal places of elements of 2, 4 and 8
//! bytes. Bytes that look random end the probe after one histogram, about 2 µs, whatever the chunk's size.

use super::{
    split::{Element, Isa, split},
    zstd::{Frames, Method},
};

/// Bytes of a sample.
pub const SAMPLE_BYTES: usize = 4 << 10;

/// A sample is taken in as many windows, spread over the bytes.
const WINDOWS: usize = 4;
const WINDOW_BYTES: usize = SAMPLE_BYTES / WINDOWS;

/// Shorter chunks are stored raw: a frame's header and a record would take what is saved.
const MIN_BYTES: usize = 64;

/// More bits a byte than this save too little for the time they take to read.
const MAX_BITS: f32 = 7.75;

/// Planes must save as many bits a byte over the bytes together. Text gains nothing, FP64 weights 0.6.
const MIN_GAIN_BITS: f32 = 0.25;

/// Where the elements of a chunk lie and whether they are floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// 1, 2, 4 or 8 bytes an element; the top bit of a float is its sign.
    pub element: Element,
    /// Bytes before the first whole element, less than the width.
    pub phase: usize,
}

/// What to do with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Store it as it is.
    Raw,
    /// One frame.
    Frame(Method),
    /// Planes of a width of 2, 4 or 8.
    Planes(Layout),
}

/// Estimates from samples. Holds a table of logarithms.
pub struct Probe {
    /// `c log2 c` of each count that a sample can have.
    weights: Box<[f32]>,
}

struct Sample {
    bytes: [u8; SAMPLE_BYTES],
    length: usize,
}

impl Sample {
    fn of(bytes: &[u8]) -> Self {
        let mut sample = Self { bytes: [0; SAMPLE_BYTES], length: bytes.len().min(SAMPLE_BYTES) };
        if bytes.len() <= SAMPLE_BYTES {
            sample.bytes[..bytes.len()].copy_from_slice(bytes);
            return sample;
        }
        let stride = (bytes.len() - WINDOW_BYTES) / (WINDOWS - 1);
        for (index, window) in sample.bytes.chunks_exact_mut(WINDOW_BYTES).enumerate() {
            // Elements keep their place in a window.
            let start = index * stride / 8 * 8;
            window.copy_from_slice(&bytes[start..start + WINDOW_BYTES]);
        }
        sample
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

type Counts = [u32; 256];

/// Four tables, because a count that waits for the same count before it is slow.
fn count(bytes: &[u8]) -> Counts {
    let mut tables = [[0; 256]; 4];
    let (groups, rest) = bytes.as_chunks::<4>();
    for group in groups {
        for (table, byte) in tables.iter_mut().zip(group) {
            table[usize::from(*byte)] += 1;
        }
    }
    for byte in rest {
        tables[0][usize::from(*byte)] += 1;
    }
    std::array::from_fn(|byte| tables.iter().map(|table| table[byte]).sum())
}

/// The chance, times 256, that two bytes are equal: 1 for random ones. Without bias for small samples.
fn collisions(counts: &Counts) -> f32 {
    let total: u64 = counts.iter().map(|&c| u64::from(c)).sum();
    let pairs: u64 = counts.iter().map(|&c| u64::from(c) * u64::from(c.saturating_sub(1))).sum();
    256.0 * pairs as f32 / (total * total.saturating_sub(1)).max(1) as f32
}

impl Probe {
    /// Computes the table.
    pub fn new() -> Self {
        let weight = |count: usize| if count == 0 { 0.0 } else { count as f32 * (count as f32).log2() };
        Self { weights: (0..=SAMPLE_BYTES).map(weight).collect() }
    }

    /// Bits that an entropy coder needs for a sample of these counts, with Miller and Madow's correction for the
    /// bytes that a small sample missed.
    fn bits(&self, counts: &Counts) -> f32 {
        let total: u32 = counts.iter().sum();
        let used = counts.iter().filter(|&&c| c > 0).count();
        let sum: f32 = counts.iter().map(|&c| self.weights[c as usize]).sum();
        self.weights[total as usize] - sum + used.saturating_sub(1) as f32 * std::f32::consts::LOG2_E / 2.0
    }

    /// What to do with `chunk`, whose elements `known` tells if the file's index does.
    pub fn choose(&self, chunk: &[u8], known: Option<Layout>, frames: &mut Frames) -> Choice {
        if chunk.len() < MIN_BYTES {
            return Choice::Raw;
        }
        let sample = Sample::of(chunk);
        let counts = count(sample.bytes());
        // Of a sample of random bytes, one in 10⁹ is above 1.05.
        if sample.length == SAMPLE_BYTES && collisions(&counts) < 1.05 {
            return Choice::Raw;
        }
        match known {
            Some(layout) if layout.element.width == 1 => match self.method(chunk, frames) {
                Some(method) => Choice::Frame(method),
                None => Choice::Raw,
            },
            Some(layout) if layout.element.rotated => Choice::Planes(layout),
            Some(layout) => self.planes_or_frame(&sample, layout, frames),
            None => match self.layout(&sample, self.bits(&counts)) {
                Some(layout) => self.planes_or_frame(&sample, layout, frames),
                None => Choice::Frame(Method::Search),
            },
        }
    }

    /// How to compress a plane, or bytes that are values of one byte; `None` if they look random. A search is tried
    /// on the sample where neighbours are equal more often than chance makes them, or where a code of whole bits a
    /// byte is too coarse.
    pub fn method(&self, plane: &[u8], frames: &mut Frames) -> Option<Method> {
        let sample = Sample::of(plane);
        let bytes = sample.bytes();
        let counts = count(bytes);
        let (bits, length) = (self.bits(&counts), bytes.len() as f32);
        if bits > MAX_BITS * length {
            return None;
        }
        let repeats = bytes.windows(2).filter(|pair| pair[0] == pair[1]).count() as f32 / length;
        let by_chance = collisions(&counts) / 256.0;
        if repeats > 1.25 * by_chance + 0.02 || bits < length {
            let limit = 0.9 * bits.max(length) / 8.0;
            if frames.compress(Method::Search, bytes, limit as usize).is_some() {
                return Some(Method::Search);
            }
        }
        Some(Method::Entropy)
    }

    /// The layout under which single bytes say clearly less than `bits`, if there is one.
    fn layout(&self, sample: &Sample, bits: f32) -> Option<Layout> {
        let mut best = (bits - MIN_GAIN_BITS * sample.length as f32, None);
        for width in [2, 4, 8] {
            let element = Element { width, rotated: false };
            let planes = self.plane_bits(sample, Layout { element, phase: 0 });
            // The wider of two that are as good finds its structure in the narrower one's planes.
            if planes.iter().sum::<f32>() < 0.98 * best.0 {
                best = (planes.iter().sum(), Some((element, planes)));
            }
        }
        let (plain_bits, Some((element, planes))) = best else { return None };
        // The byte of sign and exponent says least; the next element begins behind it.
        let plain = Layout { element, phase: 0 };
        let (top, _) = planes.iter().enumerate().take(element.width).min_by(|a, b| a.1.total_cmp(b.1))?;
        let rotated = Layout { element: Element { rotated: true, ..element }, phase: (top + 1) % element.width };
        let rotated_bits: f32 = self.plane_bits(sample, rotated).iter().sum();
        Some(if rotated_bits < 0.997 * plain_bits { rotated } else { plain })
    }

    /// Bits of each plane; those beyond the width are zero.
    fn plane_bits(&self, sample: &Sample, layout: Layout) -> [f32; 8] {
        let width = layout.element.width;
        let mut counts = [[0; 256]; 8];
        let mut planes = [0; WINDOW_BYTES];
        for window in sample.bytes().chunks(WINDOW_BYTES) {
            let elements = window.get(layout.phase..).unwrap_or_default();
            let elements = &elements[..elements.len() / width * width];
            if elements.is_empty() {
                continue;
            }
            let planes = &mut planes[..elements.len()];
            split(Isa::best(), layout.element, elements, planes);
            for (counts, plane) in counts.iter_mut().zip(planes.chunks_exact(elements.len() / width)) {
                for byte in plane {
                    counts[usize::from(*byte)] += 1;
                }
            }
        }
        counts.map(|counts| self.bits(&counts))
    }

    /// A plane that looks random is one of numbers. Where all planes can be compressed, as those of fixed-width text
    /// and tables can, a search over whole elements may find more.
    fn planes_or_frame(&self, sample: &Sample, layout: Layout, frames: &mut Frames) -> Choice {
        let width = layout.element.width;
        let planes = self.plane_bits(sample, layout);
        let plane_bytes = (sample.length / width) as f32;
        if planes.iter().any(|&bits| bits > MAX_BITS * plane_bytes) {
            return Choice::Planes(layout);
        }
        let limit = (planes.iter().sum::<f32>() / 8.0) as usize;
        match frames.compress(Method::Search, sample.bytes(), limit) {
            Some(_) => Choice::Frame(Method::Search),
            None => Choice::Planes(layout),
        }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Self::new()
    }
}
